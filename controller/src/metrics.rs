//! The controller's own metric families, next to the framework's in `shared::metrics`.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use kube::{Resource, ResourceExt as _};
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use shared::{api::v1alpha1::Shard, label};

/// Counters of what the executor does, and what is in its way.
pub struct Metrics {
    /// Writes that were sent, by reason of the plan.
    pub writes: IntCounterVec,
    drains: IntCounterVec,
    blocked: IntGaugeVec,
    /// The series that is set for a shard, by its UID.
    shown: Mutex<HashMap<String, [String; 4]>>,
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
        let drains = IntCounterVec::new(
            Opts::new("multigres_operator_drain_operations_total", "Drains of pool pods that ended, by result."),
            &["cluster", "shard", "namespace", "result"],
        )?;
        let blocked = IntGaugeVec::new(
            Opts::new(
                "multigres_operator_disruption_blocked",
                "1 while a change to a shard waits, by the reason for which it does.",
            ),
            &["cluster", "shard", "namespace", "reason"],
        )?;
        Ok(Self {
            writes: metrics.register(writes)?,
            drains: metrics.register(drains)?,
            blocked: metrics.register(blocked)?,
            shown: Mutex::default(),
        })
    }

    /// Counts a write that ended a drain; others are none of its business.
    pub fn drained<K: Resource>(&self, object: &K, reason: &str) {
        let result = match reason {
            "DrainCompleted" => "success",
            "DrainForced" => "timeout",
            "DrainAborted" | "SwitchoverFailed" => "aborted",
            "DrainCancelled" => "cancelled",
            _ => return,
        };
        let [cluster, shard, namespace] = of(object);
        self.drains.with_label_values(&[cluster.as_str(), &shard, &namespace, result]).inc();
    }

    /// Shows what is in the way of changes to a shard, or that nothing is.
    pub fn blocked(&self, shard: &Shard, reason: Option<&str>) {
        let Some(uid) = shard.uid() else { return };
        let next = reason.map(|reason| {
            let [cluster, name, namespace] = of(shard);
            [cluster, name, namespace, reason.to_owned()]
        });
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &next {
            Some(next) => shown.insert(uid, next.clone()),
            None => shown.remove(&uid),
        };
        if before == next {
            return;
        }
        if let Some(labels) = before {
            // It is there: nobody else removes series.
            let _gone = self.blocked.remove_label_values(&labels.each_ref().map(String::as_str));
        }
        if let Some(labels) = next {
            self.blocked.with_label_values(&labels.each_ref().map(String::as_str)).set(1);
        }
    }

    /// Forgets shards that are gone: their series go with them.
    pub fn forget_shards(&self, exists: impl Fn(&str) -> bool) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|uid, labels| {
            let stays = exists(uid);
            if !stays {
                let _gone = self.blocked.remove_label_values(&labels.each_ref().map(String::as_str));
            }
            stays
        });
    }
}

fn of<K: Resource>(object: &K) -> [String; 3] {
    let cluster = object.labels().get(label::CLUSTER).cloned().unwrap_or_default();
    [cluster, object.name_any(), object.namespace().unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use shared::{api::v1alpha1::ShardSpec, metrics::Build};

    use super::*;

    #[test]
    fn one_series_names_what_blocks_a_shard() {
        let registry = shared::metrics::Metrics::new(Build { version: "0", revision: "0" }).unwrap();
        let metrics = Metrics::new(&registry).unwrap();
        let mut shard = Shard::new("s", ShardSpec::default());
        shard.metadata.uid = Some("u".to_owned());
        let series = || {
            let text = registry.text().unwrap();
            let lines = text.lines().filter(|line| line.starts_with("multigres_operator_disruption_blocked{"));
            lines.map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        metrics.blocked(&shard, Some("Paused"));
        metrics.blocked(&shard, Some("NoStandby"));
        assert_eq!(series().len(), 1);
        assert!(series()[0].contains("NoStandby") && series()[0].ends_with(" 1"), "{:?}", series());
        metrics.blocked(&shard, None);
        assert!(series().is_empty());
        metrics.blocked(&shard, Some("Paused"));
        metrics.forget_shards(|uid| uid == "u");
        assert_eq!(series().len(), 1);
        metrics.forget_shards(|_| false);
        assert!(series().is_empty());
    }
}
