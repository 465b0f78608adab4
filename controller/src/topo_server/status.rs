//! Status of a TopoServer, computed from its StatefulSet and pods.

use jiff::Timestamp;
use shared::{
    api::v1alpha1::{Phase, TopoServerStatus},
    condition::{self, ConditionSet},
    name,
};

use super::objects::Ensemble;
use crate::{plan::Note, workload::rollout::Rollout};

/// Enough members answer to write.
pub const AVAILABLE: &str = "Available";
/// All members answer.
const READY: &str = "Ready";
/// The ensemble is as large, and its volumes are as the spec asks.
const AS_SPECIFIED: &str = "AsSpecified";

pub(super) fn status(ensemble: &Ensemble<'_>, rollout: &Rollout, now: Timestamp) -> TopoServerStatus {
    let owner = ensemble.owner;
    let before = ensemble.server.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let quorum = ensemble.replicas() / 2 + 1;
    let counts = rollout.counts();
    let mut conditions = ConditionSet::continuing(before, Some(owner.generation), now);
    conditions = if rollout.ready() >= quorum {
        conditions.set(AVAILABLE, true, "Quorum", &counts)
    } else {
        conditions.set(AVAILABLE, false, "NoQuorum", &counts)
    };
    conditions = if rollout.complete() {
        conditions.set(READY, true, "AllReplicasReady", &counts)
    } else {
        conditions.set(READY, false, "NotAllReplicasReady", &counts)
    };
    if let Some((reason, message)) = deviation(ensemble) {
        conditions = conditions.set(AS_SPECIFIED, false, reason, message);
    }
    let phase = rollout.phase();
    TopoServerStatus {
        observed_generation: Some(owner.generation),
        conditions: conditions.finish(),
        phase: Some(phase),
        message: Some(if phase == Phase::Healthy { "Ready".to_owned() } else { rollout.message("etcd") }),
        client_service: Some(owner.name.clone()),
        peer_service: Some(name::topo_headless(&owner.name)),
    }
}

/// Events for what the spec asks and the ensemble cannot become.
pub(super) fn notes(status: &TopoServerStatus) -> Option<Note> {
    let condition = condition::find(&status.conditions, AS_SPECIFIED)?;
    Some(Note::warning(condition.reason.clone(), condition.message.clone()))
}

fn deviation(ensemble: &Ensemble<'_>) -> Option<(&'static str, String)> {
    if let Some(size) = ensemble.fixed.replicas {
        let wanted = ensemble.wanted_replicas();
        return Some((
            "SizeIsFixed",
            format!(
                "the ensemble was made with {size} members and stays so; {wanted} are asked for. Members of a running ensemble \
                 cannot be added or removed yet: set replicas back to {size}"
            ),
        ));
    }
    // Labels of claims are no wish of the user: only size, class and access modes count as a deviation.
    let claims = ensemble.fixed.claims.as_ref()?;
    let storage = |claims: &[k8s_openapi::api::core::v1::PersistentVolumeClaim]| {
        let spec = claims.first().and_then(|claim| claim.spec.clone()).unwrap_or_default();
        let size = spec.resources.and_then(|r| r.requests).and_then(|mut r| r.remove("storage")).map(|q| q.0);
        (size.map(|size| canonical(&size)), spec.storage_class_name, spec.access_modes)
    };
    let (live, wanted) = (storage(claims), storage(&ensemble.wanted_claims()));
    // A claim template without a class got the cluster's default class or none; either is what was asked for.
    let same_class = wanted.1.is_none() || live.1 == wanted.1;
    if live.0 == wanted.0 && same_class && live.2 == wanted.2 {
        return None;
    }
    Some((
        "StorageIsFixed",
        "volumes of a running ensemble keep the size, class and access modes that they were made with; set them back, or \
         resize the volume claims by hand"
            .to_owned(),
    ))
}

fn canonical(size: &str) -> String {
    size.parse::<shared::quantity::Quantity>().map_or_else(|_| size.to_owned(), |quantity| quantity.to_string())
}
