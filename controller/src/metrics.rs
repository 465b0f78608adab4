//! The controller's own metric families, next to the framework's in `shared::metrics`.
//!
//! What is true of objects is read from the watches' tables while somebody scrapes ([`objects`]); what only passes know is kept
//! in [`memory`] for as long as the object exists; queues and calls of the data plane are watched where they happen.

mod call;
mod memory;
mod objects;
mod queue;
mod shards;

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use prometheus::{HistogramVec, IntCounterVec, Opts};
use shared::{
    clock::Clock,
    kubeutil::ObjectKey,
    metrics::{ControllerMetrics, Source, Watches, families},
};

pub use self::{memory::Drained, queue::Queue};
use self::{memory::Memory, objects::Objects};
use crate::{
    error::Class,
    plan::Drain,
    stores::Stores,
    upstream::{Snapshot, Upstream},
};

/// Families of what the controller does. Series of objects live as long as this value: who does not lead shows none.
pub struct Metrics {
    /// Writes that were sent, by reason of the plan.
    pub writes: IntCounterVec,
    /// Watches that did not go well.
    pub watches: Watches,
    memory: Arc<Memory>,
    topology: HistogramVec,
    poolers: HistogramVec,
    drains: HistogramVec,
    registry: shared::metrics::Metrics,
    /// What the registry asks. It holds no source itself.
    sources: Mutex<Vec<Arc<dyn Source>>>,
}

impl Metrics {
    /// Registers the families.
    pub fn new(metrics: &shared::metrics::Metrics) -> Result<Self, prometheus::Error> {
        let writes = IntCounterVec::new(
            Opts::new(
                "multigres_operator_writes_total",
                "Writes sent to the API server or a topology server, by reason.",
            ),
            &["reason"],
        )?;
        let listed = |name: &str| {
            let family = families::find(name).ok_or_else(|| prometheus::Error::Msg(format!("{name} is not listed")))?;
            metrics.histogram(family)
        };
        Ok(Self {
            writes: metrics.register(writes)?,
            watches: Watches::new(metrics)?,
            memory: Arc::default(),
            topology: listed("multigres_operator_topology_request_duration_seconds")?,
            poolers: listed("multigres_operator_pooler_rpc_duration_seconds")?,
            drains: listed("multigres_operator_drain_duration_seconds")?,
            registry: metrics.clone(),
            sources: Mutex::default(),
        })
    }

    /// Shows what the tables hold.
    pub fn show(&self, stores: Arc<Stores>, clock: Arc<dyn Clock>) {
        self.keep(Arc::new(Objects::new(stores, Arc::clone(&self.memory), clock)));
    }

    /// Watches the queue of one controller.
    pub fn queue(&self, metrics: ControllerMetrics) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(metrics));
        self.keep(Arc::clone(&queue) as Arc<dyn Source>);
        queue
    }

    /// The same data plane, with the time of its calls measured.
    pub fn timed(&self, upstream: Upstream) -> Upstream {
        call::timed(upstream, self.topology.clone(), self.poolers.clone())
    }

    /// Remembers that a pass of an object had no error.
    pub fn succeeded(&self, controller: &'static str, key: &ObjectKey, now: Timestamp) {
        self.memory.succeeded(controller, key, now);
    }

    /// Counts a pass that failed, by the worst of its errors.
    pub fn failed(
        &self,
        controller: &'static str,
        key: &ObjectKey,
        now: Timestamp,
        errors: impl IntoIterator<Item = Class>,
    ) {
        let bug = errors.into_iter().any(|class| class == Class::Bug);
        self.memory.failed(controller, key, now, bug);
    }

    /// Notes who is primary of a shard, and counts when that changes.
    pub fn primary(&self, key: &ObjectKey, primary: Option<&str>) {
        self.memory.primary(key, primary);
    }

    /// Counts a pod of a shard that was taken out of service, or not, and the time that it took.
    pub fn drained(&self, shard: &ObjectKey, how: Drained, drain: Option<Drain>) {
        self.memory.drained(shard, how);
        if let Some(drain) = drain {
            self.drains.with_label_values(&[drain.cause, how.into()]).observe(drain.took.as_secs_f64());
        }
    }

    /// Notes of which cells the records of a shard could be read; while nobody tells which cells there are, of none.
    pub fn topology<T>(&self, shard: &ObjectKey, seen: &Snapshot<T>) {
        let cells = seen.cells.iter().filter(|_| seen.global.is_ok());
        self.memory.topology(shard, cells.map(|(cell, answer)| (cell.clone(), answer.is_ok())).collect());
    }

    /// Forgets what is known of objects that are gone.
    pub fn forget_gone(&self, stores: &Stores) {
        self.memory.retain(|key| objects::exists(stores, key));
    }

    fn keep(&self, source: Arc<dyn Source>) {
        self.registry.attach(&source);
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }
}

#[cfg(test)]
mod tests;
