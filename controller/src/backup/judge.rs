//! What the state of a repository means: conditions that move only when something happened, and the facts behind them. Pure.

use jiff::{SignedDuration, Timestamp};
use shared::{
    api::v1alpha1::{BackupKind, BackupPhase, MultigresBackup},
    condition::Status,
};

use super::{memory::Known, stored};
use crate::upstream::{self, backup::Backup};

/// Condition of a shard: whether its backups work.
pub const BACKUP_HEALTHY: &str = "BackupHealthy";
/// Condition of a shard: whether its WAL reaches the repository.
pub const WAL_ARCHIVING: &str = "WALArchiving";

/// How old the newest backup may be where no schedule says it.
pub const FRESH_FOR: SignedDuration = SignedDuration::from_hours(25);
/// So far the clocks of controller and poolers may be apart before a backup counts as one from the future.
const CLOCKS: SignedDuration = SignedDuration::from_mins(10);
/// So often in a row nobody has to answer before nothing is known any more.
const SILENT: u32 = 3;
/// A failed attempt to archive is repeated by PostgreSQL; only when the oldest segment waits this long it counts.
const FAILING_SECONDS: f64 = 60.0;
/// The longest that a segment may wait for the repository; the alert has the same bound.
const LAG_SECONDS: f64 = 900.0;

/// What is said about one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Its status.
    pub status: Status,
    /// Its reason.
    pub reason: &'static str,
    /// Its message. It names times but no ages, so that it changes only when something happened.
    pub message: String,
}

impl Opinion {
    fn new(status: impl Into<Status>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: status.into(), reason, message: message.into() }
    }
}

/// The backups that count, condensed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The newest complete one.
    pub newest: Option<Found>,
    /// End of the newest complete full one.
    pub full: Option<Timestamp>,
    /// End of the oldest complete one.
    pub oldest: Option<Timestamp>,
    /// How many are complete.
    pub complete: usize,
    /// The newest attempt, where that is not complete.
    pub broken: Option<String>,
    /// Entries whose times make no sense.
    pub garbage: usize,
}

/// A complete backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its name.
    pub id: String,
    /// When it ended.
    pub stop: Timestamp,
    /// What it is.
    pub kind: BackupKind,
    /// Size of the database.
    pub bytes: u64,
}

/// What kind of backup a word of the data plane means.
pub fn kind(word: &str) -> BackupKind {
    match word {
        "full" => BackupKind::Full,
        "diff" | "differential" => BackupKind::Diff,
        "incr" | "incremental" => BackupKind::Incr,
        _ => BackupKind::Unknown,
    }
}

/// When a backup ended: as it is told, else by its name, whose last part is when it was begun, in UTC.
fn ended(backup: &Backup) -> Option<Timestamp> {
    backup.stop.or_else(|| {
        let last = backup.id.rsplit('_').next()?;
        let stamp = last.get(..15)?;
        let time = jiff::civil::DateTime::strptime("%Y%m%d-%H%M%S", stamp).ok()?;
        time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|at| at.timestamp())
    })
}

/// Looks through a list, in whatever order it is.
pub fn contents(backups: &[Backup], now: Timestamp) -> Contents {
    let mut contents = Contents::default();
    let mut latest: Option<(Timestamp, &Backup)> = None;
    for backup in backups {
        let sensible = ended(backup)
            .filter(|at| *at <= now + CLOCKS && backup.start.is_none_or(|start| start <= *at) && !backup.id.is_empty());
        let Some(at) = sensible else {
            contents.garbage += 1;
            continue;
        };
        if latest.is_none_or(|(newest, _)| newest < at) {
            latest = Some((at, backup));
        }
        if !backup.complete {
            continue;
        }
        contents.complete += 1;
        contents.oldest = Some(contents.oldest.map_or(at, |oldest| oldest.min(at)));
        let kind = kind(&backup.kind);
        if kind == BackupKind::Full {
            contents.full = Some(contents.full.map_or(at, |full| full.max(at)));
        }
        if contents.newest.as_ref().is_none_or(|newest| newest.stop < at) {
            contents.newest = Some(Found { id: backup.id.clone(), stop: at, kind, bytes: backup.bytes });
        }
    }
    contents.broken = latest.filter(|(_, backup)| !backup.complete).map(|(_, backup)| backup.id.clone());
    contents
}

/// The complete backups that cannot be restored without the one called `id`, and that go with it: a full one is the base of all that carry
/// its name. A differential one builds on that base alone, an incremental one on whatever came before it, so of those with the same base
/// the incremental ones that follow `id` build on it, up to the next differential one.
pub fn built_on(backups: &[Backup], id: &str) -> Vec<String> {
    let base = match id.split_once('_') {
        Some((base, _)) => format!("{base}_"),
        None => format!("{id}_"),
    };
    let mut later: Vec<&Backup> =
        backups.iter().filter(|backup| backup.id.starts_with(&base) && backup.id.as_str() > id).collect();
    // Names are times.
    later.sort_by(|a, b| a.id.cmp(&b.id));
    let is_base = !id.contains('_');
    let dependent = later.into_iter().take_while(|backup| is_base || backup.id.ends_with('I'));
    dependent.filter(|backup| backup.complete).map(|backup| backup.id.clone()).collect()
}

