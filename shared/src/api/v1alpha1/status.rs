//! Phases and the status of a cluster.
//!
//! Counters and flags are always written, even when zero, and read as zero when absent: no status field is required,
//! so a writer that owns a part of a status can apply that part alone.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::embedded;
use super::image::{ComponentImages, ImageSource, ImageUpdateStrategy};

/// Overall state of an object.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr, strum::Display,
)]
pub enum Phase {
    /// Nothing runs yet.
    Initializing,
    /// On the way to what the spec says.
    Progressing,
    /// As the spec says.
    Healthy,
    /// Not working as it should.
    Degraded,
    /// Not known, also when another version wrote a phase that this one does not know.
    #[serde(other)]
    Unknown,
}

/// What was observed of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MultigresClusterStatus {
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
    /// State of each cell.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 50))]
    pub cells: BTreeMap<String, ClusterCellStatus>,
    /// Reachability of the gateway, when it is exposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<ExternalEndpointStatus>,
    /// Reachability of the admin web interface, when it is exposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_web: Option<ExternalEndpointStatus>,
    /// State of each database.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 50))]
    pub databases: BTreeMap<String, ClusterDatabaseStatus>,
    /// Where the backups of each database with a bucket lie; the data plane adds `/multigres`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 50))]
    pub backup_repositories: BTreeMap<String, String>,
    /// Templates that the last pass used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_templates: Option<ResolvedTemplates>,
    /// Images in use and on offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ClusterImagesStatus>,
}

/// State of a cell, as its cluster shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCellStatus {
    /// Whether the cell serves.
    #[serde(default)]
    pub ready: bool,
    /// Number of gateway pods.
    #[serde(default)]
    pub gateway_replicas: i32,
}

/// State of a database, as its cluster shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDatabaseStatus {
    /// Number of ready shards.
    #[serde(default)]
    pub ready_shards: i32,
    /// Number of shards.
    #[serde(default)]
    pub total_shards: i32,
}

/// Reachability of an exposed Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalEndpointStatus {
    /// Address or host name under which it is reachable; empty while there is none.
    #[serde(default)]
    pub external_endpoint: String,
}

/// Names of the templates that a pass used, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedTemplates {
    /// CoreTemplates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::template_names")]
    pub core_templates: Vec<String>,
    /// CellTemplates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::template_names")]
    pub cell_templates: Vec<String>,
    /// ShardTemplates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::template_names")]
    pub shard_templates: Vec<String>,
}

/// Images in use and on offer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterImagesStatus {
    /// Strategy in force; absent when every image is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ImageUpdateStrategy")]
    pub update_strategy: Option<ImageUpdateStrategy>,
    /// Images that the children get.
    #[serde(default)]
    pub effective: ComponentImages,
    /// Where the images come from.
    #[serde(default)]
    pub source: ImageSource,
    /// Default images that the cluster took over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<ComponentImages>,
    /// Revision of the default images that the cluster took over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_revision: Option<String>,
    /// Default images that the operator brings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<ComponentImages>,
    /// Revision of the default images that the operator brings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_revision: Option<String>,
}

/// Roll-out of PostgreSQL settings; settled when it neither is in progress nor failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresConfigStatus {
    /// Whether settings are being rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_progress: Option<bool>,
    /// When settings were last rolled out completely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub last_applied_at: Option<Time>,
    /// Why the roll-out failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Kind of a backup.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr, strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum BackupKind {
    /// Everything.
    Full,
    /// What changed since the last full backup.
    Diff,
    /// What changed since the last backup.
    Incr,
    /// A kind that this version does not know; the schema refuses it, but objects of other versions may carry it.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
