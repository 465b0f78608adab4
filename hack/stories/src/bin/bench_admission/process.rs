//! The service as a process: where it runs, what it costs.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// Binds this process, and those that it starts from now on, to the n-th of the cores that it may use, or to the last where there are fewer.
/// Returns the number of that core.
pub fn bind_to_core(index: usize) -> Result<usize> {
    let allowed = sched_getaffinity(None)?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    let core = *cores.get(index).or(cores.last()).context("no core is allowed")?;
    let mut one = CpuSet::new();
    one.set(core);
    sched_setaffinity(None, &one)?;
    Ok(core)
}

/// How a running service is reached; it writes this to its standard output in one line.
#[derive(Serialize, Deserialize)]
pub struct Address {
    /// Port on loopback.
    pub port: u16,
    /// The authority that signed its certificate, in PEM.
    pub authority: String,
    /// The core that it is bound to.
    pub core: usize,
}

/// A running service. It ends with this value, because its standard input does.
pub struct Service {
    child: Child,
    /// How it is reached.
    pub address: Address,
}

impl Service {
    /// Starts the service and waits until it serves.
    pub fn start() -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the service")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        let address = serde_json::from_str(&line).with_context(|| format!("the service said {line:?}"))?;
        Ok(Self { child, address })
    }

    /// The time that it has been running on its core.
    pub fn cpu(&self) -> Result<Duration> {
        let mut total = 0_u64;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            total += on_processor(&task?.path())?;
        }
        Ok(Duration::from_nanos(total))
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.split_whitespace().next().context("a value")?.parse::<f64>()? * 1024.0)
    }
}

/// The time that this thread has been running.
pub fn cpu_of_thread() -> Result<Duration> {
    on_processor(Path::new("/proc/thread-self")).map(Duration::from_nanos)
}

/// Nanoseconds on the processor of a task under `/proc`.
fn on_processor(task: &Path) -> Result<u64> {
    let text = fs::read_to_string(task.join("schedstat"))?;
    Ok(text.split_whitespace().next().context("schedstat")?.parse()?)
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}
