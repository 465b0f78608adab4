//! Writes, while the Lease is held: observes, lets the plan decide, and carries out one write at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    core::v1::Secret,
};
use kube::{Api, Client, Resource as _, runtime::events::Reporter};
use shared::{
    kubeutil::event::{Event, Recorder},
    pki::{
        self, Authority, Certificate, Reason, Request,
        rotation::{self, Fingerprint, Memory, Observed, Plan, Replica, Roots, Step, Target},
    },
};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Mode, Settings,
    configuration::{self, View},
    follower::age_at_first,
    material::{self, Parts},
    replicas::{self, Told},
    secret::{self, CA_CERTIFICATE, CA_KEY, CERTIFICATE, KEY},
    serving::Serving,
    watch::{Seen, Watched},
};
use crate::metrics::{Certificates, Kind};

/// Common name of our authority.
const AUTHORITY: &str = "Multigres Operator CA";
/// How long to wait after a failure, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(8));
/// How many certificates are remembered that were seen in bundles.
const REMEMBERED: usize = 32;

/// What went wrong in a round.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Request(#[from] kube::Error),
    #[error(transparent)]
    Pki(#[from] pki::Error),
}

/// The writer.
pub(super) struct Rotator {
    client: Client,
    settings: Arc<Settings>,
    serving: Arc<Serving>,
    metrics: Certificates,
    recorder: Recorder,
    mutating: Seen<View>,
    validating: Seen<View>,
    leaf: Seen<Parts>,
    authority: Seen<String>,
    seen: BTreeMap<Fingerprint, Certificate>,
    memory: Memory,
    born: Instant,
    complained: bool,
}

/// Everything that one round saw.
struct Look {
    observed: Observed,
    anchors: BTreeMap<Fingerprint, Certificate>,
    views: BTreeMap<Target, View>,
    authority: Option<Secret>,
    stored: Option<secret::Stored>,
    server: Option<Secret>,
}

