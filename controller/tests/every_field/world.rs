//! A Kubernetes cluster in memory: the real passes of every kind run over tables until nothing changes any more.
//!
//! Workloads come up at once, references of users exist, and the data plane is its double. What passes decide is carried out here
//! instead of by the executor, so that a whole life costs milliseconds.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    slice,
    sync::{Arc, LazyLock},
};

use base64::Engine as _;
use controller::{
    backup::schedule::Schedule,
    cell, cluster,
    context::{Ctx, Events, References},
    execute::Executor,
    metrics::Metrics,
    plan::{Action, Plan, TopoWrite},
    requeue::Backoff,
    shard,
    stores::{Stores, Table},
    table_group, topo_server,
    upstream::{CellRecord, TopoAddress, fake::FakeDataPlane},
};
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Client, Resource, ResourceExt as _, client::Body, runtime::events::Reporter};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use shared::{
    annotation,
    api::v1alpha1::Shard,
    clock::Fixed,
    kubeutil::{Object, ObjectKey, event::Recorder},
    metrics::Build,
    name::PUBLIC_CERTIFICATE,
    pki::{Authority, Certificate},
};

use crate::input::{Input, other_images, settings};

/// The time of all passes.
const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);
/// After so many rounds everything has settled, or never does.
const ROUNDS: usize = 20;
/// Kinds of ours: they only carry what users wrote to those who act on it, so they do not count as an effect.
const OURS: [&str; 8] =
    ["MultigresCluster", "CoreTemplate", "CellTemplate", "ShardTemplate", "Cell", "TableGroup", "Shard", "TopoServer"];

/// A Kubernetes cluster with one cluster of ours.
pub struct World {
    ctx: Ctx,
    plane: FakeDataPlane,
    /// What was applied last, by kind, namespace and name.
    applied: Rendered,
    /// Whether anything has changed since somebody looked.
    changed: bool,
    /// Topology writes so far, and where they went.
    topology: Vec<String>,
}

/// Everything that is rendered, by kind, namespace and name, and topology writes by their order.
pub type Rendered = BTreeMap<String, Value>;

impl World {
    /// A world in which these manifests were applied over stale records in the topology, settled.
    pub async fn of(input: &Input) -> Self {
        let mut world = Self::empty();
        world.haunt(input).await;
        world.apply(input).await;
        if input.upgrade {
            world.ctx.settings.images = other_images();
            world.apply(input).await;
        }
        world
    }

    /// A world without anything in it.
    pub fn empty() -> Self {
        let stores = Arc::new(Stores::default());
        let metrics = shared::metrics::Metrics::new(Build { version: "0", revision: "test" }).unwrap();
        let metrics = Arc::new(Metrics::new(&metrics).unwrap());
        let plane = FakeDataPlane::new();
        let client = Client::new(tower::service_fn(references), "default");
        let clock = Arc::new(Fixed::at(NOW));
        let reporter = Reporter { controller: "test".to_owned(), instance: None };
        let executor = Executor::new(client.clone(), Arc::clone(&stores), plane.upstream(), Arc::clone(&metrics));
        let ctx = Ctx {
            stores,
            settings: settings(),
            upstream: plane.upstream(),
            clock: clock.clone(),
            executor,
            references: References::new(client.clone()),
            backoff: Backoff::default(),
            metrics,
            events: Events::new(Recorder::new(client, reporter), clock),
            primaries: shard::primary::Seen::default(),
            backups: controller::backup::Memory::default(),
        };
        Self { ctx, plane, applied: Rendered::new(), changed: false, topology: Vec::new() }
    }

    /// Applies manifests and lets the world settle.
    pub async fn apply(&mut self, input: &Input) {
        self.apply_all(slice::from_ref(input)).await;
    }

    /// Applies the manifests of several clusters at once and lets the world settle.
    pub async fn apply_all(&mut self, inputs: &[Input]) {
        for input in inputs {
            for (kind, templates) in &input.templates {
                for (name, spec) in templates {
                    self.user_applies(kind, input, name, spec);
                }
            }
            self.user_applies("MultigresCluster", input, &input.name, &input.spec);
        }
        for _ in 0..ROUNDS {
            self.changed = false;
            self.round().await;
            if !self.changed {
                return;
            }
        }
        let specs: Vec<String> = inputs.iter().map(|input| input.spec.to_string()).collect();
        panic!("the world does not settle under {}", specs.join(" and "));
    }

