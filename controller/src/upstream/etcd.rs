//! The key-value store over etcd: long-lived clients, one deadline per operation, members tried in turn.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, GetOptions, GetResponse, KeyValue, KvClient, SortOrder, SortTarget,
    TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use tokio::time::{Instant, timeout};

use super::{
    Error, Limits, MAX_DEADLINE, Result,
    idle::IdleCache,
    kv::{Entry, Kv, Range},
};

/// A member that does not accept within this time is passed over.
const CONNECT: Duration = Duration::from_millis(1500);
/// With several members, one that hangs must leave time for the others.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// A dead peer is noticed by its silence while a request is open.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Answers hold the poolers of a whole cell; the transport's default of 4 MiB is some ten thousand of them.
const LARGEST_ANSWER: usize = 16 << 20;
/// After a failure of all members the store is left alone, so that one dead etcd does not occupy every pass: first and longest
/// time.
const LEFT_ALONE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// All stores that are reached with the same credentials.
pub struct EtcdKv {
    stores: IdleCache<Vec<String>, Arc<Store>>,
    deadline: Duration,
    tls: Option<TlsOptions>,
}

/// One etcd cluster.
struct Store {
    members: Vec<Member>,
    /// The member that answered last.
    preferred: AtomicUsize,
    trouble: Mutex<Trouble>,
}

struct Member {
    target: String,
    client: Mutex<Option<KvClient>>,
    tls: Option<TlsOptions>,
}

/// What failed last, and until when nobody asks again.
#[derive(Default)]
struct Trouble {
    failures: u32,
    until: Option<(Instant, Error)>,
}

impl EtcdKv {
    /// No connection is made before the first operation.
    pub fn new(limits: Limits, tls: Option<TlsOptions>) -> Self {
        Self {
            stores: IdleCache::new(limits.stores, limits.idle),
            deadline: limits.store_deadline.min(MAX_DEADLINE),
            tls,
        }
    }

    /// Drops idle connections.
    pub fn sweep(&self) {
        self.stores.sweep();
    }

    fn store(&self, endpoints: &[String]) -> Result<Arc<Store>> {
        if endpoints.is_empty() {
            return Err(Error::Invalid {
                what: "topology address".to_owned(),
                detail: "it has no endpoint".to_owned(),
            });
        }
        Ok(self.stores.get_or_insert(&endpoints.to_vec(), || Arc::new(Store::new(endpoints, self.tls.as_ref()))))
    }

    async fn call<T, F, Fut>(&self, endpoints: &[String], request: F) -> Result<T>
    where
        F: Fn(KvClient) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let store = self.store(endpoints)?;
        store.check()?;
        let answer = store.call(self.deadline, request).await;
        store.note(answer.as_ref().err());
        answer
    }
}

