//! What a pooler says about itself when asked: the only evidence that it lives.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use super::{
    Lsn, PoolerId, Role, RuleNumber,
    codec::{pooler_id, rule_number, timestamp},
    pb::{clustermetadata as meta, multipoolermanagerdata as data},
};

/// The answer of a pooler to a Status call.
#[expect(clippy::struct_excessive_bools, reason = "the pooler reports independent facts")]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolerStatus {
    /// Who answers. Tells a pooler from another one that got its address.
    pub id: Option<PoolerId>,
    /// What its PostgreSQL does now.
    pub postgres: Postgres,
    /// Whether the data directory was initialised and belongs to the shard.
    pub initialized: bool,
    /// Whether there is a data directory at all.
    pub has_data_directory: bool,
    /// Whether the PostgreSQL process runs.
    pub postgres_running: bool,
    /// Whether PostgreSQL accepts connections.
    pub postgres_ready: bool,
    /// What the pooler is busy with.
    pub action: PostgresAction,
    /// Role in which the pooler sees itself, which may lag behind `postgres`.
    pub pooler_role: Role,
    /// Set on a primary.
    pub primary: Option<PrimaryStatus>,
    /// Set on a standby.
    pub replication: Option<ReplicationStatus>,
    /// The rule that it has accepted, with the cohort.
    pub consensus: Option<ConsensusView>,
    /// Whether it holds on to leadership.
    pub leadership: Leadership,
    /// Whether it suspects that its history left the primary's.
    pub suspected_divergence: bool,
}

/// State of PostgreSQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Postgres {
    /// Not known, or not running.
    #[default]
    Unknown,
    /// Coming up.
    Starting,
    /// In recovery.
    Standby,
    /// Leaving recovery.
    Promoting,
    /// Taking writes.
    Primary,
}

/// A long piece of work that a pooler does before PostgreSQL is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PostgresAction {
    /// None.
    #[default]
    None,
    /// Starting PostgreSQL.
    Starting,
    /// Restoring from the backup repository.
    RestoringFromBackup,
    /// Making the first backup of a new shard.
    CreatingFirstBackup,
}

/// What only a primary knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrimaryStatus {
    /// End of its log.
    pub lsn: Option<Lsn>,
    /// Whether it takes writes.
    pub ready: bool,
    /// Standbys that are connected to it.
    pub followers: BTreeSet<PoolerId>,
}

/// What only a standby knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationStatus {
    /// How far it has replayed.
    pub replayed: Option<Lsn>,
    /// How far it has received.
    pub received: Option<Lsn>,
    /// How far behind it is, by its own measure.
    pub lag: Option<Duration>,
    /// State of its receiver: `streaming`, or empty while it has none.
    pub receiver: String,
    /// Last sign of life from the primary.
    pub last_message: Option<Timestamp>,
}

/// The rule a pooler has accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsensusView {
    /// Number of the decided rule.
    pub rule: RuleNumber,
    /// Who leads by it.
    pub leader: Option<PoolerId>,
    /// Who counts for durability.
    pub cohort: BTreeSet<PoolerId>,
    /// How many of them must hold a write; 0 when it does not say.
    pub required: i32,
}

/// Whether a pooler holds on to leadership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leadership {
    /// It does not say.
    #[default]
    Unknown,
    /// It leads.
    Active,
    /// It wants another one to lead.
    RequestingDemotion,
}

impl PoolerStatus {
    /// The role that its PostgreSQL plays.
    ///
    /// A server that does not report the state of PostgreSQL is believed by its own role.
    pub fn role(&self) -> Role {
        match self.postgres {
            Postgres::Primary => Role::Primary,
            Postgres::Standby => Role::Replica,
            Postgres::Unknown => self.pooler_role,
            Postgres::Starting | Postgres::Promoting => Role::Unknown,
        }
    }

    /// Whether it is a primary that takes writes now and means to stay.
    pub fn is_serving_primary(&self) -> bool {
        self.role() == Role::Primary
            && self.postgres_ready
            && self.primary.as_ref().is_some_and(|primary| primary.ready)
            && self.leadership != Leadership::RequestingDemotion
    }

