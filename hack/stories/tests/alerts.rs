//! A real Prometheus looks at the bed with the monitors, alerts and dashboards that users get: every query of a dashboard returns data, and
//! alerts fire by real faults and are over once the fault is.
//!
//! The short form has the two alerts that are cheap to wait for; the long form the seven that users of the Go operator know, and metrics that
//! are secured. With the real data plane (`MULTIGRES_BIN_DIR`) its programs push what they have to tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::{
    core::v1::{Pod, Secret, Service, ServiceAccount},
    rbac::v1::{ClusterRole, PolicyRule},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use shared::{api::v1alpha1::MultigresCluster, name};
use stories::{
    Backups, Bed, ClusterUnderTest, Prometheus, Tools, Webhook,
    backup::{is_real, small},
    bed::{is_left_out, is_long},
    etcd::processes,
    lesson,
    probe::Probe,
    prometheus::dashboard::{self, Dashboard, Query},
    rights::{Findings, Rbac, Right},
    until, within,
};

/// The alerts that users of the Go operator know.
const ALERTS: [&str; 7] = [
    "MultigresClusterReconcileErrors",
    "MultigresClusterDegraded",
    "MultigresCellGatewayUnavailable",
    "MultigresShardPoolDegraded",
    "MultigresWebhookErrors",
    "MultigresReconcileSlow",
    "MultigresControllerSaturated",
];
/// How long a condition has to last until they fire.
const FOR: &str = "4s";
/// Passes of the story's faults take seconds, not minutes, and few objects wait for them.
const THRESHOLDS: [(&str, u32); 2] = [("MultigresReconcileSlow", 1), ("MultigresControllerSaturated", 3)];
/// An alert has to fire this many seconds after its fault can be seen.
const FIRES: u64 = 90;
/// It has to be over this many seconds after all is well.
const RESOLVES: u64 = 120;

/// The role by which admission reads templates.
const ADMISSION_ROLE: &str = "multigres-operator-admission-role";
/// Clusters that wait for the one worker of the controller.
const MANY: usize = 12;
/// The etcd that hangs.
const ETCD_IMAGE: &str = "gcr.io/etcd-development/etcd:v3.6.7";

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

/// The programs of the operator, by the beginning of the names of their metrics' Services.
const PROGRAMS: [&str; 2] = ["controller-manager", "admission"];
/// Admission's pods.
const REVIEWERS: usize = 2;
/// API groups of what decides who may read secured metrics.
const REVIEWS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];

/// An alert with labels that tell it from others of its name.
type Told<'a> = (&'static str, Vec<(&'static str, &'a str)>);

/// A bed that a Prometheus looks at.
struct Story {
    bed: Bed,
    tools: Tools,
    prometheus: Prometheus,
}

impl Story {
    async fn begin() -> Result<Option<Self>> {
        let Some(bed) = Bed::connect().await? else { return Ok(None) };
        bed.controller_ready().await?;
        let tools = Tools::from_env()?;
        let rule = |alert: &str, what: &str| format!("monitoring.prometheusRule.rules.{alert}.{what}");
        let mut values: Vec<String> = ALERTS.map(|alert| rule(alert, &format!("for={FOR}"))).into();
        values.extend(THRESHOLDS.map(|(alert, threshold)| rule(alert, &format!("threshold={threshold}"))));
        let prometheus = Prometheus::start(&bed, &tools, &values, None).await?;
        for program in PROGRAMS {
            prometheus.holds(&scraped(program, 1), 60).await?;
        }
        Ok(Some(Self { bed, tools, prometheus }))
    }

    /// A small cluster that is well.
    async fn minimal(&self, namespace: &str) -> Result<ClusterUnderTest> {
        let manifest = lesson::root().join("samples/minimal.yaml");
        let cluster = ClusterUnderTest::apply(&self.bed, namespace, &manifest).await?;
        cluster.healthy(300).await?;
        Ok(cluster)
    }

