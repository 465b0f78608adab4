//! The controller's connection to the data plane: the topology records in etcd and the RPCs of the poolers.
//!
//! Only this module knows etcd, gRPC and protobuf; the rest of the controller sees the traits [`Topology`] and [`Pooler`] with
//! values of our own. Every call has a deadline and a typed [`Error`]. It decides nothing and remembers no verdicts: who calls
//! keeps what was seen and judges how old it is.

pub mod backup;
mod codec;
mod error;
mod etcd;
pub mod fake;
mod fake_backups;
mod idle;
mod key;
mod kv;
mod membership;
mod pb;
mod pooler;
pub mod primary;
mod record;
mod secured;
mod status;
mod tree;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::BoxFuture;

pub use self::{
    backup::Backups,
    error::{Error, Result},
    membership::{Member, MemberChange, Members},
    record::{
        BackupLocation, CellRecord, Component, DatabaseRecord, DurabilityPolicy, Lifecycle, LifecycleMark, Listing,
        Lsn, PoolerAddress, PoolerId, PoolerRecord, Quorum, Registration, Role, RuleNumber, Scope, Serving, ShardKey,
        Snapshot, TopoAddress, Written,
    },
    secured::{Credentials, Tls},
    status::{ConsensusView, Leadership, PoolerStatus, Postgres, PostgresAction, PrimaryStatus, ReplicationStatus},
};
use self::{membership::EtcdMembers, pooler::GrpcPooler, secured::Secured};

/// The topology records of clusters. `at` is always the **global** store; cell-local ones are found through the cell records.
///
/// Writes are compare-and-set, send nothing if the record says the same already, and keep fields that they do not own.
pub trait Topology: Send + Sync {
    /// All cells.
    fn cells<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Listing<CellRecord>>>;

    /// All databases. A directory without a record of its own, left by locks or claims, is none.
    fn databases<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Listing<DatabaseRecord>>>;

    /// Registers or corrects a cell.
    fn put_cell<'a>(&'a self, at: &'a TopoAddress, record: &'a CellRecord) -> BoxFuture<'a, Result<Written>>;

    /// Registers or corrects a database.
    fn put_database<'a>(&'a self, at: &'a TopoAddress, record: &'a DatabaseRecord) -> BoxFuture<'a, Result<Written>>;

    /// Unregisters a cell; [`Error::InUse`] while a database record lists it. `false` if it was not there.
    fn delete_cell<'a>(&'a self, at: &'a TopoAddress, name: &'a str) -> BoxFuture<'a, Result<bool>>;

    /// Unregisters a database, together with the marks that its shards were bootstrapped: a mark without data would keep a
    /// later database of this name from ever being bootstrapped. `false` if it was not there.
    fn delete_database<'a>(&'a self, at: &'a TopoAddress, name: &'a str) -> BoxFuture<'a, Result<bool>>;

    /// The poolers in scope, with one round trip to the global store and one to each distinct local store, all at once. A
    /// store that does not answer costs its own cells only.
    fn snapshot<'a>(&'a self, at: &'a TopoAddress, scope: &'a Scope) -> BoxFuture<'a, Snapshot>;

    /// Gateways and orchestrators of the given cells, of all registered ones if none is given.
    fn registrations<'a>(
        &'a self,
        at: &'a TopoAddress,
        cells: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Snapshot<Registration>>;

    /// Marks a pooler's record; [`Error::NotFound`] if there is none, since a mark must not bring a record back.
    ///
    /// A living pooler does not repair a wrong mark before its own state changes, so a mark needs proof, and an undo.
    fn mark_pooler<'a>(
        &'a self,
        at: &'a TopoAddress,
        id: &'a PoolerId,
        mark: &'a LifecycleMark,
    ) -> BoxFuture<'a, Result<Written>>;

    /// Removes the record of a pooler that is gone for good. `false` if it was not there.
    fn delete_pooler<'a>(&'a self, at: &'a TopoAddress, id: &'a PoolerId) -> BoxFuture<'a, Result<bool>>;

    /// Removes the record of a gateway or orchestrator if it is still the one that was seen. `false` if it is not.
    fn delete_registration<'a>(&'a self, at: &'a TopoAddress, seen: &'a Registration) -> BoxFuture<'a, Result<bool>>;

    /// Whether somebody holds the lease on a shard's repository: a backup runs, and another one would take the lease from it.
    fn backup_lease<'a>(&'a self, at: &'a TopoAddress, shard: &'a ShardKey) -> BoxFuture<'a, Result<bool>>;
}

/// The management and consensus services of poolers.
///
/// All but [`Pooler::status`] change something. They are asked by the executor alone.
pub trait Pooler: Send + Sync {
    /// Asks a pooler how it is. The deadline is cut to [`MAX_DEADLINE`].
    fn status<'a>(&'a self, address: &'a PoolerAddress, deadline: Duration) -> BoxFuture<'a, Result<PoolerStatus>>;

