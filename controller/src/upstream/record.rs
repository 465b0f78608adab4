//! The records of the topology as the rest of the controller sees them: plain values without protobuf or etcd types.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use jiff::Timestamp;

use super::{Credentials, Error, Tls};

/// Where a cluster's topology lives: the global store.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopoAddress {
    /// `host:port` or URL of each member; they are tried in turn.
    pub endpoints: Vec<String>,
    /// Path below which all keys of the cluster lie: `/multigres/global`.
    pub root: String,
    /// With what it is reached over TLS; none for servers that speak plain text.
    pub credentials: Option<Arc<Credentials>>,
}

impl fmt::Debug for TopoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TopoAddress");
        debug.field("endpoints", &self.endpoints).field("root", &self.root);
        if let Some(credentials) = &self.credentials {
            debug.field("credentials", credentials);
        }
        debug.finish()
    }
}

impl TopoAddress {
    /// Reads an address list in which a member may itself be a comma-separated list.
    pub fn new<S: AsRef<str>>(endpoints: impl IntoIterator<Item = S>, root: impl Into<String>) -> Self {
        let endpoints = endpoints
            .into_iter()
            .flat_map(|item| item.as_ref().split(',').map(|one| one.trim().to_owned()).collect::<Vec<_>>())
            .filter(|one| !one.is_empty())
            .collect();
        Self { endpoints, root: root.into(), credentials: None }
    }

    /// The same place, reached with these credentials.
    #[must_use]
    pub fn with(self, credentials: Credentials) -> Self {
        Self { credentials: Some(Arc::new(credentials)), ..self }
    }
}

/// A cell and where its local topology is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CellRecord {
    /// Name of the cell.
    pub name: String,
    /// Addresses of the cell's etcd. The global ones for a cell without a local store.
    pub server_addresses: Vec<String>,
    /// Root path in that etcd.
    pub root: String,
}

impl CellRecord {
    /// Where this cell's own records are.
    pub fn address(&self) -> TopoAddress {
        TopoAddress::new(&self.server_addresses, &self.root)
    }
}

/// A database as the data plane must know it before it can bootstrap.
///
/// `authoritative_generation`, `policy_version` and `description` of the stored record belong to the data plane's tools and are
/// kept as they are on every write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseRecord {
    /// Name of the database.
    pub name: String,
    /// Where backups go; `None` only in a record that somebody else left incomplete.
    pub backup_location: Option<BackupLocation>,
    /// Whether the first repository must be encrypted.
    pub require_initial_repo_encryption: bool,
    /// All cells of the cluster.
    pub cells: Vec<String>,
    /// Policy that a shard of the database is bootstrapped with.
    pub durability_policy: Option<DurabilityPolicy>,
}

/// Where backups of a database go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupLocation {
    /// A directory that the pods mount.
    Filesystem {
        /// Its path inside the pods.
        path: String,
    },
    /// An S3 bucket.
    S3 {
        /// Bucket name.
        bucket: String,
        /// Region of the bucket.
        region: String,
        /// Endpoint of an S3-compatible service; empty for AWS.
        endpoint: String,
        /// Prefix of all keys.
        key_prefix: String,
        /// Whether keys come from the environment instead of the instance's identity.
        use_env_credentials: bool,
    },
}

/// How many members must hold a write before it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurabilityPolicy {
    /// Its name in the API: `AT_LEAST_2`.
    pub name: String,
    /// How the members are counted.
    pub quorum: Quorum,
    /// How many are required.
    pub required: i32,
}

/// How the members of a quorum are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quorum {
    /// Any members.
    AtLeast,
    /// Members of that many different cells.
    MultiCellAtLeast,
    /// A way that this version does not know.
    Other(i32),
}

impl DurabilityPolicy {
    /// The policy of an API name: `AT_LEAST_2` and `MULTI_CELL_AT_LEAST_2`.
    pub fn named(name: &str) -> Option<Self> {
        let quorum = match name {
            "AT_LEAST_2" => Quorum::AtLeast,
            "MULTI_CELL_AT_LEAST_2" => Quorum::MultiCellAtLeast,
            _ => return None,
        };
        Some(Self { name: name.to_owned(), quorum, required: 2 })
    }
}

/// Names a pooler within a topology.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolerId {
    /// Cell in which it runs.
    pub cell: String,
    /// Its service id: `p-0badcafe`.
    pub name: String,
}

