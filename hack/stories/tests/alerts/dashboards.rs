//! Every query of the dashboards returns data.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use shared::{api::v1alpha1::MultigresCluster, name};
use stories::{
    Backups, ClusterUnderTest, Prometheus,
    backup::{is_real, small},
    probe::Probe,
    prometheus::dashboard::{self, Dashboard, Query},
    until, within,
};

use super::Story;

const NO_DATABASE: &str = "the exporter of the beds has no database to ask";
const NO_SIZES: &str = "volumes of the beds are directories of the host, which kubelets do not measure";
/// Queries that are empty on every bed: dashboard, panel, letter, and why.
const EMPTY: [(&str, &str, &str, &str); 7] = [
    ("data-plane", "Connections", "A", NO_DATABASE),
    ("data-plane", "Connections", "B", NO_DATABASE),
    ("data-plane", "Replication lag", "A", NO_DATABASE),
    ("data-plane", "Size of the databases", "A", NO_DATABASE),
    ("data-plane", "Size of the WAL", "A", NO_DATABASE),
    ("data-plane", "Standbys that stream", "A", NO_DATABASE),
    ("data-plane", "Space left", "A", NO_SIZES),
];
/// How rows end whose series are pushed by OTLP: the real data plane does so, the stand-in has none.
const PUSHED: &str = "(OTLP)";
/// Of these, queries that may be empty: dashboard, panel, letter, and why.
const RARE: [(&str, &str, &str, &str); 2] = [
    (
        "data-plane",
        "Requests held during a failover",
        "B",
        "requests are given up only where a failover outlasts their time",
    ),
    ("data-plane", "Detected problems", "A", "a problem may be solved before it is told of"),
];
/// Members of the cluster whose programs push.
const MEMBERS: u32 = 3;
/// Those of them that are no primary.
const STANDBYS: usize = 2;
/// Primaries that it loses: the second loss makes rates of what the first one has begun.
const LOSSES: usize = 2;

/// Asks everything that the dashboards ask about one cluster; answers what is asked and whether there is anything.
async fn asked(
    prometheus: &Prometheus,
    dashboards: &[Dashboard],
    fixed: &[(&str, &str)],
) -> Result<Vec<(String, Query, bool)>> {
    let mut all = Vec::new();
    for dashboard in dashboards {
        let values = dashboard.values(prometheus, fixed).await?;
        for query in &dashboard.queries {
            let samples = prometheus.query(&query.filled(&values)?).await?;
            let has_data = samples.iter().any(|sample| !sample.value.is_nan());
            all.push((dashboard.name.clone(), query.clone(), has_data));
        }
    }
    Ok(all)
}

/// Why a query returns nothing on a bed, if it does by nature.
fn empty_by_nature(dashboard: &str, query: &Query) -> Option<&'static str> {
    if query.row.ends_with(PUSHED) && !is_real() {
        return Some("the stand-in data plane pushes nothing");
    }
    named(&EMPTY, dashboard, query)
}

/// What a list says about a query.
fn named(list: &[(&str, &str, &str, &'static str)], dashboard: &str, query: &Query) -> Option<&'static str> {
    let listed =
        list.iter().find(|(of, panel, letter, _)| *of == dashboard && *panel == query.panel && *letter == query.letter);
    listed.map(|(_, _, _, why)| *why)
}

/// Dashboard, panel, and letter of a query.
type Place = (String, String, String);

/// What the dashboards ask, and whether there has been an answer since somebody looks. Not all that can be told of happens at the same time.
struct Shown<'a> {
    prometheus: &'a Prometheus,
    dashboards: &'a [Dashboard],
    fixed: [(&'a str, &'a str); 2],
    answered: Mutex<BTreeMap<Place, (Query, bool)>>,
}

impl Shown<'_> {
    async fn look(&self) -> Result<()> {
        let all = asked(self.prometheus, self.dashboards, &self.fixed).await?;
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        for (dashboard, query, has_data) in all {
            let key = (dashboard, query.panel.clone(), query.letter.clone());
            answered.entry(key).or_insert((query, false)).1 |= has_data;
        }
        Ok(())
    }

    /// All queries, with the dashboard and whether there has been an answer.
    fn all(&self) -> Vec<(String, Query, bool)> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered
            .iter()
            .map(|((dashboard, ..), (query, has_data))| (dashboard.clone(), query.clone(), *has_data))
            .collect()
    }

    /// Nothing that should have been answered was not.
    fn complete(&self) -> Result<()> {
        let all = self.all();
        let excused = |dashboard: &str, query: &Query| {
            empty_by_nature(dashboard, query).is_some() || named(&RARE, dashboard, query).is_some()
        };
        let missing: Vec<String> = all
            .iter()
            .filter(|(dashboard, query, has_data)| !has_data && !excused(dashboard, query))
            .map(|(dashboard, query, _)| format!("{dashboard}: {} {}: {}", query.panel, query.letter, query.expression))
            .collect();
        ensure!(missing.is_empty(), "{} of {} return nothing:\n{}", missing.len(), all.len(), missing.join("\n"));
        Ok(())
    }
}

