//! What every change is looked at with: a client that writes all the time, and an eye on every pod.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, ResourceExt as _, api::ListParams};
use shared::condition;
use stories::{Bed, ClusterUnderTest, backup::is_real, bed::is_left_out, probe::Probe, until, within};

/// Longest time without an acknowledged write that a planned change may cost.
pub const GAP: Duration = Duration::from_secs(6);
/// Where the patches of a story find the only shard.
pub const SHARD: &str = "/spec/databases/0/tablegroups/0/shards/0/spec";
/// Where they find its pools.
pub const POOLS: &str = "/spec/databases/0/tablegroups/0/shards/0/spec/pools";
/// Where they find its only pool.
pub const POOL: &str = "/spec/databases/0/tablegroups/0/shards/0/spec/pools/default";

/// Whether this form of the stories leaves this one out, which is said.
pub fn only_long() -> bool {
    is_left_out("this change takes minutes")
}

/// Whether a story is left out, because its faults are the stand-in's own, which is said.
pub fn only_stand_in() -> bool {
    if is_real() {
        eprintln!("SKIPPED: the real data plane takes no faults");
    }
    is_real()
}

/// What was seen of the pool pods so far.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// Pods that went, in order, and whether they were the primary then.
    pub gone: Vec<(String, bool)>,
    /// Pods that carried the label of the primary, one after the other.
    pub led: Vec<String>,
    /// Most members that were away or not ready at the same time.
    pub most_down: usize,
}

/// What an eye sees of the pool pods.
#[derive(Default)]
struct Seen {
    /// Pods as they were last, by name: UID, and whether they carried the label of the primary.
    pods: BTreeMap<String, (String, bool)>,
    course: Course,
    /// How often it has looked.
    looks: usize,
}

/// An eye on the pool pods of a cluster.
pub struct Eye {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::AbortHandle,
}

impl Drop for Eye {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Eye {
    /// Looks ten times a second.
    pub fn open(cluster: &ClusterUnderTest, members: usize) -> Self {
        let pods: Api<Pod> = cluster.namespaced();
        let query = pool_pods(cluster);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let writes = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                if let Ok(list) = pods.list(&query).await {
                    let mut seen = writes.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.look(&list.items, members);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { seen, task: task.abort_handle() }
    }

    /// What it has seen since it was opened.
    pub fn course(&self) -> Course {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).course.clone()
    }

