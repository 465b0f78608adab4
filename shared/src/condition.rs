//! Conditions of a status: what changed keeps or moves its transition time, the rest is carried over.
//!
//! The set of a pass starts empty and takes the transition times from the conditions of the previous status. A condition
//! that the pass does not set is dropped, unless it is kept by name.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Longest message that we write, in bytes. The API allows far more, but a condition is a summary, and all conditions
/// share one object.
const MAX_MESSAGE: usize = 1024;

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display, strum::EnumString, strum::IntoStaticStr)]
pub enum Status {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// It is not known whether the condition holds.
    Unknown,
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// The conditions of the next status.
#[derive(Clone, Debug)]
pub struct ConditionSet {
    previous: BTreeMap<String, Condition>,
    next: BTreeMap<String, Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl ConditionSet {
    /// Starts the next set from the previous conditions, for an object of `generation`.
    pub fn continuing(previous: &[Condition], generation: Option<i64>, now: Timestamp) -> Self {
        let previous = previous.iter().map(|condition| (condition.type_.clone(), condition.clone())).collect();
        Self { previous, next: BTreeMap::new(), generation, now }
    }

    /// Sets a condition. Its transition time moves only when its status moves; the last call for a type wins.
    #[must_use]
    pub fn set(
        mut self,
        type_: impl AsRef<str>,
        status: impl Into<Status>,
        reason: impl AsRef<str>,
        message: impl AsRef<str>,
    ) -> Self {
        let type_ = type_.as_ref();
        let status = status.into().to_string();
        let last_transition_time = match self.previous.get(type_) {
            Some(previous) if previous.status == status => previous.last_transition_time.clone(),
            // The API stores whole seconds: anything finer would differ from what is read back.
            _ => Time(Timestamp::from_second(self.now.as_second()).unwrap_or(self.now)),
        };
        let condition = Condition {
            last_transition_time,
            message: shorten(message.as_ref(), MAX_MESSAGE),
            observed_generation: self.generation,
            reason: reason.as_ref().to_owned(),
            status,
            type_: type_.to_owned(),
        };
        self.next.insert(type_.to_owned(), condition);
        self
    }

    /// Carries a previous condition over as it was, when this pass could not judge it; one that is set stays as set.
    #[must_use]
    pub fn keep(mut self, type_: impl AsRef<str>) -> Self {
        if let Some(previous) = self.previous.get(type_.as_ref()) {
            self.next.entry(previous.type_.clone()).or_insert_with(|| previous.clone());
        }
        self
    }

    /// Returns the conditions, ordered by type.
    pub fn finish(self) -> Vec<Condition> {
        self.next.into_values().collect()
    }
}

/// Returns the condition of a type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Returns whether a condition is there and holds.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// Cuts a text to at most `max` bytes, at a character, and marks the cut.
pub fn shorten(text: &str, max: usize) -> String {
    const MARK: &str = "...";
    if text.len() <= max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max.saturating_sub(MARK.len()));
    format!("{}{MARK}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn set(previous: &[Condition], status: bool, message: &str, second: i64) -> Vec<Condition> {
        ConditionSet::continuing(previous, Some(second), at(second))
            .set("Available", status, "Reason", message)
            .finish()
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let first = set(&[], true, "a", 1);
        let second = set(&first, true, "b", 2);
        assert_eq!(second[0].last_transition_time, Time(at(1)));
        assert_eq!(second[0].message, "b");
        assert_eq!(second[0].observed_generation, Some(2));
        let third = set(&second, false, "b", 3);
        assert_eq!(third[0].last_transition_time, Time(at(3)));
        assert_eq!(third[0].status, "False");
    }

    #[test]
    fn same_input_is_a_fixed_point() {
        let first =
            ConditionSet::continuing(&[], Some(1), at(1)).set("B", true, "R", "").set("A", Status::Unknown, "R", "");
        let first = first.finish();
        let again = ConditionSet::continuing(&first, Some(1), at(60))
            .set("A", Status::Unknown, "R", "")
            .set("B", true, "R", "")
            .finish();
        assert_eq!(first, again);
        assert_eq!(again.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), ["A", "B"]);
    }

    #[test]
    fn unset_condition_is_dropped_and_kept_one_is_not() {
        let first = ConditionSet::continuing(&[], None, at(1)).set("A", true, "R", "").set("B", true, "R", "").finish();
        let next = ConditionSet::continuing(&first, None, at(2)).keep("A").keep("Missing").finish();
        assert_eq!(next, vec![first[0].clone()]);
        let set = ConditionSet::continuing(&first, None, at(2)).set("A", false, "R", "").keep("A").finish();
        assert!(!is_true(&set, "A"));
        assert!(is_true(&first, "A") && !is_true(&first, "C"));
    }

    #[test]
    fn times_are_whole_seconds_as_the_api_stores_them() {
        let now: Timestamp = "2026-01-01T00:00:00.75Z".parse().unwrap();
        let set = ConditionSet::continuing(&[], None, now).set("A", true, "R", "").finish();
        assert_eq!(set[0].last_transition_time.0.to_string(), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn long_message_is_cut_at_a_character() {
        let set = set(&[], true, &"ü".repeat(2000), 1);
        assert!(set[0].message.len() <= MAX_MESSAGE);
        assert!(set[0].message.ends_with("ü..."));
        assert_eq!(shorten("abcdef", 5), "ab...");
        assert_eq!(shorten("abcde", 5), "abcde");
    }
}
