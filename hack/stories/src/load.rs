//! A steady stream of writes through the API server, none of which is stored, and the count of those that were judged wrongly.
//!
//! Requests start on a clock of their own and do not wait for each other, as those of many users do: a webhook that stops
//! answering cannot hide behind one waiting client.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use kube::Client;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, Semaphore},
    task::{JoinHandle, JoinSet},
    time::{Interval, MissedTickBehavior},
};

/// Longest time that a client waits; more than twice what the API server gives a webhook.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests under way at the same time. A machine that is too slow for the rate gets fewer requests, not a queue that grows until
/// they time out; the report tells the rate.
const MOST_AT_ONCE: usize = 100;
/// Wrong verdicts that a report quotes.
const QUOTED: usize = 5;

/// What the right answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The API server accepts it.
    Accepted,
    /// Admission refuses it.
    Refused,
}

/// One kind of request, sent again and again.
#[derive(Clone, Debug)]
pub struct Case {
    /// For reports.
    pub title: &'static str,
    /// The right answer.
    pub expected: Expected,
    method: http::Method,
    path: String,
    content_type: &'static str,
    body: Value,
}

impl Case {
    /// Creates an object under a name of its own each time.
    pub fn create(
        title: &'static str,
        expected: Expected,
        namespace: &str,
        plural: &str,
        kind: &str,
        spec: &Value,
    ) -> Self {
        let body = json!({
            "apiVersion": "multigres.com/v1alpha1", "kind": kind,
            "metadata": {"generateName": "load-"}, "spec": spec,
        });
        let path = format!("/apis/multigres.com/v1alpha1/namespaces/{namespace}/{plural}?dryRun=All");
        Self { title, expected, method: http::Method::POST, path, content_type: "application/json", body }
    }

    /// Changes a stored object by a merge patch.
    pub fn update(
        title: &'static str,
        expected: Expected,
        namespace: &str,
        plural: &str,
        name: &str,
        patch: Value,
    ) -> Self {
        Self {
            title,
            expected,
            method: http::Method::PATCH,
            path: format!("/apis/multigres.com/v1alpha1/namespaces/{namespace}/{plural}/{name}?dryRun=All"),
            content_type: "application/merge-patch+json",
            body: patch,
        }
    }

