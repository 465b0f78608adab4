//! Cells that the spec no longer names: each is drained, unregistered from the topology and then deleted, one step per pass.
//!
//! The Cell itself says when nothing of the data plane is left in it; this module checks that against what the cluster sees,
//! so that a word from an earlier, called-off removal is never taken for a new one.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::json;
use shared::{
    annotation,
    api::v1alpha1::{Cell, MultigresClusterStatus},
    condition,
    resolve::ResolvedCluster,
};

use super::{Observed, topology::Sight};
use crate::{
    cell::leaving as cell,
    plan::{Action, Note, Plan, Target, TopoWrite},
    upstream::{DatabaseRecord, TopoAddress},
};

/// A cell on its way out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Leaving<'a> {
    /// The live object.
    pub cell: &'a Cell,
    /// What comes next.
    pub step: Step,
}

/// What comes next for a cell on its way out.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// It has to be told.
    Ask,
    /// Something of the data plane is still in it.
    Drain(String),
    /// The topology has to be asked first, and does not answer.
    AwaitTopology,
    /// A database of the topology still lists it.
    AwaitDatabase(String),
    /// Its records have to go.
    Unregister(Vec<TopoWrite>),
    /// Nothing refers to it any more.
    Delete,
    /// It is being deleted.
    Going,
}

impl Step {
    /// Reason and text of the condition.
    pub fn explain(&self) -> (&'static str, &str) {
        match self {
            Self::Ask => ("Draining", "is asked to drain"),
            Self::Drain(why) => ("Draining", why),
            Self::AwaitTopology => ("TopologyNotAnswering", "is drained and waits for the topology to be unregistered"),
            Self::AwaitDatabase(why) => ("Unregistering", why),
            Self::Unregister(_) => ("Unregistering", "is drained and being unregistered from the topology"),
            Self::Delete | Self::Going => ("Deleting", "is drained and unregistered, and being deleted"),
        }
    }

    /// Whether poolers of the cell may still serve, so that the databases have to list it.
    fn inhabited(&self) -> bool {
        matches!(self, Self::Ask | Self::Drain(_))
    }
}

/// All cells on their way out, in the order of their objects' names.
pub(super) fn cells<'a>(observed: &'a Observed, resolved: &ResolvedCluster, now: Timestamp) -> Vec<Leaving<'a>> {
    observed
        .removed_cells()
        .into_iter()
        .map(|live| Leaving { cell: live, step: step(observed, resolved, live, now) })
        .collect()
}

/// Cells that the databases list on top of those in the spec, as long as their poolers may serve.
pub(super) fn inhabited<'a>(observed: &'a Observed, resolved: &ResolvedCluster, now: Timestamp) -> Vec<&'a str> {
    let inhabited = cells(observed, resolved, now).into_iter().filter(|leaving| leaving.step.inhabited());
    inhabited.map(|leaving| leaving.cell.spec.name.as_str()).collect()
}

fn step(observed: &Observed, resolved: &ResolvedCluster, live: &Cell, now: Timestamp) -> Step {
    if live.metadata.deletion_timestamp.is_some() {
        return Step::Going;
    }
    if !cell::is_asked(live) {
        return Step::Ask;
    }
    let name = live.spec.name.as_str();
    let held = cell::tenants(&observed.shards, name)
        .or_else(|| cell::residents(&observed.pods, name, now))
        .or_else(|| cell::debtors(&observed.shards, name));
    if let Some(why) = held {
        return Step::Drain(why);
    }
    let conditions = live.status.as_ref().map_or(&[][..], |status| &status.conditions);
    match condition::find(conditions, cell::READY_FOR_DELETION) {
        Some(ready) if ready.status == "True" => {}
        Some(not_yet) => return Step::Drain(not_yet.message.clone()),
        None => return Step::Drain("is asked to drain".to_owned()),
    }
    // What another cluster needs, too, is not removed.
    if !resolved.topology_pruning || observed.leftovers.strangers {
        return Step::Delete;
    }
    let Sight::Seen { cells, databases } = &observed.topology else { return Step::AwaitTopology };
    let lists = |database: &&DatabaseRecord| database.cells.iter().any(|cell| cell == name);
    if let Some(database) = databases.records.iter().find(lists) {
        return Step::AwaitDatabase(format!("is drained and still listed by database {}", database.name));
    }
    let registered = cells.records.iter().any(|record| record.name == name);
    let poolers = observed.leftovers.poolers.iter().filter(|pooler| pooler.cell == name && registered);
    let mut writes: Vec<TopoWrite> = poolers.cloned().map(TopoWrite::DeletePooler).collect();
    if registered {
        writes.push(TopoWrite::DeleteCell(name.to_owned()));
    }
    if writes.is_empty() { Step::Delete } else { Step::Unregister(writes) }
}

