//! Registration of a cluster's cells and databases in its topology: what was read, what should be there, and the writes between.

use std::{collections::BTreeSet, time::Duration};

use shared::api::v1alpha1::{BackupConfig, BackupType, GlobalTopoServerRef};

use crate::{
    plan::TopoWrite,
    upstream::{
        BackupLocation, CellRecord, DatabaseRecord, DurabilityPolicy, Listing, PoolerId, PoolerRecord, Registration,
        Scope, TopoAddress, Upstream,
    },
};

/// A pass must not wait longer for a topology that does not answer. More than one operation on a store may take
/// (`Limits::store_deadline`): that one has to end by itself, because only then is the store left alone by the passes that follow.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Where backups lie in the pods when the spec names no path.
const BACKUP_PATH: &str = "/backups";

/// What is known about the records of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Sight {
    /// The cluster's own etcd does not serve yet: nobody was asked.
    #[default]
    NotServing,
    /// The topology did not answer, or refused to.
    Failed {
        /// Machine-readable class.
        reason: String,
        /// What was said.
        message: String,
    },
    /// The records.
    Seen {
        /// All cells.
        cells: Listing<CellRecord>,
        /// All databases.
        databases: Listing<DatabaseRecord>,
    },
}

impl Sight {
    /// The cells that the record of a database lists: those of the spec, and those that leave while their poolers may serve. The
    /// order of a record that lists the same ones is kept.
    pub fn listed(&self, database: &str, cells: &[&str], inhabited: &[&str]) -> Vec<String> {
        let wanted: Vec<String> = cells.iter().map(|&cell| cell.to_owned()).collect();
        let Self::Seen { databases, .. } = self else { return wanted };
        let Some(stored) = databases.records.iter().find(|record| record.name == database) else { return wanted };
        let staying = inhabited.iter().filter(|cell| stored.cells.iter().any(|listed| listed == *cell));
        let all: Vec<String> = wanted.iter().cloned().chain(staying.map(|&cell| cell.to_owned())).collect();
        let same = all.len() != wanted.len() && set(&all) == set(&stored.cells);
        if same { stored.cells.clone() } else { all }
    }
}

fn set(names: &[String]) -> BTreeSet<&str> {
    names.iter().map(String::as_str).collect()
}

/// The poolers that are registered in some cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Those of the cluster.
    pub poolers: Vec<PoolerId>,
    /// Whether there are others, whose pods are in another namespace.
    pub strangers: bool,
    /// The cells whose poolers could be read.
    pub read: BTreeSet<String>,
}

/// The poolers that are registered in these cells, by the namespace of the cluster; what cannot be read is not there.
pub async fn poolers(upstream: &Upstream, at: &TopoAddress, cells: BTreeSet<String>, namespace: &str) -> Leftovers {
    if cells.is_empty() {
        return Leftovers::default();
    }
    let scope = Scope { cells, ..Scope::default() };
    let snapshot = tokio::time::timeout(READ_DEADLINE, upstream.topology().snapshot(at, &scope)).await;
    let Ok(snapshot) = snapshot else { return Leftovers::default() };
    let (ours, strangers): (Vec<&PoolerRecord>, Vec<&PoolerRecord>) =
        snapshot.poolers().partition(|pooler| pooler.may_be_in(namespace));
    let answered = snapshot.cells.iter().filter(|(_, poolers)| poolers.is_ok());
    Leftovers {
        poolers: ours.into_iter().map(|pooler| pooler.id.clone()).collect(),
        strangers: !strangers.is_empty(),
        read: answered.map(|(cell, _)| cell.clone()).collect(),
    }
}

/// The gateways and orchestrators that are registered in these cells; what cannot be read is not there.
pub async fn registrations(upstream: &Upstream, at: &TopoAddress, cells: &BTreeSet<String>) -> Vec<Registration> {
    if cells.is_empty() {
        return Vec::new();
    }
    let snapshot = tokio::time::timeout(READ_DEADLINE, upstream.topology().registrations(at, cells)).await;
    let read = snapshot.map(|snapshot| snapshot.cells).unwrap_or_default();
    read.into_values().filter_map(Result::ok).flatten().collect()
}

