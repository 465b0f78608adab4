//! The HTTP server beside a binary's real work: metrics, probes and the log filter.
//!
//! `/metrics` is served on one address and the probes on another, or all on one. Metrics may be secured: they are then served
//! by HTTPS, and only to whom the API server lets read them. Liveness means that the process can
//! answer; readiness is the sum of named conditions. The log filter is shown and changed only from the pod itself, which
//! is what a port-forward looks like, since the server asks nobody who they are.

mod certificate;
mod guard;

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, http::header, web};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    telemetry::{self, LogHandle},
};

pub use certificate::{Error as CertificateError, Source, config as tls};
pub use guard::{Guard, Judge, Verdict};

/// Content type of the Prometheus text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Longest filter that is accepted, in bytes.
const MAX_FILTER: usize = 4096;

/// Where to listen: nowhere (`0` or empty), on every address (`:8080`), or on one (`127.0.0.1:8080`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Bind {
    /// Do not listen.
    #[default]
    Off,
    /// Listen on every address.
    Port(u16),
    /// Listen on one address.
    Host(String, u16),
}

/// Text that is no address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address to listen on: use 0, :PORT or HOST:PORT")]
pub struct BindError(String);

impl FromStr for Bind {
    type Err = BindError;

    fn from_str(text: &str) -> Result<Self, BindError> {
        if matches!(text, "" | "0") {
            return Ok(Self::Off);
        }
        let invalid = || BindError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().map_err(|_| invalid())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(if host.is_empty() { Self::Port(port) } else { Self::Host(host.to_owned(), port) })
    }
}

impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("0"),
            Self::Port(port) => write!(f, ":{port}"),
            Self::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl Bind {
    /// Opens the socket; none when there is nothing to listen on.
    pub fn listen(&self) -> io::Result<Option<TcpListener>> {
        match self {
            Self::Off => Ok(None),
            // The IPv6 wildcard takes IPv4 as well, but some nodes have no IPv6 at all.
            Self::Port(port) => {
                TcpListener::bind(("::", *port)).or_else(|_| TcpListener::bind(("0.0.0.0", *port))).map(Some)
            }
            Self::Host(host, port) => TcpListener::bind((host.as_str(), *port)).map(Some),
        }
    }
}

/// What has to hold before the process is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

impl Readiness {
    /// Adds a condition that does not hold yet; [`set`](Self::set) changes it.
    pub fn expect(&self, name: &'static str) {
        self.lock().entry(name).or_insert(false);
    }

    /// Says whether a condition holds.
    pub fn set(&self, name: &'static str, holds: bool) {
        self.lock().insert(name, holds);
    }

    /// Returns the conditions that do not hold; none means ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.lock().iter().filter(|(_, holds)| !**holds).map(|(name, _)| *name).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, bool>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server shows.
#[derive(Clone)]
pub struct State {
    /// The registry behind `/metrics`.
    pub metrics: Metrics,
    /// What `/readyz` answers from.
    pub readiness: Readiness,
    /// The filter behind `/log-filter`.
    pub log: Option<LogHandle>,
}

/// How metrics are kept from strangers.
#[derive(Clone)]
pub struct Security {
    /// How the server proves who it is.
    pub tls: rustls::ServerConfig,
    /// Who may read.
    pub guard: Guard,
}

/// The server, with its sockets open.
pub struct Server {
    metrics: Option<TcpListener>,
    probes: Option<TcpListener>,
    shared: bool,
    state: State,
    security: Option<Security>,
}

impl Server {
    /// Opens the sockets; equal addresses share one.
    pub fn bind(metrics: &Bind, probes: &Bind, state: State) -> io::Result<Self> {
        let shared = metrics == probes && *metrics != Bind::Off;
        let open = |bind: &Bind| {
            bind.listen().map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {bind}: {error}")))
        };
        let probes = open(probes)?;
        let metrics = if shared { None } else { open(metrics)? };
        Ok(Self { metrics, probes, shared, state, security: None })
    }

