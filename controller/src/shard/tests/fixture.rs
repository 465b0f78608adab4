//! Shards and observations for tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::{
    api::v1alpha1::{Shard, ShardStatus},
    label::{self, Component},
    name::{self, ShardId},
};

use crate::{
    plan::{Action, Plan},
    settings::Settings,
    shard::{Certificates, InternalTls, Observed, Reference, decide, scope::Scope},
    upstream::{
        ConsensusView, Lifecycle, LifecycleMark, Lsn, PoolerId, PoolerRecord, PoolerStatus, Postgres, PrimaryStatus,
        ReplicationStatus, Role, RuleNumber, Serving, ShardKey, Snapshot, TopoAddress,
        primary::{self, Seen},
    },
    workload::telemetry::Inherited,
};

pub const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

pub fn settings() -> Settings {
    Settings {
        images: shared::image::ImageSet::default(),
        support_images: shared::image::SupportImages::default(),
        exporter_resources: None,
        image_update_strategy: shared::api::v1alpha1::ImageUpdateStrategy::Lazy,
        template_wave: 10,
        zone_id_label: label::NODE_ZONE_ID.into(),
        cluster_domain: "cluster.local".into(),
        native_sidecars: true,
        eviction_policy: true,
        claim_policy: true,
        poll_unsettled: Duration::from_secs(5),
        poll_settled: Duration::from_secs(20),
    }
}

/// A stored Shard of cluster `cluster` with the given parts of the spec on top of what the resolver always fills.
pub fn shard(cluster: &str, parts: &Value) -> Shard {
    let id = ShardId { cluster, database: "postgres", table_group: "default", shard: "0-inf" };
    let mut spec = json!({
        "databaseName": "postgres",
        "tableGroupName": "default",
        "shardName": "0-inf",
        "images": {
            "imagePullPolicy": "IfNotPresent",
            "postgres": "registry.test/pgctld:1",
            "multipooler": "registry.test/multigres:1",
            "multiorch": "registry.test/multigres:1",
        },
        "globalTopoServer": {
            "address": format!("{cluster}-global-topo.prod.svc:2379"),
            "rootPath": "/multigres/global",
            "implementation": "etcd",
        },
        "multiorch": { "replicas": 1 },
        "logLevels": { "pgctld": "info", "multipooler": "info", "multiorch": "info" },
        "durabilityPolicy": "AT_LEAST_2",
        "postgresPasswordSecretRef": { "name": format!("{cluster}-postgres-password"), "key": "password" },
    });
    spec.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "multigres.com/v1alpha1",
        "kind": "Shard",
        "metadata": {
            "name": name::shard(id),
            "namespace": "prod",
            "uid": "11111111-2222-3333-4444-555555555555",
            "generation": 3,
            "labels": label::of_shard(id, Component::Shard),
        },
        "spec": spec,
    }))
    .unwrap()
}

/// One cell, two pods, backups on a volume.
pub fn minimal() -> Shard {
    shard(
        "minimal",
        &json!({
            "pools": { "default": {
                "type": "readWrite",
                "cells": ["zone-a"],
                "replicasPerCell": 2,
                "storage": { "size": "1Gi" },
                "postgres": { "resources": { "requests": { "cpu": "100m", "memory": "256Mi" }, "limits": { "memory": "512Mi" } } },
            } },
            "backup": { "type": "filesystem", "filesystem": { "path": "/backups", "storage": { "size": "10Gi" } } },
        }),
    )
}

/// Three cells in zones, backups in an encrypted bucket, mutual TLS, telemetry, volumes that go with the shard.
pub fn three_cells() -> Shard {
    shard(
        "demo",
        &json!({
            "images": {
                "imagePullPolicy": "Always",
                "imagePullSecrets": [{ "name": "registry" }],
                "postgres": "registry.test/pgctld:1",
                "multipooler": "registry.test/multigres:1",
                "multiorch": "registry.test/multigres:1",
            },
            "multiorch": {
                "replicas": 2,
                "cells": ["zone-a", "zone-b", "zone-c"],
                "podAnnotations": { "team": "dba", "prometheus.io/port": "1" },
                "podLabels": { "tier": "gold", "app.kubernetes.io/component": "mine" },
                "placement": { "tolerations": [{ "key": "dedicated", "operator": "Exists" }] },
            },
            "pools": { "default": {
                "cells": ["zone-c", "zone-a", "zone-b"],
                "replicasPerCell": 1,
                "storage": { "size": "100Gi", "class": "gp3" },
                "fsGroup": 1500,
                "postgres": { "runAsUser": 1500, "runAsGroup": 1500 },
                "multipooler": { "runAsUser": 1500 },
                "tolerations": [{ "key": "dedicated", "operator": "Exists" }],
            } },
            "pvcDeletionPolicy": { "whenDeleted": "Delete" },
            "initdbArgs": "--locale-provider=icu --icu-locale=de_DE",
            "internalTLS": { "enabled": true },
            "observability": { "otlpEndpoint": "http://otel:4318", "samplingConfigRef": { "name": "sampling" } },
            "postgresConfig": { "work_mem": "32MB" },
            "postgresSuperuser": "admin",
            "cellTopologyLabels": {
                "zone-a": { "topology.kubernetes.io/zone": "a" },
                "zone-b": { "topology.kubernetes.io/zone": "b" },
                "zone-c": { "topology.kubernetes.io/zone": "c" },
            },
            "backup": {
                "type": "s3",
                "s3": { "bucket": "b", "region": "us-east-1", "credentialsSecret": "aws", "useEnvCredentials": true },
                "encryption": { "secretName": "repo-keys" },
            },
        }),
    )
}

