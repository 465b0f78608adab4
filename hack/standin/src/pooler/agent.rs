//! The pooler's knowledge of itself and the loop that brings PostgreSQL up: start, first backup, restore.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use tonic::transport::{Channel, Endpoint};

use super::record::{self, Publisher};
use super::repository::Repository;
use crate::fault::{Fault, Faults};
use crate::identity;
use crate::postgres::data_dir::DataDir;
use crate::postgres::wire::{self, Ask, Report};
use crate::proto::clustermetadata::{
    Database, Id, PoolerLifecycleStatus, PoolerServingStatus, RuleNumber, ShardKey, ShardRule, TermRevocation,
};
use crate::proto::multipoolermanagerdata::PostgresAction;
use crate::proto::pgctldservice::pg_ctld_client::PgCtldClient;
use crate::proto::pgctldservice::{ServerStatus, StartRequest, StatusRequest as PgStatusRequest, StopRequest};
use crate::topology::Store;

/// What must outlive a restart besides the data: the last term this pooler promised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Rules below this term are refused.
    pub term: i64,
    /// Cell and name of the orchestrator that got the promise.
    pub coordinator: Option<(String, String)>,
    /// When it asked, in milliseconds since 1970.
    pub initiated_at: u64,
}

impl Promise {
    /// The wire form; nothing was promised at term zero.
    pub fn revocation(&self) -> Option<TermRevocation> {
        (self.term > 0).then(|| TermRevocation {
            revoked_below_term: self.term,
            accepted_coordinator_id: self.coordinator.as_ref().map(|(cell, name)| {
                identity::id(crate::proto::clustermetadata::id::ComponentType::Multiorch, cell, name)
            }),
            coordinator_initiated_at: Some(prost_types::Timestamp {
                seconds: i64::try_from(self.initiated_at / 1000).unwrap_or_default(),
                nanos: i32::try_from(self.initiated_at % 1000).unwrap_or_default() * 1_000_000,
            }),
            outgoing_rule: None,
        })
    }
}

/// What changes while the pooler lives.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts about one pooler")]
pub struct State {
    /// The database's record, once it was found.
    pub database: Option<Database>,
    /// What PostgreSQL said last; `None` while it does not run.
    pub report: Option<Report>,
    /// Whether there is a data directory that is meant to stay.
    pub initialized: bool,
    /// Whether there is any data directory.
    pub has_data: bool,
    /// What goes on with PostgreSQL, and since when.
    pub action: Option<(PostgresAction, Instant)>,
    /// The last promise.
    pub promise: Promise,
    /// The term whose leadership was given up.
    pub resigned_term: i64,
    /// Whether it can be a member of a cohort.
    pub ineligible: bool,
    /// Whether its data may have run ahead of the new primary's.
    pub divergent: bool,
    /// Whether PostgreSQL is started when it is down.
    pub restarts_disabled: bool,
    /// When PostgreSQL began to fail, and how often it has since.
    pub failing: Option<(Instant, u32)>,
}

/// The pooler's fixed settings.
pub struct Settings {
    /// Its name in the cluster.
    pub id: Id,
    /// What it serves.
    pub shard: ShardKey,
    /// The directory it shares with pgctld.
    pub pooler_dir: PathBuf,
    /// PostgreSQL's socket.
    pub socket: PathBuf,
    /// Client certificate, key and CA for the archive of the primary.
    pub archive_files: [String; 3],
    /// Whether passphrases for the repository were given.
    pub cipher: bool,
    /// After how long, and how many failures, the pooler gives itself up; zero means never.
    pub unrecoverable: (Duration, u32),
    /// How long running connections may take to end.
    pub drain: Duration,
    /// How long the database's record may be missing.
    pub database_timeout: Duration,
}

/// One pooler.
pub struct Agent {
    /// The fixed settings.
    pub settings: Settings,
    /// The topology.
    pub store: Store,
    /// The record.
    pub record: Arc<Publisher>,
    /// The faults in force.
    pub faults: Faults,
    /// Serialises whatever changes PostgreSQL.
    pub action_lock: tokio::sync::Mutex<()>,
    /// PostgreSQL's files.
    pub data: DataDir,
    pub(super) pgctld: PgCtldClient<Channel>,
    state: Mutex<State>,
}

