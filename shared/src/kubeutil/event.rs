//! Kubernetes events about our objects, each said once an hour at most.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event as Wire},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams, runtime::events::Reporter};

use crate::condition::shorten;

/// How long the same event about the same object is not repeated.
const QUIET: SignedDuration = SignedDuration::from_hours(1);
/// How many events are remembered; beyond that the oldest are forgotten and may be said again.
const REMEMBERED: usize = 4096;
/// Longest note that the API server accepts, in bytes.
const MAX_NOTE: usize = 1024;
/// Namespace for events about objects outside of namespaces.
const CLUSTER_EVENTS: &str = "default";

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// Whether it deserves attention.
    pub severity: Severity,
    /// CamelCase word that names it.
    pub reason: String,
    /// Sentence for a person.
    pub note: String,
    /// CamelCase word for what the operator was doing.
    pub action: String,
}

/// Whether an event deserves attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display)]
pub enum Severity {
    /// A step that is part of normal work.
    Normal,
    /// Something that a person may have to look at.
    Warning,
}

impl Event {
    /// Returns a Normal event.
    pub fn normal(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self::new(Severity::Normal, reason.into(), note.into())
    }

    /// Returns a Warning event.
    pub fn warning(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self::new(Severity::Warning, reason.into(), note.into())
    }

    fn new(severity: Severity, reason: String, note: String) -> Self {
        Self { severity, reason, note, action: "Reconcile".to_owned() }
    }
}

/// Publishes events, without repeating itself.
///
/// It creates each event itself instead of using kube's recorder, which folds events of one reason into a series and so
/// loses every note but the first.
pub struct Recorder {
    client: Client,
    reporter: Reporter,
    said: Mutex<Said>,
}

impl Recorder {
    /// Returns a recorder that reports in the name of `reporter`.
    pub fn new(client: Client, reporter: Reporter) -> Self {
        Self { client, reporter, said: Mutex::default() }
    }

    /// Publishes an event about an object and returns whether it was sent or had been said before.
    ///
    /// An event that the API server refused is not remembered, so that the next attempt is sent.
    pub async fn publish(&self, about: &ObjectReference, event: &Event, now: Timestamp) -> Result<bool, kube::Error> {
        let key = key(about, event);
        if !self.said().admit(key, now) {
            return Ok(false);
        }
        let namespace = about.namespace.as_deref().unwrap_or(CLUSTER_EVENTS);
        let api: Api<Wire> = Api::namespaced(self.client.clone(), namespace);
        let sent = api.create(&PostParams::default(), &wire(&self.reporter, about, event, now)).await;
        if let Err(error) = sent {
            self.said().forget(key);
            return Err(error);
        }
        Ok(true)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was said within the last hour, oldest first.
#[derive(Debug, Default)]
struct Said {
    order: VecDeque<(Timestamp, u64)>,
    keys: HashSet<u64>,
}

impl Said {
    /// Returns whether an event may be said now, and remembers it if so.
    fn admit(&mut self, key: u64, now: Timestamp) -> bool {
        while let Some((at, oldest)) = self.order.front().copied()
            && (now.duration_since(at) >= QUIET || self.order.len() >= REMEMBERED)
        {
            self.order.pop_front();
            self.keys.remove(&oldest);
        }
        let new = self.keys.insert(key);
        if new {
            self.order.push_back((now, key));
        }
        new
    }

    fn forget(&mut self, key: u64) {
        self.keys.remove(&key);
        self.order.retain(|(_, known)| *known != key);
    }
}

fn key(about: &ObjectReference, event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&about.uid, &about.kind, &about.namespace, &about.name).hash(&mut hasher);
    event.hash(&mut hasher);
    hasher.finish()
}

fn wire(reporter: &Reporter, about: &ObjectReference, event: &Event, now: Timestamp) -> Wire {
    let namespace = about.namespace.clone().unwrap_or_else(|| CLUSTER_EVENTS.to_owned());
    // Two events of one moment must not share a name, so their content is part of it.
    let suffix = format!(".{:x}", now.as_nanosecond() ^ i128::from(key(about, event)));
    let subject = about.name.as_deref().unwrap_or(&reporter.controller);
    let subject = &subject[..subject.floor_char_boundary(253 - suffix.len())];
    Wire {
        action: Some(event.action.clone()),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta {
            name: Some(format!("{}{suffix}", subject.trim_end_matches(['.', '-']))),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        note: Some(shorten(&event.note, MAX_NOTE)),
        reason: Some(event.reason.clone()),
        regarding: Some(about.clone()),
        reporting_controller: Some(reporter.controller.clone()),
        reporting_instance: Some(reporter.instance.clone().unwrap_or_else(|| reporter.controller.clone())),
        type_: Some(event.severity.to_string()),
        ..Wire::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn about(name: &str) -> ObjectReference {
        ObjectReference {
            kind: Some("Shard".to_owned()),
            namespace: Some("prod".to_owned()),
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        }
    }

    #[test]
    fn same_event_is_said_once_an_hour() {
        let mut said = Said::default();
        let event = key(&about("a"), &Event::warning("Stuck", "No primary."));
        assert!(said.admit(event, at(0)));
        assert!(!said.admit(event, at(3599)));
        assert!(said.admit(event, at(3600)));
        assert!(!said.admit(event, at(3601)));
    }

    #[test]
    fn object_reason_and_note_tell_events_apart() {
        let base = key(&about("a"), &Event::warning("Stuck", "No primary."));
        assert_ne!(base, key(&about("b"), &Event::warning("Stuck", "No primary.")));
        assert_ne!(base, key(&about("a"), &Event::warning("Slow", "No primary.")));
        assert_ne!(base, key(&about("a"), &Event::warning("Stuck", "No quorum.")));
        assert_ne!(base, key(&about("a"), &Event::normal("Stuck", "No primary.")));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut said = Said::default();
        for key in 0..5000 {
            assert!(said.admit(key, at(0)));
        }
        assert_eq!(said.order.len(), REMEMBERED);
        assert_eq!(said.keys.len(), REMEMBERED);
        assert!(said.admit(0, at(1)));
        assert!(!said.admit(4999, at(1)));
    }

    #[test]
    fn forgotten_event_may_be_said_again() {
        let mut said = Said::default();
        assert!(said.admit(7, at(0)));
        said.forget(7);
        assert!(said.admit(7, at(0)));
        assert_eq!(said.order.len(), 1);
    }

    #[test]
    fn wire_event_fits_the_limits_of_the_api_server() {
        let reporter = Reporter { controller: "shard-controller".to_owned(), instance: None };
        let event = Event::warning("Stuck", "ü".repeat(2000));
        let wire = wire(&reporter, &about(&"a".repeat(253)), &event, at(1_700_000_000));
        assert!(wire.metadata.name.unwrap().len() <= 253);
        assert!(wire.note.unwrap().len() <= MAX_NOTE);
        assert_eq!(wire.type_.as_deref(), Some("Warning"));
        assert_eq!(wire.reporting_instance.as_deref(), Some("shard-controller"));
        let other = Event::warning("Slow", "x");
        let (one, two) =
            (super::wire(&reporter, &about("a"), &event, at(5)), super::wire(&reporter, &about("a"), &other, at(5)));
        assert_ne!(one.metadata.name, two.metadata.name);
    }
}
