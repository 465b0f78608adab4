//! Who may read the metrics: whoever the API server knows by their token and lets get the path.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

/// How long a yes is believed; a token that is revoked reads on for so long.
const YES_FOR: Duration = Duration::from_mins(1);
/// How long a no is believed.
const NO_FOR: Duration = Duration::from_secs(30);
/// Longest time of one question to the API server.
const DEADLINE: Duration = Duration::from_secs(10);
/// Most answers that are kept: callers choose their tokens, so there is no end to them.
const KEPT: usize = 256;
/// Most questions at once, so that strangers cannot have us flood the API server.
const AT_ONCE: usize = 4;

/// What the API server thinks of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may read.
    Allowed,
    /// Nobody knows it.
    Stranger,
    /// It is known, and may not.
    Forbidden,
}

impl Verdict {
    fn good_for(self) -> Duration {
        if self == Self::Allowed { YES_FOR } else { NO_FOR }
    }
}

/// Asks about one token.
pub trait Judge: Send + Sync {
    /// Whether the owner of the token may read the metrics.
    fn judge<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, kube::Error>>;
}

/// The API server as a judge.
struct Cluster(Client);

impl Judge for Cluster {
    fn judge<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, kube::Error>> {
        async move {
            let review = TokenReview {
                spec: TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() },
                ..TokenReview::default()
            };
            let reviews: Api<TokenReview> = Api::all(self.0.clone());
            let status = reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
            let Some(user) = status.user.filter(|_| status.authenticated == Some(true)) else {
                return Ok(Verdict::Stranger);
            };
            let path = NonResourceAttributes { path: Some("/metrics".to_owned()), verb: Some("get".to_owned()) };
            let review = SubjectAccessReview {
                spec: SubjectAccessReviewSpec {
                    user: user.username,
                    groups: user.groups,
                    uid: user.uid,
                    extra: user.extra,
                    non_resource_attributes: Some(path),
                    ..SubjectAccessReviewSpec::default()
                },
                ..SubjectAccessReview::default()
            };
            let reviews: Api<SubjectAccessReview> = Api::all(self.0.clone());
            let status = reviews.create(&PostParams::default(), &review).await?.status;
            let allowed = status.is_some_and(|status| status.allowed && status.denied != Some(true));
            Ok(if allowed { Verdict::Allowed } else { Verdict::Forbidden })
        }
        .boxed()
    }
}

/// Nobody could be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused the question, or could not be reached.
    #[error("the API server does not say who may read the metrics")]
    Ask(#[source] Box<kube::Error>),
    /// It did not answer in time.
    #[error("the API server does not say in time who may read the metrics")]
    Deadline,
}

/// Verdicts with the time at which they were given.
type Known = HashMap<[u8; 32], (Instant, Verdict)>;

/// Lets callers in whom the API server lets in, and remembers for a while.
#[derive(Clone)]
pub struct Guard {
    judge: Arc<dyn Judge>,
    /// By digests, so that no token stays in memory.
    known: Arc<Mutex<Known>>,
    asking: Arc<Semaphore>,
}

impl Guard {
    /// Asks the API server of `client`.
    pub fn new(client: Client) -> Self {
        Self::with(Arc::new(Cluster(client)))
    }

    /// Asks somebody else.
    pub fn with(judge: Arc<dyn Judge>) -> Self {
        Self { judge, known: Arc::default(), asking: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The verdict on the `Authorization` header of a request.
    pub async fn admit(&self, authorization: Option<&str>) -> Result<Verdict, Error> {
        let Some(token) = authorization.and_then(bearer) else { return Ok(Verdict::Stranger) };
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(verdict) = self.known(&digest, Instant::now()) {
            return Ok(verdict);
        }
        let asked = async {
            let _turn = self.asking.acquire().await;
            // Whoever was before us in the queue may have asked the same.
            match self.known(&digest, Instant::now()) {
                Some(verdict) => Ok(verdict),
                None => self.judge.judge(token).await,
            }
        };
        let verdict = match tokio::time::timeout(DEADLINE, asked).await {
            Ok(answer) => answer.map_err(|error| Error::Ask(Box::new(error)))?,
            Err(_) => return Err(Error::Deadline),
        };
        self.keep(digest, verdict, Instant::now());
        Ok(verdict)
    }

    fn known(&self, digest: &[u8; 32], now: Instant) -> Option<Verdict> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, verdict) = known.get(digest)?;
        (now.duration_since(*at) < verdict.good_for()).then_some(*verdict)
    }

