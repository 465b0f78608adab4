//! The life of a repository on a volume and in an object store: backups come by schedule and outlive the pod that makes one, retention removes
//! them, and a new standby begins with what is there.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use shared::api::v1alpha1::{BackupKind, BackupPhase};
use stories::{
    Backups, Bed, ClusterUnderTest, ObjectStore,
    backup::{Listed, is_real},
    until, within,
};

use super::{SOON, begin, change_backup, keys, only_long, scheduled, tells};

/// The pool of a cluster with one shard.
const POOL: &str = "/spec/databases/0/tablegroups/0/shards/0/spec/pools/default";
/// A backup of everything takes no longer, also while others restore.
const LONG: u64 = 600;
/// Full backups that retention keeps.
const KEPT: usize = 2;
/// The bucket of the object store.
const BUCKET: &str = "story-backups";

/// A cluster whose repository is looked at.
struct Life<'a> {
    cluster: &'a ClusterUnderTest,
    backups: Backups<'a>,
}

impl<'a> Life<'a> {
    fn of(cluster: &'a ClusterUnderTest) -> Self {
        Self { cluster, backups: Backups::of(cluster) }
    }

    /// A full backup and one that builds on it, both by schedule; their names in the repository.
    async fn by_schedule(&self) -> Result<[String; 2]> {
        let primary = self.cluster.primary().await?;
        let full = scheduled(&self.backups, self.cluster, &primary, BackupKind::Full, LONG).await?;
        let differential = scheduled(&self.backups, self.cluster, &primary, BackupKind::Diff, LONG).await?;
        let id = |id: Option<String>| id.context("its name in the repository");
        let (full, differential) = (id(full.backup_id)?, id(differential.backup_id)?);
        // Another full one may have been due between the two.
        let listed = self.backups.listed().await?;
        let bases: BTreeSet<&str> =
            listed.iter().filter(|backup| backup.kind == "full").map(|backup| backup.id.as_str()).collect();
        let base = differential.split('_').next().unwrap_or_default();
        ensure!(bases.contains(base), "{differential} builds on none of {bases:?}");
        ensure!(bases.contains(full.as_str()), "{full} is none of {bases:?}");
        Ok([full, differential])
    }

    /// Ends the pod that makes a backup. Another one comes in its place, and the same run makes the backup once more.
    async fn cut_off(&self, members: usize) -> Result<()> {
        let backups = &self.backups;
        if !is_real() {
            backups.fault_everywhere("hang-backup").await?;
        }
        // The data plane may choose the pod that has gone until its record is written anew.
        backups.order("cut", &json!({"type": "full", "attempts": 6})).await?;
        let running = backups.reaches("cut", BackupPhase::Running, "", SOON).await?;
        let maker = backups.maker(running.job_id.as_deref().unwrap_or_default()).await?;
        let pods: Api<Pod> = self.cluster.namespaced();
        let uid = pods.get(&maker).await?.uid();
        pods.delete(&maker, &DeleteParams::default().grace_period(0)).await?;
        until("another pod in its place", within(SOON), || async {
            let pod = pods.get(&maker).await?;
            ensure!(pod.uid() != uid && shared::health::is_ready(&pod), "not yet");
            Ok(())
        })
        .await?;
        if !is_real() {
            backups.fault_everywhere("").await?;
        }
        let cut = backups.completed("cut", LONG).await?;
        ensure!(cut.attempt > Some(1), "nothing was cut off: {cut:?}");
        self.cluster.roles(members - 1, 240).await?;
        backups.make("after-the-cut", &json!({"type": "full"}), LONG).await?;
        backups.says("BackupHealthy", "True", "BackupRecent", 90).await?;
        Ok(())
    }

    /// Has retention keep the newest full backups alone; which ones those are.
    async fn prune(&self) -> Result<Vec<String>> {
        change_backup(self.cluster, "retention", &json!({"full": KEPT})).await?;
        self.cluster.healthy(120).await?;
        let mut newest = Vec::new();
        for round in 0..=KEPT {
            let made = self.backups.make(&format!("full-{round}"), &json!({"type": "full"}), LONG).await?;
            newest.push(made.backup_id.context("its name in the repository")?);
        }
        newest.remove(0);
        until("the newest full backups alone", within(120), || async {
            let listed = self.backups.listed().await?;
            let mut all: Vec<&str> = listed.iter().map(|backup| backup.id.as_str()).collect();
            // Names are times, and lists come in any order.
            all.sort_unstable();
            ensure!(all == newest, "{listed:?}, of which {newest:?} are the newest full ones");
            ensure!(listed.iter().all(|backup: &Listed| backup.kind == "full"), "{listed:?}");
            Ok(())
        })
        .await?;
        Ok(newest)
    }

