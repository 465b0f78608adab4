//! What is true of a shard at one moment, condensed from what was observed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use shared::{
    api::v1alpha1::DurabilityPolicy,
    health::{self, Rollout},
    label,
    name::{self, multiorch_deployment},
};

use super::{
    disruption::Volume,
    loss,
    observe::{Observed, by_name},
    scope::{Member, Scope},
    sight, stranger,
};
use crate::{
    upstream::{Lifecycle, PoolerId, PoolerRecord, PoolerStatus, Role, primary},
    workload::rollout,
};

/// A condensed view of a shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// How many pool pods there should be.
    pub desired: usize,
    /// Wanted pool pods that are ready and stay.
    pub ready: usize,
    /// Wanted pool pods that are not ready, missing ones included.
    pub unready: Vec<String>,
    /// Pool pods that nobody wants any more.
    pub extra: Vec<String>,
    /// All pool pods that are ready and stay, wanted or not.
    pub serving: usize,
    /// Pods that cannot run by themselves, with the reason.
    pub broken_pods: BTreeMap<String, String>,
    /// The first pod, of a pool or an orchestrator, for which there is no node, and why.
    pub unplaced: Option<String>,
    /// Orchestrator pods that cannot run by themselves, with the reason.
    pub broken_orchestrators: BTreeMap<String, String>,
    /// Cells whose orchestrators are not ready.
    pub waiting_orchestrators: Vec<String>,
    /// Role of each existing pod, from the topology records.
    pub roles: BTreeMap<String, &'static str>,
    /// Pods whose poolers gave up.
    pub quarantined: Vec<String>,
    /// Pods whose poolers registered a name that nobody can resolve.
    pub unresolvable: Vec<String>,
    /// Why the topology cannot be believed to be complete, by cell; the empty name is the global store.
    pub topology_errors: BTreeMap<String, &'static str>,
    /// Whether somebody claims to be primary.
    pub claimed: bool,
    /// The pod of the confirmed primary, or the pooler's id where no pod matches.
    pub primary: Option<String>,
    /// The cell of a primary that has no pod and no successor.
    pub lost_in: Option<String>,
    /// When the primary last confirmed itself.
    pub confirmed: Option<Timestamp>,
    /// Why the durability policy cannot hold, judged by the spec alone.
    pub impossible_durability: Option<&'static str>,
    /// Why the durability policy does not hold yet, judged by the registered poolers.
    pub missing_durability: Option<&'static str>,
    /// Wanted pods whose poolers have not registered.
    pub unregistered: Vec<String>,
    /// Pods that answer and are in no record of the topology, for a while.
    pub forgotten: Vec<String>,
    /// Registered standbys that the confirmed primary does not count among its followers.
    pub detached: Vec<String>,
    /// Registered standbys that are not in the cohort of the confirmed primary's rule: no commit waits for them, so none is safe with them.
    pub uncounted: Vec<String>,
    /// Whether a pool pod has got beyond being scheduled and its images pulled.
    pub started: bool,
    /// Wanted pods of which the data volume is lost, or goes with the pod.
    pub volumes: BTreeMap<String, Volume>,
    /// Whether all that the shard had is gone, so that new volumes would make it an empty one.
    pub data_lost: bool,
}

