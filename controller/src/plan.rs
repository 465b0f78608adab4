//! What a pass intends: a list of writes with reasons, the next status, and when to look again.
//!
//! `decide` of every kind returns a [`Plan`] and does nothing else; only `execute` has effects. Everything that wants to know
//! what the operator *would* do (tests that stop at every write, explanations, simulation) stands on this split.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use shared::{
    kubeutil::{Object, ObjectKey},
    label::Labels,
};

use crate::{
    backup::Slot,
    upstream::{
        CellRecord, DatabaseRecord, LifecycleMark, MemberChange, PoolerAddress, PoolerId, Registration, ShardKey,
        TopoAddress,
        backup::{Expiry, Order},
    },
};

/// The outcome of `decide` for one object of ours, with `S` the status type of its kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan<S> {
    /// Intended writes in the order in which they are tried. A failed one does not stop the others.
    pub writes: Vec<Write>,
    /// The whole next status; `None` while the object is being deleted and has nothing to report.
    pub status: Option<S>,
    /// When to look again even if nothing changes.
    pub requeue: Requeue,
    /// Events worth telling a user; the recorder drops repeats.
    pub notes: Vec<Note>,
}

impl<S> Plan<S> {
    /// A plan that writes nothing and reports nothing.
    pub fn nothing() -> Self {
        Self { writes: Vec::new(), status: None, requeue: Requeue::Settled, notes: Vec::new() }
    }

    /// Adds one intended write.
    pub fn write(&mut self, reason: &'static str, action: Action) {
        self.writes.push(Write { reason, action, drain: None });
    }

    /// Adds one intended write with which a drain ends.
    pub fn write_last(&mut self, reason: &'static str, action: Action, drain: Option<Drain>) {
        self.writes.push(Write { reason, action, drain });
    }

    /// Adds a server-side apply of `object`.
    pub fn apply(&mut self, reason: &'static str, object: Object) {
        self.write(reason, Action::Apply(object));
    }
}

/// One intended write.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Why, in CamelCase and machine-readable: `Desired`, `ScaleUp`, `PolicyDelete`.
    pub reason: &'static str,
    /// What.
    pub action: Action,
    /// The drain that ends with it.
    pub drain: Option<Drain>,
}

/// A pod was taken out of service, or that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Why it was chosen.
    pub cause: &'static str,
    /// How long ago.
    pub took: Duration,
}

/// The kinds of effect that a plan may ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Forced server-side apply of the full intent. Skipped when the live object already holds it.
    Apply(Object),
    /// Create under a deterministic name; an object that exists already counts as success. For pods, volume claims and
    /// generated secrets, which are never rewritten.
    CreateOnce(Object),
    /// JSON merge patch of a few metadata keys (finalizers, annotations, owner references), with the UID as a precondition.
    /// Skipped when the live object already holds the patch.
    Merge {
        /// What to patch.
        target: Target,
        /// The merge patch, without the UID: the executor adds it.
        patch: Value,
    },
    /// Delete exactly this object, by UID.
    Delete(Target),
    /// Delete exactly this pod, and only while it is as it was observed: any change since asks for another decision.
    Remove {
        /// Which.
        target: Target,
        /// `metadata.resourceVersion` as observed.
        resource_version: String,
    },
    /// Several effects, each one only after the one before it is in force.
    Sequence(Vec<Action>),
    /// Ask a primary to become a standby, hurry its orchestrators from the same moment on, and wait for a while until one of the
    /// standbys serves.
    HandOver {
        /// The primary.
        primary: PoolerAddress,
        /// Who may take over.
        standbys: Vec<PoolerAddress>,
        /// Who elects.
        orchestrators: Vec<PoolerAddress>,
    },
    /// Have orchestrators run a recovery cycle now. Best effort.
    Hasten {
        /// Who elects.
        orchestrators: Vec<PoolerAddress>,
    },
    /// Have a primary change its rule so that it no longer counts a member.
    LeaveCohort {
        /// The primary.
        primary: PoolerAddress,
        /// The member.
        member: PoolerId,
    },
    /// Have a pooler read its settings again, and note on its pod what came of it.
    Reload {
        /// The pooler.
        pooler: PoolerAddress,
        /// What its files must say.
        expected: BTreeMap<String, String>,
        /// Its pod.
        target: Target,
        /// Merge patch for settings that are in force.
        done: Value,
        /// Merge patch for settings of which some need a restart.
        needs_restart: Value,
    },
    /// Go on only if the repository holds a complete backup.
    RequireBackup {
        /// Whom to ask.
        pooler: PoolerAddress,
    },
    /// Ask for a backup on a replica. What came of it is put where the next pass finds it: it belongs into the status.
    StartBackup {
        /// The administration service.
        admin: PoolerAddress,
        /// What.
        order: Order,
        /// Where the outcome goes.
        outcome: Slot,
    },
    /// Remove backups from a repository.
    ExpireBackups {
        /// The administration service.
        admin: PoolerAddress,
        /// Whose repository.
        shard: ShardKey,
        /// Which backups.
        what: Expiry,
    },
    /// Go on only if the API server itself says that there is no such pod.
    RequireAbsent {
        /// Which.
        pod: ObjectKey,
    },
    /// Go on only if the API server itself says that no such pod has an address, and that none is about to get one.
    RequireNoPodAt {
        /// Where the pods are.
        namespace: String,
        /// Their labels.
        selector: Labels,
        /// The address.
        address: String,
    },
    /// A write to the cluster's topology server.
    Topology {
        /// Which server and root.
        at: TopoAddress,
        /// The record.
        write: TopoWrite,
    },
}

