//! The metrics registry of a process, and the families that every controller of the Kubernetes world exposes.
//!
//! The registry is passed around and never global. Names, labels and buckets follow controller-runtime, because
//! dashboards and alerts rely on them.

pub mod families;
mod process;
mod runtime;
mod text;
mod watches;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector, process_collector::ProcessCollector,
};
use tokio::runtime::{Handle, RuntimeMetrics};

use self::families::{Family, Kind, QUEUE_SECONDS, RECONCILE_SECONDS};
pub use self::{
    text::{Samples, Source, Text},
    watches::Watches,
};

/// Registration or encoding failed.
pub use prometheus::Error;

/// What was built.
#[derive(Clone, Copy, Debug)]
pub struct Build<'a> {
    /// Version of the product.
    pub version: &'a str,
    /// Commit that it was built from.
    pub revision: &'a str,
}

/// The registry of a process.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// What was registered here, by name.
    registered: Arc<Mutex<Vec<Registered>>>,
    /// Who writes samples while they are read. A source that nobody holds any more writes none.
    sources: Arc<RwLock<Vec<Weak<dyn Source>>>>,
    /// The runtime that is shown, if one is.
    runtime: Option<RuntimeMetrics>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// A family as it was registered.
#[derive(Clone, Debug, PartialEq)]
pub struct Registered {
    name: String,
    kind: Option<Kind>,
    labels: BTreeSet<String>,
}

