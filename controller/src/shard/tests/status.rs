//! The status tells what was seen, never more, and does not move while nothing changes.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use rstest::rstest;
use serde_json::json;
use shared::{
    api::v1alpha1::{Phase, Shard},
    condition,
};

use super::fixture::*;
use crate::{
    plan::Requeue,
    runner::Kind as _,
    shard::{Observed, Reference, decide},
    upstream::{Error, Lifecycle, Role, RuleNumber},
};

#[rstest]
#[case::minimal(minimal())]
#[case::three_cells(three_cells())]
#[case::shared_volume(shared_volume())]
fn a_shard_in_which_everything_works_is_healthy(#[case] shard: Shard) {
    let observed = healthy(shard);
    let plan = pass(&observed);
    let status = plan.status.unwrap();
    assert_eq!((status.phase, status.message.as_deref()), (Some(Phase::Healthy), Some("Ready")));
    assert!(status.orch_ready && status.pools_ready);
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(status.primary.as_ref(), members(&observed.shard).first());
    assert_eq!(status.pod_roles[&members(&observed.shard)[0]], "PRIMARY");
    assert_eq!(status.pod_roles.values().filter(|role| *role == "REPLICA").count(), status.pod_roles.len() - 1);
    assert!(condition::is_true(&status.conditions, "Available"));
    assert!(condition::is_true(&status.conditions, "PrimaryConfirmed"));
    assert_eq!(plan.requeue, Requeue::After(settings().poll_settled));
}

#[test]
fn before_anything_exists_a_shard_is_initializing() {
    let plan = pass(&observed(minimal()));
    assert_eq!(plan.status.unwrap().phase, Some(Phase::Initializing));
    assert_eq!(plan.requeue, Requeue::After(settings().poll_unsettled));
}

#[rstest]
#[case::no_pods(&[], Phase::Initializing, "Creating the pods of the shard")]
#[case::none_runs(&[None, Some("Pending")], Phase::Initializing, "Creating the pods of the shard")]
#[case::one_runs(&[Some("Running"), Some("Pending")], Phase::Progressing, "Waiting for pool pods to be ready")]
fn a_shard_is_initializing_until_one_of_its_members_runs(
    #[case] phases: &[Option<&str>],
    #[case] phase: Phase,
    #[case] message: &str,
) {
    let mut observed = healthy(minimal());
    for (pod, phase) in members(&observed.shard).iter().zip(phases) {
        let status = json!({ "phase": phase });
        with_pod(&mut observed, pod, |pod| pod.status = serde_json::from_value(status).unwrap());
    }
    observed.pods.truncate(phases.len());
    let status = pass(&observed).status.unwrap();
    assert_eq!((status.phase, status.message.as_deref()), (Some(phase), Some(message)));
}

#[test]
fn what_holds_up_the_start_of_a_shard_is_said_at_once() {
    let mut observed = observed(minimal());
    observed.password = Reference::Absent;
    let status = pass(&observed).status.unwrap();
    assert_eq!(status.phase, Some(Phase::Progressing), "{:?}", status.message);
}

fn nothing(_: &mut Observed) {}

fn crash(observed: &mut Observed) {
    let pod = members(&observed.shard)[1].clone();
    with_pod(observed, &pod, |pod| {
        pod.status = serde_json::from_value(json!({ "containerStatuses": [{
            "name": "multipooler", "image": "i", "imageID": "", "ready": false, "restartCount": 4,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        }] }))
        .unwrap();
    });
}

fn crash_orchestrator(observed: &mut Observed) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "orch" },
        "status": { "containerStatuses": [{
            "name": "multiorch", "image": "i", "imageID": "", "ready": false, "restartCount": 4,
            "state": { "waiting": { "reason": "ImagePullBackOff" } },
        }] },
    }))
    .unwrap();
    observed.orchestrator_pods.push(Arc::new(pod));
}

fn unready(observed: &mut Observed) {
    let pod = members(&observed.shard)[1].clone();
    with_pod(observed, &pod, |pod| pod.status = None);
}

