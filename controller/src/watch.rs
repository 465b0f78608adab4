//! Watches: one per kind and watched namespace, filtered by label at the server, pruned before storing, and routed to the
//! objects they concern.

use std::{
    collections::HashSet,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt as _;
use kube::{
    Api, Resource, ResourceExt as _,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use shared::{
    api::v1alpha1::{Cell, MultigresBackup, MultigresCluster, Shard, TableGroup, TopoServer},
    label,
    name::{self, ShardId},
    telemetry,
};
use tokio::sync::mpsc;

use crate::{
    gate::{Gate, Scope},
    stores::{Stores, Table},
};

/// Annotations that are large, of no use to us, and dropped before storing.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Where the watches report which objects are to be looked at.
#[derive(Clone)]
pub struct Router {
    stores: Arc<Stores>,
    gate: Arc<Gate>,
    /// Queue of the MultigresCluster controller.
    pub clusters: mpsc::UnboundedSender<ObjectRef<MultigresCluster>>,
    /// Queue of the Cell controller.
    pub cells: mpsc::UnboundedSender<ObjectRef<Cell>>,
    /// Queue of the TableGroup controller.
    pub table_groups: mpsc::UnboundedSender<ObjectRef<TableGroup>>,
    /// Queue of the Shard controller.
    pub shards: mpsc::UnboundedSender<ObjectRef<Shard>>,
    /// Queue of the TopoServer controller.
    pub topo_servers: mpsc::UnboundedSender<ObjectRef<TopoServer>>,
    /// Queue of the MultigresBackup controller.
    pub backups: mpsc::UnboundedSender<ObjectRef<MultigresBackup>>,
}

/// The receiving ends of a [`Router`].
pub struct Queues {
    /// For the MultigresCluster controller.
    pub clusters: mpsc::UnboundedReceiver<ObjectRef<MultigresCluster>>,
    /// For the Cell controller.
    pub cells: mpsc::UnboundedReceiver<ObjectRef<Cell>>,
    /// For the TableGroup controller.
    pub table_groups: mpsc::UnboundedReceiver<ObjectRef<TableGroup>>,
    /// For the Shard controller.
    pub shards: mpsc::UnboundedReceiver<ObjectRef<Shard>>,
    /// For the TopoServer controller.
    pub topo_servers: mpsc::UnboundedReceiver<ObjectRef<TopoServer>>,
    /// For the MultigresBackup controller.
    pub backups: mpsc::UnboundedReceiver<ObjectRef<MultigresBackup>>,
}

/// One object of ours that an event concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// Kind of ours.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

impl Router {
    /// A router and the queues that it feeds. What `gate` has not opened yet is not reported.
    pub fn new(stores: Arc<Stores>, gate: Arc<Gate>) -> (Self, Queues) {
        let (clusters, clusters_queue) = mpsc::unbounded_channel();
        let (cells, cells_queue) = mpsc::unbounded_channel();
        let (table_groups, table_groups_queue) = mpsc::unbounded_channel();
        let (shards, shards_queue) = mpsc::unbounded_channel();
        let (topo_servers, topo_servers_queue) = mpsc::unbounded_channel();
        let (backups, backups_queue) = mpsc::unbounded_channel();
        let router = Self { stores, gate, clusters, cells, table_groups, shards, topo_servers, backups };
        let queues = Queues {
            clusters: clusters_queue,
            cells: cells_queue,
            table_groups: table_groups_queue,
            shards: shards_queue,
            topo_servers: topo_servers_queue,
            backups: backups_queue,
        };
        (router, queues)
    }

    fn route<K: Resource<DynamicType = ()>>(&self, object: &K) {
        let Some(namespace) = object.namespace() else { return };
        if !self.gate.is_open(&namespace) {
            return;
        }
        let kind = K::kind(&());
        if matches!(&*kind, "CoreTemplate" | "CellTemplate" | "ShardTemplate") {
            // Any cluster of the namespace may use it, also implicitly; a pass that finds nothing changed writes nothing.
            for cluster in self.stores.clusters.in_namespace(&namespace) {
                self.send("MultigresCluster", &namespace, &cluster.name_any());
            }
            return;
        }
        for concern in concerns(object) {
            self.send(concern.kind, &namespace, &concern.name);
        }
    }

    /// What the watches have seen.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Has every cluster looked at, because something changed that any of them may need.
    pub fn every_cluster(&self) {
        for cluster in self.stores.clusters.all() {
            let namespace = cluster.namespace().unwrap_or_default();
            if self.gate.is_open(&namespace) {
                self.send("MultigresCluster", &namespace, &cluster.name_any());
            }
        }
    }

    /// Counts the first list of a watch. With the last one of a scope everything of ours in it is looked at.
    fn listed(&self, scope: &Scope) {
        if !self.gate.listed(scope) {
            return;
        }
        let namespace = scope.as_deref();
        tracing::info!(namespace, "everything is listed");
        self.all_of(&self.stores.clusters, namespace);
        self.all_of(&self.stores.cells, namespace);
        self.all_of(&self.stores.table_groups, namespace);
        self.all_of(&self.stores.shards, namespace);
        self.all_of(&self.stores.backups, namespace);
        self.all_of(&self.stores.topo_servers, namespace);
    }

    fn all_of<K: Resource<DynamicType = ()>>(&self, table: &Table<K>, namespace: Option<&str>) {
        for object in table.within(namespace) {
            let namespace = object.namespace().unwrap_or_default();
            self.send(&K::kind(&()), &namespace, &object.name_any());
        }
    }

    /// A closed queue means that its controller has stopped, which only happens at shutdown.
    fn send(&self, kind: &str, namespace: &str, name: &str) {
        let sent = match kind {
            "MultigresCluster" => self.clusters.send(ObjectRef::new(name).within(namespace)).is_ok(),
            "Cell" => self.cells.send(ObjectRef::new(name).within(namespace)).is_ok(),
            "TableGroup" => self.table_groups.send(ObjectRef::new(name).within(namespace)).is_ok(),
            "Shard" => self.shards.send(ObjectRef::new(name).within(namespace)).is_ok(),
            "TopoServer" => self.topo_servers.send(ObjectRef::new(name).within(namespace)).is_ok(),
            "MultigresBackup" => self.backups.send(ObjectRef::new(name).within(namespace)).is_ok(),
            _ => true,
        };
        if !sent {
            tracing::debug!(kind, namespace, name, "event after the controller stopped");
        }
    }
}

/// Which objects of ours an event about `object` concerns: itself, its owner, or, for what outlives its owner, the object that
/// its labels name.
pub fn concerns<K: Resource<DynamicType = ()>>(object: &K) -> Vec<Concern> {
    const OURS: [&str; 6] = ["MultigresCluster", "Cell", "TableGroup", "Shard", "TopoServer", "MultigresBackup"];
    let known = |kind: &str| OURS.into_iter().find(|ours| *ours == kind);
    let mut found = Vec::new();
    if K::group(&()) == shared::api::GROUP
        && let Some(kind) = known(&K::kind(&()))
    {
        found.push(Concern { kind, name: object.name_any() });
    }
    let owner = object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    if let Some(owner) = owner {
        if owner.api_version.starts_with(shared::api::GROUP)
            && let Some(kind) = known(&owner.kind)
        {
            found.push(Concern { kind, name: owner.name.clone() });
        }
        return found;
    }
    if !found.is_empty() {
        return found;
    }
    let label = |key: &str| object.labels().get(key).map(String::as_str);
    let Some(cluster) = label(label::INSTANCE) else { return found };
    match (label(label::DATABASE), label(label::TABLE_GROUP), label(label::SHARD)) {
        (Some(database), Some(group), Some(shard)) => {
            found.push(Concern {
                kind: "Shard",
                name: name::shard(ShardId { cluster, database, table_group: group, shard }),
            });
        }
        _ => found.push(Concern { kind: "MultigresCluster", name: cluster.to_owned() }),
    }
    found
}

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

/// Runs one watch until its stream ends, which it does only when the task is dropped.
///
/// With a `shelf` the objects also feed a reflector store, and both share them.
pub async fn run<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    scope: Scope,
    router: Router,
    table: impl Fn(&Stores) -> &Table<K> + Send,
    shelf: Option<Arc<Shelf<K>>>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let kind = K::kind(&()).into_owned();
    let stores = Arc::clone(&router.stores);
    let table = table(&stores);
    let put = |object: K| {
        let object = match &shelf {
            Some(shelf) => shelf.put(object),
            None => Some(Arc::new(object)),
        };
        // It was stored just now, and nobody else touches objects of this scope.
        let Some(object) = object else { return };
        table.insert(Arc::clone(&object));
        router.route(&*object);
    };
    let remove = |object: &K| {
        if let Some(shelf) = &shelf {
            shelf.remove(object);
        }
        table.remove(object);
        router.route(object);
    };
    let mut first = true;
    let mut listed: HashSet<(Option<String>, String)> = HashSet::new();
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%kind, namespace = scope, error = telemetry::chain(&error), "watch interrupted; it goes on by itself");
                if first && is_forbidden(&error) {
                    router.gate.refused(&scope);
                }
                continue;
            }
        };
        let Some(event) = unguarded(event, &kind, &mut listed) else { continue };
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => {
                listed.insert((object.namespace(), object.name_any()));
                put(object);
            }
            watcher::Event::Apply(object) => put(object),
            watcher::Event::Delete(object) => remove(&object),
            watcher::Event::InitDone => {
                let gone =
                    table.retain(scope.as_deref(), |object| listed.contains(&(object.namespace(), object.name_any())));
                for object in gone {
                    remove(&object);
                }
                listed = HashSet::new();
                if std::mem::take(&mut first) {
                    router.listed(&scope);
                }
            }
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return false;
    };
    status.code == 403
}

