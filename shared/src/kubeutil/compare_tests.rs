//! Tests of the comparison: a table of what counts as a difference, and properties over arbitrary values.

use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;

fn path(live: &Value, desired: &Value) -> Option<String> {
    is_superset(live, desired).err().map(|difference| difference.to_string())
}

#[rstest]
#[case::extra_members(json!({"a": 1, "b": 2}), json!({"a": 1}))]
#[case::null_means_absent(json!({}), json!({"a": null}))]
#[case::null_is_tolerated(json!({"a": 1}), json!({"a": null}))]
#[case::empty_object(json!({}), json!({"resources": {}}))]
#[case::nested_empty_object(json!({}), json!({"metadata": {"labels": {}}}))]
#[case::empty_list(json!({}), json!({"args": []}))]
#[case::live_null_for_empty(json!({"labels": null}), json!({"labels": {}}))]
#[case::zero_left_out_by_go(json!({"hostAliases": null}), json!({"hostNetwork": false}))]
#[case::empty_env_value(
    json!({"env": [{"name": "A"}]}),
    json!({"env": [{"name": "A", "value": ""}]})
)]
#[case::numbers_of_two_kinds(json!({"a": 1}), json!({"a": 1.0}))]
#[case::map_list_in_another_order(
    json!({"containers": [{"name": "b"}, {"name": "a", "image": "i", "terminationMessagePath": "/dev/x"}]}),
    json!({"containers": [{"name": "a", "image": "i"}, {"name": "b"}]})
)]
#[case::container_ports_default_to_tcp(
    json!({"ports": [{"containerPort": 80, "protocol": "UDP"}, {"containerPort": 80, "protocol": "TCP", "name": "x"}]}),
    json!({"ports": [{"containerPort": 80, "name": "x"}]})
)]
#[case::service_ports(
    json!({"ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000, "targetPort": "http"}]}),
    json!({"ports": [{"port": 80, "targetPort": "http"}]})
)]
#[case::volume_mounts_by_path(
    json!({"volumeMounts": [{"mountPath": "/token", "name": "t"}, {"mountPath": "/a", "name": "v"}]}),
    json!({"volumeMounts": [{"mountPath": "/a", "name": "v", "readOnly": false}]})
)]
#[case::conditions_by_type(
    json!({"conditions": [{"type": "B", "status": "True"}, {"type": "A", "status": "True"}]}),
    json!({"conditions": [{"type": "A", "status": "True"}]})
)]
#[case::owners_by_uid(
    json!({"ownerReferences": [{"uid": "2", "name": "y"}, {"uid": "1", "name": "x"}]}),
    json!({"ownerReferences": [{"uid": "1", "name": "x"}]})
)]
#[case::spread_by_key_and_action(
    json!({"topologySpreadConstraints": [
        {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2},
        {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1, "nodeTaintsPolicy": "Honor"},
    ]}),
    json!({"topologySpreadConstraints": [
        {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1}
    ]})
)]
#[case::our_own_map_lists(
    json!({"spec": {"cells": [{"name": "b"}, {"name": "a", "zone": "z"}], "databases": [{"name": "postgres"}]}}),
    json!({"spec": {"cells": [{"name": "a", "zone": "z"}], "databases": [{"name": "postgres"}]}})
)]
#[case::cells_of_a_pool_are_a_set(json!({"cells": ["b", "a"]}), json!({"cells": ["a", "b"]}))]
#[case::atomic_list_with_defaulted_entries(
    json!({"tolerations": [{"key": "k", "operator": "Equal"}]}),
    json!({"tolerations": [{"key": "k"}]})
)]
#[case::pod_tolerations_of_admission(
    json!({"kind": "Pod", "spec": {"tolerations": [{"key": "k"}, {"key": "node.kubernetes.io/not-ready"}]}}),
    json!({"kind": "Pod", "spec": {"tolerations": [{"key": "k"}]}})
)]
#[case::quantities(
    json!({"resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": 2}}}),
    json!({"resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": {"cpu": "2000m"}}})
)]
#[case::size_limit(json!({"emptyDir": {"sizeLimit": "1Gi"}}), json!({"emptyDir": {"sizeLimit": "1024Mi"}}))]
#[case::storage_size(json!({"storage": {"size": "1Gi"}}), json!({"storage": {"size": "1024Mi"}}))]
#[case::int_or_string(json!({"minAvailable": "1"}), json!({"minAvailable": 1}))]
#[case::string_data(
    json!({"kind": "Secret", "data": {"password": "c2VjcmV0"}}),
    json!({"kind": "Secret", "stringData": {"password": "secret"}})
)]
#[case::finalizers_are_a_set(json!({"finalizers": ["a", "b"]}), json!({"finalizers": ["b"]}))]
#[case::node_selector_equal(json!({"nodeSelector": {"a": "b"}}), json!({"nodeSelector": {"a": "b"}}))]
fn nothing_to_apply(#[case] live: Value, #[case] desired: Value) {
    assert_eq!(path(&live, &desired), None);
}

