//! Pods of a shard that are replaced, moved, added and removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use shared::annotation;
use stories::{Bed, ClusterUnderTest, bed::is_long, until, within};

use super::watch::{Allowed, Course, GAP, POOL, POOLS, SHARD, only_long, pool_pods, three_cells, watched};

#[tokio::test]
async fn a_rolling_update_costs_one_switchover_and_no_write() -> Result<()> {
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = three_cells(&bed, "roll").await?;
    let first = cluster.primary().await?;
    let allowed = Allowed { down: 1, gap: GAP };
    let course = watched(&cluster, "rolling update", 3, allowed, async || {
        let resources = json!({"requests": {"memory": "300Mi", "cpu": "50m"}});
        let patch = json!([{"op": "add", "path": format!("{POOL}/postgres"), "value": {"resources": resources}}]);
        cluster.patch(&patch.to_string()).await?;
        until("three new pods", within(420), || async {
            let pods: Api<Pod> = cluster.namespaced();
            let list = pods.list(&pool_pods(&cluster)).await?.items;
            let new = list.iter().filter(|pod| has_request(pod, "300Mi")).count();
            ensure!(new == 3 && list.len() == 3, "{new} of {} pods are new", list.len());
            Ok(())
        })
        .await
    })
    .await?;
    ensure!(course.gone.len() == 3, "each pod goes once: {course:?}");
    nobody_led(&course)?;
    one_switchover(&course)?;
    ensure!(course.gone[2].0 == first, "{first} was the primary and goes last: {course:?}");
    cluster.done().await
}

/// Nobody went while it was the primary.
fn nobody_led(course: &Course) -> Result<()> {
    ensure!(course.gone.iter().all(|(_, primary)| !primary), "somebody went as the primary: {course:?}");
    Ok(())
}

/// The shard had one primary, and then at most one other.
fn one_switchover(course: &Course) -> Result<()> {
    ensure!(course.led.len() <= 2, "more than one switchover: {course:?}");
    Ok(())
}

fn has_request(pod: &Pod, memory: &str) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    spec.init_containers.into_iter().flatten().chain(spec.containers).any(|container| {
        let requests = container.resources.and_then(|resources| resources.requests).unwrap_or_default();
        requests.get("memory").is_some_and(|quantity| quantity.0 == memory)
    })
}

#[tokio::test]
async fn growing_and_shrinking_costs_no_write() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = three_cells(&bed, "scale").await?;
    let replicas = |count: u32| json!([{"op": "replace", "path": format!("{POOL}/replicasPerCell"), "value": count}]);
    let nobody = Allowed { down: 0, gap: GAP };
    let course = watched(&cluster, "scale up", 3, nobody, async || {
        cluster.patch(&replicas(2).to_string()).await?;
        cluster.roles(5, 240).await.map(drop)
    })
    .await?;
    ensure!(course.gone.is_empty() && course.led.len() == 1, "nobody goes, and nobody hands over: {course:?}");
    let down = Allowed { down: 1, gap: GAP };
    let course = watched(&cluster, "scale down", 3, down, async || {
        cluster.patch(&replicas(1).to_string()).await?;
        cluster.roles(2, 420).await.map(drop)
    })
    .await?;
    let names: BTreeSet<&String> = course.gone.iter().map(|(pod, _)| pod).collect();
    ensure!(names.len() == 3 && course.gone.len() == 3, "three go, each once: {course:?}");
    nobody_led(&course)?;
    one_switchover(&course)?;
    cluster.done().await
}

#[tokio::test]
async fn a_pool_comes_and_another_one_leaves_with_its_primary() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = three_cells(&bed, "pools").await?;
    let first = cluster.primary().await?;
    let before = cluster.starts(&["shard-pool"]).await?;
    let nobody = Allowed { down: 0, gap: GAP };
    let course = watched(&cluster, "a pool comes", 3, nobody, async || {
        let cells = ["zone-a", "zone-b", "zone-c"];
        let pool = json!({"type": "readWrite", "cells": cells, "replicasPerCell": 1, "storage": {"size": "1Gi"}});
        let patch = json!([{"op": "add", "path": format!("{POOLS}/second"), "value": pool}]);
        cluster.patch(&patch.to_string()).await?;
        cluster.roles(5, 300).await.map(drop)
    })
    .await?;
    ensure!(course.gone.is_empty() && course.led == [first.clone()], "nobody goes, nobody hands over: {course:?}");
    let after = cluster.starts(&["shard-pool"]).await?;
    ensure!(before.iter().all(|(pod, start)| after.get(pod) == Some(start)), "{before:?} before, {after:?} now");

    let one = Allowed { down: 1, gap: GAP };
    let course = watched(&cluster, "a pool leaves", 3, one, async || {
        cluster.patch(&json!([{"op": "remove", "path": POOL}]).to_string()).await?;
        cluster.roles(2, 480).await.map(drop)
    })
    .await?;
    let names: BTreeSet<&String> = course.gone.iter().map(|(pod, _)| pod).collect();
    ensure!(names.into_iter().eq(before.keys()) && course.gone.len() == 3, "each of the pool goes once: {course:?}");
    nobody_led(&course)?;
    ensure!(course.gone[2].0 == first && course.led.len() == 2, "{first} hands over, once, and goes last: {course:?}");
    let claims = cluster.claims().await?;
    for pod in before.keys() {
        ensure!(claims.contains(&shared::name::data_pvc(pod)), "the volume of {pod} is kept: {claims:?}");
    }
    cluster.done().await
}

