//! The real controller taking pods of a shard down, against a real API server and a data plane that is played.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. No kubelet runs there, so a deleted pod is gone at once.

use std::time::Duration;

use super::bed::{
    Bed, DEADLINE, Objects, condition, eventually, minimal,
    stage::{Stage, Story},
};
use serde_json::{Value, json};
use shared::annotation;

const LONG: Duration = Duration::from_mins(3);
const CLUSTER: &str = "MultigresCluster/minimal";

/// A cluster with one pod in each of three cells.
fn three_cells() -> Value {
    json!({
        "cells": [{"name": "zone-a"}, {"name": "zone-b"}, {"name": "zone-c"}],
        "backup": {"type": "s3", "s3": {"bucket": "b", "region": "us-east-1", "useEnvCredentials": false}},
    })
}

/// A cluster with so many pods in one cell.
fn one_cell(replicas: usize) -> Value {
    let mut spec = minimal();
    spec["databases"] = json!([{"name": "postgres", "default": true, "tablegroups": [{
        "name": "default", "default": true,
        "shards": [{"name": "0-inf", "spec": {"pools": {"default": {"type": "readWrite", "replicasPerCell": replicas}}}}],
    }]}]);
    spec
}

fn pods(objects: &Objects) -> Vec<&Value> {
    let pool = |object: &&Value| object["metadata"]["labels"]["app.kubernetes.io/component"] == "shard-pool";
    objects.iter().filter(|(id, _)| id.starts_with("Pod/")).map(|(_, object)| object).filter(pool).collect()
}

fn image(pod: &Value) -> &str {
    let containers = pod["spec"]["initContainers"].as_array().into_iter().chain(pod["spec"]["containers"].as_array());
    let all = containers.flatten().find(|container| container["name"] == "postgres");
    all.unwrap()["image"].as_str().unwrap()
}

fn shard(objects: &Objects) -> &Value {
    objects.iter().find(|(id, _)| id.starts_with("Shard/")).unwrap().1
}

/// Waits until a cluster of so many pods has a primary and nothing pending.
async fn settled(bed: &Bed, count: usize) -> Objects {
    eventually(LONG, async || {
        let objects = bed.objects().await;
        let found = pods(&objects).len();
        let shard = objects.iter().find(|(id, _)| id.starts_with("Shard/")).map(|(_, shard)| shard);
        let status = shard.map(|shard| shard["status"].clone()).unwrap_or_default();
        let calm = status["drift"].is_null()
            && pods(&objects).iter().all(|pod| {
                pod["metadata"]["annotations"][annotation::DRAIN_STATE].is_null() && pod["status"]["phase"] == "Running"
            });
        if found == count && calm && status["primary"].is_string() {
            Ok(objects)
        } else {
            Err(format!("{found} of {count} pods, status {status:#}"))
        }
    })
    .await
}

async fn cluster(bed: &Bed, spec: &Value, count: usize) -> (Stage, Objects) {
    bed.create_cluster("minimal", spec).await;
    let cell = eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        objects.into_iter().find(|(id, _)| id.starts_with("Cell/")).map(|(_, cell)| cell).ok_or("no cell".to_owned())
    })
    .await;
    let stage = bed.stage(&cell);
    let objects = settled(bed, count).await;
    (stage, objects)
}

async fn roll(bed: &Bed, image: &str) {
    bed.edit(CLUSTER, json!({"spec": {"images": {"postgres": image}}})).await;
}

async fn rolled(bed: &Bed, count: usize, wanted: &str) -> Objects {
    eventually(LONG, async || {
        let objects = bed.objects().await;
        let images: Vec<&str> = pods(&objects).into_iter().map(image).collect();
        if images.len() == count && images.iter().all(|image| *image == wanted) {
            return Ok(());
        }
        Err(format!("{images:?}, {:#}", shard(&objects)["status"]["conditions"]))
    })
    .await;
    settled(bed, count).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_of_three_cells_takes_one_at_a_time_and_the_primary_last() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    let (stage, objects) = cluster(&bed, &three_cells(), 3).await;
    let budgets: Vec<&String> =
        objects.keys().filter(|id| id.starts_with("PodDisruptionBudget/") && id.contains("pdb")).collect();
    assert_eq!(budgets.len(), 2, "{budgets:?}");
    let first = stage.leader().unwrap();
    stage.forget();
    roll(&bed, "registry.test/pgctld:2").await;
    let objects = rolled(&bed, 3, "registry.test/pgctld:2").await;
    let story = story(&stage, 3).await;
    assert_eq!(story.gone.len(), 3, "{story:?}");
    assert_eq!(story.gone[2].0, first, "the primary goes last");
    assert!(story.gone.iter().all(|(_, led)| !led), "nobody goes while it leads: {story:?}");
    assert_eq!(story.switchovers, 1);
    assert!(story.most_down <= 1, "{story:?}");
    let labelled =
        pods(&objects).into_iter().filter(|pod| pod["metadata"]["labels"]["multigres.com/role"] == "primary");
    let labelled: Vec<&str> = labelled.map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(labelled, [stage.leader().unwrap()]);
    running.quiet(Duration::from_secs(20)).await;
    running.stop().await;
    bed.close().await;
}

