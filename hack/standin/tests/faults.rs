//! The stand-in's faults do what they promise, and stop when they are told to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bed;

use bed::{Bed, eventually, http, http_call, status};
use standin::proto::clustermetadata::{
    BackupLocation, Database, PoolerLifecycleStatus, S3Backup, backup_location::Location,
};
use standin::proto::multipoolermanagerdata::{GetBackupByJobIdRequest, GetBackupsRequest, StatusRequest};

#[tokio::test]
async fn faults_come_over_http_and_from_the_file_and_go_again() {
    if bed::is_real() {
        bed::skip("faults are the stand-in's own");
        return;
    }
    let Some(bed) = Bed::start().await else { return };
    bed.put_database(&bed.ground.open_directory("repository")).await;
    let place = bed.place("p-1");
    let mut pooler = bed.start_multipooler(&place);
    eventually("an answer", || status(place.grpc)).await;

    assert_eq!(http_call(place.http, "POST", "/standin/fault", "no-such-fault").unwrap().0, 400);
    assert_eq!(http_call(place.http, "POST", "/standin/fault", "refuse-rpc fail-ready").unwrap().0, 202);
    eventually("a refusal", || async {
        let answer = bed::manager(place.grpc).status(StatusRequest {}).await;
        answer.err().filter(|status| status.message() == "refused on command")
    })
    .await;
    assert_eq!(http(place.http, "/ready"), Some(503));
    assert_eq!(http(place.http, "/live"), Some(200));
    assert_eq!(http_call(place.http, "DELETE", "/standin/fault", "").unwrap().0, 204);
    eventually("an answer", || status(place.grpc)).await;

    let file = bed.ground.write("p-1/standin-faults", "forget-registration\n");
    eventually("no record", || async { bed.pooler("p-1").await.is_none().then_some(()) }).await;
    std::fs::write(&file, "quarantine stuck-drain\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    eventually("quarantine", || async {
        let record = bed.pooler("p-1").await?;
        (bed::lifecycle(&record) == PoolerLifecycleStatus::LifecycleQuarantined).then_some(())
    })
    .await;
    pooler.signal("TERM");
    eventually("the stuck stop", || async {
        let record = bed.pooler("p-1").await?;
        (bed::lifecycle(&record) == PoolerLifecycleStatus::LifecycleStopping).then_some(())
    })
    .await;
    assert!(pooler.runs(), "it never gets to the end");
}

#[tokio::test]
async fn a_commanded_crash_ends_the_process() {
    if bed::is_real() {
        bed::skip("faults are the stand-in's own");
        return;
    }
    let Some(bed) = Bed::start().await else { return };
    let (mut orch, http_port, _) = bed.start_orch();
    eventually("/live", || async { http(http_port, "/live") }).await;
    http_call(http_port, "POST", "/standin/fault", "crash");
    assert_eq!(orch.ended().await.code(), Some(1));
}

/// Why the repository cannot be listed; nothing where it can.
async fn list_fails(port: u16) -> Option<String> {
    let answer = bed::manager(port).get_backups(GetBackupsRequest { limit: 0 }).await;
    answer.err().map(|status| status.message().to_owned())
}

#[tokio::test]
async fn a_look_into_the_repository_that_is_cut_off_shows_nothing() {
    if bed::is_real() {
        bed::skip("faults are the stand-in's own");
        return;
    }
    let Some(bed) = Bed::start().await else { return };
    bed.put_database(&bed.ground.open_directory("repository")).await;
    let place = bed.place("p-1");
    let _pooler = bed.start_pod(&place);
    let count = || async {
        let answer = bed::manager(place.grpc).get_backups(GetBackupsRequest { limit: 0 }).await;
        answer.ok().map(|answer| answer.into_inner().backups.len())
    };
    eventually("the first backup", || async { count().await.filter(|count| *count == 1) }).await;
    http_call(place.http, "POST", "/standin/fault", "empty-backups");
    eventually("an empty list", || async { count().await.filter(|count| *count == 0) }).await;
    let asked = GetBackupByJobIdRequest { job_id: "job-1".into() };
    assert!(bed::manager(place.grpc).get_backup_by_job_id(asked).await.unwrap().into_inner().backup.is_none());
    http_call(place.http, "DELETE", "/standin/fault", "");
    eventually("the first backup again", || async { count().await.filter(|count| *count == 1) }).await;
}

#[tokio::test]
async fn a_repository_can_be_lost_and_keys_count_only_where_they_are_asked_for() {
    if bed::is_real() {
        bed::skip("faults are the stand-in's own");
        return;
    }
    let Some(bed) = Bed::start().await else { return };
    bed.put_database(&bed.ground.open_directory("repository")).await;
    let place = bed.place("p-1");
    let _pooler = bed.start_multipooler(&place);
    eventually("a list", || async { list_fails(place.grpc).await.is_none().then_some(()) }).await;

    http_call(place.http, "POST", "/standin/fault", "lose-repository");
    eventually("the loss", || async { list_fails(place.grpc).await.filter(|why| why.contains("unable to reach")) })
        .await;
    http_call(place.http, "POST", "/standin/fault", "revoke-credentials");
    eventually("a list without keys", || async { list_fails(place.grpc).await.is_none().then_some(()) }).await;

    let location = Location::S3(S3Backup { bucket: "b".into(), region: "r".into(), ..S3Backup::default() });
    let database = Database {
        name: "postgres".into(),
        backup_location: Some(BackupLocation { location: Some(location), ..BackupLocation::default() }),
        cells: vec![bed::CELL.into()],
        ..Database::default()
    };
    bed.put(&format!("{}/databases/postgres/Database", bed::ROOT), &database).await;
    let place = bed.place("p-2");
    let _pooler = bed.start_multipooler(&place);
    eventually("a list", || async { list_fails(place.grpc).await.is_none().then_some(()) }).await;
    http_call(place.http, "POST", "/standin/fault", "revoke-credentials");
    eventually("the refusal", || async { list_fails(place.grpc).await.filter(|why| why.contains("403")) }).await;
}
