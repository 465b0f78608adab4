//! Builders of the management plane: multiadmin and its web page.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        core::v1::{Container, EnvVar, LocalObjectReference, PodSpec, PodTemplateSpec, Service, ServiceSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use shared::{
    api::v1alpha1::{
        ExternalServiceConfig, GlobalTopoServerRef, LogLevel, ObservabilityConfig, PodPlacementSpec,
        PostgresPasswordSecretRef, PullPolicy, StatelessSpec,
    },
    label,
    label::Component,
    name,
};

use crate::topo_server::client::Secrets;
use crate::workload::{
    environment::{from_secret, plain},
    owner::{Owner, annotations},
    placement::{matching, non_empty, pull_secrets, spread_over_hosts},
    port::{self, ADMIN_GRPC, ADMIN_HTTP, GATEWAY_POSTGRES, WEB_HTTP},
    probe, security, telemetry,
    telemetry::Inherited,
    tls::{self, Certificates},
};

/// The database that the web page shows.
const DATABASE: &str = "postgres";

/// What both Deployments of the management plane share.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Identity of the cluster.
    pub owner: &'a Owner,
    /// Replicas, resources, affinity, labels and annotations.
    pub stateless: &'a StatelessSpec,
    /// Container image.
    pub image: &'a str,
    /// When nodes pull it.
    pub pull_policy: PullPolicy,
    /// With which secrets.
    pub pull_secrets: &'a [LocalObjectReference],
    /// Where it may run.
    pub placement: Option<&'a PodPlacementSpec>,
}

/// What multiadmin alone needs.
#[derive(Clone, Copy, Debug)]
pub struct Admin<'a> {
    /// What both Deployments share.
    pub part: Part<'a>,
    /// Where the topology is.
    pub topology: &'a GlobalTopoServerRef,
    /// Telemetry settings of the cluster.
    pub observability: Option<&'a ObservabilityConfig>,
    /// Telemetry variables of the operator's own process.
    pub inherited: &'a Inherited,
    /// Log level.
    pub log_level: LogLevel,
    /// Whether the components speak mutual TLS.
    pub internal_tls: bool,
}

/// What the web page alone needs.
#[derive(Clone, Copy, Debug)]
pub struct Web<'a> {
    /// What both Deployments share.
    pub part: Part<'a>,
    /// Name of the superuser.
    pub user: &'a str,
    /// Where the superuser's password is.
    pub password: &'a PostgresPasswordSecretRef,
}

impl Part<'_> {
    fn deployment(&self, component: Component, name: String, pod: PodSpec) -> Deployment {
        let labels = label::of_cluster(&self.owner.name, component);
        let selector = label::selector(&labels);
        let replicas = self.stateless.replicas.unwrap_or(1);
        Deployment {
            metadata: self.owner.meta(name, labels.clone()),
            spec: Some(DeploymentSpec {
                replicas: Some(replicas),
                selector: matching(&selector),
                template: PodTemplateSpec {
                    metadata: Some(ObjectMeta {
                        labels: Some(label::over(Some(&self.stateless.pod_labels), labels)),
                        annotations: annotations(self.stateless.pod_annotations.clone()),
                        ..ObjectMeta::default()
                    }),
                    spec: Some(PodSpec {
                        affinity: self.stateless.affinity.as_deref().cloned(),
                        tolerations: self.placement.and_then(|placement| non_empty(&placement.tolerations)),
                        image_pull_secrets: pull_secrets(self.pull_secrets),
                        topology_spread_constraints: Some(spread_over_hosts(&selector)),
                        automount_service_account_token: Some(false),
                        ..pod
                    }),
                },
                ..DeploymentSpec::default()
            }),
            ..Deployment::default()
        }
    }

    fn container(&self, component: Component) -> Container {
        Container {
            name: component.as_str().to_owned(),
            image: Some(self.image.to_owned()),
            image_pull_policy: Some(self.pull_policy.to_string()),
            resources: self.stateless.resources.clone(),
            security_context: Some(security::container()),
            ..Container::default()
        }
    }
}

