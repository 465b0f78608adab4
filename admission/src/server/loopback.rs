//! A client of our own that asks our own listener as an API server would: over TLS, by the name of the Service, trusting
//! nothing but the authorities of the certificate that is served.
//!
//! A process that holds a certificate and listens may still be of no use, with a leaf that nobody will accept, say. Such
//! a process must not be ready.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, client::Resumption};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject as _};
use serde::Deserialize;
use shared::admin::Readiness;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::review::Endpoint;

/// Name of the readiness condition.
pub const CONDITION: &str = "listener";
/// Longest check.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const ANSWER: u64 = 64 * 1024;
/// How often to look whether another certificate is served.
const LOOK: Duration = Duration::from_millis(250);
/// How often to check while nothing changes.
const EVERY: Duration = Duration::from_mins(1);
/// When to check again after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How many failures in a row make a listener that worked before count as broken.
const FAILURES: u32 = 3;

/// Why the listener is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// The authorities of the certificate cannot be read.
    #[error("the bundle of authorities cannot be read: {0}")]
    Bundle(String),
    /// The name of the Service is no DNS name.
    #[error("{name:?} is no DNS name")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        source: InvalidDnsNameError,
    },
    /// Our TLS client cannot be set up.
    #[error("cannot set up a TLS client")]
    Tls(#[source] rustls::Error),
    /// There is no connection, no trust, or no answer.
    #[error("the listener does not answer: {0}")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("the listener does not answer in time")]
    Timeout,
    /// The answer is no review for us.
    #[error("the listener answers with something else: {0}")]
    Answer(String),
}

/// The certificate that is served, as far as the check needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Tells certificates apart.
    pub fingerprint: String,
    /// The authorities that clients trust, in PEM.
    pub bundle: Arc<str>,
}

/// The client.
#[derive(Clone, Debug)]
pub struct Loopback {
    address: SocketAddr,
    server_name: String,
    uid: String,
}

#[derive(Deserialize)]
struct Review {
    response: Response,
}

#[derive(Deserialize)]
struct Response {
    uid: String,
}

impl Loopback {
    pub(super) fn new(address: SocketAddr, server_name: String, uid: String) -> Self {
        Self { address, server_name, uid }
    }

    /// Asks once.
    pub async fn check(&self, bundle: &str) -> Result<(), LoopbackError> {
        let connector = connector(bundle)?;
        let name = ServerName::try_from(self.server_name.clone())
            .map_err(|source| LoopbackError::Name { name: self.server_name.clone(), source })?;
        timeout(PATIENCE, self.exchange(connector, name)).await.map_err(|_| LoopbackError::Timeout)?
    }

    async fn exchange(&self, connector: TlsConnector, name: ServerName<'static>) -> Result<(), LoopbackError> {
        // The deletion of a cluster is what nobody needs to look anything up for.
        let body = serde_json::json!({
            "apiVersion": super::envelope::VERSION,
            "kind": "AdmissionReview",
            "request": {"uid": self.uid, "operation": "DELETE", "dryRun": true},
        })
        .to_string();
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            Endpoint::ValidateCluster.path(),
            self.server_name,
            body.len()
        );
        let tcp = TcpStream::connect(self.address).await?;
        let mut stream = connector.connect(name, tcp).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.take(ANSWER).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let strange = || LoopbackError::Answer(answer.chars().take(200).collect());
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(strange)?;
        let review: Review = serde_json::from_str(body).map_err(|_| strange())?;
        if head.starts_with("HTTP/1.1 200 ") && review.response.uid == self.uid { Ok(()) } else { Err(strange()) }
    }

    /// Keeps the condition `listener` true to what the check says: asks whenever another certificate is served, and
    /// once a minute.
    pub async fn watch(
        self,
        served: impl Fn() -> Option<Served> + Send,
        readiness: Readiness,
        token: CancellationToken,
    ) {
        readiness.expect(CONDITION);
        let mut checked: Option<String> = None;
        let (mut next, mut failures, mut works) = (Instant::now(), 0, false);
        loop {
            if let Some(served) = served()
                && (checked.as_ref() != Some(&served.fingerprint) || Instant::now() >= next)
            {
                match self.check(&served.bundle).await {
                    Ok(()) => {
                        if !works {
                            tracing::info!(address = %self.address, "the listener answers over TLS");
                        }
                        (works, failures) = (true, 0);
                        (checked, next) = (Some(served.fingerprint), Instant::now() + EVERY);
                    }
                    Err(error) => {
                        failures += 1;
                        tracing::warn!(
                            error = shared::telemetry::chain(&error),
                            failures,
                            "the listener does not work"
                        );
                        // A leaf that is swapped during the check, or a busy moment, is no reason to leave the Service.
                        works &= failures < FAILURES;
                        (checked, next) = (Some(served.fingerprint), Instant::now() + AGAIN);
                    }
                }
                readiness.set(CONDITION, works);
            }
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

fn connector(bundle: &str) -> Result<TlsConnector, LoopbackError> {
    let unreadable = |error: &dyn std::fmt::Display| LoopbackError::Bundle(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(LoopbackError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A resumed session would prove nothing about the certificate.
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
