//! One case per rule, and what a finding says.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::resolve::{Settings, Templates};

const POOL: &str = "databases[postgres].tablegroups[default].shards[0-inf].pools[main]";

fn resolve(spec: &Value, templates: &Templates) -> (MultigresClusterSpec, ResolvedCluster) {
    let spec: MultigresClusterSpec = serde_json::from_value(spec.clone()).expect("a spec");
    let settings = Settings::default();
    let resolved = crate::resolve::cluster("demo", "prod", &spec, templates, &settings).expect("resolvable");
    (spec, resolved)
}

fn judge(spec: &Value) -> Verdict {
    let (spec, resolved) = resolve(spec, &Templates::default());
    cluster(None, "demo", &spec, &resolved, &Surroundings::default())
}

fn judge_update(old: &Value, new: &Value) -> Verdict {
    let (before, old) = resolve(old, &Templates::default());
    let (spec, new) = resolve(new, &Templates::default());
    let before = Before { spec: &before, resolved: &old };
    cluster(Some(before), "demo", &spec, &new, &Surroundings::default())
}

fn base() -> Value {
    json!({
        "cells": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
        "backup": {"type": "s3", "s3": {"bucket": "b", "region": "r"}},
        "databases": [{"name": "postgres", "tablegroups": [{"name": "default", "shards": [
            {"name": "0-inf", "spec": {"pools": {"main": {"storage": {"size": "10Gi"}}}}}]}]}]
    })
}

/// The base with one value put at a JSON pointer.
fn with(pointer: &str, value: Value) -> Value {
    put(base(), pointer, value)
}

fn put(mut spec: Value, pointer: &str, value: Value) -> Value {
    let pointer = pointer.replace("SHARD", "/databases/0/tablegroups/0/shards/0").replace("POOL", "/spec/pools/main");
    let mut target = &mut spec;
    for part in pointer.split('/').skip(1) {
        target = match part.parse::<usize>() {
            Ok(index) => &mut target[index],
            Err(_) => &mut target[part],
        };
    }
    *target = value;
    spec
}

#[test]
fn a_plain_cluster_is_accepted_without_a_word() {
    assert_eq!(judge(&base()), Verdict::default());
}