    async fn all_fire(&self, told: &[Told<'_>]) -> Result<()> {
        for (alert, labels) in told {
            let begun = Instant::now();
            self.prometheus.fires(alert, labels, FIRES).await?;
            eprintln!("{alert} fires ({} s)", begun.elapsed().as_secs());
        }
        Ok(())
    }

    async fn none_fires(&self, told: &[Told<'_>]) -> Result<()> {
        for (alert, labels) in told {
            self.prometheus.resolves(alert, labels, RESOLVES).await?;
        }
        Ok(())
    }
}

/// Whether a program is scraped, as a query that yields something if it is so.
fn scraped(program: &str, up: u8) -> String {
    format!(r#"up{{job=~".*{program}-metrics-service"}} == {up}"#)
}

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

/// Metrics by HTTPS, as one who may read them and one who may not get them, and what the programs have asked about the two.
async fn secured(bed: &Bed, tools: &Tools, namespace: &str) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(bed.client.clone(), namespace);
    let token = async |name: &str| -> Result<String> {
        let account = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
        accounts
            .create(&PostParams::default(), &account)
            .await
            .with_context(|| format!("making the account {name}"))?;
        let request = serde_json::from_value(json!({ "spec": { "audiences": [] } }))?;
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let status = answer.with_context(|| format!("asking for a token of {name}"))?.status;
        status.and_then(|status| status.token).context("an answer without a token")
    };
    let (reader, nobody) = (token("reader").await?, token("nobody").await?);
    let values = [
        "metrics.secure=true".to_owned(),
        "metrics.readers[0].name=reader".to_owned(),
        format!("metrics.readers[0].namespace={namespace}"),
    ];
    tools.upgrade(&values.each_ref().map(String::as_str)).await?;
    operator_ready(bed).await?;
    for (token, up) in [(reader.as_str(), 1), (nobody.as_str(), 0)] {
        let prometheus = Prometheus::start(bed, tools, &values, Some(token)).await?;
        for program in PROGRAMS {
            prometheus.holds(&scraped(program, up), 90).await?;
        }
        let told = prometheus.query("multigres_operator_build_info").await?.len();
        ensure!((told > 0) == (up == 1), "{told} programs have told of themselves");
    }
    let log = bed.audit_log.as_ref().context("the bed has an audit log")?;
    let rights = Rbac::read(&bed.client).await?.rights();
    let reviews: BTreeSet<Right> = rights.into_iter().filter(|right| REVIEWS.contains(&right.group.as_str())).collect();
    ensure!(reviews.len() == PROGRAMS.len() * REVIEWS.len(), "each program asks in two ways: {reviews:?}");
    until("use of all rights that secured metrics need", within(60), || async {
        let mut findings = Findings::new(reviews.clone());
        findings.read(log)?;
        let unused = findings.unused();
        ensure!(unused.is_empty(), "{unused:?}");
        Ok(())
    })
    .await
}

async fn operator_ready(bed: &Bed) -> Result<()> {
    bed.controller_ready().await?;
    Webhook::new(&bed.client).ready(REVIEWERS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secured_metrics_are_scraped_with_a_token_and_every_right_for_that_is_used() -> Result<()> {
    if is_left_out("this story restarts the operator twice") {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let tools = Tools::from_env()?;
    let namespace = bed.namespace("readers").await?;
    let revision = tools.revision().await?;
    let outcome = secured(&bed, &tools, &namespace).await;
    // Back, also when something went wrong: other stories come after this one.
    let back = async {
        tools.rollback(revision).await?;
        operator_ready(&bed).await
    };
    let back = back.await;
    outcome?;
    back?;
    bed.remove_namespace(&namespace).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_alert_fires_by_a_real_fault_and_resolves() -> Result<()> {
    let Some(story) = Story::begin().await? else { return Ok(()) };
    let namespace = story.bed.namespace("alerts").await?;
    let cluster = story.minimal(&namespace).await?;
    let mut fired = BTreeSet::new();
    fired.extend(pods_that_cannot_start(&story, &cluster).await?);
    if is_long() {
        fired.extend(templates_that_cannot_be_read(&story, &namespace).await?);
    }
    cluster.delete(240).await?;
    story.bed.remove_namespace(&namespace).await?;
    if is_long() {
        fired.extend(an_etcd_that_hangs(&story).await?);
        ensure!(fired == BTreeSet::from(ALERTS), "only {fired:?} fired");
    } else {
        eprintln!("SKIPPED: of {} alerts all but {fired:?}; `make stories` has them", ALERTS.len());
    }
    Ok(())
}

/// A quota that lets no pod start, after the gateways are gone and, in the long form, a standby.
async fn pods_that_cannot_start(story: &Story, cluster: &ClusterUnderTest) -> Result<Vec<&'static str>> {
    let of_cluster = || vec![("namespace", cluster.namespace.as_str()), ("cluster", cluster.name.as_str())];
    let mut told: Vec<Told<'_>> = vec![
        ("MultigresClusterDegraded", vec![("namespace", cluster.namespace.as_str()), ("name", cluster.name.as_str())]),
        ("MultigresCellGatewayUnavailable", of_cluster()),
    ];
    if is_long() {
        told.push(("MultigresShardPoolDegraded", of_cluster()));
        told.push((
            "MultigresClusterReconcileErrors",
            vec![("namespace", cluster.namespace.as_str()), ("controller", "shard")],
        ));
    }
    story.none_fires(&told).await?;
    story.bed.forbid_pods(&cluster.namespace).await?;
    let pods: Api<Pod> = cluster.namespaced();
    let at_once = DeleteParams::default().grace_period(0);
    let gateways = format!("app.kubernetes.io/instance={},app.kubernetes.io/component=multigateway", cluster.name);
    pods.delete_collection(&at_once, &ListParams::default().labels(&gateways)).await.context("deleting gateways")?;
    if is_long() {
        let members = cluster.roles(1, 60).await?;
        let standby = members.iter().find(|member| member.role == "REPLICA").context("a standby")?;
        pods.delete(&standby.pod, &at_once).await.context("deleting the standby")?;
    }
    story.all_fire(&told).await?;
    story.bed.allow_pods(&cluster.namespace).await?;
    // Those who make pods wait longer after each refusal.
    cluster.healthy(400).await?;
    story.none_fires(&told).await?;
    Ok(told.into_iter().map(|(alert, _)| alert).collect())
}

/// Admission may not read templates any more, and is asked about a cluster for whose template it would have to.
async fn templates_that_cannot_be_read(story: &Story, namespace: &str) -> Result<Vec<&'static str>> {
    let told: Vec<Told<'_>> = vec![("MultigresWebhookErrors", vec![("resource", "MultigresCluster")])];
    story.none_fires(&told).await?;
    let roles: Api<ClusterRole> = Api::all(story.bed.client.clone());
    let before = roles.get(ADMISSION_ROLE).await?.rules.unwrap_or_default();
    let mut fewer = before.clone();
    for resources in fewer.iter_mut().filter_map(|rule| rule.resources.as_mut()) {
        resources.retain(|resource| !resource.ends_with("templates"));
    }
    ensure!(fewer != before, "{ADMISSION_ROLE} lets nobody read templates");
    allow(&roles, &fewer).await?;
    let outcome = errors_of_the_webhook(story, namespace, &told).await;
    // Whatever came of it: the stories after this one need admission.
    let back = allow(&roles, &before).await;
    outcome?;
    back?;
    story.none_fires(&told).await?;
    Ok(told.into_iter().map(|(alert, _)| alert).collect())
}

async fn allow(roles: &Api<ClusterRole>, rights: &[PolicyRule]) -> Result<()> {
    let patch = Patch::Merge(json!({ "rules": rights }));
    roles.patch(ADMISSION_ROLE, &PatchParams::default(), &patch).await.context("changing what admission may do")?;
    Ok(())
}

async fn errors_of_the_webhook(story: &Story, namespace: &str, told: &[Told<'_>]) -> Result<()> {
    let manifest = json!({
        "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster", "metadata": { "name": "unjudged" },
        "spec": { "templateDefaults": { "coreTemplate": "nowhere" }, "cells": [{ "name": "zone-a" }] },
    });
    until("an alert about a webhook that cannot read templates", within(FIRES), || async {
        match ClusterUnderTest::apply_value(&story.bed, namespace, &manifest).await {
            Ok(_) => bail!("a cluster with a template that does not exist was accepted"),
            Err(refused) => ensure!(format!("{refused:#}").contains("cannot read"), "refused otherwise: {refused:#}"),
        }
        let alerts = story.prometheus.alerts().await?;
        let fires =
            |(name, labels): &Told<'_>| alerts.iter().any(|alert| alert.is(name, labels) && alert.state == "firing");
        ensure!(told.iter().all(fires), "{alerts:?}");
        Ok(())
    })
    .await
}

/// A process that stands still until this is dropped.
struct Frozen(Pid);

impl Frozen {
    fn new(process: Pid) -> Result<Self> {
        kill_process(process, Signal::STOP).context("stopping a process")?;
        Ok(Self(process))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // One that ended meanwhile does not stand still either.
        let _ended = kill_process(self.0, Signal::CONT);
    }
}

/// An etcd of its own in a namespace that is also its token, which answers.
async fn etcd(bed: &Bed, namespace: &str) -> Result<()> {
    let services: Api<Service> = Api::namespaced(bed.client.clone(), namespace);
    let service = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "etcd" },
        // It has to be found also while it hangs.
        "spec": { "clusterIP": "None", "publishNotReadyAddresses": true, "selector": { "app": "etcd" },
            "ports": [{ "name": "client", "port": 2379 }] },
    }))?;
    services.create(&PostParams::default(), &service).await.context("making the Service of the etcd")?;
    let url = format!("http://etcd.{namespace}.svc:2379");
    let env = |name: &str, value: &str| json!({ "name": name, "value": value });
    let pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "etcd", "labels": { "app": "etcd" } },
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000 },
            "containers": [{
                "name": "etcd", "image": ETCD_IMAGE, "imagePullPolicy": "IfNotPresent",
                "env": [
                    env("ETCD_DATA_DIR", "/var/lib/etcd/data"),
                    env("ETCD_INITIAL_CLUSTER_TOKEN", namespace),
                    env("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:2379"),
                    env("ETCD_ADVERTISE_CLIENT_URLS", &url),
                ],
                "readinessProbe": { "httpGet": { "path": "/readyz", "port": 2379 }, "periodSeconds": 1 },
                "volumeMounts": [{ "name": "data", "mountPath": "/var/lib/etcd" }],
            }],
            "volumes": [{ "name": "data", "emptyDir": {} }],
        },
    }))?;
    let pods: Api<Pod> = Api::namespaced(bed.client.clone(), namespace);
    pods.create(&PostParams::default(), &pod).await.context("making the etcd")?;
    until("an etcd that answers", within(120), || async {
        let status = pods.get("etcd").await?.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        ensure!(ready, "phase {:?}, {:?}", status.phase, status.container_statuses);
        Ok(())
    })
    .await
}

