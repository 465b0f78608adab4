//! The objects of our own kinds that a cluster is made of: TopoServer, Cells, TableGroups.

use shared::{
    annotation,
    api::v1alpha1::{Cell, CellSpec, TableGroup, TableGroupSpec, TopoServer, TopoServerSpec},
    label,
    label::Component,
    name,
};

use super::intent::Annotations;
use crate::workload::owner::{Owner, annotations};

/// The cluster's own topology server.
pub fn topo_server(owner: &Owner, spec: &TopoServerSpec, pinned: &Annotations) -> TopoServer {
    let labels = label::of_cluster(&owner.name, Component::GlobalTopo);
    let mut metadata = owner.meta(name::global_topo(&owner.name), labels);
    metadata.annotations = annotations(pinned.clone());
    TopoServer { metadata, spec: spec.clone(), status: None }
}

/// A cell.
pub fn cell(owner: &Owner, project: Option<&str>, spec: &CellSpec, pinned: &Annotations) -> Cell {
    let labels = label::of_cell(&owner.name, &spec.name, Component::Cell);
    let mut metadata = owner.meta(name::cell(&owner.name, &spec.name), labels);
    metadata.annotations = annotations(marked(project, pinned));
    Cell { metadata, spec: spec.clone(), status: None }
}

/// A table group, which hands the user's `words` down to its shards.
pub fn table_group(
    owner: &Owner,
    project: Option<&str>,
    words: &Annotations,
    spec: &TableGroupSpec,
    pinned: &Annotations,
) -> TableGroup {
    let labels = label::of_table_group(&owner.name, &spec.database_name, &spec.table_group_name);
    let name = name::table_group(&owner.name, &spec.database_name, &spec.table_group_name);
    let mut metadata = owner.meta(name, labels);
    let mut handed_down = marked(project, pinned);
    handed_down.extend(words.clone());
    metadata.annotations = annotations(handed_down);
    TableGroup { metadata, spec: spec.clone(), status: None }
}

fn marked(project: Option<&str>, pinned: &Annotations) -> Annotations {
    let project = project.filter(|project| !project.is_empty());
    let project = project.map(|project| (annotation::PROJECT_REF.to_owned(), project.to_owned()));
    project.into_iter().chain(pinned.clone()).collect()
}
