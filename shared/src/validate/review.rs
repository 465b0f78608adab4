//! From a spec to a verdict in one step.

use crate::api::v1alpha1::MultigresClusterSpec;
use crate::resolve::{self, Settings, Templates};

use super::{
    Before, Findings, Surroundings, Verdict, alike, alone, as_resolved, as_written, cluster, surroundings, unresolved,
};

/// A cluster to judge.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its name; empty while the API server has yet to make one up.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its spec.
    pub spec: &'a MultigresClusterSpec,
    /// The templates of its namespace.
    pub templates: &'a Templates,
    /// What the operator's own configuration contributes.
    pub settings: &'a Settings,
}

/// Resolves a cluster and judges it, and its change where `old` is what it was before.
///
/// Most specs are right, so where values came from, and each of several cells or table groups that are alike, is only looked at in those
/// that are not.
pub fn review(old: Option<&MultigresClusterSpec>, subject: &Subject<'_>, around: &Surroundings) -> Verdict {
    let old = old.filter(|old| *old != subject.spec);
    at_a_glance(old, subject, around).unwrap_or_else(|| in_full(old, subject, around))
}

/// The verdict, where one of each sort of cells and table groups is enough to see that none of them has anything to find. What the spec
/// shows as a whole may still be worth a warning.
fn at_a_glance(old: Option<&MultigresClusterSpec>, subject: &Subject<'_>, around: &Surroundings) -> Option<Verdict> {
    let Subject { name, namespace, spec, templates, settings } = *subject;
    let represented = alike::represented(old, spec)?;
    let mut whole = Findings::new(None);
    as_written(&mut whole, name, spec);
    // An error names the level that its value came from.
    if !whole.verdict.is_accepted() {
        return None;
    }
    surroundings::places(&mut whole, spec, &settings.zone_id_label, around);
    let resolve = |spec| resolve::quietly_without(&represented, name, namespace, spec, templates, settings).ok();
    let before = old.and_then(resolve);
    let before = old.zip(before.as_ref()).map(|(spec, resolved)| Before { spec, resolved });
    let resolved = resolve(spec)?;
    let mut parts = Findings::new(Some(&resolved.provenance));
    as_resolved(&mut parts, before, spec, &resolved, around);
    (parts.verdict == Verdict::default()).then_some(whole.verdict)
}

