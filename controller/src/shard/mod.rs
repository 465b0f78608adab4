//! Reconciles `Shard`: one replicated PostgreSQL, as pods and volumes that are managed directly, with its orchestrators.
//!
//! `observe` gathers, `decide` plans, the modules named after objects build them, and `status` tells what is true. Whether a running
//! pod may be taken down is decided in `disruption` alone: `sight` shows it what is known, `disrupt` turns its verdict into writes.

mod certificate;
mod claim;
mod config;
mod container;
mod decide;
mod disrupt;
pub mod disruption;
mod facts;
pub mod leaving;
mod loss;
mod multiorch;
mod network;
pub mod node;
mod observe;
mod origin;
mod pod;
mod port;
pub mod primary;
mod rendering;
mod replication;
mod scope;
mod sight;
mod status;
mod stranger;
#[cfg(test)]
mod tests;
mod tombstone;
mod volume;

use shared::{
    api::v1alpha1::{Shard, ShardStatus},
    kubeutil::ObjectKey,
};
use tracing::{Instrument as _, debug_span};

pub use self::{
    certificate::Certificates,
    decide::{Decision, decide, weigh},
    observe::{InternalTls, Observed, Reference, observe},
    status::{PRIMARY_CONFIRMED, had_primary},
};
use crate::{
    context::Ctx,
    error::Error,
    plan::{Plan, Requeue},
};

/// One pass over a shard.
pub async fn plan(shard: &Shard, ctx: &Ctx) -> Result<Plan<ShardStatus>, Error> {
    if shard.metadata.deletion_timestamp.is_some() {
        // Children follow their owner references, volumes their policy.
        if let Some(uid) = &shard.metadata.uid {
            ctx.primaries.forget(uid);
            ctx.backups.forget(uid);
        }
        return Ok(Plan { requeue: Requeue::Never, ..Plan::nothing() });
    }
    let weighed =
        |observed: &Observed| debug_span!("Decide").in_scope(|| weigh(observed, &ctx.settings, ctx.clock.now()));
    let mut observed = observe(shard, ctx).instrument(debug_span!("Observe")).await?;
    ctx.metrics.topology(&ObjectKey::of(shard), &observed.topology);
    if leaving::is_asked(shard) {
        return leaving::decide(&observed, ctx.clock.now());
    }
    let mut decision = weighed(&observed)?;
    // Asking everybody costs calls, so it is done only where somebody might be taken down, and not while every moment counts.
    let urgent = matches!(decision.verdict.row, disruption::Row::Lost | disruption::Row::Ended);
    if decision.verdict.pending && !urgent {
        observe::look_closer(&mut observed, ctx).instrument(debug_span!("LookCloser")).await?;
        decision = weighed(&observed)?;
    }
    let Decision { plan, verdict } = decision;
    if verdict.pending {
        let row: &'static str = verdict.row.into();
        tracing::debug!(row, act = ?verdict.act, blocker = ?verdict.blocker, "disruption weighed");
    }
    Ok(plan)
}
