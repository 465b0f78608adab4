//! Schemas of embedded Kubernetes types and of recurring lists and maps.
//!
//! The schemas that `k8s-openapi` derives lack merge rules, limits and patterns and carry descriptions that would make
//! the definitions too big to apply. Fields refer to these functions with `schemars(schema_with = …)`.

use k8s_openapi::api::core::v1::Affinity;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::rule;

/// Pod affinity: the core type without descriptions, with the merge rules of the core API.
pub fn affinity(generator: &mut SchemaGenerator) -> Schema {
    let mut value = generator.subschema_for::<Affinity>().to_value();
    trim(&mut value);
    Schema::try_from(value).unwrap_or_default()
}

/// Compute resources: requests, limits and claims.
pub fn resources(_: &mut SchemaGenerator) -> Schema {
    let quantities = json!({
        "type": "object",
        "additionalProperties": {
            "pattern": rule::QUANTITY,
            "x-kubernetes-int-or-string": true,
        },
    });
    json_schema!({
        "type": "object",
        "properties": {
            "claims": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "request": {"type": "string"}},
                    "required": ["name"],
                },
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
            "limits": quantities,
            "requests": quantities,
        },
    })
}

/// Pod tolerations.
pub fn tolerations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": {
            "type": "object",
            "properties": {
                "effect": {"type": "string"},
                "key": {"type": "string"},
                "operator": {"type": "string"},
                "tolerationSeconds": {"type": "integer", "format": "int64"},
                "value": {"type": "string"},
            },
        },
    })
}

/// References to pull secrets.
pub fn pull_secrets(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": {
            "type": "object",
            "properties": {"name": {"type": "string", "default": ""}},
            "x-kubernetes-map-type": "atomic",
        },
    })
}

/// Status conditions, merged by type.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "message": {"type": "string", "maxLength": 32768},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "reason": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "type": {
                    "type": "string",
                    "maxLength": 316,
                    "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                },
            },
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        },
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// A point in time.
pub fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// Annotations of pods.
pub fn pod_annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 20,
        "additionalProperties": {"type": "string", "maxLength": 255},
        "x-kubernetes-validations": [rule::ANNOTATION_KEY],
    })
}

/// Labels of pods.
pub fn pod_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 20,
        "additionalProperties": {"type": "string", "maxLength": 63},
        "x-kubernetes-validations": [rule::LABEL_KEY],
    })
}

/// Annotations of an exposed Service.
pub fn service_annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 20,
        "additionalProperties": {"type": "string"},
        "x-kubernetes-validations": [rule::SERVICE_ANNOTATION],
    })
}

/// PostgreSQL settings by name.
pub fn postgres_config(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 200,
        "additionalProperties": {"type": "string"},
    })
}

/// The cells that host a pool: absent means all of them, so an empty list is refused.
pub fn pool_cells(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 10,
        "items": cell_name(),
        "x-kubernetes-list-type": "set",
    })
}

/// A set of cell names.
pub fn cell_set(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 50,
        "items": cell_name(),
        "x-kubernetes-list-type": "set",
    })
}

/// Access modes of a volume.
pub fn access_modes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 4,
        "items": {
            "type": "string",
            "enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"],
        },
    })
}

/// Client URLs of an etcd cluster.
pub fn etcd_endpoints(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 20,
        "items": {"type": "string", "minLength": 1, "maxLength": 2048, "pattern": rule::HTTP_URL},
        "x-kubernetes-list-type": "set",
    })
}

/// Addresses on which a Service is reachable from outside.
pub fn external_ips(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 10,
        "items": {"type": "string", "minLength": 3, "maxLength": 45, "pattern": rule::IP_ADDRESS},
    })
}

/// Table groups under their alias spelling: opaque here to save size, checked by admission like the canonical list.
pub fn opaque_table_groups(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 20,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

/// Names of templates.
pub fn template_names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 63},
    })
}

fn cell_name() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 30, "pattern": rule::DNS_LABEL})
}

/// Removes descriptions and marks lists and selectors atomic, as the core API declares them inside an affinity.
fn trim(value: &mut Value) {
    let Value::Object(schema) = value else { return };
    schema.remove("description");
    if schema.get("type").is_some_and(|kind| kind == "array") {
        schema.insert("x-kubernetes-list-type".into(), "atomic".into());
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        let selector = properties.contains_key("matchLabels") && properties.contains_key("matchExpressions");
        let node_term = properties.contains_key("matchFields") || properties.contains_key("nodeSelectorTerms");
        properties.values_mut().for_each(trim);
        if selector || node_term {
            schema.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            trim(inner);
        }
    }
    for key in ["anyOf", "allOf", "oneOf"] {
        if let Some(Value::Array(inner)) = schema.get_mut(key) {
            inner.iter_mut().for_each(trim);
        }
    }
}
