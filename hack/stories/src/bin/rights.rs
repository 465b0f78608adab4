//! Holds the rights of the operator on a bed against what the API server's audit log shows of its work. It runs after the stories.

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use stories::{
    Bed,
    bed::{AUDIT_LOG, KUBECONFIG},
    rights::{Findings, Rbac},
};

/// Which stories ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Each a little, some not at all.
    Short,
    /// All of them: what is given has been used.
    Long,
    /// A few of them, again and again.
    Soak,
}

#[derive(Parser)]
struct Args {
    /// Which stories ran.
    #[arg(long, env = "MULTIGRES_STORY_FORM", value_enum, default_value = "short")]
    form: Form,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let bed = Bed::connect().await?.with_context(|| format!("{KUBECONFIG} does not name a bed"))?;
    let log = bed.audit_log.clone().with_context(|| format!("{AUDIT_LOG} does not name the audit log"))?;
    let mut findings = Findings::new(Rbac::read(&bed.client).await?.rights());
    findings.read(&log)?;
    println!("{}", findings.summary());
    let unused = findings.unused();
    if !unused.is_empty() {
        println!("given and not used by these stories:");
        for line in unused {
            println!("  {line}");
        }
    }
    findings.judge(args.form == Form::Long)
}
