//! The tables of the documentation: families and alerts, between marks that stay.

use std::fmt::Write as _;

use shared::metrics::families::{ALL, FOREIGN, Program};

use super::Alert;
use crate::marks;

/// The text with its tables made anew.
pub fn fill(text: &str, alerts: &[Alert]) -> anyhow::Result<String> {
    let text = marks::fill(text, "families", &families())?;
    let text = marks::fill(&text, "foreign", &foreign())?;
    marks::fill(&text, "alerts", &alerts_table(alerts))
}

fn families() -> String {
    let mut out = "| Family | Type | Labels | From | Says |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for family in &ALL {
        let from = match family.program {
            Program::Controller => "controller",
            Program::Admission => "admission",
            Program::Both => "both",
        };
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {from} | {} |",
            family.name,
            family.kind.as_str(),
            labels.join(", "),
            family.help
        );
    }
    out
}

fn foreign() -> String {
    let mut out = "| Series | From |\n| --- | --- |\n".to_owned();
    for (name, from) in FOREIGN {
        let _ = writeln!(out, "| `{name}` | {from} |");
    }
    out
}

fn alerts_table(alerts: &[Alert]) -> String {
    let mut sorted: Vec<&Alert> = alerts.iter().collect();
    sorted.sort_by(|a, b| (&a.group, &a.name).cmp(&(&b.group, &b.name)));
    let mut out = "| Group | Alert | Severity | After | Threshold |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for alert in sorted {
        let _ = writeln!(
            out,
            "| {} | [{name}](../monitoring/runbooks/{name}.md) | {} | {} | {} |",
            alert.group.trim_start_matches("multigres-operator."),
            alert.severity(),
            alert.text("for"),
            alert.threshold().unwrap_or_default(),
            name = alert.name,
        );
    }
    out
}
