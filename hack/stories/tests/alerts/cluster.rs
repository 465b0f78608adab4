//! Alerts about one cluster. Nobody else notices anything of these faults.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use stories::{ClusterUnderTest, bed::is_long};

use super::{OF_A_CLUSTER, Story, Told};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_about_a_cluster_fire_by_a_real_fault_and_resolve() -> Result<()> {
    let Some(story) = Story::begin().await? else { return Ok(()) };
    let namespace = story.bed.namespace("alerts").await?;
    let cluster = story.minimal(&namespace).await?;
    let fired = pods_that_cannot_start(&story, &cluster).await?;
    if is_long() {
        ensure!(fired == BTreeSet::from(OF_A_CLUSTER), "only {fired:?} fired");
    } else {
        eprintln!("SKIPPED: of {} alerts all but {fired:?}; `make stories` has them", OF_A_CLUSTER.len());
    }
    cluster.delete(240).await?;
    story.bed.remove_namespace(&namespace).await
}

/// A quota that lets no pod start, after the gateways are gone and, in the long form, a standby.
async fn pods_that_cannot_start(story: &Story, cluster: &ClusterUnderTest) -> Result<BTreeSet<&'static str>> {
    let of_cluster = || vec![("namespace", cluster.namespace.as_str()), ("cluster", cluster.name.as_str())];
    let mut told: Vec<Told<'_>> = vec![
        ("MultigresClusterDegraded", vec![("namespace", cluster.namespace.as_str()), ("name", cluster.name.as_str())]),
        ("MultigresCellGatewayUnavailable", of_cluster()),
    ];
    if is_long() {
        told.push(("MultigresShardPoolDegraded", of_cluster()));
        told.push((
            "MultigresClusterReconcileErrors",
            vec![("namespace", cluster.namespace.as_str()), ("controller", "shard")],
        ));
    }
    story.none_fires(&told).await?;
    story.bed.forbid_pods(&cluster.namespace).await?;
    let pods: Api<Pod> = cluster.namespaced();
    let at_once = DeleteParams::default().grace_period(0);
    let gateways = format!("app.kubernetes.io/instance={},app.kubernetes.io/component=multigateway", cluster.name);
    pods.delete_collection(&at_once, &ListParams::default().labels(&gateways)).await.context("deleting gateways")?;
    if is_long() {
        let members = cluster.roles(1, 60).await?;
        let standby = members.iter().find(|member| member.role == "REPLICA").context("a standby")?;
        pods.delete(&standby.pod, &at_once).await.context("deleting the standby")?;
    }
    story.all_fire(&told).await?;
    story.bed.allow_pods(&cluster.namespace).await?;
    // Those who make pods wait longer after each refusal.
    cluster.healthy(400).await?;
    story.none_fires(&told).await?;
    Ok(told.into_iter().map(|(alert, _)| alert).collect())
}
