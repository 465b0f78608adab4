//! The real controller making backups and judging repositories, against a real API server and a repository that is played.
//!
//! Needs the kubeconfig of an API server in `MULTIGRES_TEST_KUBECONFIG`.

use std::time::Duration;

use super::bed::{Bed, DEADLINE, condition, eventually, minimal, stage::Stage};
use controller::upstream::{
    Error, ShardKey, TopoAddress,
    backup::{Archiver, Backup, Expiry},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_mins(3);

fn backup(id: &str, minutes: i64) -> Backup {
    let stop = Timestamp::now() - SignedDuration::from_mins(minutes);
    Backup {
        id: id.to_owned(),
        kind: "full".to_owned(),
        complete: true,
        start: Some(stop - SignedDuration::from_secs(5)),
        stop: Some(stop),
        bytes: 1024,
        ..Backup::default()
    }
}

fn broken() -> Error {
    Error::Failed { target: "pooler".to_owned(), detail: "unable to reach the repository".to_owned() }
}

/// A cluster with a primary, a standby, and a repository with its first backup.
async fn cluster(bed: &Bed, schedule: Option<Value>) -> (Stage, TopoAddress) {
    let mut spec = minimal();
    if let Some(schedule) = schedule {
        spec["backup"] =
            json!({"type": "filesystem", "filesystem": {}, "schedule": schedule, "retention": {"full": 3}});
    }
    bed.plane().backups.open(Ok(vec![backup("first", 60)]));
    bed.plane().backups.archiving(Ok(Archiver::default()));
    bed.create_cluster("minimal", &spec).await;
    let cell = eventually(DEADLINE, async || {
        let objects = bed.objects().await;
        objects.into_iter().find(|(id, _)| id.starts_with("Cell/")).map(|(_, cell)| cell).ok_or("no cell".to_owned())
    })
    .await;
    let stage = bed.stage(&cell);
    let reference = &cell["spec"]["globalTopoServer"];
    let at = TopoAddress::new([reference["address"].as_str().unwrap()], reference["rootPath"].as_str().unwrap());
    (stage, at)
}

async fn shard(bed: &Bed) -> Value {
    let objects = bed.objects().await;
    objects.into_iter().find(|(id, _)| id.starts_with("Shard/")).map(|(_, shard)| shard).unwrap_or_default()
}

/// Waits until a condition of the shard has a reason.
async fn told(bed: &Bed, type_: &str, reason: &str) -> Value {
    eventually(LONG, async || {
        let shard = shard(bed).await;
        if condition(&shard, type_)["reason"] == reason {
            return Ok(shard);
        }
        Err(format!("{:#}", shard["status"]))
    })
    .await
}

/// Waits until a run is in a phase.
async fn reaches(bed: &Bed, name: &str, phase: &str) -> Value {
    eventually(LONG, async || {
        let run = bed.object(&format!("MultigresBackup/{name}")).await;
        if run["status"]["phase"] == phase { Ok(run) } else { Err(format!("{name}: {:#}", run["status"])) }
    })
    .await
}

async fn running_job(bed: &Bed) -> String {
    eventually(LONG, async || bed.plane().backups.running().into_iter().next().ok_or("no job".to_owned())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_repository_holds_is_told_and_then_nothing_is_written() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    let (_stage, _) = cluster(&bed, None).await;
    let seen = told(&bed, "BackupHealthy", "BackupRecent").await;
    assert_eq!(seen["status"]["backup"]["lastId"], "first", "{:#}", seen["status"]);
    assert_eq!(seen["status"]["lastBackupType"], "full");
    assert!(seen["status"]["lastBackupTime"].is_string());
    told(&bed, "WALArchiving", "Archiving").await;
    eventually(LONG, async || {
        bed.let_deployments_run().await;
        let shard = shard(&bed).await;
        if shard["status"]["phase"] == "Healthy" { Ok(()) } else { Err(shard["status"].to_string()) }
    })
    .await;
    running.quiet(Duration::from_secs(15)).await;

    bed.plane().backups.open(Err(broken()));
    let seen = told(&bed, "BackupHealthy", "RepositoryUnreachable").await;
    assert_eq!(seen["status"]["backup"]["lastId"], "first", "what was known stays known");
    eventually(DEADLINE, async || {
        let shard = shard(&bed).await;
        if shard["status"]["phase"] == "Degraded" { Ok(()) } else { Err(shard["status"].to_string()) }
    })
    .await;
    running.quiet(Duration::from_secs(10)).await;

    let dead = Archiver { failing: true, waiting_seconds: 120.0, last_archived: None };
    bed.plane().backups.open(Ok(vec![backup("first", 3000)]));
    bed.plane().backups.archiving(Ok(dead));
    told(&bed, "BackupHealthy", "BackupStale").await;
    told(&bed, "WALArchiving", "ArchivingFailing").await;
    running.quiet(Duration::from_secs(10)).await;
    running.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_are_made_one_after_another_and_survive_a_restart_of_the_controller() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    let (_stage, at) = cluster(&bed, None).await;
    told(&bed, "BackupHealthy", "BackupRecent").await;
    let backups = &bed.plane().backups;

    // Somebody else's backup is not disturbed.
    let key = ShardKey::new("postgres", "default", "0-inf");
    bed.plane().topology.lease(&at, &key, true).unwrap();
    bed.create("MultigresBackup", "one", &json!({"cluster": "minimal"})).await;
    let waiting = eventually(DEADLINE, async || {
        let run = bed.object("MultigresBackup/one").await;
        let message = run["status"]["message"].as_str().unwrap_or_default().to_owned();
        if message.contains("disturbed") { Ok(run) } else { Err(message) }
    })
    .await;
    assert_eq!(waiting["status"]["phase"], "Pending");
    assert!(backups.orders().is_empty());
    bed.plane().topology.lease(&at, &key, false).unwrap();

    let one = reaches(&bed, "one", "Running").await;
    assert_eq!(one["status"]["jobId"], "job-0000");
    bed.create(
        "MultigresBackup",
        "two",
        &json!({"cluster": "minimal", "type": "incremental", "deletionPolicy": "Delete"}),
    )
    .await;
    eventually(DEADLINE, async || {
        let run = bed.object("MultigresBackup/two").await;
        let message = run["status"]["message"].as_str().unwrap_or_default().to_owned();
        if message.contains("Waiting for one") { Ok(()) } else { Err(message) }
    })
    .await;

    // A restart finds the job by its name and begins no other one.
    running.stop().await;
    let running = bed.start().await;
    backups.complete("job-0000", Timestamp::now());
    let one = reaches(&bed, "one", "Completed").await;
    assert_eq!((&one["status"]["size"], &one["status"]["duration"]), (&json!("30.0Mi"), &json!("1m12s")));
    assert_eq!(one["status"]["walStop"], "0/3000138");
    assert_eq!(condition(&one, "Complete")["status"], "True");

    let job = running_job(&bed).await;
    assert_eq!(backups.orders().len(), 2);
    assert_eq!(backups.orders()[1].level, "incremental");
    backups.fail(&job, "pooler backup failed: no route to host");
    let two = eventually(DEADLINE, async || {
        let run = bed.object("MultigresBackup/two").await;
        if run["status"]["error"].is_string() { Ok(run) } else { Err(run["status"].to_string()) }
    })
    .await;
    assert_eq!(two["status"]["error"], "pooler backup failed: no route to host");
    let job = running_job(&bed).await;
    backups.complete(&job, Timestamp::now());
    let two = reaches(&bed, "two", "Completed").await;
    assert_eq!(two["status"]["attempt"], 2);
    let id = two["status"]["backupId"].as_str().unwrap().to_owned();

    // Its data goes with it; that of the first one stays.
    eventually(DEADLINE, async || {
        let run = bed.object("MultigresBackup/two").await;
        if run["metadata"]["finalizers"] == json!(["multigres.com/backup-data"]) {
            Ok(())
        } else {
            Err(run.to_string())
        }
    })
    .await;
    bed.delete("MultigresBackup/two").await;
    bed.delete("MultigresBackup/one").await;
    eventually(DEADLINE, async || {
        let left: Vec<String> =
            bed.objects().await.into_keys().filter(|id| id.starts_with("MultigresBackup/")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert_eq!(backups.expired(), [Expiry::Set(id)]);
    running.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_makes_runs_and_prunes_what_is_too_much() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    // A time that was missed a little ago begins now, so nobody waits for the clock.
    let schedule = json!({"full": "* * * * *", "jitter": "0s", "historyLimit": 1, "timeZone": "Europe/Berlin"});
    let (_stage, _) = cluster(&bed, Some(schedule)).await;
    let backups = &bed.plane().backups;
    let job = running_job(&bed).await;
    let objects = bed.objects().await;
    let run = objects.iter().find(|(id, _)| id.starts_with("MultigresBackup/")).map(|(_, run)| run).unwrap();
    assert_eq!(run["spec"]["type"], "full");
    assert_eq!(run["metadata"]["ownerReferences"][0]["kind"], "Shard");
    backups.complete(&job, Timestamp::now());
    reaches(&bed, run["metadata"]["name"].as_str().unwrap(), "Completed").await;
    eventually(DEADLINE, async || {
        if backups.expired() == [Expiry::KeepFull(3)] { Ok(()) } else { Err(format!("{:?}", backups.expired())) }
    })
    .await;
    let seen = shard(&bed).await;
    assert!(seen["status"]["backup"]["nextRun"].is_string(), "{:#}", seen["status"]);
    running.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_refuses_what_cannot_be_a_backup() {
    let Some(bed) = Bed::open().await else { return };
    for spec in [
        json!({}),
        json!({"cluster": "minimal", "type": "everything"}),
        json!({"cluster": "minimal", "deadline": "soon"}),
        json!({"cluster": "minimal", "attempts": 0}),
    ] {
        assert!(bed.try_create("MultigresBackup", "bad", &spec).await.is_err(), "{spec}");
    }
    bed.create("MultigresBackup", "good", &json!({"cluster": "minimal"})).await;
    let good = bed.object("MultigresBackup/good").await;
    assert_eq!((&good["spec"]["type"], &good["spec"]["tableGroup"]), (&json!("full"), &json!("default")));
    let refused = bed.try_edit("MultigresBackup/good", json!({"spec": {"type": "incremental"}})).await.unwrap_err();
    assert!(refused.contains("create another MultigresBackup"), "{refused}");
    assert!(bed.try_edit("MultigresBackup/good", json!({"spec": {"ttl": "24h"}})).await.is_ok());
    let keep = json!({"backup": {"type": "filesystem", "filesystem": {}, "retention": {"full": 8}}});
    let refused = bed.try_create("MultigresCluster", "greedy", &keep).await.unwrap_err();
    assert!(refused.contains("at most 7"), "{refused}");
    bed.close().await;
}
