//! Every case of the rules behind a real API server, which asks the service of this process: it answers what the function says.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`. Without it the tests are skipped loudly, and fail
//! where skipping is not allowed (`CI` or `MULTIGRES_TEST_REQUIRE` set).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use admission::{
    lookup::{Lookup, Settings, Stores},
    review::{Answer as Judgement, Endpoint, Request, Review},
    reviewer::Reviewer,
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use serde_json::{Value, json};
use shared::{
    admin::Readiness,
    resolve::{self, Templates},
    validate::{StorageClasses, Surroundings},
};
use support::{
    api_server::{ApiServer, Call, Outcome, collection, eventually, place, webhook_name},
    case::{all, endpoint, mutated, object, pure},
    envelope::Answer,
    random::Random,
    rule_cases::Case,
    service::{self, Running},
    specs,
    world::{self, CONTROLLER, Placed, WRITERS},
};
use tokio_util::sync::CancellationToken;

/// Puts in place what a case starts from; what it writes is not judged.
const SETTER: &str = "setter";
/// Cases that are tried side by side.
const SIDE_BY_SIDE: usize = 8;
/// Generated clusters that are tried, and what they are generated from.
const GENERATED: (u64, u64) = (300, 20_250_101);

/// Judges each namespace in surroundings of its own.
#[derive(Default)]
struct ByNamespace(Mutex<BTreeMap<String, Arc<Reviewer>>>);

impl Review for ByNamespace {
    fn review<'a>(&'a self, endpoint: Endpoint, request: Request<'a>) -> BoxFuture<'a, Judgement> {
        if request.user_info.username == SETTER {
            return async { Judgement::default() }.boxed();
        }
        let reviewer = self.0.lock().unwrap().get(&request.namespace).cloned();
        let reviewer = reviewer.unwrap_or_else(|| panic!("nobody judges in {:?}", request.namespace));
        async move { reviewer.review(endpoint, request).await }.boxed()
    }
}

/// An API server with the service behind it.
struct Bed {
    server: ApiServer,
    judges: Arc<ByNamespace>,
    stores: Arc<Stores>,
    service: Running,
    token: CancellationToken,
}

impl Bed {
    async fn open() -> Option<Self> {
        let server = ApiServer::connect().await?;
        let (token, readiness) = (CancellationToken::new(), Readiness::default());
        let settings = Settings { namespaces: Vec::new(), zone_id_label: resolve::ZONE_ID_LABEL.to_owned() };
        let (stores, _) =
            Stores::start(server.client.clone(), token.clone(), &readiness, settings, &support::watches());
        eventually(async || match readiness.missing().as_slice() {
            [] => Ok(()),
            missing => Err(format!("waiting for {missing:?}")),
        })
        .await
        .unwrap();
        let judges = Arc::new(ByNamespace::default());
        let service = service::serve(Arc::clone(&judges) as Arc<dyn Review>);
        server.point_to(service.address.port(), &service.authority).await;
        let bed = Self { server, judges, stores, service, token };
        bed.wait_until_asked().await;
        Some(bed)
    }

    /// A server takes a moment to follow new configurations: all of them refuse what each of them has to refuse.
    async fn wait_until_asked(&self) {
        let namespace = self.namespace("probe", Surroundings::default()).await;
        let bad = json!({"databases": [{"name": "postgres", "tablegroups": [{"name": "default", "shards": [
            {"name": "0-inf", "shardTemplate": "nowhere"}]}]}]});
        let bare = object("MultigresCluster", &namespace, "probe", &json!({"cells": [{"name": "a"}]}));
        let bad = object("MultigresCluster", &namespace, "probe", &bad);
        eventually(async || {
            let (refused, changed) =
                (self.server.create(&bad, None, true).await, self.server.create(&bare, None, true).await);
            if refused.is_from_webhook() && changed.body["spec"]["databases"].is_array() {
                Ok(())
            } else {
                Err(format!("not asked yet: {refused:?} {changed:?}"))
            }
        })
        .await
        .unwrap();
    }

    /// A namespace in which a judge sits.
    async fn namespace(&self, name: &str, around: Surroundings) -> String {
        let namespace = self.server.namespace(name).await;
        let stores: Arc<dyn Lookup> = self.stores.clone();
        let lookup = Arc::new(Placed { stores, around: Arc::new(around) });
        self.judges.0.lock().unwrap().insert(namespace.clone(), world::reviewer(lookup));
        namespace
    }

    async fn close(self) {
        self.service.stop.cancel();
        self.token.cancel();
        let namespaces: Vec<String> = self.judges.0.lock().unwrap().keys().cloned().collect();
        self.server.close(namespaces).await;
    }

    /// Puts an object in place as it is.
    async fn put(&self, object: &Value) -> Result<(), String> {
        match self.server.create(object, Some(SETTER), false).await {
            outcome if outcome.allowed() => Ok(()),
            outcome => Err(format!("{} cannot be put in place: {outcome:?}", place(object))),
        }
    }

