//! Laws that hold for any spec: total, deterministic, idempotent, every leaf explained.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::v1alpha1::{
    CellConfig, CellInlineSpec, CellOverrides, DatabaseConfig, GlobalTopoServerSpec, LocalTopoServerSpec,
    MultiadminConfig, MultiadminWebConfig, ShardConfig, ShardInlineSpec, ShardOverrides, TableGroupConfig,
    TemplateDefaults,
};
use crate::merge::tests::generate;

fn reference() -> BoxedStrategy<Option<String>> {
    prop::option::of(prop::sample::select(vec!["", "default", "t"]).prop_map(str::to_owned)).boxed()
}

fn cell_inline() -> BoxedStrategy<CellInlineSpec> {
    let local = generate::etcd().prop_map(|etcd| LocalTopoServerSpec { etcd: Some(etcd), external: None });
    (prop::option::of(generate::gateway()), prop::option::of(local))
        .prop_map(|(multigateway, local_topo_server)| CellInlineSpec {
            multigateway,
            multigateway_placement: None,
            local_topo_server: local_topo_server.map(Box::new),
        })
        .boxed()
}

fn cells() -> BoxedStrategy<Vec<CellConfig>> {
    let one = (reference(), prop::option::of(cell_inline()), prop::option::of(generate::gateway()), reference());
    prop::collection::vec(one, 0..3)
        .prop_map(|cells| {
            let build =
                |(index, (cell_template, spec, overrides, zone)): (usize, (_, Option<_>, Option<_>, _))| CellConfig {
                    name: format!("zone-{}", ["b", "a", "c"][index]),
                    zone,
                    cell_template,
                    spec: spec.map(Box::new),
                    overrides: overrides.map(|gateway| {
                        Box::new(CellOverrides { multigateway: Some(gateway), multigateway_placement: None })
                    }),
                    ..CellConfig::default()
                };
            cells.into_iter().enumerate().map(build).collect()
        })
        .boxed()
}

fn overrides(shard: ShardInlineSpec) -> ShardOverrides {
    ShardOverrides {
        multiorch: shard.multiorch,
        initdb_args: shard.initdb_args,
        postgres_config_ref: shard.postgres_config_ref,
        postgres_config: shard.postgres_config,
        pools: shard.pools,
        durability_policy: shard.durability_policy,
    }
}

fn shards() -> BoxedStrategy<Vec<ShardConfig>> {
    let one =
        (reference(), prop::option::of(generate::shard()), prop::option::of(generate::shard()), generate::backup());
    prop::collection::vec(one, 0..2)
        .prop_map(|shards| {
            let build = |(shard_template, spec, over, backup): (_, Option<_>, Option<_>, Option<_>)| ShardConfig {
                name: "0-inf".to_owned(),
                shard_template,
                spec: spec.map(Box::new),
                overrides: over.map(|shard| Box::new(overrides(shard))),
                backup: backup.map(Box::new),
            };
            shards.into_iter().map(build).collect()
        })
        .boxed()
}

fn databases() -> BoxedStrategy<Vec<DatabaseConfig>> {
    let group = (shards(), generate::backup(), generate::policy()).prop_map(|(shards, backup, pvc_deletion_policy)| {
        let backup = backup.map(Box::new);
        TableGroupConfig { name: "default".to_owned(), default: None, shards, backup, pvc_deletion_policy }
    });
    let database = (prop::collection::vec(group, 0..2), generate::backup()).prop_map(|(tablegroups, backup)| {
        DatabaseConfig { name: "postgres".to_owned(), tablegroups, backup, ..DatabaseConfig::default() }
    });
    prop::collection::vec(database, 0..2).boxed()
}

pub fn specs() -> BoxedStrategy<MultigresClusterSpec> {
    let core = (prop::option::of(generate::etcd()), prop::option::of(generate::stateless()), reference());
    (cells(), databases(), core, generate::policy(), generate::backup(), reference())
        .prop_map(|(cells, databases, (etcd, admin, core), pvc_deletion_policy, backup, defaults)| {
            MultigresClusterSpec {
                cells,
                databases,
                global_topo_server: etcd
                    .map(|etcd| GlobalTopoServerSpec { etcd: Some(etcd), ..GlobalTopoServerSpec::default() }),
                multiadmin: admin.map(|admin| MultiadminConfig {
                    spec: Some(admin),
                    template_ref: core,
                    placement: None,
                }),
                pvc_deletion_policy,
                backup,
                template_defaults: Some(TemplateDefaults {
                    core_template: defaults.clone(),
                    cell_template: defaults.clone(),
                    shard_template: defaults,
                }),
                ..MultigresClusterSpec::default()
            }
        })
        .boxed()
}

