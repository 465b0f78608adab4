//! Shards through change, pass by pass: what a pass intends is carried out at once, by a Kubernetes and a data plane that obey.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt as _;
use rstest::rstest;
use serde_json::{Value, json};
use shared::{annotation, api::v1alpha1::Shard, condition, label, name};

use super::fixture::*;
use crate::{
    plan::{Action, Requeue},
    shard::{
        Observed,
        disruption::{Act, Reason, Row},
        node, weigh,
    },
    upstream::{Lifecycle, PoolerId, Role},
};

/// What happened to pods, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Request(String),
    Removed(String),
    Switchover,
    LeftCohort(String),
    Reloaded(String),
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(key);
                } else {
                    merge(target.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (target, patch) => {
            *target = patch.clone();
            if let Value::Object(members) = target {
                members.retain(|_, member| !member.is_null());
            }
        }
    }
}

fn patched<K: serde::Serialize + serde::de::DeserializeOwned>(object: &K, patch: &Value) -> Arc<K> {
    let mut value = serde_json::to_value(object).unwrap();
    merge(&mut value, patch);
    Arc::new(serde_json::from_value(value).unwrap())
}

pub fn primary_of(observed: &Observed) -> String {
    weigh(observed, &settings(), NOW).unwrap().plan.status.unwrap().primary.unwrap()
}

fn number_of(observed: &Observed, pod: &str) -> usize {
    members(&observed.shard).iter().position(|name| name == pod).unwrap()
}

/// Carries out one pass.
pub fn obey(observed: &mut Observed, steps: &mut Vec<Step>) {
    let writes = weigh(observed, &settings(), NOW).unwrap().plan.writes;
    let (pods, claims) = (observed.pods.clone(), observed.claims.clone());
    carry_out(observed);
    // What exists is not created again.
    keep(&mut observed.pods, pods);
    keep(&mut observed.claims, claims);
    for write in writes {
        act(observed, write.action, steps);
    }
}

pub fn keep<K: kube::Resource>(now: &mut [Arc<K>], before: Vec<Arc<K>>) {
    for old in before {
        if let Some(place) = now.iter_mut().find(|object| object.meta().name == old.meta().name) {
            *place = old;
        }
    }
}

pub fn act(observed: &mut Observed, action: Action, steps: &mut Vec<Step>) {
    match action {
        Action::Merge { target, patch } if target.key.kind == "Pod" => {
            if patch["metadata"]["annotations"][annotation::DRAIN_STATE] == "requested" {
                steps.push(Step::Request(target.key.name.clone()));
            }
            let pod = observed.pods.iter_mut().find(|pod| pod.name_any() == target.key.name).unwrap();
            *pod = patched::<Pod>(pod, &patch);
        }
        Action::Merge { target, patch } if target.key.kind == "PersistentVolumeClaim" => {
            let claim = observed.claims.iter_mut().find(|claim| claim.name_any() == target.key.name).unwrap();
            *claim = patched::<PersistentVolumeClaim>(claim, &patch);
        }
        Action::Remove { target, resource_version } => {
            assert_eq!(resource_version, "7", "as observed");
            steps.push(Step::Removed(target.key.name.clone()));
            observed.pods.retain(|pod| pod.name_any() != target.key.name);
            // Its record goes with it if nobody comes back.
            if !members(&observed.shard).contains(&target.key.name) {
                let id = name::pooler_service_id(&target.key.name);
                for cell in observed.topology.cells.values_mut() {
                    cell.as_mut().unwrap().retain(|record| record.id.name != id);
                }
            }
        }
        Action::Sequence(actions) => {
            for action in actions {
                act(observed, action, steps);
            }
        }
        Action::HandOver { standbys, orchestrators, .. } => {
            assert!(orchestrators.is_empty(), "no orchestrator has an address here");
            steps.push(Step::Switchover);
            let next = standbys[0].host.split('.').next().unwrap().to_owned();
            let old = primary_of(observed);
            let old = number_of(observed, &old);
            record(observed, old).role = Role::Replica;
            let next = number_of(observed, &next);
            elect(observed, next);
        }
        Action::LeaveCohort { member, .. } => {
            let pod = members_with_extra(observed).into_iter().find(|pod| name::pooler_service_id(pod) == member.name);
            steps.push(Step::LeftCohort(pod.unwrap()));
            forget_in_cohort(observed, &member);
        }
        Action::Reload { target, done, .. } => {
            steps.push(Step::Reloaded(target.key.name.clone()));
            act(observed, Action::Merge { target, patch: done }, steps);
        }
        _ => {}
    }
}

