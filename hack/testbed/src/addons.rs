//! What makes nodes a cluster: kube-proxy, CoreDNS, and storage classes served by the local-path provisioner, all as host processes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::control_plane::Plan;
use crate::image::builtin::BUSYBOX_IMAGE;
use crate::kubeconfig::{self, CONTEXT};
use crate::network::{KUBERNETES_SERVICE, PODS};
use crate::process::{self, Lifetime, Recorded};
use crate::state::Ledger;

/// The default storage class: volumes on one node.
pub const STORAGE_CLASS: &str = "local-path";
/// The storage class whose volumes every node can mount for writing.
pub const SHARED_STORAGE_CLASS: &str = "local-path-rwx";
/// Names that the provisioner would serve too, of classes that whoever needs them creates: a copy of the default one is enough.
pub const SPARE_STORAGE_CLASSES: [&str; 2] = ["local-path-other", "local-path-late"];
const STORAGE_NAMESPACE: &str = "local-path-storage";
const PROVISIONER: &str = "rancher.io/local-path";

/// Starts kube-proxy unless it runs.
pub fn start_proxy(plan: &Plan, ledger: &Ledger) -> Result<()> {
    if ledger.running("kube-proxy")?.is_some() {
        return Ok(());
    }
    let file = plan.dir.join("kube-proxy.json");
    kubeconfig::write_json(&file, &proxy_config(plan))?;
    let words = plan.command("kube-proxy", vec![format!("--config={}", file.display())]);
    let process = plan.start("kube-proxy", words, Lifetime::Detached)?;
    ledger.record("kube-proxy", &process)
}

/// Starts CoreDNS unless it runs.
pub fn start_dns(plan: &Plan, ledger: &Ledger) -> Result<()> {
    if ledger.running("coredns")?.is_some() {
        return Ok(());
    }
    let file = plan.dir.join("Corefile");
    fs::write(&file, corefile(plan)).with_context(|| format!("writing {}", file.display()))?;
    let words = plan.command("coredns", vec!["-conf".into(), file.display().to_string()]);
    let process = plan.start("coredns", words, Lifetime::Detached)?;
    ledger.record("coredns", &process)
}

/// Applies the storage classes and starts their provisioner unless it runs.
pub fn start_storage(plan: &Plan, ledger: &Ledger) -> Result<()> {
    let mut command = plan.kubectl();
    command.args(["apply", "--server-side", "--force-conflicts", "--field-manager=testbed", "-f", "-"]);
    process::feed(&mut command, &storage_objects(PROVISIONER, "WaitForFirstConsumer").to_string())
        .context("applying the storage classes")?;
    if ledger.running("local-path-provisioner")?.is_some() {
        return Ok(());
    }
    for sub in ["local", "shared"] {
        let dir = plan.dir.join("volumes").join(sub);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let config = plan.dir.join("local-path.json");
    kubeconfig::write_json(&config, &provisioner_config(plan))?;
    let helper = plan.dir.join("local-path-helper.json");
    kubeconfig::write_json(&helper, &helper_pod())?;
    let args = vec![
        "start".into(),
        format!("--config={}", config.display()),
        format!("--helper-pod-file={}", helper.display()),
        format!("--kubeconfig={}", plan.kubeconfig_of("local-path-provisioner").display()),
        format!("--provisioner-name={PROVISIONER}"),
        format!("--namespace={STORAGE_NAMESPACE}"),
        format!("--helper-image={BUSYBOX_IMAGE}"),
        "--configmap-name=local-path-config".into(),
        "--service-account-name=local-path-provisioner".into(),
    ];
    let words = plan.command("local-path-provisioner", args);
    let process = plan.start("local-path-provisioner", words, Lifetime::Detached)?;
    ledger.record("local-path-provisioner", &process)
}

/// Waits until `count` nodes are Ready.
pub fn wait_for_nodes(plan: &Plan, ledger: &Ledger, count: usize) -> Result<()> {
    let mut last = String::from("no node has registered");
    let mut last_error = None;
    let done = process::wait_until(Duration::from_mins(3), || {
        let mut command = plan.kubectl();
        let path =
            r#"jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
        command.args(["get", "nodes", "-o", path, "--request-timeout=10s"]);
        match process::output(&mut command) {
            Ok(text) => {
                let ready = text.lines().filter(|line| line.ends_with("=True")).count();
                last = text.trim().replace('\n', " ");
                ready >= count
            }
            Err(error) => {
                last_error = Some(error);
                false
            }
        }
    });
    if !done && let Some(error) = last_error {
        return Err(error).context("asking for the nodes");
    }
    let state = ledger.state()?;
    let dead: Vec<String> = state
        .processes
        .iter()
        .filter(|(_, p)| !p.alive())
        .map(|(name, p)| format!("{name} (log {})", p.log.display()))
        .collect();
    let dead = if dead.is_empty() { String::new() } else { format!("; ended: {}", dead.join(", ")) };
    ensure!(
        done,
        "{count} nodes are not Ready after 180 s ({last}){dead}; the logs are in {}; `testbed down` and `testbed up` start afresh",
        plan.dir.join("logs").display()
    );
    Ok(())
}

/// Waits until a Service address works through kube-proxy and CoreDNS knows the cluster.
pub fn wait_for_services(plan: &Plan, ledger: &Ledger) -> Result<()> {
    let proxy = ledger.running("kube-proxy")?.context("kube-proxy is not running; `testbed up` starts it again")?;
    let enter = plan.network.enter();
    process::wait_ready("kube-proxy", &proxy, Duration::from_secs(90), || {
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).arg(plan.tools.kubectl()).arg("--kubeconfig").arg(plan.kubeconfig());
        command.args([
            &format!("--server=https://{KUBERNETES_SERVICE}:443"),
            "get",
            "--raw",
            "/readyz",
            "--request-timeout=2s",
        ]);
        process::output(&mut command).map(|_| ())
    })?;
    let dns = ledger.running("coredns")?.context("coredns is not running; `testbed up` starts it again")?;
    process::wait_ready("coredns", &dns, Duration::from_mins(1), || {
        get_ok(SocketAddr::new(plan.network.address(), 8182), "/ready")
    })
}

