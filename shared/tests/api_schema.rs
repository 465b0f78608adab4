//! The generated definitions hold what the API server and `kubectl apply` ask of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use rstest::rstest;
use serde_json::{Map, Value, json};

/// Fields whose schema is that of an embedded Kubernetes type.
const EMBEDDED: [&str; 5] = ["affinity", "resources", "tolerations", "conditions", "imagePullSecrets"];

/// The definitions, generated once because that takes a while in a debug build.
fn crds() -> &'static [CustomResourceDefinition] {
    static CRDS: LazyLock<Vec<CustomResourceDefinition>> = LazyLock::new(shared::api::crds);
    &CRDS
}

fn crd(kind: &str) -> &'static CustomResourceDefinition {
    crds().iter().find(|crd| crd.spec.names.kind == kind).unwrap()
}

fn root(crd: &CustomResourceDefinition) -> Value {
    let version = serde_json::to_value(&crd.spec.versions[0]).unwrap();
    version["schema"]["openAPIV3Schema"].clone()
}

/// Calls `visit` with the path and the schema of every node of a schema.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Map<String, Value>)) {
    let Value::Object(map) = schema else { return };
    visit(path, map);
    for (name, inner) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
        walk(&format!("{path}.{name}"), inner, visit);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = map.get(key) {
            walk(&format!("{path}{mark}"), inner, visit);
        }
    }
}

fn walk_all(visit: &mut impl FnMut(&str, &Map<String, Value>)) {
    for crd in crds() {
        walk(&crd.spec.names.kind, &root(crd), visit);
    }
}

/// Whether the path leads into an embedded type, not only to it.
fn inside_embedded(path: &str) -> bool {
    let mut segments: Vec<&str> = path.split(['.', '[', '{']).filter(|s| !s.is_empty()).collect();
    if !path.ends_with([']', '}']) {
        segments.pop();
    }
    segments.iter().any(|segment| EMBEDDED.contains(segment))
}

#[test]
fn crds_fit_their_size_budget() {
    let sizes: Vec<(String, usize)> =
        crds().iter().map(|crd| (crd.spec.names.kind.clone(), serde_json::to_string(crd).unwrap().len())).collect();
    assert!(sizes.iter().all(|(_, size)| *size < 200_000), "{sizes:?}");
    assert!(sizes.iter().map(|(_, size)| size).sum::<usize>() < 450_000, "{sizes:?}");
}

#[rstest]
#[case("MultigresCluster", "multigresclusters", "mgc")]
#[case("CoreTemplate", "coretemplates", "cot")]
#[case("CellTemplate", "celltemplates", "cet")]
#[case("ShardTemplate", "shardtemplates", "sht")]
#[case("Cell", "cells", "cel")]
#[case("TableGroup", "tablegroups", "tbg")]
#[case("Shard", "shards", "srd")]
#[case("TopoServer", "toposervers", "tps")]
#[case("MultigresBackup", "multigresbackups", "mgb")]
fn kinds_have_their_names(#[case] kind: &str, #[case] plural: &str, #[case] short: &str) {
    let crd = crd(kind);
    assert_eq!(crd.metadata.name.as_deref(), Some(format!("{plural}.multigres.com").as_str()));
    assert_eq!(crd.spec.group, "multigres.com");
    assert_eq!(crd.spec.scope, "Namespaced");
    let names = &crd.spec.names;
    assert_eq!(names.plural, plural);
    assert_eq!(names.singular.as_deref(), Some(kind.to_lowercase().as_str()));
    assert_eq!(names.short_names.as_deref(), Some([short.to_owned()].as_slice()));
    assert_eq!(names.categories.as_deref(), Some(["multigres".to_owned()].as_slice()));
    assert_eq!(crd.spec.versions.len(), 1);
    let version = &crd.spec.versions[0];
    assert_eq!((version.name.as_str(), version.served, version.storage), ("v1alpha1", true, true));
}

#[rstest]
#[case("MultigresCluster", &["Available", "Age", "Phase", "Images/1"])]
#[case("CoreTemplate", &["Age"])]
#[case("CellTemplate", &["Age"])]
#[case("ShardTemplate", &["Age"])]
#[case("Cell", &["Gateway", "Ready", "Phase", "Age", "Zone/1", "Zone-Id/1", "Region/1"])]
#[case("TableGroup", &["Shards", "Phase", "Age", "Total/1"])]
#[case("Shard", &["Ready", "Phase", "Primary", "Age", "Pods/1", "Last-Backup/1"])]
#[case("TopoServer", &["Ready", "Phase", "Age"])]
#[case("MultigresBackup", &["Cluster", "Type", "Phase", "Size", "Duration", "Age", "Backup/1", "Table-Group/1", "Message/1"])]
fn kinds_print_their_columns(#[case] kind: &str, #[case] columns: &[&str]) {
    let crd = crd(kind);
    let schema = root(crd);
    let printed = crd.spec.versions[0].additional_printer_columns.clone().unwrap();
    let shown: Vec<String> = printed
        .iter()
        .map(|column| match column.priority {
            None | Some(0) => column.name.clone(),
            Some(priority) => format!("{}/{priority}", column.name),
        })
        .collect();
    assert_eq!(shown, columns);
    for column in printed {
        let path = column.json_path.split('[').next().unwrap().trim_start_matches('.');
        if path.starts_with("metadata") {
            continue;
        }
        let pointer = format!("/properties/{}", path.replace('.', "/properties/"));
        assert!(schema.pointer(&pointer).is_some(), "{kind} prints {path}, which it does not have");
    }
}

