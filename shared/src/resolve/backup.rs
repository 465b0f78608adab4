//! Backups: inherited from the cluster to its databases, table groups and shards.

use crate::api::v1alpha1::{BackupConfig, BackupScope, BackupType};

use crate::field_path::At;

use super::provenance::Source;
use super::{Context, defaults};

/// The levels of a chain, lowest first.
pub type Levels<'a> = [(Option<&'a BackupConfig>, Source)];

/// The backup of the cluster level.
pub fn cluster_level(context: &mut Context<'_>) -> BackupConfig {
    let spec = context.spec;
    resolve(context, &At::Root("backup"), &[(spec.backup.as_ref(), Source::Inline)])
}

/// The backup that the levels yield, all defaults applied.
pub fn resolve(context: &mut Context<'_>, at: &At<'_>, levels: &Levels<'_>) -> BackupConfig {
    let provenance = &mut context.provenance;
    let mut backup: Option<BackupConfig> = None;
    for (level, source) in levels {
        if let Some(level) = *level {
            provenance.overlay(
                backup.get_or_insert(BackupConfig { r#type: level.r#type, ..BackupConfig::default() }),
                level,
                at,
                source,
            );
        }
    }
    let mut backup = backup.unwrap_or_else(|| {
        provenance.set(&at.field("type"), &Source::BuiltIn);
        BackupConfig::default()
    });
    if backup.r#type == BackupType::Filesystem {
        let filesystem = backup.filesystem.get_or_insert_default();
        let at = at.field("filesystem");
        provenance.fill(&mut filesystem.path, &at, "path", || defaults::BACKUP_PATH.to_owned());
        provenance.fill(&mut filesystem.scope, &at, "scope", || BackupScope::Cell);
        let storage = filesystem.storage.get_or_insert_default();
        super::core::fill_storage(provenance, storage, &at.field("storage"), defaults::BACKUP_STORAGE);
    }
    backup
}