fn members_with_extra(observed: &Observed) -> Vec<String> {
    observed.pods.iter().map(|pod| pod.name_any()).collect()
}

fn forget_in_cohort(observed: &mut Observed, member: &PoolerId) {
    for seen in observed.statuses.values_mut() {
        seen.status.consensus.as_mut().unwrap().cohort.remove(member);
    }
}

/// Passes until nothing is pending.
fn settle(observed: &mut Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..60 {
        if !weigh(observed, &settings(), NOW).unwrap().verdict.pending {
            return steps;
        }
        obey(observed, &mut steps);
    }
    panic!("not settled: {:?}", weigh(observed, &settings(), NOW).unwrap().verdict);
}

pub fn removed(steps: &[Step]) -> Vec<String> {
    steps
        .iter()
        .filter_map(|step| match step {
            Step::Removed(pod) => Some(pod.clone()),
            _ => None,
        })
        .collect()
}

fn change_image(shard: &mut Arc<Shard>) {
    Arc::make_mut(shard).spec.images.postgres = "registry.test/pgctld:2".into();
}

fn scale(observed: &mut Observed, replicas: i32) {
    Arc::make_mut(&mut observed.shard).spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(replicas);
}

#[rstest]
#[case::three_cells(three_cells())]
#[case::a_pair(minimal())]
fn a_roll_takes_one_after_the_other_and_the_primary_last(#[case] shard: Shard) {
    let mut observed = healthy(shard);
    let first = primary_of(&observed);
    let count = observed.pods.len();
    change_image(&mut observed.shard);
    let steps = settle(&mut observed);
    let order = removed(&steps);
    assert_eq!(order.len(), count, "{steps:?}");
    assert_eq!(order.last(), Some(&first));
    assert_eq!(steps.iter().filter(|step| **step == Step::Switchover).count(), 1);
    // A pod is requested only when the one before it is back.
    for (number, pair) in steps.chunks(2).take(count - 1).enumerate() {
        assert_eq!(pair, [Step::Request(order[number].clone()), Step::Removed(order[number].clone())]);
    }
    assert_ne!(primary_of(&observed), first);
}

#[test]
fn a_pod_that_goes_is_marked_step_by_step() {
    let mut observed = healthy(three_cells());
    change_image(&mut observed.shard);
    let mut states = Vec::new();
    for _ in 0..6 {
        obey(&mut observed, &mut Vec::new());
        let drained = observed.pods.iter().find_map(|pod| {
            let all = pod.annotations();
            Some((all.get(annotation::DRAIN_STATE)?.clone(), all[annotation::DRAIN_REASON].clone()))
        });
        states.extend(drained);
    }
    let expected = ["requested", "draining", "acknowledged", "ready-for-deletion"];
    let expected: Vec<_> = expected.iter().map(|state| ((*state).to_owned(), "rolling-update".to_owned())).collect();
    assert_eq!(states[..4], expected);
}

#[test]
fn the_write_that_ends_a_drain_tells_why_and_since_when() {
    let mut observed = healthy(three_cells());
    change_image(&mut observed.shard);
    let mut ends = Vec::new();
    for _ in 0..5 {
        let writes = weigh(&observed, &settings(), NOW).unwrap().plan.writes;
        ends.extend(writes.iter().filter_map(|write| Some((write.reason, write.drain?))));
        obey(&mut observed, &mut Vec::new());
    }
    let [(reason, drain)] = ends.as_slice() else { panic!("{ends:?}") };
    assert_eq!((*reason, drain.cause, drain.took.as_secs()), ("DrainCompleted", "rolling-update", 0));
}