impl Rotator {
    pub fn new(
        client: Client,
        settings: &Arc<Settings>,
        watched: &Watched,
        serving: Arc<Serving>,
        metrics: Certificates,
    ) -> Self {
        let reporter = Reporter { controller: "cert-rotator".to_owned(), instance: Some(settings.identity.clone()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            settings: Arc::clone(settings),
            serving,
            metrics,
            mutating: watched.mutating.clone(),
            validating: watched.validating.clone(),
            leaf: watched.leaf.clone(),
            authority: watched.authority.clone(),
            seen: BTreeMap::new(),
            memory: Memory::default(),
            born: Instant::now(),
            complained: false,
        }
    }

    /// Writes what is to be written; never ends while the watches run.
    pub async fn run(&mut self) {
        // Between two terms nobody has looked.
        self.memory = Memory::default();
        let mut backoff = BACKOFF.0;
        loop {
            self.acknowledge();
            let again = match self.round().await {
                Ok(again) => {
                    backoff = BACKOFF.0;
                    again
                }
                Err(error) => {
                    self.metrics.failed();
                    warn!(error = %error, "certificates could not be kept; another attempt follows");
                    backoff = (backoff * 2).min(BACKOFF.1);
                    backoff
                }
            };
            tokio::select! {
                changed = self.mutating.changed() => if changed.is_err() { return },
                changed = self.validating.changed() => if changed.is_err() { return },
                changed = self.leaf.changed() => if changed.is_err() { return },
                changed = self.authority.changed(), if self.settings.mode == Mode::SelfSigned => {
                    if changed.is_err() { return }
                }
                () = sleep(again) => {}
            }
        }
    }

    /// What is seen from here on calls for another round.
    fn acknowledge(&mut self) {
        self.mutating.mark_unchanged();
        self.validating.mark_unchanged();
        self.leaf.mark_unchanged();
        self.authority.mark_unchanged();
    }

    /// Looks, and writes until nothing is left to write; returns when to look again.
    async fn round(&mut self) -> Result<Duration, Error> {
        loop {
            let now = self.settings.clock.now();
            let mut look = self.look(now).await?;
            let plan = self.plan(&mut look, now).await;
            let Some(step) = plan.step else { return Ok(plan.again) };
            self.write(step, &look, now).await?;
        }
    }

    /// Reads everything from the API server itself: decisions to write are not made from watches.
    async fn look(&mut self, now: Timestamp) -> Result<Look, Error> {
        let settings = Arc::clone(&self.settings);
        let own = settings.mode == Mode::SelfSigned;
        let views: BTreeMap<Target, View> = [
            (
                Target::Mutating,
                configuration::read::<MutatingWebhookConfiguration>(&self.client, &settings.mutating).await?,
            ),
            (
                Target::Validating,
                configuration::read::<ValidatingWebhookConfiguration>(&self.client, &settings.validating).await?,
            ),
        ]
        .into_iter()
        .filter_map(|(target, view)| Some((target, view?)))
        .collect();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &settings.namespace);
        let authority = if own { secrets.get_opt(&settings.ca_secret).await? } else { None };
        let server = if own { secrets.get_opt(&settings.server_secret).await? } else { None };
        let parts = if own { server.as_ref().map(secret::parts) } else { self.leaf.borrow().clone().present() };
        let candidate = match &parts {
            Some(parts) => material::read(parts).map_err(|error| {
                if own {
                    warn!(secret = settings.server_secret, error = %error, "the serving certificate cannot be used");
                }
                Reason::Unusable
            }),
            None => Err(Reason::Missing),
        };
        let stored = own.then(|| secret::authority(authority.as_ref(), now));
        let given = candidate.as_ref().map(material::given).unwrap_or_default();
        self.complain(own, candidate.is_ok() && given.is_empty());

        let mut anchors = std::mem::take(&mut self.seen);
        let found = views.values().flat_map(|view| &view.certificates);
        let found = found.chain(stored.iter().flat_map(|stored| &stored.all));
        let with_leaf = candidate.iter().flat_map(|candidate| &candidate.trust);
        for certificate in found.chain(with_leaf).chain(&given) {
            anchors.insert(certificate.fingerprint(), certificate.clone());
        }
        anchors.retain(|_, certificate| certificate.not_after() > now);
        if anchors.len() <= REMEMBERED {
            self.seen = anchors.clone();
        }

        let predecessors: BTreeSet<Fingerprint> =
            stored.iter().flat_map(|stored| stored.all.iter().skip(1)).map(Certificate::fingerprint).collect();
        let leaf = |chain: &[Certificate]| material::leaf(chain, anchors.values(), &settings.server_name());
        let observed = Observed {
            roots: stored.as_ref().map_or_else(
                || Roots::Given(given.iter().map(|root| material::anchor(root, false)).collect()),
                |stored| Roots::Own(stored.own),
            ),
            leaf: candidate.and_then(|candidate| {
                let mut leaf = leaf(&candidate.chain).ok_or(Reason::Unusable)?;
                // Names of the user are a reason for us to make another one, and none for replicas not to serve this one.
                leaf.names &= stored.is_none() || material::bears(&candidate.chain, &settings.extra_names);
                Ok(leaf)
            }),
            known: anchors.iter().map(|(id, one)| material::anchor(one, predecessors.contains(id))).collect(),
            configurations: views.iter().map(|(target, view)| (*target, view.carried.clone())).collect(),
            replicas: self
                .serving
                .current()
                .and_then(|own| leaf(&own.chain))
                .map(Replica::Serves)
                .into_iter()
                .collect(),
            carried: BTreeMap::new(),
            steady: Duration::ZERO,
        };
        let ends = match &observed.roots {
            Roots::Own(own) => own.ok().map(|own| own.not_after),
            Roots::Given(given) => given.iter().map(|root| root.not_after).min(),
        };
        if let Some(ends) = ends {
            self.metrics.expires(Kind::Authority, ends);
        }
        Ok(Look { observed, anchors, views, authority, stored, server })
    }

    /// Says once that there is nothing that API servers could be told to trust.
    fn complain(&mut self, own: bool, untrusted: bool) {
        if own || !untrusted {
            self.complained = false;
        } else if !std::mem::replace(&mut self.complained, true) {
            self.metrics.failed();
            warn!(
                "ca.crt does not lead to tls.crt, nor does tls.crt itself name its issuer: add ca.crt to the certificates"
            );
        }
    }

    /// Completes the look by what replicas serve, where that matters, and decides.
    async fn plan(&mut self, look: &mut Look, now: Timestamp) -> Plan {
        let policy = &self.settings.policy;
        let observed = &mut look.observed;
        let ask = observed.needs_replicas(policy, now);
        if ask {
            let name = self.settings.server_name();
            match replicas::ask(&self.client, &self.settings.namespace, &self.settings.service, &name).await {
                Ok(told) => observed.replicas.extend(told.into_iter().map(|told| match told {
                    Told::Chain(chain) => {
                        material::leaf(&chain, look.anchors.values(), &name).map_or(Replica::Silent, Replica::Serves)
                    }
                    Told::Nothing => Replica::Silent,
                })),
                Err(error) => {
                    warn!(error = %error, "cannot find out what the replicas serve");
                    observed.replicas.push(Replica::Silent);
                }
            }
        }
        let at = self.born.elapsed();
        let since = age_at_first(&self.memory, look.views.values(), &self.settings);
        self.memory.carry(&observed.carried_everywhere(), at, since);
        self.memory.weigh(observed, at, now);
        if !ask {
            self.memory.unsettle();
        }
        rotation::plan(observed, policy, now)
    }