/// When backups are too old, by the schedule or without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// When the newest one is.
    pub newest: Option<Timestamp>,
    /// When the newest full one is.
    pub full: Option<Timestamp>,
}

impl Limits {
    /// The next moment at which something gets too old.
    pub fn next(self, now: Timestamp) -> Option<Timestamp> {
        [self.newest, self.full].into_iter().flatten().filter(|at| *at > now).min()
    }
}

/// Whether the backups work. None where nothing is known yet, and the last opinion stands.
pub fn backups(
    known: &Known,
    contents: &Contents,
    runs: &[std::sync::Arc<MultigresBackup>],
    limits: Limits,
    now: Timestamp,
) -> Option<Opinion> {
    match &known.failure {
        // Somebody is there, and whoever asks for the backups waits in vain.
        Some((error @ upstream::Error::Slow { .. }, count)) if *count >= SILENT => {
            let message = format!("The repository is not listed in time: {error}");
            return Some(Opinion::new(false, "RepositorySlow", message));
        }
        Some((error, count)) if error.unreachable() && *count >= SILENT => {
            let message = format!("Nobody can be asked for the backups: {error}");
            return Some(Opinion::new(Status::Unknown, "CheckFailed", message));
        }
        Some((error, _)) if !error.unreachable() => {
            let message = format!("The repository cannot be read: {error}");
            return Some(Opinion::new(false, "RepositoryUnreachable", message));
        }
        _ => {}
    }
    known.backups.as_ref()?;
    let Some(newest) = &contents.newest else {
        let message = match (&contents.broken, contents.garbage) {
            (Some(id), _) => format!("No backup is complete; the last one, {id}, is not"),
            (None, 0) => "The repository holds no backup".to_owned(),
            (None, garbage) => format!("The repository holds no backup that counts; times of {garbage} make no sense"),
        };
        return Some(Opinion::new(false, "NoBackups", message));
    };
    let when = format!("The newest complete backup, {}, ended at {}", newest.id, stored(newest.stop).0);
    if let Some(failed) = failed_since(runs, newest.stop, now) {
        let why = failed.status.as_ref().and_then(|status| status.error.as_deref()).unwrap_or("it was given up");
        let name = failed.metadata.name.as_deref().unwrap_or_default();
        return Some(Opinion::new(false, "BackupFailed", format!("{name} failed: {why}. {when}")));
    }
    if let Some(broken) = &contents.broken {
        return Some(Opinion::new(
            false,
            "BackupFailed",
            format!("The last backup, {broken}, is not complete. {when}"),
        ));
    }
    if limits.newest.is_some_and(|at| now >= at) {
        return Some(Opinion::new(false, "BackupStale", format!("{when}, which is too long ago")));
    }
    if let Some(full) = contents.full.filter(|_| limits.full.is_some_and(|at| now >= at)) {
        let message = format!("The newest full backup ended at {}, which is too long ago. {when}", stored(full).0);
        return Some(Opinion::new(false, "BackupStale", message));
    }
    Some(Opinion::new(true, "BackupRecent", when))
}

/// The last run that failed after `since`, if none succeeded after it. What ended in the future was seen by a clock that has been set back.
fn failed_since(
    runs: &[std::sync::Arc<MultigresBackup>],
    since: Timestamp,
    now: Timestamp,
) -> Option<&MultigresBackup> {
    let end = |run: &MultigresBackup| {
        let at = run.status.as_ref()?.completed_at.as_ref()?.0;
        (at <= now + CLOCKS).then_some(at)
    };
    let phase = |run: &MultigresBackup| run.status.as_ref().and_then(|status| status.phase);
    let ended = runs.iter().filter_map(|run| Some((end(run)?, run.as_ref())));
    let (at, last) = ended.max_by_key(|(at, run)| (*at, run.metadata.name.clone()))?;
    (phase(last) == Some(BackupPhase::Failed) && at > since).then_some(last)
}

/// Whether WAL reaches the repository. None where nothing is known yet, and the last opinion stands.
pub fn archiving(known: &Known) -> Option<Opinion> {
    if known.silent >= SILENT {
        let message = "The exporter beside the primary does not tell whether WAL is archived";
        return Some(Opinion::new(Status::Unknown, "CheckFailed", message));
    }
    let archiver = known.archiver?;
    let last = archiver.last_archived.map_or_else(
        || "no segment has been archived since the statistics were reset".to_owned(),
        |at| format!("the last segment that was archived is of {}", stored(at).0),
    );
    Some(if archiver.failing && archiver.waiting_seconds >= FAILING_SECONDS {
        Opinion::new(false, "ArchivingFailing", format!("PostgreSQL cannot archive its WAL; {last}"))
    } else if archiver.waiting_seconds >= LAG_SECONDS {
        Opinion::new(false, "ArchiveLagging", format!("WAL waits for more than 15 minutes to be archived; {last}"))
    } else {
        Opinion::new(true, "Archiving", "WAL is archived as it is written")
    })
}
