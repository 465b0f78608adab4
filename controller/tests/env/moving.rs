//! A pool whose volumes are to have another StorageClass, on a real API server and a data plane that is played.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. Nobody provides volumes there: a claim is a wish.

use std::{collections::BTreeMap, time::Duration};

use super::bed::{Bed, DEADLINE, Objects, condition, eventually, minimal, stage::Stage, storage_class};
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use shared::{
    annotation::{DRAIN_STATE, REPLACED_AT},
    label,
};

const LONG: Duration = Duration::from_mins(3);
const CLUSTER: &str = "MultigresCluster/minimal";
const MEMBERS: usize = 3;

/// A cluster of three members in one cell, on volumes of a class.
fn on(class: &str) -> Value {
    let pool = json!({
        "type": "readWrite", "replicasPerCell": MEMBERS, "storage": {"size": "1Gi", "class": class},
        "pvcDeletionPolicy": {"whenScaled": "Delete"},
    });
    let mut spec = minimal();
    spec["databases"] = json!([{"name": "postgres", "default": true, "tablegroups": [{
        "name": "default", "default": true, "shards": [{"name": "0-inf", "spec": {"pools": {"default": pool}}}],
    }]}]);
    spec
}

/// The claims for data, by name.
fn data(objects: &Objects) -> BTreeMap<String, &Value> {
    let claims =
        objects.iter().filter_map(|(id, claim)| Some((id.strip_prefix("PersistentVolumeClaim/")?.to_owned(), claim)));
    claims.filter(|(_, claim)| !claim["metadata"]["labels"][label::POOL].is_null()).collect()
}

/// The class under each pool pod that runs and is left alone; an excuse while one is on its way.
fn classes(objects: &Objects) -> Result<BTreeMap<String, String>, String> {
    let pool = |pod: &Value| pod["metadata"]["labels"][label::COMPONENT] == "shard-pool";
    let pods = objects.iter().filter(|(id, pod)| id.starts_with("Pod/") && pool(pod));
    let mut all = BTreeMap::new();
    for (id, pod) in pods {
        let calm = pod["metadata"]["annotations"][DRAIN_STATE].is_null() && pod["status"]["phase"] == "Running";
        let volumes = pod["spec"]["volumes"].as_array().unwrap().iter();
        let claim = volumes
            .filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
            .find(|claim| claim.starts_with("data-"))
            .unwrap();
        // Kinds are listed one after the other: a pod may be newer than the list of claims.
        let Some(claim) = objects.get(&format!("PersistentVolumeClaim/{claim}")).filter(|_| calm) else {
            return Err(format!("{id} is on its way"));
        };
        all.insert(id.clone(), claim["spec"]["storageClassName"].as_str().unwrap_or_default().to_owned());
    }
    Ok(all)
}

/// Waits until all members run on volumes of a class, and nothing is pending.
async fn rests_on(bed: &Bed, class: &str) -> Objects {
    eventually(LONG, async || {
        let objects = bed.objects().await;
        let under = classes(&objects)?;
        let shard = objects.iter().find(|(id, _)| id.starts_with("Shard/")).map(|(_, shard)| &shard["status"]);
        let led = shard.is_some_and(|status| status["primary"].is_string() && status["drift"].is_null());
        if led && under.len() == MEMBERS && under.values().all(|found| found == class) {
            return Ok(objects);
        }
        Err(format!("{under:?}, {shard:#?}"))
    })
    .await
}

async fn cluster(bed: &Bed) -> (Stage, Objects) {
    bed.create_cluster("minimal", &on("standard")).await;
    let cell = eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        objects.into_iter().find(|(id, _)| id.starts_with("Cell/")).map(|(_, cell)| cell).ok_or("no cell".to_owned())
    })
    .await;
    let stage = bed.stage(&cell);
    let objects = rests_on(bed, "standard").await;
    (stage, objects)
}

