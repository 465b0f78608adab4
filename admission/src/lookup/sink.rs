//! What the watches leave in the stores.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Node, api::storage::v1::StorageClass};
use kube::{Resource, ResourceExt as _, core::PartialObjectMeta};
use serde::de::DeserializeOwned;
use shared::{
    api::v1alpha1::{
        CellTemplate, CellTemplateSpec, CoreTemplate, CoreTemplateSpec, MultigresCluster, ShardTemplate,
        ShardTemplateSpec,
    },
    resolve::Templates,
};

use super::{
    Cluster,
    stores::{Places, Stores, locked, read, write},
    watch::Sink,
};

/// Marks the storage class that volumes get when they name none; the second is what old manifests still use.
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// A kind of template.
pub(super) trait Template:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// What is kept of it.
    type Spec: PartialEq + Clone + Send;

    fn into_spec(self) -> Self::Spec;
    fn of(templates: &Templates) -> &BTreeMap<String, Self::Spec>;
    fn of_mut(templates: &mut Templates) -> &mut BTreeMap<String, Self::Spec>;
}

macro_rules! template {
    ($kind:ty, $spec:ty, $field:ident) => {
        impl Template for $kind {
            type Spec = $spec;

            fn into_spec(self) -> $spec {
                self.spec
            }

            fn of(templates: &Templates) -> &BTreeMap<String, $spec> {
                &templates.$field
            }

            fn of_mut(templates: &mut Templates) -> &mut BTreeMap<String, $spec> {
                &mut templates.$field
            }
        }
    };
}

template!(CoreTemplate, CoreTemplateSpec, core);
template!(CellTemplate, CellTemplateSpec, cell);
template!(ShardTemplate, ShardTemplateSpec, shard);

/// Specs of templates by name.
pub(super) fn named<K: Template>(objects: Vec<K>) -> BTreeMap<String, K::Spec> {
    objects.into_iter().map(|object| (object.name_any(), object.into_spec())).collect()
}

/// Whether volumes that name no class get this one.
pub(super) fn is_default(class: &PartialObjectMeta<StorageClass>) -> bool {
    DEFAULT_CLASS.iter().any(|key| class.annotations().get(*key).is_some_and(|value| value == "true"))
}

/// A cluster that is not being deleted, without what nobody asks for.
pub(super) fn kept(cluster: MultigresCluster) -> Option<Cluster> {
    cluster.metadata.deletion_timestamp.is_none().then(|| Cluster { name: cluster.name_any(), spec: cluster.spec })
}

/// Keeps templates of one kind.
pub(super) struct TemplateSink {
    stores: Arc<Stores>,
    scope: Option<String>,
}

impl TemplateSink {
    pub(super) fn new(stores: Arc<Stores>, scope: Option<String>) -> Self {
        Self { stores, scope }
    }

    /// Changes the templates of a namespace; requests that hold them keep what they hold.
    fn change(&self, namespace: &str, change: impl FnOnce(&mut Templates)) {
        let mut all = write(&self.stores.templates);
        let templates = all.entry(namespace.to_owned()).or_default();
        change(Arc::make_mut(templates));
        if **templates == Templates::default() {
            all.remove(namespace);
        }
    }
}

impl<K: Template> Sink<K> for TemplateSink {
    fn replace(&mut self, objects: Vec<K>) {
        let mut found: BTreeMap<String, BTreeMap<String, K::Spec>> = BTreeMap::new();
        for object in objects {
            let namespace = object.namespace().unwrap_or_default();
            found.entry(namespace).or_default().insert(object.name_any(), object.into_spec());
        }
        match &self.scope {
            Some(scope) => drop(found.entry(scope.clone()).or_default()),
            None => {
                for namespace in read(&self.stores.templates).keys() {
                    found.entry(namespace.clone()).or_default();
                }
            }
        }
        for (namespace, found) in found {
            let known = read(&self.stores.templates).get(&namespace).cloned().unwrap_or_default();
            if *K::of(&known) != found {
                drop(known);
                self.change(&namespace, |templates| *K::of_mut(templates) = found);
            }
        }
    }

    fn put(&mut self, object: K) {
        let namespace = object.namespace().unwrap_or_default();
        self.change(&namespace, |templates| {
            K::of_mut(templates).insert(object.name_any(), object.into_spec());
        });
    }

