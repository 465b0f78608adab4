//! Backups: made by a schedule and on demand, kept and removed by policy, made again when a pod dies, and told of when they fail.
//!
//! The short form has what is cheap to wait for. What needs the stand-in's faults, or the real data plane, says so.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};
use serde_json::{Value, json};
use shared::{
    annotation,
    api::v1alpha1::{BackupKind, BackupPhase, MultigresBackup, MultigresBackupStatus, Phase},
};
use stories::{
    Backups, Bed, ClusterUnderTest, ObjectStore, Tools,
    audit::{CONTROLLER_USER, Mark},
    backup::{EXPORTER, is_real, small},
    bed::is_long,
    until, within,
};

/// The pool of a small cluster.
const POOL: &str = "/spec/databases/0/tablegroups/0/shards/0/spec/pools/default";
/// More writes of the controller while backups fail are a busy loop.
const FEW: usize = 60;
/// The repository is read every ten minutes; this is within one look.
const ONE_LOOK: u64 = 690;
/// A backup of next to nothing takes no longer, even on a machine with other things to do.
const SOON: u64 = 180;

/// Whether this form of the stories leaves this one out, which is said.
fn only_long() -> bool {
    if !is_long() {
        eprintln!("SKIPPED: this story takes minutes and belongs to the long form; `make stories` has it");
    }
    !is_long()
}

/// Whether faults cannot be had on command, which is said.
fn without_faults() -> bool {
    if is_real() {
        eprintln!("SKIPPED: the faults of this story are the stand-in's own");
    }
    is_real()
}

/// A Healthy cluster in a namespace of its own.
async fn begin(bed: &Bed, story: &str, members: u32, change: &Value) -> Result<ClusterUnderTest> {
    let namespace = bed.namespace(story).await?;
    let cluster = ClusterUnderTest::apply_value(bed, &namespace, &small(story, members, change)).await?;
    cluster.healthy(300).await?;
    Ok(cluster)
}

async fn end(cluster: &ClusterUnderTest) -> Result<()> {
    cluster.delete(240).await?;
    cluster.bed.remove_namespace(&cluster.namespace).await
}

async fn primary(cluster: &ClusterUnderTest) -> Result<String> {
    cluster.shard().await?.status.unwrap_or_default().primary.context("a confirmed primary")
}

/// A merge patch of the backups of a cluster's spec.
async fn change_backup(cluster: &ClusterUnderTest, field: &str, value: &Value) -> Result<()> {
    let patch = json!([{"op": "add", "path": format!("/spec/backup/{field}"), "value": value}]);
    cluster.patch(&patch.to_string()).await
}

/// A backup tells all that there is to tell, and was made on a standby.
async fn tells(backups: &Backups<'_>, made: &MultigresBackupStatus, kind: BackupKind, primary: &str) -> Result<()> {
    ensure!(made.backup_type == Some(kind), "{made:?}");
    ensure!(made.size_bytes.is_some_and(|bytes| bytes > 0) && made.size.is_some(), "no size: {made:?}");
    let wal = [&made.wal_start, &made.wal_stop];
    let position = |text: &&Option<String>| text.as_ref().is_some_and(|text| text.contains('/'));
    ensure!(wal.iter().all(position), "no range of WAL: {made:?}");
    ensure!(made.started_at.is_some() && made.completed_at >= made.started_at, "no times: {made:?}");
    ensure!(made.duration.is_some() && made.attempt == Some(1) && made.error.is_none(), "{made:?}");
    let maker = backups.maker(made.pooler.as_deref().unwrap_or_default()).await?;
    ensure!(maker != primary, "{maker} is the primary, and made a backup");
    Ok(())
}

