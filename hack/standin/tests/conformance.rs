//! What every data plane has to do, seen from outside: flags, exits, records, calls, joining from the repository.
//!
//! Runs against the stand-in, and unchanged against the real binaries in `MULTIGRES_BIN_DIR`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod bed;

use std::process::Command;

use bed::{
    Bed, CELL, Ground, ROOT, eventually, free_port, http, http_call, is_real, lacks_postgres, said, skip, status,
};
use standin::proto::clustermetadata::id::ComponentType;
use standin::proto::clustermetadata::{
    Multigateway, Multiorch, Multipooler, PoolerLifecycleStatus, PoolerServingStatus, PoolerType, RoutingRole,
    RuleNumber, ShardInitClaim, ShardKey,
};
use standin::proto::multiorch::{ShardStatusRequest, TriggerRecoveryNowRequest};
use standin::proto::multipoolermanagerdata::{
    BackupRequest, ExpireBackupsRequest, GetBackupByJobIdRequest, GetBackupsRequest, ReloadConfigRequest,
    ResignLeadershipRequest, RuleOperation, StatusRequest, UpdateConsensusRuleRequest,
};

/// The binaries with their subcommand.
const BINARIES: [(&str, &[&str]); 5] =
    [("multigateway", &[]), ("multipooler", &[]), ("multiorch", &[]), ("multiadmin", &[]), ("pgctld", &["server"])];

const NOWHERE: [&str; 2] = ["--topo-global-server-addresses=127.0.0.1:1", "--topo-global-root=/x"];

fn refused(command: Command, reason: &str) {
    let output = Ground::finish(command);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(reason), "expected \"{reason}\" in:\n{}", said(&output));
}

#[test]
fn every_service_refuses_to_run_as_root() {
    if !bed::is_root() {
        skip("only root can try to run as root");
        return;
    }
    let ground = Ground::new();
    for program in ["multigateway", "multipooler", "multiorch", "multiadmin"] {
        let mut command = ground.command_as_me(program);
        command.args(NOWHERE).args(["--cell=a", "--http-port=1"].iter().filter(|_| program != "multiadmin"));
        refused(command, "running as root is not permitted");
    }
}

#[test]
fn an_unknown_flag_ends_every_binary() {
    let ground = Ground::new();
    for (program, subcommand) in BINARIES {
        let mut command = ground.command(program);
        command.args(subcommand).arg("--no-such-flag=1");
        refused(command, "unknown flag: --no-such-flag");
    }
}

#[test]
fn a_malformed_value_ends_every_binary() {
    let ground = Ground::new();
    for (program, subcommand) in BINARIES {
        let mut command = ground.command(program);
        command.args(subcommand).arg("--http-port=many");
        refused(command, "invalid argument \"many\" for \"--http-port\" flag");
    }
}

#[test]
fn missing_topology_flags_are_named() {
    let ground = Ground::new();
    for program in ["multigateway", "multipooler", "multiorch", "multiadmin"] {
        refused(ground.command(program), "topo-global-server-addresses must be configured");
        let mut command = ground.command(program);
        command.arg(NOWHERE[0]);
        refused(command, "topo-global-root must be non-empty");
    }
}

#[test]
fn a_pooler_names_what_it_lacks() {
    let ground = Ground::new();
    let password = ground.write("password", "secret\n");
    let empty = ground.write("empty", "");
    let full = ["--table-group=default", "--shard=0-inf"];
    let attempt = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = ground.command("multipooler");
        command.args(NOWHERE).arg("--cell=a").args(args).envs(env.iter().copied());
        command
    };
    let with_password = ("POSTGRES_PASSWORD_FILE", password.as_str());
    refused(attempt(&full[1..], &[with_password]), "table group is required");
    refused(attempt(&full[..1], &[with_password]), "shard is required");
    refused(attempt(&full, &[with_password]), "PGDATA environment variable is required");
    refused(attempt(&full, &[]), "password");
    refused(attempt(&full, &[("POSTGRES_PASSWORD_FILE", empty.as_str())]), "is empty");
    let cipher = ["--pgbackrest-cipher-key-file=/nonexistent"];
    refused(attempt(&cipher, &[with_password]), "resolve backup cipher keys");
}

