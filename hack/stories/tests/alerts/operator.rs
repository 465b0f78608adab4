//! Alerts about the operator. Everybody else would notice these faults.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    rbac::v1::{ClusterRole, PolicyRule},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use shared::api::v1alpha1::MultigresCluster;
use stories::{Bed, ClusterUnderTest, bed::is_left_out, etcd::processes, until, within};

use super::{FIRES, OF_THE_OPERATOR, Story, Told};

/// The role by which admission reads templates.
const ADMISSION_ROLE: &str = "multigres-operator-admission-role";
/// Clusters that wait for the one worker of the controller.
const MANY: usize = 12;
/// The etcd that hangs.
const ETCD_IMAGE: &str = "gcr.io/etcd-development/etcd:v3.6.7";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_about_the_operator_fire_by_a_real_fault_and_resolve() -> Result<()> {
    if is_left_out("this story takes rights of admission away and restarts the controller") {
        return Ok(());
    }
    let Some(story) = Story::begin().await? else { return Ok(()) };
    let namespace = story.bed.namespace("alerts-operator").await?;
    let mut fired = BTreeSet::from_iter(templates_that_cannot_be_read(&story, &namespace).await?);
    story.bed.remove_namespace(&namespace).await?;
    fired.extend(an_etcd_that_hangs(&story).await?);
    ensure!(fired == BTreeSet::from(OF_THE_OPERATOR), "only {fired:?} fired");
    Ok(())
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
    let impatient = story.bed.impatient().await?;
    until("an alert about a webhook that cannot read templates", within(FIRES), || async {
        match ClusterUnderTest::apply_value(&impatient, namespace, &manifest).await {
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
