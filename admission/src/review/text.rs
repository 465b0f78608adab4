//! Finds members of objects in the text of a review, without reading the rest.
//!
//! Most reviews need two or three small members of an object that may be large. The text was checked to be JSON when the
//! review was read, so nothing is checked here again: on text that is no JSON the answers are of no use, and harmless.

use serde::Deserialize;

/// Members of an object whose text begins at `text`, as key and the text that begins with the value.
///
/// A value is skipped only when the next member is asked for. Keys are as written: an escaped key does not match.
pub fn members(text: &str) -> Members<'_> {
    Members { rest: trim(text), at_value: false }
}

/// The text that begins with the value of a member; none when there is no such member.
pub fn member<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    members(text).find_map(|(name, value)| (name == key).then_some(value))
}

/// The value at the beginning of a text, alone.
pub fn value(text: &str) -> &str {
    let text = trim(text);
    &text[..length(text)]
}

/// A string without escapes at the beginning of a text.
pub fn string(text: &str) -> Option<&str> {
    let inner = value(text).strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains('\\')).then_some(inner)
}

/// Whether the object is being deleted, by its metadata.
pub fn is_deleting(object: &str) -> bool {
    member(object, "metadata")
        .and_then(|metadata| member(metadata, "deletionTimestamp"))
        .is_some_and(|timestamp| !timestamp.starts_with("null"))
}

/// Name of the object, by its metadata.
pub fn name(object: &str) -> Option<&str> {
    member(object, "metadata").and_then(|metadata| member(metadata, "name")).and_then(string)
}

/// Reads the member `spec` as a type; none when there is no such member.
pub fn read_spec<'t, T: Deserialize<'t>>(object: &'t str) -> Option<serde_json::Result<T>> {
    // A parser that stops at the end of the value saves looking for that end first.
    let spec = member(object, "spec")?;
    Some(T::deserialize(&mut serde_json::Deserializer::from_str(spec)))
}

/// Whether two objects certainly have the same spec; false when it takes a closer look.
///
/// The API server writes the spec after the metadata, and a write to the object leaves the status as it is: equal to the end is what
/// metadata-only updates are, and costs one comparison of memory.
pub fn same_spec(one: &str, other: &str) -> bool {
    member(one, "spec") == member(other, "spec")
}

/// Iterator over the members of an object.
pub struct Members<'t> {
    rest: &'t str,
    at_value: bool,
}

impl<'t> Iterator for Members<'t> {
    type Item = (&'t str, &'t str);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at_value {
            self.rest = trim(&self.rest[length(self.rest)..]);
        }
        // Either the beginning of the object or the end of a member.
        let text = trim(self.rest.strip_prefix(['{', ','])?);
        let end = string_length(text.as_bytes());
        let key = text.get(1..end.checked_sub(1)?)?;
        self.rest = trim(trim(&text[end..]).strip_prefix(':')?);
        self.at_value = true;
        Some((key, self.rest))
    }
}

fn trim(text: &str) -> &str {
    text.trim_start_matches([' ', '\n', '\r', '\t'])
}

/// Bytes of the value that a text begins with. All cuts are at ASCII characters, so they are cuts between characters.
fn length(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(b'"') => string_length(bytes),
        Some(b'{' | b'[') => {
            let mut depth = 0_usize;
            let mut at = 0;
            while let Some(byte) = bytes.get(at) {
                match byte {
                    b'"' => {
                        at += string_length(&bytes[at..]);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return at + 1;
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
            bytes.len()
        }
        _ => bytes.iter().position(|byte| b",]} \n\r\t".contains(byte)).unwrap_or(bytes.len()),
    }
}

/// Bytes of the string, quotes included, that a text begins with; nothing when it begins with no string.
fn string_length(bytes: &[u8]) -> usize {
    if bytes.first() != Some(&b'"') {
        return 0;
    }
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z\"\\\\{}:, é\n]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-z{}\\[\\]:]{0,6}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn members_are_those_that_a_parser_finds(
            object in prop::collection::btree_map("[a-z{}\\[\\]:,]{0,6}", any_json(), 0..6),
            pretty: bool,
        ) {
            let object = Value::Object(object.into_iter().collect());
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            let found: serde_json::Map<String, Value> = members(&text)
                .map(|(key, rest)| (key.to_owned(), serde_json::from_str(value(rest)).unwrap()))
                .collect();
            prop_assert_eq!(Value::Object(found), object);
            prop_assert_eq!(value(&text), text.as_str());
        }

        #[test]
        fn text_that_is_no_json_does_no_harm(text in "[{}\\[\\]\",:\\\\a-cé ]{0,24}") {
            for (_, rest) in members(&text).take(30) {
                let _ = value(rest);
            }
            let _ = (is_deleting(&text), name(&text), same_spec(&text, "{}"));
        }
    }

    #[test]
    fn metadata_is_found_beside_a_misleading_spec() {
        let text = json!({
            "metadata": {"name": "demo", "managedFields": [{"fieldsV1": {"spec": {}, "name": "x"}}]},
            "spec": {"metadata": {"name": "other", "deletionTimestamp": "x"}, "cells": []},
            "status": {"spec": 1},
        })
        .to_string();
        assert_eq!(name(&text), Some("demo"));
        assert!(!is_deleting(&text));
        assert!(member(&text, "spec").is_some_and(|spec| value(spec).ends_with('}')));
        assert!(is_deleting(r#"{"metadata":{"deletionTimestamp":"2024-01-01T00:00:00Z"}}"#));
        assert!(!is_deleting(r#"{"metadata":{"deletionTimestamp":null}}"#));
    }

    #[test]
    fn specs_are_compared_whatever_the_metadata_says() {
        let one = r#"{"metadata":{"labels":{}},"spec":{"a":[1]},"status":{}}"#;
        assert!(same_spec(one, r#"{"metadata":{},"spec":{"a":[1]},"status":{}}"#));
        assert!(!same_spec(one, r#"{"metadata":{},"spec":{"a":[12]},"status":{}}"#));
        assert!(!same_spec(one, r#"{"metadata":{}}"#));
    }

    #[test]
    fn a_spec_is_read_without_what_follows() {
        let spec = read_spec::<Value>(r#"{"metadata":{},"spec": {"a":[1]},"status":{"x":1}}"#);
        assert_eq!(spec.unwrap().unwrap(), json!({"a": [1]}));
        assert!(read_spec::<Vec<u8>>(r#"{"spec":{}}"#).unwrap().is_err());
        assert!(read_spec::<Value>("[]").is_none());
    }
}
