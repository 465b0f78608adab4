//! How a run goes on: from what was seen to the next status and the next call. Pure.
//!
//! Before the data plane is asked for anything the status says that it will be, so that whoever takes over knows that a backup may run
//! of which nobody knows the name. Such a backup is waited for and looked for in the repository; it is never disturbed by another one.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use shared::{
    api::v1alpha1::{BackupPhase, MultigresBackup, MultigresBackupStatus},
    condition::{ConditionSet, shorten},
};

use super::{DEADLINE, judge, length, stored, until};
use crate::upstream::{
    self,
    backup::{Backup, Job},
};

/// Attempts where nobody says.
const ATTEMPTS: i32 = 3;
/// Delay after the first failed attempt; it doubles.
const BACKOFF: SignedDuration = SignedDuration::from_secs(15);
/// The longest delay after a failed attempt.
const LONGEST: SignedDuration = SignedDuration::from_mins(5);
/// Whoever cannot be asked is asked again after this long.
const AGAIN: SignedDuration = SignedDuration::from_secs(30);
/// How often a run that waits for others looks again.
const WAIT: Duration = Duration::from_secs(10);
/// How often a job is asked for.
const POLL: Duration = Duration::from_secs(5);
/// How soon the outcome of a call is looked for.
const SOON: Duration = Duration::from_millis(200);
/// A start whose answer nobody has seen shows by the lease within this time, or never happened.
const SHOWS: SignedDuration = SignedDuration::from_secs(90);
/// So far the clocks of controller and poolers may be apart.
const CLOCKS: SignedDuration = SignedDuration::from_mins(2);
/// Longest text of an error: pgBackRest prints a page.
const ERROR: usize = 512;

/// What was seen of a run and around it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Whether there is such a shard, and what is known of where its poolers are.
    pub shard: Shard,
    /// The run of the same shard that goes first.
    pub ahead: Option<String>,
    /// Whether the shard could be taken for this run.
    pub claimed: bool,
    /// Whether this process has begun the present attempt, and what came of it.
    pub started: Started,
    /// Whether somebody holds the lease on the repository.
    pub lease: Option<upstream::Result<bool>>,
    /// What became of the job.
    pub job: Option<upstream::Result<Option<Job>>>,
    /// What the repository holds, where it was looked at.
    pub listing: Option<upstream::Result<Vec<Backup>>>,
    /// Jobs that belong to other runs.
    pub foreign: Vec<String>,
}

/// What is known of the shard of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shard {
    /// There is none of that name.
    #[default]
    Absent,
    /// There is one, but no pass has looked at it yet.
    Unknown,
    /// Its poolers are known.
    Known,
}

/// What is known of the start of the present attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Started {
    /// Another process wrote that it begins, or this one before a restart.
    #[default]
    Elsewhere,
    /// This process will make the call.
    Not,
    /// This process has made the call.
    Done(upstream::Result<String>),
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The next status.
    pub status: MultigresBackupStatus,
    /// What to do besides.
    pub act: Act,
    /// When to look again.
    pub after: Option<Duration>,
}

/// What to do besides writing the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    None,
    /// Ask the data plane for the backup.
    Start,
    /// Give the shard back, because the run waits or failed.
    Release,
    /// The same, and the repository has changed: remove what it should not keep any longer.
    Made,
}

/// How a run goes on that has not ended.
pub fn step(run: &MultigresBackup, seen: &Seen, now: Timestamp) -> Step {
    let mut status = run.status.clone().unwrap_or_default();
    status.observed_generation = run.metadata.generation;
    // An attempt of the future was written down before a clock was set back. Nobody waits for that moment; the waiting begins anew.
    if status.attempted_at.as_ref().is_some_and(|at| at.0 > now + CLOCKS) {
        status.attempted_at = Some(stored(now));
    }
    let created = run.metadata.creation_timestamp.as_ref().map_or(now, |at| at.0);
    let deadline = created + length(run.spec.deadline.as_ref(), DEADLINE);
    let walk = Walk { run, seen, now, deadline, status };
    let made = matches!(seen.job, Some(Ok(Some(Job::Completed(_)))));
    let under_way = matches!(walk.status.phase, Some(BackupPhase::Starting | BackupPhase::Running));
    if seen.shard == Shard::Absent && under_way && !made {
        // Nobody is left who could be asked, and whoever deletes the namespace waits for the end of this.
        return finished(run, walk.given_up("Its shard is gone"), now);
    }
    let step = match walk.status.phase {
        Some(BackupPhase::Starting) => walk.starting(),
        Some(BackupPhase::Running) => walk.running(),
        _ => walk.pending(),
    };
    finished(run, step, now)
}

