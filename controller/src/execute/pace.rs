//! When a status that differs from the stored one is written. Pure.

use std::time::Duration;

use serde_json::Value;

/// Status changes that move neither the phase nor a condition are written at most this often.
pub(super) const STATUS_PACE: Duration = Duration::from_secs(15);
/// A pass whose writes have not come back yet is repeated after this long at the latest.
const SETTLE: Duration = Duration::from_secs(1);
/// A step on the way is told once it has lasted so long: often the next one follows at once, and it needs no status of its own then.
const LASTING: Duration = Duration::from_secs(1);
/// The same for what moves neither the phase nor a condition that is waited for.
const DETAIL_LASTING: Duration = Duration::from_secs(10);
/// The conditions that other controllers wait for. Whether there has been a primary is also what a later life of this program goes by before it
/// calls a shard new.
const AWAITED: [&str; 3] = ["Available", "PrimaryConfirmed", "ReadyForDeletion"];

/// What decides whether a status that differs from the stored one is written now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Whether the pass found nothing to do.
    pub settled: bool,
    /// How long ago the last one was written, as far as anybody remembers.
    pub written: Option<Duration>,
    /// How long the stored one has not been true.
    pub untold: Duration,
}

impl Pace {
    /// How long a status still waits; not at all where it is the first one, or where a phase or a condition tells that something goes wrong.
    pub fn wait(self, stored: &Value, status: &Value) -> Option<Duration> {
        // What was just written is not in what was observed: only a pass that finds nothing to do may say that all is well.
        if !self.settled && status["phase"] == "Healthy" {
            return Some(SETTLE);
        }
        if stored.is_null() {
            return None;
        }
        let detail = significant(stored) == significant(status);
        let paced = self.written.filter(|_| detail).map_or(Duration::ZERO, |ago| STATUS_PACE.saturating_sub(ago));
        let passing = match (under_way(stored) && under_way(status), detail) {
            (false, _) => Duration::ZERO,
            (true, false) => LASTING.saturating_sub(self.untold),
            (true, true) => DETAIL_LASTING.saturating_sub(self.untold),
        };
        Some(paced.max(passing)).filter(|wait| !wait.is_zero())
    }
}

/// The part of a status that must reach a reader at once: the phase, and which conditions hold. On the way there, reasons,
/// messages and the conditions that nobody waits for change more often than anybody reads them.
fn significant(status: &Value) -> (String, Vec<(String, String)>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let phase = text(&status["phase"]);
    let under_way = under_way(status);
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let conditions = conditions.iter().map(|c| (text(&c["type"]), text(&c["status"])));
    (phase, conditions.filter(|(kind, _)| !under_way || AWAITED.contains(&kind.as_str())).collect())
}

/// Whether a status says that something is being made or changed, and that nothing is wrong.
fn under_way(status: &Value) -> bool {
    matches!(status["phase"].as_str(), Some("Initializing" | "Progressing"))
}

/// Equality of two status objects, where an absent key equals an empty one.
pub(super) fn same_status(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => a
            .keys()
            .chain(b.keys())
            .all(|k| same_status(a.get(k).unwrap_or(&Value::Null), b.get(k).unwrap_or(&Value::Null))),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_status(a, b)),
        _ => a == b || (is_empty(a) && is_empty(b)),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn of_phase(phase: &str) -> Value {
        json!({"phase": phase, "conditions": [{"type": "Available", "status": "True"}]})
    }

    #[rstest]
    #[case(Some("Progressing"), "Healthy", 1000)] // The pass did something, so it has not seen what came of it.
    #[case(Some("Progressing"), "Degraded", 0)]
    #[case(Some("Healthy"), "Progressing", 0)]
    #[case(Some("Initializing"), "Progressing", 700)]
    #[case(None, "Initializing", 0)]
    fn only_steps_on_the_way_wait(#[case] stored: Option<&str>, #[case] next: &str, #[case] millis: u64) {
        let stored = stored.map_or(Value::Null, of_phase);
        let pace = Pace { settled: false, written: None, untold: Duration::from_millis(300) };
        assert_eq!(pace.wait(&stored, &of_phase(next)).unwrap_or_default(), Duration::from_millis(millis));
        let late = Pace { settled: true, written: None, untold: LASTING };
        assert_eq!(late.wait(&stored, &of_phase(next)), None);
    }

    #[rstest]
    #[case(None, 2, 8)] // On the way, until it has lasted.
    #[case(None, 10, 0)]
    #[case(Some(5), 2, 10)] // Soon after another one, longer.
    #[case(Some(20), 2, 8)]
    fn texts_wait_longer_than_availability(#[case] written: Option<u64>, #[case] untold: u64, #[case] secs: u64) {
        let stored = of_phase("Progressing");
        let mut text = stored.clone();
        text["message"] = json!("waiting");
        let mut lost = text.clone();
        lost["conditions"][0]["status"] = json!("False");
        let pace =
            Pace { settled: true, written: written.map(Duration::from_secs), untold: Duration::from_secs(untold) };
        assert_eq!(pace.wait(&stored, &text).unwrap_or_default(), Duration::from_secs(secs));
        assert_eq!(pace.wait(&stored, &lost), None);
    }

    #[test]
    fn texts_of_what_is_not_under_way_wait_for_the_last_write_alone() {
        let stored = of_phase("Degraded");
        let mut text = stored.clone();
        text["message"] = json!("another reason");
        let pace = Pace { settled: true, written: None, untold: Duration::ZERO };
        assert_eq!(pace.wait(&stored, &text), None);
        let soon = Pace { written: Some(Duration::from_secs(5)), ..pace };
        assert_eq!(soon.wait(&stored, &text), Some(Duration::from_secs(10)));
    }

    #[test]
    fn an_absent_status_field_equals_an_empty_one() {
        assert!(same_status(
            &json!({"phase": "Healthy"}),
            &json!({"phase": "Healthy", "podRoles": {}, "conditions": []})
        ));
        assert!(!same_status(&json!({"phase": "Healthy"}), &json!({"phase": "Healthy", "ready": 0})));
        assert!(!same_status(&Value::Null, &json!({"phase": "Healthy"})));
    }

    #[test]
    fn on_the_way_only_what_is_waited_for_is_significant() {
        let one = json!({"phase": "Progressing", "conditions": [{"type": "Available", "status": "False"}, {"type": "Ready", "status": "False"}]});
        let mut two = one.clone();
        two["conditions"][1]["status"] = json!("True");
        assert_eq!(significant(&one), significant(&two));
        two["conditions"][0]["status"] = json!("True");
        assert_ne!(significant(&one), significant(&two));
    }

    #[rstest]
    fn what_others_wait_for_is_not_held_back(#[values("ReadyForDeletion", "PrimaryConfirmed")] awaited: &str) {
        let on_the_way =
            |status: &str| json!({"phase": "Progressing", "conditions": [{"type": awaited, "status": status}]});
        let pace = Pace { settled: true, written: Some(Duration::ZERO), untold: LASTING };
        assert_eq!(pace.wait(&on_the_way("False"), &on_the_way("True")), None);
    }

    #[test]
    fn phase_and_conditions_are_significant_and_texts_are_not() {
        let one = json!({"phase": "Degraded", "message": "1 of 3", "conditions": [{"type": "Available", "status": "False", "reason": "X", "message": "1 of 3"}]});
        let mut two = one.clone();
        two["message"] = json!("2 of 3");
        two["conditions"][0]["message"] = json!("2 of 3");
        assert_eq!(significant(&one), significant(&two));
        two["conditions"][0]["status"] = json!("True");
        assert_ne!(significant(&one), significant(&two));
    }
}