#[test]
fn a_standby_that_nobody_wants_leaves_the_cohort_before_it_goes() {
    let mut shard = minimal();
    shard.spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(4);
    let mut observed = healthy(shard);
    let all = members(&observed.shard);
    scale(&mut observed, 2);
    let steps = settle(&mut observed);
    let of = |pod: &String| [Step::Request(pod.clone()), Step::LeftCohort(pod.clone()), Step::Removed(pod.clone())];
    assert_eq!(steps, [of(&all[3]), of(&all[2])].concat());
    assert_eq!(observed.claims.iter().filter(|claim| claim.name_any().starts_with("data-")).count(), 4, "volumes stay");
}

#[test]
fn a_primary_that_nobody_wants_hands_over_first() {
    let mut shard = minimal();
    shard.spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(3);
    let mut observed = healthy(shard);
    elect(&mut observed, 2);
    record(&mut observed, 0).role = Role::Replica;
    let last = members(&observed.shard)[2].clone();
    scale(&mut observed, 2);
    let mut steps = Vec::new();
    // The planner's hands know members by the names that are still wanted; the one that goes is known by its pod.
    for _ in 0..3 {
        let writes = weigh(&observed, &settings(), NOW).unwrap().plan.writes;
        let hands_over = writes.iter().any(|write| write.reason == "Switchover");
        if hands_over {
            return;
        }
        for write in writes {
            act(&mut observed, write.action, &mut steps);
        }
    }
    panic!("{last} was never asked to hand over: {steps:?}");
}

#[test]
fn settings_that_a_reload_brings_into_force_cost_no_pod() {
    let mut observed = healthy(three_cells());
    let primary = primary_of(&observed);
    Arc::make_mut(&mut observed.shard).spec.postgres_config.insert("work_mem".into(), "9MB".into());
    let steps = settle(&mut observed);
    assert_eq!(steps.len(), 3, "{steps:?}");
    assert_eq!(steps.last(), Some(&Step::Reloaded(primary)));
    assert_eq!(
        weigh(&observed, &settings(), NOW).unwrap().plan.status.unwrap().postgres_config.unwrap().in_progress,
        Some(false)
    );
}

#[test]
fn settings_that_a_reload_did_not_bring_into_force_take_a_restart() {
    let mut observed = healthy(three_cells());
    Arc::make_mut(&mut observed.shard).spec.postgres_config.insert("work_mem".into(), "9MB".into());
    let writes = weigh(&observed, &settings(), NOW).unwrap().plan.writes;
    for write in writes {
        if let Action::Reload { target, needs_restart, .. } = write.action {
            act(&mut observed, Action::Merge { target, patch: needs_restart }, &mut Vec::new());
        }
    }
    let mut steps = Vec::new();
    obey(&mut observed, &mut steps);
    assert!(matches!(steps[..], [Step::Request(_)]), "{steps:?}");
}

#[test]
fn a_restart_only_setting_rolls() {
    let mut observed = healthy(three_cells());
    Arc::make_mut(&mut observed.shard).spec.postgres_config.insert("max_connections".into(), "300".into());
    assert_eq!(removed(&settle(&mut observed)).len(), 3);
}

#[test]
fn a_paused_shard_names_why_nothing_happens() {
    let mut observed = healthy(three_cells());
    change_image(&mut observed.shard);
    let paused = [(annotation::PAUSE.to_owned(), "true".to_owned())].into();
    Arc::make_mut(&mut observed.shard).metadata.annotations = Some(paused);
    let decision = weigh(&observed, &settings(), NOW).unwrap();
    assert_eq!(decision.verdict.row, Row::Paused);
    let conditions = decision.plan.status.unwrap().conditions;
    assert_eq!(condition::find(&conditions, "DisruptionBlocked").unwrap().reason, "Paused");
}

#[test]
fn a_topology_that_is_away_stops_a_roll_although_its_last_word_is_known() {
    let mut observed = healthy(three_cells());
    change_image(&mut observed.shard);
    observed.topology_away = Some("Unavailable");
    let decision = weigh(&observed, &settings(), NOW).unwrap();
    assert_eq!((decision.verdict.row, decision.verdict.act), (Row::Blind, None));
}

#[test]
fn answers_that_are_a_quarter_of_a_minute_old_take_nobody_down() {
    let mut observed = healthy(three_cells());
    change_image(&mut observed.shard);
    let later = NOW + jiff::SignedDuration::from_secs(16);
    let decision = weigh(&observed, &settings(), later).unwrap();
    assert_eq!(decision.verdict.act, None, "{:?}", decision.verdict);
}

