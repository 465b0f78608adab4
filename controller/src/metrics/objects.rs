//! Series of objects, made from the watches' tables while somebody scrapes: never stale, and gone with their object.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt as _};
use shared::{
    api::v1alpha1::{MultigresCluster, Phase},
    clock::Clock,
    kubeutil::ObjectKey,
    label::{self, Component},
    metrics::{Source, Text},
    name,
    pki::Certificate,
};

use super::memory::Memory;
use crate::stores::{Stores, Table};

/// What the tables hold, as series.
pub(super) struct Objects {
    pub(super) stores: Arc<Stores>,
    pub(super) memory: Arc<Memory>,
    pub(super) clock: Arc<dyn Clock>,
}

/// What all kinds have.
struct Seen {
    kind: &'static str,
    namespace: String,
    name: String,
    cluster: String,
    phase: Option<Phase>,
    lag: i64,
    deleted: Option<i64>,
    conditions: Vec<Condition>,
}

impl Objects {
    pub(super) fn new(stores: Arc<Stores>, memory: Arc<Memory>, clock: Arc<dyn Clock>) -> Self {
        Self { stores, memory, clock }
    }

    fn clusters(&self, text: &mut Text, clusters: &[Arc<MultigresCluster>]) {
        let each = |text: &mut Text, family: &str, of: &dyn Fn(&MultigresCluster) -> f64| {
            let mut samples = text.family(family);
            for cluster in clusters {
                samples.add(&[&cluster.name_any(), &namespace(&**cluster)], of(cluster));
            }
        };
        let mut info = text.family("multigres_operator_cluster_info");
        for cluster in clusters {
            let phase = cluster.status.as_ref().and_then(|status| status.phase).unwrap_or(Phase::Initializing);
            info.add(&[&cluster.name_any(), &namespace(&**cluster), phase.as_ref()], 1.0);
        }
        let cells = |cluster: &MultigresCluster| cluster.status.as_ref().map_or(0, |status| status.cells.len());
        let shards = |cluster: &MultigresCluster| {
            let status = cluster.status.iter().flat_map(|status| status.databases.values());
            f64::from(status.map(|database| database.total_shards).sum::<i32>())
        };
        for family in ["multigres_operator_cluster_cells", "multigres_operator_cluster_cells_total"] {
            each(text, family, &|cluster| number(cells(cluster)));
        }
        for family in ["multigres_operator_cluster_shards", "multigres_operator_cluster_shards_total"] {
            each(text, family, &|cluster| shards(cluster));
        }
        let mut images = text.family("multigres_operator_image_revision_info");
        for cluster in clusters {
            let Some(status) = cluster.status.as_ref().and_then(|status| status.images.as_ref()) else { continue };
            let Some(revision) = &status.applied_revision else { continue };
            let pending = status.available_revision.as_ref().is_some_and(|available| available != revision);
            let pending = if pending { "true" } else { "false" };
            images.add(&[&namespace(&**cluster), &cluster.name_any(), revision, pending], 1.0);
        }
        self.templates(text, clusters);
    }

    fn templates(&self, text: &mut Text, clusters: &[Arc<MultigresCluster>]) {
        let mut used: BTreeMap<(&str, String, &str), usize> = BTreeMap::new();
        for cluster in clusters {
            let Some(resolved) = cluster.status.as_ref().and_then(|status| status.resolved_templates.as_ref()) else {
                continue;
            };
            let kinds = [
                ("CoreTemplate", &resolved.core_templates),
                ("CellTemplate", &resolved.cell_templates),
                ("ShardTemplate", &resolved.shard_templates),
            ];
            for (kind, names) in kinds {
                for name in names.iter().collect::<BTreeSet<_>>() {
                    *used.entry((kind, namespace(&**cluster), name.as_str())).or_default() += 1;
                }
            }
        }
        let mut consumers = text.family("multigres_operator_template_consumers");
        let mut each = |kind: &str, templates: Vec<(String, String)>| {
            for (namespace, name) in templates {
                let count = used.get(&(kind, namespace.clone(), name.as_str())).copied().unwrap_or_default();
                consumers.add(&[kind, &namespace, &name], number(count));
            }
        };
        each("CoreTemplate", names(&self.stores.core_templates));
        each("CellTemplate", names(&self.stores.cell_templates));
        each("ShardTemplate", names(&self.stores.shard_templates));
    }