fn no_orchestrators(observed: &mut Observed) {
    observed.deployments.clear();
}

fn silent_primary(observed: &mut Observed) {
    observed.statuses.clear();
}

fn lost_primary(observed: &mut Observed) {
    remember(observed);
    observed.statuses.clear();
}

fn no_claim(observed: &mut Observed) {
    record(observed, 0).role = Role::Replica;
}

fn newer_claim(observed: &mut Observed) {
    let other = record(observed, 1);
    other.role = Role::Primary;
    other.rule = Some(RuleNumber { coordinator_term: 2, leader_subterm: 0 });
}

fn topology_down(observed: &mut Observed) {
    observed.topology.global = Err(Error::Unavailable { target: "etcd".into(), detail: "refused".into() });
}

fn cell_down(observed: &mut Observed) {
    let error = Error::Unavailable { target: "etcd".into(), detail: "refused".into() };
    observed.topology.cells.insert("zone-z".into(), Err(error));
}

fn one_registered(observed: &mut Observed) {
    record(observed, 1).lifecycle.state = Lifecycle::Shutdown;
}

fn quarantined(observed: &mut Observed) {
    record(observed, 1).lifecycle.state = Lifecycle::Quarantined;
}

fn bare_host(observed: &mut Observed) {
    let pod = members(&observed.shard)[1].clone();
    record(observed, 1).hostname = pod;
}

fn no_password(observed: &mut Observed) {
    observed.password = Reference::Absent;
}

fn no_settings(observed: &mut Observed) {
    observed.config_reference = Some(Err("ConfigMap tuning does not exist".into()));
}

fn cell_local(observed: &mut Observed) {
    let shard = Arc::make_mut(&mut observed.shard);
    shard.spec.pools.get_mut("default").unwrap().cells.push("zone-b".into());
    carry_out(observed);
}

fn one_pooler(observed: &mut Observed) {
    Arc::make_mut(&mut observed.shard).spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(1);
}

fn detached_standby(observed: &mut Observed) {
    for seen in observed.statuses.values_mut() {
        if let Some(primary) = seen.status.primary.as_mut() {
            primary.followers.clear();
        }
    }
}

fn uncounted_standby(observed: &mut Observed) {
    for seen in observed.statuses.values_mut() {
        let view = seen.status.consensus.as_mut().unwrap();
        view.cohort.pop_last();
    }
}

fn multi_cell(observed: &mut Observed) {
    Arc::make_mut(&mut observed.shard).spec.durability_policy =
        Some(shared::api::v1alpha1::DurabilityPolicy::MultiCellAtLeast2);
}

#[rstest]
#[case::crash(crash, Phase::Degraded, "CrashLoopBackOff")]
#[case::crash_orchestrator(crash_orchestrator, Phase::Degraded, "ImagePullBackOff")]
#[case::unready(unready, Phase::Progressing, "pool pods")]
#[case::no_orchestrators(no_orchestrators, Phase::Progressing, "orchestrators")]
#[case::silent_primary(silent_primary, Phase::Progressing, "Waiting for a primary")]
#[case::lost_primary(lost_primary, Phase::Degraded, "does not answer")]
#[case::detached_standby(detached_standby, Phase::Progressing, "standbys to stream")]
#[case::uncounted_standby(uncounted_standby, Phase::Progressing, "count for durability")]
#[case::no_claim(no_claim, Phase::Progressing, "Waiting for a primary")]
#[case::newer_claim(newer_claim, Phase::Progressing, "Waiting for a primary")]
#[case::topology_down(topology_down, Phase::Progressing, "topology server")]
#[case::cell_down(cell_down, Phase::Progressing, "topology server")]
#[case::one_registered(one_registered, Phase::Progressing, "register")]
#[case::quarantined(quarantined, Phase::Degraded, "Quarantined")]
#[case::bare_host(bare_host, Phase::Degraded, "nobody can resolve")]
#[case::no_password(no_password, Phase::Degraded, "password")]
#[case::no_settings(no_settings, Phase::Degraded, "tuning")]
#[case::cell_local(cell_local, Phase::Degraded, "repository")]
#[case::one_pooler(one_pooler, Phase::Degraded, "AT_LEAST_2")]
#[case::multi_cell(multi_cell, Phase::Degraded, "MULTI_CELL_AT_LEAST_2")]
fn one_fault_is_enough_not_to_be_healthy(
    #[case] fault: fn(&mut Observed),
    #[case] phase: Phase,
    #[case] message: &str,
) {
    let mut observed = healthy(minimal());
    fault(&mut observed);
    let plan = pass(&observed);
    let status = plan.status.unwrap();
    assert_eq!(status.phase, Some(phase), "{:?}", status.message);
    assert!(status.message.as_ref().unwrap().contains(message), "{:?}", status.message);
    assert_eq!(plan.requeue, Requeue::After(settings().poll_unsettled));
}

