//! What the `OTEL_*` variables ask for, read once, with a warning for each value that is no good.
//!
//! The SDK reads most of them by itself. What is decided here: whether spans are exported at all, over which protocol, and what
//! a wrong value is answered with: it is ignored, as if the variable were not set, and the log says so.

use std::{path::PathBuf, str::FromStr, time::Duration};

/// What spans are exported with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::Display, strum::EnumString)]
pub enum Protocol {
    /// Protobuf over HTTP/1.1, which is meant when nothing is said.
    #[default]
    #[strum(serialize = "http/protobuf")]
    Http,
    /// gRPC.
    #[strum(serialize = "grpc")]
    Grpc,
}

/// Where spans go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::Display, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum Exporter {
    /// To the endpoint.
    #[default]
    Otlp,
    /// Nowhere.
    None,
}

/// How exports are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::Display, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// By gzip.
    Gzip,
}

/// How spans are sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sampling {
    /// As the parent says; all where there is none.
    #[default]
    ParentOn,
    /// As the parent says; none where there is none.
    ParentOff,
    /// As the parent says; a share where there is none.
    ParentRatio(f64),
    /// All.
    On,
    /// None.
    Off,
    /// A share of the traces.
    Ratio(f64),
}

/// How much a span may hold; what is not said is the SDK's to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Attributes of a span.
    pub attributes: Option<u32>,
    /// Events of a span.
    pub events: Option<u32>,
    /// Links of a span.
    pub links: Option<u32>,
    /// Attributes of an event.
    pub event_attributes: Option<u32>,
    /// Attributes of a link.
    pub link_attributes: Option<u32>,
    /// Characters of a text in an attribute.
    pub text: Option<usize>,
}

/// Files that secure the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Authorities to trust instead of those of the system.
    pub authority: Option<PathBuf>,
    /// Our own certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// What the environment asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tracing {
    /// Whether spans are exported.
    pub enabled: bool,
    /// Over what.
    pub protocol: Protocol,
    /// The address for all signals.
    pub general: Option<String>,
    /// The address for spans alone, which is taken as it is.
    pub specific: Option<String>,
    /// Whether an address without a scheme means plain text.
    pub insecure: bool,
    /// How exports are compressed.
    pub compression: Compression,
    /// Longest time of one export.
    pub timeout: Duration,
    /// Which spans are exported.
    pub sampling: Sampling,
    /// How much of a span is exported.
    pub limits: Limits,
    /// Files that secure the connection.
    pub files: Files,
    /// The name that the process is to be known by.
    pub service: Option<String>,
    /// Name of the pod that the process is in.
    pub pod: Option<String>,
    /// Namespace of that pod.
    pub namespace: Option<String>,
    /// What is wrong with the environment.
    pub warnings: Vec<String>,
}

/// Numbers that the SDK reads by itself, and ignores silently when they are none.
const NUMBERS: [&str; 3] = ["OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"];
/// What the SDK would take for exports side by side; here one follows the other.
const SIDE_BY_SIDE: &str = "OTEL_BSP_MAX_CONCURRENT_EXPORTS";
/// Longest time of one export where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where spans are sent over HTTP below the address for all signals.
const PATH: &str = "/v1/traces";

