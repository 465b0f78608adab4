//! Metrics that only those may read who are allowed to.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, api::PostParams};
use serde_json::json;
use stories::{
    Bed, Prometheus, Tools, Webhook,
    bed::is_left_out,
    helm::metrics_url,
    rights::{Findings, Rbac, Right},
    until, within,
};

use super::{PROGRAMS, scraped};

/// Admission's pods.
const REVIEWERS: usize = 2;
/// API groups of what decides who may read secured metrics.
const REVIEWS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];

/// Metrics by HTTPS, as the chart's test, one who may read them and one who may not get them, and what the programs have asked about the two.
async fn secured(bed: &Bed, tools: &Tools, namespace: &str) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(bed.client.clone(), namespace);
    let token = async |name: &str| -> Result<String> {
        let account = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
        accounts
            .create(&PostParams::default(), &account)
            .await
            .with_context(|| format!("making the account {name}"))?;
        let request = serde_json::from_value(json!({ "spec": { "audiences": [] } }))?;
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let status = answer.with_context(|| format!("asking for a token of {name}"))?.status;
        status.and_then(|status| status.token).context("an answer without a token")
    };
    let (reader, nobody) = (token("reader").await?, token("nobody").await?);
    let values = [
        "metrics.secure=true".to_owned(),
        "metrics.readers[0].name=reader".to_owned(),
        format!("metrics.readers[0].namespace={namespace}"),
    ];
    tools.upgrade(&values.each_ref().map(String::as_str)).await?;
    operator_ready(bed).await?;
    let proofs = PROGRAMS.map(|program| {
        let url = metrics_url("https", program);
        [format!("{url} answers 401 without a token"), format!("{url} answers 200 with the token of this pod")]
    });
    tools.test(&proofs.as_flattened().iter().map(String::as_str).collect::<Vec<_>>()).await?;
    for (token, up) in [(reader.as_str(), 1), (nobody.as_str(), 0)] {
        let prometheus = Prometheus::start(bed, tools, &values, Some(token)).await?;
        for program in PROGRAMS {
            prometheus.holds(&scraped(program, up), 90).await?;
        }
        let told = prometheus.query("multigres_operator_build_info").await?.len();
        ensure!((told > 0) == (up == 1), "{told} programs have told of themselves");
    }
    let log = bed.audit_log.as_ref().context("the bed has an audit log")?;
    let rights = Rbac::read(&bed.client).await?.rights();
    let reviews: BTreeSet<Right> = rights.into_iter().filter(|right| REVIEWS.contains(&right.group.as_str())).collect();
    ensure!(reviews.len() == PROGRAMS.len() * REVIEWS.len(), "each program asks in two ways: {reviews:?}");
    until("use of all rights that secured metrics need", within(60), || async {
        let mut findings = Findings::new(reviews.clone());
        findings.read(log)?;
        let unused = findings.unused();
        ensure!(unused.is_empty(), "{unused:?}");
        Ok(())
    })
    .await
}

async fn operator_ready(bed: &Bed) -> Result<()> {
    bed.controller_ready().await?;
    Webhook::new(&bed.client).ready(REVIEWERS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secured_metrics_are_scraped_with_a_token_and_every_right_for_that_is_used() -> Result<()> {
    if is_left_out("this story restarts the operator twice") {
        return Ok(());
    }
    let Some(bed) = Bed::connect().await? else { return Ok(()) };
    let tools = Tools::from_env()?;
    let namespace = bed.namespace("readers").await?;
    let revision = tools.revision().await?;
    let outcome = secured(&bed, &tools, &namespace).await;
    // Back, also when something went wrong: other stories come after this one.
    let back = async {
        tools.rollback(revision).await?;
        operator_ready(&bed).await
    };
    let back = back.await;
    outcome?;
    back?;
    bed.remove_namespace(&namespace).await
}
