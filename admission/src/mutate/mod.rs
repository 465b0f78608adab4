//! What is written into a MultigresCluster before it is stored: as little as possible.
//!
//! Three things only: the names of the databases when there are none, canonical spellings instead of their aliases, and the
//! trace context of the request. All else is resolved on each pass, so that later edits of templates take effect and an applied
//! manifest shows no difference. The patch names single members, so fields that are not known here stay as they are.

mod alias;
#[cfg(test)]
mod law;
mod trace;

use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, jsonptr::PointerBuf};
use memchr::memmem;
use serde_json::{Value, json};

use crate::review::text;

pub use trace::TraceContext;

/// What to change, and what to say about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mutation {
    /// What to change; none for nothing.
    pub patch: Option<Patch>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Decides what to change in a cluster that is created, or updated from `old`.
pub fn cluster(old: Option<&str>, object: &str, trace: Option<&TraceContext>) -> Mutation {
    if trace.is_none() && is_complete(object) {
        return Mutation::default();
    }
    if text::is_deleting(object) || old.is_some_and(|old| text::same_spec(old, object)) {
        return Mutation::default();
    }
    // What is no object or nested beyond reason is left as it is; schema and validation have their say about it.
    closely(old, object, trace).unwrap_or_default()
}

/// Whether certainly nothing is missing and nothing is spelled otherwise; false when it takes a closer look.
///
/// This is what nearly all requests come to, so the text is searched and not parsed.
fn is_complete(object: &str) -> bool {
    let Some(spec) = text::member(object, "spec") else { return true };
    text::member(spec, "databases").is_some() && !mentions_alias(spec.as_bytes())
}

/// Whether an alias may occur as a key: under its name, or under a name with an escaped letter.
fn mentions_alias(text: &[u8]) -> bool {
    let escaped_letter = || memmem::find_iter(text, br"\u00").any(|at| matches!(text.get(at + 4), Some(b'4'..=b'7')));
    alias::NAMES.iter().any(|name| memmem::find(text, name.as_bytes()).is_some()) || escaped_letter()
}

fn closely(old: Option<&str>, object: &str, trace: Option<&TraceContext>) -> serde_json::Result<Mutation> {
    let parse = |object| text::read_spec::<Value>(object).transpose();
    let spec = parse(object)?;
    let old = old.map(parse).transpose()?.flatten();
    let Some(Value::Object(members)) = &spec else { return Ok(Mutation::default()) };
    if old == spec {
        return Ok(Mutation::default());
    }
    let mut changes = Changes::default();
    if !members.contains_key("databases") {
        changes.add(&["spec", "databases"], skeleton());
    }
    if mentions_alias(object.as_bytes()) {
        alias::normalise(members, old.as_ref().and_then(Value::as_object), &mut changes);
    }
    if let Some(trace) = trace {
        trace::annotate(object, trace, &mut changes)?;
    }
    Ok(changes.finish())
}

/// The one database that this version supports, without anything that the user might want to decide.
fn skeleton() -> Value {
    json!([{
        "name": "postgres",
        "default": true,
        "tablegroups": [{"name": "default", "default": true, "shards": [{"name": "0-inf"}]}],
    }])
}

/// A patch in the making.
#[derive(Default)]
struct Changes {
    operations: Vec<PatchOperation>,
    warnings: Vec<String>,
}

impl Changes {
    fn add<S: AsRef<str>>(&mut self, path: &[S], value: Value) {
        self.operations.push(PatchOperation::Add(AddOperation { path: pointer(path), value }));
    }

    fn remove<S: AsRef<str>>(&mut self, path: &[S]) {
        self.operations.push(PatchOperation::Remove(RemoveOperation { path: pointer(path) }));
    }

    fn finish(self) -> Mutation {
        let patch = (!self.operations.is_empty()).then_some(Patch(self.operations));
        Mutation { patch, warnings: self.warnings }
    }
}

fn pointer<S: AsRef<str>>(path: &[S]) -> PointerBuf {
    PointerBuf::from_tokens(path.iter().map(AsRef::as_ref))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn create(object: &Value) -> Mutation {
        cluster(None, &object.to_string(), None)
    }

    fn update(old: &Value, object: &Value) -> Mutation {
        cluster(Some(&old.to_string()), &object.to_string(), None)
    }

    fn object(spec: &Value) -> Value {
        json!({"metadata": {"name": "demo"}, "spec": spec, "status": {"databases": [], "tableGroups": 1}})
    }

    fn spec_after(mutation: &Mutation, object: &Value) -> Value {
        let mut after = object.clone();
        json_patch::patch(&mut after, mutation.patch.as_ref().unwrap()).unwrap();
        after["spec"].take()
    }

    #[test]
    fn absent_databases_get_their_names_and_nothing_else() {
        let bare = object(&json!({"cells": [{"name": "a", "future": 1}]}));
        let mutation = create(&bare);
        insta::assert_json_snapshot!(mutation.patch, @r#"
        [
          {
            "op": "add",
            "path": "/spec/databases",
            "value": [
              {
                "default": true,
                "name": "postgres",
                "tablegroups": [
                  {
                    "default": true,
                    "name": "default",
                    "shards": [
                      {
                        "name": "0-inf"
                      }
                    ]
                  }
                ]
              }
            ]
          }
        ]
        "#);
        assert!(mutation.warnings.is_empty());
        assert_eq!(update(&object(&json!({"databases": []})), &bare).patch, mutation.patch);
    }

    #[test]
    fn a_key_called_databases_elsewhere_is_not_the_list_of_databases() {
        let spec = json!({"multiadmin": {"spec": {"podAnnotations": {"databases": "x"}}}});
        assert!(create(&object(&spec)).patch.is_some());
    }

    #[test]
    fn databases_that_are_there_stay_as_they_are() {
        for databases in [json!([]), json!([{"name": "postgres"}]), json!([{"name": "postgres", "tablegroups": []}])] {
            assert_eq!(create(&object(&json!({"databases": databases}))), Mutation::default());
        }
    }

    #[test]
    fn deleting_and_unchanged_clusters_are_left_alone() {
        let bare = object(&json!({"cells": []}));
        let mut deleting = bare.clone();
        deleting["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
        assert_eq!(create(&deleting), Mutation::default());
        let mut labelled = bare.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        assert_eq!(update(&bare, &labelled), Mutation::default());
        // The same spec in another order of keys.
        let one = r#"{"spec":{"a":1,"b":2}}"#;
        assert_eq!(cluster(Some(one), r#"{"spec":{"b":2,"a":1}}"#, None), Mutation::default());
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_others() {
        let deep = format!(r#"{{"spec":{{"x":{}{}}}}}"#, "[".repeat(500), "]".repeat(500));
        for object in ["{}", r#"{"spec":null}"#, r#"{"spec":[]}"#, r#"{"spec":"x"}"#, "[]", "5", deep.as_str()] {
            assert_eq!(cluster(None, object, None), Mutation::default(), "{object}");
        }
    }

    #[test]
    fn an_escaped_key_is_still_an_alias() {
        let object = r#"{"spec":{"databases":[{"name":"postgres","table\u0047roups":[{"name":"default"}]}]}}"#;
        let after = spec_after(&cluster(None, object, None), &serde_json::from_str(object).unwrap());
        assert_eq!(after["databases"][0], json!({"name": "postgres", "tablegroups": [{"name": "default"}]}));
        assert!(!mentions_alias(br#"{"a":"\u003c\u0026"}"#));
    }
}
