use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

use super::*;
use crate::upstream::PoolerId;

const DELETE_ALL: &str = "
metadata: {name: minimal, namespace: prod}
spec:
  pvcDeletionPolicy: {whenDeleted: Delete, whenScaled: Delete}
  cells: [{name: a}]
";

fn leaving(mut observed: Observed) -> Observed {
    let mut cluster = (*observed.cluster).clone();
    cluster.metadata.deletion_timestamp = Some(Time(now()));
    observed.cluster = Arc::new(cluster);
    observed
}

fn secret(observed: &Observed) -> Arc<Secret> {
    Arc::new(stored(password::secret(&observed.owner, "x"), 1))
}

fn claim(owned: bool) -> Arc<PersistentVolumeClaim> {
    let mut claim = PersistentVolumeClaim::default();
    claim.metadata.name = Some("data-x-0".into());
    claim.metadata.labels = Some(label_of_pool());
    if owned {
        claim.metadata.owner_references = Some(vec![OwnerReference::default()]);
    }
    Arc::new(claim)
}

fn label_of_pool() -> shared::label::Labels {
    let shard = name::ShardId { cluster: "minimal", database: "postgres", table_group: "default", shard: "0-inf" };
    shared::label::of_pool(name::PoolId { shard, pool: "default", cell: "a" })
}

#[test]
fn removal_starts_with_the_table_groups_and_waits_for_their_pods() {
    let mut observed = leaving(healthy(DELETE_ALL));
    let plan = run(&observed);
    assert_eq!(outline(&plan).len(), 1);
    assert!(outline(&plan)[0].starts_with("delete TableGroup"));
    assert_eq!((plan.requeue, plan.status), (Requeue::After(Duration::from_secs(2)), None));

    observed.table_groups.clear();
    let mut pod = Pod::default();
    pod.metadata.labels = Some(label_of_pool());
    observed.pods = vec![Arc::new(pod)];
    assert!(run(&observed).writes.is_empty());
    observed.pods.clear();
    assert_eq!(outline(&run(&observed)), ["merge MultigresCluster prod/minimal"]);
}

#[test]
fn the_generated_password_goes_only_when_no_data_is_left_and_none_was_to_be_kept() {
    let done = |yaml: &str, claims: Vec<Arc<PersistentVolumeClaim>>| {
        let mut observed = leaving(observed(yaml));
        observed.claims = claims;
        observed.password_secret = Some(secret(&observed));
        outline(&run(&observed))
    };
    let (secret, finalizer) = ("delete Secret prod/minimal-postgres-password", "merge MultigresCluster prod/minimal");
    assert_eq!(done(DELETE_ALL, Vec::new()), [secret, finalizer]);
    assert_eq!(done(DELETE_ALL, vec![claim(false)]), [finalizer]);
    assert!(done(DELETE_ALL, vec![claim(true)]).is_empty(), "waits for volumes that are going");
    assert_eq!(done(MINIMAL, Vec::new()), [finalizer]);
    let bucket = DELETE_ALL.replace("  cells:", "  backup: {type: s3, s3: {bucket: b, region: r}}\n  cells:");
    assert_eq!(done(&bucket, Vec::new()), [finalizer]);
}

#[test]
fn records_in_a_topology_of_others_are_removed_before_the_finalizer() {
    let mut observed = observed(EXTERNAL);
    register_all(&mut observed);
    let mut observed = leaving(observed);
    let lines = outline(&run(&observed));
    assert_eq!(lines, ["topology DeleteDatabase(\"postgres\")", "topology DeleteCell(\"a\")"]);
    observed.topology = seen(&[], &[]);
    assert_eq!(outline(&run(&observed)), ["merge MultigresCluster prod/ext"]);
}

#[test]
fn registered_poolers_go_with_the_records_of_the_cells_that_lead_to_them() {
    let mut observed = observed(EXTERNAL);
    register_all(&mut observed);
    observed.leftovers.poolers = vec![PoolerId::new("a", "p-1"), PoolerId::new("of-others", "p-2")];
    let lines = outline(&run(&leaving(observed)));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0], "topology DeletePooler(PoolerId { cell: \"a\", name: \"p-1\" })");
}

#[test]
fn records_that_another_cluster_needs_stay() {
    let mut observed = observed(EXTERNAL);
    register_all(&mut observed);
    observed.leftovers =
        Leftovers { poolers: vec![PoolerId::new("a", "p-1")], strangers: true, ..Leftovers::default() };
    let plan = run(&leaving(observed));
    assert_eq!(outline(&plan), ["merge MultigresCluster prod/ext"]);
    assert_eq!(plan.notes.first().map(|note| note.reason.as_str()), Some("RecordsLeftBehind"));
}

#[test]
fn records_of_gateways_that_are_gone_go_before_those_of_their_cells() {
    let mut observed = observed(EXTERNAL);
    register_all(&mut observed);
    observed.registrations = vec![crate::upstream::Registration {
        component: crate::upstream::Component::Gateway,
        cell: "a".to_owned(),
        name: "crashed".to_owned(),
        hostname: "10.0.0.2".to_owned(),
        ports: BTreeMap::new(),
    }];
    let mut observed = leaving(observed);
    let plan = run(&observed);
    assert!(matches!(&plan.writes[..], [write] if write.reason == "LeftBehind"), "{:?}", plan.writes);
    observed.registrations.clear();
    assert_eq!(outline(&run(&observed)).len(), 2);
}

