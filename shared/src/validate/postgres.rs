//! PostgreSQL settings, judged by the catalogue.

use std::collections::{BTreeMap, BTreeSet};

use crate::field_path::At;
use crate::pgconfig::render::is_name;
use crate::pgconfig::{Managed, catalog, check as check_value, managed, parse};

use super::{Findings, Warning, limits, reason};

/// Inline settings, as a cluster or a ShardTemplate carries them.
pub fn check(findings: &mut Findings<'_>, at: &At<'_>, inline: &BTreeMap<String, String>) {
    findings.at_most(at, inline.len(), limits::POSTGRES_SETTINGS, "settings are taken");
    let mut seen = BTreeSet::new();
    for (name, value) in inline {
        let at = at.key(name);
        let canonical = name.trim().to_ascii_lowercase();
        if !is_name(&canonical) {
            findings.invalid(&at, value, "the name must be an identifier, or two joined by a dot; correct it");
            continue;
        }
        if !seen.insert(canonical.clone()) {
            let message = format!("{canonical} is given twice in different case; keep one");
            findings.error(&at, reason::DUPLICATE, value, message);
        }
        match managed(&canonical) {
            Some(Managed::Refused(reason)) => {
                findings.forbidden(&at, value, format!("cannot be set here: {reason}; remove it"));
                continue;
            }
            Some(Managed::Risky(reason)) => findings.warn(&at, reason),
            None => {}
        }
        match catalog::lookup(&canonical) {
            Some(setting) => {
                if let Err(reason) = check_value(setting, value) {
                    findings.invalid(&at, value, reason.to_string());
                }
            }
            None if canonical.contains('.') => {
                if value.chars().any(char::is_control) {
                    findings.invalid(&at, value, "must not contain control characters; remove them");
                }
            }
            None => findings.invalid(
                &at,
                value,
                "is no setting of PostgreSQL 17; correct the name (extension settings have a dot in theirs)",
            ),
        }
    }
}

/// Judges the text of a referenced ConfigMap; its owner is not asked, so everything is a warning.
pub fn reference(at: &str, text: &str) -> Vec<Warning> {
    let parsed = parse(text);
    let mut findings = Findings::new(None);
    check(&mut findings, &At::Root(at), &parsed.settings);
    let verdict = findings.verdict;
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
