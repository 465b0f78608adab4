//! What one pooler says and what all of them say, what is left to do after a run, and what it means that data does not go.

use std::collections::BTreeMap;

use rstest::rstest;
use shared::{
    api::v1alpha1::{ShardSpec, ShardStatus},
    condition::ConditionSet,
};

use super::*;
use crate::{
    backup::{
        keeper, stored,
        tests::{NOW, ago, away, broken, made},
    },
    upstream::{LifecycleMark, fake::FakeDataPlane},
};

/// A pooler that has registered.
fn pooler(name: &str, role: Role, serving: Serving) -> PoolerRecord {
    PoolerRecord {
        id: PoolerId::new("zone-a", name),
        shard: ShardKey::new("postgres", "default", "0-inf"),
        hostname: name.to_owned(),
        ports: BTreeMap::from([("grpc".to_owned(), 15270)]),
        role,
        rule: None,
        lifecycle: LifecycleMark { state: Lifecycle::Active, ..LifecycleMark::default() },
        serving,
        tls: None,
    }
}

/// A primary, and a standby that has not come up.
fn two() -> [PoolerRecord; 2] {
    [pooler("primary", Role::Primary, Serving::Serving), pooler("standby", Role::Replica, Serving::Disabled)]
}

#[rstest]
#[case::it_fails(Err(broken()))]
#[case::its_look_was_cut_off(Ok(Vec::new()))]
#[case::it_is_away(Err(away()))]
#[tokio::test]
async fn a_pooler_that_cannot_read_the_repository_does_not_speak_for_the_others(
    #[case] answer: upstream::Result<Vec<Backup>>,
) {
    let plane = FakeDataPlane::new();
    plane.backups.open(Ok(vec![made("a", "full", 5)]));
    plane.backups.mislead("standby", answer);
    let found = list(&plane.upstream(), &two(), &[]).await.unwrap().unwrap();
    assert_eq!((found.len(), plane.backups.lists()), (1, 2));
}

#[tokio::test]
async fn a_list_without_backups_is_a_repository_that_cannot_be_read() {
    let plane = FakeDataPlane::new();
    plane.backups.open(Ok(Vec::new()));
    let error = list(&plane.upstream(), &two(), &[]).await.unwrap().unwrap_err();
    assert!(!error.unreachable() && error.to_string().contains("lists no backup"), "{error}");
}

#[tokio::test]
async fn who_cannot_be_asked_says_less_than_who_cannot_read_the_repository() {
    let plane = FakeDataPlane::new();
    plane.backups.mislead("standby", Err(broken()));
    assert_eq!(list(&plane.upstream(), &two(), &[]).await, Some(Err(broken())), "the primary is away");
    assert_eq!(list(&plane.upstream(), &two()[..1], &[]).await.unwrap().unwrap_err().reason(), "Unavailable");
    assert_eq!(list(&plane.upstream(), &[], &[]).await, None);
}

#[rstest]
#[case::never_led(false, "NoClaim", true)]
#[case::claimed(false, "ClaimUnconfirmed", true)]
#[case::led(true, "Confirmed", false)]
#[case::lost_its_primary(false, "PrimaryLost", false)]
#[tokio::test]
async fn a_repository_is_not_at_fault_for_holding_nothing_before_anybody_has_led(
    #[case] confirmed: bool,
    #[case] reason: &str,
    #[case] empty: bool,
) {
    let plane = FakeDataPlane::new();
    plane.backups.open(Ok(Vec::new()));
    let said = ConditionSet::continuing(&[], Some(1), NOW).set("PrimaryConfirmed", confirmed, reason, "");
    let mut shard = Shard::new("demo", ShardSpec::default());
    shard.status = Some(ShardStatus { conditions: said.finish(), ..ShardStatus::default() });
    let answer = list(&plane.upstream(), &two(), &[]).await.unwrap();
    assert_eq!(keeper::believed(&shard, answer) == Ok(Vec::new()), empty);
    assert_eq!(keeper::believed(&shard, Err(broken())), Err(broken()), "a fault is one at any time");
}

#[tokio::test]
async fn the_words_of_a_fault_say_more_than_an_empty_list() {
    let plane = FakeDataPlane::new();
    plane.backups.open(Err(broken()));
    plane.backups.mislead("standby", Ok(Vec::new()));
    assert_eq!(list(&plane.upstream(), &two(), &[]).await, Some(Err(broken())));
}

