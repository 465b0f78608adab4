//! Rules of the cluster level: the global topology, the admin service, the cells with their gateways.

use crate::api::v1alpha1::{BufferConfig, CellSpec, LocalTopoServerSpec, MultigatewaySpec};
use crate::field_path::At;
use crate::resolve::{GlobalTopo, Notice, ResolvedCluster, ResolvedStateless};

use super::{Findings, backup, duration, limits, resource};

pub fn check(findings: &mut Findings<'_>, resolved: &ResolvedCluster) {
    match &resolved.global_topo {
        GlobalTopo::Managed(topo) => {
            if let Some(etcd) = &topo.etcd {
                resource::etcd(findings, &At::Root("globalTopoServer.etcd"), etcd);
            }
            if let Some(placement) = &topo.placement {
                findings.fields(&At::Root("globalTopoServer.placement"), placement);
            }
        }
        GlobalTopo::External(external) => findings.fields(&At::Root("globalTopoServer.external"), external),
    }
    stateless(findings, "multiadmin", &resolved.multiadmin);
    stateless(findings, "multiadminWeb", &resolved.multiadmin_web);
    let at = At::Root("cells");
    for cell in &resolved.cells {
        check_cell(findings, &at.key(&cell.name), cell);
    }
    backup::check(findings, &At::Root("backup"), &resolved.backup);
}

fn stateless(findings: &mut Findings<'_>, name: &str, component: &ResolvedStateless) {
    let at = At::Root(name);
    findings.fields(&at, &component.spec);
    resource::resources(findings, &at, component.spec.resources.as_ref());
    if let Some(placement) = &component.placement {
        findings.fields(&at.field("placement"), placement);
    }
}

fn check_cell(findings: &mut Findings<'_>, at: &At<'_>, cell: &CellSpec) {
    findings.fields(at, cell);
    gateway(findings, &at.field("multigateway"), &cell.multigateway, true);
    if let Some(local) = &cell.topo_server {
        local_topology(findings, &at.field("localTopoServer"), local);
    }
}

/// A cell's own topology.
pub fn local_topology(findings: &mut Findings<'_>, at: &At<'_>, local: &LocalTopoServerSpec) {
    if let Some(etcd) = &local.etcd {
        resource::etcd(findings, &at.field("etcd"), etcd);
    }
    if let Some(external) = &local.external {
        findings.fields(&at.field("external"), external);
    }
}

/// What fields of a gateway say together; `complete` when nothing can be added by another level.
pub fn gateway(findings: &mut Findings<'_>, at: &At<'_>, gateway: &MultigatewaySpec, complete: bool) {
    resource::resources(findings, at, gateway.resources.as_ref());
    if let Some(buffer) = &gateway.buffer {
        buffering(findings, &at.field("buffer"), buffer, complete);
    }
}

/// Durations of buffering; nothing to judge while it is off.
fn buffering(findings: &mut Findings<'_>, at: &At<'_>, buffer: &BufferConfig, complete: bool) {
    if buffer.enabled == Some(false) {
        return;
    }
    // What cannot be read or is negative has been reported with the field.
    let mut read = |name: &str, text: Option<&str>| -> Option<i128> {
        let text = text?;
        let value = duration::parse(text).filter(|value| *value >= 0)?;
        if value == 0 {
            findings.invalid(&at.field(name), text, "must be more than zero; write a duration such as 20s");
            return None;
        }
        Some(value)
    };
    let window = read("window", buffer.window.as_deref());
    let longest = read("maxFailoverDuration", buffer.max_failover_duration.as_deref());
    let or_default = |value: Option<i128>, text: &Option<String>, default: &str| {
        value.or_else(|| (complete && text.is_none()).then(|| duration::parse(default)).flatten())
    };
    if buffer.window.is_none() && buffer.max_failover_duration.is_none() {
        return;
    }
    let shown = |text: &Option<String>, default: &str| match text {
        Some(text) => text.clone(),
        None => format!("{default} (the default)"),
    };
    if let (Some(window), Some(longest)) = (
        or_default(window, &buffer.window, limits::BUFFER_WINDOW),
        or_default(longest, &buffer.max_failover_duration, limits::BUFFER_MAX_FAILOVER),
    ) && window > longest
    {
        findings.invalid(
            &at.field("window"),
            shown(&buffer.window, limits::BUFFER_WINDOW),
            format!(
                "must not be longer than maxFailoverDuration, which is {}; shorten it or raise maxFailoverDuration",
                shown(&buffer.max_failover_duration, limits::BUFFER_MAX_FAILOVER)
            ),
        );
    }
}

/// What the resolver noticed.
pub fn notices(findings: &mut Findings<'_>, resolved: &ResolvedCluster) {
    for notice in &resolved.notices {
        match notice {
            Notice::NoCells => {
                findings.warn(
                    &At::Root("cells"),
                    "there are no cells, so nothing serves (condition NoCells); add at least one",
                );
            }
            Notice::CellLocalRepository { shard, cells } => findings.warn(
                &At::Root(shard).field("backup").field("filesystem").field("scope"),
                format!(
                    "each of the {} cells has its own repository, so standbys outside the primary's cell can never \
                     join; use type s3, or scope Shard with a class that spans cells",
                    cells.len()
                ),
            ),
            Notice::PoolNotInTemplate { pool, template } => {
                findings.warn(&At::Root(pool), format!("template {template:?} has no such pool, so a new one is made"));
            }
            Notice::MixedDurability { database } => findings.warn(
                &At::Root("databases").key(database),
                "its shards ask for different durability policies; the topology record carries the strictest",
            ),
        }
    }
}
