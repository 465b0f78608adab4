//! The record logic over stores in memory.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::upstream::{
    BackupLocation, DurabilityPolicy, Lifecycle, Role, Serving, ShardKey,
    fake::{FakeTopology, MemoryKv},
};

fn global() -> TopoAddress {
    TopoAddress::new(["global:2379"], "/multigres/global")
}

fn local() -> TopoAddress {
    TopoAddress::new(["local-b:2379"], "/multigres/zone-b")
}

fn cell(name: &str, at: &TopoAddress) -> CellRecord {
    CellRecord { name: name.to_owned(), server_addresses: at.endpoints.clone(), root: at.root.clone() }
}

fn database(cells: &[&str]) -> DatabaseRecord {
    DatabaseRecord {
        name: "postgres".to_owned(),
        backup_location: Some(BackupLocation::Filesystem { path: "/backups".to_owned() }),
        require_initial_repo_encryption: false,
        cells: cells.iter().map(|&cell| cell.to_owned()).collect(),
        durability_policy: DurabilityPolicy::named("AT_LEAST_2"),
    }
}

fn shard() -> ShardKey {
    ShardKey::new("postgres", "default", "0-inf")
}

fn pooler(cell: &str, name: &str) -> PoolerRecord {
    PoolerRecord {
        id: PoolerId::new(cell, name),
        shard: shard(),
        hostname: format!("{name}.headless"),
        ports: [("grpc".to_owned(), 15270)].into(),
        role: Role::Replica,
        rule: None,
        lifecycle: LifecycleMark { state: Lifecycle::Active, ..LifecycleMark::default() },
        serving: Serving::Serving,
        tls: None,
    }
}

/// Two cells, `a` in the global store and `b` in one of its own, with a pooler in each.
async fn two_cells() -> FakeTopology {
    let topology = FakeTopology::default();
    for record in [cell("a", &global()), cell("b", &local())] {
        topology.put_cell(&global(), &record).await.unwrap();
    }
    topology.register_pooler(&global(), &pooler("a", "p-1")).unwrap();
    topology.register_pooler(&local(), &pooler("b", "p-2")).unwrap();
    topology
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.poolers().map(|record| record.id.to_string()).collect()
}

fn down(target: &str) -> Error {
    Error::Unavailable { target: target.to_owned(), detail: "refused".to_owned() }
}

#[tokio::test]
async fn a_record_is_created_then_left_alone_then_updated() {
    let topology = FakeTopology::default();
    let record = cell("a", &global());
    assert_eq!(topology.put_cell(&global(), &record).await, Ok(Written::Created));
    assert_eq!(topology.put_cell(&global(), &record).await, Ok(Written::Unchanged));
    assert_eq!(topology.writes(), 1);
    assert_eq!(topology.put_cell(&global(), &cell("a", &local())).await, Ok(Written::Updated));
    assert_eq!(topology.cells(&global()).await.unwrap().records, [cell("a", &local())]);
}

#[tokio::test]
async fn a_lost_race_is_run_again_on_what_the_winner_wrote() {
    let tree = Tree::new(MemoryKv::default());
    let key = "/multigres/global/databases/postgres/Database";
    tree.store().race(&global(), key, Some(codec::encode_database(&database(&["x"]))));
    assert_eq!(tree.put_database(&global(), &database(&["a"])).await, Ok(Written::Updated));
    assert_eq!(tree.databases(&global()).await.unwrap().records, [database(&["a"])]);
    // A record that is removed in between comes back: it is still desired.
    tree.store().race(&global(), key, None);
    assert_eq!(tree.put_database(&global(), &database(&["b"])).await, Ok(Written::Created));
}

#[tokio::test(start_paused = true)]
async fn endless_races_end_in_a_conflict() {
    let tree = Tree::new(MemoryKv::default());
    let key = "/multigres/global/cells/a/Cell";
    for round in 0..ROUNDS {
        tree.store().race(
            &global(),
            key,
            Some(codec::encode_cell(&cell("a", &TopoAddress::new([round.to_string()], "/")))),
        );
    }
    assert_eq!(tree.put_cell(&global(), &cell("a", &local())).await, Err(Error::Conflict { key: key.to_owned() }));
}

