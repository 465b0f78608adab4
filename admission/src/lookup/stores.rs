//! The local stores: complete after the first lists, then kept up to date by watches.
//!
//! Only what is asked for is kept: the specs of templates and clusters, names of storage classes and which of them is the
//! default, and the location labels of nodes, of which nothing but metadata is ever transferred.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Node, api::storage::v1::StorageClass};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ListParams,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;
use shared::{
    admin::Readiness,
    api::v1alpha1::{CellTemplate, CoreTemplate, MultigresCluster, ShardTemplate},
    kubeutil::Guarded,
    metrics::Watches,
    resolve::{REGION_LABEL, Templates, ZONE_LABEL},
    validate::{NodeLabels, StorageClasses, Surroundings},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    Cluster, Lookup, LookupError,
    flight::Flights,
    sink::{ClassSink, ClusterSink, NodeSink, TemplateSink, is_default, kept, named},
    watch::{Seen as _, Sink, follow},
};

/// Name of the readiness condition.
const CONDITION: &str = "stores";
/// Objects per page of a list.
const PAGE: u32 = 500;

/// What to watch.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespaces to watch; none means all.
    pub namespaces: Vec<String>,
    /// Node label that a cell's `zoneId` selects.
    pub zone_id_label: String,
}

/// The stores of this process.
pub struct Stores {
    client: Client,
    namespaces: BTreeSet<String>,
    pub(super) labels: Vec<String>,
    pub(super) templates: RwLock<BTreeMap<String, Arc<Templates>>>,
    pub(super) clusters: RwLock<BTreeMap<String, BTreeMap<String, Arc<Cluster>>>>,
    pub(super) classes: Mutex<Option<BTreeMap<String, bool>>>,
    pub(super) nodes: Mutex<Option<BTreeMap<String, Places>>>,
    surroundings: ArcSwap<Surroundings>,
    live: Live,
    pending: AtomicUsize,
    complete: AtomicBool,
    readiness: Readiness,
}

/// What is being read from the API server, by namespace where it has one.
#[derive(Default)]
struct Live {
    templates: Flights<String, Found<Arc<Templates>>>,
    clusters: Flights<String, Found<Vec<Arc<Cluster>>>>,
    classes: Flights<(), Found<Option<StorageClasses>>>,
}

type Found<T> = Result<T, LookupError>;

/// Values of the location labels of a node, in the order of [`Stores::labels`].
pub(super) type Places = Vec<Option<String>>;

impl Stores {
    /// Starts to fill the stores. They are complete when the condition `stores` holds; the task ends with the token.
    pub fn start(
        client: Client,
        token: CancellationToken,
        readiness: &Readiness,
        settings: Settings,
        metrics: &Watches,
    ) -> (Arc<Self>, JoinHandle<()>) {
        let stores = Arc::new(Self::new(client, readiness.clone(), settings));
        readiness.expect(CONDITION);
        let watches = Arc::clone(&stores).all_watches(metrics);
        stores.pending.store(watches.len(), Ordering::Relaxed);
        let task = tokio::spawn(async move {
            // Watches never end by themselves.
            let _cancelled = token.run_until_cancelled(futures::future::join_all(watches)).await;
        });
        (stores, task)
    }

    fn new(client: Client, readiness: Readiness, settings: Settings) -> Self {
        let labels = BTreeSet::from([ZONE_LABEL.to_owned(), REGION_LABEL.to_owned(), settings.zone_id_label]);
        Self {
            client,
            namespaces: settings.namespaces.into_iter().collect(),
            labels: labels.into_iter().collect(),
            templates: RwLock::default(),
            clusters: RwLock::default(),
            classes: Mutex::default(),
            nodes: Mutex::default(),
            surroundings: ArcSwap::default(),
            live: Live::default(),
            pending: AtomicUsize::new(0),
            complete: AtomicBool::new(false),
            readiness,
        }
    }

