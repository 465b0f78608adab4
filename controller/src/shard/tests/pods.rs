//! What happens to pods that are missing or have ended, and how the others are compared with what would be built today.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use shared::annotation;

use super::fixture::*;
use crate::{
    plan::Action,
    shard::{Observed, Reference},
};

fn set_phase(observed: &mut Observed, pod: &str, phase: &str) {
    with_pod(observed, pod, |pod| {
        let status = pod.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.conditions = None;
    });
}

#[test]
fn all_missing_pods_are_created_at_once() {
    let plan = pass(&observed(three_cells()));
    assert_eq!(written(&plan, "Pod"), members(&three_cells()));
    assert_eq!(written(&plan, "PersistentVolumeClaim").len(), 3);
}

#[test]
fn new_pods_wait_for_the_password() {
    let mut observed = observed(minimal());
    observed.password = Reference::Absent;
    let plan = pass(&observed);
    assert!(written(&plan, "Pod").is_empty());
    assert_eq!(written(&plan, "Deployment").len(), 1, "orchestrators need no password");
}

#[test]
fn new_pods_wait_for_certificates() {
    let mut observed = observed(minimal());
    observed.certificates.ready = false;
    assert!(written(&pass(&observed), "Pod").is_empty());
}

#[test]
fn a_lost_pod_is_created_anew_although_the_password_is_gone() {
    let mut observed = healthy(minimal());
    observed.password = Reference::Absent;
    let lost = observed.pods.pop().unwrap();
    let lost = lost.metadata.name.as_ref().unwrap();
    assert!(written(&pass(&observed), "Pod").contains(lost));
}

#[test]
fn an_ended_pod_is_removed() {
    let mut observed = healthy(minimal());
    let names = members(&minimal());
    set_phase(&mut observed, &names[1], "Failed");
    assert_eq!(deletions(&pass(&observed)), [format!("Pod/{}", names[1])]);
}

#[test]
fn an_ended_pod_that_still_counts_as_primary_is_not_removed() {
    let mut observed = healthy(minimal());
    set_phase(&mut observed, &members(&minimal())[0], "Failed");
    assert!(deletions(&pass(&observed)).is_empty());
}

#[test]
fn a_scale_down_that_would_break_the_durability_policy_is_refused() {
    let mut observed = healthy(minimal());
    Arc::make_mut(&mut observed.shard).spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(1);
    let plan = pass(&observed);
    assert!(deletions(&plan).iter().all(|name| name.starts_with("PodDisruptionBudget/")), "{:?}", deletions(&plan));
    let conditions = plan.status.unwrap().conditions;
    assert!(shared::condition::is_true(&conditions, "ScaleDownPending"));
    let blocked = shared::condition::find(&conditions, "DisruptionBlocked").unwrap();
    assert_eq!(blocked.reason, "ScaleDownBlocked");
}

#[test]
fn a_pool_that_left_keeps_the_address_of_its_pods() {
    let mut observed = healthy(minimal());
    let shard = Arc::make_mut(&mut observed.shard);
    let pool = shard.spec.pools.remove("default").unwrap();
    shard.spec.pools.insert("other".into(), pool);
    assert!(deletions(&pass(&observed)).is_empty());
    observed.pods.clear();
    assert_eq!(deletions(&pass(&observed)).len(), 1);
}

#[test]
fn a_changed_image_is_reported_with_its_path() {
    let mut observed = healthy(minimal());
    assert!(status(&observed).drift.is_empty());
    Arc::make_mut(&mut observed.shard).spec.images.postgres = "registry.test/pgctld:2".into();
    let plan = pass(&observed);
    assert!(deletions(&plan).is_empty());
    let drift = plan.status.unwrap().drift;
    assert_eq!(drift.len(), 2);
    assert_eq!(drift.values().next().unwrap(), "spec.initContainers[name=postgres].image differs");
}

#[test]
fn what_is_no_longer_wanted_in_a_pod_is_drift_too() {
    let mut shard = minimal();
    shard.spec.pools.get_mut("default").unwrap().tolerations =
        vec![serde_json::from_value(serde_json::json!({ "key": "a", "operator": "Exists" })).unwrap()];
    let mut observed = healthy(shard);
    Arc::make_mut(&mut observed.shard).spec.pools.get_mut("default").unwrap().tolerations.clear();
    assert_eq!(status(&observed).drift.values().next().unwrap(), "spec has fields that are no longer wanted");
}

#[test]
fn a_pod_that_was_rewritten_while_it_was_made_is_current() {
    let mut observed = healthy(minimal());
    let pod = members(&minimal())[0].clone();
    with_pod(&mut observed, &pod, |pod| {
        pod.spec.as_mut().unwrap().containers[0].image = Some("mirror.test/multipooler:1".into());
    });
    assert!(status(&observed).drift.is_empty());
    // What the user changes is drift all the same.
    Arc::make_mut(&mut observed.shard).spec.images.postgres = "registry.test/pgctld:2".into();
    assert_eq!(status(&observed).drift.len(), 2);
}

