//! One test or more for each row of the table.

use std::time::Duration;

use rstest::rstest;
use shared::{annotation::DrainState, api::v1alpha1::DurabilityPolicy};

use super::{
    super::{
        ABORT_AFTER, Act, Cause, Ending, Failures, Member, Node, PROGRESS_DEADLINE, Presence, Reason, Role, Row,
        Verdict, View, Vitals, Wait, decide,
    },
    fixture::*,
};
use crate::upstream::Lifecycle;

#[rstest]
#[case::three(three())]
#[case::two(two())]
#[case::nothing(view(Vec::new()))]
fn a_shard_as_it_should_be_is_left_alone(#[case] view: View) {
    assert_eq!(decide(&view), Verdict::of(Row::Idle));
}

#[test]
fn a_sick_member_alone_is_nothing_to_act_on() {
    assert_eq!(decide(&three().with("b", sick)).row, Row::Idle);
}

#[test]
fn p1_a_paused_shard_is_left_as_it_is() {
    let verdict = decide(&View { paused: true, ..three().each(outdated) });
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::Paused)));
}

#[test]
fn p1_a_paused_shard_is_still_healed() {
    let verdict = decide(&View { paused: true, ..three() }.with("b", |b| b.presence = Presence::Ended));
    assert_eq!((verdict.row, verdict.act), (Row::Ended, Some(Act::Replace { pod: "b".into() })));
}

#[test]
fn p2_nobody_goes_while_the_topology_is_away() {
    let verdict = decide(&View { blind: Some("etcd does not answer".into()), ..three().each(outdated) });
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::TopologyUnavailable)));
}

#[test]
fn two_primaries_stop_everything() {
    let mut view = three().each(outdated);
    view.members[1] = primary("b", "z2", 0);
    assert_eq!(reason(&decide(&view)), Some(Reason::SeveralPrimaries));
}

#[test]
fn p3_a_running_drain_is_advanced_before_anything_else() {
    let view = three().each(outdated).with("c", drain(DrainState::Requested, Cause::RollingUpdate, 1));
    let verdict = decide(&view);
    assert_eq!(verdict.row, Row::Draining);
    assert_eq!(verdict.act, Some(Act::Advance { pod: "c".into(), to: DrainState::Draining }));
}

#[test]
fn p3_of_two_drains_the_further_one_goes_on() {
    let view = three()
        .each(outdated)
        .with("b", drain(DrainState::Requested, Cause::RollingUpdate, 1))
        .with("c", drain(DrainState::Acknowledged, Cause::RollingUpdate, 1));
    assert_eq!(decide(&view).act, Some(Act::Advance { pod: "c".into(), to: DrainState::ReadyForDeletion }));
}

#[test]
fn p4_nobody_goes_while_another_pod_is_ending() {
    let view = three().each(outdated).with("b", |b| b.presence = Presence::Leaving { due: NOW });
    let verdict = decide(&view);
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::WaitingForMember)));
}

#[test]
fn p4_a_pod_that_does_not_end_is_named() {
    let view = three().each(outdated).with("b", |b| b.presence = Presence::Leaving { due: secs(61) });
    assert_eq!(reason(&decide(&view)), Some(Reason::PodStuck));
}

#[rstest]
#[case::missing(|b: &mut Member| { b.presence = Presence::Missing; b.vitals = None; })]
#[case::not_streaming(|b: &mut Member| b.vitals.as_mut().unwrap().streaming = false)]
#[case::not_ready(|b: &mut Member| b.ready = false)]
#[case::not_counted(|b: &mut Member| b.vitals.as_mut().unwrap().in_cohort = false)]
#[case::lagging(|b: &mut Member| b.vitals.as_mut().unwrap().lag = u64::MAX)]
#[case::silent(|b: &mut Member| b.vitals = None)]
#[case::starting(|b: &mut Member| b.lifecycle = Lifecycle::Starting)]
fn p4_the_last_member_has_to_be_healthy_first(#[case] change: fn(&mut Member)) {
    let view = three().with("a", outdated).with("c", outdated).with("b", change);
    let verdict = decide(&view);
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::WaitingForMember)));
    assert!(verdict.blocker.unwrap().message.contains('b'));
}

#[test]
fn p4_an_extra_pod_that_never_came_up_holds_nobody() {
    let mut view = three();
    view.members.push(member("d", "z1", 1));
    let verdict = decide(&view.with("d", |d| d.wanted = false).with("d", dead));
    assert_eq!(requested(&verdict), "d");
}

