//! Decides how the certificates of a webhook are rotated without a moment in which a served leaf is not accepted.
//!
//! Two things must agree that change at different times and places: the trust bundle in each webhook configuration, as every
//! API server sees it, and the leaf that each replica serves. So a new authority is first put into every bundle beside the
//! old one; when all bundles have carried it for a while, the leaf moves; when every replica has served the new leaf for a
//! while, the old authority leaves the bundles.
//!
//! Nothing of this is stored as a phase. [`plan`] looks at what is there and names the one next write, so that a writer may
//! die between any two writes and another may go on. Only durations are remembered ([`Memory`]), and losing them makes the
//! next step later, never earlier. [`swap`] is the same care on the side of a replica: it takes up a new leaf only when the
//! bundles accept it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::Reason;

/// How often the replicas are asked, at most and at least, while an old authority waits to leave.
const ASK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How many certificates a bundle carries at most.
const MAX_BUNDLE: usize = 16;
/// How long to wait at least before anything is looked at again.
const SHORTEST: Duration = Duration::from_secs(1);

/// The SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Returns the fingerprint of a certificate in DER.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..8]))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How certificates are made and how patient their rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a new authority is valid.
    pub authority_validity: SignedDuration,
    /// How long a new leaf is valid.
    pub leaf_validity: SignedDuration,
    /// A certificate is renewed when it is valid for less than this, or than half of its life.
    pub renew_before: SignedDuration,
    /// How long bundles carry a new authority before a leaf needs it: API servers read configurations from caches.
    pub grace: Duration,
    /// The same where waiting is harmful itself, because a replica that started now would have nothing to serve.
    pub urgent_grace: Duration,
    /// How long every replica has served the new leaf before the old authority leaves the bundles.
    pub overlap: Duration,
    /// How old the leaf must be before replicas that cannot be asked are taken to serve it.
    pub blind: SignedDuration,
    /// How long to wait at most before looking again.
    pub check: Duration,
}

impl Default for Policy {
    /// Ten years, a year, thirty days; ten seconds, three seconds, an hour; a day; an hour.
    fn default() -> Self {
        const DAY: i64 = 24;
        Self {
            authority_validity: SignedDuration::from_hours(3650 * DAY),
            leaf_validity: SignedDuration::from_hours(365 * DAY),
            renew_before: SignedDuration::from_hours(30 * DAY),
            grace: Duration::from_secs(10),
            urgent_grace: Duration::from_secs(3),
            overlap: Duration::from_hours(1),
            blind: SignedDuration::from_hours(DAY),
            check: Duration::from_hours(1),
        }
    }
}

impl Policy {
    fn margin(&self, validity: SignedDuration) -> SignedDuration {
        self.renew_before.min(validity / 2)
    }
}

/// A certificate that a bundle can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Which one.
    pub id: Fingerprint,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Whether our authority Secret names it as a predecessor.
    pub predecessor: bool,
}

impl Anchor {
    fn valid(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// A serving certificate whose private key is at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Which one.
    pub id: Fingerprint,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// The known certificates that make it trusted when a bundle carries them.
    pub trusted_by: BTreeSet<Fingerprint>,
    /// Whether it has the names that API servers ask for.
    pub names: bool,
}

impl Leaf {
    /// Returns whether it is valid at a time.
    pub fn valid(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    fn trusted<'a>(&self, mut anchors: impl Iterator<Item = &'a Fingerprint>) -> bool {
        anchors.any(|anchor| self.trusted_by.contains(anchor))
    }
}

/// Where the wanted trust comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Our own authority, which signs the leaf; or why there is none that can sign.
    Own(Result<Anchor, Reason>),
    /// Somebody else signs; these are to be trusted.
    Given(Vec<Anchor>),
}

/// One of the two webhook configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, strum::Display, strum::EnumIter)]
pub enum Target {
    /// The mutating one.
    Mutating,
    /// The validating one.
    Validating,
}