#[test]
fn the_last_word_of_a_pod_does_not_speak_for_its_successor() {
    let mut observed = healthy(three_cells());
    change_image(&mut observed.shard);
    let standby = members(&observed.shard)[1].clone();
    with_pod(&mut observed, &standby, |pod| {
        let new = NOW - jiff::SignedDuration::from_secs(1);
        pod.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(new));
    });
    let decision = weigh(&observed, &settings(), NOW).unwrap();
    let Some(Act::Request { pod, .. }) = &decision.verdict.act else { panic!("{:?}", decision.verdict) };
    assert_eq!(*pod, standby, "it is not well yet, so nobody else goes before it");
}

#[test]
fn a_primary_leaves_a_cordoned_node_and_its_pod_stays() {
    let mut observed = healthy(three_cells());
    let primary = primary_of(&observed);
    with_pod(&mut observed, &primary, |pod| pod.spec.as_mut().unwrap().node_name = Some("n1".into()));
    let cordoned = serde_json::from_value(json!({ "spec": { "unschedulable": true } })).unwrap();
    observed.nodes.insert("n1".into(), node::Seen::of(&cordoned));
    let steps = settle(&mut observed);
    assert_eq!(steps, [Step::Request(primary.clone()), Step::Switchover]);
    obey(&mut observed, &mut Vec::new());
    let labelled: Vec<String> = observed
        .pods
        .iter()
        .filter(|pod| pod.labels().get(label::ROLE).is_some_and(|role| role == label::PRIMARY))
        .map(|pod| pod.name_any())
        .collect();
    assert_eq!(labelled, [primary_of(&observed)]);
    assert_ne!(labelled, [primary]);
}

/// A shard of which one pooler has given up on its data, and its pod.
fn quarantined() -> (Observed, String) {
    let mut observed = healthy(three_cells());
    let pod = members(&observed.shard)[1].clone();
    let victim = record(&mut observed, 1);
    victim.lifecycle.state = Lifecycle::Quarantined;
    victim.lifecycle.updated = Some(NOW - jiff::SignedDuration::from_mins(10));
    let id = victim.id.clone();
    observed.statuses.remove(&id);
    with_pod(&mut observed, &pod, |pod| pod.status = None);
    (observed, pod)
}

#[rstest]
#[case::archive("WALArchiving", "ArchivingFailing", true)]
#[case::nothing("BackupHealthy", "NoBackups", true)]
#[case::unreachable("BackupHealthy", "RepositoryUnreachable", true)]
#[case::old("BackupHealthy", "BackupStale", false)]
fn a_volume_is_kept_while_nobody_could_be_made_anew_from_the_backups(
    #[case] condition: &str,
    #[case] reason: &str,
    #[case] kept: bool,
) {
    let (mut observed, pod) = quarantined();
    let failing = json!([{
        "type": condition, "status": "False", "reason": reason, "message": "", "lastTransitionTime": "2027-01-15T07:00:00Z",
    }]);
    let status = serde_json::from_value(json!({ "conditions": failing })).unwrap();
    Arc::make_mut(&mut observed.shard).status = Some(status);
    let verdict = weigh(&observed, &settings(), NOW).unwrap().verdict;
    let given_up = Some(Act::FreshVolume { pod });
    assert_eq!(verdict.act, given_up.filter(|_| !kept), "{verdict:?}");
    assert_eq!(verdict.blocker.unwrap().reason, Reason::QuarantineBlocked);
}

#[test]
fn a_quarantined_member_moves_to_a_fresh_volume_and_the_old_one_is_kept() {
    let (mut observed, pod) = quarantined();
    let writes = weigh(&observed, &settings(), NOW).unwrap().plan.writes;
    let sequence = writes.into_iter().find_map(|write| match write.action {
        Action::Sequence(actions) => Some(actions),
        _ => None,
    });
    let sequence = sequence.unwrap();
    assert!(matches!(&sequence[0], Action::RequireBackup { .. }), "nothing is given up without a backup");
    assert!(matches!(&sequence[2], Action::Remove { target, .. } if target.key.name == pod));
    for action in sequence {
        act(&mut observed, action, &mut Vec::new());
    }
    let plan = weigh(&observed, &settings(), NOW).unwrap().plan;
    let pods = written(&plan, "Pod");
    assert!(!pods.contains(&pod), "{pods:?}");
    assert_eq!(pods.len(), 3);
    assert!(deletions(&plan).is_empty(), "the old volume is kept");
}