impl Registered {
    /// Whether the list says the same about it.
    pub fn is_listed(&self) -> bool {
        families::find(&self.name).is_some_and(|family| {
            Some(family.kind) == self.kind
                && family.labels.iter().map(ToString::to_string).collect::<BTreeSet<_>>() == self.labels
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Metrics {
    /// Returns a registry with the process metrics and the build information.
    pub fn new(build: Build<'_>) -> Result<Self, Error> {
        let metrics =
            Self { registry: Registry::new(), registered: Arc::default(), sources: Arc::default(), runtime: None };
        metrics.registry.register(Box::new(ProcessCollector::for_self()))?;
        let info = IntGaugeVec::new(
            Opts::new("multigres_operator_build_info", "Version and commit of the running program, always 1."),
            &["version", "revision"],
        )?;
        info.with_label_values(&[build.version, build.revision]).set(1);
        metrics.register(info)?;
        Ok(metrics)
    }

    /// Shows how busy a runtime is, too.
    #[must_use]
    pub fn of_runtime(mut self, runtime: &Handle) -> Self {
        self.runtime = Some(runtime.metrics());
        self
    }

    /// Adds a family.
    pub fn register<C: Collector + Clone + 'static>(&self, family: C) -> Result<C, Error> {
        self.registry.register(Box::new(family.clone()))?;
        let labels = |name: &str| {
            let of_name = family.desc().into_iter().find(|desc| desc.fq_name == name);
            of_name.into_iter().flat_map(|desc| desc.variable_labels.iter().cloned()).collect()
        };
        let described = family.collect().into_iter().map(|of| Registered {
            labels: labels(of.name()),
            kind: Kind::of(of.get_field_type()),
            name: of.name().to_owned(),
        });
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).extend(described);
        Ok(family)
    }

    /// What was registered through [`register`](Self::register).
    pub fn registered(&self) -> Vec<Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a source of samples, for as long as somebody else holds it.
    pub fn attach(&self, source: &Arc<dyn Source>) {
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|source| source.strong_count() > 0);
        sources.push(Arc::downgrade(source));
    }

    /// Returns the registry for families of other modules.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Writes all families in the Prometheus text format.
    pub fn text(&self) -> Result<String, Error> {
        let sources: Vec<Arc<dyn Source>> = {
            let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
            sources.iter().filter_map(Weak::upgrade).collect()
        };
        for source in &sources {
            source.refresh();
        }
        let mut text = Text::after(TextEncoder::new().encode_to_string(&self.registry.gather())?);
        process::write(&mut text);
        for source in &sources {
            source.write(&mut text);
        }
        if let Some(runtime) = &self.runtime {
            runtime::write(runtime, &mut text);
        }
        Ok(text.finish())
    }

    /// Registers a histogram of the list.
    pub fn histogram(&self, family: &Family) -> Result<HistogramVec, Error> {
        let options = HistogramOpts::new(family.name, family.help).buckets(family.buckets.to_vec());
        self.register(HistogramVec::new(options, family.labels)?)
    }
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumIter, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// It failed.
    Error,
    /// It succeeded and comes again after a while.
    RequeueAfter,
    /// It comes again at once.
    Requeue,
    /// It succeeded and waits for a change.
    Success,
}

/// The families of controller-runtime.
#[derive(Clone, Debug)]
pub struct FrameworkMetrics {
    reconcile_total: IntCounterVec,
    reconcile_errors: IntCounterVec,
    terminal_errors: IntCounterVec,
    panics: IntCounterVec,
    reconcile_seconds: HistogramVec,
    max_concurrent: IntGaugeVec,
    active_workers: IntGaugeVec,
    queue_depth: IntGaugeVec,
    queue_adds: IntCounterVec,
    queue_retries: IntCounterVec,
    queue_wait: HistogramVec,
    queue_work: HistogramVec,
    unfinished: GaugeVec,
    longest: GaugeVec,
    requests: IntCounterVec,
    leader: IntGaugeVec,
}

impl FrameworkMetrics {
    /// Registers the families.
    pub fn new(metrics: &Metrics) -> Result<Self, Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            metrics.register(IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            metrics.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let seconds =
            |name: &str, help: &str, labels: &[&str]| metrics.register(GaugeVec::new(Opts::new(name, help), labels)?);
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            metrics.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
        };
        let (controller, queue) = (["controller"], ["name", "controller"]);
        Ok(Self {
            reconcile_total: counter(
                "controller_runtime_reconcile_total",
                "Passes per controller and result.",
                &["controller", "result"],
            )?,
            reconcile_errors: counter("controller_runtime_reconcile_errors_total", "Passes that failed.", &controller)?,
            terminal_errors: counter(
                "controller_runtime_terminal_reconcile_errors_total",
                "Passes that failed and are not retried before a change.",
                &controller,
            )?,
            panics: counter("controller_runtime_reconcile_panics_total", "Passes that panicked.", &controller)?,
            reconcile_seconds: histogram(
                "controller_runtime_reconcile_time_seconds",
                "Time that a pass took.",
                &controller,
                &RECONCILE_SECONDS,
            )?,
            max_concurrent: gauge(
                "controller_runtime_max_concurrent_reconciles",
                "Passes that may run at the same time.",
                &controller,
            )?,
            active_workers: gauge("controller_runtime_active_workers", "Passes that run now.", &controller)?,
            queue_depth: gauge("workqueue_depth", "Objects that wait for a pass.", &queue)?,
            queue_adds: counter("workqueue_adds_total", "Objects that were queued for a pass.", &queue)?,
            queue_retries: counter("workqueue_retries_total", "Objects that were queued after a failure.", &queue)?,
            queue_wait: histogram(
                "workqueue_queue_duration_seconds",
                "Time that an object waited for its pass.",
                &queue,
                &QUEUE_SECONDS,
            )?,
            queue_work: histogram(
                "workqueue_work_duration_seconds",
                "Time that the pass of an object took.",
                &queue,
                &QUEUE_SECONDS,
            )?,
            unfinished: seconds(
                "workqueue_unfinished_work_seconds",
                "Time that the running passes have taken so far, summed up.",
                &queue,
            )?,
            longest: seconds(
                "workqueue_longest_running_processor_seconds",
                "Time that the longest running pass has taken so far.",
                &queue,
            )?,
            requests: counter(
                "rest_client_requests_total",
                "Requests to the API server per status code, method and host.",
                &["code", "method", "host"],
            )?,
            leader: gauge("leader_election_master_status", "Whether this process holds the lease: 1 or 0.", &["name"])?,
        })
    }

