//! The HTTPS server over real TLS on the loopback, with a judge that does as it is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "server/bench.rs"]
mod bench;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use admission::{
    review::Endpoint,
    server::{CONDITION, Limits, Served},
};
use bench::{Connection, Keys, Running, eventually, question};
use rstest::rstest;
use serde_json::{Value, json};
use shared::admin::Readiness;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const SHARD: Endpoint = Endpoint::ValidateShard;

#[tokio::test]
async fn allowed_request_is_answered_with_its_uid_alone() {
    let server = Running::start(Limits::default());
    let answer = server.ask(SHARD, &question(SHARD, "u-1", "fine")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let expected = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {"uid": "u-1", "allowed": true},
    });
    assert_eq!(answer.json(), expected);
    server.stop().await;
}

#[tokio::test]
async fn refused_request_names_its_causes() {
    let server = Running::start(Limits::default());
    let answer = server.ask(SHARD, &question(SHARD, "u-2", "deny")).await.json();
    assert_eq!(answer["response"]["allowed"], false);
    let status = &answer["response"]["status"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(403), &json!("Forbidden")));
    assert_eq!(status["message"], "spec.pools: too many");
    let details = json!({
        "name": "deny",
        "group": "multigres.com",
        "kind": "Shard",
        "causes": [{"reason": "FieldValueInvalid", "field": "spec.pools", "message": "too many"}],
    });
    assert_eq!(status["details"], details);
    let metrics = server.metrics();
    assert!(metrics.contains(r#"request_total{operation="VALIDATE",resource="Shard",result="denied"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"request_total{operation="VALIDATE",resource="Shard",result="error"} 0"#));
    server.stop().await;
}

#[tokio::test]
async fn patch_comes_as_base64_from_the_mutating_endpoint() {
    use base64::Engine as _;
    let server = Running::start(Limits::default());
    let at = Endpoint::MutateCluster;
    let response = server.ask(at, &question(at, "u-3", "patch")).await.json()["response"].take();
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    let patch = base64::engine::general_purpose::STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: Value = serde_json::from_slice(&patch).unwrap();
    assert_eq!(patch, json!([{"op": "add", "path": "/spec/databases", "value": []}]));
    server.stop().await;
}

#[rstest]
#[case::old_version("/apiVersion", json!("admission.k8s.io/v1beta1"), "admission.k8s.io/v1beta1")]
#[case::other_version("/apiVersion", json!("admission.k8s.io/v7"), "admission.k8s.io/v1")]
#[case::other_kind("/request/kind/kind", json!("Cell"), "admission.k8s.io/v1")]
#[case::unknown_operation("/request/operation", json!("PROXY"), "admission.k8s.io/v1")]
#[case::user_is_no_object("/request/userInfo", json!(["eva"]), "admission.k8s.io/v1")]
#[case::name_is_a_number("/request/name", json!(5), "admission.k8s.io/v1")]
#[tokio::test]
async fn whoever_has_a_uid_gets_a_review(#[case] at: &str, #[case] value: Value, #[case] version: &str) {
    let server = Running::start(Limits::default());
    let mut review = question(SHARD, "u-4", "fine");
    *review.pointer_mut(at).unwrap() = value;
    let answer = server.ask(SHARD, &review).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!(version), &json!("AdmissionReview")));
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("u-4"), &json!(false)));
    assert_eq!((&response["status"]["code"], &response["status"]["reason"]), (&json!(400), &json!("BadRequest")));
    let metrics = server.metrics();
    let counted = r#"failures_total{operation="VALIDATE",reason="malformed",resource="Shard"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    server.stop().await;
}

