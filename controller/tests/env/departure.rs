//! Table groups that leave a cluster which goes on: in order, across crashes of the controller, and called off in between.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. The data plane is played, and so is the garbage collector.

use std::{collections::BTreeSet, time::Duration};

use super::bed::{
    Bed, DEADLINE, Objects, Running, condition, eventually, minimal,
    stage::{Stage, Story},
};
use serde_json::{Value, json};
use shared::{
    annotation::{DRAIN_STATE, PENDING_DELETION},
    label, name,
};

const LONG: Duration = Duration::from_mins(3);
const CLUSTER: &str = "MultigresCluster/minimal";
/// The one that stays.
const STAYS: (&str, usize) = ("default", 2);
/// The one that leaves.
const LEAVES: (&str, usize) = ("audit", 3);
/// Writes of the longest removal, with room.
const MOST_WRITES: usize = 120;

/// A cluster of these table groups, each with so many pods in one cell.
pub fn of_groups(groups: &[(&str, usize)]) -> Value {
    let group = |(name, pods): &(&str, usize)| {
        let pool = json!({"type": "readWrite", "replicasPerCell": pods});
        json!({
            "name": name, "default": *name == "default",
            "shards": [{"name": "0-inf", "spec": {"pools": {"default": pool}}}],
        })
    };
    let groups: Vec<Value> = groups.iter().map(group).collect();
    let mut spec = minimal();
    spec["databases"] = json!([{"name": "postgres", "default": true, "tablegroups": groups}]);
    spec
}

/// Everything of one kind that belongs to a table group, by name.
pub fn of_group<'o>(objects: &'o Objects, kind: &str, group: &str) -> Vec<(&'o str, &'o Value)> {
    let prefix = format!("{kind}/");
    let of = |object: &Value| object["metadata"]["labels"][label::TABLE_GROUP] == group;
    objects.iter().filter_map(|(id, object)| Some((id.strip_prefix(&prefix)?, object))).filter(|(_, o)| of(o)).collect()
}

/// Names of the pool pods of a table group.
fn pods(objects: &Objects, group: &str) -> Vec<String> {
    let pool = |object: &Value| object["metadata"]["labels"][label::COMPONENT] == "shard-pool";
    let all = of_group(objects, "Pod", group).into_iter();
    all.filter(|(_, pod)| pool(pod)).map(|(name, _)| name.to_owned()).collect()
}

fn uids(objects: &Objects, kind: &str, group: &str) -> BTreeSet<String> {
    of_group(objects, kind, group).into_iter().map(|(_, object)| object["metadata"]["uid"].to_string()).collect()
}

/// Waits until a table group of so many pods has a primary, and nothing of it is pending.
pub async fn settled(bed: &Bed, group: &str, count: usize) -> Objects {
    eventually(LONG, async || {
        let objects = bed.objects().await;
        let pods = of_group(&objects, "Pod", group);
        let status = of_group(&objects, "Shard", group).first().map(|(_, shard)| shard["status"].clone());
        let status = status.unwrap_or_default();
        let calm = pods.iter().all(|(_, pod)| {
            pod["metadata"]["annotations"][DRAIN_STATE].is_null() && pod["status"]["phase"] == "Running"
        });
        if pods.len() == count && calm && status["drift"].is_null() && status["primary"].is_string() {
            Ok(objects)
        } else {
            Err(format!("{} of {count} pods of {group}, status {status:#}", pods.len()))
        }
    })
    .await
}

/// Plays both table groups, and waits until they are complete.
pub async fn staged(bed: &Bed) -> (Stage, Stage, Objects) {
    let cell = eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        objects.into_iter().find(|(id, _)| id.starts_with("Cell/")).map(|(_, cell)| cell).ok_or("no cell".to_owned())
    })
    .await;
    let (stays, leaves) = (bed.stage_of(&cell, STAYS.0), bed.stage_of(&cell, LEAVES.0));
    settled(bed, STAYS.0, STAYS.1).await;
    let objects = settled(bed, LEAVES.0, LEAVES.1).await;
    (stays, leaves, objects)
}

