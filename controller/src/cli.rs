//! Flags of the controller. Each can be set by an environment variable, too.

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use shared::{
    cli::{AdminArgs, ClientArgs, LeaseArgs, LogArgs},
    image::ImageSet,
    label,
};

use crate::settings::Settings;

/// Default name of the Lease; the Go operator's, so that the two never work side by side in one namespace.
pub const LEASE: &str = "multigres-operator.multigres.com";

/// Reconciles Multigres clusters.
#[derive(Debug, Parser)]
#[command(name = "controller", version, about)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Flags about logs.
    #[command(flatten)]
    pub log: LogArgs,
    /// Flags about metrics and probes.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Flags about leader election.
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// Flags about the API server.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Flags about reconciling.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// What to do instead of running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum Command {
    /// Reconcile (the default).
    Run,
    /// Print the version and exit.
    Version,
}

impl Args {
    /// Whether only the version was asked for.
    pub fn wants_version(&self) -> bool {
        self.command == Some(Command::Version)
    }
}

/// Flags about reconciling.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Reconciling")]
pub struct WorkArgs {
    /// Parallel passes per kind.
    #[arg(long, env = "CONCURRENCY", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub concurrency: u16,
    /// Node label that `zoneId` of a cell selects.
    #[arg(long, env = "ZONE_ID_LABEL", default_value = label::NODE_ZONE_ID)]
    pub zone_id_label: String,
    /// DNS domain of the Kubernetes cluster.
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Run exporters and poolers as native sidecars (Kubernetes 1.29 and newer).
    #[arg(long, env = "NATIVE_SIDECARS", value_enum, default_value_t = Sidecars::Auto)]
    pub native_sidecars: Sidecars,
    /// Namespace of this process.
    #[arg(long, env = "POD_NAMESPACE", default_value = "multigres-operator")]
    pub own_namespace: String,
    /// Name of this process among its replicas, in Leases and events.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
}

/// Whether pool pods use native sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sidecars {
    /// When the server and all its kubelets run them.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl WorkArgs {
    /// Settings out of the flags; `lookup` reads the environment for image overrides.
    pub fn settings(&self, native_sidecars: bool, lookup: impl Fn(&str) -> Option<String>) -> Settings {
        Settings {
            images: ImageSet::default().overridden(lookup),
            zone_id_label: self.zone_id_label.clone(),
            cluster_domain: self.cluster_domain.clone(),
            native_sidecars,
            poll_unsettled: Duration::from_secs(1),
            poll_settled: Duration::from_secs(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_of_the_chart_are_understood() {
        let args = Args::try_parse_from([
            "controller",
            "--leader-elect=true",
            "--concurrency=20",
            "--native-sidecars=auto",
            "--zone-id-label=topology.k8s.aws/zone-id",
            "--cluster-domain=cluster.local",
            "--health-probe-bind-address=0.0.0.0:8081",
            "--metrics-bind-address=0",
            "--zap-devel=false",
            "--zap-log-level=info",
            "--zap-encoder=json",
        ])
        .unwrap();
        assert!(args.lease.leader_elect);
        assert!(!args.wants_version());
    }

    #[test]
    fn the_primary_of_a_settled_shard_is_confirmed_within_thirty_seconds() {
        let args = Args::try_parse_from(["controller"]).unwrap();
        assert!(args.work.settings(true, |_| None).poll_settled < Duration::from_secs(30));
    }
}
