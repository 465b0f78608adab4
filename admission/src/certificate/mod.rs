//! The certificates of the webhook: what this replica serves, and what the API servers are told to trust.
//!
//! Every replica follows: it takes up a leaf from the Secret (or from a mounted directory, where somebody else issues) as soon
//! as both webhook configurations accept it. The replica that holds the Lease (or that is told to be the only one) also writes: Secrets where the certificates are
//! our own, and in every mode the `caBundle` of the configurations. What is written when is decided by [`shared::pki::rotation`];
//! here is only what observes and what carries out.
//!
//! During a change of modes the replicas want different things from the holder. A replica whose leaf is not accepted asks the
//! holder for the Lease, by an annotation on it; the next holder adds its own authority and keeps whatever others still need.

mod configuration;
mod election;
mod files;
mod follower;
mod material;
pub mod peer;
mod replicas;
mod rotator;
mod secret;
mod serving;
mod watch;

use std::{path::PathBuf, sync::Arc, time::Duration};

use kube::Client;
use shared::{admin::Readiness, clock::Clock, lease, pki::rotation::Policy};
use tokio_util::sync::CancellationToken;

pub use self::{
    configuration::FIELD_MANAGER,
    election::HAND_OVER,
    serving::{Current, Serving},
};
use crate::metrics::Certificates;

/// Name of the readiness condition that holds once a leaf is served that the API servers accept.
pub const READY: &str = "certificate";

/// Who issues the certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// We do, and store them in two Secrets.
    SelfSigned,
    /// Somebody else does, and they are mounted in a directory as `tls.crt`, `tls.key` and `ca.crt`.
    Files,
}

/// What the certificates are for and where they are kept.
#[derive(Clone)]
pub struct Settings {
    /// Who issues.
    pub mode: Mode,
    /// Namespace of the Service, of the Secrets and of the Deployment.
    pub namespace: String,
    /// Name of the Service that API servers call.
    pub service: String,
    /// Names that our leaf has besides those of the Service.
    pub extra_names: Vec<String>,
    /// Directory of the certificates that somebody else issues.
    pub directory: PathBuf,
    /// Secret with our authority.
    pub ca_secret: String,
    /// Secret with our leaf.
    pub server_secret: String,
    /// The mutating webhook configuration.
    pub mutating: String,
    /// The validating webhook configuration.
    pub validating: String,
    /// Deployment that owns the Secrets; without it they have no owner.
    pub deployment: Option<String>,
    /// Name of this process among its replicas.
    pub identity: String,
    /// The Lease that allows to write; none where this replica is the only one.
    pub lease: Option<lease::Settings>,
    /// When to renew, and how patiently.
    pub policy: Policy,
    /// How long a leaf may go unaccepted before the Lease is asked for.
    pub patience: Duration,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Settings {
    /// The name by which API servers call the Service.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }
}

/// Keeps the certificates until `token` is cancelled; the Lease is given back then.
///
/// Readiness gets a condition ([`READY`]) that holds from the moment when this replica's leaf is accepted. It is not taken
/// back: a bundle that somebody emptied concerns all replicas, and would only keep requests away longer.
pub async fn run(
    client: Client,
    settings: Settings,
    serving: Arc<Serving>,
    readiness: Readiness,
    metrics: Certificates,
    token: CancellationToken,
) {
    readiness.expect(READY);
    let settings = Arc::new(settings);
    let watched = watch::start(&client, &settings, &metrics.watches);
    let follower = follower::Follower::new(&settings, &watched, &serving, readiness, metrics.clone());
    let unaccepted = follower.unaccepted();
    let rotator = rotator::Rotator::new(client.clone(), &settings, &watched, serving, metrics);
    let election = election::Election { client, settings, unaccepted, rotator };
    tokio::select! {
        () = election.run(token) => {}
        () = follower.run() => {}
        () = watched.run() => {}
    }
}
