//! The real controller against a real API server: what it makes of a cluster, that it rests, and that nothing stops it for good.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. Neither kubelets nor Kubernetes' own controllers run
//! there: etcd is played and nothing else becomes ready. Each controller sees one namespace alone, so tests may run side by side.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::bed::{Bed, DEADLINE, Objects, condition, eventually, minimal, within};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use shared::annotation::{APPLIED_DIGEST, INTENT, PGBACKREST_CERTIFICATE, RENDERING, SPEC_HASH};

/// The pass counters, and the kind that each counts.
const CONTROLLERS: [(&str, &str); 5] = [
    ("multigrescluster", "MultigresCluster"),
    ("cell", "Cell"),
    ("tablegroup", "TableGroup"),
    ("shard", "Shard"),
    ("toposerver", "TopoServer"),
];
/// Longer than the controller may hold back a status that tells nothing new.
const STATUS_PACE: Duration = Duration::from_secs(17);
/// Crashes that are tried at most; more would take too long.
const CRASHES: usize = 16;
/// Crashes that are tried at the same time.
const AT_ONCE: usize = 3;

/// All that the cluster `minimal` consists of.
const MINIMAL: &[&str] = &[
    "MultigresCluster/minimal",
    "TopoServer/minimal-global-topo",
    "Cell/minimal-zone-a-96c88ae0",
    "TableGroup/minimal-postgres-default-f7d4ad4a",
    "Shard/minimal-postgres-default-0-inf-1e3c045c",
    "Service/minimal-multigateway",
    "Service/minimal-multigateway-replica",
    "Deployment/minimal-multiadmin",
    "Service/minimal-multiadmin",
    "Deployment/minimal-multiadmin-web",
    "Service/minimal-multiadmin-web",
    "Secret/minimal-postgres-password",
    "ConfigMap/minimal-global-topo-members",
    "ConfigMap/minimal-postgres-default-0-inf-1e3c045c-pg-hba",
    "ConfigMap/minimal-postgres-default-0-inf-1e3c045c-exporter-queries",
    "ConfigMap/minimal-postgres-default-0-inf-1e3c045c-postgres-config",
    "Service/minimal-postgres-default-0-inf-pool-default-zone-a-h---22cdf02c",
    "PersistentVolumeClaim/backup-data-minimal-postgres-default-0-inf-zone-a",
    "PersistentVolumeClaim/data-minimal-postgres-default-0-inf-pool-default-zone-a-a3a0d77b-0",
    "PersistentVolumeClaim/data-minimal-postgres-default-0-inf-pool-default-zone-a-a3a0d77b-1",
    "Pod/minimal-postgres-default-0-inf-pool-default-zone-a-a3a0d77b-0",
    "Pod/minimal-postgres-default-0-inf-pool-default-zone-a-a3a0d77b-1",
    "Deployment/minimal-postgres-default-0-inf-multiorch-zone-a-bbe2a333",
    "Service/minimal-postgres-default-0-inf-multiorch-zone-a-bbe2a333",
    "PodDisruptionBudget/minimal-global-topo",
    "Secret/minimal-postgres-default-0-inf-1e3c045c-pgbackrest-ca",
    "Secret/minimal-postgres-default-0-inf-1e3c045c-pgbackrest-tls",
    "Service/minimal-global-topo",
    "Service/minimal-global-topo-headless",
    "Service/minimal-zone-a-multigateway-0ccc2e8b",
    "StatefulSet/minimal-global-topo",
    // Once the topology serves:
    "Deployment/minimal-zone-a-multigateway-0ccc2e8b",
];

/// What keeps a set of objects from being complete.
fn compare_names(objects: &Objects, expected: &[&str]) -> Result<(), String> {
    let have: BTreeSet<&str> = objects.keys().map(String::as_str).collect();
    let want: BTreeSet<&str> = expected.iter().copied().collect();
    if have == want {
        return Ok(());
    }
    let missing: Vec<_> = want.difference(&have).collect();
    let extra: Vec<_> = have.difference(&want).collect();
    Err(format!("missing: {missing:#?}, unexpected: {extra:#?}"))
}

async fn complete(bed: &Bed) -> Objects {
    eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        compare_names(&objects, MINIMAL).map(|()| objects)
    })
    .await
}

fn versions(objects: &Objects) -> BTreeMap<String, Value> {
    objects.iter().map(|(id, object)| (id.clone(), object["metadata"]["resourceVersion"].clone())).collect()
}

