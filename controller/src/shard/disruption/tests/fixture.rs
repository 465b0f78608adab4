//! Shards made up for tests.

use std::time::Duration;

use jiff::Timestamp;
use shared::{annotation::DrainState, api::v1alpha1::DurabilityPolicy};

use super::super::{
    Act, Cause, Drain, Failures, Member, Misplaced, Node, Presence, Reason, Role, Verdict, View, Vitals, Volume, Wait,
};
use crate::upstream::Lifecycle;

pub const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

pub fn ago(duration: Duration) -> Timestamp {
    NOW.checked_sub(duration).unwrap()
}

pub fn secs(seconds: u64) -> Timestamp {
    ago(Duration::from_secs(seconds))
}

/// A healthy standby that was created an hour ago.
pub fn member(pod: &str, cell: &str, index: u32) -> Member {
    Member {
        pod: pod.to_owned(),
        cell: cell.to_owned(),
        index,
        wanted: true,
        presence: Presence::Live,
        created: Some(secs(3600)),
        drain: None,
        failures: Failures::default(),
        outdated: None,
        resize_pending: false,
        misplaced: None,
        volume: Volume::Fine,
        reload_pending: false,
        ready: true,
        trouble: None,
        node: Node::Fine,
        lifecycle: Lifecycle::Active,
        lifecycle_since: Some(secs(3500)),
        role: Role::Standby,
        registered: true,
        forgotten: false,
        connected: false,
        vitals: Some(Vitals { postgres_ready: true, streaming: true, in_cohort: true, ..Vitals::default() }),
    }
}

pub fn primary(pod: &str, cell: &str, index: u32) -> Member {
    let vitals = Vitals { postgres_ready: true, serving: true, in_cohort: true, ..Vitals::default() };
    Member { role: Role::Primary, vitals: Some(vitals), ..member(pod, cell, index) }
}

pub fn view(members: Vec<Member>) -> View {
    View {
        now: NOW,
        policy: DurabilityPolicy::AtLeast2,
        paused: false,
        blind: None,
        waiting: None,
        lost_since: None,
        led_since: None,
        ever_led: true,
        volume_lost_since: None,
        last_quarantine: None,
        set_aside: 0,
        unrestorable: None,
        members,
    }
}

/// One member in each of three cells; the primary is `a`.
pub fn three() -> View {
    view(vec![primary("a", "z1", 0), member("b", "z2", 0), member("c", "z3", 0)])
}

/// Two members in one cell.
pub fn two() -> View {
    view(vec![primary("a", "z1", 0), member("b", "z1", 1)])
}

impl View {
    /// The same with one member changed.
    #[must_use]
    pub fn with(mut self, pod: &str, change: impl FnOnce(&mut Member)) -> Self {
        change(self.members.iter_mut().find(|member| member.pod == pod).unwrap());
        self
    }

    /// The same after that has been in the way for so long.
    #[must_use]
    pub fn after(mut self, what: Wait, duration: Duration) -> Self {
        self.waiting = Some((what, ago(duration)));
        self
    }

    /// The same with every member changed.
    #[must_use]
    pub fn each(mut self, change: impl Fn(&mut Member)) -> Self {
        self.members.iter_mut().for_each(change);
        self
    }
}

pub fn outdated(member: &mut Member) {
    member.outdated = Some("spec.containers[0].image".to_owned());
}

/// On a volume of another class than the spec asks for.
pub fn misplaced(member: &mut Member) {
    member.misplaced = Some(Misplaced { class: "fast".to_owned(), exists: true });
}

/// Well, and in no record.
pub fn forgotten(member: &mut Member) {
    member.registered = false;
    member.forgotten = true;
}

/// On a volume that goes with its pod.
pub fn leaving(member: &mut Member) {
    member.volume = Volume::Leaving;
}

/// Down, because its volume is gone.
pub fn bereft(member: &mut Member) {
    dead(member);
    member.volume = Volume::Lost;
}

/// Runs, but is no use.
pub fn sick(member: &mut Member) {
    member.ready = false;
    if let Some(vitals) = &mut member.vitals {
        vitals.streaming = false;
        vitals.serving = false;
    }
}

/// Certainly serves nobody.
pub fn dead(member: &mut Member) {
    member.ready = false;
    member.trouble = Some("container postgres: CrashLoopBackOff".to_owned());
    member.vitals = None;
}

pub fn drain(state: DrainState, cause: Cause, seconds: u64) -> impl FnOnce(&mut Member) {
    move |member| {
        member.drain = Some(Drain { state, cause: Some(cause), requested: secs(seconds), since: secs(seconds) });
    }
}

pub fn reason(verdict: &Verdict) -> Option<Reason> {
    verdict.blocker.as_ref().map(|blocker| blocker.reason)
}

pub fn requested(verdict: &Verdict) -> &str {
    match &verdict.act {
        Some(Act::Request { pod, .. }) => pod,
        other => panic!("no request: {other:?}"),
    }
}

pub fn notes(verdict: &Verdict) -> Vec<&str> {
    verdict.notes.iter().map(|note| note.reason.as_str()).collect()
}
