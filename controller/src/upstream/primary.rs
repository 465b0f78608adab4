//! Which pooler is the primary of a shard. Pure.
//!
//! Records have no heartbeat and outlive their process, so a claim counts only with a fresh status behind it. Who calls keeps
//! the statuses.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{PoolerId, PoolerRecord, PoolerStatus, Role};

/// An older status confirms nothing.
pub const FRESH_FOR: Duration = Duration::from_secs(30);

/// A status with the time at which it was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What the pooler said.
    pub status: PoolerStatus,
    /// When.
    pub at: Timestamp,
}

/// The claims to be primary of one shard, highest rule first. Poolers that are shut down or quarantined claim nothing.
pub fn claims(records: &[PoolerRecord]) -> Vec<&PoolerRecord> {
    let mut claims: Vec<&PoolerRecord> =
        records.iter().filter(|record| record.role == Role::Primary && !record.is_out()).collect();
    // A claim without a rule is older than any rule. The id makes the order the same on every pass.
    claims.sort_by(|one, other| other.rule.cmp(&one.rule).then_with(|| one.id.cmp(&other.id)));
    claims
}

/// The primary of one shard: the highest-ranked claim, confirmed by a status no older than [`FRESH_FOR`].
///
/// A lower claim is never taken instead, however alive its pooler is: a newer rule exists, so it has lost its followers. Of
/// several claims to the same rule exactly one has to be confirmed.
pub fn confirmed<'a>(
    records: &'a [PoolerRecord],
    statuses: &BTreeMap<PoolerId, Seen>,
    now: Timestamp,
) -> Option<&'a PoolerRecord> {
    let claims = claims(records);
    let highest = claims.first()?.rule;
    let mut alive = claims
        .into_iter()
        .take_while(|claim| claim.rule == highest)
        .filter(|claim| statuses.get(&claim.id).is_some_and(|seen| confirms(claim, seen, now)));
    match (alive.next(), alive.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    }
}

