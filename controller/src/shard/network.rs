//! Addresses and protection of pool pods: a headless Service per pool and cell, one disruption budget per shard.

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use shared::{
    label::{self, Component},
    name,
};

use super::{
    port,
    scope::{PoolInCell, Scope},
};

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

/// Lets at most one pool pod of the whole shard be evicted at a time.
///
/// The bound is an integer because bare pods have no scale that the disruption controller could take a share of. A shard with a
/// single pooler has none: it would block every drain.
pub fn budget(scope: &Scope<'_>) -> Option<PodDisruptionBudget> {
    let desired = i32::try_from(scope.desired()).unwrap_or(i32::MAX);
    (desired > 1).then(|| PodDisruptionBudget {
        metadata: scope.meta(name::standby_budget(scope.id()), scope.labels(Component::ShardPool)),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(desired - 1)),
            selector: Some(LabelSelector {
                match_labels: Some(label::all_pool_pods(scope.id())),
                ..LabelSelector::default()
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
