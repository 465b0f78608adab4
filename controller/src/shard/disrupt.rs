//! Turns what the disruption planner decided into writes. Pure.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use shared::{
    annotation::{self, DrainState},
    health, name,
    pgconfig::Rendered,
};

use super::{
    claim,
    disruption::{ABORT_AFTER, Act, Ending, Reason, Row, Verdict, View},
    observe::{Observed, by_name},
    port, stranger,
};
use crate::{
    cluster::tls,
    plan::{Action, Drain, Note, Plan, Target},
    upstream::{PoolerAddress, PoolerRecord},
};

/// While the data plane is at work, nothing but asking tells how far it is.
const SOON: Duration = Duration::from_secs(1);
/// What only time or somebody else can change need not be asked about all the time.
const PATIENTLY: Duration = Duration::from_secs(10);
/// While nobody takes writes, every moment counts.
const AT_ONCE: Duration = Duration::from_millis(300);

/// Adds the writes that carry out a verdict, and what there is to tell about it.
pub fn carry_out<S>(
    observed: &Observed,
    view: &View,
    verdict: &Verdict,
    rendered: Option<&Rendered>,
    plan: &mut Plan<S>,
) {
    let hands = Hands { observed, view, pods: by_name(&observed.pods), records: stranger::known(observed, view.now) };
    plan.notes.extend(verdict.notes.iter().cloned());
    let Some(act) = &verdict.act else { return };
    match act {
        Act::Replace { pod } => hands.remove("PodReplaced", pod, plan),
        Act::FreshVolume { pod } => hands.fresh_volume(pod, plan),
        Act::ReplaceVolume { pod } => hands.replace_volume(pod, plan),
        Act::Request { pod, cause } => {
            let now = moment(view.now);
            let marks = json!({
                annotation::DRAIN_STATE: DrainState::Requested.to_string(),
                annotation::DRAIN_REASON: cause.to_string(),
                annotation::DRAIN_REQUESTED_AT: now,
                annotation::DRAIN_STATE_SINCE: now,
            });
            plan.notes.push(Note::normal("DrainStarted", format!("{pod} is next ({cause})")));
            hands.mark("DrainStarted", pod, marks, plan);
        }
        Act::Advance { pod, to } => hands.mark("DrainAdvanced", pod, hands.state(*to), plan),
        Act::Resign { pod } => hands.resign(pod, plan),
        Act::LeaveCohort { pod } => hands.leave_cohort(pod, plan),
        Act::Remove { pod } => hands.remove(hands.result_of(pod), pod, plan),
        Act::Drop { pod, ending } => hands.drop_choice(pod, *ending, plan),
        Act::Hasten => plan.write("Hasten", Action::Hasten { orchestrators: hands.orchestrators() }),
        Act::Reload { pods } => {
            let Some(rendered) = rendered else { return };
            for pod in pods {
                hands.reload(pod, rendered, plan);
            }
        }
    }
}

/// When to look again while something is under way.
pub fn requeue(verdict: &Verdict) -> Option<Duration> {
    match (&verdict.act, verdict.row) {
        (Some(Act::Hasten), _) | (_, Row::Lost) => Some(AT_ONCE),
        // The kubelet takes a minute to bring new settings, and each try takes the lock that a failover needs.
        (Some(Act::Reload { .. }), _) => Some(PATIENTLY),
        (Some(_), _) | (None, Row::Draining | Row::Waiting | Row::Split) => Some(SOON),
        (None, Row::NodeDrain | Row::NoQuorum | Row::Switchover) => {
            let waits = verdict.blocker.as_ref().is_some_and(|blocker| blocker.reason != Reason::SwitchoverFailed);
            waits.then_some(SOON)
        }
        (None, _) => None,
    }
}

/// How long the shard may be left alone although it is not settled: what is under way takes its time, or waits for somebody.
pub fn at_leisure(view: &View, verdict: &Verdict) -> Option<Duration> {
    let lasts = verdict.blocker.as_ref().is_some_and(|blocker| view.waited(blocker.reason.wait(), ABORT_AFTER));
    let waits = verdict.act.is_none() && lasts;
    (waits || matches!(verdict.act, Some(Act::Reload { .. }))).then_some(PATIENTLY)
}

struct Hands<'a> {
    observed: &'a Observed,
    view: &'a View,
    pods: BTreeMap<String, &'a Pod>,
    records: Vec<PoolerRecord>,
}

