//! Shards and their pools: template, then overrides, then inline settings, then defaults.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::api::v1alpha1::{
    BackupConfig, BackupScope, BackupType, DurabilityPolicy, PoolSpec, PoolType, PvcDeletionPolicy, ShardConfig,
    ShardInlineSpec, ShardResolvedSpec,
};

use crate::field_path::At;

use super::provenance::{Provenance, Source};
use super::{Context, Notice, backup, core, defaults, pvc};

/// What a shard inherits from the levels above it.
pub struct Inherited<'a> {
    /// Backups of the cluster, the database and the table group.
    pub backup: [Option<&'a BackupConfig>; 3],
    /// Volume policy of the table group.
    pub group_policy: Option<PvcDeletionPolicy>,
    /// Durability of the database.
    pub durability: DurabilityPolicy,
    /// Where that durability comes from.
    pub durability_source: &'a Source,
}

/// The shard as the TableGroup object carries it.
pub fn resolve(
    context: &mut Context<'_>,
    config: &ShardConfig,
    group: &At<'_>,
    inherited: &Inherited<'_>,
) -> ShardResolvedSpec {
    let shards = group.field("shards");
    let at = shards.key(&config.name);
    let selected =
        context.templates.shard(config.shard_template.as_deref(), &at.field("shardTemplate"), &mut context.errors);
    let layers = layers(config, selected.as_ref().map(|selected| (selected.spec, selected.source.clone())));
    if let (Some(selected), Some(overrides)) = (&selected, &config.overrides) {
        for pool in overrides.pools.keys().filter(|pool| !selected.spec.pools.contains_key(*pool)) {
            let pool = at.field("overrides").field("pools").key(pool).to_string();
            context.notices.push(Notice::PoolNotInTemplate { pool, template: selected.name.clone() });
        }
    }

    let provenance = &mut context.provenance;
    let mut merged = ShardInlineSpec::default();
    for (layer, source) in layers.iter().rev() {
        provenance.overlay(&mut merged, layer, &at, source);
    }

    let mut multiorch = merged.multiorch.take().unwrap_or_default();
    let orch = at.field("multiorch");
    provenance.fill(&mut multiorch.replicas, &orch, "replicas", || defaults::REPLICAS);
    provenance.fill_resources(&mut multiorch.resources, &orch, defaults::multiorch_resources);
    provenance.fill_list(&mut multiorch.cells, &orch, "cells", &context.cell_names);

    let pools_at = at.field("pools");
    if merged.pools.is_empty() {
        let pool =
            PoolSpec { r#type: Some(PoolType::ReadWrite), cells: multiorch.cells.clone(), ..PoolSpec::default() };
        let at = pools_at.key(defaults::POOL);
        provenance.set(&at.field("type"), &Source::BuiltIn);
        provenance.set(&at.field("cells"), &Source::BuiltIn);
        merged.pools.insert(defaults::POOL.to_owned(), pool);
    }

    let pinned = context.spec.images.as_ref().and_then(|images| images.components().postgres);
    let default_image = pinned.is_none_or(|image| image.is_empty());
    for (name, pool) in &mut merged.pools {
        let at = pools_at.key(name);
        fill_pool(provenance, pool, &at, &context.cell_names, default_image);
        let chain = pool_policies(&layers, name, inherited.group_policy, context.spec.pvc_deletion_policy);
        pool.pvc_deletion_policy = Some(pvc::resolve(provenance, &at, &chain));
    }
    let chain = shard_policies(&layers, inherited.group_policy, context.spec.pvc_deletion_policy);
    let policy = pvc::resolve(provenance, &at, &chain);

    let durability = merged.durability_policy.unwrap_or_else(|| {
        provenance.set(&at.field("durabilityPolicy"), inherited.durability_source);
        inherited.durability
    });
    let initdb_args = initdb_args(provenance, &at, merged.initdb_args.take());

    let [cluster, database, table_group] = inherited.backup;
    let levels = [
        (cluster, Source::Cluster),
        (database, Source::Database),
        (table_group, Source::TableGroup),
        (config.backup.as_ref(), Source::Inline),
    ];
    let backup = backup::resolve(context, &at.field("backup"), &levels);
    notice_cell_local(context, &at, &backup, &merged.pools);

    ShardResolvedSpec {
        name: config.name.clone(),
        multiorch,
        pools: merged.pools,
        initdb_args: Some(initdb_args),
        postgres_config_ref: merged.postgres_config_ref,
        postgres_config: merged.postgres_config,
        pvc_deletion_policy: Some(policy),
        backup: Some(backup),
        durability_policy: Some(durability),
    }
}

type Layer<'a> = (Cow<'a, ShardInlineSpec>, Source);

/// The layers of a shard, highest first.
fn layers<'a>(
    config: &'a ShardConfig,
    template: Option<(&crate::api::v1alpha1::ShardTemplateSpec, Source)>,
) -> Vec<Layer<'a>> {
    let mut layers = Vec::new();
    if let Some(inline) = &config.spec {
        layers.push((Cow::Borrowed(inline), Source::Inline));
    }
    if let Some(overrides) = config.overrides.clone() {
        let layer = ShardInlineSpec {
            multiorch: overrides.multiorch,
            initdb_args: overrides.initdb_args,
            postgres_config_ref: overrides.postgres_config_ref,
            postgres_config: overrides.postgres_config,
            pools: overrides.pools,
            pvc_deletion_policy: None,
            durability_policy: overrides.durability_policy,
        };
        layers.push((Cow::Owned(layer), Source::Overrides));
    }
    if let Some((template, source)) = template {
        let template = template.clone();
        let layer = ShardInlineSpec {
            multiorch: template.multiorch,
            initdb_args: template.initdb_args,
            postgres_config_ref: template.postgres_config_ref,
            postgres_config: template.postgres_config,
            pools: template.pools,
            pvc_deletion_policy: template.pvc_deletion_policy,
            durability_policy: None,
        };
        layers.push((Cow::Owned(layer), source));
    }
    layers
}

