//! Admission on real pods: under load while it is restarted, renewed, upgraded and switched; damaged; absent; tested by its chart.

mod story;

use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use shared::{
    api::v1alpha1::MultigresCluster,
    pki::{Authority, Request},
};
use stories::{
    ClusterUnderTest,
    bed::{OPERATOR_NAMESPACE, is_long},
    helm::metrics_url,
    load::{Case, Expected, Outcome},
    until,
    webhook::{AUTHORITY_SECRET, CERT_MANAGER_SECRET, LEAF_SECRET},
    within,
};
use story::{Story, answers, good_spec};

fn sample(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples").join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_admission_is_restarted_renewed_upgraded_and_switched() -> Result<()> {
    let Some(story) = Story::begin("load").await? else { return Ok(()) };
    let revision = story.tools.revision().await?;
    let outcome = disturbed(&story, revision).await;
    if outcome.is_err() {
        // Half-way the release has another mode, which neither a second try nor any other story begins with.
        let back = async {
            story.tools.rollback(revision).await?;
            story.rolled_out().await?;
            story.trusted(LEAF_SECRET).await
        };
        if let Err(error) = back.await {
            eprintln!("the release is not what it was: {error:#}");
        }
    }
    let sent = outcome?;
    eprintln!("{sent} requests, none lost");
    ensure!(sent >= if is_long() { 20_000 } else { 2_000 }, "only {sent} requests");
    story.end().await
}

/// One disturbance after the other, each under load, from a release at this revision; how many requests that were.
async fn disturbed(story: &Story, revision: u64) -> Result<u64> {
    let long = is_long();
    // A dozen disturbances in the long form: 20,000 requests and more.
    let more = if long { 2_000 } else { 200 };
    let stored = story.stored_cluster().await?;
    // What the machine can do by itself: wrong answers here say nothing about admission.
    let mut sent = story.under_load("undisturbed", &stored, more, async { Ok(()) }).await?.sent;
    if long {
        sent += story.under_load("rolling restart", &stored, more, story.restart()).await?.sent;
        sent += story.under_load("deletion of either pod", &stored, more, story.delete_every_pod_in_turn()).await?.sent;
        sent += story.under_load("leaf renewal", &stored, more, story.renew_leaf(LEAF_SECRET)).await?.sent;
    } else {
        sent += story.under_load("deletion of a pod", &stored, more, story.delete_a_pod()).await?.sent;
    }
    // It brings another leaf, too.
    sent += story.under_load("CA rotation", &stored, more, story.rotate_authority()).await?.sent;
    let values = ["admission.podAnnotations.story=upgrade"];
    if long {
        sent += story.under_load("helm upgrade", &stored, more, story.upgrade(&values)).await?.sent;
        let rollback = async {
            story.tools.rollback(revision).await?;
            story.rolled_out().await
        };
        sent += story.under_load("helm rollback", &stored, more, rollback).await?.sent;
    }
    sent += story.under_load("switch to cert-manager", &stored, more, story.to_cert_manager()).await?.sent;
    if long {
        let renewal = story.renew_leaf(CERT_MANAGER_SECRET);
        sent += story.under_load("leaf renewal by cert-manager", &stored, more, renewal).await?.sent;
        sent += story.under_load("restart with cert-manager", &stored, more, story.restart()).await?.sent;
    }
    sent += story.under_load("switch back to self-signed", &stored, more, story.to_self_signed()).await?.sent;
    if long {
        sent += story.under_load("switch to a user's certificates", &stored, more, story.to_provided()).await?.sent;
        sent += story.under_load("switch back once more", &stored, more, story.to_self_signed()).await?.sent;
    }
    Ok(sent)
}