#[test]
fn pgctld_names_what_it_lacks() {
    let ground = Ground::new();
    let attempt = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = ground.command("pgctld");
        command.arg("server").args(args).envs(env.iter().copied());
        command
    };
    let directory = format!("--pooler-dir={}", ground.open_directory("pooler").display());
    let data = ("PGDATA", "/nonexistent/pg_data");
    refused(attempt(&[], &[data]), "pooler-dir needs to be set");
    refused(attempt(&[&directory], &[]), "PGDATA environment variable is required");
    refused(attempt(&[&directory, "--pg-hba-template=/nonexistent"], &[data]), "pg-hba-template");
    refused(attempt(&[&directory], &[data]), "password");
}

#[test]
fn contradictory_settings_are_refused() {
    let ground = Ground::new();
    let attempt = |program: &str, args: &[&str]| {
        let mut command = ground.command(program);
        command.args(NOWHERE).arg("--cell=a").args(args);
        command
    };
    let window = ["--buffer-window=30s", "--buffer-max-failover-duration=20s"];
    refused(attempt("multigateway", &window), "buffer-window");
    refused(attempt("multiorch", &[]), "watch-targets is required");
    refused(attempt("multiorch", &["--watch-targets=a/b/c/d"]), "invalid shard watch target format");
}

#[test]
fn a_gateway_does_not_start_without_its_topology() {
    let ground = Ground::new();
    let mut command = ground.command("multigateway");
    command.args(NOWHERE).args(["--cell=a", &format!("--pg-port={}", free_port())]);
    refused(command, "failed to register gateway");
}

#[tokio::test]
async fn a_gateway_waits_for_poolers_and_takes_its_record_along() {
    let Some(bed) = Bed::start().await else { return };
    let (http_port, grpc, postgres) = (free_port(), free_port(), free_port());
    let mut command = bed.ground.command("multigateway");
    command.args(bed.topology()).arg("--hostname=localhost").args([
        format!("--http-port={http_port}"),
        format!("--grpc-port={grpc}"),
        format!("--pg-port={postgres}"),
    ]);
    let mut gateway = bed.ground.start("multigateway", command);
    eventually("/live", || async { http(http_port, "/live").filter(|code| *code == 200) }).await;
    assert_eq!(http(http_port, "/ready"), Some(503), "no pooler is known");
    let records: Vec<(String, Multigateway)> = bed.list(&format!("{ROOT}/gateways/")).await;
    assert_eq!(records.len(), 1);
    let (key, record) = &records[0];
    let id = record.id.clone().unwrap();
    assert_eq!((id.component(), id.cell.as_str()), (ComponentType::Multigateway, CELL));
    assert_eq!(*key, format!("{ROOT}/gateways/multigateway-{CELL}-{}/Gateway", id.name));
    assert_eq!(record.hostname, "localhost");
    assert_eq!(record.port_map["grpc"], i32::from(grpc));
    assert_eq!(record.port_map["http"], i32::from(http_port));
    assert_eq!(record.port_map["postgres"], i32::from(postgres));
    assert!((1..=4095).contains(&record.pid_prefix));
    let pooler = Multipooler {
        id: Some(standin::identity::id(ComponentType::Multipooler, CELL, "p")),
        shard_key: Some(shard_key()),
        hostname: "localhost".into(),
        port_map: [("grpc".to_owned(), 1)].into(),
        ..Multipooler::default()
    };
    bed.put(&format!("{ROOT}/poolers/multipooler-{CELL}-p/Pooler"), &pooler).await;
    eventually("/ready", || async { http(http_port, "/ready").filter(|code| *code == 200) }).await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    let left: Vec<(String, Multigateway)> = bed.list(&format!("{ROOT}/gateways/")).await;
    assert!(left.is_empty());
}