impl Hands<'_> {
    fn target(&self, pod: &str) -> Option<Target> {
        self.pods.get(pod).and_then(|pod| Target::of(*pod))
    }

    fn state(&self, to: DrainState) -> Value {
        json!({
            annotation::DRAIN_STATE: to.to_string(),
            annotation::DRAIN_STATE_SINCE: moment(self.view.now),
        })
    }

    fn marks(&self, pod: &str, annotations: Value) -> Option<Action> {
        let mut patch = json!({ "metadata": {} });
        patch["metadata"]["annotations"] = annotations;
        Some(Action::Merge { target: self.target(pod)?, patch })
    }

    fn mark<S>(&self, reason: &'static str, pod: &str, annotations: Value, plan: &mut Plan<S>) {
        if let Some(action) = self.marks(pod, annotations) {
            plan.write(reason, action);
        }
    }

    /// Exactly the pod that was judged, and nothing that changed since.
    fn removal(&self, pod: &str) -> Option<Action> {
        let version = self.pods.get(pod)?.resource_version()?;
        Some(Action::Remove { target: self.target(pod)?, resource_version: version })
    }

    fn remove<S>(&self, reason: &'static str, pod: &str, plan: &mut Plan<S>) {
        if let Some(action) = self.removal(pod) {
            plan.write_last(reason, action, self.drain_of(pod));
        }
    }

    /// Why a pod was chosen to leave service, and how long ago.
    fn drain_of(&self, pod: &str) -> Option<Drain> {
        let member = self.view.members.iter().find(|member| member.pod == pod)?;
        let drain = member.drain.as_ref()?;
        let took = Duration::try_from(self.view.now.duration_since(drain.requested)).unwrap_or_default();
        Some(Drain { cause: drain.cause.map_or("unknown", Into::into), took })
    }

    /// Counted as forced if the primary's rule still counts a member that nobody wants.
    fn result_of(&self, pod: &str) -> &'static str {
        let member = self.view.members.iter().find(|member| member.pod == pod);
        let forced = member.is_some_and(|m| !m.wanted && m.vitals.is_some_and(|vitals| vitals.in_cohort));
        if forced { "DrainForced" } else { "DrainCompleted" }
    }

    fn resign<S>(&self, pod: &str, plan: &mut Plan<S>) {
        let Some(primary) = self.address(pod) else { return };
        let healthy = self.view.members.iter().filter(|member| member.pod != pod && self.view.is_healthy(member));
        let standbys = healthy.filter_map(|member| self.address(&member.pod)).collect();
        let hand_over = Action::HandOver { primary, standbys, orchestrators: self.orchestrators() };
        let Some(mark) = self.marks(pod, self.state(DrainState::Draining)) else { return };
        plan.notes.push(Note::normal("SwitchoverStarted", format!("{pod} is asked to hand over")));
        plan.write("Switchover", Action::Sequence(vec![hand_over, mark]));
    }

    fn leave_cohort<S>(&self, pod: &str, plan: &mut Plan<S>) {
        let primary = self.view.primary().and_then(|primary| self.address(&primary.pod));
        let member = self.record(pod).map(|record| record.id.clone());
        let mark = self.marks(pod, self.state(DrainState::Acknowledged));
        let (Some(primary), Some(member), Some(mark)) = (primary, member, mark) else { return };
        plan.write("LeaveCohort", Action::Sequence(vec![Action::LeaveCohort { primary, member }, mark]));
    }

    fn drop_choice<S>(&self, pod: &str, ending: Ending, plan: &mut Plan<S>) {
        let mut marks = json!({
            annotation::DRAIN_STATE: null,
            annotation::DRAIN_REASON: null,
            annotation::DRAIN_REQUESTED_AT: null,
            annotation::DRAIN_STATE_SINCE: null,
        });
        let reason = match ending {
            Ending::Success => {
                marks[annotation::SWITCHOVER_FAILURES] = Value::Null;
                marks[annotation::SWITCHOVER_FAILED_AT] = Value::Null;
                "SwitchoverCompleted"
            }
            Ending::Cancelled => "DrainCancelled",
            Ending::Aborted => "DrainAborted",
            Ending::SwitchoverFailed => {
                let member = self.view.members.iter().find(|member| member.pod == pod);
                let count = member.map_or(0, |member| member.failures.count).saturating_add(1);
                marks[annotation::SWITCHOVER_FAILURES] = count.to_string().into();
                marks[annotation::SWITCHOVER_FAILED_AT] = moment(self.view.now).into();
                "SwitchoverFailed"
            }
        };
        if let Some(action) = self.marks(pod, marks) {
            plan.write_last(reason, action, self.drain_of(pod));
        }
    }

    /// The old volume is set aside, with its data, before anything makes a new one.
    fn fresh_volume<S>(&self, pod: &str, plan: &mut Plan<S>) {
        let primary = self.view.serving_primary().and_then(|primary| self.address(&primary.pod));
        let claims = by_name(&self.observed.claims);
        let claim = claims.get(&name::data_pvc(pod)).copied();
        let (Some(primary), Some(claim), Some(removal)) = (primary, claim, self.removal(pod)) else { return };
        let Some(aside) = claim::set_aside(claim, self.view.now) else { return };
        let proof = Action::RequireBackup { pooler: primary };
        plan.write("QuarantineRemediation", Action::Sequence(vec![proof, aside, removal]));
    }

    fn replace_volume<S>(&self, pod: &str, plan: &mut Plan<S>) {
        let claims = by_name(&self.observed.claims);
        let claim = claims.get(&name::data_pvc(pod)).copied();
        if let Some(action) = claim.and_then(|claim| claim::replaced(claim, self.view.now)) {
            plan.write("VolumeReplaced", action);
        }
    }

    fn reload<S>(&self, pod: &str, rendered: &Rendered, plan: &mut Plan<S>) {
        let (Some(pooler), Some(target)) = (self.address(pod), self.target(pod)) else { return };
        plan.write(
            "ConfigReload",
            Action::Reload {
                pooler,
                expected: rendered.expected_after_reload(),
                done: json!({ "metadata": { "annotations": {
                    annotation::POSTGRES_RELOAD_HASH: rendered.reload_hash, annotation::RESTART_REQUIRED: null,
                } } }),
                needs_restart: json!({ "metadata": { "annotations": {
                    annotation::RESTART_REQUIRED: rendered.reload_hash,
                } } }),
                target,
            },
        );
    }

    fn record(&self, pod: &str) -> Option<&PoolerRecord> {
        let id = name::pooler_service_id(pod);
        let by_id = self.records.iter().find(|record| record.id.name == id);
        by_id.or_else(|| self.records.iter().find(|record| record.is_of_pod(pod)))
    }

    fn address(&self, pod: &str) -> Option<PoolerAddress> {
        self.record(pod)?.grpc()
    }

    /// Orchestrators that run, by the addresses of their pods: a Service would always lead to the same one.
    fn orchestrators(&self) -> Vec<PoolerAddress> {
        let port = u16::try_from(port::ORCH_GRPC).unwrap_or_default();
        let ready = self.observed.orchestrator_pods.iter().filter(|pod| health::is_ready(pod));
        let mut all: Vec<PoolerAddress> = ready
            .filter_map(|pod| {
                let host = pod.status.as_ref()?.pod_ip.clone()?;
                Some(PoolerAddress::new(host, port).over(self.observed.internal_tls.to(pod, tls::MULTIORCH)))
            })
            .collect();
        all.sort();
        all
    }
}

