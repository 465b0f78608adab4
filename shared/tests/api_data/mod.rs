//! The manifests under `tests/data` and what each folder promises about them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

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
