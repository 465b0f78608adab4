//! Helm and kubectl as a user calls them, on the bed of the story.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use crate::bed::{KUBECONFIG, OPERATOR_NAMESPACE};

/// Names the directory with helm and kubectl; without it they are looked for on the search path.
pub const TOOLS: &str = "MULTIGRES_STORY_TOOLS";
/// Name of the release that the stories run on.
pub const RELEASE: &str = "multigres-operator";

/// The programs.
#[derive(Clone, Debug)]
pub struct Tools {
    kubeconfig: PathBuf,
    search: String,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Tools {
    /// Those that the environment names.
    pub fn from_env() -> Result<Self> {
        let kubeconfig = env::var_os(KUBECONFIG).with_context(|| format!("{KUBECONFIG} is not set"))?.into();
        let search = env::var("PATH").unwrap_or_default();
        let search = env::var(TOOLS).map_or(search.clone(), |tools| format!("{tools}:{search}"));
        Ok(Self { kubeconfig, search })
    }

    /// Runs a program to its end, whatever it is.
    pub async fn run(&self, program: &str, args: &[&str]) -> Result<Ended> {
        let output = Command::new(self.find(program)?)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PATH", &self.search)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("starting {program}"))?;
        Ok(Ended {
            code: output.status.code().unwrap_or(-1),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a program that has to succeed.
    pub async fn succeed(&self, program: &str, args: &[&str]) -> Result<String> {
        let ended = self.run(program, args).await?;
        if ended.code != 0 {
            bail!("{program} {} ended with {}:\n{}{}", args.join(" "), ended.code, ended.output, ended.errors);
        }
        Ok(ended.output)
    }

    /// Upgrades the release to this checkout's chart, keeping its values but for `values`, and waits until all is available.
    pub async fn upgrade(&self, values: &[&str]) -> Result<()> {
        self.upgrade_with(values, &["--wait", "--timeout", "3m"]).await
    }

    /// The same without waiting.
    pub async fn upgrade_at_once(&self, values: &[&str]) -> Result<()> {
        self.upgrade_with(values, &[]).await
    }

    async fn upgrade_with(&self, values: &[&str], how: &[&str]) -> Result<()> {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/multigres-operator");
        let chart = chart.to_str().context("the path of the chart is text")?;
        let mut args = vec!["upgrade", RELEASE, chart, "--namespace", OPERATOR_NAMESPACE, "--reset-then-reuse-values"];
        args.extend(how);
        for value in values {
            args.extend(["--set", *value]);
        }
        self.succeed("helm", &args).await.map(drop)
    }

    /// Rolls the release back to a revision and waits until all is available.
    pub async fn rollback(&self, revision: u64) -> Result<()> {
        let revision = revision.to_string();
        let args = ["rollback", RELEASE, &revision, "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "3m"];
        self.succeed("helm", &args).await.map(drop)
    }

    /// The same without waiting.
    pub async fn rollback_at_once(&self, revision: u64) -> Result<()> {
        let revision = revision.to_string();
        self.succeed("helm", &["rollback", RELEASE, &revision, "--namespace", OPERATOR_NAMESPACE]).await.map(drop)
    }

    /// Revision of the release that is deployed.
    pub async fn revision(&self) -> Result<u64> {
        let args = ["status", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--output", "json"];
        let status: serde_json::Value = serde_json::from_str(&self.succeed("helm", &args).await?)?;
        status["version"].as_u64().with_context(|| format!("no version in {status}"))
    }

    /// Runs the tests of the chart.
    pub async fn test(&self) -> Result<String> {
        self.succeed("helm", &["test", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--logs"]).await
    }

    /// A program that is run where nothing can be awaited.
    pub fn blocking(&self, program: &str) -> Result<std::process::Command> {
        let mut command = std::process::Command::new(self.find(program)?);
        command.env("KUBECONFIG", &self.kubeconfig).env("PATH", &self.search);
        Ok(command)
    }

    fn find(&self, program: &str) -> Result<PathBuf> {
        env::split_paths(&self.search)
            .map(|dir| dir.join(program))
            .find(|path| path.is_file())
            .with_context(|| format!("{program} is on none of {}; {TOOLS} names a directory with it", self.search))
    }
}