    /// When the certificates end that were made here; those of users are not watched.
    fn certificates(&self, text: &mut Text) {
        let made = [Component::InternalTls, Component::PublicTls, Component::PgbackrestTls];
        let mut ends = text.family("multigres_operator_certificate_expiry_timestamp_seconds");
        for secret in sorted(&self.stores.secrets) {
            let component = secret.labels().get(label::COMPONENT);
            if !component.is_some_and(|component| made.iter().any(|made| made.as_str() == component)) {
                continue;
            }
            let data = secret.data.as_ref();
            let pem = data.and_then(|data| data.get("tls.crt").or_else(|| data.get("ca.crt")));
            let certificate = pem.and_then(|pem| Certificate::first(std::str::from_utf8(&pem.0).ok()?).ok());
            if let Some(certificate) = certificate {
                let labels = [&cluster_of(&*secret), &namespace(&*secret), &secret.name_any()];
                ends.add(&labels.map(String::as_str), seconds(certificate.not_after().as_second()));
            }
        }
    }

    fn cells(&self, text: &mut Text) {
        let mut replicas = text.family("multigres_operator_cell_gateway_replicas");
        for cell in sorted(&self.stores.cells) {
            let (namespace, cluster, object) = (namespace(&*cell), cluster_of(&*cell), cell.name_any());
            let deployment =
                self.stores.deployments.get(&namespace, &name::gateway_deployment(&cluster, &cell.spec.name));
            let wanted = deployment.as_ref().and_then(|live| live.spec.as_ref()?.replicas);
            let reported = cell.status.as_ref().map_or(0, |status| status.gateway_replicas);
            let ready = deployment.as_ref().and_then(|live| live.status.as_ref()?.ready_replicas).unwrap_or_default();
            for (state, count) in [("desired", wanted.unwrap_or(reported)), ("ready", ready)] {
                replicas.add(&[&cluster, &object, &namespace, state], count.into());
            }
        }
    }

    fn all_kinds(&self) -> Vec<Seen> {
        let stores = &self.stores;
        let mut all = Vec::new();
        macro_rules! kind {
            ($table:ident, $conditions:expr) => {
                all.extend(sorted(&stores.$table).into_iter().map(|object| {
                    let status = object.status.as_ref();
                    let conditions: fn(&[Condition]) -> Vec<Condition> = $conditions;
                    let observed = status.and_then(|status| status.observed_generation).unwrap_or_default();
                    seen(
                        &*object,
                        status.and_then(|status| status.phase),
                        object.metadata.generation.unwrap_or_default() - observed,
                        status.map(|status| conditions(&status.conditions)).unwrap_or_default(),
                    )
                }));
            };
        }
        kind!(clusters, <[Condition]>::to_vec);
        kind!(cells, |_| Vec::new());
        kind!(table_groups, |_| Vec::new());
        kind!(shards, <[Condition]>::to_vec);
        kind!(topo_servers, |_| Vec::new());
        all
    }

    fn objects(&self, text: &mut Text) {
        let all = self.all_kinds();
        let mut phases = text.family("multigres_operator_object_phase");
        for object in &all {
            if let Some(phase) = &object.phase {
                phases.add(&[object.kind, &object.namespace, &object.name, &object.cluster, phase.as_ref()], 1.0);
            }
        }
        let mut conditions = text.family("multigres_operator_object_condition");
        for object in &all {
            for condition in &object.conditions {
                let value = match condition.status.as_str() {
                    "True" => 1.0,
                    "False" => 0.0,
                    _ => -1.0,
                };
                conditions
                    .add(&[object.kind, &object.namespace, &object.name, &object.cluster, &condition.type_], value);
            }
        }
        let mut lags = text.family("multigres_operator_object_generation_lag");
        for object in &all {
            lags.add(&[object.kind, &object.namespace, &object.name, &object.cluster], seconds(object.lag.max(0)));
        }
        let mut deleted = text.family("multigres_operator_object_deletion_timestamp_seconds");
        for object in &all {
            if let Some(at) = object.deleted {
                deleted.add(&[object.kind, &object.namespace, &object.name], seconds(at));
            }
        }
    }

    fn passes(&self, text: &mut Text) {
        self.memory.retain(|key| exists(&self.stores, key));
        let passes = self.memory.passes();
        let namespace = |key: &ObjectKey| key.namespace.clone().unwrap_or_default();
        let mut succeeded = text.family("multigres_operator_object_last_success_timestamp_seconds");
        for (key, passes) in &passes {
            succeeded.add(&[&key.kind, &namespace(key), &key.name], seconds(passes.succeeded.as_second()));
        }
        let mut failed = text.family("multigres_operator_object_failed_passes");
        for (key, passes) in &passes {
            failed.add(&[passes.controller, &key.kind, &namespace(key), &key.name], passes.failed.into());
        }
        let mut errors = text.family("multigres_operator_reconcile_errors_total");
        for (key, passes) in &passes {
            for (class, number) in [("transient", passes.transient), ("bug", passes.bugs)] {
                if number > 0 {
                    errors.add(&[passes.controller, &key.name, &namespace(key), class], count(number));
                }
            }
        }
    }

