//! MultigresBackup: one backup of a shard, asked for by a user or by a schedule; and what a shard tells of its repository.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use validator::Validate;

use super::status::BackupKind;
use super::{embedded, rule};

/// One backup of one shard.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[kube(
    group = "multigres.com",
    version = "v1alpha1",
    kind = "MultigresBackup",
    plural = "multigresbackups",
    shortname = "mgb",
    category = "multigres",
    namespaced,
    status = "MultigresBackupStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "One backup of one shard, made on a replica.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Duration", type_ = "string", json_path = ".status.duration"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Backup", type_ = "string", priority = 1, json_path = ".status.backupId"),
    printcolumn(name = "Table-Group", type_ = "string", priority = 1, json_path = ".spec.tableGroup"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = ".status.message")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule::BACKUP_RUN_FIXED]))]
pub struct MultigresBackupSpec {
    /// Name of the MultigresCluster, in the same namespace.
    #[schemars(length(min = 1, max = 25), regex(pattern = rule::DNS_LABEL))]
    #[validate(length(min = 1, max = 25))]
    pub cluster: String,
    /// Name of the database.
    #[serde(default = "default_database")]
    #[schemars(length(min = 1, max = 30), regex(pattern = rule::DNS_LABEL))]
    pub database: String,
    /// Name of the table group.
    #[serde(default = "default_table_group")]
    #[schemars(length(min = 1, max = 25), regex(pattern = rule::DNS_LABEL))]
    pub table_group: String,
    /// Key range of the shard.
    #[serde(default = "default_shard")]
    #[schemars(length(min = 1, max = 25), regex(pattern = rule::DNS_LABEL))]
    pub shard: String,
    /// What is saved.
    #[serde(default)]
    pub r#type: BackupLevel,
    /// How long it may take from its creation on, waiting and retries included; absent means 2h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = rule::GO_DURATION))]
    #[validate(custom(function = "crate::validate::field::duration"))]
    pub deadline: Option<String>,
    /// How often it is tried; absent means 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    #[validate(range(min = 1, max = 10))]
    pub attempts: Option<i32>,
    /// How long the object stays after its end; absent means for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = rule::GO_DURATION))]
    #[validate(custom(function = "crate::validate::field::duration"))]
    pub ttl: Option<String>,
    /// What becomes of the backup in the repository when this object is deleted.
    #[serde(default)]
    pub deletion_policy: BackupDeletionPolicy,
}

fn default_database() -> String {
    "postgres".to_owned()
}

fn default_table_group() -> String {
    "default".to_owned()
}

fn default_shard() -> String {
    "0-inf".to_owned()
}

/// What a backup saves.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::AsRefStr,
    strum::Display,
    strum::EnumIter,
    strum::IntoStaticStr,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum BackupLevel {
    /// Everything.
    #[default]
    Full,
    /// What changed since the last full backup.
    Differential,
    /// What changed since the last backup.
    Incremental,
}

/// What becomes of a backup whose object is deleted.
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
pub enum BackupDeletionPolicy {
    /// It stays until the repository's retention removes it.
    #[default]
    Retain,
    /// It is removed from the repository once no other backup builds on it.
    Delete,
}

/// How far a backup has come.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::AsRefStr, strum::Display,
)]
pub enum BackupPhase {
    /// It waits for its turn, or for the next attempt.
    Pending,
    /// The data plane is being asked for it.
    Starting,
    /// The data plane works on it.
    Running,
    /// It is in the repository.
    Completed,
    /// It was given up.
    Failed,
    /// Not known, also when another version wrote a phase that this one does not know.
    #[serde(other)]
    Unknown,
}

impl BackupPhase {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// What was observed of a backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MultigresBackupStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::conditions")]
    pub conditions: Vec<Condition>,
    /// How far it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BackupPhase")]
    pub phase: Option<BackupPhase>,
    /// Explanation of the phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Number of the attempt, counted from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// When the present attempt was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub attempted_at: Option<Time>,
    /// The data plane's name of the present attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Name of the backup in the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<String>,
    /// What it became: without anything to build on, every backup is a full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BackupKind")]
    pub backup_type: Option<BackupKind>,
    /// When the data plane began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub started_at: Option<Time>,
    /// When it ended, well or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub completed_at: Option<Time>,
    /// How long the data plane took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// Size of the database as it was saved, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// First position of the WAL that it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_start: Option<String>,
    /// Last position of the WAL that it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_stop: Option<String>,
    /// The pooler that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooler: Option<String>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What the repository of a shard holds, and what comes next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardBackupStatus {
    /// End of the newest complete full backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub last_full: Option<Time>,
    /// End of the newest complete backup of any kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub last: Option<Time>,
    /// Name of the newest complete backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_id: Option<String>,
    /// Size of the database at the newest complete backup, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_size_bytes: Option<i64>,
    /// Number of complete backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<i32>,
    /// End of the oldest complete backup: nothing before can be brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub earliest_recoverable: Option<Time>,
    /// When the next scheduled backup begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub next_run: Option<Time>,
    /// Times of the schedule for which the last runs were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<ScheduledBackupTimes>,
}

/// Times of a schedule, by what is saved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledBackupTimes {
    /// Full backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub full: Option<Time>,
    /// Differential backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub differential: Option<Time>,
    /// Incremental backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub incremental: Option<Time>,
}

impl ScheduledBackupTimes {
    /// The time of one kind.
    pub fn of(&self, level: BackupLevel) -> Option<&Time> {
        match level {
            BackupLevel::Full => self.full.as_ref(),
            BackupLevel::Differential => self.differential.as_ref(),
            BackupLevel::Incremental => self.incremental.as_ref(),
        }
    }

    /// Sets the time of one kind.
    pub fn set(&mut self, level: BackupLevel, time: Time) {
        let slot = match level {
            BackupLevel::Full => &mut self.full,
            BackupLevel::Differential => &mut self.differential,
            BackupLevel::Incremental => &mut self.incremental,
        };
        *slot = Some(time);
    }
}
