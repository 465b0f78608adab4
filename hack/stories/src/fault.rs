//! Faults of the Kubernetes that a story runs on: parts of it stand still for a while.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use tokio::process::{Child, Command};

/// Who runs a program of an image, unless its pod says who.
const NOBODY: &str = "65534:65534";
/// Names the command of the testbed.
pub const TESTBED: &str = "MULTIGRES_STORY_TESTBED";
/// Names the bed that the story runs on.
pub const BED: &str = "MULTIGRES_STORY_BED";

/// Who can make faults.
#[derive(Clone, Debug)]
pub struct Faults {
    command: OsString,
    bed: OsString,
}

/// A fault that is there until it is waited for.
#[derive(Debug)]
pub struct Fault {
    child: Child,
    names: String,
}

impl Faults {
    /// The testbed of the environment.
    pub fn from_env() -> Result<Self> {
        let command = env::var_os(TESTBED).with_context(|| format!("{TESTBED} does not name the testbed's command"))?;
        let bed = env::var_os(BED).with_context(|| format!("{BED} does not name a bed"))?;
        Ok(Self { command, bed })
    }

    /// Components or nodes, as `testbed status` names them, stand still for some seconds from now on.
    pub fn freeze(&self, names: &[&str], seconds: u64) -> Result<Fault> {
        let child = Command::new(&self.command)
            .arg("--name")
            .arg(&self.bed)
            .args(["fault", "freeze"])
            .args(names)
            .arg("--for")
            .arg(seconds.to_string())
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", self.command.display()))?;
        Ok(Fault { child, names: names.join(", ") })
    }

    /// Whatever stands still goes on.
    pub async fn thaw(&self) -> Result<()> {
        self.ask(&["fault", "thaw"]).await
    }

    /// Gives an image that the nodes have another name: an image that could not be had can be had from now on.
    pub async fn provide_image(&self, image: &str, name: &str) -> Result<()> {
        self.ask(&["tag", image, name]).await
    }

    /// Gives the nodes an image with a program and what the program needs. The program is in `/bin`, where those who start one by its path,
    /// such as the Prometheus Operator, know it.
    pub async fn provide_program(&self, program: &Path, image: &str) -> Result<()> {
        let file = program.file_name().and_then(OsStr::to_str).context("a program has a name of text")?;
        let inside = format!("/bin/{file}");
        let program = program.to_str().with_context(|| format!("{} is not text", program.display()))?;
        let words =
            ["image", "--load", "binary", "--bin", program, "--image", image, "--path", &inside, "--user", NOBODY];
        self.ask(&words).await
    }

    async fn ask(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.command);
        command.arg("--name").arg(&self.bed).args(words);
        let status = command.stdin(Stdio::null()).status().await.context("starting the testbed")?;
        ensure!(status.success(), "`testbed {}` ended with {status}", words.join(" "));
        Ok(())
    }
}

impl Fault {
    /// Waits until the fault is over.
    pub async fn over(mut self) -> Result<()> {
        let status = self.child.wait().await.context("waiting for the testbed")?;
        ensure!(status.success(), "the fault of {} ended with {status}", self.names);
        Ok(())
    }
}
