//! Laws of the mutation, on generated clusters.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{TraceContext, cluster};

fn storage() -> impl Strategy<Value = Value> {
    let class = || prop::option::of(prop_oneof![Just(json!("a")), Just(json!("b")), Just(json!(5))]);
    (class(), class(), any::<bool>()).prop_map(|(class, alias, future)| {
        let mut storage = Map::new();
        storage.extend(class.map(|class| ("class".to_owned(), class)));
        storage.extend(alias.map(|alias| ("storageClassName".to_owned(), alias)));
        if future {
            storage.insert("future".to_owned(), json!({"x": [1]}));
        }
        Value::Object(storage)
    })
}

fn table_groups() -> impl Strategy<Value = Value> {
    let group = ("[a-b]", storage(), prop_oneof![Just("spec"), Just("overrides"), Just("odd")]).prop_map(
        |(name, storage, block)| json!({"name": name, "shards": [{"name": "0-inf", block: {"pools": {"p": {"storage": storage}}}}]}),
    );
    prop_oneof![
        9 => prop::collection::vec(group, 0..3).prop_map(Value::from),
        1 => Just(json!("no list")),
    ]
}

fn databases() -> impl Strategy<Value = Value> {
    let database = (prop::option::of(table_groups()), prop::option::of(table_groups()), storage()).prop_map(
        |(canonical, alias, storage)| {
            let mut database = json!({"name": "postgres", "future": 1, "backup": {"filesystem": {"storage": storage}}});
            if let Some(canonical) = canonical {
                database["tablegroups"] = canonical;
            }
            if let Some(alias) = alias {
                database["tableGroups"] = alias;
            }
            database
        },
    );
    prop_oneof![9 => prop::collection::vec(database, 0..2).prop_map(Value::from), 1 => Just(Value::Null)]
}

fn object() -> impl Strategy<Value = Value> {
    (prop::option::of(databases()), storage(), prop::option::of(any::<bool>())).prop_map(
        |(databases, storage, annotated)| {
            let mut object = json!({
                "apiVersion": "multigres.com/v1alpha1",
                "metadata": {"name": "demo"},
                "spec": {"future": {"tableGroups": 1}, "globalTopoServer": {"etcd": {"storage": storage}}},
                "status": {"storageClassName": "x"},
            });
            if let Some(databases) = databases {
                object["spec"]["databases"] = databases;
            }
            if let Some(some) = annotated {
                object["metadata"]["annotations"] = if some { json!({"mine": "kept"}) } else { json!({}) };
            }
            object
        },
    )
}

fn apply(old: Option<&Value>, object: &Value, trace: Option<&TraceContext>) -> Value {
    let old = old.map(ToString::to_string);
    let mut after = object.clone();
    if let Some(patch) = cluster(old.as_deref(), &object.to_string(), trace).patch {
        json_patch::patch(&mut after, &patch).unwrap();
    }
    after
}

/// Removes everything that the mutation may touch.
fn untouchable(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .filter(|(key, value)| {
                    let ours = match key.as_str() {
                        "class" | "storageClassName" | "tablegroups" | "tableGroups" => true,
                        // Those of the skeleton; generated ones have a future.
                        "databases" => value[0].is_object() && value[0]["future"].is_null(),
                        "annotations" => value["mine"].is_null(),
                        key => key.starts_with("multigres.com/trace"),
                    };
                    !ours
                })
                .map(|(key, value)| (key.clone(), untouchable(value)))
                .collect(),
        ),
        Value::Array(items) => items.iter().map(untouchable).collect(),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn mutating_twice_equals_mutating_once(old in prop::option::of(object()), new in object(), traced: bool) {
        let trace = TraceContext::new("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None, 7);
        let trace = trace.filter(|_| traced);
        let once = apply(old.as_ref(), &new, trace.as_ref());
        prop_assert_eq!(apply(old.as_ref(), &once, trace.as_ref()), once);
    }

    #[test]
    fn everything_else_stays_as_it_is(old in prop::option::of(object()), new in object(), traced: bool) {
        let trace = TraceContext::new("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None, 7);
        let once = apply(old.as_ref(), &new, trace.filter(|_| traced).as_ref());
        prop_assert_eq!(untouchable(&once), untouchable(&new));
    }

    #[test]
    fn applying_the_same_manifest_again_changes_nothing(manifest in object()) {
        // What is stored after creation, then an update that writes the manifest over it, as a client-side apply does.
        let stored = apply(None, &manifest, None);
        // The schema refuses both spellings at once.
        let storage = &stored["spec"]["globalTopoServer"]["etcd"]["storage"];
        prop_assume!(storage["class"].is_null() || storage["storageClassName"].is_null());
        let mut applied = stored.clone();
        json_patch::merge(&mut applied, &without_lists_that_are_stored(&manifest, &stored));
        let again = apply(Some(&stored), &applied, None);
        prop_assert_eq!(&again["metadata"], &stored["metadata"]);
        prop_assert_eq!(again["spec"]["globalTopoServer"].clone(), stored["spec"]["globalTopoServer"].clone());
    }
}

/// A merge patch replaces lists, which an apply of a list with keys does not.
fn without_lists_that_are_stored(manifest: &Value, stored: &Value) -> Value {
    let mut manifest = manifest.clone();
    if let Some(spec) = manifest["spec"].as_object_mut()
        && !stored["spec"]["databases"].is_null()
    {
        spec.remove("databases");
    }
    manifest
}