#[rstest]
#[case::nothing(nothing)]
#[case::crash(crash)]
#[case::lost_primary(lost_primary)]
#[case::topology_down(topology_down)]
#[case::no_password(no_password)]
#[case::cell_local(cell_local)]
fn status_is_a_fixed_point(#[case] fault: fn(&mut Observed)) {
    let mut observed = healthy(minimal());
    fault(&mut observed);
    remember(&mut observed);
    let first = observed.shard.status.clone();
    // The primary goes on confirming itself.
    let later = NOW + SignedDuration::from_secs(600);
    observed.statuses.values_mut().for_each(|seen| seen.at = later);
    let again = decide(&observed, &settings(), later).unwrap();
    assert_eq!(again.status, first);
    assert!(again.notes.is_empty(), "{:?}", again.notes);
}

#[test]
fn an_old_answer_confirms_no_primary() {
    let observed = healthy(minimal());
    let plan = decide(&observed, &settings(), NOW + SignedDuration::from_secs(31)).unwrap();
    assert_ne!(plan.status.unwrap().phase, Some(Phase::Healthy));
}

#[test]
fn a_primary_that_did_not_answer_is_asked_again_soon() {
    let observed = healthy(minimal());
    let plan = decide(&observed, &settings(), NOW + SignedDuration::from_secs(20)).unwrap();
    assert_eq!(plan.status.unwrap().phase, Some(Phase::Healthy));
    assert_eq!(plan.requeue, Requeue::After(settings().poll_unsettled));
}

#[test]
fn roles_stay_while_the_topology_does_not_answer() {
    let mut observed = healthy(minimal());
    remember(&mut observed);
    topology_down(&mut observed);
    observed.topology.cells.clear();
    let before = observed.shard.status.as_ref().unwrap().pod_roles.clone();
    assert_eq!(status(&observed).pod_roles, before);
    observed.pods.pop();
    assert_eq!(status(&observed).pod_roles.len(), 1, "roles of pods that are gone do not stay");
}

#[test]
fn a_lost_primary_stays_lost_until_another_one_is_confirmed() {
    let mut observed = healthy(minimal());
    lost_primary(&mut observed);
    remember(&mut observed);
    no_claim(&mut observed);
    assert_eq!(status(&observed).phase, Some(Phase::Degraded));
    elect(&mut observed, 1);
    assert_eq!(status(&observed).phase, Some(Phase::Healthy));
}

#[test]
fn missing_settings_leave_those_in_force_that_were_applied_last() {
    let mut observed = healthy(minimal());
    no_settings(&mut observed);
    let plan = pass(&observed);
    assert!(!written(&plan, "ConfigMap").iter().any(|name| name.ends_with("-postgres-config")));
    assert_eq!(written(&plan, "Pod").len(), 2);
    let status = plan.status.unwrap();
    assert!(status.drift.is_empty());
    assert_eq!(status.postgres_config.unwrap().error.as_deref(), Some("ConfigMap tuning does not exist"));
}

