//! What this process sees of the objects around it, kept up to date by watches of single objects.

use std::fmt::Debug;

use futures::{Stream, StreamExt as _, future::BoxFuture};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    core::v1::Secret,
};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt as _, watcher},
};
use prometheus::IntCounter;
use serde::de::DeserializeOwned;
use shared::{metrics::Watches, telemetry};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{Mode, Settings, configuration::View, files, material::Parts, secret};

/// What is known about something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Sight<T> {
    /// Nothing: no answer has come yet.
    #[default]
    Unknown,
    /// It is not there.
    Absent,
    /// It is there.
    Present(T),
}

impl<T> Sight<T> {
    /// Returns what is there.
    pub fn present(self) -> Option<T> {
        match self {
            Self::Present(seen) => Some(seen),
            Self::Unknown | Self::Absent => None,
        }
    }
}

impl<T> From<Option<T>> for Sight<T> {
    fn from(found: Option<T>) -> Self {
        found.map_or(Self::Absent, Self::Present)
    }
}

/// Something that is kept in sight.
pub(super) type Seen<T> = watch::Receiver<Sight<T>>;

/// The objects that are watched.
pub(super) struct Watched {
    /// The mutating configuration.
    pub mutating: Seen<View>,
    /// The validating configuration.
    pub validating: Seen<View>,
    /// The serving certificate.
    pub leaf: Seen<Parts>,
    /// Changes whenever our authority's Secret does.
    pub authority: Seen<String>,
    tasks: Vec<BoxFuture<'static, ()>>,
}

impl Watched {
    /// Keeps watching; never ends.
    pub async fn run(self) {
        futures::future::join_all(self.tasks).await;
    }
}

/// Returns what is seen; nothing is until [`Watched::run`] runs.
pub(super) fn start(client: &Client, settings: &Settings, metrics: &Watches) -> Watched {
    let mut tasks: Vec<BoxFuture<'static, ()>> = vec![];
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let mutating = object::<MutatingWebhookConfiguration, _>(
        &mut tasks,
        Api::all(client.clone()),
        &settings.mutating,
        metrics.of(&MutatingWebhookConfiguration::kind(&())),
        View::of,
    );
    let validating = object::<ValidatingWebhookConfiguration, _>(
        &mut tasks,
        Api::all(client.clone()),
        &settings.validating,
        metrics.of(&ValidatingWebhookConfiguration::kind(&())),
        View::of,
    );
    let restarts = metrics.of(&Secret::kind(&()));
    let (leaf, authority) = match settings.mode {
        Mode::SelfSigned => (
            object(&mut tasks, secrets.clone(), &settings.server_secret, restarts.clone(), |found| {
                Some(secret::parts(found))
            }),
            object(&mut tasks, secrets, &settings.ca_secret, restarts, |found: &Secret| {
                found.metadata.resource_version.clone()
            }),
        ),
        Mode::Files => {
            let (sender, leaf) = watch::channel(Sight::Unknown);
            tasks.push(Box::pin(files::follow(settings.directory.clone(), sender)));
            (leaf, watch::channel(Sight::Absent).1)
        }
    };
    Watched { mutating, validating, leaf, authority, tasks }
}

/// Watches one object, and reads what matters of it.
fn object<K, T>(
    tasks: &mut Vec<BoxFuture<'static, ()>>,
    api: Api<K>,
    name: &str,
    restarts: IntCounter,
    read: impl Fn(&K) -> Option<T> + Send + Sync + 'static,
) -> Seen<T>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    T: PartialEq + Send + Sync + 'static,
{
    let (sender, seen) = watch::channel(Sight::Unknown);
    let events = watcher::watch_object(api, name).default_backoff();
    let name = name.to_owned();
    tasks.push(Box::pin(async move {
        let complain = |error: &watcher::Error, first: bool| {
            restarts.inc();
            let error = telemetry::chain(error);
            if first {
                warn!(name = &*name, error, "cannot watch what the certificates depend on; it is tried again");
            } else {
                debug!(name = &*name, error, "still cannot watch it");
            }
        };
        follow(events, read, sender, complain).await;
    }));
    seen
}

/// Tells what is seen of one object. `complain` hears of each failure, and whether it is the first one since something was seen.
async fn follow<K, T: PartialEq>(
    events: impl Stream<Item = watcher::Result<Option<K>>>,
    read: impl Fn(&K) -> Option<T>,
    sender: watch::Sender<Sight<T>>,
    complain: impl Fn(&watcher::Error, bool),
) {
    let mut failing = false;
    let mut events = std::pin::pin!(events);
    while let Some(next) = events.next().await {
        match next {
            Ok(found) => {
                failing = false;
                let found = Sight::from(found.as_ref().and_then(&read));
                sender.send_if_modified(|last| {
                    let changed = *last != found;
                    *last = found;
                    changed
                });
            }
            Err(error) => complain(&error, !std::mem::replace(&mut failing, true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn a_streak_of_failures_is_told_once_and_what_is_seen_ends_it() {
        let failure = || Err(watcher::Error::NoResourceVersion);
        let events = [failure(), failure(), Ok(Some(1)), failure(), failure(), Ok(None)];
        let told = RefCell::new(Vec::new());
        let (sender, seen) = watch::channel(Sight::Unknown);
        let complain = |_: &watcher::Error, first: bool| told.borrow_mut().push(first);
        follow(stream::iter(events), |number: &u32| Some(*number), sender, complain).await;
        assert_eq!(told.into_inner(), [true, false, true, false]);
        assert_eq!(*seen.borrow(), Sight::Absent);
    }
}
