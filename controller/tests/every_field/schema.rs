//! The fields that the generated definitions have: every leaf below `spec`, lists and maps by one element.

use std::sync::LazyLock;

use serde_json::Value;

/// One step from a schema to the schema of something inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A named field.
    Key(String),
    /// An item of a list.
    Item,
    /// A value of a map.
    Entry,
}

/// A leaf of a definition.
#[derive(Clone, Debug)]
pub struct Field {
    /// The kind whose spec it is in.
    pub kind: &'static str,
    /// The way to it, from the spec.
    pub steps: Vec<Step>,
    /// Its schema.
    pub schema: Value,
}

impl Field {
    /// Kind and way, by which the lists of exceptions know it.
    pub fn id(&self) -> String {
        format!("{}:{}", self.kind, self.path())
    }

    /// The way to it as text, such as `cells[].spec.multigateway.podLabels{}`.
    pub fn path(&self) -> String {
        path(&self.steps)
    }
}

/// A way as text.
pub fn path(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Key(name) if text.is_empty() => text.push_str(name),
            Step::Key(name) => {
                text.push('.');
                text.push_str(name);
            }
            Step::Item => text.push_str("[]"),
            Step::Entry => text.push_str("{}"),
        }
    }
    text
}

/// The schema of the spec of a kind.
pub fn spec(kind: &str) -> &'static Value {
    static CRDS: LazyLock<Vec<(String, Value)>> = LazyLock::new(|| {
        let schema =
            |crd| serde_json::to_value(crd).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
        shared::api::crds().into_iter().map(|crd| (crd.spec.names.kind.clone(), schema(crd))).collect()
    });
    let (_, root) = CRDS.iter().find(|(known, _)| known == kind).unwrap();
    &root["properties"]["spec"]
}

/// All leaves of the spec of a kind.
pub fn fields(kind: &'static str) -> Vec<Field> {
    let mut found = Vec::new();
    walk(spec(kind), &mut Vec::new(), &mut |steps, schema| {
        found.push(Field { kind, steps: steps.to_vec(), schema: schema.clone() });
    });
    found
}

fn walk(schema: &Value, steps: &mut Vec<Step>, found: &mut impl FnMut(&[Step], &Value)) {
    if is_leaf(schema) {
        return found(steps, schema);
    }
    let before = steps.len();
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        steps.push(Step::Key(name.clone()));
        walk(inner, steps, found);
        steps.pop();
    }
    for (key, step) in [("items", Step::Item), ("additionalProperties", Step::Entry)] {
        if schema[key].is_object() {
            steps.push(step);
            walk(&schema[key], steps, found);
            steps.pop();
        }
    }
    let known = ["properties", "items", "additionalProperties"].iter().any(|key| schema[*key].is_object());
    assert!(known, "{}: this test does not know how to look into {schema}", path(steps));
    debug_assert_eq!(before, steps.len());
}

/// Whether a value of this schema is set as a whole: a scalar, or content that the schema leaves open.
fn is_leaf(schema: &Value) -> bool {
    let scalar = matches!(schema["type"].as_str(), Some("string" | "integer" | "number" | "boolean"));
    scalar
        || schema["x-kubernetes-int-or-string"] == Value::Bool(true)
        || schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(true)
}

/// The schema one step further.
pub fn inside<'s>(schema: &'s Value, step: &Step) -> &'s Value {
    match step {
        Step::Key(name) => &schema["properties"][name],
        Step::Item => &schema["items"],
        Step::Entry => &schema["additionalProperties"],
    }
}
