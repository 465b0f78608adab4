//! What happens to a member that was chosen, step by step.

use std::time::Duration;

use rstest::rstest;
use shared::annotation::DrainState;

use super::{
    super::{ABORT_AFTER, Act, Cause, Ending, FORCE_AFTER, Node, Presence, Reason, View, decide},
    fixture::*,
};

const LONG: u64 = ABORT_AFTER.as_secs() + 1;

fn rolling(pod: &str, state: DrainState, seconds: u64) -> View {
    three().with(pod, outdated).with(pod, drain(state, Cause::RollingUpdate, seconds))
}

fn leaving(state: DrainState, seconds: u64) -> View {
    let mut view = three();
    view.members.push(member("d", "z1", 1));
    view.with("d", |d| d.wanted = false).with("d", drain(state, Cause::ScaleDown, seconds))
}

fn dropped(pod: &str, ending: Ending) -> Act {
    Act::Drop { pod: pod.into(), ending }
}

#[test]
fn an_outdated_standby_takes_four_steps() {
    let act = |state| decide(&rolling("b", state, 1)).act;
    let to = |to| Some(Act::Advance { pod: "b".into(), to });
    assert_eq!(act(DrainState::Requested), to(DrainState::Draining));
    assert_eq!(act(DrainState::Draining), to(DrainState::Acknowledged));
    assert_eq!(act(DrainState::Acknowledged), to(DrainState::ReadyForDeletion));
    assert_eq!(act(DrainState::ReadyForDeletion), Some(Act::Remove { pod: "b".into() }));
}

#[test]
fn a_standby_that_nobody_wants_leaves_the_cohort_first() {
    assert_eq!(decide(&leaving(DrainState::Draining, 1)).act, Some(Act::LeaveCohort { pod: "d".into() }));
    let out = leaving(DrainState::Draining, 1).with("d", |d| d.vitals.as_mut().unwrap().in_cohort = false);
    assert_eq!(decide(&out).act, Some(Act::Advance { pod: "d".into(), to: DrainState::Acknowledged }));
}

#[test]
fn a_data_plane_that_does_not_let_go_is_not_waited_for_for_ever() {
    let verdict = decide(&leaving(DrainState::Draining, FORCE_AFTER.as_secs()));
    assert_eq!(verdict.act, Some(Act::Advance { pod: "d".into(), to: DrainState::ReadyForDeletion }));
    assert_eq!(verdict.notes[0].reason, "DrainForced");
}

#[rstest]
#[case(DrainState::Requested)]
#[case(DrainState::Draining)]
#[case(DrainState::Acknowledged)]
#[case(DrainState::ReadyForDeletion)]
fn no_step_is_taken_while_the_others_do_not_suffice(#[case] state: DrainState) {
    let verdict = decide(&rolling("b", state, 1).with("c", sick));
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::WaitingForQuorum)));
    let verdict = decide(&rolling("b", state, LONG).with("c", sick));
    assert_eq!(verdict.act, Some(dropped("b", Ending::Aborted)));
}

#[rstest]
#[case(DrainState::Requested)]
#[case(DrainState::ReadyForDeletion)]
fn a_choice_whose_cause_is_gone_is_dropped(#[case] state: DrainState) {
    let verdict = decide(&rolling("b", state, 1).with("b", |b| b.outdated = None));
    assert_eq!(verdict.act, Some(dropped("b", Ending::Cancelled)));
    let verdict = decide(&leaving(state, 1).with("d", |d| d.wanted = true));
    assert_eq!(verdict.act, Some(dropped("d", Ending::Cancelled)));
}

#[test]
fn a_resize_drain_is_not_cancelled_by_itself() {
    let view =
        three().with("b", |b| b.resize_pending = true).with("b", drain(DrainState::Requested, Cause::FsResize, 1));
    assert_eq!(decide(&view).act, Some(Act::Advance { pod: "b".into(), to: DrainState::Draining }));
}

#[test]
fn somebody_elses_annotation_is_judged_by_the_facts() {
    let foreign = |view: View| {
        view.with("b", drain(DrainState::Draining, Cause::RollingUpdate, 1))
            .with("b", |b| b.drain.as_mut().unwrap().cause = None)
    };
    assert_eq!(decide(&foreign(three())).act, Some(dropped("b", Ending::Cancelled)));
    let verdict = decide(&foreign(three().with("b", outdated)));
    assert_eq!(verdict.act, Some(Act::Advance { pod: "b".into(), to: DrainState::Acknowledged }));
}

#[test]
fn nobody_goes_while_another_one_is_on_its_way() {
    let view = rolling("b", DrainState::Acknowledged, 1).with("c", |c| c.presence = Presence::Leaving { due: NOW });
    assert_eq!(reason(&decide(&view)), Some(Reason::WaitingForMember));
    let view = view.with("c", |c| c.presence = Presence::Leaving { due: secs(61) });
    assert_eq!(reason(&decide(&view)), Some(Reason::PodStuck));
}

