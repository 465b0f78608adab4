//! What an operator with other settings does to the pods of a shard, and what a change of the spec does.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{PodSpec, ResourceRequirements},
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rstest::rstest;
use serde_json::json;
use shared::{annotation, api::v1alpha1::Shard, image::SupportImages, pgconfig::USUAL_POOL};

use super::fixture::*;
use crate::{
    plan::Action,
    settings::Settings,
    shard::{Observed, decide, pod, rendering::Renderings, scope::Scope},
    workload::{fixture::applied, telemetry::Inherited},
};

fn other() -> Settings {
    Settings {
        native_sidecars: false,
        cluster_domain: "example.internal".into(),
        support_images: SupportImages::default().overridden(|_| Some("registry.test/other:1".to_owned())),
        exporter_resources: Some(ResourceRequirements::default()),
        ..settings()
    }
}

fn upgraded(mut observed: Observed) -> Observed {
    observed.inherited = Inherited::of([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://new:4318".to_owned())]);
    observed
}

fn pod_spec(observed: &Observed, settings: &Settings, name: &str) -> PodSpec {
    let plan = decide(observed, settings, NOW).unwrap();
    let pods = plan.writes.into_iter().filter_map(|write| match write.action {
        Action::CreateOnce(object) if object.gvk.kind == "Pod" && object.name == name => Some(object.value),
        _ => None,
    });
    let value = pods.last().unwrap();
    serde_json::from_value(value["spec"].clone()).unwrap()
}

fn spec(observed: &mut Observed) -> &mut shared::api::v1alpha1::ShardSpec {
    &mut Arc::make_mut(&mut observed.shard).spec
}

#[rstest]
#[case(minimal())]
#[case(three_cells())]
#[case(shared_volume())]
fn the_description_of_a_pool_gives_each_of_its_pods(#[case] shard: Shard) {
    let observed = observed(shard);
    let scope = Scope::of(&observed.shard).unwrap();
    let renderings = Renderings::of(&scope, &observed, &settings(), None, None).unwrap();
    for member in scope.members() {
        let direct = pod::spec(&scope, &settings(), &member, &observed.inherited, USUAL_POOL);
        assert_eq!(renderings.pod(&member).unwrap(), direct);
    }
}

#[test]
fn the_exporter_is_as_the_operator_is_told() {
    let observed = observed(minimal());
    let scope = Scope::of(&observed.shard).unwrap();
    let limits = [("memory".to_owned(), Quantity("64Mi".to_owned()))].into();
    let resources = ResourceRequirements { limits: Some(limits), ..ResourceRequirements::default() };
    let told = Settings { exporter_resources: Some(resources.clone()), ..other() };
    let member = scope.members().into_iter().next().unwrap();
    let exporter = |settings: &Settings| {
        let spec = pod::spec(&scope, settings, &member, &observed.inherited, USUAL_POOL);
        spec.containers.into_iter().find(|container| container.name == "postgres-exporter").unwrap()
    };
    assert_eq!(exporter(&told).image.as_deref(), Some("registry.test/other:1"));
    assert_eq!(exporter(&told).resources, Some(resources));
    assert_eq!(exporter(&settings()).image.as_deref(), Some(shared::image::POSTGRES_EXPORTER));
    assert_eq!(exporter(&settings()).resources, None);
}

#[rstest]
#[case(minimal())]
#[case(three_cells())]
fn an_operator_with_other_settings_changes_nothing(#[case] shard: Shard) {
    let before = healthy(shard);
    let first = decide(&before, &settings(), NOW).unwrap();
    let after = upgraded(before);
    let plan = decide(&after, &other(), NOW).unwrap();
    assert_eq!(plan.writes, first.writes);
    assert!(plan.status.unwrap().drift.is_empty());
}

#[test]
fn a_new_pod_of_a_pool_is_like_its_siblings() {
    let mut observed = healthy(minimal());
    spec(&mut observed).pools.get_mut("default").unwrap().replicas_per_cell = Some(3);
    let names = members(&observed.shard);
    let observed = upgraded(observed);
    let new = pod_spec(&observed, &other(), &names[2]);
    assert_eq!(new.init_containers.as_ref().map(Vec::len), Some(1), "a native sidecar, as its siblings have");
    let text = serde_json::to_string(&new).unwrap();
    assert!(text.contains(".svc.cluster.local") && !text.contains("new:4318") && !text.contains(&names[0]), "{text}");
    assert!(text.contains(&shared::name::pooler_service_id(&names[2])));
}

#[test]
fn a_change_of_one_pool_renders_that_pool_alone() {
    let mut shard = minimal();
    let pool = shard.spec.pools["default"].clone();
    shard.spec.pools.insert("other".into(), pool);
    let mut observed = upgraded(healthy(shard));
    let tolerations = vec![serde_json::from_value(json!({"key": "a", "operator": "Exists"})).unwrap()];
    spec(&mut observed).pools.get_mut("other").unwrap().tolerations = tolerations;
    let drift = decide(&observed, &other(), NOW).unwrap().status.unwrap().drift;
    assert_eq!(drift.len(), 2, "{drift:?}");
    assert!(drift.keys().all(|pod| pod.contains("-pool-other-")), "{drift:?}");
}

#[test]
fn a_new_cell_is_rendered_today_and_the_others_stay() {
    let mut observed = upgraded(healthy(minimal()));
    spec(&mut observed).pools.get_mut("default").unwrap().cells.push("zone-b".into());
    let names = members(&observed.shard);
    assert!(pod_spec(&observed, &other(), &names[0]).init_containers.is_some());
    assert!(pod_spec(&observed, &other(), &names[2]).init_containers.is_none());
}

#[test]
fn where_renderings_are_taken_over_at_once_everything_is_rendered_today() {
    let mut observed = upgraded(healthy(minimal()));
    let told = (annotation::UPDATE_STRATEGY.to_owned(), annotation::UPDATE_IMMEDIATELY.to_owned());
    Arc::make_mut(&mut observed.shard).metadata.annotations.get_or_insert_default().extend([told]);
    let plan = decide(&observed, &other(), NOW).unwrap();
    let orchestrator: Deployment = applied(&plan, &written(&plan, "Deployment")[0]).unwrap();
    assert!(serde_json::to_string(&orchestrator).unwrap().contains("new:4318"));
    assert_eq!(plan.status.unwrap().drift.len(), 2);
}

#[test]
fn where_rollouts_are_paused_not_even_the_user_changes_running_pods() {
    let mut observed = upgraded(healthy(minimal()));
    let told = (annotation::UPDATE_STRATEGY.to_owned(), annotation::UPDATE_PAUSED.to_owned());
    Arc::make_mut(&mut observed.shard).metadata.annotations.get_or_insert_default().extend([told]);
    let tolerations = vec![serde_json::from_value(json!({"key": "a", "operator": "Exists"})).unwrap()];
    spec(&mut observed).pools.get_mut("default").unwrap().tolerations = tolerations;
    let paused = decide(&observed, &other(), NOW).unwrap();
    assert_eq!(paused.status.unwrap().drift.len(), 0);
    Arc::make_mut(&mut observed.shard).metadata.annotations = None;
    assert_eq!(decide(&observed, &other(), NOW).unwrap().status.unwrap().drift.len(), 2, "afterwards they do");
}

#[test]
fn poolers_keep_as_many_connections_as_their_server_takes() {
    let mut observed = healthy(minimal());
    let name = members(&observed.shard)[0].clone();
    let pool = |observed: &Observed| -> Vec<String> {
        let args = pod_spec(observed, &settings(), &name).containers.into_iter().filter_map(|one| one.args).flatten();
        args.filter_map(|arg| arg.strip_prefix("--connpool-global-capacity=").map(ToOwned::to_owned)).collect()
    };
    assert_eq!(pool(&observed), ["40"]);
    spec(&mut observed).postgres_config.insert("max_connections".into(), "300".into());
    assert_eq!(pool(&observed), ["280"]);
    spec(&mut observed).postgres_config.insert("max_connections".into(), "30".into());
    assert_eq!(pool(&observed), ["40"], "the server stays as large as its primary was");
}

#[test]
fn settings_that_somebody_damaged_are_restored_from_the_copy() {
    let mut observed = healthy(minimal());
    let before = decide(&observed, &settings(), NOW).unwrap().writes;
    let map = Arc::make_mut(observed.applied_config.as_mut().unwrap());
    map.data.get_or_insert_default().insert("postgresql.conf".into(), "fsync = off".into());
    assert_eq!(decide(&observed, &settings(), NOW).unwrap().writes, before);
    let map = Arc::make_mut(observed.applied_config.as_mut().unwrap());
    map.binary_data.get_or_insert_default().values_mut().for_each(|packed| packed.0.truncate(9));
    assert_eq!(decide(&observed, &settings(), NOW).unwrap().writes, before, "and so is the copy");
}
