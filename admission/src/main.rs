//! The process of the admission webhook: flags, logs, servers, and an orderly end.

use std::sync::Arc;

use admission::{
    app::{self, App, Settings},
    cli::{Args, Command},
    selftest,
};
use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use shared::{
    admin::{self, Guard, Readiness, Security, Server, State},
    cli::ClientArgs,
    clock::System,
    kubeutil::client,
    metrics::{Build, FrameworkMetrics, Metrics},
    signal,
    telemetry::{self, LogHandle, Service, Tracing},
};
use tokio_util::sync::CancellationToken;

/// A review makes and drops thousands of small pieces, which takes half as long with this allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let args = Args::parse();
    if matches!(args.command, Some(Command::Version)) {
        print(env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("another TLS provider is installed already");
    }
    // Reviews have threads of their own; this one is for watches and certificates.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let telemetry = {
        let _inside = runtime.enter();
        let service = Service { name: "multigres-operator-admission", version: env!("CARGO_PKG_VERSION") };
        telemetry::init(&args.log.settings(), service, &Tracing::of_process()).context("starting logs")?
    };
    let log = telemetry.log.clone();
    let ended = match &args.command {
        Some(Command::SelfTest { client, expect }) => runtime.block_on(self_test(client, expect)),
        _ => runtime.block_on(serve(args, log)),
    };
    telemetry.finish();
    ended
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

async fn self_test(args: &ClientArgs, expect: &selftest::Args) -> Result<()> {
    let (_, framework) = metrics()?;
    let client = client::client(client::config(args.kubeconfig.as_deref()).await?, &framework)?;
    for proven in selftest::run(&client, expect).await? {
        print(&proven);
    }
    Ok(())
}

async fn serve(args: Args, log: LogHandle) -> Result<()> {
    let stop = signal::shutdown().context("listening for signals")?;
    let (metrics, framework) = metrics()?;
    let readiness = Readiness::default();
    let state = State { metrics: metrics.clone(), readiness: readiness.clone(), log: Some(log) };
    if args.webhook.webhook_enable {
        app::expect(&readiness);
    }
    let client = if args.webhook.webhook_enable || args.admin.serves_metrics_securely() {
        Some(client::client(client::config(args.client.kubeconfig.as_deref()).await?, &framework)?)
    } else {
        None
    };
    let mut admin = Server::bind(&args.admin.metrics_bind_address, &args.admin.health_probe_bind_address, state)?;
    if let Some(client) = client.as_ref().filter(|_| args.admin.serves_metrics_securely()) {
        let tls = admin::tls(&args.admin.certificate())?;
        admin = admin.secured(Security { tls, guard: Guard::new(client.clone()) })?;
    }
    // The probes outlive the work, so that a stopping replica is seen to be unready, and alive.
    let admin_stop = CancellationToken::new();
    let admin = tokio::spawn(admin.run(admin_stop.clone()));
    let ended = if let Some(client) = client.filter(|_| args.webhook.webhook_enable) {
        let settings = Settings {
            server: args.server(),
            stores: args.stores(),
            reviewer: args.reviewer(|name| std::env::var(name).ok()),
            certificate: args.certificate(Arc::new(System))?,
        };
        tracing::info!(version = env!("CARGO_PKG_VERSION"), certificates = ?settings.certificate.mode, "starting");
        App { client, settings, metrics, readiness }.run(stop).await
    } else {
        app::idle(stop).await
    };
    admin_stop.cancel();
    admin.await.context("the server for metrics and probes broke")??;
    ended
}
