//! A namespace and two webhook configurations of its own on a real API server, replicas as tasks, and a client that trusts what
//! the configurations say and nothing else.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use admission::{
    certificate::{self, Mode, READY, Serving, Settings},
    metrics::Certificates,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{Namespace, Secret},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Config, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared::{
    admin::Readiness,
    clock, lease,
    metrics::{Build, Metrics, Watches},
    pki::{Certificate, Pair, rotation::Policy},
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

const KUBECONFIG: &str = "MULTIGRES_TEST_KUBECONFIG";
/// How long anything that should happen may take; generous, because machines of tests are busy.
pub const DEADLINE: Duration = Duration::from_mins(1);
pub const SERVICE: &str = "hook";
pub const CA: &str = "ca";
pub const CERTS: &str = "certs";
pub const LEASE: &str = "rotator";
const DEPLOYMENT: &str = "webhook";

/// What a test has for itself.
pub struct Bed {
    pub namespace: String,
    pub client: Client,
    config: Config,
    pub policy: Policy,
    /// Where clients find replicas: by address, those that are ready.
    replicas: Arc<Mutex<BTreeMap<SocketAddr, Readiness>>>,
    pub failures: Arc<Mutex<Vec<String>>>,
    pub successes: Arc<AtomicUsize>,
    clients: JoinHandle<()>,
    count: AtomicUsize,
}

impl Bed {
    /// A bed; `None` without a server, said loudly.
    pub async fn open(policy: Policy) -> Option<Self> {
        let Some(path) = std::env::var_os(KUBECONFIG) else {
            let required = ["CI", "MULTIGRES_TEST_REQUIRE"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!required, "{KUBECONFIG} is not set, and skipping is not allowed here");
            eprintln!("SKIPPED: {KUBECONFIG} is not set, so certificates were NOT tried on an API server");
            return None;
        };
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config.clone()).unwrap();
        let namespace = format!("certificate-{:x}", clock_nanos());
        let bed = Self {
            clients: tokio::spawn(async {}),
            replicas: Arc::default(),
            failures: Arc::default(),
            successes: Arc::default(),
            count: AtomicUsize::new(0),
            namespace,
            client,
            config,
            policy,
        };
        bed.create::<Namespace>(&Api::all(bed.client.clone()), json!({"metadata": {"name": bed.namespace}})).await;
        let template = json!({
            "metadata": {"labels": {"app": "hook"}},
            "spec": {"containers": [{"name": "hook", "image": "hook"}]},
        });
        let deployment = json!({
            "metadata": {"name": DEPLOYMENT},
            "spec": {"selector": {"matchLabels": {"app": "hook"}}, "template": template},
        });
        bed.create::<Deployment>(&bed.api(), deployment).await;
        let client = json!({"service": {"name": SERVICE, "namespace": bed.namespace, "path": "/"}});
        let webhooks: Vec<Value> = ["one", "two"]
            .iter()
            .map(|name| {
                json!({
                    "name": format!("{name}.certificate.example.com"),
                    "clientConfig": client,
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "rules": [{
                        "apiGroups": ["certificate.example.com"], "apiVersions": ["*"], "operations": ["CREATE"],
                        "resources": ["nothing"],
                    }],
                })
            })
            .collect();
        let configuration = json!({"metadata": {"name": bed.namespace}, "webhooks": webhooks});
        bed.create::<MutatingWebhookConfiguration>(&Api::all(bed.client.clone()), configuration.clone()).await;
        bed.create::<ValidatingWebhookConfiguration>(&Api::all(bed.client.clone()), configuration).await;
        Some(bed)
    }

    /// Starts a replica and makes it an endpoint of the Service.
    pub async fn replica(&self, mode: Mode, directory: &Path) -> Replica {
        self.start(mode, directory, true).await
    }

    /// Starts a replica that is told to be the only one.
    pub async fn sole_replica(&self, mode: Mode) -> Replica {
        self.start(mode, Path::new(""), false).await
    }

    async fn start(&self, mode: Mode, directory: &Path, election: bool) -> Replica {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let identity = format!("hook-{number}");
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Serving::new();
        let readiness = Readiness::default();
        let metrics = Metrics::new(Build { version: "0", revision: "test" }).unwrap();
        let lease = lease::Settings {
            duration: Duration::from_secs(4),
            renew_deadline: Duration::from_millis(2500),
            retry: Duration::from_millis(400),
            ..lease::Settings::new(LEASE, &self.namespace, &identity)
        };
        let settings = Settings {
            mode,
            namespace: self.namespace.clone(),
            service: SERVICE.to_owned(),
            extra_names: Vec::new(),
            directory: directory.to_owned(),
            ca_secret: CA.to_owned(),
            server_secret: CERTS.to_owned(),
            mutating: self.namespace.clone(),
            validating: self.namespace.clone(),
            deployment: Some(DEPLOYMENT.to_owned()),
            identity: identity.clone(),
            lease: election.then_some(lease),
            policy: self.policy,
            patience: Duration::from_secs(5),
            clock: Arc::new(clock::System),
        };
        let acceptor = TlsAcceptor::from(serving.config().unwrap());
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // Connections belong to the runtime in which they are opened.
        let guard = runtime.enter();
        let client = Client::try_from(self.config.clone()).unwrap();
        drop(guard);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                // Clients that do not like what they get hang up; they tell themselves.
                tokio::spawn(async move { drop(acceptor.accept(stream).await) });
            }
        });
        let stop = CancellationToken::new();
        readiness.expect(READY);
        let certificates = Certificates::new(&metrics, Watches::new(&metrics).unwrap()).unwrap();
        let work = certificate::run(client, settings, serving, readiness.clone(), certificates, stop.clone());
        let slice = json!({
            "metadata": {"name": identity, "labels": {"kubernetes.io/service-name": SERVICE}},
            "addressType": "IPv4",
            "ports": [{"port": address.port()}],
            "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true}}],
        });
        self.create::<EndpointSlice>(&self.api(), slice).await;
        self.replicas.lock().unwrap().insert(address, readiness.clone());
        let work = Some(runtime.spawn(work));
        Replica { identity, address, readiness, stop, work, runtime: Some(runtime) }
    }

    /// Takes a replica away as a rolling update does: out of the Service first.
    pub async fn remove(&self, mut replica: Replica) {
        self.replicas.lock().unwrap().remove(&replica.address);
        self.api::<EndpointSlice>().delete(&replica.identity, &DeleteParams::default()).await.unwrap();
        replica.stop.cancel();
        timeout(DEADLINE, replica.work.take().unwrap()).await.unwrap().unwrap();
    }

    /// Lets a process die at once, with the Lease in its hands if it holds it.
    pub async fn kill(&self, replica: Replica) {
        self.replicas.lock().unwrap().remove(&replica.address);
        self.api::<EndpointSlice>().delete(&replica.identity, &DeleteParams::default()).await.unwrap();
        drop(replica);
    }

    /// Starts clients that never stop asking.
    pub fn connect_all_the_time(&mut self) {
        let (client, namespace) = (self.client.clone(), self.namespace.clone());
        let (replicas, failures, successes) =
            (Arc::clone(&self.replicas), Arc::clone(&self.failures), Arc::clone(&self.successes));
        self.clients = tokio::spawn(async move {
            loop {
                for bundle in bundles(&client, &namespace).await {
                    // What somebody else wrote there is not ours to answer for.
                    let Ok(config) = trusting(&bundle) else { continue };
                    let ready: Vec<SocketAddr> = replicas
                        .lock()
                        .unwrap()
                        .iter()
                        .filter(|(_, readiness)| readiness.missing().is_empty())
                        .map(|(address, _)| *address)
                        .collect();
                    for address in ready {
                        match connect(address, &namespace, &config).await {
                            Ok(()) => _ = successes.fetch_add(1, Ordering::Relaxed),
                            // One that was taken away meanwhile gets no requests any more.
                            Err(error) if replicas.lock().unwrap().contains_key(&address) => {
                                failures.lock().unwrap().push(format!("{address}: {error} with\n{bundle}"));
                            }
                            Err(_) => {}
                        }
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
    }

    /// Waits until so many clients have been served since the start, on a machine that may be busy.
    pub async fn serve(&self, at_least: usize) {
        eventually(DEADLINE, async || match self.successes.load(Ordering::Relaxed) {
            successes if successes < at_least => Err(format!("only {successes} connections")),
            _ => Ok(()),
        })
        .await;
    }

    /// Asserts that no client was ever disappointed, although many tried.
    pub fn assert_served(&self, at_least: usize) {
        let failures = self.failures.lock().unwrap();
        let successes = self.successes.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} failures, {successes} successes; the first: {}", failures.len(), failures[0]);
        assert!(successes >= at_least, "only {successes} connections");
        assert!(!self.clients.is_finished(), "the clients ended");
    }

    /// The bundles of all webhooks.
    pub async fn bundles(&self) -> Vec<String> {
        bundles(&self.client, &self.namespace).await
    }

    /// The certificates that all bundles carry; an error when they differ.
    pub async fn bundle(&self) -> Result<Vec<Certificate>, String> {
        let bundles = self.bundles().await;
        assert_eq!(bundles.len(), 4);
        if bundles.iter().any(|bundle| *bundle != bundles[0]) {
            return Err("bundles differ".to_owned());
        }
        Certificate::all(&bundles[0]).map_err(|error| error.to_string())
    }

    /// Writes a bundle as somebody else would.
    pub async fn tamper(&self, mutating: bool, bundle: &str) {
        let bundle = STANDARD.encode(bundle);
        let patch = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]);
        let patch = Patch::Json::<()>(serde_json::from_value(patch).unwrap());
        let params = PatchParams::default();
        if mutating {
            let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
            api.patch(&self.namespace, &params, &patch).await.unwrap();
        } else {
            let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
            api.patch(&self.namespace, &params, &patch).await.unwrap();
        }
    }

    pub async fn secret(&self, name: &str) -> Option<Secret> {
        self.api().get_opt(name).await.unwrap()
    }

    /// A pair as a Secret has it.
    pub async fn pair(&self, name: &str) -> Option<Pair> {
        let secret = self.secret(name).await?;
        let (certificate, key) = if name == CA { ("ca.crt", "ca.key") } else { ("tls.crt", "tls.key") };
        let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
        Some(Pair { certificate: text(certificate)?, key: text(key)? })
    }

    pub async fn holder(&self) -> Option<String> {
        let lease = self.api::<Lease>().get_opt(LEASE).await.unwrap()?;
        lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
    }

    /// Removes what other users of the server could stumble over.
    pub async fn close(self) {
        self.clients.abort();
        let params = DeleteParams::default();
        Api::<MutatingWebhookConfiguration>::all(self.client.clone()).delete(&self.namespace, &params).await.unwrap();
        Api::<ValidatingWebhookConfiguration>::all(self.client.clone()).delete(&self.namespace, &params).await.unwrap();
        Api::<Namespace>::all(self.client.clone()).delete(&self.namespace, &params).await.unwrap();
    }

    pub fn api<K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn create<K>(&self, api: &Api<K>, object: Value)
    where
        K: Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
    {
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
}

/// A process of the webhook.
pub struct Replica {
    pub identity: String,
    address: SocketAddr,
    readiness: Readiness,
    stop: CancellationToken,
    work: Option<JoinHandle<()>>,
    /// Its own, so that a death takes everything along.
    runtime: Option<Runtime>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Replica {
    pub async fn ready(&self) {
        eventually(DEADLINE, async || {
            if self.readiness.missing().is_empty() { Ok(()) } else { Err(format!("{} is not ready", self.identity)) }
        })
        .await;
    }
}

/// A directory like one that a kubelet mounts.
pub struct Mount {
    directory: tempfile::TempDir,
    count: AtomicUsize,
}

impl Mount {
    pub fn new(pair: &Pair, trust: &str) -> Self {
        let mount = Self { directory: tempfile::tempdir().unwrap(), count: AtomicUsize::new(0) };
        mount.update(pair, trust);
        mount
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Swaps the content at once, as kubelets do.
    pub fn update(&self, pair: &Pair, trust: &str) {
        let (root, number) = (self.directory.path(), self.count.fetch_add(1, Ordering::Relaxed));
        let version = root.join(format!("..{number}"));
        std::fs::create_dir(&version).unwrap();
        for (file, content) in [("tls.crt", pair.certificate.as_str()), ("tls.key", &pair.key), ("ca.crt", trust)] {
            if !content.is_empty() {
                std::fs::write(version.join(file), content).unwrap();
            }
        }
        std::os::unix::fs::symlink(format!("..{number}"), root.join("..next")).unwrap();
        std::fs::rename(root.join("..next"), root.join("..data")).unwrap();
    }
}

async fn bundles(client: &Client, name: &str) -> Vec<String> {
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone()).get(name).await.unwrap();
    let validating = Api::<ValidatingWebhookConfiguration>::all(client.clone()).get(name).await.unwrap();
    let mutating = mutating.webhooks.into_iter().flatten().map(|webhook| webhook.client_config);
    let validating = validating.webhooks.into_iter().flatten().map(|webhook| webhook.client_config);
    let bundle = |config: k8s_openapi::api::admissionregistration::v1::WebhookClientConfig| {
        config.ca_bundle.map(|bundle| String::from_utf8(bundle.0).unwrap()).unwrap_or_default()
    };
    mutating.chain(validating).map(bundle).collect()
}

/// A client that trusts a bundle alone; refused when nothing of ours is in it.
fn trusting(bundle: &str) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() || bundle.contains(FOREIGN) {
        return Err("tampered with".to_owned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Stands in front of bundles that tests put there to do harm.
pub const FOREIGN: &str = "# foreign\n";

async fn connect(address: SocketAddr, namespace: &str, config: &Arc<ClientConfig>) -> Result<(), String> {
    let name = ServerName::try_from(format!("{SERVICE}.{namespace}.svc")).unwrap();
    let attempt = async {
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        let mut rest = vec![];
        // The server hangs up after the handshake.
        drop(stream.read_to_end(&mut rest).await);
        Ok::<_, std::io::Error>(())
    };
    timeout(Duration::from_secs(20), attempt).await.map_err(|_| "no answer".to_owned())?.map_err(|e| e.to_string())
}

/// Endpoints must not be on the loopback interface.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: this only asks for the address that packets would come from.
    socket.connect("192.0.2.1:9").unwrap();
    let address = socket.local_addr().unwrap().ip();
    assert!(!address.is_loopback() && !address.is_unspecified(), "{address} cannot be the address of an endpoint");
    address
}

fn clock_nanos() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
}

/// Waits for an outcome, asking again and again until the deadline.
pub async fn eventually<T>(deadline: Duration, attempt: impl AsyncFn() -> Result<T, String>) -> T {
    let end = Instant::now() + deadline;
    loop {
        match attempt().await {
            Ok(outcome) => return outcome,
            Err(_) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
            Err(last) => panic!("not within {} s: {last}", deadline.as_secs()),
        }
    }
}
