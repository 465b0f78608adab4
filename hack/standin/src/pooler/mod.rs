//! multipooler.

pub mod agent;
mod bootstrap;
pub mod consensus;
pub mod manager;
pub mod record;
pub mod repository;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use tonic::service::Routes;

use self::agent::{Agent, Settings};
use self::consensus::Consensus;
use self::manager::Manager;
use self::record::Publisher;
use crate::fault::{Fault, Faults};
use crate::flag::Values;
use crate::identity;
use crate::launch::{self, Role};
use crate::postgres::data_dir::DataDir;
use crate::proto::clustermetadata::id::ComponentType;
use crate::proto::clustermetadata::{Multipooler, PoolerLifecycleStatus, PoolerServingStatus, ShardKey};
use crate::proto::consensus::multipooler_consensus_server::MultipoolerConsensusServer;
use crate::proto::multipoolermanager::multipooler_manager_server::MultipoolerManagerServer;
use crate::serving::{self, Serving, Surface};
use crate::topology::Store;

/// Runs multipooler.
pub async fn run(values: Values) -> Result<()> {
    let store = Store::open(&values).await?;
    let (settings, base) = prepare(&values)?;
    let faults = Faults::watch(values.text("pooler-dir"));
    let data = DataDir(base.pg_data_dir.clone().into());
    let record = Publisher::start(store.clone(), base, faults.clone());
    let agent = Arc::new(Agent::new(
        settings,
        store.clone(),
        Arc::clone(&record),
        faults.clone(),
        data,
        values.text("pgctld-addr"),
    )?);
    let serving = Serving::start(
        &values,
        Surface {
            role: Role::Pooler,
            faults: faults.clone(),
            ready: serving::grpc_accepts(&values),
            pages: Router::new(),
            services: Routes::new(MultipoolerManagerServer::new(Manager(Arc::clone(&agent))))
                .add_service(MultipoolerConsensusServer::new(Consensus(Arc::clone(&agent)))),
        },
    )
    .await?;
    let loading = Arc::clone(&agent);
    let monitor = tokio::spawn(async move {
        loading.load_database().await?;
        loading.watch_postgres().await;
        anyhow::Ok(())
    });
    let abort = monitor.abort_handle();
    tokio::select! {
        ended = monitor => ended.context("postgres monitor")??,
        told = serving.until_told() => told?,
    }
    let drained = tokio::time::timeout(values.duration("onterm-timeout"), drain(&agent, abort)).await;
    if drained.is_err() {
        tracing::warn!("OnTermSync hooks timed out");
        if faults.has(Fault::StuckDrain) {
            std::future::pending::<()>().await;
        }
    }
    let close_within = values.duration("onclose-timeout");
    serving.close().await;
    if let Ok(Err(error)) = tokio::time::timeout(close_within, record.finish(&store)).await {
        tracing::error!(%error, "failed to publish the shutdown record");
    }
    Ok(())
}

/// What SIGTERM sets off: no new work, out of the cohort, PostgreSQL down.
async fn drain(agent: &Arc<Agent>, monitor: tokio::task::AbortHandle) {
    let held = agent.action_lock.lock().await;
    monitor.abort();
    agent.with(|state| state.ineligible = true);
    agent.record.change(|state| {
        state.lifecycle = record::lifecycle(PoolerLifecycleStatus::LifecycleStopping, "graceful shutdown");
        state.serving = PoolerServingStatus::Disabled;
    });
    if agent.faults.has(Fault::StuckDrain) {
        tracing::warn!("stuck on command");
        std::future::pending::<()>().await;
    }
    // The writer and the orchestrators get a moment to notice before PostgreSQL is gone.
    tokio::time::sleep(agent.settings.drain.min(Duration::from_secs(1))).await;
    if let Err(error) = agent.stop_postgres().await {
        tracing::warn!(%error, "could not stop postgres");
    }
    drop(held);
}

