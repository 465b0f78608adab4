//! The controller's process: flags, logs, lease, servers, and an orderly end.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use controller::{
    app::App,
    backup::memory::Pace,
    cli::{Args, Command, LEASE},
    metricstest, server, uninstall,
    upstream::{Limits, Upstream},
};
use kube::Client;
use shared::{
    admin::{self, Guard, Readiness, Security, Server, State},
    cli::ClientArgs,
    clock::System,
    kubeutil::client,
    lease::{self, Lease},
    metrics::{Build, FrameworkMetrics, Metrics},
    signal,
    telemetry::{self, Service, Tracing},
};
use tokio_util::sync::CancellationToken;

/// Readiness condition: every watch has delivered its first list, or another replica leads.
const WATCHES: &str = "watches";

fn main() -> Result<()> {
    let args = Args::parse();
    if args.wants_version() {
        print(env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("another TLS provider is installed already");
    }
    // One thread is enough for what passes compute, and each more costs memory of its own; the rest is waiting. The servers have their own threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let service = Service { name: "multigres-operator", version: env!("CARGO_PKG_VERSION") };
        let telemetry =
            telemetry::init(&args.log.settings(), service, &Tracing::of_process()).context("starting logs")?;
        let ended = match &args.command {
            Some(Command::UninstallGuard { client, check }) => guard(client, check).await,
            Some(Command::MetricsTest { expect }) => metrics_test(expect).await,
            _ => run(args, telemetry.log.clone()).await,
        };
        // What sends the last spans needs this thread.
        tokio::task::spawn_blocking(|| telemetry.finish()).await.context("sending the last spans")?;
        ended
    })
}

#[expect(clippy::print_stdout, reason = "printing is what was asked for")]
fn print(line: &str) {
    println!("{line}");
}

fn metrics() -> Result<(Metrics, FrameworkMetrics)> {
    let metrics = Metrics::new(Build {
        version: env!("CARGO_PKG_VERSION"),
        revision: option_env!("GIT_REVISION").unwrap_or("unknown"),
    })?
    .of_runtime(&tokio::runtime::Handle::current());
    let framework = FrameworkMetrics::new(&metrics)?;
    Ok((metrics, framework))
}

async fn connect(args: &ClientArgs, framework: &FrameworkMetrics) -> Result<Client> {
    let config = client::config(args.kubeconfig.as_deref()).await;
    let config = config.context("finding the API server: set --kubeconfig, or run in a cluster")?;
    Ok(client::client(config, framework)?)
}

async fn guard(args: &ClientArgs, check: &uninstall::Args) -> Result<()> {
    let (_, framework) = metrics()?;
    for line in uninstall::run(&connect(args, &framework).await?, check).await? {
        print(&line);
    }
    Ok(())
}

async fn metrics_test(expect: &metricstest::Args) -> Result<()> {
    for proven in metricstest::run(expect, metricstest::connect).await? {
        print(&proven);
    }
    Ok(())
}

async fn run(args: Args, log: telemetry::LogHandle) -> Result<()> {
    let stop = signal::shutdown().context("listening for signals")?;
    let (metrics, framework) = metrics()?;
    let client = connect(&args.client, &framework).await?;
    let readiness = Readiness::default();
    readiness.expect(WATCHES);
    let state = State { metrics: metrics.clone(), readiness: readiness.clone(), log: Some(log) };
    let mut probes = Server::bind(&args.admin.metrics_bind_address, &args.admin.health_probe_bind_address, state)?;
    if args.admin.serves_metrics_securely() {
        let tls = admin::tls(&args.admin.certificate())?;
        probes = probes.secured(Security { tls, guard: Guard::new(client.clone()) })?;
    }
    // The servers outlive the work, so that a stopping replica still answers its probes.
    let servers_stop = CancellationToken::new();
    let servers = tokio::spawn(probes.run(servers_stop.clone()));

    let identity = args.work.identity.clone().unwrap_or_else(|| format!("controller-{}", std::process::id()));
    let lease = args.lease.settings(LEASE, &args.work.own_namespace, &identity)?;
    let (kubernetes, features) = server::discover(&client, args.work.native_sidecars).await?;
    let settings = args.work.settings(features, |name| std::env::var(name).ok());
    let namespaces = args.work.namespaces();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        %kubernetes,
        native_sidecars = features.native_sidecars,
        namespaces = if namespaces.is_empty() { "all".to_owned() } else { namespaces.join(",") },
        excluded = args.work.exclude_namespaces.join(","),
        leader_election = lease.is_some(),
        "starting"
    );
    let work = App {
        client: client.clone(),
        settings,
        namespaces,
        excluded: args.work.exclude_namespaces.clone(),
        concurrency: args.work.concurrency(),
        metrics,
        framework: framework.clone(),
        instance: identity,
        upstream: Upstream::connect(Limits::default()),
        backups: Pace::default(),
        clock: Arc::new(System),
    };
    let ended = match lease {
        None => work.run(stop, || readiness.set(WATCHES, true)).await,
        Some(settings) => led(work, client, settings, &framework, &readiness, stop).await,
    };
    servers_stop.cancel();
    servers.await.context("the servers for metrics and probes broke")??;
    ended
}

/// Works while the lease is held. Losing it is an error: a half-leader is worse than none, so the process ends.
async fn led(
    work: App,
    client: Client,
    settings: lease::Settings,
    framework: &FrameworkMetrics,
    readiness: &Readiness,
    stop: CancellationToken,
) -> Result<()> {
    let name = settings.name.clone();
    let release = CancellationToken::new();
    let lease = Lease::run(client, settings, release.clone());
    framework.leader(&name, false);
    // A replica that stands by is ready: it does all that it should.
    readiness.set(WATCHES, true);
    let held = tokio::select! {
        held = lease.held() => held,
        () = stop.cancelled() => false,
    };
    let mut result = Ok(());
    if held {
        framework.leader(&name, true);
        readiness.set(WATCHES, false);
        let mut state = lease.state();
        result = tokio::select! {
            ended = work.run(stop.clone(), || readiness.set(WATCHES, true)) => ended,
            _ = state.wait_for(|state| *state == lease::State::Lost) => Err(anyhow::anyhow!("the lease {name} was lost")),
        };
        framework.leader(&name, false);
    }
    release.cancel();
    let last = lease.ended().await;
    if result.is_ok() && last == lease::State::Lost && !stop.is_cancelled() {
        bail!("the lease {name} was lost");
    }
    result
}
