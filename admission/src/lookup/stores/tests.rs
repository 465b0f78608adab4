use std::{convert::Infallible, time::Duration};

use futures::{StreamExt as _, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use serde_json::{Value, json};
use shared::metrics::{Build, Metrics};

use super::*;

/// What the API server answers: lists by plural name, and events that follow them.
#[derive(Clone, Default)]
struct Server {
    lists: BTreeMap<&'static str, Value>,
    events: BTreeMap<&'static str, Vec<Value>>,
    forbidden: BTreeSet<&'static str>,
    down: Arc<AtomicBool>,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn answer(&self, request: &Request<Body>) -> Response<Either<Full<Bytes>, Events>> {
        let path = request.uri().path().to_owned();
        let plural = path.rsplit('/').next().unwrap_or_default();
        locked(&self.paths).push(path.clone());
        if self.down.load(Ordering::Relaxed) {
            return failure(StatusCode::INTERNAL_SERVER_ERROR);
        }
        if self.forbidden.contains(plural) {
            return failure(StatusCode::FORBIDDEN);
        }
        if request.uri().query().unwrap_or_default().contains("watch=") {
            let events = self.events.get(plural).cloned().unwrap_or_default();
            // The type comes first, as API servers have it.
            let line = |event: Value| format!("{{\"type\":{},\"object\":{}}}\n", event["type"], event["object"]);
            let lines = events.into_iter().map(|event| Ok(Frame::data(Bytes::from(line(event)))));
            let events: Events =
                StreamBody::new(Box::pin(stream::iter(lines.collect::<Vec<_>>()).chain(stream::pending())));
            return Response::new(Either::Right(events));
        }
        let items = self.lists.get(plural).cloned().unwrap_or_else(|| json!([]));
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items});
        Response::new(Either::Left(Full::from(list.to_string())))
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            std::future::ready(Ok::<_, Infallible>(server.answer(&request)))
        });
        Client::new(service, "default")
    }

    fn start(&self, namespaces: &[&str]) -> (Arc<Stores>, Readiness, CancellationToken, JoinHandle<()>) {
        let (readiness, token) = (Readiness::default(), CancellationToken::new());
        let settings = Settings {
            namespaces: namespaces.iter().map(ToString::to_string).collect(),
            zone_id_label: "zone-id".to_owned(),
        };
        let watches = Watches::new(&Metrics::new(Build { version: "1", revision: "a" }).unwrap()).unwrap();
        let (stores, task) = Stores::start(self.client(), token.clone(), &readiness, settings, &watches);
        (stores, readiness, token, task)
    }
}

type Events = StreamBody<std::pin::Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

fn failure(status: StatusCode) -> Response<Either<Full<Bytes>, Events>> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "Forbidden", "code": status.as_u16()});
    Response::builder().status(status).body(Either::Left(Full::from(body.to_string()))).unwrap()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "multigres.com/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "prod", "resourceVersion": "1"}, "spec": spec})
}

fn node(name: &str, zone: &str) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name, "resourceVersion": "1", "labels": {
        ZONE_LABEL: zone, "zone-id": "az1", "kubernetes.io/hostname": name,
    }}})
}

fn class(name: &str, default: &str) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": name, "resourceVersion": "1", "annotations": {
        "storageclass.kubernetes.io/is-default-class": default,
    }}})
}

fn full() -> Server {
    let mut deleting = object("MultigresCluster", "going", &json!({}));
    deleting["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    Server {
        lists: BTreeMap::from([
            ("coretemplates", json!([object("CoreTemplate", "core", &json!({"multiadmin": {"replicas": 2}}))])),
            (
                "celltemplates",
                json!([object("CellTemplate", "cell", &json!({})), object("CellTemplate", "odd", &json!("?"))]),
            ),
            ("multigresclusters", json!([object("MultigresCluster", "demo", &json!({})), deleting])),
            ("storageclasses", json!([class("fast", "false"), class("slow", "true")])),
            ("nodes", json!([node("n1", "a"), node("n2", "b")])),
        ]),
        ..Server::default()
    }
}

