//! Judges requests for backups.

use serde_json::value::RawValue;
use shared::{
    api::v1alpha1::{MultigresBackupSpec, MultigresClusterSpec},
    validate,
};

use crate::{
    lookup::Lookup,
    review::{Answer, Denial, Operation, Request, text},
};

/// Answers the creation or the update of a MultigresBackup.
pub fn validate(lookup: &dyn Lookup, request: &Request<'_>) -> Answer {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Answer::default();
    }
    let Some(object) = request.object.map(RawValue::get) else {
        return Answer::denied(Denial::unreadable("the review contains no object"));
    };
    let old = request.old_object.map(RawValue::get);
    if text::is_deleting(object) || old.is_some_and(|old| text::same_spec(old, object)) {
        return Answer::default();
    }
    let spec: MultigresBackupSpec = match text::read_spec(object) {
        Some(Ok(spec)) => spec,
        Some(Err(error)) => return Answer::denied(Denial::unreadable(format!("spec cannot be read: {error}"))),
        None => return Answer::denied(Denial::unreadable("the object has no spec")),
    };
    // Nothing hangs on what is known of clusters but a warning.
    let clusters = lookup.clusters(&request.namespace).ok();
    let known: Option<Vec<(&str, &MultigresClusterSpec)>> =
        clusters.as_ref().map(|all| all.iter().map(|cluster| (cluster.name.as_str(), &cluster.spec)).collect());
    Answer::of(&validate::backup_run(&spec, known.as_deref()))
}
