//! Cells: template, then overrides, then inline settings, then defaults.

use std::collections::BTreeMap;

use crate::api::v1alpha1::{
    CellConfig, CellImages, CellSpec, EtcdSpec, LocalTopoServerSpec, MultigatewaySpec, MultigresClusterSpec,
    PodPlacementSpec, TopologyReconciliation,
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

    // Filled in place, for it is large.
    let mut cell = CellSpec {
        name: config.name.clone(),
        zone: config.zone.clone(),
        zone_id: config.zone_id.clone(),
        region: config.region.clone(),
        ..CellSpec::default()
    };
    let gateway = at.field("multigateway");
    let mut lay = |upper: Option<&MultigatewaySpec>, placement: &Option<PodPlacementSpec>, source: &Source| {
        if let Some(upper) = upper {
            provenance.overlay(&mut cell.multigateway, upper, &gateway, source);
        }
        provenance.replace(&mut cell.multigateway_placement, placement, &at.field("multigatewayPlacement"), source);
    };
    let mut local = None;
    if let Some(selected) = &selected {
        lay(selected.spec.multigateway.as_ref(), &selected.spec.multigateway_placement, &selected.source);
        local = selected.spec.local_topo_server.as_ref().map(|local| (local, selected.source.clone()));
    }
    if let Some(overrides) = &config.overrides {
        lay(overrides.multigateway.as_ref(), &overrides.multigateway_placement, &Source::Overrides);
    }
    if let Some(inline) = &config.spec {
        lay(inline.multigateway.as_ref(), &inline.multigateway_placement, &Source::Inline);
        if let Some(inline) = inline.local_topo_server.as_deref() {
            local = Some((inline, Source::Inline));
        }
    }

    let multigateway = &mut cell.multigateway;
    provenance.fill(&mut multigateway.replicas, &gateway, "replicas", || defaults::REPLICAS);
    provenance.fill_resources(&mut multigateway.resources, &gateway, defaults::multigateway_resources);
    let buffer = multigateway.buffer.get_or_insert_default();
    provenance.fill(&mut buffer.enabled, &gateway.field("buffer"), "enabled", || true);

    cell.topo_server = local.map(|(local, source)| local_topo(context, config, local, &at, &source));
    cell.topology_reconciliation =
        Some(TopologyReconciliation { register_cell: true, prune_poolers: shared.topology_pruning });
    cell.log_levels = Some(shared.log_levels);
    cell.internal_tls = spec.internal_tls;
    cell.cert_common_name.clone_from(&spec.cert_common_name);
    if !context.provenance.is_quiet() {
        cell.images = CellImages {
            image_pull_policy: Some(shared.image_pull_policy),
            image_pull_secrets: shared.image_pull_secrets.clone(),
            multigateway: shared.images.multigateway.clone(),
        };
        cell.global_topo_server = shared.global_topo_ref.clone();
        cell.all_cells = spec.cells.iter().map(|cell| cell.name.clone()).collect();
        cell.observability.clone_from(&spec.observability);
    }
    cell
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
        core::fill_etcd(provenance, &mut etcd, &at, &context.settings.etcd_image, root);
        let cluster = (context.spec.pvc_deletion_policy, Source::Cluster);
        let own = (given.pvc_deletion_policy, source.clone());
        let chain = if *source == Source::Inline { [own, cluster] } else { [cluster, own] };
        etcd.pvc_deletion_policy = Some(pvc::resolve(provenance, &at, &chain));
        resolved.etcd = Some(etcd);
    }
    resolved
}

/// Where a cell wants to be: the fields that say so, each with the node label that it selects and the value.
pub fn places<'a>(
    cell: &'a CellConfig,
    zone_id_label: &'a str,
) -> impl Iterator<Item = (&'static str, &'a str, &'a str)> {
    [("zone", ZONE_LABEL, &cell.zone), ("zoneId", zone_id_label, &cell.zone_id), ("region", REGION_LABEL, &cell.region)]
        .into_iter()
        .filter_map(|(field, label, value)| Some((field, label, value.as_deref().filter(|value| !value.is_empty())?)))
}

/// Node labels that hold the pods of a cell, by cell; cells without a location are left out.
pub fn topology_labels(spec: &MultigresClusterSpec, settings: &Settings) -> BTreeMap<String, BTreeMap<String, String>> {
    let labels = |cell: &CellConfig| {
        let places = places(cell, &settings.zone_id_label);
        places.map(|(_, label, value)| (label.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>()
    };
    let located = spec.cells.iter().map(|cell| (cell, labels(cell))).filter(|(_, labels)| !labels.is_empty());
    located.map(|(cell, labels)| (cell.name.clone(), labels)).collect()
}
