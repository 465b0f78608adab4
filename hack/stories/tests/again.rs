//! A cluster that is deleted under Retain and applied again, over its own etcd and over one of somebody else: the old rows are there, with the
//! old password, and nothing of the topology keeps the same manifest from a new beginning.
//!
//! What the rows say needs the real data plane; the stand-in has the rest, in the long form.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    ByteString,
    api::core::v1::{PersistentVolumeClaim, Secret},
};
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};
use shared::name;
use stories::{
    Backups, Bed, ClusterUnderTest, Tools,
    backup::{is_real, small},
    bed::is_left_out,
    etcd, until, within,
};

/// The program that runs statements inside the network of the bed.
const SQL: &str = env!("CARGO_BIN_EXE_sql");
/// How long a cluster may take to become Healthy, on a machine that runs real databases on two cores.
const START: u64 = 420;
/// How many rows have to outlive their cluster.
const ROWS: &str = "100";
/// Members of the largest etcd here.
const MEMBERS: u32 = 3;
/// Root of the keys in the etcd of somebody else.
const ROOT: &str = "/multigres/again";

/// Whether this form of the stories leaves this one out, which is said.
fn only_long() -> bool {
    !is_real() && is_left_out("this story takes minutes")
}

/// A cluster of two poolers that is applied again and again.
struct Lives {
    cluster: ClusterUnderTest,
    manifest: Value,
}

impl Lives {
    /// The first life, with rows in it.
    async fn begin(bed: &Bed, namespace: &str, manifest: Value) -> Result<Self> {
        let cluster = ClusterUnderTest::apply_value(bed, namespace, &manifest).await?;
        let lives = Self { cluster, manifest };
        lives.serves().await?;
        let rows = format!("INSERT INTO kept SELECT g, md5(g::text) FROM generate_series(1, {ROWS}) AS g");
        lives.sql(&["CREATE TABLE kept (id bigint PRIMARY KEY, text text)", &rows]).await?;
        Ok(lives)
    }

    /// The next life.
    async fn again(&self) -> Result<()> {
        let ClusterUnderTest { bed, namespace, .. } = &self.cluster;
        ClusterUnderTest::apply_value(bed, namespace, &self.manifest).await?;
        self.serves().await
    }

    async fn serves(&self) -> Result<()> {
        self.cluster.healthy(START).await?;
        self.cluster.roles(1, 120).await.map(drop)
    }

    /// What the last of these statements yields; nothing without databases.
    async fn sql(&self, statements: &[&str]) -> Result<Option<String>> {
        if !is_real() {
            return Ok(None);
        }
        Backups::of(&self.cluster).sql(SQL, statements).await.map(Some)
    }

    async fn password(&self) -> Result<BTreeMap<String, ByteString>> {
        let secrets: Api<Secret> = self.cluster.namespaced();
        let secret = secrets.get(&name::postgres_password(&self.cluster.name)).await.context("the password")?;
        secret.data.context("a password")
    }

    /// The cluster goes, and its volumes and its password stay.
    async fn end(&self) -> Result<()> {
        let (claims, password) = (self.cluster.claims().await?, self.password().await?);
        self.cluster.delete(300).await?;
        let left = self.cluster.claims().await?;
        ensure!(left == claims, "claims before: {claims:?}, left: {left:?}");
        ensure!(self.password().await? == password, "the password is another one");
        Ok(())
    }

    /// The second life has the rows of the first one, with its password, and takes more.
    async fn second(&self) -> Result<()> {
        let (claims, password) = (self.cluster.claims().await?, self.password().await?);
        self.again().await?;
        let now = self.cluster.claims().await?;
        ensure!(now == claims, "claims before: {claims:?}, now: {now:?}");
        ensure!(self.password().await? == password, "the password is another one");
        let rows = self.sql(&["SELECT count(*) FROM kept"]).await?;
        ensure!(rows.is_none_or(|rows| rows == ROWS), "some of the rows are lost");
        let more = self.sql(&["INSERT INTO kept VALUES (0, 'new')", "SELECT text FROM kept WHERE id = 0"]).await?;
        ensure!(more.is_none_or(|text| text == "new"), "the second life takes no rows");
        Ok(())
    }