#[test]
fn subresources_are_those_of_the_kinds() {
    for crd in crds() {
        let version = serde_json::to_value(&crd.spec.versions[0]).unwrap();
        let subresources = version.get("subresources").cloned().unwrap_or_else(|| json!({}));
        let expected = match crd.spec.names.kind.as_str() {
            "CoreTemplate" | "CellTemplate" | "ShardTemplate" => json!({}),
            "Shard" => json!({
                "status": {},
                "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.readyReplicas"},
            }),
            _ => json!({"status": {}}),
        };
        assert_eq!(subresources, expected, "{}", crd.spec.names.kind);
    }
}

#[test]
fn schemas_are_structural() {
    const KEYWORDS: [&str; 24] = [
        "additionalProperties",
        "anyOf",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "pattern",
        "properties",
        "required",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-map-type",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    ];
    walk_all(&mut |path, schema| {
        for key in schema.keys() {
            assert!(KEYWORDS.contains(&key.as_str()), "{path} uses {key}");
        }
        let quantity = schema.contains_key("x-kubernetes-int-or-string");
        assert_eq!(schema.contains_key("type"), !quantity, "{path} has the wrong idea of its type");
        assert_eq!(schema.contains_key("anyOf"), quantity, "{path} has alternatives");
        if quantity {
            assert_eq!(schema["anyOf"], json!([{"type": "integer"}, {"type": "string"}]), "{path}");
            assert!(schema.contains_key("pattern"), "{path} takes any string");
        }
        if let Some(format) = schema.get("format") {
            assert!(["int32", "int64", "date-time"].contains(&format.as_str().unwrap()), "{path}: {format}");
        }
        assert_ne!(schema.get("additionalProperties"), Some(&json!(false)), "{path} is closed");
        assert!(!(schema.contains_key("properties") && schema.contains_key("additionalProperties")), "{path}");
    });
}

#[test]
fn the_server_fills_in_only_known_defaults() {
    let mut defaults = Vec::new();
    walk_all(&mut |path, schema| {
        if let Some(value) = schema.get("default") {
            defaults.push((path.to_owned(), value.clone()));
        }
    });
    for (path, value) in defaults {
        let expected = match path.rsplit('.').next().unwrap() {
            "spec" if path.matches('.').count() == 1 => json!({}),
            "postgresSuperuser" if path == "MultigresCluster.spec.postgresSuperuser" => json!("postgres"),
            "database" if path == "MultigresBackup.spec.database" => json!("postgres"),
            "tableGroup" if path == "MultigresBackup.spec.tableGroup" => json!("default"),
            "shard" if path == "MultigresBackup.spec.shard" => json!("0-inf"),
            "type" if path == "MultigresBackup.spec.type" => json!("full"),
            "deletionPolicy" if path == "MultigresBackup.spec.deletionPolicy" => json!("Retain"),
            "key" if path.ends_with("samplingConfigRef.key") => json!("sampling-config.yaml"),
            "name" if path.ends_with("imagePullSecrets[].name") => json!(""),
            _ => panic!("{path} has the default {value}"),
        };
        assert_eq!(value, expected, "{path}");
    }
}

#[rstest]
#[case("MultigresCluster", json!(null), json!({}))]
#[case("CoreTemplate", json!(null), json!({}))]
#[case("CellTemplate", json!(null), json!({}))]
#[case("ShardTemplate", json!(null), json!({}))]
#[case("Cell", json!(["spec"]), json!(null))]
#[case("TableGroup", json!(["spec"]), json!(null))]
#[case("Shard", json!(["spec"]), json!(null))]
#[case("TopoServer", json!(["spec"]), json!(null))]
#[case("MultigresBackup", json!(["spec"]), json!(null))]
fn every_stored_object_has_a_spec(#[case] kind: &str, #[case] required: Value, #[case] default: Value) {
    let schema = root(crd(kind));
    assert_eq!(schema["required"], required);
    assert_eq!(schema["properties"]["spec"]["default"], default);
}

#[test]
fn no_status_field_is_required() {
    walk_all(&mut |path, schema| {
        let in_status = path.split('.').nth(1) == Some("status");
        if in_status && !path.ends_with("conditions[]") {
            assert_eq!(schema.get("required"), None, "{path}");
        }
    });
}

#[test]
fn every_own_field_has_one_sentence_of_documentation() {
    let mut checked = 0;
    walk_all(&mut |path, schema| {
        let name = path.rsplit('.').next().unwrap();
        let ours = !inside_embedded(path) && path.matches('.').count() > 1 && !path.ends_with([']', '}']);
        if !ours || ["apiVersion", "kind", "metadata"].contains(&name) {
            return;
        }
        let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        assert!(text.ends_with('.') && !text.contains('\n'), "{path}: {text:?}");
        assert!(text.len() <= 130, "{path} says too much: {text:?}");
        checked += 1;
    });
    assert!(checked > 500, "only {checked} fields were looked at");
}

#[test]
fn embedded_types_carry_no_documentation_and_merge_as_in_the_core_api() {
    let mut lists = 0;
    walk_all(&mut |path, schema| {
        if !inside_embedded(path) {
            return;
        }
        assert!(!schema.contains_key("description"), "{path}");
        if path.contains("affinity.") && schema["type"] == "array" {
            assert_eq!(schema.get("x-kubernetes-list-type"), Some(&json!("atomic")), "{path}");
            lists += 1;
        }
        if path.ends_with("labelSelector") || path.ends_with("namespaceSelector") {
            assert_eq!(schema.get("x-kubernetes-map-type"), Some(&json!("atomic")), "{path}");
        }
    });
    assert!(lists > 0, "no affinity was looked at");
}

#[test]
fn conditions_are_merged_by_type() {
    for kind in ["MultigresCluster", "Cell", "TableGroup", "Shard", "TopoServer", "MultigresBackup"] {
        let conditions = root(crd(kind))["properties"]["status"]["properties"]["conditions"].clone();
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{kind}");
        assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]), "{kind}");
    }
}

