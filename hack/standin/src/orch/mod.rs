//! multiorch.

pub mod decision;
pub mod recovery;
pub mod service;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use axum::Router;
use prost::Message as _;
use tonic::service::Routes;

use self::recovery::{Shard, Timing};
use self::service::Orchestrator;
use crate::fault::Faults;
use crate::flag::{Values, parse_duration};
use crate::identity;
use crate::launch::Role;
use crate::proto::clustermetadata::id::ComponentType;
use crate::proto::clustermetadata::{Multiorch, ShardKey};
use crate::proto::multiorch::multiorch_service_server::MultiorchServiceServer;
use crate::serving::{Serving, Surface};
use crate::tls::PoolerDialer;
use crate::topology::{Store, key};

/// What an orchestrator watches: a database, a table group of it, or one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    database: String,
    table_group: Option<String>,
    shard: Option<String>,
}

impl Target {
    /// Reads `db`, `db/tablegroup` or `db/tablegroup/shard`.
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        if text.is_empty() {
            bail!("empty shard watch target");
        }
        if parts.len() > 3 {
            bail!("invalid shard watch target format: {text} (expected db, db/tablegroup, or db/tablegroup/shard)");
        }
        for (part, name) in parts.iter().zip([
            "database cannot be empty",
            "tablegroup cannot be empty when specified",
            "shard cannot be empty when specified",
        ]) {
            if part.is_empty() {
                bail!(name);
            }
        }
        Ok(Self {
            database: parts[0].to_owned(),
            table_group: parts.get(1).map(ToString::to_string),
            shard: parts.get(2).map(ToString::to_string),
        })
    }

    /// Whether a shard belongs to it.
    pub fn covers(&self, key: &ShardKey) -> bool {
        self.database == key.database
            && self.table_group.as_ref().is_none_or(|group| *group == key.table_group)
            && self.shard.as_ref().is_none_or(|shard| *shard == key.shard)
    }
}

/// Runs multiorch.
pub async fn run(values: Values) -> Result<()> {
    let store = Store::open(&values).await?;
    let targets = values.list("watch-targets");
    if targets.is_empty() {
        bail!("watch-targets is required");
    }
    let targets: Vec<Target> = targets
        .iter()
        .map(|target| Target::parse(target))
        .collect::<Result<_>>()
        .context("failed to parse watch-targets")?;
    let dialer = PoolerDialer::from_flags(&values)?;
    let faults = Faults::watch("");
    let id = identity::id(ComponentType::Multiorch, values.text("cell"), &identity::service_id(&values));
    let record = Multiorch {
        id: Some(id.clone()),
        hostname: identity::hostname(&values),
        port_map: [("grpc", "grpc-port"), ("http", "http-port")]
            .map(|(name, flag)| (name.to_owned(), i32::from(values.port(flag))))
            .into(),
    };
    let registered = Arc::new(AtomicBool::new(false));
    let registration = tokio::spawn(register(store.clone(), record, Arc::clone(&registered)));
    let orchestrator = Arc::new(Orchestrator::default());
    let timing = Timing {
        grace_base: values.duration("leader-failover-grace-period-base"),
        grace_jitter: values.duration("leader-failover-grace-period-max-jitter"),
        trust: values.duration("leader-postgres-response-threshold"),
        forget: std::env::var("STANDIN_FORGET_AFTER")
            .ok()
            .and_then(|text| parse_duration(&text))
            .unwrap_or(Duration::from_hours(24)),
    };
    let checked = store.clone();
    let ready = Arc::new(move || -> futures::future::BoxFuture<'static, Result<(), String>> {
        let (store, registered) = (checked.clone(), registered.load(Ordering::Relaxed));
        Box::pin(async move {
            if !registered {
                return Err("not registered with the topology".to_owned());
            }
            let names = tokio::time::timeout(Duration::from_secs(4), store.cell_names()).await;
            names.map_err(|_| "topology timed out".to_owned())?.map(drop).map_err(|error| error.to_string())
        })
    });
    let serving = Serving::start(
        &values,
        Surface {
            role: Role::Orch,
            faults: faults.clone(),
            ready,
            pages: Router::new(),
            services: Routes::new(MultiorchServiceServer::from_arc(Arc::clone(&orchestrator))),
        },
    )
    .await?;
    let poolers = store.watch_poolers(true);
    let cycle = values.duration("recovery-cycle-interval").max(Duration::from_millis(200));
    let bookkeeping = values.duration("bookkeeping-interval").max(Duration::from_secs(1));
    let (loop_store, loop_id) = (store.clone(), id.clone());
    let recovery = tokio::spawn(async move {
        let mut shards: BTreeMap<(String, String, String), Arc<Shard>> = BTreeMap::new();
        let mut kept_books = Instant::now();
        loop {
            let keys: Vec<ShardKey> = poolers.borrow().values().filter_map(|record| record.shard_key.clone()).collect();
            for key in keys.into_iter().filter(|key| targets.iter().any(|target| target.covers(key))) {
                let name = (key.database.clone(), key.table_group.clone(), key.shard.clone());
                shards.entry(name).or_insert_with(|| {
                    let shard = Shard::new(
                        key,
                        loop_id.clone(),
                        loop_store.clone(),
                        dialer.clone(),
                        faults.clone(),
                        timing,
                        poolers.clone(),
                    );
                    orchestrator.adopt(Arc::clone(&shard));
                    shard
                });
            }
            if orchestrator.is_enabled() {
                futures::future::join_all(shards.values().map(|shard| shard.run_cycle(false))).await;
            }
            if kept_books.elapsed() >= bookkeeping {
                kept_books = Instant::now();
                futures::future::join_all(shards.values().map(|shard| shard.forget_stopped())).await;
            }
            tokio::time::sleep(cycle).await;
        }
    });
    serving.until_told().await?;
    recovery.abort();
    registration.abort();
    serving.close().await;
    let unregistered = async { store.cell(&id.cell).await?.delete(&key::orch(&id)).await };
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), unregistered).await {
        tracing::error!(%error, "failed to deregister component from topology");
    }
    Ok(())
}

async fn register(store: Store, record: Multiorch, registered: Arc<AtomicBool>) {
    let id = record.id.clone().unwrap_or_default();
    let mut pause = Duration::from_millis(10);
    loop {
        let written = async { store.cell(&id.cell).await?.put(&key::orch(&id), record.encode_to_vec()).await };
        match written.await {
            Ok(()) => break,
            Err(error) => tracing::debug!(%error, "failed to register component with topology"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
    registered.store(true, Ordering::Relaxed);
    tracing::info!("successfully registered component with topology");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_the_real_one_reads_them() {
        let target = Target::parse("postgres/default/0-inf").unwrap();
        let key = ShardKey { database: "postgres".into(), table_group: "default".into(), shard: "0-inf".into() };
        assert!(target.covers(&key));
        assert!(Target::parse("postgres").unwrap().covers(&key));
        assert!(!Target::parse("postgres/other").unwrap().covers(&key));
        for wrong in ["", "/x", "a//c", "a/b/", "a/b/c/d"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }
}
