//! Builders of a cell's gateways: Deployment, Service, disruption budget.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{Container, EnvVar, PodSpec, PodTemplateSpec, Service, ServiceSpec},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use serde_json::json;
use shared::{
    annotation,
    api::v1alpha1::{BufferConfig, Cell, InternalTlsConfig, MultigatewaySpec},
    label,
    label::{Component, Labels},
    name::{self, PUBLIC_CERTIFICATE},
};

use crate::topo_server::client::Secrets;
use crate::workload::{
    environment::from_field,
    owner::{Owner, annotations},
    placement::{matching, non_empty, one_at_a_time, pull_secrets, spread_over_hosts},
    port::{self, GATEWAY_GRPC, GATEWAY_HTTP, GATEWAY_POSTGRES, GATEWAY_REPLICA},
    probe, revision, security, telemetry,
    telemetry::{Attributes, Inherited},
    tls::{self, Certificates},
};

/// Variable with the pod's own address, which the gateway registers: its host name resolves nowhere.
const POD_IP: &str = "POD_IP";
/// How long a stopping gateway still takes connections, so that Services forget it first.
const LAMEDUCK: &str = "5s";
/// Lame duck, 30 s of the process's own termination bound, and some air.
const GRACE_SECONDS: i64 = 45;

/// Everything that the builders need.
#[derive(Clone, Copy, Debug)]
pub struct Gateway<'a> {
    /// The cell that the gateways serve.
    pub cell: &'a Cell,
    /// Its identity.
    pub owner: &'a Owner,
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Node label that `zoneId` selects.
    pub zone_id_label: &'a str,
    /// Telemetry variables of the operator's own process.
    pub inherited: &'a Inherited,
    /// Digest of the certificates that they run with, where they have some.
    pub certificates: Option<&'a str>,
    /// Whether the cell is on its way out and needs no gateways any more.
    pub stopped: bool,
}

