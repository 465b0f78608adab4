//! Rules of a change: what the old and the new cluster resolve to, compared.
//!
//! Cells, pools and members may go; what is refused is what the data would not survive.

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::api::v1alpha1::{
    BackupConfig, CellSpec, EncryptionConfig, EtcdSpec, ExternalTopoServerSpec, FilesystemBackupConfig,
    InternalTlsConfig, KeyPrefixScope, LocalTopoServerSpec, PoolSpec, ShardResolvedSpec, StorageSpec,
};
use crate::field_path::At;
use crate::pgconfig::{Identity, Sizing, basis, render};
use crate::quantity::Quantity;
use crate::resolve::{GlobalTopo, Repository, ResolvedCluster};

use super::place::{Keeper, topology_stays};
use super::{Findings, shard};

pub fn check(findings: &mut Findings<'_>, old: &ResolvedCluster, new: &ResolvedCluster) {
    let at = At::Root("cells");
    let before: BTreeMap<&str, &CellSpec> = old.cells.iter().map(|cell| (cell.name.as_str(), cell)).collect();
    for cell in &new.cells {
        if let Some(before) = before.get(cell.name.as_str()) {
            cell_change(findings, &at.key(&cell.name), before, cell);
        }
    }
    let at = At::Root("globalTopoServer");
    match (&old.global_topo, &new.global_topo) {
        (GlobalTopo::Managed(before), GlobalTopo::Managed(after)) => {
            if let (Some(before), Some(after)) = (&before.etcd, &after.etcd) {
                etcd(findings, &at.field("etcd"), before, after);
            }
        }
        (GlobalTopo::External(before), GlobalTopo::External(after)) => {
            external(findings, &at.field("external"), before, after);
        }
        (GlobalTopo::Managed(_), GlobalTopo::External(_)) => moved(findings, &at, Keeper::Operator, Keeper::Others),
        (GlobalTopo::External(_), GlobalTopo::Managed(_)) => moved(findings, &at, Keeper::Others, Keeper::Operator),
    }
    if old.postgres_superuser != new.postgres_superuser {
        findings.warn(&At::Root("postgresSuperuser"), "takes effect only on a fresh data directory");
    }
    let databases = At::Root("databases");
    for database in &new.databases {
        let Some(old) = old.databases.iter().find(|old| old.name == database.name) else { continue };
        let at = databases.key(&database.name);
        let groups = at.field("tablegroups");
        for group in &database.table_groups {
            let name = &group.table_group_name;
            let Some(old) = old.table_groups.iter().find(|old| old.table_group_name == *name) else { continue };
            let at = groups.key(name);
            let shards = at.field("shards");
            for one in &group.shards {
                if let Some(before) = old.shards.iter().find(|before| before.name == one.name).filter(|old| *old != one)
                {
                    let at = shards.key(&one.name);
                    shard_change(findings, &at, before, one);
                    if let (Some(before), Some(after)) = (&before.backup, &one.backup) {
                        repository_change(findings, &at.field("backup"), new, before, after);
                    }
                }
            }
        }
    }
}

/// A component speaks either plain text or TLS, with all others and in both directions. While pods are replaced one after the other,
/// those of before and those of after could not reach each other: orchestrators would take a primary for dead, and gateways would serve
/// nobody.
pub fn internal_tls(findings: &mut Findings<'_>, before: Option<InternalTlsConfig>, after: Option<InternalTlsConfig>) {
    let (was, is) = (InternalTlsConfig::is_on(before), InternalTlsConfig::is_on(after));
    if was != is {
        findings.forbidden(
            &At::Root("internalTLS.enabled"),
            is,
            format!(
                "was {was} and cannot change: components with and without TLS cannot reach each other while pods are replaced one after \
                 the other. Restore the old value, or make another cluster with the new one and bring the rows there with a dump"
            ),
        );
    }
}

fn cell_change(findings: &mut Findings<'_>, at: &At<'_>, before: &CellSpec, after: &CellSpec) {
    for (name, before, after) in [
        ("zone", &before.zone, &after.zone),
        ("zoneId", &before.zone_id, &after.zone_id),
        ("region", &before.region, &after.region),
    ] {
        if before != after {
            let shown = |place: &Option<String>| place.clone().unwrap_or_else(|| "(none)".to_owned());
            findings.forbidden(
                &at.field(name),
                shown(after),
                format!("was {} and cannot change, since volumes cannot move; add another cell instead", shown(before)),
            );
        }
    }
    local_topology(findings, &at.field("localTopoServer"), before.topo_server.as_ref(), after.topo_server.as_ref());
}

