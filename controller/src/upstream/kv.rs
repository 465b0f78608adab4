//! The few operations that the topology needs of a key-value store.

use std::future::Future;

use super::Result;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Full key.
    pub key: String,
    /// Raw value.
    pub value: Vec<u8>,
    /// Revision of the last write to it.
    pub revision: i64,
}

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    /// One key.
    Key(String),
    /// All keys that start so, in ascending order.
    Prefix(String),
}

/// A key-value store with compare-and-set. `endpoints` names the store: its members.
pub trait Kv: Send + Sync {
    /// Reads all ranges at one revision, in one round trip.
    fn read(&self, endpoints: &[String], ranges: &[Range]) -> impl Future<Output = Result<Vec<Vec<Entry>>>> + Send;

    /// Writes a key if its last revision is `expected`, or if it does not exist for `None`. Tells whether it was written.
    fn put(
        &self,
        endpoints: &[String],
        key: &str,
        value: Vec<u8>,
        expected: Option<i64>,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Removes a key if its last revision is `expected`. Tells whether it was removed.
    fn delete(&self, endpoints: &[String], key: &str, expected: i64) -> impl Future<Output = Result<bool>> + Send;
}
