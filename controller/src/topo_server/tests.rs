use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::{
    apps::v1::{StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec},
    core::v1::Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use shared::{
    api::v1alpha1::{EtcdSpec, PvcDeletionPolicy, PvcRetention, StorageSpec, TopoServerSpec},
    condition::{find, is_true},
    label::Component,
};

use super::*;
use crate::plan::Write;
use crate::upstream::{Member, MemberChange};
use crate::workload::fixture::{applied, assert_owned, now, running, settings, stored, writes};

fn server(name: &str, labels: label::Labels, spec: TopoServerSpec) -> TopoServer {
    let mut server = TopoServer::new(name, spec);
    server.metadata.labels = Some(labels);
    stored(server, 1)
}

fn etcd(replicas: i32) -> TopoServerSpec {
    let storage = StorageSpec { size: Some("1Gi".into()), ..StorageSpec::default() };
    TopoServerSpec {
        etcd: Some(EtcdSpec { replicas: Some(replicas), storage: Some(storage), ..EtcdSpec::default() }),
        ..TopoServerSpec::default()
    }
}

fn observed(server: TopoServer) -> Observed {
    Observed {
        owner: Owner::of(&server).unwrap(),
        cluster: "minimal".to_owned(),
        nodes: Nodes::Any,
        stateful_set: None,
        pods: Vec::new(),
        member_list: None,
        claims: Vec::new(),
        budget: None,
        sight: Sight::NotAsked,
        server: Arc::new(server),
    }
}

fn global(replicas: i32) -> Observed {
    let name = name::global_topo("minimal");
    observed(server(&name, label::of_cluster("minimal", Component::GlobalTopo), etcd(replicas)))
}

fn run(observed: &Observed) -> Plan<TopoServerStatus> {
    decide(observed, &settings(), now()).unwrap()
}

fn live(observed: &Observed) -> StatefulSet {
    applied(&run(observed), &observed.owner.name).unwrap()
}

fn spec(set: StatefulSet) -> StatefulSetSpec {
    set.spec.unwrap()
}

/// The list of members that a plan applies: how they start, and who they are.
fn list(plan: &Plan<TopoServerStatus>) -> ConfigMap {
    applied(plan, &name::topo_members(&name::global_topo("minimal"))).unwrap()
}

/// An ensemble of this size that runs, asked to have another one.
fn resized(size: i32, wanted: i32) -> Observed {
    let before = run(&global(size));
    let mut after = global(wanted);
    after.stateful_set = Some(running(applied(&before, &after.owner.name).unwrap(), size));
    after.member_list = Some(Arc::new(list(&before)));
    after
}

/// Members as etcd lists them.
fn members(observed: &Observed, voters: u32) -> Sight {
    let list = list(&run(&global(5))).data.unwrap()["cluster"].clone();
    let urls = list.split(',').map(|member| member.split_once('=').unwrap().1.to_owned());
    let all = urls.zip(0..voters).map(|(url, ordinal)| Member {
        id: u64::from(ordinal) + 100,
        name: format!("{}-{ordinal}", observed.owner.name),
        peer_urls: vec![url],
        learner: false,
    });
    Sight::Seen(all.collect())
}

#[test]
fn a_global_ensemble_of_three() {
    let observed = global(3);
    let plan = run(&observed);
    assert_owned(&plan, "minimal", &observed.owner.uid);
    insta::assert_yaml_snapshot!(writes(&plan));
}

#[test]
fn a_local_ensemble_runs_on_the_nodes_of_its_cell() {
    let cell = name::cell("minimal", "zone-a");
    let labels = label::of_cell("minimal", "zone-a", Component::LocalTopo);
    let mut observed = observed(server(&name::local_topo(&cell), labels, etcd(1)));
    assert_eq!(observed.owner.name, "minimal-zone-a-96c88ae0-topo-26e28848");
    let nodes = BTreeMap::from([(label::NODE_ZONE.to_owned(), "eu-1a".to_owned())]);
    observed.nodes = Nodes::Cell(nodes.clone());
    let set = live(&observed);
    assert_eq!(spec(set).template.spec.unwrap().node_selector, Some(nodes));

    observed.nodes = Nodes::NotKnown;
    let plan = run(&observed);
    assert!(applied::<StatefulSet, _>(&plan, &observed.owner.name).is_none());
    assert_eq!(plan.requeue, Requeue::After(WAIT_FOR_CELL));
}

#[test]
fn pods_that_are_refused_are_told_once_that_is_no_start_any_more() {
    let mut observed = global(3);
    let mut set = live(&observed);
    set.status = Some(k8s_openapi::api::apps::v1::StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: 1,
        ready_replicas: Some(1),
        ..Default::default()
    });
    observed.stateful_set = Some(Arc::new(set));
    let later = |observed: &Observed, seconds| {
        decide(observed, &settings(), now() + jiff::SignedDuration::from_secs(seconds)).unwrap().status.unwrap()
    };
    let status = later(&observed, 0);
    assert_eq!((status.phase, find(&status.conditions, "PodsCreated")), (Some(Phase::Progressing), None));
    Arc::make_mut(&mut observed.server).status = Some(status.clone());
    assert_eq!(later(&observed, 4), status);

    let status = later(&observed, 5);
    assert_eq!(status.phase, Some(Phase::Progressing), "once more, because a pod may just have gone");
    assert_eq!(find(&status.conditions, "PodsCreated").map(|told| told.status.as_str()), Some("False"));
    Arc::make_mut(&mut observed.server).status = Some(status);
    assert_eq!(later(&observed, 9).phase, Some(Phase::Progressing));
    let status = later(&observed, 10);
    assert_eq!(status.phase, Some(Phase::Degraded));
    assert!(status.message.unwrap().contains("StatefulSet minimal-global-topo"));

    let set = observed.stateful_set.as_deref().cloned().unwrap();
    observed.stateful_set = Some(running(set, 1));
    let status = later(&observed, 11);
    assert_eq!((status.phase, find(&status.conditions, "PodsCreated")), (Some(Phase::Progressing), None));
}