fn local_topology(
    findings: &mut Findings<'_>,
    at: &At<'_>,
    before: Option<&LocalTopoServerSpec>,
    after: Option<&LocalTopoServerSpec>,
) {
    let (was, is) = (Keeper::of_cell(before), Keeper::of_cell(after));
    if was != is {
        moved(findings, at, was, is);
    }
    let (Some(before), Some(after)) = (before, after) else { return };
    if let (Some(before), Some(after)) = (&before.etcd, &after.etcd) {
        etcd(findings, &at.field("etcd"), before, after);
    }
    if let (Some(before), Some(after)) = (&before.external, &after.external) {
        external(findings, &at.field("external"), before, after);
    }
}

fn external(findings: &mut Findings<'_>, at: &At<'_>, before: &ExternalTopoServerSpec, after: &ExternalTopoServerSpec) {
    root_path(findings, at, before.root_path.as_deref(), after.root_path.as_deref());
    if !after.endpoints.iter().any(|endpoint| before.endpoints.contains(endpoint)) {
        let message = "have to be other addresses of the same etcd: poolers that run do not register in another one";
        findings.warn(&at.field("endpoints"), message);
    }
}

fn root_path(findings: &mut Findings<'_>, at: &At<'_>, before: Option<&str>, after: Option<&str>) {
    if before != after {
        moved(findings, &at.field("rootPath"), before.unwrap_or_default(), after.unwrap_or_default());
    }
}

fn moved(findings: &mut Findings<'_>, at: &At<'_>, was: impl Display, is: impl Display) {
    findings.forbidden(at, is, topology_stays(was));
}

fn etcd(findings: &mut Findings<'_>, at: &At<'_>, before: &EtcdSpec, after: &EtcdSpec) {
    if before == after {
        return;
    }
    shrink(findings, &at.field("storage"), before.storage.as_ref(), after.storage.as_ref(), false);
    let (old, new) = (before.replicas.unwrap_or(1), after.replicas.unwrap_or(1));
    // The members that stay must be a quorum of the old cluster, or the topology is lost on the way.
    let quorum = old / 2 + 1;
    if new < quorum {
        // Sizes are odd.
        let next = quorum | 1;
        let remedy = if next < old { format!("go down in steps, first to {next}") } else { format!("keep {old}") };
        findings.forbidden(
            &at.field("replicas"),
            new,
            format!("was {old}; at least {quorum} members must stay to keep the quorum; {remedy}"),
        );
    }
    root_path(findings, at, before.root_path.as_deref(), after.root_path.as_deref());
}

fn shard_change(findings: &mut Findings<'_>, at: &At<'_>, before: &ShardResolvedSpec, after: &ShardResolvedSpec) {
    let pools = at.field("pools");
    for (name, pool) in &after.pools {
        if let Some(before) = before.pools.get(name) {
            shrink(findings, &pools.key(name).field("storage"), before.storage.as_ref(), pool.storage.as_ref(), true);
        }
    }
    let policy = after.durability_policy.unwrap_or_default();
    let had = before.durability_policy.unwrap_or_default();
    if !shard::satisfies(policy, &after.pools) && shard::satisfies(had, &before.pools) {
        let poolers: i32 = after.pools.values().map(crate::resolve::poolers).fold(0, i32::saturating_add);
        findings.forbidden(
            &pools,
            format!("{poolers} poolers"),
            format!("the poolers that stay cannot keep durability policy {policy}; keep more poolers or cells"),
        );
    } else if nobody_stays(&before.pools, &after.pools) {
        findings.forbidden(
            &pools,
            members(&after.pools),
            format!("no pooler of before stays; keep one of {} and remove it in a second step", members(&before.pools)),
        );
    }
    backup_change(findings, &at.field("backup"), before, after);
    if before.initdb_args != after.initdb_args {
        findings.warn(&at.field("initdbArgs"), "takes effect only on a fresh data directory");
    }
    let critical = |shard: &ShardResolvedSpec| {
        let sizing = Sizing::of(basis(&shard.pools, shard.initdb_args.as_deref()));
        render(&Identity::default(), &sizing, None, &shard.postgres_config).critical()
    };
    if (&before.pools, &before.postgres_config) != (&after.pools, &after.postgres_config) {
        for (name, value) in critical(after).below(&critical(before)) {
            let message = format!(
                "{name} stays {value} in a shard that runs: no standby may have less than its primary was started with"
            );
            findings.warn(&at.field("postgresConfig"), message);
        }
    }
}

