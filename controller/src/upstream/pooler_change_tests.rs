//! Calls that change something, against a server in this process that is as strict as the data plane.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use rstest::rstest;
use tokio::{net::TcpListener, sync::oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::*;
use crate::upstream::pb::{
    consensus::multipooler_consensus_server::{MultipoolerConsensus, MultipoolerConsensusServer},
    multiorch::multiorch_service_server::{MultiorchService, MultiorchServiceServer},
    multipoolermanager::multipooler_manager_server::{MultipoolerManager, MultipoolerManagerServer},
};

/// The rule of a shard, and how often orchestrators were hurried.
#[derive(Clone, Default)]
struct Plane {
    rule: Arc<Mutex<meta::ShardRule>>,
    cycles: Arc<Mutex<Vec<u32>>>,
    reload: Arc<Mutex<data::ReloadConfigResponse>>,
    resigned: Arc<Mutex<bool>>,
    /// Changes the rule between the question and the answer.
    races: bool,
    /// Accepts a removal and forgets it.
    forgets: bool,
}

fn member(name: &str) -> meta::Id {
    meta::Id { component: 1, cell: "z".to_owned(), name: name.to_owned() }
}

fn position(rule: meta::ShardRule) -> meta::PoolerPosition {
    meta::PoolerPosition {
        position: Some(meta::RulePosition { decision: Some(rule), proposal: None }),
        lsn: "0/10".to_owned(),
    }
}

#[tonic::async_trait]
impl MultipoolerManager for Plane {
    async fn status(&self, _: Request<data::StatusRequest>) -> Result<Response<data::StatusResponse>, Status> {
        let rule = self.rule.lock().unwrap().clone();
        if self.races {
            self.rule.lock().unwrap().rule_number = Some(meta::RuleNumber { coordinator_term: 9, leader_subterm: 0 });
        }
        Ok(Response::new(data::StatusResponse {
            status: Some(data::Status::default()),
            consensus_status: Some(meta::ConsensusStatus {
                current_position: Some(position(rule)),
                ..meta::ConsensusStatus::default()
            }),
            availability_status: None,
        }))
    }

    async fn resign_leadership(
        &self,
        _: Request<data::ResignLeadershipRequest>,
    ) -> Result<Response<data::ResignLeadershipResponse>, Status> {
        let mut resigned = self.resigned.lock().unwrap();
        if *resigned {
            return Err(Status::failed_precondition("operation not allowed: pooler is not the PRIMARY"));
        }
        *resigned = true;
        Ok(Response::new(data::ResignLeadershipResponse { flush_lsn: "0/10".to_owned() }))
    }

    async fn reload_config(
        &self,
        request: Request<data::ReloadConfigRequest>,
    ) -> Result<Response<data::ReloadConfigResponse>, Status> {
        assert_eq!(request.into_inner().expected_settings["work_mem"], "9MB");
        Ok(Response::new(self.reload.lock().unwrap().clone()))
    }

    async fn get_backups(
        &self,
        request: Request<data::GetBackupsRequest>,
    ) -> Result<Response<data::GetBackupsResponse>, Status> {
        assert_eq!(request.into_inner().limit, 0, "a limit would hide the newest");
        let backup = |status: data::backup_metadata::Status| data::BackupMetadata {
            status: status.into(),
            ..data::BackupMetadata::default()
        };
        let backups = vec![
            backup(data::backup_metadata::Status::Complete),
            backup(data::backup_metadata::Status::Incomplete),
            backup(data::backup_metadata::Status::Complete),
        ];
        Ok(Response::new(data::GetBackupsResponse { backups }))
    }
}

#[tonic::async_trait]
impl MultipoolerConsensus for Plane {
    async fn update_consensus_rule(
        &self,
        request: Request<data::UpdateConsensusRuleRequest>,
    ) -> Result<Response<data::UpdateConsensusRuleResponse>, Status> {
        let request = request.into_inner();
        let mut rule = self.rule.lock().unwrap();
        if request.expected_outgoing_rule != rule.rule_number {
            return Err(Status::failed_precondition("the rule changed in between"));
        }
        assert_eq!(request.operation(), data::RuleOperation::CohortRemove);
        assert_eq!(request.coordinator_id, rule.coordinator_id, "the coordinator stays");
        if !self.forgets {
            rule.cohort_members.retain(|id| !request.standby_ids.contains(id));
        }
        rule.rule_number = rule.rule_number.map(|number| meta::RuleNumber { leader_subterm: 1, ..number });
        Ok(Response::new(data::UpdateConsensusRuleResponse { current_position: Some(position(rule.clone())) }))
    }
}

#[tonic::async_trait]
impl MultiorchService for Plane {
    async fn trigger_recovery_now(
        &self,
        request: Request<orch::TriggerRecoveryNowRequest>,
    ) -> Result<Response<orch::TriggerRecoveryNowResponse>, Status> {
        self.cycles.lock().unwrap().push(request.into_inner().max_cycles);
        Ok(Response::new(orch::TriggerRecoveryNowResponse::default()))
    }
}

fn plane() -> Plane {
    let rule = meta::ShardRule {
        rule_number: Some(meta::RuleNumber { coordinator_term: 3, leader_subterm: 0 }),
        cohort_members: ["a", "b", "c"].map(member).to_vec(),
        coordinator_id: Some(meta::Id { component: 2, cell: "z".to_owned(), name: "orch".to_owned() }),
        ..meta::ShardRule::default()
    };
    Plane { rule: Arc::new(Mutex::new(rule)), ..Plane::default() }
}

async fn serve(plane: &Plane) -> (PoolerAddress, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder()
        .add_service(MultipoolerManagerServer::new(plane.clone()))
        .add_service(MultipoolerConsensusServer::new(plane.clone()))
        .add_service(MultiorchServiceServer::new(plane.clone()));
    tokio::spawn(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
        let _ = stopped.await;
    }));
    (PoolerAddress::new(socket.ip().to_string(), socket.port()), stop)
}

