//! Records of poolers without a pod.

use std::sync::Arc;

use jiff::SignedDuration;
use shared::api::v1alpha1::TopologyPruningConfig;

use super::fixture::{NOW, elect, healthy, minimal, pass, record, remember, three_cells};
use crate::{
    plan::{Action, TopoWrite},
    shard::Observed,
    upstream::{Lifecycle, LifecycleMark, PoolerId, PoolerRecord, Role},
};

/// A shard in which everything works, and a record that nothing stands behind.
fn haunted() -> (Observed, PoolerId) {
    let mut observed = healthy(minimal());
    let ghost = PoolerRecord {
        id: PoolerId::new("zone-a", "p-0badcafe"),
        hostname: "gone-pod-9.headless.prod.svc.cluster.local".to_owned(),
        role: Role::Replica,
        rule: None,
        ..record(&mut observed, 1).clone()
    };
    let id = ghost.id.clone();
    observed.topology.cells.get_mut("zone-a").unwrap().as_mut().unwrap().push(ghost);
    lonely(&mut observed, &id, 30);
    (observed, id)
}

/// Nobody has seen a pod of it for so long.
fn lonely(observed: &mut Observed, id: &PoolerId, seconds: i64) {
    observed.bodiless.insert(id.clone(), NOW - SignedDuration::from_secs(seconds));
}

fn marked(observed: &Observed) -> Vec<(PoolerId, LifecycleMark)> {
    let writes = pass(observed).writes.into_iter();
    let mark = |action| match action {
        Action::Sequence(actions) => match <[Action; 2]>::try_from(actions) {
            Ok([Action::RequireAbsent { pod }, Action::Topology { write: TopoWrite::MarkPooler(id, mark), .. }]) => {
                assert_eq!((pod.kind.as_str(), pod.namespace.as_deref()), ("Pod", Some("prod")));
                Some((id, mark))
            }
            _ => None,
        },
        _ => None,
    };
    writes.filter_map(|write| mark(write.action)).collect()
}

#[test]
fn a_record_without_a_pod_is_marked_as_shut_down() {
    let (mut observed, ghost) = haunted();
    let plan = pass(&observed);
    assert!(plan.notes.iter().any(|note| note.reason == "DeadPoolersMarked"));
    let [(id, mark)] = &marked(&observed)[..] else { panic!("not exactly one") };
    assert_eq!((id, mark.state, mark.updated), (&ghost, Lifecycle::Shutdown, Some(NOW)));
    assert!(plan.writes.iter().any(|write| {
        let Action::Sequence(actions) = &write.action else { return false };
        matches!(&actions[1], Action::Topology { at, .. } if at.root == "/multigres/global" && !at.endpoints.is_empty())
    }));

    let records = observed.topology.cells.get_mut("zone-a").unwrap().as_mut().unwrap();
    records.last_mut().unwrap().lifecycle.state = Lifecycle::Shutdown;
    assert!(marked(&observed).is_empty(), "a mark is made once");
}

#[test]
fn nothing_is_marked_where_the_spec_says_so() {
    let (mut observed, _) = haunted();
    Arc::make_mut(&mut observed.shard).spec.topology_pruning = Some(TopologyPruningConfig { enabled: Some(false) });
    assert!(marked(&observed).is_empty());
    Arc::make_mut(&mut observed.shard).spec.topology_pruning = Some(TopologyPruningConfig { enabled: None });
    assert_eq!(marked(&observed).len(), 1);
}

#[test]
fn nothing_is_marked_while_no_primary_confirms_itself() {
    let (mut observed, _) = haunted();
    observed.statuses.clear();
    assert!(marked(&observed).is_empty());
}

#[test]
fn nothing_is_marked_that_had_a_pod_a_moment_ago_or_while_the_topology_is_away() {
    let (mut observed, ghost) = haunted();
    lonely(&mut observed, &ghost, 29);
    assert!(marked(&observed).is_empty());
    lonely(&mut observed, &ghost, 30);
    observed.topology_away = Some("Unavailable");
    assert!(marked(&observed).is_empty());
}

#[test]
fn a_pooler_whose_pod_will_come_back_is_not_marked() {
    let mut observed = healthy(minimal());
    remember(&mut observed);
    observed.pods.pop();
    let id = record(&mut observed, 1).id.clone();
    lonely(&mut observed, &id, 600);
    assert!(marked(&observed).is_empty());
}

#[test]
fn a_pooler_whose_pod_is_on_its_way_out_is_not_marked() {
    let mut observed = healthy(minimal());
    let id = record(&mut observed, 1).id.clone();
    Arc::make_mut(&mut observed.shard).spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(1);
    lonely(&mut observed, &id, 600);
    assert!(marked(&observed).is_empty(), "its pod is still there");
    observed.pods.pop();
    assert_eq!(marked(&observed).len(), 1);
}

#[test]
fn records_of_cells_that_the_shard_does_not_use_are_left_alone() {
    let (mut observed, _) = haunted();
    let records = observed.topology.cells.remove("zone-a").unwrap();
    observed.topology.cells.insert(
        "zone-z".to_owned(),
        records.map(|mut records| {
            for record in &mut records {
                record.id.cell = "zone-z".to_owned();
            }
            records
        }),
    );
    assert!(marked(&observed).is_empty());
}

#[test]
fn records_of_another_namespace_are_left_alone() {
    let (mut observed, _) = haunted();
    let host = |observed: &mut Observed, name: &str| {
        let records = observed.topology.cells.get_mut("zone-a").unwrap().as_mut().unwrap();
        name.clone_into(&mut records.last_mut().unwrap().hostname);
    };
    host(&mut observed, "gone-pod-9.headless.team.svc.cluster.local");
    assert!(marked(&observed).is_empty());
    for own in ["gone-pod-9.headless.prod.svc", "gone-pod-9.headless", "gone-pod-9"] {
        host(&mut observed, own);
        assert_eq!(marked(&observed).len(), 1, "{own}");
    }
}

#[test]
fn nobody_who_serves_is_ever_marked() {
    for primary in 0..3 {
        let mut observed = healthy(three_cells());
        elect(&mut observed, primary);
        assert!(marked(&observed).is_empty());
    }
}
