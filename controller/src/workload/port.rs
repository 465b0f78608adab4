//! Ports of the data plane: numbers, and how containers and Services write them.

use k8s_openapi::{
    api::core::v1::{ContainerPort, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// multigateway: health and status pages.
pub const GATEWAY_HTTP: i32 = 15100;
/// multigateway: RPCs.
pub const GATEWAY_GRPC: i32 = 15170;
/// multigateway: PostgreSQL protocol, routed to primaries.
pub const GATEWAY_POSTGRES: i32 = 5432;
/// multigateway: PostgreSQL protocol, routed to replicas.
pub const GATEWAY_REPLICA: i32 = 5433;
/// multiadmin: REST, health and status pages.
pub const ADMIN_HTTP: i32 = 18000;
/// multiadmin: RPCs.
pub const ADMIN_GRPC: i32 = 18070;
/// multiadmin-web: pages.
pub const WEB_HTTP: i32 = 18100;
/// etcd: clients.
pub const ETCD_CLIENT: i32 = 2379;
/// etcd: members among themselves.
pub const ETCD_PEER: i32 = 2380;
/// etcd: metrics and health.
pub const ETCD_METRICS: i32 = 2381;

/// A named TCP port of a container.
pub fn container(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

/// A TCP port of a Service that leads to the container port of the same name.
pub fn service(name: &str, number: i32) -> ServicePort {
    ServicePort { target_port: Some(IntOrString::String(name.to_owned())), ..service_to(name, number) }
}

/// A TCP port of a Service that leads to the same number.
pub fn service_to(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        target_port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}
