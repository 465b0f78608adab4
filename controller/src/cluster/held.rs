//! Keeps what exists of a cluster whose spec is not carried out: a rule is broken, or a template that it names is gone.
//!
//! Every child holds a packed copy of the spec that it was given last, so what somebody changes in one meanwhile is put back from the
//! child itself. A child that is deleted takes its copy along: it comes back once the spec is accepted again. While it is only
//! templates that are missing, Services are kept as well, which come from the cluster's own words alone, and the pods of the management
//! plane; how many of these there are stays as it is, since a template may have said it.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::{Serialize, de::DeserializeOwned};
use shared::api::v1alpha1::{CellSpec, MultigresClusterStatus, TableGroupSpec, TopoServerSpec};

use super::{
    Observed, Refusal, admin, children, deployments, gateway,
    intent::{Annotations, Part},
};
use crate::{
    error::Error,
    plan::Plan,
    workload::{revision, want},
};

/// Reason of a refusal because of a template that is not there.
const TEMPLATE_MISSING: &str = "TemplateMissing";

/// Writes that put back what was accepted last.
pub fn keep(observed: &Observed, refusals: &[Refusal], plan: &mut Plan<MultigresClusterStatus>) -> Result<(), Error> {
    let (owner, spec) = (&observed.owner, &observed.cluster.spec);
    if let Some(live) = observed.global_topo()
        && let Some((spec, pinned)) = last::<TopoServerSpec, _>(observed, live)
    {
        want(plan, "Kept", &children::topo_server(owner, &spec, &pinned))?;
    }
    for live in observed.cells.iter().filter(|live| spec.cells.iter().any(|cell| cell.name == live.spec.name)) {
        let kept = last::<CellSpec, _>(observed, &**live);
        if let Some((mut cell, pinned)) = kept.filter(|(cell, _)| cell.name == live.spec.name) {
            // The names of the neighbours are no part of the copy.
            cell.all_cells = spec.cells.iter().map(|cell| cell.name.clone()).collect();
            want(plan, "Kept", &children::cell(owner, observed.project(), &cell, &pinned))?;
        }
    }
    for live in &observed.table_groups {
        if let Some((group, pinned)) = last::<TableGroupSpec, _>(observed, &**live) {
            let group = children::table_group(owner, observed.project(), &observed.words(), &group, &pinned);
            if group.metadata.name == live.metadata.name {
                want(plan, "Kept", &group)?;
            }
        }
    }
    let templates_alone = refusals.iter().all(|refusal| refusal.reason == TEMPLATE_MISSING);
    if templates_alone && holds_any(observed) {
        want(plan, "Kept", &gateway::primary_service(owner, spec.external_gateway.as_ref()))?;
        want(plan, "Kept", &gateway::replica_service(owner))?;
        want(plan, "Kept", &admin::service(owner))?;
        management(observed, plan)?;
        want(plan, "Kept", &admin::web_service(owner, spec.external_admin_web.as_ref()))?;
    }
    Ok(())
}

/// The Deployments of the management plane with the pods that they were given last.
fn management(observed: &Observed, plan: &mut Plan<MultigresClusterStatus>) -> Result<(), Error> {
    let Some(own) = observed.own.as_deref() else { return Ok(()) };
    let (admin, web) = deployments(observed, own);
    for (part, mut fresh) in [(Part::Admin, admin), (Part::Web, web)] {
        let Some(live) = part.live(observed).filter(|live| observed.owner.controls(*live)) else { continue };
        let (Some(kept), Some(spec)) = (revision::kept::<PodTemplateSpec>(&live.metadata), fresh.spec.as_mut()) else {
            continue;
        };
        spec.template = kept.rendering;
        spec.replicas = live.spec.as_ref().and_then(|spec| spec.replicas);
        fresh.metadata.annotations.get_or_insert_default().extend(kept.annotations);
        want(plan, "Kept", &fresh)?;
    }
    Ok(())
}

/// Whether anything was made of the cluster before.
pub fn holds_any(observed: &Observed) -> bool {
    observed.global_topo().is_some() || !observed.cells.is_empty() || !observed.table_groups.is_empty()
}

/// What the cluster had when it was told of last, and is gone.
pub fn not_repaired(observed: &Observed) -> Vec<String> {
    if !holds_any(observed) {
        return Vec::new();
    }
    let status = observed.cluster.status.as_ref();
    let spec = &observed.cluster.spec.cells;
    let cells = status.into_iter().flat_map(|status| status.cells.keys());
    let gone = |cell: &&String| spec.iter().any(|named| named.name == **cell) && observed.cell(cell).is_none();
    let mut all: Vec<String> = cells.filter(gone).map(|cell| format!("cell {cell}")).collect();
    let databases = status.into_iter().flat_map(|status| status.databases.keys());
    let empty = |database: &&String| !observed.table_groups.iter().any(|live| live.spec.database_name == **database);
    all.extend(databases.filter(empty).map(|database| format!("the table groups of database {database}")));
    all
}

/// What a live child was given last, and the annotations that keep it.
fn last<S, K>(observed: &Observed, live: &K) -> Option<(S, Annotations)>
where
    S: Serialize + DeserializeOwned,
    K: kube::Resource<DynamicType = ()>,
{
    let meta = live.meta();
    let stays = meta.deletion_timestamp.is_none() && observed.owner.controls(live);
    let kept = revision::kept::<S>(meta).filter(|_| stays)?;
    let mut pinned = kept.annotations;
    pinned.extend(observed.adopted.adoption().told());
    Some((kept.rendering, pinned))
}
