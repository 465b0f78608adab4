//! Observing the poolers of a shard, and carrying out what was decided.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use prost::Message as _;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::decision::{self, Observed, Problem, Situation, Step};
use crate::fault::{Fault, Faults};
use crate::identity;
use crate::proto::clustermetadata::{
    Id, Multipooler, PoolerAddress, PoolerLifecycleStatus, ReplicationPrimary, RuleNumber, RulePosition,
    ShardInitClaim, ShardKey, ShardRule, TermRevocation,
};
use crate::proto::consensus::multipooler_consensus_client::MultipoolerConsensusClient;
use crate::proto::consensusdata::{CoordinatorProposal, PromoteRequest, RecruitRequest, SetPrimaryRequest};
use crate::proto::multipoolermanager::multipooler_manager_client::MultipoolerManagerClient;
use crate::proto::multipoolermanagerdata::{RuleOperation, StatusRequest, StatusResponse, UpdateConsensusRuleRequest};
use crate::quorum;
use crate::tls::PoolerDialer;
use crate::topology::{Store, key};

/// The timings of an orchestrator.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The wait before a new leader is made.
    pub grace_base: Duration,
    /// What is added to it at most, by lot.
    pub grace_jitter: Duration,
    /// How long a silent leader with streaming standbys is trusted.
    pub trust: Duration,
    /// After how long the record of a stopped pooler is deleted.
    pub forget: Duration,
}

/// The recovery of one shard.
pub struct Shard {
    /// Which shard.
    pub key: ShardKey,
    me: Id,
    store: Store,
    dialer: PoolerDialer,
    faults: Faults,
    timing: Timing,
    poolers: watch::Receiver<BTreeMap<String, Multipooler>>,
    cycle: tokio::sync::Mutex<()>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    contacts: BTreeMap<String, Contact>,
    deadline: Option<Instant>,
    problems: Vec<Problem>,
    observed: Vec<Observed>,
}

struct Contact {
    address: (String, i32),
    channel: Channel,
    status: Option<StatusResponse>,
    silent_since: Option<Instant>,
}

