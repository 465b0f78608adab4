//! The orchestrator's own calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tonic::{Request, Response, Status};

use super::recovery::Shard;
use crate::proto::clustermetadata::ShardKey;
use crate::proto::multiorch as data;
use crate::proto::multiorch::multiorch_service_server::MultiorchService;

/// Knows the shards under its care.
#[derive(Default)]
pub struct Orchestrator {
    shards: Mutex<Vec<Arc<Shard>>>,
    disabled: AtomicBool,
}

impl Orchestrator {
    /// Takes a shard under its care.
    pub fn adopt(&self, shard: Arc<Shard>) {
        if let Ok(mut shards) = self.shards.lock() {
            shards.push(shard);
        }
    }

    /// Whether recovery runs.
    pub fn is_enabled(&self) -> bool {
        !self.disabled.load(Ordering::Relaxed)
    }

    fn shards(&self) -> Vec<Arc<Shard>> {
        self.shards.lock().map(|shards| shards.clone()).unwrap_or_default()
    }

    fn shard(&self, key: &ShardKey) -> Option<Arc<Shard>> {
        self.shards().into_iter().find(|shard| shard.key == *key)
    }
}

#[tonic::async_trait]
impl MultiorchService for Orchestrator {
    async fn get_shard_status(
        &self,
        request: Request<data::ShardStatusRequest>,
    ) -> Result<Response<data::ShardStatusResponse>, Status> {
        let key = request.into_inner().shard_key.ok_or_else(|| Status::invalid_argument("shard_key is required"))?;
        let shard = self.shard(&key).ok_or_else(|| Status::not_found("shard is not watched or has no pooler"))?;
        let (problems, observed) = shard.view();
        let problems = problems
            .into_iter()
            .map(|problem| data::DetectedProblem {
                code: problem.code.to_owned(),
                check_name: problem.code.to_owned(),
                scope: if problem.pooler.is_some() { "Pooler" } else { "Shard" }.to_owned(),
                pooler_id: problem.pooler,
                shard_key: Some(key.clone()),
                description: problem.description,
                priority: 0,
                detected_at: Some(std::time::SystemTime::now().into()),
            })
            .collect();
        let pooler_healths = observed
            .into_iter()
            .map(|pooler| {
                let status = pooler.status.as_ref().and_then(|answer| answer.status.clone()).unwrap_or_default();
                data::PoolerHealth {
                    pooler_id: Some(pooler.id()),
                    stream_connected: pooler.silent_since.is_none(),
                    postgres_running: status.postgres_running,
                    pooler_type: status.pooler_type().as_str_name().to_owned(),
                    last_seen: pooler.silent_since.is_none().then(|| std::time::SystemTime::now().into()),
                    postgres_ready: status.postgres_ready,
                }
            })
            .collect();
        Ok(Response::new(data::ShardStatusResponse { problems, pooler_healths }))
    }

    async fn disable_recovery(
        &self,
        _: Request<data::DisableRecoveryRequest>,
    ) -> Result<Response<data::DisableRecoveryResponse>, Status> {
        self.disabled.store(true, Ordering::Relaxed);
        Ok(Response::new(data::DisableRecoveryResponse { success: true, message: "recovery disabled".into() }))
    }

    async fn enable_recovery(
        &self,
        _: Request<data::EnableRecoveryRequest>,
    ) -> Result<Response<data::EnableRecoveryResponse>, Status> {
        self.disabled.store(false, Ordering::Relaxed);
        Ok(Response::new(data::EnableRecoveryResponse { success: true, message: "recovery enabled".into() }))
    }

    async fn get_recovery_status(
        &self,
        _: Request<data::GetRecoveryStatusRequest>,
    ) -> Result<Response<data::GetRecoveryStatusResponse>, Status> {
        Ok(Response::new(data::GetRecoveryStatusResponse { enabled: self.is_enabled() }))
    }

    async fn trigger_recovery_now(
        &self,
        request: Request<data::TriggerRecoveryNowRequest>,
    ) -> Result<Response<data::TriggerRecoveryNowResponse>, Status> {
        let cycles = request.into_inner().max_cycles;
        if cycles > 1 {
            return Err(Status::invalid_argument(format!(
                "max_cycles must be 0 (unlimited) or 1 (single cycle), got {cycles}"
            )));
        }
        let begun = Instant::now();
        loop {
            let mut left = Vec::new();
            for shard in self.shards() {
                shard.expire_grace();
                left.extend(shard.run_cycle(true).await);
            }
            if cycles == 1 || left.is_empty() || begun.elapsed() > Duration::from_secs(25) {
                let remaining_problem_codes = left.into_iter().map(|problem| problem.code.to_owned()).collect();
                return Ok(Response::new(data::TriggerRecoveryNowResponse { remaining_problem_codes }));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
