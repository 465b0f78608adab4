//! Whatever a user may write has an effect: every field of every schema that users write, found in the generated definitions, is given
//! one legal value and then another, and something that is rendered, or a record of the topology, has to differ.
//!
//! The passes of all kinds run as they are, over a Kubernetes cluster in memory. Exceptions are two short lists, and what they promise
//! is tried, too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod exceptions;
mod input;
mod names;
mod schema;
mod value;
mod world;

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use serde_json::{Value, json};

use self::{
    exceptions::{BOOTSTRAP_ONLY, Entry, GRADUAL, ON_SCALE, ON_SCALE_OF_TEMPLATES, ON_TIME, PENDING},
    input::Input,
    schema::Field,
    world::{Rendered, World},
};

/// Says that an edit after the bootstrap changes nothing.
const CHANGE_HAS_NO_EFFECT: &str = "ChangeHasNoEffect";

#[test]
fn every_field_of_a_cluster_has_an_effect() {
    examine_all("MultigresCluster", is_representative);
}

#[test]
fn every_field_of_a_core_template_has_an_effect() {
    examine_all("CoreTemplate", is_representative);
}

#[test]
fn every_field_of_a_cell_template_has_an_effect() {
    examine_all("CellTemplate", is_representative);
}

#[test]
fn every_field_of_a_shard_template_has_an_effect() {
    examine_all("ShardTemplate", is_representative);
}

#[test]
#[ignore = "minutes; `make soak` runs it"]
fn every_field_within_an_affinity_has_an_effect() {
    for kind in ["MultigresCluster", "CoreTemplate", "CellTemplate", "ShardTemplate"] {
        examine_all(kind, |path| !is_representative(path));
    }
}

#[test]
fn every_exception_is_about_a_field() {
    let kinds = ["MultigresCluster", "CoreTemplate", "CellTemplate", "ShardTemplate"];
    let paths: Vec<String> = kinds.into_iter().flat_map(schema::fields).map(|field| field.id()).collect();
    let idle = |entry: &&Entry| !paths.iter().any(|path| is_about(entry, path));
    let idle: Vec<_> =
        PENDING.iter().chain(BOOTSTRAP_ONLY).chain(GRADUAL).chain(ON_SCALE).chain(ON_TIME).filter(idle).collect();
    assert!(idle.is_empty(), "no field ends like this: {idle:?}");
    let twice: Vec<_> = paths.iter().filter(|path| listed(PENDING, path) && listed(BOOTSTRAP_ONLY, path)).collect();
    assert!(twice.is_empty(), "in both lists: {twice:?}");
}

/// Examines the fields of a kind that are wanted, by their paths, on all cores, and tells of everything that is wrong.
fn examine_all(kind: &'static str, wanted: fn(&str) -> bool) {
    let fields: Vec<Field> = schema::fields(kind).into_iter().filter(|field| wanted(&field.path())).collect();
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut wrong = Vec::new();
        while let Some(field) = fields.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(why) = runtime.block_on(examine(field)) {
                wrong.push(format!("{kind} {}: {why}", field.path()));
            }
        }
        wrong
    };
    let mut wrong: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {} fields:\n{}", wrong.len(), fields.len(), wrong.join("\n"));
}

async fn examine(field: &Field) -> Result<(), String> {
    let (id, path) = (field.id(), field.path());
    let inputs: Vec<Input> = value::legal(field).iter().map(|value| Input::with(field, value)).collect();
    if listed(PENDING, &id) {
        return pending(field, &inputs).await;
    }
    if listed(ON_TIME, &id) {
        return timed(&inputs).await;
    }
    if listed(ON_SCALE, &id) || ON_SCALE_OF_TEMPLATES.contains(&(field.kind, path.as_str())) {
        return scaled(&inputs).await;
    }
    let (legal, refused): (Vec<&Input>, Vec<&Input>) = inputs.iter().partition(|input| input.judge(None).is_accepted());
    let Some(one) = legal.first() else {
        let why = refused.first().map(|input| input.judge(None).summary()).unwrap_or_default();
        return Err(format!("this test knows no legal value: {why}"));
    };
    let Some(other) = legal.get(1) else {
        // A field with a single legal value leaves nothing to choose, so there is nothing to ignore.
        let only = field.schema["enum"].as_array().is_some_and(|values| values.len() == 1);
        return match refused.first() {
            _ if only => Ok(()),
            Some(_) if listed(BOOTSTRAP_ONLY, &id) => Ok(()),
            Some(input) => {
                Err(format!("this test knows a single legal value; another one: {}", input.judge(None).summary()))
            }
            None => Err("this test knows a single legal value".to_owned()),
        };
    };
    let mut world = World::of(one).await;
    let (rendered, fresh) = (world.rendered(), World::of(other).await.rendered());
    if rendered == fresh {
        return Err("changes nothing that is rendered, and no record of the topology".to_owned());
    }
    if !is_worth_an_edit(&path) {
        return Ok(());
    }
    edit(&mut world, &rendered, one, other, listed(BOOTSTRAP_ONLY, &id)).await?;
    if listed(BOOTSTRAP_ONLY, &id) || listed(GRADUAL, &id) {
        return Ok(());
    }
    follows(&world.rendered(), &fresh)
}

