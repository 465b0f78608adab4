//! When a write is not needed, and which changes of a status cannot wait.

use super::*;

#[test]
fn a_merge_patch_that_changes_nothing_is_recognised() {
    let live = json!({"metadata": {"finalizers": ["a"], "labels": {"x": "1", "y": "2"}}});
    assert!(holds_patch(&live, &json!({"metadata": {"finalizers": ["a"]}})));
    assert!(holds_patch(&live, &json!({"metadata": {"annotations": {"gone": null}}})));
    assert!(!holds_patch(&live, &json!({"metadata": {"labels": {"x": null}}})));
    assert!(!holds_patch(&live, &json!({"metadata": {"finalizers": []}})));
}

#[test]
fn an_absent_status_field_equals_an_empty_one() {
    assert!(same_status(&json!({"phase": "Healthy"}), &json!({"phase": "Healthy", "podRoles": {}, "conditions": []})));
    assert!(!same_status(&json!({"phase": "Healthy"}), &json!({"phase": "Healthy", "ready": 0})));
    assert!(!same_status(&Value::Null, &json!({"phase": "Healthy"})));
}

#[test]
fn on_the_way_only_availability_is_significant() {
    let one = json!({"phase": "Progressing", "conditions": [{"type": "Available", "status": "False"}, {"type": "Ready", "status": "False"}]});
    let mut two = one.clone();
    two["conditions"][1]["status"] = json!("True");
    assert_eq!(significant(&one), significant(&two));
    two["conditions"][0]["status"] = json!("True");
    assert_ne!(significant(&one), significant(&two));
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
