//! A bounded cache of connections: the idle go first, then the least recently used.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Connections by address. Memory does not grow with addresses that were used once.
#[derive(Debug)]
pub struct IdleCache<K, V> {
    entries: Mutex<HashMap<K, (V, Instant)>>,
    capacity: usize,
    idle: Duration,
}

impl<K: Hash + Eq + Clone, V: Clone> IdleCache<K, V> {
    /// A cache of at most `capacity` entries, each dropped after `idle` without use.
    pub fn new(capacity: usize, idle: Duration) -> Self {
        Self { entries: Mutex::new(HashMap::new()), capacity: capacity.max(1), idle }
    }

    /// The entry of a key, made on first use.
    pub fn get_or_insert(&self, key: &K, make: impl FnOnce() -> V) -> V {
        let now = Instant::now();
        let mut entries = self.lock();
        if let Some((value, used)) = entries.get_mut(key) {
            *used = now;
            return value.clone();
        }
        // Swept on growth only: a hit costs one look-up.
        entries.retain(|_, (_, used)| now.duration_since(*used) < self.idle);
        while entries.len() >= self.capacity {
            let Some(oldest) = entries.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone()) else {
                break;
            };
            entries.remove(&oldest);
        }
        let value = make();
        entries.insert(key.clone(), (value.clone(), now));
        value
    }

    /// The entry of a key, if it is there.
    pub fn get(&self, key: &K) -> Option<V> {
        let mut entries = self.lock();
        let (value, used) = entries.get_mut(key)?;
        *used = Instant::now();
        Some(value.clone())
    }

    /// Replaces the entry of a key.
    pub fn insert(&self, key: &K, value: V) {
        self.remove(key);
        self.get_or_insert(key, || value);
    }

    /// Forgets a key.
    pub fn remove(&self, key: &K) {
        self.lock().remove(key);
    }

    /// Forgets what was idle for too long.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|_, (_, used)| now.duration_since(*used) < self.idle);
    }

    /// How many entries there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, (V, Instant)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_goes_when_it_is_full() {
        let cache = IdleCache::new(2, Duration::from_mins(1));
        for key in ["a", "b", "a", "c"] {
            cache.get_or_insert(&key, || key);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!((cache.get(&"a"), cache.get(&"b"), cache.get(&"c")), (Some("a"), None, Some("c")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_idle_go_by_themselves() {
        let cache = IdleCache::new(10, Duration::from_mins(1));
        cache.insert(&"a", 1);
        tokio::time::advance(Duration::from_secs(59)).await;
        cache.insert(&"b", 2);
        tokio::time::advance(Duration::from_secs(2)).await;
        cache.sweep();
        assert_eq!((cache.get(&"a"), cache.get(&"b"), cache.len()), (None, Some(2), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_entry_is_made_anew() {
        let cache = IdleCache::new(10, Duration::from_mins(1));
        cache.insert(&"a", 1);
        cache.remove(&"a");
        assert_eq!(cache.get_or_insert(&"a", || 2), 2);
    }
}
