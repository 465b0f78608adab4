//! One cell: from nothing to Healthy, through the controller's death, to nothing.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::{
    core::v1::{Secret, Service},
    events::v1::Event,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use stories::{Bed, ClusterUnderTest, until, within};

/// How long a cluster may take to go while its controller lives.
const DELETION: Duration = Duration::from_mins(1);

fn in_time(deletion: Duration) -> Result<()> {
    ensure!(deletion <= DELETION, "the deletion took {} s", deletion.as_secs());
    Ok(())
}

fn sample(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples").join(name)
}

#[tokio::test]
async fn minimal_becomes_healthy_with_a_confirmed_primary_and_leaves_only_retained_volumes() -> Result<()> {
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let namespace = bed.namespace("minimal").await?;
    let cluster = ClusterUnderTest::apply(&bed, &namespace, &sample("minimal.yaml")).await?;
    cluster.healthy(240).await?;
    // Healthy means that the primary is known, so no waiting here.
    let members = cluster.members().await?;
    ensure!(members.iter().filter(|m| m.role == "PRIMARY").count() == 1, "Healthy without one PRIMARY: {members:?}");
    ensure!(members.len() == 2, "two pods in a single cell, not {members:?}");

    let secrets: Api<Secret> = cluster.namespaced();
    let password = secrets.get("minimal-postgres-password").await?.data.unwrap_or_default();
    ensure!(password.get("password").is_some_and(|p| p.0.len() == 24), "a generated password of 24 characters");
    let services: Api<Service> = cluster.namespaced();
    let gateway = services.get("minimal-multigateway").await?.spec.unwrap_or_default();
    ensure!(
        gateway.ports.unwrap_or_default().iter().any(|port| port.port == 5432),
        "PostgreSQL's port on the gateway Service"
    );
    services.get("minimal-multigateway-replica").await?;

    // Drift of an owned field is reverted; a foreign label stays.
    let drift = json!({"metadata": {"labels": {"team": "dba"}}, "spec": {"ports": [{"name": "postgres", "port": 15432, "targetPort": "postgres"}]}});
    services.patch("minimal-multigateway", &PatchParams::default(), &Patch::Merge(&drift)).await?;
    until("the revert of a changed port", within(30), || async {
        let service = services.get("minimal-multigateway").await?;
        let ports: Vec<i32> =
            service.spec.clone().unwrap_or_default().ports.unwrap_or_default().iter().map(|p| p.port).collect();
        ensure!(ports == [5432], "ports {ports:?}");
        ensure!(service.metadata.labels.unwrap_or_default().contains_key("team"), "the foreign label is gone");
        Ok(())
    })
    .await?;

    // So is a deletion; users are told of both.
    services.delete("minimal-multigateway-replica", &DeleteParams::default()).await?;
    let events: Api<Event> = cluster.namespaced();
    until("a Service that is back, and events that tell of it", within(30), || async {
        services.get("minimal-multigateway-replica").await?;
        let all = events.list(&ListParams::default()).await?.items.into_iter();
        let reverted = all.filter(|event| event.reason.as_deref() == Some("DriftReverted"));
        let notes: Vec<String> = reverted.filter_map(|event| event.note).collect();
        let told = |words: &str| notes.iter().any(|note| note.contains(words));
        ensure!(
            told("/minimal-multigateway: spec.ports") && told("/minimal-multigateway-replica was gone"),
            "{notes:?}"
        );
        Ok(())
    })
    .await?;

    let claims = cluster.claims().await?;
    ensure!(!claims.is_empty(), "volume claims exist");
    in_time(cluster.delete(180).await?)?;
    ensure!(cluster.claims().await? == claims, "claims are retained by default: had {claims:?}");

    // The same manifest serves from the retained volumes.
    let again = ClusterUnderTest::apply(&bed, &namespace, &sample("minimal.yaml")).await?;
    again.healthy(240).await?;
    ensure!(again.claims().await? == claims, "the retained claims are used again");
    let secret = secrets.get("minimal-postgres-password").await?.data.unwrap_or_default();
    ensure!(secret == password, "the password outlives the cluster, as the data does");
    in_time(again.delete(180).await?)?;
    bed.remove_namespace(&namespace).await
}

#[tokio::test]
async fn the_controller_may_die_at_any_moment() -> Result<()> {
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    for _ in 0..stories::bed::rounds() {
        let namespace = bed.namespace("crash").await?;
        let cluster = ClusterUnderTest::apply(&bed, &namespace, &sample("minimal.yaml")).await?;
        // Each crash comes at another depth of the tree: after so many Services and claims exist.
        for objects in [1_usize, 5, 9] {
            until("the tree to grow", within(120), || async {
                let services: Api<Service> = cluster.namespaced();
                let seen = services.list(&cluster.mine()).await?.items.len() + cluster.claims().await?.len();
                ensure!(seen >= objects, "{seen} objects");
                Ok(())
            })
            .await?;
            bed.crash_controller().await?;
            bed.controller_ready().await?;
        }
        cluster.healthy(240).await?;
        cluster.delete(180).await?;
        bed.remove_namespace(&namespace).await?;
    }
    Ok(())
}
