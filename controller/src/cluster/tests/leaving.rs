use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use shared::{
    api::v1alpha1::{PoolSpec, Shard, ShardSpec},
    label,
    label::Component,
};

use super::*;
use crate::{
    cell::leaving::READY_FOR_DELETION,
    upstream::{Component as Process, PoolerId, Registration},
};

const TWO: &str = "
metadata: {name: two, namespace: prod}
spec:
  backup: {type: s3, s3: {bucket: b, region: r}}
  cells: [{name: a}, {name: b}]
";

/// A healthy cluster of two cells whose cell `b` has just left the spec.
fn removed() -> Observed {
    let before = healthy(TWO);
    let mut observed = healthy(&TWO.replace(", {name: b}", ""));
    observed.cells.clone_from(&before.cells);
    observed.topology = before.topology;
    observed
}

fn asked(observed: &mut Observed) {
    edit_cell(observed, |cell| {
        let asked = [(annotation::PENDING_DELETION.to_owned(), "2026-01-02T03:04:05Z".to_owned())];
        cell.metadata.annotations = Some(asked.into());
    });
}

fn ready(observed: &mut Observed, ready: bool) {
    edit_cell(observed, |cell| {
        let conditions = ConditionSet::continuing(&[], Some(1), now());
        let conditions = conditions.set(READY_FOR_DELETION, ready, "Test", "gateways stop");
        cell.status.as_mut().unwrap().conditions = conditions.finish();
    });
}

fn edit_cell(observed: &mut Observed, change: impl FnOnce(&mut Cell)) {
    let at = observed.cells.iter().position(|cell| cell.spec.name == "b").unwrap();
    edit(&mut observed.cells[at..], change);
}

/// The writes that concern the removed cell.
fn steps(observed: &Observed) -> Vec<String> {
    outline(&run(observed)).into_iter().filter(|line| !line.starts_with("apply")).collect()
}

fn condition(observed: &Observed) -> (String, String) {
    let status = run(observed).status.unwrap();
    assert_eq!(status.phase, Some(Phase::Progressing), "{:?}", status.message);
    let pending = find(&status.conditions, "CellRemovalPending").unwrap();
    assert_eq!(pending.status, "True");
    (pending.reason.clone(), pending.message.clone())
}

fn database_lists(observed: &Observed) -> Vec<String> {
    observed.wanted_records(observed.resolved.as_ref().unwrap(), now()).databases[0].cells.clone()
}

fn pod_in(cell: &str, component: Component) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some("pod-1".to_owned());
    pod.metadata.labels = Some(label_of(cell, component));
    pod
}

fn label_of(cell: &str, component: Component) -> shared::label::Labels {
    let shard = name::ShardId { cluster: "two", database: "postgres", table_group: "default", shard: "0-inf" };
    shared::label::of_shard_in_cell(shard, cell, component)
}

#[test]
fn a_removed_cell_is_asked_first_and_stays_registered() {
    let observed = removed();
    assert_eq!(steps(&observed), [format!("merge Cell prod/{}", name::cell("two", "b"))]);
    assert_eq!(database_lists(&observed), ["a", "b"]);
    assert_eq!(condition(&observed), ("Draining".to_owned(), "cell b: is asked to drain".to_owned()));
    let plan = run(&observed);
    assert_eq!(plan.notes.iter().map(|note| note.reason.as_str()).collect::<Vec<_>>(), ["PendingDeletion"]);
    assert!(is_true(&plan.status.unwrap().conditions, "Available"), "the rest of the cluster is judged on its own");
}

#[test]
fn a_cell_is_not_unregistered_before_it_is_drained() {
    let mut observed = removed();
    asked(&mut observed);
    assert!(steps(&observed).is_empty());
    ready(&mut observed, false);
    assert!(steps(&observed).is_empty());
    assert_eq!(condition(&observed).1, "cell b: gateways stop");
    assert_eq!(database_lists(&observed), ["a", "b"]);
}

