//! What a pass makes of pods that do not answer, of topology records about them, and of either without the other.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use rstest::rstest;
use serde_json::json;
use shared::label;

use super::fixture::*;
use crate::{
    shard::{
        Observed,
        disruption::{Act, PROGRESS_DEADLINE, Row, Verdict},
        scope::Scope, sight, weigh,
    },
    upstream::{Lifecycle, Role},
};

fn change_image(observed: &mut Observed) {
    Arc::make_mut(&mut observed.shard).spec.images.postgres = "registry.test/pgctld:2".into();
}

/// What is decided so long after a change of the image that nobody got well from.
fn long_after(observed: &Observed) -> Verdict {
    weigh(observed, &settings(), NOW + SignedDuration::try_from(PROGRESS_DEADLINE).unwrap()).unwrap().verdict
}

/// Members that are ready and in no record, and a description that was corrected since.
fn unregistered() -> Observed {
    let mut observed = observed(three_cells());
    carry_out(&mut observed);
    change_image(&mut observed);
    remember(&mut observed);
    observed
}

#[test]
fn members_that_never_registered_are_made_anew_as_described_today() {
    let verdict = long_after(&unregistered());
    assert!(matches!(verdict.act, Some(Act::Request { .. })), "{verdict:?}");
}

fn remembered_by_the_status(observed: &mut Observed) {
    let mut led = healthy(three_cells());
    remember(&mut led);
    let known = led.shard.status.as_ref().unwrap().conditions.iter().find(|c| c.type_ == "PrimaryConfirmed");
    let conditions = &mut Arc::make_mut(&mut observed.shard).status.as_mut().unwrap().conditions;
    conditions.retain(|condition| condition.type_ != "PrimaryConfirmed");
    conditions.push(known.unwrap().clone());
}

fn remembered_by_a_label(observed: &mut Observed) {
    let pod = members(&observed.shard)[2].clone();
    with_pod(observed, &pod, |pod| {
        pod.metadata.labels.as_mut().unwrap().insert(label::ROLE.to_owned(), label::PRIMARY.to_owned());
    });
}

fn remembered_by_a_budget(observed: &mut Observed) {
    let mut budget = PodDisruptionBudget::default();
    budget.metadata.name = Some("standbys".to_owned());
    observed.budgets.push(Arc::new(budget));
}

#[rstest]
#[case::status(remembered_by_the_status)]
#[case::label(remembered_by_a_label)]
#[case::budget(remembered_by_a_budget)]
fn members_of_a_topology_that_was_wiped_are_left_alone(#[case] evidence: fn(&mut Observed)) {
    let mut observed = unregistered();
    evidence(&mut observed);
    let verdict = long_after(&observed);
    assert_eq!(verdict.act, None, "{verdict:?}");
}

#[rstest]
#[case::exporter("postgres-exporter", false, Row::OutdatedStandby)]
#[case::server("postgres", false, Row::Broken)]
#[case::pooler("multipooler", false, Row::Broken)]
#[case::pooler_of_a_server_that_streams("multipooler", true, Row::OutdatedStandby)]
fn a_silent_member_is_down_if_something_keeps_postgresql_from_running(
    #[case] container: &str,
    #[case] streams: bool,
    #[case] row: Row,
) {
    let mut observed = healthy(three_cells());
    change_image(&mut observed);
    let pod = members(&observed.shard)[1].clone();
    let id = record(&mut observed, 1).id.clone();
    observed.statuses.remove(&id);
    if !streams {
        let answers = observed.statuses.values_mut().filter_map(|seen| seen.status.primary.as_mut());
        answers.for_each(|primary| {
            primary.followers.remove(&id);
        });
    }
    with_pod(&mut observed, &pod, |pod| {
        pod.status = serde_json::from_value(json!({ "phase": "Running", "containerStatuses": [{
            "name": container, "image": "i", "imageID": "", "ready": false, "restartCount": 4,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        }] }))
        .unwrap();
    });
    assert_eq!(weigh(&observed, &settings(), NOW).unwrap().verdict.row, row);
}

#[test]
fn what_an_earlier_pooler_has_left_does_not_speak_for_a_pod() {
    let mut observed = healthy(three_cells());
    let own = record(&mut observed, 1).clone();
    let mut stale = own.clone();
    stale.id.name = "earlier".to_owned();
    (stale.role, stale.lifecycle.state) = (Role::Unknown, Lifecycle::Shutdown);
    observed.topology.cells.get_mut(&own.id.cell).unwrap().as_mut().unwrap().insert(0, stale);
    let scope = Scope::of(&observed.shard).unwrap();
    let view = sight::view(&scope, &observed, &sight::Differences::default(), NOW);
    let pod = members(&observed.shard)[1].clone();
    let member = view.members.iter().find(|member| member.pod == pod).unwrap();
    assert!(view.is_healthy(member), "{member:?}");
}
