//! What poolers have said about themselves lately, per shard, and the topology records that it was about.
//!
//! Records outlive their process, so a claim to be primary counts only with a fresh answer behind it. Answers are kept in memory
//! alone: a restarted controller asks again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use crate::upstream::{
    self, PoolerId, PoolerRecord, PoolerStatus, Snapshot,
    primary::{self, FRESH_FOR},
};

/// How long what nobody asks about is remembered.
const FORGETS: SignedDuration = SignedDuration::from_hours(2);

/// Answers and records of all shards, by the UID of the Shard.
#[derive(Debug, Default)]
pub struct Seen {
    shards: Mutex<HashMap<String, Memory>>,
}

#[derive(Debug)]
struct Memory {
    used: Timestamp,
    statuses: BTreeMap<PoolerId, primary::Seen>,
    cells: BTreeMap<String, (Timestamp, Vec<PoolerRecord>)>,
    bodiless: BTreeMap<PoolerId, Timestamp>,
    absent: BTreeMap<PoolerId, Timestamp>,
    recorded: BTreeMap<PoolerId, Timestamp>,
}

/// What is known of a record that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absence {
    /// Since when.
    pub since: Timestamp,
    /// When it was there last, if it was seen in the last two hours.
    pub known: Option<Timestamp>,
}

impl Seen {
    /// Remembers which poolers have a record and no pod, and tells since when. Who has a pod again starts anew.
    pub fn bodiless(&self, shard: &str, now_without: Vec<PoolerId>, now: Timestamp) -> BTreeMap<PoolerId, Timestamp> {
        self.with(shard, now, |memory| {
            let before = std::mem::take(&mut memory.bodiless);
            let since = |id: &PoolerId| before.get(id).copied().unwrap_or(now);
            memory.bodiless = now_without.into_iter().map(|id| (id.clone(), since(&id))).collect();
            memory.bodiless.clone()
        })
    }

    /// Remembers which poolers have a record and which, of those that should, have none, and tells what is known of these.
    pub fn absences(
        &self,
        shard: &str,
        present: impl IntoIterator<Item = PoolerId>,
        absent: Vec<PoolerId>,
        now: Timestamp,
    ) -> BTreeMap<PoolerId, Absence> {
        self.with(shard, now, |memory| {
            let before = std::mem::take(&mut memory.absent);
            memory.absent =
                absent.into_iter().map(|id| (id.clone(), before.get(&id).copied().unwrap_or(now))).collect();
            memory.recorded.retain(|_, at| now.duration_since(*at) < FORGETS);
            memory.recorded.extend(present.into_iter().map(|id| (id, now)));
            let of = |(id, since): (&PoolerId, &Timestamp)| {
                (id.clone(), Absence { since: *since, known: memory.recorded.get(id).copied() })
            };
            memory.absent.iter().map(of).collect()
        })
    }

    /// Remembers an answer.
    pub fn answered(&self, shard: &str, pooler: PoolerId, status: PoolerStatus, at: Timestamp) {
        self.with(shard, at, |memory| memory.statuses.insert(pooler, primary::Seen { status, at }));
    }

    /// The answers of a shard's poolers that still count.
    pub fn statuses(&self, shard: &str, now: Timestamp) -> BTreeMap<PoolerId, primary::Seen> {
        self.with(shard, now, |memory| {
            memory.statuses.retain(|_, seen| is_fresh(seen.at, now));
            memory.statuses.clone()
        })
    }

    /// Remembers the cells that answered, and fills those that did not with what they said less than half a minute ago: one slow
    /// answer of a topology server is no news about the shard.
    pub fn bridge(&self, shard: &str, snapshot: Snapshot, now: Timestamp) -> Snapshot {
        self.with(shard, now, |memory| {
            memory.cells.retain(|_, (at, _)| is_fresh(*at, now));
            let mut bridged = snapshot;
            for (cell, answer) in &mut bridged.cells {
                match answer {
                    Ok(records) => {
                        memory.cells.insert(cell.clone(), (now, records.clone()));
                    }
                    Err(error) if error.unreachable() => {
                        if let Some((_, records)) = memory.cells.get(cell) {
                            *answer = Ok(records.clone());
                        }
                    }
                    Err(_) => {}
                }
            }
            if bridged.global.as_ref().is_err_and(upstream::Error::unreachable) && !memory.cells.is_empty() {
                for (cell, (_, records)) in &memory.cells {
                    bridged.cells.entry(cell.clone()).or_insert_with(|| Ok(records.clone()));
                }
                bridged.global = Ok(());
            }
            bridged
        })
    }

    /// Forgets a shard that is gone.
    pub fn forget(&self, shard: &str) {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).remove(shard);
    }

    fn with<T>(&self, shard: &str, now: Timestamp, act: impl FnOnce(&mut Memory) -> T) -> T {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        // Shards that nobody asked about for long were deleted while nobody looked.
        shards.retain(|uid, memory| uid == shard || now.duration_since(memory.used) < FORGETS);
        let memory = shards.entry(shard.to_owned()).or_insert_with(|| Memory {
            used: now,
            statuses: BTreeMap::new(),
            cells: BTreeMap::new(),
            bodiless: BTreeMap::new(),
            absent: BTreeMap::new(),
            recorded: BTreeMap::new(),
        });
        memory.used = now;
        act(memory)
    }
}

/// The poolers that have to be asked before one of them counts as primary: those with the highest claim, unless each of them has
/// answered within `recent`.
pub fn to_ask<'a>(
    records: &'a [PoolerRecord],
    statuses: &BTreeMap<PoolerId, primary::Seen>,
    now: Timestamp,
    recent: SignedDuration,
) -> Vec<&'a PoolerRecord> {
    let claims = primary::claims(records);
    let Some(highest) = claims.first().map(|claim| claim.rule) else { return Vec::new() };
    claims
        .into_iter()
        .take_while(|claim| claim.rule == highest)
        .filter(|claim| statuses.get(&claim.id).is_none_or(|seen| now.duration_since(seen.at).abs() >= recent))
        .collect()
}

fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    // A clock that was set back must not make an old answer fresh for ever.
    now.duration_since(at).abs() <= SignedDuration::try_from(FRESH_FOR).unwrap_or(SignedDuration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Error, LifecycleMark, Role, RuleNumber, Serving, ShardKey};

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn claim(name: &str, term: i64) -> PoolerRecord {
        PoolerRecord {
            id: PoolerId::new("z", name),
            shard: ShardKey::default(),
            hostname: String::new(),
            ports: BTreeMap::new(),
            role: Role::Primary,
            rule: Some(RuleNumber { coordinator_term: term, leader_subterm: 0 }),
            lifecycle: LifecycleMark::default(),
            serving: Serving::Serving,
            tls: None,
        }
    }

    fn snapshot(answer: Result<Vec<PoolerRecord>, Error>) -> Snapshot {
        Snapshot { global: Ok(()), cells: BTreeMap::from([("z".to_owned(), answer)]), malformed: Vec::new() }
    }

    fn down() -> Error {
        Error::Unavailable { target: "etcd".into(), detail: "refused".into() }
    }

    fn later(seconds: i64) -> Timestamp {
        NOW + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn an_answer_counts_for_half_a_minute() {
        let seen = Seen::default();
        seen.answered("uid", PoolerId::new("z", "a"), PoolerStatus::default(), NOW);
        assert_eq!(seen.statuses("uid", later(30)).len(), 1);
        assert!(seen.statuses("uid", later(31)).is_empty());
        assert!(seen.statuses("other", NOW).is_empty());
    }

    #[test]
    fn only_the_highest_claims_are_asked_and_not_too_often() {
        let records = [claim("old", 1), claim("a", 2), claim("b", 2)];
        let seen = Seen::default();
        seen.answered("uid", PoolerId::new("z", "a"), PoolerStatus::default(), NOW);
        let ask = |now| {
            let recent = SignedDuration::from_secs(5);
            let statuses = seen.statuses("uid", now);
            to_ask(&records, &statuses, now, recent).into_iter().map(|r| r.id.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(ask(later(4)), ["b"]);
        assert_eq!(ask(later(5)), ["a", "b"]);
    }

    #[test]
    fn a_slow_topology_server_is_bridged_for_half_a_minute() {
        let seen = Seen::default();
        let good = seen.bridge("uid", snapshot(Ok(vec![claim("a", 1)])), NOW);
        assert_eq!(seen.bridge("uid", snapshot(Err(down())), later(20)), good);
        let gone = Snapshot { global: Err(down()), cells: BTreeMap::new(), malformed: Vec::new() };
        assert_eq!(seen.bridge("uid", gone.clone(), later(25)), good);
        assert_eq!(seen.bridge("uid", gone.clone(), later(31)), gone);
        assert_eq!(seen.bridge("other", gone.clone(), later(1)), gone);
    }

    #[test]
    fn a_cell_that_answers_with_an_error_is_not_bridged() {
        let seen = Seen::default();
        seen.bridge("uid", snapshot(Ok(vec![claim("a", 1)])), NOW);
        let absent = snapshot(Err(Error::NotFound { what: "cell z".into() }));
        assert_eq!(seen.bridge("uid", absent.clone(), later(1)), absent);
    }

    #[test]
    fn a_pooler_without_a_pod_is_counted_from_the_first_look() {
        let seen = Seen::default();
        let ids = |names: &[&str]| names.iter().map(|name| PoolerId::new("z", *name)).collect::<Vec<_>>();
        seen.bodiless("uid", ids(&["a"]), NOW);
        let both = seen.bodiless("uid", ids(&["a", "b"]), later(20));
        assert_eq!(both.into_values().collect::<Vec<_>>(), [NOW, later(20)]);
        assert!(seen.bodiless("uid", Vec::new(), later(30)).is_empty());
        assert_eq!(seen.bodiless("uid", ids(&["a"]), later(40)).into_values().collect::<Vec<_>>(), [later(40)]);
    }

    #[test]
    fn a_missing_record_is_counted_from_the_first_look_and_may_have_been_there() {
        let seen = Seen::default();
        let id = |name: &str| PoolerId::new("z", name);
        seen.absences("uid", [id("a")], vec![id("b")], NOW);
        let both = seen.absences("uid", [], vec![id("a"), id("b")], later(20));
        assert_eq!(both[&id("a")], Absence { since: later(20), known: Some(NOW) });
        assert_eq!(both[&id("b")], Absence { since: NOW, known: None });
        assert!(seen.absences("uid", [id("a"), id("b")], Vec::new(), later(30)).is_empty());
        let again = seen.absences("uid", [], vec![id("b")], later(40));
        assert_eq!(again[&id("b")], Absence { since: later(40), known: Some(later(30)) });
        assert_eq!(seen.absences("other", [], vec![id("b")], later(40))[&id("b")].known, None);
    }

    #[test]
    fn forgotten_shards_leave_nothing() {
        let seen = Seen::default();
        seen.answered("uid", PoolerId::new("z", "a"), PoolerStatus::default(), NOW);
        seen.forget("uid");
        seen.answered("old", PoolerId::new("z", "a"), PoolerStatus::default(), NOW);
        seen.statuses("uid", NOW + SignedDuration::from_hours(3));
        assert_eq!(seen.shards.lock().unwrap().len(), 1);
    }
}
