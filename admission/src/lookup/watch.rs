//! One watch: lists, follows and reports what there is.

use std::fmt::Debug;

use futures::{Stream, StreamExt as _};
use kube::{Resource, runtime::watcher};
use prometheus::IntCounter;
use shared::{
    kubeutil::{Guarded, is_forbidden},
    telemetry,
};

/// Where a watch puts what it sees.
pub trait Sink<K>: Send {
    /// Everything that there is.
    fn replace(&mut self, objects: Vec<K>);
    /// A new or changed object.
    fn put(&mut self, object: K);
    /// An object that is gone.
    fn remove(&mut self, object: K);
    /// The API server does not let us see objects of this kind.
    fn forbidden(&mut self) {}
}

/// What an event carries: an object, or one that may not have been readable.
pub trait Seen: Send {
    /// The object.
    type Object;
    /// The object, when it could be read.
    fn open(self, kind: &str) -> Option<Self::Object>;
}

impl<K: Resource<DynamicType = ()> + Send> Seen for Guarded<K> {
    type Object = K;

    // One bad object must not stall a watch.
    fn open(self, kind: &str) -> Option<K> {
        self.0
            .map_err(|invalid| {
                let meta = &invalid.metadata;
                tracing::error!(kind, namespace = meta.namespace, name = meta.name, error = %invalid.error, "cannot read this object; it is left out");
            })
            .ok()
    }
}

impl<K: Send> Seen for kube::core::PartialObjectMeta<K> {
    type Object = Self;

    fn open(self, _kind: &str) -> Option<Self> {
        Some(self)
    }
}

/// Follows a stream of watch events for as long as it lasts; `complete` is called after each full list.
///
/// An `optional` kind is complete as well when the API server forbids to read it. Other errors are counted as `restarts`.
pub async fn follow<E: Seen + Debug>(
    events: impl Stream<Item = watcher::Result<watcher::Event<E>>>,
    kind: &str,
    optional: bool,
    restarts: &IntCounter,
    mut sink: impl Sink<E::Object>,
    mut complete: impl FnMut(),
) {
    let mut listed = Vec::new();
    let mut forbidden_before = false;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed = Vec::new(),
            Ok(watcher::Event::InitApply(object)) => listed.extend(object.open(kind)),
            Ok(watcher::Event::InitDone) => {
                sink.replace(std::mem::take(&mut listed));
                complete();
                forbidden_before = false;
            }
            Ok(watcher::Event::Apply(object)) => {
                if let Some(object) = object.open(kind) {
                    sink.put(object);
                }
            }
            Ok(watcher::Event::Delete(object)) => {
                if let Some(object) = object.open(kind) {
                    sink.remove(object);
                }
            }
            Err(error) if optional && is_forbidden(&error) => {
                // The watch keeps trying; saying so once is enough.
                if !forbidden_before {
                    tracing::warn!(
                        kind,
                        error = telemetry::chain(&error),
                        "not allowed to read these objects; what depends on them is not checked"
                    );
                }
                forbidden_before = true;
                sink.forbidden();
                complete();
            }
            Err(error) => {
                restarts.inc();
                tracing::warn!(kind, error = telemetry::chain(&error), "watch interrupted; it goes on by itself");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::stream;
    use kube::core::Status;

    use super::*;

    /// Everything readable, for streams of plain numbers.
    impl Seen for u32 {
        type Object = u32;

        fn open(self, _kind: &str) -> Option<u32> {
            (self != 13).then_some(self)
        }
    }

    #[derive(Clone, Default)]
    struct Seen32(Arc<Mutex<Option<Vec<u32>>>>);

    impl Sink<u32> for Seen32 {
        fn replace(&mut self, objects: Vec<u32>) {
            *self.0.lock().unwrap() = Some(objects);
        }

        fn put(&mut self, object: u32) {
            self.0.lock().unwrap().get_or_insert_default().push(object);
        }

        fn remove(&mut self, object: u32) {
            self.0.lock().unwrap().get_or_insert_default().retain(|kept| *kept != object);
        }

        fn forbidden(&mut self) {
            *self.0.lock().unwrap() = None;
        }
    }

    fn forbidden() -> watcher::Error {
        let status = Status { code: 403, ..Status::default() };
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    }

    async fn run(events: Vec<watcher::Result<watcher::Event<u32>>>, optional: bool) -> (Option<Vec<u32>>, usize) {
        let (seen, completed, _) = counted(events, optional).await;
        (seen, completed)
    }

    /// The same, and how many restarts were counted.
    async fn counted(
        events: Vec<watcher::Result<watcher::Event<u32>>>,
        optional: bool,
    ) -> (Option<Vec<u32>>, usize, u64) {
        let sink = Seen32::default();
        let restarts = IntCounter::new("restarts", "of this test").unwrap();
        let mut completed = 0;
        follow(stream::iter(events), "Number", optional, &restarts, sink.clone(), || completed += 1).await;
        let seen = sink.0.lock().unwrap().clone();
        (seen, completed, restarts.get())
    }

    #[tokio::test]
    async fn a_new_list_replaces_what_was_seen_before() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let events = [Init, InitApply(1), InitApply(13), InitDone, Apply(2), Delete(1), Init, InitApply(3)];
        assert_eq!(run(events.into_iter().map(Ok).collect(), false).await, (Some(vec![2]), 1));
        let events = [Init, InitApply(1), InitDone, Init, InitApply(3), InitDone];
        assert_eq!(run(events.into_iter().map(Ok).collect(), false).await, (Some(vec![3]), 2));
    }

    #[tokio::test]
    async fn a_forbidden_kind_is_unknown_but_does_not_hold_up_readiness() {
        assert_eq!(run(vec![Err(forbidden())], true).await, (None, 1));
        assert_eq!(run(vec![Err(forbidden())], false).await, (None, 0));
    }

    #[tokio::test]
    async fn errors_are_counted_unless_nobody_has_to_see_the_kind() {
        use watcher::Event::{Init, InitDone};
        let expired = || Err(watcher::Error::WatchError(Box::new(Status { code: 410, ..Status::default() })));
        assert_eq!(counted(vec![Ok(Init), Ok(InitDone), expired(), expired()], false).await.2, 2);
        assert_eq!(counted(vec![Err(forbidden())], true).await.2, 0);
        assert_eq!(counted(vec![Err(forbidden())], false).await.2, 1);
    }

    #[tokio::test]
    async fn a_kind_that_becomes_readable_becomes_known() {
        use watcher::Event::{Init, InitApply, InitDone};
        let events = vec![Err(forbidden()), Ok(Init), Ok(InitApply(5)), Ok(InitDone)];
        assert_eq!(run(events, true).await.0, Some(vec![5]));
    }
}
