//! Flags of the admission webhook. Each can be set by an environment variable, too.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{ArgAction, Parser, Subcommand};
use jiff::SignedDuration;
use shared::{
    admin::Bind,
    cli::{AdminArgs, ClientArgs, LeaseArgs, LeaseTimesError, LogArgs, parse_duration},
    clock::Clock,
    image::{ImageSet, SupportImages},
    label,
    pki::rotation::Policy,
    resolve,
};

use crate::{certificate, lookup, reviewer, selftest, server};

/// Default name of the Lease whose holder renews certificates.
pub const LEASE: &str = "multigres-operator-cert-rotator";

/// How long a leaf may go unaccepted before its replica asks for the Lease.
const PATIENCE: Duration = Duration::from_secs(15);

/// Defaults and judges the objects of Multigres clusters.
#[derive(Debug, Parser)]
#[command(name = "admission", version, about)]
pub struct Args {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags about logs.
    #[command(flatten)]
    pub log: LogArgs,
    /// Flags about metrics and probes.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Flags about the election of the replica that renews certificates.
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// Flags about the API server.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Flags about reviews.
    #[command(flatten)]
    pub webhook: WebhookArgs,
    /// Flags about certificates.
    #[command(flatten)]
    pub certificate: CertificateArgs,
    /// Flags about this process.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// What to do instead of serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve (the default).
    Run,
    /// Print the version and exit.
    Version,
    /// Ask the API server with dry runs whether admission works, and exit.
    SelfTest {
        /// Flags about the API server.
        #[command(flatten)]
        client: ClientArgs,
        /// What to expect.
        #[command(flatten)]
        expect: selftest::Args,
    },
}

/// Flags about reviews.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Reviews")]
pub struct WebhookArgs {
    /// Serve reviews and keep certificates; off, the process answers its probes and does nothing else.
    #[arg(
        long, env = "WEBHOOK_ENABLE", default_value_t = true, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = ArgAction::Set
    )]
    pub webhook_enable: bool,
    /// Port of the reviews.
    #[arg(long, env = "WEBHOOK_PORT", default_value_t = 9443)]
    pub webhook_port: u16,
    /// Name of the controller's service account: it may write Cells, Shards, TableGroups and TopoServers. A name belongs
    /// to this process' namespace; a whole user name is taken as it is.
    #[arg(long, env = "WEBHOOK_SERVICE_ACCOUNT", default_value = "multigres-operator-controller-manager")]
    pub webhook_service_account: String,
    /// Users besides the controller who may write Cells, Shards, TableGroups and TopoServers.
    #[arg(
        long,
        env = "CHILD_WRITERS",
        value_delimiter = ',',
        default_value = "system:serviceaccount:kube-system:generic-garbage-collector,\
                         system:serviceaccount:kube-system:namespace-controller,system:kube-controller-manager"
    )]
    pub child_writers: Vec<String>,
    /// Groups whose members may write Cells, Shards, TableGroups and TopoServers.
    #[arg(long, env = "CHILD_WRITER_GROUPS", value_delimiter = ',')]
    pub child_writer_groups: Vec<String>,
    /// Most reviews at once; more are refused at once with an invitation to try again.
    #[arg(long, env = "MAX_IN_FLIGHT", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_in_flight: u16,
    /// Longest time to an answer; keep it below the timeout of the webhook configurations.
    #[arg(long, env = "REVIEW_DEADLINE", default_value = "8s", value_parser = parse_duration)]
    pub review_deadline: Duration,
    /// How long to keep serving after SIGTERM, while the Service forgets this pod.
    #[arg(long, env = "DRAIN", default_value = "10s", value_parser = parse_duration)]
    pub drain: Duration,
    /// How long to go on after that for callers who keep unused connections. API servers close theirs after 90 s.
    #[arg(long, env = "LINGER", default_value = "20s", value_parser = parse_duration)]
    pub linger: Duration,
    /// Namespaces to judge; none means all.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Node label that `zoneId` of a cell selects.
    #[arg(long, env = "ZONE_ID_LABEL", default_value = label::NODE_ZONE_ID)]
    pub zone_id_label: String,
}

