//! A namespace of its own on a real API server, and the real controller confined to it, over a data plane in memory.
//!
//! Of Kubernetes' own controllers only two things are played here: an etcd that serves once its StatefulSet exists, and, where a
//! test asks for it, the garbage collector.

pub mod rights;
pub mod stage;
pub mod wire;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser as _;
use controller::{
    app::App,
    backup::memory::Pace,
    cli::{Args, Sidecars},
    server::{self, Features},
    settings::{Concurrency, Settings},
    upstream::{self, TopoAddress, fake::FakeDataPlane},
};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions},
};
use serde_json::{Value, json};
use shared::{
    clock::Clock,
    metrics::{Build, FrameworkMetrics, Metrics},
};
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use self::wire::{Tap, Wire};

const KUBECONFIG: &str = "MULTIGRES_TEST_KUBECONFIG";
/// How long anything that should happen may take; generous, because machines of tests are busy.
pub const DEADLINE: Duration = Duration::from_mins(1);
/// Group and version of our kinds.
const OURS: &str = "multigres.com/v1alpha1";
/// Repositories are looked at more often than anybody would.
const QUICK: Pace = Pace {
    list: SignedDuration::from_secs(2),
    again: SignedDuration::from_secs(1),
    archiver: SignedDuration::from_secs(1),
};
/// Every kind that is ours or that the controller makes.
const KINDS: &[(&str, &str, &str)] = &[
    (OURS, "MultigresCluster", "multigresclusters"),
    (OURS, "Cell", "cells"),
    (OURS, "TableGroup", "tablegroups"),
    (OURS, "Shard", "shards"),
    (OURS, "TopoServer", "toposervers"),
    (OURS, "CoreTemplate", "coretemplates"),
    (OURS, "CellTemplate", "celltemplates"),
    (OURS, "ShardTemplate", "shardtemplates"),
    (OURS, "MultigresBackup", "multigresbackups"),
    ("v1", "Service", "services"),
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "Secret", "secrets"),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("v1", "Pod", "pods"),
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "StatefulSet", "statefulsets"),
    ("apps/v1", "ControllerRevision", "controllerrevisions"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
];

/// Objects by `Kind/name`.
pub type Objects = BTreeMap<String, Value>;

/// A namespace for one test, and the data plane of its clusters.
pub struct Bed {
    /// The namespace.
    pub namespace: String,
    /// A client of the test's own.
    client: Client,
    config: Config,
    /// Outlives controllers, as etcd does.
    plane: FakeDataPlane,
    /// The shards that are played on it.
    cast: Arc<stage::Cast>,
    /// What this server can do.
    features: Features,
    /// The clock of its controllers.
    clock: Arc<Shifted>,
}

/// The clock of the machine, until it is said to be ahead of it.
#[derive(Debug, Default)]
pub struct Shifted(AtomicI64);

impl Shifted {
    /// Puts it ahead of the machine's by this much from now on; nothing sets it right.
    pub fn ahead_by(&self, difference: SignedDuration) {
        self.0.store(difference.as_secs(), Ordering::Relaxed);
    }
}

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

