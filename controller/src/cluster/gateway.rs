//! Builders of the two Services through which applications reach the gateways of all cells.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use shared::{api::v1alpha1::ExternalServiceConfig, label, label::Component, name};

use super::admin::exposed;
use crate::workload::{
    owner::Owner,
    port::{self, GATEWAY_POSTGRES, GATEWAY_REPLICA},
};

/// Reads and writes, reachable from outside where `external` says so.
pub fn primary_service(owner: &Owner, external: Option<&ExternalServiceConfig>) -> Service {
    let service = service(owner, name::cluster_gateway(&owner.name), port::service("postgres", GATEWAY_POSTGRES));
    exposed(service, external)
}

/// Reads from replicas.
pub fn replica_service(owner: &Owner) -> Service {
    service(owner, name::cluster_gateway_replica(&owner.name), port::service("pg-replica", GATEWAY_REPLICA))
}

fn service(owner: &Owner, name: String, port: ServicePort) -> Service {
    Service {
        metadata: owner.meta(name, label::of_cluster(&owner.name, Component::Multigateway)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(label::all_gateways(&owner.name)),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
