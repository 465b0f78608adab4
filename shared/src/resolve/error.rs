//! What keeps a cluster from being resolved.

use super::provenance::TemplateKind;

/// One reason why a cluster cannot be resolved; each names the field, the value and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum ResolveError {
    /// A template that the spec names does not exist.
    #[error("{field}: {kind} {name:?} does not exist in namespace {namespace:?}; create it or name one of: {existing}")]
    MissingTemplate {
        /// Path of the reference.
        field: String,
        /// Kind of the template.
        kind: TemplateKind,
        /// The name that was not found.
        name: String,
        /// Where it was looked for.
        namespace: String,
        /// The templates of that kind that exist, in words.
        existing: String,
    },
    /// A field and its alias are both given.
    #[error("{field}: {alias:?} is another spelling of this field; give only one of them")]
    BothSpellings {
        /// Path of the canonical field.
        field: String,
        /// The other spelling.
        alias: &'static str,
    },
    /// An entry under an alias does not have the shape of the canonical field.
    #[error("{field}: {message}")]
    Malformed {
        /// Path of the entry.
        field: String,
        /// What is wrong, and what is allowed.
        message: String,
    },
    /// An external topology without an address.
    #[error("{field}: no endpoint is given; list at least one URL that starts with http:// or https://")]
    NoEndpoint {
        /// Path of the list.
        field: String,
    },
}

impl ResolveError {
    /// Path of the field that is at fault.
    pub fn field(&self) -> &str {
        match self {
            Self::MissingTemplate { field, .. }
            | Self::BothSpellings { field, .. }
            | Self::Malformed { field, .. }
            | Self::NoEndpoint { field } => field,
        }
    }

    /// A reason in CamelCase, for conditions and events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MissingTemplate { .. } => "TemplateMissing",
            Self::BothSpellings { .. } => "BothSpellings",
            Self::Malformed { .. } => "Malformed",
            Self::NoEndpoint { .. } => "NoEndpoint",
        }
    }
}