#[test]
fn a_single_member_has_no_budget() {
    let observed = global(1);
    assert!(applied::<PodDisruptionBudget, _>(&run(&observed), &observed.owner.name).is_none());
    let three = global(3);
    assert!(applied::<PodDisruptionBudget, _>(&run(&three), &three.owner.name).is_some());
}

#[test]
fn services_of_the_global_ensemble_do_not_select_local_members() {
    let observed = global(3);
    let service: Service = applied(&run(&observed), &observed.owner.name).unwrap();
    let selector = service.spec.and_then(|spec| spec.selector).unwrap();
    let local = label::of_topo_workload("minimal", &label::of_cell("minimal", "zone-a", Component::LocalTopo));
    assert!(!label::matches(&selector, &local));
}

#[test]
fn volumes_follow_the_policy_per_field() {
    let mut spec = etcd(3);
    spec.pvc_deletion_policy =
        Some(PvcDeletionPolicy { when_deleted: Some(PvcRetention::Delete), when_scaled: Some(PvcRetention::Delete) });
    if let Some(etcd) = spec.etcd.as_mut() {
        etcd.pvc_deletion_policy =
            Some(PvcDeletionPolicy { when_deleted: None, when_scaled: Some(PvcRetention::Retain) });
    }
    let name = name::global_topo("minimal");
    let observed = observed(server(&name, label::of_cluster("minimal", Component::GlobalTopo), spec));
    let policy = live(&observed).spec.and_then(|spec| spec.persistent_volume_claim_retention_policy).unwrap();
    assert_eq!((policy.when_deleted.as_deref(), policy.when_scaled.as_deref()), (Some("Delete"), Some("Retain")));

    // What an older server would drop is not said, or each start of the controller would write it again.
    let older = Settings { claim_policy: false, ..settings() };
    let said = |observed: &Observed| {
        let set: StatefulSet = applied(&decide(observed, &older, now()).unwrap(), &observed.owner.name).unwrap();
        set.spec.unwrap().persistent_volume_claim_retention_policy
    };
    assert_eq!(said(&observed), None);

    // A server that was upgraded while the controller ran has its own default, which would keep everything.
    let mut set = live(&observed);
    set.spec.as_mut().unwrap().persistent_volume_claim_retention_policy =
        Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
            when_deleted: Some("Retain".to_owned()),
            when_scaled: Some("Retain".to_owned()),
        });
    let upgraded = Observed { stateful_set: Some(running(set, 3)), ..observed };
    assert_eq!(said(&upgraded), Some(policy));
}

