//! Other spellings that the API accepts, brought to the canonical fields.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::v1alpha1::{DatabaseConfig, TableGroupConfig};

use crate::field_path::At;

use super::ResolveError;

/// The table groups of a database, under whichever spelling they were given.
///
/// The alias is an opaque list to the API server, so shape and unknown keys of its entries are checked here.
pub fn table_groups<'d>(
    database: &'d DatabaseConfig,
    at: &At<'_>,
    errors: &mut Vec<ResolveError>,
) -> Cow<'d, [TableGroupConfig]> {
    if database.table_groups.is_empty() {
        return Cow::Borrowed(&database.tablegroups);
    }
    if !database.tablegroups.is_empty() {
        errors.push(ResolveError::BothSpellings { field: format!("{at}.tablegroups"), alias: "tableGroups" });
        return Cow::Borrowed(&database.tablegroups);
    }
    let mut groups = Vec::new();
    for (index, value) in database.table_groups.iter().enumerate() {
        let field = format!("{at}.tableGroups[{index}]");
        match read::<TableGroupConfig>(value) {
            Err(why) => errors.push(ResolveError::Malformed {
                field,
                message: format!("{why}; an entry has the same fields as one of tablegroups"),
            }),
            Ok(group) => {
                let kept = serde_json::to_value(&group).unwrap_or_default();
                let mut unknown = Vec::new();
                unknown_keys(value, &kept, &field, &mut unknown);
                errors.extend(unknown.into_iter().map(|field| ResolveError::Malformed {
                    field,
                    message: "this field is not known here; correct its name or remove it".to_owned(),
                }));
                groups.push(group);
            }
        }
    }
    Cow::Owned(groups)
}

/// Reads a value by way of its text: what reads the API's types from text is compiled anyhow, and its twin for values would be resident memory of
/// both binaries. The position in a text that nobody wrote is left out of what is wrong.
fn read<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    serde_json::from_str(&value.to_string()).map_err(|error| {
        let position = format!(" at line {} column {}", error.line(), error.column());
        error.to_string().replace(&position, "")
    })
}

/// Paths of the keys that reading a value into its type has dropped.
fn unknown_keys(given: &Value, kept: &Value, at: &str, unknown: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (key, value) in given {
                let path = format!("{at}.{key}");
                match kept.get(key) {
                    Some(kept) => unknown_keys(value, kept, &path, unknown),
                    // Empty values are dropped when a type is written, known or not.
                    None if is_empty(value) => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                unknown_keys(given, kept, &format!("{at}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}
