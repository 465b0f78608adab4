//! pgctld, and what it keeps instead of PostgreSQL.

pub mod data_dir;
pub mod server;
pub mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use self::data_dir::{Content, DataDir};
use self::server::Server;
use crate::fault::{Fault, Faults};
use crate::flag::Values;
use crate::launch::{self, Role};
use crate::proto::pgctldservice::pg_ctld_server::{PgCtld, PgCtldServer};
use crate::proto::pgctldservice::{
    InitDataDirRequest, InitDataDirResponse, PgBackRestStatus, ReloadConfigRequest, ReloadConfigResponse, ServerStatus,
    StartRequest, StartResponse, StatusRequest, StatusResponse, StopRequest, StopResponse,
};
use crate::serving::{self, Serving, Surface};

/// Runs pgctld.
pub async fn run(values: Values) -> Result<()> {
    let keeper = Arc::new(Keeper::prepare(&values)?);
    let faults = Faults::watch(values.text("pooler-dir"));
    let serving = Serving::start(
        &values,
        Surface {
            role: Role::Pgctld,
            faults: faults.clone(),
            ready: serving::grpc_accepts(&values),
            pages: Router::new(),
            services: Routes::new(PgCtldServer::from_arc(Arc::clone(&keeper))),
        },
    )
    .await?;
    let archive = tokio::spawn(serve_archive(Arc::clone(&keeper)));
    let watched = Arc::clone(&keeper);
    tokio::spawn(async move {
        loop {
            if faults.has(Fault::StopPostgres)
                && let Some(server) = watched.server.lock().await.take()
            {
                server.0.stop();
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    serving.until_told().await?;
    archive.abort();
    // The real one leaves PostgreSQL running; here it ends with the process, so its memory has to reach the disk.
    if let Some(server) = keeper.server.lock().await.take() {
        server.0.stop();
    }
    serving.close().await;
    Ok(())
}

struct Keeper {
    data: DataDir,
    pooler_dir: PathBuf,
    port: u16,
    address: String,
    include: Vec<String>,
    archive_port: u16,
    archive_certificates: PathBuf,
    archive: Mutex<PgBackRestStatus>,
    server: Mutex<Option<(Server, Instant)>>,
}

impl Keeper {
    /// Makes the checks of the real start, in its order and words.
    fn prepare(values: &Values) -> Result<Self> {
        let pooler_dir = values.text("pooler-dir");
        if pooler_dir.is_empty() {
            bail!("pooler-dir needs to be set");
        }
        let data = std::env::var("PGDATA").unwrap_or_default();
        if data.is_empty() {
            bail!("PGDATA environment variable is required");
        }
        for flag in ["pg-hba-template", "postgres-config-template"] {
            let path = values.text(flag);
            if !path.is_empty() {
                std::fs::read_to_string(path).with_context(|| format!("failed to read {flag} file {path}"))?;
            }
        }
        let file = if values.is_given("pg-password-file") {
            Some(values.text("pg-password-file").to_owned())
        } else {
            std::env::var("POSTGRES_PASSWORD_FILE").ok()
        };
        launch::password(file, &["POSTGRES_PASSWORD"])?;
        for (flag, shown) in
            [("pg-user", "pg-user"), ("pg-database", "pg-database"), ("pg-listen-addresses", "listen-addresses")]
        {
            if values.text(flag).is_empty() {
                bail!("{shown} needs to be set");
            }
        }
        for flag in ["pg-port", "timeout"] {
            if values.number(flag) == 0 {
                bail!("{flag} needs to be set");
            }
        }
        data_dir::check_initdb_args(values.text("pg-initdb-args"))?;
        let archive = Path::new(pooler_dir).join("pgbackrest");
        std::fs::create_dir_all(&archive).context("failed to create pgbackrest directory")?;
        std::fs::write(archive.join("pgbackrest.pgpass"), "").context("failed to write pgbackrest pgpass file")?;
        Ok(Self {
            data: DataDir(data.into()),
            pooler_dir: pooler_dir.into(),
            port: values.port("pg-port"),
            address: values.text("pg-listen-addresses").to_owned(),
            include: values.list("pg-initdb-extra-conf"),
            archive_port: values.port("pgbackrest-port"),
            archive_certificates: values.text("pgbackrest-cert-dir").into(),
            archive: Mutex::default(),
            server: Mutex::default(),
        })
    }
}

/// Listens where pgBackRest would, for as long as its certificates can be read.
async fn serve_archive(keeper: Arc<Keeper>) {
    if keeper.archive_port == 0 || keeper.archive_certificates.as_os_str().is_empty() {
        return;
    }
    loop {
        let outcome = async {
            for file in ["ca.crt", "pgbackrest.crt", "pgbackrest.key"] {
                let path = keeper.archive_certificates.join(file);
                std::fs::read(&path).with_context(|| format!("unable to load {}", path.display()))?;
            }
            let listener: TcpListener = serving::listen("", keeper.archive_port).await?;
            {
                let mut status = keeper.archive.lock().await;
                status.running = true;
                status.last_started = Some(std::time::SystemTime::now().into());
            }
            accept_for_ever(&listener).await
        };
        let error = outcome.await.map_or_else(|error: anyhow::Error| format!("{error:#}"), |()| String::new());
        tracing::warn!(%error, "pgBackRest server is not running");
        {
            let mut status = keeper.archive.lock().await;
            status.running = false;
            status.error_message = error;
            status.restart_count += 1;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

async fn accept_for_ever(listener: &TcpListener) -> Result<()> {
    loop {
        drop(listener.accept().await?);
    }
}

fn internal(error: &anyhow::Error) -> Status {
    Status::internal(format!("{error:#}"))
}

#[tonic::async_trait]
impl PgCtld for Keeper {
    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let request = request.into_inner();
        let mut server = self.server.lock().await;
        if !self.data.exists() {
            return Err(Status::failed_precondition(format!(
                "data directory not initialized: {}. Run 'pgctld init' first",
                self.data.0.display()
            )));
        }
        if server.is_some() {
            return Ok(Response::new(StartResponse {
                message: "PostgreSQL is already running".into(),
                ..StartResponse::default()
            }));
        }
        self.data.set_standby(!request.as_primary).map_err(|error| internal(&error))?;
        let started = Server::start(self.data.clone(), &self.address, self.port, &self.pooler_dir.join("pg_sockets"))
            .await
            .map_err(|error| internal(&error))?;
        *server = Some((started, Instant::now()));
        Ok(Response::new(StartResponse {
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            message: "PostgreSQL server started successfully".into(),
            ..StartResponse::default()
        }))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        let mode = request.into_inner().mode;
        if !matches!(mode.as_str(), "" | "smart" | "fast" | "immediate") {
            return Err(Status::invalid_argument(format!("invalid mode {mode}")));
        }
        let message = match self.server.lock().await.take() {
            Some((server, _)) => {
                if mode != "immediate" {
                    server.stop();
                }
                "PostgreSQL server stopped successfully"
            }
            None => "PostgreSQL is not running",
        };
        Ok(Response::new(StopResponse { message: message.into() }))
    }

    async fn reload_config(&self, _: Request<ReloadConfigRequest>) -> Result<Response<ReloadConfigResponse>, Status> {
        if self.server.lock().await.is_none() {
            return Err(Status::failed_precondition("PostgreSQL is not running"));
        }
        let socket = self.pooler_dir.join(format!("pg_sockets/.s.PGSQL.{}", self.port));
        wire::report(&socket, &wire::Ask::Reload).await.map_err(|error| internal(&error))?;
        Ok(Response::new(ReloadConfigResponse {
            message: "PostgreSQL server configuration reloaded successfully".into(),
        }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let server = self.server.lock().await;
        let (status, message) = if server.is_some() {
            (ServerStatus::Running, "Server is running")
        } else if self.data.exists() {
            (ServerStatus::Stopped, "Server is stopped")
        } else {
            (ServerStatus::NotInitialized, "Data directory is not initialized")
        };
        Ok(Response::new(StatusResponse {
            status: status.into(),
            pid: server.as_ref().map_or(0, |_| i32::try_from(std::process::id()).unwrap_or_default()),
            version: "17 (stand-in)".into(),
            uptime: server.as_ref().and_then(|(_, since)| since.elapsed().try_into().ok()),
            data_dir: self.data.0.display().to_string(),
            port: self.port.into(),
            host: "localhost".into(),
            ready: server.is_some(),
            message: message.into(),
            pgbackrest_status: Some(self.archive.lock().await.clone()),
        }))
    }

    async fn init_data_dir(&self, _: Request<InitDataDirRequest>) -> Result<Response<InitDataDirResponse>, Status> {
        if self.data.exists() {
            return Ok(Response::new(InitDataDirResponse { message: "Data directory is already initialized".into() }));
        }
        let content = Content { system_id: rand::random::<u64>() >> 1, lsn: 0x0100_0028, ..Content::default() };
        self.data.create(&content, &self.include).map_err(|error| internal(&error))?;
        Ok(Response::new(InitDataDirResponse { message: "Data directory initialized successfully".into() }))
    }
}