    /// The objects that somebody acts on, without what the operator only notes for itself.
    pub fn rendered(&self) -> Rendered {
        let mut rendered = Rendered::new();
        for (id, object) in &self.applied {
            if !OURS.iter().any(|kind| id.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/'))) {
                let mut object = object.clone();
                bare(&mut object);
                rendered.insert(id.clone(), object);
            }
        }
        for (index, write) in self.topology.iter().enumerate() {
            rendered.insert(format!("topology/{index:03}"), write.as_str().into());
        }
        rendered
    }

    /// The schedules and the retention of backups as the shards follow them.
    pub fn backups(&self) -> Vec<String> {
        let config = |shard: &Shard| shard.spec.backup.clone().unwrap_or_default();
        let shown = |shard: Arc<Shard>| {
            let config = config(&shard);
            let schedule = config.schedule.map(|schedule| Schedule::read(&schedule, "uid"));
            format!("{} {schedule:?} {:?}", shard.name_any(), config.retention)
        };
        let mut all: Vec<String> = self.ctx.stores.shards.all().into_iter().map(shown).collect();
        all.sort();
        all
    }

    /// What the kinds of ours say about themselves.
    pub fn said(&self) -> Rendered {
        let stores = &self.ctx.stores;
        let mut all = Rendered::new();
        list(&stores.clusters, &mut all);
        list(&stores.cells, &mut all);
        list(&stores.table_groups, &mut all);
        list(&stores.shards, &mut all);
        list(&stores.topo_servers, &mut all);
        let status = |object: Value| json!([object["status"]["conditions"], object["status"]["drift"]]);
        all.into_iter().map(|(id, object)| (id, status(object))).collect()
    }

