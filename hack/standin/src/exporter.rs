//! postgres_exporter: says that the database is down, because there is none, and how the archiving of WAL fares.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::routing::get;
use tokio::signal::unix::{SignalKind, signal};

use crate::fault::{Fault, Faults};
use crate::flag::Values;
use crate::serving;

/// Runs the exporter.
pub async fn run(values: Values) -> Result<()> {
    let queries = values.text("extend.query-path");
    if !queries.is_empty() {
        std::fs::read_to_string(queries).with_context(|| format!("error opening query file {queries}"))?;
    }
    check_source(|name| std::env::var(name).ok())?;
    let address = values.list("web.listen-address").into_iter().next().unwrap_or_default();
    let (host, port) = address.rsplit_once(':').context("address: missing port in address")?;
    let port = port.parse().context("address: invalid port")?;
    let faults = Faults::watch("");
    let commands = serving::fault_route(&faults);
    let listener = serving::listen(host, port).await.with_context(|| format!("listen tcp {address}"))?;
    let app = Router::new()
        .route(values.text("web.telemetry-path"), get(move || async move { page(&faults) }))
        .route("/", get(|| async { "postgres_exporter (stand-in)\n" }))
        .route("/-/healthy", get(|| async { "Healthy\n" }))
        .route("/standin/fault", commands);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        served = axum::serve(listener, app) => served?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// What a scrape yields: nothing of a database, but how archiving fares, which the operator looks at.
fn page(faults: &Faults) -> String {
    let (failing, waiting) = if faults.has(Fault::StopArchiving) { (1, 3600) } else { (0, 0) };
    format!(
        "{METRICS}wal_archiver_failing{{server=\"localhost:5432\"}} {failing}\n\
         wal_archiver_last_archived_timestamp_seconds{{server=\"localhost:5432\"}} 1.7e+09\n\
         wal_archiver_waiting_seconds{{server=\"localhost:5432\"}} {waiting}\n"
    )
}

const METRICS: &str = "\
# HELP pg_up Whether the last scrape of metrics from PostgreSQL was able to connect to the server (1 for yes, 0 for no).
# TYPE pg_up gauge
pg_up 0
# HELP pg_exporter_last_scrape_error Whether the last scrape of metrics from PostgreSQL resulted in an error (1 for error, 0 for success).
# TYPE pg_exporter_last_scrape_error gauge
pg_exporter_last_scrape_error 1
";

/// The data source needs a place, and its files have to be there.
fn check_source(env: impl Fn(&str) -> Option<String>) -> Result<()> {
    if env("DATA_SOURCE_NAME").is_some() {
        return Ok(());
    }
    if env("DATA_SOURCE_URI").or_else(|| env("DATA_SOURCE_URI_FILE")).is_none() {
        bail!("couldn't find environment variables describing the datasource to use");
    }
    for name in ["DATA_SOURCE_USER_FILE", "DATA_SOURCE_PASS_FILE", "DATA_SOURCE_URI_FILE"] {
        if let Some(path) = env(name)
            && !Path::new(&path).exists()
        {
            bail!("failed loading data source {name} file {path}: no such file or directory");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archiving_fares_well_until_it_is_stopped() {
        let faults = Faults::default();
        assert!(page(&faults).contains("wal_archiver_failing{server=\"localhost:5432\"} 0\n"));
        faults.command(vec![Fault::StopArchiving]);
        assert!(page(&faults).contains("wal_archiver_waiting_seconds{server=\"localhost:5432\"} 3600\n"));
    }

    #[test]
    fn a_data_source_is_required_and_its_files_must_exist() {
        assert!(check_source(|_| None).is_err());
        assert!(check_source(|name| (name == "DATA_SOURCE_URI").then(|| "localhost".into())).is_ok());
        let missing_file = |name: &str| match name {
            "DATA_SOURCE_URI" => Some("localhost".to_owned()),
            "DATA_SOURCE_PASS_FILE" => Some("/nonexistent/password".to_owned()),
            _ => None,
        };
        assert!(check_source(missing_file).is_err());
    }
}