#[test]
fn p5_a_new_pod_that_does_not_come_up_stalls_the_rollout() {
    let long = PROGRESS_DEADLINE + Duration::from_secs(1);
    let view = three().each(outdated).with("b", |b| {
        b.outdated = None;
        b.created = Some(ago(long));
        dead(b);
    });
    assert_eq!(reason(&decide(&view)), Some(Reason::WaitingForMember), "it was healthy until a moment ago");
    let verdict = decide(&view.after(Wait::Member, long));
    assert_eq!(
        (verdict.row, verdict.act.clone(), reason(&verdict)),
        (Row::Stalled, None, Some(Reason::RolloutStalled))
    );
    assert!(verdict.blocker.unwrap().message.contains("CrashLoopBackOff"));
}

#[test]
fn p5_a_fix_that_is_pushed_takes_effect_at_once() {
    let view = three().each(outdated).with("b", dead).after(Wait::Member, Duration::from_hours(2));
    assert_eq!(decide(&view).act, Some(Act::Replace { pod: "b".into() }));
}

fn quarantined() -> View {
    three().with("b", |b| {
        dead(b);
        b.lifecycle = Lifecycle::Quarantined;
    })
}

#[test]
fn p6_a_quarantined_member_gets_a_fresh_volume() {
    let verdict = decide(&quarantined());
    assert_eq!(verdict.act, Some(Act::FreshVolume { pod: "b".into() }));
    assert_eq!(reason(&verdict), Some(Reason::QuarantineBlocked), "a repository without a backup refuses it");
}

#[rstest]
#[case::two_at_once(quarantined().with("c", |c| c.lifecycle = Lifecycle::Quarantined))]
#[case::nobody_serves(quarantined().with("a", sick))]
#[case::too_few_others(quarantined().with("c", sick))]
#[case::young(quarantined().with("b", |b| { b.created = Some(secs(60)); b.lifecycle_since = Some(secs(30)); }))]
#[case::old_record(quarantined().with("b", |b| b.lifecycle_since = Some(secs(3601))))]
#[case::too_many(View { set_aside: 3, ..quarantined() })]
#[case::just_before(View { last_quarantine: Some(secs(1700)), ..quarantined() })]
#[case::no_archive(View { unrestorable: Some("WAL does not reach the repository of the backups"), ..quarantined() })]
fn p6_a_volume_is_never_given_up_without_need(#[case] view: View) {
    let verdict = decide(&view);
    assert!(!matches!(verdict.act, Some(Act::FreshVolume { .. })), "{verdict:?}");
    assert!(verdict.blocker.is_some());
}

#[test]
fn p6_after_half_an_hour_the_next_volume_may_go() {
    let view = View { last_quarantine: Some(secs(1801)), ..quarantined() };
    assert_eq!(decide(&view).row, Row::Quarantined);
}

#[test]
fn p7_outdated_members_that_are_down_come_first() {
    let view = three().each(outdated).with("c", dead);
    let verdict = decide(&view);
    assert_eq!((verdict.row, verdict.act), (Row::Broken, Some(Act::Replace { pod: "c".into() })));
}

#[test]
fn p7_a_silent_member_may_still_confirm_commits() {
    let view = three().each(outdated).with("c", |c| {
        c.ready = false;
        c.vitals = None;
    });
    let verdict = decide(&view);
    assert_eq!(requested(&verdict), "c", "the others suffice, so it goes in order");
    let view = view.with("b", sick);
    assert_eq!(reason(&decide(&view)), Some(Reason::WaitingForMember), "which of the two does is not known");
    let later = view.after(Wait::Member, PROGRESS_DEADLINE);
    assert_eq!(requested(&decide(&later)), "b", "it follows nobody, so a newer description is the best hope");
    let silent = later.with("b", |b| b.vitals = None);
    assert_eq!(
        reason(&decide(&silent)),
        Some(Reason::WaitingForQuorum),
        "nobody knows that of one that does not answer"
    );
}