#[test]
fn while_something_is_under_way_it_is_looked_at_every_second() {
    let mut observed = healthy(three_cells());
    change_image(&mut observed.shard);
    let plan = pass(&observed);
    assert_eq!(plan.requeue, Requeue::After(std::time::Duration::from_secs(1)));
}

pub fn policy(observed: &mut Observed, when_scaled: &str) {
    let policy = serde_json::from_value(json!({ "whenScaled": when_scaled })).unwrap();
    Arc::make_mut(&mut observed.shard).spec.pvc_deletion_policy = Some(policy);
}

/// A shard of two members with the volume of a third one that is gone.
pub fn left_over() -> (Observed, String) {
    let mut shard = minimal();
    shard.spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(3);
    let mut observed = healthy(shard);
    let gone = members(&observed.shard)[2].clone();
    scale(&mut observed, 2);
    settle(&mut observed);
    (observed, name::data_pvc(&gone))
}

pub fn orphan(observed: &mut Observed, claim: &str, hours: i64) {
    let since = label::orphan_since(NOW - jiff::SignedDuration::from_hours(hours));
    let live = observed.claims.iter_mut().find(|live| live.name_any() == claim).unwrap();
    *live =
        patched::<PersistentVolumeClaim>(live, &json!({ "metadata": { "labels": { label::ORPHAN_SINCE: since } } }));
}

#[test]
fn a_volume_that_is_left_over_is_kept_unless_the_policy_gives_it_up() {
    let (mut observed, claim) = left_over();
    let about = |observed: &Observed| -> Vec<&'static str> {
        let writes = weigh(observed, &settings(), NOW).unwrap().plan.writes;
        let of_claim = |action: &Action| matches!(action, Action::Merge { target, .. } | Action::Delete(target) if target.key.name == claim);
        writes.iter().filter(|write| of_claim(&write.action)).map(|write| write.reason).collect()
    };
    assert!(about(&observed).is_empty());
    policy(&mut observed, "Delete");
    assert_eq!(about(&observed), ["VolumeOrphaned"]);
    obey(&mut observed, &mut Vec::new());
    assert!(about(&observed).is_empty(), "it waits");
    orphan(&mut observed, &claim, 721);
    assert_eq!(about(&observed), ["PolicyDelete"]);
    policy(&mut observed, "Retain");
    assert_eq!(about(&observed), ["VolumeKept"], "nothing that is to be retained is deleted");
    policy(&mut observed, "Delete");
    scale(&mut observed, 3);
    assert_eq!(about(&observed), ["VolumeWanted"], "it is used again");
}

#[test]
fn volumes_grow_in_use_and_never_shrink() {
    let mut observed = healthy(minimal());
    let size = |observed: &mut Observed, size: &str| {
        let shard = Arc::make_mut(&mut observed.shard);
        shard.spec.pools.get_mut("default").unwrap().storage.as_mut().unwrap().size = Some(size.to_owned());
    };
    size(&mut observed, "2Gi");
    let plan = pass(&observed);
    let grown: Vec<&Value> = plan
        .writes
        .iter()
        .filter(|write| write.reason == "VolumeGrown")
        .filter_map(|write| match &write.action {
            Action::Merge { patch, .. } => Some(&patch["spec"]["resources"]["requests"]["storage"]),
            _ => None,
        })
        .collect();
    assert_eq!(grown, ["2Gi", "2Gi"]);
    assert!(plan.status.unwrap().drift.is_empty(), "no pod is made anew for it");
    size(&mut observed, "512Mi");
    let plan = pass(&observed);
    assert!(plan.writes.iter().all(|write| write.reason != "VolumeGrown"));
    assert!(condition::is_true(&plan.status.unwrap().conditions, "VolumeShrinkRefused"));
}