fn get_ok(address: SocketAddr, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).context("setting a deadline")?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: testbed\r\n\r\n").context("asking")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading the answer")?;
    let status = answer.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{address}{path} answers {status:?}");
    Ok(())
}

/// Waits until a process of a component that has no readiness of its own has survived its start.
pub fn check_alive(component: &str, process: &Recorded) -> Result<()> {
    ensure!(
        process.alive(),
        "{component} ended; its log is {}, which ends with:\n{}",
        process.log.display(),
        process::tail(&process.log, 15)
    );
    Ok(())
}

fn proxy_config(plan: &Plan) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": plan.kubeconfig_of("kube-proxy") },
        "mode": "iptables",
        "iptables": { "minSyncPeriod": "0s", "syncPeriod": "10s" },
        "clusterCIDR": PODS,
        "hostnameOverride": "node-0",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        // The connection table's size belongs to the host.
        "conntrack": { "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s" },
    })
}

fn corefile(plan: &Plan) -> String {
    let kubeconfig = plan.kubeconfig_of("coredns").display().to_string();
    format!(
        ".:53 {{
  errors
  health :8181
  ready :8182
  kubernetes cluster.local in-addr.arpa ip6.arpa {{
    kubeconfig {kubeconfig} {CONTEXT}
    pods insecure
    ttl 1
  }}
  cache 1
}}
"
    )
}

fn provisioner_config(plan: &Plan) -> Value {
    let volumes = plan.dir.join("volumes");
    let mut classes = serde_json::Map::new();
    let local =
        json!({ "nodePathMap": [{ "node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [volumes.join("local")] }] });
    for name in [STORAGE_CLASS].into_iter().chain(SPARE_STORAGE_CLASSES) {
        classes.insert(name.to_owned(), local.clone());
    }
    classes.insert(SHARED_STORAGE_CLASS.to_owned(), json!({ "sharedFileSystemPath": volumes.join("shared") }));
    json!({ "nodePathMap": [], "storageClassConfigs": classes })
}

fn helper_pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "helper-pod" },
        "spec": {
            "priorityClassName": "system-node-critical",
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "helper-pod", "image": BUSYBOX_IMAGE, "imagePullPolicy": "IfNotPresent" }],
        },
    })
}

/// The storage classes, and the namespace with what the provisioner's helper pods mount.
pub fn storage_objects(provisioner: &str, binding_of_default: &str) -> Value {
    let class = |name: &str, default: bool, binding: &str| {
        json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": name,
                "annotations": { "storageclass.kubernetes.io/is-default-class": default.to_string() },
            },
            "provisioner": provisioner,
            "volumeBindingMode": binding,
            "reclaimPolicy": "Delete",
            "allowVolumeExpansion": true,
        })
    };
    json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": STORAGE_NAMESPACE } },
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": { "name": "local-path-provisioner", "namespace": STORAGE_NAMESPACE },
            },
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": { "name": "local-path-config", "namespace": STORAGE_NAMESPACE },
                "data": {
                    "setup": "#!/bin/sh\nset -eu\nmkdir -m 0777 -p \"$VOL_DIR\"\n",
                    "teardown": "#!/bin/sh\nset -eu\nrm -rf \"$VOL_DIR\"\n",
                },
            },
            class(STORAGE_CLASS, true, binding_of_default),
            class(SHARED_STORAGE_CLASS, false, "Immediate"),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use crate::network::Network;
    use crate::tools::Tools;

    fn plan() -> Plan {
        let tools = Tools::locate(&Home::at(&std::env::temp_dir()).unwrap()).unwrap();
        Plan { dir: "/beds/x".into(), network: Network::in_namespace("testbed-x", 5), tools, token: "secret".into() }
    }

    #[test]
    fn one_storage_class_is_the_default() {
        let list = storage_objects(PROVISIONER, "WaitForFirstConsumer");
        let classes: Vec<&Value> =
            list["items"].as_array().unwrap().iter().filter(|item| item["kind"] == "StorageClass").collect();
        let default =
            |class: &&&Value| class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
        assert_eq!(classes.len(), 2);
        assert_eq!(classes.iter().filter(default).count(), 1);
        assert_eq!(classes.iter().find(default).unwrap()["metadata"]["name"], STORAGE_CLASS);
    }

    #[test]
    fn only_the_shared_class_has_a_shared_path() {
        let config = provisioner_config(&plan());
        assert_eq!(
            config["storageClassConfigs"][SHARED_STORAGE_CLASS]["sharedFileSystemPath"],
            "/beds/x/volumes/shared"
        );
        assert!(config["storageClassConfigs"][STORAGE_CLASS]["sharedFileSystemPath"].is_null());
        assert_eq!(config["nodePathMap"], json!([]));
    }

    #[test]
    fn dns_asks_the_api_with_its_own_identity() {
        let text = corefile(&plan());
        assert!(text.contains("kubeconfig /beds/x/kubeconfigs/coredns testbed\n"), "{text}");
    }

    #[test]
    fn the_proxy_leaves_the_hosts_connection_table_alone() {
        let config = proxy_config(&plan());
        assert_eq!(config["conntrack"]["maxPerCore"], 0);
        assert_eq!(config["mode"], "iptables");
    }
}
