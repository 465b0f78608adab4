//! The metric families of the webhook: reviews, and the certificates that they are served with.
//!
//! A refusal that a user caused is `denied`; `error` is kept for what is wrong with us or with the question, so that an
//! alert on it means something. Dry runs have a family of their own: diff tools send them by the hundred.

use std::time::Instant;

use jiff::Timestamp;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};
use shared::{
    metrics::{
        Error, Metrics, Watches,
        families::{LATENCY_SECONDS, REQUEST_SECONDS},
    },
    pki::rotation::Target,
};
use strum::{EnumCount as _, IntoEnumIterator as _};

use crate::review::{Denial, Endpoint};

/// HTTP status of a request that got a review.
const OK: u16 = 200;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumIter, strum::EnumCount)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// Allowed; `success` is the word of the Go operator, whose dashboards count it.
    #[strum(serialize = "success")]
    Allowed,
    /// Refused for what it asks.
    Denied,
    /// Not judged, or not for certain.
    Error,
}

/// Why a request could not be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumIter, strum::EnumCount)]
#[strum(serialize_all = "snake_case")]
pub enum Failure {
    /// The body is no review that we can read.
    Malformed,
    /// The body is too large.
    TooLarge,
    /// Too many requests at once.
    Overload,
    /// It took too long.
    Deadline,
    /// The judgement panicked.
    Panic,
    /// The judgement reported a failure of its own.
    Internal,
    /// The caller hung up before the answer.
    Abandoned,
}

/// The families of reviews.
#[derive(Clone, Debug)]
pub struct Reviews {
    endpoints: Vec<OfEndpoint>,
}

#[derive(Clone, Debug)]
struct OfEndpoint {
    stored: [IntCounter; Outcome::COUNT],
    dry: [IntCounter; Outcome::COUNT],
    failures: [IntCounter; Failure::COUNT],
    denials: IntCounterVec,
    endpoint: Endpoint,
    seconds: Histogram,
    latency: Histogram,
    ok: IntCounter,
    codes: IntCounterVec,
    in_flight: IntGauge,
    panics: IntCounter,
}

