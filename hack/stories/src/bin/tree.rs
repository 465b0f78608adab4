//! Prints what a cluster is made of as a tree of owners, read from the API server.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Parser;
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DynamicObject, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
    discovery::ApiResource,
};

/// Group, version, kind and plural of what a cluster is made of, in the order of printing.
const KINDS: [(&str, &str, &str, &str); 16] = [
    ("multigres.com", "v1alpha1", "MultigresCluster", "multigresclusters"),
    ("multigres.com", "v1alpha1", "TopoServer", "toposervers"),
    ("multigres.com", "v1alpha1", "Cell", "cells"),
    ("multigres.com", "v1alpha1", "TableGroup", "tablegroups"),
    ("multigres.com", "v1alpha1", "Shard", "shards"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "ReplicaSet", "replicasets"),
    ("", "v1", "Service", "services"),
    ("", "v1", "ConfigMap", "configmaps"),
    ("", "v1", "Secret", "secrets"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("", "v1", "Pod", "pods"),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    ("apps", "v1", "ControllerRevision", "controllerrevisions"),
];

/// Kinds that Kubernetes makes by itself and that would only hide the picture.
const HIDDEN: [&str; 2] = ["EndpointSlice", "ControllerRevision"];

#[derive(Parser)]
struct Args {
    #[arg(long)]
    kubeconfig: PathBuf,
    #[arg(long)]
    namespace: String,
    /// Name of the cluster.
    #[arg(long)]
    cluster: String,
}

/// One line of the picture.
struct Node {
    uid: String,
    owner: Option<String>,
    text: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let kubeconfig =
        Kubeconfig::read_from(&args.kubeconfig).with_context(|| format!("reading {}", args.kubeconfig.display()))?;
    let client = Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)?;
    let mut nodes = Vec::new();
    for (group, version, kind, plural) in KINDS.iter().filter(|(_, _, kind, _)| !HIDDEN.contains(kind)) {
        let api_version = if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
        let resource = ApiResource {
            group: (*group).into(),
            version: (*version).into(),
            api_version,
            kind: (*kind).into(),
            plural: (*plural).into(),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &args.namespace, &resource);
        let wanted = if *kind == "MultigresCluster" {
            ListParams::default().fields(&format!("metadata.name={}", args.cluster))
        } else {
            ListParams::default().labels(&format!("app.kubernetes.io/instance={}", args.cluster))
        };
        for object in api.list(&wanted).await.with_context(|| format!("listing {plural}"))? {
            let owner = object.owner_references().iter().find(|o| o.controller == Some(true)).map(|o| o.uid.clone());
            let phase = object.data["status"]["phase"].as_str().map(|phase| format!("  ({phase})")).unwrap_or_default();
            let text = format!("{kind} {}{phase}", object.name_any());
            nodes.push(Node { uid: object.uid().unwrap_or_default(), owner, text });
        }
    }
    print!("{}", picture(&nodes));
    Ok(())
}

/// The tree as text. What has no owner among the nodes but the root comes last, as what outlives the cluster.
fn picture(nodes: &[Node]) -> String {
    let mut children: BTreeMap<&str, Vec<&Node>> = BTreeMap::new();
    let mut roots = Vec::new();
    for node in nodes {
        match node.owner.as_deref().filter(|owner| nodes.iter().any(|other| other.uid == *owner)) {
            Some(owner) => children.entry(owner).or_default().push(node),
            None => roots.push(node),
        }
    }
    let mut text = String::new();
    for (index, root) in roots.iter().enumerate() {
        if index == 1 {
            text.push_str("kept when the cluster is deleted, by policy\n");
        }
        let indent = if index == 0 { "" } else { "  " };
        let _infallible = writeln!(text, "{indent}{}", root.text);
        branches(&mut text, &children, &root.uid, indent);
    }
    text
}

fn branches(text: &mut String, children: &BTreeMap<&str, Vec<&Node>>, uid: &str, indent: &str) {
    let Some(mine) = children.get(uid) else { return };
    for (index, child) in mine.iter().enumerate() {
        let last = index + 1 == mine.len();
        let _infallible = writeln!(text, "{indent}{} {}", if last { "└──" } else { "├──" }, child.text);
        branches(text, children, &child.uid, &format!("{indent}{}   ", if last { " " } else { "│" }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, owner: Option<&str>) -> Node {
        Node { uid: uid.into(), owner: owner.map(Into::into), text: format!("Kind {uid}") }
    }

    #[test]
    fn owned_objects_hang_below_their_owner_and_kept_ones_come_last() {
        let nodes =
            [node("a", None), node("b", Some("a")), node("c", Some("b")), node("d", Some("a")), node("v", None)];
        let expected =
            "Kind a\n├── Kind b\n│   └── Kind c\n└── Kind d\nkept when the cluster is deleted, by policy\n  Kind v\n";
        assert_eq!(picture(&nodes), expected);
    }
}
