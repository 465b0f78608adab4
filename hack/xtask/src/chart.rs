//! What the comments of `values.yaml` become: tables in the READMEs of the charts, and descriptions in their schemas, which editors show.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::marks;

const CHARTS: [&str; 2] = ["charts/multigres-operator", "charts/multigres-operator-crds"];

/// Keys that mean what they mean in another group, where they are shown.
const LIKE: [(&str, &str); 6] = [
    ("controller.logging.", "logging."),
    ("admission.logging.", "logging."),
    ("monitoring.dataPlane.postgres.", "monitoring.serviceMonitor."),
    ("monitoring.dataPlane.etcd.", "monitoring.serviceMonitor."),
    ("tests.image.", "admission.image."),
    ("tests.metricsImage.", "controller.image."),
];

/// Writes tables and descriptions below `root`, or compares them when `check` is set.
pub fn run(root: &Path, check: bool) -> anyhow::Result<()> {
    let mut differing: Vec<PathBuf> = Vec::new();
    for chart in CHARTS {
        let folder = root.join(chart);
        let values = entries(&read(&folder.join("values.yaml"))?)?;
        let (readme, schema) = (folder.join("README.md"), folder.join("values.schema.json"));
        let (of_readme, of_schema) = (read(&readme)?, read(&schema)?);
        let filled = marks::fill(&of_readme, "values", &tables(&values))?;
        let described = described(&of_schema, &values)?;
        for (path, present, wanted) in [(readme, of_readme, filled), (schema, of_schema, described)] {
            if wanted != present {
                if !check {
                    fs::write(&path, wanted).with_context(|| format!("write {}", path.display()))?;
                }
                differing.push(path);
            }
        }
    }
    if check && !differing.is_empty() {
        bail!("run `cargo xtask chart`: differing {differing:?}");
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// One key of `values.yaml`.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// The keys from the top, with dots between them.
    path: String,
    /// What it is set to, as it is written; none for a key with others below it.
    default: Option<String>,
    /// The comment before it, on one line.
    about: String,
}

impl Entry {
    fn is_top(&self) -> bool {
        !self.path.contains('.')
    }
}

/// The keys of a file with two spaces for each level and every list on one line. A comment belongs to the key that follows at once.
fn entries(text: &str) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut path: Vec<&str> = Vec::new();
    let mut about: Vec<&str> = Vec::new();
    for line in text.lines() {
        let content = line.trim_start();
        if content.is_empty() {
            about.clear();
        } else if let Some(comment) = content.strip_prefix('#') {
            about.push(comment.trim());
        } else {
            ensure!(!content.starts_with('-'), "write the list of {line:?} on one line");
            let (key, value) = content.split_once(':').with_context(|| format!("no key in {line:?}"))?;
            path.truncate((line.len() - content.len()) / 2);
            path.push(key);
            let default = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            entries.push(Entry { path: path.join("."), default, about: about.join(" ") });
            about.clear();
        }
    }
    Ok(entries)
}

/// A table of what is set at the top, and one for each group of keys.
fn tables(entries: &[Entry]) -> String {
    let mut out = table(entries.iter().filter(|entry| entry.is_top() && entry.default.is_some()));
    for group in entries.iter().filter(|entry| entry.is_top() && entry.default.is_none()) {
        let _ = write!(out, "\n### {}\n\n", group.path);
        if !group.about.is_empty() {
            let _ = write!(out, "{}\n\n", text(&group.about));
        }
        let prefix = format!("{}.", group.path);
        let says = |entry: &&Entry| entry.default.is_some() || !entry.about.is_empty();
        out.push_str(&table(entries.iter().filter(|entry| entry.path.starts_with(&prefix)).filter(says)));
    }
    out.trim_end().to_owned()
}