/// What the bundles of a configuration carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// What the bundle of every webhook begins with, if they agree.
    pub first: Option<Fingerprint>,
    /// What the bundle of every webhook carries.
    pub all: BTreeSet<Fingerprint>,
    /// What the bundle of any webhook carries.
    pub any: BTreeSet<Fingerprint>,
    /// Whether a bundle holds anything that cannot be read.
    pub unreadable: bool,
}

/// What a replica serves, as far as it can be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replica {
    /// It serves this leaf.
    Serves(Leaf),
    /// It may be getting requests, but did not tell.
    Silent,
}

/// Everything that a decision is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// What is to be trusted.
    pub roots: Roots,
    /// The leaf that replicas should take up, or why there is none.
    pub leaf: Result<Leaf, Reason>,
    /// Every other certificate that was found and could be put into a bundle.
    pub known: Vec<Anchor>,
    /// The configurations that exist.
    pub configurations: BTreeMap<Target, Carried>,
    /// The replicas that may get requests.
    pub replicas: Vec<Replica>,
    /// For how long every configuration has carried a certificate; from [`Memory`].
    pub carried: BTreeMap<Fingerprint, Duration>,
    /// For how long every replica has been seen to serve a leaf of the wanted roots; from [`Memory`].
    pub steady: Duration,
}

impl Observed {
    fn wanted(&self, now: Timestamp) -> Vec<Anchor> {
        let roots = match &self.roots {
            Roots::Own(own) => own.iter().copied().collect(),
            Roots::Given(given) => given.clone(),
        };
        roots.into_iter().filter(|root| root.valid(now)).collect()
    }

    /// Returns what every configuration carries in every webhook.
    pub fn carried_everywhere(&self) -> BTreeSet<Fingerprint> {
        everywhere(&self.configurations)
    }

    fn silent(&self, policy: &Policy, now: Timestamp) -> bool {
        let old = self.leaf.as_ref().is_ok_and(|leaf| now.duration_since(leaf.not_before) >= policy.blind);
        !old && self.replicas.contains(&Replica::Silent)
    }

    fn served(&self, now: Timestamp) -> impl Iterator<Item = &Leaf> {
        self.replicas.iter().filter_map(move |replica| match replica {
            Replica::Serves(leaf) if leaf.valid(now) => Some(leaf),
            _ => None,
        })
    }

    /// Certificates that some replica is trusted by and no wanted root replaces.
    fn needed(&self, now: Timestamp) -> BTreeSet<Fingerprint> {
        let wanted = self.wanted(now);
        self.served(now)
            .filter(|leaf| !leaf.trusted(wanted.iter().map(|root| &root.id)))
            .flat_map(|leaf| leaf.trusted_by.iter().copied())
            .collect()
    }

    /// Whether every replica serves a leaf of the wanted roots, and the next one to start will.
    ///
    /// Replicas take up only leaves of the authority that bundles begin with. So nobody starts to need another one any more.
    fn settled(&self, now: Timestamp) -> bool {
        let wanted = self.wanted(now);
        let led = |carried: &Carried| carried.first.is_some_and(|first| wanted.iter().any(|root| root.id == first));
        if !self.configurations.values().all(led) {
            return false;
        }
        let ours = |leaf: &Leaf| leaf.valid(now) && leaf.trusted(wanted.iter().map(|root| &root.id));
        self.leaf.as_ref().is_ok_and(ours)
            && self.replicas.iter().all(|replica| matches!(replica, Replica::Serves(leaf) if ours(leaf)))
    }

    /// Returns what a new authority names as its predecessors: whatever bundles carry or replicas need, and the last authority.
    pub fn predecessors(&self, now: Timestamp) -> BTreeSet<Fingerprint> {
        let mut ids = self.needed(now);
        ids.extend(self.configurations.values().flat_map(|carried| carried.any.iter().copied()));
        let valid = |id: &Fingerprint| self.known.iter().any(|anchor| anchor.id == *id && anchor.valid(now));
        ids.retain(valid);
        ids.extend(self.wanted(now).iter().map(|root| root.id));
        ids
    }

