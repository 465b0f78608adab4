//! A lookup over objects that are given, for tests and benchmarks.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::{FutureExt as _, future::BoxFuture};
use shared::{
    resolve::Templates,
    validate::{StorageClasses, Surroundings},
};

use super::{Cluster, Lookup, LookupError};

/// Objects as of one moment.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Templates by namespace.
    pub templates: BTreeMap<String, Arc<Templates>>,
    /// Clusters by namespace.
    pub clusters: BTreeMap<String, Vec<Arc<Cluster>>>,
    /// Storage classes and nodes.
    pub surroundings: Arc<Surroundings>,
}

/// A lookup whose stores and whose API server are both given; every namespace is watched.
#[derive(Debug, Default)]
pub struct Fixed {
    stored: World,
    live: World,
    unreachable: AtomicBool,
    reads: AtomicUsize,
}

impl Fixed {
    /// Stores that have seen everything.
    pub fn new(world: World) -> Self {
        Self { stored: world.clone(), live: world, ..Self::default() }
    }

    /// Stores that lag behind the API server.
    pub fn lagging(stored: World, live: World) -> Self {
        Self { stored, live, ..Self::default() }
    }

    /// Makes all reads from the API server fail.
    pub fn cut_off(&self) {
        self.unreachable.store(true, Ordering::Relaxed);
    }

    /// How often the API server was asked.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    fn read<T>(&self, what: &str, value: T) -> Result<T, LookupError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.unreachable.load(Ordering::Relaxed) {
            let source = Arc::new(kube::Error::Service(Box::new(io::Error::from(io::ErrorKind::ConnectionRefused))));
            return Err(LookupError::Read { what: what.to_owned(), source });
        }
        Ok(value)
    }
}

impl Lookup for Fixed {
    fn watches(&self, _namespace: &str) -> bool {
        true
    }

    fn templates(&self, namespace: &str) -> Result<Arc<Templates>, LookupError> {
        Ok(self.stored.templates.get(namespace).cloned().unwrap_or_default())
    }

    fn clusters(&self, namespace: &str) -> Result<Vec<Arc<Cluster>>, LookupError> {
        Ok(self.stored.clusters.get(namespace).cloned().unwrap_or_default())
    }

    fn surroundings(&self) -> Arc<Surroundings> {
        Arc::clone(&self.stored.surroundings)
    }

    fn templates_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Arc<Templates>, LookupError>> {
        let templates = self.live.templates.get(namespace).cloned().unwrap_or_default();
        async move { self.read("templates", templates) }.boxed()
    }

    fn clusters_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Arc<Cluster>>, LookupError>> {
        let clusters = self.live.clusters.get(namespace).cloned().unwrap_or_default();
        async move { self.read("clusters", clusters) }.boxed()
    }

    fn storage_classes_live(&self) -> BoxFuture<'_, Result<Option<StorageClasses>, LookupError>> {
        let classes = self.live.surroundings.storage_classes.clone();
        async move { self.read("storage classes", classes) }.boxed()
    }
}
