//! Condenses what was observed of a shard into what the disruption planner looks at. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::ResourceExt;
use shared::{
    annotation::{self, DrainState},
    condition, health, label, name,
};

use super::{
    claim, container,
    disruption::{
        Cause, Drain, FRESH_FOR, Failures, Member, Misplaced, Node, Presence, Reason, Role, View, Vitals, Volume, Wait,
    },
    observe::{Observed, by_name, is_deleting},
    pod,
    scope::{self, Scope},
    status::{DISRUPTION_BLOCKED, PRIMARY_CONFIRMED, VOLUME_LOST, had_primary},
    stranger,
};
use crate::{
    backup::judge::{BACKUP_HEALTHY, WAL_ARCHIVING},
    upstream::{
        Lifecycle, PoolerId, PoolerRecord, PoolerStatus, Role as Claim,
        primary::{self, Seen},
    },
};

/// The API server tells the time of a pod's creation in whole seconds, and by its own clock. Nobody is up sooner.
pub const BORN: SignedDuration = SignedDuration::from_secs(2);
/// How long a file system may take to grow in use.
const ONLINE_RESIZE: SignedDuration = SignedDuration::from_mins(5);

/// How running pods differ from what the spec asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Differences {
    /// Pods that only a new pod brings up to date, with the first difference.
    pub outdated: BTreeMap<String, String>,
    /// Digest of the settings that a reload brings into force; none while they cannot be rendered.
    pub reload_hash: Option<String>,
}

/// What the planner sees.
pub fn view(scope: &Scope<'_>, observed: &Observed, differences: &Differences, now: Timestamp) -> View {
    let pods = by_name(&observed.pods);
    let claims = by_name(&observed.claims);
    let records = stranger::known(observed, now);
    let forgotten: BTreeSet<&str> =
        stranger::forgotten(observed, now).into_iter().map(|stranger| stranger.pod.as_str()).collect();
    let overdue = stranger::overdue(observed, now);
    let claim = primary::claims(&records).first().copied();
    let top = claim.map(|claim| claim.rule);
    let seen = Conversation::of(observed, &records, now);
    let led_by = seen.primary.and_then(|(record, _)| record.rule);
    let asked: BTreeMap<String, scope::Member<'_>> =
        scope.members().into_iter().map(|member| (member.pod.clone(), member)).collect();
    let wanted: BTreeMap<&String, (&str, u32)> =
        asked.iter().map(|(pod, member)| (pod, (member.pool.id.cell, member.index))).collect();
    // Nobody may want the lost primary any more, but somebody has to take over from it.
    let lost = claim.filter(|claim| observed.bodiless.contains_key(&claim.id));
    let lost = lost.and_then(|claim| Some((claim.pod_name()?.to_owned(), claim.id.cell.clone())));
    let names: BTreeSet<&String> = asked.keys().chain(pods.keys()).chain(lost.as_ref().map(|(name, _)| name)).collect();
    let mut members = Vec::new();
    for name in names {
        let live = pods.get(name).copied();
        let cell = wanted.get(name).map(|(cell, _)| (*cell).to_owned());
        let cell = cell.or_else(|| live.and_then(|pod| pod.labels().get(label::CELL).cloned()));
        let of_lost = || lost.as_ref().filter(|(lost, _)| lost == name).map(|(_, cell)| cell.clone());
        let cell = cell.or_else(of_lost).unwrap_or_default();
        let record = record_of(&records, name, &cell);
        let claim = claims.get(&name::data_pvc(name)).copied();
        let claims_primary =
            record.is_some_and(|record| record.role == Claim::Primary && !record.is_out() && top == Some(record.rule));
        let created = live.and_then(ResourceExt::creation_timestamp).map(|at| at.0);
        let answer = record.and_then(|record| seen.answer(&record.id, created));
        // Nobody tells a primary without a record that another one was elected: it has lost its followers all the same.
        let superseded = |status: &PoolerStatus| {
            forgotten.contains(name.as_str()) && status.consensus.as_ref().is_some_and(|view| led_by > Some(view.rule))
        };
        let serves = answer.is_some_and(|status| status.is_serving_primary() && !superseded(status));
        let outdated = live
            .and_then(|pod| outdated(pod, name, differences))
            .or_else(|| overdue.contains(name).then(|| "its record in the topology is missing".to_owned()));
        // An exporter that cannot run does not keep the description away that cures it. A new pod has to be ready as a whole.
        let ready = |pod: &Pod| health::is_ready(pod) || (outdated.is_some() && lacks_only_exporter(pod));
        members.push(Member {
            pod: name.clone(),
            index: wanted.get(name).map_or_else(|| index_of(name), |(_, index)| *index),
            wanted: wanted.contains_key(name),
            presence: live.map_or(Presence::Missing, presence),
            created,
            drain: live.and_then(|pod| drain(pod, now)),
            failures: live.map_or(Failures::default(), failures),
            registered: record.is_some() && !forgotten.contains(name.as_str()),
            forgotten: forgotten.contains(name.as_str()),
            resize_pending: live.is_some() && claim.is_some_and(|claim| resizes_offline(claim, created, now)),
            misplaced: asked
                .get(name)
                .zip(live)
                .zip(claim)
                .and_then(|((member, pod), claim)| misplaced(member, pod, claim, observed)),
            volume: volume(claim, live.is_some()),
            reload_pending: live.is_some_and(|pod| needs_reload(pod, differences)),
            ready: live.is_some_and(ready),
            outdated,
            trouble: live.and_then(trouble),
            node: live.map_or(Node::Fine, |pod| node(pod, observed)),
            lifecycle: record.map_or(Lifecycle::Unknown, |record| record.lifecycle.state),
            lifecycle_since: record.and_then(|record| record.lifecycle.updated),
            role: if claims_primary || serves {
                Role::Primary
            } else if record.is_some_and(|record| record.lifecycle.state != Lifecycle::Shutdown) {
                Role::Standby
            } else {
                Role::Unknown
            },
            connected: live.is_some()
                && record.map_or_else(
                    || seen.follows(&PoolerId::new(cell.as_str(), name::pooler_service_id(name))),
                    |record| seen.follows(&record.id),
                ),
            vitals: record.and_then(|record| seen.vitals(record, created)),
            cell,
        });
    }
    let previous = scope.shard.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let led = condition::find(previous, PRIMARY_CONFIRMED);
    let lost_volumes = condition::find(previous, VOLUME_LOST).filter(|lost| lost.status == "True");
    let since = |status: &str| led.filter(|led| led.status == status).map(|led| led.last_transition_time.0);
    View {
        now,
        policy: scope.spec().durability_policy.unwrap_or_default(),
        paused: is_paused(scope),
        blind: blind(observed),
        waiting: waiting(previous),
        lost_since: since("False"),
        led_since: since("True"),
        ever_led: ever_led(previous, observed),
        volume_lost_since: lost_volumes.map(|lost| lost.last_transition_time.0),
        last_quarantine: observed.claims.iter().filter_map(|claim| quarantined_at(claim)).max(),
        set_aside: observed.claims.iter().filter(|claim| quarantined_at(claim).is_some()).count(),
        unrestorable: unrestorable(scope, previous),
        members,
    }
}

