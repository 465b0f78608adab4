//! CellTemplate: reusable settings of cells.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::PodPlacementSpec;
use super::gateway::MultigatewaySpec;
use super::topology::LocalTopoServerSpec;

/// Reusable settings of cells.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multigres.com",
    version = "v1alpha1",
    kind = "CellTemplate",
    plural = "celltemplates",
    shortname = "cet",
    category = "multigres",
    namespaced,
    derive = "Default",
    derive = "PartialEq",
    doc = "Reusable settings of cells.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CellTemplateSpec {
    /// The gateways of a cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multigateway: Option<MultigatewaySpec>,
    /// Where gateways may be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multigateway_placement: Option<PodPlacementSpec>,
    /// The cell's own topology.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_topo_server: Option<LocalTopoServerSpec>,
}
