//! Legal values for a field, told by its schema and, where that says too little, by its name.

use serde_json::{Value, json};
use shared::api::v1alpha1::rule;

use crate::schema::{Field, Step};

/// Values by the end of the way to a field, for fields whose schema leaves more open than is legal. The first match counts.
fn by_name(path: &str) -> Option<Vec<Value>> {
    let group = |orchestrators: i32| {
        let shard = json!({"name": "0-inf", "spec": {"multiorch": {"replicas": orchestrators}}});
        json!({"name": "default", "shards": [shard]})
    };
    let values = match path {
        "imageUpdatePolicy.strategy" => json!(["lazy", "immediate", "paused"]),
        "imageUpdatePolicy.acknowledgedRevision" => json!(["0a", crate::input::other_images().revision()]),
        _ if path.ends_with("tableGroups[]") => json!([group(2), group(3)]),
        _ if path.ends_with("databases[].name") => json!(["postgres", "alpha"]),
        _ if path.ends_with("shards[].name") => json!(["0-inf", "alpha"]),
        _ if path.ends_with("tablegroups[].name") => json!(["default", "alpha"]),
        _ if path.ends_with("cells[]") => json!(["zone-a", "zone-b"]),
        _ if path.ends_with("schedule.timeZone") => json!(["UTC", "Europe/Berlin"]),
        _ if ["full", "differential", "incremental"]
            .iter()
            .any(|level| path.ends_with(&format!("schedule.{level}"))) =>
        {
            json!(["30 2 * * *", "30 3 * * SUN"])
        }
        _ if path.ends_with("etcd.replicas") => json!([3, 5]),
        _ if path.ends_with("postgresConfig{}") => json!(["8MB", "16MB"]),
        _ if path.ends_with("metricExportInterval") => json!(["30000", "60000"]),
        _ if path.ends_with("filesystem.path") || path.ends_with("rootPath") => json!(["/alpha", "/beta"]),
        _ if path.ends_with("external.implementation") => json!(["etcd", "alpha"]),
        _ if path.ends_with("tolerations[].operator") => json!(["Exists", "Equal"]),
        _ if path.ends_with("tolerations[].effect") => json!(["NoSchedule", "NoExecute"]),
        _ if path.ends_with("xpressions[].operator") || path.ends_with("Fields[].operator") => json!(["In", "NotIn"]),
        _ if path.ends_with("Endpoint") => json!(["http://alpha:4318", "http://beta:4318"]),
        _ => return None,
    };
    values.as_array().cloned()
}

/// Values of a pattern that the API uses.
fn by_pattern(pattern: &str) -> Option<[&'static str; 2]> {
    Some(match pattern {
        rule::DNS_LABEL | rule::DNS_SUBDOMAIN | rule::DATA_KEY => ["alpha", "beta"],
        rule::STORAGE_SIZE => ["10Gi", "20Gi"],
        rule::GO_DURATION => ["10s", "15s"],
        rule::IP_ADDRESS => ["198.51.100.10", "198.51.100.11"],
        rule::HTTP_URL => ["http://etcd-0.infra:2379", "http://etcd-1.infra:2379"],
        rule::IMAGE_REVISION => ["0a", "0b"],
        rule::QUANTITY => ["64Mi", "128Mi"],
        _ => return None,
    })
}

/// Values that the schema of the field allows, at least one of them.
pub fn legal(field: &Field) -> Vec<Value> {
    of(&field.path(), &field.schema)
}

/// Values that a schema at the end of that way allows.
pub fn of(path: &str, schema: &Value) -> Vec<Value> {
    if let Some(values) = by_name(path) {
        return values;
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.clone();
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let values = by_pattern(pattern);
        let values = values.unwrap_or_else(|| panic!("{path}: this test knows no values of the pattern {pattern}"));
        return values.map(Value::from).to_vec();
    }
    match schema["type"].as_str() {
        Some("boolean") => vec![true.into(), false.into()],
        Some("integer") => {
            let least = schema["minimum"].as_f64().unwrap_or(0.0);
            // Whole numbers by schema, and small ones.
            #[expect(clippy::cast_possible_truncation, reason = "limits of the schema are whole numbers")]
            let least = (least as i64).max(1);
            vec![least.into(), (least + 1).into()]
        }
        Some("string") => vec!["alpha".into(), "beta".into()],
        other => panic!("{path}: this test cannot vary a field of type {other:?}: {schema}"),
    }
}

/// The smallest value of a schema: a scalar, or what is required of an object.
pub fn sample(path: &str, schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let property =
                |name: &str| (name.to_owned(), sample(&format!("{path}.{name}"), &schema["properties"][name]));
            Value::Object(required.map(property).collect())
        }
        Some("array") => json!([sample(&format!("{path}[]"), &schema["items"])]),
        _ => of(path, schema).swap_remove(0),
    }
}

/// The key under which a map gets its value.
pub fn key(steps: &[Step]) -> &'static str {
    let Some(Step::Key(map)) = steps.last() else { panic!("a map without a name") };
    match map.as_str() {
        "pools" => "main",
        "podLabels" | "matchLabels" => "tier",
        "podAnnotations" | "annotations" => "team.example.com/owner",
        "limits" | "requests" => "memory",
        "postgresConfig" => "work_mem",
        _ => panic!("{}: this test knows no key of this map", crate::schema::path(steps)),
    }
}
