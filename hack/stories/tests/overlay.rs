//! The evaluation stack beside the operator, as `install-observability.yaml` has it: the Prometheus Operator, Prometheus and a collector that
//! are the real ones, with the manifests and the values that users apply.
//!
//! Tempo is stood in for, and Grafana is not there: what it is given is looked at where it lies.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use shared::annotation::TRACEPARENT;
use stories::{
    Bed, ClusterUnderTest, Overlay, Spans, Tools,
    backup::is_real,
    bed::{OPERATOR_NAMESPACE, is_left_out},
    lesson, overlay,
    prometheus::{Server, Target},
    spans::{ADMISSION, CONTROLLER, operator_exports},
    until, within,
};

/// The pods of the operator, by the end of the names of their metrics' Services.
const PROGRAMS: [(&str, usize); 2] = [("controller-manager-metrics-service", 1), ("admission-metrics-service", 2)];
/// What the monitor of the managed etcds is called among the targets.
const ETCD: &str = "multigres-operator/multigres-operator-etcd";
/// Members of the etcd of the smallest cluster.
const MEMBERS: usize = 3;
/// What the story pushes, and as which series it is found.
const PUSHED: (&str, &str) = ("story.pushed", "story_pushed");
/// An attribute that nobody asked to make a label of.
const KEPT_BACK: &str = "host.name";

/// Whether a target has this label.
fn has(target: &Target, label: &str, value: &str) -> bool {
    target.labels.get(label).is_some_and(|found| found == value)
}

/// All programs of the operator are scraped by HTTPS, and all exporters of the cluster, and each of them answers.
async fn all_are_scraped(server: &Server, cluster: &ClusterUnderTest) -> Result<()> {
    let targets = server.targets().await?;
    let told: Vec<String> = targets.iter().map(|it| format!("{} {} {}", it.url, it.health, it.error)).collect();
    for (service, pods) in PROGRAMS {
        let job = |target: &&Target| target.labels.get("job").is_some_and(|job| job.ends_with(service));
        let found: Vec<&Target> = targets.iter().filter(job).collect();
        ensure!(found.len() == pods, "{} targets of {service} in {told:#?}", found.len());
        ensure!(found.iter().all(|it| it.health == "up" && it.url.starts_with("https://")), "{told:#?}");
    }
    let mine = |target: &&Target| {
        has(target, "namespace", &cluster.namespace) && has(target, "cluster", &cluster.name) && target.health == "up"
    };
    let etcds = targets.iter().filter(mine).filter(|target| has(target, "job", ETCD)).count();
    ensure!(etcds == MEMBERS, "{etcds} members of the etcd in {told:#?}");
    let pools = targets.iter().filter(mine).filter(|target| target.labels.contains_key("pool"));
    let pods: BTreeSet<&str> = pools.filter_map(|target| target.labels.get("pod")).map(String::as_str).collect();
    for member in cluster.members().await? {
        ensure!(pods.contains(member.pod.as_str()), "nobody asks {} in {told:#?}", member.pod);
    }
    Ok(())
}

/// What is pushed to the collector is a series of Prometheus, with the attributes that are promoted, and no others.
async fn pushed_series_arrive(bed: &Bed, server: &Server) -> Result<()> {
    let promoted = overlay::promoted()?;
    ensure!(promoted.iter().any(|attribute| attribute == "multigres.cluster"), "{promoted:?}");
    let attributes: Vec<(String, String)> = promoted
        .iter()
        .map(String::as_str)
        .chain(["service.name", KEPT_BACK])
        .map(|attribute| (attribute.to_owned(), format!("the {attribute}")))
        .collect();
    overlay::push(&bed.client, PUSHED.0, 7.0, &attributes).await?;
    let found = server.holds(&format!("{} == 7", PUSHED.1), 120).await?;
    let labels: &BTreeMap<String, String> = &found.first().context("a sample")?.labels;
    let label = |attribute: &str| labels.get(&attribute.replace('.', "_")).map(String::as_str);
    for attribute in &promoted {
        ensure!(label(attribute) == Some(format!("the {attribute}").as_str()), "{attribute} is not in {labels:?}");
    }
    ensure!(label(KEPT_BACK).is_none(), "{KEPT_BACK} is in {labels:?}");
    Ok(())
}

