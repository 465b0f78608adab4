//! A topology stays where it is, and no two clusters share one.

use std::convert::Infallible;

use http::{Request, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Client, client::Body};
use rstest::rstest;
use serde_json::Value;
use shared::{api::v1alpha1::GlobalTopoServerRef, label};

use super::*;
use crate::{
    cluster::place::{CANNOT_MOVE, IN_USE, is_contested, refusals},
    context::References,
    stores::Stores,
};

const OWN: &str = "cells: [{name: a}]";
const EXTERNAL: &str =
    "globalTopoServer: {external: {endpoints: ['http://e0:2379'], rootPath: /r}}, cells: [{name: a}]";
const LOCAL: &str = "cells: [{name: a, spec: {localTopoServer: {etcd: {replicas: 1}}}}]";
const EARLY: &str = "2026-01-01T00:00:00Z";
const LATE: &str = "2026-01-01T00:00:09Z";

fn yaml(spec: &str) -> String {
    format!("metadata: {{name: demo, namespace: prod}}\nspec: {{{spec}}}")
}

/// What is said when the spec of a cluster that runs becomes another one.
fn edited(before: &str, after: &str) -> Vec<(String, String)> {
    let cluster = healthy(&yaml(before));
    let resolved = observed(&yaml(after)).resolved.unwrap();
    let refusals = refusals(&cluster, &resolved, &Stores::default());
    refusals.into_iter().map(|refusal| (refusal.reason, refusal.message)).collect()
}

#[rstest]
#[case::to_others(OWN, EXTERNAL, "globalTopoServer: \"an external etcd\": was an etcd cluster of the operator")]
#[case::to_us(EXTERNAL, OWN, "globalTopoServer: \"an etcd cluster of the operator\": was an external etcd")]
#[case::another_root(
    EXTERNAL,
    "globalTopoServer: {external: {endpoints: ['http://e0:2379'], rootPath: /s}}, cells: [{name: a}]",
    "globalTopoServer.external.rootPath: \"/s\": was /r"
)]
#[case::another_own_root(
    OWN,
    "globalTopoServer: {etcd: {rootPath: /s}}, cells: [{name: a}]",
    "globalTopoServer.etcd.rootPath: \"/s\": was /multigres/global"
)]
#[case::into_the_cell(
    OWN,
    LOCAL,
    "cells[a].localTopoServer: \"an etcd cluster of the operator\": was the global topology"
)]
#[case::out_of_the_cell(
    LOCAL,
    OWN,
    "cells[a].localTopoServer: \"the global topology\": was an etcd cluster of the operator"
)]
#[case::another_root_in_the_cell(
    LOCAL,
    "cells: [{name: a, spec: {localTopoServer: {etcd: {rootPath: /s}}}}]",
    "cells[a].localTopoServer.etcd.rootPath: \"/s\": was /multigres/a"
)]
fn a_topology_that_runs_cannot_move(#[case] before: &str, #[case] after: &str, #[case] message: &str) {
    let said = edited(before, after);
    assert!(said.len() == 1 && said[0].0 == CANNOT_MOVE && said[0].1.starts_with(message), "{said:?}");
}

