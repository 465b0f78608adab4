//! When a write is not needed.

use std::convert::Infallible;

use k8s_openapi::api::core::v1::Secret;
use kube::client::Body;
use shared::metrics::Build;

use super::*;
use crate::upstream::fake::FakeDataPlane;

/// An executor that needs no server.
fn executor(stores: &Arc<Stores>) -> Executor {
    let nobody =
        tower::service_fn(|_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, Infallible>>());
    let registry = shared::metrics::Metrics::new(Build { version: "1", revision: "a" }).unwrap();
    let metrics = Arc::new(Metrics::new(&registry).unwrap());
    Executor::new(Client::new(nobody, "default"), Arc::clone(stores), FakeDataPlane::new().upstream(), metrics)
}

#[tokio::test]
async fn an_answer_is_trusted_until_the_watch_shows_the_object_or_its_end() {
    let stores = Arc::new(Stores::default());
    let executor = executor(&stores);
    let meta = json!({"namespace": "prod", "name": "tls", "uid": "u1", "resourceVersion": "7"});
    let made = json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta});
    let secret: Secret = serde_json::from_value(made.clone()).unwrap();
    let key = ObjectKey::of(&secret);
    executor.remember(key.clone(), made.clone());
    assert_eq!(executor.freshest(&key), Some(made.clone()), "no watch has shown it yet");
    // Both may come before anybody asks again: then the object was in the tables only in between.
    stores.ended.note(&secret);
    assert_eq!(executor.freshest(&key), None, "somebody deleted it");
    // Another one under its name is news again.
    let mut again = made;
    again["metadata"]["uid"] = json!("u2");
    executor.remember(key.clone(), again.clone());
    assert_eq!(executor.freshest(&key), Some(again));
}

#[test]
fn a_merge_patch_that_changes_nothing_is_recognised() {
    let live = json!({"metadata": {"finalizers": ["a"], "labels": {"x": "1", "y": "2"}}});
    assert!(holds_patch(&live, &json!({"metadata": {"finalizers": ["a"]}})));
    assert!(holds_patch(&live, &json!({"metadata": {"annotations": {"gone": null}}})));
    assert!(!holds_patch(&live, &json!({"metadata": {"labels": {"x": null}}})));
    assert!(!holds_patch(&live, &json!({"metadata": {"finalizers": []}})));
}
