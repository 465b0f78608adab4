//! What happens to a member that was chosen: from `requested` to its removal, or back.
//!
//! Every step asks again whether its cause still holds and whether the others suffice: the verification, not the time that has
//! passed, is what takes a member down. Only the data plane's word can be done without, after a while.

use shared::annotation::DrainState;

use super::{
    ABORT_AFTER, FORCE_AFTER,
    member::{Cause, Drain, Member, Presence, Role, Volume},
    verdict::{Act, Ending, Reason, Row, Verdict},
    view::{Safety, View},
};
use crate::plan::Note;

/// The next step of a member that was chosen.
pub(super) fn advance(view: &View, member: &Member, drain: &Drain) -> Verdict {
    let verdict = Verdict::of(Row::Draining);
    let pod = &member.pod;
    let drop = |ending| verdict.clone().act(Act::Drop { pod: pod.clone(), ending });
    if drain.cause == Some(Cause::NodeDrain) {
        if member.role != Role::Primary {
            return drop(Ending::Success)
                .note(Note::normal("SwitchoverCompleted", format!("{pod} has handed over before its node goes")));
        }
        if !member.must_move() {
            return drop(Ending::Cancelled);
        }
    } else if member.cause().is_none() {
        let why = match member.volume {
            Volume::Fine => "is as it should be and stays",
            Volume::Leaving | Volume::Lost => "stays until another one is there: its volume would go with it",
        };
        return drop(Ending::Cancelled).note(Note::normal("DrainCancelled", format!("{pod} {why}")));
    }
    match member.role {
        Role::Primary => hand_over(view, member, drain),
        Role::Standby | Role::Unknown => take_out(view, member, drain),
    }
}

/// A primary first has to become a standby.
fn hand_over(view: &View, member: &Member, drain: &Drain) -> Verdict {
    let verdict = Verdict::of(Row::Draining);
    let pod = &member.pod;
    let failed = || {
        let message = format!("Nobody took over from {pod} in time; it is tried again later");
        let ending = Ending::SwitchoverFailed;
        verdict.clone().act(Act::Drop { pod: pod.clone(), ending }).note(Note::warning("SwitchoverFailed", message))
    };
    match drain.state {
        // It lost and regained its role: it is asked again.
        DrainState::Acknowledged | DrainState::ReadyForDeletion => {
            verdict.act(Act::Advance { pod: pod.clone(), to: DrainState::Requested })
        }
        DrainState::Draining if !member.is_live() || view.past(drain.since, FORCE_AFTER).is_none() => verdict
            .act(Act::Hasten)
            .blocked(Reason::WaitingForSwitchover, format!("{pod} was asked to hand over and is still the primary")),
        DrainState::Draining => failed(),
        DrainState::Requested if view.past(drain.requested, ABORT_AFTER).is_some() => failed(),
        // The spec changed again: standbys first.
        DrainState::Requested if drain.cause != Some(Cause::NodeDrain) && view.others_first(member) => {
            verdict.act(Act::Drop { pod: pod.clone(), ending: Ending::Cancelled })
        }
        DrainState::Requested => {
            if let Some(other) = view.in_flight(member) {
                return verdict.blocked(Reason::WaitingForMember, format!("{} has to come back first", other.pod));
            }
            let any = drain.cause == Some(Cause::NodeDrain);
            if let Some(other) = view.unregistered(member).filter(|_| member.forgotten) {
                return verdict.blocked(Reason::RecordMissing, format!("{} has to register first", other.pod));
            }
            if !view.has_successor(member, any, true) {
                return verdict.blocked(Reason::NoStandby, format!("No healthy standby can take over from {pod}"));
            }
            if view.serving_primary().is_none() {
                return verdict.blocked(Reason::NoPrimary, format!("{pod} does not serve as primary now"));
            }
            if !any && let Safety::Unsafe(missed) = view.safety(member) {
                return verdict.blocked(Reason::WaitingForQuorum, waiting_for(&missed));
            }
            // A node that is emptied does not wait for somebody who has been ill for long; who was made a moment ago is about to be back.
            if let Some(other) = view.returning(member).filter(|other| !any || view.is_young(other)) {
                return verdict.blocked(Reason::WaitingForMember, format!("{} is not healthy yet", other.pod));
            }
            // It may refuse, or not answer: until it has, this is what the shard waits for.
            verdict
                .act(Act::Resign { pod: pod.clone() })
                .blocked(Reason::WaitingForSwitchover, format!("{pod} is asked to hand over"))
        }
    }
}