#[rstest]
#[case::nothing(OWN, OWN)]
#[case::as_it_is(EXTERNAL, EXTERNAL)]
#[case::other_members(
    EXTERNAL,
    "globalTopoServer: {external: {endpoints: ['http://e1:2379'], rootPath: /r}}, cells: [{name: a}]"
)]
#[case::a_new_cell(OWN, "cells: [{name: a}, {name: b, spec: {localTopoServer: {etcd: {replicas: 1}}}}]")]
fn what_stays_is_taken(#[case] before: &str, #[case] after: &str) {
    let said = edited(before, after);
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn a_cluster_that_has_nothing_yet_may_begin_anywhere() {
    let cluster = observed(&yaml(EXTERNAL));
    assert!(refusals(&cluster, cluster.resolved.as_ref().unwrap(), &Stores::default()).is_empty());
}

#[test]
fn a_spec_that_would_move_the_topology_leaves_everything_as_it_is() {
    let mut cluster = healthy(&yaml(OWN));
    let moved = observed(&yaml(EXTERNAL)).resolved.unwrap();
    cluster.resolved = Err(refusals(&cluster, &moved, &Stores::default()));
    let plan = run(&cluster);
    let other: Vec<String> = outline(&plan).into_iter().filter(|line| !line.starts_with("apply ")).collect();
    assert!(other.is_empty(), "{other:?}");
    for cell in &cluster.cells {
        let kept: Cell = applied(&plan, cell.metadata.name.as_deref().unwrap()).unwrap();
        assert_eq!(kept.spec, cell.spec);
    }
    let accepted = plan.status.unwrap().conditions;
    assert_eq!(find(&accepted, "SpecAccepted").map(|c| c.reason.as_str()), Some(CANNOT_MOVE));
}

#[tokio::test]
async fn a_topology_is_reached_with_the_secrets_that_its_address_came_with() {
    let nothing = |_: Request<Body>| async {
        let status = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
        let body = Body::from(status.to_string().into_bytes());
        Ok::<_, Infallible>(Response::builder().status(404).body(body).unwrap())
    };
    let references = References::new(Client::new(tower::service_fn(nothing), "prod"));
    let address = "https://e0:2379".to_owned();
    let plain = GlobalTopoServerRef { address, root_path: "/r".to_owned(), ..GlobalTopoServerRef::default() };
    let (at, problem) = observe::external(&plain, &references, "prod").await;
    assert_eq!((at.root.as_str(), problem), ("/r", None));
    let secured = GlobalTopoServerRef { ca_secret: Some("ca".to_owned()), ..plain };
    let (_, problem) = observe::external(&secured, &references, "prod").await;
    let message = "Secret ca does not exist".to_owned();
    assert_eq!(problem, Some(Sight::Failed { reason: "CredentialsMissing".to_owned(), message }));
}

fn other(name: &str, created: &str, spec: &Value) -> Arc<MultigresCluster> {
    let cluster = json!({
        "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster",
        "metadata": {"name": name, "namespace": "team", "creationTimestamp": created}, "spec": spec,
    });
    Arc::new(serde_json::from_value(cluster).unwrap())
}

fn cell_of(cluster: &str, external: &Value) -> Arc<Cell> {
    let cell = json!({
        "apiVersion": "multigres.com/v1alpha1", "kind": "Cell",
        "metadata": {"name": format!("{cluster}-a"), "namespace": "team", "labels": {label::INSTANCE: cluster}},
        "spec": {
            "name": "a", "images": {"multigateway": "g"}, "multigateway": {},
            "globalTopoServer": {"address": "e", "rootPath": "/r", "implementation": "etcd"},
            "topoServer": {"external": external},
        },
    });
    Arc::new(serde_json::from_value(cell).unwrap())
}

/// A cluster that was made in between, and begins now.
fn beginner(spec: &str) -> Observed {
    let mut cluster = observed(&yaml(spec));
    let created = Time("2026-01-01T00:00:05Z".parse().unwrap());
    Arc::make_mut(&mut cluster.cluster).metadata.creation_timestamp = Some(created);
    cluster
}

fn said(cluster: &Observed, stores: &Stores) -> Option<String> {
    let found = refusals(cluster, cluster.resolved.as_ref().unwrap(), stores);
    assert!(found.len() <= 1 && found.iter().all(|refusal| refusal.reason == IN_USE), "{found:?}");
    found.into_iter().next().map(|refusal| refusal.message)
}

#[rstest]
#[case::the_same("http://e0:2379", "/r", true)]
#[case::with_tls_and_slashes("https://E0:2379/", "/r//", true)]
#[case::another_root("http://e0:2379", "/s", false)]
#[case::without_a_slash_in_front("http://e0:2379", "r", false)]
#[case::another_port("http://e0:2380", "/r", false)]
#[case::another_etcd("http://e1:2379", "/r", false)]
fn an_older_cluster_keeps_its_place(#[case] endpoint: &str, #[case] root: &str, #[case] taken: bool) {
    let stores = Stores::default();
    let external = json!({"external": {"endpoints": ["http://x:1", endpoint], "rootPath": root}});
    stores.clusters.insert(other("rival", EARLY, &json!({"globalTopoServer": external})));
    let said = said(&beginner(EXTERNAL), &stores);
    assert_eq!(said.is_some(), taken);
    assert!(said.is_none_or(|said| said.starts_with("globalTopoServer.external: cluster team/rival")));
}

#[test]
fn clusters_that_give_no_root_want_the_same_place() {
    let stores = Stores::default();
    let external = json!({"external": {"endpoints": ["http://etcd.infra.svc:2379"]}});
    stores.clusters.insert(other("rival", EARLY, &json!({"globalTopoServer": external})));
    let cluster = beginner(
        "globalTopoServer: {external: {endpoints: ['http://etcd.infra.svc.cluster.local:2379']}}, cells: [{name: a}]",
    );
    assert!(said(&cluster, &stores).is_some_and(|said| said.contains("rootPath /multigres/global")));
}

#[test]
fn a_younger_cluster_gets_a_place_only_if_it_has_begun_there() {
    let stores = Stores::default();
    let external = json!({"endpoints": ["http://e0:2379"], "rootPath": "/r"});
    stores.clusters.insert(other("rival", LATE, &json!({"globalTopoServer": {"external": external}})));
    assert_eq!(said(&beginner(EXTERNAL), &stores), None);
    stores.cells.insert(cell_of("rival", &external));
    assert!(said(&beginner(EXTERNAL), &stores).is_some());
}

#[test]
fn cells_share_no_place_either() {
    let stores = Stores::default();
    let external = json!({"endpoints": ["http://e0:2379"], "rootPath": "/cell"});
    stores.clusters.insert(other("rival", LATE, &json!({})));
    stores.cells.insert(cell_of("rival", &external));
    let local = "localTopoServer: {external: {endpoints: ['http://e0:2379'], rootPath: /cell}}";
    let cluster = beginner(&format!("cells: [{{name: b, spec: {{{local}}}}}]"));
    assert!(said(&cluster, &stores).is_some_and(|said| said.starts_with("cells[b].localTopoServer.external: ")));
}

#[test]
fn a_cluster_that_runs_stays_and_takes_nothing_of_others_along() {
    let stores = Stores::default();
    let external = json!({"endpoints": ["http://e0:2379"], "rootPath": "/r"});
    stores.clusters.insert(other("rival", EARLY, &json!({"globalTopoServer": {"external": external}})));
    stores.cells.insert(cell_of("rival", &external));
    let mut cluster = healthy(&yaml(EXTERNAL));
    assert_eq!(said(&cluster, &stores), None);
    Arc::make_mut(&mut cluster.cluster).metadata.deletion_timestamp = Some(Time(LATE.parse().unwrap()));
    let found = refusals(&cluster, cluster.resolved.as_ref().unwrap(), &stores);
    cluster.resolved = Err(found);
    // What a pass does not reach it does not see.
    cluster.external_topology = None;
    cluster.topology = Sight::NotServing;
    assert!(is_contested(&cluster));
    cluster.table_groups.clear();
    let plan = run(&cluster);
    assert_eq!(outline(&plan), ["merge MultigresCluster prod/demo"]);
    assert_eq!(plan.notes.first().map(|note| note.reason.as_str()), Some("RecordsLeftBehind"));
}
