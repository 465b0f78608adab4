//! What is reviewed: the largest valid cluster, in each way to write it, and the sample with three cells.
//!
//! A database has at most 20 table groups, a shard at most 8 pools, a cluster at most 50 cells, and a pool spans at most 10 of them. So
//! each shard of a cluster with more than ten cells has to say where its pools are: either itself, or by a template.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use shared::{api::v1alpha1::ShardTemplateSpec, resolve::Templates};

/// Name of the template with eight pools.
const TEMPLATE: &str = "eight-pools";

/// The objects by title.
pub fn all() -> Result<Vec<(&'static str, Value)>> {
    let group = |index: usize, shard: Value| {
        let name = if index == 0 { "default".to_owned() } else { format!("group-{index:02}") };
        let mut shard = shard;
        shard["name"] = json!("0-inf");
        json!({"name": name, "shards": [shard]})
    };
    let largest =
        |shard: &dyn Fn(usize) -> Value| largest(&(0..20).map(|index| group(index, shard(index))).collect::<Vec<_>>());
    Ok(vec![
        ("20 table groups of a template with 8 pools, 50 cells", largest(&|_| json!({"shardTemplate": TEMPLATE}))),
        ("20 table groups with 8 pools each, 50 cells", largest(&|_| json!({"spec": {"pools": pools(100)}}))),
        ("the same, each table group different", largest(&|index| json!({"spec": {"pools": pools(100 + index)}}))),
        ("`samples/demo-multi-az.yaml`", sample()?),
    ])
}

/// The templates that exist.
pub fn templates() -> Result<Templates> {
    let template: ShardTemplateSpec = serde_json::from_value(json!({"pools": pools(100)}))?;
    Ok(Templates { shard: BTreeMap::from([(TEMPLATE.to_owned(), template)]), ..Templates::default() })
}

fn sample() -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/demo-multi-az.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut object: Value = serde_saphyr::from_str(&text)?;
    object["metadata"]["namespace"] = json!("default");
    Ok(object)
}

fn cell(index: usize) -> String {
    format!("zone-{index:02}")
}

/// As many pools as a shard may have, each in as many cells as it may span, with volumes of so many GiB.
fn pools(size: usize) -> Map<String, Value> {
    let pool = |index: usize| {
        let cells: Vec<String> = (index * 5..50.min(index * 5 + 10)).map(cell).collect();
        let pool = json!({
            "type": "readWrite",
            "cells": cells,
            "replicasPerCell": 1,
            "storage": {"size": format!("{size}Gi"), "class": "standard"},
            "postgres": {"resources": {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}},
        });
        (format!("pool-{index}"), pool)
    };
    (0..8).map(pool).collect()
}

/// A cluster with as many cells as it may have.
fn largest(groups: &[Value]) -> Value {
    let cells: Vec<Value> = (0..50)
        .map(cell)
        .map(|name| json!({"name": name, "zone": name, "spec": {"multigateway": {"replicas": 2}}}))
        .collect();
    json!({
        "apiVersion": "multigres.com/v1alpha1",
        "kind": "MultigresCluster",
        "metadata": {"name": "largest", "namespace": "default"},
        "spec": {
            "durabilityPolicy": "MULTI_CELL_AT_LEAST_2",
            "backup": {"type": "s3", "s3": {"bucket": "backups", "region": "us-east-1", "serviceAccountName": "backup"}},
            "cells": cells,
            "databases": [{"name": "postgres", "default": true, "tablegroups": groups}],
        },
    })
}

/// The body with which the API server would ask about the creation of the object.
pub fn review(object: &Value) -> Vec<u8> {
    let mut stored = object.clone();
    stored["metadata"]["uid"] = json!("5f0d5bb3-4f42-4a5a-9f0e-1b9be5c9a4c5");
    stored["metadata"]["creationTimestamp"] = json!("2025-01-01T00:00:00Z");
    stored["metadata"]["generation"] = json!(1);
    let resource = json!({"group": "multigres.com", "version": "v1alpha1", "resource": "multigresclusters"});
    let kind = json!({"group": "multigres.com", "version": "v1alpha1", "kind": "MultigresCluster"});
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": kind,
            "resource": resource,
            "requestKind": kind,
            "requestResource": resource,
            "name": object["metadata"]["name"],
            "namespace": object["metadata"]["namespace"],
            "operation": "CREATE",
            "userInfo": {"username": "admin", "uid": "014fbff9a07c", "groups": ["system:authenticated", "admins"]},
            "object": stored,
            "oldObject": null,
            "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
    .to_string()
    .into_bytes()
}
