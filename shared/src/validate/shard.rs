//! Rules of a shard: its pools, where they run, whom they run as, what they can promise.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::v1alpha1::{BackupConfig, BackupScope, BackupType, DurabilityPolicy, PoolSpec, ShardResolvedSpec};
use crate::resolve::poolers;

use super::{Findings, backup, cluster, limits, postgres, resource};

pub fn check(findings: &mut Findings<'_>, at: &str, shard: &ShardResolvedSpec) {
    let orch = format!("{at}.multiorch");
    resource::replicas(findings, &orch, shard.multiorch.replicas);
    resource::resources(findings, &orch, shard.multiorch.resources.as_ref());
    cells(findings, &orch, &shard.multiorch.cells);
    if shard.pools.len() > limits::POOLS {
        let message = format!("a shard has at most {} pools, those of its template included", limits::POOLS);
        findings.error(&format!("{at}.pools"), shard.pools.len(), message);
    }
    for (name, pool) in &shard.pools {
        let at = format!("{at}.pools[{name}]");
        findings.name(&at, name, limits::SHORT_NAME);
        check_pool(findings, &at, pool);
    }
    cluster::durability(findings, &format!("{at}.durabilityPolicy"), shard.durability_policy);
    promise(findings, at, shard);
    postgres::check(findings, &format!("{at}.postgresConfig"), &shard.postgres_config);
    if let Some(config) = &shard.backup {
        backup::check(findings, &format!("{at}.backup"), config);
        shared_volume(findings, &format!("{at}.backup"), config, &shard.pools);
    }
}

/// The cells exist, and there is at least one where the cluster has any.
fn cells(findings: &mut Findings<'_>, at: &str, cells: &[String]) {
    let resolved = findings.resolved;
    let path = format!("{at}.cells");
    let known: Vec<&str> = resolved.cells.iter().map(|cell| cell.name.as_str()).collect();
    for cell in cells.iter().filter(|cell| !known.contains(&cell.as_str())) {
        let message = match known.len() {
            0 => "is no cell of the cluster, which has none; add it to spec.cells".to_owned(),
            _ => format!("is no cell of the cluster; use one of {}, or add it to spec.cells", known.join(", ")),
        };
        findings.error(&path, cell, message);
    }
    if cells.is_empty() && !known.is_empty() {
        findings.error(&path, "(none)", format!("name at least one of {}", known.join(", ")));
    }
    findings.unique(&path, cells.iter().map(String::as_str));
}

fn check_pool(findings: &mut Findings<'_>, at: &str, pool: &PoolSpec) {
    cells(findings, at, &pool.cells);
    if pool.cells.len() > limits::POOL_CELLS {
        let message = format!("a pool spans at most {} cells; list the ones that it needs", limits::POOL_CELLS);
        findings.error(&format!("{at}.cells"), pool.cells.len(), message);
    }
    if let Some(replicas) = pool.replicas_per_cell.filter(|replicas| !limits::REPLICAS_PER_CELL.contains(replicas)) {
        let (low, high) = limits::REPLICAS_PER_CELL.into_inner();
        findings.error(&format!("{at}.replicasPerCell"), replicas, format!("must be between {low} and {high}"));
    }
    resource::storage(findings, &format!("{at}.storage"), pool.storage.as_ref());
    let users = [("postgres", &pool.postgres), ("multipooler", &pool.multipooler)].map(|(name, container)| {
        let at = format!("{at}.{name}");
        let Some(container) = container else { return None };
        resource::resources(findings, &at, container.resources.as_ref());
        if let Some(user) = container.run_as_user.filter(|user| *user < 1) {
            findings.error(
                &format!("{at}.runAsUser"),
                user,
                "must be at least 1; the data plane refuses to run as root",
            );
        }
        if let Some(group) = container.run_as_group.filter(|group| *group < 0) {
            findings.error(&format!("{at}.runAsGroup"), group, "must not be negative");
        }
        container.run_as_user
    });
    match users {
        [None, Some(user)] => findings.error(
            &format!("{at}.multipooler.runAsUser"),
            user,
            "both containers share files; set postgres.runAsUser to the same number, or leave this one out",
        ),
        [Some(postgres), Some(user)] if postgres != user => findings.error(
            &format!("{at}.multipooler.runAsUser"),
            user,
            format!("both containers share files; use {postgres}, as postgres.runAsUser, or leave this one out"),
        ),
        _ => {}
    }
    if let Some(group) = pool.fs_group.filter(|group| *group < 1) {
        findings.error(&format!("{at}.fsGroup"), group, "must be at least 1");
    }
}

/// Whether the pools can keep the durability policy at all.
fn promise(findings: &mut Findings<'_>, at: &str, shard: &ShardResolvedSpec) {
    if findings.resolved.cells.is_empty() {
        return;
    }
    let policy = shard.durability_policy.unwrap_or_default();
    if !satisfies(policy, &shard.pools) {
        let message = match policy {
            DurabilityPolicy::MultiCellAtLeast2 => {
                "needs poolers in at least 2 cells; until then no primary can be elected"
            }
            _ => "needs at least 2 poolers in all; until then no primary can be elected",
        };
        findings.warn(&format!("{at}.pools"), format!("durability policy {policy} {message}"));
    }
}

/// Whether the pools of a shard have enough members for the policy.
pub fn satisfies(policy: DurabilityPolicy, pools: &BTreeMap<String, PoolSpec>) -> bool {
    let members: i32 = pools.values().map(poolers).fold(0, i32::saturating_add);
    let cells: BTreeSet<&String> = pools.values().flat_map(|pool| &pool.cells).collect();
    match policy {
        DurabilityPolicy::MultiCellAtLeast2 => members >= 2 && cells.len() >= 2,
        DurabilityPolicy::AtLeast2 | DurabilityPolicy::Unknown => members >= 2,
    }
}

/// Whether more pods mount a backup volume than its access modes allow.
fn shared_volume(findings: &mut Findings<'_>, at: &str, config: &BackupConfig, pools: &BTreeMap<String, PoolSpec>) {
    let Some(filesystem) = config.filesystem.as_ref().filter(|_| config.r#type == BackupType::Filesystem) else {
        return;
    };
    let many = filesystem
        .storage
        .as_ref()
        .is_some_and(|storage| storage.access_modes.iter().any(|mode| mode == "ReadWriteMany"));
    let mut per_cell: BTreeMap<&String, i32> = BTreeMap::new();
    for pool in pools.values() {
        for cell in &pool.cells {
            let members = per_cell.entry(cell).or_default();
            *members = members.saturating_add(pool.replicas_per_cell.unwrap_or(1));
        }
    }
    let pods = match filesystem.scope.unwrap_or_default() {
        BackupScope::Cell => per_cell.values().copied().max().unwrap_or(0),
        BackupScope::Shard => per_cell.values().fold(0, |sum: i32, members| sum.saturating_add(*members)),
    };
    if pods > 1 && !many {
        findings.warn(
            &format!("{at}.filesystem.storage.accessModes"),
            format!("{pods} poolers share this volume without ReadWriteMany and so end up on one node; use ReadWriteMany or s3"),
        );
    }
}
