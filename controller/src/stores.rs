//! What the watches have seen, as plain tables: one per kind, indexed by cluster.
//!
//! A table is filled by `watch` and read by the observers. It holds no client, so a test fills it by hand.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use crate::classes::Classes;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde_json::Value;
use shared::{
    api::v1alpha1::{
        Cell, CellTemplate, CoreTemplate, MultigresBackup, MultigresCluster, Shard, ShardTemplate, TableGroup,
        TopoServer,
    },
    kubeutil::ObjectKey,
    label,
};

/// Objects of one kind by namespace and name, with an index by the cluster that they belong to.
#[derive(Debug)]
pub struct Table<K> {
    inner: RwLock<Inner<K>>,
}

#[derive(Debug)]
struct Inner<K> {
    /// Namespace → name → object. A `BTreeMap` per namespace keeps listings in one order.
    objects: HashMap<String, BTreeMap<String, Arc<K>>>,
    /// (namespace, cluster) → names.
    clusters: HashMap<(String, String), BTreeMap<String, Arc<K>>>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { inner: RwLock::new(Inner { objects: HashMap::new(), clusters: HashMap::new() }) }
    }
}

impl<K: Resource> Table<K> {
    /// Stores or replaces one object.
    pub fn insert(&self, object: Arc<K>) {
        let (namespace, name) = key(&*object);
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let old = inner.objects.entry(namespace.clone()).or_default().insert(name.clone(), Arc::clone(&object));
        let cluster = cluster_of(&*object);
        if let Some(before) = old.as_deref().and_then(cluster_of).filter(|before| Some(before) != cluster.as_ref()) {
            inner.unindex(&namespace, &before, &name);
        }
        if let Some(cluster) = cluster {
            inner.clusters.entry((namespace, cluster)).or_default().insert(name, object);
        }
    }

    /// Forgets one object.
    pub fn remove(&self, object: &K) {
        let (namespace, name) = key(object);
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let old = inner.objects.get_mut(&namespace).and_then(|names| names.remove(&name));
        if inner.objects.get(&namespace).is_some_and(BTreeMap::is_empty) {
            inner.objects.remove(&namespace);
        }
        if let Some(cluster) = old.as_deref().and_then(cluster_of) {
            inner.unindex(&namespace, &cluster, &name);
        }
    }

    /// Forgets what a fresh list of one namespace, or of all, did not contain, and returns it.
    pub fn retain(&self, namespace: Option<&str>, keep: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let gone: Vec<Arc<K>> = self.within(namespace).into_iter().filter(|object| !keep(object)).collect();
        for object in &gone {
            self.remove(object);
        }
        gone
    }

    /// One object by name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.objects.get(namespace)?.get(name).cloned()
    }

    /// All objects of a namespace, sorted by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.objects.get(namespace).map(|names| names.values().cloned().collect()).unwrap_or_default()
    }

    /// All objects labelled `app.kubernetes.io/instance=<cluster>` in a namespace, sorted by name.
    pub fn of_cluster(&self, namespace: &str, cluster: &str) -> Vec<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner
            .clusters
            .get(&(namespace.to_owned(), cluster.to_owned()))
            .map(|names| names.values().cloned().collect())
            .unwrap_or_default()
    }

    /// The objects of a cluster whose labels contain all of `wanted`.
    pub fn matching(&self, namespace: &str, cluster: &str, wanted: &BTreeMap<String, String>) -> Vec<Arc<K>> {
        self.of_cluster(namespace, cluster)
            .into_iter()
            .filter(|object| {
                let labels = object.meta().labels.as_ref();
                wanted.iter().all(|(k, v)| labels.and_then(|labels| labels.get(k)) == Some(v))
            })
            .collect()
    }

    /// The objects of a cluster that `owner_uid` controls.
    pub fn controlled_by(&self, namespace: &str, cluster: &str, owner_uid: &str) -> Vec<Arc<K>> {
        self.of_cluster(namespace, cluster)
            .into_iter()
            .filter(|object| {
                object
                    .meta()
                    .owner_references
                    .iter()
                    .flatten()
                    .any(|o| o.controller == Some(true) && o.uid == owner_uid)
            })
            .collect()
    }

    /// All objects of one namespace, or of all.
    pub fn within(&self, namespace: Option<&str>) -> Vec<Arc<K>> {
        namespace.map_or_else(|| self.all(), |namespace| self.in_namespace(namespace))
    }

    /// Every object, in no particular order.
    pub fn all(&self) -> Vec<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.objects.values().flat_map(BTreeMap::values).cloned().collect()
    }
}

impl<K> Inner<K> {
    fn unindex(&mut self, namespace: &str, cluster: &str, name: &str) {
        let key = (namespace.to_owned(), cluster.to_owned());
        if let Some(names) = self.clusters.get_mut(&key) {
            names.remove(name);
            if names.is_empty() {
                self.clusters.remove(&key);
            }
        }
    }
}

fn key<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn cluster_of<K: Resource>(object: &K) -> Option<String> {
    object.meta().labels.as_ref()?.get(label::INSTANCE).cloned()
}

/// Which objects have ended lately, by UID.
#[derive(Debug, Default)]
pub struct Ended(Mutex<HashMap<String, Instant>>);