    /// A condition of the cluster.
    pub fn condition(&self, input: &Input, name: &str) -> Option<Condition> {
        let cluster = self.ctx.stores.clusters.get(&input.namespace, &input.name)?;
        cluster.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == name).cloned()
    }

    /// Leaves records in the cluster's own topology that nothing stands behind.
    async fn haunt(&self, input: &Input) {
        let server = format!("{}-global-topo.{}.svc:2379", input.name, input.namespace);
        let at = TopoAddress::new([server], "/multigres/global");
        let ghost =
            CellRecord { name: "ghost".to_owned(), server_addresses: at.endpoints.clone(), root: at.root.clone() };
        self.plane.upstream().topology().put_cell(&at, &ghost).await.unwrap();
    }

    fn user_applies(&mut self, kind: &str, input: &Input, name: &str, spec: &Value) {
        let finalizers = if kind == "MultigresCluster" { json!([annotation::CLUSTER_FINALIZER]) } else { json!([]) };
        let mut object = json!({
            "apiVersion": "multigres.com/v1alpha1", "kind": kind,
            "metadata": {"name": name, "namespace": input.namespace, "finalizers": finalizers},
            "spec": spec,
        });
        if kind == "MultigresCluster" {
            // What the operator notes on the cluster is not the user's to remove.
            let live = self.ctx.stores.clusters.get(&input.namespace, name);
            let mut annotations = live.and_then(|live| live.metadata.annotations.clone()).unwrap_or_default();
            annotations.insert(annotation::PROJECT_REF.to_owned(), input.project.clone());
            object["metadata"]["annotations"] = json!(annotations);
        }
        self.apply_object(kind, object);
    }

    /// One pass over every object of ours.
    async fn round(&mut self) {
        macro_rules! pass {
            ($($table:ident $plan:path),* $(,)?) => {$(
                for object in self.ctx.stores.$table.all() {
                    let plan: Plan<_> = $plan(&object, &self.ctx).await.unwrap();
                    let status = plan.status.clone();
                    self.carry_out(plan).await;
                    // The pass may have changed the object itself.
                    let meta = &object.metadata;
                    let name = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
                    if let Some(live) = self.ctx.stores.$table.get(name.0, name.1)
                        && status.is_some()
                        && live.status != status
                    {
                        let mut live = (*live).clone();
                        live.status = status;
                        self.ctx.stores.$table.insert(Arc::new(live));
                        self.changed = true;
                    }
                }
            )*};
        }
        pass!(
            clusters cluster::plan,
            topo_servers topo_server::plan,
            cells cell::plan,
            table_groups table_group::plan,
            shards shard::plan,
        );
    }

    async fn carry_out<S>(&mut self, plan: Plan<S>) {
        for write in plan.writes {
            self.act(write.action).await;
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Apply(object) => self.apply_object(&object.gvk.kind, object.value),
            Action::CreateOnce(object) => self.create(object),
            Action::Merge { target, patch } => {
                if let Some(mut live) = self.ctx.stores.live(&target.key) {
                    merge(&mut live, &patch);
                    live["kind"] = json!(target.key.kind);
                    self.apply_object(&target.key.kind, live);
                }
            }
            Action::Delete(target) | Action::Remove { target, .. } => self.delete(&target.uid),
            Action::Topology { at, write } => {
                let line = format!("{at:?} {write:?}");
                self.record(&at, &write).await;
                if !self.topology.contains(&line) {
                    self.topology.push(line);
                    self.changed = true;
                }
            }
            Action::Sequence(actions) => {
                for action in actions {
                    if let Action::RequireAbsent { pod } = &action
                        && self.ctx.stores.live(pod).is_some()
                    {
                        return;
                    }
                    Box::pin(self.act(action)).await;
                }
            }
            // Nobody of the data plane answers here.
            Action::HandOver { .. }
            | Action::Hasten { .. }
            | Action::LeaveCohort { .. }
            | Action::Reload { .. }
            | Action::RequireBackup { .. }
            | Action::StartBackup { .. }
            | Action::ExpireBackups { .. }
            | Action::RequireAbsent { .. }
            | Action::RequireNoPodAt { .. } => {}
        }
    }

    async fn record(&self, at: &TopoAddress, write: &TopoWrite) {
        let upstream = self.plane.upstream();
        let topology = upstream.topology();
        match write {
            TopoWrite::PutCell(record) => drop(topology.put_cell(at, record).await.unwrap()),
            TopoWrite::PutDatabase(record) => drop(topology.put_database(at, record).await.unwrap()),
            // A cell that a database still lists stays for another round.
            TopoWrite::DeleteCell(name) => drop(topology.delete_cell(at, name).await),
            TopoWrite::DeleteDatabase(name) => drop(topology.delete_database(at, name).await.unwrap()),
            TopoWrite::DeletePooler(id) => drop(topology.delete_pooler(at, id).await.unwrap()),
            TopoWrite::MarkPooler(id, mark) => drop(topology.mark_pooler(at, id, mark).await),
            TopoWrite::DeleteRegistration(seen) => drop(topology.delete_registration(at, seen).await.unwrap()),
            TopoWrite::ChangeMember(change) => drop(upstream.members().change(at, change).await.unwrap()),
        }
    }

    fn create(&mut self, object: Object) {
        if !self.applied.contains_key(&id(&object.gvk.kind, &object.value)) {
            self.apply_object(&object.gvk.kind, object.value);
        }
    }

    /// Applies an object, unless it was applied like this before.
    fn apply_object(&mut self, kind: &str, value: Value) {
        let id = id(kind, &value);
        if self.applied.get(&id) != Some(&value) {
            self.store(kind, value.clone());
            self.applied.insert(id, value);
            self.changed = true;
        }
    }

    /// Stores an object as a server would, and lets workloads come up.
    fn store(&self, kind: &str, mut value: Value) {
        let text = |field: &str| value["metadata"][field].as_str().unwrap().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let key = ObjectKey {
            group: String::new(),
            kind: kind.to_owned(),
            namespace: Some(namespace.clone()),
            name: name.clone(),
        };
        let live = self.ctx.stores.live(&key).unwrap_or_default();
        let before = live["metadata"]["generation"].as_i64().unwrap_or(1);
        let generation = if live.is_null() || live["spec"] == value["spec"] { before } else { before + 1 };
        value["metadata"]["uid"] = json!(uid_of(&format!("{kind}/{namespace}/{name}")));
        value["metadata"]["resourceVersion"] = json!("1");
        value["metadata"]["generation"] = json!(generation);
        value["metadata"]["creationTimestamp"] = json!(NOW.to_string());
        let replicas = value["spec"]["replicas"].clone();
        match kind {
            "Deployment" => {
                value["status"] = json!({
                    "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
                    "readyReplicas": replicas, "availableReplicas": replicas,
                });
            }
            "StatefulSet" => {
                value["status"] = json!({
                    "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
                    "readyReplicas": replicas, "availableReplicas": replicas, "currentRevision": "1", "updateRevision": "1",
                });
            }
            "Pod" => {
                value["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
            }
            _ if live["status"].is_object() => value["status"] = live["status"].clone(),
            _ => {}
        }
        let stores = &self.ctx.stores;
        match kind {
            "MultigresCluster" => insert(&stores.clusters, &value),
            "CoreTemplate" => insert(&stores.core_templates, &value),
            "CellTemplate" => insert(&stores.cell_templates, &value),
            "ShardTemplate" => insert(&stores.shard_templates, &value),
            "Cell" => insert(&stores.cells, &value),
            "TableGroup" => insert(&stores.table_groups, &value),
            "Shard" => insert(&stores.shards, &value),
            "TopoServer" => insert(&stores.topo_servers, &value),
            "Deployment" => insert(&stores.deployments, &value),
            "StatefulSet" => insert(&stores.stateful_sets, &value),
            "Service" => insert(&stores.services, &value),
            "Pod" => insert(&stores.pods, &value),
            "PersistentVolumeClaim" => insert(&stores.claims, &value),
            "Secret" => insert(&stores.secrets, &value),
            "ConfigMap" => insert(&stores.config_maps, &value),
            "PodDisruptionBudget" => insert(&stores.budgets, &value),
            _ => panic!("this test does not know how to store a {kind}"),
        }
    }

    /// Ends the pods that are not among these, as the disruption planner does once the data plane lets them go.
    pub fn let_pods_go(&mut self, wanted: &Rendered) {
        let unwanted = |id: &&String| id.starts_with("Pod/") && !wanted.contains_key(*id);
        for id in self.applied.keys().filter(unwanted).cloned().collect::<Vec<_>>() {
            self.delete(&uid_of(&id));
        }
    }

    /// Removes an object and everything that it owns.
    fn delete(&mut self, uid: &str) {
        let is_it = |id: &String| uid_of(id) == uid;
        if let Some(id) = self.applied.keys().find(|id| is_it(id)).cloned() {
            let object = self.applied.remove(&id).unwrap();
            self.forget(&object);
            self.changed = true;
        }
        let owned = self.applied.iter().filter(|(_, object)| {
            let mut owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            owners.any(|owner| owner["uid"] == uid)
        });
        for owned in owned.map(|(id, _)| uid_of(id)).collect::<Vec<_>>() {
            self.delete(&owned);
        }
    }

    fn forget(&self, object: &Value) {
        let stores = &self.ctx.stores;
        match object["kind"].as_str().unwrap_or_default() {
            "Cell" => remove(&stores.cells, object),
            "TableGroup" => remove(&stores.table_groups, object),
            "Shard" => remove(&stores.shards, object),
            "TopoServer" => remove(&stores.topo_servers, object),
            "Deployment" => remove(&stores.deployments, object),
            "StatefulSet" => remove(&stores.stateful_sets, object),
            "Service" => remove(&stores.services, object),
            "Pod" => remove(&stores.pods, object),
            "PersistentVolumeClaim" => remove(&stores.claims, object),
            "Secret" => remove(&stores.secrets, object),
            "ConfigMap" => remove(&stores.config_maps, object),
            "PodDisruptionBudget" => remove(&stores.budgets, object),
            kind => panic!("this test does not know how to delete a {kind}"),
        }
    }

    /// Every object as it was applied last, by kind, namespace and name.
    pub fn applied(&self) -> &Rendered {
        &self.applied
    }
}