#[test]
fn the_word_of_an_earlier_removal_does_not_count_while_something_is_left() {
    let mut observed = removed();
    asked(&mut observed);
    ready(&mut observed, true);
    observed.pods = vec![Arc::new(pod_in("a", Component::ShardPool)), Arc::new(pod_in("b", Component::Multiorch))];
    assert!(steps(&observed).is_empty());
    assert_eq!(condition(&observed).1, "cell b: still run there: pod pod-1");
    let mut gone = pod_in("b", Component::ShardPool);
    gone.metadata.deletion_timestamp = Some(Time(now() - jiff::SignedDuration::from_mins(2)));
    observed.pods = vec![Arc::new(gone)];
    assert!(!steps(&observed).is_empty(), "a pod on a node that is gone does not hold the cell for ever");

    observed.pods.clear();
    let pool = PoolSpec { cells: vec!["b".to_owned()], ..PoolSpec::default() };
    let spec = ShardSpec { pools: [("default".to_owned(), pool)].into(), ..ShardSpec::default() };
    observed.shards = vec![Arc::new(stored(Shard::new("shard-1", spec), 1))];
    assert!(steps(&observed).is_empty());
    assert_eq!(condition(&observed).1, "cell b: still plan pods there: shard shard-1");
}

#[test]
fn a_drained_cell_leaves_the_database_then_the_topology_and_is_deleted_last() {
    let mut observed = removed();
    asked(&mut observed);
    ready(&mut observed, true);
    observed.leftovers.poolers = vec![PoolerId::new("b", "p-1"), PoolerId::new("a", "p-2")];
    assert_eq!(database_lists(&observed), ["a"]);
    assert_eq!(steps(&observed).len(), 1);
    assert!(steps(&observed)[0].starts_with("topology PutDatabase"));
    assert_eq!(condition(&observed).1, "cell b: is drained and still listed by database postgres");

    let Sight::Seen { cells, .. } = observed.topology.clone() else { panic!("not seen") };
    let (settled, _) = repository::settle(&observed, observed.resolved.as_ref().unwrap());
    let wanted = observed.wanted_records(&settled, now());
    observed.topology = seen(&cells.records, &wanted.databases);
    assert_eq!(
        steps(&observed),
        [
            "topology DeletePooler(PoolerId { cell: \"b\", name: \"p-1\" })".to_owned(),
            "topology DeleteCell(\"b\")".to_owned()
        ]
    );
    assert_eq!(condition(&observed).0, "Unregistering");
    // Poolers of another cluster need the record of the cell, too.
    let mut contested = observed.clone();
    contested.leftovers.strangers = true;
    assert_eq!(steps(&contested), [format!("delete Cell prod/{}", name::cell("two", "b"))]);

    observed.topology = seen(&wanted.cells, &wanted.databases);
    observed.leftovers.poolers.clear();
    assert_eq!(steps(&observed), [format!("delete Cell prod/{}", name::cell("two", "b"))]);
    edit_cell(&mut observed, |cell| cell.metadata.deletion_timestamp = Some(Time(now())));
    assert!(steps(&observed).is_empty());
    assert_eq!(condition(&observed).0, "Deleting");

    observed.cells.retain(|cell| cell.spec.name == "a");
    let status = run(&observed).status.unwrap();
    assert_eq!(status.phase, Some(Phase::Healthy), "{:?}", status.message);
    assert!(find(&status.conditions, "CellRemovalPending").is_none());
}

#[test]
fn a_topology_that_does_not_answer_delays_the_removal_alone() {
    let mut observed = removed();
    asked(&mut observed);
    ready(&mut observed, true);
    observed.topology = Sight::Failed { reason: "Unavailable".into(), message: "refused".into() };
    assert!(steps(&observed).is_empty());
    let status = run(&observed).status.unwrap();
    let pending = find(&status.conditions, "CellRemovalPending").unwrap();
    assert_eq!(pending.reason, "TopologyNotAnswering");
    assert!(is_true(&status.conditions, "Available"));
}

#[test]
fn without_pruning_the_records_stay() {
    let mut observed = removed();
    asked(&mut observed);
    ready(&mut observed, true);
    let mut resolved = (**observed.resolved.as_ref().unwrap()).clone();
    resolved.topology_pruning = false;
    observed.resolved = Ok(Box::new(resolved));
    let steps = steps(&observed);
    assert!(!steps.iter().any(|line| line.contains("DeleteCell")), "{steps:?}");
    assert!(steps.contains(&format!("delete Cell prod/{}", name::cell("two", "b"))));
}