/// What must stay as it is when somebody else's cluster changes: all but the status of our kinds, which may settle at any time.
fn untouched(objects: &Objects, concerns: impl Fn(&Value) -> bool) -> Objects {
    let mut kept: Objects =
        objects.iter().filter(|(_, o)| concerns(o)).map(|(id, o)| (id.clone(), o.clone())).collect();
    for object in kept.values_mut().filter(|object| object["apiVersion"] == "multigres.com/v1alpha1") {
        object["status"] = Value::Null;
        object["metadata"]["resourceVersion"] = Value::Null;
    }
    kept
}

/// An object without what differs between two runs of the same thing, and of its status only phase and conditions.
fn essence(object: &Value, namespace: &str) -> Value {
    let mut object = object.clone();
    let metadata = object["metadata"].as_object_mut().unwrap();
    for field in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
        metadata.remove(field);
    }
    for owner in metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
        owner["uid"] = Value::Null;
    }
    // It covers the owner's UID.
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(APPLIED_DIGEST);
        // They cover addresses; what is pinned is compared in the object that holds it.
        annotations.remove(INTENT);
        annotations.remove(RENDERING);
        // It covers the namespace, which is part of host names; the pod's spec itself is compared.
        // Authorities are random.
        for key in [SPEC_HASH, PGBACKREST_CERTIFICATE] {
            annotations.entry(key).and_modify(|value| *value = json!("…"));
        }
    }
    if object["kind"] == "ConfigMap" {
        object.as_object_mut().unwrap().remove("binaryData");
    }
    if object["kind"] == "Secret" {
        for value in object["data"].as_object_mut().into_iter().flat_map(|data| data.values_mut()) {
            assert!(value.as_str().is_some_and(|value| !value.is_empty()), "an empty secret");
            *value = json!("…");
        }
    }
    if object["kind"] == "Service" {
        let spec = object["spec"].as_object_mut().unwrap();
        if spec["clusterIP"] != "None" {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
    }
    let conditions: BTreeMap<String, (Value, Value)> = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|c| (c["type"].as_str().unwrap().to_owned(), (c["status"].clone(), c["reason"].clone())))
        .collect();
    object["status"] = json!({"phase": object["status"]["phase"], "conditions": conditions});
    let mut text = object.to_string().replace(namespace, "NAMESPACE");
    // The API server puts five random characters behind the name of the token's volume.
    if let Some(at) = text.find("kube-api-access-") {
        let volume = text[at..at + "kube-api-access-".len() + 5].to_owned();
        text = text.replace(&volume, "kube-api-access");
    }
    serde_json::from_str(&text).unwrap()
}

async fn essences(bed: &Bed) -> Objects {
    let objects = bed.objects().await;
    let mut all: Objects = objects.iter().map(|(id, object)| (id.clone(), essence(object, &bed.namespace))).collect();
    for (id, cell) in objects.iter().filter(|(id, _)| id.starts_with("Cell/")) {
        all.insert(format!("Topology/of {id}"), json!(bed.topology(cell)));
    }
    all
}

/// The first difference between two sets of objects, in words.
fn difference(have: &Objects, want: &Objects) -> Result<(), String> {
    let names: Vec<&str> = want.keys().map(String::as_str).collect();
    compare_names(have, &names)?;
    for (id, want) in want {
        let have = &have[id];
        differs(id, have, want)?;
    }
    Ok(())
}