impl Tracing {
    /// Reads the environment of the process.
    pub fn of_process() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    /// Reads variables by `lookup`; an empty one counts as not set.
    pub fn of(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let mut reader =
            Reader { lookup: &|name| lookup(name).filter(|value| !value.trim().is_empty()), warnings: Vec::new() };
        let general = reader.address("OTEL_EXPORTER_OTLP_ENDPOINT");
        let specific = reader.address("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let disabled = reader.text("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if disabled || (general.is_none() && specific.is_none()) {
            return Self::default();
        }
        // The first of a list counts; a traces exporter of its own has no other use here.
        let exporter = reader.choice(&["OTEL_TRACES_EXPORTER"], "otlp or none");
        if exporter == Some(Exporter::None) {
            return Self { warnings: reader.warnings, ..Self::default() };
        }
        let protocol = reader
            .choice(&["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"], "grpc or http/protobuf");
        let compression =
            reader.choice(&["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"], "gzip or none");
        let millis: Option<u64> = reader
            .choice(&["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"], "a number of milliseconds");
        // The processor of the SDK does not cut an export off, so the exporter does: after the shorter of the two times.
        let patience: Option<u64> = reader.choice(&["OTEL_BSP_EXPORT_TIMEOUT"], "a number of milliseconds");
        let timeout = millis.map_or(TIMEOUT, Duration::from_millis);
        let timeout = patience.map_or(timeout, |patience| timeout.min(Duration::from_millis(patience)));
        let insecure = reader.first(&["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"]);
        for name in NUMBERS {
            let _: Option<u64> = reader.choice(&[name], "a number");
        }
        if reader.text(SIDE_BY_SIDE).is_some() {
            reader.warn(SIDE_BY_SIDE, "exports follow one another");
        }
        if let Some((name, value)) = reader.first(&["OTEL_PROPAGATORS"])
            && !value.split(',').any(|one| one.trim() == "tracecontext")
        {
            reader.warn(name, "it has to contain tracecontext, the only propagator here");
        }
        let file = |signal: &str, all: &str| reader.first(&[signal, all]).map(|(_, path)| PathBuf::from(path));
        let files = Files {
            authority: file("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
            certificate: file("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
            key: file("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"),
        };
        Self {
            enabled: true,
            protocol: protocol.unwrap_or_default(),
            general,
            specific,
            insecure: insecure.is_some_and(|(_, value)| value.eq_ignore_ascii_case("true")),
            compression: compression.unwrap_or_default(),
            timeout,
            sampling: reader.sampling(),
            limits: reader.limits(),
            files,
            service: reader.text("OTEL_SERVICE_NAME"),
            pod: reader.text("POD_NAME"),
            namespace: reader.text("POD_NAMESPACE"),
            warnings: reader.warnings,
        }
    }

    /// The address that spans are sent to.
    pub fn endpoint(&self) -> String {
        let (address, whole) = match (&self.specific, &self.general) {
            (Some(address), _) => (address.as_str(), true),
            (None, Some(address)) => (address.as_str(), false),
            (None, None) => return String::new(),
        };
        match self.protocol {
            Protocol::Http if whole => address.to_owned(),
            Protocol::Http => format!("{}{PATH}", address.trim_end_matches('/')),
            Protocol::Grpc if address.contains("://") => address.to_owned(),
            Protocol::Grpc => format!("{}://{address}", if self.insecure { "http" } else { "https" }),
        }
    }

    /// The same for the log: an address may hold a key in its query, or a password where none is expected.
    pub fn shown_endpoint(&self) -> String {
        let endpoint = self.endpoint();
        let start = endpoint.find("://").map_or(0, |at| at + 3);
        let (scheme, rest) = endpoint.split_at(start);
        let (address, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        // What looks like a path or a query is a part of the password where somebody wrote its signs as they are.
        if query.contains('@') {
            return format!("{scheme}…");
        }
        format!("{scheme}{}", address.rsplit('@').next().unwrap_or_default())
    }
}

/// Reads variables and keeps what is to be said about them.
struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_owned())
    }

    /// An address. A user in it would reach nobody, and every log that names it.
    fn address(&mut self, name: &str) -> Option<String> {
        let address = self.text(name)?;
        let start = address.find("://").map_or(0, |at| at + 3);
        let (scheme, rest) = address.split_at(start);
        let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let Some((_, host)) = host.rsplit_once('@') else { return Some(address) };
        let remedy = "name credentials in OTEL_EXPORTER_OTLP_HEADERS";
        self.warnings.push(format!("the user in the value of {name} is ignored: {remedy}"));
        Some(format!("{scheme}{host}{path}"))
    }

    /// The first of the variables that is set.
    fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, String)> {
        names.iter().find_map(|name| Some((*name, self.text(name)?)))
    }

    /// The first of the variables that is set, if its value is one of those that are meant.
    fn choice<T: FromStr>(&mut self, names: &[&str], meant: &str) -> Option<T> {
        let (name, value) = self.first(names)?;
        let known = value.parse().ok();
        if known.is_none() {
            self.warn(name, &format!("use {meant}"));
        }
        known
    }