impl Bed {
    /// A bed with the custom resource definitions installed; `None` without a server, said loudly.
    pub async fn open() -> Option<Self> {
        let Some(path) = std::env::var_os(KUBECONFIG) else {
            let required = ["CI", "MULTIGRES_TEST_REQUIRE"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!required, "{KUBECONFIG} is not set, and skipping is not allowed here");
            eprintln!("SKIPPED: {KUBECONFIG} is not set, so the controller was NOT tried on an API server");
            return None;
        };
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config.clone()).unwrap();
        install(&client).await;
        Some(Self::on(client, config).await)
    }

    /// Another bed on the same server.
    pub async fn another(&self) -> Self {
        Self::on(self.client.clone(), self.config.clone()).await
    }

    async fn on(client: Client, config: Config) -> Self {
        let namespace = format!("env-{:08x}", rand::random::<u32>());
        let (_, features) = server::discover(&client, Sidecars::Auto).await.unwrap();
        let bed = Self {
            namespace,
            client,
            config,
            plane: FakeDataPlane::new(),
            cast: Arc::default(),
            features,
            clock: Arc::default(),
        };
        let namespaces = Api::<DynamicObject>::all_with(bed.client.clone(), &resource("v1", "Namespace", "namespaces"));
        create(&namespaces, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": bed.namespace}}))
            .await;
        // Pods are refused without it, and its controller does not run here.
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        create(&bed.api_of("v1", "ServiceAccount", "serviceaccounts"), account).await;
        bed
    }

    /// Starts a fresh controller and waits until its watches are complete.
    pub async fn start(&self) -> Running {
        let mut running = self.launch(None);
        let ready = running.ready.take().unwrap();
        within("watches are complete", ready).await.expect("the controller ended");
        running
    }

    /// Starts a fresh controller with other settings, as a new version of the operator brings them, and waits until it works.
    pub async fn start_with(&self, change: impl FnOnce(&mut Settings)) -> Running {
        let wire = Wire::new(&self.namespace, None);
        let mut running = self.launch_with(self.config.clone(), wire, Vec::new(), change);
        running.etcd.push(self.play_etcd());
        let ready = running.ready.take().unwrap();
        within("watches are complete", ready).await.expect("the controller ended");
        running
    }

    /// Starts a fresh controller that cannot write any more after `writes` writes.
    pub fn start_crashing(&self, writes: usize) -> Running {
        self.launch(Some(writes))
    }

    fn launch(&self, crash_after: Option<usize>) -> Running {
        let wire = Wire::new(&self.namespace, crash_after);
        let mut running = self.launch_with(self.config.clone(), wire, Vec::new(), |_| ());
        running.etcd.push(self.play_etcd());
        running
    }

    fn play_etcd(&self) -> AbortHandle {
        tokio::spawn(serve_etcd(self.api("StatefulSet/").0)).abort_handle()
    }

    fn launch_with(
        &self,
        config: Config,
        wire: Arc<Wire>,
        namespaces: Vec<String>,
        change: impl FnOnce(&mut Settings),
    ) -> Running {
        let client = ClientBuilder::try_from(config).unwrap().with_layer(&Tap(Arc::clone(&wire))).build();
        let args = Args::try_parse_from(["controller"]).unwrap();
        let mut settings = args.work.settings(self.features, |_| None);
        settings.poll_unsettled = Duration::from_millis(300);
        change(&mut settings);
        let metrics = Metrics::new(Build { version: "0", revision: "test" }).unwrap();
        let app = App {
            client,
            settings,
            namespaces,
            excluded: Vec::new(),
            concurrency: Concurrency::new(4, &[]),
            framework: FrameworkMetrics::new(&metrics).unwrap(),
            metrics: metrics.clone(),
            instance: "test".to_owned(),
            upstream: self.plane.upstream(),
            backups: QUICK,
            clock: self.clock.clone(),
        };
        let stop = CancellationToken::new();
        let (tell, ready) = oneshot::channel();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            // Nobody listens where the controller is about to crash.
            app.run(stopped, || _ = tell.send(())).await
        });
        let abort = task.abort_handle();
        Running { task: Some(task), abort, etcd: Vec::new(), stop, metrics, wire, ready: Some(ready) }
    }

    /// The clock of its controllers.
    pub fn clock(&self) -> &Shifted {
        &self.clock
    }

    /// The data plane of the clusters.
    pub fn plane(&self) -> &FakeDataPlane {
        &self.plane
    }

    /// Plays the data plane of the one shard of the cluster that a Cell belongs to.
    pub fn stage(&self, cell: &Value) -> stage::Stage {
        self.stage_of(cell, "default")
    }

    /// Plays the data plane of the shard of one table group.
    pub fn stage_of(&self, cell: &Value, table_group: &str) -> stage::Stage {
        let reference = &cell["spec"]["globalTopoServer"];
        let (address, root) = (reference["address"].as_str().unwrap(), reference["rootPath"].as_str().unwrap());
        let at = TopoAddress::new([address], root);
        stage::Stage::open(&self.cast, self.api("Pod/").0, &self.plane, at, table_group)
    }

    /// Takes the topology server that a Cell knows away, or brings it back.
    pub fn topology_answers(&self, cell: &Value, answers: bool) {
        let address = cell["spec"]["globalTopoServer"]["address"].as_str().unwrap();
        if answers {
            self.plane.topology.heal(address);
        } else {
            let error = upstream::Error::Unavailable { target: address.to_owned(), detail: "refused".to_owned() };
            self.plane.topology.fail(address, error);
        }
    }

    /// All keys in the topology server that a Cell knows.
    pub fn topology(&self, cell: &Value) -> Vec<String> {
        let reference = &cell["spec"]["globalTopoServer"];
        let (address, root) = (reference["address"].as_str().unwrap(), reference["rootPath"].as_str().unwrap());
        self.plane.topology.keys(&TopoAddress::new([address], root))
    }

    /// Deletes the objects whose owner is gone, one generation of them.
    pub async fn collect_garbage(&self) {
        let objects = self.objects().await;
        let alive: Vec<&Value> = objects.values().map(|object| &object["metadata"]["uid"]).collect();
        for (id, object) in &objects {
            let owner = &object["metadata"]["ownerReferences"][0]["uid"];
            if !owner.is_null() && !alive.contains(&owner) && object["metadata"]["deletionTimestamp"].is_null() {
                self.delete(id).await;
            }
        }
    }

    /// Every object of the kinds that matter.
    pub async fn objects(&self) -> Objects {
        let mut all = Objects::new();
        for (version, kind, plural) in KINDS {
            let list = self.api_of(version, kind, plural).list(&ListParams::default()).await.unwrap();
            for mut object in list {
                object.metadata.managed_fields = None;
                let id = format!("{kind}/{}", object.name_any());
                let mut object = serde_json::to_value(object).unwrap();
                // Lists of built-in kinds leave these out.
                object["apiVersion"] = json!(version);
                object["kind"] = json!(kind);
                all.insert(id, object);
            }
        }
        all
    }

    /// One object, or `Null`.
    pub async fn object(&self, id: &str) -> Value {
        let (api, name) = self.api(id);
        api.get_opt(name).await.unwrap().map_or(Value::Null, |object| serde_json::to_value(object).unwrap())
    }

    /// Creates a cluster, as a user would.
    pub async fn create_cluster(&self, name: &str, spec: &Value) {
        let cluster = json!({"apiVersion": OURS, "kind": "MultigresCluster", "metadata": {"name": name}, "spec": spec});
        create(&self.api("MultigresCluster/").0, cluster).await;
    }

    /// Creates an object of a kind of ours, as a user would.
    pub async fn create(&self, kind: &str, name: &str, spec: &Value) {
        let object = json!({"apiVersion": OURS, "kind": kind, "metadata": {"name": name}, "spec": spec});
        create(&self.api(&format!("{kind}/")).0, object).await;
    }

    /// Tries to create an object of a kind of ours; the refusal otherwise.
    pub async fn try_create(&self, kind: &str, name: &str, spec: &Value) -> Result<(), String> {
        let object = json!({"apiVersion": OURS, "kind": kind, "metadata": {"name": name}, "spec": spec});
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let answer = self.api(&format!("{kind}/")).0.create(&PostParams::default(), &object).await;
        answer.map(drop).map_err(|error| error.to_string())
    }

    /// Tries to change an object; the refusal otherwise.
    pub async fn try_edit(&self, id: &str, patch: Value) -> Result<(), String> {
        let (api, name) = self.api(id);
        let answer = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        answer.map(drop).map_err(|error| error.to_string())
    }

    /// Changes the status of an object, as whoever runs it would.
    pub async fn report(&self, id: &str, status: Value) {
        let (api, name) = self.api(id);
        let patch = Patch::Merge(json!({ "status": status }));
        // It may have gone in between.
        drop(api.patch_status(name, &PatchParams::default(), &patch).await);
    }

    /// Lets every Deployment that is there have the replicas that it asks for.
    pub async fn let_deployments_run(&self) {
        for (id, deployment) in self.objects().await.iter().filter(|(id, _)| id.starts_with("Deployment/")) {
            let replicas = &deployment["spec"]["replicas"];
            let status = json!({
                "observedGeneration": deployment["metadata"]["generation"], "replicas": replicas,
                "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
            });
            if deployment["status"]["observedGeneration"] != status["observedGeneration"] {
                self.report(id, status).await;
            }
        }
    }

    /// Changes an object by a merge patch, as a user would.
    pub async fn edit(&self, id: &str, patch: Value) -> Value {
        let (api, name) = self.api(id);
        let params = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
        let answer = api.patch(name, &params, &Patch::Merge(patch)).await;
        serde_json::to_value(answer.unwrap_or_else(|error| panic!("editing {id}: {error}"))).unwrap()
    }

    /// Deletes an object, as a user would.
    pub async fn delete(&self, id: &str) {
        let (api, name) = self.api(id);
        api.delete(name, &DeleteParams::background()).await.unwrap_or_else(|error| panic!("deleting {id}: {error}"));
    }

    /// The StorageClasses of the server, which all tests share.
    pub fn storage_classes(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &resource("storage.k8s.io/v1", "StorageClass", "storageclasses"))
    }

    /// Asks for the removal of the whole namespace, as a user would. Nothing can be made in it from then on.
    pub async fn delete_namespace(&self) {
        let namespaces =
            Api::<DynamicObject>::all_with(self.client.clone(), &resource("v1", "Namespace", "namespaces"));
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }

    /// Plays the part of Kubernetes that empties a namespace: deletes whatever is there, owners and owned ones alike.
    pub async fn empty_namespace(&self) -> Objects {
        let objects = self.objects().await;
        for (id, object) in &objects {
            if object["metadata"]["deletionTimestamp"].is_null() {
                let (api, name) = self.api(id);
                // It may go away by itself in between.
                drop(api.delete(name, &DeleteParams::background()).await);
            } else if object["metadata"]["finalizers"] == json!(["kubernetes.io/pvc-protection"]) {
                // No pod uses the volume any more, which a controller of Kubernetes would see.
                let (api, name) = self.api(id);
                let unblock = Patch::Merge(json!({"metadata": {"finalizers": null}}));
                drop(api.patch(name, &PatchParams::default(), &unblock).await);
            }
        }
        objects
    }

    /// Removes what other users of the server could stumble over.
    pub async fn close(self) {
        for id in self.objects().await.into_keys() {
            let (api, name) = self.api(&id);
            let unblock = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            // Owners and their objects may go in any order.
            drop(api.patch(name, &PatchParams::default(), &unblock).await);
            drop(api.delete(name, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await);
        }
        let namespaces =
            Api::<DynamicObject>::all_with(self.client.clone(), &resource("v1", "Namespace", "namespaces"));
        drop(namespaces.delete(&self.namespace, &DeleteParams::default()).await);
    }

    fn api<'i>(&self, id: &'i str) -> (Api<DynamicObject>, &'i str) {
        let (kind, name) = id.split_once('/').expect("Kind/name");
        let (version, kind, plural) = KINDS.iter().find(|(_, known, _)| *known == kind).expect("a known kind");
        (self.api_of(version, kind, plural), name)
    }

    fn api_of(&self, version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource(version, kind, plural))
    }
}

