use rstest::rstest;
use shared::api::v1alpha1::{BackupLevel, BackupSchedule, ScheduledBackupTimes};

use super::*;
use crate::backup::{schedule::Schedule, stored};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Full backups on Sundays, incremental ones on all days, both at 2:30, without delay.
fn weekly() -> BackupSchedule {
    BackupSchedule {
        full: Some("30 2 * * SUN".to_owned()),
        incremental: Some("30 2 * * *".to_owned()),
        jitter: Some("0s".to_owned()),
        ..BackupSchedule::default()
    }
}

fn read(spec: &BackupSchedule) -> Schedule {
    Schedule::read(spec, "uid").unwrap().unwrap()
}

const CREATED: &str = "2027-01-01T00:00:00Z";

fn due(spec: &BackupSchedule, made: &ScheduledBackupTimes, now: &str) -> Option<(BackupLevel, Timestamp)> {
    read(spec).due(made, at(CREATED), at(now)).map(|due| (due.level, due.at))
}

#[rstest]
#[case::before("2027-01-15T02:29:59Z", None)]
#[case::in_time("2027-01-15T02:30:00Z", Some((BackupLevel::Incremental, "2027-01-15T02:30:00Z")))]
#[case::a_little_late("2027-01-15T03:20:00Z", Some((BackupLevel::Incremental, "2027-01-15T02:30:00Z")))]
#[case::too_late("2027-01-15T03:30:01Z", None)]
#[case::the_thorough_one_stands_for_both("2027-01-17T02:31:00Z", Some((BackupLevel::Full, "2027-01-17T02:30:00Z")))]
fn a_run_begins_at_its_time_or_a_little_later(#[case] now: &str, #[case] expected: Option<(BackupLevel, &str)>) {
    let expected = expected.map(|(level, time)| (level, at(time)));
    assert_eq!(due(&weekly(), &ScheduledBackupTimes::default(), now), expected);
}

#[test]
fn no_run_is_made_twice_and_those_it_stands_for_are_not_made_after_it() {
    let schedule = read(&weekly());
    let now = at("2027-01-17T02:31:00Z");
    let found = schedule.due(&ScheduledBackupTimes::default(), at(CREATED), now).unwrap();
    assert_eq!(found.come.len(), 2);
    let mut made = ScheduledBackupTimes::default();
    for (level, at) in found.come {
        made.set(level, stored(at));
    }
    assert_eq!(schedule.due(&made, at(CREATED), now), None);
    assert_eq!(schedule.due(&made, at(CREATED), at("2027-01-18T02:30:00Z")).unwrap().level, BackupLevel::Incremental);
}

#[test]
fn times_before_the_shard_was_made_do_not_count() {
    let schedule = read(&weekly());
    let created = at("2027-01-15T02:45:00Z");
    assert_eq!(schedule.due(&ScheduledBackupTimes::default(), created, at("2027-01-15T02:50:00Z")), None);
}

#[test]
fn a_controller_that_was_away_makes_the_last_missed_run_only() {
    let often = BackupSchedule {
        incremental: Some("*/10 * * * *".to_owned()),
        jitter: Some("0s".to_owned()),
        ..BackupSchedule::default()
    };
    let mut made = ScheduledBackupTimes::default();
    made.set(BackupLevel::Incremental, stored(at("2027-01-14T00:00:00Z")));
    assert_eq!(
        due(&often, &made, "2027-01-15T08:05:00Z"),
        Some((BackupLevel::Incremental, at("2027-01-15T08:00:00Z")))
    );
}

#[test]
fn a_suspended_schedule_makes_nothing_and_calls_nothing_too_old() {
    let spec = BackupSchedule { suspend: Some(true), ..weekly() };
    let schedule = read(&spec);
    assert_eq!(due(&spec, &ScheduledBackupTimes::default(), "2027-01-15T02:30:00Z"), None);
    assert_eq!((schedule.next(NOW), schedule.stale_at(NOW)), (None, None));
}

#[test]
fn the_next_run_is_told_with_its_delay() {
    assert_eq!(read(&weekly()).next(at("2027-01-15T02:30:00Z")), Some(at("2027-01-16T02:30:00Z")));
    let spec = BackupSchedule { jitter: Some("10m".to_owned()), ..weekly() };
    let delays: std::collections::BTreeSet<i64> = (0..50)
        .map(|number| {
            let schedule = Schedule::read(&spec, &format!("uid-{number}")).unwrap().unwrap();
            let again = Schedule::read(&spec, &format!("uid-{number}")).unwrap().unwrap();
            assert_eq!(schedule.next(NOW), again.next(NOW), "always the same for one shard");
            schedule.next(NOW).unwrap().duration_since(at("2027-01-16T02:30:00Z")).as_secs()
        })
        .collect();
    assert!(delays.len() > 20 && delays.iter().all(|delay| (0..=600).contains(delay)), "{delays:?}");
}

/// A run may begin an hour late and take two: a backup is too old once the one that follows cannot come in time.
#[test]
fn a_backup_is_too_old_when_the_next_one_did_not_come() {
    let newest = at("2027-01-14T02:40:00Z");
    assert_eq!(read(&weekly()).stale_at(newest), Some(at("2027-01-15T05:30:00Z")));
}

#[test]
fn a_full_backup_is_too_old_when_the_next_full_one_did_not_come() {
    let (schedule, full) = (read(&weekly()), at("2027-01-10T02:40:00Z"));
    assert_eq!(schedule.full_stale_at(full, &ScheduledBackupTimes::default()), None, "none was due yet");
    let mut made = ScheduledBackupTimes::default();
    made.set(BackupLevel::Full, stored(at("2027-01-10T02:30:00Z")));
    assert_eq!(schedule.full_stale_at(full, &made), Some(at("2027-01-17T05:30:00Z")));
    let incremental = BackupSchedule { full: None, ..weekly() };
    assert_eq!(read(&incremental).full_stale_at(full, &made), None);
    let suspended = BackupSchedule { suspend: Some(true), ..weekly() };
    assert_eq!(read(&suspended).full_stale_at(full, &made), None);
}

/// A clock that was ahead for a while has had times served that are still to come.
#[test]
fn a_clock_that_is_set_back_does_not_stop_the_schedule() {
    let mut made = ScheduledBackupTimes::default();
    made.set(BackupLevel::Full, stored(at("2027-03-07T02:30:00Z")));
    made.set(BackupLevel::Incremental, stored(at("2027-03-08T02:30:00Z")));
    let expected = Some((BackupLevel::Incremental, at("2027-01-15T02:30:00Z")));
    assert_eq!(due(&weekly(), &made, "2027-01-15T02:31:00Z"), expected);
}

#[rstest]
#[case(BackupSchedule { full: Some("often".into()), ..BackupSchedule::default() })]
#[case(BackupSchedule { full: Some("0 0 31 2 *".into()), ..BackupSchedule::default() })]
#[case(BackupSchedule { time_zone: Some("Nowhere/At_All".into()), ..weekly() })]
fn what_cannot_be_read_is_an_error_and_not_a_schedule(#[case] spec: BackupSchedule) {
    assert!(Schedule::read(&spec, "uid").is_err());
}

#[test]
fn a_schedule_without_times_is_none() {
    assert!(Schedule::read(&BackupSchedule::default(), "uid").unwrap().is_none());
}