#[rstest]
#[case::cell_name("/cells/0/name", json!("A_b"), "cells[A_b].name")]
#[case::cell_twice("/cells/1/name", json!("a"), "cells")]
#[case::two_locations("/cells/0", json!({"name": "a", "zone": "x", "region": "y"}), "cells[a]")]
#[case::gateway_replicas("/cells/0/spec", json!({"multigateway": {"replicas": 129}}), "cells[a].multigateway.replicas")]
#[case::limit_below_request("/multiadmin", json!({"spec": {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "500m"}}}}), "multiadmin.resources.limits[cpu]")]
#[case::quantity("/multiadminWeb", json!({"spec": {"resources": {"requests": {"cpu": "lots"}}}}), "multiadminWeb.resources.requests[cpu]")]
#[case::negative_quantity("/multiadmin", json!({"spec": {"resources": {"requests": {"cpu": "-1"}}}}), "multiadmin.resources.requests[cpu]")]
#[case::window_syntax("/cells/0/spec", json!({"multigateway": {"buffer": {"window": "soon"}}}), "cells[a].multigateway.buffer.window")]
#[case::window_zero("/cells/0/spec", json!({"multigateway": {"buffer": {"window": "0s"}}}), "cells[a].multigateway.buffer.window")]
#[case::window_over_default("/cells/0/spec", json!({"multigateway": {"buffer": {"window": "30s"}}}), "cells[a].multigateway.buffer.window")]
#[case::longest_under_default("/cells/0/spec", json!({"multigateway": {"buffer": {"maxFailoverDuration": "5s"}}}), "cells[a].multigateway.buffer.window")]
#[case::buffer_size("/cells/0/spec", json!({"multigateway": {"buffer": {"size": 0}}}), "cells[a].multigateway.buffer.size")]
#[case::etcd_even("/globalTopoServer", json!({"etcd": {"replicas": 2}}), "globalTopoServer.etcd.replicas")]
#[case::etcd_size("/globalTopoServer", json!({"etcd": {"storage": {"size": "10potatoes"}}}), "globalTopoServer.etcd.storage.size")]
#[case::endpoint("/globalTopoServer", json!({"external": {"endpoints": ["etcd:2379"]}}), "globalTopoServer.external.endpoints")]
#[case::database("/databases/0/name", json!("app"), "databases[app].name")]
#[case::not_default("/databases/0/default", json!(false), "databases[postgres].default")]
#[case::no_default_group("/databases/0/tablegroups/0/default", json!(false), "databases[postgres].tablegroups")]
#[case::shard_name("SHARD/name", json!("0"), "databases[postgres].tablegroups[default].shards[0].name")]
#[case::policy("/durabilityPolicy", json!("ANY"), "durabilityPolicy")]
#[case::external_ip("/externalGateway", json!({"enabled": true, "externalIPs": ["999.1.1.1"]}), "externalGateway.externalIPs")]
#[case::backup_path("/backup", json!({"type": "filesystem", "filesystem": {"path": "backups"}}), "backup.filesystem.path")]
#[case::bucket("/backup", json!({"type": "s3", "s3": {"bucket": "", "region": "r"}}), "backup.s3.bucket")]
#[case::two_credentials("/backup", json!({"type": "s3", "s3": {"bucket": "b", "region": "r", "serviceAccountName": "x", "credentialsSecret": "y"}}), "backup.s3.serviceAccountName")]
fn a_wrong_cluster_field_is_refused_at_its_path(#[case] pointer: &str, #[case] value: Value, #[case] path: &str) {
    let verdict = judge(&with(pointer, value));
    assert!(verdict.errors.iter().any(|error| error.path == path), "{:#?}", verdict.errors);
}

#[rstest]
#[case::size("storage", json!({"size": "none"}), "storage.size")]
#[case::zero_size("storage", json!({"size": "0Gi"}), "storage.size")]
#[case::mode("storage", json!({"accessModes": ["ReadWriteAlways"]}), "storage.accessModes")]
#[case::unknown_cell("cells", json!(["a", "z"]), "cells")]
#[case::cell_twice("cells", json!(["a", "a"]), "cells")]
#[case::replicas("replicasPerCell", json!(33), "replicasPerCell")]
#[case::root("postgres", json!({"runAsUser": 0}), "postgres.runAsUser")]
#[case::other_user("multipooler", json!({"runAsUser": 70}), "multipooler.runAsUser")]
#[case::fs_group("fsGroup", json!(0), "fsGroup")]
#[case::limit("postgres", json!({"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}}), "postgres.resources.limits[memory]")]
fn a_wrong_pool_field_is_refused_at_its_path(#[case] field: &str, #[case] value: Value, #[case] path: &str) {
    let verdict = judge(&with(&format!("SHARDPOOL/{field}"), value));
    let path = format!("{POOL}.{path}");
    assert!(verdict.errors.iter().any(|error| error.path == path), "{:#?}", verdict.errors);
}

#[rstest]
#[case::pooler_alone(json!({"multipooler": {"runAsUser": 70}}), 1)]
#[case::both(json!({"postgres": {"runAsUser": 70}, "multipooler": {"runAsUser": 70}}), 0)]
#[case::inherited(json!({"postgres": {"runAsUser": 70}}), 0)]
fn both_containers_of_an_image_of_the_user_share_one_user(#[case] pool: Value, #[case] expected: usize) {
    let spec = put(with("SHARDPOOL", pool), "/images", json!({"postgres": "example.com/pg:1"}));
    assert_eq!(judge(&spec).errors.len(), expected);
}

