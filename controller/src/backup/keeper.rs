//! Asks the data plane about repositories at leisure, beside the passes, which must not wait for a look into an object store.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::{Resource as _, ResourceExt as _};
use shared::{
    api::v1alpha1::Shard,
    condition,
    name::{self, ShardId},
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    memory::{Due, Memory},
    run,
    shard::is_of,
};
use crate::{
    context::Ctx,
    shard::{PRIMARY_CONFIRMED, had_primary},
    upstream::{self, PoolerAddress, backup::Backup},
};

/// How often it looks what is due.
const BEAT: Duration = Duration::from_secs(1);
/// How many shards are asked about at the same time.
const AT_ONCE: usize = 8;
/// Port of the exporter in pool pods.
const EXPORTER: u16 = 9187;
/// A shard that nobody leads for so long may have a repository that nobody can read.
const STUCK_AFTER: SignedDuration = SignedDuration::from_mins(1);
/// No answer is waited for longer, however many poolers are tried.
const PATIENCE: Duration = Duration::from_mins(2);

/// Asks until `stop`; `wake` has a shard looked at about which there is news.
pub async fn keep(ctx: Arc<Ctx>, wake: impl Fn(&Shard) + Send + Sync + 'static, stop: CancellationToken) {
    let wake = Arc::new(wake);
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = beat.tick() => {}
        }
        while asking.try_join_next().is_some() {}
        let now = ctx.clock.now();
        for shard in ctx.stores.shards.all() {
            let Some(uid) = shard.uid() else { continue };
            let due = due(&ctx.backups, &shard, &uid, now);
            if due == Due::default() {
                continue;
            }
            let (ctx, wake, permits) = (Arc::clone(&ctx), Arc::clone(&wake), Arc::clone(&permits));
            asking.spawn(async move {
                let Ok(_permit) = permits.acquire_owned().await else { return };
                if ask(&ctx, &shard, &uid, due).await {
                    wake(&shard);
                }
            });
        }
    }
}

/// What is due about one shard. Before somebody leads there is no repository, unless nobody becomes primary for long: then that may be why. Once
/// the shard goes there is nobody to ask.
pub(super) fn due(memory: &Memory, shard: &Shard, uid: &str, now: Timestamp) -> Due {
    let status = shard.status.as_ref();
    let leads = status.is_some_and(|status| status.primary.is_some());
    let confirmed = status.and_then(|status| condition::find(&status.conditions, PRIMARY_CONFIRMED));
    let stuck = confirmed.is_some_and(|confirmed| {
        confirmed.status == "False" && now.duration_since(confirmed.last_transition_time.0) >= STUCK_AFTER
    });
    if !(leads || stuck) || shard.meta().deletion_timestamp.is_some() {
        return Due::default();
    }
    let due = memory.due(uid, now);
    Due { archiver: due.archiver && leads, ..due }
}

/// Asks what is due about one shard; tells whether there is news.
async fn ask(ctx: &Ctx, shard: &Shard, uid: &str, due: Due) -> bool {
    let (listed, archived) =
        tokio::join!(async { if due.list { ask_list(ctx, shard, uid).await } else { false } }, async {
            if due.archiver { ask_archiver(ctx, shard, uid).await } else { false }
        },);
    listed || archived
}

async fn ask_list(ctx: &Ctx, shard: &Shard, uid: &str) -> bool {
    let Some((_, records)) = ctx.backups.place(uid) else { return false };
    let spec = &shard.spec;
    let cluster = shard.labels().get(shared::label::CLUSTER).map(String::as_str).unwrap_or_default();
    let id = ShardId {
        cluster,
        database: &spec.database_name,
        table_group: &spec.table_group_name,
        shard: &spec.shard_name,
    };
    let runs = ctx.stores.backups.in_namespace(shard.metadata.namespace.as_deref().unwrap_or_default());
    let runs: Vec<_> = runs.into_iter().filter(|run| is_of(&run.spec, id)).collect();
    let busy = run::running(&runs);
    let answer = match tokio::time::timeout(PATIENCE, run::list(&ctx.upstream, &records, &busy)).await {
        Ok(Some(answer)) => answer,
        Ok(None) => return false,
        Err(_) => Err(upstream::Error::Slow { target: name::shard(id), after: PATIENCE }),
    };
    let answer = believed(shard, answer);
    // Poolers answer nobody while they make a backup. That is no failure.
    if !busy.is_empty() && answer.as_ref().is_err_and(upstream::Error::unreachable) {
        return false;
    }
    if let Err(error) = &answer {
        tracing::debug!(shard = shard.name_any(), error = shared::telemetry::chain(error), "backups not listed");
    }
    ctx.backups.listed(uid, answer, ctx.clock.now())
}

/// What an answer means for a shard. One that nobody has led yet was made from no backup, so a repository that holds none is not at fault.
pub(super) fn believed(shard: &Shard, answer: upstream::Result<Vec<Backup>>) -> upstream::Result<Vec<Backup>> {
    let conditions = shard.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    match answer {
        Err(error) if run::lists_nothing(&error) && !had_primary(conditions) => Ok(Vec::new()),
        answer => answer,
    }
}

async fn ask_archiver(ctx: &Ctx, shard: &Shard, uid: &str) -> bool {
    let namespace = shard.metadata.namespace.as_deref().unwrap_or_default();
    let primary = shard.status.as_ref().and_then(|status| status.primary.as_deref()).unwrap_or_default();
    let Some(pod) = ctx.stores.pods.get(namespace, primary) else { return false };
    let Some(host) = pod.status.as_ref().and_then(|status| status.pod_ip.clone()) else { return false };
    let exporter = PoolerAddress::new(host, EXPORTER);
    let answer = ctx.upstream.backups().archiver(&exporter).await;
    if let Err(error) = &answer {
        tracing::debug!(shard = shard.name_any(), error = shared::telemetry::chain(error), "archiver not read");
    }
    ctx.backups.archived(uid, answer.ok(), ctx.clock.now())
}
