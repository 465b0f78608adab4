//! Backups that cannot be made: the stand-in's faults, and what is told of them.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use shared::{
    api::v1alpha1::{BackupPhase, Phase},
    name::{ShardId, cell_backup_pvc},
};
use stories::{
    Backups, Bed, ClusterUnderTest,
    audit::{CONTROLLER_USER, Mark},
    backup::{EXPORTER, is_real, small},
    until, within,
};

use super::{SOON, begin, keys, only_long};

/// More writes of the controller while backups fail are a busy loop.
const FEW: usize = 60;
/// The repository is read every ten minutes; this is within one look.
const ONE_LOOK: u64 = 690;

/// Whether faults cannot be had on command, which is said.
fn without_faults() -> bool {
    if is_real() {
        eprintln!("SKIPPED: the faults of this story are the stand-in's own");
    }
    is_real()
}

/// Writes of the controller in a namespace since a mark; few, and none that ends a pod.
fn few(cluster: &ClusterUnderTest, mark: &Mark) -> Result<()> {
    let writes = mark.since(CONTROLLER_USER, |namespace| namespace == cluster.namespace)?;
    let count = writes.total() + writes.events;
    ensure!(count <= FEW, "{count} writes are a busy loop: {writes:?}");
    let ended = writes.by_resource.keys().find(|(verb, resource)| verb.contains("delete") && resource == "pods");
    ensure!(ended.is_none(), "the operator ended pods: {writes:?}");
    Ok(())
}

fn log(bed: &Bed) -> Result<PathBuf> {
    bed.audit_log.clone().context("the audit log of the bed")
}

#[tokio::test]
async fn backups_that_hang_or_fail_and_wal_that_is_not_archived_are_told_and_nothing_spins() -> Result<()> {
    if without_faults() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let log = log(&bed)?;
    let cluster = begin(&bed, "hurt", 2, &json!({})).await?;
    let backups = Backups::of(&cluster);
    backups.says("BackupHealthy", "True", "BackupRecent", 90).await?;
    backups.says("WALArchiving", "True", "Archiving", 120).await?;
    let primary = cluster.primary().await?;
    backups.fault(&primary, EXPORTER, "stop-archiving").await?;

    // A backup that never ends is given up at its deadline, and nobody disturbs it while it may still run.
    backups.fault_everywhere("hang-backup").await?;
    let mark = Mark::now(&log)?;
    backups.order("hangs", &json!({"type": "full", "deadline": "25s"})).await?;
    backups.reaches("hangs", BackupPhase::Running, "", 25).await?;
    backups.order("waits", &json!({"type": "incremental"})).await?;
    backups.reaches("waits", BackupPhase::Pending, "Waiting for hangs", 30).await?;
    backups.reaches("hangs", BackupPhase::Failed, "did not end within its deadline", 60).await?;
    backups.says("BackupHealthy", "False", "BackupFailed", 30).await?;
    let waits = backups.reaches("waits", BackupPhase::Pending, "somebody else makes a backup", 30).await?;
    ensure!(waits.attempt.is_none(), "it was begun beside another one: {waits:?}");
    let told = backups.says("WALArchiving", "False", "ArchivingFailing", 120).await?;
    ensure!(told.phase == Some(Phase::Degraded), "{:?} with an archive that is dead", told.phase);
    few(&cluster, &mark)?;
    backups.fault_everywhere("").await?;
    backups.completed("waits", 90).await?;
    backups.says("BackupHealthy", "True", "BackupRecent", 60).await?;

    // One that fails is tried so often as was asked for.
    backups.fault_everywhere("fail-backup").await?;
    let mark = Mark::now(&log)?;
    backups.order("fails", &json!({"type": "full", "attempts": 2})).await?;
    let fails = backups.reaches("fails", BackupPhase::Failed, "Given up after 2 attempts", SOON).await?;
    ensure!(fails.attempt == Some(2), "{fails:?}");
    ensure!(fails.error.is_some_and(|error| error.contains("failed on command")), "the reason is not told");
    backups.says("BackupHealthy", "False", "BackupFailed", 30).await?;
    few(&cluster, &mark)?;

    // A list that makes no sense is not believed.
    backups.fault_everywhere("garble-backups").await?;
    let mark = Mark::now(&log)?;
    backups.make("garbled", &json!({"type": "full"}), SOON).await?;
    backups.says("BackupHealthy", "False", "NoBackups", 60).await?;
    few(&cluster, &mark)?;
    backups.fault_everywhere("").await?;
    let sound = backups.make("sound", &json!({"type": "full", "deletionPolicy": "Delete"}), SOON).await?;
    let sound = sound.backup_id.context("its name in the repository")?;
    backups.says("BackupHealthy", "True", "BackupRecent", 60).await?;

    // A look that is cut off shows nothing, which does not mean that there is nothing.
    backups.fault_everywhere("empty-backups").await?;
    let mark = Mark::now(&log)?;
    backups.runs().delete("sound", &DeleteParams::default()).await?;
    backups.told("sound", "BackupDataKept", "lists no backup", 60).await?;
    let kept = backups.runs().get_opt("sound").await?;
    ensure!(kept.is_some(), "the object of a backup is gone, and nobody knows whether the backup is");
    few(&cluster, &mark)?;
    backups.fault_everywhere("").await?;
    backups.holds(&sound, false, 90).await?;
    backups.is_gone("sound", 60).await?;
    backups.says("BackupHealthy", "True", "BackupRecent", 60).await?;

    backups.fault(&primary, EXPORTER, "").await?;
    backups.says("WALArchiving", "True", "Archiving", 120).await?;
    cluster.healthy(60).await?;
    cluster.done().await
}

