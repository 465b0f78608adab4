//! Measures what spans and lines cost the work that they are about. Prints Markdown.
//!
//! A turn is what one pass does besides its work: its span, the spans of its parts and of one write, and one line of the log.
//! The subscriber belongs to a process, so this program runs itself once per way of working.

use std::{env, hint::black_box, process::Command, time::Instant};

use anyhow::{Context as _, Result, ensure};
use shared::telemetry::{self, Service, Settings, Tracing};
use tracing::{debug_span, info, info_span};

/// Turns that are measured.
const TURNS: u32 = 200_000;
/// Says to the process which way to work.
const WAY: &str = "MULTIGRES_BENCH_TRACING";

fn main() -> Result<()> {
    match env::var(WAY) {
        Ok(way) => measure(&way),
        Err(_) => compare(),
    }
}

/// One turn. Without a line it is what most passes are: nothing to write, nothing to say.
fn turn(number: u64, line: bool) {
    let pass = info_span!(target: "controller", "Cell.Reconcile", controller = "cell", namespace = "prod", name = "demo", generation = number);
    pass.in_scope(|| {
        for _ in 0..2 {
            debug_span!(target: "controller", "Observe").in_scope(|| black_box(number));
            debug_span!(target: "controller", "Decide").in_scope(|| black_box(number));
        }
        debug_span!(target: "controller", "write", otel.name = format!("apply {}", "Shard"), verb = "apply", kind = "Shard", name = "demo")
            .in_scope(|| black_box(number));
        if line {
            info!(target: "controller", writes = 1, seconds = 0.1, "reconciled");
        }
    });
}

fn measure(way: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let endpoint = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" if way == "on" => Some("http://127.0.0.1:9".to_owned()),
        "OTEL_TRACES_SAMPLER" if way == "on" => env::var("SAMPLER").ok(),
        _ => None,
    };
    let telemetry = {
        let _inside = runtime.enter();
        let service = Service { name: "bench", version: "0" };
        (way != "none")
            .then(|| telemetry::init(&Settings::preset(false), service, &Tracing::of(endpoint)))
            .transpose()?
    };
    let nanos = |line: bool| {
        let start = Instant::now();
        (0..u64::from(TURNS)).for_each(|number| turn(number, line));
        start.elapsed().as_nanos() / u128::from(TURNS)
    };
    nanos(false);
    let (silent, loud) = (nanos(false), nanos(true));
    print(&format!("{silent} {loud}"));
    if let Some(telemetry) = telemetry {
        telemetry.finish();
    }
    Ok(())
}

fn compare() -> Result<()> {
    print("| Spans of a pass | ns per pass that says nothing | ns per pass with one JSON line |\n| --- | --- | --- |");
    for (title, way, sampler) in [
        ("no subscriber at all", "none", ""),
        ("not exported (the default)", "off", ""),
        ("exported, none sampled", "on", "always_off"),
        ("exported", "on", "always_on"),
    ] {
        let output = Command::new(env::current_exe()?)
            .envs([(WAY, way), ("SAMPLER", sampler)])
            .stderr(std::process::Stdio::null())
            .output()
            .context("running itself")?;
        ensure!(output.status.success(), "{title}: {}", output.status);
        let text = String::from_utf8(output.stdout)?;
        let (silent, loud) = text.trim().split_once(' ').context("no figures")?;
        print(&format!("| {title} | {silent} | {loud} |"));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "figures are what was asked for")]
fn print(text: &str) {
    println!("{text}");
}