    /// Values stay out of the log: some are credentials.
    fn warn(&mut self, name: &str, remedy: &str) {
        self.warnings.push(format!("the value of {name} is ignored: {remedy}"));
    }

    /// What is said of all records is said of each kind for which nothing else is.
    fn limits(&mut self) -> Limits {
        let all: Option<u32> = self.choice(&["OTEL_ATTRIBUTE_COUNT_LIMIT"], "a number");
        let text: Option<usize> = self.choice(&["OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"], "a number of characters");
        let mut count = |name| self.choice(&[name], "a number");
        Limits {
            attributes: count("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT").or(all),
            events: count("OTEL_SPAN_EVENT_COUNT_LIMIT"),
            links: count("OTEL_SPAN_LINK_COUNT_LIMIT"),
            event_attributes: count("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT").or(all),
            link_attributes: count("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT").or(all),
            text: self.choice(&["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"], "a number of characters").or(text),
        }
    }

    fn sampling(&mut self) -> Sampling {
        let Some(sampler) = self.text("OTEL_TRACES_SAMPLER") else { return Sampling::default() };
        match sampler.as_str() {
            "always_on" => Sampling::On,
            "always_off" => Sampling::Off,
            "parentbased_always_on" => Sampling::ParentOn,
            "parentbased_always_off" => Sampling::ParentOff,
            "traceidratio" => Sampling::Ratio(self.ratio()),
            "parentbased_traceidratio" => Sampling::ParentRatio(self.ratio()),
            // A sampler of the data plane, whose variables are often given to all processes alike.
            "multigres_custom" => Sampling::default(),
            _ => {
                let meant = "use always_on, always_off, traceidratio, or one of these after parentbased_";
                self.warn("OTEL_TRACES_SAMPLER", meant);
                Sampling::default()
            }
        }
    }