#[tokio::test]
async fn backups_are_made_by_schedule_and_on_demand() -> Result<()> {
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = begin(&bed, "backups", 2, &json!({})).await?;
    let backups = Backups::of(&cluster);
    let primary = primary(&cluster).await?;
    let delete = |level: &str| json!({"type": level, "deletionPolicy": "Delete"});

    let base = backups.make("base", &delete("full"), SOON).await?;
    tells(&backups, &base, BackupKind::Full, &primary).await?;
    let later = backups.make("later", &delete("incremental"), SOON).await?;
    tells(&backups, &later, BackupKind::Incr, &primary).await?;
    let second = Timestamp::now().as_second();
    let (base, later) = (backups.id("base").await?, backups.id("later").await?);
    ensure!(later.starts_with(&base), "{later} builds on {base}");
    // Backups that end within the same second have no order.
    until("another second", within(10), || async {
        ensure!(Timestamp::now().as_second() > second, "it is still that of the last backup");
        Ok(())
    })
    .await?;
    let kept = backups.make("kept", &json!({"type": "full"}), SOON).await?;
    let kept = kept.backup_id.context("its name in the repository")?;

    until("a shard that tells of its newest backup", within(90), || async {
        let backup = cluster.shard().await?.status.unwrap_or_default().backup.unwrap_or_default();
        ensure!(backup.last_id.as_ref() == Some(&kept) && backup.last_full == backup.last, "{backup:?}");
        // The one of the bootstrap, and three of ours.
        ensure!(backup.complete == Some(4) && backup.last_size_bytes.is_some(), "{backup:?}");
        ensure!(backup.earliest_recoverable < backup.last, "{backup:?}");
        Ok(())
    })
    .await?;
    backups.says("BackupHealthy", "True", "BackupRecent", 60).await?;
    backups.says("WALArchiving", "True", "Archiving", 120).await?;
    cluster.healthy(60).await?;

    scheduled(&backups, &cluster, &primary).await?;
    columns(&cluster).await?;

    // What builds on a backup goes first; what is to stay stays.
    backups.runs().delete("later", &DeleteParams::default()).await?;
    backups.holds(&later, false, SOON).await?;
    backups.runs().delete("base", &DeleteParams::default()).await?;
    backups.holds(&base, false, SOON).await?;
    until("the end of the objects", within(60), || async {
        let left: Vec<String> =
            backups.runs().list(&ListParams::default()).await?.iter().map(kube::ResourceExt::name_any).collect();
        ensure!(!left.iter().any(|name| name == "base" || name == "later"), "{left:?}");
        Ok(())
    })
    .await?;
    backups.runs().delete("kept", &DeleteParams::default()).await?;
    until("the end of an object without data", within(60), || async {
        ensure!(backups.runs().get_opt("kept").await?.is_none(), "it is still there");
        Ok(())
    })
    .await?;
    backups.holds(&kept, true, SOON).await?;
    end(&cluster).await
}

/// One run by a schedule that is due each minute.
async fn scheduled(backups: &Backups<'_>, cluster: &ClusterUnderTest, primary: &str) -> Result<()> {
    let schedule = json!({"incremental": "* * * * *", "jitter": "0s", "startingDeadline": "1m"});
    change_backup(cluster, "schedule", &schedule).await?;
    let is_scheduled = |run: &MultigresBackup| run.annotations().contains_key(annotation::SCHEDULED_AT);
    let run = until("a scheduled backup", within(SOON), || async {
        let all = backups.runs().list(&ListParams::default()).await?.items;
        let run = all.into_iter().find(is_scheduled).context("no run was scheduled")?;
        let phase = run.status.as_ref().and_then(|status| status.phase);
        ensure!(phase == Some(BackupPhase::Completed), "{:?}", run.status);
        Ok(run)
    })
    .await?;
    let shard = cluster.shard().await?;
    let owned =
        run.owner_references().iter().any(|owner| owner.name == shard.name_any() && owner.controller == Some(true));
    ensure!(owned, "{:?}", run.metadata);
    tells(backups, &run.status.clone().unwrap_or_default(), BackupKind::Incr, primary).await?;
    // The time that was served is written down, and the next one told.
    until("the times of the schedule in the status of the shard", within(30), || async {
        let backup = cluster.shard().await?.status.unwrap_or_default().backup.unwrap_or_default();
        ensure!(backup.next_run.is_some(), "{backup:?}");
        ensure!(backup.scheduled.as_ref().is_some_and(|times| times.incremental.is_some()), "{backup:?}");
        Ok(())
    })
    .await?;
    change_backup(cluster, "schedule/suspend", &json!(true)).await?;
    until("a schedule that stands still", within(60), || async {
        let backup = cluster.shard().await?.status.unwrap_or_default().backup.unwrap_or_default();
        ensure!(backup.next_run.is_none(), "{backup:?}");
        let all = backups.runs().list(&ListParams::default()).await?.items;
        let phase = |run: &MultigresBackup| run.status.as_ref().and_then(|status| status.phase);
        let open = all.iter().filter(|run| !phase(run).is_some_and(BackupPhase::is_final)).count();
        ensure!(open == 0, "{open} runs have not ended");
        Ok(())
    })
    .await
}