    /// Serves the metrics by HTTPS and to few. Probes stay plain, so the two need addresses of their own.
    pub fn secured(mut self, security: Security) -> io::Result<Self> {
        if self.shared {
            let text = "secured metrics need another address than the probes: kubelets ask without a token";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.security = Some(security);
        Ok(self)
    }

    /// Returns the address of `/metrics`, when it is served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        let listener = if self.shared { &self.probes } else { &self.metrics };
        listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Returns the address of the probes, when they are served.
    pub fn probe_address(&self) -> Option<SocketAddr> {
        self.probes.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until the token is cancelled.
    pub async fn run(self, token: CancellationToken) -> io::Result<()> {
        let Self { metrics, probes, shared, state, security } = self;
        let metrics = serve(metrics, (true, false), &state, security, &token)?;
        let probes = serve(probes, (shared, true), &state, None, &token)?;
        let ended = |server: Option<actix_web::dev::Server>| async move {
            match server {
                Some(server) => server.await,
                None => Ok(()),
            }
        };
        let (scrapes, checks) = tokio::join!(ended(metrics), ended(probes));
        scrapes.and(checks)
    }
}

/// Starts to serve metrics, probes or both on a socket.
fn serve(
    listener: Option<TcpListener>,
    (metrics, probes): (bool, bool),
    state: &State,
    security: Option<Security>,
    token: &CancellationToken,
) -> io::Result<Option<actix_web::dev::Server>> {
    let Some(listener) = listener else { return Ok(None) };
    let (state, token) = (state.clone(), token.clone());
    let (tls, guard) = security.map(|security| (security.tls, security.guard)).unzip();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(state.clone()))
            .app_data(web::Data::new(guard.clone()))
            .configure(|config| routes(config, metrics, probes))
    })
    // Probes and scrapes are rare: one thread, few connections.
    .workers(1)
    .max_connections(64)
    .disable_signals()
    .shutdown_signal(token.cancelled_owned())
    .shutdown_timeout(5);
    let server = match tls {
        Some(tls) => server.listen_rustls_0_23(listener, tls)?,
        None => server.listen(listener)?,
    };
    Ok(Some(server.run()))
}

/// Adds the routes of the server.
fn routes(config: &mut web::ServiceConfig, metrics: bool, probes: bool) {
    if metrics {
        config.route("/metrics", web::get().to(scrape));
    }
    if probes {
        config
            .route("/healthz", web::get().to(|| async { HttpResponse::Ok().body("ok") }))
            .route("/readyz", web::get().to(ready))
            .app_data(web::PayloadConfig::new(MAX_FILTER))
            .service(
                web::resource("/log-filter").route(web::get().to(show_filter)).route(web::put().to(change_filter)),
            );
    }
}

async fn scrape(request: HttpRequest, state: web::Data<State>, guard: web::Data<Option<Guard>>) -> HttpResponse {
    if let Some(guard) = guard.as_ref() {
        let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match guard.admit(header).await {
            Ok(Verdict::Allowed) => {}
            Ok(Verdict::Stranger) => {
                return HttpResponse::Unauthorized()
                    .insert_header((header::WWW_AUTHENTICATE, "Bearer"))
                    .body("the metrics are for whoever shows a token that the API server knows");
            }
            Ok(Verdict::Forbidden) => {
                return HttpResponse::Forbidden().body("this token's owner may not get the path /metrics");
            }
            Err(error) => {
                tracing::warn!(error = telemetry::chain(&error), "metrics not served");
                return HttpResponse::InternalServerError().body(error.to_string());
            }
        }
    }
    match state.metrics.text() {
        Ok(text) => HttpResponse::Ok().content_type(TEXT_FORMAT).body(text),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

async fn ready(state: web::Data<State>) -> HttpResponse {
    let missing = state.readiness.missing();
    if missing.is_empty() {
        HttpResponse::Ok().body("ok")
    } else {
        HttpResponse::ServiceUnavailable().body(format!("waiting for {}", missing.join(", ")))
    }
}

async fn show_filter(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    match local_log(&request, &state) {
        Ok(log) => HttpResponse::Ok().body(log.filter()),
        Err(refusal) => refusal.into(),
    }
}

async fn change_filter(request: HttpRequest, state: web::Data<State>, directives: String) -> HttpResponse {
    match local_log(&request, &state).map(|log| log.set_filter(&directives)) {
        Ok(Ok(())) => HttpResponse::NoContent().finish(),
        Ok(Err(error)) => HttpResponse::BadRequest().body(error.to_string()),
        Err(refusal) => refusal.into(),
    }
}

/// Why the log filter is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Stranger,
    NoHandle,
}

impl From<Refusal> for HttpResponse {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stranger => Self::Forbidden().body("only from the pod itself"),
            Refusal::NoHandle => Self::NotFound().finish(),
        }
    }
}

