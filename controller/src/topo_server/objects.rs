//! Builders of an etcd ensemble: StatefulSet, list of members, headless and client Service, disruption budget.
//!
//! Members without data start from a list in a ConfigMap rather than from one in the pod template, so that a further member
//! does not restart the others.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{
            ConfigMap, ConfigMapKeySelector, Container, ContainerState, ContainerStatus, EnvVar, EnvVarSource,
            PersistentVolumeClaim, PersistentVolumeClaimSpec, Pod, PodSpec, PodTemplateSpec, Service, ServiceSpec,
            VolumeMount, VolumeResourceRequirements,
        },
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use serde_json::json;
use shared::{
    api::v1alpha1::{EtcdSpec, PvcDeletionPolicy, PvcRetention, StorageSpec, TopoServer},
    health, image, label,
    label::Labels,
    name,
};

use super::growth::{Declared, Entry};
use crate::workload::{
    environment::{from_field, plain},
    owner::Owner,
    placement::{matching, non_empty, one_at_a_time, pull_secrets, spread_over_zones},
    port::{self, ETCD_CLIENT, ETCD_METRICS, ETCD_PEER},
    probe, revision, security,
};

/// Tells the members of one ensemble from those of every other one of the same cluster.
pub const TOPO_SERVER: &str = "multigres.com/toposerver";

/// Members where the spec names no number.
const REPLICAS: i32 = 3;
/// How far back the history of an etcd goes.
const HISTORY: &str = "1h";
/// Volume size where the spec names none.
const SIZE: &str = "10Gi";
/// Container of a member.
const ETCD: &str = "etcd";
/// From here on a restart is waited for for more than a minute.
const MANY_RESTARTS: i32 = 3;
/// Volume of a member, and where it is mounted.
const VOLUME: &str = "data";
const DATA_DIR: &str = "/var/lib/etcd";
/// Variables with what members start from, and the keys of the list that they come from.
const INITIAL_CLUSTER: (&str, &str) = ("ETCD_INITIAL_CLUSTER", "cluster");
const INITIAL_STATE: (&str, &str) = ("ETCD_INITIAL_CLUSTER_STATE", "state");
/// How a member without data starts: together with all others, or into an ensemble that runs.
const FOUNDS: &str = "new";
const JOINS: &str = "existing";
/// Keys of the list that only the operator reads: how many members it is about, and what is going on with it.
const COUNT: &str = "members";
const STEP: &str = "step";
const LEAVING: &str = "leaving";
const CLOSED: &str = "closed";
const REPLACING: &str = "replacing";
/// Stands in the list where nobody may start from it. A member that does not find itself in the list ends before it writes anything.
const NOBODY: &str = "nobody=http://nobody.invalid:2380";
/// What etcd says last where a member without data may not start, by case: it has been started before, the list is not for it, or
/// the list is not what the others know.
const NO_DATA: [&str; 4] = [
    "has already been bootstrapped",
    "couldn't find local name",
    "error validating peerURLs",
    "cannot fetch cluster info from peer urls",
];

/// What of a running ensemble must stay as it is, because Kubernetes or etcd cannot change it in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fixed {
    /// Selector of the StatefulSet.
    pub selector: Option<Labels>,
    /// Claim templates of the StatefulSet.
    pub claims: Option<Vec<PersistentVolumeClaim>>,
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
    /// Whether the API server keeps what a StatefulSet says about its volumes.
    pub claim_policy: bool,
    /// Nodes that the cell allows; none for the cluster-wide ensemble.
    pub node_selector: Option<&'a BTreeMap<String, String>>,
    /// What must stay as it is.
    pub fixed: &'a Fixed,
    /// How many members it has now.
    pub size: Size,
}

/// The size of an ensemble, which follows the spec step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// How many pods it has.
    pub pods: i32,
    /// The list from which members without data start.
    pub declared: Declared,
    /// How many of its members have a vote.
    pub voters: i32,
}

/// Number of members that a spec asks for.
pub fn wanted_replicas(server: &TopoServer) -> i32 {
    server.spec.etcd.as_ref().and_then(|etcd| etcd.replicas).unwrap_or(REPLICAS)
}