/// The table that users see has no gaps.
async fn columns(cluster: &ClusterUnderTest) -> Result<()> {
    let tools = Tools::from_env()?;
    let table = tools.succeed("kubectl", &["-n", &cluster.namespace, "get", "mgb"]).await?;
    let mut lines = table.lines();
    let heading: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    ensure!(heading == ["NAME", "CLUSTER", "TYPE", "PHASE", "SIZE", "DURATION", "AGE"], "{table}");
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
    ensure!(rows.len() >= 4, "{table}");
    for row in rows {
        ensure!(row.len() == heading.len() && !row.contains(&"<none>"), "{table}");
        ensure!(row[1] == cluster.name && row[3] == "Completed", "{table}");
    }
    Ok(())
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
    let primary = primary(&cluster).await?;
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
    backups.make("sound", &json!({"type": "full"}), SOON).await?;
    backups.says("BackupHealthy", "True", "BackupRecent", 60).await?;

    backups.fault(&primary, EXPORTER, "").await?;
    backups.says("WALArchiving", "True", "Archiving", 120).await?;
    cluster.healthy(60).await?;
    end(&cluster).await
}

/// A cluster whose poolers cannot read their repository tells it, tries no harder for it, and is well once they can.
async fn refused(story: &str, change: &Value, secret: Option<Secret>, fault: &str, words: &str) -> Result<()> {
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
        backups.fault_everywhere(fault).await
    })
    .await?;
    let told = backups.says("BackupHealthy", "False", "RepositoryUnreachable", ONE_LOOK).await?;
    ensure!(told.phase == Some(Phase::Degraded), "{:?} without a repository", told.phase);
    let message = told.message.unwrap_or_default();
    ensure!(message.contains(words), "it does not say why: {message}");
    let mark = Mark::now(&log)?;
    backups.order("refused", &json!({"type": "full", "attempts": 3})).await?;
    let status = backups.ended("refused", SOON).await?;
    ensure!(status.phase == Some(BackupPhase::Failed), "{status:?}");
    ensure!(status.error.is_some_and(|error| error.contains(words)), "the reason is not told");
    few(&cluster, &mark)?;
    backups.fault_everywhere("").await?;
    backups.make("healed", &json!({"type": "full"}), SOON).await?;
    backups.says("BackupHealthy", "True", "BackupRecent", 120).await?;
    cluster.healthy(60).await?;
    end(&cluster).await
}

#[tokio::test]
async fn a_repository_that_is_away_is_told_within_one_look() -> Result<()> {
    if only_long() || without_faults() {
        return Ok(());
    }
    refused("away", &json!({}), None, "lose-repository", "unable to reach the repository").await
}

#[tokio::test]
async fn keys_that_are_revoked_are_told_within_one_look() -> Result<()> {
    if only_long() || without_faults() {
        return Ok(());
    }
    let s3 = json!({"bucket": "b", "region": "r", "useEnvCredentials": true, "credentialsSecret": "keys"});
    let change = json!({"backup": {"type": "s3", "filesystem": null, "s3": s3}});
    refused("revoked", &change, Some(keys("story", "secret")), "revoke-credentials", "403").await
}

