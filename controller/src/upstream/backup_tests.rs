use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::upstream::{
    Limits,
    pb::multiadmin::multiadmin_service_server::{MultiadminService, MultiadminServiceServer},
};

/// An administration service that answers as told and remembers what it was asked.
#[derive(Clone, Default)]
struct Service {
    asked: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl MultiadminService for Service {
    async fn backup(&self, request: Request<admin::BackupRequest>) -> Result<Response<admin::BackupResponse>, Status> {
        let request = request.into_inner();
        assert!(!request.force_primary, "backups run on replicas");
        self.asked.lock().unwrap().push(format!("{} {} {}", request.table_group, request.shard, request.r#type));
        match request.database.as_str() {
            "postgres" => Ok(Response::new(admin::BackupResponse { job_id: "job-1".into() })),
            "nameless" => Ok(Response::new(admin::BackupResponse::default())),
            _ => Err(Status::failed_precondition("failed to find pooler")),
        }
    }

    async fn get_backup_job_status(
        &self,
        request: Request<admin::GetBackupJobStatusRequest>,
    ) -> Result<Response<admin::GetBackupJobStatusResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(
            (request.database.as_str(), request.shard.as_str()),
            ("postgres", "0-inf"),
            "the way after a restart"
        );
        let status = match request.job_id.as_str() {
            "pending" => admin::JobStatus::Pending,
            "running" => admin::JobStatus::Running,
            "completed" => admin::JobStatus::Completed,
            "failed" => admin::JobStatus::Failed,
            "garbage" => admin::JobStatus::Unknown,
            _ => return Err(Status::not_found("job not found")),
        };
        Ok(Response::new(admin::GetBackupJobStatusResponse {
            status: status.into(),
            backup_id: "20260101-000000F".into(),
            error_message: "no space".into(),
            ..admin::GetBackupJobStatusResponse::default()
        }))
    }

    async fn expire_backups(
        &self,
        request: Request<admin::ExpireBackupsRequest>,
    ) -> Result<Response<admin::ExpireBackupsResponse>, Status> {
        let overrides = request.into_inner().overrides;
        if overrides.get("set").is_some_and(|id| id == ONLY) {
            return Err(Status::internal(format!("failed to expire backups: {REFUSAL}")));
        }
        let mut given: Vec<String> = overrides.iter().map(|(key, value)| format!("{key}={value}")).collect();
        given.sort();
        self.asked.lock().unwrap().extend(given.clone());
        Ok(Response::new(admin::ExpireBackupsResponse { expired_backup_ids: given }))
    }
}

async fn serve(service: Service) -> PoolerAddress {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(MultiadminServiceServer::new(service));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    PoolerAddress::new(address.ip().to_string(), address.port())
}

fn shard(database: &str) -> ShardKey {
    ShardKey::new(database, "default", "0-inf")
}

#[tokio::test]
async fn a_backup_is_begun_on_a_replica_and_has_a_name() {
    let service = Service::default();
    let (client, address) = (GrpcPooler::new(Limits::default()), serve(service.clone()).await);
    let order = |database| Order { shard: shard(database), level: "incremental" };
    assert_eq!(client.start(&address, &order("postgres")).await.unwrap(), "job-1");
    assert_eq!(service.asked.lock().unwrap()[0], "default 0-inf incremental");
    assert_eq!(client.start(&address, &order("nameless")).await.unwrap_err().reason(), "Failed");
    assert!(client.start(&address, &order("other")).await.unwrap_err().to_string().contains("failed to find pooler"));
}

#[tokio::test]
async fn every_state_of_a_job_is_told_apart_from_not_knowing() {
    let (client, address) = (GrpcPooler::new(Limits::default()), serve(Service::default()).await);
    let (client, address, shard) = (&client, &address, &shard("postgres"));
    let job = |id: &'static str| async move { client.job(address, shard, id).await };
    assert_eq!(job("pending").await, Ok(Some(Job::Running)));
    assert_eq!(job("running").await, Ok(Some(Job::Running)));
    assert_eq!(job("completed").await, Ok(Some(Job::Completed("20260101-000000F".into()))));
    assert_eq!(job("failed").await, Ok(Some(Job::Failed("no space".into()))));
    assert_eq!(job("forgotten").await, Ok(None));
    assert_eq!(job("garbage").await.unwrap_err().reason(), "Failed");
    let nowhere = PoolerAddress::new("127.0.0.1", 1);
    assert!(client.job(&nowhere, shard, "running").await.unwrap_err().unreachable());
}

#[tokio::test]
async fn removals_are_overrides_of_options_of_pgbackrest() {
    let (client, address) = (GrpcPooler::new(Limits::default()), serve(Service::default()).await);
    let shard = shard("postgres");
    let gone = client.expire(&address, &shard, &Expiry::KeepFull(3)).await.unwrap();
    assert_eq!(gone, ["repo1_retention_full=3"]);
    let gone = client.expire(&address, &shard, &Expiry::Set("20260102-000000F".into())).await.unwrap();
    assert_eq!(gone, ["set=20260102-000000F"]);
}

/// The only full backup, and what pgBackRest says when somebody wants to remove it.
const ONLY: &str = "20260101-000000F";
const REFUSAL: &str = "pgbackrest expire failed: exit status 103
Output: 2026-01-02 03:04:05.678 P00   INFO: expire command begin 2.57
2026-01-02 03:04:05.912 P00  ERROR: [082]: repo1: full backup 20260101-000000F cannot be expired until another one has been created
2026-01-02 03:04:05.913 P00  ERROR: [103]: expire command encountered 1 error(s), check the log file for details";

#[tokio::test]
async fn a_refused_removal_is_told_in_words_that_are_the_same_each_time() {
    let (client, address) = (GrpcPooler::new(Limits::default()), serve(Service::default()).await);
    let refused = client.expire(&address, &shard("postgres"), &Expiry::Set(ONLY.into())).await.unwrap_err();
    let detail = "repo1: full backup 20260101-000000F cannot be expired until another one has been created".to_owned();
    assert_eq!(refused, Error::Failed { target: address.to_string(), detail });
}

const PAGE: &str = "\
# HELP wal_archiver_failing x
# TYPE wal_archiver_failing gauge
wal_archiver_failing{server=\"localhost:5432\"} 1
wal_archiver_waiting_seconds{server=\"localhost:5432\"} 901.5
wal_archiver_last_archived_timestamp_seconds{server=\"localhost:5432\"} 1.8e+09
";

#[test]
fn the_archiver_is_read_from_a_page_of_the_exporter() {
    let read = Archiver::read(PAGE).unwrap();
    assert!(read.failing);
    assert!((read.waiting_seconds - 901.5).abs() < f64::EPSILON);
    assert_eq!(read.last_archived, Timestamp::from_second(1_800_000_000).ok());
    let never = PAGE.replace("1.8e+09", "0").replace(" 901.5", " NaN");
    assert_eq!(Archiver::read(&never), Some(Archiver { failing: true, ..Archiver::default() }));
}

#[test]
fn a_page_without_our_queries_tells_nothing() {
    assert_eq!(Archiver::read("pg_up 0\n"), None);
    assert_eq!(Archiver::read("wal_archiver_failing_total 1\nwal_archiver_waiting_seconds 1\n"), None);
}

/// Answers one request with a page, as it is.
async fn answering(answer: String) -> PoolerAddress {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let read = stream.read(&mut request).await.unwrap();
        assert!(request[..read].starts_with(b"GET /metrics HTTP/1.0\r\n"));
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    PoolerAddress::new(address.ip().to_string(), address.port())
}

#[tokio::test]
async fn an_exporter_is_scraped_and_its_errors_are_told() {
    let client = GrpcPooler::new(Limits::default());
    let good = answering(format!("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{PAGE}")).await;
    assert!(client.archiver(&good).await.unwrap().failing);
    let bad = answering("HTTP/1.0 500 Internal Server Error\r\n\r\nno".to_owned()).await;
    assert!(client.archiver(&bad).await.unwrap_err().to_string().contains("500"));
    let garbage = answering("?".to_owned()).await;
    assert_eq!(client.archiver(&garbage).await.unwrap_err().reason(), "Failed");
    let nowhere = PoolerAddress::new("127.0.0.1", 1);
    assert_eq!(client.archiver(&nowhere).await.unwrap_err().reason(), "Unavailable");
}
