//! What the data plane has said of repositories lately, per shard, and which runs this process has begun.
//!
//! Kept in memory alone: a restarted controller asks again, and finds out about runs from their status and the repository.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use crate::upstream::{
    self, PoolerRecord, TopoAddress,
    backup::{Archiver, Backup},
};

/// How often things are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The list of backups, which costs a look into the repository.
    pub list: SignedDuration,
    /// The same after it failed, and before there is a backup.
    pub again: SignedDuration,
    /// The state of WAL archiving.
    pub archiver: SignedDuration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            list: SignedDuration::from_mins(10),
            again: SignedDuration::from_mins(1),
            archiver: SignedDuration::from_mins(1),
        }
    }
}

/// What is known of one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// The last list of backups.
    pub backups: Option<Vec<Backup>>,
    /// Why it could not be had since, and how often in a row.
    pub failure: Option<(upstream::Error, u32)>,
    /// What the archiver last said.
    pub archiver: Option<Archiver>,
    /// How often in a row it could not be asked since.
    pub silent: u32,
}

/// What should be asked for now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// The list of backups.
    pub list: bool,
    /// The state of WAL archiving.
    pub archiver: bool,
}

#[derive(Debug, Default)]
struct Entry {
    known: Known,
    list_at: Option<Timestamp>,
    archiver_at: Option<Timestamp>,
    place: Option<(TopoAddress, Vec<PoolerRecord>)>,
    used: Option<Timestamp>,
}

/// Of all shards, by the UID of the Shard, and of all runs, by the UID of the MultigresBackup.
#[derive(Debug, Default)]
pub struct Memory {
    pace: Pace,
    shards: Mutex<HashMap<String, Entry>>,
    runs: Mutex<HashMap<String, Run>>,
}

/// A run that this process has begun.
#[derive(Clone, Debug)]
struct Run {
    shard: String,
    attempt: i32,
    slot: Slot,
    /// Whether the shard is taken. The outcome stays after that: a pass over an older version of the object finds the same one.
    holds: bool,
}

/// Where the outcome of the start of a backup is put.
#[derive(Clone, Default)]
pub struct Slot(Arc<Mutex<Option<upstream::Result<String>>>>);

impl Slot {
    /// Puts it.
    pub fn fill(&self, outcome: upstream::Result<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }

    /// The outcome, once there is one.
    pub fn outcome(&self) -> Option<upstream::Result<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.outcome()).finish()
    }
}

/// Two slots are the same when what is put into one is in the other.
impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Memory {
    /// An empty memory that has things asked for at this pace.
    pub fn new(pace: Pace) -> Self {
        Self { pace, ..Self::default() }
    }

    /// Notes where a shard's poolers and records are, as a pass over the shard has seen them.
    pub fn located(&self, shard: &str, at: &TopoAddress, records: &[PoolerRecord], now: Timestamp) {
        self.with(shard, now, |entry| entry.place = Some((at.clone(), records.to_vec())));
    }

    /// Where a shard's poolers and records are.
    pub fn place(&self, shard: &str) -> Option<(TopoAddress, Vec<PoolerRecord>)> {
        self.shards().get(shard).and_then(|entry| entry.place.clone())
    }

    /// What is known of a shard.
    pub fn known(&self, shard: &str) -> Option<Known> {
        self.shards().get(shard).map(|entry| entry.known.clone())
    }

    /// What has to be asked for now. Whoever asks this does it: it is not due again before its time.
    pub fn due(&self, shard: &str, now: Timestamp) -> Due {
        let pace = self.pace;
        self.with(shard, now, |entry| {
            if entry.place.is_none() {
                return Due::default();
            }
            // Until there is a backup the next look is worth more than what it costs.
            let empty = entry.known.backups.as_ref().is_none_or(Vec::is_empty);
            let interval = if empty || entry.known.failure.is_some() { pace.again } else { pace.list };
            // A clock that was set back must not put off anything.
            let over =
                |last: Option<Timestamp>, interval| last.is_none_or(|at| now.duration_since(at).abs() >= interval);
            let due = Due { list: over(entry.list_at, interval), archiver: over(entry.archiver_at, pace.archiver) };
            if due.list {
                entry.list_at = Some(now);
            }
            if due.archiver {
                entry.archiver_at = Some(now);
            }
            due
        })
    }

    /// Has the list of a shard asked for as soon as possible, because it must have changed.
    pub fn soon(&self, shard: &str) {
        if let Some(entry) = self.shards().get_mut(shard) {
            entry.list_at = None;
        }
    }

    /// Remembers a list of backups; tells whether that is news.
    pub fn listed(&self, shard: &str, answer: upstream::Result<Vec<Backup>>, now: Timestamp) -> bool {
        self.with(shard, now, |entry| {
            let before = entry.known.clone();
            match answer {
                Ok(backups) => (entry.known.backups, entry.known.failure) = (Some(backups), None),
                Err(error) => {
                    let count = entry.known.failure.as_ref().map_or(0, |(_, count)| *count);
                    entry.known.failure = Some((error, count.saturating_add(1)));
                }
            }
            entry.known != before
        })
    }

    /// Remembers what an archiver said, or that it did not answer; tells whether that is news.
    pub fn archived(&self, shard: &str, answer: Option<Archiver>, now: Timestamp) -> bool {
        self.with(shard, now, |entry| {
            let before = entry.known.clone();
            match answer {
                Some(archiver) => (entry.known.archiver, entry.known.silent) = (Some(archiver), 0),
                None => entry.known.silent = entry.known.silent.saturating_add(1),
            }
            entry.known != before
        })
    }

    /// Takes a shard for a run, unless another run of this process that is still `alive` has it.
    pub fn claim(&self, shard: &str, run: &str, attempt: i32, alive: impl Fn(&str) -> bool) -> bool {
        let mut runs = self.runs();
        runs.retain(|uid, other| other.shard != shard || uid == run || alive(uid));
        if runs.iter().any(|(uid, other)| uid != run && other.shard == shard && other.holds) {
            return false;
        }
        let taken = Run { shard: shard.to_owned(), attempt, slot: Slot::default(), holds: true };
        runs.insert(run.to_owned(), taken);
        true
    }

    /// Where the outcome of an attempt of a run is, if this process has begun it.
    pub fn slot(&self, run: &str, attempt: i32) -> Option<Slot> {
        self.runs().get(run).filter(|known| known.attempt == attempt).map(|known| known.slot.clone())
    }

    /// Gives back the shard of a run that waits.
    pub fn release(&self, run: &str) {
        if let Some(run) = self.runs().get_mut(run) {
            run.holds = false;
        }
    }

    /// Forgets a run that has ended.
    pub fn ended(&self, run: &str) {
        self.runs().remove(run);
    }

    /// Forgets a shard that is gone.
    pub fn forget(&self, shard: &str) {
        self.shards().remove(shard);
    }

    fn with<T>(&self, shard: &str, now: Timestamp, act: impl FnOnce(&mut Entry) -> T) -> T {
        let mut shards = self.shards();
        // Shards that nobody asked about for long were deleted while nobody looked.
        let lately = |at: Timestamp| now.duration_since(at).abs() < SignedDuration::from_hours(2);
        shards.retain(|uid, entry| uid == shard || entry.used.is_some_and(lately));
        let entry = shards.entry(shard.to_owned()).or_default();
        entry.used = Some(now);
        act(entry)
    }

    fn shards(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<String, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