/// Flags about certificates.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Certificates")]
pub struct CertificateArgs {
    /// Make and renew the certificates; off, they are read from the directory.
    #[arg(
        long, env = "WEBHOOK_USE_INTERNAL_CERTS", default_value_t = true, default_missing_value = "true",
        num_args = 0..=1, require_equals = true, action = ArgAction::Set
    )]
    pub webhook_use_internal_certs: bool,
    /// Directory with tls.crt, tls.key and ca.crt, for certificates that somebody else makes.
    #[arg(long, env = "WEBHOOK_CERT_DIR", default_value = "/var/run/secrets/webhook")]
    pub webhook_cert_dir: PathBuf,
    /// Name of the Service that the certificate is for.
    #[arg(long, env = "WEBHOOK_SERVICE_NAME", default_value = "multigres-operator-webhook-service")]
    pub webhook_service_name: String,
    /// Namespace of the Service; this process' own by default.
    #[arg(long, env = "WEBHOOK_SERVICE_NAMESPACE")]
    pub webhook_service_namespace: Option<String>,
    /// Further names in the serving certificate, for webhook configurations with a URL in place of the Service.
    #[arg(long, env = "WEBHOOK_EXTRA_DNS_NAMES", value_delimiter = ',')]
    pub webhook_extra_dns_names: Vec<String>,
    /// Secret of the authority.
    #[arg(long, env = "WEBHOOK_CA_SECRET", default_value = "multigres-operator-ca-secret")]
    pub webhook_ca_secret: String,
    /// Secret of the serving certificate.
    #[arg(long, env = "WEBHOOK_CERT_SECRET", default_value = "multigres-webhook-certs")]
    pub webhook_cert_secret: String,
    /// Configuration of the mutating webhook, whose caBundle is kept.
    #[arg(
        long,
        env = "MUTATING_WEBHOOK_CONFIGURATION",
        default_value = "multigres-operator-mutating-webhook-configuration"
    )]
    pub mutating_webhook_configuration: String,
    /// Configuration of the validating webhooks, whose caBundle is kept.
    #[arg(
        long,
        env = "VALIDATING_WEBHOOK_CONFIGURATION",
        default_value = "multigres-operator-validating-webhook-configuration"
    )]
    pub validating_webhook_configuration: String,
    /// Deployment of this process, which owns the Secrets.
    #[arg(long, env = "WEBHOOK_DEPLOYMENT", default_value = "multigres-operator-admission")]
    pub webhook_deployment: String,
    /// How often to look at the clock and at the Secrets.
    #[arg(long, env = "CERT_CHECK_INTERVAL", default_value = "1h", value_parser = parse_duration)]
    pub cert_check_interval: Duration,
    /// How long a serving certificate is valid.
    #[arg(long, env = "CERT_VALIDITY", default_value = "8760h", value_parser = parse_duration)]
    pub cert_validity: Duration,
    /// How long an authority is valid.
    #[arg(long, env = "CA_VALIDITY", default_value = "87600h", value_parser = parse_duration)]
    pub ca_validity: Duration,
    /// How long before its end a certificate is renewed.
    #[arg(long, env = "CERT_RENEW_BEFORE", default_value = "720h", value_parser = parse_duration)]
    pub cert_renew_before: Duration,
    /// How long an old authority stays trusted beside a new one.
    #[arg(long, env = "CERT_OVERLAP", default_value = "24h", value_parser = parse_duration)]
    pub cert_overlap: Duration,
}

/// Flags about this process.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessArgs {
    /// Namespace of this process.
    #[arg(long, env = "POD_NAMESPACE", default_value = "multigres-operator")]
    pub own_namespace: String,
    /// Name of this process among its replicas, in Leases.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
}

impl Args {
    /// Name of this process among its replicas.
    pub fn identity(&self) -> String {
        self.process.identity.clone().unwrap_or_else(|| format!("admission-{}", std::process::id()))
    }

    /// Namespace of the Service that the certificate is for.
    pub fn service_namespace(&self) -> &str {
        self.certificate.webhook_service_namespace.as_deref().unwrap_or(&self.process.own_namespace)
    }

