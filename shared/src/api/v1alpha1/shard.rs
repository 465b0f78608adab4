//! Shard: one replicated PostgreSQL, written by the operator.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup::BackupConfig;
use super::backup_run::ShardBackupStatus;
use super::cluster::TopologyPruningConfig;
use super::common::PvcDeletionPolicy;
use super::image::ShardImages;
use super::observability::{ComponentLogLevels, ObservabilityConfig};
use super::pool::{MultiorchSpec, PoolSpec};
use super::postgres::{DurabilityPolicy, InternalTlsConfig, PostgresConfigRef, PostgresPasswordSecretRef};
use super::status::{BackupKind, Phase, PostgresConfigStatus};
use super::topology::GlobalTopoServerRef;
use super::{embedded, rule};

/// One replicated PostgreSQL; written by the operator, read-only for users.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multigres.com",
    version = "v1alpha1",
    kind = "Shard",
    plural = "shards",
    shortname = "srd",
    category = "multigres",
    namespaced,
    status = "ShardStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "One replicated PostgreSQL; written by the operator, read-only for users.",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.readyReplicas"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Available')].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Pods", type_ = "integer", priority = 1, json_path = ".status.readyReplicas"),
    printcolumn(name = "Last-Backup", type_ = "date", priority = 1, json_path = ".status.lastBackupTime")
)]
#[serde(rename_all = "camelCase")]
pub struct ShardSpec {
    /// Name of the database.
    #[schemars(length(min = 1, max = 30), regex(pattern = rule::DNS_LABEL))]
    pub database_name: String,
    /// Name of the table group.
    #[schemars(length(min = 1, max = 25), regex(pattern = rule::DNS_LABEL))]
    pub table_group_name: String,
    /// Key range of the shard.
    #[schemars(length(min = 1, max = 25), regex(pattern = rule::DNS_LABEL))]
    pub shard_name: String,
    /// Images of the shard.
    pub images: ShardImages,
    /// How to reach the topology of the cluster.
    pub global_topo_server: GlobalTopoServerRef,
    /// The orchestrators of the shard.
    pub multiorch: MultiorchSpec,
    /// Pools of PostgreSQL pods by name.
    #[schemars(extend("maxProperties" = 8, "x-kubernetes-validations" = [rule::POOL_NAME]))]
    pub pools: BTreeMap<String, PoolSpec>,
    /// Further arguments of `initdb`, effective when a data directory is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub initdb_args: Option<String>,
    /// ConfigMap with PostgreSQL settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_config_ref: Option<PostgresConfigRef>,
    /// PostgreSQL settings by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "embedded::postgres_config")]
    pub postgres_config: BTreeMap<String, String>,
    /// What becomes of the shard's volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_deletion_policy: Option<PvcDeletionPolicy>,
    /// Mutual TLS between the components.
    #[serde(default, rename = "internalTLS", skip_serializing_if = "Option::is_none")]
    pub internal_tls: Option<InternalTlsConfig>,
    /// Telemetry of the data plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observability: Option<ObservabilityConfig>,
    /// Log levels of the components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_levels: Option<ComponentLogLevels>,
    /// Marking topology records that nothing stands behind as shut down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_pruning: Option<TopologyPruningConfig>,
    /// Backups of the shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupConfig>,
    /// Which standbys must confirm a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurabilityPolicy")]
    pub durability_policy: Option<DurabilityPolicy>,
    /// Name of the superuser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub postgres_superuser: Option<String>,
    /// Secret with the password of the superuser.
    pub postgres_password_secret_ref: PostgresPasswordSecretRef,
    /// Node labels that the pods of each cell need.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cell_topology_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// Number of pods that all pools together want; shown by the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
}

/// What was observed of a shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Roll-out of PostgreSQL settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_config: Option<PostgresConfigStatus>,
    /// Conditions by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::conditions")]
    pub conditions: Vec<Condition>,
    /// Overall state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Phase")]
    pub phase: Option<Phase>,
    /// Explanation of the phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Cells in which the shard has pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::cell_set")]
    pub cells: Vec<String>,
    /// Whether every orchestrator is ready.
    #[serde(default)]
    pub orch_ready: bool,
    /// Whether every pool pod is ready.
    #[serde(default)]
    pub pools_ready: bool,
    /// End of the newest complete backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub last_backup_time: Option<Time>,
    /// Kind of the newest complete backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BackupKind")]
    pub last_backup_type: Option<BackupKind>,
    /// What the repository holds, and what comes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<ShardBackupStatus>,
    /// Role of each pool pod, as the topology tells it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_roles: BTreeMap<String, String>,
    /// Pod of the primary that confirmed its role itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub primary: Option<String>,
    /// Pool pods that differ from what would be built today, each with the first field that differs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drift: BTreeMap<String, String>,
    /// Number of ready pool pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
}
