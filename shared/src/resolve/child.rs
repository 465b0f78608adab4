//! What a TableGroup writes into its Shard objects.

use crate::api::v1alpha1::{PoolSpec, ShardResolvedSpec, ShardSpec, TableGroupSpec};

/// The spec of the Shard object for a shard of the table group.
pub fn shard(group: &TableGroupSpec, shard: &ShardResolvedSpec) -> ShardSpec {
    let mut policy = group.pvc_deletion_policy;
    if let Some(own) = &shard.pvc_deletion_policy {
        crate::merge::Merge::merge(policy.get_or_insert_default(), own);
    }
    ShardSpec {
        database_name: group.database_name.clone(),
        table_group_name: group.table_group_name.clone(),
        shard_name: shard.name.clone(),
        images: group.images.clone(),
        global_topo_server: group.global_topo_server.clone(),
        multiorch: shard.multiorch.clone(),
        replicas: Some(shard.pools.values().map(poolers).fold(0, i32::saturating_add)),
        pools: shard.pools.clone(),
        initdb_args: shard.initdb_args.clone(),
        postgres_config_ref: shard.postgres_config_ref.clone(),
        postgres_config: shard.postgres_config.clone(),
        pvc_deletion_policy: policy,
        internal_tls: group.internal_tls,
        observability: group.observability.clone(),
        log_levels: group.log_levels,
        topology_pruning: group.topology_pruning,
        backup: shard.backup.clone().or_else(|| group.backup.clone()),
        durability_policy: shard.durability_policy.or(group.durability_policy),
        postgres_superuser: group.postgres_superuser.clone(),
        postgres_password_secret_ref: group.postgres_password_secret_ref.clone(),
        cell_topology_labels: group.cell_topology_labels.clone(),
    }
}

/// Pooler pods of a pool over all of its cells.
pub fn poolers(pool: &PoolSpec) -> i32 {
    let cells = i32::try_from(pool.cells.len()).unwrap_or(i32::MAX);
    pool.replicas_per_cell.unwrap_or(1).saturating_mul(cells)
}
