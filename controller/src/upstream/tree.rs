//! The topology over any key-value store: which keys are read and written for which question.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    CellRecord, Component, DatabaseRecord, Error, LifecycleMark, Listing, MAX_DEADLINE, PoolerId, PoolerRecord,
    Registration, Result, Scope, ShardKey, Snapshot, TopoAddress, Topology, Written, codec,
    idle::IdleCache,
    key,
    kv::{Entry, Kv, Range},
};

/// A write that loses this often gives up: somebody fights for the record.
const ROUNDS: u64 = 5;

/// How many clusters' cell records are remembered for the time in which their global store is away, and how long unused.
const REMEMBERED: (usize, Duration) = (2048, Duration::from_hours(24));

/// [`Topology`] over a key-value store.
pub struct Tree<K> {
    kv: K,
    /// Cell records as last read: a cell stays readable while the global store is down.
    known: IdleCache<TopoAddress, Arc<Listing<CellRecord>>>,
}

/// The cell records with their origin.
struct Cells {
    global: Result<(), Error>,
    listing: Arc<Listing<CellRecord>>,
}

/// One cell's values in the asked-for directories, or why they could not be read.
type Values = Result<Arc<Vec<Vec<Entry>>>, Error>;

impl<K: Kv> Tree<K> {
    /// A topology in that store.
    pub fn new(kv: K) -> Self {
        Self { kv, known: IdleCache::new(REMEMBERED.0, REMEMBERED.1) }
    }

    /// The store below.
    pub fn store(&self) -> &K {
        &self.kv
    }

    async fn get(&self, endpoints: &[String], key: &str) -> Result<Option<Entry>> {
        let found = self.kv.read(endpoints, &[Range::Key(key.to_owned())]).await?;
        Ok(found.into_iter().flatten().next())
    }

    async fn list(&self, at: &TopoAddress, directory: String) -> Result<Vec<Entry>> {
        Ok(self.kv.read(&at.endpoints, &[Range::Prefix(directory)]).await?.into_iter().flatten().collect())
    }

    /// Makes a record true: `edit` gets the stored value and returns the new one, or `None` if there is nothing to do.
    async fn write<F>(&self, endpoints: &[String], key: &str, edit: F) -> Result<Written>
    where
        F: Fn(Option<&[u8]>) -> Result<Option<Vec<u8>>>,
    {
        bounded(key, async {
            for round in 0..ROUNDS {
                let found = self.get(endpoints, key).await?;
                let Some(value) = edit(found.as_ref().map(|entry| entry.value.as_slice()))? else {
                    return Ok(Written::Unchanged);
                };
                if self.kv.put(endpoints, key, value, found.as_ref().map(|entry| entry.revision)).await? {
                    return Ok(if found.is_some() { Written::Updated } else { Written::Created });
                }
                back_off(round).await;
            }
            Err(Error::Conflict { key: key.to_owned() })
        })
        .await
    }

    /// Removes a record that passes `check`.
    async fn remove<F>(&self, endpoints: &[String], key: &str, check: F) -> Result<bool>
    where
        F: Fn(&Entry) -> bool,
    {
        bounded(key, async {
            for round in 0..ROUNDS {
                let Some(found) = self.get(endpoints, key).await? else { return Ok(false) };
                if !check(&found) {
                    return Ok(false);
                }
                if self.kv.delete(endpoints, key, found.revision).await? {
                    return Ok(true);
                }
                back_off(round).await;
            }
            Err(Error::Conflict { key: key.to_owned() })
        })
        .await
    }

