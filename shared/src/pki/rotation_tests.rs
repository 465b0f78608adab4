//! A model of everything around the plan, and a search through all that can happen in it.
//!
//! Two processes are replicas and would-be holders of the Lease at once. Each event below may happen at any time; only time
//! itself waits: for configurations to reach all API servers, for the writes of the holder, and for a replica to look at least
//! every other tick. The search covers all of time, because states that differ only in when they happen are one.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher},
};

use super::*;

const TICK: i64 = 10;
/// How many ticks pass before somebody who is not accepted asks for the Lease.
const PATIENCE: u8 = 2;
/// The number of what is gone.
const NOBODY: u32 = u32::MAX;
/// Beyond this all ages are alike.
const OLD: i64 = 4;
/// Authorities with this number and above belong to somebody else.
const FOREIGN: u32 = 1_000_000;

/// A leaf that is renewed at half of its life, and an authority that lives half as long again.
fn quick(ticks: i64) -> Policy {
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

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.try_into().unwrap())
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000_000 + second).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Ca {
    number: u32,
    start: i64,
    end: i64,
}

impl Ca {
    fn id(self) -> Fingerprint {
        fingerprint(self.number)
    }

    fn anchor(self, predecessor: bool) -> Anchor {
        Anchor { id: self.id(), not_before: at(self.start), not_after: at(self.end), predecessor }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Signed {
    number: u32,
    ca: Ca,
    start: i64,
    end: i64,
}

impl Signed {
    fn leaf(self) -> Leaf {
        Leaf {
            id: fingerprint(self.number),
            not_before: at(self.start),
            not_after: at(self.end),
            trusted_by: [self.ca.id()].into(),
            names: true,
        }
    }
}

fn fingerprint(number: u32) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Fingerprint(bytes)
}

fn number(id: &Fingerprint) -> u32 {
    u32::from_be_bytes(id.0[..4].try_into().unwrap())
}

/// Something stored, if it is there and if it can be used.
type Slot<T> = Result<T, Reason>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Bundle {
    first: Option<Ca>,
    all: BTreeSet<Ca>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    Own,
    Files,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    mode: Mode,
    /// What is mounted, where somebody else issues.
    mounted: Option<Signed>,
    served: Option<Signed>,
    ready: bool,
    memory: Memory,
    seen: BTreeSet<Ca>,
    /// A decided write, and the authority that would sign.
    pending: Option<(Step, Option<Ca>, BTreeSet<Ca>)>,
    looked: bool,
    late: bool,
}

impl Process {
    fn new(mode: Mode) -> Self {
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
struct World {
    policy: Policy2,
    now: i64,
    authority: Slot<Ca>,
    tail: BTreeSet<Ca>,
    leaf: Slot<Signed>,
    stored: [Bundle; 2],
    /// When we wrote it last, which the API server tells.
    written: [i64; 2],
    /// Whether somebody else wrote it last.
    tampered: [bool; 2],
    /// What any API server may go by, and whether somebody else wrote that: all since the last tick.
    active: [BTreeSet<(Bundle, bool)>; 2],
    processes: [Process; 2],
    holder: usize,
    /// For how many ticks.
    held: u8,
    issuer: Option<Signed>,
    numbers: (u32, u32),
    harm: u8,
}

/// The policy, without a part in what tells states apart.
#[derive(Clone, Copy, Debug)]
struct Policy2(Policy);

impl PartialEq for Policy2 {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Policy2 {}

impl std::hash::Hash for Policy2 {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// The holder looks and decides; the other replica may be silent.
    Decide {
        silent: bool,
    },
    /// A process carries out what it decided, whoever holds the Lease by now.
    Write(usize),
    /// A replica looks at the configurations and at its leaf.
    Look(usize),
    Tick,
    LeaseMoves,
    Restart(usize, Mode),
    Harm(Harm),
    /// The issuer renews; with another authority.
    Issue,
    /// The kubelet brings the issuer's newest to a replica.
    Mount(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Authority(Reason),
    Leaf(Reason),
    Empty(usize),
    Foreign(usize),
}

const TARGETS: [Target; 2] = [Target::Mutating, Target::Validating];

impl World {
    /// A fresh installation: nothing is there but the configurations.
    fn new(policy: Policy, modes: [Mode; 2], harm: u8) -> Self {
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

    fn monotonic(&self) -> Duration {
        seconds(1_000_000 + self.now)
    }

    fn carried(&self) -> BTreeMap<Target, Carried> {
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

    fn known(&self, process: &Process) -> BTreeSet<Ca> {
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

    fn observe(&mut self, who: usize, silent: bool) -> Observed {
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

    fn decide(&mut self, silent: bool) -> Option<Step> {
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
    fn publish(&mut self, index: usize) {
        self.active[index].insert((self.stored[index].clone(), self.tampered[index]));
    }

    /// Every decided write on an object that changed would be refused.
    fn changed(&mut self, same: impl Fn(&Step) -> bool) {
        for process in &mut self.processes {
            process.pending.take_if(|(step, ..)| same(step));
        }
    }

    fn write(&mut self, who: usize) {
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

    fn look(&mut self, who: usize) {
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
    fn patient(&self) -> bool {
        let (holder, other) = (&self.processes[self.holder], &self.processes[1 - self.holder]);
        let looked = holder.looked && (other.looked || !other.late);
        let mut probe = self.clone();
        let work = probe.decide(false).is_some() || self.processes[self.holder].pending.is_some();
        looked && !work && !(self.neglected() && self.asked())
    }

    /// Whether a replica is not accepted, and asks for the Lease.
    fn asked(&self) -> bool {
        self.held == PATIENCE && (self.neglected() || !self.processes[1 - self.holder].ready)
    }

    /// Whether a replica needs a holder that issues, and asks for the Lease.
    fn neglected(&self) -> bool {
        let other = &self.processes[1 - self.holder];
        other.mode == Mode::Own
            && other.served.is_some_and(|served| neglected(&served.leaf(), &self.policy.0, at(self.now)))
    }

    fn tick(&mut self, by: i64) {
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

    fn events(&self, modes: bool) -> Vec<Event> {
        let mut events = vec![Event::Decide { silent: false }];
        for index in 0..2 {
            if self.processes[index].pending.is_some() {
                events.push(Event::Write(index));
            }
            events.push(Event::Look(index));
            if self.processes[index].mode == Mode::Files && self.processes[index].mounted != self.issuer {
                events.push(Event::Mount(index));
            }
        }
        if self.patient() {
            events.push(Event::Tick);
        }
        if self.harm > 0 || (modes || self.neglected()) && self.asked() {
            events.push(Event::LeaseMoves);
        }
        if self.harm == 0 {
            return events;
        }
        events.push(Event::Decide { silent: true });
        for index in 0..2 {
            // Replicas are not taken away before another one serves.
            if self.processes[1 - index].ready {
                let mode = self.processes[index].mode;
                events.push(Event::Restart(index, mode));
                if modes {
                    events.push(Event::Restart(index, if mode == Mode::Own { Mode::Files } else { Mode::Own }));
                }
            }
        }
        if modes {
            if self.processes.iter().all(|process| process.mode == Mode::Own || process.mounted == self.issuer) {
                events.push(Event::Issue);
            }
        } else {
            for harm in [
                Harm::Authority(Reason::Missing),
                Harm::Authority(Reason::Unusable),
                Harm::Leaf(Reason::Missing),
                Harm::Leaf(Reason::Unusable),
                Harm::Empty(0),
                Harm::Empty(1),
                Harm::Foreign(0),
            ] {
                events.push(Event::Harm(harm));
            }
        }
        events
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Decide { silent } => {
                self.harm -= u8::from(silent);
                self.decide(silent);
            }
            Event::Write(who) => self.write(who),
            Event::Look(who) => self.look(who),
            Event::Tick => self.tick(TICK),
            Event::LeaseMoves => {
                self.harm = self.harm.saturating_sub(u8::from(!self.asked()));
                self.move_lease();
            }
            Event::Restart(who, mode) => {
                self.harm -= 1;
                self.processes[who] = Process::new(mode);
                if mode == Mode::Files {
                    self.issuer.get_or_insert_with(|| issued(0, self.now));
                    self.processes[who].mounted = self.issuer;
                }
            }
            Event::Issue => {
                self.harm -= 1;
                let number = self.issuer.map_or(0, |last| last.ca.number - FOREIGN + 1);
                self.issuer = Some(issued(number, self.now));
            }
            Event::Mount(who) => self.processes[who].mounted = self.issuer,
            Event::Harm(harm) => {
                self.harm -= 1;
                self.suffer(harm);
            }
        }
    }

    fn move_lease(&mut self) {
        (self.holder, self.held) = (1 - self.holder, 0);
        let memory = &mut self.processes[self.holder].memory;
        memory.steady = None;
        memory.respected.clear();
    }

    fn suffer(&mut self, harm: Harm) {
        match harm {
            Harm::Authority(reason) => {
                self.authority = Err(reason);
                self.tail.clear();
                self.changed(|step| matches!(step, Step::Authority(_)));
            }
            Harm::Leaf(reason) => {
                self.leaf = Err(reason);
                self.changed(|step| matches!(step, Step::Leaf(_)));
            }
            Harm::Empty(index) | Harm::Foreign(index) => {
                let foreign = Ca { number: 2 * FOREIGN, start: self.now, end: self.now + 1000 * TICK };
                self.stored[index] = if harm == Harm::Empty(index) {
                    Bundle::default()
                } else {
                    Bundle { first: Some(foreign), all: [foreign].into() }
                };
                self.tampered[index] = true;
                self.publish(index);
                self.changed(|step| matches!(step, Step::Bundle(target, _) if *target == TARGETS[index]));
            }
        }
    }

    /// What must never be: a replica that gets requests, with a leaf that an untouched configuration does not accept.
    fn fault(&self) -> Option<String> {
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

    /// The same state as if it were now, with everything numbered anew.
    fn canonical(&self) -> u64 {
        let mut world = self.clone();
        let mut cas = BTreeSet::new();
        let mut leaves = BTreeSet::new();
        world.visit(&mut |ca| _ = cas.insert(ca.number), &mut |leaf| _ = leaves.insert(leaf.number));
        let rank = |all: &BTreeSet<u32>, number: u32| u32::try_from(all.range(..number).count()).unwrap();
        let shift = |time: i64| (time - self.now).clamp(-OLD * TICK * 2, 100 * TICK);
        let ca = |ca: &mut Ca| {
            let foreign = if ca.number >= FOREIGN { FOREIGN } else { 0 };
            (ca.number, ca.start, ca.end) = (foreign + rank(&cas, ca.number), shift(ca.start), shift(ca.end));
        };
        world.visit(&mut |one| ca(one), &mut |leaf| {
            leaf.number = rank(&leaves, leaf.number);
            (leaf.start, leaf.end) = (shift(leaf.start), shift(leaf.end));
        });
        let clock = self.monotonic();
        let id = |id: &Fingerprint| {
            let number = number(id);
            let foreign = if number >= FOREIGN { FOREIGN } else { 0 };
            fingerprint(if cas.contains(&number) { foreign + rank(&cas, number) } else { NOBODY })
        };
        let age = |since: Duration| clock.saturating_sub(since).min(seconds(OLD * TICK));
        for process in &mut world.processes {
            process.memory = Memory {
                carried: process.memory.carried.iter().map(|(one, since)| (id(one), age(*since))).collect(),
                steady: process.memory.steady.map(age),
                respected: process.memory.respected.iter().map(id).filter(|id| number(id) != NOBODY).collect(),
            };
            if let Some((Step::Bundle(_, ids), ..)) = &mut process.pending {
                *ids = vec![id(&ids[0])];
            }
        }
        world.written = self.written.map(|at| (at - self.now).max(-OLD * TICK));
        (world.now, world.numbers) = (0, (0, 0));
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        hasher.finish()
    }

    fn visit(&mut self, ca: &mut dyn FnMut(&mut Ca), leaf: &mut dyn FnMut(&mut Signed)) {
        let set = |set: &mut BTreeSet<Ca>, ca: &mut dyn FnMut(&mut Ca)| {
            *set = std::mem::take(set)
                .into_iter()
                .map(|mut one| {
                    ca(&mut one);
                    one
                })
                .collect();
        };
        let mut one = |signed: &mut Signed, ca: &mut dyn FnMut(&mut Ca)| {
            leaf(signed);
            ca(&mut signed.ca);
        };
        if let Ok(authority) = &mut self.authority {
            ca(authority);
        }
        set(&mut self.tail, ca);
        for bundle in &mut self.stored {
            set(&mut bundle.all, ca);
            bundle.first.iter_mut().for_each(&mut *ca);
        }
        for views in &mut self.active {
            let mut one = |(mut bundle, tampered): (Bundle, bool)| {
                set(&mut bundle.all, ca);
                bundle.first.iter_mut().for_each(&mut *ca);
                (bundle, tampered)
            };
            *views = std::mem::take(views).into_iter().map(&mut one).collect();
        }
        for signed in self.leaf.iter_mut().chain(&mut self.issuer) {
            one(signed, ca);
        }
        for process in &mut self.processes {
            // Only what still matters tells states apart.
            let now = self.now;
            process.seen.retain(|ca| ca.end > now);
            set(&mut process.seen, ca);
            for signed in process.served.iter_mut().chain(&mut process.mounted) {
                one(signed, ca);
            }
            if let Some((_, signer, cas)) = &mut process.pending {
                signer.iter_mut().for_each(&mut *ca);
                set(cas, ca);
            }
        }
    }

    /// Everybody does their work for some time.
    fn run_fairly(&mut self, ticks: usize, by: i64) {
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
fn since(memory: &Memory, now: i64, written: [i64; 2]) -> Duration {
    if *memory == Memory::default() { seconds(now - written[0].max(written[1])) } else { Duration::ZERO }
}

fn issued(number: u32, now: i64) -> Signed {
    let ca = Ca { number: FOREIGN + number, start: now, end: now + 100_000 * TICK };
    Signed { number: FOREIGN + number, ca, start: now, end: now + 100_000 * TICK }
}

/// Searches every state that can be reached, and returns how many there are.
fn search(start: World, modes: bool, most: usize) -> usize {
    let mut seen: HashSet<u64> = [start.canonical()].into();
    let mut queue = VecDeque::from([(start, 0_usize)]);
    let mut trace: Vec<(usize, Event)> = vec![(0, Event::Tick)];
    let mut number = 0;
    while let Some((world, at)) = queue.pop_front() {
        number += 1;
        if number % 97 == 0 {
            let mut later = world.clone();
            later.run_fairly(12, TICK);
            let ready = later.processes.iter().all(|process| process.ready);
            assert!(ready && !later.tampered.contains(&true), "it gets stuck: {world:#?}\n{later:#?}");
        }
        for event in world.events(modes) {
            let mut next = world.clone();
            next.apply(event);
            if !seen.insert(next.canonical()) {
                continue;
            }
            trace.push((at, event));
            let index = trace.len() - 1;
            if let Some(fault) = next.fault() {
                let mut path = vec![];
                let mut step = index;
                while step != 0 {
                    path.push(trace[step].1);
                    step = trace[step].0;
                }
                path.reverse();
                panic!("{fault} after {path:#?}\nbefore: {world:#?}\nafter: {next:#?}");
            }
            assert!(seen.len() < most, "the search does not end: {next:#?}");
            queue.push_back((next, index));
        }
    }
    seen.len()
}

/// A world in which everything is in order.
fn settled(policy: Policy, modes: [Mode; 2], harm: u8) -> World {
    let mut world = World::new(policy, modes, harm);
    if modes.contains(&Mode::Files) {
        world.issuer = Some(issued(0, 0));
    }
    world.run_fairly(3, TICK);
    assert_eq!(world.fault(), None);
    assert!(world.processes.iter().all(|process| process.ready), "{world:#?}");
    world
}

#[test]
fn no_interleaving_of_an_installation_serves_what_is_not_accepted() {
    let states = search(World::new(quick(7), [Mode::Own; 2], 0), false, 1_000_000);
    assert!(states > 10_000, "{states}");
}

#[test]
#[ignore = "takes minutes: `make soak` runs it (hack/stories.sh soak)"]
fn no_interleaving_with_harm_at_any_time_serves_what_is_not_accepted() {
    let states = search(settled(quick(10), [Mode::Own; 2], 1), false, 20_000_000);
    eprintln!("{states} states");
    assert!(states > 100_000, "{states}");
}

#[test]
#[ignore = "takes minutes: `make soak` runs it (hack/stories.sh soak)"]
fn no_interleaving_of_other_issuers_serves_what_is_not_accepted() {
    for modes in [[Mode::Own; 2], [Mode::Files; 2]] {
        let states = search(settled(quick(10), modes, 1), true, 20_000_000);
        eprintln!("{states} states");
        assert!(states > 10_000, "{states}");
    }
}

/// Wanders through the model for longer than an authority lives, with the times that are the default.
#[test]
fn twelve_years_of_chance_serve_nothing_that_is_not_accepted() {
    const DAY: i64 = 24 * 3600;
    for seed in 0..3_u64 {
        let mut world = settled(Policy::default(), [Mode::Own; 2], 0);
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = |sides: usize| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            usize::try_from(dice >> 33).unwrap() % sides
        };
        let (first, mut leaves) = (world.authority.unwrap().number, 0);
        let end = world.now + 12 * 365 * DAY;
        while world.now < end {
            let before = world.numbers.1;
            for _ in 0..40 {
                world.harm = u8::from(roll(20) == 0);
                let events = world.events(false);
                let event = events[roll(events.len())];
                if event == Event::Tick {
                    continue;
                }
                world.apply(event);
                assert_eq!(world.fault(), None, "seed {seed}, after {event:?}: {world:#?}");
            }
            // Ends of grace and overlap are met one by one, quiet times at once.
            world.run_fairly(3, 11);
            assert_eq!(world.fault(), None, "seed {seed}: {world:#?}");
            world.tick([1, DAY, 5 * DAY][roll(3)]);
            leaves += u32::from(world.numbers.1 != before);
        }
        assert!(leaves >= 12 && world.authority.unwrap().number > first, "{leaves} leaves: {world:#?}");
    }
}
