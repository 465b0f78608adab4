//! The controller as it is released, as a process of this host.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    LOOK,
    machine::{self, Memory},
    names::Names,
    process::{Running, free_port},
};

/// How long it may take until it is ready.
const READY: Duration = Duration::from_mins(1);

/// A controller that is ready.
pub struct Controller(Running);

impl Controller {
    /// Starts it with the flags of the chart, but for addresses and the level of its log.
    pub async fn start(program: &Path, kubeconfig: &Path, names: &Names, logs: &Path) -> Result<Self> {
        let (probes, metrics) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
        let mut command = names.command(program);
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            // Thousands of passes that fail to reach an etcd would fill the disk with lines.
            .args(["--leader-elect=true", "--zap-devel=false", "--zap-log-level=error", "--zap-encoder=json"])
            .arg(format!("--health-probe-bind-address={probes}"))
            .arg(format!("--metrics-bind-address={metrics}"))
            // As in the chart.
            .env("MALLOC_ARENA_MAX", "1");
        let mut running = Running::start("controller", &mut command, logs)?;
        let end = Instant::now() + READY;
        while let Err(error) = ready(&probes).await {
            running.check()?;
            if Instant::now() > end {
                return Err(error.context("the controller is not ready"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Self(running))
    }

    /// Asks it to end, as Kubernetes does, so that the next one need not wait for its Lease.
    pub async fn stop(&mut self) -> Result<()> {
        self.0.stop().await
    }

    /// Fails if it has ended.
    pub fn check(&mut self) -> Result<()> {
        self.0.check()
    }

    /// Its memory.
    pub fn memory(&self) -> Result<Memory> {
        Memory::of(self.0.pid())
    }

    /// CPU seconds that it has used.
    pub fn cpu(&self) -> Result<f64> {
        machine::cpu(self.0.pid())
    }
}

async fn ready(probes: &str) -> Result<()> {
    let mut stream = TcpStream::connect(probes).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}