#[test]
fn an_etcd_whose_volumes_stay_is_emptied_because_the_next_cluster_may_find_them() {
    let mut observed = healthy(MINIMAL);
    observed.retained_topology = Some(TopoAddress::new(["minimal-global-topo.prod.svc:2379"], "/multigres/global"));
    observed.table_groups.clear();
    observed.cells.clear();
    let mut observed = leaving(observed);
    let lines = outline(&run(&observed));
    assert_eq!(lines, ["topology DeleteDatabase(\"postgres\")", "topology DeleteCell(\"zone-a\")"]);
    observed.topology = seen(&[], &[]);
    assert_eq!(outline(&run(&observed)), ["merge MultigresCluster prod/minimal"]);

    observed.topology = Sight::Failed { reason: "Unavailable".into(), message: "refused".into() };
    assert!(run(&observed).writes.is_empty());
    let later = decide(&observed, &settings(), now() + jiff::SignedDuration::from_secs(31)).unwrap();
    assert_eq!(outline(&later), ["merge MultigresCluster prod/minimal"]);
    observed.topology = Sight::NotServing;
    assert_eq!(
        outline(&run(&observed)),
        ["merge MultigresCluster prod/minimal"],
        "an etcd that is gone is not awaited"
    );
}

#[test]
fn a_pod_on_a_node_that_is_gone_does_not_hold_up_the_removal() {
    let mut observed = leaving(observed(MINIMAL));
    let mut pod = Pod::default();
    pod.metadata.labels = Some(label_of_pool());
    pod.metadata.deletion_timestamp = Some(Time(now()));
    observed.pods = vec![Arc::new(pod)];
    assert!(run(&observed).writes.is_empty());
    let later = decide(&observed, &settings(), now() + jiff::SignedDuration::from_secs(61)).unwrap();
    assert_eq!(outline(&later), ["merge MultigresCluster prod/minimal"]);
}

#[test]
fn a_cell_on_its_way_out_is_unregistered_with_the_others() {
    let mut observed = healthy(EXTERNAL);
    observed.table_groups.clear();
    let mut old = (*observed.cells[0]).clone();
    old.spec.name = "old".to_owned();
    observed.cells = vec![Arc::new(old)];
    let Sight::Seen { cells, .. } = observed.topology.clone() else { panic!("not seen") };
    let mut old = cells.records[0].clone();
    old.name = "old".to_owned();
    observed.topology = seen(&[cells.records[0].clone(), old], &[]);
    assert_eq!(outline(&run(&leaving(observed))), ["topology DeleteCell(\"a\")", "topology DeleteCell(\"old\")"]);
}

#[test]
fn gateways_go_before_the_record_that_they_find_their_own_through() {
    let mut observed = healthy(EXTERNAL);
    observed.table_groups.clear();
    let mut gateway = Pod::default();
    gateway.metadata.labels = Some(shared::label::of_gateway("ext", "a", None, None));
    observed.pods = vec![Arc::new(gateway)];
    let mut observed = leaving(observed);
    let lines = outline(&run(&observed));
    assert!(lines.len() == 1 && lines[0].starts_with("delete Cell prod/ext-a-"), "{lines:?}");
    observed.cells.clear();
    assert!(run(&observed).writes.is_empty(), "the pods are still there");
    let later = decide(&observed, &settings(), now() + jiff::SignedDuration::from_mins(3)).unwrap();
    assert!(outline(&later).contains(&"topology DeleteCell(\"a\")".to_owned()), "nobody is waited for for ever");
    observed.pods.clear();
    let lines = outline(&run(&observed));
    assert_eq!(lines, ["topology DeleteDatabase(\"postgres\")", "topology DeleteCell(\"a\")"]);
}

#[test]
fn a_cell_with_a_topology_server_of_its_own_stays_while_records_in_it_are_removed() {
    let mut observed = healthy(EXTERNAL);
    observed.table_groups.clear();
    edit(&mut observed.cells, |cell| {
        cell.spec.topo_server = Some(shared::api::v1alpha1::LocalTopoServerSpec::default());
    });
    let lines = outline(&run(&leaving(observed)));
    assert_eq!(lines, ["topology DeleteDatabase(\"postgres\")", "topology DeleteCell(\"a\")"]);
}

#[test]
fn a_topology_of_others_that_does_not_answer_holds_up_the_removal_only_for_a_while() {
    let mut observed = leaving(observed(EXTERNAL));
    observed.topology = Sight::Failed { reason: "Unavailable".into(), message: "refused".into() };
    assert!(run(&observed).writes.is_empty());
    let later = decide(&observed, &settings(), now() + jiff::SignedDuration::from_mins(3)).unwrap();
    assert_eq!(outline(&later), ["merge MultigresCluster prod/ext"]);
    assert_eq!(later.notes.len(), 1);
}

#[test]
fn a_cluster_without_our_finalizer_is_left_alone() {
    let mut observed = leaving(healthy(MINIMAL));
    let mut cluster = (*observed.cluster).clone();
    cluster.metadata.finalizers = None;
    observed.cluster = Arc::new(cluster);
    assert_eq!(run(&observed), Plan { requeue: Requeue::Never, ..Plan::nothing() });
}
