//! What Secrets hold stays in them: no object, event, status or log shows any of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use shared::name::{internal_authority, internal_identity, postgres_password};
use stories::{
    Backups, Bed, ClusterUnderTest, Tools,
    bed::OPERATOR_NAMESPACE,
    secret::{Hidden, texts},
};

/// Name of the cluster.
const CLUSTER: &str = "guarded";
/// The Secret with the passphrase of the backup repository.
const CIPHER: &str = "guarded-repository";
/// Components whose pods log from their start on.
const TALKATIVE: [&str; 4] = ["shard-pool", "multiorch", "multigateway", "toposerver"];
/// Kinds that have to be among what is searched.
const KINDS: [&str; 10] = [
    "MultigresCluster",
    "Cell",
    "TableGroup",
    "Shard",
    "TopoServer",
    "MultigresBackup",
    "Pod",
    "ConfigMap",
    "Event",
    "ControllerRevision",
];
/// The operator's own pods.
const OPERATOR_PODS: [&str; 2] = ["multigres-operator-controller-manager-", "multigres-operator-admission-"];

/// The smallest cluster, with everything that needs a Secret, and with everybody at their most talkative.
fn manifest() -> Result<Value> {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/minimal.yaml");
    let mut manifest: Value = serde_saphyr::from_str(&std::fs::read_to_string(sample)?)?;
    let change = json!({"metadata": {"name": CLUSTER}, "spec": {
        "internalTLS": {"enabled": true},
        "logLevels": {
            "pgctld": "debug", "multipooler": "debug", "multiorch": "debug", "multiadmin": "debug", "multigateway": "debug",
        },
        "backup": {
            "type": "filesystem",
            "filesystem": {"path": "/backups", "storage": {"size": "1Gi"}},
            "encryption": {"secretName": CIPHER},
        },
    }});
    json_patch::merge(&mut manifest, &change);
    Ok(manifest)
}

/// The values that have to be there to be looked for.
fn expected(namespace: &str, shard: &str) -> BTreeSet<String> {
    let leaves = ["multiadmin", "multigateway", "multiorch", "multipooler", "operator"];
    let leaves = leaves.map(|component| format!("{}:tls.key", internal_identity(component, CLUSTER, namespace)));
    let others = [
        format!("{}:password", postgres_password(CLUSTER)),
        format!("{CIPHER}:keys.json"),
        format!("{}:ca.key", internal_authority(CLUSTER, namespace)),
        format!("{}:ca.key", shared::name::pgbackrest_ca(shard)),
        format!("{}:tls.key", shared::name::pgbackrest_tls(shard)),
    ];
    leaves.into_iter().chain(others).collect()
}

/// Whether a pod has logged anything.
fn has_log(texts: &BTreeMap<String, String>, pod: &str) -> bool {
    let title = format!("log {pod}");
    texts.iter().any(|(place, text)| place.starts_with(&title) && !text.is_empty())
}

#[tokio::test]
async fn no_object_and_no_log_shows_what_a_secret_holds() -> Result<()> {
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let tools = Tools::from_env()?;
    let namespace = bed.namespace("secrets").await?;
    let secrets: Api<Secret> = Api::namespaced(bed.client.clone(), &namespace);
    let cipher: Secret = serde_json::from_value(json!({
        "metadata": {"name": CIPHER}, "stringData": {"keys.json": json!({"1": "Gd5tKq0vNw8yRb2mXz7p"}).to_string()},
    }))?;
    secrets.create(&PostParams::default(), &cipher).await.context("making the passphrase of the repository")?;
    let cluster = ClusterUnderTest::apply_value(&bed, &namespace, &manifest()?).await?;
    cluster.healthy(300).await?;
    Backups::of(&cluster).make("guarded", &json!({"type": "full"}), 180).await?;

    let stored = secrets.list(&ListParams::default()).await?.items;
    let hidden = Hidden::of(&stored);
    let shard = cluster.shard().await?.metadata.name.context("the shard has a name")?;
    let missing: Vec<String> =
        expected(&namespace, &shard).into_iter().filter(|name| !hidden.names().contains(name.as_str())).collect();
    ensure!(missing.is_empty(), "nobody has made {missing:?}, or they are empty");
    // The search finds every value where it does stand.
    ensure!(
        hidden.shown_in(&serde_json::to_string(&stored)?) == hidden.names(),
        "the search misses values in their Secrets"
    );

    let here = texts(&bed.client, &tools, &namespace).await?;
    let kinds: Vec<&str> =
        KINDS.into_iter().filter(|kind| !here.keys().any(|title| title.contains(&format!(" {kind}/")))).collect();
    ensure!(kinds.is_empty(), "no {kinds:?} among the {} texts", here.len());
    let silent: Vec<String> =
        cluster.starts(&TALKATIVE).await?.into_keys().filter(|pod| !has_log(&here, pod)).collect();
    ensure!(silent.is_empty(), "no log of {silent:?}");
    let operator = texts(&bed.client, &tools, OPERATOR_NAMESPACE).await?;
    let silent: Vec<&str> = OPERATOR_PODS.into_iter().filter(|pod| !has_log(&operator, pod)).collect();
    ensure!(silent.is_empty(), "no log of {silent:?}");

    hidden.nowhere_in(here.iter().chain(&operator))?;

    cluster.delete(240).await?;
    bed.remove_namespace(&namespace).await
}