impl Reviews {
    /// Registers the families, with every series present from the start.
    pub fn new(metrics: &Metrics) -> Result<Self, Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            metrics.register(IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            metrics.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
        };
        let stored = counter(
            "multigres_operator_webhook_request_total",
            "Admission requests, dry runs excepted, by result: success, denied or error.",
            &["operation", "resource", "result"],
        )?;
        let dry = counter(
            "multigres_operator_webhook_dry_run_total",
            "Admission requests whose object will not be stored, by result: success, denied or error.",
            &["operation", "resource", "result"],
        )?;
        let failures = counter(
            "multigres_operator_webhook_failures_total",
            "Admission requests that could not be judged, dry runs included, by reason.",
            &["operation", "resource", "reason"],
        )?;
        let denials = counter(
            "multigres_operator_webhook_denials_total",
            "Refused admission requests, dry runs excepted, by the kind of rule that was broken; each counts once for each kind.",
            &["operation", "resource", "rule"],
        )?;
        let seconds = histogram(
            "multigres_operator_webhook_request_duration_seconds",
            "Time from the head of an admission request to its answer.",
            &["operation", "resource"],
            &REQUEST_SECONDS,
        )?;
        let latency = histogram(
            "controller_runtime_webhook_latency_seconds",
            "Time from the head of an admission request to its answer.",
            &["webhook"],
            &LATENCY_SECONDS,
        )?;
        let codes = counter(
            "controller_runtime_webhook_requests_total",
            "Admission requests by path and HTTP status.",
            &["webhook", "code"],
        )?;
        let in_flight = metrics.register(IntGaugeVec::new(
            Opts::new("controller_runtime_webhook_requests_in_flight", "Admission requests that are being answered."),
            &["webhook"],
        )?)?;
        let panics = counter(
            "controller_runtime_webhook_panics_total",
            "Admission requests whose judgement panicked.",
            &["webhook"],
        )?;
        let endpoints = Endpoint::iter()
            .map(|endpoint| {
                codes.with_label_values(&[endpoint.path(), "500"]);
                let labels = [endpoint.operation(), endpoint.kind()];
                let with = |family: &IntCounterVec, last: &str| family.with_label_values(&[labels[0], labels[1], last]);
                let results = |family: &IntCounterVec| {
                    [Outcome::Allowed, Outcome::Denied, Outcome::Error].map(|result| with(family, result.into()))
                };
                let mut reasons = Failure::iter();
                for rule in Denial::RULES {
                    with(&denials, rule);
                }
                OfEndpoint {
                    stored: results(&stored),
                    dry: results(&dry),
                    failures: std::array::from_fn(|_| with(&failures, reasons.next().map_or("", <&'static str>::from))),
                    denials: denials.clone(),
                    endpoint,
                    seconds: seconds.with_label_values(&labels),
                    latency: latency.with_label_values(&[endpoint.path()]),
                    ok: codes.with_label_values(&[endpoint.path(), "200"]),
                    codes: codes.clone(),
                    in_flight: in_flight.with_label_values(&[endpoint.path()]),
                    panics: panics.with_label_values(&[endpoint.path()]),
                }
            })
            .collect();
        Ok(Self { endpoints })
    }

    /// Starts to watch a request.
    pub fn start(&self, endpoint: Endpoint) -> Observation<'_> {
        let families = &self.endpoints[endpoint as usize];
        families.in_flight.inc();
        Observation {
            families,
            started: Instant::now(),
            counted: true,
            dry_run: false,
            code: None,
            end: (Outcome::Error, Some(Failure::Abandoned)),
            rules: Vec::new(),
        }
    }
}

/// A request that is being answered; what became of it is counted when this goes away, however that happens.
#[derive(Debug)]
pub struct Observation<'a> {
    families: &'a OfEndpoint,
    started: Instant,
    counted: bool,
    dry_run: bool,
    code: Option<u16>,
    end: (Outcome, Option<Failure>),
    rules: Vec<&'static str>,
}

impl Observation<'_> {
    /// When the request began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Says that nothing will be stored.
    pub fn set_dry_run(&mut self, dry_run: bool) {
        self.dry_run = dry_run;
    }

    /// Says that the request is our own and counts for nothing.
    pub fn forget(&mut self) {
        self.counted = false;
    }

    /// Says that the request was answered with a review.
    pub fn judged(&mut self, outcome: Outcome) {
        self.code = Some(OK);
        self.end = (outcome, None);
    }

    /// Says that the request was refused, and for what.
    pub fn denied(&mut self, denial: &Denial) {
        self.judged(Outcome::Denied);
        self.rules = denial.rules();
    }

    /// Says that the request could not be judged, and with which HTTP status it was answered: 200 when it still got a
    /// review.
    pub fn failed(&mut self, failure: Failure, code: u16) {
        self.code = Some(code);
        self.end = (Outcome::Error, Some(failure));
    }
}

impl Drop for Observation<'_> {
    fn drop(&mut self) {
        let families = self.families;
        families.in_flight.dec();
        if !self.counted {
            return;
        }
        let (outcome, failure) = self.end;
        let results = if self.dry_run { &families.dry } else { &families.stored };
        results[outcome as usize].inc();
        if !self.dry_run {
            let labels = [families.endpoint.operation(), families.endpoint.kind()];
            for &rule in &self.rules {
                families.denials.with_label_values(&[labels[0], labels[1], rule]).inc();
            }
        }
        if let Some(failure) = failure {
            families.failures[failure as usize].inc();
            if failure == Failure::Panic {
                families.panics.inc();
            }
        }
        match self.code {
            Some(OK) => families.ok.inc(),
            Some(code) => families.codes.with_label_values(&[families.endpoint.path(), &code.to_string()]).inc(),
            None => {}
        }
        let seconds = self.started.elapsed().as_secs_f64();
        families.seconds.observe(seconds);
        families.latency.observe(seconds);
    }
}

