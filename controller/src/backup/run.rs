//! Carries out a MultigresBackup: looks at what the next step needs, and turns the step into a plan.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;
use shared::{
    annotation,
    api::v1alpha1::{BackupDeletionPolicy, BackupKind, BackupPhase, MultigresBackup, MultigresBackupStatus, Shard},
    condition::shorten,
    name::{self, ShardId},
};

use super::{
    judge, length,
    progress::{self, Act, Seen, Started},
    shard::is_of,
    until,
};
use crate::{
    cluster::tls::{self, Client},
    context::Ctx,
    error::Error,
    plan::{Action, Note, Plan, Requeue, Target},
    upstream::{
        self, Lifecycle, PoolerAddress, PoolerId, PoolerRecord, Role, Serving, ShardKey, TopoAddress, Upstream,
        backup::{Backup, Expiry, Order},
    },
    workload::port::ADMIN_GRPC,
};

/// How long anything of the look may take; the slowest is a list, which waits behind other work of a pooler.
const LOOK: Duration = Duration::from_secs(45);
/// Longest list of names, or words of the data plane, in a message.
const NAMED: usize = 256;
/// How soon the deletion of data is tried again.
const DELETE_AGAIN: Duration = Duration::from_secs(30);
/// How soon it is looked again whether a repository holds more than it should.
const PRUNE_AGAIN: Duration = Duration::from_mins(1);
/// Whatever was listed this long after a backup knows of it.
const LISTED_BY: SignedDuration = SignedDuration::from_mins(15);
/// So many poolers that serve and cannot read the repository are believed: each further question keeps somebody from work, the primary last.
const BELIEVED: usize = 2;
/// What is wrong with a list without backups.
const NOTHING: &str =
    "it lists no backup, although the shard was made from one: the look took too long, or there are too many backups";

/// One pass over a run.
pub async fn plan(run: &MultigresBackup, ctx: &Ctx) -> Result<Plan<MultigresBackupStatus>, Error> {
    let now = ctx.clock.now();
    let uid = run.metadata.uid.as_deref().ok_or(Error::NotStored { kind: "MultigresBackup", field: "uid" })?;
    let scope = Scope { run, uid, shard: shard_of(run, ctx), key: key_of(run), admin: admin_of(run, ctx).await };
    let phase = run.status.as_ref().and_then(|status| status.phase);
    let over = phase.is_some_and(BackupPhase::is_final);
    let deleting = run.metadata.deletion_timestamp.is_some();
    if deleting && (over || !is_under_way(phase)) {
        ctx.backups.ended(uid);
        return removal(&scope, ctx).await;
    }
    if over {
        ctx.backups.ended(uid);
        return Ok(ended(&scope, ctx, now).await);
    }
    let seen = look(&scope, phase, ctx).await;
    let step = progress::step(run, &seen, now);
    let mut plan = Plan::nothing();
    keep_data(run, &mut plan);
    match step.act {
        Act::None => {}
        Act::Start => {
            let slot = ctx.backups.slot(uid, step.status.attempt.unwrap_or_default());
            if let Some(slot) = slot {
                let order = Order { shard: scope.key.clone(), level: run.spec.r#type.into() };
                plan.write("BackupStarted", Action::StartBackup { admin: scope.admin.clone(), order, outcome: slot });
            }
        }
        Act::Release => ctx.backups.release(uid),
        Act::Made => {
            ctx.backups.release(uid);
            if let Some(shard) = &scope.shard {
                ctx.backups.soon(&shard.uid().unwrap_or_default());
            }
            if let Some(full) = scope.kept() {
                prune(&scope, full, &mut plan);
            }
        }
    }
    plan.notes.extend(told(run, &step.status));
    plan.requeue = step.after.map_or(Requeue::Settled, Requeue::After);
    plan.status = Some(step.status);
    Ok(plan)
}

/// A run, and whom it is about.
struct Scope<'a> {
    run: &'a MultigresBackup,
    uid: &'a str,
    shard: Option<Arc<Shard>>,
    key: ShardKey,
    admin: PoolerAddress,
}

impl Scope<'_> {
    /// How many full backups the shard keeps; none where the data plane's own number is enough.
    fn kept(&self) -> Option<i32> {
        self.shard.as_ref()?.spec.backup.as_ref()?.retention.as_ref()?.full
    }
}

fn id_of(run: &MultigresBackup) -> ShardId<'_> {
    let spec = &run.spec;
    ShardId { cluster: &spec.cluster, database: &spec.database, table_group: &spec.table_group, shard: &spec.shard }
}

