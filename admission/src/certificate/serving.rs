//! The key that this replica serves with, swapped in memory.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use shared::pki::{Certificate, rotation::Fingerprint};

/// The leaf that is being served.
#[derive(Clone, Debug)]
pub struct Current {
    /// The leaf and what leads from it to an authority.
    pub chain: Vec<Certificate>,
    /// Other certificates that came with it, such as the authority itself.
    pub trust: Vec<Certificate>,
    pub(super) key: Arc<CertifiedKey>,
}

impl Current {
    /// The fingerprint of the leaf.
    pub fn id(&self) -> Option<Fingerprint> {
        self.chain.first().map(Certificate::fingerprint)
    }
}

/// Hands the current key to every handshake; before there is one, handshakes fail.
#[derive(Default)]
pub struct Serving {
    current: ArcSwapOption<Current>,
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("leaf", &self.fingerprint()).finish()
    }
}

impl Serving {
    /// Returns one that has no key yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Returns the configuration of a server that asks here at every handshake.
    pub fn config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Self>::clone(self));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A resumed session would go on with the leaf of its first handshake; API servers do not resume any.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// The leaf that is being served.
    pub fn current(&self) -> Option<Arc<Current>> {
        self.current.load_full()
    }

    /// The fingerprint of the leaf that is being served.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.current.load().as_ref().and_then(|current| current.id())
    }

    pub(super) fn swap(&self, next: Current) {
        self.current.store(Some(Arc::new(next)));
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|current| Arc::clone(&current.key))
    }
}