#[test]
fn a_cell_that_comes_back_stays_and_one_that_is_being_deleted_comes_after_itself() {
    let mut observed = healthy(TWO);
    asked(&mut observed);
    let plan = run(&observed);
    let Some(Action::Merge { patch, .. }) =
        plan.writes.iter().map(|write| &write.action).find(|action| matches!(action, Action::Merge { .. }))
    else {
        panic!("no merge")
    };
    assert_eq!(*patch, json!({"metadata": {"annotations": {annotation::PENDING_DELETION: null}}}));
    let apply = format!("apply Cell prod/{}", name::cell("two", "b"));
    assert!(outline(&plan).contains(&apply));
    assert!(!outline(&plan).iter().any(|line| line.starts_with("delete")));

    edit_cell(&mut observed, |cell| cell.metadata.deletion_timestamp = Some(Time(now())));
    let plan = run(&observed);
    assert!(!outline(&plan).contains(&apply) && !outline(&plan).iter().any(|line| line.starts_with("merge")));
    assert_ne!(plan.status.unwrap().phase, Some(Phase::Healthy));
}

#[test]
fn records_of_nobody_are_pruned_from_the_clusters_own_topology_alone() {
    let stray = |yaml: &str| {
        let mut observed = healthy(yaml);
        let Sight::Seen { cells, databases } = observed.topology.clone() else { panic!("not seen") };
        let mut stray = cells.records[0].clone();
        stray.name = "stray".to_owned();
        let mut foreign = databases.records[0].clone();
        foreign.name = "foreign".to_owned();
        observed.topology = seen(&[cells.records, vec![stray]].concat(), &[databases.records, vec![foreign]].concat());
        steps(&observed)
    };
    assert_eq!(stray(TWO), ["topology DeleteDatabase(\"foreign\")", "topology DeleteCell(\"stray\")"]);
    assert!(stray(EXTERNAL).is_empty());
}

fn registration(component: Process, name: &str, hostname: &str) -> Registration {
    let (name, hostname) = (name.to_owned(), hostname.to_owned());
    Registration { component, cell: "zone-a".to_owned(), name, hostname, ports: BTreeMap::new() }
}

fn gateway_at(ip: Option<&str>) -> Arc<Pod> {
    let mut pod = Pod::default();
    pod.metadata.labels = Some(label::of_gateway("minimal", "zone-a", None, None));
    pod.status.get_or_insert_default().pod_ip = ip.map(str::to_owned);
    Arc::new(pod)
}

/// The records that a plan removes because nobody is behind them any more.
fn left_behind(observed: &Observed) -> Vec<String> {
    let of = |write: crate::plan::Write| match write.action {
        Action::Sequence(steps) => match steps.as_slice() {
            [
                Action::RequireNoPodAt { namespace, selector, address },
                Action::Topology { write: crate::plan::TopoWrite::DeleteRegistration(seen), .. },
            ] => {
                assert_eq!((namespace.as_str(), address), ("prod", &seen.hostname));
                assert_eq!(selector.get(label::INSTANCE).map(String::as_str), Some("minimal"));
                Some(seen.name.clone())
            }
            _ => None,
        },
        _ => None,
    };
    run(observed).writes.into_iter().filter_map(of).collect()
}

#[test]
fn records_of_crashed_gateways_go_once_no_pod_can_have_written_them() {
    let mut observed = healthy(MINIMAL);
    observed.registrations = vec![
        registration(Process::Gateway, "alive", "10.0.0.1"),
        registration(Process::Gateway, "crashed", "10.0.0.2"),
        registration(Process::Orch, "orchestrator", "10.0.0.1"),
        Registration { cell: "of-others".to_owned(), ..registration(Process::Gateway, "theirs", "10.0.0.3") },
        registration(Process::Gateway, "named", "some-host"),
    ];
    observed.pods = vec![gateway_at(Some("10.0.0.1"))];
    assert_eq!(
        left_behind(&observed),
        ["crashed", "orchestrator"],
        "a gateway at an address makes no orchestrator live"
    );
    let mut contested = observed.clone();
    contested.leftovers.strangers = true;
    assert!(left_behind(&contested).is_empty(), "they may be of another cluster");
    observed.pods.push(gateway_at(None));
    assert_eq!(left_behind(&observed), ["orchestrator"], "one that starts may have written any of them");
    observed.topology = Sight::Failed { reason: "Unavailable".into(), message: "refused".into() };
    assert!(left_behind(&observed).is_empty());
}
