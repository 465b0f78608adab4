//! Where the backups of a database lie: what the spec says, read in the light of where they lie already. Pure.
//!
//! The data plane makes a repository when it bootstraps a shard, and never again: a shard whose poolers are told of another one cannot
//! archive its WAL any more, and its next standby would begin with an empty database. So a repository stays where it is, whatever the
//! spec says later and whatever a later operator would choose. It also stays encrypted as it was made, or not encrypted.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use shared::{
    annotation,
    api::v1alpha1::{
        BackupConfig, BackupScope, BackupType, EncryptionConfig, FilesystemBackupConfig, KeyPrefixScope,
        S3BackupConfig, TableGroup,
    },
    label,
    resolve::{Repository, ResolvedCluster, ResolvedDatabase, key_prefix},
};

use super::{Observed, password, topology::Sight};
use crate::{upstream::BackupLocation, workload::owner::Owner};

/// Condition of a cluster whose spec asks for another repository than the one in use.
pub const BACKUP_REPOSITORY_CHANGED: &str = "BackupRepositoryChanged";

/// A repository that stays as it is although the spec asks for another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// It stays in its place.
    Place {
        /// The database.
        database: String,
        /// Where its backups stay.
        kept: Repository,
        /// Where the spec wants them.
        wanted: Repository,
    },
    /// It stays encrypted as it was made, or not encrypted.
    Encryption {
        /// The database.
        database: String,
        /// How it is.
        kept: Option<EncryptionConfig>,
        /// How the spec wants it.
        wanted: Option<EncryptionConfig>,
    },
}

impl Held {
    /// What is so, and what can be done about it.
    pub fn explain(&self) -> String {
        match self {
            Self::Place { database, kept, wanted } => format!(
                "backups of database {database} stay in {kept}: the spec asks for {wanted}, and the data plane cannot begin another \
                 repository for shards that exist; name the old one again, or make another cluster with the new one and bring the rows \
                 there with a dump"
            ),
            Self::Encryption { database, kept, wanted } => format!(
                "backups of database {database} stay {}: the spec wants them {}, and a repository is encrypted once, when it is made; \
                 restore the old value, or make another cluster and bring the rows there with a dump",
                encrypted(kept.as_ref()),
                encrypted(wanted.as_ref())
            ),
        }
    }

    /// The same in one word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Place { .. } => "CannotMove",
            Self::Encryption { .. } => "EncryptionFixed",
        }
    }
}

fn encrypted(encryption: Option<&EncryptionConfig>) -> String {
    encryption.map_or_else(
        || "without encryption".to_owned(),
        |encryption| format!("encrypted with Secret {}", encryption.secret_name),
    )
}

/// What a cluster asks for, with every repository that exists where it is, and what that overrules.
pub fn settle(observed: &Observed, resolved: &ResolvedCluster) -> (ResolvedCluster, Vec<Held>) {
    let mut resolved = resolved.clone();
    let mut held = Vec::new();
    for database in &mut resolved.databases {
        let encryption = keep_encryption(observed, database);
        held.extend(keep_place(observed, database).into_iter().chain(encryption));
    }
    (resolved, held)
}

/// Leaves the repository of every shard that there is encrypted as it was made, or not encrypted; tells of the first one of which the spec asks
/// for something else. Admission refuses that, and the API server refuses children that change it, so one that slipped in would stop all others.
fn keep_encryption(observed: &Observed, database: &mut ResolvedDatabase) -> Option<Held> {
    let mut held = None;
    for group in &mut database.table_groups {
        let live = observed.table_group(&group.database_name, &group.table_group_name);
        // Those of a cluster of the same name that was there before are on their way out.
        let Some(live) = live.filter(|live| observed.owner.controls(*live)) else { continue };
        if let (Some(own), Some(told)) = (group.backup.as_mut(), live.spec.backup.as_ref()) {
            own.encryption.clone_from(&told.encryption);
        }
        for shard in &mut group.shards {
            let before = live.spec.shards.iter().find(|before| before.name == shard.name);
            let told = before.and_then(|before| before.backup.as_ref().or(live.spec.backup.as_ref()));
            let (Some(own), Some(told)) = (shard.backup.as_mut(), told) else { continue };
            if own.encryption == told.encryption {
                continue;
            }
            let wanted = std::mem::replace(&mut own.encryption, told.encryption.clone());
            if held.is_none() {
                let (database, kept) = (database.name.clone(), told.encryption.clone());
                held = Some(Held::Encryption { database, kept, wanted });
            }
        }
    }
    let mut shards = database.table_groups.iter().flat_map(|group| &group.shards);
    if let Some(first) = shards.find_map(|shard| shard.backup.as_ref()) {
        database.repository.encryption.clone_from(&first.encryption);
    }
    held
}