#[test]
fn volumes_follow_the_policy_where_the_api_server_drops_it_too() {
    let mut spec = etcd(1);
    let delete = Some(PvcRetention::Delete);
    spec.pvc_deletion_policy = Some(PvcDeletionPolicy { when_deleted: delete, when_scaled: delete });
    let name = name::global_topo("minimal");
    let mut observed = observed(server(&name, label::of_cluster("minimal", Component::GlobalTopo), spec));
    observed.member_list = Some(Arc::new(list(&run(&observed))));
    let set = live(&observed);
    let volume = |ordinal: u32| {
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.name = Some(name::topo_pvc(&name, ordinal));
        Arc::new(stored(claim, 1))
    };
    let done = |observed: &Observed| -> Vec<String> {
        let of_volumes = |view: &serde_json::Value| view["reason"] == "VolumePolicy" || view["reason"] == "MemberGone";
        writes(&run(observed)).into_iter().filter(of_volumes).map(|view| view.to_string()).collect()
    };
    observed.stateful_set = Some(running(set.clone(), 1));
    observed.claims = vec![volume(0), volume(1)];
    assert_eq!(done(&observed), Vec::<String>::new(), "the StatefulSet sees to it");

    let mut dropped = set;
    dropped.spec.as_mut().unwrap().persistent_volume_claim_retention_policy = None;
    let uid = dropped.metadata.uid.clone().unwrap();
    observed.stateful_set = Some(running(dropped, 1));
    let actions = done(&observed);
    assert_eq!(actions.len(), 2, "{actions:?}");
    assert!(actions[0].contains(&uid) && actions[0].contains("StatefulSet"), "{actions:?}");
    assert!(actions[1].contains("MemberGone") && actions[1].contains("delete"), "{actions:?}");

    let kept = Some(PvcDeletionPolicy::default());
    Arc::make_mut(&mut observed.server).spec.pvc_deletion_policy = kept;
    assert_eq!(done(&observed), Vec::<String>::new());
    let owner = OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "StatefulSet".to_owned(),
        name: name.clone(),
        uid: uid.clone(),
        ..OwnerReference::default()
    };
    Arc::make_mut(&mut observed.claims[0]).metadata.owner_references = Some(vec![owner]);
    let actions = done(&observed);
    assert!(actions.len() == 1 && actions[0].contains("\"ownerReferences\":null"), "{actions:?}");
}

#[test]
fn another_size_changes_neither_the_template_nor_more_than_one_thing_at_a_time() {
    let mut observed = resized(3, 5);
    assert!(growth::asks(&observed.view(&observed.rollout(), &observed.members(), None)));
    observed.sight = members(&observed, 3);
    let plan = run(&observed);
    let set: StatefulSet = applied(&plan, &observed.owner.name).unwrap();
    assert_eq!(spec(set.clone()), spec((**observed.stateful_set.as_ref().unwrap()).clone()));
    let listed = list(&plan).data.unwrap();
    assert_eq!((listed["state"].as_str(), listed["cluster"].split(',').count()), ("existing", 4));
    let steps = |plan: &Plan<TopoServerStatus>| -> Vec<Action> {
        let of_etcd = |write: &&Write| matches!(write.action, Action::Topology { .. });
        plan.writes.iter().filter(of_etcd).map(|write| write.action.clone()).collect()
    };
    assert_eq!(steps(&plan), [], "the list comes first");
    let status = plan.status.clone().unwrap();
    assert_eq!(find(&status.conditions, "AsSpecified").map(|c| c.reason.as_str()), Some("Growing"));
    assert_eq!((status.phase, plan.requeue), (Some(Phase::Progressing), Requeue::After(NEXT_STEP)));
    assert!(is_true(&status.conditions, "Available"), "clients stay");

    observed.member_list = Some(Arc::new(list(&plan)));
    let at = TopoAddress::new(["minimal-global-topo.prod.svc:2379"], "/");
    let peer_url = "http://minimal-global-topo-3.minimal-global-topo-headless.prod.svc.cluster.local:2380".to_owned();
    let write = TopoWrite::ChangeMember(MemberChange::AddLearner { peer_url });
    assert_eq!(steps(&run(&observed)), [Action::Topology { at, write }]);
}

#[test]
fn a_size_that_somebody_changed_by_hand_is_put_right_even_without_a_quorum() {
    let mut observed = resized(3, 3);
    let mut scaled = (**observed.stateful_set.as_ref().unwrap()).clone();
    scaled.spec.as_mut().unwrap().replicas = Some(1);
    observed.stateful_set = Some(running(scaled, 1));
    observed.sight = Sight::Failed { message: "nobody".to_owned() };
    assert_eq!(spec(live(&observed)).replicas, Some(3));
}

