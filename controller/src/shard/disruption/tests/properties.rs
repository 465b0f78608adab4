//! What holds in every situation, likely or not.

use proptest::prelude::*;
use shared::{annotation::DrainState, api::v1alpha1::DurabilityPolicy};

use super::{
    super::{
        Act, Cause, Drain, Failures, Member, Misplaced, Node, Presence, Role, Safety, View, Vitals, Volume, Wait,
        decide,
    },
    fixture::*,
};
use crate::upstream::Lifecycle;

fn presence() -> impl Strategy<Value = Presence> {
    prop_oneof![
        12 => Just(Presence::Live),
        1 => Just(Presence::Missing),
        1 => Just(Presence::Ended),
        1 => (0_u64..200).prop_map(|past| Presence::Leaving { due: secs(past) }),
    ]
}

fn drained() -> impl Strategy<Value = Option<Drain>> {
    let state = prop::sample::select(vec![
        DrainState::Requested,
        DrainState::Draining,
        DrainState::Acknowledged,
        DrainState::ReadyForDeletion,
    ]);
    let cause = prop::option::of(prop::sample::select(vec![
        Cause::RollingUpdate,
        Cause::ScaleDown,
        Cause::FsResize,
        Cause::NodeDrain,
    ]));
    let drain = (state, cause, 0_u64..200).prop_map(|(state, cause, since)| Drain {
        state,
        cause,
        requested: secs(since),
        since: secs(since / 2),
    });
    prop_oneof![6 => Just(None), 1 => drain.prop_map(Some)]
}

fn waits() -> impl Strategy<Value = Wait> {
    prop::sample::select(vec![Wait::Member, Wait::Successor, Wait::Reload, Wait::Volume, Wait::Sight, Wait::Word])
}

prop_compose! {
    fn any_member()(
        presence in presence(),
        drain in drained(),
        (wanted, old, resize, reload, ready) in (
            prop::bool::weighted(0.8), any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.8),
        ),
        (trouble, moved) in (
            prop::option::weighted(0.1, Just("CrashLoopBackOff".to_owned())),
            prop::option::weighted(0.1, prop::bool::weighted(0.8)),
        ),
        (connected, registered, asked) in (any::<bool>(), prop::bool::weighted(0.9), any::<bool>()),
        volume in prop_oneof![20 => Just(Volume::Fine), 1 => Just(Volume::Leaving), 1 => Just(Volume::Lost)],
        node in prop::sample::select(vec![Node::Fine, Node::Fine, Node::Fine, Node::Cordoned, Node::Draining]),
        lifecycle in prop::sample::select(vec![
            Lifecycle::Active, Lifecycle::Active, Lifecycle::Active, Lifecycle::Active, Lifecycle::Starting,
            Lifecycle::Quarantined, Lifecycle::Shutdown,
        ]),
        role in prop::sample::select(vec![Role::Standby, Role::Standby, Role::Standby, Role::Standby, Role::Primary, Role::Unknown]),
        vitals in prop::option::weighted(0.85, (
            prop::bool::weighted(0.9), prop::bool::weighted(0.9), prop::bool::weighted(0.9), prop::bool::weighted(0.9),
            prop::sample::select(vec![0, 0, 10, u64::MAX]),
        )),
        (created, failed, count) in (0_u64..2000, prop::option::weighted(0.1, 0_u64..100), 0_u32..4),
    ) -> Member {
        Member {
            presence, drain, wanted, ready, trouble, node, lifecycle, role, connected, registered, volume,
            forgotten: !registered && asked,
            outdated: old.then(|| "spec.containers[0].image".to_owned()),
            resize_pending: resize,
            misplaced: moved.map(|exists| Misplaced { class: "fast".to_owned(), exists }),
            reload_pending: reload,
            created: Some(secs(created)),
            lifecycle_since: Some(secs(created / 2)),
            failures: Failures { count, last: failed.map(secs) },
            vitals: vitals.map(|(postgres_ready, serving, streaming, in_cohort, lag)| Vitals {
                postgres_ready,
                serving: serving && role == Role::Primary,
                streaming: streaming && role == Role::Standby,
                lag,
                in_cohort,
            }),
            ..member("", "", 0)
        }
    }
}

