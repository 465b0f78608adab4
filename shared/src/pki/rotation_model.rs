//! A model of everything around the plan: two processes that are replicas and would-be holders of the Lease at once, the Secrets, the
//! configurations and the API servers that go by them, and all that can happen to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher,
};

use super::super::*;

pub const TICK: i64 = 10;
/// How many ticks pass before somebody who is not accepted asks for the Lease.
pub const PATIENCE: u8 = 2;
/// Authorities with this number and above belong to somebody else.
pub const FOREIGN: u32 = 1_000_000;

/// A leaf that is renewed at half of its life, and an authority that lives half as long again.
pub fn quick(ticks: i64) -> Policy {
    Policy {
        authority_validity: SignedDuration::from_secs(3 * ticks * TICK),
        leaf_validity: SignedDuration::from_secs(2 * ticks * TICK),
        renew_before: SignedDuration::from_secs(ticks * TICK),
        grace: seconds(TICK),
        urgent_grace: seconds(TICK),
        overlap: seconds(2 * TICK),
        blind: SignedDuration::from_secs(6 * TICK),
        check: seconds(TICK),
    }
}

pub fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.try_into().unwrap())
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000_000 + second).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ca {
    pub number: u32,
    pub start: i64,
    pub end: i64,
}

impl Ca {
    pub fn id(self) -> Fingerprint {
        fingerprint(self.number)
    }

    pub fn anchor(self, predecessor: bool) -> Anchor {
        Anchor { id: self.id(), not_before: at(self.start), not_after: at(self.end), predecessor }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signed {
    pub number: u32,
    pub ca: Ca,
    pub start: i64,
    pub end: i64,
}

impl Signed {
    pub fn leaf(self) -> Leaf {
        Leaf {
            id: fingerprint(self.number),
            not_before: at(self.start),
            not_after: at(self.end),
            trusted_by: [self.ca.id()].into(),
            names: true,
        }
    }
}

pub fn fingerprint(number: u32) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Fingerprint(bytes)
}

pub fn number(id: &Fingerprint) -> u32 {
    u32::from_be_bytes(id.0[..4].try_into().unwrap())
}

/// Something stored, if it is there and if it can be used.
pub type Slot<T> = Result<T, Reason>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bundle {
    pub first: Option<Ca>,
    pub all: BTreeSet<Ca>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    Own,
    Files,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub mode: Mode,
    /// What is mounted, where somebody else issues.
    pub mounted: Option<Signed>,
    pub served: Option<Signed>,
    pub ready: bool,
    pub memory: Memory,
    pub seen: BTreeSet<Ca>,
    /// A decided write, and the authority that would sign.
    pub pending: Option<(Step, Option<Ca>, BTreeSet<Ca>)>,
    pub looked: bool,
    pub late: bool,
}

impl Process {
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            mounted: None,
            served: None,
            ready: false,
            memory: Memory::default(),
            seen: BTreeSet::new(),
            pending: None,
            looked: false,
            late: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub policy: Policy2,
    pub now: i64,
    pub authority: Slot<Ca>,
    pub tail: BTreeSet<Ca>,
    pub leaf: Slot<Signed>,
    pub stored: [Bundle; 2],
    /// When we wrote it last, which the API server tells.
    pub written: [i64; 2],
    /// Whether somebody else wrote it last.
    pub tampered: [bool; 2],
    /// What any API server may go by, and whether somebody else wrote that: all since the last tick.
    pub active: [BTreeSet<(Bundle, bool)>; 2],
    pub processes: [Process; 2],
    pub holder: usize,
    /// For how many ticks.
    pub held: u8,
    pub issuer: Option<Signed>,
    pub numbers: (u32, u32),
    pub harm: u8,
}

/// The policy, without a part in what tells states apart.
#[derive(Clone, Copy, Debug)]
pub struct Policy2(pub Policy);

impl PartialEq for Policy2 {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Policy2 {}

impl std::hash::Hash for Policy2 {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

pub const TARGETS: [Target; 2] = [Target::Mutating, Target::Validating];

impl World {
    /// A fresh installation: nothing is there but the configurations.
    pub fn new(policy: Policy, modes: [Mode; 2], harm: u8) -> Self {
        Self {
            policy: Policy2(policy),
            now: 0,
            authority: Err(Reason::Missing),
            tail: BTreeSet::new(),
            leaf: Err(Reason::Missing),
            stored: Default::default(),
            written: [0; 2],
            tampered: [true; 2],
            active: [[(Bundle::default(), true)].into(), [(Bundle::default(), true)].into()],
            processes: modes.map(Process::new),
            holder: 0,
            held: 0,
            issuer: None,
            numbers: (0, 0),
            harm,
        }
    }

