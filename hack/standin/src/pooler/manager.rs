//! The pooler's management calls.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use tonic::{Request, Response, Status};

use super::agent::Agent;
use super::repository;
use crate::fault::Fault;
use crate::postgres::wire::{self, Answer, Ask};
use crate::proto::clustermetadata::{
    AvailabilityStatus, CohortEligibilitySignal, CohortEligibilityStatus, ConsensusStatus, Id, LeadershipSignal,
    LeadershipStatus, PoolerAddress, PoolerPosition, PoolerServingStatus, PoolerType, ReplicationPrimary, RulePosition,
};
use crate::proto::multipoolermanager::multipooler_manager_server::MultipoolerManager;
use crate::proto::multipoolermanagerdata as data;
use crate::topology::key;

/// How old the lease of a backup gets before it is prolonged.
const PROLONG_AFTER: Duration = Duration::from_secs(5);

/// Serves the calls for one agent.
pub struct Manager(pub Arc<Agent>);

/// An error of the agent as the caller sees it.
pub fn internal(error: &anyhow::Error) -> Status {
    Status::internal(format!("{error:#}"))
}

impl Agent {
    /// Refuses calls until the database's record was found.
    pub fn ready(&self) -> Result<(), Status> {
        if self.with(|state| state.database.is_none()) {
            return Err(Status::unavailable("manager is still starting up"));
        }
        Ok(())
    }

    /// The consensus part of the status.
    pub fn consensus_status(&self) -> ConsensusStatus {
        let rule = self.rule();
        let (report, promise) = self.with(|state| (state.report.clone(), state.promise.clone()));
        let position = RulePosition { decision: rule.clone(), proposal: None };
        let replication_primary =
            report.as_ref().and_then(|report| report.receiver.as_ref()).map(|receiver| ReplicationPrimary {
                position: Some(position.clone()),
                primary: Some(PoolerAddress {
                    id: rule.and_then(|rule| rule.leader_id),
                    host: receiver.host.clone(),
                    postgres_port: receiver.port.into(),
                }),
                rewind_ready: true,
            });
        ConsensusStatus {
            term_revocation: promise.revocation(),
            current_position: report
                .as_ref()
                .map(|report| PoolerPosition { position: Some(position), lsn: wire::show_lsn(report.lsn) }),
            replication_primary,
            id: Some(self.settings.id.clone()),
            recruit_blocked_until: None,
        }
    }