#[test]
fn p7_one_that_was_of_no_use_for_long_really_goes() {
    let mut view = three().each(outdated).with("b", sick).with("c", sick).after(Wait::Member, PROGRESS_DEADLINE);
    let verdict = decide(&view);
    assert_eq!(requested(&verdict), "b");
    let mut clock = verdict.blocker;
    let mut state = DrainState::Requested;
    for _ in 0..4 {
        // What was in the way in one pass is all that the next one knows of how long it has been.
        view.waiting = view.waiting.filter(|(wait, _)| clock.as_ref().is_some_and(|last| last.reason.wait() == *wait));
        let verdict = decide(&view.clone().with("b", drain(state, Cause::RollingUpdate, 1)));
        match &verdict.act {
            Some(Act::Advance { to, .. }) => state = *to,
            Some(Act::Remove { pod }) => return assert_eq!(pod, "b"),
            other => panic!("{state}: {other:?} {:?}", verdict.blocker),
        }
        clock = verdict.blocker;
    }
    panic!("it stays {state}");
}

#[test]
fn p7_a_member_whose_pooler_crashes_may_still_confirm_commits() {
    let streams = |member: &mut Member| {
        dead(member);
        member.connected = true;
    };
    let verdict = decide(&three().each(outdated).with("c", streams));
    assert_eq!(requested(&verdict), "c", "the others suffice, so it goes in order");
    let verdict = decide(&two().each(outdated).with("b", streams));
    assert_eq!((requested(&verdict), notes(&verdict)), ("b", vec!["NoRedundancy"]));
    let without = decide(&two().each(outdated).with("b", dead));
    assert_eq!(without.act, Some(Act::Replace { pod: "b".into() }), "the primary does not know it any more");
}

/// Passes until a pod is removed. Each one knows what was in the way only from the one before.
fn removed_in_the_end(mut view: View) -> String {
    for _ in 0..8 {
        let verdict = decide(&view);
        let blocker = verdict.blocker;
        let waits = blocker.as_ref().map(|last| last.reason.wait());
        view.waiting = view.waiting.filter(|(wait, _)| waits == Some(*wait));
        match verdict.act {
            Some(Act::Request { pod, cause }) => view = view.with(&pod, drain(DrainState::Requested, cause, 1)),
            Some(Act::Advance { pod, to }) => view = view.with(&pod, |m| m.drain.as_mut().unwrap().state = to),
            Some(Act::Remove { pod }) => return pod,
            other => panic!("{other:?}, {blocker:?}"),
        }
    }
    panic!("nobody is removed");
}

/// Ready and in no record, for long, and built otherwise today.
fn unregistered() -> View {
    let view = three().each(outdated).each(|member| {
        member.role = Role::Unknown;
        member.registered = false;
        member.lifecycle = Lifecycle::Unknown;
        member.vitals = None;
    });
    view.after(Wait::Member, PROGRESS_DEADLINE)
}

#[test]
fn p7_a_first_description_with_which_nobody_can_register_is_cured_by_the_next_one() {
    let view = View { ever_led: false, ..unregistered() };
    assert_eq!(removed_in_the_end(view.clone()), "a");
    let back = |view: View, role| {
        view.with("a", |a| {
            *a = member("a", "z1", 0);
            a.role = role;
            a.registered = role == Role::Standby;
            a.vitals = None;
        })
    };
    let alone = back(view.clone(), Role::Unknown);
    assert_eq!(reason(&decide(&alone)), Some(Reason::NoPrimary), "the new description has to help first");
    let joined = back(view.clone(), Role::Standby);
    assert_eq!(removed_in_the_end(joined), "b", "it takes two to have a primary");
    let early = view.after(Wait::Member, PROGRESS_DEADLINE.checked_sub(Duration::from_secs(1)).unwrap());
    assert_eq!((decide(&early).act, reason(&decide(&early))), (None, Some(Reason::WaitingForMember)));
}

#[rstest]
#[case::whole(unregistered())]
#[case::chosen(unregistered().with("b", drain(DrainState::ReadyForDeletion, Cause::RollingUpdate, 1)))]
fn p7_members_that_the_topology_has_forgotten_stay(#[case] view: View) {
    // One of them may be the primary.
    let verdict = decide(&view);
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::WaitingForQuorum)));
}

#[test]
fn p7_of_several_that_are_not_well_the_one_that_certainly_is_not_goes_first() {
    let silent = |member: &mut Member| {
        member.ready = false;
        member.vitals = None;
    };
    let mut view = three();
    view.members.push(member("d", "z1", 1));
    let view = view.each(outdated).after(Wait::Member, PROGRESS_DEADLINE);
    assert_eq!(requested(&decide(&view.clone().with("b", silent).with("c", sick))), "c");
    let young = |member: &mut Member| {
        silent(member);
        member.created = Some(secs(600));
    };
    assert_eq!(requested(&decide(&view.with("b", silent).with("c", young))), "c");
}

