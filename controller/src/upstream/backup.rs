//! Backups as the data plane tells of them and is asked for them: lists from poolers, jobs from the administration service, and the
//! state of WAL archiving from the exporter beside PostgreSQL.

use std::{fmt, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;

use super::{
    Error, PoolerAddress, Result, ShardKey, codec,
    pb::{
        multiadmin::{self as admin, multiadmin_service_client::MultiadminServiceClient},
        multipoolermanagerdata as data,
    },
    pooler::{GrpcPooler, manager, within},
};

/// How long a list of backups may take: it waits behind whatever the pooler does, and reads the repository.
pub const LIST_DEADLINE: Duration = Duration::from_secs(40);
/// How long the start of a backup, or a question about it, may take.
pub const JOB_DEADLINE: Duration = Duration::from_secs(20);
/// How long the removal of backups may take.
pub const EXPIRE_DEADLINE: Duration = Duration::from_mins(2);
/// How long the exporter may take.
const SCRAPE_DEADLINE: Duration = Duration::from_secs(15);
/// No page of an exporter is longer.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// The backups of shards.
pub trait Backups: Send + Sync {
    /// Everything that the repository of a pooler's shard holds, in no order. Waits behind a backup that this pooler makes. Nothing at all is
    /// also what a pooler says whose look into the repository was cut off.
    fn list<'a>(&'a self, pooler: &'a PoolerAddress) -> BoxFuture<'a, Result<Vec<Backup>>>;

    /// How the archiving of WAL fares, from the exporter beside a primary.
    fn archiver<'a>(&'a self, exporter: &'a PoolerAddress) -> BoxFuture<'a, Result<Archiver>>;

    /// Has the administration service begin a backup on a replica; returns the name of the job.
    ///
    /// A backup that another pooler of the shard makes is aborted by it: ask [`super::Topology::backup_lease`] before.
    fn start<'a>(&'a self, admin: &'a PoolerAddress, order: &'a Order) -> BoxFuture<'a, Result<String>>;

    /// What became of a job; `None` when nobody knows of it, neither the service nor the repository.
    fn job<'a>(
        &'a self,
        admin: &'a PoolerAddress,
        shard: &'a ShardKey,
        job: &'a str,
    ) -> BoxFuture<'a, Result<Option<Job>>>;

    /// Removes backups; returns the names of those that are gone. Fails while anybody holds the lease on the repository, without a standby that
    /// serves, and for the only full backup.
    fn expire<'a>(
        &'a self,
        admin: &'a PoolerAddress,
        shard: &'a ShardKey,
        what: &'a Expiry,
    ) -> BoxFuture<'a, Result<Vec<String>>>;
}

/// A backup in a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backup {
    /// Its name, such as `20260101-120000F`.
    pub id: String,
    /// `full`, `diff` or `incr`.
    pub kind: String,
    /// Whether it can be used.
    pub complete: bool,
    /// When it began.
    pub start: Option<Timestamp>,
    /// When it ended.
    pub stop: Option<Timestamp>,
    /// The job that it was made for.
    pub job: String,
    /// Size of the database, in bytes.
    pub bytes: u64,
    /// First position of the WAL that it needs.
    pub wal_start: String,
    /// Last position of the WAL that it needs.
    pub wal_stop: String,
    /// Who made it.
    pub pooler: String,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Of which shard.
    pub shard: ShardKey,
    /// `full`, `differential` or `incremental`.
    pub level: &'static str,
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// It is under way.
    Running,
    /// It made this backup.
    Completed(String),
    /// It failed.
    Failed(String),
}

/// Which backups are to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// All but so many full ones, and what builds on them.
    KeepFull(i32),
    /// This one, and what builds on it, whoever it belongs to.
    Set(String),
}

impl Expiry {
    /// As overrides of options of pgBackRest.
    fn overrides(&self) -> std::collections::HashMap<String, String> {
        let (key, value) = match self {
            Self::KeepFull(count) => ("repo1_retention_full", count.to_string()),
            Self::Set(id) => ("set", id.clone()),
        };
        [(key.to_owned(), value)].into_iter().collect()
    }
}

/// How the archiving of WAL fares, as PostgreSQL's view `pg_stat_archiver` and the directory `archive_status` tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Archiver {
    /// Whether the last attempt failed.
    pub failing: bool,
    /// For how long the oldest complete segment has been waiting, in seconds; zero if none does.
    pub waiting_seconds: f64,
    /// When a segment was last archived.
    pub last_archived: Option<Timestamp>,
}

