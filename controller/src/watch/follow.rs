//! Follows the objects of one kind, into the tables.

use std::{
    collections::HashSet,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt as _;
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::ApiResource,
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store, store::Writer},
        watcher,
    },
};
use prometheus::IntCounter;
use serde::de::DeserializeOwned;
use shared::{kubeutil::is_forbidden, telemetry};

use super::{Router, unread::Unread};
use crate::{
    gate::Scope,
    stores::{Stores, Table},
};

/// Annotations that are large, of no use to us, and dropped before storing.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Namespace and name.
type Key = (Option<String>, String);

/// The reflector store of a kind. The watches of several namespaces feed it, so it only ever hears of single objects: the end
/// of a list of one of them would drop what the others have seen.
pub struct Shelf<K>(Mutex<Writer<K>>)
where
    K: Resource<DynamicType = ()> + Clone + 'static;

impl<K> Shelf<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    /// An empty store that does not wait for anything; whoever reads it waits for the gate.
    pub fn new(mut writer: Writer<K>) -> Arc<Self> {
        writer.apply_watcher_event(&watcher::Event::Init);
        writer.apply_watcher_event(&watcher::Event::InitDone);
        Arc::new(Self(Mutex::new(writer)))
    }

    fn tell(&self, event: &watcher::Event<K>) -> Store<K> {
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writer.apply_watcher_event(event);
        writer.as_reader()
    }

    /// Stores an object and returns the store's own allocation of it, so that nobody keeps a second copy.
    fn put(&self, object: K) -> Option<Arc<K>> {
        let key = ObjectRef::from_obj(&object);
        self.tell(&watcher::Event::Apply(object)).get(&key)
    }

    fn remove(&self, object: &K) {
        self.tell(&watcher::Event::Delete(object.clone()));
    }
}

/// Where a watch puts what it sees. All that knows the type of the objects is behind this: what lists, watches and waits is compiled once.
trait Sink: Send + Sync {
    /// A new or changed object.
    fn put(&self, object: &Unread) -> Result<(), serde_json::Error>;
    /// An object that is gone.
    fn remove(&self, object: &Unread);
    /// All that there is in a namespace, or anywhere.
    fn keep(&self, namespace: Option<&str>, listed: &HashSet<Key>);
}

struct Typed<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    router: Router,
    table: fn(&Stores) -> &Table<K>,
    shelf: Option<Arc<Shelf<K>>>,
}

impl<K> Typed<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    fn table(&self) -> &Table<K> {
        (self.table)(&self.router.stores)
    }

    fn drop(&self, object: &K) {
        if let Some(shelf) = &self.shelf {
            shelf.remove(object);
        }
        self.table().remove(object);
        self.router.stores.ended.note(object);
        self.router.gone(object);
    }
}

impl<K> Sink for Typed<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
{
    fn put(&self, object: &Unread) -> Result<(), serde_json::Error> {
        let mut object: K = object.read()?;
        prune(&mut object);
        let object = match &self.shelf {
            Some(store) => store.put(object),
            None => Some(Arc::new(object)),
        };
        // It was stored just now, and nobody else touches objects of this scope.
        if let Some(object) = object {
            self.table().insert(Arc::clone(&object));
            self.router.route(&*object);
        }
        Ok(())
    }

    fn remove(&self, object: &Unread) {
        let (namespace, name) = object.key();
        // What was never stored concerns nobody.
        if let Some(known) = self.table().get(namespace.as_deref().unwrap_or_default(), &name) {
            self.drop(&known);
        }
    }

    fn keep(&self, namespace: Option<&str>, listed: &HashSet<Key>) {
        let there = |object: &K| listed.contains(&(object.namespace(), object.name_any()));
        for object in self.table().retain(namespace, there) {
            self.drop(&object);
        }
    }
}

/// Runs one watch until its stream ends, which it does only when the task is dropped.
///
/// With a `shelf` the objects also feed a reflector store, and both share them. Errors are counted as `restarts`.
pub fn run<K>(
    client: Client,
    config: watcher::Config,
    scope: Scope,
    router: Router,
    restarts: IntCounter,
    table: fn(&Stores) -> &Table<K>,
    shelf: Option<Arc<Shelf<K>>>,
) -> impl Future<Output = ()> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let resource = ApiResource::erase::<K>(&());
    let sink = Box::new(Typed { router: router.clone(), table, shelf });
    follow(client, resource, config, scope, router, restarts, sink)
}