/// Kind, namespace and name of an object.
fn id(kind: &str, object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{kind}/{}/{}", text("namespace"), text("name"))
}

fn uid_of(id: &str) -> String {
    format!("uid-{}", id.replace('/', "-"))
}

fn insert<K: Resource + DeserializeOwned>(table: &Table<K>, value: &Value) {
    let object = K::deserialize(value).unwrap_or_else(|error| panic!("{error} in {value}"));
    table.insert(Arc::new(object));
}

fn remove<K: Resource + DeserializeOwned>(table: &Table<K>, value: &Value) {
    table.remove(&K::deserialize(value).unwrap());
}

fn list<K: Resource<DynamicType = ()> + Serialize>(table: &Table<K>, all: &mut Rendered) {
    for object in table.all() {
        let kind = K::kind(&()).into_owned();
        let mut value = serde_json::to_value(&*object).unwrap();
        value["kind"] = json!(kind);
        value["apiVersion"] = json!(K::api_version(&()));
        let meta = object.meta();
        let (namespace, name) =
            (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        all.insert(format!("{kind}/{namespace}/{name}"), value);
    }
}

/// A JSON merge patch.
fn merge(live: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *live = patch.clone();
        return;
    };
    if !live.is_object() {
        *live = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            live.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut live[key.as_str()], value);
        }
    }
}

