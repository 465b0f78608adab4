//! The objects of three typical shards, and what holds for all of them.

use std::sync::Arc;

use rstest::rstest;
use serde_json::{Value, json};
use shared::{
    api::v1alpha1::{PvcDeletionPolicy, PvcRetention, Shard},
    kubeutil::Object,
    label,
};

use super::fixture::*;
use crate::{
    plan::Action,
    shard::{Observed, decide},
    workload::fixture::legible,
};

fn objects(observed: &Observed) -> Vec<Object> {
    let objects = pass(observed).writes.into_iter().filter_map(|write| match write.action {
        Action::Apply(object) | Action::CreateOnce(object) => Some(object),
        _ => None,
    });
    objects.collect()
}

/// One document per object. Long texts of ConfigMaps are tested where they are made.
fn yaml(observed: &Observed) -> String {
    let mut documents = Vec::new();
    for object in objects(observed) {
        let mut value = legible(object.value);
        if let Some(data) = value.get_mut("data").and_then(Value::as_object_mut) {
            data.values_mut().for_each(|text| *text = json!("..."));
        }
        documents.push(serde_saphyr::to_string(&value).unwrap());
    }
    documents.join("---\n")
}

#[test]
fn minimal_shard_has_these_objects() {
    insta::assert_snapshot!(yaml(&observed(minimal())));
}

#[test]
fn three_cell_shard_on_s3_has_these_objects() {
    insta::assert_snapshot!(yaml(&observed(three_cells())));
}

#[test]
fn shard_with_one_backup_volume_for_all_cells_has_these_objects() {
    insta::assert_snapshot!(yaml(&observed(shared_volume())));
}

#[rstest]
#[case::minimal(minimal())]
#[case::three_cells(three_cells())]
#[case::shared_volume(shared_volume())]
fn every_object_has_identity_owner_and_a_legal_name(#[case] shard: Shard) {
    for object in objects(&observed(shard.clone())) {
        let labels = object.labels();
        let what = object.key().to_string();
        assert_eq!(labels.get(label::MANAGED_BY), Some(&label::MANAGER), "{what}");
        assert_eq!(labels.get(label::SHARD), Some(&"0-inf"), "{what}");
        assert_eq!(
            labels.get(label::CLUSTER).copied(),
            shard.metadata.labels.as_ref().map(|l| l[label::CLUSTER].as_str())
        );
        let longest = if matches!(object.gvk.kind.as_str(), "Service" | "Pod") { 63 } else { 253 };
        assert!(object.name.len() <= longest, "{what}");
        let owner = object.value.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str);
        let retained = object.gvk.kind == "PersistentVolumeClaim"
            && shard.spec.pvc_deletion_policy.is_none_or(|policy| policy.when_deleted != Some(PvcRetention::Delete));
        assert_eq!(owner, (!retained).then_some("11111111-2222-3333-4444-555555555555"), "{what}");
    }
}

#[rstest]
#[case::minimal(minimal())]
#[case::three_cells(three_cells())]
fn the_same_observation_gives_the_same_plan(#[case] shard: Shard) {
    let observed = healthy(shard);
    assert_eq!(pass(&observed), pass(&observed));
}

#[test]
fn pods_can_be_resolved_by_the_name_that_they_register() {
    let observed = observed(three_cells());
    for object in objects(&observed).into_iter().filter(|object| object.gvk.kind == "Pod") {
        let spec = &object.value["spec"];
        let (host, domain) = (spec["hostname"].as_str().unwrap(), spec["subdomain"].as_str().unwrap());
        let wanted = json!(format!("--hostname={host}.{domain}.prod.svc.cluster.local"));
        assert!(spec["containers"][0]["args"].as_array().unwrap().contains(&wanted));
        assert!(written(&pass(&observed), "Service").iter().any(|service| service == domain));
    }
}

