//! A bed of real processes: an etcd, the binaries under test, and eyes on records and calls.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions};
use prost::Message;
use standin::proto::clustermetadata::{
    BackupLocation, Cell, Database, DurabilityPolicy, FilesystemBackup, Multipooler, PoolerLifecycleStatus, QuorumType,
    RoutingRole, backup_location,
};
use standin::proto::consensus::multipooler_consensus_client::MultipoolerConsensusClient;
use standin::proto::multiorch::multiorch_service_client::MultiorchServiceClient;
use standin::proto::multipoolermanager::multipooler_manager_client::MultipoolerManagerClient;
use standin::proto::multipoolermanagerdata::{StatusRequest, StatusResponse};
use tonic::transport::{Channel, Endpoint};

pub const ROOT: &str = "/multigres/global";
pub const CELL: &str = "zone-a";
const NOBODY: u32 = 65_534;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Says loudly why a test does nothing; under CI that is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must not skip: {reason}");
    eprintln!("SKIPPED: {reason}");
}

pub fn is_root() -> bool {
    standin::launch::is_root().unwrap()
}

/// Whether the real data plane is under test.
pub fn is_real() -> bool {
    std::env::var_os("MULTIGRES_BIN_DIR").is_some()
}

/// The real data plane needs PostgreSQL; without it only tests of data are skipped.
pub fn lacks_postgres() -> bool {
    if !is_real() {
        return false;
    }
    let missing: Vec<&str> =
        ["initdb", "postgres", "pg_ctl", "pgbackrest"].into_iter().filter(|name| on_path(name).is_none()).collect();
    if missing.is_empty() {
        return false;
    }
    skip(&format!("not on PATH: {}", missing.join(" ")));
    true
}

fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn etcd_binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MULTIGRES_TEST_ETCD") {
        return Some(path.into());
    }
    if let Some(path) = on_path("etcd") {
        return Some(path);
    }
    let tools = PathBuf::from(std::env::var_os("HOME")?).join(".cache/multigres-testbed/tools");
    std::fs::read_dir(tools).ok()?.flatten().map(|entry| entry.path().join("bin/etcd")).find(|path| path.is_file())
}

/// Calls `look` until it yields something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A port that nobody has: below those that the system gives to outgoing connections, so that it stays free until it is
/// used, and somewhere else in every test process.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id().wrapping_mul(61) + TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(20_000 + next % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The status code of a GET, if anybody answers.
pub fn http(port: u16, path: &str) -> Option<u16> {
    http_call(port, "GET", path, "").map(|(code, _)| code)
}

