//! Flags of the controller. Each can be set by an environment variable, too.

use std::{collections::BTreeSet, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use k8s_openapi::api::core::v1::ResourceRequirements;
use shared::{
    api::v1alpha1::ImageUpdateStrategy,
    cli::{AdminArgs, ClientArgs, LeaseArgs, LogArgs},
    image::{ImageSet, SupportImages},
    label,
};

use crate::{
    metricstest,
    server::Features,
    settings::{Concurrency, KINDS, Settings},
    uninstall,
};

/// Default name of the Lease; the Go operator's, so that the two never work side by side in one namespace.
pub const LEASE: &str = "multigres-operator.multigres.com";

/// Reconciles Multigres clusters.
#[derive(Debug, Parser)]
#[command(name = "controller", version, about)]
pub struct Args {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
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
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Reconcile (the default).
    Run,
    /// Print the version and exit.
    Version,
    /// Fail if there are clusters, otherwise delete the webhook configurations and exit: what `helm uninstall` begins with.
    UninstallGuard {
        /// Flags about the API server.
        #[command(flatten)]
        client: ClientArgs,
        /// What to look at and what to delete.
        #[command(flatten)]
        check: uninstall::Args,
    },
    /// Ask the Services of the metrics whether these are served to whom they should be, and exit: a part of `helm test`.
    MetricsTest {
        /// Whom to ask, and with which token.
        #[command(flatten)]
        expect: metricstest::Args,
    },
}

impl Args {
    /// Whether only the version was asked for.
    pub fn wants_version(&self) -> bool {
        matches!(self.command, Some(Command::Version))
    }
}

/// Flags about reconciling.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Reconciling")]
pub struct WorkArgs {
    /// Parallel passes per kind.
    #[arg(long, env = "CONCURRENCY", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub concurrency: u16,
    /// The same for single kinds, such as shard=40,cell=5; of multigrescluster, tablegroup, cell, shard, toposerver and
    /// multigresbackup.
    #[arg(long, env = "CONCURRENCY_BY_KIND", value_delimiter = ',', value_parser = passes_of_kind)]
    pub concurrency_by_kind: Vec<(String, u16)>,
    /// Namespaces to watch; none means all.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',', value_parser = namespace)]
    pub watch_namespaces: Vec<String>,
    /// Namespaces to leave alone where all are watched.
    #[arg(
        long, env = "EXCLUDE_NAMESPACES", value_delimiter = ',', value_parser = namespace,
        conflicts_with = "watch_namespaces"
    )]
    pub exclude_namespaces: Vec<String>,
    /// When clusters that say nothing about it take over new default images and new renderings of their workloads.
    #[arg(long, env = "IMAGE_UPDATE_STRATEGY", value_enum, default_value_t = UpdateStrategy::Lazy)]
    pub image_update_strategy: UpdateStrategy,
    /// Clusters that may be on the way to an edited template at once; 0 means all.
    #[arg(long, env = "TEMPLATE_WAVE", default_value_t = 10)]
    pub template_wave: usize,
    /// Node label that `zoneId` of a cell selects.
    #[arg(long, env = "ZONE_ID_LABEL", default_value = label::NODE_ZONE_ID)]
    pub zone_id_label: String,
    /// DNS domain of the Kubernetes cluster.
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Run exporters and poolers as native sidecars (Kubernetes 1.29 and newer).
    #[arg(long, env = "NATIVE_SIDECARS", value_enum, default_value_t = Sidecars::Auto)]
    pub native_sidecars: Sidecars,
    /// What the metrics exporter beside PostgreSQL asks for and may use: the resources of a container as in the API, as JSON.
    #[arg(long, env = "EXPORTER_RESOURCES", value_parser = resources)]
    pub exporter_resources: Option<ResourceRequirements>,
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

/// When clusters take over what a new operator brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UpdateStrategy {
    /// When their users acknowledge it, or want something else of a workload.
    Lazy,
    /// At once.
    Immediate,
}

impl From<UpdateStrategy> for ImageUpdateStrategy {
    fn from(given: UpdateStrategy) -> Self {
        match given {
            UpdateStrategy::Lazy => Self::Lazy,
            UpdateStrategy::Immediate => Self::Immediate,
        }
    }
}

impl WorkArgs {
    /// The namespaces to watch, each once; none means all.
    pub fn namespaces(&self) -> Vec<String> {
        let given: BTreeSet<&String> = self.watch_namespaces.iter().filter(|name| !name.is_empty()).collect();
        given.into_iter().cloned().collect()
    }

    /// How many passes run in parallel.
    pub fn concurrency(&self) -> Concurrency {
        Concurrency::new(self.concurrency, &self.concurrency_by_kind)
    }

    /// Settings out of the flags and of what Kubernetes can do; `lookup` reads the environment for image overrides.
    pub fn settings(&self, features: Features, lookup: impl Fn(&str) -> Option<String>) -> Settings {
        Settings {
            images: ImageSet::default().overridden(&lookup),
            support_images: SupportImages::default().overridden(&lookup),
            exporter_resources: self.exporter_resources.clone(),
            image_update_strategy: self.image_update_strategy.into(),
            template_wave: self.template_wave,
            zone_id_label: self.zone_id_label.clone(),
            cluster_domain: self.cluster_domain.clone(),
            native_sidecars: features.native_sidecars,
            eviction_policy: features.eviction_policy,
            claim_policy: features.claim_policy,
            poll_unsettled: Duration::from_secs(1),
            poll_settled: Duration::from_secs(20),
        }
    }
}