#[rstest]
#[case::empty(b"".to_vec(), 400)]
#[case::words(b"hello".to_vec(), 400)]
#[case::list(b"[1,2]".to_vec(), 400)]
#[case::missing_uid(br#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#.to_vec(), 400)]
#[case::empty_uid(br#"{"request":{"uid":""}}"#.to_vec(), 400)]
#[case::uid_is_deep([br#"{"request":{"uid":"#.to_vec(), b"[".repeat(10_000)].concat(), 400)]
#[case::nothing_but_depth(b"[".repeat(10_000), 400)]
#[case::not_utf8(b"\xff\xfe{}".to_vec(), 400)]
#[case::huge(vec![b' '; 7 * 1024 * 1024 + 1], 413)]
#[tokio::test]
async fn whoever_has_no_uid_gets_a_plain_status(#[case] body: Vec<u8>, #[case] code: u16) {
    let server = Running::start(Limits::default());
    let answer = server.send(SHARD, "", body).await;
    assert_eq!(answer.status, code);
    let status = answer.json();
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Failure")));
    assert_eq!(status["code"], json!(code));
    let counted = format!(r#"requests_total{{code="{code}",webhook="{}"}} 1"#, SHARD.path());
    assert!(server.metrics().contains(&counted), "{}", server.metrics());
    // The next caller does not notice.
    assert_eq!(server.ask(SHARD, &question(SHARD, "next", "fine")).await.json()["response"]["allowed"], true);
    server.stop().await;
}

#[rstest]
#[case::two_documents(|review: &str| format!("{review}{review}").into_bytes())]
#[case::cut_off(|review: &str| review.as_bytes()[..review.len() - 5].to_vec())]
#[case::not_utf8(|review: &str| review.replace("fine", "f\u{1}e").bytes().map(|b| if b == 1 { 0xff } else { b }).collect())]
#[case::surrogate(|review: &str| review.replace("fine", "\\ud800").into_bytes())]
#[tokio::test]
async fn broken_body_with_a_uid_is_refused_by_a_review(#[case] broken: fn(&str) -> Vec<u8>) {
    let server = Running::start(Limits::default());
    // As the API server writes it: the uid comes first.
    let review = r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u-5","operation":"CREATE","name":"fine","object":{"spec":{}}}}"#;
    let answer = server.send(SHARD, "", broken(review)).await;
    assert_eq!(answer.status, 200);
    let response = answer.json()["response"].take();
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("u-5"), &json!(false)));
    assert_eq!(response["status"]["code"], 400);
    server.stop().await;
}

