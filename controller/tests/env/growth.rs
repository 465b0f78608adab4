//! Ensembles that grow and shrink: real etcd processes started exactly as the StatefulSet says, and the whole controller on a real
//! API server, which crashes on the way.
//!
//! Needs an etcd binary, and for the second part the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. Without them the
//! tests are skipped with a loud line, and fail where `CI` is set.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::bed::{Bed, DEADLINE, condition, eventually};
use super::real_etcd::{binary, free_ports};
use clap::Parser as _;
use controller::{
    cli::Args,
    plan::{Action, Plan, TopoWrite},
    server::Features,
    settings::Settings,
    topo_server::{Nodes, Observed, decide, growth::Sight},
    upstream::{Error, Limits, Member, MemberChange, Members, TopoAddress, Upstream, fake::FakeDataPlane},
    workload::owner::Owner,
};
use etcd_client::{Client, ConnectOptions};
use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetStatus},
    core::v1::{ConfigMap, EnvVar, Pod},
};
use serde_json::{Value, json};
use shared::{
    api::v1alpha1::{EtcdSpec, TopoServer, TopoServerSpec, TopoServerStatus},
    condition::find,
    label,
    label::Component,
    name,
};

const CLUSTER: &str = "demo";
const NAMESPACE: &str = "prod";
/// More members than any test has.
const MOST: u32 = 6;
/// How long an ensemble may take from one size to the next: etcd lets nobody in before all have been connected for five seconds.
const RESIZE: Duration = Duration::from_mins(3);

/// Names that pods would have, and where their etcd really is.
#[derive(Clone)]
struct Net {
    /// What each name with its port stands for.
    names: Vec<(String, String)>,
    clients: Vec<u16>,
    peers: Vec<u16>,
}

impl Net {
    fn new() -> Self {
        let server = name::global_topo(CLUSTER);
        let headless = name::topo_headless(&server);
        let ports: Vec<(u16, u16)> = (0..MOST).map(|_| free_ports()).collect();
        let host = |ordinal: usize| format!("{server}-{ordinal}.{headless}.{NAMESPACE}.svc.cluster.local");
        let names = ports.iter().enumerate().flat_map(|(ordinal, (client, peer))| {
            [(2379, client), (2380, peer)]
                .map(|(port, real)| (format!("{}:{port}", host(ordinal)), format!("127.0.0.1:{real}")))
        });
        Self {
            names: names.collect(),
            clients: ports.iter().map(|(client, _)| *client).collect(),
            peers: ports.iter().map(|(_, peer)| *peer).collect(),
        }
    }

    fn real(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, real)| text.replace(name, real))
    }

    fn named(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, real)| text.replace(real, name))
    }

    fn endpoint(&self, ordinal: u32) -> String {
        format!("127.0.0.1:{}", self.clients[ordinal as usize])
    }
}

/// The Service of the ensemble: leads to members that are ready, and knows them by their names.
struct ThroughService {
    net: Net,
    real: Upstream,
    ready: Arc<Mutex<Vec<u32>>>,
}

impl ThroughService {
    fn at(&self) -> Result<TopoAddress, Error> {
        let ready = lock(&self.ready);
        let nobody = || Error::Unavailable { target: CLUSTER.to_owned(), detail: "no endpoints".to_owned() };
        // The last one, so that requests go through members that came late, too.
        ready.last().map(|ordinal| TopoAddress::new([self.net.endpoint(*ordinal)], "/")).ok_or_else(nobody)
    }
}

impl Members for ThroughService {
    fn list<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Vec<Member>, Error>> {
        assert_eq!(at.endpoints, ["demo-global-topo.prod.svc:2379"]);
        async move {
            let mut members = self.real.members().list(&self.at()?).await?;
            for url in members.iter_mut().flat_map(|member| &mut member.peer_urls) {
                *url = self.net.named(url);
            }
            Ok(members)
        }
        .boxed()
    }

