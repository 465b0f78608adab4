//! Logs: their level, form and the handle that changes the level while the process runs.
//!
//! The flags are those of zap, because existing deployments set them. Rust has no stack traces in logs; lines from the
//! "stacktrace level" on carry what helps in their place: the source file and line, and the names of all spans that the
//! line was written in. Lines below it carry the innermost span alone.

use std::{error::Error, fmt::Write as _, io::IsTerminal as _, str::FromStr, sync::Arc};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::filter_fn,
    fmt::format::{Format, JsonFields},
    registry::LookupSpan,
    reload,
};

use super::line::{Json, Traced};

/// Libraries whose debug lines drown everything else.
const NOISY: [&str; 9] =
    ["h2", "hyper", "hyper_util", "rustls", "tower", "mio", "actix_http", "opentelemetry", "opentelemetry_sdk"];
/// Libraries that tell of each worker thread that starts and stops, which nobody needs unless they look for something.
const CHATTY: [&str; 1] = ["actix_server"];

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum Encoder {
    /// For people.
    Console,
    /// One JSON object per line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is logged.
    pub level: LogLevel,
    /// How lines look.
    pub encoder: Encoder,
    /// The least severe level whose lines carry their source and all spans.
    pub detail: Level,
}

impl Settings {
    /// The preset of development (debug, console, details from warnings on) or of production (info, JSON, errors).
    pub fn preset(development: bool) -> Self {
        if development {
            Self { level: Level::DEBUG.into(), encoder: Encoder::Console, detail: Level::WARN }
        } else {
            Self { level: Level::INFO.into(), encoder: Encoder::Json, detail: Level::ERROR }
        }
    }

    /// Returns the filter directives: the level for our own code, quiet libraries, and what was asked for by name.
    pub fn filter(&self) -> String {
        let level = self.level.least;
        let noisy = level.min(Level::INFO);
        let chatty = if level > Level::INFO { Level::INFO } else { level.min(Level::WARN) };
        let libraries =
            NOISY.iter().map(|library| (library, noisy)).chain(CHATTY.iter().map(|library| (library, chatty)));
        let mut filter = libraries.fold(level.to_string().to_lowercase(), |mut filter, (library, level)| {
            let _ = write!(filter, ",{library}={}", level.to_string().to_lowercase());
            filter
        });
        if let Some(directives) = &self.level.directives {
            let _ = write!(filter, ",{directives}");
        }
        filter
    }
}

/// The least severe level that is logged, and exceptions to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel {
    least: Level,
    directives: Option<String>,
}

impl From<Level> for LogLevel {
    fn from(least: Level) -> Self {
        Self { least, directives: None }
    }
}

/// Reads a level and, after it, exceptions for parts of the program: `info,controller::shard=debug`.
pub fn parse_verbosity(text: &str) -> Result<LogLevel, LevelError> {
    let (level, directives) = match text.split_once(',') {
        Some((level, directives)) => (level, Some(directives)),
        None => (text, None),
    };
    let least = parse_level(level.trim())?;
    let Some(directives) = directives else { return Ok(least.into()) };
    let directives: Vec<&str> = directives.split(',').map(str::trim).collect();
    if directives.iter().all(|one| tracing_subscriber::filter::Directive::from_str(one).is_ok_and(|_| !one.is_empty()))
    {
        Ok(LogLevel { least, directives: Some(directives.join(",")) })
    } else {
        Err(LevelError(text.to_owned()))
    }
}

/// A level that is no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no log level: use debug, info, warn, error, panic or a number (0 debug, 1 info, 2 error), \
     and exceptions after a comma, such as info,controller::shard=debug"
)]
pub struct LevelError(String);

/// Reads a level: a name, or a number with 0 for debug, 1 for info, 2 for error, and more detail than debug above that.
pub fn parse_level(text: &str) -> Result<Level, LevelError> {
    match text.to_ascii_lowercase().as_str() {
        "trace" => Ok(Level::TRACE),
        "debug" | "0" => Ok(Level::DEBUG),
        "info" | "1" => Ok(Level::INFO),
        "warn" | "warning" => Ok(Level::WARN),
        // Nothing is logged at a level above errors.
        "error" | "2" | "panic" => Ok(Level::ERROR),
        number if number.parse::<u8>().is_ok() => Ok(Level::TRACE),
        _ => Err(LevelError(text.to_owned())),
    }
}

