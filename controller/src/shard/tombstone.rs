//! Records of poolers that nothing stands behind any more. A record is marked as shut down, which lets the orchestrators drop its pooler
//! from the cohort at once, whatever the durability policy makes of one that is only unreachable; they remove the record a day later.
//!
//! A pooler that lives does not repair a wrong mark before its own state changes, so nothing is marked on a guess: there is no pod of
//! it, nor will one of its name come back, and the shard has a primary that confirms itself.

use std::collections::BTreeSet;

use jiff::Timestamp;
use shared::name;

use super::{
    facts::{Facts, pod_of},
    observe::{Observed, by_name},
    scope::{Member, Scope},
};
use crate::{
    plan::TopoWrite,
    upstream::{Lifecycle, LifecycleMark, PoolerRecord},
};

/// Why a record is marked; the Go operator's words.
const REASON: &str = "operator: no backing pod for pooler";

/// The marks that are missing; none where the spec switches this off.
pub fn marks(
    scope: &Scope<'_>,
    observed: &Observed,
    members: &[Member<'_>],
    facts: &Facts,
    now: Timestamp,
) -> Vec<TopoWrite> {
    let pruning = scope.spec().topology_pruning.and_then(|pruning| pruning.enabled).unwrap_or(true);
    if !pruning || facts.primary.is_none() {
        return Vec::new();
    }
    let pods = by_name(&observed.pods);
    // Other cells may be somebody else's, or on their way out.
    let cells: BTreeSet<&str> = scope.pool_cells().union(&scope.orchestrator_cells()).copied().collect();
    let expected = |record: &PoolerRecord| {
        members.iter().any(|member| {
            member.pool.id.cell == record.id.cell
                && (name::pooler_service_id(&member.pod) == record.id.name || record.is_of_pod(&member.pod))
        })
    };
    let mark = LifecycleMark { state: Lifecycle::Shutdown, reason: REASON.to_owned(), updated: Some(now) };
    observed
        .topology
        .poolers()
        .filter(|record| record.lifecycle.state != Lifecycle::Shutdown && cells.contains(record.id.cell.as_str()))
        .filter(|record| pod_of(record, &pods).is_none() && !expected(record))
        // The primary confirms itself by its record, so it lives even where its pod cannot be told.
        .filter(|record| facts.primary.as_deref() != Some(record.id.to_string().as_str()))
        .map(|record| TopoWrite::MarkPooler(record.id.clone(), mark.clone()))
        .collect()
}