/// Which certificate is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum Kind {
    /// The newest authority.
    Authority,
    /// The leaf that is served.
    Leaf,
}

/// The families of certificates.
#[derive(Clone, Debug)]
pub struct Certificates {
    expiry: GaugeVec,
    rotations: IntCounterVec,
    failures: IntCounter,
    repairs: IntCounter,
    in_sync: IntGaugeVec,
    reads: IntCounter,
    read_errors: IntCounter,
    /// Watches of the objects that certificates are kept in.
    pub watches: Watches,
}

impl Certificates {
    /// Registers the families; those of watches are registered already.
    pub fn new(metrics: &Metrics, watches: Watches) -> Result<Self, Error> {
        let counter = |name: &str, help: &str| metrics.register(IntCounter::with_opts(Opts::new(name, help))?);
        let rotations = metrics.register(IntCounterVec::new(
            Opts::new("multigres_operator_webhook_certificate_rotations_total", "Certificates made by this process."),
            &["certificate"],
        )?)?;
        for kind in Kind::iter() {
            rotations.with_label_values(&[<&str>::from(kind)]);
        }
        Ok(Self {
            expiry: metrics.register(GaugeVec::new(
                Opts::new(
                    "multigres_operator_webhook_certificate_expiry_timestamp_seconds",
                    "Unix time at which a certificate of the webhook ends.",
                ),
                &["certificate"],
            )?)?,
            rotations,
            failures: counter(
                "multigres_operator_webhook_certificate_failures_total",
                "Rounds of the certificate's keeper that failed and will be tried again.",
            )?,
            repairs: counter(
                "multigres_operator_webhook_bundle_writes_total",
                "Writes of the bundle of authorities into webhook configurations.",
            )?,
            in_sync: metrics.register(IntGaugeVec::new(
                Opts::new(
                    "multigres_operator_ca_bundle_in_sync",
                    "Whether every bundle of a webhook configuration accepts the certificate that this replica serves: 1 or 0.",
                ),
                &["configuration"],
            )?)?,
            reads: counter("certwatcher_read_certificate_total", "Serving certificates that were taken up.")?,
            read_errors: counter(
                "certwatcher_read_certificate_errors_total",
                "Serving certificates that could not be taken up.",
            )?,
            watches,
        })
    }

    /// Shows when a certificate ends.
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a float exactly")]
    pub fn expires(&self, kind: Kind, at: Timestamp) {
        self.expiry.with_label_values(&[<&str>::from(kind)]).set(at.as_second() as f64);
    }

    /// Counts a certificate that this process made.
    pub fn rotated(&self, kind: Kind) {
        self.rotations.with_label_values(&[<&str>::from(kind)]).inc();
    }

    /// Counts a round that failed.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// Counts a write of the bundle into a webhook configuration.
    pub fn bundle_written(&self) {
        self.repairs.inc();
    }

    /// Shows whether a configuration accepts what this replica serves; nothing where there is no such configuration.
    pub fn in_sync(&self, target: Target, accepts: Option<bool>) {
        let label = match target {
            Target::Mutating => "mutating",
            Target::Validating => "validating",
        };
        match accepts {
            Some(accepts) => self.in_sync.with_label_values(&[label]).set(accepts.into()),
            // There may have been no series.
            None => drop(self.in_sync.remove_label_values(&[label])),
        }
    }

    /// Counts an attempt to take up a serving certificate.
    pub fn read(&self, worked: bool) {
        if worked { &self.reads } else { &self.read_errors }.inc();
    }
}

#[cfg(test)]
mod tests {
    use shared::metrics::{
        Build, FrameworkMetrics,
        families::{self, Program},
    };

    use super::*;
    use crate::review::Cause;

