//! Cells and clusters that go away, on a real API server: in order, across restarts of the controller, and called off in between.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. Kubernetes' own controllers do not run there: pods are
//! deleted by the tests in their place, and the garbage collector is played.

use std::time::Duration;

use super::bed::{Bed, DEADLINE, Running, condition, eventually};
use controller::upstream::Error;
use serde_json::{Value, json};
use shared::{annotation::PENDING_DELETION, name};

const CLUSTER: &str = "MultigresCluster/minimal";

fn of_cells(cells: &[&str]) -> Value {
    let cells: Vec<Value> = cells.iter().map(|cell| json!({"name": cell, "zone": "eu-1a"})).collect();
    json!({"backup": {"type": "s3", "s3": {"bucket": "b", "region": "r"}}, "cells": cells})
}

fn cell(name: &str) -> String {
    format!("Cell/{}", name::cell("minimal", name))
}

/// Waits until the topology of a cluster lists exactly these cells; returns the Cell that leads there.
async fn registered(bed: &Bed, at: &Value, cells: &[&str]) {
    eventually(DEADLINE, async || {
        let keys = bed.topology(at);
        let wrong = |name: &&str| !keys.iter().any(|key| key.ends_with(&format!("/cells/{name}/Cell")));
        let have = keys.iter().filter(|key| key.ends_with("/Cell")).count();
        if cells.iter().any(wrong) || have != cells.len() { Err(format!("{keys:?}")) } else { Ok(()) }
    })
    .await;
}

/// Two registered cells, and what leads to their topology.
async fn two_cells(bed: &Bed) -> Value {
    bed.create_cluster("minimal", &of_cells(&["a", "b"])).await;
    let first = eventually(DEADLINE, async || match bed.object(&cell("a")).await {
        Value::Null => Err("no cell yet".to_owned()),
        cell => Ok(cell),
    })
    .await;
    registered(bed, &first, &["a", "b"]).await;
    eventually(DEADLINE, async || {
        let pods = pods_of(bed, "b").await.len();
        if pods == 0 { Err("no pods yet".to_owned()) } else { Ok(()) }
    })
    .await;
    first
}

/// Two registered cells, the controller that made them, and what leads to their topology; `None` without a server.
async fn watched() -> Option<(Bed, Running, Value)> {
    let bed = Bed::open().await?;
    let controller = bed.start().await;
    let at = two_cells(&bed).await;
    Some((bed, controller, at))
}

/// The same after the controller has stopped.
async fn unwatched() -> Option<(Bed, Value)> {
    let (bed, controller, at) = watched().await?;
    controller.stop().await;
    Some((bed, at))
}

async fn end(bed: Bed, controller: Running) {
    controller.stop().await;
    bed.close().await;
}

/// Waits until a deleted cluster is gone; nothing of it is left in its topology then.
async fn cluster_goes(bed: &Bed, at: &Value) {
    eventually(DEADLINE, async || {
        bed.collect_garbage().await;
        match bed.object(CLUSTER).await {
            Value::Null => Ok(()),
            cluster => Err(cluster["metadata"].to_string()),
        }
    })
    .await;
    assert_eq!(bed.topology(at), Vec::<String>::new());
}

async fn pods_of(bed: &Bed, cell: &str) -> Vec<String> {
    let objects = bed.objects().await.into_iter();
    let of_cell = |object: &Value| object["metadata"]["labels"]["multigres.com/cell"] == cell;
    objects.filter(|(id, object)| id.starts_with("Pod/") && of_cell(object)).map(|(id, _)| id).collect()
}