    /// More standbys, which have nothing to begin with but the repository, and follow the primary.
    async fn grow(&self, per_cell: usize, members: usize) -> Result<()> {
        let before: BTreeSet<String> = self.backups.pods().await?.iter().map(Pod::name_any).collect();
        let patch = json!([{"op": "replace", "path": format!("{POOL}/replicasPerCell"), "value": per_cell}]);
        self.cluster.patch(&patch.to_string()).await?;
        let now = self.cluster.roles(members - 1, 600).await?;
        let new = now.iter().filter(|member| !before.contains(&member.pod)).count();
        ensure!(new == members - before.len(), "{new} new members beside {before:?}: {now:?}");
        let pods: Api<Pod> = self.cluster.namespaced();
        for member in now.iter().filter(|member| member.role == "REPLICA") {
            let pod = pods.get(&member.pod).await?;
            until(&format!("{} to stream", member.pod), within(120), || async {
                ensure!(self.backups.streams(&pod).await?, "it does not");
                Ok(())
            })
            .await?;
        }
        self.cluster.healthy(120).await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_backup_whose_pod_dies_is_made_again_retention_prunes_and_a_new_standby_begins_with_a_restore() -> Result<()>
{
    if only_long() {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    // Two go on confirming commits while the third one is away.
    let cluster = begin(&bed, "again", 3, &json!({})).await?;
    let life = Life::of(&cluster);
    // A kubelet leaves a pod that is forced to go two more seconds, and a backup has to take longer.
    life.backups.fill(env!("CARGO_BIN_EXE_sql"), 600_000).await?;
    // The differential one goes with the next full one: retention keeps one of the two kinds together.
    let [full, _] = life.by_schedule().await?;
    life.cut_off(3).await?;
    life.backups.holds(&full, true, 30).await?;
    life.prune().await?;
    life.grow(4, 4).await?;
    cluster.done().await
}

/// The sample with three cells, with its backups in an object store of ours.
fn three_cells(store: &ObjectStore) -> Result<Value> {
    let text = std::fs::read_to_string(stories::lesson::root().join("samples/demo-multi-az.yaml"))?;
    let mut manifest: Value = serde_saphyr::from_str(&text)?;
    let change = json!({
        "bucket": BUCKET, "endpoint": store.endpoint, "serviceAccountName": null,
        "useEnvCredentials": true, "credentialsSecret": "keys",
    });
    json_patch::merge(&mut manifest["spec"]["backup"]["s3"], &change);
    // The story has times and a retention of its own.
    json_patch::merge(&mut manifest["spec"]["backup"], &json!({"schedule": null, "retention": null}));
    Ok(manifest)
}

/// The objects of a backup in the store.
fn objects_of(store: &ObjectStore, place: &str, id: &str) -> Result<usize> {
    let part = format!("/{id}/");
    Ok(store.objects(place)?.iter().filter(|object| object.contains(&part)).count())
}

#[tokio::test]
async fn three_cells_keep_their_backups_in_an_object_store() -> Result<()> {
    if only_long() {
        return Ok(());
    }
    if !is_real() {
        eprintln!("SKIPPED: the stand-in keeps no objects (MULTIGRES_BIN_DIR names the real data plane)");
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let store = ObjectStore::start(&bed, BUCKET).await?;
    let namespace = bed.namespace("objects").await?;
    let secrets: Api<Secret> = Api::namespaced(bed.client.clone(), &namespace);
    secrets.create(&PostParams::default(), &keys(&store.access_key, &store.secret_key)).await?;
    let cluster = ClusterUnderTest::apply_value(&bed, &namespace, &three_cells(&store)?).await?;
    cluster.healthy(420).await?;
    cluster.roles(2, 120).await?;
    let life = Life::of(&cluster);
    let backups = &life.backups;
    let made = backups.make("full", &json!({"type": "full"}), LONG).await?;
    tells(backups, &made, BackupKind::Full, &cluster.primary().await?).await?;
    backups.says("BackupHealthy", "True", "BackupRecent", 90).await?;
    backups.says("WALArchiving", "True", "Archiving", 150).await?;

    let places = cluster.get().await?.status.unwrap_or_default().backup_repositories;
    let place = format!("{BUCKET}/prod/{namespace}/{}", cluster.name);
    ensure!(places.get("postgres").is_some_and(|found| *found == format!("s3://{place}")), "{places:?}");
    let first = made.backup_id.context("its name in the repository")?;
    ensure!(objects_of(&store, &place, &first)? > 0, "nothing of {first} is in the store");
    let archived = store.objects(&place)?.iter().filter(|object| object.contains("archive/")).count();
    ensure!(archived > 0, "no WAL is in the store");

    // Smaller than on a volume: in the end six members have it.
    backups.fill(env!("CARGO_BIN_EXE_sql"), 300_000).await?;
    let [full, differential] = life.by_schedule().await?;
    life.cut_off(3).await?;
    // The differential one goes with the next full one: retention keeps one of the two kinds together.
    for id in [&first, &full] {
        backups.holds(id, true, 30).await?;
        ensure!(objects_of(&store, &place, id)? > 0, "nothing of {id} is in the store any more");
    }
    let newest = life.prune().await?;
    for id in [&first, &full, &differential] {
        ensure!(objects_of(&store, &place, id)? == 0, "{id} takes room in the store, and nobody lists it");
    }
    for id in &newest {
        ensure!(objects_of(&store, &place, id)? > 0, "nothing of {id} is in the store");
    }
    life.grow(2, 6).await?;
    cluster.done().await
}