#[rstest]
#[case::unknown("wrok_mem", "4MB", "wrok_mem")]
#[case::managed("wal_level", "replica", "wal_level")]
#[case::managed_in_capitals("Port", "1", "Port")]
#[case::value("work_mem", "4mb", "work_mem")]
#[case::injection("a.b\nport", "1", "a.b\nport")]
#[case::extension_value("cron.host", "x\ny", "cron.host")]
fn a_wrong_postgres_setting_is_refused(#[case] name: &str, #[case] value: &str, #[case] key: &str) {
    let verdict = judge(&with("SHARD/spec/postgresConfig", json!({name: value})));
    let paths: Vec<_> = verdict.errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, [format!("databases[postgres].tablegroups[default].shards[0-inf].postgresConfig[{key}]")]);
}

#[test]
fn a_setting_in_two_cases_is_refused() {
    let verdict = judge(&with("SHARD/spec/postgresConfig", json!({"work_mem": "4MB", "Work_Mem": "8MB"})));
    assert_eq!(verdict.errors.len(), 1, "{:#?}", verdict.errors);
}

#[test]
fn text_of_a_referenced_config_is_only_warned_about() {
    let warnings = postgres_reference("ref", "port = 1\nwork_mem = nope\ninclude 'x'\njit = on\n");
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
}

#[rstest]
#[case::one_pooler("SHARDPOOL", json!({"cells": ["a"], "replicasPerCell": 1}), "databases[postgres].tablegroups[default].shards[0-inf].pools")]
#[case::one_member_etcd("/globalTopoServer", json!({"etcd": {"replicas": 1}}), "globalTopoServer.etcd.replicas")]
#[case::exposed("/externalGateway", json!({"enabled": true}), "externalGateway")]
#[case::risky("SHARD/spec/postgresConfig", json!({"fsync": "off"}), "databases[postgres].tablegroups[default].shards[0-inf].postgresConfig[fsync]")]
#[case::cell_local("/backup", json!({"type": "filesystem", "filesystem": {}}), "databases[postgres].tablegroups[default].shards[0-inf].backup.filesystem.scope")]
#[case::shared_volume("/backup", json!({"type": "filesystem", "filesystem": {"scope": "Shard"}}), "databases[postgres].tablegroups[default].shards[0-inf].backup.filesystem.storage.accessModes")]
#[case::no_cells("/cells", json!([]), "cells")]
fn a_doubtful_field_is_accepted_with_a_warning(#[case] pointer: &str, #[case] value: Value, #[case] path: &str) {
    let verdict = judge(&with(pointer, value));
    assert!(verdict.is_accepted(), "{:#?}", verdict.errors);
    assert!(verdict.warnings.iter().any(|warning| warning.path == path), "{:#?}", verdict.warnings);
    assert!(verdict.warnings.iter().all(|warning| warning.to_string().len() <= 256), "{:#?}", verdict.warnings);
}

#[test]
fn a_policy_across_cells_needs_two_cells() {
    let spec = put(
        with("SHARDPOOL", json!({"cells": ["a"], "replicasPerCell": 3})),
        "/durabilityPolicy",
        json!("MULTI_CELL_AT_LEAST_2"),
    );
    assert_eq!(judge(&spec).warnings.len(), 1);
}

#[test]
fn a_pool_in_too_many_cells_is_refused_before_its_child_is() {
    let cells: Vec<_> = (0..11).map(|index| json!({"name": format!("c{index}")})).collect();
    let verdict = judge(&with("/cells", json!(cells)));
    assert!(verdict.errors.iter().any(|error| error.path == format!("{POOL}.cells")), "{:#?}", verdict.errors);
}

#[test]
fn all_findings_come_at_once() {
    let spec = put(with("/durabilityPolicy", json!("ANY")), "SHARDPOOL/storage/size", json!("x"));
    let spec = put(spec, "/externalGateway", json!({"enabled": true, "externalIPs": ["x"]}));
    let verdict = judge(&spec);
    assert_eq!(verdict.errors.len(), 3, "{:#?}", verdict.errors);
    assert!(verdict.summary().contains("; "));
}

