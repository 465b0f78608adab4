//! Backups: made by a schedule and on demand, kept and removed by policy, made again when a pod dies, and told of when they fail.
//!
//! The short form has what is cheap to wait for. What needs the stand-in's faults, or the real data plane, says so.

mod fault;
mod life;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams},
};
use serde_json::{Value, json};
use shared::{
    annotation,
    api::v1alpha1::{BackupKind, BackupPhase, MultigresBackup, MultigresBackupStatus, ScheduledBackupTimes},
    condition,
};
use stories::{Backups, Bed, ClusterUnderTest, Tools, backup::small, bed::is_left_out, until, within};

/// A backup of next to nothing takes no longer, even on a machine with other things to do.
const SOON: u64 = 180;

/// Whether this form of the stories leaves this one out, which is said.
fn only_long() -> bool {
    is_left_out("this story takes minutes")
}

/// A Healthy cluster in a namespace of its own.
async fn begin(bed: &Bed, story: &str, members: u32, change: &Value) -> Result<ClusterUnderTest> {
    let namespace = bed.namespace(story).await?;
    let cluster = ClusterUnderTest::apply_value(bed, &namespace, &small(story, members, change)).await?;
    cluster.healthy(300).await?;
    Ok(cluster)
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
    let primary = cluster.primary().await?;
    let delete = |level: &str| json!({"type": level, "deletionPolicy": "Delete"});

    let base = backups.make("base", &delete("full"), SOON).await?;
    tells(&backups, &base, BackupKind::Full, &primary).await?;
    let later = backups.make("later", &delete("incremental"), SOON).await?;
    tells(&backups, &later, BackupKind::Incr, &primary).await?;
    backups.make("latest", &delete("incremental"), SOON).await?;
    let second = Timestamp::now().as_second();
    let base = backups.id("base").await?;
    let chain = [backups.id("later").await?, backups.id("latest").await?];
    ensure!(chain.iter().all(|later| later.starts_with(&base)), "{chain:?} build on {base}");
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
        // The one of the bootstrap, and four of ours.
        ensure!(backup.complete == Some(5) && backup.last_size_bytes.is_some(), "{backup:?}");
        ensure!(backup.earliest_recoverable < backup.last, "{backup:?}");
        Ok(())
    })
    .await?;
    backups.says("BackupHealthy", "True", "BackupRecent", 60).await?;
    backups.says("WALArchiving", "True", "Archiving", 120).await?;
    cluster.healthy(60).await?;

    scheduled(&backups, &cluster, &primary, BackupKind::Incr, SOON).await?;
    columns(&cluster).await?;

    one_after_the_other(&backups, &chain).await?;
    backups.runs().delete("base", &DeleteParams::default()).await?;
    backups.holds(&base, false, SOON).await?;
    for run in ["later", "latest", "base"] {
        backups.is_gone(run, 60).await?;
    }
    // What is to stay stays.
    backups.runs().delete("kept", &DeleteParams::default()).await?;
    backups.is_gone("kept", 60).await?;
    backups.holds(&kept, true, SOON).await?;
    the_only_full_one(&backups, &cluster, &kept).await?;
    cluster.done().await
}

/// Of two incremental backups the one that the other builds on goes last, although its object was deleted first.
async fn one_after_the_other(backups: &Backups<'_>, [later, latest]: &[String; 2]) -> Result<()> {
    backups.runs().delete("later", &DeleteParams::default()).await?;
    backups.told("later", "BackupDataKept", latest, 60).await?;
    for id in [later, latest] {
        backups.holds(id, true, 10).await?;
    }
    backups.runs().delete("latest", &DeleteParams::default()).await?;
    for id in [latest, later] {
        backups.holds(id, false, SOON).await?;
    }
    Ok(())
}

/// The only full backup stays with its object, which says why, until its user lets it stay.
async fn the_only_full_one(backups: &Backups<'_>, cluster: &ClusterUnderTest, before: &str) -> Result<()> {
    change_backup(cluster, "retention", &json!({"full": 1})).await?;
    cluster.healthy(120).await?;
    let only = backups.make("only", &json!({"type": "full", "deletionPolicy": "Delete"}), SOON).await?;
    let only = only.backup_id.context("its name in the repository")?;
    backups.holds(before, false, SOON).await?;
    backups.runs().delete("only", &DeleteParams::default()).await?;
    backups.told("only", "BackupDataKept", "cannot be expired until another full backup", 60).await?;
    let conditions = backups.status("only").await?.conditions;
    ensure!(condition::find(&conditions, "Reconciled").is_none(), "a refusal counts as a failure: {conditions:?}");
    let retain = json!({"spec": {"deletionPolicy": "Retain"}});
    backups.runs().patch("only", &PatchParams::default(), &Patch::Merge(&retain)).await?;
    backups.is_gone("only", 60).await?;
    backups.holds(&only, true, SOON).await
}

