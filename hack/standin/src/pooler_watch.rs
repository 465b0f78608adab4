//! A live view of the poolers of all cells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use etcd_client::{EventType, WatchOptions};
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::identity;
use crate::proto::clustermetadata::{Multipooler, PoolerLifecycleStatus};
use crate::topology::{Connection, Store};

impl Store {
    /// A live map of the poolers of every cell, by component id. Who `keeps` goes on with those whose records are gone although they did not stop:
    /// orchestrators do so for hours, gateways do not.
    pub fn watch_poolers(&self, keeps: bool) -> watch::Receiver<BTreeMap<String, Multipooler>> {
        let (sender, receiver) = watch::channel(BTreeMap::new());
        let store = self.clone();
        tokio::spawn(async move {
            let sender = Arc::new(sender);
            let mut watched: BTreeSet<String> = BTreeSet::new();
            let mut tasks = JoinSet::new();
            while !sender.is_closed() {
                for name in store.cell_names().await.unwrap_or_default() {
                    if !watched.contains(&name)
                        && let Ok(connection) = store.cell(&name).await
                    {
                        watched.insert(name.clone());
                        tasks.spawn(follow(connection, name, Arc::clone(&sender), keeps));
                    }
                }
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        });
        receiver
    }
}

type Poolers = watch::Sender<BTreeMap<String, Multipooler>>;

/// Keeps the entries of one cell current for as long as somebody looks.
async fn follow(connection: Connection, cell: String, sender: Arc<Poolers>, keeps: bool) {
    while !sender.is_closed() {
        if let Err(error) = follow_once(&connection, &cell, &sender, keeps).await {
            tracing::debug!(%cell, %error, "pooler watch ended");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn follow_once(connection: &Connection, cell: &str, sender: &Poolers, keeps: bool) -> Result<()> {
    let (entries, revision) = connection.list("poolers").await?;
    let current: BTreeMap<String, Multipooler> =
        entries.iter().filter_map(|(_, stored)| decode_pooler(cell, &stored.value)).collect();
    sender.send_if_modified(|poolers| {
        let before = poolers.clone();
        let elsewhere = |record: &Multipooler| record.id.as_ref().is_some_and(|id| id.cell != cell);
        poolers.retain(|_, record| elsewhere(record) || (keeps && !is_stopped(record)));
        poolers.extend(current);
        *poolers != before
    });
    let prefix = format!("{}/", connection.key("poolers"));
    let mut client = connection.client.watch_client();
    let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
    let mut stream = Connection::bounded(client.watch(prefix, Some(options))).await?;
    while let Some(response) = stream.message().await? {
        if response.canceled() {
            bail!("watch cancelled: {}", response.cancel_reason());
        }
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            match event.event_type() {
                EventType::Put => {
                    if let Some((name, record)) = decode_pooler(cell, kv.value()) {
                        sender.send_modify(|poolers| drop(poolers.insert(name, record)));
                    }
                }
                EventType::Delete => {
                    let key = String::from_utf8_lossy(kv.key()).into_owned();
                    let name = key.rsplit('/').nth(1).unwrap_or_default().to_owned();
                    sender.send_if_modified(|poolers| {
                        let goes = poolers.get(&name).is_some_and(|record| !keeps || is_stopped(record));
                        goes && poolers.remove(&name).is_some()
                    });
                }
            }
        }
        if sender.is_closed() {
            break;
        }
    }
    Ok(())
}

fn is_stopped(record: &Multipooler) -> bool {
    let lifecycle = record.lifecycle_status.as_ref();
    lifecycle.is_some_and(|lifecycle| lifecycle.status() == PoolerLifecycleStatus::LifecycleShutdown)
}

fn decode_pooler(cell: &str, value: &[u8]) -> Option<(String, Multipooler)> {
    let record = Multipooler::decode(value).ok()?;
    let id = record.id.clone()?;
    (id.cell == cell).then(|| (identity::component_id(&id), record))
}