#[tokio::test]
async fn a_damaged_secret_or_bundle_is_repaired_within_ten_seconds() -> Result<()> {
    let Some(story) = Story::begin("repair").await? else { return Ok(()) };
    let webhook = &story.webhook;
    story.trusted(LEAF_SECRET).await?;
    let authority = Authority::load(webhook.pair(AUTHORITY_SECRET, "ca.crt", "ca.key").await?)?;
    let names = webhook.stored(LEAF_SECRET).await?.check()?.dns_names().clone();
    let wanted = |days: i64| Request {
        common_name: "expired".to_owned(),
        dns_names: names.clone(),
        valid_for: SignedDuration::from_hours(24 * days),
    };
    let long_ago = Timestamp::now() - SignedDuration::from_hours(24 * 30);
    let expired = authority.issue(&wanted(1), long_ago)?;
    let other_key = authority.issue(&wanted(1), Timestamp::now())?.key;
    let garbage = "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n";

    story.repaired("server Secret deleted", webhook.delete_secret(LEAF_SECRET)).await?;
    story.repaired("server certificate garbled", webhook.overwrite(LEAF_SECRET, &[("tls.crt", garbage)])).await?;
    story.repaired("key of another certificate", webhook.overwrite(LEAF_SECRET, &[("tls.key", &other_key)])).await?;
    let values = [("tls.crt", expired.certificate.as_str()), ("tls.key", expired.key.as_str())];
    story.repaired("server certificate expired", webhook.overwrite(LEAF_SECRET, &values)).await?;
    story.repaired("CA Secret deleted", webhook.delete_secret(AUTHORITY_SECRET)).await?;
    story.repaired("CA certificate garbled", webhook.overwrite(AUTHORITY_SECRET, &[("ca.crt", garbage)])).await?;
    story
        .repaired("both Secrets deleted", async {
            webhook.delete_secret(AUTHORITY_SECRET).await?;
            webhook.delete_secret(LEAF_SECRET).await
        })
        .await?;
    story.repaired("bundles emptied", webhook.empty_bundles()).await?;
    story.end().await
}

fn refused<T>(what: &str, answer: kube::Result<T>) -> Result<()> {
    match answer {
        Ok(_) => bail!("{what} was accepted"),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let spoken = ["admission webhook", "ValidatingAdmissionPolicy"];
            ensure!(spoken.iter().any(|who| status.message.contains(who)), "{what}: {}", status.message);
            Ok(())
        }
        Err(error) => bail!("{what}: {error}"),
    }
}

