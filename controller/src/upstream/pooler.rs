//! The services of poolers and orchestrators over gRPC: one lazily connected channel per address, one deadline per call.

use std::{collections::BTreeMap, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, timeout};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};

use super::{
    CHANGE_DEADLINE, Error, Limits, MAX_DEADLINE, Orchestrator, Pooler, PoolerAddress, PoolerId, PoolerStatus,
    RESIGN_DEADLINE, Reloaded, Result,
    codec::pooler_id,
    error,
    idle::IdleCache,
    pb::{
        clustermetadata as meta,
        consensus::multipooler_consensus_client::MultipoolerConsensusClient,
        multiorch::{self as orch, multiorch_service_client::MultiorchServiceClient},
        multipoolermanager::multipooler_manager_client::MultipoolerManagerClient,
        multipoolermanagerdata as data,
    },
};

/// A pod that does not accept within this time is not there.
const CONNECT: Duration = Duration::from_secs(2);
/// A dead peer is noticed by its silence while a request is open.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// [`Pooler`] and [`Orchestrator`] over gRPC.
pub struct GrpcPooler {
    channels: IdleCache<PoolerAddress, Channel>,
}

impl GrpcPooler {
    /// No connection is made before the first call.
    pub fn new(limits: Limits) -> Self {
        Self { channels: IdleCache::new(limits.poolers, limits.idle) }
    }

    /// Drops idle connections.
    pub fn sweep(&self) {
        self.channels.sweep();
    }

    /// The channel to an address. Other certificates make another address, and so a channel of its own.
    fn channel(&self, address: &PoolerAddress) -> Result<Channel> {
        if let Some(channel) = self.channels.get(address) {
            return Ok(channel);
        }
        let scheme = if address.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(|cause| Error::Invalid { what: address.to_string(), detail: error::chain(&cause) })?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1);
        if let Some(tls) = &address.tls {
            let target = address.to_string();
            endpoint = endpoint
                .tls_config(tls.options(&target)?)
                .map_err(|cause| Error::NoCredentials { detail: error::chain(&cause), target })?;
        }
        Ok(self.channels.get_or_insert(address, || endpoint.connect_lazy()))
    }
}

impl GrpcPooler {
    /// Makes one call. `act` gets a channel and the deadline to send along, so that the server stops working for nobody.
    pub(super) async fn call<T, F>(
        &self,
        address: &PoolerAddress,
        deadline: Duration,
        act: impl FnOnce(Channel) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let answer = self.call_raw(address, deadline, act).await?;
        answer.map_err(|status| Error::from_grpc(&address.to_string(), &status, deadline))
    }

    /// The same for who wants to read the answer of a server that refuses.
    pub(super) async fn call_raw<T, F>(
        &self,
        address: &PoolerAddress,
        deadline: Duration,
        act: impl FnOnce(Channel) -> F,
    ) -> Result<Result<T, Status>>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let channel = self.channel(address)?;
        let started = Instant::now();
        let target = address.to_string();
        match timeout(deadline, act(channel)).await {
            Ok(Ok(response)) => Ok(Ok(response.into_inner())),
            Ok(Err(status)) if started.elapsed() < deadline => Ok(Err(status)),
            Ok(Err(_)) | Err(_) => {
                // The name may lead to another pod by now: the next call dials anew.
                self.channels.remove(address);
                Err(Error::Slow { target, after: deadline })
            }
        }
    }

    async fn ask(&self, address: &PoolerAddress, deadline: Duration) -> Result<data::StatusResponse> {
        let request = within(data::StatusRequest {}, deadline);
        self.call(address, deadline, |channel| async move { manager(channel).status(request).await }).await
    }

    async fn remove_member(&self, primary: &PoolerAddress, member: &PoolerId) -> Result<()> {
        let answer = self.ask(primary, MAX_DEADLINE).await?;
        let rule = answer
            .consensus_status
            .and_then(|status| status.current_position?.position?.decision)
            .ok_or_else(|| Error::Failed { target: primary.to_string(), detail: "it tells no rule".to_owned() })?;
        let is_member = |id: &&meta::Id| pooler_id(id).as_ref() == Some(member);
        let Some(standby) = rule.cohort_members.iter().find(is_member).cloned() else { return Ok(()) };
        let request = data::UpdateConsensusRuleRequest {
            operation: data::RuleOperation::CohortRemove.into(),
            standby_ids: vec![standby],
            expected_outgoing_rule: rule.rule_number,
            coordinator_id: rule.coordinator_id,
        };
        let request = within(request, CHANGE_DEADLINE);
        let answer = self
            .call(primary, CHANGE_DEADLINE, |channel| async move {
                MultipoolerConsensusClient::new(channel).update_consensus_rule(request).await
            })
            .await?;
        let rule = answer.current_position.and_then(|position| position.position?.decision);
        if rule.is_some_and(|rule| !rule.cohort_members.iter().any(|id| pooler_id(id).as_ref() == Some(member))) {
            return Ok(());
        }
        Err(Error::Failed { target: primary.to_string(), detail: format!("its new rule still counts {member}") })
    }
}

