//! The HTTPS server of the webhook.
//!
//! It is stopped in three steps. While it drains it still takes connections and asks every caller to connect anew, so that
//! callers move to another replica. Then it lingers until the last connection is gone: whoever did not ask meanwhile could not be
//! told to go, and a request that meets the close of its connection is lost, since HTTP/1.1 knows no way to announce it to a
//! caller that is silent. At last it closes what is left and finishes what has begun.

mod answer;
mod body;
mod connection;
mod envelope;
mod loopback;
mod service;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::{App, HttpServer, web::ServiceConfig};
use futures::future::BoxFuture;
use shared::{
    admin::Bind,
    metrics::{Error as MetricsError, Metrics},
};
use tokio_util::sync::CancellationToken;

use self::connection::Connections;
pub use self::{
    loopback::{CONDITION, Loopback, LoopbackError, Served},
    service::{Limits, Service},
};
use crate::{metrics::Reviews, review::Review};

/// How long a connection without requests stays open. API servers give theirs up after 90 s: were we the first, a
/// request could be on its way into a connection that is being closed.
const IDLE: Duration = Duration::from_mins(2);
/// Open connections per worker.
const CONNECTIONS: usize = 2048;
/// TLS handshakes at once per worker.
const HANDSHAKES: usize = 64;
/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// What running requests get beyond their deadline when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// Where and how to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen.
    pub bind: Bind,
    /// How much is taken on.
    pub limits: Limits,
    /// How long the server keeps serving after it was asked to stop.
    pub drain: Duration,
    /// How long it goes on after that for callers who have not closed their connections.
    pub linger: Duration,
    /// Threads that serve; one per core when none is given.
    pub workers: Option<usize>,
}

/// The server could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The socket cannot be opened.
    #[error("cannot listen on {bind}")]
    Listen {
        /// Where to listen.
        bind: Bind,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing to listen on.
    #[error("reviews need an address to listen on")]
    NoAddress,
    /// The metrics cannot be registered.
    #[error("cannot register metrics")]
    Metrics(#[from] MetricsError),
}

/// The server, with its socket open.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    service: Service,
    tls: Arc<rustls::ServerConfig>,
    settings: Settings,
}

impl Server {
    /// Opens the socket and registers the metrics.
    pub fn new(
        settings: Settings,
        review: Arc<dyn Review>,
        tls: Arc<rustls::ServerConfig>,
        metrics: &Metrics,
    ) -> Result<Self, ServerError> {
        let service = Service::new(settings.limits, review, Reviews::new(metrics)?);
        let failed = |source| ServerError::Listen { bind: settings.bind.clone(), source };
        let listener = settings.bind.listen().map_err(failed)?.ok_or(ServerError::NoAddress)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, service, tls, settings })
    }

    /// Adds the routes, for a server without sockets.
    pub fn routes(&self, config: &mut ServiceConfig) {
        self.service.routes(config);
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client of our own, that asks this server over the loopback as API servers do.
    pub fn loopback(&self, server_name: String) -> Loopback {
        let ip = match self.address {
            SocketAddr::V4(address) if address.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(address) if address.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            address => address.ip(),
        };
        Loopback::new(SocketAddr::new(ip, self.address.port()), server_name, self.service.own_uid().to_owned())
    }

    /// Serves until the token is cancelled, and on while callers drain away. It is an error when serving ends by itself.
    pub async fn run(self, token: CancellationToken) -> io::Result<()> {
        let Self { listener, service, tls, settings, .. } = self;
        let workers =
            settings.workers.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
        let grace = (settings.limits.deadline + GRACE).as_secs();
        let routes = service.clone();
        let connections = Connections::new();
        let opened = connections.clone();
        let server = HttpServer::new(move || App::new().configure(|config| routes.routes(config)))
            .workers(workers)
            .max_connections(CONNECTIONS)
            .max_connection_rate(HANDSHAKES)
            .on_connect(move |stream, data| opened.opened(stream, data))
            .keep_alive(IDLE)
            // Covers the wait for the first request of a connection as well, so the same holds for it.
            .client_request_timeout(IDLE)
            .tls_handshake_timeout(HANDSHAKE)
            .tcp_nodelay(true)
            .disable_signals()
            .shutdown_timeout(grace)
            .listen_rustls_0_23(listener, rustls::ServerConfig::clone(&tls))?
            .run();
        let handle = server.handle();
        let stop = Box::pin(async move { handle.stop(true).await });
        let left = async {
            if tokio::time::timeout(settings.linger, connections.gone()).await.is_err() {
                tracing::info!("connections that are still open are closed");
            }
        };
        until_stopped(server, stop, token, || service.drain(), settings.drain, left).await
    }
}

/// Drives a server until the token is cancelled, calls `drain`, goes on for as long as that takes and until callers have `left`,
/// and then carries out `stop`.
async fn until_stopped(
    server: impl Future<Output = io::Result<()>>,
    stop: BoxFuture<'_, ()>,
    token: CancellationToken,
    drain: impl FnOnce(),
    draining: Duration,
    left: impl Future<Output = ()>,
) -> io::Result<()> {
    let by_itself = |ended: io::Result<()>| ended.and(Err(io::Error::other("the server ended by itself")));
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => return by_itself(ended),
        () = token.cancelled() => {}
    }
    drain();
    tracing::info!(seconds = draining.as_secs(), "draining: callers are asked to connect anew");
    tokio::select! {
        ended = &mut server => return by_itself(ended),
        () = async { tokio::time::sleep(draining).await; left.await } => {}
    }
    // The server has to be polled for the stop to happen.
    let ((), ended) = tokio::join!(stop, server);
    ended
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn a_server_that_ends_by_itself_is_an_error() {
        let never = || Box::pin(pending());
        let ended = until_stopped(ready(Ok(())), never(), CancellationToken::new(), || {}, LONG, ready(())).await;
        assert_eq!(ended.unwrap_err().to_string(), "the server ended by itself");
        let broken = ready(Err(io::Error::other("no more files")));
        let ended = until_stopped(broken, never(), CancellationToken::new(), || {}, LONG, ready(())).await;
        assert_eq!(ended.unwrap_err().to_string(), "no more files");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_ends_while_it_drains_is_an_error() {
        let token = CancellationToken::new();
        token.cancel();
        let server = async {
            tokio::time::sleep(LONG / 2).await;
            Ok(())
        };
        assert!(until_stopped(server, Box::pin(pending()), token, || {}, LONG, ready(())).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_stopped_drains_and_waits_for_its_callers_first() {
        let (token, stopped, drained) = (CancellationToken::new(), AtomicBool::new(false), AtomicBool::new(false));
        token.cancel();
        let started = tokio::time::Instant::now();
        let server = async {
            while !stopped.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        };
        let stop = Box::pin(async {
            assert!(started.elapsed() >= LONG * 2);
            stopped.store(true, Ordering::SeqCst);
        });
        let left = tokio::time::sleep_until(started + LONG * 2);
        until_stopped(server, stop, token, || drained.store(true, Ordering::SeqCst), LONG, left).await.unwrap();
        assert!(drained.load(Ordering::SeqCst));
    }
}
