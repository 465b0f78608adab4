//! Pinned renderings: what a workload runs stays what it was rendered to until its user wants something else of it.
//!
//! The settings of the operator, the version of the server and the code of the builders all go into a rendering. None of them
//! may restart a running process by changing, so an object that holds a rendering also holds a packed copy of it, and the digest
//! of the intent that it was rendered from. As long as the intent is the same the copy is the desired state; a rendering of today
//! replaces it when the intent changes, or where new renderings are taken over at once.
//!
//! The copy is an annotation of the object itself and no `ControllerRevision` of its own: it costs no further write, it is made,
//! found and deleted together with the object, and no collector is needed. It is a copy because the live object cannot serve as
//! one: what somebody changed in it by hand has to be told from what was rendered.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use miniz_oxide::{deflate::compress_to_vec, inflate::decompress_to_vec_with_limit};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use shared::{annotation, kubeutil};

use crate::error::Error;

/// Digits of a digest.
const DIGITS: usize = 16;
/// Small renderings are packed once and read for years.
const LEVEL: u8 = 9;
/// No rendering of ours is nearly as large; whoever forges one gets no memory for it.
const LIMIT: usize = 16 << 20;

/// When a rendering of today replaces a pinned one although the intent is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Adoption {
    /// Not before the intent changes.
    #[default]
    Lazy,
    /// At once.
    Immediate,
    /// Not even when the intent changes: whatever would restart a pod waits.
    Paused,
}

impl Adoption {
    /// What an object was told by its owner.
    pub fn of(meta: &ObjectMeta) -> Self {
        let told = meta.annotations.as_ref().and_then(|all| all.get(annotation::UPDATE_STRATEGY));
        match told.map(String::as_str) {
            Some(annotation::UPDATE_IMMEDIATELY) => Self::Immediate,
            Some(annotation::UPDATE_PAUSED) => Self::Paused,
            _ => Self::Lazy,
        }
    }

    /// The annotation that tells an object, where there is something to tell.
    pub fn told(self) -> Option<(String, String)> {
        let told = match self {
            Self::Lazy => return None,
            Self::Immediate => annotation::UPDATE_IMMEDIATELY,
            Self::Paused => annotation::UPDATE_PAUSED,
        };
        Some((annotation::UPDATE_STRATEGY.to_owned(), told.to_owned()))
    }
}

/// A rendering that is the desired state, and the annotations that keep it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pinned<T> {
    /// The rendering.
    pub rendering: T,
    /// Intent and packed copy.
    pub annotations: BTreeMap<String, String>,
}

/// The digest of what a user wants of a workload: of everything that decides about its rendering, and of nothing that the operator
/// contributes.
///
/// What is not set does not count, so that a field that a later version knows does not change the intent of those who never set it.
pub fn intent(wanted: &Value) -> String {
    digest(&set(wanted).unwrap_or_default())
}

/// A value without whatever says nothing.
fn set(value: &Value) -> Option<Value> {
    match value {
        Value::Null | Value::Bool(false) => None,
        Value::String(text) if text.is_empty() => None,
        Value::Object(members) => {
            let members = members.iter().filter_map(|(key, member)| Some((key.clone(), set(member)?)));
            let members: serde_json::Map<String, Value> = members.collect();
            (!members.is_empty()).then_some(Value::Object(members))
        }
        // The place in a list matters.
        Value::Array(items) => {
            (!items.is_empty()).then(|| items.iter().map(|item| set(item).unwrap_or_default()).collect())
        }
        said => Some(said.clone()),
    }
}

/// The desired rendering: the one that `live` holds if it was rendered from the same intent or new ones wait, else the fresh one.
pub fn pin<T>(live: Option<&ObjectMeta>, intent: &str, adoption: Adoption, fresh: T) -> Result<Pinned<T>, Error>
where
    T: Serialize + DeserializeOwned,
{
    let content = value(&fresh)?;
    let digest = digest(&content);
    let kept = live.and_then(Kept::of).filter(|kept| kept.intent == intent || adoption == Adoption::Paused);
    if let Some(kept) = kept {
        if kept.digest == digest {
            return Ok(Pinned { rendering: fresh, annotations: kept.annotations() });
        }
        if adoption != Adoption::Immediate
            && let Some(rendering) = kept.unpack()
        {
            return Ok(Pinned { rendering, annotations: kept.annotations() });
        }
    }
    let packed = STANDARD.encode(pack(&content));
    let rendering = format!("{} {packed}", seal(&digest, packed.as_bytes()));
    let annotations = [(annotation::INTENT, intent.to_owned()), (annotation::RENDERING, rendering)];
    let annotations = annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(Pinned { rendering: fresh, annotations })
}

/// Whether `live` holds a rendering that can be read.
pub fn is_pinned<T: DeserializeOwned>(live: &ObjectMeta) -> bool {
    kept::<T>(live).is_some()
}

