//! JSON Schemas of all kinds that an API server serves, for checks of manifests that ask no server (kubeconform).
//!
//! An API server publishes OpenAPI 3.0, whose schemas are those of JSON Schema draft 4 but for `nullable`. Here they refuse unknown fields,
//! too, as the server does only for those who ask it to.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::process;

/// Where the server's schemas refer to each other.
const PUBLISHED: &str = "#/components/schemas/";
/// The same in what is written.
const WRITTEN: &str = "#/definitions/";

/// Writes a file for each kind of the API server that `KUBECONFIG` names, `<group>_<version>_<kind>.json` in lower case; the core has its
/// version for a group. Answers how many there are.
pub fn write(kubectl: &Path, folder: &Path) -> Result<usize> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let index = raw(kubectl, "/openapi/v3")?;
    let places = index["paths"].as_object().context("the API server publishes no OpenAPI 3.0")?;
    let mut count = 0;
    // Others, such as /version, have no kinds.
    for (_, place) in places.iter().filter(|(path, _)| path.starts_with("api/") || path.starts_with("apis/")) {
        let address = place["serverRelativeURL"].as_str().with_context(|| format!("no address in {place}"))?;
        for (file, schema) in schemas(&raw(kubectl, address)?) {
            let path = folder.join(file);
            fs::write(&path, schema.to_string()).with_context(|| format!("writing {}", path.display()))?;
            count += 1;
        }
    }
    ensure!(count > 0, "the API server publishes no kinds");
    Ok(count)
}

/// What the API server answers at a path.
fn raw(kubectl: &Path, path: &str) -> Result<Value> {
    let mut command = Command::new(kubectl);
    command.args(["get", "--raw", path]);
    serde_json::from_str(&process::output(&mut command)?).with_context(|| format!("reading {path}"))
}

/// The schemas of the kinds of a published document, by the names of their files.
fn schemas(document: &Value) -> Vec<(String, Value)> {
    let Some(published) = document.pointer("/components/schemas").and_then(Value::as_object) else {
        return Vec::new();
    };
    published.iter().filter_map(|(name, schema)| Some((file_name(schema)?, standalone(name, published)))).collect()
}

/// None for what is not a kind of object; what belongs to every group, such as options of a deletion, lists many.
fn file_name(schema: &Value) -> Option<String> {
    let [kind] = schema["x-kubernetes-group-version-kind"].as_array()?.as_slice() else { return None };
    let version = kind["version"].as_str()?;
    let group = kind["group"].as_str().filter(|group| !group.is_empty()).unwrap_or(version);
    Some(format!("{group}_{version}_{}.json", kind["kind"].as_str()?).to_lowercase())
}

/// The schema of this name with all others that it needs.
fn standalone(name: &str, published: &Map<String, Value>) -> Value {
    let mut definitions = Map::new();
    let mut wanted = vec![name.to_owned()];
    while let Some(name) = wanted.pop() {
        if !definitions.contains_key(&name)
            && let Some(schema) = published.get(&name)
        {
            let schema = converted(schema, true, &mut wanted);
            definitions.insert(name, schema);
        }
    }
    json!({
        "$schema": "http://json-schema.org/draft-04/schema#",
        "allOf": [{ "$ref": format!("{WRITTEN}{name}") }],
        "definitions": definitions,
    })
}

