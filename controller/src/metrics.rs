//! The controller's own metric families, next to the framework's in `shared::metrics`.

use prometheus::{IntCounterVec, Opts};

/// Counters of what the executor does.
pub struct Metrics {
    /// Writes that were sent, by reason of the plan.
    pub writes: IntCounterVec,
}

impl Metrics {
    /// Registers the families.
    pub fn new(metrics: &shared::metrics::Metrics) -> Result<Self, prometheus::Error> {
        let writes = IntCounterVec::new(
            Opts::new(
                "multigres_operator_writes_total",
                "Writes sent to the API server or a topology server, by reason.",
            ),
            &["reason"],
        )?;
        Ok(Self { writes: metrics.register(writes)? })
    }
}
