//! The queue of one controller, watched from outside: kube runs it and does not tell.
//!
//! An object waits from its first event until its pass begins. Delayed passes wait for nothing but time and do not count.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use shared::metrics::{ControllerMetrics, Source};

/// Namespace and name.
type Object = (String, String);

/// Objects that wait, and passes that run.
#[derive(Debug)]
pub struct Queue {
    metrics: ControllerMetrics,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: HashMap<Object, Instant>,
    running: HashMap<Object, Instant>,
}

impl Queue {
    pub(super) fn new(metrics: ControllerMetrics) -> Self {
        Self { metrics, inner: Mutex::default() }
    }

    /// An event concerns this object.
    pub fn added(&self, namespace: &str, name: &str) {
        self.metrics.adds.inc();
        self.lock().waiting.entry((namespace.to_owned(), name.to_owned())).or_insert_with(Instant::now);
    }

    /// Its pass begins; it ends with the returned value.
    pub fn started(self: &Arc<Self>, namespace: &str, name: &str) -> Running {
        let object = (namespace.to_owned(), name.to_owned());
        let now = Instant::now();
        let mut inner = self.lock();
        if let Some(since) = inner.waiting.remove(&object) {
            self.metrics.wait.observe(now.duration_since(since).as_secs_f64());
        }
        inner.running.insert(object.clone(), now);
        Running { queue: Arc::clone(self), object }
    }

    /// There is no such object any more.
    pub fn gone(&self, namespace: &str, name: &str) {
        self.lock().waiting.remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Queue {
    fn refresh(&self) {
        let inner = self.lock();
        let taken = |since: &Instant| since.elapsed().as_secs_f64();
        self.metrics.depth.set(i64::try_from(inner.waiting.len()).unwrap_or(i64::MAX));
        self.metrics.unfinished.set(inner.running.values().map(taken).fold(0.0, |sum, one| sum + one));
        self.metrics.longest.set(inner.running.values().map(taken).fold(0.0, f64::max));
    }
}

/// A pass that runs.
#[derive(Debug)]
pub struct Running {
    queue: Arc<Queue>,
    object: Object,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.queue.lock().running.remove(&self.object);
    }
}