    /// Settings of the server.
    pub fn server(&self) -> server::Settings {
        let limits = server::Limits {
            in_flight: self.webhook.max_in_flight.into(),
            deadline: self.webhook.review_deadline,
            ..server::Limits::default()
        };
        server::Settings {
            bind: Bind::Port(self.webhook.webhook_port),
            limits,
            drain: self.webhook.drain,
            linger: self.webhook.linger,
            workers: None,
        }
    }

    /// Settings of the stores.
    pub fn stores(&self) -> lookup::Settings {
        lookup::Settings {
            namespaces: given(&self.webhook.watch_namespaces),
            zone_id_label: self.webhook.zone_id_label.clone(),
        }
    }

    /// Settings of the certificates. Without an election this replica writes them as if it were the only one.
    pub fn certificate(&self, clock: Arc<dyn Clock>) -> Result<certificate::Settings, LeaseTimesError> {
        let flags = &self.certificate;
        let identity = self.identity();
        let lease = self.lease.settings(LEASE, &self.process.own_namespace, &identity)?;
        let usual = Policy::default();
        let policy = Policy {
            authority_validity: signed(flags.ca_validity),
            leaf_validity: signed(flags.cert_validity),
            renew_before: signed(flags.cert_renew_before),
            overlap: flags.cert_overlap,
            blind: usual.blind.max(signed(flags.cert_overlap)),
            check: flags.cert_check_interval,
            ..usual
        };
        Ok(certificate::Settings {
            mode: if flags.webhook_use_internal_certs {
                certificate::Mode::SelfSigned
            } else {
                certificate::Mode::Files
            },
            namespace: self.service_namespace().to_owned(),
            service: flags.webhook_service_name.clone(),
            extra_names: given(&flags.webhook_extra_dns_names),
            directory: flags.webhook_cert_dir.clone(),
            ca_secret: flags.webhook_ca_secret.clone(),
            server_secret: flags.webhook_cert_secret.clone(),
            mutating: flags.mutating_webhook_configuration.clone(),
            validating: flags.validating_webhook_configuration.clone(),
            deployment: Some(flags.webhook_deployment.clone()).filter(|name| !name.is_empty()),
            identity,
            lease,
            policy,
            patience: PATIENCE,
            clock,
        })
    }

    /// What the judges know; `lookup` reads the environment for image overrides.
    pub fn reviewer(&self, lookup: impl Fn(&str) -> Option<String>) -> reviewer::Options {
        reviewer::Options {
            settings: resolve::Settings {
                images: ImageSet::default().overridden(&lookup),
                etcd_image: SupportImages::default().overridden(&lookup).etcd,
                zone_id_label: self.webhook.zone_id_label.clone(),
            },
            controller: self.controller(),
            writers: given(&self.webhook.child_writers),
            writer_groups: given(&self.webhook.child_writer_groups),
        }
    }

    /// User name of the controller.
    fn controller(&self) -> String {
        let account = &self.webhook.webhook_service_account;
        if account.contains(':') {
            account.clone()
        } else {
            format!("system:serviceaccount:{}:{account}", self.process.own_namespace)
        }
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// An empty variable of the environment is a list with one empty name.
fn given(names: &[String]) -> Vec<String> {
    names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use shared::clock::System;

    use super::*;

    fn parse(args: &[&str]) -> Args {
        Args::try_parse_from([&["admission"], args].concat()).unwrap()
    }

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        let command = Args::command();
        for arg in command.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version")) {
            assert!(arg.get_env().is_some(), "{}", arg.get_id());
        }
    }

