//! Addresses and protection of pool pods: a headless Service per pool and cell, one disruption budget per role.

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
        util::intstr::IntOrString,
    },
};
use shared::{
    label::{self, Component},
    name,
};

use super::{
    port,
    scope::{PoolInCell, Scope},
};
use crate::settings::Settings;

/// Gives the pods of a pool in a cell their DNS names, from the moment that they have an address: poolers must find each other
/// before any of them is ready.
pub fn headless(scope: &Scope<'_>, pool: &PoolInCell<'_>) -> Service {
    let labels = label::of_pool(pool.id);
    Service {
        metadata: scope.meta(name::pool_headless(pool.id), labels.clone()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(label::selector(&labels)),
            ports: Some(
                [
                    ("http", port::POOLER_HTTP),
                    ("grpc", port::POOLER_GRPC),
                    ("postgres", port::POSTGRES),
                    ("metrics", port::METRICS),
                ]
                .into_iter()
                .map(|(name, port)| ServicePort {
                    name: Some(name.into()),
                    port,
                    protocol: Some("TCP".into()),
                    target_port: Some(IntOrString::String(name.into())),
                    ..ServicePort::default()
                })
                .collect(),
            ),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// How many of a shard's pods evictions have to leave, by role. The two budgets select disjoint pods, because a pod that two
/// budgets select cannot be evicted at all.
///
/// The bounds are integers: bare pods have no scale that the disruption controller could take a share of. A single pooler has no
/// budget, for it would block every drain.
pub fn budgets(scope: &Scope<'_>, settings: &Settings, members: usize, all_well: bool) -> Vec<PodDisruptionBudget> {
    if members < 2 {
        return Vec::new();
    }
    let standbys = i32::try_from(members - 1).unwrap_or(i32::MAX);
    let role = |operator: &str| LabelSelectorRequirement {
        key: label::ROLE.into(),
        operator: operator.into(),
        values: Some(vec![label::PRIMARY.into()]),
    };
    vec![
        // The primary stays until it has handed over: then another pod carries its label.
        budget(scope, settings, name::primary_budget(scope.id()), 1, role("In")),
        // One standby at a time, and none while another member is not well.
        budget(scope, settings, name::standby_budget(scope.id()), standbys - i32::from(all_well), role("NotIn")),
    ]
}

fn budget(
    scope: &Scope<'_>,
    settings: &Settings,
    name: String,
    least: i32,
    role: LabelSelectorRequirement,
) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: scope.meta(name, scope.labels(Component::ShardPool)),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(least)),
            selector: Some(LabelSelector {
                match_labels: Some(label::all_pool_pods(scope.id())),
                match_expressions: Some(vec![role]),
            }),
            // A pod that serves nobody does not keep its node from being emptied.
            unhealthy_pod_eviction_policy: settings.eviction_policy.then(|| "AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
