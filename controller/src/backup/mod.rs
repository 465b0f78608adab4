//! Backups: what is known of the repositories, which runs are due, and the runs themselves.
//!
//! `keeper` asks the data plane at leisure and fills `memory`; `judge` says what that means for a shard; `schedule` makes the runs that
//! are due; `run` carries one out, as a MultigresBackup. Nothing here asks a primary anything while somebody else can answer.

pub mod judge;
pub mod keeper;
pub mod memory;
mod progress;
pub mod run;
pub mod schedule;
mod shard;

#[cfg(test)]
mod tests;

use std::time::Duration;

use futures::future::BoxFuture;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use shared::{
    api::v1alpha1::{MultigresBackup, MultigresBackupStatus},
    validate::duration,
};
use tracing::Span;

use crate::{
    context::Ctx,
    error::Error,
    plan::{Note, Plan},
    runner::Kind,
};

pub use self::{
    memory::{Known, Memory, Slot},
    run::plan,
    shard::{Sight, weigh},
};

/// How long a run may take where nobody says, waiting and retries included.
pub const DEADLINE: SignedDuration = SignedDuration::from_hours(2);

/// A duration that admission has read before; the default where it is absent, or unreadable after all.
fn length(text: Option<&String>, default: SignedDuration) -> SignedDuration {
    let Some(nanos) = text.filter(|text| !text.is_empty()).and_then(|text| duration::parse(text)) else {
        return default;
    };
    SignedDuration::from_nanos_i128(nanos.clamp(0, i128::from(i64::MAX)))
}

/// A moment as the API stores it, in whole seconds.
fn stored(at: jiff::Timestamp) -> Time {
    Time(jiff::Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// How long to wait for a moment; a little when it has passed.
pub fn until(at: jiff::Timestamp, now: jiff::Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default().max(Duration::from_secs(1))
}

impl Kind for MultigresBackup {
    type Status = MultigresBackupStatus;
    const CONTROLLER: &'static str = "multigresbackup";

    fn span(&self) -> Span {
        tracing::info_span!(
            "MultigresBackup.Reconcile",
            controller = Self::CONTROLLER,
            namespace = self.namespace().unwrap_or_default(),
            name = self.name_any(),
            generation = self.metadata.generation,
        )
    }

    /// Its phases are told by the plan, which knows what led to them.
    fn phase_change(&self, _: &Self::Status) -> Option<Note> {
        None
    }

    fn plan<'a>(&'a self, ctx: &'a Ctx) -> BoxFuture<'a, Result<Plan<Self::Status>, Error>> {
        Box::pin(run::plan(self, ctx))
    }
}
