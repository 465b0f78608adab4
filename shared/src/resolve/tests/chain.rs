//! Which level wins, per component.

use k8s_openapi::api::core::v1::ResourceRequirements;
use pretty::leaf;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::v1alpha1::{BackupScope, BackupType, GlobalTopoServerRef, PvcRetention, ShardResolvedSpec, ShardSpec};
use crate::validate::limits;

mod pretty {
    use serde_json::Value;

    /// The value at a JSON pointer of a resolved part.
    pub fn leaf(part: impl serde::Serialize, pointer: &str) -> Value {
        serde_json::to_value(part).expect("serialisable").pointer(pointer).cloned().unwrap_or(Value::Null)
    }
}

const SHARD: &str = "databases[postgres].tablegroups[default].shards[0-inf]";

fn the_shard(resolved: &ResolvedCluster) -> &ShardResolvedSpec {
    &resolved.databases[0].table_groups[0].shards[0]
}

#[expect(clippy::needless_pass_by_value, reason = "called with literals")]
fn with_shard(shard: Value) -> Value {
    json!({"cells": [{"name": "zone-a"}],
        "databases": [{"name": "postgres", "tablegroups": [{"name": "default", "shards": [shard]}]}]})
}

/// Levels from nothing to everything: each row adds the next higher level.
fn all_templates() -> Templates {
    templates(&json!({
        "core": {"default": {"multiadmin": {"replicas": 2}, "multiadminWeb": {"replicas": 2}, "globalTopoServer": {"etcd": {"replicas": 5}}},
                 "team": {"multiadmin": {"replicas": 3}, "multiadminWeb": {"replicas": 3}, "globalTopoServer": {"etcd": {"replicas": 7}}},
                 "own": {"multiadmin": {"replicas": 4}, "multiadminWeb": {"replicas": 4}, "globalTopoServer": {"etcd": {"replicas": 9}}}},
        "cell": {"default": {"multigateway": {"replicas": 2}}, "team": {"multigateway": {"replicas": 3}}, "own": {"multigateway": {"replicas": 4}}},
        "shard": {"default": {"multiorch": {"replicas": 2}, "pools": {"default": {"replicasPerCell": 2}}},
                  "team": {"multiorch": {"replicas": 3}, "pools": {"default": {"replicasPerCell": 3}}},
                  "own": {"multiorch": {"replicas": 4}, "pools": {"default": {"replicasPerCell": 4}}}}
    }))
}

fn template(kind: TemplateKind, name: &str, via: Via) -> Source {
    Source::Template { kind, name: name.into(), via }
}

#[rstest]
#[case::built_in(json!({}), false, 1, Source::BuiltIn)]
#[case::namespace(json!({}), true, 2, template(TemplateKind::CoreTemplate, "default", Via::NamespaceDefault))]
#[case::cluster(json!({"templateDefaults": {"coreTemplate": "team"}}), true, 3, template(TemplateKind::CoreTemplate, "team", Via::ClusterDefault))]
#[case::explicit(json!({"templateDefaults": {"coreTemplate": "team"}, "multiadmin": {"templateRef": "own"}, "multiadminWeb": {"templateRef": "own"}}), true, 4, template(TemplateKind::CoreTemplate, "own", Via::Explicit))]
#[case::inline(json!({"templateDefaults": {"coreTemplate": "team"}, "multiadmin": {"spec": {"replicas": 9}}, "multiadminWeb": {"spec": {"replicas": 9}}}), true, 9, Source::Inline)]
fn admin_components_follow_the_chain(
    #[case] spec: Value,
    #[case] present: bool,
    #[case] replicas: i32,
    #[case] source: Source,
) {
    let templates = if present { all_templates() } else { Templates::default() };
    let resolved = resolve(spec, &templates);
    assert_eq!(resolved.multiadmin.spec.replicas, Some(replicas));
    assert_eq!(resolved.multiadmin_web.spec.replicas, Some(replicas));
    assert_eq!(resolved.provenance.source("multiadmin.replicas"), Some(&source));
    assert_eq!(resolved.provenance.source("multiadminWeb.replicas"), Some(&source));
}