/// The class of the data volume under each pool pod.
async fn classes(cluster: &ClusterUnderTest) -> Result<BTreeMap<String, String>> {
    let (pods, claims): (Api<Pod>, Api<PersistentVolumeClaim>) = (cluster.namespaced(), cluster.namespaced());
    let mut all = BTreeMap::new();
    for pod in pods.list(&pool_pods(cluster)).await?.items {
        let claim = claims.get(&shared::name::data_pvc(&pod.name_any())).await?;
        let class = claim.spec.and_then(|spec| spec.storage_class_name).unwrap_or_default();
        all.insert(pod.name_any(), class);
    }
    Ok(all)
}

#[tokio::test]
async fn moving_to_another_storage_class_costs_one_switchover_and_no_write() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = three_cells(&bed, "class").await?;
    // The bed's provisioner serves it as soon as there is such a class.
    let class = "local-path-other";
    bed.make_storage_class(class).await?;
    let first = cluster.primary().await?;
    let before = classes(&cluster).await?;
    ensure!(before.len() == 3 && before.values().all(|class| class == "local-path"), "{before:?}");
    let allowed = Allowed { down: 1, gap: GAP };
    let course = watched(&cluster, "another class", 3, allowed, async || {
        let patch = json!([{"op": "add", "path": format!("{POOL}/storage/class"), "value": class}]);
        cluster.patch(&patch.to_string()).await?;
        until("three members on volumes of the class", within(600), || async {
            let now = classes(&cluster).await?;
            ensure!(now.len() == 3 && now.values().all(|found| found == class), "{now:?}");
            Ok(())
        })
        .await?;
        cluster.roles(2, 120).await.map(drop)
    })
    .await?;
    let names: BTreeSet<&String> = course.gone.iter().map(|(pod, _)| pod).collect();
    ensure!(names.into_iter().eq(before.keys()) && course.gone.len() == 3, "each goes once: {course:?}");
    nobody_led(&course)?;
    one_switchover(&course)?;
    ensure!(course.gone[2].0 == first, "{first} was the primary and goes last: {course:?}");
    let claims = cluster.claims().await?;
    for pod in before.keys() {
        ensure!(claims.contains(&shared::name::data_pvc(pod)), "the volume of {pod} is kept: {claims:?}");
    }
    cluster.done().await?;
    bed.remove_storage_class(class).await
}

/// What the pool pods were told to reload last, by name.
async fn reloaded(cluster: &ClusterUnderTest) -> Result<BTreeMap<String, String>> {
    let pods: Api<Pod> = cluster.namespaced();
    let list = pods.list(&pool_pods(cluster)).await?.items;
    let of = |pod: &Pod| pod.annotations().get(annotation::POSTGRES_RELOAD_HASH).cloned().unwrap_or_default();
    Ok(list.iter().map(|pod| (pod.name_any(), of(pod))).collect())
}

