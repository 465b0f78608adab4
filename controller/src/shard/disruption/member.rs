//! What is known of one member of a shard. Plain values, so that a simulated world can make them up.

use jiff::Timestamp;
use shared::annotation::DrainState;

use super::{BACK_OFF, BACK_OFF_LIMIT};
use crate::upstream::Lifecycle;

/// A pod that the shard has or should have.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Name of the pod.
    pub pod: String,
    /// Cell that it runs in.
    pub cell: String,
    /// Its number within its pool and cell.
    pub index: u32,
    /// Whether the spec asks for it.
    pub wanted: bool,
    /// Whether the pod is there.
    pub presence: Presence,
    /// When the pod was created.
    pub created: Option<Timestamp>,
    /// How far its removal has come; none while nobody wants to remove it.
    pub drain: Option<Drain>,
    /// Switchovers away from it that failed.
    pub failures: Failures,
    /// The first difference to what would be built today that only a new pod removes.
    pub outdated: Option<String>,
    /// Whether its file system grows with the next pod only.
    pub resize_pending: bool,
    /// How its volume differs from what the spec asks for, if no change of the volume helps.
    pub misplaced: Option<Misplaced>,
    /// What has become of its volume.
    pub volume: Volume,
    /// Whether it runs settings that a reload would replace.
    pub reload_pending: bool,
    /// Whether the kubelet says that it is ready; where it is outdated, whether it would be but for its exporter.
    pub ready: bool,
    /// Why it cannot run by itself: crash loop, image, no node.
    pub trouble: Option<String>,
    /// What is known of its node.
    pub node: Node,
    /// Where its pooler is in its life.
    pub lifecycle: Lifecycle,
    /// When the pooler entered that state.
    pub lifecycle_since: Option<Timestamp>,
    /// What it is in the replication.
    pub role: Role,
    /// Whether there is a record of it in the topology.
    pub registered: bool,
    /// Whether it answers and has been in no record for a while, although the topology is complete.
    pub forgotten: bool,
    /// Whether the primary says that this one's PostgreSQL is connected to it, whether or not its pooler answers.
    pub connected: bool,
    /// What its pooler said within [`FRESH_FOR`](super::FRESH_FOR); none if it said nothing.
    pub vitals: Option<Vitals>,
}

/// A volume of another StorageClass than the spec asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// The class that it should have.
    pub class: String,
    /// Whether there is such a class, as far as that is known.
    pub exists: bool,
}

/// What has become of a data volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Volume {
    /// Nothing bad.
    #[default]
    Fine,
    /// Somebody asked for its end: it goes with its pod, and so does what is on it.
    Leaving,
    /// Its claim is there, and the volume is not.
    Lost,
}

/// Whether a pod is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// There is none of that name.
    Missing,
    /// It exists and nobody asked for its end. It may still be waiting for a node.
    Live,
    /// It has ended and does not come back by itself.
    Ended,
    /// Somebody asked for its end.
    Leaving {
        /// When its grace period is over.
        due: Timestamp,
    },
}

/// How far the removal of a member has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The step that it has reached.
    pub state: DrainState,
    /// Why it was chosen; none where somebody else's annotation does not say.
    pub cause: Option<Cause>,
    /// When it was chosen.
    pub requested: Timestamp,
    /// When it reached the step.
    pub since: Timestamp,
}

/// Why a member is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Cause {
    /// It differs from what would be built today.
    RollingUpdate,
    /// Nobody wants it any more.
    ScaleDown,
    /// Its file system grows with a restart only.
    FsResize,
    /// Its node is about to go. Moves the primary; the pod itself is left to the eviction.
    NodeDrain,
}

/// Failed switchovers, kept on the pod so that a restarted controller remembers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many in a row.
    pub count: u32,
    /// When the last one failed.
    pub last: Option<Timestamp>,
}

impl Failures {
    /// When the next switchover may be tried; none if at once.
    pub fn retry_at(&self) -> Option<Timestamp> {
        let exponent = self.count.saturating_sub(1).min(16);
        let pause = BACK_OFF.saturating_mul(1 << exponent).min(BACK_OFF_LIMIT);
        self.last?.checked_add(pause).ok()
    }
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Node {
    /// Nothing bad.
    #[default]
    Fine,
    /// No new pod may come: somebody is about to empty it.
    Cordoned,
    /// Pods are told to leave, or it is marked as out of service.
    Draining,
}

/// What a member is in the replication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It holds the highest-ranked claim to be primary, or says itself that it serves as one.
    Primary,
    /// It follows.
    Standby,
    /// It is not registered.
    #[default]
    Unknown,
}

/// What a pooler said of itself and its primary of it.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Whether PostgreSQL accepts connections.
    pub postgres_ready: bool,
    /// Whether it is a primary that takes writes and means to stay.
    pub serving: bool,
    /// Whether it streams, and the primary counts it among its followers.
    pub streaming: bool,
    /// How many bytes of the primary's log it has not replayed.
    pub lag: u64,
    /// Whether the primary's rule counts it.
    pub in_cohort: bool,
}

impl Member {
    /// Whether the pod is there and stays.
    pub fn is_live(&self) -> bool {
        self.presence == Presence::Live
    }

    /// Whether it certainly serves nobody: taking it down takes nothing away.
    ///
    /// A pooler that merely does not answer may still have a PostgreSQL that confirms commits, and so may one that crashes: the two are
    /// processes of different containers. The primary knows.
    pub fn is_down(&self) -> bool {
        match (self.presence, &self.vitals) {
            (Presence::Missing | Presence::Ended, _) => true,
            (_, Some(vitals)) => !vitals.postgres_ready && !vitals.streaming,
            (_, None) => !self.ready && !self.connected && (self.trouble.is_some() || self.is_quarantined()),
        }
    }

    /// Whether it runs and is registered, so that nothing but a primary is missing to it.
    pub fn has_joined(&self) -> bool {
        self.is_live() && self.ready && self.registered && self.role == Role::Standby
    }

    /// Whether its pooler gave up on its data.
    pub fn is_quarantined(&self) -> bool {
        self.lifecycle == Lifecycle::Quarantined
    }

    /// Whether nothing comes of its data any more: its pooler gave up on it, or it is down and its volume is gone or about to go.
    pub fn is_given_up(&self) -> bool {
        self.is_quarantined() || (self.wanted && self.volume != Volume::Fine && self.is_down())
    }

    /// Whether its node is about to go.
    pub fn must_move(&self) -> bool {
        self.node != Node::Fine
    }

    /// Why it has to be taken down, if it has to.
    pub fn cause(&self) -> Option<Cause> {
        if !self.wanted {
            Some(Cause::ScaleDown)
        } else if self.volume != Volume::Fine {
            // Its next pod would have no data, so it stays until somebody else has taken its place.
            None
        } else if self.outdated.is_some() {
            Some(Cause::RollingUpdate)
        } else if self.resize_pending {
            Some(Cause::FsResize)
        } else {
            None
        }
    }
}
