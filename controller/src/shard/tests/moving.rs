//! Members that move: to volumes of another class, and out of pools and cells that left the spec. What is kept, and what goes along.

use std::{collections::BTreeSet, sync::Arc};

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use serde_json::json;
use shared::{
    annotation,
    api::v1alpha1::{Phase, PoolSpec},
    condition, label, name,
    validate::StorageClasses,
};

use super::{
    change::{Step, act, keep, left_over, orphan, policy, primary_of, removed},
    fixture::*,
};
use crate::{
    plan::Action,
    shard::{Observed, disruption::Act, rendering::Renderings, scope::Scope, weigh},
    upstream::{PoolerId, Role},
};

fn id_of(observed: &Observed, pod: &str) -> PoolerId {
    let name = name::pooler_service_id(pod);
    observed.topology.poolers().find(|record| record.id.name == name).unwrap().id.clone()
}

/// Poolers of new pods register and stream at once.
fn admit(observed: &mut Observed) {
    let registered: BTreeSet<String> = observed.topology.poolers().map(|record| record.id.name.clone()).collect();
    let new: Vec<(String, String)> = observed
        .pods
        .iter()
        .filter(|pod| !registered.contains(&name::pooler_service_id(&pod.name_any())))
        .map(|pod| (pod.name_any(), pod.labels()[label::CELL].clone()))
        .collect();
    for (pod, cell) in &new {
        enlist(observed, pod, cell);
    }
    if !new.is_empty() {
        let leader = primary_of(observed);
        let leader = id_of(observed, &leader);
        lead(observed, &leader);
    }
}

fn carry_out_one(observed: &mut Observed, action: Action, steps: &mut Vec<Step>) {
    match action {
        Action::Sequence(actions) => actions.into_iter().for_each(|action| carry_out_one(observed, action, steps)),
        Action::HandOver { standbys, .. } => {
            steps.push(Step::Switchover);
            let next = standbys[0].host.split('.').next().unwrap().to_owned();
            let (old, next) = (primary_of(observed), id_of(observed, &next));
            let old = id_of(observed, &old);
            let mut records = observed.topology.cells.values_mut().flat_map(|cell| cell.as_mut().unwrap());
            records.find(|record| record.id == old).unwrap().role = Role::Replica;
            lead(observed, &next);
        }
        Action::Remove { target, .. } => {
            steps.push(Step::Removed(target.key.name.clone()));
            observed.pods.retain(|pod| pod.name_any() != target.key.name);
            let id = name::pooler_service_id(&target.key.name);
            for cell in observed.topology.cells.values_mut() {
                cell.as_mut().unwrap().retain(|record| record.id.name != id);
            }
        }
        other => act(observed, other, steps),
    }
}

/// Passes until nothing is pending; returns what happened, and the fewest pods that there were.
fn live_through(observed: &mut Observed) -> (Vec<Step>, usize) {
    let (mut steps, mut fewest) = (Vec::new(), usize::MAX);
    for _ in 0..200 {
        let decision = weigh(observed, &settings(), NOW).unwrap();
        if !decision.verdict.pending {
            return (steps, fewest);
        }
        let (pods, claims) = (observed.pods.clone(), observed.claims.clone());
        carry_out(observed);
        keep(&mut observed.pods, pods);
        keep(&mut observed.claims, claims);
        admit(observed);
        for write in decision.plan.writes {
            carry_out_one(observed, write.action, &mut steps);
        }
        fewest = fewest.min(observed.pods.len());
    }
    panic!("not settled: {:?}", weigh(observed, &settings(), NOW).unwrap().verdict);
}

fn class(observed: &mut Observed, class: &str) {
    let pool = Arc::make_mut(&mut observed.shard).spec.pools.get_mut("default").unwrap();
    pool.storage.as_mut().unwrap().class = Some(class.to_owned());
}

fn classes(observed: &mut Observed, names: &[&str]) {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    observed.classes = Some(Arc::new(StorageClasses { names, has_default: true }));
}

fn in_use(observed: &Observed) -> Vec<(String, Option<String>)> {
    let class = |pod: &str| {
        let claim = observed.claims.iter().find(|claim| claim.name_any() == name::data_pvc(pod)).unwrap();
        claim.spec.as_ref().unwrap().storage_class_name.clone()
    };
    let mut all: Vec<_> = observed.pods.iter().map(|pod| (pod.name_any(), class(&pod.name_any()))).collect();
    all.sort();
    all
}