#[tokio::test]
async fn a_cell_stays_as_long_as_a_database_lists_it() {
    let topology = two_cells().await;
    topology.put_database(&global(), &database(&["a", "b"])).await.unwrap();
    let error = topology.delete_cell(&global(), "b").await.unwrap_err();
    assert_eq!(error.to_string(), "cell b is still used by database postgres");
    topology.put_database(&global(), &database(&["a"])).await.unwrap();
    assert_eq!(topology.delete_cell(&global(), "b").await, Ok(true));
    assert_eq!(topology.delete_cell(&global(), "b").await, Ok(false));
}

#[tokio::test]
async fn a_left_over_claim_is_no_database_and_goes_with_the_database() {
    let topology = two_cells().await;
    topology.put_database(&global(), &database(&["a", "b"])).await.unwrap();
    let claim = |database: &str| format!("/multigres/global/databases/{database}/default/0-inf/ShardInitClaim");
    let lock = "/multigres/global/databases/postgres/default/0-inf/locks/17";
    for key in [claim("postgres"), claim("postgres2"), lock.to_owned()] {
        topology.put_raw(&global(), &key, vec![1]);
    }
    assert_eq!(topology.databases(&global()).await.map(|found| found.records.len()), Ok(1));
    assert_eq!(topology.delete_database(&global(), "postgres").await, Ok(true));
    assert_eq!(topology.databases(&global()).await, Ok(Listing::default()));
    let keys = topology.keys(&global());
    assert!(!keys.contains(&claim("postgres")), "a later database of this name must be bootstrapped: {keys:?}");
    assert!(keys.contains(&claim("postgres2")) && keys.iter().any(|key| key == lock), "{keys:?}");
    assert_eq!(topology.delete_cell(&global(), "b").await, Ok(true));
}

#[tokio::test]
async fn a_snapshot_reads_each_store_once() {
    let topology = two_cells().await;
    topology.register_pooler(&global(), &pooler("stranger", "p-9")).unwrap();
    let before = topology.reads();
    let snapshot = topology.snapshot(&global(), &Scope::shard(shard())).await;
    assert_eq!(topology.reads() - before, 2);
    assert_eq!(names(&snapshot), ["a_p-1", "b_p-2"]);
    assert!(snapshot.is_complete());
}

#[tokio::test]
async fn a_snapshot_of_shared_stores_is_one_round_trip() {
    let topology = two_cells().await;
    topology.put_cell(&global(), &cell("c", &TopoAddress::new(["global:2379"], "/multigres/global/"))).await.unwrap();
    topology.register_pooler(&global(), &pooler("c", "p-3")).unwrap();
    let before = topology.reads();
    let snapshot = topology.snapshot(&global(), &Scope::database("postgres", ["a", "c"])).await;
    assert_eq!((topology.reads() - before, names(&snapshot)), (1, vec!["a_p-1".to_owned(), "c_p-3".to_owned()]));
}

#[tokio::test]
async fn a_snapshot_holds_only_what_is_in_scope() {
    let topology = two_cells().await;
    let mut other = pooler("a", "p-7");
    other.shard = ShardKey::new("postgres", "other", "0-inf");
    topology.register_pooler(&global(), &other).unwrap();
    assert_eq!(names(&topology.snapshot(&global(), &Scope::shard(shard())).await), ["a_p-1", "b_p-2"]);
    assert_eq!(names(&topology.snapshot(&global(), &Scope::all()).await), ["a_p-1", "a_p-7", "b_p-2"]);
    assert_eq!(names(&topology.snapshot(&global(), &Scope::database("postgres", ["a"])).await), ["a_p-1", "a_p-7"]);
    let unknown = topology.snapshot(&global(), &Scope::database("postgres", ["nowhere"])).await;
    assert_eq!(unknown.cells["nowhere"], Err(Error::NotFound { what: "cell nowhere".to_owned() }));
}