    /// Waits until the stores know of what the judges must not miss, which are users of templates.
    async fn wait_for_stores(&self, namespace: &str, case: &Case) -> Result<(), String> {
        let count = |templates: &Templates| templates.core.len() + templates.cell.len() + templates.shard.len();
        let due = (count(&world::templates(case)), case.clusters.len());
        eventually(async || {
            let templates = count(&*self.stores.templates(namespace).map_err(|error| error.to_string())?);
            let clusters = self.stores.clusters(namespace).map_err(|error| error.to_string())?.len();
            if templates >= due.0 && clusters >= due.1 {
                Ok(())
            } else {
                Err(format!("the stores have {templates} templates and {clusters} clusters"))
            }
        })
        .await
    }

    async fn try_case(&self, number: usize, case: &Case) -> Result<(), String> {
        let namespace = self.namespace(&format!("case-{number}"), world::surroundings(case)).await;
        let kinds = [
            ("CoreTemplate", &case.templates.core),
            ("CellTemplate", &case.templates.cell),
            ("ShardTemplate", &case.templates.shard),
        ];
        let templates =
            kinds.into_iter().flat_map(|(kind, specs)| specs.iter().map(move |(name, spec)| (kind, name, spec)));
        let clusters = case.clusters.iter().map(|(name, spec)| ("MultigresCluster", name, spec));
        let mut own_stands = false;
        for (kind, name, spec) in templates.chain(clusters) {
            own_stands |= kind == case.kind && *name == case.name;
            self.put(&object(kind, &namespace, name, spec)).await?;
        }
        let with = |spec: &Value| object(&case.kind, &namespace, &case.name, spec);
        if let Some(old) = case.old.as_ref().filter(|_| !own_stands) {
            self.put(&with(old)).await?;
        }
        self.wait_for_stores(&namespace, case).await?;
        let outcome = match (&case.old, &case.object) {
            (None, Some(new)) => self.server.create(&with(new), None, true).await,
            (Some(_), Some(new)) => self.server.replace(&with(new), None, true).await,
            (Some(old), None) => self.server.delete(&with(old), None, true).await,
            (None, None) => return Err("nothing happens".to_owned()),
        };
        compare(case, &namespace, &outcome)
    }
}

/// Compares what the API server answered with what the function says.
fn compare(case: &Case, namespace: &str, outcome: &Outcome) -> Result<(), String> {
    let expected = pure(case, namespace);
    let differ = |expected: &Answer| Err(format!("the function says\n  {expected:?}\nthe API server\n  {outcome:?}"));
    if outcome.allowed() != expected.allowed {
        return differ(&expected);
    }
    // What the definition refuses has words of its own: the field is what counts.
    if !outcome.allowed() && !outcome.is_from_webhook() {
        let fields: Vec<String> = outcome.fields().into_iter().map(dotted).collect();
        return match &case.schema {
            Some(schema) if outcome.status == 422 && fields.contains(&dotted(schema)) => Ok(()),
            schema => Err(format!("the definition refuses {fields:?}, expected {schema:?}: {outcome:?}")),
        };
    }
    if let Some(schema) = case.schema.as_ref().filter(|_| !outcome.allowed()) {
        return Err(format!("the webhook refuses what the definition should at {schema}: {outcome:?}"));
    }
    let (case, mut warnings) = mutated(case, namespace);
    let expected = pure(&case, namespace);
    let answer = outcome.answer(&webhook_name(endpoint(&case.kind)));
    let same = answer.causes == expected.causes && answer.message == expected.message && answer.code == expected.code;
    // The server itself may warn as well; ours are all there, in order.
    warnings.extend(expected.warnings.iter().cloned());
    let ours: Vec<&String> = answer.warnings.iter().filter(|warning| warnings.contains(warning)).collect();
    if same && ours == warnings.iter().collect::<Vec<_>>() { Ok(()) } else { differ(&expected) }
}

