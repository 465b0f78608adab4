//! The backup repository: the only way by which a new member of a shard gets its data.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::postgres::data_dir::Content;
use crate::proto::clustermetadata::{Database, RoutingRole, backup_location::Location};
use crate::proto::multipoolermanagerdata::{BackupMetadata, backup_metadata};
use crate::topology::{Store, key};

/// How many full backups are kept.
pub const KEPT_FULL: usize = 7;
/// How many of the full and differential ones a differential one has to be among to be kept.
const KEPT_DIFFERENTIAL: usize = 1;

/// One backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its label, such as `20260101-120000F`.
    pub id: String,
    /// `full`, `diff` or `incr`.
    pub kind: String,
    /// The job it was made for.
    pub job_id: String,
    /// Who made it.
    pub pooler: String,
    /// Whether the maker was the primary.
    pub by_primary: bool,
    /// When it began, in milliseconds since 1970.
    pub start: u64,
    /// When it ended, in milliseconds since 1970.
    pub stop: u64,
    /// The table group of the maker.
    pub table_group: String,
    /// The shard of the maker.
    pub shard: String,
    /// What a restore yields.
    pub content: Content,
    /// The backup that it builds on.
    #[serde(default)]
    pub prior: Option<String>,
}

/// Everything in a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The identity of the data that the stanza belongs to.
    pub system_id: u64,
    /// Whether a passphrase is needed.
    pub encrypted: bool,
    /// The server's configuration, part of every backup.
    pub configuration: String,
    /// The backups, oldest first.
    pub backups: Vec<Backup>,
}

impl Manifest {
    /// The newest backup.
    pub fn latest(&self) -> Option<&Backup> {
        self.backups.last()
    }

    /// What a backup of this kind builds on: a differential one on the last full one, an incremental one on whatever came last.
    pub fn prior(&self, kind: &str) -> Option<&Backup> {
        match kind {
            "diff" => self.backups.iter().rev().find(|backup| backup.kind == "full"),
            "incr" => self.latest(),
            _ => None,
        }
    }

    /// Adds a backup and drops what retention no longer keeps: with a full backup go those that depend on it.
    pub fn add(&mut self, backup: Backup) {
        self.backups.push(backup);
        self.expire();
    }

    /// Applies retention; yields the labels that went away.
    pub fn expire(&mut self) -> Vec<String> {
        self.expire_beyond(KEPT_FULL)
    }

    /// Removes one backup with those that depend on it. The last full one stays.
    pub fn expire_set(&mut self, set: &str) -> Result<Vec<String>> {
        let full = self.backups.iter().filter(|backup| backup.kind == "full").count();
        if full < 2 && self.backups.iter().any(|backup| backup.id == set && backup.kind == "full") {
            bail!(
                "pgbackrest expire failed: exit status 103\nOutput: P00  ERROR: [082]: repo1: full backup {set} cannot be expired until \
                 another full backup has been created on this repo"
            );
        }
        Ok(self.remove(vec![set.to_owned()]))
    }

    /// Keeps so many full backups, and the differential ones that are not older than the last full or differential one; yields the labels
    /// that went away.
    pub fn expire_beyond(&mut self, kept: usize) -> Vec<String> {
        let beyond = |kinds: &[&str], kept: usize, backups: &[Backup]| -> Vec<Backup> {
            let listed: Vec<&Backup> = backups.iter().filter(|backup| kinds.contains(&backup.kind.as_str())).collect();
            let excess = listed.len().saturating_sub(kept);
            listed.into_iter().take(excess).cloned().collect()
        };
        let old = beyond(&["full"], kept, &self.backups);
        let mut gone = self.remove(old.into_iter().map(|backup| backup.id).collect());
        let old = beyond(&["full", "diff"], KEPT_DIFFERENTIAL, &self.backups);
        gone.extend(self.remove(old.into_iter().filter(|old| old.kind == "diff").map(|backup| backup.id).collect()));
        gone
    }

    /// Removes backups with all that builds on them, whatever it is; yields the labels that went away.
    fn remove(&mut self, mut unwanted: Vec<String>) -> Vec<String> {
        // What builds on a backup comes after it.
        for backup in &self.backups {
            if backup.prior.as_ref().is_some_and(|prior| unwanted.contains(prior)) {
                unwanted.push(backup.id.clone());
            }
        }
        let all = std::mem::take(&mut self.backups);
        let (gone, kept): (Vec<Backup>, Vec<Backup>) =
            all.into_iter().partition(|backup| unwanted.contains(&backup.id));
        self.backups = kept;
        gone.into_iter().map(|backup| backup.id).collect()
    }
}

/// A repository that a database's record names.
#[derive(Clone, Debug)]
pub struct Repository {
    place: Place,
    require_encryption: bool,
    cipher: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Directory(PathBuf),
    ObjectStore { bucket: String, prefix: String },
}

