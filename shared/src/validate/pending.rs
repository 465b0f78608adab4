//! Fields that are accepted because manifests carry them, and that this version does not act on. Nobody should have to find out.

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::api::v1alpha1::{ExternalTopoServerSpec, MultigresClusterSpec};
use crate::field_path::At;
use crate::resolve::{GlobalTopo, ResolvedCluster, defaults};

use super::Findings;

pub fn check(findings: &mut Findings<'_>, spec: &MultigresClusterSpec, resolved: &ResolvedCluster) {
    if spec.image_update_policy.is_some() {
        findings
            .warn(&At::Root("imageUpdatePolicy"), "is not acted on yet: workloads follow the operator's own setting");
    }
    if spec.topology_pruning.is_some_and(|pruning| pruning.enabled == Some(true)) {
        findings
            .warn(&At::Root("topologyPruning.enabled"), "is not acted on yet: records of poolers without a pod stay");
    }
    if let GlobalTopo::External(external) = &resolved.global_topo {
        topology(findings, &At::Root("globalTopoServer.external"), external);
    }
    claims(findings, &At::Root("multiadmin"), resolved.multiadmin.spec.resources.as_ref());
    claims(findings, &At::Root("multiadminWeb"), resolved.multiadmin_web.spec.resources.as_ref());
    let cells = At::Root("cells");
    for cell in &resolved.cells {
        let at = cells.key(&cell.name);
        claims(findings, &at.field("multigateway"), cell.multigateway.resources.as_ref());
        if let Some(external) = cell.topo_server.as_ref().and_then(|local| local.external.as_ref()) {
            topology(findings, &at.field("localTopoServer").field("external"), external);
        }
    }
    let databases = At::Root("databases");
    for database in &resolved.databases {
        let at = databases.key(&database.name);
        let groups = at.field("tablegroups");
        for group in &database.table_groups {
            let at = groups.key(&group.table_group_name);
            let shards = at.field("shards");
            for shard in &group.shards {
                let at = shards.key(&shard.name);
                claims(findings, &at.field("multiorch"), shard.multiorch.resources.as_ref());
                let pools = at.field("pools");
                for (name, pool) in &shard.pools {
                    let at = pools.key(name);
                    for (name, container) in [("postgres", &pool.postgres), ("multipooler", &pool.multipooler)] {
                        let resources = container.as_ref().and_then(|one| one.resources.as_ref());
                        claims(findings, &at.field(name), resources);
                    }
                }
            }
        }
    }
}

fn topology(findings: &mut Findings<'_>, at: &At<'_>, external: &ExternalTopoServerSpec) {
    if external.implementation.as_deref().is_some_and(|given| given != defaults::TOPO_IMPLEMENTATION) {
        let message = format!("the operator itself speaks only {:?}", defaults::TOPO_IMPLEMENTATION);
        findings.warn(&at.field("implementation"), message);
    }
}

fn claims(findings: &mut Findings<'_>, at: &At<'_>, resources: Option<&ResourceRequirements>) {
    if resources.is_some_and(|resources| resources.claims.as_ref().is_some_and(|claims| !claims.is_empty())) {
        let message = "pods declare no resource claims yet, so those that ask for one are refused; remove it";
        findings.warn(&at.field("resources").field("claims"), message);
    }
}
