use std::{collections::BTreeSet, time::Duration};

use jiff::SignedDuration;
use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{PersistentVolumeClaim, Pod, Secret},
    },
};
use serde_json::{Value, json};
use shared::{
    api::v1alpha1::{Cell, CellTemplate, MultigresBackup, MultigresCluster, Shard, TableGroup, TopoServer},
    clock::Fixed,
    metrics::{Build, FrameworkMetrics, families},
    pki::Authority,
};

use super::*;
use crate::upstream::{Error, Scope, TopoAddress, fake::FakeDataPlane};

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

fn of<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn meta(name: &str, labels: &[(&str, &str)]) -> Value {
    let mut all = json!({ "app.kubernetes.io/instance": "minimal", "multigres.com/cluster": "minimal" });
    for (key, value) in labels {
        all[key] = json!(value);
    }
    json!({
        "name": name, "namespace": "prod", "uid": format!("uid-{name}"), "labels": all, "generation": 3,
        "creationTimestamp": "2027-01-01T00:00:00Z",
    })
}

const OF_SHARD: [(&str, &str); 3] =
    [("multigres.com/database", "postgres"), ("multigres.com/tablegroup", "default"), ("multigres.com/shard", "0-inf")];

fn pod(name: &str, ready: bool, annotations: &Value) -> Arc<Pod> {
    let mut labels = vec![
        ("app.kubernetes.io/component", "shard-pool"),
        ("multigres.com/pool", "main"),
        ("multigres.com/cell", "zone-a"),
    ];
    labels.extend(OF_SHARD);
    let mut metadata = meta(name, &labels);
    metadata["annotations"] = annotations.clone();
    let status = if ready { "True" } else { "False" };
    of(json!({
        "metadata": metadata,
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": status }] },
    }))
}

fn condition(type_: &str, status: &str) -> Value {
    json!({
        "type": type_, "status": status, "reason": "X", "message": "", "lastTransitionTime": "2027-01-01T00:00:00Z",
    })
}

#[allow(clippy::needless_pass_by_value, reason = "a literal reads better at the calls")]
fn shard(status: Value) -> Arc<Shard> {
    of(json!({
        "metadata": meta("minimal-shard", &OF_SHARD),
        "spec": {
            "databaseName": "postgres", "tableGroupName": "default", "shardName": "0-inf",
            "images": { "multiorch": "o", "multipooler": "p", "postgres": "d" }, "multiorch": {},
            "globalTopoServer": { "address": "a:2379", "rootPath": "/r", "implementation": "etcd" },
            "postgresPasswordSecretRef": { "name": "p", "key": "password" },
            "pools": { "main": { "cells": ["zone-a"], "replicasPerCell": 4 } },
        },
        "status": status,
    }))
}