    /// Sends the request once and judges the answer.
    pub async fn send(&self, client: &Client) -> Outcome {
        let request = http::Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .header(http::header::CONTENT_TYPE, self.content_type)
            .body(self.body.to_string().into_bytes());
        let answer = match request {
            Ok(request) => tokio::time::timeout(PATIENCE, client.request_text(request)).await,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        match answer {
            Ok(answer) => judge(self.expected, answer.map(drop)),
            Err(_) => Outcome::Failed(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The right answer.
    Right,
    /// Accepted, although it had to be refused.
    WronglyAccepted,
    /// Refused by a judgement, although it had to be accepted.
    WronglyRefused(String),
    /// No judgement: an error, or silence.
    Failed(String),
}

fn judge(expected: Expected, answer: kube::Result<()>) -> Outcome {
    match (expected, answer) {
        (Expected::Accepted, Ok(())) => Outcome::Right,
        (Expected::Refused, Ok(())) => Outcome::WronglyAccepted,
        (_, Err(kube::Error::Api(status))) if is_judgement(&status.message, status.code) => match expected {
            Expected::Accepted => Outcome::WronglyRefused(status.message.clone()),
            Expected::Refused => Outcome::Right,
        },
        (_, Err(kube::Error::Api(status))) => Outcome::Failed(format!("{}: {}", status.code, status.message)),
        (_, Err(error)) => Outcome::Failed(error.to_string()),
    }
}

/// Whether a webhook or an admission policy of ours has spoken. The schema's word does not count: it needs no webhook.
fn is_judgement(message: &str, code: u16) -> bool {
    let spoken = (message.contains("admission webhook") && message.contains("denied the request"))
        || message.contains("ValidatingAdmissionPolicy");
    spoken && (400..500).contains(&code) && code != 408 && code != 429
}

/// What a load has seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests that were answered or given up.
    pub sent: u64,
    /// Time from the first request to the last answer.
    pub elapsed: Duration,
    /// Valid requests that were refused.
    pub wrongly_refused: u64,
    /// Invalid requests that were accepted.
    pub wrongly_accepted: u64,
    /// Requests without a judgement.
    pub failed: u64,
    /// Answer times, sorted.
    latencies: Vec<Duration>,
    /// The first wrong ones, with the time since the start.
    quotes: Vec<String>,
    /// Slowest answer and wrong answers by title.
    by_title: BTreeMap<&'static str, (Duration, u64)>,
}

impl Report {
    fn record(&mut self, case: &Case, outcome: Outcome, since_start: Duration, took: Duration) {
        self.sent += 1;
        self.latencies.push(took);
        let of_title = self.by_title.entry(case.title).or_default();
        of_title.0 = of_title.0.max(took);
        of_title.1 += u64::from(outcome != Outcome::Right);
        let wrong = match outcome {
            Outcome::Right => return,
            Outcome::WronglyAccepted => {
                self.wrongly_accepted += 1;
                "accepted".to_owned()
            }
            Outcome::WronglyRefused(message) => {
                self.wrongly_refused += 1;
                format!("refused: {message}")
            }
            Outcome::Failed(message) => {
                self.failed += 1;
                format!("failed: {message}")
            }
        };
        if self.quotes.len() < QUOTED {
            self.quotes.push(format!("after {:.1} s: {}: {wrong}", since_start.as_secs_f64(), case.title));
        }
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
        let sent = self.sent as f64;
        sent / self.elapsed.as_secs_f64().max(0.001)
    }

    fn percentile(&self, percent: usize) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(last * percent / 100).copied().unwrap_or_default()
    }

    /// Fails unless every request was judged, and judged rightly.
    pub fn check(&self) -> Result<()> {
        ensure!(self.wrongly_refused + self.wrongly_accepted + self.failed == 0, "{self}");
        Ok(())
    }

    /// Fails where there were fewer requests per second: a lighter load than the one that is promised shows less.
    pub fn check_rate(&self, least: f64) -> Result<()> {
        ensure!(self.rate() >= least, "fewer than {least:.0} requests per second: {self}");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests at {:.0}/s: {} valid refused, {} invalid accepted, {} failed; p50 {:.1} ms, p99 {:.1} ms, slowest {:.0} ms",
            self.sent,
            self.rate(),
            self.wrongly_refused,
            self.wrongly_accepted,
            self.failed,
            self.percentile(50).as_secs_f64() * 1e3,
            self.percentile(99).as_secs_f64() * 1e3,
            self.percentile(100).as_secs_f64() * 1e3,
        )?;
        if self.quotes.is_empty() {
            return Ok(());
        }
        for (title, (slowest, wrong)) in &self.by_title {
            write!(f, "\n  {title}: {wrong} wrong, slowest {:.0} ms", slowest.as_secs_f64() * 1e3)?;
        }
        for quote in &self.quotes {
            write!(f, "\n  {quote}")?;
        }
        Ok(())
    }
}

/// A load that is running.
pub struct Load {
    sent: Arc<AtomicU64>,
    stop: Arc<Notify>,
    task: JoinHandle<Report>,
}

impl Load {
    /// Starts `rate` requests per second, going round the cases. `late` says what becomes of those that were due while the machine was
    /// busy with something else.
    pub fn start(client: &Client, cases: Vec<Case>, rate: u32, late: MissedTickBehavior) -> Result<Self> {
        ensure!(!cases.is_empty() && rate > 0, "a load needs cases and a rate");
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let mut clock = tokio::time::interval(Duration::from_secs(1) / rate);
        clock.set_missed_tick_behavior(late);
        let task = tokio::spawn(run(client.clone(), cases, clock, sent.clone(), stop.clone()));
        Ok(Self { sent, stop, task })
    }

    /// Requests that were answered so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many requests more were answered.
    pub async fn another(&self, count: u64, deadline: Duration) -> Result<()> {
        let wanted = self.sent() + count;
        crate::until(&format!("{count} more answers"), deadline, || async {
            let sent = self.sent();
            ensure!(sent >= wanted, "{sent} of {wanted}");
            Ok(())
        })
        .await
    }

