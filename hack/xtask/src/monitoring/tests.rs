use std::collections::BTreeSet;

use super::*;

/// The parts that every runbook has.
const PARTS: [&str; 4] = ["Meaning", "Impact", "Diagnosis", "Mitigation"];

/// Labels that Prometheus gives to every series of a target.
const OF_TARGETS: [&str; 5] = ["job", "instance", "namespace", "pod", "le"];

fn dashboards() -> Vec<(String, Value)> {
    let files = sources(&crate::repository(), DASHBOARDS).unwrap();
    files.into_iter().map(|(name, text)| (name, serde_json::from_str(&text).unwrap())).collect()
}

fn runbooks() -> BTreeMap<String, String> {
    sources(&crate::repository(), RUNBOOKS).unwrap()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let mark = format!("```{language}\n");
    text.split(&mark).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[track_caller]
fn assert_listed(place: &str, expression: &str) {
    let names = query::names(expression);
    assert!(!names.is_empty(), "{place}: {expression} asks for no series");
    for name in names {
        assert!(query::is_listed(&name), "{place}: nobody exports {name}");
    }
    for (name, labels) in query::selectors(expression) {
        let Some(family) = query::family(&name) else { continue };
        for label in labels {
            let known = family.labels.contains(&label.as_str()) || OF_TARGETS.contains(&label.as_str());
            assert!(known, "{place}: {name} has no label {label}");
        }
    }
}

#[test]
fn generated_files_are_current() {
    run(&crate::repository(), true).unwrap();
}

#[test]
fn a_missing_or_left_over_file_is_drift() {
    let root = std::env::temp_dir().join(format!("xtask-monitoring-{}", std::process::id()));
    for folder in [RULES, DASHBOARDS, RUNBOOKS, "docs"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(crate::repository().join(DOCS), root.join(DOCS)).unwrap();
    let rule = "MultigresOperatorDown.yaml";
    fs::copy(crate::repository().join(RULES).join(rule), root.join(RULES).join(rule)).unwrap();
    assert!(run(&root, true).unwrap_err().to_string().contains("prometheus-rules.yaml"));
    run(&root, false).unwrap();
    run(&root, true).unwrap();
    fs::write(root.join(CHART).join("rules/MultigresOld.yaml"), "groups: []\n").unwrap();
    assert!(run(&root, true).unwrap_err().to_string().contains("MultigresOld.yaml"));
    run(&root, false).unwrap();
    run(&root, true).unwrap();
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn every_series_of_rules_dashboards_and_runbooks_is_listed() {
    for alert in alerts(&crate::repository()).unwrap() {
        assert_listed(&alert.name, alert.text("expr"));
    }
    for (name, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().unwrap() {
                assert_listed(&format!("{name}, {}", panel["title"]), target["expr"].as_str().unwrap());
            }
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            if let Some(query) = variable["query"]["query"].as_str() {
                let series = query.trim_start_matches("label_values(").split(['{', ',']).next().unwrap();
                assert!(query::is_listed(series), "{name}: nobody exports {series}");
            }
        }
    }
    for (name, text) in runbooks() {
        for line in blocks(&text, "promql").into_iter().flat_map(str::lines) {
            assert_listed(&name, line);
        }
    }
}

#[test]
fn every_alert_says_how_bad_it_is_and_leads_to_its_runbook() {
    let runbooks = runbooks();
    let alerts = alerts(&crate::repository()).unwrap();
    for alert in &alerts {
        assert_eq!(alert.text("alert"), alert.name);
        assert!(["info", "warning", "critical"].contains(&alert.severity()), "{}", alert.name);
        let url = alert.rule["annotations"]["runbook_url"].as_str().unwrap();
        let file = url.split_once(&format!("{MAIN}runbooks/")).unwrap().1;
        assert!(runbooks.contains_key(file), "{url} leads nowhere");
        assert_eq!(file, format!("{}.md", alert.name));
    }
    let names: BTreeSet<String> = alerts.iter().map(|alert| format!("{}.md", alert.name)).collect();
    let books: BTreeSet<String> = runbooks.keys().filter(|name| *name != "README.md").cloned().collect();
    assert_eq!(names, books, "runbooks and alerts");
    let tests: BTreeSet<String> = sources(&crate::repository(), "monitoring/tests").unwrap().into_keys().collect();
    assert_eq!(tests, alerts.iter().map(|alert| format!("{}.yaml", alert.name)).collect(), "tests and alerts");
}

#[test]
fn every_runbook_has_its_parts_and_its_links_resolve() {
    let repository = crate::repository();
    for (name, text) in runbooks() {
        if name != "README.md" {
            for part in PARTS {
                let body =
                    text.split_once(&format!("\n## {part}\n")).map(|(_, rest)| rest.split("\n## ").next().unwrap());
                assert!(body.is_some_and(|body| body.trim().len() > 5), "{name} has no part {part}");
            }
            assert!(!blocks(&text, "sh").is_empty() && !blocks(&text, "promql").is_empty(), "{name} asks nobody");
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.starts_with("http") {
                let file = link.split('#').next().unwrap_or_default();
                assert!(repository.join(RUNBOOKS).join(file).exists(), "{name}: {link} leads nowhere");
            }
        }
    }
}

#[test]
fn dashboards_have_variables_units_and_links_that_lead_somewhere() {
    let all = dashboards();
    let uids: BTreeSet<String> = all.iter().map(|(_, d)| format!("/d/{}", d["uid"].as_str().unwrap())).collect();
    let runbooks = runbooks();
    let leads = |url: &str| match url.split_once(&format!("{MAIN}runbooks/")) {
        Some((_, file)) => runbooks.contains_key(file),
        None => uids.contains(url),
    };
    assert_eq!(uids.len(), all.len());
    for (name, dashboard) in &all {
        let links = dashboard["links"].as_array().unwrap();
        assert_eq!(links.iter().filter(|link| uids.contains(link["url"].as_str().unwrap())).count(), all.len() - 1);
        let variables: BTreeSet<&str> =
            dashboard["templating"]["list"].as_array().unwrap().iter().filter_map(|v| v["name"].as_str()).collect();
        assert!(variables.contains("datasource") && variables.len() > 1, "{name}");
        let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
        let mut alerts_shown = 0;
        for panel in panels(dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: {title} shares its id");
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{name}: {title} is not described");
            assert!(
                !panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().is_empty(),
                "{name}: {title} has no unit"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}: {title}");
            let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{name}: {title} is too wide");
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(cells.insert((x, y)), "{name}: {title} lies over another panel");
                }
            }
            for link in panel["links"].as_array().into_iter().flatten() {
                alerts_shown += 1;
                assert!(leads(link["url"].as_str().unwrap()), "{name}: {link} leads nowhere");
            }
            let text = panel.to_string();
            for used in text.split('$').skip(1) {
                let used: String =
                    used.trim_start_matches('{').chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                assert!(used.starts_with("__") || variables.contains(used.as_str()), "{name}: {title} uses ${used}");
            }
        }
        assert!(alerts_shown > 5, "{name} leads to few runbooks");
        for link in links {
            assert!(leads(link["url"].as_str().unwrap()), "{name}: {link} leads nowhere");
        }
    }
}

