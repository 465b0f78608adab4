//! Takes up new leaves, on every replica.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use shared::{
    admin::Readiness,
    pki::{
        Certificate,
        rotation::{self, Accepted, Carried, Leaf, Memory, Refusal, Swap, Target},
    },
};
use tokio::{sync::watch, time::sleep};
use tracing::{debug, info, warn};

use super::{
    Mode, READY, Settings,
    configuration::View,
    material::{self, Parts},
    serving::{Current, Serving},
    watch::{Seen, Sight, Watched},
};
use crate::metrics::{Certificates, Kind};

/// Follows the leaf and the bundles.
pub(super) struct Follower {
    settings: Arc<Settings>,
    serving: Arc<Serving>,
    readiness: Readiness,
    metrics: Certificates,
    mutating: Seen<View>,
    validating: Seen<View>,
    leaf: Seen<Parts>,
    memory: Memory,
    born: Instant,
    ready: bool,
    unaccepted: watch::Sender<bool>,
    said: String,
}

impl Follower {
    pub fn new(
        settings: &Arc<Settings>,
        watched: &Watched,
        serving: &Arc<Serving>,
        readiness: Readiness,
        metrics: Certificates,
    ) -> Self {
        Self {
            settings: Arc::clone(settings),
            serving: Arc::clone(serving),
            readiness,
            metrics,
            mutating: watched.mutating.clone(),
            validating: watched.validating.clone(),
            leaf: watched.leaf.clone(),
            memory: Memory::default(),
            born: Instant::now(),
            ready: false,
            unaccepted: watch::Sender::new(true),
            said: String::new(),
        }
    }

    /// Shows whether the API servers would not accept what this replica serves.
    pub fn unaccepted(&self) -> watch::Receiver<bool> {
        self.unaccepted.subscribe()
    }

    /// Follows; never ends while the watches run.
    pub async fn run(mut self) {
        loop {
            let again = self.look();
            tokio::select! {
                changed = self.mutating.changed() => if changed.is_err() { return },
                changed = self.validating.changed() => if changed.is_err() { return },
                changed = self.leaf.changed() => if changed.is_err() { return },
                () = sleep(again) => {}
            }
        }
    }

    /// Takes up what is to be taken up, and returns when to look again at the latest.
    fn look(&mut self) -> Duration {
        let (mutating, validating) =
            (self.mutating.borrow_and_update().clone(), self.validating.borrow_and_update().clone());
        let parts = self.leaf.borrow_and_update().clone();
        if mutating == Sight::Unknown || validating == Sight::Unknown {
            return self.settings.policy.check;
        }
        let views: BTreeMap<Target, View> = [(Target::Mutating, mutating), (Target::Validating, validating)]
            .into_iter()
            .filter_map(|(target, view)| Some((target, view.present()?)))
            .collect();
        let anchors: Vec<Certificate> = views.values().flat_map(|view| view.certificates.clone()).collect();
        let accepted = self.accepted(&views);
        let accepted = (!views.is_empty()).then_some(&accepted);
        let mut again = self.settings.policy.check;
        if let Some(parts) = parts.present() {
            match material::read(&parts) {
                Ok(candidate) => again = again.min(self.consider(candidate, &anchors, accepted)),
                Err(error) => {
                    self.say(&format!("the stored certificate cannot be served: {error}"));
                    again = again.min(Duration::from_mins(1));
                }
            }
        }
        let again = again.min(self.judge(&anchors, accepted));
        self.show(&views, &anchors);
        again
    }

    /// Shows whom the API servers would believe what is served by now.
    fn show(&self, views: &BTreeMap<Target, View>, anchors: &[Certificate]) {
        let served = self.served(anchors);
        for target in [Target::Mutating, Target::Validating] {
            let accepts = |view: &View| served.as_ref().is_some_and(|leaf| view.accepts(leaf));
            self.metrics.in_sync(target, views.get(&target).map(accepts));
        }
    }

    /// What the configurations accept, and for how long.
    fn accepted(&mut self, views: &BTreeMap<Target, View>) -> Accepted {
        let all: BTreeMap<Target, Carried> =
            views.iter().map(|(target, view)| (*target, view.carried.clone())).collect();
        let at = self.born.elapsed();
        self.memory.carry(&rotation::everywhere(&all), at, age_at_first(&self.memory, views.values(), &self.settings));
        Accepted { leading: rotation::leading(&all), carried: self.memory.carried(at) }
    }

    fn consider(&mut self, candidate: Current, anchors: &[Certificate], accepted: Option<&Accepted>) -> Duration {
        let settings = Arc::clone(&self.settings);
        let (policy, now) = (&settings.policy, settings.clock.now());
        let served = self.served(anchors);
        let Some(leaf) = material::leaf(&candidate.chain, anchors, &settings.server_name()) else {
            return policy.check;
        };
        match rotation::swap(served.as_ref(), &leaf, accepted, policy, now) {
            Swap::Keep => self.said.clear(),
            Swap::Now => {
                self.serving.swap(candidate);
                self.metrics.read(true);
                self.metrics.expires(Kind::Leaf, leaf.not_after);
                info!(leaf = %leaf.id, until = %leaf.not_after, "a serving certificate is taken up");
                self.said.clear();
            }
            Swap::Wait(rest) => return rest,
            // The holder is about to make the bundles carry its authority.
            Swap::Refuse(Refusal::Untrusted) => debug!(leaf = %leaf.id, "the bundles do not accept a new leaf yet"),
            Swap::Refuse(refusal) => {
                self.say(&format!("serving certificate {} is not taken up: {refusal}", leaf.id));
                return Duration::from_mins(1);
            }
        }
        policy.check
    }

    /// Finds out whether the API servers accept what is served by now.
    fn judge(&mut self, anchors: &[Certificate], accepted: Option<&Accepted>) -> Duration {
        let (policy, now) = (&self.settings.policy, self.settings.clock.now());
        let served = self.served(anchors);
        let rest = served.as_ref().and_then(|served| rotation::ready_in(served, accepted, policy, now));
        if rest == Some(Duration::ZERO) && !std::mem::replace(&mut self.ready, true) {
            self.readiness.set(READY, true);
        }
        let works = served.as_ref().is_some_and(|served| rotation::works(served, accepted, now));
        let own = self.settings.mode == Mode::SelfSigned;
        let neglected = own && served.is_some_and(|served| rotation::neglected(&served, policy, now));
        let unaccepted = neglected || if self.ready { !works } else { rest.is_none() };
        self.unaccepted.send_if_modified(|last| std::mem::replace(last, unaccepted) != unaccepted);
        rest.filter(|rest| !rest.is_zero()).unwrap_or(policy.check)
    }

    fn served(&self, anchors: &[Certificate]) -> Option<Leaf> {
        let current = self.serving.current()?;
        material::leaf(&current.chain, anchors, &self.settings.server_name())
    }

    /// Complains once about each thing.
    fn say(&mut self, complaint: &str) {
        if self.said != complaint {
            warn!("{complaint}");
            self.metrics.read(false);
            complaint.clone_into(&mut self.said);
        }
    }
}

/// How long bundles have been as they are, at the first look: as long as our own last write is ago.
pub(super) fn age_at_first<'v>(
    memory: &Memory,
    views: impl Iterator<Item = &'v View>,
    settings: &Settings,
) -> Duration {
    if *memory != Memory::default() {
        return Duration::ZERO;
    }
    let now = settings.clock.now();
    let ages = views
        .map(|view| view.written.and_then(|at| Duration::try_from(now.duration_since(at)).ok()).unwrap_or_default());
    ages.min().unwrap_or_default()
}
