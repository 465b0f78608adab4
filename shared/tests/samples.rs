//! The samples: each is accepted with no warnings but the listed ones, and their page speaks of every file and of no other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use shared::{
    api::v1alpha1::{CellTemplate, CoreTemplate, MultigresCluster, ShardTemplate},
    resolve::{self, Settings, Templates},
    validate::{
        self, NodeLabels, StorageClasses, Surroundings, Verdict,
        template::{self, Content},
    },
};

/// What a user is told on applying a sample on the testbed: the manifest, the templates applied with it, the field and a part of the text.
const WARNINGS: &[(&str, &str, &str, &str)] = &[
    ("minimal.yaml", "", BACKUP_VOLUME, "one node"),
    ("minimal.yaml", "default-templates", "globalTopoServer.etcd.replicas", "no fault tolerance"),
    ("minimal.yaml", "default-templates", BACKUP_VOLUME, "one node"),
    ("templated-cluster.yaml", "templates", BACKUP_VOLUME, "one node"),
    ("overrides.yaml", "templates", "globalTopoServer.etcd.replicas", "no fault tolerance"),
    ("overrides.yaml", "templates", BACKUP_VOLUME, "one node"),
    ("no-templates.yaml", "", BACKUP_VOLUME, "one node"),
    ("external-etcd.yaml", "", BACKUP_VOLUME, "one node"),
];
/// Where all pods of a cell share a volume that only one node mounts.
const BACKUP_VOLUME: &str =
    "databases[postgres].tablegroups[default].shards[0-inf].backup.filesystem.storage.accessModes";

/// Each manifest of a cluster with the folder of templates that its page applies with it.
const CLUSTERS: &[(&str, &str)] = &[
    ("minimal.yaml", ""),
    ("minimal.yaml", "default-templates"),
    ("templated-cluster.yaml", "templates"),
    ("overrides.yaml", "templates"),
    ("no-templates.yaml", ""),
    ("external-etcd.yaml", ""),
    ("demo-multi-az-shared-volume.yaml", ""),
    ("demo-multi-az.yaml", ""),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples")
}

/// All files below the folder, by their path in it.
fn files() -> BTreeSet<String> {
    fn walk(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(name);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&root(), "", &mut found);
    found
}

fn manifests() -> BTreeSet<String> {
    let mut all = files();
    all.retain(|file| Path::new(file).extension().is_some_and(|kind| kind == "yaml"));
    all
}

fn documents(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{file} is not YAML: {error}"))
}

