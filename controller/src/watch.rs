//! Watches: one per kind and watched namespace, filtered by label at the server, pruned before storing, and routed to the
//! objects they concern.

use std::sync::Arc;

use kube::{Resource, ResourceExt as _, runtime::reflector::ObjectRef};
use shared::{
    api::v1alpha1::{Cell, MultigresBackup, MultigresCluster, Shard, TableGroup, TopoServer},
    label::{self, Component},
    name::{self, ShardId},
};
use tokio::sync::mpsc;

use crate::{
    gate::{Gate, Scope},
    stores::{Stores, Table},
};

mod follow;
mod unread;

pub use follow::{Shelf, run};

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
            // Certificates belong to a cluster, and pods of its cells and shards mount them.
            if kind == "Secret" && concern.kind == "MultigresCluster" {
                for cell in self.stores.cells.of_cluster(&namespace, &concern.name) {
                    self.send("Cell", &namespace, &cell.name_any());
                }
                for shard in self.stores.shards.of_cluster(&namespace, &concern.name) {
                    self.send("Shard", &namespace, &shard.name_any());
                }
            }
        }
    }

    /// An object is there no more.
    fn gone<K: Resource<DynamicType = ()>>(&self, object: &K) {
        self.route(object);
        let Some(namespace) = object.namespace().filter(|namespace| self.gate.is_open(namespace)) else { return };
        // Pods of Deployments wake nobody while they live. A record that one of them leaves behind in the topology is its cluster's to remove.
        let label = |key: &str| object.labels().get(key).map(String::as_str);
        let registers = [Component::Multigateway, Component::Multiorch].map(|component| Some(component.as_str()));
        if K::kind(&()) == "Pod"
            && registers.contains(&label(label::COMPONENT))
            && let Some(cluster) = label(label::INSTANCE)
        {
            self.send("MultigresCluster", &namespace, cluster);
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

/// Field selector of what is outside of these namespaces; none where none are named.
pub fn outside(namespaces: &[String]) -> Option<String> {
    let named = namespaces.iter().filter(|name| !name.is_empty());
    let parts: Vec<String> = named.map(|name| format!("metadata.namespace!={name}")).collect();
    (!parts.is_empty()).then(|| parts.join(","))
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
    fn namespaces_are_left_out_by_a_field_selector() {
        let outside = |names: &[&str]| super::outside(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(outside(&["a", "", "b"]).as_deref(), Some("metadata.namespace!=a,metadata.namespace!=b"));
        assert_eq!((outside(&[]), outside(&[""])), (None, None));
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
    fn a_gateway_that_goes_wakes_its_cluster_which_may_have_a_record_of_it_to_remove() {
        let (gate, stores) = (Arc::new(Gate::default()), Arc::new(Stores::default()));
        let (router, mut queues) = Router::new(stores, Arc::clone(&gate));
        let scope = Some("prod".to_owned());
        gate.expect(&scope);
        router.listed(&scope);
        for (component, wakes) in
            [(Component::Multigateway, true), (Component::Multiorch, true), (Component::Multiadmin, false)]
        {
            let mut pod = Pod::default();
            pod.metadata.namespace = scope.clone();
            pod.metadata.labels = Some(labels(&[(label::INSTANCE, "demo"), (label::COMPONENT, component.as_str())]));
            pod.metadata.owner_references = Some(vec![OwnerReference {
                api_version: "apps/v1".into(),
                kind: "ReplicaSet".into(),
                name: "r".into(),
                uid: "u".into(),
                controller: Some(true),
                block_owner_deletion: None,
            }]);
            router.route(&pod);
            assert!(queues.clusters.try_recv().is_err(), "nobody waits for what it does while it lives");
            router.gone(&pod);
            assert_eq!(queues.clusters.try_recv().is_ok(), wakes, "{component:?}");
        }
    }

    #[test]
    fn a_renewed_certificate_of_a_cluster_wakes_its_cells_and_shards() {
        let (gate, stores) = (Arc::new(Gate::default()), Arc::new(Stores::default()));
        let (router, mut queues) = Router::new(Arc::clone(&stores), Arc::clone(&gate));
        let scope = Some("prod".to_owned());
        gate.expect(&scope);
        router.listed(&scope);
        for cluster in ["demo", "other"] {
            let mut cell = Cell::new(&format!("{cluster}-a"), shared::api::v1alpha1::CellSpec::default());
            cell.metadata.namespace = scope.clone();
            cell.metadata.labels = Some(labels(&[(label::INSTANCE, cluster)]));
            stores.cells.insert(Arc::new(cell));
        }
        let mut secret = Secret::default();
        secret.metadata.namespace = scope;
        secret.metadata.labels = Some(labels(&[(label::INSTANCE, "demo")]));
        router.route(&secret);
        assert_eq!(queues.clusters.try_recv().unwrap().name, "demo");
        assert_eq!(queues.cells.try_recv().unwrap().name, "demo-a");
        assert!(queues.cells.try_recv().is_err(), "cells of other clusters have nothing to do with it");
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
