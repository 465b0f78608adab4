//! PostgreSQL settings, judged by the catalogue.

use std::collections::{BTreeMap, BTreeSet};

use crate::pgconfig::render::is_name;
use crate::pgconfig::{Managed, catalog, check as check_value, managed, parse};

use super::{FieldError, Findings, Verdict, Warning, limits};

/// Settings of a shard, with where they came from.
pub fn check(findings: &mut Findings<'_>, at: &str, inline: &BTreeMap<String, String>) {
    let verdict = settings(at, inline);
    for FieldError { path, value, message, .. } in verdict.errors {
        findings.error(&path, value, message);
    }
    findings.verdict.warnings.extend(verdict.warnings);
}

/// Judges inline settings at the given path, as a cluster or a ShardTemplate carries them.
pub fn settings(at: &str, inline: &BTreeMap<String, String>) -> Verdict {
    let mut verdict = Verdict::default();
    if inline.len() > limits::POSTGRES_SETTINGS {
        let message = format!("at most {} settings are taken", limits::POSTGRES_SETTINGS);
        verdict.errors.push(error(at.to_owned(), &inline.len().to_string(), message));
    }
    let mut seen = BTreeSet::new();
    for (name, value) in inline {
        let path = format!("{at}[{name}]");
        let canonical = name.trim().to_ascii_lowercase();
        if !is_name(&canonical) {
            verdict.errors.push(error(
                path,
                value,
                "the name must be an identifier, or two joined by a dot".to_owned(),
            ));
            continue;
        }
        if !seen.insert(canonical.clone()) {
            let message = format!("{canonical} is given twice in different case; keep one");
            verdict.errors.push(error(path.clone(), value, message));
        }
        match managed(&canonical) {
            Some(Managed::Refused(reason)) => {
                verdict.errors.push(error(path, value, format!("cannot be set here: {reason}; remove it")));
                continue;
            }
            Some(Managed::Risky(reason)) => {
                verdict.warnings.push(Warning { path: path.clone(), message: reason.to_owned() });
            }
            None => {}
        }
        match catalog::lookup(&canonical) {
            Some(setting) => {
                if let Err(reason) = check_value(setting, value) {
                    verdict.errors.push(error(path, value, reason.to_string()));
                }
            }
            None if canonical.contains('.') => {
                if value.chars().any(char::is_control) {
                    verdict.errors.push(error(path, value, "must not contain control characters".to_owned()));
                }
            }
            None => verdict.errors.push(error(
                path,
                value,
                "is no setting of PostgreSQL 17; correct the name (extension settings have a dot in theirs)".to_owned(),
            )),
        }
    }
    verdict
}

/// Judges the text of a referenced ConfigMap; its owner is not asked, so everything is a warning.
pub fn reference(at: &str, text: &str) -> Vec<Warning> {
    let parsed = parse(text);
    let verdict = settings(at, &parsed.settings);
    let mut warnings: Vec<_> = verdict
        .errors
        .into_iter()
        .map(|error| Warning { path: error.path, message: format!("{:?}: {}", error.value, error.message) })
        .collect();
    warnings.extend(verdict.warnings);
    warnings.extend(parsed.includes.into_iter().map(|include| Warning {
        path: at.to_owned(),
        message: format!("{include:?} pulls in settings that are not checked, and changes of which go unnoticed"),
    }));
    warnings
}

fn error(path: String, value: &str, message: String) -> FieldError {
    FieldError { path, value: value.to_owned(), message, source: None }
}