impl Archiver {
    /// Reads a page of an exporter; `None` when our queries are not among what it answers, as on a pod from before they were.
    pub fn read(page: &str) -> Option<Self> {
        let value = |name: &str| {
            page.lines().find_map(|line| {
                let rest = line.strip_prefix(name)?;
                let rest = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
                rest.strip_prefix(' ')?.split_whitespace().next()?.parse::<f64>().ok()
            })
        };
        let last = value("wal_archiver_last_archived_timestamp_seconds").filter(|at| *at > 0.0);
        #[expect(clippy::cast_possible_truncation, reason = "a time; the constructor judges what is out of range")]
        let last_archived = last.and_then(|at| Timestamp::from_second(at as i64).ok());
        let waiting_seconds = value("wal_archiver_waiting_seconds")?;
        Some(Self {
            failing: value("wal_archiver_failing")? > 0.0,
            waiting_seconds: if waiting_seconds.is_finite() { waiting_seconds.max(0.0) } else { 0.0 },
            last_archived,
        })
    }
}

impl Backups for GrpcPooler {
    fn list<'a>(&'a self, pooler: &'a PoolerAddress) -> BoxFuture<'a, Result<Vec<Backup>>> {
        async move {
            // A limit would cut off the newest: the list begins with the oldest.
            let request = within(data::GetBackupsRequest { limit: 0 }, LIST_DEADLINE);
            let answer = self
                .call(pooler, LIST_DEADLINE, |channel| async move { manager(channel).get_backups(request).await })
                .await?;
            Ok(answer.backups.into_iter().map(backup).collect())
        }
        .boxed()
    }

    fn archiver<'a>(&'a self, exporter: &'a PoolerAddress) -> BoxFuture<'a, Result<Archiver>> {
        async move {
            let page = timeout(SCRAPE_DEADLINE, page(exporter))
                .await
                .map_err(|_| Error::Slow { target: exporter.to_string(), after: SCRAPE_DEADLINE })??;
            Archiver::read(&page).ok_or_else(|| Error::Failed {
                target: exporter.to_string(),
                detail: "it tells nothing about the archiving of WAL".to_owned(),
            })
        }
        .boxed()
    }

    fn start<'a>(&'a self, address: &'a PoolerAddress, order: &'a Order) -> BoxFuture<'a, Result<String>> {
        async move {
            let request = admin::BackupRequest {
                database: order.shard.database.clone(),
                table_group: order.shard.table_group.clone(),
                shard: order.shard.shard.clone(),
                r#type: order.level.to_owned(),
                force_primary: false,
            };
            let request = within(request, JOB_DEADLINE);
            let answer = self
                .call_raw(address, JOB_DEADLINE, |channel| async move {
                    MultiadminServiceClient::new(channel).backup(request).await
                })
                .await?;
            let answer = answer.map_err(|status| match status.code() {
                // No replica serves at this moment, so nothing was begun.
                Code::FailedPrecondition | Code::NotFound => {
                    Error::Unavailable { target: address.to_string(), detail: status.message().to_owned() }
                }
                _ => Error::from_grpc(&address.to_string(), &status, JOB_DEADLINE),
            })?;
            if answer.job_id.is_empty() {
                return Err(Error::Failed { target: address.to_string(), detail: "it names no job".to_owned() });
            }
            Ok(answer.job_id)
        }
        .boxed()
    }

    fn job<'a>(
        &'a self,
        address: &'a PoolerAddress,
        shard: &'a ShardKey,
        job: &'a str,
    ) -> BoxFuture<'a, Result<Option<Job>>> {
        async move {
            // With the shard the service asks the repository about jobs that it has forgotten.
            let request = admin::GetBackupJobStatusRequest {
                job_id: job.to_owned(),
                database: shard.database.clone(),
                table_group: shard.table_group.clone(),
                shard: shard.shard.clone(),
            };
            let request = within(request, JOB_DEADLINE);
            let answer = self
                .call_raw(address, JOB_DEADLINE, |channel| async move {
                    MultiadminServiceClient::new(channel).get_backup_job_status(request).await
                })
                .await?;
            Ok(match answer {
                Err(status) if status.code() == Code::NotFound => None,
                Err(status) => return Err(Error::from_grpc(&address.to_string(), &status, JOB_DEADLINE)),
                Ok(answer) => Some(match answer.status() {
                    admin::JobStatus::Completed => Job::Completed(answer.backup_id),
                    admin::JobStatus::Failed => Job::Failed(answer.error_message),
                    admin::JobStatus::Pending | admin::JobStatus::Running => Job::Running,
                    admin::JobStatus::Unknown => {
                        let detail = format!("it does not know how job {job} fares");
                        return Err(Error::Failed { target: address.to_string(), detail });
                    }
                }),
            })
        }
        .boxed()
    }

    fn expire<'a>(
        &'a self,
        address: &'a PoolerAddress,
        shard: &'a ShardKey,
        what: &'a Expiry,
    ) -> BoxFuture<'a, Result<Vec<String>>> {
        async move {
            let request = admin::ExpireBackupsRequest {
                database: shard.database.clone(),
                table_group: shard.table_group.clone(),
                shard: shard.shard.clone(),
                overrides: what.overrides(),
            };
            let request = within(request, EXPIRE_DEADLINE);
            let answer = self
                .call(address, EXPIRE_DEADLINE, |channel| async move {
                    MultiadminServiceClient::new(channel).expire_backups(request).await
                })
                .await
                .map_err(brief)?;
            Ok(answer.expired_backup_ids)
        }
        .boxed()
    }
}