/// A cluster with one object of everything that has series.
fn stores() -> Arc<Stores> {
    let stores = Stores::default();
    stores.clusters.insert(of::<MultigresCluster>(json!({
        "metadata": meta("minimal", &[]),
        "spec": {},
        "status": {
            "phase": "Degraded", "observedGeneration": 2,
            "cells": { "zone-a": { "ready": true, "gatewayReplicas": 1 } },
            "databases": { "postgres": { "readyShards": 0, "totalShards": 1 } },
            "resolvedTemplates": { "cellTemplates": ["small"] },
            "images": { "appliedRevision": "a", "availableRevision": "b" },
            "conditions": [condition("Available", "False")],
        },
    })));
    stores.cell_templates.insert(of::<CellTemplate>(json!({ "metadata": meta("small", &[]), "spec": {} })));
    stores.cells.insert(of::<Cell>(json!({
        "metadata": meta("minimal-zone-a", &[("multigres.com/cell", "zone-a")]),
        "spec": {
            "name": "zone-a", "images": { "multigateway": "g" }, "multigateway": {},
            "globalTopoServer": { "address": "a:2379", "rootPath": "/r", "implementation": "etcd" },
        },
        "status": { "phase": "Progressing" },
    })));
    let gateway = shared::name::gateway_deployment("minimal", "zone-a");
    stores.deployments.insert(of::<Deployment>(json!({
        "metadata": meta(&gateway, &[]),
        "spec": { "replicas": 2, "selector": {}, "template": {} }, "status": { "replicas": 1, "readyReplicas": 1 },
    })));
    stores.topo_servers.insert(of::<TopoServer>(json!({
        "metadata": meta("minimal-global-topo", &[]), "spec": { "etcd": { "replicas": 3 } }, "status": { "phase": "Healthy" },
    })));
    stores.stateful_sets.insert(of::<StatefulSet>(json!({
        "metadata": meta("minimal-global-topo", &[]),
        "spec": { "replicas": 3, "serviceName": "x", "selector": {}, "template": {} },
        "status": { "replicas": 3, "readyReplicas": 2 },
    })));
    let mut leaving = meta("minimal-tablegroup", &[]);
    leaving["deletionTimestamp"] = json!("2027-01-15T07:00:00Z");
    stores.table_groups.insert(of::<TableGroup>(json!({
        "metadata": leaving,
        "spec": {
            "databaseName": "postgres", "tableGroupName": "default", "shards": [],
            "images": { "multiorch": "o", "multipooler": "p", "postgres": "d" },
            "globalTopoServer": { "address": "a:2379", "rootPath": "/r", "implementation": "etcd" },
            "postgresPasswordSecretRef": { "name": "p", "key": "password" },
        },
    })));
    stores.shards.insert(shard(json!({
        "phase": "Degraded", "primary": "pod-0", "drift": { "pod-0": "image" },
        "podRoles": { "pod-0": "PRIMARY", "pod-1": "QUARANTINED", "pod-8": "QUARANTINED" },
        "lastBackupTime": "2027-01-15T07:00:00Z", "lastBackupType": "diff",
        "backup": { "nextRun": "2027-01-15T09:00:00Z" },
        "conditions": [condition("BackupHealthy", "True"), condition("WALArchiving", "False"), condition("TopologyReachable", "False"), condition("Odd", "Unknown"), condition("DisruptionBlocked", "True")],
    })));
    stores.backups.insert(of::<MultigresBackup>(json!({
        "metadata": meta("nightly", &[]), "spec": { "cluster": "minimal" }, "status": { "phase": "Failed" },
    })));
    stores.secrets.insert(certificate("pgbackrest-tls", "minimal-pgbackrest-ca", "ca.crt"));
    stores.secrets.insert(certificate("internal-tls", "operator.minimal.prod.multigres.internal", "tls.crt"));
    stores.secrets.insert(certificate("postgres-password", "minimal-postgres-password", "tls.crt"));
    stores.pods.insert(pod("pod-0", true, &json!({})));
    stores.pods.insert(pod("pod-1", false, &json!({})));
    stores.pods.insert(pod("pod-2", true, &json!({ "drain.multigres.com/state": "draining" })));
    let mut claim = vec![("app.kubernetes.io/component", "shard-pool")];
    stores.claims.insert(of::<PersistentVolumeClaim>(json!({ "metadata": meta("data-pod-0", &claim) })));
    claim.push(("multigres.com/orphan-since", "20270101T000000Z"));
    stores.claims.insert(of::<PersistentVolumeClaim>(json!({ "metadata": meta("data-pod-9", &claim) })));
    Arc::new(stores)
}

/// A Secret with a certificate that ends an hour after the time of these tests.
fn certificate(component: &str, name: &str, key: &str) -> Arc<Secret> {
    let authority = Authority::generate("test", NOW, SignedDuration::from_hours(1)).unwrap();
    let mut secret = Secret {
        data: Some([(key.to_owned(), ByteString(authority.pair().certificate.clone().into_bytes()))].into()),
        ..Secret::default()
    };
    secret.metadata = serde_json::from_value(meta(name, &[("app.kubernetes.io/component", component)])).unwrap();
    Arc::new(secret)
}

