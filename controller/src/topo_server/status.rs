//! Status of a TopoServer, computed from its StatefulSet and pods.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use shared::{
    api::v1alpha1::{Phase, TopoServerStatus},
    condition::{self, ConditionSet},
    name,
};

use super::{
    growth::{State, Step},
    objects::Ensemble,
};
use crate::{plan::Note, workload::rollout::Rollout};

/// Enough members answer to write.
pub const AVAILABLE: &str = "Available";
/// All members answer.
const READY: &str = "Ready";
/// There, and false, only while pods are not created.
const PODS_CREATED: &str = "PodsCreated";
/// How long an ensemble may be not ready before missing pods count: a StatefulSet makes them at once, and anew when they went.
const PATIENCE: SignedDuration = SignedDuration::from_secs(5);
/// How long they may be missing before the ensemble is degraded, once that is told; what is under way is told only after it has lasted.
const REFUSED_AFTER: SignedDuration = SignedDuration::from_secs(5);
/// The ensemble is as large, and its volumes are as the spec asks.
pub const AS_SPECIFIED: &str = "AsSpecified";
/// Reason of [`AS_SPECIFIED`] for volumes that stay as they were made.
pub const STORAGE_IS_FIXED: &str = "StorageIsFixed";

pub(super) fn status(ensemble: &Ensemble<'_>, rollout: &Rollout, step: &Step, now: Timestamp) -> TopoServerStatus {
    let owner = ensemble.owner;
    let before = ensemble.server.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let quorum = ensemble.size.voters / 2 + 1;
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
    let for_long = |type_: &str, limit| lasts(before, type_, limit, now);
    let refused = (rollout.lacks_pods() && for_long(READY, PATIENCE)).then(|| {
        format!(
            "not all pods of StatefulSet {} are created: a quota or a policy may refuse them, which its events tell",
            owner.name
        )
    });
    if let Some(message) = &refused {
        conditions = conditions.set(PODS_CREATED, false, "NotCreated", message);
    }
    let refused = refused.filter(|_| for_long(PODS_CREATED, REFUSED_AFTER));
    let deviation = resizing(step).or_else(|| storage(ensemble));
    if let Some((reason, message)) = &deviation {
        conditions = conditions.set(AS_SPECIFIED, false, reason, message);
    }
    let (phase, message) = match (rollout.phase(), &step.state) {
        (Phase::Healthy, State::Blocked { message, .. }) => (Phase::Degraded, message.clone()),
        (Phase::Healthy, State::Moving { message, .. } | State::Waiting { message, .. }) => {
            (Phase::Progressing, message.clone())
        }
        (Phase::Healthy, State::Settled) => (Phase::Healthy, "Ready".to_owned()),
        (phase, _) => match refused.filter(|_| phase == Phase::Progressing) {
            Some(refused) => (Phase::Degraded, format!("etcd: {refused}")),
            None => (phase, rollout.message("etcd")),
        },
    };
    TopoServerStatus {
        observed_generation: Some(owner.generation),
        conditions: conditions.finish(),
        phase: Some(phase),
        message: Some(message),
        client_service: Some(owner.name.clone()),
        peer_service: Some(name::topo_headless(&owner.name)),
    }
}

/// Whether a condition has been false for so long.
fn lasts(before: &[Condition], type_: &str, limit: SignedDuration, now: Timestamp) -> bool {
    condition::find(before, type_)
        .is_some_and(|said| said.status == "False" && now.duration_since(said.last_transition_time.0) >= limit)
}

/// Events for what the spec asks and the ensemble is not, or not yet.
pub(super) fn notes(status: &TopoServerStatus, step: &Step) -> Option<Note> {
    let condition = condition::find(&status.conditions, AS_SPECIFIED)?;
    let (reason, message) = (condition.reason.clone(), condition.message.clone());
    Some(match step.state {
        State::Moving { .. } => Note::normal(reason, message),
        _ => Note::warning(reason, message),
    })
}

/// What is going on about the size.
fn resizing(step: &Step) -> Option<(&'static str, String)> {
    match &step.state {
        State::Settled => None,
        State::Moving { reason, message } | State::Waiting { reason, message } | State::Blocked { reason, message } => {
            Some((reason, message.clone()))
        }
    }
}

fn storage(ensemble: &Ensemble<'_>) -> Option<(&'static str, String)> {
    // Labels of claims are no wish of the user: only size, class and access modes count as a deviation.
    let claims = ensemble.fixed.claims.as_ref()?;
    let facts = |claims: &[k8s_openapi::api::core::v1::PersistentVolumeClaim]| {
        let spec = claims.first().and_then(|claim| claim.spec.clone()).unwrap_or_default();
        let size = spec.resources.and_then(|r| r.requests).and_then(|mut r| r.remove("storage")).map(|q| q.0);
        (size.map(|size| canonical(&size)), spec.storage_class_name, spec.access_modes)
    };
    let (live, wanted) = (facts(claims), facts(&ensemble.wanted_claims()));
    // A claim template without a class got the cluster's default class or none; either is what was asked for.
    let same_class = wanted.1.is_none() || live.1 == wanted.1;
    if live.0 == wanted.0 && same_class && live.2 == wanted.2 {
        return None;
    }
    Some((
        STORAGE_IS_FIXED,
        "volumes of a running ensemble keep the size, class and access modes that they were made with; set them back, or \
         resize the volume claims by hand"
            .to_owned(),
    ))
}

fn canonical(size: &str) -> String {
    size.parse::<shared::quantity::Quantity>().map_or_else(|_| size.to_owned(), |quantity| quantity.to_string())
}
