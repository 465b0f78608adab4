//! The volumes of members where the API server drops what a StatefulSet says about them, as it does before Kubernetes 1.27: they go with the
//! StatefulSet, or once their member has left, if the policy says so.

use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use shared::api::v1alpha1::{PvcRetention, TopoServerStatus};

use super::{
    MOST, Observed,
    growth::{State, Step},
    objects,
};
use crate::plan::{Action, Plan, Target};

/// Whether the StatefulSet says what becomes of its volumes, so that Kubernetes sees to it.
pub(super) fn seen_to(observed: &Observed) -> bool {
    let spec = observed.stateful_set.as_ref().and_then(|set| set.spec.as_ref());
    spec.is_some_and(|spec| spec.persistent_volume_claim_retention_policy.is_some())
}

/// Adds what is to be done about them; nothing where their StatefulSet sees to it.
pub(super) fn follow(observed: &Observed, step: &Step, complete: bool, plan: &mut Plan<TopoServerStatus>) {
    let Some(set) = observed.stateful_set.as_deref().filter(|_| !seen_to(observed)) else { return };
    let policy = objects::policy(&observed.server);
    let deleted = |retention: Option<PvcRetention>| retention == Some(PvcRetention::Delete);
    let left = complete && step.state == State::Settled && deleted(policy.when_scaled);
    for ordinal in 0..MOST {
        let claim = observed.claim(ordinal).filter(|claim| claim.metadata.deletion_timestamp.is_none());
        let Some(claim) = claim else { continue };
        if left && ordinal >= step.pods && observed.pod(ordinal).is_none() {
            if let Some(target) = Target::of(claim) {
                plan.write("MemberGone", Action::Delete(target));
            }
        } else if let Some(action) = ownership(claim, set, deleted(policy.when_deleted)) {
            plan.write("VolumePolicy", action);
        }
    }
}

/// Corrects whether a claim goes with the StatefulSet; none while that is right.
fn ownership(claim: &PersistentVolumeClaim, set: &StatefulSet, wanted: bool) -> Option<Action> {
    let uid = set.metadata.uid.as_deref()?;
    let owners = claim.owner_references();
    if owners.iter().any(|owner| owner.uid == uid) == wanted {
        return None;
    }
    let mut owners: Vec<OwnerReference> = owners.iter().filter(|owner| owner.uid != uid).cloned().collect();
    if wanted {
        // Later servers refer to it just like this, so that nothing changes with them.
        owners.push(OwnerReference {
            api_version: StatefulSet::api_version(&()).into_owned(),
            kind: StatefulSet::kind(&()).into_owned(),
            name: set.name_any(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        });
    }
    let references = if owners.is_empty() { Value::Null } else { json!(owners) };
    Some(Action::Merge { target: Target::of(claim)?, patch: json!({ "metadata": { "ownerReferences": references } }) })
}