/// Whether anything remembers a primary. Each of these may be lost: the status, the label that only a confirmed primary gets, and the
/// budgets, which are not made before the first one.
pub fn ever_led(previous: &[Condition], observed: &Observed) -> bool {
    let mut roles = observed.pods.iter().filter_map(|pod| pod.labels().get(label::ROLE));
    had_primary(previous) || !observed.budgets.is_empty() || roles.any(|role| role == label::PRIMARY)
}

/// Why a member could not be made anew from the backups, as the last status tells. Where it says nothing the primary is asked before a volume is
/// given up; here other work does not wait for that answer.
fn unrestorable(scope: &Scope<'_>, previous: &[Condition]) -> Option<&'static str> {
    let fails = |type_: &str| condition::find(previous, type_).filter(|found| found.status == "False");
    if scope.backup().is_none() {
        return Some("there are no backups that it could be made from");
    }
    if fails(WAL_ARCHIVING).is_some() {
        return Some("WAL does not reach the repository of the backups");
    }
    match fails(BACKUP_HEALTHY)?.reason.as_str() {
        "NoBackups" => Some("no backup is complete yet"),
        "RepositoryUnreachable" => Some("the repository of the backups cannot be read"),
        _ => None,
    }
}

/// What was in the way before this pass, and since when.
fn waiting(previous: &[Condition]) -> Option<(Wait, Timestamp)> {
    let blocked = condition::find(previous, DISRUPTION_BLOCKED).filter(|blocked| blocked.status == "True")?;
    let reason: Reason = blocked.reason.parse().ok()?;
    Some((reason.wait(), blocked.last_transition_time.0))
}

/// How a member's volume differs from what the spec asks for. A volume that asked for no class got the default one, and what another operator
/// has made is left as it is.
fn misplaced(
    member: &scope::Member<'_>,
    pod: &Pod,
    live: &PersistentVolumeClaim,
    observed: &Observed,
) -> Option<Misplaced> {
    let class = member.pool.spec.storage.as_ref()?.storage_class().filter(|class| !class.is_empty())?;
    if pod::is_foreign(pod) || claim::class(live) == Some(class) {
        return None;
    }
    let exists = observed.classes.as_ref().is_none_or(|classes| classes.names.contains(class));
    Some(Misplaced { class: class.to_owned(), exists })
}

/// What has become of the volume behind a claim, whose pod is there or not. Without a pod a claim that is about to go is no loss: it is made anew.
pub fn volume(claim: Option<&PersistentVolumeClaim>, used: bool) -> Volume {
    match claim {
        Some(claim) if claim::is_lost(claim) => Volume::Lost,
        Some(claim) if used && is_deleting(claim) => Volume::Leaving,
        _ => Volume::Fine,
    }
}

/// Whether the user wants nothing disturbed.
fn is_paused(scope: &Scope<'_>) -> bool {
    scope.shard.annotations().get(annotation::PAUSE).is_some_and(|value| value != "false")
}

/// Why nothing may be concluded from the topology.
fn blind(observed: &Observed) -> Option<String> {
    if let Some(reason) = &observed.topology_away {
        return Some(format!("The topology does not answer ({reason})"));
    }
    (!observed.topology.is_complete()).then(|| "The topology is not complete".to_owned())
}

/// When a claim was set aside because the pooler on it had given up.
pub fn quarantined_at(claim: &PersistentVolumeClaim) -> Option<Timestamp> {
    claim.annotations().get(annotation::QUARANTINED_AT)?.parse().ok()
}

/// The record that the pooler in a pod has written, or will overwrite. One of another id may bear the name of its host: what an earlier pooler
/// there has left says nothing about this one.
pub fn record_of<'a>(records: &'a [PoolerRecord], pod: &str, cell: &str) -> Option<&'a PoolerRecord> {
    let in_cell = || records.iter().filter(|record| record.id.cell == cell);
    let id = name::pooler_service_id(pod);
    in_cell().find(|record| record.id.name == id).or_else(|| in_cell().find(|record| record.is_of_pod(pod)))
}

