//! cert-manager on a bed: its own controller, built with the loops for self-signed and CA issuers, as a host process.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::addons::check_alive;
use crate::control_plane::Plan;
use crate::process::{self, Lifetime};
use crate::state::Ledger;

/// The program, and its name in the bed's records.
const NAME: &str = "cert-manager";
/// Where Secrets of ClusterIssuers are, as in a default installation.
const NAMESPACE: &str = "cert-manager";

/// Applies cert-manager's definitions and starts its controller unless it runs.
pub fn start(plan: &Plan, ledger: &Ledger) -> Result<()> {
    plan.tools.ensure(&[NAME])?;
    // A bed from before this component was known lacks its identity.
    plan.write_files(ledger.state()?.kubelets())?;
    let mut namespace = plan.kubectl();
    namespace.args(["apply", "--server-side", "--field-manager=testbed", "-f", "-"]);
    let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    process::feed(&mut namespace, &object.to_string()).context("making cert-manager's namespace")?;
    let definitions = plan.tools.manifests(NAME);
    let mut apply = plan.kubectl();
    // The definitions are larger than the annotation that a client-side apply would write.
    apply.args(["apply", "--server-side", "--force-conflicts", "--field-manager=testbed", "-f"]).arg(&definitions);
    process::output(&mut apply).context("applying cert-manager's definitions")?;
    let mut wait = plan.kubectl();
    wait.args(["wait", "--for=condition=Established", "--timeout=60s", "-f"]).arg(&definitions);
    process::output(&mut wait).context("waiting for cert-manager's definitions")?;
    if ledger.running(NAME)?.is_some() {
        return Ok(());
    }
    let words = plan.command(
        NAME,
        vec![
            format!("--kubeconfig={}", plan.kubeconfig_of(NAME).display()),
            format!("--cluster-resource-namespace={NAMESPACE}"),
        ],
    );
    let process = plan.start(NAME, words, Lifetime::Detached)?;
    ledger.record(NAME, &process)?;
    // It ends at once when it cannot reach the API server; there is no port to ask.
    let ended = process::wait_until(Duration::from_secs(1), || !process.alive());
    if ended { check_alive(NAME, &process) } else { Ok(()) }
}
