//! When an object is looked at again: after success by what is pending, after failure by how often it failed.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use shared::kubeutil::ObjectKey;

use crate::{plan::Requeue, stores::Stores};

/// A settled object is checked about this often, in case an event was lost.
const SETTLED: Duration = Duration::from_hours(1);
/// First delay after a failure.
const FIRST: Duration = Duration::from_secs(1);
/// Longest delay after failures.
const LONGEST: Duration = Duration::from_mins(5);

/// The delay that a successful pass asks for; `None` waits for events alone. `spread` in 0..1 keeps objects from coming due together.
pub fn after_success(requeue: Requeue, spread: f64) -> Option<Duration> {
    match requeue {
        Requeue::Settled => Some(SETTLED.mul_f64(0.9 + 0.2 * spread)),
        Requeue::After(delay) => Some(delay),
        Requeue::Never => None,
    }
}

/// The delay after the `failures`-th failure in a row, counted from one.
pub fn after_failure(failures: u32, spread: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(u32::MAX));
    doubled.min(LONGEST).mul_f64(0.8 + 0.4 * spread)
}

/// Failures in a row, per object. Success forgets them, and so does the end of the object.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: Mutex<HashMap<ObjectKey, u32>>,
}

impl Backoff {
    /// Counts one more failure; returns how many they are in a row, and the delay.
    pub fn failed(&self, key: &ObjectKey) -> (u32, Duration) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.clone()).or_insert(0);
        *count = count.saturating_add(1);
        (*count, after_failure(*count, rand::random()))
    }

    /// Forgets the failures of an object that succeeded.
    pub fn succeeded(&self, key: &ObjectKey) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Forgets the failures of objects that are gone. Called now and then, so that memory follows the number of objects.
    pub fn forget_gone(&self, stores: &Stores) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|key, _| stores.live(key).is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::api::v1alpha1::{Shard, ShardSpec};

    use super::*;

    #[test]
    fn failures_double_the_delay_up_to_five_minutes() {
        let delays: Vec<u64> = (1..=10).map(|n| after_failure(n, 0.5).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(after_failure(u32::MAX, 0.5), LONGEST);
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        assert_eq!(after_failure(5, 0.0), Duration::from_millis(12_800));
        assert!(after_failure(5, 1.0) <= Duration::from_millis(19_200));
    }

    #[test]
    fn success_forgets_failures() {
        let key =
            ObjectKey { group: String::new(), kind: "Shard".into(), namespace: Some("n".into()), name: "s".into() };
        let backoff = Backoff::default();
        backoff.failed(&key);
        assert_eq!(backoff.failed(&key).0, 2);
        backoff.succeeded(&key);
        let (failures, delay) = backoff.failed(&key);
        assert_eq!(failures, 1);
        assert!(delay < Duration::from_secs(2));
    }

    #[test]
    fn failures_go_with_their_object() {
        let key = |name: &str| ObjectKey::namespaced::<Shard>("n", name);
        let stores = Stores::default();
        let mut shard = Shard::new("here", ShardSpec::default());
        shard.metadata.namespace = Some("n".to_owned());
        stores.shards.insert(Arc::new(shard));
        let backoff = Backoff::default();
        backoff.failed(&key("here"));
        backoff.failed(&key("gone"));
        backoff.forget_gone(&stores);
        assert_eq!(backoff.failed(&key("here")).0, 2);
        assert_eq!(backoff.failed(&key("gone")).0, 1, "another one of the same name starts from nothing");
    }

    #[test]
    fn a_settled_object_is_looked_at_about_hourly() {
        assert_eq!(after_success(Requeue::Settled, 0.5), Some(SETTLED));
        assert_eq!(after_success(Requeue::Never, 0.5), None);
    }
}
