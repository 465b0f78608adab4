//! Backups in a story: asked for, waited for, looked at through MultiAdmin, and disturbed through the stand-in's faults.

use std::{collections::BTreeSet, env, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use shared::{
    api::v1alpha1::{BackupPhase, MultigresBackup, MultigresBackupStatus, ShardStatus},
    condition, label, name,
};
use tokio::process::Command;

use crate::{
    cluster::ClusterUnderTest,
    fault::{BED, TESTBED},
    wait::{until, within},
};

/// HTTP port of a pooler, where the stand-in takes faults.
pub const POOLER: u16 = 15200;
/// Port of the exporter beside PostgreSQL, where the stand-in takes faults, too.
pub const EXPORTER: u16 = 9187;
/// HTTP port of MultiAdmin.
const ADMIN: u16 = 18000;
/// Port of gateways for PostgreSQL clients of the primary.
const POSTGRES: u16 = 5432;
/// So many rows of the filler go into one statement: a gateway gives each of them half a minute, and the standbys write all of it, too.
const ROWS_AT_ONCE: usize = 100_000;

/// Whether the data plane of the bed is the real one.
pub fn is_real() -> bool {
    env::var_os("MULTIGRES_BIN_DIR").is_some()
}

/// A cluster of one cell with so many poolers and a repository on a volume, changed by a merge patch of its spec.
pub fn small(name: &str, members: u32, change: &Value) -> Value {
    let little = json!({"requests": {"cpu": "10m", "memory": "32Mi"}});
    // PostgreSQL is sized by what it asks for.
    let postgres = json!({"requests": {"cpu": "50m", "memory": "256Mi"}});
    let pool = json!({
        "type": "readWrite", "replicasPerCell": members, "storage": {"size": "1Gi"},
        "postgres": {"resources": postgres}, "multipooler": {"resources": little},
    });
    let shard = json!({"name": "0-inf", "spec": {"multiorch": {"resources": little}, "pools": {"default": pool}}});
    let mut spec = json!({
        "globalTopoServer": {"etcd": {"replicas": 1, "storage": {"size": "1Gi"}, "resources": little}},
        "multiadmin": {"spec": {"resources": little}},
        "multiadminWeb": {"spec": {"resources": little}},
        "backup": {"type": "filesystem", "filesystem": {"path": "/backups", "storage": {"size": "1Gi"}}},
        "cells": [{"name": "zone-a", "spec": {"multigateway": {"resources": little}}}],
        "databases": [{"name": "postgres", "default": true, "tablegroups": [
            {"name": "default", "default": true, "shards": [shard]},
        ]}],
    });
    json_patch::merge(&mut spec, change);
    json!({
        "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresCluster", "metadata": {"name": name}, "spec": spec,
    })
}

/// A backup as MultiAdmin lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the repository.
    pub id: String,
    /// `full`, `diff` or `incr`.
    pub kind: String,
}

/// The runs and the repository of a cluster's only shard.
pub struct Backups<'a> {
    cluster: &'a ClusterUnderTest,
}

impl<'a> Backups<'a> {
    /// Those of a cluster.
    pub fn of(cluster: &'a ClusterUnderTest) -> Self {
        Self { cluster }
    }

    /// The handle of the runs.
    pub fn runs(&self) -> Api<MultigresBackup> {
        self.cluster.namespaced()
    }

    /// Asks for a backup with this spec, but for the cluster, which is ours.
    pub async fn order(&self, name: &str, spec: &Value) -> Result<()> {
        let mut spec = spec.clone();
        spec["cluster"] = json!(self.cluster.name);
        let run: MultigresBackup = serde_json::from_value(json!({
            "apiVersion": "multigres.com/v1alpha1", "kind": "MultigresBackup", "metadata": {"name": name}, "spec": spec,
        }))?;
        self.runs().create(&PostParams::default(), &run).await.with_context(|| format!("asking for backup {name}"))?;
        Ok(())
    }

    /// The status of a run.
    pub async fn status(&self, name: &str) -> Result<MultigresBackupStatus> {
        Ok(self.runs().get(name).await?.status.unwrap_or_default())
    }

    /// Waits until a run is in a phase and its message contains `words`.
    pub async fn reaches(
        &self,
        name: &str,
        phase: BackupPhase,
        words: &str,
        seconds: u64,
    ) -> Result<MultigresBackupStatus> {
        until(&format!("backup {name} to be {phase} ({words:?})"), within(seconds), || async {
            let status = self.status(name).await?;
            let message = status.message.as_deref().unwrap_or_default();
            ensure!(status.phase == Some(phase) && message.contains(words), "{status:?}");
            Ok(status)
        })
        .await
    }

    /// Waits for the end of a run, whatever that is.
    pub async fn ended(&self, name: &str, seconds: u64) -> Result<MultigresBackupStatus> {
        until(&format!("the end of backup {name}"), within(seconds), || async {
            let status = self.status(name).await?;
            ensure!(status.phase.is_some_and(BackupPhase::is_final), "{status:?}");
            Ok(status)
        })
        .await
    }

