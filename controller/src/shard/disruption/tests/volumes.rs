//! Members whose volumes are lost, or about to go.

use rstest::rstest;
use shared::annotation::DrainState;

use super::{
    super::{ABORT_AFTER, Act, Cause, Ending, Reason, Row, View, Volume, decide},
    fixture::*,
};
use crate::upstream::Lifecycle;

/// The volume of one standby is gone, for more than two minutes.
fn lost() -> View {
    View { volume_lost_since: Some(ago(ABORT_AFTER)), ..three().with("b", bereft) }
}

#[test]
fn a_member_that_has_lost_its_volume_gets_a_fresh_one() {
    let verdict = decide(&lost());
    assert_eq!(verdict.act, Some(Act::FreshVolume { pod: "b".into() }));
    assert_eq!((verdict.row, reason(&verdict)), (Row::Volume, Some(Reason::VolumeLost)));
    assert_eq!(decide(&lost().with("b", outdated)).act, verdict.act, "nothing comes of the old one");
}

#[test]
fn what_becomes_of_the_old_claim_is_told_as_it_is() {
    let told = |view: &View| decide(view).notes.into_iter().map(|note| note.message).collect::<String>();
    assert!(told(&lost()).ends_with("the old claim is kept"), "{}", told(&lost()));
    let deleted = lost().with("b", leaving);
    assert!(told(&deleted).ends_with("the old claim goes with the pod"), "{}", told(&deleted));
}

#[rstest]
#[case::passing(View { volume_lost_since: Some(secs(119)), ..lost() })]
#[case::two_at_once(lost().with("c", bereft))]
#[case::beside_a_quarantined_one(lost().with("c", |c| { dead(c); c.lifecycle = Lifecycle::Quarantined; }))]
#[case::nobody_serves(lost().with("a", sick))]
#[case::too_few_others(lost().with("c", sick))]
#[case::young(lost().with("b", |b| b.created = Some(secs(60))))]
#[case::too_many(View { set_aside: 3, ..lost() })]
#[case::just_before(View { last_quarantine: Some(secs(1700)), ..lost() })]
#[case::primary(lost().with("b", |b| b.volume = Volume::Fine).with("a", bereft))]
#[case::paused(View { paused: true, ..lost() })]
fn a_member_that_has_lost_its_volume_is_not_touched_without_proof(#[case] view: View) {
    for view in [view.clone(), view.with("b", outdated)] {
        let verdict = decide(&view);
        match verdict.act.as_ref().and_then(Act::takes_down) {
            Some(pod) => assert!(view.members.iter().all(|m| m.pod != pod || m.volume == Volume::Fine), "{verdict:?}"),
            None => assert!(verdict.blocker.is_some(), "{verdict:?}"),
        }
    }
}

#[test]
fn a_member_whose_volume_would_go_with_it_gives_its_place_away_and_is_not_rolled_before() {
    let view = View { volume_lost_since: Some(ago(ABORT_AFTER)), ..three().each(leaving).each(outdated) };
    assert_eq!(decide(&view).act, Some(Act::ReplaceVolume { pod: "b".into() }));
    let early = View { volume_lost_since: None, ..view.clone() };
    assert_eq!((decide(&early).act, reason(&decide(&early))), (None, Some(Reason::VolumeLost)));
    let primary = view.with("b", |b| b.volume = Volume::Fine).with("c", |c| c.volume = Volume::Fine);
    assert_eq!(decide(&primary).act, Some(Act::ReplaceVolume { pod: "a".into() }), "nobody is taken down for it");
    let chosen = three().with("b", leaving).with("b", outdated);
    let chosen = chosen.with("b", drain(DrainState::ReadyForDeletion, Cause::RollingUpdate, 1));
    assert_eq!(decide(&chosen).act, Some(Act::Drop { pod: "b".into(), ending: Ending::Cancelled }));
}

#[test]
fn the_only_member_stays_on_a_volume_that_would_go_with_it() {
    let alone = View { volume_lost_since: Some(ago(ABORT_AFTER)), ..view(vec![primary("a", "z1", 0)]) };
    let verdict = decide(&alone.with("a", leaving).with("a", outdated));
    assert_eq!((verdict.act.clone(), reason(&verdict)), (None, Some(Reason::ScaleDownBlocked)));
}
