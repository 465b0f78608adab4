//! Telemetry and logging of the data plane.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use validator::Validate;

/// OpenTelemetry settings of the data plane; absent keys fall back to the operator's own environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct ObservabilityConfig {
    /// OTLP endpoint; the word `disabled` switches telemetry off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 2048))]
    pub otlp_endpoint: Option<String>,
    /// OTLP endpoint of metrics, when it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 2048))]
    pub otlp_metrics_endpoint: Option<String>,
    /// OTLP transport.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OtlpProtocol")]
    pub otlp_protocol: Option<OtlpProtocol>,
    /// Exporter of traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TelemetryExporter")]
    pub traces_exporter: Option<TelemetryExporter>,
    /// Exporter of metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TelemetryExporter")]
    pub metrics_exporter: Option<TelemetryExporter>,
    /// Exporter of logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TelemetryExporter")]
    pub logs_exporter: Option<TelemetryExporter>,
    /// Milliseconds between two exports of metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 63))]
    pub metric_export_interval: Option<String>,
    /// Temporality of exported metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "MetricsTemporality")]
    pub metrics_temporality: Option<MetricsTemporality>,
    /// Aggregation of exported histograms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HistogramAggregation")]
    pub histogram_aggregation: Option<HistogramAggregation>,
    /// Name of the trace sampler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub traces_sampler: Option<String>,
    /// ConfigMap with the configuration of the sampler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_config_ref: Option<SamplingConfigRef>,
}

/// A ConfigMap with the configuration of the trace sampler.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SamplingConfigRef {
    /// Name of the ConfigMap.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Key inside the ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), extend("default" = SamplingConfigRef::DEFAULT_KEY))]
    pub key: Option<String>,
}

impl SamplingConfigRef {
    /// The key that is read when none is given.
    pub const DEFAULT_KEY: &str = "sampling-config.yaml";
}

/// OTLP transport.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr, strum::Display,
)]
pub enum OtlpProtocol {
    /// Protobuf over HTTP.
    #[serde(rename = "http/protobuf")]
    #[strum(serialize = "http/protobuf")]
    HttpProtobuf,
    /// gRPC.
    #[serde(rename = "grpc")]
    #[strum(serialize = "grpc")]
    Grpc,
}

/// Exporter of a signal.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr, strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum TelemetryExporter {
    /// To an OTLP endpoint.
    Otlp,
    /// Nowhere.
    None,
    /// To standard output.
    Console,
}

/// Temporality of exported metrics.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr, strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum MetricsTemporality {
    /// Sums since the start.
    Cumulative,
    /// Sums since the last export.
    Delta,
}

/// Aggregation of exported histograms.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr, strum::Display,
)]
pub enum HistogramAggregation {
    /// Exponential buckets.
    #[serde(rename = "base2_exponential_bucket_histogram")]
    #[strum(serialize = "base2_exponential_bucket_histogram")]
    Exponential,
    /// Fixed buckets.
    #[serde(rename = "explicit_bucket_histogram")]
    #[strum(serialize = "explicit_bucket_histogram")]
    Explicit,
}

/// Log level of each component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentLogLevels {
    /// Level of pgctld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LogLevel")]
    pub pgctld: Option<LogLevel>,
    /// Level of the pooler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LogLevel")]
    pub multipooler: Option<LogLevel>,
    /// Level of the orchestrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LogLevel")]
    pub multiorch: Option<LogLevel>,
    /// Level of the admin service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LogLevel")]
    pub multiadmin: Option<LogLevel>,
    /// Level of the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LogLevel")]
    pub multigateway: Option<LogLevel>,
}

/// A log level.
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
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What operators want to know.
    #[default]
    Info,
    /// What may need attention.
    Warn,
    /// What failed.
    Error,
}