/// Whether a status says that the claim of this record is true now.
pub fn confirms(claim: &PoolerRecord, seen: &Seen, now: Timestamp) -> bool {
    let age = now.duration_since(seen.at);
    // A clock that was set back must not make an old answer fresh for ever.
    let fresh = age.abs() <= SignedDuration::try_from(FRESH_FOR).unwrap_or(SignedDuration::ZERO);
    let status = &seen.status;
    let same = status.id.as_ref().is_none_or(|id| *id == claim.id);
    // A rule that is still being decided may lag behind the record; only a newer one with another leader refutes the claim.
    let superseded = status.consensus.as_ref().is_some_and(|view| {
        Some(view.rule) > claim.rule && view.leader.as_ref().is_some_and(|leader| *leader != claim.id)
    });
    fresh && same && !superseded && status.is_serving_primary()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::upstream::{
        ConsensusView, Leadership, Lifecycle, LifecycleMark, Postgres, PrimaryStatus, RuleNumber, Serving, ShardKey,
    };

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn record(name: &str, claim: Role, rule: Option<(i64, i64)>) -> PoolerRecord {
        PoolerRecord {
            id: PoolerId::new("zone-a", name),
            shard: ShardKey::new("postgres", "default", "0-inf"),
            hostname: name.to_owned(),
            ports: BTreeMap::new(),
            role: claim,
            rule: rule.map(|(coordinator_term, leader_subterm)| RuleNumber { coordinator_term, leader_subterm }),
            lifecycle: LifecycleMark { state: Lifecycle::Active, ..LifecycleMark::default() },
            serving: Serving::Serving,
            tls: None,
        }
    }

    fn primary() -> PoolerStatus {
        PoolerStatus {
            postgres: Postgres::Primary,
            postgres_ready: true,
            primary: Some(PrimaryStatus { ready: true, ..PrimaryStatus::default() }),
            ..PoolerStatus::default()
        }
    }

    fn seen(names: &[&str], status: &PoolerStatus) -> BTreeMap<PoolerId, Seen> {
        names.iter().map(|name| (PoolerId::new("zone-a", *name), Seen { status: status.clone(), at: NOW })).collect()
    }

    fn winner(records: &[PoolerRecord], statuses: &BTreeMap<PoolerId, Seen>) -> Option<String> {
        confirmed(records, statuses, NOW).map(|record| record.id.name.clone())
    }

    #[test]
    fn the_term_ranks_before_the_subterm_and_no_rule_ranks_last() {
        let records = [
            record("none", Role::Primary, None),
            record("low", Role::Primary, Some((3, 9))),
            record("replica", Role::Replica, None),
            record("high", Role::Primary, Some((4, 0))),
        ];
        let order: Vec<&str> = claims(&records).iter().map(|claim| claim.id.name.as_str()).collect();
        assert_eq!(order, ["high", "low", "none"]);
    }

    #[test]
    fn the_highest_claim_wins_when_it_is_confirmed() {
        let records = [record("old", Role::Primary, Some((1, 1))), record("new", Role::Primary, Some((2, 0)))];
        assert_eq!(winner(&records, &seen(&["old", "new"], &primary())), Some("new".to_owned()));
    }

    #[test]
    fn a_living_lower_claim_does_not_stand_in_for_a_silent_higher_one() {
        let records = [record("old", Role::Primary, Some((1, 1))), record("new", Role::Primary, Some((2, 0)))];
        assert_eq!(winner(&records, &seen(&["old"], &primary())), None);
    }

    #[test]
    fn a_record_alone_confirms_nothing() {
        assert_eq!(winner(&[record("a", Role::Primary, Some((1, 0)))], &BTreeMap::new()), None);
    }

    #[test]
    fn a_status_counts_for_thirty_seconds() {
        let claim = record("a", Role::Primary, Some((1, 0)));
        let after = |seconds| Seen { status: primary(), at: NOW - SignedDuration::from_secs(seconds) };
        assert!(confirms(&claim, &after(30), NOW));
        assert!(!confirms(&claim, &after(31), NOW));
        assert!(!confirms(&claim, &after(-31), NOW), "the clock was set back");
    }

    #[rstest]
    #[case::standby(PoolerStatus { postgres: Postgres::Standby, ..primary() })]
    #[case::not_ready(PoolerStatus { postgres_ready: false, ..primary() })]
    #[case::resigning(PoolerStatus { leadership: Leadership::RequestingDemotion, ..primary() })]
    #[case::somebody_else(PoolerStatus { id: Some(PoolerId::new("zone-a", "b")), ..primary() })]
    #[case::follows_another_leader(PoolerStatus {
        consensus: Some(ConsensusView {
            leader: Some(PoolerId::new("zone-a", "b")),
            rule: RuleNumber { coordinator_term: 9, leader_subterm: 0 },
            ..ConsensusView::default()
        }),
        ..primary()
    })]
    fn a_status_that_disagrees_confirms_nothing(#[case] status: PoolerStatus) {
        assert_eq!(winner(&[record("a", Role::Primary, Some((1, 0)))], &seen(&["a"], &status)), None);
    }

    #[test]
    fn a_decision_that_lags_behind_the_record_does_not_refute_it() {
        let view = ConsensusView { leader: Some(PoolerId::new("zone-a", "old")), ..ConsensusView::default() };
        let status = PoolerStatus { consensus: Some(view), ..primary() };
        assert_eq!(winner(&[record("a", Role::Primary, Some((1, 0)))], &seen(&["a"], &status)), Some("a".to_owned()));
    }

    #[test]
    fn a_tie_needs_exactly_one_confirmation() {
        let records = [record("a", Role::Primary, Some((1, 0))), record("b", Role::Primary, Some((1, 0)))];
        assert_eq!(winner(&records, &seen(&["b"], &primary())), Some("b".to_owned()));
        assert_eq!(winner(&records, &seen(&["a", "b"], &primary())), None);
    }

    #[rstest]
    #[case(Lifecycle::Shutdown)]
    #[case(Lifecycle::Quarantined)]
    fn poolers_that_are_out_claim_nothing(#[case] state: Lifecycle) {
        let mut out = record("out", Role::Primary, Some((9, 0)));
        out.lifecycle.state = state;
        let records = [out, record("a", Role::Primary, Some((1, 0)))];
        assert_eq!(winner(&records, &seen(&["out", "a"], &primary())), Some("a".to_owned()));
    }
}
