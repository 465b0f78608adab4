//! Leadership by a `coordination.k8s.io` Lease: a pure state machine and the loop that carries it out.
//!
//! A holder writes the Lease once per renewal interval and reads it only when a write was refused; a candidate only
//! reads. A record counts as fresh from the moment its change was *seen* here, on the monotonic clock, so clocks of
//! different machines need not agree. What to do when leadership is lost is the caller's business (a controller exits).

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease as Record, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::label;

/// How a Lease is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the Lease.
    pub name: String,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Who we are; unique among the candidates.
    pub identity: String,
    /// How long others respect a record that does not change.
    pub duration: Duration,
    /// How long a holder that cannot write still counts itself as the holder; shorter than `duration`.
    pub renew_deadline: Duration,
    /// How long to wait after a failure, and between the looks of a candidate.
    pub retry: Duration,
}

impl Settings {
    /// Returns settings with the usual times: 15 s, 10 s and 2 s.
    pub fn new(name: impl Into<String>, namespace: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }

    /// How long a holder waits between two writes: two more attempts fit before the deadline.
    fn renew_interval(&self) -> Duration {
        self.renew_deadline / 2
    }
}

/// How often a release is tried when others change the record at the same time.
const RELEASES: u32 = 4;

/// Where this process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display)]
pub enum State {
    /// Someone else holds the Lease, or nobody does yet.
    Waiting,
    /// This process holds the Lease.
    Held,
    /// This process held the Lease and does not any more; the loop has ended.
    Lost,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take the Lease.
    Acquire,
    /// Write the Lease again.
    Renew,
    /// Nothing, for this long.
    Wait(Duration),
    /// Give up: another process may hold the Lease by now.
    Lost,
}

/// What a record says about its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Identity of the holder; empty when it was released.
    pub identity: String,
    /// How long the holder wants to be respected.
    pub duration: Duration,
}

/// What is known about the Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The record as it was last seen; none when there is none.
    pub holder: Option<Holder>,
    /// When the record was last seen to change.
    pub changed: Option<Instant>,
    /// When this process last wrote the record as its holder; none for a candidate.
    pub renewed: Option<Instant>,
}

/// Decides what to do next.
pub fn decide(now: Instant, view: &View, settings: &Settings) -> Step {
    if let Some(renewed) = view.renewed {
        let ours = view.holder.as_ref().is_none_or(|holder| holder.identity == settings.identity);
        let since = now.saturating_duration_since(renewed);
        return if !ours || since >= settings.renew_deadline {
            Step::Lost
        } else if view.holder.is_none() || since >= settings.renew_interval() {
            Step::Renew
        } else {
            Step::Wait(settings.renew_interval().saturating_sub(since))
        };
    }
    let Some(holder) = &view.holder else { return Step::Acquire };
    if holder.identity.is_empty() || holder.identity == settings.identity {
        return Step::Acquire;
    }
    let since = view.changed.map_or(Duration::ZERO, |changed| now.saturating_duration_since(changed));
    let left = holder.duration.saturating_sub(since);
    if left.is_zero() { Step::Acquire } else { Step::Wait(left.min(settings.retry)) }
}

/// A running election.
pub struct Lease {
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Lease {
    /// Starts to compete for a Lease, until it is lost or `token` is cancelled; a held Lease is then released.
    ///
    /// Cancel the token after everything that needs leadership has stopped.
    pub fn run(client: Client, settings: Settings, token: CancellationToken) -> Self {
        let (sender, state) = watch::channel(State::Waiting);
        let api = Api::namespaced(client, &settings.namespace);
        let election = Election { api, settings: Arc::new(settings), view: View::default(), record: None, sender };
        let task = tokio::spawn(election.run(token));
        Self { state, task }
    }

    /// Returns a channel that shows where this process stands.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until the Lease is held and returns whether it is; `false` when the election ended before.
    pub async fn held(&self) -> bool {
        let mut state = self.state.clone();
        state.wait_for(|state| *state == State::Held).await.is_ok()
    }

    /// Waits for the end of the election, that is for the release or the loss of the Lease.
    pub async fn ended(self) -> State {
        // A task that panicked has not released anything: the same as a loss.
        if self.task.await.is_err() { State::Lost } else { *self.state.borrow() }
    }
}

struct Election {
    api: Api<Record>,
    settings: Arc<Settings>,
    view: View,
    record: Option<Record>,
    sender: watch::Sender<State>,
}

impl Election {
    async fn run(mut self, token: CancellationToken) {
        let mut look = true;
        loop {
            if look {
                tokio::select! {
                    () = token.cancelled() => break,
                    seen = self.observe() => if let Err(error) = seen {
                        warn!(lease = self.settings.name, error = %error, "cannot read the lease");
                        if self.view.renewed.is_none() {
                            if pause(&token, jittered(self.settings.retry)).await { break }
                            continue;
                        }
                    },
                }
            }
            match decide(Instant::now(), &self.view, &self.settings) {
                Step::Lost => {
                    warn!(lease = self.settings.name, "leadership is lost");
                    self.sender.send_replace(State::Lost);
                    return;
                }
                Step::Wait(wait) => {
                    // Only candidates spread out: a holder that waits longer comes closer to its deadline.
                    let held = self.view.renewed.is_some();
                    if pause(&token, if held { wait } else { jittered(wait) }).await {
                        break;
                    }
                    look = !held;
                }
                Step::Acquire | Step::Renew => {
                    // Not raced against the token: an unknown outcome could not be released.
                    match self.write().await {
                        Ok(()) => look = false,
                        Err(error) => {
                            debug!(lease = self.settings.name, error = %error, "cannot write the lease");
                            look = true;
                            if pause(&token, self.settings.retry.min(self.settings.renew_interval() / 2)).await {
                                break;
                            }
                        }
                    }
                }
            }
        }
        self.release().await;
    }

