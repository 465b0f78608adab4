//! TLS among the components and for PostgreSQL clients, and the renewal of certificates while the cluster works.
//!
//! The short form has a cluster that serves; the long form renews certificates under it.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::{Value, json};
use shared::{
    annotation,
    api::v1alpha1::BackupPhase,
    label::{self, Component},
    name,
    pki::{Authority, Certificate},
};
use stories::{
    Backups, Bed, ClusterUnderTest,
    backup::{is_real, small},
    bed::{is_left_out, is_long},
    etcd,
    tls::{self, Eye, PGBACKREST, PGCTLD_GRPC, POOLER_GRPC},
    until, within,
};

/// Longest time in which a kubelet brings a changed Secret to its pods.
const SPREADS: Duration = Duration::from_secs(100);
/// So many rows of a kilobyte take longer to be saved than certificates to be renewed twice, although they compress to next to nothing.
const ROWS: usize = 1_000_000;
/// Longest time in which a backup is made, with all its attempts: a pod that is replaced may take one of them along, and the one after it is
/// tried with the address of the pod that has gone.
const SAVED: u64 = 600;
/// The name by which PostgreSQL clients know the cluster.
const PUBLIC_NAME: &str = "db.example.com";
/// gRPC ports under TLS, by component.
const SECURED: [(Component, u16); 4] = [
    (Component::ShardPool, POOLER_GRPC),
    (Component::Multiadmin, 18070),
    (Component::Multiorch, 15370),
    (Component::Multigateway, 15170),
];

