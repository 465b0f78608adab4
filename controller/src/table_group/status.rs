//! Status of a TableGroup, summed up from its Shards.

use jiff::Timestamp;
use shared::{
    api::v1alpha1::{Phase, Shard, TableGroupStatus},
    condition::ConditionSet,
};

use super::{Observed, leaving};
use crate::shard::leaving::READY_FOR_DELETION;

/// All shards serve.
const AVAILABLE: &str = "Available";
/// A shard left the spec and still exists.
pub(super) const REMOVAL_PENDING: &str = "ShardRemovalPending";

pub(super) fn status(observed: &Observed, now: Timestamp) -> TableGroupStatus {
    let generation = observed.owner.generation;
    let before = observed.group.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let wanted = observed.wanted();
    let total = wanted.len();
    let live: Vec<&Shard> = wanted.iter().filter_map(|shard| observed.live(&shard.name)).map(AsRef::as_ref).collect();
    let ready = live.iter().filter(|shard| phase(shard) == Some(Phase::Healthy)).count();
    let degraded = live.iter().find(|shard| phase(shard) == Some(Phase::Degraded));
    let replaced = live.iter().any(|shard| shard.metadata.deletion_timestamp.is_some());

    let asked = leaving::is_asked(&*observed.group);
    let (phase, reason, message) = if asked {
        (Phase::Progressing, "Leaving", "Leaving".to_owned())
    } else if let Some(shard) = degraded {
        let why = shard.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
        (Phase::Degraded, "ShardDegraded", format!("shard {}: {why}", shard.spec.shard_name))
    } else if replaced {
        (Phase::Progressing, "CleanupPending", "waiting for a shard of the same name to leave".to_owned())
    } else if total == 0 {
        (Phase::Initializing, "NoShards", "No Shards".to_owned())
    } else if ready == total {
        (Phase::Healthy, "ShardsReady", "Ready".to_owned())
    } else {
        (Phase::Progressing, "ShardsNotReady", "shards are progressing".to_owned())
    };
    let mut conditions = ConditionSet::continuing(before, Some(generation), now).set(
        AVAILABLE,
        phase == Phase::Healthy,
        reason,
        &message,
    );
    let orphans: Vec<String> = observed.orphans().map(|shard| leaving::explain(shard.as_ref())).collect();
    if !orphans.is_empty() {
        conditions = conditions.set(REMOVAL_PENDING, true, "NotInSpec", orphans.join("; "));
    }
    if asked {
        let left = observed.shards.is_empty();
        let message = if left { "nothing of the table group is left" } else { "its shards leave" };
        conditions = conditions.set(READY_FOR_DELETION, left, if left { "Drained" } else { "ShardsRemain" }, message);
    }
    TableGroupStatus {
        observed_generation: Some(generation),
        conditions: conditions.finish(),
        phase: Some(phase),
        message: Some(message),
        ready_shards: count(ready),
        total_shards: count(total),
    }
}

/// The phase of a Shard whose status describes its current spec; a stale status says nothing.
fn phase(shard: &Shard) -> Option<Phase> {
    let status = shard.status.as_ref()?;
    let current =
        status.observed_generation == shard.metadata.generation && shard.metadata.deletion_timestamp.is_none();
    status.phase.filter(|_| current)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
