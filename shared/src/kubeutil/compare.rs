//! Decides whether applying a desired object would change the live one.
//!
//! The live object has to contain everything that is desired; what it has beyond that belongs to the server or to
//! others. The comparison knows the schema where it matters: lists merged by key, lists replaced as a whole, sets,
//! quantities, fields that are a number or a text, and scalars that Go leaves out when they are zero. The order of a list
//! merged by key does not count here, because such an order is not restored by an apply; the digest of the intent
//! ([`digest`]) sees a wanted change of it.

use std::{collections::BTreeSet, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::quantity::Quantity;

/// The first thing that a live object lacks. It carries no values, which may be secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{path} {change}")]
pub struct Difference {
    /// Where, such as `spec.containers[name=postgres].image`.
    pub path: String,
    /// In what way.
    pub change: Change,
}

/// In what way a live object differs from the desired one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The live object does not have the field or the list entry.
    Missing,
    /// The live object has another value.
    Differs,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "is missing",
            Self::Differs => "differs",
        })
    }
}

/// Returns `Ok` when `live` has everything that is in `desired`, else the first difference.
pub fn is_superset(live: &Value, desired: &Value) -> Result<(), Difference> {
    is_superset_ignoring(live, desired, &BTreeSet::new())
}

/// Like [`is_superset`], without looking at the paths in `ignored` and what is below them (see [`not_kept`]).
pub fn is_superset_ignoring(live: &Value, desired: &Value, ignored: &BTreeSet<String>) -> Result<(), Difference> {
    let mut walk = Walk::new(desired, ignored, true);
    walk.root(live, desired);
    walk.found.into_iter().next().map_or(Ok(()), Err)
}

/// Returns the paths of `desired` that the answer to its own apply does not carry.
///
/// Older servers drop fields that they do not know, and admission plugins of others rewrite some. Asking again would not
/// help, so later comparisons ignore these paths until the intent changes.
pub fn not_kept(answer: &Value, desired: &Value) -> BTreeSet<String> {
    let nothing = BTreeSet::new();
    let mut walk = Walk::new(desired, &nothing, false);
    walk.root(answer, desired);
    walk.found.into_iter().map(|difference| difference.path).collect()
}

