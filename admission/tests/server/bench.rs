//! A running server, its keys, its judge, and a client that knows each of its connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use admission::{
    review::{Answer, Cause, Denial, Endpoint, Request, Review},
    server::{Limits, Loopback, Server, Settings},
};
use arc_swap::ArcSwap;
use futures::{FutureExt as _, future::BoxFuture};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    RootCertStore,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use shared::{
    admin::Bind,
    metrics::{Build, Metrics},
    pki::{Authority, Request as Wanted},
};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// The name that the certificates are for.
const NAME: &str = "hook.ops.svc";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A question about an object whose name tells the judge what to do.
pub fn question(endpoint: Endpoint, uid: &str, name: &str) -> Value {
    let kind = endpoint.kind();
    let resource = format!("{}s", kind.to_lowercase());
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": uid,
            "kind": {"group": "multigres.com", "version": "v1alpha1", "kind": kind},
            "resource": {"group": "multigres.com", "version": "v1alpha1", "resource": resource},
            "name": name,
            "namespace": "prod",
            "operation": "CREATE",
            "userInfo": {"username": "eva"},
            "object": {"spec": {}},
            "oldObject": null,
            "dryRun": false,
        },
    })
}

/// Waits until something holds.
pub async fn eventually(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it never held");
}

/// A judge that does what the name of the object says.
pub struct Judge {
    gate: Semaphore,
    waiting: AtomicUsize,
}

impl Judge {
    fn new() -> Arc<Self> {
        Arc::new(Self { gate: Semaphore::new(0), waiting: AtomicUsize::new(0) })
    }

    /// How many requests came to the gate.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Lets everybody through the gate.
    pub fn open(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

impl Review for Judge {
    fn review<'a>(&'a self, _endpoint: Endpoint, request: Request<'a>) -> BoxFuture<'a, Answer> {
        assert_ne!(request.name, "panic at once");
        async move {
            match request.name.as_str() {
                "panic" => panic!("told to"),
                "gate" => {
                    self.waiting.fetch_add(1, Ordering::SeqCst);
                    drop(self.gate.acquire().await);
                    Answer::default()
                }
                "deny" => Answer::denied(Denial {
                    code: 403,
                    reason: "Forbidden",
                    message: "spec.pools: too many".to_owned(),
                    causes: vec![Cause {
                        reason: "FieldValueInvalid",
                        field: "spec.pools".to_owned(),
                        message: "too many".to_owned(),
                    }],
                }),
                "patch" => {
                    let patch = json!([{"op": "add", "path": "/spec/databases", "value": []}]);
                    Answer { patch: Some(serde_json::from_value(patch).unwrap()), ..Answer::default() }
                }
                "length" => {
                    let length = request.object.map_or(0, |object| object.get().len());
                    Answer { warnings: vec![length.to_string()], ..Answer::default() }
                }
                _ => Answer::default(),
            }
        }
        .boxed()
    }
}

/// The key that is served, and the authority behind it.
#[derive(Clone, Debug)]
pub struct Keys {
    current: Arc<ArcSwap<(Arc<CertifiedKey>, String)>>,
    handshakes: Arc<AtomicUsize>,
}

impl Keys {
    pub fn new(authority: &str) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(issue(authority))), handshakes: Arc::default() }
    }

    /// Serves a new key of another authority.
    pub fn swap(&self, authority: &str) {
        self.current.store(Arc::new(issue(authority)));
    }

    /// The authority, in PEM.
    pub fn bundle(&self) -> String {
        self.current.load().1.clone()
    }
}

impl ResolvesServerCert for Keys {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.handshakes.fetch_add(1, Ordering::SeqCst);
        Some(Arc::clone(&self.current.load().0))
    }
}

fn issue(authority: &str) -> (Arc<CertifiedKey>, String) {
    let (now, year) = (jiff::Timestamp::now(), jiff::SignedDuration::from_hours(8760));
    let authority = Authority::generate(authority, now, year).unwrap();
    let wanted = Wanted { common_name: NAME.to_owned(), dns_names: [NAME.to_owned()].into(), valid_for: year };
    let leaf = authority.issue(&wanted, now).unwrap();
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    (Arc::new(CertifiedKey::new(chain, key)), authority.pair().certificate.clone())
}

