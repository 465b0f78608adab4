//! The administration calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::identity;
use crate::pooler::consensus::BACKOFF;
use crate::pooler::manager::internal;
use crate::pooler::repository::stamp;
use crate::proto::clustermetadata::{
    Id, Multipooler, PoolerLifecycleStatus, PoolerServingStatus, RoutingRole, ShardKey,
};
use crate::proto::multiadmin as data;
use crate::proto::multiadmin::multiadmin_service_server::MultiadminService;
use crate::proto::multipoolermanager::multipooler_manager_client::MultipoolerManagerClient;
use crate::proto::multipoolermanagerdata as pooler;
use crate::tls::PoolerDialer;
use crate::topology::{Store, key};

/// The administration service.
pub struct Admin {
    store: Store,
    dialer: PoolerDialer,
    jobs: Arc<Mutex<BTreeMap<String, data::GetBackupJobStatusResponse>>>,
}

impl Admin {
    /// A service over a topology.
    pub fn new(store: Store, dialer: PoolerDialer) -> Self {
        Self { store, dialer, jobs: Arc::default() }
    }

    fn client(&self, record: &Multipooler) -> Result<MultipoolerManagerClient<Channel>, Status> {
        Ok(MultipoolerManagerClient::new(self.dialer.dial(record).map_err(|error| internal(&error))?))
    }

    async fn cells(&self, asked: Vec<String>) -> Result<Vec<String>, Status> {
        if asked.is_empty() { self.store.cell_names().await.map_err(|error| internal(&error)) } else { Ok(asked) }
    }

    async fn shard(&self, key: &ShardKey) -> Result<Vec<Multipooler>, Status> {
        let mut found = Vec::new();
        for cell in self.cells(Vec::new()).await? {
            match self.store.poolers(&cell).await {
                Ok(poolers) => {
                    found.extend(poolers.into_iter().filter(|pooler| pooler.shard_key.as_ref() == Some(key)));
                }
                Err(error) => tracing::warn!(%cell, %error, "failed to list poolers in cell"),
            }
        }
        found.retain(|pooler| {
            pooler
                .lifecycle_status
                .as_ref()
                .is_none_or(|lifecycle| lifecycle.status() != PoolerLifecycleStatus::LifecycleShutdown)
        });
        if found.is_empty() {
            return Err(Status::not_found(format!(
                "no poolers found for shard {}/{}/{}",
                key.database, key.table_group, key.shard
            )));
        }
        Ok(found)
    }

    /// A pooler to talk to: a replica that serves, or the primary when that is asked for.
    async fn pick(&self, key: &ShardKey, primary: bool) -> Result<Multipooler, Status> {
        let poolers = self.shard(key).await?;
        let found = poolers
            .iter()
            .find(|pooler| is_primary(pooler) == primary && pooler.serving_status() == PoolerServingStatus::Serving);
        found.cloned().ok_or_else(|| {
            Status::not_found(format!(
                "serving {} pooler not found for database={}, table_group={}, shard={}",
                if primary { "leader" } else { "follower" },
                key.database,
                key.table_group,
                key.shard
            ))
        })
    }

    async fn find(&self, id: Option<Id>) -> Result<Multipooler, Status> {
        let mut id = id
            .filter(|id| !id.cell.is_empty() && !id.name.is_empty())
            .ok_or_else(|| Status::invalid_argument("pooler_id with cell and name is required"))?;
        id.component = crate::proto::clustermetadata::id::ComponentType::Multipooler.into();
        self.store
            .pooler(&id)
            .await
            .map_err(|error| internal(&error))?
            .ok_or_else(|| Status::not_found(format!("pooler {} not found", identity::component_id(&id))))
    }
}

fn is_primary(pooler: &Multipooler) -> bool {
    pooler.routing_state.as_ref().is_some_and(|state| state.role() == RoutingRole::Primary)
}

