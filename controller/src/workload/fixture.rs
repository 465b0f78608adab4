//! Objects and views that the tests of several kinds share.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, StatefulSet, StatefulSetStatus};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    plan::{Action, Plan},
    settings::Settings,
};

/// The time of all tests.
pub fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// Settings as the flags give them by default.
pub fn settings() -> Settings {
    Settings {
        images: shared::image::ImageSet::default(),
        support_images: shared::image::SupportImages::default(),
        exporter_resources: None,
        image_update_strategy: shared::api::v1alpha1::ImageUpdateStrategy::Lazy,
        template_wave: 10,
        zone_id_label: "topology.k8s.aws/zone-id".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        native_sidecars: true,
        eviction_policy: true,
        claim_policy: true,
        poll_unsettled: Duration::from_secs(2),
        poll_settled: Duration::from_secs(20),
    }
}

/// An object as it comes back from the server: with a uid and a generation.
pub fn stored<K: Resource>(mut object: K, generation: i64) -> K {
    let meta = object.meta_mut();
    meta.namespace.get_or_insert_with(|| "prod".to_owned());
    let name = meta.name.clone().unwrap_or_default();
    meta.uid = Some(format!("uid-of-{name}"));
    meta.resource_version = Some("7".to_owned());
    meta.generation = Some(generation);
    object
}

/// The object of kind `K` with this name that a plan applies, as stored by the server.
pub fn applied<K, S>(plan: &Plan<S>, name: &str) -> Option<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    plan.writes.iter().find_map(|write| match &write.action {
        Action::Apply(object) if object.name == name && object.gvk.kind == K::kind(&()) => {
            Some(stored(serde_json::from_value(object.value.clone()).unwrap(), 1))
        }
        _ => None,
    })
}

/// Every write of a plan, for snapshots and searches.
pub fn writes<S>(plan: &Plan<S>) -> Vec<Value> {
    let view = |action: &Action| match action {
        Action::Apply(object) => json!({ "apply": legible(object.value.clone()) }),
        Action::CreateOnce(object) => json!({ "create": object.value }),
        Action::Merge { target, patch } => json!({ "merge": target.key.to_string(), "patch": patch }),
        Action::Delete(target) => json!({ "delete": target.key.to_string() }),
        Action::Topology { at, write } => json!({ "topology": format!("{at:?}"), "write": format!("{write:?}") }),
        other => json!({ "effect": format!("{other:?}") }),
    };
    let entry = |reason: &str, mut value: Value| {
        value["reason"] = reason.into();
        value
    };
    plan.writes.iter().map(|write| entry(write.reason, view(&write.action))).collect()
}

/// An object without the packed copies of what it shows openly, or what is shown elsewhere.
pub fn legible(mut value: Value) -> Value {
    if let Some(rendering) = value.pointer_mut("/metadata/annotations/multigres.com~1rendering") {
        *rendering = "…".into();
    }
    for packed in
        value.pointer_mut("/binaryData").and_then(Value::as_object_mut).into_iter().flat_map(|all| all.values_mut())
    {
        *packed = "…".into();
    }
    value
}

/// What each write does and to what, in order.
pub fn outline<S>(plan: &Plan<S>) -> Vec<String> {
    let view = |action: &Action| match action {
        Action::Apply(object) => format!("apply {}", object.key()),
        Action::CreateOnce(object) => format!("create {}", object.key()),
        Action::Merge { target, .. } => format!("merge {}", target.key),
        Action::Delete(target) => format!("delete {}", target.key),
        Action::Topology { write, .. } => format!("topology {write:?}"),
        other => format!("{other:?}"),
    };
    plan.writes.iter().map(|write| view(&write.action)).collect()
}

/// Asserts what holds for every object that is applied: identity labels, one controller, a name that fits its kind.
pub fn assert_owned<S>(plan: &Plan<S>, cluster: &str, owner_uid: &str) {
    for write in &plan.writes {
        let Action::Apply(object) = &write.action else { continue };
        let meta = &object.value["metadata"];
        let name = object.key().to_string();
        assert_eq!(meta["labels"]["app.kubernetes.io/instance"], cluster, "{name}");
        assert_eq!(meta["labels"]["app.kubernetes.io/managed-by"], "multigres-operator", "{name}");
        assert!(meta["labels"]["app.kubernetes.io/component"].is_string(), "{name}");
        let owners = meta["ownerReferences"].as_array().unwrap();
        assert_eq!(owners.len(), 1, "{name}");
        assert_eq!((&owners[0]["uid"], &owners[0]["controller"]), (&json!(owner_uid), &json!(true)), "{name}");
        let longest = match object.gvk.kind.as_str() {
            "Service" | "PodDisruptionBudget" => 63,
            "StatefulSet" => 52,
            _ => 253,
        };
        assert!(object.name.len() <= longest, "{name}");
        for (key, value) in meta["labels"].as_object().unwrap() {
            assert!(value.as_str().unwrap().len() <= 63, "{name}: {key}");
        }
    }
}

/// A Deployment all of whose pods are current and ready.
pub fn rolled_out(mut deployment: Deployment) -> Arc<Deployment> {
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    deployment.status = Some(DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas,
        updated_replicas: replicas,
        ready_replicas: replicas,
        ..DeploymentStatus::default()
    });
    Arc::new(deployment)
}

/// A StatefulSet with this many ready pods.
pub fn running(mut set: StatefulSet, ready: i32) -> Arc<StatefulSet> {
    set.status = Some(StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default(),
        ready_replicas: Some(ready),
        ..StatefulSetStatus::default()
    });
    Arc::new(set)
}
