//! Plays kubelets, poolers and orchestrators for the pool pods of shards, one stage for each: pods get ready, register, stream, elect and
//! step back.
//!
//! It watches closely: who was down when, and who was primary when its pod went.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use controller::upstream::{
    ConsensusView, Error, Lifecycle, LifecycleMark, Lsn, PoolerAddress, PoolerId, PoolerRecord, PoolerStatus, Postgres,
    PrimaryStatus, ReplicationStatus, Role, RuleNumber, Serving, ShardKey, TopoAddress,
    fake::{Call, FakeDataPlane},
};
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::json;
use shared::{label, name};
use tokio::task::AbortHandle;

/// How often it looks.
const BEAT: Duration = Duration::from_millis(50);
/// How long a pod takes to be ready, and then to stream.
const START: Duration = Duration::from_millis(300);
/// How long an election takes.
const ELECTION: Duration = Duration::from_millis(400);
/// Port of all poolers.
const PORT: u16 = 15270;

/// A shard that is played. It ends with the value.
pub struct Stage {
    state: Arc<Mutex<State>>,
    task: AbortHandle,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a test may look at.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Pods in the order in which they went, each with whether it led at that moment.
    pub gone: Vec<(String, bool)>,
    /// Most members that did not count at the same time, once all had.
    pub most_down: usize,
    /// Fewest members that were up at the same time, once all were.
    pub least_up: Option<usize>,
    /// How often somebody took over on request.
    pub switchovers: usize,
    /// Members that were taken out of the cohort.
    pub left: Vec<String>,
}

/// All shards that are played on one bed. Whoever is asked to change something answers in its own play.
#[derive(Default)]
pub struct Cast(Mutex<Vec<Weak<Mutex<State>>>>);

impl Cast {
    fn react(&self, call: &Call) -> Result<(), Error> {
        let plays: Vec<Arc<Mutex<State>>> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        let (Call::Resign(asked) | Call::LeaveCohort(asked, _)) = call else { return Ok(()) };
        let of_play = |play: &&Arc<Mutex<State>>| lock(play).pods.keys().any(|pod| address(pod) == *asked);
        match plays.iter().find(of_play) {
            Some(play) => lock(play).react(call),
            None => Err(Error::Unavailable { target: asked.host.clone(), detail: "nobody is there".to_owned() }),
        }
    }
}

#[derive(Default)]
struct State {
    at: Option<TopoAddress>,
    table_group: String,
    pods: BTreeMap<String, Pod>,
    leader: Option<String>,
    term: i64,
    subterm: i64,
    cohort: BTreeSet<String>,
    /// Since when nobody leads.
    vacant: Option<Instant>,
    refuses: bool,
    settled: bool,
    story: Story,
}

#[derive(Clone)]
struct Pod {
    uid: String,
    cell: String,
    seen: Instant,
}

impl Stage {
    /// Plays on those of `pods` that belong to a table group, with records in the topology at `at`.
    pub fn open(
        cast: &Arc<Cast>,
        pods: Api<DynamicObject>,
        plane: &FakeDataPlane,
        at: TopoAddress,
        table_group: &str,
    ) -> Self {
        let table_group = table_group.to_owned();
        let state = Arc::new(Mutex::new(State { at: Some(at), table_group, ..State::default() }));
        lock(&cast.0).push(Arc::downgrade(&state));
        let reacting = Arc::clone(cast);
        plane.poolers.react(Box::new(move |call| reacting.react(call)));
        let playing = Arc::clone(&state);
        let plane = plane.clone();
        let task = tokio::spawn(async move {
            loop {
                play(&pods, &plane, &playing).await;
                tokio::time::sleep(BEAT).await;
            }
        });
        Self { state, task: task.abort_handle() }
    }

    /// What has happened so far.
    pub fn story(&self) -> Story {
        lock(&self.state).story.clone()
    }

    /// Begins a new story.
    pub fn forget(&self) {
        let mut state = lock(&self.state);
        state.story = Story::default();
        state.settled = false;
    }

    /// The pod that leads.
    pub fn leader(&self) -> Option<String> {
        lock(&self.state).leader.clone()
    }

    /// Lets primaries refuse to step back, or not.
    pub fn refuse(&self, refuses: bool) {
        lock(&self.state).refuses = refuses;
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(pod: &str) -> PoolerAddress {
    PoolerAddress::new(format!("{pod}.pool"), PORT)
}

async fn play(pods: &Api<DynamicObject>, plane: &FakeDataPlane, state: &Mutex<State>) {
    let group = lock(state).table_group.clone();
    let wanted = format!("{}=shard-pool,{}={group}", label::COMPONENT, label::TABLE_GROUP);
    let Ok(list) = pods.list(&ListParams::default().labels(&wanted)).await else { return };
    let mut unready = Vec::new();
    {
        let mut state = lock(state);
        let now: BTreeMap<String, Pod> = list
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .map(|pod| {
                let uid = pod.uid().unwrap_or_default();
                let name = pod.name_any();
                let seen = state.pods.get(&name).filter(|known| known.uid == uid).map_or(Instant::now(), |k| k.seen);
                (name, Pod { uid, cell: pod.labels()[label::CELL].clone(), seen })
            })
            .collect();
        state.went(&now);
        state.pods = now;
        for pod in &list {
            let ready = pod.data["status"]["phase"] == "Running";
            if !ready && state.is_up(&pod.name_any()) {
                unready.push(pod.name_any());
            }
        }
        state.elect();
        state.measure(list.iter().any(|pod| pod.data["status"]["phase"] != "Running"));
        state.publish(plane);
    }
    for name in unready {
        let status = json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"},
        ]}});
        drop(pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await);
    }
}

