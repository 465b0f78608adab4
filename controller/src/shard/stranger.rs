//! Pods that run, answer, and are in no topology record: their poolers have registered once, and do not notice that the topology has lost it.
//!
//! Gateways send nobody to a pooler without a record, so a topology that was wiped is a lasting outage although PostgreSQL goes on. A pooler
//! writes its record when it starts and when its role changes. What is lost comes back member by member: standbys are made anew, one at a
//! time, and the primary, which is never deleted for this, hands over to one of them.
//!
//! A record that is missing proves nothing by itself. Here counts only what each pooler says of itself, asked at the address of its pod,
//! a moment ago and under its own id. One pod that does not answer, and nobody is known to lead.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Condition};
use kube::ResourceExt as _;
use shared::{condition, health, label, name};

use super::{
    disruption::{ABORT_AFTER, LAG_LIMIT},
    observe::{InternalTls, Observed, by_name},
    port,
    primary::Absence,
    sight,
    status::POOLERS_UNREGISTERED,
};
use crate::{
    cluster::tls,
    upstream::{
        ConsensusView, Lifecycle, LifecycleMark, PoolerAddress, PoolerId, PoolerRecord, PoolerStatus, Role, RuleNumber,
        Serving, ShardKey, Snapshot,
    },
};

/// How long a pod that is ready may be in no record before it is asked, and named: a new one has yet to register.
const NAMED_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// A pod that is ready, in a cell that the topology knows, and in no record.
#[derive(Clone, Debug, PartialEq)]
pub struct Stranger {
    /// The pod.
    pub pod: String,
    /// The id that its pooler has, as follows from the pod's name.
    pub id: PoolerId,
    /// Where its pooler listens.
    pub address: PoolerAddress,
    /// Since when there has been no record, and when there was one, as far as this process knows.
    pub absence: Absence,
}

/// The strangers among pods. `remember` keeps what they are known since.
///
/// Nobody is one while the topology does not answer completely, or does not know the cell yet: after a loss the cells come back first.
pub fn find(
    topology: &Snapshot,
    pods: &[Arc<Pod>],
    internal_tls: &InternalTls,
    remember: impl FnOnce(Vec<PoolerId>) -> BTreeMap<PoolerId, Absence>,
) -> Vec<Stranger> {
    if !topology.is_complete() {
        return Vec::new();
    }
    let records: Vec<PoolerRecord> = topology.poolers().cloned().collect();
    let unknown = |pod: &Arc<Pod>| {
        let (name, cell) = (pod.name_any(), pod.labels().get(label::CELL)?);
        let host = pod.status.as_ref()?.pod_ip.clone().filter(|ip| !ip.is_empty())?;
        let registers = topology.cells.contains_key(cell) && health::is_ready(pod);
        let port = u16::try_from(port::POOLER_GRPC).unwrap_or_default();
        let address = PoolerAddress::new(host, port).over(internal_tls.to(pod, tls::MULTIPOOLER));
        let id = PoolerId::new(cell.as_str(), name::pooler_service_id(&name));
        (registers && sight::record_of(&records, &name, cell).is_none()).then_some((name, id, address))
    };
    let found: Vec<(String, PoolerId, PoolerAddress)> = pods.iter().filter_map(unknown).collect();
    let absences = remember(found.iter().map(|(_, id, _)| id.clone()).collect());
    let strangers = found.into_iter().filter_map(|(pod, id, address)| {
        let absence = *absences.get(&id)?;
        Some(Stranger { pod, id, address, absence })
    });
    strangers.collect()
}

impl Stranger {
    /// Whether it is time to ask it.
    pub fn is_named(&self, told: bool, now: Timestamp) -> bool {
        told || now.duration_since(self.absence.since) >= NAMED_AFTER
    }

    /// Whether a new pod in its place is the cure. It has been in no record for two minutes, and is older than that: a pod that was made since
    /// and has not registered either would be replaced in vain. Where this process saw its record, that tells it from a new one; after
    /// a restart the condition does, since when the first of them was named.
    fn is_overdue(&self, pod: &Pod, told: Option<Timestamp>, now: Timestamp) -> bool {
        let limit = SignedDuration::try_from(ABORT_AFTER).unwrap_or(SignedDuration::MAX);
        let long = |since: Timestamp| now.duration_since(since) >= limit;
        let Some(created) = pod.creation_timestamp().map(|created| created.0) else { return false };
        let had_one = self.absence.known.is_some_and(|known| known > created);
        (had_one && long(self.absence.since)) || told.is_some_and(|told| long(told) && created < told)
    }

