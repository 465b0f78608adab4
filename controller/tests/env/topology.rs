//! The topology against a real etcd: bytes on the wire, compare-and-set, members that fail, and local stores of cells.
//!
//! Needs an etcd binary: `MULTIGRES_TEST_ETCD`, or `etcd` in the search path, or a tool of the testbed. Without one the tests
//! are skipped with a loud line, and fail where `CI` is set.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::real_etcd::{binary, free_ports};
use controller::upstream::{
    BackupLocation, CellRecord, Credentials, DatabaseRecord, DurabilityPolicy, Error, Lifecycle, LifecycleMark, Limits,
    Lsn, PoolerAddress, PoolerId, Role, RuleNumber, Scope, ShardKey, TopoAddress, Upstream, Written,
};
use etcd_client::{Client, GetOptions};
use futures::future::join_all;
use shared::pki::{Authority, Pair, Request};

/// How long an etcd may take to start or to come back.
const START: Duration = Duration::from_mins(1);

/// A running etcd with a data directory of its own.
struct Etcd {
    child: Child,
    data: tempfile::TempDir,
    binary: PathBuf,
    port: u16,
    peer: u16,
    tls: bool,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Etcd {
    /// Starts one, or says that there is none to start.
    async fn start() -> Option<Self> {
        Self::start_with(None).await
    }

    /// Starts one that shows a certificate and asks for one.
    async fn start_secured(certificates: &Certificates) -> Option<Self> {
        Self::start_with(Some(certificates)).await
    }

    async fn start_with(certificates: Option<&Certificates>) -> Option<Self> {
        let binary = binary()?;
        // Somebody else may take a port between its choice and its use.
        for _ in 0..3 {
            let data = tempfile::tempdir().unwrap();
            let (port, peer) = free_ports();
            if let Some(certificates) = certificates {
                certificates.write(data.path());
            }
            let tls = certificates.is_some();
            let child = spawn(&binary, data.path(), port, peer, tls);
            let mut etcd = Self { child, data, binary: binary.clone(), port, peer, tls };
            if etcd.serves().await {
                return Some(etcd);
            }
        }
        panic!("etcd does not start");
    }

    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn at(&self, root: &str) -> TopoAddress {
        TopoAddress::new([self.endpoint()], root)
    }

    async fn client(&self) -> Client {
        Client::connect([self.endpoint()], None).await.unwrap()
    }

    /// Waits until it answers; `false` if the process ends before.
    async fn serves(&mut self) -> bool {
        let end = Instant::now() + START;
        while Instant::now() < end {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if self.tls {
                // Who speaks no TLS gets no answer, which is enough to know that somebody listens.
                if std::net::TcpStream::connect(self.endpoint()).is_ok() {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            let mut client = self.client().await;
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(1), client.get("ready", None)).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn restart(&mut self) {
        self.child = spawn(&self.binary, self.data.path(), self.port, self.peer, self.tls);
        assert!(self.serves().await, "etcd does not come back");
    }
}

/// An authority with a certificate for the server and one for a client.
struct Certificates {
    authority: Authority,
    server: Pair,
    client: Pair,
}

impl Certificates {
    fn new() -> Self {
        let (now, long) = (jiff::Timestamp::now(), jiff::SignedDuration::from_hours(24));
        let authority = Authority::generate("etcd-ca", now, long).unwrap();
        let issue = |name: &str, dns: &str| {
            let request = Request { common_name: name.to_owned(), dns_names: [dns.to_owned()].into(), valid_for: long };
            authority.issue(&request, now).unwrap()
        };
        let (server, client) = (issue("etcd", "localhost"), issue("operator", "operator"));
        Self { authority, server, client }
    }

    fn credentials(&self) -> Credentials {
        Credentials {
            authority: Some(self.authority.pair().certificate.clone()),
            identity: Some((self.client.certificate.clone(), self.client.key.clone())),
        }
    }

    fn write(&self, folder: &Path) {
        let files = [
            ("ca.crt", &self.authority.pair().certificate),
            ("tls.crt", &self.server.certificate),
            ("tls.key", &self.server.key),
        ];
        for (name, content) in files {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }
}

fn spawn(binary: &Path, folder: &Path, port: u16, peer: u16, tls: bool) -> Child {
    let client = format!("{}://127.0.0.1:{port}", if tls { "https" } else { "http" });
    let secured = [("trusted-ca-file", "ca.crt"), ("cert-file", "tls.crt"), ("key-file", "tls.key")];
    let secured = secured.map(|(flag, file)| format!("--{flag}={}", folder.join(file).display()));
    let data = folder.join("data");
    let peer = format!("http://127.0.0.1:{peer}");
    Command::new(binary)
        .arg(format!("--data-dir={}", data.display()))
        .arg("--name=one")
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=one={peer}"))
        .arg("--log-level=error")
        .arg("--unsafe-no-fsync")
        .args(secured.iter().filter(|_| tls))
        .args(tls.then_some("--client-cert-auth"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

const ROOT: &str = "/multigres/global";

fn cell(at: &TopoAddress) -> CellRecord {
    CellRecord { name: "zone-a".to_owned(), server_addresses: at.endpoints.clone(), root: at.root.clone() }
}

fn database(cells: &[&str]) -> DatabaseRecord {
    DatabaseRecord {
        name: "postgres".to_owned(),
        backup_location: Some(BackupLocation::Filesystem { path: "/backups".to_owned() }),
        require_initial_repo_encryption: false,
        cells: cells.iter().map(|&cell| cell.to_owned()).collect(),
        durability_policy: DurabilityPolicy::named("AT_LEAST_2"),
    }
}

/// The record of pooler `zone-a_p-0badcafe` byte by byte, as a PRIMARY by rule (3,7), with a field 90 of a later version.
fn primary_record() -> Vec<u8> {
    hex::decode(concat!(
        "0a16",
        "080112067a6f6e652d611a0a702d3062616463616665",
        "121a",
        "0a08706f737467726573",
        "120764656661756c74",
        "1a05302d696e66",
        "4208",
        "706f642d302e7376",
        "4a090a046772706310a677",
        "6a080801120408031007",
        "d205026869"
    ))
    .unwrap()
}

const PRIMARY_KEY: &str = "/poolers/multipooler-zone-a-p-0badcafe/Pooler";

fn limits() -> Limits {
    Limits { store_deadline: Duration::from_secs(2), ..Limits::default() }
}

/// Repeats a call for as long as the store is not reached, which it may refuse for a few seconds after a failure.
async fn eventually<T>(mut call: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let end = Instant::now() + START;
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(error.unreachable() && Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_is_stored_as_the_data_plane_reads_it_and_never_rewritten() {
    let Some(etcd) = Etcd::start().await else { return };
    let upstream = Upstream::connect(limits());
    let at = etcd.at(ROOT);
    let record = CellRecord {
        name: "zone-a".to_owned(),
        server_addresses: vec!["demo-global-topo.prod.svc:2379".to_owned()],
        root: ROOT.to_owned(),
    };
    assert_eq!(upstream.topology().put_cell(&at, &record).await, Ok(Written::Created));
    let mut client = etcd.client().await;
    let key = "/multigres/global/cells/zone-a/Cell";
    let stored = client.get(key, None).await.unwrap();
    assert_eq!(
        hex::encode(stored.kvs()[0].value()),
        "0a067a6f6e652d61121e64656d6f2d676c6f62616c2d746f706f2e70726f642e7376633a323337391a112f6d756c7469677265732f676c6f62616c"
    );
    assert_eq!(upstream.topology().put_cell(&at, &record).await, Ok(Written::Unchanged));
    let again = client.get(key, None).await.unwrap();
    assert_eq!(again.kvs()[0].mod_revision(), stored.kvs()[0].mod_revision());
    assert_eq!(upstream.topology().put_cell(&at, &cell(&at)).await, Ok(Written::Updated));
    assert_eq!(upstream.topology().cells(&at).await.unwrap().records, [cell(&at)]);
    // The same names under another root are other records.
    assert!(upstream.topology().cells(&etcd.at("/multigres/other")).await.unwrap().records.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_lose_no_update_and_end_in_one_of_the_records() {
    let Some(etcd) = Etcd::start().await else { return };
    let upstream = Upstream::connect(limits());
    let at = etcd.at(ROOT);
    let wanted: Vec<DatabaseRecord> = ["a", "b", "c", "d"].map(|cell| database(&[cell])).to_vec();
    let results = join_all(wanted.iter().map(|record| upstream.topology().put_database(&at, record))).await;
    let mut changes = 0;
    for result in results {
        match result {
            Ok(written) => changes += i64::from(written.changed()),
            Err(error) => assert_eq!(error.reason(), "Conflict"),
        }
    }
    let stored = upstream.topology().databases(&at).await.unwrap();
    assert_eq!((stored.records.len(), stored.malformed.len()), (1, 0));
    assert!(wanted.contains(&stored.records[0]));
    let mut client = etcd.client().await;
    let versions = client.get("/multigres/global/databases/postgres/Database", None).await.unwrap().kvs()[0].version();
    assert_eq!(versions, changes, "each reported change is one write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poolers_of_a_cell_are_read_from_its_own_store() {
    let (Some(global), Some(mut local)) = (Etcd::start().await, Etcd::start().await) else { return };
    let upstream = Upstream::connect(limits());
    let topology = upstream.topology();
    let (at, local_at) = (global.at(ROOT), local.at("/multigres/zone-a"));
    let shared = CellRecord { name: "zone-b".to_owned(), ..cell(&at) };
    for record in [cell(&local_at), shared] {
        topology.put_cell(&at, &record).await.unwrap();
    }
    let key = format!("/multigres/zone-a{PRIMARY_KEY}");
    local.client().await.put(key.as_str(), primary_record(), None).await.unwrap();

    let scope = Scope::shard(ShardKey::new("postgres", "default", "0-inf"));
    let snapshot = topology.snapshot(&at, &scope).await;
    assert!(snapshot.is_complete(), "{snapshot:?}");
    assert_eq!(snapshot.cells["zone-b"], Ok(vec![]));
    let pooler = snapshot.poolers().next().unwrap();
    assert_eq!(pooler.id, PoolerId::new("zone-a", "p-0badcafe"));
    assert_eq!(
        (pooler.role, pooler.rule),
        (Role::Primary, Some(RuleNumber { coordinator_term: 3, leader_subterm: 7 }))
    );
    assert_eq!(pooler.grpc(), Some(PoolerAddress::new("pod-0.sv", 15270)));
    assert_eq!(pooler.pod_name(), Some("pod-0"));

    // A mark keeps the field of a later version.
    let mark = LifecycleMark { state: Lifecycle::Shutdown, reason: "gone".to_owned(), updated: None };
    let id = pooler.id.clone();
    assert_eq!(topology.mark_pooler(&at, &id, &mark).await, Ok(Written::Updated));
    let stored = local.client().await.get(key.as_str(), None).await.unwrap();
    assert!(stored.kvs()[0].value().ends_with(&[0xd2, 0x05, 0x02, b'h', b'i']));
    assert!(topology.snapshot(&at, &scope).await.poolers().next().unwrap().is_out());

    // Without its local store the cell is unreadable, and the other one is not.
    local.stop();
    let snapshot = topology.snapshot(&at, &scope).await;
    assert!(snapshot.cells["zone-a"].as_ref().unwrap_err().unreachable(), "{snapshot:?}");
    assert_eq!((&snapshot.global, &snapshot.cells["zone-b"]), (&Ok(()), &Ok(vec![])));
    local.restart().await;
    assert!(eventually(async || topology.delete_pooler(&at, &id).await).await);
    assert_eq!(topology.delete_pooler(&at, &id).await, Ok(false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_of_a_gone_gateway_is_removed_only_while_it_is_the_one_that_was_read() {
    let (Some(global), Some(local)) = (Etcd::start().await, Etcd::start().await) else { return };
    let upstream = Upstream::connect(limits());
    let (topology, at) = (upstream.topology(), global.at(ROOT));
    topology.put_cell(&at, &cell(&local.at("/multigres/zone-a"))).await.unwrap();
    // id {component: MULTIGATEWAY, cell: "zone-a", name: "x1"}, hostname "10.0.0.7", port_map {"grpc": 15170}.
    let record = hex::decode(concat!(
        "0a0e",
        "0802",
        "12067a6f6e652d61",
        "1a027831", //
        "1208",
        "31302e302e302e37", //
        "1a09",
        "0a0467727063",
        "10c276"
    ))
    .unwrap();
    let key = "/multigres/zone-a/gateways/multigateway-zone-a-x1/Gateway";
    let mut store = local.client().await;
    store.put(key, record.clone(), None).await.unwrap();
    let cells = BTreeSet::from(["zone-a".to_owned()]);
    let seen = topology.registrations(&at, &cells).await.cells["zone-a"].clone().unwrap();
    assert_eq!((seen.len(), seen[0].name.as_str(), seen[0].hostname.as_str()), (1, "x1", "10.0.0.7"));

    // Another process has taken the name in between.
    let mut other = record.clone();
    let last = other.windows(8).position(|part| part == b"10.0.0.7").unwrap() + 7;
    other[last] = b'8';
    store.put(key, other, None).await.unwrap();
    assert_eq!(topology.delete_registration(&at, &seen[0]).await, Ok(false));
    assert_eq!(store.get(key, None).await.unwrap().kvs().len(), 1);
    store.put(key, record, None).await.unwrap();
    assert_eq!(topology.delete_registration(&at, &seen[0]).await, Ok(true));
    assert!(store.get(key, None).await.unwrap().kvs().is_empty());
    assert_eq!(topology.delete_registration(&at, &seen[0]).await, Ok(false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_cell_stays_and_a_deleted_database_takes_the_claims_of_its_shards_along() {
    let Some(etcd) = Etcd::start().await else { return };
    let upstream = Upstream::connect(limits());
    let (topology, at) = (upstream.topology(), etcd.at(ROOT));
    topology.put_cell(&at, &cell(&at)).await.unwrap();
    topology.put_database(&at, &database(&["zone-a"])).await.unwrap();
    let claim = "/multigres/global/databases/postgres/default/0-inf/ShardInitClaim";
    let mut client = etcd.client().await;
    let lock = "/multigres/global/databases/postgres/default/0-inf/locks/17";
    for key in [claim, lock] {
        client.put(key, "x", None).await.unwrap();
    }
    assert_eq!(topology.delete_cell(&at, "zone-a").await.unwrap_err().reason(), "InUse");
    assert_eq!(topology.delete_database(&at, "postgres").await, Ok(true));
    assert_eq!(topology.delete_cell(&at, "zone-a").await, Ok(true));
    assert_eq!(topology.delete_cell(&at, "zone-a").await, Ok(false));
    let left = client.get(ROOT, Some(GetOptions::new().with_prefix().with_keys_only())).await.unwrap();
    let keys: BTreeSet<&str> = left.kvs().iter().map(|pair| pair.key_str().unwrap()).collect();
    assert_eq!(keys, BTreeSet::from([lock]), "locks end with their leases");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_for_certificates_is_reached_with_the_right_ones_alone() {
    let certificates = Certificates::new();
    let Some(etcd) = Etcd::start_secured(&certificates).await else { return };
    let upstream = Upstream::connect(limits());
    let topology = upstream.topology();
    for endpoint in [format!("https://localhost:{}", etcd.port), format!("localhost:{}", etcd.port)] {
        let at = TopoAddress::new([endpoint], ROOT).with(certificates.credentials());
        let record = cell(&at);
        eventually(async || topology.put_cell(&at, &record).await).await;
        assert_eq!(topology.cells(&at).await.unwrap().records, [record]);
        topology.put_database(&at, &database(&["zone-a"])).await.unwrap();
        assert_eq!(topology.databases(&at).await.unwrap().records.len(), 1);
    }

    let bare = TopoAddress::new([format!("localhost:{}", etcd.port)], ROOT);
    let strangers = Certificates::new().credentials();
    let ours = certificates.credentials();
    let cases = [
        ("no TLS", bare.clone()),
        ("an authority that did not sign the server", bare.clone().with(strangers.clone())),
        ("no certificate", bare.clone().with(Credentials { identity: None, ..ours.clone() })),
        ("a certificate of another authority", bare.clone().with(Credentials { identity: strangers.identity, ..ours })),
        ("asked to speak plain text", TopoAddress::new([format!("http://localhost:{}", etcd.port)], ROOT)),
    ];
    for (what, at) in cases {
        let error = topology.cells(&at).await.unwrap_err();
        assert!(error.unreachable(), "{what}: {error}");
    }
    // The failures of others leave the connection with the right certificates alone.
    let at = bare.with(certificates.credentials());
    assert_eq!(topology.cells(&at).await.unwrap().records.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_certificates_are_used_without_a_restart() {
    let before = Certificates::new();
    let Some(mut etcd) = Etcd::start_secured(&before).await else { return };
    let upstream = Upstream::connect(limits());
    let topology = upstream.topology();
    let at = TopoAddress::new([format!("https://localhost:{}", etcd.port)], ROOT);
    let old = at.clone().with(before.credentials());
    eventually(async || topology.put_cell(&old, &cell(&at)).await).await;
    etcd.stop();
    let after = Certificates::new();
    after.write(etcd.data.path());
    etcd.restart().await;
    let new = at.with(after.credentials());
    let found = eventually(async || topology.cells(&new).await).await;
    assert_eq!(found.records.len(), 1);
    assert!(topology.cells(&old).await.is_err(), "the old certificates are refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_passed_over() {
    let Some(etcd) = Etcd::start().await else { return };
    let upstream = Upstream::connect(Limits::default());
    // One refuses, one accepts and never speaks.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (refusing, _) = free_ports();
    let members = [
        format!("127.0.0.1:{refusing}"),
        silent.local_addr().unwrap().to_string(),
        format!("http://{}", etcd.endpoint()),
    ];
    let at = TopoAddress::new(members, ROOT);
    assert_eq!(upstream.topology().put_cell(&at, &cell(&at)).await, Ok(Written::Created));
    let started = Instant::now();
    assert_eq!(upstream.topology().put_cell(&at, &cell(&at)).await, Ok(Written::Unchanged));
    assert!(started.elapsed() < Duration::from_secs(1), "the member that answered is asked first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_etcd_is_unavailable_and_reached_again_after_its_return() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let upstream = Upstream::connect(limits());
    let (topology, at) = (upstream.topology(), etcd.at(ROOT));
    topology.put_cell(&at, &cell(&at)).await.unwrap();
    etcd.stop();
    let error = topology.cells(&at).await.unwrap_err();
    assert_eq!(error.reason(), "Unavailable", "{error}");
    etcd.restart().await;
    assert_eq!(eventually(async || topology.cells(&at).await).await.records, [cell(&at)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_never_answers_costs_one_deadline_and_then_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = Upstream::connect(Limits { store_deadline: Duration::from_millis(400), ..Limits::default() });
    let at = TopoAddress::new([silent.local_addr().unwrap().to_string()], ROOT);
    let error = upstream.topology().cells(&at).await.unwrap_err();
    assert_eq!(error.reason(), "Slow", "{error}");
    let started = Instant::now();
    assert_eq!(upstream.topology().cells(&at).await.unwrap_err(), error);
    assert!(started.elapsed() < Duration::from_millis(300), "it is left alone for a while");
}

#[tokio::test]
async fn an_address_without_endpoints_is_invalid() {
    let upstream = Upstream::connect(limits());
    let at = TopoAddress::new(["", " , "], ROOT);
    assert_eq!(upstream.topology().cells(&at).await.unwrap_err().reason(), "Invalid");
}

#[test]
fn comma_separated_addresses_are_taken_apart() {
    assert_eq!(TopoAddress::new(["a:1, b:2", "c:3"], "/").endpoints, ["a:1", "b:2", "c:3"]);
}

#[test]
fn log_positions_are_read_and_written_as_postgresql_does() {
    assert_eq!("16/B374D848".parse::<Lsn>().unwrap(), Lsn(0x16_B374_D848));
    assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
    for bad in ["", "/", "1", "1/", "x/1", "1/100000000"] {
        assert!(bad.parse::<Lsn>().is_err(), "{bad}");
    }
}
