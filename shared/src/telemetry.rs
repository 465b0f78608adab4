//! Logs: their level, form and the handle that changes the level while the process runs.
//!
//! The flags are those of zap, because existing deployments set them. Rust has no stack traces in logs; lines from the
//! "stacktrace level" on carry what helps in their place: the source file and line, and the whole list of spans that the
//! line was written in. Lines below it carry the innermost span alone.

use std::{error::Error, fmt::Write as _, io::IsTerminal as _, sync::Arc};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt as _, registry::LookupSpan, reload,
    util::SubscriberInitExt as _,
};

/// Libraries whose debug lines drown everything else.
const NOISY: [&str; 7] = ["h2", "hyper", "hyper_util", "rustls", "tower", "mio", "actix_http"];
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least severe level that is logged.
    pub level: Level,
    /// How lines look.
    pub encoder: Encoder,
    /// The least severe level whose lines carry their source and all spans.
    pub detail: Level,
}

impl Settings {
    /// The preset of development (debug, console, details from warnings on) or of production (info, JSON, errors).
    pub fn preset(development: bool) -> Self {
        if development {
            Self { level: Level::DEBUG, encoder: Encoder::Console, detail: Level::WARN }
        } else {
            Self { level: Level::INFO, encoder: Encoder::Json, detail: Level::ERROR }
        }
    }

    /// Returns the filter directives: the level for our own code, and quiet libraries.
    pub fn filter(&self) -> String {
        let noisy = self.level.min(Level::INFO);
        let chatty = if self.level > Level::INFO { Level::INFO } else { self.level.min(Level::WARN) };
        let libraries =
            NOISY.iter().map(|library| (library, noisy)).chain(CHATTY.iter().map(|library| (library, chatty)));
        libraries.fold(self.level.to_string().to_lowercase(), |mut filter, (library, level)| {
            let _ = write!(filter, ",{library}={}", level.to_string().to_lowercase());
            filter
        })
    }
}

/// A level that is no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no log level: use debug, info, warn, error, panic or a number (0 debug, 1 info, 2 error)")]
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

/// Installs the subscriber of the process.
pub fn init(settings: Settings) -> Result<LogHandle, LogError> {
    let (filter, handle) = filter(settings)?;
    let color = settings.encoder == Encoder::Console && std::io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter).with(lines(settings, color, std::io::stderr));
    registry.try_init().map_err(|error| LogError::Subscriber(Box::new(error)))?;
    Ok(handle)
}

fn filter<S: 'static>(settings: Settings) -> Result<(reload::Layer<EnvFilter, S>, LogHandle), LogError> {
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

/// The two layers that write lines: with the source and all spans from the detail level on, and plain below it.
fn lines<S, W>(settings: Settings, color: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Clone + Send + Sync + 'static,
{
    // Levels order by verbosity: an error is the smallest.
    let detailed = filter_fn(move |metadata: &Metadata<'_>| metadata.is_span() || *metadata.level() <= settings.detail);
    let plain = filter_fn(move |metadata: &Metadata<'_>| metadata.is_span() || *metadata.level() > settings.detail);
    let layer = || tracing_subscriber::fmt::layer().with_writer(writer.clone()).with_ansi(color);
    match settings.encoder {
        Encoder::Console => Box::new(
            layer().with_file(true).with_line_number(true).with_filter(detailed).and_then(layer().with_filter(plain)),
        ),
        Encoder::Json => {
            let json = || layer().json().flatten_event(true).with_current_span(true);
            Box::new(
                json()
                    .with_span_list(true)
                    .with_file(true)
                    .with_line_number(true)
                    .with_filter(detailed)
                    .and_then(json().with_span_list(false).with_filter(plain)),
            )
        }
    }
}

/// Writes an error and all of its sources in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let _ = write!(text, ": {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Mutex, PoisonError},
    };

    use rstest::rstest;
    use serde_json::Value;

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

    fn logged(settings: Settings, write: impl FnOnce(&LogHandle)) -> String {
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
        let errors = Settings { level: Level::ERROR, ..Settings::preset(false) };
        assert!(errors.filter().contains(",h2=error") && errors.filter().contains(",actix_server=error"));
    }

    #[test]
    fn worker_threads_that_start_and_stop_are_told_of_only_at_debug() {
        assert!(Settings::preset(false).filter().contains(",actix_server=warn"));
        assert!(Settings::preset(true).filter().contains(",actix_server=info"));
    }

    #[test]
    fn production_lines_are_json_with_the_source_from_errors_on() {
        let text = logged(Settings::preset(false), |_| {
            let _span = tracing::info_span!("reconcile", name = "demo").entered();
            tracing::info!(replicas = 2, "applied");
            tracing::error!("failed");
            tracing::debug!("hidden");
        });
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["message"], "applied");
        assert_eq!(lines[0]["replicas"], 2);
        assert_eq!(lines[0]["span"]["name"], "reconcile");
        assert!(lines[0].get("filename").is_none() && lines[0].get("spans").is_none());
        assert_eq!(lines[1]["level"], "ERROR");
        assert!(lines[1]["filename"].as_str().unwrap().ends_with("telemetry.rs"));
        assert!(lines[1]["spans"].is_array());
    }

    #[test]
    fn filter_changes_while_the_process_runs() {
        let text = logged(Settings::preset(false), |handle| {
            tracing::debug!("before");
            handle.set_filter("debug").unwrap();
            tracing::debug!("after");
            assert_eq!(handle.filter(), "debug");
            assert!(handle.set_filter("a=b=c").is_err());
            assert!(handle.set_filter(" ").is_err());
        });
        assert!(!text.contains("before") && text.contains("after"), "{text}");
    }

    #[test]
    fn chain_names_every_source() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot apply the Service")]
        struct Outer(#[source] io::Error);
        assert_eq!(chain(&Outer(io::Error::other("refused"))), "cannot apply the Service: refused");
    }
}
