use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::resolve;

use super::*;
use crate::lookup::{Fixed, World};

fn options() -> Options {
    Options {
        settings: resolve::Settings::default(),
        controller: String::new(),
        writers: Vec::new(),
        writer_groups: Vec::new(),
    }
}

fn core(replicas: i32) -> Value {
    json!({"metadata": {"name": "core"}, "spec": {"globalTopoServer": {"etcd": {"replicas": replicas}}}})
}

/// Clusters that use the template `core`, in a namespace that has it.
fn world(users: &[&str]) -> World {
    let spec = json!({"cells": [{"name": "a"}], "globalTopoServer": {"templateRef": "core"}});
    let spec: shared::api::v1alpha1::MultigresClusterSpec = serde_json::from_value(spec).unwrap();
    let clusters =
        users.iter().map(|name| Arc::new(Cluster { name: (*name).to_owned(), spec: spec.clone() })).collect();
    let template = serde_json::from_value(core(3)["spec"].clone()).unwrap();
    let templates = Templates { core: BTreeMap::from([("core".to_owned(), template)]), ..Templates::default() };
    World {
        templates: BTreeMap::from([("prod".to_owned(), Arc::new(templates))]),
        clusters: BTreeMap::from([("prod".to_owned(), clusters)]),
        ..World::default()
    }
}

async fn review(lookup: &Fixed, operation: &str, old: &Value, new: &Value) -> Answer {
    let request = json!({
        "uid": "1", "operation": operation, "namespace": "prod", "oldObject": old, "object": new,
    })
    .to_string();
    validate(TemplateKind::CoreTemplate, lookup, &options(), &serde_json::from_str(&request).unwrap()).await
}

#[tokio::test]
async fn a_template_in_use_stays_and_all_users_are_named() {
    let lookup = Fixed::new(world(&["one", "two"]));
    let denial = review(&lookup, "DELETE", &core(3), &Value::Null).await.denial.unwrap();
    assert_eq!(denial.code, 403);
    for user in ["core", "one", "two", "globalTopoServer.templateRef"] {
        assert!(denial.message.contains(user), "{}", denial.message);
    }
}

#[tokio::test]
async fn the_users_of_a_template_are_those_of_this_moment() {
    let gone = Fixed::lagging(world(&["one"]), world(&[]));
    assert_eq!(review(&gone, "DELETE", &core(3), &Value::Null).await.denial, None);
    let new = Fixed::lagging(world(&[]), world(&["one"]));
    assert!(review(&new, "DELETE", &core(3), &Value::Null).await.denial.is_some());
}

#[tokio::test]
async fn nothing_is_deleted_while_its_users_are_unknown() {
    let lookup = Fixed::new(world(&[]));
    lookup.cut_off();
    assert_eq!(review(&lookup, "DELETE", &core(3), &Value::Null).await.denial.unwrap().code, 503);
}

#[tokio::test]
async fn what_is_going_away_already_is_not_held() {
    let mut old = core(3);
    old["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    let lookup = Fixed::new(world(&["one"]));
    assert_eq!(review(&lookup, "DELETE", &old, &Value::Null).await, Answer::default());
    let mut new = old.clone();
    new["spec"] = core(2)["spec"].clone();
    assert_eq!(review(&lookup, "UPDATE", &old, &new).await, Answer::default());
}

#[tokio::test]
async fn an_edit_that_breaks_its_users_is_refused() {
    let lookup = Fixed::new(world(&["one"]));
    assert_eq!(review(&lookup, "UPDATE", &core(3), &core(5)).await.denial, None);
    assert_eq!(lookup.reads(), 0);
    // Of five members three have to stay.
    let denial = review(&lookup, "UPDATE", &core(5), &core(1)).await.denial.unwrap();
    assert_eq!(denial.code, 403);
    assert!(!denial.causes.is_empty());
    assert_eq!(lookup.reads(), 2);
}

#[tokio::test]
async fn others_have_their_turn_after_each_user_of_a_template() {
    let lookup = Fixed::new(world(&["one", "two", "three"]));
    let (old, new) = (core(3), core(5));
    let mut answer = std::pin::pin!(review(&lookup, "UPDATE", &old, &new));
    let mut turns = 0;
    let counted = std::future::poll_fn(|context| {
        turns += 1;
        answer.as_mut().poll(context)
    });
    assert_eq!(counted.await.denial, None);
    assert_eq!(turns, 3 + 1);
}

#[tokio::test]
async fn what_is_wrong_without_any_user_is_refused_without_asking() {
    let lookup = Fixed::new(world(&["one"]));
    lookup.cut_off();
    for old in [Value::Null, core(3)] {
        let operation = if old.is_null() { "CREATE" } else { "UPDATE" };
        let denial = review(&lookup, operation, &old, &core(2)).await.denial.unwrap();
        assert_eq!((denial.code, denial.causes[0].field.as_str()), (403, "spec.globalTopoServer.etcd.replicas"));
    }
    assert_eq!(lookup.reads(), 0);
}

#[tokio::test]
async fn an_unchanged_template_is_not_judged() {
    let lookup = Fixed::new(world(&["one"]));
    assert_eq!(review(&lookup, "UPDATE", &core(2), &core(2)).await, Answer::default());
    let reordered = r#"{"spec":{"multiadmin":{"replicas":1},"globalTopoServer":{"etcd":{"replicas":2}}}}"#;
    let old = r#"{"spec":{"globalTopoServer":{"etcd":{"replicas":2}},"multiadmin":{"replicas":1}}}"#;
    let request =
        format!(r#"{{"uid":"1","operation":"UPDATE","namespace":"prod","oldObject":{old},"object":{reordered}}}"#);
    let request = serde_json::from_str(&request).unwrap();
    assert_eq!(validate(TemplateKind::CoreTemplate, &lookup, &options(), &request).await, Answer::default());
}

#[tokio::test]
async fn a_template_of_another_shape_is_unreadable() {
    let lookup = Fixed::default();
    for object in [json!({}), json!({"spec": {"globalTopoServer": 1}}), Value::Null] {
        let answer = review(&lookup, "CREATE", &Value::Null, &object).await;
        assert_eq!(answer.denial.map(|denial| denial.code), Some(400), "{object}");
    }
}
