//! Databases and table groups, with the skeleton where none are given.

use std::collections::BTreeMap;

use crate::api::v1alpha1::{
    BackupConfig, DatabaseConfig, DurabilityPolicy, ShardConfig, ShardImages, TableGroupConfig, TableGroupSpec,
    TopologyPruningConfig,
};

use crate::field_path::At;

use super::provenance::Source;
use super::shard::Inherited;
use super::{Context, Notice, ResolvedDatabase, Shared, alias, backup, defaults, pvc, shard};

/// All databases of the cluster.
pub fn resolve_all(
    context: &mut Context<'_>,
    shared: &Shared,
    labels: &BTreeMap<String, BTreeMap<String, String>>,
) -> Vec<ResolvedDatabase> {
    let skeleton = [DatabaseConfig { name: defaults::DATABASE.to_owned(), ..DatabaseConfig::default() }];
    let databases = if context.spec.databases.is_empty() { &skeleton[..] } else { &context.spec.databases[..] };
    databases.iter().map(|database| resolve(context, database, shared, labels)).collect()
}

fn resolve(
    context: &mut Context<'_>,
    database: &DatabaseConfig,
    shared: &Shared,
    labels: &BTreeMap<String, BTreeMap<String, String>>,
) -> ResolvedDatabase {
    let databases = At::Root("databases");
    let at = databases.key(&database.name);
    let spec = context.spec;
    let levels = [(spec.backup.as_ref(), Source::Cluster), (database.backup.as_ref(), Source::Inline)];
    let own_backup = backup::resolve(context, &at.field("backup"), &levels);

    let (policy, policy_source) = match (database.durability_policy, spec.durability_policy) {
        (Some(policy), _) => (policy, Source::Database),
        (None, Some(policy)) => (policy, Source::Cluster),
        (None, None) => (DurabilityPolicy::AtLeast2, Source::BuiltIn),
    };

    let given = alias::table_groups(database, &at, &mut context.errors);
    let skeleton = [TableGroupConfig { name: defaults::TABLE_GROUP.to_owned(), ..TableGroupConfig::default() }];
    let groups = if given.is_empty() { &skeleton[..] } else { &given[..] };
    let sole = groups.len() == 1;
    let list = at.field("tablegroups");
    let represented = context.represented;
    let table_groups: Vec<_> = groups
        .iter()
        .filter(|group| !represented.table_group(&database.name, &group.name))
        .map(|group| {
            let at = list.key(&group.name);
            let default = group.default.unwrap_or(sole || group.name == defaults::TABLE_GROUP);
            let group_at = GroupAt { at: &at, default, policy, policy_source: &policy_source };
            table_group(context, database, group, &group_at, shared, labels)
        })
        .collect();

    let mut policies: Vec<_> =
        table_groups.iter().flat_map(|group| &group.shards).filter_map(|shard| shard.durability_policy).collect();
    policies.sort_by_key(|policy| policy_rank(*policy));
    policies.dedup();
    if policies.len() > 1 {
        context.notices.push(Notice::MixedDurability { database: database.name.clone() });
    }
    // All shards have to name the same one, so that of the first is it.
    let repository = table_groups.iter().flat_map(|group| &group.shards).find_map(|shard| shard.backup.clone());
    ResolvedDatabase {
        name: database.name.clone(),
        default: database.default.unwrap_or(true),
        durability_policy: policies.last().copied().unwrap_or(policy),
        repository: repository.unwrap_or_else(|| own_backup.clone()),
        backup: own_backup,
        table_groups,
    }
}

/// Order of strictness; a policy that this version does not know ranks highest so that it is never hidden.
fn policy_rank(policy: DurabilityPolicy) -> u8 {
    match policy {
        DurabilityPolicy::AtLeast2 => 0,
        DurabilityPolicy::MultiCellAtLeast2 => 1,
        DurabilityPolicy::Unknown => 2,
    }
}

/// Where a table group stands, and what its database says.
struct GroupAt<'a> {
    at: &'a At<'a>,
    default: bool,
    policy: DurabilityPolicy,
    policy_source: &'a Source,
}

fn table_group(
    context: &mut Context<'_>,
    database: &DatabaseConfig,
    group: &TableGroupConfig,
    place: &GroupAt<'_>,
    shared: &Shared,
    labels: &BTreeMap<String, BTreeMap<String, String>>,
) -> TableGroupSpec {
    let at = place.at;
    let spec = context.spec;
    let levels: [(Option<&BackupConfig>, Source); 3] = [
        (spec.backup.as_ref(), Source::Cluster),
        (database.backup.as_ref(), Source::Database),
        (group.backup.as_deref(), Source::Inline),
    ];
    let own_backup = backup::resolve(context, &at.field("backup"), &levels);
    let chain = [(group.pvc_deletion_policy, Source::Inline), (spec.pvc_deletion_policy, Source::Cluster)];
    let policy = pvc::resolve(&mut context.provenance, at, &chain);
    context.provenance.set(&at.field("durabilityPolicy"), place.policy_source);

    let skeleton = [ShardConfig { name: defaults::SHARD.to_owned(), ..ShardConfig::default() }];
    let configs = if group.shards.is_empty() { &skeleton[..] } else { &group.shards[..] };
    let inherited = Inherited {
        backup: [spec.backup.as_ref(), database.backup.as_ref(), group.backup.as_deref()],
        group_policy: group.pvc_deletion_policy,
        durability: place.policy,
        durability_source: place.policy_source,
    };
    let shards = configs.iter().map(|config| shard::resolve(context, config, at, &inherited)).collect();

    let copied = if context.provenance.is_quiet() {
        TableGroupSpec::default()
    } else {
        TableGroupSpec {
            images: ShardImages {
                image_pull_policy: Some(shared.image_pull_policy),
                image_pull_secrets: shared.image_pull_secrets.clone(),
                multiorch: shared.images.multiorch.clone(),
                multipooler: shared.images.multipooler.clone(),
                postgres: shared.images.postgres.clone(),
            },
            global_topo_server: shared.global_topo_ref.clone(),
            observability: spec.observability.clone(),
            cell_topology_labels: labels.clone(),
            postgres_superuser: Some(shared.postgres_superuser.clone()),
            postgres_password_secret_ref: shared.password.secret_ref.clone(),
            ..TableGroupSpec::default()
        }
    };
    TableGroupSpec {
        database_name: database.name.clone(),
        table_group_name: group.name.clone(),
        default: Some(place.default),
        shards,
        pvc_deletion_policy: Some(policy),
        internal_tls: spec.internal_tls,
        log_levels: Some(shared.log_levels),
        topology_pruning: Some(TopologyPruningConfig { enabled: Some(shared.topology_pruning) }),
        backup: Some(own_backup),
        durability_policy: Some(place.policy),
        ..copied
    }
}
