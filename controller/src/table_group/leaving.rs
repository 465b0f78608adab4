//! Shards and table groups that their parent's spec no longer names: each is asked to leave, says when nothing of it is left, and is deleted
//! then. That can be called off until it is deleted.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt};
use serde_json::json;
use shared::{
    annotation,
    api::v1alpha1::{Shard, TableGroup},
    condition,
};

use crate::{
    plan::{Action, Note, Plan, Target},
    shard::leaving::READY_FOR_DELETION,
};

/// A kind whose objects leave when they are asked to.
pub trait Leaves: Resource<DynamicType = ()> {
    /// What it is called in messages.
    const WORD: &'static str;
    /// Its name in the spec of its parent.
    fn title(&self) -> &str;
    /// Its conditions.
    fn conditions(&self) -> &[Condition];
}

impl Leaves for Shard {
    const WORD: &'static str = "shard";

    fn title(&self) -> &str {
        &self.spec.shard_name
    }

    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }
}

impl Leaves for TableGroup {
    const WORD: &'static str = "table group";

    fn title(&self) -> &str {
        &self.spec.table_group_name
    }

    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }
}

/// Whether the parent has asked an object to leave.
pub fn is_asked<K: Leaves>(object: &K) -> bool {
    object.annotations().get(annotation::PENDING_DELETION).is_some_and(|at| !at.is_empty())
}

/// How far an object on its way out has come, in words.
pub fn explain<K: Leaves>(object: &K) -> String {
    let said = condition::find(object.conditions(), READY_FOR_DELETION).filter(|_| is_asked(object));
    let how = match said {
        _ if object.meta().deletion_timestamp.is_some() => "is being deleted",
        Some(said) => said.message.as_str(),
        None => "is asked to leave",
    };
    format!("{}: {how}", object.title())
}

/// The next step of an object that is no longer wanted.
pub fn carry_out<K: Leaves, S>(object: &K, now: Timestamp, plan: &mut Plan<S>) {
    if object.meta().deletion_timestamp.is_some() {
        return;
    }
    let Some(target) = Target::of(object) else { return };
    let (word, title) = (K::WORD, object.title());
    if !is_asked(object) {
        let at = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
        let patch = json!({ "metadata": { "annotations": { annotation::PENDING_DELETION: at } } });
        plan.write("Removed", Action::Merge { target, patch });
        let message =
            format!("{word} {title} is no longer in the spec; it is taken down, unregistered and then deleted");
        plan.notes.push(Note::normal("PendingDeletion", message));
    } else if condition::is_true(object.conditions(), READY_FOR_DELETION) {
        plan.write("Removed", Action::Delete(target));
        let message = format!("nothing of {word} {title} is left; its object is deleted");
        plan.notes.push(Note::normal("Deleted", message));
    }
}

/// Calls off the removal of an object that is wanted again. One that is already being deleted is past that: `false`, and its successor
/// comes after it.
pub fn keep<K: Leaves, S>(live: Option<&K>, plan: &mut Plan<S>) -> bool {
    let Some(live) = live else { return true };
    if live.meta().deletion_timestamp.is_some() {
        return false;
    }
    if is_asked(live)
        && let Some(target) = Target::of(live)
    {
        let patch = json!({ "metadata": { "annotations": { annotation::PENDING_DELETION: null } } });
        plan.write("WantedAgain", Action::Merge { target, patch });
        let message = format!("{} {} is in the spec again; its removal is called off", K::WORD, live.title());
        plan.notes.push(Note::normal("RemovalCalledOff", message));
    }
    true
}