    /// Whether it is a standby that streams.
    pub fn is_streaming(&self) -> bool {
        self.postgres_ready && self.replication.as_ref().is_some_and(|standby| standby.receiver == "streaming")
    }

    /// Whether `standby`, by its own status `of_standby`, could take over from this primary: it streams, both ends agree on
    /// the connection and the cohort, and it has replayed the log to within `slack` bytes.
    pub fn is_caught_up(&self, standby: &PoolerId, of_standby: &Self, slack: u64) -> bool {
        let Some(primary) = &self.primary else { return false };
        let in_cohort = self.consensus.as_ref().is_some_and(|view| view.cohort.contains(standby));
        let replayed = of_standby.replication.as_ref().and_then(|view| view.replayed);
        let (Some(end), Some(replayed)) = (primary.lsn, replayed) else { return false };
        of_standby.is_streaming()
            && primary.followers.contains(standby)
            && in_cohort
            && end.0.saturating_sub(replayed.0) <= slack
    }

    /// Takes the wire form apart. An answer without its main part comes from a manager that is not up yet.
    pub(super) fn from_response(response: data::StatusResponse) -> Option<Self> {
        let status = response.status?;
        let availability = response.availability_status.unwrap_or_default();
        let signal = availability
            .leadership_status
            .as_ref()
            .map_or(meta::LeadershipSignal::Unknown, meta::LeadershipStatus::signal);
        let id = response.consensus_status.as_ref().and_then(|consensus| consensus.id.as_ref()).and_then(pooler_id);
        Some(Self {
            id,
            postgres: match status.postgres_status() {
                data::PostgresStatus::Unknown => Postgres::Unknown,
                data::PostgresStatus::Starting => Postgres::Starting,
                data::PostgresStatus::Standby => Postgres::Standby,
                data::PostgresStatus::Promoting => Postgres::Promoting,
                data::PostgresStatus::Primary => Postgres::Primary,
            },
            initialized: status.is_initialized,
            has_data_directory: status.has_data_directory,
            postgres_running: status.postgres_running,
            postgres_ready: status.postgres_ready,
            action: match status.postgres_action() {
                data::PostgresAction::Unspecified => PostgresAction::None,
                data::PostgresAction::Starting => PostgresAction::Starting,
                data::PostgresAction::RestoringFromBackup => PostgresAction::RestoringFromBackup,
                data::PostgresAction::CreatingFirstBackup => PostgresAction::CreatingFirstBackup,
            },
            pooler_role: match status.pooler_type() {
                meta::PoolerType::Primary => Role::Primary,
                meta::PoolerType::Replica => Role::Replica,
                meta::PoolerType::Unknown | meta::PoolerType::Drained => Role::Unknown,
            },
            primary: status.primary_status.map(|primary| PrimaryStatus {
                lsn: primary.lsn.parse().ok(),
                ready: primary.ready,
                followers: primary.connected_followers.iter().filter_map(pooler_id).collect(),
            }),
            replication: status.replication_status.map(|standby| ReplicationStatus {
                replayed: standby.last_replay_lsn.parse().ok(),
                received: standby.last_receive_lsn.parse().ok(),
                lag: standby.lag.and_then(|lag| Duration::try_from(lag).ok()),
                receiver: standby.wal_receiver_status,
                last_message: standby.last_msg_receive_time.as_ref().and_then(timestamp),
            }),
            consensus: response.consensus_status.and_then(consensus_view),
            leadership: match signal {
                meta::LeadershipSignal::Unknown => Leadership::Unknown,
                meta::LeadershipSignal::Active => Leadership::Active,
                meta::LeadershipSignal::RequestingDemotion => Leadership::RequestingDemotion,
            },
            suspected_divergence: availability.suspected_divergence,
        })
    }
}

