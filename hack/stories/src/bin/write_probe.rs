//! Writes a row every 50 ms through the gateway until its input ends, then reads back what was acknowledged and reports.
//!
//! It runs inside the network of a bed, where Services have addresses. The report is one line of JSON.

use std::{
    collections::BTreeSet,
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use stories::{
    gateway::{Gateway, PATIENCE},
    probe::Report,
};
use tokio_postgres::SimpleQueryMessage;

/// How often a row is written.
const BEAT: Duration = Duration::from_millis(50);
/// Failures that are quoted.
const QUOTED: usize = 5;

/// Where to write.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    gateway: Gateway,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        // The end of the input, or of whoever held it, is the end of the probe.
        let _ended = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    // A probe before this one has left its rows.
    let first = args.gateway.settled("DROP TABLE IF EXISTS write_probe").await?;
    let made = first.batch_execute("CREATE TABLE write_probe (id bigint PRIMARY KEY)");
    tokio::time::timeout(PATIENCE, made)
        .await
        .context("making the table takes too long")?
        .context("making the table")?;
    let mut client = Some(first);
    println!("ready");
    let mut report = Report::default();
    let mut acknowledged: BTreeSet<u64> = BTreeSet::new();
    let mut last = Instant::now();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    for id in 1_u64.. {
        beat.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let written = async {
            let connected = match client.take() {
                Some(client) => client,
                None => args.gateway.connect().await?,
            };
            connected.batch_execute(&format!("INSERT INTO write_probe VALUES ({id})")).await?;
            Ok::<_, anyhow::Error>(connected)
        };
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(connected)) => {
                client = Some(connected);
                acknowledged.insert(id);
                report.longest_gap_ms = report.longest_gap_ms.max(milliseconds(last.elapsed()));
                last = Instant::now();
            }
            Ok(Err(error)) => report.fail(format!("{error:#}"), QUOTED),
            Err(_) => report.fail(format!("no answer within {} s", PATIENCE.as_secs()), QUOTED),
        }
    }
    report.longest_gap_ms = report.longest_gap_ms.max(milliseconds(last.elapsed()));
    report.acknowledged = acknowledged.len();
    let reader = args.gateway.settled("SELECT 1").await?;
    let read = reader.simple_query("SELECT id FROM write_probe");
    let rows =
        tokio::time::timeout(PATIENCE, read).await.context("reading back takes too long")?.context("reading back")?;
    let stored: BTreeSet<u64> = rows
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        })
        .collect();
    report.lost = acknowledged.difference(&stored).count();
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