    async fn observe(&mut self) -> Result<(), Error> {
        let record = within(self.limit(), self.api.get_opt(&self.settings.name)).await?;
        self.see(record);
        Ok(())
    }

    /// Takes note of a record. Only a beat of its holder starts its time anew: what others annotate keeps nobody alive.
    fn see(&mut self, record: Option<Record>) {
        let beat = |record: &Option<Record>| {
            let spec = record.as_ref()?.spec.as_ref()?;
            Some((spec.holder_identity.clone(), spec.acquire_time.clone(), spec.renew_time.clone()))
        };
        if self.view.changed.is_none() || beat(&record) != beat(&self.record) {
            self.view.changed = Some(Instant::now());
        }
        self.view.holder = record.as_ref().and_then(|record| record.spec.as_ref()).map(|spec| Holder {
            identity: spec.holder_identity.clone().unwrap_or_default(),
            duration: Duration::from_secs(spec.lease_duration_seconds.unwrap_or(0).try_into().unwrap_or(0)),
        });
        self.record = record;
    }

    /// Writes the record with us as the holder, on top of the version that was seen.
    async fn write(&mut self) -> Result<(), Error> {
        let next = record(self.record.as_ref(), &self.settings, &self.settings.identity, Timestamp::now());
        // The record may be respected from the moment the server has it, which is not before this one.
        let before = Instant::now();
        let params = PostParams::default();
        let written = if self.record.is_some() {
            within(self.limit(), self.api.replace(&self.settings.name, &params, &next)).await?
        } else {
            within(self.limit(), self.api.create(&params, &next)).await?
        };
        self.see(Some(written));
        if self.view.renewed.replace(before).is_none() {
            info!(lease = self.settings.name, identity = self.settings.identity, "leadership is held");
            self.sender.send_replace(State::Held);
        }
        Ok(())
    }

    /// Gives the Lease back, so that the next holder need not wait for its end.
    async fn release(&mut self) {
        if self.view.renewed.take().is_none() {
            return;
        }
        // Others may have touched the record meanwhile, an annotation of theirs is enough; it is ours to give back all the same.
        for attempts_left in (0..RELEASES).rev() {
            let mut next = record(self.record.as_ref(), &self.settings, "", Timestamp::now());
            if let Some(spec) = &mut next.spec {
                spec.lease_duration_seconds = Some(1);
            }
            let params = PostParams::default();
            match within(self.limit(), self.api.replace(&self.settings.name, &params, &next)).await {
                Ok(_) => {
                    info!(lease = self.settings.name, "leadership is released");
                    break;
                }
                Err(error) if error.is_conflict() && attempts_left > 0 => {
                    let seen = self.observe().await;
                    let ours = |holder: &Holder| holder.identity == self.settings.identity;
                    if seen.is_err() || !self.view.holder.as_ref().is_some_and(ours) {
                        break;
                    }
                }
                Err(error) => {
                    warn!(lease = self.settings.name, error = %error, "cannot release the lease");
                    break;
                }
            }
        }
        self.sender.send_replace(State::Waiting);
    }

    /// A request that takes longer than this has failed; the next one still fits before the deadline.
    fn limit(&self) -> Duration {
        self.settings.renew_interval() / 2
    }
}

/// A request for the Lease that failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Request(kube::Error),
    #[error("no answer in time")]
    Timeout,
}

impl Error {
    /// Whether the record had changed since it was read.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Request(kube::Error::Api(status)) if status.code == 409)
    }
}

async fn within<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    timeout(limit, request).await.map_err(|_| Error::Timeout)?.map_err(Error::Request)
}

/// Returns the record with another holder; who held it and since when is carried over while the holder stays.
fn record(previous: Option<&Record>, settings: &Settings, holder: &str, now: Timestamp) -> Record {
    let mut next = previous.cloned().unwrap_or_else(|| Record {
        metadata: ObjectMeta {
            name: Some(settings.name.clone()),
            namespace: Some(settings.namespace.clone()),
            labels: Some([(label::MANAGED_BY.to_owned(), label::MANAGER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    next.metadata.managed_fields = None;
    let spec = next.spec.get_or_insert_with(LeaseSpec::default);
    let before = spec.holder_identity.as_deref().unwrap_or_default();
    if before != holder {
        // As in client-go: the first holder and a release are no transition.
        if previous.is_some() && !holder.is_empty() {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.acquire_time = Some(MicroTime(now));
    }
    spec.lease_transitions.get_or_insert(0);
    spec.holder_identity = Some(holder.to_owned());
    spec.lease_duration_seconds = Some(i32::try_from(settings.duration.as_secs()).unwrap_or(i32::MAX));
    spec.renew_time = Some(MicroTime(now));
    next
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + rand::random::<f64>() * 0.2)
}

/// Waits, and returns whether the token was cancelled meanwhile.
async fn pause(token: &CancellationToken, wait: Duration) -> bool {
    tokio::select! {
        () = token.cancelled() => true,
        () = sleep(wait) => token.is_cancelled(),
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
