use shared::{
    api::v1alpha1::{Phase, PoolSpec, ShardResolvedSpec, ShardStatus, TableGroupSpec},
    condition::{find, is_true},
};

use super::*;
use crate::workload::fixture::{applied, assert_owned, now, outline, stored, writes};

fn observed(shards: &[&str]) -> Observed {
    let shard = |name: &&str| ShardResolvedSpec {
        name: (*name).to_owned(),
        pools: [(
            "default".to_owned(),
            PoolSpec { cells: vec!["a".into(), "b".into()], replicas_per_cell: Some(2), ..PoolSpec::default() },
        )]
        .into(),
        ..ShardResolvedSpec::default()
    };
    let spec = TableGroupSpec {
        database_name: "postgres".into(),
        table_group_name: "default".into(),
        shards: shards.iter().map(shard).collect(),
        ..TableGroupSpec::default()
    };
    let mut group = TableGroup::new(&name::table_group("minimal", "postgres", "default"), spec);
    group.metadata.labels = Some(label::of_table_group("minimal", "postgres", "default"));
    group.metadata.annotations = Some([(annotation::PROJECT_REF.to_owned(), "proj-42".to_owned())].into());
    let group = stored(group, 1);
    Observed {
        owner: Owner::of(&group).unwrap(),
        cluster: "minimal".to_owned(),
        shards: Vec::new(),
        group: Arc::new(group),
    }
}

fn run(observed: &Observed) -> Plan<TableGroupStatus> {
    decide(observed, now()).unwrap()
}

fn live(observed: &Observed, shard: &str, phase: Phase, current: bool) -> Arc<Shard> {
    let id = ShardId { cluster: "minimal", database: "postgres", table_group: "default", shard };
    let mut live: Shard = applied(&run(observed), &name::shard(id)).unwrap();
    live.status = Some(ShardStatus {
        observed_generation: Some(i64::from(current)),
        phase: Some(phase),
        message: Some("because".into()),
        ..ShardStatus::default()
    });
    Arc::new(live)
}

#[test]
fn a_group_of_one_shard() {
    let observed = observed(&["0-inf"]);
    let plan = run(&observed);
    assert_owned(&plan, "minimal", &observed.owner.uid);
    assert_eq!(outline(&plan), ["apply Shard prod/minimal-postgres-default-0-inf-1e3c045c"]);
    insta::assert_yaml_snapshot!(writes(&plan));
}

#[test]
fn phases_are_summed_up_and_stale_shards_do_not_count() {
    let cases = [
        (Phase::Healthy, true, Phase::Healthy, true, "ShardsReady", 1),
        (Phase::Healthy, false, Phase::Progressing, false, "ShardsNotReady", 0),
        (Phase::Progressing, true, Phase::Progressing, false, "ShardsNotReady", 0),
        (Phase::Degraded, true, Phase::Degraded, false, "ShardDegraded", 0),
        (Phase::Degraded, false, Phase::Progressing, false, "ShardsNotReady", 0),
    ];
    for (shard, current, phase, available, reason, ready) in cases {
        let mut observed = observed(&["0-inf"]);
        observed.shards = vec![live(&observed, "0-inf", shard, current)];
        let status = run(&observed).status.unwrap();
        assert_eq!((status.phase, status.ready_shards, status.total_shards), (Some(phase), ready, 1));
        assert_eq!(is_true(&status.conditions, "Available"), available);
        assert_eq!(find(&status.conditions, "Available").map(|c| c.reason.as_str()), Some(reason));
    }
}

#[test]
fn a_group_waits_for_all_of_its_shards_without_counting_along() {
    let mut observed = observed(&["a", "b"]);
    let none = run(&observed).status.unwrap();
    observed.shards = vec![live(&observed, "a", Phase::Healthy, true)];
    let one = run(&observed).status.unwrap();
    assert_eq!((one.phase, one.ready_shards), (Some(Phase::Progressing), 1));
    assert_eq!((none.message, none.conditions), (one.message, one.conditions));
}

#[test]
fn the_shard_that_a_group_waits_for_is_named_after_a_while() {
    let mut observed = observed(&["a", "b"]);
    observed.shards = vec![live(&observed, "a", Phase::Healthy, true), live(&observed, "b", Phase::Progressing, true)];
    let first = run(&observed);
    assert_eq!(first.requeue, crate::plan::Requeue::After(std::time::Duration::from_mins(2)));
    let status = first.status.unwrap();
    assert_eq!(status.message.as_deref(), Some("shards are progressing"));
    Arc::make_mut(&mut observed.group).status = Some(status.clone());
    let later =
        |observed: &Observed, minutes| decide(observed, now() + jiff::SignedDuration::from_mins(minutes)).unwrap();
    assert_eq!(later(&observed, 1).status, Some(status), "a start costs no further write");
    let told = later(&observed, 2);
    assert_eq!(told.requeue, crate::plan::Requeue::Settled);
    assert_eq!(told.status.unwrap().message.as_deref(), Some("shard b: because"));
    observed.shards.pop();
    let told = later(&observed, 2).status.unwrap();
    assert_eq!(told.message.as_deref(), Some("shard b: says nothing about its current spec yet"));
}

