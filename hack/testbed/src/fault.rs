//! Faults on command: components, and nodes with all that runs on them, stand still for a while and then go on.
//!
//! A process that stands still keeps its connections, and answers nobody: what a hung disk or a cut cable looks like from outside,
//! and harder on clients than a process that has ended.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::bed::Bed;
use crate::{host, node, process};

/// Processes that stand still until this is dropped.
#[derive(Debug)]
pub struct Frozen {
    /// Process ids with start times, so that a successor is not taken for one of them.
    processes: Vec<(u32, u64)>,
}

impl Frozen {
    /// How many processes stand still.
    pub fn count(&self) -> usize {
        self.processes.len()
    }

    fn send(&self, signal: Signal) {
        for &(pid, started) in &self.processes {
            if process::start_time(pid) == Some(started) {
                process::send(pid, signal);
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.send(Signal::CONT);
    }
}

/// Lets components (`kube-apiserver`, `kubelet-1`, …) or whole nodes (`node-1`) of a bed stand still.
pub fn freeze(bed: &Bed, names: &[String]) -> Result<Frozen> {
    let mut pids = Vec::new();
    for name in names {
        pids.extend(processes(bed, name)?);
    }
    pids.sort_unstable();
    pids.dedup();
    let frozen =
        Frozen { processes: pids.into_iter().filter_map(|pid| Some((pid, process::start_time(pid)?))).collect() };
    frozen.send(Signal::STOP);
    Ok(frozen)
}

/// The same for some time.
pub fn freeze_for(bed: &Bed, names: &[String], time: Duration) -> Result<usize> {
    let frozen = freeze(bed, names)?;
    thread::sleep(time);
    Ok(frozen.count())
}

/// Lets everything of a bed go on, after a command that was killed while something stood still.
pub fn thaw(bed: &Bed) -> Result<()> {
    let components = bed.components()?;
    for component in components.iter().filter(|component| component.alive) {
        component.process.signal(Signal::CONT);
    }
    let nodes = components.iter().filter_map(|component| component.name.strip_prefix("kubelet-"));
    for index in nodes.filter_map(|index| index.parse().ok()) {
        for pid in pods(bed, index)? {
            process::send(pid, Signal::CONT);
        }
    }
    Ok(())
}

fn processes(bed: &Bed, name: &str) -> Result<Vec<u32>> {
    if let Some(index) = name.strip_prefix("node-").and_then(|index| index.parse().ok()) {
        // The kubelet first: it must not see its containers stand still and restart them.
        let mut pids = vec![component(bed, &format!("kubelet-{index}"))?];
        pids.push(component(bed, &format!("containerd-{index}"))?);
        pids.extend(pods(bed, index)?);
        return Ok(pids);
    }
    Ok(vec![component(bed, name)?])
}

fn component(bed: &Bed, name: &str) -> Result<u32> {
    let components = bed.components()?;
    let found = components.iter().find(|component| component.name == name).with_context(|| {
        let known: Vec<&str> = components.iter().map(|component| component.name.as_str()).collect();
        format!("the bed has no component {name:?}; it has {}, and nodes as node-0", known.join(", "))
    })?;
    if !found.alive {
        bail!("{name} does not run; `testbed up` starts it");
    }
    Ok(found.process.pid)
}

/// Processes of the pods of a node.
fn pods(bed: &Bed, index: usize) -> Result<Vec<u32>> {
    let groups = host::cgroups(&node::cgroup(&bed.name()?, index))?;
    Ok(groups.iter().flat_map(|group| host::pids_in_cgroup(group)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Launch, Lifetime, spawn, wait_until};

    fn state(pid: u32) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.trim_start().chars().next()
    }

    #[test]
    fn a_frozen_process_goes_on_when_the_fault_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let words = ["sleep", "1000"].map(str::to_owned).to_vec();
        let (lifetime, log) = (Lifetime::WithParent, dir.path().join("log"));
        let process = spawn(Launch { words, env: Vec::new(), dir: dir.path().into(), log, lifetime }).unwrap();
        let pid = process.pid;
        let frozen = Frozen { processes: vec![(pid, process.start_time), (std::process::id(), 1)] };
        frozen.send(Signal::STOP);
        assert!(wait_until(Duration::from_secs(10), || state(pid) == Some('T')), "{:?}", state(pid));
        drop(frozen);
        assert!(wait_until(Duration::from_secs(10), || state(pid) == Some('S')), "{:?}", state(pid));
        process.stop(Duration::from_secs(5)).unwrap();
    }
}
