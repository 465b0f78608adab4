//! TopoServer: an etcd cluster of ours, written by the operator.

use k8s_openapi::{api::core::v1::LocalObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{PodPlacementSpec, PvcDeletionPolicy};
use super::embedded;
use super::image::PullPolicy;
use super::status::Phase;
use super::topology::EtcdSpec;

/// An etcd cluster with the topology; written by the operator, read-only for users.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "multigres.com",
    version = "v1alpha1",
    kind = "TopoServer",
    plural = "toposervers",
    shortname = "tps",
    category = "multigres",
    namespaced,
    status = "TopoServerStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "An etcd cluster with the topology; written by the operator, read-only for users.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Available')].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TopoServerSpec {
    /// The etcd cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdSpec>,
    /// What becomes of the data volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_deletion_policy: Option<PvcDeletionPolicy>,
    /// Where the pods may be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PodPlacementSpec>,
    /// When nodes pull images; absent means as the cluster says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PullPolicy")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Secrets with which nodes pull images; absent means those of the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::pull_secrets")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
}

/// What was observed of an etcd cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopoServerStatus {
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
    /// Service that clients use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_service: Option<String>,
    /// Headless Service of the members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_service: Option<String>,
}
