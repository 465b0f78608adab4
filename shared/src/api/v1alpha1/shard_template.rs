//! ShardTemplate: reusable settings of shards.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::PvcDeletionPolicy;
use super::pool::{MultiorchSpec, PoolSpec};
use super::postgres::PostgresConfigRef;
use super::{embedded, rule};

/// Reusable settings of shards.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multigres.com",
    version = "v1alpha1",
    kind = "ShardTemplate",
    plural = "shardtemplates",
    shortname = "sht",
    category = "multigres",
    namespaced,
    derive = "Default",
    derive = "PartialEq",
    doc = "Reusable settings of shards.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ShardTemplateSpec {
    /// The orchestrators of a shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiorch: Option<MultiorchSpec>,
    /// Further arguments of `initdb`, effective when a data directory is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub initdb_args: Option<String>,
    /// ConfigMap with PostgreSQL settings; `postgresConfig` is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_config_ref: Option<PostgresConfigRef>,
    /// PostgreSQL settings by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "embedded::postgres_config")]
    pub postgres_config: BTreeMap<String, String>,
    /// Pools of PostgreSQL pods by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8, "x-kubernetes-validations" = [rule::POOL_NAME]))]
    pub pools: BTreeMap<String, PoolSpec>,
    /// What becomes of the shard's volumes, unless the cluster says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_deletion_policy: Option<PvcDeletionPolicy>,
}
