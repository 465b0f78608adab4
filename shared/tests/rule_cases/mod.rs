//! The cases under `tests/data/rules`, read and expanded; their README tells what the fields mean.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value};

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    dead_code,
    clippy::struct_field_names,
    reason = "not every suite looks at everything; names are those of the files"
)]
pub struct Case {
    /// The file, without its ending.
    #[serde(skip)]
    pub file: String,
    /// Id of the rule.
    pub rule: String,
    /// What happens, as a sentence.
    pub case: String,
    /// Kind of the object.
    #[serde(default = "cluster")]
    pub kind: String,
    /// Name of the object.
    #[serde(default = "demo")]
    pub name: String,
    /// Templates that exist before.
    #[serde(default)]
    pub templates: Templates,
    /// Clusters that exist before, by name.
    #[serde(default)]
    pub clusters: BTreeMap<String, Value>,
    /// The spec before.
    #[serde(default)]
    pub old: Option<Value>,
    /// The spec as it would be.
    #[serde(default)]
    pub object: Option<Value>,
    /// What is known of the Kubernetes cluster.
    #[serde(default)]
    pub surroundings: Surroundings,
    /// Field path of the API server's own refusal.
    #[serde(default)]
    pub schema: Option<String>,
    /// Whether an API server can hold what comes before.
    #[serde(default = "yes")]
    pub stored: bool,
    /// What is said.
    #[serde(default)]
    pub expect: Expect,
}

/// Templates by name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Templates {
    /// Core templates.
    #[serde(default)]
    pub core: BTreeMap<String, Value>,
    /// Cell templates.
    #[serde(default)]
    pub cell: BTreeMap<String, Value>,
    /// Shard templates.
    #[serde(default)]
    pub shard: BTreeMap<String, Value>,
}

/// What is known of the Kubernetes cluster.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Surroundings {
    /// Its StorageClasses.
    #[serde(default)]
    pub storage_classes: Option<StorageClasses>,
    /// Values seen on nodes, by label.
    #[serde(default)]
    pub nodes: Option<BTreeMap<String, Vec<String>>>,
}

/// The StorageClasses that exist.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageClasses {
    /// Their names.
    #[serde(default)]
    pub names: Vec<String>,
    /// Whether one of them is the default.
    pub default: bool,
}

/// What is said about the object.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The errors in order; none means allowed.
    #[serde(default)]
    pub deny: Vec<Deny>,
    /// The warnings in order; absent means any.
    #[serde(default)]
    pub warnings: Option<Vec<Warn>>,
}

/// An error.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deny {
    /// Path of the field.
    pub path: String,
    /// Reason of the cause.
    pub reason: String,
    /// A part of the message.
    pub message: String,
}

/// A warning.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warn {
    /// Path of the field.
    pub path: String,
    /// A part of the message.
    pub message: String,
}

fn cluster() -> String {
    "MultigresCluster".to_owned()
}

fn demo() -> String {
    "demo".to_owned()
}

fn yes() -> bool {
    true
}

/// All cases, by file and in the order of each file.
pub fn cases(folder: &Path) -> Vec<Case> {
    let bases: Map<String, Value> =
        serde_json::from_str(&fs::read_to_string(folder.join("bases.json")).unwrap()).unwrap();
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let documents: Vec<Case> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for mut case in documents {
            case.file = path.file_stem().unwrap().to_string_lossy().into_owned();
            for spec in case.old.iter_mut().chain(&mut case.object).chain(case.clusters.values_mut()) {
                expand(spec, &bases);
            }
            all.push(case);
        }
    }
    all
}

/// Replaces `{base, set, remove}` by the spec that it stands for.
fn expand(spec: &mut Value, bases: &Map<String, Value>) {
    let Some(base) = spec.get("base").and_then(Value::as_str) else { return };
    let mut whole = bases.get(base).unwrap_or_else(|| panic!("there is no base {base:?}")).clone();
    for (pointer, value) in spec.get("set").and_then(Value::as_object).into_iter().flatten() {
        *target(&mut whole, pointer) = value.clone();
    }
    for pointer in spec.get("remove").and_then(Value::as_array).into_iter().flatten() {
        let pointer = pointer.as_str().unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match target(&mut whole, parent) {
            Value::Object(fields) => drop(fields.remove(key).unwrap_or_else(|| panic!("no {pointer}"))),
            Value::Array(items) => drop(items.remove(key.parse().unwrap())),
            _ => panic!("nothing can be removed at {pointer}"),
        }
    }
    *spec = whole;
}

fn target<'v>(value: &'v mut Value, pointer: &str) -> &'v mut Value {
    let pointer =
        pointer.replace("$POOL", "$SHARD/spec/pools/main").replace("$SHARD", "/databases/0/tablegroups/0/shards/0");
    let mut target = value;
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        target = match target {
            Value::Array(items) => {
                let index: usize = part.parse().unwrap();
                if index == items.len() {
                    items.push(Value::Null);
                }
                &mut items[index]
            }
            _ => &mut target[part],
        };
    }
    target
}