/// The schema in the terms of JSON Schema; `closed` where it lists all fields that there are. Adds what it refers to.
fn converted(schema: &Value, closed: bool, refers: &mut Vec<String>) -> Value {
    let Value::Object(schema) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in schema {
        let value: Value = match (key.as_str(), value) {
            ("$ref", Value::String(reference)) => {
                let name = reference.trim_start_matches(PUBLISHED);
                refers.push(name.to_owned());
                format!("{WRITTEN}{name}").into()
            }
            ("properties", Value::Object(properties)) => {
                let of = |(name, schema): (&String, &Value)| (name.clone(), converted(schema, closed, refers));
                Value::Object(properties.iter().map(of).collect())
            }
            ("items" | "additionalProperties", schema) => converted(schema, closed, refers),
            // Parts of a judgement name the fields that they are about, and no others.
            ("not", schema) => converted(schema, false, refers),
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => {
                parts.iter().map(|part| converted(part, false, refers)).collect()
            }
            // For people, or for the server alone.
            ("default" | "description" | "example" | "nullable", _) => continue,
            _ if key.starts_with("x-") => continue,
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    let is = |key: &str| schema.get(key) == Some(&Value::Bool(true));
    let lists_fields = schema.get("properties").and_then(Value::as_object).is_some_and(|fields| !fields.is_empty());
    if closed
        && lists_fields
        && !schema.contains_key("additionalProperties")
        && !is("x-kubernetes-preserve-unknown-fields")
    {
        out.insert("additionalProperties".to_owned(), false.into());
    }
    if is("nullable")
        && let Some(kind @ Value::String(_)) = schema.get("type")
    {
        out.insert("type".to_owned(), json!([kind, "null"]));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        json!({ "components": { "schemas": {
            "io.apps.Deployment": {
                "type": "object",
                "description": "for people",
                "properties": { "spec": { "allOf": [{ "$ref": "#/components/schemas/io.apps.Spec" }], "default": {} } },
                "x-kubernetes-group-version-kind": [{ "group": "apps", "version": "v1", "kind": "Deployment" }],
            },
            "io.apps.Spec": {
                "type": "object",
                "properties": {
                    "again": { "$ref": "#/components/schemas/io.apps.Spec" },
                    "count": { "type": "integer", "nullable": true },
                    "labels": { "type": "object", "additionalProperties": { "type": "string" } },
                    "anything": { "type": "object", "properties": { "a": {} }, "x-kubernetes-preserve-unknown-fields": true },
                    "$ref": { "type": "string" },
                },
                "anyOf": [{ "properties": { "count": { "minimum": 1 } } }],
            },
            "io.core.Pod": {
                "type": "object",
                "x-kubernetes-group-version-kind": [{ "group": "", "version": "v1", "kind": "Pod" }],
            },
            "io.meta.DeleteOptions": {
                "x-kubernetes-group-version-kind": [
                    { "group": "", "version": "v1", "kind": "DeleteOptions" },
                    { "group": "apps", "version": "v1", "kind": "DeleteOptions" },
                ],
            },
        } } })
    }

    #[test]
    fn each_kind_has_a_file_of_its_own() {
        let names: Vec<String> = schemas(&document()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["apps_v1_deployment.json", "v1_v1_pod.json"]);
        assert!(schemas(&json!({ "paths": {} })).is_empty());
    }

    #[test]
    fn a_schema_stands_alone_and_lists_all_fields() {
        let (_, schema) = schemas(&document()).swap_remove(0);
        assert_eq!(schema["allOf"], json!([{ "$ref": "#/definitions/io.apps.Deployment" }]));
        let definitions = schema["definitions"].as_object().unwrap();
        assert_eq!(definitions.keys().collect::<Vec<_>>(), ["io.apps.Deployment", "io.apps.Spec"]);
        let expected = json!({
            "type": "object",
            "properties": { "spec": { "allOf": [{ "$ref": "#/definitions/io.apps.Spec" }] } },
            "additionalProperties": false,
        });
        assert_eq!(definitions["io.apps.Deployment"], expected);
        let spec = &definitions["io.apps.Spec"];
        assert_eq!(spec["additionalProperties"], false);
        assert_eq!(spec["properties"]["count"], json!({ "type": ["integer", "null"] }));
        assert_eq!(spec["properties"]["labels"]["additionalProperties"], json!({ "type": "string" }));
        assert_eq!(spec["properties"]["anything"], json!({ "type": "object", "properties": { "a": {} } }));
        assert_eq!(spec["properties"]["$ref"], json!({ "type": "string" }), "the name of a field is no reference");
        assert_eq!(spec["anyOf"], json!([{ "properties": { "count": { "minimum": 1 } } }]));
    }
}
