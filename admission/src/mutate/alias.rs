//! Canonical spellings in the place of their aliases.
//!
//! On creation both spellings at once are a mistake and stay, so that the schema refuses them. On an update the stored
//! object carries the spelling that was normalised before: the newly written one of the two takes its place.

use serde_json::{Map, Value};
use shared::{api::v1alpha1::DatabaseConfig, field_path::At, resolve};

use super::Changes;

const TABLE_GROUPS: Spelling = Spelling { canonical: "tablegroups", alias: "tableGroups" };
const STORAGE_CLASS: Spelling = Spelling { canonical: "class", alias: "storageClassName" };

/// All aliases.
pub const NAMES: [&str; 2] = [TABLE_GROUPS.alias, STORAGE_CLASS.alias];

/// A field and its other spelling.
struct Spelling {
    canonical: &'static str,
    alias: &'static str,
}

/// Which of two spellings holds.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// There is nothing to choose, or a contradiction that is not ours to solve.
    Leave,
    /// The alias was written last.
    Alias,
    /// The canonical field was written last.
    Canonical,
}

impl Spelling {
    fn choose(&self, new: &Map<String, Value>, old: Option<&Value>) -> Choice {
        let before = |key| old.and_then(|old| old.get(key));
        match (new.get(self.canonical), new.get(self.alias)) {
            (_, None) => Choice::Leave,
            (None, Some(_)) => Choice::Alias,
            (canonical, _) if canonical == before(self.canonical) => Choice::Alias,
            (_, alias) if alias == before(self.alias) => Choice::Canonical,
            _ => Choice::Leave,
        }
    }
}

