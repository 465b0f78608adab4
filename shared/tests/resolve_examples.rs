//! Every cluster of the examples, the samples and the documentation resolves, is accepted, and comes out with all that it names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api_data;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use api_data::{Manifest, manifests, pages};
use serde_json::Value;
use shared::{
    api::v1alpha1::{CellTemplate, CoreTemplate, MultigresCluster, ShardTemplate},
    resolve::{self, ResolvedCluster, Settings, Templates},
    validate,
};

/// Clusters that are refused for a good reason: the file, the cluster, and a part of what is said about it.
const REFUSED: &[(&str, &str, &str)] =
    &[("doc-overrides", "templated-cell", "CellTemplate \"standard-ha-cell\" does not exist")];

/// The name that is used unasked; it counts only for clusters of its own file.
const DEFAULT: &str = "default";

/// A cluster of a manifest with the templates of its namespace.
struct Example {
    file: String,
    /// As written, in the spelling of the file.
    document: Value,
    cluster: MultigresCluster,
    templates: Templates,
}

impl Example {
    fn name(&self) -> &str {
        self.cluster.metadata.name.as_deref().unwrap()
    }

    fn resolve(&self) -> Result<ResolvedCluster, String> {
        let settings = Settings::default();
        let resolved = resolve::cluster(self.name(), "demo", &self.cluster.spec, &self.templates, &settings)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let verdict =
            validate::cluster(None, self.name(), &self.cluster.spec, &resolved, &validate::Surroundings::default());
        if verdict.is_accepted() { Ok(resolved) } else { Err(verdict.summary()) }
    }

    /// What is said about the cluster, if it is expected to be refused.
    fn refusal(&self) -> Option<&'static str> {
        REFUSED.iter().find(|(file, name, _)| *file == self.file && *name == self.name()).map(|(_, _, text)| *text)
    }
}

fn samples() -> Vec<Manifest> {
    let mut paths = Vec::new();
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples"), &mut paths);
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    paths.sort();
    let read = |path: &Path| Manifest {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        comment: String::new(),
        documents: serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap()).unwrap(),
    };
    paths.iter().map(|path| read(path)).collect()
}