/// The API server multiplies the cost of a rule by the size of all lists and maps around it.
#[test]
fn everything_around_a_rule_is_bounded() {
    let mut bounded = std::collections::BTreeMap::new();
    let mut ruled = Vec::new();
    walk_all(&mut |path, schema| {
        let limit = match schema.get("type").and_then(Value::as_str) {
            Some("array") => schema.get("maxItems"),
            Some("object") if schema.contains_key("additionalProperties") => schema.get("maxProperties"),
            _ => Some(&Value::Null),
        };
        bounded.insert(path.to_owned(), limit.is_some());
        if schema.contains_key("x-kubernetes-validations") {
            ruled.push(path.to_owned());
        }
    });
    assert!(ruled.len() > 60, "only {} places have rules", ruled.len());
    for path in ruled {
        let around = path.match_indices(['[', '{']).map(|(end, _)| &path[..end]).chain([path.as_str()]);
        for around in around {
            assert!(bounded[around], "{around} is unbounded and encloses the rule of {path}");
        }
    }
}

#[test]
fn rules_keep_to_the_language_of_the_oldest_supported_server() {
    walk_all(&mut |path, schema| {
        for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
            let rule = rule.as_object().unwrap();
            assert_eq!(rule.keys().collect::<Vec<_>>(), ["message", "rule"], "{path}");
            let text = rule["rule"].as_str().unwrap();
            for newer in ["isIP", "quantity(", "format(", "?.", "optional", "sets.", "isURL", "ip("] {
                assert!(!text.contains(newer), "{path} uses {newer}");
            }
        }
    });
}

#[rstest]
#[case("/spec/properties/globalTopoServer")]
#[case("/spec/properties/databases/items/properties/tablegroups/items/properties/shards/items/properties/spec")]
#[case("/spec")]
fn volume_policies_are_inherited_key_by_key(#[case] place: &str) {
    let schema = root(crd("MultigresCluster"));
    let policy = schema.pointer(&format!("/properties{place}/properties/pvcDeletionPolicy")).unwrap();
    assert_eq!(policy.get("default"), None);
    for key in ["whenDeleted", "whenScaled"] {
        assert_eq!(policy["properties"][key]["enum"], json!(["Retain", "Delete"]));
        assert_eq!(policy["properties"][key].get("default"), None);
    }
}

#[test]
fn enumerations_offer_what_users_may_write_and_no_more() {
    let schema = root(crd("MultigresCluster"));
    let spec = &schema["properties"]["spec"]["properties"];
    assert_eq!(spec["durabilityPolicy"]["enum"], json!(["AT_LEAST_2", "MULTI_CELL_AT_LEAST_2"]));
    assert_eq!(spec["backup"]["properties"]["type"]["enum"], json!(["filesystem", "s3"]));
    assert_eq!(spec["backup"]["properties"]["filesystem"]["properties"]["scope"]["enum"], json!(["Cell", "Shard"]));
    let phases = &schema["properties"]["status"]["properties"]["phase"]["enum"];
    assert_eq!(*phases, json!(["Initializing", "Progressing", "Healthy", "Degraded", "Unknown"]));
    let kinds = &root(crd("Shard"))["properties"]["status"]["properties"]["lastBackupType"]["enum"];
    assert_eq!(*kinds, json!(["full", "diff", "incr"]));
}
