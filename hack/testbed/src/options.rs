//! What a bed shall be: its name and its nodes.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The most real nodes that fit into a bed's address ranges.
pub const MOST_KUBELETS: usize = 16;
/// The most simulated nodes a bed takes.
pub const MOST_KWOK_NODES: usize = 5000;

/// Which nodes a bed has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeMode {
    /// Real kubelets with containerd.
    Kubelet(usize),
    /// Simulated nodes whose pods are Ready without running.
    Kwok(usize),
    /// One real kubelet where the machine allows it, else three simulated nodes.
    Auto,
}

impl FromStr for NodeMode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let Some((kind, count)) = text.split_once(':') else {
            bail!("{text:?} is none of kubelet:N, kwok:N, auto");
        };
        let count: usize = count.parse().with_context(|| format!("{count:?} in {text:?} is not a number of nodes"))?;
        let (mode, most) = match kind {
            "kubelet" => (Self::Kubelet(count), MOST_KUBELETS),
            "kwok" => (Self::Kwok(count), MOST_KWOK_NODES),
            _ => bail!("{text:?} is none of kubelet:N, kwok:N, auto"),
        };
        ensure!((1..=most).contains(&count), "{kind} takes 1 to {most} nodes, not {count}");
        Ok(mode)
    }
}

impl fmt::Display for NodeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubelet(count) => write!(f, "kubelet:{count}"),
            Self::Kwok(count) => write!(f, "kwok:{count}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// What a bed shall be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells beds apart; part of every name on the host.
    pub name: String,
    /// Which nodes it has.
    pub nodes: NodeMode,
}

impl Options {
    /// Options for a bed of this name.
    pub fn new(name: impl Into<String>, nodes: NodeMode) -> Self {
        Self { name: name.into(), nodes }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new("dev", NodeMode::Auto)
    }
}

/// Refuses names that cannot be part of host names, paths and cgroups.
pub fn check_name(name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= 20
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    ensure!(fits, "a bed's name has 1 to 20 lower-case letters, digits and inner dashes; {name:?} does not");
    Ok(())
}

/// The zone labels of the node with this index; three zones in turn.
pub fn zone_labels(index: usize) -> [(&'static str, String); 3] {
    let zone = index % 3;
    [
        ("topology.kubernetes.io/zone", format!("zone-{}", ["a", "b", "c"][zone])),
        ("topology.kubernetes.io/region", "local".to_owned()),
        ("topology.k8s.aws/zone-id", format!("use1-az{}", zone + 1)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_modes_survive_a_round_trip_through_text() {
        for text in ["kubelet:1", "kubelet:3", "kwok:100", "auto"] {
            assert_eq!(text.parse::<NodeMode>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn node_modes_refuse_other_words_and_counts_out_of_range() {
        for text in ["kubelet", "kubelet:", "kubelet:0", "kubelet:17", "kwok:-1", "kwok:5001", "docker:1", ""] {
            assert!(text.parse::<NodeMode>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn names_that_cannot_name_a_namespace_are_refused() {
        for name in ["", "-a", "a-", "A", "a/b", "a.b", "a-name-with-too-many-letters"] {
            assert!(check_name(name).is_err(), "{name:?} was accepted");
        }
        for name in ["dev", "ci-1", "a"] {
            check_name(name).unwrap();
        }
    }

    #[test]
    fn the_fourth_node_shares_the_zone_of_the_first() {
        assert_eq!(zone_labels(3), zone_labels(0));
        assert_eq!(zone_labels(2)[0].1, "zone-c");
        assert_eq!(zone_labels(2)[2].1, "use1-az3");
    }
}