fn backup_change(findings: &mut Findings<'_>, at: &At<'_>, before: &ShardResolvedSpec, after: &ShardResolvedSpec) {
    let (Some(before), Some(after)) = (&before.backup, &after.backup) else { return };
    let shown = |encryption: &Option<EncryptionConfig>| {
        encryption.as_ref().map_or_else(|| "(none)".to_owned(), |encryption| encryption.secret_name.clone())
    };
    if before.encryption != after.encryption {
        findings.forbidden(
            &at.field("encryption"),
            shown(&after.encryption),
            format!(
                "was {} and cannot change, because the repository is encrypted once at its creation; restore the old value",
                shown(&before.encryption)
            ),
        );
    }
    // Another kind of repository, or another scope, is another volume.
    let volume = |files: &FilesystemBackupConfig| files.scope.unwrap_or_default();
    if let (Some(before), Some(after)) = (&before.filesystem, &after.filesystem)
        && volume(before) == volume(after)
    {
        shrink(
            findings,
            &at.field("filesystem").field("storage"),
            before.storage.as_ref(),
            after.storage.as_ref(),
            false,
        );
    }
}

/// A shard keeps the repository that it was bootstrapped into: pgBackRest needs a stanza in a new one, and the data plane makes that only
/// when it bootstraps a shard. WAL could not be archived any more, and a new standby would begin with an empty database.
fn repository_change(
    findings: &mut Findings<'_>,
    at: &At<'_>,
    cluster: &ResolvedCluster,
    before: &BackupConfig,
    after: &BackupConfig,
) {
    let readings = |backup: &BackupConfig| Repository::readings(backup, &cluster.namespace, &cluster.name);
    let (old, new) = (readings(before), readings(after));
    let stays = new.iter().any(|(_, new)| old.iter().any(|(_, old)| old.is(new)));
    if !stays {
        // Where the scope is left open the last reading is the one that is written.
        let shown = |readings: &[(Option<KeyPrefixScope>, Repository)]| {
            readings.last().map(|(_, last)| last.to_string()).unwrap_or_default()
        };
        findings.forbidden(
            at,
            shown(&new),
            format!(
                "was {old}, and the data plane cannot begin another repository for shards that exist: it makes one only when it bootstraps \
                 a shard. Restore the old value, or make another cluster with the new repository and bring the rows there with a dump; \
                 {old} then stays as it is, and nothing in it is pruned any more",
                old = shown(&old)
            ),
        );
        return;
    }
    let (Some(before), Some(after)) = (&before.s3, &after.s3) else { return };
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    if given(&before.endpoint) != given(&after.endpoint) {
        findings.warn(
            &at.field("s3").field("endpoint"),
            format!(
                "has to be another address of the store that was reached as {:?}: no repository is begun in another store",
                given(&before.endpoint)
            ),
        );
    }
    if before.key_prefix_scope.is_none() && after.key_prefix_scope.is_some() {
        findings.warn(
            &at.field("s3").field("keyPrefixScope"),
            "moves nothing: say what the cluster has (status.backupRepositories); condition BackupRepositoryChanged tells if it is not \
             that",
        );
    }
}

/// A volume cannot shrink; its class and modes are fixed once it exists. Members of a pool move to a volume of another class.
fn shrink(
    findings: &mut Findings<'_>,
    at: &At<'_>,
    before: Option<&StorageSpec>,
    after: Option<&StorageSpec>,
    moves: bool,
) {
    let (Some(before), Some(after)) = (before, after) else { return };
    if before == after {
        return;
    }
    let size = |storage: &StorageSpec| storage.size.as_deref().and_then(|size| size.parse::<Quantity>().ok());
    if let (Some(old), Some(new)) = (size(before), size(after))
        && new < old
    {
        findings.forbidden(
            &at.field("size"),
            after.size.as_deref().unwrap_or_default(),
            format!("was {old}; a volume cannot shrink; keep at least that"),
        );
    }
    if moves && before.storage_class() != after.storage_class() {
        findings.warn(
            &at.field("class"),
            "members move to new volumes one after the other; what becomes of the old ones is up to whenScaled",
        );
    }
    if (!moves && before.class != after.class) || before.access_modes != after.access_modes {
        findings.warn(at, "class and access modes apply to new volumes only");
    }
}

/// Whether all pools leave all of their cells.
fn nobody_stays(before: &BTreeMap<String, PoolSpec>, after: &BTreeMap<String, PoolSpec>) -> bool {
    let any = |pools: &BTreeMap<String, PoolSpec>| pools.values().any(|pool| !pool.cells.is_empty());
    let stays = |(name, pool): (&String, &PoolSpec)| {
        after.get(name).is_some_and(|after| pool.cells.iter().any(|cell| after.cells.contains(cell)))
    };
    any(before) && any(after) && !before.iter().any(stays)
}

/// The first members, in words.
fn members(pools: &BTreeMap<String, PoolSpec>) -> String {
    let all = pools.iter().flat_map(|(name, pool)| pool.cells.iter().map(move |cell| format!("{name} in {cell}")));
    all.take(5).collect::<Vec<_>>().join(", ")
}
