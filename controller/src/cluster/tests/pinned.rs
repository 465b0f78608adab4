//! What an operator with other defaults, and an edited template, do to the children of a cluster, and what they do not.

use rstest::rstest;
use shared::image::{ImageSet, SupportImages};

use super::*;
use crate::{
    cluster::{
        intent::Intent,
        wave::{Peer, Standing},
    },
    plan::Write,
};

const TEMPLATED: &str = "
metadata: {name: minimal, namespace: prod}
spec:
  templateDefaults: {coreTemplate: std, cellTemplate: std, shardTemplate: std}
  cells:
    - {name: zone-a, zone: eu-1a}
    - {name: zone-b, zone: eu-1b, overrides: {multigateway: {podLabels: {tier: gold}}}}
";

fn std(core: &str, cell: &str, shard: &str) -> Templates {
    let named = |name: &str| name.to_owned();
    Templates {
        core: [(named("std"), serde_saphyr::from_str(core).unwrap())].into(),
        cell: [(named("std"), serde_saphyr::from_str(cell).unwrap())].into(),
        shard: [(named("std"), serde_saphyr::from_str(shard).unwrap())].into(),
    }
}

fn old() -> Templates {
    std(
        "{multiadmin: {replicas: 2}}",
        "{multigateway: {replicas: 2}}",
        "{pools: {main: {type: readWrite, replicasPerCell: 2}}}",
    )
}

fn edited() -> Templates {
    std(
        "{multiadmin: {replicas: 3, podLabels: {a: b}}, globalTopoServer: {etcd: {resources: {requests: {cpu: 1}}}}}",
        "{multigateway: {replicas: 3, podLabels: {a: b}}}",
        "{pools: {main: {type: readWrite, replicasPerCell: 3}}}",
    )
}

/// What a pass sees of the same cluster with other templates and settings. The record of the images is on the cluster by now.
fn again(before: &Observed, templates: &Templates, settings: &Settings) -> Observed {
    let mut cluster = (*before.cluster).clone();
    if let Some(record) = &before.adopted.record {
        cluster.annotations_mut().insert(annotation::APPLIED_IMAGES.to_owned(), record.clone());
    }
    let owner = &before.owner;
    let adopted = Adopted::of(&cluster, settings);
    let resolved = observe::resolved(&cluster, owner, templates, &adopted, settings);
    Observed {
        own: observe::own(&cluster, owner, templates, &adopted),
        templates: observe::digests(&resolved, templates).unwrap(),
        adopted,
        resolved,
        cluster: Arc::new(cluster),
        ..before.clone()
    }
}

/// A cluster with all of its children, made from these templates.
fn made(yaml: &str, templates: &Templates) -> Observed {
    let cluster = stored(parse(yaml), 1);
    let mut first = again(&bare_observed(cluster), templates, &settings());
    healthy_children(&mut first);
    register_all(&mut first);
    again(&first, templates, &settings())
}

/// Nothing is known about the cluster but itself.
fn bare_observed(mut cluster: MultigresCluster) -> Observed {
    let mut observed = observed(MINIMAL);
    cluster.metadata.finalizers = Some(vec![CLUSTER_FINALIZER.to_owned()]);
    observed.owner = Owner::of(&cluster).unwrap();
    observed.adopted = Adopted::of(&cluster, &settings());
    observed.cluster = Arc::new(cluster);
    observed
}

fn other() -> Settings {
    Settings {
        images: ImageSet {
            postgres: "pg:2".into(),
            multigateway: "gw:2".into(),
            multiadmin: "a:2".into(),
            ..ImageSet::default()
        },
        support_images: SupportImages { etcd: "etcd:2".into(), ..SupportImages::default() },
        zone_id_label: "example.com/zone".into(),
        ..settings()
    }
}