fn table<'e>(entries: impl Iterator<Item = &'e Entry>) -> String {
    let mut out = "| Key | Default | Meaning |\n| --- | --- | --- |\n".to_owned();
    for entry in entries {
        let default = entry.default.as_ref().map(|default| format!("`{}`", default.replace('|', "\\|")));
        let _ = writeln!(out, "| `{}` | {} | {} |", entry.path, default.unwrap_or_default(), text(&entry.about));
    }
    out
}

/// A schema with what keys mean as their descriptions, each before everything else that is said of the key.
fn described(schema: &str, entries: &[Entry]) -> anyhow::Result<String> {
    let mut out = String::new();
    let mut place: Vec<&str> = Vec::new();
    for line in schema.lines() {
        let content = line.trim_start();
        // Made anew.
        if content.starts_with("\"description\": \"") {
            continue;
        }
        let _ = writeln!(out, "{line}");
        let Some(key) = content.strip_suffix("\": {").and_then(|key| key.strip_prefix('"')) else { continue };
        let depth = (line.len() - content.len()) / 2;
        place.resize(depth.saturating_sub(1), "");
        place.push(key);
        if let Some(about) = key_of(&place).and_then(|key| meaning(entries, &key)) {
            let about = serde_json::to_string(about).context("a comment as JSON")?;
            let _ = writeln!(out, "{}\"description\": {about},", "  ".repeat(depth + 1));
        }
    }
    Ok(out)
}

/// The key of the values that a place in a schema is about; none where it is about something else, such as the items of a list.
fn key_of(place: &[&str]) -> Option<String> {
    let keys = place.chunks(2).map(|pair| match pair {
        ["properties", key] => Some(*key),
        _ => None,
    });
    keys.collect::<Option<Vec<&str>>>().map(|keys| keys.join("."))
}

/// What a key means: what is said of it, or of the one that it is like.
fn meaning<'e>(entries: &'e [Entry], path: &str) -> Option<&'e str> {
    let of = |path: &str| entries.iter().find(|entry| entry.path == path).map(|entry| entry.about.as_str());
    of(path).or_else(|| of(&like(path)?)).filter(|about| !about.is_empty())
}

fn like(path: &str) -> Option<String> {
    if let Some((_, key)) = path.strip_prefix("webhooks.overrides.").and_then(|rest| rest.split_once('.')) {
        return Some(format!("webhooks.defaults.{key}"));
    }
    LIKE.iter().find_map(|(group, other)| path.strip_prefix(group).map(|key| format!("{other}{key}")))
}

