//! What a story that failed leaves behind: shown, then removed, so that it neither weighs on the stories after it nor gets lost.

use std::{
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use crate::helm::Tools;

/// Set to anything, it keeps the bed and what is in it, to look at.
const KEEP: &str = "KEEP_BED";

/// Namespaces that a story made and has not removed yet.
#[derive(Debug)]
pub struct Leftover {
    names: Mutex<Vec<String>>,
    tools: Option<Tools>,
}

impl Leftover {
    /// None so far. Without tools nothing can be removed, which is said when it matters.
    pub fn new(tools: Option<Tools>) -> Self {
        Self { names: Mutex::default(), tools }
    }

    /// A namespace was made.
    pub fn made(&self, namespace: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push(namespace.to_owned());
    }

    /// A namespace was removed in the story's own time.
    pub fn removed(&self, namespace: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| name != namespace);
    }

    fn kubectl(tools: &Tools, args: &[&str]) {
        let outcome = tools.blocking("kubectl").and_then(|mut command: Command| {
            command.args(args).stdin(Stdio::null());
            // A test's own output goes to standard error, and so does this.
            command.stdout(std::io::stderr());
            Ok(command.status()?)
        });
        if let Err(error) = outcome {
            eprintln!("kubectl {}: {error:#}", args.join(" "));
        }
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let names = std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner));
        if names.is_empty() || std::env::var_os(KEEP).is_some() {
            return;
        }
        let Some(tools) = &self.tools else {
            eprintln!("left behind for want of kubectl: namespaces {names:?}");
            return;
        };
        for name in &names {
            eprintln!("this story ended early; namespace {name} as it was, which is removed now:");
            Self::kubectl(tools, &["-n", name, "get", "multigres,pods,persistentvolumeclaims", "-o", "wide"]);
            Self::kubectl(tools, &["-n", name, "get", "multigresclusters,shards", "-o", "yaml"]);
            Self::kubectl(tools, &["-n", name, "get", "events", "--sort-by=.lastTimestamp"]);
            Self::kubectl(tools, &["delete", "namespace", name, "--wait=false"]);
        }
    }
}
