//! Rules of a shard: its pools, where they run, whom they run as, what they can promise.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::v1alpha1::{
    BackupConfig, BackupScope, BackupType, DurabilityPolicy, MultigresClusterSpec, PoolSpec, ShardResolvedSpec,
};
use crate::field_path::At;
use crate::resolve::poolers;

use super::{Findings, backup, limits, postgres, reason, resource};

/// The cells that a shard may name.
pub struct Cells<'a> {
    /// In order.
    names: Vec<&'a str>,
}

impl<'a> Cells<'a> {
    /// The cells of a cluster.
    pub fn of(spec: &'a MultigresClusterSpec) -> Self {
        let mut names: Vec<_> = spec.cells.iter().map(|cell| cell.name.as_str()).collect();
        names.sort_unstable();
        Self { names }
    }

    /// All of them exist. Whoever names none gets all that the cluster has.
    fn check(&self, findings: &mut Findings<'_>, at: &At<'_>, cells: &[String]) {
        let at = at.field("cells");
        // Most lists are in order, so the next one is looked at first.
        let mut next = 0;
        let mut is_known = |cell: &str| {
            let place = match self.names.get(next) {
                Some(name) if *name == cell => Some(next),
                _ => self.names.binary_search(&cell).ok(),
            };
            next = place.map_or(next, |place| place + 1);
            place.is_some()
        };
        for cell in cells.iter().filter(|cell| !is_known(cell)) {
            let message = if self.names.is_empty() {
                "is no cell of the cluster, which has none; add it to spec.cells".to_owned()
            } else {
                format!("is no cell of the cluster; use one of {}, or add it to spec.cells", self.names.join(", "))
            };
            findings.error(&at, reason::NOT_FOUND, cell, message);
        }
        findings.unique(&at, cells.iter().map(String::as_str));
    }
}

pub fn check(findings: &mut Findings<'_>, at: &At<'_>, shard: &ShardResolvedSpec, known: &Cells<'_>) {
    findings.fields(at, shard);
    let orch = at.field("multiorch");
    resource::resources(findings, &orch, shard.multiorch.resources.as_ref());
    known.check(findings, &orch, &shard.multiorch.cells);
    let pools = at.field("pools");
    findings.at_most(&pools, shard.pools.len(), limits::POOLS, "pools are supported, those of the template included");
    for (name, pool) in &shard.pools {
        let at = pools.key(name);
        known.check(findings, &at, &pool.cells);
        let message = "cells are supported in a pool; list the ones that it needs";
        findings.at_most(&at.field("cells"), pool.cells.len(), limits::POOL_CELLS, message);
        check_pool(findings, &at, name, pool);
        same_user(findings, &at, pool);
    }
    promise(findings, at, shard, known);
    postgres::check(findings, &at.field("postgresConfig"), &shard.postgres_config);
    if let Some(config) = &shard.backup {
        let at = at.field("backup");
        backup::together(findings, &at, config);
        backup::unverified(findings, &at, config);
        shared_volume(findings, &at, config, &shard.pools);
    }
}

/// What holds for a pool whatever other levels add to it.
pub fn check_pool(findings: &mut Findings<'_>, at: &At<'_>, name: &str, pool: &PoolSpec) {
    findings.name(at, name, limits::SHORT_NAME);
    findings.fields(at, pool);
    for (name, container) in [("postgres", &pool.postgres), ("multipooler", &pool.multipooler)] {
        resource::resources(findings, &at.field(name), container.as_ref().and_then(|one| one.resources.as_ref()));
    }
}

/// Both containers of a pod share files, so they run as one user.
fn same_user(findings: &mut Findings<'_>, at: &At<'_>, pool: &PoolSpec) {
    let [postgres, pooler] =
        [&pool.postgres, &pool.multipooler].map(|one| one.as_ref().and_then(|one| one.run_as_user));
    let at = at.field("multipooler");
    let at = at.field("runAsUser");
    match (postgres, pooler) {
        (None, Some(user)) => findings.invalid(
            &at,
            user,
            "both containers share files; set postgres.runAsUser to the same number, or leave this one out",
        ),
        (Some(postgres), Some(user)) if postgres != user => findings.invalid(
            &at,
            user,
            format!("both containers share files; use {postgres}, as postgres.runAsUser, or leave this one out"),
        ),
        _ => {}
    }
}

/// Whether the pools can keep the durability policy at all.
fn promise(findings: &mut Findings<'_>, at: &At<'_>, shard: &ShardResolvedSpec, known: &Cells<'_>) {
    let policy = shard.durability_policy.unwrap_or_default();
    if known.names.is_empty() || satisfies(policy, &shard.pools) {
        return;
    }
    let members: i32 = shard.pools.values().map(poolers).fold(0, i32::saturating_add);
    let message = match policy {
        DurabilityPolicy::MultiCellAtLeast2 => "poolers in at least 2 cells",
        _ => "at least 2 poolers in all",
    };
    findings.warn(
        &at.field("pools"),
        format!("durability policy {policy} needs {message}, here are {members}; until then no primary can be elected"),
    );
}

/// Whether the pools of a shard have enough members for the policy.
pub fn satisfies(policy: DurabilityPolicy, pools: &BTreeMap<String, PoolSpec>) -> bool {
    let members: i32 = pools.values().map(poolers).fold(0, i32::saturating_add);
    let mut cells = pools.values().filter(|pool| poolers(pool) > 0).flat_map(|pool| &pool.cells);
    match policy {
        DurabilityPolicy::MultiCellAtLeast2 => {
            members >= 2 && cells.next().is_some_and(|first| cells.any(|cell| cell != first))
        }
        DurabilityPolicy::AtLeast2 | DurabilityPolicy::Unknown => members >= 2,
    }
}

/// Whether more pods mount a backup volume than its access modes allow.
fn shared_volume(findings: &mut Findings<'_>, at: &At<'_>, config: &BackupConfig, pools: &BTreeMap<String, PoolSpec>) {
    let Some(filesystem) = config.filesystem.as_ref().filter(|_| config.r#type == BackupType::Filesystem) else {
        return;
    };
    let many = |modes: &Vec<String>| modes.iter().any(|mode| mode == "ReadWriteMany");
    if filesystem.storage.as_ref().is_some_and(|storage| many(&storage.access_modes)) {
        return;
    }
    let cells: BTreeSet<&String> = pools.values().flat_map(|pool| &pool.cells).collect();
    let in_cell = |cell: &&String| {
        let here = pools.values().filter(|pool| pool.cells.contains(*cell));
        here.map(|pool| pool.replicas_per_cell.unwrap_or(1)).fold(0, i32::saturating_add)
    };
    let (pods, place) = match filesystem.scope.unwrap_or_default() {
        BackupScope::Cell => (cells.iter().map(in_cell).max().unwrap_or(0), "of a cell"),
        BackupScope::Shard => (cells.iter().map(in_cell).fold(0, i32::saturating_add), "of the shard"),
    };
    if pods > 1 {
        findings.warn(
            &at.field("filesystem").field("storage").field("accessModes"),
            format!("all {pods} poolers {place} end up on one node without ReadWriteMany, so it takes all of them down; use it or s3"),
        );
    }
}
