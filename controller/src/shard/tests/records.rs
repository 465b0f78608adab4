//! What a pass makes of pods that do not answer, of topology records about them, and of either without the other.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::policy::v1::PodDisruptionBudget, apimachinery::pkg::apis::meta::v1::Time};
use rstest::rstest;
use serde_json::json;
use shared::{api::v1alpha1::Phase, condition, label, name};

use super::{
    change::{self, Step},
    fixture::*,
};
use crate::{
    plan::Action,
    shard::{
        Observed,
        disruption::{Act, Cause, PROGRESS_DEADLINE, Reason, Row, Verdict},
        primary::Absence,
        scope::Scope,
        sight,
        stranger::{self, Stranger},
        weigh,
    },
    upstream::{Error, Lifecycle, Lsn, PoolerAddress, PoolerId, PoolerStatus, Role},
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

#[rstest]
#[case::exporter("postgres-exporter", Row::OutdatedStandby)]
#[case::server("postgres", Row::Waiting)]
fn members_that_lack_nothing_but_their_exporter_follow_a_new_description(#[case] container: &str, #[case] row: Row) {
    let mut observed = healthy(three_cells());
    for pod in members(&observed.shard) {
        with_pod(&mut observed, &pod, |pod| {
            let containers = ["postgres", "multipooler", "postgres-exporter"].map(|name| {
                json!({ "name": name, "image": "i", "imageID": "", "restartCount": 0, "ready": name != container })
            });
            pod.status = serde_json::from_value(json!({
                "phase": "Running",
                "conditions": [{ "type": "Ready", "status": "False" }],
                "containerStatuses": containers,
            }))
            .unwrap();
        });
    }
    assert_eq!(weigh(&observed, &settings(), NOW).unwrap().verdict.row, Row::Idle);
    change_image(&mut observed);
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

/// Everything in order, with poolers that say who they are.
fn introduced() -> Observed {
    let mut observed = healthy(three_cells());
    for (id, seen) in &mut observed.statuses {
        seen.status.id = Some(id.clone());
    }
    remember(&mut observed);
    observed
}

/// Takes the record of a pod away, which has been missing for so many seconds.
fn strike(observed: &mut Observed, pod: &str, seconds: i64, known: Option<Timestamp>) {
    let id = id_of(observed, pod);
    for records in observed.topology.cells.values_mut() {
        records.as_mut().unwrap().retain(|record| record.id != id);
    }
    let absence = Absence { since: NOW - SignedDuration::from_secs(seconds), known };
    let address = PoolerAddress::new(format!("ip-of-{pod}"), 15270);
    observed.strangers.push(Stranger { pod: pod.to_owned(), id, address, absence });
}

fn id_of(observed: &Observed, pod: &str) -> PoolerId {
    let name = name::pooler_service_id(pod);
    observed.statuses.keys().find(|id| id.name == name).unwrap().clone()
}

/// A topology that has lost all records so many seconds ago, of pods that had them.
fn wiped(seconds: i64) -> Observed {
    let mut observed = introduced();
    for pod in members(&observed.shard) {
        strike(&mut observed, &pod, seconds, Some(NOW - SignedDuration::from_secs(seconds)));
    }
    observed
}

fn verdict(observed: &Observed) -> Verdict {
    weigh(observed, &settings(), NOW).unwrap().verdict
}

fn reason(observed: &Observed) -> Option<Reason> {
    verdict(observed).blocker.map(|blocker| blocker.reason)
}

fn named(observed: &Observed) -> Option<String> {
    let conditions = status(observed).conditions;
    condition::find(&conditions, "PoolersUnregistered").map(|found| found.message.clone())
}

#[test]
fn records_that_are_missing_are_named_after_half_a_minute_and_brought_back_after_two() {
    assert_eq!((named(&wiped(29)), verdict(&wiped(29)).act), (None, None));
    let soon = wiped(30);
    assert!(named(&soon).unwrap().contains(&members(&soon.shard)[0]));
    assert_eq!((verdict(&soon).act, reason(&soon)), (None, Some(Reason::RecordMissing)));
    let told = status(&soon);
    assert_eq!(told.phase, Some(Phase::Degraded));
    assert!(told.message.unwrap().contains("lost the records"));
    let due = wiped(120);
    let Some(Act::Request { pod, cause }) = verdict(&due).act else { panic!("{:?}", verdict(&due)) };
    assert_eq!(cause, Cause::RollingUpdate);
    assert_ne!(Some(&pod), members(&due.shard).first(), "the primary comes last");
    assert!(status(&due).drift.is_empty(), "they are built as described");
}

#[test]
fn after_a_restart_the_condition_tells_how_long_records_have_been_missing() {
    let told = |seconds| {
        let mut observed = wiped(30);
        remember(&mut observed);
        let conditions = &mut Arc::make_mut(&mut observed.shard).status.as_mut().unwrap().conditions;
        let found = conditions.iter_mut().find(|found| found.type_ == "PoolersUnregistered").unwrap();
        found.last_transition_time = Time(NOW - SignedDuration::from_secs(seconds));
        // This process has just begun to look.
        for stranger in &mut observed.strangers {
            stranger.absence = Absence { since: NOW, known: None };
        }
        observed
    };
    assert_eq!(verdict(&told(119)).act, None);
    assert!(matches!(verdict(&told(120)).act, Some(Act::Request { .. })));
    let mut young = told(120);
    for pod in members(&young.shard) {
        with_pod(&mut young, &pod, |pod| {
            pod.metadata.creation_timestamp = Some(Time(NOW - SignedDuration::from_secs(100)));
        });
    }
    assert_eq!(verdict(&young).act, None, "they were made anew for it before, and in vain");
    assert!(named(&young).is_some());
}

#[test]
fn how_long_records_were_missing_is_not_forgotten_while_somebody_does_not_answer() {
    let mut observed = wiped(30);
    remember(&mut observed);
    observed.statuses.clear();
    assert!(named(&observed).is_some());
    observed.strangers.clear();
    observed.topology_away = Some("Unavailable");
    assert!(named(&observed).is_some());
    observed.topology_away = None;
    assert_eq!(named(&observed), None);
}

fn silent(observed: &mut Observed) {
    let id = id_of(observed, &members(&observed.shard)[2].clone());
    observed.statuses.remove(&id);
}

fn another_answers(observed: &mut Observed) {
    let id = id_of(observed, &members(&observed.shard)[2].clone());
    observed.statuses.get_mut(&id).unwrap().status.id = Some(PoolerId::new("zone-a", "other"));
}

fn old_answer(observed: &mut Observed) {
    let id = id_of(observed, &members(&observed.shard)[2].clone());
    observed.statuses.get_mut(&id).unwrap().at = NOW - SignedDuration::from_secs(16);
}

fn two_serve(observed: &mut Observed) {
    let (one, other) = (members(&observed.shard)[0].clone(), members(&observed.shard)[2].clone());
    let serving = observed.statuses[&id_of(observed, &one)].status.clone();
    let id = id_of(observed, &other);
    let seen = observed.statuses.get_mut(&id).unwrap();
    seen.status = PoolerStatus { id: Some(id), ..serving };
}

fn newer_rule(observed: &mut Observed) {
    let id = id_of(observed, &members(&observed.shard)[2].clone());
    let view = observed.statuses.get_mut(&id).unwrap().status.consensus.as_mut().unwrap();
    view.rule.coordinator_term += 1;
}

fn unknown_member(observed: &mut Observed) {
    for seen in observed.statuses.values_mut() {
        seen.status.consensus.as_mut().unwrap().cohort.insert(PoolerId::new("zone-z", "elsewhere"));
    }
}

fn lagging(observed: &mut Observed) {
    for seen in observed.statuses.values_mut() {
        if let Some(primary) = seen.status.primary.as_mut() {
            primary.lsn = Some(Lsn(1 << 40));
        }
    }
}

fn unready(observed: &mut Observed) {
    let pod = members(&observed.shard)[2].clone();
    observed.strangers.retain(|stranger| stranger.pod != pod);
    with_pod(observed, &pod, |pod| pod.status = None);
}

fn claimed(observed: &mut Observed) {
    let mut before = introduced();
    let mut claim = record(&mut before, 0).clone();
    claim.id.name = "earlier".to_owned();
    claim.hostname = "earlier.headless".to_owned();
    observed.topology.cells.get_mut(&claim.id.cell).unwrap().as_mut().unwrap().push(claim);
}

#[rstest]
#[case::silent(silent)]
#[case::another_answers(another_answers)]
#[case::old_answer(old_answer)]
#[case::two_serve(two_serve)]
#[case::newer_rule(newer_rule)]
#[case::unknown_member(unknown_member)]
#[case::lagging(lagging)]
#[case::unready(unready)]
#[case::claimed(claimed)]
fn nobody_goes_for_a_missing_record_while_there_is_a_doubt_who_leads(#[case] doubt: fn(&mut Observed)) {
    let mut observed = wiped(600);
    doubt(&mut observed);
    let verdict = verdict(&observed);
    assert_eq!(verdict.act, None, "{verdict:?}");
    assert!(verdict.blocker.is_some());
}

#[test]
fn standbys_without_a_record_of_a_primary_that_has_one_are_made_anew() {
    let mut observed = introduced();
    let pods = members(&observed.shard);
    strike(&mut observed, &pods[1], 600, Some(NOW - SignedDuration::from_secs(600)));
    assert!(matches!(verdict(&observed).act, Some(Act::Request { pod, .. }) if pod == pods[1]));
    assert_eq!(status(&observed).primary.as_ref(), Some(&pods[0]));
    let id = id_of(&observed, &pods[1]);
    observed.statuses.remove(&id);
    assert_eq!(verdict(&observed).act, None, "nothing proves that it has ever registered");
}

#[test]
fn a_primary_without_a_record_is_asked_at_the_address_of_its_pod_to_hand_over() {
    let mut observed = introduced();
    let pods = members(&observed.shard);
    strike(&mut observed, &pods[0], 600, Some(NOW - SignedDuration::from_secs(600)));
    let mut steps = Vec::new();
    act(&mut observed, &mut steps);
    assert_eq!(steps, [Step::Request(pods[0].clone())]);
    let writes = weigh(&observed, &settings(), NOW).unwrap().plan.writes;
    let hand_over = writes.into_iter().find_map(|write| match write.action {
        Action::Sequence(actions) => actions.into_iter().find_map(|action| match action {
            Action::HandOver { primary, standbys, .. } => Some((primary, standbys)),
            _ => None,
        }),
        _ => None,
    });
    let (primary, standbys) = hand_over.unwrap();
    assert_eq!((primary.host, standbys.len()), (format!("ip-of-{}", pods[0]), 2));
}

fn act(observed: &mut Observed, steps: &mut Vec<Step>) {
    for write in weigh(observed, &settings(), NOW).unwrap().plan.writes {
        change::act(observed, write.action, steps);
    }
}

#[test]
fn a_primary_without_a_record_that_another_one_has_superseded_goes() {
    let mut observed = introduced();
    let pods = members(&observed.shard);
    let before = observed.statuses[&id_of(&observed, &pods[0])].clone();
    elect(&mut observed, 1);
    for (id, seen) in &mut observed.statuses {
        seen.status.id = Some(id.clone());
    }
    let id = id_of(&observed, &pods[0]);
    observed.statuses.insert(id, before);
    strike(&mut observed, &pods[0], 600, Some(NOW - SignedDuration::from_secs(600)));
    let verdict = verdict(&observed);
    assert!(matches!(&verdict.act, Some(Act::Request { pod, .. }) if *pod == pods[0]), "{verdict:?}");
}

#[test]
fn strangers_are_ready_pods_of_known_cells_without_a_record() {
    let mut observed = introduced();
    let pods = members(&observed.shard);
    for pod in &pods {
        with_pod(&mut observed, pod, |pod| pod.status.as_mut().unwrap().pod_ip = Some("10.0.0.7".to_owned()));
    }
    let found = |observed: &Observed| {
        let absent = |ids: Vec<PoolerId>| {
            let absence = Absence { since: NOW, known: None };
            ids.into_iter().map(|id| (id, absence)).collect()
        };
        let found = stranger::find(&observed.topology, &observed.pods, &observed.internal_tls, absent);
        found.into_iter().map(|stranger| stranger.pod).collect::<Vec<_>>()
    };
    assert!(found(&observed).is_empty());
    let cell = record(&mut observed, 1).id.cell.clone();
    observed.topology.cells.insert(cell.clone(), Ok(Vec::new()));
    assert_eq!(found(&observed), [pods[1].clone()]);
    let mut starting = observed.clone();
    with_pod(&mut starting, &pods[1], |pod| pod.status.as_mut().unwrap().conditions = None);
    assert!(found(&starting).is_empty());
    let mut incomplete = observed.clone();
    incomplete.topology.global = Err(Error::Unavailable { target: "etcd".into(), detail: "refused".into() });
    assert!(found(&incomplete).is_empty());
    observed.topology.cells.remove(&cell);
    assert!(found(&observed).is_empty(), "the cell is not registered again yet");
}
