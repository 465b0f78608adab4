//! Cell: a failure domain of a cluster, written by the operator.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use validator::Validate;

use super::common::PodPlacementSpec;
use super::gateway::MultigatewaySpec;
use super::image::CellImages;
use super::observability::{ComponentLogLevels, ObservabilityConfig};
use super::postgres::InternalTlsConfig;
use super::status::Phase;
use super::topology::{GlobalTopoServerRef, LocalTopoServerSpec};
use super::{embedded, rule};

/// A failure domain of a cluster; written by the operator, read-only for users.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[kube(
    group = "multigres.com",
    version = "v1alpha1",
    kind = "Cell",
    plural = "cells",
    shortname = "cel",
    category = "multigres",
    namespaced,
    status = "CellStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "A failure domain of a cluster; written by the operator, read-only for users.",
    printcolumn(name = "Gateway", type_ = "integer", json_path = ".status.gatewayReadyReplicas"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Available')].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Zone", type_ = "string", priority = 1, json_path = ".spec.zone"),
    printcolumn(name = "Zone-Id", type_ = "string", priority = 1, json_path = ".spec.zoneId"),
    printcolumn(name = "Region", type_ = "string", priority = 1, json_path = ".spec.region")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule::CELL_LOCATION]))]
pub struct CellSpec {
    /// Name of the cell.
    #[schemars(length(min = 1, max = 30), regex(pattern = rule::DNS_LABEL))]
    pub name: String,
    /// Value of the node label `topology.kubernetes.io/zone` that the cell's pods need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub zone: Option<String>,
    /// Value of the zone id label of nodes that the cell's pods need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub zone_id: Option<String>,
    /// Value of the node label `topology.kubernetes.io/region` that the cell's pods need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// Images of the cell.
    pub images: CellImages,
    /// The gateways of the cell.
    #[validate(nested)]
    pub multigateway: MultigatewaySpec,
    /// Where gateways may be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub multigateway_placement: Option<PodPlacementSpec>,
    /// How to reach the topology of the cluster.
    pub global_topo_server: GlobalTopoServerRef,
    /// The cell's own topology.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topo_server: Option<LocalTopoServerSpec>,
    /// Names of all cells of the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::cell_set")]
    pub all_cells: Vec<String>,
    /// What the operator maintains in the topology for this cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_reconciliation: Option<TopologyReconciliation>,
    /// Telemetry of the data plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observability: Option<ObservabilityConfig>,
    /// Log levels of the components.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_levels: Option<ComponentLogLevels>,
    /// Mutual TLS between the components.
    #[serde(default, rename = "internalTLS", skip_serializing_if = "Option::is_none")]
    pub internal_tls: Option<InternalTlsConfig>,
    /// Common name of the certificate that the gateway shows to clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub cert_common_name: Option<String>,
}

/// What the operator maintains in the topology for a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopologyReconciliation {
    /// Whether the cell's record is kept.
    pub register_cell: bool,
    /// Whether records of poolers without a pod are removed.
    pub prune_poolers: bool,
}

/// What was observed of a cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CellStatus {
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
    /// Number of gateway pods.
    #[serde(default)]
    pub gateway_replicas: i32,
    /// Number of ready gateway pods.
    #[serde(default)]
    pub gateway_ready_replicas: i32,
    /// Name of the cell's gateway Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub gateway_service_name: Option<String>,
}