    /// Returns the families of one controller, with every series present from the start.
    pub fn controller(&self, name: &str, max_concurrent: usize) -> ControllerMetrics {
        let (controller, queue) = ([name], [name, name]);
        self.max_concurrent.with_label_values(&controller).set(i64::try_from(max_concurrent).unwrap_or(i64::MAX));
        let outcome = |outcome: Outcome| self.reconcile_total.with_label_values(&[name, outcome.into()]);
        ControllerMetrics {
            success: outcome(Outcome::Success),
            requeue: outcome(Outcome::Requeue),
            requeue_after: outcome(Outcome::RequeueAfter),
            error: outcome(Outcome::Error),
            errors: self.reconcile_errors.with_label_values(&controller),
            terminal_errors: self.terminal_errors.with_label_values(&controller),
            panics: self.panics.with_label_values(&controller),
            seconds: self.reconcile_seconds.with_label_values(&controller),
            active_workers: self.active_workers.with_label_values(&controller),
            depth: self.queue_depth.with_label_values(&queue),
            adds: self.queue_adds.with_label_values(&queue),
            retries: self.queue_retries.with_label_values(&queue),
            wait: self.queue_wait.with_label_values(&queue),
            work: self.queue_work.with_label_values(&queue),
            unfinished: self.unfinished.with_label_values(&queue),
            longest: self.longest.with_label_values(&queue),
        }
    }

    /// Counts a request to the API server; `code` is the HTTP status, none when there was no answer.
    pub fn request(&self, code: Option<u16>, method: &str, host: &str) {
        let code = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        self.requests.with_label_values(&[&code, method, host]).inc();
    }

    /// Shows whether this process holds a lease.
    pub fn leader(&self, lease: &str, held: bool) {
        self.leader.with_label_values(&[lease]).set(held.into());
    }
}

/// The families of one controller.
#[derive(Clone, Debug)]
pub struct ControllerMetrics {
    success: IntCounter,
    requeue: IntCounter,
    requeue_after: IntCounter,
    error: IntCounter,
    errors: IntCounter,
    /// Failed passes that are not retried before a change.
    pub terminal_errors: IntCounter,
    /// Passes that panicked.
    pub panics: IntCounter,
    seconds: Histogram,
    /// Passes that run now.
    pub active_workers: IntGauge,
    /// Objects that wait for a pass.
    pub depth: IntGauge,
    /// Objects that were queued.
    pub adds: IntCounter,
    /// Objects that were queued after a failure.
    pub retries: IntCounter,
    /// Time that objects waited.
    pub wait: Histogram,
    work: Histogram,
    /// Time that the running passes have taken so far.
    pub unfinished: Gauge,
    /// Time that the longest running pass has taken so far.
    pub longest: Gauge,
}