    pub fn monotonic(&self) -> Duration {
        seconds(1_000_000 + self.now)
    }

    pub fn carried(&self) -> BTreeMap<Target, Carried> {
        TARGETS
            .into_iter()
            .zip(&self.stored)
            .map(|(target, bundle)| {
                let ids: BTreeSet<Fingerprint> = bundle.all.iter().map(|ca| ca.id()).collect();
                let first = bundle.first.map(Ca::id);
                (target, Carried { first, all: ids.clone(), any: ids, unreadable: false })
            })
            .collect()
    }

    pub fn known(&self, process: &Process) -> BTreeSet<Ca> {
        let mut known = &self.stored[0].all | &self.stored[1].all;
        known.extend(&process.seen);
        if process.mode == Mode::Own {
            known.extend(&self.tail);
            known.extend(self.authority.iter());
            known.extend(self.leaf.iter().map(|leaf| leaf.ca));
        } else {
            known.extend(process.mounted.iter().map(|leaf| leaf.ca));
        }
        known
    }

    pub fn observe(&mut self, who: usize, silent: bool) -> Observed {
        let (now, clock, configurations) = (at(self.now), self.monotonic(), self.carried());
        let known = self.known(&self.processes[who]);
        let others = self.processes.iter().enumerate().filter_map(|(index, replica)| {
            if silent && index != who {
                return replica.served.map(|_| Replica::Silent);
            }
            replica.served.map(|leaf| Replica::Serves(leaf.leaf()))
        });
        let process = &self.processes[who];
        let own = process.mode == Mode::Own;
        let candidate = if own { self.leaf } else { process.mounted.ok_or(Reason::Missing) };
        let mut observed = Observed {
            roots: if own {
                Roots::Own(self.authority.map(|ca| ca.anchor(false)))
            } else {
                Roots::Given(process.mounted.iter().map(|leaf| leaf.ca.anchor(false)).collect())
            },
            leaf: candidate.map(Signed::leaf),
            known: known.iter().map(|ca| ca.anchor(own && self.tail.contains(ca))).collect(),
            configurations,
            replicas: others.collect(),
            carried: BTreeMap::new(),
            steady: Duration::ZERO,
        };
        let everywhere = observed.carried_everywhere();
        let process = &mut self.processes[who];
        process.seen = known;
        process.memory.carry(&everywhere, clock, since(&process.memory, self.now, self.written));
        let ask = observed.needs_replicas(&self.policy.0, now);
        if !ask {
            observed.replicas = process.served.map(|leaf| Replica::Serves(leaf.leaf())).into_iter().collect();
        }
        process.memory.weigh(&mut observed, clock, now);
        if !ask {
            process.memory.unsettle();
        }
        observed
    }

    pub fn decide(&mut self, silent: bool) -> Option<Step> {
        let who = self.holder;
        let observed = self.observe(who, silent);
        let step = plan(&observed, &self.policy.0, at(self.now)).step;
        let ids = match &step {
            Some(Step::Authority(_)) => observed.predecessors(at(self.now)),
            Some(Step::Bundle(_, ids)) => ids.iter().copied().collect(),
            _ => BTreeSet::new(),
        };
        let cas = self.processes[who].seen.iter().filter(|ca| ids.contains(&ca.id())).copied().collect();
        self.processes[who].pending = step.clone().map(|step| (step, self.authority.ok(), cas));
        step
    }

    /// Some API servers learn of a configuration at once, and others do not.
    pub fn publish(&mut self, index: usize) {
        self.active[index].insert((self.stored[index].clone(), self.tampered[index]));
    }

    /// Every decided write on an object that changed would be refused.
    pub fn changed(&mut self, same: impl Fn(&Step) -> bool) {
        for process in &mut self.processes {
            process.pending.take_if(|(step, ..)| same(step));
        }
    }

    pub fn write(&mut self, who: usize) {
        let Some((step, signer, cas)) = self.processes[who].pending.take() else { return };
        match step {
            Step::Authority(_) => {
                self.numbers.0 += 1;
                let end = self.now + self.policy.0.authority_validity.as_secs();
                self.authority = Ok(Ca { number: self.numbers.0, start: self.now, end });
                self.tail = cas;
                self.changed(|step| matches!(step, Step::Authority(_)));
            }
            Step::Bundle(target, ids) => {
                let index = TARGETS.iter().position(|known| *known == target).unwrap();
                let first = cas.iter().find(|ca| ca.id() == ids[0]).copied();
                self.stored[index] = Bundle { first, all: cas };
                self.written[index] = self.now;
                self.tampered[index] = false;
                self.publish(index);
                self.changed(|step| matches!(step, Step::Bundle(other, _) if *other == target));
            }
            Step::Leaf(_) => {
                self.numbers.1 += 1;
                let end = self.now + self.policy.0.leaf_validity.as_secs();
                let ca = signer.unwrap();
                self.leaf = Ok(Signed { number: self.numbers.1, ca, start: self.now, end: end.min(ca.end) });
                self.changed(|step| matches!(step, Step::Leaf(_)));
            }
        }
    }

