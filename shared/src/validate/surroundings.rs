//! Rules about what the Kubernetes cluster has: StorageClasses and node labels.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::v1alpha1::{BackupConfig, BackupType, MultigresClusterSpec, StorageSpec};
use crate::field_path::At;
use crate::resolve::{self, GlobalTopo, ResolvedCluster};

use super::{Findings, reason};

/// What is known of the Kubernetes cluster; rules that need what is not known are skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Its StorageClasses.
    pub storage_classes: Option<StorageClasses>,
    /// The labels of its nodes.
    pub nodes: Option<NodeLabels>,
}

/// The StorageClasses that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageClasses {
    /// Their names.
    pub names: BTreeSet<String>,
    /// Whether one of them is the default.
    pub has_default: bool,
}

/// The values that nodes carry, by label key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeLabels(pub BTreeMap<String, BTreeSet<String>>);

pub fn check(
    findings: &mut Findings<'_>,
    resolved: &ResolvedCluster,
    before: Option<&ResolvedCluster>,
    around: &Surroundings,
) {
    if let Some(classes) = &around.storage_classes {
        storage(findings, resolved, before, classes);
    }
}

/// Every volume gets a class: the one that it names, or the default one.
fn storage(
    findings: &mut Findings<'_>,
    resolved: &ResolvedCluster,
    before: Option<&ResolvedCluster>,
    classes: &StorageClasses,
) {
    // A volume that was there before without a class has one by now, so an edit elsewhere is not refused for it.
    let mut settled = BTreeSet::new();
    if let (Some(before), false) = (before, classes.has_default) {
        volumes(before, &mut |at, storage| {
            if class(storage).is_none() {
                settled.insert(at.to_string());
            }
        });
    }
    let mut unknown = BTreeSet::new();
    volumes(resolved, &mut |at, storage| match class(storage) {
        Some(class) if classes.names.contains(class) => {}
        Some(class) => {
            if unknown.insert(class.to_owned()) {
                let message = format!("there is no StorageClass {class:?}; volumes stay Pending until it exists");
                findings.warn(&at.field("class"), message);
            }
        }
        None if classes.has_default => {}
        None if settled.contains(&at.to_string()) => {
            findings.warn(
                &at.field("class"),
                "the Kubernetes cluster has no default StorageClass any more; new volumes stay Pending",
            );
        }
        None => findings.error(
            &at.field("class"),
            reason::REQUIRED,
            "",
            "the Kubernetes cluster has no default StorageClass; name one here, or mark one with the annotation \
             storageclass.kubernetes.io/is-default-class=true",
        ),
    });
}

/// A StorageClass that volumes need and that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingClass {
    /// Its name; none where the default class is needed and there is none.
    pub class: Option<String>,
    /// Path of the first field that needs it.
    pub field: String,
}

/// The StorageClasses that a cluster needs and that do not exist, each once.
pub fn missing_classes(resolved: &ResolvedCluster, classes: &StorageClasses) -> Vec<MissingClass> {
    let mut missing: Vec<MissingClass> = Vec::new();
    volumes(resolved, &mut |at, storage| {
        let wanted = class(storage);
        let exists = wanted.map_or(classes.has_default, |wanted| classes.names.contains(wanted));
        if !exists && !missing.iter().any(|known| known.class.as_deref() == wanted) {
            missing.push(MissingClass { class: wanted.map(str::to_owned), field: at.field("class").to_string() });
        }
    });
    missing
}

fn class(storage: Option<&StorageSpec>) -> Option<&str> {
    storage.and_then(StorageSpec::storage_class).filter(|class| !class.is_empty())
}

/// Calls `visit` with every volume that the cluster asks for.
fn volumes(resolved: &ResolvedCluster, visit: &mut dyn FnMut(&At<'_>, Option<&StorageSpec>)) {
    if let GlobalTopo::Managed(topo) = &resolved.global_topo
        && let Some(etcd) = &topo.etcd
    {
        visit(&At::Root("globalTopoServer.etcd.storage"), etcd.storage.as_ref());
    }
    let cells = At::Root("cells");
    for cell in &resolved.cells {
        if let Some(etcd) = cell.topo_server.as_ref().and_then(|local| local.etcd.as_ref()) {
            visit(
                &cells.key(&cell.name).field("localTopoServer").field("etcd").field("storage"),
                etcd.storage.as_ref(),
            );
        }
    }
    resolved.each_shard(&mut |at, shard| {
        let pools = at.field("pools");
        for (name, pool) in shard.pools.iter().filter(|(_, pool)| !pool.cells.is_empty()) {
            visit(&pools.key(name).field("storage"), pool.storage.as_ref());
        }
        let files = |backup: &BackupConfig| backup.r#type == BackupType::Filesystem;
        if let Some(backup) = shard.backup.as_ref().filter(|backup| files(backup)) {
            let storage = backup.filesystem.as_ref().and_then(|files| files.storage.as_ref());
            visit(&at.field("backup").field("filesystem").field("storage"), storage);
        }
    });
}

/// Some node is where each cell wants to be.
pub fn places(findings: &mut Findings<'_>, spec: &MultigresClusterSpec, zone_id_label: &str, around: &Surroundings) {
    let Some(nodes) = &around.nodes else { return };
    let cells = At::Root("cells");
    for cell in &spec.cells {
        for (field, label, value) in resolve::places(cell, zone_id_label) {
            if nodes.0.get(label).is_some_and(|values| values.contains(value)) {
                continue;
            }
            let message = format!("no node has the label {label}={value}; pods of the cell stay Pending");
            findings.warn(&cells.key(&cell.name).field(field), message);
        }
    }
}
