//! Watches of the API server that did not go well.

use prometheus::{IntCounter, IntCounterVec, Opts};

use super::{Error, Metrics};

/// Counts by kind how often an error ended a watch. One that the API server ends in good order, as it does every few minutes, goes on
/// where it was and is not counted.
#[derive(Clone, Debug)]
pub struct Watches {
    restarts: IntCounterVec,
}

impl Watches {
    /// Registers the family.
    pub fn new(metrics: &Metrics) -> Result<Self, Error> {
        let restarts = IntCounterVec::new(
            Opts::new(
                "multigres_operator_watch_restarts_total",
                "Watches that an error ended, so that they began anew.",
            ),
            &["kind"],
        )?;
        Ok(Self { restarts: metrics.register(restarts)? })
    }

    /// The number of one kind, which is shown from here on.
    pub fn of(&self, kind: &str) -> IntCounter {
        self.restarts.with_label_values(&[kind])
    }
}
