//! Helm and kubectl as a user calls them, on the bed of the story.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::bed::{KUBECONFIG, OPERATOR_NAMESPACE, is_long};

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

/// Who merges what Helm asks for with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apply {
    /// The API server, by server-side apply.
    Server,
    /// Helm itself, by patches.
    Client,
}

impl Apply {
    fn flag(self) -> &'static str {
        match self {
            Self::Server => "--server-side=true",
            Self::Client => "--server-side=false",
        }
    }
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
        self.upgrade_with(values, &["--wait", "--timeout", timeout()]).await
    }

    /// The same with the values of a file in place of single ones.
    pub async fn upgrade_from(&self, values: &Path) -> Result<()> {
        let values = values.to_str().with_context(|| format!("{} is not text", values.display()))?;
        self.upgrade_with(&[], &["--values", values, "--wait", "--timeout", "3m"]).await
    }

    /// The same without waiting.
    pub async fn upgrade_at_once(&self, values: &[&str]) -> Result<()> {
        self.upgrade_with(values, &[]).await
    }

    async fn upgrade_with(&self, values: &[&str], how: &[&str]) -> Result<()> {
        let chart = chart()?;
        let mut args = vec!["upgrade", RELEASE, &chart, "--namespace", OPERATOR_NAMESPACE, "--reset-then-reuse-values"];
        args.extend(how);
        for value in values {
            args.extend(["--set", *value]);
        }
        self.succeed("helm", &args).await.map(drop)
    }

    /// Installs or upgrades the release with the values of these files and no others, later files over earlier ones, and waits until
    /// all is available.
    pub async fn deploy(&self, by: Apply, values: &[&Path]) -> Result<()> {
        let (chart, values) = (chart()?, texts(values)?);
        let mut args = vec!["upgrade", "--install", RELEASE, &chart, "--namespace", OPERATOR_NAMESPACE];
        args.extend(["--create-namespace", "--reset-values", "--wait", "--timeout", "3m", by.flag()]);
        for file in &values {
            args.extend(["--values", *file]);
        }
        self.succeed("helm", &args).await.map(drop)
    }

    /// Renders the chart with the values of these files, without a server.
    pub async fn render(&self, values: &[&Path]) -> Result<String> {
        let (chart, values) = (chart()?, texts(values)?);
        let mut args = vec!["template", RELEASE, &chart, "--namespace", OPERATOR_NAMESPACE];
        for file in &values {
            args.extend(["--values", *file]);
        }
        self.succeed("helm", &args).await
    }

    /// Uninstalls the release and waits until its objects are gone. What the chart does to keep users from that is left out.
    pub async fn uninstall(&self) -> Result<()> {
        let args = ["uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--no-hooks", "--wait", "--timeout", "3m"];
        self.succeed("helm", &args).await.map(drop)
    }

    /// What the release was given on top of the chart's own values.
    pub async fn values(&self) -> Result<Value> {
        let args = ["get", "values", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--output", "json"];
        let values: Value = serde_json::from_str(&self.succeed("helm", &args).await?)?;
        Ok(if values.is_null() { json!({}) } else { values })
    }

    /// Rolls the release back to a revision and waits until all is available.
    pub async fn rollback(&self, revision: u64) -> Result<()> {
        let revision = revision.to_string();
        let args =
            ["rollback", RELEASE, &revision, "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", timeout()];
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
        let status: Value = serde_json::from_str(&self.succeed("helm", &args).await?)?;
        status["version"].as_u64().with_context(|| format!("no version in {status}"))
    }

    /// Runs the tests of the chart, which have to succeed and to tell what they have proven: each of these texts.
    pub async fn test(&self, proofs: &[&str]) -> Result<()> {
        let output = self.succeed("helm", &["test", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--logs"]).await?;
        ensure!(output.contains("Phase:") && output.contains("Succeeded"), "{RELEASE}: {output}");
        for proof in proofs {
            ensure!(output.contains(proof), "{RELEASE}: nobody says {proof:?}: {output}");
        }
        Ok(())
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

/// Where the tests of the chart ask for the metrics of a program, by the beginning of the name of their Service.
pub fn metrics_url(scheme: &str, program: &str) -> String {
    format!("{scheme}://{RELEASE}-{program}-metrics-service.{OPERATOR_NAMESPACE}.svc:8080/metrics")
}

/// How long Helm waits for new pods. Long forms have them replaced under full load.
fn timeout() -> &'static str {
    if is_long() { "10m" } else { "3m" }
}

/// The chart of this checkout.
fn chart() -> Result<String> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/multigres-operator");
    Ok(chart.to_str().context("the path of the chart is text")?.to_owned())
}

fn texts<'p>(paths: &[&'p Path]) -> Result<Vec<&'p str>> {
    paths.iter().map(|path| path.to_str().with_context(|| format!("{} is not text", path.display()))).collect()
}