/// Whether the settings of the shard say that.
async fn written(cluster: &ClusterUnderTest, line: &str) -> Result<()> {
    let maps: Api<ConfigMap> = cluster.namespaced();
    let all = maps.list(&cluster.mine()).await?.items;
    let texts = || all.iter().filter(|map| map.name_any().ends_with("-postgres-config")).flat_map(|map| &map.data);
    let lines = || texts().flat_map(BTreeMap::values).flat_map(|text| text.lines());
    let said = |found: &str| found.replace([' ', '\''], "") == line;
    ensure!(lines().any(said), "no line {line} in {:?}", lines().collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_setting_is_reloaded_where_that_is_enough_and_rolls_the_shard_where_it_is_not() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = three_cells(&bed, "settings").await?;
    let first = cluster.primary().await?;
    let started = cluster.starts(&["shard-pool"]).await?;
    let before = reloaded(&cluster).await?;
    let set = |settings: serde_json::Value| {
        json!([{"op": "add", "path": format!("{SHARD}/postgresConfig"), "value": settings}]).to_string()
    };
    let nobody = Allowed { down: 0, gap: GAP };
    let course = watched(&cluster, "settings reloaded", 3, nobody, async || {
        cluster.patch(&set(json!({"work_mem": "7MB"}))).await?;
        // The kubelet takes a minute or more to bring a changed file.
        until("three servers with the new settings", within(300), || async {
            let now = reloaded(&cluster).await?;
            let stale: Vec<&String> =
                now.iter().filter(|(pod, hash)| before.get(*pod) == Some(*hash)).map(|(pod, _)| pod).collect();
            ensure!(stale.is_empty() && now.len() == 3, "not reloaded: {stale:?}");
            Ok(())
        })
        .await?;
        written(&cluster, "work_mem=7MB").await
    })
    .await?;
    ensure!(course.gone.is_empty() && course.led.len() == 1, "nobody goes for it: {course:?}");
    let after = cluster.starts(&["shard-pool"]).await?;
    ensure!(after == started, "nobody is restarted: {started:?} before, {after:?} now");

    let one = Allowed { down: 1, gap: GAP };
    let course = watched(&cluster, "settings rolled", 3, one, async || {
        cluster.patch(&set(json!({"work_mem": "7MB", "max_connections": "350"}))).await?;
        until("three new pods", within(420), || async {
            let now = cluster.starts(&["shard-pool"]).await?;
            let old: Vec<&String> = now
                .iter()
                .filter(|(pod, (uid, _))| started.get(*pod).is_some_and(|(before, _)| before == uid))
                .map(|(pod, _)| pod)
                .collect();
            ensure!(old.is_empty() && now.len() == 3, "{old:?} of {} are old", now.len());
            Ok(())
        })
        .await?;
        written(&cluster, "max_connections=350").await
    })
    .await?;
    ensure!(course.gone.len() == 3 && course.gone[2].0 == first, "each goes once, {first} last: {course:?}");
    nobody_led(&course)?;
    one_switchover(&course)?;
    cluster.done().await
}

#[tokio::test]
async fn a_deleted_primary_is_followed_by_another_one() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = three_cells(&bed, "lost").await?;
    let first = cluster.primary().await?;
    let allowed = Allowed { down: 1, gap: Duration::from_secs(12) };
    watched(&cluster, "primary deleted", 3, allowed, async || {
        let pods: Api<Pod> = cluster.namespaced();
        pods.delete(&first, &DeleteParams::default()).await?;
        until("another primary", within(120), || async {
            let now = cluster.primary().await?;
            ensure!(now != first, "{first} still counts as the primary");
            Ok(())
        })
        .await
    })
    .await?;
    cluster.done().await
}

#[tokio::test]
async fn every_node_can_be_drained() -> Result<()> {
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let nodes: Api<Node> = Api::all(bed.client.clone());
    // A try that was ended from outside may have left one cordoned.
    for node in nodes.list(&ListParams::default()).await? {
        cordon(&nodes, &node.name_any(), false).await?;
    }
    let cluster = three_cells(&bed, "drain").await?;
    let pods: Api<Pod> = cluster.namespaced();
    let of_pods = pods.list(&pool_pods(&cluster)).await?.items;
    let all: BTreeSet<String> = of_pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    ensure!(all.len() == 3, "one member on each of three nodes: {all:?}");
    let first = cluster.primary().await?;
    let home = of_pods.iter().find(|pod| pod.name_any() == first).and_then(|pod| pod.spec.as_ref()?.node_name.clone());
    let home = home.context("the node of the primary")?;
    // The short form empties the one node that takes a switchover.
    let turns = if is_long() { all } else { BTreeSet::from([home]) };
    for node in turns {
        let allowed = Allowed { down: 1, gap: GAP };
        let title = format!("node {node} drained");
        let course = watched(&cluster, &title, 3, allowed, async || {
            cordon(&nodes, &node, true).await?;
            let emptied = empty(&pods, &cluster, &node).await;
            cordon(&nodes, &node, false).await?;
            emptied
        })
        .await?;
        nobody_led(&course)?;
        one_switchover(&course)?;
        ensure!(course.gone.len() == 1, "the member of the node goes, and nobody else: {course:?}");
    }
    cluster.done().await
}

async fn cordon(nodes: &Api<Node>, node: &str, cordoned: bool) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"unschedulable": cordoned}}));
    nodes.patch(node, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Evicts the pool pods of a node, as `kubectl drain` does: again and again while a budget says no.
async fn empty(pods: &Api<Pod>, cluster: &ClusterUnderTest, node: &str) -> Result<()> {
    until(&format!("{node} to be empty"), within(180), || async {
        for pod in pods.list(&pool_pods(cluster)).await?.items {
            let here = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
            if !here {
                continue;
            }
            if pod.metadata.deletion_timestamp.is_none() {
                pods.evict(&pod.name_any(), &EvictParams::default()).await.context("evicting")?;
            }
            bail!("{} is still there", pod.name_any());
        }
        Ok(())
    })
    .await
}