/// The rendering that `live` holds, whatever it was rendered from.
pub fn kept<T: DeserializeOwned>(live: &ObjectMeta) -> Option<Pinned<T>> {
    let kept = Kept::of(live)?;
    Some(Pinned { rendering: kept.unpack()?, annotations: kept.annotations() })
}

/// The intent that a live object was rendered from.
pub fn intent_of(live: &ObjectMeta) -> Option<&str> {
    live.annotations.as_ref()?.get(annotation::INTENT).map(String::as_str)
}

/// A Deployment whose pods are pinned. Everything else of it follows the spec at once, since none of that restarts a pod.
pub fn deployment(
    mut fresh: Deployment,
    live: Option<&Deployment>,
    intent: &str,
    adoption: Adoption,
) -> Result<Deployment, Error> {
    if let Some(spec) = fresh.spec.as_mut() {
        template(&mut spec.template, &mut fresh.metadata, live.map(|live| &live.metadata), intent, adoption)?;
    }
    Ok(fresh)
}

/// A StatefulSet whose pods are pinned. Everything else of it follows the spec at once, since none of that restarts a pod.
pub fn stateful_set(
    mut fresh: StatefulSet,
    live: Option<&StatefulSet>,
    intent: &str,
    adoption: Adoption,
) -> Result<StatefulSet, Error> {
    if let Some(spec) = fresh.spec.as_mut() {
        template(&mut spec.template, &mut fresh.metadata, live.map(|live| &live.metadata), intent, adoption)?;
    }
    Ok(fresh)
}

fn template(
    template: &mut PodTemplateSpec,
    meta: &mut ObjectMeta,
    live: Option<&ObjectMeta>,
    intent: &str,
    adoption: Adoption,
) -> Result<(), Error> {
    let pinned = pin(live, intent, adoption, std::mem::take(template))?;
    *template = pinned.rendering;
    meta.annotations.get_or_insert_default().extend(pinned.annotations);
    Ok(())
}

/// Packs a rendering.
pub fn pack(content: &Value) -> Vec<u8> {
    compress_to_vec(content.to_string().as_bytes(), LEVEL)
}

/// Reads a packed rendering; none if it is not one, or was tampered with.
pub fn unpack<T: DeserializeOwned>(packed: &[u8], expected: &str) -> Option<T> {
    let text = String::from_utf8(decompress_to_vec_with_limit(packed, LIMIT).ok()?).ok()?;
    let content: Value = serde_json::from_str(&text).ok()?;
    if digest(&content) != expected {
        return None;
    }
    // From text, as the watches read the same types: reading them from a value would be a second copy of all that code.
    serde_json::from_str(&text).ok()
}

/// Names a rendering and the bytes that it is packed in.
pub fn seal(digest: &str, packed: &[u8]) -> String {
    format!("{digest}.{}", &hex::encode(Sha256::digest(packed))[..DIGITS])
}

/// The digest of the rendering that these bytes should hold; none if they are not the ones that were sealed.
pub fn sealed<'a>(seal: &'a str, packed: &[u8]) -> Option<&'a str> {
    let (digest, sum) = seal.split_once('.')?;
    (hex::encode(Sha256::digest(packed)).get(..DIGITS) == Some(sum)).then_some(digest)
}

/// Short digest of a value.
pub fn digest(content: &Value) -> String {
    kubeutil::digest(content).chars().take(DIGITS).collect()
}

/// A value as JSON.
pub fn value<T: Serialize>(content: &T) -> Result<Value, Error> {
    serde_json::to_value(content).map_err(|source| Error::Serialise { object: "a rendering".to_owned(), source })
}

/// What a live object holds.
struct Kept<'a> {
    intent: &'a str,
    rendering: &'a str,
    digest: &'a str,
    packed: &'a str,
}

impl<'a> Kept<'a> {
    fn of(live: &'a ObjectMeta) -> Option<Self> {
        let rendering = live.annotations.as_ref()?.get(annotation::RENDERING)?;
        let (seal, packed) = rendering.split_once(' ')?;
        Some(Self { intent: intent_of(live)?, rendering, digest: sealed(seal, packed.as_bytes())?, packed })
    }

