//! Who of a shard may be taken down next, and how: the one place that decides about disruptions. Pure.
//!
//! A [`View`] condenses what is known of every member; [`decide`] yields at most one [`Act`] for the whole shard. The table is
//! in `table`, what happens to a member that was chosen in `drain`, health and safety in `view`. Where nothing can be done
//! although something should be, the verdict names its [`Blocker`].

mod drain;
mod member;
mod table;
#[cfg(test)]
mod tests;
mod verdict;
mod view;

use std::time::Duration;

pub use self::{
    member::{Cause, Drain, Failures, Member, Misplaced, Node, Presence, Role, Vitals, Volume},
    table::decide,
    verdict::{Act, Blocker, Ending, Reason, Row, Verdict, Wait},
    view::{Safety, View},
};

/// An older answer of a pooler says nothing about now.
pub const FRESH_FOR: Duration = Duration::from_secs(15);
/// How far a standby may lag behind the end of the primary's log and still count as healthy, in bytes.
pub const LAG_LIMIT: u64 = 64 << 20;
/// How long a member of today's description may take to get healthy before the rollout counts as stalled.
pub const PROGRESS_DEADLINE: Duration = Duration::from_mins(10);
/// How long a chosen member may wait for its turn, or a primary for somebody who takes over, before the choice is dropped.
pub const ABORT_AFTER: Duration = Duration::from_mins(2);
/// How long the data plane may take to let a member go before it is taken without its word.
pub const FORCE_AFTER: Duration = Duration::from_mins(1);
/// How long after its grace period a pod counts as stuck.
pub const STUCK_AFTER: Duration = Duration::from_mins(1);
/// A younger pod may still show the record of its predecessor.
pub const QUARANTINE_AGE: Duration = Duration::from_mins(3);
/// At most one member per shard gets a fresh volume within this time.
pub const QUARANTINE_PACE: Duration = Duration::from_mins(30);
/// More volumes than this are not set aside: what ruins one after the other is not in the volumes.
pub const SET_ASIDE_LIMIT: usize = 3;
/// How long after a failed switchover the next one is tried: this, doubled with every failure, up to [`BACK_OFF_LIMIT`].
pub const BACK_OFF: Duration = Duration::from_secs(30);
/// The longest pause between two switchovers.
pub const BACK_OFF_LIMIT: Duration = Duration::from_mins(10);