#[tokio::test]
async fn a_broken_record_is_named_and_hides_no_other() {
    let topology = two_cells().await;
    topology.put_raw(&global(), "/multigres/global/poolers/multipooler-a-p-8/Pooler", vec![0xff]);
    topology.put_raw(&global(), "/multigres/global/poolersX/multipooler-a-p-8/Pooler", vec![0xff]);
    let snapshot = topology.snapshot(&global(), &Scope::all()).await;
    assert_eq!(names(&snapshot), ["a_p-1", "b_p-2"]);
    assert_eq!(snapshot.malformed.len(), 1);
    assert!(snapshot.malformed[0].to_string().contains("multipooler-a-p-8"));
    assert!(!snapshot.is_complete());
}

#[tokio::test]
async fn a_store_that_is_down_costs_its_own_cells_only() {
    let topology = two_cells().await;
    topology.fail("local-b:2379", down("local-b:2379"));
    let snapshot = topology.snapshot(&global(), &Scope::all()).await;
    assert_eq!(names(&snapshot), ["a_p-1"]);
    assert_eq!(snapshot.cells["b"], Err(down("local-b:2379")));
    topology.heal("local-b:2379");
    assert!(topology.snapshot(&global(), &Scope::all()).await.is_complete());
}

#[tokio::test]
async fn a_cell_with_its_own_store_stays_readable_without_the_global_one() {
    let topology = two_cells().await;
    topology.snapshot(&global(), &Scope::all()).await;
    topology.fail("global:2379", down("global:2379"));
    let snapshot = topology.snapshot(&global(), &Scope::all()).await;
    assert_eq!(snapshot.global, Err(down("global:2379")));
    assert_eq!(snapshot.cells["a"], Err(down("global:2379")));
    assert_eq!(names(&snapshot), ["b_p-2"]);
    assert_eq!(topology.delete_pooler(&global(), &PoolerId::new("b", "p-2")).await, Ok(true));
    assert_eq!(topology.cells(&global()).await, Err(down("global:2379")), "a list is never answered from memory");
}

#[tokio::test]
async fn a_mark_changes_the_lifecycle_and_nothing_else() {
    let topology = two_cells().await;
    let id = PoolerId::new("b", "p-2");
    let mark = LifecycleMark { state: Lifecycle::Shutdown, reason: "gone".to_owned(), updated: None };
    assert_eq!(topology.mark_pooler(&global(), &id, &mark).await, Ok(Written::Updated));
    let later = LifecycleMark { updated: Some(jiff::Timestamp::UNIX_EPOCH), ..mark.clone() };
    assert_eq!(topology.mark_pooler(&global(), &id, &later).await, Ok(Written::Unchanged), "time alone is no change");
    let snapshot = topology.snapshot(&global(), &Scope::all()).await;
    assert_eq!(snapshot.cells["b"], Ok(vec![PoolerRecord { lifecycle: mark.clone(), ..pooler("b", "p-2") }]));
    topology.delete_pooler(&global(), &id).await.unwrap();
    assert_eq!(topology.mark_pooler(&global(), &id, &mark).await.unwrap_err().reason(), "NotFound");
    assert_eq!(topology.keys(&local()), Vec::<String>::new(), "the record is not brought back");
}

#[tokio::test]
async fn a_registration_is_removed_only_if_it_is_the_one_that_was_seen() {
    let topology = two_cells().await;
    let seen = Registration {
        component: Component::Gateway,
        cell: "b".to_owned(),
        name: "x1".to_owned(),
        hostname: "10.0.0.1".to_owned(),
        ports: BTreeMap::new(),
    };
    let successor = Registration { hostname: "10.0.0.2".to_owned(), ..seen.clone() };
    topology.register(&local(), &successor).unwrap();
    assert_eq!(topology.delete_registration(&global(), &seen).await, Ok(false));
    let found = topology.registrations(&global(), &BTreeSet::new()).await;
    assert_eq!(found.cells["b"], Ok(vec![successor.clone()]));
    assert_eq!(topology.delete_registration(&global(), &successor).await, Ok(true));
}

#[tokio::test]
async fn names_that_reach_elsewhere_are_refused_before_anything_is_sent() {
    let topology = FakeTopology::default();
    assert_eq!(topology.put_cell(&global(), &cell("../x", &local())).await.unwrap_err().reason(), "Invalid");
    assert_eq!(topology.delete_database(&global(), "").await.unwrap_err().reason(), "Invalid");
    assert_eq!((topology.reads(), topology.writes()), (0, 0));
}
