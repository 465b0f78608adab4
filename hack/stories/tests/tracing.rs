//! Traces of a whole cluster: from the request that makes it, over admission and the controller, to what is made of it.
//!
//! Spans are switched on and off by the chart, which restarts the operator.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::json;
use shared::{
    annotation::TRACEPARENT,
    api::v1alpha1::Cell,
    label::{self, Component},
};
use stories::{
    Bed, ClusterUnderTest, Spans, Tools,
    backup::{is_real, small},
    bed::is_left_out,
    spans::{ADMISSION, CONTROLLER, Span, environment, operator_exports, path},
    until, within,
};

/// Longer than exporters hold back what they have.
const HELD_BACK: Duration = Duration::from_secs(12);

/// The trace and the span that a request has left on the cluster.
async fn carried(cluster: &ClusterUnderTest) -> Result<(String, String)> {
    let stored = cluster.get().await?;
    let parent = stored.annotations().get(TRACEPARENT).context("the request left no trace on the cluster")?;
    let parts: Vec<&str> = parent.split('-').collect();
    ensure!(parts.len() == 4 && parts[3] == "01", "{parent}");
    Ok((parts[1].to_owned(), parts[2].to_owned()))
}

/// Someone among spans of this name has been reached from the request on this path.
fn reached(all: &[Span], name: &str, wanted: &[&str]) -> Result<()> {
    let found: Vec<Vec<&str>> = all.iter().filter(|span| span.name == name).map(|span| path(all, span)).collect();
    ensure!(found.iter().any(|path| path == wanted), "{name}: {wanted:?} is not among {found:#?}");
    Ok(())
}

