//! Measures the operator on a bed: time and writes until Healthy, writes while idle, memory. Prints Markdown.
//!
//! The figures come from the API server's audit log and from the controller's own process metrics. Gates are printed next to
//! the figures; nothing fails on them, since machines differ.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use stories::{
    Bed, ClusterUnderTest,
    audit::{CONTROLLER_USER, Mark, Writes},
    bed::OPERATOR_NAMESPACE,
};

#[derive(Parser)]
struct Args {
    /// Manifests to measure.
    #[arg(required = true)]
    manifests: Vec<PathBuf>,
    /// Length of the idle window in seconds.
    #[arg(long, default_value_t = 300)]
    idle: u64,
    /// Bound for becoming Healthy, in seconds.
    #[arg(long, default_value_t = 300)]
    deadline: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let bed = Bed::connect().await?.context("no bed: run `make bench`")?;
    let log = bed.audit_log.clone().context("no audit log: run `make bench`")?;
    for manifest in &args.manifests {
        measure(&bed, &log, manifest, &args).await?;
    }
    Ok(())
}

async fn measure(bed: &Bed, log: &std::path::Path, manifest: &std::path::Path, args: &Args) -> Result<()> {
    let title = manifest.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    eprintln!("measuring {title}");
    let namespace = bed.namespace("bench").await?;
    let mark = Mark::now(log)?;
    let started = Instant::now();
    let cluster = ClusterUnderTest::apply(bed, &namespace, manifest).await?;
    cluster.healthy(args.deadline).await?;
    let seconds = started.elapsed().as_secs_f64();
    let until_healthy = mark.since(CONTROLLER_USER, |n| n == namespace)?;

    // The last status of a parent may trail the phase that was waited for; idle starts after it.
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    let mark = Mark::now(log)?;
    eprintln!("idle for {} s", args.idle);
    tokio::time::sleep(std::time::Duration::from_secs(args.idle)).await;
    let idle = mark.since(CONTROLLER_USER, |_| true)?;
    let controller = resident_megabytes(bed, "controller").await?;
    let admission = resident_megabytes(bed, "admission").await?;

    let floor = until_healthy.floor();
    println!("### {title}\n");
    println!("| Measure | Figure | Gate |\n|---|---|---|");
    println!("| time to Healthy | {seconds:.1} s | – |");
    println!(
        "| operator writes until Healthy | {} | {} (floor {floor} + 20 %) |",
        until_healthy.total(),
        floor + floor / 5
    );
    println!("| events until Healthy | {} | – |", until_healthy.events);
    println!("| operator writes in {} idle seconds | {} | 0 |", args.idle, idle.total());
    println!("| events in the same time | {} | 0 |", idle.events);
    println!("| lease writes in the same time | {} | – |", idle.leases);
    println!("| reads in the same time | {} | – |", idle.reads);
    println!("| controller RSS | {controller} | 20 MB |");
    println!("| admission RSS per replica | {admission} | – |\n");
    detail(&until_healthy);
    cluster.delete(240).await?;
    bed.remove_namespace(&namespace).await
}

fn detail(writes: &Writes) {
    println!("Writes until Healthy:\n\n```text");
    for ((verb, resource), count) in &writes.by_resource {
        println!("{count:5}  {verb:7} {resource}");
    }
    println!("```\n");
}

/// `process_resident_memory_bytes` of each pod of a component, read through the API server's proxy.
async fn resident_megabytes(bed: &Bed, component: &str) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(bed.client.clone(), OPERATOR_NAMESPACE);
    let wanted = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
    let mut figures = Vec::new();
    for pod in pods.list(&wanted).await?.items {
        let path = format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{}:8080/proxy/metrics", pod.name_any());
        let request = http::Request::get(&path).body(Vec::new())?;
        let text = bed.client.request_text(request).await.with_context(|| format!("reading {path}"))?;
        let line = text
            .lines()
            .find(|line| line.starts_with("process_resident_memory_bytes "))
            .context("the process collector")?;
        let bytes: f64 = line.split_whitespace().nth(1).context("a value")?.parse()?;
        figures.push(format!("{:.1} MB", bytes / 1e6));
    }
    ensure!(!figures.is_empty(), "no pod of the {component} runs");
    Ok(figures.join(", "))
}