impl PoolerId {
    /// Puts the two parts together.
    pub fn new(cell: impl Into<String>, name: impl Into<String>) -> Self {
        Self { cell: cell.into(), name: name.into() }
    }
}

/// The form in which PostgreSQL sees it, `zone-a_p-0badcafe`.
impl fmt::Display for PoolerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.cell, self.name)
    }
}

/// Number of a consensus rule; the higher one is the newer one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleNumber {
    /// Term of the coordinator; compared first.
    pub coordinator_term: i64,
    /// Change within the term.
    pub leader_subterm: i64,
}

/// What a pooler claims to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows.
    Replica,
    /// It does not say: starting, or shut down.
    #[default]
    Unknown,
}

/// Where a pooler is in its life, by its own word or by a mark on its record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lifecycle {
    /// The record does not say.
    #[default]
    Unknown,
    /// Coming up.
    Starting,
    /// In service.
    Active,
    /// Going down gracefully.
    Stopping,
    /// Down for good: orchestrators drop it from the cohort and remove the record a day later.
    Shutdown,
    /// It could not start PostgreSQL and gave up.
    Quarantined,
}

/// A lifecycle with its reason and time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LifecycleMark {
    /// The state.
    pub state: Lifecycle,
    /// Why, in words.
    pub reason: String,
    /// When it was entered.
    pub updated: Option<Timestamp>,
}

/// Whether a pooler takes clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Serving {
    /// It does; also what an absent field means.
    #[default]
    Serving,
    /// It does not.
    Disabled,
    /// It lets the present ones finish.
    Draining,
}

/// Names a shard within a topology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardKey {
    /// Database name.
    pub database: String,
    /// Table group name.
    pub table_group: String,
    /// Shard name: `0-inf`.
    pub shard: String,
}

impl ShardKey {
    /// Puts the three parts together.
    pub fn new(database: impl Into<String>, table_group: impl Into<String>, shard: impl Into<String>) -> Self {
        Self { database: database.into(), table_group: table_group.into(), shard: shard.into() }
    }
}

/// What a pooler has registered about itself.
///
/// There is no heartbeat: a record stays as it is when its process dies. Only a fresh status makes a claim believable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolerRecord {
    /// Its identity.
    pub id: PoolerId,
    /// The shard that it belongs to.
    pub shard: ShardKey,
    /// Address that others dial.
    pub hostname: String,
    /// Ports by name: `grpc`, `http`, `postgres`.
    pub ports: BTreeMap<String, u16>,
    /// Claimed role.
    pub role: Role,
    /// Rule that made it primary; replicas have none.
    pub rule: Option<RuleNumber>,
    /// Where it is in its life.
    pub lifecycle: LifecycleMark,
    /// Whether it takes clients.
    pub serving: Serving,
    /// How its services are reached over TLS; none for one that speaks plain text. No part of what is stored.
    pub tls: Option<Arc<Tls>>,
}

impl PoolerRecord {
    /// Where its management service listens; `None` for a record without host name or gRPC port.
    pub fn grpc(&self) -> Option<PoolerAddress> {
        let port = *self.ports.get("grpc")?;
        let address = || PoolerAddress { tls: self.tls.clone(), ..PoolerAddress::new(self.hostname.clone(), port) };
        (!self.hostname.is_empty() && port != 0).then(address)
    }

    /// First label of the host name: the pod's name for a pooler that registered one, and nothing for an address.
    pub fn pod_name(&self) -> Option<&str> {
        if self.hostname.parse::<std::net::IpAddr>().is_ok() {
            return None;
        }
        self.hostname.split('.').next().filter(|label| !label.is_empty())
    }

    /// Whether its pod may be in that namespace. Only a full host name tells where its pod is.
    pub fn may_be_in(&self, namespace: &str) -> bool {
        let mut labels = self.hostname.split('.').skip(2);
        let (found, next) = (labels.next(), labels.next());
        next != Some("svc") || found == Some(namespace)
    }

    /// Whether the record was written by a process in the pod of that name.
    pub fn is_of_pod(&self, pod: &str) -> bool {
        self.id.name == pod || self.pod_name() == Some(pod)
    }

