//! How a line looks: one flat JSON object for machines, one sentence for people, both with the trace that they belong to.

use std::fmt;

use opentelemetry::trace::TraceContextExt as _;
use serde::{Serializer as _, ser::SerializeMap as _};
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{JsonFields, Writer},
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

/// Fields that say how a span is exported, and nothing to whoever reads logs.
const FOR_EXPORT: &str = "otel.";
/// Fields of records that come from the `log` crate.
const FROM_LOG: &str = "log.";

/// The trace and the span that this thread works in, if they are recorded.
fn ids() -> Option<(String, String)> {
    opentelemetry::Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| (span.trace_id().to_string(), span.span_id().to_string()))
    })
}

/// Lines for machines: one object each, in which the fields of all spans stand beside those of the event.
pub struct Json {
    /// The least severe level whose lines carry their source and the names of all spans.
    pub detail: Level,
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    all: Map<String, Value>,
    target: Option<String>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match field.name() {
            "log.target" => self.target = value.as_str().map(str::to_owned),
            name if name.starts_with(FROM_LOG) => {}
            name => _ = self.all.insert(name.strip_prefix("r#").unwrap_or(name).to_owned(), value),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

impl<S> FormatEvent<S, JsonFields> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut own = Fields::default();
        event.record(&mut own);
        let mut names = Vec::new();
        // The innermost span wins over those around it, and the event over all.
        for span in context.event_scope().into_iter().flatten() {
            names.push(span.name());
            let extensions = span.extensions();
            let Some(fields) = extensions.get::<FormattedFields<JsonFields>>() else { continue };
            let Ok(Value::Object(fields)) = serde_json::from_str(fields) else { continue };
            for (name, value) in fields {
                if !name.starts_with(FOR_EXPORT) {
                    own.all.entry(name).or_insert(value);
                }
            }
        }
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let message = own.all.remove("message");
        let mut line = Vec::with_capacity(256);
        let written: serde_json::Result<()> = (|| {
            let mut json = serde_json::Serializer::new(&mut line);
            let mut object = json.serialize_map(None)?;
            object.serialize_entry("timestamp", &time)?;
            object.serialize_entry("level", metadata.level().as_str())?;
            object.serialize_entry("target", own.target.as_deref().unwrap_or(metadata.target()))?;
            object.serialize_entry("message", &message.unwrap_or_default())?;
            if let Some(span) = names.first() {
                object.serialize_entry("span", span)?;
            }
            if let Some((trace, span)) = ids() {
                object.serialize_entry("trace_id", &trace)?;
                object.serialize_entry("span_id", &span)?;
            }
            for (name, value) in &own.all {
                if !RESERVED.contains(&name.as_str()) {
                    object.serialize_entry(name, value)?;
                }
            }
            if *metadata.level() <= self.detail {
                names.reverse();
                object.serialize_entry("filename", &metadata.file())?;
                object.serialize_entry("line_number", &metadata.line())?;
                object.serialize_entry("spans", &names)?;
            }
            object.end()
        })();
        written.map_err(|_| fmt::Error)?;
        writer.write_str(std::str::from_utf8(&line).map_err(|_| fmt::Error)?)?;
        writer.write_char('\n')
    }
}

/// Keys that a line has of its own: a field of the same name must not make them twice.
const RESERVED: [&str; 10] =
    ["timestamp", "level", "target", "message", "span", "trace_id", "span_id", "filename", "line_number", "spans"];

/// Lines for people: as another format, which knows about colours by itself, writes them, with the trace at the end.
pub struct Traced<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for Traced<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some((trace, span)) = ids() else { return self.0.format_event(context, writer, event) };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{} trace_id={trace} span_id={span}", line.trim_end_matches('\n'))
    }
}