/// A comment as Markdown.
fn text(about: &str) -> String {
    about.replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn values(chart: &str) -> (String, Value) {
        let text = read(&crate::repository().join(chart).join("values.yaml")).unwrap();
        let parsed = serde_saphyr::from_str(&text).unwrap();
        (text, parsed)
    }

    #[test]
    fn committed_readmes_and_schemas_have_the_comments_of_the_values() {
        run(&crate::repository(), true).unwrap();
    }

    #[test]
    fn comments_belong_to_the_key_that_follows() {
        let text = "# The file.\n\na: 1\n# Of b,\n# and <more>.\nb:\n  c: \"x|y\"\n  # Of d.\n  d:\n    e: { f: 1 }\n";
        let found = entries(text).unwrap();
        let entry = |path: &str, default: Option<&str>, about: &str| Entry {
            path: path.to_owned(),
            default: default.map(str::to_owned),
            about: about.to_owned(),
        };
        let expected = [
            entry("a", Some("1"), ""),
            entry("b", None, "Of b, and <more>."),
            entry("b.c", Some("\"x|y\""), ""),
            entry("b.d", None, "Of d."),
            entry("b.d.e", Some("{ f: 1 }"), ""),
        ];
        assert_eq!(found, expected);
        let head = "| Key | Default | Meaning |\n| --- | --- | --- |\n";
        let rows = "| `b.c` | `\"x\\|y\"` |  |\n| `b.d` |  | Of d. |\n| `b.d.e` | `{ f: 1 }` |  |";
        let expected = format!("{head}| `a` | `1` |  |\n\n### b\n\nOf b, and &lt;more>.\n\n{head}{rows}");
        assert_eq!(tables(&found), expected);
        assert!(entries("a:\n  - 1\n").is_err());
    }

    #[test]
    fn a_schema_has_the_comments_of_its_keys() {
        let values = "# Of a.\na: 1\nlogging:\n  # The \"level\".\n  level: x\ncontroller:\n  logging: {}\n  b: []\n";
        let entries = entries(values).unwrap();
        let schema = r#"{
  "properties": {
    "a": {
      "description": "Of old.",
      "type": "integer"
    },
    "controller": {
      "properties": {
        "logging": {
          "properties": {
            "level": {
              "type": "string"
            }
          }
        },
        "b": {
          "type": "array",
          "items": {
            "properties": {
              "a": {
                "type": "string"
              }
            }
          }
        }
      }
    }
  }
}
"#;
        let found = described(schema, &entries).unwrap();
        let of_level = "            \"level\": {\n              \"description\": \"The \\\"level\\\".\",\n";
        let wanted = schema.replace("Of old.", "Of a.").replace("            \"level\": {\n", of_level);
        assert_eq!(found, wanted);
        assert_eq!(described(&found, &entries).unwrap(), found);
        assert_eq!(like("webhooks.overrides.backup.timeoutSeconds").unwrap(), "webhooks.defaults.timeoutSeconds");
        assert_eq!(like("webhooks.overrides.backup"), None);
    }

    #[test]
    fn every_key_that_is_shown_is_described() {
        for chart in CHARTS {
            let schema = read(&crate::repository().join(chart).join("values.schema.json")).unwrap();
            let schema: Value = serde_json::from_str(&schema).unwrap();
            let mut described = 0;
            for entry in entries(&values(chart).0).unwrap() {
                // What has a form of its own in the API is not taken apart here.
                let place = format!("/properties/{}", entry.path.replace('.', "/properties/"));
                if let Some(key) = schema.pointer(&place) {
                    assert!(key["description"].is_string(), "{chart}: {} has no comment", entry.path);
                    described += 1;
                }
            }
            assert!(described > 1, "{chart}: nothing is described");
        }
    }

    #[test]
    fn every_key_of_a_table_is_a_value() {
        for chart in CHARTS {
            let (text, parsed) = values(chart);
            for entry in entries(&text).unwrap() {
                let pointer = format!("/{}", entry.path.replace('.', "/"));
                assert!(parsed.pointer(&pointer).is_some(), "{chart}: {}", entry.path);
            }
        }
    }

    /// Keys that the schema knows and the values do not show. What is empty by default may have keys that are not shown.
    fn hidden(schema: &Value, values: &Value, path: &str, found: &mut Vec<String>) {
        let (Some(properties), Some(values)) = (schema["properties"].as_object(), values.as_object()) else { return };
        for (key, schema) in properties.iter().filter(|_| !values.is_empty()) {
            match values.get(key) {
                Some(value) => hidden(schema, value, &format!("{path}/{key}"), found),
                None => found.push(format!("{path}/{key}")),
            }
        }
    }

    #[test]
    fn the_schema_knows_no_key_that_the_values_hide() {
        let mut found = Vec::new();
        for chart in CHARTS {
            let schema = read(&crate::repository().join(chart).join("values.schema.json")).unwrap();
            hidden(&serde_json::from_str(&schema).unwrap(), &values(chart).1, chart, &mut found);
        }
        // Helm adds it to a chart that is a part of another one.
        found.retain(|path| path != "charts/multigres-operator-crds/global");
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn charts_have_the_version_of_the_programs() {
        for chart in CHARTS {
            let text = read(&crate::repository().join(chart).join("Chart.yaml")).unwrap();
            let chart: Value = serde_saphyr::from_str(&text).unwrap();
            for key in ["version", "appVersion"] {
                assert_eq!(chart[key], env!("CARGO_PKG_VERSION"), "{key} of {}", chart["name"]);
            }
        }
    }
}
