//! What a pass over a shard has to say and to do about its backups. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource as _, ResourceExt as _};
use shared::{
    annotation,
    api::v1alpha1::{
        BackupKind, BackupLevel, BackupPhase, MultigresBackup, MultigresBackupSpec, Phase, ScheduledBackupTimes, Shard,
        ShardBackupStatus, ShardStatus,
    },
    condition::{self, ConditionSet, Status},
    label::{self, Component},
    name::ShardId,
};

use super::{
    judge::{self, BACKUP_HEALTHY, Contents, FRESH_FOR, Limits, Opinion, WAL_ARCHIVING},
    memory::Known,
    schedule::Schedule,
    stored,
};
use crate::{
    error::Error,
    plan::{Action, Note, Plan, Target},
    workload::{owner::Owner, want_once},
};

/// Condition of a shard: its schedule cannot be read, so nothing is made by it.
pub const SCHEDULE_INVALID: &str = "BackupScheduleInvalid";

/// What a pass over a shard sees of its backups.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// What the data plane has said.
    pub known: Option<Known>,
    /// The runs of the shard, by schedule and by users.
    pub runs: Vec<Arc<MultigresBackup>>,
}

impl Sight {
    /// The runs among `all` that are about this shard.
    pub fn of(id: ShardId<'_>, known: Option<Known>, all: Vec<Arc<MultigresBackup>>) -> Self {
        let runs = all.into_iter().filter(|run| is_of(&run.spec, id)).collect();
        Self { known, runs }
    }
}

/// Whether a run is about a shard.
pub fn is_of(spec: &MultigresBackupSpec, id: ShardId<'_>) -> bool {
    spec.cluster == id.cluster
        && spec.database == id.database
        && spec.table_group == id.table_group
        && spec.shard == id.shard
}

