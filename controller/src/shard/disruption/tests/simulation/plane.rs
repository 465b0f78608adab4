//! The data plane of the simulation: replication, consensus and orchestrators, as far as disruptions can tell.

use std::collections::{BTreeMap, BTreeSet};

use shared::api::v1alpha1::DurabilityPolicy;

use crate::shard::disruption::LAG_LIMIT;

/// Virtual milliseconds.
pub type Time = u64;

/// A PostgreSQL with its pooler, in the pod of the same name.
#[derive(Clone, Debug)]
pub struct Server {
    /// When it accepts connections; never if its description does not work.
    pub up_at: Option<Time>,
    /// Whether it runs all the same, and nobody ever hears of it.
    pub mute: bool,
    /// When it registers, until it has. It does so once, and when its role changes.
    pub registers_at: Option<Time>,
    /// When it streams from the present leader.
    pub follows_at: Time,
    /// Whether it was told to stop.
    pub stopping: bool,
    /// Whether its replay hangs.
    pub lags: bool,
    /// With how many connections it was started. One that runs with less than a new primary goes on receiving and confirming; what it does
    /// not replay meanwhile is not modelled.
    pub limit: u32,
}

/// Consensus and data of a shard.
#[derive(Debug)]
pub struct Plane {
    pub policy: DurabilityPolicy,
    pub servers: BTreeMap<String, Server>,
    /// End of the log on each volume; it outlives the server.
    pub log: BTreeMap<String, u64>,
    pub leader: Option<String>,
    /// On each volume: with how many connections the primary was started whose log it holds. A standby does not serve with less.
    pub control: BTreeMap<String, u32>,
    pub cohort: BTreeSet<String>,
    /// Who is in a record of the topology. Orchestrators know those that were, too.
    pub records: BTreeSet<String>,
    pub cells: BTreeMap<String, String>,
    /// The last commit that a client was told of.
    pub acknowledged: u64,
    pub resigned: bool,
    pub elections: usize,
    /// When the orchestrators may replace a leader that does not lead.
    grace_until: Option<Time>,
    /// Whether nobody is elected however long it takes.
    pub refuses: bool,
    next_cycle: Time,
}

impl Plane {
    pub fn new(policy: DurabilityPolicy) -> Self {
        Self {
            policy,
            servers: BTreeMap::new(),
            log: BTreeMap::new(),
            leader: None,
            control: BTreeMap::new(),
            cohort: BTreeSet::new(),
            records: BTreeSet::new(),
            cells: BTreeMap::new(),
            acknowledged: 0,
            resigned: false,
            elections: 0,
            grace_until: None,
            refuses: false,
            next_cycle: 0,
        }
    }

    pub fn is_up(&self, name: &str, now: Time) -> bool {
        self.servers.get(name).is_some_and(|server| !server.stopping && server.up_at.is_some_and(|at| at <= now))
    }

    pub fn serves(&self, name: &str, now: Time) -> bool {
        self.leader.as_deref() == Some(name) && !self.resigned && self.is_up(name, now)
    }

    pub fn streams(&self, name: &str, now: Time) -> bool {
        let Some(leader) = &self.leader else { return false };
        leader != name
            && self.serves(leader, now)
            && self.is_up(name, now)
            && self.servers.get(name).is_some_and(|server| server.follows_at <= now)
    }

    /// Whether a member truly counts now.
    pub fn counts(&self, name: &str, now: Time) -> bool {
        self.cohort.contains(name)
            && (self.serves(name, now) || (self.streams(name, now) && self.lag(name) <= LAG_LIMIT))
    }

    pub fn suffices<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> bool {
        let names: Vec<&String> = names.into_iter().collect();
        match self.policy {
            DurabilityPolicy::AtLeast2 => names.len() >= 2,
            DurabilityPolicy::MultiCellAtLeast2 | DurabilityPolicy::Unknown => {
                names.iter().filter_map(|name| self.cells.get(*name)).collect::<BTreeSet<_>>().len() >= 2
            }
        }
    }

    /// Whether the cohort can do without a member. The change is a commit like any other: those who stay have to confirm it, and with
    /// it everything before.
    pub fn lets_go(&self, name: &str, now: Time) -> bool {
        let confirms = |other: &String| {
            self.serves(other, now)
                || (self.streams(other, now) && self.servers.get(other).is_some_and(|server| !server.lags))
        };
        self.suffices(self.cohort.iter().filter(|other| *other != name && confirms(other)))
    }

    /// How far a standby is behind.
    pub fn lag(&self, name: &str) -> u64 {
        let end = self.leader.as_ref().and_then(|leader| self.log.get(leader)).copied().unwrap_or_default();
        // A commit stands for a whole segment here.
        end.saturating_sub(self.log.get(name).copied().unwrap_or_default()) << 24
    }