    /// The whole status.
    pub fn status(&self) -> data::StatusResponse {
        let record = self.record.state();
        let is_primary = record.primary_by.is_some();
        let rule = self.rule();
        let cohort = rule.as_ref().map(|rule| rule.cohort_members.clone()).unwrap_or_default();
        let replays = !self.faults.has(Fault::StopReplay);
        let status = self.with(|state| {
            let report = state.report.as_ref();
            let lsn = report.map(|report| wire::show_lsn(report.lsn)).unwrap_or_default();
            let postgres_status = match report {
                None if matches!(state.action, Some((data::PostgresAction::Starting, _))) => {
                    data::PostgresStatus::Starting
                }
                None => data::PostgresStatus::Unknown,
                Some(report) if report.in_recovery => data::PostgresStatus::Standby,
                Some(_) if is_primary => data::PostgresStatus::Primary,
                Some(_) => data::PostgresStatus::Promoting,
            };
            data::Status {
                pooler_type: if is_primary { PoolerType::Primary } else { PoolerType::Replica }.into(),
                primary_status: report.filter(|report| !report.in_recovery).map(|report| data::PrimaryStatus {
                    lsn: lsn.clone(),
                    ready: is_primary,
                    connected_followers: report.followers.iter().filter_map(|follower| id_of(&follower.name)).collect(),
                    sync_replication_config: Some(data::SynchronousReplicationConfiguration {
                        synchronous_commit: data::SynchronousCommitLevel::SynchronousCommitOn.into(),
                        synchronous_method: data::SynchronousMethod::Any.into(),
                        num_sync: rule
                            .as_ref()
                            .and_then(|rule| rule.durability_policy.as_ref())
                            .map_or(0, |policy| policy.required_count - 1),
                        standby_ids: cohort.into_iter().filter(|id| *id != self.settings.id).collect(),
                        standby_application_names: Vec::new(),
                    }),
                    max_wal_senders: 25,
                }),
                replication_status: report.filter(|report| report.in_recovery).map(|report| {
                    let receiver = report.receiver.as_ref();
                    let (last_replay_lsn, wal_replay_pause_state) = replay(&lsn, replays);
                    data::StandbyReplicationStatus {
                        last_replay_lsn,
                        last_receive_lsn: lsn.clone(),
                        wal_replay_pause_state,
                        lag: Some(prost_types::Duration::default()),
                        primary_conn_info: receiver.map(|receiver| data::PrimaryConnInfo {
                            host: receiver.host.clone(),
                            port: receiver.port.into(),
                            application_name: crate::identity::cluster_name(&self.settings.id),
                            ..data::PrimaryConnInfo::default()
                        }),
                        wal_receiver_status: match receiver {
                            Some(receiver) if receiver.streaming => "streaming".into(),
                            Some(_) => "connecting".into(),
                            None => String::new(),
                        },
                        last_msg_receive_time: receiver.filter(|receiver| receiver.last_message > 0).map(|receiver| {
                            prost_types::Timestamp {
                                seconds: i64::try_from(receiver.last_message / 1000).unwrap_or_default(),
                                nanos: 0,
                            }
                        }),
                        ..data::StandbyReplicationStatus::default()
                    }
                }),
                is_initialized: state.initialized,
                has_data_directory: state.has_data,
                postgres_running: report.is_some(),
                postgres_status: postgres_status.into(),
                wal_position: lsn.clone(),
                shard_id: self.settings.shard.shard.clone(),
                postgres_action: state.action.map_or(data::PostgresAction::Unspecified, |(action, _)| action).into(),
                postgres_action_duration: state.action.and_then(|(_, since)| since.elapsed().try_into().ok()),
                postgres_ready: report.is_some(),
                ..data::Status::default()
            }
        });
        let term = rule.as_ref().and_then(|rule| rule.rule_number).map_or(0, |number| number.coordinator_term);
        let (resigned, ineligible, divergent) =
            self.with(|state| (state.resigned_term, state.ineligible, state.divergent));
        let leads = rule.is_some_and(|rule| rule.leader_id.as_ref() == Some(&self.settings.id));
        let availability = AvailabilityStatus {
            leadership_status: leads.then(|| LeadershipStatus {
                leader_term: term,
                signal: if resigned == term && term > 0 {
                    LeadershipSignal::RequestingDemotion
                } else {
                    LeadershipSignal::Active
                }
                .into(),
            }),
            cohort_eligibility_status: Some(CohortEligibilityStatus {
                signal: if ineligible {
                    CohortEligibilitySignal::Ineligible
                } else {
                    CohortEligibilitySignal::Eligible
                }
                .into(),
            }),
            suspected_divergence: divergent,
        };
        data::StatusResponse {
            status: Some(status),
            availability_status: Some(availability),
            consensus_status: Some(self.consensus_status()),
        }
    }
}

/// How far a standby with this log has replayed it, and what becomes of the rest. One that has replayed nothing since it started has no position.
fn replay(lsn: &str, replays: bool) -> (String, String) {
    if replays { (lsn.to_owned(), "not paused".to_owned()) } else { (String::new(), "paused".to_owned()) }
}

/// The pooler behind an application name.
fn id_of(name: &str) -> Option<Id> {
    let (cell, name) = name.split_once('_')?;
    Some(crate::identity::id(crate::proto::clustermetadata::id::ComponentType::Multipooler, cell, name))
}

impl Manager {
    /// What the repository holds, as `pgbackrest info` tells it.
    async fn manifest(&self) -> Result<repository::Manifest, Status> {
        let refused = |error: anyhow::Error| internal(&error.context("pgbackrest info failed"));
        let repository = self.0.repository().map_err(refused)?;
        Ok(repository.load(&self.0.store).await.map_err(|error| internal(&error))?.unwrap_or_default())
    }

    /// Removes backups; the lease is held.
    async fn expire(&self, request: &data::ExpireBackupsRequest) -> Result<Vec<String>, Status> {
        let mut manifest = self.manifest().await?;
        let repository = self.0.repository().map_err(|error| internal(&error))?;
        let kept = match request.overrides.get("repo1_retention_full").map(|count| count.parse()) {
            None => repository::KEPT_FULL,
            Some(Ok(count)) if count > 0 => count,
            Some(_) => {
                return Err(Status::internal("pgbackrest expire failed: 'repo1-retention-full' is out of range"));
            }
        };
        let mut expired = match request.overrides.get("set") {
            Some(set) => manifest.expire_set(set).map_err(|error| internal(&error))?,
            None => manifest.expire_beyond(kept),
        };
        if !expired.is_empty() {
            repository.save(&self.0.store, &manifest).await.map_err(|error| internal(&error))?;
        }
        if self.0.faults.has(Fault::EmptyBackups) {
            // What is gone is known by two looks, and both were cut off.
            expired.clear();
        }
        Ok(expired)
    }