/// An object that exists, named so precisely that a successor with the same name is never hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Group, kind, namespace and name.
    pub key: ObjectKey,
    /// Lower-case plural for the request path.
    pub plural: String,
    /// API version without the group: `v1`.
    pub version: String,
    /// `metadata.uid` as observed.
    pub uid: String,
}

impl Target {
    /// Names a live typed object. An object without name or UID was never stored and yields `None`.
    pub fn of<K>(object: &K) -> Option<Self>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        let meta = object.meta();
        Some(Self {
            key: ObjectKey {
                group: K::group(&()).into_owned(),
                kind: K::kind(&()).into_owned(),
                namespace: meta.namespace.clone(),
                name: meta.name.clone()?,
            },
            plural: K::plural(&()).into_owned(),
            version: K::version(&()).into_owned(),
            uid: meta.uid.clone()?,
        })
    }
}

/// One record to be made true in the topology server. Each is compare-and-set and a no-op when already true.
#[derive(Clone, Debug, PartialEq)]
pub enum TopoWrite {
    /// Register or correct a cell.
    PutCell(CellRecord),
    /// Unregister a cell.
    DeleteCell(String),
    /// Register or correct a database.
    PutDatabase(DatabaseRecord),
    /// Unregister a database.
    DeleteDatabase(String),
    /// Remove the record of a pooler that is gone for good.
    DeletePooler(PoolerId),
    /// Mark the record of a pooler, which keeps everything else that it says.
    MarkPooler(PoolerId, LifecycleMark),
    /// Remove the record of a gateway or an orchestrator that is gone, if it is still this one.
    DeleteRegistration(Registration),
    /// Let a member of an ensemble of ours in, give it a vote, or take it out.
    ChangeMember(MemberChange),
}

/// When the next pass is wanted if nothing changes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// Nothing is pending: about an hour, with jitter.
    Settled,
    /// Something is in progress that no watch reports.
    After(Duration),
    /// The object is going away: wait for its events alone.
    Never,
}

impl Requeue {
    /// The sooner of the two.
    #[must_use]
    pub fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
            (Self::After(a), _) | (_, Self::After(a)) => Self::After(a),
            (Self::Settled, _) | (_, Self::Settled) => Self::Settled,
            (Self::Never, Self::Never) => Self::Never,
        }
    }
}

/// An event for the object under reconciliation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// Whether it is a warning.
    pub warning: bool,
    /// CamelCase reason.
    pub reason: String,
    /// One sentence for a user.
    pub message: String,
}

impl Note {
    /// A normal event.
    pub fn normal(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.into(), message: message.into() }
    }

    /// A warning.
    pub fn warning(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.into(), message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sooner_requeue_wins() {
        let five = Requeue::After(Duration::from_secs(5));
        assert_eq!(five.sooner(Requeue::Settled), five);
        assert_eq!(Requeue::Never.sooner(five), five);
        assert_eq!(Requeue::Settled.sooner(Requeue::Never), Requeue::Settled);
        assert_eq!(five.sooner(Requeue::After(Duration::from_secs(2))), Requeue::After(Duration::from_secs(2)));
    }
}