#[rstest]
#[case::built_in(json!({}), false, 3, Source::BuiltIn)]
#[case::namespace(json!({}), true, 5, template(TemplateKind::CoreTemplate, "default", Via::NamespaceDefault))]
#[case::cluster(json!({"templateDefaults": {"coreTemplate": "team"}}), true, 7, template(TemplateKind::CoreTemplate, "team", Via::ClusterDefault))]
#[case::explicit(json!({"globalTopoServer": {"templateRef": "own"}}), true, 9, template(TemplateKind::CoreTemplate, "own", Via::Explicit))]
#[case::inline(json!({"globalTopoServer": {"etcd": {"replicas": 1}}}), true, 1, Source::Inline)]
fn the_global_topology_follows_the_chain(
    #[case] spec: Value,
    #[case] present: bool,
    #[case] replicas: i32,
    #[case] source: Source,
) {
    let templates = if present { all_templates() } else { Templates::default() };
    let resolved = resolve(spec, &templates);
    let etcd = resolved.managed_topo().and_then(|topo| topo.etcd.as_ref()).expect("managed");
    assert_eq!(etcd.replicas, Some(replicas));
    assert_eq!(resolved.provenance.source("globalTopoServer.etcd.replicas"), Some(&source));
}

#[test]
fn etcd_has_the_image_that_the_operator_is_told_where_nobody_names_one() {
    let told = Settings { etcd_image: "mirror.test/etcd:1".to_owned(), ..settings() };
    let local = json!({"name": "a", "spec": {"localTopoServer": {"etcd": {"replicas": 1}}}});
    let wanted = spec(json!({"cells": [local]}));
    let resolved = cluster("demo", "prod", &wanted, &Templates::default(), &told).expect("a spec that resolves");
    assert_eq!(leaf(resolved.managed_topo(), "/etcd/image"), "mirror.test/etcd:1");
    assert_eq!(leaf(&resolved.cells[0], "/topoServer/etcd/image"), "mirror.test/etcd:1");
    let named = spec(json!({"cells": [{"name": "a"}], "globalTopoServer": {"etcd": {"image": "mine:1"}}}));
    let resolved = cluster("demo", "prod", &named, &Templates::default(), &told).expect("a spec that resolves");
    assert_eq!(leaf(resolved.managed_topo(), "/etcd/image"), "mine:1");
}

#[rstest]
#[case::built_in(json!({}), json!({"name": "zone-a"}), false, 1, Source::BuiltIn)]
#[case::namespace(json!({}), json!({"name": "zone-a"}), true, 2, template(TemplateKind::CellTemplate, "default", Via::NamespaceDefault))]
#[case::cluster(json!({"cellTemplate": "team"}), json!({"name": "zone-a"}), true, 3, template(TemplateKind::CellTemplate, "team", Via::ClusterDefault))]
#[case::explicit(json!({"cellTemplate": "team"}), json!({"name": "zone-a", "cellTemplate": "own"}), true, 4, template(TemplateKind::CellTemplate, "own", Via::Explicit))]
#[case::overrides(json!({}), json!({"name": "zone-a", "cellTemplate": "own", "overrides": {"multigateway": {"replicas": 5}}}), true, 5, Source::Overrides)]
#[case::inline(json!({"cellTemplate": "team"}), json!({"name": "zone-a", "spec": {"multigateway": {"replicas": 6}}}), true, 6, Source::Inline)]
fn gateways_follow_the_chain(
    #[case] defaults: Value,
    #[case] cell: Value,
    #[case] present: bool,
    #[case] replicas: i32,
    #[case] source: Source,
) {
    let templates = if present { all_templates() } else { Templates::default() };
    let resolved = resolve(json!({"templateDefaults": defaults, "cells": [cell]}), &templates);
    assert_eq!(resolved.cells[0].multigateway.replicas, Some(replicas));
    assert_eq!(resolved.provenance.source("cells[zone-a].multigateway.replicas"), Some(&source));
}

