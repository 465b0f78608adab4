//! What is known of a shard at one moment, who of it is healthy, and whom it can spare.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use shared::api::v1alpha1::DurabilityPolicy;

use super::{
    ABORT_AFTER, LAG_LIMIT, PROGRESS_DEADLINE, QUARANTINE_AGE, QUARANTINE_PACE, SET_ASIDE_LIMIT, STUCK_AFTER,
    member::{Member, Node, Presence, Role},
    verdict::Wait,
};
use crate::upstream::Lifecycle;

/// Everything that a decision about disruptions rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The moment.
    pub now: Timestamp,
    /// What a commit needs.
    pub policy: DurabilityPolicy,
    /// Whether the user asked for no disruption.
    pub paused: bool,
    /// Why the topology or the poolers cannot be believed, if so.
    pub blind: Option<String>,
    /// What was in the way last time, and since when that kind of thing has been, without a break.
    pub waiting: Option<(Wait, Timestamp)>,
    /// Since when no primary has confirmed itself; none while one does, and before that was ever looked at.
    pub lost_since: Option<Timestamp>,
    /// Since when a primary has confirmed itself without a break.
    pub led_since: Option<Timestamp>,
    /// Whether there ever was a primary, as far as anything remembers.
    pub ever_led: bool,
    /// When a member last got a fresh volume because its pooler had given up, or its own was lost.
    pub last_quarantine: Option<Timestamp>,
    /// Since when volumes of members have been lost, or about to go, without a break.
    pub volume_lost_since: Option<Timestamp>,
    /// How many volumes were set aside for that reason and are still there.
    pub set_aside: usize,
    /// Why nobody could be made anew from the backups, as far as that is known.
    pub unrestorable: Option<&'static str>,
    /// All members, wanted or there.
    pub members: Vec<Member>,
}

/// Whether a member can be spared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Safety {
    /// The others keep the durability policy.
    Safe,
    /// The shard has nobody to spare at all. All others are healthy, so this is the moment at which it costs least.
    NoRedundancy,
    /// These are missed.
    Unsafe(Vec<String>),
}

impl View {
    /// Whether a member counts: its pod is ready, its PostgreSQL serves or streams, and the primary's rule counts on it.
    pub fn is_healthy(&self, member: &Member) -> bool {
        let Some(vitals) = member.vitals else { return false };
        let in_place = match member.role {
            Role::Primary => vitals.serving,
            Role::Standby => vitals.streaming && vitals.lag <= LAG_LIMIT,
            Role::Unknown => false,
        };
        member.is_live()
            && member.ready
            && member.lifecycle == Lifecycle::Active
            && vitals.postgres_ready
            && vitals.in_cohort
            && in_place
    }

