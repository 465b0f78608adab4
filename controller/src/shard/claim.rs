//! Volume claims of a shard: one for the data of each pod, and the volumes of a filesystem repository.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference},
};
use kube::ResourceExt as _;
use serde_json::json;
use shared::{
    annotation,
    api::v1alpha1::{BackupScope, PvcDeletionPolicy, PvcRetention, StorageSpec},
    label::{self, Component, Labels},
    name,
    quantity::Quantity as Amount,
};

use super::{
    origin,
    scope::{Member, Scope},
};
use crate::plan::{Action, Target};

/// Size of a data volume where none is given.
const DATA_SIZE: &str = "1Gi";
/// Size of a repository volume where none is given.
const BACKUP_SIZE: &str = "10Gi";

/// How long a volume that the policy gives up is kept all the same.
pub const ORPHAN_RETENTION: SignedDuration = SignedDuration::from_hours(720);

/// The claim for the data of one pod. It outlives its pod, and under the policy `Retain` also the Shard.
pub fn data(scope: &Scope<'_>, member: &Member<'_>) -> PersistentVolumeClaim {
    let labels = scope.with_own_labels(label::of_pool(member.pool.id));
    let storage = member.pool.spec.storage.as_ref();
    let policy = policy_of_pool(scope, member.pool.id.pool);
    let mut claim = claim(scope, name::data_pvc(&member.pod), labels, storage, DATA_SIZE, policy);
    let mut annotations = origin::annotations(scope);
    let skipped = |index: &u32| scope.set_aside.contains(&name::data_pvc(&name::pool_pod(member.pool.id, *index)));
    let skipped: Vec<String> = (0..member.index).filter(skipped).map(|index| index.to_string()).collect();
    if !skipped.is_empty() {
        annotations.insert(annotation::INSTEAD_OF.to_owned(), skipped.join(","));
    }
    claim.metadata.annotations = Some(annotations);
    claim
}

/// Names of the data volumes whose numbers are skipped: those that were set aside, and those of which another one took the place while it is
/// there. Deleting an old volume moves nobody.
pub fn skipped(claims: &[Arc<PersistentVolumeClaim>]) -> BTreeSet<String> {
    let there: BTreeSet<String> = claims.iter().map(|claim| claim.name_any()).collect();
    let aside = claims.iter().filter(|claim| is_set_aside(claim)).map(|claim| claim.name_any());
    let replaced = claims.iter().filter(|claim| claim.metadata.deletion_timestamp.is_none()).flat_map(|claim| {
        let own = claim.name_any();
        let base = own.rsplit_once('-').map(|(base, _)| base.to_owned()).unwrap_or_default();
        let numbers = claim.annotations().get(annotation::INSTEAD_OF).cloned().unwrap_or_default();
        let numbers: Vec<u32> = numbers.split(',').filter_map(|number| number.parse().ok()).collect();
        numbers.into_iter().map(move |number| format!("{base}-{number}"))
    });
    let replaced: Vec<String> = replaced.filter(|name| !there.contains(name)).collect();
    aside.chain(replaced).collect()
}

/// Whether a volume was given up: no member is made on it any more.
pub fn is_set_aside(claim: &PersistentVolumeClaim) -> bool {
    let annotations = claim.annotations();
    [annotation::QUARANTINED_AT, annotation::REPLACED_AT].iter().any(|key| annotations.contains_key(*key))
}

/// Whether what a claim was bound to is gone. Kubernetes binds it to nothing else.
pub fn is_lost(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost")
}

/// The claims of a filesystem repository: one per cell, or one for all cells; none for other repositories.
pub fn backups(scope: &Scope<'_>) -> Vec<PersistentVolumeClaim> {
    let storage = scope.backup().and_then(|backup| backup.filesystem.as_ref()).and_then(|files| files.storage.as_ref());
    let id = scope.id();
    let labelled: BTreeMap<String, Labels> = match scope.backup_volume() {
        None => BTreeMap::new(),
        Some(BackupScope::Shard) => {
            BTreeMap::from([(name::shard_backup_pvc(id), label::of_shard(id, Component::ShardPool))])
        }
        Some(BackupScope::Cell) => scope
            .pool_cells()
            .into_iter()
            .map(|cell| (name::cell_backup_pvc(id, cell), label::of_shard_in_cell(id, cell, Component::ShardPool)))
            .collect(),
    };
    let build = |(name, labels)| claim(scope, name, labels, storage, BACKUP_SIZE, policy_of_shard(scope));
    labelled.into_iter().map(build).collect()
}