pub fn template_sets() -> BoxedStrategy<Templates> {
    (generate::stateless(), generate::etcd(), cell_inline(), generate::shard())
        .prop_map(|(admin, etcd, cell, shard)| {
            let core = CoreTemplateSpec {
                multiadmin: Some(admin),
                global_topo_server: Some(TopoServerSpec { etcd: Some(etcd), ..TopoServerSpec::default() }),
                ..CoreTemplateSpec::default()
            };
            let cell = CellTemplateSpec {
                multigateway: cell.multigateway,
                multigateway_placement: None,
                local_topo_server: cell.local_topo_server.map(|local| *local),
            };
            let shard = ShardTemplateSpec {
                multiorch: shard.multiorch,
                initdb_args: shard.initdb_args,
                postgres_config_ref: None,
                postgres_config: shard.postgres_config,
                pools: shard.pools,
                pvc_deletion_policy: shard.pvc_deletion_policy,
            };
            let both = |name: &str| name.to_owned();
            Templates {
                core: BTreeMap::from([(both("default"), CoreTemplateSpec::default()), (both("t"), core)]),
                cell: BTreeMap::from([(both("t"), cell)]),
                shard: BTreeMap::from([(both("default"), shard.clone()), (both("t"), shard)]),
            }
        })
        .boxed()
}

/// A spec whose fields are the resolved ones.
fn written_out(original: &MultigresClusterSpec, resolved: &ResolvedCluster) -> MultigresClusterSpec {
    let mut spec = MultigresClusterSpec { template_defaults: None, ..original.clone() };
    if let Some(topo) = resolved.managed_topo() {
        spec.global_topo_server = Some(GlobalTopoServerSpec {
            etcd: topo.etcd.clone(),
            pvc_deletion_policy: topo.pvc_deletion_policy,
            placement: topo.placement.clone(),
            ..GlobalTopoServerSpec::default()
        });
    }
    let admin = &resolved.multiadmin;
    spec.multiadmin = Some(MultiadminConfig {
        spec: Some(admin.spec.clone()),
        template_ref: None,
        placement: admin.placement.clone(),
    });
    let web = &resolved.multiadmin_web;
    spec.multiadmin_web = Some(MultiadminWebConfig {
        spec: Some(web.spec.clone()),
        template_ref: None,
        placement: web.placement.clone(),
    });
    for (config, cell) in spec.cells.iter_mut().zip(&resolved.cells) {
        config.cell_template = None;
        config.overrides = None;
        config.spec = Some(Box::new(CellInlineSpec {
            multigateway: Some(cell.multigateway.clone()),
            multigateway_placement: cell.multigateway_placement.clone(),
            local_topo_server: cell.topo_server.clone().map(Box::new),
        }));
    }
    let group = |group: &TableGroupSpec| TableGroupConfig {
        name: group.table_group_name.clone(),
        default: group.default,
        backup: group.backup.clone().map(Box::new),
        pvc_deletion_policy: group.pvc_deletion_policy,
        shards: group
            .shards
            .iter()
            .map(|shard| ShardConfig {
                name: shard.name.clone(),
                spec: Some(Box::new(ShardInlineSpec {
                    multiorch: Some(shard.multiorch.clone()),
                    initdb_args: shard.initdb_args.clone(),
                    postgres_config_ref: shard.postgres_config_ref.clone(),
                    postgres_config: shard.postgres_config.clone(),
                    pools: shard.pools.clone(),
                    pvc_deletion_policy: shard.pvc_deletion_policy,
                    durability_policy: shard.durability_policy,
                })),
                backup: shard.backup.clone().map(Box::new),
                ..ShardConfig::default()
            })
            .collect(),
    };
    spec.backup = Some(resolved.backup.clone());
    spec.databases = resolved
        .databases
        .iter()
        .map(|database| DatabaseConfig {
            name: database.name.clone(),
            default: Some(database.default),
            tablegroups: database.table_groups.iter().map(group).collect(),
            backup: Some(database.backup.clone()),
            durability_policy: Some(database.durability_policy),
            ..DatabaseConfig::default()
        })
        .collect();
    spec
}

