//! Builders of an etcd ensemble: StatefulSet, headless and client Service, disruption budget.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{
            Container, EnvVar, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSpec, PodTemplateSpec, Service,
            ServiceSpec, VolumeMount, VolumeResourceRequirements,
        },
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use shared::{
    api::v1alpha1::{EtcdSpec, PvcDeletionPolicy, PvcRetention, StorageSpec, TopoServer},
    image, label,
    label::Labels,
    name,
};

use crate::workload::{
    environment::{from_field, plain},
    owner::Owner,
    placement::{matching, non_empty, one_at_a_time, spread_over_zones},
    port::{self, ETCD_CLIENT, ETCD_METRICS, ETCD_PEER},
    probe, security,
};

/// Tells the members of one ensemble from those of every other one of the same cluster.
pub const TOPO_SERVER: &str = "multigres.com/toposerver";

/// Members where the spec names no number.
const REPLICAS: i32 = 3;
/// Volume size where the spec names none.
const SIZE: &str = "10Gi";
/// Volume of a member, and where it is mounted.
const VOLUME: &str = "data";
const DATA_DIR: &str = "/var/lib/etcd";

/// What of a running ensemble must stay as it is, because Kubernetes or etcd cannot change it in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fixed {
    /// Selector of the StatefulSet.
    pub selector: Option<Labels>,
    /// Claim templates of the StatefulSet.
    pub claims: Option<Vec<PersistentVolumeClaim>>,
    /// Number of members.
    pub replicas: Option<i32>,
    /// Whether the ensemble was made by an operator that set neither the label [`TOPO_SERVER`] nor a user.
    pub adopted: bool,
    /// Whether some members of an adopted ensemble still lack the label, so that Services must not select on it.
    pub unlabelled_members: bool,
}

/// Everything that the builders need.
#[derive(Clone, Copy, Debug)]
pub struct Ensemble<'a> {
    /// The object that asks for it.
    pub server: &'a TopoServer,
    /// Its identity.
    pub owner: &'a Owner,
    /// Name of the cluster.
    pub cluster: &'a str,
    /// DNS domain of the Kubernetes cluster.
    pub domain: &'a str,
    /// Nodes that the cell allows; none for the cluster-wide ensemble.
    pub node_selector: Option<&'a BTreeMap<String, String>>,
    /// What must stay as it is.
    pub fixed: &'a Fixed,
}

