//! A Prometheus server beside the pods: it scrapes the bed as the chart's monitors say, takes what is pushed to it by OTLP, evaluates the
//! chart's alerts, and answers queries.
//!
//! It runs in the network of the bed, so it reaches pods, and pods reach it.

pub mod dashboard;
pub(crate) mod manifest;
mod scrape;
mod server;

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;

pub use server::{Alert, Sample, Server, Target};

use crate::{
    backup::in_bed,
    bed::{Bed, KUBECONFIG},
    fault::TESTBED,
    helm::Tools,
    object_store::{UNTIL_END_OF_INPUT, node_address},
    wait::{until, within},
};

/// How often is scraped and evaluated.
const INTERVAL: &str = "3s";
/// What the windows of the alerts' expressions are shortened to: a story has no ten minutes for an alert to be over.
const WINDOW: &str = "30s";
/// How much of the server's log an error quotes, in lines.
const QUOTED: usize = 20;
/// Ports that a server may get: the first, and how many. Nobody else in the network of the bed listens on them.
const PORTS: (u16, u16) = (12_000, 3_000);
/// How long it may take to write its data down when it ends.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How late a sample may be that is pushed.
const LATE: &str = "10m";

/// Servers that this process has started.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// A running server; it ends with this value, and so does its data.
pub struct Prometheus {
    child: Mutex<Child>,
    address: SocketAddr,
    server: Server,
    // The directory goes after the process.
    dir: TempDir,
}

impl Prometheus {
    /// Starts a server with the monitors and alerts of the chart, rendered with these values, and waits until it answers. To secured pods it
    /// shows the `token`.
    ///
    /// The windows of the alerts are cut to half a minute; thresholds and delays are values of the chart.
    pub async fn start(bed: &Bed, tools: &Tools, values: &[String], token: Option<&str>) -> Result<Self> {
        let program = tool("prometheus").await?;
        let manifests = manifest::render(tools, INTERVAL, values).await?;
        let dir = tempfile::tempdir().context("making a directory for Prometheus")?;
        let rules = dir.path().join("rules.yaml");
        write(&rules, &json!({ "groups": manifest::groups(&manifests, WINDOW)? }))?;
        let kubeconfig = env::var_os(KUBECONFIG).with_context(|| format!("{KUBECONFIG} is not set"))?;
        let access = scrape::Access::read(Path::new(&kubeconfig), dir.path())?;
        let config = dir.path().join("prometheus.yaml");
        let global = json!({
            "scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL,
        });
        let shown = dir.path().join("token");
        if let Some(token) = token {
            fs::write(&shown, token).context("writing the token")?;
        }
        let scraped = scrape::configs(&manifests, &access, token.map(|_| shown.as_path()))?;
        let pushed = json!({ "promote_resource_attributes": manifest::promoted()? });
        let storage = json!({ "tsdb": { "out_of_order_time_window": LATE } });
        write(
            &config,
            &json!({ "global": global, "rule_files": [rules], "scrape_configs": scraped, "otlp": pushed, "storage": storage }),
        )?;
        let host: IpAddr = node_address(bed).await?.parse().context("the address of a node")?;
        let address = SocketAddr::new(host, port());
        let log = fs::File::create(dir.path().join("log")).context("making the log of Prometheus")?;
        let mut command = in_bed()?;
        command.args(["bash", "-c", UNTIL_END_OF_INPUT, "bash"]).arg(&program);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        command.args(["--web.enable-otlp-receiver", "--log.level=warn"]);
        // The end of its input ends it, and an end of our own is one.
        command.kill_on_drop(false).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let started = Self { child: Mutex::new(child), address, server: Server::at(address), dir };
        started.ready().await?;
        Ok(started)
    }

    async fn ready(&self) -> Result<()> {
        let answered = until("an answer of Prometheus", within(60), || async {
            // One that ended will not answer however long somebody waits, and says why in its log.
            if let Some(status) = self.ended()? {
                return Ok(Err(anyhow::anyhow!("Prometheus ended with {status}")));
            }
            self.server.fetch("/-/ready").await.map(Ok)
        });
        answered.await.flatten().with_context(|| format!("its log ends with:\n{}", self.log())).map(drop)
    }

    /// Where exporters push series to by OTLP over HTTP, as `OTEL_EXPORTER_OTLP_ENDPOINT` names it.
    pub fn otlp(&self) -> String {
        format!("http://{}/api/v1/otlp", self.address)
    }

    fn ended(&self) -> Result<Option<std::process::ExitStatus>> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.try_wait().context("looking after Prometheus")
    }

    /// The end of the server's log.
    fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(QUOTED)..].join("\n")
    }
}

impl Deref for Prometheus {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(child.stdin.take());
        // Its directory goes after it, and nobody scrapes any more when this returns.
        let end = Instant::now() + ENDS_WITHIN;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A port for the next server of this process. Processes that run side by side have ids side by side.
fn port() -> u16 {
    let number = std::process::id().wrapping_mul(4).wrapping_add(STARTED.fetch_add(1, Ordering::Relaxed));
    PORTS.0 + u16::try_from(number % u32::from(PORTS.1)).unwrap_or_default()
}

/// The path of a pinned program; the testbed builds it if need be.
pub(crate) async fn tool(name: &str) -> Result<PathBuf> {
    let testbed = env::var_os(TESTBED).with_context(|| format!("{TESTBED} does not name the testbed's command"))?;
    let mut command = tokio::process::Command::new(&testbed);
    command.args(["tools", name]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().await.with_context(|| format!("starting {}", testbed.display()))?;
    ensure!(output.status.success(), "`testbed tools {name}` ended with {}", output.status);
    let text = String::from_utf8(output.stdout).context("the testbed's answer")?;
    let dir = text.lines().last().with_context(|| format!("the testbed does not say where {name} is"))?;
    Ok(Path::new(dir).join(name))
}

/// Writes a configuration; JSON is the YAML that Prometheus reads.
fn write(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
