//! Spans that really arrive: a process of its own reads its environment and exports to a collector of this one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod receiver;

use std::{
    collections::BTreeMap,
    process::Output,
    time::{Duration, Instant},
};

use receiver::{Receiver, named};
use serde_json::Value;
use shared::{
    annotation::{TRACEPARENT, TRACEPARENT_TIMESTAMP},
    telemetry::{self, Service, Settings, Tracing},
};
use tracing::Instrument as _;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
/// Generous, because machines of tests are busy.
const DEADLINE: Duration = Duration::from_mins(1);

fn carried(age: i64) -> BTreeMap<String, String> {
    let now = jiff::Timestamp::now().as_second();
    [
        (TRACEPARENT.to_owned(), format!("00-{TRACE}-{SPAN}-01")),
        (TRACEPARENT_TIMESTAMP.to_owned(), (now - age).to_string()),
    ]
    .into()
}

/// What the process of its own does: passes that follow from a fresh and from an old request, with a write in one of them.
#[test]
#[ignore = "every other test here runs it, in a process with an environment of its own"]
fn emit() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let telemetry = {
        let _inside = runtime.enter();
        let service = Service { name: "built-in", version: "1.2.3" };
        telemetry::init(&Settings::preset(false), service, &Tracing::of_process()).unwrap()
    };
    runtime.block_on(async {
        let now = jiff::Timestamp::now();
        let pass = tracing::info_span!(target: "controller::runner", "Cell.Reconcile", name = "fresh");
        telemetry::follow(&pass, Some(&carried(60)), now);
        telemetry::describe(&pass, [("result", "success".into())]);
        let work = async {
            tracing::info!(target: "controller::runner", "in the pass");
            let write = tracing::debug_span!(target: "controller::execute", "write", otel.name = "apply Shard");
            println!("MARK={}", telemetry::mark(&write).map(|mark| mark.parent).unwrap_or_default());
            async { tracing::error!(target: "controller::execute", "refused") }.instrument(write).await;
        };
        work.instrument(pass).await;
        let late = tracing::info_span!(target: "controller::runner", "Shard.Reconcile", name = "late");
        telemetry::follow(&late, Some(&carried(3600)), now);
        late.in_scope(|| tracing::info!(target: "controller::runner", "in the late pass"));
        tracing::info_span!(target: "hyper::client", "noise").in_scope(|| ());
        tracing::info!(target: "controller::runner", "outside of all spans");
    });
    println!("TRACES={}", telemetry.traces());
    telemetry.finish();
}

/// Runs `emit` with nothing but these variables.
async fn process(variables: &[(&str, &str)]) -> Output {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.env_clear().args(["--exact", "emit", "--ignored", "--nocapture"]).kill_on_drop(true);
    command.envs(variables.iter().copied());
    let output = tokio::time::timeout(DEADLINE, command.output()).await.expect("the process ends").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stderr).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn line<'a>(lines: &'a [Value], message: &str) -> &'a Value {
    lines.iter().find(|line| line["message"] == message).unwrap_or_else(|| panic!("no {message:?} in {lines:#?}"))
}

fn printed(output: &Output, text: &str) -> bool {
    String::from_utf8_lossy(&output.stdout).contains(text)
}

/// The tree that `emit` makes, and the logs beside it.
fn assert_tree(collector: &Receiver, output: &Output) {
    let all = collector.all();
    assert_eq!(all.len(), 3, "{all:#?}");
    let (pass, write, late) = (
        named(&all, "Cell.Reconcile")[0].clone(),
        named(&all, "apply Shard")[0].clone(),
        named(&all, "Shard.Reconcile")[0].clone(),
    );
    assert_eq!((pass.trace().as_str(), pass.parent().as_str()), (TRACE, SPAN), "the pass follows from the request");
    assert_eq!(pass.attribute("result").as_deref(), Some("success"));
    assert_eq!(pass.attribute("name").as_deref(), Some("fresh"));
    assert_eq!(pass.span.events[0].name, "in the pass");
    assert_eq!((write.trace(), write.parent()), (pass.trace(), pass.id()));
    assert_eq!(write.span.status.as_ref().unwrap().code, 2, "an error event is an error of its span");
    assert!(printed(output, &format!("MARK=00-{TRACE}-{}-01", write.id())), "what is written carries the write's span");
    assert_ne!(late.trace(), TRACE, "an old request is no cause");
    assert_eq!(late.parent(), "");
    assert_eq!(hex::encode(&late.span.links[0].span_id), SPAN, "but it is not forgotten");

    let lines = lines(output);
    let inside = line(&lines, "in the pass");
    assert_eq!((&inside["trace_id"], &inside["span_id"]), (&pass.trace().into(), &pass.id().into()));
    let refused = line(&lines, "refused");
    assert_eq!(refused["span_id"], Value::from(write.id()), "also of a span that is not logged");
    assert_eq!(line(&lines, "in the late pass")["trace_id"], Value::from(late.trace()));
    assert!(line(&lines, "outside of all spans").get("trace_id").is_none());
}