/// A field path with the keys of maps behind dots, as the API server writes them.
fn dotted(path: &str) -> String {
    let mut dotted = String::new();
    let mut rest = path;
    while let Some((before, (key, after))) =
        rest.split_once('[').and_then(|(before, behind)| Some((before, behind.split_once(']')?)))
    {
        dotted.push_str(before);
        // Lists keep their indices.
        let index = key.bytes().all(|byte| byte.is_ascii_digit());
        let [open, close] = if index { ["[", "]"] } else { [".", ""] };
        dotted.extend([open, key, close]);
        rest = after;
    }
    dotted + rest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_says_of_every_case_what_the_function_says() {
    let Some(bed) = Bed::open().await else { return };
    let cases = all();
    let tried = cases.iter().enumerate().filter(|(_, case)| case.stored);
    let answers =
        tried.map(|(number, case)| {
            let bed = &bed;
            async move {
                bed.try_case(number, case).await.map_err(|error| format!("{} ({}): {error}", case.case, case.file))
            }
        });
    let answers: Vec<Result<(), String>> = stream::iter(answers).buffer_unordered(SIDE_BY_SIDE).collect().await;
    let failures: Vec<&String> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    bed.close().await;
    assert!(
        failures.is_empty(),
        "{} of {} cases differ:\n{}",
        failures.len(),
        answers.len(),
        failures.iter().map(|failure| failure.as_str()).collect::<Vec<_>>().join("\n")
    );
    assert!(answers.len() > 100, "only {} cases were tried", answers.len());
}

/// Clusters as in the suite `generated`, half of them spoilt: what is right passes the definition and the service, and what is wrong is refused,
/// by whichever of the two sees it, and is never a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_clusters_are_accepted_or_refused() {
    let Some(bed) = Bed::open().await else { return };
    let classes = StorageClasses { names: [specs::STORAGE_CLASS.to_owned()].into(), has_default: true };
    let around = Surroundings { storage_classes: Some(classes), nodes: None };
    let namespace = bed.namespace("generated", around).await;
    for mut template in specs::surroundings() {
        let metadata = json!({"name": template["metadata"]["name"], "namespace": namespace});
        template["metadata"] = metadata;
        bed.put(&template).await.unwrap();
    }
    let (count, seed) = GENERATED;
    let answers = (0..count).map(|number| {
        let (bed, namespace) = (&bed, &namespace);
        async move {
            let mut random = Random::new(seed, number);
            let (aliases, right) = (random.chance(25), random.chance(50));
            let mut cluster = specs::valid(&mut random, aliases);
            if !right {
                specs::spoil(&mut random, &mut cluster);
            }
            cluster["metadata"]["namespace"] = json!(namespace);
            let outcome = bed.server.create(&cluster, None, true).await;
            let refused = matches!(outcome.status, 400 | 403 | 413 | 422);
            if outcome.allowed() || (refused && !right) {
                Ok(())
            } else {
                Err(format!("number {number}, {cluster}: {outcome:?}"))
            }
        }
    });
    let answers: Vec<Result<(), String>> = stream::iter(answers).buffer_unordered(SIDE_BY_SIDE).collect().await;
    bed.close().await;
    let failures: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{} of {count} clusters:\n{}", failures.len(), failures.join("\n"));
}