impl State {
    fn react(&mut self, call: &Call) -> Result<(), Error> {
        let failed = |detail: &str| Err(Error::Failed { target: "pooler".to_owned(), detail: detail.to_owned() });
        match call {
            Call::Resign(asked) => {
                let leader = self.leader.clone().filter(|leader| address(leader) == *asked);
                if leader.is_none() || self.vacant.is_some() {
                    return failed("not a primary");
                }
                if self.refuses {
                    return failed("refused on command");
                }
                self.vacant = Some(Instant::now());
                self.story.switchovers += 1;
                Ok(())
            }
            Call::LeaveCohort(asked, member) => {
                if self.leader.as_ref().is_none_or(|leader| address(leader) != *asked) || self.vacant.is_some() {
                    return failed("not a primary");
                }
                let pod = self.cohort.iter().find(|pod| name::pooler_service_id(pod) == member.name).cloned();
                if let Some(pod) = pod {
                    self.cohort.remove(&pod);
                    self.subterm += 1;
                    self.story.left.push(pod);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn is_up(&self, name: &str) -> bool {
        self.pods.get(name).is_some_and(|pod| pod.seen.elapsed() >= START)
    }

    fn streams(&self, name: &str) -> bool {
        self.vacant.is_none() && self.pods.get(name).is_some_and(|pod| pod.seen.elapsed() >= START * 2)
    }

    /// Notes who is no longer there.
    fn went(&mut self, now: &BTreeMap<String, Pod>) {
        for (name, pod) in &self.pods {
            if now.get(name).is_none_or(|other| other.uid != pod.uid) {
                let led = self.leader.as_ref() == Some(name);
                self.story.gone.push((name.clone(), led && self.vacant.is_none()));
                if led && self.vacant.is_none() {
                    self.vacant = Some(Instant::now());
                }
            }
        }
    }

    fn elect(&mut self) {
        let up: Vec<String> = self.pods.keys().filter(|name| self.is_up(name)).cloned().collect();
        if self.leader.is_none() {
            if up.len() == self.pods.len() && up.len() > 1 {
                self.leader = up.first().cloned();
                self.cohort = up.into_iter().collect();
                self.term = 1;
            }
            return;
        }
        if self.vacant.is_some_and(|since| since.elapsed() >= ELECTION) {
            let old = self.leader.take();
            let next = up.iter().find(|name| Some(*name) != old.as_ref() && self.cohort.contains(*name)).cloned();
            self.leader = next.or(old);
            self.term += 1;
            self.subterm = 0;
            self.vacant = None;
        }
        let leader = self.leader.clone();
        let joining: Vec<String> =
            self.pods.keys().filter(|n| Some(*n) != leader.as_ref() && self.streams(n)).cloned().collect();
        let leaving = self.story.left.clone();
        self.cohort.extend(joining.into_iter().filter(|pod| !leaving.contains(pod)));
    }

    fn measure(&mut self, unready: bool) {
        let down = self.pods.keys().filter(|name| !self.is_up(name)).count();
        if !self.settled {
            self.settled = down == 0 && !unready && !self.pods.is_empty();
            return;
        }
        self.story.most_down = self.story.most_down.max(down);
        let up = self.pods.len() - down;
        self.story.least_up = Some(self.story.least_up.map_or(up, |least| least.min(up)));
    }

    fn publish(&self, plane: &FakeDataPlane) {
        let Some(at) = &self.at else { return };
        let id_of = |pod: &String| {
            let cell = self.pods.get(pod).map_or_else(String::new, |pod| pod.cell.clone());
            PoolerId::new(cell, name::pooler_service_id(pod))
        };
        let rule = RuleNumber { coordinator_term: self.term, leader_subterm: self.subterm };
        let consensus = self.leader.as_ref().map(|leader| ConsensusView {
            rule,
            leader: Some(id_of(leader)),
            cohort: self.cohort.iter().map(id_of).collect(),
            required: 2,
        });
        for (name, pod) in &self.pods {
            if !self.is_up(name) {
                plane.poolers.forget(&address(name));
                continue;
            }
            let leads = self.leader.as_ref() == Some(name);
            let record = PoolerRecord {
                id: id_of(name),
                shard: ShardKey::new("postgres", &self.table_group, "0-inf"),
                hostname: address(name).host,
                ports: BTreeMap::from([("grpc".to_owned(), PORT)]),
                role: if leads { Role::Primary } else { Role::Replica },
                rule: leads.then_some(rule),
                lifecycle: LifecycleMark { state: Lifecycle::Active, ..LifecycleMark::default() },
                serving: Serving::Serving,
                tls: None,
            };
            assert!(!pod.cell.is_empty(), "a pod without a cell");
            plane.topology.register_pooler(at, &record).expect("a record");
            let status = if leads && self.vacant.is_none() {
                PoolerStatus {
                    postgres: Postgres::Primary,
                    primary: Some(PrimaryStatus {
                        lsn: Some(Lsn(1000)),
                        ready: true,
                        followers: self.pods.keys().filter(|n| *n != name && self.streams(n)).map(id_of).collect(),
                    }),
                    ..PoolerStatus::default()
                }
            } else {
                PoolerStatus {
                    postgres: Postgres::Standby,
                    replication: Some(ReplicationStatus {
                        replayed: Some(Lsn(1000)),
                        receiver: if self.streams(name) { "streaming" } else { "" }.to_owned(),
                        ..ReplicationStatus::default()
                    }),
                    ..PoolerStatus::default()
                }
            };
            let status =
                PoolerStatus { id: Some(record.id), postgres_ready: true, consensus: consensus.clone(), ..status };
            plane.poolers.answer(address(name), Ok(status));
        }
    }
}