impl Repository {
    /// Opens the repository of a database; `cipher` tells whether passphrases were given, `env` where credentials are.
    pub fn of(database: &Database, cipher: bool, env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let Some(location) = &database.backup_location else {
            bail!("database {} has no backup location configured", database.name);
        };
        let place = match &location.location {
            Some(Location::Filesystem(filesystem)) if !filesystem.path.is_empty() => {
                Place::Directory(filesystem.path.clone().into())
            }
            Some(Location::S3(s3)) if !s3.bucket.is_empty() => {
                if s3.use_env_credentials {
                    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
                        if env(name).unwrap_or_default().is_empty() {
                            bail!("use_env_credentials is set but {name} is not in the environment");
                        }
                    }
                }
                Place::ObjectStore { bucket: s3.bucket.clone(), prefix: s3.key_prefix.clone() }
            }
            _ => bail!("database {} has no backup location configured", database.name),
        };
        Ok(Self { place, require_encryption: location.require_initial_repo_encryption, cipher })
    }

    /// Whether it is in an object store, which asks for keys.
    pub fn asks_for_keys(&self) -> bool {
        matches!(self.place, Place::ObjectStore { .. })
    }

    /// Reads what is there; nothing yet is not an error.
    pub async fn load(&self, store: &Store) -> Result<Option<Manifest>> {
        let bytes = match &self.place {
            Place::Directory(path) => match std::fs::read(manifest_path(path)) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => {
                    return Err(error).with_context(|| format!("unable to open {} for read", path.display()));
                }
            },
            Place::ObjectStore { bucket, prefix } => {
                match store.global.get(&key::object_store(bucket, prefix)).await? {
                    Some(stored) => stored.value,
                    None => return Ok(None),
                }
            }
        };
        let manifest: Manifest = serde_json::from_slice(&bytes).context("backup.info is damaged")?;
        if manifest.encrypted && !self.cipher {
            bail!("repository is encrypted and no cipher key is configured");
        }
        Ok(Some(manifest))
    }

    /// Writes it; a new repository is created with or without encryption as configured.
    pub async fn save(&self, store: &Store, manifest: &Manifest) -> Result<()> {
        if self.require_encryption && !self.cipher {
            bail!("initial repository encryption is required but no cipher key is configured");
        }
        let bytes = serde_json::to_vec(manifest)?;
        match &self.place {
            Place::Directory(path) => {
                let target = manifest_path(path);
                let parent = target.parent().unwrap_or(path);
                std::fs::create_dir_all(parent)
                    .with_context(|| format!("unable to create path '{}'", parent.display()))?;
                let draft = target.with_extension("new");
                std::fs::write(&draft, bytes)
                    .with_context(|| format!("unable to open '{}' for write", draft.display()))?;
                std::fs::rename(draft, target)?;
                Ok(())
            }
            Place::ObjectStore { bucket, prefix } => store.global.put(&key::object_store(bucket, prefix), bytes).await,
        }
    }

    /// Whether new repositories get encrypted.
    pub fn encrypts(&self) -> bool {
        self.cipher
    }
}

fn manifest_path(path: &Path) -> PathBuf {
    path.join("backup/multigres/standin-backup.json")
}

/// A label for a backup that ends at `seconds` since 1970, or a little later where there is one from then: of what builds on another one,
/// after the full backup at their base.
pub fn label(seconds: u64, kind: &str, manifest: &Manifest) -> String {
    let taken = |stamp: &String| manifest.backups.iter().any(|backup| backup.id.contains(stamp));
    let stamp = (seconds..=u64::MAX).map(stamp).find(|stamp| !taken(stamp)).unwrap_or_default();
    let base = manifest.prior(kind).and_then(|prior| prior.id.split('_').next());
    match (kind, base) {
        ("diff", Some(base)) => format!("{base}_{stamp}D"),
        ("incr", Some(base)) => format!("{base}_{stamp}I"),
        _ => format!("{stamp}F"),
    }
}

/// A moment as labels have it.
pub fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days, counted in eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", rest / 3_600, rest / 60 % 60, rest % 60)
}

/// Makes an entry of which nobody can tell what it is.
pub fn garble(backup: &mut BackupMetadata) {
    backup.backup_id = "garbage".into();
    backup.start_timestamp = Some(prost_types::Timestamp { seconds: 4_102_444_800, nanos: 0 });
    backup.stop_timestamp = Some(prost_types::Timestamp { seconds: -1, nanos: 0 });
}

