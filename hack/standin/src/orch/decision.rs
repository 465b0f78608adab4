//! What an orchestrator does next, decided from what it observed and nothing else.

use std::time::{Duration, Instant};

use crate::postgres::wire;
use crate::proto::clustermetadata::{
    CohortEligibilitySignal, DurabilityPolicy, Id, LeadershipSignal, Multipooler, PoolerLifecycleStatus, RuleNumber,
    ShardInitClaim, ShardRule,
};
use crate::proto::multipoolermanagerdata::StatusResponse;
use crate::quorum;

/// A pooler as its record and its answers show it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Its record.
    pub record: Multipooler,
    /// Its last answer.
    pub status: Option<StatusResponse>,
    /// Since when it answers nothing; `None` while it answers.
    pub silent_since: Option<Instant>,
}

impl Observed {
    /// Its id.
    pub fn id(&self) -> Id {
        self.record.id.clone().unwrap_or_default()
    }

    fn answers(&self) -> Option<&StatusResponse> {
        if self.silent_since.is_some() { None } else { self.status.as_ref() }
    }

    fn is_shut_down(&self) -> bool {
        self.record
            .lifecycle_status
            .as_ref()
            .is_some_and(|lifecycle| lifecycle.status() == PoolerLifecycleStatus::LifecycleShutdown)
    }

    /// Whether it can be recruited.
    pub fn is_usable(&self) -> bool {
        !self.is_shut_down()
            && self.answers().is_some_and(|answer| {
                answer.status.as_ref().is_some_and(|status| status.is_initialized && status.postgres_ready)
                    && !is_ineligible(answer)
            })
    }

    fn is_streaming(&self) -> bool {
        self.answers()
            .and_then(|answer| answer.status.as_ref()?.replication_status.as_ref())
            .is_some_and(|replication| replication.wal_receiver_status == "streaming")
    }

    /// The rule in its data.
    pub fn rule(&self) -> Option<&ShardRule> {
        self.status.as_ref()?.consensus_status.as_ref()?.current_position.as_ref()?.position.as_ref()?.decision.as_ref()
    }

    /// The term it promised.
    pub fn promised(&self) -> i64 {
        self.status
            .as_ref()
            .and_then(|answer| answer.consensus_status.as_ref()?.term_revocation.as_ref())
            .map_or(0, |revocation| revocation.revoked_below_term)
    }

    /// How far its log is.
    pub fn lsn(&self) -> u64 {
        self.status
            .as_ref()
            .and_then(|answer| wire::read_lsn(&answer.status.as_ref()?.wal_position))
            .unwrap_or_default()
    }

    fn follows(&self, leader: &Multipooler) -> bool {
        let port = leader.port_map.get("postgres").copied().unwrap_or_default();
        self.answers()
            .and_then(|answer| answer.status.as_ref()?.replication_status.as_ref()?.primary_conn_info.as_ref())
            .is_some_and(|source| source.host == leader.hostname && source.port == port)
    }
}

fn is_ineligible(answer: &StatusResponse) -> bool {
    answer
        .availability_status
        .as_ref()
        .and_then(|availability| availability.cohort_eligibility_status.as_ref())
        .is_some_and(|eligibility| eligibility.signal() == CohortEligibilitySignal::Ineligible)
}

/// A number as it can be compared.
pub fn rank(rule: Option<&ShardRule>) -> (i64, i64) {
    rule.and_then(|rule| rule.rule_number)
        .map_or((0, 0), |RuleNumber { coordinator_term, leader_subterm }| (coordinator_term, leader_subterm))
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Claim the shard and make its first leader.
    Initialize {
        /// The first cohort.
        cohort: Vec<Id>,
    },
    /// Make a new leader.
    Appoint {
        /// The rule that ends.
        outgoing: ShardRule,
    },
    /// Tell a standby whom to follow.
    Follow {
        /// The standby.
        standby: Id,
        /// Its primary.
        leader: Id,
    },
    /// Add members to the cohort.
    Add {
        /// Who leads.
        leader: Id,
        /// The new members.
        members: Vec<Id>,
    },
    /// Remove members from the cohort.
    Remove {
        /// Who leads.
        leader: Id,
        /// The former members.
        members: Vec<Id>,
    },
}

/// Something that is wrong, with what can be done about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The code that operators read.
    pub code: &'static str,
    /// Whom it is about; the shard if nobody.
    pub pooler: Option<Id>,
    /// A sentence for people.
    pub description: String,
    /// The repair, if there is one.
    pub step: Option<Step>,
}

