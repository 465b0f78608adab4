//! The real controller against a real API server and a collector in this process: what follows from a request is one trace, and
//! recording it costs no write.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`.

use std::{collections::BTreeMap, time::Duration};

use super::bed::{Bed, DEADLINE, eventually, minimal};
use super::receiver::{Received, Receiver, named};
use serde_json::{Value, json};
use shared::{
    annotation::{TRACEPARENT, TRACEPARENT_TIMESTAMP},
    telemetry::{self, Service, Settings, Tracing},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
/// Longer than the controller may hold back a status that tells nothing new.
const STATUS_PACE: Duration = Duration::from_secs(17);
/// The kinds of ours below a cluster.
const CHILDREN: [&str; 4] = ["Cell", "TableGroup", "Shard", "TopoServer"];

/// The names of the spans around a span, from the outermost on; ends at the span of the request.
fn path(all: &[Received], span: &Received) -> Vec<String> {
    let by_id: BTreeMap<String, &Received> = all.iter().map(|one| (one.id(), one)).collect();
    let mut names = vec![span.span.name.clone()];
    let mut parent = span.parent();
    while let Some(one) = by_id.get(&parent) {
        names.push(one.span.name.clone());
        parent = one.parent();
    }
    names.push(parent);
    names.reverse();
    names
}

async fn annotations(bed: &Bed, kind: &str) -> Value {
    let objects = bed.objects().await;
    let object = objects.values().find(|object| object["kind"] == kind).cloned().unwrap_or_default();
    object["metadata"]["annotations"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_and_all_that_follows_from_it_are_one_trace() {
    let Some(bed) = Bed::open().await else { return };
    let collector = Receiver::grpc().await;
    let endpoint = format!("http://{}", collector.address);
    let lookup = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.clone()),
        "OTEL_EXPORTER_OTLP_PROTOCOL" => Some("grpc".to_owned()),
        _ => None,
    };
    let service = Service { name: "multigres-operator", version: "0" };
    let telemetry = telemetry::init(&Settings::preset(false), service, &Tracing::of(lookup)).unwrap();

    bed.create_cluster("minimal", &minimal()).await;
    // As the webhook leaves it.
    let at = jiff::Timestamp::now().as_second().to_string();
    let carried = json!({TRACEPARENT: format!("00-{TRACE}-{SPAN}-01"), TRACEPARENT_TIMESTAMP: at});
    bed.edit("MultigresCluster/minimal", json!({"metadata": {"annotations": carried}})).await;
    let controller = bed.start().await;
    let joined = |all: &[Received]| {
        CHILDREN.iter().all(|kind| named(all, &format!("{kind}.Reconcile")).iter().any(|one| one.trace() == TRACE))
    };
    let all = collector.until("passes of all kinds are in the trace", DEADLINE, joined).await;

    let pass = named(&all, "MultigresCluster.Reconcile")[0];
    assert_eq!((pass.trace().as_str(), pass.parent().as_str()), (TRACE, SPAN));
    assert_eq!(pass.attribute("k8s.resource.kind").as_deref(), Some("MultigresCluster"));
    assert_eq!(pass.attribute("k8s.resource.name").as_deref(), Some("minimal"));
    assert_eq!(pass.attribute("k8s.namespace").as_deref(), Some(bed.namespace.as_str()));
    let within = |name: &str| all.iter().any(|one| one.span.name == name && one.parent() == pass.id());
    for part in ["Observe", "Decide", "Execute"] {
        assert!(within(part), "{part}: {:?}", all.iter().map(|one| &one.span.name).collect::<Vec<_>>());
    }
    let root = ["MultigresCluster.Reconcile", "Execute"];
    let expected = [
        ("apply Cell", &root[..], vec!["apply Cell"]),
        ("Cell.Reconcile", &root[..], vec!["apply Cell", "Cell.Reconcile"]),
        ("TableGroup.Reconcile", &root[..], vec!["apply TableGroup", "TableGroup.Reconcile"]),
        ("TopoServer.Reconcile", &root[..], vec!["apply TopoServer", "TopoServer.Reconcile"]),
        (
            "Shard.Reconcile",
            &root[..],
            vec!["apply TableGroup", "TableGroup.Reconcile", "Execute", "apply Shard", "Shard.Reconcile"],
        ),
    ];
    for (name, above, below) in expected {
        let wanted: Vec<String> = [SPAN].iter().chain(above).chain(&below).map(|&name| name.to_owned()).collect();
        let found: Vec<_> = named(&all, name).into_iter().map(|one| path(&all, one)).collect();
        assert!(found.contains(&wanted), "{name}: {wanted:?} is not among {found:#?}");
    }
    let apply = named(&all, "apply Cell")[0];
    assert_eq!(apply.attribute("verb").as_deref(), Some("apply"));
    assert_eq!(apply.attribute("kind").as_deref(), Some("Cell"));
    assert!(apply.attribute("name").is_some_and(|name| name.starts_with("minimal-")));

    // Nothing is written for the trace's sake: neither by this controller once it rests, nor by the next.
    controller.quiet(STATUS_PACE).await;
    let left = annotations(&bed, "Cell").await;
    assert!(left[TRACEPARENT].as_str().is_some_and(|parent| parent.contains(TRACE)), "{left}");
    controller.stop().await;
    let second = bed.start().await;
    eventually(DEADLINE, async || {
        let passes = CHILDREN.map(|kind| second.passes(&kind.to_lowercase()));
        if passes.iter().all(|passes| *passes > 0) { Ok(()) } else { Err(format!("{passes:?}")) }
    })
    .await;
    second.quiet(Duration::from_secs(2)).await;
    assert_eq!(second.wire.writes(), Vec::<String>::new());
    assert_eq!(annotations(&bed, "Cell").await, left);
    second.stop().await;
    bed.close().await;
    tokio::task::spawn_blocking(move || telemetry.finish()).await.unwrap();
}