fn telemetry() -> Inherited {
    Inherited::of([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://new:4318".to_owned())])
}

/// The objects that a plan applies, without what it writes on the cluster itself.
fn applies(observed: &Observed, settings: &Settings) -> Vec<serde_json::Value> {
    let plan = decide(observed, settings, now()).unwrap();
    let object = |write: Write| match write.action {
        Action::Apply(object) => Some(object.value),
        _ => None,
    };
    plan.writes.into_iter().filter_map(object).collect()
}

#[rstest]
#[case(MINIMAL)]
#[case(THREE_CELLS)]
#[case(THREE_CELLS_SERVING)]
#[case(EXTERNAL)]
fn an_operator_with_other_defaults_changes_nothing_until_it_is_told_to(#[case] yaml: &str) {
    let before = made(yaml, &Templates::default());
    let first = applies(&before, &settings());
    let mut upgraded = again(&before, &Templates::default(), &other());
    upgraded.inherited = telemetry();
    assert_eq!(applies(&upgraded, &other()), first);
    let status = decide(&upgraded, &other(), now()).unwrap().status.unwrap();
    let pending = find(&status.conditions, "ImageRolloutPending").unwrap();
    assert_eq!((pending.status.as_str(), pending.reason.as_str()), ("True", "AwaitingAcknowledgement"));
    let images = status.images.unwrap();
    assert_eq!(images.effective.postgres, Some(ImageSet::default().postgres));
    assert_eq!(images.available.and_then(|images| images.postgres).as_deref(), Some("pg:2"));

    let immediate =
        Settings { image_update_strategy: shared::api::v1alpha1::ImageUpdateStrategy::Immediate, ..other() };
    let mut told = again(&before, &Templates::default(), &immediate);
    told.inherited = telemetry();
    let plan = decide(&told, &immediate, now()).unwrap();
    let name = &told.owner.name;
    let admin: Deployment = applied(&plan, &name::multiadmin(name)).unwrap();
    let container = &admin.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0];
    assert_eq!(container.image.as_deref(), Some("a:2"));
    let first_cell = told.cluster.spec.cells[0].name.clone();
    let cell: Cell = applied(&plan, &name::cell(name, &first_cell)).unwrap();
    assert_eq!(cell.spec.images.multigateway, "gw:2");
    assert_eq!(cell.annotations()[annotation::UPDATE_STRATEGY], "immediate");
}

#[test]
fn an_image_of_the_user_takes_effect_at_once() {
    let mut before = made(MINIMAL, &Templates::default());
    let mut cluster = (*before.cluster).clone();
    cluster.spec.images = serde_json::from_value(json!({"multigateway": "mine:1"})).unwrap();
    before.cluster = Arc::new(cluster);
    let now_with = again(&before, &Templates::default(), &other());
    let plan = decide(&now_with, &other(), now()).unwrap();
    let cell: Cell = applied(&plan, &name::cell("minimal", "zone-a")).unwrap();
    assert_eq!(cell.spec.images.multigateway, "mine:1");
    let group = plan_group(&plan);
    assert_eq!(group.spec.images.postgres, ImageSet::default().postgres);
}

fn plan_group(plan: &Plan<MultigresClusterStatus>) -> TableGroup {
    applied(plan, &name::table_group("minimal", "postgres", "default")).unwrap()
}

/// Ten clusters are on the way.
fn busy() -> Vec<Peer> {
    (0..10).map(|n| Peer { name: format!("other-{n}"), standing: Standing::OnTheWay }).collect()
}

fn replicas(plan: &Plan<MultigresClusterStatus>) -> (Option<i32>, Option<i32>, Option<i32>) {
    let cell: Cell = applied(plan, &name::cell("minimal", "zone-a")).unwrap();
    let admin: Deployment = applied(plan, &name::multiadmin("minimal")).unwrap();
    let pools = plan_group(plan).spec.shards[0].pools.clone();
    (cell.spec.multigateway.replicas, admin.spec.unwrap().replicas, pools["main"].replicas_per_cell)
}

#[test]
fn a_cluster_that_waits_for_its_turn_keeps_its_children_and_says_so() {
    let before = made(TEMPLATED, &old());
    let first = applies(&before, &settings());
    let mut waiting = again(&before, &edited(), &settings());
    waiting.peers = busy();
    let plan = run(&waiting);
    assert_eq!(applies(&waiting, &settings()), first);
    assert_eq!(plan.requeue, Requeue::After(WAIT_FOR_TURN));
    let conditions = plan.status.unwrap().conditions;
    assert_eq!(find(&conditions, "TemplateUpdatePending").unwrap().reason, "WaitsForOthers");

    waiting.peers = vec![Peer { name: "sick".into(), standing: Standing::Unhealthy }];
    let plan = run(&waiting);
    assert_eq!(applies(&waiting, &settings()), first);
    let pending = find(&plan.status.as_ref().unwrap().conditions, "TemplateUpdatePending").cloned().unwrap();
    assert!(pending.reason == "OtherClusterUnhealthy" && pending.message.contains("cluster sick"), "{pending:?}");

    waiting.peers = busy();
    waiting.peers.pop();
    let plan = run(&waiting);
    assert_eq!(replicas(&plan), (Some(3), Some(3), Some(3)));
    assert!(find(&plan.status.unwrap().conditions, "TemplateUpdatePending").is_none());
}

#[test]
fn while_a_cluster_waits_its_own_edits_and_its_new_children_go_ahead() {
    let before = made(TEMPLATED, &old());
    let mut cluster = (*before.cluster).clone();
    cluster.spec.cells[1].overrides =
        serde_json::from_value(json!({"multigateway": {"podLabels": {"tier": "iron"}}})).unwrap();
    cluster.spec.cells.push(serde_json::from_value(json!({"name": "zone-c", "zone": "eu-1c"})).unwrap());
    let mut waiting = again(&Observed { cluster: Arc::new(cluster), ..before }, &edited(), &settings());
    waiting.peers = busy();
    let plan = run(&waiting);
    let cell = |name: &str| -> Cell { applied(&plan, &name::cell("minimal", name)).unwrap() };
    let gateways = |name: &str| cell(name).spec.multigateway.replicas;
    assert_eq!((gateways("zone-a"), gateways("zone-b"), gateways("zone-c")), (Some(2), Some(3), Some(3)));
    assert_eq!(cell("zone-a").spec.all_cells.len(), 3, "every cell knows its neighbours");
    assert!(find(&plan.status.unwrap().conditions, "TemplateUpdatePending").is_some());
}

#[test]
fn replicas_of_a_held_deployment_follow_the_cluster_where_it_names_them() {
    let mut before = made(TEMPLATED, &old());
    let mut cluster = (*before.cluster).clone();
    cluster.spec.multiadmin = serde_json::from_value(json!({"spec": {"replicas": 5}})).unwrap();
    before.cluster = Arc::new(cluster);
    let mut waiting = again(&before, &edited(), &settings());
    waiting.peers = busy();
    assert_eq!(replicas(&run(&waiting)).1, Some(5));
}

#[test]
fn a_template_changes_no_intent_of_the_cluster_itself() {
    let own = |templates: &Templates| {
        let observed = made(TEMPLATED, templates);
        let plan = run(&observed);
        let meta = |value: &serde_json::Value| value["apply"]["metadata"]["annotations"][annotation::INTENT].clone();
        let intents = writes(&plan).iter().map(meta).filter(|intent| !intent.is_null()).collect::<Vec<_>>();
        intents.iter().map(|text| Intent::parse(text.as_str().unwrap()).unwrap()).collect::<Vec<_>>()
    };
    let rich = std(
        "{globalTopoServer: {etcd: {replicas: 5, image: 'e:1', storage: {size: 3Gi, class: fast}}, placement: {tolerations: [{key: a}]},
          pvcDeletionPolicy: {whenDeleted: Delete}}, multiadmin: {replicas: 2, podLabels: {a: b}, podAnnotations: {c: d}},
          multiadminWeb: {replicas: 2, resources: {requests: {cpu: 1}}}, multiadminPlacement: {tolerations: [{key: a}]}}",
        "{multigateway: {replicas: 4, podLabels: {x: z}, buffer: {enabled: false, window: 20s}, resources: {limits: {memory: 1Gi}}},
          multigatewayPlacement: {tolerations: [{key: a}]}, localTopoServer: {etcd: {replicas: 1}}}",
        "{multiorch: {replicas: 3, podLabels: {a: b}}, initdbArgs: '--locale=C', postgresConfig: {work_mem: 9MB},
          pvcDeletionPolicy: {whenScaled: Delete},
          pools: {main: {type: readWrite, replicasPerCell: 3, storage: {size: 9Gi}, tolerations: [{key: a}],
            postgres: {resources: {requests: {cpu: 1}}}}, more: {type: readWrite}}}",
    );
    let (plain, old, rich) = (own(&std("{}", "{}", "{}")), own(&old()), own(&rich));
    assert_eq!(plain.len(), 6, "TopoServer, two Cells, TableGroup, multiadmin and its web page");
    for ((plain, old), rich) in plain.iter().zip(&old).zip(&rich) {
        assert_eq!((&plain.own, &plain.own), (&old.own, &rich.own), "{:?}", plain.templates);
        assert_ne!(plain.templates, rich.templates);
    }
}

