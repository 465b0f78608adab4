//! OpenTelemetry variables of data-plane processes, and the volume with a sampler's configuration.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, EnvVar, Volume, VolumeMount};
use shared::api::v1alpha1::{ObservabilityConfig, SamplingConfigRef};

use super::environment::plain;

/// Value of the endpoint that switches telemetry off.
const DISABLED: &str = "disabled";
/// Volume and mount of the sampler's configuration.
const SAMPLING_VOLUME: &str = "otel-sampling-config";
const SAMPLING_DIR: &str = "/etc/otel";
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
/// The attributes that the operator generates.
const GENERATED: [&str; 3] = ["multigres.project", "multigres.cluster", "multigres.component"];

/// The `OTEL_*` variables of the operator's own process, which fill what a cluster leaves open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited(BTreeMap<String, String>);

impl Inherited {
    /// Takes the variables of the running process.
    pub fn of_process() -> Self {
        Self::of(
            std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// Keeps the telemetry variables among `variables`.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(variables.into_iter().filter(|(key, value)| key.starts_with("OTEL_") && !value.is_empty()).collect())
    }

    fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }
}

/// Which process a resource attribute names.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Identity of the project, or the cluster's name.
    pub project: &'a str,
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Component, as in its label.
    pub component: &'a str,
}

/// The variables, in the order in which they are written; none at all while no endpoint is known.
pub fn variables(
    config: Option<&ObservabilityConfig>,
    inherited: &Inherited,
    attributes: Option<Attributes<'_>>,
) -> Vec<EnvVar> {
    let pick = |field: fn(&ObservabilityConfig) -> Option<String>, key: &str| {
        let own = config.and_then(field).filter(|value| !value.is_empty());
        own.unwrap_or_else(|| inherited.get(key).to_owned())
    };
    let endpoint = pick(|c| c.otlp_endpoint.clone(), "OTEL_EXPORTER_OTLP_ENDPOINT");
    let metrics = pick(|c| c.otlp_metrics_endpoint.clone(), "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT");
    if endpoint == DISABLED || (endpoint.is_empty() && metrics.is_empty()) {
        return Vec::new();
    }
    let mut all = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", metrics),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", pick(|c| text(c.otlp_protocol.as_ref()), "OTEL_EXPORTER_OTLP_PROTOCOL")),
        ("OTEL_TRACES_EXPORTER", pick(|c| text(c.traces_exporter.as_ref()), "OTEL_TRACES_EXPORTER")),
        ("OTEL_METRICS_EXPORTER", pick(|c| text(c.metrics_exporter.as_ref()), "OTEL_METRICS_EXPORTER")),
        ("OTEL_LOGS_EXPORTER", pick(|c| text(c.logs_exporter.as_ref()), "OTEL_LOGS_EXPORTER")),
        ("OTEL_METRIC_EXPORT_INTERVAL", pick(|c| c.metric_export_interval.clone(), "OTEL_METRIC_EXPORT_INTERVAL")),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            pick(|c| text(c.metrics_temporality.as_ref()), "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"),
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            pick(
                |c| text(c.histogram_aggregation.as_ref()),
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            ),
        ),
        ("OTEL_TRACES_SAMPLER", pick(|c| c.traces_sampler.clone(), "OTEL_TRACES_SAMPLER")),
    ];
    // The argument belongs to the sampler that it was given for.
    if config.and_then(|config| config.traces_sampler.as_deref()).is_none_or(str::is_empty) {
        all.push(("OTEL_TRACES_SAMPLER_ARG", inherited.get("OTEL_TRACES_SAMPLER_ARG").to_owned()));
    }
    if let Some(attributes) = attributes {
        all.push((RESOURCE_ATTRIBUTES, resource_attributes(inherited.get(RESOURCE_ATTRIBUTES), attributes)));
    }
    if let Some(key) = sampling_key(config) {
        all.push(("OTEL_TRACES_SAMPLER_CONFIG", format!("{SAMPLING_DIR}/{key}")));
    }
    all.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| plain(name, value)).collect()
}

