//! Takes a cluster apart in order, under its finalizer: shards first, then what lies outside, then the rest by owner references.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use serde_json::json;
use shared::{
    annotation::CLUSTER_FINALIZER,
    api::v1alpha1::{BackupType, Cell, MultigresClusterStatus, PvcRetention, ShardSpec},
    label,
    label::Component,
};

use super::{Observed, departed, password, place, topology, topology::Sight};
use crate::{
    cell::leaving::abandoned,
    plan::{Action, Note, Plan, Requeue, Target},
};

/// How often the next step is tried: most of what is waited for wakes nobody.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long records in a topology of others, and volumes that are being deleted, may hold up the removal.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);
/// The same for records in the cluster's own etcd, which is useless without the cluster.
const OWN_PATIENCE: SignedDuration = SignedDuration::from_secs(30);

/// The next step of the removal.
pub(super) fn decide(observed: &Observed, now: Timestamp) -> Plan<MultigresClusterStatus> {
    let mut plan = Plan { requeue: Requeue::Never, ..Plan::nothing() };
    if !observed.cluster.finalizers().iter().any(|finalizer| finalizer == CLUSTER_FINALIZER) {
        return plan;
    }
    plan.requeue = Requeue::After(LOOK_AGAIN);
    for group in &observed.table_groups {
        if group.metadata.deletion_timestamp.is_none() {
            delete(&mut plan, "ClusterDeleted", &**group);
        }
    }
    let shard_pods = observed.pods.iter().any(|pod| {
        let component = pod.labels().get(label::COMPONENT).map(String::as_str);
        let of_shard =
            component == Some(Component::ShardPool.as_str()) || component == Some(Component::Multiorch.as_str());
        of_shard && !abandoned(pod, now)
    });
    if !observed.table_groups.is_empty() || !observed.shards.is_empty() || shard_pods {
        return plan;
    }
    let since = observed.cluster.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
    let patient = now.duration_since(since) < PATIENCE;
    let contested = observed.leftovers.strangers || place::is_contested(observed);
    let kept = observed.external_topology.as_ref().or(observed.retained_topology.as_ref());
    if contested {
        let message = "another cluster has its records in the same topology below the same root, so none is removed";
        plan.notes.push(Note::warning("RecordsLeftBehind", message));
    } else if let Some(at) = kept {
        // The cluster's own etcd may be gone already, as in a namespace that is deleted: nobody is waited for long.
        let patient =
            if observed.external_topology.is_some() { patient } else { now.duration_since(since) < OWN_PATIENCE };
        match &observed.topology {
            Sight::Seen { .. } => {
                if gateways_leave(observed, now, &mut plan) && patient {
                    return plan;
                }
                // They are found through their cells, whose records go next.
                let left = departed::removals(observed, at);
                if !left.is_empty() {
                    for action in left {
                        plan.write("LeftBehind", action);
                    }
                    if patient {
                        return plan;
                    }
                }
                let (cells, databases) = observed.registered_names();
                let writes = topology::removal(&observed.topology, &observed.leftovers.poolers, &cells, &databases);
                if !writes.is_empty() {
                    for write in writes {
                        plan.write("ClusterDeleted", Action::Topology { at: at.clone(), write });
                    }
                    if patient {
                        return plan;
                    }
                }
            }
            Sight::Failed { .. } if patient => return plan,
            Sight::NotServing if patient && observed.external_topology.is_some() => return plan,
            Sight::NotServing | Sight::Failed { .. } => {
                let message = "the topology did not answer; the records of this cluster remain in it";
                plan.notes.push(Note::warning("RecordsLeftBehind", message));
            }
        }
    }
    let data: Vec<&PersistentVolumeClaim> =
        observed.claims.iter().map(AsRef::as_ref).filter(|claim| password::holds_data(claim)).collect();
    if deletes_everything(observed) {
        if data.iter().any(|claim| leaving(claim)) && patient {
            return plan;
        }
        if data.is_empty()
            && let Some(secret) = observed.password_secret.as_deref()
        {
            delete(&mut plan, "NoDataLeft", secret);
        }
    }
    if let Some(target) = Target::of(&*observed.cluster) {
        let rest: Vec<&String> =
            observed.cluster.finalizers().iter().filter(|finalizer| *finalizer != CLUSTER_FINALIZER).collect();
        let version = observed.cluster.metadata.resource_version.as_deref();
        let patch = json!({ "metadata": { "finalizers": rest, "resourceVersion": version } });
        plan.write("Cleaned", Action::Merge { target, patch });
    }
    plan
}

/// Lets the gateways go, and tells whether some are still there. A gateway that ends looks its cell up to take its own record along, so
/// the record of the cell has to outlive it.
///
/// A cell with a topology server of its own stays, because the records in there are still to be removed. So does one that the spec no
/// longer names or whose spec cannot be resolved: nothing else remembers it.
fn gateways_leave(observed: &Observed, now: Timestamp, plan: &mut Plan<MultigresClusterStatus>) -> bool {
    if observed.resolved.is_err() {
        return false;
    }
    let named = |name: &str| observed.cluster.spec.cells.iter().any(|cell| cell.name == name);
    let goes = |cell: &Cell| cell.spec.topo_server.is_none() && named(&cell.spec.name);
    let (going, staying): (Vec<_>, Vec<_>) = observed.cells.iter().partition(|cell| goes(cell));
    for cell in going.into_iter().filter(|cell| cell.metadata.deletion_timestamp.is_none()) {
        delete(plan, "ClusterDeleted", &**cell);
    }
    observed.pods.iter().any(|pod| {
        let label = |key: &str| pod.labels().get(key).map(String::as_str);
        let stays = staying.iter().any(|cell| label(label::CELL) == Some(cell.spec.name.as_str()));
        label(label::COMPONENT) == Some(Component::Multigateway.as_str()) && !stays && !abandoned(pod, now)
    })
}

fn delete<K>(plan: &mut Plan<MultigresClusterStatus>, reason: &'static str, object: &K)
where
    K: kube::Resource<DynamicType = ()>,
{
    if let Some(target) = Target::of(object) {
        plan.write(reason, Action::Delete(target));
    }
}

/// A claim that is being deleted, or will be with its owner.
fn leaving(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_some()
        || claim.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty())
}

/// Whether no volume and no backup of the cluster is meant to survive. What cannot be resolved is not deleted.
fn deletes_everything(observed: &Observed) -> bool {
    let Ok(resolved) = &observed.resolved else { return false };
    let mut shards =
        resolved.table_groups().flat_map(|group| group.shards.iter().map(|shard| shared::resolve::shard(group, shard)));
    shards.all(|shard| shard_deletes(&shard))
}

fn shard_deletes(shard: &ShardSpec) -> bool {
    // A bucket outlives the cluster, whatever the volumes do.
    let local = shard.backup.as_ref().is_none_or(|backup| backup.r#type == BackupType::Filesystem);
    let own = shard.pvc_deletion_policy.and_then(|policy| policy.when_deleted);
    let delete = Some(PvcRetention::Delete);
    let pools =
        shard.pools.values().map(|pool| pool.pvc_deletion_policy.and_then(|policy| policy.when_deleted).or(own));
    local && own == delete && pools.into_iter().all(|policy| policy == delete)
}
