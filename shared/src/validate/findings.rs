//! What is found about an object, and how it is collected.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::field_path::At;
use crate::resolve::{Provenance, Source};

use super::{field, limits, reason};

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field below `spec`, such as `cells[zone-a].multigateway.replicas`, or from the root, such as `metadata.name`.
    pub path: String,
    /// The value at fault.
    pub value: String,
    /// What is wrong, what is allowed and what to do.
    pub message: String,
    /// The level that the value came from, where it was not written at the path itself.
    pub source: Option<Source>,
    /// A machine-readable cause, one of those in [`reason`].
    pub reason: &'static str,
}

impl FieldError {
    /// Path of the field from the root of the object.
    pub fn field(&self) -> String {
        from_root(&self.path)
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.path, self.value)?;
        if let Some(source) = &self.source {
            write!(f, " (from {source})")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// What is legal but deserves attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Path of the field, as in [`FieldError`].
    pub path: String,
    /// What may go wrong, and what to do.
    pub message: String,
}

impl Warning {
    /// Path of the field from the root of the object.
    pub fn field(&self) -> String {
        from_root(&self.path)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

fn from_root(path: &str) -> String {
    if path.starts_with("metadata.") { path.to_owned() } else { format!("spec.{path}") }
}

/// All findings about an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why the object is refused.
    pub errors: Vec<FieldError>,
    /// What its owner should know.
    pub warnings: Vec<Warning>,
}

impl Verdict {
    /// Whether nothing speaks against the object.
    pub fn is_accepted(&self) -> bool {
        self.errors.is_empty()
    }

    /// All errors in one line, for a condition.
    pub fn summary(&self) -> String {
        self.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// Collects findings and looks up where a value came from.
pub struct Findings<'a> {
    provenance: Option<&'a Provenance>,
    pub verdict: Verdict,
    /// Resources that are known to be right, since most containers have the same ones.
    pub right: Vec<ResourceRequirements>,
}

impl<'a> Findings<'a> {
    pub fn new(provenance: Option<&'a Provenance>) -> Self {
        Self { provenance, verdict: Verdict::default(), right: Vec::new() }
    }

    pub fn error(&mut self, at: &At<'_>, reason: &'static str, value: impl fmt::Display, message: impl Into<String>) {
        let path = at.to_string();
        let source = self.provenance.and_then(|provenance| provenance.source(&path));
        let source = source.filter(|source| **source != Source::Inline).cloned();
        self.verdict.errors.push(FieldError {
            path: quoted(path),
            value: quoted(value.to_string()),
            message: message.into(),
            source,
            reason,
        });
    }

    pub fn invalid(&mut self, at: &At<'_>, value: impl fmt::Display, message: impl Into<String>) {
        self.error(at, reason::INVALID, value, message);
    }

    pub fn forbidden(&mut self, at: &At<'_>, value: impl fmt::Display, message: impl Into<String>) {
        self.error(at, reason::FORBIDDEN, value, message);
    }

    pub fn warn(&mut self, at: &At<'_>, message: impl Into<String>) {
        self.verdict.warnings.push(Warning { path: quoted(at.to_string()), message: message.into() });
    }

    /// A name that ends up in object names and labels.
    pub fn name(&mut self, at: &At<'_>, name: &str, limit: usize) {
        if name.len() > limit || !field::is_label(name) {
            self.invalid(
                at,
                name,
                format!("must be 1 to {limit} lower-case letters, digits or '-', with a letter or digit at both ends"),
            );
        }
    }

    /// A list that is not longer than it may be.
    pub fn at_most(&mut self, at: &At<'_>, count: usize, limit: usize, what: &str) {
        if count > limit {
            self.invalid(at, count, format!("at most {limit} {what}"));
        }
    }

    /// Names that must differ within a list.
    pub fn unique<'n>(&mut self, at: &At<'_>, names: impl Iterator<Item = &'n str> + Clone) {
        // Most lists are in order, which shows it without a set.
        if names.clone().is_sorted_by(|left, right| left < right) {
            return;
        }
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name) {
                self.error(at, reason::DUPLICATE, name, "is listed twice; keep one entry");
            }
        }
    }
}

/// A text short enough to repeat; hostile ones can be as long as a request.
fn quoted(text: String) -> String {
    // A path of several names of full length is no sign of bad intent.
    let limit = 4 * limits::QUOTED;
    match text.char_indices().nth(limit) {
        Some((end, _)) if text.len() > limit => format!("{}…", &text[..end]),
        _ => text,
    }
}
