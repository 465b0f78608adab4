//! Whether a command of a page could work: its verb, its flags, the kinds, fields and conditions that it speaks of, the files and the
//! values of the chart that it names. Nothing is run.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use super::vocabulary::{
    CHOOSING, EVERYWHERE, FOLDERS, HELM, HELM_EVERYWHERE, KINDS, KUBECTL, OF_KINDS, OF_OBJECTS, Verb,
};
use crate::lesson;

/// What commands are held against.
pub struct Known {
    /// Schema of each kind of ours, by its kind.
    schemas: BTreeMap<String, Value>,
    /// Kind of ours by every spelling.
    spellings: BTreeMap<String, String>,
    /// Schema of the chart's values.
    values: Value,
    /// The page that explains all conditions.
    conditions: String,
}

/// A command, taken apart.
struct Taken<'c> {
    verb: &'c str,
    /// Flags with their values; empty where there is none.
    flags: Vec<(&'c str, &'c str)>,
    /// What is no flag.
    words: Vec<&'c str>,
}

impl Known {
    /// Everything of this checkout.
    pub fn read() -> Self {
        let (mut schemas, mut spellings) = (BTreeMap::new(), BTreeMap::new());
        for crd in shared::api::crds() {
            let names = &crd.spec.names;
            let kind = names.kind.clone();
            let (singular, short) = (names.singular.iter(), names.short_names.iter().flatten());
            for spelling in [&names.plural].into_iter().chain(singular).chain(short) {
                spellings.insert(spelling.clone(), kind.clone());
                spellings.insert(format!("{spelling}.multigres.com"), kind.clone());
            }
            let crd = serde_json::to_value(&crd).unwrap();
            schemas.insert(kind, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone());
        }
        let text = |file: &str| fs::read_to_string(lesson::root().join(file)).unwrap();
        let values = serde_json::from_str(&text("charts/multigres-operator/values.schema.json")).unwrap();
        Self { schemas, spellings, values, conditions: text("docs/watching.md") + &text("docs/backups.md") }
    }

    /// What is wrong with a command; nothing where it is not one of kubectl or helm.
    pub fn problem(&self, command: &[String]) -> Option<String> {
        let (program, args) = command.split_first()?;
        let outcome = match program.as_str() {
            "kubectl" => self.kubectl(args),
            "helm" => self.helm(args),
            _ => Ok(()),
        };
        outcome.err()
    }

    /// What is wrong with a manifest of ours, a part of one, or values of the chart; nothing where it is none of them.
    pub fn problem_of_manifest(&self, manifest: &Value) -> Option<String> {
        let fields = manifest.as_object()?;
        let kind = match manifest["apiVersion"].as_str() {
            Some("multigres.com/v1alpha1") => manifest["kind"].as_str().unwrap_or_default(),
            Some(version) if version.starts_with("multigres.com/") => return Some(format!("there is no {version}")),
            // A page that shows nothing but a spec speaks of clusters.
            None if fields.keys().eq(["spec"]) => "MultigresCluster",
            None if fields.keys().all(|key| has(&self.values, std::slice::from_ref(key))) => {
                return unknown(&self.values, manifest, "");
            }
            _ => return None,
        };
        let Some(schema) = self.schemas.get(kind) else { return Some(format!("there is no kind {kind:?}")) };
        unknown(&schema["properties"]["spec"], &manifest["spec"], ".spec")
    }

