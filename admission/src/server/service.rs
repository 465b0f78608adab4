//! Answers one HTTP request: body, envelope, judgement within its limits, answer.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web::{self, Payload, ServiceConfig},
};
use futures::FutureExt as _;
use shared::telemetry;
use strum::IntoEnumIterator as _;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tracing::Instrument as _;

use super::{
    answer,
    body::Ration,
    envelope::{self, Body, Caller, VERSION},
};
use crate::{
    metrics::{Failure, Observation, Outcome, Reviews},
    review::{Answer, Denial, Endpoint, Request, Review},
};

/// Longest part of a refusal that is logged, in characters.
const LOGGED: usize = 1024;

/// How much is taken on at once, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest body, in bytes.
    pub body: usize,
    /// Most requests that are judged at once.
    pub in_flight: usize,
    /// Longest time to an answer; the caller's own timeout shortens it.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: 7 * 1024 * 1024, in_flight: 200, deadline: Duration::from_secs(8) }
    }
}

/// The routes and what stands behind them, free of sockets.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    review: Arc<dyn Review>,
    metrics: Reviews,
    ration: Ration,
    slots: Semaphore,
    deadline: Duration,
    draining: AtomicBool,
    own_uid: String,
}

impl Service {
    /// A service that answers by `review`.
    pub fn new(limits: Limits, review: Arc<dyn Review>, metrics: Reviews) -> Self {
        use std::hash::{BuildHasher as _, Hasher as _};
        // Nobody else can know it, so nobody else goes uncounted.
        let random = || std::hash::RandomState::new().build_hasher().finish();
        Self(Arc::new(Inner {
            review,
            metrics,
            ration: Ration::new(limits.body),
            slots: Semaphore::new(limits.in_flight),
            deadline: limits.deadline,
            draining: AtomicBool::new(false),
            own_uid: format!("self-test-{:016x}{:016x}", random(), random()),
        }))
    }

    /// Adds the routes.
    pub fn routes(&self, config: &mut ServiceConfig) {
        for endpoint in Endpoint::iter() {
            let service = self.clone();
            let answer = move |request: HttpRequest, payload: Payload| {
                let service = service.clone();
                async move { service.answer(endpoint, request, payload).await }
            };
            config.service(web::resource(endpoint.path()).route(web::post().to(answer)));
        }
    }

    /// From now on every answer asks its caller to connect anew, which leads to another replica.
    pub(super) fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// The uid of requests that we send ourselves; they are neither counted nor logged.
    pub(super) fn own_uid(&self) -> &str {
        &self.0.own_uid
    }

    async fn answer(&self, endpoint: Endpoint, request: HttpRequest, payload: Payload) -> HttpResponse {
        let inner = &*self.0;
        let mut observed = inner.metrics.start(endpoint);
        let deadline = Instant::from_std(observed.started()) + within(inner.deadline, request.query_string());
        let body = match timeout_at(deadline, inner.ration.take(&request, payload)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => {
                let (code, reason) = error.status();
                let failure =
                    if code == StatusCode::PAYLOAD_TOO_LARGE { Failure::TooLarge } else { Failure::Malformed };
                observed.failed(failure, code.as_u16());
                return self.unanswerable(endpoint, code, reason, &error.to_string());
            }
            Err(_) => {
                observed.failed(Failure::Deadline, StatusCode::REQUEST_TIMEOUT.as_u16());
                return self.unanswerable(
                    endpoint,
                    StatusCode::REQUEST_TIMEOUT,
                    "Timeout",
                    "the body did not arrive in time",
                );
            }
        };
        match envelope::read(endpoint, &body.bytes) {
            Body::Question(request) => self.judge(endpoint, *request, deadline, observed).await,
            Body::Refused(caller, denial) => {
                tracing::warn!(
                    path = endpoint.path(),
                    uid = caller.uid,
                    fault = short(&denial.message),
                    "refused what is no review for us"
                );
                observed.failed(Failure::Malformed, StatusCode::OK.as_u16());
                self.send(endpoint, &caller, "", &Answer { denial: Some(denial), ..Answer::default() })
            }
            Body::Unreadable(fault) => {
                observed.failed(Failure::Malformed, StatusCode::BAD_REQUEST.as_u16());
                self.unanswerable(endpoint, StatusCode::BAD_REQUEST, "BadRequest", &fault)
            }
        }
    }

    async fn judge(
        &self,
        endpoint: Endpoint,
        request: Request<'_>,
        deadline: Instant,
        mut observed: Observation<'_>,
    ) -> HttpResponse {
        let own = request.uid == self.0.own_uid;
        if own {
            observed.forget();
        }
        observed.set_dry_run(request.dry_run.unwrap_or_default());
        let caller = Caller { uid: request.uid.clone(), version: VERSION };
        let subject = Subject::of(endpoint, &request);
        // Our own requests, every few seconds, are nobody's business.
        let span = if own { tracing::Span::none() } else { subject.span(&caller.uid) };
        let (answer, failure) = self.ask(endpoint, request, deadline).instrument(span.clone()).await;
        let outcome = match (&answer.denial, failure) {
            (_, Some(_)) => Outcome::Error,
            (None, None) => Outcome::Allowed,
            (Some(denial), None) if denial.code >= 500 => Outcome::Error,
            (Some(_), None) => Outcome::Denied,
        };
        match (failure, &answer.denial) {
            (Some(failure), _) => observed.failed(failure, StatusCode::OK.as_u16()),
            (None, _) if outcome == Outcome::Error => observed.failed(Failure::Internal, StatusCode::OK.as_u16()),
            (None, Some(denial)) => observed.denied(denial),
            (None, None) => observed.judged(outcome),
        }
        telemetry::describe(&span, [("result", <&str>::from(outcome).into())]);
        if let Some(denial) = answer.denial.as_ref().filter(|_| !own) {
            if outcome == Outcome::Error {
                telemetry::fail(&span, || denial.message.clone());
            }
            span.in_scope(|| subject.log(&caller.uid, denial, outcome));
        }
        self.send(endpoint, &caller, &subject.name, &answer)
    }

