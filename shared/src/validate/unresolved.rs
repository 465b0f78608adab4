//! What keeps a cluster from being resolved, as findings like all others.

use crate::resolve::ResolveError;

use super::{FieldError, Verdict, reason};

/// The findings for a spec that cannot be resolved.
pub fn unresolved(errors: &[ResolveError]) -> Verdict {
    Verdict { errors: errors.iter().map(finding).collect(), warnings: Vec::new() }
}

fn finding(error: &ResolveError) -> FieldError {
    let (value, message, reason) = match error {
        ResolveError::MissingTemplate { kind, name, namespace, existing, .. } => (
            name.clone(),
            format!("{kind} {name:?} does not exist in namespace {namespace:?}; create it or name one of: {existing}"),
            reason::NOT_FOUND,
        ),
        ResolveError::BothSpellings { alias, .. } => (
            (*alias).to_owned(),
            format!("{alias:?} is another spelling of this field; give only one of them"),
            reason::FORBIDDEN,
        ),
        ResolveError::Malformed { message, .. } => (String::new(), message.clone(), reason::INVALID),
        ResolveError::NoEndpoint { .. } => (
            String::new(),
            "no endpoint is given; list at least one URL that starts with http:// or https://".to_owned(),
            reason::REQUIRED,
        ),
    };
    FieldError { path: error.field().to_owned(), value, message, source: None, reason }
}