    /// Whether these members alone keep the durability policy.
    pub fn suffices<'a>(&self, members: impl IntoIterator<Item = &'a Member>) -> bool {
        let members: Vec<&Member> = members.into_iter().collect();
        match self.policy {
            DurabilityPolicy::AtLeast2 => members.len() >= 2,
            // The strictest policy that is known stands for one that is not.
            DurabilityPolicy::MultiCellAtLeast2 | DurabilityPolicy::Unknown => {
                members.iter().map(|member| &member.cell).collect::<BTreeSet<_>>().len() >= 2
            }
        }
    }

    /// Whether what the spec asks for can keep the durability policy at all.
    pub fn spec_suffices(&self) -> bool {
        self.suffices(self.members.iter().filter(|member| member.wanted))
    }

    /// Whether a member can be taken down now. Its role does not matter: a primary is asked to hand over first.
    pub fn safety(&self, member: &Member) -> Safety {
        let others = || self.members.iter().filter(|other| other.pod != member.pod);
        if self.suffices(others().filter(|other| self.is_healthy(other))) {
            return Safety::Safe;
        }
        if member.is_down() || self.is_useless(member) {
            return Safety::Safe;
        }
        let missed = || others().filter(|other| other.wanted && !self.is_healthy(other));
        let has_slack = self.suffices(others().filter(|other| other.wanted));
        if !has_slack && member.wanted && missed().next().is_none() {
            return Safety::NoRedundancy;
        }
        Safety::Unsafe(missed().map(|other| other.pod.clone()).collect())
    }

    /// Whether an outdated member has been of no use for so long that a newer description is the best hope: it does not follow a primary that
    /// serves, or has never joined a shard that never had a primary.
    pub(super) fn is_useless(&self, member: &Member) -> bool {
        let says_so = || member.role == Role::Standby && member.vitals.is_some_and(|vitals| !vitals.streaming);
        let follows_nobody = || says_so() && self.serving_primary().is_some();
        let long = member.outdated.is_some() && self.waited(Wait::Member, PROGRESS_DEADLINE);
        long && (follows_nobody() || self.never_joined(member))
    }

    /// Whether a member is in no record, in a shard that never had a primary.
    ///
    /// That nobody knows it proves nothing by itself: a topology that lost everything does not know the primary either. But where nobody ever
    /// led there is no commit that somebody could hold, so whoever goes takes nothing along.
    pub(super) fn never_joined(&self, member: &Member) -> bool {
        let nobody_leads = || self.members.iter().all(|other| other.role != Role::Primary);
        let streams = member.vitals.is_some_and(|vitals| vitals.streaming);
        !member.registered && !streams && !self.ever_led && nobody_leads()
    }

    /// The primary, if exactly one member is it.
    pub fn primary(&self) -> Option<&Member> {
        let mut all = self.members.iter().filter(|member| member.role == Role::Primary);
        match (all.next(), all.next()) {
            (Some(one), None) => Some(one),
            _ => None,
        }
    }

    /// The primary, if it serves.
    pub fn serving_primary(&self) -> Option<&Member> {
        self.primary().filter(|primary| self.is_healthy(primary))
    }

    /// Whether somebody could take over from `primary` and be better placed than it: not outdated, or, where it `moves`, not on a node
    /// that is about to go, unless `any_node` that is only cordoned will do. Orchestrators elect nobody whom the topology does not know.
    pub fn has_successor(&self, primary: &Member, moves: bool, any_node: bool) -> bool {
        self.members.iter().any(|other| {
            other.pod != primary.pod
                && other.role == Role::Standby
                && other.wanted
                && other.registered
                && if moves {
                    !other.must_move() || (any_node && other.node == Node::Cordoned)
                } else {
                    other.outdated.is_none()
                }
                && self.is_healthy(other)
        })
    }

    /// Another wanted member that is in no record. A primary that hands over because it is in none itself waits for all of them: an
    /// orchestrator that was restarted knows nobody else.
    pub fn unregistered(&self, apart_from: &Member) -> Option<&Member> {
        let others = self.members.iter().filter(|other| other.pod != apart_from.pod);
        others.filter(|other| other.wanted && !other.registered).min_by_key(|other| &other.pod)
    }

    /// Whether a member that stays is in no record. Nobody elects whom the topology does not know, so until all of them are registered
    /// nothing is begun that can wait.
    pub fn recovers(&self) -> bool {
        self.members.iter().any(|member| member.is_live() && member.wanted && member.forgotten)
    }

    /// Whether anybody but the primary is to be taken down. Members that are too many do not count where they have to wait themselves.
    pub fn others_first(&self, primary: &Member) -> bool {
        let extras_go = self.spec_suffices() && !self.recovers();
        let goes = |member: &Member| member.is_live() && member.cause().is_some() && (member.wanted || extras_go);
        self.members.iter().any(|other| other.pod != primary.pod && goes(other))
    }

    /// Another member that is on its way out, or wanted and not there: while it is, nobody else goes.
    pub fn in_flight(&self, apart_from: &Member) -> Option<&Member> {
        let on_its_way = |other: &&Member| match other.presence {
            Presence::Leaving { .. } => true,
            Presence::Missing => other.wanted,
            Presence::Live | Presence::Ended => false,
        };
        let others = self.members.iter().filter(|other| other.pod != apart_from.pod);
        others.filter(on_its_way).min_by_key(|other| &other.pod)
    }

    /// Another member that has yet to get healthy. Two members may have been chosen, each before the other's choice was seen: the second
    /// one waits until the first is back. For a member that is not well itself only those count that are up to date, certainly down, or were made
    /// a moment ago: the others may be waiting for it, and so may one that has joined where nobody leads before more have.
    pub fn returning(&self, apart_from: &Member) -> Option<&Member> {
        let well = self.is_healthy(apart_from);
        let waits_for_it = |other: &Member| self.never_joined(apart_from) && other.has_joined();
        let others = self.members.iter().filter(|other| other.pod != apart_from.pod);
        others
            .filter(|other| other.wanted && other.is_live() && !other.is_given_up() && !waits_for_it(other))
            .filter(|other| {
                (well || other.outdated.is_none() || other.is_down() || self.is_young(other)) && !self.is_healthy(other)
            })
            .min_by_key(|other| &other.pod)
    }

    /// Whether the pod was made a moment ago.
    pub fn is_young(&self, member: &Member) -> bool {
        member.created.is_some_and(|at| self.past(at, PROGRESS_DEADLINE).is_none())
    }

    /// Pods that should have ended long ago.
    pub fn stuck(&self) -> Vec<&str> {
        let stuck = |member: &&Member| match member.presence {
            Presence::Leaving { due } => self.past(due, STUCK_AFTER).is_some(),
            Presence::Live | Presence::Missing | Presence::Ended => false,
        };
        self.members.iter().filter(stuck).map(|member| member.pod.as_str()).collect()
    }

    /// Why the volume of a member whose pooler gave up, or which has lost it, must not be replaced yet; none if it may.
    ///
    /// Claims may be seen late, and what is lost may come back, so this never rests on them alone: a primary that serves and as many healthy
    /// others as the durability policy wants prove that nothing is missed. The executor has the primary find a backup before anything is done.
    pub fn volume_guard(&self, victim: &Member) -> Option<String> {
        let given_up = self.members.iter().filter(|member| member.is_given_up()).count();
        if given_up > 1 {
            return Some(format!("{given_up} members are quarantined or without their volume at once"));
        }
        if victim.role == Role::Primary {
            return Some(format!("{} holds the claim to be primary", victim.pod));
        }
        if self.serving_primary().is_none() {
            return Some("no primary serves".to_owned());
        }
        if let Some(other) = self.in_flight(victim) {
            return Some(format!("{} has to come back first", other.pod));
        }
        let healthy = self.members.iter().filter(|other| other.pod != victim.pod && self.is_healthy(other));
        if !self.suffices(healthy) {
            return Some("the healthy members alone do not keep the durability policy".to_owned());
        }
        if let Some(why) = self.unrestorable {
            return Some(why.to_owned());
        }
        let Some(created) = victim.created else { return Some("the pod has no age".to_owned()) };
        if self.past(created, QUARANTINE_AGE).is_none() {
            return Some("the pod is too young to be judged".to_owned());
        }
        if victim.is_quarantined() && victim.lifecycle_since.is_none_or(|since| since <= created) {
            return Some("the record is older than the pod".to_owned());
        }
        if !victim.is_quarantined() && !self.volumes_lost_for(ABORT_AFTER) {
            return Some("it may come back".to_owned());
        }
        if self.set_aside >= SET_ASIDE_LIMIT {
            return Some(format!("{} volumes are set aside already: look at them, then delete them", self.set_aside));
        }
        if self.last_quarantine.is_some_and(|last| self.past(last, QUARANTINE_PACE).is_none()) {
            return Some("another volume was replaced less than half an hour ago".to_owned());
        }
        None
    }

    /// Whether something of that kind has been in the way for so long, without a break.
    pub fn waited(&self, what: Wait, limit: std::time::Duration) -> bool {
        self.waiting.is_some_and(|(wait, since)| wait == what && self.past(since, limit).is_some())
    }

    /// Whether there has been no primary for so long.
    pub fn lost_for(&self, limit: std::time::Duration) -> bool {
        self.lost_since.is_some_and(|since| self.past(since, limit).is_some())
    }

    /// Whether volumes have been lost, or about to go, for so long.
    pub fn volumes_lost_for(&self, limit: std::time::Duration) -> bool {
        self.volume_lost_since.is_some_and(|since| self.past(since, limit).is_some())
    }

    /// How long ago `moment` plus `limit` was; none while it is still to come.
    pub fn past(&self, moment: Timestamp, limit: std::time::Duration) -> Option<SignedDuration> {
        let over = self.now.duration_since(moment) - SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
        (over >= SignedDuration::ZERO).then_some(over)
    }
}