#[test]
fn what_the_cluster_says_changes_the_intent_of_the_child_that_it_concerns() {
    let intents = |spec: serde_json::Value| {
        let mut cluster = parse(TEMPLATED);
        let mut whole = serde_json::to_value(&cluster.spec).unwrap();
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        cluster.spec = serde_json::from_value(whole).unwrap();
        let observed = again(&bare_observed(stored(cluster, 1)), &old(), &settings());
        let plan = run(&observed);
        let entry = |value: &serde_json::Value| {
            let object = &value["apply"];
            let text = object["metadata"]["annotations"][annotation::INTENT].as_str()?;
            Some((object["metadata"]["name"].as_str()?.to_owned(), Intent::parse(text)?.own))
        };
        writes(&plan).iter().filter_map(entry).collect::<BTreeMap<_, _>>()
    };
    let changed = |spec: serde_json::Value| {
        let (before, after) = (intents(json!({})), intents(spec));
        after.into_iter().filter(|(name, own)| before.get(name) != Some(own)).map(|(name, _)| name).collect::<Vec<_>>()
    };
    let (a, b) = (name::cell("minimal", "zone-a"), name::cell("minimal", "zone-b"));
    let group = name::table_group("minimal", "postgres", "default");
    let cells = |a: serde_json::Value| json!([a, {"name": "zone-b", "zone": "eu-1b", "overrides": {"multigateway": {"podLabels": {"tier": "gold"}}}}]);
    let inline = json!({"name": "zone-a", "zone": "eu-1a", "spec": {"multigateway": {"replicas": 2}}});
    assert_eq!(changed(json!({"cells": cells(inline)})), std::slice::from_ref(&a));
    let other_template = json!({"name": "zone-a", "zone": "eu-1a", "cellTemplate": "std"});
    assert!(changed(json!({"cells": cells(other_template)})).is_empty(), "the same template under another heading");
    assert_eq!(changed(json!({"multiadmin": {"spec": {"podLabels": {"a": "b"}}}})), ["minimal-multiadmin"]);
    assert!(changed(json!({"multiadmin": {"spec": {"replicas": 4}}})).is_empty());
    assert_eq!(
        changed(json!({"databases": [{"name": "postgres", "durabilityPolicy": "MULTI_CELL_AT_LEAST_2"}]})),
        std::slice::from_ref(&group)
    );
    let mut all = changed(json!({"logLevels": {"multigateway": "debug"}}));
    all.sort();
    let mut expected = vec![a, b, group];
    expected.sort();
    assert_eq!(all, expected);
    assert_eq!(changed(json!({"globalTopoServer": {"etcd": {"replicas": 5}}})), ["minimal-global-topo"]);
}

