//! Everything that a namespace holds, of whatever kind, to see what a removal leaves behind.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use crate::helm::Tools;

/// What every namespace has.
const ALWAYS: [&str; 2] = ["configmap/kube-root-ca.crt", "serviceaccount/default"];

/// Objects of a namespace as `kind.group/name`, without those that every namespace has.
pub async fn objects(tools: &Tools, namespace: &str) -> Result<BTreeSet<String>> {
    let kinds =
        tools.succeed("kubectl", &["api-resources", "--verbs=list,delete", "--namespaced", "-o", "name"]).await?;
    let mut kinds: Vec<&str> = kinds.lines().collect();
    // Events tell of the past.
    kinds.retain(|kind| !kind.starts_with("events"));
    let all = kinds.join(",");
    let list = tools.succeed("kubectl", &["-n", namespace, "get", &all, "-o", "name", "--ignore-not-found"]).await;
    let list = list.context("listing everything in the namespace")?;
    let ours = |line: &&str| !line.is_empty() && !ALWAYS.iter().any(|always| line == always);
    Ok(list.lines().filter(ours).map(str::to_owned).collect())
}