#[rstest]
#[case::built_in(json!({}), json!({"name": "0-inf"}), false, (1, 2), Source::BuiltIn)]
#[case::namespace(json!({}), json!({"name": "0-inf"}), true, (2, 2), template(TemplateKind::ShardTemplate, "default", Via::NamespaceDefault))]
#[case::cluster(json!({"shardTemplate": "team"}), json!({"name": "0-inf"}), true, (3, 3), template(TemplateKind::ShardTemplate, "team", Via::ClusterDefault))]
#[case::explicit(json!({"shardTemplate": "team"}), json!({"name": "0-inf", "shardTemplate": "own"}), true, (4, 4), template(TemplateKind::ShardTemplate, "own", Via::Explicit))]
#[case::overrides(json!({}), json!({"name": "0-inf", "shardTemplate": "own", "overrides": {"multiorch": {"replicas": 5}, "pools": {"default": {"replicasPerCell": 5}}}}), true, (5, 5), Source::Overrides)]
#[case::inline(json!({}), json!({"name": "0-inf", "spec": {"multiorch": {"replicas": 6}, "pools": {"default": {"replicasPerCell": 6}}}}), true, (6, 6), Source::Inline)]
fn shards_follow_the_chain(
    #[case] defaults: Value,
    #[case] shard: Value,
    #[case] present: bool,
    #[case] replicas: (i32, i32),
    #[case] source: Source,
) {
    let templates = if present { all_templates() } else { Templates::default() };
    let mut spec = with_shard(shard);
    spec["templateDefaults"] = defaults;
    let resolved = resolve(spec, &templates);
    let shard = the_shard(&resolved);
    assert_eq!(
        (shard.multiorch.replicas, shard.pools["default"].replicas_per_cell),
        (Some(replicas.0), Some(replicas.1))
    );
    for path in ["multiorch.replicas", "pools[default].replicasPerCell"] {
        assert_eq!(resolved.provenance.source(&format!("{SHARD}.{path}")), Some(&source), "{path}");
    }
}

#[test]
fn an_empty_cluster_gets_the_skeleton() {
    let resolved = resolve(json!({}), &Templates::default());
    assert_eq!(resolved.notices, [Notice::NoCells]);
    let database = &resolved.databases[0];
    assert_eq!((database.name.as_str(), database.default), ("postgres", true));
    assert_eq!(database.table_groups[0].table_group_name, "default");
    assert_eq!(database.table_groups[0].default, Some(true));
    let shard = the_shard(&resolved);
    assert_eq!(shard.name, "0-inf");
    assert_eq!(shard.pools.keys().collect::<Vec<_>>(), ["default"]);
    assert!(resolved.password.generated);
    assert_eq!(resolved.password.secret_ref.name, "demo-postgres-password");
    assert_eq!(resolved.global_topo_ref.address, "demo-global-topo.prod.svc:2379");
    assert_eq!(resolved.global_topo_ref.root_path, "/multigres/global");
}

#[test]
fn a_pool_without_cells_spans_all_of_them_in_order() {
    let resolved = resolve(json!({"cells": two_cells()}), &Templates::default());
    let shard = the_shard(&resolved);
    assert_eq!(shard.pools["default"].cells, ["zone-a", "zone-b"]);
    assert_eq!(shard.pools["default"].replicas_per_cell, Some(1));
    assert_eq!(shard.multiorch.cells, ["zone-a", "zone-b"]);
    assert_eq!(resolved.cells[0].all_cells, ["zone-b", "zone-a"]);
    assert_eq!(resolved.notices.len(), 1, "{:?}", resolved.notices);
    assert!(matches!(&resolved.notices[0], Notice::CellLocalRepository { cells, .. } if cells.len() == 2));
}

#[rstest]
#[case::cell_scope(json!({"type": "filesystem"}), 1)]
#[case::shard_scope(json!({"type": "filesystem", "filesystem": {"scope": "Shard"}}), 0)]
#[case::s3(json!({"type": "s3", "s3": {"bucket": "b", "region": "r"}}), 0)]
fn a_cell_local_repository_is_noticed(#[case] backup: Value, #[case] expected: usize) {
    let resolved = resolve(json!({"cells": two_cells(), "backup": backup}), &Templates::default());
    assert_eq!(resolved.notices.len(), expected, "{:?}", resolved.notices);
}

#[test]
fn locations_become_node_labels() {
    let resolved = resolve(
        json!({"cells": [{"name": "a", "zone": "z"}, {"name": "b", "zoneId": "i"}, {"name": "c", "region": "r"}, {"name": "d"}]}),
        &Templates::default(),
    );
    assert_eq!(
        serde_json::to_value(&resolved.cell_topology_labels).expect("serialisable"),
        json!({"a": {"topology.kubernetes.io/zone": "z"}, "b": {"topology.k8s.aws/zone-id": "i"}, "c": {"topology.kubernetes.io/region": "r"}})
    );
}