/// Paths of the leaves of a JSON value, in the notation of the provenance.
fn leaves(value: &Value, at: &str, keyed: bool, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, field) in fields {
                let path = if keyed { format!("{at}[{key}]") } else { format!("{at}.{key}") };
                let keyed = matches!(key.as_str(), "pools" | "podAnnotations" | "podLabels" | "postgresConfig");
                leaves(field, &path, keyed, found);
            }
        }
        _ => found.push(at.to_owned()),
    }
}

fn explained(resolved: &ResolvedCluster, part: impl serde::Serialize, at: &str) -> Result<(), TestCaseError> {
    let mut found = Vec::new();
    leaves(&serde_json::to_value(part).expect("serialisable"), at, false, &mut found);
    for path in found.iter().filter(|path| path.rsplit('.').next() != Some("name")) {
        prop_assert!(resolved.provenance.source(path).is_some(), "{} has no provenance", path);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_spec_is_answered_the_same_way_twice(spec in specs(), templates in template_sets()) {
        let once = cluster("demo", "prod", &spec, &templates, &settings());
        prop_assert_eq!(&once, &cluster("demo", "prod", &spec, &templates, &settings()));
        if let Ok(resolved) = once {
            let judge = || crate::validate::cluster(None, "demo", &spec, &resolved, &crate::validate::Surroundings::default());
            prop_assert_eq!(judge(), judge());
        }
    }

    #[test]
    fn resolving_quietly_gives_the_same_without_levels(spec in specs(), templates in template_sets()) {
        let quiet = quietly("demo", "prod", &spec, &templates, &settings());
        let loud = cluster("demo", "prod", &spec, &templates, &settings()).map(|resolved| {
            let mut resolved = ResolvedCluster { provenance: Provenance::quiet(), ..resolved };
            // Except for what children copy.
            resolved.cell_topology_labels.clear();
            for cell in &mut resolved.cells {
                let copied = CellSpec::default();
                cell.images = copied.images;
                cell.global_topo_server = copied.global_topo_server;
                cell.all_cells = copied.all_cells;
                cell.observability = copied.observability;
            }
            for group in resolved.databases.iter_mut().flat_map(|database| &mut database.table_groups) {
                let copied = TableGroupSpec::default();
                group.images = copied.images;
                group.global_topo_server = copied.global_topo_server;
                group.observability = copied.observability;
                group.cell_topology_labels = copied.cell_topology_labels;
                group.postgres_superuser = copied.postgres_superuser;
                group.postgres_password_secret_ref = copied.postgres_password_secret_ref;
            }
            resolved
        });
        // Built-in resources and cells of orchestrators are left out, too.
        let all: BTreeSet<&String> = spec.cells.iter().map(|cell| &cell.name).collect();
        let quiet = quiet.map(|mut resolved| {
            let components = [
                (&mut resolved.multiadmin, defaults::multiadmin_resources as fn() -> _),
                (&mut resolved.multiadmin_web, defaults::multiadmin_web_resources),
            ];
            for (component, built_in) in components {
                component.spec.resources.get_or_insert_with(built_in);
            }
            let cells = resolved.cells.iter_mut();
            let locals = cells.filter_map(|cell| {
                cell.multigateway.resources.get_or_insert_with(defaults::multigateway_resources);
                cell.topo_server.as_mut().and_then(|local| local.etcd.as_mut())
            });
            let global = match &mut resolved.global_topo {
                GlobalTopo::Managed(topo) => topo.etcd.as_mut(),
                GlobalTopo::External(_) => None,
            };
            for etcd in locals.chain(global) {
                etcd.resources.get_or_insert_with(defaults::etcd_resources);
            }
            let groups = resolved.databases.iter_mut().flat_map(|database| &mut database.table_groups);
            for shard in groups.flat_map(|group| &mut group.shards) {
                shard.multiorch.resources.get_or_insert_with(defaults::multiorch_resources);
                if shard.multiorch.cells.is_empty() {
                    shard.multiorch.cells = all.iter().map(|name| (*name).clone()).collect();
                }
                for pooler in shard.pools.values_mut().filter_map(|pool| pool.multipooler.as_mut()) {
                    pooler.resources.get_or_insert_with(defaults::multipooler_resources);
                }
            }
            resolved
        });
        prop_assert_eq!(quiet, loud);
    }

    #[test]
    fn any_change_of_a_cluster_or_a_template_is_judged(old in specs(), new in specs(), templates in template_sets()) {
        use crate::validate::{Subject, Surroundings, StorageClasses, review, template};
        let around = Surroundings { storage_classes: Some(StorageClasses::default()), ..Surroundings::default() };
        let settings = settings();
        let subject = Subject { name: "demo", namespace: "prod", spec: &new, templates: &templates, settings: &settings };
        let verdict = review(Some(&old), &subject, &around);
        prop_assert_eq!(&verdict, &review(Some(&old), &subject, &around));
        prop_assert!(verdict.errors.iter().all(|error| !error.path.is_empty() && !error.message.is_empty()));

        let consumers = [template::Consumer { name: "old", spec: &old }, template::Consumer { name: "new", spec: &new }];
        let content = template::Content::Shard(&templates.shard["t"]);
        let written =
            |old| template::written("prod", "t", old, content, &consumers, &templates, &settings, &around).finish();
        let empty = ShardTemplateSpec::default();
        prop_assert_eq!(written(Some(template::Content::Shard(&empty))), written(Some(template::Content::Shard(&empty))));
        // What is stored is not written anew, and what nobody names harms nobody by going.
        prop_assert_eq!(written(Some(content)), crate::validate::Verdict::default());
        let gone = template::deleted("prod", "nobody", content, &consumers, &templates, &settings, &around);
        prop_assert!(gone.finish().is_accepted());
    }

    #[test]
    fn resolving_what_was_resolved_changes_nothing(spec in specs(), templates in template_sets()) {
        let Ok(once) = cluster("demo", "prod", &spec, &templates, &settings()) else { return Ok(()) };
        let mut again = cluster("demo", "prod", &written_out(&spec, &once), &Templates::default(), &settings())
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        again.provenance = once.provenance.clone();
        again.resolved_templates = once.resolved_templates.clone();
        again.notices = once.notices.clone();
        prop_assert_eq!(once, again);
    }

    #[test]
    fn every_resolved_field_knows_its_level(spec in specs(), templates in template_sets()) {
        let Ok(resolved) = cluster("demo", "prod", &spec, &templates, &settings()) else { return Ok(()) };
        explained(&resolved, &resolved.multiadmin.spec, "multiadmin")?;
        explained(&resolved, &resolved.multiadmin_web.spec, "multiadminWeb")?;
        explained(&resolved, resolved.managed_topo(), "globalTopoServer")?;
        for cell in &resolved.cells {
            let at = format!("cells[{}]", cell.name);
            explained(&resolved, &cell.multigateway, &format!("{at}.multigateway"))?;
            if let Some(local) = &cell.topo_server {
                explained(&resolved, local, &format!("{at}.localTopoServer"))?;
            }
        }
        for group in resolved.table_groups() {
            let at = format!("databases[{}].tablegroups[{}]", group.database_name, group.table_group_name);
            explained(&resolved, &group.backup, &format!("{at}.backup"))?;
            for shard in &group.shards {
                explained(&resolved, shard, &format!("{at}.shards[{}]", shard.name))?;
            }
        }
    }

    #[test]
    fn no_volume_is_deleted_that_nobody_asked_to_delete(spec in specs()) {
        let text = serde_json::to_string(&spec).expect("serialisable");
        prop_assume!(!text.contains("\"Delete\""));
        let Ok(resolved) = cluster("demo", "prod", &spec, &Templates::default(), &settings()) else { return Ok(()) };
        for group in resolved.table_groups() {
            prop_assert!(!serde_json::to_string(group).expect("serialisable").contains("\"Delete\""));
        }
        prop_assert!(!json!(resolved.managed_topo()).to_string().contains("\"Delete\""));
    }
}