#[test]
fn a_finding_names_the_template_that_the_value_came_from() {
    let template =
        serde_json::from_value(json!({"pools": {"main": {"storage": {"size": "huge"}}}})).expect("a template");
    let templates = Templates { shard: [("default".to_owned(), template)].into(), ..Templates::default() };
    let mut spec = base();
    spec["databases"] = json!([]);
    let (spec, resolved) = resolve(&spec, &templates);
    let verdict = cluster(None, "demo", &spec, &resolved, &Surroundings::default());
    assert_eq!(
        verdict.summary(),
        format!(
            "{POOL}.storage.size: \"huge\" (from ShardTemplate default (namespace default)): is not a quantity; write a number \
             with an optional suffix, such as 500m, 512Mi or 10Gi"
        )
    );
}

#[rstest]
#[case::zone("/cells/0/zone", json!("elsewhere"), "cells[a].zone")]
#[case::shrunk("SHARDPOOL/storage/size", json!("5Gi"), "databases[postgres].tablegroups[default].shards[0-inf].pools[main].storage.size")]
#[case::quorum("/globalTopoServer", json!({"etcd": {"replicas": 1}}), "globalTopoServer.etcd.replicas")]
#[case::policy_lost("SHARDPOOL", json!({"cells": ["a"], "replicasPerCell": 1, "storage": {"size": "10Gi"}}), "databases[postgres].tablegroups[default].shards[0-inf].pools")]
#[case::nobody_stays("SHARD/spec/pools", json!({"other": {}}), "databases[postgres].tablegroups[default].shards[0-inf].pools")]
#[case::encryption("/backup/encryption", json!({"secretName": "keys"}), "databases[postgres].tablegroups[default].shards[0-inf].backup.encryption")]
#[case::external_topology("/globalTopoServer", json!({"external": {"endpoints": ["http://e:2379"], "rootPath": "/r"}}), "globalTopoServer")]
#[case::root_path("/globalTopoServer", json!({"etcd": {"rootPath": "/elsewhere"}}), "globalTopoServer.etcd.rootPath")]
#[case::local_topology("/cells/0/spec", json!({"localTopoServer": {"etcd": {}}}), "cells[a].localTopoServer")]
fn a_harmful_change_is_refused(#[case] pointer: &str, #[case] value: Value, #[case] path: &str) {
    let verdict = judge_update(&base(), &with(pointer, value));
    assert_eq!(
        verdict.errors.iter().map(|error| error.path.as_str()).collect::<Vec<_>>(),
        [path],
        "{:#?}",
        verdict.errors
    );
}

#[rstest]
#[case::grown("SHARDPOOL/storage/size", json!("20Gi"))]
#[case::cell_left("SHARDPOOL/cells", json!(["a", "b"]))]
#[case::more_etcd("/globalTopoServer", json!({"etcd": {"replicas": 5}}))]
#[case::pool_added("SHARD/spec/pools/other", json!({}))]
#[case::cells_replaced("/cells/2", json!({"name": "d"}))]
fn a_harmless_change_is_accepted(#[case] pointer: &str, #[case] value: Value) {
    let verdict = judge_update(&base(), &with(pointer, value));
    assert!(verdict.is_accepted(), "{:#?}", verdict.errors);
}