    fn change<'a>(&'a self, _: &'a TopoAddress, change: &'a MemberChange) -> BoxFuture<'a, Result<bool, Error>> {
        async move {
            let change = match change {
                MemberChange::AddLearner { peer_url } => MemberChange::AddLearner { peer_url: self.net.real(peer_url) },
                other => other.clone(),
            };
            self.real.members().change(&self.at()?, &change).await
        }
        .boxed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// What Kubernetes holds and runs of one ensemble.
struct World {
    binary: PathBuf,
    net: Net,
    folder: tempfile::TempDir,
    settings: Settings,
    upstream: Upstream,
    server: TopoServer,
    list: Option<ConfigMap>,
    set: Option<StatefulSet>,
    processes: BTreeMap<u32, Child>,
    /// Pods whose process ended: when, how often by now, and its last words.
    ended: BTreeMap<u32, (Instant, i32, String)>,
    ready: Arc<Mutex<Vec<u32>>>,
    passes: usize,
    /// The last step in etcd, and what became of it.
    last: String,
}

impl Drop for World {
    fn drop(&mut self) {
        for child in self.processes.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl World {
    fn new(binary: PathBuf, size: i32) -> Self {
        let (net, ready) = (Net::new(), Arc::<Mutex<Vec<u32>>>::default());
        let plane = FakeDataPlane::new();
        let limits = Limits { store_deadline: Duration::from_secs(2), ..Limits::default() };
        let members = ThroughService { net: net.clone(), real: Upstream::connect(limits), ready: Arc::clone(&ready) };
        let mut server = TopoServer::new(&name::global_topo(CLUSTER), TopoServerSpec::default());
        server.metadata.namespace = Some(NAMESPACE.to_owned());
        server.metadata.uid = Some("uid".to_owned());
        server.metadata.generation = Some(1);
        server.metadata.labels = Some(label::of_cluster(CLUSTER, Component::GlobalTopo));
        let mut world = Self {
            binary,
            net,
            folder: tempfile::tempdir().unwrap(),
            settings: Args::try_parse_from(["controller"]).unwrap().work.settings(Features::NEWEST, |_| None),
            upstream: Upstream::of(plane.topology, plane.poolers.clone(), plane.poolers, Arc::new(members)),
            server,
            list: None,
            set: None,
            processes: BTreeMap::new(),
            ended: BTreeMap::new(),
            ready,
            passes: 0,
            last: String::new(),
        };
        world.want(size);
        world
    }

    fn want(&mut self, size: i32) {
        self.server.spec.etcd = Some(EtcdSpec { replicas: Some(size), ..EtcdSpec::default() });
    }

    /// One pass of the controller, which gets to its end only now and then.
    async fn pass(&mut self) {
        let mut observed = Observed {
            owner: Owner::of(&self.server).unwrap(),
            cluster: CLUSTER.to_owned(),
            nodes: Nodes::Any,
            stateful_set: self.set.clone().map(Arc::new),
            pods: self.pods(),
            member_list: self.list.clone().map(Arc::new),
            claims: Vec::new(),
            budget: None,
            sight: Sight::NotAsked,
            server: Arc::new(self.server.clone()),
        };
        observed.ask(&self.upstream).await;
        let plan = decide(&observed, &self.settings, jiff::Timestamp::now()).unwrap();
        self.passes += 1;
        self.carry_out(plan).await;
    }

    async fn carry_out(&mut self, plan: Plan<TopoServerStatus>) {
        for (index, write) in plan.writes.into_iter().enumerate() {
            // The controller crashes before, between or after writes, another time elsewhere.
            if (self.passes * 7 + index * 3).is_multiple_of(4) {
                continue;
            }
            match write.action {
                Action::Apply(object) if object.gvk.kind == "ConfigMap" => {
                    self.list = Some(serde_json::from_value(object.value).unwrap());
                }
                Action::Apply(object) if object.gvk.kind == "StatefulSet" => {
                    let status = self.set.take().and_then(|set| set.status);
                    let set: StatefulSet = serde_json::from_value(object.value).unwrap();
                    self.set = Some(StatefulSet { status, ..set });
                }
                Action::Topology { at, write: TopoWrite::ChangeMember(change) } => {
                    // A failure is one more pass.
                    let answer = self.upstream.members().change(&at, &change).await;
                    self.last = format!("{change:?}: {answer:?}");
                }
                Action::Remove { target, .. } => {
                    let ordinal = target.key.name.rsplit_once('-').unwrap().1.parse().unwrap();
                    self.ended.remove(&ordinal);
                }
                _ => {}
            }
        }
        if plan.status.is_some() {
            self.server.status = plan.status;
        }
    }

    /// The pods as their kubelet reports them.
    fn pods(&self) -> Vec<Arc<Pod>> {
        let ready = lock(&self.ready).clone();
        let ordinals: BTreeSet<u32> = self.processes.keys().chain(self.ended.keys()).copied().collect();
        let pod = |ordinal: u32| {
            let (state, restarts, last) = match self.ended.get(&ordinal) {
                Some((_, restarts, message)) if !self.processes.contains_key(&ordinal) => {
                    let last = json!({"terminated": {"exitCode": 1, "message": message}});
                    (json!({"waiting": {"reason": "CrashLoopBackOff"}}), *restarts, last)
                }
                _ => (json!({"running": {}}), 0, json!({})),
            };
            let is_ready = if ready.contains(&ordinal) { "True" } else { "False" };
            let name = format!("{}-{ordinal}", name::global_topo(CLUSTER));
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": name, "namespace": NAMESPACE, "uid": name, "resourceVersion": "1"},
                    "status": {
                        "conditions": [{"type": "Ready", "status": is_ready}],
                        "containerStatuses": [{
                            "name": "etcd", "image": "", "imageID": "", "ready": is_ready == "True",
                            "restartCount": restarts, "state": state, "lastState": last,
                        }],
                    },
                }))
                .unwrap(),
            )
        };
        ordinals.into_iter().map(pod).collect()
    }

    /// The volume of a member is lost: its pod starts again with an empty one.
    fn lose(&mut self, ordinal: u32) {
        let mut child = self.processes.remove(&ordinal).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_dir_all(self.folder.path().join(ordinal.to_string())).unwrap();
        lock(&self.ready).retain(|ready| *ready != ordinal);
    }

    /// Pods come, go, and turn out to be ready.
    async fn kubelet(&mut self) {
        let (Some(set), Some(list)) = (self.set.clone(), self.list.clone()) else { return };
        let wanted = u32::try_from(set.spec.as_ref().unwrap().replicas.unwrap()).unwrap();
        for (_, mut child) in self.processes.split_off(&wanted) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        self.ended.retain(|ordinal, _| *ordinal < wanted);
        for ordinal in 0..wanted {
            if self.processes.get_mut(&ordinal).is_some_and(|child| child.try_wait().unwrap().is_some()) {
                self.processes.remove(&ordinal);
                let words = std::fs::read_to_string(self.words(ordinal)).unwrap();
                // As much as a kubelet keeps.
                let kept: String = words.chars().rev().take(2048).collect::<Vec<_>>().into_iter().rev().collect();
                let times = self.ended.get(&ordinal).map_or(0, |(_, times, _)| *times);
                self.ended.insert(ordinal, (Instant::now(), times + 1, kept));
            }
            // A pod that ended is started again after a while, with the list of that moment.
            let waits = |(since, times, _): &(Instant, i32, String)| {
                since.elapsed() < Duration::from_secs(if *times > 3 { 60 } else { 1 })
            };
            if !self.processes.contains_key(&ordinal) && !self.ended.get(&ordinal).is_some_and(waits) {
                let child = self.start(ordinal, &set, &list);
                self.processes.insert(ordinal, child);
            }
        }
        let mut ready = Vec::new();
        for ordinal in self.processes.keys().copied() {
            if self.answers(ordinal).await {
                ready.push(ordinal);
            }
        }
        for ordinal in &ready {
            self.ended.remove(ordinal);
        }
        let count = i32::try_from(ready.len()).unwrap();
        *lock(&self.ready) = ready;
        self.set.as_mut().unwrap().status = Some(StatefulSetStatus {
            replicas: i32::try_from(wanted).unwrap(),
            ready_replicas: Some(count),
            ..StatefulSetStatus::default()
        });
    }

    /// Where the last words of a member go.
    fn words(&self, ordinal: u32) -> PathBuf {
        self.folder.path().join(format!("{ordinal}.log"))
    }

    fn start(&self, ordinal: u32, set: &StatefulSet, list: &ConfigMap) -> Child {
        let pod = format!("{}-{ordinal}", name::global_topo(CLUSTER));
        let container = &set.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0];
        let value = |variable: &EnvVar| -> String {
            let source = variable.value_from.clone().unwrap_or_default();
            if let Some(key) = source.config_map_key_ref {
                assert_eq!(Some(&key.name), list.metadata.name.as_ref());
                return list.data.as_ref().unwrap()[&key.key].clone();
            }
            match source.field_ref.as_ref().map(|field| field.field_path.as_str()) {
                Some("metadata.name") => pod.clone(),
                Some("metadata.namespace") => NAMESPACE.to_owned(),
                _ => variable.value.clone().unwrap(),
            }
        };
        let data = self.folder.path().join(ordinal.to_string());
        let (client, peer) = (self.net.clients[ordinal as usize], self.net.peers[ordinal as usize]);
        let mut command = Command::new(&self.binary);
        for variable in container.env.iter().flatten() {
            if variable.name == "ETCD_LISTEN_METRICS_URLS" {
                continue;
            }
            let text = value(variable).replace("$(POD_NAME)", &pod).replace("$(POD_NAMESPACE)", NAMESPACE);
            let text = self.net.real(&text);
            let text = text.replace("[::]:2379", &format!("127.0.0.1:{client}"));
            let text = text.replace("[::]:2380", &format!("127.0.0.1:{peer}"));
            command.env(&variable.name, text.replace("/var/lib/etcd", data.to_str().unwrap()));
        }
        command.env("ETCD_UNSAFE_NO_FSYNC", "true").env("ETCD_LOG_LEVEL", "error");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(self.words(ordinal)).unwrap()).spawn().unwrap()
    }

    async fn client(&self, ordinal: u32) -> Client {
        let options = ConnectOptions::new().with_timeout(Duration::from_secs(2));
        Client::connect([self.net.endpoint(ordinal)], Some(options)).await.unwrap()
    }

    /// Whether a member answers as a quorum would: one that still learns does not.
    async fn answers(&self, ordinal: u32) -> bool {
        let mut client = self.client(ordinal).await;
        tokio::time::timeout(Duration::from_millis(800), client.get("key", None))
            .await
            .is_ok_and(|answer| answer.is_ok())
    }

    /// The id of a member, as another one, or itself, knows it.
    async fn id_of(&self, asked: u32, ordinal: u32) -> u64 {
        let members = self.client(asked).await.member_list().await.unwrap();
        let name = format!("{}-{ordinal}", name::global_topo(CLUSTER));
        members.members().iter().find(|member| member.name() == name).map(etcd_client::Member::id).expect("a member")
    }

    async fn put(&self, key: &str) {
        let ordinal = *lock(&self.ready).first().expect("somebody serves");
        let end = Instant::now() + RESIZE;
        // Who lost its volume may have led: the others elect somebody first.
        while let Err(error) = self.client(ordinal).await.put(key, "value", None).await {
            assert!(Instant::now() < end, "{error}");
        }
    }

    /// Takes passes and pods in turn until the ensemble has that size and says so. It serves all the time.
    async fn becomes(&mut self, size: u32) {
        let end = Instant::now() + RESIZE;
        self.want(i32::try_from(size).unwrap());
        let mut most = self.processes.len();
        loop {
            self.pass().await;
            self.kubelet().await;
            let serving = lock(&self.ready).len();
            let conditions = self.server.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
            let on_the_way = find(&conditions, "AsSpecified").map(|condition| condition.message.clone());
            let pods = self.processes.len();
            assert!(pods <= most + 1 || most == 0, "{pods} pods after {most}");
            most = most.max(pods);
            if serving == size as usize && pods == serving && on_the_way.is_none() && self.is_declared(size) {
                return;
            }
            let now = Instant::now();
            assert!(now < end, "{serving} of {pods} serve; {on_the_way:?}; {}; {:?}", self.last, self.list);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn is_declared(&self, size: u32) -> bool {
        let data = self.list.as_ref().and_then(|list| list.data.as_ref()).unwrap();
        match data.get("step") {
            Some(step) => step == "closed" && data["members"] == size.to_string(),
            None => data["state"] == "new" && data["cluster"].split(',').count() == size as usize,
        }
    }

    async fn assert_holds(&self, keys: &[&str], size: usize) {
        let ready = lock(&self.ready).clone();
        for ordinal in ready {
            let mut client = self.client(ordinal).await;
            for key in keys {
                assert_eq!(client.get(*key, None).await.unwrap().kvs().len(), 1, "{key} on member {ordinal}");
            }
            let members = client.member_list().await.unwrap();
            assert_eq!(members.members().len(), size, "as member {ordinal} sees it");
            assert!(members.members().iter().all(|member| !member.is_learner()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_ensemble_grows_from_one_to_three_to_five_and_back_to_three_and_keeps_its_data_and_its_pods() {
    let Some(binary) = binary() else { return };
    let mut world = World::new(binary, 1);
    world.becomes(1).await;
    world.put("one").await;
    let first = world.processes[&0].id();
    world.becomes(3).await;
    world.assert_holds(&["one"], 3).await;
    world.put("three").await;
    world.becomes(5).await;
    world.put("five").await;
    world.assert_holds(&["one", "three", "five"], 5).await;
    world.becomes(3).await;
    world.assert_holds(&["one", "three", "five"], 3).await;
    assert_eq!(world.processes[&0].id(), first, "nobody was restarted for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_that_is_called_off_takes_the_member_back_that_has_not_joined() {
    let Some(binary) = binary() else { return };
    let mut world = World::new(binary, 1);
    world.becomes(1).await;
    world.put("one").await;
    // The pod of the member to come is never scheduled.
    world.want(3);
    let end = Instant::now() + RESIZE;
    loop {
        world.pass().await;
        let members = world.client(0).await.member_list().await.unwrap();
        if members.members().len() == 2 {
            break;
        }
        assert!(Instant::now() < end, "no learner comes in");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.put("two").await;
    world.becomes(1).await;
    world.assert_holds(&["one", "two"], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_lose_their_volumes_are_replaced_and_the_others_serve_on() {
    let Some(binary) = binary() else { return };
    let mut world = World::new(binary, 3);
    world.becomes(3).await;
    let mut keys = vec!["founded"];
    world.put("founded").await;
    // A founder in the middle, the last one, and one that came in the place of another.
    for (ordinal, key) in [(1, "middle"), (2, "last"), (1, "again"), (0, "first")] {
        let before = world.id_of(ordinal, ordinal).await;
        let others: Vec<u32> =
            (0..3).filter(|other| *other != ordinal).map(|other| world.processes[&other].id()).collect();
        world.lose(ordinal);
        world.put(key).await;
        keys.push(key);
        world.becomes(3).await;
        world.assert_holds(&keys, 3).await;
        let still: Vec<u32> =
            (0..3).filter(|other| *other != ordinal).map(|other| world.processes[&other].id()).collect();
        assert_eq!(still, others, "nobody else was restarted for it");
        assert_ne!(world.id_of(ordinal, ordinal).await, before, "another member has its place");
    }
    // One that came by growth.
    world.becomes(5).await;
    world.lose(3);
    world.becomes(5).await;
    world.assert_holds(&keys, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_member_is_never_replaced_and_its_loss_is_told_with_the_way_out() {
    let Some(binary) = binary() else { return };
    let mut world = World::new(binary, 3);
    world.becomes(3).await;
    world.becomes(1).await;
    world.lose(0);
    let end = Instant::now() + RESIZE;
    let message = loop {
        world.pass().await;
        world.kubelet().await;
        let conditions = world.server.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        if let Some(told) = find(&conditions, "AsSpecified").filter(|condition| condition.reason == "DataLost") {
            break told.message.clone();
        }
        assert!(Instant::now() < end, "{conditions:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(message.contains("delete ConfigMap demo-global-topo-members"), "{message}");
    assert!(lock(&world.ready).is_empty(), "nobody founded anything");
    world.list = None;
    world.becomes(1).await;
}

const TOPO: &str = "TopoServer/minimal-global-topo";
const SET: &str = "StatefulSet/minimal-global-topo";
const LIST: &str = "ConfigMap/minimal-global-topo-members";

fn of_size(size: i32) -> Value {
    let mut spec = super::bed::minimal();
    spec["globalTopoServer"] = json!({"etcd": {"replicas": size}});
    spec
}

/// Members of the ensemble by peer URL, as far as pods and list go.
fn started(set: &Value, list: &Value) -> Vec<(String, String)> {
    let pods = usize::try_from(set["spec"]["replicas"].as_u64().unwrap_or(0)).unwrap();
    let cluster = list["data"]["cluster"].as_str().unwrap_or_default();
    let named = cluster.split(',').filter_map(|member| member.split_once('='));
    named.take(pods).map(|(name, url)| (name.to_owned(), url.to_owned())).collect()
}

/// Waits until the ensemble has that size, with everything put back to rest.
async fn has_size(bed: &Bed, at: &TopoAddress, size: usize) {
    eventually(DEADLINE, async || {
        let (set, list, topo) = (bed.object(SET).await, bed.object(LIST).await, bed.object(TOPO).await);
        let members = bed.plane().members.members(at);
        let voters = members.iter().filter(|member| !member.learner).count();
        let data = &list["data"];
        let founders = || data["cluster"].as_str().unwrap_or_default().split(',').count();
        let declared = data["members"].as_str().map_or_else(founders, |members| members.parse().unwrap());
        let said = condition(&topo, "AsSpecified");
        let rests = data["state"] == "new" || data["step"] == "closed";
        let settled = said.is_null() && rests && condition(&topo, "Ready")["status"] == "True";
        if set["spec"]["replicas"] == size && voters == size && members.len() == size && declared == size && settled {
            return Ok(());
        }
        Err(format!("{voters} of {} vote, {declared} declared, {said}", members.len()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ensemble_grows_across_crashes_of_the_controller_at_every_write() {
    let Some(bed) = Bed::open().await else { return };
    let server = name::global_topo("minimal");
    let at = TopoAddress::new([format!("{server}.{}.svc:2379", bed.namespace)], "/");
    let play = async {
        loop {
            let (set, list) = (bed.object(SET).await, bed.object(LIST).await);
            let urls = started(&set, &list);
            if !urls.is_empty() {
                bed.plane().members.start(&at, &urls);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let story = async {
        let controller = bed.start().await;
        bed.create_cluster("minimal", &of_size(1)).await;
        has_size(&bed, &at, 1).await;
        controller.stop().await;
        bed.edit("MultigresCluster/minimal", json!({"spec": of_size(3)})).await;
        for writes in 0..10 {
            let crashing = bed.start_crashing(writes);
            crashing.quiet(Duration::from_secs(1)).await;
            crashing.kill().await;
        }
        let controller = bed.start().await;
        has_size(&bed, &at, 3).await;
        let url =
            |ordinal| format!("http://{server}-{ordinal}.{server}-headless.{}.svc.cluster.local:2380", bed.namespace);
        let added = |ordinal| MemberChange::AddLearner { peer_url: url(ordinal) };
        let steps = [added(1), MemberChange::Promote { id: 2 }, added(2), MemberChange::Promote { id: 3 }];
        assert_eq!(bed.plane().members.changes(&at), steps, "one at a time");

        bed.edit("MultigresCluster/minimal", json!({"spec": of_size(5)})).await;
        has_size(&bed, &at, 5).await;
        bed.edit("MultigresCluster/minimal", json!({"spec": of_size(3)})).await;
        has_size(&bed, &at, 3).await;
        controller.stop().await;
    };
    tokio::select! {
        () = play => {}
        () = story => {}
    }
    bed.close().await;
}