/// Reads the records, within a deadline.
pub async fn read(upstream: &Upstream, at: &TopoAddress) -> Sight {
    let topology = upstream.topology();
    let both = futures::future::try_join(topology.cells(at), topology.databases(at));
    match tokio::time::timeout(READ_DEADLINE, both).await {
        Ok(Ok((cells, databases))) => Sight::Seen { cells, databases },
        Ok(Err(error)) => Sight::Failed { reason: error.reason().to_owned(), message: error.to_string() },
        Err(_) => Sight::Failed {
            reason: "Slow".to_owned(),
            message: format!("{} did not answer within {} s", at.endpoints.join(","), READ_DEADLINE.as_secs()),
        },
    }
}

/// Where the topology of a cluster is, as clients dial it.
pub fn address(reference: &GlobalTopoServerRef) -> TopoAddress {
    TopoAddress::new([&reference.address], reference.root_path.as_str())
}

/// The records that should be there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Cells whose local topology, if they have one, serves.
    pub cells: Vec<CellRecord>,
    /// Cells that wait for their local topology.
    pub waiting: Vec<String>,
    /// Databases.
    pub databases: Vec<DatabaseRecord>,
}

impl Wanted {
    /// The writes that are missing, cells first: a database names them.
    pub fn missing(&self, sight: &Sight) -> Vec<TopoWrite> {
        let Sight::Seen { cells, databases } = sight else { return Vec::new() };
        let cells = self.cells.iter().filter(|cell| !cells.records.contains(cell)).cloned().map(TopoWrite::PutCell);
        let databases =
            self.databases.iter().filter(|db| !databases.records.contains(db)).cloned().map(TopoWrite::PutDatabase);
        cells.chain(databases).collect()
    }

    /// Whether everything is registered, as far as was seen.
    pub fn is_registered(&self, sight: &Sight) -> bool {
        matches!(sight, Sight::Seen { .. }) && self.waiting.is_empty() && self.missing(sight).is_empty()
    }
}

/// The writes that remove what a cluster and its poolers registered: poolers first, because they are found through their cells, then
/// databases, because they hold the cells.
pub fn removal(sight: &Sight, poolers: &[PoolerId], cells: &[String], databases: &[String]) -> Vec<TopoWrite> {
    let Sight::Seen { cells: seen_cells, databases: seen_databases } = sight else { return Vec::new() };
    let databases = seen_databases.records.iter().map(|record| &record.name).filter(|name| databases.contains(name));
    let cells: BTreeSet<&String> =
        seen_cells.records.iter().map(|record| &record.name).filter(|name| cells.contains(name)).collect();
    let poolers = poolers.iter().filter(|pooler| cells.contains(&pooler.cell));
    poolers
        .map(|pooler| TopoWrite::DeletePooler(pooler.clone()))
        .chain(databases.map(|name| TopoWrite::DeleteDatabase(name.clone())))
        .chain(cells.iter().map(|name| TopoWrite::DeleteCell((*name).clone())))
        .collect()
}

/// The record of a database; `None` for a durability policy that the data plane does not know.
pub fn database(name: &str, cells: Vec<String>, policy: &str, backup: Option<&BackupConfig>) -> Option<DatabaseRecord> {
    Some(DatabaseRecord {
        name: name.to_owned(),
        backup_location: Some(location(backup)),
        require_initial_repo_encryption: backup.is_some_and(|backup| backup.encryption.is_some()),
        cells,
        durability_policy: Some(DurabilityPolicy::named(policy)?),
    })
}

