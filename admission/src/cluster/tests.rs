use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::{
    api::v1alpha1::{CoreTemplateSpec, ShardTemplateSpec},
    resolve,
    validate::StorageClasses,
};

use super::*;
use crate::lookup::{Fixed, World};

const CONTROLLER: &str = "system:serviceaccount:multigres:controller";

fn options() -> Options {
    Options {
        settings: resolve::Settings::default(),
        controller: CONTROLLER.to_owned(),
        writers: Vec::new(),
        writer_groups: Vec::new(),
    }
}

fn cluster(spec: &Value) -> Value {
    json!({"metadata": {"name": "demo", "namespace": "prod"}, "spec": spec})
}

/// Valid in itself, with one cell and a core template.
fn templated() -> Value {
    json!({"cells": [{"name": "a"}], "globalTopoServer": {"templateRef": "core"}})
}

/// An even number of etcd members.
fn broken() -> Value {
    json!({"cells": [{"name": "a"}], "globalTopoServer": {"etcd": {"replicas": 2}}})
}

fn world(core: Option<i32>) -> World {
    let core = core.map(|replicas| {
        let spec = json!({"globalTopoServer": {"etcd": {"replicas": replicas}}});
        ("core".to_owned(), serde_json::from_value::<CoreTemplateSpec>(spec).unwrap())
    });
    let templates = Templates { core: core.into_iter().collect(), ..Templates::default() };
    World { templates: BTreeMap::from([("prod".to_owned(), Arc::new(templates))]), ..World::default() }
}

fn classes(has_default: bool) -> World {
    let classes = StorageClasses { has_default, ..StorageClasses::default() };
    let surroundings = Arc::new(Surroundings { storage_classes: Some(classes), nodes: None });
    World { surroundings, ..World::default() }
}

async fn review(lookup: &Fixed, user: &str, old: &Value, new: &Value) -> Answer {
    let request = json!({
        "uid": "1", "operation": if old.is_null() { "CREATE" } else { "UPDATE" }, "namespace": "prod", "name": "demo",
        "userInfo": {"username": user}, "oldObject": old, "object": new,
    })
    .to_string();
    validate(lookup, &options(), &serde_json::from_str(&request).unwrap()).await
}

async fn create(lookup: &Fixed, spec: &Value) -> Answer {
    review(lookup, "jane", &Value::Null, &cluster(spec)).await
}

fn fields(answer: &Answer) -> Vec<&str> {
    let denial = answer.denial.as_ref().unwrap();
    assert_eq!((denial.code, denial.reason), (403, "Forbidden"));
    denial.causes.iter().map(|cause| cause.field.as_str()).collect()
}

#[tokio::test]
async fn a_valid_cluster_passes_without_a_question_to_the_api_server() {
    let lookup = Fixed::new(world(Some(3)));
    assert_eq!(create(&lookup, &templated()).await.denial, None);
    assert_eq!(lookup.reads(), 0);
}

#[tokio::test]
async fn a_missing_template_is_looked_for_once_before_the_refusal() {
    let lookup = Fixed::default();
    let answer = create(&lookup, &templated()).await;
    assert_eq!(fields(&answer), ["spec.globalTopoServer.templateRef"]);
    let denial = answer.denial.unwrap();
    assert_eq!(denial.causes[0].reason, "FieldValueNotFound");
    assert_eq!(denial.message, denial.causes[0].message);
    assert_eq!(lookup.reads(), 1);
}

#[tokio::test]
async fn a_template_applied_with_its_user_is_found() {
    let lookup = Fixed::lagging(World::default(), world(Some(3)));
    assert_eq!(create(&lookup, &templated()).await.denial, None);
    let corrected = Fixed::lagging(world(Some(2)), world(Some(3)));
    assert_eq!(create(&corrected, &templated()).await.denial, None);
}

