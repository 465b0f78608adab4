//! The table of figures, each beside its gate.

/// Rows of the table.
#[derive(Default)]
pub struct Report {
    rows: Vec<String>,
}

impl Report {
    /// A figure without a gate.
    pub fn row(&mut self, clusters: usize, measure: &str, figure: &str) {
        self.push(clusters, measure, figure, "–", "–");
    }

    /// A figure with its unit, which may be at most the gate, if there is one for it.
    pub fn gated(&mut self, clusters: usize, measure: &str, figure: (f64, &str), gate: Option<f64>) {
        let (value, unit) = figure;
        let text = shown(value, unit);
        match gate {
            None => self.row(clusters, measure, &text),
            Some(gate) => {
                let mark = if value <= gate { "met" } else { "**missed**" };
                self.push(clusters, measure, &text, &shown(gate, unit), mark);
            }
        }
    }

    fn push(&mut self, clusters: usize, measure: &str, figure: &str, gate: &str, mark: &str) {
        let row = format!("| {clusters} | {measure} | {figure} | {gate} | {mark} |");
        eprintln!("{row}");
        self.rows.push(row);
    }

    /// Prints the table, if anything was measured.
    pub fn print(&self) {
        if self.rows.is_empty() {
            return;
        }
        println!("| Clusters | Measure | Figure | Gate | Kept |\n|---|---|---|---|---|");
        for row in &self.rows {
            println!("{row}");
        }
    }
}

fn shown(value: f64, unit: &str) -> String {
    let number = if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

/// A count as a figure; what is counted here stays far below the largest one.
pub fn total(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A count for each of some clusters.
pub fn per(count: usize, clusters: usize) -> f64 {
    total(count) / total(clusters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_met_at_its_limit_and_missed_above() {
        let mut report = Report::default();
        report.gated(100, "RSS", (25.0, "MB"), Some(25.0));
        report.gated(100, "RSS", (25.1, "MB"), Some(25.0));
        report.gated(7, "RSS", (25.1, "MB"), None);
        assert_eq!(
            report.rows,
            [
                "| 100 | RSS | 25 MB | 25 MB | met |",
                "| 100 | RSS | 25.1 MB | 25 MB | **missed** |",
                "| 7 | RSS | 25.1 MB | – | – |"
            ]
        );
    }
}
