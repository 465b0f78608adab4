//! When a write is not needed.

use super::*;

#[test]
fn a_merge_patch_that_changes_nothing_is_recognised() {
    let live = json!({"metadata": {"finalizers": ["a"], "labels": {"x": "1", "y": "2"}}});
    assert!(holds_patch(&live, &json!({"metadata": {"finalizers": ["a"]}})));
    assert!(holds_patch(&live, &json!({"metadata": {"annotations": {"gone": null}}})));
    assert!(!holds_patch(&live, &json!({"metadata": {"labels": {"x": null}}})));
    assert!(!holds_patch(&live, &json!({"metadata": {"finalizers": []}})));
}