#[test]
fn without_native_sidecars_pgctld_is_an_ordinary_container_that_waits_for_multipooler() {
    let mut settings = settings();
    settings.native_sidecars = false;
    let plan = decide(&observed(minimal()), &settings, NOW).unwrap();
    let pod = plan.writes.iter().find_map(|write| match &write.action {
        Action::CreateOnce(object) if object.gvk.kind == "Pod" => Some(&object.value["spec"]),
        _ => None,
    });
    let pod = pod.unwrap();
    assert_eq!(pod.get("initContainers"), None);
    assert_eq!(pod["containers"][0]["name"], "postgres");
    assert_eq!(pod["containers"][0].get("restartPolicy"), None);
    assert_eq!(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][0], "/bin/bash");
}

#[test]
fn a_single_pooler_has_no_disruption_budget() {
    let mut shard = minimal();
    shard.spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(1);
    assert!(written(&pass(&healthy(shard)), "PodDisruptionBudget").is_empty());
}

/// What a budget asks for, by what its name ends with.
fn budgets(observed: &Observed) -> Vec<Value> {
    let budgets = objects(observed).into_iter().filter(|object| object.gvk.kind == "PodDisruptionBudget");
    budgets.map(|object| object.value["spec"].clone()).collect()
}

#[test]
fn the_primary_and_the_standbys_have_budgets_of_their_own() {
    let mut observed = healthy(three_cells());
    let role = |operator: &str| json!([{ "key": label::ROLE, "operator": operator, "values": ["primary"] }]);
    let found = budgets(&observed);
    assert_eq!(found.len(), 2);
    assert_eq!((&found[0]["minAvailable"], &found[0]["selector"]["matchExpressions"]), (&json!(1), &role("In")));
    assert_eq!((&found[1]["minAvailable"], &found[1]["selector"]["matchExpressions"]), (&json!(1), &role("NotIn")));
    assert!(found.iter().all(|spec| spec["selector"]["matchLabels"][label::COMPONENT] == "shard-pool"));
    // While a member is not well, no standby may be evicted.
    let pod = members(&observed.shard)[1].clone();
    with_pod(&mut observed, &pod, |pod| pod.status = None);
    assert_eq!(budgets(&observed)[1]["minAvailable"], json!(2));
}

#[test]
fn no_standby_may_be_evicted_while_another_one_streams_and_does_not_count_yet() {
    let mut observed = healthy(three_cells());
    for seen in observed.statuses.values_mut() {
        seen.status.consensus.as_mut().unwrap().cohort.pop_last();
    }
    assert_eq!(budgets(&observed)[1]["minAvailable"], json!(2));
}

#[test]
fn budgets_say_nothing_that_an_old_server_would_refuse() {
    let settings = crate::settings::Settings { eviction_policy: false, ..settings() };
    let plan = decide(&healthy(three_cells()), &settings, NOW).unwrap();
    let specs = plan.writes.iter().filter_map(|write| match &write.action {
        Action::Apply(object) if object.gvk.kind == "PodDisruptionBudget" => object.value["spec"].as_object(),
        _ => None,
    });
    let said: Vec<_> = specs.map(|spec| spec.contains_key("unhealthyPodEvictionPolicy")).collect();
    assert_eq!(said, [false; 2]);
}

#[test]
fn budgets_wait_for_the_first_primary_and_outlive_the_loss_of_one() {
    assert!(budgets(&observed(three_cells())).is_empty());
    let mut observed = healthy(three_cells());
    carry_out(&mut observed);
    observed.statuses.clear();
    assert_eq!(budgets(&observed).len(), 2);
}

#[test]
fn the_standby_of_a_pair_can_be_evicted_while_both_are_well() {
    assert_eq!(budgets(&healthy(minimal()))[1]["minAvailable"], json!(0));
}

#[test]
fn budgets_of_another_layout_are_removed() {
    let mut observed = healthy(three_cells());
    carry_out(&mut observed);
    let mut old = (*observed.budgets[0]).clone();
    old.metadata.name = Some("demo-pool-default-zone-a-pdb".to_owned());
    old.metadata.uid = Some("old".to_owned());
    observed.budgets.push(Arc::new(old));
    assert_eq!(deletions(&pass(&observed)), ["PodDisruptionBudget/demo-pool-default-zone-a-pdb"]);
}

