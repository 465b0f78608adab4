//! What is said about StorageClasses that volumes need and that are not there.

use shared::validate::{StorageClasses, missing_classes};

use super::*;

#[test]
fn a_missing_storage_class_degrades_a_cluster_that_is_on_its_way_and_is_only_told_where_all_is_well() {
    let mut seen = observed(MINIMAL);
    let none = StorageClasses::default();
    seen.missing_classes = missing_classes(seen.resolved.as_deref().unwrap(), &none);
    assert_eq!(
        seen.missing_classes,
        [MissingClass { class: None, field: "globalTopoServer.etcd.storage.class".to_owned() }]
    );
    let status = run(&seen).status.unwrap();
    let condition = find(&status.conditions, "StorageClassMissing").unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "NoDefaultStorageClass"));
    assert_eq!(status.phase, Some(Phase::Degraded));
    assert!(status.message.unwrap().contains("is-default-class"));

    healthy_children(&mut seen);
    seen.missing_classes[0].class = Some("gold".to_owned());
    let status = run(&seen).status.unwrap();
    let condition = find(&status.conditions, "StorageClassMissing").unwrap();
    assert_eq!(condition.reason, "StorageClassNotFound");
    assert!(condition.message.contains("\"gold\""), "{}", condition.message);
    assert_ne!(status.phase, Some(Phase::Degraded));

    seen.missing_classes.clear();
    assert!(find(&run(&seen).status.unwrap().conditions, "StorageClassMissing").is_none());
}
