//! Rules of backups.

use crate::api::v1alpha1::{BackupConfig, BackupType, KeyPrefixScope, S3BackupConfig};
use crate::field_path::At;

use super::{Findings, limits, reason};

/// A backup of the cluster level with everything inherited and defaulted.
pub fn check(findings: &mut Findings<'_>, at: &At<'_>, backup: &BackupConfig) {
    findings.fields(at, backup);
    together(findings, at, backup);
}

/// What fields of a backup say together.
pub fn together(findings: &mut Findings<'_>, at: &At<'_>, backup: &BackupConfig) {
    if let Some(schedule) = &backup.schedule {
        let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        if ![&schedule.full, &schedule.differential, &schedule.incremental].into_iter().any(given) {
            findings.warn(
                &at.field("schedule"),
                "names no time, so no backup is made by it; give full, differential or incremental",
            );
        } else if !given(&schedule.full) {
            findings.warn(
                &at.field("schedule").field("full"),
                "is not given: all later backups build on the first one, so none is ever removed; schedule full ones, too",
            );
        }
    }
    let at = at.field("s3");
    if backup.r#type != BackupType::S3 {
        return;
    }
    let Some(s3) = &backup.s3 else {
        findings.error(&at, reason::REQUIRED, "", "is needed with type s3; give bucket and region");
        return;
    };
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if let Some(account) = s3.service_account_name.as_ref().filter(|account| !account.is_empty()) {
        if given(&s3.credentials_secret) || s3.use_env_credentials == Some(true) {
            findings.forbidden(
                &at.field("serviceAccountName"),
                account,
                "is one way to authenticate, credentialsSecret with useEnvCredentials another; give only one, also \
                 across the levels that this backup inherits from",
            );
        }
    } else if given(&s3.credentials_secret) && s3.use_env_credentials != Some(true) {
        findings.warn(
            &at.field("useEnvCredentials"),
            "credentialsSecret is only read with useEnvCredentials: true; set it, or remove the Secret's name",
        );
    }
    prefix(findings, &at, s3);
}

/// Whom poolers believe at an endpoint: the data plane has pgBackRest verify certificates of AWS alone.
pub fn unverified(findings: &mut Findings<'_>, at: &At<'_>, backup: &BackupConfig) {
    let s3 = backup.s3.as_ref().filter(|_| backup.r#type == BackupType::S3);
    if s3.and_then(|s3| s3.endpoint.as_deref()).is_some_and(|endpoint| !endpoint.is_empty()) {
        findings.warn(
            &at.field("s3").field("endpoint"),
            "is not verified: the data plane takes any certificate from a store of yours, so keep others off the way to it",
        );
    }
}

/// The prefix below which the repository lies.
fn prefix(findings: &mut Findings<'_>, at: &At<'_>, s3: &S3BackupConfig) {
    let given = s3.key_prefix.as_deref().unwrap_or_default();
    if s3.key_prefix_scope == Some(KeyPrefixScope::Exact) {
        if given.is_empty() {
            findings.warn(
                &at.field("keyPrefixScope"),
                "Exact without a keyPrefix is the root of the bucket, which any other cluster without one shares; give a keyPrefix that \
                 no other cluster has",
            );
        }
        room(findings, at, given, limits::KEY_PREFIX, false);
    } else {
        // The namespace and the name of the cluster follow, each after a slash.
        let own = limits::NAMESPACE + limits::CLUSTER_NAME + 2;
        room(findings, at, given, limits::KEY_PREFIX - own, s3.key_prefix_scope.is_some());
    }
}

/// What is longer than it may be is refused where nobody can have it yet.
fn room(findings: &mut Findings<'_>, at: &At<'_>, given: &str, limit: usize, refuse: bool) {
    if given.len() <= limit {
        return;
    }
    let at = at.field("keyPrefix");
    let message = format!(
        "has {} bytes, and pgBackRest needs the rest of the 1024 that a key of a bucket may have; keep it at or below {limit}",
        given.len()
    );
    if refuse {
        let shown: String = given.chars().take(limits::QUOTED).collect();
        findings.invalid(&at, shown, message);
    } else {
        findings.warn(&at, message);
    }
}
