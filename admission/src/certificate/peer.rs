//! Looks at the certificates that a server shows, whoever has signed them.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use shared::pki::Certificate;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached, or hung up.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There can be no handshake.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The server cannot be asked for by this name.
    #[error("{0}")]
    Name(#[from] rustls_pki_types::InvalidDnsNameError),
    /// What the server shows is no certificate.
    #[error("it sent a certificate that cannot be read: {0}")]
    Certificate(#[from] shared::pki::Error),
}

/// What a server has shown.
#[derive(Debug)]
pub struct Seen {
    /// Its certificate, then those that lead from it to an authority; empty when the handshake ended before.
    pub chain: Vec<Certificate>,
    /// How the handshake ended. Only where it ended well does the server have the key. Who wants to see a certificate of ours may hang
    /// up, but not before it has shown its own.
    pub ended: io::Result<()>,
}

/// Asks a server what it shows under a name; the connection is closed then.
pub async fn look<S>(stream: S, server_name: &str) -> Result<Seen, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let provider = Arc::new(aws_lc_rs::default_provider());
    let notes = Arc::new(Notes { provider: Arc::clone(&provider), shown: Mutex::default() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(notes.clone())
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from(server_name.to_owned())?;
    let ended = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop);
    let shown = std::mem::take(&mut *notes.shown.lock().unwrap_or_else(PoisonError::into_inner));
    let chain = shown.into_iter().map(Certificate::parse).collect::<Result<_, _>>()?;
    Ok(Seen { chain, ended })
}

/// Takes note of the certificates, and accepts them if the server has the key: they are looked at, not trusted.
#[derive(Debug)]
struct Notes {
    provider: Arc<CryptoProvider>,
    shown: Mutex<Vec<Vec<u8>>>,
}

impl ServerCertVerifier for Notes {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut shown = vec![leaf.to_vec()];
        for other in others {
            shown.push(other.to_vec());
        }
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
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

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use rustls::ServerConfig;
    use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
    use shared::pki::{Authority, Request};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const HOST: &str = "hook.ns.svc";

    #[tokio::test]
    async fn what_a_server_shows_is_seen_whoever_has_signed_it() {
        let (now, life) = (Timestamp::constant(1_800_000_000, 0), SignedDuration::from_hours(100));
        let authority = Authority::generate("CA", now, life).unwrap();
        let names = [HOST.to_owned()].into();
        let request = Request { common_name: HOST.to_owned(), dns_names: names, valid_for: life };
        let leaf = authority.issue(&request, now).unwrap();
        let chain = Certificate::all(&format!("{}{}", leaf.certificate, authority.pair().certificate)).unwrap();
        let ders = chain.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(ders, key)
            .unwrap();
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let server = TlsAcceptor::from(Arc::new(config)).accept(theirs);
        // Whether the server gets to say good-bye does not matter.
        let (seen, _) = tokio::join!(look(ours, HOST), server);
        let seen = seen.unwrap();
        assert_eq!(seen.chain, chain);
        seen.ended.unwrap();
    }

    #[tokio::test]
    async fn who_hangs_up_at_once_shows_nothing() {
        let (ours, theirs) = tokio::io::duplex(1024);
        drop(theirs);
        let seen = look(ours, HOST).await.unwrap();
        assert_eq!(seen.chain, []);
        assert!(seen.ended.is_err());
    }
}
