//! The HTTPS server of the webhook.
//!
//! It is stopped in two steps: while it drains it still takes connections and asks every caller to connect anew, so that
//! callers move to another replica; after that it takes no more and finishes what has begun.

mod answer;
mod body;
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
use shared::{
    admin::Bind,
    metrics::{Error as MetricsError, Metrics},
};
use tokio_util::sync::CancellationToken;

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

    /// Serves until the token is cancelled, and on while callers drain away.
    pub async fn run(self, token: CancellationToken) -> io::Result<()> {
        let Self { listener, service, tls, settings, .. } = self;
        let workers =
            settings.workers.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
        let grace = (settings.limits.deadline + GRACE).as_secs();
        let routes = service.clone();
        let server = HttpServer::new(move || App::new().configure(|config| routes.routes(config)))
            .workers(workers)
            .max_connections(CONNECTIONS)
            .max_connection_rate(HANDSHAKES)
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
        let mut server = std::pin::pin!(server);
        tokio::select! {
            ended = &mut server => return ended,
            () = token.cancelled() => {}
        }
        service.drain();
        tracing::info!(seconds = settings.drain.as_secs(), "draining: callers are asked to connect anew");
        tokio::select! {
            ended = &mut server => return ended,
            () = tokio::time::sleep(settings.drain) => {}
        }
        // The server has to be polled for the stop to happen.
        let ((), ended) = tokio::join!(handle.stop(true), server);
        ended
    }
}