fn location(backup: Option<&BackupConfig>) -> BackupLocation {
    let s3 = backup.filter(|backup| backup.r#type == BackupType::S3).and_then(|backup| backup.s3.as_ref());
    if let Some(s3) = s3 {
        return BackupLocation::S3 {
            bucket: s3.bucket.clone(),
            region: s3.region.clone(),
            endpoint: s3.endpoint.clone().unwrap_or_default(),
            key_prefix: s3.key_prefix.clone().unwrap_or_default(),
            use_env_credentials: s3.use_env_credentials.unwrap_or_default(),
        };
    }
    let path = backup.and_then(|backup| backup.filesystem.as_ref()).and_then(|files| files.path.clone());
    BackupLocation::Filesystem { path: path.filter(|p| !p.is_empty()).unwrap_or_else(|| BACKUP_PATH.to_owned()) }
}

#[cfg(test)]
mod tests {
    use shared::api::v1alpha1::{EncryptionConfig, S3BackupConfig};

    use super::*;
    use crate::upstream::{Error, fake::FakeDataPlane};

    fn cell(name: &str) -> CellRecord {
        CellRecord {
            name: name.to_owned(),
            server_addresses: vec!["demo-global-topo.prod.svc:2379".to_owned()],
            root: "/multigres/global".to_owned(),
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            cells: vec![cell("a"), cell("b")],
            waiting: Vec::new(),
            databases: database("postgres", vec!["a".to_owned(), "b".to_owned()], "AT_LEAST_2", None)
                .into_iter()
                .collect(),
        }
    }

    fn seen(cells: &[CellRecord], databases: &[DatabaseRecord]) -> Sight {
        Sight::Seen {
            cells: Listing { records: cells.to_vec(), malformed: Vec::new() },
            databases: Listing { records: databases.to_vec(), malformed: Vec::new() },
        }
    }

    #[test]
    fn only_missing_or_wrong_records_are_written_and_cells_come_first() {
        let wanted = wanted();
        let mut wrong = cell("b");
        wrong.root = "/elsewhere".to_owned();
        let missing = wanted.missing(&seen(&[cell("a"), wrong], &[]));
        assert_eq!(missing, [TopoWrite::PutCell(cell("b")), TopoWrite::PutDatabase(wanted.databases[0].clone())]);
        let all = seen(&wanted.cells, &wanted.databases);
        assert!(wanted.missing(&all).is_empty());
        assert!(wanted.is_registered(&all));
    }

    #[test]
    fn nothing_counts_as_registered_while_nothing_was_seen() {
        assert!(!wanted().is_registered(&Sight::NotServing));
        assert!(wanted().missing(&Sight::NotServing).is_empty());
        let waiting = Wanted { waiting: vec!["c".to_owned()], ..wanted() };
        assert!(!waiting.is_registered(&seen(&waiting.cells, &waiting.databases)));
    }

    #[test]
    fn removal_touches_only_the_clusters_own_records() {
        let sight = seen(&[cell("a"), cell("other")], &wanted().databases);
        let writes = removal(&sight, &[], &["a".to_owned(), "b".to_owned()], &["postgres".to_owned()]);
        assert_eq!(writes, [TopoWrite::DeleteDatabase("postgres".to_owned()), TopoWrite::DeleteCell("a".to_owned())]);
    }

    #[tokio::test]
    async fn cells_that_do_not_answer_are_not_among_those_that_were_read() {
        let plane = FakeDataPlane::new();
        let (upstream, at) = (plane.upstream(), TopoAddress::new(["global:2379"], "/multigres/global"));
        for (name, server) in [("a", "global:2379"), ("b", "local:2379")] {
            let record = CellRecord { server_addresses: vec![server.to_owned()], ..cell(name) };
            upstream.topology().put_cell(&at, &record).await.unwrap();
        }
        let both: BTreeSet<String> = ["a", "b"].map(str::to_owned).into();
        assert_eq!(poolers(&upstream, &at, both.clone(), "prod").await.read, both);
        let away = || Error::Unavailable { target: "it".to_owned(), detail: "away".to_owned() };
        plane.topology.fail("local:2379", away());
        assert_eq!(poolers(&upstream, &at, both.clone(), "prod").await.read, BTreeSet::from(["a".to_owned()]));
        plane.topology.fail("global:2379", away());
        assert_eq!(poolers(&upstream, &at, both, "prod").await, Leftovers::default());
    }

    #[test]
    fn a_database_record_follows_the_backup_configuration() {
        let s3 = BackupConfig {
            r#type: BackupType::S3,
            s3: Some(S3BackupConfig { bucket: "b".into(), region: "r".into(), ..S3BackupConfig::default() }),
            encryption: Some(EncryptionConfig { secret_name: "keys".into() }),
            ..BackupConfig::default()
        };
        let record = database("postgres", Vec::new(), "MULTI_CELL_AT_LEAST_2", Some(&s3)).unwrap();
        assert!(record.require_initial_repo_encryption);
        assert!(matches!(record.backup_location, Some(BackupLocation::S3 { ref bucket, .. }) if bucket == "b"));
        let plain = database("postgres", Vec::new(), "AT_LEAST_2", None).unwrap();
        assert_eq!(plain.backup_location, Some(BackupLocation::Filesystem { path: "/backups".to_owned() }));
        assert!(database("postgres", Vec::new(), "AT_LEAST_9", None).is_none());
    }
}
