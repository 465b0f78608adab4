//! What this process sees of the objects around it, kept up to date by watches of single objects.

use std::{fmt::Debug, sync::Arc};

use futures::{StreamExt as _, future::BoxFuture};
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
use shared::metrics::Watches;
use tokio::sync::watch;
use tracing::debug;

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
    let name: Arc<str> = name.into();
    tasks.push(Box::pin(async move {
        let mut stream = std::pin::pin!(watcher::watch_object(api, &name).default_backoff());
        while let Some(next) = stream.next().await {
            match next {
                Ok(found) => {
                    let found = Sight::from(found.as_ref().and_then(&read));
                    sender.send_if_modified(|last| {
                        let changed = *last != found;
                        *last = found;
                        changed
                    });
                }
                Err(error) => {
                    restarts.inc();
                    debug!(name = &*name, error = %error, "watch is interrupted");
                }
            }
        }
    }));
    seen
}
