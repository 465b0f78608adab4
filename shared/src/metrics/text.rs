//! Samples that are made while somebody reads them, written straight into the answer.
//!
//! What is known of objects is in the watches' tables; copying it into gauges would keep series of objects that are gone, and
//! cost memory for each of them all the time.

use std::fmt::Write as _;

use super::families::{self, Family};

/// Makes samples when it is asked.
pub trait Source: Send + Sync {
    /// Brings registered gauges up to date, before they are read.
    fn refresh(&self) {}

    /// Writes families of its own.
    fn write(&self, text: &mut Text) {
        let _ = text;
    }
}

/// The answer under construction.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
}

impl Text {
    /// An answer that begins with what the registry says.
    pub fn after(out: String) -> Self {
        Self { out }
    }

    /// Starts a family of the list; it is announced with its first sample. Samples of a name that is not listed go nowhere, which
    /// a test of every source would notice.
    pub fn family(&mut self, name: &str) -> Samples<'_> {
        Samples { out: &mut self.out, family: families::find(name), announced: false }
    }

    /// The whole answer.
    pub fn finish(self) -> String {
        self.out
    }
}

/// Samples of one family.
#[derive(Debug)]
pub struct Samples<'a> {
    out: &'a mut String,
    family: Option<&'static Family>,
    announced: bool,
}

impl Samples<'_> {
    /// Adds a sample; the values are those of the family's labels, in their order.
    pub fn add(&mut self, values: &[&str], sample: f64) {
        let Some(family) = self.family else { return };
        debug_assert_eq!(values.len(), family.labels.len(), "{}", family.name);
        if !self.announced {
            self.announced = true;
            let (name, kind) = (family.name, family.kind.as_str());
            let _ = writeln!(self.out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
        }
        self.out.push_str(family.name);
        for (position, (label, value)) in family.labels.iter().zip(values).enumerate() {
            self.out.push(if position == 0 { '{' } else { ',' });
            self.out.push_str(label);
            self.out.push_str("=\"");
            escape(self.out, value);
            self.out.push('"');
        }
        if !family.labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {sample}");
    }
}

fn escape(out: &mut String, value: &str) {
    for letter in value.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn family_is_announced_once_and_only_with_a_sample() {
        let mut text = Text::default();
        let _empty = text.family("multigres_operator_pvc_orphaned");
        let mut samples = text.family("multigres_operator_cluster_cells");
        samples.add(&["minimal", "prod"], 3.0);
        samples.add(&["a\"b\\", "x\ny"], 1_800_000_000.5);
        assert_eq!(
            text.finish(),
            "# HELP multigres_operator_cluster_cells Cells of a cluster.\n# TYPE multigres_operator_cluster_cells gauge\n\
             multigres_operator_cluster_cells{cluster=\"minimal\",namespace=\"prod\"} 3\n\
             multigres_operator_cluster_cells{cluster=\"a\\\"b\\\\\",namespace=\"x\\ny\"} 1800000000.5\n"
        );
    }

    #[test]
    fn names_that_are_not_listed_get_no_samples() {
        let mut text = Text::default();
        text.family("multigres_operator_nonsense").add(&[], 1.0);
        assert_eq!(text.finish(), "");
    }
}
