//! Rules of a spec as it is written: names, numbers of entries, fields that exclude each other. They hold whatever the templates say.

use std::net::IpAddr;

use crate::api::v1alpha1::{
    BackupConfig, BackupType, CellConfig, DatabaseConfig, DurabilityPolicy, EtcdSpec, ExternalServiceConfig,
    ExternalServiceType, ExternalTopoServerSpec, LocalTopoServerSpec, MultigresClusterSpec, PoolSpec, ShardConfig,
    StorageSpec, TableGroupConfig,
};
use crate::field_path::At;
use crate::resolve::{self, defaults};

use super::{Findings, limits, own_root, reason};

pub fn check(findings: &mut Findings<'_>, name: &str, spec: &MultigresClusterSpec) {
    if !name.is_empty() {
        let at = At::Root("metadata.name");
        findings.name(&at, name, limits::CLUSTER_NAME);
        // Its Services carry its name in front, and their names are labels of RFC 1035.
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            findings.invalid(&at, name, "must start with a letter, because Services are named after it".to_owned());
        }
    }
    let root = At::Root("");
    findings.fields(&root, spec);
    let at = root.field("globalTopoServer");
    if let Some(topo) = &spec.global_topo_server {
        let given = [
            ("etcd", topo.etcd.is_some()),
            ("external", topo.external.is_some()),
            ("templateRef", topo.template_ref.is_some()),
        ];
        one_of(findings, &at, &given);
        etcd(findings, &at.field("etcd"), topo.etcd.as_ref());
        check_root(findings, &at.field("external"), topo.external.as_ref());
    }
    for (field, inline, template) in [
        (
            "multiadmin",
            spec.multiadmin.as_ref().is_some_and(|admin| admin.spec.is_some()),
            spec.multiadmin.as_ref().is_some_and(|admin| admin.template_ref.is_some()),
        ),
        (
            "multiadminWeb",
            spec.multiadmin_web.as_ref().is_some_and(|web| web.spec.is_some()),
            spec.multiadmin_web.as_ref().is_some_and(|web| web.template_ref.is_some()),
        ),
    ] {
        one_of(findings, &root.field(field), &[("spec", inline), ("templateRef", template)]);
    }
    cells(findings, &root.field("cells"), &spec.cells);
    durability(findings, &root.field("durabilityPolicy"), spec.durability_policy);
    backup(findings, &root.field("backup"), spec.backup.as_ref());
    databases(findings, &root.field("databases"), &spec.databases);
    exposed(findings, &root.field("externalGateway"), spec.external_gateway.as_ref());
    exposed(findings, &root.field("externalAdminWeb"), spec.external_admin_web.as_ref());
    let interval = spec.observability.as_ref().and_then(|telemetry| telemetry.metric_export_interval.as_deref());
    if interval.is_some_and(|interval| interval.is_empty() || !interval.bytes().all(|byte| byte.is_ascii_digit())) {
        findings.warn(&At::Root("observability.metricExportInterval"), "should be whole milliseconds, such as 30000");
    }
}

/// At most one of several fields is given.
fn one_of(findings: &mut Findings<'_>, at: &At<'_>, given: &[(&str, bool)]) {
    if given.iter().filter(|(_, given)| *given).count() > 1 {
        let list = |all: bool| {
            given.iter().filter(|(_, given)| all || *given).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        };
        findings.forbidden(at, list(false), format!("only one of {} may be given; remove the others", list(true)));
    }
}

fn cells(findings: &mut Findings<'_>, at: &At<'_>, cells: &[CellConfig]) {
    findings.at_most(at, cells.len(), limits::CELLS, "cells are supported");
    findings.unique(at, cells.iter().map(|cell| cell.name.as_str()));
    for cell in cells {
        let at = at.key(&cell.name);
        findings.name(&at.field("name"), &cell.name, limits::LONG_NAME);
        findings.fields(&at, cell);
        one_of(
            findings,
            &at,
            &[("zone", cell.zone.is_some()), ("zoneId", cell.zone_id.is_some()), ("region", cell.region.is_some())],
        );
        one_of(findings, &at, &[("spec", cell.spec.is_some()), ("cellTemplate", cell.cell_template.is_some())]);
        one_of(findings, &at, &[("spec", cell.spec.is_some()), ("overrides", cell.overrides.is_some())]);
        if let Some(local) = cell.spec.as_deref().and_then(|spec| spec.local_topo_server.as_deref()) {
            local_topology(findings, &at.field("localTopoServer"), local);
        }
    }
}

