//! Validated settings of the controller: what the flags say, typed once, and handed down.

use std::time::Duration;

use shared::{api::v1alpha1::ImageUpdateStrategy, image::ImageSet};

/// Everything a pure `decide` may know about the operator's own configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Images used where a cluster names none.
    pub images: ImageSet,
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
    /// How often the data plane is asked while a shard is not settled.
    pub poll_unsettled: Duration,
    /// How often the primary of a settled shard is confirmed. At most 30 s, or `Healthy` would be read off records alone.
    pub poll_settled: Duration,
}

impl Settings {
    /// The part that the resolver needs.
    pub fn resolve(&self) -> shared::resolve::Settings {
        shared::resolve::Settings { images: self.images.clone(), zone_id_label: self.zone_id_label.clone() }
    }
}