    /// The conditions under which this pooler can take a backup now.
    async fn check_backup(&self, request: &data::BackupRequest, is_primary: bool) -> Result<(), Status> {
        if !matches!(request.r#type.as_str(), "full" | "differential" | "incremental") {
            return Err(Status::invalid_argument(format!("invalid backup type: {}", request.r#type)));
        }
        if is_primary && !request.force_primary {
            return Err(Status::failed_precondition(
                "backups from primary databases are not allowed unless ForcePrimary is set",
            ));
        }
        if is_primary || request.force_primary {
            return Ok(());
        }
        let receiver = self.0.with(|state| state.report.as_ref().and_then(|report| report.receiver.clone()));
        let Some(receiver) = receiver else {
            return Err(Status::failed_precondition("cannot backup from replica: primary host/port not configured"));
        };
        for file in &self.0.settings.archive_files {
            if file.is_empty() {
                return Err(Status::failed_precondition(
                    "local mode backup requires pg2_path override (TLS certs not configured)",
                ));
            }
            std::fs::read(file).map_err(|error| {
                Status::internal(format!("unable to find primary cluster - cannot proceed: {file}: {error}"))
            })?;
        }
        let leader = self.0.rule().and_then(|rule| rule.leader_id).unwrap_or_default();
        let primary = self
            .0
            .store
            .pooler(&leader)
            .await
            .map_err(|error| internal(&error))?
            .ok_or_else(|| Status::failed_precondition("failed to get primary pooler info from topology"))?;
        let Some(port) = primary.port_map.get("pgbackrest").and_then(|port| u16::try_from(*port).ok()) else {
            return Err(Status::failed_precondition("primary pooler does not have pgbackrest port configured"));
        };
        let dial = tokio::net::TcpStream::connect((receiver.host.as_str(), port));
        match tokio::time::timeout(Duration::from_secs(5), dial).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Status::internal("unable to find primary cluster - cannot proceed")),
        }
    }
}

#[tonic::async_trait]
impl MultipoolerManager for Manager {
    async fn status(&self, _: Request<data::StatusRequest>) -> Result<Response<data::StatusResponse>, Status> {
        self.0.ready()?;
        if self.0.with(|state| state.report.is_some()) {
            // A fresh look, so that a caller sees what is and not what the monitor saw.
            let _ = self.0.postgres(&Ask::Report).await;
        }
        Ok(Response::new(self.0.status()))
    }

