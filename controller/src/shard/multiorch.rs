//! The orchestrators of a shard: a Deployment and a Service in each cell.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        core::v1::{Container, PodSpec, PodTemplateSpec, Probe, Service, ServiceSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;
use shared::{
    annotation,
    api::v1alpha1::{MultiorchSpec, ShardImages},
    label::{self, Component, Labels},
    name,
};

use super::{container, port, scope::Scope, volume};
use crate::workload::{
    environment, placement, port as ports, probe, revision, security,
    telemetry::{self, Inherited},
    tls::Certificates,
};

/// Readiness asks the topology server, which may take this many seconds.
const READY_TIMEOUT: i32 = 5;
/// Variable with the pod's address, which the host name argument refers to.
const POD_IP: &str = "POD_IP";

/// The orchestrators of one cell.
pub fn deployment(scope: &Scope<'_>, cell: &str, inherited: &Inherited) -> Deployment {
    let spec = scope.spec();
    let orchestrator = &spec.multiorch;
    let labels = scope.with_own_labels(labels(scope, cell));
    let selector = label::selector(&labels);
    let replicas = orchestrator.replicas.unwrap_or(1);
    let mut tls = if scope.internal_tls() { volume::internal_tls("multiorch", scope) } else { Certificates::default() };
    tls.add(volume::topology_tls(scope));
    let sampling = telemetry::sampling(spec.observability.as_ref());
    let (sampling_volume, sampling_mount) = sampling.unzip();
    let volumes: Vec<_> = tls.volumes.iter().cloned().chain(sampling_volume).collect();
    let mounts: Vec<_> = tls.mounts.iter().cloned().chain(sampling_mount).collect();
    let mut env = vec![environment::from_field(POD_IP, "status.podIP")];
    env.extend(container::telemetry_env(scope, inherited, "multiorch"));
    let container = Container {
        name: "multiorch".into(),
        image: Some(spec.images.multiorch.clone()),
        image_pull_policy: container::pull_policy(scope),
        args: Some(args(scope, cell, tls.args)),
        env: Some(env),
        ports: Some(vec![ports::container("http", port::ORCH_HTTP), ports::container("grpc", port::ORCH_GRPC)]),
        volume_mounts: placement::non_empty(&mounts),
        resources: orchestrator.resources.clone(),
        security_context: Some(security::container()),
        // Life, not readiness: while the topology server is away there is nothing that a restart would improve.
        startup_probe: Some(probe::startup("/live", port::ORCH_HTTP)),
        liveness_probe: Some(probe::liveness("/live", port::ORCH_HTTP)),
        readiness_probe: Some(Probe {
            timeout_seconds: Some(READY_TIMEOUT),
            ..probe::readiness("/ready", port::ORCH_HTTP)
        }),
        ..Container::default()
    };
    let template_labels = label::over(Some(&orchestrator.pod_labels), labels.clone());
    Deployment {
        metadata: scope.meta(name::multiorch_deployment(scope.id(), cell), labels),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: placement::matching(&selector),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(template_labels),
                    annotations: Some(annotations(scope)),
                    ..ObjectMeta::default()
                }),
                spec: Some(PodSpec {
                    containers: vec![container],
                    volumes: placement::non_empty(&volumes),
                    affinity: orchestrator.affinity.as_deref().cloned(),
                    tolerations: orchestrator.placement.as_ref().and_then(|p| placement::non_empty(&p.tolerations)),
                    node_selector: scope.node_selector(cell),
                    topology_spread_constraints: Some(placement::spread_over_hosts(&selector)),
                    image_pull_secrets: placement::pull_secrets(&spec.images.image_pull_secrets),
                    security_context: Some(security::pod(security::MULTIGRES, None)),
                    ..PodSpec::default()
                }),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// What the user wants of the orchestrators of one cell. How many there are is not part of it.
pub fn intent(scope: &Scope<'_>, cell: &str, certificates: Option<&str>) -> String {
    let spec = scope.spec();
    let images = ShardImages { multipooler: String::new(), postgres: String::new(), ..spec.images.clone() };
    revision::intent(&json!({
        "images": images,
        "orchestrator": MultiorchSpec { replicas: None, cells: Vec::new(), ..spec.multiorch.clone() },
        "nodes": scope.node_selector(cell),
        "topology": spec.global_topo_server,
        "internalTLS": scope.internal_tls(),
        "certificates": certificates,
        "observability": spec.observability,
        "logLevel": spec.log_levels.as_ref().and_then(|levels| levels.multiorch),
        "project": scope.project(),
    }))
}

/// The address of the orchestrators of one cell.
pub fn service(scope: &Scope<'_>, cell: &str) -> Service {
    let labels = scope.with_own_labels(labels(scope, cell));
    Service {
        metadata: scope.meta(name::multiorch_service(scope.id(), cell), labels.clone()),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            selector: Some(label::selector(&labels)),
            ports: Some(vec![ports::service("http", port::ORCH_HTTP), ports::service("grpc", port::ORCH_GRPC)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn labels(scope: &Scope<'_>, cell: &str) -> Labels {
    label::of_shard_in_cell(scope.id(), cell, Component::Multiorch)
}

fn args(scope: &Scope<'_>, cell: &str, tls: Vec<String>) -> Vec<String> {
    let spec = scope.spec();
    let id = scope.id();
    let mut args = vec![
        "multiorch".to_owned(),
        format!("--http-port={}", port::ORCH_HTTP),
        format!("--grpc-port={}", port::ORCH_GRPC),
        format!("--topo-global-server-addresses={}", spec.global_topo_server.address),
        format!("--topo-global-root={}", spec.global_topo_server.root_path),
        format!("--cell={cell}"),
        format!("--watch-targets={}/{}/{}", id.database, id.table_group, id.shard),
        container::log_level(spec.log_levels.as_ref().and_then(|levels| levels.multiorch)),
        format!("--hostname=$({POD_IP})"),
    ];
    args.extend(tls);
    args
}

fn annotations(scope: &Scope<'_>) -> BTreeMap<String, String> {
    let mut all = scope.spec().multiorch.pod_annotations.clone();
    all.insert(annotation::PROJECT_REF.to_owned(), scope.project().to_owned());
    all
}
