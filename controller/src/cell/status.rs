//! Status of a Cell, computed from its gateways and from what they wait for.

use jiff::Timestamp;
use shared::{
    api::v1alpha1::{CellStatus, Phase},
    condition::ConditionSet,
    name,
};

use super::{
    Hold, Observed,
    leaving::{Drain, READY_FOR_DELETION},
};
use crate::workload::rollout::Rollout;

/// At least one gateway serves.
const AVAILABLE: &str = "Available";
/// All gateways serve.
const READY: &str = "Ready";

pub(super) fn status(
    observed: &Observed,
    rollout: &Rollout,
    hold: Option<&Hold>,
    drain: Option<&Drain>,
    now: Timestamp,
) -> CellStatus {
    let generation = observed.owner.generation;
    let before = observed.cell.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let mut conditions = ConditionSet::continuing(before, Some(generation), now);
    let counts = rollout.counts();
    let waits = hold.map(explain);
    conditions = if rollout.ready() > 0 {
        conditions.set(AVAILABLE, true, "MultigatewayAvailable", &counts)
    } else if rollout.empty() {
        conditions.set(AVAILABLE, false, "MultigatewayUnavailable", "no gateways are asked for")
    } else {
        let (reason, message) = waits.clone().unwrap_or(("MultigatewayUnavailable", counts.clone()));
        conditions.set(AVAILABLE, false, reason, message)
    };
    conditions = match waits.clone() {
        Some(("MultigatewayUnavailable", message)) => conditions.set(READY, false, "MultigatewayNotReady", message),
        Some((reason, message)) => conditions.set(READY, false, reason, message),
        None if rollout.complete() => conditions.set(READY, true, "MultigatewayReady", &counts),
        None => conditions.set(READY, false, "MultigatewayNotReady", &counts),
    };
    if let Some(drain) = drain {
        let (reason, message) = drain.explain();
        conditions = conditions.set(READY_FOR_DELETION, *drain == Drain::Done, reason, message);
    }
    let (phase, message) = match (hold, waits) {
        _ if let Some(drain) = drain => (Phase::Progressing, format!("on its way out: {}", drain.explain().1)),
        (Some(Hold::ForeignTopology(message)), _) => (Phase::Degraded, message.clone()),
        (Some(_), Some((_, message))) if !rollout.broken() => (Phase::Progressing, message),
        _ => (rollout.phase(), rollout.message("Gateway")),
    };
    CellStatus {
        observed_generation: Some(generation),
        conditions: conditions.finish(),
        phase: Some(phase),
        message: Some(message),
        gateway_replicas: rollout.replicas(),
        gateway_ready_replicas: rollout.ready(),
        gateway_service_name: Some(name::gateway_service(&observed.cluster, &observed.cell.spec.name)),
    }
}

/// Condition reason and message of a hold. Waiting for the cluster's topology is part of every start and no reason of its own,
/// so that a start costs one status, not two.
fn explain(hold: &Hold) -> (&'static str, String) {
    match hold {
        Hold::LocalTopology => ("LocalTopoServerNotReady", "waiting for the cell's own topology server".to_owned()),
        Hold::GlobalTopology => ("MultigatewayUnavailable", "waiting for the cluster's topology server".to_owned()),
        Hold::ForeignTopology(message) => ("ForeignTopoServer", message.clone()),
        Hold::Certificates(what) => ("CertificatesMissing", format!("waiting for certificates: {what}")),
    }
}
