//! Finds out whether this machine can run real nodes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::host;
use crate::process;

/// Says why real nodes cannot run here, or that they can.
pub fn real_nodes() -> Result<()> {
    check_root()?;
    check_programs()?;
    try_namespace()?;
    try_cgroup()?;
    try_container()
}

/// Says which programs real nodes lack.
pub fn check_programs() -> Result<()> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let found = |name: &str| path.split(':').any(|dir| Path::new(dir).join(name).exists());
    let mut missing: Vec<&str> = ["runc", "iptables", "conntrack", "ip", "nsenter", "setsid", "busybox", "mount"]
        .into_iter()
        .filter(|name| !found(name))
        .collect();
    if !Path::new("/usr/lib/cni/ptp").exists() {
        missing.push("the CNI plugins in /usr/lib/cni");
    }
    ensure!(missing.is_empty(), "missing: {}; run hack/bootstrap.sh", missing.join(", "));
    Ok(())
}

/// Fails unless this process may do what real nodes need.
pub fn check_root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "real nodes need root; run the command as root, or take --nodes kwok:N"
    );
    Ok(())
}

fn try_namespace() -> Result<()> {
    let name = format!("testbed-probe-{}", std::process::id());
    process::run("ip", ["netns", "add", &name]).context("network namespaces do not work")?;
    process::run("ip", ["netns", "del", &name]).context("network namespaces do not work").map(|_| ())
}

fn try_cgroup() -> Result<()> {
    let name = format!("testbed-probe-{}", std::process::id());
    let made = host::create_cgroup(&name).context("cgroups cannot be created");
    let removed = host::remove_cgroup(&name);
    made?;
    removed
}

fn try_container() -> Result<()> {
    let dir = tempfile::tempdir().context("creating a directory for a trial container")?;
    let bundle = dir.path().join("bundle");
    let root = bundle.join("rootfs/bin");
    fs::create_dir_all(&root).context("creating a directory for a trial container")?;
    fs::copy("/bin/busybox", root.join("busybox")).context("copying /bin/busybox; install busybox-static")?;
    let bundle_text = bundle.display().to_string();
    process::run("runc", ["spec", "--bundle", &bundle_text]).context("runc does not work")?;
    let file = bundle.join("config.json");
    let text = fs::read_to_string(&file).context("reading runc's default configuration")?;
    let mut spec: serde_json::Value =
        serde_json::from_str(&text).context("understanding runc's default configuration")?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/busybox", "true"]);
    fs::write(&file, spec.to_string()).context("writing the trial container's configuration")?;
    let name = format!("testbed-probe-{}", std::process::id());
    let state = dir.path().join("state").display().to_string();
    match process::run("runc", ["--root", &state, "run", "--bundle", &bundle_text, &name]) {
        Ok(_) => Ok(()),
        Err(error) => bail!("a trial container does not run: {error:#}"),
    }
}
