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
mod place;
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
pub use self::place::{Keeper, own_root, topology_stays};
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
    as_written(&mut findings, name, spec);
    surroundings::places(&mut findings, spec, &resolved.zone_id_label, around);
    as_resolved(&mut findings, before, spec, resolved, around);
    findings.verdict
}

/// Judges what a spec says on its own, whatever templates and the Kubernetes cluster have besides.
pub fn alone(name: &str, spec: &MultigresClusterSpec) -> Verdict {
    let mut findings = Findings::new(None);
    as_written(&mut findings, name, spec);
    findings.verdict
}

/// The rules about a spec as it is written; parts of it are judged together.
fn as_written(findings: &mut Findings<'_>, name: &str, spec: &MultigresClusterSpec) {
    written::check(findings, name, spec);
    pending::written(findings, spec);
}

/// The rules about what a spec resolves to; cells and shards are judged each by itself.
fn as_resolved(
    findings: &mut Findings<'_>,
    before: Option<Before<'_>>,
    spec: &MultigresClusterSpec,
    resolved: &ResolvedCluster,
    around: &Surroundings,
) {
    cluster::check(findings, resolved);
    let known = shard::Cells::of(spec);
    resolved.each_shard(&mut |at, one| shard::check(findings, at, one, &known));
    surroundings::check(findings, resolved, before.map(|before| before.resolved), around);
    cluster::notices(findings, resolved);
    pending::resolved(findings, resolved);
    if let Some(before) = before {
        update::check(findings, before.resolved, resolved);
        update::internal_tls(findings, before.spec.internal_tls, spec.internal_tls);
    }
}

#[cfg(test)]
mod tests;
