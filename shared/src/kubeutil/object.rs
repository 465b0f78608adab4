//! Desired objects without their Rust type, so that a plan can hold objects of any kind.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, core::GroupVersionKind};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{compare::digest, key::ObjectKey};
use crate::annotation::APPLIED_DIGEST;

/// Who owns the fields of a server-side apply; the names are those of the Go operator, so that a takeover owns its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum FieldManager {
    /// Children, and the status of most kinds.
    #[strum(serialize = "multigres-operator")]
    Operator,
    /// Status of Shards.
    #[strum(serialize = "multigres-resource-handler")]
    ResourceHandler,
    /// Condition `StorageClassValid` of Shards.
    #[strum(serialize = "multigres-resource-handler-guard")]
    ResourceHandlerGuard,
    /// Condition `StorageClassValid` of TopoServers.
    #[strum(serialize = "multigres-operator-guard")]
    OperatorGuard,
    /// Condition `Reconciled`, which tells of failing passes.
    #[strum(serialize = "multigres-operator-reconcile")]
    Reconcile,
    /// The CA bundle in webhook configurations.
    #[strum(serialize = "multigres-operator-cert")]
    Certificates,
}

impl FieldManager {
    /// Returns the manager's name as the API server records it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// An object as it should be, ready for a server-side apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Group, version and kind.
    pub gvk: GroupVersionKind,
    /// Plural name of the kind, as in request paths.
    pub plural: String,
    /// Namespace; none for objects outside of namespaces.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// What is applied: `apiVersion`, `kind`, metadata and the intent, without nulls, status or server-owned metadata.
    pub value: Value,
}

/// A typed value that JSON cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {key} as JSON")]
pub struct SerializeError {
    key: ObjectKey,
    source: serde_json::Error,
}

impl Object {
    /// Erases the type of a desired object.
    pub fn of<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<Self, SerializeError> {
        let key = ObjectKey::of(object);
        let mut value = serde_json::to_value(object).map_err(|source| SerializeError { key: key.clone(), source })?;
        prune_nulls(&mut value);
        if let Value::Object(root) = &mut value {
            root.insert("apiVersion".to_owned(), K::api_version(&()).into());
            root.insert("kind".to_owned(), K::kind(&()).into());
            root.remove("status");
            if let Some(Value::Object(metadata)) = root.get_mut("metadata") {
                for server_owned in ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"] {
                    metadata.remove(server_owned);
                }
            }
        }
        Ok(Self {
            gvk: GroupVersionKind::gvk(&K::group(&()), &K::version(&()), &K::kind(&())),
            plural: K::plural(&()).into_owned(),
            namespace: key.namespace,
            name: key.name,
            value,
        })
    }

    /// Returns which object this is.
    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            group: self.gvk.group.clone(),
            kind: self.gvk.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// Returns the digest of the intent; the digest annotation itself does not count.
    pub fn digest(&self) -> String {
        let mut bare = self.value.clone();
        if let Some(Value::Object(metadata)) = bare.get_mut("metadata")
            && let Some(Value::Object(annotations)) = metadata.get_mut("annotations")
        {
            annotations.remove(APPLIED_DIGEST);
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
        digest(&bare)
    }

    /// Returns the object with its digest in the annotation [`APPLIED_DIGEST`].
    #[must_use]
    pub fn stamped(mut self) -> Self {
        let digest = self.digest();
        if let Some(annotations) =
            child(&mut self.value, "metadata").and_then(|metadata| child(metadata, "annotations"))
            && let Value::Object(annotations) = annotations
        {
            annotations.insert(APPLIED_DIGEST.to_owned(), digest.into());
        }
        self
    }

    /// Returns the labels of the object.
    pub fn labels(&self) -> BTreeMap<&str, &str> {
        let labels = self.value.pointer("/metadata/labels").and_then(Value::as_object);
        labels.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect()
    }
}

/// Returns the object below `key`, made when it is missing; none when `value` is no object.
fn child<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let below = value.as_object_mut()?.entry(key).or_insert_with(|| Value::Object(Map::new()));
    below.is_object().then_some(below)
}