/// The field is refused or warned of, and really has no effect.
async fn pending(field: &Field, inputs: &[Input]) -> Result<(), String> {
    let name = field.path();
    let name = name.rsplit(['.']).next().unwrap_or_default().trim_end_matches(['[', ']', '{', '}']).to_owned();
    let told = |input: &Input| {
        let verdict = input.judge(None);
        let warned =
            verdict.warnings.iter().any(|warning| warning.path.contains(&name) || name_above(field, &warning.path));
        !verdict.is_accepted() || warned
    };
    if !inputs.iter().any(told) {
        return Err("is pending, and neither refused nor warned of".to_owned());
    }
    let legal: Vec<&Input> = inputs.iter().filter(|input| input.judge(None).is_accepted()).collect();
    let [one, other, ..] = legal[..] else { return Ok(()) };
    if World::of(one).await.rendered() != World::of(other).await.rendered() {
        return Err("has an effect by now: take it off the list of pending fields".to_owned());
    }
    Ok(())
}

/// The shards follow the field, and nothing is rendered differently meanwhile: no pod restarts for a schedule.
async fn timed(inputs: &[Input]) -> Result<(), String> {
    let [one, other] = inputs else { return Err(format!("has {} values, not two", inputs.len())) };
    for input in [one, other] {
        let verdict = input.judge(None);
        if !verdict.is_accepted() {
            return Err(format!("this test knows no legal value: {}", verdict.summary()));
        }
    }
    let mut world = World::of(one).await;
    let (rendered, followed) = (world.rendered(), world.backups());
    world.apply(other).await;
    if world.backups() == followed {
        return Err("no shard follows an edit".to_owned());
    }
    if world.rendered() == rendered { Ok(()) } else { Err("an edit renders something else".to_owned()) }
}

/// The field has an effect when pools get smaller, and none before.
async fn scaled(inputs: &[Input]) -> Result<(), String> {
    let [one, other] = inputs else { return Err(format!("has {} values, not two", inputs.len())) };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for input in [one, other] {
        let mut world = World::of(&input.of_size(3)).await;
        before.push(world.rendered());
        let smaller = input.of_size(2);
        world.apply(&smaller).await;
        world.let_pods_go(&World::of(&smaller).await.rendered());
        world.apply(&smaller).await;
        after.push(world.rendered());
    }
    match (before[0] == before[1], after[0] == after[1]) {
        (true, false) => Ok(()),
        (false, _) => Err("has an effect without any change: take it off the list".to_owned()),
        (true, true) => Err("changes nothing when pools get smaller".to_owned()),
    }
}

/// Whether a warning is about the field that holds this one.
fn name_above(field: &Field, warned: &str) -> bool {
    let path = field.path();
    path.split(['.', '[', ']', '{', '}'])
        .filter(|part| !part.is_empty())
        .rev()
        .nth(1)
        .is_some_and(|above| warned.ends_with(above))
}

/// An edit after everything settled, when `rendered` was there, changes something, or says that it does not, or is refused.
async fn edit(
    world: &mut World,
    rendered: &Rendered,
    one: &Input,
    other: &Input,
    bootstrap_only: bool,
) -> Result<(), String> {
    let refused = !other.judge(Some(one)).is_accepted();
    if refused {
        return if bootstrap_only {
            Ok(())
        } else {
            Err("an edit is refused: it counts at the bootstrap only".to_owned())
        };
    }
    let said = world.said();
    world.apply(other).await;
    let no_effect = world.condition(other, CHANGE_HAS_NO_EFFECT).is_some_and(|condition| condition.status == "True");
    match (bootstrap_only, no_effect) {
        (true, false) => Err(format!("counts at the bootstrap only, and an edit does not set {CHANGE_HAS_NO_EFFECT}")),
        (false, true) => Err(format!("an edit sets {CHANGE_HAS_NO_EFFECT}: it counts at the bootstrap only")),
        (false, false) if world.rendered() == *rendered && world.said() == said => {
            Err("an edit goes unnoticed".to_owned())
        }
        (true, true) | (false, false) => Ok(()),
    }
}