#[tokio::test]
async fn two_standbys_that_serve_are_believed_and_the_primary_is_left_alone() {
    let plane = FakeDataPlane::new();
    plane.backups.open(Err(broken()));
    let standby = |name: &str| pooler(name, Role::Replica, Serving::Serving);
    let all = [pooler("primary", Role::Primary, Serving::Serving), standby("one"), standby("two")];
    assert_eq!(list(&plane.upstream(), &all, &[]).await, Some(Err(broken())));
    assert_eq!(plane.backups.lists(), 2);
}

fn run(name: &str, phase: BackupPhase, minutes: i64) -> MultigresBackup {
    let mut run = MultigresBackup::default();
    run.metadata.name = Some(name.to_owned());
    run.metadata.uid = Some(format!("uid-of-{name}"));
    run.status = Some(MultigresBackupStatus {
        phase: Some(phase),
        completed_at: phase.is_final().then(|| stored(ago(minutes))),
        ..MultigresBackupStatus::default()
    });
    run
}

/// So many full backups, and one that builds on the last of them.
fn full(count: usize) -> Vec<Backup> {
    let mut all: Vec<Backup> = (0..count).map(|number| made(&format!("2026010{number}-000000F"), "full", 90)).collect();
    all.push(made("incr", "incr", 80));
    all
}

#[rstest]
#[case::more_than_it_should(60, Some(2), Some(full(3)), Retention::Exceeded(2))]
#[case::as_it_should(60, Some(2), Some(full(2)), Retention::Kept)]
#[case::the_list_may_be_older(5, Some(2), Some(full(2)), Retention::Unsure)]
#[case::nobody_has_looked(5, Some(2), None, Retention::Unsure)]
#[case::nobody_looks(60, Some(2), None, Retention::Kept)]
#[case::nobody_asked_for_it(5, None, Some(full(9)), Retention::Kept)]
fn the_last_run_sees_to_it_that_there_are_no_more_than_there_should_be(
    #[case] minutes: i64,
    #[case] kept: Option<i32>,
    #[case] listed: Option<Vec<Backup>>,
    #[case] expected: Retention,
) {
    let last = run("last", BackupPhase::Completed, minutes);
    let before = Arc::new(run("before", BackupPhase::Completed, 600));
    assert_eq!(retention(&last, &[before], kept, listed.as_deref(), NOW), expected);
}

#[test]
fn whoever_comes_later_sees_to_it_instead() {
    let judge =
        |phase, other| retention(&run("this", phase, 60), &[Arc::new(other)], Some(2), Some(full(3).as_slice()), NOW);
    let kept = |other| judge(BackupPhase::Completed, other) == Retention::Kept;
    assert!(kept(run("later", BackupPhase::Completed, 30)));
    assert!(kept(run("now", BackupPhase::Running, 0)));
    assert!(!kept(run("given-up", BackupPhase::Failed, 30)));
    assert_eq!(judge(BackupPhase::Failed, run("before", BackupPhase::Completed, 90)), Retention::Kept);
    let mut leaves = run("leaves", BackupPhase::Completed, 30);
    leaves.metadata.deletion_timestamp = Some(stored(NOW));
    assert!(!kept(leaves), "it is busy with its own data");
}

#[test]
fn what_the_repository_refuses_keeps_the_object_and_is_told() {
    let detail = "repo1: full backup 20260101-000000F cannot be expired until another one has been created".to_owned();
    let error = upstream::Error::Failed { target: "multiadmin:18070".to_owned(), detail };
    match refused("20260101-000000F", error) {
        Ok(Removed::NotYet(Some(why))) => assert!(why.contains("until another one") && why.contains("Retain"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(refused("20260101-000000F", away()).is_err(), "nobody knows whether it would go");
}

#[test]
fn the_finalizers_of_others_are_not_overwritten() {
    let mut run = run("this", BackupPhase::Completed, 5);
    run.metadata.finalizers = Some(vec!["example.com/other".to_owned()]);
    run.metadata.resource_version = Some("7".to_owned());
    let mut plan = Plan::nothing();
    finalize(&run, true, &mut plan);
    let [write] = plan.writes.as_slice() else { panic!("{:?}", plan.writes) };
    let Action::Merge { patch, .. } = &write.action else { panic!("{write:?}") };
    let finalizers = ["example.com/other", annotation::BACKUP_FINALIZER];
    assert_eq!(*patch, json!({"metadata": {"finalizers": finalizers, "resourceVersion": "7"}}));
}
