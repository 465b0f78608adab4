use std::sync::Arc;

use rstest::rstest;
use shared::{
    api::v1alpha1::{BackupKind, BackupPhase, MultigresBackup, MultigresBackupSpec, MultigresBackupStatus},
    condition::Status,
};

use super::*;
use crate::{
    backup::{judge::*, memory::Known, stored},
    upstream::backup::Archiver,
};

fn known(backups: Vec<Backup>) -> Known {
    Known { backups: Some(backups), ..Known::default() }
}

fn reason(known: &Known, runs: &[Arc<MultigresBackup>]) -> Option<(&'static str, Status)> {
    let contents = known.backups.as_ref().map(|all| contents(all, NOW)).unwrap_or_default();
    let limits = Limits { newest: contents.newest.as_ref().map(|newest| newest.stop + FRESH_FOR), full: None };
    backups(known, &contents, runs, limits, NOW).map(|opinion| (opinion.reason, opinion.status))
}

fn run(name: &str, phase: BackupPhase, minutes: i64) -> Arc<MultigresBackup> {
    let mut run = MultigresBackup::new(name, MultigresBackupSpec::default());
    run.status = Some(MultigresBackupStatus {
        phase: Some(phase),
        completed_at: Some(stored(ago(minutes))),
        error: Some("no space left".to_owned()),
        ..MultigresBackupStatus::default()
    });
    Arc::new(run)
}

fn incomplete(id: &str, minutes: i64) -> Backup {
    Backup { complete: false, ..made(id, "full", minutes) }
}

#[test]
fn the_newest_backup_counts_wherever_it_is_in_the_list() {
    let mut all: Vec<Backup> = (0..20).map(|day| made(&format!("b{day:02}"), "incr", 1440 * day + 30)).collect();
    for _ in 0..2 {
        let found = contents(&all, NOW);
        let newest = found.newest.as_ref().unwrap();
        assert_eq!((newest.id.as_str(), newest.stop, newest.kind), ("b00", ago(30), BackupKind::Incr));
        assert_eq!((found.complete, found.oldest, found.full), (20, Some(ago(19 * 1440 + 30)), None));
        all.reverse();
    }
}

#[test]
fn the_age_of_a_differential_backup_is_its_own_and_not_that_of_its_full_one() {
    let mut late = made("20260101-000000F_20270115-073000D", "diff", 30);
    late.stop = None;
    late.start = None;
    let found = contents(&[made("20260101-000000F", "full", 500_000), late], NOW).newest.unwrap();
    assert_eq!((found.stop, found.kind), (ago(30), BackupKind::Diff));
}

#[test]
fn a_full_backup_is_needed_by_those_that_carry_its_name() {
    let backups = [made("20270101-020000F", "full", 90), made("20270101-020000F_20270102-020000I", "incr", 60)];
    assert_eq!(built_on(&backups, "20270101-020000F"), ["20270101-020000F_20270102-020000I"]);
    assert!(built_on(&backups, "20270101-020000F_20270102-020000I").is_empty());
    let failed = incomplete("20270101-020000F_20270103-020000I", 30);
    assert!(built_on(&[failed], "20270101-020000F").is_empty(), "nobody restores an incomplete one");
}

/// Two full backups with what was made after them: I is for incremental, D for differential.
fn chain() -> Vec<Backup> {
    let names = ["1F", "1F_2I", "1F_3I", "1F_4D", "1F_5I", "1F_6I", "1F_7D", "8F", "8F_9I"];
    names.iter().rev().map(|name| made(name, "", 5)).collect()
}

#[rstest]
#[case::all_of_its_name("1F", &["1F_2I", "1F_3I", "1F_4D", "1F_5I", "1F_6I", "1F_7D"])]
#[case::up_to_the_next_differential_one("1F_2I", &["1F_3I"])]
#[case::a_differential_one_builds_on_the_full_one("1F_3I", &[])]
#[case::those_after_a_differential_one("1F_4D", &["1F_5I", "1F_6I"])]
#[case::the_next_one("1F_5I", &["1F_6I"])]
#[case::another_differential_one("1F_6I", &[])]
#[case::not_those_of_the_next_full_one("1F_7D", &[])]
#[case::the_last_one("8F_9I", &[])]
fn an_incremental_backup_builds_on_the_one_before_it(#[case] id: &str, #[case] expected: &[&str]) {
    assert_eq!(built_on(&chain(), id), expected);
}

#[test]
fn entries_whose_times_make_no_sense_are_counted_and_left_alone() {
    let mut future = made("future", "full", 0);
    future.stop = Some(NOW + SignedDuration::from_hours(48));
    let mut backwards = made("backwards", "full", 10);
    backwards.start = Some(ago(1));
    let nameless = made("", "full", 10);
    let timeless = Backup { start: None, stop: None, ..made("soon", "full", 0) };
    let found = contents(&[future, backwards, nameless, timeless], NOW);
    assert_eq!((found.newest, found.garbage, found.complete), (None, 4, 0));
}