/// What a decision rests on.
pub struct Situation<'a> {
    /// All poolers of the shard.
    pub poolers: &'a [Observed],
    /// The policy for the first rule.
    pub policy: Option<&'a DurabilityPolicy>,
    /// Who claimed the bootstrap.
    pub claim: Option<&'a ShardInitClaim>,
    /// Who decides.
    pub me: &'a Id,
    /// How long a silent leader with streaming standbys is trusted.
    pub trust: Duration,
    /// The time of the decision.
    pub now: Instant,
}

/// All problems, the most urgent first.
pub fn problems(situation: &Situation<'_>) -> Vec<Problem> {
    let newest = situation
        .poolers
        .iter()
        .filter(|pooler| pooler.rule().is_some_and(|rule| !rule.cohort_members.is_empty()))
        .max_by_key(|pooler| rank(pooler.rule()))
        .and_then(Observed::rule);
    let Some(rule) = newest else {
        return initialization(situation).into_iter().collect();
    };
    let leader_id = rule.leader_id.clone().unwrap_or_default();
    let leader = situation.poolers.iter().find(|pooler| pooler.id() == leader_id);
    if let Some(problem) = leader_problem(situation, rule, leader) {
        return vec![problem];
    }
    let Some(leader) = leader else { return Vec::new() };
    standby_problems(situation, rule, leader)
}

fn initialization(situation: &Situation<'_>) -> Option<Problem> {
    let policy = situation.policy?;
    let cohort: Vec<Id> = situation.poolers.iter().filter(|pooler| pooler.is_usable()).map(Observed::id).collect();
    if !quorum::satisfied(policy, &cohort) {
        return None;
    }
    let claimed_by_other = situation.claim.is_some_and(|claim| claim.claimer_id.as_ref() != Some(situation.me));
    Some(Problem {
        code: "ShardNeedsInitialization",
        pooler: None,
        description: if claimed_by_other {
            "the shard was claimed by another orchestrator".to_owned()
        } else {
            "enough poolers are there for the first leader".to_owned()
        },
        step: (!claimed_by_other).then_some(Step::Initialize { cohort }),
    })
}

fn leader_problem(situation: &Situation<'_>, rule: &ShardRule, leader: Option<&Observed>) -> Option<Problem> {
    let (code, description) = match leader {
        None => ("LeaderUnspecified", "the leader has no record"),
        Some(leader) if leader.is_shut_down() => ("LeaderResigned", "the leader shut down"),
        Some(leader) => {
            if let Some(since) = leader.silent_since {
                let trusted = situation.now.duration_since(since) < situation.trust
                    && situation.poolers.iter().any(|pooler| pooler.id() != leader.id() && pooler.is_streaming());
                if trusted {
                    return Some(Problem {
                        code: "LeaderHealthUnknown",
                        pooler: Some(leader.id()),
                        description: "the leader does not answer but standbys stream from it".to_owned(),
                        step: None,
                    });
                }
                ("LeaderUnreachableByCohort", "the leader does not answer")
            } else {
                let answer = leader.answers()?;
                let signal = answer
                    .availability_status
                    .as_ref()
                    .and_then(|availability| availability.leadership_status)
                    .map(|leadership| leadership.signal());
                if signal == Some(LeadershipSignal::RequestingDemotion) || is_ineligible(answer) {
                    ("LeaderResigned", "the leader asked to be replaced")
                } else if answer.status.as_ref().is_some_and(|status| status.primary_status.is_some()) {
                    return None;
                } else {
                    ("LeaderUnhealthy", "the leader is not a writable primary")
                }
            }
        }
    };
    let usable: Vec<Id> = situation
        .poolers
        .iter()
        .filter(|pooler| pooler.is_usable() && rule.cohort_members.contains(&pooler.id()))
        .map(Observed::id)
        .collect();
    let possible = rule
        .durability_policy
        .as_ref()
        .is_some_and(|policy| quorum::can_appoint(policy, &rule.cohort_members, &usable));
    if !possible {
        return Some(Problem {
            code: if usable.is_empty() { "NoHealthyCohortMembers" } else { "ShardStuck" },
            pooler: None,
            description: format!("{description}; cannot reach a sufficient recruitment quorum"),
            step: None,
        });
    }
    Some(Problem {
        code,
        pooler: rule.leader_id.clone(),
        description: description.to_owned(),
        step: Some(Step::Appoint { outgoing: rule.clone() }),
    })
}