impl Store {
    fn new(endpoints: &[String], tls: Option<&TlsOptions>) -> Self {
        Self {
            members: endpoints
                .iter()
                .map(|target| Member {
                    target: target.clone(),
                    client: Mutex::new(None),
                    // Who writes http:// asks for a connection without, whatever the other members do.
                    tls: tls.filter(|_| !target.starts_with("http://")).cloned(),
                })
                .collect(),
            preferred: AtomicUsize::new(0),
            trouble: Mutex::new(Trouble::default()),
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers for a store that has just failed.
    fn check(&self) -> Result<()> {
        match &self.trouble().until {
            Some((until, error)) if Instant::now() < *until => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn note(&self, error: Option<&Error>) {
        let mut trouble = self.trouble();
        match error {
            Some(error) if error.unreachable() => {
                let pause = (LEFT_ALONE.0 * 2_u32.pow(trouble.failures.min(3))).min(LEFT_ALONE.1);
                trouble.failures = trouble.failures.saturating_add(1);
                trouble.until = Some((Instant::now() + pause, error.clone()));
            }
            _ => *trouble = Trouble::default(),
        }
    }

    /// Tries the members in turn. A request may have taken effect although its answer was lost; compare-and-set makes the second
    /// attempt harmless.
    async fn call<T, F, Fut>(&self, deadline: Duration, request: F) -> Result<T>
    where
        F: Fn(KvClient) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let end = Instant::now() + deadline;
        let count = self.members.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = None;
        for index in (0..count).map(|turn| (first + turn) % count) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let attempt = if count == 1 { left } else { left.min(ATTEMPT) };
            match self.members[index].call(attempt, &request).await {
                Err(error) if error.unreachable() => {
                    self.preferred.store((index + 1) % count, Ordering::Relaxed);
                    last = Some(error);
                }
                done => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return done;
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Slow { target: self.names(), after: deadline }))
    }

    fn names(&self) -> String {
        self.members.iter().map(|member| member.target.as_str()).collect::<Vec<_>>().join(",")
    }
}

impl Member {
    fn slot(&self) -> MutexGuard<'_, Option<KvClient>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn client(&self) -> Result<KvClient> {
        if let Some(client) = self.slot().clone() {
            return Ok(client);
        }
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_require_leader(true);
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls.clone());
        } else if self.target.starts_with("https://") {
            // Nobody said whom to trust: those whom everybody here trusts.
            options = options.with_tls(TlsOptions::new().with_enabled_roots());
        }
        // Makes a lazy channel: nothing is dialled here.
        let client = Client::connect([&self.target], Some(options))
            .await
            .map_err(|error| Error::from_etcd(&self.target, &error, CONNECT))?
            .kv_client()
            .max_decoding_message_size(LARGEST_ANSWER);
        Ok(self.slot().insert(client).clone())
    }

    async fn call<T, F, Fut>(&self, deadline: Duration, request: &F) -> Result<T>
    where
        F: Fn(KvClient) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let client = self.client().await?;
        if let Ok(answer) = timeout(deadline, request(client)).await {
            return answer.map_err(|error| Error::from_etcd(&self.target, &error, deadline));
        }
        // The connection may lead nowhere: the next attempt dials anew.
        *self.slot() = None;
        Err(Error::Slow { target: self.target.clone(), after: deadline })
    }
}

impl Kv for EtcdKv {
    async fn read(&self, endpoints: &[String], ranges: &[Range]) -> Result<Vec<Vec<Entry>>> {
        let ops: Vec<TxnOp> = ranges
            .iter()
            .map(|range| match range {
                Range::Key(key) => TxnOp::get(key.as_str(), None),
                Range::Prefix(prefix) => {
                    let options = GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Ascend);
                    TxnOp::get(prefix.as_str(), Some(options))
                }
            })
            .collect();
        // A transaction without conditions reads all ranges at one revision.
        let answer = self
            .call(endpoints, |mut kv| {
                let txn = Txn::new().and_then(ops.clone());
                async move { kv.txn(txn).await }
            })
            .await?;
        answer
            .op_responses()
            .into_iter()
            .map(|response| match response {
                TxnOpResponse::Get(found) => entries(found),
                _ => Err(Error::Failed {
                    target: endpoints.join(","),
                    detail: "a read was not answered with a range".to_owned(),
                }),
            })
            .collect()
    }

    async fn put(&self, endpoints: &[String], key: &str, value: Vec<u8>, expected: Option<i64>) -> Result<bool> {
        let condition = match expected {
            Some(revision) => Compare::mod_revision(key, CompareOp::Equal, revision),
            None => Compare::version(key, CompareOp::Equal, 0),
        };
        let txn = Txn::new().when([condition]).and_then([TxnOp::put(key, value, None)]);
        let answer = self
            .call(endpoints, |mut kv| {
                let txn = txn.clone();
                async move { kv.txn(txn).await }
            })
            .await?;
        Ok(answer.succeeded())
    }

    async fn delete(&self, endpoints: &[String], key: &str, expected: i64) -> Result<bool> {
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected)])
            .and_then([TxnOp::delete(key, None)]);
        let answer = self
            .call(endpoints, |mut kv| {
                let txn = txn.clone();
                async move { kv.txn(txn).await }
            })
            .await?;
        Ok(answer.succeeded())
    }
}

fn entries(mut found: GetResponse) -> Result<Vec<Entry>> {
    found.take_kvs().into_iter().map(entry).collect()
}

fn entry(pair: KeyValue) -> Result<Entry> {
    let revision = pair.mod_revision();
    let (key, value) = pair.into_key_value();
    match String::from_utf8(key) {
        Ok(key) => Ok(Entry { key, value, revision }),
        Err(error) => Err(Error::Malformed {
            key: String::from_utf8_lossy(error.as_bytes()).into_owned(),
            detail: "the key is not UTF-8".to_owned(),
        }),
    }
}