    /// Whether the decision depends on what the replicas serve; if not, there is no need to ask them.
    pub fn needs_replicas(&self, policy: &Policy, now: Timestamp) -> bool {
        let wanted: BTreeSet<Fingerprint> = self.wanted(now).iter().map(|root| root.id).collect();
        let differs = |carried: &Carried| {
            carried.any != wanted || carried.all != wanted || carried.first.is_none_or(|first| !wanted.contains(&first))
        };
        self.configurations.values().any(differs) || leaf_fault(self, &wanted, policy, now).is_some()
    }
}

/// Returns what every one of some configurations carries in every webhook; nothing when there is none.
pub fn everywhere(configurations: &BTreeMap<Target, Carried>) -> BTreeSet<Fingerprint> {
    let mut all = configurations.values().map(|carried| carried.all.clone());
    let first = all.next().unwrap_or_default();
    all.fold(first, |left, right| &left & &right)
}

/// Returns what every one of some configurations begins with; none when they do not agree.
pub fn leading(configurations: &BTreeMap<Target, Carried>) -> Option<Fingerprint> {
    let mut firsts = configurations.values().map(|carried| carried.first);
    let first = firsts.next()??;
    firsts.all(|other| other == Some(first)).then_some(first)
}

/// For how long things have been as they are, on a clock that only runs forward.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Memory {
    carried: BTreeMap<Fingerprint, Duration>,
    steady: Option<Duration>,
    respected: BTreeSet<Fingerprint>,
}

impl Memory {
    /// Takes note of what every configuration carries now; what is new has been there for `since` already.
    pub fn carry(&mut self, everywhere: &BTreeSet<Fingerprint>, at: Duration, since: Duration) {
        self.carried.retain(|id, _| everywhere.contains(id));
        for id in everywhere {
            self.carried.entry(*id).or_insert(at.saturating_sub(since));
        }
    }

    /// Returns for how long every configuration has carried a certificate.
    pub fn carried(&self, at: Duration) -> BTreeMap<Fingerprint, Duration> {
        self.carried.iter().map(|(id, since)| (*id, at.saturating_sub(*since))).collect()
    }

    /// Forgets since when every replica serves what it should: they were not asked.
    pub fn unsettle(&mut self) {
        self.steady = None;
    }

    /// Completes an observation by the durations.
    pub fn weigh(&mut self, observed: &mut Observed, at: Duration, now: Timestamp) {
        observed.carried = self.carried(at);
        self.respected.extend(observed.needed(now));
        if observed.settled(now) {
            observed.steady = at.saturating_sub(*self.steady.get_or_insert(at));
        } else {
            self.steady = None;
            observed.steady = Duration::ZERO;
        }
        for anchor in &mut observed.known {
            anchor.predecessor |= self.respected.contains(&anchor.id);
        }
    }
}

/// The next write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Make a new authority and store it with its predecessors.
    Authority(Reason),
    /// Make every bundle of a configuration carry exactly these, in this order.
    Bundle(Target, Vec<Fingerprint>),
    /// Sign a new leaf with the stored authority and store it.
    Leaf(Reason),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The next write, after which to look again at once.
    pub step: Option<Step>,
    /// When to look again if nothing is written and nothing changes.
    pub again: Duration,
}