#[tokio::test]
async fn the_administration_service_lists_the_topology() {
    let Some(bed) = Bed::start().await else { return };
    bed.put_database(&bed.ground.open_directory("repository")).await;
    let (http_port, grpc) = (free_port(), free_port());
    let mut command = bed.ground.command("multiadmin");
    command.args(&bed.topology()[..2]).args([
        format!("--http-port={http_port}"),
        format!("--grpc-port={grpc}"),
        "--service-map=grpc-multiadmin".into(),
    ]);
    let mut admin = bed.ground.start("multiadmin", command);
    eventually("/ready", || async { http(http_port, "/ready").filter(|code| *code == 200) }).await;
    let (code, cells) = http_call(http_port, "GET", "/api/v1/cells", "").unwrap();
    assert!(code == 200 && cells.contains(CELL), "{code} {cells}");
    let (code, database) = http_call(http_port, "GET", "/api/v1/databases/postgres", "").unwrap();
    assert!(code == 200 && database.contains("QUORUM_TYPE_AT_LEAST_N"), "{code} {database}");
    assert_eq!(http(http_port, "/api/v1/cells/nowhere"), Some(404));
    admin.signal("TERM");
    assert!(admin.ended().await.success());
}

#[tokio::test]
async fn an_orchestrator_registers_itself_and_takes_its_record_along() {
    let Some(bed) = Bed::start().await else { return };
    let (mut orch, http_port, grpc) = bed.start_orch();
    eventually("/ready", || async { http(http_port, "/ready").filter(|code| *code == 200) }).await;
    let records: Vec<(String, Multiorch)> = bed.list(&format!("{ROOT}/orchs/")).await;
    let record = &records[0].1;
    let id = record.id.clone().unwrap();
    assert_eq!(records[0].0, format!("{ROOT}/orchs/multiorch-{CELL}-{}/Orch", id.name));
    assert_eq!(id.component(), ComponentType::Multiorch);
    assert_eq!((record.hostname.as_str(), record.port_map["grpc"]), ("localhost", i32::from(grpc)));
    let refusal = bed::orchestrator(grpc).trigger_recovery_now(TriggerRecoveryNowRequest { max_cycles: 2 }).await;
    assert_eq!(refusal.unwrap_err().code(), tonic::Code::InvalidArgument);
    orch.signal("TERM");
    assert!(orch.ended().await.success());
    let left: Vec<(String, Multiorch)> = bed.list(&format!("{ROOT}/orchs/")).await;
    assert!(left.is_empty());
}

