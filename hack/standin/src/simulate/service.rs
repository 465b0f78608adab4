//! The calls that simulated processes answer: one listener for all, told apart by the address that was dialled.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tonic::{Request, Response, Status};

use super::world::{Place, Shard, World};
use crate::identity;
use crate::pooler::repository::label;
use crate::postgres::wire::show_lsn;
use crate::proto::clustermetadata::{
    AvailabilityStatus, CohortEligibilitySignal, CohortEligibilityStatus, ConsensusStatus, LeadershipSignal,
    LeadershipStatus, PoolerPosition, PoolerType, RoutingRole, RulePosition, TermRevocation,
};
use crate::proto::multiorch as orch;
use crate::proto::multiorch::multiorch_service_server::MultiorchService;
use crate::proto::multipoolermanager::multipooler_manager_server::MultipoolerManager;
use crate::proto::multipoolermanagerdata as data;

/// Answers for everybody.
#[derive(Clone)]
pub struct Everybody(pub Arc<Mutex<World>>);

type Answer<T> = Result<Response<T>, Status>;

impl Everybody {
    fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        look(&mut world)
    }

    /// The shard and the name of the pooler that was dialled, if its pod runs.
    fn on<R, T>(
        &self,
        request: &Request<R>,
        look: impl FnOnce(&Place, &mut Shard, &str) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let Some(IpAddr::V4(address)) = request.local_addr().map(|address| address.ip()) else {
            return Err(Status::unavailable("not dialled over a loopback address"));
        };
        self.world(|world| {
            let (place, name) = world
                .resident(address)
                .map(|(place, name)| (place.clone(), name.to_owned()))
                .ok_or_else(|| Status::unavailable(format!("nobody lives at {address}")))?;
            let shard = world.shards.get_mut(&place).ok_or_else(|| Status::unavailable("the shard is gone"))?;
            if !shard.poolers.get(&name).is_some_and(|pooler| pooler.alive) {
                return Err(Status::unavailable("the pod does not run"));
            }
            let answer = look(&place, shard, &name);
            world.dirty.insert(place);
            answer
        })
    }
}

fn status(shard: &Shard, name: &str) -> Option<data::StatusResponse> {
    let pooler = shard.poolers.get(name)?;
    let leads = shard.leader().is_some_and(|leader| leader.id == pooler.id);
    let is_leader = shard.rule.as_ref().is_some_and(|rule| rule.leader_id.as_ref() == Some(&pooler.id));
    let lsn = show_lsn(shard.lsn());
    let followers =
        shard.poolers.values().filter(|other| other.alive && other.id != pooler.id).map(|other| other.id.clone());
    Some(data::StatusResponse {
        status: Some(data::Status {
            pooler_type: if leads { PoolerType::Primary } else { PoolerType::Replica }.into(),
            primary_status: leads.then(|| data::PrimaryStatus {
                lsn: lsn.clone(),
                ready: true,
                connected_followers: followers.collect(),
                max_wal_senders: 25,
                ..data::PrimaryStatus::default()
            }),
            replication_status: (!leads).then(|| data::StandbyReplicationStatus {
                last_replay_lsn: lsn.clone(),
                last_receive_lsn: lsn.clone(),
                lag: Some(prost_types::Duration::default()),
                wal_receiver_status: shard.leader().map(|_| "streaming".to_owned()).unwrap_or_default(),
                last_msg_receive_time: shard.leader().map(|_| SystemTime::now().into()),
                ..data::StandbyReplicationStatus::default()
            }),
            is_initialized: true,
            has_data_directory: true,
            postgres_running: true,
            postgres_status: if leads { data::PostgresStatus::Primary } else { data::PostgresStatus::Standby }.into(),
            wal_position: lsn.clone(),
            shard_id: pooler.base.shard_key.as_ref().map(|key| key.shard.clone()).unwrap_or_default(),
            postgres_ready: true,
            ..data::Status::default()
        }),
        availability_status: Some(AvailabilityStatus {
            leadership_status: is_leader.then(|| LeadershipStatus {
                leader_term: shard.term(),
                signal: if shard.resigned { LeadershipSignal::RequestingDemotion } else { LeadershipSignal::Active }
                    .into(),
            }),
            cohort_eligibility_status: Some(CohortEligibilityStatus {
                signal: CohortEligibilitySignal::Eligible.into(),
            }),
            suspected_divergence: false,
        }),
        consensus_status: Some(ConsensusStatus {
            term_revocation: (shard.term() > 0).then(|| TermRevocation {
                revoked_below_term: shard.term(),
                coordinator_initiated_at: Some(shard.elected_at.into()),
                ..TermRevocation::default()
            }),
            current_position: Some(PoolerPosition {
                position: Some(RulePosition { decision: shard.rule.clone(), proposal: None }),
                lsn,
            }),
            id: Some(pooler.id.clone()),
            ..ConsensusStatus::default()
        }),
    })
}