pub(super) fn manager(channel: Channel) -> MultipoolerManagerClient<Channel> {
    MultipoolerManagerClient::new(channel)
}

pub(super) fn within<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

impl Pooler for GrpcPooler {
    fn status<'a>(&'a self, address: &'a PoolerAddress, deadline: Duration) -> BoxFuture<'a, Result<PoolerStatus>> {
        async move {
            let response = self.ask(address, deadline.min(MAX_DEADLINE)).await?;
            PoolerStatus::from_response(response).ok_or_else(|| Error::Unavailable {
                target: address.to_string(),
                detail: "it answers without a status".to_owned(),
            })
        }
        .boxed()
    }

    fn resign<'a>(&'a self, primary: &'a PoolerAddress) -> BoxFuture<'a, Result<()>> {
        async move {
            let request = within(data::ResignLeadershipRequest {}, RESIGN_DEADLINE);
            self.call(
                primary,
                RESIGN_DEADLINE,
                |channel| async move { manager(channel).resign_leadership(request).await },
            )
            .await
            .map(drop)
        }
        .boxed()
    }

    fn leave_cohort<'a>(&'a self, primary: &'a PoolerAddress, member: &'a PoolerId) -> BoxFuture<'a, Result<()>> {
        self.remove_member(primary, member).boxed()
    }

    fn reload<'a>(
        &'a self,
        address: &'a PoolerAddress,
        expected: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<Reloaded>> {
        async move {
            let settings = expected.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            let request = within(data::ReloadConfigRequest { expected_settings: settings }, CHANGE_DEADLINE);
            let answer = self
                .call(address, CHANGE_DEADLINE, |channel| async move { manager(channel).reload_config(request).await })
                .await?;
            let names = |all: Vec<data::SettingMismatch>| all.into_iter().map(|mismatch| mismatch.name).collect();
            Ok(if answer.needs_restart {
                Reloaded::NeedsRestart(names(answer.mismatches))
            } else if answer.config_load_time.is_some() {
                Reloaded::Done
            } else {
                Reloaded::Pending(names(answer.mismatches))
            })
        }
        .boxed()
    }

    fn complete_backups<'a>(&'a self, address: &'a PoolerAddress) -> BoxFuture<'a, Result<usize>> {
        async move {
            let request = within(data::GetBackupsRequest { limit: 0 }, CHANGE_DEADLINE);
            let answer = self
                .call(address, CHANGE_DEADLINE, |channel| async move { manager(channel).get_backups(request).await })
                .await?;
            let complete = data::backup_metadata::Status::Complete;
            Ok(answer.backups.iter().filter(|backup| backup.status() == complete).count())
        }
        .boxed()
    }
}

impl Orchestrator for GrpcPooler {
    fn hasten<'a>(&'a self, address: &'a PoolerAddress) -> BoxFuture<'a, Result<()>> {
        async move {
            let request = within(orch::TriggerRecoveryNowRequest { max_cycles: 1 }, MAX_DEADLINE);
            self.call(address, MAX_DEADLINE, |channel| async move {
                MultiorchServiceClient::new(channel).trigger_recovery_now(request).await
            })
            .await
            .map(drop)
        }
        .boxed()
    }
}

#[cfg(test)]
#[path = "pooler_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "pooler_change_tests.rs"]
mod change_tests;

#[cfg(test)]
#[path = "pooler_tls_tests.rs"]
mod tls_tests;
