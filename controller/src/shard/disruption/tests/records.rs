//! Members that the topology has forgotten.

use std::time::Duration;

use shared::annotation::DrainState;

use super::{
    super::{Act, Cause, Ending, Member, PROGRESS_DEADLINE, Reason, Role, Row, View, Vitals, Wait, decide},
    fixture::*,
};

/// Nobody is in a record any more; who leads is known from what everybody says.
fn wiped() -> View {
    three().each(forgotten)
}

#[test]
fn members_without_a_record_are_named_and_left_alone_at_first() {
    let verdict = decide(&wiped());
    assert_eq!((verdict.row, verdict.act.clone()), (Row::Waiting, None));
    assert_eq!(reason(&verdict), Some(Reason::RecordMissing));
    assert!(verdict.blocker.unwrap().message.contains("a, b, c"));
}

#[test]
fn members_without_a_record_are_made_anew_and_the_primary_hands_over_to_those_that_have_one() {
    let back =
        |view: View, pod: &str| view.with(pod, |m| (m.registered, m.forgotten, m.outdated) = (true, false, None));
    let view = wiped().each(outdated);
    assert_eq!(requested(&decide(&view)), "b");
    let view = back(view, "b");
    assert_eq!(requested(&decide(&view)), "c");
    // One that came back and did not register is not made anew in vain.
    let stuck = view.clone().with("c", |c| c.outdated = None);
    let verdict = decide(&stuck);
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::RecordMissing)));
    let chosen = stuck.with("a", drain(DrainState::Requested, Cause::RollingUpdate, 1));
    assert_eq!((decide(&chosen).act, reason(&decide(&chosen))), (None, Some(Reason::RecordMissing)));
    let view = back(view, "c");
    assert_eq!(requested(&decide(&view)), "a");
    let chosen = view.with("a", drain(DrainState::Requested, Cause::RollingUpdate, 1));
    assert_eq!(decide(&chosen).act, Some(Act::Resign { pod: "a".into() }));
    let mut with_extra = chosen.clone();
    with_extra.members.push(member("d", "z1", 1));
    let with_extra = with_extra.with("d", |d| d.wanted = false);
    assert_eq!(decide(&with_extra).act, Some(Act::Resign { pod: "a".into() }), "who is too many waits for it");
    let resigned = chosen.with("a", drain(DrainState::Draining, Cause::RollingUpdate, 5));
    let registered = back(resigned, "a").with("a", |a| {
        a.role = Role::Standby;
        a.vitals = member("a", "z1", 0).vitals;
    });
    assert_eq!(decide(&registered).act, Some(Act::Drop { pod: "a".into(), ending: Ending::Cancelled }));
}

#[test]
fn nothing_that_can_wait_is_begun_before_all_that_stay_have_a_record() {
    let mut view = wiped();
    view.members.push(member("d", "z1", 1));
    let view = view.with("d", |d| d.wanted = false);
    assert_eq!((decide(&view).act, reason(&decide(&view))), (None, Some(Reason::RecordMissing)));
    assert_eq!(decide(&wiped().each(misplaced)).act, None);
    let others = view.each(|m| (m.registered, m.forgotten) = (m.wanted, !m.wanted));
    assert_eq!(requested(&decide(&others)), "d", "whoever leaves needs none");
}

#[test]
fn while_it_is_not_certain_who_leads_nobody_without_a_record_goes() {
    let unsure = |member: &mut Member| {
        outdated(member);
        forgotten(member);
        let vitals = member.vitals.as_mut().unwrap();
        (vitals.serving, vitals.streaming, vitals.in_cohort) = (false, false, false);
    };
    let long = PROGRESS_DEADLINE + Duration::from_secs(1);
    for crashed in [false, true] {
        let view = three().each(unsure).after(Wait::Member, long);
        let view = View { lost_since: Some(ago(long)), ..view };
        // The primary's PostgreSQL crashed: nothing tells it from a standby until it is back.
        let view = if crashed {
            view.with("a", |a| {
                a.role = Role::Standby;
                a.vitals = Some(Vitals::default());
            })
        } else {
            view
        };
        let verdict = decide(&view);
        assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::RecordMissing)));
        let chosen = view.with("a", drain(DrainState::ReadyForDeletion, Cause::RollingUpdate, 1));
        assert!(decide(&chosen).act.as_ref().and_then(Act::takes_down).is_none(), "{:?}", decide(&chosen));
    }
}

#[test]
fn the_only_member_is_never_deleted_for_a_missing_record() {
    let alone = view(vec![primary("a", "z1", 0)]).with("a", outdated).with("a", forgotten);
    let verdict = decide(&alone);
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::RecordMissing)));
}

#[test]
fn nobody_hands_over_to_one_that_the_topology_does_not_know() {
    let view = three().with("a", outdated).with("b", |b| b.registered = false).with("c", |c| c.registered = false);
    assert_eq!(reason(&decide(&view)), Some(Reason::NoStandby));
    assert_eq!(requested(&decide(&view.with("c", |c| c.registered = true))), "a");
}
