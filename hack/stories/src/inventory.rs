//! Everything that a namespace holds, of whatever kind, to see what a removal leaves behind, or what something else made anew.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use crate::helm::Tools;

/// What every namespace has.
const ALWAYS: [&str; 2] = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
/// What Kubernetes makes of other objects, and renews by itself.
const DERIVED: [&str; 3] = ["endpoints", "endpointslices", "leases"];
/// One object a line: its version, kind and name, its identity, and how often its spec has changed.
const IDENTITIES: &str = concat!(
    "jsonpath={range .items[*]}{.apiVersion} {.kind}/{.metadata.name} {.metadata.uid} {.metadata.generation}",
    r#"{"\n"}{end}"#
);

/// What tells an object from another one of the same name, and from what it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// An object that was made anew has another one.
    pub uid: String,
    /// Moves with the spec; empty for kinds without, and for Services.
    pub generation: String,
}

/// Objects of a namespace as `kind.group/name`, without those that every namespace has.
pub async fn objects(tools: &Tools, namespace: &str) -> Result<BTreeSet<String>> {
    let all = kinds(tools, &[]).await?;
    let list = tools.succeed("kubectl", &["-n", namespace, "get", &all, "-o", "name", "--ignore-not-found"]).await;
    let list = list.context("listing everything in the namespace")?;
    let ours = |line: &&str| !line.is_empty() && !ALWAYS.iter().any(|always| line == always);
    Ok(list.lines().filter(ours).map(str::to_owned).collect())
}

/// The identity of each object of a namespace, by version, kind and name.
pub async fn identities(tools: &Tools, namespace: &str) -> Result<BTreeMap<String, Identity>> {
    let all = kinds(tools, &DERIVED).await?;
    let list = tools.succeed("kubectl", &["-n", namespace, "get", &all, "-o", IDENTITIES, "--ignore-not-found"]).await;
    Ok(list.context("listing everything in the namespace")?.lines().filter_map(identity).collect())
}

/// The identity of each of our definitions, by version, kind and name.
pub async fn definitions(tools: &Tools) -> Result<BTreeMap<String, Identity>> {
    let list = tools.succeed("kubectl", &["get", "customresourcedefinitions", "-o", IDENTITIES]).await;
    let list = list.context("listing definitions")?;
    let ours = |(name, _): &(String, Identity)| name.ends_with(".multigres.com");
    Ok(list.lines().filter_map(identity).filter(ours).collect())
}

/// Kinds that a namespace can hold, apart from events, which tell of the past, and from some others.
async fn kinds(tools: &Tools, others: &[&str]) -> Result<String> {
    let kinds =
        tools.succeed("kubectl", &["api-resources", "--verbs=list,delete", "--namespaced", "-o", "name"]).await?;
    let mut kinds: Vec<&str> = kinds.lines().collect();
    kinds.retain(|kind| {
        !kind.starts_with("events") && !others.iter().any(|other| kind.split('.').next() == Some(*other))
    });
    Ok(kinds.join(","))
}

fn identity(line: &str) -> Option<(String, Identity)> {
    let mut words = line.split(' ');
    let (version, object, uid) = (words.next()?, words.next()?, words.next()?);
    // Stories change a Service to see that it is put right.
    let generation = words.next().filter(|_| !object.starts_with("Service/")).unwrap_or_default().to_owned();
    Some((format!("{version} {object}"), Identity { uid: uid.to_owned(), generation }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_known_by_its_line() {
        let (name, found) = identity("apps/v1 Deployment/a 11-22 3").unwrap();
        assert_eq!(
            (name.as_str(), found.uid.as_str(), found.generation.as_str()),
            ("apps/v1 Deployment/a", "11-22", "3")
        );
        for line in ["v1 Secret/b 33-44 ", "v1 Service/b 33-44 2"] {
            assert_eq!(identity(line).unwrap().1, Identity { uid: "33-44".to_owned(), generation: String::new() });
        }
        assert_eq!(identity(""), None);
    }
}