/// The logs could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("the log filter {0:?} cannot be read")]
    Filter(String),
    /// Another subscriber is installed, or ours is gone.
    #[error("the log subscriber cannot be used")]
    Subscriber(#[source] Box<dyn Error + Send + Sync>),
}

/// Reads and changes the filter of the running process.
#[derive(Clone)]
pub struct LogHandle {
    get: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    set: Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>,
}

impl LogHandle {
    /// Returns the directives in force.
    pub fn filter(&self) -> String {
        (self.get)().unwrap_or_default()
    }

    /// Replaces the directives, such as `info,shared=debug`.
    pub fn set_filter(&self, directives: &str) -> Result<(), LogError> {
        let filter = parse_filter(directives)?;
        (self.set)(filter).map_err(|error| LogError::Subscriber(Box::new(error)))
    }
}

/// Says that another subscriber is there already.
pub(super) fn taken(error: impl Error + Send + Sync + 'static) -> LogError {
    LogError::Subscriber(Box::new(error))
}

/// Whether lines are coloured.
pub(super) fn color(settings: &Settings) -> bool {
    settings.encoder == Encoder::Console && std::io::stderr().is_terminal()
}

/// The filter, and the handle that replaces it.
pub(crate) fn filter<S: 'static>(settings: &Settings) -> Result<(reload::Layer<EnvFilter, S>, LogHandle), LogError> {
    let (layer, handle) = reload::Layer::new(parse_filter(&settings.filter())?);
    let reader = handle.clone();
    let handle = LogHandle {
        get: Arc::new(move || reader.with_current(ToString::to_string).ok()),
        set: Arc::new(move |filter| handle.reload(filter)),
    };
    Ok((layer, handle))
}

fn parse_filter(directives: &str) -> Result<EnvFilter, LogError> {
    let directives = directives.trim();
    if directives.is_empty() {
        return Err(LogError::Filter(directives.to_owned()));
    }
    EnvFilter::try_new(directives).map_err(|_| LogError::Filter(directives.to_owned()))
}