#[tokio::test]
async fn errors_come_back_together_with_missing_templates() {
    let spec = json!({"cells": [{"name": "UPPER"}], "multiadmin": {"templateRef": "core"}});
    let answer = create(&Fixed::default(), &spec).await;
    let fields = fields(&answer);
    assert_eq!(fields.len(), 2, "{answer:?}");
    assert_eq!(fields[0], "spec.multiadmin.templateRef");
    assert!(fields[1].starts_with("spec.cells[UPPER]"), "{fields:?}");
    assert!(answer.denial.as_ref().unwrap().message.starts_with("2 errors: multiadmin.templateRef: "), "{answer:?}");
}

#[tokio::test]
async fn a_failed_read_is_no_judgement() {
    let lookup = Fixed::default();
    lookup.cut_off();
    let denial = create(&lookup, &templated()).await.denial.unwrap();
    assert_eq!((denial.code, denial.reason), (503, "ServiceUnavailable"));
    assert!(denial.message.starts_with("cannot read templates: "), "{}", denial.message);
}

#[tokio::test]
async fn what_a_spec_says_wrongly_on_its_own_needs_no_read() {
    let lookup = Fixed::default();
    lookup.cut_off();
    let spec = json!({"cells": [{"name": "a", "zone": "x", "region": "y"}]});
    assert_eq!(fields(&create(&lookup, &spec).await), ["spec.cells[a]"]);
    assert_eq!(lookup.reads(), 0);
}

#[tokio::test]
async fn what_a_template_may_have_a_part_in_is_read_once_more() {
    let lookup = Fixed::default();
    assert_eq!(fields(&create(&lookup, &broken()).await), ["spec.globalTopoServer.etcd.replicas"]);
    assert_eq!(lookup.reads(), 1);
}

#[tokio::test]
async fn a_template_called_default_that_is_applied_with_a_cluster_that_needs_it_is_found() {
    let spec = json!({
        "cells": [{"name": "a"}],
        "globalTopoServer": {"external": {"endpoints": ["http://etcd:2379"], "rootPath": "/demo"}},
        "backup": {"type": "s3", "s3": {"bucket": "b", "region": "r"}},
    });
    let shard = json!({"pools": {"main": {"storage": {"class": "fast"}}}});
    let shard: ShardTemplateSpec = serde_json::from_value(shard).unwrap();
    let templates = Templates { shard: BTreeMap::from([("default".to_owned(), shard)]), ..Templates::default() };
    let applied = World { templates: BTreeMap::from([("prod".to_owned(), Arc::new(templates))]), ..classes(false) };
    let lookup = Fixed::lagging(classes(false), applied);
    assert_eq!(create(&lookup, &spec).await.denial, None);
    assert_eq!(lookup.reads(), 2);
    assert!(create(&Fixed::new(classes(false)), &spec).await.denial.is_some());
}

#[tokio::test]
async fn a_default_storage_class_is_looked_for_before_the_refusal() {
    let spec = json!({"cells": [{"name": "a"}]});
    assert_eq!(create(&Fixed::lagging(classes(false), classes(true)), &spec).await.denial, None);
    let lookup = Fixed::new(classes(false));
    assert!(create(&lookup, &spec).await.denial.is_some());
    // The templates and the classes.
    assert_eq!(lookup.reads(), 2);
    assert_eq!(create(&Fixed::lagging(classes(false), World::default()), &spec).await.denial, None);
}

#[tokio::test]
async fn what_does_not_change_the_spec_is_not_judged() {
    let lookup = Fixed::default();
    let bad = cluster(&broken());
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(review(&lookup, "jane", &bad, &labelled).await, Answer::default());
    let mut deleting = cluster(&templated());
    deleting["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    assert_eq!(review(&lookup, "jane", &bad, &deleting).await, Answer::default());
    assert_eq!(review(&lookup, CONTROLLER, &Value::Null, &bad).await, Answer::default());
    assert!(review(&lookup, "jane", &cluster(&templated()), &bad).await.denial.is_some());
}

#[tokio::test]
async fn an_object_of_another_shape_is_unreadable_and_not_a_failure() {
    for object in [json!({}), json!({"spec": null}), json!({"spec": {"cells": 5}}), json!("x"), json!([])] {
        let answer = review(&Fixed::default(), "jane", &Value::Null, &object).await;
        assert_eq!(answer.denial.map(|denial| denial.code), Some(400), "{object}");
    }
}
