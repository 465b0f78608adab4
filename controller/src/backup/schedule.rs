//! Which runs of a schedule are due, and which come next. Pure: the same shard at the same moment gives the same runs.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};
use shared::{
    api::v1alpha1::{BackupLevel, BackupSchedule, ScheduledBackupTimes},
    schedule::{Cron, Error},
};

use super::{DEADLINE, length};

/// Longest delay of a run where nobody says.
const JITTER: SignedDuration = SignedDuration::from_mins(5);
/// How late a run may begin where nobody says.
const STARTING_DEADLINE: SignedDuration = SignedDuration::from_hours(1);
/// How many ended runs stay where nobody says.
const HISTORY: usize = 10;

/// A schedule that can be followed.
#[derive(Debug)]
pub struct Schedule {
    times: Vec<(BackupLevel, Cron)>,
    delay: SignedDuration,
    jitter: SignedDuration,
    starting_deadline: SignedDuration,
    /// How long a run may take.
    pub deadline: SignedDuration,
    /// Whether no run begins.
    pub suspended: bool,
    /// How many ended runs stay.
    pub history: usize,
}

impl Schedule {
    /// Reads the schedule of a shard, whose UID says how late its runs begin. None where it names no time.
    pub fn read(spec: &BackupSchedule, shard: &str) -> Result<Option<Self>, Error> {
        let mut times = Vec::new();
        for (level, text) in [
            (BackupLevel::Full, &spec.full),
            (BackupLevel::Differential, &spec.differential),
            (BackupLevel::Incremental, &spec.incremental),
        ] {
            if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
                times.push((level, Cron::parse(text, spec.time_zone.as_deref())?));
            }
        }
        let jitter = length(spec.jitter.as_ref(), JITTER);
        Ok((!times.is_empty()).then(|| Self {
            times,
            delay: delay(shard, jitter),
            jitter,
            starting_deadline: length(spec.starting_deadline.as_ref(), STARTING_DEADLINE),
            deadline: length(spec.deadline.as_ref(), DEADLINE),
            suspended: spec.suspend.unwrap_or(false),
            history: spec.history_limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(HISTORY),
        }))
    }

    /// The runs that should begin now: at most one, the most thorough of those that are due; and all times that have come with it.
    ///
    /// `made` are the times for which runs were made before, `since` is when the shard was created.
    pub fn due(&self, made: &ScheduledBackupTimes, since: Timestamp, now: Timestamp) -> Option<Due> {
        if self.suspended {
            return None;
        }
        let mut due: Option<Due> = None;
        for (level, cron) in &self.times {
            let earliest = now - self.delay - self.starting_deadline;
            // A time of the future was written before a clock was set back, and is no reason to wait for it.
            let last = made.of(*level).map(|last| last.0).filter(|last| *last <= now);
            let from = last.unwrap_or(since).max(earliest);
            let Some(at) = cron.last_between(from, now - self.delay) else { continue };
            // Levels come with the most thorough one first.
            due.get_or_insert_with(|| Due { level: *level, at, come: Vec::new() }).come.push((*level, at));
        }
        due
    }

    /// When the next run begins.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        if self.suspended {
            return None;
        }
        self.times.iter().filter_map(|(_, cron)| cron.after(now - self.delay)).min().map(|at| at + self.delay)
    }

    /// When a backup that ended then is too old: once the run that should have followed cannot come in time any more. None for a
    /// schedule that stands still on purpose.
    pub fn stale_at(&self, newest: Timestamp) -> Option<Timestamp> {
        if self.suspended {
            return None;
        }
        let follows = self.times.iter().filter_map(|(_, cron)| cron.after(newest)).min()?;
        Some(follows + self.slack())
    }

    /// The same for a full backup, whatever was made since. Nobody expects one before its first time has come, as `made` tells.
    pub fn full_stale_at(&self, full: Timestamp, made: &ScheduledBackupTimes) -> Option<Timestamp> {
        made.of(BackupLevel::Full).filter(|_| !self.suspended)?;
        let (_, cron) = self.times.iter().find(|(level, _)| *level == BackupLevel::Full)?;
        Some(cron.after(full)? + self.slack())
    }

    /// How long after its time a run may still bring a backup.
    fn slack(&self) -> SignedDuration {
        self.jitter + self.starting_deadline + self.deadline
    }
}

/// A run that should begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// What it saves.
    pub level: BackupLevel,
    /// The time of the schedule that it is for.
    pub at: Timestamp,
    /// All times that have come: a run that saves more stands for those that save less.
    pub come: Vec<(BackupLevel, Timestamp)>,
}

/// Always the same for a shard, and different among shards.
fn delay(shard: &str, jitter: SignedDuration) -> SignedDuration {
    let digest = Sha256::digest(shard.as_bytes());
    let number = digest.iter().take(4).fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
    let fraction = f64::from(number) / f64::from(u32::MAX);
    SignedDuration::try_from_secs_f64((jitter.as_secs_f64() * fraction).floor()).unwrap_or_default()
}