impl Ensemble<'_> {
    /// Number of members that the spec asks for.
    pub fn wanted_replicas(&self) -> i32 {
        self.etcd().and_then(|etcd| etcd.replicas).unwrap_or(REPLICAS)
    }

    /// Number of members that the ensemble gets: the number that it was made with.
    ///
    /// Members find each other through a fixed list. Members added to a running ensemble by a longer list would form one of
    /// their own behind the same Service.
    pub fn replicas(&self) -> i32 {
        self.fixed.replicas.unwrap_or_else(|| self.wanted_replicas())
    }

    /// Labels of all objects of the ensemble.
    pub fn labels(&self) -> Labels {
        let own = self.server.metadata.labels.clone().unwrap_or_default();
        let mut labels = label::of_topo_workload(self.cluster, &own);
        labels.insert(TOPO_SERVER.to_owned(), self.owner.name.clone());
        labels
    }

    /// Selects the members.
    pub fn selector(&self) -> Labels {
        let mut selector = label::selector(&self.labels());
        if !self.fixed.unlabelled_members {
            selector.insert(TOPO_SERVER.to_owned(), self.owner.name.clone());
        }
        selector
    }

    /// The claim templates that the spec asks for.
    pub fn wanted_claims(&self) -> Vec<PersistentVolumeClaim> {
        let storage = self.etcd().and_then(|etcd| etcd.storage.clone()).unwrap_or_default();
        vec![claim(&storage, self.labels())]
    }

    /// The StatefulSet.
    pub fn stateful_set(&self) -> StatefulSet {
        let labels = self.labels();
        let fresh_selector = {
            let mut selector = label::selector(&labels);
            selector.insert(TOPO_SERVER.to_owned(), self.owner.name.clone());
            selector
        };
        let selector = self.fixed.selector.clone().unwrap_or(fresh_selector);
        StatefulSet {
            metadata: self.meta(self.owner.name.clone()),
            spec: Some(StatefulSetSpec {
                replicas: Some(self.replicas()),
                service_name: Some(name::topo_headless(&self.owner.name)),
                pod_management_policy: Some("Parallel".to_owned()),
                update_strategy: Some(StatefulSetUpdateStrategy {
                    type_: Some("RollingUpdate".to_owned()),
                    ..StatefulSetUpdateStrategy::default()
                }),
                selector: matching(&selector),
                template: PodTemplateSpec {
                    metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                    spec: Some(self.pod()),
                },
                volume_claim_templates: Some(self.fixed.claims.clone().unwrap_or_else(|| self.wanted_claims())),
                persistent_volume_claim_retention_policy: Some(self.retention()),
                ..StatefulSetSpec::default()
            }),
            ..StatefulSet::default()
        }
    }

    /// The Service that gives members their addresses, ready or not.
    pub fn headless_service(&self) -> Service {
        self.service(
            name::topo_headless(&self.owner.name),
            ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                ports: Some(vec![port::service("client", ETCD_CLIENT), port::service("peer", ETCD_PEER)]),
                publish_not_ready_addresses: Some(true),
                ..ServiceSpec::default()
            },
        )
    }

    /// The Service that clients dial.
    pub fn client_service(&self) -> Service {
        self.service(
            self.owner.name.clone(),
            ServiceSpec {
                type_: Some("ClusterIP".to_owned()),
                ports: Some(vec![port::service("client", ETCD_CLIENT)]),
                ..ServiceSpec::default()
            },
        )
    }

    /// The disruption budget; a single member has none, or its node could never be drained.
    pub fn budget(&self) -> Option<PodDisruptionBudget> {
        (self.replicas() > 1).then(|| one_at_a_time(self.meta(name::topo_budget(&self.owner.name)), &self.selector()))
    }

    fn etcd(&self) -> Option<&EtcdSpec> {
        self.server.spec.etcd.as_ref()
    }

    fn meta(&self, name: String) -> ObjectMeta {
        self.owner.meta(name, self.labels())
    }

    fn service(&self, name: String, spec: ServiceSpec) -> Service {
        Service {
            metadata: self.meta(name),
            spec: Some(ServiceSpec {
                selector: Some(self.selector()),
                ip_family_policy: Some("PreferDualStack".to_owned()),
                ..spec
            }),
            ..Service::default()
        }
    }

    fn retention(&self) -> StatefulSetPersistentVolumeClaimRetentionPolicy {
        let policy = policy(self.server);
        let word = |retention: Option<PvcRetention>| Some(retention.unwrap_or_default().to_string());
        StatefulSetPersistentVolumeClaimRetentionPolicy {
            when_deleted: word(policy.when_deleted),
            when_scaled: word(policy.when_scaled),
        }
    }

    fn pod(&self) -> PodSpec {
        let replicas = self.replicas();
        let etcd = self.etcd();
        let hardened = !self.fixed.adopted;
        let container = Container {
            name: "etcd".to_owned(),
            image: Some(etcd.and_then(|e| e.image.clone()).unwrap_or_else(|| image::ETCD.to_owned())),
            resources: etcd.and_then(|e| e.resources.clone()),
            env: Some(self.environment()),
            ports: Some(vec![
                port::container("client", ETCD_CLIENT),
                port::container("peer", ETCD_PEER),
                port::container("metrics", ETCD_METRICS),
            ]),
            volume_mounts: Some(vec![VolumeMount {
                name: VOLUME.to_owned(),
                mount_path: DATA_DIR.to_owned(),
                ..VolumeMount::default()
            }]),
            startup_probe: Some(probe::startup("/readyz", ETCD_METRICS)),
            liveness_probe: Some(probe::liveness("/livez", ETCD_METRICS)),
            readiness_probe: Some(probe::readiness("/readyz", ETCD_METRICS)),
            security_context: hardened.then(security::container),
            ..Container::default()
        };
        PodSpec {
            containers: vec![container],
            tolerations: self.server.spec.placement.as_ref().and_then(|p| non_empty(&p.tolerations)),
            node_selector: self.node_selector.filter(|nodes| !nodes.is_empty()).cloned(),
            topology_spread_constraints: spread_over_zones(replicas, &self.selector()).filter(|_| hardened),
            security_context: hardened.then(|| security::pod(security::ETCD, Some(security::ETCD))),
            automount_service_account_token: Some(false),
            ..PodSpec::default()
        }
    }

    fn environment(&self) -> Vec<EnvVar> {
        let name = &self.owner.name;
        let headless = name::topo_headless(name);
        let domain = self.domain;
        let own = |port: i32| format!("http://$(POD_NAME).{headless}.$(POD_NAMESPACE).svc.{domain}:{port}");
        let members: Vec<String> = (0..self.replicas())
            .map(|i| {
                let namespace = &self.owner.namespace;
                format!("{name}-{i}=http://{name}-{i}.{headless}.{namespace}.svc.{domain}:{ETCD_PEER}")
            })
            .collect();
        vec![
            from_field("POD_NAME", "metadata.name"),
            from_field("POD_NAMESPACE", "metadata.namespace"),
            plain("ETCD_NAME", "$(POD_NAME)"),
            plain("ETCD_DATA_DIR", DATA_DIR),
            plain("ETCD_LISTEN_CLIENT_URLS", format!("http://[::]:{ETCD_CLIENT}")),
            plain("ETCD_LISTEN_PEER_URLS", format!("http://[::]:{ETCD_PEER}")),
            plain("ETCD_LISTEN_METRICS_URLS", format!("http://[::]:{ETCD_METRICS}")),
            plain("ETCD_ADVERTISE_CLIENT_URLS", own(ETCD_CLIENT)),
            plain("ETCD_INITIAL_ADVERTISE_PEER_URLS", own(ETCD_PEER)),
            plain("ETCD_INITIAL_CLUSTER_STATE", "new"),
            plain("ETCD_INITIAL_CLUSTER_TOKEN", name.as_str()),
            plain("ETCD_INITIAL_CLUSTER", members.join(",")),
        ]
    }
}

/// The volume policy of an ensemble: that of its etcd block, then its own, per field.
pub fn policy(server: &TopoServer) -> PvcDeletionPolicy {
    let inner = server.spec.etcd.as_ref().and_then(|etcd| etcd.pvc_deletion_policy).unwrap_or_default();
    let outer = server.spec.pvc_deletion_policy.unwrap_or_default();
    PvcDeletionPolicy {
        when_deleted: inner.when_deleted.or(outer.when_deleted),
        when_scaled: inner.when_scaled.or(outer.when_scaled),
    }
}

fn claim(storage: &StorageSpec, labels: Labels) -> PersistentVolumeClaim {
    let modes = non_empty(&storage.access_modes).unwrap_or_else(|| vec!["ReadWriteOnce".to_owned()]);
    let size = storage.size.clone().filter(|size| !size.is_empty()).unwrap_or_else(|| SIZE.to_owned());
    PersistentVolumeClaim {
        // With the labels of the ensemble, claims are found by the watch and by the collector of orphaned volumes.
        metadata: ObjectMeta { name: Some(VOLUME.to_owned()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(modes),
            storage_class_name: storage.storage_class().filter(|class| !class.is_empty()).map(str::to_owned),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