#[tokio::test]
async fn nobody_but_the_operator_writes_children() -> Result<()> {
    let Some(story) = Story::begin("children").await? else { return Ok(()) };
    let cluster = ClusterUnderTest::apply(&story.bed, &story.namespace, &sample("minimal.yaml")).await?;
    cluster.healthy(240).await?;

    for (kind, plural) in
        [("Cell", "cells"), ("TableGroup", "tablegroups"), ("Shard", "shards"), ("TopoServer", "toposervers")]
    {
        let api = story.children(kind, plural);
        let child = api.list(&ListParams::default()).await?.items.into_iter().next();
        let child = child.with_context(|| format!("a {kind} of the cluster"))?;
        let name = child.name_any();
        let mut twin = child.clone();
        twin.metadata = ObjectMeta { name: Some(format!("{name}-twin")), ..ObjectMeta::default() };
        refused(&format!("creating a {kind}"), api.create(&PostParams::default(), &twin).await)?;
        let label = Patch::Merge(json!({"metadata": {"labels": {"team": "dba"}}}));
        refused(&format!("labelling a {kind}"), api.patch(&name, &PatchParams::default(), &label).await)?;
        refused(&format!("deleting a {kind}"), api.delete(&name, &DeleteParams::default()).await)?;
        if kind == "Shard" {
            let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
            refused("scaling a Shard", api.patch_scale(&name, &PatchParams::default(), &scale).await)?;
        }
    }

    // The controller goes on writing them.
    let before = cluster.shard().await?.metadata.generation;
    cluster.patch(r#"[{"op": "add", "path": "/spec/logLevels", "value": {"multipooler": "debug"}}]"#).await?;
    until("the change in the Shard", within(60), || async {
        ensure!(cluster.shard().await?.metadata.generation > before, "the Shard is as it was");
        Ok(())
    })
    .await?;
    // So do the garbage collector, when the cluster goes, and the namespace controller, when all goes at once.
    cluster.delete(180).await?;
    until("garbage collection", within(60), || async {
        for (kind, plural) in [("Cell", "cells"), ("Shard", "shards"), ("TopoServer", "toposervers")] {
            let left = story.children(kind, plural).list(&ListParams::default()).await?.items.len();
            ensure!(left == 0, "{left} {plural} are left");
        }
        Ok(())
    })
    .await?;
    ClusterUnderTest::apply(&story.bed, &story.namespace, &sample("minimal.yaml")).await?;
    until("children of the second cluster", within(60), || async {
        let cells = story.children("Cell", "cells").list(&ListParams::default()).await?.items.len();
        ensure!(cells > 0, "no Cell yet");
        Ok(())
    })
    .await?;
    story.end().await
}

#[tokio::test]
async fn without_any_admission_pod_helm_works_and_clusters_keep_reconciling() -> Result<()> {
    let Some(story) = Story::begin("absent").await? else { return Ok(()) };
    let cluster = ClusterUnderTest::apply(&story.bed, &story.namespace, &sample("minimal.yaml")).await?;
    cluster.healthy(240).await?;
    let revision = story.tools.revision().await?;

    let absent = async {
        // Pods that are gone and cannot come back, whatever the Deployment says.
        story.bed.forbid_pods(OPERATOR_NAMESPACE).await?;
        story.webhook.kill_pods().await?;
        until("the end of all admission pods", within(60), || async {
            let left = story.webhook.pods().await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
        let good = Case::create(
            "a good cluster without admission",
            Expected::Accepted,
            &story.namespace,
            "multigresclusters",
            "MultigresCluster",
            &good_spec(),
        );
        // A container outlives its pod for a moment.
        until("silence", within(60), || async {
            let outcome = good.send(&story.bed.client).await;
            ensure!(matches!(outcome, Outcome::Failed(_)), "somebody answers: {outcome:?}");
            Ok(())
        })
        .await?;
        story.tools.upgrade_at_once(&["admission.podAnnotations.story=absent"]).await?;
        story.drift_is_reverted(&cluster.name).await?;
        story.tools.rollback_at_once(revision).await?;
        let status = cluster.namespaced::<MultigresCluster>().get(&cluster.name).await?.status.unwrap_or_default();
        ensure!(status.phase.is_some_and(|phase| phase.to_string() == "Healthy"), "{:?}", status.message);
        // What is owned is deleted by the garbage collector, without a word of admission.
        cluster.delete(180).await.map(drop)
    };
    let outcome = absent.await;

    // Back, also when something went wrong above: other stories come after this one.
    story.bed.allow_pods(OPERATOR_NAMESPACE).await?;
    let started = Instant::now();
    let back = story.restart().await;
    outcome?;
    back?;
    until("admission to answer again", within(60), || answers(&story.bed, &story.namespace)).await?;
    eprintln!("admission answers {:.1} s after pods were allowed again", started.elapsed().as_secs_f64());
    story.end().await
}

#[tokio::test]
async fn the_tests_of_the_chart_pass() -> Result<()> {
    let Some(story) = Story::begin("helm-test").await? else { return Ok(()) };
    let open = |program| format!("{} answers 200 without a token", metrics_url("http", program));
    let (controller, admission) = (open("controller-manager"), open("admission"));
    story.tools.test(&["a good cluster is accepted", "a TopoServer is refused", &controller, &admission]).await?;
    story.end().await
}

#[tokio::test]
async fn applied_samples_show_no_difference() -> Result<()> {
    let Some(story) = Story::begin("diff").await? else { return Ok(()) };
    story.bed.forbid_pods(&story.namespace).await?;
    for name in ["minimal.yaml", "demo-multi-az.yaml", "demo-multi-az-shared-volume.yaml"] {
        let manifest = sample(name);
        let manifest = manifest.to_str().context("the path of a sample is text")?;
        story.unchanged_after_apply(manifest, &[]).await?;
        // A user who applies by the server from the beginning; the first manager's annotation would stand in the way.
        story.tools.succeed("kubectl", &["-n", &story.namespace, "delete", "-f", manifest, "--timeout=120s"]).await?;
        story.unchanged_after_apply(manifest, &["--server-side"]).await?;
        story.tools.succeed("kubectl", &["-n", &story.namespace, "delete", "-f", manifest, "--timeout=120s"]).await?;
    }
    story.end().await
}
