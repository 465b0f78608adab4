//! How much of a span is exported: the counts are kept by the SDK, the length of texts here.

use std::time::Duration;

use opentelemetry::{Array, KeyValue, StringValue, Value};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter, SpanLimits},
};

use super::environment::Limits;

/// The limits in the words of the SDK.
pub(super) fn of(limits: Limits) -> SpanLimits {
    let usual = SpanLimits::default();
    SpanLimits {
        max_attributes_per_span: limits.attributes.unwrap_or(usual.max_attributes_per_span),
        max_events_per_span: limits.events.unwrap_or(usual.max_events_per_span),
        max_links_per_span: limits.links.unwrap_or(usual.max_links_per_span),
        max_attributes_per_event: limits.event_attributes.unwrap_or(usual.max_attributes_per_event),
        max_attributes_per_link: limits.link_attributes.unwrap_or(usual.max_attributes_per_link),
    }
}

/// Exports spans whose texts are no longer than allowed.
#[derive(Debug)]
pub(super) struct Cut<E> {
    /// Who sends them.
    pub(super) inner: E,
    /// Most characters of a text; none for as many as there are.
    pub(super) longest: Option<usize>,
}

impl<E: SpanExporter> SpanExporter for Cut<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        if let Some(longest) = self.longest {
            for span in &mut batch {
                shorten(span, longest);
            }
        }
        self.inner.export(batch).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

fn shorten(span: &mut SpanData, longest: usize) {
    let events = span.events.events.iter_mut().flat_map(|event| &mut event.attributes);
    let links = span.links.links.iter_mut().flat_map(|link| &mut link.attributes);
    for KeyValue { value, .. } in span.attributes.iter_mut().chain(events).chain(links) {
        match value {
            Value::String(text) => cut(text, longest),
            Value::Array(Array::String(texts)) => texts.iter_mut().for_each(|text| cut(text, longest)),
            _ => {}
        }
    }
}

fn cut(text: &mut StringValue, longest: usize) {
    if let Some((end, _)) = text.as_str().char_indices().nth(longest) {
        *text = text.as_str()[..end].to_owned().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters_and_nothing_else_is() {
        let cut = |text: &str, longest| {
            let mut value = StringValue::from(text.to_owned());
            super::cut(&mut value, longest);
            value.as_str().to_owned()
        };
        assert_eq!(cut("größe", 3), "grö");
        assert_eq!(cut("größe", 5), "größe");
        assert_eq!(cut("größe", 0), "");
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let limits = of(Limits { events: Some(3), ..Limits::default() });
        assert_eq!((limits.max_events_per_span, limits.max_attributes_per_span), (3, 128));
    }
}