/// A step from a value to values in it.
#[derive(Clone, Copy)]
enum Step {
    Field(&'static str),
    Items,
    Members,
}

use Step::{Field, Items, Members};

const FILESYSTEM: [Step; 3] = [Field("backup"), Field("filesystem"), Field("storage")];
/// Places of volumes in a spec, apart from those in table groups.
const IN_SPEC: [&[Step]; 4] = [
    &[Field("globalTopoServer"), Field("etcd"), Field("storage")],
    &[Field("cells"), Items, Field("spec"), Field("localTopoServer"), Field("etcd"), Field("storage")],
    &FILESYSTEM,
    &[Field("databases"), Items, Field("backup"), Field("filesystem"), Field("storage")],
];
/// Places of volumes in a list of table groups.
const IN_TABLE_GROUPS: [&[Step]; 4] = [
    &[Items, Field("backup"), Field("filesystem"), Field("storage")],
    &[Items, Field("shards"), Items, Field("backup"), Field("filesystem"), Field("storage")],
    &[Items, Field("shards"), Items, Field("spec"), Field("pools"), Members, Field("storage")],
    &[Items, Field("shards"), Items, Field("overrides"), Field("pools"), Members, Field("storage")],
];

/// Replaces all aliases of a spec.
pub fn normalise(spec: &Map<String, Value>, old: Option<&Map<String, Value>>, changes: &mut Changes) {
    let mut classes = Places::default();
    let mut path = vec!["spec".to_owned()];
    for steps in IN_SPEC {
        let Some(Field(first)) = steps.first() else { continue };
        let Some(value) = spec.get(*first) else { continue };
        let old = old.and_then(|old| old.get(*first));
        path.push((*first).to_owned());
        walk(value, old, &steps[1..], &mut path, &mut |storage, old, path| {
            replace_class(storage, old, path, changes, &mut classes);
        });
        path.pop();
    }
    let mut groups = Places::default();
    let databases = spec.get("databases").and_then(Value::as_array);
    for (index, database) in databases.into_iter().flatten().enumerate() {
        let Value::Object(database) = database else { continue };
        let old =
            old.and_then(|old| old.get("databases")).and_then(|old| counterpart(old, index, database.get("name")));
        let at = ["spec".to_owned(), "databases".to_owned(), index.to_string()];
        replace_table_groups(database, old, &at, changes, &mut groups, &mut classes);
    }
    for (spelling, places) in [(TABLE_GROUPS, groups), (STORAGE_CLASS, classes)] {
        changes.warnings.extend(places.warning(&spelling));
    }
}

fn replace_table_groups(
    database: &Map<String, Value>,
    old: Option<&Value>,
    at: &[String],
    changes: &mut Changes,
    places: &mut Places,
    classes: &mut Places,
) {
    let alias = [at, &[TABLE_GROUPS.alias.to_owned()]].concat();
    let canonical = [at, &[TABLE_GROUPS.canonical.to_owned()]].concat();
    let choice = TABLE_GROUPS.choose(database, old);
    if let (Choice::Alias, Some(Value::Array(entries))) = (&choice, database.get(TABLE_GROUPS.alias)) {
        if is_well_formed(entries) {
            places.note(&alias);
            let value = with_canonical_classes(entries, &alias, classes);
            changes.add(&canonical, value);
            changes.remove(&alias);
        } else if database.contains_key(TABLE_GROUPS.canonical) {
            // Under the canonical name the API server would drop unknown keys; as they are, validation names them all.
            changes.remove(&canonical);
        }
        return;
    }
    if choice == Choice::Canonical {
        places.note(&alias);
        changes.remove(&alias);
    }
    let Some(groups) = database.get(TABLE_GROUPS.canonical) else { return };
    let old = old.and_then(|old| old.get(TABLE_GROUPS.canonical));
    let mut path = canonical;
    for steps in IN_TABLE_GROUPS {
        walk(groups, old, steps, &mut path, &mut |storage, old, path| {
            replace_class(storage, old, path, changes, classes);
        });
    }
}

/// Whether entries under the alias say nothing that the canonical list would lose.
fn is_well_formed(entries: &[Value]) -> bool {
    let mut errors = Vec::new();
    let database = DatabaseConfig { table_groups: entries.to_vec(), ..DatabaseConfig::default() };
    let _read = resolve::table_groups(&database, &At::Root("databases"), &mut errors);
    errors.is_empty()
}

/// The entries of an aliased list with canonical storage classes. Both spellings in one entry were written together.
fn with_canonical_classes(entries: &[Value], at: &[String], classes: &mut Places) -> Value {
    let mut value = Value::Array(entries.to_vec());
    let mut below = Changes::default();
    let mut path = Vec::new();
    for steps in IN_TABLE_GROUPS {
        walk(&value, None, steps, &mut path, &mut |storage, old, path| {
            let mut found = Places::default();
            replace_class(storage, old, path, &mut below, &mut found);
            if found.first.is_some() {
                classes.note(&[at, path, &[STORAGE_CLASS.alias.to_owned()]].concat());
            }
        });
    }
    // The paths were just found in this very value.
    if json_patch::patch(&mut value, &below.operations).is_err() {
        value = Value::Array(entries.to_vec());
    }
    value
}

fn replace_class(
    storage: &Map<String, Value>,
    old: Option<&Value>,
    at: &[String],
    changes: &mut Changes,
    places: &mut Places,
) {
    let Some(class @ Value::String(_)) = storage.get(STORAGE_CLASS.alias) else { return };
    let alias = [at, &[STORAGE_CLASS.alias.to_owned()]].concat();
    match STORAGE_CLASS.choose(storage, old) {
        Choice::Leave => return,
        Choice::Alias => changes.add(&[at, &[STORAGE_CLASS.canonical.to_owned()]].concat(), class.clone()),
        Choice::Canonical => {}
    }
    changes.remove(&alias);
    places.note(&alias);
}

/// Receives an object, its counterpart in the old object, and its path.
type Found<'f> = dyn FnMut(&Map<String, Value>, Option<&Value>, &[String]) + 'f;

/// Visits the objects at the end of some steps, each with its counterpart in the old object.
fn walk(value: &Value, old: Option<&Value>, steps: &[Step], path: &mut Vec<String>, found: &mut Found<'_>) {
    let Some((step, rest)) = steps.split_first() else {
        if let Value::Object(members) = value {
            found(members, old, path);
        }
        return;
    };
    let mut enter = |key: String, value: &Value, old: Option<&Value>| {
        path.push(key);
        walk(value, old, rest, path, found);
        path.pop();
    };
    match (step, value) {
        (Field(name), Value::Object(members)) => {
            if let Some(value) = members.get(*name) {
                enter((*name).to_owned(), value, old.and_then(|old| old.get(*name)));
            }
        }
        (Members, Value::Object(members)) => {
            for (key, value) in members {
                enter(key.clone(), value, old.and_then(|old| old.get(key)));
            }
        }
        (Items, Value::Array(items)) => {
            for (index, value) in items.iter().enumerate() {
                enter(index.to_string(), value, old.and_then(|old| counterpart(old, index, value.get("name"))));
            }
        }
        _ => {}
    }
}

/// The item of a list that has the same name; the one in the same place is looked at first.
fn counterpart<'v>(list: &'v Value, index: usize, name: Option<&Value>) -> Option<&'v Value> {
    let name = name?;
    let same = |item: &&Value| item.get("name") == Some(name);
    list.get(index).filter(same).or_else(|| list.as_array()?.iter().find(same))
}