#[test]
fn p7_without_a_primary_the_cure_is_tried_on_all_claims_last() {
    let view = three().each(outdated).each(dead);
    assert_eq!(decide(&view).act, Some(Act::Replace { pod: "b".into() }));
    let view = view.with("b", |b| b.outdated = None).with("c", |c| c.outdated = None);
    assert_eq!(decide(&view).act, Some(Act::Replace { pod: "a".into() }));
}

#[test]
fn p8_the_standby_with_the_highest_number_goes_first() {
    let mut view = three();
    view.members.push(member("d", "z1", 1));
    view.members.push(member("e", "z2", 2));
    let view = view.with("d", |d| d.wanted = false).with("e", |e| e.wanted = false);
    assert_eq!(requested(&decide(&view)), "e");
    assert_eq!(requested(&decide(&view.with("d", sick))), "d", "unhealthy ones first");
}

#[test]
fn p8_a_primary_that_nobody_wants_hands_over_first() {
    let mut view = three();
    view.members.push(member("d", "z1", 1));
    let view = view.with("a", |a| a.wanted = false);
    let verdict = decide(&view);
    assert_eq!((verdict.row, requested(&verdict)), (Row::Switchover, "a"));
}

#[test]
fn p8_a_shard_never_shrinks_below_its_policy() {
    let view = three().with("b", |b| b.wanted = false).with("c", |c| c.wanted = false);
    let verdict = decide(&view);
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::ScaleDownBlocked)));
    let cells = View { policy: DurabilityPolicy::MultiCellAtLeast2, ..two() }.with("b", |b| b.wanted = false);
    assert_eq!(reason(&decide(&cells)), Some(Reason::ScaleDownBlocked));
}

#[test]
fn p9_standbys_of_other_cells_go_first() {
    let mut view = three().each(outdated);
    view.members.push(member("A", "z1", 1));
    let view = view.with("A", outdated);
    assert_eq!(requested(&decide(&view)), "b");
}

#[test]
fn p9_the_standby_that_lags_most_goes_first() {
    let view = three().each(outdated).with("c", |c| c.vitals.as_mut().unwrap().lag = 10);
    assert_eq!(requested(&decide(&view)), "c");
}

#[test]
fn p9_a_shard_without_slack_rolls_all_the_same() {
    let verdict = decide(&two().each(outdated));
    assert_eq!((requested(&verdict), notes(&verdict)), ("b", vec!["NoRedundancy"]));
}

#[test]
fn p9_a_cell_of_its_own_is_spared_only_while_all_others_are_well() {
    let two_cells = view(vec![primary("a", "z1", 0), member("b", "z1", 1), member("c", "z2", 0)]);
    let view = View { policy: DurabilityPolicy::MultiCellAtLeast2, ..two_cells }.with("c", outdated);
    assert_eq!(notes(&decide(&view)), ["NoRedundancy"]);
    assert_eq!(reason(&decide(&view.with("b", sick))), Some(Reason::WaitingForMember));
}

#[test]
fn p10_the_primary_goes_last() {
    let verdict = decide(&three().with("a", outdated));
    assert_eq!((verdict.row, requested(&verdict)), (Row::Switchover, "a"));
}

#[test]
fn p10_nobody_healthy_to_take_over() {
    let cordoned = three().each(|m| m.node = Node::Cordoned);
    assert_eq!(
        decide(&cordoned.clone().with("a", outdated)).row,
        Row::Switchover,
        "a rolling update stays where it is"
    );
    assert_eq!(reason(&decide(&cordoned)), Some(Reason::NoStandby));
    let later = cordoned.after(Wait::Successor, ABORT_AFTER);
    assert_eq!(decide(&later).row, Row::NodeDrain, "where every node is about to be emptied, one of them has to do");
    assert_eq!(reason(&decide(&later.each(|m| m.node = Node::Draining))), Some(Reason::NoStandby));
}

