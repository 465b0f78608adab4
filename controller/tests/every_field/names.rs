//! Names of objects, labels and addresses stay legal however long the names are that users choose, and never meet.

use std::{collections::BTreeSet, slice};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{input::Input, world::World};

/// Names of that length as users may choose them; the ones with digits and hyphens in awkward places included.
fn name(length: usize) -> impl Strategy<Value = String> {
    let middle = length - 2;
    proptest::string::string_regex(&format!("[a-z0-9][a-z0-9-]{{{middle}}}[a-z0-9]")).unwrap()
}

prop_compose! {
    fn longest()(
        namespace in name(63),
        cluster in name(25),
        cells in (name(30), name(30)),
        groups in (name(25), name(25)),
        pools in (name(25), name(25)),
    ) -> Input {
        let pools = json!({ pools.0: {"cells": [cells.0]}, pools.1: {} });
        let shard = |pools: &Value| json!([{"name": "0-inf", "spec": {"pools": pools}}]);
        let group = |name: &str| json!({"name": name, "shards": shard(&pools)});
        let local = json!({"localTopoServer": {"etcd": {"replicas": 1}}});
        let mut input = Input::base();
        input.spec = json!({
            "cells": [{"name": cells.0, "spec": local}, {"name": cells.1, "zoneId": "z".repeat(63)}],
            "databases": [{"name": "postgres", "tablegroups": [group("default"), group(&groups.0), group(&groups.1)]}],
            "internalTLS": {"enabled": true},
            "observability": {"otlpEndpoint": "http://otel:4318"},
            "multiadmin": {"spec": {"replicas": 2}},
        });
        (input.namespace, input.name) = (namespace, cluster);
        input
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_at_every_limit_make_legal_objects(input in longest()) {
        prop_assume!(distinct(&input));
        let verdict = input.judge(None);
        // Services are named after their cluster, and those names begin with a letter.
        let nameable = input.name.starts_with(|c: char| c.is_ascii_lowercase());
        prop_assert_eq!(verdict.is_accepted(), nameable, "{} {}", input.name, verdict.summary());
        prop_assume!(nameable);
        for (id, object) in settled(slice::from_ref(&input)).applied() {
            if let Some(what) = illegal(object) {
                prop_assert!(false, "{id}: {what}");
            }
        }
    }

    #[test]
    fn the_same_names_in_two_namespaces_do_not_meet(input in longest(), other in name(63)) {
        prop_assume!(distinct(&input) && other != input.namespace);
        let twin = Input { namespace: other, ..input.clone() };
        let of = |world: &World, namespace: &str| -> Vec<(String, Value)> {
            let all = world.rendered().into_iter();
            all.filter(|(_, object)| object["metadata"]["namespace"] == namespace).collect()
        };
        // The same world goes on when the other one comes: whatever differs then is its doing.
        let (alone, both) = block_on(async {
            let mut world = World::empty();
            world.apply(&input).await;
            let alone = of(&world, &input.namespace);
            world.apply(&twin).await;
            (alone, world)
        });
        // What is rendered here is the same whether the other one is there or not, and nothing of it mentions the other one.
        let here = of(&both, &input.namespace);
        prop_assert_eq!(&here, &alone);
        prop_assert_eq!(here.len(), of(&both, &twin.namespace).len());
        for (id, object) in here {
            prop_assert!(!object.to_string().contains(&twin.namespace), "{id}");
        }
    }
}

/// Whether no two cells, groups or pools have the same name.
fn distinct(input: &Input) -> bool {
    let cells: BTreeSet<_> =
        input.spec["cells"].as_array().unwrap().iter().map(|cell| cell["name"].to_string()).collect();
    let groups = input.spec["databases"][0]["tablegroups"].as_array().unwrap();
    let names: BTreeSet<_> = groups.iter().map(|group| group["name"].to_string()).collect();
    let pools = groups[0]["shards"][0]["spec"]["pools"].as_object().unwrap().len();
    cells.len() == 2 && names.len() == 3 && pools == 2
}

/// A world in which these were applied at once, settled.
fn settled(inputs: &[Input]) -> World {
    block_on(async {
        let mut world = World::empty();
        world.apply_all(inputs).await;
        world
    })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn clusters_of_one_namespace_never_share_an_object() {
    // Names that would meet if parts were only joined by hyphens.
    let clusters = ["a", "a-b", "a-b-c", "a-multigateway", "a-global-topo", "a-postgres", "a-b-postgres-default"];
    let inputs: Vec<Input> = clusters
        .iter()
        .map(|cluster| {
            let mut input = Input::base();
            input.name = (*cluster).to_owned();
            let pool = json!({"b": {}, "b-pool": {}});
            let shards = json!([{"name": "0-inf", "spec": {"pools": pool}}]);
            input.spec = json!({
                "cells": [{"name": "b"}, {"name": "b-c"}, {"name": "c"}, {"name": "multigateway"}, {"name": "global-topo"}],
                "databases": [{"name": "postgres", "tablegroups": [{"name": "default", "shards": shards}]}],
            });
            input
        })
        .collect();
    let together = settled(&inputs).rendered();
    let apart: usize = inputs.iter().map(|input| objects(&settled(slice::from_ref(input)).rendered())).sum();
    assert_eq!(objects(&together), apart);
}

fn objects(rendered: &crate::world::Rendered) -> usize {
    rendered.keys().filter(|id| !id.starts_with("topology/")).count()
}

/// Why an API server, or a name server, would refuse an object.
fn illegal(object: &Value) -> Option<String> {
    let kind = object["kind"].as_str()?;
    let name = object["metadata"]["name"].as_str()?;
    let namespace = object["metadata"]["namespace"].as_str()?;
    let legal = match kind {
        // Names of Services are labels of the older kind, which begin with a letter.
        "Service" => is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase()),
        // The pods' label with the revision has the name and eleven characters.
        "StatefulSet" => is_label(name) && name.len() <= 52,
        "Pod" => is_label(name),
        _ => is_subdomain(name),
    };
    if !legal {
        return Some(format!("{name} is no name of a {kind}"));
    }
    let mut wrong = None;
    let mut note = |what: String| {
        wrong.get_or_insert(what);
    };
    let labels = ["/metadata/labels", "/spec/selector", "/spec/selector/matchLabels", "/spec/template/metadata/labels"];
    for (way, labels) in labels.into_iter().filter_map(|way| Some((way, object.pointer(way)?.as_object()?))) {
        for (key, value) in labels {
            if value.as_str().is_some_and(|value| !is_label_value(value)) {
                note(format!("{way} {key}={value} is no label"));
            }
        }
    }
    for pod in [object.pointer("/spec/template/spec"), (kind == "Pod").then(|| &object["spec"])].into_iter().flatten() {
        let lists = ["containers", "initContainers", "volumes"].map(|list| pod[list].as_array());
        for part in lists.into_iter().flatten().flatten() {
            if !is_label(part["name"].as_str().unwrap_or_default()) {
                note(format!("{} is no name of a container or a volume", part["name"]));
            }
        }
        for field in ["hostname", "subdomain"] {
            if pod[field].as_str().is_some_and(|name| !is_label(name)) {
                note(format!("{} is no {field}", pod[field]));
            }
        }
        if let (Some(host), Some(domain)) = (pod["hostname"].as_str(), pod["subdomain"].as_str()) {
            let address = format!("{host}.{domain}.{namespace}.svc.cluster.local");
            if address.len() > 253 {
                note(format!("{address} is too long for a name server"));
            }
        }
    }
    wrong
}

fn is_label(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inner = |c: char| edge(c) || c == '-';
    (1..=63).contains(&name.len()) && name.chars().all(inner) && name.starts_with(edge) && name.ends_with(edge)
}

fn is_subdomain(name: &str) -> bool {
    // Parts of a subdomain may be longer than a label.
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| part.starts_with(edge) && part.ends_with(edge) && part.chars().all(|c| edge(c) || c == '-');
    name.len() <= 253 && name.split('.').all(part)
}

fn is_label_value(value: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| edge(c) || matches!(c, '-' | '_' | '.');
    value.is_empty()
        || value.len() <= 63 && value.chars().all(inner) && value.starts_with(edge) && value.ends_with(edge)
}