impl Facts {
    /// Condenses.
    pub fn of(scope: &Scope<'_>, observed: &Observed, now: Timestamp) -> Self {
        let members = scope.members();
        let wanted: BTreeSet<&str> = members.iter().map(|member| member.pod.as_str()).collect();
        let pods = by_name(&observed.pods);
        let records = observed.records();
        let serving = |name: &str| pods.get(name).is_some_and(|pod| health::is_ready(pod));
        let unready: Vec<String> = wanted.iter().filter(|name| !serving(name)).map(|name| (*name).to_owned()).collect();
        let confirmed = primary::confirmed(&records, &observed.statuses, now);
        let orchestrators = by_name(&observed.deployments);
        let waiting = |cell: &&str| {
            let deployment = orchestrators.get(&multiorch_deployment(scope.id(), cell)).copied();
            !Rollout::of_deployment(deployment, []).is_complete()
        };
        let registered: Vec<&PoolerRecord> = records.iter().filter(|record| !record.is_out()).collect();
        Self {
            desired: members.len(),
            ready: members.len() - unready.len(),
            extra: pods.keys().filter(|name| !wanted.contains(name.as_str())).cloned().collect(),
            serving: pods.keys().filter(|name| serving(name)).count(),
            broken_pods: troubles(pods.values().copied()),
            unplaced: rollout::unplaced(&observed.pods, now)
                .or_else(|| rollout::unplaced(&observed.orchestrator_pods, now)),
            broken_orchestrators: troubles(observed.orchestrator_pods.iter().map(AsRef::as_ref)),
            waiting_orchestrators: scope
                .orchestrator_cells()
                .into_iter()
                .filter(waiting)
                .map(ToOwned::to_owned)
                .collect(),
            roles: roles(&records, &pods),
            quarantined: records
                .iter()
                .filter(|record| record.lifecycle.state == Lifecycle::Quarantined)
                .filter_map(|record| pod_of(record, &pods))
                .collect(),
            unresolvable: registered
                .iter()
                .filter(|record| is_bare(&record.hostname))
                .filter_map(|record| pod_of(record, &pods))
                .collect(),
            topology_errors: topology_errors(observed),
            claimed: !primary::claims(&records).is_empty(),
            primary: confirmed.map(|record| pod_of(record, &pods).unwrap_or_else(|| record.id.to_string())),
            lost_in: primary::claims(&records)
                .first()
                .filter(|claim| confirmed.is_none() && observed.bodiless.contains_key(&claim.id))
                .map(|claim| claim.id.cell.clone()),
            confirmed: confirmed.and_then(|record| observed.statuses.get(&record.id)).map(|seen| seen.at),
            impossible_durability: durability(
                scope,
                members.len(),
                members.iter().map(|member| member.pool.id.cell).collect::<BTreeSet<_>>().len(),
            ),
            missing_durability: durability(
                scope,
                registered.len(),
                registered.iter().map(|record| record.id.cell.as_str()).collect::<BTreeSet<_>>().len(),
            ),
            unregistered: unregistered(&wanted, &registered, &pods),
            forgotten: stranger::forgotten(observed, now).into_iter().map(|stranger| stranger.pod.clone()).collect(),
            detached: standbys_without(confirmed, observed, &registered, &pods, |answer, standby| {
                // Without a connection it holds no new commit, whatever its record says.
                answer.primary.as_ref().is_some_and(|primary| primary.followers.contains(standby))
            }),
            uncounted: standbys_without(confirmed, observed, &registered, &pods, |answer, standby| {
                answer.consensus.as_ref().is_none_or(|view| view.cohort.contains(standby))
            }),
            started: pods.values().copied().any(has_started),
            volumes: volumes(&members, observed, &pods),
            data_lost: confirmed.is_none() && loss::is_total(scope, observed),
            unready,
        }
    }

    /// Whether every wanted pool pod is ready.
    pub fn pools_ready(&self) -> bool {
        self.desired > 0 && self.unready.is_empty()
    }

    /// Whether every wanted member serves, or streams and counts for durability, as far as the records and the primary tell.
    pub fn all_well(&self) -> bool {
        self.pools_ready()
            && self.primary.is_some()
            && self.detached.is_empty()
            && self.uncounted.is_empty()
            && self.unregistered.is_empty()
            && self.quarantined.is_empty()
    }

    /// Whether the orchestrators of every cell are ready.
    pub fn orchestrators_ready(&self) -> bool {
        self.waiting_orchestrators.is_empty()
    }
}

