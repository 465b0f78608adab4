//! What somebody else has done to objects of ours, once it is undone: users are told, or they would wonder where their edit went.

use std::fmt;

use kube::Resource;
use serde::Serialize;
use shared::kubeutil::{ObjectKey, compare::Difference};

/// Reason of the event, and of the write in the metrics.
pub const DRIFT_REVERTED: &str = "DriftReverted";

/// An object that was not as it was applied last, though nothing else is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reverted {
    object: String,
    /// What of it was changed; none for an object that was not there.
    difference: Option<Difference>,
}

impl Reverted {
    /// It was not there.
    pub(super) fn gone(key: &ObjectKey) -> Self {
        Self { object: key.to_string(), difference: None }
    }

    /// This differed first of all.
    pub(super) fn changed(key: &ObjectKey, difference: Difference) -> Self {
        Self { object: key.to_string(), difference: Some(difference) }
    }

    /// Whether that was somebody else. An object may be missing because it is new: not so where its owner was healthy with its current spec.
    pub(super) fn is_certain<K: Resource<DynamicType = ()> + Serialize>(&self, owner: &K) -> bool {
        if self.difference.is_some() {
            return true;
        }
        let status = serde_json::to_value(owner).map(|mut owner| owner["status"].take()).unwrap_or_default();
        let current = status["observedGeneration"].as_i64() == owner.meta().generation;
        current && status["phase"] == "Healthy"
    }
}

impl fmt::Display for Reverted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.difference {
            Some(difference) => {
                write!(f, "somebody changed {}: {difference}; it is as it should be again", self.object)
            }
            None => write!(f, "{} was gone and is made again", self.object),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::{
        api::v1alpha1::{Cell, CellSpec, CellStatus, Phase},
        kubeutil::compare,
    };

    use super::*;

    fn key() -> ObjectKey {
        ObjectKey {
            group: String::new(),
            kind: "Service".to_owned(),
            namespace: Some("prod".to_owned()),
            name: "demo".to_owned(),
        }
    }

    fn owner(phase: Phase, observed: i64) -> Cell {
        let mut cell = Cell::new("demo", CellSpec::default());
        cell.metadata.generation = Some(2);
        cell.status =
            Some(CellStatus { phase: Some(phase), observed_generation: Some(observed), ..CellStatus::default() });
        cell
    }

    #[test]
    fn an_object_that_is_missing_was_taken_away_only_from_who_was_well() {
        let gone = Reverted::gone(&key());
        assert!(gone.is_certain(&owner(Phase::Healthy, 2)));
        assert!(!gone.is_certain(&owner(Phase::Healthy, 1)), "it may be what the new spec asks for");
        assert!(!gone.is_certain(&owner(Phase::Progressing, 2)));
        assert!(!gone.is_certain(&Cell::new("demo", CellSpec::default())));
        assert_eq!(gone.to_string(), "Service prod/demo was gone and is made again");
    }

    #[test]
    fn a_change_is_told_with_its_place_and_without_its_value() {
        let difference =
            compare::is_superset(&json!({"spec": {"a": "secret"}}), &json!({"spec": {"a": 1}})).unwrap_err();
        let changed = Reverted::changed(&key(), difference);
        assert!(changed.is_certain(&owner(Phase::Progressing, 1)));
        assert_eq!(
            changed.to_string(),
            "somebody changed Service prod/demo: spec.a differs; it is as it should be again"
        );
    }
}