    /// Moves on to `now`. `jitter` decides about grace periods.
    pub fn advance(&mut self, now: Time, jitter: u64) {
        for (name, server) in &mut self.servers {
            let runs = !server.stopping && server.up_at.is_some();
            if runs && server.registers_at.take_if(|at| *at <= now).is_some() {
                self.records.insert(name.clone());
            }
        }
        self.replicate(now);
        if now >= self.next_cycle {
            self.next_cycle = now + 1000;
            self.cycle(now, jitter);
        }
    }

    fn replicate(&mut self, now: Time) {
        let Some(leader) = self.leader.clone().filter(|leader| self.serves(leader, now)) else { return };
        let end = self.log.get(&leader).copied().unwrap_or_default() + 1;
        self.log.insert(leader.clone(), end);
        let names: Vec<String> = self.servers.keys().cloned().collect();
        let mut holders: Vec<String> = vec![leader.clone()];
        for name in names {
            if self.streams(&name, now) && !self.servers[&name].lags {
                self.log.insert(name.clone(), end);
                let limit = self.servers[&leader].limit;
                self.control.insert(name.clone(), limit);
                holders.push(name);
            }
        }
        holders.retain(|name| self.cohort.contains(name));
        if self.suffices(&holders) {
            self.acknowledged = end;
        }
    }

    /// One recovery cycle of the orchestrators.
    pub fn cycle(&mut self, now: Time, jitter: u64) {
        let Some(leader) = self.leader.clone() else { return self.bootstrap(now) };
        if !self.serves(&leader, now) {
            let until = *self.grace_until.get_or_insert(now + 4000 + jitter % 8000);
            if now >= until {
                self.elect(now);
            }
            return;
        }
        self.grace_until = None;
        let names: Vec<String> = self.servers.keys().cloned().collect();
        for name in names {
            if self.streams(&name, now) && !self.servers[&name].lags {
                self.cohort.insert(name);
            }
        }
        let gone: Vec<String> = self.cohort.iter().filter(|name| !self.servers.contains_key(*name)).cloned().collect();
        for name in gone {
            if self.lets_go(&name, now) {
                self.cohort.remove(&name);
            }
        }
    }

    /// What `TriggerRecoveryNow` does.
    pub fn hasten(&mut self, now: Time) {
        self.grace_until = self.grace_until.map(|until| until.min(now)).or(Some(now));
        self.cycle(now, 0);
    }

    fn bootstrap(&mut self, now: Time) {
        let up: Vec<String> = self.servers.keys().filter(|name| self.is_up(name, now)).cloned().collect();
        if self.suffices(&up) {
            self.cohort = up.iter().cloned().collect();
            self.lead(&up[0].clone(), now);
        }
    }

    fn elect(&mut self, now: Time) {
        let up: Vec<String> = self.cohort.iter().filter(|name| self.is_up(name, now)).cloned().collect();
        let rest: Vec<String> = self.cohort.iter().filter(|name| !up.contains(name)).cloned().collect();
        // Nobody may be able to confirm a commit without one of those who revoke the old rule.
        if self.refuses || !self.suffices(&up) || self.suffices(&rest) || up.len() * 2 <= self.cohort.len() {
            return;
        }
        let old = self.leader.clone();
        let best = up.iter().max_by_key(|name| {
            (self.log.get(*name).copied().unwrap_or_default(), Some(*name) != old.as_ref(), std::cmp::Reverse(*name))
        });
        let Some(best) = best.cloned() else { return };
        let end = self.log.get(&best).copied().unwrap_or_default();
        assert!(
            end >= self.acknowledged,
            "{best} leads with {end}, but {} was acknowledged; cohort {:?}, up {up:?}, logs {:?}",
            self.acknowledged,
            self.cohort,
            self.log
        );
        self.lead(&best, now);
    }

    fn lead(&mut self, name: &str, now: Time) {
        let old = self.leader.replace(name.to_owned()).filter(|old| self.is_up(old, now));
        self.records.extend(old.into_iter().chain([name.to_owned()]));
        let limit = self.servers[name].limit;
        self.control.insert(name.to_owned(), limit);
        self.resigned = false;
        self.grace_until = None;
        self.elections += 1;
        let end = self.log.get(name).copied().unwrap_or_default();
        for (other, server) in &mut self.servers {
            server.follows_at = now + 1500;
            // What only a former leader wrote was never acknowledged; it is rewound.
            let log = self.log.entry(other.clone()).or_default();
            *log = (*log).min(end);
        }
    }
}