struct Walk<'a> {
    run: &'a MultigresBackup,
    seen: &'a Seen,
    now: Timestamp,
    deadline: Timestamp,
    status: MultigresBackupStatus,
}

impl Walk<'_> {
    fn attempt(&self) -> i32 {
        self.status.attempt.unwrap_or_default()
    }

    fn attempted_at(&self) -> Timestamp {
        self.status.attempted_at.as_ref().map_or(self.now, |at| at.0)
    }

    fn to(mut self, phase: BackupPhase, message: impl Into<String>, act: Act, after: Duration) -> Step {
        self.status.phase = Some(phase);
        self.status.message = Some(message.into());
        Step { status: self.status, act, after: Some(after) }
    }

    fn waits(self, message: impl Into<String>) -> Step {
        self.to(BackupPhase::Pending, message, Act::Release, WAIT)
    }

    fn given_up(mut self, message: impl Into<String>) -> Step {
        let message = message.into();
        self.status.completed_at = Some(stored(self.now));
        self.status.error.get_or_insert_with(|| message.clone());
        self.to(BackupPhase::Failed, message, Act::Release, SOON)
    }

    fn too_late(&self) -> bool {
        self.now >= self.deadline
    }

    fn pending(self) -> Step {
        if self.too_late() {
            return self.given_up("It did not end within its deadline");
        }
        let name = format!(
            "{}/{}/{} of cluster {}",
            self.run.spec.database, self.run.spec.table_group, self.run.spec.shard, self.run.spec.cluster
        );
        match self.seen.shard {
            Shard::Absent => return self.waits(format!("There is no shard {name}")),
            Shard::Unknown => return self.waits(format!("Waiting for the poolers of {name}")),
            Shard::Known => {}
        }
        if let Some(other) = &self.seen.ahead {
            let message = format!("Waiting for {other}: a shard makes one backup at a time");
            return self.waits(message);
        }
        if let Some(next) = self.next_attempt().filter(|next| *next > self.now) {
            let after = until(next, self.now).min(WAIT);
            let message = self.status.message.clone().unwrap_or_default();
            return self.to(BackupPhase::Pending, message, Act::Release, after);
        }
        match &self.seen.lease {
            Some(Ok(false)) => {}
            Some(Ok(true)) => {
                return self.waits("Waiting: somebody else makes a backup of this shard, and would be disturbed");
            }
            _ => return self.waits("Waiting: the topology does not tell whether a backup is being made"),
        }
        if !self.seen.claimed {
            return self.waits("Waiting for another backup of this shard");
        }
        let mut walk = self;
        let attempt = walk.attempt() + 1;
        walk.status.attempt = Some(attempt);
        walk.status.attempted_at = Some(stored(walk.now));
        walk.status.job_id = None;
        walk.to(BackupPhase::Starting, "Asking the data plane for a backup on a replica", Act::None, SOON)
    }

    /// When the next attempt may begin; none before the first one.
    fn next_attempt(&self) -> Option<Timestamp> {
        let at = self.status.attempted_at.as_ref()?.0;
        let failed = u32::try_from(self.attempt()).unwrap_or_default();
        if self.status.error.is_none() || failed == 0 {
            return Some(at + AGAIN);
        }
        let doubled = BACKOFF.checked_mul(1 << (failed - 1).min(8)).unwrap_or(LONGEST);
        Some(at + doubled.min(LONGEST))
    }

    fn starting(self) -> Step {
        match &self.seen.started {
            Started::Not => {
                let message = self.status.message.clone().unwrap_or_default();
                self.to(BackupPhase::Starting, message, Act::Start, SOON)
            }
            Started::Done(Ok(job)) => {
                let job = job.clone();
                let mut walk = self;
                walk.status.job_id = Some(job);
                walk.status.started_at.get_or_insert(stored(walk.now));
                walk.to(BackupPhase::Running, "The data plane makes the backup", Act::None, POLL)
            }
            // Nobody was there who could have begun anything.
            Started::Done(Err(error @ upstream::Error::Unavailable { .. })) => {
                let error = error.to_string();
                self.not_begun(&error)
            }
            // The call may have gone through.
            Started::Done(Err(upstream::Error::Slow { .. })) | Started::Elsewhere => self.uncertain(),
            Started::Done(Err(error)) => {
                let error = error.to_string();
                self.attempt_failed(&error)
            }
        }
    }

    /// The attempt was not made at all, so it does not count.
    fn not_begun(self, error: &str) -> Step {
        if self.too_late() {
            let mut walk = self;
            walk.status.error = Some(brief(error));
            return walk.given_up("It could not be begun within its deadline");
        }
        let mut walk = self;
        walk.status.attempt = Some(walk.attempt() - 1).filter(|attempt| *attempt > 0);
        walk.status.error = None;
        let message = format!("Nobody could be asked yet: {}", brief(error));
        walk.to(BackupPhase::Pending, message, Act::Release, WAIT)
    }

    /// A backup may run whose name nobody has written down.
    fn uncertain(self) -> Step {
        let begun = self.attempted_at();
        if let Some(made) = self.ours(begun) {
            return self.made(&made);
        }
        let busy = !matches!(self.seen.lease, Some(Ok(false)));
        let looked = matches!(self.seen.listing, Some(Ok(_)));
        if self.too_late() {
            return self.given_up("It did not end within its deadline");
        }
        if busy || !looked || self.now < begun + SHOWS {
            let message = "Whether the backup has begun is being looked at in the repository";
            return self.to(BackupPhase::Starting, message, Act::None, WAIT);
        }
        self.attempt_failed("the data plane was asked, and no backup was begun")
    }

    /// The complete backup that this attempt has made, by its job, else by its time.
    fn ours(&self, begun: Timestamp) -> Option<Backup> {
        let Some(Ok(backups)) = &self.seen.listing else { return None };
        let complete = || backups.iter().filter(|backup| backup.complete);
        if let Some(job) = self.status.job_id.as_ref().filter(|job| !job.is_empty()) {
            return complete().find(|backup| backup.job == *job).cloned();
        }
        let since = |backup: &&Backup| backup.start.is_some_and(|start| start >= begun - CLOCKS);
        let own = |backup: &&Backup| !backup.job.is_empty() && !self.seen.foreign.contains(&backup.job);
        complete().filter(since).filter(own).max_by_key(|backup| backup.start).cloned()
    }

    fn running(self) -> Step {
        let id = match &self.seen.job {
            Some(Ok(Some(Job::Completed(id)))) => id.clone(),
            Some(Ok(Some(Job::Failed(error)))) => {
                let error = error.clone();
                return self.attempt_failed(&error);
            }
            Some(Ok(None)) => {
                if let Some(made) = self.ours(self.attempted_at()) {
                    return self.made(&made);
                }
                let free = matches!(self.seen.lease, Some(Ok(false)));
                let looked = matches!(self.seen.listing, Some(Ok(_)));
                if free && looked && self.now >= self.attempted_at() + SHOWS {
                    return self
                        .attempt_failed("the data plane lost the job, as when its administration service restarts");
                }
                return self
                    .goes_on("The data plane does not know the job any more; the repository is being looked at");
            }
            Some(Ok(Some(Job::Running))) => return self.goes_on("The data plane makes the backup"),
            Some(Err(_)) | None => {
                return self.goes_on("The data plane makes the backup; how far it is cannot be asked");
            }
        };
        if self.seen.shard == Shard::Unknown && !self.too_late() {
            // A controller that has just begun would end the run without a size or a WAL range.
            return self.goes_on("The backup is made; the repository is being looked at");
        }
        let listed = match &self.seen.listing {
            Some(Ok(backups)) => backups.iter().find(|backup| backup.id == id).cloned(),
            _ => None,
        };
        let made = listed.unwrap_or(Backup { id, complete: true, ..Backup::default() });
        self.made(&made)
    }

    fn goes_on(self, message: &str) -> Step {
        if self.too_late() {
            // It cannot be told to stop. As long as it holds the lease nobody else begins.
            return self.given_up("It did not end within its deadline; the data plane may still be at it");
        }
        self.to(BackupPhase::Running, message, Act::None, POLL)
    }

    fn attempt_failed(self, error: &str) -> Step {
        let mut walk = self;
        let most = walk.run.spec.attempts.unwrap_or(ATTEMPTS).max(1);
        let error = brief(error);
        walk.status.error = Some(error.clone());
        walk.status.started_at = None;
        if walk.attempt() >= most {
            let message = format!("Given up after {most} attempts: {error}");
            return walk.given_up(message);
        }
        if walk.too_late() {
            return walk.given_up("It did not end within its deadline");
        }
        let message = format!("Attempt {} failed: {error}", walk.attempt());
        walk.to(BackupPhase::Pending, message, Act::Release, WAIT)
    }

    fn made(self, made: &Backup) -> Step {
        let mut walk = self;
        let begun = made.start.or(walk.status.started_at.as_ref().map(|at| at.0));
        let ended = made.stop.unwrap_or(walk.now);
        let status = &mut walk.status;
        status.backup_id = Some(made.id.clone());
        status.backup_type =
            Some(judge::kind(&made.kind)).filter(|kind| *kind != shared::api::v1alpha1::BackupKind::Unknown);
        status.started_at = begun.map(stored);
        status.completed_at = Some(stored(ended));
        status.duration = begun.map(|begun| words(ended.duration_since(begun)));
        status.size_bytes = i64::try_from(made.bytes).ok().filter(|bytes| *bytes > 0);
        status.size = status.size_bytes.map(|_| size(made.bytes));
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        status.wal_start = text(&made.wal_start);
        status.wal_stop = text(&made.wal_stop);
        status.pooler = text(&made.pooler);
        if !made.job.is_empty() {
            status.job_id = Some(made.job.clone());
        }
        status.error = None;
        walk.to(BackupPhase::Completed, "The backup is in the repository", Act::Made, SOON)
    }
}