    /// What would stand in its record.
    fn record(&self, leader: Option<&(PoolerId, RuleNumber)>) -> PoolerRecord {
        let rule = leader.filter(|(id, _)| *id == self.id).map(|(_, rule)| *rule);
        PoolerRecord {
            id: self.id.clone(),
            shard: ShardKey::default(),
            hostname: self.address.host.clone(),
            ports: BTreeMap::from([("grpc".to_owned(), self.address.port)]),
            role: if rule.is_some() { Role::Primary } else { Role::Replica },
            rule,
            lifecycle: LifecycleMark { state: Lifecycle::Active, ..LifecycleMark::default() },
            serving: Serving::Serving,
            tls: self.address.tls.clone(),
        }
    }
}

/// Since when the status has named pods that are in no record.
pub fn told(conditions: &[Condition]) -> Option<Timestamp> {
    let told = condition::find(conditions, POOLERS_UNREGISTERED).filter(|told| told.status == "True")?;
    Some(told.last_transition_time.0)
}

fn told_of(observed: &Observed) -> Option<Timestamp> {
    told(observed.shard.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default())
}

/// The strangers that have been in no record for a while, and have just answered.
pub fn forgotten(observed: &Observed, now: Timestamp) -> Vec<&Stranger> {
    if observed.strangers.is_empty() {
        return Vec::new();
    }
    let told = told_of(observed).is_some();
    let pods = by_name(&observed.pods);
    let answers = |stranger: &&Stranger| {
        let pod = pods.get(&stranger.pod);
        pod.is_some_and(|pod| answer(observed, &stranger.id, pod, now).is_some())
    };
    observed.strangers.iter().filter(|stranger| stranger.is_named(told, now)).filter(answers).collect()
}

/// Pods of those for which a new one is the cure.
pub fn overdue(observed: &Observed, now: Timestamp) -> BTreeSet<String> {
    let told = told_of(observed);
    let is_overdue = |stranger: &&Stranger| {
        let pod = observed.pods.iter().find(|pod| pod.name_any() == stranger.pod);
        pod.is_some_and(|pod| stranger.is_overdue(pod, told, now))
    };
    forgotten(observed, now).into_iter().filter(is_overdue).map(|stranger| stranger.pod.clone()).collect()
}

/// The records of the topology, and what would stand in those that it has lost, as their poolers say themselves.
pub fn known(observed: &Observed, now: Timestamp) -> Vec<PoolerRecord> {
    let mut records = observed.records();
    let forgotten = forgotten(observed, now);
    let leader = if forgotten.is_empty() { None } else { leader(observed, &records, &forgotten, now) };
    records.extend(forgotten.into_iter().map(|stranger| stranger.record(leader.as_ref())));
    records
}

/// Who leads although no record says so, and by which rule.
///
/// Nobody, unless there is no doubt: no record claims it, every pod there is has just answered under its own id, exactly one serves, by the
/// newest rule that anybody has heard of, everybody whom that rule counts is among those who answered, and all others follow closely.
/// A primary elsewhere would need a newer rule, and most of those who answered would have had to accept that.
fn leader(
    observed: &Observed,
    records: &[PoolerRecord],
    forgotten: &[&Stranger],
    now: Timestamp,
) -> Option<(PoolerId, RuleNumber)> {
    if records.iter().any(|record| record.role == Role::Primary) {
        return None;
    }
    let mut answers: BTreeMap<PoolerId, &PoolerStatus> = BTreeMap::new();
    for pod in &observed.pods {
        let (name, cell) = (pod.name_any(), pod.labels().get(label::CELL)?);
        let stranger = forgotten.iter().find(|stranger| stranger.pod == name).map(|stranger| &stranger.id);
        let id = stranger.or_else(|| sight::record_of(records, &name, cell).map(|record| &record.id))?;
        answers.insert(id.clone(), answer(observed, id, pod, now)?);
    }
    let mut serving = answers.iter().filter(|(_, status)| status.is_serving_primary());
    let ((id, status), None) = (serving.next()?, serving.next()) else { return None };
    let led = status.consensus.as_ref().filter(|view| view.leader.as_ref() == Some(id))?;
    let agrees =
        |view: &ConsensusView| view.rule < led.rule || (view.rule == led.rule && view.leader.as_ref() == Some(id));
    let newest = answers.values().filter_map(|other| other.consensus.as_ref()).all(agrees);
    let counted = led.cohort.iter().all(|member| answers.contains_key(member));
    let mut others = answers.iter().filter(|(other, _)| *other != id);
    let followed = others.all(|(other, of)| status.is_caught_up(other, of, LAG_LIMIT));
    (newest && counted && followed).then(|| (id.clone(), led.rule))
}

/// What the pooler of a pod said a moment ago, if it was this one: under its own id, and not the one before it under the same name.
fn answer<'a>(observed: &'a Observed, id: &PoolerId, pod: &Pod, now: Timestamp) -> Option<&'a PoolerStatus> {
    let seen = observed.statuses.get(id).filter(|seen| sight::is_fresh(seen, now))?;
    let of_this_pod = pod.creation_timestamp().is_none_or(|created| seen.at >= created.0 + sight::BORN);
    (of_this_pod && seen.status.id.as_ref() == Some(id)).then_some(&seen.status)
}
