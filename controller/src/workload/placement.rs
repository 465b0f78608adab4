//! Where pods may run: spreading over hosts, pull secrets and disruption budgets.

use k8s_openapi::{
    api::{
        core::v1::{LocalObjectReference, TopologySpreadConstraint},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use shared::label::Labels;

/// Node label with the host's name.
const HOST: &str = "kubernetes.io/hostname";
/// Node label with the zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A list, or nothing where it is empty: an empty list would claim the field.
pub fn non_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// Pull secrets of a pod.
pub fn pull_secrets(secrets: &[LocalObjectReference]) -> Option<Vec<LocalObjectReference>> {
    non_empty(secrets)
}

/// Spreads replicas over hosts where that is possible. A single replica says so, too, or another number would restart it.
pub fn spread_over_hosts(selector: &Labels) -> Vec<TopologySpreadConstraint> {
    vec![spread(HOST, selector)]
}

/// Spreads replicas over zones and hosts where that is possible, whatever their number.
pub fn spread_over_zones(selector: &Labels) -> Vec<TopologySpreadConstraint> {
    vec![spread(ZONE, selector), spread(HOST, selector)]
}

fn spread(key: &str, selector: &Labels) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(matching(selector)),
        ..TopologySpreadConstraint::default()
    }
}

/// A selector of exactly these labels.
pub fn matching(labels: &Labels) -> LabelSelector {
    LabelSelector { match_labels: Some(labels.clone()), ..LabelSelector::default() }
}

/// Lets evictions take one pod at a time. Only for pods of a workload that has a scale: bare pods allow no disruption this way.
pub fn one_at_a_time(metadata: ObjectMeta, selector: &Labels) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata,
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(matching(selector)),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
