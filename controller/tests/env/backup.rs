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
use shared::clock::Clock as _;

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

/// A cluster with a primary, a standby, and a repository with its first backup; what is asked for besides is a schedule or a retention.
async fn cluster(bed: &Bed, besides: Option<Value>) -> (Stage, TopoAddress) {
    let mut spec = minimal();
    if let Some(Value::Object(besides)) = besides {
        spec["backup"] = json!({"type": "filesystem", "filesystem": {}});
        spec["backup"].as_object_mut().unwrap().extend(besides);
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

/// Asks for a backup and makes it; its name in the repository.
async fn make(bed: &Bed, name: &str, spec: &Value) -> String {
    bed.create("MultigresBackup", name, spec).await;
    let job = running_job(bed).await;
    bed.plane().backups.complete(&job, Timestamp::now());
    let run = reaches(bed, name, "Completed").await;
    if spec["deletionPolicy"] == "Delete" {
        finalized(bed, name).await;
    }
    run["status"]["backupId"].as_str().unwrap().to_owned()
}

/// Waits until the data of a run goes with it.
async fn finalized(bed: &Bed, name: &str) {
    eventually(DEADLINE, async || {
        let run = bed.object(&format!("MultigresBackup/{name}")).await;
        if run["metadata"]["finalizers"] == json!(["multigres.com/backup-data"]) {
            Ok(())
        } else {
            Err(run.to_string())
        }
    })
    .await;
}

/// Waits until the repository holds these backups and no others.
async fn holds(bed: &Bed, names: &[&str]) {
    eventually(LONG, async || {
        let held = bed.plane().backups.held();
        if held == names { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
}

/// Waits until a run is there no more.
async fn is_gone(bed: &Bed, name: &str) {
    eventually(LONG, async || match bed.object(&format!("MultigresBackup/{name}")).await {
        Value::Null => Ok(()),
        run => Err(run.to_string()),
    })
    .await;
}

/// Makes whatever the schedule wants until one of its times was served that is wanted; which one.
async fn served(bed: &Bed, wanted: impl Fn(Timestamp) -> bool) -> Timestamp {
    eventually(LONG, async || {
        for job in bed.plane().backups.running() {
            bed.plane().backups.complete(&job, bed.clock().now());
        }
        let backup = shard(bed).await["status"]["backup"].clone();
        let at = backup["scheduled"]["full"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        at.filter(|at| wanted(*at)).ok_or_else(|| format!("{backup:#}"))
    })
    .await
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

    // A look that was cut off shows nothing at all, and nobody believes it.
    bed.plane().backups.open(Ok(Vec::new()));
    let seen = eventually(LONG, async || {
        let shard = shard(&bed).await;
        let said = condition(&shard, "BackupHealthy").clone();
        if said["message"].to_string().contains("lists no backup") { Ok(shard) } else { Err(said.to_string()) }
    })
    .await;
    assert_eq!(condition(&seen, "BackupHealthy")["reason"], "RepositoryUnreachable");
    assert_eq!(seen["status"]["backup"]["lastId"], "first", "what was known stays known");

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
    finalized(&bed, "two").await;
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
    let (_stage, _) = cluster(&bed, Some(json!({"schedule": schedule, "retention": {"full": 3}}))).await;
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
async fn a_backup_goes_only_once_nothing_builds_on_it() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    let (_stage, _) = cluster(&bed, None).await;
    told(&bed, "BackupHealthy", "BackupRecent").await;
    let incremental = json!({"cluster": "minimal", "type": "incremental", "deletionPolicy": "Delete"});
    let before = make(&bed, "before", &incremental).await;
    let after = make(&bed, "after", &incremental).await;
    assert!(after.starts_with("first_") && before.starts_with("first_"), "{before} {after}");
    bed.delete("MultigresBackup/before").await;
    running.quiet(Duration::from_secs(5)).await;
    holds(&bed, &["first", &before, &after]).await;
    assert!(bed.plane().backups.expired().is_empty(), "it would have taken the other one along");
    assert!(bed.object("MultigresBackup/before").await["metadata"]["deletionTimestamp"].is_string());
    bed.delete("MultigresBackup/after").await;
    is_gone(&bed, "after").await;
    is_gone(&bed, "before").await;
    holds(&bed, &["first"]).await;
    assert_eq!(bed.plane().backups.expired(), [Expiry::Set(after), Expiry::Set(before)]);
    running.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_is_kept_in_the_end_and_the_only_full_backup_stays() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    let (_stage, _) = cluster(&bed, Some(json!({"retention": {"full": 1}}))).await;
    told(&bed, "BackupHealthy", "BackupRecent").await;
    let backups = &bed.plane().backups;

    // Somebody holds the lease for a while, and nothing can be removed meanwhile.
    let detail = "backup lease is already held".to_owned();
    backups.keep(Some(Error::Failed { target: "multiadmin".to_owned(), detail }));
    let only = make(&bed, "only", &json!({"cluster": "minimal", "deletionPolicy": "Delete"})).await;
    eventually(LONG, async || {
        let tried = backups.expired();
        if tried.len() > 1 { Ok(()) } else { Err(format!("{tried:?}")) }
    })
    .await;
    holds(&bed, &["first", &only]).await;
    backups.keep(None);
    holds(&bed, &[&only]).await;

    // What can never go is told of, and is no failure.
    bed.delete("MultigresBackup/only").await;
    eventually(LONG, async || {
        let tried = backups.expired();
        if tried.contains(&Expiry::Set(only.clone())) { Ok(()) } else { Err(format!("{tried:?}")) }
    })
    .await;
    running.quiet(Duration::from_secs(5)).await;
    let kept = bed.object("MultigresBackup/only").await;
    assert!(kept["metadata"]["deletionTimestamp"].is_string(), "{kept:#}");
    assert!(condition(&kept, "Reconciled").is_null(), "{kept:#}");
    bed.edit("MultigresBackup/only", json!({"spec": {"deletionPolicy": "Retain"}})).await;
    is_gone(&bed, "only").await;
    holds(&bed, &[&only]).await;
    running.stop().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_ahead_for_a_while_does_not_stop_the_schedule() {
    let Some(bed) = Bed::open().await else { return };
    let running = bed.start().await;
    let schedule = json!({"full": "* * * * *", "jitter": "0s", "startingDeadline": "1m"});
    let (_stage, _) = cluster(&bed, Some(json!({"schedule": schedule}))).await;
    served(&bed, |_| true).await;
    // Less than the two hours that a run may take from its creation on, of which the API server tells.
    bed.clock().ahead_by(SignedDuration::from_mins(90));
    let ahead = served(&bed, |at| at > Timestamp::now() + SignedDuration::from_mins(60)).await;
    let set_back = Timestamp::now();
    bed.clock().ahead_by(SignedDuration::ZERO);
    let now = served(&bed, |at| at > set_back && at < ahead - SignedDuration::from_mins(60)).await;
    assert!(now <= Timestamp::now() && now.as_second() % 60 == 0, "{now}");
    told(&bed, "BackupHealthy", "BackupRecent").await;
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
