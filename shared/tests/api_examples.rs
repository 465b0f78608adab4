//! Every example manifest goes through the types without loss.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api_data;

use std::collections::BTreeSet;

use api_data::manifests;
use assert_json_diff::assert_json_eq;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::api::v1alpha1::{
    Cell, CellTemplate, CoreTemplate, DurabilityPolicy, MultigresCluster, Phase, Shard, ShardTemplate, TableGroup,
    TopoServer,
};

fn through<T: DeserializeOwned + Serialize>(document: &Value) -> Value {
    let typed: T = serde_json::from_value(document.clone())
        .unwrap_or_else(|error| panic!("{}: {error}", document["metadata"]["name"]));
    serde_json::to_value(typed).unwrap()
}

fn round_trip(document: &Value) -> Value {
    match document["kind"].as_str().unwrap() {
        "MultigresCluster" => through::<MultigresCluster>(document),
        "CoreTemplate" => through::<CoreTemplate>(document),
        "CellTemplate" => through::<CellTemplate>(document),
        "ShardTemplate" => through::<ShardTemplate>(document),
        "Cell" => through::<Cell>(document),
        "TableGroup" => through::<TableGroup>(document),
        "Shard" => through::<Shard>(document),
        "TopoServer" => through::<TopoServer>(document),
        other => panic!("{other} is not a kind of ours"),
    }
}

/// Equal in meaning: empty lists are absent ones, a quantity may be a number, an absent spec is an empty one.
fn canonical(value: &Value, parent: &str) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, inner)| !inner.as_array().is_some_and(Vec::is_empty))
            .map(|(key, inner)| (key.clone(), canonical(inner, key)))
            .map(|(key, inner)| match (parent, &inner) {
                ("requests" | "limits", Value::Number(number)) => (key, Value::from(number.to_string())),
                _ => (key, inner),
            })
            .collect(),
        Value::Array(items) => items.iter().map(|item| canonical(item, parent)).collect(),
        other => other.clone(),
    }
}

#[test]
fn examples_survive_the_types() {
    for manifest in manifests("examples").iter().chain(&manifests("updates")) {
        for document in &manifest.documents {
            let mut document = document.clone();
            if document.get("spec").is_none() {
                document["spec"] = json!({});
            }
            assert_json_eq!(canonical(&round_trip(&document), ""), canonical(&document, ""));
        }
    }
}

#[test]
fn every_numbered_example_is_there() {
    let names: BTreeSet<String> = manifests("examples").into_iter().map(|manifest| manifest.name).collect();
    for number in 1..=17 {
        let prefix = format!("e{number:02}-");
        assert!(names.iter().any(|name| name.starts_with(&prefix)), "{prefix} is missing");
    }
}

#[test]
fn refused_manifests_announce_the_message() {
    for manifest in manifests("negatives") {
        assert!(!manifest.refusal().is_empty(), "{}", manifest.name);
        assert!(manifest.documents.len() <= 2, "{}", manifest.name);
    }
}

#[test]
fn a_value_of_a_later_version_does_not_break_reading() {
    let cluster: MultigresCluster = serde_json::from_value(json!({
        "apiVersion": "multigres.com/v1alpha1",
        "kind": "MultigresCluster",
        "metadata": {"name": "future"},
        "spec": {"durabilityPolicy": "AT_LEAST_3", "futureField": {}},
        "status": {"phase": "Hibernating", "futureField": 1},
    }))
    .unwrap();
    assert_eq!(cluster.spec.durability_policy, Some(DurabilityPolicy::Unknown));
    assert_eq!(cluster.status.unwrap().phase, Some(Phase::Unknown));
}

#[test]
fn a_partial_status_is_readable() {
    let shard: Shard = serde_json::from_value(json!({
        "apiVersion": "multigres.com/v1alpha1",
        "kind": "Shard",
        "metadata": {"name": "s"},
        "spec": manifests("examples").iter().find(|m| m.name == "e17-children").unwrap().documents[2]["spec"],
        "status": {"conditions": []},
    }))
    .unwrap();
    assert!(!shard.status.unwrap().orch_ready);
}

#[test]
fn counters_and_flags_are_written_even_when_zero() {
    use shared::api::v1alpha1::{CellStatus, ClusterDatabaseStatus, ShardStatus, TableGroupStatus};
    assert_eq!(
        serde_json::to_value(CellStatus::default()).unwrap(),
        json!({"gatewayReplicas": 0, "gatewayReadyReplicas": 0})
    );
    assert_eq!(serde_json::to_value(TableGroupStatus::default()).unwrap(), json!({"readyShards": 0, "totalShards": 0}));
    assert_eq!(serde_json::to_value(ShardStatus::default()).unwrap(), json!({"orchReady": false, "poolsReady": false}));
    assert_eq!(
        serde_json::to_value(ClusterDatabaseStatus::default()).unwrap(),
        json!({"readyShards": 0, "totalShards": 0})
    );
}