#[rstest]
#[case::default(None, "--encoding=UTF8", Source::BuiltIn)]
#[case::other_option(Some("--data-checksums"), "--encoding=UTF8 --data-checksums", Source::Inline)]
#[case::own_locale(Some("--locale=de_DE.UTF-8"), "--locale=de_DE.UTF-8", Source::Inline)]
#[case::own_encoding(Some("-E LATIN1"), "-E LATIN1", Source::Inline)]
fn databases_are_made_in_utf8_unless_told_otherwise(
    #[case] given: Option<&str>,
    #[case] expected: &str,
    #[case] source: Source,
) {
    let shard = given.map_or(json!({"name": "0-inf"}), |args| json!({"name": "0-inf", "spec": {"initdbArgs": args}}));
    let resolved = resolve(with_shard(shard), &Templates::default());
    assert_eq!(the_shard(&resolved).initdb_args.as_deref(), Some(expected));
    assert_eq!(resolved.provenance.source(&format!("{SHARD}.initdbArgs")), Some(&source));
}

#[rstest]
#[case::default(json!({}), json!({}), json!({}), ["Retain", "Retain"])]
#[case::template(json!({}), json!({}), json!({"whenDeleted": "Delete", "whenScaled": "Delete"}), ["Delete", "Delete"])]
#[case::cluster_beats_template(json!({"whenScaled": "Retain"}), json!({}), json!({"whenDeleted": "Delete", "whenScaled": "Delete"}), ["Delete", "Retain"])]
#[case::group_beats_cluster(json!({"whenDeleted": "Delete", "whenScaled": "Delete"}), json!({"whenScaled": "Retain"}), json!({}), ["Delete", "Retain"])]
fn volume_policies_are_inherited_field_by_field(
    #[case] cluster: Value,
    #[case] group: Value,
    #[case] template: Value,
    #[case] expected: [&str; 2],
) {
    let templates = templates(&json!({
        "shard": {"default": {"pvcDeletionPolicy": template}}, "core": {"default": {"globalTopoServer": {"pvcDeletionPolicy": template}}},
        "cell": {"default": {"localTopoServer": {"etcd": {"pvcDeletionPolicy": template}}}}
    }));
    let mut spec = with_shard(json!({"name": "0-inf"}));
    spec["pvcDeletionPolicy"] = cluster.clone();
    spec["databases"][0]["tablegroups"][0]["pvcDeletionPolicy"] = group.clone();
    let resolved = resolve(spec, &templates);
    let expected = json!({"whenDeleted": expected[0], "whenScaled": expected[1]});
    assert_eq!(leaf(the_shard(&resolved), "/pvcDeletionPolicy"), expected);
    assert_eq!(leaf(the_shard(&resolved), "/pools/default/pvcDeletionPolicy"), expected);
    if group == json!({}) {
        assert_eq!(leaf(resolved.managed_topo(), "/pvcDeletionPolicy"), expected, "global etcd");
        assert_eq!(leaf(&resolved.cells[0], "/topoServer/etcd/pvcDeletionPolicy"), expected, "local etcd");
    }
}