/// Decides about the next write.
pub fn plan(observed: &Observed, policy: &Policy, now: Timestamp) -> Plan {
    let step = |step| Plan { step: Some(step), again: SHORTEST };
    let mut again = policy.check;
    if let Roots::Own(own) = &observed.roots {
        let margin = policy.margin(policy.authority_validity);
        match own {
            Err(reason) => return step(Step::Authority(*reason)),
            Ok(own) if own.not_before > now => return step(Step::Authority(Reason::Unusable)),
            Ok(own) => match left(own.not_after, now, margin) {
                Some(left) => again = again.min(left),
                None => return step(Step::Authority(Reason::Expiring)),
            },
        }
    }
    let wanted = observed.wanted(now);
    if wanted.is_empty() {
        // Nothing that could be trusted is at hand: what the bundles carry is better than nothing.
        return Plan { step: None, again };
    }
    let roots: BTreeSet<Fingerprint> = wanted.iter().map(|root| root.id).collect();
    let bundle = bundle(observed, &wanted, policy, now);
    let exact: BTreeSet<Fingerprint> = bundle.iter().copied().collect();
    for (target, carried) in &observed.configurations {
        let same = carried.all == exact && carried.any == exact && carried.first == bundle.first().copied();
        if !same || carried.unreadable {
            return step(Step::Bundle(*target, bundle));
        }
    }
    if exact.len() > roots.len() {
        let rest = policy.overlap.saturating_sub(observed.steady);
        again = again.min(rest.clamp(ASK.0, ASK.1));
    }
    if matches!(observed.roots, Roots::Own(_)) {
        if let Some(reason) = leaf_fault(observed, &roots, policy, now) {
            match rest_of_grace(observed, &roots, reason, policy, now) {
                None => return step(Step::Leaf(reason)),
                Some(rest) => again = again.min(rest),
            }
        } else {
            let end = observed.leaf.as_ref().map_or(now, |leaf| leaf.not_after);
            again = again.min(left(end, now, policy.margin(policy.leaf_validity)).unwrap_or(SHORTEST));
        }
    }
    Plan { step: None, again: again.max(SHORTEST) }
}

/// What every bundle should carry: the wanted roots, and what is still needed beside them.
fn bundle(observed: &Observed, wanted: &[Anchor], policy: &Policy, now: Timestamp) -> Vec<Fingerprint> {
    let (needed, silent) = (observed.needed(now), observed.silent(policy, now));
    let present = |id: &Fingerprint| observed.configurations.values().any(|carried| carried.any.contains(id));
    // Where somebody emptied all bundles, our own list is all that tells what they carried.
    let lost = !wanted.iter().any(|root| present(&root.id));
    let keep = |anchor: &Anchor| {
        let listed = present(&anchor.id);
        anchor.valid(now)
            && (needed.contains(&anchor.id)
                || silent && (listed || lost && anchor.predecessor)
                || listed && observed.steady < if anchor.predecessor { policy.overlap } else { policy.grace })
    };
    let mut others: Vec<&Anchor> = observed.known.iter().filter(|anchor| keep(anchor)).collect();
    others.sort_by_key(|anchor| (!needed.contains(&anchor.id), std::cmp::Reverse(anchor.not_before), anchor.id));
    let mut ids: Vec<Fingerprint> = wanted.iter().map(|root| root.id).collect();
    for anchor in others {
        if !ids.contains(&anchor.id) {
            ids.push(anchor.id);
        }
    }
    ids.truncate(MAX_BUNDLE.max(wanted.len()));
    ids
}

fn leaf_fault(observed: &Observed, roots: &BTreeSet<Fingerprint>, policy: &Policy, now: Timestamp) -> Option<Reason> {
    match &observed.leaf {
        Err(reason) => Some(*reason),
        Ok(leaf) if leaf.not_before > now => Some(Reason::Unusable),
        Ok(leaf) if left(leaf.not_after, now, policy.margin(policy.leaf_validity)).is_none() => Some(Reason::Expiring),
        Ok(leaf) if !leaf.names => Some(Reason::Names),
        Ok(leaf) if !leaf.trusted(roots.iter()) => Some(Reason::Issuer),
        Ok(_) => None,
    }
}

/// How long bundles have yet to carry the authority before a leaf of it may be stored; none for no longer.
fn rest_of_grace(
    observed: &Observed,
    roots: &BTreeSet<Fingerprint>,
    reason: Reason,
    policy: &Policy,
    now: Timestamp,
) -> Option<Duration> {
    let carried = observed.carried_everywhere();
    let accepted = observed.served(now).any(|leaf| leaf.trusted(carried.iter()));
    if observed.configurations.is_empty() || !accepted && !observed.silent(policy, now) {
        return None;
    }
    let hurry = matches!(reason, Reason::Missing | Reason::Unusable)
        || observed.leaf.as_ref().is_ok_and(|leaf| !leaf.valid(now));
    let grace = if hurry { policy.urgent_grace } else { policy.grace };
    let age = roots.iter().filter_map(|root| observed.carried.get(root)).max().copied().unwrap_or_default();
    Some(grace.saturating_sub(age)).filter(|rest| !rest.is_zero())
}