prop_compose! {
    fn any_view()(
        mut members in prop::collection::vec(any_member(), 0..7),
        multi in any::<bool>(),
        paused in prop::bool::weighted(0.05),
        blind in prop::bool::weighted(0.05),
        blocked in prop::option::of((waits(), 0_u64..2000)),
        lost in prop::option::of(0_u64..2000),
        cells in 1_usize..4,
        ever_led in prop::bool::weighted(0.7),
        lost_volumes in prop::option::of(0_u64..300),
        calm in prop::bool::weighted(0.6),
    ) -> View {
        let mut led = false;
        for (number, member) in members.iter_mut().enumerate() {
            member.pod = format!("p{number}");
            member.cell = format!("z{}", number % cells);
            member.index = u32::try_from(number / cells).unwrap();
            if calm {
                // Most random worlds are in ruins; in these only the wishes are random.
                let healthy = if led { super::fixture::member("", "", 0) } else { primary("", "", 0) };
                led = true;
                member.presence = healthy.presence;
                member.role = healthy.role;
                member.vitals = healthy.vitals;
                member.ready = true;
                member.trouble = None;
                member.lifecycle = Lifecycle::Active;
            }
        }
        View {
            policy: if multi { DurabilityPolicy::MultiCellAtLeast2 } else { DurabilityPolicy::AtLeast2 },
            paused,
            blind: blind.then(|| "etcd does not answer".to_owned()),
            waiting: blocked.map(|(wait, since)| (wait, secs(since))),
            lost_since: lost.map(secs),
            ever_led,
            volume_lost_since: lost_volumes.map(secs),
            ..view(members)
        }
    }
}

fn find<'a>(view: &'a View, pod: &str) -> &'a Member {
    view.members.iter().find(|member| member.pod == pod).unwrap()
}

