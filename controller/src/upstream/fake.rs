//! In-memory doubles of the data plane for tests: they behave like the real ones and record what was asked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};

use super::{
    CellRecord, DatabaseRecord, Error, LifecycleMark, Listing, Member, MemberChange, Members, Orchestrator, Pooler,
    PoolerAddress, PoolerId, PoolerRecord, PoolerStatus, Registration, Reloaded, Result, Scope, Snapshot, TopoAddress,
    Topology, Upstream, Written, codec, key,
    kv::{Entry, Kv, Range},
    tree::Tree,
};
use crate::upstream::ShardKey;

pub use super::fake_backups::FakeBackups;

/// A call that a double has received.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// [`Topology::cells`].
    Cells,
    /// [`Topology::databases`].
    Databases,
    /// [`Topology::put_cell`].
    PutCell(CellRecord),
    /// [`Topology::put_database`].
    PutDatabase(DatabaseRecord),
    /// [`Topology::delete_cell`].
    DeleteCell(String),
    /// [`Topology::delete_database`].
    DeleteDatabase(String),
    /// [`Topology::snapshot`].
    Snapshot(Scope),
    /// [`Topology::registrations`].
    Registrations,
    /// [`Topology::mark_pooler`].
    MarkPooler(PoolerId, LifecycleMark),
    /// [`Topology::delete_pooler`].
    DeletePooler(PoolerId),
    /// [`Topology::delete_registration`].
    DeleteRegistration(Registration),
    /// [`Pooler::status`].
    Status(PoolerAddress),
    /// [`Pooler::resign`].
    Resign(PoolerAddress),
    /// [`Pooler::leave_cohort`]: whom the primary is asked to let go.
    LeaveCohort(PoolerAddress, PoolerId),
    /// [`Pooler::reload`].
    Reload(PoolerAddress, BTreeMap<String, String>),
    /// [`Pooler::complete_backups`].
    Backups(PoolerAddress),
    /// [`Orchestrator::hasten`].
    Hasten(PoolerAddress),
}

/// All doubles together with the handle to give to the code under test.
#[derive(Clone, Default)]
pub struct FakeDataPlane {
    /// The topology servers.
    pub topology: Arc<FakeTopology>,
    /// The poolers.
    pub poolers: Arc<FakePoolers>,
    /// The members of our own ensembles.
    pub members: Arc<FakeMembers>,
    /// The backups.
    pub backups: Arc<FakeBackups>,
}

impl FakeDataPlane {
    /// Empty topology servers and no pooler.
    pub fn new() -> Self {
        Self::default()
    }

    /// The handle.
    pub fn upstream(&self) -> Upstream {
        Upstream::of(self.topology.clone(), self.poolers.clone(), self.poolers.clone(), self.members.clone())
            .with_backups(self.backups.clone())
    }
}

/// Topology servers that run the real record logic over maps in memory. Addresses with the same first endpoint mean the same
/// server.
pub struct FakeTopology {
    tree: Tree<MemoryKv>,
    calls: Mutex<Vec<Call>>,
}

impl Default for FakeTopology {
    fn default() -> Self {
        Self { tree: Tree::new(MemoryKv::default()), calls: Mutex::default() }
    }
}

impl FakeTopology {
    /// Takes out the calls received so far.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.calls))
    }

    /// Number of changes made to any server through the double.
    pub fn writes(&self) -> usize {
        self.tree.store().lock().writes
    }

    /// Number of round trips that read.
    pub fn reads(&self) -> usize {
        self.tree.store().lock().reads
    }

    /// Lets every operation on a server fail from now on.
    pub fn fail(&self, endpoint: &str, error: Error) {
        self.tree.store().lock().failing.insert(endpoint.to_owned(), error);
    }

    /// Ends what [`FakeTopology::fail`] began.
    pub fn heal(&self, endpoint: &str) {
        self.tree.store().lock().failing.remove(endpoint);
    }

    /// Registers a pooler as it would do itself, at the **cell's** address. Not counted as a write.
    pub fn register_pooler(&self, cell: &TopoAddress, record: &PoolerRecord) -> Result<()> {
        self.put_raw(cell, &key::pooler(&cell.root, &record.id)?, codec::encode_pooler(record));
        Ok(())
    }

    /// Registers a gateway or orchestrator as it would do itself, at the **cell's** address. Not counted as a write.
    pub fn register(&self, cell: &TopoAddress, record: &Registration) -> Result<()> {
        let key = key::registration(&cell.root, record.component, &record.cell, &record.name)?;
        self.put_raw(cell, &key, codec::encode_registration(record));
        Ok(())
    }

    /// Gives or takes the lease on a shard's repository, as a pooler does. Not counted as a write.
    pub fn lease(&self, at: &TopoAddress, shard: &ShardKey, held: bool) -> Result<()> {
        let key = key::backup_lease(&at.root, shard)?;
        self.tree.store().lock().set(server(&at.endpoints), &key, held.then(|| b"{}".to_vec()));
        Ok(())
    }

    /// Stores any value under a full key. Not counted as a write.
    pub fn put_raw(&self, at: &TopoAddress, key: &str, value: Vec<u8>) {
        self.tree.store().lock().set(server(&at.endpoints), key, Some(value));
    }

    /// All keys of a server.
    pub fn keys(&self, at: &TopoAddress) -> Vec<String> {
        let memory = self.tree.store().lock();
        memory.servers.get(server(&at.endpoints)).map(|tree| tree.keys().cloned().collect()).unwrap_or_default()
    }

    fn note(&self, call: Call) {
        lock(&self.calls).push(call);
    }
}