async fn blocked(bed: &Bed, reason: &str) {
    eventually(LONG, async || {
        let objects = bed.objects().await;
        let shard = objects.iter().find(|(id, _)| id.starts_with("Shard/")).unwrap().1;
        let blocked = condition(shard, "DisruptionBlocked");
        if blocked["reason"] == reason { Ok(()) } else { Err(blocked.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_move_to_a_class_once_it_exists_one_by_one_and_the_primary_last() {
    let Some(bed) = Bed::open().await else { return };
    let controller = bed.start().await;
    let (stage, before) = cluster(&bed).await;
    let first = stage.leader().unwrap();
    let old: Vec<String> = data(&before).into_keys().collect();
    assert_eq!(old.len(), MEMBERS);
    stage.forget();
    let class = format!("fast-{}", bed.namespace);
    bed.edit(CLUSTER, json!({"spec": on(&class)})).await;
    blocked(&bed, "StorageClassMissing").await;
    controller.quiet(Duration::from_secs(3)).await;
    assert_eq!(data(&bed.objects().await).len(), MEMBERS, "no volume that nobody could provide");

    let api = bed.storage_classes();
    let made = serde_json::from_value(storage_class(&class, false)).unwrap();
    api.create(&PostParams::default(), &made).await.unwrap();
    let objects = rests_on(&bed, &class).await;
    let story = eventually(DEADLINE, async || {
        let story = stage.story();
        if story.gone.len() < MEMBERS { Err(format!("{story:?}")) } else { Ok(story) }
    })
    .await;
    assert_eq!(story.gone.len(), MEMBERS, "each goes once: {story:?}");
    assert_eq!(story.gone[MEMBERS - 1].0, first, "the primary goes last: {story:?}");
    assert!(story.gone.iter().all(|(_, led)| !led), "nobody goes while it leads: {story:?}");
    assert_eq!((story.switchovers, story.most_down), (1, 1), "{story:?}");
    assert_eq!(story.least_up, Some(MEMBERS), "whoever takes a place comes first: {story:?}");
    assert_eq!(story.left.len(), MEMBERS, "each leaves the cohort: {story:?}");

    // The old volumes are up to `whenScaled`: kept for a while yet, as those of members that nobody wants.
    eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        let claims = data(&objects);
        let follows = |name: &String| {
            let meta = &claims[name]["metadata"];
            meta["annotations"][REPLACED_AT].is_string() && meta["labels"][label::ORPHAN_SINCE].is_string()
        };
        let new = claims.keys().filter(|name| !old.contains(name)).count();
        if old.iter().all(follows) && new == MEMBERS { Ok(()) } else { Err(format!("{claims:#?}")) }
    })
    .await;

    // Another controller finds nothing to do, and somebody who removes an old volume moves nobody.
    controller.stop().await;
    let controller = bed.start().await;
    bed.edit(&format!("PersistentVolumeClaim/{}", old[0]), json!({"metadata": {"finalizers": null}})).await;
    bed.delete(&format!("PersistentVolumeClaim/{}", old[0])).await;
    controller.quiet(Duration::from_secs(5)).await;
    let after = rests_on(&bed, &class).await;
    assert_eq!(classes(&after), classes(&objects));
    assert!(!data(&after).contains_key(&old[0]));
    drop(api.delete(&class, &DeleteParams::default()).await);
    controller.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_dies_after_every_write_moves_them_all_the_same() {
    let Some(bed) = Bed::open().await else { return };
    let class = format!("fast-{}", bed.namespace);
    let api = bed.storage_classes();
    let made = serde_json::from_value(storage_class(&class, false)).unwrap();
    api.create(&PostParams::default(), &made).await.unwrap();
    let controller = bed.start().await;
    let (stage, _) = cluster(&bed).await;
    let first = stage.leader().unwrap();
    controller.kill().await;
    stage.forget();
    bed.edit(CLUSTER, json!({"spec": on(&class)})).await;
    let mut died = 0;
    while stage.story().gone.len() < MEMBERS - 1 && died < 200 {
        let mortal = bed.start_crashing(1);
        let bored = mortal.quiet(Duration::from_secs(4));
        tokio::select! {
            () = mortal.wire.crashed() => {}
            () = bored => {}
        }
        mortal.kill().await;
        died += 1;
    }
    let controller = bed.start().await;
    rests_on(&bed, &class).await;
    let story = eventually(DEADLINE, async || {
        let story = stage.story();
        if story.gone.len() < MEMBERS { Err(format!("{story:?}")) } else { Ok(story) }
    })
    .await;
    assert_eq!(story.gone.len(), MEMBERS, "{died} died; {story:?}");
    assert_eq!(story.gone[MEMBERS - 1].0, first, "the primary goes last: {story:?}");
    assert!(story.gone.iter().all(|(_, led)| !led), "{story:?}");
    assert!(story.least_up >= Some(MEMBERS) && story.most_down <= 1, "{story:?}");
    assert_eq!(data(&bed.objects().await).len(), 2 * MEMBERS, "nobody asked for a volume twice");
    drop(api.delete(&class, &DeleteParams::default()).await);
    controller.stop().await;
    bed.close().await;
}
