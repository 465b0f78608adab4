//! Rules that the schema of the API cannot express, judged on what a spec resolves to.
//!
//! All findings are reported at once, in a stable order; each names the field, the value, what is allowed and the level that the value
//! came from. What single fields allow is written on the types of the API and read by the `validator` crate.

mod alike;
mod backup;
mod backup_run;
mod cluster;
pub mod duration;
pub mod field;
mod findings;
pub mod limits;
mod pending;
mod postgres;
pub mod reason;
mod resource;
mod review;
mod shard;
mod surroundings;
pub mod template;
mod unresolved;
mod update;
mod written;

use crate::api::v1alpha1::MultigresClusterSpec;
use crate::resolve::ResolvedCluster;

use self::findings::Findings;

pub use self::backup_run::backup_run;
pub use self::findings::{FieldError, Verdict, Warning};
pub use self::postgres::reference as postgres_reference;
pub use self::review::{Subject, review};
pub use self::surroundings::{MissingClass, NodeLabels, StorageClasses, Surroundings, missing_classes};
pub use self::unresolved::unresolved;

/// A cluster as it was before a change.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// Its spec.
    pub spec: &'a MultigresClusterSpec,
    /// What that resolved to, with the templates of today.
    pub resolved: &'a ResolvedCluster,
}

/// Judges a cluster by its spec and by what that resolves to.
///
/// An empty `name` is one that the API server has yet to make up. What `around` does not know is not judged.
pub fn cluster(
    before: Option<Before<'_>>,
    name: &str,
    spec: &MultigresClusterSpec,
    resolved: &ResolvedCluster,
    around: &Surroundings,
) -> Verdict {
    let mut findings = Findings::new(Some(&resolved.provenance));
    written::check(&mut findings, name, spec);
    cluster::check(&mut findings, resolved);
    let known = shard::Cells::of(resolved);
    resolved.each_shard(&mut |at, one| shard::check(&mut findings, at, one, &known));
    surroundings::check(&mut findings, resolved, before.map(|before| before.resolved), around);
    cluster::notices(&mut findings, resolved);
    pending::check(&mut findings, spec, resolved);
    if let Some(before) = before {
        update::check(&mut findings, before.resolved, resolved);
        update::internal_tls(&mut findings, before.spec.internal_tls, spec.internal_tls);
    }
    findings.verdict
}

#[cfg(test)]
mod tests;