/// Whether a member that goes takes anything with it.
fn counts(member: &Member) -> bool {
    !member.is_down()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn the_order_of_what_was_observed_decides_nothing(view in any_view(), seed in any::<u64>()) {
        let mut other = view.clone();
        let length = other.members.len().max(1);
        for at in 0..other.members.len() {
            other.members.swap(at, usize::try_from(seed % 97).unwrap() * (at + 1) % length);
        }
        let (one, other) = (decide(&view), decide(&other));
        prop_assert_eq!(&one.act, &other.act);
        prop_assert_eq!(one.blocker.map(|b| b.reason), other.blocker.map(|b| b.reason));
    }

    #[test]
    fn never_two_at_once(view in any_view()) {
        let verdict = decide(&view);
        if let Some(pod) = verdict.act.as_ref().and_then(Act::takes_down) && counts(find(&view, pod)) {
            let on_the_way = view.members.iter().find(|other| other.pod != pod && match other.presence {
                Presence::Leaving { .. } => true,
                Presence::Missing => other.wanted,
                _ => false,
            });
            prop_assert_eq!(on_the_way, None);
        }
    }

    #[test]
    fn never_below_the_policy_where_there_is_slack(view in any_view()) {
        let verdict = decide(&view);
        if let Some(pod) = verdict.act.as_ref().and_then(Act::takes_down) && counts(find(&view, pod)) {
            let goes = find(&view, pod);
            let others = || view.members.iter().filter(|other| other.pod != pod);
            let healthy = view.suffices(others().filter(|other| view.is_healthy(other)));
            let slack = view.suffices(others().filter(|other| other.wanted));
            let all_well = others().filter(|other| other.wanted).all(|other| view.is_healthy(other));
            let hands_over = goes.drain.as_ref().is_some_and(|d| d.cause == Some(Cause::NodeDrain));
            // Who follows nobody although somebody serves, and who never joined where nobody ever led, keeps no commit.
            let follows = goes.role != Role::Standby || goes.vitals.is_none_or(|vitals| vitals.streaming);
            let useless = !follows && view.serving_primary().is_some();
            let never_led = !view.ever_led && view.members.iter().all(|member| member.role != Role::Primary);
            let stranger = never_led && !goes.registered && goes.vitals.is_none_or(|vitals| !vitals.streaming);
            prop_assert!(healthy || (!slack && all_well) || hands_over || useless || stranger, "{:?}", verdict);
        }
    }

    #[test]
    fn nobody_goes_for_being_unknown_where_there_was_a_primary(view in any_view()) {
        let view = View { ever_led: true, ..view }.each(|member| {
            // As after the loss of all records.
            member.role = Role::Unknown;
            member.registered = false;
            member.vitals = None;
        });
        if let Some(pod) = decide(&view).act.as_ref().and_then(Act::takes_down) {
            prop_assert!(!counts(find(&view, pod)), "{pod} may be the primary");
        }
    }

    #[test]
    fn a_primary_without_a_record_only_hands_over_and_only_once_all_others_have_one(view in any_view()) {
        let view = View { ever_led: true, ..view };
        let act = decide(&view).act;
        if let Some(pod) = act.as_ref().and_then(Act::takes_down) {
            let goes = find(&view, pod);
            if goes.role == Role::Primary && goes.forgotten && goes.is_live() {
                let others = || view.members.iter().filter(|other| other.pod != pod && other.wanted);
                prop_assert!(matches!(act, Some(Act::Resign { .. })), "{:?}", act);
                prop_assert!(others().all(|other| other.registered));
            }
        }
    }

    #[test]
    fn the_primary_never_goes_while_a_standby_could(view in any_view()) {
        let verdict = decide(&view);
        let (pod, cause) = match &verdict.act {
            Some(Act::Request { pod, cause }) => (pod, *cause),
            Some(Act::Resign { pod }) => (pod, find(&view, pod).drain.as_ref().unwrap().cause.unwrap_or(Cause::RollingUpdate)),
            Some(Act::Remove { pod }) => {
                prop_assert!(find(&view, pod).role != Role::Primary);
                return Ok(());
            }
            _ => return Ok(()),
        };
        if find(&view, pod).role == Role::Primary && cause != Cause::NodeDrain {
            let could = view.members.iter().find(|other| {
                other.pod != *pod && other.is_live() && other.role == Role::Standby
                    && matches!(other.cause(), Some(Cause::RollingUpdate | Cause::FsResize))
                    && !matches!(view.safety(other), Safety::Unsafe(_))
            });
            prop_assert_eq!(could, None);
        }
    }

    #[test]
    fn a_primary_hands_over_only_to_somebody_healthy(view in any_view()) {
        let verdict = decide(&view);
        if let Some(Act::Resign { pod }) = &verdict.act {
            let pod = find(&view, pod);
            prop_assert!([true, false].into_iter().any(|moves| view.has_successor(pod, moves, true)));
            prop_assert!(view.is_healthy(pod));
        }
    }

    #[test]
    fn whatever_is_pending_goes_on_or_names_its_blocker(view in any_view()) {
        let verdict = decide(&view);
        prop_assert!(!verdict.pending || verdict.act.is_some() || verdict.blocker.is_some(), "{:?}", verdict);
        let wished = view.members.iter().any(|member| member.is_live() && member.cause().is_some());
        prop_assert!(!wished || verdict.pending);
        if let Some(blocker) = verdict.blocker {
            prop_assert!(!blocker.message.is_empty());
        }
    }

    #[test]
    fn what_the_data_plane_may_refuse_is_named_until_it_has_done_it(view in any_view()) {
        let verdict = decide(&view);
        let asks = matches!(
            verdict.act,
            Some(Act::Resign { .. } | Act::LeaveCohort { .. } | Act::FreshVolume { .. } | Act::Hasten)
        );
        let asks = asks || matches!(verdict.act, Some(Act::Reload { .. }));
        prop_assert!(!asks || verdict.blocker.is_some(), "{:?}", verdict);
    }

    #[test]
    fn nobody_is_disturbed_in_the_dark_or_against_the_users_word(view in any_view()) {
        let verdict = decide(&View { blind: Some("etcd".to_owned()), ..view.clone() });
        let quiet = matches!(verdict.act, None | Some(Act::Replace { .. }));
        prop_assert!(quiet);
        let verdict = decide(&View { paused: true, ..view });
        let quiet = matches!(verdict.act, None | Some(Act::Replace { .. } | Act::Hasten));
        prop_assert!(quiet);
    }

    #[test]
    fn a_member_changes_its_volume_alone_and_the_primary_last(view in any_view()) {
        if let Some(Act::ReplaceVolume { pod }) = &decide(&view).act {
            let goes = find(&view, pod);
            let lost = goes.volume != Volume::Fine;
            prop_assert!(goes.wanted && (lost || goes.misplaced.as_ref().is_some_and(|found| found.exists)));
            let others = || view.members.iter().filter(|other| other.pod != *pod);
            if !goes.is_down() {
                prop_assert!(others().all(|other| !other.is_live() || other.wanted), "one after the other");
                prop_assert!(others().filter(|other| other.wanted).all(|other| view.is_healthy(other)));
            }
            if goes.role == Role::Primary {
                let moves = |other: &Member| {
                    if lost { other.volume != Volume::Fine } else { other.misplaced.is_some() }
                };
                prop_assert!(!others().any(|other| other.wanted && other.is_live() && moves(other)));
            }
        }
    }

    #[test]
    fn a_volume_is_given_up_only_beside_a_healthy_majority(view in any_view()) {
        if let Some(Act::FreshVolume { pod }) = &decide(&view).act {
            let healthy: Vec<&Member> =
                view.members.iter().filter(|other| other.pod != *pod && view.is_healthy(other)).collect();
            prop_assert!(view.suffices(healthy.iter().copied()));
            prop_assert!(healthy.iter().any(|member| member.role == Role::Primary));
            prop_assert_eq!(view.members.iter().filter(|member| member.is_given_up()).count(), 1);
            let goes = find(&view, pod);
            prop_assert!((goes.is_quarantined() || goes.is_down()) && goes.role != Role::Primary);
        }
    }

    #[test]
    fn nobody_whose_volume_would_go_along_is_taken_down_for_anything_else(view in any_view()) {
        if let Some(Act::Replace { pod } | Act::Remove { pod }) = &decide(&view).act {
            let goes = find(&view, pod);
            prop_assert!(!goes.wanted || !goes.is_live() || goes.volume == Volume::Fine);
        }
    }
}

#[test]
fn a_healthy_world_always_finds_something_to_do() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let config = (2_usize..6, any::<bool>(), prop::collection::vec(any::<bool>(), 6));
    runner
        .run(&config, |(count, multi, old)| {
            let mut members: Vec<Member> =
                (1..count).map(|n| member(&format!("p{n}"), &format!("z{}", n % 3), 0)).collect();
            members.insert(0, primary("p0", "z0", 0));
            for (member, old) in members.iter_mut().zip(&old) {
                if *old {
                    outdated(member);
                }
            }
            let policy = if multi { DurabilityPolicy::MultiCellAtLeast2 } else { DurabilityPolicy::AtLeast2 };
            let view = View { policy, ..view(members) };
            let any = view.members.iter().any(|member| member.outdated.is_some());
            let verdict = decide(&view);
            prop_assert_eq!(verdict.act.is_some(), any, "{:?}", verdict);
            Ok(())
        })
        .unwrap();
}
