//! Reconciles `Shard`: one replicated PostgreSQL, as pods and volumes that are managed directly, with its orchestrators.
//!
//! `observe` gathers, `decide` plans, the modules named after objects build them, and `status` tells what is true. Running pods are
//! never changed here.

mod certificate;
mod claim;
mod config;
mod container;
mod decide;
mod facts;
mod multiorch;
mod network;
mod observe;
mod origin;
mod pod;
mod port;
pub mod primary;
mod rendering;
mod scope;
mod status;
#[cfg(test)]
mod tests;
mod tombstone;
mod volume;

use shared::api::v1alpha1::{Shard, ShardStatus};

pub use self::{
    certificate::Certificates,
    decide::decide,
    observe::{Observed, Reference, observe},
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
        }
        return Ok(Plan { requeue: Requeue::Never, ..Plan::nothing() });
    }
    let observed = observe(shard, ctx).await?;
    decide(&observed, &ctx.settings, ctx.clock.now())
}
