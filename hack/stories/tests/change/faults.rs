//! Faults of the data plane while a shard changes: each is told in one word, nobody goes because of it, and its end is enough.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::json;
use stories::{
    Backups, Bed, ClusterUnderTest,
    backup::{POOLER, small},
    bed::is_long,
    until, within,
};

use super::watch::{Eye, POOL, blocked, nobody_goes, only_long, only_stand_in};

/// HTTP port of an orchestrator, where the stand-in takes faults.
const ORCHESTRATOR: u16 = 15300;
/// What a pooler has said counts for fifteen seconds.
const FORGOTTEN: Duration = Duration::from_secs(18);

/// A cluster of three members in one cell.
async fn three_members(bed: &Bed, name: &str) -> Result<ClusterUnderTest> {
    let namespace = bed.namespace(name).await?;
    let cluster = ClusterUnderTest::apply_value(bed, &namespace, &small(name, 3, &json!({}))).await?;
    cluster.healthy(300).await?;
    cluster.roles(2, 60).await?;
    Ok(cluster)
}

/// Asks for something that only new pods bring.
async fn roll(cluster: &ClusterUnderTest) -> Result<()> {
    let resources = json!({"requests": {"memory": "300Mi", "cpu": "50m"}});
    let patch = json!([{"op": "add", "path": format!("{POOL}/postgres"), "value": {"resources": resources}}]);
    cluster.patch(&patch.to_string()).await
}

/// Waits until three went, then that all is well; the former primary went last, and nobody as the primary.
async fn rolled(cluster: &ClusterUnderTest, eye: &Eye, first: &str) -> Result<()> {
    until("three pods that went", within(420), || async {
        let course = eye.course();
        ensure!(course.gone.len() >= 3, "{course:?}");
        Ok(())
    })
    .await?;
    cluster.roles(2, 180).await?;
    cluster.healthy(180).await?;
    let course = eye.latest().await?;
    ensure!(course.gone.len() == 3 && course.gone[2].0 == first, "each goes once, {first} last: {course:?}");
    ensure!(course.gone.iter().all(|(_, primary)| !primary), "nobody goes as the primary: {course:?}");
    ensure!(course.most_down <= 1, "one at a time: {course:?}");
    Ok(())
}

#[tokio::test]
async fn a_standby_that_never_catches_up_holds_up_a_scale_down() -> Result<()> {
    if only_stand_in() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = three_members(&bed, "lags").await?;
    let members = cluster.members().await?;
    // Whoever has the highest number is not wanted any more.
    let extra = members.iter().map(|member| member.pod.clone()).max().context("members")?;
    let late = members.iter().find(|member| member.role == "REPLICA" && member.pod != extra);
    let late = late.context("a standby that stays")?.pod.clone();
    let backups = Backups::of(&cluster);
    backups.fault(&late, POOLER, "stop-replay").await?;
    let eye = Eye::open(&cluster, 2);
    let patch = json!([{"op": "replace", "path": format!("{POOL}/replicasPerCell"), "value": 2}]);
    cluster.patch(&patch.to_string()).await?;
    blocked(&cluster, &["WaitingForMember"], &[late.as_str()], 30).await?;
    nobody_goes(&eye, 0, if is_long() { 60 } else { 8 }).await?;
    backups.fault(&late, POOLER, "").await?;
    cluster.roles(1, 180).await?;
    cluster.healthy(180).await?;
    let course = eye.latest().await?;
    ensure!(course.gone == [(extra.clone(), false)], "{extra} goes, once and not as the primary: {course:?}");
    ensure!(course.most_down == 0, "those that stay are there all the time: {course:?}");
    cluster.done().await
}

#[tokio::test]
async fn poolers_that_never_answer_stop_a_rolling_update() -> Result<()> {
    if only_long() || only_stand_in() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = three_members(&bed, "hangs").await?;
    let first = cluster.primary().await?;
    let members = cluster.members().await?;
    let standbys: Vec<&str> = members.iter().map(|member| member.pod.as_str()).filter(|pod| **pod != *first).collect();
    ensure!(standbys.len() == 2, "{members:?}");
    let backups = Backups::of(&cluster);
    for pod in &standbys {
        backups.fault(pod, POOLER, "hang-rpc").await?;
    }
    // Everything that they said before is forgotten then, so that nothing is decided on it.
    tokio::time::sleep(FORGOTTEN).await;
    let eye = Eye::open(&cluster, 3);
    roll(&cluster).await?;
    blocked(&cluster, &["WaitingForMember"], &standbys, 60).await?;
    nobody_goes(&eye, 0, 30).await?;
    for pod in &standbys {
        backups.fault(pod, POOLER, "").await?;
    }
    rolled(&cluster, &eye, &first).await?;
    cluster.done().await
}

#[tokio::test]
async fn a_primary_that_nobody_takes_over_from_stays_where_it_is() -> Result<()> {
    if only_long() || only_stand_in() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = three_members(&bed, "refuses").await?;
    let first = cluster.primary().await?;
    let backups = Backups::of(&cluster);
    let orchestrators = orchestrators(&cluster).await?;
    for pod in &orchestrators {
        backups.fault(pod, ORCHESTRATOR, "refuse-promotion").await?;
    }
    let eye = Eye::open(&cluster, 3);
    roll(&cluster).await?;
    until("two new standbys", within(300), || async {
        let course = eye.course();
        ensure!(course.gone.len() == 2, "{course:?}");
        Ok(())
    })
    .await?;
    // The second one has to be back before anybody is asked to hand over. Where nobody leads nobody counts as healthy, either.
    let reasons = ["WaitingForSwitchover", "NoPrimary", "SwitchoverFailed", "WaitingForQuorum"];
    blocked(&cluster, &reasons[..3], &[], 120).await?;
    nobody_goes(&eye, 2, 30).await?;
    blocked(&cluster, &reasons, &[], 30).await?;
    for pod in &orchestrators {
        backups.fault(pod, ORCHESTRATOR, "").await?;
    }
    rolled(&cluster, &eye, &first).await?;
    cluster.done().await
}

/// Pods of the cluster's orchestrators.
async fn orchestrators(cluster: &ClusterUnderTest) -> Result<Vec<String>> {
    let pods: Api<Pod> = cluster.namespaced();
    let labels = format!("app.kubernetes.io/instance={},app.kubernetes.io/component=multiorch", cluster.name);
    let names: Vec<String> =
        pods.list(&ListParams::default().labels(&labels)).await?.iter().map(Pod::name_any).collect();
    ensure!(!names.is_empty(), "the shard has orchestrators");
    Ok(names)
}