fn consensus_view(status: meta::ConsensusStatus) -> Option<ConsensusView> {
    let decision = status.current_position?.position?.decision?;
    Some(ConsensusView {
        rule: decision.rule_number.as_ref().map(rule_number).unwrap_or_default(),
        leader: decision.leader_id.as_ref().and_then(pooler_id),
        cohort: decision.cohort_members.iter().filter_map(pooler_id).collect(),
        required: decision.durability_policy.map_or(0, |policy| policy.required_count),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> PoolerId {
        PoolerId::new("zone-a", name)
    }

    fn primary() -> PoolerStatus {
        PoolerStatus {
            postgres: Postgres::Primary,
            postgres_ready: true,
            primary: Some(PrimaryStatus { lsn: Some(Lsn(1000)), ready: true, followers: [id("b")].into() }),
            consensus: Some(ConsensusView { cohort: [id("a"), id("b")].into(), ..ConsensusView::default() }),
            ..PoolerStatus::default()
        }
    }

    fn standby(replayed: u64) -> PoolerStatus {
        PoolerStatus {
            postgres: Postgres::Standby,
            postgres_ready: true,
            replication: Some(ReplicationStatus {
                replayed: Some(Lsn(replayed)),
                receiver: "streaming".to_owned(),
                ..ReplicationStatus::default()
            }),
            ..PoolerStatus::default()
        }
    }

    #[test]
    fn a_standby_is_caught_up_only_within_the_slack() {
        assert!(primary().is_caught_up(&id("b"), &standby(990), 10));
        assert!(!primary().is_caught_up(&id("b"), &standby(989), 10));
        assert!(
            primary().is_caught_up(&id("b"), &standby(1001), 0),
            "it may be ahead of an older answer of the primary"
        );
    }

    #[test]
    fn a_standby_outside_the_cohort_or_without_a_stream_is_not_caught_up() {
        assert!(!primary().is_caught_up(&id("c"), &standby(1000), 0));
        let mut behind = standby(1000);
        behind.replication =
            behind.replication.map(|view| ReplicationStatus { receiver: "waiting".to_owned(), ..view });
        assert!(!primary().is_caught_up(&id("b"), &behind, 0));
        let mut outside = primary();
        outside.consensus = None;
        assert!(!outside.is_caught_up(&id("b"), &standby(1000), 0));
    }

    #[test]
    fn a_primary_that_requests_demotion_does_not_serve() {
        assert!(primary().is_serving_primary());
        assert!(!PoolerStatus { leadership: Leadership::RequestingDemotion, ..primary() }.is_serving_primary());
        assert!(!PoolerStatus { postgres_ready: false, ..primary() }.is_serving_primary());
        assert!(!PoolerStatus { postgres: Postgres::Promoting, ..primary() }.is_serving_primary());
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let wire_id = |name: &str| meta::Id { component: 1, cell: "zone-a".to_owned(), name: name.to_owned() };
        let response = data::StatusResponse {
            status: Some(data::Status {
                postgres_status: data::PostgresStatus::Primary.into(),
                pooler_type: meta::PoolerType::Primary.into(),
                postgres_ready: true,
                primary_status: Some(data::PrimaryStatus {
                    lsn: "1/A".to_owned(),
                    ready: true,
                    connected_followers: vec![wire_id("b")],
                    ..Default::default()
                }),
                ..Default::default()
            }),
            availability_status: None,
            consensus_status: Some(meta::ConsensusStatus {
                id: Some(wire_id("a")),
                current_position: Some(meta::PoolerPosition {
                    position: Some(meta::RulePosition {
                        decision: Some(meta::ShardRule {
                            rule_number: Some(meta::RuleNumber { coordinator_term: 3, leader_subterm: 7 }),
                            leader_id: Some(wire_id("a")),
                            cohort_members: vec![wire_id("a"), wire_id("b")],
                            ..Default::default()
                        }),
                        proposal: None,
                    }),
                    lsn: String::new(),
                }),
                ..Default::default()
            }),
        };
        let status = PoolerStatus::from_response(response).unwrap();
        assert_eq!(status.id, Some(id("a")));
        assert!(status.is_serving_primary());
        assert_eq!(status.primary.unwrap().lsn, Some(Lsn(0x1_0000_000A)));
        let view = status.consensus.unwrap();
        assert_eq!(view.rule, RuleNumber { coordinator_term: 3, leader_subterm: 7 });
        assert_eq!(view.cohort, BTreeSet::from([id("a"), id("b")]));
        assert_eq!(PoolerStatus::from_response(data::StatusResponse::default()), None);
    }
}
