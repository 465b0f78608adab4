//! A real node: one containerd and one kubelet with directories, socket, address and cgroup of their own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::control_plane::Plan;
use crate::host;
use crate::image::archive;
use crate::kubeconfig;
use crate::network::PODS;
use crate::options::zone_labels;
use crate::process::{self, Lifetime};
use crate::state::Ledger;

/// The image of the container that holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "localhost/pause:1";

/// A node of a bed.
#[derive(Clone, Debug)]
pub struct Node {
    plan: Plan,
    bed: String,
    index: usize,
}

impl Node {
    /// The node with this index.
    pub fn new(plan: &Plan, bed: &str, index: usize) -> Self {
        Self { plan: plan.clone(), bed: bed.to_owned(), index }
    }

    /// The node's name in Kubernetes.
    pub fn name(&self) -> String {
        format!("node-{}", self.index)
    }

    /// The node's directory.
    pub fn dir(&self) -> PathBuf {
        self.plan.dir.join(self.name())
    }

    /// The node's top-level cgroup.
    pub fn cgroup(&self) -> String {
        cgroup(&self.bed, self.index)
    }

    /// containerd's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("containerd.sock")
    }

    /// containerd's volatile state.
    pub fn containerd_state(&self) -> PathBuf {
        self.dir().join("containerd-state")
    }

    fn containerd_component(&self) -> String {
        format!("containerd-{}", self.index)
    }

    fn kubelet_component(&self) -> String {
        format!("kubelet-{}", self.index)
    }

    /// Starts containerd, imports `archives`, and starts kubelet; what runs or is imported stays.
    pub fn start(&self, ledger: &Ledger, archives: &[PathBuf]) -> Result<()> {
        let dir = self.dir();
        for sub in ["cni", "ipam", "kubelet", "imported", "pod-logs"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| format!("creating {}", dir.join(sub).display()))?;
        }
        if ledger.running(&self.containerd_component())?.is_none() {
            fs::write(dir.join("containerd.toml"), self.containerd_config())
                .context("writing containerd's configuration")?;
            kubeconfig::write_json(&dir.join("cni/10-testbed.conflist"), &self.cni_config())?;
            let config = format!("--config={}", dir.join("containerd.toml").display());
            let words = self.plan.command("containerd", vec![config]);
            let process = self.plan.start(&self.containerd_component(), words, Lifetime::Detached)?;
            ledger.record(&self.containerd_component(), &process)?;
            process::wait_ready(&self.containerd_component(), &process, Duration::from_mins(1), || {
                UnixStream::connect(self.socket()).map(|_| ()).context("connecting to its socket")
            })?;
        }
        self.import(archives)?;
        if ledger.running(&self.kubelet_component())?.is_none() {
            host::create_cgroup(&self.cgroup())?;
            kubeconfig::write_json(&dir.join("kubelet.json"), &self.kubelet_config())?;
            let process = self.plan.start(&self.kubelet_component(), self.kubelet_command(), Lifetime::Detached)?;
            ledger.record(&self.kubelet_component(), &process)?;
        }
        Ok(())
    }

    /// Imports image archives that this node does not have yet.
    pub fn import(&self, archives: &[PathBuf]) -> Result<()> {
        for archive in archives {
            let identity = archive::identity(archive)?;
            let marker = self.dir().join("imported").join(&identity);
            if marker.exists() {
                continue;
            }
            let mut command = Command::new(self.plan.tools.path("ctr"));
            command
                .arg("--address")
                .arg(self.socket())
                .args(["--namespace", "k8s.io", "images", "import"])
                .arg(archive);
            process::output(&mut command).with_context(|| {
                format!("importing {} into {}; containerd's log is beside the bed's", archive.display(), self.name())
            })?;
            fs::write(&marker, archive.display().to_string())
                .with_context(|| format!("writing {}", marker.display()))?;
        }
        Ok(())
    }

    /// Gives an image that this node has another name.
    pub fn tag(&self, image: &str, name: &str) -> Result<()> {
        let mut command = Command::new(self.plan.tools.path("ctr"));
        command.arg("--address").arg(self.socket());
        command.args(["--namespace", "k8s.io", "images", "tag", "--force", image, name]);
        process::output(&mut command).with_context(|| format!("naming {image} {name} on {}", self.name()))?;
        Ok(())
    }

    fn containerd_config(&self) -> String {
        let dir = self.dir().display().to_string();
        format!(
            r#"version = 3
root = "{dir}/containerd-root"
state = "{dir}/containerd-state"

[grpc]
  address = "{dir}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"

# Its socket has one fixed place on the host, which several nodes would fight for.
[plugins."io.containerd.nri.v1.nri"]
  disable = true

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"

  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE runc cannot lower a score.
  restrict_oom_score_adj = true
  # So that unmounting the bed's directory frees them.
  netns_mounts_under_state_dir = true

  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{dir}/cni"

  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      Root = "{dir}/runc"
"#
        )
    }

    fn cni_config(&self) -> Value {
        let third = self.index + 1;
        // Pods are routed, not bridged: a reply from a pod of the same node then passes through netfilter on every kernel, and Services work
        // without the br_netfilter module.
        json!({
            "cniVersion": "1.0.0",
            "name": cni_network(&self.bed),
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": false,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": self.dir().join("ipam"),
                        "ranges": [[{
                            "subnet": PODS,
                            "rangeStart": format!("10.244.{third}.2"),
                            "rangeEnd": format!("10.244.{third}.254"),
                            "gateway": "10.244.0.1",
                        }]],
                        "routes": [{ "dst": "0.0.0.0/0" }],
                    },
                },
                { "type": "portmap", "capabilities": { "portMappings": true } },
            ],
        })
    }

    fn kubelet_config(&self) -> Value {
        let dir = self.dir();
        let address = self.plan.network.node_address(self.index);
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "port": 10250,
            "healthzBindAddress": address,
            "healthzPort": 10248,
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": self.plan.pki().file("ca.crt") },
            },
            "authorization": { "mode": "Webhook" },
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "podLogsDir": dir.join("pod-logs"),
            "volumePluginDir": dir.join("volume-plugins"),
            "resolvConf": "",
            "clusterDNS": [self.plan.network.address()],
            "clusterDomain": "cluster.local",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.cgroup()),
            "cgroupsPerQOS": true,
            "enforceNodeAllocatable": [],
            "failCgroupV1": false,
            "failSwapOn": false,
            "oomScoreAdj": 0,
            "localStorageCapacityIsolation": false,
            // A developer's disk may be nearly full; that is not what a bed tests.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
            "maxPods": 250,
            "serializeImagePulls": false,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
        })
    }

    fn kubelet_command(&self) -> Vec<String> {
        let dir = self.dir();
        let labels: Vec<String> = zone_labels(self.index).iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.plan.command(
            "kubelet",
            vec![
                format!("--config={}", dir.join("kubelet.json").display()),
                format!("--kubeconfig={}", self.plan.kubeconfig_of(&self.name()).display()),
                format!("--root-dir={}", dir.join("kubelet").display()),
                format!("--cert-dir={}", dir.join("kubelet/pki").display()),
                format!("--hostname-override={}", self.name()),
                format!("--node-ip={}", self.plan.network.node_address(self.index)),
                format!("--node-labels={}", labels.join(",")),
            ],
        )
    }
}

