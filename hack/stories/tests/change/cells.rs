//! Cells that come and go under a live shard.

use std::fmt::Debug;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, Resource, ResourceExt as _, api::ListParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::{api::v1alpha1::Cell, label, name};
use stories::{Backups, Bed, ClusterUnderTest, cluster::Member, etcd, lesson, until, within};

use super::watch::{Allowed, GAP, POOL, only_long, three_cells, watched_at};

/// Components that nobody restarts because of another cell.
const STAY: [&str; 4] = ["shard-pool", "multiorch", "multigateway", "toposerver"];
/// The two members that a shard has before a cell comes, or after one went, are there all the time.
const BOTH: Allowed = Allowed { down: 0, gap: GAP };

/// A cluster of which the pool lies in the cells that it names, with one member in each.
async fn in_cells(bed: &Bed, story: &str, cells: &[&str]) -> Result<ClusterUnderTest> {
    let text = std::fs::read_to_string(lesson::root().join("samples/demo-multi-az-shared-volume.yaml"))?;
    let mut manifest: Value = serde_saphyr::from_str(&text)?;
    let entries: Vec<Value> = cells.iter().map(|cell| entry(cell)).collect();
    manifest["spec"]["cells"] = json!(entries);
    manifest.pointer_mut(POOL).context("the pool of the sample")?["cells"] = json!(cells);
    let namespace = bed.namespace(story).await?;
    let cluster = ClusterUnderTest::apply_value(bed, &namespace, &manifest).await?;
    cluster.healthy(300).await?;
    cluster.roles(cells.len() - 1, 120).await?;
    Ok(cluster)
}

fn entry(cell: &str) -> Value {
    json!({"name": cell, "zone": cell})
}

/// Waits until the members are there and all standbys stream, as MultiAdmin tells.
async fn all_stream(cluster: &ClusterUnderTest, standbys: usize, seconds: u64) -> Result<Vec<Member>> {
    let members = cluster.roles(standbys, seconds).await?;
    let backups = Backups::of(cluster);
    until("standbys that stream", within(120), || async {
        let leader = cluster.primary().await?;
        for pod in backups.pods().await? {
            let streams = pod.name_any() == leader || backups.streams(&pod).await?;
            ensure!(streams, "{} does not stream", pod.name_any());
        }
        Ok(())
    })
    .await?;
    Ok(members)
}

#[tokio::test]
async fn a_cell_that_comes_brings_a_standby_and_restarts_nobody() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = in_cells(&bed, "cell-comes", &["zone-a", "zone-b"]).await?;
    let first = cluster.primary().await?;
    let before = cluster.starts(&STAY).await?;
    let home = zone_of(&cluster.members().await?, &first)?;
    let gateway = name::gateway_service(&cluster.name, &home);
    let course = watched_at(&cluster, &gateway, "a cell comes", 2, BOTH, async || {
        let patch = json!([
            {"op": "add", "path": "/spec/cells/-", "value": entry("zone-c")},
            {"op": "replace", "path": format!("{POOL}/cells"), "value": ["zone-a", "zone-b", "zone-c"]},
        ]);
        cluster.patch(&patch.to_string()).await?;
        let members = all_stream(&cluster, 2, 300).await?;
        let new = members.iter().find(|member| member.zone == "zone-c").context("a member in the new cell")?;
        ensure!(new.role == "REPLICA", "the new member is a standby: {members:?}");
        Ok(())
    })
    .await?;
    ensure!(course.gone.is_empty() && course.led == [first.clone()], "nobody goes, nobody hands over: {course:?}");
    let after = cluster.starts(&STAY).await?;
    for (pod, start) in &before {
        ensure!(after.get(pod) == Some(start), "{pod} was restarted: {start:?} before, {:?} now", after.get(pod));
    }
    ensure!(after.len() > before.len(), "the new cell has pods: {after:?}");
    cluster.done().await
}