impl ControllerMetrics {
    /// Records the end of a pass.
    pub fn finished(&self, outcome: Outcome, seconds: f64) {
        match outcome {
            Outcome::Error => {
                self.errors.inc();
                self.error.inc();
            }
            Outcome::RequeueAfter => self.requeue_after.inc(),
            Outcome::Requeue => self.requeue.inc(),
            Outcome::Success => self.success.inc(),
        }
        self.seconds.observe(seconds);
        self.work.observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> (Metrics, FrameworkMetrics) {
        let metrics = Metrics::new(Build { version: "1.2.3", revision: "abc" }).unwrap();
        let framework = FrameworkMetrics::new(&metrics).unwrap();
        (metrics, framework)
    }

    #[test]
    fn every_series_of_a_controller_exists_before_its_first_pass() {
        let (metrics, framework) = metrics();
        let _controller = framework.controller("shard", 20);
        let text = metrics.text().unwrap();
        for series in [
            r#"controller_runtime_reconcile_total{controller="shard",result="error"} 0"#,
            r#"controller_runtime_reconcile_total{controller="shard",result="requeue"} 0"#,
            r#"controller_runtime_reconcile_total{controller="shard",result="requeue_after"} 0"#,
            r#"controller_runtime_reconcile_total{controller="shard",result="success"} 0"#,
            r#"controller_runtime_reconcile_errors_total{controller="shard"} 0"#,
            r#"controller_runtime_terminal_reconcile_errors_total{controller="shard"} 0"#,
            r#"controller_runtime_reconcile_panics_total{controller="shard"} 0"#,
            r#"controller_runtime_reconcile_time_seconds_bucket{controller="shard",le="60"} 0"#,
            r#"controller_runtime_max_concurrent_reconciles{controller="shard"} 20"#,
            r#"controller_runtime_active_workers{controller="shard"} 0"#,
            r#"workqueue_depth{controller="shard",name="shard"} 0"#,
            r#"workqueue_queue_duration_seconds_count{controller="shard",name="shard"} 0"#,
            r#"multigres_operator_build_info{revision="abc",version="1.2.3"} 1"#,
        ] {
            assert!(text.contains(series), "{series}\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes "));
    }

    #[test]
    fn failed_pass_counts_as_a_result_and_as_an_error() {
        let (metrics, framework) = metrics();
        let controller = framework.controller("cell", 1);
        controller.finished(Outcome::Error, 0.3);
        controller.finished(Outcome::RequeueAfter, 0.1);
        let text = metrics.text().unwrap();
        assert!(text.contains(r#"controller_runtime_reconcile_total{controller="cell",result="error"} 1"#));
        assert!(text.contains(r#"controller_runtime_reconcile_total{controller="cell",result="requeue_after"} 1"#));
        assert!(text.contains(r#"controller_runtime_reconcile_errors_total{controller="cell"} 1"#));
        assert!(text.contains(r#"controller_runtime_reconcile_time_seconds_count{controller="cell"} 2"#));
    }

    #[test]
    fn requests_and_leadership_are_shown() {
        let (metrics, framework) = metrics();
        framework.request(Some(200), "GET", "10.0.0.1:443");
        framework.request(None, "PATCH", "10.0.0.1:443");
        framework.leader("multigres-operator.multigres.com", true);
        let text = metrics.text().unwrap();
        assert!(text.contains(r#"rest_client_requests_total{code="200",host="10.0.0.1:443",method="GET"} 1"#));
        assert!(text.contains(r#"rest_client_requests_total{code="<error>",host="10.0.0.1:443",method="PATCH"} 1"#));
        assert!(text.contains(r#"leader_election_master_status{name="multigres-operator.multigres.com"} 1"#));
    }

    #[test]
    fn what_is_registered_is_in_the_list() {
        let (metrics, _framework) = metrics();
        let registered = metrics.registered();
        assert!(registered.len() > 15);
        for family in registered {
            assert!(family.is_listed(), "{family:?}");
        }
        for family in metrics.registry().gather() {
            assert!(families::find(family.name()).is_some(), "{}", family.name());
        }
    }

    #[test]
    fn buckets_are_those_of_the_list() {
        let (metrics, framework) = metrics();
        let _controller = framework.controller("shard", 1);
        let text = metrics.text().unwrap();
        for family in families::ALL.iter().filter(|family| text.contains(&format!("{}_bucket", family.name))) {
            let bounds = text.lines().filter(|line| line.starts_with(&format!("{}_bucket", family.name))).count();
            assert_eq!(bounds, family.buckets.len() + 1, "{}", family.name);
        }
    }

    #[test]
    fn a_source_is_asked_while_somebody_holds_it() {
        #[derive(Debug)]
        struct Cells;
        impl Source for Cells {
            fn write(&self, text: &mut Text) {
                text.family("multigres_operator_cluster_cells").add(&["minimal", "prod"], 1.0);
            }
        }
        let (metrics, _framework) = metrics();
        let source: Arc<dyn Source> = Arc::new(Cells);
        metrics.attach(&source);
        assert!(metrics.text().unwrap().contains("multigres_operator_cluster_cells{"));
        drop(source);
        assert!(!metrics.text().unwrap().contains("multigres_operator_cluster_cells{"));
    }

    #[tokio::test]
    async fn a_runtime_is_shown_where_one_is_named() {
        let (metrics, _framework) = metrics();
        assert!(!metrics.text().unwrap().contains("tokio_"));
        let text = metrics.of_runtime(&Handle::current()).text().unwrap();
        for name in
            ["tokio_workers 1", "tokio_alive_tasks ", "tokio_global_queue_depth ", "tokio_workers_busy_seconds_total "]
        {
            assert!(text.lines().any(|line| line.starts_with(name)), "no {name} in\n{text}");
        }
    }

    #[test]
    fn a_kind_is_shown_before_its_watch_fails() {
        let (metrics, _framework) = metrics();
        let watches = Watches::new(&metrics).unwrap();
        let pods = watches.of("Pod");
        assert!(metrics.text().unwrap().contains(r#"multigres_operator_watch_restarts_total{kind="Pod"} 0"#));
        pods.inc();
        watches.of("Pod").inc();
        assert!(metrics.text().unwrap().contains(r#"multigres_operator_watch_restarts_total{kind="Pod"} 2"#));
    }

    #[test]
    fn a_family_is_registered_once() {
        let (metrics, _framework) = metrics();
        assert!(FrameworkMetrics::new(&metrics).is_err());
    }
}
