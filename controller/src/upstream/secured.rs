//! One set of connections per set of credentials: what was dialled with the certificates of one cluster never serves another.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use etcd_client::{Certificate, Identity, TlsOptions};
use futures::{FutureExt as _, future::BoxFuture};
use sha2::{Digest as _, Sha256};

use super::{
    CellRecord, DatabaseRecord, Error, LifecycleMark, Limits, Listing, PoolerId, Registration, Result, Scope, ShardKey,
    Snapshot, TopoAddress, Topology, Written, etcd::EtcdKv, idle::IdleCache, tree::Tree,
};

/// How many sets of credentials are kept, and how long without use. Their connections are dropped much earlier.
const KEPT: (usize, Duration) = (256, Duration::from_hours(1));

/// What a client needs to reach a server over TLS, as PEM. Another content is another value, and so another connection.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Credentials {
    /// Authorities that may have signed the certificates of the servers.
    pub authority: Option<String>,
    /// Certificate and private key that the client shows.
    pub identity: Option<(String, String)>,
}

/// Shows no key, and tells two contents apart.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digest = Sha256::new();
        for part in self.authority.iter().chain(self.identity.iter().map(|(certificate, _)| certificate)) {
            digest.update(part);
            digest.update([0]);
        }
        write!(f, "Credentials({})", hex::encode(&digest.finalize()[..6]))
    }
}

impl Credentials {
    pub(super) fn options(&self) -> TlsOptions {
        let mut options = match &self.authority {
            Some(authority) => TlsOptions::new().ca_certificate(Certificate::from_pem(authority)),
            None => TlsOptions::new().with_enabled_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            options = options.identity(Identity::from_pem(certificate, key));
        }
        options
    }
}

/// How a service of the data plane is reached over mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tls {
    /// The name that its certificate has to carry, whatever address is dialled.
    pub server_name: String,
    /// What the client shows and trusts, or why there is nothing.
    pub credentials: Result<Credentials, String>,
}

impl Tls {
    /// The settings of a client of `target`.
    pub(super) fn options(&self, target: &str) -> Result<TlsOptions> {
        match &self.credentials {
            Ok(credentials) => Ok(credentials.options().domain_name(&self.server_name)),
            Err(detail) => Err(Error::NoCredentials { target: target.to_owned(), detail: detail.clone() }),
        }
    }
}

/// [`Topology`] in etcd, through the connections that belong to the credentials of each address.
pub struct Secured {
    plain: Arc<Tree<EtcdKv>>,
    by_credentials: IdleCache<Arc<Credentials>, Arc<Tree<EtcdKv>>>,
    /// All of those that are still alive, for the sweep.
    alive: Mutex<Vec<Weak<Tree<EtcdKv>>>>,
    limits: Limits,
}

impl Secured {
    /// No connection is made before the first operation.
    pub fn new(limits: Limits) -> Self {
        Self {
            plain: Arc::new(Tree::new(EtcdKv::new(limits, None))),
            by_credentials: IdleCache::new(KEPT.0, KEPT.1),
            alive: Mutex::default(),
            limits,
        }
    }

    /// Drops idle connections.
    pub fn sweep(&self) {
        self.plain.store().sweep();
        self.by_credentials.sweep();
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|tree| tree.upgrade().inspect(|tree| tree.store().sweep()).is_some());
    }

    fn of(&self, at: &TopoAddress) -> Arc<Tree<EtcdKv>> {
        let Some(credentials) = &at.credentials else { return Arc::clone(&self.plain) };
        self.by_credentials.get_or_insert(credentials, || {
            let tree = Arc::new(Tree::new(EtcdKv::new(self.limits, Some(credentials.options()))));
            self.alive.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&tree));
            tree
        })
    }
}

impl Topology for Secured {
    fn cells<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Listing<CellRecord>>> {
        async move { self.of(at).cells(at).await }.boxed()
    }

    fn databases<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Listing<DatabaseRecord>>> {
        async move { self.of(at).databases(at).await }.boxed()
    }

    fn put_cell<'a>(&'a self, at: &'a TopoAddress, record: &'a CellRecord) -> BoxFuture<'a, Result<Written>> {
        async move { self.of(at).put_cell(at, record).await }.boxed()
    }

    fn put_database<'a>(&'a self, at: &'a TopoAddress, record: &'a DatabaseRecord) -> BoxFuture<'a, Result<Written>> {
        async move { self.of(at).put_database(at, record).await }.boxed()
    }

    fn delete_cell<'a>(&'a self, at: &'a TopoAddress, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move { self.of(at).delete_cell(at, name).await }.boxed()
    }

    fn delete_database<'a>(&'a self, at: &'a TopoAddress, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move { self.of(at).delete_database(at, name).await }.boxed()
    }

    fn snapshot<'a>(&'a self, at: &'a TopoAddress, scope: &'a Scope) -> BoxFuture<'a, Snapshot> {
        async move { self.of(at).snapshot(at, scope).await }.boxed()
    }

    fn registrations<'a>(
        &'a self,
        at: &'a TopoAddress,
        cells: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Snapshot<Registration>> {
        async move { self.of(at).registrations(at, cells).await }.boxed()
    }

    fn mark_pooler<'a>(
        &'a self,
        at: &'a TopoAddress,
        id: &'a PoolerId,
        mark: &'a LifecycleMark,
    ) -> BoxFuture<'a, Result<Written>> {
        async move { self.of(at).mark_pooler(at, id, mark).await }.boxed()
    }

    fn delete_pooler<'a>(&'a self, at: &'a TopoAddress, id: &'a PoolerId) -> BoxFuture<'a, Result<bool>> {
        async move { self.of(at).delete_pooler(at, id).await }.boxed()
    }

    fn delete_registration<'a>(&'a self, at: &'a TopoAddress, seen: &'a Registration) -> BoxFuture<'a, Result<bool>> {
        async move { self.of(at).delete_registration(at, seen).await }.boxed()
    }

    fn backup_lease<'a>(&'a self, at: &'a TopoAddress, shard: &'a ShardKey) -> BoxFuture<'a, Result<bool>> {
        async move { self.of(at).backup_lease(at, shard).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_of_credentials_holds_no_key_and_tells_contents_apart() {
        let of = |certificate: &str| Credentials {
            authority: Some("authority".to_owned()),
            identity: Some((certificate.to_owned(), "very secret".to_owned())),
        };
        let text = format!("{:?}", of("one"));
        assert!(!text.contains("secret") && text.starts_with("Credentials("), "{text}");
        assert_ne!(text, format!("{:?}", of("two")));
    }

    #[tokio::test]
    async fn other_credentials_are_other_connections() {
        let topology = Secured::new(Limits::default());
        let plain = TopoAddress::new(["etcd:2379"], "/r");
        let one = Credentials { authority: Some("one".to_owned()), identity: None };
        let secured = plain.clone().with(one.clone());
        let renewed = plain.clone().with(Credentials { authority: Some("two".to_owned()), identity: None });
        assert!(Arc::ptr_eq(&topology.of(&plain), &topology.of(&plain)));
        assert!(Arc::ptr_eq(&topology.of(&secured), &topology.of(&plain.clone().with(one))));
        assert!(!Arc::ptr_eq(&topology.of(&secured), &topology.of(&plain)));
        assert!(!Arc::ptr_eq(&topology.of(&secured), &topology.of(&renewed)));
    }
}
