//! The least that the shard's servers may be started with, as far as replication depends on it: what the last primary had.
//!
//! See `shared::pgconfig::replication` for why a decrease is held back. What a server runs with cannot be asked for, so each pod remembers what
//! it was made with, and the `ConfigMap` with the settings what the last primary that confirmed itself had. Data volumes remember the same,
//! because they can outlive the shard. Settings that never came into
//! force on a primary bind nobody: an increase that does not work can be taken back.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use serde_json::json;
use shared::{
    annotation,
    pgconfig::{self, Critical},
};

use super::{
    claim,
    facts::{Facts, pod_of},
    observe::{Observed, applied_text, by_name},
    origin,
    scope::Scope,
    status::had_primary,
};
use crate::{
    plan::{Action, Target},
    upstream::primary,
};

/// The container that starts the server.
const SERVER: &str = "postgres";

/// What the settings must not be lower than; none while nobody would be harmed.
pub fn floor(scope: &Scope<'_>, observed: &Observed, facts: &Facts) -> Option<Critical> {
    let applied = || applied_text(observed).map(|text| Critical::of(&pgconfig::parse(text).settings));
    let pods = by_name(&observed.pods);
    let previous = scope.shard.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    // Before there was a primary the record says what the first one is to have, and that may be why there is none. Afterwards it never
    // falls: a standby that was away may hold the log of an earlier primary that had more.
    let recorded = || observed.applied_config.as_ref().and_then(|map| read(map.annotations()));
    let recorded = had_primary(previous).then(recorded).flatten();
    if let Some(primary) = &facts.primary {
        let pod = pods.get(primary).copied();
        let own = pod.and_then(made_with);
        // A server that was started anew in its pod has read the file as it was then.
        let file = if own.is_none() || pod.is_some_and(restarted) { applied() } else { None };
        return [recorded, own, file].into_iter().flatten().reduce(|one, other| one.max(&other));
    }
    let last =
        recorded.or_else(|| inherited(scope, observed)).or_else(|| had_primary(previous).then(applied).flatten());
    // One that claims to be primary and says nothing may be running. One that says it is not has not started with what it was given.
    let records = observed.records();
    let silent =
        primary::claims(&records).into_iter().next().filter(|claim| !observed.statuses.contains_key(&claim.id));
    let claimed = silent.and_then(|claim| made_with(pods.get(&pod_of(claim, &pods)?)?));
    match (last, claimed) {
        (Some(last), Some(claimed)) => Some(last.max(&claimed)),
        (last, claimed) => last.or(claimed),
    }
}

/// What the data says that an earlier shard of the same name has left. What this one has made itself binds it only once a primary has had it.
fn inherited(scope: &Scope<'_>, observed: &Observed) -> Option<Critical> {
    let born = scope.shard.metadata.creation_timestamp.as_ref()?;
    let older = |claim: &&Arc<PersistentVolumeClaim>| {
        claim.metadata.creation_timestamp.as_ref().is_some_and(|made| made.0 < born.0)
    };
    let data = observed.claims.iter().filter(|claim| origin::holds_data(claim) && !claim::is_set_aside(claim));
    data.filter(older).filter_map(|claim| read(claim.annotations())).reduce(|one, other| one.max(&other))
}

/// Lets a data volume remember what a confirmed primary has, so that whoever is made on it later starts with no less.
pub fn remember(live: &PersistentVolumeClaim, floor: &Critical) -> Option<Action> {
    if !origin::holds_data(live) || claim::is_set_aside(live) || read(live.annotations()).as_ref() == Some(floor) {
        return None;
    }
    let patch = json!({ "metadata": { "annotations": annotations(floor) } });
    Some(Action::Merge { target: Target::of(live)?, patch })
}

/// The annotation by which volumes remember.
pub fn annotations(settings: &Critical) -> BTreeMap<String, String> {
    BTreeMap::from([(annotation::REPLICATION_SETTINGS.to_owned(), settings.to_string())])
}

fn made_with(pod: &Pod) -> Option<Critical> {
    read(pod.annotations())
}

fn read(annotations: &BTreeMap<String, String>) -> Option<Critical> {
    annotations.get(annotation::REPLICATION_SETTINGS)?.parse().ok()
}

