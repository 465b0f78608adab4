//! Where the topology of a cluster lies: it stays there, and no two clusters have theirs in one place. Pure.
//!
//! Admission refuses what would move a topology; here it is looked at once more, because admission may be absent. That two clusters want the
//! same place is seen only here. No record tells whose it is, so each of them would take the poolers of the other for its own, count them,
//! mark those without a pod as shut down, and take all of them along when it goes.

use jiff::Timestamp;
use kube::ResourceExt as _;
use shared::{
    api::v1alpha1::{CellConfig, ExternalTopoServerSpec, GlobalTopoServerRef, LocalTopoServerSpec, MultigresCluster},
    name,
    resolve::{GlobalTopo, ResolvedCluster, defaults},
    validate::{Keeper, own_root, topology_stays},
};

use super::{Observed, Refusal};
use crate::{stores::Stores, upstream::TopoAddress, workload::owner::Owner};

/// Reason of a refusal because a topology would move.
pub(super) const CANNOT_MOVE: &str = "TopologyCannotMove";
/// Reason of a refusal because another cluster has its records there.
pub(super) const IN_USE: &str = "TopologyInUse";

/// What speaks against a spec because of the places that it names.
pub(super) fn refusals(observed: &Observed, resolved: &ResolvedCluster, stores: &Stores) -> Vec<Refusal> {
    let moves = moved(observed, resolved);
    if moves.is_empty() { taken(observed, resolved, stores).into_iter().collect() } else { moves }
}

/// Whether another cluster has its records in a place that this one names.
pub(super) fn is_contested(observed: &Observed) -> bool {
    observed.resolved.as_ref().is_err_and(|refusals| refusals.iter().any(|refusal| refusal.reason == IN_USE))
}

/// How the children of the cluster were told to reach its topology.
pub(super) fn told(observed: &Observed) -> Option<&GlobalTopoServerRef> {
    let cell = observed.cells.iter().find(|cell| observed.owner.controls(cell.as_ref()));
    let group = || observed.table_groups.iter().find(|group| observed.owner.controls(group.as_ref()));
    cell.map(|cell| &cell.spec.global_topo_server).or_else(|| group().map(|group| &group.spec.global_topo_server))
}

/// Whether a topology is in the cluster's own etcd.
pub(super) fn is_own(owner: &Owner, reference: &GlobalTopoServerRef) -> bool {
    let own = format!("{}.{}.svc:", name::global_topo(&owner.name), owner.namespace);
    TopoAddress::new([&reference.address], "").endpoints.iter().any(|endpoint| endpoint.starts_with(&own))
}

/// What of a spec would move a topology away from where the children were told that it is.
fn moved(observed: &Observed, resolved: &ResolvedCluster) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if let Some(told) = told(observed) {
        let was = if is_own(&observed.owner, told) { Keeper::Operator } else { Keeper::Others };
        let (is, section) = match &resolved.global_topo {
            GlobalTopo::Managed(_) => (Keeper::Operator, "etcd"),
            GlobalTopo::External(_) => (Keeper::Others, "external"),
        };
        let root = resolved.global_topo_ref.root_path.as_str();
        if was != is {
            refusals.push(cannot_move("globalTopoServer", &was.to_string(), &is.to_string()));
        } else if told.root_path != root {
            refusals.push(cannot_move(&format!("globalTopoServer.{section}.rootPath"), &told.root_path, root));
        }
    }
    for spec in &resolved.cells {
        let Some(live) = observed.cell(&spec.name).filter(|live| observed.owner.controls(*live)) else { continue };
        let (before, after) = (live.spec.topo_server.as_ref(), spec.topo_server.as_ref());
        let (was, is) = (Keeper::of_cell(before), Keeper::of_cell(after));
        let field = || format!("cells[{}].localTopoServer", spec.name);
        if was != is {
            refusals.push(cannot_move(&field(), &was.to_string(), &is.to_string()));
        } else if let (Some((section, was)), Some((_, is))) = (before.and_then(root_of), after.and_then(root_of))
            && was != is
        {
            refusals.push(cannot_move(&format!("{}.{section}.rootPath", field()), was, is));
        }
    }
    refusals
}

fn cannot_move(field: &str, was: &str, is: &str) -> Refusal {
    Refusal { reason: CANNOT_MOVE.to_owned(), message: format!("{field}: {is:?}: {}", topology_stays(was)) }
}

/// The root of a cell's own topology, and the section that it stands in.
fn root_of(local: &LocalTopoServerSpec) -> Option<(&'static str, &str)> {
    let external = local.external.as_ref().and_then(|external| Some(("external", external.root_path.as_deref()?)));
    external.or_else(|| Some(("etcd", local.etcd.as_ref()?.root_path.as_deref()?)))
}

/// A part of an etcd that somebody else runs.
struct Place<'a> {
    /// The field that names it.
    field: String,
    /// The etcd.
    external: &'a ExternalTopoServerSpec,
    /// Start of all keys.
    root: &'a str,
    /// Whether it is that of a cell.
    local: bool,
}

impl<'a> Place<'a> {
    fn of(field: String, external: &'a ExternalTopoServerSpec, local: bool) -> Self {
        Self { field, external, root: external.root_path.as_deref().unwrap_or_default(), local }
    }