/// Name of the repository volume that pods of a cell mount; none where the repository is elsewhere.
pub fn backup_name(scope: &Scope<'_>, cell: &str) -> Option<String> {
    Some(match scope.backup_volume()? {
        BackupScope::Shard => name::shard_backup_pvc(scope.id()),
        BackupScope::Cell => name::cell_backup_pvc(scope.id(), cell),
    })
}

/// Corrects the owner reference of an existing claim after its policy changed; none while it is right.
pub fn ownership(scope: &Scope<'_>, live: &PersistentVolumeClaim) -> Option<Action> {
    let retention = match live.labels().get(label::POOL) {
        Some(pool) => policy_of_pool(scope, pool),
        None => policy_of_shard(scope),
    };
    let current = live.owner_references();
    let is_ours = |owner: &&OwnerReference| owner.uid == scope.owner.uid;
    let owned = current.iter().any(|owner| is_ours(&owner));
    let wanted = retention == PvcRetention::Delete;
    if owned == wanted {
        return None;
    }
    let mut owners: Vec<OwnerReference> = current.iter().filter(|owner| !is_ours(owner)).cloned().collect();
    if wanted {
        // Somebody else's controller reference stays: an object has at most one.
        if owners.iter().any(|owner| owner.controller == Some(true)) {
            return None;
        }
        owners.extend(scope.meta("", Labels::new()).owner_references.unwrap_or_default());
    }
    let references = if owners.is_empty() { serde_json::Value::Null } else { json!(owners) };
    Some(Action::Merge { target: Target::of(live)?, patch: json!({ "metadata": { "ownerReferences": references } }) })
}

/// Sets a claim aside whose pooler gave up on the data: it stays, marked with the time, and no pod uses it any more.
pub fn set_aside(live: &PersistentVolumeClaim, now: Timestamp) -> Option<Action> {
    let at = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let patch = json!({ "metadata": { "annotations": { annotation::QUARANTINED_AT: at.to_string() } } });
    Some(Action::Merge { target: Target::of(live)?, patch })
}

/// Notes that a member on another volume takes the place of the one on this.
pub fn replaced(live: &PersistentVolumeClaim, now: Timestamp) -> Option<Action> {
    let at = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let patch = json!({ "metadata": { "annotations": { annotation::REPLACED_AT: at.to_string() } } });
    Some(Action::Merge { target: Target::of(live)?, patch })
}

/// Gives a volume its place back, because the spec asks for its class again while its pod still runs; not one that is lost.
pub fn keep_place(scope: &Scope<'_>, live: &PersistentVolumeClaim) -> Option<Action> {
    live.annotations().get(annotation::REPLACED_AT)?;
    if is_lost(live) {
        return None;
    }
    let storage = scope.spec().pools.get(live.labels().get(label::POOL)?)?.storage.as_ref();
    let wanted = storage.and_then(StorageSpec::storage_class);
    if class(live).is_none() || wanted.is_some_and(|wanted| Some(wanted) != class(live)) {
        return None;
    }
    let patch = json!({ "metadata": { "annotations": { annotation::REPLACED_AT: null } } });
    Some(Action::Merge { target: Target::of(live)?, patch })
}

/// The class that a claim got.
pub fn class(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.storage_class_name.as_deref().filter(|class| !class.is_empty())
}

/// How the size that the spec asks for compares with what an existing claim asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Resize {
    /// Nothing to do.
    None,
    /// It grows, while it is in use.
    Grow(Box<Action>),
    /// No volume ever shrinks: it stays as large as it is.
    Refused,
}