    /// Asks for a judgement; the second value says why there is none.
    async fn ask(&self, endpoint: Endpoint, request: Request<'_>, deadline: Instant) -> (Answer, Option<Failure>) {
        let inner = &*self.0;
        let refused = |code, reason, message: String, failure| {
            let denial = Denial { code, reason, message, causes: Vec::new() };
            (Answer { denial: Some(denial), ..Answer::default() }, Some(failure))
        };
        let Ok(_slot) = inner.slots.try_acquire() else {
            let message = "the webhook is busy with too many requests: try again".to_owned();
            return refused(429, "TooManyRequests", message, Failure::Overload);
        };
        // The call itself is inside as well: it may panic before there is a future.
        let judgement = AssertUnwindSafe(async { inner.review.review(endpoint, request).await }).catch_unwind();
        match timeout_at(deadline, judgement).await {
            Ok(Ok(answer)) => (answer, None),
            Ok(Err(panic)) => {
                tracing::error!(path = endpoint.path(), panic = words(panic.as_ref()), "the judgement panicked");
                let message = "the webhook failed over this request; its log says why".to_owned();
                refused(500, "InternalError", message, Failure::Panic)
            }
            Err(_) => {
                let message = "the webhook did not come to a judgement in time: try again".to_owned();
                refused(504, "ServerTimeout", message, Failure::Deadline)
            }
        }
    }

    fn send(&self, endpoint: Endpoint, caller: &Caller, name: &str, answer: &Answer) -> HttpResponse {
        match answer::write(endpoint, caller, name, answer) {
            Ok(body) => self.respond(StatusCode::OK, body),
            Err(error) => {
                let message = format!("the answer cannot be written: {error}");
                self.unanswerable(endpoint, StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &message)
            }
        }
    }

    fn unanswerable(&self, endpoint: Endpoint, code: StatusCode, reason: &str, message: &str) -> HttpResponse {
        tracing::warn!(path = endpoint.path(), code = code.as_u16(), fault = short(message), "refused a request");
        self.respond(code, answer::plain(code.as_u16(), reason, message).unwrap_or_default())
    }

    fn respond(&self, code: StatusCode, body: Vec<u8>) -> HttpResponse {
        let mut response = HttpResponse::build(code);
        response.insert_header((header::CONTENT_TYPE, header::HeaderValue::from_static("application/json")));
        if self.0.draining.load(Ordering::Relaxed) {
            response.force_close();
        }
        response.body(body)
    }
}

/// What a request is about, kept for what is said of it afterwards.
struct Subject {
    endpoint: Endpoint,
    operation: crate::review::Operation,
    namespace: String,
    name: String,
    user: String,
    dry_run: bool,
}

impl Subject {
    fn of(endpoint: Endpoint, request: &Request<'_>) -> Self {
        Self {
            endpoint,
            operation: request.operation,
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            user: request.user_info.username.clone(),
            dry_run: request.dry_run.unwrap_or_default(),
        }
    }

    fn span(&self, uid: &str) -> tracing::Span {
        let Self { endpoint, operation, namespace, name, user, .. } = self;
        let (kind, operation) = (endpoint.kind(), tracing::field::display(operation));
        if *endpoint == Endpoint::MutateCluster {
            tracing::debug_span!("Webhook.Default", uid, kind, namespace, name, user, operation)
        } else {
            tracing::debug_span!("Webhook.Validate", uid, kind, namespace, name, user, operation)
        }
    }

    fn log(&self, uid: &str, denial: &Denial, outcome: Outcome) {
        let Self { endpoint, operation, namespace, name, user, dry_run } = self;
        let (kind, reason, message) = (endpoint.kind(), denial.reason, short(&denial.message));
        if outcome == Outcome::Error {
            tracing::warn!(uid, kind, %operation, namespace, name, user, dry_run, reason, message, "not judged");
        } else {
            tracing::info!(uid, kind, %operation, namespace, name, user, dry_run, reason, refusal = message, "refused");
        }
    }
}

/// The time for an answer: ours, or a little less than what the caller says it waits.
fn within(ours: Duration, query: &str) -> Duration {
    let theirs = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("timeout="))
        .and_then(|timeout| shared::cli::parse_duration(timeout).ok());
    theirs.map_or(ours, |theirs| ours.min(theirs.saturating_sub((theirs / 5).min(Duration::from_secs(1)))))
}

fn short(message: &str) -> &str {
    message.char_indices().nth(LOGGED).map_or(message, |(end, _)| &message[..end])
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no words")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", 8000)]
    #[case("timeout=10s", 8000)]
    #[case("a=b&timeout=5s", 4000)]
    #[case("timeout=1s", 800)]
    #[case("timeout=30s", 8000)]
    #[case("timeout=1m0s", 8000)]
    #[case("timeout=soon", 8000)]
    #[case("timeout=", 8000)]
    fn answer_comes_before_the_caller_stops_waiting(#[case] query: &str, #[case] millis: u64) {
        assert_eq!(within(Duration::from_secs(8), query), Duration::from_millis(millis));
    }

    #[test]
    fn long_refusals_are_cut_between_characters() {
        assert_eq!(short(&"é".repeat(3000)).chars().count(), LOGGED);
        assert_eq!(short("é"), "é");
    }
}
