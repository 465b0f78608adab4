//! Assembles the webhook: stores, judge, server and the keeper of the certificates, and ends them in order.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use kube::Client;
use shared::{
    admin::Readiness,
    metrics::{Metrics, Watches},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    certificate::{self, Current, Serving},
    lookup::{self, Stores},
    metrics::Certificates,
    mutate::TraceContext,
    reviewer::{self, Reviewer},
    server::{self, Served, Server},
};

/// Readiness condition: this process was not asked to stop.
const RUNNING: &str = "running";
/// When the keeper of the certificates starts again after it broke.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the helpers may take to end, among them the release of the Lease.
const GRACE: Duration = Duration::from_secs(5);

/// How to work.
pub struct Settings {
    /// The server of reviews.
    pub server: server::Settings,
    /// The stores.
    pub stores: lookup::Settings,
    /// The judges.
    pub reviewer: reviewer::Options,
    /// The certificates.
    pub certificate: certificate::Settings,
}

/// Everything that `run` needs from the outside.
pub struct App {
    /// Authenticated client.
    pub client: Client,
    /// How to work.
    pub settings: Settings,
    /// Where metrics are registered.
    pub metrics: Metrics,
    /// What probes are answered from.
    pub readiness: Readiness,
}

impl App {
    /// Answers reviews until `stop`, and on while callers drain away.
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        let Self { client, settings, metrics, readiness } = self;
        let server_name = settings.certificate.server_name();
        // The helpers serve the server, so they end after it.
        let helpers = CancellationToken::new();
        let restarts = Watches::new(&metrics).context("registering metrics")?;
        let (stores, mut watches) =
            Stores::start(client.clone(), helpers.clone(), &readiness, settings.stores, &restarts);
        let reviewer = Arc::new(Reviewer::new(stores, settings.reviewer).with_tracer(TraceContext::of_this_review));
        let serving = Serving::new();
        let tls = serving.config().context("setting up TLS")?;
        let server = Server::new(settings.server, reviewer, tls, &metrics).context("opening the webhook")?;
        tracing::info!(address = %server.address(), "listening for reviews");
        let certificates = Certificates::new(&metrics, restarts).context("registering metrics")?;
        let keeper = tokio::spawn(keep_certificates(
            client,
            settings.certificate,
            Arc::clone(&serving),
            readiness.clone(),
            certificates,
            helpers.clone(),
        ));
        let loopback = server.loopback(server_name);
        let check = tokio::spawn(loopback.watch(
            move || serving.current().as_deref().and_then(served),
            readiness.clone(),
            helpers.clone(),
        ));

        // The keeper and the self-test run elsewhere: what they have to say must be missed from the start.
        readiness.expect(certificate::READY);
        readiness.expect(server::CONDITION);
        readiness.set(RUNNING, true);
        let leave = || readiness.set(RUNNING, false);
        let ended = tokio::select! {
            ended = served_until(server.run(stop.clone()), &stop, leave) => ended.context("the webhook's server broke"),
            _ = &mut watches => Err(anyhow::anyhow!("the stores ended by themselves")),
        };
        helpers.cancel();
        let tasks: [(&str, JoinHandle<()>); 2] = [("the keeper of the certificates", keeper), ("the self-test", check)];
        for (what, task) in tasks {
            match tokio::time::timeout(GRACE, task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(error = %error, "{what} broke"),
                Err(_) => tracing::warn!("{what} is cut off"),
            }
        }
        ended
    }
}

/// Waits for the end of a server, and calls `leave` as soon as it is asked to stop or ends by itself.
async fn served_until<T>(server: impl Future<Output = T>, stop: &CancellationToken, leave: impl FnOnce()) -> T {
    let mut server = std::pin::pin!(server);
    let ended = tokio::select! {
        ended = &mut server => Some(ended),
        () = stop.cancelled() => None,
    };
    leave();
    match ended {
        Some(ended) => ended,
        None => server.await,
    }
}

/// Says that reviews may not come yet; needed before probes are answered, lest they find nothing missing.
pub fn expect(readiness: &Readiness) {
    readiness.expect(RUNNING);
}

/// Keeps certificates for as long as the process lives: whatever breaks there, reviews go on with the key at hand.
async fn keep_certificates(
    client: Client,
    settings: certificate::Settings,
    serving: Arc<Serving>,
    readiness: Readiness,
    metrics: Certificates,
    token: CancellationToken,
) {
    loop {
        let work = certificate::run(
            client.clone(),
            settings.clone(),
            Arc::clone(&serving),
            readiness.clone(),
            metrics.clone(),
            token.clone(),
        );
        // A task of its own, so that a panic ends here.
        let ended = tokio::spawn(work).await;
        if token.is_cancelled() {
            return;
        }
        metrics.failed();
        match ended {
            Ok(()) => tracing::error!("the keeper of the certificates ended by itself; it starts again"),
            Err(error) => tracing::error!(error = %error, "the keeper of the certificates broke; it starts again"),
        }
        tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// The served leaf as the self-test needs it. A certificate that came without an authority has to do as its own.
fn served(current: &Current) -> Option<Served> {
    let leaf = current.chain.first()?;
    let mut authorities: Vec<_> = current.chain.iter().skip(1).chain(&current.trust).collect();
    if authorities.is_empty() {
        authorities.push(leaf);
    }
    let bundle: String = authorities.iter().map(|certificate| certificate.to_pem()).collect();
    Some(Served { fingerprint: leaf.fingerprint().to_string(), bundle: bundle.into() })
}

/// Answers nothing but probes until `stop`, for an operator that runs without admission.
pub async fn idle(stop: CancellationToken) -> Result<()> {
    tracing::info!("the webhook is off: serving probes and metrics only");
    stop.cancelled().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_server_that_ends_by_itself_ends_the_process() {
        let left = Cell::new(false);
        let ended = served_until(async { "broken" }, &CancellationToken::new(), || left.set(true)).await;
        assert_eq!((ended, left.get()), ("broken", true));
    }

    #[tokio::test]
    async fn readiness_goes_as_soon_as_a_stop_is_asked_for() {
        let (stop, left) = (CancellationToken::new(), Cell::new(false));
        let server = async {
            stop.cancel();
            while !left.get() {
                tokio::task::yield_now().await;
            }
        };
        served_until(server, &stop, || left.set(true)).await;
    }
}