#[test]
fn a_group_without_shards_is_not_available() {
    let status = run(&observed(&[])).status.unwrap();
    assert_eq!((status.phase, is_true(&status.conditions, "Available")), (Some(Phase::Initializing), false));
}

#[test]
fn a_shard_on_its_way_out_is_neither_updated_nor_replaced() {
    let mut observed = observed(&["0-inf"]);
    let mut leaving = (*live(&observed, "0-inf", Phase::Healthy, true)).clone();
    leaving.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    observed.shards = vec![Arc::new(leaving)];
    let plan = run(&observed);
    assert!(plan.writes.is_empty());
    let status = plan.status.unwrap();
    assert_eq!(find(&status.conditions, "Available").map(|c| c.reason.as_str()), Some("CleanupPending"));
}

/// Two shards, of which the second has left the spec.
fn one_of_two() -> Observed {
    let both = observed(&["a", "b"]);
    let mut one = observed(&["a"]);
    let there = |shard: &str| Arc::new(stored((*live(&both, shard, Phase::Healthy, true)).clone(), 1));
    one.shards = vec![there("a"), there("b")];
    one
}

fn ask(shard: &mut Arc<Shard>, ready: bool) {
    let shard = Arc::make_mut(shard);
    let asked = (annotation::PENDING_DELETION.to_owned(), "2026-01-02T03:04:05Z".to_owned());
    shard.metadata.annotations.get_or_insert_default().extend([asked]);
    let conditions = shared::condition::ConditionSet::continuing(&[], Some(1), now());
    shard.status.as_mut().unwrap().conditions = conditions.set("ReadyForDeletion", ready, "Test", "pods stop").finish();
}

fn about(observed: &Observed, shard: &str) -> Vec<String> {
    let of = format!("-default-{shard}-");
    let steps = |line: &String| line.contains(&of) && !line.starts_with("apply");
    outline(&run(observed)).into_iter().filter(steps).collect()
}

#[test]
fn a_shard_that_left_the_spec_is_asked_and_deleted_once_nothing_of_it_is_left() {
    let mut observed = one_of_two();
    let plan = run(&observed);
    let asks = about(&observed, "b");
    assert!(asks.len() == 1 && asks[0].starts_with("merge Shard"), "{asks:?}");
    assert_eq!((plan.notes.len(), plan.notes[0].reason.as_str()), (1, "PendingDeletion"));
    assert!(is_true(&plan.status.unwrap().conditions, "ShardRemovalPending"));
    ask(&mut observed.shards[1], false);
    assert!(about(&observed, "b").is_empty());
    let status = run(&observed).status.unwrap();
    assert_eq!(find(&status.conditions, "ShardRemovalPending").unwrap().message, "b: pods stop");
    ask(&mut observed.shards[1], true);
    let gone = about(&observed, "b");
    assert!(gone.len() == 1 && gone[0].starts_with("delete Shard"), "{gone:?}");
    assert!(about(&observed, "a").is_empty());
}

#[test]
fn a_shard_that_is_wanted_again_is_called_back() {
    let mut observed = one_of_two();
    ask(&mut observed.shards[0], true);
    let back = about(&observed, "a");
    assert!(back.len() == 1 && back[0].starts_with("merge Shard"), "{back:?}");
    assert!(run(&observed).notes.iter().any(|note| note.reason == "RemovalCalledOff"));
}

#[test]
fn a_group_that_leaves_takes_all_of_its_shards_along() {
    let mut observed = one_of_two();
    let group = Arc::make_mut(&mut observed.group);
    group.metadata.annotations.get_or_insert_default().insert(annotation::PENDING_DELETION.into(), "now".into());
    assert_eq!((about(&observed, "a").len(), about(&observed, "b").len()), (1, 1));
    assert!(!outline(&run(&observed)).iter().any(|line| line.starts_with("apply")));
    let ready = |observed: &Observed| is_true(&run(observed).status.unwrap().conditions, "ReadyForDeletion");
    assert!(!ready(&observed));
    observed.shards.clear();
    assert!(ready(&observed));
}

#[test]
fn status_is_a_fixed_point() {
    let mut observed = observed(&["0-inf"]);
    observed.shards = vec![live(&observed, "0-inf", Phase::Healthy, true)];
    let first = run(&observed);
    assert_eq!(first, run(&observed));
    let mut group = (*observed.group).clone();
    group.status.clone_from(&first.status);
    observed.group = Arc::new(group);
    let later = now() + jiff::SignedDuration::from_mins(5);
    assert_eq!(decide(&observed, later).unwrap().status, first.status);
}

#[test]
fn a_change_of_the_phase_is_told_once() {
    use crate::runner::Kind as _;
    let mut observed = observed(&["0-inf"]);
    observed.shards = vec![live(&observed, "0-inf", Phase::Healthy, true)];
    let change = |observed: &Observed| observed.group.phase_change(&run(observed).status.unwrap());
    assert!(change(&observed).is_some_and(|note| !note.warning));
    let status = run(&observed).status;
    Arc::make_mut(&mut observed.group).status = status;
    assert_eq!(change(&observed), None);
    observed.shards = vec![live(&observed, "0-inf", Phase::Degraded, true)];
    assert!(change(&observed).is_some_and(|note| note.warning));
}
