//! Measures the calls of the data plane, whatever answers them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use prometheus::HistogramVec;

use crate::upstream::{
    Backups, CellRecord, DatabaseRecord, Error, LifecycleMark, Listing, Member, MemberChange, Members, Orchestrator,
    Pooler, PoolerAddress, PoolerId, PoolerStatus, Registration, Reloaded, Result, Scope, ShardKey, Snapshot,
    TopoAddress, Topology, Upstream, Written,
    backup::{Archiver, Backup, Expiry, Job, Order},
};

/// Label value of a call that worked.
const OK: &str = "ok";

struct Timed {
    inner: Upstream,
    topology: HistogramVec,
    poolers: HistogramVec,
}

/// Wraps a data plane.
pub(super) fn timed(inner: Upstream, topology: HistogramVec, poolers: HistogramVec) -> Upstream {
    let timed = Arc::new(Timed { inner, topology, poolers });
    Upstream::of(
        Arc::clone(&timed) as Arc<dyn Topology>,
        Arc::clone(&timed) as Arc<dyn Pooler>,
        Arc::clone(&timed) as Arc<dyn Orchestrator>,
        Arc::clone(&timed) as Arc<dyn Members>,
    )
    .with_backups(timed)
}

/// Observes when it goes away, so that a call that is given up counts, too.
struct Watch<'a> {
    family: &'a HistogramVec,
    what: &'static str,
    result: &'static str,
    started: Instant,
}

impl<'a> Watch<'a> {
    fn new(family: &'a HistogramVec, what: &'static str) -> Self {
        Self { family, what, result: "cancelled", started: Instant::now() }
    }

    fn ended<T>(mut self, answer: Result<T>) -> Result<T> {
        self.result = label(&answer);
        answer
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.family.with_label_values(&[self.what, self.result]).observe(self.started.elapsed().as_secs_f64());
    }
}

fn label<T>(answer: &Result<T>) -> &'static str {
    match answer {
        Ok(_) => OK,
        Err(error) => error.into(),
    }
}

/// The first thing that a snapshot lacks. A cell that nobody registered is an answer.
fn incomplete<T>(snapshot: &Snapshot<T>) -> &'static str {
    let of_cells = snapshot.cells.values().filter_map(|cell| cell.as_ref().err());
    let mut errors = snapshot.global.as_ref().err().into_iter().chain(of_cells);
    errors.find(|error| !matches!(error, Error::NotFound { .. })).map_or(OK, Into::into)
}

impl Timed {
    fn topology<'a, T: Send + 'a>(
        &'a self,
        what: &'static str,
        call: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            let watch = Watch::new(&self.topology, what);
            watch.ended(call.await)
        })
    }

    fn pooler<'a, T: Send + 'a>(
        &'a self,
        what: &'static str,
        call: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            let watch = Watch::new(&self.poolers, what);
            watch.ended(call.await)
        })
    }

    fn snapshots<'a, T: Send + 'a>(
        &'a self,
        what: &'static str,
        call: BoxFuture<'a, Snapshot<T>>,
    ) -> BoxFuture<'a, Snapshot<T>> {
        Box::pin(async move {
            let mut watch = Watch::new(&self.topology, what);
            let snapshot = call.await;
            watch.result = incomplete(&snapshot);
            snapshot
        })
    }
}

impl Topology for Timed {
    fn cells<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Listing<CellRecord>>> {
        self.topology("cells", self.inner.topology().cells(at))
    }

    fn databases<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Listing<DatabaseRecord>>> {
        self.topology("databases", self.inner.topology().databases(at))
    }

