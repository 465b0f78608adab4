//! What can happen in the model, and what comes of it.

use super::super::*;
use super::model::{Bundle, Ca, FOREIGN, Mode, Process, TARGETS, TICK, World, issued};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
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
pub enum Harm {
    Authority(Reason),
    Leaf(Reason),
    Empty(usize),
    Foreign(usize),
}

impl World {
    pub fn events(&self, modes: bool) -> Vec<Event> {
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

    pub fn apply(&mut self, event: Event) {
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

    pub fn move_lease(&mut self) {
        (self.holder, self.held) = (1 - self.holder, 0);
        let memory = &mut self.processes[self.holder].memory;
        memory.steady = None;
        memory.respected.clear();
    }

    pub fn suffer(&mut self, harm: Harm) {
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
}