    fn keep(&self, digest: [u8; 32], verdict: Verdict, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.retain(|_, (at, verdict)| now.duration_since(*at) < verdict.good_for());
        }
        if known.len() >= KEPT {
            // Strangers must not push out those who may read.
            known.retain(|_, (_, verdict)| *verdict == Verdict::Allowed);
        }
        if known.len() < KEPT || verdict == Verdict::Allowed {
            known.insert(digest, (now, verdict));
        }
    }
}

/// The token of an `Authorization` header.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rstest::rstest;

    use super::*;

    /// Knows `good` and `poor`, fails over `broken`, and counts.
    #[derive(Default)]
    struct Played(AtomicUsize);

    impl Judge for Played {
        fn judge<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, kube::Error>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            let answer = match token {
                "good" => Ok(Verdict::Allowed),
                "poor" => Ok(Verdict::Forbidden),
                "broken" => Err(kube::Error::LinesCodecMaxLineLengthExceeded),
                _ => Ok(Verdict::Stranger),
            };
            futures::future::ready(answer).boxed()
        }
    }

    fn guard() -> (Guard, Arc<Played>) {
        let played = Arc::new(Played::default());
        (Guard::with(Arc::<Played>::clone(&played)), played)
    }

    #[rstest]
    #[case(None, Verdict::Stranger, 0)]
    #[case(Some("Basic good"), Verdict::Stranger, 0)]
    #[case(Some("Bearer "), Verdict::Stranger, 0)]
    #[case(Some("Bearer good"), Verdict::Allowed, 1)]
    #[case(Some("bearer  good "), Verdict::Allowed, 1)]
    #[case(Some("Bearer poor"), Verdict::Forbidden, 1)]
    #[case(Some("Bearer other"), Verdict::Stranger, 1)]
    #[tokio::test]
    async fn callers_are_judged_by_their_token(
        #[case] header: Option<&str>,
        #[case] expected: Verdict,
        #[case] questions: usize,
    ) {
        let (guard, played) = guard();
        for _ in 0..3 {
            assert_eq!(guard.admit(header).await.unwrap(), expected);
        }
        assert_eq!(played.0.load(Ordering::SeqCst), questions, "an answer is remembered");
    }

    #[tokio::test]
    async fn failures_are_no_verdict_and_are_not_remembered() {
        let (guard, played) = guard();
        for _ in 0..2 {
            assert!(guard.admit(Some("Bearer broken")).await.is_err());
        }
        assert_eq!(played.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn answers_are_believed_for_a_while() {
        let (guard, _) = guard();
        let start = Instant::now();
        guard.keep([1; 32], Verdict::Allowed, start);
        guard.keep([2; 32], Verdict::Forbidden, start);
        assert_eq!(guard.known(&[2; 32], start + NO_FOR / 2), Some(Verdict::Forbidden));
        assert_eq!(guard.known(&[2; 32], start + NO_FOR), None);
        assert_eq!(guard.known(&[1; 32], start + NO_FOR), Some(Verdict::Allowed));
        assert_eq!(guard.known(&[1; 32], start + YES_FOR), None);
    }

    #[test]
    fn strangers_fill_no_memory_and_push_nobody_out() {
        let (guard, _) = guard();
        let start = Instant::now();
        guard.keep([255; 32], Verdict::Allowed, start);
        for number in 0..10_000_u32 {
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&number.to_le_bytes());
            guard.keep(digest, Verdict::Stranger, start);
        }
        assert!(guard.known.lock().unwrap().len() <= KEPT);
        assert_eq!(guard.known(&[255; 32], start), Some(Verdict::Allowed));
    }
}
