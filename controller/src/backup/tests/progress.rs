use rstest::rstest;
use shared::{
    api::v1alpha1::{BackupKind, BackupPhase, MultigresBackup, MultigresBackupSpec, MultigresBackupStatus},
    condition,
};

use super::*;
use crate::{
    backup::{
        progress::{Act, Seen, Shard, Started, Step, step},
        stored,
    },
    upstream::backup::Job,
};

/// A run that was asked for ten minutes ago.
fn run(status: MultigresBackupStatus) -> MultigresBackup {
    let mut run = MultigresBackup::new(
        "nightly",
        MultigresBackupSpec { cluster: "demo".into(), database: "postgres".into(), ..Default::default() },
    );
    run.metadata.creation_timestamp = Some(stored(ago(10)));
    run.metadata.generation = Some(1);
    run.status = Some(status);
    run
}

fn in_phase(phase: BackupPhase, attempt: i32, minutes: i64) -> MultigresBackup {
    run(MultigresBackupStatus {
        phase: Some(phase),
        attempt: Some(attempt),
        attempted_at: Some(stored(ago(minutes))),
        job_id: (phase == BackupPhase::Running).then(|| "job-1".to_owned()),
        ..MultigresBackupStatus::default()
    })
}

/// Everything is ready for an attempt.
fn ready() -> Seen {
    Seen { shard: Shard::Known, claimed: true, lease: Some(Ok(false)), ..Seen::default() }
}

fn outcome(run: &MultigresBackup, seen: &Seen) -> (BackupPhase, Act, Step) {
    let step = step(run, seen, NOW);
    (step.status.phase.unwrap(), step.act, step)
}

#[test]
fn the_status_says_that_a_backup_begins_before_anybody_is_asked() {
    let (phase, act, first) = outcome(&run(MultigresBackupStatus::default()), &ready());
    assert_eq!((phase, act, first.status.attempt), (BackupPhase::Starting, Act::None, Some(1)));
    let seen = Seen { started: Started::Not, ..ready() };
    let (phase, act, _) = outcome(&run(first.status), &seen);
    assert_eq!((phase, act), (BackupPhase::Starting, Act::Start));
}

#[rstest]
#[case::no_such_shard(Seen { shard: Shard::Absent, ..ready() }, "no shard postgres")]
#[case::nobody_looked(Seen { shard: Shard::Unknown, ..ready() }, "poolers")]
#[case::another_goes_first(Seen { ahead: Some("weekly".into()), ..ready() }, "Waiting for weekly")]
#[case::somebody_holds_the_lease(Seen { lease: Some(Ok(true)), ..ready() }, "would be disturbed")]
#[case::the_lease_is_unknown(Seen { lease: Some(Err(away())), ..ready() }, "topology")]
#[case::nobody_knows_of_the_lease(Seen { lease: None, ..ready() }, "topology")]
#[case::taken_in_this_process(Seen { claimed: false, ..ready() }, "another backup")]
fn a_run_waits_for_its_turn_and_disturbs_nobody(#[case] seen: Seen, #[case] why: &str) {
    let (phase, act, step) = outcome(&run(MultigresBackupStatus::default()), &seen);
    assert_eq!((phase, act), (BackupPhase::Pending, Act::Release));
    assert!(step.status.message.as_ref().unwrap().contains(why), "{:?}", step.status.message);
    assert!(step.after.unwrap() >= std::time::Duration::from_secs(5), "no tight loop");
    assert_eq!(step.status.attempt, None);
}

#[test]
fn the_name_of_the_job_is_kept() {
    let seen = Seen { started: Started::Done(Ok("job-7".into())), ..ready() };
    let (phase, act, step) = outcome(&in_phase(BackupPhase::Starting, 1, 0), &seen);
    assert_eq!((phase, act, step.status.job_id.as_deref()), (BackupPhase::Running, Act::None, Some("job-7")));
}

#[test]
fn an_attempt_that_reached_nobody_does_not_count_and_is_repeated_after_a_while() {
    let seen = Seen { started: Started::Done(Err(away())), ..ready() };
    let (phase, act, step) = outcome(&in_phase(BackupPhase::Starting, 1, 0), &seen);
    assert_eq!((phase, act, step.status.attempt), (BackupPhase::Pending, Act::Release, None));
    let again = run(step.status);
    assert_eq!(outcome(&again, &ready()).0, BackupPhase::Pending, "not at once");
    let later = super::super::progress::step(&again, &ready(), NOW + SignedDuration::from_secs(31));
    assert_eq!(later.status.phase, Some(BackupPhase::Starting));
}

#[test]
fn an_attempt_that_was_refused_counts() {
    let seen = Seen { started: Started::Done(Err(broken())), ..ready() };
    let (phase, _, step) = outcome(&in_phase(BackupPhase::Starting, 1, 0), &seen);
    assert_eq!((phase, step.status.attempt), (BackupPhase::Pending, Some(1)));
    assert!(step.status.error.unwrap().contains("unable to reach s3"));
    let (phase, act, step) = outcome(&in_phase(BackupPhase::Starting, 3, 0), &seen);
    assert_eq!((phase, act), (BackupPhase::Failed, Act::Release));
    assert!(condition::is_true(&step.status.conditions, "Failed"));
}