/// The spans of the request that has made the cluster, and of what follows from it, have come through the collector.
async fn spans_arrive(spans: &Spans, cluster: &ClusterUnderTest) -> Result<()> {
    let stored = cluster.get().await?;
    let parent = stored.annotations().get(TRACEPARENT).context("the request left no trace on the cluster")?;
    let trace = parent.split('-').nth(1).with_context(|| parent.clone())?;
    let all = spans.of_trace(trace);
    for (service, name) in
        [(ADMISSION, "Webhook.Default"), (CONTROLLER, "MultigresCluster.Reconcile"), (CONTROLLER, "create Pod")]
    {
        let arrived = all.iter().any(|span| span.service == service && span.name == name);
        ensure!(arrived, "no {name} of {service} among {} spans", all.len());
    }
    Ok(())
}

/// What Grafana would show is there.
async fn dashboards_are_there(bed: &Bed) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(bed.client.clone(), OPERATOR_NAMESPACE);
    for name in overlay::dashboards()? {
        let data = maps.get(&name).await?.data.unwrap_or_default();
        ensure!(!data.is_empty(), "{name} is empty");
        for (file, text) in data {
            let dashboard: Value = serde_json::from_str(&text).with_context(|| format!("{file} of {name}"))?;
            ensure!(dashboard["title"].is_string(), "{file} of {name} has no title");
        }
    }
    Ok(())
}

async fn shown(bed: &Bed, tools: &Tools, stack: &Overlay, spans: &Spans) -> Result<()> {
    // In the order in which users do it.
    stack.install_operator().await?;
    tools.upgrade_from(&overlay::values()).await?;
    stack.install().await?;
    operator_exports(bed, true).await?;
    dashboards_are_there(bed).await?;
    let server = stack.prometheus(bed).await?;
    until("an answer of Prometheus", within(120), || server.query("vector(1)")).await?;

    let namespace = bed.namespace("overlay").await?;
    let cluster = ClusterUnderTest::apply(bed, &namespace, &lesson::root().join("samples/minimal.yaml")).await?;
    cluster.healthy(300).await?;
    until("spans at Tempo's Service", within(120), || spans_arrive(spans, &cluster)).await?;
    pushed_series_arrive(bed, &server).await?;
    until("targets that answer", within(240), || all_are_scraped(&server, &cluster)).await?;
    for service in PROGRAMS.map(|(service, _)| service) {
        server.holds(&format!(r#"multigres_operator_build_info{{job=~".*{service}"}}"#), 120).await?;
    }
    let of_cluster = format!(r#"namespace="{namespace}", cluster="{}""#, cluster.name);
    server.holds(&format!("etcd_server_has_leader{{{of_cluster}}} == 1"), 120).await?;
    if is_real() {
        // Its programs push once a minute.
        let selector = format!(r#"{{multigres_cluster="{}", multigres_component!=""}}"#, cluster.name);
        server.holds(&format!("count by (multigres_component) ({selector})"), 240).await?;
    }
    let rules = server.rules_work(120).await?;
    let files = std::fs::read_dir(lesson::root().join("monitoring/rules")).context("listing the alerts")?.count();
    ensure!(rules == files, "Prometheus evaluates {rules} alerts, and there are {files}");
    cluster.delete(240).await?;
    bed.remove_namespace(&namespace).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_evaluation_stack_gets_what_the_operator_and_a_cluster_tell() -> Result<()> {
    if is_left_out("this story restarts the operator twice and has minutes of programs to build") {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let tools = Tools::from_env()?;
    let spans = Spans::receive(&bed, env!("CARGO_BIN_EXE_spans")).await?;
    let stack = Overlay::prepare(&tools, &spans.endpoint).await?;
    let revision = tools.revision().await?;
    let outcome = shown(&bed, &tools, &stack, &spans).await;
    if outcome.is_err() {
        stack.show().await;
    }
    // Back, also when something went wrong: other stories come after this one. The release goes first, because its monitors are of kinds
    // that go with the stack.
    let release = async {
        tools.rollback(revision).await?;
        operator_exports(&bed, false).await
    };
    let release = release.await;
    let removed = stack.remove().await;
    outcome?;
    release?;
    removed
}