/// A standby leaves once the others suffice.
fn take_out(view: &View, member: &Member, drain: &Drain) -> Verdict {
    let verdict = Verdict::of(Row::Draining);
    let pod = &member.pod;
    let held = |reason, message: String| {
        if view.past(drain.requested.max(drain.since), ABORT_AFTER).is_some() {
            let ending = Ending::Aborted;
            return verdict
                .clone()
                .act(Act::Drop { pod: pod.clone(), ending })
                .note(Note::warning("DrainAborted", format!("{pod} stays for now: {message}")));
        }
        verdict.clone().blocked(reason, message)
    };
    if let Some(other) = view.in_flight(member) {
        return match other.presence {
            Presence::Leaving { due } if view.past(due, super::STUCK_AFTER).is_some() => {
                held(Reason::PodStuck, format!("{} does not end", other.pod))
            }
            _ => held(Reason::WaitingForMember, format!("{} has to come back first", other.pod)),
        };
    }
    // A member that never joined a shard that nobody ever led does not wait for a primary: there is none before it is replaced.
    let leaderless = view.serving_primary().is_none() && !view.is_useless(member);
    // A primary that stepped back claims nothing any more. Until somebody else does, the orchestrators are hurried.
    if drain.state == DrainState::Draining && leaderless && view.past(drain.since, FORCE_AFTER).is_none() {
        return verdict.act(Act::Hasten).blocked(Reason::WaitingForSwitchover, "No primary serves yet");
    }
    if !member.wanted && !view.spec_suffices() {
        return held(Reason::ScaleDownBlocked, "What is left would not keep the durability policy".to_owned());
    }
    if let Safety::Unsafe(missed) = view.safety(member) {
        return held(Reason::WaitingForQuorum, waiting_for(&missed));
    }
    if let Some(other) = view.returning(member) {
        return held(Reason::WaitingForMember, format!("{} is not healthy yet", other.pod));
    }
    // One in no record that is down may be the primary, as it recovers from a crash.
    if leaderless && (!member.is_down() || (member.forgotten && view.ever_led)) {
        return held(Reason::NoPrimary, "No primary serves".to_owned());
    }
    let counted = !member.wanted && member.vitals.is_none_or(|vitals| vitals.in_cohort) && !member.is_down();
    let verdict = still_useless(view, member, Verdict::of(Row::Draining));
    match drain.state {
        DrainState::Requested => verdict.act(Act::Advance { pod: pod.clone(), to: DrainState::Draining }),
        DrainState::Draining if counted && view.past(drain.since, FORCE_AFTER).is_none() => verdict
            .act(Act::LeaveCohort { pod: pod.clone() })
            .blocked(Reason::WaitingForCohort, format!("The primary's rule still counts {pod}")),
        DrainState::Draining if counted => verdict
            .act(Act::Advance { pod: pod.clone(), to: DrainState::ReadyForDeletion })
            .note(Note::warning("DrainForced", format!("{pod} goes although the primary's rule still counts it"))),
        DrainState::Draining => verdict.act(Act::Advance { pod: pod.clone(), to: DrainState::Acknowledged }),
        DrainState::Acknowledged => verdict.act(Act::Advance { pod: pod.clone(), to: DrainState::ReadyForDeletion }),
        DrainState::ReadyForDeletion => verdict
            .act(Act::Remove { pod: pod.clone() })
            .note(Note::normal("DrainCompleted", format!("{pod} is no longer needed and goes"))),
    }
}

/// Says on every step of a member why it may go where only its long uselessness makes that safe: the clock that proves it runs while the
/// condition stands.
pub(super) fn still_useless(view: &View, member: &Member, verdict: Verdict) -> Verdict {
    if !view.is_useless(member) {
        return verdict;
    }
    verdict.blocked(Reason::WaitingForMember, format!("{} has been of no use for long, and goes first", member.pod))
}

/// For whom a shard waits.
pub(super) fn waiting_for(missed: &[String]) -> String {
    if missed.is_empty() {
        "Too few other members are healthy".to_owned()
    } else {
        format!("Not healthy: {}", crate::shard::facts::names(missed))
    }
}
