//! What may be wrong with a list or watch: an object that cannot be read, and no right to see any.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource,
    core::{PartialObjectMeta, error_boundary::InvalidObject},
    runtime::watcher,
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};
use serde_json::value::RawValue;

/// An object, or what is known of one that does not parse.
///
/// It reads like [`kube::core::DeserializeGuard`], from JSON only, and keeps the object's text in between rather than a tree of it: what reads the types
/// from text is compiled anyhow, and its twin for trees would be a tenth of both binaries. In an event of a watch the type has to come before the object, as
/// API servers write them: what comes before its type is not kept as text.
#[derive(Debug, Clone)]
pub struct Guarded<K>(pub Result<K, InvalidObject>);

impl<'de, K: Resource + DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        serde_json::from_str(text.get())
            .map(Ok)
            .or_else(|error| {
                let PartialObjectMeta::<K> { metadata, .. } =
                    serde_json::from_str(text.get()).map_err(D::Error::custom)?;
                Ok(Err(InvalidObject { error: error.to_string(), metadata }))
            })
            .map(Self)
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|invalid| &mut invalid.metadata, K::meta_mut)
    }
}

/// Whether the API server does not let us list or watch, rather than being away.
pub fn is_forbidden(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return false;
    };
    status.code == 403
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::core::{ObjectList, WatchEvent};

    use super::*;

    const BAD: &str = r#"{"metadata":{"name":"bad","namespace":"n"},"spec":{"containers":"not a list"}}"#;
    const GOOD: &str = r#"{"metadata":{"name":"good","namespace":"n"},"spec":{"containers":[]}}"#;

    #[test]
    fn an_unreadable_object_spoils_neither_its_list_nor_its_watch() {
        let list = format!(r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{}},"items":[{BAD},{GOOD}]}}"#);
        let list: ObjectList<Guarded<Pod>> = serde_json::from_str(&list).unwrap();
        let [bad, good] = list.items.as_slice() else { panic!("{list:?}") };
        let invalid = bad.0.as_ref().unwrap_err();
        assert_eq!((bad.meta().name.as_deref(), invalid.metadata.namespace.as_deref()), (Some("bad"), Some("n")));
        assert!(invalid.error.contains("not a list"), "{invalid}");
        assert_eq!(good.0.as_ref().unwrap().metadata.name.as_deref(), Some("good"));

        let event = format!(r#"{{"type":"ADDED","object":{BAD}}}"#);
        let event: WatchEvent<Guarded<Pod>> = serde_json::from_str(&event).unwrap();
        let WatchEvent::Added(bad) = event else { panic!("{event:?}") };
        assert!(bad.0.is_err() && bad.meta().name.as_deref() == Some("bad"), "{bad:?}");
    }

    #[test]
    fn what_is_no_object_at_all_is_an_error() {
        assert!(serde_json::from_str::<Guarded<Pod>>("[1]").is_err());
    }
}