struct Setup {
    registry: shared::metrics::Metrics,
    framework: FrameworkMetrics,
    metrics: Metrics,
    stores: Arc<Stores>,
}

fn setup() -> Setup {
    let registry = shared::metrics::Metrics::new(Build { version: "1", revision: "a" }).unwrap();
    let framework = FrameworkMetrics::new(&registry).unwrap();
    let metrics = Metrics::new(&registry).unwrap();
    let stores = stores();
    metrics.show(Arc::clone(&stores), Arc::new(Fixed::at(NOW)));
    Setup { registry, framework, metrics, stores }
}

fn key(setup: &Setup) -> ObjectKey {
    ObjectKey::of(&*setup.stores.shards.get("prod", "minimal-shard").unwrap())
}

#[track_caller]
fn assert_series(text: &str, series: &[&str]) {
    for line in series {
        assert!(text.lines().any(|found| found == *line), "no {line} in\n{text}");
    }
}

#[test]
fn objects_are_shown_as_the_tables_have_them() {
    let setup = setup();
    let pool = r#"cluster="minimal",shard="minimal-shard",pool="main",cell="zone-a",namespace="prod""#;
    let of_shard = r#"cluster="minimal",shard="minimal-shard",namespace="prod""#;
    assert_series(
        &setup.registry.text().unwrap(),
        &[
            r#"multigres_operator_cluster_info{name="minimal",namespace="prod",phase="Degraded"} 1"#,
            r#"multigres_operator_cluster_cells{cluster="minimal",namespace="prod"} 1"#,
            r#"multigres_operator_cluster_cells_total{cluster="minimal",namespace="prod"} 1"#,
            r#"multigres_operator_cluster_shards_total{cluster="minimal",namespace="prod"} 1"#,
            r#"multigres_operator_cell_gateway_replicas{cluster="minimal",cell="minimal-zone-a",namespace="prod",state="desired"} 2"#,
            r#"multigres_operator_cell_gateway_replicas{cluster="minimal",cell="minimal-zone-a",namespace="prod",state="ready"} 1"#,
            r#"multigres_operator_toposerver_replicas{cluster="minimal",name="minimal-global-topo",namespace="prod",state="desired"} 3"#,
            r#"multigres_operator_toposerver_replicas{cluster="minimal",name="minimal-global-topo",namespace="prod",state="ready"} 2"#,
            &format!(r#"multigres_operator_shard_pool_replicas{{{pool},state="desired"}} 4"#),
            &format!(r#"multigres_operator_shard_pool_replicas{{{pool},state="ready"}} 1"#),
            &format!(r#"multigres_operator_pool_pods{{{pool},state="ready"}} 1"#),
            &format!(r#"multigres_operator_pool_pods{{{pool},state="not_ready"}} 1"#),
            &format!(r#"multigres_operator_pool_pods{{{pool},state="draining"}} 1"#),
            &format!(r#"multigres_operator_pool_pods{{{pool},state="missing"}} 1"#),
            &format!(r#"multigres_operator_pool_pods{{{pool},state="drifted"}} 1"#),
            &format!(r#"multigres_operator_pool_pods{{{pool},state="quarantined"}} 1"#),
            &format!("multigres_operator_pool_pods_drifted{{{pool}}} 1"),
            &format!("multigres_operator_rolling_update_in_progress{{{pool}}} 1"),
            &format!("multigres_operator_last_backup_age_seconds{{{of_shard}}} 3600"),
            &format!(r#"multigres_operator_last_backup_timestamp_seconds{{{of_shard},type="diff"}} 1799996400"#),
            &format!("multigres_operator_backup_healthy{{{of_shard}}} 1"),
            &format!("multigres_operator_wal_archiving{{{of_shard}}} 0"),
            &format!("multigres_operator_backup_next_run_timestamp_seconds{{{of_shard}}} 1800003600"),
            r#"multigres_operator_backup_runs{cluster="minimal",namespace="prod",phase="Failed"} 1"#,
            r#"multigres_operator_certificate_expiry_timestamp_seconds{cluster="minimal",namespace="prod",secret="minimal-pgbackrest-ca"} 1800003600"#,
            r#"multigres_operator_certificate_expiry_timestamp_seconds{cluster="minimal",namespace="prod",secret="operator.minimal.prod.multigres.internal"} 1800003600"#,
            &format!(r#"multigres_operator_shard_primary_present{{{of_shard},shard_name="0-inf"}} 1"#),
            &format!("multigres_operator_shard_required_poolers{{{of_shard}}} 2"),
            &format!(r#"multigres_operator_disruption_blocked{{{of_shard},reason="X"}} 1"#),
            &format!(r#"multigres_operator_drain_operations_total{{{of_shard},result="timeout"}} 0"#),
            r#"multigres_operator_topology_connected{cluster="minimal",cell="",namespace="prod"} 0"#,
            r#"multigres_operator_object_phase{kind="Cell",namespace="prod",name="minimal-zone-a",cluster="minimal",phase="Progressing"} 1"#,
            r#"multigres_operator_object_condition{kind="Shard",namespace="prod",name="minimal-shard",cluster="minimal",type="Odd"} -1"#,
            r#"multigres_operator_object_generation_lag{kind="MultigresCluster",namespace="prod",name="minimal",cluster="minimal"} 1"#,
            r#"multigres_operator_object_deletion_timestamp_seconds{kind="TableGroup",namespace="prod",name="minimal-tablegroup"} 1799996400"#,
            r#"multigres_operator_image_revision_info{namespace="prod",cluster="minimal",revision="a",pending="true"} 1"#,
            r#"multigres_operator_template_consumers{kind="CellTemplate",namespace="prod",name="small"} 1"#,
            r#"multigres_operator_pvc_orphaned{namespace="prod"} 1"#,
            r#"multigres_operator_volume_claim_info{namespace="prod",persistentvolumeclaim="data-pod-0",cluster="minimal",component="shard-pool"} 1"#,
            r#"multigres_operator_cache_objects{kind="Pod"} 3"#,
        ],
    );
}

#[test]
fn series_go_with_their_object() {
    let setup = setup();
    setup.metrics.failed("shard", &key(&setup), NOW, [Class::Transient]);
    setup.metrics.drained(&key(&setup), Drained::Timeout, None);
    setup.metrics.topology(&key(&setup), &seen(&[("zone-a", true)]));
    setup.metrics.primary(&key(&setup), Some("pod-1"));
    assert!(setup.registry.text().unwrap().contains(r#"shard="minimal-shard""#));
    let shard = setup.stores.shards.get("prod", "minimal-shard").unwrap();
    setup.stores.shards.remove(&shard);
    let text = setup.registry.text().unwrap();
    assert!(!text.contains("minimal-shard") && !text.contains("topology_connected"), "{text}");
    // A new one of the same name starts from nothing.
    setup.stores.shards.insert(shard);
    let text = setup.registry.text().unwrap();
    assert!(!text.contains("multigres_operator_reconcile_errors_total"), "{text}");
    assert!(!text.contains(r#"topology_connected{cluster="minimal",cell="zone-a""#), "{text}");
    assert!(!text.contains(r#"result="timeout"} 1"#), "{text}");
    for cluster in setup.stores.clusters.all() {
        setup.stores.clusters.remove(&cluster);
    }
    assert!(!setup.registry.text().unwrap().contains("multigres_operator_cluster_info"));
}

/// What was seen of a topology: cells with whether their records could be read.
fn seen(cells: &[(&str, bool)]) -> Snapshot {
    let answer = |is: bool| if is { Ok(Vec::new()) } else { Err(Error::NotFound { what: "it".to_owned() }) };
    Snapshot {
        global: Ok(()),
        cells: cells.iter().map(|(cell, is)| ((*cell).to_owned(), answer(*is))).collect(),
        malformed: Vec::new(),
    }
}

#[test]
fn a_topology_is_shown_by_cell_as_the_last_pass_saw_it() {
    let setup = setup();
    let connected = |setup: &Setup| {
        let text = setup.registry.text().unwrap();
        let of = |line: &&str| line.starts_with("multigres_operator_topology_connected{");
        let cell = |line: &str| line.split("cell=\"").nth(1).map(|rest| rest.replace("\",namespace=\"prod\"}", ""));
        text.lines().filter(of).filter_map(cell).collect::<Vec<_>>()
    };
    assert_eq!(connected(&setup), [" 0"], "before any pass the status alone tells");
    setup.metrics.topology(&key(&setup), &seen(&[("zone-a", true), ("zone-b", false)]));
    assert_eq!(connected(&setup), [" 0", "zone-a 1", "zone-b 0"]);
    let away = Snapshot { global: Err(Error::NotFound { what: "it".to_owned() }), ..seen(&[("zone-a", true)]) };
    setup.metrics.topology(&key(&setup), &away);
    assert_eq!(connected(&setup), [" 0"], "what is known of cells is from before");
}

#[test]
fn drains_are_timed_by_what_they_were_for() {
    let setup = setup();
    let drain = |seconds| Some(Drain { cause: "scale-down", took: Duration::from_secs(seconds) });
    setup.metrics.drained(&key(&setup), Drained::Success, drain(4));
    setup.metrics.drained(&key(&setup), Drained::Success, drain(70));
    setup.metrics.drained(&key(&setup), Drained::Cancelled, None);
    let of = r#"reason="scale-down",result="success""#;
    assert_series(
        &setup.registry.text().unwrap(),
        &[
            &format!(r#"multigres_operator_drain_duration_seconds_bucket{{{of},le="5"}} 1"#),
            &format!("multigres_operator_drain_duration_seconds_count{{{of}}} 2"),
            &format!("multigres_operator_drain_duration_seconds_sum{{{of}}} 74"),
        ],
    );
}

#[test]
fn passes_are_counted_by_object_and_by_the_worst_of_their_errors() {
    let setup = setup();
    let key = key(&setup);
    setup.metrics.failed("shard", &key, NOW, [Class::Transient]);
    setup.metrics.failed("shard", &key, NOW, [Class::Transient, Class::Bug]);
    let object = r#"kind="Shard",namespace="prod",name="minimal-shard""#;
    assert_series(
        &setup.registry.text().unwrap(),
        &[
            r#"multigres_operator_reconcile_errors_total{controller="shard",name="minimal-shard",namespace="prod",class="transient"} 1"#,
            r#"multigres_operator_reconcile_errors_total{controller="shard",name="minimal-shard",namespace="prod",class="bug"} 1"#,
            &format!(r#"multigres_operator_object_failed_passes{{controller="shard",{object}}} 2"#),
            &format!("multigres_operator_object_last_success_timestamp_seconds{{{object}}} 1800000000"),
        ],
    );
    setup.metrics.succeeded("shard", &key, Timestamp::constant(1_800_000_060, 0));
    assert_series(
        &setup.registry.text().unwrap(),
        &[
            &format!(r#"multigres_operator_object_failed_passes{{controller="shard",{object}}} 0"#),
            &format!("multigres_operator_object_last_success_timestamp_seconds{{{object}}} 1800000060"),
        ],
    );
}

#[test]
fn writes_that_end_a_drain_are_told_from_others() {
    let results = [
        ("DrainCompleted", Some(Drained::Success)),
        ("DrainForced", Some(Drained::Timeout)),
        ("DrainCancelled", Some(Drained::Cancelled)),
        ("DrainAborted", Some(Drained::Error)),
        ("SwitchoverFailed", Some(Drained::Error)),
        ("DrainStarted", None),
        ("Desired", None),
    ];
    for (reason, expected) in results {
        assert_eq!(Drained::by(reason), expected, "{reason}");
    }
}

#[test]
fn the_first_primary_is_no_change_and_neither_is_the_same_again() {
    let setup = setup();
    let changes = |setup: &Setup| {
        let text = setup.registry.text().unwrap();
        let line =
            text.lines().find(|line| line.starts_with("multigres_operator_shard_primary_changes_total")).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(changes(&setup), "0");
    setup.stores.shards.insert(shard(json!({})));
    assert_eq!(changes(&setup), "0", "a loss is no change");
    setup.stores.shards.insert(shard(json!({ "primary": "pod-0" })));
    assert_eq!(changes(&setup), "0", "the same pod came back");
    setup.stores.shards.insert(shard(json!({ "primary": "pod-1" })));
    assert_eq!(changes(&setup), "1");
}

#[test]
fn objects_wait_from_their_first_event_until_their_pass() {
    let setup = setup();
    let queue = setup.metrics.queue(setup.framework.controller("shard", 1));
    queue.added("prod", "a");
    queue.added("prod", "a");
    queue.added("prod", "b");
    let series = |name: &str, value: &str| format!(r#"{name}{{controller="shard",name="shard"}} {value}"#);
    assert_series(
        &setup.registry.text().unwrap(),
        &[&series("workqueue_adds_total", "3"), &series("workqueue_depth", "2")],
    );
    let running = queue.started("prod", "a");
    queue.gone("prod", "b");
    let text = setup.registry.text().unwrap();
    assert_series(&text, &[&series("workqueue_depth", "0"), &series("workqueue_queue_duration_seconds_count", "1")]);
    let idle = series("workqueue_longest_running_processor_seconds", "0");
    assert!(text.lines().all(|line| line != idle), "{text}");
    drop(running);
    assert_series(
        &setup.registry.text().unwrap(),
        &[
            &series("workqueue_longest_running_processor_seconds", "0"),
            &series("workqueue_unfinished_work_seconds", "0"),
        ],
    );
}

#[tokio::test]
async fn calls_of_the_data_plane_are_measured_by_their_result() {
    let setup = setup();
    let plane = FakeDataPlane::new();
    let upstream = setup.metrics.timed(plane.upstream());
    let at = TopoAddress { endpoints: vec!["nobody:2379".into()], root: "/multigres".into(), credentials: None };
    let answer = upstream.topology().cells(&at).await;
    let _snapshot = upstream.topology().snapshot(&at, &Scope::default()).await;
    let text = setup.registry.text().unwrap();
    let result: &str = answer.as_ref().map_or_else(Into::into, |_| "ok");
    let series = |operation: &str, result: &str| {
        format!(
            r#"multigres_operator_topology_request_duration_seconds_count{{operation="{operation}",result="{result}"}} 1"#
        )
    };
    assert_series(&text, &[&series("cells", result)]);
    assert!(text.contains(r#"duration_seconds_count{operation="snapshot""#), "{text}");
}

#[test]
fn every_family_of_the_controller_is_listed_and_every_listed_one_exists() {
    let mut setup = setup();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    setup.registry = setup.registry.of_runtime(runtime.handle());
    let registered = setup.registry.registered();
    for family in &registered {
        assert!(family.is_listed(), "{family:?}");
    }
    let text = setup.registry.text().unwrap();
    let shown = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(ToOwned::to_owned));
    let mut there: BTreeSet<String> = shown.collect();
    for name in &there {
        assert!(families::find(name).is_some(), "{name} is not listed");
    }
    there.extend(registered.iter().map(|family| family.name().to_owned()));
    // Those that come with the first failure of an object.
    setup.metrics.failed("shard", &key(&setup), NOW, [Class::Bug]);
    let text = setup.registry.text().unwrap();
    for family in families::ALL.iter().filter(|family| family.program != families::Program::Admission) {
        assert!(
            there.contains(family.name) || text.contains(&format!("# TYPE {} ", family.name)),
            "nothing shows {}",
            family.name
        );
    }
}