/// A fault, what the shard says of it, and what a run that it has stopped says.
#[derive(Clone, Copy)]
struct Trouble {
    fault: &'static str,
    shard: &'static str,
    run: &'static str,
}

/// A cluster whose poolers cannot read their repository tells it, tries no harder for it, and is well once they can.
async fn refused(story: &str, change: &Value, secret: Option<Secret>, trouble: Trouble) -> Result<()> {
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let log = log(&bed)?;
    let namespace = bed.namespace(story).await?;
    if let Some(secret) = secret {
        let secrets: Api<Secret> = Api::namespaced(bed.client.clone(), &namespace);
        secrets.create(&PostParams::default(), &secret).await?;
    }
    let manifest = small(story, 2, change);
    let cluster = ClusterUnderTest::apply_value(&bed, &namespace, &manifest).await?;
    cluster.healthy(300).await?;
    let backups = Backups::of(&cluster);
    backups.says("BackupHealthy", "True", "BackupRecent", 90).await?;
    // A shard that is new is looked at first of all: made again over its volumes it finds the fault, not ten minutes later.
    cluster.delete(240).await?;
    ClusterUnderTest::apply_value(&bed, &namespace, &manifest).await?;
    until("two poolers with the fault", within(180), || async {
        let pods = backups.pods().await?;
        ensure!(pods.len() == 2, "{} pods", pods.len());
        backups.fault_everywhere(trouble.fault).await
    })
    .await?;
    let told = backups.says("BackupHealthy", "False", "RepositoryUnreachable", ONE_LOOK).await?;
    ensure!(told.phase == Some(Phase::Degraded), "{:?} without a repository", told.phase);
    let message = told.message.unwrap_or_default();
    ensure!(message.contains(trouble.shard), "it does not say why: {message}");
    let mark = Mark::now(&log)?;
    backups.order("refused", &json!({"type": "full", "attempts": 3})).await?;
    let status = backups.ended("refused", SOON).await?;
    ensure!(status.phase == Some(BackupPhase::Failed), "{status:?}");
    ensure!(status.error.is_some_and(|error| error.contains(trouble.run)), "the reason is not told");
    few(&cluster, &mark)?;
    backups.fault_everywhere("").await?;
    backups.make("healed", &json!({"type": "full"}), SOON).await?;
    backups.says("BackupHealthy", "True", "BackupRecent", 120).await?;
    cluster.healthy(60).await?;
    cluster.done().await
}