fn backups(place: &Place, shard: &Shard) -> Vec<data::BackupMetadata> {
    shard
        .backups
        .iter()
        .map(|(kind, job_id, at)| {
            let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            data::BackupMetadata {
                table_group: place.shard.1.clone(),
                shard: place.shard.2.clone(),
                status: data::backup_metadata::Status::Complete.into(),
                backup_id: label(seconds, "full", &crate::pooler::repository::Manifest::default()),
                stop_lsn: show_lsn(shard.lsn()),
                start_lsn: show_lsn(shard.lsn()),
                job_id: job_id.clone(),
                backup_size_bytes: 31_457_280,
                r#type: kind.clone(),
                multipooler_id: shard.leader().map(|leader| identity::cluster_name(&leader.id)).unwrap_or_default(),
                routing_role: RoutingRole::Replica.into(),
                start_timestamp: Some((*at).into()),
                stop_timestamp: Some((*at).into()),
                pg_version: "17".into(),
            }
        })
        .collect()
}

#[tonic::async_trait]
impl MultipoolerManager for Everybody {
    async fn status(&self, request: Request<data::StatusRequest>) -> Answer<data::StatusResponse> {
        self.on(&request, |_, shard, name| {
            status(shard, name).map(Response::new).ok_or_else(|| Status::unavailable("gone"))
        })
    }

    async fn wait_for_lsn(&self, request: Request<data::WaitForLsnRequest>) -> Answer<data::WaitForLsnResponse> {
        self.on(&request, |_, _, _| Ok(Response::new(data::WaitForLsnResponse {})))
    }

    async fn resign_leadership(
        &self,
        request: Request<data::ResignLeadershipRequest>,
    ) -> Answer<data::ResignLeadershipResponse> {
        self.on(&request, |_, shard, name| {
            let leads = shard.leader().is_some_and(|leader| identity::component_id(&leader.id) == name);
            if !leads {
                return Err(Status::failed_precondition("operation not allowed: pooler is not the PRIMARY"));
            }
            shard.resigned = true;
            Ok(Response::new(data::ResignLeadershipResponse { flush_lsn: show_lsn(shard.lsn()) }))
        })
    }

