//! Status of a TableGroup, summed up from its Shards.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use shared::{
    api::v1alpha1::{Phase, Shard, TableGroupStatus},
    condition::{self, ConditionSet},
};

use super::{Observed, leaving};
use crate::shard::leaving::READY_FOR_DELETION;

/// All shards serve.
const AVAILABLE: &str = "Available";
/// A shard left the spec and still exists.
pub(super) const REMOVAL_PENDING: &str = "ShardRemovalPending";

/// How long shards may be on their way before they are named: a start takes less, and its steps are worth no writes.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);

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
        let since = condition::find(before, AVAILABLE).map(|available| available.last_transition_time.0);
        let long = since.is_some_and(|since| now.duration_since(since) >= PATIENCE);
        let message = long.then(|| held_up(observed)).flatten();
        (Phase::Progressing, "ShardsNotReady", message.unwrap_or_else(|| "shards are progressing".to_owned()))
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

/// How long until a group that is on its way names what it waits for, if nothing happens before.
pub(super) fn named_in(status: &TableGroupStatus, now: Timestamp) -> Option<Duration> {
    let available =
        condition::find(&status.conditions, AVAILABLE).filter(|_| status.phase == Some(Phase::Progressing))?;
    let left = PATIENCE - now.duration_since(available.last_transition_time.0);
    (left > SignedDuration::ZERO).then(|| left.unsigned_abs())
}

/// The first shard that is not healthy, in its own words.
fn held_up(observed: &Observed) -> Option<String> {
    observed.wanted().iter().find_map(|wanted| {
        let live = observed.live(&wanted.name);
        let phase = live.and_then(|shard| phase(shard));
        if phase == Some(Phase::Healthy) {
            return None;
        }
        let status = live.and_then(|shard| shard.status.as_ref()).filter(|_| phase.is_some());
        let said = status.and_then(|status| status.message.as_deref()).filter(|message| !message.is_empty());
        Some(format!("shard {}: {}", wanted.name, said.unwrap_or("says nothing about its current spec yet")))
    })
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
