//! Keeps the names that the controller looks up on this machine.
//!
//! An etcd that runs nowhere is dialled by a name that only the DNS of a Kubernetes cluster could know, again and again by every
//! cluster. Here names are looked up in one file and nowhere else, so that no resolver of the network is asked.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// Lets the program see other files in these two places; it goes with the thread that starts it, should this process die.
const SCRIPT: &str = "mount --bind \"$1\" /etc/nsswitch.conf && mount --bind \"$2\" /etc/hosts && shift 2 && exec setpriv --pdeathsig KILL \"$@\"";

/// The only names that a program knows.
pub struct Names {
    switch: PathBuf,
    hosts: PathBuf,
    _dir: TempDir,
}

impl Names {
    /// Besides localhost, these, all of them this machine.
    pub fn new(local: impl IntoIterator<Item = String>) -> Result<Self> {
        let dir = tempfile::tempdir().context("making a folder for names")?;
        let (switch, hosts) = (dir.path().join("nsswitch.conf"), dir.path().join("hosts"));
        fs::write(&switch, "hosts: files\npasswd: files\ngroup: files\n").context("writing nsswitch.conf")?;
        let mut text = "127.0.0.1 localhost\n".to_owned();
        for name in local {
            writeln!(text, "127.0.0.1 {name}")?;
        }
        fs::write(&hosts, text).context("writing the names")?;
        Ok(Self { switch, hosts, _dir: dir })
    }

    /// A command of a program that knows no other names. It keeps the process id that it is started with.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["sh", "-c", SCRIPT, "sh"]).arg(&self.switch).arg(&self.hosts).arg(program);
        command
    }
}
