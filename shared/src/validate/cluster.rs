//! Rules of the cluster level: names, limits of this version, cells, gateways, the global topology, exposure.

use std::net::IpAddr;

use crate::api::v1alpha1::{
    BufferConfig, CellSpec, DurabilityPolicy, ExternalServiceConfig, ExternalTopoServerSpec, MultigresClusterSpec,
    StatelessSpec,
};
use crate::resolve::{GlobalTopo, Notice, ResolvedDatabase, defaults};

use super::{Findings, backup, duration, limits, resource};

pub fn check(findings: &mut Findings<'_>, spec: &MultigresClusterSpec) {
    let resolved = findings.resolved;
    cells(findings, &resolved.cells);
    match &resolved.global_topo {
        GlobalTopo::Managed(topo) => {
            if let Some(etcd) = &topo.etcd {
                resource::etcd(findings, "globalTopoServer.etcd", etcd);
            }
        }
        GlobalTopo::External(external) => endpoints(findings, "globalTopoServer.external", external),
    }
    stateless(findings, "multiadmin", &resolved.multiadmin.spec);
    stateless(findings, "multiadminWeb", &resolved.multiadmin_web.spec);
    databases(findings, &resolved.databases);
    durability(findings, "durabilityPolicy", spec.durability_policy);
    for database in &spec.databases {
        durability(findings, &format!("databases[{}].durabilityPolicy", database.name), database.durability_policy);
    }
    backup::check(findings, "backup", &resolved.backup);
    exposed(findings, "externalGateway", spec.external_gateway.as_ref());
    exposed(findings, "externalAdminWeb", spec.external_admin_web.as_ref());
    let interval = spec.observability.as_ref().and_then(|telemetry| telemetry.metric_export_interval.as_deref());
    if interval.is_some_and(|interval| interval.is_empty() || !interval.bytes().all(|byte| byte.is_ascii_digit())) {
        findings.warn("observability.metricExportInterval", "should be whole milliseconds, such as 30000");
    }
    notices(findings);
}

fn cells(findings: &mut Findings<'_>, cells: &[CellSpec]) {
    if cells.len() > limits::CELLS {
        findings.error("cells", cells.len(), format!("at most {} cells are supported", limits::CELLS));
    }
    findings.unique("cells", cells.iter().map(|cell| cell.name.as_str()));
    for cell in cells {
        let at = format!("cells[{}]", cell.name);
        findings.name(&format!("{at}.name"), &cell.name, limits::LONG_NAME);
        let places = [("zone", &cell.zone), ("zoneId", &cell.zone_id), ("region", &cell.region)];
        let given: Vec<_> = places.iter().filter(|(_, place)| place.is_some()).map(|(name, _)| *name).collect();
        if given.len() > 1 {
            findings.error(&at, given.join(", "), "a cell has one location; give only one of zone, zoneId and region");
        }
        let gateway = format!("{at}.multigateway");
        stateless(findings, &gateway, &cell.multigateway.stateless());
        if let Some(buffer) = &cell.multigateway.buffer {
            buffering(findings, &format!("{gateway}.buffer"), buffer);
        }
        if let Some(local) = &cell.topo_server {
            let at = format!("{at}.localTopoServer");
            if let Some(etcd) = &local.etcd {
                resource::etcd(findings, &format!("{at}.etcd"), etcd);
            }
            if let Some(external) = &local.external {
                endpoints(findings, &format!("{at}.external"), external);
            }
        }
    }
}

fn stateless(findings: &mut Findings<'_>, at: &str, spec: &StatelessSpec) {
    resource::replicas(findings, at, spec.replicas);
    resource::resources(findings, at, spec.resources.as_ref());
}

/// Durations of buffering; nothing to judge while it is off.
fn buffering(findings: &mut Findings<'_>, at: &str, buffer: &BufferConfig) {
    if buffer.enabled == Some(false) {
        return;
    }
    let mut read = |name: &str, text: Option<&str>, zero: bool| -> Option<i128> {
        let text = text?;
        let path = format!("{at}.{name}");
        let value = duration::parse(text);
        match value {
            None => findings.error(&path, text, "is not a duration; write numbers with units, such as 20s or 1m30s"),
            Some(value) if value < 0 => findings.error(&path, text, "must not be negative"),
            Some(0) if !zero => findings.error(&path, text, "must be more than zero"),
            Some(_) => return value,
        }
        None
    };
    let window = read("window", buffer.window.as_deref(), false);
    let longest = read("maxFailoverDuration", buffer.max_failover_duration.as_deref(), false);
    read("minTimeBetweenFailovers", buffer.min_time_between_failovers.as_deref(), true);
    let shown = |text: &Option<String>, default: &str| match text {
        Some(text) => text.clone(),
        None => format!("{default} (the default)"),
    };
    let window = window.or_else(|| buffer.window.is_none().then(|| duration::parse(limits::BUFFER_WINDOW)).flatten());
    let longest = longest.or_else(|| {
        buffer.max_failover_duration.is_none().then(|| duration::parse(limits::BUFFER_MAX_FAILOVER)).flatten()
    });
    if let (Some(window), Some(longest)) = (window, longest)
        && window > longest
    {
        findings.error(
            &format!("{at}.window"),
            shown(&buffer.window, limits::BUFFER_WINDOW),
            format!(
                "must not be longer than maxFailoverDuration, which is {}; shorten it or raise maxFailoverDuration",
                shown(&buffer.max_failover_duration, limits::BUFFER_MAX_FAILOVER)
            ),
        );
    }
    for (name, value) in [("size", buffer.size), ("drainConcurrency", buffer.drain_concurrency)] {
        if let Some(value) = value.filter(|value| *value < 1) {
            findings.error(&format!("{at}.{name}"), value, "must be at least 1");
        }
    }
}