    fn remove(&mut self, object: K) {
        let namespace = object.namespace().unwrap_or_default();
        self.change(&namespace, |templates| {
            K::of_mut(templates).remove(&object.name_any());
        });
    }
}

/// Keeps clusters that are not being deleted.
pub(super) struct ClusterSink {
    stores: Arc<Stores>,
    scope: Option<String>,
}

impl ClusterSink {
    pub(super) fn new(stores: Arc<Stores>, scope: Option<String>) -> Self {
        Self { stores, scope }
    }
}

impl Sink<MultigresCluster> for ClusterSink {
    fn replace(&mut self, objects: Vec<MultigresCluster>) {
        let mut found: BTreeMap<String, BTreeMap<String, Arc<Cluster>>> = BTreeMap::new();
        for object in objects {
            let namespace = object.namespace().unwrap_or_default();
            if let Some(cluster) = kept(object) {
                found.entry(namespace).or_default().insert(cluster.name.clone(), Arc::new(cluster));
            }
        }
        let mut all = write(&self.stores.clusters);
        match &self.scope {
            Some(scope) => drop(all.remove(scope)),
            None => all.clear(),
        }
        all.extend(found);
    }

    fn put(&mut self, object: MultigresCluster) {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let mut all = write(&self.stores.clusters);
        let clusters = all.entry(namespace).or_default();
        match kept(object) {
            // Most events are about the status.
            Some(cluster) if clusters.get(&name).is_some_and(|known| **known == cluster) => {}
            Some(cluster) => drop(clusters.insert(name, Arc::new(cluster))),
            None => drop(clusters.remove(&name)),
        }
    }

    fn remove(&mut self, object: MultigresCluster) {
        let namespace = object.namespace().unwrap_or_default();
        let mut all = write(&self.stores.clusters);
        if let Some(clusters) = all.get_mut(&namespace) {
            clusters.remove(&object.name_any());
            if clusters.is_empty() {
                all.remove(&namespace);
            }
        }
    }
}

/// Keeps names of storage classes, each with whether it is the default.
pub(super) struct ClassSink(pub(super) Arc<Stores>);

impl ClassSink {
    fn change(&self, change: impl FnOnce(&mut Option<BTreeMap<String, bool>>)) {
        change(&mut locked(&self.0.classes));
        self.0.look_around();
    }
}

impl Sink<PartialObjectMeta<StorageClass>> for ClassSink {
    fn replace(&mut self, objects: Vec<PartialObjectMeta<StorageClass>>) {
        self.change(|known| *known = Some(objects.iter().map(|class| (class.name_any(), is_default(class))).collect()));
    }

    fn put(&mut self, object: PartialObjectMeta<StorageClass>) {
        self.change(|known| {
            known.get_or_insert_default().insert(object.name_any(), is_default(&object));
        });
    }

    fn remove(&mut self, object: PartialObjectMeta<StorageClass>) {
        self.change(|known| {
            known.get_or_insert_default().remove(&object.name_any());
        });
    }

    fn forbidden(&mut self) {
        self.change(|known| *known = None);
    }
}

/// Keeps the location labels of nodes.
pub(super) struct NodeSink(pub(super) Arc<Stores>);

impl NodeSink {
    fn places(&self, node: &PartialObjectMeta<Node>) -> Places {
        self.0.labels.iter().map(|label| node.labels().get(label).cloned()).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Option<BTreeMap<String, Places>>) -> bool) {
        // The guard must be gone before the surroundings are rebuilt.
        let changed = change(&mut locked(&self.0.nodes));
        if changed {
            self.0.look_around();
        }
    }
}

impl Sink<PartialObjectMeta<Node>> for NodeSink {
    fn replace(&mut self, objects: Vec<PartialObjectMeta<Node>>) {
        let nodes = objects.iter().map(|node| (node.name_any(), self.places(node))).collect();
        self.change(|known| known.replace(nodes) != *known);
    }

    fn put(&mut self, object: PartialObjectMeta<Node>) {
        let (name, places) = (object.name_any(), self.places(&object));
        // Nodes report about themselves all the time and hardly ever move.
        self.change(|known| {
            let before = known.get_or_insert_default().insert(name, places.clone());
            before.as_ref() != Some(&places)
        });
    }

    fn remove(&mut self, object: PartialObjectMeta<Node>) {
        self.change(|known| known.get_or_insert_default().remove(&object.name_any()).is_some());
    }

    fn forbidden(&mut self) {
        self.change(|known| known.take().is_some());
    }
}