#[test]
fn a_volume_that_is_in_the_way_is_named_and_clients_stay() {
    let mut observed = resized(3, 5);
    observed.sight = members(&observed, 3);
    let mut claim = PersistentVolumeClaim::default();
    claim.metadata.name = Some("data-minimal-global-topo-3".to_owned());
    observed.claims = vec![Arc::new(claim)];
    let plan = run(&observed);
    let status = plan.status.unwrap();
    let condition = find(&status.conditions, "AsSpecified").unwrap();
    assert_eq!(condition.reason, "VolumeInTheWay");
    assert!(condition.message.contains("delete the claim"), "{}", condition.message);
    assert_eq!((status.phase, is_true(&status.conditions, "Available")), (Some(Phase::Degraded), true));
    assert!(plan.notes[0].warning);
}

#[test]
fn volumes_of_an_earlier_ensemble_decide_how_many_members_it_is_founded_with() {
    let mut observed = global(1);
    let claims = |owned: bool| -> Vec<Arc<PersistentVolumeClaim>> {
        let claim = |ordinal: u32| {
            let mut claim = PersistentVolumeClaim::default();
            claim.metadata.name = Some(name::topo_pvc("minimal-global-topo", ordinal));
            let owners = observed.owner.meta(String::new(), label::Labels::new()).owner_references;
            claim.metadata.owner_references = owners.filter(|_| owned);
            Arc::new(claim)
        };
        (0..3).map(claim).collect()
    };
    let (kept, going) = (claims(false), claims(true));
    observed.claims = kept;
    assert_eq!(spec(live(&observed)).replicas, Some(3));
    observed.claims = going;
    assert_eq!(spec(live(&observed)).replicas, Some(1), "those go with their owner");
}

#[test]
fn an_ensemble_that_shrinks_to_one_member_loses_its_budget() {
    let mut observed = resized(1, 1);
    let before = run(&global(3));
    observed.budget = applied::<PodDisruptionBudget, _>(&before, &observed.owner.name).map(Arc::new);
    let deleted =
        |plan: &Plan<TopoServerStatus>| plan.writes.iter().any(|write| matches!(write.action, Action::Delete(_)));
    assert!(deleted(&run(&observed)));
    observed.budget.as_mut().map(Arc::make_mut).unwrap().metadata.owner_references = None;
    assert!(!deleted(&run(&observed)), "somebody else's stays");
}

#[test]
fn an_ensemble_that_has_its_members_in_the_template_gets_a_list_of_the_same() {
    let mut old = live(&global(3));
    let pod = old.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).unwrap();
    let variables = pod.containers[0].env.as_mut().unwrap();
    let members = variables.iter_mut().find(|variable| variable.name == "ETCD_INITIAL_CLUSTER").unwrap();
    (members.value_from, members.value) = (None, Some("a=http://a,b=http://b,c=http://c".to_owned()));
    let mut observed = global(5);
    observed.stateful_set = Some(running(old, 3));
    observed.sight = self::members(&observed, 3);
    let plan = run(&observed);
    assert_eq!(list(&plan).data.unwrap()["cluster"].split(',').count(), 3);
    let status = plan.status.unwrap();
    assert_eq!(find(&status.conditions, "AsSpecified").map(|c| c.reason.as_str()), Some("NotRolledOut"));
}

#[test]
fn a_changed_volume_does_not_make_every_apply_fail() {
    let mut before = live(&global(3));
    let claims = before.spec.as_mut().and_then(|spec| spec.volume_claim_templates.as_mut()).unwrap();
    claims[0].spec.get_or_insert_default().volume_mode = Some("Filesystem".to_owned());
    let mut after = resized(3, 3);
    after.stateful_set = Some(running(before.clone(), 3));
    let same = run(&after);
    let untouched: StatefulSet = applied(&same, &after.owner.name).unwrap();
    assert_eq!(spec(untouched), spec(live(&global(3))), "defaults of the server are not copied");
    assert!(find(&same.status.unwrap().conditions, "AsSpecified").is_none());

    let mut larger = etcd(3);
    larger.etcd.as_mut().unwrap().storage.as_mut().unwrap().size = Some("2Gi".to_owned());
    let name = name::global_topo("minimal");
    let mut grown = observed(server(&name, label::of_cluster("minimal", Component::GlobalTopo), larger));
    grown.stateful_set = Some(running(before.clone(), 3));
    grown.member_list = after.member_list;
    let plan = run(&grown);
    let set: StatefulSet = applied(&plan, &grown.owner.name).unwrap();
    assert_eq!(spec(set).volume_claim_templates, spec(before).volume_claim_templates);
    assert_eq!(
        find(&plan.status.unwrap().conditions, "AsSpecified").map(|c| c.reason.clone()),
        Some("StorageIsFixed".to_owned())
    );
}

