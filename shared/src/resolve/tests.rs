//! The chain per component and level, and laws of the whole.

mod chain;
pub mod law;

use serde_json::{Value, json};

use super::*;

pub fn settings() -> Settings {
    Settings::default()
}

/// A spec from its JSON.
pub fn spec(value: Value) -> MultigresClusterSpec {
    serde_json::from_value(value).expect("a spec")
}

/// Templates from JSON: kind, then name, then spec.
pub fn templates(value: &Value) -> Templates {
    fn of<T: serde::de::DeserializeOwned>(value: &Value) -> BTreeMap<String, T> {
        value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, spec)| (name.clone(), serde_json::from_value(spec.clone()).expect("a template")))
            .collect()
    }
    Templates { core: of(&value["core"]), cell: of(&value["cell"]), shard: of(&value["shard"]) }
}

/// What a valid spec resolves to.
pub fn resolve(value: Value, templates: &Templates) -> ResolvedCluster {
    cluster("demo", "prod", &spec(value), templates, &settings()).expect("a spec that resolves")
}

pub fn two_cells() -> Value {
    json!([{"name": "zone-b", "zone": "b"}, {"name": "zone-a", "zoneId": "use1-az1"}])
}