/// A controller at work. Dropping it is a crash.
pub struct Running {
    task: Option<JoinHandle<anyhow::Result<()>>>,
    abort: AbortHandle,
    etcd: Vec<AbortHandle>,
    stop: CancellationToken,
    metrics: Metrics,
    ready: Option<oneshot::Receiver<()>>,
    /// What it sends.
    pub wire: Arc<Wire>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.abort.abort();
        self.etcd.iter().for_each(AbortHandle::abort);
    }
}

impl Running {
    /// Stops it in an orderly way.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let task = self.task.take().unwrap();
        within("the controller stops", task).await.unwrap().unwrap();
    }

    /// Ends it in the middle of whatever it does.
    pub async fn kill(mut self) {
        self.abort.abort();
        let ended = within("the controller is gone", self.task.take().unwrap()).await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "the controller ended by itself");
    }

    /// Ended passes of one controller.
    pub fn passes(&self, controller: &str) -> u64 {
        let series = format!("controller_runtime_reconcile_total{{controller=\"{controller}\"");
        let text = self.metrics.text().unwrap();
        let lines = text.lines().filter(|line| line.starts_with(&series));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Waits until nothing has been written for that long.
    pub async fn quiet(&self, duration: Duration) {
        eventually(DEADLINE + duration, async || {
            if self.wire.quiet_for() >= duration {
                return Ok(());
            }
            let writes = self.wire.writes();
            Err(format!(
                "{} writes and no rest; the last ones: {:#?}",
                writes.len(),
                writes.iter().rev().take(5).collect::<Vec<_>>()
            ))
        })
        .await;
    }
}