/// Unwraps a guarded event. An object that does not parse is logged and kept as it was last seen: one bad object must not
/// stall a whole watch, and must not look deleted.
fn unguarded<K>(
    event: watcher::Event<DeserializeGuard<K>>,
    kind: &str,
    listed: &mut HashSet<(Option<String>, String)>,
) -> Option<watcher::Event<K>>
where
    K: Resource<DynamicType = ()>,
{
    let mut open = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(mut object) => {
            prune(&mut object);
            Some(object)
        }
        Err(invalid) => {
            let meta = &invalid.metadata;
            let name = meta.name.clone().unwrap_or_default();
            tracing::error!(kind, namespace = meta.namespace, name, error = %invalid.error, "cannot read this object; the last version that could be read stays in force");
            listed.insert((meta.namespace.clone(), name));
            None
        }
    };
    Some(match event {
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitDone => watcher::Event::InitDone,
        watcher::Event::InitApply(guard) => watcher::Event::InitApply(open(guard)?),
        watcher::Event::Apply(guard) => watcher::Event::Apply(open(guard)?),
        watcher::Event::Delete(guard) => watcher::Event::Delete(open(guard)?),
    })
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
        collections::BTreeMap,
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use http::{Request, Response};
    use k8s_openapi::{
        api::core::v1::{PersistentVolumeClaim, Pod, Secret},
        apimachinery::pkg::apis::meta::v1::OwnerReference,
    };
    use kube::{Client, client::Body};
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

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
        let mut tasks = tokio::task::JoinSet::new();
        for scope in scopes {
            let api = Api::namespaced(client.clone(), scope.as_deref().unwrap());
            let shelf = Some(Arc::clone(&shelf));
            tasks.spawn(run(api, watcher::Config::default(), scope, router.clone(), |s| &s.pods, shelf));
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
        let shared = stores.pods.get("steady", "a").unwrap();
        assert!(Arc::ptr_eq(&shared, &store.get(&ObjectRef::new("a").within("steady")).unwrap()));
    }

    #[test]
    fn nothing_is_reported_before_everything_is_listed() {
        let (gate, stores) = (Arc::new(Gate::default()), Arc::new(Stores::default()));
        let (router, mut queues) = Router::new(Arc::clone(&stores), Arc::clone(&gate));
        let scope = Some("prod".to_owned());
        gate.expect(&scope);
        gate.expect(&scope);
        let mut cell = Cell::new("c", shared::api::v1alpha1::CellSpec::default());
        cell.metadata.namespace = scope.clone();
        stores.cells.insert(Arc::new(cell.clone()));
        router.route(&cell);
        router.listed(&scope);
        assert!(queues.cells.try_recv().is_err());
        router.listed(&scope);
        assert_eq!(queues.cells.try_recv().unwrap().name, "c");
        router.route(&cell);
        assert_eq!(queues.cells.try_recv().unwrap().name, "c");
    }

    #[test]
    fn a_child_concerns_its_owner() {
        let mut pod = Pod::default();
        pod.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "multigres.com/v1alpha1".into(),
            kind: "Shard".into(),
            name: "s".into(),
            uid: "u".into(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
        assert_eq!(concerns(&pod), [Concern { kind: "Shard", name: "s".into() }]);
    }

    #[test]
    fn a_retained_claim_concerns_the_shard_that_its_labels_name() {
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.labels = Some(labels(&[
            (label::INSTANCE, "demo"),
            (label::DATABASE, "postgres"),
            (label::TABLE_GROUP, "default"),
            (label::SHARD, "0-inf"),
        ]));
        let expected =
            name::shard(ShardId { cluster: "demo", database: "postgres", table_group: "default", shard: "0-inf" });
        assert_eq!(concerns(&claim), [Concern { kind: "Shard", name: expected }]);
    }

    #[test]
    fn a_secret_without_owner_concerns_the_cluster() {
        let mut secret = Secret::default();
        secret.metadata.labels = Some(labels(&[(label::INSTANCE, "demo")]));
        assert_eq!(concerns(&secret), [Concern { kind: "MultigresCluster", name: "demo".into() }]);
    }

    #[test]
    fn a_child_kind_concerns_itself_and_its_owner() {
        let mut cell = Cell::new("c", shared::api::v1alpha1::CellSpec::default());
        cell.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "multigres.com/v1alpha1".into(),
            kind: "MultigresCluster".into(),
            name: "m".into(),
            uid: "u".into(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
        let found: Vec<&str> = concerns(&cell).iter().map(|c| c.kind).collect();
        assert_eq!(found, ["Cell", "MultigresCluster"]);
    }
}