/// Returns the SHA-256 of a value in hex; the order of members does not count, and a null member counts as absent.
pub fn digest(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    hex::encode(Sha256::digest(text.as_bytes()))
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            // Sorted here, because the order inside the map depends on a feature that any crate may switch on.
            let mut members: Vec<_> = members.iter().filter(|(_, member)| !member.is_null()).collect();
            members.sort_unstable_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (key, member) in members {
                quoted(key, out);
                out.push(':');
                canonical(member, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::String(text) => quoted(text, out),
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// Adds a text in the form that JSON gives it. There is hardly one with anything to escape, and most of a digest is short texts: what writes
/// JSON takes far longer over them than it takes to see that.
fn quoted(text: &str, out: &mut String) {
    let escaped = |byte: &u8| matches!(*byte, 0..=0x1f | b'"' | b'\\');
    if text.as_bytes().iter().any(escaped) {
        out.push_str(&Value::from(text).to_string());
    } else {
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
}

/// How the entries of a list are matched.
enum Merge {
    /// Entry by entry, with the same length.
    Atomic,
    /// By the members that identify an entry, each with the default that the server fills in.
    Keys(&'static [(&'static str, Option<&'static str>)]),
    /// As a set of scalars.
    Set,
    /// Every desired entry somewhere in the live list.
    Contained,
}

const NAME: Merge = Merge::Keys(&[("name", None)]);

/// Scalars that the server leaves out when they are zero, false or empty, so that missing means the same.
const ZERO_IS_ABSENT: [&str; 18] = [
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
    "publishNotReadyAddresses",
    "paused",
    "minReadySeconds",
    "initialDelaySeconds",
    "subPath",
    "subPathExpr",
    "medium",
    "value",
    "externalName",
    "loadBalancerIP",
    "serviceName",
];

/// Objects that mean something although they are empty.
const EMPTY_IS_PRESENT: [&str; 3] = ["emptyDir", "namespaceSelector", "podSelector"];

/// Maps that are replaced as a whole, so that a foreign member changes their meaning.
const ATOMIC_MAPS: [&str; 2] = ["nodeSelector", "selector"];

/// Members below which every scalar is a quantity.
const QUANTITY_MAPS: [&str; 5] = ["requests", "limits", "capacity", "hard", "overhead"];

/// Fields that hold a number or a text.
const INT_OR_STRING: [&str; 5] = ["targetPort", "maxUnavailable", "minAvailable", "maxSurge", "port"];

/// How far the walk has come: the path as text, and the member names that decide about the schema.
struct Walk<'a> {
    ignored: &'a BTreeSet<String>,
    first_only: bool,
    kind: &'a str,
    path: String,
    parent: String,
    found: Vec<Difference>,
}

impl<'a> Walk<'a> {
    fn new(desired: &'a Value, ignored: &'a BTreeSet<String>, first_only: bool) -> Self {
        let kind = desired.get("kind").and_then(Value::as_str).unwrap_or_default();
        Self { ignored, first_only, kind, path: String::new(), parent: String::new(), found: Vec::new() }
    }

    fn done(&self) -> bool {
        self.first_only && !self.found.is_empty()
    }

    fn report(&mut self, change: Change) {
        self.found.push(Difference { path: self.path.clone(), change });
    }

    /// Runs `inside` with `step` appended to the path.
    fn at(&mut self, step: &str, inside: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if !self.path.is_empty() && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        if !self.ignored.contains(&self.path) {
            inside(self);
        }
        self.path.truncate(length);
    }

    fn root(&mut self, live: &Value, desired: &Value) {
        if self.kind == "Secret"
            && let (Value::Object(live), Value::Object(desired)) = (live, desired)
            && let Some(Value::Object(plain)) = desired.get("stringData")
        {
            self.at("stringData", |walk| walk.string_data(live.get("data"), plain));
            let rest: Map<String, Value> = desired
                .iter()
                .filter(|(key, _)| key.as_str() != "stringData")
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            self.members(live, &rest);
        } else {
            self.value("", live, desired);
        }
    }

    /// The server stores `stringData` as base64 below `data` and never returns it.
    fn string_data(&mut self, data: Option<&Value>, plain: &Map<String, Value>) {
        for (key, wanted) in plain {
            if self.done() {
                return;
            }
            let stored = data.and_then(|data| data.get(key)).and_then(Value::as_str);
            let stored = stored.and_then(|text| STANDARD.decode(text).ok());
            self.at(key, |walk| match (stored, wanted.as_str()) {
                (Some(stored), Some(wanted)) if stored == wanted.as_bytes() => {}
                (None, _) => walk.report(Change::Missing),
                _ => walk.report(Change::Differs),
            });
        }
    }

    /// Compares the member `name` of some object.
    fn value(&mut self, name: &str, live: &Value, desired: &Value) {
        if self.done() {
            return;
        }
        match (live, desired) {
            (_, Value::Null) => {}
            (Value::Object(live), Value::Object(desired)) => {
                if ATOMIC_MAPS.contains(&name)
                    && is_text_map(desired)
                    && live.keys().any(|key| !desired.contains_key(key))
                {
                    self.report(Change::Differs);
                    return;
                }
                let parent = std::mem::replace(&mut self.parent, name.to_owned());
                self.members(live, desired);
                self.parent = parent;
            }
            (Value::Array(live), Value::Array(desired)) => self.list(name, live, desired),
            _ if live == desired || self.same_scalar(name, live, desired) => {}
            (Value::Null, _) => self.report(Change::Missing),
            _ => self.report(Change::Differs),
        }
    }

    fn members(&mut self, live: &Map<String, Value>, desired: &Map<String, Value>) {
        for (key, wanted) in desired {
            if self.done() {
                return;
            }
            self.at(&step(key), |walk| match live.get(key).filter(|value| !value.is_null()) {
                Some(value) => walk.value(key, value, wanted),
                None if may_be_absent(key, wanted) => {}
                None => walk.report(Change::Missing),
            });
        }
    }

    fn list(&mut self, name: &str, live: &[Value], desired: &[Value]) {
        match self.merge(name, desired) {
            Merge::Atomic => {
                if live.len() != desired.len() {
                    self.report(Change::Differs);
                    return;
                }
                for (index, (value, wanted)) in live.iter().zip(desired).enumerate() {
                    self.at(&format!("[{index}]"), |walk| walk.value(name, value, wanted));
                }
            }
            Merge::Keys(keys) => {
                for wanted in desired {
                    let identity = identity(wanted, keys);
                    let value = live.iter().find(|value| self::identity(value, keys) == identity);
                    self.at(&identity, |walk| match value {
                        Some(value) => walk.value("", value, wanted),
                        None => walk.report(Change::Missing),
                    });
                }
            }
            Merge::Set => {
                for wanted in desired.iter().filter(|wanted| !live.contains(wanted)) {
                    self.at(&format!("[={}]", plain(wanted)), |walk| walk.report(Change::Missing));
                }
            }
            Merge::Contained => {
                for (index, wanted) in desired.iter().enumerate() {
                    if !live.iter().any(|value| is_superset(value, wanted).is_ok()) {
                        self.at(&format!("[{index}]"), |walk| walk.report(Change::Missing));
                    }
                }
            }
        }
    }

    /// Chooses how a list is merged, by its name and its entries.
    fn merge(&self, name: &str, desired: &[Value]) -> Merge {
        let keyed = |keys: &[&str]| {
            !desired.is_empty() && desired.iter().all(|item| keys.iter().all(|key| item.get(*key).is_some()))
        };
        match name {
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "env"
            | "volumes"
            | "imagePullSecrets"
            | "claims"
            | "resourceClaims"
            | "databases"
            | "tablegroups"
            | "shards"
            | "webhooks"
                if keyed(&["name"]) =>
            {
                NAME
            }
            "cells" if keyed(&["name"]) => NAME,
            "ports" if keyed(&["containerPort"]) => Merge::Keys(&[("containerPort", None), ("protocol", Some("TCP"))]),
            "ports" if keyed(&["port"]) => Merge::Keys(&[("port", None), ("protocol", Some("TCP"))]),
            "volumeMounts" if keyed(&["mountPath"]) => Merge::Keys(&[("mountPath", None)]),
            "volumeDevices" if keyed(&["devicePath"]) => Merge::Keys(&[("devicePath", None)]),
            "conditions" if keyed(&["type"]) => Merge::Keys(&[("type", None)]),
            "ownerReferences" if keyed(&["uid"]) => Merge::Keys(&[("uid", None)]),
            "hostAliases" if keyed(&["ip"]) => Merge::Keys(&[("ip", None)]),
            "topologySpreadConstraints" if keyed(&["topologyKey", "whenUnsatisfiable"]) => {
                Merge::Keys(&[("topologyKey", None), ("whenUnsatisfiable", None)])
            }
            "cells" | "endpoints" | "finalizers" if desired.iter().all(Value::is_string) => Merge::Set,
            // Admission appends tolerations of its own to every pod.
            "tolerations" if self.kind == "Pod" => Merge::Contained,
            _ => Merge::Atomic,
        }
    }

    fn same_scalar(&self, name: &str, live: &Value, desired: &Value) -> bool {
        if let (Value::Number(live), Value::Number(desired)) = (live, desired) {
            return live.as_f64() == desired.as_f64();
        }
        let quantity = QUANTITY_MAPS.contains(&self.parent.as_str())
            || matches!(name, "sizeLimit" | "divisor")
            || (name == "size" && self.parent == "storage");
        if quantity {
            return match (plain(live).parse::<Quantity>(), plain(desired).parse::<Quantity>()) {
                (Ok(live), Ok(desired)) => live == desired,
                _ => false,
            };
        }
        let number_and_text = live.is_number() != desired.is_number() && (live.is_string() || desired.is_string());
        INT_OR_STRING.contains(&name) && number_and_text && plain(live) == plain(desired)
    }
}

/// Writes a member name as one step of a path.
fn step(key: &str) -> String {
    if key.contains(['.', '/', '[']) { format!("[{key}]") } else { key.to_owned() }
}

fn identity(item: &Value, keys: &[(&str, Option<&str>)]) -> String {
    let parts: Vec<String> = keys
        .iter()
        .map(|(key, default)| {
            let value = item.get(*key).filter(|value| !value.is_null()).map(plain);
            format!("{key}={}", value.as_deref().or(*default).unwrap_or_default())
        })
        .collect();
    format!("[{}]", parts.join(","))
}

/// Writes a scalar without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_text_map(members: &Map<String, Value>) -> bool {
    members.values().all(Value::is_string)
}

/// Returns whether a live object without the member means the same as the desired value.
fn may_be_absent(key: &str, desired: &Value) -> bool {
    match desired {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => {
            !EMPTY_IS_PRESENT.contains(&key) && members.iter().all(|(key, member)| may_be_absent(key, member))
        }
        Value::Bool(value) => !value && ZERO_IS_ABSENT.contains(&key),
        Value::Number(number) => number.as_f64() == Some(0.0) && ZERO_IS_ABSENT.contains(&key),
        Value::String(text) => text.is_empty() && ZERO_IS_ABSENT.contains(&key),
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
