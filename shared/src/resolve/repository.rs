//! Where a backup repository lies.
//!
//! The data plane lays the repository of a database in a bucket below `/<prefix>/multigres`, with nothing of the cluster in that path. What
//! keeps clusters apart is therefore the prefix that it is told.

use std::fmt;
use std::str::FromStr;

use crate::api::v1alpha1::{BackupConfig, BackupScope, BackupType, KeyPrefixScope, S3BackupConfig};

/// What tells one repository from another. A bucket may be reached under several addresses, so those are no part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repository {
    /// A volume.
    Volume {
        /// Who shares it, as far as that is known.
        scope: Option<BackupScope>,
    },
    /// A place in a bucket.
    Bucket {
        /// The bucket.
        bucket: String,
        /// What the data plane is told to put before its own path.
        key_prefix: String,
    },
}

/// The prefix that the data plane is told. Configurations without a scope are those of clusters that were there before scopes were, and
/// mean what they say.
pub fn key_prefix(s3: &S3BackupConfig, namespace: &str, cluster: &str) -> String {
    let given = s3.key_prefix.as_deref().unwrap_or_default();
    match s3.key_prefix_scope {
        None | Some(KeyPrefixScope::Exact) => given.to_owned(),
        Some(KeyPrefixScope::Cluster) => match given.trim_matches('/') {
            "" => format!("{namespace}/{cluster}"),
            above => format!("{above}/{namespace}/{cluster}"),
        },
    }
}

impl Repository {
    /// The repository that a configuration names.
    pub fn of(backup: &BackupConfig, namespace: &str, cluster: &str) -> Self {
        match backup.s3.as_ref().filter(|_| backup.r#type == BackupType::S3) {
            Some(s3) => Self::bucket(&s3.bucket, &key_prefix(s3, namespace, cluster)),
            None => Self::Volume { scope: backup.filesystem.as_ref().and_then(|files| files.scope) },
        }
    }

    /// A place in a bucket.
    pub fn bucket(bucket: &str, key_prefix: &str) -> Self {
        // The data plane leaves out the last slash.
        let key_prefix = key_prefix.strip_suffix('/').unwrap_or(key_prefix);
        Self::Bucket { bucket: bucket.to_owned(), key_prefix: key_prefix.to_owned() }
    }

    /// All repositories that a configuration may mean, where it leaves the scope open; the one that a new cluster gets first.
    pub fn readings(backup: &BackupConfig, namespace: &str, cluster: &str) -> Vec<(Option<KeyPrefixScope>, Self)> {
        let s3 = backup.s3.as_ref().filter(|_| backup.r#type == BackupType::S3);
        let scopes = match s3.map(|s3| s3.key_prefix_scope) {
            Some(None) => &[Some(KeyPrefixScope::Cluster), Some(KeyPrefixScope::Exact)][..],
            Some(Some(KeyPrefixScope::Cluster)) => &[Some(KeyPrefixScope::Cluster)],
            Some(Some(KeyPrefixScope::Exact)) => &[Some(KeyPrefixScope::Exact)],
            None => &[None],
        };
        let read = |scope: Option<KeyPrefixScope>| match s3 {
            Some(s3) => {
                let s3 = S3BackupConfig { key_prefix_scope: scope, ..s3.clone() };
                Self::bucket(&s3.bucket, &key_prefix(&s3, namespace, cluster))
            }
            None => Self::of(backup, namespace, cluster),
        };
        scopes.iter().map(|scope| (*scope, read(*scope))).collect()
    }

    /// Whether two are the same, as far as is known.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Volume { scope: Some(one) }, Self::Volume { scope: Some(other) }) => one == other,
            (Self::Volume { .. }, Self::Volume { .. }) => true,
            _ => self == other,
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume { scope: None } => f.write_str("a volume"),
            Self::Volume { scope: Some(BackupScope::Cell) } => f.write_str("a volume for each cell"),
            Self::Volume { scope: Some(BackupScope::Shard) } => f.write_str("a volume for all cells"),
            Self::Bucket { bucket, key_prefix } if key_prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, key_prefix } => write!(f, "s3://{bucket}/{key_prefix}"),
        }
    }
}

/// What is no place in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not of the form s3://bucket/prefix")]
pub struct NoBucket;

impl FromStr for Repository {
    type Err = NoBucket;

