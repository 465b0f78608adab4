//! An object of any kind as a watch delivers it: its name, and its text.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource,
    core::{ApiResource, DynamicResourceScope},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};
use serde_json::value::RawValue;

/// An object that was not read further than what a watch needs to know of it. Each of some twenty kinds would otherwise have its own copy of the code that
/// lists and watches, which is memory. In an event of a watch the type has to come before the object, as API servers write them: what comes before its type
/// is not kept as text.
#[derive(Clone, Debug)]
pub struct Unread {
    /// Name, namespace and version alone.
    meta: ObjectMeta,
    text: Box<RawValue>,
}

#[derive(Deserialize)]
struct Head {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
}

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let Head { metadata } = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let Meta { name, namespace, resource_version } = metadata;
        Ok(Self { meta: ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() }, text })
    }
}

impl Unread {
    /// Namespace and name.
    pub fn key(&self) -> (Option<String>, String) {
        (self.meta.namespace.clone(), self.meta.name.clone().unwrap_or_default())
    }

    /// The whole object, if it is one of that type.
    pub fn read<K: DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        serde_json::from_str(self.text.get())
    }
}

impl Resource for Unread {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::core::{ObjectList, WatchEvent};

    use super::*;

    const BAD: &str = r#"{"metadata":{"name":"bad","namespace":"n"},"spec":{"containers":"not a list"}}"#;
    const GOOD: &str = r#"{"metadata":{"name":"good","namespace":"n","resourceVersion":"7"},"spec":{"containers":[]}}"#;

    #[test]
    fn an_unreadable_object_spoils_neither_its_list_nor_its_watch() {
        let list = format!(r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{}},"items":[{BAD},{GOOD}]}}"#);
        let list: ObjectList<Unread> = serde_json::from_str(&list).unwrap();
        let [bad, good] = list.items.as_slice() else { panic!("{list:?}") };
        assert_eq!(bad.key(), (Some("n".to_owned()), "bad".to_owned()));
        assert!(bad.read::<Pod>().unwrap_err().to_string().contains("not a list"));
        assert_eq!(good.meta().resource_version.as_deref(), Some("7"));
        assert_eq!(good.read::<Pod>().unwrap().metadata.name.as_deref(), Some("good"));

        let event = format!(r#"{{"type":"ADDED","object":{BAD}}}"#);
        let event: WatchEvent<Unread> = serde_json::from_str(&event).unwrap();
        assert!(matches!(event, WatchEvent::Added(bad) if bad.key().1 == "bad"));
    }

    #[test]
    fn what_is_no_object_at_all_is_an_error() {
        assert!(serde_json::from_str::<Unread>("[1]").is_err());
    }
}
