//! What is made from `monitoring/`: manifests for plain `kubectl apply`, the chart's copies, pictures of the dashboards, and the
//! tables of the documentation.

mod picture;
#[cfg(test)]
mod query;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

const RULES: &str = "monitoring/rules";
const DASHBOARDS: &str = "monitoring/dashboards";
const RUNBOOKS: &str = "monitoring/runbooks";
const CHART: &str = "charts/multigres-operator/files/monitoring";
const PICTURES: &str = "docs/images";
const DOCS: &str = "docs/observability.md";
/// Where links lead in the sources, and where in what belongs to one version.
const MAIN: &str = "/blob/main/monitoring/";

/// Writes the files below `root`, or compares them when `check` is set.
pub fn run(root: &Path, check: bool) -> anyhow::Result<()> {
    let wanted = files(root)?;
    let stale = stale(root, &wanted)?;
    let differing: Vec<&PathBuf> = wanted
        .iter()
        .filter(|(path, text)| fs::read_to_string(root.join(path)).ok().as_ref() != Some(*text))
        .map(|(path, _)| path)
        .collect();
    if check {
        if !differing.is_empty() || !stale.is_empty() {
            bail!("run `cargo xtask monitoring`: differing {differing:?}, left over {stale:?}");
        }
        return Ok(());
    }
    for path in differing {
        let text = &wanted[path];
        let path = root.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    for path in stale {
        fs::remove_file(root.join(&path)).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// One alert of `monitoring/rules`.
struct Alert {
    name: String,
    group: String,
    /// Lines of the rule, as they are in its file.
    lines: String,
    rule: Value,
}

impl Alert {
    fn text(&self, key: &str) -> &str {
        self.rule[key].as_str().unwrap_or_default()
    }

    fn severity(&self) -> &str {
        self.rule["labels"]["severity"].as_str().unwrap_or_default()
    }

    /// The number that its expression compares with, if users may choose it.
    fn threshold(&self) -> Option<&str> {
        self.text("expr").split_once(" # threshold")?.0.rsplit([' ', '\n']).next()
    }
}

/// Every generated file with its text.
fn files(root: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    for (source, folder) in [(RULES, "rules"), (RUNBOOKS, "runbooks")] {
        for (name, text) in sources(root, source)? {
            files.insert(Path::new(CHART).join(folder).join(name), text);
        }
    }
    let dashboards = sources(root, DASHBOARDS)?;
    for (name, text) in &dashboards {
        files.insert(Path::new(CHART).join("dashboards").join(name), of_version(text));
        let stem = name.trim_end_matches(".json");
        let dashboard: Value = serde_json::from_str(text).with_context(|| format!("read {name}"))?;
        files.insert(Path::new(PICTURES).join(format!("dashboard-{stem}.svg")), picture::draw(&dashboard));
    }
    let alerts = alerts(root)?;
    files.insert("monitoring/prometheus-rules.yaml".into(), prometheus_rule(&alerts));
    files.insert("monitoring/grafana-dashboards.yaml".into(), config_maps(&dashboards));
    let docs = fs::read_to_string(root.join(DOCS)).with_context(|| format!("read {DOCS}"))?;
    files.insert(DOCS.into(), table::fill(&docs, &alerts)?);
    Ok(files)
}

/// Links of a released file lead to the runbooks of its version.
fn of_version(text: &str) -> String {
    text.replace(MAIN, &format!("/blob/v{}/monitoring/", env!("CARGO_PKG_VERSION")))
}

fn alerts(root: &Path) -> anyhow::Result<Vec<Alert>> {
    let mut alerts = Vec::new();
    for (file, text) in sources(root, RULES)? {
        let parsed: Value = serde_saphyr::from_str(&text).with_context(|| format!("read {file}"))?;
        let group = &parsed["groups"][0];
        let start = text.find("      - alert:").with_context(|| format!("{file} has no alert"))?;
        alerts.push(Alert {
            name: file.trim_end_matches(".yaml").to_owned(),
            group: group["name"].as_str().unwrap_or_default().to_owned(),
            lines: text[start..].to_owned(),
            rule: group["rules"][0].clone(),
        });
    }
    Ok(alerts)
}

/// All alerts as one object of the Prometheus Operator.
fn prometheus_rule(alerts: &[Alert]) -> String {
    let mut groups: BTreeMap<&str, String> = BTreeMap::new();
    for alert in alerts {
        let rules = groups.entry(&alert.group).or_default();
        for line in alert.lines.lines() {
            rules.push_str("  ");
            rules.push_str(line);
            rules.push('\n');
        }
    }
    let mut out = format!(
        "{HEADER}apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: multigres-operator-alerts\n  \
         namespace: multigres-operator\n  labels:\n    app.kubernetes.io/name: multigres-operator\n    \
         app.kubernetes.io/component: monitoring\nspec:\n  groups:\n"
    );
    for (group, rules) in groups {
        out.push_str("    - name: ");
        out.push_str(group);
        out.push_str("\n      rules:\n");
        out.push_str(&rules);
    }
    of_version(&out)
}

const HEADER: &str = "# Generated by `cargo xtask monitoring`; change the files in monitoring/ instead.\n";

/// The dashboards as ConfigMaps that Grafana's sidecar finds.
fn config_maps(dashboards: &BTreeMap<String, String>) -> String {
    let mut out = HEADER.to_owned();
    for (file, text) in dashboards {
        let name = file.trim_end_matches(".json");
        out.push_str("---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: multigres-operator-dashboard-");
        out.push_str(name);
        out.push_str(
            "\n  namespace: multigres-operator\n  labels:\n    app.kubernetes.io/name: multigres-operator\n    \
             app.kubernetes.io/component: monitoring\n    grafana_dashboard: \"1\"\n  annotations:\n    \
             grafana_folder: Multigres\ndata:\n  multigres-",
        );
        out.push_str(file);
        out.push_str(": |\n");
        for line in of_version(text).lines() {
            out.push_str("    ");
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// The files of a folder by name.
fn sources(root: &Path, folder: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root.join(folder)).with_context(|| format!("list {folder}"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.insert(name, fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?);
    }
    Ok(found)
}

/// Copies whose source is gone.
fn stale(root: &Path, wanted: &BTreeMap<PathBuf, String>) -> anyhow::Result<Vec<PathBuf>> {
    let mut stale = Vec::new();
    for folder in ["rules", "runbooks", "dashboards"].map(|folder| Path::new(CHART).join(folder)) {
        let Ok(entries) = fs::read_dir(root.join(&folder)) else { continue };
        for entry in entries {
            let path = folder.join(entry?.file_name());
            if !wanted.contains_key(&path) {
                stale.push(path);
            }
        }
    }
    stale.sort();
    Ok(stale)
}