/// The writes of the next steps. Cells that are drained first do not wait for the others.
pub(super) fn carry_out(
    observed: &Observed,
    resolved: &ResolvedCluster,
    at: &TopoAddress,
    now: Timestamp,
    plan: &mut Plan<MultigresClusterStatus>,
) {
    for Leaving { cell, step } in cells(observed, resolved, now) {
        let name = &cell.spec.name;
        match step {
            Step::Ask => {
                let Some(target) = Target::of(cell) else { continue };
                let at = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
                let patch = json!({ "metadata": { "annotations": { annotation::PENDING_DELETION: at } } });
                plan.write("CellRemoved", Action::Merge { target, patch });
                let message =
                    format!("cell {name} is no longer in the spec; it is drained, unregistered and then deleted");
                plan.notes.push(Note::normal("PendingDeletion", message));
            }
            Step::Unregister(writes) => {
                for write in writes {
                    plan.write("CellRemoved", Action::Topology { at: at.clone(), write });
                }
            }
            Step::Delete => {
                if let Some(target) = Target::of(cell) {
                    plan.write("CellRemoved", Action::Delete(target));
                    let message = format!("cell {name} is drained and unregistered; its object is deleted");
                    plan.notes.push(Note::normal("CellDeleted", message));
                }
            }
            Step::Drain(_) | Step::AwaitTopology | Step::AwaitDatabase(_) | Step::Going => {}
        }
    }
}

/// Calls off the removal of a cell that the spec names again. A Cell that is already being deleted is past that: `false`, and its
/// successor comes after it.
pub(super) fn keep(live: Option<&Cell>, plan: &mut Plan<MultigresClusterStatus>) -> bool {
    let Some(live) = live else { return true };
    if live.metadata.deletion_timestamp.is_some() {
        return false;
    }
    if live.annotations().contains_key(annotation::PENDING_DELETION)
        && let Some(target) = Target::of(live)
    {
        let patch = json!({ "metadata": { "annotations": { annotation::PENDING_DELETION: null } } });
        plan.write("CellWantedAgain", Action::Merge { target, patch });
        let message = format!("cell {} is in the spec again; its removal is called off", live.spec.name);
        plan.notes.push(Note::normal("RemovalCalledOff", message));
    }
    true
}

/// Records that nobody can need: of cells and databases that the cluster's own topology holds and that neither the spec nor any
/// live Cell knows. Never asked of a topology that others may use.
pub(super) fn stale(observed: &Observed, resolved: &ResolvedCluster) -> Vec<TopoWrite> {
    let Sight::Seen { cells, databases } = &observed.topology else { return Vec::new() };
    if !resolved.topology_pruning || observed.external_topology.is_some() {
        return Vec::new();
    }
    let kept: BTreeSet<&str> = resolved
        .cells
        .iter()
        .map(|cell| cell.name.as_str())
        .chain(observed.cells.iter().map(|cell| cell.spec.name.as_str()))
        .collect();
    let (unknown, known): (Vec<_>, Vec<_>) = databases
        .records
        .iter()
        .partition(|record| !resolved.databases.iter().any(|database| database.name == record.name));
    let unused =
        cells.records.iter().map(|record| &record.name).filter(|name| {
            !kept.contains(name.as_str()) && !known.iter().any(|database| database.cells.contains(name))
        });
    let mut writes: Vec<TopoWrite> =
        unknown.iter().map(|record| TopoWrite::DeleteDatabase(record.name.clone())).collect();
    writes.extend(unused.map(|name| TopoWrite::DeleteCell(name.clone())));
    writes
}
