//! Rules of single fields: the functions that the derives on the spec types call, and what becomes of the errors that they collect.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use validator::{Validate, ValidationError, ValidationErrors, ValidationErrorsKind};

use crate::field_path::At;
use crate::quantity::Quantity;
use crate::schedule::{self, Cron};

use super::{Findings, duration, limits, reason};

type Checked = Result<(), ValidationError>;

/// What an amount looks like.
pub(super) const QUANTITY: &str =
    "is not a quantity; write a number with an optional suffix, such as 500m, 512Mi or 10Gi";
/// Parameter of an error: the entries of a list or map that are wrong, where not all of it is.
const ENTRIES: &str = "entries";

fn wrong(message: impl Into<Cow<'static, str>>) -> ValidationError {
    ValidationError::new("invalid").with_message(message.into())
}

/// The error of a list or map of which these entries are wrong; none where there are none.
fn wrong_entries<'e>(entries: impl Iterator<Item = &'e str>, message: impl Into<Cow<'static, str>>) -> Checked {
    let entries: Vec<&str> = entries.collect();
    if entries.is_empty() {
        return Ok(());
    }
    let mut error = wrong(message);
    error.add_param(Cow::Borrowed(ENTRIES), &entries);
    Err(error)
}

/// The size of a volume is a positive quantity.
pub fn size(text: &str) -> Checked {
    match text.parse::<Quantity>() {
        Ok(amount) if !amount.is_negative() && !amount.is_zero() => Ok(()),
        Ok(_) => Err(wrong("must be more than zero; write a size such as 10Gi")),
        Err(_) => Err(wrong(QUANTITY)),
    }
}

/// Access modes exist.
pub fn access_modes(modes: &[String]) -> Checked {
    if modes.iter().all(|mode| limits::ACCESS_MODES.contains(&mode.as_str())) {
        return Ok(());
    }
    let unknown = modes.iter().map(String::as_str).filter(|mode| !limits::ACCESS_MODES.contains(mode));
    wrong_entries(unknown, format!("must be one of {}", limits::ACCESS_MODES.join(", ")))
}

/// The number of etcd members is odd.
pub fn members(replicas: i32) -> Checked {
    if replicas >= 1 && replicas % 2 == 1 {
        return Ok(());
    }
    Err(wrong("must be odd and at least 1; an even number of members tolerates no more failures; use 1, 3 or 5"))
}

/// A duration can be read and is not negative.
pub fn duration(text: &str) -> Checked {
    match duration::parse(text) {
        None => Err(wrong("is not a duration; write numbers with units, such as 20s or 1m30s")),
        Some(value) if value < 0 => Err(wrong("must not be negative; write a duration such as 20s")),
        Some(_) => Ok(()),
    }
}

/// Client URLs of an etcd cluster: some, not too many, each one that a client can dial.
pub fn endpoints(endpoints: &[String]) -> Checked {
    let most = limits::ENDPOINTS;
    if endpoints.is_empty() || endpoints.len() > most {
        return Err(wrong(format!("has {} entries; list between 1 and {most} URLs", endpoints.len())));
    }
    let bad = |endpoint: &&str| {
        let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        endpoint.len() > limits::ENDPOINT || !host.is_some_and(|host| !host.is_empty() && !host.contains([',', ' ']))
    };
    wrong_entries(
        endpoints.iter().map(String::as_str).filter(bad),
        format!(
            "must be a URL of at most {} characters that starts with http:// or https://, such as https://etcd-0.infra.svc:2379",
            limits::ENDPOINT
        ),
    )
}

/// A directory that a volume can be mounted at and that pgBackRest can be given.
pub fn mount_path(path: &str) -> Checked {
    let legal = path.starts_with('/')
        && path.len() <= limits::PATH
        && !path.trim_matches('/').is_empty()
        && !path.split('/').any(|part| part == "..")
        && !path.contains([':', '\n', '\0']);
    if legal {
        return Ok(());
    }
    Err(wrong(format!("must be an absolute path below / of at most {} characters, such as /backups", limits::PATH)))
}