/// After a restart, or when the answer was lost, a backup may run that nobody knows the name of.
#[rstest]
#[case::somebody_works(0, Seen { lease: Some(Ok(true)), ..ready() }, BackupPhase::Starting)]
#[case::nothing_shows_yet(1, Seen { listing: Some(Ok(Vec::new())), ..ready() }, BackupPhase::Starting)]
#[case::nothing_was_begun(2, Seen { listing: Some(Ok(Vec::new())), ..ready() }, BackupPhase::Pending)]
#[case::nobody_can_tell(5, Seen { listing: Some(Err(broken())), ..ready() }, BackupPhase::Starting)]
#[case::the_lease_is_unknown(5, Seen { lease: Some(Err(away())), ..ready() }, BackupPhase::Starting)]
#[case::it_was_made(5, Seen { listing: Some(Ok(vec![made("new", "full", 1)])), ..ready() }, BackupPhase::Completed)]
#[case::an_old_one_is_not_it(5, Seen { listing: Some(Ok(vec![made("old", "full", 20)])), ..ready() }, BackupPhase::Pending)]
fn a_backup_whose_name_was_lost_is_looked_for_and_never_disturbed(
    #[case] minutes: i64,
    #[case] seen: Seen,
    #[case] expected: BackupPhase,
) {
    for started in [Started::Elsewhere, Started::Done(Err(slow()))] {
        let seen = Seen { started, ..seen.clone() };
        let (phase, act, _) = outcome(&in_phase(BackupPhase::Starting, 1, minutes), &seen);
        assert_eq!(phase, expected);
        assert_ne!(act, Act::Start);
    }
}

#[test]
fn the_backup_of_another_run_is_not_taken_for_ours() {
    let listing = Some(Ok(vec![made("theirs", "full", 1)]));
    let seen = Seen { listing, foreign: vec!["job-of-theirs".into()], ..ready() };
    assert_eq!(outcome(&in_phase(BackupPhase::Starting, 1, 5), &seen).0, BackupPhase::Pending);
}

#[test]
fn what_was_made_is_told() {
    let listing = Some(Ok(vec![made("20270115-075900F", "full", 1)]));
    let seen = Seen { job: Some(Ok(Some(Job::Completed("20270115-075900F".into())))), listing, ..ready() };
    let (phase, act, step) = outcome(&in_phase(BackupPhase::Running, 1, 5), &seen);
    assert_eq!((phase, act), (BackupPhase::Completed, Act::Made));
    let status = step.status;
    assert_eq!(status.backup_id.as_deref(), Some("20270115-075900F"));
    assert_eq!(status.backup_type, Some(BackupKind::Full));
    assert_eq!((status.size_bytes, status.size.as_deref()), (Some(31_457_280), Some("30.0Mi")));
    assert_eq!(status.duration.as_deref(), Some("1m0s"));
    assert_eq!((status.wal_start.as_deref(), status.wal_stop.as_deref()), (Some("0/3000028"), Some("0/3000138")));
    assert_eq!(status.completed_at, Some(stored(ago(1))));
    assert_eq!(status.error, None);
    assert!(condition::is_true(&status.conditions, "Complete"));
}

#[test]
fn a_backup_that_is_made_counts_even_when_the_repository_cannot_be_looked_at() {
    let job = Some(Ok(Some(Job::Completed("x".into()))));
    for listing in [None, Some(Err(broken()))] {
        let seen = Seen { job: job.clone(), listing, ..ready() };
        let (phase, _, step) = outcome(&in_phase(BackupPhase::Running, 1, 5), &seen);
        assert_eq!((phase, step.status.backup_id.as_deref()), (BackupPhase::Completed, Some("x")));
    }
}

#[rstest]
#[case(BackupPhase::Starting)]
#[case(BackupPhase::Running)]
fn a_run_ends_with_its_shard(#[case] phase: BackupPhase) {
    let seen = Seen { shard: Shard::Absent, job: Some(Err(away())), ..ready() };
    let (phase, act, step) = outcome(&in_phase(phase, 1, 5), &seen);
    assert_eq!((phase, act), (BackupPhase::Failed, Act::Release));
    assert_eq!(step.status.error.as_deref(), Some("Its shard is gone"));
}

#[test]
fn a_controller_that_has_just_begun_waits_for_the_shard_before_it_ends_a_run() {
    let seen = Seen { shard: Shard::Unknown, job: Some(Ok(Some(Job::Completed("x".into())))), ..ready() };
    let (phase, act, _) = outcome(&in_phase(BackupPhase::Running, 1, 5), &seen);
    assert_eq!((phase, act), (BackupPhase::Running, Act::None));
}