#[rstest]
#[case::nothing_is_known_yet(Known::default(), None)]
#[case::fresh(known(vec![made("a", "full", 60)]), Some(("BackupRecent", Status::True)))]
#[case::just_fresh(known(vec![made("a", "full", 25 * 60 - 1)]), Some(("BackupRecent", Status::True)))]
#[case::stale(known(vec![made("a", "full", 25 * 60)]), Some(("BackupStale", Status::False)))]
#[case::empty(known(Vec::new()), Some(("NoBackups", Status::False)))]
#[case::only_broken(known(vec![incomplete("a", 5)]), Some(("NoBackups", Status::False)))]
#[case::the_last_is_broken(known(vec![made("a", "full", 60), incomplete("b", 5)]), Some(("BackupFailed", Status::False)))]
#[case::a_broken_one_before_does_not_count(known(vec![incomplete("b", 90), made("a", "full", 60)]), Some(("BackupRecent", Status::True)))]
#[case::the_repository_does_not_answer(
    Known { failure: Some((broken(), 1)), ..known(vec![made("a", "full", 60)]) },
    Some(("RepositoryUnreachable", Status::False))
)]
#[case::one_silence_is_no_news(
    Known { failure: Some((away(), 2)), ..known(vec![made("a", "full", 60)]) },
    Some(("BackupRecent", Status::True))
)]
#[case::nobody_answers_for_long(
    Known { failure: Some((away(), 3)), ..known(vec![made("a", "full", 60)]) },
    Some(("CheckFailed", Status::Unknown))
)]
#[case::nobody_ever_answered(Known { failure: Some((slow(), 1)), ..Known::default() }, None)]
#[case::it_hangs(
    Known { failure: Some((slow(), 3)), ..known(vec![made("a", "full", 60)]) },
    Some(("RepositorySlow", Status::False))
)]
fn every_state_of_a_repository_has_its_reason(#[case] known: Known, #[case] expected: Option<(&'static str, Status)>) {
    assert_eq!(reason(&known, &[]), expected);
}

#[test]
fn a_run_that_failed_after_the_newest_backup_is_told_until_one_succeeds() {
    let known = known(vec![made("a", "full", 60)]);
    let failed = run("nightly", BackupPhase::Failed, 30);
    assert_eq!(reason(&known, &[Arc::clone(&failed)]), Some(("BackupFailed", Status::False)));
    assert_eq!(
        reason(&known, &[failed, run("later", BackupPhase::Completed, 20)]),
        Some(("BackupRecent", Status::True))
    );
    assert_eq!(reason(&known, &[run("before", BackupPhase::Failed, 90)]), Some(("BackupRecent", Status::True)));
}

#[test]
fn a_run_that_failed_while_the_clock_was_ahead_is_no_failure_of_now() {
    let known = known(vec![made("a", "full", 60)]);
    let runs = [run("ahead", BackupPhase::Failed, -600), run("now", BackupPhase::Completed, 20)];
    assert_eq!(reason(&known, &runs), Some(("BackupRecent", Status::True)));
}

#[test]
fn full_backups_that_do_not_come_are_told_although_others_do() {
    let known = known(vec![made("f", "full", 20_000), made("f_i", "incr", 60)]);
    let contents = contents(known.backups.as_ref().unwrap(), NOW);
    let say = |full| backups(&known, &contents, &[], Limits { newest: None, full: Some(full) }, NOW).unwrap();
    let late = say(ago(0));
    assert_eq!((late.reason, late.status), ("BackupStale", Status::False));
    assert!(late.message.starts_with("The newest full backup ended at "), "{}", late.message);
    assert_eq!(say(ago(-1)).reason, "BackupRecent");
}

#[test]
fn what_is_said_does_not_change_as_time_passes() {
    let all = [made("a", "full", 60)];
    let say = |now| {
        let contents = contents(&all, now);
        backups(&known(all.to_vec()), &contents, &[], Limits::default(), now).unwrap()
    };
    assert_eq!(say(NOW), say(NOW + SignedDuration::from_hours(5)));
}

#[rstest]
#[case::well(Archiver { failing: false, waiting_seconds: 0.0, last_archived: None }, 0, "Archiving", Status::True)]
#[case::one_failure(Archiver { failing: true, waiting_seconds: 10.0, last_archived: None }, 0, "Archiving", Status::True)]
#[case::failing(Archiver { failing: true, waiting_seconds: 60.0, last_archived: None }, 0, "ArchivingFailing", Status::False)]
#[case::late(Archiver { failing: false, waiting_seconds: 900.0, last_archived: None }, 0, "ArchiveLagging", Status::False)]
#[case::silent(Archiver { failing: false, waiting_seconds: 0.0, last_archived: None }, 3, "CheckFailed", Status::Unknown)]
fn wal_archiving_is_judged_by_what_waits(
    #[case] archiver: Archiver,
    #[case] silent: u32,
    #[case] reason: &str,
    #[case] status: Status,
) {
    let opinion = archiving(&Known { archiver: Some(archiver), silent, ..Known::default() }).unwrap();
    assert_eq!((opinion.reason, opinion.status), (reason, status));
}

#[test]
fn an_exporter_that_never_answered_is_told_in_the_end() {
    let say = |silent| archiving(&Known { silent, ..Known::default() }).map(|said| (said.reason, said.status));
    assert_eq!(say(2), None, "the last opinion stands for a while, as after a restart");
    assert_eq!(say(3), Some(("CheckFailed", Status::Unknown)));
}