impl Admin<'_> {
    /// The Deployment.
    pub fn deployment(&self) -> Deployment {
        let cluster = &self.part.owner.name;
        let mut args = vec![
            format!("--http-port={ADMIN_HTTP}"),
            format!("--grpc-port={ADMIN_GRPC}"),
            format!("--topo-global-server-addresses={}", self.topology.address),
            format!("--topo-global-root={}", self.topology.root_path),
            "--service-map=grpc-multiadmin".to_owned(),
            "--pprof-http=true".to_owned(),
            format!("--log-level={}", self.log_level),
        ];
        let mut certificates = if self.internal_tls {
            let namespace = &self.part.owner.namespace;
            tls::internal(Component::Multiadmin.as_str(), cluster, namespace, "tls-certs", "/etc/multiadmin/tls")
        } else {
            Certificates::default()
        };
        certificates.add(Secrets::of_reference(self.topology).mounted());
        args.extend(certificates.args);
        let sampling = telemetry::sampling(self.observability);
        let (mut volumes, mut mounts) = sampling.map_or_else(Default::default, |(v, m)| (vec![v], vec![m]));
        volumes.extend(certificates.volumes);
        mounts.extend(certificates.mounts);
        let container = Container {
            command: Some(vec!["/multigres/bin/multiadmin".to_owned()]),
            args: Some(args),
            env: non_empty(&telemetry::variables(self.observability, self.inherited, None)),
            ports: Some(vec![port::container("http", ADMIN_HTTP), port::container("grpc", ADMIN_GRPC)]),
            startup_probe: Some(probe::startup("/ready", ADMIN_HTTP)),
            liveness_probe: Some(probe::liveness("/live", ADMIN_HTTP)),
            readiness_probe: Some(probe::readiness("/ready", ADMIN_HTTP)),
            volume_mounts: non_empty(&mounts),
            ..self.part.container(Component::Multiadmin)
        };
        let pod = PodSpec {
            containers: vec![container],
            volumes: non_empty(&volumes),
            security_context: Some(security::pod(security::MULTIGRES, None)),
            ..PodSpec::default()
        };
        self.part.deployment(Component::Multiadmin, name::multiadmin(cluster), pod)
    }
}

/// The Service of multiadmin.
pub fn service(owner: &Owner) -> Service {
    let labels = label::of_cluster(&owner.name, Component::Multiadmin);
    Service {
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(label::selector(&labels)),
            ports: Some(vec![port::service_to("http", ADMIN_HTTP), port::service_to("grpc", ADMIN_GRPC)]),
            ..ServiceSpec::default()
        }),
        metadata: owner.meta(name::multiadmin(&owner.name), labels),
        ..Service::default()
    }
}

impl Web<'_> {
    /// The Deployment.
    pub fn deployment(&self) -> Deployment {
        let cluster = &self.part.owner.name;
        let container = Container {
            env: Some(self.environment()),
            ports: Some(vec![port::container("http", WEB_HTTP)]),
            startup_probe: Some(probe::startup("/", WEB_HTTP)),
            liveness_probe: Some(probe::liveness("/", WEB_HTTP)),
            readiness_probe: Some(probe::readiness("/", WEB_HTTP)),
            ..self.part.container(Component::MultiadminWeb)
        };
        let pod = PodSpec {
            containers: vec![container],
            security_context: Some(security::pod(security::WEB, None)),
            ..PodSpec::default()
        };
        self.part.deployment(Component::MultiadminWeb, name::multiadmin_web(cluster), pod)
    }

    fn environment(&self) -> Vec<EnvVar> {
        let cluster = &self.part.owner.name;
        vec![
            // Listens on both IP families.
            plain("HOSTNAME", "::"),
            plain("MULTIADMIN_API_URL", format!("http://{}:{ADMIN_HTTP}", name::multiadmin(cluster))),
            plain("POSTGRES_HOST", name::cluster_gateway(cluster)),
            plain("POSTGRES_PORT", GATEWAY_POSTGRES.to_string()),
            plain("POSTGRES_DATABASE", DATABASE),
            plain("POSTGRES_USER", self.user),
            from_secret("POSTGRES_PASSWORD", &self.password.name, &self.password.key),
        ]
    }
}

/// The Service of the web page, reachable from outside where `external` says so.
pub fn web_service(owner: &Owner, external: Option<&ExternalServiceConfig>) -> Service {
    let labels = label::of_cluster(&owner.name, Component::MultiadminWeb);
    let service = Service {
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(label::selector(&labels)),
            ports: Some(vec![port::service_to("http", WEB_HTTP)]),
            ..ServiceSpec::default()
        }),
        metadata: owner.meta(name::multiadmin_web(&owner.name), labels),
        ..Service::default()
    };
    exposed(service, external)
}

/// Adds the type, external addresses and annotations where they are enabled; otherwise leaves the Service as it was, with neither
/// addresses nor annotations, which removes them.
pub fn exposed(mut service: Service, external: Option<&ExternalServiceConfig>) -> Service {
    if let Some(external) = external.filter(|external| external.enabled) {
        service.metadata.annotations = annotations(external.annotations.clone());
        if let Some(spec) = service.spec.as_mut() {
            spec.type_ = Some(external.r#type.unwrap_or_default().to_string());
            spec.external_ips = non_empty(&external.external_ips);
        }
    }
    service
}
