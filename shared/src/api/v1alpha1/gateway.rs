//! The gateway that speaks the PostgreSQL protocol.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use validator::Validate;

use super::common::StatelessSpec;
use super::{embedded, rule};

/// Settings of the gateways of a cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct MultigatewaySpec {
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
    // On the heap, because it is large and most have none.
    /// Holding of requests while a shard has no primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub buffer: Option<Box<BufferConfig>>,
}

impl MultigatewaySpec {
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

/// Holding of requests during a failover; absent keys keep the gateway's own defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct BufferConfig {
    /// Whether requests are held at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Longest time a single request is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = rule::GO_DURATION))]
    #[validate(custom(function = "crate::validate::field::duration"))]
    pub window: Option<String>,
    /// Longest failover during which requests are held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = rule::GO_DURATION))]
    #[validate(custom(function = "crate::validate::field::duration"))]
    pub max_failover_duration: Option<String>,
    /// Time after a failover in which another one is not buffered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = rule::GO_DURATION))]
    #[validate(custom(function = "crate::validate::field::duration"))]
    pub min_time_between_failovers: Option<String>,
    /// Number of requests that may be held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(range(min = 1))]
    pub size: Option<i32>,
    /// Number of held requests that are sent at once when the failover is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(range(min = 1))]
    pub drain_concurrency: Option<i32>,
}
