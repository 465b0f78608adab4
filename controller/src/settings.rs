//! Validated settings of the controller: what the flags say, typed once, and handed down.

use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceRequirements;
use shared::{
    api::v1alpha1::ImageUpdateStrategy,
    image::{ImageSet, SupportImages},
};

/// The kinds with a controller, by the names of their controllers.
pub const KINDS: [&str; 6] = ["multigrescluster", "tablegroup", "cell", "shard", "toposerver", "multigresbackup"];

/// How many passes run in parallel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concurrency {
    usual: u16,
    /// In the order of [`KINDS`].
    own: [Option<u16>; KINDS.len()],
}

impl Concurrency {
    /// So many passes of each kind, and others of the kinds that are named; kinds that nobody knows do not count.
    pub fn new(usual: u16, of_kinds: &[(String, u16)]) -> Self {
        let named = |kind: &str| of_kinds.iter().rev().find(|(name, _)| name == kind).map(|(_, passes)| *passes);
        Self { usual, own: KINDS.map(named) }
    }

    /// Parallel passes of the controller of this name.
    pub fn of(self, controller: &str) -> u16 {
        let own = KINDS.into_iter().zip(self.own).find(|(kind, _)| *kind == controller);
        own.and_then(|(_, passes)| passes).unwrap_or(self.usual)
    }
}

/// Everything a pure `decide` may know about the operator's own configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Images used where a cluster names none.
    pub images: ImageSet,
    /// Images of what runs beside the components.
    pub support_images: SupportImages,
    /// What the exporter of a pool pod asks for and may use.
    pub exporter_resources: Option<ResourceRequirements>,
    /// When clusters that say nothing about it take over new default images and new renderings.
    pub image_update_strategy: ImageUpdateStrategy,
    /// Clusters that may be on the way to an edited template at once; zero means all.
    pub template_wave: usize,
    /// Node label that `zoneId` of a cell selects.
    pub zone_id_label: String,
    /// DNS domain of the Kubernetes cluster, `cluster.local` nearly everywhere.
    pub cluster_domain: String,
    /// Whether the server and all kubelets run native sidecars (Kubernetes ≥ 1.29).
    pub native_sidecars: bool,
    /// Whether the server keeps what disruption budgets say about pods that are not ready (Kubernetes ≥ 1.27).
    pub eviction_policy: bool,
    /// Whether the server keeps what StatefulSets say about their volumes (Kubernetes ≥ 1.27).
    pub claim_policy: bool,
    /// How often the data plane is asked while a shard is not settled.
    pub poll_unsettled: Duration,
    /// How often the primary of a settled shard is confirmed. At most 30 s, or `Healthy` would be read off records alone.
    pub poll_settled: Duration,
}

impl Settings {
    /// The part that the resolver needs.
    pub fn resolve(&self) -> shared::resolve::Settings {
        shared::resolve::Settings {
            images: self.images.clone(),
            etcd_image: self.support_images.etcd.clone(),
            zone_id_label: self.zone_id_label.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::api::v1alpha1::{Cell, MultigresBackup, MultigresCluster, Shard, TableGroup, TopoServer};

    use super::*;
    use crate::runner::Kind;

    #[test]
    fn kinds_have_the_names_of_their_controllers() {
        let controllers = [
            MultigresCluster::CONTROLLER,
            TableGroup::CONTROLLER,
            Cell::CONTROLLER,
            Shard::CONTROLLER,
            TopoServer::CONTROLLER,
            MultigresBackup::CONTROLLER,
        ];
        assert_eq!(KINDS, controllers);
    }

    #[test]
    fn kinds_that_are_not_named_run_as_many_passes_as_usual() {
        let concurrency = Concurrency::new(20, &[("shard".to_owned(), 40), ("cell".to_owned(), 1)]);
        assert_eq!(KINDS.map(|kind| concurrency.of(kind)), [20, 20, 1, 40, 20, 20]);
    }
}