/// Makes the checks of the real start, in its order and words.
fn prepare(values: &Values) -> Result<(Settings, Multipooler)> {
    let text = |name: &str| values.text(name).to_owned();
    if values.text("database").is_empty() {
        bail!("database is required");
    }
    let file = if values.is_given("connpool-admin-password-file") {
        Some(text("connpool-admin-password-file"))
    } else {
        ["CONNPOOL_ADMIN_PASSWORD_FILE", "POSTGRES_PASSWORD_FILE"].iter().find_map(|name| std::env::var(name).ok())
    };
    if file.is_some() || !values.is_given("connpool-admin-password") {
        launch::password(file, &["CONNPOOL_ADMIN_PASSWORD", "POSTGRES_PASSWORD"]).context("resolve admin password")?;
    } else if values.text("connpool-admin-password").is_empty() {
        bail!(
            "resolve admin password: --connpool-admin-password is set to the empty string; unset it or provide a non-empty password"
        );
    }
    let cipher = check_cipher(values).context("resolve backup cipher keys")?;
    if values.text("table-group").is_empty() {
        bail!("table group is required");
    }
    if values.text("shard").is_empty() {
        bail!("shard is required");
    }
    let pg_data_dir = std::env::var("PGDATA").unwrap_or_default();
    if pg_data_dir.is_empty() {
        bail!("PGDATA environment variable is required");
    }
    let mode = values.text("pg-client-sslmode");
    if !matches!(mode, "disable" | "allow" | "prefer" | "require" | "verify-ca" | "verify-full") {
        bail!("--pg-client-sslmode: invalid sslmode \"{mode}\"");
    }
    if mode.starts_with("verify") && values.text("pg-client-sslrootcert").is_empty() {
        bail!("--pg-client-sslmode={mode}: --pg-client-sslrootcert is required");
    }
    let attempts = values.number("postgres-unrecoverable-min-attempts");
    if !(2..10).contains(&attempts) {
        bail!("--postgres-unrecoverable-min-attempts must be >= 2 and < 10, got {attempts}");
    }
    let pooler_dir = PathBuf::from(text("pooler-dir"));
    let id = identity::id(ComponentType::Multipooler, values.text("cell"), &identity::service_id(values));
    let shard = ShardKey { database: text("database"), table_group: text("table-group"), shard: text("shard") };
    let pg_port = values.port("pg-port");
    let socket = match values.text("socket-file") {
        "" => pooler_dir.join(format!("pg_sockets/.s.PGSQL.{pg_port}")),
        path => path.into(),
    };
    let base = Multipooler {
        id: Some(id.clone()),
        shard_key: Some(shard.clone()),
        hostname: identity::hostname(values),
        port_map: record::ports(
            values.port("grpc-port"),
            values.port("http-port"),
            pg_port,
            values.port("pgbackrest-port"),
        ),
        pooler_dir: text("pooler-dir"),
        pg_data_dir,
        ..Multipooler::default()
    };
    let settings = Settings {
        id,
        shard,
        pooler_dir,
        socket,
        archive_files: ["cert", "key", "ca"].map(|part| text(&format!("pgbackrest-{part}-file"))),
        cipher,
        unrecoverable: (values.duration("postgres-unrecoverable-timeout"), u32::try_from(attempts).unwrap_or_default()),
        drain: values.duration("connpool-drain-grace-period"),
        database_timeout: std::env::var("STANDIN_DATABASE_TIMEOUT")
            .ok()
            .and_then(|text| crate::flag::parse_duration(&text))
            .unwrap_or(Duration::from_mins(5)),
    };
    Ok((settings, base))
}

/// Whether valid passphrases were given; an explicit file that is none is an error.
fn check_cipher(values: &Values) -> Result<bool> {
    let path = values.text("pgbackrest-cipher-key-file");
    if path.is_empty() {
        if values.is_given("pgbackrest-cipher-key-file")
            || std::env::var("MULTIGRES_PGBACKREST_CIPHER_KEY_FILE").is_ok()
        {
            bail!("backup cipher key file path is set to the empty string; unset it or provide a path");
        }
        return Ok(false);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("read backup cipher key file {path}"))?;
    let keys: std::collections::BTreeMap<String, String> =
        serde_json::from_str(&text).with_context(|| format!("parse backup cipher key file {path}"))?;
    if keys.is_empty() {
        bail!("backup cipher key file {path} has no keys");
    }
    for (generation, passphrase) in &keys {
        if generation.parse::<u32>().is_err() || passphrase.is_empty() {
            bail!("backup cipher key file {path}: invalid entry for generation \"{generation}\"");
        }
    }
    Ok(true)
}
