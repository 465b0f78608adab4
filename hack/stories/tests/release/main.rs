//! The life of the operator's release, beside a cluster that must not notice, and as a newcomer lives through it.
//!
//! The short form upgrades once and rolls back. The long form goes through all values of released versions, twice: merged by Helm itself, as
//! Helm 3 does, and by the API server. The whole bed changes, so nothing else runs meanwhile.

mod beside;
mod newcomer;
mod operator;

use anyhow::{Context as _, Result};
use stories::{
    bed::{is_left_out, is_long},
    helm::Apply,
    released,
};

use self::{beside::Beside, operator::Operator};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_notices_nothing_of_upgrades_rollbacks_and_reinstalls() -> Result<()> {
    let Some(operator) = Operator::begin().await? else { return Ok(()) };
    let sets = released::all()?;
    for set in &sets {
        operator.tools.render(&[set.as_path()]).await.with_context(|| released::title(set))?;
    }
    let last = sets.last().context("values of a released version")?;
    let beside = Beside::begin(&operator).await?;
    let outcome = if is_long() {
        // The bed's own release is of the second kind, so that comes last.
        match beside.life(Apply::Client, &sets).await {
            Ok(()) => beside.life(Apply::Server, &sets).await,
            failed => failed,
        }
    } else {
        beside.there_and_back(last).await
    };
    // Back, also when something went wrong: other stories come after this one.
    let back = operator.back().await;
    outcome?;
    back?;
    beside.end().await
}

#[tokio::test]
async fn a_newcomer_gets_from_the_first_page_to_a_cluster_of_three_zones_and_back() -> Result<()> {
    if is_left_out("this story installs the operator anew") {
        return Ok(());
    }
    let Some(operator) = Operator::begin().await? else { return Ok(()) };
    let outcome = newcomer::walk(&operator).await;
    let back = operator.back().await;
    outcome?;
    back
}
