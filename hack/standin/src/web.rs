//! multiadmin-web: a page, and the pod stays up.

use anyhow::{Context as _, Result};
use axum::Router;
use axum::response::Html;
use tokio::signal::unix::{SignalKind, signal};

use crate::serving;

/// Runs the web page; it reads its settings from the environment, as a Node server does.
pub async fn run() -> Result<()> {
    let host = std::env::var("HOSTNAME").unwrap_or_default();
    let port = match std::env::var("PORT") {
        Ok(port) => port.parse().context("PORT is not a port")?,
        Err(_) => 18100,
    };
    // A pod's HOSTNAME is a name; only an address binds.
    let address = if host.parse::<std::net::IpAddr>().is_ok() { host } else { String::new() };
    let address = if address == "::" || address == "0.0.0.0" { String::new() } else { address };
    let listener = serving::listen(&address, port).await.with_context(|| format!("failed to listen on port {port}"))?;
    let upstream = std::env::var("MULTIADMIN_API_URL").unwrap_or_default();
    let app = Router::new().fallback(move || {
        let upstream = upstream.clone();
        async move { Html(format!("<h1>multiadmin-web (stand-in)</h1>\n<p>API: {upstream}</p>\n")) }
    });
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        served = axum::serve(listener, app) => served?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