/// What follows for the status of a shard.
#[derive(Clone, Debug, Default)]
pub struct Weighed {
    backup: ShardBackupStatus,
    conditions: Vec<(&'static str, Option<Opinion>)>,
    /// What is so wrong that the shard is not healthy.
    dead: Option<String>,
    /// Whether the repository was read.
    read: bool,
    /// What its newest backup is.
    kind: Option<BackupKind>,
    /// When something will be different without any event.
    pub next: Option<Timestamp>,
}

/// Weighs what is known, adds to the plan what is due, and returns what the status has to say.
pub fn weigh(
    shard: &Shard,
    id: ShardId<'_>,
    owner: &Owner,
    sight: &Sight,
    now: Timestamp,
    plan: &mut Plan<ShardStatus>,
) -> Result<Weighed, Error> {
    let previous = shard.status.as_ref();
    let before = previous.and_then(|status| status.backup.clone()).unwrap_or_default();
    let conditions = previous.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let mut weighed = Weighed { backup: ShardBackupStatus { next_run: None, ..before }, ..Weighed::default() };

    let config = shard.spec.backup.as_ref();
    let schedule = match config.and_then(|config| config.schedule.as_ref()).map(|spec| Schedule::read(spec, &owner.uid))
    {
        None => None,
        Some(Ok(schedule)) => schedule,
        Some(Err(error)) => {
            let message = format!("No backup is made by it: {error}");
            let opinion = Opinion { status: Status::True, reason: "CannotBeRead", message };
            weighed.conditions.push((SCHEDULE_INVALID, Some(opinion)));
            None
        }
    };
    if let Some(schedule) = &schedule {
        scheduled(shard, id, owner, schedule, sight, now, &mut weighed, plan)?;
        history(owner, schedule, sight, plan);
    } else {
        weighed.backup.scheduled = None;
    }

    if let Some(known) = &sight.known {
        let contents = known.backups.as_ref().map(|backups| judge::contents(backups, now));
        if let Some(contents) = &contents {
            weighed.tell_contents(contents);
        }
        let contents = contents.unwrap_or_default();
        let limits = limits(schedule.as_ref(), &contents, weighed.backup.scheduled.as_ref());
        let mut healthy = judge::backups(known, &contents, &sight.runs, limits, now);
        let leads = previous.is_some_and(|status| status.primary.is_some());
        if let Some(opinion) = healthy.as_mut().filter(|opinion| !leads && opinion.reason == "NoBackups") {
            opinion.message +=
                "; no pooler has made the first one, and before that none becomes primary: see the log of multipooler";
        }
        let archiving = judge::archiving(known);
        weighed.next = [weighed.next, limits.next(now)].into_iter().flatten().min();
        weighed.conditions.push((BACKUP_HEALTHY, healthy));
        weighed.conditions.push((WAL_ARCHIVING, archiving));
    } else {
        weighed.conditions.push((BACKUP_HEALTHY, None));
        weighed.conditions.push((WAL_ARCHIVING, None));
    }
    weighed.dead =
        weighed.conditions.iter().rev().find_map(|(type_, opinion)| dead(type_, opinion.as_ref(), conditions));
    weighed.tell_changes(conditions, plan);
    Ok(weighed)
}

/// When the backups of a repository get too old: as the schedule says, or as is usual without one. Never while it stands still on purpose.
fn limits(schedule: Option<&Schedule>, contents: &Contents, made: Option<&ScheduledBackupTimes>) -> Limits {
    let newest = contents.newest.as_ref().map(|newest| newest.stop);
    let Some(schedule) = schedule else {
        return Limits { newest: newest.map(|newest| newest + FRESH_FOR), full: None };
    };
    if schedule.suspended {
        return Limits::default();
    }
    let full = contents.full.zip(made).and_then(|(full, made)| schedule.full_stale_at(full, made));
    Limits { newest: newest.map(|newest| schedule.stale_at(newest).unwrap_or(newest + FRESH_FOR)), full }
}

/// Why a shard is not healthy, as a condition says. Where nobody was asked yet, as after a restart, what was said before stands.
fn dead(type_: &str, opinion: Option<&Opinion>, before: &[Condition]) -> Option<String> {
    let is_dead = |status: &str, reason: &str| {
        status == "False" && (type_ == WAL_ARCHIVING || (type_ == BACKUP_HEALTHY && reason == "RepositoryUnreachable"))
    };
    match opinion {
        Some(opinion) => is_dead(&opinion.status.to_string(), opinion.reason).then(|| opinion.message.clone()),
        None => condition::find(before, type_)
            .filter(|last| is_dead(&last.status, &last.reason))
            .map(|last| last.message.clone()),
    }
}

impl Weighed {
    fn tell_contents(&mut self, contents: &Contents) {
        self.read = true;
        self.kind = contents.newest.as_ref().map(|newest| newest.kind).filter(|kind| *kind != BackupKind::Unknown);
        let newest = contents.newest.as_ref();
        self.backup.last = newest.map(|newest| stored(newest.stop));
        self.backup.last_id = newest.map(|newest| newest.id.clone());
        self.backup.last_size_bytes =
            newest.and_then(|newest| i64::try_from(newest.bytes).ok()).filter(|bytes| *bytes > 0);
        self.backup.last_full = contents.full.map(stored);
        self.backup.earliest_recoverable = contents.oldest.map(stored);
        self.backup.complete = i32::try_from(contents.complete).ok();
    }

    /// Events for what is different from before; a repository that is well from the start is no event.
    fn tell_changes(&self, before: &[Condition], plan: &mut Plan<ShardStatus>) {
        for (type_, opinion) in &self.conditions {
            let Some(opinion) = opinion else { continue };
            let last = condition::find(before, type_);
            let status = opinion.status.to_string();
            if last.is_some_and(|last| last.status == status && last.reason == opinion.reason) {
                continue;
            }
            let bad = opinion.status != Status::True || *type_ == SCHEDULE_INVALID;
            if bad {
                plan.notes.push(Note::warning(opinion.reason, opinion.message.clone()));
            } else if last.is_some() {
                let reason = if *type_ == BACKUP_HEALTHY { BACKUP_HEALTHY } else { opinion.reason };
                plan.notes.push(Note::normal(reason, opinion.message.clone()));
            }
        }
    }

