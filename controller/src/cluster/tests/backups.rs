//! Where the backups of a cluster lie, before anything is there and afterwards.

use k8s_openapi::{
    api::core::v1::PersistentVolumeClaim,
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
};
use rstest::rstest;
use shared::{
    api::v1alpha1::{
        BackupConfig, BackupRetention, BackupScope, BackupType, EncryptionConfig, KeyPrefixScope, MultigresClusterSpec,
        S3BackupConfig, ShardStatus,
    },
    label,
    name::{PoolId, ShardId},
};

use super::*;
use crate::upstream::BackupLocation;

const ON_S3: &str = "
metadata: {name: demo, namespace: prod}
spec:
  backup: {type: s3, s3: {bucket: b, region: r, keyPrefix: eu}}
  cells: [{name: a, zone: z}]
";

const OWN: &str = "s3://b/eu/prod/demo";
const SHARED: &str = "s3://b/eu";

/// Where the status says that the backups lie.
fn place(observed: &Observed) -> Option<String> {
    run(observed).status.unwrap().backup_repositories.get("postgres").cloned()
}

/// What the only shard is told.
fn told(observed: &Observed) -> BackupConfig {
    let group: TableGroup =
        applied(&run(observed), &name::table_group(&observed.owner.name, "postgres", "default")).unwrap();
    let backup = group.spec.shards[0].backup.clone().unwrap();
    assert_eq!(group.spec.backup.map(|backup| (backup.r#type, backup.s3)), Some((backup.r#type, backup.s3.clone())));
    backup
}

/// The record that the data plane is to have.
fn location(observed: &Observed) -> BackupLocation {
    let (resolved, _) = repository::settle(observed, observed.resolved.as_ref().unwrap());
    let mut wanted = observed.wanted_records(&resolved, now());
    wanted.databases.remove(0).backup_location.unwrap()
}

fn key_prefix(observed: &Observed) -> String {
    let BackupLocation::S3 { key_prefix, .. } = location(observed) else { panic!("no bucket") };
    key_prefix
}

fn changed(observed: &Observed) -> Option<String> {
    let status = run(observed).status.unwrap();
    let found = find(&status.conditions, "BackupRepositoryChanged")?;
    assert_eq!((found.status.as_str(), found.reason.as_str()), ("True", "CannotMove"));
    Some(found.message.clone())
}

/// What a pass sees after the user has changed the spec.
fn edited(before: &Observed, change: impl FnOnce(&mut MultigresClusterSpec)) -> Observed {
    let mut cluster = (*before.cluster).clone();
    change(&mut cluster.spec);
    let (owner, templates) = (&before.owner, Templates::default());
    let adopted = Adopted::of(&cluster, &settings());
    Observed {
        own: observe::own(&cluster, owner, &templates, &adopted),
        resolved: observe::resolved(&cluster, owner, &templates, &adopted, &settings()),
        adopted,
        cluster: Arc::new(cluster),
        ..before.clone()
    }
}

fn s3(spec: &mut MultigresClusterSpec) -> &mut S3BackupConfig {
    spec.backup.as_mut().unwrap().s3.as_mut().unwrap()
}

/// Lets the children be those of an operator that knew no scopes.
fn forget_scopes(observed: &mut Observed) {
    edit(&mut observed.table_groups, |group| {
        let own = group.spec.backup.as_mut();
        let backups = own.into_iter().chain(group.spec.shards.iter_mut().filter_map(|shard| shard.backup.as_mut()));
        backups.filter_map(|backup| backup.s3.as_mut()).for_each(|s3| s3.key_prefix_scope = None);
    });
}

/// A data volume of the only shard.
fn data_volume(repository: Option<&str>) -> Arc<PersistentVolumeClaim> {
    let shard = ShardId { cluster: "demo", database: "postgres", table_group: "default", shard: "0-inf" };
    let mut claim = PersistentVolumeClaim::default();
    claim.metadata.labels = Some(label::of_pool(PoolId { shard, pool: "default", cell: "a" }));
    claim.metadata.annotations =
        repository.map(|repository| [(annotation::REPOSITORY.to_owned(), repository.to_owned())].into());
    Arc::new(claim)
}

fn record(location: BackupLocation) -> Sight {
    let mut record = topology::database("postgres", Vec::new(), "AT_LEAST_2", None).unwrap();
    record.backup_location = Some(location);
    seen(&[], &[record])
}

fn bucket(bucket: &str, key_prefix: &str) -> BackupLocation {
    BackupLocation::S3 {
        bucket: bucket.to_owned(),
        region: "r".to_owned(),
        endpoint: String::new(),
        key_prefix: key_prefix.to_owned(),
        use_env_credentials: false,
    }
}

#[test]
fn a_new_cluster_has_a_path_of_its_own() {
    let observed = observed(ON_S3);
    assert_eq!(place(&observed).as_deref(), Some(OWN));
    assert_eq!(told(&observed).s3.unwrap().key_prefix_scope, Some(KeyPrefixScope::Cluster));
    assert_eq!(key_prefix(&observed), "eu/prod/demo");
    assert_eq!(changed(&observed), None);
}

#[test]
fn a_cluster_keeps_its_path_whatever_else_is_known_of_it() {
    let mut all = healthy(ON_S3);
    assert_eq!(place(&all).as_deref(), Some(OWN));
    all.topology = Sight::NotServing;
    assert_eq!(place(&all).as_deref(), Some(OWN));
    all.table_groups.clear();
    all.topology = record(bucket("b", "eu/prod/demo"));
    assert_eq!(place(&all).as_deref(), Some(OWN));
    all.topology = Sight::NotServing;
    all.claims = vec![data_volume(Some(OWN))];
    assert_eq!(place(&all).as_deref(), Some(OWN));
}

fn children(observed: &mut Observed) {
    healthy_children(observed);
    forget_scopes(observed);
    observed.topology = Sight::NotServing;
}

fn only_a_record(observed: &mut Observed) {
    observed.topology = record(bucket("b", "eu/"));
}

fn only_volumes(observed: &mut Observed) {
    observed.claims = vec![data_volume(None)];
}

fn volumes_that_remember(observed: &mut Observed) {
    observed.claims = vec![data_volume(None), data_volume(Some(SHARED))];
}

#[rstest]
#[case::children(children)]
#[case::record(only_a_record)]
#[case::volumes(only_volumes)]
#[case::volumes_that_remember(volumes_that_remember)]
fn a_cluster_from_before_there_were_scopes_keeps_its_path(#[case] seen: fn(&mut Observed)) {
    let mut observed = observed(ON_S3);
    seen(&mut observed);
    assert_eq!(place(&observed).as_deref(), Some(SHARED));
    assert_eq!(key_prefix(&observed).trim_end_matches('/'), "eu");
    assert_eq!(changed(&observed), None);
    // Another wish of the user has everything rendered anew, and the path stays.
    let more =
        edited(&observed, |spec| spec.backup.as_mut().unwrap().retention = Some(BackupRetention { full: Some(3) }));
    assert_eq!((place(&more).as_deref(), changed(&more)), (Some(SHARED), None));
    assert_eq!(told(&more).s3.unwrap().key_prefix_scope, None);
    // So it does when the user says which one it is, and when the user says another one.
    let named = edited(&observed, |spec| s3(spec).key_prefix_scope = Some(KeyPrefixScope::Exact));
    assert_eq!((place(&named).as_deref(), changed(&named)), (Some(SHARED), None));
}

#[test]
fn a_scope_that_comes_too_late_moves_nothing_and_is_told() {
    let mut old = healthy(ON_S3);
    forget_scopes(&mut old);
    let named = edited(&old, |spec| s3(spec).key_prefix_scope = Some(KeyPrefixScope::Cluster));
    assert_eq!((place(&named).as_deref(), key_prefix(&named).as_str()), (Some(SHARED), "eu"));
    assert!(changed(&named).unwrap().contains(OWN));
}

#[rstest]
#[case::own(KeyPrefixScope::Cluster, OWN)]
#[case::exact(KeyPrefixScope::Exact, SHARED)]
fn a_new_cluster_may_choose(#[case] scope: KeyPrefixScope, #[case] expected: &str) {
    let observed = edited(&observed(ON_S3), |spec| s3(spec).key_prefix_scope = Some(scope));
    assert_eq!(place(&observed).as_deref(), Some(expected));
}

#[test]
fn another_bucket_is_not_taken_and_both_are_named() {
    let before = healthy(ON_S3);
    let after = edited(&before, |spec| s3(spec).bucket = "other".to_owned());
    let plan = run(&after);
    let message = changed(&after).unwrap();
    assert!(message.contains(OWN) && message.contains("s3://other/eu"), "{message}");
    assert_eq!(place(&after).as_deref(), Some(OWN));
    assert_eq!(told(&after).s3.unwrap().bucket, "b");
    assert_eq!(location(&after), location(&before));
    assert!(!outline(&plan).iter().any(|line| line.contains("PutDatabase")), "{:?}", outline(&plan));
    assert!(plan.notes.iter().any(|note| note.warning && note.reason == "BackupRepositoryChanged"));
    assert_eq!(plan.status.unwrap().phase, Some(Phase::Healthy), "the old repository works as before");
    assert_eq!(changed(&edited(&after, |spec| s3(spec).bucket = "b".to_owned())), None);
}

#[test]
fn what_else_a_backup_says_is_followed_in_the_old_place() {
    let before = healthy(ON_S3);
    let after = edited(&before, |spec| {
        s3(spec).key_prefix = Some("us".to_owned());
        let schedule = serde_json::from_value(json!({"full": "0 1 * * *"})).unwrap();
        spec.backup.as_mut().unwrap().schedule = Some(schedule);
    });
    let told = told(&after);
    assert_eq!(told.schedule.unwrap().full.as_deref(), Some("0 1 * * *"));
    assert_eq!(told.s3.unwrap().key_prefix.as_deref(), Some("eu"));
}

#[test]
fn another_kind_of_repository_is_not_taken() {
    let on_s3 = healthy(ON_S3);
    let to_volume = edited(&on_s3, |spec| spec.backup = None);
    assert_eq!((told(&to_volume).r#type, told(&to_volume).filesystem), (BackupType::S3, None));
    assert!(changed(&to_volume).unwrap().contains("a volume for each cell"));
    assert_eq!(location(&to_volume), location(&on_s3));

    let on_volume = healthy(MINIMAL);
    assert_eq!(place(&on_volume), None);
    let to_s3 = edited(&on_volume, |spec| {
        let s3 = S3BackupConfig { bucket: "b".into(), region: "r".into(), ..S3BackupConfig::default() };
        spec.backup = Some(BackupConfig { r#type: BackupType::S3, s3: Some(s3), ..BackupConfig::default() });
    });
    assert_eq!(told(&to_s3), told(&on_volume));
    assert_eq!(location(&to_s3), location(&on_volume));
    assert!(changed(&to_s3).unwrap().contains("s3://b"));

    let other_scope = edited(&on_volume, |spec| {
        let backup = json!({"type": "filesystem", "filesystem": {"scope": "Shard", "path": "/elsewhere"}});
        spec.backup = Some(serde_json::from_value(backup).unwrap());
    });
    let files = told(&other_scope).filesystem.unwrap();
    assert_eq!((files.scope, files.path.as_deref()), (Some(BackupScope::Cell), Some("/elsewhere")));
    assert!(changed(&other_scope).unwrap().contains("a volume for all cells"));
}

fn keys(secret: &str) -> EncryptionConfig {
    EncryptionConfig { secret_name: secret.to_owned() }
}

fn at_the_cluster(spec: &mut MultigresClusterSpec) {
    spec.backup.as_mut().unwrap().encryption = Some(keys("others"));
}

/// Where no rule of the schema compares it with what was there before.
fn at_the_database(spec: &mut MultigresClusterSpec) {
    let s3 = json!({"bucket": "b", "region": "r", "keyPrefix": "eu"});
    let backup = json!({"type": "s3", "s3": s3, "encryption": {"secretName": "others"}});
    let databases = json!([{"name": "postgres", "default": true, "backup": backup}]);
    spec.databases = serde_json::from_value(databases).unwrap();
}

fn nowhere(spec: &mut MultigresClusterSpec) {
    spec.backup.as_mut().unwrap().encryption = None;
}

#[rstest]
#[case::encrypted_later(None, at_the_database, ["without encryption", "Secret others"])]
#[case::with_other_keys(Some(keys("keys")), at_the_database, ["Secret keys", "Secret others"])]
#[case::with_other_keys_at_the_same_level(Some(keys("keys")), at_the_cluster, ["Secret keys", "Secret others"])]
#[case::no_longer(Some(keys("keys")), nowhere, ["Secret keys", "without encryption"])]
fn a_repository_stays_encrypted_as_it_was_made(
    #[case] made: Option<EncryptionConfig>,
    #[case] change: fn(&mut MultigresClusterSpec),
    #[case] named: [&str; 2],
) {
    let mut before = edited(&observed(ON_S3), |spec| spec.backup.as_mut().unwrap().encryption.clone_from(&made));
    healthy_children(&mut before);
    assert_eq!((told(&before).encryption, changed(&before)), (made.clone(), None));

    let after = edited(&before, change);
    let plan = run(&after);
    assert!(plan.notes.iter().any(|note| note.warning && note.reason == "BackupRepositoryChanged"));
    let status = plan.status.unwrap();
    let found = find(&status.conditions, "BackupRepositoryChanged").unwrap();
    assert_eq!(found.reason, "EncryptionFixed");
    assert!(named.iter().all(|how| found.message.contains(how)), "{}", found.message);
    assert_eq!(told(&after).encryption, made, "children that change it are refused");
    let (resolved, _) = repository::settle(&after, after.resolved.as_ref().unwrap());
    let record = after.wanted_records(&resolved, now()).databases.remove(0);
    assert_eq!(record.require_initial_repo_encryption, made.is_some(), "nor are poolers told anything else");

    let restored = edited(&after, |spec| spec.clone_from(&before.cluster.spec));
    assert_eq!((told(&restored).encryption, changed(&restored)), (made, None));
}

#[test]
fn a_cluster_that_is_applied_again_over_its_volumes_finds_its_backups() {
    let mut again = observed(ON_S3);
    again.claims = vec![data_volume(Some("s3://first/de"))];
    assert_eq!((place(&again).as_deref(), key_prefix(&again).as_str()), (Some("s3://first/de"), "de"));
    assert!(changed(&again).unwrap().contains("s3://b/eu"));
}

#[test]
fn what_goes_with_a_cluster_of_the_same_name_holds_no_new_one() {
    let mut fresh = observed(ON_S3);
    let mut before = healthy(ON_S3);
    forget_scopes(&mut before);
    edit(&mut before.table_groups, |group| {
        group.metadata.owner_references.as_mut().unwrap()[0].uid = "uid-of-the-first".to_owned();
    });
    fresh.table_groups = before.table_groups;
    let mut deleted = (*data_volume(None)).clone();
    deleted.metadata.deletion_timestamp = Some(Time(now()));
    let mut owned = (*data_volume(Some("s3://first/de"))).clone();
    owned.metadata.owner_references = Some(vec![OwnerReference::default()]);
    fresh.claims = vec![Arc::new(deleted), Arc::new(owned)];
    let (resolved, held) = repository::settle(&fresh, fresh.resolved.as_ref().unwrap());
    assert_eq!(repository::places(&resolved)["postgres"], OWN);
    assert!(held.is_empty());
}

#[test]
fn a_record_that_somebody_left_behind_holds_no_new_cluster() {
    let mut fresh = observed(ON_S3);
    fresh.topology = record(bucket("other", "de"));
    assert_eq!((place(&fresh).as_deref(), changed(&fresh)), (Some(OWN), None));
    fresh.topology = record(BackupLocation::Filesystem { path: "/backups".to_owned() });
    assert_eq!((place(&fresh).as_deref(), changed(&fresh)), (Some(OWN), None));
}

#[test]
fn a_record_that_somebody_has_changed_is_put_right() {
    let mut touched = healthy(ON_S3);
    touched.topology = record(bucket("other", "de"));
    assert_eq!((place(&touched).as_deref(), key_prefix(&touched).as_str()), (Some(OWN), "eu/prod/demo"));
    assert!(outline(&run(&touched)).iter().any(|line| line.contains("PutDatabase")));
}

#[test]
fn what_shards_say_about_missing_keys_is_told_by_the_cluster() {
    let mut observed = healthy(ON_S3);
    assert!(find(&run(&observed).status.unwrap().conditions, "CredentialsMissing").is_none());
    let said =
        ConditionSet::continuing(&[], Some(1), now()).set("CredentialsMissing", true, "SecretNotFound", "create it");
    let status = ShardStatus { conditions: said.finish(), ..ShardStatus::default() };
    let mut shard = Shard { status: Some(status), ..Shard::default() };
    shard.spec.shard_name = "0-inf".to_owned();
    observed.shards.push(Arc::new(shard));
    let status = run(&observed).status.unwrap();
    assert_eq!(find(&status.conditions, "CredentialsMissing").unwrap().message, "0-inf: create it");
    assert_eq!(status.phase, Some(Phase::Healthy), "nothing waits for keys");
}
