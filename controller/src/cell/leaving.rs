//! The way out of a cell: nothing of a shard may be left in it, then its gateways stop, and then it may be deleted.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use shared::{
    annotation,
    api::v1alpha1::{Cell, Shard},
    label,
    label::Component,
};

use super::Observed;

/// Nothing of the data plane is left in the cell.
pub const READY_FOR_DELETION: &str = "ReadyForDeletion";
/// How many names a message holds.
const NAMED: usize = 3;
/// A pod whose grace period has ended this long ago runs on a node that is gone, and holds up nothing.
const ABANDONED: jiff::SignedDuration = jiff::SignedDuration::from_mins(1);

/// How far a cell on its way out has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Shards still plan pods in it, or have yet to leave it.
    Planned(String),
    /// Pods of shards still run in it.
    Inhabited(String),
    /// Its gateways are stopping.
    Gateways(String),
    /// Nothing is left.
    Done,
}

impl Drain {
    /// Reason and message of the condition.
    pub fn explain(&self) -> (&'static str, &str) {
        match self {
            Self::Planned(why) => ("ShardsUseCell", why),
            Self::Inhabited(why) => ("PodsRemain", why),
            Self::Gateways(why) => ("GatewaysStopping", why),
            Self::Done => ("Drained", "nothing of the data plane is left in the cell"),
        }
    }

    /// Whether gateways are no longer wanted.
    pub fn stops_gateways(&self) -> bool {
        matches!(self, Self::Gateways(_) | Self::Done)
    }
}

/// Whether the cluster has asked a cell to leave.
pub fn is_asked(cell: &Cell) -> bool {
    cell.annotations().get(annotation::PENDING_DELETION).is_some_and(|at| !at.is_empty())
}

/// Why shards that plan pods in a cell hold it; none if there are no such shards.
pub fn tenants(shards: &[Arc<Shard>], cell: &str) -> Option<String> {
    let plans = |shard: &&Arc<Shard>| {
        let pools = shard.spec.pools.values().flat_map(|pool| &pool.cells);
        pools.chain(&shard.spec.multiorch.cells).any(|name| name == cell)
    };
    let names: Vec<String> = shards.iter().filter(plans).map(|shard| shard.name_any()).collect();
    (!names.is_empty()).then(|| format!("still plan pods there: shard {}", listed(&names)))
}

/// Why shards that have yet to leave a cell hold it although no pod is there: a primary that was lost there may have to come back before
/// it can be moved.
pub fn debtors(shards: &[Arc<Shard>], cell: &str) -> Option<String> {
    let owes = |shard: &&Arc<Shard>| shard.status.iter().flat_map(|status| &status.cells).any(|name| name == cell);
    let names: Vec<String> = shards.iter().filter(owes).map(|shard| shard.name_any()).collect();
    (!names.is_empty()).then(|| format!("have yet to leave it: shard {}", listed(&names)))
}

/// Why pods of shards hold a cell; none if there are none left.
pub fn residents(pods: &[Arc<Pod>], cell: &str, now: Timestamp) -> Option<String> {
    let labelled = |pod: &Pod, key: &str, value: &str| pod.labels().get(key).is_some_and(|have| have == value);
    let components = [Component::ShardPool, Component::Multiorch];
    let of = |pod: &&Arc<Pod>| {
        labelled(pod, label::CELL, cell)
            && components.iter().any(|component| labelled(pod, label::COMPONENT, component.as_str()))
            && !abandoned(pod, now)
    };
    let names: Vec<String> = pods.iter().filter(of).map(|pod| pod.name_any()).collect();
    (!names.is_empty()).then(|| format!("still run there: pod {}", listed(&names)))
}

/// How far a cell has come; none for a cell that stays.
pub(super) fn drain(observed: &Observed, now: Timestamp) -> Option<Drain> {
    if !is_asked(&observed.cell) {
        return None;
    }
    let cell = observed.cell.spec.name.as_str();
    if let Some(why) = tenants(&observed.shards, cell) {
        return Some(Drain::Planned(why));
    }
    if let Some(why) = residents(&observed.shard_pods, cell, now) {
        return Some(Drain::Inhabited(why));
    }
    if let Some(why) = debtors(&observed.shards, cell) {
        return Some(Drain::Planned(why));
    }
    let stopping: Vec<String> =
        observed.pods.iter().filter(|pod| !abandoned(pod, now)).map(|pod| pod.name_any()).collect();
    let wanted = observed.deployment.as_deref().and_then(|deployment| deployment.spec.as_ref());
    let scaled_down = wanted.is_none_or(|spec| spec.replicas == Some(0));
    if !stopping.is_empty() || !scaled_down {
        let what = if stopping.is_empty() { "its gateways".to_owned() } else { listed(&stopping) };
        return Some(Drain::Gateways(format!("still stopping: {what}")));
    }
    Some(Drain::Done)
}

/// Whether a pod should have ended long ago, which only its node could confirm.
pub fn abandoned(pod: &Pod, now: Timestamp) -> bool {
    let end = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    end.is_some_and(|end| now.duration_since(end) > ABANDONED)
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