    pub fn look(&mut self, who: usize) {
        let (clock, configurations) = (self.monotonic(), self.carried());
        let process = &mut self.processes[who];
        let candidate = if process.mode == Mode::Own { self.leaf.ok() } else { process.mounted };
        process.memory.carry(&everywhere(&configurations), clock, since(&process.memory, self.now, self.written));
        let accepted = Accepted { leading: leading(&configurations), carried: process.memory.carried(clock) };
        if let Some(candidate) = candidate {
            let served = process.served.map(Signed::leaf);
            if swap(served.as_ref(), &candidate.leaf(), Some(&accepted), &self.policy.0, at(self.now)) == Swap::Now {
                process.served = Some(candidate);
            }
        }
        if let Some(served) = process.served {
            process.ready |= ready_in(&served.leaf(), Some(&accepted), &self.policy.0, at(self.now))
                .is_some_and(|rest| rest.is_zero());
        }
        process.looked = true;
    }

    /// Whether time may go on.
    pub fn patient(&self) -> bool {
        let (holder, other) = (&self.processes[self.holder], &self.processes[1 - self.holder]);
        let looked = holder.looked && (other.looked || !other.late);
        let mut probe = self.clone();
        let work = probe.decide(false).is_some() || self.processes[self.holder].pending.is_some();
        looked && !work && !(self.neglected() && self.asked())
    }

    /// Whether a replica is not accepted, and asks for the Lease.
    pub fn asked(&self) -> bool {
        self.held == PATIENCE && (self.neglected() || !self.processes[1 - self.holder].ready)
    }

    /// Whether a replica needs a holder that issues, and asks for the Lease.
    pub fn neglected(&self) -> bool {
        let other = &self.processes[1 - self.holder];
        other.mode == Mode::Own
            && other.served.is_some_and(|served| neglected(&served.leaf(), &self.policy.0, at(self.now)))
    }

    pub fn tick(&mut self, by: i64) {
        for (index, active) in self.active.iter_mut().enumerate() {
            *active = [(self.stored[index].clone(), self.tampered[index])].into();
        }
        self.now += by;
        self.held = (self.held + 1).min(PATIENCE);
        for process in &mut self.processes {
            process.late = !process.looked;
            process.looked = false;
        }
    }

    /// What must never be: a replica that gets requests, with a leaf that an untouched configuration does not accept.
    pub fn fault(&self) -> Option<String> {
        for (index, process) in self.processes.iter().enumerate().filter(|(_, process)| process.ready) {
            let Some(served) = process.served else { return Some(format!("replica {index} serves nothing")) };
            if self.active.iter().flatten().any(|(_, tampered)| *tampered) {
                continue;
            }
            if served.end <= self.now || served.ca.end <= self.now {
                return Some(format!("replica {index} serves what has ended"));
            }
            if let Some(bad) =
                self.active.iter().position(|views| views.iter().any(|(bundle, _)| !bundle.all.contains(&served.ca)))
            {
                return Some(format!("replica {index} is not accepted by {}", TARGETS[bad]));
            }
        }
        None
    }

    /// Everybody does their work for some time.
    pub fn run_fairly(&mut self, ticks: usize, by: i64) {
        for _ in 0..ticks {
            for _ in 0..6 {
                for who in 0..2 {
                    self.write(who);
                    self.processes[who].mounted = self.issuer.filter(|_| self.processes[who].mode == Mode::Files);
                    self.look(who);
                }
                self.decide(false);
            }
            // As a replica that is not accepted asks for.
            if self.asked() {
                self.move_lease();
            }
            self.tick(by);
        }
    }
}

/// For how long bundles have been as they are, for a process that has not looked yet.
pub fn since(memory: &Memory, now: i64, written: [i64; 2]) -> Duration {
    if *memory == Memory::default() { seconds(now - written[0].max(written[1])) } else { Duration::ZERO }
}

pub fn issued(number: u32, now: i64) -> Signed {
    let ca = Ca { number: FOREIGN + number, start: now, end: now + 100_000 * TICK };
    Signed { number: FOREIGN + number, ca, start: now, end: now + 100_000 * TICK }
}
