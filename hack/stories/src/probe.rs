//! The write probe as a story sees it: started inside the network of the bed, stopped, and asked what came of its writes.
//!
//! Only the real data plane stores anything, so without it there is no probe.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::backup::{in_bed, is_real};

/// What came of the writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Writes that were answered with an error, or not at all.
    pub failed: usize,
    /// Of the acknowledged ones, those that could not be read back.
    pub lost: usize,
    /// Longest time between two acknowledged writes.
    pub longest_gap_ms: u64,
    /// The first errors.
    pub errors: Vec<String>,
}

impl Report {
    /// Counts a failure, and quotes it if few were quoted before.
    pub fn fail(&mut self, error: String, quoted: usize) {
        self.failed += 1;
        if self.errors.len() < quoted {
            self.errors.push(error);
        }
    }
}

/// A running probe.
pub struct Probe {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Probe {
    /// Starts the program `write_probe` against a gateway; `None` without the real data plane.
    pub fn start(program: &str, host: &str, password: &str) -> Result<Option<Self>> {
        if !is_real() {
            eprintln!("no writes: the stand-in data plane stores nothing (MULTIGRES_BIN_DIR names the real one)");
            return Ok(None);
        }
        let mut child = in_bed()?
            .into_std()
            .args([program, "--host", host])
            .env("PGPASSWORD", password)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the probe")?;
        let output = child.stdout.take().context("the probe's output")?;
        let mut probe = Self { child, output: BufReader::new(output) };
        ensure!(probe.line()?.trim() == "ready", "the probe did not start");
        Ok(Some(probe))
    }

    /// Stops it and reads its report.
    pub fn stop(mut self) -> Result<Report> {
        drop(self.child.stdin.take());
        let line = self.line()?;
        self.child.wait().context("the probe's end")?;
        serde_json::from_str(&line).with_context(|| format!("the probe's report: {line:?}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("the probe's output")?;
        Ok(line)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // A story that failed leaves it without input; that ends it, too, but later.
        let _ended = self.child.kill();
    }
}
