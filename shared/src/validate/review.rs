//! From a spec to a verdict in one step.

use crate::api::v1alpha1::MultigresClusterSpec;
use crate::resolve::{self, Settings, Templates};

use super::{Before, Findings, Surroundings, Verdict, cluster, unresolved, written};

/// A cluster to judge.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its name; empty while the API server has yet to make one up.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its spec.
    pub spec: &'a MultigresClusterSpec,
    /// The templates of its namespace.
    pub templates: &'a Templates,
    /// What the operator's own configuration contributes.
    pub settings: &'a Settings,
}

/// Resolves a cluster and judges it, and its change where `old` is what it was before.
///
/// Most specs are right, so where values came from is only looked up for those that are not.
pub fn review(old: Option<&MultigresClusterSpec>, subject: &Subject<'_>, around: &Surroundings) -> Verdict {
    let Subject { name, namespace, spec, templates, settings } = *subject;
    let old = old.filter(|old| *old != spec);
    let before = old.and_then(|old| resolve::quietly(name, namespace, old, templates, settings).ok());
    let before = old.zip(before.as_ref()).map(|(spec, resolved)| Before { spec, resolved });
    match resolve::quietly(name, namespace, spec, templates, settings) {
        Ok(resolved) => {
            let verdict = cluster(before, name, spec, &resolved, around);
            if verdict.is_accepted() {
                return verdict;
            }
            match resolve::cluster(name, namespace, spec, templates, settings) {
                Ok(resolved) => cluster(before, name, spec, &resolved, around),
                Err(_) => verdict,
            }
        }
        Err(errors) => {
            // What does not depend on the missing part is said at once, too.
            let mut findings = Findings::new(None);
            written::check(&mut findings, name, spec);
            let mut verdict = unresolved(&errors);
            verdict.errors.append(&mut findings.verdict.errors);
            verdict.warnings = findings.verdict.warnings;
            verdict
        }
    }
}
