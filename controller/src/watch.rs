//! Watches: one per kind, filtered by label at the server, pruned before storing, and routed to the objects they concern.

use std::{collections::HashSet, fmt::Debug, hash::Hash, sync::Arc};

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
    api::v1alpha1::{Cell, MultigresCluster, Shard, TableGroup, TopoServer},
    label,
    name::{self, ShardId},
    telemetry,
};
use tokio::sync::{mpsc, oneshot};

use crate::stores::{Stores, Table};

/// Annotations that are large, of no use to us, and dropped before storing.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Where the watches report which objects are to be looked at.
#[derive(Clone)]
pub struct Router {
    stores: Arc<Stores>,
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
    /// A router and the queues that it feeds.
    pub fn new(stores: Arc<Stores>) -> (Self, Queues) {
        let (clusters, clusters_queue) = mpsc::unbounded_channel();
        let (cells, cells_queue) = mpsc::unbounded_channel();
        let (table_groups, table_groups_queue) = mpsc::unbounded_channel();
        let (shards, shards_queue) = mpsc::unbounded_channel();
        let (topo_servers, topo_servers_queue) = mpsc::unbounded_channel();
        let router = Self { stores, clusters, cells, table_groups, shards, topo_servers };
        let queues = Queues {
            clusters: clusters_queue,
            cells: cells_queue,
            table_groups: table_groups_queue,
            shards: shards_queue,
            topo_servers: topo_servers_queue,
        };
        (router, queues)
    }

    fn route<K: Resource<DynamicType = ()>>(&self, object: &K) {
        let Some(namespace) = object.namespace() else { return };
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

    /// A closed queue means that its controller has stopped, which only happens at shutdown.
    fn send(&self, kind: &str, namespace: &str, name: &str) {
        let sent = match kind {
            "MultigresCluster" => self.clusters.send(ObjectRef::new(name).within(namespace)).is_ok(),
            "Cell" => self.cells.send(ObjectRef::new(name).within(namespace)).is_ok(),
            "TableGroup" => self.table_groups.send(ObjectRef::new(name).within(namespace)).is_ok(),
            "Shard" => self.shards.send(ObjectRef::new(name).within(namespace)).is_ok(),
            "TopoServer" => self.topo_servers.send(ObjectRef::new(name).within(namespace)).is_ok(),
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
    const OURS: [&str; 5] = ["MultigresCluster", "Cell", "TableGroup", "Shard", "TopoServer"];
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

/// Runs one watch until its stream ends, which it does only when the task is dropped.
///
/// `ready` fires once the first list is complete. With a `writer` the objects also feed a reflector store, and both share them.
pub async fn run<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    router: Router,
    table: impl Fn(&Stores) -> &Table<K> + Send,
    mut writer: Option<Writer<K>>,
    ready: oneshot::Sender<()>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let kind = K::kind(&()).into_owned();
    let stores = Arc::clone(&router.stores);
    let table = table(&stores);
    let reader: Option<Store<K>> = writer.as_ref().map(Writer::as_reader);
    let mut ready = Some(ready);
    let mut listed: HashSet<(Option<String>, String)> = HashSet::new();
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%kind, error = telemetry::chain(&error), "watch interrupted; it goes on by itself");
                continue;
            }
        };
        let Some(event) = unguarded(event, &kind, &mut listed) else { continue };
        match &event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => {
                listed.insert((object.namespace(), object.name_any()));
            }
            watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone => {}
        }
        if let Some(writer) = writer.as_mut() {
            writer.apply_watcher_event(&event);
        }
        // With a reflector store, its allocation is shared instead of keeping a second copy.
        let shared = |object: K| {
            let kept = reader.as_ref().and_then(|reader| reader.get(&ObjectRef::from_obj(&object)));
            kept.unwrap_or_else(|| Arc::new(object))
        };
        match event {
            watcher::Event::Init => {}
            watcher::Event::InitApply(object) => {
                if reader.is_none() {
                    let object = Arc::new(object);
                    table.insert(Arc::clone(&object));
                    router.route(&*object);
                }
            }
            watcher::Event::Apply(object) => {
                let object = shared(object);
                table.insert(Arc::clone(&object));
                router.route(&*object);
            }
            watcher::Event::Delete(object) => {
                table.remove(&object);
                router.route(&object);
            }
            watcher::Event::InitDone => {
                for object in reader.iter().flat_map(Store::state) {
                    table.insert(Arc::clone(&object));
                    router.route(&*object);
                }
                for gone in table.retain(|object| listed.contains(&(object.namespace(), object.name_any()))) {
                    router.route(&*gone);
                }
                listed = HashSet::new();
                if let Some(ready) = ready.take() {
                    // Nobody waits any more when the process is already stopping.
                    let _stopping = ready.send(());
                }
            }
        }
    }
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
    use std::collections::BTreeMap;

    use k8s_openapi::{
        api::core::v1::{PersistentVolumeClaim, Pod, Secret},
        apimachinery::pkg::apis::meta::v1::OwnerReference,
    };

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
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