    /// Reads a place in a bucket as it is written.
    fn from_str(text: &str) -> Result<Self, NoBucket> {
        let place = text.strip_prefix("s3://").filter(|place| !place.is_empty()).ok_or(NoBucket)?;
        let (bucket, key_prefix) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() { Err(NoBucket) } else { Ok(Self::bucket(bucket, key_prefix)) }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::api::v1alpha1::FilesystemBackupConfig;
    use crate::validate::limits;

    fn s3(key_prefix: Option<&str>, key_prefix_scope: Option<KeyPrefixScope>) -> BackupConfig {
        let s3 = S3BackupConfig {
            bucket: "b".to_owned(),
            key_prefix: key_prefix.map(str::to_owned),
            key_prefix_scope,
            ..S3BackupConfig::default()
        };
        BackupConfig { r#type: BackupType::S3, s3: Some(s3), ..BackupConfig::default() }
    }

    fn volume(scope: Option<BackupScope>) -> BackupConfig {
        let files = FilesystemBackupConfig { scope, ..FilesystemBackupConfig::default() };
        BackupConfig { filesystem: Some(files), ..BackupConfig::default() }
    }

    const CLUSTER: Option<KeyPrefixScope> = Some(KeyPrefixScope::Cluster);
    const EXACT: Option<KeyPrefixScope> = Some(KeyPrefixScope::Exact);

    #[rstest]
    #[case(None, CLUSTER, "s3://b/prod/demo")]
    #[case(Some(""), CLUSTER, "s3://b/prod/demo")]
    #[case(Some("/"), CLUSTER, "s3://b/prod/demo")]
    #[case(Some("eu"), CLUSTER, "s3://b/eu/prod/demo")]
    #[case(Some("/eu/backups/"), CLUSTER, "s3://b/eu/backups/prod/demo")]
    #[case(None, EXACT, "s3://b")]
    #[case(Some("eu/"), EXACT, "s3://b/eu")]
    #[case(Some("eu"), None, "s3://b/eu")]
    fn a_repository_lies_below_its_prefix(
        #[case] prefix: Option<&str>,
        #[case] scope: Option<KeyPrefixScope>,
        #[case] expected: &str,
    ) {
        assert_eq!(Repository::of(&s3(prefix, scope), "prod", "demo").to_string(), expected);
    }

    #[test]
    fn an_exact_prefix_is_told_as_it_is_written() {
        let told = |backup: BackupConfig| key_prefix(&backup.s3.unwrap(), "prod", "demo");
        assert_eq!(told(s3(Some("/eu//"), EXACT)), "/eu//");
        assert_eq!(told(s3(Some("/eu//"), None)), "/eu//");
    }

    #[test]
    fn clusters_of_one_prefix_never_share_a_repository() {
        let mut seen = std::collections::BTreeSet::new();
        for (namespace, cluster) in [("a", "b"), ("a", "c"), ("a-b", "c"), ("c", "a"), ("a", "b-c")] {
            assert!(seen.insert(Repository::of(&s3(Some("eu"), CLUSTER), namespace, cluster).to_string()));
        }
    }

    #[test]
    fn a_spec_without_a_scope_may_mean_either() {
        let texts = |backup: &BackupConfig| -> Vec<String> {
            Repository::readings(backup, "prod", "demo").iter().map(|(_, place)| place.to_string()).collect()
        };
        assert_eq!(texts(&s3(Some("eu"), None)), ["s3://b/eu/prod/demo", "s3://b/eu"]);
        assert_eq!(texts(&s3(Some("eu"), CLUSTER)), ["s3://b/eu/prod/demo"]);
        assert_eq!(texts(&s3(Some("eu"), EXACT)), ["s3://b/eu"]);
        assert_eq!(texts(&volume(None)), ["a volume"]);
    }

    #[test]
    fn volumes_of_different_scopes_are_different() {
        let of = |scope| Repository::of(&volume(scope), "prod", "demo");
        let (cell, shard) = (of(Some(BackupScope::Cell)), of(Some(BackupScope::Shard)));
        assert!(!cell.is(&shard));
        assert!(cell.is(&of(None)), "what is not known is no difference");
        assert!(!cell.is(&Repository::of(&s3(None, None), "prod", "demo")));
    }

    #[test]
    fn places_in_buckets_are_read_as_they_are_written() {
        for text in ["s3://b", "s3://b/eu", "s3://b/eu/prod/demo"] {
            assert_eq!(text.parse::<Repository>().unwrap().to_string(), text);
        }
        for text in ["", "b/eu", "s3://", "s3:///eu", "a volume"] {
            assert_eq!(text.parse::<Repository>(), Err(NoBucket), "{text}");
        }
    }

    #[test]
    fn the_longest_prefix_leaves_room_for_the_keys_of_pgbackrest() {
        // A data file of a backup: the set, a tablespace with its version, the database, the file with its segment.
        let key = "/multigres/backup/multigres/20261231-235959F_20261231-235959I/pg_data/pg_tblspc/4294967295/PG_17_202406281/4294967295/\
                   4294967295_fsm.4294967295.gz";
        assert!(limits::KEY_PREFIX + key.len() <= 1024);
    }
}