/// A cluster whose topology is in the etcd of its namespace.
fn dependent(namespace: &str, name: &str) -> Value {
    let external =
        json!({ "endpoints": [format!("http://etcd.{namespace}.svc:2379")], "rootPath": format!("/{name}") });
    json!({
        "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster", "metadata": { "name": name },
        "spec": { "globalTopoServer": { "external": external }, "cells": [{ "name": "zone-a" }] },
    })
}

/// Many clusters whose etcd hangs, and a controller with a single worker: each pass waits for the etcd, and all others for that pass.
async fn an_etcd_that_hangs(story: &Story) -> Result<Vec<&'static str>> {
    let namespace = story.bed.namespace("no-answer").await?;
    etcd(&story.bed, &namespace).await?;
    // What the clusters would run does not matter.
    story.bed.forbid_pods(&namespace).await?;
    let told: Vec<Told<'_>> = vec![
        ("MultigresReconcileSlow", vec![("controller", "multigrescluster")]),
        ("MultigresControllerSaturated", vec![("name", "multigrescluster")]),
    ];
    story.none_fires(&told).await?;
    let revision = story.tools.revision().await?;
    let outcome = one_worker_waits(story, &namespace, &told).await;
    // Whatever came of it: the stories after this one need a controller with all its workers.
    let back = async {
        story.tools.rollback(revision).await?;
        story.bed.controller_ready().await
    };
    let back = back.await;
    outcome?;
    back?;
    let clusters: Api<MultigresCluster> = Api::namespaced(story.bed.client.clone(), &namespace);
    clusters.delete_collection(&DeleteParams::default(), &ListParams::default()).await.context("removing clusters")?;
    until("the clusters' removal", within(240), || async {
        let left: Vec<String> =
            clusters.list(&ListParams::default()).await?.iter().map(kube::ResourceExt::name_any).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    story.bed.remove_namespace(&namespace).await?;
    Ok(told.into_iter().map(|(alert, _)| alert).collect())
}

async fn one_worker_waits(story: &Story, namespace: &str, told: &[Told<'_>]) -> Result<()> {
    story.tools.upgrade(&["controller.concurrency=1"]).await?;
    story.bed.controller_ready().await?;
    let process = processes(namespace)?.into_iter().next();
    let frozen = Frozen::new(process.context("the etcd is no process of this machine, or of another user")?)?;
    let make = |number: usize| async move {
        let manifest = dependent(namespace, &format!("waits-{number}"));
        ClusterUnderTest::apply_value(&story.bed, namespace, &manifest).await
    };
    let clusters = try_join_all((0..MANY).map(make)).await?;
    story.all_fire(told).await?;
    drop(frozen);
    let first = clusters.first().context("a cluster")?;
    until("a cluster that reaches its etcd", within(120), || async {
        let status = first.get().await?.status.unwrap_or_default();
        let reached = shared::condition::find(&status.conditions, "TopologyReachable");
        ensure!(reached.is_some_and(|condition| condition.status == "True"), "{:?}", status.conditions);
        Ok(())
    })
    .await?;
    story.none_fires(told).await
}
