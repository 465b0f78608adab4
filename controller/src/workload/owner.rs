//! Metadata of the objects that one of ours controls.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use shared::{kubeutil::owner_of, label::Labels};

use crate::error::Error;

/// The namespace, the identity and the controller reference that an object's children get.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    /// Name of the object itself.
    pub name: String,
    /// Namespace of the object and of all of its children.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`, zero where the server sets none.
    pub generation: i64,
    reference: OwnerReference,
}

impl Owner {
    /// Takes the identity of a stored object.
    pub fn of<K>(object: &K) -> Result<Self, Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let missing = |field| Error::NotStored { kind: kind::<K>(), field };
        let meta = object.meta();
        Ok(Self {
            name: meta.name.clone().ok_or_else(|| missing("name"))?,
            namespace: meta.namespace.clone().ok_or_else(|| missing("namespace"))?,
            uid: meta.uid.clone().ok_or_else(|| missing("uid"))?,
            generation: meta.generation.unwrap_or_default(),
            reference: owner_of(object).ok_or_else(|| missing("uid"))?,
        })
    }

    /// Metadata of a child that goes away with its owner.
    pub fn meta(&self, name: String, labels: Labels) -> ObjectMeta {
        ObjectMeta { owner_references: Some(vec![self.reference.clone()]), ..self.outliving(name, labels) }
    }

    /// Metadata of an object that outlives the owner: the same without the reference.
    pub fn outliving(&self, name: String, labels: Labels) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        }
    }

    /// Whether this owner controls `child`.
    pub fn controls<K: Resource>(&self, child: &K) -> bool {
        child.meta().owner_references.iter().flatten().any(|r| r.controller == Some(true) && r.uid == self.uid)
    }
}

/// Annotations, or nothing where there are none: an empty map would claim the field.
pub fn annotations(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}

fn kind<K: Resource<DynamicType = ()>>() -> &'static str {
    // Derived and generated kinds are constants; the owned case cannot occur for a static type.
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[test]
    fn an_object_that_was_never_stored_owns_nothing() {
        let error = Owner::of(&ConfigMap::default()).unwrap_err();
        assert!(matches!(error, Error::NotStored { kind: "ConfigMap", field: "name" }));
    }

    #[test]
    fn children_carry_exactly_one_controller_reference() {
        let mut map = ConfigMap::default();
        map.metadata.name = Some("a".into());
        map.metadata.namespace = Some("n".into());
        map.metadata.uid = Some("u".into());
        let owner = Owner::of(&map).unwrap();
        let mut child = ConfigMap { metadata: owner.meta("b".into(), Labels::new()), ..ConfigMap::default() };
        assert!(owner.controls(&child));
        assert_eq!(child.metadata.owner_references.as_ref().map(Vec::len), Some(1));
        child.metadata = owner.outliving("b".into(), Labels::new());
        assert!(!owner.controls(&child));
    }
}
