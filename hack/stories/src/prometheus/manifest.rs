//! The monitors and alerts of the chart, as it renders them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    bed::OPERATOR_NAMESPACE,
    helm::{RELEASE, Tools},
    lesson,
};

/// Templates that are rendered, below the chart's folder of templates.
const TEMPLATES: [&str; 2] = ["monitoring/servicemonitors.yaml", "monitoring/prometheusrule.yaml"];

/// Renders all monitors, with this interval, and the alerts, with further values.
pub(super) async fn render(tools: &Tools, interval: &str, values: &[String]) -> Result<Vec<Value>> {
    let chart = lesson::root().join("charts/multigres-operator");
    let chart = chart.to_str().context("the path of the chart is text")?;
    let mut words: Vec<String> =
        ["template", RELEASE, chart, "--namespace", OPERATOR_NAMESPACE, "--api-versions", "monitoring.coreos.com/v1"]
            .map(str::to_owned)
            .into();
    for template in TEMPLATES {
        words.extend(["--show-only".to_owned(), format!("templates/{template}")]);
    }
    let mut all = vec!["crds.install=false".to_owned(), "monitoring.prometheusRule.enabled=true".to_owned()];
    for monitor in ["serviceMonitor", "dataPlane.postgres", "dataPlane.etcd"] {
        all.push(format!("monitoring.{monitor}.enabled=true,monitoring.{monitor}.interval={interval}"));
    }
    for value in all.iter().chain(values) {
        words.extend(["--set".to_owned(), value.clone()]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    documents(&tools.succeed("helm", &words).await?)
}

/// The attributes of resources that become labels of pushed series: those of the evaluation stack's server.
pub(crate) fn promoted() -> Result<Value> {
    let path = lesson::root().join("monitoring/overlay/prometheus.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let servers = documents(&text).with_context(|| format!("parsing {}", path.display()))?;
    let server = servers.into_iter().find(|document| document["kind"] == "Prometheus").context("no Prometheus")?;
    let attributes = server["spec"]["otlp"]["promoteResourceAttributes"].clone();
    ensure!(attributes.is_array(), "{} promotes nothing", path.display());
    Ok(attributes)
}

/// The documents of a text.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>> {
    parts(text).iter().map(|part| Ok(serde_saphyr::from_str(part)?)).collect()
}

/// The texts of its documents; those that say nothing are left out.
pub(crate) fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.lines() {
        if line.trim_end() == "---" {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts.retain(|part| part.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#')));
    parts
}

/// The groups of all alerts, with shorter windows.
pub(super) fn groups(manifests: &[Value], window: &str) -> Result<Vec<Value>> {
    let rules = manifests.iter().filter(|manifest| manifest["kind"] == "PrometheusRule");
    let mut groups: Vec<Value> =
        rules.flat_map(|rule| rule["spec"]["groups"].as_array().into_iter().flatten()).cloned().collect();
    ensure!(!groups.is_empty(), "the chart renders no alerts");
    for rule in groups.iter_mut().filter_map(|group| group["rules"].as_array_mut()).flatten() {
        let expression = rule["expr"].as_str().context("an alert without an expression")?;
        rule["expr"] = shortened(expression, window).into();
    }
    Ok(groups)
}

/// The expression with another window wherever it has one.
fn shortened(expression: &str, window: &str) -> String {
    let is_window = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_digit() || "smhdwy".contains(c))
    };
    let (mut text, mut rest) = (String::new(), expression);
    while let Some((before, after)) = rest.split_once('[') {
        text.push_str(before);
        text.push('[');
        rest = match after.split_once(']') {
            Some((inside, behind)) if is_window(inside) => {
                text.push_str(window);
                text.push(']');
                behind
            }
            _ => after,
        };
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn windows_are_shortened_and_nothing_else_is() {
        assert_eq!(shortened("rate(a[5m]) / rate(b[1h30m])", "30s"), "rate(a[30s]) / rate(b[30s])");
        assert_eq!(shortened(r#"a{b=~"[0-9]+[x]"} > 1"#, "30s"), r#"a{b=~"[0-9]+[x]"} > 1"#);
        assert_eq!(shortened("a[", "30s"), "a[");
    }

    #[test]
    fn documents_without_content_are_left_out() {
        let all =
            documents("---\n# Source: x\nkind: A\n---\n# nothing\n\n---\nkind: B\ntext: |\n  a\n  --- b\n").unwrap();
        let kinds: Vec<&Value> = all.iter().map(|document| &document["kind"]).collect();
        assert_eq!(kinds, [&json!("A"), &json!("B")]);
    }

    #[test]
    fn clusters_are_told_apart_by_what_the_evaluation_stack_promotes() {
        let promoted: Vec<String> = serde_json::from_value(promoted().unwrap()).unwrap();
        assert!(promoted.contains(&"multigres.cluster".to_owned()), "{promoted:?}");
    }

    #[test]
    fn all_groups_of_all_rules_are_taken() {
        let rule = json!({ "kind": "PrometheusRule", "spec": { "groups": [
            { "name": "a", "rules": [{ "alert": "A", "expr": "rate(x[5m]) > 0", "for": "4s" }] },
            { "name": "b", "rules": [{ "alert": "B", "expr": "y == 1" }] },
        ] } });
        let found = groups(&[json!({ "kind": "ServiceMonitor" }), rule], "30s").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0]["rules"][0], json!({ "alert": "A", "expr": "rate(x[30s]) > 0", "for": "4s" }));
        assert!(groups(&[], "30s").is_err());
    }
}