impl Topology for FakeTopology {
    fn cells<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Listing<CellRecord>>> {
        self.note(Call::Cells);
        self.tree.cells(at)
    }

    fn databases<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Listing<DatabaseRecord>>> {
        self.note(Call::Databases);
        self.tree.databases(at)
    }

    fn put_cell<'a>(&'a self, at: &'a TopoAddress, record: &'a CellRecord) -> BoxFuture<'a, Result<Written>> {
        self.note(Call::PutCell(record.clone()));
        self.tree.put_cell(at, record)
    }

    fn put_database<'a>(&'a self, at: &'a TopoAddress, record: &'a DatabaseRecord) -> BoxFuture<'a, Result<Written>> {
        self.note(Call::PutDatabase(record.clone()));
        self.tree.put_database(at, record)
    }

    fn delete_cell<'a>(&'a self, at: &'a TopoAddress, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        self.note(Call::DeleteCell(name.to_owned()));
        self.tree.delete_cell(at, name)
    }

    fn delete_database<'a>(&'a self, at: &'a TopoAddress, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        self.note(Call::DeleteDatabase(name.to_owned()));
        self.tree.delete_database(at, name)
    }

    fn snapshot<'a>(&'a self, at: &'a TopoAddress, scope: &'a Scope) -> BoxFuture<'a, Snapshot> {
        self.note(Call::Snapshot(scope.clone()));
        self.tree.snapshot(at, scope)
    }

    fn registrations<'a>(
        &'a self,
        at: &'a TopoAddress,
        cells: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Snapshot<Registration>> {
        self.note(Call::Registrations);
        self.tree.registrations(at, cells)
    }

    fn mark_pooler<'a>(
        &'a self,
        at: &'a TopoAddress,
        id: &'a PoolerId,
        mark: &'a LifecycleMark,
    ) -> BoxFuture<'a, Result<Written>> {
        self.note(Call::MarkPooler(id.clone(), mark.clone()));
        self.tree.mark_pooler(at, id, mark)
    }

    fn delete_pooler<'a>(&'a self, at: &'a TopoAddress, id: &'a PoolerId) -> BoxFuture<'a, Result<bool>> {
        self.note(Call::DeletePooler(id.clone()));
        self.tree.delete_pooler(at, id)
    }

    fn delete_registration<'a>(&'a self, at: &'a TopoAddress, seen: &'a Registration) -> BoxFuture<'a, Result<bool>> {
        self.note(Call::DeleteRegistration(seen.clone()));
        self.tree.delete_registration(at, seen)
    }

    fn backup_lease<'a>(&'a self, at: &'a TopoAddress, shard: &'a ShardKey) -> BoxFuture<'a, Result<bool>> {
        self.tree.backup_lease(at, shard)
    }
}

/// What a double does with a call that changes something.
pub type Reaction = Box<dyn Fn(&Call) -> Result<()> + Send + Sync>;

/// Poolers that answer what they were told to; all others are unavailable. Calls that change something go to a reaction.
#[derive(Default)]
pub struct FakePoolers {
    answers: Mutex<HashMap<PoolerAddress, Result<PoolerStatus>>>,
    hanging: Mutex<BTreeSet<PoolerAddress>>,
    reaction: Mutex<Option<Arc<Reaction>>>,
    reloaded: Mutex<Option<Reloaded>>,
    calls: Mutex<Vec<Call>>,
}

impl FakePoolers {
    /// Sets the answer of a pooler from now on.
    pub fn answer(&self, address: PoolerAddress, answer: Result<PoolerStatus>) {
        lock(&self.answers).insert(address, answer);
    }

    /// Lets a pooler say nothing until each caller has lost its patience.
    pub fn hang(&self, address: PoolerAddress) {
        lock(&self.hanging).insert(address);
    }

    /// Takes a pooler away.
    pub fn forget(&self, address: &PoolerAddress) {
        lock(&self.answers).remove(address);
    }