async fn follow(
    client: Client,
    resource: ApiResource,
    config: watcher::Config,
    scope: Scope,
    router: Router,
    restarts: IntCounter,
    sink: Box<dyn Sink>,
) {
    let kind = resource.kind.as_str();
    let api: Api<Unread> = match &scope {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    // One bad object must not stall a whole watch, and must not look deleted.
    let put = |object: &Unread| {
        if let Err(error) = sink.put(object) {
            let (namespace, name) = object.key();
            tracing::error!(kind, namespace, name, %error, "cannot read this object; the last version that could be read stays in force");
        }
    };
    let mut first = true;
    let mut listed: HashSet<Key> = HashSet::new();
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Err(error) => {
                restarts.inc();
                tracing::warn!(%kind, namespace = scope, error = telemetry::chain(&error), "watch interrupted; it goes on by itself");
                if first && is_forbidden(&error) {
                    router.gate.refused(&scope);
                }
            }
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(object.key());
                put(&object);
            }
            Ok(watcher::Event::Apply(object)) => put(&object),
            Ok(watcher::Event::Delete(object)) => sink.remove(&object),
            Ok(watcher::Event::InitDone) => {
                sink.keep(scope.as_deref(), &std::mem::take(&mut listed));
                if std::mem::take(&mut first) {
                    router.listed(&scope);
                }
            }
        }
    }
}

fn prune<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = meta.annotations.as_mut() {
        annotations.remove(LAST_APPLIED);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::gate::Gate;

    /// Lists and watches of two namespaces, played: the first watch of `fickle` expires, and a list with one pod less follows.
    fn two_namespaces() -> Client {
        let lists = Arc::new(AtomicUsize::new(0));
        let service = tower::service_fn(move |request: Request<Body>| {
            let lists = Arc::clone(&lists);
            async move {
                let uri = request.uri().to_string();
                let fickle = uri.contains("/namespaces/fickle/");
                if uri.contains("watch=true") {
                    if !fickle || lists.load(Ordering::Relaxed) > 1 {
                        return std::future::pending().await;
                    }
                    let status = json!({"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410});
                    let event = json!({"type": "ERROR", "object": status}).to_string() + "\n";
                    return Ok::<_, Infallible>(Response::new(Body::from(event.into_bytes())));
                }
                let round = if fickle { lists.fetch_add(1, Ordering::Relaxed) } else { 0 };
                let namespace = if fickle { "fickle" } else { "steady" };
                let names = if round == 0 { vec!["a", "b"] } else { vec!["b"] };
                let pod = |name| json!({"metadata": {"name": name, "namespace": namespace, "resourceVersion": "1"}});
                let list = json!({
                    "apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"},
                    "items": names.into_iter().map(pod).collect::<Vec<_>>(),
                });
                Ok(Response::new(Body::from(list.to_string().into_bytes())))
            }
        });
        Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_list_of_one_namespace_drops_nothing_of_another() {
        let (client, gate, stores) = (two_namespaces(), Arc::new(Gate::default()), Arc::new(Stores::default()));
        let (router, _queues) = Router::new(Arc::clone(&stores), Arc::clone(&gate));
        let (store, writer) = kube::runtime::reflector::store::<Pod>();
        let shelf = Shelf::new(writer);
        let scopes = ["fickle", "steady"].map(|namespace| Some(namespace.to_owned()));
        for scope in &scopes {
            gate.expect(scope);
        }
        let restarts = IntCounter::new("restarts", "of this test").unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for scope in scopes {
            let (shelf, restarts) = (Some(Arc::clone(&shelf)), restarts.clone());
            let config = watcher::Config::default();
            tasks.spawn(run(client.clone(), config, scope, router.clone(), restarts, |s| &s.pods, shelf));
        }
        assert!(gate.settled().await.is_empty());
        let gone = async {
            while stores.pods.get("fickle", "a").is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(5), gone).await.expect("the second list was not heard of");
        let names = |namespace: &str| -> Vec<String> {
            stores.pods.in_namespace(namespace).iter().map(|pod| pod.name_any()).collect()
        };
        assert_eq!((names("fickle"), names("steady")), (vec!["b".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(store.len(), 3);
        assert_eq!(restarts.get(), 1, "the watch that expired");
        let shared = stores.pods.get("steady", "a").unwrap();
        assert!(Arc::ptr_eq(&shared, &store.get(&ObjectRef::new("a").within("steady")).unwrap()));
    }
}