#[test]
fn p7_a_primary_that_recovers_is_left_alone_for_a_while() {
    let view = three().with("a", outdated).with("a", |a| {
        a.vitals = Some(Vitals { postgres_ready: false, ..Vitals::default() });
        a.ready = false;
    });
    assert_eq!(decide(&view).act, None);
    let elsewhere = view.clone().after(Wait::Sight, ABORT_AFTER);
    assert_eq!(decide(&elsewhere).act, None, "how long something else was in the way says nothing about it");
    let later = View { lost_since: Some(ago(ABORT_AFTER)), ..view };
    assert_eq!(decide(&later).row, Row::Broken);
}

#[test]
fn p10_a_failed_switchover_is_not_repeated_at_once() {
    let failed = |count, seconds| Failures { count, last: Some(secs(seconds)) };
    let view = three().with("a", outdated);
    assert_eq!(
        reason(&decide(&view.clone().with("a", |a| a.failures = failed(1, 29)))),
        Some(Reason::SwitchoverFailed)
    );
    assert_eq!(decide(&view.clone().with("a", |a| a.failures = failed(1, 30))).row, Row::Switchover);
    assert_eq!(decide(&view.clone().with("a", |a| a.failures = failed(3, 119))).act, None);
    assert_eq!(decide(&view.with("a", |a| a.failures = failed(40, 600))).row, Row::Switchover);
}

#[test]
fn p11_the_only_member_is_made_anew_in_place() {
    let verdict = decide(&view(vec![primary("a", "z1", 0)]).with("a", outdated));
    assert_eq!(verdict.act, Some(Act::Replace { pod: "a".into() }));
    assert_eq!(notes(&verdict), ["DowntimeExpected"]);
}

#[test]
fn p12_who_is_missed_is_named() {
    let silent = |member: &mut Member| member.vitals = None;
    // The silent one itself may go: the other two suffice.
    assert_eq!(requested(&decide(&three().each(outdated).with("c", silent))), "c");
    let apart = |member: &mut Member| member.vitals.as_mut().unwrap().in_cohort = false;
    let view = three().each(outdated).with("b", apart).with("c", apart);
    let verdict = decide(&view.after(Wait::Member, PROGRESS_DEADLINE));
    assert_eq!((verdict.row, reason(&verdict)), (Row::NoQuorum, Some(Reason::WaitingForQuorum)));
    assert!(verdict.blocker.unwrap().message.contains('c'));
}

#[test]
fn p12_two_that_are_not_well_are_waited_for() {
    let mut view = three().each(outdated);
    view.members.extend([member("d", "z1", 1), member("e", "z2", 1)]);
    let view = view.with("d", sick).with("e", sick);
    assert_eq!(requested(&decide(&view.clone().with("d", outdated).with("e", |e| *e = member("e", "z2", 1)))), "d");
    let verdict = decide(&view.with("d", outdated).with("e", outdated));
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::WaitingForMember)));
}

#[test]
fn p13_a_file_system_that_grows_offline_takes_the_same_way() {
    let verdict = decide(&three().with("b", |b| b.resize_pending = true));
    assert_eq!(verdict.act, Some(Act::Request { pod: "b".into(), cause: Cause::FsResize }));
    let verdict = decide(&three().with("a", |a| a.resize_pending = true));
    assert_eq!(verdict.act, Some(Act::Request { pod: "a".into(), cause: Cause::FsResize }));
}

#[rstest]
#[case(Node::Cordoned)]
#[case(Node::Draining)]
fn p14_the_primary_leaves_a_node_that_is_about_to_go(#[case] node: Node) {
    let verdict = decide(&three().with("a", |a| a.node = node));
    assert_eq!(verdict.act, Some(Act::Request { pod: "a".into(), cause: Cause::NodeDrain }));
    assert_eq!(decide(&three().with("b", |b| b.node = node)).row, Row::Idle, "standbys wait for their eviction");
}

#[test]
fn p14_the_only_member_has_nowhere_to_go() {
    let alone = view(vec![primary("a", "z1", 0)]).with("a", |a| a.node = Node::Cordoned);
    assert_eq!(decide(&alone).row, Row::Idle);
}

#[test]
fn p15_standbys_reload_before_the_primary() {
    let view = three().each(|m| m.reload_pending = true);
    assert_eq!(decide(&view).act, Some(Act::Reload { pods: vec!["b".into(), "c".into()] }));
    let view = three().with("a", |a| a.reload_pending = true);
    assert_eq!(decide(&view).act, Some(Act::Reload { pods: vec!["a".into()] }));
}