/// The cluster of both table groups.
pub async fn both(bed: &Bed) -> (Stage, Stage, Objects) {
    bed.create_cluster("minimal", &of_groups(&[STAYS, LEAVES])).await;
    staged(bed).await
}

/// Takes the one out of the spec.
pub async fn remove(bed: &Bed) {
    bed.edit(CLUSTER, json!({"spec": of_groups(&[STAYS])})).await;
}

/// Waits until the object of the removed table group is gone.
pub async fn gone(bed: &Bed) {
    eventually(LONG, async || {
        let objects = bed.objects().await;
        let left: Vec<&Value> = ["TableGroup", "Shard"]
            .iter()
            .flat_map(|kind| of_group(&objects, kind, LEAVES.0))
            .map(|(_, object)| &object["status"])
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    })
    .await;
}

/// How many of these pods have a record in the topology.
fn registered(bed: &Bed, objects: &Objects, pods: &[String]) -> usize {
    let cell = objects.iter().find(|(id, _)| id.starts_with("Cell/")).expect("a cell").1;
    let keys = bed.topology(cell);
    let ids = pods.iter().map(|pod| name::pooler_service_id(pod));
    ids.filter(|id| keys.iter().any(|key| key.contains(id.as_str()))).count()
}

/// What a controller has deleted, as `plural/name`, in order.
fn deleted(controller: &Running) -> Vec<String> {
    let writes = controller.wire.writes();
    let deletions = writes.iter().filter_map(|write| write.strip_prefix("DELETE "));
    deletions
        .map(|path| path.rsplit('/').take(2).collect::<Vec<_>>())
        .map(|end| format!("{}/{}", end[1], end[0]))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_group_that_leaves_goes_in_order_and_takes_nothing_from_its_neighbour() {
    let Some(bed) = Bed::open().await else { return };
    let controller = bed.start().await;
    let (stays, leaves, before) = both(&bed).await;
    let (first, all) = (leaves.leader().unwrap(), pods(&before, LEAVES.0));
    let kept = pods(&before, STAYS.0);
    assert_eq!((registered(&bed, &before, &all), registered(&bed, &before, &kept)), (LEAVES.1, STAYS.1));
    stays.forget();
    leaves.forget();
    let earlier = deleted(&controller).len();
    remove(&bed).await;
    gone(&bed).await;

    let order = deleted(&controller).split_off(earlier);
    let kinds: Vec<&str> = order.iter().map(|id| id.split_once('/').unwrap().0).collect();
    assert_eq!(kinds, ["deployments", "pods", "pods", "pods", "shards", "tablegroups"], "{order:?}");
    assert!(order[0].contains("multiorch"), "nobody elects any more: {order:?}");
    assert_eq!(order[3], format!("pods/{first}"), "the primary goes last: {order:?}");
    eventually(DEADLINE, async || {
        let story: Story = leaves.story();
        if story.gone.len() == LEAVES.1 && story.switchovers == 0 { Ok(()) } else { Err(format!("{story:?}")) }
    })
    .await;
    let objects = bed.objects().await;
    assert_eq!((registered(&bed, &objects, &all), registered(&bed, &objects, &kept)), (0, STAYS.1));
    let claims = |objects: &Objects| uids(objects, "PersistentVolumeClaim", LEAVES.0);
    assert_eq!(claims(&objects), claims(&before), "volumes are kept");

    // What it owned goes with it; its neighbour has not noticed.
    eventually(DEADLINE, async || {
        bed.collect_garbage().await;
        let objects = bed.objects().await;
        let kinds = ["Pod", "Deployment", "Service", "ConfigMap", "PodDisruptionBudget"];
        let left: Vec<&str> =
            kinds.iter().flat_map(|kind| of_group(&objects, kind, LEAVES.0)).map(|(name, _)| name).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let objects = settled(&bed, STAYS.0, STAYS.1).await;
    for kind in ["TableGroup", "Shard", "Pod", "Deployment", "PersistentVolumeClaim"] {
        assert_eq!(uids(&objects, kind, STAYS.0), uids(&before, kind, STAYS.0), "{kind}");
    }
    assert!(stays.story().gone.is_empty());
    controller.quiet(Duration::from_secs(5)).await;
    controller.stop().await;
    bed.close().await;
}

/// What must hold whenever a controller dies.
fn in_order(bed: &Bed, objects: &Objects, all: &[String], primary: &str) {
    let pods = pods(objects, LEAVES.0);
    let orchestrators = of_group(objects, "Deployment", LEAVES.0).len();
    let shards = of_group(objects, "Shard", LEAVES.0).len();
    assert!(pods.len() == all.len() || orchestrators == 0, "somebody goes while others may elect: {pods:?}");
    assert!(pods.is_empty() || pods.iter().any(|pod| pod == primary), "the primary goes before {pods:?}");
    assert!(shards == 1 || pods.is_empty(), "nobody remembers {pods:?}");
    assert!(shards == 1 || registered(bed, objects, all) == 0, "nobody remembers the records");
    assert!(shards == 0 || of_group(objects, "TableGroup", LEAVES.0).len() == 1, "nobody remembers the shard");
}

/// Starts controllers that die after a single write each, until things are as `wanted`; returns how many died.
async fn die_until(bed: &Bed, all: &[String], primary: &str, wanted: impl Fn(&Objects) -> bool) -> usize {
    for died in 0..MOST_WRITES {
        let objects = bed.objects().await;
        in_order(bed, &objects, all, primary);
        if wanted(&objects) {
            return died;
        }
        let mortal = bed.start_crashing(1);
        // Or of boredom: some steps write nothing to the API server.
        let bored = mortal.quiet(Duration::from_secs(4));
        tokio::select! {
            () = mortal.wire.crashed() => {}
            () = bored => {}
        }
        mortal.kill().await;
    }
    panic!("{MOST_WRITES} controllers have died for nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_survives_crashes_at_every_write_and_can_be_called_off_until_the_end() {
    let Some(bed) = Bed::open().await else { return };
    let controller = bed.start().await;
    let (_stays, leaves, before) = both(&bed).await;
    controller.quiet(Duration::from_secs(3)).await;
    controller.kill().await;
    let (first, all) = (leaves.leader().unwrap(), pods(&before, LEAVES.0));
    let alone = |objects: &Objects| pods(objects, LEAVES.0) == [first.clone()];
    remove(&bed).await;
    die_until(&bed, &all, &first, alone).await;

    bed.edit(CLUSTER, json!({"spec": of_groups(&[STAYS, LEAVES])})).await;
    let controller = bed.start().await;
    let back = settled(&bed, LEAVES.0, LEAVES.1).await;
    for kind in ["TableGroup", "Shard", "PersistentVolumeClaim"] {
        assert_eq!(uids(&back, kind, LEAVES.0), uids(&before, kind, LEAVES.0), "{kind}");
    }
    eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        let orchestrators = of_group(&objects, "Deployment", LEAVES.0).len();
        let still: Vec<&str> = ["TableGroup", "Shard"]
            .iter()
            .flat_map(|kind| of_group(&objects, kind, LEAVES.0))
            .filter(|(_, object)| {
                !object["metadata"]["annotations"][PENDING_DELETION].is_null()
                    || !condition(object, "ReadyForDeletion").is_null()
            })
            .map(|(name, _)| name)
            .collect();
        if still.is_empty() && orchestrators == 1 { Ok(()) } else { Err(format!("{still:?}, {orchestrators}")) }
    })
    .await;
    controller.quiet(Duration::from_secs(3)).await;
    controller.kill().await;

    // The shard may have gone one step further before it heard that it stays: whoever leads now may be another one.
    let (first, all) = (leaves.leader().unwrap(), pods(&bed.objects().await, LEAVES.0));
    remove(&bed).await;
    let left = |objects: &Objects| of_group(objects, "TableGroup", LEAVES.0).is_empty();
    let died = die_until(&bed, &all, &first, left).await;
    assert!(died >= 6, "{died} writes are too few for all that has to go");
    let objects = bed.objects().await;
    assert_eq!(registered(&bed, &objects, &pods(&objects, STAYS.0)), STAYS.1);
    let controller = bed.start().await;
    settled(&bed, STAYS.0, STAYS.1).await;
    controller.quiet(Duration::from_secs(5)).await;
    controller.stop().await;
    bed.close().await;
}