#[tokio::test]
async fn a_repository_that_is_away_is_told_within_one_look() -> Result<()> {
    if only_long() || without_faults() {
        return Ok(());
    }
    let words = "unable to reach the repository";
    refused("away", &json!({}), None, Trouble { fault: "lose-repository", shard: words, run: words }).await
}

#[tokio::test]
async fn a_repository_that_lists_nothing_is_told_within_one_look() -> Result<()> {
    if only_long() || without_faults() {
        return Ok(());
    }
    let trouble = Trouble { fault: "empty-backups", shard: "lists no backup", run: "failed to find backup" };
    refused("empty", &json!({}), None, trouble).await
}

#[tokio::test]
async fn keys_that_are_revoked_are_told_within_one_look() -> Result<()> {
    if only_long() || without_faults() {
        return Ok(());
    }
    let s3 = json!({"bucket": "b", "region": "r", "useEnvCredentials": true, "credentialsSecret": "keys"});
    let change = json!({"backup": {"type": "s3", "filesystem": null, "s3": s3}});
    let keys = keys("story", "Wq7vT2mPz9LkX4rB8s");
    refused("revoked", &change, Some(keys), Trouble { fault: "revoke-credentials", shard: "403", run: "403" }).await
}

/// Where the stand-in keeps its list of backups, below the place of the repository.
const MANIFEST: &str = "backup/multigres/standin-backup.json";

#[tokio::test]
async fn a_repository_that_nobody_can_read_at_the_bootstrap_is_told_and_reading_it_is_enough() -> Result<()> {
    if only_long() || without_faults() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = begin(&bed, "damaged", 2, &json!({})).await?;
    let shard = ShardId { cluster: &cluster.name, database: "postgres", table_group: "default", shard: "0-inf" };
    let kept = cell_backup_pvc(shard, "zone-a");
    cluster.delete(240).await?;
    // Only the repository stays, so the next cluster begins with it, and it is no repository any more.
    let claims: Api<PersistentVolumeClaim> = cluster.namespaced();
    for claim in cluster.claims().await?.iter().filter(|claim| **claim != kept) {
        claims.delete(claim, &DeleteParams::default()).await?;
    }
    until("the end of the volumes with data", within(90), || async {
        let left = cluster.claims().await?;
        ensure!(left == [kept.clone()], "{left:?}");
        Ok(())
    })
    .await?;
    let manifest = cluster.directory(&kept).await?.join(MANIFEST);
    ensure!(manifest.exists(), "{} is not there", manifest.display());
    fs::write(&manifest, "scrambled").with_context(|| format!("writing {}", manifest.display()))?;
    ClusterUnderTest::apply_value(&bed, &cluster.namespace, &small("damaged", 2, &json!({}))).await?;
    let backups = Backups::of(&cluster);
    let told = backups.says("BackupHealthy", "False", "RepositoryUnreachable", 240).await?;
    ensure!(told.phase == Some(Phase::Degraded), "{:?} without a repository", told.phase);
    until("a cluster that names its repository", within(30), || async {
        let status = cluster.get().await?.status.unwrap_or_default();
        let message = status.message.unwrap_or_default();
        let named = message.contains("repository cannot be read") && message.contains("backup.info is damaged");
        ensure!(status.phase == Some(Phase::Degraded) && named, "{:?}: {message}", status.phase);
        Ok(())
    })
    .await?;
    fs::remove_file(&manifest).with_context(|| format!("removing {}", manifest.display()))?;
    backups.says("BackupHealthy", "True", "BackupRecent", 240).await?;
    cluster.healthy(120).await?;
    cluster.done().await
}
