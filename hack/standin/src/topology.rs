//! The records in etcd: keys, reads, compare-and-swap writes, and a live view of the poolers of all cells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, PutOptions, TlsOptions, Txn, TxnOp,
};
use futures::future::BoxFuture;
use prost::Message;
use tokio::sync::Mutex;

use crate::flag::Values;
use crate::identity;
use crate::proto::clustermetadata::{
    Cell, Database, Id, Multigateway, Multiorch, Multipooler, ShardInitClaim, ShardKey,
};

const CALL_LIMIT: Duration = Duration::from_secs(3);

/// Joins a root and a relative path as the real client does: cleaned, with no slash added in front.
pub fn join(root: &str, path: &str) -> String {
    let absolute = root.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in root.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    if absolute { format!("/{joined}") } else { joined }
}

/// Relative keys of the records.
pub mod key {
    use super::{Id, ShardKey, identity};

    /// A cell, below the global root.
    pub fn cell(name: &str) -> String {
        format!("cells/{name}/Cell")
    }

    /// A database, below the global root.
    pub fn database(name: &str) -> String {
        format!("databases/{name}/Database")
    }

    /// The claim of a shard's bootstrap, below the global root.
    pub fn claim(shard: &ShardKey) -> String {
        format!("databases/{}/{}/{}/ShardInitClaim", shard.database, shard.table_group, shard.shard)
    }

    /// The lock of a shard's backups, below the global root.
    pub fn backup_lock(shard: &ShardKey) -> String {
        format!("backups/{}/{}/{}/lock", shard.database, shard.table_group, shard.shard)
    }

    /// Where the stand-in keeps the content of an object store, below the global root.
    pub fn object_store(bucket: &str, prefix: &str) -> String {
        format!("standin/s3/{bucket}/{prefix}/multigres/backup.json")
    }

    /// A pooler, below its cell's root.
    pub fn pooler(id: &Id) -> String {
        format!("poolers/{}/Pooler", identity::component_id(id))
    }

    /// A gateway, below its cell's root.
    pub fn gateway(id: &Id) -> String {
        format!("gateways/{}/Gateway", identity::component_id(id))
    }

    /// An orchestrator, below its cell's root.
    pub fn orch(id: &Id) -> String {
        format!("orchs/{}/Orch", identity::component_id(id))
    }
}

/// A raw value with the revision to swap against.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The value's bytes.
    pub value: Vec<u8>,
    /// The revision of its last change.
    pub revision: i64,
}

/// One etcd under one root.
#[derive(Clone)]
pub struct Connection {
    pub(crate) client: Client,
    root: String,
}