#[test]
fn an_adopted_ensemble_keeps_its_selector_and_its_user() {
    let mut old = live(&global(3));
    old.metadata.annotations = None;
    let spec = old.spec.as_mut().unwrap();
    spec.selector.match_labels.as_mut().unwrap().remove(TOPO_SERVER);
    let selector = spec.selector.match_labels.clone();
    let mut observed = resized(3, 3);
    observed.stateful_set = Some(running(old, 3));
    let mut pod = Pod::default();
    pod.metadata.name = Some("minimal-global-topo-0".into());
    observed.pods = vec![Arc::new(pod)];
    let plan = run(&observed);
    let set: StatefulSet = applied(&plan, &observed.owner.name).unwrap();
    let spec = self::spec(set);
    assert_eq!(spec.selector.match_labels, selector);
    assert!(spec.template.spec.unwrap().security_context.is_none());
    assert!(spec.template.metadata.unwrap().labels.unwrap().contains_key(TOPO_SERVER));
    let service: Service = applied(&plan, &observed.owner.name).unwrap();
    assert_eq!(service.spec.and_then(|spec| spec.selector), selector, "members without the label still serve");
}

#[test]
fn status_goes_from_progress_over_quorum_to_healthy() {
    let mut observed = global(3);
    let first = run(&observed).status.unwrap();
    assert_eq!((first.phase, is_true(&first.conditions, "Available")), (Some(Phase::Progressing), false));
    let set = live(&observed);
    observed.stateful_set = Some(running(set.clone(), 2));
    let quorum = run(&observed).status.unwrap();
    assert!(is_true(&quorum.conditions, "Available") && !is_true(&quorum.conditions, "Ready"));
    observed.stateful_set = Some(running(set, 3));
    let plan = run(&observed);
    let healthy = plan.status.unwrap();
    assert_eq!((healthy.phase, plan.requeue), (Some(Phase::Healthy), Requeue::Settled));
    assert!(is_true(&healthy.conditions, "Ready"));
}

#[test]
fn status_is_a_fixed_point_and_the_decision_repeats() {
    let mut observed = resized(3, 3);
    let first = run(&observed);
    assert_eq!(first, run(&observed));
    let mut server = (*observed.server).clone();
    server.status.clone_from(&first.status);
    observed.server = Arc::new(server);
    let later = now() + jiff::SignedDuration::from_mins(5);
    assert_eq!(decide(&observed, &settings(), later).unwrap().status, first.status);
}

#[test]
fn a_server_serves_once_its_status_says_so() {
    let mut server = (*global(3).server).clone();
    assert!(!serves(&server));
    let mut observed = global(3);
    observed.stateful_set = Some(running(live(&observed), 2));
    server.status = run(&observed).status;
    assert!(serves(&server));
}

/// A pod that the scheduler has found no node for since long before.
fn unplaced() -> Arc<Pod> {
    let pod = serde_json::json!({ "metadata": { "name": "stray" }, "status": { "phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
    }] } });
    Arc::new(serde_json::from_value(pod).unwrap())
}

#[test]
fn a_member_without_a_node_is_named() {
    let mut observed = resized(3, 3);
    let set = live(&observed);
    observed.stateful_set = Some(running(set, 2));
    observed.pods = vec![unplaced()];
    let status = run(&observed).status.unwrap();
    assert_eq!(status.phase, Some(Phase::Progressing));
    assert!(status.message.unwrap().contains("pod stray finds no node: 0/3 nodes are available"));
}

#[test]
fn a_change_of_the_phase_is_told_once() {
    use crate::runner::Kind as _;
    let mut observed = resized(3, 3);
    let change = |observed: &Observed| observed.server.phase_change(&run(observed).status.unwrap());
    assert!(change(&observed).is_some_and(|note| !note.warning));
    let status = run(&observed).status;
    Arc::make_mut(&mut observed.server).status = status;
    assert_eq!(change(&observed), None);
}