impl Ended {
    fn uids(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watch has seen the end of this object.
    pub fn note<K: Resource>(&self, object: &K) {
        if let Some(uid) = object.uid() {
            self.uids().insert(uid, Instant::now());
        }
    }

    /// Whether the end of an object has been seen, and not been forgotten.
    pub fn has(&self, uid: &str) -> bool {
        self.uids().contains_key(uid)
    }

    /// Forgets what ended longer ago than `age`.
    pub fn forget(&self, age: Duration) {
        self.uids().retain(|_, at| at.elapsed() < age);
    }
}

/// One table per watched kind.
#[derive(Debug, Default)]
pub struct Stores {
    /// What is in none of the tables any more.
    pub ended: Ended,
    /// What is known of the StorageClasses.
    pub storage_classes: Classes,
    /// Root objects.
    pub clusters: Table<MultigresCluster>,
    /// Templates of users.
    pub core_templates: Table<CoreTemplate>,
    /// Templates of users.
    pub cell_templates: Table<CellTemplate>,
    /// Templates of users.
    pub shard_templates: Table<ShardTemplate>,
    /// Child kind.
    pub cells: Table<Cell>,
    /// Child kind.
    pub table_groups: Table<TableGroup>,
    /// Child kind.
    pub shards: Table<Shard>,
    /// Child kind.
    pub topo_servers: Table<TopoServer>,
    /// Backups, asked for by users and by schedules.
    pub backups: Table<MultigresBackup>,
    /// Ours by label.
    pub deployments: Table<Deployment>,
    /// Ours by label.
    pub stateful_sets: Table<StatefulSet>,
    /// Ours by label.
    pub services: Table<Service>,
    /// Ours by label.
    pub pods: Table<Pod>,
    /// Ours by label.
    pub claims: Table<PersistentVolumeClaim>,
    /// Ours by label.
    pub secrets: Table<Secret>,
    /// Ours by label.
    pub config_maps: Table<ConfigMap>,
    /// Ours by label.
    pub budgets: Table<PodDisruptionBudget>,
}

impl Stores {
    /// The stored object as JSON, for comparison with an intended write. `None` also for a kind that no table holds.
    pub fn live(&self, key: &ObjectKey) -> Option<Value> {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let name = key.name.as_str();
        match key.kind.as_str() {
            "MultigresCluster" => json(self.clusters.get(namespace, name)),
            "Cell" => json(self.cells.get(namespace, name)),
            "TableGroup" => json(self.table_groups.get(namespace, name)),
            "Shard" => json(self.shards.get(namespace, name)),
            "TopoServer" => json(self.topo_servers.get(namespace, name)),
            "MultigresBackup" => json(self.backups.get(namespace, name)),
            "Deployment" => json(self.deployments.get(namespace, name)),
            "StatefulSet" => json(self.stateful_sets.get(namespace, name)),
            "Service" => json(self.services.get(namespace, name)),
            "Pod" => json(self.pods.get(namespace, name)),
            "PersistentVolumeClaim" => json(self.claims.get(namespace, name)),
            "Secret" => json(self.secrets.get(namespace, name)),
            "ConfigMap" => json(self.config_maps.get(namespace, name)),
            "PodDisruptionBudget" => json(self.budgets.get(namespace, name)),
            _ => None,
        }
    }
}

fn json<K: Serialize>(object: Option<Arc<K>>) -> Option<Value> {
    serde_json::to_value(&*object?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, cluster: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.namespace = Some("prod".into());
        pod.metadata.labels = Some(BTreeMap::from([(label::INSTANCE.to_owned(), cluster.to_owned())]));
        Arc::new(pod)
    }

    #[test]
    fn objects_are_found_by_cluster_and_follow_a_changed_label() {
        let table = Table::default();
        table.insert(pod("a", "one"));
        table.insert(pod("b", "two"));
        assert_eq!(table.of_cluster("prod", "one").len(), 1);
        table.insert(pod("a", "two"));
        assert!(table.of_cluster("prod", "one").is_empty());
        assert_eq!(table.of_cluster("prod", "two").len(), 2);
        table.remove(&pod("a", "two"));
        assert_eq!(table.of_cluster("prod", "two").len(), 1);
        assert!(table.get("prod", "a").is_none());
    }

    #[test]
    fn a_fresh_list_drops_what_it_did_not_contain() {
        let table = Table::default();
        table.insert(pod("a", "one"));
        table.insert(pod("b", "one"));
        let gone = table.retain(None, |pod| pod.metadata.name.as_deref() == Some("b"));
        assert_eq!(gone.len(), 1);
        assert_eq!(table.all().len(), 1);
    }

    #[test]
    fn a_fresh_list_of_one_namespace_leaves_the_others_alone() {
        let table = Table::default();
        table.insert(pod("a", "one"));
        let mut elsewhere = (*pod("a", "one")).clone();
        elsewhere.metadata.namespace = Some("test".into());
        table.insert(Arc::new(elsewhere));
        let gone = table.retain(Some("test"), |_| false);
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].namespace().as_deref(), Some("test"));
        assert!(table.get("prod", "a").is_some());
        assert_eq!(table.within(Some("prod")).len(), 1);
        assert!(table.within(Some("test")).is_empty());
    }
}