    async fn write(&mut self, step: Step, look: &Look, now: Timestamp) -> Result<(), Error> {
        match step {
            Step::Authority(reason) => self.write_authority(reason, look, now).await,
            Step::Leaf(reason) => self.write_leaf(reason, look, now).await,
            Step::Bundle(target, ids) => self.write_bundle(target, &ids, look).await,
        }
    }

    async fn write_authority(&self, reason: Reason, look: &Look, now: Timestamp) -> Result<(), Error> {
        let settings = &self.settings;
        let new = Authority::generate(AUTHORITY, now, settings.policy.authority_validity)?;
        let mut text = new.pair().certificate.clone();
        for id in look.observed.predecessors(now) {
            text.extend(look.anchors.get(&id).map(Certificate::to_pem));
        }
        let data = [(CA_CERTIFICATE, text), (CA_KEY, new.pair().key.clone())];
        let secret = secret::write(&self.client, settings, &settings.ca_secret, look.authority.as_ref(), data).await?;
        info!(%reason, "a certificate authority is made");
        self.metrics.rotated(Kind::Authority);
        self.tell(&secret, reason, "CA certificate for webhook").await;
        Ok(())
    }

    async fn write_leaf(&self, reason: Reason, look: &Look, now: Timestamp) -> Result<(), Error> {
        let settings = &self.settings;
        let Some(pair) = look.stored.as_ref().and_then(|stored| stored.pair.clone()) else { return Ok(()) };
        let newest = Certificate::first(&pair.certificate)?;
        let name = settings.server_name();
        let request = Request {
            common_name: settings.service.clone(),
            dns_names: settings.extra_names.iter().cloned().chain([format!("{name}.cluster.local"), name]).collect(),
            // A leaf is no good beyond the end of its authority.
            valid_for: settings.policy.leaf_validity.min(newest.not_after().duration_since(now)),
        };
        let leaf = Authority::load(pair)?.issue(&request, now)?;
        let data = [(CERTIFICATE, leaf.certificate), (KEY, leaf.key), (CA_CERTIFICATE, newest.to_pem())];
        let secret = secret::write(&self.client, settings, &settings.server_secret, look.server.as_ref(), data).await?;
        info!(%reason, "a serving certificate is made");
        self.metrics.rotated(Kind::Leaf);
        self.tell(&secret, reason, "server certificate for webhook").await;
        Ok(())
    }

    async fn write_bundle(&self, target: Target, ids: &[Fingerprint], look: &Look) -> Result<(), Error> {
        let Some(view) = look.views.get(&target) else { return Ok(()) };
        let bundle: String = ids.iter().filter_map(|id| look.anchors.get(id)).map(Certificate::to_pem).collect();
        match target {
            Target::Mutating => {
                view.write::<MutatingWebhookConfiguration>(&self.client, &self.settings.mutating, &bundle).await?;
            }
            Target::Validating => {
                view.write::<ValidatingWebhookConfiguration>(&self.client, &self.settings.validating, &bundle).await?;
            }
        }
        info!(configuration = %target, authorities = ids.len(), "the bundle of a webhook configuration is written");
        self.metrics.bundle_written();
        Ok(())
    }

    /// Publishes an event about a Secret that was written.
    async fn tell(&self, secret: &Secret, reason: Reason, what: &str) {
        let event = match reason {
            Reason::Missing => Event::normal("Generated", format!("Generated {what}.")),
            Reason::Unusable => {
                Event::warning("Repaired", format!("Generated {what} anew: the stored one could not be used."))
            }
            Reason::Expiring | Reason::Issuer | Reason::Names => {
                Event::normal("Rotated", format!("Rotated {what}: {reason}."))
            }
        };
        let now = self.settings.clock.now();
        if let Err(error) = self.recorder.publish(&secret.object_ref(&()), &event, now).await {
            warn!(error = %error, "cannot publish an event");
        }
    }
}