#[test]
fn a_shard_moves_to_another_class_member_by_member_and_the_primary_last() {
    let mut observed = healthy(three_cells());
    let before: Vec<String> = members(&observed.shard);
    let first = primary_of(&observed);
    class(&mut observed, "fast");
    classes(&mut observed, &["gp3", "fast"]);
    let (steps, fewest) = live_through(&mut observed);
    assert_eq!(removed(&steps).len(), 3, "{steps:?}");
    assert_eq!((removed(&steps).last(), fewest), (Some(&first), 3), "whoever takes a place comes first");
    assert_eq!(steps.iter().filter(|step| **step == Step::Switchover).count(), 1);
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::LeftCohort(_))).count(), 3);
    assert!(in_use(&observed).iter().all(|(pod, class)| class.as_deref() == Some("fast") && !before.contains(pod)));
    let data = observed.claims.iter().filter(|claim| claim.labels().contains_key(label::POOL));
    assert_eq!(data.count(), 6, "the old volumes are up to whenScaled");
    // Deleting an old volume moves nobody.
    let now = in_use(&observed);
    observed.claims.retain(|claim| !claim.annotations().contains_key(annotation::REPLACED_AT));
    assert!(!weigh(&observed, &settings(), NOW).unwrap().verdict.pending);
    live_through(&mut observed);
    assert_eq!(in_use(&observed), now);
}

#[test]
fn a_class_that_is_not_there_is_named_and_no_volume_is_asked_for() {
    let mut observed = healthy(three_cells());
    class(&mut observed, "fsat");
    classes(&mut observed, &["gp3", "fast"]);
    let plan = pass(&observed);
    assert_eq!(written(&plan, "Pod").len(), 3);
    assert!(plan.writes.iter().all(|write| write.reason != "VolumeReplaced"));
    let conditions = plan.status.unwrap().conditions;
    let blocked = condition::find(&conditions, "DisruptionBlocked").unwrap();
    assert_eq!(blocked.reason, "StorageClassMissing");
    assert!(blocked.message.contains("fsat"), "{}", blocked.message);
    remember(&mut observed);
    assert_eq!(status(&observed).conditions, conditions, "it is said once");
}

#[test]
fn a_change_of_class_that_is_taken_back_leaves_the_member_where_it_was() {
    let mut observed = healthy(three_cells());
    let before = in_use(&observed);
    class(&mut observed, "fast");
    let decision = weigh(&observed, &settings(), NOW).unwrap();
    assert!(matches!(decision.verdict.act, Some(Act::ReplaceVolume { .. })), "{:?}", decision.verdict);
    for write in decision.plan.writes {
        carry_out_one(&mut observed, write.action, &mut Vec::new());
    }
    assert_eq!(written(&pass(&observed), "Pod").len(), 3, "one of them is new");
    class(&mut observed, "gp3");
    assert!(pass(&observed).writes.iter().any(|write| write.reason == "VolumeWanted"));
    live_through(&mut observed);
    assert_eq!(in_use(&observed), before);
}

#[test]
fn what_another_operator_has_made_stays_on_its_volume() {
    let mut observed = healthy(three_cells());
    for pod in members(&observed.shard) {
        with_pod(&mut observed, &pod, |pod| {
            pod.metadata.annotations.as_mut().unwrap().insert(annotation::SPEC_HASH.into(), "0badcafe".into());
        });
    }
    class(&mut observed, "fast");
    let plan = pass(&observed);
    assert!(plan.writes.iter().all(|write| write.reason != "VolumeReplaced"));
    let status = plan.status.unwrap();
    assert!(condition::find(&status.conditions, "ChangeHasNoEffect").unwrap().message.contains("class"));
}

