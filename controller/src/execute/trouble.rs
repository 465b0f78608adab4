//! Condition `Reconciled`: there, and false, only while passes of an object keep failing, with what stands in the way.
//!
//! It has a field manager of its own. So it can be told when a pass did not get as far as a status, and it never stands in the way of
//! the status that a pass computes.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Resource,
    api::{Patch, PatchParams},
    discovery::ApiResource,
};
use serde::Serialize;
use serde_json::{Value, json};
use shared::{
    condition::{self, ConditionSet},
    kubeutil::{FieldManager, ObjectKey},
};

use super::{Executor, is_code, serialise};
use crate::error::Error;

/// Type of the condition.
pub const RECONCILED: &str = "Reconciled";

/// What stands in the way of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Category of the first error.
    pub reason: &'static str,
    /// The first error, and how many came after it.
    pub message: String,
}

impl Trouble {
    /// What to say about the errors of one pass; nothing when there are none.
    pub fn of(errors: &[Error]) -> Option<Self> {
        let (first, others) = errors.split_first()?;
        let message = match others.len() {
            0 => first.chain(),
            more => format!("{} (and {more} more)", first.chain()),
        };
        Some(Self { reason: first.category(), message })
    }
}

impl Executor {
    /// Writes or removes the condition, unless it is already so. Returns whether something was written.
    pub async fn tell<K>(&self, object: &K, trouble: Option<&Trouble>) -> Result<bool, Error>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let key = ObjectKey::of(object);
        let live = match self.freshest(&key) {
            Some(live) => live,
            None => serialise(&key, object)?,
        };
        let Some(next) = next(&live, trouble, Timestamp::now()) else { return Ok(false) };
        let body = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()),
            "metadata": { "name": key.name, "namespace": key.namespace, "uid": object.meta().uid },
            "status": { "conditions": next },
        });
        let api = self.api(&ApiResource::erase::<K>(&()), key.namespace.as_deref());
        let params = PatchParams::apply(FieldManager::Reconcile.as_str()).force();
        match self.call("status", &key, api.patch_status(&key.name, &params, &Patch::Apply(&body))).await {
            Ok(answer) => {
                let answer = serialise(&key, &answer)?;
                self.remember(key, answer);
                Ok(true)
            }
            // The object went away during the pass: there is nobody left to tell.
            Err(Error::Write { source, .. }) if is_code(&source, 404) || is_code(&source, 409) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The conditions of this field manager as they should become; nothing when they are so.
fn next(live: &Value, trouble: Option<&Trouble>, now: Timestamp) -> Option<Vec<Condition>> {
    let stored: Vec<Condition> = serde_json::from_value(live["status"]["conditions"].clone()).unwrap_or_default();
    let stored = condition::find(&stored, RECONCILED);
    let generation = live["metadata"]["generation"].as_i64();
    let set = ConditionSet::continuing(stored.map_or(&[], std::slice::from_ref), generation, now);
    let set = match trouble {
        Some(trouble) => set.set(RECONCILED, false, trouble.reason, &trouble.message),
        None => set,
    };
    let wanted = set.finish();
    (wanted.first() != stored).then_some(wanted)
}

/// A stored status without the condition of this field manager: what the status of a pass is compared with.
pub(super) fn without(mut status: Value) -> Value {
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.retain(|condition| condition["type"] != RECONCILED);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(message: &str) -> Trouble {
        Trouble { reason: "Write", message: message.to_owned() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn object(conditions: &Value) -> Value {
        json!({"metadata": {"generation": 3}, "status": {"phase": "Progressing", "conditions": conditions}})
    }

    #[test]
    fn an_object_without_trouble_and_without_the_condition_is_left_alone() {
        assert_eq!(next(&object(&json!([])), None, at(1)), None);
        assert_eq!(next(&json!({"metadata": {}}), None, at(1)), None);
    }

    #[test]
    fn trouble_is_told_once_and_taken_back_when_it_is_over() {
        let told = next(&object(&json!([])), Some(&trouble("exceeded quota")), at(1)).unwrap();
        assert_eq!(told[0].status, "False");
        assert_eq!(told[0].observed_generation, Some(3));
        let live = object(&json!(told));
        assert_eq!(next(&live, Some(&trouble("exceeded quota")), at(9)), None);
        let changed = next(&live, Some(&trouble("no such class")), at(9)).unwrap();
        assert_eq!(changed[0].last_transition_time, told[0].last_transition_time);
        assert_eq!(next(&live, None, at(9)), Some(Vec::new()));
    }

    #[test]
    fn the_status_of_a_pass_is_compared_without_it() {
        let available = json!({"type": "Available", "status": "True"});
        let status = json!({"phase": "Healthy", "conditions": [available, {"type": RECONCILED, "status": "False"}]});
        assert_eq!(without(status), json!({"phase": "Healthy", "conditions": [available]}));
        assert_eq!(without(Value::Null), Value::Null);
    }

    #[test]
    fn the_first_of_several_errors_is_told_with_their_number() {
        let error = |name: &str| Error::Foreign { object: name.to_owned() };
        assert_eq!(Trouble::of(&[]), None);
        let told = Trouble::of(&[error("Secret a"), error("Secret b")]).unwrap();
        assert_eq!(told.reason, "Foreign");
        assert!(told.message.starts_with("Secret a") && told.message.ends_with("(and 1 more)"), "{}", told.message);
    }
}