    /// Whether another section names the same place; `default` is the root where it gives none.
    fn is(&self, other: &ExternalTopoServerSpec, default: &str) -> bool {
        let is_theirs = |mine: &String| other.endpoints.iter().any(|theirs| server(mine) == server(theirs));
        // Most clusters have roots of their own, which is quickly seen.
        same_path(self.root, own_root(other).unwrap_or(default)) && self.external.endpoints.iter().any(is_theirs)
    }
}

/// Whether two roots are the start of the same keys: slashes at the end, and those that are repeated, do not count.
fn same_path(one: &str, other: &str) -> bool {
    fn parts(path: &str) -> impl Iterator<Item = &str> {
        path.split('/').filter(|part| !part.is_empty())
    }
    one.starts_with('/') == other.starts_with('/') && parts(one).eq(parts(other))
}

/// An endpoint without what leads to the same server under another spelling: the scheme, and the domain behind the name of a Service.
fn server(endpoint: &str) -> String {
    let address = endpoint.split_once("://").map_or(endpoint, |(_, address)| address).trim_end_matches('/');
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = format!("{}.", host.trim_end_matches('.').to_ascii_lowercase());
    let host = host.split_once(".svc.").map_or(host.as_str(), |(service, _)| service);
    format!("{}:{port}", host.trim_end_matches('.'))
}

/// Another cluster whose records are in a place that this one names, or will be.
///
/// Whoever has begun in a place keeps it, and of those that have not the older one gets it, so that both come to the same answer. A cluster
/// that has cells has been through this. When it goes it is looked at again: then it takes along whatever is there.
fn taken(observed: &Observed, resolved: &ResolvedCluster, stores: &Stores) -> Option<Refusal> {
    let me = &*observed.cluster;
    let deleting = me.metadata.deletion_timestamp.is_some();
    let begun = observed.cells.iter().any(|cell| observed.owner.controls(cell.as_ref()));
    if begun && !deleting {
        return None;
    }
    let places = wanted(resolved);
    if places.is_empty() {
        return None;
    }
    let is_me = |other: &MultigresCluster| {
        (&other.metadata.namespace, &other.metadata.name) == (&me.metadata.namespace, &me.metadata.name)
    };
    let before_me = |other: &MultigresCluster| {
        let begun = !stores.cells.of_cluster(&other.namespace().unwrap_or_default(), &other.name_any()).is_empty();
        let older = age(other) < age(me);
        let goes = other.metadata.deletion_timestamp.is_some();
        if deleting { begun && (older || !goes) } else { begun || older }
    };
    let all = stores.clusters.all();
    let others = all.iter().map(|other| &**other).filter(|other| !is_me(other));
    let rivals = others.filter_map(|other| Some((other, places.iter().find(|place| holds(stores, other, place))?)));
    // The same one is named each time.
    let (other, place) = rivals.filter(|(other, _)| before_me(other)).min_by_key(|(other, _)| age(other))?;
    let message = format!(
        "{}: cluster {}/{} has its records in the same etcd below the same rootPath {}, and each would take the other's poolers for its \
         own; make this cluster anew with a rootPath of its own",
        place.field,
        other.namespace().unwrap_or_default(),
        other.name_any(),
        place.root,
    );
    Some(Refusal { reason: IN_USE.to_owned(), message })
}

fn age(cluster: &MultigresCluster) -> (Option<Timestamp>, Option<String>, String) {
    let created = cluster.metadata.creation_timestamp.as_ref().map(|created| created.0);
    (created, cluster.namespace(), cluster.name_any())
}

/// The places that a cluster wants.
fn wanted(resolved: &ResolvedCluster) -> Vec<Place<'_>> {
    let mut places = Vec::new();
    if let GlobalTopo::External(external) = &resolved.global_topo {
        places.push(Place::of("globalTopoServer.external".to_owned(), external, false));
    }
    for cell in &resolved.cells {
        if let Some(external) = cell.topo_server.as_ref().and_then(|local| local.external.as_ref()) {
            places.push(Place::of(format!("cells[{}].localTopoServer.external", cell.name), external, true));
        }
    }
    places
}

/// Whether another cluster names a place itself, or its cells were told of it.
fn holds(stores: &Stores, other: &MultigresCluster, place: &Place<'_>) -> bool {
    let global = other.spec.global_topo_server.as_ref().and_then(|topology| topology.external.as_ref());
    if global.is_some_and(|external| place.is(external, defaults::GLOBAL_ROOT)) {
        return true;
    }
    let local = |cell: &str, local: Option<&LocalTopoServerSpec>| {
        let external = local.and_then(|local| local.external.as_ref());
        external.is_some_and(|external| place.is(external, &defaults::local_root(cell)))
    };
    let named =
        |cell: &CellConfig| local(&cell.name, cell.spec.as_ref().and_then(|spec| spec.local_topo_server.as_deref()));
    // What a template says shows in the cells that were made by it.
    let told = || stores.cells.of_cluster(&other.namespace().unwrap_or_default(), &other.name_any());
    other.spec.cells.iter().any(named)
        || (place.local && told().iter().any(|cell| local(&cell.spec.name, cell.spec.topo_server.as_ref())))
}