fn shard_key(database: &str, table_group: &str, shard: &str) -> Result<ShardKey, Status> {
    for (value, name) in [(database, "database"), (table_group, "table_group"), (shard, "shard")] {
        if value.is_empty() {
            return Err(Status::invalid_argument(format!("{name} cannot be empty")));
        }
    }
    Ok(ShardKey { database: database.into(), table_group: table_group.into(), shard: shard.into() })
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl MultiadminService for Admin {
    async fn get_cell(&self, request: Request<data::GetCellRequest>) -> Answer<data::GetCellResponse> {
        let name = request.into_inner().name;
        let cell = self.store.global.read(&key::cell(&name)).await.map_err(|error| internal(&error))?;
        let cell = cell.ok_or_else(|| Status::not_found(format!("cell '{name}' not found")))?;
        Ok(Response::new(data::GetCellResponse { cell: Some(cell) }))
    }

    async fn get_database(&self, request: Request<data::GetDatabaseRequest>) -> Answer<data::GetDatabaseResponse> {
        let name = request.into_inner().name;
        let database = self.store.database(&name).await.map_err(|error| internal(&error))?;
        let database = database.ok_or_else(|| Status::not_found(format!("database '{name}' not found")))?;
        Ok(Response::new(data::GetDatabaseResponse { database: Some(database) }))
    }

    async fn get_cell_names(&self, _: Request<data::GetCellNamesRequest>) -> Answer<data::GetCellNamesResponse> {
        Ok(Response::new(data::GetCellNamesResponse { names: self.cells(Vec::new()).await? }))
    }

    async fn get_database_names(
        &self,
        _: Request<data::GetDatabaseNamesRequest>,
    ) -> Answer<data::GetDatabaseNamesResponse> {
        let names = self.store.global.names("databases").await.map_err(|error| internal(&error))?;
        Ok(Response::new(data::GetDatabaseNamesResponse { names }))
    }

    async fn get_gateways(&self, request: Request<data::GetGatewaysRequest>) -> Answer<data::GetGatewaysResponse> {
        let mut gateways = Vec::new();
        for cell in self.cells(request.into_inner().cells).await? {
            gateways.extend(self.store.gateways(&cell).await.map_err(|error| internal(&error))?);
        }
        Ok(Response::new(data::GetGatewaysResponse { gateways }))
    }

    async fn get_poolers(&self, request: Request<data::GetPoolersRequest>) -> Answer<data::GetPoolersResponse> {
        let request = request.into_inner();
        let mut poolers = Vec::new();
        for cell in self.cells(request.cells).await? {
            poolers.extend(self.store.poolers(&cell).await.map_err(|error| internal(&error))?.into_iter().filter(
                |pooler| {
                    let key = pooler.shard_key.clone().unwrap_or_default();
                    (request.database.is_empty() || key.database == request.database)
                        && (request.shard.is_empty() || key.shard == request.shard)
                },
            ));
        }
        Ok(Response::new(data::GetPoolersResponse { poolers }))
    }

    async fn get_orchs(&self, request: Request<data::GetOrchsRequest>) -> Answer<data::GetOrchsResponse> {
        let mut orchs = Vec::new();
        for cell in self.cells(request.into_inner().cells).await? {
            orchs.extend(self.store.orchs(&cell).await.map_err(|error| internal(&error))?);
        }
        Ok(Response::new(data::GetOrchsResponse { orchs }))
    }

    async fn get_pooler_status(
        &self,
        request: Request<data::GetPoolerStatusRequest>,
    ) -> Answer<data::GetPoolerStatusResponse> {
        let record = self.find(request.into_inner().pooler_id).await?;
        let answer = self.client(&record)?.status(pooler::StatusRequest {}).await?.into_inner();
        Ok(Response::new(data::GetPoolerStatusResponse {
            status: answer.status,
            consensus_status: answer.consensus_status,
        }))
    }

    async fn backup(&self, request: Request<data::BackupRequest>) -> Answer<data::BackupResponse> {
        let request = request.into_inner();
        let key = shard_key(&request.database, &request.table_group, &request.shard)?;
        if !matches!(request.r#type.as_str(), "full" | "differential" | "incremental") {
            return Err(Status::invalid_argument(format!("invalid backup type: {}", request.r#type)));
        }
        let record = self
            .pick(&key, request.force_primary)
            .await
            .map_err(|status| Status::failed_precondition(format!("failed to find pooler: {}", status.message())))?;
        let mut client = self.client(&record)?;
        // With the name of the pooler, so that it can be found again after a restart.
        let maker = record.id.as_ref().map(identity::component_id).unwrap_or_default();
        let now = crate::postgres::server::now_ms();
        let job_id = format!("{}.{:06}_{maker}", stamp(now / 1000), now % 1000 * 1000);
        let job = data::GetBackupJobStatusResponse {
            job_id: job_id.clone(),
            job_type: data::JobType::Backup.into(),
            status: data::JobStatus::Running.into(),
            database: key.database,
            table_group: key.table_group,
            shard: key.shard,
            backup_type: request.r#type.clone(),
            ..data::GetBackupJobStatusResponse::default()
        };
        let jobs = Arc::clone(&self.jobs);
        if let Ok(mut jobs) = jobs.lock() {
            jobs.insert(job_id.clone(), job.clone());
        }
        let call = pooler::BackupRequest {
            force_primary: request.force_primary,
            r#type: request.r#type,
            job_id: job_id.clone(),
            ..pooler::BackupRequest::default()
        };
        tokio::spawn(async move {
            let mut job = job;
            match client.backup(call).await {
                Ok(answer) => {
                    job.set_status(data::JobStatus::Completed);
                    job.backup_id = answer.into_inner().backup_id;
                }
                Err(status) => {
                    job.set_status(data::JobStatus::Failed);
                    status.message().clone_into(&mut job.error_message);
                }
            }
            if let Ok(mut jobs) = jobs.lock() {
                jobs.insert(job.job_id.clone(), job);
            }
        });
        Ok(Response::new(data::BackupResponse { job_id }))
    }

    async fn get_backup_job_status(
        &self,
        request: Request<data::GetBackupJobStatusRequest>,
    ) -> Answer<data::GetBackupJobStatusResponse> {
        let request = request.into_inner();
        if request.job_id.is_empty() {
            return Err(Status::invalid_argument("job_id cannot be empty"));
        }
        if let Some(job) = self.jobs.lock().ok().and_then(|jobs| jobs.get(&request.job_id).cloned()) {
            return Ok(Response::new(job));
        }
        // After a restart the repository still knows finished jobs, if the caller says where to look.
        let key = shard_key(&request.database, &request.table_group, &request.shard)
            .map_err(|_| Status::not_found(format!("job not found: {}", request.job_id)))?;
        let record = self.pick(&key, false).await?;
        let asked = pooler::GetBackupByJobIdRequest { job_id: request.job_id.clone() };
        // A pooler that cannot tell is a job that nobody knows.
        let answer = self.client(&record)?.get_backup_by_job_id(asked).await.ok();
        let backup = answer.and_then(|answer| answer.into_inner().backup);
        let backup = backup.ok_or_else(|| Status::not_found(format!("job not found: {}", request.job_id)))?;
        Ok(Response::new(data::GetBackupJobStatusResponse {
            job_id: request.job_id,
            job_type: data::JobType::Backup.into(),
            status: data::JobStatus::Completed.into(),
            database: key.database,
            table_group: key.table_group,
            shard: key.shard,
            backup_type: backup.r#type,
            backup_id: backup.backup_id,
            ..data::GetBackupJobStatusResponse::default()
        }))
    }

    async fn get_backups(&self, request: Request<data::GetBackupsRequest>) -> Answer<data::GetBackupsResponse> {
        let request = request.into_inner();
        let key = shard_key(&request.database, &request.table_group, &request.shard)?;
        let record = self.pick(&key, false).await?;
        let asked = pooler::GetBackupsRequest { limit: request.limit };
        let answer = self.client(&record)?.get_backups(asked).await?.into_inner();
        let backups = answer
            .backups
            .into_iter()
            .map(|backup| data::BackupInfo {
                database: key.database.clone(),
                status: match backup.status() {
                    pooler::backup_metadata::Status::Complete => data::BackupStatus::Complete,
                    pooler::backup_metadata::Status::Incomplete => data::BackupStatus::Incomplete,
                    pooler::backup_metadata::Status::Unknown => data::BackupStatus::Unknown,
                }
                .into(),
                backup_id: backup.backup_id,
                table_group: backup.table_group,
                shard: backup.shard,
                r#type: backup.r#type,
                backup_size_bytes: backup.backup_size_bytes,
                multipooler_service_id: backup.multipooler_id,
                routing_role: backup.routing_role,
                start_lsn: backup.start_lsn,
                stop_lsn: backup.stop_lsn,
                pg_version: backup.pg_version,
                start_timestamp: backup.start_timestamp,
                stop_timestamp: backup.stop_timestamp,
                job_id: backup.job_id,
            })
            .collect();
        Ok(Response::new(data::GetBackupsResponse { backups }))
    }

    async fn expire_backups(
        &self,
        request: Request<data::ExpireBackupsRequest>,
    ) -> Answer<data::ExpireBackupsResponse> {
        let request = request.into_inner();
        let record = self.pick(&shard_key(&request.database, &request.table_group, &request.shard)?, false).await?;
        let asked = pooler::ExpireBackupsRequest { overrides: request.overrides };
        let refused = |status: Status| Status::internal(format!("failed to expire backups: {}", status.message()));
        let answer = self.client(&record)?.expire_backups(asked).await.map_err(refused)?.into_inner();
        Ok(Response::new(data::ExpireBackupsResponse { expired_backup_ids: answer.expired_backup_ids }))
    }

    async fn verify_backups(
        &self,
        request: Request<data::VerifyBackupsRequest>,
    ) -> Answer<data::VerifyBackupsResponse> {
        let request = request.into_inner();
        let record = self.pick(&shard_key(&request.database, &request.table_group, &request.shard)?, false).await?;
        let answer = self.client(&record)?.verify_backups(pooler::VerifyBackupsRequest {}).await?.into_inner();
        Ok(Response::new(data::VerifyBackupsResponse { duration: answer.duration, raw_output: answer.raw_output }))
    }

    async fn switch_primary(
        &self,
        request: Request<data::SwitchPrimaryRequest>,
    ) -> Answer<data::SwitchPrimaryResponse> {
        let key = request.into_inner().shard_key.ok_or_else(|| Status::invalid_argument("shard_key is required"))?;
        let poolers = self.shard(&key).await?;
        let leader = poolers.iter().find(|pooler| is_primary(pooler)).ok_or_else(|| {
            Status::not_found(format!(
                "no PRIMARY pooler found for shard {}/{}/{}",
                key.database, key.table_group, key.shard
            ))
        })?;
        if poolers.len() < 2 {
            return Err(Status::failed_precondition("no standby poolers available for promotion"));
        }
        let mut client = self.client(leader)?;
        if let Ok(answer) = client.status(pooler::StatusRequest {}).await {
            let since = answer
                .into_inner()
                .consensus_status
                .and_then(|consensus| consensus.term_revocation?.coordinator_initiated_at)
                .and_then(|at| SystemTime::try_from(at).ok())
                .and_then(|at| at.elapsed().ok());
            // Poolers refuse a new coordinator for so long: better to wait before writes stop than after.
            if let Some(rest) = since.and_then(|since| BACKOFF.checked_sub(since)) {
                tokio::time::sleep(rest + Duration::from_millis(500)).await;
            }
        }
        client
            .resign_leadership(pooler::ResignLeadershipRequest {})
            .await
            .map_err(|status| Status::internal(format!("ResignLeadership failed: {}", status.message())))?;
        Ok(Response::new(data::SwitchPrimaryResponse { old_leader_id: leader.id.clone() }))
    }
}