    #[test]
    fn flags_of_the_chart_are_understood() {
        let args = parse(&[
            "--webhook-enable=true",
            "--webhook-port=9443",
            "--webhook-cert-dir=/var/run/secrets/webhook",
            "--webhook-service-name=hook",
            "--webhook-service-namespace=ops",
            "--webhook-service-account=boss",
            "--webhook-use-internal-certs=false",
            "--webhook-ca-secret=a",
            "--webhook-cert-secret=b",
            "--webhook-deployment=c",
            "--mutating-webhook-configuration=d",
            "--validating-webhook-configuration=e",
            "--child-writers=u1,u2",
            "--child-writer-groups=g1",
            "--max-in-flight=50",
            "--review-deadline=3s",
            "--drain=5s",
            "--linger=95s",
            "--leader-elect=true",
            "--leader-election-id=lease",
            "--cert-check-interval=1h",
            "--cert-overlap=24h",
            "--cert-validity=8760h",
            "--ca-validity=87600h",
            "--cert-renew-before=720h",
            "--zone-id-label=topology.k8s.aws/zone-id",
            "--health-probe-bind-address=0.0.0.0:8081",
            "--metrics-bind-address=0",
            "--zap-devel=false",
            "--own-namespace=own",
        ]);
        let certificate = args.certificate(Arc::new(System)).unwrap();
        assert_eq!(certificate.server_name(), "hook.ops.svc");
        let lease = certificate.lease.as_ref().unwrap();
        assert_eq!((lease.name.as_str(), lease.namespace.as_str()), ("lease", "own"));
        assert_eq!(certificate.mode, certificate::Mode::Files);
        let server = args.server();
        assert_eq!((server.limits.in_flight, server.drain.as_secs()), (50, 5));
        assert_eq!(server.linger.as_secs(), 95);
        assert_eq!(server.limits.deadline.as_secs(), 3);
        let options = args.reviewer(|_| None);
        assert_eq!(options.controller, "system:serviceaccount:own:boss");
        assert_eq!(
            (options.writers, options.writer_groups),
            (vec!["u1".to_owned(), "u2".to_owned()], vec!["g1".to_owned()])
        );
    }

    #[test]
    fn the_usual_writers_of_children_are_known() {
        let options = parse(&["--own-namespace=own"]).reviewer(|_| None);
        assert!(options.writers.iter().any(|user| user == "system:kube-controller-manager"));
        assert_eq!(options.writers.len(), 3);
        assert!(options.writer_groups.is_empty());
        let whole = parse(&["--webhook-service-account=system:serviceaccount:x:y"]).reviewer(|_| None);
        assert_eq!(whole.controller, "system:serviceaccount:x:y");
    }

    #[test]
    fn the_environment_replaces_default_images() {
        let options = parse(&[]).reviewer(|name| (name == "MULTIGRES_IMAGE_MULTIORCH").then(|| "orch:1".to_owned()));
        assert_eq!(options.settings.images.multiorch, "orch:1");
        assert_eq!(options.settings.etcd_image, shared::image::ETCD);
        let options = parse(&[]).reviewer(|name| (name == "MULTIGRES_IMAGE_ETCD").then(|| "etcd:1".to_owned()));
        assert_eq!(options.settings.etcd_image, "etcd:1");
    }

    #[test]
    fn empty_lists_are_empty() {
        let args = parse(&["--watch-namespaces=", "--child-writer-groups= , "]);
        assert!(args.stores().namespaces.is_empty());
        assert!(args.reviewer(|_| None).writer_groups.is_empty());
    }

    #[test]
    fn the_service_belongs_to_the_own_namespace_unless_told_otherwise() {
        let certificate = parse(&["--own-namespace=own", "--leader-elect"]).certificate(Arc::new(System)).unwrap();
        assert_eq!(certificate.server_name(), "multigres-operator-webhook-service.own.svc");
        assert_eq!(certificate.lease.unwrap().name, LEASE);
    }

    #[test]
    fn the_certificate_may_have_further_names() {
        let of = |words: &[&str]| parse(words).certificate(Arc::new(System)).unwrap().extra_names;
        let names = of(&["--webhook-extra-dns-names=hook.example.com,*.example.org"]);
        assert_eq!(names, ["hook.example.com", "*.example.org"]);
        assert!(of(&[]).is_empty() && of(&["--webhook-extra-dns-names="]).is_empty());
    }

    #[test]
    fn there_is_no_lease_without_an_election() {
        let certificate = parse(&["--leader-elect=false", "--identity=me"]).certificate(Arc::new(System)).unwrap();
        assert_eq!((certificate.lease, certificate.identity.as_str()), (None, "me"));
    }

    #[test]
    fn the_check_of_the_chart_is_a_subcommand() {
        let args = parse(&["self-test", "--namespace=ops", "--child-protection=false"]);
        let Some(Command::SelfTest { expect, .. }) = args.command else { panic!() };
        assert_eq!((expect.namespace.as_str(), expect.child_protection), ("ops", false));
        assert!(matches!(parse(&["version"]).command, Some(Command::Version)));
    }
}
