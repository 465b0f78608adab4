use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rstest::rstest;
use shared::{
    api::v1alpha1::{Shard, ShardSpec, ShardStatus},
    condition::ConditionSet,
};

use super::*;
use crate::{
    backup::{
        keeper,
        memory::{Due, Memory, Pace},
    },
    upstream::{TopoAddress, backup::Archiver},
};

fn memory() -> Memory {
    let memory = Memory::new(Pace::default());
    memory.located("uid", &TopoAddress::new(["etcd:2379"], "/r"), &[], NOW);
    memory
}

fn later(minutes: i64) -> Timestamp {
    NOW + SignedDuration::from_mins(minutes)
}

const ALL: Due = Due { list: true, archiver: true };
const ARCHIVER: Due = Due { list: false, archiver: true };

#[test]
fn nothing_is_asked_before_a_pass_has_told_whom_to_ask() {
    assert_eq!(Memory::default().due("uid", NOW), Due::default());
}

#[test]
fn each_thing_is_asked_once_per_interval() {
    let memory = memory();
    assert_eq!(memory.due("uid", NOW), ALL);
    memory.listed("uid", Ok(vec![made("a", "full", 5)]), NOW);
    assert_eq!(memory.due("uid", NOW), Due::default());
    assert_eq!(memory.due("uid", later(1)), ARCHIVER);
    assert_eq!(memory.due("uid", later(10)), ALL);
}

#[test]
fn a_failed_look_is_repeated_sooner_and_a_finished_run_at_once() {
    let memory = memory();
    memory.due("uid", NOW);
    memory.listed("uid", Err(away()), NOW);
    assert_eq!(memory.due("uid", later(1)), ALL);
    memory.listed("uid", Ok(Vec::new()), later(1));
    assert_eq!(memory.due("uid", later(2)), ALL, "there may be a first backup by now");
    memory.listed("uid", Ok(vec![made("a", "full", 5)]), later(2));
    assert_eq!(memory.due("uid", later(3)), ARCHIVER);
    memory.soon("uid");
    assert!(memory.due("uid", later(3)).list);
}

#[rstest]
#[case::led(Some("p"), true, 9, false, ALL)]
#[case::on_its_way(None, false, 0, false, Due::default())]
#[case::stuck(None, false, 1, false, Due { list: true, archiver: false })]
#[case::lost_its_primary_for_long(None, false, 9, false, Due { list: true, archiver: false })]
#[case::going(Some("p"), true, 9, true, Due::default())]
fn who_is_asked_depends_on_who_leads(
    #[case] primary: Option<&str>,
    #[case] confirmed: bool,
    #[case] minutes: i64,
    #[case] going: bool,
    #[case] expected: Due,
) {
    let mut shard = Shard::new("demo", ShardSpec::default());
    let conditions = ConditionSet::continuing(&[], Some(1), ago(minutes)).set("PrimaryConfirmed", confirmed, "R", "");
    shard.status = Some(ShardStatus {
        primary: primary.map(str::to_owned),
        conditions: conditions.finish(),
        ..ShardStatus::default()
    });
    shard.metadata.deletion_timestamp = going.then_some(Time(NOW));
    assert_eq!(keeper::due(&memory(), &shard, "uid", NOW), expected);
    shard.status = None;
    assert_eq!(keeper::due(&memory(), &shard, "uid", NOW), Due::default(), "before anything was said");
}

#[test]
fn a_clock_that_is_set_back_puts_off_nothing() {
    let memory = memory();
    memory.due("uid", NOW);
    assert_eq!(memory.due("uid", ago(600)), ALL);
}

#[test]
fn only_changes_are_news() {
    let memory = memory();
    assert!(memory.listed("uid", Ok(vec![made("a", "full", 5)]), NOW));
    assert!(!memory.listed("uid", Ok(vec![made("a", "full", 5)]), NOW));
    assert!(memory.archived("uid", Some(Archiver::default()), NOW));
    assert!(!memory.archived("uid", Some(Archiver::default()), NOW));
    assert!(memory.listed("uid", Err(broken()), NOW));
    assert_eq!(memory.known("uid").unwrap().backups.map(|all| all.len()), Some(1), "what was known stays known");
}

#[test]
fn a_shard_has_one_run_at_a_time_as_long_as_that_lives() {
    let memory = Memory::default();
    assert!(memory.claim("shard", "one", 1, |_| true));
    assert!(memory.claim("shard", "one", 1, |_| true), "its own claim");
    assert!(!memory.claim("shard", "two", 1, |_| true));
    assert!(memory.claim("other", "three", 1, |_| true));
    memory.release("one");
    assert!(memory.claim("shard", "two", 1, |_| true));
    assert!(memory.claim("shard", "four", 1, |uid| uid != "two"), "its object was deleted");
    assert!(memory.slot("three", 1).is_some(), "runs of other shards are nobody else's business");
}

#[test]
fn the_outcome_of_an_attempt_belongs_to_that_attempt() {
    let memory = Memory::default();
    assert!(memory.slot("run", 1).is_none(), "begun by another process");
    memory.claim("shard", "run", 1, |_| true);
    memory.slot("run", 1).unwrap().fill(Ok("job".to_owned()));
    assert_eq!(memory.slot("run", 1).unwrap().outcome(), Some(Ok("job".to_owned())));
    assert!(memory.slot("run", 2).is_none());
    memory.release("run");
    assert!(memory.slot("run", 1).is_some(), "for a pass over an older version of the object");
    memory.claim("shard", "run", 2, |_| true);
    assert_eq!(memory.slot("run", 2).unwrap().outcome(), None);
}
