//! TableGroup: tables that are sharded together, written by the operator.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use validator::Validate;

use super::backup::BackupConfig;
use super::cluster::TopologyPruningConfig;
use super::common::PvcDeletionPolicy;
use super::image::ShardImages;
use super::observability::{ComponentLogLevels, ObservabilityConfig};
use super::pool::{MultiorchSpec, PoolSpec};
use super::postgres::{DurabilityPolicy, InternalTlsConfig, PostgresConfigRef, PostgresPasswordSecretRef};
use super::status::Phase;
use super::topology::GlobalTopoServerRef;
use super::{embedded, rule};

/// Tables that are sharded together; written by the operator, read-only for users.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multigres.com",
    version = "v1alpha1",
    kind = "TableGroup",
    plural = "tablegroups",
    shortname = "tbg",
    category = "multigres",
    namespaced,
    status = "TableGroupStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Tables that are sharded together; written by the operator, read-only for users.",
    printcolumn(name = "Shards", type_ = "integer", json_path = ".status.readyShards"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Total", type_ = "integer", priority = 1, json_path = ".status.totalShards")
)]
#[serde(rename_all = "camelCase")]
pub struct TableGroupSpec {
    /// Name of the database.
    #[schemars(length(min = 1, max = 30), regex(pattern = rule::DNS_LABEL))]
    pub database_name: String,
    /// Name of the table group.
    #[schemars(length(min = 1, max = 25), regex(pattern = rule::DNS_LABEL))]
    pub table_group_name: String,
    /// Whether this is the default table group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// Images of the shards.
    pub images: ShardImages,
    /// How to reach the topology of the cluster.
    pub global_topo_server: GlobalTopoServerRef,
    /// The shards with all settings resolved.
    #[schemars(length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub shards: Vec<ShardResolvedSpec>,
    /// What becomes of the table group's volumes.
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
    /// Backups of the table group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupConfig>,
    /// Node labels that the pods of each cell need.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cell_topology_labels: BTreeMap<String, BTreeMap<String, String>>,
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
}

/// A shard with all settings resolved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct ShardResolvedSpec {
    /// Key range of the shard.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The orchestrators of the shard.
    #[validate(nested)]
    pub multiorch: MultiorchSpec,
    /// Pools of PostgreSQL pods by name.
    #[schemars(extend("maxProperties" = 8, "x-kubernetes-validations" = [rule::POOL_NAME]))]
    pub pools: BTreeMap<String, PoolSpec>,
    /// Further arguments of `initdb`, effective when a data directory is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 512))]
    pub initdb_args: Option<String>,
    /// ConfigMap with PostgreSQL settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub postgres_config_ref: Option<PostgresConfigRef>,
    /// PostgreSQL settings by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "embedded::postgres_config")]
    pub postgres_config: BTreeMap<String, String>,
    /// What becomes of the shard's volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_deletion_policy: Option<PvcDeletionPolicy>,
    /// Backups of the shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub backup: Option<BackupConfig>,
    /// Which standbys must confirm a commit, when the shard differs from its table group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurabilityPolicy")]
    pub durability_policy: Option<DurabilityPolicy>,
}

/// What was observed of a table group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TableGroupStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
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
    /// Number of ready shards.
    #[serde(default)]
    pub ready_shards: i32,
    /// Number of shards.
    #[serde(default)]
    pub total_shards: i32,
}