/// A cell's own topology has exactly one backend.
pub fn local_topology(findings: &mut Findings<'_>, at: &At<'_>, local: &LocalTopoServerSpec) {
    if local.etcd.is_none() && local.external.is_none() {
        findings.error(at, reason::REQUIRED, "", "give one of etcd and external, or leave localTopoServer out");
    }
    one_of(findings, at, &[("etcd", local.etcd.is_some()), ("external", local.external.is_some())]);
    etcd(findings, &at.field("etcd"), local.etcd.as_ref());
    check_root(findings, &at.field("external"), local.external.as_ref());
}

/// Below the root that holds unasked every cluster would have its records.
fn check_root(findings: &mut Findings<'_>, at: &At<'_>, external: Option<&ExternalTopoServerSpec>) {
    if external.is_some_and(|external| own_root(external).is_none()) {
        let message = "is not given: clusters with one root in one etcd take each other's poolers for their own. Give each new cluster a \
                       root of its own; it cannot change later";
        findings.warn(&at.field("rootPath"), message);
    }
}

/// The spellings of an etcd section.
pub fn etcd(findings: &mut Findings<'_>, at: &At<'_>, etcd: Option<&EtcdSpec>) {
    storage(findings, &at.field("storage"), etcd.and_then(|etcd| etcd.storage.as_ref()));
}

/// One spelling of the class is enough, and one of them is the alias.
fn storage(findings: &mut Findings<'_>, at: &At<'_>, storage: Option<&StorageSpec>) {
    let Some(storage) = storage.filter(|storage| storage.storage_class_name.is_some()) else { return };
    if storage.class.is_some() {
        one_of(findings, at, &[("class", true), ("storageClassName", true)]);
    } else {
        findings.warn(&at.field("storageClassName"), "is another spelling of class; write class");
    }
}

/// The spellings of pools.
pub fn pools<'p>(findings: &mut Findings<'_>, at: &At<'_>, pools: impl Iterator<Item = (&'p String, &'p PoolSpec)>) {
    for (name, pool) in pools {
        storage(findings, &at.key(name).field("storage"), pool.storage.as_ref());
    }
}

/// Each level that chooses a kind of repository carries its settings.
fn backup(findings: &mut Findings<'_>, at: &At<'_>, backup: Option<&BackupConfig>) {
    let Some(backup) = backup else { return };
    let (field, given) = match backup.r#type {
        BackupType::S3 => ("s3", backup.s3.is_some()),
        BackupType::Filesystem => ("filesystem", backup.filesystem.is_some()),
    };
    if !given {
        let message = format!("is needed with type {}; give its settings here, too", backup.r#type);
        findings.error(&at.field(field), reason::REQUIRED, "", message);
    }
    let volume = backup.filesystem.as_ref().and_then(|files| files.storage.as_ref());
    storage(findings, &at.field("filesystem").field("storage"), volume);
}

/// Only the policies that the data plane knows.
fn durability(findings: &mut Findings<'_>, at: &At<'_>, policy: Option<DurabilityPolicy>) {
    if policy == Some(DurabilityPolicy::Unknown) {
        let known = [DurabilityPolicy::AtLeast2, DurabilityPolicy::MultiCellAtLeast2];
        let known = known.map(|policy| policy.to_string()).join(", ");
        findings.invalid(at, "(unknown)", format!("is no policy of this version; use one of {known}"));
    }
}