/// The wire form of a backup.
pub fn metadata(backup: &Backup) -> BackupMetadata {
    let time =
        |ms: u64| Some(prost_types::Timestamp { seconds: i64::try_from(ms / 1000).unwrap_or_default(), nanos: 0 });
    let lsn = crate::postgres::wire::show_lsn(backup.content.lsn);
    BackupMetadata {
        table_group: backup.table_group.clone(),
        shard: backup.shard.clone(),
        status: backup_metadata::Status::Complete.into(),
        backup_id: backup.id.clone(),
        stop_lsn: lsn.clone(),
        job_id: backup.job_id.clone(),
        backup_size_bytes: 31_457_280,
        r#type: backup.kind.clone(),
        multipooler_id: backup.pooler.clone(),
        routing_role: if backup.by_primary { RoutingRole::Primary } else { RoutingRole::Replica }.into(),
        start_timestamp: time(backup.start),
        stop_timestamp: time(backup.stop),
        start_lsn: lsn,
        pg_version: "17".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::clustermetadata::{BackupLocation, FilesystemBackup, S3Backup};

    fn backup(kind: &str, id: usize) -> Backup {
        Backup {
            id: id.to_string(),
            kind: kind.into(),
            job_id: String::new(),
            pooler: String::new(),
            by_primary: false,
            start: 0,
            stop: 0,
            table_group: String::new(),
            shard: String::new(),
            content: Content::default(),
            prior: None,
        }
    }

    /// A repository to which backups of these kinds were added in turn: each is called by its kind and its number.
    fn after(kinds: &[&str]) -> Manifest {
        let mut manifest = Manifest::default();
        for (number, kind) in kinds.iter().enumerate() {
            let prior = manifest.prior(kind).map(|prior| prior.id.clone());
            manifest.add(Backup { id: format!("{kind}-{number}"), prior, ..backup(kind, number) });
        }
        manifest
    }

    fn held(manifest: &Manifest) -> Vec<&str> {
        manifest.backups.iter().map(|backup| backup.id.as_str()).collect()
    }

    fn database(location: Location) -> Database {
        Database {
            backup_location: Some(BackupLocation { location: Some(location), ..BackupLocation::default() }),
            ..Database::default()
        }
    }

    #[test]
    fn labels_carry_the_date_and_the_base() {
        assert_eq!(stamp(1_767_225_600), "20260101-000000");
        assert_eq!(stamp(1_709_210_096), "20240229-123456");
        let mut manifest = Manifest::default();
        assert_eq!(label(1_767_225_600, "incr", &manifest), "20260101-000000F", "without a base it is a full one");
        manifest.add(Backup { id: "20260101-000000F".into(), ..backup("full", 0) });
        let differential = label(1_767_225_601, "diff", &manifest);
        assert_eq!(differential, "20260101-000000F_20260101-000001D");
        manifest.add(Backup { id: differential, ..backup("diff", 0) });
        assert_eq!(label(1_767_225_602, "incr", &manifest), "20260101-000000F_20260101-000002I");
        assert_eq!(label(1_767_225_600, "full", &manifest), "20260101-000002F", "no two have one name");
    }

    #[test]
    fn retention_drops_the_oldest_full_backup_with_its_dependants() {
        let kinds: Vec<&str> = (0..=KEPT_FULL).flat_map(|_| ["full", "incr"]).collect();
        let manifest = after(&kinds);
        assert_eq!(held(&manifest).first(), Some(&"full-2"));
        assert_eq!(manifest.backups.len(), KEPT_FULL * 2);
    }

    #[test]
    fn a_differential_backup_goes_with_the_next_one_and_with_the_next_full_one() {
        assert_eq!(held(&after(&["full", "diff", "incr", "diff"])), ["full-0", "diff-3"]);
        assert_eq!(held(&after(&["full", "incr", "diff", "incr", "full"])), ["full-0", "incr-1", "full-4"]);
    }

    #[test]
    fn a_backup_goes_with_those_that_build_on_it_and_the_last_full_one_stays() {
        let mut manifest = after(&["full", "incr", "incr", "full", "incr"]);
        assert_eq!(manifest.expire_set("incr-1").unwrap(), ["incr-1", "incr-2"]);
        assert_eq!(manifest.expire_set("full-0").unwrap(), ["full-0"]);
        assert!(manifest.expire_set("full-3").unwrap_err().to_string().contains("cannot be expired until another"));
        assert!(manifest.expire_set("nothing").unwrap().is_empty());
        assert_eq!(manifest.expire_set("incr-4").unwrap(), ["incr-4"]);
        manifest.add(Backup { id: "4F".into(), ..backup("full", 0) });
        assert_eq!(manifest.expire_beyond(1), ["full-3"]);
    }

    #[test]
    fn an_object_store_needs_the_credentials_it_was_promised() {
        let location = |use_env_credentials| {
            Location::S3(S3Backup { bucket: "b".into(), use_env_credentials, ..S3Backup::default() })
        };
        assert!(Repository::of(&database(location(true)), false, |_| None).is_err());
        assert!(Repository::of(&database(location(true)), false, |_| Some("x".into())).is_ok());
        assert!(Repository::of(&database(location(false)), false, |_| None).unwrap().asks_for_keys());
        let directory = database(Location::Filesystem(FilesystemBackup { path: "/backups".into() }));
        assert!(!Repository::of(&directory, false, |_| None).unwrap().asks_for_keys());
        let nowhere = database(Location::Filesystem(FilesystemBackup::default()));
        assert!(Repository::of(&nowhere, false, |_| None).is_err());
    }
}
