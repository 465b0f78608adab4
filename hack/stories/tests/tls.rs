//! TLS among the components, and the renewal of certificates while the cluster works.
//!
//! The short form has a cluster that serves; the long form renews certificates under it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::json;
use shared::{
    api::v1alpha1::BackupPhase,
    label::{self, Component},
    name,
};
use stories::{
    Backups, Bed, ClusterUnderTest,
    backup::small,
    bed::is_long,
    tls::{self, Eye, PGCTLD_GRPC, POOLER_GRPC},
    until, within,
};

/// Longest time in which a kubelet brings a changed Secret to its pods.
const SPREADS: Duration = Duration::from_secs(100);
/// gRPC ports under TLS, by component.
const SECURED: [(Component, u16); 4] = [
    (Component::ShardPool, POOLER_GRPC),
    (Component::Multiadmin, 18070),
    (Component::Multiorch, 15370),
    (Component::Multigateway, 15170),
];

/// A Healthy cluster with mutual TLS in a namespace of its own.
async fn secured(bed: &Bed, story: &str, members: u32) -> Result<ClusterUnderTest> {
    let namespace = bed.namespace(story).await?;
    let manifest = small(story, members, &json!({"internalTLS": {"enabled": true}}));
    let cluster = ClusterUnderTest::apply_value(bed, &namespace, &manifest).await?;
    cluster.healthy(300).await?;
    Ok(cluster)
}

async fn end(cluster: &ClusterUnderTest) -> Result<()> {
    cluster.delete(240).await?;
    cluster.bed.remove_namespace(&cluster.namespace).await
}

/// Addresses of the pods of a component.
async fn addresses(cluster: &ClusterUnderTest, component: Component) -> Result<Vec<String>> {
    let pods: Api<Pod> = cluster.namespaced();
    let labels = format!("{}={},{}={}", label::INSTANCE, cluster.name, label::COMPONENT, component.as_str());
    let all = pods.list(&ListParams::default().labels(&labels)).await?.items;
    let addresses: Vec<String> = all.into_iter().filter_map(|pod| pod.status?.pod_ip).collect();
    ensure!(!addresses.is_empty(), "no pod of {} has an address", component.as_str());
    Ok(addresses)
}

async fn primary(cluster: &ClusterUnderTest) -> Result<String> {
    cluster.shard().await?.status.unwrap_or_default().primary.context("a confirmed primary")
}

/// Name of the Secret that poolers show.
fn leaf_of_poolers(cluster: &ClusterUnderTest) -> String {
    name::internal_identity("multipooler", &cluster.name, &cluster.namespace)
}

#[tokio::test]
async fn a_cluster_with_internal_tls_serves() -> Result<()> {
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    // With three a roll leaves enough of them to confirm commits.
    let members = if is_long() { 3 } else { 2 };
    let cluster = secured(&bed, "tls", members).await?;
    let replicas = usize::try_from(members)? - 1;
    cluster.roles(replicas, 60).await?;
    // Both are told only by those who could be asked over TLS: a pooler, and MultiAdmin.
    let first = primary(&cluster).await?;
    let backups = Backups::of(&cluster);
    backups.make("over-tls", &json!({"type": "full"}), 180).await?;

    for (component, port) in SECURED {
        for address in addresses(&cluster, component).await? {
            let plain = tls::answers_in_plain_text(&address, port).await?;
            ensure!(!plain, "{} answers without TLS at {address}:{port}", component.as_str());
        }
    }
    // The question is the right one: pgctld, which nobody else may reach, is known to answer it.
    for address in addresses(&cluster, Component::ShardPool).await? {
        ensure!(tls::answers_in_plain_text(&address, PGCTLD_GRPC).await?, "pgctld does not answer at {address}");
    }
    if is_long() {
        let eye = Eye::open(&cluster, 3);
        tls::renew(&cluster, &leaf_of_poolers(&cluster)).await?;
        until("three pods with the new certificate", within(600), || async {
            let seen = eye.seen();
            ensure!(seen.names().len() == 3, "{seen:?}");
            Ok(())
        })
        .await?;
        cluster.healthy(420).await?;
        cluster.roles(2, 120).await?;
        let seen = eye.seen();
        ensure!(seen.most_down <= 1, "{} members were down at once", seen.most_down);
        ensure!(seen.gone.len() == 3, "each pod goes once: {seen:?}");
        ensure!(seen.gone.last() == Some(&first), "{first} was the primary and goes last: {seen:?}");
        backups.make("after-renewal", &json!({"type": "incremental"}), 180).await?;
    }
    end(&cluster).await
}

/// Makes one backup after the other until `enough`.
async fn keep_saving(backups: &Backups<'_>, title: &str, mut enough: impl FnMut(usize) -> bool) -> Result<usize> {
    let mut made = 0;
    while !enough(made) {
        made += 1;
        backups.make(&format!("{title}-{made}"), &json!({"type": "incremental", "attempts": 5}), 300).await?;
    }
    Ok(made)
}

#[tokio::test]
async fn certificates_roll_while_a_backup_runs() -> Result<()> {
    if !is_long() {
        eprintln!("SKIPPED: renewals take minutes and belong to the long form; `make stories` has them");
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = secured(&bed, "rolls", 3).await?;
    let backups = Backups::of(&cluster);
    let leaf = name::pgbackrest_tls(&cluster.shard().await?.name_any());
    let eye = Eye::open(&cluster, 3);
    for round in 1..=2 {
        let running = format!("renewal-{round}");
        backups.order(&running, &json!({"type": "full"})).await?;
        until("a backup that is under way", within(60), || async {
            let phase = backups.status(&running).await?.phase;
            // A small one may be over before anybody looks.
            ensure!(matches!(phase, Some(BackupPhase::Running | BackupPhase::Completed)), "{phase:?}");
            Ok(())
        })
        .await?;
        tls::renew(&cluster, &leaf).await?;
        let renewed = Instant::now();
        backups.completed(&running, 300).await?;
        // Some are made with files of before, and some with those that the kubelet has brought meanwhile.
        let made =
            keep_saving(&backups, &format!("round-{round}"), |made| made > 1 && renewed.elapsed() > SPREADS).await?;
        eprintln!("story certificates: {made} backups around renewal {round}");
    }
    backups.says("BackupHealthy", "True", "BackupRecent", 90).await?;
    let (before, first) = (eye.seen(), primary(&cluster).await?);
    ensure!(before.most_down <= 1, "{} members were down at once", before.most_down);
    drop(eye);

    // Those of the components are read at the start alone, so pods are replaced, and backups go on meanwhile.
    cluster.healthy(420).await?;
    let eye = Eye::open(&cluster, 3);
    tls::renew(&cluster, &leaf_of_poolers(&cluster)).await?;
    let renewed = Instant::now();
    let all_gone = || eye.seen().names().len() == 3;
    keep_saving(&backups, "roll", |_| all_gone() || renewed.elapsed() > Duration::from_mins(12)).await?;
    cluster.healthy(420).await?;
    let seen = eye.seen();
    ensure!(seen.names().len() == 3 && seen.gone.len() == 3, "each pod goes once: {seen:?}");
    ensure!(seen.most_down <= 1, "{} members were down at once", seen.most_down);
    ensure!(seen.gone.last() == Some(&first), "{first} was the primary and goes last: {seen:?}");
    backups.says("BackupHealthy", "True", "BackupRecent", 90).await?;
    end(&cluster).await
}
