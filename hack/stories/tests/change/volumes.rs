//! Data volumes that grow under a live shard.
//!
//! The volumes of the beds are directories of the host, and nobody there enlarges them: what a user sees is that larger volumes were asked
//! for, and that nobody had to stop for it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use stories::{Bed, ClusterUnderTest, until, within};

use super::watch::{Allowed, GAP, POOL, only_long, three_cells, watched};

/// What the data volumes under the pool pods ask for, by pod.
async fn asked(cluster: &ClusterUnderTest) -> Result<BTreeMap<String, String>> {
    let claims: Api<PersistentVolumeClaim> = cluster.namespaced();
    let mut all = BTreeMap::new();
    for pod in cluster.starts(&["shard-pool"]).await?.into_keys() {
        let claim = claims.get(&shared::name::data_pvc(&pod)).await?;
        let resources = claim.spec.and_then(|spec| spec.resources).unwrap_or_default();
        let size = resources.requests.unwrap_or_default().remove("storage").map(|size| size.0);
        all.insert(pod, size.unwrap_or_default());
    }
    Ok(all)
}

#[tokio::test]
async fn volumes_are_asked_to_grow_and_nobody_stops_for_it() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let cluster = three_cells(&bed, "grow").await?;
    let (before, started) = (asked(&cluster).await?, cluster.starts(&["shard-pool"]).await?);
    ensure!(before.len() == 3 && before.values().all(|size| size == "1Gi"), "{before:?}");
    let allowed = Allowed { down: 0, gap: GAP };
    let course = watched(&cluster, "volumes grow", 3, allowed, async || {
        let patch = json!([{"op": "replace", "path": format!("{POOL}/storage/size"), "value": "2Gi"}]);
        cluster.patch(&patch.to_string()).await?;
        until("three volumes that ask for more", within(60), || async {
            let now = asked(&cluster).await?;
            ensure!(now.len() == 3 && now.values().all(|size| size == "2Gi"), "{now:?}");
            Ok(())
        })
        .await
    })
    .await?;
    ensure!(course.gone.is_empty() && course.led.len() == 1, "nobody goes for it: {course:?}");
    let now = cluster.starts(&["shard-pool"]).await?;
    ensure!(now == started, "nobody is restarted: {started:?} before, {now:?} now");
    // The template of the next member asks for as much.
    let two = json!([{"op": "replace", "path": format!("{POOL}/replicasPerCell"), "value": 2}]);
    cluster.patch(&two.to_string()).await?;
    cluster.roles(5, 300).await?;
    let now = asked(&cluster).await?;
    ensure!(now.len() == 6 && now.values().all(|size| size == "2Gi"), "{now:?}");
    let claims: Api<PersistentVolumeClaim> = cluster.namespaced();
    let all = claims.list(&cluster.mine()).await?.items;
    let seen: Vec<String> = all
        .iter()
        .map(|claim| {
            let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"));
            format!("{} has {}", claim.name_any(), capacity.map_or("nothing", |size| size.0.as_str()))
        })
        .collect();
    eprintln!("volumes of the bed after the change: {seen:?}");
    cluster.done().await
}