#[rstest]
#[case::managed_to_external(json!({"etcd": {}}), json!({"external": {"endpoints": ["http://e:2379"]}}), "cells[a].localTopoServer")]
#[case::given_up(json!({"etcd": {}}), json!(null), "cells[a].localTopoServer")]
#[case::managed_root(json!({"etcd": {}}), json!({"etcd": {"rootPath": "/r"}}), "cells[a].localTopoServer.etcd.rootPath")]
#[case::external_root(
    json!({"external": {"endpoints": ["http://e:2379"]}}),
    json!({"external": {"endpoints": ["http://e:2379"], "rootPath": "/r"}}),
    "cells[a].localTopoServer.external.rootPath",
)]
fn the_topology_of_a_cell_stays_where_it_is(#[case] before: Value, #[case] after: Value, #[case] path: &str) {
    let of = |local: Value| {
        let spec = if local.is_null() { json!({}) } else { json!({"localTopoServer": local}) };
        with("/cells/0/spec", spec)
    };
    let verdict = judge_update(&of(before), &of(after));
    let errors: Vec<_> = verdict.errors.iter().map(|error| (error.path.as_str(), error.reason)).collect();
    assert_eq!(errors, [(path, reason::FORBIDDEN)], "{:#?}", verdict.errors);
}

#[test]
fn an_external_topology_keeps_its_root_and_may_get_other_members() {
    let of = |root: &str, endpoints: &[&str]| {
        with("/globalTopoServer", json!({"external": {"endpoints": endpoints, "rootPath": root}}))
    };
    let before = of("/a", &["http://e0:2379", "http://e1:2379"]);
    assert_eq!(judge_update(&before, &of("/a", &["http://e1:2379", "http://e2:2379"])), Verdict::default());
    let others = judge_update(&before, &of("/a", &["http://e2:2379"]));
    assert!(others.is_accepted(), "{:#?}", others.errors);
    let warned: Vec<_> = others.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(warned, ["globalTopoServer.external.endpoints"]);
    let moved = judge_update(&before, &of("/b", &["http://e0:2379"]));
    assert!(moved.summary().contains("globalTopoServer.external.rootPath") && moved.summary().contains("was /a"));
}

#[test]
fn an_unchanged_cluster_is_accepted() {
    assert_eq!(judge_update(&base(), &base()), Verdict::default());
}

#[test]
fn a_review_tells_the_level_of_a_wrong_value_only_where_it_differs() {
    let template = serde_json::from_value(json!({"pools": {"main": {"storage": {"size": "0"}}}})).expect("a template");
    let templates = Templates { shard: [("default".to_owned(), template)].into(), ..Templates::default() };
    let settings = Settings::default();
    let mut value = base();
    value["databases"] = json!([]);
    value["multiadmin"] = json!({"spec": {"replicas": 129}});
    let spec: MultigresClusterSpec = serde_json::from_value(value).expect("a spec");
    let subject = Subject { name: "demo", namespace: "prod", spec: &spec, templates: &templates, settings: &settings };
    let verdict = review(None, &subject, &Surroundings::default());
    let levels: Vec<_> = verdict.errors.iter().map(|error| (error.path.as_str(), error.source.is_some())).collect();
    assert_eq!(levels, [("multiadmin.replicas", false), (&format!("{POOL}.storage.size"), true)]);
}

#[test]
fn hostile_text_is_not_repeated_in_full() {
    let verdict = judge(&with("/postgresSuperuser", json!("x".repeat(1_000_000))));
    assert_eq!(verdict.errors.len(), 1);
    assert!(verdict.errors[0].to_string().len() < 2_000);
}

#[test]
fn a_decrease_that_standbys_could_not_follow_is_warned_about() {
    let of = |pointer: &str, value: Value| with(&format!("SHARD/spec/{pointer}"), value);
    let connections = |number: &str| of("postgresConfig", json!({ "max_connections": number }));
    let warned = |old: &Value, new: &Value| -> Vec<String> {
        let verdict = judge_update(old, new);
        assert!(verdict.errors.is_empty(), "{:#?}", verdict.errors);
        verdict
            .warnings
            .iter()
            .map(ToString::to_string)
            .filter(|text| text.contains("no standby may have less"))
            .collect()
    };
    let lower = warned(&connections("300"), &connections("100"));
    assert!(lower.len() == 1 && lower[0].contains("max_connections stays 300"), "{lower:?}");
    assert!(warned(&connections("100"), &connections("300")).is_empty());
    assert!(warned(&connections("300"), &connections("300")).is_empty());
}