fn standby_problems(situation: &Situation<'_>, rule: &ShardRule, leader: &Observed) -> Vec<Problem> {
    let mut found = Vec::new();
    let leader_id = leader.id();
    for pooler in situation.poolers.iter().filter(|pooler| pooler.id() != leader_id) {
        let id = pooler.id();
        let member = rule.cohort_members.contains(&id);
        let ineligible = pooler.answers().is_some_and(is_ineligible);
        if member && (pooler.is_shut_down() || ineligible) {
            let rest: Vec<Id> = rule.cohort_members.iter().filter(|other| **other != id).cloned().collect();
            let safe = rule.durability_policy.as_ref().is_some_and(|policy| quorum::satisfied(policy, &rest));
            found.push(Problem {
                code: if safe { "CohortMemberIneligible" } else { "ShardAtRisk" },
                pooler: Some(id.clone()),
                description: "a member of the cohort is gone".to_owned(),
                step: safe.then(|| Step::Remove { leader: leader_id.clone(), members: vec![id] }),
            });
        } else if pooler.is_usable() && !(pooler.is_streaming() && pooler.follows(&leader.record)) {
            found.push(Problem {
                code: "ReplicaNotReplicating",
                pooler: Some(id.clone()),
                description: "a standby does not stream from the leader".to_owned(),
                step: Some(Step::Follow { standby: id, leader: leader_id.clone() }),
            });
        } else if pooler.is_usable() && !member {
            found.push(Problem {
                code: "PoolerNotInCohort",
                pooler: Some(id.clone()),
                description: "a streaming standby is not in the cohort".to_owned(),
                step: Some(Step::Add { leader: leader_id.clone(), members: vec![id] }),
            });
        }
    }
    found
}

