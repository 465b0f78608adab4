//! Simulated nodes: node objects whose pods become Ready without running, for scale.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::addons;
use crate::control_plane::Plan;
use crate::network::SIMULATED_PODS;
use crate::options::zone_labels;
use crate::process::{self, Lifetime};
use crate::state::Ledger;
use crate::volumes;

const STAGES: &str = include_str!("kwok-stages.yaml");
/// Names the `testbed` command for a library user whose own program is another one.
pub const COMMAND_VARIABLE: &str = "MULTIGRES_TESTBED_COMMAND";

/// Starts the simulation unless it runs, and applies `count` nodes and the storage classes.
pub fn start(plan: &Plan, ledger: &Ledger, count: usize) -> Result<()> {
    if ledger.running("kwok")?.is_none() {
        let stages = plan.dir.join("kwok-stages.yaml");
        fs::write(&stages, STAGES).with_context(|| format!("writing {}", stages.display()))?;
        let port = plan.network.ports.kwok;
        let args = vec![
            format!("--kubeconfig={}", plan.kubeconfig_of("kwok").display()),
            format!("--config={}", stages.display()),
            "--manage-all-nodes=true".into(),
            format!("--cidr={SIMULATED_PODS}"),
            "--node-ip=127.0.0.1".into(),
            format!("--node-port={port}"),
            format!("--server-address=127.0.0.1:{port}"),
            "--node-lease-duration-seconds=200".into(),
        ];
        let process = plan.start("kwok", plan.command("kwok", args), Lifetime::Detached)?;
        ledger.record("kwok", &process)?;
    }
    if ledger.running("volumes")?.is_none() {
        let kubeconfig = plan.kubeconfig_of("volumes").display().to_string();
        let words =
            [testbed_command()?.display().to_string(), "serve-volumes".into(), "--kubeconfig".into(), kubeconfig];
        let process = plan.start("volumes", words.to_vec(), Lifetime::Detached)?;
        ledger.record("volumes", &process)?;
    }
    let mut list = addons::storage_objects(volumes::PROVISIONER, "Immediate");
    if let Some(items) = list["items"].as_array_mut() {
        items.extend((0..count).map(node));
    }
    let mut command = plan.kubectl();
    command.args(["apply", "--server-side", "--force-conflicts", "--field-manager=testbed", "-f", "-"]);
    process::feed(&mut command, &list.to_string()).context("applying the simulated nodes").map(|_| ())
}

fn node(index: usize) -> Value {
    let mut labels: serde_json::Map<String, Value> =
        zone_labels(index).into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    let name = format!("node-{index}");
    for (key, value) in
        [("kubernetes.io/hostname", name.as_str()), ("kubernetes.io/os", "linux"), ("kubernetes.io/arch", "amd64")]
    {
        labels.insert(key.to_owned(), value.into());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": labels, "annotations": { "kwok.x-k8s.io/node": "fake" } },
    })
}

fn testbed_command() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(COMMAND_VARIABLE) {
        return Ok(path.into());
    }
    let here = std::env::current_exe().context("asking for this program's path")?;
    // A test program lies in `deps`, beside or below the directory of the command.
    let found = here.ancestors().take(3).map(|path| path.with_file_name("testbed")).find(|path| is_program(path));
    match found {
        Some(path) => Ok(path),
        None => bail!(
            "the `testbed` command is not near {}; build it with `cargo build -p testbed`, or name it in {COMMAND_VARIABLE}",
            here.display()
        ),
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_nodes_carry_zones_like_real_ones() {
        let node = node(4);
        assert_eq!(node["metadata"]["name"], "node-4");
        assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/zone"], "zone-b");
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "node-4");
    }

    #[test]
    fn the_stages_cover_nodes_and_the_whole_life_of_a_pod() {
        for name in ["node-initialize", "pod-ready", "pod-complete", "pod-delete"] {
            assert!(STAGES.contains(&format!("  name: {name}\n")), "{name}");
        }
    }
}
