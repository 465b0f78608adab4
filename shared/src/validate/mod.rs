//! Rules that the schema of the API cannot express, judged on what a spec resolves to.
//!
//! All findings are reported at once; each names the field, the value, what is allowed and the level that the value came from.

mod backup;
mod cluster;
pub mod duration;
pub mod limits;
mod postgres;
mod resource;
mod shard;
mod update;

use std::fmt;

use crate::api::v1alpha1::MultigresClusterSpec;
use crate::resolve::{ResolvedCluster, Source};

pub use postgres::{reference as postgres_reference, settings as postgres_settings};

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, such as `cells[zone-a].multigateway.replicas`.
    pub path: String,
    /// The value at fault.
    pub value: String,
    /// What is wrong, what is allowed and what to do.
    pub message: String,
    /// The level that the value came from, where it was not written at the path itself.
    pub source: Option<Source>,
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
    /// Path of the field.
    pub path: String,
    /// What may go wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
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

/// Judges a cluster's spec by what it resolves to; `old` is what it resolved to before, when there was a before.
pub fn cluster(old: Option<&ResolvedCluster>, spec: &MultigresClusterSpec, resolved: &ResolvedCluster) -> Verdict {
    let mut findings = Findings { resolved, verdict: Verdict::default() };
    cluster::check(&mut findings, spec);
    for (database, group) in
        resolved.databases.iter().flat_map(|database| database.table_groups.iter().map(move |group| (database, group)))
    {
        for one in &group.shards {
            let at =
                format!("databases[{}].tablegroups[{}].shards[{}]", database.name, group.table_group_name, one.name);
            shard::check(&mut findings, &at, one);
        }
    }
    if let Some(old) = old {
        update::check(&mut findings, old);
    }
    findings.verdict
}

/// Collects findings and looks up where a value came from.
struct Findings<'a> {
    resolved: &'a ResolvedCluster,
    verdict: Verdict,
}

impl Findings<'_> {
    fn error(&mut self, path: &str, value: impl fmt::Display, message: impl Into<String>) {
        let source = self.resolved.provenance.source(path).filter(|source| **source != Source::Inline).cloned();
        self.verdict.errors.push(FieldError {
            path: path.to_owned(),
            value: value.to_string(),
            message: message.into(),
            source,
        });
    }

    fn warn(&mut self, path: &str, message: impl Into<String>) {
        self.verdict.warnings.push(Warning { path: path.to_owned(), message: message.into() });
    }

    /// A name that ends up in object names and labels.
    fn name(&mut self, path: &str, name: &str, limit: usize) {
        let bytes = name.as_bytes();
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let legal = bytes.len() <= limit
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
        if !legal {
            self.error(
                path,
                name,
                format!("must be 1 to {limit} lower-case letters, digits or '-', with a letter or digit at both ends"),
            );
        }
    }

    /// Names that must differ within a list.
    fn unique<'n>(&mut self, path: &str, names: impl IntoIterator<Item = &'n str>) {
        let mut seen = std::collections::BTreeSet::new();
        for name in names {
            if !seen.insert(name) {
                self.error(path, name, "is listed twice; keep one entry");
            }
        }
    }
}

#[cfg(test)]
mod tests;