impl Ensemble<'_> {
    /// The list from which members without data start.
    pub fn member_list(&self) -> ConfigMap {
        let Declared { members, entry } = self.size.declared;
        let name = &self.owner.name;
        let all = || (0..members).map(|i| format!("{name}-{i}={}", self.peer_url(i))).collect::<Vec<_>>().join(",");
        let (cluster, state, step) = match entry {
            Entry::Founding => (all(), FOUNDS, None),
            Entry::Joining => (all(), JOINS, None),
            Entry::Replacing(id) => (all(), JOINS, Some(format!("{REPLACING} {id:x}"))),
            Entry::Leaving => (NOBODY.to_owned(), JOINS, Some(LEAVING.to_owned())),
            Entry::Closed => (NOBODY.to_owned(), JOINS, Some(CLOSED.to_owned())),
        };
        let mut data = vec![(INITIAL_CLUSTER.1, cluster), (INITIAL_STATE.1, state.to_owned())];
        if let Some(step) = step {
            data.extend([(COUNT, members.to_string()), (STEP, step)]);
        }
        ConfigMap {
            metadata: self.meta(name::topo_members(name)),
            data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            ..ConfigMap::default()
        }
    }

    /// Where the other members reach one.
    pub fn peer_url(&self, ordinal: u32) -> String {
        let (name, namespace) = (&self.owner.name, &self.owner.namespace);
        let headless = name::topo_headless(name);
        format!("http://{name}-{ordinal}.{headless}.{namespace}.svc.{}:{ETCD_PEER}", self.domain)
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
                replicas: Some(self.size.pods),
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
                persistent_volume_claim_retention_policy: self.claim_policy.then(|| self.retention()),
                ..StatefulSetSpec::default()
            }),
            ..StatefulSet::default()
        }
    }

    /// What the user wants of the members. How many there are is not part of it.
    pub fn intent(&self) -> String {
        // Which labels of nodes the places of a cell select is a setting of the operator.
        let mut places: Vec<&String> = self.node_selector.into_iter().flat_map(BTreeMap::values).collect();
        places.sort();
        revision::intent(&json!({
            "image": self.etcd().and_then(|etcd| etcd.image.as_ref()),
            "resources": self.etcd().and_then(|etcd| etcd.resources.as_ref()),
            "placement": self.server.spec.placement,
            "pullPolicy": self.server.spec.image_pull_policy,
            "pullSecrets": self.server.spec.image_pull_secrets,
            "places": places,
        }))
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
        (self.size.pods > 1).then(|| one_at_a_time(self.meta(name::topo_budget(&self.owner.name)), &self.selector()))
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
        let etcd = self.etcd();
        let hardened = !self.fixed.adopted;
        let container = Container {
            name: ETCD.to_owned(),
            image: Some(etcd.and_then(|e| e.image.clone()).unwrap_or_else(|| image::ETCD.to_owned())),
            image_pull_policy: self.server.spec.image_pull_policy.map(|policy| policy.to_string()),
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
            // Why a member does not start is told by its last lines alone.
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        };
        PodSpec {
            containers: vec![container],
            tolerations: self.server.spec.placement.as_ref().and_then(|p| non_empty(&p.tolerations)),
            image_pull_secrets: pull_secrets(&self.server.spec.image_pull_secrets),
            node_selector: self.node_selector.filter(|nodes| !nodes.is_empty()).cloned(),
            topology_spread_constraints: hardened.then(|| spread_over_zones(&self.selector())),
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
        let list = name::topo_members(name);
        let mut environment = vec![
            from_field("POD_NAME", "metadata.name"),
            from_field("POD_NAMESPACE", "metadata.namespace"),
            plain("ETCD_NAME", "$(POD_NAME)"),
            plain("ETCD_DATA_DIR", DATA_DIR),
            plain("ETCD_LISTEN_CLIENT_URLS", format!("http://[::]:{ETCD_CLIENT}")),
            plain("ETCD_LISTEN_PEER_URLS", format!("http://[::]:{ETCD_PEER}")),
            plain("ETCD_LISTEN_METRICS_URLS", format!("http://[::]:{ETCD_METRICS}")),
            plain("ETCD_ADVERTISE_CLIENT_URLS", own(ETCD_CLIENT)),
            plain("ETCD_INITIAL_ADVERTISE_PEER_URLS", own(ETCD_PEER)),
            listed(INITIAL_STATE, &list),
            plain("ETCD_INITIAL_CLUSTER_TOKEN", name.as_str()),
            listed(INITIAL_CLUSTER, &list),
        ];
        if !self.fixed.adopted {
            // Nobody else compacts it, and what is never compacted ends at the quota, read-only. Watches of the data plane that were away for
            // longer begin anew with a list.
            environment.extend([
                plain("ETCD_AUTO_COMPACTION_MODE", "periodic"),
                plain("ETCD_AUTO_COMPACTION_RETENTION", HISTORY),
            ]);
        }
        environment
    }
}