#[tokio::test]
async fn a_cell_that_leaves_goes_in_order_and_the_primary_hands_over_once_before() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = three_cells(&bed, "cell-goes").await?;
    let first = cluster.primary().await?;
    let members = cluster.members().await?;
    let home = zone_of(&members, &first)?;

    let standby = members.iter().find(|member| member.pod != first).context("a standby")?;
    let gateway = name::gateway_service(&cluster.name, &home);
    let course = watched_at(&cluster, &gateway, "a cell goes", 2, BOTH, async || {
        leave(&cluster, &standby.zone).await?;
        all_stream(&cluster, 1, 120).await.map(drop)
    })
    .await?;
    ensure!(course.gone == [(standby.pod.clone(), false)], "the standby of the cell goes, once: {course:?}");
    ensure!(course.led == [first.clone()], "nobody hands over: {course:?}");
    let claims = cluster.claims().await?;
    ensure!(claims.contains(&name::data_pvc(&standby.pod)), "the volume of {} is kept: {claims:?}", standby.pod);

    let back = json!([{"op": "add", "path": "/spec/cells/-", "value": entry(&standby.zone)}]);
    cluster.patch(&back.to_string()).await?;
    all_stream(&cluster, 2, 300).await?;
    cluster.healthy(300).await?;

    let gateway = name::gateway_service(&cluster.name, &standby.zone);
    let course = watched_at(&cluster, &gateway, "the primary's cell goes", 2, BOTH, async || {
        leave(&cluster, &home).await?;
        all_stream(&cluster, 1, 120).await.map(drop)
    })
    .await?;
    ensure!(course.gone == [(first.clone(), false)], "{first} goes, once and as a standby: {course:?}");
    ensure!(course.led.len() == 2 && course.led[0] == first, "one switchover: {course:?}");
    cluster.done().await
}

fn zone_of(members: &[Member], pod: &str) -> Result<String> {
    let member = members.iter().find(|member| member.pod == pod);
    Ok(member.with_context(|| format!("{pod} is none of {members:?}"))?.zone.clone())
}

/// Takes a cell out of the spec and waits until nothing of it is left.
async fn leave(cluster: &ClusterUnderTest, cell: &str) -> Result<()> {
    let there = topology(cluster, cell).await?;
    ensure!(!there.is_empty(), "the topology knows nothing of {cell} before it leaves");
    let cells = cluster.get().await?.spec.cells;
    let index = cells.iter().position(|entry| entry.name == cell).context("the cell is in the spec")?;
    cluster.patch(&json!([{"op": "remove", "path": format!("/spec/cells/{index}")}]).to_string()).await?;
    until(&format!("nothing left of {cell}"), within(420), || async {
        let cells: Api<Cell> = cluster.namespaced();
        let cells: Vec<Cell> = cells.list(&cluster.mine()).await?.items;
        if let Some(left) = cells.iter().find(|object| object.spec.name == cell) {
            let said = left.status.as_ref().map(|status| &status.conditions);
            anyhow::bail!("{} is still there: {said:?}", left.name_any());
        }
        let mut left = of_cell::<Pod>(cluster, cell).await?;
        left.extend(of_cell::<Deployment>(cluster, cell).await?);
        left.extend(of_cell::<Service>(cluster, cell).await?);
        left.extend(of_cell::<PodDisruptionBudget>(cluster, cell).await?);
        ensure!(left.is_empty(), "objects are left: {left:?}");
        let keys = topology(cluster, cell).await?;
        ensure!(keys.is_empty(), "the topology still has {keys:?}");
        let status = cluster.get().await?.status.unwrap_or_default();
        ensure!(!status.cells.contains_key(cell), "the status still tells of {cell}");
        Ok(())
    })
    .await
}

/// Objects of one kind that belong to a cell.
async fn of_cell<K>(cluster: &ClusterUnderTest, cell: &str) -> Result<Vec<String>>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = cluster.namespaced();
    let labels = format!("{}={},{}={cell}", label::INSTANCE, cluster.name, label::CELL);
    let list = api.list(&ListParams::default().labels(&labels)).await?;
    Ok(list.items.iter().map(|object| format!("{} {}", K::kind(&()), object.name_any())).collect())
}

/// Keys of the topology that name a cell.
async fn topology(cluster: &ClusterUnderTest, cell: &str) -> Result<Vec<String>> {
    let pod = format!("{}-0", name::global_topo(&cluster.name));
    let keys = etcd::keys(&cluster.bed.client, &cluster.namespace, &pod, "/").await?;
    Ok(keys.into_iter().filter(|key| key.split('/').any(|segment| segment == cell)).collect())
}
