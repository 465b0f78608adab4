//! The simulated shards: who is there, who leads, and the records that say so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant, SystemTime};

use crate::identity;
use crate::launch::Role;
use crate::orch::Target;
use crate::pooler::record::{self, Mutable};
use crate::proto::clustermetadata::id::ComponentType;
use crate::proto::clustermetadata::{
    DurabilityPolicy, Id, Multipooler, PoolerLifecycleStatus, PoolerServingStatus, RoutingRole, RuleNumber, ShardKey,
    ShardRule,
};
use crate::quorum;

use super::pods::Process;

/// Where a shard lives: the global root and the shard's key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The global root of the cluster.
    pub root: String,
    /// Database, table group, shard.
    pub shard: (String, String, String),
}

impl Place {
    /// The shard's key.
    pub fn key(&self) -> ShardKey {
        let (database, table_group, shard) = self.shard.clone();
        ShardKey { database, table_group, shard }
    }
}

/// One simulated pooler.
#[derive(Clone, Debug)]
pub struct Pooler {
    /// Its name in the cluster.
    pub id: Id,
    /// The record without what changes.
    pub base: Multipooler,
    /// Whether its pod runs.
    pub alive: bool,
}

/// One simulated shard.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its poolers by component id.
    pub poolers: BTreeMap<String, Pooler>,
    /// The rule in force.
    pub rule: Option<ShardRule>,
    /// Whether the leader asked to be replaced.
    pub resigned: bool,
    /// Since when there is no leader that leads.
    pub leaderless: Option<Instant>,
    /// When the last election was.
    pub elected_at: SystemTime,
    /// The labels and times of the backups.
    pub backups: Vec<(String, String, SystemTime)>,
    /// When the shard was first seen.
    pub since: Instant,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            poolers: BTreeMap::new(),
            rule: None,
            resigned: false,
            leaderless: None,
            elected_at: SystemTime::now(),
            backups: Vec::new(),
            since: Instant::now(),
        }
    }
}

impl Shard {
    /// The leader, if its pod runs and it did not resign.
    pub fn leader(&self) -> Option<&Pooler> {
        let id = self.rule.as_ref()?.leader_id.as_ref()?;
        self.poolers.values().find(|pooler| pooler.id == *id && pooler.alive && !self.resigned)
    }

    /// Takes the highest rule that the records of an earlier run claim.
    pub fn adopt(&mut self, records: &[Multipooler], policy: &DurabilityPolicy) {
        if self.rule.is_some() {
            return;
        }
        let newest = records
            .iter()
            .filter_map(|record| {
                let state = record.routing_state.as_ref().filter(|state| state.role() == RoutingRole::Primary)?;
                let rule = state.rule?;
                Some(((rule.coordinator_term, rule.leader_subterm), rule, record.id.clone()?))
            })
            .max_by_key(|(rank, _, _)| *rank);
        if let Some((_, number, leader)) = newest {
            self.rule = Some(ShardRule {
                rule_number: Some(number),
                leader_id: Some(leader),
                cohort_members: records.iter().filter_map(|record| record.id.clone()).collect(),
                durability_policy: Some(policy.clone()),
                ..ShardRule::default()
            });
        }
    }

    /// Elects a leader if one is missing and a quorum is there; tells whether it did.
    pub fn elect(&mut self, policy: &DurabilityPolicy, delay: Duration, now: Instant) -> bool {
        if self.leader().is_some() {
            self.leaderless = None;
            return false;
        }
        let alive: Vec<Id> =
            self.poolers.values().filter(|pooler| pooler.alive).map(|pooler| pooler.id.clone()).collect();
        let (ready, wait) = match &self.rule {
            None => (quorum::satisfied(policy, &alive), Duration::ZERO),
            Some(rule) => {
                let members: Vec<Id> = alive.iter().filter(|id| rule.cohort_members.contains(id)).cloned().collect();
                (quorum::can_appoint(policy, &rule.cohort_members, &members), delay)
            }
        };
        let since = *self.leaderless.get_or_insert(now);
        if !ready || now.duration_since(since) < wait {
            return false;
        }
        let old = self.rule.as_ref().and_then(|rule| rule.leader_id.clone());
        let members = self.rule.as_ref().map_or_else(|| alive.clone(), |rule| rule.cohort_members.clone());
        let Some(leader) = alive
            .iter()
            .filter(|id| members.contains(id))
            .max_by_key(|id| (Some(*id) != old.as_ref(), std::cmp::Reverse(id.name.clone())))
        else {
            return false;
        };
        let term = self.term() + 1;
        self.rule = Some(ShardRule {
            rule_number: Some(RuleNumber { coordinator_term: term, leader_subterm: 0 }),
            leader_id: Some(leader.clone()),
            cohort_members: members,
            durability_policy: Some(policy.clone()),
            ..ShardRule::default()
        });
        if self.backups.is_empty() {
            self.backups.push(("full".into(), String::new(), SystemTime::now()));
        }
        self.resigned = false;
        self.leaderless = None;
        self.elected_at = SystemTime::now();
        true
    }

