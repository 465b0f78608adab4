//! What all processes have in common: the HTTP endpoints, the gRPC server, and the way to the end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use futures::future::BoxFuture;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Status};

use crate::fault::{self, Fault, FaultLayer, Faults};
use crate::flag::Values;
use crate::launch::Role;
use crate::proto::health::health_server::{Health, HealthServer};
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use crate::proto::serviceinfo::service_info_server::{ServiceInfo, ServiceInfoServer};
use crate::proto::serviceinfo::{BuildInfo, GetBuildInfoRequest, GetBuildInfoResponse};
use crate::tls;

/// Answers whether the process is ready, and why not.
pub type ReadyCheck = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A check that always passes.
pub fn always_ready() -> ReadyCheck {
    Arc::new(|| Box::pin(async { Ok(()) }))
}

/// A check that dials the process's own gRPC port, as pgctld and multipooler do.
pub fn grpc_accepts(values: &Values) -> ReadyCheck {
    let port = values.port("grpc-port");
    let bind = values.text("grpc-bind-address");
    let host = if bind.is_empty() { "127.0.0.1".to_owned() } else { bind.to_owned() };
    Arc::new(move || {
        let host = host.clone();
        Box::pin(async move {
            match tokio::time::timeout(Duration::from_millis(500), TcpStream::connect((host.as_str(), port))).await {
                Ok(Ok(_)) => Ok(()),
                _ => Err("grpc not accepting".to_owned()),
            }
        })
    })
}

/// What a role shows to the outside.
pub struct Surface {
    /// Which binary it stands in for.
    pub role: Role,
    /// The faults in force.
    pub faults: Faults,
    /// The readiness check.
    pub ready: ReadyCheck,
    /// The role's own pages.
    pub pages: Router,
    /// The role's own gRPC services.
    pub services: Routes,
}

/// A process that answers.
pub struct Serving {
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    lameduck: Duration,
    pid_file: String,
}

impl Serving {
    /// Opens the HTTP port, then gRPC: in this order, so that a probe is answered while the rest still starts.
    pub async fn start(values: &Values, surface: Surface) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        let http_port = values.port("http-port");
        let listener = listen(values.text("bind-address"), http_port)
            .await
            .with_context(|| format!("failed to listen on HTTP port {http_port}"))?;
        let pages = pages(&surface);
        tasks.push(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, pages).await {
                tracing::error!(%error, "http serve returned unexpected error");
            }
        }));
        let tls = tls::server(values)?;
        let services = surface
            .services
            .add_service(HealthServer::new(Answers))
            .add_service(ServiceInfoServer::new(Answers))
            .prepare();
        let grpc_port = values.port("grpc-port");
        if grpc_port != 0 {
            let listener = listen(values.text("grpc-bind-address"), grpc_port)
                .await
                .with_context(|| format!("cannot listen on grpc port {grpc_port}"))?;
            let mut server = Server::builder();
            if let Some(tls) = tls {
                server = server.tls_config(tls).context("failed to configure gRPC TLS")?;
            }
            let server = server.layer(FaultLayer(surface.faults.clone())).add_routes(services.clone());
            let ending = ended(stopped.clone());
            tasks.push(tokio::spawn(async move {
                if let Err(error) = server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), ending).await
                {
                    tracing::error!(%error, "grpc server ended");
                }
            }));
        }
        let socket = values.text("grpc-socket-file");
        if !socket.is_empty() {
            let _ = std::fs::remove_file(socket);
            let listener =
                UnixListener::bind(socket).with_context(|| format!("grpc socket file: listen unix {socket}"))?;
            let server = Server::builder().layer(FaultLayer(surface.faults.clone())).add_routes(services);
            let ending = ended(stopped);
            tasks.push(tokio::spawn(async move {
                let _ = server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), ending).await;
            }));
        }
        let pid_file = values.text("pid-file").to_owned();
        if !pid_file.is_empty() {
            std::fs::write(&pid_file, format!("{}\n", std::process::id()))?;
        }
        tracing::info!(http_port, grpc_port, role = surface.role.program(), "service successfully started");
        Ok(Self { tasks, stop, lameduck: values.duration("lameduck-period"), pid_file })
    }

    /// Waits for the signal to end.
    pub async fn until_told(&self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("entering lameduck mode");
        Ok(())
    }

    /// Waits out the lameduck period and closes the ports.
    pub async fn close(self) {
        tokio::time::sleep(self.lameduck).await;
        let _ = self.stop.send(true);
        for task in self.tasks {
            task.abort();
        }
        if !self.pid_file.is_empty() {
            let _ = std::fs::remove_file(self.pid_file);
        }
        tracing::info!("shutting down gracefully");
    }
}