    /// Waits until a run has ended well.
    pub async fn completed(&self, name: &str, seconds: u64) -> Result<MultigresBackupStatus> {
        let status = self.ended(name, seconds).await?;
        ensure!(status.phase == Some(BackupPhase::Completed), "backup {name} ended badly: {status:?}");
        Ok(status)
    }

    /// Asks for a backup and waits until it is made.
    pub async fn make(&self, name: &str, spec: &Value, seconds: u64) -> Result<MultigresBackupStatus> {
        self.order(name, spec).await?;
        self.completed(name, seconds).await
    }

    /// The name in the repository of a run that has ended well.
    pub async fn id(&self, name: &str) -> Result<String> {
        self.status(name).await?.backup_id.with_context(|| format!("backup {name} has no name in the repository"))
    }

    /// What the repository holds, as MultiAdmin says.
    pub async fn listed(&self) -> Result<Vec<Listed>> {
        let query = "database=postgres&table_group=default&shard=0-inf";
        let answer = self.admin(&format!("backups?{query}")).await.context("listing backups")?;
        let entries = answer["backups"].as_array().into_iter().flatten();
        let entry =
            |entry: &Value| Listed { id: text(entry, ["backupId", "backup_id"]), kind: text(entry, ["type"; 2]) };
        Ok(entries.map(entry).collect())
    }

    /// Waits until the repository holds a backup, or does not hold it any more.
    pub async fn holds(&self, id: &str, held: bool, seconds: u64) -> Result<()> {
        let what = if held { "to be" } else { "not to be" };
        until(&format!("{id} {what} in the repository"), within(seconds), || async {
            let listed = self.listed().await?;
            ensure!(listed.iter().any(|backup| backup.id == id) == held, "{listed:?}");
            Ok(())
        })
        .await
    }

    /// Whether the standby in a pod receives WAL from its primary.
    pub async fn streams(&self, pod: &Pod) -> Result<bool> {
        let cell = pod.labels().get(label::CELL).context("a pool pod has a cell")?;
        let id = name::pooler_service_id(&pod.name_any());
        let answer = self.admin(&format!("poolers/{cell}/{id}/status")).await?;
        let standby = &answer["status"];
        let standby = standby.get("replicationStatus").or_else(|| standby.get("replication_status"));
        let receiver = standby.map(|it| text(it, ["walReceiverStatus", "wal_receiver_status"])).unwrap_or_default();
        Ok(receiver == "streaming")
    }

    async fn admin(&self, path: &str) -> Result<Value> {
        let (namespace, service) = (&self.cluster.namespace, name::multiadmin(&self.cluster.name));
        let path = format!("/api/v1/namespaces/{namespace}/services/{service}:{ADMIN}/proxy/api/v1/{path}");
        let request = http::Request::get(&path).body(Vec::new())?;
        self.cluster.bed.client.request(request).await.with_context(|| path)
    }

    /// Waits until the shard has a condition with this status and reason.
    pub async fn says(&self, type_: &str, status: &str, reason: &str, seconds: u64) -> Result<ShardStatus> {
        until(&format!("{type_}={status} {reason}"), within(seconds), || async {
            let shard = self.cluster.shard().await?.status.unwrap_or_default();
            let found = condition::find(&shard.conditions, type_);
            ensure!(found.is_some_and(|it| it.status == status && it.reason == reason), "{found:?}");
            Ok(shard)
        })
        .await
    }

    /// Waits for an event of a run with these words.
    pub async fn told(&self, run: &str, reason: &str, words: &str, seconds: u64) -> Result<()> {
        let events: Api<Event> = self.cluster.namespaced();
        let of_run = format!("involvedObject.kind=MultigresBackup,involvedObject.name={run}");
        let of_run = ListParams::default().fields(&of_run);
        until(&format!("event {reason} of {run} ({words:?})"), within(seconds), || async {
            let all = events.list(&of_run).await?.items;
            let said = |event: &Event| {
                let message = event.message.as_deref().unwrap_or_default();
                event.reason.as_deref() == Some(reason) && message.contains(words)
            };
            let told: Vec<_> = all.iter().map(|event| (&event.reason, &event.message)).collect();
            ensure!(all.iter().any(said), "{told:?}");
            Ok(())
        })
        .await
    }

    /// Waits until a run is there no more.
    pub async fn is_gone(&self, run: &str, seconds: u64) -> Result<()> {
        until(&format!("the end of the object {run}"), within(seconds), || async {
            let left = self.runs().get_opt(run).await?;
            ensure!(left.is_none(), "{left:?}");
            Ok(())
        })
        .await
    }