fn local_log<'a>(request: &HttpRequest, state: &'a State) -> Result<&'a LogHandle, Refusal> {
    if !request.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
        return Err(Refusal::Stranger);
    }
    state.log.as_ref().ok_or(Refusal::NoHandle)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::timeout,
    };

    use super::*;
    use crate::metrics::Build;

    fn state() -> State {
        let metrics = Metrics::new(Build { version: "1", revision: "a" }).unwrap();
        State { metrics, readiness: Readiness::default(), log: None }
    }

    async fn request(address: SocketAddr, head: &str) -> String {
        send(address, head, "").await
    }

    async fn send(address: SocketAddr, head: &str, body: &str) -> String {
        let exchange = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let length = body.len();
            let text =
                format!("{head} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        timeout(Duration::from_secs(10), exchange).await.unwrap()
    }

    #[rstest]
    #[case("0", Bind::Off)]
    #[case("", Bind::Off)]
    #[case(":8080", Bind::Port(8080))]
    #[case("127.0.0.1:81", Bind::Host("127.0.0.1".to_owned(), 81))]
    #[case("[::1]:81", Bind::Host("::1".to_owned(), 81))]
    #[case("localhost:0", Bind::Host("localhost".to_owned(), 0))]
    fn addresses_are_read_as_in_go(#[case] text: &str, #[case] expected: Bind) {
        let bind: Bind = text.parse().unwrap();
        assert_eq!(bind, expected);
        assert_eq!(bind.to_string().parse::<Bind>().unwrap(), expected);
    }

    #[rstest]
    #[case("8080")]
    #[case("host:")]
    #[case(":99999")]
    fn what_is_no_address_is_refused(#[case] text: &str) {
        assert!(text.parse::<Bind>().is_err());
    }

    #[tokio::test]
    async fn probes_and_metrics_have_their_own_addresses() {
        let state = state();
        state.readiness.expect("stores");
        let local = Bind::Host("127.0.0.1".to_owned(), 0);
        let other = Bind::Host("localhost".to_owned(), 0);
        let server = Server::bind(&local, &other, state.clone()).unwrap();
        let (metrics, probes) = (server.metrics_address().unwrap(), server.probe_address().unwrap());
        let token = CancellationToken::new();
        let task = tokio::spawn(server.run(token.clone()));

        assert!(request(probes, "GET /healthz").await.starts_with("HTTP/1.1 200"));
        let waiting = request(probes, "GET /readyz").await;
        assert!(waiting.starts_with("HTTP/1.1 503") && waiting.ends_with("waiting for stores"), "{waiting}");
        state.readiness.set("stores", true);
        assert!(request(probes, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        assert!(request(probes, "GET /metrics").await.starts_with("HTTP/1.1 404"));
        let scraped = request(metrics, "GET /metrics").await;
        assert!(scraped.contains("multigres_operator_build_info"), "{scraped}");
        assert!(scraped.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{scraped}");
        assert!(request(metrics, "GET /healthz").await.starts_with("HTTP/1.1 404"));
        assert!(request(probes, "GET /log-filter").await.starts_with("HTTP/1.1 404"));

        token.cancel();
        timeout(Duration::from_secs(10), task).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn secured_metrics_and_probes_do_not_share_an_address() {
        let security = || Security { tls: tls(&Source::Own).unwrap(), guard: Guard::with(Arc::new(Nobody)) };
        let one = Bind::Host("127.0.0.1".to_owned(), 0);
        assert!(Server::bind(&one, &one, state()).unwrap().secured(security()).is_err());
        let probes = Bind::Host("localhost".to_owned(), 0);
        let server = Server::bind(&one, &probes, state()).unwrap().secured(security()).unwrap();
        let (metrics, probes) = (server.metrics_address().unwrap(), server.probe_address().unwrap());
        let token = CancellationToken::new();
        let task = tokio::spawn(server.run(token.clone()));
        assert!(request(probes, "GET /healthz").await.starts_with("HTTP/1.1 200"), "kubelets have no token");
        assert!(!request(metrics, "GET /metrics").await.contains("multigres_operator"), "plain text gets nothing");
        token.cancel();
        timeout(Duration::from_secs(10), task).await.unwrap().unwrap().unwrap();
    }

    struct Nobody;

    impl Judge for Nobody {
        fn judge<'a>(&'a self, _: &'a str) -> futures::future::BoxFuture<'a, Result<Verdict, kube::Error>> {
            Box::pin(futures::future::ready(Ok(Verdict::Stranger)))
        }
    }

    #[tokio::test]
    async fn without_addresses_nothing_is_served() {
        let server = Server::bind(&Bind::Off, &Bind::Off, state()).unwrap();
        assert_eq!((server.metrics_address(), server.probe_address()), (None, None));
        timeout(Duration::from_secs(10), server.run(CancellationToken::new())).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn taken_address_is_named_in_the_error() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let bind = Bind::Host("127.0.0.1".to_owned(), taken.local_addr().unwrap().port());
        let error = Server::bind(&bind, &Bind::Off, state()).err().unwrap();
        assert!(error.to_string().contains(&bind.to_string()), "{error}");
    }

    #[tokio::test]
    async fn log_filter_is_changed_by_a_request_and_a_bad_one_changes_nothing() {
        let settings = telemetry::Settings::preset(false);
        // The layer has to live, or there is nothing to change.
        let (_layer, log) = telemetry::log_filter::<tracing_subscriber::Registry>(&settings).unwrap();
        let local = Bind::Host("127.0.0.1".to_owned(), 0);
        let server = Server::bind(&Bind::Off, &local, State { log: Some(log.clone()), ..state() }).unwrap();
        let (probes, token) = (server.probe_address().unwrap(), CancellationToken::new());
        let task = tokio::spawn(server.run(token.clone()));

        assert!(request(probes, "GET /log-filter").await.ends_with(&log.filter()));
        let wanted = "info,controller::shard=debug";
        assert!(send(probes, "PUT /log-filter", wanted).await.starts_with("HTTP/1.1 204"));
        // Its parts may come back in another order.
        let shown = request(probes, "GET /log-filter").await;
        assert!(shown.contains("controller::shard=debug") && shown.contains("info"), "{shown}");
        assert!(send(probes, "PUT /log-filter", "a=b=c").await.starts_with("HTTP/1.1 400"));
        assert!(send(probes, "PUT /log-filter", "").await.starts_with("HTTP/1.1 400"));
        assert!(request(probes, "GET /log-filter").await.ends_with(&log.filter()));
        assert!(log.filter().contains("controller::shard=debug"), "{}", log.filter());

        token.cancel();
        timeout(Duration::from_secs(10), task).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn log_filter_is_shown_to_the_pod_itself_only() {
        let request = actix_web::test::TestRequest::get().peer_addr("10.0.0.9:5".parse().unwrap()).to_http_request();
        assert_eq!(local_log(&request, &state()).err(), Some(Refusal::Stranger));
        let local = actix_web::test::TestRequest::get().peer_addr("127.0.0.1:5".parse().unwrap()).to_http_request();
        assert_eq!(local_log(&local, &state()).err(), Some(Refusal::NoHandle));
    }
}