    async fn backup(&self, request: Request<data::BackupRequest>) -> Answer<data::BackupResponse> {
        let (asked, force) = (request.get_ref().clone(), request.get_ref().force_primary);
        self.on(&request, |place, shard, name| {
            let leads = shard.leader().is_some_and(|leader| identity::component_id(&leader.id) == name);
            if leads && !force {
                return Err(Status::failed_precondition(
                    "backups from primary databases are not allowed unless ForcePrimary is set",
                ));
            }
            let kind = match asked.r#type.as_str() {
                "full" => "full",
                "differential" => "diff",
                "incremental" => "incr",
                other => return Err(Status::invalid_argument(format!("invalid backup type: {other}"))),
            };
            shard.backups.push((kind.to_owned(), asked.job_id, SystemTime::now()));
            let backup_id =
                backups(place, shard).into_iter().next_back().map(|backup| backup.backup_id).unwrap_or_default();
            Ok(Response::new(data::BackupResponse { backup_id }))
        })
    }

    async fn get_backups(&self, request: Request<data::GetBackupsRequest>) -> Answer<data::GetBackupsResponse> {
        let limit = usize::try_from(request.get_ref().limit).unwrap_or_default();
        self.on(&request, |place, shard, _| {
            let mut backups = backups(place, shard);
            if limit > 0 {
                backups.truncate(limit);
            }
            Ok(Response::new(data::GetBackupsResponse { backups }))
        })
    }

    async fn get_backup_by_job_id(
        &self,
        request: Request<data::GetBackupByJobIdRequest>,
    ) -> Answer<data::GetBackupByJobIdResponse> {
        let job_id = request.get_ref().job_id.clone();
        self.on(&request, |place, shard, _| {
            let backup = backups(place, shard).into_iter().find(|backup| backup.job_id == job_id);
            Ok(Response::new(data::GetBackupByJobIdResponse { backup }))
        })
    }

    async fn expire_backups(
        &self,
        request: Request<data::ExpireBackupsRequest>,
    ) -> Answer<data::ExpireBackupsResponse> {
        self.on(&request, |_, _, _| Ok(Response::new(data::ExpireBackupsResponse::default())))
    }

    async fn verify_backups(
        &self,
        request: Request<data::VerifyBackupsRequest>,
    ) -> Answer<data::VerifyBackupsResponse> {
        self.on(&request, |_, _, _| Ok(Response::new(data::VerifyBackupsResponse::default())))
    }

    async fn set_postgres_restarts_enabled(
        &self,
        request: Request<data::SetPostgresRestartsEnabledRequest>,
    ) -> Answer<data::SetPostgresRestartsEnabledResponse> {
        self.on(&request, |_, _, _| Ok(Response::new(data::SetPostgresRestartsEnabledResponse {})))
    }

    async fn reload_config(&self, request: Request<data::ReloadConfigRequest>) -> Answer<data::ReloadConfigResponse> {
        self.on(&request, |_, _, _| {
            Ok(Response::new(data::ReloadConfigResponse {
                config_load_time: Some(SystemTime::now().into()),
                ..data::ReloadConfigResponse::default()
            }))
        })
    }
}

#[tonic::async_trait]
impl MultiorchService for Everybody {
    async fn get_shard_status(&self, _: Request<orch::ShardStatusRequest>) -> Answer<orch::ShardStatusResponse> {
        Ok(Response::new(orch::ShardStatusResponse::default()))
    }

    async fn disable_recovery(
        &self,
        _: Request<orch::DisableRecoveryRequest>,
    ) -> Answer<orch::DisableRecoveryResponse> {
        Err(Status::unimplemented("the simulation always recovers"))
    }

    async fn enable_recovery(&self, _: Request<orch::EnableRecoveryRequest>) -> Answer<orch::EnableRecoveryResponse> {
        Ok(Response::new(orch::EnableRecoveryResponse { success: true, message: "recovery enabled".into() }))
    }

    async fn get_recovery_status(
        &self,
        _: Request<orch::GetRecoveryStatusRequest>,
    ) -> Answer<orch::GetRecoveryStatusResponse> {
        Ok(Response::new(orch::GetRecoveryStatusResponse { enabled: true }))
    }

    async fn trigger_recovery_now(
        &self,
        _: Request<orch::TriggerRecoveryNowRequest>,
    ) -> Answer<orch::TriggerRecoveryNowResponse> {
        // Every election that waits for its delay may go ahead.
        self.world(|world| {
            let long_ago = std::time::Instant::now().checked_sub(Duration::from_mins(10));
            let waiting: Vec<Place> = world
                .shards
                .iter_mut()
                .filter(|(_, shard)| shard.leader().is_none())
                .map(|(place, shard)| {
                    shard.leaderless = long_ago.or(shard.leaderless);
                    place.clone()
                })
                .collect();
            world.dirty.extend(waiting);
        });
        Ok(Response::new(orch::TriggerRecoveryNowResponse::default()))
    }
}
