//! From no data to a member of the shard: the first backup, the restore, and later backups.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};

use super::agent::Agent;
use super::repository::{self, Backup, Manifest, Repository};
use crate::fault::Fault;
use crate::identity;
use crate::postgres::server::now_ms;
use crate::proto::clustermetadata::PoolerLifecycleStatus;
use crate::proto::multipoolermanagerdata::PostgresAction;
use crate::proto::pgctldservice::InitDataDirRequest;
use crate::topology::key;

impl Agent {
    pub(super) fn sentinel(&self) -> PathBuf {
        self.settings.pooler_dir.join(".multigres-bootstrap-in-progress")
    }

    /// No data: restore if somebody made a backup, make the first one if nobody did.
    pub(super) async fn bootstrap(&self) -> Result<()> {
        self.with(|state| state.report = None);
        if self.with(|state| state.database.is_none()) {
            return Ok(());
        }
        let repository = self.repository()?;
        if let Some(manifest) = repository.load(&self.store).await?
            && let Some(backup) = manifest.latest()
        {
            self.doing(PostgresAction::RestoringFromBackup);
            self.data.restore(&backup.content, &manifest.configuration)?;
            let outcome = self.start_standby().await;
            self.done();
            tracing::info!(backup = %backup.id, "restored");
            return outcome;
        }
        if self.shard_has_data().await? {
            self.doing(PostgresAction::RestoringFromBackup);
            bail!("no complete backup in the repository although the shard has one elsewhere; waiting");
        }
        let lock = key::backup_lock(&self.settings.shard);
        let holder = serde_json::json!({
            "Action": "first backup", "HostName": self.record.base().hostname, "Status": "Running",
        });
        let Some(lease) = self.store.global.lock(&lock, holder.to_string().into_bytes(), 30).await? else {
            return Ok(());
        };
        self.doing(PostgresAction::CreatingFirstBackup);
        let outcome = self.first_backup(&repository).await;
        self.done();
        let released = self.store.global.revoke(lease).await;
        outcome.and(released)
    }

    /// Whether another member of the shard lives on data that our repository does not show.
    async fn shard_has_data(&self) -> Result<bool> {
        if self.store.claim(&self.settings.shard).await?.is_some() {
            return Ok(true);
        }
        for cell in self.store.cell_names().await? {
            for pooler in self.store.poolers(&cell).await? {
                let lives = pooler
                    .lifecycle_status
                    .as_ref()
                    .is_some_and(|lifecycle| lifecycle.status() == PoolerLifecycleStatus::LifecycleActive);
                if lives
                    && pooler.shard_key.as_ref() == Some(&self.settings.shard)
                    && pooler.id.as_ref() != Some(&self.settings.id)
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Initialises data only to back it up: every member, the maker too, begins with a restore.
    async fn first_backup(&self, repository: &Repository) -> Result<()> {
        if repository.load(&self.store).await?.is_some_and(|manifest| !manifest.backups.is_empty()) {
            return Ok(());
        }
        let sentinel = self.sentinel();
        std::fs::write(&sentinel, "").context("write the bootstrap sentinel")?;
        self.pgctld
            .clone()
            .init_data_dir(InitDataDirRequest::default())
            .await
            .map_err(|status| anyhow!("failed to initialize data directory: {}", status.message()))?;
        self.backup_into(repository, "full", "", true).await?;
        self.data.wipe()?;
        std::fs::remove_file(sentinel)?;
        tracing::info!("created the first backup");
        Ok(())
    }

    /// Adds a backup of the data directory to the repository; yields its label.
    pub async fn backup_into(
        &self,
        repository: &Repository,
        kind: &str,
        job_id: &str,
        by_primary: bool,
    ) -> Result<String> {
        if self.faults.has(Fault::FailBackup) {
            bail!("backup failed on command");
        }
        let start = now_ms();
        let mut content = self.data.load()?;
        if let Some(report) = self.with(|state| state.report.clone()) {
            content.lsn = report.lsn;
            content.rule = report.rule;
        }
        let mut manifest = repository.load(&self.store).await?.unwrap_or_else(|| Manifest {
            system_id: content.system_id,
            encrypted: repository.encrypts(),
            ..Manifest::default()
        });
        if manifest.system_id != content.system_id {
            bail!(
                "stanza multigres: system-id {} does not match the stanza's {}",
                content.system_id,
                manifest.system_id
            );
        }
        manifest.configuration = self.data.configuration();
        let id = repository::label(now_ms() / 1000, kind, &manifest);
        let prior = manifest.prior(kind).map(|prior| prior.id.clone());
        let kind = if prior.is_none() { "full" } else { kind };
        manifest.add(Backup {
            id: id.clone(),
            kind: kind.to_owned(),
            job_id: job_id.to_owned(),
            pooler: identity::cluster_name(&self.settings.id),
            by_primary,
            start,
            stop: now_ms(),
            table_group: self.settings.shard.table_group.clone(),
            shard: self.settings.shard.shard.clone(),
            content,
            prior,
        });
        repository.save(&self.store, &manifest).await?;
        Ok(id)
    }
}
