//! Shards and their pools: template, then overrides, then inline settings, then defaults.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::v1alpha1::{
    BackupConfig, BackupScope, BackupType, DurabilityPolicy, PoolSpec, PoolType, PvcDeletionPolicy, ShardConfig,
    ShardInlineSpec, ShardOverrides, ShardResolvedSpec, ShardTemplateSpec,
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
    let layers = Layers {
        inline: config.spec.as_deref(),
        overrides: config.overrides.as_deref(),
        template: selected.as_ref().map(|selected| (selected.spec, &selected.source)),
    };
    if let (Some(selected), Some(overrides)) = (&selected, &config.overrides) {
        for pool in overrides.pools.keys().filter(|pool| !selected.spec.pools.contains_key(*pool)) {
            let pool = at.field("overrides").field("pools").key(pool).to_string();
            context.notices.push(Notice::PoolNotInTemplate { pool, template: selected.name.clone() });
        }
    }

    let provenance = &mut context.provenance;
    let mut merged = layers.merged(provenance, &at);

    let mut multiorch = merged.multiorch.take().unwrap_or_default();
    let orch = at.field("multiorch");
    provenance.fill(&mut multiorch.replicas, &orch, "replicas", || defaults::REPLICAS);
    provenance.fill_resources(&mut multiorch.resources, &orch, defaults::multiorch_resources);
    // Quietly it stays open: there is nothing to judge in all cells of the cluster.
    if !provenance.is_quiet() {
        provenance.fill_list(&mut multiorch.cells, &orch, "cells", &context.cell_names);
    }

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
    let policies = layers.policies(inherited.group_policy, context.spec.pvc_deletion_policy);
    for (name, pool) in &mut merged.pools {
        let at = pools_at.key(name);
        fill_pool(provenance, pool, &at, &context.cell_names, default_image);
        pool.pvc_deletion_policy = Some(pvc::resolve(provenance, &at, &layers.pool_policies(name, &policies)));
    }
    let policy = pvc::resolve(provenance, &at, &policies);

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
        (config.backup.as_deref(), Source::Inline),
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

/// Where a shard's settings are written, highest level first.
struct Layers<'a> {
    inline: Option<&'a ShardInlineSpec>,
    overrides: Option<&'a ShardOverrides>,
    template: Option<(&'a ShardTemplateSpec, &'a Source)>,
}

/// What a level says about volumes.
type Policy<'a> = (Option<PvcDeletionPolicy>, &'a Source);

impl<'a> Layers<'a> {
    /// What they say together.
    fn merged(&self, provenance: &mut Provenance, at: &At<'_>) -> ShardInlineSpec {
        let mut merged = ShardInlineSpec::default();
        if let Some((template, source)) = self.template {
            provenance.overlay(&mut merged, template, at, source);
        }
        if let Some(overrides) = self.overrides {
            provenance.overlay(&mut merged, overrides, at, &Source::Overrides);
        }
        if let Some(inline) = self.inline {
            provenance.overlay(&mut merged, inline, at, &Source::Inline);
        }
        merged
    }

    /// The volume policies of the shard: its own, then those of its table group and its cluster, and below all of them the template's.
    fn policies(&self, group: Option<PvcDeletionPolicy>, cluster: Option<PvcDeletionPolicy>) -> [Policy<'a>; 4] {
        [
            (self.inline.and_then(|inline| inline.pvc_deletion_policy), &Source::Inline),
            (group, &Source::TableGroup),
            (cluster, &Source::Cluster),
            self.template.map_or((None, &Source::BuiltIn), |(template, source)| (template.pvc_deletion_policy, source)),
        ]
    }

    /// The volume policies of a pool: its own, then those of the shard, and what a template says of the pool just above what it says of the
    /// shard.
    fn pool_policies(&self, pool: &str, shard: &[Policy<'a>; 4]) -> [Policy<'a>; 7] {
        let of = |pools: &BTreeMap<String, PoolSpec>| pools.get(pool).and_then(|pool| pool.pvc_deletion_policy);
        let [own, group, cluster, template] = *shard;
        [
            (self.inline.and_then(|inline| of(&inline.pools)), &Source::Inline),
            (self.overrides.and_then(|overrides| of(&overrides.pools)), &Source::Overrides),
            own,
            group,
            cluster,
            (self.template.and_then(|(template, _)| of(&template.pools)), template.1),
            template,
        ]
    }
}

fn fill_pool(provenance: &mut Provenance, pool: &mut PoolSpec, at: &At<'_>, cells: &[&str], default_image: bool) {
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
