//! The identity of a Kubernetes object within one API server.

use std::fmt;

use kube::{Resource, ResourceExt as _};

/// Which object: its group, kind, namespace and name.
///
/// The version is left out on purpose: the same object can be read in several versions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// API group; empty for the core group.
    pub group: String,
    /// Kind, such as `Deployment`.
    pub kind: String,
    /// Namespace; none for objects outside of namespaces.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// Returns the key of a typed object.
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self {
            group: K::group(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: object.namespace(),
            name: object.name_any(),
        }
    }

    /// Returns the key of an object of kind `K` in a namespace.
    pub fn namespaced<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> Self {
        Self {
            group: K::group(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{apps::v1::Deployment, storage::v1::StorageClass};

    use super::*;

    #[test]
    fn key_is_written_as_kind_and_path() {
        let key = ObjectKey::namespaced::<Deployment>("prod", "demo");
        assert_eq!(key.to_string(), "Deployment prod/demo");
        assert_eq!(key.group, "apps");
        let mut class = StorageClass::default();
        class.metadata.name = Some("fast".to_owned());
        assert_eq!(ObjectKey::of(&class).to_string(), "StorageClass fast");
    }
}