    fn put_cell<'a>(&'a self, at: &'a TopoAddress, record: &'a CellRecord) -> BoxFuture<'a, Result<Written>> {
        self.topology("put_cell", self.inner.topology().put_cell(at, record))
    }

    fn put_database<'a>(&'a self, at: &'a TopoAddress, record: &'a DatabaseRecord) -> BoxFuture<'a, Result<Written>> {
        self.topology("put_database", self.inner.topology().put_database(at, record))
    }

    fn delete_cell<'a>(&'a self, at: &'a TopoAddress, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        self.topology("delete_cell", self.inner.topology().delete_cell(at, name))
    }

    fn delete_database<'a>(&'a self, at: &'a TopoAddress, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        self.topology("delete_database", self.inner.topology().delete_database(at, name))
    }

    fn snapshot<'a>(&'a self, at: &'a TopoAddress, scope: &'a Scope) -> BoxFuture<'a, Snapshot> {
        self.snapshots("snapshot", self.inner.topology().snapshot(at, scope))
    }

    fn registrations<'a>(
        &'a self,
        at: &'a TopoAddress,
        cells: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Snapshot<Registration>> {
        self.snapshots("registrations", self.inner.topology().registrations(at, cells))
    }

    fn mark_pooler<'a>(
        &'a self,
        at: &'a TopoAddress,
        id: &'a PoolerId,
        mark: &'a LifecycleMark,
    ) -> BoxFuture<'a, Result<Written>> {
        self.topology("mark_pooler", self.inner.topology().mark_pooler(at, id, mark))
    }

    fn delete_pooler<'a>(&'a self, at: &'a TopoAddress, id: &'a PoolerId) -> BoxFuture<'a, Result<bool>> {
        self.topology("delete_pooler", self.inner.topology().delete_pooler(at, id))
    }

    fn delete_registration<'a>(&'a self, at: &'a TopoAddress, seen: &'a Registration) -> BoxFuture<'a, Result<bool>> {
        self.topology("delete_registration", self.inner.topology().delete_registration(at, seen))
    }

    fn backup_lease<'a>(&'a self, at: &'a TopoAddress, shard: &'a ShardKey) -> BoxFuture<'a, Result<bool>> {
        self.topology("backup_lease", self.inner.topology().backup_lease(at, shard))
    }
}

impl Pooler for Timed {
    fn status<'a>(&'a self, address: &'a PoolerAddress, deadline: Duration) -> BoxFuture<'a, Result<PoolerStatus>> {
        self.pooler("Status", self.inner.poolers().status(address, deadline))
    }

    fn resign<'a>(&'a self, primary: &'a PoolerAddress) -> BoxFuture<'a, Result<()>> {
        self.pooler("Resign", self.inner.poolers().resign(primary))
    }

    fn leave_cohort<'a>(&'a self, primary: &'a PoolerAddress, member: &'a PoolerId) -> BoxFuture<'a, Result<()>> {
        self.pooler("LeaveCohort", self.inner.poolers().leave_cohort(primary, member))
    }

    fn reload<'a>(
        &'a self,
        address: &'a PoolerAddress,
        expected: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<Reloaded>> {
        self.pooler("Reload", self.inner.poolers().reload(address, expected))
    }

    fn complete_backups<'a>(&'a self, address: &'a PoolerAddress) -> BoxFuture<'a, Result<usize>> {
        self.pooler("Backups", self.inner.poolers().complete_backups(address))
    }
}

impl Backups for Timed {
    fn list<'a>(&'a self, pooler: &'a PoolerAddress) -> BoxFuture<'a, Result<Vec<Backup>>> {
        self.pooler("ListBackups", self.inner.backups().list(pooler))
    }

    fn archiver<'a>(&'a self, exporter: &'a PoolerAddress) -> BoxFuture<'a, Result<Archiver>> {
        self.pooler("Archiver", self.inner.backups().archiver(exporter))
    }

    fn start<'a>(&'a self, admin: &'a PoolerAddress, order: &'a Order) -> BoxFuture<'a, Result<String>> {
        self.pooler("StartBackup", self.inner.backups().start(admin, order))
    }

    fn job<'a>(
        &'a self,
        admin: &'a PoolerAddress,
        shard: &'a ShardKey,
        job: &'a str,
    ) -> BoxFuture<'a, Result<Option<Job>>> {
        self.pooler("BackupJob", self.inner.backups().job(admin, shard, job))
    }

    fn expire<'a>(
        &'a self,
        admin: &'a PoolerAddress,
        shard: &'a ShardKey,
        what: &'a Expiry,
    ) -> BoxFuture<'a, Result<Vec<String>>> {
        self.pooler("ExpireBackups", self.inner.backups().expire(admin, shard, what))
    }
}

impl Orchestrator for Timed {
    fn hasten<'a>(&'a self, address: &'a PoolerAddress) -> BoxFuture<'a, Result<()>> {
        self.pooler("Hasten", self.inner.orchestrators().hasten(address))
    }
}

impl Members for Timed {
    fn list<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Vec<Member>>> {
        self.topology("list_members", self.inner.members().list(at))
    }

    fn change<'a>(&'a self, at: &'a TopoAddress, change: &'a MemberChange) -> BoxFuture<'a, Result<bool>> {
        self.topology("change_member", self.inner.members().change(at, change))
    }
}