/// The volume with the sampler's configuration and its mount, wherever a configuration is named.
pub fn sampling(config: Option<&ObservabilityConfig>) -> Option<(Volume, VolumeMount)> {
    let name = &config?.sampling_config_ref.as_ref()?.name;
    let volume = Volume {
        name: SAMPLING_VOLUME.to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: name.clone(), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    };
    let mount = VolumeMount {
        name: SAMPLING_VOLUME.to_owned(),
        mount_path: SAMPLING_DIR.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    Some((volume, mount))
}

fn sampling_key(config: Option<&ObservabilityConfig>) -> Option<String> {
    let reference = config?.sampling_config_ref.as_ref()?;
    let key = reference.key.clone().filter(|key| !key.is_empty());
    Some(key.unwrap_or_else(|| SamplingConfigRef::DEFAULT_KEY.to_owned()))
}

fn text<T: ToString>(value: Option<&T>) -> Option<String> {
    value.map(T::to_string)
}

/// The operator's own attributes without those that are generated, then the generated ones.
fn resource_attributes(own: &str, generated: Attributes<'_>) -> String {
    let kept = split(own).into_iter().filter(|pair| {
        let key = pair.split_once('=').map_or(pair.as_str(), |(key, _)| key).trim();
        !pair.is_empty() && !GENERATED.contains(&key)
    });
    let values = [generated.project, generated.cluster, generated.component];
    let added = GENERATED.into_iter().zip(values).filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={v}"));
    kept.chain(added).collect::<Vec<_>>().join(",")
}

/// Splits at commas; a backslash keeps the character after it.
fn split(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in list.chars() {
        if c == ',' && !escaped {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts.into_iter().map(|part| part.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Attributes<'_> = Attributes { project: "p", cluster: "c", component: "multigateway" };

    fn names(variables: &[EnvVar]) -> Vec<&str> {
        variables.iter().map(|v| v.name.as_str()).collect()
    }

    #[test]
    fn without_an_endpoint_there_are_no_variables() {
        let inherited = Inherited::of([("OTEL_TRACES_SAMPLER".to_owned(), "always_on".to_owned())]);
        assert!(variables(None, &inherited, Some(GATEWAY)).is_empty());
        let off = ObservabilityConfig { otlp_endpoint: Some(DISABLED.to_owned()), ..ObservabilityConfig::default() };
        let inherited = Inherited::of([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://o:4318".to_owned())]);
        assert!(variables(Some(&off), &inherited, None).is_empty());
    }

    #[test]
    fn the_operators_own_variables_fill_gaps_and_its_attributes_come_first() {
        let inherited = Inherited::of([
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://o:4318".to_owned()),
            (RESOURCE_ATTRIBUTES.to_owned(), r"team=a\,b, ,multigres.cluster=x".to_owned()),
            ("PATH".to_owned(), "/bin".to_owned()),
        ]);
        let config =
            ObservabilityConfig { traces_sampler: Some("always_on".to_owned()), ..ObservabilityConfig::default() };
        let all = variables(Some(&config), &inherited, Some(GATEWAY));
        assert_eq!(names(&all), ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", RESOURCE_ATTRIBUTES]);
        assert_eq!(
            all[2].value.as_deref(),
            Some(r"team=a\,b,multigres.project=p,multigres.cluster=c,multigres.component=multigateway")
        );
        assert_eq!(names(&variables(None, &inherited, None)), ["OTEL_EXPORTER_OTLP_ENDPOINT"]);
    }

    #[test]
    fn an_inherited_sampler_keeps_its_argument_and_another_one_does_not_get_it() {
        let inherited = Inherited::of([
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://o:4318".to_owned()),
            ("OTEL_TRACES_SAMPLER".to_owned(), "parentbased_traceidratio".to_owned()),
            ("OTEL_TRACES_SAMPLER_ARG".to_owned(), "0.01".to_owned()),
        ]);
        let all = variables(None, &inherited, None);
        assert_eq!(names(&all)[1..], ["OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"]);
        assert_eq!(all[2].value.as_deref(), Some("0.01"));
        let own =
            ObservabilityConfig { traces_sampler: Some("traceidratio".to_owned()), ..ObservabilityConfig::default() };
        assert!(!names(&variables(Some(&own), &inherited, None)).contains(&"OTEL_TRACES_SAMPLER_ARG"));
    }
}