    /// Where a cell's own records are.
    async fn cell_address(&self, at: &TopoAddress, cell: &str) -> Result<TopoAddress> {
        let key = key::cell(&at.root, cell)?;
        match self.get(&at.endpoints, &key).await {
            Ok(Some(entry)) => Ok(codec::decode_cell(&key, cell, &entry.value)?.address()),
            Ok(None) => Err(Error::NotFound { what: format!("cell {cell}") }),
            Err(error) if error.unreachable() => {
                let known = self.known.get(at).ok_or_else(|| error.clone())?;
                known.records.iter().find(|record| record.name == cell).map(CellRecord::address).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The cell records and, from the same round trip, the given directories below the global root, where the records of all
    /// cells without a local store lie.
    async fn cells_with(&self, at: &TopoAddress, directories: &[&str]) -> (Cells, Values) {
        let cells = key::directory(&at.root, key::CELLS);
        let ranges: Vec<Range> = std::iter::once(cells.clone())
            .chain(directories.iter().map(|directory| key::directory(&at.root, directory)))
            .map(Range::Prefix)
            .collect();
        match self.kv.read(&at.endpoints, &ranges).await {
            Ok(mut found) => {
                let rest = found.split_off(1.min(found.len()));
                let listing = Arc::new(decode_cells(&cells, found.into_iter().flatten()));
                self.known.insert(at, Arc::clone(&listing));
                (Cells { global: Ok(()), listing }, Ok(Arc::new(rest)))
            }
            Err(error) => {
                let listing = self.known.get(at).unwrap_or_default();
                (Cells { global: Err(error.clone()), listing }, Err(error))
            }
        }
    }

    /// The values in `directories` of each wanted cell with the address they were read from; each distinct store is read once.
    async fn per_cell(
        &self,
        at: &TopoAddress,
        wanted: &BTreeSet<String>,
        directories: &[&str],
    ) -> (Cells, BTreeMap<String, Result<(TopoAddress, Values), Error>>) {
        let (cells, global) = self.cells_with(at, directories).await;
        let names: BTreeSet<&str> = if wanted.is_empty() {
            cells.listing.records.iter().map(|record| record.name.as_str()).collect()
        } else {
            wanted.iter().map(String::as_str).collect()
        };
        let mut addresses: BTreeMap<String, Result<TopoAddress, Error>> = BTreeMap::new();
        for name in names {
            let record = cells.listing.records.iter().find(|record| record.name == name);
            let address = match (record, &cells.global) {
                (Some(record), _) => Ok(record.address()),
                (None, Err(error)) => Err(error.clone()),
                (None, Ok(())) => Err(Error::NotFound { what: format!("cell {name}") }),
            };
            addresses.insert(name.to_owned(), address);
        }
        let locals: BTreeSet<&TopoAddress> = addresses
            .values()
            .filter_map(|address| address.as_ref().ok())
            .filter(|address| !same(address, at))
            .collect();
        let reads = locals.into_iter().map(|local| async move {
            let ranges: Vec<Range> =
                directories.iter().map(|directory| Range::Prefix(key::directory(&local.root, directory))).collect();
            (local.clone(), self.kv.read(&local.endpoints, &ranges).await.map(Arc::new))
        });
        let local: BTreeMap<TopoAddress, Values> = join_all(reads).await.into_iter().collect();
        let found = addresses
            .into_iter()
            .map(|(name, address)| {
                let values = address.map(|address| {
                    let values = local.get(&address).unwrap_or(&global).clone();
                    (address, values)
                });
                (name, values)
            })
            .collect();
        (cells, found)
    }
}

impl<K: Kv> Topology for Tree<K> {
    fn cells<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Listing<CellRecord>>> {
        async move {
            let (cells, _) = self.cells_with(at, &[]).await;
            cells.global?;
            Ok(cells.listing.as_ref().clone())
        }
        .boxed()
    }

    fn databases<'a>(&'a self, at: &'a TopoAddress) -> BoxFuture<'a, Result<Listing<DatabaseRecord>>> {
        async move {
            let directory = key::directory(&at.root, key::DATABASES);
            let entries = self.list(at, directory.clone()).await?;
            Ok(listing(&directory, "Database", &entries, codec::decode_database))
        }
        .boxed()
    }

    fn put_cell<'a>(&'a self, at: &'a TopoAddress, record: &'a CellRecord) -> BoxFuture<'a, Result<Written>> {
        async move {
            let key = key::cell(&at.root, &record.name)?;
            self.write(&at.endpoints, &key, |stored| {
                Ok(match stored {
                    None => Some(codec::encode_cell(record)),
                    Some(stored) => codec::update_cell(stored, record),
                })
            })
            .await
        }
        .boxed()
    }

    fn put_database<'a>(&'a self, at: &'a TopoAddress, record: &'a DatabaseRecord) -> BoxFuture<'a, Result<Written>> {
        async move {
            let key = key::database(&at.root, &record.name)?;
            self.write(&at.endpoints, &key, |stored| {
                Ok(match stored {
                    None => Some(codec::encode_database(record)),
                    Some(stored) => codec::update_database(stored, record),
                })
            })
            .await
        }
        .boxed()
    }

    fn delete_cell<'a>(&'a self, at: &'a TopoAddress, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move {
            let key = key::cell(&at.root, name)?;
            // Records count, not directories: a left-over claim below a removed database must not hold the cell for ever.
            let databases = self.databases(at).await?;
            if let Some(user) = databases.records.iter().find(|database| database.cells.iter().any(|cell| cell == name))
            {
                return Err(Error::InUse { what: format!("cell {name}"), by: format!("database {}", user.name) });
            }
            // A database that cannot be read might list it.
            if let Some(error) = databases.malformed.into_iter().next() {
                return Err(error);
            }
            self.remove(&at.endpoints, &key, |_| true).await
        }
        .boxed()
    }

    fn delete_database<'a>(&'a self, at: &'a TopoAddress, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move {
            let key = key::database(&at.root, name)?;
            // The marks first: as long as the record is there, an interrupted removal is taken up again.
            for mark in self.list(at, key::bootstraps(&at.root, name)?).await? {
                if mark.key.ends_with(key::BOOTSTRAPPED) {
                    self.remove(&at.endpoints, &mark.key, |_| true).await?;
                }
            }
            self.remove(&at.endpoints, &key, |_| true).await
        }
        .boxed()
    }

    fn snapshot<'a>(&'a self, at: &'a TopoAddress, scope: &'a Scope) -> BoxFuture<'a, Snapshot> {
        async move {
            let (cells, found) = self.per_cell(at, &scope.cells, &[key::POOLERS]).await;
            collect(
                &cells,
                found,
                |address, values| {
                    let directory = key::directory(&address.root, key::POOLERS);
                    listing(&directory, "Pooler", values.iter().flatten(), codec::decode_pooler)
                },
                |record: &PoolerRecord, cell| record.id.cell == cell && scope.holds(&record.shard),
            )
        }
        .boxed()
    }

    fn registrations<'a>(
        &'a self,
        at: &'a TopoAddress,
        cells: &'a BTreeSet<String>,
    ) -> BoxFuture<'a, Snapshot<Registration>> {
        async move {
            let components = [Component::Gateway, Component::Orch];
            let (cells, found) = self.per_cell(at, cells, &components.map(key::registrations)).await;
            collect(
                &cells,
                found,
                |address, values| {
                    let mut all = Listing::default();
                    for (component, entries) in components.into_iter().zip(values) {
                        let directory = key::directory(&address.root, key::registrations(component));
                        let part = listing(&directory, key::file(component), entries, |key, segment, value| {
                            codec::decode_registration(component, key, segment, value)
                        });
                        all.records.extend(part.records);
                        all.malformed.extend(part.malformed);
                    }
                    all
                },
                |record: &Registration, cell| record.cell == cell,
            )
        }
        .boxed()
    }

    fn mark_pooler<'a>(
        &'a self,
        at: &'a TopoAddress,
        id: &'a PoolerId,
        mark: &'a LifecycleMark,
    ) -> BoxFuture<'a, Result<Written>> {
        async move {
            let cell = self.cell_address(at, &id.cell).await?;
            let key = key::pooler(&cell.root, id)?;
            self.write(&cell.endpoints, &key, |stored| match stored {
                None => Err(Error::NotFound { what: format!("pooler {id}") }),
                Some(stored) => codec::update_lifecycle(&key, stored, mark),
            })
            .await
        }
        .boxed()
    }

    fn delete_pooler<'a>(&'a self, at: &'a TopoAddress, id: &'a PoolerId) -> BoxFuture<'a, Result<bool>> {
        async move {
            let cell = self.cell_address(at, &id.cell).await?;
            let key = key::pooler(&cell.root, id)?;
            self.remove(&cell.endpoints, &key, |_| true).await
        }
        .boxed()
    }

    fn delete_registration<'a>(&'a self, at: &'a TopoAddress, seen: &'a Registration) -> BoxFuture<'a, Result<bool>> {
        async move {
            let cell = self.cell_address(at, &seen.cell).await?;
            let key = key::registration(&cell.root, seen.component, &seen.cell, &seen.name)?;
            let segment = key::registration_component(seen.component, &seen.cell, &seen.name);
            self.remove(&cell.endpoints, &key, |entry| {
                codec::decode_registration(seen.component, &key, &segment, &entry.value).is_ok_and(|now| now == *seen)
            })
            .await
        }
        .boxed()
    }

    fn backup_lease<'a>(&'a self, at: &'a TopoAddress, shard: &'a ShardKey) -> BoxFuture<'a, Result<bool>> {
        async move {
            let key = key::backup_lease(&at.root, shard)?;
            let own = |entry: &Entry| {
                entry.key.strip_prefix(&key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            Ok(self.list(at, key.clone()).await?.iter().any(own))
        }
        .boxed()
    }
}