#[test]
fn a_template_that_is_gone_leaves_what_runs_as_it_is_and_says_so() {
    let before = made(TEMPLATED, &old());
    let mut gone = again(&before, &Templates { cell: BTreeMap::new(), ..old() }, &settings());
    let accepted = writes_by_name(&run(&before));
    let kept = writes_by_name(&run(&gone));
    for (object, value) in &kept {
        assert_eq!(accepted.get(object), Some(value), "{object}");
    }
    assert_eq!(kept.len(), accepted.len(), "{:?} of {:?}", kept.keys(), accepted.keys());

    // What somebody changes by hand meanwhile is put back.
    edit(&mut gone.cells, |cell| cell.spec.multigateway.replicas = Some(7));
    edit(&mut gone.table_groups, |group| group.spec.shards.clear());
    edit(&mut gone.topo_servers, |server| server.spec.etcd = None);
    let mut admin = (**gone.admin.as_ref().unwrap()).clone();
    admin.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers.clear();
    gone.admin = Some(Arc::new(admin));
    assert_eq!(writes_by_name(&run(&gone)), kept);
    let plan = run(&gone);
    let status = plan.status.clone().unwrap();
    let accepted = find(&status.conditions, "SpecAccepted").unwrap();
    assert_eq!((accepted.status.as_str(), accepted.reason.as_str()), ("False", "TemplateMissing"));
    assert!(accepted.message.contains("std"), "{}", accepted.message);
    assert!(accepted.message.ends_with("what exists stays as it was accepted last"), "{}", accepted.message);

    // What was deleted cannot be made again, and whoever deleted it reads so.
    let mut cluster = (*gone.cluster).clone();
    cluster.status = run(&before).status;
    gone.cluster = Arc::new(cluster);
    gone.cells.retain(|cell| cell.spec.name != "zone-a");
    let plan = run(&gone);
    assert!(applied::<Cell, _>(&plan, &name::cell("minimal", "zone-a")).is_none());
    let message = plan.status.unwrap().message.unwrap();
    assert!(message.ends_with("but cell zone-a cannot be put back before the spec is accepted"), "{message}");
}