pub fn http_call(port: u16, verb: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let length = body.len();
    write!(stream, "{verb} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let code = answer.split_whitespace().nth(1)?.parse().ok()?;
    Some((code, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

/// A running process that does not outlive the test.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Its exit, which has to come in time.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "process still runs:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// A place for files that another user may read and write, with the binaries under test.
pub struct Ground {
    pub directory: tempfile::TempDir,
    pub binaries: PathBuf,
    user: Option<u32>,
}

impl Ground {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("sb").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let binaries = if let Some(path) = std::env::var_os("MULTIGRES_BIN_DIR") {
            path.into()
        } else {
            let binaries = directory.path().join("bin");
            std::fs::create_dir(&binaries).unwrap();
            // A copy: the build's folder may be closed to the user that the processes run as.
            let standin = directory.path().join("standin");
            std::fs::copy(env!("CARGO_BIN_EXE_standin"), &standin).unwrap();
            for role in standin::launch::Role::ALL {
                std::os::unix::fs::symlink(&standin, binaries.join(role.program())).unwrap();
            }
            binaries
        };
        Self { directory, binaries, user: is_root().then_some(NOBODY) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        path.display().to_string()
    }

    pub fn open_directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        path
    }

    /// A command that runs as somebody who is not root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.command_as_me(program);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    pub fn command_as_me(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LANG", "en_US.UTF-8");
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command that is expected to end by itself.
    pub fn finish(mut command: Command) -> Output {
        let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let deadline = Instant::now() + Duration::from_secs(30);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("did not end by itself: {command:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.wait_with_output().unwrap()
    }

    pub fn start(&self, name: &str, mut command: Command) -> Process {
        let log = self.path(&format!("{name}.log"));
        let file = std::fs::File::create(&log).unwrap();
        let child = spawn(command.stdout(file.try_clone().unwrap()).stderr(file));
        Process { child, log }
    }
}

/// Starts a command; a fork of another test may hold the fresh copy of the binary open for a moment.
fn spawn(command: &mut Command) -> Child {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome.unwrap(),
        }
    }
}

/// What was printed, wherever it was.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The ports and the directory of one pooler.
pub struct PoolerPlace {
    pub name: String,
    pub directory: PathBuf,
    pub http: u16,
    pub grpc: u16,
    postgres: u16,
    pgctld_grpc: u16,
    pgctld_http: u16,
}

/// The two processes of a pool pod.
pub struct PoolerPod {
    pub pgctld: Process,
    pub multipooler: Process,
}

/// A ground with an etcd.
pub struct Bed {
    pub ground: Ground,
    pub client: Client,
    pub address: String,
    _etcd: Process,
}

impl Bed {
    /// Starts an etcd with one cell; `None` when there is no etcd to start.
    pub async fn start() -> Option<Self> {
        let Some(etcd) = etcd_binary() else {
            skip("no etcd: set MULTIGRES_TEST_ETCD");
            return None;
        };
        let ground = Ground::new();
        ground.write("password", "secret\n");
        let (port, peer) = (free_port(), free_port());
        let url = format!("http://127.0.0.1:{port}");
        let mut command = Command::new(etcd);
        command.args(["--data-dir", &ground.path("etcd").display().to_string(), "--log-level", "error"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}"), "--unsafe-no-fsync"]);
        let process = ground.start("etcd", command);
        let client = Box::pin(Client::connect([url], None)).await.unwrap();
        let probe = client.clone();
        eventually("etcd", || {
            let mut probe = probe.clone();
            async move { Box::pin(probe.status()).await.ok() }
        })
        .await;
        let bed = Self { ground, client, address: format!("127.0.0.1:{port}"), _etcd: process };
        let cell = Cell { name: CELL.into(), server_addresses: vec![bed.address.clone()], root: ROOT.into() };
        bed.put(&format!("{ROOT}/cells/{CELL}/Cell"), &cell).await;
        Some(bed)
    }

    pub async fn put(&self, key: &str, record: &impl Message) {
        Box::pin(self.client.clone().put(key, record.encode_to_vec(), None)).await.unwrap();
    }

    pub async fn read<M: Message + Default>(&self, key: &str) -> Option<M> {
        let response = Box::pin(self.client.clone().get(key, None)).await.unwrap();
        response.kvs().first().map(|kv| M::decode(kv.value()).unwrap())
    }

    pub async fn list<M: Message + Default>(&self, prefix: &str) -> Vec<(String, M)> {
        let options = GetOptions::new().with_prefix();
        let response = Box::pin(self.client.clone().get(prefix, Some(options))).await.unwrap();
        response.kvs().iter().map(|kv| (kv.key_str().unwrap().to_owned(), M::decode(kv.value()).unwrap())).collect()
    }

    pub async fn put_database(&self, repository: &Path) {
        let database = Database {
            name: "postgres".into(),
            backup_location: Some(BackupLocation {
                location: Some(backup_location::Location::Filesystem(FilesystemBackup {
                    path: repository.display().to_string(),
                })),
                ..BackupLocation::default()
            }),
            cells: vec![CELL.into()],
            bootstrap_durability_policy: Some(DurabilityPolicy {
                policy_name: "AT_LEAST_2".into(),
                quorum_type: QuorumType::AtLeastN.into(),
                required_count: 2,
                ..DurabilityPolicy::default()
            }),
        };
        self.put(&format!("{ROOT}/databases/postgres/Database"), &database).await;
    }

    pub fn topology(&self) -> [String; 3] {
        [
            format!("--topo-global-server-addresses={}", self.address),
            format!("--topo-global-root={ROOT}"),
            format!("--cell={CELL}"),
        ]
    }

    pub fn place(&self, name: &str) -> PoolerPlace {
        PoolerPlace {
            name: name.into(),
            directory: self.ground.open_directory(name),
            http: free_port(),
            grpc: free_port(),
            postgres: free_port(),
            pgctld_grpc: free_port(),
            pgctld_http: free_port(),
        }
    }

    pub fn start_pgctld(&self, place: &PoolerPlace) -> Process {
        let directory = place.directory.display();
        let mut command = self.ground.command("pgctld");
        command.arg("server").args([
            format!("--pooler-dir={directory}"),
            format!("--grpc-port={}", place.pgctld_grpc),
            format!("--http-port={}", place.pgctld_http),
            format!("--pg-port={}", place.postgres),
            format!("--grpc-socket-file={directory}/pgctld.sock"),
        ]);
        command.env("PGDATA", place.directory.join("pg_data"));
        command.env("POSTGRES_PASSWORD_FILE", self.ground.path("password"));
        self.ground.start(&format!("{}-pgctld", place.name), command)
    }

    pub fn start_multipooler(&self, place: &PoolerPlace) -> Process {
        let directory = place.directory.display();
        let mut command = self.ground.command("multipooler");
        command.args(self.topology()).args([
            format!("--pooler-dir={directory}"),
            format!("--grpc-port={}", place.grpc),
            format!("--http-port={}", place.http),
            format!("--pg-port={}", place.postgres),
            format!("--socket-file={directory}/pg_sockets/.s.PGSQL.{}", place.postgres),
            format!("--pgctld-addr=localhost:{}", place.pgctld_grpc),
            format!("--service-id={}", place.name),
            "--hostname=localhost".into(),
            "--database=postgres".into(),
            "--table-group=default".into(),
            "--shard=0-inf".into(),
            "--service-map=grpc-pooler".into(),
        ]);
        command.env("PGDATA", place.directory.join("pg_data"));
        command.env("POSTGRES_PASSWORD_FILE", self.ground.path("password"));
        self.ground.start(&format!("{}-multipooler", place.name), command)
    }

    pub fn start_pod(&self, place: &PoolerPlace) -> PoolerPod {
        PoolerPod { pgctld: self.start_pgctld(place), multipooler: self.start_multipooler(place) }
    }

    /// Starts an orchestrator; yields its gRPC port too.
    pub fn start_orch(&self) -> (Process, u16, u16) {
        let (http, grpc) = (free_port(), free_port());
        let mut command = self.ground.command("multiorch");
        command.args(self.topology()).args([
            format!("--http-port={http}"),
            format!("--grpc-port={grpc}"),
            "--hostname=localhost".into(),
            "--watch-targets=postgres/default/0-inf".into(),
        ]);
        (self.ground.start("multiorch", command), http, grpc)
    }

    pub async fn pooler(&self, name: &str) -> Option<Multipooler> {
        self.read(&format!("{ROOT}/poolers/multipooler-{CELL}-{name}/Pooler")).await
    }

    /// The name and term of the highest claim to be primary, if it beats `term`.
    pub async fn primary_above(&self, term: i64) -> Option<(String, i64)> {
        let records: Vec<(String, Multipooler)> = self.list(&format!("{ROOT}/poolers/")).await;
        records
            .into_iter()
            .filter_map(|(_, record)| {
                let state = record.routing_state.filter(|state| state.role() == RoutingRole::Primary)?;
                Some((record.id?.name, state.rule?.coordinator_term))
            })
            .max_by_key(|(_, claimed)| *claimed)
            .filter(|(_, claimed)| *claimed > term)
    }
}

pub fn channel(port: u16) -> Channel {
    Endpoint::from_shared(format!("http://localhost:{port}")).unwrap().connect_lazy()
}

pub fn manager(port: u16) -> MultipoolerManagerClient<Channel> {
    MultipoolerManagerClient::new(channel(port))
}

pub fn consensus(port: u16) -> MultipoolerConsensusClient<Channel> {
    MultipoolerConsensusClient::new(channel(port))
}

pub fn orchestrator(port: u16) -> MultiorchServiceClient<Channel> {
    MultiorchServiceClient::new(channel(port))
}

/// A pooler's answer about itself.
pub async fn status(port: u16) -> Option<StatusResponse> {
    manager(port).status(StatusRequest {}).await.ok().map(tonic::Response::into_inner)
}

pub async fn is_streaming(port: u16) -> bool {
    status(port)
        .await
        .and_then(|answer| answer.status?.replication_status)
        .is_some_and(|replication| replication.wal_receiver_status == "streaming")
}

pub fn lifecycle(record: &Multipooler) -> PoolerLifecycleStatus {
    record.lifecycle_status.as_ref().map(standin::proto::clustermetadata::PoolerLifecycle::status).unwrap_or_default()
}