/// Where an alias was found.
#[derive(Default)]
struct Places {
    first: Option<String>,
    more: usize,
}

impl Places {
    fn note(&mut self, path: &[String]) {
        if self.first.is_some() {
            self.more += 1;
            return;
        }
        let mut text = String::new();
        // As in all other messages, paths begin below the spec.
        for token in path.iter().skip(1) {
            if token.bytes().all(|byte| byte.is_ascii_digit()) {
                text.push('[');
                text.push_str(token);
                text.push(']');
            } else {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(token);
            }
        }
        self.first = Some(text);
    }

    fn warning(self, spelling: &Spelling) -> Option<String> {
        let Spelling { canonical, alias } = spelling;
        let more = if self.more == 0 { String::new() } else { format!(" and {} more", self.more) };
        let first = self.first?;
        Some(format!(
            "{first}{more}: {alias:?} is another spelling of {canonical:?} and is stored as that; write {canonical:?}, so that \
             comparisons of your manifest with the stored object show no difference"
        ))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::mutate::cluster;

    fn mutated(old: Option<&Value>, spec: &Value) -> (Value, Vec<String>) {
        let object = |spec: &Value| json!({"metadata": {}, "spec": spec});
        let old = old.map(|old| object(old).to_string());
        let mut after = object(spec);
        let mutation = cluster(old.as_deref(), &after.to_string(), None);
        if let Some(patch) = mutation.patch {
            json_patch::patch(&mut after, &patch).unwrap();
        }
        (after["spec"].take(), mutation.warnings)
    }

    fn database(fields: &Value) -> Value {
        let mut database = json!({"name": "postgres"});
        database.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({"databases": [database]})
    }

    fn groups(storage: &Value) -> Value {
        json!([{"name": "default", "shards": [{"name": "0-inf", "spec": {"pools": {"a/b": {"storage": storage}}}}]}])
    }

    #[test]
    fn aliases_are_stored_under_the_canonical_names() {
        let given = json!({
            "globalTopoServer": {"etcd": {"storage": {"size": "1Gi", "storageClassName": "ssd"}}},
            "cells": [{"name": "a", "spec": {"localTopoServer": {"etcd": {"storage": {"storageClassName": "ssd"}}}}}],
            "backup": {"filesystem": {"storage": {"storageClassName": "nfs"}}},
            "databases": [{"name": "postgres", "tableGroups": groups(&json!({"storageClassName": "fast"}))}],
        });
        let (after, warnings) = mutated(None, &given);
        assert_eq!(
            after,
            json!({
                "globalTopoServer": {"etcd": {"storage": {"size": "1Gi", "class": "ssd"}}},
                "cells": [{"name": "a", "spec": {"localTopoServer": {"etcd": {"storage": {"class": "ssd"}}}}}],
                "backup": {"filesystem": {"storage": {"class": "nfs"}}},
                "databases": [{"name": "postgres", "tablegroups": groups(&json!({"class": "fast"}))}],
            })
        );
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].starts_with(r#"databases[0].tableGroups: "tableGroups""#), "{warnings:?}");
        assert!(warnings[1].starts_with("globalTopoServer.etcd.storage.storageClassName and 3 more: "), "{warnings:?}");
    }

    #[test]
    fn both_spellings_at_once_stay_for_the_schema_to_refuse() {
        let class = json!({"class": "a", "storageClassName": "b"});
        for spec in [
            database(&json!({"tablegroups": [{"name": "default"}], "tableGroups": [{"name": "default"}]})),
            database(&json!({"tablegroups": groups(&class)})),
        ] {
            assert_eq!(mutated(None, &spec), (spec.clone(), Vec::new()));
        }
        let (after, _) = mutated(None, &database(&json!({"tableGroups": groups(&class)})));
        assert_eq!(after, database(&json!({"tablegroups": groups(&class)})));
    }

    #[rstest]
    #[case::alias_applied_again(json!("a"), None, json!("a"), Some(json!("a")), json!({"class": "a"}))]
    #[case::alias_changed(json!("a"), None, json!("a"), Some(json!("b")), json!({"class": "b"}))]
    #[case::both_changed(json!("a"), None, json!("c"), Some(json!("b")), json!({"class": "c", "storageClassName": "b"}))]
    #[case::canonical_beside_a_stored_alias(Value::Null, Some(json!("a")), json!("b"), Some(json!("a")), json!({"class": "b"}))]
    #[case::no_string(json!("a"), None, json!("a"), Some(json!(5)), json!({"class": "a", "storageClassName": 5}))]
    fn an_update_keeps_the_spelling_that_was_written_last(
        #[case] stored: Value,
        #[case] stored_alias: Option<Value>,
        #[case] canonical: Value,
        #[case] alias: Option<Value>,
        #[case] after: Value,
    ) {
        let storage = |class: Value, alias: Option<Value>| {
            let mut storage = json!({});
            if !class.is_null() {
                storage["class"] = class;
            }
            if let Some(alias) = alias {
                storage["storageClassName"] = alias;
            }
            database(&json!({"tablegroups": groups(&storage)}))
        };
        let (spec, _) = mutated(Some(&storage(stored, stored_alias)), &storage(canonical, alias));
        assert_eq!(spec, database(&json!({"tablegroups": groups(&after)})));
    }

    #[test]
    fn an_applied_alias_replaces_the_stored_table_groups() {
        let stored = database(&json!({"tablegroups": [{"name": "default"}]}));
        let applied = database(&json!({
            "tablegroups": [{"name": "default"}],
            "tableGroups": [{"name": "default"}, {"name": "orders", "shards": []}],
        }));
        let (after, warnings) = mutated(Some(&stored), &applied);
        assert_eq!(after, database(&json!({"tablegroups": [{"name": "default"}, {"name": "orders", "shards": []}]})));
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn malformed_entries_keep_their_name_so_that_validation_can_name_what_is_wrong() {
        let entries = json!([{"name": "default", "sharts": [{"name": "0-inf"}]}]);
        let created = database(&json!({"tableGroups": entries}));
        assert_eq!(mutated(None, &created).0, created);
        let stored = database(&json!({"tablegroups": [{"name": "default"}]}));
        let applied = database(&json!({"tablegroups": [{"name": "default"}], "tableGroups": entries}));
        assert_eq!(mutated(Some(&stored), &applied).0, created);
    }

    #[test]
    fn an_annotation_called_like_an_alias_is_none() {
        let spec = json!({
            "databases": [],
            "multiadmin": {"spec": {"podAnnotations": {"storageClassName": "x", "tableGroups": "y"}}},
        });
        assert_eq!(mutated(None, &spec), (spec.clone(), Vec::new()));
    }
}