#[test]
fn pods_of_another_operator_are_left_as_they_are_until_their_user_wants_something_else() {
    let mut observed = healthy(minimal());
    for pod in members(&minimal()) {
        with_pod(&mut observed, &pod, |pod| {
            pod.metadata.annotations.get_or_insert_default().insert(annotation::SPEC_HASH.into(), "f00".into());
            pod.spec.as_mut().unwrap().termination_grace_period_seconds = Some(7);
        });
    }
    let plan = pass(&observed);
    assert!(plan.status.unwrap().drift.is_empty());
    let patches = plan.writes.iter().filter_map(|write| match &write.action {
        Action::Merge { target, patch } if write.reason == "TakenOver" => {
            Some((target.key.name.clone(), patch.clone()))
        }
        _ => None,
    });
    let patches: Vec<_> = patches.collect();
    assert_eq!(patches.len(), 2);
    for (pod, patch) in patches {
        let intent = patch["metadata"]["annotations"][annotation::ADOPTED_INTENT].as_str().unwrap().to_owned();
        with_pod(&mut observed, &pod, |pod| {
            pod.metadata.annotations.get_or_insert_default().insert(annotation::ADOPTED_INTENT.into(), intent);
        });
    }
    let plan = pass(&observed);
    assert!(plan.writes.iter().all(|write| write.reason != "TakenOver"));
    assert!(plan.status.unwrap().drift.is_empty());
    Arc::make_mut(&mut observed.shard).spec.images.postgres = "registry.test/pgctld:2".into();
    assert_eq!(status(&observed).drift.len(), 2);
}

#[test]
fn what_others_added_to_a_pod_is_no_drift() {
    let mut observed = healthy(minimal());
    let pod = members(&minimal())[0].clone();
    with_pod(&mut observed, &pod, |pod| {
        let spec = pod.spec.as_mut().unwrap();
        spec.tolerations =
            Some(vec![serde_json::from_value(serde_json::json!({ "key": "node.kubernetes.io/not-ready" })).unwrap()]);
        spec.service_account_name = Some("default".into());
        spec.node_name = Some("node-1".into());
        spec.dns_policy = Some("ClusterFirst".into());
        spec.containers[0].termination_message_path = Some("/dev/termination-log".into());
    });
    assert!(status(&observed).drift.is_empty());
}

#[test]
fn a_setting_that_needs_a_restart_is_drift_and_one_that_needs_a_reload_is_not() {
    let mut observed = healthy(minimal());
    let config = |observed: &mut Observed, name: &str, value: &str| {
        Arc::make_mut(&mut observed.shard).spec.postgres_config.insert(name.into(), value.into());
    };
    config(&mut observed, "work_mem", "9MB");
    assert!(status(&observed).drift.is_empty());
    assert_eq!(status(&observed).postgres_config.unwrap().in_progress, Some(true));
    config(&mut observed, "max_connections", "300");
    assert_eq!(status(&observed).drift.len(), 2);
}

#[derive(Clone, Copy, Debug)]
enum State {
    Missing,
    Running,
    Unready,
    Failed,
    Succeeded,
    FailedAndDeleting,
}

fn states() -> impl Strategy<Value = Vec<State>> {
    let one = prop_oneof![
        Just(State::Missing),
        Just(State::Running),
        Just(State::Unready),
        Just(State::Failed),
        Just(State::Succeeded),
        Just(State::FailedAndDeleting),
    ];
    prop::collection::vec(one, 6)
}

proptest! {
    /// Whatever state pods are in, at most one is deleted: one that has ended and is not the primary.
    #[test]
    fn at_most_one_ended_pod_is_deleted(states in states(), wanted in 1..=6_i32, primary in 0..6_usize) {
        let mut shard = minimal();
        shard.spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(6);
        let mut observed = observed(shard);
        carry_out(&mut observed);
        register(&mut observed);
        elect(&mut observed, primary);
        let names = members(&observed.shard);
        for (name, state) in names.iter().zip(&states) {
            match state {
                State::Missing => observed.pods.retain(|pod| pod.metadata.name.as_ref() != Some(name)),
                State::Running => {}
                State::Unready => set_phase(&mut observed, name, "Running"),
                State::Failed => set_phase(&mut observed, name, "Failed"),
                State::Succeeded => set_phase(&mut observed, name, "Succeeded"),
                State::FailedAndDeleting => {
                    set_phase(&mut observed, name, "Failed");
                    with_pod(&mut observed, name, |pod| pod.metadata.deletion_timestamp = Some(Time(NOW)));
                }
            }
        }
        Arc::make_mut(&mut observed.shard).spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(wanted);
        let plan = pass(&observed);
        let deleted: Vec<String> =
            deletions(&plan).into_iter().filter_map(|name| name.strip_prefix("Pod/").map(ToOwned::to_owned)).collect();
        prop_assert!(deleted.len() <= 1);
        for name in deleted {
            let index = names.iter().position(|other| *other == name).unwrap();
            prop_assert!(matches!(states[index], State::Failed | State::Succeeded));
            prop_assert!(index != primary || observed.pods.iter().all(|pod| pod.metadata.name.as_ref() != Some(&name)));
        }
        let volumes_deleted = plan.writes.iter().any(
            |write| matches!(&write.action, Action::Delete(target) if target.key.kind == "PersistentVolumeClaim"),
        );
        prop_assert!(!volumes_deleted);
        // Names of members are stable, so what exists is never made twice.
        prop_assert_eq!(pass(&observed), plan);
    }
}