    /// Whether it is out of the game: shut down or quarantined.
    pub fn is_out(&self) -> bool {
        matches!(self.lifecycle.state, Lifecycle::Shutdown | Lifecycle::Quarantined)
    }
}

/// Host and port of a service of the data plane, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolerAddress {
    /// Host name or IP address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// With what it is reached over TLS; none for one that speaks plain text.
    pub tls: Option<Arc<Tls>>,
}

impl PoolerAddress {
    /// An address that is dialled in plain text.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port, tls: None }
    }

    /// The same address, over TLS if there is something to use it with.
    #[must_use]
    pub fn over(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }
}

impl fmt::Display for PoolerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The processes that register themselves and leave their record behind after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// A gateway.
    Gateway,
    /// An orchestrator.
    Orch,
}

/// Registration of a gateway or an orchestrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Which of the two.
    pub component: Component,
    /// Cell in which it runs.
    pub cell: String,
    /// Its service id.
    pub name: String,
    /// Address that others dial.
    pub hostname: String,
    /// Ports by name.
    pub ports: BTreeMap<String, u16>,
}

/// Records of one kind, and those that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    /// The good ones, in key order.
    pub records: Vec<T>,
    /// The bad ones, each an [`Error::Malformed`]: they never hide the others.
    pub malformed: Vec<Error>,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self { records: Vec::new(), malformed: Vec::new() }
    }
}

/// Which poolers a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only of these cells; empty means all that are registered.
    pub cells: BTreeSet<String>,
    /// Only of this database.
    pub database: Option<String>,
    /// Only of this shard.
    pub shard: Option<ShardKey>,
}

impl Scope {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// One shard in all registered cells. A cell that no pool names any more may still hold poolers.
    pub fn shard(shard: ShardKey) -> Self {
        Self { shard: Some(shard), ..Self::default() }
    }

    /// One database in the given cells; in all registered ones if none is given.
    pub fn database<S: Into<String>>(database: impl Into<String>, cells: impl IntoIterator<Item = S>) -> Self {
        Self { cells: cells.into_iter().map(Into::into).collect(), database: Some(database.into()), shard: None }
    }

    /// Whether a pooler belongs to it, its cell apart.
    pub fn holds(&self, shard: &ShardKey) -> bool {
        self.database.as_ref().is_none_or(|database| *database == shard.database)
            && self.shard.as_ref().is_none_or(|wanted| wanted == shard)
    }
}

/// What the topology knew at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot<T = PoolerRecord> {
    /// Whether the global store answered. If not, cells are those of the last time it did.
    pub global: Result<(), Error>,
    /// The records of each cell, or why they could not be read. A cell that is asked for but not registered is
    /// [`Error::NotFound`].
    pub cells: BTreeMap<String, Result<Vec<T>, Error>>,
    /// Records that were skipped because they could not be read.
    pub malformed: Vec<Error>,
}

impl<T> Snapshot<T> {
    /// All records that could be read, in the order of cell and key.
    pub fn records(&self) -> impl Iterator<Item = &T> {
        self.cells.values().filter_map(|cell| cell.as_ref().ok()).flatten()
    }

    /// Whether nothing is missing: only then may the absence of a record be acted on.
    pub fn is_complete(&self) -> bool {
        self.global.is_ok() && self.malformed.is_empty() && self.cells.values().all(Result::is_ok)
    }
}

impl Snapshot {
    /// All poolers that could be read, in the order of cell and key.
    pub fn poolers(&self) -> impl Iterator<Item = &PoolerRecord> {
        self.records()
    }
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The record was not there before.
    Created,
    /// The record differed.
    Updated,
    /// It said so already; nothing was sent.
    Unchanged,
}

impl Written {
    /// Whether the store was changed.
    pub fn changed(self) -> bool {
        self != Self::Unchanged
    }
}

/// Position in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl FromStr for Lsn {
    type Err = Error;

    /// Reads PostgreSQL's text form, `16/B374D848`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let half = |part: &str| {
            (!part.is_empty() && part.len() <= 8).then(|| u32::from_str_radix(part, 16).ok()).flatten().map(u64::from)
        };
        text.split_once('/').and_then(|(high, low)| Some(Self((half(high)? << 32) | half(low)?))).ok_or_else(|| {
            Error::Invalid {
                what: format!("LSN {text:?}"),
                detail: "expected two hexadecimal numbers with a slash between them".to_owned(),
            }
        })
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}