/// How long until a certificate is to be renewed; none when that is now.
fn left(not_after: Timestamp, now: Timestamp, margin: SignedDuration) -> Option<Duration> {
    let rest = Duration::try_from(not_after.duration_since(now).saturating_sub(margin)).ok()?;
    (!rest.is_zero()).then_some(rest)
}

/// What a replica does about a leaf that it could serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// It serves it already.
    Keep,
    /// Serve it.
    Now,
    /// The bundles carry its authority; look again after this long.
    Wait(Duration),
    /// Not as things are.
    Refuse(Refusal),
}

/// Why a replica does not serve a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display, strum::IntoStaticStr)]
pub enum Refusal {
    /// It is not valid now.
    Expired,
    /// API servers ask for another name.
    Names,
    /// Not every bundle accepts it yet.
    Untrusted,
}

/// What the configurations accept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// What every bundle begins with; see [`leading`].
    pub leading: Option<Fingerprint>,
    /// For how long every bundle has carried a certificate; from [`Memory`].
    pub carried: BTreeMap<Fingerprint, Duration>,
}

impl Accepted {
    /// For how long a leaf has been accepted; none when it is not.
    fn since(&self, leaf: &Leaf) -> Option<Duration> {
        leaf.trusted_by.iter().filter_map(|anchor| self.carried.get(anchor)).max().copied()
    }

    /// The same for a leaf that is yet to be served: what bundles only still carry may leave them at any moment.
    fn for_good(&self, leaf: &Leaf) -> Option<Duration> {
        let leading = self.leading.filter(|leading| leaf.trusted_by.contains(leading))?;
        self.carried.get(&leading).copied()
    }
}

/// Decides whether a replica serves another leaf; `accepted` is none when there are no configurations.
pub fn swap(
    served: Option<&Leaf>,
    candidate: &Leaf,
    accepted: Option<&Accepted>,
    policy: &Policy,
    now: Timestamp,
) -> Swap {
    if served.is_some_and(|served| served.id == candidate.id) {
        return Swap::Keep;
    }
    if !candidate.valid(now) {
        return Swap::Refuse(Refusal::Expired);
    }
    if !candidate.names {
        return Swap::Refuse(Refusal::Names);
    }
    let Some(accepted) = accepted else { return Swap::Now };
    let Some(age) = accepted.for_good(candidate) else { return Swap::Refuse(Refusal::Untrusted) };
    let works = served.is_some_and(|served| served.valid(now) && accepted.since(served).is_some());
    let rest = if works { policy.grace.saturating_sub(age) } else { Duration::ZERO };
    if rest.is_zero() { Swap::Now } else { Swap::Wait(rest) }
}

/// How long until a replica that serves this leaf may be given requests; none when its leaf is not accepted for good.
pub fn ready_in(served: &Leaf, accepted: Option<&Accepted>, policy: &Policy, now: Timestamp) -> Option<Duration> {
    let age = match accepted {
        Some(accepted) => accepted.for_good(served)?,
        None => policy.urgent_grace,
    };
    served.valid(now).then(|| policy.urgent_grace.saturating_sub(age))
}

/// Whether the holder of the Lease should have replaced a leaf of ours long ago: it may be one that issues none.
pub fn neglected(served: &Leaf, policy: &Policy, now: Timestamp) -> bool {
    left(served.not_after, now, policy.margin(policy.leaf_validity) / 2).is_none()
}

/// Whether requests to a replica that serves this leaf succeed at present.
pub fn works(served: &Leaf, accepted: Option<&Accepted>, now: Timestamp) -> bool {
    served.valid(now) && accepted.is_none_or(|accepted| accepted.since(served).is_some())
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
