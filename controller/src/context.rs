//! What every pass may use: the tables, the data plane, the executor, and live reads of what users own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::{Api, Client};
use shared::{
    clock::Clock,
    kubeutil::event::{Event, Recorder},
};

use crate::{
    error::{Error, is_leaving},
    execute::Executor,
    metrics::Metrics,
    plan::Note,
    requeue::Backoff,
    settings::Settings,
    shard::node,
    stores::Stores,
    upstream::Upstream,
};

/// Handles shared by all passes. Tests build it with a fake client.
pub struct Ctx {
    /// What the watches have seen.
    pub stores: Arc<Stores>,
    /// Settings that the flags gave.
    pub settings: Settings,
    /// The data plane: topology servers and poolers.
    pub upstream: Upstream,
    /// The only source of time.
    pub clock: Arc<dyn Clock>,
    /// The only writer.
    pub executor: Executor,
    /// Live reads of objects that belong to users.
    pub references: References,
    /// Delays after failures, per object.
    pub backoff: Backoff,
    /// Metric families of the controller.
    pub metrics: Arc<Metrics>,
    /// Events of users' objects.
    pub events: Events,
    /// Primaries that a Status RPC has confirmed lately.
    pub primaries: crate::shard::primary::Seen,
    /// What is known of repositories.
    pub backups: crate::backup::Memory,
}

/// Publishes notes as Kubernetes events; repeats within an hour are dropped.
pub struct Events {
    recorder: Recorder,
    clock: Arc<dyn Clock>,
}

impl Events {
    /// Publishes through `recorder`.
    pub fn new(recorder: Recorder, clock: Arc<dyn Clock>) -> Self {
        Self { recorder, clock }
    }

    /// Publishes one note about `object`. A failure is logged and nothing else: events are a courtesy.
    pub async fn publish<K>(&self, object: &K, note: &Note)
    where
        K: kube::Resource<DynamicType = ()>,
    {
        let event = if note.warning {
            Event::warning(&note.reason, &note.message)
        } else {
            Event::normal(&note.reason, &note.message)
        };
        let about = object.object_ref(&());
        let call = self.recorder.publish(&about, &event, self.clock.now());
        match tokio::time::timeout(READ_DEADLINE, call).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if is_leaving(&status) => {}
            Ok(Err(error)) => tracing::warn!(%error, reason = note.reason, "event not published"),
            Err(_) => tracing::warn!(reason = note.reason, "event not published in time"),
        }
    }
}

/// How long the answer to a read of a user's object is used again.
const FRESH_FOR: Duration = Duration::from_mins(1);
/// How long the answer to a read of a node is used again, by all shards with pods there.
const NODE_FRESH_FOR: Duration = Duration::from_secs(5);
/// How long one such read may take.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Reads Secrets and ConfigMaps of users by name, each at most once a minute, and the nodes that our pods run on.
///
/// They are never listed or watched: their number is not ours to know, and memory must not grow with it.
pub struct References {
    client: Client,
    seen: Mutex<HashMap<Asked, (Instant, Answer)>>,
    nodes: Mutex<HashMap<String, (Instant, Option<node::Seen>)>>,
}

/// Kind, namespace and name.
type Asked = (&'static str, String, String);
/// What was found; `None` is a fact worth remembering, too.
type Answer = Option<Arc<Seen>>;

/// The content of a user's object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// `data`, as bytes.
    pub data: std::collections::BTreeMap<String, Vec<u8>>,
}

impl References {
    /// Reads through `client`.
    pub fn new(client: Client) -> Self {
        Self { client, seen: Mutex::default(), nodes: Mutex::default() }
    }

    /// The data of a Secret, or `None` if there is none of that name.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Seen>>, Error> {
        if let Some(known) = self.known("Secret", namespace, name) {
            return Ok(known);
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let found = read(api.get_opt(name), "Secret", namespace, name).await?.map(|secret| {
            let data = secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect();
            Arc::new(Seen { data })
        });
        Ok(self.remember("Secret", namespace, name, found))
    }

    /// The data of a ConfigMap, or `None` if there is none of that name.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<Seen>>, Error> {
        if let Some(known) = self.known("ConfigMap", namespace, name) {
            return Ok(known);
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let found = read(api.get_opt(name), "ConfigMap", namespace, name).await?.map(|map| {
            let text = map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes()));
            let binary = map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0));
            Arc::new(Seen { data: text.chain(binary).collect() })
        });
        Ok(self.remember("ConfigMap", namespace, name, found))
    }

    /// What matters of a node, or `None` if there is none of that name. Looked at more often than other objects: who empties a
    /// node waits for us.
    pub async fn node(&self, name: &str) -> Result<Option<node::Seen>, Error> {
        {
            let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            nodes.retain(|_, (at, _)| at.elapsed() < NODE_FRESH_FOR);
            if let Some((_, known)) = nodes.get(name) {
                return Ok(known.clone());
            }
        }
        let api: Api<Node> = Api::all(self.client.clone());
        let found = read(api.get_opt(name), "Node", "", name).await?.map(|node| node::Seen::of(&node));
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.insert(name.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }

    /// What was found lately, if anybody asked.
    fn known(&self, kind: &'static str, namespace: &str, name: &str) -> Option<Answer> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A missing object is asked for again soon: somebody is probably about to create it.
        seen.retain(|_, (at, found)| at.elapsed() < if found.is_some() { FRESH_FOR } else { FRESH_FOR / 12 });
        seen.get(&(kind, namespace.to_owned(), name.to_owned())).map(|(_, found)| found.clone())
    }

    fn remember(&self, kind: &'static str, namespace: &str, name: &str, found: Option<Arc<Seen>>) -> Option<Arc<Seen>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert((kind, namespace.to_owned(), name.to_owned()), (Instant::now(), found.clone()));
        found
    }
}

async fn read<T>(
    call: impl Future<Output = kube::Result<Option<T>>>,
    kind: &'static str,
    namespace: &str,
    name: &str,
) -> Result<Option<T>, Error> {
    let object = || format!("{kind} {namespace}/{name}");
    match tokio::time::timeout(READ_DEADLINE, call).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(source)) => Err(Error::ReadReference { object: object(), source: Box::new(source) }),
        Err(_) => Err(Error::Deadline { what: format!("reading {}", object()), seconds: READ_DEADLINE.as_secs() }),
    }
}