/// Whom to promote: the one with the newest rule, then the longest log, then a name to have an order.
pub fn candidate<'a>(recruits: &[&'a Observed], avoid: Option<&Id>) -> Option<&'a Observed> {
    recruits.iter().copied().max_by_key(|pooler| {
        (rank(pooler.rule()), Some(&pooler.id()) != avoid, pooler.lsn(), std::cmp::Reverse(pooler.id().name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::id;
    use crate::proto::clustermetadata::id::ComponentType::{Multiorch, Multipooler as Pooler};
    use crate::proto::clustermetadata::{
        AvailabilityStatus, CohortEligibilityStatus, ConsensusStatus, LeadershipStatus, PoolerLifecycle,
        PoolerPosition, RulePosition,
    };
    use crate::proto::multipoolermanagerdata::{PrimaryConnInfo, PrimaryStatus, StandbyReplicationStatus, Status};

    fn name(n: u8) -> Id {
        id(Pooler, &format!("zone-{n}"), &format!("p{n}"))
    }

    fn rule(leader: u8, cohort: &[u8]) -> ShardRule {
        ShardRule {
            rule_number: Some(RuleNumber { coordinator_term: 1, leader_subterm: 0 }),
            leader_id: Some(name(leader)),
            cohort_members: cohort.iter().map(|n| name(*n)).collect(),
            durability_policy: quorum::named("AT_LEAST_2"),
            ..ShardRule::default()
        }
    }

    fn pooler(n: u8, rule: Option<ShardRule>) -> Observed {
        let leads = rule.as_ref().is_some_and(|rule| rule.leader_id == Some(name(n)));
        let source = rule.as_ref().and_then(|rule| rule.leader_id.clone()).map(|leader| PrimaryConnInfo {
            host: format!("host-{}", leader.name),
            port: 5432,
            ..PrimaryConnInfo::default()
        });
        Observed {
            record: Multipooler {
                id: Some(name(n)),
                hostname: format!("host-p{n}"),
                port_map: [("postgres".to_owned(), 5432)].into(),
                ..Multipooler::default()
            },
            status: Some(StatusResponse {
                status: Some(Status {
                    is_initialized: true,
                    postgres_ready: true,
                    wal_position: "0/100".into(),
                    primary_status: leads.then(PrimaryStatus::default),
                    replication_status: (!leads && rule.is_some()).then(|| StandbyReplicationStatus {
                        wal_receiver_status: "streaming".into(),
                        primary_conn_info: source,
                        ..StandbyReplicationStatus::default()
                    }),
                    ..Status::default()
                }),
                availability_status: Some(AvailabilityStatus::default()),
                consensus_status: Some(ConsensusStatus {
                    current_position: Some(PoolerPosition {
                        position: Some(RulePosition { decision: rule, proposal: None }),
                        lsn: "0/100".into(),
                    }),
                    ..ConsensusStatus::default()
                }),
            }),
            silent_since: None,
        }
    }

    fn shard() -> Vec<Observed> {
        (1..=3).map(|n| pooler(n, Some(rule(1, &[1, 2, 3])))).collect()
    }

    fn silence(pooler: &mut Observed, ago: u64) {
        pooler.silent_since = Instant::now().checked_sub(Duration::from_secs(ago));
    }

    fn decide(poolers: &[Observed], claim: Option<&ShardInitClaim>) -> Vec<Problem> {
        let me = id(Multiorch, "zone-1", "me");
        let policy = quorum::named("AT_LEAST_2");
        problems(&Situation {
            poolers,
            policy: policy.as_ref(),
            claim,
            me: &me,
            trust: Duration::from_secs(30),
            now: Instant::now(),
        })
    }

    fn codes(poolers: &[Observed]) -> Vec<&'static str> {
        decide(poolers, None).iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn a_healthy_shard_has_no_problem() {
        assert_eq!(codes(&shard()), Vec::<&str>::new());
    }

    #[test]
    fn one_pooler_is_not_enough_for_a_first_leader() {
        assert!(decide(&[pooler(1, None)], None).is_empty());
        let both = decide(&[pooler(1, None), pooler(2, None)], None);
        assert_eq!(both[0].step, Some(Step::Initialize { cohort: vec![name(1), name(2)] }));
    }

    #[test]
    fn a_claim_of_another_orchestrator_wedges_the_bootstrap() {
        let claim = ShardInitClaim { claimer_id: Some(id(Multiorch, "zone-1", "dead")), cohort_members: Vec::new() };
        let found = decide(&[pooler(1, None), pooler(2, None)], Some(&claim));
        assert_eq!(found[0].step, None);
    }

    #[test]
    fn a_silent_leader_is_trusted_while_standbys_stream() {
        let mut poolers = shard();
        silence(&mut poolers[0], 10);
        assert_eq!(codes(&poolers), ["LeaderHealthUnknown"]);
        silence(&mut poolers[0], 31);
        assert_eq!(codes(&poolers), ["LeaderUnreachableByCohort"]);
    }

    #[test]
    fn a_resigned_leader_is_replaced_by_somebody_else() {
        let mut poolers = shard();
        let answer = poolers[0].status.as_mut().unwrap();
        answer.availability_status.as_mut().unwrap().leadership_status =
            Some(LeadershipStatus { leader_term: 1, signal: LeadershipSignal::RequestingDemotion.into() });
        let found = decide(&poolers, None);
        assert_eq!(found[0].code, "LeaderResigned");
        assert!(matches!(found[0].step, Some(Step::Appoint { .. })));
        let recruits: Vec<&Observed> = poolers.iter().collect();
        assert_ne!(candidate(&recruits, Some(&name(1))).unwrap().id(), name(1));
    }

    #[test]
    fn without_a_quorum_the_shard_is_stuck() {
        let mut poolers = shard();
        silence(&mut poolers[0], 60);
        silence(&mut poolers[1], 60);
        let found = decide(&poolers, None);
        assert_eq!((found[0].code, found[0].step.clone()), ("ShardStuck", None));
        silence(&mut poolers[2], 60);
        assert_eq!(codes(&poolers), ["NoHealthyCohortMembers"]);
    }

    #[test]
    fn a_stopped_member_leaves_the_cohort_only_if_the_rest_suffices() {
        let mut poolers = shard();
        let shut_down =
            PoolerLifecycle { status: PoolerLifecycleStatus::LifecycleShutdown.into(), ..PoolerLifecycle::default() };
        poolers[2].record.lifecycle_status = Some(shut_down.clone());
        assert_eq!(decide(&poolers, None)[0].step, Some(Step::Remove { leader: name(1), members: vec![name(3)] }));
        let mut pair: Vec<Observed> = (1..=2).map(|n| pooler(n, Some(rule(1, &[1, 2])))).collect();
        pair[1].record.lifecycle_status = Some(shut_down);
        let found = decide(&pair, None);
        assert_eq!((found[0].code, found[0].step.clone()), ("ShardAtRisk", None));
    }

    #[test]
    fn an_ineligible_member_is_removed() {
        let mut poolers = shard();
        poolers[1].status.as_mut().unwrap().availability_status.as_mut().unwrap().cohort_eligibility_status =
            Some(CohortEligibilityStatus { signal: CohortEligibilitySignal::Ineligible.into() });
        assert_eq!(codes(&poolers), ["CohortMemberIneligible"]);
    }

    #[test]
    fn a_newcomer_first_follows_and_then_joins() {
        let mut poolers = shard();
        poolers.push(pooler(4, None));
        assert_eq!(decide(&poolers, None)[0].step, Some(Step::Follow { standby: name(4), leader: name(1) }));
        poolers[3] = pooler(4, Some(rule(1, &[1, 2, 3])));
        assert_eq!(decide(&poolers, None)[0].step, Some(Step::Add { leader: name(1), members: vec![name(4)] }));
    }
}
