//! Backups with pgBackRest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use validator::Validate;

use super::common::StorageSpec;
use super::rule;

/// Where backups and archived WAL of a shard go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" =
    [rule::BACKUP_S3, rule::BACKUP_FILESYSTEM, rule::BACKUP_ENCRYPTION_FIXED]))]
pub struct BackupConfig {
    /// Kind of repository.
    pub r#type: BackupType,
    /// Settings of a repository on a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub filesystem: Option<FilesystemBackupConfig>,
    /// Settings of a repository in object storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub s3: Option<S3BackupConfig>,
    /// Certificates for the traffic between the poolers of a shard; absent means generated ones.
    #[serde(default, rename = "pgbackrestTLS", skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub pgbackrest_tls: Option<PgbackrestTlsConfig>,
    /// Encryption of the repository, fixed when it is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub encryption: Option<EncryptionConfig>,
    /// When backups are made; absent means only when a MultigresBackup asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub schedule: Option<BackupSchedule>,
    /// How many backups are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub retention: Option<BackupRetention>,
}

/// When backups of a shard are made. Each run is a MultigresBackup that the shard owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct BackupSchedule {
    /// When full backups are made, in cron syntax with five fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[validate(custom(function = "crate::validate::field::cron"))]
    pub full: Option<String>,
    /// When differential backups are made, in cron syntax: what changed since the last full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[validate(custom(function = "crate::validate::field::cron"))]
    pub differential: Option<String>,
    /// When incremental backups are made, in cron syntax: what changed since the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[validate(custom(function = "crate::validate::field::cron"))]
    pub incremental: Option<String>,
    /// Time zone of the times above, such as `Europe/Berlin`; absent means UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[validate(custom(function = "crate::validate::field::time_zone"))]
    pub time_zone: Option<String>,
    /// Whether no run begins; those that have begun go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Longest delay of a run, by which shards are kept apart; each shard always has the same. Absent means 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = rule::GO_DURATION))]
    #[validate(custom(function = "crate::validate::field::duration"))]
    pub jitter: Option<String>,
    /// How late a run that was missed may still begin; absent means 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = rule::GO_DURATION))]
    #[validate(custom(function = "crate::validate::field::duration"))]
    pub starting_deadline: Option<String>,
    /// How long a run may take, its retries included; absent means 2h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = rule::GO_DURATION))]
    #[validate(custom(function = "crate::validate::field::duration"))]
    pub deadline: Option<String>,
    /// How many MultigresBackups of ended runs are kept for each shard; absent means 10. The backups themselves stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    #[validate(range(min = 1, max = 100))]
    pub history_limit: Option<i32>,
}

/// How many backups a repository keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct BackupRetention {
    /// Full backups that are kept, each with the others that build on it. The data plane itself keeps 7, so no more are possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("x-kubernetes-validations" = [rule::BACKUP_RETENTION]))]
    #[validate(custom(function = "crate::validate::field::kept_full_backups"))]
    pub full: Option<i32>,
}

/// Kind of repository.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::AsRefStr,
    strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum BackupType {
    /// A volume.
    #[default]
    Filesystem,
    /// An object store with the S3 protocol.
    S3,
}

/// A repository on a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct FilesystemBackupConfig {
    /// Directory at which the volume is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[validate(custom(function = "crate::validate::field::mount_path"))]
    pub path: Option<String>,
    /// The volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(nested)]
    pub storage: Option<StorageSpec>,
    /// Whether each cell of a shard has its own volume (`Cell`, used when absent) or all of them share one (`Shard`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BackupScope")]
    pub scope: Option<BackupScope>,
}

/// Who shares the volume of a filesystem repository.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::AsRefStr,
    strum::Display,
)]
pub enum BackupScope {
    /// The poolers of one shard in one cell.
    #[default]
    Cell,
    /// All poolers of a shard, which needs a StorageClass that spans the cells.
    Shard,
}

/// A repository in object storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule::S3_ACCOUNT_OR_SECRET, rule::S3_ACCOUNT_OR_ENV]))]
pub struct S3BackupConfig {
    /// Name of the bucket.
    #[validate(length(min = 1, max = 255))]
    pub bucket: String,
    /// Region of the bucket.
    #[validate(length(min = 1, max = 255))]
    pub region: String,
    /// URL of a store other than AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 2048))]
    pub endpoint: Option<String>,
    /// Prefix of all keys in the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 1024))]
    pub key_prefix: Option<String>,
    /// Whether keyPrefix is the path (`Exact`) or each cluster has its own below it (`Cluster`, that of new clusters).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "KeyPrefixScope")]
    pub key_prefix_scope: Option<KeyPrefixScope>,
    /// Whether keys are taken from the environment: those of credentialsSecret, else of Secret `<cluster>-s3-credentials` if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_env_credentials: Option<bool>,
    /// Secret with the keys `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 253))]
    pub credentials_secret: Option<String>,
    /// ServiceAccount of the pool pods whose web identity grants access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 253))]
    pub service_account_name: Option<String>,
}

/// What the prefix of keys in a bucket is for.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::AsRefStr,
    strum::Display,
)]
pub enum KeyPrefixScope {
    /// Clusters may share it: each has a path of its own below it, made of its namespace and its name.
    #[default]
    Cluster,
    /// It is the path of one cluster.
    Exact,
}

/// How a new database begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseBootstrap {
    /// Backup to begin with; refused, because a shard restores nothing but the newest backup of its own repository.
    pub from_backup: BootstrapFromBackup,
}

/// A backup to begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapFromBackup {
    /// Where it lies, such as `s3://bucket/prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub repository: Option<String>,
    /// Name of the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub set: Option<String>,
    /// Time to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub target_time: Option<String>,
}

/// Certificates of pgBackRest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct PgbackrestTlsConfig {
    /// Secret with the keys `ca.crt`, `tls.crt` and `tls.key`; absent or empty means generated certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[validate(length(max = 253))]
    pub secret_name: Option<String>,
}

/// Encryption of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionConfig {
    /// Secret whose key `keys.json` maps generations of the repository to passphrases.
    #[validate(length(min = 1, max = 253))]
    pub secret_name: String,
}
