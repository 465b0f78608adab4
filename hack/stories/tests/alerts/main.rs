//! A real Prometheus looks at the bed with the monitors, alerts and dashboards that users get: every query of a dashboard returns data, and
//! alerts fire by real faults and are over once the fault is.
//!
//! The short form has the two alerts that are cheap to wait for; the long form the seven that users of the Go operator know, and metrics that
//! are secured. With the real data plane (`MULTIGRES_BIN_DIR`) its programs push what they have to tell.

mod cluster;
mod dashboards;
mod operator;
mod secured;

use std::time::Instant;

use anyhow::Result;
use futures::future::try_join_all;
use stories::{Bed, ClusterUnderTest, Prometheus, Tools, lesson};

/// The alerts about one cluster that users of the Go operator know, ...
const OF_A_CLUSTER: [&str; 4] = [
    "MultigresClusterReconcileErrors",
    "MultigresClusterDegraded",
    "MultigresCellGatewayUnavailable",
    "MultigresShardPoolDegraded",
];
/// ... and those about the operator.
const OF_THE_OPERATOR: [&str; 3] = ["MultigresWebhookErrors", "MultigresReconcileSlow", "MultigresControllerSaturated"];
/// How long a condition has to last until they fire.
const FOR: &str = "4s";
/// Passes of the story's faults take seconds, not minutes, and few objects wait for them.
const THRESHOLDS: [(&str, u32); 2] = [("MultigresReconcileSlow", 1), ("MultigresControllerSaturated", 3)];
/// An alert has to fire this many seconds after its fault can be seen.
const FIRES: u64 = 120;
/// It has to be over this many seconds after all is well.
const RESOLVES: u64 = 120;

/// The programs of the operator, by the beginning of the names of their metrics' Services.
const PROGRAMS: [&str; 2] = ["controller-manager", "admission"];

/// An alert with labels that tell it from others of its name.
type Told<'a> = (&'static str, Vec<(&'static str, &'a str)>);

/// A bed that a Prometheus looks at.
struct Story {
    bed: Bed,
    tools: Tools,
    prometheus: Prometheus,
}

impl Story {
    async fn begin() -> Result<Option<Self>> {
        let Some(bed) = Bed::connect().await? else { return Ok(None) };
        bed.controller_ready().await?;
        let tools = Tools::from_env()?;
        let rule = |alert: &str, what: &str| format!("monitoring.prometheusRule.rules.{alert}.{what}");
        let alerts = OF_A_CLUSTER.iter().chain(&OF_THE_OPERATOR);
        let mut values: Vec<String> = alerts.map(|alert| rule(alert, &format!("for={FOR}"))).collect();
        values.extend(THRESHOLDS.map(|(alert, threshold)| rule(alert, &format!("threshold={threshold}"))));
        let prometheus = Prometheus::start(&bed, &tools, &values, None).await?;
        for program in PROGRAMS {
            prometheus.holds(&scraped(program, 1), 60).await?;
        }
        Ok(Some(Self { bed, tools, prometheus }))
    }

    /// A small cluster that is well.
    async fn minimal(&self, namespace: &str) -> Result<ClusterUnderTest> {
        let manifest = lesson::root().join("samples/minimal.yaml");
        let cluster = ClusterUnderTest::apply(&self.bed, namespace, &manifest).await?;
        cluster.healthy(300).await?;
        Ok(cluster)
    }

    /// Waits until each of them has fired. They are looked at side by side: one may be over before another begins.
    async fn all_fire(&self, told: &[Told<'_>]) -> Result<()> {
        let begun = Instant::now();
        let all = told.iter().map(|(alert, labels)| async move {
            self.prometheus.fires(alert, labels, FIRES).await?;
            eprintln!("{alert} fires ({} s)", begun.elapsed().as_secs());
            Ok::<_, anyhow::Error>(())
        });
        try_join_all(all).await.map(drop)
    }

    async fn none_fires(&self, told: &[Told<'_>]) -> Result<()> {
        for (alert, labels) in told {
            self.prometheus.resolves(alert, labels, RESOLVES).await?;
        }
        Ok(())
    }
}

/// Whether a program is scraped, as a query that yields something if it is so.
fn scraped(program: &str, up: u8) -> String {
    format!(r#"up{{job=~".*{program}-metrics-service"}} == {up}"#)
}