/// What becomes of the size of an existing claim, given what would be made today.
pub fn resize(live: &PersistentVolumeClaim, desired: &PersistentVolumeClaim) -> Resize {
    let size = |claim: &PersistentVolumeClaim| {
        claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage").map(|size| size.0.clone())
    };
    let (Some(has), Some(wanted)) = (size(live), size(desired)) else { return Resize::None };
    let (Ok(now), Ok(then)) = (has.parse::<Amount>(), wanted.parse::<Amount>()) else { return Resize::None };
    if then < now {
        return Resize::Refused;
    }
    if then == now {
        return Resize::None;
    }
    let Some(target) = Target::of(live) else { return Resize::None };
    let patch = json!({ "spec": { "resources": { "requests": { "storage": wanted } } } });
    Resize::Grow(Box::new(Action::Merge { target, patch }))
}

/// What becomes of a data volume that no member uses any more: kept, or kept for [`ORPHAN_RETENTION`] and then deleted. None while
/// there is nothing to do.
pub fn give_up(scope: &Scope<'_>, live: &PersistentVolumeClaim, now: Timestamp) -> Option<(&'static str, Action)> {
    let pool = live.labels().get(label::POOL)?;
    let since = live.labels().get(label::ORPHAN_SINCE);
    if when_scaled(scope, pool) == PvcRetention::Retain {
        // The policy was changed before the time was over.
        return Some(("VolumeKept", reclaim(live)?));
    }
    let Some(since) = since else {
        // Whether it goes with the Shard before its time is over is not up to this: `ownership` sees to that.
        let labels = json!({ label::ORPHAN_SINCE: label::orphan_since(now) });
        let patch = json!({ "metadata": { "labels": labels } });
        return Some(("VolumeOrphaned", Action::Merge { target: Target::of(live)?, patch }));
    };
    // A time that cannot be read is somebody else's, and no reason to delete data.
    let since = label::parse_orphan_since(since)?;
    (now.duration_since(since) >= ORPHAN_RETENTION).then_some(())?;
    Some(("PolicyDelete", Action::Delete(Target::of(live)?)))
}

/// What becomes of data volumes of members that are no longer wanted. A pool that is no longer in the spec follows the shard.
fn when_scaled(scope: &Scope<'_>, pool: &str) -> PvcRetention {
    let of = |policy: Option<&PvcDeletionPolicy>| policy?.when_scaled;
    let own = scope.spec().pools.get(pool).and_then(|pool| of(pool.pvc_deletion_policy.as_ref()));
    own.or_else(|| of(scope.spec().pvc_deletion_policy.as_ref())).unwrap_or_default()
}

/// Takes a wanted claim back that waits for its delayed removal; none where it does not.
pub fn reclaim(live: &PersistentVolumeClaim) -> Option<Action> {
    live.labels().get(label::ORPHAN_SINCE)?;
    let patch = json!({ "metadata": { "labels": { label::ORPHAN_SINCE: null } } });
    Some(Action::Merge { target: Target::of(live)?, patch })
}

fn claim(
    scope: &Scope<'_>,
    name: String,
    labels: Labels,
    storage: Option<&StorageSpec>,
    default_size: &str,
    retention: PvcRetention,
) -> PersistentVolumeClaim {
    let size = storage.and_then(|storage| storage.size.as_deref()).unwrap_or(default_size);
    let modes = storage.map(|storage| storage.access_modes.clone()).filter(|modes| !modes.is_empty());
    PersistentVolumeClaim {
        metadata: match retention {
            PvcRetention::Delete => scope.owner.meta(name, labels),
            PvcRetention::Retain => scope.owner.outliving(name, labels),
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(modes.unwrap_or_else(|| vec!["ReadWriteOnce".to_owned()])),
            storage_class_name: storage.and_then(StorageSpec::storage_class).map(ToOwned::to_owned),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size.to_owned()))])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// What becomes of the data volumes of a pool: its own word, else the shard's, else they stay. A pool that is no longer in the spec
/// follows the shard.
fn policy_of_pool(scope: &Scope<'_>, pool: &str) -> PvcRetention {
    let own = scope.spec().pools.get(pool).and_then(|pool| when_deleted(pool.pvc_deletion_policy.as_ref()));
    own.unwrap_or_else(|| policy_of_shard(scope))
}

fn policy_of_shard(scope: &Scope<'_>) -> PvcRetention {
    when_deleted(scope.spec().pvc_deletion_policy.as_ref()).unwrap_or_default()
}

fn when_deleted(policy: Option<&PvcDeletionPolicy>) -> Option<PvcRetention> {
    policy?.when_deleted
}