    /// Sends nothing more, waits for the answers under way, and reports.
    pub async fn finish(self) -> Result<Report> {
        self.stop.notify_one();
        self.task.await.context("the load's task")
    }
}

async fn run(client: Client, cases: Vec<Case>, mut clock: Interval, sent: Arc<AtomicU64>, stop: Arc<Notify>) -> Report {
    let started = Instant::now();
    let report = Arc::new(Mutex::new(Report::default()));
    let slots = Arc::new(Semaphore::new(MOST_AT_ONCE));
    let mut under_way = JoinSet::new();
    for case in cases.iter().cycle() {
        tokio::select! {
            biased;
            () = stop.notified() => break,
            _ = clock.tick() => {}
        }
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let (client, case, report, sent) = (client.clone(), case.clone(), report.clone(), sent.clone());
        under_way.spawn(async move {
            let asked = Instant::now();
            let outcome = case.send(&client).await;
            let since_start = asked.duration_since(started);
            report.lock().unwrap_or_else(PoisonError::into_inner).record(&case, outcome, since_start, asked.elapsed());
            sent.fetch_add(1, Ordering::Relaxed);
            drop(slot);
        });
        // Ended tasks are taken out, or they would pile up.
        while under_way.join_next().now_or_never().flatten().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
    let mut report = std::mem::take(&mut *report.lock().unwrap_or_else(PoisonError::into_inner));
    report.elapsed = started.elapsed();
    report.latencies.sort_unstable();
    report
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16, message: &str) -> kube::Result<()> {
        Err(kube::Error::Api(Box::new(Status::failure(message, "Forbidden").with_code(code))))
    }

    #[test]
    fn only_the_word_of_admission_is_a_judgement() {
        let denied = r#"admission webhook "vmultigrescluster.kb.io" denied the request: spec.cells: no"#;
        assert_eq!(judge(Expected::Refused, refused(403, denied)), Outcome::Right);
        assert_eq!(judge(Expected::Accepted, refused(403, denied)), Outcome::WronglyRefused(denied.to_owned()));
        let unreachable = r#"Internal error occurred: failed calling webhook "vmultigrescluster.kb.io": EOF"#;
        assert!(matches!(judge(Expected::Refused, refused(500, unreachable)), Outcome::Failed(_)));
        let schema = r#"MultigresCluster "x" is invalid: spec.cells: Too many"#;
        assert!(matches!(judge(Expected::Refused, refused(422, schema)), Outcome::Failed(_)));
        let busy = r#"admission webhook "vmultigrescluster.kb.io" denied the request: busy"#;
        assert!(matches!(judge(Expected::Refused, refused(503, busy)), Outcome::Failed(_)));
    }

    #[test]
    fn what_had_to_be_refused_and_was_accepted_is_wrong() {
        assert_eq!(judge(Expected::Refused, Ok(())), Outcome::WronglyAccepted);
        assert_eq!(judge(Expected::Accepted, Ok(())), Outcome::Right);
    }

    #[test]
    fn a_report_with_one_wrong_answer_fails_and_quotes_it() {
        let case =
            Case::create("a good one", Expected::Accepted, "n", "multigresclusters", "MultigresCluster", &json!({}));
        let mut report = Report { elapsed: Duration::from_secs(1), ..Report::default() };
        report.record(&case, Outcome::Right, Duration::ZERO, Duration::from_millis(1));
        report.check().unwrap_or_else(|error| unreachable!("{error}"));
        report.record(&case, Outcome::Failed("EOF".into()), Duration::from_secs(2), Duration::from_millis(9));
        let message = report.check().map_or_else(|error| error.to_string(), |()| String::new());
        assert!(message.contains("1 failed") && message.contains("after 2.0 s: a good one: failed: EOF"), "{message}");
    }

    #[test]
    fn a_load_that_is_lighter_than_promised_fails_and_tells_its_rate() {
        let report = |sent| Report { sent, elapsed: Duration::from_secs(2), ..Report::default() };
        report(400).check_rate(200.0).unwrap_or_else(|error| unreachable!("{error}"));
        let message = report(398).check_rate(200.0).map_or_else(|error| error.to_string(), |()| String::new());
        assert!(message.starts_with("fewer than 200 requests per second: 398 requests at 199/s"), "{message}");
    }
}