    fn metrics() -> (Metrics, Reviews) {
        let metrics = Metrics::new(Build { version: "1", revision: "a" }).unwrap();
        let reviews = Reviews::new(&metrics).unwrap();
        (metrics, reviews)
    }

    #[test]
    fn every_series_exists_before_the_first_request() {
        let text = metrics().0.text().unwrap();
        for series in [
            r#"multigres_operator_webhook_request_total{operation="DEFAULT",resource="MultigresCluster",result="success"} 0"#,
            r#"multigres_operator_webhook_request_total{operation="VALIDATE",resource="TopoServer",result="error"} 0"#,
            r#"multigres_operator_webhook_dry_run_total{operation="VALIDATE",resource="Cell",result="denied"} 0"#,
            r#"multigres_operator_webhook_failures_total{operation="VALIDATE",reason="overload",resource="Shard"} 0"#,
            r#"multigres_operator_webhook_request_duration_seconds_count{operation="DEFAULT",resource="MultigresCluster"} 0"#,
            r#"controller_runtime_webhook_requests_in_flight{webhook="/validate-multigres-com-v1alpha1-cell"} 0"#,
        ] {
            assert!(text.contains(series), "{series}\n{text}");
        }
    }

    #[tokio::test]
    async fn every_family_of_admission_is_listed_and_every_listed_one_exists() {
        let (metrics, _reviews) = metrics();
        let _certificates = Certificates::new(&metrics, Watches::new(&metrics).unwrap()).unwrap();
        let _framework = FrameworkMetrics::new(&metrics).unwrap();
        let metrics = metrics.of_runtime(&tokio::runtime::Handle::current());
        let registered = metrics.registered();
        for family in &registered {
            assert!(family.is_listed(), "{family:?}");
        }
        let text = metrics.text().unwrap();
        for family in families::ALL.iter().filter(|family| family.program != Program::Controller) {
            let there = registered.iter().any(|known| known.name() == family.name);
            assert!(there || text.contains(&format!("# TYPE {} ", family.name)), "nothing shows {}", family.name);
        }
    }

    #[tokio::test]
    async fn a_ready_replica_shows_what_every_one_should() {
        let (metrics, _reviews) = metrics();
        let _certificates = Certificates::new(&metrics, Watches::new(&metrics).unwrap()).unwrap();
        // It has read what its stores hold.
        FrameworkMetrics::new(&metrics).unwrap().request(Some(200), "GET", "here");
        let text = metrics.of_runtime(&tokio::runtime::Handle::current()).text().unwrap();
        for name in families::of_ready(Program::Admission) {
            assert!(text.contains(&format!("# TYPE {name} ")), "nothing shows {name}");
        }
        let shown = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        for family in shown.filter_map(families::find) {
            assert_ne!(family.program, Program::Controller, "{}", family.name);
        }
    }

