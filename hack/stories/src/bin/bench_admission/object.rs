//! What is reviewed: the largest valid cluster, and the sample with three cells.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

/// The objects by title.
pub fn all() -> Result<Vec<(&'static str, Value)>> {
    Ok(vec![("20 table groups, 8 pools, 50 cells", largest()), ("`samples/demo-multi-az.yaml`", sample()?)])
}

fn sample() -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/demo-multi-az.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut object: Value = serde_saphyr::from_str(&text)?;
    object["metadata"]["namespace"] = json!("default");
    Ok(object)
}

/// As much as the schema takes: every list as long as it may be, each pool in as many cells as it may span.
fn largest() -> Value {
    let cells: Vec<String> = (0..50).map(|index| format!("zone-{index:02}")).collect();
    let pools: Map<String, Value> = (0..8)
        .map(|index| {
            let cells: Vec<&String> = cells.iter().skip(index * 5).take(10).collect();
            let pool = json!({
                "type": "readWrite",
                "cells": cells,
                "replicasPerCell": 1,
                "storage": {"size": "100Gi", "class": "standard"},
                "postgres": {"resources": {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}},
            });
            (format!("pool-{index}"), pool)
        })
        .collect();
    let groups: Vec<Value> = (0..20)
        .map(|index| {
            let name = if index == 0 { "default".to_owned() } else { format!("group-{index:02}") };
            json!({"name": name, "shards": [{"name": "0-inf", "spec": {"pools": pools}}]})
        })
        .collect();
    let cells: Vec<Value> = cells
        .iter()
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