    fn all_watches(self: Arc<Self>, metrics: &Watches) -> Vec<BoxFuture<'static, ()>> {
        let scopes: Vec<Option<String>> =
            if self.namespaces.is_empty() { vec![None] } else { self.namespaces.iter().cloned().map(Some).collect() };
        let mut watches = Vec::new();
        for scope in scopes {
            watches.push(Arc::clone(&self).watch::<CoreTemplate, _>(scope.clone(), TemplateSink::new, metrics));
            watches.push(Arc::clone(&self).watch::<CellTemplate, _>(scope.clone(), TemplateSink::new, metrics));
            watches.push(Arc::clone(&self).watch::<ShardTemplate, _>(scope.clone(), TemplateSink::new, metrics));
            watches.push(Arc::clone(&self).watch::<MultigresCluster, _>(scope, ClusterSink::new, metrics));
        }
        watches.push(Arc::clone(&self).watch_metadata::<StorageClass, _>(ClassSink(Arc::clone(&self)), metrics));
        watches.push(Arc::clone(&self).watch_metadata::<Node, _>(NodeSink(self), metrics));
        watches
    }

    fn watch<K, S>(
        self: Arc<Self>,
        scope: Option<String>,
        sink: fn(Arc<Self>, Option<String>) -> S,
        metrics: &Watches,
    ) -> BoxFuture<'static, ()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
        S: Sink<K> + 'static,
    {
        let api: Api<Guarded<K>> = self.api(scope.as_deref());
        let kind = K::kind(&()).into_owned();
        let restarts = metrics.of(&kind);
        let events = watcher(api, watcher::Config::default().page_size(PAGE)).default_backoff();
        // One of several namespaces may be gone, and the Role in it: that must not hold up the others. There, what the stores
        // lack is read live, so requests are refused until it may be read.
        let optional = scope.is_some();
        let sink = sink(Arc::clone(&self), scope);
        let mut first = Some(self);
        async move { follow(events, &kind, optional, &restarts, sink, || Self::arrived(&mut first)).await }.boxed()
    }

    fn watch_metadata<K, S>(self: Arc<Self>, sink: S, metrics: &Watches) -> BoxFuture<'static, ()>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
        S: Sink<PartialObjectMeta<K>> + 'static,
    {
        let api: Api<PartialObjectMeta<K>> = Api::all(self.client.clone());
        let kind = K::kind(&()).into_owned();
        let restarts = metrics.of(&kind);
        let events = watcher(api, watcher::Config::default().page_size(PAGE)).default_backoff();
        let mut first = Some(self);
        async move { follow(events, &kind, true, &restarts, sink, || Self::arrived(&mut first)).await }.boxed()
    }

    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self, namespace: Option<&str>) -> Api<K> {
        match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// Counts the first list of each watch.
    fn arrived(first: &mut Option<Arc<Self>>) {
        let Some(stores) = first.take() else { return };
        if stores.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            stores.complete.store(true, Ordering::Release);
            stores.readiness.set(CONDITION, true);
            tracing::info!("all objects are read");
        }
    }

    fn check(&self) -> Result<(), LookupError> {
        if self.complete.load(Ordering::Acquire) { Ok(()) } else { Err(LookupError::Incomplete) }
    }

    /// Rebuilds what is known about storage classes and nodes. One task drives all watches, so nobody else does it meanwhile.
    pub(super) fn look_around(&self) {
        let storage_classes = locked(&self.classes).as_ref().map(|classes| StorageClasses {
            names: classes.keys().cloned().collect(),
            has_default: classes.values().any(|default| *default),
        });
        let nodes = locked(&self.nodes).as_ref().map(|nodes| {
            let mut labels: BTreeMap<String, BTreeSet<String>> =
                self.labels.iter().map(|label| (label.clone(), BTreeSet::new())).collect();
            for places in nodes.values() {
                for (label, place) in self.labels.iter().zip(places) {
                    if let (Some(values), Some(place)) = (labels.get_mut(label), place)
                        && !values.contains(place)
                    {
                        values.insert(place.clone());
                    }
                }
            }
            NodeLabels(labels)
        });
        self.surroundings.store(Arc::new(Surroundings { storage_classes, nodes }));
    }
}

/// Everything of a kind in a namespace.
async fn list<K>(client: Client, namespace: &str) -> Found<Vec<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send,
{
    let api: Api<Guarded<K>> = Api::namespaced(client, namespace);
    let kind = K::kind(&());
    let mut objects = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await.map_err(|source| LookupError::Read {
            what: format!("{} of namespace {namespace:?}", K::plural(&())),
            source: Arc::new(source),
        })?;
        objects.extend(list.items.into_iter().filter_map(|object| object.open(&kind)));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

async fn list_templates(client: Client, namespace: String) -> Found<Arc<Templates>> {
    let (core, cell, shard) = tokio::try_join!(
        list::<CoreTemplate>(client.clone(), &namespace),
        list::<CellTemplate>(client.clone(), &namespace),
        list::<ShardTemplate>(client.clone(), &namespace)
    )?;
    Ok(Arc::new(Templates { core: named(core), cell: named(cell), shard: named(shard) }))
}

async fn list_clusters(client: Client, namespace: String) -> Found<Vec<Arc<Cluster>>> {
    let clusters = list::<MultigresCluster>(client, &namespace).await?;
    Ok(clusters.into_iter().filter_map(kept).map(Arc::new).collect())
}

async fn list_classes(client: Client) -> Found<Option<StorageClasses>> {
    let api: Api<StorageClass> = Api::all(client);
    match api.list_metadata(&ListParams::default()).await {
        Ok(list) => Ok(Some(StorageClasses {
            has_default: list.items.iter().any(is_default),
            names: list.items.iter().map(ResourceExt::name_any).collect(),
        })),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(source) => Err(LookupError::Read { what: "the storage classes".to_owned(), source: Arc::new(source) }),
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Lookup for Stores {
    fn watches(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }

    fn templates(&self, namespace: &str) -> Result<Arc<Templates>, LookupError> {
        self.check()?;
        Ok(read(&self.templates).get(namespace).cloned().unwrap_or_default())
    }

    fn clusters(&self, namespace: &str) -> Result<Vec<Arc<Cluster>>, LookupError> {
        self.check()?;
        Ok(read(&self.clusters).get(namespace).into_iter().flat_map(BTreeMap::values).cloned().collect())
    }

    fn surroundings(&self) -> Arc<Surroundings> {
        self.surroundings.load_full()
    }

    fn templates_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Found<Arc<Templates>>> {
        let read = || list_templates(self.client.clone(), namespace.to_owned()).boxed();
        self.live.templates.join(namespace.to_owned(), read).boxed()
    }

    fn clusters_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Found<Vec<Arc<Cluster>>>> {
        let read = || list_clusters(self.client.clone(), namespace.to_owned()).boxed();
        self.live.clusters.join(namespace.to_owned(), read).boxed()
    }

    fn storage_classes_live(&self) -> BoxFuture<'_, Found<Option<StorageClasses>>> {
        self.live.classes.join((), || list_classes(self.client.clone()).boxed()).boxed()
    }
}

#[cfg(test)]
mod tests;
