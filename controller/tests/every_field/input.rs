//! What users write: a cluster and the templates beside it, with one field set in surroundings in which it counts.

use std::{collections::BTreeMap, sync::LazyLock};

use controller::{cli::Args, server::Features, settings::Settings};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::{
    api::v1alpha1::MultigresClusterSpec,
    image::ImageSet,
    resolve::{self, ResolvedCluster, Templates},
    validate::{self, Before, Surroundings, Verdict},
};

use crate::{
    schema::{self, Field, Step},
    value,
};

/// The template that fields of templates are set in.
pub const USED: &str = "used";

/// A cluster and templates.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Namespace of everything.
    pub namespace: String,
    /// Name of the cluster.
    pub name: String,
    /// The project that the cluster is marked with.
    pub project: String,
    /// Whether the operator brings other default images once everything has settled.
    pub upgrade: bool,
    /// Spec of the cluster.
    pub spec: Value,
    /// Kind → name → spec.
    pub templates: BTreeMap<&'static str, BTreeMap<&'static str, Value>>,
}

/// The default images of another version of the operator.
pub fn other_images() -> ImageSet {
    ImageSet::default().overridden(|_| Some("registry.example.com/other:1".to_owned()))
}

/// Settings as the flags give them by default.
pub fn settings() -> Settings {
    // Every world and every judgement wants them, and to read flags takes as long as a pass.
    static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
        let args = <Args as clap::Parser>::try_parse_from(["controller"]).unwrap();
        args.work.settings(Features::NEWEST, |_| None)
    });
    SETTINGS.clone()
}

impl Input {
    /// Two cells and one shard, with telemetry, and two of every template to choose from.
    pub fn base() -> Self {
        let core = |n: i32| {
            let etcd = json!({"etcd": {"image": format!("etcd:{n}")}});
            json!({"multiadmin": {"replicas": n}, "multiadminWeb": {"replicas": n}, "globalTopoServer": etcd})
        };
        let cell = |n: i32| json!({"multigateway": {"replicas": n}});
        let shard = |n: i32| json!({"multiorch": {"replicas": n}});
        let named = |of: &dyn Fn(i32) -> Value| BTreeMap::from([("alpha", of(2)), ("beta", of(3)), (USED, json!({}))]);
        let shards = json!([{"name": "0-inf"}]);
        Self {
            namespace: "prod".to_owned(),
            name: "demo".to_owned(),
            project: "project".to_owned(),
            upgrade: false,
            spec: json!({
                "cells": [{"name": "zone-a"}, {"name": "zone-b"}],
                "databases": [{"name": "postgres", "tablegroups": [{"name": "default", "shards": shards}]}],
                "observability": {"otlpEndpoint": "http://otel:4318"},
            }),
            templates: BTreeMap::from([
                ("CoreTemplate", named(&core)),
                ("CellTemplate", named(&cell)),
                ("ShardTemplate", named(&shard)),
            ]),
        }
    }

    /// The base with a field at one value, and everything around it such that it counts.
    pub fn with(field: &Field, value: &Value) -> Self {
        let mut input = Self::base();
        let root = input.root(field.kind);
        prepare(root, &field.steps);
        put(root, field, value);
        input.around(field);
        input.upgrade = field.path().starts_with("imageUpdatePolicy.");
        input
    }

    /// The same with so many pods of each pool of the shard in each cell.
    pub fn of_size(&self, replicas: i32) -> Self {
        let mut sized = self.clone();
        let database = &mut sized.spec["databases"][0];
        let groups = if database["tableGroups"].is_array() { "tableGroups" } else { "tablegroups" };
        let shard = &mut database[groups][0]["shards"][0];
        if let Some(pools) = shard.pointer_mut("/overrides/pools").and_then(Value::as_object_mut) {
            pools.values_mut().for_each(|pool| pool["replicasPerCell"] = replicas.into());
        }
        let described = if shard["spec"].is_object() {
            &mut shard["spec"]
        } else {
            shard["shardTemplate"] = USED.into();
            sized.templates.get_mut("ShardTemplate").unwrap().get_mut(USED).unwrap()
        };
        if described["pools"].as_object().is_none_or(serde_json::Map::is_empty) {
            described["pools"] = json!({"default": {}});
        }
        for pool in described["pools"].as_object_mut().unwrap().values_mut() {
            pool["replicasPerCell"] = replicas.into();
        }
        sized
    }

    /// The spec that fields of a kind are in.
    fn root(&mut self, kind: &'static str) -> &mut Value {
        match self.templates.get_mut(kind) {
            Some(templates) => templates.get_mut(USED).unwrap(),
            None => &mut self.spec,
        }
    }

    /// Lets the cluster use the template that the field is in.
    fn around(&mut self, field: &Field) {
        match field.kind {
            "CoreTemplate" => self.spec["templateDefaults"] = json!({"coreTemplate": USED}),
            "CellTemplate" => self.spec["templateDefaults"] = json!({"cellTemplate": USED}),
            "ShardTemplate" => self.spec["templateDefaults"] = json!({"shardTemplate": USED}),
            _ => {}
        }
        // A cell's own topology is reached with the certificates of the global one.
        let end = field.path();
        if end.ends_with("localTopoServer.external.caSecret")
            || end.ends_with("localTopoServer.external.clientCertSecret")
        {
            let endpoints = json!(["https://etcd.infra:2379"]);
            self.spec["globalTopoServer"] =
                json!({"external": {"endpoints": endpoints, "caSecret": "alpha", "clientCertSecret": "alpha"}});
        }
    }