#[test]
fn an_inline_pool_has_the_last_word_on_its_volumes() {
    let templates = templates(
        &json!({"shard": {"t": {"pools": {"default": {"pvcDeletionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}}}}}}),
    );
    let shard = json!({"name": "0-inf", "shardTemplate": "t", "overrides": {"pools": {"default": {"pvcDeletionPolicy": {"whenScaled": "Retain"}}}}});
    let resolved = resolve(with_shard(shard), &templates);
    let policy = the_shard(&resolved).pools["default"].pvc_deletion_policy.expect("resolved");
    assert_eq!((policy.when_deleted, policy.when_scaled), (Some(PvcRetention::Delete), Some(PvcRetention::Retain)));
    let source = |field: &str| resolved.provenance.source(&format!("{SHARD}.pools[default].pvcDeletionPolicy.{field}"));
    assert_eq!(source("whenDeleted"), Some(&template(TemplateKind::ShardTemplate, "t", Via::Explicit)));
    assert_eq!(source("whenScaled"), Some(&Source::Overrides));
}

#[test]
fn a_seed_manifest_with_a_policy_only_resolves() {
    let spec = json!({"globalTopoServer": {"pvcDeletionPolicy": {"whenDeleted": "Delete"}}, "pvcDeletionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"}});
    let resolved = resolve(spec, &Templates::default());
    assert_eq!(
        leaf(resolved.managed_topo(), "/pvcDeletionPolicy"),
        json!({"whenDeleted": "Delete", "whenScaled": "Delete"})
    );
}

#[test]
fn backups_are_inherited_down_to_the_shard() {
    let mut spec = with_shard(
        json!({"name": "0-inf", "backup": {"type": "s3", "s3": {"bucket": "", "region": "", "keyPrefix": "own"}}}),
    );
    spec["backup"] = json!({"type": "s3", "s3": {"bucket": "b", "region": "r", "useEnvCredentials": true}, "pgbackrestTLS": {"secretName": "tls"}});
    spec["databases"][0]["backup"] =
        json!({"type": "s3", "s3": {"bucket": "c", "region": "r", "useEnvCredentials": true}});
    let resolved = resolve(spec, &Templates::default());
    let backup = the_shard(&resolved).backup.clone().expect("resolved");
    assert_eq!(
        leaf(&backup, ""),
        json!({"type": "s3", "s3": {"bucket": "c", "region": "r", "keyPrefix": "own"}, "pgbackrestTLS": {"secretName": "tls"}})
    );
    let source = |path: &str| resolved.provenance.source(&format!("{SHARD}.backup.{path}")).cloned();
    assert_eq!(source("pgbackrestTLS"), Some(Source::Cluster));
    assert_eq!(source("s3.bucket"), Some(Source::Database));
    assert_eq!(source("s3.keyPrefix"), Some(Source::Inline));
}

#[test]
fn a_backup_of_another_type_inherits_nothing() {
    let mut spec = with_shard(json!({"name": "0-inf", "backup": {"type": "filesystem"}}));
    spec["backup"] =
        json!({"type": "s3", "s3": {"bucket": "b", "region": "r"}, "pgbackrestTLS": {"secretName": "tls"}});
    let resolved = resolve(spec, &Templates::default());
    let backup = the_shard(&resolved).backup.clone().expect("resolved");
    assert_eq!((backup.r#type, backup.s3, backup.pgbackrest_tls), (BackupType::Filesystem, None, None));
    let filesystem = backup.filesystem.expect("filled");
    assert_eq!((filesystem.path.as_deref(), filesystem.scope), (Some("/backups"), Some(BackupScope::Cell)));
    assert_eq!(resolved.provenance.source(&format!("{SHARD}.backup.s3.bucket")), None);
}

#[rstest]
#[case(json!({}), json!({}), json!({}), "AT_LEAST_2", Source::BuiltIn)]
#[case(json!("MULTI_CELL_AT_LEAST_2"), json!({}), json!({}), "MULTI_CELL_AT_LEAST_2", Source::Cluster)]
#[case(json!("MULTI_CELL_AT_LEAST_2"), json!("AT_LEAST_2"), json!({}), "AT_LEAST_2", Source::Database)]
#[case(json!("AT_LEAST_2"), json!("AT_LEAST_2"), json!("MULTI_CELL_AT_LEAST_2"), "MULTI_CELL_AT_LEAST_2", Source::Inline)]
fn durability_is_inherited_down_to_the_shard(
    #[case] cluster: Value,
    #[case] database: Value,
    #[case] shard: Value,
    #[case] expected: &str,
    #[case] source: Source,
) {
    let mut spec = with_shard(json!({"name": "0-inf", "spec": {}}));
    for (target, value) in [
        ("/durabilityPolicy", cluster),
        ("/databases/0/durabilityPolicy", database),
        ("/databases/0/tablegroups/0/shards/0/spec/durabilityPolicy", shard),
    ] {
        let (parent, key) = target.rsplit_once('/').expect("a pointer");
        if value.is_string() {
            spec.pointer_mut(parent).expect("there")[key] = value;
        }
    }
    let resolved = resolve(spec, &Templates::default());
    assert_eq!(the_shard(&resolved).durability_policy.map(|policy| policy.to_string()).as_deref(), Some(expected));
    assert_eq!(resolved.databases[0].durability_policy.to_string(), expected);
    assert_eq!(resolved.provenance.source(&format!("{SHARD}.durabilityPolicy")), Some(&source));
}

#[test]
fn table_groups_under_the_other_spelling_mean_the_same() {
    let shard =
        json!({"name": "0-inf", "spec": {"pools": {"main": {"storage": {"size": "5Gi", "storageClassName": "fast"}}}}});
    let canonical = resolve(with_shard(shard.clone()), &Templates::default());
    let alias = json!({"cells": [{"name": "zone-a"}], "databases": [{"name": "postgres", "tableGroups": [{"name": "default", "shards": [shard]}]}]});
    let aliased = resolve(alias, &Templates::default());
    assert_eq!(canonical, aliased);
    assert_eq!(
        the_shard(&aliased).pools["main"].storage.as_ref().and_then(|storage| storage.class.as_deref()),
        Some("fast")
    );
}

#[rstest]
#[case::unknown_key(json!([{"name": "default", "sharts": [{"name": "0-inf"}]}]), "databases[postgres].tableGroups[0].sharts", "Malformed")]
#[case::unknown_key_deeper(json!([{"name": "default", "shards": [{"name": "0-inf", "spec": {"pool": {"x": {}}, "pools": {"a": {"sise": "1"}}}}]}]), "databases[postgres].tableGroups[0].shards[0].spec.pools.a.sise", "Malformed")]
#[case::wrong_type(json!([{"name": 5}]), "databases[postgres].tableGroups[0]", "Malformed")]
fn alias_content_is_checked(#[case] groups: Value, #[case] field: &str, #[case] reason: &str) {
    let spec = spec(json!({"databases": [{"name": "postgres", "tableGroups": groups}]}));
    let errors = cluster("demo", "prod", &spec, &Templates::default(), &settings()).expect_err("refused");
    assert!(errors.iter().any(|error| error.field() == field && error.reason() == reason), "{errors:?}");
}

#[test]
fn every_missing_template_is_reported_once() {
    let spec = spec(json!({
        "templateDefaults": {"coreTemplate": "core"},
        "cells": [{"name": "a", "cellTemplate": "x"}, {"name": "b", "cellTemplate": "y"}],
        "databases": [{"name": "postgres", "tablegroups": [{"name": "default", "shards": [{"name": "0-inf", "shardTemplate": "z"}]}]}]
    }));
    let errors = cluster("demo", "prod", &spec, &all_templates(), &settings()).expect_err("refused");
    let fields: Vec<_> = errors.iter().map(ResolveError::field).collect();
    assert_eq!(
        fields,
        [
            "templateDefaults.coreTemplate",
            "cells[a].cellTemplate",
            "cells[b].cellTemplate",
            &format!("{SHARD}.shardTemplate")
        ]
    );
    assert_eq!(
        errors[1].to_string(),
        "cells[a].cellTemplate: CellTemplate \"x\" does not exist in namespace \"prod\"; create it or name one of: default, own, team"
    );
}

#[test]
fn an_absent_default_template_counts_as_empty_even_when_written_out() {
    let resolved = resolve(json!({"cells": [{"name": "a", "cellTemplate": "default"}]}), &Templates::default());
    assert_eq!(resolved.resolved_templates, ResolvedTemplates::default());
}

#[test]
fn used_templates_are_named_implicit_ones_included() {
    let resolved = resolve(json!({"cells": [{"name": "a", "cellTemplate": "own"}, {"name": "b"}]}), &all_templates());
    assert_eq!(resolved.resolved_templates.cell_templates, ["default", "own"]);
    assert_eq!(resolved.resolved_templates.core_templates, ["default"]);
    assert_eq!(resolved.resolved_templates.shard_templates, ["default"]);
}

#[test]
fn an_external_topology_hands_out_all_of_its_endpoints() {
    let resolved = resolve(
        json!({"globalTopoServer": {"external": {"endpoints": ["http://a:2379", "http://b:2379"]}}}),
        &all_templates(),
    );
    assert!(resolved.managed_topo().is_none());
    assert_eq!(resolved.global_topo_ref.address, "http://a:2379,http://b:2379");
    assert_eq!(
        (resolved.global_topo_ref.root_path.as_str(), resolved.global_topo_ref.implementation.as_str()),
        ("/multigres/global", "etcd")
    );
}

#[test]
fn the_web_interface_is_placed_by_itself() {
    let placed = |key: &str| json!({"tolerations": [{"key": key, "operator": "Exists"}]});
    let core = json!({"default": {"multiadminPlacement": placed("admin"), "multiadminWebPlacement": placed("web")}});
    let templates = templates(&json!({"core": core}));
    let key = |spec: Value| {
        let resolved = resolve(spec, &templates);
        let source = resolved.provenance.source("multiadminWeb.placement").cloned();
        (leaf(resolved.multiadmin_web.placement, "/tolerations/0/key"), source)
    };
    assert_eq!(key(json!({})).0, "web");
    assert_eq!(key(json!({"multiadminWeb": {"placement": placed("own")}})), (json!("own"), Some(Source::Inline)));
}

#[test]
fn as_many_and_as_long_endpoints_as_are_legal_reach_the_children() {
    let endpoint = |index: usize| {
        let start = format!("http://etcd-{index:02}.");
        format!("{start}{}", "x".repeat(limits::ENDPOINT - start.len()))
    };
    let endpoints: Vec<String> = (0..limits::ENDPOINTS).map(endpoint).collect();
    let spec = json!({"globalTopoServer": {"external": {"endpoints": endpoints}}});
    let address = resolve(spec, &Templates::default()).global_topo_ref.address;
    assert_eq!((address.split(',').count(), address.len()), (limits::ENDPOINTS, limits::ADDRESS));
    let schema = json!(schemars::schema_for!(GlobalTopoServerRef));
    assert_eq!(schema["properties"]["address"]["maxLength"], json!(limits::ADDRESS));
}

#[test]
fn an_inline_local_topology_replaces_the_template_as_a_whole() {
    let templates = templates(&json!({"cell": {"t": {"localTopoServer": {"etcd": {"replicas": 5}}}}}));
    let cell = json!({"name": "a", "cellTemplate": "t", "spec": {"localTopoServer": {"external": {"endpoints": ["http://e:2379"]}}}});
    let resolved = resolve(json!({"cells": [cell]}), &templates);
    let local = resolved.cells[0].topo_server.as_ref().expect("given");
    assert!(local.etcd.is_none());
    assert_eq!(local.external.as_ref().and_then(|external| external.root_path.as_deref()), Some("/multigres/a"));
}

#[test]
fn users_are_explicit_with_our_images_and_left_to_images_of_others() {
    let ours = resolve(with_shard(json!({"name": "0-inf"})), &Templates::default());
    let pool = &the_shard(&ours).pools["default"];
    assert_eq!(leaf(pool, "/postgres/runAsUser"), json!(999));
    assert_eq!(leaf(pool, "/multipooler/runAsUser"), json!(999));
    assert_eq!(pool.fs_group, Some(999));
    let mut spec = with_shard(json!({"name": "0-inf"}));
    spec["images"] = json!({"postgres": "registry.example.com/pg:1"});
    let theirs = resolve(spec, &Templates::default());
    assert_eq!(leaf(&the_shard(&theirs).pools["default"], "/postgres/runAsUser"), Value::Null);
    assert_eq!(theirs.databases[0].table_groups[0].images.postgres, "registry.example.com/pg:1");
    assert_eq!(theirs.image_source, ImageSource::Mixed);
}

#[test]
fn resources_fill_as_a_whole() {
    let resolved =
        resolve(json!({"multiadmin": {"spec": {"resources": {"limits": {"cpu": "1"}}}}}), &Templates::default());
    let resources: ResourceRequirements = resolved.multiadmin.spec.resources.expect("resolved");
    assert!(resources.requests.is_none());
}

#[test]
fn a_shard_object_counts_its_poolers_and_copies_its_group() {
    let resolved = resolve(json!({"cells": two_cells()}), &Templates::default());
    let group = &resolved.databases[0].table_groups[0];
    let child: ShardSpec = super::super::shard(group, &group.shards[0]);
    assert_eq!(child.replicas, Some(2));
    assert_eq!(child.shard_name, "0-inf");
    assert_eq!(child.cell_topology_labels, resolved.cell_topology_labels);
    assert_eq!(child.postgres_password_secret_ref, resolved.password.secret_ref);
    assert_eq!(child.pools, group.shards[0].pools);
    assert_eq!(child.backup, group.shards[0].backup);
}

#[test]
fn a_pool_that_only_an_override_knows_is_noticed() {
    let shard = json!({"name": "0-inf", "shardTemplate": "own", "overrides": {"pools": {"extra": {}}}});
    let resolved = resolve(with_shard(shard), &all_templates());
    assert!(
        resolved
            .notices
            .iter()
            .any(|notice| matches!(notice, Notice::PoolNotInTemplate { template, .. } if template == "own"))
    );
    assert_eq!(the_shard(&resolved).pools.len(), 2);
}