/// A variable that comes from the list of members.
fn listed((variable, key): (&str, &str), list: &str) -> EnvVar {
    EnvVar {
        name: variable.to_owned(),
        value_from: Some(EnvVarSource {
            config_map_key_ref: Some(ConfigMapKeySelector {
                name: list.to_owned(),
                key: key.to_owned(),
                ..ConfigMapKeySelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// What a list of members says; nothing where it is none.
pub fn declared(list: &ConfigMap) -> Option<Declared> {
    let data = list.data.as_ref()?;
    let joins = data.get(INITIAL_STATE.1)? == JOINS;
    let Some(step) = data.get(STEP) else {
        let entry = if joins { Entry::Joining } else { Entry::Founding };
        return Some(Declared { members: entries(data.get(INITIAL_CLUSTER.1)?)?, entry });
    };
    let entry = match step.split_once(' ') {
        Some((REPLACING, id)) => Entry::Replacing(u64::from_str_radix(id, 16).ok()?),
        None if step == LEAVING => Entry::Leaving,
        None if step == CLOSED => Entry::Closed,
        _ => return None,
    };
    let members = data.get(COUNT)?.parse().ok().filter(|members| *members > 0)?;
    Some(Declared { members, entry })
}

/// Whether a pod does not start because its member has no data. One that runs at the moment may be on its way back.
pub fn has_no_data(pod: &Pod) -> bool {
    let Some(etcd) = etcd_status(pod) else { return false };
    let ended = |state: &ContainerState| {
        let message = state.terminated.as_ref()?.message.as_deref()?;
        Some(NO_DATA.iter().any(|text| message.contains(text)))
    };
    let state = etcd.state.as_ref();
    let runs = state.is_some_and(|state| state.running.is_some());
    // An older end says nothing about why it ended now.
    let last = state.filter(|state| state.terminated.is_some()).or(etcd.last_state.as_ref());
    !health::is_terminating(pod) && !runs && last.and_then(ended) == Some(true)
}

/// Whether the kubelet lets a pod wait for a long time before it starts it again.
pub fn is_held_back(pod: &Pod) -> bool {
    etcd_status(pod).is_some_and(|etcd| etcd.restart_count >= MANY_RESTARTS)
}

fn etcd_status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find(|status| status.name == ETCD)
}

/// Whether members of a running ensemble start from the list; those of the Go operator have it in their pod template.
pub fn reads_list(set: &StatefulSet) -> bool {
    initial_cluster(set).is_some_and(|variable| variable.value_from.is_some())
}

/// How many members the pod template itself lists, which no scaling changes.
pub fn template_size(set: &StatefulSet) -> Option<u32> {
    entries(initial_cluster(set)?.value.as_deref()?)
}

fn initial_cluster(set: &StatefulSet) -> Option<&EnvVar> {
    let pod = set.spec.as_ref()?.template.spec.as_ref()?;
    let mut variables = pod.containers.iter().flat_map(|container| container.env.iter().flatten());
    variables.find(|variable| variable.name == INITIAL_CLUSTER.0)
}

fn entries(list: &str) -> Option<u32> {
    let count = list.split(',').filter(|member| !member.is_empty()).count();
    u32::try_from(count).ok().filter(|count| *count > 0)
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
