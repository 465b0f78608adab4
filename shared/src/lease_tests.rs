//! Tests of the election: a table of steps, and elections against a server in memory.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{Request, Response};
use kube::client::Body;
use rstest::rstest;

use super::*;

fn settings() -> Settings {
    Settings::new("multigres-operator.multigres.com", "operator", "me")
}

fn view(holder: Option<&str>, changed: u64, renewed: Option<u64>, start: Instant) -> View {
    View {
        holder: holder.map(|identity| Holder { identity: identity.to_owned(), duration: Duration::from_secs(15) }),
        changed: Some(start + Duration::from_secs(changed)),
        renewed: renewed.map(|second| start + Duration::from_secs(second)),
    }
}

fn wait(seconds: u64) -> Step {
    Step::Wait(Duration::from_secs(seconds))
}

#[rstest]
#[case::nobody_ever(None, 0, None, 0, Step::Acquire)]
#[case::released(Some(""), 0, None, 0, Step::Acquire)]
#[case::ours_from_an_earlier_life(Some("me"), 0, None, 0, Step::Acquire)]
#[case::other_is_alive(Some("other"), 100, None, 101, wait(2))]
#[case::other_is_nearly_over(Some("other"), 100, None, 114, wait(1))]
#[case::other_is_over(Some("other"), 100, None, 115, Step::Acquire)]
#[case::just_renewed(Some("me"), 100, Some(100), 100, wait(5))]
#[case::between_renewals(Some("me"), 100, Some(100), 103, wait(2))]
#[case::time_to_renew(Some("me"), 100, Some(100), 105, Step::Renew)]
#[case::renewal_still_fails(Some("me"), 100, Some(100), 109, Step::Renew)]
#[case::deadline(Some("me"), 100, Some(100), 110, Step::Lost)]
#[case::taken_by_another(Some("other"), 101, Some(100), 101, Step::Lost)]
#[case::released_by_force(Some(""), 101, Some(100), 101, Step::Lost)]
#[case::deleted_by_someone(None, 101, Some(100), 101, Step::Renew)]
#[case::deleted_and_past_the_deadline(None, 101, Some(100), 110, Step::Lost)]
fn next_step(
    #[case] holder: Option<&str>,
    #[case] changed: u64,
    #[case] renewed: Option<u64>,
    #[case] now: u64,
    #[case] expected: Step,
) {
    let start = Instant::now();
    let view = view(holder, changed, renewed, start);
    assert_eq!(decide(start + Duration::from_secs(now), &view, &settings()), expected);
}

#[test]
fn holder_gives_up_before_others_may_take_over() {
    let settings = settings();
    assert!(settings.renew_deadline + settings.renew_interval() <= settings.duration);
    assert!(settings.renew_interval() + settings.retry < settings.renew_deadline);
}

#[test]
fn record_counts_changes_of_the_holder_alone() {
    let (settings, at) = (settings(), |second| Timestamp::from_second(second).unwrap());
    let first = record(None, &settings, "me", at(1));
    let again = record(Some(&first), &settings, "me", at(2));
    let (one, two) = (first.spec.clone().unwrap(), again.spec.clone().unwrap());
    assert_eq!((one.lease_transitions, two.lease_transitions), (Some(0), Some(0)));
    assert_eq!(two.acquire_time, one.acquire_time);
    assert_eq!(two.renew_time, Some(MicroTime(at(2))));
    assert_eq!(two.lease_duration_seconds, Some(15));
    let released = record(Some(&again), &settings, "", at(3));
    let taken = record(Some(&released), &settings, "other", at(4)).spec.unwrap();
    assert_eq!(taken.lease_transitions, Some(1));
    assert_eq!(taken.acquire_time, Some(MicroTime(at(4))));
}

/// An API server that knows one Lease.
#[derive(Clone, Default)]
struct Server {
    stored: Arc<Mutex<Option<Record>>>,
    requests: Arc<Mutex<BTreeMap<String, u32>>>,
    down: Arc<AtomicBool>,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let answer = move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        };
        Client::new(tower::service_fn(answer), "operator")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        *self.requests.lock().unwrap().entry(head.method.to_string()).or_default() += 1;
        let mut stored = self.stored.lock().unwrap();
        let version =
            |record: &Option<Record>| record.as_ref().and_then(|record| record.metadata.resource_version.clone());
        let (code, reason) = if self.down.load(Ordering::SeqCst) {
            (503, "ServiceUnavailable")
        } else if head.method == "GET" {
            if stored.is_some() { (200, "") } else { (404, "NotFound") }
        } else {
            let sent: Record = serde_json::from_slice(&body).unwrap();
            if sent.metadata.resource_version == version(&stored) {
                let next = version(&stored).map_or(1, |version| version.parse::<u32>().unwrap() + 1);
                *stored = Some(sent);
                stored.as_mut().unwrap().metadata.resource_version = Some(next.to_string());
                (200, "")
            } else {
                (409, "Conflict")
            }
        };
        let body = if code == 200 {
            serde_json::to_vec(&*stored).unwrap()
        } else {
            serde_json::to_vec(&serde_json::json!({
                "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason,
            }))
            .unwrap()
        };
        Response::builder().status(code).body(Body::from(body)).unwrap()
    }

    fn count(&self, method: &str) -> u32 {
        self.requests.lock().unwrap().get(method).copied().unwrap_or(0)
    }

    fn holder(&self) -> Option<String> {
        self.stored.lock().unwrap().as_ref()?.spec.as_ref()?.holder_identity.clone()
    }

    fn candidate(&self, identity: &str) -> (Lease, CancellationToken) {
        let token = CancellationToken::new();
        let settings = Settings { identity: identity.to_owned(), ..settings() };
        (Lease::run(self.client(), settings, token.clone()), token)
    }
}