/// The field with the schedule of a kind of backup.
fn schedule_of(kind: BackupKind) -> Result<&'static str> {
    Ok(match kind {
        BackupKind::Full => "full",
        BackupKind::Diff => "differential",
        BackupKind::Incr => "incremental",
        BackupKind::Unknown => bail!("a kind that nobody knows has no schedule"),
    })
}

/// Whether a time of the schedule of a kind was served.
fn was_served(times: &ScheduledBackupTimes, kind: BackupKind) -> bool {
    match kind {
        BackupKind::Full => times.full.is_some(),
        BackupKind::Diff => times.differential.is_some(),
        BackupKind::Incr => times.incremental.is_some(),
        BackupKind::Unknown => false,
    }
}

/// One run by a schedule that is due each minute, which is suspended afterwards; what became of it.
async fn scheduled(
    backups: &Backups<'_>,
    cluster: &ClusterUnderTest,
    primary: &str,
    kind: BackupKind,
    seconds: u64,
) -> Result<MultigresBackupStatus> {
    let field = schedule_of(kind)?;
    let before = scheduled_runs(backups).await?;
    let known = |run: &MultigresBackup| before.iter().any(|other| other.name_any() == run.name_any());
    let mut schedule = json!({"jitter": "0s", "startingDeadline": "1m"});
    schedule[field] = json!("* * * * *");
    change_backup(cluster, "schedule", &schedule).await?;
    let run = until(&format!("a scheduled {field} backup"), within(seconds), || async {
        let run = scheduled_runs(backups).await?.into_iter().find(|run| !known(run)).context("no run was scheduled")?;
        let phase = run.status.as_ref().and_then(|status| status.phase);
        ensure!(phase == Some(BackupPhase::Completed), "{:?}", run.status);
        Ok(run)
    })
    .await?;
    let shard = cluster.shard().await?;
    let owned =
        run.owner_references().iter().any(|owner| owner.name == shard.name_any() && owner.controller == Some(true));
    ensure!(owned, "{:?}", run.metadata);
    let made = run.status.clone().unwrap_or_default();
    tells(backups, &made, kind, primary).await?;
    // The time that was served is written down, and the next one told.
    until("the times of the schedule in the status of the shard", within(30), || async {
        let backup = cluster.shard().await?.status.unwrap_or_default().backup.unwrap_or_default();
        ensure!(backup.next_run.is_some(), "{backup:?}");
        ensure!(backup.scheduled.as_ref().is_some_and(|times| was_served(times, kind)), "{backup:?}");
        Ok(())
    })
    .await?;
    change_backup(cluster, "schedule/suspend", &json!(true)).await?;
    until("a schedule that stands still", within(seconds), || async {
        let backup = cluster.shard().await?.status.unwrap_or_default().backup.unwrap_or_default();
        ensure!(backup.next_run.is_none(), "{backup:?}");
        let all = backups.runs().list(&ListParams::default()).await?.items;
        let phase = |run: &MultigresBackup| run.status.as_ref().and_then(|status| status.phase);
        let open = all.iter().filter(|run| !phase(run).is_some_and(BackupPhase::is_final)).count();
        ensure!(open == 0, "{open} runs have not ended");
        Ok(())
    })
    .await?;
    Ok(made)
}

/// The runs that a schedule has made, the earliest first.
async fn scheduled_runs(backups: &Backups<'_>) -> Result<Vec<MultigresBackup>> {
    let mut all = backups.runs().list(&ListParams::default()).await?.items;
    all.retain(|run| run.annotations().contains_key(annotation::SCHEDULED_AT));
    all.sort_by_key(|run| run.annotations()[annotation::SCHEDULED_AT].clone());
    Ok(all)
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

/// The Secret `keys`.
fn keys(access_key: &str, secret_key: &str) -> Secret {
    let data = [("AWS_ACCESS_KEY_ID", access_key), ("AWS_SECRET_ACCESS_KEY", secret_key)];
    Secret {
        metadata: ObjectMeta { name: Some("keys".to_owned()), ..ObjectMeta::default() },
        string_data: Some(data.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        ..Secret::default()
    }
}
