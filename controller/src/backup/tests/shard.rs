use std::sync::Arc;

use shared::{
    api::v1alpha1::{
        BackupConfig, BackupKind, BackupPhase, BackupSchedule, MultigresBackup, MultigresBackupStatus, Phase,
        ScheduledBackupTimes, Shard, ShardBackupStatus, ShardSpec, ShardStatus,
    },
    condition,
    name::ShardId,
};

use super::*;
use crate::{
    backup::{
        memory::Known,
        shard::{Sight, weigh},
        stored,
    },
    plan::{Action, Plan},
    upstream::backup::Archiver,
    workload::owner::Owner,
};

const ID: ShardId<'static> = ShardId { cluster: "demo", database: "postgres", table_group: "default", shard: "0-inf" };

fn shard(schedule: Option<BackupSchedule>) -> Shard {
    let spec = ShardSpec { backup: Some(BackupConfig { schedule, ..BackupConfig::default() }), ..ShardSpec::default() };
    let mut shard = Shard::new("demo-shard", spec);
    shard.metadata.namespace = Some("prod".into());
    shard.metadata.uid = Some("uid".into());
    shard.metadata.generation = Some(1);
    shard.metadata.creation_timestamp = Some(stored(ago(100_000)));
    shard
}

fn pass(shard: &Shard, sight: &Sight, now: Timestamp) -> (Plan<ShardStatus>, ShardStatus) {
    let mut plan = Plan::nothing();
    let owner = Owner::of(shard).unwrap();
    let weighed = weigh(shard, ID, &owner, sight, now, &mut plan).unwrap();
    let mut next = ShardStatus { phase: Some(Phase::Healthy), ..shard.status.clone().unwrap_or_default() };
    next.conditions.clear();
    weighed.tell(shard, &mut next, now);
    (plan, next)
}

fn knowing(backups: Vec<Backup>) -> Sight {
    let archiver = Some(Archiver::default());
    Sight { known: Some(Known { backups: Some(backups), archiver, ..Known::default() }), runs: Vec::new() }
}

fn nightly() -> BackupSchedule {
    BackupSchedule { full: Some("0 8 * * *".into()), jitter: Some("0s".into()), ..BackupSchedule::default() }
}

fn created(plan: &Plan<ShardStatus>) -> Vec<String> {
    let name = |write: &crate::plan::Write| match &write.action {
        Action::CreateOnce(object) => Some(object.name.clone()),
        _ => None,
    };
    plan.writes.iter().filter_map(name).collect()
}

fn reasons(plan: &Plan<ShardStatus>) -> Vec<&str> {
    plan.notes.iter().map(|note| note.reason.as_str()).collect()
}

#[test]
fn what_the_repository_holds_is_told_and_nothing_is_written_when_nothing_changes() {
    let mut shard = shard(Some(nightly()));
    let sight = knowing(vec![made("f", "full", 1500), made("i", "incr", 30)]);
    let (_, next) = pass(&shard, &sight, NOW - SignedDuration::from_mins(10));
    let backup = next.backup.clone().unwrap();
    assert_eq!((backup.last.clone(), backup.last_full), (Some(stored(ago(30))), Some(stored(ago(1500)))));
    assert_eq!((backup.earliest_recoverable, backup.complete), (Some(stored(ago(1500))), Some(2)));
    assert_eq!(backup.next_run, Some(stored(NOW)));
    assert_eq!((next.last_backup_time.clone(), next.last_backup_type), (Some(stored(ago(30))), Some(BackupKind::Incr)));
    assert!(
        condition::is_true(&next.conditions, "BackupHealthy") && condition::is_true(&next.conditions, "WALArchiving")
    );
    shard.status = Some(next.clone());
    let (plan, again) = pass(&shard, &sight, NOW - SignedDuration::from_mins(5));
    assert_eq!(again, next);
    assert!(plan.writes.is_empty() && plan.notes.is_empty());
}

