//! Topology servers: etcd clusters of ours and of others.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use validator::Validate;

use k8s_openapi::api::core::v1::ResourceRequirements;

use super::common::{PodPlacementSpec, PvcDeletionPolicy, StorageSpec};
use super::{embedded, rule};

/// An etcd cluster that the operator runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct EtcdSpec {
    /// Image of etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Number of members, an odd number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("x-kubernetes-validations" = [rule::ETCD_REPLICAS]))]
    #[validate(custom(function = "crate::validate::field::members"))]
    pub replicas: Option<i32>,
    /// Data volume of each member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub storage: Option<StorageSpec>,
    /// Compute resources of each member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::resources")]
    pub resources: Option<ResourceRequirements>,
    /// Prefix of all keys that clients write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(min = 1, max = 512))]
    pub root_path: Option<String>,
    /// What becomes of the data volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_deletion_policy: Option<PvcDeletionPolicy>,
}

/// An etcd cluster that somebody else runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct ExternalTopoServerSpec {
    /// Client URLs.
    #[schemars(schema_with = "embedded::etcd_endpoints")]
    #[validate(custom(function = "crate::validate::field::endpoints"))]
    pub endpoints: Vec<String>,
    /// Driver that talks to the servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 63))]
    pub implementation: Option<String>,
    /// Secret with the authority that signed the servers' certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 253))]
    pub ca_secret: Option<String>,
    /// Secret with the certificate that clients present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 253))]
    pub client_cert_secret: Option<String>,
    /// Prefix of all keys that clients write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(min = 1, max = 512))]
    pub root_path: Option<String>,
}

/// The topology of a whole cluster; no backend means an etcd cluster with default settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule::GLOBAL_TOPOLOGY]))]
pub struct GlobalTopoServerSpec {
    /// An etcd cluster that the operator runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdSpec>,
    /// An etcd cluster that somebody else runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalTopoServerSpec>,
    /// CoreTemplate that describes the servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub template_ref: Option<String>,
    /// What becomes of the data volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc_deletion_policy: Option<PvcDeletionPolicy>,
    /// Where the pods may be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PodPlacementSpec>,
}

/// The topology of a single cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule::LOCAL_TOPOLOGY]))]
pub struct LocalTopoServerSpec {
    /// An etcd cluster that the operator runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub etcd: Option<EtcdSpec>,
    /// An etcd cluster that somebody else runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub external: Option<ExternalTopoServerSpec>,
}

/// How a child reaches the topology of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GlobalTopoServerRef {
    /// Client addresses, separated by commas.
    #[schemars(length(min = 1, max = 10_259))]
    pub address: String,
    /// Prefix of all keys.
    #[schemars(length(min = 1, max = 512))]
    pub root_path: String,
    /// Driver that talks to the servers.
    #[schemars(length(min = 1, max = 63))]
    pub implementation: String,
    /// Secret with the authority that signed the servers' certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub ca_secret: Option<String>,
    /// Secret with the certificate that clients present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub client_cert_secret: Option<String>,
}
