//! multigateway: registers, watches the poolers, and tells clients that there is no database.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::service::Routes;

use crate::fault::Faults;
use crate::flag::Values;
use crate::identity;
use crate::launch::Role;
use crate::postgres::server::NO_DATABASE;
use crate::postgres::wire;
use crate::proto::clustermetadata::Multigateway;
use crate::proto::clustermetadata::id::ComponentType;
use crate::serving::{self, Serving, Surface};
use crate::tls::PoolerDialer;
use crate::topology::{Store, key};

/// How many gateways a cluster can tell apart.
const PREFIXES: u32 = 4095;

/// Runs multigateway.
pub async fn run(values: Values) -> Result<()> {
    let store = Store::open(&values).await?;
    check_buffer(&values)?;
    PoolerDialer::from_flags(&values)?;
    check_client_tls(&values)?;
    let faults = Faults::watch("");
    let record = record(&values);
    let id = record.id.clone().unwrap_or_default();
    // Unlike the others a gateway does not start without the topology.
    let registered = tokio::time::timeout(Duration::from_secs(10), register(&store, record)).await;
    registered.ok().context("failed to register gateway: registration failed: context deadline exceeded")?;
    let poolers = store.watch_poolers(false);
    let mut listeners = Vec::new();
    for flag in ["pg-port", "pg-replica-port"] {
        let port = values.port(flag);
        if port != 0 {
            let listener = serving::listen(values.text("pg-bind-address"), port)
                .await
                .with_context(|| format!("failed to create PostgreSQL listener on port {port}"))?;
            listeners.push(tokio::spawn(refuse_clients(listener)));
        }
    }
    let serving = Serving::start(
        &values,
        Surface {
            role: Role::Gateway,
            faults,
            ready: Arc::new(move || {
                let known = !poolers.borrow().is_empty();
                Box::pin(async move { if known { Ok(()) } else { Err("no poolers discovered".to_owned()) } })
            }),
            pages: Router::new(),
            services: Routes::default(),
        },
    )
    .await?;
    serving.until_told().await?;
    serving.close().await;
    for listener in listeners {
        listener.abort();
    }
    let unregistered = async { store.cell(&id.cell).await?.delete(&key::gateway(&id)).await };
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), unregistered).await {
        tracing::error!(%error, "failed to deregister component from topology");
    }
    Ok(())
}

fn record(values: &Values) -> Multigateway {
    let mut ports = vec![
        ("grpc", values.port("grpc-port")),
        ("http", values.port("http-port")),
        ("postgres", values.port("pg-port")),
    ];
    if values.port("pg-replica-port") != 0 {
        ports.push(("postgres_replica", values.port("pg-replica-port")));
    }
    Multigateway {
        id: Some(identity::id(ComponentType::Multigateway, values.text("cell"), &identity::service_id(values))),
        hostname: identity::hostname(values),
        port_map: ports.into_iter().map(|(name, port)| (name.to_owned(), i32::from(port))).collect(),
        pid_prefix: 0,
    }
}