/// A server that runs.
pub struct Running {
    pub address: SocketAddr,
    pub token: CancellationToken,
    pub judge: Arc<Judge>,
    pub keys: Keys,
    pub loopback: Loopback,
    metrics: Metrics,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    pub fn start(limits: Limits) -> Self {
        Self::start_with(limits, Duration::ZERO)
    }

    pub fn start_with(limits: Limits, drain: Duration) -> Self {
        Self::start_on(limits, drain, &Keys::new("authority"))
    }

    pub fn start_on(limits: Limits, drain: Duration, keys: &Keys) -> Self {
        Self::start_lingering(limits, (drain, Duration::ZERO), keys)
    }

    /// With the time of the drain, and for callers who stay after it.
    pub fn start_lingering(limits: Limits, (drain, linger): (Duration, Duration), keys: &Keys) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(keys.clone()));
        let judge = Judge::new();
        let metrics = Metrics::new(Build { version: "1", revision: "a" }).unwrap();
        let bind = Bind::Host("127.0.0.1".to_owned(), 0);
        let settings = Settings { bind, limits, drain, linger, workers: Some(2) };
        let server = Server::new(settings, judge.clone(), Arc::new(tls), &metrics).unwrap();
        let (address, loopback) = (server.address(), server.loopback(NAME.to_owned()));
        let token = CancellationToken::new();
        let task = tokio::spawn(server.run(token.clone()));
        Self { address, token, judge, keys: keys.clone(), loopback, metrics, task }
    }

    /// Connects over TLS, trusting the authority of the present key alone.
    pub async fn connect(&self) -> Connection {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.keys.bundle().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let open = async {
            let stream = TcpStream::connect(self.address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector.connect(ServerName::try_from(NAME).unwrap(), stream).await.unwrap();
            http1::handshake(TokioIo::new(stream)).await.unwrap()
        };
        let (sender, connection) = timeout(PATIENCE, open).await.unwrap();
        Connection { sender, task: tokio::spawn(connection) }
    }

    /// Sends a body over a connection of its own.
    pub async fn send(&self, endpoint: Endpoint, query: &str, body: Vec<u8>) -> Reply {
        let path = format!("{}{query}", endpoint.path());
        self.connect().await.request("POST", &path, Some("application/json"), body).await.unwrap()
    }

    /// Asks over a connection of its own.
    pub async fn ask(&self, endpoint: Endpoint, review: &Value) -> Reply {
        self.connect().await.ask(endpoint, review).await.unwrap()
    }

    pub fn metrics(&self) -> String {
        self.metrics.text().unwrap()
    }

    /// How many TLS handshakes began.
    pub fn handshakes(&self) -> usize {
        self.keys.handshakes.load(Ordering::SeqCst)
    }

    /// Stops the server and waits for its end.
    pub async fn stop(self) {
        self.token.cancel();
        timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }

    /// Ends the server without waiting.
    pub fn abort(self) {
        self.task.abort();
    }
}

/// One connection.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    task: JoinHandle<Result<(), hyper::Error>>,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Connection {
    pub async fn ask(&mut self, endpoint: Endpoint, review: &Value) -> Result<Reply, hyper::Error> {
        let body = serde_json::to_vec(review).unwrap();
        self.request("POST", endpoint.path(), Some("application/json"), body).await
    }

    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        kind: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Reply, hyper::Error> {
        let mut request = http::Request::builder().method(method).uri(path).header("host", NAME);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let exchange = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: body.collect().await?.to_bytes() })
        };
        timeout(PATIENCE, exchange).await.expect("no answer")
    }

    /// Waits until the server has closed the connection.
    pub async fn closed(self) {
        // However it ends: it ends.
        let _ = timeout(PATIENCE, self.task).await.expect("it stays open").unwrap();
    }
}