#[tokio::test]
async fn complete_stores_know_everything_that_is_asked_for() {
    let (stores, readiness, token, task) = full().start(&[]);
    until("the stores are complete", || readiness.missing().is_empty()).await;
    let templates = stores.templates("prod").unwrap();
    assert_eq!(templates.core["core"].multiadmin.as_ref().unwrap().replicas, Some(2));
    assert_eq!(templates.cell.keys().collect::<Vec<_>>(), ["cell"]);
    assert!(Arc::ptr_eq(&templates, &stores.templates("prod").unwrap()));
    assert_eq!(*stores.templates("other").unwrap(), Templates::default());
    let names: Vec<_> = stores.clusters("prod").unwrap().iter().map(|cluster| cluster.name.clone()).collect();
    assert_eq!(names, ["demo"]);
    let set = |values: &[&str]| values.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let around = stores.surroundings();
    assert_eq!(around.storage_classes, Some(StorageClasses { names: set(&["fast", "slow"]), has_default: true }));
    let labels = BTreeMap::from([
        (ZONE_LABEL.to_owned(), set(&["a", "b"])),
        (REGION_LABEL.to_owned(), set(&[])),
        ("zone-id".to_owned(), set(&["az1"])),
    ]);
    assert_eq!(around.nodes, Some(NodeLabels(labels)));
    token.cancel();
    tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn stores_follow_what_happens() {
    let mut going = object("MultigresCluster", "demo", &json!({}));
    going["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    let server = Server {
        events: BTreeMap::from([
            ("coretemplates", vec![json!({"type": "DELETED", "object": object("CoreTemplate", "core", &json!({}))})]),
            ("shardtemplates", vec![json!({"type": "ADDED", "object": object("ShardTemplate", "shard", &json!({}))})]),
            ("multigresclusters", vec![json!({"type": "MODIFIED", "object": going})]),
            ("storageclasses", vec![json!({"type": "MODIFIED", "object": class("slow", "false")})]),
            ("nodes", vec![json!({"type": "DELETED", "object": node("n2", "b")})]),
        ]),
        ..full()
    };
    let (stores, readiness, _token, _task) = server.start(&[]);
    until("the stores are complete", || readiness.missing().is_empty()).await;
    until("templates change", || {
        let templates = stores.templates("prod").unwrap();
        templates.core.is_empty() && templates.shard.contains_key("shard")
    })
    .await;
    until("the cluster goes", || stores.clusters("prod").unwrap().is_empty()).await;
    until("the default class goes", || !stores.surroundings().storage_classes.as_ref().unwrap().has_default).await;
    until("the node goes", || stores.surroundings().nodes.as_ref().unwrap().0[ZONE_LABEL].len() == 1).await;
}

#[tokio::test]
async fn what_may_not_be_read_is_unknown_and_holds_nothing_up() {
    let server = Server { forbidden: BTreeSet::from(["nodes", "storageclasses"]), ..full() };
    let (stores, readiness, _token, _task) = server.start(&["prod", "test"]);
    until("the stores are complete", || readiness.missing().is_empty()).await;
    assert_eq!(*stores.surroundings(), Surroundings::default());
    assert!(stores.storage_classes_live().await.unwrap().is_none());
    assert!(stores.watches("prod") && !stores.watches("other"));
    let paths = locked(&server.paths).clone();
    assert!(paths.contains(&"/apis/multigres.com/v1alpha1/namespaces/test/shardtemplates".to_owned()), "{paths:?}");
    assert!(!paths.contains(&"/apis/multigres.com/v1alpha1/shardtemplates".to_owned()), "{paths:?}");
}

#[tokio::test]
async fn stores_of_several_namespaces_do_not_empty_each_other() {
    let server = Server { lists: BTreeMap::new(), ..Server::default() };
    let (stores, _readiness, _token, _task) = server.start(&["prod", "test"]);
    let template = |namespace: &str| {
        let mut template = CoreTemplate::new("core", shared::api::v1alpha1::CoreTemplateSpec::default());
        template.metadata.namespace = Some(namespace.to_owned());
        template
    };
    for namespace in ["prod", "test"] {
        TemplateSink::new(Arc::clone(&stores), Some(namespace.to_owned())).replace(vec![template(namespace)]);
    }
    Sink::<CoreTemplate>::replace(&mut TemplateSink::new(Arc::clone(&stores), Some("test".to_owned())), Vec::new());
    assert_eq!(read(&stores.templates).keys().collect::<Vec<_>>(), ["prod"]);
}

#[tokio::test]
async fn incomplete_stores_say_so_instead_of_guessing() {
    let server = Server { forbidden: BTreeSet::from(["shardtemplates"]), ..full() };
    let (stores, readiness, _token, _task) = server.start(&[]);
    until("the nodes are known", || stores.surroundings().nodes.is_some()).await;
    assert!(matches!(stores.templates("prod"), Err(LookupError::Incomplete)));
    assert!(matches!(stores.clusters("prod"), Err(LookupError::Incomplete)));
    assert_eq!(readiness.missing(), ["stores"]);
}

#[tokio::test]
async fn live_reads_see_what_the_stores_do_not() {
    let server = full();
    let (stores, _readiness, _token, _task) = server.start(&[]);
    assert_eq!(stores.templates_live("prod").await.unwrap().core.len(), 1);
    assert_eq!(stores.clusters_live("prod").await.unwrap().len(), 1);
    assert!(stores.storage_classes_live().await.unwrap().unwrap().has_default);
    server.down.store(true, Ordering::Relaxed);
    let error = stores.clusters_live("prod").await.unwrap_err().to_string();
    assert!(error.starts_with(r#"cannot read multigresclusters of namespace "prod": "#), "{error}");
    assert!(stores.storage_classes_live().await.is_err());
}

#[tokio::test]
async fn a_burst_of_live_reads_does_not_hammer_the_api_server() {
    let server = full();
    let (stores, _readiness, _token, _task) = server.start(&[]);
    let reads = || async {
        let (templates, clusters, classes) =
            tokio::join!(stores.templates_live("prod"), stores.clusters_live("prod"), stores.storage_classes_live());
        (templates.unwrap().core.len(), clusters.unwrap().len(), classes.unwrap().is_some())
    };
    let found = futures::future::join_all((0..100).map(|_| reads())).await;
    assert!(found.iter().all(|found| *found == (1, 1, true)), "{found:?}");
    let paths = locked(&server.paths).clone();
    for plural in ["coretemplates", "celltemplates", "shardtemplates", "multigresclusters"] {
        let path = format!("/apis/multigres.com/v1alpha1/namespaces/prod/{plural}");
        let lists = paths.iter().filter(|seen| **seen == path).count();
        assert!((1..=2).contains(&lists), "{lists} of {plural}: {paths:?}");
    }
}
