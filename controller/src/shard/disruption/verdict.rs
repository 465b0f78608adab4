//! What the planner decides: at most one act, the blocker where nothing can be done, and what a user should hear.

use shared::annotation::DrainState;

use super::member::Cause;
use crate::plan::Note;

/// The outcome of one look at a shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The row of the table that matched.
    pub row: Row,
    /// What to do now.
    pub act: Option<Act>,
    /// What is in the way of work that is pending.
    pub blocker: Option<Blocker>,
    /// Whether anything is pending at all.
    pub pending: bool,
    /// Events worth telling.
    pub notes: Vec<Note>,
}

/// The situation that a verdict answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
pub enum Row {
    /// Nothing is pending.
    Idle,
    /// A pod has ended and is made anew.
    Ended,
    /// The primary is lost for certain and no other one serves yet.
    Lost,
    /// The user asked for no disruption.
    Paused,
    /// The topology or the poolers cannot be believed.
    Blind,
    /// Two members are primary at once.
    Split,
    /// A member is on its way.
    Draining,
    /// A member has to come back first.
    Waiting,
    /// A member of today's description does not come up.
    Stalled,
    /// A member gets a fresh volume.
    Quarantined,
    /// An outdated member that is down is made anew.
    Broken,
    /// A member that nobody wants goes.
    Extra,
    /// An outdated standby goes.
    OutdatedStandby,
    /// The primary hands over.
    Switchover,
    /// The only member is made anew.
    Alone,
    /// Nobody can be spared.
    NoQuorum,
    /// The file system of a member grows with a restart.
    Resize,
    /// A member moves to another volume: one of another class, or one in place of one that is lost.
    Volume,
    /// The primary leaves a node that is about to go.
    NodeDrain,
    /// Settings are reloaded.
    Reload,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Delete a pod that has ended or is down; it is made anew on the same volume.
    Replace {
        /// The pod.
        pod: String,
    },
    /// Set the volume of a quarantined member, or what is left of a lost one, aside and delete its pod.
    FreshVolume {
        /// The pod.
        pod: String,
    },
    /// Let a member on another volume take the place of this one, which is not wanted any more then. Takes nobody down.
    ReplaceVolume {
        /// The pod.
        pod: String,
    },
    /// Choose a member to be taken down.
    Request {
        /// The pod.
        pod: String,
        /// Why.
        cause: Cause,
    },
    /// Note that a chosen member has come a step further.
    Advance {
        /// The pod.
        pod: String,
        /// The step.
        to: DrainState,
    },
    /// Ask the primary to hand over, then note `draining`.
    Resign {
        /// The pod.
        pod: String,
    },
    /// Take a member out of the cohort, then note `acknowledged`.
    LeaveCohort {
        /// The pod.
        pod: String,
    },
    /// Delete a pod that is ready for it.
    Remove {
        /// The pod.
        pod: String,
    },
    /// Drop a choice: the annotations go.
    Drop {
        /// The pod.
        pod: String,
        /// What became of it.
        ending: Ending,
    },
    /// Ask the orchestrators to act now instead of after their grace period.
    Hasten,
    /// Reload the settings of these.
    Reload {
        /// The pods.
        pods: Vec<String>,
    },
}

/// How a choice ends without the removal of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Ending {
    /// What was wanted is reached.
    Success,
    /// Its cause is gone.
    Cancelled,
    /// It could not be done in time.
    Aborted,
    /// Nobody took over from the primary in time.
    SwitchoverFailed,
}

/// What is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// In one word.
    pub reason: Reason,
    /// For a user.
    pub message: String,
}

impl Blocker {
    /// Puts the two together.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Kinds of blockers; reasons of a condition and values of a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumIter, strum::EnumString)]
pub enum Reason {
    /// The user asked for no disruption.
    Paused,
    /// The topology or the poolers cannot be believed.
    TopologyUnavailable,
    /// Two members are primary at once.
    SeveralPrimaries,
    /// No primary serves.
    NoPrimary,
    /// Members run of which the topology has no record.
    RecordMissing,
    /// A member has to get healthy first.
    WaitingForMember,
    /// A pod does not end.
    PodStuck,
    /// A member of today's description does not get healthy.
    RolloutStalled,
    /// Too few others are healthy.
    WaitingForQuorum,
    /// What is left would not keep the durability policy.
    ScaleDownBlocked,
    /// Nobody can take over from the primary.
    NoStandby,
    /// The last switchover failed; the next one is tried later.
    SwitchoverFailed,
    /// The primary was asked to hand over and has not yet.
    WaitingForSwitchover,
    /// The data plane has not let a member go yet.
    WaitingForCohort,
    /// A quarantined member must not get a fresh volume yet.
    QuarantineBlocked,
    /// A member that has lost its volume, or is about to, must not get another one yet.
    VolumeLost,
    /// The class that volumes should have does not exist.
    StorageClassMissing,
    /// Settings that were written are not in force yet.
    WaitingForReload,
}

/// What a blocker waits for. Each has a clock of its own: how long one thing was waited for says nothing about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Members that are to get healthy.
    Member,
    /// Somebody who takes over from the primary.
    Successor,
    /// Settings that are to come into force.
    Reload,
    /// The volumes of members, or the classes they need.
    Volume,
    /// The topology and its records, or one primary too many.
    Sight,
    /// A word of the user.
    Word,
}

impl Reason {
    /// What is waited for.
    pub fn wait(self) -> Wait {
        match self {
            Self::NoPrimary
            | Self::WaitingForMember
            | Self::PodStuck
            | Self::RolloutStalled
            | Self::WaitingForQuorum
            | Self::WaitingForCohort => Wait::Member,
            Self::NoStandby | Self::SwitchoverFailed | Self::WaitingForSwitchover => Wait::Successor,
            Self::WaitingForReload => Wait::Reload,
            Self::QuarantineBlocked | Self::VolumeLost | Self::StorageClassMissing => Wait::Volume,
            Self::TopologyUnavailable | Self::SeveralPrimaries | Self::RecordMissing => Wait::Sight,
            Self::Paused | Self::ScaleDownBlocked => Wait::Word,
        }
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Verdict {
    /// Nothing to do.
    pub fn of(row: Row) -> Self {
        Self { row, act: None, blocker: None, pending: row != Row::Idle, notes: Vec::new() }
    }

    /// Something to do.
    #[must_use]
    pub fn act(self, act: Act) -> Self {
        Self { act: Some(act), ..self }
    }

    /// Something in the way.
    #[must_use]
    pub fn blocked(self, reason: Reason, message: impl Into<String>) -> Self {
        Self { blocker: Some(Blocker::new(reason, message)), ..self }
    }

    /// Something to tell.
    #[must_use]
    pub fn note(mut self, note: Note) -> Self {
        self.notes.push(note);
        self
    }
}

impl Act {
    /// The pod that loses its process by it; none for acts that leave every process alone.
    pub fn takes_down(&self) -> Option<&str> {
        match self {
            Self::Replace { pod } | Self::FreshVolume { pod } | Self::Remove { pod } | Self::Resign { pod } => {
                Some(pod)
            }
            Self::Request { .. }
            | Self::ReplaceVolume { .. }
            | Self::Advance { .. }
            | Self::LeaveCohort { .. }
            | Self::Drop { .. }
            | Self::Hasten
            | Self::Reload { .. } => None,
        }
    }
}