/// One object of each kind that the operator writes.
fn children(namespace: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/tests/data/examples/e17-children.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap()).unwrap();
    let mut children = BTreeMap::new();
    for mut document in documents {
        document["metadata"]["namespace"] = json!(namespace);
        document.as_object_mut().unwrap().remove("status");
        let kind = document["kind"].as_str().unwrap().to_owned();
        if ["Cell", "Shard", "TableGroup", "TopoServer"].contains(&kind.as_str()) {
            children.entry(kind).or_insert(document);
        }
    }
    assert_eq!(children.len(), 4, "{:?}", children.keys());
    children.into_values().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_are_written_by_the_operator_alone() {
    let Some(bed) = Bed::open().await else { return };
    let namespace = bed.namespace("children", Surroundings::default()).await;
    let strangers = [None, Some("jane"), Some("system:serviceaccount:kube-system:default"), Some("system:admin")];
    let writers: Vec<&str> = WRITERS.into_iter().chain([CONTROLLER]).collect();
    for child in children(&namespace) {
        let kind = child["kind"].as_str().unwrap();
        let prefix = format!("admission webhook {:?} denied the request: {kind} ", webhook_name(endpoint(kind)));
        let refused = |outcome: &Outcome, what: &str| {
            let message = outcome.body["message"].as_str().unwrap_or_default();
            let right = outcome.status == 403 && message.starts_with(&prefix) && message.contains("MultigresCluster");
            assert!(right, "{what} of a {kind}: {outcome:?}");
        };
        let passed = |outcome: &Outcome, what: &str| assert!(outcome.allowed(), "{what} of a {kind}: {outcome:?}");
        let mut changed = child.clone();
        changed["metadata"]["labels"]["example.com/changed"] = json!("yes");

        for user in strangers {
            refused(&bed.server.create(&child, user, true).await, "creation");
        }
        for writer in &writers {
            passed(&bed.server.create(&child, Some(writer), true).await, "creation by a writer");
        }
        passed(&bed.server.create(&child, Some(CONTROLLER), false).await, "creation by the operator");
        for user in strangers {
            refused(&bed.server.replace(&changed, user, true).await, "change");
            passed(&bed.server.replace(&child, user, true).await, "no change");
            refused(&bed.server.delete(&child, user, true).await, "deletion");
            let path = format!("{}?dryRun=All", collection(&child));
            let call = Call { method: "DELETE", path, user, content_type: "application/json", body: Value::Null };
            refused(&bed.server.call(call).await, "deletion of all");
        }
        for writer in &writers {
            passed(&bed.server.replace(&changed, Some(writer), true).await, "change by a writer");
            passed(&bed.server.delete(&child, Some(writer), true).await, "deletion by a writer");
        }
        // What goes away anyway is never held up.
        let mut held = child.clone();
        held["metadata"]["finalizers"] = json!(["example.com/held"]);
        passed(&bed.server.replace(&held, Some(CONTROLLER), false).await, "change by the operator");
        passed(&bed.server.delete(&held, Some(CONTROLLER), false).await, "deletion by the operator");
        passed(&bed.server.replace(&child, Some("jane"), false).await, "release");
    }
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_is_not_scaled_by_hand() {
    let Some(bed) = Bed::open().await else { return };
    let namespace = bed.namespace("scale", Surroundings::default()).await;
    let shard = children(&namespace).into_iter().find(|child| child["kind"] == "Shard").unwrap();
    assert!(bed.server.create(&shard, Some(CONTROLLER), false).await.allowed());
    let scale = |user| Call {
        method: "PATCH",
        path: format!("{}/scale?dryRun=All", place(&shard)),
        user,
        content_type: "application/merge-patch+json",
        body: json!({"spec": {"replicas": 5}}),
    };
    let outcome = bed.server.call(scale(None)).await;
    let message = outcome.body["message"].as_str().unwrap_or_default();
    assert!(outcome.status == 403 && message.contains("the scale of Shard"), "{outcome:?}");
    let outcome = bed.server.call(scale(Some(CONTROLLER))).await;
    assert!(outcome.allowed(), "{outcome:?}");
    bed.close().await;
}

/// What a tool that applies at the server compares: what is stored, and what applying the same again would store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applying_a_sample_again_changes_nothing() {
    let Some(bed) = Bed::open().await else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples");
    let templates = [Vec::new(), of_ours(&folder.join("templates")), of_ours(&folder.join("default-templates"))];
    let mut clusters = of_ours(&folder);
    clusters.retain(|document| document["kind"] == "MultigresCluster");
    let mut seen = 0;
    for (number, cluster) in clusters.iter().enumerate() {
        // Those of the samples that use them: what is not referred to does no harm, but templates called "default" hold unasked.
        let with: &[usize] = if cluster["metadata"]["name"] == "minimal" { &[0, 2] } else { &[1] };
        for &set in with {
            // Samples may be shapes of one cluster.
            let namespace = bed.namespace(&format!("sample-{number}-{set}"), Surroundings::default()).await;
            for manifest in templates[set].iter().chain([cluster]) {
                let mut manifest = manifest.clone();
                manifest["metadata"]["namespace"] = json!(namespace);
                let what = format!("{} {}", manifest["kind"], manifest["metadata"]["name"]);
                let first = bed.server.apply(&manifest, false).await;
                assert!(first.allowed(), "{what}: {first:?}");
                let live = bed.server.get(&manifest).await;
                let again = bed.server.apply(&manifest, true).await;
                assert!(again.allowed(), "{what}: {again:?}");
                assert_eq!(compared(&again.body), compared(&live), "{what}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 8 + 6, "only {seen} samples were found");
    bed.close().await;
}

/// The documents of a folder that are of our kinds.
fn of_ours(folder: &Path) -> Vec<Value> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    paths.sort();
    let read = |path: &std::path::PathBuf| -> Vec<Value> {
        serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let mut documents: Vec<Value> = paths.iter().flat_map(read).collect();
    documents.retain(|document| document["apiVersion"] == "multigres.com/v1alpha1");
    documents
}

/// An object without what every write of it changes.
fn compared(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    object
}

/// `kubectl apply` of a template and its user in one go: the store has not heard of the template yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_follows_its_template_at_once() {
    let Some(bed) = Bed::open().await else { return };
    let namespace = bed.namespace("at-once", Surroundings::default()).await;
    for round in 0..20 {
        let (name, spec) = (format!("t{round}"), json!({"multigateway": {"replicas": 1}}));
        let template = object("CellTemplate", &namespace, &name, &spec);
        let spec = json!({"cells": [{"name": "a", "cellTemplate": name}]});
        let cluster = object("MultigresCluster", &namespace, &format!("c{round}"), &spec);
        let (created, used) =
            (bed.server.create(&template, None, false).await, bed.server.create(&cluster, None, false).await);
        assert!(created.allowed() && used.allowed(), "{created:?} {used:?}");
        // And the other way round: it cannot be deleted although the stores may not know of its user yet.
        let refused = bed.server.delete(&template, None, true).await;
        assert!(refused.is_from_webhook(), "{refused:?}");
    }
    bed.close().await;
}
