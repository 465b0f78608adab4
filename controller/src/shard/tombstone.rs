//! Records of poolers that nothing stands behind any more. A record is marked as shut down, which lets the orchestrators drop its pooler
//! from the cohort at once, whatever the durability policy makes of one that is only unreachable; they remove the record a day later.
//!
//! A pooler that lives does not repair a wrong mark before its own state changes, so nothing is marked on a guess: there has been no
//! pod of it for a while, nor will one of its name come back, the topology answers, and the shard has a primary that confirms itself.
//! The executor looks for the pod once more.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use shared::{kubeutil::ObjectKey, name};

use super::{
    facts::{Facts, pod_of},
    observe::{Observed, by_name},
    scope::{Member, Scope},
};
use crate::{
    plan::{Action, TopoWrite},
    upstream::{Lifecycle, LifecycleMark, PoolerRecord},
};

/// Why a record is marked; the Go operator's words.
const REASON: &str = "operator: no backing pod for pooler";

/// How long a pooler must be without a pod before its record is marked.
const BODILESS: SignedDuration = SignedDuration::from_secs(30);

/// The marks that are missing; none where the spec switches this off.
pub fn burials(
    scope: &Scope<'_>,
    observed: &Observed,
    members: &[Member<'_>],
    facts: &Facts,
    now: Timestamp,
) -> Vec<Action> {
    let pruning = scope.spec().topology_pruning.and_then(|pruning| pruning.enabled).unwrap_or(true);
    let sure = observed.topology_away.is_none() && observed.topology.is_complete() && facts.primary.is_some();
    if !pruning || !sure {
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
    let long = |record: &PoolerRecord| {
        observed.bodiless.get(&record.id).is_some_and(|since| now.duration_since(*since) >= BODILESS)
    };
    observed
        .topology
        .poolers()
        .filter(|record| record.lifecycle.state != Lifecycle::Shutdown && cells.contains(record.id.cell.as_str()))
        // Pods of another namespace are not looked for: such a pooler belongs to another cluster that shares the topology.
        .filter(|record| record.may_be_in(scope.namespace))
        .filter(|record| pod_of(record, &pods).is_none() && !expected(record) && long(record))
        // The primary confirms itself by its record, so it lives even where its pod cannot be told.
        .filter(|record| facts.primary.as_deref() != Some(record.id.to_string().as_str()))
        .map(|record| bury(scope, observed, record, now))
        .collect()
}

fn bury(scope: &Scope<'_>, observed: &Observed, record: &PoolerRecord, now: Timestamp) -> Action {
    let updated = Some(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let mark = LifecycleMark { state: Lifecycle::Shutdown, reason: REASON.to_owned(), updated };
    let write = TopoWrite::MarkPooler(record.id.clone(), mark);
    let mark = Action::Topology { at: observed.topology_at.clone(), write };
    let Some(name) = record.pod_name() else { return mark };
    let pod = ObjectKey {
        group: String::new(),
        kind: "Pod".to_owned(),
        namespace: Some(scope.namespace.to_owned()),
        name: name.to_owned(),
    };
    Action::Sequence(vec![Action::RequireAbsent { pod }, mark])
}