fn key_of(run: &MultigresBackup) -> ShardKey {
    ShardKey::new(&run.spec.database, &run.spec.table_group, &run.spec.shard)
}

fn shard_of(run: &MultigresBackup, ctx: &Ctx) -> Option<Arc<Shard>> {
    ctx.stores.shards.get(run.metadata.namespace.as_deref()?, &name::shard(id_of(run)))
}

/// The administration service of the cluster.
async fn admin_of(run: &MultigresBackup, ctx: &Ctx) -> PoolerAddress {
    let namespace = run.metadata.namespace.as_deref().unwrap_or_default();
    let (cluster, name) = (&run.spec.cluster, name::multiadmin(&run.spec.cluster));
    let host = format!("{name}.{namespace}.svc.{}", ctx.settings.cluster_domain);
    let address = PoolerAddress::new(host, u16::try_from(ADMIN_GRPC).unwrap_or_default());
    let service = ctx.stores.deployments.get(namespace, &name);
    let pod = service.as_ref().and_then(|service| service.spec.as_ref()?.template.spec.as_ref());
    if !tls::speaks(pod) {
        return address;
    }
    let client = Client::of(&ctx.stores, &ctx.references, namespace, cluster).await;
    address.over(Some(client.to(tls::MULTIADMIN)))
}

fn is_under_way(phase: Option<BackupPhase>) -> bool {
    matches!(phase, Some(BackupPhase::Starting | BackupPhase::Running))
}

fn phase_of(run: &MultigresBackup) -> Option<BackupPhase> {
    run.status.as_ref().and_then(|status| status.phase)
}

/// The other runs of the same shard.
fn siblings(scope: &Scope<'_>, ctx: &Ctx) -> Vec<Arc<MultigresBackup>> {
    let namespace = scope.run.metadata.namespace.as_deref().unwrap_or_default();
    let id = id_of(scope.run);
    let all = ctx.stores.backups.in_namespace(namespace);
    all.into_iter().filter(|other| other.metadata.uid.as_deref() != Some(scope.uid) && is_of(&other.spec, id)).collect()
}

/// Who goes first: whoever is under way, then the oldest.
fn ahead(run: &MultigresBackup, others: &[Arc<MultigresBackup>]) -> Option<String> {
    let turn = |run: &MultigresBackup| (run.creation_timestamp().map(|at| at.0), run.name_any());
    let waits = |other: &&Arc<MultigresBackup>| {
        let phase = phase_of(other);
        let open = !phase.is_some_and(BackupPhase::is_final) && other.metadata.deletion_timestamp.is_none();
        is_under_way(phase) || (open && turn(other) < turn(run))
    };
    others
        .iter()
        .filter(waits)
        .min_by_key(|other| (!is_under_way(phase_of(other)), turn(other)))
        .map(|it| it.name_any())
}

/// Looks at what the next step needs, and at nothing else.
async fn look(scope: &Scope<'_>, phase: Option<BackupPhase>, ctx: &Ctx) -> Seen {
    let others = siblings(scope, ctx);
    let shard_uid = scope.shard.as_ref().and_then(|shard| shard.uid());
    let place = shard_uid.as_ref().and_then(|uid| ctx.backups.place(uid));
    let mut seen = Seen {
        shard: match (&scope.shard, &place) {
            (None, _) => progress::Shard::Absent,
            (Some(_), None) => progress::Shard::Unknown,
            (Some(_), Some(_)) => progress::Shard::Known,
        },
        foreign: others.iter().filter_map(|other| other.status.as_ref()?.job_id.clone()).collect(),
        ..Seen::default()
    };
    let attempt = scope.run.status.as_ref().and_then(|status| status.attempt).unwrap_or_default();
    if !is_under_way(phase) {
        seen.ahead = ahead(scope.run, &others);
        if seen.ahead.is_none() {
            seen.lease = lease(place.as_ref(), &scope.key, &ctx.upstream).await;
        }
        if seen.lease == Some(Ok(false)) && seen.shard == progress::Shard::Known {
            let alive = |uid: &str| others.iter().any(|other| other.metadata.uid.as_deref() == Some(uid));
            let shard = shard_uid.unwrap_or_default();
            seen.claimed = ctx.backups.claim(&shard, scope.uid, attempt + 1, alive);
        }
        return seen;
    }
    if phase == Some(BackupPhase::Starting) {
        seen.started = match ctx.backups.slot(scope.uid, attempt) {
            None => Started::Elsewhere,
            Some(slot) => slot.outcome().map_or(Started::Not, Started::Done),
        };
        if !matches!(seen.started, Started::Elsewhere | Started::Done(Err(upstream::Error::Slow { .. }))) {
            return seen;
        }
    } else {
        let job = scope.run.status.as_ref().and_then(|status| status.job_id.clone()).unwrap_or_default();
        let call = ctx.upstream.backups().job(&scope.admin, &scope.key, &job);
        seen.job = tokio::time::timeout(LOOK, call).await.ok();
    }
    let unknown = phase == Some(BackupPhase::Starting) || matches!(seen.job, Some(Ok(None)));
    if unknown {
        seen.lease = lease(place.as_ref(), &scope.key, &ctx.upstream).await;
    }
    let completed = matches!(seen.job, Some(Ok(Some(upstream::backup::Job::Completed(_)))));
    if (completed || (unknown && seen.lease == Some(Ok(false))))
        && let Some((_, records)) = &place
    {
        seen.listing = tokio::time::timeout(LOOK, list(&ctx.upstream, records, &[])).await.ok().flatten();
    }
    seen
}

