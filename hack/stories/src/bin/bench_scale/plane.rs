//! The data plane of all clusters on simulated nodes: one etcd with all their topologies, and one process that plays their pods.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use stories::until;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::process::{Running, bound, free_port};

/// How long etcd may take until it answers.
const READY: Duration = Duration::from_secs(30);

/// A running data plane.
pub struct Plane {
    /// Where etcd listens on loopback.
    pub port: u16,
    etcd: Running,
    simulator: Running,
    _dir: TempDir,
}

impl Plane {
    /// Starts both; etcd is found on the search path, where the testbed puts it.
    pub async fn start(standin: &Path, kubeconfig: &Path, logs: &Path) -> Result<Self> {
        let dir = tempfile::tempdir().context("making a folder for etcd")?;
        let (port, peers) = (free_port()?, free_port()?);
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
        let mut command = bound("etcd");
        command
            .arg("--data-dir")
            .arg(dir.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg(format!("--initial-cluster=default={peer}"))
            // What is measured is the operator, not the disk under a topology.
            .args(["--unsafe-no-fsync", "--log-level=warn"]);
        let mut etcd = Running::start("topology", &mut command, logs)?;
        let address = format!("127.0.0.1:{port}");
        let answers = until("an etcd", READY, || async { Ok(TcpStream::connect(&address).await.map(drop)?) }).await;
        etcd.check()?;
        answers?;
        let mut command = bound(standin);
        command
            .args(["simulate", "--kubeconfig"])
            .arg(kubeconfig)
            .args(["--etcd", &address])
            .arg(format!("--port={}", free_port()?));
        let simulator = Running::start("simulator", &mut command, logs)?;
        Ok(Self { port, etcd, simulator, _dir: dir })
    }

    /// Fails if one of them has ended.
    pub fn check(&mut self) -> Result<()> {
        self.etcd.check()?;
        self.simulator.check()
    }
}
