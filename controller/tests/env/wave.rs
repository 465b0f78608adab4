//! The real controller against a real API server: an edited template reaches a few clusters at a time, and no further once one of
//! them is unhealthy.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. Kubelets and the data plane are played.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::bed::{Bed, condition, eventually};
use controller::upstream::{
    Lifecycle, LifecycleMark, PoolerId, PoolerRecord, PoolerStatus, Postgres, PrimaryStatus, Role, RuleNumber, Serving,
    ShardKey, TopoAddress,
};
use serde_json::{Value, json};

/// Clusters on one template.
const CLUSTERS: usize = 12;
/// How many may be on the way.
const WAVE: usize = 10;
/// Many clusters come up one after the other.
const LONG: Duration = Duration::from_mins(3);
/// Pod label with the version of the template; gateways of version `bad` do not come up.
const VERSION: &str = "example.com/version";

fn names() -> Vec<String> {
    (0..CLUSTERS).map(|n| format!("c{n:02}")).collect()
}

/// A cluster whose gateways come from the template. Its pool stays where it is when cells are added.
fn spec() -> Value {
    let pool = json!({"type": "readWrite", "cells": ["zone-a"], "replicasPerCell": 2});
    let shard = json!({"name": "0-inf", "spec": {"pools": {"default": pool}}});
    let group = json!({"name": "default", "default": true, "shards": [shard]});
    json!({
        "cells": [{"name": "zone-a", "zone": "zone-a", "cellTemplate": "std"}],
        "databases": [{"name": "postgres", "default": true, "tablegroups": [group]}],
    })
}

fn template(version: &str) -> Value {
    json!({"multigateway": {"replicas": 1, "podLabels": {VERSION: version}}})
}

/// The versions that the Cells of each cluster have.
async fn versions(bed: &Bed) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for cell in bed.objects().await.values().filter(|object| object["kind"] == "Cell") {
        let cluster = cell["metadata"]["labels"]["app.kubernetes.io/instance"].as_str().unwrap();
        let version = cell["spec"]["multigateway"]["podLabels"][VERSION].as_str().unwrap_or_default();
        found.entry(cluster.to_owned()).or_default().insert(version.to_owned());
    }
    found.into_iter().map(|(cluster, all)| (cluster, all.into_iter().collect::<Vec<_>>().join(" and "))).collect()
}

/// Waits until these clusters have the version, and asserts that no other one has.
async fn reached(bed: &Bed, version: &str, expected: &BTreeSet<String>) {
    eventually(LONG, async || {
        let all = versions(bed).await;
        let have: BTreeSet<String> = all.into_iter().filter(|(_, has)| has == version).map(|(name, _)| name).collect();
        if have == *expected { Ok(()) } else { Err(format!("{version} has reached {have:?} instead of {expected:?}")) }
    })
    .await;
}

async fn pending(bed: &Bed, cluster: &str) -> Value {
    condition(&bed.object(&format!("MultigresCluster/{cluster}")).await, "TemplateUpdatePending").clone()
}

/// Waits until a cluster says why it keeps its children.
async fn waits(bed: &Bed, cluster: &str, reason: &str) -> Value {
    eventually(LONG, async || {
        let pending = pending(bed, cluster).await;
        if pending["reason"] == reason { Ok(pending) } else { Err(format!("{cluster}: {pending}")) }
    })
    .await
}

async fn all_healthy(bed: &Bed) {
    eventually(LONG, async || {
        for name in names() {
            let status = &bed.object(&format!("MultigresCluster/{name}")).await["status"];
            if status["phase"] != "Healthy" {
                return Err(format!("{name}: {status:#}"));
            }
        }
        Ok(())
    })
    .await;
}