fn keep_place(observed: &Observed, database: &mut ResolvedDatabase) -> Option<Held> {
    let Owner { namespace, name, .. } = &observed.owner;
    let readings = Repository::readings(&database.repository, namespace, name);
    let (scope, wanted) = readings.first().cloned()?;
    let existing = Existing::of(observed, database);
    let Some(place) = &existing.place else {
        // Volumes that do not remember are of an operator that knew no scopes.
        let scope = if existing.data { readings.last().and_then(|(scope, _)| *scope) } else { scope };
        each(database, |backup| name_scope(backup, scope));
        return None;
    };
    if let Some((scope, _)) = readings.iter().find(|(_, reading)| reading.is(place)) {
        each(database, |backup| name_scope(backup, *scope));
        return None;
    }
    if !existing.data && existing.child.is_none() {
        // A record that somebody left behind, and nothing of this cluster.
        each(database, |backup| name_scope(backup, scope));
        return None;
    }
    let wanted = readings.last().map_or(wanted, |(_, last)| last.clone());
    each(database, |backup| existing.keep(backup, place, namespace, name));
    Some(Held::Place { database: database.name.clone(), kept: place.clone(), wanted })
}

/// Writes down that the path is the cluster's own. That it is not needs no word, as in all that was made before there were scopes.
fn name_scope(backup: &mut BackupConfig, scope: Option<KeyPrefixScope>) {
    if let Some(s3) = backup.s3.as_mut().filter(|_| backup.r#type == BackupType::S3)
        && scope == Some(KeyPrefixScope::Cluster)
    {
        s3.key_prefix_scope = scope;
    }
}

/// All of a database's configurations: they name the same place, or the spec would have been refused.
fn each(database: &mut ResolvedDatabase, mut change: impl FnMut(&mut BackupConfig)) {
    change(&mut database.backup);
    change(&mut database.repository);
    for group in &mut database.table_groups {
        group.backup.iter_mut().for_each(&mut change);
        group.shards.iter_mut().filter_map(|shard| shard.backup.as_mut()).for_each(&mut change);
    }
}

/// What there is of a database's backups.
struct Existing<'a> {
    /// Where they lie, if anything tells.
    place: Option<Repository>,
    /// What its children were told last.
    child: Option<&'a BackupConfig>,
    /// What poolers read when they start.
    record: Option<&'a BackupLocation>,
    /// Whether there are volumes with data that were kept.
    data: bool,
}

impl<'a> Existing<'a> {
    fn of(observed: &'a Observed, database: &ResolvedDatabase) -> Self {
        let Owner { namespace, name, .. } = &observed.owner;
        let wanted = database.name.as_str();
        // Those of a cluster of the same name that was there before are on their way out.
        let own = move |group: &&Arc<TableGroup>| {
            group.spec.database_name == wanted && observed.owner.controls(group.as_ref())
        };
        let groups = || observed.table_groups.iter().filter(own);
        let child = groups()
            .flat_map(|group| &group.spec.shards)
            .find_map(|shard| shard.backup.as_ref())
            .or_else(|| groups().find_map(|group| group.spec.backup.as_ref()));
        let record = match &observed.topology {
            Sight::Seen { databases, .. } => databases.records.iter().find(|record| record.name == database.name),
            Sight::NotServing | Sight::Failed { .. } => None,
        };
        let record = record.and_then(|record| record.backup_location.as_ref());
        let place = match (child, record) {
            // What the operator has said itself counts most: others may write to a record, and it is put right again.
            (Some(child), _) => Some(Repository::of(child, namespace, name)),
            (None, Some(BackupLocation::S3 { bucket, key_prefix, .. })) => Some(Repository::bucket(bucket, key_prefix)),
            (None, Some(BackupLocation::Filesystem { .. })) => Some(Repository::Volume { scope: None }),
            (None, None) if database.repository.r#type == BackupType::S3 => remembered(observed, &database.name),
            (None, None) => None,
        };
        Self { place, child, record, data: observed.claims.iter().any(|claim| is_kept(claim)) }
    }

