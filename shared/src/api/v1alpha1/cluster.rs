//! MultigresCluster: the one object that users edit to run a database.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use validator::Validate;

use super::backup::{BackupConfig, DatabaseBootstrap};
use super::common::{PodPlacementSpec, PvcDeletionPolicy, StatelessSpec};
use super::gateway::MultigatewaySpec;
use super::image::{ClusterImages, ImageUpdatePolicy};
use super::observability::{ComponentLogLevels, ObservabilityConfig};
use super::pool::{MultiorchSpec, PoolSpec};
use super::postgres::{DurabilityPolicy, InternalTlsConfig, PostgresConfigRef, PostgresPasswordSecretRef};
use super::status::MultigresClusterStatus;
use super::topology::{GlobalTopoServerSpec, LocalTopoServerSpec};
use super::{embedded, rule};

/// A distributed PostgreSQL cluster across failure domains.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[kube(
    group = "multigres.com",
    version = "v1alpha1",
    kind = "MultigresCluster",
    plural = "multigresclusters",
    shortname = "mgc",
    category = "multigres",
    namespaced,
    status = "MultigresClusterStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "A distributed PostgreSQL cluster across failure domains.",
    validation = Rule::new(rule::CLUSTER_NAME.rule).message(rule::CLUSTER_NAME.message),
    validation = Rule::new(rule::INTERNAL_TLS_FIXED.rule).message(rule::INTERNAL_TLS_FIXED.message),
    printcolumn(name = "Available", type_ = "string", json_path = ".status.conditions[?(@.type=='Available')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Images", type_ = "string", priority = 1, json_path = ".status.images.appliedRevision")
)]
#[serde(rename_all = "camelCase")]
pub struct MultigresClusterSpec {
    /// Container images; absent ones follow the operator's defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ClusterImages>,
    /// When new default images and renderings of the operator are taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_update_policy: Option<ImageUpdatePolicy>,
    /// Log levels of the components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_levels: Option<ComponentLogLevels>,
    /// Templates of components that name none themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_defaults: Option<TemplateDefaults>,
    /// The topology of the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_topo_server: Option<GlobalTopoServerSpec>,
    /// The admin service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiadmin: Option<MultiadminConfig>,
    /// The admin web interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiadmin_web: Option<MultiadminWebConfig>,
    /// The failure domains of the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub cells: Vec<CellConfig>,
    /// The databases of the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub databases: Vec<DatabaseConfig>,
    /// What becomes of volumes, unless a component says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_deletion_policy: Option<PvcDeletionPolicy>,
    /// Telemetry of the data plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub observability: Option<ObservabilityConfig>,
    /// Backups of all shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupConfig>,
    /// Reachability of the gateway from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub external_gateway: Option<ExternalServiceConfig>,
    /// Reachability of the admin web interface from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub external_admin_web: Option<ExternalServiceConfig>,
    /// Marking topology records that nothing stands behind as shut down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_pruning: Option<TopologyPruningConfig>,
    /// Which standbys must confirm a commit; absent means `AT_LEAST_2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurabilityPolicy")]
    pub durability_policy: Option<DurabilityPolicy>,
    /// Name of the superuser, effective when a data directory is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "postgres"))]
    #[validate(length(max = 63))]
    pub postgres_superuser: Option<String>,
    /// Secret with the password of the superuser; absent means that the operator creates one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub postgres_password_secret_ref: Option<PostgresPasswordSecretRef>,
    /// Mutual TLS between the components.
    #[serde(default, rename = "internalTLS", skip_serializing_if = "Option::is_none")]
    pub internal_tls: Option<InternalTlsConfig>,
    /// Common name of the certificate that the gateway shows to clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 253))]
    pub cert_common_name: Option<String>,
}

/// Templates of components that name none themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateDefaults {
    /// CoreTemplate of the global topology, the admin service and its web interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub core_template: Option<String>,
    /// CellTemplate of the cells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub cell_template: Option<String>,
    /// ShardTemplate of the shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub shard_template: Option<String>,
}

/// The admin service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule::ADMIN_SPEC_OR_TEMPLATE]))]
pub struct MultiadminConfig {
    /// Inline settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<StatelessSpec>,
    /// CoreTemplate with the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub template_ref: Option<String>,
    /// Where the pods may be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PodPlacementSpec>,
}

/// The admin web interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule::ADMIN_SPEC_OR_TEMPLATE]))]
pub struct MultiadminWebConfig {
    /// Inline settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<StatelessSpec>,
    /// CoreTemplate with the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub template_ref: Option<String>,
    /// Where the pods may be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PodPlacementSpec>,
}

/// A failure domain of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule::CELL_SPEC_OR_TEMPLATE, rule::CELL_SPEC_OR_OVERRIDES, rule::CELL_LOCATION, rule::CELL_LOCATION_FIXED]))]
pub struct CellConfig {
    /// Name of the cell.
    #[schemars(length(min = 1, max = 30), regex(pattern = rule::DNS_LABEL))]
    pub name: String,
    /// Value of the node label `topology.kubernetes.io/zone` that the cell's pods need; immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(min = 1, max = 63))]
    pub zone: Option<String>,
    /// Value of the zone id label of nodes that the cell's pods need; immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(min = 1, max = 63))]
    pub zone_id: Option<String>,
    /// Value of the node label `topology.kubernetes.io/region` that the cell's pods need; immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// CellTemplate with the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub cell_template: Option<String>,
    // Large parts that most entries do not have: on the heap, lists of many entries are small, and quickly moved while they are read.
    /// Changes to the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Box<CellOverrides>>,
    /// Inline settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Box<CellInlineSpec>>,
}

