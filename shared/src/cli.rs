//! Groups of flags that both binaries share. Every flag can be set by an environment variable, too.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args};
use jiff::SignedDuration;
use tracing::Level;

use crate::{
    admin::{Bind, Source},
    lease,
    telemetry::{self, Encoder, LogLevel},
};

/// Flags about logs; the names are those of zap.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Use the development preset (debug level, console lines) instead of production (info level, JSON lines).
    #[arg(
        long, env = "ZAP_DEVEL", default_value_t = true, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = ArgAction::Set
    )]
    pub zap_devel: bool,
    /// Least severe level that is logged: debug, info, warn, error, or a number (0 debug, 1 info, 2 error); after a comma,
    /// exceptions for parts of the program: info,controller::shard=debug.
    #[arg(long, env = "ZAP_LOG_LEVEL", value_parser = telemetry::parse_verbosity)]
    pub zap_log_level: Option<LogLevel>,
    /// Form of the lines: console or json.
    #[arg(long, env = "ZAP_ENCODER", value_parser = parse_encoder)]
    pub zap_encoder: Option<Encoder>,
    /// Least severe level whose lines carry their source file, line and all spans.
    #[arg(long, env = "ZAP_STACKTRACE_LEVEL", value_parser = telemetry::parse_level)]
    pub zap_stacktrace_level: Option<Level>,
}

impl LogArgs {
    /// Returns what the flags mean together.
    pub fn settings(&self) -> telemetry::Settings {
        let preset = telemetry::Settings::preset(self.zap_devel);
        telemetry::Settings {
            level: self.zap_log_level.clone().unwrap_or(preset.level),
            encoder: self.zap_encoder.unwrap_or(preset.encoder),
            detail: self.zap_stacktrace_level.unwrap_or(preset.detail),
        }
    }
}

/// Flags about the HTTP server for metrics and probes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Metrics and probes")]
pub struct AdminArgs {
    /// Address of /metrics, such as :8080; 0 turns it off.
    #[arg(long, env = "METRICS_BIND_ADDRESS", default_value = "0")]
    pub metrics_bind_address: Bind,
    /// Address of /healthz and /readyz; 0 turns them off.
    #[arg(long, env = "HEALTH_PROBE_BIND_ADDRESS", default_value = ":8081")]
    pub health_probe_bind_address: Bind,
    /// Serve /metrics by HTTPS, and only to whom the API server lets read them: the caller's token has to be that of somebody
    /// with the right to get the path /metrics.
    #[arg(
        long, env = "METRICS_SECURE", default_value_t = false, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = ArgAction::Set
    )]
    pub metrics_secure: bool,
    /// Folder with the certificate of --metrics-secure, taken up anew when it changes; without one, the process makes its own.
    #[arg(long, env = "METRICS_CERT_PATH")]
    pub metrics_cert_path: Option<PathBuf>,
    /// File with the certificate in that folder.
    #[arg(long, env = "METRICS_CERT_NAME", default_value = "tls.crt")]
    pub metrics_cert_name: String,
    /// File with its key in that folder.
    #[arg(long, env = "METRICS_CERT_KEY", default_value = "tls.key")]
    pub metrics_cert_key: String,
}

impl AdminArgs {
    /// Whether metrics are served, and by HTTPS.
    pub fn serves_metrics_securely(&self) -> bool {
        self.metrics_secure && self.metrics_bind_address != Bind::Off
    }

    /// Where the certificate of the metrics comes from.
    pub fn certificate(&self) -> Source {
        match &self.metrics_cert_path {
            None => Source::Own,
            Some(folder) => Source::Files {
                certificate: folder.join(&self.metrics_cert_name),
                key: folder.join(&self.metrics_cert_key),
            },
        }
    }
}

/// Flags about leader election.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Leader election")]
pub struct LeaseArgs {
    /// Work only while holding a Lease; needed to run more than one replica.
    #[arg(
        long, env = "LEADER_ELECT", default_value_t = false, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = ArgAction::Set
    )]
    pub leader_elect: bool,
    /// Name of the Lease; each binary has its own default.
    #[arg(long, env = "LEADER_ELECTION_ID")]
    pub leader_election_id: Option<String>,
    /// Namespace of the Lease; the pod's own by default.
    #[arg(long, env = "LEADER_ELECTION_NAMESPACE")]
    pub leader_election_namespace: Option<String>,
    /// How long others respect a Lease that is not renewed.
    #[arg(long, env = "LEADER_ELECTION_LEASE_DURATION", default_value = "15s", value_parser = parse_duration)]
    pub leader_election_lease_duration: Duration,
    /// How long a holder that cannot renew the Lease goes on; less than the lease duration.
    #[arg(long, env = "LEADER_ELECTION_RENEW_DEADLINE", default_value = "10s", value_parser = parse_duration)]
    pub leader_election_renew_deadline: Duration,
    /// How long to wait between two attempts to get the Lease.
    #[arg(long, env = "LEADER_ELECTION_RETRY_PERIOD", default_value = "2s", value_parser = parse_duration)]
    pub leader_election_retry_period: Duration,
}

/// Times of the leader election that do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the retry period must be below half of the renew deadline, and 1.5 renew deadlines must fit the lease duration"
)]
pub struct LeaseTimesError;

