//! The Kubernetes API of the product: group, version, the nine kinds and their custom resource definitions.

pub mod annotation;
pub mod schema;
pub mod v1alpha1;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use self::schema::{SpecPresence, finalize_crd};
use self::v1alpha1::{
    Cell, CellTemplate, CoreTemplate, MultigresBackup, MultigresCluster, Shard, ShardTemplate, TableGroup, TopoServer,
};

/// The API group of every kind.
pub const GROUP: &str = "multigres.com";

/// The only served and stored version.
pub const VERSION: &str = "v1alpha1";

/// The category that `kubectl get multigres` lists.
pub const CATEGORY: &str = "multigres";

/// The definitions of the nine kinds, ready to be installed, in a fixed order.
pub fn crds() -> Vec<CustomResourceDefinition> {
    use SpecPresence::{Defaulted, Required};
    [
        (MultigresCluster::crd(), Defaulted),
        (CoreTemplate::crd(), Defaulted),
        (CellTemplate::crd(), Defaulted),
        (ShardTemplate::crd(), Defaulted),
        (Cell::crd(), Required),
        (TableGroup::crd(), Required),
        (Shard::crd(), Required),
        (TopoServer::crd(), Required),
        (MultigresBackup::crd(), Required),
    ]
    .into_iter()
    .map(|(crd, presence)| finalize_crd(crd, presence))
    .collect()
}
