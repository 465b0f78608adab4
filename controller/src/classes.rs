//! Which StorageClasses there are, as far as the operator may look: their names, and whether one is the default.
//!
//! Only metadata is watched. Where that is not allowed, and where only some namespaces are watched, nothing is known, and nothing
//! is said about volumes without a class.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use futures::StreamExt as _;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{
    Api, Client, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use prometheus::IntCounter;
use shared::{kubeutil::is_forbidden, telemetry, validate::StorageClasses};

use crate::watch::Router;

/// Marks the class that volumes get when they name none; the second is what old manifests still use.
const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// What is known of the StorageClasses.
#[derive(Debug, Default)]
pub struct Classes(RwLock<Option<Arc<StorageClasses>>>);

impl Classes {
    /// What is known; none before the first list, and where listing is not allowed.
    pub fn get(&self) -> Option<Arc<StorageClasses>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells whether anything changed.
    fn set(&self, classes: StorageClasses) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = known.as_deref() != Some(&classes);
        *known = Some(Arc::new(classes));
        changed
    }
}

/// Watches StorageClasses for ever, and has all clusters looked at when one comes or goes. Errors are counted as `restarts`, unless it is not
/// allowed to look.
pub async fn watch(client: Client, router: Router, restarts: IntCounter) {
    let mut seen = Seen::default();
    let api: Api<PartialObjectMeta<StorageClass>> = Api::all(client);
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut silent = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                silent = false;
                if seen.take(event) && router.stores().storage_classes.set(seen.classes()) {
                    router.every_cluster();
                }
            }
            Err(error) => {
                if !is_forbidden(&error) {
                    restarts.inc();
                }
                // It is tried again and again; that it is not allowed is said once.
                if !std::mem::replace(&mut silent, true) {
                    tracing::warn!(
                        error = telemetry::chain(&error),
                        "cannot watch StorageClasses; missing ones are not reported"
                    );
                }
            }
        }
    }
}

/// Names with the default mark: as listed so far, and as known.
#[derive(Default)]
struct Seen {
    listing: BTreeMap<String, bool>,
    known: BTreeMap<String, bool>,
}

impl Seen {
    /// Tells whether what is known is complete.
    fn take(&mut self, event: watcher::Event<PartialObjectMeta<StorageClass>>) -> bool {
        let complete = !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_));
        match event {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(class) => drop(self.listing.insert(class.name_any(), is_default(&class))),
            watcher::Event::InitDone => self.known = std::mem::take(&mut self.listing),
            watcher::Event::Apply(class) => drop(self.known.insert(class.name_any(), is_default(&class))),
            watcher::Event::Delete(class) => drop(self.known.remove(&class.name_any())),
        }
        complete
    }

    fn classes(&self) -> StorageClasses {
        StorageClasses {
            names: self.known.keys().cloned().collect(),
            has_default: self.known.values().any(|default| *default),
        }
    }
}

fn is_default(class: &PartialObjectMeta<StorageClass>) -> bool {
    DEFAULT.iter().any(|key| class.annotations().get(*key).is_some_and(|value| value == "true"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn class(name: &str, default: &str) -> PartialObjectMeta<StorageClass> {
        let annotations = json!({"storageclass.kubernetes.io/is-default-class": default});
        let meta = json!({"metadata": {"name": name, "annotations": annotations}});
        serde_json::from_value(meta).unwrap()
    }

    #[test]
    fn classes_come_and_go_and_a_list_replaces_them_all_at_once() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let (mut seen, classes) = (Seen::default(), Classes::default());
        assert!(classes.get().is_none());
        seen.take(Init);
        assert!(!seen.take(InitApply(class("slow", "true"))), "half a list tells nothing");
        assert!(seen.take(InitDone));
        assert!(classes.set(seen.classes()));
        assert!(!classes.set(seen.classes()), "nothing changed");
        assert!(classes.get().unwrap().has_default);
        seen.take(Apply(class("fast", "false")));
        seen.take(Delete(class("slow", "true")));
        assert!(classes.set(seen.classes()));
        let known = classes.get().unwrap();
        assert_eq!(
            (known.names.iter().map(String::as_str).collect::<Vec<_>>(), known.has_default),
            (vec!["fast"], false)
        );
        seen.take(Init);
        assert!(seen.take(InitDone), "a list of none is complete, too");
        assert!(seen.classes().names.is_empty());
    }
}