#[rstest]
#[case::it_runs(Some(Ok(Some(Job::Running))))]
#[case::nobody_answers(Some(Err(away())))]
#[case::it_hangs(None)]
#[case::garbage(Some(Err(broken())))]
fn a_job_that_cannot_be_asked_for_goes_on_until_the_deadline(
    #[case] job: Option<crate::upstream::Result<Option<Job>>>,
) {
    let seen = Seen { job, ..ready() };
    let running = in_phase(BackupPhase::Running, 1, 5);
    let (phase, act, step) = outcome(&running, &seen);
    assert_eq!((phase, act), (BackupPhase::Running, Act::None));
    assert!(step.after.unwrap() >= std::time::Duration::from_secs(5), "no tight loop");
    let late = super::super::progress::step(&running, &seen, NOW + SignedDuration::from_hours(2));
    assert_eq!(late.status.phase, Some(BackupPhase::Failed));
    assert!(late.status.message.unwrap().contains("deadline"));
}

#[test]
fn a_job_that_everybody_has_forgotten_is_repeated() {
    let forgotten = Seen { job: Some(Ok(None)), listing: Some(Ok(Vec::new())), ..ready() };
    assert_eq!(outcome(&in_phase(BackupPhase::Running, 1, 1), &forgotten).0, BackupPhase::Running, "not at once");
    assert_eq!(outcome(&in_phase(BackupPhase::Running, 1, 5), &forgotten).0, BackupPhase::Pending);
    let busy = Seen { lease: Some(Ok(true)), ..forgotten.clone() };
    assert_eq!(outcome(&in_phase(BackupPhase::Running, 1, 5), &busy).0, BackupPhase::Running);
    let mut ours = made("ours", "incr", 2);
    ours.job = "job-1".to_owned();
    let found = Seen { listing: Some(Ok(vec![ours])), ..forgotten };
    assert_eq!(outcome(&in_phase(BackupPhase::Running, 1, 5), &found).0, BackupPhase::Completed);
}

#[rstest]
#[case(1, 0, false)]
#[case(1, 1, true)]
#[case(2, 0, false)]
#[case(2, 1, true)]
fn failed_attempts_are_repeated_with_growing_delays(#[case] attempt: i32, #[case] minutes: i64, #[case] again: bool) {
    let seen = Seen { job: Some(Ok(Some(Job::Failed("pooler backup failed:\n  no route to host".into())))), ..ready() };
    let (phase, act, step) = outcome(&in_phase(BackupPhase::Running, attempt, minutes), &seen);
    assert_eq!((phase, act), (BackupPhase::Pending, Act::Release));
    assert_eq!(step.status.error.as_deref(), Some("pooler backup failed: no route to host"));
    let next = outcome(&run(step.status), &ready());
    assert_eq!(next.0 == BackupPhase::Starting, again);
    if again {
        assert_eq!(next.2.status.attempt, Some(attempt + 1));
    }
}

/// An attempt was made while the clock was three days ahead.
#[rstest]
#[case::one_that_failed(BackupPhase::Pending, ready(), BackupPhase::Starting)]
#[case::one_that_never_began(BackupPhase::Starting, Seen { listing: Some(Ok(Vec::new())), ..ready() }, BackupPhase::Pending)]
#[case::one_that_is_forgotten(
    BackupPhase::Running,
    Seen { job: Some(Ok(None)), listing: Some(Ok(Vec::new())), ..ready() },
    BackupPhase::Pending
)]
fn a_clock_that_is_set_back_puts_off_no_attempt(
    #[case] phase: BackupPhase,
    #[case] seen: Seen,
    #[case] expected: BackupPhase,
) {
    let mut ahead = in_phase(phase, 1, -3 * 24 * 60);
    if phase == BackupPhase::Pending {
        ahead.status.as_mut().unwrap().error = Some("no route to host".to_owned());
    }
    let first = step(&ahead, &seen, NOW);
    assert_eq!(first.status.phase, Some(phase), "not at once");
    assert_eq!(first.status.attempted_at, Some(stored(NOW)), "what is waited for begins now");
    let later = step(&run(first.status), &seen, NOW + SignedDuration::from_mins(2));
    assert_eq!(later.status.phase, Some(expected));
}

#[test]
fn after_the_last_attempt_it_is_given_up() {
    let seen = Seen { job: Some(Ok(Some(Job::Failed("x".repeat(5000))))), ..ready() };
    let (phase, _, step) = outcome(&in_phase(BackupPhase::Running, 3, 5), &seen);
    assert_eq!(phase, BackupPhase::Failed);
    assert!(step.status.error.unwrap().len() <= 512);
    assert!(step.status.completed_at.is_some());
}

#[test]
fn nothing_begins_after_the_deadline() {
    let late = super::super::progress::step(
        &run(MultigresBackupStatus::default()),
        &ready(),
        NOW + SignedDuration::from_hours(2),
    );
    assert_eq!((late.status.phase, late.act), (Some(BackupPhase::Failed), Act::Release));
}

#[test]
fn a_status_without_news_stays_as_it_is() {
    let seen = Seen { job: Some(Ok(Some(Job::Running))), ..ready() };
    let first = step(&in_phase(BackupPhase::Running, 1, 5), &seen, NOW).status;
    let second = step(&run(first.clone()), &seen, NOW + SignedDuration::from_secs(5)).status;
    assert_eq!(first, second);
}
