//! CoreTemplate: reusable settings of the cluster-wide components.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{PodPlacementSpec, StatelessSpec};
use super::topo_server::TopoServerSpec;

/// Reusable settings of the global topology, the admin service and its web interface.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multigres.com",
    version = "v1alpha1",
    kind = "CoreTemplate",
    plural = "coretemplates",
    shortname = "cot",
    category = "multigres",
    namespaced,
    derive = "Default",
    derive = "PartialEq",
    doc = "Reusable settings of the global topology, the admin service and its web interface.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CoreTemplateSpec {
    /// The topology of the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_topo_server: Option<TopoServerSpec>,
    /// The admin service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiadmin: Option<StatelessSpec>,
    /// Where the admin service may be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiadmin_placement: Option<PodPlacementSpec>,
    /// The admin web interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiadmin_web: Option<StatelessSpec>,
    /// Where the admin web interface may be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiadmin_web_placement: Option<PodPlacementSpec>,
}