    fn claims(&self, text: &mut Text) {
        let claims = sorted(&self.stores.claims);
        let mut orphans: BTreeMap<String, usize> = BTreeMap::new();
        for claim in &claims {
            let orphan = claim.labels().contains_key(label::ORPHAN_SINCE);
            *orphans.entry(namespace(&**claim)).or_default() += usize::from(orphan);
        }
        let mut waiting = text.family("multigres_operator_pvc_orphaned");
        for (namespace, count) in &orphans {
            waiting.add(&[namespace], number(*count));
        }
        let mut infos = text.family("multigres_operator_volume_claim_info");
        for claim in &claims {
            let component = claim.labels().get(label::COMPONENT).map_or("", String::as_str);
            infos.add(&[&namespace(&**claim), &claim.name_any(), &cluster_of(&**claim), component], 1.0);
        }
    }

    fn cache(&self, text: &mut Text) {
        let stores = &self.stores;
        let mut held = text.family("multigres_operator_cache_objects");
        for (kind, objects) in [
            ("MultigresCluster", stores.clusters.all().len()),
            ("CoreTemplate", stores.core_templates.all().len()),
            ("CellTemplate", stores.cell_templates.all().len()),
            ("ShardTemplate", stores.shard_templates.all().len()),
            ("Cell", stores.cells.all().len()),
            ("TableGroup", stores.table_groups.all().len()),
            ("Shard", stores.shards.all().len()),
            ("TopoServer", stores.topo_servers.all().len()),
            ("MultigresBackup", stores.backups.all().len()),
            ("Deployment", stores.deployments.all().len()),
            ("StatefulSet", stores.stateful_sets.all().len()),
            ("Service", stores.services.all().len()),
            ("Pod", stores.pods.all().len()),
            ("PersistentVolumeClaim", stores.claims.all().len()),
            ("Secret", stores.secrets.all().len()),
            ("ConfigMap", stores.config_maps.all().len()),
            ("PodDisruptionBudget", stores.budgets.all().len()),
        ] {
            held.add(&[kind], number(objects));
        }
    }
}

impl Source for Objects {
    fn write(&self, text: &mut Text) {
        let clusters = sorted(&self.stores.clusters);
        let shards = sorted(&self.stores.shards);
        self.clusters(text, &clusters);
        self.cells(text);
        self.certificates(text);
        self.topology(text, &shards);
        self.pools(text, &shards);
        self.shards(text, &shards);
        self.objects(text);
        self.passes(text);
        self.claims(text);
        self.cache(text);
    }
}

/// Whether an object of ours is in its table.
pub(super) fn exists(stores: &Stores, key: &ObjectKey) -> bool {
    let (namespace, name) = (key.namespace.as_deref().unwrap_or_default(), key.name.as_str());
    match key.kind.as_str() {
        "MultigresCluster" => stores.clusters.get(namespace, name).is_some(),
        "Cell" => stores.cells.get(namespace, name).is_some(),
        "TableGroup" => stores.table_groups.get(namespace, name).is_some(),
        "Shard" => stores.shards.get(namespace, name).is_some(),
        "TopoServer" => stores.topo_servers.get(namespace, name).is_some(),
        "MultigresBackup" => stores.backups.get(namespace, name).is_some(),
        _ => false,
    }
}

fn seen<K: Resource<DynamicType = ()>>(object: &K, phase: Option<Phase>, lag: i64, conditions: Vec<Condition>) -> Seen {
    let kind = match &*K::kind(&()) {
        "MultigresCluster" => "MultigresCluster",
        "Cell" => "Cell",
        "TableGroup" => "TableGroup",
        "Shard" => "Shard",
        _ => "TopoServer",
    };
    let deleted = object.meta().deletion_timestamp.as_ref().map(|at| at.0.as_second());
    let cluster = if kind == "MultigresCluster" { object.name_any() } else { cluster_of(object) };
    Seen { kind, namespace: namespace(object), name: object.name_any(), cluster, phase, lag, deleted, conditions }
}

/// All objects of a table in one order, so that two scrapes can be compared.
pub(super) fn sorted<K: Resource>(table: &Table<K>) -> Vec<Arc<K>> {
    let mut all = table.all();
    all.sort_by_cached_key(|object| (namespace(&**object), object.name_any()));
    all
}

fn names<K: Resource>(table: &Table<K>) -> Vec<(String, String)> {
    sorted(table).iter().map(|object| (namespace(&**object), object.name_any())).collect()
}

pub(super) fn namespace<K: Resource>(object: &K) -> String {
    object.namespace().unwrap_or_default()
}

pub(super) fn cluster_of<K: Resource>(object: &K) -> String {
    let labels = object.labels();
    labels.get(label::CLUSTER).or_else(|| labels.get(label::INSTANCE)).cloned().unwrap_or_default()
}

pub(super) fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

pub(super) fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "a float counts exactly up to nine quadrillions")]
pub(super) fn count(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a float exactly")]
pub(super) fn seconds(seconds: i64) -> f64 {
    seconds as f64
}
