//! Where the testbed keeps what it builds and runs: a directory outside of the checkout, with the locks that keep two invocations apart.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The environment variable that moves the testbed's directory.
pub const HOME_VARIABLE: &str = "MULTIGRES_TESTBED_HOME";

/// The testbed's directory.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

/// Holds a lock file until it is dropped.
#[derive(Debug)]
pub struct Guard {
    _file: File,
}

impl Home {
    /// The directory named by `MULTIGRES_TESTBED_HOME`, or `multigres-testbed` below the user's cache directory.
    pub fn from_env() -> Result<Self> {
        if let Some(root) = std::env::var_os(HOME_VARIABLE).filter(|v| !v.is_empty()) {
            return Self::at(Path::new(&root));
        }
        let cache = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
            (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
            (_, Some(home)) if !home.is_empty() => Path::new(&home).join(".cache"),
            _ => bail!(
                "neither {HOME_VARIABLE} nor HOME is set; set {HOME_VARIABLE} to a directory outside of the checkout"
            ),
        };
        Self::at(&cache.join("multigres-testbed"))
    }

    /// Uses `root`, creating it when it is missing.
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
        let root = root.canonicalize().with_context(|| format!("resolving {}", root.display()))?;
        Ok(Self { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the tools built from the pins with this hash.
    pub fn tools(&self, hash: &str) -> PathBuf {
        self.root.join("tools").join(hash)
    }

    /// The directory of image archives.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The directory that holds one directory per bed.
    pub fn beds(&self) -> PathBuf {
        self.root.join("beds")
    }

    /// The directory of one bed.
    pub fn bed(&self, name: &str) -> PathBuf {
        self.beds().join(name)
    }

    /// What was on the host before the first bed.
    pub fn host_record(&self) -> PathBuf {
        self.root.join("host.json")
    }

    /// The names of all beds that have a directory.
    pub fn bed_names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        if !self.beds().exists() {
            return Ok(names);
        }
        for entry in fs::read_dir(self.beds()).context("listing the beds")? {
            let entry = entry.context("listing the beds")?;
            if entry.path().is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Waits for the lock of this name and holds it until the guard is dropped.
    pub fn lock(&self, name: &str) -> Result<Guard> {
        let dir = self.root.join("locks");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let path = dir.join(format!("{name}.lock"));
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("testbed: waiting for {} (another testbed command works on the same)", path.display());
            file.lock().with_context(|| format!("locking {}", path.display()))?;
        }
        Ok(Guard { _file: file })
    }
}