/// Two cells that share one volume for backups.
pub fn shared_volume() -> Shard {
    shard(
        "shared",
        &json!({
            "pools": { "default": { "cells": ["zone-a", "zone-b"], "replicasPerCell": 1 } },
            "backup": { "type": "filesystem", "filesystem": {
                "path": "/repo",
                "scope": "Shard",
                "storage": { "size": "50Gi", "class": "efs", "accessModes": ["ReadWriteMany"] },
            } },
        }),
    )
}

/// What is seen of a shard whose references all exist, before anything was made.
pub fn observed(shard: Shard) -> Observed {
    let scope = Scope::of(&shard).unwrap();
    let present = |needed: bool| needed.then_some(Reference::Present);
    Observed {
        pods: Vec::new(),
        orchestrator_pods: Vec::new(),
        claims: Vec::new(),
        deployments: Vec::new(),
        services: Vec::new(),
        budgets: Vec::new(),
        applied_config: None,
        password: Reference::Present,
        user_tls: present(scope.user_tls_secret().is_some()),
        cipher: present(scope.cipher_secret().is_some()),
        bucket_keys: present(scope.bucket_keys().is_some()),
        config_reference: None,
        certificates: Certificates { ready: true, ..Certificates::default() },
        internal_tls: InternalTls::default(),
        topology_at: TopoAddress::new(
            [&shard.spec.global_topo_server.address],
            shard.spec.global_topo_server.root_path.as_str(),
        ),
        topology: Snapshot { global: Ok(()), cells: BTreeMap::new(), malformed: Vec::new() },
        statuses: BTreeMap::new(),
        topology_away: None,
        bodiless: BTreeMap::new(),
        strangers: Vec::new(),
        classes: None,
        nodes: BTreeMap::new(),
        inherited: Inherited::default(),
        backups: crate::backup::Sight::default(),
        shard: Arc::new(shard),
    }
}

/// What is seen of a shard in which everything works, and whose first member is the primary.
pub fn healthy(shard: Shard) -> Observed {
    let mut observed = observed(shard);
    carry_out(&mut observed);
    register(&mut observed);
    elect(&mut observed, 0);
    observed
}

pub fn pass(observed: &Observed) -> Plan<ShardStatus> {
    decide(observed, &settings(), NOW).unwrap()
}

/// The status that a pass reports, given the one before.
pub fn status(observed: &Observed) -> ShardStatus {
    pass(observed).status.unwrap()
}

/// Stores the reported status in the shard.
pub fn remember(observed: &mut Observed) {
    let status = status(observed);
    Arc::make_mut(&mut observed.shard).status = Some(status);
}

/// Makes what a pass wants to make, with workloads that come up at once.
pub fn carry_out(observed: &mut Observed) {
    for write in pass(observed).writes {
        let (Action::Apply(object) | Action::CreateOnce(object)) = write.action else { continue };
        let mut value = object.value;
        value["metadata"]["uid"] = json!(format!("uid-{}-{}", object.gvk.kind, object.name));
        value["metadata"]["resourceVersion"] = json!("7");
        value["metadata"]["creationTimestamp"] = json!("2027-01-15T07:00:00Z");
        match object.gvk.kind.as_str() {
            "Pod" => {
                value["status"] = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] });
                add::<Pod>(&mut observed.pods, value);
            }
            "Deployment" => {
                let replicas = value["spec"]["replicas"].clone();
                value["metadata"]["generation"] = json!(1);
                value["status"] = json!({
                    "observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas,
                });
                add::<Deployment>(&mut observed.deployments, value);
            }
            "PersistentVolumeClaim" => add::<PersistentVolumeClaim>(&mut observed.claims, value),
            "Service" => add::<Service>(&mut observed.services, value),
            "PodDisruptionBudget" => add::<PodDisruptionBudget>(&mut observed.budgets, value),
            "ConfigMap" if object.name.ends_with("-postgres-config") => {
                observed.applied_config = Some(Arc::new(serde_json::from_value::<ConfigMap>(value).unwrap()));
            }
            _ => {}
        }
    }
}