    /// Lets newcomers into the cohort and stopped members out of it, where the policy allows; tells whether it changed.
    pub fn reconcile_cohort(&mut self, policy: &DurabilityPolicy) -> bool {
        if self.leader().is_none() {
            return false;
        }
        let alive: Vec<Id> =
            self.poolers.values().filter(|pooler| pooler.alive).map(|pooler| pooler.id.clone()).collect();
        let Some(rule) = &mut self.rule else { return false };
        let same = alive.iter().collect::<Vec<_>>() == rule.cohort_members.iter().collect::<Vec<_>>();
        if same || !quorum::satisfied(policy, &alive) {
            return false;
        }
        rule.cohort_members = alive;
        if let Some(number) = &mut rule.rule_number {
            number.leader_subterm += 1;
        }
        true
    }

    /// The term in force.
    pub fn term(&self) -> i64 {
        self.rule.as_ref().and_then(|rule| rule.rule_number).map_or(0, |number| number.coordinator_term)
    }

    /// How far the log is: it grows with time.
    pub fn lsn(&self) -> u64 {
        0x0100_0028 + self.since.elapsed().as_secs() * 0x60
    }

    /// What the record of a pooler should say.
    pub fn record(&self, pooler: &Pooler) -> Multipooler {
        let leads = self.leader().is_some_and(|leader| leader.id == pooler.id);
        let status = if pooler.alive {
            record::lifecycle(PoolerLifecycleStatus::LifecycleActive, "postgres is running")
        } else {
            record::lifecycle(PoolerLifecycleStatus::LifecycleShutdown, "pooler shutdown")
        };
        record::projected(
            &pooler.base,
            &Mutable {
                serving: if pooler.alive { PoolerServingStatus::Serving } else { PoolerServingStatus::Disabled },
                lifecycle: status,
                primary_by: self.rule.as_ref().filter(|_| leads).and_then(|rule| rule.rule_number),
            },
        )
    }
}

/// Everything that is simulated.
#[derive(Default)]
pub struct World {
    /// The shards.
    pub shards: BTreeMap<Place, Shard>,
    /// Running processes by pod.
    pub processes: BTreeMap<String, Process>,
    /// Shards that need a look.
    pub dirty: BTreeSet<Place>,
    addresses: BTreeMap<String, Ipv4Addr>,
    residents: BTreeMap<Ipv4Addr, (Place, String)>,
}

impl World {
    /// Notes that a process runs; `port` is where the simulator answers for it.
    pub fn appeared(&mut self, process: Process, port: u16) {
        let known = self.processes.get(&process.pod).is_some_and(|known| known.uid == process.uid);
        if known {
            return;
        }
        if process.role == Role::Pooler {
            let (place, name, pooler) = self.pooler(&process, port);
            self.shards.entry(place.clone()).or_default().poolers.insert(name, pooler);
            self.dirty.insert(place);
        } else {
            let root = process.values.text("topo-global-root").to_owned();
            self.dirty.extend(self.shards.keys().filter(|place| place.root == root).cloned());
        }
        self.processes.insert(process.pod.clone(), process);
    }

    /// Notes that the process of a pod ended.
    pub fn vanished(&mut self, pod: &str) -> Option<Process> {
        let process = self.processes.remove(pod)?;
        if process.role == Role::Pooler {
            let (place, name, _) = self.pooler(&process, 0);
            if let Some(pooler) = self.shards.get_mut(&place).and_then(|shard| shard.poolers.get_mut(&name)) {
                pooler.alive = false;
            }
            self.dirty.insert(place);
        }
        Some(process)
    }

