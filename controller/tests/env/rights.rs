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
use serde_json::{Value, json};
use shared::label;

const LONG: Duration = Duration::from_mins(3);
const CLUSTER: &str = "MultigresCluster/minimal";

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
