//! What a bed leaves on the host besides its own directory: mounts, cgroups, shims, and a few places that kubelet and CNI insist on.
//!
//! Kubelet changes kernel settings and, like the CNI library, writes below fixed paths. What the host looked like before the first bed is
//! recorded, so that taking the last bed down restores it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::network;
use crate::process;

/// Paths outside of a bed's directory that its programs create; children before parents.
const FOREIGN_PATHS: [&str; 11] = [
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
    "/var/lib/cni",
    "/run/containerd/s",
    "/run/containerd/fifo",
    "/run/containerd",
    "/run/xtables.lock",
    "/run/nri",
    "/opt/containerd",
];

/// Kernel settings that kubelet changes outside of any namespace.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// What the host looked like before the first bed.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    absent: Vec<String>,
    settings: BTreeMap<String, String>,
    /// Whether `ip netns` had not yet made /run/netns a mount of its own.
    plain_namespaces: bool,
}

impl Record {
    /// Writes the record, unless one is there from a bed that still stands.
    pub fn ensure(file: &Path) -> Result<()> {
        if file.exists() {
            return Ok(());
        }
        let absent =
            FOREIGN_PATHS.iter().filter(|path| !Path::new(path).exists()).map(|path| (*path).to_owned()).collect();
        let settings = SETTINGS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?)))
            .collect();
        let plain_namespaces = !is_mount(&mounts_below(Path::new(NAMESPACES))?);
        let text = serde_json::to_string_pretty(&Self { absent, settings, plain_namespaces })
            .context("rendering the host's record")?;
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }

    /// Puts the host back to what the record says, and removes the record.
    pub fn restore(file: &Path) -> Result<()> {
        if !file.exists() {
            return Ok(());
        }
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let record: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is no record of a host", file.display()))?;
        for (name, value) in &record.settings {
            let path = Path::new("/proc/sys").join(name);
            if fs::read_to_string(&path).is_ok_and(|now| now != *value) {
                fs::write(&path, value).with_context(|| format!("restoring {}", path.display()))?;
            }
        }
        for path in record.absent.iter().map(Path::new).filter(|path| path.exists()) {
            let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            removed.with_context(|| format!("removing {}, which the bed's programs made", path.display()))?;
        }
        if record.plain_namespaces && is_mount(&mounts_below(Path::new(NAMESPACES))?) && is_empty(Path::new(NAMESPACES))
        {
            rustix::mount::unmount(NAMESPACES, UnmountFlags::DETACH)
                .with_context(|| format!("unmounting {NAMESPACES}"))?;
        }
        fs::remove_file(file).with_context(|| format!("removing {}", file.display()))
    }
}

const NAMESPACES: &str = "/run/netns";

fn is_mount(mounts: &[PathBuf]) -> bool {
    mounts.iter().any(|point| point == Path::new(NAMESPACES))
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// The mount points at or below `dir`, the deepest first.
pub fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    Ok(mount_points_below(&table, dir))
}

fn mount_points_below(table: &str, dir: &Path) -> Vec<PathBuf> {
    let points =
        table.lines().filter_map(|line| line.split_whitespace().nth(4)).map(|text| PathBuf::from(unescape(text)));
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    // Later mounts cover earlier ones, so they go first.
    found.reverse();
    found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    found
}

fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Unmounts everything at or below `dir`.
pub fn unmount_below(dir: &Path) -> Result<()> {
    for _ in 0..10 {
        let mounts = mounts_below(dir)?;
        if mounts.is_empty() {
            return Ok(());
        }
        for point in mounts {
            // A busy or already gone mount shows up in the next round.
            let _next_round = rustix::mount::unmount(&point, UnmountFlags::DETACH);
        }
    }
    let left = mounts_below(dir)?;
    ensure!(
        left.is_empty(),
        "{} mounts below {} do not go away, the first is {}",
        left.len(),
        dir.display(),
        left[0].display()
    );
    Ok(())
}

/// The roots of the cgroup hierarchies that a node uses: one per controller with version 1, a single one with version 2.
pub fn cgroup_hierarchies() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    Ok(hierarchies_in(&table))
}

fn hierarchies_in(table: &str) -> Vec<PathBuf> {
    let mut old = Vec::new();
    let mut new = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split_whitespace().nth(4) else { continue };
        match right.split_whitespace().next() {
            Some("cgroup") => old.push(PathBuf::from(point)),
            Some("cgroup2") => new.push(PathBuf::from(point)),
            _ => {}
        }
    }
    old.extend(new);
    old
}

/// Whether the machine has only cgroup version 2.
pub fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Creates a top-level cgroup in every hierarchy and fills what kubelet needs.
pub fn create_cgroup(name: &str) -> Result<()> {
    for hierarchy in cgroup_hierarchies()? {
        if is_unified() {
            for controller in ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"] {
                // A controller that this kernel lacks is not needed either; kubelet checks for the ones it needs.
                let _lacking = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        } else if hierarchy.join("cgroup.controllers").exists() {
            // The unified tree beside version 1 holds no controllers.
            continue;
        }
        let group = hierarchy.join(name);
        if !group.exists() {
            fs::create_dir(&group).with_context(|| format!("creating the cgroup {}", group.display()))?;
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (hierarchy.join(file), group.join(file));
            if !is_unified() && from.exists() {
                let value = fs::read_to_string(&from).with_context(|| format!("reading {}", from.display()))?;
                fs::write(&to, value.trim()).with_context(|| format!("writing {}", to.display()))?;
            }
        }
    }
    Ok(())
}

/// The top-level cgroups of this name that exist.
pub fn cgroups(name: &str) -> Result<Vec<PathBuf>> {
    Ok(cgroup_hierarchies()?.into_iter().map(|hierarchy| hierarchy.join(name)).filter(|group| group.exists()).collect())
}

