//! The spans of writes, and the trace that children carry on.

use kube::Resource;
use shared::{
    api::v1alpha1::MultigresCluster,
    clock::{Clock as _, System},
    kubeutil::{Object, ObjectKey},
    telemetry,
};
use tracing::{Span, debug_span};

use crate::plan::TopoWrite;

/// The span of one call to the API server.
pub(super) fn span(verb: &'static str, key: &ObjectKey) -> Span {
    debug_span!(
        "write",
        otel.name = format!("{verb} {}", key.kind),
        otel.kind = "client",
        verb,
        kind = key.kind,
        namespace = key.namespace,
        name = key.name,
    )
}

/// Has a child of our kinds continue the trace of the write that makes or changes it. It is no part of what is wanted: neither
/// the digest nor the comparison knows it, so it is never written for its own sake.
pub(super) fn carry_trace(object: &mut Object, span: &Span) {
    if object.gvk.group != <MultigresCluster as Resource>::group(&()) {
        return;
    }
    let Some(mark) = telemetry::mark(span) else { return };
    for (key, value) in mark.annotations(System.now()) {
        object.value["metadata"]["annotations"][key] = value.into();
    }
}

/// What a write to a topology server is about.
pub(super) fn subject(write: &TopoWrite) -> &'static str {
    match write {
        TopoWrite::PutCell(_) => "put cell",
        TopoWrite::DeleteCell(_) => "delete cell",
        TopoWrite::PutDatabase(_) => "put database",
        TopoWrite::DeleteDatabase(_) => "delete database",
        TopoWrite::DeletePooler(_) => "delete pooler",
        TopoWrite::MarkPooler(..) => "mark pooler",
        TopoWrite::DeleteRegistration(_) => "delete registration",
        TopoWrite::ChangeMember(_) => "change member",
    }
}