fn add<K: DeserializeOwned + kube::Resource>(list: &mut Vec<Arc<K>>, value: Value) {
    let object: K = serde_json::from_value(value).unwrap();
    list.retain(|other| other.meta().name != object.meta().name);
    list.push(Arc::new(object));
}

/// Puts a replica's record for every member into the topology.
pub fn register(observed: &mut Observed) {
    let shard = Arc::clone(&observed.shard);
    for member in Scope::of(&shard).unwrap().members() {
        enlist(observed, &member.pod, member.pool.id.cell);
    }
}

/// Puts a replica's record for one pod into the topology.
pub fn enlist(observed: &mut Observed, pod: &str, cell: &str) {
    let record = PoolerRecord {
        id: PoolerId::new(cell, name::pooler_service_id(pod)),
        shard: ShardKey::new("postgres", "default", "0-inf"),
        hostname: format!("{pod}.headless.prod.svc.cluster.local"),
        ports: BTreeMap::from([("grpc".to_owned(), 15270)]),
        role: Role::Replica,
        rule: None,
        lifecycle: LifecycleMark { state: Lifecycle::Active, ..LifecycleMark::default() },
        serving: Serving::Serving,
        tls: None,
    };
    let cell = observed.topology.cells.entry(cell.to_owned()).or_insert_with(|| Ok(Vec::new()));
    cell.as_mut().unwrap().push(record);
}

/// The record of the member with that number.
pub fn record(observed: &mut Observed, member: usize) -> &mut PoolerRecord {
    let shard = Arc::clone(&observed.shard);
    let members = Scope::of(&shard).unwrap().members();
    let wanted = name::pooler_service_id(&members[member].pod);
    let cells = observed.topology.cells.values_mut();
    cells.flat_map(|cell| cell.as_mut().unwrap()).find(|record| record.id.name == wanted).unwrap()
}

/// Makes a member primary, and has it confirm that. All others stream from it and say so.
pub fn elect(observed: &mut Observed, member: usize) {
    let id = record(observed, member).id.clone();
    lead(observed, &id);
}

/// Makes the pooler of that record primary, as `elect` does.
pub fn lead(observed: &mut Observed, id: &PoolerId) {
    let term = primary::claims(&observed.records()).first().and_then(|claim| claim.rule).unwrap_or_default();
    let rule = RuleNumber { coordinator_term: term.coordinator_term + 1, leader_subterm: 0 };
    let mut records = observed.topology.cells.values_mut().flat_map(|cell| cell.as_mut().unwrap());
    let record = records.find(|record| record.id == *id).unwrap();
    record.role = Role::Primary;
    record.rule = Some(rule);
    let id = id.clone();
    let everybody: BTreeSet<PoolerId> = observed.topology.poolers().map(|other| other.id.clone()).collect();
    let consensus =
        Some(ConsensusView { rule, leader: Some(id.clone()), cohort: everybody.clone(), ..ConsensusView::default() });
    for other in &everybody {
        let status = if *other == id {
            PoolerStatus {
                postgres: Postgres::Primary,
                primary: Some(PrimaryStatus {
                    ready: true,
                    lsn: Some(Lsn(1000)),
                    followers: everybody.iter().filter(|other| **other != id).cloned().collect(),
                }),
                ..PoolerStatus::default()
            }
        } else {
            PoolerStatus {
                postgres: Postgres::Standby,
                replication: Some(ReplicationStatus {
                    replayed: Some(Lsn(1000)),
                    receiver: "streaming".to_owned(),
                    ..ReplicationStatus::default()
                }),
                ..PoolerStatus::default()
            }
        };
        let status = PoolerStatus { postgres_ready: true, consensus: consensus.clone(), ..status };
        observed.statuses.insert(other.clone(), Seen { status, at: NOW });
    }
}

/// Changes one stored pod.
pub fn with_pod(observed: &mut Observed, name: &str, change: impl FnOnce(&mut Pod)) {
    let pod = observed.pods.iter_mut().find(|pod| pod.metadata.name.as_deref() == Some(name)).unwrap();
    change(Arc::make_mut(pod));
}

/// Names of the wanted pods.
pub fn members(shard: &Shard) -> Vec<String> {
    Scope::of(shard).unwrap().members().into_iter().map(|member| member.pod).collect()
}

/// Names of what a plan deletes.
pub fn deletions(plan: &Plan<ShardStatus>) -> Vec<String> {
    let deleted = plan.writes.iter().filter_map(|write| match &write.action {
        Action::Delete(target) | Action::Remove { target, .. } => {
            Some(format!("{}/{}", target.key.kind, target.key.name))
        }
        _ => None,
    });
    deleted.collect()
}

/// Names of what a plan creates once or applies, of one kind.
pub fn written(plan: &Plan<ShardStatus>, kind: &str) -> Vec<String> {
    let written = plan.writes.iter().filter_map(|write| match &write.action {
        Action::Apply(object) | Action::CreateOnce(object) => (object.gvk.kind == kind).then(|| object.name.clone()),
        _ => None,
    });
    written.collect()
}