async fn register(store: &Store, record: Multigateway) {
    let mut pause = Duration::from_millis(50);
    loop {
        match register_once(store, record.clone()).await {
            Ok(prefix) => {
                tracing::info!(pid_prefix = prefix, "registered gateway");
                return;
            }
            Err(error) => tracing::warn!(error = format!("{error:#}"), "registration"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Writes the record with a prefix of its own: the one it had, or one that nobody has.
async fn register_once(store: &Store, mut record: Multigateway) -> Result<u32> {
    let id = record.id.clone().unwrap_or_default();
    let cell = store.cell(&id.cell).await?;
    let known: Option<Multigateway> = cell.read(&key::gateway(&id)).await?;
    let mut taken = BTreeSet::new();
    for name in store.cell_names().await? {
        // An unreachable cell must not keep this one from starting.
        for gateway in store.gateways(&name).await.unwrap_or_default() {
            if gateway.id.as_ref() != Some(&id) {
                taken.insert(gateway.pid_prefix);
            }
        }
    }
    record.pid_prefix = known
        .map(|known| known.pid_prefix)
        .filter(|prefix| *prefix != 0)
        .or_else(|| free_prefix(&taken))
        .context("finding unused prefix: all are taken")?;
    cell.put(&key::gateway(&id), record.encode_to_vec()).await?;
    Ok(record.pid_prefix)
}

fn free_prefix(taken: &BTreeSet<u32>) -> Option<u32> {
    (1..=PREFIXES).find(|prefix| !taken.contains(prefix))
}

async fn refuse_clients(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let refusal = wire::refuse_client(&mut stream, NO_DATABASE);
            let _ = tokio::time::timeout(Duration::from_secs(10), refusal).await;
        });
    }
}

fn check_buffer(values: &Values) -> Result<()> {
    let show = |name: &str| values.text(name).to_owned();
    for name in ["buffer-size", "buffer-drain-concurrency"] {
        if values.number(name) < 1 {
            bail!("buffer config: {name} must be >= 1, got {}", show(name));
        }
    }
    for name in ["buffer-window", "buffer-max-failover-duration"] {
        if values.duration(name).is_zero() {
            bail!("buffer config: {name} must be > 0, got {}", show(name));
        }
    }
    if values.text("buffer-min-time-between-failovers").starts_with('-') {
        bail!("buffer config: buffer-min-time-between-failovers must be >= 0");
    }
    if values.duration("buffer-window") > values.duration("buffer-max-failover-duration") {
        bail!(
            "buffer config: buffer-window ({}) must be <= buffer-max-failover-duration ({})",
            show("buffer-window"),
            show("buffer-max-failover-duration")
        );
    }
    Ok(())
}

fn check_client_tls(values: &Values) -> Result<()> {
    let files = [values.text("pg-tls-cert-file"), values.text("pg-tls-key-file")];
    match files.map(str::is_empty) {
        [true, true] if values.is_on("pg-require-ssl") => {
            bail!("--pg-require-ssl=true requires --pg-tls-cert-file and --pg-tls-key-file")
        }
        [true, true] => Ok(()),
        [false, false] => {
            for file in files {
                std::fs::read(file).with_context(|| format!("failed to load TLS certificate: open {file}"))?;
            }
            Ok(())
        }
        _ => bail!("both --pg-tls-cert-file and --pg-tls-key-file must be set"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flag;
    use crate::flag_table;

    fn values(args: &[&str]) -> Values {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        flag::parse("multigateway", &flag_table::of(Role::Gateway), &args, |_| None).unwrap()
    }

    #[test]
    fn prefixes_are_given_out_once() {
        assert_eq!(free_prefix(&[1, 2, 4].into()), Some(3));
        assert_eq!(free_prefix(&(1..=PREFIXES).collect()), None);
    }

    #[test]
    fn a_buffer_window_longer_than_a_failover_is_refused() {
        assert!(check_buffer(&values(&[])).is_ok());
        let wrong = values(&["--buffer-window=30s", "--buffer-max-failover-duration=20s"]);
        assert!(check_buffer(&wrong).unwrap_err().to_string().contains("buffer-window (30s)"));
        assert!(check_buffer(&values(&["--buffer-size=0"])).is_err());
    }

    #[test]
    fn client_tls_needs_both_files() {
        assert!(check_client_tls(&values(&["--pg-require-ssl"])).is_err());
        assert!(check_client_tls(&values(&["--pg-tls-cert-file=/x"])).is_err());
    }

    #[test]
    fn the_replica_port_is_published_only_if_it_is_open() {
        assert!(!record(&values(&[])).port_map.contains_key("postgres_replica"));
        assert_eq!(record(&values(&["--pg-replica-port=5433"])).port_map["postgres_replica"], 5433);
    }
}
