//! Rules of a MultigresBackup.

use crate::api::v1alpha1::{BackupDeletionPolicy, MultigresBackupSpec, MultigresClusterSpec};
use crate::field_path::At;

use super::{Findings, Verdict};

/// Judges a request for a backup. `clusters` are those of its namespace by name; none when they are not known.
///
/// A cluster that is not there yet is no error: both may be part of one manifest.
pub fn backup_run(spec: &MultigresBackupSpec, clusters: Option<&[(&str, &MultigresClusterSpec)]>) -> Verdict {
    let mut findings = Findings::new(None);
    let root = At::Root("");
    findings.fields(&root, spec);
    if let Some(clusters) = clusters {
        match clusters.iter().find(|(name, _)| *name == spec.cluster) {
            None => findings.warn(
                &root.field("cluster"),
                "there is no such cluster in this namespace; the backup waits for it until its deadline",
            ),
            Some((_, cluster)) if !has_table_group(cluster, spec) => findings.warn(
                &root.field("tableGroup"),
                "the cluster has no such table group; the backup waits for it until its deadline",
            ),
            Some(_) => {}
        }
    }
    if spec.deletion_policy == BackupDeletionPolicy::Delete && spec.ttl.as_ref().is_some_and(|ttl| !ttl.is_empty()) {
        findings.warn(
            &root.field("ttl"),
            "deletes the backup in the repository, too, as deletionPolicy says; with Retain only this object goes",
        );
    }
    findings.verdict
}

/// Whether a cluster has the table group, which it also has where it names none.
fn has_table_group(cluster: &MultigresClusterSpec, spec: &MultigresBackupSpec) -> bool {
    let mut databases = cluster.databases.iter().filter(|database| database.name == spec.database).peekable();
    if databases.peek().is_none() {
        return spec.table_group == "default" && spec.database == "postgres";
    }
    databases.any(|database| {
        let named = database.tablegroups.iter().any(|group| group.name == spec.table_group);
        // The other spelling of the list is moved here before anything is stored.
        named || (spec.table_group == "default" && database.tablegroups.is_empty()) || !database.table_groups.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judge(spec: Value) -> Verdict {
        let cluster: MultigresClusterSpec = serde_json::from_value(json!({
            "databases": [{"name": "postgres", "tablegroups": [{"name": "orders"}]}],
        }))
        .unwrap();
        let bare = MultigresClusterSpec::default();
        backup_run(&serde_json::from_value(spec).unwrap(), Some(&[("demo", &cluster), ("bare", &bare)]))
    }

    fn warned(spec: Value) -> Vec<String> {
        let verdict = judge(spec);
        assert!(verdict.is_accepted(), "{verdict:?}");
        verdict.warnings.iter().map(crate::validate::Warning::field).collect()
    }

    #[test]
    fn a_backup_of_something_that_is_not_there_is_accepted_with_a_warning() {
        assert_eq!(warned(json!({"cluster": "demo", "tableGroup": "orders"})), [""; 0]);
        assert_eq!(warned(json!({"cluster": "demo"})), ["spec.tableGroup"]);
        assert_eq!(warned(json!({"cluster": "bare"})), [""; 0]);
        assert_eq!(warned(json!({"cluster": "bare", "tableGroup": "x"})), ["spec.tableGroup"]);
        assert_eq!(warned(json!({"cluster": "gone"})), ["spec.cluster"]);
        let spec: MultigresBackupSpec = serde_json::from_value(json!({"cluster": "gone"})).unwrap();
        assert_eq!(backup_run(&spec, None), Verdict::default());
    }

    #[test]
    fn data_that_goes_with_time_is_warned_of() {
        let spec = |policy: &str| json!({"cluster": "bare", "ttl": "24h", "deletionPolicy": policy});
        assert_eq!(warned(spec("Delete")), ["spec.ttl"]);
        assert_eq!(warned(spec("Retain")), [""; 0]);
    }

    #[test]
    fn what_the_schema_lets_through_is_refused_with_a_reason() {
        for (field, value) in [("deadline", json!("soon")), ("ttl", json!("-1h")), ("attempts", json!(0))] {
            let mut spec = json!({"cluster": "bare"});
            spec[field] = value;
            let verdict = judge(spec);
            let fields: Vec<String> = verdict.errors.iter().map(crate::validate::FieldError::field).collect();
            assert_eq!(fields, [format!("spec.{field}")]);
        }
    }
}