/// The spec of the smallest sample.
pub fn minimal() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/minimal.yaml");
    let sample: Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(sample["metadata"]["name"], "minimal");
    sample["spec"].clone()
}

/// A condition of an object.
pub fn condition<'o>(object: &'o Value, type_: &str) -> &'o Value {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|condition| condition["type"] == type_).unwrap_or(&Value::Null)
}

/// Waits for an outcome, asking again and again until the deadline.
pub async fn eventually<T>(deadline: Duration, attempt: impl AsyncFn() -> Result<T, String>) -> T {
    let end = Instant::now() + deadline;
    loop {
        match attempt().await {
            Ok(outcome) => return outcome,
            Err(_) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(last) => panic!("not within {} s: {last}", deadline.as_secs()),
        }
    }
}

/// Waits for a future, but not for ever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Lets every StatefulSet have the replicas that it asks for.
async fn serve_etcd(sets: Api<DynamicObject>) {
    loop {
        // A failed attempt is followed by another one.
        for set in sets.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
            let wanted = set.data["spec"]["replicas"].as_i64().unwrap_or(1);
            let status = json!({
                "observedGeneration": set.metadata.generation, "replicas": wanted, "readyReplicas": wanted,
                "availableReplicas": wanted, "updatedReplicas": wanted, "currentReplicas": wanted,
                "currentRevision": "one", "updateRevision": "one",
            });
            let seen = &set.data["status"];
            if seen["readyReplicas"] != wanted || seen["observedGeneration"] != status["observedGeneration"] {
                let patch = Patch::Merge(json!({"status": status}));
                drop(sets.patch_status(&set.name_any(), &PatchParams::default(), &patch).await);
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

async fn create(api: &Api<DynamicObject>, object: Value) {
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

/// A StorageClass of no provisioner.
pub fn storage_class(name: &str, default: bool) -> Value {
    let annotations = json!({"storageclass.kubernetes.io/is-default-class": default.to_string()});
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/none",
        "metadata": {"name": name, "annotations": annotations},
    })
}

async fn install(client: &Client) {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    // Nearly every Kubernetes cluster has a default class.
    let classes = resource("storage.k8s.io/v1", "StorageClass", "storageclasses");
    let params = PatchParams::apply("multigres-env-test").force();
    let classes = Api::<DynamicObject>::all_with(client.clone(), &classes);
    classes.patch("standard", &params, &Patch::Apply(storage_class("standard", true))).await.unwrap();
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    let mut installed = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_stem().is_some_and(|name| name == "multigres-crds") || path.extension().is_none_or(|e| e != "yaml")
        {
            continue;
        }
        let definition: CustomResourceDefinition = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let name = definition.name_any();
        let params = PatchParams::apply("multigres-env-test").force();
        api.patch(&name, &params, &Patch::Apply(&definition))
            .await
            .unwrap_or_else(|e| panic!("installing {name}: {e}"));
        within("the definition is served", await_condition(api.clone(), &name, conditions::is_crd_established()))
            .await
            .unwrap();
        installed += 1;
    }
    assert_eq!(installed, 9, "definitions in crds/");
}