fn differs(at: &str, have: &Value, want: &Value) -> Result<(), String> {
    match (have, want) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().try_for_each(|key| differs(&format!("{at}.{key}"), &have[key], &want[key]))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            (0..a.len()).try_for_each(|index| differs(&format!("{at}[{index}]"), &a[index], &b[index]))
        }
        _ if have == want => Ok(()),
        _ => Err(format!("{at} is {have:#} instead of {want:#}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minimal_cluster_gets_all_its_children() {
    let Some(bed) = Bed::open().await else { return };
    bed.create_cluster("minimal", &minimal()).await;
    let controller = bed.start().await;
    let objects = complete(&bed).await;

    for (id, object) in &objects {
        let labels = &object["metadata"]["labels"];
        if !id.starts_with("MultigresCluster/") {
            assert_eq!(labels["app.kubernetes.io/managed-by"], "multigres-operator", "{id}");
            assert_eq!(labels["app.kubernetes.io/instance"], "minimal", "{id}");
        }
        let outlives = id.starts_with("MultigresCluster/")
            || id.starts_with("PersistentVolumeClaim/")
            || id.starts_with("Secret/");
        let owner = &object["metadata"]["ownerReferences"][0];
        if !outlives {
            let owner_id = format!("{}/{}", owner["kind"].as_str().unwrap(), owner["name"].as_str().unwrap());
            assert_eq!(owner["uid"], objects[&owner_id]["metadata"]["uid"], "{id} belongs to {owner_id}");
        }
    }
    eventually(DEADLINE, async || {
        let records = bed.topology(&objects["Cell/minimal-zone-a-96c88ae0"]);
        let has = |end: &str| records.iter().any(|record| record.ends_with(end));
        if has("/zone-a/Cell") && has("/postgres/Database") { Ok(()) } else { Err(format!("records: {records:?}")) }
    })
    .await;
    let cluster = eventually(DEADLINE, async || {
        let cluster = bed.object("MultigresCluster/minimal").await;
        let accepted = condition(&cluster, "SpecAccepted")["status"] == "True";
        if accepted && cluster["status"]["phase"].is_string() {
            Ok(cluster)
        } else {
            Err(cluster["status"].to_string())
        }
    })
    .await;
    assert_ne!(cluster["status"]["phase"], "Healthy", "nothing runs here");
    controller.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_controller_writes_nothing() {
    let Some(bed) = Bed::open().await else { return };
    bed.create_cluster("minimal", &minimal()).await;
    let first = bed.start().await;
    complete(&bed).await;
    first.quiet(STATUS_PACE).await;
    first.stop().await;
    let before = bed.objects().await;

    let second = bed.start().await;
    eventually(DEADLINE, async || {
        for (controller, kind) in CONTROLLERS {
            let objects = before.values().filter(|object| object["kind"] == kind).count();
            // The shard asks the data plane again and again, so this waits for several rounds of everything else, too.
            let wanted = if kind == "Shard" { 10 } else { objects };
            let passes = second.passes(controller);
            if passes < wanted.try_into().unwrap() {
                return Err(format!("{controller}: {passes} passes of {wanted}"));
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(second.wire.writes(), Vec::<String>::new());
    assert_eq!(versions(&bed.objects().await), versions(&before));
    second.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drift_of_children_is_reverted_and_foreign_fields_stay() {
    const ADMIN: &str = "Deployment/minimal-multiadmin";
    const WEB: &str = "Deployment/minimal-multiadmin-web";
    const GATEWAY: &str = "Service/minimal-multigateway";
    const CELL: &str = "Cell/minimal-zone-a-96c88ae0";
    const HBA: &str = "ConfigMap/minimal-postgres-default-0-inf-1e3c045c-pg-hba";
    const POD: &str = "Pod/minimal-postgres-default-0-inf-pool-default-zone-a-a3a0d77b-1";
    const BUDGET: &str = "PodDisruptionBudget/minimal-global-topo";

    let Some(bed) = Bed::open().await else { return };
    bed.create_cluster("minimal", &minimal()).await;
    let controller = bed.start().await;
    let before = complete(&bed).await;

    let foreign = json!({"labels": {"example.com/team": "storage"}, "annotations": {"example.com/note": "keep"}});
    let edited = bed.edit(ADMIN, json!({"metadata": foreign, "spec": {"replicas": 5}})).await;
    assert_eq!(edited["spec"]["replicas"], 5);
    bed.edit(GATEWAY, json!({"metadata": foreign, "spec": {"selector": {"app.kubernetes.io/instance": "other"}}}))
        .await;
    bed.edit(CELL, json!({"metadata": foreign, "spec": {"multigateway": {"replicas": 7}}})).await;
    bed.edit(HBA, json!({"metadata": foreign, "data": {"pg_hba_template.conf": "host all all all trust"}})).await;
    // Without this label the watch loses sight of it.
    bed.edit(WEB, json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}})).await;
    bed.delete(POD).await;
    bed.delete(BUDGET).await;

    eventually(DEADLINE, async || {
        let now = bed.objects().await;
        compare_names(&now, MINIMAL)?;
        for (id, path) in [
            (ADMIN, "/spec"),
            (GATEWAY, "/spec"),
            (CELL, "/spec"),
            (HBA, "/data"),
            (WEB, "/metadata/labels"),
            (WEB, "/metadata/uid"),
            (BUDGET, "/spec"),
        ] {
            if now[id].pointer(path) != before[id].pointer(path) {
                return Err(format!("{id} has {:#}", now[id].pointer(path).unwrap_or(&Value::Null)));
            }
        }
        for id in [POD, BUDGET] {
            if now[id]["metadata"]["uid"] == before[id]["metadata"]["uid"] {
                return Err(format!("{id} has not been replaced"));
            }
        }
        Ok(())
    })
    .await;
    controller.quiet(Duration::from_secs(2)).await;
    let after = bed.objects().await;
    for id in [ADMIN, GATEWAY, CELL, HBA] {
        assert_eq!(after[id]["metadata"]["labels"]["example.com/team"], "storage", "{id}");
        assert_eq!(after[id]["metadata"]["annotations"]["example.com/note"], "keep", "{id}");
        assert_eq!(after[id]["metadata"]["uid"], before[id]["metadata"]["uid"], "{id}");
    }
    controller.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_controller_converges_when_killed_after_any_write() {
    let Some(bed) = Bed::open().await else { return };
    bed.create_cluster("minimal", &minimal()).await;
    let undisturbed = bed.start().await;
    complete(&bed).await;
    undisturbed.quiet(STATUS_PACE).await;
    let writes = undisturbed.wire.writes().len();
    undisturbed.stop().await;
    let wanted = essences(&bed).await;
    assert!(writes >= MINIMAL.len(), "{writes} writes cannot have made {} objects", MINIMAL.len());

    let sample: Vec<usize> = (1..=writes).step_by(writes.div_ceil(CRASHES)).collect();
    let crashed: Vec<bool> =
        stream::iter(&sample).map(|writes| survives(&bed, *writes, &wanted)).buffer_unordered(AT_ONCE).collect().await;
    // How statuses come together differs from run to run, so the last crashes may find nothing left to write.
    let count = crashed.iter().filter(|crashed| **crashed).count();
    assert!(count * 4 >= sample.len() * 3, "only {count} of {} controllers had so many writes to send", sample.len());
    bed.close().await;
}

/// Kills a controller after its n-th write and expects its successor to finish. `false` if it was done before.
async fn survives(server: &Bed, writes: usize, wanted: &Objects) -> bool {
    let bed = server.another().await;
    bed.create_cluster("minimal", &minimal()).await;
    let first = bed.start_crashing(writes);
    let done = async {
        first.quiet(Duration::from_secs(5)).await;
        complete(&bed).await;
    };
    let crashed = tokio::select! {
        () = first.wire.crashed() => true,
        () = done => false,
    };
    first.kill().await;
    let second = bed.start().await;
    eventually(DEADLINE, async || {
        let have = essences(&bed).await;
        difference(&have, wanted).map_err(|difference| format!("after a crash behind write {writes}: {difference}"))
    })
    .await;
    second.stop().await;
    bed.close().await;
    crashed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_in_one_namespace_do_not_touch_each_other() {
    /// One name begins like the names of the other's objects.
    const NAMES: [&str; 2] = ["db", "db-zone-a"];
    let of =
        |name: &'static str| move |object: &Value| object["metadata"]["labels"]["app.kubernetes.io/instance"] == name;
    let kinds = |objects: &Objects, name: &'static str| {
        let mut kinds = BTreeMap::<String, usize>::new();
        for object in objects.values().filter(|object| of(name)(object)) {
            *kinds.entry(object["kind"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        kinds
    };
    let mut expected = BTreeMap::<String, usize>::new();
    for id in MINIMAL.iter().filter(|id| !id.starts_with("MultigresCluster/")) {
        *expected.entry(id.split('/').next().unwrap().to_owned()).or_default() += 1;
    }

    let Some(bed) = Bed::open().await else { return };
    for name in NAMES {
        bed.create_cluster(name, &minimal()).await;
    }
    let controller = bed.start().await;
    let objects = eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        for name in NAMES {
            let have = kinds(&objects, name);
            if have != expected {
                return Err(format!("{name} has {have:?} instead of {expected:?}"));
            }
        }
        Ok(objects)
    })
    .await;
    assert_eq!(objects.len(), 2 * MINIMAL.len(), "{:#?}", objects.keys());
    for (id, object) in &objects {
        for owner in object["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
            let (kind, name) = (owner["kind"].as_str().unwrap(), owner["name"].as_str().unwrap());
            let owner = &objects[&format!("{kind}/{name}")];
            let cluster = match kind {
                "MultigresCluster" => name,
                _ => owner["metadata"]["labels"]["app.kubernetes.io/instance"].as_str().unwrap(),
            };
            assert!(
                of(if cluster == NAMES[0] { NAMES[0] } else { NAMES[1] })(object),
                "{id} has an owner of {cluster}"
            );
        }
    }
    controller.quiet(Duration::from_secs(1)).await;
    let before = untouched(&bed.objects().await, of(NAMES[1]));
    assert_eq!(before.len(), MINIMAL.len() - 1);

    bed.edit("MultigresCluster/db", json!({"spec": {"multiadmin": {"spec": {"replicas": 2}}}})).await;
    eventually(DEADLINE, async || {
        let replicas = bed.object("Deployment/db-multiadmin").await["spec"]["replicas"].clone();
        if replicas == 2 { Ok(()) } else { Err(format!("{replicas} replicas")) }
    })
    .await;
    bed.delete("MultigresCluster/db").await;
    eventually(DEADLINE, async || {
        bed.collect_garbage().await;
        let cluster = bed.object("MultigresCluster/db").await;
        if cluster.is_null() { Ok(()) } else { Err(format!("db is still there: {cluster:#}")) }
    })
    .await;
    controller.quiet(Duration::from_secs(1)).await;
    assert_eq!(untouched(&bed.objects().await, of(NAMES[1])), before);
    assert_eq!(bed.object("Deployment/db-zone-a-multiadmin").await["spec"]["replicas"], 1);
    controller.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_spec_is_reported_and_changes_nothing_else() {
    let refused = |postgres: Value| {
        json!([{"name": "postgres", "default": true, "tablegroups": [{"name": "default", "default": true, "shards": [
            {"name": "0-inf", "spec": {"postgresConfig": postgres}},
        ]}]}])
    };
    let told = async |bed: &Bed, id: &str| {
        eventually(DEADLINE, async || {
            let cluster = bed.object(id).await;
            let accepted = condition(&cluster, "SpecAccepted").clone();
            let current = cluster["metadata"]["generation"] == cluster["status"]["observedGeneration"];
            if current && accepted["status"] == "False" { Ok(accepted) } else { Err(cluster["status"].to_string()) }
        })
        .await
    };
    let Some(bed) = Bed::open().await else { return };
    bed.create_cluster("minimal", &minimal()).await;
    let controller = bed.start().await;
    complete(&bed).await;
    controller.quiet(Duration::from_secs(1)).await;
    let child = |object: &Value| object["kind"] != "MultigresCluster";
    let before = untouched(&bed.objects().await, child);

    bed.edit("MultigresCluster/minimal", json!({"spec": {"databases": refused(json!({"wal_level": "replica"}))}}))
        .await;
    let accepted = told(&bed, "MultigresCluster/minimal").await;
    let message = accepted["message"].as_str().unwrap();
    for part in [
        "databases[postgres].tablegroups[default].shards[0-inf].postgresConfig[wal_level]",
        "\"replica\"",
        "logical",
        "remove it",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    // A cluster that never had an accepted spec gets nothing made at all.
    let mut spec = minimal();
    spec["databases"] = refused(json!({"archive_mode": "off"}));
    bed.create_cluster("refused", &spec).await;
    told(&bed, "MultigresCluster/refused").await;
    controller.quiet(Duration::from_secs(1)).await;
    assert_eq!(untouched(&bed.objects().await, child), before);

    bed.edit("MultigresCluster/minimal", json!({"spec": {"databases": refused(json!({"work_mem": "8MB"}))}})).await;
    eventually(DEADLINE, async || {
        let cluster = bed.object("MultigresCluster/minimal").await;
        let accepted = condition(&cluster, "SpecAccepted");
        if accepted["status"] == "True" { Ok(()) } else { Err(accepted.to_string()) }
    })
    .await;
    within("the change arrives", async {
        eventually(DEADLINE, async || {
            let shards = bed.objects().await;
            let shard = shards.values().find(|object| object["kind"] == "Shard").unwrap();
            if shard["spec"]["postgresConfig"]["work_mem"] == "8MB" { Ok(()) } else { Err(shard["spec"].to_string()) }
        })
        .await;
    })
    .await;
    controller.stop().await;
    bed.close().await;
}
