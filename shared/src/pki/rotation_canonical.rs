//! Which states of the model are one: those that differ only in when they are and in how things are numbered.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::super::*;
use super::model::{Bundle, Ca, FOREIGN, Signed, TICK, World, fingerprint, number, seconds};

/// The number of what is gone.
const NOBODY: u32 = u32::MAX;
/// Beyond this all ages are alike.
const OLD: i64 = 4;

impl World {
    /// The same state as if it were now, with everything numbered anew.
    pub fn canonical(&self) -> u64 {
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
}