async fn lease(
    place: Option<&(TopoAddress, Vec<PoolerRecord>)>,
    shard: &ShardKey,
    upstream: &Upstream,
) -> Option<upstream::Result<bool>> {
    let (at, _) = place?;
    tokio::time::timeout(LOOK, upstream.topology().backup_lease(at, shard)).await.ok()
}

/// Reads the repository through somebody who is free: standbys first, and nobody who makes a backup while there are others. None
/// without anybody to ask.
///
/// One pooler may be at fault by itself, so what it says of a repository that it cannot read is no reason to stop. A shard was made from a
/// backup, and pgBackRest never removes the last one: a pooler that lists nothing could not look, as when its look took too long. Whoever asks
/// about a shard that is not made yet finds out by [`lists_nothing`].
pub async fn list(
    upstream: &Upstream,
    records: &[PoolerRecord],
    busy: &[String],
) -> Option<upstream::Result<Vec<Backup>>> {
    let mut asked: Vec<&PoolerRecord> =
        records.iter().filter(|record| !record.is_out() && record.lifecycle.state != Lifecycle::Quarantined).collect();
    asked.sort_by_key(|record| {
        let works = busy.iter().any(|job| job.ends_with(&component(&record.id)));
        (works, record.role == Role::Primary, record.serving != Serving::Serving, record.id.clone())
    });
    let mut refused: Option<upstream::Error> = None;
    let mut silent = None;
    let mut agreed = 0;
    for record in asked {
        let Some(address) = record.grpc() else { continue };
        let error = match upstream.backups().list(&address).await {
            Ok(backups) if backups.is_empty() => {
                upstream::Error::Failed { target: address.to_string(), detail: NOTHING.to_owned() }
            }
            Ok(backups) => return Some(Ok(backups)),
            Err(error) if error.unreachable() => {
                silent = Some(error);
                continue;
            }
            Err(error) => error,
        };
        // The words of a fault say more than an empty list.
        if refused.as_ref().is_none_or(lists_nothing) {
            refused = Some(error);
        }
        agreed += usize::from(record.serving == Serving::Serving);
        if agreed >= BELIEVED {
            break;
        }
    }
    refused.or(silent).map(Err)
}

/// Whether poolers have answered, and list no backup at all.
pub fn lists_nothing(error: &upstream::Error) -> bool {
    matches!(error, upstream::Error::Failed { detail, .. } if detail == NOTHING)
}

/// How a pooler is named at the end of its jobs.
fn component(id: &PoolerId) -> String {
    format!("{}-{}", id.cell, id.name)
}

/// Jobs of a shard that run.
pub fn running(runs: &[Arc<MultigresBackup>]) -> Vec<String> {
    let under_way = runs.iter().filter(|run| is_under_way(phase_of(run)));
    under_way.filter_map(|run| run.status.as_ref()?.job_id.clone()).collect()
}

/// Events for what a user wants to hear of.
fn told(run: &MultigresBackup, next: &MultigresBackupStatus) -> Option<Note> {
    let before = phase_of(run);
    let message = next.message.clone().unwrap_or_default();
    if before == next.phase {
        return None;
    }
    match next.phase? {
        BackupPhase::Running => Some(Note::normal("BackupRunning", message)),
        BackupPhase::Completed => {
            let id = next.backup_id.clone().unwrap_or_default();
            Some(Note::normal("BackupCompleted", format!("{id} is in the repository")))
        }
        BackupPhase::Failed => Some(Note::warning("BackupFailed", message)),
        BackupPhase::Pending if next.error.is_some() => Some(Note::warning("BackupAttemptFailed", message)),
        BackupPhase::Pending | BackupPhase::Starting | BackupPhase::Unknown => None,
    }
}

