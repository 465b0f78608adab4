//! What only passes know of objects, kept as long as the objects exist.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use shared::kubeutil::ObjectKey;
use strum::{EnumCount as _, IntoEnumIterator as _};

/// How taking a pod out of service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter, strum::EnumCount, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Drained {
    /// The data plane let it go.
    Success,
    /// It took too long, and the pod went anyway.
    Timeout,
    /// It was not to go any more.
    Cancelled,
    /// It failed.
    Error,
}

impl Drained {
    /// What a write of the disruption planner says about the end of a drain, by its reason in the plan.
    pub fn by(reason: &str) -> Option<Self> {
        Some(match reason {
            "DrainCompleted" => Self::Success,
            "DrainForced" => Self::Timeout,
            "DrainCancelled" => Self::Cancelled,
            "DrainAborted" | "SwitchoverFailed" => Self::Error,
            _ => return None,
        })
    }
}

/// The passes of one object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passes {
    /// Label of the controller.
    pub controller: &'static str,
    /// How many failed in a row.
    pub failed: u32,
    /// When the last one succeeded; before that, when the first one was.
    pub succeeded: Timestamp,
    /// Failed ones that may pass by themselves.
    pub transient: u64,
    /// Failed ones that do not.
    pub bugs: u64,
}

/// The primaries of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Primaries {
    last: Option<String>,
    changes: u64,
}

/// What is kept.
#[derive(Debug, Default)]
pub struct Memory {
    passes: Mutex<HashMap<ObjectKey, Passes>>,
    primaries: Mutex<HashMap<ObjectKey, Primaries>>,
    drains: Mutex<HashMap<ObjectKey, [u64; Drained::COUNT]>>,
    /// Of each shard, the cells with whether their records could be read.
    topologies: Mutex<HashMap<ObjectKey, BTreeMap<String, bool>>>,
}

impl Memory {
    pub(super) fn succeeded(&self, controller: &'static str, key: &ObjectKey, now: Timestamp) {
        let mut passes = lock(&self.passes);
        let passes = entry(&mut passes, key, || fresh(controller, now));
        passes.failed = 0;
        passes.succeeded = now;
    }

    pub(super) fn failed(&self, controller: &'static str, key: &ObjectKey, now: Timestamp, bug: bool) {
        let mut passes = lock(&self.passes);
        let passes = entry(&mut passes, key, || fresh(controller, now));
        passes.failed = passes.failed.saturating_add(1);
        *(if bug { &mut passes.bugs } else { &mut passes.transient }) += 1;
    }

    /// A shard without a primary is no change: the next one is, unless it is the same.
    pub(super) fn primary(&self, key: &ObjectKey, primary: Option<&str>) {
        let Some(primary) = primary else { return };
        let mut primaries = lock(&self.primaries);
        let known = entry(&mut primaries, key, Primaries::default);
        if known.last.as_deref() != Some(primary) {
            if known.last.is_some() {
                known.changes += 1;
            }
            known.last = Some(primary.to_owned());
        }
    }

    pub(super) fn drained(&self, shard: &ObjectKey, how: Drained) {
        entry(&mut lock(&self.drains), shard, Default::default)[how as usize] += 1;
    }

    pub(super) fn topology(&self, shard: &ObjectKey, cells: BTreeMap<String, bool>) {
        lock(&self.topologies).insert(shard.clone(), cells);
    }

    pub(super) fn retain(&self, exists: impl Fn(&ObjectKey) -> bool) {
        lock(&self.passes).retain(|key, _| exists(key));
        lock(&self.primaries).retain(|key, _| exists(key));
        lock(&self.drains).retain(|key, _| exists(key));
        lock(&self.topologies).retain(|key, _| exists(key));
    }

    /// All passes, sorted by object.
    pub(super) fn passes(&self) -> Vec<(ObjectKey, Passes)> {
        let mut all: Vec<_> = lock(&self.passes).iter().map(|(key, passes)| (key.clone(), *passes)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// How often the primary of a shard changed.
    pub(super) fn changes(&self, shard: &ObjectKey) -> u64 {
        lock(&self.primaries).get(shard).map_or(0, |primaries| primaries.changes)
    }

    /// The cells of a shard with whether their records could be read.
    pub(super) fn cells(&self, shard: &ObjectKey) -> BTreeMap<String, bool> {
        lock(&self.topologies).get(shard).cloned().unwrap_or_default()
    }

    /// How the drains of a shard ended, each result with its number.
    pub(super) fn drains(&self, shard: &ObjectKey) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = lock(&self.drains).get(shard).copied().unwrap_or_default();
        Drained::iter().map(move |how| (how.into(), counts[how as usize]))
    }
}

fn fresh(controller: &'static str, now: Timestamp) -> Passes {
    Passes { controller, failed: 0, succeeded: now, transient: 0, bugs: 0 }
}

fn entry<'a, V>(map: &'a mut HashMap<ObjectKey, V>, key: &ObjectKey, new: impl FnOnce() -> V) -> &'a mut V {
    map.entry(key.clone()).or_insert_with(new)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
