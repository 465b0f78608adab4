//! Connections of programs that run inside the network of a bed to a cluster's gateway.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use shared::pki::Certificate;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_postgres::{Client, NoTls, config::SslMode};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long a gateway may take to accept a connection and its first statement, or to carry one out.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// How long to wait after an attempt.
const AGAIN: Duration = Duration::from_millis(200);
/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// The message by which a PostgreSQL client asks for TLS: its length, and a number that stands for the question.
const ASKS_FOR_TLS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Where a gateway is, and as whom to speak to it.
#[derive(clap::Args)]
pub struct Gateway {
    /// Host of the gateway.
    #[arg(long)]
    host: String,
    /// Its port.
    #[arg(long, default_value_t = 5432)]
    port: u16,
    /// The superuser.
    #[arg(long, default_value = "postgres")]
    user: String,
    /// Its password.
    #[arg(long, env = "PGPASSWORD")]
    password: String,
    /// File with the authorities that may have signed the certificate of the gateway; without it nothing is encrypted.
    #[arg(long, requires = "verified_as")]
    trust: Option<PathBuf>,
    /// The name that the certificate has to be made out to.
    #[arg(long, requires = "trust")]
    verified_as: Option<String>,
}

impl Gateway {
    /// One connection.
    pub async fn connect(&self) -> Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).user(&self.user).password(&self.password).dbname("postgres");
        config.connect_timeout(ATTEMPT);
        if let (Some(trust), Some(name)) = (&self.trust, &self.verified_as) {
            let secured =
                tokio::time::timeout(ATTEMPT, self.secured(trust, name)).await.context("TLS takes too long")??;
            // What is below speaks TLS already.
            config.ssl_mode(SslMode::Disable);
            let (client, connection) = config.connect_raw(secured, NoTls).await.context("connecting through TLS")?;
            tokio::spawn(connection);
            return Ok(client);
        }
        let (client, connection) = config.connect(NoTls).await.context("connecting")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A stream to the gateway that has shown a certificate which is made out to `name` and signed by somebody in the file `trust`.
    async fn secured(&self, trust: &Path, name: &str) -> Result<TlsStream<TcpStream>> {
        let pem = fs::read_to_string(trust).with_context(|| format!("reading {}", trust.display()))?;
        let mut roots = RootCertStore::empty();
        for authority in Certificate::all(&pem)? {
            roots.add(CertificateDer::from(authority.der().to_vec())).context("an authority that nobody can trust")?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await.context("connecting")?;
        stream.write_all(&ASKS_FOR_TLS).await?;
        let answer = stream.read_u8().await.context("asking for TLS")?;
        ensure!(answer == b'S', "the gateway does without TLS: it says {:?}", char::from(answer));
        let name = ServerName::try_from(name.to_owned())?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("the gateway's certificate")
    }

    /// One try: a connection on which a statement works. A gateway that accepts and then says nothing ends the try, not whoever waits for it.
    async fn answering(&self, statement: &str, patience: Duration) -> Result<Client> {
        let attempt = async {
            let client = self.connect().await?;
            client.batch_execute(statement).await.context("first statement")?;
            Ok::<_, anyhow::Error>(client)
        };
        tokio::time::timeout(patience, attempt).await.context("the gateway accepts and does not answer")?
    }

    /// A connection on which a statement works, tried again for a minute; not so where the certificate proves nothing, which time does not mend.
    pub async fn settled(&self, statement: &str) -> Result<Client> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.answering(statement, PATIENCE).await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() < end && !proves_nothing(&error) => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether an attempt ended with what the other side had to say about itself in TLS.
fn proves_nothing(error: &anyhow::Error) -> bool {
    let of_tls =
        |error: &io::Error| error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>);
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(of_tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gateway_that_accepts_and_says_nothing_ends_a_try() {
        // The system accepts for it, and nobody takes the connection.
        let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let gateway = Gateway {
            host: "127.0.0.1".to_owned(),
            port: silent.local_addr().unwrap().port(),
            user: "postgres".to_owned(),
            password: "secret".to_owned(),
            trust: None,
            verified_as: None,
        };
        let error = gateway.answering("SELECT 1", Duration::from_millis(200)).await.err().unwrap();
        assert!(error.to_string().contains("does not answer"), "{error:#}");
    }

    #[test]
    fn only_a_certificate_that_proves_nothing_ends_the_attempts() {
        let of = |error: io::Error| Err::<(), _>(error).context("the gateway's certificate").unwrap_err();
        let strange = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(proves_nothing(&of(io::Error::new(io::ErrorKind::InvalidData, strange))));
        assert!(!proves_nothing(&of(io::Error::from(io::ErrorKind::ConnectionRefused))));
    }
}
