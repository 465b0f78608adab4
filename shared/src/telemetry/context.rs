//! The trace context that objects carry in annotations, so that what follows from a request joins its trace.
//!
//! Whoever writes a spec leaves the context of its span beside it; whoever reads the object continues that trace for some
//! minutes, and after that starts its own, with a link back.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use jiff::{SignedDuration, Timestamp};
use opentelemetry::{
    Context, Value,
    trace::{SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::annotation::{TRACEPARENT, TRACEPARENT_TIMESTAMP, TRACESTATE};

/// How long work counts as a consequence of the request whose context an object carries.
pub const FRESH_FOR: SignedDuration = SignedDuration::from_mins(10);

/// Whether spans are exported at all.
static ON: AtomicBool = AtomicBool::new(false);

pub(super) fn switch(on: bool) {
    ON.store(on, Ordering::Relaxed);
}

/// The context of a sampled span, as the W3C headers spell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// `traceparent`.
    pub parent: String,
    /// `tracestate`, where there is one.
    pub state: Option<String>,
}

impl Mark {
    fn of(span: &SpanContext) -> Option<Self> {
        if !span.is_valid() || !span.is_sampled() {
            return None;
        }
        let parent = format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8());
        Some(Self { parent, state: Some(span.trace_state().header()).filter(|state| !state.is_empty()) })
    }

    /// The annotations that carry the context from `now` on.
    pub fn annotations(&self, now: Timestamp) -> impl Iterator<Item = (&'static str, String)> {
        [
            Some((TRACEPARENT, self.parent.clone())),
            Some((TRACEPARENT_TIMESTAMP, now.as_second().to_string())),
            self.state.clone().map(|state| (TRACESTATE, state)),
        ]
        .into_iter()
        .flatten()
    }
}

/// The context of a span; none while nothing is exported, or when this trace is not sampled.
pub fn mark(span: &Span) -> Option<Mark> {
    if !ON.load(Ordering::Relaxed) {
        return None;
    }
    Mark::of(span.context().span().span_context())
}

/// Makes a span that was not entered yet the continuation of what an object carries: a child while that is fresh, and a trace
/// of its own with a link to it afterwards. An object without a readable context changes nothing.
pub fn follow(span: &Span, annotations: Option<&BTreeMap<String, String>>, now: Timestamp) {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    let Some(annotations) = annotations else { return };
    let Some(origin) = read(annotations) else { return };
    if is_fresh(annotations.get(TRACEPARENT_TIMESTAMP).map(String::as_str), now) {
        // A span that was started already keeps the parent that it has.
        let _ = span.set_parent(Context::new().with_remote_span_context(origin));
    } else {
        span.add_link(origin);
    }
}

/// Says what a span is about, to whoever looks at the trace alone.
pub fn describe(span: &Span, attributes: impl IntoIterator<Item = (&'static str, Value)>) {
    if ON.load(Ordering::Relaxed) {
        for (key, value) in attributes {
            span.set_attribute(key, value);
        }
    }
}

/// Says that what a span is about went wrong.
pub fn fail(span: &Span, message: impl FnOnce() -> String) {
    if ON.load(Ordering::Relaxed) {
        span.set_status(Status::error(message()));
    }
}

fn read(annotations: &BTreeMap<String, String>) -> Option<SpanContext> {
    let state = annotations.get(TRACESTATE).and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    parse(annotations.get(TRACEPARENT)?, state)
}

fn parse(parent: &str, state: TraceState) -> Option<SpanContext> {
    let mut parts = parent.split('-');
    let mut hex = |length: usize| {
        let part = parts.next()?;
        let digits = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (digits && part.len() == length).then_some(part)
    };
    let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    // Later versions may say more after the flags; version 00 does not, and ff is none.
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & TraceFlags::SAMPLED.to_u8());
    let context = SpanContext::new(TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?, flags, true, state);
    context.is_valid().then_some(context)
}

/// Whether a context that was left at that Unix second is still a cause. One without a readable time is not.
fn is_fresh(seconds: Option<&str>, now: Timestamp) -> bool {
    let at = seconds.and_then(|text| text.parse().ok()).and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.is_some_and(|at| now.duration_since(at) <= FRESH_FOR)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[rstest]
    #[case(PARENT, true)]
    #[case("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", true)]
    #[case("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", false)]
    #[case("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false)]
    #[case("00-00000000000000000000000000000000-b7ad6b7169203331-01", false)]
    #[case("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false)]
    #[case("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false)]
    #[case("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false)]
    #[case("", false)]
    fn only_what_names_a_span_is_a_parent(#[case] text: &str, #[case] valid: bool) {
        assert_eq!(parse(text, TraceState::default()).is_some(), valid, "{text}");
    }

    #[test]
    fn a_mark_is_read_back_as_it_was_left() {
        let state: TraceState = "vendor=x".parse().unwrap();
        let span = parse(PARENT, state).unwrap();
        let mark = Mark::of(&span).unwrap();
        let now = Timestamp::from_second(1_000).unwrap();
        let left: BTreeMap<String, String> =
            mark.annotations(now).map(|(key, value)| (key.to_owned(), value)).collect();
        assert_eq!(left[TRACEPARENT], PARENT);
        assert_eq!(left[TRACEPARENT_TIMESTAMP], "1000");
        assert_eq!(left[TRACESTATE], "vendor=x");
        assert_eq!(read(&left), Some(span));
    }

    #[test]
    fn what_is_not_sampled_leaves_no_mark() {
        let unsampled = parse(&PARENT.replace("-01", "-00"), TraceState::default()).unwrap();
        assert_eq!(Mark::of(&unsampled), None);
        assert_eq!(mark(&Span::none()), None);
    }

    #[rstest]
    #[case(Some("1000"), true)]
    // Clocks differ, so the future is fresh.
    #[case(Some("1700"), true)]
    #[case(Some("400"), true)]
    #[case(Some("399"), false)]
    #[case(Some("soon"), false)]
    #[case(Some("99999999999999999"), false)]
    #[case(None, false)]
    fn a_context_is_a_cause_for_ten_minutes(#[case] seconds: Option<&str>, #[case] fresh: bool) {
        assert_eq!(is_fresh(seconds, Timestamp::from_second(1_000).unwrap()), fresh);
    }
}