    fn pooler(&mut self, process: &Process, port: u16) -> (Place, String, Pooler) {
        let values = &process.values;
        let text = |name: &str| values.text(name).to_owned();
        let place =
            Place { root: text("topo-global-root"), shard: (text("database"), text("table-group"), text("shard")) };
        let service_id = match values.text("service-id") {
            "" => process.pod.clone(),
            given => given.to_owned(),
        };
        let id = identity::id(ComponentType::Multipooler, values.text("cell"), &service_id);
        let name = identity::component_id(&id);
        let address = self.address(&format!("{}{name}", place.root));
        self.residents.insert(address, (place.clone(), name.clone()));
        let base = Multipooler {
            id: Some(id.clone()),
            shard_key: Some(place.key()),
            hostname: address.to_string(),
            port_map: record::ports(port, port, values.port("pg-port"), values.port("pgbackrest-port")),
            pooler_dir: text("pooler-dir"),
            pg_data_dir: "/var/lib/pooler/pg_data".into(),
            ..Multipooler::default()
        };
        (place, name, Pooler { id, base, alive: true })
    }

    /// A loopback address of its own for every process: that is how one listener can tell whom a call is for.
    pub fn address(&mut self, name: &str) -> Ipv4Addr {
        let next = u32::try_from(self.addresses.len()).unwrap_or_default() + 1;
        *self.addresses.entry(name.to_owned()).or_insert_with(|| Ipv4Addr::from(0x7F10_0000 + next))
    }

    /// Whose address it is.
    pub fn resident(&self, address: Ipv4Addr) -> Option<(&Place, &str)> {
        self.residents.get(&address).map(|(place, name)| (place, name.as_str()))
    }

    /// Whether an orchestrator that watches the shard runs.
    pub fn is_watched(&self, place: &Place) -> bool {
        self.processes.values().any(|process| {
            process.role == Role::Orch
                && process.values.text("topo-global-root") == place.root
                && process
                    .values
                    .list("watch-targets")
                    .iter()
                    .filter_map(|target| Target::parse(target).ok())
                    .any(|target| target.covers(&place.key()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(count: u8) -> Shard {
        let mut shard = Shard::default();
        for n in 1..=count {
            let id = identity::id(ComponentType::Multipooler, "a", &format!("p{n}"));
            shard.poolers.insert(
                identity::component_id(&id),
                Pooler { base: Multipooler { id: Some(id.clone()), ..Multipooler::default() }, id, alive: true },
            );
        }
        shard
    }

    fn stop(shard: &mut Shard, id: &Id) {
        shard.poolers.get_mut(&identity::component_id(id)).unwrap().alive = false;
    }

    #[test]
    fn a_lost_leader_is_replaced_after_the_delay_with_a_higher_term() {
        let policy = quorum::named("AT_LEAST_2").unwrap();
        let mut shard = shard(3);
        let start = Instant::now();
        assert!(shard.elect(&policy, Duration::from_secs(5), start));
        let first = shard.leader().unwrap().id.clone();
        stop(&mut shard, &first);
        assert!(!shard.elect(&policy, Duration::from_secs(5), start));
        assert!(shard.elect(&policy, Duration::from_secs(5), start + Duration::from_secs(6)));
        assert_ne!(shard.leader().unwrap().id, first);
        assert_eq!(shard.term(), 2);
        assert!(shard.reconcile_cohort(&policy), "the stopped member leaves");
    }

    #[test]
    fn one_pooler_elects_nobody() {
        let policy = quorum::named("AT_LEAST_2").unwrap();
        assert!(!shard(1).elect(&policy, Duration::ZERO, Instant::now()));
    }

    #[test]
    fn an_earlier_run_is_continued() {
        let policy = quorum::named("AT_LEAST_2").unwrap();
        let mut before = shard(2);
        before.elect(&policy, Duration::ZERO, Instant::now());
        let records: Vec<Multipooler> = before.poolers.values().map(|pooler| before.record(pooler)).collect();
        let mut after = shard(2);
        after.adopt(&records, &policy);
        assert_eq!(after.term(), 1);
        assert_eq!(after.leader().map(|leader| leader.id.clone()), before.leader().map(|leader| leader.id.clone()));
    }

    #[test]
    fn every_name_has_one_loopback_address() {
        let mut world = World::default();
        let first = world.address("x");
        assert!(first.is_loopback());
        assert_eq!(world.address("x"), first);
        assert_ne!(world.address("y"), first);
    }
}
