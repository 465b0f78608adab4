//! Logs and traces of the process.
//!
//! Logs are lines on standard error whose level changes while the process runs. Traces are exported by OTLP where the
//! environment names an endpoint, and cost nothing where it does not: no layer is installed then, and spans below the log
//! level are never made.

mod context;
mod environment;
mod export;
mod limit;
mod line;
mod log;

use std::{error::Error, fmt::Write as _, time::Duration};

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub use context::{FRESH_FOR, Mark, describe, fail, follow, mark};
pub use environment::{Compression, Exporter, Limits, Protocol, Tracing};
#[cfg(test)]
pub(crate) use log::filter as log_filter;
pub use log::{Encoder, LevelError, LogError, LogHandle, LogLevel, Settings, parse_level, parse_verbosity};

/// How long the last spans may take to get out when the process ends.
const FLUSH: Duration = Duration::from_secs(5);

/// Who speaks, where the environment does not say otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// `service.name`.
    pub name: &'static str,
    /// `service.version`.
    pub version: &'static str,
}

/// The logs and traces of a process.
pub struct Telemetry {
    /// Reads and changes the filter of the logs.
    pub log: LogHandle,
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Whether spans are exported.
    pub fn traces(&self) -> bool {
        self.provider.is_some()
    }

    /// Exports what is left, for a few seconds at most. Blocks, so it is called where no runtime waits for this thread.
    pub fn finish(self) {
        self.finish_within(FLUSH);
    }

    /// The same within another time.
    pub fn finish_within(self, limit: Duration) {
        context::switch(false);
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(limit)
        {
            tracing::warn!(%error, "the last spans are lost");
        }
    }
}

/// Installs the subscriber of the process. Called inside of a runtime, which carries the exports.
pub fn init(settings: &Settings, service: Service, tracing: &Tracing) -> Result<Telemetry, LogError> {
    let (provider, failure) = match export::provider(service, tracing) {
        Ok(provider) => (provider, None),
        Err(error) => (None, Some(error)),
    };
    let log = match &provider {
        // The filter of the logs is that of the process, so what is not logged costs nothing.
        None => {
            let (filter, handle) = log::filter(settings)?;
            let lines = log::lines(settings, log::color(settings), std::io::stderr);
            tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(log::taken)?;
            handle
        }
        // Spans are exported whether or not they are logged.
        Some(provider) => {
            let (filter, handle) = log::filter(settings)?;
            let lines = log::lines(settings, log::color(settings), std::io::stderr).with_filter(filter);
            let spans = export::layer(provider, service.name);
            tracing_subscriber::registry().with(spans).with(lines).try_init().map_err(log::taken)?;
            handle
        }
    };
    for warning in &tracing.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(error) = failure {
        tracing::warn!(error = chain(&error), "spans are not exported");
    }
    if provider.is_some() {
        context::switch(true);
        tracing::info!(protocol = %tracing.protocol, endpoint = tracing.shown_endpoint(), "exporting spans");
    }
    Ok(Telemetry { log, provider })
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
    use std::io;

    use super::*;

    #[test]
    fn chain_names_every_source() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot apply the Service")]
        struct Outer(#[source] io::Error);
        assert_eq!(chain(&Outer(io::Error::other("refused"))), "cannot apply the Service: refused");
    }
}
