//! Container images.

use k8s_openapi::api::core::v1::LocalObjectReference;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{embedded, rule};

/// Images of a cluster; absent ones follow the operator's defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterImages {
    /// When nodes pull images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PullPolicy")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Secrets with which nodes pull images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::pull_secrets")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Image of the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub multigateway: Option<String>,
    /// Image of the orchestrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub multiorch: Option<String>,
    /// Image of the pooler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub multipooler: Option<String>,
    /// Image of the admin service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub multiadmin: Option<String>,
    /// Image of the admin web interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub multiadmin_web: Option<String>,
    /// Image with PostgreSQL, pgctld and pgBackRest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub postgres: Option<String>,
}

impl ClusterImages {
    /// The images that the user pinned.
    pub fn components(&self) -> ComponentImages {
        ComponentImages {
            multigateway: self.multigateway.clone(),
            multiorch: self.multiorch.clone(),
            multipooler: self.multipooler.clone(),
            multiadmin: self.multiadmin.clone(),
            multiadmin_web: self.multiadmin_web.clone(),
            postgres: self.postgres.clone(),
        }
    }
}

/// One image per component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentImages {
    /// Image of the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub multigateway: Option<String>,
    /// Image of the orchestrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub multiorch: Option<String>,
    /// Image of the pooler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub multipooler: Option<String>,
    /// Image of the admin service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub multiadmin: Option<String>,
    /// Image of the admin web interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub multiadmin_web: Option<String>,
    /// Image with PostgreSQL, pgctld and pgBackRest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub postgres: Option<String>,
}

/// Images of a cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CellImages {
    /// When nodes pull images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PullPolicy")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Secrets with which nodes pull images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::pull_secrets")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Image of the gateway.
    #[schemars(length(min = 1, max = 512))]
    pub multigateway: String,
}

/// Images of a shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardImages {
    /// When nodes pull images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PullPolicy")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Secrets with which nodes pull images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::pull_secrets")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Image of the orchestrator.
    #[schemars(length(min = 1, max = 512))]
    pub multiorch: String,
    /// Image of the pooler.
    #[schemars(length(min = 1, max = 512))]
    pub multipooler: String,
    /// Image with PostgreSQL, pgctld and pgBackRest.
    #[schemars(length(min = 1, max = 512))]
    pub postgres: String,
}

/// When nodes pull images.
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
pub enum PullPolicy {
    /// At every start of a container.
    Always,
    /// Not at all.
    Never,
    /// When the node does not have the image.
    #[default]
    IfNotPresent,
}

/// When a cluster takes over new default images of the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageUpdatePolicy {
    /// At once, on acknowledgement or not at all; absent means the operator's setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ImageUpdateStrategy")]
    pub strategy: Option<ImageUpdateStrategy>,
    /// Revision of the default images that may be rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = rule::IMAGE_REVISION))]
    pub acknowledged_revision: Option<String>,
}

/// When new default images are taken over.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr, strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum ImageUpdateStrategy {
    /// As soon as the operator brings them.
    Immediate,
    /// When the user acknowledges their revision.
    Lazy,
    /// Not at all, and changes of the spec that would restart pods wait, too.
    Paused,
}

/// Where the images of a cluster come from.
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
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum ImageSource {
    /// All are pinned in the spec.
    Explicit,
    /// All follow the operator's defaults.
    #[default]
    Defaults,
    /// Some are pinned.
    Mixed,
}
