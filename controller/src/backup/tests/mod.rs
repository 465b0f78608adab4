//! Tables for what repositories mean, when runs are due, and how they go on.

mod judge;
mod memory;
mod progress;
mod schedule;
mod shard;

use jiff::{SignedDuration, Timestamp};

use crate::upstream::{Error, backup::Backup};

/// The moment of the tests: 2027-01-15T08:00:00Z.
pub const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// A moment so many minutes before.
pub fn ago(minutes: i64) -> Timestamp {
    NOW - SignedDuration::from_mins(minutes)
}

/// A complete backup that ended so many minutes ago.
pub fn made(id: &str, kind: &str, minutes: i64) -> Backup {
    Backup {
        id: id.to_owned(),
        kind: kind.to_owned(),
        complete: true,
        start: Some(ago(minutes + 1)),
        stop: Some(ago(minutes)),
        job: format!("job-of-{id}"),
        bytes: 31_457_280,
        wal_start: "0/3000028".to_owned(),
        wal_stop: "0/3000138".to_owned(),
        pooler: "p-1".to_owned(),
    }
}

/// Nobody answers.
pub fn away() -> Error {
    Error::Unavailable { target: "pooler:15270".to_owned(), detail: "connection refused".to_owned() }
}

/// No answer in time.
pub fn slow() -> Error {
    Error::Slow { target: "multiadmin:18070".to_owned(), after: std::time::Duration::from_secs(20) }
}

/// The repository does not answer the pooler.
pub fn broken() -> Error {
    Error::Failed { target: "pooler:15270".to_owned(), detail: "pgbackrest info failed: unable to reach s3".to_owned() }
}