    /// Sets what calls that change something do from now on. Without it they are unavailable.
    pub fn react(&self, reaction: Reaction) {
        *lock(&self.reaction) = Some(Arc::new(reaction));
    }

    /// Sets the answer to reloads from now on; without it they are done at once.
    pub fn reloads(&self, answer: Reloaded) {
        *lock(&self.reloaded) = Some(answer);
    }

    /// Takes out the calls received so far.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.calls))
    }

    fn change(&self, call: Call, address: &PoolerAddress) -> Result<()> {
        let reaction = lock(&self.reaction).clone();
        let outcome = match reaction {
            Some(reaction) => reaction(&call),
            None => Err(nobody(address)),
        };
        lock(&self.calls).push(call);
        outcome
    }
}

fn nobody(address: &PoolerAddress) -> Error {
    Error::Unavailable { target: address.to_string(), detail: "nobody is there".to_owned() }
}

impl Pooler for FakePoolers {
    fn status<'a>(&'a self, address: &'a PoolerAddress, deadline: Duration) -> BoxFuture<'a, Result<PoolerStatus>> {
        lock(&self.calls).push(Call::Status(address.clone()));
        if lock(&self.hanging).contains(address) {
            return async move {
                tokio::time::sleep(deadline).await;
                Err(nobody(address))
            }
            .boxed();
        }
        let answer = lock(&self.answers).get(address).cloned().unwrap_or_else(|| Err(nobody(address)));
        async move { answer }.boxed()
    }

    fn resign<'a>(&'a self, primary: &'a PoolerAddress) -> BoxFuture<'a, Result<()>> {
        let outcome = self.change(Call::Resign(primary.clone()), primary);
        async move { outcome }.boxed()
    }

    fn leave_cohort<'a>(&'a self, primary: &'a PoolerAddress, member: &'a PoolerId) -> BoxFuture<'a, Result<()>> {
        let outcome = self.change(Call::LeaveCohort(primary.clone(), member.clone()), primary);
        async move { outcome }.boxed()
    }

    fn reload<'a>(
        &'a self,
        address: &'a PoolerAddress,
        expected: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<Reloaded>> {
        let outcome = self.change(Call::Reload(address.clone(), expected.clone()), address);
        let answer = lock(&self.reloaded).clone().unwrap_or(Reloaded::Done);
        async move { outcome.map(|()| answer) }.boxed()
    }

    fn complete_backups<'a>(&'a self, address: &'a PoolerAddress) -> BoxFuture<'a, Result<usize>> {
        let outcome = self.change(Call::Backups(address.clone()), address);
        async move { outcome.map(|()| 1) }.boxed()
    }
}

impl Orchestrator for FakePoolers {
    fn hasten<'a>(&'a self, address: &'a PoolerAddress) -> BoxFuture<'a, Result<()>> {
        let outcome = self.change(Call::Hasten(address.clone()), address);
        async move { outcome }.boxed()
    }
}

/// Ensembles that know their members and keep etcd's rules about them. An ensemble that nobody has started does not answer.
#[derive(Default)]
pub struct FakeMembers {
    ensembles: Mutex<HashMap<String, FakeEnsemble>>,
}

#[derive(Default)]
struct FakeEnsemble {
    members: Vec<Member>,
    last: u64,
    changes: Vec<MemberChange>,
}

impl FakeMembers {
    /// What the pods of an ensemble do: those that are listed in `urls` by name and peer URL start. The first ones found it, each
    /// later one has to be a member already.
    pub fn start(&self, at: &TopoAddress, urls: &[(String, String)]) {
        let mut ensembles = lock(&self.ensembles);
        let ensemble = ensembles.entry(server(&at.endpoints).to_owned()).or_default();
        let first = ensemble.members.is_empty();
        for (name, url) in urls {
            if let Some(member) = ensemble.members.iter_mut().find(|member| member.peer_urls.contains(url)) {
                member.name.clone_from(name);
            } else if first {
                ensemble.last += 1;
                let (id, peer_urls) = (ensemble.last, vec![url.clone()]);
                ensemble.members.push(Member { id, name: name.clone(), peer_urls, learner: false });
            }
        }
    }

    /// The steps that were made, in order.
    pub fn changes(&self, at: &TopoAddress) -> Vec<MemberChange> {
        lock(&self.ensembles).get(server(&at.endpoints)).map(|ensemble| ensemble.changes.clone()).unwrap_or_default()
    }

    /// The members of an ensemble.
    pub fn members(&self, at: &TopoAddress) -> Vec<Member> {
        lock(&self.ensembles).get(server(&at.endpoints)).map(|ensemble| ensemble.members.clone()).unwrap_or_default()
    }
}