fn endpoints(findings: &mut Findings<'_>, at: &str, external: &ExternalTopoServerSpec) {
    for endpoint in &external.endpoints {
        let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        if !host.is_some_and(|host| !host.is_empty() && !host.contains([',', ' '])) {
            findings.error(
                &format!("{at}.endpoints"),
                endpoint,
                "must be a URL that starts with http:// or https://, such as https://etcd-0.infra.svc:2379",
            );
        }
    }
}

/// Limits of this version, and the names of what lies below a database.
fn databases(findings: &mut Findings<'_>, databases: &[ResolvedDatabase]) {
    if databases.len() > 1 {
        findings.error(
            "databases",
            databases.len(),
            format!("this version has one database, {:?}", defaults::DATABASE),
        );
    }
    for database in databases {
        let at = format!("databases[{}]", database.name);
        if database.name != defaults::DATABASE {
            let message = format!("this version has only the database {:?}; rename the entry", defaults::DATABASE);
            findings.error(&format!("{at}.name"), &database.name, message);
        }
        if !database.default {
            findings.error(
                &format!("{at}.default"),
                false,
                "the only database is the default one; set true or leave it out",
            );
        }
        let groups = &database.table_groups;
        if groups.len() > limits::TABLE_GROUPS {
            let message = format!("a database has at most {} table groups", limits::TABLE_GROUPS);
            findings.error(&format!("{at}.tablegroups"), groups.len(), message);
        }
        findings.unique(&format!("{at}.tablegroups"), groups.iter().map(|group| group.table_group_name.as_str()));
        let default: Vec<_> = groups
            .iter()
            .filter(|group| group.default == Some(true))
            .map(|group| group.table_group_name.as_str())
            .collect();
        if default.len() != 1 {
            findings.error(
                &format!("{at}.tablegroups"),
                if default.is_empty() { "(none)".to_owned() } else { default.join(", ") },
                format!(
                    "exactly one table group is the default; set default: true on the one named {:?}",
                    defaults::TABLE_GROUP
                ),
            );
        }
        for group in groups {
            let at = format!("{at}.tablegroups[{}]", group.table_group_name);
            findings.name(&format!("{at}.name"), &group.table_group_name, limits::SHORT_NAME);
            findings.unique(&format!("{at}.shards"), group.shards.iter().map(|shard| shard.name.as_str()));
            for shard in group.shards.iter().filter(|shard| shard.name != defaults::SHARD) {
                let message = format!("this version has only the shard {:?}; rename the entry", defaults::SHARD);
                findings.error(&format!("{at}.shards[{}].name", shard.name), &shard.name, message);
            }
        }
    }
}

/// Only the policies that the data plane knows.
pub fn durability(findings: &mut Findings<'_>, at: &str, policy: Option<DurabilityPolicy>) {
    if policy == Some(DurabilityPolicy::Unknown) {
        let known = [DurabilityPolicy::AtLeast2, DurabilityPolicy::MultiCellAtLeast2];
        let known = known.map(|policy| policy.to_string()).join(", ");
        findings.error(at, "(unknown)", format!("is no policy of this version; use one of {known}"));
    }
}

fn exposed(findings: &mut Findings<'_>, at: &str, service: Option<&ExternalServiceConfig>) {
    let Some(service) = service.filter(|service| service.enabled) else { return };
    for ip in service.external_ips.iter().filter(|ip| ip.parse::<IpAddr>().is_err()) {
        findings.error(&format!("{at}.externalIPs"), ip, "is not an IP address, such as 198.51.100.10 or 2001:db8::1");
    }
    findings.unique(&format!("{at}.externalIPs"), service.external_ips.iter().map(String::as_str));
    if service.external_ips.is_empty() {
        findings.warn(at, "no externalIPs are given; the endpoint depends on something else assigning one");
    }
}

fn notices(findings: &mut Findings<'_>) {
    for notice in &findings.resolved.notices {
        match notice {
            Notice::NoCells => findings.warn("cells", "there are no cells, so nothing serves; add at least one"),
            Notice::CellLocalRepository { shard, cells } => findings.warn(
                &format!("{shard}.backup.filesystem.scope"),
                format!(
                    "each of the cells {} has its own repository, so standbys outside of the primary's cell can never join; \
                     use type s3, or scope Shard with a class that spans cells",
                    shorten(cells)
                ),
            ),
            Notice::PoolNotInTemplate { pool, template } => {
                findings.warn(pool, format!("template {template:?} has no such pool, so a new one is made"));
            }
            Notice::MixedDurability { database } => findings.warn(
                &format!("databases[{database}]"),
                "its shards ask for different durability policies; the topology record carries the strictest",
            ),
        }
    }
}

/// A list short enough for a warning, which the API server cuts at 256 characters.
fn shorten(names: &[String]) -> String {
    let shown = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 3 { format!("{shown}, …") } else { shown }
}