fn moment(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests {
    use shared::api::v1alpha1::DurabilityPolicy;

    use super::*;
    use crate::shard::disruption::Wait;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    /// Nothing but what was in the way, and for how many seconds.
    fn waiting(what: Option<(Wait, i64)>) -> View {
        View {
            now: NOW,
            policy: DurabilityPolicy::AtLeast2,
            paused: false,
            blind: None,
            waiting: what.map(|(wait, seconds)| (wait, NOW - jiff::SignedDuration::from_secs(seconds))),
            lost_since: None,
            led_since: None,
            ever_led: false,
            volume_lost_since: None,
            last_quarantine: None,
            set_aside: 0,
            unrestorable: None,
            members: Vec::new(),
        }
    }

    #[test]
    fn reloads_are_repeated_every_ten_seconds_and_no_sooner() {
        let verdict = Verdict::of(Row::Reload).act(Act::Reload { pods: vec!["a".into()] });
        let verdict = verdict.blocked(Reason::WaitingForReload, "Settings are not in force yet");
        assert_eq!(requeue(&verdict), Some(PATIENTLY));
        assert_eq!(
            at_leisure(&waiting(None), &verdict),
            Some(PATIENTLY),
            "each try takes the lock that a failover needs"
        );
    }

    #[test]
    fn what_lasts_is_looked_at_at_leisure_and_what_has_begun_is_not() {
        let verdict = Verdict::of(Row::Waiting).blocked(Reason::WaitingForMember, "b is not healthy yet");
        assert_eq!(requeue(&verdict), Some(SOON));
        for (what, expected) in [
            (None, None),
            (Some((Wait::Member, 119)), None),
            (Some((Wait::Member, 120)), Some(PATIENTLY)),
            // Something else was in the way before.
            (Some((Wait::Word, 7200)), None),
        ] {
            assert_eq!(at_leisure(&waiting(what), &verdict), expected, "{what:?}");
        }
        let acts = Verdict::of(Row::Draining).act(Act::Remove { pod: "b".into() });
        assert_eq!(at_leisure(&waiting(Some((Wait::Member, 7200))), &acts), None, "what goes on is followed closely");
    }

    #[test]
    fn a_shard_that_nobody_leads_is_looked_at_without_pause() {
        let lost = Verdict::of(Row::Lost).act(Act::Hasten).blocked(Reason::NoPrimary, "gone");
        assert_eq!(requeue(&lost), Some(AT_ONCE));
        let failed = Verdict::of(Row::Switchover).blocked(Reason::SwitchoverFailed, "the next try is later");
        assert_eq!(requeue(&failed), None, "its back-off is longer than any pause");
    }
}
