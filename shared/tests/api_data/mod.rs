//! The manifests under `tests/data` and what each folder promises about them, and those in the pages of the documentation.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// A manifest file with its documents.
#[derive(Debug)]
pub struct Manifest {
    /// Name of the file without its ending.
    pub name: String,
    /// The comment of the first line.
    pub comment: String,
    /// The documents in order.
    pub documents: Vec<Value>,
}

/// Reads every manifest of a folder of `tests/data`, sorted by name.
pub fn manifests(folder: &str) -> Vec<Manifest> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| manifest(&path)).collect()
}

/// The manifests of our kinds in the pages of the documentation. What is nothing but a spec is one of a cluster.
#[allow(dead_code, reason = "only some suites look at pages")]
pub fn pages() -> Vec<Manifest> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "md"));
    paths.sort();
    let found: Vec<Manifest> = paths.iter().flat_map(|path| of_page(path)).collect();
    assert!(found.len() >= 4, "only {} manifests were found in pages", found.len());
    found
}

fn of_page(path: &Path) -> Vec<Manifest> {
    let page = path.file_stem().unwrap().to_string_lossy().into_owned();
    let text = fs::read_to_string(path).unwrap();
    let blocks = text.split("\n```yaml\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    let mut found = Vec::new();
    for (number, block) in blocks.enumerate() {
        let name = format!("{page}-{number}");
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(block).unwrap_or_else(|error| panic!("{name} is not YAML: {error}"));
        let documents: Vec<Value> = documents.into_iter().filter_map(of_ours).collect();
        if !documents.is_empty() {
            found.push(Manifest { name, comment: String::new(), documents });
        }
    }
    found
}

fn of_ours(document: Value) -> Option<Value> {
    if document["apiVersion"].as_str().is_some_and(|version| version.starts_with("multigres.com/")) {
        return Some(document);
    }
    let spec = document.as_object().filter(|fields| fields.len() == 1)?.get("spec")?;
    Some(json!({
        "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster", "metadata": {"name": "page"}, "spec": spec,
    }))
}

fn manifest(path: &Path) -> Manifest {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let text = fs::read_to_string(path).unwrap();
    let comment = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default().to_owned();
    assert!(!comment.is_empty(), "{name} has no comment in its first line");
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{name} is not YAML: {error}"));
    assert!(!documents.is_empty(), "{name} is empty");
    Manifest { name, comment, documents }
}

impl Manifest {
    /// The part of the server's message that a refused manifest announces.
    #[allow(dead_code, reason = "only some suites look at refusals")]
    pub fn refusal(&self) -> &str {
        self.comment.strip_prefix("refused: ").unwrap_or_else(|| panic!("{} does not say why it is refused", self.name))
    }
}