fn volumes(members: &[Member<'_>], observed: &Observed, pods: &BTreeMap<String, &Pod>) -> BTreeMap<String, Volume> {
    let claims = by_name(&observed.claims);
    let of = |pod: &String| sight::volume(claims.get(&name::data_pvc(pod)).copied(), pods.contains_key(pod));
    let found = members.iter().map(|member| (member.pod.clone(), of(&member.pod)));
    found.filter(|(_, volume)| *volume != Volume::Fine).collect()
}

fn has_started(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase.is_some_and(|phase| phase != "Pending")
}

fn unregistered(wanted: &BTreeSet<&str>, registered: &[&PoolerRecord], pods: &BTreeMap<String, &Pod>) -> Vec<String> {
    let known: BTreeSet<String> = registered.iter().filter_map(|record| pod_of(record, pods)).collect();
    wanted.iter().filter(|pod| !known.contains(**pod)).map(|pod| (*pod).to_owned()).collect()
}

/// Registered standbys of which the primary's last answer does not tell that they have something. All of them, where it is missing.
fn standbys_without(
    primary: Option<&PoolerRecord>,
    observed: &Observed,
    registered: &[&PoolerRecord],
    pods: &BTreeMap<String, &Pod>,
    has: impl Fn(&PoolerStatus, &PoolerId) -> bool,
) -> Vec<String> {
    let Some(primary) = primary else { return Vec::new() };
    let answer = observed.statuses.get(&primary.id).map(|seen| &seen.status);
    registered
        .iter()
        .filter(|record| record.id != primary.id && !answer.is_some_and(|answer| has(answer, &record.id)))
        .filter_map(|record| pod_of(record, pods))
        .collect()
}

/// Roles as the topology tells them. Of several claims to be primary only the highest-ranked counts: the others are about to learn
/// of a newer rule.
fn roles(records: &[PoolerRecord], pods: &BTreeMap<String, &Pod>) -> BTreeMap<String, &'static str> {
    let highest = primary::claims(records).first().map(|claim| claim.rule);
    records
        .iter()
        .filter_map(|record| {
            let role = match record.lifecycle.state {
                Lifecycle::Shutdown => return None,
                Lifecycle::Quarantined => "QUARANTINED",
                _ if record.role == Role::Primary && Some(record.rule) == highest => "PRIMARY",
                _ => "REPLICA",
            };
            Some((pod_of(record, pods)?, role))
        })
        .collect()
}

/// The existing pod that a record is about: by the id that follows from the pod's name, else by the host name. The cell is part of
/// an id, so a record of another cell never matches.
pub fn pod_of(record: &PoolerRecord, pods: &BTreeMap<String, &Pod>) -> Option<String> {
    let in_cell = |pod: &Pod| pod.labels().get(label::CELL).is_none_or(|cell| *cell == record.id.cell);
    let candidates = || pods.iter().filter(|(_, pod)| in_cell(pod)).map(|(name, _)| name);
    candidates()
        .find(|name| name::pooler_service_id(name) == record.id.name)
        .or_else(|| candidates().find(|name| record.is_of_pod(name)))
        .cloned()
}

/// Whether a host name works inside its own pod at most: neither an address nor a name with a domain.
fn is_bare(host: &str) -> bool {
    !host.contains('.') && host.parse::<std::net::IpAddr>().is_err()
}

fn troubles<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeMap<String, String> {
    pods.filter_map(health::crash)
        .map(|crash| (crash.pod, format!("container {}: {}", crash.container, crash.reason)))
        .collect()
}

fn topology_errors(observed: &Observed) -> BTreeMap<String, &'static str> {
    let global = observed.topology.global.as_ref().err().map(|error| (String::new(), error.reason()));
    let cells = observed.topology.cells.iter();
    let failed = cells.filter_map(|(cell, answer)| Some((cell.clone(), answer.as_ref().err()?.reason())));
    global.into_iter().chain(failed).collect()
}

/// Why `members` in `cells` cannot keep the promise of the durability policy.
fn durability(scope: &Scope<'_>, members: usize, cells: usize) -> Option<&'static str> {
    match scope.spec().durability_policy.unwrap_or_default() {
        DurabilityPolicy::MultiCellAtLeast2 if cells < 2 => Some("MULTI_CELL_AT_LEAST_2 needs poolers in two cells"),
        DurabilityPolicy::AtLeast2 | DurabilityPolicy::MultiCellAtLeast2 if members < 2 => {
            Some("AT_LEAST_2 needs two poolers")
        }
        _ => None,
    }
}

/// Names for a message: all of a few, the first of many.
pub fn names<S: AsRef<str>>(all: impl IntoIterator<Item = S>) -> String {
    const SHOWN: usize = 3;
    let all: Vec<String> = all.into_iter().map(|name| name.as_ref().to_owned()).collect();
    let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