    /// The third life finds no data and begins anew, whatever the topology was.
    async fn third(&self) -> Result<()> {
        let topology = name::global_topo(&self.cluster.name);
        let of_etcd: Vec<String> = (0..MEMBERS).map(|ordinal| name::topo_pvc(&topology, ordinal)).collect();
        let (kept, gone): (Vec<String>, Vec<String>) =
            self.cluster.claims().await?.into_iter().partition(|claim| of_etcd.contains(claim));
        let claims: Api<PersistentVolumeClaim> = self.cluster.namespaced();
        for claim in &gone {
            claims.delete(claim, &DeleteParams::default()).await?;
        }
        until("the end of the volumes with data", within(90), || async {
            let left = self.cluster.claims().await?;
            ensure!(left == kept, "{left:?}");
            Ok(())
        })
        .await?;
        self.again().await.context("a claim of a former life may be in the way")?;
        let tables = self.sql(&["SELECT count(*) FROM pg_tables WHERE tablename = 'kept'"]).await?;
        ensure!(tables.is_none_or(|tables| tables == "0"), "the rows were not in the volumes that went");
        Ok(())
    }
}

#[tokio::test]
async fn old_rows_and_the_old_password_outlive_a_cluster_with_its_own_etcd() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let namespace = bed.namespace("again").await?;
    let lives = Lives::begin(&bed, &namespace, small("again", 2, &json!({}))).await?;
    lives.end().await?;
    lives.second().await?;
    lives.end().await?;
    // The volume of the etcd stays, and what is in it is that of a cluster that is gone.
    lives.third().await?;
    lives.cluster.delete(300).await?;
    bed.remove_namespace(&namespace).await
}

/// An etcd of three members in the namespace, as the sample has it.
async fn foreign_etcd(namespace: &str) -> Result<Vec<String>> {
    let sample = std::fs::read_to_string(stories::lesson::root().join("samples/external-etcd/etcd.yaml"))?;
    let directory = tempfile::tempdir()?;
    let manifest = directory.path().join("etcd.yaml");
    std::fs::write(&manifest, sample.replace("external-etcd", namespace))?;
    let manifest = manifest.to_str().context("a path that is text")?;
    Tools::from_env()?.succeed("kubectl", &["apply", "-f", manifest]).await?;
    Ok((0..MEMBERS).map(|ordinal| format!("http://etcd-{ordinal}.etcd.{namespace}.svc:2379")).collect())
}

#[tokio::test]
async fn old_rows_and_the_old_password_outlive_a_cluster_with_an_external_etcd() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let namespace = bed.namespace("again-ext").await?;
    let endpoints = foreign_etcd(&namespace).await?;
    let external = json!({"endpoints": endpoints, "rootPath": ROOT});
    let manifest = small("again", 2, &json!({"globalTopoServer": {"etcd": null, "external": external}}));
    let keys = || etcd::keys(&bed.client, &namespace, "etcd-0", ROOT);
    let lives = Lives::begin(&bed, &namespace, manifest).await?;
    let before = keys().await?;
    ensure!(before.iter().any(|key| key.ends_with("/ShardInitClaim")), "nobody claimed the shard: {before:?}");
    let emptied = || async {
        until("an etcd without the cluster's records", within(60), || async {
            let left = keys().await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await
    };
    lives.end().await?;
    emptied().await?;
    lives.second().await?;
    lives.end().await?;
    emptied().await?;
    lives.third().await?;
    lives.cluster.delete(300).await?;
    emptied().await?;
    bed.remove_namespace(&namespace).await
}
