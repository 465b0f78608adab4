//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler: how they are started, and the light control plane for tests.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::home::Home;
use crate::kubeconfig::{self, Identity};
use crate::network::{KUBERNETES_SERVICE, Network, SERVICES};
use crate::pki::{MASTERS, Pki};
use crate::process::{self, Launch, Lifetime, Recorded};
use crate::tools::{self, Kubernetes, Tools};

/// The directory, network and tools of a control plane: everything its commands depend on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where files go.
    pub dir: PathBuf,
    /// Where it listens.
    pub network: Network,
    /// The programs.
    pub tools: Tools,
    /// The administrator's token.
    pub token: String,
}

impl Plan {
    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The kubeconfig of a component.
    pub fn kubeconfig_of(&self, component: &str) -> PathBuf {
        self.dir.join("kubeconfigs").join(component)
    }

    /// The API server's audit log: one JSON event per line, level Metadata.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// The certificates.
    pub fn pki(&self) -> Pki {
        Pki::at(&self.dir.join("pki"))
    }

    fn pki_file(&self, name: &str) -> String {
        self.pki().file(name).display().to_string()
    }

    /// A command of kubectl as the administrator.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(self.tools.kubectl());
        command.arg("--kubeconfig").arg(self.kubeconfig());
        // kubectl's discovery cache would otherwise land in the user's home and mix beds that reuse an address.
        command.env("KUBECACHEDIR", self.dir.join("kubectl-cache"));
        command
    }

    /// Writes certificates, kubeconfigs and the audit policy.
    pub fn write_files(&self, nodes: usize) -> Result<()> {
        fs::create_dir_all(self.dir.join("logs")).with_context(|| format!("creating {}", self.dir.display()))?;
        fs::create_dir_all(self.dir.join("kubeconfigs")).context("creating the directory of kubeconfigs")?;
        let mut clients = vec![
            ("kubelet-client".to_owned(), "kube-apiserver".to_owned(), MASTERS.to_owned()),
            component_client("kube-controller-manager", "system:kube-controller-manager", "testbed"),
            component_client("kube-scheduler", "system:kube-scheduler", "testbed"),
            component_client("kube-proxy", "system:kube-proxy", "testbed"),
            component_client("coredns", "testbed:coredns", MASTERS),
            component_client("local-path-provisioner", "testbed:local-path-provisioner", MASTERS),
            component_client("cert-manager", "testbed:cert-manager", MASTERS),
            component_client("kwok", "testbed:kwok", MASTERS),
            component_client("volumes", "testbed:volumes", MASTERS),
        ];
        clients.extend(
            (0..nodes)
                .map(|i| component_client(&format!("node-{i}"), &format!("system:node:node-{i}"), "system:nodes")),
        );
        let addresses = [self.network.address(), KUBERNETES_SERVICE.into(), IpAddr::from(Ipv4Addr::LOCALHOST)];
        self.pki().ensure(&addresses, &clients)?;
        let authority = self.pki().file("ca.crt");
        for (file, _, _) in clients.iter().skip(1) {
            let (certificate, key) = (self.pki().file(&format!("{file}.crt")), self.pki().file(&format!("{file}.key")));
            let value = kubeconfig::render(&self.network.server(), &authority, Identity::Files(&certificate, &key));
            kubeconfig::write_json(&self.kubeconfig_of(file), &value)?;
        }
        let admin = kubeconfig::render(&self.network.server(), &authority, Identity::Token(&self.token));
        kubeconfig::write_json(&self.kubeconfig(), &admin)?;
        let tokens = self.dir.join("tokens.csv");
        fs::write(&tokens, format!("{},admin,admin,\"{MASTERS}\"\n", self.token)).context("writing the token file")?;
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "omitManagedFields": true,
            "rules": [{ "level": "Metadata" }],
        });
        kubeconfig::write_json(&self.dir.join("audit-policy.json"), &policy)
    }

    /// The command of etcd.
    pub fn etcd(&self) -> Vec<String> {
        let ports = self.network.ports;
        let client = format!("http://127.0.0.1:{}", ports.etcd);
        let peer = format!("http://127.0.0.1:{}", ports.etcd_peer);
        self.command(
            "etcd",
            vec![
                "--name=testbed".into(),
                format!("--data-dir={}", self.dir.join("etcd").display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=testbed={peer}"),
                // A bed is thrown away after a crash of the machine, so it need not survive one.
                "--unsafe-no-fsync".into(),
                "--quota-backend-bytes=8589934592".into(),
                "--log-level=warn".into(),
            ],
        )
    }

    /// The command of kube-apiserver.
    pub fn apiserver(&self) -> Vec<String> {
        let address = self.network.address();
        let mut args = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.network.ports.etcd),
            format!("--advertise-address={address}"),
            format!("--secure-port={}", self.network.ports.api),
            format!("--tls-cert-file={}", self.pki_file("apiserver.crt")),
            format!("--tls-private-key-file={}", self.pki_file("apiserver.key")),
            format!("--client-ca-file={}", self.pki_file("ca.crt")),
            format!("--kubelet-client-certificate={}", self.pki_file("kubelet-client.crt")),
            format!("--kubelet-client-key={}", self.pki_file("kubelet-client.key")),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!("--service-account-key-file={}", self.pki_file("sa.pub")),
            format!("--service-account-signing-key-file={}", self.pki_file("sa.key")),
            format!("--token-auth-file={}", self.dir.join("tokens.csv").display()),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--allow-privileged=true".into(),
            "--profiling=false".into(),
            format!("--audit-policy-file={}", self.dir.join("audit-policy.json").display()),
            format!("--audit-log-path={}", self.audit_log().display()),
            // One file: whoever counts requests need not follow a rotation.
            "--audit-log-maxsize=100000".into(),
        ];
        if self.network.namespace.is_some() {
            args.push("--bind-address=0.0.0.0".into());
        } else {
            args.push("--bind-address=127.0.0.1".into());
            // A loopback address is not allowed as an endpoint of the Service `kubernetes`.
            args.push("--endpoint-reconciler-type=none".into());
        }
        self.command(self.tools.apiserver(), args)
    }

    /// The command of kube-controller-manager.
    pub fn controller_manager(&self) -> Vec<String> {
        let kubeconfig = self.kubeconfig_of("kube-controller-manager");
        self.command(
            "kube-controller-manager",
            vec![
                format!("--kubeconfig={}", kubeconfig.display()),
                "--bind-address=127.0.0.1".into(),
                format!("--secure-port={}", self.network.ports.controller_manager),
                format!("--service-account-private-key-file={}", self.pki_file("sa.key")),
                format!("--root-ca-file={}", self.pki_file("ca.crt")),
                format!("--cluster-signing-cert-file={}", self.pki_file("ca.crt")),
                format!("--cluster-signing-key-file={}", self.pki_file("ca.key")),
                format!("--flex-volume-plugin-dir={}", self.dir.join("volume-plugins").display()),
                "--use-service-account-credentials=true".into(),
                "--leader-elect=false".into(),
                "--profiling=false".into(),
                // Simulated scale would otherwise be bounded by the client's own limit and not by the API server.
                "--kube-api-qps=200".into(),
                "--kube-api-burst=400".into(),
            ],
        )
    }

    /// The command of kube-scheduler.
    pub fn scheduler(&self) -> Vec<String> {
        self.command(
            "kube-scheduler",
            vec![
                format!("--kubeconfig={}", self.kubeconfig_of("kube-scheduler").display()),
                "--bind-address=127.0.0.1".into(),
                format!("--secure-port={}", self.network.ports.scheduler),
                "--leader-elect=false".into(),
                "--profiling=false".into(),
                "--kube-api-qps=200".into(),
                "--kube-api-burst=400".into(),
            ],
        )
    }

    /// A program of the tools in the control plane's network.
    pub fn command(&self, program: &str, args: Vec<String>) -> Vec<String> {
        let mut words = self.network.enter();
        words.push(self.tools.path(program).display().to_string());
        words.extend(args);
        words
    }

    /// Starts a component.
    pub fn start(&self, component: &str, words: Vec<String>, lifetime: Lifetime) -> Result<Recorded> {
        let path = std::env::var("PATH").unwrap_or_default();
        // containerd finds its shim, and kubelet iptables, on PATH; Debian's system programs are in sbin.
        let path = format!("{}:{path}:/usr/local/sbin:/usr/sbin:/sbin", self.tools.bin().display());
        process::spawn(Launch {
            words,
            env: vec![("PATH".into(), path)],
            dir: self.dir.clone(),
            log: self.dir.join("logs").join(format!("{component}.log")),
            lifetime,
        })
        .with_context(|| format!("starting {component}"))
    }

    /// Waits until the API server answers on /readyz.
    pub fn wait_for_api(&self, apiserver: &Recorded) -> Result<()> {
        process::wait_ready("kube-apiserver", apiserver, Duration::from_mins(2), || {
            let mut command = self.kubectl();
            command.args(["get", "--raw", "/readyz", "--request-timeout=5s"]);
            process::output(&mut command).map(|_| ())
        })
    }
}