#[tokio::test]
async fn objects_pass_through_however_deep_or_large_they_are() {
    let server = Running::start(Limits::default());
    let review = |object: &str| {
        let head = r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1""#;
        format!(r#"{head},"request":{{"uid":"u-6","operation":"CREATE","name":"length","object":{object}}}}}"#)
    };
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let large = format!("\"{}\"", "x".repeat(6 * 1024 * 1024));
    for object in [deep, large] {
        let answer = server.send(SHARD, "", review(&object).into_bytes()).await;
        assert_eq!(answer.json()["response"]["warnings"], json!([object.len().to_string()]));
    }
    server.stop().await;
}

#[tokio::test]
async fn only_posted_json_is_read() {
    let server = Running::start(Limits::default());
    let mut connection = server.connect().await;
    let body = serde_json::to_vec(&question(SHARD, "u-7", "fine")).unwrap();
    let answer = connection.request("POST", SHARD.path(), Some("text/plain"), body.clone()).await.unwrap();
    assert_eq!((answer.status, &answer.json()["code"]), (415, &json!(415)));
    let mut connection = server.connect().await;
    assert_eq!(connection.request("GET", SHARD.path(), None, Vec::new()).await.unwrap().status, 405);
    let mut connection = server.connect().await;
    let json = Some("application/json; charset=utf-8");
    assert_eq!(connection.request("POST", "/validate", json, body.clone()).await.unwrap().status, 404);
    let mut connection = server.connect().await;
    assert_eq!(connection.request("POST", SHARD.path(), json, body).await.unwrap().status, 200);
    server.stop().await;
}

#[rstest]
#[case::our_own(Duration::from_millis(100), "")]
#[case::of_the_caller(Duration::from_mins(10), "?timeout=200ms")]
#[tokio::test]
async fn slow_judgement_is_given_up_before_the_caller_does(#[case] deadline: Duration, #[case] query: &str) {
    let server = Running::start(Limits { deadline, ..Limits::default() });
    let body = serde_json::to_vec(&question(SHARD, "u-8", "gate")).unwrap();
    let response = server.send(SHARD, query, body).await.json()["response"].take();
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("u-8"), &json!(false)));
    let status = &response["status"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(504), &json!("ServerTimeout")));
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
    let metrics = server.metrics();
    assert!(metrics.contains(r#"reason="deadline",resource="Shard"} 1"#), "{metrics}");
    server.stop().await;
}

#[tokio::test]
async fn one_request_too_many_is_told_to_try_again() {
    let server = Running::start(Limits { in_flight: 1, ..Limits::default() });
    let mut first = server.connect().await;
    let held = tokio::spawn(async move { first.ask(SHARD, &question(SHARD, "held", "gate")).await.unwrap() });
    eventually(|| server.judge.waiting() == 1).await;
    let response = server.ask(SHARD, &question(SHARD, "u-9", "fine")).await.json()["response"].take();
    assert_eq!(response["uid"], "u-9");
    let status = &response["status"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(429), &json!("TooManyRequests")));
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
    server.judge.open();
    assert_eq!(held.await.unwrap().json()["response"]["allowed"], true);
    assert_eq!(server.ask(SHARD, &question(SHARD, "u-10", "fine")).await.json()["response"]["allowed"], true);
    assert!(server.metrics().contains(r#"reason="overload",resource="Shard"} 1"#));
    server.stop().await;
}

#[rstest]
#[case("panic")]
#[case("panic at once")]
#[tokio::test]
async fn panic_hits_nobody_but_its_request(#[case] how: &str) {
    let server = Running::start(Limits { in_flight: 1, ..Limits::default() });
    let mut connection = server.connect().await;
    for round in 0..3 {
        let uid = format!("u-{round}");
        let response = connection.ask(SHARD, &question(SHARD, &uid, how)).await.unwrap().json()["response"].take();
        assert_eq!((&response["uid"], &response["allowed"]), (&json!(uid), &json!(false)));
        assert_eq!(response["status"]["code"], 500);
        let fine = connection.ask(SHARD, &question(SHARD, "fine", "fine")).await.unwrap();
        assert_eq!(fine.json()["response"]["allowed"], true);
    }
    assert!(
        server
            .metrics()
            .contains(r#"controller_runtime_webhook_panics_total{webhook="/validate-multigres-com-v1alpha1-shard"} 3"#)
    );
    server.stop().await;
}

#[tokio::test]
async fn dry_runs_raise_no_alert() {
    let server = Running::start(Limits::default());
    let mut review = question(SHARD, "u-11", "panic");
    review["request"]["dryRun"] = json!(true);
    assert_eq!(server.ask(SHARD, &review).await.json()["response"]["allowed"], false);
    let metrics = server.metrics();
    assert!(metrics.contains(r#"request_total{operation="VALIDATE",resource="Shard",result="error"} 0"#), "{metrics}");
    assert!(metrics.contains(r#"dry_run_total{operation="VALIDATE",resource="Shard",result="error"} 1"#));
    server.stop().await;
}

/// Two replicas behind one Service: the first is stopped while callers keep asking over connections that they reuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_a_replica_drains() {
    const CALLERS: usize = 6;
    const EACH: usize = 200;
    // Long enough that every caller is told in time, also where they wait for a processor.
    let leaving = Arc::new(Running::start_with(Limits::default(), Duration::from_secs(3)));
    let staying = Arc::new(Running::start(Limits::default()));
    let answered = Arc::new(AtomicUsize::new(0));
    let told_to_go = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (leaving, staying) = (Arc::clone(&leaving), Arc::clone(&staying));
        let (answered, told_to_go) = (Arc::clone(&answered), Arc::clone(&told_to_go));
        callers.spawn(async move {
            let mut connection: Option<Connection> = None;
            for request in 0..EACH {
                let mut open = match connection.take() {
                    Some(open) => open,
                    // The Service forgets a replica a while after its callers were told to go.
                    None if told_to_go.load(Ordering::SeqCst) >= 2 * CALLERS => staying.connect().await,
                    None => leaving.connect().await,
                };
                let uid = format!("{caller}-{request}");
                let answer = open.ask(SHARD, &question(SHARD, &uid, "fine")).await.unwrap();
                assert_eq!(answer.json()["response"], json!({"uid": uid, "allowed": true}));
                answered.fetch_add(1, Ordering::SeqCst);
                if answer.header("connection") == Some("close") {
                    told_to_go.fetch_add(1, Ordering::SeqCst);
                } else {
                    connection = Some(open);
                }
            }
        });
    }
    eventually(|| answered.load(Ordering::SeqCst) >= CALLERS * EACH / 4).await;
    leaving.token.cancel();
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert_eq!(answered.load(Ordering::SeqCst), CALLERS * EACH);
    assert!(told_to_go.load(Ordering::SeqCst) >= 2 * CALLERS);
    Arc::into_inner(leaving).unwrap().stop().await;
    Arc::into_inner(staying).unwrap().stop().await;
}

#[tokio::test]
async fn draining_server_takes_connections_and_asks_their_callers_to_go() {
    let server = Running::start_with(Limits::default(), Duration::from_mins(10));
    let mut before = server.connect().await;
    assert_eq!(before.ask(SHARD, &question(SHARD, "a", "fine")).await.unwrap().header("connection"), None);
    server.token.cancel();
    let mut asked = 0;
    loop {
        let answer = server.ask(SHARD, &question(SHARD, "b", "fine")).await;
        assert_eq!(answer.json()["response"]["allowed"], true);
        if answer.header("connection") == Some("close") {
            break;
        }
        asked += 1;
        assert!(asked < 10_000);
    }
    // A connection from before is served once more, and then closed.
    let last = before.ask(SHARD, &question(SHARD, "c", "fine")).await.unwrap();
    assert_eq!((&last.json()["response"]["allowed"], last.header("connection")), (&json!(true), Some("close")));
    before.closed().await;
    server.abort();
}

/// A request into a connection that is being closed is lost. So an unused one is closed by its caller, or it is used once more.
#[tokio::test]
async fn unused_connection_is_served_after_the_drain_and_the_server_ends_with_the_last_one() {
    const LONG: Duration = Duration::from_mins(10);
    let server = Running::start_lingering(Limits::default(), (Duration::ZERO, LONG), &Keys::new("authority"));
    let (mut late, mut idle) = (server.connect().await, server.connect().await);
    for connection in [&mut late, &mut idle] {
        assert_eq!(connection.ask(SHARD, &question(SHARD, "a", "fine")).await.unwrap().status, 200);
    }
    server.token.cancel();
    // Once a caller is asked to go, the drain of no time at all has begun and is over.
    loop {
        if server.ask(SHARD, &question(SHARD, "b", "fine")).await.header("connection") == Some("close") {
            break;
        }
    }
    for _ in 0..50 {
        assert_eq!(server.ask(SHARD, &question(SHARD, "c", "fine")).await.status, 200);
    }
    let answer = late.ask(SHARD, &question(SHARD, "late", "fine")).await.unwrap();
    assert_eq!((&answer.json()["response"]["allowed"], answer.header("connection")), (&json!(true), Some("close")));
    late.closed().await;
    drop(idle);
    server.stop().await;
}

/// Who asks for nothing while the server drains cannot be told to go. The end of the connection has to tell, at once.
#[tokio::test]
async fn unused_connection_is_served_while_the_server_drains_and_closed_when_that_is_over() {
    let server = Running::start_with(Limits::default(), Duration::from_millis(300));
    let (mut used, mut unused, fresh) = (server.connect().await, server.connect().await, server.connect().await);
    for connection in [&mut used, &mut unused] {
        let answer = connection.ask(SHARD, &question(SHARD, "a", "fine")).await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    let held = tokio::spawn(async move { used.ask(SHARD, &question(SHARD, "held", "gate")).await.unwrap() });
    eventually(|| server.judge.waiting() == 1).await;
    server.token.cancel();
    // Neither the keep-alive time of minutes nor the request that is held keeps them open.
    unused.closed().await;
    fresh.closed().await;
    assert!(!held.is_finished());
    server.judge.open();
    let answer = held.await.unwrap();
    assert_eq!((&answer.json()["response"]["allowed"], answer.header("connection")), (&json!(true), Some("close")));
    server.stop().await;
}

#[tokio::test]
async fn stopped_server_finishes_what_it_has_begun() {
    let server = Running::start(Limits::default());
    let mut connection = server.connect().await;
    let held = tokio::spawn(async move { connection.ask(SHARD, &question(SHARD, "held", "gate")).await.unwrap() });
    eventually(|| server.judge.waiting() == 1).await;
    server.token.cancel();
    let address = server.address;
    // Once nobody can connect any more, the drain is over.
    eventually(|| std::net::TcpStream::connect(address).is_err()).await;
    server.judge.open();
    let answer = held.await.unwrap();
    assert_eq!(answer.json()["response"], json!({"uid": "held", "allowed": true}));
    server.stop().await;
}

#[tokio::test]
async fn key_is_swapped_under_running_connections() {
    let keys = Keys::new("old");
    let server = Running::start_on(Limits::default(), Duration::ZERO, &keys);
    let mut old = server.connect().await;
    assert_eq!(old.ask(SHARD, &question(SHARD, "a", "fine")).await.unwrap().status, 200);
    let loopback = server.loopback.clone();
    let old_bundle = keys.bundle();
    loopback.check(&old_bundle).await.unwrap();
    keys.swap("new");
    assert_eq!(old.ask(SHARD, &question(SHARD, "b", "fine")).await.unwrap().status, 200);
    let mut new = server.connect().await;
    assert_eq!(new.ask(SHARD, &question(SHARD, "c", "fine")).await.unwrap().status, 200);
    loopback.check(&keys.bundle()).await.unwrap();
    assert!(loopback.check(&old_bundle).await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn check_of_the_own_listener_counts_for_nothing() {
    let server = Running::start(Limits::default());
    server.loopback.check(&server.keys.bundle()).await.unwrap();
    let metrics = server.metrics();
    let counted = r#"request_total{operation="VALIDATE",resource="MultigresCluster",result="success"} 0"#;
    assert!(metrics.contains(counted), "{metrics}");
    server.stop().await;
}

#[tokio::test]
async fn listener_is_ready_only_with_a_certificate_that_clients_accept() {
    let server = Running::start(Limits::default());
    let (stranger, token) = (Keys::new("stranger"), CancellationToken::new());
    let bundle = Arc::new(arc_swap::ArcSwapOption::<Served>::empty());
    let serve = |keys: &Keys, fingerprint: &str| {
        Some(Arc::new(Served { fingerprint: fingerprint.to_owned(), bundle: keys.bundle().into() }))
    };
    let readiness = Readiness::default();
    readiness.expect(CONDITION);
    let seen = Arc::clone(&bundle);
    let watch = server.loopback.clone().watch(
        move || seen.load_full().map(|served| Served::clone(&served)),
        readiness.clone(),
        token.clone(),
    );
    let watch = tokio::spawn(watch);
    bundle.store(serve(&stranger, "1"));
    // A second failure is in the log by now; the condition never held.
    eventually(|| server.handshakes() >= 1).await;
    assert_eq!(readiness.missing(), [CONDITION]);
    bundle.store(serve(&server.keys, "2"));
    eventually(|| readiness.missing().is_empty()).await;
    token.cancel();
    watch.await.unwrap();
    server.stop().await;
}