#[test]
fn volumes_that_wait_for_their_removal_go_with_the_shard_if_it_is_to_delete_them() {
    let owners = |observed: &Observed, name: &str| {
        let claim = observed.claims.iter().find(|claim| claim.name_any() == name).unwrap();
        claim.owner_references().len()
    };
    let follow = |observed: &mut Observed| {
        for _ in 0..2 {
            let merges = pass(observed).writes.into_iter().map(|write| write.action);
            let merges: Vec<Action> = merges
                .filter(|action| matches!(action, Action::Merge { target, .. } if target.key.kind == "PersistentVolumeClaim"))
                .collect();
            for action in merges {
                act(observed, action, &mut Vec::new());
            }
        }
    };
    for (mut observed, claim) in [left_over(), set_aside()] {
        policy(&mut observed, "Delete");
        follow(&mut observed);
        assert_eq!(owners(&observed, &claim), 0, "whenDeleted is Retain");
        let both = serde_json::from_value(json!({ "whenScaled": "Delete", "whenDeleted": "Delete" })).unwrap();
        Arc::make_mut(&mut observed.shard).spec.pvc_deletion_policy = Some(both);
        follow(&mut observed);
        assert_eq!(owners(&observed, &claim), 1, "{claim}");
        orphan(&mut observed, &claim, 1);
        policy(&mut observed, "Delete");
        follow(&mut observed);
        assert_eq!(owners(&observed, &claim), 0, "what is to be retained has no owner");
    }
}

/// A shard with a volume that was set aside, because the pooler on it had given up.
fn set_aside() -> (Observed, String) {
    let mut observed = healthy(minimal());
    let pod = members(&observed.shard)[1].clone();
    let claim = name::data_pvc(&pod);
    let live = observed.claims.iter_mut().find(|live| live.name_any() == claim).unwrap();
    let at = (annotation::QUARANTINED_AT.to_owned(), "2027-01-15T07:00:00Z".to_owned());
    Arc::make_mut(live).metadata.annotations.get_or_insert_default().extend([at]);
    observed.pods.retain(|other| other.name_any() != pod);
    (observed, claim)
}

/// A shard of two members in pool `default` and two in pool `other`, in two cells. The last of `other` leads.
fn two_pools() -> (Observed, String) {
    let mut shard = minimal();
    let default = shard.spec.pools["default"].clone();
    let other = PoolSpec { cells: vec!["zone-a".into(), "zone-b".into()], replicas_per_cell: Some(1), ..default };
    shard.spec.pools.insert("other".into(), other);
    let mut observed = healthy(shard);
    elect(&mut observed, 3);
    record(&mut observed, 0).role = Role::Replica;
    let leader = members(&observed.shard)[3].clone();
    assert_eq!(primary_of(&observed), leader);
    (observed, leader)
}

fn without_pool(observed: &mut Observed) {
    Arc::make_mut(&mut observed.shard).spec.pools.remove("other");
}

fn without_cell(observed: &mut Observed) {
    Arc::make_mut(&mut observed.shard).spec.pools.get_mut("other").unwrap().cells = vec!["zone-a".into()];
}

#[rstest::rstest]
#[case::pool(without_pool, 2)]
#[case::cell(without_cell, 1)]
fn a_primary_of_a_pool_or_cell_that_left_the_spec_hands_over_and_leaves_in_order(
    #[case] change: fn(&mut Observed),
    #[case] gone: usize,
) {
    let (mut observed, leader) = two_pools();
    change(&mut observed);
    let (steps, _) = live_through(&mut observed);
    assert_eq!(removed(&steps).len(), gone, "{steps:?}");
    assert_eq!(removed(&steps).last(), Some(&leader));
    let of_leader: Vec<&Step> = steps.iter().skip_while(|step| **step != Step::Request(leader.clone())).collect();
    assert_eq!(
        of_leader,
        [
            &Step::Request(leader.clone()),
            &Step::Switchover,
            &Step::LeftCohort(leader.clone()),
            &Step::Removed(leader.clone())
        ]
    );
}

#[rstest::rstest]
#[case::pool(without_pool)]
#[case::cell(without_cell)]
fn a_primary_that_is_lost_while_its_pool_or_cell_leaves_comes_back_to_hand_over(#[case] change: fn(&mut Observed)) {
    let (mut observed, leader) = two_pools();
    change(&mut observed);
    // A pass writes the settings, and with them what the pods of the pool were made from.
    let before = observed.clone();
    carry_out(&mut observed);
    observed = Observed { applied_config: observed.applied_config, ..before };
    let id = id_of(&observed, &leader);
    observed.pods.retain(|pod| pod.name_any() != leader);
    observed.statuses.remove(&id);
    observed.bodiless.insert(id.clone(), NOW - SignedDuration::from_secs(59));
    let plan = pass(&observed);
    assert!(!written(&plan, "Pod").contains(&leader), "somebody may take over yet");
    assert!(plan.status.unwrap().cells.contains(&"zone-b".to_owned()), "its cell has to stay until then");
    observed.bodiless.insert(id, NOW - SignedDuration::from_secs(60));
    let plan = pass(&observed);
    assert!(written(&plan, "Pod").contains(&leader));
    let made: Vec<_> = plan
        .writes
        .iter()
        .filter_map(|write| match &write.action {
            Action::CreateOnce(object) if object.name == leader => Some(&object.value),
            _ => None,
        })
        .collect();
    let subdomain = made[0]["spec"]["subdomain"].as_str().unwrap().to_owned();
    assert!(written(&plan, "Service").contains(&subdomain), "others find it by its address");
    assert!(!deletions(&plan).contains(&format!("Service/{subdomain}")));
}