/// A refusal in the words of pgBackRest's first error. Its output has the time in each line, so that the same refusal would never be told alike.
fn brief(error: Error) -> Error {
    let words = |line: &str| {
        let (_, error) = line.split_once("ERROR: [")?;
        error.split_once("]: ").map(|(_, words)| words.trim().to_owned())
    };
    match error {
        Error::Failed { target, detail } => {
            let found = detail.lines().find_map(words);
            Error::Failed { target, detail: found.unwrap_or(detail) }
        }
        error => error,
    }
}

fn backup(found: data::BackupMetadata) -> Backup {
    Backup {
        complete: found.status() == data::backup_metadata::Status::Complete,
        start: found.start_timestamp.as_ref().and_then(codec::timestamp),
        stop: found.stop_timestamp.as_ref().and_then(codec::timestamp),
        id: found.backup_id,
        kind: found.r#type,
        job: found.job_id,
        bytes: found.backup_size_bytes,
        wal_start: found.start_lsn,
        wal_stop: found.stop_lsn,
        pooler: found.multipooler_id,
    }
}

/// Fetches `/metrics`. With this version of HTTP the body ends with the connection, in one piece.
async fn page(exporter: &PoolerAddress) -> Result<String> {
    let target = exporter.to_string();
    let away = |error: std::io::Error| Error::Unavailable { target: target.clone(), detail: error.to_string() };
    let mut stream = TcpStream::connect((exporter.host.as_str(), exporter.port)).await.map_err(away)?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {target}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(away)?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer).await.map_err(away)?;
    let answer = String::from_utf8_lossy(&answer);
    let failed = |detail: String| Error::Failed { target: exporter.to_string(), detail };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| failed("its answer is no HTTP".to_owned()))?;
    let line = head.lines().next().unwrap_or_default();
    if line.split(' ').nth(1) != Some("200") {
        return Err(failed(format!("it answers {line}")));
    }
    Ok(body.to_owned())
}

/// A data plane without anybody who knows of backups.
pub(super) struct Nobody;

impl Nobody {
    fn answer<'a, T: Send + 'a>(target: &impl fmt::Display) -> BoxFuture<'a, Result<T>> {
        let error = Error::Unavailable { target: target.to_string(), detail: "nobody is there".to_owned() };
        async move { Err(error) }.boxed()
    }
}

impl Backups for Nobody {
    fn list<'a>(&'a self, pooler: &'a PoolerAddress) -> BoxFuture<'a, Result<Vec<Backup>>> {
        Self::answer(pooler)
    }

    fn archiver<'a>(&'a self, exporter: &'a PoolerAddress) -> BoxFuture<'a, Result<Archiver>> {
        Self::answer(exporter)
    }

    fn start<'a>(&'a self, admin: &'a PoolerAddress, _: &'a Order) -> BoxFuture<'a, Result<String>> {
        Self::answer(admin)
    }

    fn job<'a>(&'a self, admin: &'a PoolerAddress, _: &'a ShardKey, _: &'a str) -> BoxFuture<'a, Result<Option<Job>>> {
        Self::answer(admin)
    }

    fn expire<'a>(
        &'a self,
        admin: &'a PoolerAddress,
        _: &'a ShardKey,
        _: &'a Expiry,
    ) -> BoxFuture<'a, Result<Vec<String>>> {
        Self::answer(admin)
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