#[test]
fn after_a_restart_what_was_said_stands_until_somebody_was_asked() {
    let mut shard = shard(None);
    let (_, next) = pass(&shard, &knowing(vec![made("f", "full", 5000)]), NOW);
    assert_eq!(condition::find(&next.conditions, "BackupHealthy").unwrap().reason, "BackupStale");
    shard.status = Some(next.clone());
    for known in [None, Some(Known::default())] {
        let (plan, again) = pass(&shard, &Sight { known, runs: Vec::new() }, NOW);
        assert_eq!((again, reasons(&plan)), (next.clone(), vec![]));
    }
}

#[test]
fn a_dead_archive_makes_the_shard_degraded_and_its_recovery_ends_that() {
    let mut shard = shard(None);
    let mut sight = knowing(vec![made("f", "full", 5)]);
    let dead = Archiver { failing: true, waiting_seconds: 300.0, last_archived: Some(ago(5)) };
    sight.known.as_mut().unwrap().archiver = Some(dead);
    let (plan, next) = pass(&shard, &sight, NOW);
    assert_eq!(next.phase, Some(Phase::Degraded));
    assert_eq!(reasons(&plan), ["ArchivingFailing"]);
    shard.status = Some(next.clone());
    let listed = Known { archiver: None, ..knowing(vec![made("f", "full", 5)]).known.unwrap() };
    let mut next = next;
    for known in [None, Some(Known::default()), Some(listed)] {
        let (plan, again) = pass(&shard, &Sight { known, runs: Vec::new() }, NOW);
        assert_eq!((again.phase, reasons(&plan)), (Some(Phase::Degraded), vec![]), "a restart does not make it well");
        next = again;
    }
    shard.status = Some(next);
    let (plan, next) = pass(&shard, &knowing(vec![made("f", "full", 5)]), NOW);
    assert_eq!((next.phase, reasons(&plan)), (Some(Phase::Healthy), vec!["Archiving"]));
}

#[test]
fn a_repository_that_cannot_be_read_makes_the_shard_degraded_and_a_stale_one_does_not() {
    let sight = Sight { known: Some(Known { failure: Some((broken(), 1)), ..Known::default() }), runs: Vec::new() };
    let (plan, next) = pass(&shard(None), &sight, NOW);
    assert_eq!((next.phase, reasons(&plan)), (Some(Phase::Degraded), vec!["RepositoryUnreachable"]));
    let (_, next) = pass(&shard(None), &knowing(vec![made("f", "full", 5000)]), NOW);
    assert_eq!(next.phase, Some(Phase::Healthy));
}

#[test]
fn a_full_backup_that_does_not_come_is_told_although_others_do() {
    let weekly = BackupSchedule {
        full: Some("0 8 * * SUN".into()),
        incremental: Some("0 8 * * *".into()),
        jitter: Some("0s".into()),
        ..BackupSchedule::default()
    };
    let mut shard = shard(Some(weekly));
    let sight = knowing(vec![made("f", "full", 12 * 1440), made("f_i", "incr", 60)]);
    let say = |shard: &Shard| {
        let (_, next) = pass(shard, &sight, NOW);
        condition::find(&next.conditions, "BackupHealthy").unwrap().clone()
    };
    assert_eq!(say(&shard).reason, "BackupRecent", "the schedule has had no full one made yet");
    let scheduled = ScheduledBackupTimes { full: Some(stored(ago(5 * 1440))), ..ScheduledBackupTimes::default() };
    let backup = ShardBackupStatus { scheduled: Some(scheduled), ..ShardBackupStatus::default() };
    shard.status = Some(ShardStatus { backup: Some(backup), ..ShardStatus::default() });
    let said = say(&shard);
    assert_eq!(said.reason, "BackupStale", "{}", said.message);
    assert!(said.message.contains("full"), "{}", said.message);
}

#[test]
fn a_repository_that_stays_empty_before_there_is_a_primary_says_where_to_look() {
    let mut shard = shard(None);
    let message = |shard: &Shard| {
        let (_, next) = pass(shard, &knowing(Vec::new()), NOW);
        condition::find(&next.conditions, "BackupHealthy").unwrap().message.clone()
    };
    assert!(message(&shard).contains("see the log of multipooler"));
    shard.status = Some(ShardStatus { primary: Some("p".into()), ..ShardStatus::default() });
    assert_eq!(message(&shard), "The repository holds no backup");
}