    /// The pool pods.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let labels = format!("{}={},{}=shard-pool", label::INSTANCE, self.cluster.name, label::COMPONENT);
        let pods: Api<Pod> = self.cluster.namespaced();
        Ok(pods.list(&ListParams::default().labels(&labels)).await?.items)
    }

    /// The pod whose pooler made a backup or is at it, by a text that ends with the name of the pooler.
    pub async fn maker(&self, pooler: &str) -> Result<String> {
        let pods = self.pods().await?;
        let names: BTreeSet<String> = pods.iter().map(Pod::name_any).collect();
        let found = names.iter().find(|pod| pooler.ends_with(&name::pooler_service_id(pod)));
        found.cloned().with_context(|| format!("{pooler:?} is none of {names:?}"))
    }

    /// Sets the stand-in's faults in one process of a pod; those before are over, and without words all are.
    pub async fn fault(&self, pod: &str, port: u16, words: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy/standin/fault", self.cluster.namespace);
        let request = http::Request::post(&path).body(words.as_bytes().to_vec())?;
        self.cluster.bed.client.request_text(request).await.with_context(|| format!("faults {words:?} of {pod}"))?;
        Ok(())
    }

    /// Sets the stand-in's faults in all poolers.
    pub async fn fault_everywhere(&self, words: &str) -> Result<()> {
        for pod in self.pods().await? {
            self.fault(&pod.name_any(), POOLER, words).await?;
        }
        Ok(())
    }

    /// Some rows, about a kilobyte each, with the program `sql`, so that a backup takes its time. The stand-in takes its time on command.
    pub async fn fill(&self, program: &str, rows: usize) -> Result<()> {
        if !is_real() {
            return Ok(());
        }
        let insert = |first: usize| {
            let last = rows.min(first + ROWS_AT_ONCE - 1);
            format!("INSERT INTO filler SELECT g, repeat(md5(g::text), 30) FROM generate_series({first}, {last}) AS g")
        };
        let inserts: Vec<String> = (1..=rows).step_by(ROWS_AT_ONCE).map(insert).collect();
        let table = "CREATE TABLE IF NOT EXISTS filler (id bigint PRIMARY KEY, text text)";
        let statements: Vec<&str> = [table].into_iter().chain(inserts.iter().map(String::as_str)).collect();
        self.sql(program, &statements).await?;
        Ok(())
    }

    /// Runs statements through the gateway with the program `sql`, which runs inside the bed's network.
    pub async fn sql(&self, program: &str, statements: &[&str]) -> Result<String> {
        self.sql_with(program, &[], statements).await
    }

    /// The same with further options of the program.
    pub async fn sql_with(&self, program: &str, options: &[&str], statements: &[&str]) -> Result<String> {
        self.sql_through(&name::cluster_gateway(&self.cluster.name), program, options, statements).await
    }

    /// The same through the gateways behind a Service, such as those of one cell.
    pub async fn sql_through(
        &self,
        service: &str,
        program: &str,
        options: &[&str],
        statements: &[&str],
    ) -> Result<String> {
        let secrets: Api<Secret> = self.cluster.namespaced();
        let secret = secrets.get(&name::postgres_password(&self.cluster.name)).await?;
        let password = secret.data.unwrap_or_default().remove("password").context("a password")?;
        let host = format!("{service}.{}.svc.cluster.local", self.cluster.namespace);
        let port = POSTGRES.to_string();
        let mut command = in_bed()?;
        command.args([program, "--host", &host, "--port", &port]).args(options).args(statements);
        let command = command.env("PGPASSWORD", std::str::from_utf8(&password.0)?);
        let output = command.output().await.context("starting a SQL client")?;
        let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{statements:?}: {why}");
        Ok(said.trim().to_owned())
    }
}

/// The text under either spelling of a key; grpc-gateway can be told to use either.
fn text(value: &Value, spellings: [&str; 2]) -> String {
    spellings.iter().find_map(|key| value.get(key)?.as_str()).unwrap_or_default().to_owned()
}

/// A command that runs the words it is given inside the network of the bed.
pub(crate) fn in_bed() -> Result<Command> {
    let testbed = env::var_os(TESTBED).with_context(|| format!("{TESTBED} does not name the testbed's command"))?;
    let bed = env::var_os(BED).with_context(|| format!("{BED} does not name a bed"))?;
    let mut command = Command::new(testbed);
    command.arg("--name").arg(bed).args(["exec", "--"]).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_key_are_read() {
        for entry in [json!({"backupId": "x"}), json!({"backup_id": "x"})] {
            assert_eq!(text(&entry, ["backupId", "backup_id"]), "x");
        }
        assert_eq!(text(&json!({}), ["type"; 2]), "");
    }

    #[test]
    fn a_small_cluster_is_a_cluster_and_takes_a_change() {
        let change = json!({"backup": {"retention": {"full": 2}}});
        let cluster: shared::api::v1alpha1::MultigresCluster = serde_json::from_value(small("x", 3, &change)).unwrap();
        let backup = cluster.spec.backup.unwrap();
        assert_eq!(backup.retention.unwrap().full, Some(2));
        assert_eq!(backup.filesystem.unwrap().path.as_deref(), Some("/backups"));
    }
}
