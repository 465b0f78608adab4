//! What the kernel tells of a process and of the whole machine.

use std::fs;

use anyhow::{Context as _, Result};

/// Ticks of the kernel's clock in a second, as it tells them to programs.
const TICKS: f64 = 100.0;

/// Memory of a process in MB of a million bytes, as `process_resident_memory_bytes` counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Resident.
    pub resident: f64,
    /// Of it, of no file: heaps and stacks.
    pub anonymous: f64,
    /// Of it, of files: mostly the program.
    pub file: f64,
    /// The most that was ever resident.
    pub peak: f64,
}

impl Memory {
    /// That of a running process.
    pub fn of(pid: u32) -> Result<Self> {
        Self::parse(&read(&format!("/proc/{pid}/status"))?)
    }

    fn parse(status: &str) -> Result<Self> {
        let field = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let value = line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("no {name}"))?;
            // The kernel's kB are of 1024 bytes.
            Ok(value.parse::<f64>().with_context(|| format!("{name} is no number"))? * 1024.0 / 1e6)
        };
        Ok(Self {
            resident: field("VmRSS")?,
            anonymous: field("RssAnon")?,
            file: field("RssFile")?,
            peak: field("VmHWM")?,
        })
    }
}

/// CPU seconds that a process has used.
pub fn cpu(pid: u32) -> Result<f64> {
    used(&read(&format!("/proc/{pid}/stat"))?)
}

fn used(stat: &str) -> Result<f64> {
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in the state of the process")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> Result<f64> { Ok(fields.next().context("no times of the process")?.parse::<f64>()?) };
    Ok((ticks()? + ticks()?) / TICKS)
}

/// How long all cores have worked, and how long they could have.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    busy: f64,
    all: f64,
}

impl Ticks {
    /// Since the machine started.
    pub fn now() -> Result<Self> {
        Self::parse(&read("/proc/stat")?)
    }

    fn parse(stat: &str) -> Result<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).context("no times of the machine")?;
        // user, nice, system, idle, waiting for disks, interrupts of two kinds, stolen; what follows is part of the first two.
        let times: Vec<f64> = line
            .split_whitespace()
            .take(8)
            .map(str::parse::<f64>)
            .collect::<Result<_, _>>()
            .context("times of the machine")?;
        let all: f64 = times.iter().sum();
        let idle: f64 = times.iter().skip(3).take(2).sum();
        Ok(Self { busy: all - idle, all })
    }

    /// Share of the time since an earlier look that cores worked.
    pub fn busy_since(&self, earlier: &Self) -> f64 {
        (self.busy - earlier.busy) / (self.all - earlier.all).max(1.0)
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, wanted: f64) {
        assert!((value - wanted).abs() < 1e-9, "{value} instead of {wanted}");
    }

    #[test]
    fn memory_is_in_millions_of_bytes() {
        let status = "Name:\tx\nVmHWM:\t   3000 kB\nVmRSS:\t   2000 kB\nRssAnon:\t 500 kB\nRssFile:\t1500 kB\n";
        let memory = Memory::parse(status).unwrap();
        near(memory.resident, 2.048);
        near(memory.anonymous + memory.file, memory.resident);
        near(memory.peak, 3.072);
        assert!(Memory::parse("Name:\tx\n").is_err());
    }

    #[test]
    fn cpu_is_user_and_system_whatever_the_process_is_called() {
        near(used("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0").unwrap(), 2.0);
    }

    #[test]
    fn waiting_for_disks_is_not_busy() {
        let before = Ticks::parse("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 1\n").unwrap();
        let after = Ticks::parse("cpu  20 0 10 50 20 0 0 0 0 0\n").unwrap();
        near(after.busy_since(&before), 0.3);
    }
}
