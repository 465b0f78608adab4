//! Cells and table groups that are written alike. What is found about one of them is found about each, so a cluster in which nothing is
//! found when only one of each sort is looked at is right as a whole.
//!
//! That holds because rules about cells and shards judge each of them by itself. A rule that adds up over several of them has to be judged
//! on the spec as it is written, which is always judged as a whole.

use crate::api::v1alpha1::{CellConfig, DatabaseConfig, MultigresClusterSpec, TableGroupConfig};
use crate::resolve::Represented;

/// How many sorts are told apart in a list; each takes a comparison with every other entry.
const SORTS: usize = 4;

/// An entry of a list with what it was before, if it was.
type Change<'a, T> = (&'a T, Option<&'a T>);

/// The sorts of entries that were seen in a list.
struct Sorts<'a, T> {
    seen: Vec<Change<'a, T>>,
    alike: fn(&T, &T) -> bool,
}

impl<'a, T> Sorts<'a, T> {
    fn new(alike: fn(&T, &T) -> bool) -> Self {
        Self { seen: Vec::new(), alike }
    }

    /// Whether another entry stands for this one: it is written alike, and so was its predecessor.
    fn represent(&mut self, entry: &'a T, before: Option<&'a T>) -> bool {
        let alike = |(other, other_before): &Change<'a, T>| {
            (self.alike)(entry, other)
                && match (before, other_before) {
                    (Some(before), Some(other)) => (self.alike)(before, other),
                    (None, None) => true,
                    _ => false,
                }
        };
        let represented = self.seen.iter().any(alike);
        if !represented && self.seen.len() < SORTS {
            self.seen.push((entry, before));
        }
        represented
    }
}

/// What others stand for in a cluster and in what it was before; none where nothing is alike.
pub fn represented<'a>(
    old: Option<&'a MultigresClusterSpec>,
    spec: &'a MultigresClusterSpec,
) -> Option<Represented<'a>> {
    let mut represented = Represented::default();
    let mut sorts = Sorts::new(cells_alike);
    for (index, cell) in spec.cells.iter().enumerate() {
        let before = old.and_then(|old| old.cells.get(index));
        // A cell that moved, in the list or elsewhere, is looked at by itself.
        let stayed = match before {
            Some(before) => before.name == cell.name && location(before) == location(cell),
            None => old.is_none_or(|old| old.cells.iter().all(|before| before.name != cell.name)),
        };
        represented.cells.push(stayed && sorts.represent(cell, before));
    }
    for database in &spec.databases {
        let before = old.and_then(|old| old.databases.iter().find(|before| before.name == database.name));
        // Under the alias groups are not read yet.
        let opaque = |database: &DatabaseConfig| !database.table_groups.is_empty();
        if opaque(database) || before.is_some_and(opaque) {
            continue;
        }
        let mut sorts = Sorts::new(groups_alike);
        for group in &database.tablegroups {
            let before = before.and_then(|before| before.tablegroups.iter().find(|before| before.name == group.name));
            if sorts.represent(group, before) {
                represented.table_groups.insert((&database.name, &group.name));
            }
        }
    }
    let any = represented.cells.contains(&true) || !represented.table_groups.is_empty();
    any.then_some(represented)
}

/// Where a cell is.
fn location(cell: &CellConfig) -> [Option<&str>; 3] {
    [cell.zone.as_deref(), cell.zone_id.as_deref(), cell.region.as_deref()]
}

/// Whether two cells differ in nothing but their names and locations.
fn cells_alike(one: &CellConfig, other: &CellConfig) -> bool {
    let CellConfig { name: _, zone: _, zone_id: _, region: _, cell_template, overrides, spec } = one;
    *cell_template == other.cell_template && *overrides == other.overrides && *spec == other.spec
}