/// A path from the request over the pass of the cluster, and these parts below its writes.
fn below(parts: &[&[&'static str]]) -> Vec<&'static str> {
    let parts = parts.iter().flat_map(|part| part.iter());
    ["Webhook.Default", "MultigresCluster.Reconcile", "Execute"].iter().chain(parts).copied().collect()
}

/// The request, the passes and the writes that follow from it are one trace, as far as it has arrived.
async fn is_one_trace(spans: &Spans, cluster: &ClusterUnderTest) -> Result<()> {
    let (trace, request) = carried(cluster).await?;
    let all = spans.of_trace(&trace);
    let review = all.iter().find(|span| span.id == request).context("the span of the request has not arrived")?;
    ensure!(review.name == "Webhook.Default" && review.service == ADMISSION, "{review:?}");
    let says = |key: &str| review.attributes.get(key).map(String::as_str).unwrap_or_default();
    ensure!(says("kind") == "MultigresCluster" && says("operation") == "Create", "{review:?}");
    ensure!(says("namespace") == cluster.namespace && says("name") == cluster.name, "{review:?}");
    let first = all.iter().find(|span| span.name == "MultigresCluster.Reconcile" && span.parent == request);
    let first = first.context("no pass of the cluster follows from the request")?;
    ensure!(first.service == CONTROLLER, "{first:?}");

    let group = ["apply TableGroup", "TableGroup.Reconcile", "Execute"];
    let shard = ["apply Shard", "Shard.Reconcile"];
    let expected = [
        ("apply Cell", below(&[&["apply Cell"]])),
        ("Cell.Reconcile", below(&[&["apply Cell", "Cell.Reconcile"]])),
        ("TopoServer.Reconcile", below(&[&["apply TopoServer", "TopoServer.Reconcile"]])),
        ("TableGroup.Reconcile", below(&[&group[..2]])),
        ("Shard.Reconcile", below(&[&group, &shard])),
        ("create Pod", below(&[&group, &shard, &["Execute", "create Pod"]])),
    ];
    for (name, wanted) in &expected {
        reached(&all, name, wanted)?;
    }
    let made = |span: &Span, key: &str| span.attributes.get(key).cloned().unwrap_or_default();
    let pods: Vec<String> = all.iter().filter(|it| it.name == "create Pod").map(|span| made(span, "name")).collect();
    for member in cluster.members().await? {
        ensure!(pods.contains(&member.pod), "{} was made outside of the trace, in which are {pods:?}", member.pod);
    }
    Ok(())
}

/// The data plane is told where its own spans go, and whose they are.
async fn data_plane_is_told(cluster: &ClusterUnderTest, endpoint: &str) -> Result<()> {
    let pods: Api<Pod> = cluster.namespaced();
    for (component, container) in [
        (Component::ShardPool, "multipooler"),
        (Component::Multigateway, "multigateway"),
        (Component::Multiorch, "multiorch"),
    ] {
        let labels = format!("{}={},{}={}", label::INSTANCE, cluster.name, label::COMPONENT, component.as_str());
        let all = pods.list(&ListParams::default().labels(&labels)).await?.items;
        ensure!(!all.is_empty(), "no pod of {}", component.as_str());
        for pod in all {
            let name = pod.name_any();
            let spec = pod.spec.unwrap_or_default();
            let container = spec.containers.iter().find(|it| it.name == container).with_context(|| name.clone())?;
            let told = environment(container);
            let says = |key: &str| told.get(key).copied().unwrap_or_default();
            ensure!(says("OTEL_EXPORTER_OTLP_ENDPOINT") == endpoint, "{name}: {told:?}");
            ensure!(says("OTEL_EXPORTER_OTLP_PROTOCOL") == "http/protobuf", "{name}: {told:?}");
            ensure!(says("OTEL_TRACES_SAMPLER") == "always_on", "{name}: {told:?}");
            let whose = format!("multigres.cluster={}", cluster.name);
            ensure!(says("OTEL_RESOURCE_ATTRIBUTES").split(',').any(|it| it == whose), "{name}: {told:?}");
        }
    }
    Ok(())
}

/// A change of the cluster's spec, carried out.
async fn change(cluster: &ClusterUnderTest, level: &str) -> Result<()> {
    let patch = json!([{"op": "add", "path": "/spec/logLevels", "value": {"multigateway": level}}]);
    cluster.patch(&patch.to_string()).await?;
    let cells: Api<Cell> = cluster.namespaced();
    until("the change in the Cell", within(60), || async {
        let cells = cells.list(&cluster.mine()).await?.items;
        let levels: Vec<String> =
            cells.iter().filter_map(|cell| Some(cell.spec.log_levels.as_ref()?.multigateway?.to_string())).collect();
        ensure!(levels == [level], "{levels:?}");
        Ok(())
    })
    .await?;
    cluster.healthy(180).await.map(drop)
}

async fn traced(bed: &Bed, tools: &Tools, spans: &Spans) -> Result<()> {
    let namespace = bed.namespace("tracing").await?;
    tools.upgrade(&[&format!("tracing.endpoint={}", spans.endpoint)]).await?;
    operator_exports(bed, true).await?;
    let observability = json!({
        "otlpEndpoint": spans.endpoint, "otlpProtocol": "http/protobuf", "tracesExporter": "otlp",
        "metricsExporter": "none", "logsExporter": "none", "tracesSampler": "always_on",
    });
    let manifest = small("traced", 2, &json!({"observability": observability}));
    let cluster = ClusterUnderTest::apply_value(bed, &namespace, &manifest).await?;
    cluster.healthy(300).await?;
    until("one trace from the request to the pods", within(60), || is_one_trace(spans, &cluster)).await?;
    data_plane_is_told(&cluster, &spans.endpoint).await?;
    let (first, _) = carried(&cluster).await?;

    // Another spec is another trace.
    change(&cluster, "debug").await?;
    let (second, request) = carried(&cluster).await?;
    ensure!(second != first, "the change has the trace of the creation");
    let wanted = below(&[&["apply Cell", "Cell.Reconcile"]]);
    until("one trace from the change to the cell", within(60), || async {
        let all = spans.of_trace(&second);
        ensure!(all.iter().any(|span| span.id == request && span.name == "Webhook.Default"), "{all:#?}");
        reached(&all, "Cell.Reconcile", &wanted)
    })
    .await?;
    let theirs: BTreeMap<String, usize> =
        spans.all().into_iter().filter(|span| !span.is_ours()).fold(BTreeMap::new(), |mut counts, span| {
            *counts.entry(span.service).or_default() += 1;
            counts
        });
    eprintln!("story tracing: {} spans of the operator, of others {theirs:?}", spans.ours());
    ensure!(is_real() || theirs.is_empty(), "the stand-in exports nothing, and yet there are {theirs:?}");

    // Off again: the same work leaves no trace.
    tools.upgrade(&["tracing.endpoint="]).await?;
    operator_exports(bed, false).await?;
    let before = spans.ours();
    change(&cluster, "info").await?;
    let (last, _) = carried(&cluster).await?;
    ensure!(last == second, "a request that nobody records has left the trace {last}");
    // Nothing tells that something will not come but the time in which it would have.
    tokio::time::sleep(HELD_BACK).await;
    ensure!(spans.ours() == before, "{} spans have come from an operator without tracing", spans.ours() - before);
    cluster.delete(240).await?;
    bed.remove_namespace(&namespace).await
}

#[tokio::test]
async fn a_request_and_all_that_follows_from_it_are_one_trace_until_tracing_is_off() -> Result<()> {
    if is_left_out("this story restarts the operator twice") {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let tools = Tools::from_env()?;
    let spans = Spans::receive(&bed, env!("CARGO_BIN_EXE_spans")).await?;
    let revision = tools.revision().await?;
    let outcome = traced(&bed, &tools, &spans).await;
    // Back, also when something went wrong: other stories come after this one.
    let back = async {
        tools.rollback(revision).await?;
        operator_exports(&bed, false).await
    };
    let back = back.await;
    outcome?;
    back
}