    fn kubectl(&self, args: &[String]) -> Result<(), String> {
        let taken = take(args, KUBECTL, &[EVERYWHERE, CHOOSING])?;
        let kinds = self.kinds(&taken)?;
        for (flag, value) in &taken.flags {
            match *flag {
                "-f" | "--filename" => exists(value)?,
                "-o" | "--output" | "--sort-by" => self.fields(&kinds, value)?,
                "--for" => self.awaited(&kinds, value)?,
                "-p" | "--patch" => self.patch(&kinds, value, &taken)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The kinds that a command names, as it spells them.
    fn kinds<'c>(&self, taken: &Taken<'c>) -> Result<Vec<&'c str>, String> {
        let at = match taken.verb {
            verb if OF_KINDS.contains(&verb) => 0,
            verb if OF_OBJECTS.contains(&verb) => 1,
            _ => return Ok(Vec::new()),
        };
        let Some(word) = taken.words.get(at) else {
            let from_elsewhere = taken.flags.iter().any(|(flag, _)| ["-f", "--filename", "--raw"].contains(flag));
            return if from_elsewhere { Ok(Vec::new()) } else { Err("it names no kind".to_owned()) };
        };
        let kinds: Vec<&str> = word.split('/').next().unwrap_or_default().split(',').collect();
        for kind in &kinds {
            let known = kind.contains('$')
                || *kind == shared::api::CATEGORY
                || KINDS.contains(kind)
                || self.spellings.contains_key(*kind);
            if !known {
                return Err(format!("{kind:?} is no known kind"));
            }
        }
        Ok(kinds)
    }

    /// The schemas of the kinds of ours, if all of them are: those of all kinds where the category is meant.
    fn schemas_of(&self, kinds: &[&str]) -> Vec<&Value> {
        if kinds == [shared::api::CATEGORY] {
            return self.schemas.values().collect();
        }
        let each = kinds.iter().map(|kind| self.schemas.get(self.spellings.get(*kind)?));
        each.collect::<Option<Vec<&Value>>>().unwrap_or_default()
    }

    /// Fields of a template of output exist in at least one of the kinds.
    fn fields(&self, kinds: &[&str], template: &str) -> Result<(), String> {
        let schemas = self.schemas_of(kinds);
        if schemas.is_empty() {
            return Ok(());
        }
        for path in paths(template) {
            if !schemas.iter().any(|schema| has(schema, &path)) {
                return Err(format!("there is no field .{} in {}", path.join("."), kinds.join(",")));
            }
        }
        for condition in between(template, "type==\"", "\"").chain(between(template, "type=='", "'")) {
            self.condition(condition)?;
        }
        Ok(())
    }

    fn awaited(&self, kinds: &[&str], wanted: &str) -> Result<(), String> {
        if let Some(path) = wanted.strip_prefix("jsonpath=") {
            return self.fields(kinds, path);
        }
        match wanted.strip_prefix("condition=") {
            Some(condition) if !self.schemas_of(kinds).is_empty() => {
                self.condition(condition.split('=').next().unwrap_or_default())
            }
            _ => Ok(()),
        }
    }

    fn condition(&self, type_: &str) -> Result<(), String> {
        let known = self.conditions.contains(&format!("`{type_}`"));
        if known { Ok(()) } else { Err(format!("there is no condition {type_}")) }
    }

    fn patch(&self, kinds: &[&str], patch: &str, taken: &Taken<'_>) -> Result<(), String> {
        let parsed: Value = serde_json::from_str(patch).map_err(|error| format!("the patch is no JSON: {error}"))?;
        let Some(schema) = self.schemas_of(kinds).into_iter().next() else { return Ok(()) };
        if let Value::Array(steps) = &parsed {
            let json = taken.flags.contains(&("--type", "json"));
            for step in steps {
                let at = step["path"].as_str().unwrap_or_default();
                let names =
                    at.split('/').filter(|part| !part.is_empty() && part.parse::<usize>().is_err() && *part != "-");
                let names: Vec<String> = names.map(str::to_owned).collect();
                if !json || names.is_empty() || !has(schema, &names) {
                    return Err(format!("a JSON patch at {at:?} changes nothing"));
                }
            }
            return Ok(());
        }
        match unknown(schema, &parsed, "") {
            Some(field) => Err(field),
            None => Ok(()),
        }
    }

    fn helm(&self, args: &[String]) -> Result<(), String> {
        let taken = take(args, HELM, &[HELM_EVERYWHERE])?;
        for word in &taken.words {
            exists(word)?;
        }
        for (flag, value) in &taken.flags {
            match *flag {
                "-f" | "--values" => exists(value)?,
                "--set" | "--set-string" | "--set-json" => {
                    for key in keys(value) {
                        let path = key.split('.').map(|name| name.split('[').next().unwrap_or_default().to_owned());
                        if !has(&self.values, &path.collect::<Vec<String>>()) {
                            return Err(format!("the chart has no value {key}"));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Takes a command apart. What it does not know is wrong.
fn take<'c>(args: &'c [String], verbs: &[Verb], everywhere: &[&[&str]]) -> Result<Taken<'c>, String> {
    let has_value = |flag: &str, verb: Option<&Verb>| {
        everywhere.iter().any(|flags| flags.contains(&flag)) || verb.is_some_and(|(_, with, _)| with.contains(&flag))
    };
    let mut taken = Taken { verb: "", flags: Vec::new(), words: Vec::new() };
    let mut found: Option<&Verb> = None;
    let mut args = args.iter().map(String::as_str);
    while let Some(word) = args.next() {
        if word == "--" {
            // The rest is for a program in a container.
            break;
        }
        if !word.starts_with('-') || word == "-" {
            if found.is_some() {
                taken.words.push(word);
                continue;
            }
            let verb = verbs.iter().find(|(verb, _, _)| *verb == word);
            found = Some(verb.ok_or_else(|| format!("{word:?} is no known verb"))?);
            taken.verb = word;
            continue;
        }
        let (flag, value) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
        if has_value(flag, found) {
            let value = value.or_else(|| args.next()).ok_or_else(|| format!("{flag} has no value"))?;
            taken.flags.push((flag, value));
        } else if found.is_some_and(|(_, _, without)| without.contains(&flag)) || flag == "--dry-run" && value.is_some()
        {
            taken.flags.push((flag, value.unwrap_or_default()));
        } else {
            return Err(format!("{flag} is no known flag of {:?}", taken.verb));
        }
    }
    if found.is_none() { Err("it has no verb".to_owned()) } else { Ok(taken) }
}

/// A file of the repository is there. Others are the reader's.
fn exists(file: &str) -> Result<(), String> {
    let ours = FOLDERS.iter().any(|folder| file.starts_with(folder));
    if !ours || lesson::root().join(file).exists() { Ok(()) } else { Err(format!("there is no {file}")) }
}

/// The paths below `.spec` and `.status` in a template of kubectl.
fn paths(template: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in [".spec", ".status"] {
        for (at, _) in template.match_indices(root) {
            let mut path = Vec::new();
            let mut rest = &template[at..];
            loop {
                // What chooses among the items of a list is no name.
                if rest.starts_with('[') {
                    rest = rest.split_once(']').map_or("", |(_, rest)| rest);
                    continue;
                }
                let Some(name) = rest.strip_prefix('.') else { break };
                let end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
                if end == 0 {
                    break;
                }
                path.push(name[..end].to_owned());
                rest = &name[end..];
            }
            found.push(path);
        }
    }
    found
}

fn between<'t>(text: &'t str, before: &'t str, after: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(before).skip(1).filter_map(move |rest| rest.split(after).next())
}

/// What a schema says of a field.
enum Below<'s> {
    /// How it has to be.
    Schema(&'s Value),
    /// It may be whatever it is.
    Anything,
    /// There is none.
    Nothing,
}

fn below<'s>(schema: &'s Value, name: &str) -> Below<'s> {
    if schema["x-kubernetes-preserve-unknown-fields"] == true || schema.get("$ref").is_some() {
        return Below::Anything;
    }
    let listed = schema.get("properties");
    match (listed.and_then(|listed| listed.get(name)), schema.get("additionalProperties")) {
        (Some(next), _) => Below::Schema(next),
        (None, Some(more)) if more.is_object() => Below::Schema(more),
        (None, Some(more)) if *more == true => Below::Anything,
        (None, None) if listed.is_none() => Below::Anything,
        _ => Below::Nothing,
    }
}

/// Whether a schema has a field. Lists are walked through.
fn has(schema: &Value, path: &[String]) -> bool {
    let Some((name, rest)) = path.split_first() else { return true };
    if schema["type"] == "array" {
        return has(&schema["items"], path);
    }
    match below(schema, name) {
        Below::Schema(next) => has(next, rest),
        Below::Anything => true,
        Below::Nothing => false,
    }
}

/// The first field of a value that its schema does not have.
fn unknown(schema: &Value, value: &Value, at: &str) -> Option<String> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, inner)| {
            let at = format!("{at}.{name}");
            match below(schema, name) {
                Below::Schema(next) => unknown(next, inner, &at),
                Below::Anything => None,
                Below::Nothing => Some(format!("there is no field {at}")),
            }
        }),
        Value::Array(items) => items.iter().find_map(|item| unknown(&schema["items"], item, at)),
        _ => None,
    }
}

/// The keys of an argument of `--set`.
fn keys(given: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let (mut part, mut depth, mut escaped) = (String::new(), 0_usize, false);
    for character in given.chars() {
        match character {
            _ if escaped => {
                escaped = false;
                part.push(character);
            }
            '\\' => escaped = true,
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            other => {
                match other {
                    '{' => depth += 1,
                    '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                part.push(other);
            }
        }
    }
    parts.push(part);
    parts.iter().map(|part| part.split('=').next().unwrap_or_default().to_owned()).collect()
}