    fn unpack<T: DeserializeOwned>(&self) -> Option<T> {
        unpack(&STANDARD.decode(self.packed).ok()?, self.digest)
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let both = [(annotation::INTENT, self.intent), (annotation::RENDERING, self.rendering)];
        both.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn holding(pinned: &Pinned<Value>) -> ObjectMeta {
        ObjectMeta { annotations: Some(pinned.annotations.clone()), ..ObjectMeta::default() }
    }

    fn pinned(live: Option<&ObjectMeta>, intent: &str, adoption: Adoption, fresh: &Value) -> Pinned<Value> {
        pin(live, intent, adoption, fresh.clone()).unwrap()
    }

    #[test]
    fn a_new_rendering_waits_until_the_intent_changes() {
        let (old, new) = (json!({"image": "a:1"}), json!({"image": "a:2"}));
        let first = pinned(None, "i", Adoption::Lazy, &old);
        assert_eq!(first.rendering, old);
        let live = holding(&first);
        assert_eq!(pinned(Some(&live), "i", Adoption::Lazy, &new), first);
        assert_eq!(pinned(Some(&live), "j", Adoption::Lazy, &new).rendering, new);
        let adopted = pinned(Some(&live), "i", Adoption::Immediate, &new);
        assert_eq!(adopted.rendering, new);
        assert_eq!(pinned(Some(&holding(&adopted)), "i", Adoption::Lazy, &old).rendering, new);
    }

    #[test]
    fn a_paused_rendering_stays_whatever_is_wanted() {
        let (old, new) = (json!({"image": "a:1"}), json!({"image": "a:2"}));
        let first = pinned(None, "i", Adoption::Paused, &old);
        let live = holding(&first);
        assert_eq!(pinned(Some(&live), "j", Adoption::Paused, &new), first);
        assert_eq!(pinned(Some(&live), "j", Adoption::Lazy, &new).rendering, new, "it was wanted before");
    }

    #[test]
    fn a_copy_that_cannot_be_read_or_was_changed_is_replaced() {
        let (old, new) = (json!({"image": "a:1"}), json!({"image": "a:2"}));
        let first = pinned(None, "i", Adoption::Lazy, &old);
        let forged = pinned(None, "i", Adoption::Lazy, &json!({"image": "evil:1"}));
        let (honest, _) = first.annotations[annotation::RENDERING].split_once(' ').unwrap();
        let (_, packed) = forged.annotations[annotation::RENDERING].split_once(' ').unwrap();
        let resealed = seal(honest.split_once('.').unwrap().0, packed.as_bytes());
        for text in
            ["", "x", "x y", &format!("{honest} {packed}"), &format!("{resealed} {packed}"), &format!("{honest} ****")]
        {
            let mut live = holding(&first);
            live.annotations.get_or_insert_default().insert(annotation::RENDERING.to_owned(), text.to_owned());
            assert!(!is_pinned::<Value>(&live), "{text}");
            assert_eq!(pinned(Some(&live), "i", Adoption::Lazy, &new).rendering, new, "{text}");
            if text != format!("{resealed} {packed}") {
                assert_eq!(pinned(Some(&live), "i", Adoption::Lazy, &old), first, "{text}");
            }
        }
    }

    #[test]
    fn a_cluster_tells_its_children_what_is_not_the_rule() {
        let mut meta = ObjectMeta::default();
        assert_eq!((Adoption::of(&meta), Adoption::Lazy.told()), (Adoption::Lazy, None));
        meta.annotations = Some(Adoption::Immediate.told().into_iter().collect());
        assert_eq!(Adoption::of(&meta), Adoption::Immediate);
        meta.annotations = Some(Adoption::Paused.told().into_iter().collect());
        assert_eq!(Adoption::of(&meta), Adoption::Paused);
    }

    #[test]
    fn replicas_follow_while_the_pods_stay() {
        let make = |replicas: i32, image: &str| -> Deployment {
            serde_json::from_value(json!({
                "metadata": {"name": "d"},
                "spec": {"replicas": replicas, "selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
            }))
            .unwrap()
        };
        let live = deployment(make(1, "a:1"), None, "i", Adoption::Lazy).unwrap();
        let next = deployment(make(3, "a:2"), Some(&live), "i", Adoption::Lazy).unwrap();
        let (live, next) = (live.spec.unwrap(), next.spec.unwrap());
        assert_eq!((next.replicas, next.template), (Some(3), live.template));
    }

    #[test]
    fn what_is_not_set_is_no_intent() {
        let wanted = json!({"a": 1, "list": [null, {"x": true}]});
        let later = json!({"a": 1, "list": [null, {"x": true, "y": []}], "b": null, "c": {"d": "", "e": false}});
        assert_eq!(intent(&wanted), intent(&later));
        for other in [json!({"a": 2}), json!({"a": 1, "list": [{"x": true}, null]}), json!({"a": 0})] {
            assert_ne!(intent(&wanted), intent(&other));
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read_back(text in ".{0,400}", number in any::<i64>(), list in prop::collection::vec(".{0,9}", 0..9)) {
            let content = json!({"text": text, "number": number, "list": list});
            let live = holding(&pinned(None, "i", Adoption::Lazy, &content));
            let again = pinned(Some(&live), "i", Adoption::Lazy, &json!(null));
            prop_assert_eq!(&again.rendering, &content);
            prop_assert_eq!(Some(&again.annotations), live.annotations.as_ref());
        }
    }
}