    /// Adds to the next status what it has to say about backups. A shard whose archive is dead is not healthy, whatever else is.
    pub fn tell(self, shard: &Shard, next: &mut ShardStatus, now: Timestamp) {
        let previous = shard.status.as_ref();
        let conditions = previous.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let mut set = ConditionSet::continuing(conditions, shard.metadata.generation, now);
        for (type_, opinion) in self.conditions {
            set = match opinion {
                Some(opinion) => set.set(type_, opinion.status, opinion.reason, opinion.message),
                None => set.keep(type_),
            };
        }
        next.conditions.extend(set.finish());
        next.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        if self.read {
            next.last_backup_time.clone_from(&self.backup.last);
            next.last_backup_type = self.kind;
        }
        next.backup = Some(self.backup).filter(|backup| *backup != ShardBackupStatus::default());
        if let Some(why) = self.dead.filter(|_| matches!(next.phase, Some(Phase::Healthy | Phase::Progressing))) {
            next.phase = Some(Phase::Degraded);
            next.message = Some(why);
        }
    }
}

/// Makes the run that is due, unless one of the schedule still goes on.
#[expect(clippy::too_many_arguments, reason = "what a pass over a shard knows")]
fn scheduled(
    shard: &Shard,
    id: ShardId<'_>,
    owner: &Owner,
    schedule: &Schedule,
    sight: &Sight,
    now: Timestamp,
    weighed: &mut Weighed,
    plan: &mut Plan<ShardStatus>,
) -> Result<(), Error> {
    let since = shard.metadata.creation_timestamp.as_ref().map_or(now, |at| at.0);
    let mut made = weighed.backup.scheduled.clone().unwrap_or_default();
    if let Some(due) = schedule.due(&made, since, now) {
        let wanted = run(id, owner, schedule, due.level, due.at);
        let is_it = |other: &MultigresBackup| other.name_any() == wanted.name_any();
        let unfinished =
            sight.runs.iter().find(|other| owner.controls(other.as_ref()) && !is_over(other) && !is_it(other));
        // The time has come once its run was seen: one that could not be made, as without a quota, is made up for.
        let has_come = match unfinished {
            _ if sight.runs.iter().any(|other| is_it(other)) => true,
            Some(other) => {
                let message = format!(
                    "The {} backup of {} is left out: {} has not ended yet",
                    due.level,
                    stored(due.at).0,
                    other.name_any()
                );
                plan.notes.push(Note::warning("BackupLeftOut", message));
                true
            }
            None => {
                want_once(plan, "BackupScheduled", &wanted)?;
                false
            }
        };
        if has_come {
            for (level, at) in &due.come {
                made.set(*level, stored(*at));
            }
            weighed.backup.scheduled = Some(made);
        }
    }
    let next = schedule.next(now);
    weighed.backup.next_run = next.map(stored);
    weighed.next = next;
    Ok(())
}

/// The object of one run; its name follows from its time, so that no run is made twice.
fn run(id: ShardId<'_>, owner: &Owner, schedule: &Schedule, level: BackupLevel, at: Timestamp) -> MultigresBackup {
    let name = run_name(&owner.name, level, at);
    let mut metadata = owner.meta(name, label::of_shard(id, Component::Shard));
    // A run is about to end or to begin; either way nobody waits with the deletion of the shard for it.
    for reference in metadata.owner_references.iter_mut().flatten() {
        reference.block_owner_deletion = None;
    }
    metadata.annotations = Some([(annotation::SCHEDULED_AT.to_owned(), stored(at).0.to_string())].into());
    MultigresBackup {
        metadata,
        spec: MultigresBackupSpec {
            cluster: id.cluster.to_owned(),
            database: id.database.to_owned(),
            table_group: id.table_group.to_owned(),
            shard: id.shard.to_owned(),
            r#type: level,
            deadline: Some(format!("{}s", schedule.deadline.as_secs())),
            ..MultigresBackupSpec::default()
        },
        status: None,
    }
}

/// Name of a scheduled run: that of the shard, what it saves, and the minute since 1970.
fn run_name(shard: &str, level: BackupLevel, at: Timestamp) -> String {
    let word = match level {
        BackupLevel::Full => "full",
        BackupLevel::Differential => "diff",
        BackupLevel::Incremental => "incr",
    };
    format!("{shard}-{word}-{}", at.as_second() / 60)
}

fn is_over(run: &MultigresBackup) -> bool {
    run.status.as_ref().and_then(|status| status.phase).is_some_and(BackupPhase::is_final)
}

/// Removes the oldest of the scheduled runs that have ended, so that the limit is kept. The backups stay.
fn history(owner: &Owner, schedule: &Schedule, sight: &Sight, plan: &mut Plan<ShardStatus>) {
    let mut ended: Vec<&Arc<MultigresBackup>> = sight
        .runs
        .iter()
        .filter(|run| owner.controls(run.as_ref()) && is_over(run) && run.meta().deletion_timestamp.is_none())
        .collect();
    ended.sort_by_key(|run| std::cmp::Reverse((run.creation_timestamp().map(|at| at.0), run.name_any())));
    for target in ended.into_iter().skip(schedule.history).filter_map(|run| Target::of(run.as_ref())) {
        plan.write("BackupHistory", Action::Delete(target));
    }
}