#[tokio::test]
async fn a_pooler_registers_before_it_has_anything_and_leaves_a_tombstone() {
    let Some(bed) = Bed::start().await else { return };
    let place = bed.place("p-1");
    let mut pooler = bed.start_multipooler(&place);
    let record = eventually("the record", || bed.pooler("p-1")).await;
    let id = record.id.clone().unwrap();
    assert_eq!((id.component(), id.cell.as_str(), id.name.as_str()), (ComponentType::Multipooler, CELL, "p-1"));
    assert_eq!(record.shard_key, Some(shard_key()));
    assert_eq!(record.hostname, "localhost");
    assert_eq!(record.port_map["grpc"], i32::from(place.grpc));
    assert_eq!(record.port_map["http"], i32::from(place.http));
    assert!(record.port_map.contains_key("postgres"));
    assert_eq!(record.pooler_dir, place.directory.display().to_string());
    assert_eq!(record.pg_data_dir, place.directory.join("pg_data").display().to_string());
    assert_ne!(bed::lifecycle(&record), PoolerLifecycleStatus::LifecycleActive);
    assert_eq!(record.r#type(), PoolerType::Replica);
    assert!(record.routing_state.is_none_or(|state| state.role() == RoutingRole::Replica && state.rule.is_none()));
    eventually("/live", || async { http(place.http, "/live").filter(|code| *code == 200) }).await;
    // It ends on SIGTERM only once its start is complete, for which it needs the database.
    bed.put_database(&bed.ground.open_directory("repository")).await;
    eventually("/ready", || async { http(place.http, "/ready").filter(|code| *code == 200) }).await;
    eventually("an answer", || status(place.grpc)).await;
    pooler.signal("TERM");
    assert!(pooler.ended().await.success());
    let record = bed.pooler("p-1").await.unwrap();
    assert_eq!(bed::lifecycle(&record), PoolerLifecycleStatus::LifecycleShutdown);
    assert_eq!(record.serving_status(), PoolerServingStatus::Disabled);
    assert_eq!(record.r#type(), PoolerType::Unknown);
    assert_eq!(record.routing_state, None);
}

#[tokio::test]
async fn a_pooler_answers_unavailable_until_its_database_is_known() {
    let Some(bed) = Bed::start().await else { return };
    let place = bed.place("p-1");
    let _pooler = bed.start_multipooler(&place);
    eventually("the record", || bed.pooler("p-1")).await;
    let refusal = bed::manager(place.grpc).status(StatusRequest {}).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unavailable);
    bed.put_database(&bed.ground.open_directory("repository")).await;
    eventually("an answer", || status(place.grpc)).await;
}

#[tokio::test]
async fn one_pooler_alone_gets_no_primary_and_two_do() {
    if lacks_postgres() {
        return;
    }
    let Some(bed) = Bed::start().await else { return };
    bed.put_database(&bed.ground.open_directory("repository")).await;
    let (_orch, _, grpc) = bed.start_orch();
    let first = bed.place("p-1");
    let _first = bed.start_pod(&first);
    eventually("data from the repository", || initialized(first.grpc)).await;
    // A cycle of recovery over the initialised pooler must leave it alone.
    let asked = TriggerRecoveryNowRequest { max_cycles: 1 };
    bed::orchestrator(grpc).trigger_recovery_now(asked).await.unwrap();
    assert_eq!(bed.primary_above(0).await, None);
    let claim: Option<ShardInitClaim> = bed.read(&claim_key()).await;
    assert_eq!(claim, None);
    let second = bed.place("p-2");
    let _second = bed.start_pod(&second);
    let (primary, term) = eventually("a primary", || bed.primary_above(0)).await;
    assert!(term >= 1);
    let claim: ShardInitClaim = bed.read(&claim_key()).await.unwrap();
    assert_eq!(claim.cohort_members.len(), 2);
    assert_eq!(claim.claimer_id.unwrap().component(), ComponentType::Multiorch);
    let port = if primary == "p-1" { first.grpc } else { second.grpc };
    let answer = status(port).await.unwrap();
    let rule = answer.consensus_status.unwrap().current_position.unwrap().position.unwrap().decision.unwrap();
    assert_eq!(rule.leader_id.unwrap().name, primary);
    assert_eq!(rule.cohort_members.len(), 2);
    assert!(answer.status.unwrap().primary_status.is_some());
}

#[tokio::test]
async fn a_shard_survives_its_primary() {
    if lacks_postgres() {
        return;
    }
    let Some(bed) = Bed::start().await else { return };
    bed.put_database(&bed.ground.open_directory("repository")).await;
    let (_orch, _, orch) = bed.start_orch();
    let places = ["p-1", "p-2", "p-3"].map(|name| bed.place(name));
    let mut pods: Vec<_> = places.iter().map(|place| Some(bed.start_pod(place))).collect();
    let (first, term) = eventually("a primary", || bed.primary_above(0)).await;
    let at = places.iter().position(|place| place.name == first).unwrap();
    settled(&places, at).await;

    // A crash of the whole pod: nobody says good-bye.
    drop(pods[at].take());
    let (second, higher) = eventually("a second primary", || bed.primary_above(term)).await;
    assert_ne!(second, first);
    let now = places.iter().position(|place| place.name == second).unwrap();
    let claim = bed.pooler(&second).await.unwrap();
    assert_eq!(claim.r#type(), PoolerType::Primary);
    assert_eq!(claim.serving_status(), PoolerServingStatus::Serving);

    // It comes back on its old data and follows.
    pods[at] = Some(bed.start_pod(&places[at]));
    settled(&places, now).await;
    let record = eventually("the old primary's record", || async {
        bed.pooler(&first).await.filter(|record| record.r#type() == PoolerType::Replica)
    })
    .await;
    assert_eq!(record.routing_state.unwrap().role(), RoutingRole::Replica);

    // A planned switchover, hurried along as an operator would.
    let refusal = bed::manager(places[at].grpc).resign_leadership(ResignLeadershipRequest {}).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::FailedPrecondition, "a standby has nothing to resign");
    let resigned = bed::manager(places[now].grpc).resign_leadership(ResignLeadershipRequest {}).await.unwrap();
    assert!(standin::postgres::wire::read_lsn(&resigned.into_inner().flush_lsn).is_some());
    let (third, _) = eventually("a third primary", || async {
        let asked = TriggerRecoveryNowRequest { max_cycles: 1 };
        let _ = bed::orchestrator(orch).trigger_recovery_now(asked).await;
        bed.primary_above(higher).await
    })
    .await;
    assert_ne!(third, second);
    let leader = places.iter().position(|place| place.name == third).unwrap();
    settled(&places, leader).await;
    let healthy = eventually("a shard without problems", || async {
        let asked = ShardStatusRequest { shard_key: Some(shard_key()) };
        let answer = bed::orchestrator(orch).get_shard_status(asked).await.ok()?.into_inner();
        answer.problems.is_empty().then_some(answer)
    })
    .await;
    assert_eq!(healthy.pooler_healths.len(), 3);

    a_member_leaves_and_returns(&places, leader).await;
    backups_and_reloads(&places, leader).await;

    // A graceful end of the primary: the next one comes without the record of a crash.
    let mut pod = pods[leader].take().unwrap();
    pod.multipooler.signal("TERM");
    assert!(pod.multipooler.ended().await.success());
    let record = bed.pooler(&third).await.unwrap();
    assert_eq!(bed::lifecycle(&record), PoolerLifecycleStatus::LifecycleShutdown);
    let (_, last) = eventually("a last primary", || bed.primary_above(higher + 1)).await;
    assert!(last > higher + 1);
}

/// What an operator does before it takes a standby away for good: only the primary changes the rule, only from the rule that is in
/// force, and what it answers is the new one. Orchestrators take a healthy standby back.
async fn a_member_leaves_and_returns(places: &[bed::PoolerPlace], leader: usize) {
    let rule = || async { status(places[leader].grpc).await?.consensus_status?.current_position?.position?.decision };
    let before = eventually("the rule of the primary", rule).await;
    let member = before.cohort_members.iter().find(|id| Some(*id) != before.leader_id.as_ref()).cloned().unwrap();
    let asked = |expected| UpdateConsensusRuleRequest {
        operation: RuleOperation::CohortRemove.into(),
        standby_ids: vec![member.clone()],
        expected_outgoing_rule: expected,
        coordinator_id: before.coordinator_id.clone(),
    };
    let standby = places.iter().position(|place| place.name == member.name).unwrap();
    let refusal =
        bed::consensus(places[standby].grpc).update_consensus_rule(asked(before.rule_number)).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::FailedPrecondition, "a standby has no rule to change");
    let stale = before.rule_number.map(|number| RuleNumber { leader_subterm: number.leader_subterm + 7, ..number });
    let mut primary = bed::consensus(places[leader].grpc);
    assert!(primary.update_consensus_rule(asked(stale)).await.is_err(), "the rule is another one");
    let unchanged = eventually("the rule of the primary", rule).await;
    assert!(unchanged.cohort_members.contains(&member), "a refused change changes nothing");
    // Orchestrators may change the rule at any time, too; then it is asked again.
    let after = eventually("the removal", || async {
        let now = rule().await?;
        let answer = bed::consensus(places[leader].grpc).update_consensus_rule(asked(now.rule_number)).await.ok()?;
        answer.into_inner().current_position?.position?.decision
    })
    .await;
    assert!(!after.cohort_members.contains(&member), "the answer is the new rule");
    assert_ne!(after.rule_number, before.rule_number, "the new rule has a new number");
    settled(places, leader).await;
}

async fn backups_and_reloads(places: &[bed::PoolerPlace], leader: usize) {
    let mut manager = bed::manager(places[leader].grpc);
    let asked = |force_primary| BackupRequest {
        force_primary,
        r#type: "full".into(),
        job_id: "job-1".into(),
        ..BackupRequest::default()
    };
    let refusal = manager.backup(asked(false)).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::FailedPrecondition, "not on a primary unless forced");
    let made = manager.backup(asked(true)).await.unwrap().into_inner().backup_id;
    let all = manager.get_backups(GetBackupsRequest { limit: 0 }).await.unwrap().into_inner().backups;
    assert!(all.len() >= 2, "the first backup and ours");
    assert!(all.iter().any(|backup| backup.backup_id == made && backup.r#type == "full"));
    let asked = GetBackupByJobIdRequest { job_id: "job-1".into() };
    let found = manager.get_backup_by_job_id(asked).await.unwrap().into_inner().backup.unwrap();
    assert_eq!(found.backup_id, made);
    backups_go(places[leader].grpc, &made).await;
    let reloaded = manager.reload_config(ReloadConfigRequest::default()).await.unwrap().into_inner();
    assert!(reloaded.config_load_time.is_some());
    let asked = ReloadConfigRequest { expected_settings: [("work_mem".to_owned(), "777MB".to_owned())].into() };
    let refused = manager.reload_config(asked).await.unwrap().into_inner();
    assert_eq!(refused.mismatches[0].name, "work_mem");
}

/// With a backup goes what builds on it, asked for or not; the only full one stays.
async fn backups_go(port: u16, full: &str) {
    let mut manager = bed::manager(port);
    let mut chain = Vec::new();
    for _ in 0..2 {
        let asked = BackupRequest { force_primary: true, r#type: "incremental".into(), ..BackupRequest::default() };
        chain.push(manager.backup(asked).await.unwrap().into_inner().backup_id);
    }
    assert!(chain.iter().all(|id| id.starts_with(full)), "{chain:?} build on {full}");
    let asked = |set: &str| ExpireBackupsRequest { overrides: [("set".to_owned(), set.to_owned())].into() };
    let mut gone = manager.expire_backups(asked(&chain[0])).await.unwrap().into_inner().expired_backup_ids;
    gone.sort();
    assert_eq!(gone, chain);
    let all = manager.get_backups(GetBackupsRequest { limit: 0 }).await.unwrap().into_inner().backups;
    for other in all.iter().filter(|backup| backup.backup_id != full) {
        manager.expire_backups(asked(&other.backup_id)).await.unwrap();
    }
    let refusal = manager.expire_backups(asked(full)).await.unwrap_err();
    assert!(refusal.message().contains("cannot be expired until another full backup"), "{refusal}");
    let left = manager.get_backups(GetBackupsRequest { limit: 0 }).await.unwrap().into_inner().backups;
    assert_eq!(left.iter().map(|backup| backup.backup_id.as_str()).collect::<Vec<_>>(), [full]);
}

#[tokio::test]
async fn a_pooler_joins_only_from_a_repository_it_can_read() {
    if is_real() {
        skip("needs separate volumes to mean the same for the real data plane");
        return;
    }
    let Some(bed) = Bed::start().await else { return };
    let shared = bed.ground.open_directory("repository");
    bed.put_database(&shared).await;
    let first = bed.place("p-1");
    let _first = bed.start_pod(&first);
    eventually("data from the repository", || initialized(first.grpc)).await;
    let second = bed.place("p-2");
    bed.put_database(&bed.ground.open_directory("elsewhere")).await;
    let mut pod = bed.start_pod(&second);
    eventually("the wait for a backup", || async {
        let answer = status(second.grpc).await?.status?;
        (answer.postgres_action.to_string() == "2" && !answer.is_initialized).then_some(())
    })
    .await;
    pod.multipooler.signal("TERM");
    assert!(pod.multipooler.ended().await.success());
    bed.put_database(&shared).await;
    let _again = bed.start_multipooler(&second);
    eventually("data from the right repository", || initialized(second.grpc)).await;
}

async fn initialized(port: u16) -> Option<()> {
    let answer = status(port).await?.status?;
    (answer.is_initialized && answer.postgres_ready).then_some(())
}

/// Waits until everybody but the leader streams and the cohort has all of them.
async fn settled(places: &[bed::PoolerPlace], leader: usize) {
    eventually("all standbys to stream as members", || async {
        for (at, place) in places.iter().enumerate() {
            if at != leader && !bed::is_streaming(place.grpc).await {
                return None;
            }
        }
        let answer = status(places[leader].grpc).await?;
        let rule = answer.consensus_status?.current_position?.position?.decision?;
        let followers = answer.status?.primary_status?.connected_followers.len();
        (rule.cohort_members.len() == places.len() && followers == places.len() - 1).then_some(())
    })
    .await;
}

fn shard_key() -> ShardKey {
    ShardKey { database: "postgres".into(), table_group: "default".into(), shard: "0-inf".into() }
}

fn claim_key() -> String {
    format!("{ROOT}/databases/postgres/default/0-inf/ShardInitClaim")
}