/// Pool, shard, table group, cluster, and below all of them anything from a template.
fn pool_policies(
    layers: &[Layer<'_>],
    pool: &str,
    group: Option<PvcDeletionPolicy>,
    cluster: Option<PvcDeletionPolicy>,
) -> pvc::Chain {
    let of_pool = |layer: &ShardInlineSpec| layer.pools.get(pool).and_then(|pool| pool.pvc_deletion_policy);
    let (own, template) = (|| own(layers), || templates(layers));
    let mut chain = pvc::Chain::with_capacity(2 * layers.len() + 2);
    chain.extend(own().map(|(layer, source)| (of_pool(layer), source.clone())));
    chain.extend(own().map(|(layer, source)| (layer.pvc_deletion_policy, source.clone())));
    chain.push((group, Source::TableGroup));
    chain.push((cluster, Source::Cluster));
    chain.extend(template().map(|(layer, source)| (of_pool(layer), source.clone())));
    chain.extend(template().map(|(layer, source)| (layer.pvc_deletion_policy, source.clone())));
    chain
}

fn shard_policies(
    layers: &[Layer<'_>],
    group: Option<PvcDeletionPolicy>,
    cluster: Option<PvcDeletionPolicy>,
) -> pvc::Chain {
    let policy = |(layer, source): &Layer<'_>| (layer.pvc_deletion_policy, source.clone());
    let mut chain = pvc::Chain::with_capacity(layers.len() + 2);
    chain.extend(own(layers).map(policy));
    chain.push((group, Source::TableGroup));
    chain.push((cluster, Source::Cluster));
    chain.extend(templates(layers).map(policy));
    chain
}

fn own<'l, 'a>(layers: &'l [Layer<'a>]) -> impl Iterator<Item = &'l Layer<'a>> {
    layers.iter().filter(|(_, source)| !is_template(source))
}

fn templates<'l, 'a>(layers: &'l [Layer<'a>]) -> impl Iterator<Item = &'l Layer<'a>> {
    layers.iter().filter(|(_, source)| is_template(source))
}

fn is_template(source: &Source) -> bool {
    matches!(source, Source::Template { .. })
}

fn fill_pool(provenance: &mut Provenance, pool: &mut PoolSpec, at: &At<'_>, cells: &[String], default_image: bool) {
    provenance.fill_list(&mut pool.cells, at, "cells", cells);
    let spans = pool.cells.len();
    provenance.fill(&mut pool.replicas_per_cell, at, "replicasPerCell", || defaults::replicas_per_cell(spans));
    core::fill_storage(provenance, pool.storage.get_or_insert_default(), &at.field("storage"), defaults::POOL_STORAGE);

    let postgres_at = at.field("postgres");
    let postgres = pool.postgres.get_or_insert_default();
    provenance.fill(&mut postgres.resources, &postgres_at, "resources", defaults::postgres_resources);
    if default_image {
        // An image of the user's own may know other users, so its own choice stands.
        provenance.fill(&mut postgres.run_as_user, &postgres_at, "runAsUser", || defaults::RUN_AS);
        provenance.fill(&mut postgres.run_as_group, &postgres_at, "runAsGroup", || defaults::RUN_AS);
    }
    let multipooler_at = at.field("multipooler");
    let multipooler = pool.multipooler.get_or_insert_default();
    provenance.fill_resources(&mut multipooler.resources, &multipooler_at, defaults::multipooler_resources);
    // Both containers share files, so the pooler runs as the user of postgres.
    for (own, other, name) in [
        (&mut multipooler.run_as_user, postgres.run_as_user, "runAsUser"),
        (&mut multipooler.run_as_group, postgres.run_as_group, "runAsGroup"),
    ] {
        if let (None, Some(id)) = (&own, other) {
            *own = Some(id);
            provenance.same(&multipooler_at.field(name), &postgres_at.field(name));
        }
    }
    provenance.fill(&mut pool.fs_group, at, "fsGroup", || defaults::FS_GROUP);
}

/// The arguments of `initdb`; UTF-8 unless the arguments themselves choose an encoding or a locale.
fn initdb_args(provenance: &mut Provenance, at: &At<'_>, given: Option<String>) -> String {
    let Some(given) = given else {
        provenance.set(&at.field("initdbArgs"), &Source::BuiltIn);
        return defaults::INITDB_ARGS.to_owned();
    };
    let chooses = given.split_whitespace().any(|word| {
        let word = word.trim_start_matches(['"', '\'']);
        ["-E", "--encoding", "--locale", "--lc-", "--icu-", "--builtin-locale", "--no-locale"]
            .iter()
            .any(|option| word.starts_with(option))
    });
    if chooses { given } else { format!("{} {given}", defaults::INITDB_ARGS) }
}

fn notice_cell_local(
    context: &mut Context<'_>,
    at: &At<'_>,
    backup: &BackupConfig,
    pools: &BTreeMap<String, PoolSpec>,
) {
    if backup.r#type != BackupType::Filesystem {
        return;
    }
    let cells: BTreeSet<&String> = pools.values().flat_map(|pool| &pool.cells).collect();
    let scope = backup.filesystem.as_ref().and_then(|filesystem| filesystem.scope).unwrap_or_default();
    if scope == BackupScope::Cell && cells.len() > 1 {
        let cells = cells.into_iter().cloned().collect();
        context.notices.push(Notice::CellLocalRepository { shard: at.to_string(), cells });
    }
}