#[test]
fn a_child_without_a_readable_copy_is_left_alone_while_the_spec_is_refused() {
    let before = made(TEMPLATED, &old());
    let mut gone = again(&before, &Templates { cell: BTreeMap::new(), ..old() }, &settings());
    edit(&mut gone.cells, |cell| cell.metadata.annotations = None);
    let cell = gone.cells[0].metadata.name.clone().unwrap();
    assert!(applied::<Cell, _>(&run(&gone), &cell).is_none());
}

#[test]
fn a_paused_cluster_takes_over_nothing_that_restarts_a_pod_not_even_from_its_user() {
    let mut before = made(MINIMAL, &Templates::default());
    let running: Deployment = (**before.admin.as_ref().unwrap()).clone();
    let mut cluster = (*before.cluster).clone();
    cluster.spec.image_update_policy =
        serde_json::from_value(json!({"strategy": "paused", "acknowledgedRevision": other().images.revision()}))
            .unwrap();
    cluster.spec.multiadmin =
        serde_json::from_value(json!({"spec": {"replicas": 3, "podLabels": {"a": "b"}}})).unwrap();
    before.cluster = Arc::new(cluster);
    let mut paused = again(&before, &Templates::default(), &other());
    paused.inherited = telemetry();
    let plan = decide(&paused, &other(), now()).unwrap();
    let admin: Deployment = applied(&plan, &name::multiadmin("minimal")).unwrap();
    let (spec, was) = (admin.spec.unwrap(), running.spec.unwrap());
    assert_eq!(spec.template, was.template, "pods stay");
    assert_eq!(spec.replicas, Some(3), "what restarts nobody goes on");
    let cell: Cell = applied(&plan, &name::cell("minimal", "zone-a")).unwrap();
    assert_eq!(cell.annotations()[annotation::UPDATE_STRATEGY], "paused");
    assert_eq!(cell.spec.images.multigateway, ImageSet::default().multigateway);
    let conditions = plan.status.unwrap().conditions;
    assert!(find(&conditions, "RolloutsPaused").unwrap().message.contains("until it is lazy or immediate"));
    assert_eq!(find(&conditions, "ImageRolloutPending").unwrap().reason, "Paused");
}