impl Agent {
    /// Reads the promise and prepares the connection to pgctld.
    pub fn new(
        settings: Settings,
        store: Store,
        record: Arc<Publisher>,
        faults: Faults,
        data: DataDir,
        pgctld_address: &str,
    ) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{pgctld_address}"))
            .with_context(|| format!("pgctld address {pgctld_address}"))?
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_secs(15))
            .connect_lazy();
        let promise = match std::fs::read(settings.pooler_dir.join("consensus_promises.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).context("consensus_promises.json is damaged")?,
            Err(_) => Promise::default(),
        };
        Ok(Self {
            settings,
            store,
            record,
            faults,
            action_lock: tokio::sync::Mutex::default(),
            data,
            pgctld: PgCtldClient::new(channel),
            state: Mutex::new(State { promise, ..State::default() }),
        })
    }

    /// Looks at or changes the state.
    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut state)
    }

    /// Makes a promise durable.
    pub fn promise(&self, promise: Promise) -> Result<()> {
        let path = self.settings.pooler_dir.join("consensus_promises.json");
        let draft = path.with_extension("json.new");
        std::fs::write(&draft, serde_json::to_vec(&promise)?)?;
        std::fs::rename(draft, path)?;
        self.with(|state| state.promise = promise);
        Ok(())
    }

    /// Asks PostgreSQL, and remembers the state it answered with.
    pub async fn postgres(&self, question: &Ask) -> Result<Report> {
        let report = wire::report(&self.settings.socket, question).await?;
        self.with(|state| state.report = Some(report.clone()));
        Ok(report)
    }

    /// The rule in the data.
    pub fn rule(&self) -> Option<ShardRule> {
        self.with(|state| state.report.as_ref().and_then(|report| wire::decode_rule(&report.rule)))
    }

    /// The repository of the database, as far as it lets this pooler in.
    pub fn repository(&self) -> Result<Repository> {
        let database = self.with(|state| state.database.clone()).ok_or_else(|| anyhow!("database is not loaded"))?;
        let repository = Repository::of(&database, self.settings.cipher, |name| std::env::var(name).ok())?;
        if self.faults.has(Fault::LoseRepository) {
            bail!("unable to reach the repository on command");
        }
        if repository.asks_for_keys() && self.faults.has(Fault::RevokeCredentials) {
            bail!("HTTP request failed with 403 (Forbidden): InvalidAccessKeyId on command");
        }
        Ok(repository)
    }

    /// Stops PostgreSQL through pgctld, gently first.
    pub async fn stop_postgres(&self) -> Result<()> {
        let mut outcome = Ok(());
        for (mode, limit) in [("fast", 10), ("immediate", 5)] {
            let call = stop_within(self.pgctld.clone(), mode, limit);
            outcome = call.await;
            if outcome.is_ok() {
                break;
            }
        }
        self.with(|state| state.report = None);
        outcome
    }

    /// Waits for the database's record; the process ends when it stays away.
    pub async fn load_database(&self) -> Result<()> {
        let begun = Instant::now();
        let name = &self.settings.shard.database;
        while begun.elapsed() < self.settings.database_timeout {
            match self.store.database(name).await {
                Ok(Some(database)) => {
                    tracing::info!(database = %name, "loaded database record");
                    self.with(|state| state.database = Some(database));
                    self.record.change(|state| state.serving = PoolerServingStatus::Serving);
                    return Ok(());
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "database record"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        bail!(
            "manager is in error state: timeout loading database {name} from topology after {}s",
            self.settings.database_timeout.as_secs()
        )
    }

    /// Watches over PostgreSQL for ever.
    pub async fn watch_postgres(self: Arc<Self>) {
        loop {
            let calm = {
                let _held = self.action_lock.lock().await;
                match self.step().await {
                    Ok(calm) => {
                        self.with(|state| state.failing = None);
                        calm
                    }
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "postgres monitor");
                        self.count_failure();
                        false
                    }
                }
            };
            if self.faults.has(Fault::Quarantine) {
                self.quarantine("quarantined on command");
            }
            tokio::time::sleep(Duration::from_secs(if calm { 2 } else { 1 })).await;
        }
    }

    fn count_failure(&self) {
        let (timeout, attempts) = self.settings.unrecoverable;
        let given_up = self.with(|state| {
            let (since, count) = state.failing.get_or_insert((Instant::now(), 0));
            *count += 1;
            !timeout.is_zero() && since.elapsed() > timeout && *count >= attempts
        });
        if given_up {
            self.quarantine("postgres is unrecoverable");
        }
    }

    fn quarantine(&self, reason: &str) {
        if self.record.state().lifecycle.status() != PoolerLifecycleStatus::LifecycleQuarantined {
            self.with(|state| state.ineligible = true);
            self.record.change(|state| {
                state.serving = PoolerServingStatus::Disabled;
                state.primary_by = None;
                state.lifecycle = record::lifecycle(PoolerLifecycleStatus::LifecycleQuarantined, reason);
            });
        }
    }

    /// One look at PostgreSQL; tells whether nothing is to be done soon.
    async fn step(&self) -> Result<bool> {
        let status = self
            .pgctld
            .clone()
            .status(PgStatusRequest {})
            .await
            .map_err(|status| anyhow!("pgctld status: {}", status.message()));
        let status = match status {
            Ok(status) => status.into_inner(),
            Err(error) => {
                self.with(|state| state.report = None);
                return Err(error);
            }
        };
        let sentinel = self.sentinel();
        self.with(|state| {
            state.has_data = self.data.exists();
            state.initialized = state.has_data && !sentinel.exists();
        });
        if sentinel.exists() {
            tracing::warn!("an interrupted bootstrap left data behind: removing it");
            self.stop_postgres().await?;
            self.data.wipe()?;
            std::fs::remove_file(&sentinel)?;
            return Ok(false);
        }
        match status.status() {
            ServerStatus::Running => {
                self.postgres(&Ask::Report).await?;
                self.reconcile().await?;
                Ok(true)
            }
            ServerStatus::Stopped => {
                self.with(|state| state.report = None);
                if self.with(|state| state.restarts_disabled) || self.faults.has(Fault::StopPostgres) {
                    return Ok(true);
                }
                self.doing(PostgresAction::Starting);
                let outcome = self.start_standby().await;
                self.done();
                outcome.map(|()| false)
            }
            ServerStatus::NotInitialized => self.bootstrap().await.map(|()| false),
            _ => Ok(false),
        }
    }

    pub(super) async fn start_standby(&self) -> Result<()> {
        self.pgctld
            .clone()
            .start(StartRequest::default())
            .await
            .map_err(|status| anyhow!("failed to start postgres: {}", status.message()))?;
        self.postgres(&Ask::Report).await?;
        Ok(())
    }

    /// Makes the record follow what PostgreSQL is.
    async fn reconcile(&self) -> Result<()> {
        let state = self.record.state();
        if state.lifecycle.status() == PoolerLifecycleStatus::LifecycleStarting {
            self.record.change(|state| {
                state.lifecycle = record::lifecycle(PoolerLifecycleStatus::LifecycleActive, "postgres is running");
            });
        }
        let (rule, report, promised) = (
            self.rule(),
            self.with(|state| state.report.clone()).unwrap_or_default(),
            self.with(|state| state.promise.term),
        );
        let number = rule.as_ref().and_then(|rule| rule.rule_number);
        let leads = rule.is_some_and(|rule| rule.leader_id.as_ref() == Some(&self.settings.id));
        if report.in_recovery {
            self.record.change(|state| {
                state.primary_by = None;
                if state.serving == PoolerServingStatus::Draining {
                    state.serving = PoolerServingStatus::Serving;
                }
            });
            let behind = report.receiver.as_ref().is_some_and(|receiver| receiver.streaming);
            if behind {
                self.with(|state| state.divergent = false);
            }
            if self.faults.has(Fault::StopReplication) && report.receiver.is_some() {
                self.postgres(&Ask::Unfollow).await?;
            }
        } else if leads && number.is_some_and(|number| number.coordinator_term >= promised) {
            self.become_primary(number.unwrap_or_default());
        } else {
            // A primary that promised its successor's term has no business writing.
            self.postgres(&Ask::Demote { rule: None }).await?;
            self.with(|state| state.divergent = true);
        }
        Ok(())
    }

    /// Publishes the role of the writable primary.
    pub fn become_primary(&self, number: RuleNumber) {
        self.with(|state| state.divergent = false);
        self.record.change(|state| {
            state.primary_by = Some(number);
            if state.serving == PoolerServingStatus::Draining {
                state.serving = PoolerServingStatus::Serving;
            }
        });
    }

    pub(super) fn doing(&self, action: PostgresAction) {
        self.with(|state| {
            if state.action.is_none_or(|(known, _)| known != action) {
                state.action = Some((action, Instant::now()));
            }
        });
    }

    pub(super) fn done(&self) {
        self.with(|state| state.action = None);
    }
}

async fn stop_within(mut pgctld: PgCtldClient<Channel>, mode: &str, seconds: u64) -> Result<()> {
    let call = pgctld.stop(StopRequest { mode: mode.to_owned(), timeout: None });
    tokio::time::timeout(Duration::from_secs(seconds), call)
        .await
        .map_err(|_| anyhow!("pgctld did not answer in {seconds}s"))?
        .map(drop)
        .map_err(|status| anyhow!("pgctld: {}", status.message()))
}