    fn ratio(&mut self) -> f64 {
        let Some(text) = self.text("OTEL_TRACES_SAMPLER_ARG") else { return 1.0 };
        match text.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
            _ => {
                self.warn("OTEL_TRACES_SAMPLER_ARG", "use a number from 0 to 1");
                1.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Tracing {
        Tracing::of(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    const GENERAL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    const SPECIFIC: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://tempo:4318/custom");

    #[rstest]
    #[case(&[])]
    #[case(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")])]
    #[case(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_SERVICE_NAME", "x")])]
    #[case(&[GENERAL, ("OTEL_SDK_DISABLED", "TRUE")])]
    #[case(&[GENERAL, ("OTEL_TRACES_EXPORTER", "none")])]
    fn without_an_endpoint_or_by_request_nothing_is_exported(#[case] variables: &[(&str, &str)]) {
        assert_eq!(read(variables), Tracing::default());
    }

    #[rstest]
    #[case(&[GENERAL], "http://collector:4318/v1/traces")]
    #[case(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/")], "http://collector:4318/v1/traces")]
    #[case(&[SPECIFIC], "http://tempo:4318/custom")]
    #[case(&[GENERAL, SPECIFIC], "http://tempo:4318/custom")]
    #[case(&[GENERAL, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "http://collector:4318")]
    #[case(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "https://c:4317")]
    #[case(
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ],
        "http://c:4317"
    )]
    fn either_endpoint_switches_exports_on(#[case] variables: &[(&str, &str)], #[case] expected: &str) {
        let tracing = read(variables);
        assert!(tracing.enabled && tracing.warnings.is_empty(), "{tracing:?}");
        assert_eq!(tracing.endpoint(), expected);
    }

    #[test]
    fn values_are_taken_as_the_specification_says() {
        let tracing = read(&[
            GENERAL,
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/key.pem"),
        ]);
        assert_eq!(tracing.compression, Compression::Gzip);
        assert_eq!(tracing.timeout, Duration::from_millis(2500));
        assert_eq!(tracing.sampling, Sampling::ParentRatio(0.25));
        assert_eq!(tracing.files.authority, Some("/ca.pem".into()));
        assert_eq!(tracing.files.key, Some("/key.pem".into()));
        assert!(tracing.warnings.is_empty());
    }

    #[test]
    fn a_limit_of_its_own_wins_over_that_of_all_records() {
        let tracing = read(&[
            GENERAL,
            ("OTEL_ATTRIBUTE_COUNT_LIMIT", "10"),
            ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "100"),
            ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "50"),
            ("OTEL_SPAN_EVENT_COUNT_LIMIT", "3"),
            ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "2"),
            ("OTEL_SPAN_LINK_COUNT_LIMIT", "none"),
        ]);
        let expected = Limits {
            attributes: Some(10),
            events: Some(3),
            links: None,
            event_attributes: Some(2),
            link_attributes: Some(10),
            text: Some(50),
        };
        assert_eq!((tracing.limits, tracing.warnings.len()), (expected, 1));
        assert_eq!(read(&[GENERAL]).limits, Limits::default());
        assert_eq!(read(&[GENERAL, ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "7")]).limits.text, Some(7));
    }

    #[test]
    fn an_export_takes_as_long_as_the_exporter_and_the_processor_may() {
        let timeout = |variables: &[(&str, &str)]| read(variables).timeout;
        assert_eq!(timeout(&[GENERAL, ("OTEL_BSP_EXPORT_TIMEOUT", "2000")]), Duration::from_secs(2));
        assert_eq!(timeout(&[GENERAL, ("OTEL_BSP_EXPORT_TIMEOUT", "60000")]), TIMEOUT);
        let unused = read(&[GENERAL, ("OTEL_BSP_MAX_CONCURRENT_EXPORTS", "4")]);
        assert!(unused.warnings[0].contains("OTEL_BSP_MAX_CONCURRENT_EXPORTS"), "{:?}", unused.warnings);
    }

    #[rstest]
    #[case("http://user:pa%40ss@collector:4318", "http://collector:4318/v1/traces")]
    #[case("http://user:p@ss@collector:4318/otlp/", "http://collector:4318/otlp/v1/traces")]
    #[case("user:pass@collector:4318", "collector:4318/v1/traces")]
    fn a_user_in_an_address_is_left_out_and_told_of(#[case] endpoint: &str, #[case] expected: &str) {
        let tracing = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
        assert_eq!((tracing.endpoint().as_str(), tracing.warnings.len()), (expected, 1));
        assert!(!tracing.warnings[0].contains("ss"), "{:?}", tracing.warnings);
    }

    #[rstest]
    #[case("https://collector/otlp?key=secret", "https://collector/otlp")]
    #[case("http://user:p/s@collector:4318", "http://collector:4318")]
    #[case("https://user:p?s@collector:4318", "https://…")]
    #[case("http://[::1]:4318", "http://[::1]:4318")]
    fn what_may_be_a_credential_is_not_shown(#[case] endpoint: &str, #[case] expected: &str) {
        let tracing = read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)]);
        assert_eq!((tracing.shown_endpoint().as_str(), tracing.endpoint().as_str()), (expected, endpoint));
    }

    #[test]
    fn wrong_values_are_ignored_with_a_warning_that_does_not_repeat_them() {
        let tracing = read(&[
            GENERAL,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "secret1"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "secret2"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "secret3"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "secret4"),
            ("OTEL_BSP_SCHEDULE_DELAY", "secret5"),
            ("OTEL_PROPAGATORS", "b3"),
        ]);
        assert_eq!(tracing.warnings.len(), 6, "{:?}", tracing.warnings);
        assert!(tracing.warnings.iter().all(|warning| !warning.contains("secret")));
        let expected = Tracing {
            general: tracing.general.clone(),
            enabled: true,
            timeout: TIMEOUT,
            sampling: Sampling::Ratio(1.0),
            warnings: tracing.warnings.clone(),
            ..Tracing::default()
        };
        assert_eq!(tracing, expected);
    }

    #[test]
    fn the_sampler_of_the_data_plane_is_no_mistake() {
        let tracing = read(&[GENERAL, ("OTEL_TRACES_SAMPLER", "multigres_custom")]);
        assert_eq!((tracing.sampling, tracing.warnings.len()), (Sampling::ParentOn, 0));
        assert_eq!(read(&[GENERAL, ("OTEL_TRACES_SAMPLER", "xray")]).warnings.len(), 1);
    }
}
