//! Measures the operator with many clusters: time until all their children exist or until all are Healthy, the controller's memory
//! and CPU, and what it writes meanwhile and afterwards. Prints one Markdown table.
//!
//! The controller runs as a process of this host against an API server on loopback. Alone (`testbed control-plane`), no pod ever
//! runs and no etcd answers, so the figures are those of creation and of waiting. With `--standin`, on a bed of simulated nodes,
//! one process plays all pods, all topologies are in one etcd, and clusters become Healthy. Gates are printed next to the figures;
//! nothing fails on them, since machines differ.

mod access;
mod audit_log;
mod controller;
mod crowd;
mod machine;
mod names;
mod plane;
mod process;
mod report;

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use jiff::Timestamp;

use crate::{
    access::Access,
    audit_log::{AuditLog, Count},
    controller::Controller,
    crowd::Crowd,
    machine::Ticks,
    names::Names,
    plane::Plane,
    report::{Report, per, total},
};

/// More clusters than this are a load that this machine was not asked for.
const MOST: usize = 2000;
/// How often the audit log is read.
const LOOK: Duration = Duration::from_millis(500);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(5);
/// Resident memory in MB that the controller may have with so many clusters.
const RESIDENT: [(usize, f64); 3] = [(100, 25.0), (400, 40.0), (1000, 64.0)];
/// Clusters that are applied at once, and the seconds in which all their children have to exist.
const CREATED: (usize, f64) = (100, 20.0);
/// Clusters that are applied at once, and the seconds in which they have to be Healthy.
const HEALTHY: (usize, f64) = (1000, 300.0);

#[derive(Parser)]
struct Args {
    /// The controller's program.
    #[arg(long)]
    controller: PathBuf,
    /// The stand-in's program: it plays the pods of simulated nodes, and clusters are waited for until they are Healthy.
    #[arg(long)]
    standin: Option<PathBuf>,
    /// Administrator's kubeconfig of an API server on loopback that has no clusters.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// The API server's audit log.
    #[arg(long, env = "TESTBED_AUDIT_LOG")]
    audit_log: PathBuf,
    /// Folder for the logs of the programs that are started.
    #[arg(long)]
    logs: PathBuf,
    /// What a cluster is; only its name changes, and with --standin its topology.
    #[arg(long, default_value = "samples/minimal.yaml")]
    manifest: PathBuf,
    /// How many clusters there shall be, one step after the other; 100,400,1000 by default, and 1000 with --standin.
    #[arg(long, value_delimiter = ',')]
    clusters: Vec<usize>,
    /// Clusters that share a namespace.
    #[arg(long, default_value_t = 25)]
    per_namespace: usize,
    /// Requests side by side while clusters are applied.
    #[arg(long, default_value_t = 32)]
    at_once: usize,
    /// Length of the idle window in seconds.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Seconds without a write that count as rest. Longer than a status without news may be held back.
    #[arg(long, default_value_t = 20)]
    rest: u64,
    /// Bound for each thing that is waited for, in seconds.
    #[arg(long, default_value_t = 900)]
    deadline: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.clusters.is_empty() {
        args.clusters = if args.standin.is_some() { vec![1000] } else { vec![100, 400, 1000] };
    }
    let steps = &args.clusters;
    let sane = steps[0] > 0 && steps.is_sorted_by(|a, b| a < b) && steps.last() <= Some(&MOST);
    ensure!(sane, "--clusters takes growing numbers from 1 to {MOST}");
    ensure!(args.per_namespace > 0 && args.at_once > 0, "--per-namespace and --at-once are at least 1");
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    fs::create_dir_all(&args.logs).with_context(|| format!("making {}", args.logs.display()))?;

    let mut report = Report::default();
    let outcome = measure(&args, &mut report).await;
    // What was measured before something failed counts all the same.
    report.print();
    outcome.with_context(|| format!("logs are in {}", args.logs.display()))
}

async fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let access = Access::prepare(&args.kubeconfig).await?;
    let plane = match &args.standin {
        Some(standin) => Some(Plane::start(standin, &args.kubeconfig, &args.logs).await?),
        None => None,
    };
    let port = plane.as_ref().map(|plane| plane.port);
    let crowd = Crowd::new(access.client.clone(), &args.manifest, args.per_namespace, args.at_once, port)?;
    let names = Names::new(crowd.hosts(MOST))?;
    let start = async || Controller::start(&args.controller, access.kubeconfig(), &names, &args.logs).await;
    let controller = start().await?;
    let log = AuditLog::open(&args.audit_log)?;
    let mut bench = Bench { args, crowd, controller, plane, log, report, expected: BTreeMap::new(), floor: 0 };

    tokio::time::sleep(Duration::from_secs(args.rest)).await;
    bench.memory(0, "without a cluster", None)?;
    bench.learn().await?;
    let mut there = 0;
    for &clusters in &args.clusters {
        bench.grow(there, clusters).await?;
        there = clusters;
    }
    eprintln!("restarting the controller");
    bench.log.forget()?;
    bench.controller.stop().await?;
    bench.controller = start().await?;
    bench.restarted(there).await
}

