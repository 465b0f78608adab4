//! The calls by which an orchestrator makes a leader: promise, promote, follow, change the cohort.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tonic::{Request, Response, Status};

use super::agent::{Agent, Promise};
use super::manager::internal;
use crate::fault::Fault;
use crate::identity;
use crate::postgres::server::now_ms;
use crate::postgres::wire::{self, Ask};
use crate::proto::clustermetadata::{Id, PoolerPosition, RulePosition, ShardRule, TermRevocation};
use crate::proto::consensus::multipooler_consensus_server::MultipoolerConsensus;
use crate::proto::consensusdata as data;
use crate::proto::multipoolermanagerdata::{RuleOperation, UpdateConsensusRuleRequest, UpdateConsensusRuleResponse};
use crate::quorum;

/// After a promise nobody else gets one for so long.
pub const BACKOFF: Duration = Duration::from_secs(4);

/// How long a rule may take to reach a quorum.
const DURABLE_WITHIN: Duration = Duration::from_secs(8);

/// Serves the calls for one agent.
pub struct Consensus(pub Arc<Agent>);

/// Decides about a request for a promise; yields the promise to keep.
pub fn consider(held: &Promise, asked: &TermRevocation, now: u64) -> Result<Promise, String> {
    let coordinator = asked.accepted_coordinator_id.as_ref().map(|id| (id.cell.clone(), id.name.clone()));
    if asked.revoked_below_term < held.term {
        return Err(format!("term {} is below the promised term {}", asked.revoked_below_term, held.term));
    }
    if asked.revoked_below_term == held.term {
        return if coordinator == held.coordinator {
            Ok(held.clone())
        } else {
            Err(format!("term {} is promised to another coordinator", held.term))
        };
    }
    let age = now.saturating_sub(held.initiated_at);
    if held.term > 0 && coordinator != held.coordinator && u128::from(age) < BACKOFF.as_millis() {
        return Err(format!("a term was accepted {age} ms ago; backing off"));
    }
    Ok(Promise { term: asked.revoked_below_term, coordinator, initiated_at: now })
}