/// What the stage has seen, once so many pods went: it looks by itself, a moment after the controller.
async fn story(stage: &Stage, gone: usize) -> Story {
    eventually(DEADLINE, async || {
        let story = stage.story();
        if story.gone.len() < gone { Err(format!("{story:?}")) } else { Ok(story) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_leaves_the_cohort_before_it_goes_for_good() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    let (stage, _) = cluster(&bed, &one_cell(4), 4).await;
    let first = stage.leader().unwrap();
    stage.forget();
    bed.edit(CLUSTER, json!({"spec": one_cell(2)})).await;
    let objects = settled(&bed, 2).await;
    let story = story(&stage, 2).await;
    let gone: Vec<&String> = story.gone.iter().map(|(pod, _)| pod).collect();
    assert_eq!(gone, story.left.iter().collect::<Vec<_>>(), "each leaves the cohort, then goes");
    assert_eq!((gone.len(), story.switchovers), (2, 0), "{story:?}");
    assert_eq!(stage.leader(), Some(first));
    assert!(gone[0].ends_with("-3") && gone[1].ends_with("-2"), "{gone:?}");
    let kept = objects.keys().filter(|id| id.starts_with("PersistentVolumeClaim/data-")).count();
    assert_eq!(kept, 4, "volumes are kept");
    running.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_killed_again_and_again_rolls_all_the_same() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    let (stage, _) = cluster(&bed, &three_cells(), 3).await;
    running.kill().await;
    stage.forget();
    roll(&bed, "registry.test/pgctld:2").await;
    let mut states = std::collections::BTreeSet::new();
    for _ in 0..120 {
        let objects = bed.objects().await;
        let drained = pods(&objects).into_iter().map(|pod| &pod["metadata"]["annotations"][annotation::DRAIN_STATE]);
        states.extend(drained.filter_map(Value::as_str).map(ToOwned::to_owned));
        if pods(&objects).len() == 3 && pods(&objects).into_iter().all(|pod| image(pod) == "registry.test/pgctld:2") {
            break;
        }
        // Each one dies after a single write, so that every state is one in which somebody died, or of boredom.
        let mortal = bed.start_crashing(1);
        let bored = mortal.quiet(Duration::from_secs(4));
        tokio::select! {
            () = mortal.wire.crashed() => {}
            () = bored => {}
        }
        mortal.kill().await;
    }
    let running = bed.start().await;
    rolled(&bed, 3, "registry.test/pgctld:2").await;
    let story = story(&stage, 3).await;
    assert!(story.gone.iter().all(|(_, led)| !led), "{story:?}");
    assert!(story.most_down <= 1, "{story:?}");
    assert_eq!(story.gone.len(), 3, "{story:?}");
    assert!(states.len() >= 4, "it died in these states of a drain alone: {states:?}");
    running.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_that_is_refused_names_itself_and_is_tried_again() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    let (stage, _) = cluster(&bed, &three_cells(), 3).await;
    let first = stage.leader().unwrap();
    stage.refuse(true);
    roll(&bed, "registry.test/pgctld:2").await;
    // Both standbys are new; the primary waits in its first state, asked again and again.
    eventually(LONG, async || {
        let objects = bed.objects().await;
        let old: Vec<&str> = pods(&objects).into_iter().map(image).filter(|i| *i != "registry.test/pgctld:2").collect();
        let pod = bed.object(&format!("Pod/{first}")).await;
        let step = pod["metadata"]["annotations"][annotation::DRAIN_STATE].clone();
        if old.len() == 1 && step == "requested" { Ok(()) } else { Err(format!("{old:?} {step}")) }
    })
    .await;
    stage.refuse(false);
    rolled(&bed, 3, "registry.test/pgctld:2").await;
    assert_ne!(stage.leader(), Some(first));
    running.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_cluster_is_left_as_it_is() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    let (stage, _) = cluster(&bed, &three_cells(), 3).await;
    bed.edit(CLUSTER, json!({"metadata": {"annotations": {annotation::PAUSE: "true"}}})).await;
    eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        let handed = &shard(&objects)["metadata"]["annotations"][annotation::PAUSE];
        if handed == "true" { Ok(()) } else { Err(handed.to_string()) }
    })
    .await;
    stage.forget();
    roll(&bed, "registry.test/pgctld:2").await;
    eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        let blocked = condition(shard(&objects), "DisruptionBlocked");
        if blocked["reason"] == "Paused" { Ok(()) } else { Err(blocked.to_string()) }
    })
    .await;
    assert!(stage.story().gone.is_empty());
    bed.edit(CLUSTER, json!({"metadata": {"annotations": {annotation::PAUSE: null}}})).await;
    rolled(&bed, 3, "registry.test/pgctld:2").await;
    running.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topology_that_is_away_stops_a_roll_and_names_itself() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    let (stage, objects) = cluster(&bed, &three_cells(), 3).await;
    let cell = objects.iter().find(|(id, _)| id.starts_with("Cell/")).unwrap().1;
    stage.forget();
    bed.topology_answers(cell, false);
    roll(&bed, "registry.test/pgctld:2").await;
    eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        let blocked = condition(shard(&objects), "DisruptionBlocked");
        if blocked["reason"] == "TopologyUnavailable" { Ok(()) } else { Err(blocked.to_string()) }
    })
    .await;
    assert!(stage.story().gone.is_empty());
    bed.topology_answers(cell, true);
    rolled(&bed, 3, "registry.test/pgctld:2").await;
    assert!(stage.story().most_down <= 1);
    running.stop().await;
    bed.close().await;
}
