//! Rules of a change: what the old and the new cluster resolve to, compared.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::v1alpha1::{EtcdSpec, PoolSpec, ShardResolvedSpec, StorageSpec};
use crate::pgconfig::sizing::lowers_replication_critical;
use crate::pgconfig::{Sizing, basis};
use crate::quantity::Quantity;
use crate::resolve::{GlobalTopo, ResolvedCluster};

use super::{Findings, shard};

pub fn check(findings: &mut Findings<'_>, old: &ResolvedCluster) {
    let new = findings.resolved;
    for cell in &new.cells {
        let Some(before) = old.cells.iter().find(|before| before.name == cell.name) else { continue };
        let at = format!("cells[{}]", cell.name);
        for (name, before, after) in [
            ("zone", &before.zone, &cell.zone),
            ("zoneId", &before.zone_id, &cell.zone_id),
            ("region", &before.region, &cell.region),
        ] {
            if before != after {
                let shown = |place: &Option<String>| place.clone().unwrap_or_else(|| "(none)".to_owned());
                findings.error(
                    &format!("{at}.{name}"),
                    shown(after),
                    format!("was {} and cannot change; add another cell instead", shown(before)),
                );
            }
        }
        let local =
            |cell: &crate::api::v1alpha1::CellSpec| cell.topo_server.as_ref().and_then(|topo| topo.etcd.clone());
        if let (Some(before), Some(after)) = (local(before), local(cell)) {
            etcd(findings, &format!("{at}.localTopoServer.etcd"), &before, &after);
        }
    }
    match (&old.global_topo, &new.global_topo) {
        (GlobalTopo::Managed(before), GlobalTopo::Managed(after)) => {
            if let (Some(before), Some(after)) = (&before.etcd, &after.etcd) {
                etcd(findings, "globalTopoServer.etcd", before, after);
            }
        }
        (GlobalTopo::External(_), GlobalTopo::External(_)) => {}
        _ => findings.warn("globalTopoServer", "the topology moves to another server; its content is registered anew"),
    }
    if old.postgres_superuser != new.postgres_superuser {
        findings.warn("postgresSuperuser", "takes effect only on a fresh data directory");
    }
    for group in new.table_groups() {
        let key = |other: &&crate::api::v1alpha1::TableGroupSpec| {
            other.database_name == group.database_name && other.table_group_name == group.table_group_name
        };
        let Some(before) = old.table_groups().find(key) else { continue };
        for one in &group.shards {
            if let Some(before) = before.shards.iter().find(|before| before.name == one.name) {
                let at = format!(
                    "databases[{}].tablegroups[{}].shards[{}]",
                    group.database_name, group.table_group_name, one.name
                );
                shard_change(findings, &at, before, one);
            }
        }
    }
}

fn etcd(findings: &mut Findings<'_>, at: &str, before: &EtcdSpec, after: &EtcdSpec) {
    shrink(findings, &format!("{at}.storage"), before.storage.as_ref(), after.storage.as_ref());
    let (old, new) = (before.replicas.unwrap_or(1), after.replicas.unwrap_or(1));
    // The members that stay must be a quorum of the old cluster, or the topology is lost on the way.
    let quorum = old / 2 + 1;
    if new < quorum {
        findings.error(
            &format!("{at}.replicas"),
            new,
            format!("was {old}; at least {quorum} members must stay to keep the quorum; go down in steps"),
        );
    }
}

fn shard_change(findings: &mut Findings<'_>, at: &str, before: &ShardResolvedSpec, after: &ShardResolvedSpec) {
    for (name, pool) in &after.pools {
        if let Some(before) = before.pools.get(name) {
            shrink(findings, &format!("{at}.pools[{name}].storage"), before.storage.as_ref(), pool.storage.as_ref());
        }
    }
    let policy = after.durability_policy.unwrap_or_default();
    let had = before.durability_policy.unwrap_or_default();
    if !shard::satisfies(policy, &after.pools) && shard::satisfies(had, &before.pools) {
        findings.error(
            &format!("{at}.pools"),
            members(&after.pools).len(),
            format!("the pools that stay cannot keep durability policy {policy}; keep more poolers or cells"),
        );
    }
    let (old, new) = (members(&before.pools), members(&after.pools));
    if !old.is_empty() && !new.is_empty() && old.is_disjoint(&new) {
        findings.error(
            &format!("{at}.pools"),
            names(&new),
            format!("no pooler of before stays; keep one of {} and remove it in a second step", names(&old)),
        );
    }
    let repository = |shard: &ShardResolvedSpec| shard.backup.as_ref().and_then(|backup| backup.encryption.clone());
    let (was, is) = (repository(before), repository(after));
    if was != is {
        findings.error(
            &format!("{at}.backup.encryption"),
            is.map_or_else(|| "(none)".to_owned(), |encryption| encryption.secret_name),
            format!(
                "was {} and cannot change, because the repository is encrypted once at its creation",
                was.map_or_else(|| "(none)".to_owned(), |encryption| encryption.secret_name)
            ),
        );
    }
    let volume = |shard: &ShardResolvedSpec| {
        shard.backup.as_ref().and_then(|backup| backup.filesystem.as_ref()).and_then(|files| files.storage.clone())
    };
    if let (Some(before), Some(after)) = (volume(before), volume(after)) {
        shrink(findings, &format!("{at}.backup.filesystem.storage"), Some(&before), Some(&after));
    }
    if before.initdb_args != after.initdb_args {
        findings.warn(&format!("{at}.initdbArgs"), "takes effect only on a fresh data directory");
    }
    let sizing = |shard: &ShardResolvedSpec| Sizing::of(basis(&shard.pools, shard.initdb_args.as_deref()));
    if lowers_replication_critical(&sizing(before), &sizing(after)) {
        findings.warn(
            &format!("{at}.pools"),
            "fewer cores lower max_worker_processes, which must reach the primary before its standbys",
        );
    }
}

/// A volume cannot shrink; its class and modes are fixed once it exists.
fn shrink(findings: &mut Findings<'_>, at: &str, before: Option<&StorageSpec>, after: Option<&StorageSpec>) {
    let (Some(before), Some(after)) = (before, after) else { return };
    let size = |storage: &StorageSpec| storage.size.as_deref().and_then(|size| size.parse::<Quantity>().ok());
    if let (Some(old), Some(new)) = (size(before), size(after))
        && new < old
    {
        findings.error(&format!("{at}.size"), new, format!("was {old}; a volume cannot shrink"));
    }
    if before.class != after.class || before.access_modes != after.access_modes {
        findings.warn(at, "class and access modes apply to new volumes only");
    }
}

/// Pool and cell of every member.
fn members(pools: &BTreeMap<String, PoolSpec>) -> BTreeSet<(&str, &str)> {
    pools.iter().flat_map(|(name, pool)| pool.cells.iter().map(move |cell| (name.as_str(), cell.as_str()))).collect()
}

fn names(members: &BTreeSet<(&str, &str)>) -> String {
    members.iter().take(5).map(|(pool, cell)| format!("{pool} in {cell}")).collect::<Vec<_>>().join(", ")
}
