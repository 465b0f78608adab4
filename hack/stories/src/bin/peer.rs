//! Prints the fingerprint of the certificate that a server shows, whoever has signed it and whatever becomes of the connection.
//!
//! It runs inside the network of a bed, where pods have addresses.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use shared::pki::Certificate;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whom to ask.
#[derive(Parser)]
struct Args {
    /// Host of the server.
    host: String,
    /// Its port.
    port: u16,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let looks = Arc::new(Looks { provider: Arc::clone(&provider), shown: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(looks.clone())
        .with_no_client_auth();
    let attempt = async {
        let stream = TcpStream::connect((args.host.as_str(), args.port)).await.context("connecting")?;
        let name = ServerName::try_from(args.host.clone())?;
        // Who wants to see a certificate of ours hangs up, but not before it has shown its own.
        let _refused = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, attempt).await.context("the handshake takes too long")??;
    let shown = looks.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
    println!("{}", Certificate::parse(shown.context("it shows no certificate")?)?.fingerprint());
    Ok(())
}

/// Takes note of the certificate, and accepts it if the server has its key: it is looked at, not trusted.
#[derive(Debug)]
struct Looks {
    provider: Arc<CryptoProvider>,
    shown: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for Looks {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