/// Lets all pods run, except those of version `bad`, and all poolers register and follow the first of their shard.
async fn play_kubelets(bed: &Bed) {
    loop {
        let objects = bed.objects().await;
        for (id, object) in objects.iter().filter(|(_, object)| object["kind"] == "Deployment") {
            let (generation, replicas) = (&object["metadata"]["generation"], &object["spec"]["replicas"]);
            let bad = object["spec"]["template"]["metadata"]["labels"][VERSION] == "bad";
            let (ready, progress, reason) = if bad {
                (json!(0), "False", "ProgressDeadlineExceeded")
            } else {
                (replicas.clone(), "True", "Available")
            };
            let status = &object["status"];
            let told = &status["conditions"][0]["reason"];
            if status["observedGeneration"] != *generation
                || status["readyReplicas"].as_i64().unwrap_or(0) != ready
                || told != reason
            {
                let condition = json!({
                    "type": "Progressing", "status": progress, "reason": reason, "message": "gateways do not come up",
                    "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
                });
                let status = json!({
                    "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
                    "readyReplicas": ready, "availableReplicas": ready, "conditions": [condition],
                });
                bed.report(id, status).await;
            }
        }
        let mut shards: BTreeMap<String, Vec<(String, &Value)>> = BTreeMap::new();
        for (id, pod) in objects.iter().filter(|(_, object)| object["kind"] == "Pod") {
            if pod["status"]["phase"] != "Running" {
                let ready = json!({"type": "Ready", "status": "True"});
                bed.report(id, json!({"phase": "Running", "conditions": [ready]})).await;
            }
            let cluster = pod["metadata"]["labels"]["app.kubernetes.io/instance"].as_str().unwrap();
            shards.entry(cluster.to_owned()).or_default().push((id.clone(), pod));
        }
        for pods in shards.values() {
            play_poolers(bed, pods);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

fn play_poolers(bed: &Bed, pods: &[(String, &Value)]) {
    let mut records = Vec::new();
    for (_, pod) in pods {
        let containers = pod["spec"]["containers"].as_array().unwrap();
        let pooler = containers.iter().find(|container| container["name"] == "multipooler").unwrap();
        let argument = |flag: &str| {
            let mut args = pooler["args"].as_array().unwrap().iter().filter_map(Value::as_str);
            args.find_map(|arg| arg.strip_prefix(flag)).unwrap_or_else(|| panic!("no {flag}")).to_owned()
        };
        let at = TopoAddress::new([argument("--topo-global-server-addresses=")], argument("--topo-global-root="));
        let first = records.is_empty();
        let record = PoolerRecord {
            id: PoolerId::new(argument("--cell="), argument("--service-id=")),
            shard: ShardKey::new(argument("--database="), argument("--table-group="), argument("--shard=")),
            hostname: argument("--hostname="),
            ports: BTreeMap::from([("grpc".to_owned(), 15270)]),
            role: if first { Role::Primary } else { Role::Replica },
            rule: first.then_some(RuleNumber { coordinator_term: 1, leader_subterm: 0 }),
            lifecycle: LifecycleMark { state: Lifecycle::Active, ..LifecycleMark::default() },
            serving: Serving::Serving,
            tls: None,
        };
        records.push((at, record));
    }
    for (at, record) in &records {
        bed.plane().topology.register_pooler(at, record).unwrap();
    }
    if let Some(((_, primary), standbys)) = records.split_first() {
        let followers = standbys.iter().map(|(_, standby)| standby.id.clone()).collect();
        let status = PoolerStatus {
            postgres: Postgres::Primary,
            postgres_ready: true,
            primary: Some(PrimaryStatus { ready: true, followers, ..PrimaryStatus::default() }),
            ..PoolerStatus::default()
        };
        bed.plane().poolers.answer(primary.grpc().unwrap(), Ok(status));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_template_reaches_ten_clusters_and_stops_at_the_first_unhealthy_one() {
    let Some(bed) = Bed::open().await else { return };
    bed.create("CellTemplate", "std", &template("one")).await;
    let everybody: BTreeSet<String> = names().into_iter().collect();
    let (first, last): (BTreeSet<String>, Vec<String>) =
        (names().into_iter().take(WAVE).collect(), names().into_iter().skip(WAVE).collect());
    for name in names() {
        bed.create_cluster(&name, &spec()).await;
    }
    let controller = bed.start().await;
    reached(&bed, "one", &everybody).await;

    // Nothing becomes healthy yet, so those on the way stay on the way.
    bed.edit("CellTemplate/std", json!({"spec": template("two")})).await;
    reached(&bed, "two", &first).await;
    for name in &last {
        waits(&bed, name, "WaitsForOthers").await;
    }
    assert!(pending(&bed, "c00").await.is_null());
    controller.quiet(Duration::from_secs(7)).await;
    reached(&bed, "two", &first).await;

    // A cell that is new gets the current template, and its neighbour keeps the old one.
    let patient = &last[0];
    let mut larger = spec();
    larger["cells"].as_array_mut().unwrap().push(json!({"name": "zone-b", "zone": "zone-b", "cellTemplate": "std"}));
    bed.edit(&format!("MultigresCluster/{patient}"), json!({"spec": {"cells": larger["cells"]}})).await;
    let cells = eventually(LONG, async || {
        let objects = bed.objects().await;
        let cells = objects.into_values().filter(|object| object["kind"] == "Cell");
        let of: Vec<Value> =
            cells.filter(|cell| cell["metadata"]["labels"]["app.kubernetes.io/instance"] == patient.as_str()).collect();
        if of.len() == 2 { Ok(of) } else { Err(format!("{} cells", of.len())) }
    })
    .await;
    for cell in cells {
        let version = if cell["spec"]["name"] == "zone-b" { "two" } else { "one" };
        assert_eq!(cell["spec"]["multigateway"]["podLabels"][VERSION], version, "{}", cell["spec"]["name"]);
    }

    // Once those before them are healthy, the others follow.
    let story = async {
        eventually(LONG, async || {
            let all = versions(&bed).await;
            if all.values().all(|version| version == "two") { Ok(()) } else { Err(format!("{all:?}")) }
        })
        .await;
        all_healthy(&bed).await;
        for name in &last {
            assert!(pending(&bed, name).await.is_null());
        }

        // A template that makes its first users unhealthy reaches nobody else.
        bed.edit("CellTemplate/std", json!({"spec": template("bad")})).await;
        for name in &last {
            let pending = waits(&bed, name, "OtherClusterUnhealthy").await;
            assert!(pending["message"].as_str().unwrap().contains("cluster c0"), "{pending}");
        }
        let all = versions(&bed).await;
        assert!(all.iter().any(|(_, version)| version == "bad"), "{all:?}");
        assert!(last.iter().all(|name| all[name] == "two"), "{all:?}");

        // Its correction reaches them all.
        bed.edit("CellTemplate/std", json!({"spec": template("good")})).await;
        reached(&bed, "good", &everybody).await;
        all_healthy(&bed).await;
    };
    tokio::select! {
        () = story => {}
        () = play_kubelets(&bed) => unreachable!("kubelets never end"),
    }
    controller.stop().await;
    bed.close().await;
}
