//! A shard that has lost everything is not made anew without a word.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use rstest::rstest;
use serde_json::json;
use shared::{
    annotation,
    api::v1alpha1::{Phase, Shard},
    condition, label,
};

use super::fixture::*;
use crate::shard::Observed;

/// A shard that was healthy, and of which only objects without data are left.
fn emptied(shard: Shard) -> Observed {
    let mut observed = healthy(shard);
    carry_out(&mut observed);
    remember(&mut observed);
    observed.statuses.clear();
    observed.pods.clear();
    observed.claims.retain(|claim| !claim.labels().contains_key(label::POOL));
    observed
}

/// How many volumes for data and pods a pass makes.
fn made(observed: &Observed) -> (usize, usize) {
    let plan = pass(observed);
    let data = |name: &&String| name.starts_with("data-");
    (written(&plan, "PersistentVolumeClaim").iter().filter(data).count(), written(&plan, "Pod").len())
}

fn backed_up(observed: &mut Observed, at: &str) {
    let status = Arc::make_mut(&mut observed.shard).status.as_mut().unwrap();
    status.last_backup_time = Some(Time(at.parse().unwrap()));
}

fn annotate(observed: &mut Observed, value: &str) {
    let said = [(annotation::START_EMPTY.to_owned(), value.to_owned())].into();
    Arc::make_mut(&mut observed.shard).metadata.annotations = Some(said);
}

#[rstest]
#[case::bucket(three_cells())]
#[case::volume(minimal())]
fn without_a_backup_nothing_is_made_in_place_of_what_was_lost(#[case] shard: Shard) {
    let observed = emptied(shard);
    assert_eq!(made(&observed), (0, 0));
    let status = status(&observed);
    assert_eq!(status.phase, Some(Phase::Degraded));
    let guard = condition::find(&status.conditions, "DataLossGuard").unwrap();
    assert_eq!((guard.status.as_str(), guard.reason.as_str()), ("True", "AllVolumesGone"));
    assert!(guard.message.contains(annotation::START_EMPTY), "{}", guard.message);
}

#[test]
fn budgets_remember_a_primary_that_the_status_has_lost() {
    let mut observed = emptied(three_cells());
    Arc::make_mut(&mut observed.shard).status = None;
    assert_eq!(made(&observed), (0, 0));
    observed.budgets.clear();
    assert_eq!(made(&observed), (3, 3), "a shard that never had data");
}

fn bucket(observed: &mut Observed) {
    backed_up(observed, "2027-01-15T07:30:00Z");
}

fn run(observed: &mut Observed) {
    let run = json!({
        "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresBackup", "metadata": { "name": "b" },
        "spec": { "cluster": "demo", "database": "postgres", "tableGroup": "default", "shard": "0-inf" },
        "status": { "phase": "Completed", "completedAt": "2027-01-15T07:30:00Z" },
    });
    observed.backups.runs.push(Arc::new(serde_json::from_value(run).unwrap()));
}

fn word(observed: &mut Observed) {
    annotate(observed, "true");
}

fn volume(observed: &mut Observed) {
    let all = healthy(three_cells()).claims;
    observed.claims.extend(all.into_iter().take(1));
}

fn pod(observed: &mut Observed) {
    let all = healthy(three_cells()).pods;
    observed.pods.extend(all.into_iter().take(1));
}

#[rstest]
#[case::a_backup(bucket)]
#[case::a_run_that_made_one(run)]
#[case::the_word_of_the_user(word)]
#[case::a_volume(volume)]
#[case::a_pod_that_runs(pod)]
fn where_something_is_left_all_members_come_back(#[case] left: fn(&mut Observed)) {
    let mut observed = emptied(three_cells());
    left(&mut observed);
    assert_eq!(made(&observed), (3, 3));
    assert!(!condition::is_true(&status(&observed).conditions, "DataLossGuard"));
}

#[test]
fn a_volume_that_was_set_aside_or_is_going_holds_nothing_for_anybody() {
    let mut observed = emptied(three_cells());
    annotate(&mut observed, "false");
    volume(&mut observed);
    let claim = Arc::make_mut(observed.claims.last_mut().unwrap());
    claim.metadata.deletion_timestamp = Some(Time(NOW));
    assert_eq!(made(&observed), (0, 0));
    let claim = Arc::make_mut(observed.claims.last_mut().unwrap());
    claim.metadata.deletion_timestamp = None;
    let aside = (annotation::QUARANTINED_AT.to_owned(), NOW.to_string());
    claim.metadata.annotations.get_or_insert_default().extend([aside]);
    assert_eq!(made(&observed), (0, 0));
}

#[test]
fn a_repository_that_was_made_after_the_last_backup_does_not_hold_it() {
    let mut observed = emptied(minimal());
    backed_up(&mut observed, "2027-01-15T07:30:00Z");
    assert_eq!(made(&observed), (2, 2));
    for claim in &mut observed.claims {
        Arc::make_mut(claim).metadata.creation_timestamp = Some(Time("2027-01-15T07:45:00Z".parse().unwrap()));
    }
    assert_eq!(made(&observed), (0, 0));
    observed.claims.clear();
    assert_eq!(made(&observed), (0, 0));
}