#[test]
fn a_lost_primary_is_no_reason_to_wait() {
    let view = three().with("a", |a| {
        a.presence = Presence::Leaving { due: NOW };
        sick(a);
    });
    let verdict = decide(&view);
    assert_eq!(
        (verdict.row, verdict.act.clone(), reason(&verdict)),
        (Row::Lost, Some(Act::Hasten), Some(Reason::NoPrimary))
    );
    let elsewhere = view.clone().after(Wait::Word, Duration::from_hours(1));
    assert_eq!(decide(&elsewhere).act, Some(Act::Hasten), "a shard that was paused for long loses its primary now");
    assert_eq!(decide(&View { lost_since: Some(secs(121)), ..view }).act, None, "haste is not all that is missing");
}

#[test]
fn each_wait_has_a_clock_of_its_own() {
    let long = PROGRESS_DEADLINE + Duration::from_secs(1);
    let stalled = three().each(outdated).with("b", |b| {
        b.outdated = None;
        b.created = Some(ago(long));
        dead(b);
    });
    for other in [Wait::Word, Wait::Sight, Wait::Successor, Wait::Reload, Wait::Volume] {
        let verdict = decide(&stalled.clone().after(other, long));
        assert_eq!(reason(&verdict), Some(Reason::WaitingForMember), "{other:?} was in the way, not the member");
    }
    let sick = three().each(outdated).with("b", sick).with("c", sick);
    assert_eq!(reason(&decide(&sick.after(Wait::Word, long))), Some(Reason::WaitingForMember));
    let cordoned = three().each(|m| m.node = Node::Cordoned);
    assert_eq!(reason(&decide(&cordoned.after(Wait::Member, long))), Some(Reason::NoStandby));
    let reload = three().each(|m| m.reload_pending = true).after(Wait::Member, long);
    assert_eq!(decide(&reload).act, Some(Act::Reload { pods: vec!["b".into(), "c".into()] }));
}

#[test]
fn p14_the_primary_leaves_its_node_before_anything_that_can_wait() {
    for node in [Node::Cordoned, Node::Draining] {
        let mut view = three().each(outdated).with("a", |a| a.node = node);
        view.members.push(member("d", "z1", 1));
        let view = view.with("d", |d| d.wanted = false).with("b", |b| b.resize_pending = true);
        let moves = Some(Act::Request { pod: "a".into(), cause: Cause::NodeDrain });
        assert_eq!(decide(&view).act, moves);
        let unwell = view.clone().with("c", |c| c.outdated = None).with("c", sick);
        assert_eq!(decide(&unwell).act, None, "nor beside one that is coming back");
        let ending = view.clone().with("c", |c| c.presence = Presence::Leaving { due: NOW });
        assert_eq!(decide(&ending).act, None, "never two at once");
        let missing = view.with("c", |c| c.presence = Presence::Missing);
        assert_ne!(decide(&missing).act, moves, "never two at once");
    }
}

#[test]
fn p14_a_member_that_was_only_chosen_waits_for_it() {
    let view = three().each(outdated).with("a", |a| a.node = Node::Draining);
    let chosen = view.clone().with("b", drain(DrainState::Requested, Cause::RollingUpdate, 1));
    assert_eq!(decide(&chosen).act, Some(Act::Drop { pod: "b".into(), ending: Ending::Cancelled }));
    let further = view.with("b", drain(DrainState::Draining, Cause::RollingUpdate, 1));
    assert_eq!(decide(&further).row, Row::Draining, "who has come further goes first");
}

#[test]
fn p14_where_it_cannot_move_now_other_work_goes_on() {
    let view = three().with("b", outdated).each(|m| m.node = Node::Draining);
    assert_eq!(requested(&decide(&view)), "b", "nobody could take over");
    let failed = Failures { count: 1, last: Some(secs(5)) };
    let view = three().with("b", outdated).with("a", |a| (a.node, a.failures) = (Node::Draining, failed));
    assert_eq!(requested(&decide(&view)), "b", "it was tried a moment ago");
}

#[test]
fn a_member_on_another_class_gives_its_place_away_and_the_primary_does_so_last() {
    let replaced = |view: &View| match decide(view).act {
        Some(Act::ReplaceVolume { pod }) => pod,
        other => panic!("no volume is replaced: {other:?}"),
    };
    let view = three().each(misplaced);
    assert_eq!(replaced(&view), "b");
    let view = view.with("b", |b| b.misplaced = None).with("c", |c| c.misplaced = None);
    assert_eq!(replaced(&view), "a");
    assert_eq!(replaced(&view.with("a", outdated)), "a", "whoever comes instead is up to date, too");
}

