//! Rules of backups.

use crate::api::v1alpha1::{BackupConfig, BackupType};

use super::{Findings, resource};

/// A backup with everything inherited and defaulted.
pub fn check(findings: &mut Findings<'_>, at: &str, backup: &BackupConfig) {
    match backup.r#type {
        BackupType::Filesystem => {
            let Some(filesystem) = &backup.filesystem else { return };
            let at = format!("{at}.filesystem");
            resource::storage(findings, &format!("{at}.storage"), filesystem.storage.as_ref());
            if let Some(path) = &filesystem.path {
                let legal = path.starts_with('/')
                    && !path.trim_matches('/').is_empty()
                    && !path.split('/').any(|part| part == "..")
                    && !path.contains([':', '\n', '\0']);
                if !legal {
                    findings.error(&format!("{at}.path"), path, "must be an absolute path below /, such as /backups");
                }
            }
        }
        BackupType::S3 => {
            let s3 = backup.s3.clone().unwrap_or_default();
            let at = format!("{at}.s3");
            for (name, value) in [("bucket", &s3.bucket), ("region", &s3.region)] {
                if value.is_empty() {
                    findings.error(&format!("{at}.{name}"), "", "is needed with type s3");
                }
            }
            let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
            if let Some(account) = s3.service_account_name.as_ref().filter(|account| !account.is_empty()) {
                if given(&s3.credentials_secret) || s3.use_env_credentials == Some(true) {
                    findings.error(
                        &format!("{at}.serviceAccountName"),
                        account,
                        "is one way to authenticate, credentialsSecret with useEnvCredentials another; give only one, \
                         also across the levels that this backup inherits from",
                    );
                }
            } else if given(&s3.credentials_secret) && s3.use_env_credentials != Some(true) {
                findings.warn(
                    &format!("{at}.useEnvCredentials"),
                    "credentialsSecret is only read with useEnvCredentials: true",
                );
            }
        }
    }
    if backup.encryption.as_ref().is_some_and(|encryption| encryption.secret_name.is_empty()) {
        findings.error(&format!("{at}.encryption.secretName"), "", "name the Secret with the key keys.json");
    }
}
