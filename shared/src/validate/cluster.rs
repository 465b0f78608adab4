//! Rules of the cluster level: the global topology, the admin service, the cells with their gateways.

use crate::api::v1alpha1::{BufferConfig, CellSpec, ExternalTopoServerSpec, LocalTopoServerSpec, MultigatewaySpec};
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
    certificates(findings, resolved);
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

/// A component of the data plane has one set of certificates for all topology servers that it talks to, the global one and
/// those of the cells: the one that the global topology names.
fn certificates(findings: &mut Findings<'_>, resolved: &ResolvedCluster) {
    let none = ExternalTopoServerSpec::default();
    let global = match &resolved.global_topo {
        GlobalTopo::External(external) => {
            let at = At::Root("globalTopoServer.external");
            authority(findings, &at, external, external);
            unused_certificates(findings, &at, external);
            external
        }
        GlobalTopo::Managed(_) => &none,
    };
    let cells = At::Root("cells");
    for cell in &resolved.cells {
        let Some(local) = cell.topo_server.as_ref().and_then(|local| local.external.as_ref()) else { continue };
        let cell = cells.key(&cell.name);
        let topology = cell.field("localTopoServer");
        let at = topology.field("external");
        for (field, own, shared) in [
            ("caSecret", &local.ca_secret, &global.ca_secret),
            ("clientCertSecret", &local.client_cert_secret, &global.client_cert_secret),
        ] {
            let own = own.as_deref().unwrap_or_default();
            let shared = shared.as_deref().unwrap_or_default();
            if !own.is_empty() && own != shared {
                let remedy = if shared.is_empty() {
                    format!("which names no {field}; name it there, too, or leave it out here")
                } else {
                    format!("which names {shared:?}; name the same here, or leave it out")
                };
                let message = format!(
                    "the data plane takes one set of certificates for all topology servers, that of globalTopoServer.external, \
                     {remedy}"
                );
                findings.forbidden(&at.field(field), own, message);
            }
        }
        authority(findings, &at, local, global);
    }
}

/// Whoever speaks TLS has to know whom to trust.
fn authority(
    findings: &mut Findings<'_>,
    at: &At<'_>,
    server: &ExternalTopoServerSpec,
    trusted: &ExternalTopoServerSpec,
) {
    let names = |server: &ExternalTopoServerSpec| server.ca_secret.as_ref().is_some_and(|secret| !secret.is_empty());
    if server.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) && !names(server) && !names(trusted) {
        let message = "no authority is named for the https:// endpoints, so only certificates of public authorities that the \
                       images know are trusted; name a Secret with the key ca.crt";
        findings.warn(&at.field("caSecret"), message);
    }
}

/// Certificates are for TLS alone.
fn unused_certificates(findings: &mut Findings<'_>, at: &At<'_>, server: &ExternalTopoServerSpec) {
    if server.endpoints.iter().any(|endpoint| !endpoint.starts_with("http://")) {
        return;
    }
    for (field, secret) in [("caSecret", &server.ca_secret), ("clientCertSecret", &server.client_cert_secret)] {
        if secret.as_ref().is_some_and(|secret| !secret.is_empty()) {
            findings.warn(&at.field(field), "is not used, because every endpoint begins with http://; write https://");
        }
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