/// A time in cron syntax that comes again.
pub fn cron(text: &str) -> Checked {
    Cron::parse(text, None).map(drop).map_err(|error| wrong(error.to_string()))
}

/// A time zone of the IANA database.
pub fn time_zone(name: &str) -> Checked {
    schedule::zone(Some(name)).map(drop).map_err(|error| wrong(error.to_string()))
}

/// How many full backups can be kept: the data plane removes older ones by itself.
pub fn kept_full_backups(count: i32) -> Checked {
    let most = limits::FULL_BACKUPS;
    if (1..=most).contains(&count) {
        return Ok(());
    }
    Err(wrong(format!("must be between 1 and {most}: the data plane itself keeps {most} full backups and no more")))
}

/// Annotations of pods stay within their limits.
pub fn annotations(annotations: &BTreeMap<String, String>) -> Checked {
    metadata(annotations, limits::ANNOTATION_VALUE)
}

/// Labels of pods stay within their limits.
pub fn labels(labels: &BTreeMap<String, String>) -> Checked {
    metadata(labels, limits::LABEL_VALUE)
}

fn metadata(map: &BTreeMap<String, String>, longest: usize) -> Checked {
    if map.is_empty() {
        return Ok(());
    }
    if map.len() > limits::METADATA {
        return Err(wrong(format!("has {} entries; at most {} are taken", map.len(), limits::METADATA)));
    }
    let longer = |text: &str, limit: usize| text.len() > limit && text.chars().count() > limit;
    let bad = |(key, value): &(&String, &String)| longer(key, limits::METADATA_KEY) || longer(value, longest);
    wrong_entries(
        map.iter().filter(bad).map(|(key, _)| key.as_str()),
        format!("a key has at most {} characters and its value at most {longest}; shorten it", limits::METADATA_KEY),
    )
}

/// Annotations of an exposed Service leave the operator's own alone.
pub fn service_annotations(annotations: &BTreeMap<String, String>) -> Checked {
    if annotations.len() > limits::METADATA {
        return Err(wrong(format!("has {} entries; at most {} are taken", annotations.len(), limits::METADATA)));
    }
    let ours = annotations.keys().map(String::as_str).filter(|key| key.starts_with("multigres.com/"));
    wrong_entries(ours, "annotations that begin with multigres.com/ are the operator's; remove it")
}

/// The name of a Secret is a DNS subdomain.
pub fn subdomain(name: &str) -> Checked {
    if name.split('.').all(is_label) {
        return Ok(());
    }
    Err(wrong(
        "is no name of a Secret; use lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
    ))
}

/// A key of a Secret.
pub fn data_key(key: &str) -> Checked {
    let legal = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if legal { Ok(()) } else { Err(wrong("is no key of a Secret; use letters, digits, '-', '_' and '.'")) }
}

