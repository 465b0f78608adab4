//! A topology that is slow, or loses everything, while a shard changes.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use shared::{api::v1alpha1::TopoServer, condition, name};
use stories::{Bed, ClusterUnderTest, backup::small, etcd, until, within};

use super::watch::{Eye, POOL, blocked, nobody_goes, only_long, only_stand_in};

/// How long the members of a slow etcd stand still at a time, and run in between: shorter than what a probe waits for.
const STILL: Duration = Duration::from_millis(800);
const RUNS: Duration = Duration::from_millis(250);
/// Members of the etcd that loses everything.
const ENSEMBLE: u32 = 3;

fn replicas(count: u32) -> String {
    json!([{"op": "replace", "path": format!("{POOL}/replicasPerCell"), "value": count}]).to_string()
}

/// Processes that stand still most of the time until this is dropped.
struct Slow {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Slow {
    fn new(processes: Vec<Pid>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let send = move |signal: Signal| {
            for process in &processes {
                // One that ended meanwhile is not slow, either.
                let _ended = kill_process(*process, signal);
            }
        };
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                send(Signal::STOP);
                std::thread::sleep(STILL);
                send(Signal::CONT);
                std::thread::sleep(RUNS);
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

#[tokio::test]
async fn a_slow_topology_delays_a_scale_down_and_harms_nobody() -> Result<()> {
    if only_long() || only_stand_in() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    // The name of the cluster tells its etcd from all others of the machine.
    let name = bed.namespace("slow").await?;
    let cluster = ClusterUnderTest::apply_value(&bed, &name, &small(&name, 3, &json!({}))).await?;
    cluster.healthy(300).await?;
    cluster.roles(2, 60).await?;
    let etcd = etcd::processes(&name::global_topo(&name))?;
    ensure!(!etcd.is_empty(), "the etcd is no process of this machine, or of another user");
    let eye = Eye::open(&cluster, 2);
    let slow = Slow::new(etcd);
    cluster.patch(&replicas(2)).await?;
    until("the end of a scale-down, or why it waits", within(60), || async {
        let left = cluster.starts(&["shard-pool"]).await?.len();
        let conditions = cluster.shard().await?.status.unwrap_or_default().conditions;
        let reachable = condition::find(&conditions, "TopologyReachable");
        let told = condition::is_true(&conditions, "DisruptionBlocked")
            || reachable.is_some_and(|reachable| reachable.status == "False");
        ensure!(left == 2 || told, "{left} pods, {conditions:?}");
        Ok(())
    })
    .await?;
    // The next looks are slow, too.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let course = eye.course();
    ensure!(course.gone.len() <= 1 && course.most_down == 0, "nobody else goes: {course:?}");
    drop(slow);
    cluster.roles(1, 120).await?;
    cluster.healthy(180).await?;
    let course = eye.latest().await?;
    ensure!(course.gone.len() == 1 && !course.gone[0].1, "one goes, once and not as the primary: {course:?}");
    ensure!(course.most_down == 0, "those that stay are there all the time: {course:?}");
    cluster.done().await
}

/// Removes what is in a directory.
fn wipe(directory: &Path) -> Result<()> {
    let gone = |outcome: std::io::Result<()>| match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry.context("reading a directory")?.path();
        let outcome = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone(outcome).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// Members of the etcd lose their data, and start again.
async fn lose(cluster: &ClusterUnderTest, ordinals: impl Iterator<Item = u32> + Clone) -> Result<()> {
    let topo = name::global_topo(&cluster.name);
    for ordinal in ordinals.clone() {
        wipe(&cluster.directory(&name::topo_pvc(&topo, ordinal)).await?)?;
    }
    let pods: Api<Pod> = cluster.namespaced();
    for ordinal in ordinals {
        let pod = format!("{topo}-{ordinal}");
        pods.delete(&pod, &DeleteParams::default().grace_period(0)).await.with_context(|| format!("ending {pod}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_topology_that_lost_everything_is_told_and_filled_again_by_a_roll() -> Result<()> {
    if only_long() || only_stand_in() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let namespace = bed.namespace("wiped").await?;
    let change = json!({"globalTopoServer": {"etcd": {"replicas": ENSEMBLE}}});
    let cluster = ClusterUnderTest::apply_value(&bed, &namespace, &small("wiped", 3, &change)).await?;
    cluster.healthy(300).await?;
    cluster.roles(2, 60).await?;
    let claims = cluster.claims().await?;
    let topo = name::global_topo(&cluster.name);
    let eye = Eye::open(&cluster, 3);

    // All but one: what is left is no quorum, and nobody may found another ensemble.
    lose(&cluster, 1..ENSEMBLE).await?;
    let servers: Api<TopoServer> = cluster.namespaced();
    until("an etcd that tells of its loss", within(120), || async {
        let status = servers.get(&topo).await?.status.unwrap_or_default();
        let found = condition::find(&status.conditions, "AsSpecified").context("as specified")?;
        let told = found.reason == "DataLost" && found.message.contains(&format!("{topo}-1"));
        ensure!(told, "{}: {}", found.reason, found.message);
        Ok(())
    })
    .await?;
    cluster.patch(&replicas(2)).await?;
    blocked(&cluster, &["TopologyUnavailable"], &[], 60).await?;
    nobody_goes(&eye, 0, 30).await?;

    // All: an empty ensemble is founded, which knows nobody.
    lose(&cluster, 0..ENSEMBLE).await?;
    until("an empty etcd", within(300), || async {
        let status = servers.get(&topo).await?.status.unwrap_or_default();
        let available = condition::is_true(&status.conditions, "Available");
        let rests = condition::find(&status.conditions, "AsSpecified").is_none();
        ensure!(available && rests, "{:?}", status.conditions);
        Ok(())
    })
    .await?;
    // The rarest look is every five minutes.
    until("what the operator registers", within(330), || async {
        let keys = etcd::keys(&bed.client, &namespace, &format!("{topo}-0"), "/").await?;
        let has = |end: &str| keys.iter().any(|key| key.ends_with(end));
        ensure!(has("/cells/zone-a/Cell") && has("/databases/postgres/Database"), "{keys:?}");
        Ok(())
    })
    .await?;
    blocked(&cluster, &["NoPrimary", "RecordMissing", "WaitingForMember"], &[], 60).await?;
    nobody_goes(&eye, 0, 30).await?;
    until("the names of those without a record", within(60), || async {
        let conditions = cluster.shard().await?.status.unwrap_or_default().conditions;
        ensure!(condition::is_true(&conditions, "PoolersUnregistered"), "{conditions:?}");
        Ok(())
    })
    .await?;

    // A pooler writes its record when it starts and when its role or rule changes, and does not notice that it is gone. The roles may be told
    // before the records are back: two minutes without one, then one member after the other.
    cluster.patch(&replicas(3)).await?;
    cluster.roles(2, 480).await?;
    cluster.healthy(480).await?;
    let course = eye.latest().await?;
    ensure!(course.gone.len() == 2, "each standby goes once: {course:?}");
    ensure!(course.gone.iter().all(|(_, primary)| !primary), "nobody goes as the primary: {course:?}");
    // The primary's rule changes when its first standby leaves the cohort; where nobody left, it would have to hand over.
    ensure!(course.led.len() <= 2, "the primary hands over once, if at all: {course:?}");
    let now = cluster.claims().await?;
    ensure!(now == claims, "volumes before: {claims:?}, now: {now:?}");
    cluster.done().await
}
