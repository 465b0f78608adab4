//! What the judges look up: templates, clusters, storage classes and the places where nodes are.
//!
//! Answers come from complete local stores. Before a request is refused for something that a store lacks or has seen
//! otherwise, the judges read it once from the API server.

mod fixed;
mod flight;
mod sink;
mod stores;
mod watch;

use std::sync::Arc;

use futures::future::BoxFuture;
use shared::{
    api::v1alpha1::MultigresClusterSpec,
    resolve::Templates,
    telemetry,
    validate::{StorageClasses, Surroundings},
};

pub use fixed::{Fixed, World};
pub use stores::{Settings, Stores};

/// A cluster as far as templates are concerned; it is not being deleted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// What it asks for.
    pub spec: MultigresClusterSpec,
}

/// Why something could not be looked up; the same request may succeed a moment later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// The first lists have not arrived yet.
    #[error("the admission webhook has not read all objects yet; try again")]
    Incomplete,
    /// The API server did not answer a read.
    #[error("cannot read {what}: {}; try again", telemetry::chain(source))]
    Read {
        /// What was read.
        what: String,
        /// Why it failed.
        source: Arc<kube::Error>,
    },
}

/// Answers what the judges ask.
pub trait Lookup: Send + Sync + 'static {
    /// Whether objects of this namespace are ours to judge.
    fn watches(&self, namespace: &str) -> bool;

    /// The templates of a namespace, as last seen.
    fn templates(&self, namespace: &str) -> Result<Arc<Templates>, LookupError>;

    /// The clusters of a namespace that are not being deleted, as last seen.
    fn clusters(&self, namespace: &str) -> Result<Vec<Arc<Cluster>>, LookupError>;

    /// Storage classes and nodes, as last seen; what may not be read is unknown.
    fn surroundings(&self) -> Arc<Surroundings>;

    /// The templates of a namespace, read now.
    fn templates_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Arc<Templates>, LookupError>>;

    /// The clusters of a namespace that are not being deleted, read now.
    fn clusters_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Arc<Cluster>>, LookupError>>;

    /// The storage classes, read now; none when they may not be read.
    fn storage_classes_live(&self) -> BoxFuture<'_, Result<Option<StorageClasses>, LookupError>>;
}