#[tokio::test]
async fn spans_arrive_by_http_when_only_an_endpoint_is_named() {
    let collector = Receiver::http();
    let endpoint = format!("http://{}", collector.address);
    let output = process(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=a%20key"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,service.version=9"),
        ("POD_NAME", "controller-0"),
    ])
    .await;
    assert_tree(&collector, &output);
    let one = &collector.all()[0];
    assert_eq!(one.headers["x-api-key"], "a key");
    let expected = [
        ("deployment.environment", "test"),
        ("k8s.pod.name", "controller-0"),
        ("service.name", "built-in"),
        ("service.version", "9"),
        ("telemetry.sdk.language", "rust"),
    ];
    for (key, value) in expected {
        assert_eq!(one.resource.get(key).map(String::as_str), Some(value), "{key}: {:?}", one.resource);
    }
}

#[tokio::test]
async fn spans_arrive_by_grpc_where_it_is_asked_for() {
    let collector = Receiver::grpc().await;
    let output = process(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("http://{}", collector.address)),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=secret"),
        ("OTEL_SERVICE_NAME", "mine"),
    ])
    .await;
    assert_tree(&collector, &output);
    let one = &collector.all()[0];
    assert_eq!((one.resource["service.name"].as_str(), one.headers["x-api-key"].as_str()), ("mine", "secret"));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"), "credentials stay out of the log");
}

#[tokio::test]
async fn nothing_is_exported_without_an_endpoint_or_by_request() {
    let collector = Receiver::http();
    let endpoint = format!("http://{}", collector.address);
    for variables in [
        vec![("OTEL_SERVICE_NAME", "x")],
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_SDK_DISABLED", "true")],
    ] {
        let output = process(&variables).await;
        assert!(printed(&output, "TRACES=false") && printed(&output, "MARK=\n"));
        assert!(line(&lines(&output), "in the pass").get("trace_id").is_none());
    }
    let output = process(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_TRACES_SAMPLER", "always_off")]).await;
    assert!(printed(&output, "TRACES=true") && printed(&output, "MARK=\n"));
    assert_eq!(collector.all().len(), 0);
}

#[tokio::test]
async fn a_wrong_value_is_ignored_and_named() {
    let collector = Receiver::http();
    let output = process(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", collector.address)),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier pigeon"),
        ("OTEL_TRACES_SAMPLER", "some"),
    ])
    .await;
    assert_tree(&collector, &output);
    let warned: Vec<String> = lines(&output)
        .iter()
        .filter(|line| line["level"] == "WARN")
        .map(|line| line["message"].as_str().unwrap().to_owned())
        .collect();
    assert!(warned.iter().any(|text| text.contains("OTEL_EXPORTER_OTLP_PROTOCOL")), "{warned:?}");
    assert!(warned.iter().any(|text| text.contains("OTEL_TRACES_SAMPLER")), "{warned:?}");
}

#[tokio::test]
async fn spans_hold_no_more_than_the_environment_allows_and_a_password_in_the_address_goes_nowhere() {
    let collector = Receiver::http();
    let output = process(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://somebody:secret@{}", collector.address)),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "0"),
    ])
    .await;
    let pass = named(&collector.all(), "Cell.Reconcile")[0].clone();
    assert_eq!((pass.attribute("name").as_deref(), pass.attribute("result").as_deref()), (Some("fre"), Some("suc")));
    assert!(pass.span.events.is_empty(), "{:?}", pass.span.events);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"), "credentials stay out of the log");
    let address = format!("http://{}/v1/traces", collector.address);
    assert_eq!(line(&lines(&output), "exporting spans")["endpoint"], Value::from(address));
}

#[tokio::test]
async fn a_collector_that_never_answers_does_not_hold_up_the_end() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    for protocol in ["http/protobuf", "grpc"] {
        let start = Instant::now();
        process(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000"),
        ])
        .await;
        assert!(start.elapsed() < DEADLINE / 2, "{protocol}: {:?}", start.elapsed());
    }
}