    /// The same after a look that has begun since.
    pub async fn latest(&self) -> Result<Course> {
        let looks = || self.seen.lock().unwrap_or_else(PoisonError::into_inner).looks;
        let before = looks();
        until("a look at the pods", within(30), || async {
            ensure!(looks() >= before + 2, "{} looks", looks() - before);
            Ok(())
        })
        .await?;
        Ok(self.course())
    }
}

impl Seen {
    fn look(&mut self, pods: &[Pod], members: usize) {
        let now: BTreeMap<String, (String, bool)> = pods
            .iter()
            .map(|pod| {
                let primary = pod.labels().get("multigres.com/role").is_some_and(|role| role == "primary");
                (pod.name_any(), (pod.uid().unwrap_or_default(), primary))
            })
            .collect();
        for (name, (uid, primary)) in &self.pods {
            if now.get(name).is_none_or(|(other, _)| other != uid) {
                self.course.gone.push((name.clone(), *primary));
            }
        }
        let mut led = now.iter().filter(|(_, (_, primary))| *primary).map(|(name, _)| name);
        // While the label moves, two may carry it, or nobody.
        if let (Some(leader), None) = (led.next(), led.next())
            && self.course.led.last() != Some(leader)
        {
            self.course.led.push(leader.clone());
        }
        let ready = pods.iter().filter(|pod| shared::health::is_ready(pod)).count();
        self.course.most_down = self.course.most_down.max(members.saturating_sub(ready));
        self.pods = now;
        self.looks += 1;
    }
}

/// Selects the pool pods of a cluster.
pub fn pool_pods(cluster: &ClusterUnderTest) -> ListParams {
    let labels = format!("app.kubernetes.io/instance={},app.kubernetes.io/component=shard-pool", cluster.name);
    ListParams::default().labels(&labels)
}

/// What a change may cost.
#[derive(Clone, Copy)]
pub struct Allowed {
    /// Members that may be down at the same time.
    pub down: usize,
    /// The longest time without an acknowledged write.
    pub gap: Duration,
}

/// Runs one change under the eyes of a client that writes through any gateway; answers what was seen of the pods meanwhile.
pub async fn watched(
    cluster: &ClusterUnderTest,
    title: &str,
    members: usize,
    allowed: Allowed,
    change: impl AsyncFnOnce() -> Result<()>,
) -> Result<Course> {
    let gateway = shared::name::cluster_gateway(&cluster.name);
    watched_at(cluster, &gateway, title, members, allowed, change).await
}

/// The same with a client of one gateway Service.
pub async fn watched_at(
    cluster: &ClusterUnderTest,
    gateway: &str,
    title: &str,
    members: usize,
    allowed: Allowed,
    change: impl AsyncFnOnce() -> Result<()>,
) -> Result<Course> {
    let secrets: Api<Secret> = cluster.namespaced();
    let secret = secrets.get(&format!("{}-postgres-password", cluster.name)).await?;
    let password = secret.data.unwrap_or_default().remove("password").context("a password")?;
    let host = format!("{gateway}.{}.svc.cluster.local", cluster.namespace);
    let probe = Probe::start(env!("CARGO_BIN_EXE_write_probe"), &host, std::str::from_utf8(&password.0)?)?;
    let eye = Eye::open(cluster, members);
    change().await?;
    cluster.healthy(420).await?;
    let course = eye.latest().await?;
    eprintln!("story {title}: {} pods went, at most {} down", course.gone.len(), course.most_down);
    ensure!(course.most_down <= allowed.down, "{} members were down at once", course.most_down);
    if let Some(probe) = probe {
        let report = probe.stop()?;
        eprintln!(
            "story {title}: longest gap {} ms, {} failed and {} lost of {} writes {:?}",
            report.longest_gap_ms, report.failed, report.lost, report.acknowledged, report.errors
        );
        ensure!(report.lost == 0, "{} acknowledged writes are lost", report.lost);
        ensure!(report.failed == 0, "{} writes failed: {:?}", report.failed, report.errors);
        ensure!(u128::from(report.longest_gap_ms) <= allowed.gap.as_millis(), "a gap of {} ms", report.longest_gap_ms);
    }
    Ok(course)
}

/// A cluster of three cells with one member in each, in a namespace of its own.
pub async fn three_cells(bed: &Bed, story: &str) -> Result<ClusterUnderTest> {
    let namespace = bed.namespace(story).await?;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/demo-multi-az-shared-volume.yaml");
    let cluster = ClusterUnderTest::apply(bed, &namespace, &sample).await?;
    cluster.healthy(300).await?;
    cluster.roles(2, 120).await?;
    Ok(cluster)
}

/// Waits until the shard says that one of these reasons holds up what should be done, in a message with these words.
pub async fn blocked(cluster: &ClusterUnderTest, reasons: &[&str], words: &[&str], seconds: u64) -> Result<()> {
    until(&format!("a shard that is held up by one of {reasons:?}"), within(seconds), || async {
        let status = cluster.shard().await?.status.unwrap_or_default();
        let found = condition::find(&status.conditions, "DisruptionBlocked").context("nothing is in the way")?;
        let named = reasons.contains(&found.reason.as_str()) && words.iter().all(|word| found.message.contains(word));
        ensure!(found.status == "True" && named, "{} {}: {}", found.status, found.reason, found.message);
        Ok(())
    })
    .await
}

/// For so many seconds nobody goes beyond those that went before.
pub async fn nobody_goes(eye: &Eye, before: usize, seconds: u64) -> Result<()> {
    let end = Instant::now() + within(seconds);
    while Instant::now() < end {
        let course = eye.course();
        ensure!(course.gone.len() == before, "somebody went: {course:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}