/// The only cluster of a manifest, which has nothing else in it.
fn cluster(file: &str) -> MultigresCluster {
    let documents = documents(file);
    let [document] = documents.as_slice() else { panic!("{file} has {} documents", documents.len()) };
    assert_eq!(document["kind"], "MultigresCluster", "{file}");
    serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn templates(folder: &str) -> Templates {
    let mut found = Templates::default();
    for file in manifests().iter().filter(|file| !folder.is_empty() && file.starts_with(&format!("{folder}/"))) {
        for document in documents(file) {
            let name = document["metadata"]["name"].as_str().unwrap().to_owned();
            match document["kind"].as_str() {
                Some("CoreTemplate") => {
                    found.core.insert(name, serde_json::from_value::<CoreTemplate>(document).unwrap().spec);
                }
                Some("CellTemplate") => {
                    found.cell.insert(name, serde_json::from_value::<CellTemplate>(document).unwrap().spec);
                }
                Some("ShardTemplate") => {
                    found.shard.insert(name, serde_json::from_value::<ShardTemplate>(document).unwrap().spec);
                }
                other => panic!("{file} holds a {other:?}"),
            }
        }
    }
    found
}

/// What the testbed has.
fn testbed() -> Surroundings {
    let names = ["local-path", "local-path-rwx"].map(str::to_owned).into();
    let zones = ["zone-a", "zone-b", "zone-c"].map(str::to_owned).into();
    Surroundings {
        storage_classes: Some(StorageClasses { names, has_default: true }),
        nodes: Some(NodeLabels(BTreeMap::from([("topology.kubernetes.io/zone".to_owned(), zones)]))),
    }
}

fn verdict(file: &str, folder: &str) -> Verdict {
    let cluster = cluster(file);
    let name = cluster.metadata.name.as_deref().unwrap();
    let settings = Settings::default();
    let resolved = resolve::cluster(name, "demo", &cluster.spec, &templates(folder), &settings)
        .unwrap_or_else(|errors| panic!("{file} does not resolve: {errors:?}"));
    validate::cluster(None, name, &cluster.spec, &resolved, &testbed())
}

#[test]
fn samples_are_accepted_with_no_warnings_but_the_listed_ones() {
    for (file, folder) in CLUSTERS {
        let verdict = verdict(file, folder);
        assert!(verdict.is_accepted(), "{file} with {folder:?}: {}", verdict.summary());
        let mut due: Vec<(&str, &str)> = WARNINGS
            .iter()
            .filter(|(listed, with, ..)| listed == file && with == folder)
            .map(|(_, _, field, text)| (*field, *text))
            .collect();
        for warning in &verdict.warnings {
            let listed = due.iter().position(|(field, text)| *field == warning.path && warning.message.contains(text));
            let listed = listed.unwrap_or_else(|| panic!("{file} with {folder:?} is not to warn: {warning:?}"));
            due.remove(listed);
        }
        assert!(due.is_empty(), "{file} with {folder:?} no longer warns about {due:?}");
    }
}

#[test]
fn templates_of_samples_are_accepted() {
    let mut seen = BTreeSet::new();
    for folder in ["templates", "default-templates"] {
        let found = templates(folder);
        let counts = (found.core.len(), found.cell.len(), found.shard.len());
        assert_eq!(counts, (1, 1, 1), "{folder} has one template of each kind");
        for file in manifests().into_iter().filter(|file| file.starts_with(&format!("{folder}/"))) {
            assert_eq!(documents(&file).len(), 1, "{file}: one file per template");
            seen.insert(file);
        }
        let contents = found.core.values().map(Content::Core);
        let contents = contents.chain(found.cell.values().map(Content::Cell));
        for content in contents.chain(found.shard.values().map(Content::Shard)) {
            let verdict = template::content(content);
            assert!(verdict.is_accepted(), "{folder}: {}", verdict.summary());
        }
    }
    assert_eq!(seen.len(), 6);
}

#[test]
fn every_manifest_of_a_cluster_is_tried() {
    let with_cluster: BTreeSet<String> = manifests()
        .into_iter()
        .filter(|file| documents(file).iter().any(|document| document["kind"] == "MultigresCluster"))
        .collect();
    let tried: BTreeSet<String> = CLUSTERS.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(with_cluster, tried);
}

#[test]
fn samples_leave_the_namespace_to_the_user() {
    for file in manifests().iter().filter(|file| *file != "external-etcd/etcd.yaml") {
        for document in documents(file) {
            assert!(document["metadata"].get("namespace").is_none(), "{file} names a namespace");
        }
    }
}

#[test]
fn the_page_names_every_sample_and_nothing_else() {
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    for file in files().iter().filter(|file| *file != "README.md") {
        assert!(page.contains(&format!("]({file})")), "the page has no link to {file}");
    }
    for (_, rest) in page.match_indices("samples/").map(|(at, word)| (at, &page[at + word.len()..])) {
        let end = rest.find(|c: char| c.is_whitespace() || c == '`' || c == ')').unwrap_or(rest.len());
        assert!(root().join(&rest[..end]).exists(), "the page names samples/{}, which is not there", &rest[..end]);
    }
}

#[test]
fn the_etcd_to_try_is_the_image_of_our_own() {
    let documents = documents("external-etcd/etcd.yaml");
    let set = documents.iter().find(|document| document["kind"] == "StatefulSet").unwrap();
    assert_eq!(set["spec"]["template"]["spec"]["containers"][0]["image"], shared::image::ETCD);
    let cluster = cluster("external-etcd.yaml");
    let external = cluster.spec.global_topo_server.unwrap().external.unwrap();
    let members = set["spec"]["replicas"].as_u64().unwrap();
    assert_eq!(external.endpoints.len() as u64, members, "the cluster knows every member");
}