/// The top-level cgroup of a bed's node: its pods are below it.
pub fn cgroup(bed: &str, index: usize) -> String {
    format!("testbed-{bed}-{index}")
}

/// The name of a bed's pod network; the CNI library names its cached results after it.
pub fn cni_network(bed: &str) -> String {
    format!("testbed-{bed}")
}

/// Removes what nodes leave on the host outside of the bed's directory, for every node that the directory or the cgroups know.
pub fn remove_traces(bed: &str, dir: &Path) -> Result<()> {
    for index in 0..crate::options::MOST_KUBELETS {
        host::remove_shim_sockets(&dir.join(format!("node-{index}")).join("containerd-state"));
        host::remove_cgroup(&cgroup(bed, index))?;
    }
    host::remove_log_links(dir);
    host::remove_cni_results(&cni_network(bed));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use crate::network::Network;
    use crate::tools::Tools;

    fn node(index: usize) -> Node {
        let tools = Tools::locate(&Home::at(&std::env::temp_dir()).unwrap()).unwrap();
        let plan = Plan {
            dir: "/beds/x".into(),
            network: Network::in_namespace("testbed-x", 5),
            tools,
            token: "secret".into(),
        };
        Node::new(&plan, "x", index)
    }

    #[test]
    fn containerd_keeps_everything_below_the_nodes_directory() {
        let text = node(1).containerd_config();
        for path in ["root = ", "state = ", "address = ", "path = ", "conf_dir = ", "Root = "] {
            let line = text.lines().find(|line| line.trim_start().starts_with(path)).unwrap();
            assert!(line.contains("\"/beds/x/node-1/"), "{line}");
        }
        assert!(text.contains("restrict_oom_score_adj = true"));
        assert!(text.contains("sandbox = \"localhost/pause:1\""));
    }

    #[test]
    fn nodes_take_pod_addresses_from_disjoint_ranges() {
        let ranges = [0, 1].map(|index| node(index).cni_config()["plugins"][0]["ipam"]["ranges"][0][0].clone());
        assert_eq!(ranges[0]["rangeStart"], "10.244.1.2");
        assert_eq!(ranges[1]["rangeStart"], "10.244.2.2");
    }

    #[test]
    fn kubelet_has_its_own_cgroup_address_and_zone() {
        let config = node(2).kubelet_config();
        assert_eq!(config["cgroupRoot"], "/testbed-x-2");
        assert_eq!(config["address"], "10.200.5.12");
        assert_eq!(config["clusterDNS"][0], "10.200.5.2");
        assert_eq!(config["failCgroupV1"], false);
        let words = node(2).kubelet_command().join(" ");
        assert!(
            words.contains("topology.kubernetes.io/zone=zone-c") && words.contains("topology.k8s.aws/zone-id=use1-az3"),
            "{words}"
        );
    }
}