#[test]
fn a_run_is_made_once_with_a_name_that_follows_from_its_time() {
    let mut shard = shard(Some(nightly()));
    let sight = knowing(vec![made("f", "full", 1440)]);
    let (plan, next) = pass(&shard, &sight, NOW);
    assert_eq!(created(&plan), ["demo-shard-full-30000000"]);
    assert_eq!(next.backup.as_ref().unwrap().scheduled, None, "nobody knows yet whether it could be made");
    shard.status = Some(next);
    let (plan, _) = pass(&shard, &sight, NOW + SignedDuration::from_secs(30));
    assert_eq!(created(&plan), ["demo-shard-full-30000000"], "it could not, so it is made up for under the same name");
    let owner = Owner::of(&shard).unwrap();
    let run = MultigresBackup {
        metadata: owner.meta("demo-shard-full-30000000".into(), std::collections::BTreeMap::new()),
        ..MultigresBackup::default()
    };
    let seen = Sight { runs: vec![Arc::new(run)], ..sight };
    let (plan, next) = pass(&shard, &seen, NOW + SignedDuration::from_secs(30));
    assert!(!reasons(&plan).contains(&"BackupLeftOut"), "a run is not in its own way");
    assert_eq!(next.backup.as_ref().unwrap().scheduled.as_ref().unwrap().full, Some(stored(NOW)));
    shard.status = Some(next);
    assert!(created(&pass(&shard, &seen, NOW + SignedDuration::from_secs(60)).0).is_empty());
}

#[test]
fn a_run_is_left_out_while_the_one_before_goes_on() {
    let shard = shard(Some(nightly()));
    let owner = Owner::of(&shard).unwrap();
    let mut before = MultigresBackup {
        metadata: owner.meta("before".into(), std::collections::BTreeMap::new()),
        ..MultigresBackup::default()
    };
    before.status = Some(MultigresBackupStatus { phase: Some(BackupPhase::Running), ..Default::default() });
    let sight = Sight { runs: vec![Arc::new(before)], ..knowing(Vec::new()) };
    let (plan, next) = pass(&shard, &sight, NOW);
    assert!(created(&plan).is_empty());
    assert!(reasons(&plan).contains(&"BackupLeftOut"));
    assert!(next.backup.unwrap().scheduled.is_some(), "and not made up for afterwards");
}

#[test]
fn ended_runs_beyond_the_limit_are_removed_and_those_of_users_stay() {
    let shard = shard(Some(BackupSchedule { history_limit: Some(2), ..nightly() }));
    let owner = Owner::of(&shard).unwrap();
    let mut runs = Vec::new();
    for number in 0..5 {
        let mut run = MultigresBackup::default();
        let labels = std::collections::BTreeMap::new();
        let name = format!("run-{number}");
        run.metadata = if number == 0 { owner.outliving(name, labels) } else { owner.meta(name, labels) };
        run.metadata.uid = Some(format!("uid-{number}"));
        run.metadata.creation_timestamp = Some(stored(ago(100 - number)));
        run.status = Some(MultigresBackupStatus { phase: Some(BackupPhase::Completed), ..Default::default() });
        runs.push(Arc::new(run));
    }
    let (plan, _) = pass(&shard, &Sight { runs, ..knowing(Vec::new()) }, NOW - SignedDuration::from_mins(9));
    let gone = plan.writes.iter().filter_map(|write| match &write.action {
        Action::Delete(target) => Some(target.key.name.as_str()),
        _ => None,
    });
    assert_eq!(gone.collect::<Vec<_>>(), ["run-2", "run-1"]);
}

#[test]
fn a_schedule_that_cannot_be_read_is_a_condition() {
    let shard = shard(Some(BackupSchedule { time_zone: Some("Nowhere".into()), ..nightly() }));
    let (plan, next) = pass(&shard, &knowing(vec![made("f", "full", 5)]), NOW);
    assert!(condition::is_true(&next.conditions, "BackupScheduleInvalid"));
    assert_eq!(reasons(&plan), ["CannotBeRead"]);
    assert_eq!(next.phase, Some(Phase::Healthy));
}