#[test]
fn the_phase_change_is_told_once() {
    let change = |observed: &Observed| observed.shard.phase_change(&pass(observed).status.unwrap());
    let mut observed = healthy(minimal());
    assert!(change(&observed).is_some_and(|note| !note.warning));
    remember(&mut observed);
    assert_eq!(change(&observed), None);
    crash(&mut observed);
    assert!(change(&observed).is_some_and(|note| note.warning));
}

#[test]
fn a_pod_without_a_node_is_named_while_the_shard_waits_for_it() {
    let mut observed = healthy(minimal());
    let pod = members(&observed.shard)[1].clone();
    let waiting = |since: &str| {
        json!({ "phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available", "lastTransitionTime": since,
        }] })
    };
    with_pod(&mut observed, &pod, |pod| pod.status = serde_json::from_value(waiting("2027-01-15T07:59:59Z")).unwrap());
    assert_eq!(status(&observed).message.as_deref(), Some("Waiting for pool pods to be ready"), "it may find one yet");
    with_pod(&mut observed, &pod, |pod| pod.status = serde_json::from_value(waiting("2027-01-15T07:30:00Z")).unwrap());
    let status = status(&observed);
    assert_eq!(status.phase, Some(Phase::Progressing));
    assert_eq!(status.message, Some(format!("pod {pod} finds no node: 0/3 nodes are available")));
}

#[test]
fn how_long_one_thing_was_in_the_way_says_nothing_about_another() {
    let since = |observed: &Observed| {
        let conditions = &observed.shard.status.as_ref().unwrap().conditions;
        condition::find(conditions, "DisruptionBlocked")
            .map(|found| (found.reason.clone(), found.last_transition_time.0))
    };
    let at = |observed: &mut Observed, seconds| {
        let now = NOW + SignedDuration::from_secs(seconds);
        observed.statuses.values_mut().for_each(|seen| seen.at = now);
        let status = decide(observed, &settings(), now).unwrap().status;
        Arc::make_mut(&mut observed.shard).status = status;
        now
    };
    let mut observed = healthy(three_cells());
    Arc::make_mut(&mut observed.shard).spec.images.postgres = "registry.test/pgctld:2".into();
    let pod = members(&observed.shard)[1].clone();
    with_pod(&mut observed, &pod, |pod| {
        pod.metadata.deletion_timestamp = Some(Time(NOW + SignedDuration::from_hours(1)));
    });
    observed.topology_away = Some("Unavailable");
    let first = at(&mut observed, 0);
    assert_eq!(since(&observed), Some(("TopologyUnavailable".to_owned(), first)));
    at(&mut observed, 3000);
    assert_eq!(since(&observed), Some(("TopologyUnavailable".to_owned(), first)));
    observed.topology_away = None;
    let then = at(&mut observed, 3600);
    assert_eq!(since(&observed), Some(("WaitingForMember".to_owned(), then)), "this wait has begun only now");
    at(&mut observed, 3700);
    assert_eq!(since(&observed), Some(("PodStuck".to_owned(), then)), "the same wait, in another word");
}

#[test]
fn standbys_without_a_connection_are_named_while_nothing_else_is() {
    let mut observed = healthy(minimal());
    detached_standby(&mut observed);
    let pod = members(&observed.shard)[1].clone();
    let ready_since = |observed: &mut Observed, at: &str| {
        let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": at });
        let status = json!({ "phase": "Running", "conditions": [ready] });
        with_pod(observed, &pod, |pod| pod.status = serde_json::from_value(status).unwrap());
    };
    let told = |observed: &Observed| {
        let conditions = status(observed).conditions;
        condition::find(&conditions, "StandbysDetached").map(|found| found.message.clone())
    };
    ready_since(&mut observed, "2027-01-15T07:59:50Z");
    assert_eq!(told(&observed), None, "it has just come up");
    ready_since(&mut observed, "2027-01-15T07:59:30Z");
    assert!(told(&observed).unwrap().contains(&pod));
    Arc::make_mut(&mut observed.shard).spec.images.postgres = "registry.test/pgctld:2".into();
    assert_eq!(told(&observed), None, "a change waits for it, and says so");
}