fn groups_below(group: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(group) {
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            found.extend(groups_below(&entry.path()));
        }
    }
    found.push(group.to_owned());
    found
}

/// The processes in a cgroup and below.
pub fn pids_in_cgroup(group: &Path) -> Vec<u32> {
    let files = groups_below(group).into_iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
    files.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Kills what is in the cgroups of this name and removes them.
pub fn remove_cgroup(name: &str) -> Result<()> {
    let groups = cgroups(name)?;
    let gone = process::wait_until(Duration::from_secs(15), || {
        for group in &groups {
            for pid in pids_in_cgroup(group) {
                process::send(pid, Signal::KILL);
            }
            for child in groups_below(group) {
                // A group whose processes are still ending is removed in a later round.
                let _later = fs::remove_dir(&child);
            }
        }
        !groups.iter().any(|group| group.exists())
    });
    let left: Vec<String> =
        groups.iter().filter(|group| group.exists()).map(|group| group.display().to_string()).collect();
    ensure!(gone, "the cgroups {} do not go away; their cgroup.procs name what holds them", left.join(", "));
    Ok(())
}

/// The processes in a network namespace.
pub fn pids_in_namespace(namespace: &str) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(ours) = fs::metadata(network::namespace_file(namespace)) else { return Vec::new() };
    let inside = |pid: &u32| {
        fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|meta| meta.ino() == ours.ino() && meta.dev() == ours.dev())
    };
    process::all_pids().into_iter().filter(inside).collect()
}

/// Kills every process in a network namespace: with a bed's own namespace these are its programs and shims.
pub fn empty_namespace(namespace: &str) -> Result<()> {
    let gone = process::wait_until(Duration::from_secs(15), || {
        let pids: Vec<u32> =
            pids_in_namespace(namespace).into_iter().filter(|pid| process::start_time(*pid).is_some()).collect();
        for pid in &pids {
            process::send(*pid, Signal::KILL);
        }
        pids.is_empty()
    });
    ensure!(
        gone,
        "processes {:?} in the namespace {namespace} do not end although they were killed",
        pids_in_namespace(namespace)
    );
    Ok(())
}

/// Removes the sockets of the shims whose bundles lie below a node's containerd state.
pub fn remove_shim_sockets(containerd_state: &Path) {
    let tasks = containerd_state.join("io.containerd.runtime.v2.task/k8s.io");
    let Ok(bundles) = fs::read_dir(tasks) else { return };
    for bundle in bundles.flatten() {
        let Ok(text) = fs::read_to_string(bundle.path().join("bootstrap.json")) else { continue };
        let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
        let socket = value["address"].as_str().and_then(|address| address.strip_prefix("unix://"));
        if let Some(socket) = socket.filter(|socket| socket.starts_with("/run/containerd/s/")) {
            // The shim may have removed it itself.
            let _gone = fs::remove_file(socket);
        }
    }
}

/// Removes links in /var/log/containers that lead below `dir`.
pub fn remove_log_links(dir: &Path) {
    remove_where(Path::new("/var/log/containers"), |path| {
        fs::read_link(path).is_ok_and(|target| target.starts_with(dir))
    });
}

/// Removes the CNI library's cached results for a network.
pub fn remove_cni_results(network: &str) {
    remove_where(Path::new("/var/lib/cni/results"), |path| {
        is_result_of(network, &path.file_name().unwrap_or_default().to_string_lossy())
    });
}

fn is_result_of(network: &str, file: &str) -> bool {
    // A container id follows the network's name; without this check `a` would also match the files of `a-b`.
    let rest = file.strip_prefix(network).and_then(|rest| rest.strip_prefix('-'));
    rest.and_then(|rest| rest.split('-').next()).is_some_and(|id| id.len() == 64)
}

fn remove_where(dir: &Path, wanted: impl Fn(&Path) -> bool) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| wanted(path)) {
        // Another bed's kubelet may collect the same dead link.
        let _gone = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
25 24 0:23 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
26 24 0:24 / /sys/fs/cgroup/unified rw,relatime - cgroup2 none rw
30 1 0:30 / /beds/a rw - tmpfs tmpfs rw
31 30 0:31 / /beds/a/x\\040y/z rw shared:3 - tmpfs tmpfs rw
32 30 0:32 / /beds/ab rw - tmpfs tmpfs rw
33 30 0:33 / /beds/a/x\\040y/z rw - tmpfs tmpfs rw
";

    #[test]
    fn mounts_of_a_directory_come_deepest_first_and_without_its_namesakes() {
        let found = mount_points_below(TABLE, Path::new("/beds/a"));
        assert_eq!(found, ["/beds/a/x y/z", "/beds/a/x y/z", "/beds/a"].map(PathBuf::from));
    }

    #[test]
    fn cgroup_hierarchies_of_both_versions_are_found() {
        let found = hierarchies_in(TABLE);
        assert_eq!(found, ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"].map(PathBuf::from));
    }

    #[test]
    fn only_cached_results_of_the_named_network_are_removed() {
        let id = "a".repeat(64);
        assert!(is_result_of("testbed-n", &format!("testbed-n-{id}-eth0")));
        assert!(!is_result_of("testbed-n", &format!("testbed-n-b-{id}-eth0")));
        assert!(!is_result_of("testbed-n", &format!("other-{id}-eth0")));
    }

    #[test]
    fn a_record_is_written_once_and_removed_when_restored() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("host.json");
        Record::ensure(&file).unwrap();
        let before = fs::read_to_string(&file).unwrap();
        Record::ensure(&file).unwrap();
        assert_eq!(before, fs::read_to_string(&file).unwrap());
        assert!(before.contains("vm/overcommit_memory"));
    }
}
