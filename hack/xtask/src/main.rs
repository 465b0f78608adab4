//! Chores of the repository: `cargo xtask crds` writes the custom resource definitions, `cargo xtask monitoring` what is made from
//! `monitoring/` and `cargo xtask chart` what the charts say of their values, `--check` compares them, and `cargo xtask purity` keeps
//! effects out of the modules that decide.

mod chart;
mod crds;
mod marks;
mod monitoring;
mod purity;
#[cfg(test)]
mod reasons;
mod yaml;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Chores of the repository.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Chore {
    /// Write the custom resource definitions into `crds/` and into the charts.
    Crds {
        /// Write nothing; fail when a committed file differs.
        #[arg(long)]
        check: bool,
    },
    /// Write what is made from `monitoring/`: manifests, the chart's copies, pictures and tables of the documentation.
    Monitoring {
        /// Write nothing; fail when a committed file differs.
        #[arg(long)]
        check: bool,
    },
    /// Write what the values of the charts mean into their READMEs and schemas.
    Chart {
        /// Write nothing; fail when a committed file differs.
        #[arg(long)]
        check: bool,
    },
    /// Fail where a pure module names a client, a runtime, the environment, files or a clock.
    Purity,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().chore {
        Chore::Crds { check } => crds::run(&repository(), check),
        Chore::Monitoring { check } => monitoring::run(&repository(), check),
        Chore::Chart { check } => chart::run(&repository(), check),
        Chore::Purity => purity::run(&repository()),
    }
}

/// The root of the repository, two levels above this crate.
fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_name_their_version_and_their_commit() {
        let version = format!("org.opencontainers.image.version=\"{}\"", env!("CARGO_PKG_VERSION"));
        for file in ["Dockerfile.controller", "Dockerfile.admission"] {
            let text = std::fs::read_to_string(repository().join(file)).unwrap();
            assert!(text.contains(&version), "{file}: no {version}");
            let taken = text.lines().filter(|line| line.starts_with("ARG GIT_REVISION=")).count();
            assert_eq!(taken, 2, "{file}: one stage builds the program and the other one has the label");
            let apart = ["\nARG TARGETARCH\n", "id=target-$TARGETARCH,target=/src/target"];
            assert!(apart.iter().all(|part| text.contains(part)), "{file}: platforms share a folder of programs");
            let user = text.lines().rfind(|line| line.starts_with("USER "));
            assert_eq!(user, Some("USER 65532:65532"), "{file}: the program runs as root");
        }
    }
}
