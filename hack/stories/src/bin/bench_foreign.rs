//! Measures what other people's objects cost the controller: its resident memory without and with many Secrets and ConfigMaps
//! that do not concern it. Prints Markdown.
//!
//! Needs an API server of its own (`testbed control-plane`), and nothing else: the controller runs as a process of this host.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Namespace, Secret},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions},
};

/// Requests side by side while the objects are made.
const AT_ONCE: usize = 32;
/// Content of each object.
const BYTES: usize = 1024;
/// How long anything may take.
const DEADLINE: Duration = Duration::from_mins(2);

#[derive(Parser)]
struct Args {
    /// The controller's program.
    #[arg(long)]
    controller: PathBuf,
    /// Kubeconfig of the API server.
    #[arg(long, env = "MULTIGRES_TEST_KUBECONFIG")]
    kubeconfig: PathBuf,
    /// Secrets, and as many ConfigMaps.
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    /// Starts of the controller before and after, of which the median counts.
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// Seconds until a controller is at rest.
    #[arg(long, default_value_t = 10)]
    rest: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.starts > 0, "--starts is at least 1");
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(&args.kubeconfig).context("reading the kubeconfig")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    install_definitions(&client).await?;

    let mut without = Vec::new();
    for _ in 1..args.starts {
        without.push(Controller::start(&args).await?.resident()?);
    }
    let running = Controller::start(&args).await?;
    let before = running.resident()?;
    without.push(before);
    let started = Instant::now();
    make_foreign(&client, args.objects).await?;
    let seconds = started.elapsed().as_secs();
    eprintln!("{} Secrets and as many ConfigMaps made in {seconds} s", args.objects);
    tokio::time::sleep(Duration::from_secs(args.rest)).await;
    let after = running.resident()?;
    drop(running);
    let mut with = Vec::new();
    for _ in 0..args.starts {
        with.push(Controller::start(&args).await?.resident()?);
    }

    let (without, with) = (median(without), median(with));
    println!(
        "| Controller RSS with {} foreign Secrets and as many ConfigMaps | before | after | change | Gate |",
        args.objects
    );
    println!("|---|---|---|---|---|");
    line("made while it runs", before, after);
    line(&format!("there when it starts (median of {})", args.starts), without, with);
    Ok(())
}

fn line(what: &str, before: u64, after: u64) {
    let change = i128::from(after) - i128::from(before);
    println!("| {what} | {} | {} | {change} kB | < 1,000 kB |", kilobytes(before), kilobytes(after));
}

fn kilobytes(value: u64) -> String {
    format!("{value} kB")
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

async fn install_definitions(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply("multigres-bench").force();
    for definition in shared::api::crds() {
        let name = definition.name_any();
        api.patch(&name, &params, &Patch::Apply(&definition)).await.with_context(|| format!("installing {name}"))?;
        let established = await_condition(api.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(DEADLINE, established).await.with_context(|| format!("{name} is not served"))??;
    }
    Ok(())
}

/// Makes objects as other programs have them: without a label of ours.
async fn make_foreign(client: &Client, objects: usize) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let metadata = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata: metadata("foreign"), ..Namespace::default() };
    namespaces.create(&PostParams::default(), &namespace).await.context("creating the namespace foreign")?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "foreign");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "foreign");
    let text = "x".repeat(BYTES);
    stream::iter(0..objects)
        .map(|number| {
            let (secrets, maps, text) = (secrets.clone(), maps.clone(), text.clone());
            let metadata = metadata(&format!("foreign-{number}"));
            async move {
                let data = [("value".to_owned(), ByteString(text.clone().into_bytes()))];
                let secret = Secret { metadata: metadata.clone(), data: Some(data.into()), ..Secret::default() };
                let map =
                    ConfigMap { metadata, data: Some([("value".to_owned(), text)].into()), ..ConfigMap::default() };
                let params = PostParams::default();
                tokio::try_join!(secrets.create(&params, &secret), maps.create(&params, &map)).map(drop)
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await
        .context("creating foreign objects")?;
    Ok(())
}

/// A controller at rest; it ends with this value.
struct Controller(Child);

impl Controller {
    async fn start(args: &Args) -> Result<Self> {
        let probes = format!("127.0.0.1:{}", free_port()?);
        let child = Command::new(&args.controller)
            .arg("--kubeconfig")
            .arg(&args.kubeconfig)
            .args(["--leader-elect=false", "--metrics-bind-address=0", "--zap-log-level=warn"])
            .arg(format!("--health-probe-bind-address={probes}"))
            // As in the chart.
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", args.controller.display()))?;
        let mut this = Self(child);
        this.wait_until_ready(&probes).await?;
        tokio::time::sleep(Duration::from_secs(args.rest)).await;
        Ok(this)
    }

    async fn wait_until_ready(&mut self, probes: &str) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait().context("looking at the controller")? {
                bail!("the controller ended: {status}");
            }
            if ready(probes).await.is_ok_and(|ready| ready) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the controller is not ready")
    }

    /// Its resident memory in kilobytes, as `process_resident_memory_bytes` has it.
    fn resident(&self) -> Result<u64> {
        let path = Path::new("/proc").join(self.0.id().to_string()).join("status");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let value = line.trim().trim_end_matches("kB").trim().parse::<u64>().context("VmRSS is no number")?;
        // The kernel's kB are of 1024 bytes.
        Ok(value * 1024 / 1000)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It is gone already, or it goes now.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn ready(probes: &str) -> Result<bool> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(probes).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
    Ok(listener.local_addr().context("the port")?.port())
}