    /// What admission and the controller make of it.
    pub fn judge(&self, before: Option<&Self>) -> Verdict {
        let (spec, resolved) = match self.resolve() {
            Ok(resolved) => resolved,
            Err(refused) => return *refused,
        };
        let old = before.map(|before| before.resolve().unwrap());
        let old = old.as_ref().map(|(spec, resolved)| Before { spec, resolved });
        validate::cluster(old, &self.name, &spec, &resolved, &Surroundings::default())
    }

    fn resolve(&self) -> Result<(MultigresClusterSpec, ResolvedCluster), Box<Verdict>> {
        let spec: MultigresClusterSpec = read(&self.spec);
        let templates = Templates {
            core: self.templates_of("CoreTemplate"),
            cell: self.templates_of("CellTemplate"),
            shard: self.templates_of("ShardTemplate"),
        };
        match resolve::cluster(&self.name, &self.namespace, &spec, &templates, &settings().resolve()) {
            Ok(resolved) => Ok((spec, resolved)),
            Err(errors) => Err(Box::new(validate::unresolved(&errors))),
        }
    }

    fn templates_of<T: DeserializeOwned>(&self, kind: &str) -> BTreeMap<String, T> {
        self.templates[kind].iter().map(|(name, spec)| ((*name).to_owned(), read(spec))).collect()
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    T::deserialize(value).unwrap_or_else(|error| panic!("{error} in {value}"))
}

/// Sets what has to be there for a field to count: the kind of backup that it belongs to, the template that it overrides.
fn prepare(root: &mut Value, steps: &[Step]) {
    let mut at = root;
    for (index, step) in steps.iter().enumerate() {
        let Step::Key(name) = step else {
            at = if at.is_array() { &mut at[0] } else { &mut at[value::key(&steps[..index])] };
            continue;
        };
        let inner = match steps.get(index + 1) {
            Some(Step::Key(inner)) => inner.as_str(),
            _ => "",
        };
        match (name.as_str(), inner) {
            ("backup", "s3") => at["backup"] = json!({"type": "s3", "s3": {"bucket": "bucket", "region": "region"}}),
            ("backup", "type") => {
                at["backup"] = json!({"filesystem": {}, "s3": {"bucket": "bucket", "region": "region"}});
            }
            ("backup", "schedule") => {
                // A schedule without any time is none.
                let other = if steps.last() == Some(&Step::Key("full".to_owned())) { "incremental" } else { "full" };
                let schedule = json!({ other: "10 4 * * *" });
                at["backup"] = json!({"type": "filesystem", "filesystem": {}, "schedule": schedule});
            }
            ("backup", _) => at["backup"] = json!({"type": "filesystem", "filesystem": {}}),
            ("overrides", _) => {
                let template = if at["name"] == "0-inf" { "shardTemplate" } else { "cellTemplate" };
                at[template] = USED.into();
            }
            // Without an address there is nothing to switch on or off.
            ("externalGateway" | "externalAdminWeb", "enabled") => {
                at[name.as_str()] = json!({"externalIPs": ["198.51.100.10"]});
            }
            ("imageUpdatePolicy", "acknowledgedRevision") => at["imageUpdatePolicy"] = json!({"strategy": "lazy"}),
            // The only pool would move together with the orchestrators, and no pooler may be left that was there before.
            ("multiorch", "cells") => at["pools"] = json!({"main": {"cells": ["zone-a", "zone-b"]}}),
            ("pools", _) if steps.last() == Some(&Step::Item) => at["pools"] = json!({"other": {}}),
            // The two containers run as one user.
            ("multipooler", "runAsUser") => at["postgres"] = json!({"runAsUser": 1}),
            ("tableGroups", _) => drop(at.as_object_mut().unwrap().remove("tablegroups")),
            _ => {}
        }
        if at[name.as_str()].is_null() && index + 1 == steps.len() {
            return;
        }
        at = &mut at[name.as_str()];
        if at.is_null() {
            *at = if steps.get(index + 1) == Some(&Step::Item) { json!([]) } else { json!({}) };
        }
        if at.as_array().is_some_and(Vec::is_empty) {
            *at = Value::Null;
            return;
        }
    }
}

/// Sets a field, and what is required of everything on the way to it.
fn put(root: &mut Value, field: &Field, value: &Value) {
    let mut schema = schema::spec(field.kind);
    let mut at = root;
    for (index, step) in field.steps.iter().enumerate() {
        let way = &field.steps[..=index];
        let inner = schema::inside(schema, step);
        at = match step {
            Step::Key(name) => {
                fill(at, &way[..index], schema);
                &mut at[name.as_str()]
            }
            Step::Item => {
                if at.as_array().is_none_or(Vec::is_empty) {
                    *at = json!([Value::Null]);
                }
                &mut at[0]
            }
            Step::Entry => &mut at[value::key(&way[..index])],
        };
        schema = inner;
    }
    *at = value.clone();
}

/// Adds what is required of an object and not there yet.
fn fill(at: &mut Value, way: &[Step], schema: &Value) {
    let Value::Object(required) = value::sample(&schema::path(way), schema) else { return };
    if at.is_null() {
        *at = json!({});
    }
    for (name, value) in required {
        at.as_object_mut().unwrap().entry(name).or_insert(value);
    }
}