impl Connection {
    /// Connects lazily: an unreachable etcd shows at the first call.
    pub async fn open(addresses: &[String], root: &str, tls: Option<TlsOptions>) -> Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoints: Vec<String> = addresses
            .iter()
            .map(|address| if address.contains("://") { address.clone() } else { format!("{scheme}://{address}") })
            .collect();
        let mut options = ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(1))
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(3))
            .with_keep_alive_while_idle(true);
        if let Some(tls) = tls {
            options = options.with_tls(tls);
        }
        let client = Box::pin(Client::connect(endpoints, Some(options))).await.context("connect to etcd")?;
        Ok(Self { client, root: root.to_owned() })
    }

    /// The same etcd under another root.
    #[must_use]
    pub fn rooted(&self, root: &str) -> Self {
        Self { client: self.client.clone(), root: root.to_owned() }
    }

    /// The absolute key of a relative path.
    pub fn key(&self, path: &str) -> String {
        join(&self.root, path)
    }

    /// Bounds a call in time, on the heap: the client's futures are large.
    pub(crate) fn bounded<'a, T: 'a>(
        future: impl Future<Output = Result<T, etcd_client::Error>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            tokio::time::timeout(CALL_LIMIT, future)
                .await
                .map_err(|_| anyhow!("Code: DEADLINE_EXCEEDED: no connection available to the topology server"))?
                .map_err(Into::into)
        })
    }

    /// Reads one key.
    pub async fn get(&self, path: &str) -> Result<Option<Stored>> {
        let mut client = self.client.kv_client();
        let response = Self::bounded(client.get(self.key(path), None)).await?;
        Ok(response.kvs().first().map(|kv| Stored { value: kv.value().to_vec(), revision: kv.mod_revision() }))
    }

    /// Reads and decodes one record.
    pub async fn read<M: Message + Default>(&self, path: &str) -> Result<Option<M>> {
        self.get(path)
            .await?
            .map(|stored| M::decode(stored.value.as_slice()).with_context(|| format!("decode {path}")))
            .transpose()
    }

    /// Writes a key whatever it holds.
    pub async fn put(&self, path: &str, value: Vec<u8>) -> Result<()> {
        let mut client = self.client.kv_client();
        Self::bounded(client.put(self.key(path), value, None)).await.map(drop)
    }

    /// Writes a key only if nobody changed it since `revision`; zero stands for "does not exist".
    pub async fn swap(&self, path: &str, value: Vec<u8>, revision: i64) -> Result<bool> {
        let key = self.key(path);
        let compare = if revision == 0 {
            Compare::version(key.clone(), CompareOp::Equal, 0)
        } else {
            Compare::mod_revision(key.clone(), CompareOp::Equal, revision)
        };
        let txn = Txn::new().when([compare]).and_then([TxnOp::put(key, value, None)]);
        let mut client = self.client.kv_client();
        Ok(Self::bounded(client.txn(txn)).await?.succeeded())
    }

    /// Creates a key that goes away with the holder unless it is released before; `None` means somebody holds it.
    pub async fn lock(&self, path: &str, value: Vec<u8>, seconds: i64) -> Result<Option<i64>> {
        let mut leases = self.client.lease_client();
        let lease = Self::bounded(leases.grant(seconds, None)).await?.id();
        let key = self.key(path);
        let txn = Txn::new().when([Compare::version(key.clone(), CompareOp::Equal, 0)]).and_then([TxnOp::put(
            key,
            value,
            Some(PutOptions::new().with_lease(lease)),
        )]);
        let mut client = self.client.kv_client();
        if Self::bounded(client.txn(txn)).await?.succeeded() {
            return Ok(Some(lease));
        }
        Self::bounded(leases.revoke(lease)).await?;
        Ok(None)
    }

    /// Prolongs a lock by its whole time, as who works behind it does again and again.
    pub async fn prolong(&self, lease: i64) -> Result<()> {
        let mut leases = self.client.lease_client();
        Self::bounded(leases.keep_alive(lease)).await.map(drop)
    }

    /// Ends a lock, whoever holds it.
    pub async fn revoke(&self, lease: i64) -> Result<()> {
        let mut leases = self.client.lease_client();
        Self::bounded(leases.revoke(lease)).await.map(drop)
    }

    /// The lease of a key, for stealing its lock.
    pub async fn lease_of(&self, path: &str) -> Result<Option<i64>> {
        let mut client = self.client.kv_client();
        let response = Self::bounded(client.get(self.key(path), None)).await?;
        Ok(response.kvs().first().map(etcd_client::KeyValue::lease).filter(|lease| *lease != 0))
    }

    /// Deletes one key.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let mut client = self.client.kv_client();
        Self::bounded(client.delete(self.key(path), None)).await.map(drop)
    }

    /// Everything below a directory with the revision it was read at.
    pub async fn list(&self, directory: &str) -> Result<(Vec<(String, Stored)>, i64)> {
        let prefix = format!("{}/", self.key(directory));
        let mut client = self.client.kv_client();
        let response = Self::bounded(client.get(prefix, Some(GetOptions::new().with_prefix()))).await?;
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        let entries = response
            .kvs()
            .iter()
            .map(|kv| {
                let stored = Stored { value: kv.value().to_vec(), revision: kv.mod_revision() };
                (String::from_utf8_lossy(kv.key()).into_owned(), stored)
            })
            .collect();
        Ok((entries, revision))
    }

    /// The first path segments below a directory.
    pub async fn names(&self, directory: &str) -> Result<Vec<String>> {
        let prefix = format!("{}/", self.key(directory));
        let (entries, _) = self.list(directory).await?;
        let names: BTreeSet<String> = entries
            .iter()
            .filter_map(|(key, _)| key.strip_prefix(&prefix)?.split('/').next().map(str::to_owned))
            .collect();
        Ok(names.into_iter().collect())
    }
}