impl Consensus {
    /// Waits until a quorum of the cohort has the primary's log up to `lsn`.
    async fn durable(&self, rule: &ShardRule, lsn: u64) -> Result<(), Status> {
        let Some(policy) = &rule.durability_policy else { return Ok(()) };
        let begun = Instant::now();
        loop {
            let report = self.0.postgres(&Ask::Report).await.map_err(|error| internal(&error))?;
            let have: Vec<Id> = rule
                .cohort_members
                .iter()
                .filter(|id| {
                    **id == self.0.settings.id
                        || report
                            .followers
                            .iter()
                            .any(|follower| follower.flushed >= lsn && follower.name == identity::cluster_name(id))
                })
                .cloned()
                .collect();
            if quorum::satisfied(policy, &have) {
                return Ok(());
            }
            if begun.elapsed() > DURABLE_WITHIN {
                return Err(Status::deadline_exceeded("rule did not reach the durability quorum"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn check_promise(&self, asked: Option<&TermRevocation>) -> Result<(), Status> {
        let asked = asked.ok_or_else(|| Status::invalid_argument("proposal.term_revocation is required"))?;
        let held = self.0.with(|state| state.promise.clone());
        let coordinator = asked.accepted_coordinator_id.as_ref().map(|id| (id.cell.clone(), id.name.clone()));
        if held.term != asked.revoked_below_term || held.coordinator != coordinator {
            return Err(Status::failed_precondition(format!(
                "not recruited for term {}: promised term {}",
                asked.revoked_below_term, held.term
            )));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl MultipoolerConsensus for Consensus {
    async fn recruit(&self, request: Request<data::RecruitRequest>) -> Result<Response<data::RecruitResponse>, Status> {
        self.0.ready()?;
        let asked = request
            .into_inner()
            .term_revocation
            .ok_or_else(|| Status::invalid_argument("term_revocation is required"))?;
        if self.0.with(|state| state.ineligible) {
            return Err(Status::failed_precondition("cohort-ineligible (shutting down); refusing recruitment"));
        }
        if self.0.faults.has(Fault::RefusePromotion) {
            return Err(Status::failed_precondition("recruitment refused on command"));
        }
        let _held = self.0.action_lock.lock().await;
        let report = self.0.postgres(&Ask::Report).await.map_err(|error| internal(&error))?;
        let promise = consider(&self.0.with(|state| state.promise.clone()), &asked, now_ms())
            .map_err(Status::failed_precondition)?;
        self.0.promise(promise).map_err(|error| internal(&error))?;
        // From here on nothing that the old leader writes may count.
        if report.in_recovery {
            self.0.postgres(&Ask::Unfollow).await.map_err(|error| internal(&error))?;
        } else {
            self.0.with(|state| state.divergent = true);
            self.0.postgres(&Ask::Demote { rule: None }).await.map_err(|error| internal(&error))?;
            self.0.record.change(|state| state.primary_by = None);
        }
        Ok(Response::new(data::RecruitResponse { consensus_status: Some(self.0.consensus_status()) }))
    }

    async fn promote(&self, request: Request<data::PromoteRequest>) -> Result<Response<data::PromoteResponse>, Status> {
        self.0.ready()?;
        let proposal = request.into_inner().proposal.ok_or_else(|| Status::invalid_argument("proposal is required"))?;
        let leader = proposal
            .proposal_leader
            .as_ref()
            .and_then(|leader| leader.id.as_ref())
            .ok_or_else(|| Status::invalid_argument("proposal.proposal_leader.id is required"))?;
        if *leader != self.0.settings.id {
            return Err(Status::invalid_argument("proposal_leader is not this pooler"));
        }
        self.check_promise(proposal.term_revocation.as_ref())?;
        let rule = proposal
            .proposed_transition
            .and_then(|position| position.decision.or(position.proposal))
            .ok_or_else(|| Status::invalid_argument("proposal.proposed_rule is required"))?;
        if self.0.faults.has(Fault::RefusePromotion) {
            return Err(Status::failed_precondition("promotion refused on command"));
        }
        let _held = self.0.action_lock.lock().await;
        if !self.0.data.exists() {
            return Err(Status::failed_precondition("cannot promote: no data directory"));
        }
        let before = self.0.postgres(&Ask::Report).await.map_err(|error| internal(&error))?;
        let report = self
            .0
            .postgres(&Ask::Promote { rule: wire::encode_rule(&rule) })
            .await
            .map_err(|error| internal(&error))?;
        if let Err(error) = self.durable(&rule, report.lsn).await {
            self.0.postgres(&Ask::Demote { rule: Some(before.rule) }).await.map_err(|error| internal(&error))?;
            return Err(error);
        }
        self.0.with(|state| state.resigned_term = 0);
        self.0.become_primary(rule.rule_number.unwrap_or_default());
        Ok(Response::new(data::PromoteResponse { consensus_status: Some(self.0.consensus_status()) }))
    }

    async fn set_primary(
        &self,
        request: Request<data::SetPrimaryRequest>,
    ) -> Result<Response<data::SetPrimaryResponse>, Status> {
        self.0.ready()?;
        let told = request
            .into_inner()
            .replication_primary
            .ok_or_else(|| Status::invalid_argument("replication_primary is required"))?;
        let primary =
            told.primary.ok_or_else(|| Status::invalid_argument("replication_primary.primary is required"))?;
        let position =
            told.position.ok_or_else(|| Status::invalid_argument("replication_primary.position is required"))?;
        let rule = position.decision.or(position.proposal).unwrap_or_default();
        if rule.leader_id.is_none() {
            return Err(Status::invalid_argument("rule.leader_id is required"));
        }
        if primary.host.is_empty() {
            return Err(Status::invalid_argument("leader host is required"));
        }
        if primary.id.as_ref() == Some(&self.0.settings.id) {
            return Err(Status::invalid_argument("this pooler is the leader"));
        }
        let term = rule.rule_number.map_or(0, |number| number.coordinator_term);
        let promised = self.0.with(|state| state.promise.term);
        if term < promised {
            return Err(Status::failed_precondition(format!(
                "rule of term {term} is below the promised term {promised}"
            )));
        }
        let _held = self.0.action_lock.lock().await;
        let report = self.0.postgres(&Ask::Report).await.map_err(|error| internal(&error))?;
        if !report.in_recovery {
            let own = self.0.rule().and_then(|rule| rule.rule_number).map_or(0, |number| number.coordinator_term);
            if own >= term {
                return Err(Status::failed_precondition("this pooler leads by a rule that is not older"));
            }
            self.0.postgres(&Ask::Demote { rule: None }).await.map_err(|error| internal(&error))?;
            self.0.record.change(|state| state.primary_by = None);
        }
        let port = u16::try_from(primary.postgres_port)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| Status::invalid_argument("leader postgres port is required"))?;
        if !self.0.faults.has(Fault::StopReplication) {
            let name = identity::cluster_name(&self.0.settings.id);
            self.0.postgres(&Ask::Follow { host: primary.host, port, name }).await.map_err(|error| internal(&error))?;
        }
        Ok(Response::new(data::SetPrimaryResponse { consensus_status: Some(self.0.consensus_status()) }))
    }

    async fn update_consensus_rule(
        &self,
        request: Request<UpdateConsensusRuleRequest>,
    ) -> Result<Response<UpdateConsensusRuleResponse>, Status> {
        self.0.ready()?;
        let request = request.into_inner();
        let _held = self.0.action_lock.lock().await;
        let Some(number) = self.0.record.state().primary_by else {
            return Err(Status::failed_precondition("operation not allowed: pooler is not the PRIMARY"));
        };
        let old = self.0.rule().unwrap_or_default();
        if request.expected_outgoing_rule != old.rule_number {
            return Err(Status::failed_precondition("the rule changed in between"));
        }
        let mut rule = old.clone();
        match request.operation() {
            RuleOperation::CohortAdd => {
                rule.cohort_members
                    .extend(request.standby_ids.into_iter().filter(|id| !old.cohort_members.contains(id)));
            }
            RuleOperation::CohortRemove => rule.cohort_members.retain(|id| !request.standby_ids.contains(id)),
            RuleOperation::Advance => {}
            RuleOperation::Unspecified => return Err(Status::invalid_argument("operation must be specified")),
        }
        let mut next = number;
        next.leader_subterm += 1;
        rule.rule_number = Some(next);
        rule.coordinator_id = request.coordinator_id;
        rule.creation_time = Some(SystemTime::now().into());
        let report = self
            .0
            .postgres(&Ask::WriteRule { rule: wire::encode_rule(&rule) })
            .await
            .map_err(|error| internal(&error))?;
        if let Err(error) = self.durable(&rule, report.lsn).await {
            self.0
                .postgres(&Ask::WriteRule { rule: wire::encode_rule(&old) })
                .await
                .map_err(|error| internal(&error))?;
            return Err(error);
        }
        self.0.become_primary(next);
        let position = RulePosition { decision: Some(rule), proposal: None };
        Ok(Response::new(UpdateConsensusRuleResponse {
            current_position: Some(PoolerPosition { position: Some(position), lsn: wire::show_lsn(report.lsn) }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::clustermetadata::id::ComponentType::Multiorch;

    fn asked(term: i64, name: &str) -> TermRevocation {
        TermRevocation {
            revoked_below_term: term,
            accepted_coordinator_id: Some(identity::id(Multiorch, "a", name)),
            ..TermRevocation::default()
        }
    }

    #[test]
    fn a_promise_is_given_once_per_term() {
        let first = consider(&Promise::default(), &asked(1, "x"), 1_000).unwrap();
        assert_eq!(first.term, 1);
        assert_eq!(consider(&first, &asked(1, "x"), 2_000).unwrap(), first, "the same coordinator may ask again");
        assert!(consider(&first, &asked(1, "y"), 90_000).is_err());
        assert!(consider(&first, &asked(0, "x"), 90_000).is_err());
    }

    #[test]
    fn another_coordinator_has_to_wait() {
        let first = consider(&Promise::default(), &asked(1, "x"), 1_000).unwrap();
        assert!(consider(&first, &asked(2, "y"), 4_000).is_err());
        assert!(consider(&first, &asked(2, "y"), 5_001).is_ok());
        assert!(consider(&first, &asked(2, "x"), 1_001).is_ok());
    }
}