impl Shard {
    /// A shard that nothing is known of yet.
    pub fn new(
        key: ShardKey,
        me: Id,
        store: Store,
        dialer: PoolerDialer,
        faults: Faults,
        timing: Timing,
        poolers: watch::Receiver<BTreeMap<String, Multipooler>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            key,
            me,
            store,
            dialer,
            faults,
            timing,
            poolers,
            cycle: tokio::sync::Mutex::default(),
            memory: Mutex::default(),
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memory = self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut memory)
    }

    /// The problems of the last cycle and what they rest on.
    pub fn view(&self) -> (Vec<Problem>, Vec<Observed>) {
        self.with(|memory| (memory.problems.clone(), memory.observed.clone()))
    }

    /// Lets every waiting repair go ahead.
    pub fn expire_grace(&self) {
        self.with(|memory| memory.deadline = Some(Instant::now()));
    }

    /// Observes, decides and repairs once; the result is what is left.
    pub async fn run_cycle(&self, hurry: bool) -> Vec<Problem> {
        let _held = self.cycle.lock().await;
        let observed = self.observe().await;
        let found = self.decide(&observed).await;
        self.with(|memory| {
            memory.problems.clone_from(&found);
            memory.observed.clone_from(&observed);
        });
        let urgent = found.iter().any(|problem| matches!(problem.step, Some(Step::Appoint { .. })));
        if !urgent {
            self.with(|memory| memory.deadline = None);
        }
        let mut left = Vec::new();
        for problem in found {
            match &problem.step {
                Some(step) if self.may_act(step, hurry) => match self.act(step, &observed).await {
                    Ok(()) => tracing::info!(code = problem.code, "repaired"),
                    Err(error) => {
                        tracing::warn!(code = problem.code, error = format!("{error:#}"), "repair failed");
                        left.push(problem);
                    }
                },
                _ => left.push(problem),
            }
        }
        left
    }

    fn may_act(&self, step: &Step, hurry: bool) -> bool {
        if self.faults.has(Fault::RefusePromotion) && matches!(step, Step::Appoint { .. } | Step::Initialize { .. }) {
            return false;
        }
        if !matches!(step, Step::Appoint { .. }) || hurry {
            return true;
        }
        self.with(|memory| {
            let now = Instant::now();
            now >= *memory.deadline.get_or_insert_with(|| {
                let jitter = self.timing.grace_jitter.mul_f64(rand::random_range(0.0..1.0));
                now + self.timing.grace_base + jitter
            })
        })
    }

    async fn decide(&self, observed: &[Observed]) -> Vec<Problem> {
        let started = observed.iter().any(|pooler| pooler.rule().is_some());
        let (mut policy, mut claim) = (None, None);
        if !started {
            policy = match self.store.database(&self.key.database).await {
                Ok(database) => database.and_then(|database| database.bootstrap_durability_policy),
                Err(_) => None,
            };
            claim = self.store.claim(&self.key).await.unwrap_or_default();
        }
        decision::problems(&Situation {
            poolers: observed,
            policy: policy.as_ref(),
            claim: claim.as_ref(),
            me: &self.me,
            trust: self.timing.trust,
            now: Instant::now(),
        })
    }

    /// Asks every pooler of the shard that is not stopped.
    async fn observe(&self) -> Vec<Observed> {
        let records: Vec<(String, Multipooler)> = self
            .poolers
            .borrow()
            .iter()
            .filter(|(_, record)| record.shard_key.as_ref() == Some(&self.key))
            .map(|(name, record)| (name.clone(), record.clone()))
            .collect();
        let questions = records.iter().map(|(name, record)| async move {
            if is_stopped(record) {
                return (name.clone(), None);
            }
            (name.clone(), Some(self.ask(name, record).await))
        });
        let answers = futures::future::join_all(questions).await;
        self.with(|memory| {
            memory.contacts.retain(|name, _| records.iter().any(|(known, _)| known == name));
            for (name, answer) in answers {
                let Some(contact) = memory.contacts.get_mut(&name) else { continue };
                match answer {
                    Some(Ok(status)) => {
                        contact.status = Some(status);
                        contact.silent_since = None;
                    }
                    _ => {
                        contact.silent_since.get_or_insert_with(Instant::now);
                    }
                }
            }
            records
                .into_iter()
                .map(|(name, record)| {
                    let contact = memory.contacts.get(&name);
                    Observed {
                        record,
                        status: contact.and_then(|contact| contact.status.clone()),
                        silent_since: contact.map_or(Some(Instant::now()), |contact| contact.silent_since),
                    }
                })
                .collect()
        })
    }

    async fn ask(&self, name: &str, record: &Multipooler) -> Result<StatusResponse> {
        let channel = self.channel(name, record)?;
        let mut client = MultipoolerManagerClient::new(channel);
        let mut last = anyhow!("no answer");
        // A single lost call must not look like a lost leader.
        for _ in 0..2 {
            match tokio::time::timeout(Duration::from_millis(1500), client.status(StatusRequest {})).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => last = anyhow!("{}", status.message()),
                Err(_) => last = anyhow!("timed out"),
            }
        }
        Err(last)
    }

    fn channel(&self, name: &str, record: &Multipooler) -> Result<Channel> {
        let port = record.port_map.get("grpc").copied().unwrap_or_default();
        let address = (record.hostname.clone(), port);
        self.with(|memory| {
            if let Some(contact) = memory.contacts.get(name)
                && contact.address == address
            {
                return Ok(contact.channel.clone());
            }
            let channel = self.dialer.dial(record)?;
            let status = memory.contacts.remove(name).and_then(|contact| contact.status);
            memory
                .contacts
                .insert(name.to_owned(), Contact { address, channel: channel.clone(), status, silent_since: None });
            Ok(channel)
        })
    }

    async fn act(&self, step: &Step, observed: &[Observed]) -> Result<()> {
        match step {
            Step::Initialize { cohort } => self.initialize(cohort, observed).await,
            Step::Appoint { outgoing } => {
                let rule = ShardRule { cohort_members: outgoing.cohort_members.clone(), ..outgoing.clone() };
                self.appoint(&rule, outgoing.leader_id.as_ref(), observed).await
            }
            Step::Follow { standby, leader } => {
                let leader = find(observed, leader)?;
                let rule = leader.rule().cloned().ok_or_else(|| anyhow!("the leader has no rule"))?;
                self.set_primary(find(observed, standby)?, leader, &rule).await
            }
            Step::Add { leader, members } => {
                self.update(find(observed, leader)?, RuleOperation::CohortAdd, members).await
            }
            Step::Remove { leader, members } => {
                self.update(find(observed, leader)?, RuleOperation::CohortRemove, members).await
            }
        }
    }

    async fn initialize(&self, cohort: &[Id], observed: &[Observed]) -> Result<()> {
        let database = self.store.database(&self.key.database).await?.context("the database is gone")?;
        let policy = database.bootstrap_durability_policy.context("the database has no durability policy")?;
        let claim = ShardInitClaim { claimer_id: Some(self.me.clone()), cohort_members: cohort.to_vec() };
        let path = key::claim(&self.key);
        if !self.store.global.swap(&path, claim.encode_to_vec(), 0).await? {
            let held = self.store.claim(&self.key).await?.context("the claim vanished")?;
            if held.claimer_id.as_ref() != Some(&self.me) {
                bail!("another orchestrator claimed the shard");
            }
        }
        let rule =
            ShardRule { cohort_members: cohort.to_vec(), durability_policy: Some(policy), ..ShardRule::default() };
        self.appoint(&rule, None, observed).await
    }

    /// Ends the outgoing rule with the promises of a quorum and starts the next one.
    async fn appoint(&self, outgoing: &ShardRule, avoid: Option<&Id>, observed: &[Observed]) -> Result<()> {
        let policy = outgoing.durability_policy.clone().context("the rule has no durability policy")?;
        let members: Vec<&Observed> = observed
            .iter()
            .filter(|pooler| pooler.is_usable() && outgoing.cohort_members.contains(&pooler.id()))
            .collect();
        let newest = observed
            .iter()
            .map(|pooler| pooler.promised().max(decision::rank(pooler.rule()).0))
            .max()
            .unwrap_or_default();
        let revocation = TermRevocation {
            revoked_below_term: newest + 1,
            accepted_coordinator_id: Some(self.me.clone()),
            coordinator_initiated_at: Some(SystemTime::now().into()),
            outgoing_rule: outgoing.rule_number,
        };
        let calls = members.iter().map(|pooler| async {
            let request = RecruitRequest { term_revocation: Some(revocation.clone()) };
            let answer = within(5, self.consensus(pooler)?.recruit(request)).await;
            if let Err(error) = &answer {
                tracing::warn!(pooler = %pooler.id().name, %error, "not recruited");
            }
            answer.map(|_| *pooler)
        });
        let recruits: Vec<&Observed> =
            futures::future::join_all(calls).await.into_iter().filter_map(Result::ok).collect();
        let ids: Vec<Id> = recruits.iter().map(|pooler| pooler.id()).collect();
        if !quorum::can_appoint(&policy, &outgoing.cohort_members, &ids) {
            bail!("recruited {} of {} members: not a quorum", ids.len(), outgoing.cohort_members.len());
        }
        let leader = decision::candidate(&recruits, avoid).context("nobody to promote")?;
        let rule = ShardRule {
            rule_number: Some(RuleNumber { coordinator_term: newest + 1, leader_subterm: 0 }),
            leader_id: Some(leader.id()),
            coordinator_id: Some(self.me.clone()),
            creation_time: Some(SystemTime::now().into()),
            ..outgoing.clone()
        };
        let request = PromoteRequest {
            proposal: Some(CoordinatorProposal {
                term_revocation: Some(revocation),
                proposal_leader: Some(address(&leader.record)),
                proposed_transition: Some(RulePosition { decision: Some(rule.clone()), proposal: None }),
                skip_outgoing_quorum: false,
            }),
            reason: "leader needs replacement".into(),
            accepted_node_ids: ids,
        };
        let mut client = self.consensus(leader)?;
        let promote = within(12, client.promote(request));
        // The promotion is only through when standbys have it, so they have to learn of the leader meanwhile.
        let follow = futures::future::join_all(recruits.iter().filter(|pooler| pooler.id() != leader.id()).map(
            |pooler| async {
                if let Err(error) = self.set_primary(pooler, leader, &rule).await {
                    tracing::warn!(pooler = %pooler.id().name, error = format!("{error:#}"), "does not follow");
                }
            },
        ));
        let (promoted, _) = tokio::join!(promote, follow);
        promoted.context("promotion")?;
        tracing::info!(leader = %leader.id().name, term = newest + 1, "appointed a leader");
        Ok(())
    }

    fn consensus(&self, pooler: &Observed) -> Result<MultipoolerConsensusClient<Channel>> {
        let name = identity::component_id(&pooler.id());
        Ok(MultipoolerConsensusClient::new(self.channel(&name, &pooler.record)?))
    }

    async fn set_primary(&self, standby: &Observed, leader: &Observed, rule: &ShardRule) -> Result<()> {
        let request = SetPrimaryRequest {
            replication_primary: Some(ReplicationPrimary {
                position: Some(RulePosition { decision: Some(rule.clone()), proposal: None }),
                primary: Some(address(&leader.record)),
                rewind_ready: true,
            }),
        };
        within(5, self.consensus(standby)?.set_primary(request)).await.map(drop)
    }

    async fn update(&self, leader: &Observed, operation: RuleOperation, members: &[Id]) -> Result<()> {
        let request = UpdateConsensusRuleRequest {
            operation: operation.into(),
            standby_ids: members.to_vec(),
            expected_outgoing_rule: leader.rule().and_then(|rule| rule.rule_number),
            coordinator_id: Some(self.me.clone()),
        };
        within(12, self.consensus(leader)?.update_consensus_rule(request)).await.map(drop)
    }

    /// Deletes the records of poolers that stopped long ago.
    pub async fn forget_stopped(&self) {
        let stopped: Vec<Id> = self
            .poolers
            .borrow()
            .values()
            .filter(|record| record.shard_key.as_ref() == Some(&self.key) && is_stopped(record))
            .filter(|record| age(record) > self.timing.forget)
            .filter_map(|record| record.id.clone())
            .collect();
        for id in stopped {
            let deleted = async { self.store.cell(&id.cell).await?.delete(&key::pooler(&id)).await };
            if let Err(error) = deleted.await {
                tracing::warn!(pooler = %id.name, %error, "could not delete a stopped pooler's record");
            }
        }
    }
}