/// The layer that writes lines; for people it is two: with the source from the detail level on, and without it below.
pub(super) fn lines<S, W>(settings: &Settings, color: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Clone + Send + Sync + 'static,
{
    let detail = settings.detail;
    let layer = || tracing_subscriber::fmt::layer().with_writer(writer.clone()).with_ansi(color);
    match settings.encoder {
        Encoder::Console => {
            // Levels order by verbosity: an error is the smallest.
            let detailed = filter_fn(move |metadata: &Metadata<'_>| metadata.is_span() || *metadata.level() <= detail);
            let plain = filter_fn(move |metadata: &Metadata<'_>| metadata.is_span() || *metadata.level() > detail);
            let sourced = Format::default().with_ansi(color).with_file(true).with_line_number(true);
            Box::new(
                layer()
                    .event_format(Traced(sourced))
                    .with_filter(detailed)
                    .and_then(layer().event_format(Traced(Format::default().with_ansi(color))).with_filter(plain)),
            )
        }
        Encoder::Json => Box::new(layer().fmt_fields(JsonFields::new()).event_format(Json { detail })),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Mutex, PoisonError},
    };

    use rstest::rstest;
    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
        }
    }

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(settings: &Settings, write: impl FnOnce(&LogHandle)) -> String {
        let sink = Sink::default();
        let copy = sink.clone();
        let (filter, handle) = filter(settings).unwrap();
        let subscriber = tracing_subscriber::registry().with(filter).with(lines(settings, false, move || copy.clone()));
        tracing::subscriber::with_default(subscriber, || write(&handle));
        sink.text()
    }

    #[rstest]
    #[case("debug", Level::DEBUG)]
    #[case("0", Level::DEBUG)]
    #[case("1", Level::INFO)]
    #[case("INFO", Level::INFO)]
    #[case("2", Level::ERROR)]
    #[case("panic", Level::ERROR)]
    #[case("5", Level::TRACE)]
    fn levels_are_read_as_documented(#[case] text: &str, #[case] expected: Level) {
        assert_eq!(parse_level(text), Ok(expected));
    }

    #[test]
    fn unknown_levels_are_refused() {
        assert!(parse_level("loud").is_err());
        assert!(parse_level("-1").is_err());
    }

    #[test]
    fn libraries_stay_quiet_at_debug() {
        let filter = Settings::preset(true).filter();
        assert!(filter.starts_with("debug,") && filter.contains(",h2=info"), "{filter}");
        assert!(parse_filter(&filter).is_ok());
        let errors = Settings { level: Level::ERROR.into(), ..Settings::preset(false) };
        assert!(errors.filter().contains(",h2=error") && errors.filter().contains(",actix_server=error"));
    }

    #[test]
    fn worker_threads_that_start_and_stop_are_told_of_only_at_debug() {
        assert!(Settings::preset(false).filter().contains(",actix_server=warn"));
        assert!(Settings::preset(true).filter().contains(",actix_server=info"));
    }

    #[test]
    fn production_lines_are_json_with_the_source_from_errors_on() {
        let text = logged(&Settings::preset(false), |_| {
            let _span = tracing::info_span!("reconcile", name = "demo").entered();
            tracing::info!(replicas = 2, "applied");
            tracing::error!("failed");
            tracing::debug!("hidden");
        });
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["message"], "applied");
        assert_eq!(lines[0]["replicas"], 2);
        assert_eq!((&lines[0]["span"], &lines[0]["name"]), (&"reconcile".into(), &"demo".into()));
        assert!(lines[0].get("filename").is_none() && lines[0].get("spans").is_none());
        assert_eq!(lines[1]["level"], "ERROR");
        assert!(lines[1]["filename"].as_str().unwrap().ends_with("log.rs"));
        assert_eq!(lines[1]["spans"], serde_json::json!(["reconcile"]));
    }

    #[test]
    fn every_key_of_a_line_is_there_once_and_the_innermost_value_counts() {
        let text = logged(&Settings::preset(false), |_| {
            let _outer = tracing::info_span!("outer", name = "a", controller = "cell", otel.kind = "client").entered();
            let _inner = tracing::info_span!("inner", name = "b").entered();
            tracing::info!(level = 7, controller = "shard", "text \"quoted\"");
        });
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(text.matches("\"name\"").count(), 1, "{text}");
        assert_eq!(text.matches("\"level\"").count(), 1, "{text}");
        assert_eq!((&line["name"], &line["controller"]), (&"b".into(), &"shard".into()));
        assert_eq!((&line["level"], &line["message"]), (&"INFO".into(), &"text \"quoted\"".into()));
        assert!(line.get("otel.kind").is_none() && line.get("trace_id").is_none());
    }

    #[test]
    fn parts_of_the_program_can_have_levels_of_their_own() {
        let level = parse_verbosity("warn,controller::shard=debug, h2=trace").unwrap();
        let filter = Settings { level, ..Settings::preset(false) }.filter();
        assert!(filter.starts_with("warn,") && filter.contains("controller::shard=debug"), "{filter}");
        assert!(parse_filter(&filter).is_ok(), "{filter}");
        for wrong in ["loud", "info,", "info,a=b=c", "controller=debug"] {
            assert!(parse_verbosity(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn filter_changes_while_the_process_runs() {
        let text = logged(&Settings::preset(false), |handle| {
            tracing::debug!("before");
            handle.set_filter("debug").unwrap();
            tracing::debug!("after");
            assert_eq!(handle.filter(), "debug");
            assert!(handle.set_filter("a=b=c").is_err());
            assert!(handle.set_filter(" ").is_err());
        });
        assert!(!text.contains("before") && text.contains("after"), "{text}");
    }
}