#[test]
fn a_file_system_that_waits_for_a_restart_gets_one() {
    let mut observed = healthy(three_cells());
    let pod = members(&observed.shard)[1].clone();
    let claim = observed.claims.iter_mut().find(|claim| claim.name_any() == name::data_pvc(&pod)).unwrap();
    let waiting = |at: &str| {
        json!({ "status": { "conditions": [
            { "type": "FileSystemResizePending", "status": "True", "lastTransitionTime": at },
        ] } })
    };
    *claim = patched::<PersistentVolumeClaim>(claim, &waiting("2027-01-15T07:59:00Z"));
    let soon = weigh(&observed, &settings(), NOW).unwrap().verdict;
    assert_eq!(soon.row, Row::Idle, "the kubelet may do it yet");
    let claim = observed.claims.iter_mut().find(|claim| claim.name_any() == name::data_pvc(&pod)).unwrap();
    *claim = patched::<PersistentVolumeClaim>(claim, &waiting("2027-01-15T07:50:00Z"));
    assert_eq!(weigh(&observed, &settings(), NOW).unwrap().verdict.row, Row::Resize);
    with_pod(&mut observed, &pod, |pod| {
        pod.metadata.creation_timestamp = Some(Time("2027-01-15T07:51:00Z".parse().unwrap()));
    });
    let again = weigh(&observed, &settings(), NOW).unwrap().verdict;
    assert_eq!(again.row, Row::Idle, "a start since then did not help, and neither would another one");
}

#[test]
fn a_primary_that_was_lost_on_its_way_out_comes_back_unless_somebody_takes_over() {
    let mut shard = minimal();
    shard.spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(3);
    let mut observed = healthy(shard);
    elect(&mut observed, 2);
    record(&mut observed, 0).role = Role::Replica;
    let lost = members(&observed.shard)[2].clone();
    let id = record(&mut observed, 2).id.clone();
    let led = observed.clone();
    scale(&mut observed, 2);
    observed.pods.retain(|pod| pod.name_any() != lost);
    observed.statuses.remove(&id);
    let comes_back = |observed: &Observed| {
        let writes = weigh(observed, &settings(), NOW).unwrap().plan.writes;
        let pod = |action: &Action| matches!(action, Action::CreateOnce(object) if object.gvk.kind == "Pod" && object.name == lost);
        writes.iter().any(|write| pod(&write.action))
    };
    let for_seconds = |seconds| NOW - jiff::SignedDuration::from_secs(seconds);
    observed.bodiless.insert(id.clone(), for_seconds(59));
    assert!(!comes_back(&observed), "somebody may take over yet");
    assert_eq!(weigh(&observed, &settings(), NOW).unwrap().verdict.act, Some(Act::Hasten));
    observed.bodiless.insert(id.clone(), for_seconds(60));
    assert!(comes_back(&observed));

    let mut blind = observed.clone();
    blind.topology_away = Some("Unavailable");
    assert!(!comes_back(&blind), "somebody may have taken over");
    let mut without = observed.clone();
    without.claims.retain(|claim| claim.name_any() != name::data_pvc(&lost));
    assert!(!comes_back(&without), "an empty volume has nothing that anybody needs");
    observed.statuses = led.statuses;
    observed.statuses.remove(&id);
    elect(&mut observed, 0);
    assert!(!comes_back(&observed), "another one leads");
}

#[test]
fn nobody_is_evicted_while_somebody_is_chosen_and_broken_pods_always_may_be() {
    let mut observed = healthy(three_cells());
    elect(&mut observed, 0);
    let standbys = |observed: &Observed| {
        let writes = pass(observed).writes;
        let budget = writes.iter().find_map(|write| match &write.action {
            Action::Apply(object) if object.gvk.kind == "PodDisruptionBudget" && object.name.contains("standby") => {
                Some(object.value["spec"].clone())
            }
            _ => None,
        });
        budget.unwrap()
    };
    assert_eq!(standbys(&observed)["minAvailable"], 1);
    assert_eq!(standbys(&observed)["unhealthyPodEvictionPolicy"], "AlwaysAllow");
    let pod = members(&observed.shard)[1].clone();
    with_pod(&mut observed, &pod, |pod| {
        pod.metadata.annotations.get_or_insert_default().insert(annotation::DRAIN_STATE.into(), "requested".into());
    });
    assert_eq!(standbys(&observed)["minAvailable"], 2);
}