/// Listens on an address, or on all of both families when it is empty.
pub async fn listen(address: &str, port: u16) -> Result<TcpListener> {
    if !address.is_empty() {
        return Ok(TcpListener::bind((address.trim_matches(['[', ']']), port)).await?);
    }
    match TcpListener::bind(("::", port)).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(anyhow!(error)),
        // No IPv6 on this machine.
        Err(_) => Ok(TcpListener::bind(("0.0.0.0", port)).await?),
    }
}

async fn ended(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn pages(surface: &Surface) -> Router {
    let role = surface.role;
    let live_faults = surface.faults.clone();
    let ready_faults = surface.faults.clone();
    let ready = Arc::clone(&surface.ready);
    Router::new()
        .route(
            "/live",
            get(move || async move {
                verdict(if live_faults.has(Fault::FailLive) { Err("on command".into()) } else { Ok(()) })
            }),
        )
        .route(
            "/ready",
            get(move || async move {
                if ready_faults.has(Fault::FailReady) {
                    return verdict(Err("on command".to_owned()));
                }
                verdict(ready().await)
            }),
        )
        .route("/version", get(|| async { Json(json!({"revision": BUILD, "modified": false})) }))
        .route("/config", get(move || async move { format!("stand-in for {}\n", role.program()) }))
        .route("/standin/fault", fault_route(&surface.faults))
        .merge(surface.pages.clone())
        .fallback(move |uri: axum::http::Uri| async move {
            if uri.path() == "/" {
                Html(format!("<h1>{} (stand-in)</h1>\n", role.program())).into_response()
            } else {
                StatusCode::NOT_FOUND.into_response()
            }
        })
}

/// Where the faults of a process are shown, set and cleared.
pub fn fault_route(faults: &Faults) -> MethodRouter {
    let (shown, commanded, cleared) = (faults.clone(), faults.clone(), faults.clone());
    get(move || async move { Json(json!({"faults": shown.names()})) })
        .post(move |body: String| async move {
            match fault::parse(&body) {
                Ok(faults) => {
                    // The answer has to leave before a crash.
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        commanded.command(faults);
                    });
                    (StatusCode::ACCEPTED, "accepted\n".to_owned())
                }
                Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
            }
        })
        .delete(move || async move {
            cleared.command(Vec::new());
            StatusCode::NO_CONTENT
        })
}

fn verdict(outcome: Result<(), String>) -> Response {
    match outcome {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ok: {reason}\n")).into_response(),
    }
}

/// The revision that build queries are answered with.
pub const BUILD: &str = concat!("standin-", env!("CARGO_PKG_VERSION"));

#[derive(Clone, Copy)]
struct Answers;

#[tonic::async_trait]
impl Health for Answers {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        Ok(tonic::Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    type WatchStream = BoxStream;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<tonic::Response<BoxStream>, Status> {
        let serving = Ok(HealthCheckResponse { status: ServingStatus::Serving.into() });
        let stream = futures::StreamExt::chain(futures::stream::iter([serving]), futures::stream::pending());
        Ok(tonic::Response::new(Box::pin(stream)))
    }
}

type BoxStream = std::pin::Pin<Box<dyn futures::Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ServiceInfo for Answers {
    async fn get_build_info(
        &self,
        _: Request<GetBuildInfoRequest>,
    ) -> Result<tonic::Response<GetBuildInfoResponse>, Status> {
        let build_info = BuildInfo { revision: BUILD.to_owned(), ..BuildInfo::default() };
        Ok(tonic::Response::new(GetBuildInfoResponse { build_info: Some(build_info) }))
    }
}