fn component_client(file: &str, name: &str, group: &str) -> (String, String, String) {
    (file.to_owned(), name.to_owned(), group.to_owned())
}

/// A random token from the kernel.
pub fn random_token() -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0_u8; 16];
    fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("reading /dev/urandom")?;
    Ok(hex::encode(bytes))
}

/// A client for a kubeconfig file.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    // Only the first installation counts; a provider that the test installed itself is as good.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config =
        kube::config::Kubeconfig::read_from(kubeconfig).with_context(|| format!("reading {}", kubeconfig.display()))?;
    let config = kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default())
        .await
        .context("understanding the kubeconfig")?;
    kube::Client::try_from(config).context("making a client")
}

/// etcd and kube-apiserver on loopback, without root; both are killed when this is dropped or its process ends.
#[derive(Debug)]
pub struct ControlPlane {
    plan: Plan,
    processes: Vec<Recorded>,
    dir: Option<tempfile::TempDir>,
}

impl ControlPlane {
    /// Builds what is missing, starts both on free ports and waits until the API is ready (about five seconds).
    pub fn start() -> Result<Self> {
        Self::start_with(Kubernetes::Newest)
    }

    /// The same with a chosen API server.
    pub fn start_with(kubernetes: Kubernetes) -> Result<Self> {
        let home = Home::from_env()?;
        let tools = Tools::locate(&home)?.with(kubernetes);
        tools.ensure(&[&tools::CONTROL_PLANE[..], &[tools.apiserver()]].concat())?;
        let mut attempt = 1;
        loop {
            match Self::try_start(&tools) {
                // A free port may be taken by another test between its choice and its use.
                Err(error) if attempt < 5 && format!("{error:#}").contains("address already in use") => attempt += 1,
                answer => return answer,
            }
        }
    }