/// Whether two addresses mean the same place. Written differently they are read twice, which costs a round trip and no more.
fn same(one: &TopoAddress, other: &TopoAddress) -> bool {
    one.endpoints == other.endpoints && key::join(&one.root, "") == key::join(&other.root, "")
}

fn decode_cells(directory: &str, entries: impl Iterator<Item = Entry>) -> Listing<CellRecord> {
    let entries: Vec<Entry> = entries.collect();
    listing(directory, "Cell", &entries, codec::decode_cell)
}

/// Decodes the records of one kind; whatever else lies in the directory is passed over.
fn listing<'a, T>(
    directory: &str,
    file: &str,
    entries: impl IntoIterator<Item = &'a Entry>,
    decode: impl Fn(&str, &str, &[u8]) -> Result<T>,
) -> Listing<T> {
    let mut all = Listing::default();
    for entry in entries {
        let Some(segment) = key::entry(directory, file, &entry.key) else { continue };
        match decode(&entry.key, segment, &entry.value) {
            Ok(record) => all.records.push(record),
            Err(error) => all.malformed.push(error),
        }
    }
    all
}

/// Sorts what was read by cell. Records of several cells may share a directory, so each is filtered by its own cell.
fn collect<T: Clone>(
    cells: &Cells,
    found: BTreeMap<String, Result<(TopoAddress, Values), Error>>,
    decode: impl Fn(&TopoAddress, &[Vec<Entry>]) -> Listing<T>,
    belongs: impl Fn(&T, &str) -> bool,
) -> Snapshot<T> {
    let mut malformed = cells.listing.malformed.clone();
    let mut decoded: BTreeMap<TopoAddress, Listing<T>> = BTreeMap::new();
    let mut sorted = BTreeMap::new();
    for (name, place) in found {
        let records = place.and_then(|(address, values)| {
            let values = values?;
            let all = decoded.entry(address).or_insert_with_key(|address| {
                let all = decode(address, &values);
                malformed.extend(all.malformed.iter().cloned());
                all
            });
            Ok(all.records.iter().filter(|record| belongs(record, &name)).cloned().collect())
        });
        sorted.insert(name, records);
    }
    Snapshot { global: cells.global.clone(), cells: sorted, malformed }
}

/// Reading, writing and the rounds of a conflict share one deadline.
async fn bounded<T>(key: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout_at(Instant::now() + MAX_DEADLINE, work).await {
        Ok(done) => done,
        Err(_) => Err(Error::Slow { target: key.to_owned(), after: MAX_DEADLINE }),
    }
}

/// Lets the other writer finish; the jitter keeps two losers from meeting again.
async fn back_off(round: u64) {
    let jitter: u64 = rand::random_range(0..10);
    sleep(Duration::from_millis(10 * round + jitter)).await;
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