/// All files of a folder and its folders.
fn below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            below(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// All clusters of a folder. Templates are found by name across its files, those of the same file first.
fn clusters(folder: &[Manifest]) -> Vec<Example> {
    let mut all = Templates::default();
    for manifest in folder {
        let mut templates = templates(manifest);
        templates.core.remove(DEFAULT);
        templates.cell.remove(DEFAULT);
        templates.shard.remove(DEFAULT);
        extend(&mut all, templates);
    }
    let mut examples = Vec::new();
    for manifest in folder {
        let mut templates_here = all.clone();
        extend(&mut templates_here, templates(manifest));
        for document in manifest.documents.iter().filter(|document| document["kind"] == "MultigresCluster") {
            examples.push(Example {
                file: manifest.name.clone(),
                document: document.clone(),
                cluster: serde_json::from_value(document.clone()).unwrap(),
                templates: templates_here.clone(),
            });
        }
    }
    examples
}

fn extend(all: &mut Templates, more: Templates) {
    all.core.extend(more.core);
    all.cell.extend(more.cell);
    all.shard.extend(more.shard);
}

fn templates(manifest: &Manifest) -> Templates {
    let mut templates = Templates::default();
    for document in &manifest.documents {
        let name = document["metadata"]["name"].as_str().unwrap().to_owned();
        let mut document = document.clone();
        if document.get("spec").is_none() {
            document["spec"] = serde_json::json!({});
        }
        match document["kind"].as_str() {
            Some("CoreTemplate") => {
                let template: CoreTemplate = serde_json::from_value(document).unwrap();
                templates.core.insert(name, template.spec);
            }
            Some("CellTemplate") => {
                let template: CellTemplate = serde_json::from_value(document).unwrap();
                templates.cell.insert(name, template.spec);
            }
            Some("ShardTemplate") => {
                let template: ShardTemplate = serde_json::from_value(document).unwrap();
                templates.shard.insert(name, template.spec);
            }
            _ => {}
        }
    }
    templates
}

fn examples() -> Vec<Example> {
    let folders = [manifests("examples"), samples(), pages()];
    let all: Vec<Example> = folders.iter().flat_map(|folder| clusters(folder)).collect();
    assert!(all.len() > 20, "only {} clusters were found", all.len());
    all
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn name_of(value: &Value) -> &str {
    value["name"].as_str().unwrap()
}

/// Pools that a shard names inline, in overrides or through a template, each with the cells that are named last.
fn named_pools(shard: &Value, example: &Example) -> BTreeMap<String, BTreeSet<String>> {
    let mut pools = BTreeMap::new();
    let template = shard["shardTemplate"].as_str().and_then(|name| example.templates.shard.get(name));
    for (name, pool) in template.into_iter().flat_map(|template| &template.pools) {
        pools.insert(name.clone(), pool.cells.iter().cloned().collect());
    }
    for level in ["overrides", "spec"] {
        for (name, pool) in shard[level]["pools"].as_object().into_iter().flatten() {
            let cells: BTreeSet<String> =
                list(pool, "cells").iter().map(|cell| cell.as_str().unwrap().to_owned()).collect();
            let named = pools.entry(name.clone()).or_default();
            if !cells.is_empty() {
                *named = cells;
            }
        }
    }
    pools
}

#[test]
fn every_example_is_accepted_unless_it_is_listed() {
    let mut wrong = Vec::new();
    for example in examples() {
        let place = format!("{} ({})", example.file, example.name());
        match (example.resolve(), example.refusal()) {
            (Ok(_), None) => {}
            (Ok(_), Some(_)) => wrong.push(format!("{place} is accepted, but listed as refused")),
            (Err(said), Some(text)) if said.contains(text) => {}
            (Err(said), _) => wrong.push(format!("{place} is refused: {said}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_listed_refusal_has_its_example() {
    let all = examples();
    for (file, name, _) in REFUSED {
        assert!(all.iter().any(|example| example.file == *file && example.name() == *name), "{file}: {name}");
    }
}

#[test]
fn examples_resolve_to_the_same_each_time() {
    for example in examples() {
        let (one, two) = (example.resolve(), example.resolve());
        assert_eq!(one, two, "{}: {}", example.file, example.name());
        // Nor does anything depend on what only the first reading of the manifest knew.
        let written = serde_json::to_value(&example.cluster).unwrap();
        let again = Example { cluster: serde_json::from_value(written).unwrap(), ..example };
        assert_eq!(again.resolve(), one, "{}: {}", again.file, again.name());
    }
}

#[test]
fn resolving_keeps_every_cell_that_is_named() {
    for example in examples() {
        let Ok(resolved) = example.resolve() else { continue };
        let named: Vec<&str> = list(&example.document["spec"], "cells").iter().map(name_of).collect();
        let kept: Vec<&str> = resolved.cells.iter().map(|cell| cell.name.as_str()).collect();
        assert_eq!(kept, named, "{}: {}", example.file, example.name());
    }
}

#[test]
fn resolving_keeps_every_pool_that_is_named() {
    let mut seen = 0;
    for example in examples() {
        let Ok(resolved) = example.resolve() else { continue };
        for database in list(&example.document["spec"], "databases") {
            let groups = list(database, "tablegroups").iter().chain(list(database, "tableGroups"));
            for group in groups {
                let kept = resolved
                    .table_groups()
                    .find(|kept| kept.database_name == name_of(database) && kept.table_group_name == name_of(group))
                    .unwrap_or_else(|| panic!("{}: a table group is lost: {}", example.file, name_of(group)));
                for shard in list(group, "shards") {
                    let kept = kept.shards.iter().find(|kept| kept.name == name_of(shard)).unwrap();
                    for (pool, cells) in named_pools(shard, &example) {
                        let place = format!("{}: pool {pool} of {}", example.file, example.name());
                        let kept = kept.pools.get(&pool).unwrap_or_else(|| panic!("{place} is lost"));
                        let kept: BTreeSet<String> = kept.cells.iter().cloned().collect();
                        assert!(cells.is_subset(&kept), "{place} names {cells:?} and gets {kept:?}");
                        assert!(!kept.is_empty(), "{place} has no cell");
                        seen += 1;
                    }
                }
            }
        }
    }
    assert!(seen >= 10, "only {seen} pools were looked at");
}