#[test]
fn renderings_of_what_has_left_go_when_nothing_is_made_from_them() {
    let (mut observed, leader) = two_pools();
    let known = |observed: &Observed| {
        let scope = Scope::of(&observed.shard).unwrap();
        let pool = scope.member_of("other", "zone-b", &leader).unwrap().pool;
        Renderings::of(&scope, observed, &settings(), None, None).unwrap().knows(pool)
    };
    without_pool(&mut observed);
    assert!(known(&observed), "its pods are still there");
    let wanted = members(&observed.shard);
    observed.pods.retain(|pod| wanted.contains(&pod.name_any()));
    assert!(!known(&observed));
}

/// Remembers the status, with a condition that has been there for long.
fn since_long(observed: &mut Observed, condition: &str) {
    remember(observed);
    let conditions = &mut Arc::make_mut(&mut observed.shard).status.as_mut().unwrap().conditions;
    let found = conditions.iter_mut().find(|found| found.type_ == condition).unwrap();
    found.last_transition_time = Time(NOW - SignedDuration::from_mins(3));
}

#[test]
fn members_on_volumes_that_somebody_has_deleted_move_to_new_ones_and_the_primary_last() {
    let mut observed = healthy(three_cells());
    let first = primary_of(&observed);
    for claim in &mut observed.claims {
        Arc::make_mut(claim).metadata.deletion_timestamp = Some(Time(NOW));
    }
    let found = status(&observed);
    let lost = condition::find(&found.conditions, "VolumeLost").unwrap();
    assert_eq!((lost.reason.as_str(), found.phase), ("Terminating", Some(Phase::Progressing)));
    assert_eq!(weigh(&observed, &settings(), NOW).unwrap().verdict.act, None, "not at once");
    since_long(&mut observed, "VolumeLost");
    let (steps, fewest) = live_through(&mut observed);
    assert_eq!((removed(&steps).len(), removed(&steps).last(), fewest), (3, Some(&first), 3), "{steps:?}");
    let used: BTreeSet<String> = observed.pods.iter().map(|pod| name::data_pvc(&pod.name_any())).collect();
    let kept = observed.claims.iter().filter(|claim| claim.metadata.deletion_timestamp.is_none());
    assert_eq!(kept.map(|claim| claim.name_any()).collect::<BTreeSet<_>>(), used);
}

#[test]
fn a_member_that_still_runs_on_a_lost_volume_moves_and_does_not_get_it_back() {
    let mut observed = healthy(three_cells());
    let pod = members(&observed.shard)[1].clone();
    let claim = observed.claims.iter_mut().find(|claim| claim.name_any() == name::data_pvc(&pod)).unwrap();
    Arc::make_mut(claim).status = serde_json::from_value(json!({ "phase": "Lost" })).unwrap();
    let found = status(&observed);
    let lost = condition::find(&found.conditions, "VolumeLost").unwrap();
    assert_eq!((lost.reason.as_str(), found.phase), ("Lost", Some(Phase::Degraded)));
    assert!(lost.message.contains(&pod), "{}", lost.message);
    since_long(&mut observed, "VolumeLost");
    let (steps, fewest) = live_through(&mut observed);
    assert_eq!((removed(&steps), fewest), (vec![pod], 3));
    assert!(!condition::is_true(&status(&observed).conditions, "VolumeLost"));
}

#[test]
fn a_claim_that_goes_without_its_pod_is_no_loss() {
    let mut observed = healthy(three_cells());
    let gone = observed.pods.remove(1).name_any();
    let claim = observed.claims.iter_mut().find(|claim| claim.name_any() == name::data_pvc(&gone)).unwrap();
    Arc::make_mut(claim).metadata.deletion_timestamp = Some(Time(NOW));
    assert!(!condition::is_true(&status(&observed).conditions, "VolumeLost"), "it is made anew");
}
