//! The certificate of the metrics: a pair of files that is taken up anew when it changes, or one that the process makes.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::pki::{self, Authority, Request};

/// How long a pair of files is used before it is read again.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// How long a certificate of our own is valid: longer than any process lives.
const VALID_FOR: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// Where the certificate comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The process makes one at its start, which nobody can verify.
    #[default]
    Own,
    /// Two PEM files.
    Files {
        /// The certificate, and what leads from it to an authority.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// A certificate that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// A file is no PEM of the right kind.
    #[error("{0} holds no certificate or no key in PEM")]
    Pem(PathBuf, #[source] rustls::pki_types::pem::Error),
    /// Certificate and key are of no use together.
    #[error("the certificate of the metrics cannot be used")]
    Unusable(#[source] rustls::Error),
    /// No certificate could be made.
    #[error("cannot make a certificate for the metrics")]
    Make(#[source] pki::Error),
}

/// Returns the configuration of a server with that certificate; fails while there is none that works.
pub fn config(source: &Source) -> Result<ServerConfig, Error> {
    let key = load(source)?;
    let resolver = Resolver { source: source.clone(), current: Mutex::new((Instant::now(), Arc::new(key))) };
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::Unusable)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    Ok(config)
}

fn load(source: &Source) -> Result<CertifiedKey, Error> {
    match source {
        Source::Own => {
            let now = Timestamp::now();
            let names = ["localhost".to_owned()].into();
            let request = Request { common_name: "metrics".to_owned(), dns_names: names, valid_for: VALID_FOR };
            let authority = Authority::generate("metrics", now, VALID_FOR).map_err(Error::Make)?;
            let pair = authority.issue(&request, now).map_err(Error::Make)?;
            let memory = Path::new("the certificate just made");
            certified(pair.certificate.as_bytes(), memory, pair.key.as_bytes(), memory)
        }
        Source::Files { certificate, key } => {
            let read = |path: &Path| std::fs::read(path).map_err(|error| Error::Read(path.to_owned(), error));
            certified(&read(certificate)?, certificate, &read(key)?, key)
        }
    }
}

fn certified(chain: &[u8], of_chain: &Path, key: &[u8], of_key: &Path) -> Result<CertifiedKey, Error> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| Error::Pem(of_chain.to_owned(), error))?;
    if chain.is_empty() {
        return Err(Error::Pem(of_chain.to_owned(), rustls::pki_types::pem::Error::NoItemsFound));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| Error::Pem(of_key.to_owned(), error))?;
    let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(Error::Unusable)?;
    Ok(key)
}

/// Hands the certificate to handshakes, and looks now and then whether its files have changed.
struct Resolver {
    source: Source,
    current: Mutex<(Instant, Arc<CertifiedKey>)>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Resolver {
    fn current(&self, now: Instant) -> Arc<CertifiedKey> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (read, key) = &mut *current;
        if self.source != Source::Own && now.duration_since(*read) >= FRESH_FOR {
            *read = now;
            match load(&self.source) {
                Ok(newer) => *key = Arc::new(newer),
                // The two files change one after the other.
                Err(error) => tracing::warn!(
                    error = crate::telemetry::chain(&error),
                    "the certificate of the metrics stays as it was"
                ),
            }
        }
        Arc::clone(key)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str) -> Source {
        let now = Timestamp::now();
        let request = Request {
            common_name: name.to_owned(),
            dns_names: [name.to_owned()].into(),
            valid_for: SignedDuration::from_hours(1),
        };
        let authority = Authority::generate("test", now, SignedDuration::from_hours(2)).unwrap();
        let pair = authority.issue(&request, now).unwrap();
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        std::fs::write(&certificate, pair.certificate).unwrap();
        std::fs::write(&key, pair.key).unwrap();
        Source::Files { certificate, key }
    }

    #[test]
    fn a_process_without_files_makes_a_certificate() {
        assert!(config(&Source::Own).is_ok());
    }

    #[test]
    fn changed_files_are_taken_up_and_broken_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let source = write(folder.path(), "one");
        let start = Instant::now();
        let first = Arc::new(load(&source).unwrap());
        let resolver = Resolver { source: source.clone(), current: Mutex::new((start, Arc::clone(&first))) };
        write(folder.path(), "two");
        assert_eq!(resolver.current(start + FRESH_FOR / 2).cert, first.cert, "files are not read at every handshake");
        let second = resolver.current(start + FRESH_FOR);
        assert_ne!(second.cert, first.cert);
        std::fs::write(folder.path().join("tls.key"), "none").unwrap();
        assert_eq!(resolver.current(start + FRESH_FOR * 3).cert, second.cert);
    }

    #[test]
    fn missing_and_mismatched_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let source = write(folder.path(), "one");
        let old = std::fs::read(folder.path().join("tls.key")).unwrap();
        write(folder.path(), "two");
        std::fs::write(folder.path().join("tls.key"), old).unwrap();
        assert!(matches!(config(&source).unwrap_err(), Error::Unusable(_)));
        std::fs::write(folder.path().join("tls.crt"), "").unwrap();
        assert!(matches!(config(&source).unwrap_err(), Error::Pem(..)));
        std::fs::remove_file(folder.path().join("tls.crt")).unwrap();
        assert!(matches!(config(&source).unwrap_err(), Error::Read(..)));
    }
}
