//! Three cells on three nodes: one PRIMARY, standbys elsewhere, and growth while it runs.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Result, ensure};
use stories::{Bed, ClusterUnderTest};

#[tokio::test]
async fn three_zones_hold_one_primary_and_two_replicas_and_grow_by_a_patch() -> Result<()> {
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let namespace = bed.namespace("three-cells").await?;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/demo-multi-az-shared-volume.yaml");
    let cluster = ClusterUnderTest::apply(&bed, &namespace, &sample).await?;
    cluster.healthy(300).await?;
    let members = cluster.roles(2, 120).await?;
    let zones: BTreeSet<&str> = members.iter().map(|member| member.zone.as_str()).collect();
    ensure!(zones.len() == 3, "three zones, one member each: {members:?}");

    let path = "/spec/databases/0/tablegroups/0/shards/0/spec/pools/default/replicasPerCell";
    cluster.patch(&format!(r#"[{{"op": "replace", "path": "{path}", "value": 2}}]"#)).await?;
    let members = cluster.roles(5, 180).await?;
    for zone in zones {
        ensure!(members.iter().filter(|member| member.zone == zone).count() == 2, "two members in {zone}: {members:?}");
    }
    cluster.healthy(120).await?;
    cluster.delete(240).await?;
    bed.remove_namespace(&namespace).await
}