#[tokio::test(start_paused = true)]
async fn idle_holder_writes_once_per_interval_and_reads_nothing() {
    let server = Server::default();
    let (lease, _token) = server.candidate("a");
    assert!(lease.held().await);
    let (reads, writes) = (server.count("GET"), server.count("PUT"));
    sleep(Duration::from_mins(1)).await;
    assert_eq!(server.count("GET"), reads);
    assert!((11..=13).contains(&(server.count("PUT") - writes)), "{}", server.count("PUT"));
    assert_eq!(*lease.state().borrow(), State::Held);
}

#[tokio::test(start_paused = true)]
async fn released_lease_goes_to_the_next_candidate_at_once() {
    let server = Server::default();
    let (first, token) = server.candidate("a");
    assert!(first.held().await);
    let (second, _token) = server.candidate("b");
    sleep(Duration::from_mins(1)).await;
    assert_eq!(*second.state().borrow(), State::Waiting);
    let before = Instant::now();
    token.cancel();
    assert_eq!(first.ended().await, State::Waiting);
    assert!(second.held().await);
    assert!(before.elapsed() < Duration::from_secs(3));
    assert_eq!(server.holder().as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn lease_is_given_back_although_somebody_edited_it_meanwhile() {
    let server = Server::default();
    let (lease, token) = server.candidate("a");
    assert!(lease.held().await);
    server.stored.lock().unwrap().as_mut().unwrap().metadata.resource_version = Some("1000".to_owned());
    token.cancel();
    assert_eq!(lease.ended().await, State::Waiting);
    assert_eq!(server.holder().as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn lease_of_another_is_not_given_away() {
    let server = Server::default();
    let (lease, token) = server.candidate("a");
    assert!(lease.held().await);
    let mut theirs = record(None, &settings(), "b", Timestamp::UNIX_EPOCH);
    theirs.metadata.resource_version = Some("1000".to_owned());
    *server.stored.lock().unwrap() = Some(theirs);
    token.cancel();
    lease.ended().await;
    assert_eq!(server.holder().as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn lease_of_a_dead_holder_is_taken_after_its_duration() {
    let server = Server::default();
    *server.stored.lock().unwrap() = Some(record(None, &settings(), "dead", Timestamp::UNIX_EPOCH));
    let before = Instant::now();
    let (lease, _token) = server.candidate("a");
    assert!(lease.held().await);
    assert!((15..19).contains(&before.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn edits_of_others_do_not_keep_a_dead_holder_alive() {
    let server = Server::default();
    *server.stored.lock().unwrap() = Some(record(None, &settings(), "dead", Timestamp::UNIX_EPOCH));
    let before = Instant::now();
    let (lease, _token) = server.candidate("a");
    let edits = async {
        for version in 1000.. {
            server.stored.lock().unwrap().as_mut().unwrap().metadata.resource_version = Some(version.to_string());
            sleep(Duration::from_secs(3)).await;
        }
    };
    tokio::select! {
        held = lease.held() => assert!(held),
        () = edits => unreachable!(),
    }
    assert!((15..25).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn holder_without_api_server_gives_up_before_its_lease_ends() {
    let server = Server::default();
    let (lease, _token) = server.candidate("a");
    assert!(lease.held().await);
    server.down.store(true, Ordering::SeqCst);
    let before = Instant::now();
    assert_eq!(lease.ended().await, State::Lost);
    assert!((5..15).contains(&before.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn holder_survives_a_short_outage_and_a_foreign_edit() {
    let server = Server::default();
    let (lease, _token) = server.candidate("a");
    assert!(lease.held().await);
    server.down.store(true, Ordering::SeqCst);
    sleep(Duration::from_secs(6)).await;
    server.down.store(false, Ordering::SeqCst);
    // Someone labels the record: our next write conflicts and is repeated on top.
    server.stored.lock().unwrap().as_mut().unwrap().metadata.resource_version = Some("1000".to_owned());
    sleep(Duration::from_mins(1)).await;
    assert_eq!(*lease.state().borrow(), State::Held);
}

#[tokio::test(start_paused = true)]
async fn holder_gives_up_when_another_has_taken_the_lease() {
    let server = Server::default();
    let (lease, _token) = server.candidate("a");
    assert!(lease.held().await);
    let mut theirs = record(None, &settings(), "b", Timestamp::UNIX_EPOCH);
    theirs.metadata.resource_version = Some("1000".to_owned());
    *server.stored.lock().unwrap() = Some(theirs);
    assert_eq!(lease.ended().await, State::Lost);
    assert_eq!(server.holder().as_deref(), Some("b"));
}

#[test]
fn jitter_only_adds() {
    let base = Duration::from_secs(2);
    assert!((0..100).map(|_| jittered(base)).all(|wait| wait >= base && wait <= base.mul_f64(1.2)));
}
