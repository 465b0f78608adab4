//! Every case of the rules gets the answer that it expects, and every answer can be read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod rule_cases;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rule_cases::{Case, cases};
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::api::v1alpha1::MultigresClusterSpec;
use shared::resolve::{Settings, Templates};
use shared::validate::template::{self, Consumer, Content};
use shared::validate::{NodeLabels, StorageClasses, Subject, Surroundings, Verdict, backup_run, review};

const NAMESPACE: &str = "prod";

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rules")
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn all<T: DeserializeOwned>(specs: &BTreeMap<String, Value>) -> BTreeMap<String, T> {
    specs.iter().map(|(name, spec)| (name.clone(), read(spec))).collect()
}

fn judge(case: &Case) -> Verdict {
    let settings = Settings::default();
    let templates = Templates {
        core: all(&case.templates.core),
        cell: all(&case.templates.cell),
        shard: all(&case.templates.shard),
    };
    let around = Surroundings {
        storage_classes: case
            .surroundings
            .storage_classes
            .clone()
            .map(|classes| StorageClasses { names: classes.names.into_iter().collect(), has_default: classes.default }),
        nodes: case.surroundings.nodes.clone().map(|nodes| {
            NodeLabels(nodes.into_iter().map(|(label, values)| (label, values.into_iter().collect())).collect())
        }),
    };
    let clusters: BTreeMap<String, MultigresClusterSpec> = all(&case.clusters);
    let consumers: Vec<_> = clusters.iter().map(|(name, spec)| Consumer { name, spec }).collect();
    if case.kind == "MultigresCluster" {
        let spec = read(case.object.as_ref().unwrap());
        let subject =
            Subject { name: &case.name, namespace: NAMESPACE, spec: &spec, templates: &templates, settings: &settings };
        return review(case.old.as_ref().map(read).as_ref(), &subject, &around);
    }
    if case.kind == "MultigresBackup" {
        let known: Vec<_> = clusters.iter().map(|(name, spec)| (name.as_str(), spec)).collect();
        return backup_run(&read(case.object.as_ref().unwrap()), Some(known.as_slice()));
    }
    macro_rules! judged {
        ($content:path) => {{
            let old = case.old.as_ref().map(read);
            let new = case.object.as_ref().map(read);
            match (&old, &new) {
                (old, Some(new)) => template::written(
                    NAMESPACE,
                    &case.name,
                    old.as_ref().map($content),
                    $content(new),
                    &consumers,
                    &templates,
                    &settings,
                    &around,
                )
                .finish(),
                (Some(old), None) => {
                    template::deleted(NAMESPACE, &case.name, $content(old), &consumers, &templates, &settings, &around)
                        .finish()
                }
                (None, None) => panic!("{}: nothing happens", case.case),
            }
        }};
    }
    match case.kind.as_str() {
        "CoreTemplate" => judged!(Content::Core),
        "CellTemplate" => judged!(Content::Cell),
        "ShardTemplate" => judged!(Content::Shard),
        kind => panic!("{kind} has no rules"),
    }
}

/// What is not as the case expects it.
fn complaints(case: &Case) -> Vec<String> {
    let verdict = judge(case);
    let mut wrong = Vec::new();
    let errors = verdict.errors.iter().zip(&case.expect.deny).all(|(error, deny)| {
        error.path == deny.path && error.reason == deny.reason && error.message.contains(&deny.message)
    });
    if !errors || verdict.errors.len() != case.expect.deny.len() {
        wrong.push(format!("errors: {:#?}", verdict.errors));
    }
    if let Some(expected) = &case.expect.warnings {
        let warnings =
            verdict.warnings.iter().zip(expected).all(|(warning, expected)| {
                warning.path == expected.path && warning.message.contains(&expected.message)
            });
        if !warnings || verdict.warnings.len() != expected.len() {
            wrong.push(format!("warnings: {:#?}", verdict.warnings));
        }
    }
    // The API server cuts longer ones.
    wrong.extend(verdict.warnings.iter().map(ToString::to_string).filter(|warning| warning.len() > 256));
    if !verdict.is_accepted() && verdict != judge(case) {
        wrong.push("the answer differs from one time to the next".to_owned());
    }
    if case.schema.is_some() && case.expect.deny.is_empty() {
        wrong.push("the API server refuses what we allow".to_owned());
    }
    wrong
}

#[test]
fn every_case_gets_the_answer_that_it_expects() {
    let cases = cases(&folder());
    let failures: Vec<_> = cases
        .iter()
        .map(|case| (case, complaints(case)))
        .filter(|(_, wrong)| !wrong.is_empty())
        .map(|(case, wrong)| format!("{} {}: {}\n{}", case.file, case.rule, case.case, wrong.join("\n")))
        .collect();
    assert!(failures.is_empty(), "{} of {} cases failed:\n{}", failures.len(), cases.len(), failures.join("\n\n"));
}

#[test]
fn every_rule_has_a_case() {
    let cases = cases(&folder());
    let rules: BTreeSet<_> = cases.iter().map(|case| case.rule.as_str()).collect();
    // E6 and E10 (what cannot be resolved) are R6 and R7; E12 needs a cluster without cells, as E11 does.
    let expected = (1..=7)
        .map(|number| format!("R{number}"))
        .chain((1..=20).filter(|number| ![6, 10, 12].contains(number)).map(|number| format!("E{number}")))
        .chain((1..=22).map(|number| format!("C{number}")))
        .chain((1..=8).map(|number| format!("W{number}")))
        .chain((1..=2).map(|number| format!("U{number}")))
        .chain([9, 10, 11, 13].map(|number| format!("P{number}")))
        .chain((1..=4).map(|number| format!("T{number}")))
        .chain(["V", "W", "alias", "pending", "repository", "run", "storage", "topology"].map(str::to_owned));
    let missing: Vec<_> = expected.filter(|rule| !rules.contains(rule.as_str())).collect();
    assert!(missing.is_empty(), "no case of {missing:?}");
}

#[test]
fn no_two_cases_have_one_name() {
    let mut seen = BTreeSet::new();
    for case in cases(&folder()) {
        assert!(seen.insert(case.case.clone()), "{}", case.case);
    }
}
