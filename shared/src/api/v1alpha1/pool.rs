//! Pools of PostgreSQL pods and the orchestrator that watches them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use validator::Validate;

use super::common::{PodPlacementSpec, PvcDeletionPolicy, StatelessSpec, StorageSpec};
use super::embedded;

/// Settings of one container of a pool pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct ContainerConfig {
    /// Compute resources of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::resources")]
    pub resources: Option<ResourceRequirements>,
    /// User id that the container runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(range(min = 1, message = "must be at least 1; the data plane refuses to run as root"))]
    pub run_as_user: Option<i64>,
    /// Group id that the container runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(range(min = 0))]
    pub run_as_group: Option<i64>,
}

/// A set of equal PostgreSQL pods in one or more cells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct PoolSpec {
    /// What the pool is used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PoolType")]
    pub r#type: Option<PoolType>,
    /// Cells that host the pool; absent means every cell, also future ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::pool_cells")]
    pub cells: Vec<String>,
    /// Number of pods in each of its cells; absent means two in a single cell, else one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(range(min = 1, max = 32))]
    pub replicas_per_cell: Option<i32>,
    /// Data volume of each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub storage: Option<StorageSpec>,
    /// The PostgreSQL container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub postgres: Option<ContainerConfig>,
    /// The pooler container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub multipooler: Option<ContainerConfig>,
    // On the heap, because it is large and most have none.
    /// Affinity of the pods, in addition to the location of the cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::affinity")]
    pub affinity: Option<Box<Affinity>>,
    /// Tolerations of the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::tolerations")]
    #[validate(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Group that owns the volumes of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(range(min = 1))]
    pub fs_group: Option<i64>,
    /// What becomes of the pool's data volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_deletion_policy: Option<PvcDeletionPolicy>,
}

/// What a pool is used for.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::AsRefStr,
    strum::Display,
)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "camelCase")]
pub enum PoolType {
    /// Its pods can become primary.
    #[default]
    ReadWrite,
}

/// Settings of the orchestrators of a shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct MultiorchSpec {
    /// Number of pods in each of its cells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(range(min = 0, max = 128))]
    pub replicas: Option<i32>,
    /// Compute resources of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::resources")]
    pub resources: Option<ResourceRequirements>,
    // On the heap, because it is large and most have none.
    /// Affinity of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::affinity")]
    pub affinity: Option<Box<Affinity>>,
    /// Annotations added to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "embedded::pod_annotations")]
    #[validate(custom(function = "crate::validate::field::annotations"))]
    pub pod_annotations: BTreeMap<String, String>,
    /// Labels added to the pods; the operator's own labels win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "embedded::pod_labels")]
    #[validate(custom(function = "crate::validate::field::labels"))]
    pub pod_labels: BTreeMap<String, String>,
    /// Where the pods may be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub placement: Option<PodPlacementSpec>,
    /// Cells that run orchestrators; absent means every cell, also future ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::cell_set")]
    pub cells: Vec<String>,
}

impl MultiorchSpec {
    /// The settings that every stateless component has.
    pub fn stateless(&self) -> StatelessSpec {
        StatelessSpec {
            replicas: self.replicas,
            resources: self.resources.clone(),
            affinity: self.affinity.clone(),
            pod_annotations: self.pod_annotations.clone(),
            pod_labels: self.pod_labels.clone(),
        }
    }
}