/// A run that has ended stays until its time is over. The last one sees to it that the repository holds no more than it should.
async fn ended(scope: &Scope<'_>, ctx: &Ctx, now: Timestamp) -> Plan<MultigresBackupStatus> {
    let run = scope.run;
    let mut plan = Plan::nothing();
    keep_data(run, &mut plan);
    plan.status.clone_from(&run.status);
    let uid = scope.shard.as_ref().and_then(|shard| shard.uid()).unwrap_or_default();
    let known = ctx.backups.known(&uid).and_then(|known| known.backups);
    match retention(run, &siblings(scope, ctx), scope.kept(), known.as_deref(), now) {
        Retention::Kept => {}
        Retention::Unsure => plan.requeue = Requeue::After(PRUNE_AGAIN),
        Retention::Exceeded(full) => {
            let place = ctx.backups.place(&uid);
            // Nothing can be removed while somebody holds the lease.
            if lease(place.as_ref(), &scope.key, &ctx.upstream).await != Some(Ok(true)) {
                ctx.backups.soon(&uid);
                prune(scope, full, &mut plan);
            }
            plan.requeue = Requeue::After(PRUNE_AGAIN);
        }
    }
    let ended = run.status.as_ref().and_then(|status| status.completed_at.as_ref()).map(|at| at.0);
    let Some(ttl) = run.spec.ttl.as_ref().filter(|ttl| !ttl.is_empty()) else { return plan };
    let gone = ended.unwrap_or(now) + length(Some(ttl), SignedDuration::ZERO);
    if gone > now {
        plan.requeue = plan.requeue.sooner(Requeue::After(until(gone, now)));
    } else if let Some(target) = Target::of(run) {
        plan.write("BackupExpired", Action::Delete(target));
    }
    plan
}

/// What is left to do about the number of full backups after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retention {
    /// There are no more than there should be, or somebody else sees to it.
    Kept,
    /// The repository was not looked at since.
    Unsure,
    /// There are more than this.
    Exceeded(i32),
}

/// Judges it: whoever is to remove backups may be busy or away when a run ends, so the last run that made one sees to it afterwards.
fn retention(
    run: &MultigresBackup,
    others: &[Arc<MultigresBackup>],
    kept: Option<i32>,
    listed: Option<&[Backup]>,
    now: Timestamp,
) -> Retention {
    let made = |run: &MultigresBackup| {
        let status = run.status.as_ref().filter(|status| status.phase == Some(BackupPhase::Completed))?;
        let here = run.metadata.deletion_timestamp.is_none();
        here.then(|| (status.completed_at.as_ref().map(|at| at.0), run.name_any()))
    };
    let (Some(own), Some(kept)) = (made(run), kept) else { return Retention::Kept };
    let later =
        |other: &Arc<MultigresBackup>| is_under_way(phase_of(other)) || made(other).is_some_and(|end| end > own);
    if others.iter().any(later) {
        return Retention::Kept;
    }
    let full = |backup: &&Backup| backup.complete && judge::kind(&backup.kind) == BackupKind::Full;
    let count = listed.map(|all| all.iter().filter(full).count());
    let most = usize::try_from(kept).unwrap_or(usize::MAX);
    if count.is_some_and(|count| count > most) {
        return Retention::Exceeded(kept);
    }
    let just_now = own.0.is_some_and(|end| now.duration_since(end).abs() < LISTED_BY);
    if just_now { Retention::Unsure } else { Retention::Kept }
}

/// Has the repository keep so many full backups, and what builds on them.
fn prune(scope: &Scope<'_>, full: i32, plan: &mut Plan<MultigresBackupStatus>) {
    let what = Expiry::KeepFull(full);
    let (admin, shard) = (scope.admin.clone(), scope.key.clone());
    plan.write("BackupRetention", Action::ExpireBackups { admin, shard, what });
}

/// Adds the finalizer of a run whose data goes with it, and removes it where the data is to stay.
fn keep_data(run: &MultigresBackup, plan: &mut Plan<MultigresBackupStatus>) {
    let wanted = run.spec.deletion_policy == BackupDeletionPolicy::Delete && run.meta().deletion_timestamp.is_none();
    let held = run.finalizers().iter().any(|finalizer| finalizer == annotation::BACKUP_FINALIZER);
    if wanted != held && (wanted || run.spec.deletion_policy == BackupDeletionPolicy::Retain) {
        finalize(run, wanted, plan);
    }
}

