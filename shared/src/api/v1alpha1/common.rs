//! Fragments that several kinds share: stateless components, placement, storage and volume policies.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use validator::Validate;

use super::{embedded, rule};

/// Settings of a component without data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct StatelessSpec {
    /// Number of pods.
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
}

/// Where pods may be scheduled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct PodPlacementSpec {
    /// Tolerations of the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::tolerations")]
    #[validate(length(max = 64))]
    pub tolerations: Vec<Toleration>,
}

/// The volume that a component asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule::STORAGE_CLASS_ALIAS]))]
pub struct StorageSpec {
    /// Size of the volume, as a quantity such as `100Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = rule::STORAGE_SIZE))]
    #[validate(custom(function = "crate::validate::field::size"))]
    pub size: Option<String>,
    /// StorageClass of the volume; absent means the default class of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(min = 1, max = 63))]
    pub class: Option<String>,
    /// Another spelling of `class`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(min = 1, max = 63))]
    pub storage_class_name: Option<String>,
    /// Access modes of the volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::access_modes")]
    #[validate(custom(function = "crate::validate::field::access_modes"))]
    pub access_modes: Vec<String>,
}

impl StorageSpec {
    /// The chosen StorageClass, under whichever spelling it was given.
    pub fn storage_class(&self) -> Option<&str> {
        self.class.as_deref().or(self.storage_class_name.as_deref())
    }
}

/// What becomes of volumes whose owner goes away; each key is inherited on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PvcDeletionPolicy {
    /// What becomes of volumes when the cluster or the component is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PvcRetention")]
    pub when_deleted: Option<PvcRetention>,
    /// What becomes of volumes of pods that are no longer wanted; under Delete those of pools go 30 days later, unless wanted again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PvcRetention")]
    pub when_scaled: Option<PvcRetention>,
}

/// Keep a volume or delete it.
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
pub enum PvcRetention {
    /// The volume stays.
    #[default]
    Retain,
    /// The volume is deleted.
    Delete,
}