/// Whether two table groups differ in nothing that children of theirs could tell them apart by.
fn groups_alike(one: &TableGroupConfig, other: &TableGroupConfig) -> bool {
    let TableGroupConfig { name: _, default: _, shards, backup, pvc_deletion_policy } = one;
    *pvc_deletion_policy == other.pvc_deletion_policy && *backup == other.backup && *shards == other.shards
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(groups: Value) -> MultigresClusterSpec {
        let mut spec = json!({"databases": [{"name": "postgres"}]});
        spec["databases"][0]["tablegroups"] = groups;
        serde_json::from_value(spec).unwrap()
    }

    fn group(name: &str, size: &str) -> Value {
        json!({"name": name, "shards": [{"name": "0-inf", "spec": {"pools": {"main": {"storage": {"size": size}}}}}]})
    }

    fn names(old: Option<&MultigresClusterSpec>, spec: &MultigresClusterSpec) -> Vec<String> {
        let represented = represented(old, spec).unwrap_or_default();
        represented.table_groups.into_iter().map(|(_, group)| group.to_owned()).collect()
    }

    #[test]
    fn the_first_of_each_sort_stands_for_the_others() {
        let spec = spec(json!([
            group("a", "1Gi"),
            group("b", "2Gi"),
            group("c", "1Gi"),
            group("d", "2Gi"),
            group("e", "3Gi")
        ]));
        assert_eq!(names(None, &spec), ["c", "d"]);
    }

    #[test]
    fn groups_with_different_pasts_are_different() {
        let new = spec(json!([group("a", "2Gi"), group("b", "2Gi"), group("c", "2Gi"), group("d", "2Gi")]));
        let old = spec(json!([group("a", "1Gi"), group("b", "3Gi"), group("c", "1Gi")]));
        assert_eq!(names(Some(&old), &new), ["c"]);
    }

    #[test]
    fn what_is_not_read_yet_is_alike_to_nothing() {
        let opaque =
            json!({"databases": [{"name": "postgres", "tableGroups": [group("a", "1Gi"), group("b", "1Gi")]}]});
        let opaque: MultigresClusterSpec = serde_json::from_value(opaque).unwrap();
        assert!(names(None, &opaque).is_empty());
        let plain = spec(json!([group("a", "1Gi"), group("b", "1Gi")]));
        assert_eq!(names(None, &plain), ["b"]);
        assert!(names(Some(&opaque), &plain).is_empty());
    }

    #[test]
    fn cells_are_alike_whatever_their_names_and_locations() {
        let spec = |cells: Value| serde_json::from_value::<MultigresClusterSpec>(json!({"cells": cells})).unwrap();
        let cell = |name: &str, replicas: i32| json!({"name": name, "zone": name, "spec": {"multigateway": {"replicas": replicas}}});
        let cells = |old: Option<&MultigresClusterSpec>, spec: &MultigresClusterSpec| {
            represented(old, spec).map(|represented| represented.cells)
        };
        let plain = spec(json!([cell("a", 1), cell("b", 1), cell("c", 2), cell("d", 1)]));
        assert_eq!(cells(None, &plain), Some(vec![false, true, false, true]));
        let different = spec(json!([cell("a", 2), cell("b", 1), cell("c", 2), cell("d", 2)]));
        assert_eq!(cells(Some(&different), &plain), Some(vec![false, false, false, true]));
        let moved = spec(json!([cell("a", 1), cell("d", 1), cell("c", 2), cell("b", 1)]));
        assert_eq!(cells(Some(&moved), &plain), None);
        let mut elsewhere = plain.clone();
        elsewhere.cells[3].zone = Some("e".to_owned());
        assert_eq!(cells(Some(&elsewhere), &plain), Some(vec![false, true, false, false]));
        let mut back = spec(json!([cell("e", 1), cell("f", 1), cell("g", 1), cell("a", 1)]));
        back.cells[3].zone = Some("e".to_owned());
        let two = spec(json!([cell("a", 1), cell("b", 1)]));
        assert_eq!(cells(Some(&two), &back), None, "a cell of before is no new one, wherever it is in the list");
        let fewer = spec(json!([cell("a", 1)]));
        assert_eq!(cells(Some(&fewer), &plain), Some(vec![false, false, false, true]));
    }
}
