//! Faults of the surroundings: each is told within half a minute, nobody's pods are restarted for it, nothing spins, and all heals
//! without help once the fault is over.
//!
//! The short form has only the fault that is cheap to wait for.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    api::core::v1::{Pod, ResourceQuota, ResourceQuotaSpec},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Condition},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};
use shared::{
    api::v1alpha1::{Cell, Phase, TopoServer},
    condition,
    image::ImageSet,
};
use stories::{
    Bed, ClusterUnderTest, Faults,
    audit::{CONTROLLER_USER, Mark, Writes},
    bed::{OPERATOR_NAMESPACE, is_left_out},
    until, within,
};

/// A fault has to be told this many seconds after it can be seen.
const TOLD: u64 = 30;
/// How long faults last, in seconds.
const LASTS: u64 = 60;
/// More writes of the controller in a minute of a fault are a busy loop.
const FEW: usize = 40;
/// Components that hold data or lead those that do.
const DATABASE: [&str; 3] = ["shard-pool", "multiorch", "toposerver"];

/// Whether this form of the stories leaves this one out, which is said.
fn only_long() -> bool {
    is_left_out("this fault takes minutes")
}

/// A small cluster, changed by a merge patch of its spec.
fn small(name: &str, change: &Value) -> Value {
    let resources = json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "512Mi"}});
    let shard = json!({"name": "0-inf", "spec": {
        "multiorch": {"resources": resources},
        "pools": {"default": {
            "storage": {"size": "1Gi"}, "postgres": {"resources": resources}, "multipooler": {"resources": resources},
        }},
    }});
    let mut spec = json!({
        "globalTopoServer": {"etcd": {"replicas": 1, "storage": {"size": "1Gi"}, "resources": resources}},
        "multiadmin": {"spec": {"resources": resources}},
        "multiadminWeb": {"spec": {"resources": resources}},
        "cells": [{"name": "zone-a", "spec": {"multigateway": {"resources": resources}}}],
        "databases": [{"name": "postgres", "default": true, "tablegroups": [
            {"name": "default", "default": true, "shards": [shard]},
        ]}],
    });
    json_patch::merge(&mut spec, change);
    json!({
        "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster", "metadata": {"name": name}, "spec": spec,
    })
}

/// A cluster in a namespace of its own, and what the controller wrote there since it was asked last.
struct Story {
    bed: Bed,
    namespace: String,
    log: PathBuf,
    faults: Faults,
}

impl Story {
    async fn begin(name: &str) -> Result<Option<Self>> {
        let Some(bed) = Bed::connect().await? else { return Ok(None) };
        let log = bed.audit_log.clone().context("the audit log of the bed")?;
        let faults = Faults::from_env()?;
        faults.thaw().await?;
        bed.controller_ready().await?;
        Ok(Some(Self { namespace: bed.namespace(name).await?, bed, log, faults }))
    }

    async fn apply(&self, manifest: &Value) -> Result<ClusterUnderTest> {
        ClusterUnderTest::apply_value(&self.bed, &self.namespace, manifest).await
    }

    /// A Healthy cluster that has nothing more to write.
    async fn healthy(&self, manifest: &Value) -> Result<ClusterUnderTest> {
        let cluster = self.apply(manifest).await?;
        cluster.healthy(300).await?;
        Mark::quiet(&self.log, CONTROLLER_USER, |_| true, 10, within(120)).await?;
        Ok(cluster)
    }

    fn mark(&self) -> Result<Mark> {
        Mark::now(&self.log)
    }

    /// Writes of the controller in this namespace since the mark: few, and none that ends a pod.
    fn few(&self, mark: &Mark, most: usize) -> Result<Writes> {
        let writes = mark.since(CONTROLLER_USER, |namespace| namespace == self.namespace)?;
        let count = writes.total() + writes.events;
        ensure!(count <= most, "{count} writes are a busy loop: {writes:?}");
        let ended = writes.by_resource.keys().find(|(verb, resource)| verb.contains("delete") && resource == "pods");
        ensure!(ended.is_none(), "the operator ended pods: {writes:?}");
        Ok(writes)
    }