    fn try_start(tools: &Tools) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("testbed-control-plane-")
            .tempdir()
            .context("creating a temporary directory")?;
        let plan = Plan {
            dir: dir.path().to_owned(),
            network: Network::loopback()?,
            tools: tools.clone(),
            token: random_token()?,
        };
        plan.write_files(0)?;
        let mut this = Self { plan, processes: Vec::new(), dir: Some(dir) };
        let etcd = this.plan.start("etcd", this.plan.etcd(), Lifetime::WithParent)?;
        this.processes.push(etcd.clone());
        let apiserver = this.plan.start("kube-apiserver", this.plan.apiserver(), Lifetime::WithParent)?;
        this.processes.push(apiserver.clone());
        process::wait_ready("etcd", &etcd, Duration::from_secs(30), || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, this.plan.network.ports.etcd)).map(|_| ()).context("connecting")
        })?;
        this.plan.wait_for_api(&apiserver)?;
        Ok(this)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.plan.kubeconfig()
    }

    /// A client with the administrator's rights; call it from within a Tokio runtime.
    pub async fn client(&self) -> Result<kube::Client> {
        client(&self.kubeconfig()).await
    }

    /// The URL of the API server.
    pub fn server(&self) -> String {
        self.plan.network.server()
    }

    /// The API server's audit log: one JSON event per line, level Metadata.
    pub fn audit_log(&self) -> PathBuf {
        self.plan.audit_log()
    }

    /// The built programs.
    pub fn tools(&self) -> &Tools {
        &self.plan.tools
    }

    /// A command of kubectl as the administrator.
    pub fn kubectl(&self) -> Command {
        self.plan.kubectl()
    }

    /// The address for clients of the control plane's etcd.
    pub fn etcd(&self) -> String {
        format!("http://127.0.0.1:{}", self.plan.network.ports.etcd)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Nothing of it is kept, so nothing needs a clean end.
        if let Err(error) = process::stop_all(&self.processes, Duration::ZERO) {
            eprintln!("testbed: {error:#}");
        }
        if let Some(dir) = self.dir.take()
            && let Err(error) = dir.close()
        {
            eprintln!("testbed: removing the control plane's directory: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(network: Network) -> (tempfile::TempDir, Plan) {
        let dir = tempfile::tempdir().unwrap();
        let tools = Tools::locate(&Home::at(dir.path()).unwrap()).unwrap();
        let plan = Plan { dir: dir.path().join("bed"), network, tools, token: "secret".into() };
        (dir, plan)
    }

    #[test]
    fn in_a_namespace_every_component_enters_it() {
        let (_dir, plan) = plan(Network::in_namespace("testbed-x", 4));
        for words in [plan.etcd(), plan.apiserver(), plan.controller_manager(), plan.scheduler()] {
            assert_eq!(words[..2], ["nsenter", "--net=/run/netns/testbed-x"]);
        }
        let words = plan.apiserver();
        assert!(words.contains(&"--advertise-address=10.200.4.2".to_owned()));
        assert!(words.contains(&"--authorization-mode=Node,RBAC".to_owned()));
        assert!(words.contains(&"--bind-address=0.0.0.0".to_owned()));
    }

    #[test]
    fn on_loopback_nothing_listens_elsewhere() {
        let network = Network::loopback().unwrap();
        let (_dir, plan) = plan(network);
        let words = plan.apiserver();
        assert!(words[0].ends_with("/kube-apiserver"));
        assert!(words.contains(&"--bind-address=127.0.0.1".to_owned()));
        assert!(words.contains(&"--endpoint-reconciler-type=none".to_owned()));
    }

    #[test]
    fn another_kubernetes_has_an_api_server_of_its_own() {
        let (_dir, mut plan) = plan(Network::loopback().unwrap());
        plan.tools = plan.tools.with(Kubernetes::Oldest);
        assert!(plan.apiserver()[0].ends_with("/kube-apiserver-oldest"));
        assert!(plan.etcd()[0].ends_with("/etcd"));
    }

    #[test]
    fn the_audit_policy_records_metadata_of_every_request_once() {
        let (_dir, plan) = plan(Network::in_namespace("testbed-x", 0));
        plan.write_files(2).unwrap();
        let text = fs::read_to_string(plan.dir.join("audit-policy.json")).unwrap();
        let policy: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(policy["rules"], json!([{ "level": "Metadata" }]));
        assert_eq!(policy["omitStages"], json!(["RequestReceived"]));
        assert!(plan.kubeconfig_of("node-1").exists());
        assert!(fs::read_to_string(plan.dir.join("tokens.csv")).unwrap().starts_with("secret,admin,"));
    }
}