/// The number at the end of a pod's name.
fn index_of(pod: &str) -> u32 {
    pod.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn presence(pod: &Pod) -> Presence {
    match &pod.metadata.deletion_timestamp {
        Some(due) => Presence::Leaving { due: due.0 },
        None if pod::is_terminal(pod) => Presence::Ended,
        None => Presence::Live,
    }
}

fn drain(pod: &Pod, now: Timestamp) -> Option<Drain> {
    let of = |key: &str| pod.annotations().get(key);
    let state: DrainState = of(annotation::DRAIN_STATE)?.parse().ok()?;
    let time = |key: &str| of(key).and_then(|value| value.parse::<Timestamp>().ok());
    // A time that cannot be read is as old as the pod: it must neither last for ever nor look fresh on each pass.
    let created = pod.creation_timestamp().map_or(now, |at| at.0);
    let requested = time(annotation::DRAIN_REQUESTED_AT).unwrap_or(created);
    Some(Drain {
        state,
        cause: of(annotation::DRAIN_REASON).and_then(|cause| cause.parse::<Cause>().ok()),
        requested,
        since: time(annotation::DRAIN_STATE_SINCE).unwrap_or(requested),
    })
}

fn failures(pod: &Pod) -> Failures {
    let of = |key: &str| pod.annotations().get(key);
    Failures {
        count: of(annotation::SWITCHOVER_FAILURES).and_then(|count| count.parse().ok()).unwrap_or(0),
        last: of(annotation::SWITCHOVER_FAILED_AT).and_then(|at| at.parse().ok()),
    }
}

fn outdated(pod: &Pod, name: &str, differences: &Differences) -> Option<String> {
    if let Some(difference) = differences.outdated.get(name) {
        return Some(difference.clone());
    }
    let required = pod.annotations().get(annotation::RESTART_REQUIRED)?;
    (Some(required) == differences.reload_hash.as_ref())
        .then(|| "settings that a reload did not bring into force".to_owned())
}

fn needs_reload(pod: &Pod, differences: &Differences) -> bool {
    let Some(wanted) = &differences.reload_hash else { return false };
    let of = |key: &str| pod.annotations().get(key);
    // A new pod reads all settings when it starts.
    !differences.outdated.contains_key(&pod.name_any())
        && of(annotation::POSTGRES_RELOAD_HASH) != Some(wanted)
        && of(annotation::RESTART_REQUIRED) != Some(wanted)
}

/// Whether a file system waits for the next start of its pod, which was `created` before it had to wait: a pod that has started since then did
/// not help. Where the driver can grow it in use, the kubelet does so within moments.
fn resizes_offline(claim: &PersistentVolumeClaim, created: Option<Timestamp>, now: Timestamp) -> bool {
    let conditions = claim.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| {
        let helps = c.last_transition_time.as_ref().is_none_or(|since| {
            now.duration_since(since.0) >= ONLINE_RESIZE && created.is_none_or(|created| created < since.0)
        });
        c.type_ == "FileSystemResizePending" && c.status == "True" && helps
    })
}

