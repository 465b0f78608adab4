//! Wraps the pass of every kind the same way: span, timer, execution, events, log line, metrics, and the delay that follows.

use std::{any::Any, convert::Infallible, fmt::Debug, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use kube::{
    Resource, ResourceExt as _,
    runtime::{
        Controller,
        controller::{self, Action, Config},
        reflector::{ObjectRef, Store},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use shared::{
    api::v1alpha1::Phase,
    kubeutil::ObjectKey,
    metrics::{ControllerMetrics, FrameworkMetrics, Outcome as PassOutcome},
    telemetry,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, debug_span};

use crate::{
    context::Ctx,
    error::{Class, Error},
    execute::{DRIFT_REVERTED, Outcome, Trouble},
    plan::{Note, Plan},
    requeue,
    settings::Concurrency,
};

/// One of our kinds, as the runner sees it.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
    /// Its status.
    type Status: Serialize + Send + Sync;
    /// Label of its metrics.
    const CONTROLLER: &'static str;

    /// The span of a pass.
    fn span(&self) -> Span;

    /// Who is primary, of a kind that has one.
    fn primary(&self) -> Option<&str> {
        None
    }

    /// The event that tells of a change of the phase, if `next` is one.
    fn phase_change(&self, next: &Self::Status) -> Option<Note>;

    /// References, observe and decide: everything up to the plan.
    fn plan<'a>(&'a self, ctx: &'a Ctx) -> BoxFuture<'a, Result<Plan<Self::Status>, Error>>;
}

/// Events come in bursts while children are made; this much waiting merges them.
const DEBOUNCE: std::time::Duration = std::time::Duration::from_millis(50);
/// Failures in a row after which the status tells of them: what passes by itself within a second or two is not worth a write.
const TOLD_AFTER: u32 = 3;

/// Runs the controller of one kind until `stop`, then lets running passes end.
pub async fn run<K: Kind>(
    store: Store<K>,
    queue: mpsc::UnboundedReceiver<ObjectRef<K>>,
    ctx: Arc<Ctx>,
    framework: FrameworkMetrics,
    concurrency: Concurrency,
    stop: CancellationToken,
) {
    let concurrency = concurrency.of(K::CONTROLLER);
    let metrics = framework.controller(K::CONTROLLER, concurrency.into());
    let watched = ctx.metrics.queue(metrics.clone());
    let (arrivals, passes, departures) = (Arc::clone(&watched), Arc::clone(&watched), watched);
    let queue = UnboundedReceiverStream::new(queue).inspect(move |object| {
        arrivals.added(object.namespace.as_deref().unwrap_or_default(), &object.name);
    });
    let controller = Controller::for_stream(stream::pending(), store)
        .reconcile_on(queue)
        .with_config(Config::default().concurrency(concurrency).debounce(DEBOUNCE))
        .graceful_shutdown_on(async move { stop.cancelled().await });
    controller
        .run(
            move |object, ctx| {
                let metrics = metrics.clone();
                let running = passes.started(&object.namespace().unwrap_or_default(), &object.name_any());
                async move {
                    let action = pass(&*object, &ctx, &metrics).await;
                    drop(running);
                    Ok::<_, Infallible>(action)
                }
            },
            |_, error, _| match *error {},
            ctx,
        )
        .for_each(|outcome| {
            // The object was deleted between the event and its pass: nothing to do, and nothing to report.
            if let Err(error) = outcome {
                if let controller::Error::ObjectNotFound(object) = &error {
                    departures.gone(object.namespace.as_deref().unwrap_or_default(), &object.name);
                }
                tracing::trace!(controller = K::CONTROLLER, %error, "not reconciled");
            }
            std::future::ready(())
        })
        .await;
}

/// One pass, including everything that is said about it.
pub async fn pass<K: Kind>(object: &K, ctx: &Ctx, metrics: &ControllerMetrics) -> Action {
    let key = ObjectKey::of(object);
    let span = object.span();
    telemetry::follow(&span, object.meta().annotations.as_ref(), ctx.clock.now());
    telemetry::describe(
        &span,
        [
            ("k8s.resource.kind", K::kind(&()).into()),
            ("k8s.namespace", key.namespace.clone().unwrap_or_default().into()),
            ("k8s.resource.name", key.name.clone().into()),
        ],
    );
    let started = Instant::now();
    metrics.active_workers.inc();
    let (action, outcome) = passed(object, ctx, &key, metrics).instrument(span.clone()).await;
    telemetry::describe(&span, [("result", <&str>::from(outcome).into())]);
    metrics.active_workers.dec();
    if outcome == PassOutcome::Error {
        metrics.retries.inc();
    }
    metrics.finished(outcome, started.elapsed().as_secs_f64());
    action
}

/// Plans, tells and writes.
async fn attempt<K: Kind>(object: &K, ctx: &Ctx) -> Result<Outcome, Error> {
    let plan = object.plan(ctx).await?;
    let change = plan.status.as_ref().and_then(|next| object.phase_change(next));
    for note in change.iter().chain(&plan.notes) {
        ctx.events.publish(object, note).await;
    }
    let outcome = ctx.executor.run(object, plan).instrument(debug_span!("Execute")).await;
    for reverted in &outcome.reverted {
        ctx.events.publish(object, &Note::warning(DRIFT_REVERTED, reverted.to_string())).await;
    }
    Ok(outcome)
}

/// What a panic said, if there was one: a defect that one object meets must not end the work for all others. Nothing that passes share is left
/// half-written by one: locks of the standard library are taken over when poisoned, and stores belong to the watches.
async fn shielded<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| said(&*panic))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

async fn passed<K: Kind>(object: &K, ctx: &Ctx, key: &ObjectKey, metrics: &ControllerMetrics) -> (Action, PassOutcome) {
    let started = Instant::now();
    let (errors, requeue, sent) = match shielded(attempt(object, ctx)).await {
        Ok(Ok(outcome)) => (outcome.errors, Some(outcome.requeue), outcome.sent),
        Ok(Err(error)) => (vec![error], None, 0),
        Err(what) => {
            metrics.panics.inc();
            (vec![Error::Panicked { what }], None, 0)
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    let (leaving, errors): (Vec<Error>, Vec<Error>) = errors.into_iter().partition(|e| e.class() == Class::Leaving);
    let (conflicts, errors): (Vec<Error>, Vec<Error>) = errors.into_iter().partition(|e| e.class() == Class::Conflict);
    let now = ctx.clock.now();
    ctx.metrics.primary(key, object.primary());
    if errors.is_empty() {
        ctx.backoff.succeeded(key);
        ctx.metrics.succeeded(K::CONTROLLER, key, now);
        if let Err(error) = ctx.executor.tell(object, None).await {
            tracing::warn!(error = error.chain(), "condition Reconciled stays behind; the next pass removes it");
        }
        if sent > 0 {
            tracing::info!(writes = sent, seconds, "reconciled");
        } else {
            tracing::debug!(seconds, "nothing to write");
        }
        if !leaving.is_empty() {
            tracing::debug!("the namespace is being deleted");
            return (Action::await_change(), PassOutcome::Success);
        }
        if !conflicts.is_empty() {
            return (Action::requeue(std::time::Duration::from_millis(200)), PassOutcome::Requeue);
        }
        return match requeue.and_then(|requeue| requeue::after_success(requeue, rand::random())) {
            Some(delay) => (Action::requeue(delay), PassOutcome::RequeueAfter),
            None => (Action::await_change(), PassOutcome::Success),
        };
    }
    let (failures, delay) = ctx.backoff.failed(key);
    ctx.metrics.failed(K::CONTROLLER, key, now, errors.iter().map(Error::class));
    telemetry::fail(&Span::current(), || errors.iter().map(Error::chain).collect::<Vec<_>>().join("; "));
    for error in &errors {
        tracing::error!(
            reason = error.category(),
            error = error.chain(),
            retry_seconds = delay.as_secs(),
            "pass failed"
        );
        ctx.events.publish(object, &Note::warning(error.category(), error.chain())).await;
    }
    if failures >= TOLD_AFTER || errors.iter().any(|error| error.class() == Class::Bug) {
        // What keeps the status from being written is in the log and, if that gets through, in the event.
        let told = ctx.executor.tell(object, Trouble::of(&errors).as_ref()).await;
        if let Err(error) = told {
            tracing::debug!(error = error.chain(), "condition Reconciled not written");
        }
    }
    (Action::requeue(delay), PassOutcome::Error)
}

fn told(phase: Phase, message: &str) -> Note {
    let text = format!("{phase}: {message}");
    match phase {
        Phase::Degraded => Note::warning("PhaseChange", text),
        _ => Note::normal("PhaseChange", text),
    }
}

macro_rules! kind {
    ($object:ty, $status:ty, $kind:literal, $module:ident, $name:literal $(, $primary:expr)?) => {
        impl Kind for $object {
            type Status = $status;
            const CONTROLLER: &'static str = $name;

            fn span(&self) -> Span {
                tracing::info_span!(
                    concat!($kind, ".Reconcile"),
                    controller = $name,
                    namespace = self.namespace().unwrap_or_default(),
                    name = self.name_any(),
                    generation = self.metadata.generation,
                )
            }

            $(fn primary(&self) -> Option<&str> {
                let primary: fn(&Self) -> Option<&str> = $primary;
                primary(self)
            })?

            fn phase_change(&self, next: &$status) -> Option<Note> {
                let before = self.status.as_ref().and_then(|status| status.phase);
                let (phase, message) = (next.phase?, next.message.as_deref()?);
                (before != Some(phase)).then(|| told(phase, message))
            }

            fn plan<'a>(&'a self, ctx: &'a Ctx) -> BoxFuture<'a, Result<Plan<Self::Status>, Error>> {
                Box::pin(crate::$module::plan(self, ctx))
            }
        }
    };
}

kind!(
    shared::api::v1alpha1::MultigresCluster,
    shared::api::v1alpha1::MultigresClusterStatus,
    "MultigresCluster",
    cluster,
    "multigrescluster"
);
kind!(shared::api::v1alpha1::Cell, shared::api::v1alpha1::CellStatus, "Cell", cell, "cell");
kind!(
    shared::api::v1alpha1::TableGroup,
    shared::api::v1alpha1::TableGroupStatus,
    "TableGroup",
    table_group,
    "tablegroup"
);
kind!(shared::api::v1alpha1::Shard, shared::api::v1alpha1::ShardStatus, "Shard", shard, "shard", |shard| {
    shard.status.as_ref()?.primary.as_deref()
});
kind!(
    shared::api::v1alpha1::TopoServer,
    shared::api::v1alpha1::TopoServerStatus,
    "TopoServer",
    topo_server,
    "toposerver"
);

#[cfg(test)]
mod tests {
    use super::shielded;

    #[tokio::test]
    async fn a_pass_that_panics_ends_with_what_it_said() {
        assert_eq!(shielded(async { 7 }).await, Ok(7));
        let (index, none): (usize, [u8; 0]) = (3, []);
        let broken = shielded(async { none[index] }).await.unwrap_err();
        assert!(broken.contains("index out of bounds"), "{broken}");
        assert_eq!(shielded(async { panic!("plainly") }).await, Err::<(), _>("plainly".to_owned()));
    }
}