/// Judges all of a cluster.
fn in_full(old: Option<&MultigresClusterSpec>, subject: &Subject<'_>, around: &Surroundings) -> Verdict {
    let Subject { name, namespace, spec, templates, settings } = *subject;
    let before = old.and_then(|old| resolve::quietly(name, namespace, old, templates, settings).ok());
    let before = old.zip(before.as_ref()).map(|(spec, resolved)| Before { spec, resolved });
    match resolve::quietly(name, namespace, spec, templates, settings) {
        Ok(resolved) => {
            let verdict = cluster(before, name, spec, &resolved, around);
            if verdict.is_accepted() {
                return verdict;
            }
            match resolve::cluster(name, namespace, spec, templates, settings) {
                Ok(resolved) => cluster(before, name, spec, &resolved, around),
                Err(_) => verdict,
            }
        }
        Err(errors) => {
            // What does not depend on the missing part is said at once, too.
            let Verdict { errors: mut written, warnings } = alone(name, spec);
            let mut errors = unresolved(&errors).errors;
            errors.append(&mut written);
            Verdict { errors, warnings }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::v1alpha1::{CellConfig, TableGroupConfig};
    use crate::resolve::tests::law;
    use crate::validate::NodeLabels;

    /// Lets cells and table groups be like others.
    fn with_copies(mut spec: MultigresClusterSpec, copies: &[(usize, bool)]) -> MultigresClusterSpec {
        for (index, (from, located)) in copies.iter().enumerate() {
            let Some(cell) = spec.cells.get(from % spec.cells.len().max(1)).cloned() else { break };
            let zone = cell.zone.clone().filter(|_| *located);
            spec.cells.push(CellConfig { name: format!("copy-{index}"), zone, ..cell });
        }
        for database in &mut spec.databases {
            for (index, (from, shards_alone)) in copies.iter().enumerate() {
                let Some(group) = database.tablegroups.get(from % database.tablegroups.len().max(1)) else { break };
                let group = if *shards_alone {
                    TableGroupConfig { shards: group.shards.clone(), ..TableGroupConfig::default() }
                } else {
                    group.clone()
                };
                database.tablegroups.push(TableGroupConfig { name: format!("copy-{index}"), default: None, ..group });
            }
        }
        spec
    }

    fn settings() -> Settings {
        Settings::default()
    }

    #[test]
    fn a_glance_is_enough_where_all_groups_are_alike_and_right() {
        let pool = |size: &str| json!({"pools": {"main": {"cells": ["a"], "storage": {"size": size}}}});
        let group = |name: &str, size: &str| json!({"name": name, "shards": [{"name": "0-inf", "spec": pool(size)}]});
        let spec = |groups: &[Value]| {
            let cluster = json!({
                "cells": [{"name": "a"}],
                "backup": {"type": "filesystem", "filesystem": {"storage": {"accessModes": ["ReadWriteMany"]}}},
                "databases": [{"name": "postgres", "tablegroups": groups}],
            });
            serde_json::from_value::<MultigresClusterSpec>(cluster).unwrap()
        };
        let (settings, templates) = (settings(), Templates::default());
        let glance = |old: Option<&MultigresClusterSpec>, spec: &MultigresClusterSpec| {
            let subject = Subject { name: "demo", namespace: "prod", spec, templates: &templates, settings: &settings };
            let glance = at_a_glance(old, &subject, &Surroundings::default());
            assert!(glance.as_ref().is_none_or(|glance| *glance == in_full(old, &subject, &Surroundings::default())));
            glance.is_some()
        };
        let right = spec(&[group("default", "2Gi"), group("b", "2Gi"), group("c", "2Gi")]);
        assert!(glance(None, &right));
        assert!(!glance(None, &spec(&[group("default", "2Gi"), group("b", "2Gi"), group("c", "no")])));
        assert!(!glance(None, &spec(&[group("default", "no"), group("b", "no"), group("c", "no")])));
        let smaller = spec(&[group("default", "1Gi"), group("b", "1Gi"), group("c", "1Gi")]);
        assert!(glance(Some(&smaller), &right));
        let shrunk = spec(&[group("default", "2Gi"), group("b", "2Gi"), group("c", "3Gi")]);
        assert!(!glance(Some(&shrunk), &right));
        // A warning about all groups together is no reason to look at each.
        let mut shared = right.clone();
        shared.backup = serde_json::from_value(json!({"type": "s3", "s3": {"bucket": "b", "region": "r"}})).unwrap();
        assert!(glance(None, &shared));
        // Nor is a warning about where cells are.
        let nowhere = Surroundings { nodes: Some(NodeLabels::default()), ..Surroundings::default() };
        let mut located = right.clone();
        located.cells[0].zone = Some("nowhere".to_owned());
        let subject =
            Subject { name: "demo", namespace: "prod", spec: &located, templates: &templates, settings: &settings };
        let told = at_a_glance(None, &subject, &nowhere);
        assert_eq!(told, Some(in_full(None, &subject, &nowhere)));
        assert!(told.is_some_and(|verdict| verdict.warnings.iter().any(|warning| warning.path == "cells[a].zone")));
    }

    #[test]
    fn what_is_written_wrongly_is_told_beside_a_missing_template() {
        let spec: MultigresClusterSpec = serde_json::from_value(json!({
            "cells": [{"name": "A"}],
            "multiadmin": {"templateRef": "gone"},
            "databases": [{"name": "postgres", "bootstrap": {"fromBackup": {}}}],
        }))
        .unwrap();
        let (settings, templates) = (settings(), Templates::default());
        let subject =
            Subject { name: "demo", namespace: "prod", spec: &spec, templates: &templates, settings: &settings };
        let verdict = review(None, &subject, &Surroundings::default());
        let paths: Vec<_> = verdict.errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["multiadmin.templateRef", "cells[A].name", "databases[postgres].bootstrap.fromBackup"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_glance_finds_whatever_a_close_look_finds(
            spec in law::specs(),
            other in law::specs(),
            copies in prop::collection::vec((0_usize..4, any::<bool>()), 1..6),
            copied: bool,
            templates in law::template_sets(),
        ) {
            let spec = with_copies(spec, &copies);
            let other = if copied { with_copies(other, &copies) } else { other };
            let settings = settings();
            let around = Surroundings { storage_classes: Some(super::super::StorageClasses::default()), nodes: None };
            let subject =
                Subject { name: "demo", namespace: "prod", spec: &spec, templates: &templates, settings: &settings };
            let nowhere = Surroundings { nodes: Some(NodeLabels::default()), ..Surroundings::default() };
            for around in [around, nowhere, Surroundings::default()] {
                for old in [None, Some(&other)] {
                    prop_assert_eq!(review(old, &subject, &around), in_full(old, &subject, &around));
                }
            }
        }
    }
}