/// Reads the parallel passes of one kind, such as `shard=40`.
fn passes_of_kind(text: &str) -> Result<(String, u16), String> {
    let (kind, passes) = text.trim().split_once('=').ok_or("use a kind and a number, such as shard=40")?;
    if !KINDS.contains(&kind) {
        return Err(format!("there is no controller of {kind:?}: use one of {}", KINDS.join(", ")));
    }
    let passes = passes.parse::<u16>().ok().filter(|passes| (1..=1000).contains(passes));
    Ok((kind.to_owned(), passes.ok_or("use a number from 1 to 1000")?))
}

/// Reads what a container asks for and may use.
fn resources(text: &str) -> Result<ResourceRequirements, String> {
    serde_json::from_str(text).map_err(|error| format!("these are no resources as in the API, as JSON: {error}"))
}

/// Checks the name of a namespace. Nothing at all is allowed: an empty variable of the environment means no namespaces.
fn namespace(name: &str) -> Result<String, String> {
    let name = name.trim();
    let known = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let bare = name.trim_matches('-');
    if name.len() > 63 || bare != name || !name.bytes().all(known) {
        return Err("a namespace has at most 63 lower-case letters, digits and dashes between them".to_owned());
    }
    Ok(name.to_owned())
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
            "--image-update-strategy=lazy",
            "--template-wave=10",
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
    fn flags_of_the_uninstall_guard_are_understood() {
        let words = ["controller", "uninstall-guard", "--watch-namespaces=a,b", "--mutating-webhook-configuration=m"];
        let args = Args::try_parse_from(words).unwrap();
        let Some(Command::UninstallGuard { check, .. }) = args.command else { panic!("not the guard") };
        assert_eq!(check.watch_namespaces, ["a", "b"]);
        assert_eq!(check.mutating_webhook_configuration.as_deref(), Some("m"));
        assert_eq!(check.validating_webhook_configuration, None);
    }

    #[test]
    fn flags_of_the_metrics_test_are_understood() {
        let words = ["controller", "metrics-test", "--controller-url=https://a:8080", "--admission-url=https://b:8080"];
        let Some(Command::MetricsTest { expect }) = Args::try_parse_from(words).unwrap().command else {
            panic!("not the test")
        };
        assert_eq!(expect.controller_url, "https://a:8080/");
        assert!(expect.admission_url.is_some_and(|url| url == "https://b:8080/"));
        let alone = Args::try_parse_from(&words[..3]).unwrap().command;
        assert!(matches!(alone, Some(Command::MetricsTest { expect }) if expect.admission_url.is_none()));
        for wrong in [&words[..2], &["controller", "metrics-test", "--controller-url=https://a:8080/metrics"]] {
            assert!(Args::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn watched_namespaces_are_named_once_and_none_means_all() {
        let parse = |words: &[&str]| Args::try_parse_from([&["controller"], words].concat());
        let of = |words: &[&str]| parse(words).unwrap().work.namespaces();
        assert_eq!(of(&["--watch-namespaces=b,a,b"]), ["a", "b"]);
        assert!(of(&[]).is_empty() && of(&["--watch-namespaces="]).is_empty());
        for wrong in ["A", "a/b", "-a", "a b", &"a".repeat(64)] {
            assert!(parse(&["--watch-namespaces", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn namespaces_are_excluded_only_where_all_are_watched() {
        let parse = |words: &[&str]| Args::try_parse_from([&["controller"], words].concat());
        assert_eq!(parse(&["--exclude-namespaces=a,b"]).unwrap().work.exclude_namespaces, ["a", "b"]);
        assert!(parse(&["--exclude-namespaces=a", "--watch-namespaces=b"]).is_err());
        assert!(parse(&["--exclude-namespaces=A"]).is_err());
    }

    #[test]
    fn single_kinds_may_have_passes_of_their_own() {
        let parse = |words: &[&str]| Args::try_parse_from([&["controller"], words].concat());
        let of = |words: &[&str], kind: &str| parse(words).unwrap().work.concurrency().of(kind);
        assert_eq!(of(&["--concurrency-by-kind=shard=40,cell=5"], "shard"), 40);
        assert_eq!(of(&["--concurrency=7", "--concurrency-by-kind=shard=40"], "toposerver"), 7);
        for wrong in ["pod=1", "shard", "shard=0", "shard=1001", "shard=many"] {
            assert!(parse(&["--concurrency-by-kind", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_runs_beside_the_components_can_be_set() {
        let resources = r#"--exporter-resources={"requests":{"cpu":"10m"},"limits":{"memory":"64Mi"}}"#;
        let args = Args::try_parse_from(["controller", resources]).unwrap();
        let settings =
            args.work.settings(Features::NEWEST, |name| (name == "MULTIGRES_IMAGE_ETCD").then(|| "etcd:1".to_owned()));
        let given = settings.exporter_resources.clone().unwrap();
        assert_eq!(given.requests.unwrap()["cpu"].0, "10m");
        assert_eq!(given.limits.unwrap()["memory"].0, "64Mi");
        assert_eq!(settings.resolve().etcd_image, "etcd:1");
        assert_eq!(settings.support_images.postgres_exporter, shared::image::POSTGRES_EXPORTER);
        assert!(Args::try_parse_from(["controller", "--exporter-resources=10m"]).is_err());
    }

    #[test]
    fn the_primary_of_a_settled_shard_is_confirmed_within_thirty_seconds() {
        let args = Args::try_parse_from(["controller"]).unwrap();
        assert!(args.work.settings(Features::NEWEST, |_| None).poll_settled < Duration::from_secs(30));
    }
}