    #[test]
    fn request_is_in_flight_until_it_is_counted() {
        let (metrics, reviews) = metrics();
        let in_flight = r#"in_flight{webhook="/validate-multigres-com-v1alpha1-shard"}"#;
        let mut request = reviews.start(Endpoint::ValidateShard);
        assert!(metrics.text().unwrap().contains(&format!("{in_flight} 1")));
        request.judged(Outcome::Denied);
        drop(request);
        let text = metrics.text().unwrap();
        assert!(text.contains(&format!("{in_flight} 0")));
        assert!(text.contains(r#"webhook_request_total{operation="VALIDATE",resource="Shard",result="denied"} 1"#));
        assert!(text.contains(r#"duration_seconds_count{operation="VALIDATE",resource="Shard"} 1"#));
    }

    #[test]
    fn what_nobody_finished_is_an_abandoned_request() {
        let (metrics, reviews) = metrics();
        drop(reviews.start(Endpoint::MutateCluster));
        let text = metrics.text().unwrap();
        assert!(text.contains(
            r#"webhook_failures_total{operation="DEFAULT",reason="abandoned",resource="MultigresCluster"} 1"#
        ));
    }

    #[test]
    fn a_refusal_counts_once_for_each_kind_of_rule() {
        let (metrics, reviews) = metrics();
        let cause = |reason| Cause { reason, field: "spec".to_owned(), message: "is wrong".to_owned() };
        let mut denial = Denial::forbidden("three faults");
        denial.causes = vec![cause("FieldValueInvalid"), cause("FieldValueInvalid"), cause("FieldValueRequired")];
        for dry_run in [false, true] {
            let mut request = reviews.start(Endpoint::ValidateCluster);
            request.set_dry_run(dry_run);
            request.denied(&denial);
        }
        reviews.start(Endpoint::ValidateShard).denied(&Denial::forbidden("not by you"));
        let text = metrics.text().unwrap();
        let series = |resource: &str, rule: &str| {
            format!(
                r#"multigres_operator_webhook_denials_total{{operation="VALIDATE",resource="{resource}",rule="{rule}"}}"#
            )
        };
        for (resource, rule, count) in [
            ("MultigresCluster", "FieldValueInvalid", 1),
            ("MultigresCluster", "FieldValueRequired", 1),
            ("MultigresCluster", "FieldValueDuplicate", 0),
            ("MultigresCluster", "Forbidden", 0),
            ("Shard", "Forbidden", 1),
        ] {
            assert!(text.contains(&format!("{} {count}\n", series(resource, rule))), "{resource} {rule}\n{text}");
        }
    }

    #[test]
    fn a_configuration_that_is_gone_is_shown_no_more() {
        let (metrics, _reviews) = metrics();
        let certificates = Certificates::new(&metrics, Watches::new(&metrics).unwrap()).unwrap();
        certificates.in_sync(Target::Mutating, None);
        certificates.in_sync(Target::Mutating, Some(false));
        certificates.in_sync(Target::Validating, Some(true));
        let series = |metrics: &Metrics| {
            let text = metrics.text().unwrap();
            let of = |line: &&str| line.starts_with("multigres_operator_ca_bundle_in_sync{");
            text.lines().filter(of).map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let validating = r#"multigres_operator_ca_bundle_in_sync{configuration="validating"} 1"#.to_owned();
        let mutating = r#"multigres_operator_ca_bundle_in_sync{configuration="mutating"} 0"#.to_owned();
        assert_eq!(series(&metrics), [mutating, validating.clone()]);
        certificates.in_sync(Target::Mutating, None);
        assert_eq!(series(&metrics), [validating]);
    }

    #[test]
    fn failed_dry_run_raises_no_alert() {
        let (metrics, reviews) = metrics();
        let mut request = reviews.start(Endpoint::ValidateCluster);
        request.set_dry_run(true);
        request.failed(Failure::Panic, OK);
        drop(request);
        let text = metrics.text().unwrap();
        let of =
            |family: &str| format!(r#"{family}{{operation="VALIDATE",resource="MultigresCluster",result="error"}}"#);
        assert!(text.contains(&format!("{} 0", of("webhook_request_total"))));
        assert!(text.contains(&format!("{} 1", of("webhook_dry_run_total"))));
    }

    #[test]
    fn end_of_a_certificate_is_shown_in_unix_time() {
        let (metrics, _reviews) = metrics();
        let certificates = Certificates::new(&metrics, Watches::new(&metrics).unwrap()).unwrap();
        certificates.expires(Kind::Leaf, "2027-06-01T00:00:00Z".parse().unwrap());
        certificates.rotated(Kind::Authority);
        certificates.read(false);
        let text = metrics.text().unwrap();
        assert!(
            text.contains(
                r#"multigres_operator_webhook_certificate_expiry_timestamp_seconds{certificate="leaf"} 1811808000"#
            ),
            "{text}"
        );
        assert!(text.contains(r#"certificate_rotations_total{certificate="authority"} 1"#));
        assert!(text.contains("certwatcher_read_certificate_errors_total 1"));
    }
}