/// Sets the conditions that `kubectl wait` waits for.
fn finished(run: &MultigresBackup, mut step: Step, now: Timestamp) -> Step {
    let previous = run.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let message = step.status.message.clone().unwrap_or_default();
    let set = ConditionSet::continuing(previous, run.metadata.generation, now);
    let set = match step.status.phase {
        Some(BackupPhase::Completed) => set.set("Complete", true, "BackupMade", message),
        Some(BackupPhase::Failed) => {
            set.set("Complete", false, "GivenUp", &message).set("Failed", true, "GivenUp", message)
        }
        _ => set.set("Complete", false, "InProgress", message),
    };
    step.status.conditions = set.finish();
    step
}

/// An error in one line that fits a status.
fn brief(error: &str) -> String {
    let line = error.split_whitespace().collect::<Vec<_>>().join(" ");
    shorten(&line, ERROR)
}

fn words(span: SignedDuration) -> String {
    let seconds = span.as_secs().max(0);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m"),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["Ki", "Mi", "Gi", "Ti", "Pi"];
    let mut shown = None;
    let mut rest = bytes;
    for unit in UNITS {
        if rest < 1024 {
            break;
        }
        shown = Some((rest / 1024, rest % 1024 * 10 / 1024, unit));
        rest /= 1024;
    }
    shown.map_or_else(|| format!("{bytes}B"), |(whole, tenth, unit)| format!("{whole}.{tenth}{unit}"))
}