#[test]
fn a_primary_is_asked_to_hand_over() {
    let verdict = decide(&rolling("a", DrainState::Requested, 1));
    assert_eq!(verdict.act, Some(Act::Resign { pod: "a".into() }));
    assert_eq!(reason(&verdict), Some(Reason::WaitingForSwitchover), "it may refuse");
}

#[test]
fn a_primary_whose_standbys_became_outdated_waits_for_them() {
    let view = rolling("a", DrainState::Requested, 1).each(outdated);
    assert_eq!(decide(&view).act, Some(dropped("a", Ending::Cancelled)));
}

#[test]
fn a_primary_that_nobody_can_follow_is_left_after_a_while() {
    let alone = |seconds| {
        rolling("a", DrainState::Requested, seconds)
            .with("b", sick)
            .with("c", |c| c.vitals.as_mut().unwrap().lag = u64::MAX)
    };
    assert_eq!(reason(&decide(&alone(1))), Some(Reason::NoStandby));
    assert_eq!(decide(&alone(LONG)).act, Some(dropped("a", Ending::SwitchoverFailed)));
}

#[test]
fn a_primary_that_was_asked_is_waited_for_and_then_left() {
    let verdict = decide(&rolling("a", DrainState::Draining, 1));
    assert_eq!((verdict.act.clone(), reason(&verdict)), (Some(Act::Hasten), Some(Reason::WaitingForSwitchover)));
    let late = Duration::from_secs(FORCE_AFTER.as_secs() + 1);
    let verdict = decide(&rolling("a", DrainState::Draining, late.as_secs()));
    assert_eq!(verdict.act, Some(dropped("a", Ending::SwitchoverFailed)));
    assert_eq!(verdict.notes[0].reason, "SwitchoverFailed");
}

#[test]
fn a_former_primary_goes_on_as_a_standby() {
    let mut view = three().with("a", outdated);
    view.members[0] = member("a", "z1", 0);
    view.members[1] = primary("b", "z2", 0);
    let view = view.with("a", outdated).with("a", drain(DrainState::Draining, Cause::RollingUpdate, 5));
    assert_eq!(decide(&view).act, Some(Act::Advance { pod: "a".into(), to: DrainState::Acknowledged }));
}

#[test]
fn after_a_primary_stepped_back_the_next_one_is_hurried() {
    let mut view = three();
    view.members[0] = member("a", "z1", 0);
    let view = view.with("a", outdated).with("a", drain(DrainState::Draining, Cause::RollingUpdate, 5));
    let verdict = decide(&view);
    assert_eq!(
        (verdict.act, verdict.blocker.map(|b| b.reason)),
        (Some(Act::Hasten), Some(Reason::WaitingForSwitchover))
    );
}

#[test]
fn between_two_primaries_nobody_goes() {
    let mut view = three();
    view.members[0] = member("a", "z1", 0);
    let view = view.with("a", outdated).with("a", drain(DrainState::Acknowledged, Cause::RollingUpdate, 5));
    assert_eq!(reason(&decide(&view)), Some(Reason::NoPrimary));
}

#[test]
fn a_drained_pod_that_became_primary_is_never_deleted() {
    for state in [DrainState::Acknowledged, DrainState::ReadyForDeletion] {
        let verdict = decide(&rolling("a", state, 1));
        assert_eq!(verdict.act, Some(Act::Advance { pod: "a".into(), to: DrainState::Requested }));
    }
}

#[test]
fn a_primary_that_left_a_bad_node_stays_as_a_standby() {
    let mut view = three();
    view.members[0] = member("a", "z1", 0);
    view.members[1] = primary("b", "z2", 0);
    let view = view.with("a", |a| a.node = Node::Cordoned).with("a", drain(DrainState::Draining, Cause::NodeDrain, 5));
    assert_eq!(decide(&view).act, Some(dropped("a", Ending::Success)));
}

#[test]
fn a_node_that_is_well_again_keeps_its_primary() {
    let view = three().with("a", drain(DrainState::Requested, Cause::NodeDrain, 1));
    assert_eq!(decide(&view).act, Some(dropped("a", Ending::Cancelled)));
}

#[test]
fn a_primary_leaves_its_node_once_who_was_made_a_moment_ago_is_back() {
    let mut view = three();
    view.members.push(member("d", "z1", 1));
    let view = view.with("a", |a| a.node = Node::Draining).with("c", sick);
    let view = view.with("a", drain(DrainState::Requested, Cause::NodeDrain, 1));
    assert_eq!(decide(&view).act, Some(Act::Resign { pod: "a".into() }), "who is ill for long is not waited for");
    let verdict = decide(&view.with("c", |c| c.created = Some(ago(Duration::from_secs(2)))));
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::WaitingForMember)));
}

#[rstest]
fn the_second_of_two_choices_waits_until_the_first_is_back(#[values(true, false)] again: bool) {
    let mut view = rolling("b", DrainState::ReadyForDeletion, 1).with("c", sick);
    view.members.push(member("d", "z1", 1));
    let view = if again { view.with("c", outdated) } else { view };
    let verdict = decide(&view);
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::WaitingForMember)));
    let act = decide(&view.with("c", |c| *c = member("c", "z3", 0))).act;
    assert_eq!(act, Some(Act::Remove { pod: "b".into() }));
}