/// A small cluster that is well. The programs of the real data plane push to the server, often enough for a story, and gateways hold
/// requests while there is no primary.
async fn telling(story: &Story, namespace: &str) -> Result<ClusterUnderTest> {
    if !is_real() {
        return story.minimal(namespace).await;
    }
    let little = json!({"requests": {"cpu": "10m", "memory": "32Mi"}});
    let change = json!({
        "observability": {
            "otlpEndpoint": story.prometheus.otlp(), "otlpProtocol": "http/protobuf", "metricsExporter": "otlp",
            "tracesExporter": "none", "logsExporter": "none", "metricExportInterval": "1000",
        },
        "cells": [{
            "name": "zone-a", "spec": {"multigateway": {"resources": little, "buffer": {"enabled": true}}},
        }],
    });
    let cluster = ClusterUnderTest::apply_value(&story.bed, namespace, &small("minimal", MEMBERS, &change)).await?;
    cluster.healthy(420).await?;
    Ok(cluster)
}

/// Work through the gateway, a statement that fails, and lost primaries, so that the programs of the real data plane have something to tell of.
async fn troubled(cluster: &ClusterUnderTest, shown: &Shown<'_>) -> Result<()> {
    let secrets: Api<Secret> = cluster.namespaced();
    let secret = secrets.get(&name::postgres_password(&cluster.name)).await?;
    let password = secret.data.unwrap_or_default().remove("password").context("a password")?;
    let host = format!("{}.{}.svc.cluster.local", name::cluster_gateway(&cluster.name), cluster.namespace);
    let probe = Probe::start(env!("CARGO_BIN_EXE_write_probe"), &host, std::str::from_utf8(&password.0)?)?;
    let refused = Backups::of(cluster).sql(env!("CARGO_BIN_EXE_sql"), &["SELECT 1/0"]).await;
    ensure!(refused.is_err(), "a division by zero has the result {refused:?}");
    let pods: Api<Pod> = cluster.namespaced();
    for _ in 0..LOSSES {
        let lost = cluster.primary().await?;
        pods.delete(&lost, &DeleteParams::default().grace_period(0)).await.context("deleting the primary")?;
        until("another primary", within(240), || async {
            let primary = cluster.shard().await?.status.unwrap_or_default().primary;
            ensure!(primary.as_ref().is_some_and(|pod| *pod != lost), "{primary:?}");
            Ok(())
        })
        .await?;
        shown.look().await?;
        cluster.roles(STANDBYS, 300).await?;
        cluster.healthy(300).await?;
        shown.look().await?;
    }
    if let Some(probe) = probe {
        // Other stories judge what becomes of writes; here they only have to be told of.
        eprintln!("story dashboards: {:?}", probe.stop()?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_dashboards_returns_data() -> Result<()> {
    let Some(story) = Story::begin().await? else { return Ok(()) };
    let dashboards = dashboard::all()?;
    for (of, panel, letter, _) in EMPTY.iter().chain(&RARE) {
        let is_there = dashboards.iter().any(|dashboard| {
            let mut queries = dashboard.queries.iter();
            dashboard.name == *of && queries.any(|query| query.panel == *panel && query.letter == *letter)
        });
        ensure!(
            is_there,
            "no query {letter} of a panel {panel:?} in dashboard {of}: a list of empty ones is out of date"
        );
    }
    let namespace = story.bed.namespace("dashboards").await?;
    let cluster = telling(&story, &namespace).await?;
    // A change and backups, so that there is something to tell of.
    let clusters: Api<MultigresCluster> = cluster.namespaced();
    let louder = Patch::Merge(json!({ "spec": { "logLevels": { "multigateway": "debug" } } }));
    clusters.patch(&cluster.name, &PatchParams::default(), &louder).await.context("changing the cluster")?;
    let backups = Backups::of(&cluster);
    // One alone is no rate.
    for run in ["shown", "shown-again"].into_iter().take(if is_real() { 2 } else { 1 }) {
        backups.make(run, &json!({ "type": "full" }), 300).await?;
    }
    cluster.healthy(120).await?;

    let shown = Shown {
        prometheus: &story.prometheus,
        dashboards: &dashboards,
        fixed: [("namespace", namespace.as_str()), ("cluster", cluster.name.as_str())],
        answered: Mutex::default(),
    };
    if is_real() {
        troubled(&cluster, &shown).await?;
    }
    // Poolers look at their archive every five minutes.
    until("data for every query", within(if is_real() { 420 } else { 180 }), || async {
        shown.look().await?;
        shown.complete()
    })
    .await?;
    let all = shown.all();
    for (dashboard, query, has_data) in &all {
        if let Some(why) = empty_by_nature(dashboard, query) {
            ensure!(!has_data, "{dashboard}: {} {} returns data, although {why}", query.panel, query.letter);
        }
    }
    let shown = all.iter().filter(|(_, _, has_data)| *has_data).count();
    let rules = story.prometheus.rules_work(60).await?;
    eprintln!("{shown} of {} queries return data, the others cannot here; {rules} alerts can be evaluated", all.len());
    cluster.delete(240).await?;
    story.bed.remove_namespace(&namespace).await
}