    /// Puts the place that there is into a configuration that names another one. When and how long backups are made and kept follows the
    /// spec all the same.
    fn keep(&self, backup: &mut BackupConfig, place: &Repository, namespace: &str, cluster: &str) {
        match place {
            Repository::Volume { .. } => {
                let own = backup.filesystem.take().filter(|_| backup.r#type == BackupType::Filesystem);
                let mut files = own.or_else(|| self.child?.filesystem.clone()).unwrap_or_else(|| self.volume());
                if let Some(scope) = self.child.and_then(scope) {
                    files.scope = Some(scope);
                }
                backup.filesystem = Some(files);
                (backup.r#type, backup.s3) = (BackupType::Filesystem, None);
            }
            Repository::Bucket { bucket, key_prefix } => {
                let told = self.child.filter(|child| child.r#type == BackupType::S3).and_then(|child| child.s3.clone());
                let own = backup.s3.take().filter(|_| backup.r#type == BackupType::S3);
                backup.s3 = told.or_else(|| self.recorded(own.clone())).or(own);
                (backup.r#type, backup.filesystem) = (BackupType::S3, None);
                if Repository::of(backup, namespace, cluster) != *place {
                    let s3 = backup.s3.get_or_insert_default();
                    s3.bucket.clone_from(bucket);
                    s3.key_prefix = Some(key_prefix.clone()).filter(|prefix| !prefix.is_empty());
                    s3.key_prefix_scope = Some(KeyPrefixScope::Exact);
                }
            }
        }
        // Each shard that there is has its own keys by now. A new one is encrypted if the others are.
        if let Some(child) = self.child
            && backup.encryption.is_some() != child.encryption.is_some()
        {
            backup.encryption.clone_from(&child.encryption);
        }
    }

    /// A volume of which nothing but its path is known.
    fn volume(&self) -> FilesystemBackupConfig {
        let path = match self.record {
            Some(BackupLocation::Filesystem { path }) => Some(path.clone()),
            _ => None,
        };
        FilesystemBackupConfig { path, scope: Some(BackupScope::default()), ..FilesystemBackupConfig::default() }
    }

    /// The bucket of the record, with the keys of the spec: the record has none.
    fn recorded(&self, own: Option<S3BackupConfig>) -> Option<S3BackupConfig> {
        let Some(BackupLocation::S3 { bucket, region, endpoint, key_prefix, use_env_credentials }) = self.record else {
            return None;
        };
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Some(S3BackupConfig {
            bucket: bucket.clone(),
            region: region.clone(),
            endpoint: given(endpoint),
            key_prefix: given(key_prefix),
            key_prefix_scope: Some(KeyPrefixScope::Exact),
            use_env_credentials: Some(*use_env_credentials),
            ..own.unwrap_or_default()
        })
    }
}

fn scope(backup: &BackupConfig) -> Option<BackupScope> {
    backup.filesystem.as_ref().filter(|_| backup.r#type == BackupType::Filesystem)?.scope
}

/// Whether a volume outlived a cluster and has its data. One that belongs to somebody goes with that.
fn is_kept(claim: &PersistentVolumeClaim) -> bool {
    let meta = &claim.metadata;
    password::holds_data(claim)
        && meta.deletion_timestamp.is_none()
        && meta.owner_references.as_ref().is_none_or(Vec::is_empty)
}

/// What data volumes say where nothing else is left, as when a cluster is applied again over volumes that were kept.
fn remembered(observed: &Observed, database: &str) -> Option<Repository> {
    observed.claims.iter().filter(|claim| is_kept(claim)).find_map(|claim| {
        let meta = &claim.metadata;
        let of_database = meta.labels.as_ref()?.get(label::DATABASE)? == database;
        meta.annotations.as_ref().filter(|_| of_database)?.get(annotation::REPOSITORY)?.parse().ok()
    })
}

/// A configuration as the data plane is told of it: it knows of no scopes.
pub fn told(backup: &BackupConfig, owner: &Owner) -> BackupConfig {
    let mut told = backup.clone();
    if let Some(s3) = &mut told.s3 {
        s3.key_prefix = Some(key_prefix(s3, &owner.namespace, &owner.name)).filter(|prefix| !prefix.is_empty());
        s3.key_prefix_scope = Some(KeyPrefixScope::Exact);
    }
    told
}

/// Where the backups of each database with a bucket lie.
pub fn places(resolved: &ResolvedCluster) -> BTreeMap<String, String> {
    let of_bucket = resolved.databases.iter().filter(|database| database.repository.r#type == BackupType::S3);
    of_bucket
        .map(|database| {
            let place = Repository::of(&database.repository, &resolved.namespace, &resolved.name);
            (database.name.clone(), place.to_string())
        })
        .collect()
}