impl LeaseArgs {
    /// Returns the settings of the election for a process; none when it is off.
    pub fn settings(
        &self,
        default_name: &str,
        own_namespace: &str,
        identity: &str,
    ) -> Result<Option<lease::Settings>, LeaseTimesError> {
        if !self.leader_elect {
            return Ok(None);
        }
        let settings = lease::Settings {
            name: self.leader_election_id.clone().unwrap_or_else(|| default_name.to_owned()),
            namespace: self.leader_election_namespace.clone().unwrap_or_else(|| own_namespace.to_owned()),
            identity: identity.to_owned(),
            duration: self.leader_election_lease_duration,
            renew_deadline: self.leader_election_renew_deadline,
            retry: self.leader_election_retry_period,
        };
        let fits = settings.renew_deadline * 3 / 2 <= settings.duration
            && settings.retry * 2 < settings.renew_deadline
            && !settings.retry.is_zero()
            && settings.duration.subsec_nanos() == 0;
        if fits { Ok(Some(settings)) } else { Err(LeaseTimesError) }
    }
}

/// Flags about the API server.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API server")]
pub struct ClientArgs {
    /// Kubeconfig file; by default the environment decides: KUBECONFIG, ~/.kube/config, or the pod's service account.
    #[arg(long, env = "MULTIGRES_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

fn parse_encoder(text: &str) -> Result<Encoder, String> {
    text.parse().map_err(|_| "use console or json".to_owned())
}

/// Reads a duration such as `15s` or `1m30s`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is no duration: use a number with a unit, such as 15s or 1m30s");
    let duration: SignedDuration = text.parse().map_err(|_| invalid())?;
    Duration::try_from(duration).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Parser, Debug)]
    struct All {
        #[command(flatten)]
        log: LogArgs,
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        lease: LeaseArgs,
        #[command(flatten)]
        client: ClientArgs,
    }

    fn parse(args: &[&str]) -> All {
        All::try_parse_from([&["operator"], args].concat()).unwrap()
    }

    #[test]
    fn flags_are_consistent() {
        All::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        for arg in All::command().get_arguments().filter(|arg| arg.get_id() != "help") {
            assert!(arg.get_env().is_some(), "{}", arg.get_id());
        }
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let all = parse(&[]);
        assert_eq!(all.log.settings(), telemetry::Settings::preset(true));
        assert_eq!(all.admin.metrics_bind_address, Bind::Off);
        assert_eq!(all.admin.health_probe_bind_address, Bind::Port(8081));
        assert!(!all.admin.metrics_secure);
        assert_eq!(all.lease.settings("id", "ns", "me"), Ok(None));
        assert_eq!(all.client.kubeconfig, None);
    }

    #[test]
    fn switches_take_a_value_or_none() {
        assert!(parse(&["--leader-elect"]).lease.leader_elect);
        assert!(!parse(&["--leader-elect=false"]).lease.leader_elect);
        let production = parse(&["--zap-devel=false"]).log.settings();
        assert_eq!(production, telemetry::Settings::preset(false));
    }

    #[test]
    fn single_log_flags_override_the_preset() {
        let args = ["--zap-devel=false", "--zap-log-level=0", "--zap-encoder=console", "--zap-stacktrace-level=info"];
        let settings = parse(&args).log.settings();
        let expected =
            telemetry::Settings { level: Level::DEBUG.into(), encoder: Encoder::Console, detail: Level::INFO };
        assert_eq!(settings, expected);
        assert!(All::try_parse_from(["operator", "--zap-encoder=xml"]).is_err());
        assert!(All::try_parse_from(["operator", "--zap-log-level=loud"]).is_err());
    }

    #[test]
    fn the_certificate_of_the_metrics_is_ours_or_a_pair_of_files() {
        let own = parse(&["--metrics-bind-address=:8443", "--metrics-secure"]).admin;
        assert!(own.serves_metrics_securely());
        assert_eq!(own.certificate(), Source::Own);
        assert!(!parse(&["--metrics-secure"]).admin.serves_metrics_securely());
        let files = parse(&["--metrics-cert-path=/certs", "--metrics-cert-key=key.pem"]).admin.certificate();
        let expected = Source::Files { certificate: "/certs/tls.crt".into(), key: "/certs/key.pem".into() };
        assert_eq!(files, expected);
    }

    #[test]
    fn lease_settings_are_checked_together() {
        let lease = parse(&["--leader-elect"]).lease.settings("id", "ns", "me").unwrap().unwrap();
        assert_eq!(lease, lease::Settings::new("id", "ns", "me"));
        let tight = parse(&["--leader-elect", "--leader-election-renew-deadline=14s"]).lease;
        assert_eq!(tight.settings("id", "ns", "me"), Err(LeaseTimesError));
        let named = parse(&["--leader-elect", "--leader-election-id=x", "--leader-election-namespace=y"]).lease;
        let named = named.settings("id", "ns", "me").unwrap().unwrap();
        assert_eq!((named.name.as_str(), named.namespace.as_str()), ("x", "y"));
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("15").is_err());
        assert!(parse_duration("-1s").is_err());
    }
}
