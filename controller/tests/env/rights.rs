//! Whatever the controller may come to do in a namespace, it does with the rights that the chart gives, on a real API server.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. The controller acts as a user of its own there.

use std::{collections::BTreeSet, time::Duration};

use super::{
    bed::{Bed, Running, eventually},
    departure::{both, gone, of_group, remove, settled},
};
use controller::upstream::backup::{Archiver, Backup};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::ApiResource,
};
use serde_json::{Value, json};
use shared::label;

const LONG: Duration = Duration::from_mins(3);
const CLUSTER: &str = "MultigresCluster/minimal";
const OURS: &str = "multigres.com/v1alpha1";

/// API version, kind, plural, and verbs.
type Tried = (&'static str, &'static str, &'static str, &'static [&'static str]);

/// What a controller needs so seldom that a run of all stories may not show it.
const SELDOM: &[Tried] = &[
    (OURS, "MultigresCluster", "multigresclusters", &["update finalizers"]),
    (OURS, "Cell", "cells", &["get", "delete", "update finalizers"]),
    (OURS, "TableGroup", "tablegroups", &["get", "delete", "update finalizers"]),
    (OURS, "Shard", "shards", &["get", "delete", "update finalizers"]),
    (OURS, "TopoServer", "toposervers", &["get", "delete", "update finalizers"]),
    (OURS, "MultigresBackup", "multigresbackups", &["get", "patch", "delete"]),
    ("apps/v1", "Deployment", "deployments", &["get", "delete"]),
    ("v1", "Service", "services", &["get", "delete"]),
    ("v1", "Pod", "pods", &["get", "delete"]),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims", &["get", "delete"]),
    ("v1", "ConfigMap", "configmaps", &["get"]),
    ("v1", "Secret", "secrets", &["get", "patch", "delete"]),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", &["get", "delete"]),
];

/// What no controller needs: these go with their owners, or belong to users.
const NEVER: &[Tried] = &[
    (OURS, "MultigresCluster", "multigresclusters", &["get", "delete"]),
    (OURS, "CoreTemplate", "coretemplates", &["get", "patch", "delete"]),
    (OURS, "CellTemplate", "celltemplates", &["get", "patch", "delete"]),
    (OURS, "ShardTemplate", "shardtemplates", &["get", "patch", "delete"]),
    (OURS, "MultigresBackup", "multigresbackups", &["update finalizers"]),
    ("apps/v1", "StatefulSet", "statefulsets", &["get", "delete"]),
    ("v1", "ConfigMap", "configmaps", &["delete"]),
    ("events.k8s.io/v1", "Event", "events", &["get", "patch", "delete"]),
];

fn backup() -> Backup {
    let stop = Timestamp::now() - SignedDuration::from_mins(5);
    let start = Some(stop - SignedDuration::from_secs(5));
    Backup {
        id: "first".to_owned(),
        kind: "full".to_owned(),
        complete: true,
        start,
        stop: Some(stop),
        bytes: 1024,
        ..Backup::default()
    }
}

/// What a controller has asked for: methods and plurals, and what is below an object, if anything is.
fn asked(controller: &Running, namespace: &str) -> BTreeSet<String> {
    let of = |write: &String| {
        let (method, path) = write.split_once(' ')?;
        let (_, rest) = path.split_once(&format!("/namespaces/{namespace}/"))?;
        let parts: Vec<&str> = rest.split('/').collect();
        Some(match parts.as_slice() {
            [plural, _, below] => format!("{method} {plural}/{below}"),
            [plural, ..] => format!("{method} {plural}"),
            [] => return None,
        })
    };
    controller.wire.writes().iter().filter_map(of).collect()
}

async fn reaches(bed: &Bed, run: &str, phase: &str) {
    eventually(LONG, async || {
        let object = bed.object(&format!("MultigresBackup/{run}")).await;
        if object["status"]["phase"] == phase { Ok(()) } else { Err(format!("{run}: {:#}", object["status"])) }
    })
    .await;
}

async fn is_gone(bed: &Bed, id: &str) {
    eventually(LONG, async || match bed.object(id).await {
        Value::Null => Ok(()),
        object => Err(object.to_string()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removals_moves_and_backups_need_no_right_that_the_chart_does_not_give() {
    let Some(bed) = Bed::open().await else { return };
    let user = format!("system:serviceaccount:{}:operator", bed.namespace);
    bed.grant(&user, "controller.yaml").await;
    bed.plane().backups.open(Ok(vec![backup()]));
    bed.plane().backups.archiving(Ok(Archiver::default()));
    let controller = bed.start_as(&user, &[&bed]).await;
    let (stays, _leaves, _) = both(&bed).await;
    let backups = &bed.plane().backups;

    // A run that is over goes after its time, with its data; another one, when its user says so.
    bed.create("MultigresBackup", "short", &json!({"cluster": "minimal", "ttl": "1s"})).await;
    let job = eventually(LONG, async || backups.running().into_iter().next().ok_or_else(|| "no job".to_owned())).await;
    backups.complete(&job, Timestamp::now());
    is_gone(&bed, "MultigresBackup/short").await;
    bed.create("MultigresBackup", "held", &json!({"cluster": "minimal", "deletionPolicy": "Delete"})).await;
    let job = eventually(LONG, async || backups.running().into_iter().next().ok_or_else(|| "no job".to_owned())).await;
    backups.complete(&job, Timestamp::now());
    reaches(&bed, "held", "Completed").await;
    bed.delete("MultigresBackup/held").await;
    is_gone(&bed, "MultigresBackup/held").await;

    // One table group leaves.
    remove(&bed).await;
    gone(&bed).await;

    // A schedule makes runs of its own, settings change, and the other one moves to a volume of another class.
    let objects = bed.objects().await;
    let cluster = bed.object(CLUSTER).await;
    let mut spec = cluster["spec"].clone();
    spec["backup"] = json!({
        "type": "filesystem", "filesystem": {}, "retention": {"full": 3},
        "schedule": {"full": "* * * * *", "jitter": "0s", "historyLimit": 1},
    });
    let shard = &mut spec["databases"][0]["tablegroups"][0]["shards"][0]["spec"];
    shard["pools"]["default"]["storage"] = json!({"size": "1Gi", "class": "elsewhere"});
    shard["pools"]["default"]["pvcDeletionPolicy"] = json!({"whenScaled": "Delete"});
    let before: BTreeSet<&str> = of_group(&objects, "Pod", "default").into_iter().map(|(name, _)| name).collect();
    stays.forget();
    bed.edit(CLUSTER, json!({"spec": spec})).await;
    eventually(LONG, async || {
        let objects = bed.objects().await;
        let pods: BTreeSet<&str> = of_group(&objects, "Pod", "default").into_iter().map(|(name, _)| name).collect();
        if pods.len() == before.len() && pods.is_disjoint(&before) { Ok(()) } else { Err(format!("{pods:?}")) }
    })
    .await;
    settled(&bed, "default", before.len()).await;
    let scheduled = eventually(LONG, async || {
        let objects = bed.objects().await;
        let run = objects.into_keys().find(|id| id.starts_with("MultigresBackup/"));
        run.ok_or_else(|| "no run".to_owned())
    })
    .await;
    let job = eventually(LONG, async || backups.running().into_iter().next().ok_or_else(|| "no job".to_owned())).await;
    backups.complete(&job, Timestamp::now());
    reaches(&bed, scheduled.split_once('/').unwrap().1, "Completed").await;
    eventually(LONG, async || {
        let objects = bed.objects().await;
        let claims = of_group(&objects, "PersistentVolumeClaim", "default").into_iter();
        let waiting = claims.filter(|(_, claim)| claim["metadata"]["labels"][label::ORPHAN_SINCE].is_string()).count();
        if waiting == before.len() { Ok(()) } else { Err(format!("{waiting} volumes wait for their removal")) }
    })
    .await;

    let asked = asked(&controller, &bed.namespace);
    for wanted in [
        "DELETE deployments",
        "DELETE pods",
        "DELETE shards",
        "DELETE tablegroups",
        "DELETE multigresbackups",
        "POST multigresbackups",
        "PATCH multigresbackups",
        "PATCH multigresbackups/status",
        "PATCH persistentvolumeclaims",
        "PATCH shards/status",
        "PATCH tablegroups",
    ] {
        assert!(asked.contains(wanted), "{wanted} was not tried: {asked:#?}");
    }
    assert_eq!(controller.wire.forbidden(), Vec::<String>::new());
    controller.stop().await;
    bed.close().await;
}

/// The code by which a request about an object that does not exist is answered.
async fn answer(client: &Client, namespace: &str, (version, kind, plural, _): Tried, verb: &str) -> u16 {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
    let outcome = match verb {
        "get" => api.get("nobody").await.map(drop),
        "patch" => api.patch("nobody", &PatchParams::default(), &Patch::Merge(json!({}))).await.map(drop),
        "delete" => api.delete("nobody", &DeleteParams::default()).await.map(drop),
        "update finalizers" => {
            api.replace_subresource("finalizers", "nobody", &PostParams::default(), &json!({})).await.map(drop)
        }
        other => panic!("no way to try {other}"),
    };
    match outcome {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("{verb} {plural}: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_seldom_needed_is_given_and_what_never_is_not() {
    let Some(bed) = Bed::open().await else { return };
    let user = format!("system:serviceaccount:{}:operator", bed.namespace);
    bed.grant(&user, "controller.yaml").await;
    let client = bed.client_as(&user);
    let mut wrong = Vec::new();
    for (all, expected) in [(SELDOM, 404), (NEVER, 403)] {
        for tried in all {
            for verb in tried.3 {
                let code = answer(&client, &bed.namespace, *tried, verb).await;
                if code != expected {
                    wrong.push(format!("{verb} {}: {code} instead of {expected}", tried.2));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    bed.close().await;
}