/// Limits of this version, and the names of what lies below a database.
fn databases(findings: &mut Findings<'_>, at: &At<'_>, databases: &[DatabaseConfig]) {
    if databases.len() > 1 {
        let message = format!("this version has one database, {:?}; remove the others", defaults::DATABASE);
        findings.invalid(at, databases.len(), message);
    }
    findings.unique(at, databases.iter().map(|database| database.name.as_str()));
    for database in databases {
        let at = at.key(&database.name);
        if database.name != defaults::DATABASE {
            let message = format!("this version has only the database {:?}; rename the entry", defaults::DATABASE);
            findings.invalid(&at.field("name"), &database.name, message);
        }
        if database.default == Some(false) {
            let message = "the only database is the default one; set true or leave it out";
            findings.invalid(&at.field("default"), false, message);
        }
        durability(findings, &at.field("durabilityPolicy"), database.durability_policy);
        backup(findings, &at.field("backup"), database.backup.as_ref());
        if !database.table_groups.is_empty() {
            findings.warn(&at.field("tableGroups"), "is another spelling of tablegroups; write tablegroups");
        }
        // What cannot be read under the alias keeps the cluster from being resolved, which tells.
        let groups = resolve::table_groups(database, &at, &mut Vec::new());
        table_groups(findings, &at.field("tablegroups"), &groups);
    }
}

fn table_groups(findings: &mut Findings<'_>, at: &At<'_>, groups: &[TableGroupConfig]) {
    findings.at_most(at, groups.len(), limits::TABLE_GROUPS, "table groups are supported in a database");
    findings.unique(at, groups.iter().map(|group| group.name.as_str()));
    let sole = groups.len() == 1;
    let is_default = |group: &&TableGroupConfig| group.default.unwrap_or(sole || group.name == defaults::TABLE_GROUP);
    let named = |group: &TableGroupConfig| group.name == defaults::TABLE_GROUP;
    if !groups.is_empty() && !groups.iter().any(|group| is_default(&group) && (sole || named(group))) {
        findings.invalid(
            at,
            groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", "),
            format!(
                "one table group must be the default: the only one, or the one called {:?}, without default: false",
                defaults::TABLE_GROUP
            ),
        );
    }
    for group in groups {
        let at = at.key(&group.name);
        findings.name(&at.field("name"), &group.name, limits::SHORT_NAME);
        if group.default == Some(true) && !named(group) {
            let message = format!(
                "the default table group must be called {:?}; rename it or remove the mark",
                defaults::TABLE_GROUP
            );
            findings.invalid(&at.field("default"), true, message);
        }
        backup(findings, &at.field("backup"), group.backup.as_deref());
        let at = at.field("shards");
        findings.at_most(&at, group.shards.len(), limits::SHARDS, "shards are supported in a table group");
        findings.unique(&at, group.shards.iter().map(|shard| shard.name.as_str()));
        for shard in &group.shards {
            check_shard(findings, &at.key(&shard.name), shard);
        }
    }
}

fn check_shard(findings: &mut Findings<'_>, at: &At<'_>, shard: &ShardConfig) {
    if shard.name != defaults::SHARD {
        let message = format!("this version has only the shard {:?}; rename the entry", defaults::SHARD);
        findings.invalid(&at.field("name"), &shard.name, message);
    }
    one_of(findings, at, &[("spec", shard.spec.is_some()), ("shardTemplate", shard.shard_template.is_some())]);
    one_of(findings, at, &[("spec", shard.spec.is_some()), ("overrides", shard.overrides.is_some())]);
    backup(findings, &at.field("backup"), shard.backup.as_deref());
    let inline = shard.spec.as_deref();
    let overrides = shard.overrides.as_deref();
    let policy = inline.and_then(|spec| spec.durability_policy).or(overrides.and_then(|over| over.durability_policy));
    durability(findings, &at.field("durabilityPolicy"), policy);
    pools(findings, &at.field("pools"), inline.into_iter().flat_map(|spec| &spec.pools));
    pools(findings, &at.field("pools"), overrides.into_iter().flat_map(|over| &over.pools));
}

fn exposed(findings: &mut Findings<'_>, at: &At<'_>, service: Option<&ExternalServiceConfig>) {
    let Some(service) = service.filter(|service| service.enabled) else { return };
    let ips = at.field("externalIPs");
    for ip in service.external_ips.iter().filter(|ip| ip.parse::<IpAddr>().is_err()) {
        findings.invalid(&ips, ip, "is not an IP address, such as 198.51.100.10 or 2001:db8::1");
    }
    findings.unique(&ips, service.external_ips.iter().map(String::as_str));
    if service.external_ips.is_empty() && service.r#type != Some(ExternalServiceType::LoadBalancer) {
        let message = "no externalIPs are given; the endpoint depends on a load balancer controller to assign one; give \
                       externalIPs, or type LoadBalancer";
        findings.warn(at, message);
    }
}