#[test]
fn values_of_the_chart_are_those_of_the_rules() {
    let path = crate::repository().join("charts/multigres-operator/values.yaml");
    let values: Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let settings = &values["monitoring"]["prometheusRule"];
    let rules = settings["rules"].as_object().unwrap();
    let alerts = alerts(&crate::repository()).unwrap();
    assert_eq!(rules.len(), alerts.len());
    for alert in &alerts {
        let value = &rules[&alert.name];
        assert_eq!(value["for"], alert.text("for"), "{}", alert.name);
        assert_eq!(value["severity"], alert.severity(), "{}", alert.name);
        match value.get("threshold") {
            // The number of replicas, which is another value.
            Some(Value::Null) => assert_eq!(alert.name, "MultigresAdmissionDegraded"),
            threshold => {
                let of_rule = alert.threshold().map(|text| text.parse::<f64>().unwrap());
                assert_eq!(threshold.and_then(Value::as_f64), of_rule, "{}", alert.name);
            }
        }
        let group = alert.group.trim_start_matches("multigres-operator.");
        assert_eq!(settings["groups"][group], true, "{}", alert.name);
    }
}

#[test]
fn docs_show_a_picture_of_every_dashboard() {
    let docs = fs::read_to_string(crate::repository().join(DOCS)).unwrap();
    for (name, _) in dashboards() {
        let picture = format!("images/dashboard-{}.svg", name.trim_end_matches(".json"));
        assert!(docs.contains(&format!("]({picture})")), "no {picture}");
        assert!(crate::repository().join("docs").join(&picture).exists());
    }
}