/// The topology of a cluster: the global root and, through its Cell records, the cells.
#[derive(Clone)]
pub struct Store {
    /// The global connection.
    pub global: Connection,
    tls: Option<TlsOptions>,
    single: bool,
    cells: Arc<Mutex<BTreeMap<String, (Cell, Connection)>>>,
}

impl Store {
    /// Opens the store that the flags name; missing flags are refused in the real words.
    pub async fn open(values: &Values) -> Result<Self> {
        let addresses = values.list("topo-global-server-addresses");
        if addresses.is_empty() {
            bail!("topo open: topo-global-server-addresses must be configured");
        }
        let root = values.text("topo-global-root");
        if root.is_empty() {
            bail!("topo open: topo-global-root must be non-empty");
        }
        Self::at(&addresses, root, tls_options(values)?).await
    }

    /// Opens a store at known addresses.
    pub async fn at(addresses: &[String], root: &str, tls: Option<TlsOptions>) -> Result<Self> {
        let global = Connection::open(addresses, root, tls.clone()).await?;
        Ok(Self { global, tls, single: false, cells: Arc::default() })
    }

    /// A store whose cells all live in the same etcd, whatever addresses their records name.
    pub fn single(global: Connection) -> Self {
        Self { global, tls: None, single: true, cells: Arc::default() }
    }

    /// The connection of a cell; reads its record from the global root every time, as the real client does.
    pub async fn cell(&self, name: &str) -> Result<Connection> {
        let cell: Cell = self
            .global
            .read(&key::cell(name))
            .await?
            .ok_or_else(|| anyhow!("topo error [1]: node doesn't exist: {}", key::cell(name)))?;
        let mut cells = self.cells.lock().await;
        if let Some((known, connection)) = cells.get(name)
            && *known == cell
        {
            return Ok(connection.clone());
        }
        let connection = if self.single {
            self.global.rooted(&cell.root)
        } else {
            Connection::open(&cell.server_addresses, &cell.root, self.tls.clone()).await?
        };
        cells.insert(name.to_owned(), (cell, connection.clone()));
        Ok(connection)
    }

    /// The names of all cells.
    pub async fn cell_names(&self) -> Result<Vec<String>> {
        self.global.names("cells").await
    }

    /// A database's record.
    pub async fn database(&self, name: &str) -> Result<Option<Database>> {
        self.global.read(&key::database(name)).await
    }

    /// A shard's bootstrap claim.
    pub async fn claim(&self, shard: &ShardKey) -> Result<Option<ShardInitClaim>> {
        self.global.read(&key::claim(shard)).await
    }

    /// One pooler's record.
    pub async fn pooler(&self, id: &Id) -> Result<Option<Multipooler>> {
        self.cell(&id.cell).await?.read(&key::pooler(id)).await
    }

    /// All poolers of a cell; an undecodable record fails the call.
    pub async fn poolers(&self, cell: &str) -> Result<Vec<Multipooler>> {
        let poolers: Vec<Multipooler> = self.records(cell, "poolers").await?;
        Ok(poolers.into_iter().filter(|record| record.id.as_ref().is_some_and(|id| id.cell == cell)).collect())
    }

    /// All gateways of a cell.
    pub async fn gateways(&self, cell: &str) -> Result<Vec<Multigateway>> {
        let gateways: Vec<Multigateway> = self.records(cell, "gateways").await?;
        Ok(gateways.into_iter().filter(|record| record.id.as_ref().is_some_and(|id| id.cell == cell)).collect())
    }

    /// All orchestrators of a cell.
    pub async fn orchs(&self, cell: &str) -> Result<Vec<Multiorch>> {
        let orchs: Vec<Multiorch> = self.records(cell, "orchs").await?;
        Ok(orchs.into_iter().filter(|record| record.id.as_ref().is_some_and(|id| id.cell == cell)).collect())
    }

    async fn records<M: Message + Default>(&self, cell: &str, directory: &str) -> Result<Vec<M>> {
        let (entries, _) = self.cell(cell).await?.list(directory).await?;
        entries
            .into_iter()
            .map(|(key, stored)| M::decode(stored.value.as_slice()).with_context(|| format!("decode {key}")))
            .collect()
    }
}