#[test]
fn a_changed_deletion_policy_moves_the_owner_reference_of_volumes() {
    let mut observed = healthy(minimal());
    assert!(merges(&observed).is_empty());
    let shard = Arc::make_mut(&mut observed.shard);
    shard.spec.pvc_deletion_policy =
        Some(PvcDeletionPolicy { when_deleted: Some(PvcRetention::Delete), when_scaled: None });
    let patches = merges(&observed);
    assert_eq!(patches.len(), 3, "two data volumes and the repository");
    assert_eq!(patches[0]["metadata"]["ownerReferences"][0]["kind"], "Shard");

    for claim in &mut observed.claims {
        let owners = patches[0]["metadata"]["ownerReferences"].clone();
        Arc::make_mut(claim).metadata.owner_references = serde_json::from_value(owners).unwrap();
    }
    assert!(merges(&observed).is_empty());
    Arc::make_mut(&mut observed.shard).spec.pvc_deletion_policy = None;
    assert!(merges(&observed).iter().all(|patch| patch["metadata"]["ownerReferences"].is_null()));
    assert_eq!(merges(&observed).len(), 3);
}

#[test]
fn a_volume_that_waits_for_its_removal_is_taken_back_when_it_is_wanted() {
    let mut observed = healthy(minimal());
    let claim =
        observed.claims.iter_mut().find(|claim| claim.metadata.name.as_ref().unwrap().starts_with("data-")).unwrap();
    let labels = Arc::make_mut(claim).metadata.labels.as_mut().unwrap();
    labels.insert(label::ORPHAN_SINCE.into(), "2026-01-01T00-00-00Z".into());
    assert_eq!(merges(&observed), [json!({ "metadata": { "labels": { label::ORPHAN_SINCE: null } } })]);
    Arc::make_mut(&mut observed.shard).spec.pools.get_mut("default").unwrap().replicas_per_cell = Some(0);
    assert!(merges(&observed).is_empty());
}

fn merges(observed: &Observed) -> Vec<Value> {
    let merges = pass(observed).writes.into_iter().filter_map(|write| match write.action {
        Action::Merge { target, patch } => (target.key.kind == "PersistentVolumeClaim").then_some(patch),
        _ => None,
    });
    merges.collect()
}

#[test]
fn orchestrators_of_a_cell_that_left_are_removed() {
    let mut observed = healthy(three_cells());
    Arc::make_mut(&mut observed.shard).spec.multiorch.cells = vec!["zone-a".into()];
    let deleted = deletions(&pass(&observed));
    assert_eq!(deleted.iter().filter(|name| name.starts_with("Deployment/")).count(), 2);
    assert_eq!(deleted.iter().filter(|name| name.starts_with("Service/")).count(), 2);
    assert_eq!(deleted.len(), 4);
}

#[test]
fn poolers_and_orchestrators_reach_a_secured_topology() {
    let mut secured = minimal();
    secured.spec.global_topo_server.ca_secret = Some("etcd-ca".into());
    secured.spec.global_topo_server.client_cert_secret = Some("etcd-client".into());
    let plain = yaml(&observed(minimal()));
    let secured = yaml(&observed(secured));
    assert!(!plain.contains("topo-etcd-tls"));
    let count = |text: &str| secured.matches(text).count();
    let processes = count("--topo-global-root=");
    assert!(processes >= 2);
    for flag in ["--topo-etcd-tls-ca=", "--topo-etcd-tls-cert=", "--topo-etcd-tls-key="] {
        assert_eq!(count(flag), processes, "{flag}");
    }
    assert_eq!(count("secretName: etcd-ca\n"), processes);
    assert_eq!(count("mountPath: /etc/multigres/topo-client\n"), processes);
}