fn finalize(run: &MultigresBackup, held: bool, plan: &mut Plan<MultigresBackupStatus>) {
    let mut finalizers: Vec<String> =
        run.finalizers().iter().filter(|other| *other != annotation::BACKUP_FINALIZER).cloned().collect();
    if held {
        finalizers.push(annotation::BACKUP_FINALIZER.to_owned());
    }
    if let Some(target) = Target::of(run) {
        // A list is replaced as a whole: the version keeps what somebody else adds or removes in between.
        let version = run.metadata.resource_version.as_deref();
        let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": version } });
        plan.write("Finalizer", Action::Merge { target, patch });
    }
}

/// What became of the data of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Removed {
    /// It is not in the repository any more.
    Yes,
    /// It is there still, for this reason if there is one to tell.
    NotYet(Option<String>),
    /// Nobody will ever remove it.
    Never,
}

/// Removes a backup from its repository.
async fn remove_data(scope: &Scope<'_>, shard: &Shard, id: &str, ctx: &Ctx) -> Result<Removed, Error> {
    if shard.metadata.deletion_timestamp.is_some() {
        return Ok(Removed::Never);
    }
    let uid = shard.uid().unwrap_or_default();
    let Some((_, records)) = ctx.backups.place(&uid) else { return Ok(Removed::NotYet(None)) };
    // What is being made is in no list yet.
    if let Some(other) = siblings(scope, ctx).iter().find(|other| is_under_way(phase_of(other))) {
        let why = format!("{id} stays while {} is being made, which may build on it", other.name_any());
        return Ok(Removed::NotYet(Some(why)));
    }
    let listed = match list(&ctx.upstream, &records, &[]).await {
        None => return Ok(Removed::NotYet(None)),
        Some(Err(error)) => return refused(id, error),
        Some(Ok(listed)) => listed,
    };
    let later = judge::built_on(&listed, id);
    if !later.is_empty() {
        let why = format!(
            "{id} stays while {} build on it: delete those first, or set deletionPolicy to Retain to let only the object go",
            shorten(&later.join(", "), NAMED)
        );
        return Ok(Removed::NotYet(Some(why)));
    }
    if listed.iter().any(|backup| backup.id == id) {
        let expiry = Expiry::Set(id.to_owned());
        let gone = match ctx.upstream.backups().expire(&scope.admin, &scope.key, &expiry).await {
            Ok(gone) => gone,
            Err(error) => return refused(id, error),
        };
        if !gone.iter().any(|name| name == id) {
            let why =
                format!("{id} stays: nothing was removed. Set deletionPolicy to Retain to let only the object go");
            return Ok(Removed::NotYet(Some(why)));
        }
    }
    ctx.backups.soon(&uid);
    Ok(Removed::Yes)
}

/// What it means that the data plane does not do what it was asked about a backup: its own words are for the user, as those about the only full
/// backup, which nobody removes. Where it could not be asked at all, the pass has failed.
fn refused(id: &str, error: upstream::Error) -> Result<Removed, Error> {
    match error {
        upstream::Error::Failed { detail, .. } => Ok(Removed::NotYet(Some(format!(
            "{id} stays: {}. Set deletionPolicy to Retain to let only the object go",
            shorten(&detail, NAMED)
        )))),
        source => Err(Error::Upstream { what: format!("removing the backup {id}"), source }),
    }
}

/// Removes the data of a run that is being deleted, where that is its policy and there still is somebody to do it.
async fn removal(scope: &Scope<'_>, ctx: &Ctx) -> Result<Plan<MultigresBackupStatus>, Error> {
    let run = scope.run;
    let mut plan = Plan { requeue: Requeue::Never, ..Plan::nothing() };
    if !run.finalizers().iter().any(|finalizer| finalizer == annotation::BACKUP_FINALIZER) {
        return Ok(plan);
    }
    let id = run.status.as_ref().and_then(|status| status.backup_id.clone());
    let remove = run.spec.deletion_policy == BackupDeletionPolicy::Delete;
    if let (true, Some(id), Some(shard)) = (remove, id, &scope.shard) {
        match remove_data(scope, shard, &id, ctx).await? {
            Removed::Yes => {}
            Removed::Never => {
                let message =
                    format!("{id} stays in the repository: its cluster is being deleted, and nobody can remove it");
                plan.notes.push(Note::warning("BackupDataKept", message));
            }
            Removed::NotYet(why) => {
                plan.notes.extend(why.map(|why| Note::warning("BackupDataKept", why)));
                plan.requeue = Requeue::After(DELETE_AGAIN);
                return Ok(plan);
            }
        }
    }
    finalize(run, false, &mut plan);
    Ok(plan)
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