    /// Asks a serving primary to stop taking writes and to go on as a standby. Returns once it has; nobody leads then, until the
    /// orchestrators have elected somebody. Limited by [`RESIGN_DEADLINE`].
    fn resign<'a>(&'a self, primary: &'a PoolerAddress) -> BoxFuture<'a, Result<()>>;

    /// Takes a member out of the cohort, by the rule that the primary has at this moment: it refuses if the rule changes in
    /// between. Returns once the new rule no longer lists the member; nothing is sent if the present one does not.
    fn leave_cohort<'a>(&'a self, primary: &'a PoolerAddress, member: &'a PoolerId) -> BoxFuture<'a, Result<()>>;

    /// Has PostgreSQL read its files again, if they hold these settings by now.
    fn reload<'a>(
        &'a self,
        address: &'a PoolerAddress,
        expected: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<Reloaded>>;

    /// How many complete backups the repository holds.
    fn complete_backups<'a>(&'a self, address: &'a PoolerAddress) -> BoxFuture<'a, Result<usize>>;
}

/// The service of orchestrators.
pub trait Orchestrator: Send + Sync {
    /// Has an orchestrator run one recovery cycle now, with all its grace periods over.
    fn hasten<'a>(&'a self, address: &'a PoolerAddress) -> BoxFuture<'a, Result<()>>;
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// PostgreSQL has read the settings.
    Done,
    /// The files do not hold these settings yet, or PostgreSQL does not run.
    Pending(Vec<String>),
    /// PostgreSQL has read them, but some take effect with a restart only.
    NeedsRestart(Vec<String>),
}

/// No call waits longer than this, unless it says so.
pub const MAX_DEADLINE: Duration = Duration::from_secs(5);
/// How long a primary may take to step back: it lets clients finish, and restarts PostgreSQL.
pub const RESIGN_DEADLINE: Duration = Duration::from_secs(30);
/// How long a change of the cohort, a reload or a list of backups may take: they wait behind whatever the pooler is doing.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(10);

/// Bounds of the connections that are kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest time for one operation on a store, all its members and retries included.
    pub store_deadline: Duration,
    /// How many stores stay connected.
    pub stores: usize,
    /// How many poolers stay connected.
    pub poolers: usize,
    /// How long a connection lives without use. Longer than the interval at which settled shards are asked.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { store_deadline: Duration::from_secs(4), stores: 256, poolers: 256, idle: Duration::from_secs(90) }
    }
}

/// Handles to the data plane; cheap to clone.
#[derive(Clone)]
pub struct Upstream {
    topology: Arc<dyn Topology>,
    poolers: Arc<dyn Pooler>,
    orchestrators: Arc<dyn Orchestrator>,
    members: Arc<dyn Members>,
    backups: Arc<dyn Backups>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").finish_non_exhaustive()
    }
}

impl Upstream {
    /// The real data plane. Nothing is dialled before the first call. Needs a running tokio runtime, where it drops idle
    /// connections for as long as the value lives.
    pub fn connect(limits: Limits) -> Self {
        let topology = Arc::new(Secured::new(limits));
        let poolers = Arc::new(GrpcPooler::new(limits));
        tokio::spawn(sweep(Arc::downgrade(&topology), Arc::downgrade(&poolers), limits.idle / 2));
        let members = Arc::new(EtcdMembers::new(limits));
        Self { topology, orchestrators: poolers.clone(), backups: poolers.clone(), poolers, members }
    }

    /// Other implementations, such as the doubles in [`fake`].
    pub fn of(
        topology: Arc<dyn Topology>,
        poolers: Arc<dyn Pooler>,
        orchestrators: Arc<dyn Orchestrator>,
        members: Arc<dyn Members>,
    ) -> Self {
        Self { topology, poolers, orchestrators, members, backups: Arc::new(backup::Nobody) }
    }

    /// The same data plane with somebody who knows of backups.
    #[must_use]
    pub fn with_backups(self, backups: Arc<dyn Backups>) -> Self {
        Self { backups, ..self }
    }

    /// The topology records.
    pub fn topology(&self) -> &dyn Topology {
        &*self.topology
    }

    /// The poolers.
    pub fn poolers(&self) -> &dyn Pooler {
        &*self.poolers
    }

    /// The orchestrators.
    pub fn orchestrators(&self) -> &dyn Orchestrator {
        &*self.orchestrators
    }

    /// The backups.
    pub fn backups(&self) -> &dyn Backups {
        &*self.backups
    }

    /// The membership of our own ensembles.
    pub fn members(&self) -> &dyn Members {
        &*self.members
    }
}

async fn sweep(topology: Weak<Secured>, poolers: Weak<GrpcPooler>, every: Duration) {
    loop {
        tokio::time::sleep(every.max(Duration::from_secs(1))).await;
        let (Some(topology), Some(poolers)) = (topology.upgrade(), poolers.upgrade()) else { return };
        topology.sweep();
        poolers.sweep();
    }
}