impl FakeEnsemble {
    fn change(&mut self, change: &MemberChange) -> bool {
        let made = match change {
            MemberChange::AddLearner { peer_url } => {
                let free = !self.members.iter().any(|member| member.learner || member.peer_urls.contains(peer_url));
                if free {
                    self.last += 1;
                    let (id, peer_urls) = (self.last, vec![peer_url.clone()]);
                    self.members.push(Member { id, name: String::new(), peer_urls, learner: true });
                }
                free
            }
            MemberChange::Promote { id } => {
                let learner = self.members.iter_mut().find(|m| m.id == *id && m.learner && !m.name.is_empty());
                learner.map(|member| member.learner = false).is_some()
            }
            MemberChange::Remove { id } => {
                let before = self.members.len();
                self.members.retain(|member| member.id != *id);
                self.members.len() < before
            }
        };
        if made {
            self.changes.push(change.clone());
        }
        made
    }
}

impl Members for FakeMembers {
    fn list<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Vec<Member>>> {
        let found = self.members(at);
        let nobody = || Error::Unavailable { target: at.endpoints.join(","), detail: "nobody is there".to_owned() };
        async move { if found.is_empty() { Err(nobody()) } else { Ok(found) } }.boxed()
    }

    fn change<'a>(&'a self, at: &'a TopoAddress, change: &'a MemberChange) -> BoxFuture<'a, Result<bool>> {
        let made = lock(&self.ensembles).get_mut(server(&at.endpoints)).is_some_and(|e| e.change(change));
        async move { Ok(made) }.boxed()
    }
}

/// A key-value store in memory.
#[derive(Default)]
pub(super) struct MemoryKv {
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    servers: HashMap<String, BTreeMap<String, (Vec<u8>, i64)>>,
    failing: HashMap<String, Error>,
    revision: i64,
    reads: usize,
    writes: usize,
    /// Writes of somebody else that come in before the next ones of ours, one before each.
    races: Vec<(String, String, Option<Vec<u8>>)>,
}

impl Memory {
    fn set(&mut self, server: &str, key: &str, value: Option<Vec<u8>>) {
        self.revision += 1;
        let tree = self.servers.entry(server.to_owned()).or_default();
        match value {
            Some(value) => drop(tree.insert(key.to_owned(), (value, self.revision))),
            None => drop(tree.remove(key)),
        }
    }

    /// Writes if the revision is as expected, after whoever is faster.
    fn compare_and_set(
        &mut self,
        endpoints: &[String],
        key: &str,
        value: Option<Vec<u8>>,
        expected: Option<i64>,
    ) -> Result<bool> {
        let server = server(endpoints);
        self.check(server)?;
        if let Some((server, key, value)) = self.races.pop() {
            self.set(&server, &key, value);
        }
        let now = self.servers.get(server).and_then(|tree| tree.get(key)).map(|(_, revision)| *revision);
        if now == expected {
            self.set(server, key, value);
            self.writes += 1;
        }
        Ok(now == expected)
    }

    fn check(&self, server: &str) -> Result<()> {
        self.failing.get(server).map_or(Ok(()), |error| Err(error.clone()))
    }
}

impl MemoryKv {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    /// Lets somebody else write before the next write of ours.
    #[cfg(test)]
    pub(super) fn race(&self, at: &TopoAddress, key: &str, value: Option<Vec<u8>>) {
        self.lock().races.push((server(&at.endpoints).to_owned(), key.to_owned(), value));
    }
}

impl Kv for MemoryKv {
    async fn read(&self, endpoints: &[String], ranges: &[Range]) -> Result<Vec<Vec<Entry>>> {
        let mut memory = self.lock();
        let server = server(endpoints);
        memory.check(server)?;
        memory.reads += 1;
        let empty = BTreeMap::new();
        let tree = memory.servers.get(server).unwrap_or(&empty);
        let found = ranges.iter().map(|range| {
            let wanted = |key: &str| match range {
                Range::Key(one) => key == one,
                Range::Prefix(prefix) => key.starts_with(prefix),
            };
            tree.iter()
                .filter(|(key, _)| wanted(key))
                .map(|(key, (value, revision))| Entry { key: key.clone(), value: value.clone(), revision: *revision })
                .collect()
        });
        Ok(found.collect())
    }

    async fn put(&self, endpoints: &[String], key: &str, value: Vec<u8>, expected: Option<i64>) -> Result<bool> {
        self.lock().compare_and_set(endpoints, key, Some(value), expected)
    }

    async fn delete(&self, endpoints: &[String], key: &str, expected: i64) -> Result<bool> {
        self.lock().compare_and_set(endpoints, key, None, Some(expected))
    }
}

fn server(endpoints: &[String]) -> &str {
    endpoints.first().map_or("", String::as_str)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