/// What can follow an edit has become what a fresh cluster would have been given: renderings are pinned, and only to what their user
/// wants.
fn follows(edited: &Rendered, fresh: &Rendered) -> Result<(), String> {
    const FOLLOW: [&str; 4] = ["Deployment", "Service", "ConfigMap", "PodDisruptionBudget"];
    let of_kind = |id: &str| FOLLOW.iter().any(|kind| id.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/')));
    let different = fresh.iter().filter(|(id, object)| of_kind(id) && edited.get(*id) != Some(*object));
    let different: Vec<&str> = different.map(|(id, _)| id.as_str()).collect();
    if different.is_empty() {
        return Ok(());
    }
    Err(format!("after an edit these are not what they would be in a fresh cluster: {}", different.join(", ")))
}

/// An affinity is passed on as one value, so that a few of its fields stand for all: some of each of its three parts.
fn is_representative(path: &str) -> bool {
    !path.contains("ffinity.")
        || path.ends_with("topologyKey")
        || (path.contains("nodeAffinity") && (path.ends_with("matchExpressions[].key") || path.ends_with("weight")))
}

fn is_worth_an_edit(path: &str) -> bool {
    !path.contains("ffinity.") || path.ends_with("topologyKey")
}

fn listed(list: &[Entry], path: &str) -> bool {
    list.iter().any(|entry| is_about(entry, path))
}

fn is_about((end, _): &Entry, path: &str) -> bool {
    path.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with(['.', ':']))
}

#[test]
fn every_container_is_pulled_as_the_cluster_says() {
    let mut input = Input::base();
    let local = json!({"localTopoServer": {"etcd": {"replicas": 1}}});
    input.spec["cells"][0]["spec"] = local;
    input.spec["images"] = json!({"imagePullPolicy": "Always", "imagePullSecrets": [{"name": "registry"}]});
    let pods = pods(&input);
    // Management, gateways, orchestrators, pools, and both kinds of etcd.
    assert!(pods.len() >= 10, "{}", pods.len());
    for (id, pod) in pods {
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "registry"}]), "{id}");
        let containers = ["containers", "initContainers"].map(|list| pod["spec"][list].as_array().cloned());
        for container in containers.into_iter().flatten().flatten() {
            assert_eq!(container["imagePullPolicy"], "Always", "{id} {}", container["name"]);
        }
    }
}

#[test]
fn every_pod_of_the_data_plane_carries_the_project() {
    let input = Input { project: "proj-42".to_owned(), ..Input::base() };
    let mut seen = 0;
    for (id, pod) in pods(&input) {
        let component = pod["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap_or_default();
        if ["multigateway", "multiorch", "shard-pool"].contains(&component) {
            seen += 1;
            assert_eq!(pod["metadata"]["annotations"]["multigres.com/project-ref"], "proj-42", "{id}");
            assert!(pod.to_string().contains("multigres.project=proj-42"), "{id}");
        }
    }
    assert!(seen >= 6, "{seen}");
}

/// Every pod, and every description of pods.
fn pods(input: &Input) -> Vec<(String, Value)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rendered = runtime.block_on(World::of(input)).rendered().into_iter();
    let pod = |object: Value| match object["kind"].as_str() {
        Some("Pod") => Some(object),
        _ => Some(object["spec"]["template"].clone()).filter(Value::is_object),
    };
    rendered.filter_map(|(id, object)| Some((id, pod(object)?))).collect()
}

/// Tells what a single field changes. For one that fails: `EVERY_FIELD=MultigresCluster:cells[].name cargo test -p controller --test
/// every_field single_field -- --nocapture`.
#[test]
fn a_single_field_can_be_looked_at() {
    let wanted = std::env::var("EVERY_FIELD").unwrap_or_else(|_| "MultigresCluster:logLevels.multigateway".to_owned());
    let kinds = ["MultigresCluster", "CoreTemplate", "CellTemplate", "ShardTemplate"];
    let field =
        kinds.into_iter().flat_map(schema::fields).find(|field| format!("{}:{}", field.kind, field.path()) == wanted);
    let field = field.unwrap_or_else(|| panic!("EVERY_FIELD names no field: {wanted}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let worlds: Vec<_> = value::legal(&field)
        .iter()
        .map(|value| {
            let input = Input::with(&field, value);
            println!("{value}: {}", input.judge(None).summary());
            runtime.block_on(World::of(&input)).rendered()
        })
        .collect();
    let [one, another, ..] = worlds.as_slice() else { panic!("{wanted} has no two legal values") };
    let ids: std::collections::BTreeSet<_> = one.keys().chain(another.keys()).collect();
    let different: Vec<_> = ids.into_iter().filter(|id| one.get(*id) != another.get(*id)).collect();
    for id in &different {
        println!("{id}\n  {:?}\n  {:?}", one.get(*id), another.get(*id));
    }
    assert!(!different.is_empty(), "{wanted} changes nothing");
}
