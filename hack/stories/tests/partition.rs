//! A cell with an etcd of its own while the global one is down: nobody is restarted, and SQL through the gateways of the cell goes on.
//!
//! SQL needs the real data plane; with the stand-in, in the long form, it is seen that nothing of the cell ends or stops being ready.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, api::DeleteParams};
use serde_json::json;
use shared::{api::v1alpha1::TopoServer, condition, name};
use stories::{
    Backups, Bed, ClusterUnderTest,
    backup::{is_real, small},
    bed::is_left_out,
    until, within,
};

/// The program that runs statements inside the network of the bed.
const SQL: &str = env!("CARGO_BIN_EXE_sql");
/// The only cell.
const CELL: &str = "zone-a";
/// How long the global etcd is down: longer than any cache that is only refreshed.
const LASTS: Duration = Duration::from_mins(2);
/// What serves the cell.
const SERVING: [&str; 3] = ["shard-pool", "multiorch", "multigateway"];

/// Gateways of the cell that are ready.
async fn ready(cluster: &ClusterUnderTest) -> Result<i32> {
    let gateways: Api<Deployment> = cluster.namespaced();
    let status = gateways.get(&name::gateway_deployment(&cluster.name, CELL)).await?.status;
    Ok(status.and_then(|status| status.ready_replicas).unwrap_or_default())
}

#[tokio::test]
async fn a_cell_with_its_own_etcd_serves_while_the_global_one_is_down() -> Result<()> {
    if !is_real() && is_left_out("this story takes minutes") {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let namespace = bed.namespace("island").await?;
    let little = json!({"requests": {"cpu": "10m", "memory": "32Mi"}});
    let etcd = json!({"replicas": 1, "storage": {"size": "1Gi"}, "resources": little});
    let cell =
        json!({"name": CELL, "spec": {"multigateway": {"resources": little}, "localTopoServer": {"etcd": etcd}}});
    let cluster =
        ClusterUnderTest::apply_value(&bed, &namespace, &small("island", 2, &json!({"cells": [cell]}))).await?;
    cluster.healthy(420).await?;
    cluster.roles(1, 120).await?;
    let (backups, gateway) = (Backups::of(&cluster), name::gateway_service(&cluster.name, CELL));
    let sql = async |statement: &str| -> Result<String> {
        if is_real() { backups.sql_through(&gateway, SQL, &[], &[statement]).await } else { Ok(String::new()) }
    };
    sql("CREATE TABLE island (id bigserial PRIMARY KEY, at timestamptz DEFAULT now())").await?;
    let before = cluster.starts(&SERVING).await?;

    bed.forbid_pods(&namespace).await?;
    let pods: Api<Pod> = cluster.namespaced();
    let global = name::global_topo(&cluster.name);
    pods.delete(&format!("{global}-0"), &DeleteParams::default().grace_period(0)).await?;
    until("conditions that speak of the global etcd", within(60), || async {
        let conditions = cluster.get().await?.status.unwrap_or_default().conditions;
        let reachable = condition::find(&conditions, "TopologyReachable").context("whether it is reachable")?;
        ensure!(reachable.status == "False", "{}: {}", reachable.reason, reachable.message);
        Ok(())
    })
    .await?;
    // The etcd of the cell is another one, and well.
    let servers: Api<TopoServer> = cluster.namespaced();
    let local = name::local_topo(&name::cell(&cluster.name, CELL));
    let local = servers.get(&local).await?.status.unwrap_or_default();
    ensure!(condition::is_true(&local.conditions, "Available"), "{:?}", local.conditions);

    let (since, mut written) = (Instant::now(), 0);
    while since.elapsed() < LASTS {
        // Each of these is a connection of its own.
        sql("INSERT INTO island DEFAULT VALUES").await.context("a write while the global etcd is down")?;
        written += 1;
        ensure!(ready(&cluster).await? == 1, "the gateway is not ready after {:?}", since.elapsed());
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let during = cluster.starts(&SERVING).await?;
    ensure!(during == before, "pods before: {before:?}, while the etcd was down: {during:?}");

    bed.allow_pods(&namespace).await?;
    // The StatefulSet controller waits longer after each refusal.
    cluster.healthy(420).await?;
    let rows = sql("SELECT count(*) FROM island").await?;
    ensure!(!is_real() || rows == written.to_string(), "{written} rows were written, and {rows} are there");
    let after = cluster.starts(&SERVING).await?;
    ensure!(after == before, "pods before: {before:?}, after: {after:?}");
    cluster.delete(300).await?;
    bed.remove_namespace(&namespace).await
}