#[rstest]
#[case(json!({"spec": {"replicas": 1}}), json!({"spec": {"replicas": 2}}), "spec.replicas differs")]
#[case(json!({"spec": {}}), json!({"spec": {"replicas": 2}}), "spec.replicas is missing")]
#[case(json!({"spec": {"replicas": null}}), json!({"spec": {"replicas": 0}}), "spec.replicas is missing")]
#[case(json!({}), json!({"automountServiceAccountToken": false}), "automountServiceAccountToken is missing")]
#[case(json!({}), json!({"volumes": [{"name": "a"}]}), "volumes is missing")]
#[case(
    json!({"volumes": [{"name": "a", "hostPath": {}}]}),
    json!({"volumes": [{"name": "a", "emptyDir": {}}]}),
    "volumes[name=a].emptyDir is missing"
)]
#[case(
    json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}),
    json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}]}]}),
    "containers[name=a].env[name=X].value differs"
)]
#[case(
    json!({"containers": [{"name": "a"}]}),
    json!({"containers": [{"name": "b"}]}),
    "containers[name=b] is missing"
)]
#[case(
    json!({"ports": [{"containerPort": 80}]}),
    json!({"ports": [{"containerPort": 80, "protocol": "UDP"}]}),
    "ports[containerPort=80,protocol=UDP] is missing"
)]
#[case(json!({"args": ["a"]}), json!({"args": ["a", "b"]}), "args differs")]
#[case(json!({"args": ["a", "b"]}), json!({"args": ["a"]}), "args differs")]
#[case(json!({"args": ["b", "a"]}), json!({"args": ["a", "b"]}), "args[0] differs")]
#[case(
    json!({"tolerations": [{"key": "k"}, {"key": "l"}]}),
    json!({"tolerations": [{"key": "k"}]}),
    "tolerations differs"
)]
#[case(
    json!({"kind": "Pod", "spec": {"tolerations": [{"key": "l"}]}}),
    json!({"kind": "Pod", "spec": {"tolerations": [{"key": "k"}]}}),
    "spec.tolerations[0] is missing"
)]
#[case(
    json!({"resources": {"requests": {"cpu": "1"}}}),
    json!({"resources": {"requests": {"cpu": "1001m"}}}),
    "resources.requests.cpu differs"
)]
#[case(json!({"data": {"cpu": "1"}}), json!({"data": {"cpu": "1000m"}}), "data.cpu differs")]
#[case(json!({"a": "1"}), json!({"a": 1}), "a differs")]
#[case(
    json!({"kind": "Secret", "data": {"password": "b3RoZXI="}}),
    json!({"kind": "Secret", "stringData": {"password": "secret"}}),
    "stringData.password differs"
)]
#[case(
    json!({"kind": "Secret"}),
    json!({"kind": "Secret", "stringData": {"password": "secret"}}),
    "stringData.password is missing"
)]
#[case(json!({"cells": ["a"]}), json!({"cells": ["a", "b"]}), "cells[=b] is missing")]
#[case(json!({"nodeSelector": {"a": "b", "c": "d"}}), json!({"nodeSelector": {"a": "b"}}), "nodeSelector differs")]
#[case(
    json!({"metadata": {"labels": {}}}),
    json!({"metadata": {"labels": {"multigres.com/cell": "a"}}}),
    "metadata.labels[multigres.com/cell] is missing"
)]
#[case(json!("text"), json!({"a": 1}), " differs")]
fn first_difference_is_named(#[case] live: Value, #[case] desired: Value, #[case] expected: &str) {
    assert_eq!(path(&live, &desired).as_deref(), Some(expected));
}

#[test]
fn a_difference_never_shows_a_value() {
    let live = json!({"kind": "Secret", "data": {"password": "b2xk"}});
    let desired = json!({"kind": "Secret", "data": {"password": "bmV3"}});
    let text = format!("{:?}", is_superset(&live, &desired));
    assert!(!text.contains("b2xk") && !text.contains("bmV3"), "{text}");
}

#[test]
fn paths_that_an_answer_did_not_keep_are_ignored_later() {
    let desired = json!({"spec": {
        "initContainers": [{"name": "sidecar", "restartPolicy": "Always", "image": "i"}],
        "hostUsers": false,
        "replicas": 2,
    }});
    let answer = json!({"spec": {"initContainers": [{"name": "sidecar", "image": "mirror/i"}], "replicas": 2}});
    let ignored = not_kept(&answer, &desired);
    assert_eq!(
        ignored.iter().map(String::as_str).collect::<Vec<_>>(),
        [
            "spec.hostUsers",
            "spec.initContainers[name=sidecar].image",
            "spec.initContainers[name=sidecar].restartPolicy",
        ]
    );
    assert_eq!(is_superset_ignoring(&answer, &desired, &ignored), Ok(()));
    let drifted = json!({"spec": {"initContainers": [{"name": "sidecar", "image": "mirror/i"}], "replicas": 3}});
    assert_eq!(is_superset_ignoring(&drifted, &desired, &ignored).unwrap_err().path, "spec.replicas");
}

