//! Measures the admission service on one core: reviews per second, and latency at 500 reviews a second. Prints Markdown.
//!
//! The service runs in a process of its own that is bound to one core, with one worker, over TLS connections that are kept
//! alive; the load comes from this process, bound to another core. Latency is measured under open load: requests are due at
//! fixed times, whether or not earlier ones have been answered, and a late one counts from when it was due. Gates are printed
//! next to the figures; nothing fails on them, since machines differ.

mod load;
mod object;
mod phase;
mod process;
mod service;

use std::time::Duration;

use admission::review::Endpoint;
use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::{
    load::{Client, Latency, Load},
    process::Service,
};

/// As in the admission binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the Go operator did on one core, and the share of it that is asked for.
struct Gate {
    endpoint: Endpoint,
    title: &'static str,
    per_second: f64,
    p99: f64,
}

const GATES: [Gate; 2] = [
    Gate { endpoint: Endpoint::MutateCluster, title: "mutate", per_second: 2218.0, p99: 10.7 },
    Gate { endpoint: Endpoint::ValidateCluster, title: "validate", per_second: 4316.0, p99: 6.1 },
];
const RATIO: f64 = 2.0;
const P99: f64 = 5.0;
const RATE: u32 = 500;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Connections that are kept alive.
    #[arg(long, default_value_t = 16)]
    connections: usize,
}

#[derive(Subcommand)]
enum Mode {
    /// Serves on one core until standard input ends; started by the benchmark itself.
    Serve,
    /// Times the parts of a review on their own, without a network.
    Phases {
        /// Part of the title of the objects to look at.
        #[arg(default_value = "")]
        object: String,
        /// Part of the name of the parts to time.
        #[arg(default_value = "")]
        part: String,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.mode {
        Some(Mode::Serve) => service::run(),
        Some(Mode::Phases { object, part }) => phase::run(Duration::from_secs(args.seconds), &object, &part),
        None => {
            // A process inherits the cores of the one that starts it: bound before, the load would share its own core with the service.
            let service = Service::start()?;
            let core = process::bind_to_core(1).context("binding the load to a core")?;
            if core == service.address.core {
                eprintln!("service and load share core {core}: rates and percentiles are theirs together");
            }
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(&args, &service))
        }
    }
}

async fn measure(args: &Args, service: &Service) -> Result<()> {
    let length = Duration::from_secs(args.seconds);
    let idle = service.resident()?;
    println!(
        "| Object | Review | Body | Per second | Of the Go operator | Gate | CPU a review | p50 at {RATE}/s | p99 at {RATE}/s | Go | Gate |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (title, object) in object::all()? {
        for gate in &GATES {
            let body = object::review(&object);
            let load = Load::new(gate.endpoint.path(), &body);
            eprintln!("{title}: {}", gate.title);
            let mut clients = Client::open(service, args.connections).await?;
            // Caches, and the first growth of every buffer, are not what is measured.
            load.closed(&mut clients, length / 5).await?;
            let before = service.cpu()?;
            let throughput = load.closed(&mut clients, length).await?;
            let cpu = service.cpu()?.saturating_sub(before);
            let Latency { p50, p99 } = load.open(&mut clients, RATE, length).await?;
            let per_second = throughput.count / throughput.seconds;
            println!(
                "| {title} | {} | {:.0} kB | {per_second:.0} | {:.2}× | {RATIO}× {} | {:.3} ms | {p50:.2} ms | {p99:.2} ms | {:.1} ms | {P99} ms {} |",
                gate.title,
                bytes(body.len()) / 1e3,
                per_second / gate.per_second,
                verdict(per_second >= RATIO * gate.per_second),
                cpu.as_secs_f64() * 1e3 / throughput.count,
                gate.p99,
                verdict(p99 <= P99),
            );
        }
    }
    println!("\nRSS of the service: {:.1} MB idle, {:.1} MB after the load.", idle / 1e6, service.resident()? / 1e6);
    Ok(())
}

fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "**missed**" }
}

#[allow(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
fn bytes(count: usize) -> f64 {
    count as f64
}