fn is_stopped(record: &Multipooler) -> bool {
    record
        .lifecycle_status
        .as_ref()
        .is_some_and(|lifecycle| lifecycle.status() == PoolerLifecycleStatus::LifecycleShutdown)
}

fn age(record: &Multipooler) -> Duration {
    record
        .lifecycle_status
        .as_ref()
        .and_then(|lifecycle| SystemTime::try_from(lifecycle.updated?).ok())
        .and_then(|since| since.elapsed().ok())
        .unwrap_or_default()
}

fn address(record: &Multipooler) -> PoolerAddress {
    PoolerAddress {
        id: record.id.clone(),
        host: record.hostname.clone(),
        postgres_port: record.port_map.get("postgres").copied().unwrap_or_default(),
    }
}

fn find<'a>(observed: &'a [Observed], id: &Id) -> Result<&'a Observed> {
    observed.iter().find(|pooler| pooler.id() == *id).with_context(|| format!("pooler {} is gone", id.name))
}

async fn within<T>(seconds: u64, call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T> {
    tokio::time::timeout(Duration::from_secs(seconds), call)
        .await
        .map_err(|_| anyhow!("no answer in {seconds}s"))?
        .map(tonic::Response::into_inner)
        .map_err(|status| anyhow!("{:?}: {}", status.code(), status.message()))
}