async fn leaves(bed: &Bed, name: &str) -> Value {
    let id = cell(name);
    eventually(DEADLINE, async || {
        let object = bed.object(&id).await;
        let ready = condition(&object, "ReadyForDeletion");
        if ready["status"] == "False" && ready["reason"] == "PodsRemain" { Ok(object) } else { Err(object.to_string()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_cell_is_drained_unregistered_and_deleted_across_a_restart() {
    let Some((bed, controller, at)) = watched().await else { return };
    bed.edit(CLUSTER, json!({"spec": of_cells(&["a"])})).await;
    let leaving = leaves(&bed, "b").await;
    assert!(leaving["metadata"]["annotations"][PENDING_DELETION].is_string());
    registered(&bed, &at, &["a", "b"]).await;
    let cluster = eventually(DEADLINE, async || {
        let cluster = bed.object(CLUSTER).await;
        let pending = condition(&cluster, "CellRemovalPending")["message"].clone();
        if pending.as_str().is_some_and(|text| text.contains("still run there")) {
            Ok(cluster)
        } else {
            Err(pending.to_string())
        }
    })
    .await;
    assert_eq!(condition(&cluster, "CellRemovalPending")["reason"], "Draining");

    // The rest goes on although nobody was there when the last pod went.
    controller.stop().await;
    for pod in pods_of(&bed, "b").await {
        bed.delete(&pod).await;
    }
    let controller = bed.start().await;
    eventually(DEADLINE, async || match bed.object(&cell("b")).await {
        Value::Null => Ok(()),
        object => Err(object["status"].to_string()),
    })
    .await;
    registered(&bed, &at, &["a"]).await;
    eventually(DEADLINE, async || {
        let cluster = bed.object(CLUSTER).await;
        let cells = cluster["status"]["cells"].clone();
        let gone = condition(&cluster, "CellRemovalPending").is_null();
        if gone && cells.get("b").is_none() { Ok(()) } else { Err(cluster["status"].to_string()) }
    })
    .await;
    end(bed, controller).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_that_comes_back_while_it_leaves_stays_the_same_cell() {
    let Some((bed, controller, at)) = watched().await else { return };
    bed.edit(CLUSTER, json!({"spec": of_cells(&["a"])})).await;
    let leaving = leaves(&bed, "b").await;
    bed.edit(CLUSTER, json!({"spec": of_cells(&["a", "b"])})).await;
    let back = eventually(DEADLINE, async || {
        let object = bed.object(&cell("b")).await;
        let asked = &object["metadata"]["annotations"][PENDING_DELETION];
        let said = condition(&object, "ReadyForDeletion");
        if asked.is_null() && said.is_null() { Ok(object) } else { Err(object.to_string()) }
    })
    .await;
    assert_eq!(back["metadata"]["uid"], leaving["metadata"]["uid"]);
    registered(&bed, &at, &["a", "b"]).await;
    end(bed, controller).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_deleted_while_nobody_watched_leaves_volumes_and_password_and_an_empty_topology() {
    let Some((bed, at)) = unwatched().await else { return };
    let kept = |objects: &super::bed::Objects| -> Vec<String> {
        let kinds = ["PersistentVolumeClaim/", "Secret/minimal-postgres-password"];
        objects.keys().filter(|id| kinds.iter().any(|kind| id.starts_with(kind))).cloned().collect()
    };
    let before = kept(&bed.objects().await);
    assert!(before.len() > 2, "{before:?}");

    bed.delete(CLUSTER).await;
    let controller = bed.start().await;
    cluster_goes(&bed, &at).await;
    let left = eventually(DEADLINE, async || {
        bed.collect_garbage().await;
        let objects = bed.objects().await;
        let kept = kept(&objects);
        if objects.len() == kept.len() { Ok(kept) } else { Err(format!("{:?}", objects.keys())) }
    })
    .await;
    assert_eq!(left, before);
    end(bed, controller).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_deleted_across_crashes_of_the_controller_at_every_write() {
    let Some((bed, at)) = unwatched().await else { return };
    bed.delete(CLUSTER).await;
    for writes in 0..8 {
        let crashing = bed.start_crashing(writes);
        crashing.quiet(Duration::from_secs(1)).await;
        crashing.kill().await;
        bed.collect_garbage().await;
    }
    let controller = bed.start().await;
    cluster_goes(&bed, &at).await;
    end(bed, controller).await;
}

/// Waits until nothing is left of a namespace that is deleted at once.
async fn empties(bed: &Bed) {
    eventually(2 * DEADLINE, async || {
        let left = bed.empty_namespace().await;
        if left.is_empty() { Ok(()) } else { Err(format!("{:?}", left.keys())) }
    })
    .await;
}

/// The etcd of a namespace goes like everything else in it.
fn etcd_is_gone(bed: &Bed, cell: &Value) {
    let address = cell["spec"]["globalTopoServer"]["address"].as_str().unwrap();
    let gone = Error::Unavailable { target: address.to_owned(), detail: "no endpoints".to_owned() };
    bed.plane().topology.fail(address, gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_deleted_at_once_is_let_go_with_everything_in_it() {
    let Some((bed, controller, at)) = watched().await else { return };
    etcd_is_gone(&bed, &at);
    bed.delete_namespace().await;
    empties(&bed).await;
    // Nobody tries for ever to bring back what the namespace no longer takes.
    controller.quiet(Duration::from_secs(2)).await;
    end(bed, controller).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_deleted_while_nobody_watches_is_let_go_afterwards() {
    let Some((bed, at)) = unwatched().await else { return };
    etcd_is_gone(&bed, &at);
    bed.delete_namespace().await;
    let held = bed.empty_namespace().await;
    assert!(held.contains_key(CLUSTER), "it is held until its controller has cleaned up");
    let controller = bed.start().await;
    empties(&bed).await;
    controller.quiet(Duration::from_secs(2)).await;
    end(bed, controller).await;
}