/// Leaves what others act on: no status, nothing random, and none of the digests by which the operator recognises its own intent.
fn bare(object: &mut Value) {
    let root = object.as_object_mut().unwrap();
    root.remove("status");
    if root["kind"] == "Secret" {
        let data = root.remove("data").unwrap_or_default();
        // Of a certificate for clients its names count.
        if root["metadata"]["name"] == PUBLIC_CERTIFICATE {
            let pem = base64::engine::general_purpose::STANDARD.decode(data["tls.crt"].as_str().unwrap()).unwrap();
            let certificate = Certificate::first(&String::from_utf8(pem).unwrap()).unwrap();
            root.insert("names".to_owned(), json!(certificate.dns_names()));
        }
    }
    // Packed renderings, with digests of what they were made from.
    root.remove("binaryData");
    let metadata = object["metadata"].as_object_mut().unwrap();
    for server_owned in ["uid", "resourceVersion", "generation", "creationTimestamp"] {
        metadata.remove(server_owned);
    }
    for way in ["/metadata/annotations", "/spec/template/metadata/annotations"] {
        if let Some(Value::Object(annotations)) = object.pointer_mut(way) {
            annotations
                .retain(|key, _| !key.starts_with(annotation::RESERVED_PREFIX) || key == annotation::PROJECT_REF);
        }
    }
}

/// An API server on which every Secret and ConfigMap exists that a user could name, and none of those that the operator makes unless
/// its user has. Their content tells them apart.
async fn references(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    static PEM: LazyLock<String> = LazyLock::new(|| {
        let authority = Authority::generate("test", Timestamp::now(), SignedDuration::from_hours(1)).unwrap();
        authority.pair().certificate.clone()
    });
    let path = request.uri().path().to_owned();
    let mut ends = path.rsplit('/');
    let name = ends.next().unwrap_or_default();
    let namespace = ends.nth(1).unwrap_or_default();
    if name == PUBLIC_CERTIFICATE || name.ends_with(".multigres.internal") {
        let body = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
        return Ok(Response::builder().status(404).body(Body::from(serde_json::to_vec(&body).unwrap())).unwrap());
    }
    let object = if path.contains("/secrets/") {
        let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let keys = ["password", "alpha", "beta", "tls.key", "keys.json", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        let mut data: BTreeMap<&str, String> = keys.into_iter().map(|key| (key, encoded(name))).collect();
        data.extend(["ca.crt", "tls.crt"].map(|key| (key, encoded(&PEM))));
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data})
    } else {
        let line = |key: &str| format!("log_line_prefix = '{name}-{key}'\n");
        let data: BTreeMap<_, _> = ["alpha", "beta"].map(|key| (key, line(key))).into();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data})
    };
    Ok(Response::builder().status(200).body(Body::from(serde_json::to_vec(&object).unwrap())).unwrap())
}