/// The Secret `keys`.
fn keys(access_key: &str, secret_key: &str) -> Secret {
    let data = [("AWS_ACCESS_KEY_ID", access_key), ("AWS_SECRET_ACCESS_KEY", secret_key)];
    Secret {
        metadata: ObjectMeta { name: Some("keys".to_owned()), ..ObjectMeta::default() },
        string_data: Some(data.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        ..Secret::default()
    }
}

#[tokio::test]
async fn a_backup_whose_pod_dies_is_made_again_retention_prunes_and_a_new_standby_begins_with_a_restore() -> Result<()>
{
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    // Two go on confirming commits while the third one is away.
    let cluster = begin(&bed, "again", 3, &json!({})).await?;
    let backups = Backups::of(&cluster);
    if is_real() {
        // Some 400 MB, so that there is time to end the pod that saves them.
        let rows = "INSERT INTO filler SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 400000) AS g";
        let table = "CREATE TABLE IF NOT EXISTS filler (id bigint PRIMARY KEY, text text)";
        backups.sql(env!("CARGO_BIN_EXE_sql"), &[table, rows]).await?;
    } else {
        backups.fault_everywhere("hang-backup").await?;
    }
    backups.order("cut", &json!({"type": "full"})).await?;
    let running = backups.reaches("cut", BackupPhase::Running, "", SOON).await?;
    let maker = backups.maker(running.job_id.as_deref().unwrap_or_default()).await?;
    let pods: Api<Pod> = cluster.namespaced();
    let uid = pods.get(&maker).await?.uid();
    pods.delete(&maker, &DeleteParams::default().grace_period(0)).await?;
    until("another pod in its place", within(SOON), || async {
        let pod = pods.get(&maker).await?;
        ensure!(pod.uid() != uid && shared::health::is_ready(&pod), "not yet");
        Ok(())
    })
    .await?;
    if !is_real() {
        backups.fault_everywhere("").await?;
    }
    let cut = backups.ended("cut", 600).await?;
    match cut.phase {
        Some(BackupPhase::Completed) => ensure!(cut.attempt > Some(1), "nothing was cut off: {cut:?}"),
        _ => ensure!(cut.error.is_some(), "it failed without a reason: {cut:?}"),
    }
    cluster.roles(2, 120).await?;
    backups.make("after-the-cut", &json!({"type": "full"}), 600).await?;
    backups.says("BackupHealthy", "True", "BackupRecent", 90).await?;

    change_backup(&cluster, "retention", &json!({"full": 2})).await?;
    cluster.healthy(120).await?;
    let mut newest = Vec::new();
    for round in 1..=3 {
        let made = backups.make(&format!("full-{round}"), &json!({"type": "full"}), 600).await?;
        newest.push(made.backup_id.context("its name in the repository")?);
    }
    until("two full backups", within(120), || async {
        let listed = backups.listed().await?;
        let mut full: Vec<&str> = listed.iter().filter(|it| it.kind == "full").map(|it| it.id.as_str()).collect();
        // Names are times, and lists come in any order.
        full.sort_unstable();
        ensure!(full == [newest[1].as_str(), newest[2].as_str()], "{listed:?}, of which {newest:?} are the newest");
        Ok(())
    })
    .await?;

    let patch = json!([{"op": "replace", "path": format!("{POOL}/replicasPerCell"), "value": 4}]);
    cluster.patch(&patch.to_string()).await?;
    let members = cluster.roles(3, 420).await?;
    for member in members.iter().filter(|member| member.role == "REPLICA") {
        let pod = pods.get(&member.pod).await?;
        until(&format!("{} to stream", member.pod), within(120), || async {
            ensure!(backups.streams(&pod).await?, "it does not");
            Ok(())
        })
        .await?;
    }
    cluster.healthy(120).await?;
    end(&cluster).await
}

#[tokio::test]
async fn three_cells_keep_their_backups_in_an_object_store() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    if !is_real() {
        eprintln!("SKIPPED: the stand-in keeps no objects (MULTIGRES_BIN_DIR names the real data plane)");
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let store = ObjectStore::start(&bed, "story-backups").await?;
    let namespace = bed.namespace("objects").await?;
    let secrets: Api<Secret> = Api::namespaced(bed.client.clone(), &namespace);
    secrets.create(&PostParams::default(), &keys(&store.access_key, &store.secret_key)).await?;
    let text = std::fs::read_to_string(stories::lesson::root().join("samples/demo-multi-az.yaml"))?;
    let mut manifest: Value = serde_saphyr::from_str(&text)?;
    let change = json!({
        "bucket": "story-backups", "endpoint": store.endpoint, "serviceAccountName": null,
        "useEnvCredentials": true, "credentialsSecret": "keys",
    });
    json_patch::merge(&mut manifest["spec"]["backup"]["s3"], &change);
    let cluster = ClusterUnderTest::apply_value(&bed, &namespace, &manifest).await?;
    cluster.healthy(420).await?;
    cluster.roles(2, 120).await?;
    let backups = Backups::of(&cluster);
    let primary = primary(&cluster).await?;
    let made = backups.make("full", &json!({"type": "full"}), 600).await?;
    tells(&backups, &made, BackupKind::Full, &primary).await?;
    backups.says("BackupHealthy", "True", "BackupRecent", 90).await?;
    backups.says("WALArchiving", "True", "Archiving", 150).await?;

    let places = cluster.get().await?.status.unwrap_or_default().backup_repositories;
    let place = format!("story-backups/prod/{namespace}/{}", cluster.name);
    ensure!(places.get("postgres").is_some_and(|found| *found == format!("s3://{place}")), "{places:?}");
    let objects = store.objects(&place)?;
    let id = made.backup_id.context("its name in the repository")?;
    let of = |part: &str| objects.iter().filter(|object| object.contains(part)).count();
    ensure!(of(&format!("/{id}/")) > 0, "nothing of {id} among {} objects", objects.len());
    ensure!(of("archive/") > 0, "no WAL among {} objects", objects.len());
    end(&cluster).await
}