#[test]
fn a_member_that_nobody_could_let_go_keeps_its_volume() {
    let alone = view(vec![primary("a", "z1", 0)]).each(misplaced);
    let verdict = decide(&alone);
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::ScaleDownBlocked)));
}

#[test]
fn one_volume_is_replaced_after_the_other() {
    let mut view = three().with("c", misplaced).with("b", |b| b.wanted = false);
    view.members.push(member("d", "z2", 1));
    assert_eq!(requested(&decide(&view)), "b", "who gave its place away leaves first");
    let coming = view.with("d", dead);
    assert_eq!(reason(&decide(&coming)), Some(Reason::WaitingForMember), "and who takes it comes before that");
}

#[test]
fn a_class_that_does_not_exist_is_named_and_stops_nothing_else() {
    let missing = |member: &mut Member| {
        misplaced(member);
        member.misplaced.as_mut().unwrap().exists = false;
    };
    let verdict = decide(&three().each(missing));
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::StorageClassMissing)));
    assert!(verdict.blocker.unwrap().message.contains("fast"));
    assert_eq!(requested(&decide(&three().each(missing).each(outdated))), "b");
}

#[test]
fn a_member_that_waits_for_a_volume_of_another_class_is_not_waited_for() {
    let view = three().with("b", dead).with("b", misplaced);
    assert_eq!(decide(&view).act, Some(Act::ReplaceVolume { pod: "b".into() }));
    let leaderless = view.with("a", sick);
    assert_eq!(decide(&leaderless).act, None, "its volume may hold what nobody else has");
}

#[test]
fn p15_the_primary_reloads_after_a_while_although_a_standby_does_not() {
    let view = three().with("a", |a| a.reload_pending = true).with("b", |b| b.reload_pending = true);
    assert_eq!(decide(&view).act, Some(Act::Reload { pods: vec!["b".into()] }));
    let soon = view.clone().after(Wait::Reload, ABORT_AFTER.checked_sub(Duration::from_secs(1)).unwrap());
    assert_eq!(decide(&soon).act, Some(Act::Reload { pods: vec!["b".into()] }));
    let later = view.after(Wait::Reload, ABORT_AFTER);
    assert_eq!(decide(&later).act, Some(Act::Reload { pods: vec!["a".into(), "b".into()] }));
}

#[test]
fn p6_a_quarantined_member_waits_for_one_that_is_on_its_way() {
    let mut view = quarantined();
    view.members.push(member("d", "z1", 1));
    let others = view.clone().with("d", |d| d.presence = Presence::Missing);
    let verdict = decide(&others);
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::WaitingForMember)));
    let victim = view.members[1].clone();
    assert!(others.volume_guard(&victim).unwrap().contains('d'));
    let leaving = view.clone().with("d", |d| (d.presence, d.wanted) = (Presence::Leaving { due: NOW }, false));
    assert!(leaving.volume_guard(&victim).unwrap().contains('d'));
    assert_eq!(decide(&leaving).act, None);
    assert_eq!(view.volume_guard(&victim), None);
}

#[test]
fn p3_one_that_was_made_a_moment_ago_is_waited_for_although_it_is_outdated_again() {
    let mut view = three();
    view.members.push(member("d", "z1", 1));
    let chosen = view.each(outdated).with("b", sick).with("c", sick);
    let chosen = chosen.with("c", drain(DrainState::ReadyForDeletion, Cause::RollingUpdate, 1));
    assert_eq!(decide(&chosen).act, Some(Act::Remove { pod: "c".into() }), "b has been unwell for long");
    let young = chosen.with("b", |b| b.created = Some(secs(12)));
    let verdict = decide(&young);
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::WaitingForMember)));
}

#[test]
fn p14_a_primary_that_took_over_a_moment_ago_is_not_moved_on_before_other_work() {
    let view = three().with("b", outdated).with("a", |a| a.node = Node::Cordoned);
    let new = View { led_since: Some(secs(119)), ..view.clone() };
    assert_eq!(requested(&decide(&new)), "b");
    let settled = View { led_since: Some(ago(ABORT_AFTER)), ..view };
    assert_eq!(requested(&decide(&settled)), "a");
}
