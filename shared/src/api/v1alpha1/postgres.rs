//! PostgreSQL fragments: the password, legacy settings, durability and internal TLS.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use validator::Validate;

use super::rule;

/// The Secret that holds the password of the superuser.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct PostgresPasswordSecretRef {
    /// Name of the Secret.
    #[schemars(regex(pattern = rule::DNS_SUBDOMAIN))]
    #[validate(length(min = 1, max = 253), custom(function = "crate::validate::field::subdomain"))]
    pub name: String,
    /// Key inside the Secret.
    #[schemars(regex(pattern = rule::DATA_KEY))]
    #[validate(length(min = 1, max = 253), custom(function = "crate::validate::field::data_key"))]
    pub key: String,
}

/// A ConfigMap with PostgreSQL settings; `postgresConfig` is preferred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct PostgresConfigRef {
    /// Name of the ConfigMap.
    #[validate(length(min = 1, max = 253))]
    pub name: String,
    /// Key inside the ConfigMap.
    #[validate(length(min = 1, max = 253))]
    pub key: String,
}

/// Which standbys must confirm a commit.
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
pub enum DurabilityPolicy {
    /// The primary and one standby anywhere.
    #[default]
    #[serde(rename = "AT_LEAST_2")]
    #[strum(serialize = "AT_LEAST_2")]
    AtLeast2,
    /// The primary and one standby of another cell.
    #[serde(rename = "MULTI_CELL_AT_LEAST_2")]
    #[strum(serialize = "MULTI_CELL_AT_LEAST_2")]
    MultiCellAtLeast2,
    /// A value that this version does not know; the schema refuses it, but objects of other versions may carry it.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Mutual TLS between the components.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InternalTlsConfig {
    /// Whether the components speak TLS among themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

impl InternalTlsConfig {
    /// Whether a spec that may say nothing asks for it.
    pub fn is_on(config: Option<Self>) -> bool {
        config.and_then(|config| config.enabled) == Some(true)
    }
}