/// Removes null members of objects: in a server-side apply they would claim the field and clear it.
fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// Returns the reference that makes `owner` the controller of another object.
///
/// None for an owner without a uid, that is one that was never stored.
pub fn owner_of<K: Resource<DynamicType = ()>>(owner: &K) -> Option<OwnerReference> {
    let mut reference = owner.controller_owner_ref(&())?;
    reference.block_owner_deletion = Some(true);
    Some(reference)
}

/// Returns the metadata of a child in a namespace; empty maps stay absent.
pub fn meta(
    name: impl Into<String>,
    namespace: impl Into<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    owner: Option<OwnerReference>,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(namespace.into()),
        labels: (!labels.is_empty()).then_some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::{
            apps::v1::{Deployment, DeploymentSpec, DeploymentStatus},
            core::v1::ConfigMap,
        },
        apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Time},
    };
    use serde_json::json;

    use super::*;

    fn config_map() -> ConfigMap {
        ConfigMap {
            metadata: meta(
                "settings",
                "prod",
                BTreeMap::from([("a".to_owned(), "b".to_owned())]),
                BTreeMap::new(),
                None,
            ),
            data: Some(BTreeMap::from([("key".to_owned(), "value".to_owned())])),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn erased_object_keeps_the_intent_alone() {
        let mut deployment = Deployment {
            metadata: meta("demo", "prod", BTreeMap::new(), BTreeMap::new(), None),
            spec: Some(DeploymentSpec { replicas: Some(2), ..DeploymentSpec::default() }),
            status: Some(DeploymentStatus { replicas: Some(1), ..DeploymentStatus::default() }),
        };
        deployment.metadata.resource_version = Some("7".to_owned());
        deployment.metadata.uid = Some("u".to_owned());
        deployment.metadata.creation_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
        deployment.metadata.managed_fields = Some(vec![ManagedFieldsEntry::default()]);
        let object = Object::of(&deployment).unwrap();
        assert_eq!(
            object.value,
            json!({
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "demo", "namespace": "prod"},
                "spec": {"replicas": 2, "selector": {}, "template": {}},
            })
        );
        assert_eq!(object.plural, "deployments");
        assert_eq!(object.key(), ObjectKey::namespaced::<Deployment>("prod", "demo"));
    }

    #[test]
    fn stamp_does_not_change_the_digest() {
        let object = Object::of(&config_map()).unwrap();
        let digest = object.digest();
        let stamped = object.stamped();
        assert_eq!(stamped.value["metadata"]["annotations"][APPLIED_DIGEST], json!(digest));
        assert_eq!(stamped.digest(), digest);
        assert_eq!(stamped.clone().stamped(), stamped);
    }

    #[test]
    fn digest_follows_the_content() {
        let before = Object::of(&config_map()).unwrap().digest();
        let mut changed = config_map();
        changed.data = None;
        assert_ne!(before, Object::of(&changed).unwrap().digest());
    }

    #[test]
    fn owner_reference_controls_and_blocks() {
        let mut owner = config_map();
        assert_eq!(owner_of(&owner), None);
        owner.metadata.uid = Some("1-2-3".to_owned());
        let reference = owner_of(&owner).unwrap();
        assert_eq!(reference.controller, Some(true));
        assert_eq!(reference.block_owner_deletion, Some(true));
        assert_eq!((reference.kind.as_str(), reference.uid.as_str()), ("ConfigMap", "1-2-3"));
    }

    #[test]
    fn labels_are_read_from_the_value() {
        assert_eq!(Object::of(&config_map()).unwrap().labels(), BTreeMap::from([("a", "b")]));
    }

    #[test]
    fn field_managers_are_spelled_as_in_the_go_operator() {
        assert_eq!(FieldManager::Operator.as_str(), "multigres-operator");
        assert_eq!(FieldManager::Certificates.as_str(), "multigres-operator-cert");
        assert_eq!(FieldManager::ResourceHandlerGuard.as_str(), "multigres-resource-handler-guard");
    }
}