/// Changes to a CellTemplate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CellOverrides {
    /// The gateways of the cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multigateway: Option<MultigatewaySpec>,
    /// Where gateways may be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multigateway_placement: Option<PodPlacementSpec>,
}

/// Inline settings of a cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CellInlineSpec {
    /// The gateways of the cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multigateway: Option<MultigatewaySpec>,
    /// Where gateways may be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multigateway_placement: Option<PodPlacementSpec>,
    // On the heap as well: most cells have none.
    /// The cell's own topology.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_topo_server: Option<Box<LocalTopoServerSpec>>,
}

/// A database of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule::DATABASE_NAME, rule::DATABASE_DEFAULT, rule::TABLE_GROUPS_ALIAS]))]
pub struct DatabaseConfig {
    /// Name of the database; only `postgres` is supported.
    #[schemars(length(min = 1, max = 30), regex(pattern = rule::DNS_LABEL))]
    pub name: String,
    /// Whether this is the database of the system; absent means true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// The table groups of the database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
        "x-kubernetes-validations" = [rule::TABLE_GROUP_ONE_DEFAULT]))]
    pub tablegroups: Vec<TableGroupConfig>,
    /// Another spelling of `tablegroups`; its entries are checked by admission.
    #[serde(default, rename = "tableGroups", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::opaque_table_groups")]
    pub table_groups: Vec<Value>,
    /// Backups of the database's shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupConfig>,
    /// How the database begins; absent means empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<DatabaseBootstrap>,
    /// Which standbys must confirm a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurabilityPolicy")]
    pub durability_policy: Option<DurabilityPolicy>,
}

/// A table group: tables that are sharded together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule::TABLE_GROUP_DEFAULT_NAME]))]
pub struct TableGroupConfig {
    /// Name of the table group.
    #[schemars(length(min = 1, max = 25), regex(pattern = rule::DNS_LABEL))]
    pub name: String,
    /// Whether this is the default table group, which is called `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// The shards of the table group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub shards: Vec<ShardConfig>,
    // On the heap, because it is large and most table groups have none.
    /// Backups of the table group's shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Box<BackupConfig>>,
    /// What becomes of the table group's volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_deletion_policy: Option<PvcDeletionPolicy>,
}

/// A shard of a table group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule::SHARD_SPEC_OR_TEMPLATE, rule::SHARD_SPEC_OR_OVERRIDES, rule::SHARD_NAME]))]
pub struct ShardConfig {
    /// Key range of the shard; only `0-inf` is supported.
    #[schemars(length(min = 1, max = 25), regex(pattern = rule::DNS_LABEL))]
    pub name: String,
    /// ShardTemplate with the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub shard_template: Option<String>,
    // Large parts that most entries do not have: on the heap, lists of many entries are small, and quickly moved while they are read.
    /// Changes to the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Box<ShardOverrides>>,
    /// Inline settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Box<ShardInlineSpec>>,
    /// Backups of the shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Box<BackupConfig>>,
}

/// Changes to a ShardTemplate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardOverrides {
    /// The orchestrators of the shard.
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
    /// Which standbys must confirm a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurabilityPolicy")]
    pub durability_policy: Option<DurabilityPolicy>,
}

/// Inline settings of a shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardInlineSpec {
    /// The orchestrators of the shard.
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
    /// What becomes of the shard's volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_deletion_policy: Option<PvcDeletionPolicy>,
    /// Which standbys must confirm a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurabilityPolicy")]
    pub durability_policy: Option<DurabilityPolicy>,
}

/// Kind of a Service that is reachable from outside.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::AsRefStr, strum::Display,
)]
pub enum ExternalServiceType {
    /// An address inside of the cluster, and the external addresses that are given.
    #[default]
    #[serde(rename = "ClusterIP")]
    #[strum(serialize = "ClusterIP")]
    ClusterIp,
    /// An address from the cloud, or from whoever plays it.
    LoadBalancer,
}

/// Reachability of a Service from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct ExternalServiceConfig {
    /// Whether the Service is reachable from outside.
    pub enabled: bool,
    /// How it is: ClusterIP with externalIPs when absent, or a LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ExternalServiceType")]
    pub r#type: Option<ExternalServiceType>,
    /// Addresses that lead to the nodes of the cluster.
    #[serde(default, rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::external_ips")]
    #[validate(length(max = 10))]
    pub external_ips: Vec<String>,
    /// Annotations of the Service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "embedded::service_annotations")]
    #[validate(custom(function = "crate::validate::field::service_annotations"))]
    pub annotations: BTreeMap<String, String>,
}

/// Marking topology records that nothing stands behind as shut down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopologyPruningConfig {
    /// Whether such records are marked; absent means true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}
