//! The real controller against a real API server: a new version of the operator restarts nothing by itself.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`.

use std::{collections::BTreeMap, time::Duration};

use super::bed::{Bed, DEADLINE, Running, condition, eventually, minimal};
use controller::settings::Settings;
use serde_json::{Value, json};
use shared::{api::v1alpha1::ImageUpdateStrategy, image::ImageSet};

/// A workload that a user may edit by hand.
const ADMIN: &str = "Deployment/minimal-multiadmin";

/// Longer than the controller may hold back a status that tells nothing new.
const STATUS_PACE: Duration = Duration::from_secs(17);
/// Everything that runs in the cluster `minimal`.
const WORKLOADS: usize = 7;
const CLUSTER: &str = "MultigresCluster/minimal";

/// What runs: the template of each workload, and each pool pod.
async fn running(bed: &Bed) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (id, object) in bed.objects().await {
        match object["kind"].as_str() {
            Some("Deployment" | "StatefulSet") => _ = found.insert(id, object["spec"]["template"].clone()),
            Some("Pod") => _ = found.insert(id, object["spec"].clone()),
            _ => {}
        }
    }
    found
}

async fn complete(bed: &Bed) -> BTreeMap<String, Value> {
    eventually(DEADLINE, async || {
        let all = running(bed).await;
        if all.len() == WORKLOADS { Ok(all) } else { Err(format!("{:?}", all.keys())) }
    })
    .await
}

fn images(settings: &Settings) -> Vec<String> {
    let images = &settings.images;
    [
        &images.multigateway,
        &images.multiorch,
        &images.multipooler,
        &images.multiadmin,
        &images.multiadmin_web,
        &images.postgres,
    ]
    .map(Clone::clone)
    .to_vec()
}

/// What a later version of the operator might bring.
fn later(settings: &mut Settings) {
    let image = |component: &str| format!("registry.test/{component}:later");
    settings.images = ImageSet {
        multigateway: image("multigateway"),
        multiorch: image("multiorch"),
        multipooler: image("multipooler"),
        multiadmin: image("multiadmin"),
        multiadmin_web: image("multiadmin-web"),
        postgres: image("postgres"),
    };
    settings.native_sidecars = !settings.native_sidecars;
    settings.zone_id_label = "example.com/zone".into();
}

/// Every object has been looked at by this controller.
async fn looked_at_everything(controller: &Running) {
    eventually(DEADLINE, async || {
        for kind in ["multigrescluster", "cell", "tablegroup", "shard", "toposerver"] {
            let wanted = if kind == "shard" { 10 } else { 1 };
            if controller.passes(kind) < wanted {
                return Err(format!("{kind} has had {} passes", controller.passes(kind)));
            }
        }
        Ok(())
    })
    .await;
}

