//! The trace context that a request leaves on the cluster, for the passes that follow from it.

use serde::Deserialize;
use serde_json::{Map, Value};
use shared::{
    annotation::{TRACEPARENT, TRACEPARENT_TIMESTAMP, TRACESTATE},
    clock::{Clock as _, System},
    telemetry,
};

use super::Changes;
use crate::review::text;

/// A W3C trace context with the time at which it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    parent: String,
    state: Option<String>,
    at: i64,
}

impl TraceContext {
    /// The context of the review that this thread works on, while it is recorded.
    pub fn of_this_review() -> Option<Self> {
        let mark = telemetry::mark(&tracing::Span::current())?;
        Self::new(mark.parent, mark.state, System.now().as_second())
    }

    /// A context from the values of the W3C headers and Unix seconds; none when it identifies no span.
    pub fn new(parent: impl Into<String>, state: Option<String>, at: i64) -> Option<Self> {
        let parent = parent.into();
        is_span(&parent).then(|| Self { parent, state: state.filter(|state| !state.is_empty()), at })
    }
}

/// Whether this is a `traceparent` of version 00 with a trace and a span.
fn is_span(parent: &str) -> bool {
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |text: &str, length: usize| hex(text, length) && text.bytes().any(|byte| byte != b'0');
    let mut parts = parent.split('-');
    let mut part = || parts.next().unwrap_or_default();
    part() == "00" && id(part(), 32) && id(part(), 16) && hex(part(), 2) && parts.next().is_none()
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: Option<Map<String, Value>>,
}

/// Writes the context into the annotations of an object.
pub fn annotate(object: &str, trace: &TraceContext, changes: &mut Changes) -> serde_json::Result<()> {
    let Some(metadata) = text::member(object, "metadata") else { return Ok(()) };
    let metadata: Metadata = serde_json::from_str(text::value(metadata))?;
    let wanted = [
        (TRACEPARENT, Some(trace.parent.clone())),
        (TRACEPARENT_TIMESTAMP, Some(trace.at.to_string())),
        (TRACESTATE, trace.state.clone()),
    ];
    let Some(annotations) = metadata.annotations else {
        let all = wanted.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect();
        changes.add(&["metadata", "annotations"], Value::Object(all));
        return Ok(());
    };
    for (key, value) in wanted {
        let at = ["metadata", "annotations", key];
        match (value, annotations.get(key)) {
            (Some(value), Some(Value::String(there))) if value == *there => {}
            (Some(value), _) => changes.add(&at, value.into()),
            (None, Some(_)) => changes.remove(&at),
            (None, None) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mutate::cluster;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn mutated(old: Option<&Value>, object: &Value, trace: &TraceContext) -> Value {
        let old = old.map(ToString::to_string);
        let mutation = cluster(old.as_deref(), &object.to_string(), Some(trace));
        let mut after = object.clone();
        if let Some(patch) = mutation.patch {
            json_patch::patch(&mut after, &patch).unwrap();
        }
        after
    }

    #[test]
    fn only_a_real_span_is_a_context() {
        assert!(TraceContext::new(PARENT, None, 0).is_some());
        for parent in [
            "",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        ] {
            assert_eq!(TraceContext::new(parent, None, 0), None, "{parent}");
        }
    }

    #[test]
    fn the_context_is_written_on_creation_and_with_a_new_spec() {
        let trace = TraceContext::new(PARENT, Some("a=b".to_owned()), 7).unwrap();
        let created = mutated(None, &json!({"metadata": {}, "spec": {"databases": []}}), &trace);
        let annotations = json!({TRACEPARENT: PARENT, TRACEPARENT_TIMESTAMP: "7", TRACESTATE: "a=b"});
        assert_eq!(created["metadata"]["annotations"], annotations);
        assert_eq!(mutated(None, &created, &trace), created);

        let mut changed = created.clone();
        changed["spec"]["cells"] = json!([]);
        changed["metadata"]["annotations"]["mine"] = "kept".into();
        let later = TraceContext::new(PARENT.replace("319c", "319d"), None, 9).unwrap();
        let after = mutated(Some(&created), &changed, &later);
        assert_eq!(
            after["metadata"]["annotations"],
            json!({TRACEPARENT: later.parent, TRACEPARENT_TIMESTAMP: "9", "mine": "kept"})
        );
        // Without a new spec nothing follows from the request.
        changed["spec"] = created["spec"].clone();
        assert_eq!(mutated(Some(&created), &changed, &later), changed);
    }
}