/// A Healthy cluster with mutual TLS and what is asked for besides in a namespace of its own.
async fn secured(bed: &Bed, story: &str, members: u32, besides: &Value) -> Result<ClusterUnderTest> {
    let namespace = bed.namespace(story).await?;
    let mut change = json!({"internalTLS": {"enabled": true}});
    json_patch::merge(&mut change, besides);
    let manifest = small(story, members, &change);
    let cluster = ClusterUnderTest::apply_value(bed, &namespace, &manifest).await?;
    cluster.healthy(300).await?;
    Ok(cluster)
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

/// Name of the Secret that poolers show.
fn leaf_of_poolers(cluster: &ClusterUnderTest) -> String {
    name::internal_identity("multipooler", &cluster.name, &cluster.namespace)
}

/// The digests of the certificates that the gateways were made with; all of them mount the one for clients and name it to the program.
async fn gateways(cluster: &ClusterUnderTest) -> Result<Vec<String>> {
    let pods: Api<Pod> = cluster.namespaced();
    let labels =
        format!("{}={},{}={}", label::INSTANCE, cluster.name, label::COMPONENT, Component::Multigateway.as_str());
    let mut digests = Vec::new();
    for pod in pods.list(&ListParams::default().labels(&labels)).await?.items {
        let spec = pod.spec.clone().unwrap_or_default();
        let mut mounted =
            spec.volumes.iter().flatten().filter_map(|volume| volume.secret.as_ref()?.secret_name.clone());
        ensure!(mounted.any(|secret| secret == name::PUBLIC_CERTIFICATE), "{} does not mount it", pod.name_any());
        let mut words = spec.containers.iter().flat_map(|container| container.args.iter().flatten());
        ensure!(words.any(|word| word == "--pg-tls-cert-file"), "{} does not show it", pod.name_any());
        let digest = pod.annotations().get(annotation::CERTIFICATES_HASH);
        digests.push(digest.context("a gateway that knows its certificates")?.clone());
    }
    ensure!(!digests.is_empty(), "there are no gateways");
    Ok(digests)
}

/// A client verifies the gateway by the authorities that come with its certificate, and by no others. The stand-in speaks no TLS with clients.
async fn clients_verify(backups: &Backups<'_>, authorities: &str, others: &str) -> Result<()> {
    if !is_real() {
        eprintln!("story certificates: clients connect with the real data plane alone (MULTIGRES_BIN_DIR names it)");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = directory.path().join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let (trusted, strange) = (file("ca.crt", authorities)?, file("others.crt", others)?);
    let ask = async |trust: &str, name: &str| {
        let options = ["--trust", trust, "--verified-as", name];
        backups.sql_with(env!("CARGO_BIN_EXE_sql"), &options, &["SELECT 1"]).await
    };
    for name in [PUBLIC_NAME, "example.com"] {
        ensure!(ask(&trusted, name).await? == "1", "no answer through TLS for {name}");
    }
    for (trust, name) in [(&trusted, "db.example.org"), (&strange, PUBLIC_NAME)] {
        let refused = ask(trust, name).await;
        let why = format!("{:#}", refused.err().context("a client believed a certificate that proves nothing")?);
        ensure!(why.contains("the gateway's certificate"), "{why}");
    }
    Ok(())
}

#[tokio::test]
async fn a_cluster_with_internal_tls_and_a_certificate_for_clients_serves() -> Result<()> {
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    // With three a roll leaves enough of them to confirm commits.
    let members = if is_long() { 3 } else { 2 };
    let cluster = secured(&bed, "tls", members, &json!({"certCommonName": PUBLIC_NAME})).await?;
    let replicas = usize::try_from(members)? - 1;
    cluster.roles(replicas, 60).await?;
    // Both are told only by those who could be asked over TLS: a pooler, and MultiAdmin.
    let first = cluster.primary().await?;
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
    let (public, authorities) = tls::public(&cluster, PUBLIC_NAME).await?;
    let before = gateways(&cluster).await?;
    let stranger = Authority::generate("stranger", Timestamp::now(), SignedDuration::from_hours(24))?;
    clients_verify(&backups, &authorities, &stranger.pair().certificate).await?;
    if is_long() {
        let renewed = tls::renew(&cluster, name::PUBLIC_CERTIFICATE).await?;
        ensure!(renewed.fingerprint() != public.fingerprint(), "it is the same certificate");
        until("gateways with the new certificate alone", within(300), || async {
            let now = gateways(&cluster).await?;
            ensure!(now.iter().all(|digest| !before.contains(digest)), "{before:?} became {now:?}");
            Ok(())
        })
        .await?;
        cluster.healthy(120).await?;
        let (_, still) = tls::public(&cluster, PUBLIC_NAME).await?;
        ensure!(still == authorities, "a renewal of the certificate needs no other authority");
        clients_verify(&backups, &still, &stranger.pair().certificate).await?;

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
    cluster.done().await
}

#[tokio::test]
async fn an_etcd_that_asks_for_certificates_serves_a_whole_cluster() -> Result<()> {
    if is_left_out("this story has a cluster of its own for the certificates of an etcd") {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let namespace = bed.namespace("strict").await?;
    let topology = etcd::with_mutual_tls(&bed, &namespace).await?;
    let manifest = small("strict", 2, &json!({"globalTopoServer": topology}));
    let cluster = ClusterUnderTest::apply_value(&bed, &namespace, &manifest).await?;
    // A pooler that could not register would have nobody to lead it, and one that could not take the lease would make no backup.
    cluster.healthy(300).await?;
    cluster.roles(1, 60).await?;
    Backups::of(&cluster).make("leased-over-tls", &json!({"type": "full"}), 180).await?;
    let pods: Api<Pod> = cluster.namespaced();
    let address = pods.get("etcd").await?.status.and_then(|status| status.pod_ip).context("an etcd with an address")?;
    ensure!(!tls::answers_in_plain_text(&address, etcd::PORT).await?, "the etcd answers without TLS");
    cluster.done().await
}

/// Makes one backup after the other until `enough`, each with so many attempts at most. Each takes the place of the one before: as many
/// incremental ones would soon be more than poolers can list.
async fn keep_saving(
    backups: &Backups<'_>,
    title: &str,
    attempts: u32,
    mut enough: impl FnMut(usize) -> bool,
) -> Result<usize> {
    let mut made = 0;
    while !enough(made) {
        made += 1;
        let spec = json!({"type": "differential", "attempts": attempts});
        backups.make(&format!("{title}-{made}"), &spec, SAVED).await?;
    }
    Ok(made)
}

/// Renews a certificate twice while one backup is made, which ends well at the first attempt; when the last renewal was.
async fn renewed_meanwhile(cluster: &ClusterUnderTest, run: &str, leaf: &str) -> Result<Instant> {
    let backups = Backups::of(cluster);
    if !is_real() {
        backups.fault_everywhere("hang-backup").await?;
    }
    backups.order(run, &json!({"type": "full", "attempts": 1})).await?;
    backups.reaches(run, BackupPhase::Running, "", 60).await?;
    for _ in 0..2 {
        tls::renew(cluster, leaf).await?;
    }
    let (renewed, at) = (Instant::now(), Timestamp::now());
    if !is_real() {
        backups.fault_everywhere("").await?;
    }
    let made = backups.completed(run, SAVED).await?;
    ensure!(made.attempt == Some(1), "it was not made at once: {made:?}");
    // Times of backups are whole seconds.
    let ended = made.completed_at.as_ref().map(|ended| ended.0.as_second());
    ensure!(ended >= Some(at.as_second()), "it was over before the certificate was renewed at {at}: {made:?}");
    Ok(renewed)
}

/// What the servers of pgBackRest show is what they were started with, whatever is in their files by now: that is why their pods are replaced
/// before it ends.
async fn go_on_with(cluster: &ClusterUnderTest, before: &Certificate) -> Result<()> {
    if !is_real() {
        eprintln!("story certificates: pgBackRest serves with the real data plane alone (MULTIGRES_BIN_DIR names it)");
        return Ok(());
    }
    for address in addresses(cluster, Component::ShardPool).await? {
        let shown = tls::shown(env!("CARGO_BIN_EXE_peer"), &address, PGBACKREST).await?;
        let expected = before.fingerprint().to_string();
        ensure!(shown == expected, "{address} shows {shown} instead of {expected}: it reads its certificate again");
    }
    Ok(())
}

#[tokio::test]
async fn certificates_roll_while_a_backup_runs() -> Result<()> {
    if is_left_out("this story renews certificates again and again") {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = secured(&bed, "rolls", 3, &json!({})).await?;
    let backups = Backups::of(&cluster);
    let leaf = name::pgbackrest_tls(&cluster.shard().await?.name_any());
    let before = tls::stored(&cluster, &leaf).await?;
    // Renewals take seconds, and a backup of nothing would be over before.
    backups.fill(env!("CARGO_BIN_EXE_sql"), ROWS).await?;
    let eye = Eye::open(&cluster, 3);
    for round in 1..=2 {
        let renewed = renewed_meanwhile(&cluster, &format!("renewal-{round}"), &leaf).await?;
        // Some are made with files of before, and some with those that the kubelet has brought meanwhile. None fails even once.
        let enough = |made: usize| made > 1 && renewed.elapsed() > SPREADS;
        let made = keep_saving(&backups, &format!("round-{round}"), 1, enough).await?;
        eprintln!("story certificates: {made} backups around the renewals of round {round}");
    }
    go_on_with(&cluster, &before).await?;
    backups.says("BackupHealthy", "True", "BackupRecent", 90).await?;
    let (seen, first) = (eye.seen(), cluster.primary().await?);
    ensure!(seen.most_down <= 1, "{} members were down at once", seen.most_down);
    drop(eye);

    // Those of the components are read at the start alone, so pods are replaced, and backups go on meanwhile.
    cluster.healthy(420).await?;
    let eye = Eye::open(&cluster, 3);
    tls::renew(&cluster, &leaf_of_poolers(&cluster)).await?;
    let renewed = Instant::now();
    let all_gone = || eye.seen().names().len() == 3;
    // The pod that makes one may be the next to be replaced.
    keep_saving(&backups, "roll", 6, |_| all_gone() || renewed.elapsed() > Duration::from_mins(12)).await?;
    cluster.healthy(420).await?;
    let seen = eye.seen();
    ensure!(seen.names().len() == 3 && seen.gone.len() == 3, "each pod goes once: {seen:?}");
    ensure!(seen.most_down <= 1, "{} members were down at once", seen.most_down);
    ensure!(seen.gone.last() == Some(&first), "{first} was the primary and goes last: {seen:?}");
    backups.says("BackupHealthy", "True", "BackupRecent", 90).await?;
    cluster.done().await
}