/// Whether this is a DNS label, whatever its length.
pub(super) fn is_label(name: &str) -> bool {
    let bytes = name.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

impl Findings<'_> {
    /// Judges every field of a fragment, and of the fragments in it, by the rules that its type carries.
    pub(super) fn fields(&mut self, at: &At<'_>, fragment: &impl Validate) {
        if let Err(errors) = fragment.validate() {
            let mut found = Vec::new();
            collect(at, &errors, &mut found);
            // The crate keeps errors in hash maps; people want the same order every time.
            found.sort();
            for Found { path, value, message, reason } in found {
                self.error(&At::Root(&path), reason, value, message);
            }
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    path: String,
    value: String,
    message: String,
    reason: &'static str,
}

fn collect(at: &At<'_>, errors: &ValidationErrors, found: &mut Vec<Found>) {
    for (field, kind) in errors.errors() {
        let name = json_name(field);
        let at = at.field(&name);
        match kind {
            ValidationErrorsKind::Struct(inner) => collect(&at, inner, found),
            ValidationErrorsKind::List(items) => {
                for (index, inner) in items {
                    collect(&at.key(&index.to_string()), inner, found);
                }
            }
            ValidationErrorsKind::Field(errors) => {
                for error in errors {
                    single(&at, error, found);
                }
            }
        }
    }
}

fn single(at: &At<'_>, error: &ValidationError, found: &mut Vec<Found>) {
    let message = error.message.as_ref().map_or_else(|| bounds(error), ToString::to_string);
    let value = error.params.get("value");
    if let Some(Value::Array(entries)) = error.params.get(ENTRIES) {
        for entry in entries {
            // In a map the wrong entry has a path of its own, in a list it is the value.
            let key = text(entry);
            let (path, value) = match value {
                Some(Value::Object(map)) => (at.key(&key).to_string(), map.get(&key).map(text).unwrap_or_default()),
                _ => (at.to_string(), key),
            };
            found.push(Found { path, value, message: message.clone(), reason: reason::INVALID });
        }
        return;
    }
    let value = match value {
        Some(Value::Array(items)) => items.len().to_string(),
        Some(Value::Object(fields)) => fields.len().to_string(),
        Some(value) => text(value),
        None => String::new(),
    };
    let reason = if value.is_empty() { reason::REQUIRED } else { reason::INVALID };
    found.push(Found { path: at.to_string(), value, message, reason });
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The message of a range or a length, from its bounds.
fn bounds(error: &ValidationError) -> String {
    let bound = |name: &str| error.params.get(name).map(ToString::to_string);
    let size = match error.params.get("value") {
        Some(Value::String(_)) => "must have ",
        Some(Value::Array(_)) => "must list ",
        _ => "must be ",
    };
    let unit = match error.params.get("value") {
        Some(Value::String(_)) => " characters",
        Some(Value::Array(_)) => " entries",
        _ => "",
    };
    match (bound("min"), bound("max")) {
        (Some(min), Some(max)) => format!("{size}between {min} and {max}{unit}"),
        (Some(min), None) => format!("{size}at least {min}{unit}"),
        (None, Some(max)) => format!("{size}at most {max}{unit}"),
        (None, None) => "is not allowed here".to_owned(),
    }
}

/// The name of a field in a manifest.
fn json_name(field: &str) -> String {
    match field {
        "external_ips" => return "externalIPs".to_owned(),
        "pgbackrest_tls" => return "pgbackrestTLS".to_owned(),
        _ => {}
    }
    let mut name = String::with_capacity(field.len());
    let mut upper = false;
    for letter in field.trim_start_matches("r#").chars() {
        if letter == '_' {
            upper = true;
        } else {
            name.push(if upper { letter.to_ascii_uppercase() } else { letter });
            upper = false;
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::api::v1alpha1::{BackupConfig, ExternalServiceConfig, PgbackrestTlsConfig, PoolSpec};

    #[test]
    fn names_of_fields_are_those_of_the_manifest() {
        let pool = PoolSpec {
            replicas_per_cell: Some(1),
            fs_group: Some(1),
            r#type: Some(crate::api::v1alpha1::PoolType::ReadWrite),
            ..PoolSpec::default()
        };
        let written = json!(pool);
        let names: BTreeSet<_> = ["replicas_per_cell", "fs_group", "r#type"].map(json_name).into();
        assert_eq!(names, written.as_object().unwrap().keys().cloned().collect());
        for (field, fragment) in [
            ("external_ips", json!(ExternalServiceConfig { external_ips: vec!["x".into()], ..Default::default() })),
            (
                "pgbackrest_tls",
                json!(BackupConfig { pgbackrest_tls: Some(PgbackrestTlsConfig::default()), ..Default::default() }),
            ),
        ] {
            assert!(fragment.get(json_name(field)).is_some(), "{field}");
        }
    }
}