#[test]
fn digest_does_not_depend_on_the_order_of_members() {
    let one: Value = serde_json::from_str(r#"{"a": 1, "b": {"c": [1, 2], "d": null}}"#).unwrap();
    let two: Value = serde_json::from_str(r#"{"b": {"c": [1, 2]}, "a": 1}"#).unwrap();
    assert_eq!(digest(&one), digest(&two));
    assert_eq!(digest(&one).len(), 64);
}

/// Digests are stored in live objects, so the form of a text must never change.
#[test]
fn texts_in_a_digest_have_the_form_of_json() {
    let texts = (0..=0xff_u8).map(|code| format!("a{}b", char::from(code)));
    for text in texts.chain([String::new(), "\u{2028} \u{1f418} \"\\\"".to_owned()]) {
        let mut found = String::new();
        quoted(&text, &mut found);
        assert_eq!(found, serde_json::to_string(&text).unwrap());
    }
}

#[rstest]
#[case(json!({"a": "b"}), json!({"a": "c"}))]
#[case(json!([1, 2]), json!([2, 1]))]
#[case(json!([[1], 2]), json!([[1, 2]]))]
#[case(json!({"a": "1"}), json!({"a": 1}))]
#[case(json!({"a": {"b": 1}}), json!({"a": {}, "b": 1}))]
fn digest_tells_values_apart(#[case] one: Value, #[case] two: Value) {
    assert_ne!(digest(&one), digest(&two));
}

/// Values with member names that mean something to the comparison and some that do not.
fn any_value() -> impl Strategy<Value = Value> {
    let name = proptest::sample::select(vec![
        "a",
        "b",
        "name",
        "env",
        "containers",
        "ports",
        "port",
        "containerPort",
        "cells",
        "requests",
        "limits",
        "value",
        "nodeSelector",
        "selector",
        "kind",
        "emptyDir",
        "tolerations",
        "stringData",
        "conditions",
        "type",
        "size",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..3).prop_map(Value::from),
        proptest::sample::select(vec!["", "1", "1000m", "1Gi", "x", "Pod", "Secret"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((name.clone(), inner), 0..4).prop_map(|members| {
                Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

/// A map list with unique names, as the API server stores it.
fn containers() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-e]", ("[a-c]", 0_u8..4), 0..5).prop_map(|all| {
        let items: Vec<Value> =
            all.into_iter().map(|(name, (image, n))| json!({"name": name, "image": image, "n": n})).collect();
        json!({"kind": "Deployment", "spec": {"containers": items}})
    })
}

/// Adds what a server or another writer may add without touching what is there.
fn grow(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let atomic = members.values().all(Value::is_string);
            let mut grown: Map<String, Value> = members.iter().map(|(key, value)| (key.clone(), grow(value))).collect();
            if !atomic {
                grown.insert("defaulted".to_owned(), json!({"by": "server"}));
            }
            Value::Object(grown)
        }
        Value::Array(items) => items.iter().map(grow).collect(),
        scalar => scalar.clone(),
    }
}

proptest! {
    #[test]
    fn comparison_never_panics(live in any_value(), desired in any_value()) {
        let _ = is_superset(&live, &desired);
    }

    #[test]
    fn grown_object_still_contains_the_desired_one(desired in containers()) {
        prop_assert_eq!(is_superset(&grow(&desired), &desired), Ok(()));
    }

    #[test]
    fn reversed_map_list_still_contains_the_desired_one(desired in containers()) {
        let mut live = desired.clone();
        live["spec"]["containers"].as_array_mut().unwrap().reverse();
        prop_assert_eq!(is_superset(&live, &desired), Ok(()));
    }

    #[test]
    fn any_changed_leaf_is_seen(desired in containers(), index in any::<proptest::sample::Index>()) {
        let mut live = desired.clone();
        let items = live["spec"]["containers"].as_array_mut().unwrap();
        prop_assume!(!items.is_empty());
        let item = index.index(items.len());
        items[item]["n"] = json!(99);
        let difference = is_superset(&live, &desired).unwrap_err();
        prop_assert!(difference.path.ends_with("].n"), "{}", difference.path);
    }

    #[test]
    fn ignoring_what_was_not_kept_leaves_no_difference(answer in any_value(), desired in any_value()) {
        let ignored = not_kept(&answer, &desired);
        if !ignored.contains("") {
            prop_assert_eq!(is_superset_ignoring(&answer, &desired, &ignored), Ok(()));
        }
    }

    #[test]
    fn equal_values_have_equal_digests(value in any_value()) {
        let text = value.to_string();
        let again: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(digest(&value), digest(&again));
    }
}