impl Gateway<'_> {
    /// Number of gateways.
    pub fn replicas(&self) -> i32 {
        if self.stopped { 0 } else { self.cell.spec.multigateway.replicas.unwrap_or(1) }
    }

    /// Labels of all objects of the gateways.
    pub fn labels(&self) -> Labels {
        let spec = &self.cell.spec;
        label::of_gateway(self.cluster, &spec.name, spec.zone_id.as_deref(), spec.region.as_deref())
    }

    /// Selects the gateways of this cell.
    pub fn selector(&self) -> Labels {
        label::selector(&self.labels())
    }

    /// The Deployment.
    pub fn deployment(&self) -> Deployment {
        let selector = self.selector();
        Deployment {
            metadata: self.owner.meta(name::gateway_deployment(self.cluster, &self.cell.spec.name), self.labels()),
            spec: Some(DeploymentSpec {
                replicas: Some(self.replicas()),
                selector: matching(&selector),
                // A new gateway serves before an old one leaves.
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".to_owned()),
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(IntOrString::Int(1)),
                        max_unavailable: Some(IntOrString::Int(0)),
                    }),
                }),
                template: self.template(&selector),
                ..DeploymentSpec::default()
            }),
            ..Deployment::default()
        }
    }

    /// What the user wants of the gateways. How many there are is not part of it.
    pub fn intent(&self) -> String {
        let spec = &self.cell.spec;
        revision::intent(&json!({
            "images": spec.images,
            "gateway": MultigatewaySpec { replicas: None, ..spec.multigateway.clone() },
            "placement": spec.multigateway_placement,
            "location": [&spec.zone, &spec.zone_id, &spec.region],
            "topology": spec.global_topo_server,
            "internalTLS": spec.internal_tls,
            "certificates": self.certificates(),
            "publicTLS": self.public_tls(),
            "observability": spec.observability,
            "logLevel": spec.log_levels.as_ref().and_then(|levels| levels.multigateway),
            "project": self.project(),
        }))
    }

    /// The Service of this cell's gateways.
    pub fn service(&self) -> Service {
        Service {
            metadata: self.owner.meta(name::gateway_service(self.cluster, &self.cell.spec.name), self.labels()),
            spec: Some(ServiceSpec {
                type_: Some("ClusterIP".to_owned()),
                selector: Some(self.selector()),
                ports: Some(vec![
                    port::service("http", GATEWAY_HTTP),
                    port::service("grpc", GATEWAY_GRPC),
                    port::service("postgres", GATEWAY_POSTGRES),
                    port::service("pg-replica", GATEWAY_REPLICA),
                ]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        }
    }

    /// The disruption budget; a single gateway has none, or its node could never be drained.
    pub fn budget(&self) -> Option<PodDisruptionBudget> {
        let name = name::gateway_budget(self.cluster, &self.cell.spec.name);
        (self.replicas() > 1).then(|| one_at_a_time(self.owner.meta(name, self.labels()), &self.selector()))
    }

    fn template(&self, selector: &Labels) -> PodTemplateSpec {
        let spec = &self.cell.spec;
        PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(label::over(Some(&spec.multigateway.pod_labels), self.labels())),
                annotations: annotations(self.pod_annotations()),
                ..ObjectMeta::default()
            }),
            spec: Some(self.pod(selector)),
        }
    }

    fn project(&self) -> &str {
        let own = self.cell.metadata.annotations.as_ref().and_then(|all| all.get(annotation::PROJECT_REF));
        own.map(String::as_str).filter(|project| !project.is_empty()).unwrap_or(self.cluster)
    }

    fn pod_annotations(&self) -> BTreeMap<String, String> {
        let mut all = self.cell.spec.multigateway.pod_annotations.clone();
        all.insert(annotation::PROJECT_REF.to_owned(), self.project().to_owned());
        if let Some(digest) = self.certificates() {
            all.insert(annotation::CERTIFICATES_HASH.to_owned(), digest.to_owned());
        }
        all
    }

    /// The digest of the certificates, unless the gateways mount none by now.
    fn certificates(&self) -> Option<&str> {
        self.certificates.filter(|_| self.internal_tls() || self.public_tls())
    }

    fn internal_tls(&self) -> bool {
        InternalTlsConfig::is_on(self.cell.spec.internal_tls)
    }

    fn public_tls(&self) -> bool {
        self.cell.spec.cert_common_name.as_ref().is_some_and(|name| !name.is_empty())
    }

    fn pod(&self, selector: &Labels) -> PodSpec {
        let spec = &self.cell.spec;
        let certificates = self.mounted();
        let sampling = telemetry::sampling(spec.observability.as_ref());
        let (mut volumes, mut mounts) = sampling.map_or_else(Default::default, |(v, m)| (vec![v], vec![m]));
        volumes.extend(certificates.volumes);
        mounts.extend(certificates.mounts);
        let mut args = self.args();
        args.extend(certificates.args);
        let container = Container {
            name: Component::Multigateway.as_str().to_owned(),
            image: Some(spec.images.multigateway.clone()),
            image_pull_policy: spec.images.image_pull_policy.map(|policy| policy.to_string()),
            args: Some(args),
            env: Some(self.environment()),
            ports: Some(vec![
                port::container("http", GATEWAY_HTTP),
                port::container("grpc", GATEWAY_GRPC),
                port::container("postgres", GATEWAY_POSTGRES),
                port::container("pg-replica", GATEWAY_REPLICA),
            ]),
            resources: spec.multigateway.resources.clone(),
            volume_mounts: non_empty(&mounts),
            // A gateway is not ready before it knows a pooler, which may take long; that is no reason to restart it.
            startup_probe: Some(probe::startup("/live", GATEWAY_HTTP)),
            liveness_probe: Some(probe::liveness("/live", GATEWAY_HTTP)),
            readiness_probe: Some(probe::readiness("/ready", GATEWAY_HTTP)),
            security_context: Some(security::container()),
            ..Container::default()
        };
        PodSpec {
            containers: vec![container],
            image_pull_secrets: pull_secrets(&spec.images.image_pull_secrets),
            affinity: spec.multigateway.affinity.as_deref().cloned(),
            tolerations: spec.multigateway_placement.as_ref().and_then(|p| non_empty(&p.tolerations)),
            node_selector: Some(node_selector(self.cell, self.zone_id_label)).filter(|nodes| !nodes.is_empty()),
            topology_spread_constraints: Some(spread_over_hosts(selector)),
            security_context: Some(security::pod(security::MULTIGRES, None)),
            automount_service_account_token: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            volumes: non_empty(&volumes),
            ..PodSpec::default()
        }
    }

    fn args(&self) -> Vec<String> {
        let spec = &self.cell.spec;
        let level = spec.log_levels.as_ref().and_then(|levels| levels.multigateway).unwrap_or_default();
        let flags = [
            ("--http-port", GATEWAY_HTTP.to_string()),
            ("--grpc-port", GATEWAY_GRPC.to_string()),
            ("--pg-port", GATEWAY_POSTGRES.to_string()),
            ("--pg-replica-port", GATEWAY_REPLICA.to_string()),
            ("--topo-global-server-addresses", spec.global_topo_server.address.clone()),
            ("--topo-global-root", spec.global_topo_server.root_path.clone()),
            ("--cell", spec.name.clone()),
            ("--log-level", level.to_string()),
            ("--hostname", format!("$({POD_IP})")),
            ("--lameduck-period", LAMEDUCK.to_owned()),
        ];
        let mut args = vec!["multigateway".to_owned()];
        args.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        args.extend(spec.multigateway.buffer.as_deref().into_iter().flat_map(buffer_args));
        args
    }

    fn environment(&self) -> Vec<EnvVar> {
        let attributes =
            Attributes { project: self.project(), cluster: self.cluster, component: Component::Multigateway.as_str() };
        let mut all = vec![from_field(POD_IP, "status.podIP")];
        all.extend(telemetry::variables(self.cell.spec.observability.as_ref(), self.inherited, Some(attributes)));
        all
    }

    fn mounted(&self) -> Certificates {
        let spec = &self.cell.spec;
        let mut all = Certificates::default();
        if self.internal_tls() {
            all.add(tls::internal(
                Component::Multigateway.as_str(),
                self.cluster,
                &self.owner.namespace,
                "tls-certs-internal",
                "/etc/multigateway/tls-internal",
            ));
        }
        all.add(Secrets::of_reference(&spec.global_topo_server).mounted());
        if self.public_tls() {
            all.add(tls::public(PUBLIC_CERTIFICATE, "tls-certs", "/etc/multigateway/tls"));
        }
        all
    }
}

/// The nodes that a cell allows; empty for a cell without a location.
pub fn node_selector(cell: &Cell, zone_id_label: &str) -> BTreeMap<String, String> {
    let spec = &cell.spec;
    let choices = [
        (label::NODE_ZONE, spec.zone.as_ref()),
        (zone_id_label, spec.zone_id.as_ref()),
        (label::NODE_REGION, spec.region.as_ref()),
    ];
    choices
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value.filter(|value| !value.is_empty())?.clone())))
        .collect()
}

fn buffer_args(buffer: &BufferConfig) -> Vec<String> {
    let mut args: Vec<String> = buffer.enabled.iter().map(|on| format!("--buffer-enabled={on}")).collect();
    let valued = [
        ("--buffer-window", buffer.window.clone()),
        ("--buffer-max-failover-duration", buffer.max_failover_duration.clone()),
        ("--buffer-min-time-between-failovers", buffer.min_time_between_failovers.clone()),
        ("--buffer-size", buffer.size.map(|n| n.to_string())),
        ("--buffer-drain-concurrency", buffer.drain_concurrency.map(|n| n.to_string())),
    ];
    args.extend(valued.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?])).flatten());
    args
}
