//! Cells: template, then overrides, then inline settings, then defaults.

use std::collections::BTreeMap;

use crate::api::v1alpha1::{
    CellConfig, CellImages, CellInlineSpec, CellSpec, EtcdSpec, LocalTopoServerSpec, MultigresClusterSpec,
    TopologyReconciliation,
};

use crate::field_path::At;

use super::provenance::Source;
use super::{Context, Settings, Shared, core, defaults, pvc};

/// Node label that a cell's `zone` selects.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Node label that a cell's `region` selects.
pub const REGION_LABEL: &str = "topology.kubernetes.io/region";

/// The spec of the Cell object.
pub fn resolve(context: &mut Context<'_>, config: &CellConfig, shared: &Shared) -> CellSpec {
    let spec = context.spec;
    let cells = At::Root("cells");
    let at = cells.key(&config.name);
    let selected =
        context.templates.cell(config.cell_template.as_deref(), &at.field("cellTemplate"), &mut context.errors);
    let provenance = &mut context.provenance;

    let mut merged = CellInlineSpec::default();
    let mut local = None;
    if let Some(selected) = &selected {
        let template = CellInlineSpec {
            multigateway: selected.spec.multigateway.clone(),
            multigateway_placement: selected.spec.multigateway_placement.clone(),
            local_topo_server: None,
        };
        provenance.overlay(&mut merged, &template, &at, &selected.source);
        local = selected.spec.local_topo_server.as_ref().map(|local| (local, selected.source.clone()));
    }
    if let Some(overrides) = &config.overrides {
        let overrides = CellInlineSpec {
            multigateway: overrides.multigateway.clone(),
            multigateway_placement: overrides.multigateway_placement.clone(),
            local_topo_server: None,
        };
        provenance.overlay(&mut merged, &overrides, &at, &Source::Overrides);
    }
    if let Some(inline) = &config.spec {
        let own = CellInlineSpec { local_topo_server: None, ..inline.clone() };
        provenance.overlay(&mut merged, &own, &at, &Source::Inline);
        if let Some(inline) = &inline.local_topo_server {
            local = Some((inline, Source::Inline));
        }
    }

    let mut multigateway = merged.multigateway.unwrap_or_default();
    let gateway = at.field("multigateway");
    provenance.fill(&mut multigateway.replicas, &gateway, "replicas", || defaults::REPLICAS);
    provenance.fill(&mut multigateway.resources, &gateway, "resources", defaults::multigateway_resources);
    let buffer = multigateway.buffer.get_or_insert_default();
    provenance.fill(&mut buffer.enabled, &gateway.field("buffer"), "enabled", || true);

    let topo_server = local.map(|(local, source)| local_topo(context, config, local, &at, &source));
    CellSpec {
        name: config.name.clone(),
        zone: config.zone.clone(),
        zone_id: config.zone_id.clone(),
        region: config.region.clone(),
        images: CellImages {
            image_pull_policy: Some(shared.image_pull_policy),
            image_pull_secrets: shared.image_pull_secrets.clone(),
            multigateway: shared.images.multigateway.clone(),
        },
        multigateway,
        multigateway_placement: merged.multigateway_placement,
        global_topo_server: shared.global_topo_ref.clone(),
        topo_server,
        all_cells: if context.provenance.is_quiet() {
            Vec::new()
        } else {
            spec.cells.iter().map(|cell| cell.name.clone()).collect()
        },
        topology_reconciliation: Some(TopologyReconciliation {
            register_cell: true,
            prune_poolers: shared.topology_pruning,
        }),
        observability: spec.observability.clone(),
        log_levels: Some(shared.log_levels),
        internal_tls: spec.internal_tls,
        cert_common_name: spec.cert_common_name.clone(),
    }
}

/// A cell's own topology; it comes from one level as a whole, since managed and external exclude each other.
fn local_topo(
    context: &mut Context<'_>,
    config: &CellConfig,
    local: &LocalTopoServerSpec,
    cell: &At<'_>,
    source: &Source,
) -> LocalTopoServerSpec {
    let at = cell.field("localTopoServer");
    let root = || defaults::local_root(&config.name);
    let provenance = &mut context.provenance;
    let mut resolved = LocalTopoServerSpec::default();
    if let Some(external) = &local.external {
        let at = at.field("external");
        let mut external = external.clone();
        provenance.set(&at, source);
        core::fill_external(provenance, &mut external, &at, root);
        if external.endpoints.iter().all(String::is_empty) {
            context.errors.push(super::ResolveError::NoEndpoint { field: format!("{at}.endpoints") });
        }
        resolved.external = Some(external);
    } else if let Some(given) = &local.etcd {
        let at = at.field("etcd");
        let mut etcd = EtcdSpec::default();
        provenance.overlay(&mut etcd, given, &at, source);
        core::fill_etcd(provenance, &mut etcd, &at, root);
        let cluster = (context.spec.pvc_deletion_policy, Source::Cluster);
        let own = (given.pvc_deletion_policy, source.clone());
        let chain = if *source == Source::Inline { [own, cluster] } else { [cluster, own] };
        etcd.pvc_deletion_policy = Some(pvc::resolve(provenance, &at, &chain));
        resolved.etcd = Some(etcd);
    }
    resolved
}

/// Node labels that hold the pods of a cell, by cell; cells without a location are left out.
pub fn topology_labels(spec: &MultigresClusterSpec, settings: &Settings) -> BTreeMap<String, BTreeMap<String, String>> {
    let labels = |cell: &CellConfig| {
        [(ZONE_LABEL, &cell.zone), (settings.zone_id_label.as_str(), &cell.zone_id), (REGION_LABEL, &cell.region)]
            .into_iter()
            .filter_map(|(label, value)| Some((label.to_owned(), value.clone().filter(|value| !value.is_empty())?)))
            .collect::<BTreeMap<_, _>>()
    };
    spec.cells.iter().map(|cell| (cell.name.clone(), labels(cell))).filter(|(_, labels)| !labels.is_empty()).collect()
}