fn templates(all: &BTreeMap<String, Value>) -> Vec<(&String, String)> {
    all.iter().filter(|(id, _)| !id.starts_with("Pod/")).map(|(id, value)| (id, value.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_operator_restarts_nothing_until_it_is_told_to() {
    let Some(bed) = Bed::open().await else { return };
    bed.create_cluster("minimal", &minimal()).await;
    let first = bed.start().await;
    let before = complete(&bed).await;
    first.quiet(STATUS_PACE).await;
    first.stop().await;

    // Lazy: the status of the cluster tells what is on offer, and that is all.
    let lazy = bed.start_with(later).await;
    let cluster = eventually(DEADLINE, async || {
        let cluster = bed.object(CLUSTER).await;
        let pending = condition(&cluster, "ImageRolloutPending");
        if pending["reason"] == "AwaitingAcknowledgement" { Ok(cluster) } else { Err(pending.to_string()) }
    })
    .await;
    looked_at_everything(&lazy).await;
    lazy.quiet(Duration::from_secs(3)).await;
    assert_eq!(running(&bed).await, before);
    assert_eq!(lazy.wire.writes().len(), 1, "{:#?}", lazy.wire.writes());
    let on_offer = cluster["status"]["images"]["availableRevision"].as_str().unwrap().to_owned();
    assert_ne!(cluster["status"]["images"]["appliedRevision"], on_offer.as_str());
    assert_eq!(cluster["status"]["images"]["available"]["postgres"], "registry.test/postgres:later");
    assert_eq!(cluster["status"]["images"]["updateStrategy"], "lazy");

    // A manual edit is reverted to what ran, not to what would be rendered today.
    bed.edit(
        ADMIN,
        json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 7, "containers": [
            {"name": "multiadmin", "image": "registry.test/by-hand:1"},
        ]}}}}),
    )
    .await;
    eventually(DEADLINE, async || {
        let image = bed.object(ADMIN).await["spec"]["template"]["spec"]["containers"][0]["image"].clone();
        let was = &before[ADMIN]["spec"]["containers"][0]["image"];
        if image == *was { Ok(()) } else { Err(image.to_string()) }
    })
    .await;

    // More pods of a pool are like those that there are.
    let pods = |count: u32| {
        json!({"spec": {"databases": [{"name": "postgres", "default": true, "tablegroups": [{"name": "default", "default": true,
            "shards": [{"name": "0-inf", "spec": {"pools": {"default": {"type": "readWrite", "replicasPerCell": count}}}}]}]}]}})
    };
    bed.edit(CLUSTER, pods(3)).await;
    let pod = eventually(DEADLINE, async || {
        let all = running(&bed).await;
        let third = all.into_iter().find(|(id, _)| id.starts_with("Pod/") && id.ends_with("-2"));
        third.map(|(_, pod)| pod).ok_or_else(|| "no third pod".to_owned())
    })
    .await;
    assert!(!pod.to_string().contains(":later") && pod.to_string().contains(".svc.cluster.local"), "{pod:#}");

    // An acknowledged set is taken over.
    bed.edit(CLUSTER, json!({"spec": {"imageUpdatePolicy": {"acknowledgedRevision": on_offer}}})).await;
    eventually(DEADLINE, async || {
        let all = running(&bed).await;
        let stale =
            templates(&all).into_iter().find(|(id, text)| !id.starts_with("StatefulSet/") && !text.contains(":later"));
        stale.map_or(Ok(()), |(id, _)| Err(format!("{id} has the old image")))
    })
    .await;
    eventually(DEADLINE, async || {
        let pending = condition(&bed.object(CLUSTER).await, "ImageRolloutPending").clone();
        if pending["reason"] == "UpToDate" { Ok(()) } else { Err(pending.to_string()) }
    })
    .await;
    lazy.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_takes_over_at_once_gets_every_new_rendering() {
    let Some(bed) = Bed::open().await else { return };
    let mut spec = minimal();
    spec["imageUpdatePolicy"] = json!({"strategy": "immediate"});
    bed.create_cluster("minimal", &spec).await;
    let first = bed.start().await;
    let before = complete(&bed).await;
    first.quiet(Duration::from_secs(2)).await;
    first.stop().await;

    let mut expected = None;
    let second = bed
        .start_with(|settings| {
            later(settings);
            settings.cluster_domain = "cluster.example".into();
            expected = Some(images(settings));
        })
        .await;
    let expected = expected.unwrap();
    eventually(DEADLINE, async || {
        let all = running(&bed).await;
        for (id, text) in templates(&all) {
            let old = before[id].to_string();
            let changed = text != old;
            if id.starts_with("StatefulSet/") {
                if !text.contains("cluster.example") {
                    return Err(format!("{id} has the old domain"));
                }
            } else if !changed || !expected.iter().any(|image| text.contains(image.as_str())) {
                return Err(format!("{id} has the old image"));
            }
        }
        Ok(())
    })
    .await;
    // Running pods of a pool are somebody else's to replace; the shard tells that they are outdated.
    eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        let shard = objects.iter().find(|(id, _)| id.starts_with("Shard/")).unwrap().1;
        let outdated = condition(shard, "PodsOutdated");
        if outdated["status"] == "True" { Ok(()) } else { Err(shard["status"].to_string()) }
    })
    .await;
    assert!(second.wire.writes().len() > 1);
    assert_eq!(
        ImageUpdateStrategy::Immediate.to_string(),
        bed.object(CLUSTER).await["status"]["images"]["updateStrategy"]
    );
    second.stop().await;
    bed.close().await;
}