fn client() -> GrpcPooler {
    GrpcPooler::new(Limits::default())
}

#[tokio::test]
async fn a_member_leaves_the_cohort_by_the_rule_that_is_in_force() {
    let plane = plane();
    let (address, _stop) = serve(&plane).await;
    let poolers = client();
    poolers.leave_cohort(&address, &PoolerId::new("z", "b")).await.unwrap();
    let left: Vec<String> = plane.rule.lock().unwrap().cohort_members.iter().map(|id| id.name.clone()).collect();
    assert_eq!(left, ["a", "c"]);
    poolers.leave_cohort(&address, &PoolerId::new("z", "b")).await.unwrap();
    assert_eq!(plane.rule.lock().unwrap().rule_number.unwrap().leader_subterm, 1, "the second time nothing was sent");
}

#[tokio::test]
async fn a_rule_that_changes_in_between_refuses_the_removal() {
    let plane = Plane { races: true, ..plane() };
    let (address, _stop) = serve(&plane).await;
    let error = client().leave_cohort(&address, &PoolerId::new("z", "b")).await.unwrap_err();
    assert_eq!(error.reason(), "Failed");
    assert_eq!(plane.rule.lock().unwrap().cohort_members.len(), 3);
}

#[tokio::test]
async fn a_removal_that_is_not_in_the_new_rule_has_failed() {
    let plane = Plane { forgets: true, ..plane() };
    let (address, _stop) = serve(&plane).await;
    let error = client().leave_cohort(&address, &PoolerId::new("z", "b")).await.unwrap_err();
    assert!(error.to_string().contains("still counts z_b"), "{error}");
}

#[tokio::test]
async fn a_standby_has_nothing_to_resign() {
    let plane = plane();
    let (address, _stop) = serve(&plane).await;
    let poolers = client();
    poolers.resign(&address).await.unwrap();
    assert_eq!(poolers.resign(&address).await.unwrap_err().reason(), "Failed");
}

#[tokio::test]
async fn an_orchestrator_runs_one_cycle() {
    let plane = plane();
    let (address, _stop) = serve(&plane).await;
    client().hasten(&address).await.unwrap();
    assert_eq!(*plane.cycles.lock().unwrap(), [1]);
}

#[tokio::test]
async fn only_complete_backups_count() {
    let plane = plane();
    let (address, _stop) = serve(&plane).await;
    assert_eq!(client().complete_backups(&address).await.unwrap(), 2);
}

#[rstest]
#[case::done(true, &[], false, Reloaded::Done)]
#[case::not_synced(false, &["work_mem"], false, Reloaded::Pending(vec!["work_mem".to_owned()]))]
#[case::not_running(false, &[], false, Reloaded::Pending(Vec::new()))]
#[case::restart(true, &["wal_level"], true, Reloaded::NeedsRestart(vec!["wal_level".to_owned()]))]
#[tokio::test]
async fn a_reload_is_believed_only_with_its_time(
    #[case] loaded: bool,
    #[case] mismatches: &[&str],
    #[case] needs_restart: bool,
    #[case] expected: Reloaded,
) {
    let plane = plane();
    *plane.reload.lock().unwrap() = data::ReloadConfigResponse {
        config_load_time: loaded.then_some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        mismatches: mismatches
            .iter()
            .map(|name| data::SettingMismatch { name: (*name).to_owned(), ..data::SettingMismatch::default() })
            .collect(),
        needs_restart,
    };
    let (address, _stop) = serve(&plane).await;
    let settings = BTreeMap::from([("work_mem".to_owned(), "9MB".to_owned())]);
    assert_eq!(client().reload(&address, &settings).await.unwrap(), expected);
}