struct Bench<'a> {
    args: &'a Args,
    crowd: Crowd,
    controller: Controller,
    plane: Option<Plane>,
    log: AuditLog,
    report: &'a mut Report,
    /// Resource → objects that one cluster is made of.
    expected: BTreeMap<String, usize>,
    /// The fewest writes that could have made one cluster Healthy.
    floor: usize,
}

impl Bench<'_> {
    /// Learns from one cluster, which stays, what all of them will be made of, and that it works at all.
    async fn learn(&mut self) -> Result<()> {
        eprintln!("learning from one cluster what they are made of");
        self.crowd.prepare(0..1).await?;
        self.log.forget()?;
        let mut count = Count::default();
        if self.plane.is_some() {
            let deadline = self.deadline().min(Duration::from_mins(3));
            tokio::try_join!(self.crowd.apply(0..1), self.crowd.healthy(1, deadline))?;
        } else {
            self.crowd.apply(0..1).await?;
        }
        let rested = self.rest(&mut count, Timestamp::now()).await?;
        ensure!(rested, "a single cluster does not come to rest; last: {:?}", count.writes.by_resource);
        let children: usize = count.writes.created.values().sum();
        ensure!(children > 0, "the controller made nothing of a cluster");
        self.floor = count.writes.floor();
        eprintln!("{children} children: {:?}", count.writes.created);
        self.expected = count.writes.created;
        Ok(())
    }

    /// Applies clusters until there are `to` of them, and measures until after an idle window.
    async fn grow(&mut self, from: usize, to: usize) -> Result<()> {
        let added = to - from;
        eprintln!("{from} clusters, {added} more");
        // The one that was learned from has the number 0.
        let first = from + 1;
        let numbers = first..first + added;
        self.crowd.prepare(numbers.clone()).await?;
        self.log.forget()?;
        let mut count = Count::default();
        let (cpu, ticks) = (self.controller.cpu()?, Ticks::now()?);
        let (began, started) = (Timestamp::now(), Instant::now());
        if self.plane.is_some() {
            tokio::try_join!(self.crowd.apply(numbers), self.crowd.healthy(to + 1, self.deadline()))?;
            let seconds = started.elapsed().as_secs_f64();
            let what = format!("{added} applied at once until all are Healthy");
            self.report.gated(to, &what, (seconds, "s"), (added == HEALTHY.0).then_some(HEALTHY.1));
        } else {
            self.crowd.apply(numbers).await?;
            let applied = started.elapsed().as_secs_f64();
            let children: usize = self.expected.values().sum();
            let created = self.created(&mut count, added).await?;
            let seconds = created.duration_since(began).as_secs_f64();
            let what = format!("{added} applied at once until their {} children exist", added * children);
            self.report.gated(to, &what, (seconds, "s"), (added == CREATED.0).then_some(CREATED.1));
            self.report.row(to, "of that, until the last was applied", &format!("{applied:.1} s"));
        }
        let elapsed = started.elapsed().as_secs_f64();
        let used = self.controller.cpu()? - cpu;
        let busy = Ticks::now()?.busy_since(&ticks) * 100.0;
        self.report.row(to, "CPU of the controller meanwhile", &format!("{used:.1} s of {elapsed:.1} s"));
        self.report.row(to, "busy share of the machine meanwhile", &format!("{busy:.0} %"));

        let rested = self.rest(&mut count, began).await?;
        let last = count.last_write.map_or(0.0, |at| at.duration_since(began).as_secs_f64());
        let figure = if rested { format!("{last:.1} s") } else { "not at rest".to_owned() };
        self.report.row(to, "first apply until the controller's last write", &figure);
        let writes = (per(count.writes.total(), added), "");
        // Only a Healthy cluster has written its last status.
        let gate = self.plane.is_some().then(|| total(self.floor + self.floor / 5));
        self.report.gated(to, "operator writes per cluster until then", writes, gate);
        self.report.row(to, "events per cluster until then", &format!("{:.1}", per(count.writes.events, added)));
        self.report.row(to, "of the writes, refused by the API server", &count.refused.to_string());
        self.report.row(to, "writes of everybody else meanwhile", &count.others.to_string());
        let odd = self.odd(&count, added);
        if !odd.is_empty() {
            self.report.row(to, "created otherwise than expected", &odd.join(", "));
        }
        self.idle(to).await?;
        self.memory(to, "after that", resident_gate(to))
    }

    /// What a fresh controller makes of clusters that are all there already.
    async fn restarted(&mut self, clusters: usize) -> Result<()> {
        let mut count = Count::default();
        let rested = self.rest(&mut count, Timestamp::now()).await?;
        let figure = count.writes.total().to_string() + if rested { "" } else { ", not at rest" };
        self.report.row(clusters, "operator writes after its restart", &figure);
        self.idle(clusters).await?;
        self.memory(clusters, "of the restarted controller", resident_gate(clusters))
    }

    async fn idle(&mut self, clusters: usize) -> Result<()> {
        let seconds = self.args.idle;
        eprintln!("idle for {seconds} s");
        self.log.forget()?;
        let (mut count, cpu) = (Count::default(), self.controller.cpu()?);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        self.log.read(&mut count)?;
        self.check()?;
        let used = self.controller.cpu()? - cpu;
        let writes = (total(count.writes.total()), "");
        self.report.gated(clusters, &format!("operator writes in {seconds} idle seconds"), writes, Some(0.0));
        self.report.gated(clusters, "events in the same time", (total(count.writes.events), ""), Some(0.0));
        self.report.row(clusters, "lease writes in the same time", &count.writes.leases.to_string());
        self.report.row(clusters, "CPU of the controller in the same time", &format!("{used:.1} s"));
        for ((verb, resource), number) in &count.writes.by_resource {
            eprintln!("while idle: {number} {verb} {resource}");
        }
        Ok(())
    }

    fn memory(&mut self, clusters: usize, when: &str, gate: Option<f64>) -> Result<()> {
        let memory = self.controller.memory()?;
        self.report.gated(clusters, &format!("controller RSS {when}"), (memory.resident, "MB"), gate);
        let parts = format!("{:.1}, {:.1}, {:.1} MB", memory.anonymous, memory.file, memory.peak);
        self.report.row(clusters, "of it anonymous, of files; peak", &parts);
        Ok(())
    }

    /// Waits until all children of `added` clusters were created; returns when the last one was.
    async fn created(&mut self, count: &mut Count, added: usize) -> Result<Timestamp> {
        let (started, mut told) = (Instant::now(), Instant::now());
        loop {
            self.log.read(count)?;
            let missing: usize =
                self.expected.iter().map(|(resource, each)| (each * added).saturating_sub(made(count, resource))).sum();
            if missing == 0 {
                return count.last_created.context("nothing was created");
            }
            if started.elapsed() > self.deadline() {
                bail!("{missing} children are missing: {}", self.odd(count, added).join(", "));
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                eprintln!("{missing} children are missing");
                self.check()?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the controller has written nothing but Leases for a while; tells whether that came within the deadline.
    async fn rest(&mut self, count: &mut Count, began: Timestamp) -> Result<bool> {
        let rest = Duration::from_secs(self.args.rest);
        let (started, mut told) = (Instant::now(), Instant::now());
        let mut quiet = Instant::now();
        loop {
            if self.log.read(count)? {
                quiet = Instant::now();
            }
            if quiet.elapsed() >= rest {
                return Ok(true);
            }
            if started.elapsed() > self.deadline() {
                return Ok(false);
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                let seconds = Timestamp::now().duration_since(began).as_secs();
                eprintln!("{seconds} s: {} writes, quiet for {} s", count.writes.total(), quiet.elapsed().as_secs());
                self.check()?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Resources of which there were made more or fewer than `added` clusters are made of.
    fn odd(&self, count: &Count, added: usize) -> Vec<String> {
        let all =
            self.expected.keys().chain(count.writes.created.keys().filter(|key| !self.expected.contains_key(*key)));
        let figures = all.map(|resource| {
            let wanted = self.expected.get(resource).map_or(0, |each| each * added);
            (resource, made(count, resource), wanted)
        });
        let odd = figures.filter(|(_, made, wanted)| made != wanted);
        odd.map(|(resource, made, wanted)| format!("{made} {resource} instead of {wanted}")).collect()
    }

    /// Fails when one of the programs has ended.
    fn check(&mut self) -> Result<()> {
        self.controller.check()?;
        self.plane.as_mut().map_or(Ok(()), Plane::check)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(self.args.deadline)
    }
}

fn made(count: &Count, resource: &str) -> usize {
    count.writes.created.get(resource).copied().unwrap_or_default()
}

fn resident_gate(clusters: usize) -> Option<f64> {
    RESIDENT.iter().find(|(of, _)| *of == clusters).map(|(_, gate)| *gate)
}