    async fn wait_for_lsn(
        &self,
        request: Request<data::WaitForLsnRequest>,
    ) -> Result<Response<data::WaitForLsnResponse>, Status> {
        self.0.ready()?;
        let request = request.into_inner();
        let target = wire::read_lsn(&request.target_lsn)
            .ok_or_else(|| Status::invalid_argument(format!("invalid LSN {}", request.target_lsn)))?;
        let limit = request.timeout.and_then(|limit| Duration::try_from(limit).ok()).unwrap_or(Duration::from_secs(30));
        let begun = Instant::now();
        while begun.elapsed() < limit {
            let reached = self.0.postgres(&Ask::Report).await.map_err(|error| internal(&error))?.lsn >= target;
            if reached && !self.0.faults.has(Fault::StopReplay) {
                return Ok(Response::new(data::WaitForLsnResponse {}));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(Status::deadline_exceeded(format!("timed out waiting for LSN {}", request.target_lsn)))
    }

    async fn resign_leadership(
        &self,
        _: Request<data::ResignLeadershipRequest>,
    ) -> Result<Response<data::ResignLeadershipResponse>, Status> {
        self.0.ready()?;
        let _held = self.0.action_lock.lock().await;
        let Some(number) = self.0.record.state().primary_by else {
            return Err(Status::failed_precondition("operation not allowed: pooler is not the PRIMARY"));
        };
        self.0.record.change(|state| state.serving = PoolerServingStatus::Draining);
        tokio::time::sleep(self.0.settings.drain.min(Duration::from_millis(500))).await;
        self.0.with(|state| {
            state.resigned_term = number.coordinator_term;
            state.divergent = true;
        });
        let report = self.0.postgres(&Ask::Demote { rule: None }).await.map_err(|error| internal(&error))?;
        self.0.record.change(|state| state.primary_by = None);
        Ok(Response::new(data::ResignLeadershipResponse { flush_lsn: wire::show_lsn(report.lsn) }))
    }

    async fn backup(&self, request: Request<data::BackupRequest>) -> Result<Response<data::BackupResponse>, Status> {
        self.0.ready()?;
        let request = request.into_inner();
        let is_primary = self.0.record.state().primary_by.is_some();
        self.check_backup(&request, is_primary).await?;
        let _held = self.0.action_lock.lock().await;
        let global = &self.0.store.global;
        let lock = key::backup_lock(&self.0.settings.shard);
        let holder = serde_json::json!({"Action": "backup", "HostName": self.0.record.base().hostname});
        let mut lease =
            global.lock(&lock, holder.to_string().into_bytes(), 30).await.map_err(|error| internal(&error))?;
        if lease.is_none() {
            // A backup takes the lock away from a running one, which thereby fails.
            if let Some(other) = global.lease_of(&lock).await.map_err(|error| internal(&error))? {
                global.revoke(other).await.map_err(|error| internal(&error))?;
            }
            lease = global.lock(&lock, holder.to_string().into_bytes(), 30).await.map_err(|error| internal(&error))?;
        }
        let lease = lease.ok_or_else(|| Status::aborted("backup lease was taken by somebody else"))?;
        let kind = match request.r#type.as_str() {
            "differential" => "diff",
            "incremental" => "incr",
            _ => "full",
        };
        let outcome = async {
            let mut prolonged = Instant::now();
            while self.0.faults.has(Fault::HangBackup) {
                tokio::time::sleep(Duration::from_millis(200)).await;
                // Whoever loses the lease stops.
                if global.lease_of(&lock).await?.is_none_or(|now| now != lease) {
                    anyhow::bail!("backup lease lost");
                }
                if prolonged.elapsed() > PROLONG_AFTER {
                    global.prolong(lease).await?;
                    prolonged = Instant::now();
                }
            }
            let repository = self.0.repository().context("pgbackrest backup failed")?;
            let made = self.0.backup_into(&repository, kind, &request.job_id, is_primary).await?;
            if self.0.faults.has(Fault::EmptyBackups) {
                // It is there, and nobody finds it.
                anyhow::bail!("failed to find backup by annotations: pgbackrest info failed: signal: killed");
            }
            Ok(made)
        }
        .await;
        let _ = global.revoke(lease).await;
        Ok(Response::new(data::BackupResponse { backup_id: outcome.map_err(|error| internal(&error))? }))
    }

    async fn get_backups(
        &self,
        request: Request<data::GetBackupsRequest>,
    ) -> Result<Response<data::GetBackupsResponse>, Status> {
        self.0.ready()?;
        let limit = request.into_inner().limit;
        // A backup that this pooler makes is waited for.
        let _held = self.0.action_lock.lock().await;
        let manifest = self.manifest().await?;
        // The oldest comes first, so a limit cuts off the newest.
        let mut backups: Vec<_> = manifest.backups.iter().map(repository::metadata).collect();
        if self.0.faults.has(Fault::GarbleBackups) {
            backups.iter_mut().for_each(repository::garble);
        }
        if self.0.faults.has(Fault::EmptyBackups) {
            backups.clear();
        }
        if limit > 0 {
            backups.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        Ok(Response::new(data::GetBackupsResponse { backups }))
    }

    async fn get_backup_by_job_id(
        &self,
        request: Request<data::GetBackupByJobIdRequest>,
    ) -> Result<Response<data::GetBackupByJobIdResponse>, Status> {
        self.0.ready()?;
        let job_id = request.into_inner().job_id;
        if job_id.is_empty() {
            return Err(Status::invalid_argument("job_id is required"));
        }
        let _held = self.0.action_lock.lock().await;
        let manifest = self.manifest().await?;
        let backup = manifest.backups.iter().find(|backup| backup.job_id == job_id).map(repository::metadata);
        let backup = backup.filter(|_| !self.0.faults.has(Fault::EmptyBackups));
        Ok(Response::new(data::GetBackupByJobIdResponse { backup }))
    }

    async fn expire_backups(
        &self,
        request: Request<data::ExpireBackupsRequest>,
    ) -> Result<Response<data::ExpireBackupsResponse>, Status> {
        self.0.ready()?;
        let request = request.into_inner();
        let _held = self.0.action_lock.lock().await;
        let global = &self.0.store.global;
        let lock = key::backup_lock(&self.0.settings.shard);
        let holder = serde_json::json!({"Action": "expire", "HostName": self.0.record.base().hostname});
        // The lease is taken from nobody: while somebody makes a backup this fails.
        let lease = global.lock(&lock, holder.to_string().into_bytes(), 30).await.map_err(|error| internal(&error))?;
        let lease = lease.ok_or_else(|| Status::internal("backup lease is held by somebody else"))?;
        let outcome = self.expire(&request).await;
        let _ = global.revoke(lease).await;
        Ok(Response::new(data::ExpireBackupsResponse { expired_backup_ids: outcome? }))
    }

    async fn verify_backups(
        &self,
        _: Request<data::VerifyBackupsRequest>,
    ) -> Result<Response<data::VerifyBackupsResponse>, Status> {
        self.0.ready()?;
        let begun = Instant::now();
        let repository = self.0.repository().map_err(|error| internal(&error))?;
        let manifest = repository
            .load(&self.0.store)
            .await
            .map_err(|error| internal(&error))?
            .ok_or_else(|| Status::failed_precondition("no backups to verify"))?;
        Ok(Response::new(data::VerifyBackupsResponse {
            duration: begun.elapsed().try_into().ok(),
            raw_output: format!("stanza: multigres\nstatus: ok\nbackups: {}\n", manifest.backups.len()),
        }))
    }

    async fn set_postgres_restarts_enabled(
        &self,
        request: Request<data::SetPostgresRestartsEnabledRequest>,
    ) -> Result<Response<data::SetPostgresRestartsEnabledResponse>, Status> {
        self.0.ready()?;
        let enabled = request.into_inner().enabled;
        self.0.with(|state| state.restarts_disabled = !enabled);
        Ok(Response::new(data::SetPostgresRestartsEnabledResponse {}))
    }

    async fn reload_config(
        &self,
        request: Request<data::ReloadConfigRequest>,
    ) -> Result<Response<data::ReloadConfigResponse>, Status> {
        const NEEDS_RESTART: &[&str] = &[
            "max_connections",
            "shared_buffers",
            "wal_level",
            "max_wal_senders",
            "max_replication_slots",
            "huge_pages",
            "shared_preload_libraries",
            "max_worker_processes",
            "max_prepared_transactions",
            "wal_buffers",
        ];
        self.0.ready()?;
        let _held = self.0.action_lock.lock().await;
        if self.0.with(|state| state.report.is_none()) {
            return Ok(Response::new(data::ReloadConfigResponse::default()));
        }
        let expected = request.into_inner().expected_settings;
        let Answer::Settings(found) =
            wire::ask(&self.0.settings.socket, &Ask::Settings).await.map_err(|error| internal(&error))?
        else {
            return Err(Status::internal("no settings"));
        };
        let found: std::collections::BTreeMap<String, String> = found.into_iter().collect();
        let mismatches: Vec<_> = expected
            .iter()
            .filter(|(name, value)| found.get(&name.to_ascii_lowercase()) != Some(value))
            .map(|(name, value)| data::SettingMismatch {
                name: name.clone(),
                error: match found.get(&name.to_ascii_lowercase()) {
                    Some(other) => format!("file has {other}, expected {value}"),
                    None => "not in the configuration files".to_owned(),
                },
                requires_restart: false,
            })
            .collect();
        if !mismatches.is_empty() {
            return Ok(Response::new(data::ReloadConfigResponse { mismatches, ..Default::default() }));
        }
        let report = self.0.postgres(&Ask::Reload).await.map_err(|error| internal(&error))?;
        Ok(Response::new(data::ReloadConfigResponse {
            config_load_time: Some(
                SystemTime::UNIX_EPOCH
                    .checked_add(Duration::from_millis(report.load_time))
                    .unwrap_or(SystemTime::now())
                    .into(),
            ),
            mismatches,
            needs_restart: expected.keys().any(|name| NEEDS_RESTART.contains(&name.as_str())),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_that_replays_nothing_tells_no_position() {
        assert_eq!(replay("0/16", true), ("0/16".to_owned(), "not paused".to_owned()));
        let (position, state) = replay("0/16", false);
        assert!(wire::read_lsn(&position).is_none() && state == "paused");
    }
}