fn restarted(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let mut all = containers.into_iter().flatten().flatten();
    all.any(|container| container.name == SERVER && container.restart_count > 0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use rstest::rstest;
    use serde_json::json;
    use shared::condition;

    use super::*;
    use crate::{
        shard::tests::fixture::{
            NOW, carry_out, elect, healthy, members, minimal, observed, pass, record, remember, status, three_cells,
            with_pod,
        },
        upstream::{PoolerStatus, Role, primary::Seen},
    };

    fn ask_for(observed: &mut Observed, value: &str) {
        let spec = &mut Arc::make_mut(&mut observed.shard).spec;
        spec.postgres_config.insert("max_connections".to_owned(), value.to_owned());
    }

    /// A healthy shard whose members were made with 300 connections, and whose status was written.
    fn made() -> Observed {
        let mut shard = three_cells();
        shard.spec.postgres_config.insert("max_connections".to_owned(), "300".to_owned());
        let mut observed = healthy(shard);
        remember(&mut observed);
        note(&mut observed);
        observed
    }

    /// Writes the settings alone.
    fn note(observed: &mut Observed) {
        let mut written = observed.clone();
        carry_out(&mut written);
        observed.applied_config = written.applied_config;
    }

    fn rendered(observed: &Observed) -> String {
        let mut after = observed.clone();
        carry_out(&mut after);
        pgconfig::parse(applied_text(&after).unwrap()).settings["max_connections"].clone()
    }

    fn no_effect(observed: &Observed) -> Option<String> {
        condition::find(&status(observed).conditions, "ChangeHasNoEffect").map(|found| found.message.clone())
    }

    #[test]
    fn a_decrease_is_held_back_and_said() {
        let mut observed = made();
        assert_eq!((rendered(&observed).as_str(), no_effect(&observed)), ("300", None));
        ask_for(&mut observed, "100");
        assert_eq!(rendered(&observed), "300");
        assert!(no_effect(&observed).unwrap().contains("max_connections stays 300"));
        assert!(status(&observed).drift.is_empty(), "nobody is restarted for it");
        note(&mut observed);
        let settled = pass(&observed).writes;
        note(&mut observed);
        assert_eq!(pass(&observed).writes, settled, "and nothing is written again and again");
    }

    #[test]
    fn an_increase_rolls_and_can_be_taken_back_before_a_primary_has_it() {
        let mut observed = made();
        ask_for(&mut observed, "100000");
        note(&mut observed);
        assert_eq!((rendered(&observed).as_str(), status(&observed).drift.len()), ("100000", 3));
        ask_for(&mut observed, "300");
        assert_eq!((rendered(&observed).as_str(), no_effect(&observed)), ("300", None));
    }

    #[test]
    fn a_switchover_to_one_with_less_lowers_nothing() {
        let mut observed = made();
        let next = members(&observed.shard)[1].clone();
        with_pod(&mut observed, &next, |pod| {
            let less = pod.annotations()[annotation::REPLICATION_SETTINGS].replace("=300", "=200");
            pod.metadata.annotations.as_mut().unwrap().insert(annotation::REPLICATION_SETTINGS.to_owned(), less);
        });
        elect(&mut observed, 1);
        ask_for(&mut observed, "100");
        assert_eq!(rendered(&observed), "300", "a standby that was away may hold the log of the one with more");
    }

    #[test]
    fn a_primary_that_was_started_anew_in_its_pod_has_what_the_file_said() {
        let mut observed = made();
        ask_for(&mut observed, "400");
        note(&mut observed);
        ask_for(&mut observed, "300");
        let primary = members(&observed.shard)[0].clone();
        with_pod(&mut observed, &primary, |pod| {
            let status = json!([{ "name": "postgres", "image": "i", "imageID": "", "ready": true, "restartCount": 1 }]);
            pod.status.as_mut().unwrap().init_container_statuses = serde_json::from_value(status).unwrap();
        });
        assert_eq!(rendered(&observed), "400");
    }

    #[test]
    fn while_nobody_leads_the_last_primary_counts() {
        let mut observed = made();
        ask_for(&mut observed, "100");
        observed.statuses.clear();
        record(&mut observed, 0).role = Role::Replica;
        assert_eq!(rendered(&observed), "300");
        let mut raised = made();
        ask_for(&mut raised, "100000");
        note(&mut raised);
        ask_for(&mut raised, "200");
        raised.statuses.clear();
        record(&mut raised, 0).role = Role::Replica;
        assert_eq!(rendered(&raised), "300", "what never came into force on a primary binds nobody");
    }

    #[rstest]
    #[case::silent(false, "400")]
    #[case::not_running(true, "300")]
    fn a_claim_counts_unless_its_pooler_says_that_it_does_not_run(#[case] answers: bool, #[case] expected: &str) {
        let mut observed = made();
        let next = members(&observed.shard)[1].clone();
        with_pod(&mut observed, &next, |pod| {
            let made_with = pod.annotations()[annotation::REPLICATION_SETTINGS].replace("=300", "=400");
            pod.metadata.annotations.as_mut().unwrap().insert(annotation::REPLICATION_SETTINGS.to_owned(), made_with);
        });
        elect(&mut observed, 1);
        let id = record(&mut observed, 1).id.clone();
        observed.statuses.clear();
        if answers {
            observed.statuses.insert(id, Seen { status: PoolerStatus::default(), at: NOW });
        }
        ask_for(&mut observed, "100");
        assert_eq!(rendered(&observed), expected);
    }

    #[test]
    fn a_shard_that_never_had_a_primary_takes_what_it_is_given() {
        let mut shard = three_cells();
        shard.spec.postgres_config.insert("max_connections".to_owned(), "100000".to_owned());
        let mut observed = observed(shard);
        carry_out(&mut observed);
        ask_for(&mut observed, "100");
        assert_eq!(rendered(&observed), "100");
    }

    /// The same cluster made again over the volumes that the one before left.
    fn made_again(settings: &str) -> Observed {
        let mut before = made();
        carry_out(&mut before);
        for claim in &mut before.claims {
            Arc::make_mut(claim).metadata.creation_timestamp = Some(Time(NOW - jiff::SignedDuration::from_hours(2)));
        }
        let mut again = observed(three_cells());
        Arc::make_mut(&mut again.shard).metadata.creation_timestamp = Some(Time(NOW));
        again.claims = before.claims;
        ask_for(&mut again, settings);
        again
    }

    #[test]
    fn data_that_an_earlier_shard_left_is_not_started_with_less() {
        assert_eq!(rendered(&made_again("100")), "300");
        assert_eq!(rendered(&made_again("400")), "400");
        let mut young = made_again("100");
        for claim in &mut young.claims {
            Arc::make_mut(claim).metadata.creation_timestamp = Some(Time(NOW + jiff::SignedDuration::from_secs(1)));
        }
        assert_eq!(rendered(&young), "100", "what this shard has made binds it only once a primary has had it");
    }

    #[test]
    fn volumes_learn_what_a_primary_has_and_nothing_is_written_twice() {
        let kept = |observed: &Observed| -> std::collections::BTreeSet<String> {
            let data = observed.claims.iter().filter(|claim| origin::holds_data(claim));
            data.map(|claim| claim.annotations()[annotation::REPLICATION_SETTINGS].clone()).collect()
        };
        let mut observed = made();
        let merges =
            |observed: &Observed| pass(observed).writes.iter().filter(|write| write.reason == "Origin").count();
        assert_eq!(merges(&observed), 0, "they were made with it");
        ask_for(&mut observed, "400");
        note(&mut observed);
        assert_eq!(merges(&observed), 0, "nobody has it yet");
        let primary = members(&observed.shard)[0].clone();
        with_pod(&mut observed, &primary, |pod| {
            let more = pod.annotations()[annotation::REPLICATION_SETTINGS].replace("=300", "=400");
            pod.metadata.annotations.as_mut().unwrap().insert(annotation::REPLICATION_SETTINGS.to_owned(), more);
        });
        assert_eq!(merges(&observed), 3);
        carry_out(&mut observed);
        assert!(kept(&observed).iter().all(|text| text.contains("max_connections=400")), "{:?}", kept(&observed));
        assert_eq!(merges(&observed), 0);
    }

    #[test]
    fn the_only_member_is_held_too_because_it_starts_as_a_standby() {
        let mut shard = minimal();
        shard.spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(1);
        shard.spec.postgres_config.insert("max_connections".to_owned(), "300".to_owned());
        let mut observed = healthy(shard);
        ask_for(&mut observed, "100");
        assert_eq!(rendered(&observed), "300");
    }
}
