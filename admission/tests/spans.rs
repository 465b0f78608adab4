//! Reviews as spans that really arrive at a collector, and the context that a stored spec carries on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../shared/tests/receiver/mod.rs"]
mod receiver;
mod support;

use std::{sync::Arc, time::Duration};

use actix_web::{App, test};
use admission::{
    metrics::Reviews,
    mutate::TraceContext,
    review::Endpoint,
    reviewer::{Options, Reviewer},
    server::{Limits, Service},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use receiver::{Receiver, named};
use serde_json::{Value, json};
use shared::{
    annotation::{TRACEPARENT, TRACEPARENT_TIMESTAMP},
    metrics::{Build, Metrics},
    telemetry::{self, Settings, Tracing},
};
use support::{
    envelope::Question,
    world::{self, CONTROLLER},
};

const UID: &str = "0a1b2c3d-0000-4000-8000-1234567890ab";

fn cluster(spec: &Value) -> Value {
    json!({
        "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster",
        "metadata": {"name": "demo", "namespace": "prod"}, "spec": spec,
    })
}

#[actix_web::test]
async fn a_stored_spec_carries_the_span_of_its_review_and_nothing_else_does() {
    let collector = Receiver::http();
    let endpoint = format!("http://{}", collector.address);
    let lookup = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.clone()),
        _ => None,
    };
    let service = telemetry::Service { name: "admission", version: "0" };
    let telemetry = telemetry::init(&Settings::preset(false), service, &Tracing::of(lookup)).unwrap();
    let options = Options {
        settings: world::settings(),
        controller: CONTROLLER.to_owned(),
        writers: Vec::new(),
        writer_groups: Vec::new(),
    };
    let reviewer = Arc::new(Reviewer::new(world::generated(), options).with_tracer(TraceContext::of_this_review));
    let metrics = Metrics::new(Build { version: "0", revision: "test" }).unwrap();
    let service = Service::new(Limits::default(), reviewer, Reviews::new(&metrics).unwrap());
    let app = test::init_service(App::new().configure(|config| service.routes(config))).await;
    let ask = async |endpoint: Endpoint, review: &Value| -> Value {
        let request = test::TestRequest::post().uri(endpoint.path()).set_json(review).to_request();
        let answer: Value = test::read_body_json(test::call_service(&app, request).await).await;
        answer["response"].clone()
    };
    let after = |response: &Value, object: &Value| -> Value {
        let mut object = object.clone();
        if let Some(patch) = response["patch"].as_str() {
            let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
            json_patch::patch(&mut object, &patch).unwrap();
        }
        object
    };

    let new = cluster(&json!({"databases": [{"name": "postgres", "default": true}], "cells": []}));
    let creation = Question::create(&new);
    let stored = after(&ask(Endpoint::MutateCluster, &creation.review(UID)).await, &new);
    let carried = stored["metadata"]["annotations"][TRACEPARENT].as_str().unwrap().to_owned();
    assert!(stored["metadata"]["annotations"][TRACEPARENT_TIMESTAMP].is_string());

    // The same manifest again, a label, a dry run, and a write of the controller: no context comes or changes.
    let mut again = stored.clone();
    again["metadata"]["labels"] = json!({"team": "a"});
    let unchanged = Question::update(&stored, &again);
    assert_eq!(after(&ask(Endpoint::MutateCluster, &unchanged.review(UID)).await, &again), again);
    let mut dry = creation.review(UID);
    dry["request"]["dryRun"] = true.into();
    assert_eq!(after(&ask(Endpoint::MutateCluster, &dry).await, &new), new);
    let own = Question { user: CONTROLLER.to_owned(), ..creation.clone() };
    assert_eq!(after(&ask(Endpoint::MutateCluster, &own.review(UID)).await, &new), new);

    // A new spec carries the span of its own review.
    let mut changed = stored.clone();
    changed["spec"]["cells"] = json!([{"name": "a"}]);
    let update = Question::update(&stored, &changed);
    let later = after(&ask(Endpoint::MutateCluster, &update.review(UID)).await, &changed);
    assert_ne!(later["metadata"]["annotations"][TRACEPARENT], carried.as_str());

    let unknown = cluster(&json!({"cells": [{"name": "a", "cellTemplate": "no-such-template"}]}));
    let refused = ask(Endpoint::ValidateCluster, &Question::create(&unknown).review(UID)).await;
    assert_eq!(refused["allowed"], false);
    tokio::task::spawn_blocking(move || telemetry.finish()).await.unwrap();
    let all = collector.until("spans arrive", Duration::from_secs(30), |all| all.len() >= 6).await;
    let (defaults, validations) = (named(&all, "Webhook.Default"), named(&all, "Webhook.Validate"));
    assert_eq!((defaults.len(), validations.len()), (5, 1));
    let first = defaults.iter().find(|one| carried == format!("00-{}-{}-01", one.trace(), one.id()));
    let first = first.unwrap_or_else(|| panic!("{carried} is no span of {defaults:#?}"));
    assert_eq!(first.attribute("operation").as_deref(), Some("Create"));
    assert_eq!(first.attribute("uid").as_deref(), Some(UID));
    assert_eq!(first.attribute("result").as_deref(), Some("success"));
    assert_eq!(validations[0].attribute("result").as_deref(), Some("denied"));
    assert_eq!(validations[0].span.events.len(), 1, "the refusal is told in the span");
}