/// Why a pod cannot run by itself. Without its exporter it can.
fn trouble(pod: &Pod) -> Option<String> {
    if let Some(crash) = health::crashes(pod).into_iter().find(|crash| crash.container != container::EXPORTER) {
        return Some(format!("container {}: {}", crash.container, crash.reason));
    }
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let unscheduled = |c: &&k8s_openapi::api::core::v1::PodCondition| c.type_ == "PodScheduled" && c.status == "False";
    let found = conditions.into_iter().flatten().find(unscheduled)?;
    Some(found.reason.clone().unwrap_or_else(|| "Unschedulable".to_owned()))
}

/// Whether nothing but its exporter keeps a pod from being ready. No commit waits for that.
fn lacks_only_exporter(pod: &Pod) -> bool {
    let Some(status) = pod.status.as_ref().filter(|_| !health::is_terminating(pod)) else { return false };
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let mut unready = containers.into_iter().flatten().flatten().filter(|one| !one.ready).peekable();
    unready.peek().is_some() && unready.all(|one| one.name == container::EXPORTER)
}

fn node(pod: &Pod, observed: &Observed) -> Node {
    let spec = pod.spec.as_ref();
    let name = spec.and_then(|spec| spec.node_name.as_ref());
    let Some(seen) = name.and_then(|name| observed.nodes.get(name)) else { return Node::Fine };
    let tolerations = spec.and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    seen.for_pod(tolerations)
}

/// What the poolers said lately.
struct Conversation<'a> {
    answers: BTreeMap<&'a PoolerId, &'a Seen>,
    primary: Option<(&'a PoolerRecord, &'a PoolerStatus)>,
}

impl<'a> Conversation<'a> {
    fn of(observed: &'a Observed, records: &'a [PoolerRecord], now: Timestamp) -> Self {
        let answers: BTreeMap<&PoolerId, &Seen> =
            observed.statuses.iter().filter(|(_, seen)| is_fresh(seen, now)).collect();
        let confirmed = primary::confirmed(records, &observed.statuses, now);
        let primary = confirmed.and_then(|record| Some((record, &answers.get(&record.id)?.status)));
        Self { answers, primary }
    }

    /// What a pooler said about itself, in the pod that exists now: its predecessor under the same name may have been well.
    fn answer(&self, id: &PoolerId, created: Option<Timestamp>) -> Option<&'a PoolerStatus> {
        let seen = self.answers.get(id).copied()?;
        let of_this_pod = created.is_none_or(|created| seen.at >= created + BORN);
        let status = &seen.status;
        (of_this_pod && status.id.as_ref().is_none_or(|own| own == id)).then_some(status)
    }

    /// Whether the primary says that a pooler's PostgreSQL is connected to it.
    fn follows(&self, id: &PoolerId) -> bool {
        let connections = self.primary.and_then(|(_, primary)| primary.primary.as_ref());
        connections.is_some_and(|connections| connections.followers.contains(id))
    }

    fn vitals(&self, record: &PoolerRecord, created: Option<Timestamp>) -> Option<Vitals> {
        let status = self.answer(&record.id, created)?;
        let rule = self.primary.and_then(|(_, primary)| primary.consensus.as_ref());
        let end = self.primary.and_then(|(_, primary)| primary.primary.as_ref()?.lsn);
        let replayed = status.replication.as_ref().and_then(|view| view.replayed);
        Some(Vitals {
            postgres_ready: status.postgres_ready,
            serving: self.primary.is_some_and(|(primary, _)| primary.id == record.id),
            streaming: status.is_streaming() && self.follows(&record.id),
            lag: match (end, replayed) {
                (Some(end), Some(replayed)) => end.0.saturating_sub(replayed.0),
                // Who does not tell how far it is has not been seen to be close.
                _ if status.is_streaming() => u64::MAX,
                _ => 0,
            },
            in_cohort: rule.is_some_and(|rule| rule.cohort.contains(&record.id)),
        })
    }
}

/// Whether an answer is young enough to decide about a disruption.
pub fn is_fresh(seen: &Seen, now: Timestamp) -> bool {
    now.duration_since(seen.at).abs() <= SignedDuration::try_from(FRESH_FOR).unwrap_or(SignedDuration::ZERO)
}

/// Whether one of these answers is too old to decide about a disruption.
pub fn is_stale(seen: Option<&Seen>, now: Timestamp, limit: Duration) -> bool {
    let limit = SignedDuration::try_from(limit).unwrap_or(SignedDuration::ZERO);
    seen.is_none_or(|seen| now.duration_since(seen.at).abs() > limit)
}