    async fn end(self, cluster: ClusterUnderTest) -> Result<()> {
        cluster.delete(240).await?;
        self.bed.remove_namespace(&self.namespace).await
    }
}

fn text(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message)).collect()
}

/// A condition with this status and reason (any, if it is empty) whose message contains `word`.
fn says(conditions: &[Condition], type_: &str, status: &str, reason: &str, word: &str) -> bool {
    condition::find(conditions, type_).is_some_and(|found| {
        found.status == status && (reason.is_empty() || found.reason == reason) && found.message.contains(word)
    })
}

/// Waits until the cluster is not Healthy and says why in words that contain `word`.
async fn unwell(cluster: &ClusterUnderTest, word: &str, seconds: u64) -> Result<()> {
    until(&format!("a status that speaks of {word:?}"), within(seconds), || async {
        let status = cluster.get().await?.status.unwrap_or_default();
        let message = status.message.unwrap_or_default();
        let phase = status.phase;
        ensure!(phase != Some(Phase::Healthy), "still Healthy");
        ensure!(message.to_lowercase().contains(word), "{phase:?}, {message:?}, {:?}", text(&status.conditions));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_without_the_api_server_changes_nothing() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(story) = Story::begin("no-api").await? else { return Ok(()) };
    let cluster = story.healthy(&small("no-api", &json!({}))).await?;
    let (before, mark) = (cluster.starts(&[]).await?, story.mark()?);
    story.faults.freeze(&["kube-apiserver"], LASTS)?.over().await?;
    cluster.healthy(240).await?;
    story.bed.controller_ready().await?;
    Mark::quiet(&story.log, CONTROLLER_USER, |_| true, 20, within(240)).await?;
    // Nodes may be given up for a moment, since nobody heard of them for a minute either.
    story.few(&mark, FEW)?;
    let after = cluster.starts(&[]).await?;
    ensure!(after == before, "pods before: {before:?}, after: {after:?}");
    // And the operator is at work again.
    cluster.patch(r#"[{"op": "add", "path": "/spec/cells/0/spec/multigateway/replicas", "value": 2}]"#).await?;
    cluster.healthy(120).await?;
    story.end(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_without_the_clusters_etcd_is_told_and_leaves_the_database_alone() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(story) = Story::begin("no-etcd").await? else { return Ok(()) };
    let cluster = story.healthy(&small("no-etcd", &json!({}))).await?;
    let database = ["shard-pool", "multiorch"];
    let (before, mark) = (cluster.starts(&database).await?, story.mark()?);
    story.bed.forbid_pods(&story.namespace).await?;
    let pods: Api<Pod> = cluster.namespaced();
    let of_etcd = format!("app.kubernetes.io/instance={},app.kubernetes.io/component=toposerver", cluster.name);
    pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default().labels(&of_etcd)).await?;
    until("conditions that speak of the etcd", within(TOLD), || async {
        let status = cluster.get().await?.status.unwrap_or_default();
        ensure!(status.phase != Some(Phase::Healthy), "still Healthy");
        let told = says(&status.conditions, "TopologyReachable", "False", "", "");
        ensure!(told, "{:?}", text(&status.conditions));
        let servers: Api<TopoServer> = cluster.namespaced();
        let server = servers.get(&format!("{}-global-topo", cluster.name)).await?.status.unwrap_or_default();
        ensure!(says(&server.conditions, "Available", "False", "NoQuorum", ""), "{:?}", text(&server.conditions));
        Ok(())
    })
    .await?;
    // What a shard has read counts for half a minute, it looks every twenty seconds, and to say that it waits for the topology is no hurry.
    until("a shard that speaks of the etcd", within(3 * TOLD), || async {
        let shard = cluster.shard().await?.status.unwrap_or_default();
        ensure!(says(&shard.conditions, "TopologyReachable", "False", "", ""), "{:?}", text(&shard.conditions));
        Ok(())
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(LASTS)).await;
    story.few(&mark, FEW)?;
    let now = cluster.starts(&database).await?;
    ensure!(now.keys().eq(before.keys()), "pods before: {before:?}, now: {now:?}");
    story.bed.allow_pods(&story.namespace).await?;
    // The StatefulSet controller waits longer after each refusal.
    cluster.healthy(400).await?;
    let after: BTreeMap<String, String> = uids(&cluster.starts(&database).await?);
    ensure!(after == uids(&before), "pods before: {before:?}, after: {after:?}");
    story.end(cluster).await
}

fn uids(starts: &BTreeMap<String, (String, i32)>) -> BTreeMap<String, String> {
    starts.iter().map(|(pod, (uid, _))| (pod.clone(), uid.clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_cells_node_is_told_and_the_other_cells_go_on() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(story) = Story::begin("no-node").await? else { return Ok(()) };
    let manifest = std::fs::read_to_string(stories::lesson::root().join("samples/demo-multi-az-shared-volume.yaml"))?;
    let cluster = story.healthy(&serde_saphyr::from_str(&manifest)?).await?;
    let (node, zone) = victim(&story, &cluster).await?;
    let (before, mark) = (cluster.starts(&DATABASE).await?, story.mark()?);
    let fault = story.faults.freeze(&[node.as_str()], 150)?;
    until("a node that Kubernetes has given up", within(110), || async {
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(story.bed.client.clone());
        let conditions = nodes.get(&node).await?.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready =
            conditions.into_iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.status);
        ensure!(ready.as_deref() != Some("True"), "{node} is Ready");
        Ok(())
    })
    .await?;
    until("a status that tells which cell is lost", within(TOLD), || async {
        let status = cluster.get().await?.status.unwrap_or_default();
        ensure!(status.phase != Some(Phase::Healthy), "still Healthy");
        let ready: BTreeMap<&str, bool> = status.cells.iter().map(|(cell, s)| (cell.as_str(), s.ready)).collect();
        let right = ready.len() == 3 && ready.iter().all(|(cell, ready)| *ready == (**cell != zone));
        ensure!(right, "the cells but {zone} are ready: {ready:?}");
        let cells: Api<Cell> = cluster.namespaced();
        let lost = cells.list(&cluster.mine()).await?.items.into_iter().find(|cell| cell.spec.name == zone);
        let conditions = lost.and_then(|cell| cell.status).map(|status| status.conditions).unwrap_or_default();
        ensure!(says(&conditions, "Available", "False", "MultigatewayUnavailable", ""), "{:?}", text(&conditions));
        let shard = cluster.shard().await?.status.unwrap_or_default();
        ensure!(says(&shard.conditions, "Available", "False", "", "Not ready: "), "{:?}", text(&shard.conditions));
        Ok(())
    })
    .await?;
    until("a primary in another zone", within(60), || async {
        let members = cluster.members().await?;
        let primary = members.iter().find(|member| member.role == "PRIMARY" && member.zone != zone);
        primary.map(drop).with_context(|| format!("{members:?}"))
    })
    .await?;
    fault.over().await?;
    cluster.healthy(300).await?;
    story.few(&mark, 3 * FEW)?;
    let after = uids(&cluster.starts(&DATABASE).await?);
    ensure!(after == uids(&before), "pods before: {before:?}, after: {after:?}");
    story.end(cluster).await
}

/// A node of a cell without the controller's pod on it; that of the primary if it can be.
async fn victim(story: &Story, cluster: &ClusterUnderTest) -> Result<(String, String)> {
    let pods: Api<Pod> = Api::namespaced(story.bed.client.clone(), OPERATOR_NAMESPACE);
    let controllers = ListParams::default().labels("app.kubernetes.io/component=controller");
    let taken: Vec<String> =
        pods.list(&controllers).await?.items.into_iter().filter_map(|pod| pod.spec?.node_name).collect();
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(story.bed.client.clone());
    let members = cluster.members().await?;
    let nodes = nodes.list(&ListParams::default()).await?;
    let zone = |node: &k8s_openapi::api::core::v1::Node| {
        node.labels().get("topology.kubernetes.io/zone").cloned().unwrap_or_default()
    };
    let mut free: Vec<(String, String)> =
        nodes.iter().map(|node| (node.name_any(), zone(node))).filter(|(node, _)| !taken.contains(node)).collect();
    let leads = |zone: &str| members.iter().any(|member| member.zone == zone && member.role == "PRIMARY");
    free.sort_by_key(|(_, zone)| !leads(zone));
    free.into_iter().next().context("a node without the controller")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_storage_class_is_told_and_its_arrival_is_enough() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(story) = Story::begin("no-class").await? else { return Ok(()) };
    // The bed's provisioner serves it as soon as there is such a class.
    let class = "local-path-late";
    story.bed.remove_storage_class(class).await?;
    let storage = json!({"size": "1Gi", "class": class});
    let mut manifest = small("no-class", &json!({"globalTopoServer": {"etcd": {"storage": storage}}}));
    manifest["spec"]["databases"][0]["tablegroups"][0]["shards"][0]["spec"]["pools"]["default"]["storage"] = storage;
    let mark = story.mark()?;
    let cluster = story.apply(&manifest).await?;
    until("a condition that names the missing class", within(TOLD), || async {
        let conditions = cluster.get().await?.status.unwrap_or_default().conditions;
        let told = says(&conditions, "StorageClassMissing", "True", "StorageClassNotFound", class);
        ensure!(told, "{:?}", text(&conditions));
        Ok(())
    })
    .await?;
    unwell(&cluster, class, TOLD).await?;
    tokio::time::sleep(Duration::from_secs(LASTS)).await;
    // Making the objects counts along.
    story.few(&mark, 3 * FEW)?;
    story.bed.make_storage_class(class).await?;
    cluster.healthy(240).await?;
    story.bed.remove_storage_class(class).await?;
    story.end(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exhausted_quota_is_told_and_raising_it_is_enough() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(story) = Story::begin("no-quota").await? else { return Ok(()) };
    // Room for the etcd, MultiAdmin and its web page: then the cell and the shard come in vain.
    let quotas: Api<ResourceQuota> = Api::namespaced(story.bed.client.clone(), &story.namespace);
    let mut quota = ResourceQuota::default();
    quota.metadata.name = Some("few-pods".to_owned());
    let hard = [("pods".to_owned(), Quantity("3".to_owned()))].into();
    quota.spec = Some(ResourceQuotaSpec { hard: Some(hard), ..ResourceQuotaSpec::default() });
    quotas.create(&PostParams::default(), &quota).await?;
    let mark = story.mark()?;
    let cluster = story.apply(&small("no-quota", &json!({}))).await?;
    until("pods up to the quota", within(120), || async {
        let used = quotas.get("few-pods").await?.status.and_then(|status| status.used).unwrap_or_default();
        ensure!(used.get("pods").is_some_and(|used| used.0 == "3"), "{used:?}");
        Ok(())
    })
    .await?;
    unwell(&cluster, "quota", TOLD).await?;
    tokio::time::sleep(Duration::from_secs(LASTS)).await;
    story.few(&mark, 3 * FEW)?;
    quotas.delete("few-pods", &DeleteParams::default()).await?;
    // Deployments and our own passes wait longer after each refusal, five minutes at most.
    cluster.healthy(480).await?;
    story.end(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_whose_pods_are_refused_is_told_and_allowing_them_is_enough() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(story) = Story::begin("no-pods").await? else { return Ok(()) };
    story.bed.forbid_pods(&story.namespace).await?;
    let mark = story.mark()?;
    let cluster = story.apply(&small("no-pods", &json!({}))).await?;
    let servers: Api<TopoServer> = cluster.namespaced();
    let name = format!("{}-global-topo", cluster.name);
    until("a first word of the etcd", within(TOLD), || async {
        ensure!(servers.get(&name).await?.status.is_some(), "it has no status");
        Ok(())
    })
    .await?;
    // A StatefulSet has no condition for this, unlike a Deployment.
    until("an etcd that tells of its pods", within(TOLD), || async {
        let status = servers.get(&name).await?.status.unwrap_or_default();
        let told = says(&status.conditions, "PodsCreated", "False", "NotCreated", "quota");
        ensure!(told && status.phase == Some(Phase::Degraded), "{:?}, {:?}", status.phase, text(&status.conditions));
        Ok(())
    })
    .await?;
    unwell(&cluster, "quota", TOLD).await?;
    tokio::time::sleep(Duration::from_secs(LASTS)).await;
    story.few(&mark, 3 * FEW)?;
    story.bed.allow_pods(&story.namespace).await?;
    cluster.healthy(480).await?;
    story.end(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_pulled_is_told_and_its_arrival_is_enough() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(story) = Story::begin("no-image").await? else { return Ok(()) };
    let images = ImageSet::default();
    let late = |component: &str| format!("localhost/{}-{component}:late", story.namespace);
    let change = json!({"images": {"multigateway": late("gateway"), "postgres": late("postgres")}});
    let mark = story.mark()?;
    let cluster = story.apply(&small("no-image", &change)).await?;
    let started = |component: &'static str| {
        let cluster = &cluster;
        async move {
            until(&format!("a pod of {component} that asked for its image"), within(120), || async {
                let pods: Api<Pod> = cluster.namespaced();
                let wanted =
                    format!("app.kubernetes.io/instance={},app.kubernetes.io/component={component}", cluster.name);
                let waiting = pods.list(&ListParams::default().labels(&wanted)).await?.items;
                // PostgreSQL runs as a native sidecar: among the init containers.
                let statuses = waiting.into_iter().filter_map(|pod| pod.status).flat_map(|status| {
                    [status.init_container_statuses, status.container_statuses].into_iter().flatten().flatten()
                });
                let reasons: Vec<String> = statuses.filter_map(|status| status.state?.waiting?.reason).collect();
                ensure!(reasons.iter().any(|reason| reason.contains("ImagePull")), "{reasons:?}");
                Ok(())
            })
            .await
        }
    };
    started("multigateway").await?;
    until("a cell that tells of its image", within(TOLD), || async {
        let cells: Api<Cell> = cluster.namespaced();
        let cell = cells.list(&cluster.mine()).await?.items.pop().and_then(|cell| cell.status).unwrap_or_default();
        let message = cell.message.unwrap_or_default();
        ensure!(cell.phase == Some(Phase::Degraded) && message.contains("ImagePull"), "{:?} {message}", cell.phase);
        Ok(())
    })
    .await?;
    started("shard-pool").await?;
    until("a shard that tells of its image", within(TOLD), || async {
        let shard = cluster.shard().await?.status.unwrap_or_default();
        let message = shard.message.unwrap_or_default();
        ensure!(shard.phase == Some(Phase::Degraded) && message.contains("ImagePull"), "{:?} {message}", shard.phase);
        Ok(())
    })
    .await?;
    unwell(&cluster, "imagepull", TOLD).await?;
    tokio::time::sleep(Duration::from_secs(LASTS)).await;
    story.few(&mark, 3 * FEW)?;
    let before = uids(&cluster.starts(&["shard-pool"]).await?);
    story.faults.provide_image(&images.multigateway, &late("gateway")).await?;
    story.faults.provide_image(&images.postgres, &late("postgres")).await?;
    // Kubelets wait longer after each failure, five minutes at most.
    cluster.healthy(420).await?;
    let after = uids(&cluster.starts(&["shard-pool"]).await?);
    ensure!(after == before, "pods before: {before:?}, after: {after:?}");
    story.end(cluster).await
}