fn tls_options(values: &Values) -> Result<Option<TlsOptions>> {
    let [cert, key, ca] = ["cert", "key", "ca"].map(|part| values.text(&format!("topo-etcd-tls-{part}")));
    if cert.is_empty() && ca.is_empty() {
        return Ok(None);
    }
    let mut options = TlsOptions::new();
    if !ca.is_empty() {
        options =
            options.ca_certificate(Certificate::from_pem(std::fs::read(ca).with_context(|| format!("read {ca}"))?));
    }
    if !cert.is_empty() {
        let pair = (std::fs::read(cert).with_context(|| format!("read {cert}"))?, std::fs::read(key)?);
        options = options.identity(Identity::from_pem(pair.0, pair.1));
    }
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::id;
    use crate::proto::clustermetadata::id::ComponentType;
    use crate::proto::clustermetadata::{
        BackupLocation, DurabilityPolicy, FilesystemBackup, PoolerLifecycle, PoolerLifecycleStatus, QuorumType,
        RoutingRole, RoutingState, RuleNumber, backup_location,
    };

    #[test]
    fn roots_are_cleaned_but_get_no_slash() {
        assert_eq!(join("/multigres//global/", "cells/a/Cell"), "/multigres/global/cells/a/Cell");
        assert_eq!(join("multigres", "poolers"), "multigres/poolers");
        assert_eq!(join("/a/../b", "./c"), "/b/c");
    }

    #[test]
    fn keys_have_the_layout_of_the_data_plane() {
        let pooler = id(ComponentType::Multipooler, "zone-a", "p-0badcafe");
        assert_eq!(key::pooler(&pooler), "poolers/multipooler-zone-a-p-0badcafe/Pooler");
        let shard = ShardKey { database: "d".into(), table_group: "t".into(), shard: "0-inf".into() };
        assert_eq!(key::claim(&shard), "databases/d/t/0-inf/ShardInitClaim");
        assert_eq!(key::backup_lock(&shard), "backups/d/t/0-inf/lock");
    }

    #[test]
    fn records_encode_to_the_known_bytes() {
        let cell = Cell {
            name: "zone-a".into(),
            server_addresses: vec!["demo-global-topo.prod.svc:2379".into()],
            root: "/multigres/global".into(),
        };
        assert_eq!(
            hex::encode(cell.encode_to_vec()),
            "0a067a6f6e652d61121e64656d6f2d676c6f62616c2d746f706f2e70726f642e7376633a323337391a112f6d756c7469677265732f676c6f62616c"
        );
        let database = Database {
            name: "postgres".into(),
            backup_location: Some(BackupLocation {
                location: Some(backup_location::Location::Filesystem(FilesystemBackup { path: "/backups".into() })),
                ..BackupLocation::default()
            }),
            cells: vec!["zone-a".into(), "zone-b".into()],
            bootstrap_durability_policy: Some(DurabilityPolicy {
                policy_name: "AT_LEAST_2".into(),
                quorum_type: QuorumType::AtLeastN.into(),
                required_count: 2,
                ..DurabilityPolicy::default()
            }),
        };
        assert_eq!(
            hex::encode(database.encode_to_vec()),
            "0a08706f737467726573120c0a0a0a082f6261636b7570731a067a6f6e652d611a067a6f6e652d6222100a0a41545f4c454153545f3218032002"
        );
        let pooler = Multipooler {
            port_map: [("grpc".to_owned(), 15270)].into(),
            lifecycle_status: Some(PoolerLifecycle {
                status: PoolerLifecycleStatus::LifecycleShutdown.into(),
                reason: "operator: no backing pod for pooler".into(),
                updated: Some(prost_types::Timestamp { seconds: 1_767_225_600, nanos: 0 }),
            }),
            routing_state: Some(RoutingState {
                role: RoutingRole::Primary.into(),
                rule: Some(RuleNumber { coordinator_term: 3, leader_subterm: 7 }),
            }),
            ..Multipooler::default()
        };
        assert_eq!(
            hex::encode(pooler.encode_to_vec()),
            "4a090a046772706310a677622f080412236f70657261746f723a206e6f206261636b696e6720706f6420666f7220706f6f6c65721a060880f2d6ca066a080801120408031007"
        );
    }
}
