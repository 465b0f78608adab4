//! A Kubernetes with one shard, and the troubles that befall it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use jiff::Timestamp;
use shared::api::v1alpha1::DurabilityPolicy;

use super::plane::{Plane, Server, Time};
use crate::shard::disruption::{Drain, Failures, Node, Reason, Volume};

/// Length of an instant.
const TICK: Time = 250;
/// How long after the last trouble everything must be as wanted.
const PATIENCE: Time = 45 * 60 * 1000;
/// When no more troubles come.
const TROUBLES: Time = 15 * 60 * 1000;
/// The oldest picture that the watch shows.
const STALE: Time = 8000;

/// Whether troubles come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calm {
    Yes,
    No,
}

/// A pod as the API server holds it.
#[derive(Clone, Debug)]
pub struct Pod {
    pub uid: u64,
    pub cell: String,
    pub index: u32,
    pub version: u32,
    pub limit: u32,
    /// Version of the settings that a reload brings into force.
    pub settings: u32,
    pub created: Time,
    pub leaving: Option<Time>,
    pub ended: bool,
    pub drain: Option<Drain>,
    pub failures: Failures,
    pub node: Node,
}

/// What the user wants.
#[derive(Clone, Debug)]
pub struct Spec {
    pub version: u32,
    /// How many connections the user asks for.
    pub limit: u32,
    pub settings: u32,
    pub broken: bool,
    /// Whether pods get ready and their poolers never register.
    pub mute: bool,
    pub per_cell: BTreeMap<String, u32>,
}

impl Spec {
    fn wanted(&self, skipped: &BTreeSet<String>) -> BTreeMap<String, (String, u32)> {
        let of_cell = |(cell, count): (&String, &u32)| {
            let all = (0..).map(|index| (format!("{cell}-{index}"), (cell.clone(), index)));
            all.filter(|(name, _)| !skipped.contains(name)).take(*count as usize).collect::<Vec<_>>()
        };
        self.per_cell.iter().flat_map(of_cell).collect()
    }
}

/// Reproducible chance.
pub struct Chance(u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Happens once in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let len = u64::try_from(of.len()).unwrap();
        (len > 0).then(|| &of[usize::try_from(self.next() % len).unwrap()])
    }
}

pub struct World {
    pub now: Time,
    pub chance: Chance,
    pub spec: Spec,
    pub pods: BTreeMap<String, Pod>,
    /// What the watch has shown of each pod, and when it was true.
    pub seen: BTreeMap<String, (Time, Option<Pod>)>,
    pub plane: Plane,
    /// How many connections pods are made with.
    pub rendered: u32,
    /// What the last primary had that confirmed itself.
    pub floor: Option<u32>,
    /// How many servers were started with less than their data allows.
    pub refused: usize,
    /// What has become of volumes, where that is nothing good.
    pub volumes: BTreeMap<String, Volume>,
    /// Since when a wanted member has no volume that lasts, as the controller sees it.
    pub losing: Option<Time>,
    /// Who is in no record, and since when, as the controller sees it.
    pub absent: BTreeMap<String, Time>,
    /// When the controller last saw a record of somebody.
    pub recorded: BTreeMap<String, Time>,
    /// Since when the controller has said so.
    pub told: Option<Time>,
    /// Whether more befalls it: a topology that loses its records, a user who pauses, settings to reload, standbys that claim to lead.
    pub harsh: bool,
    pub paused: bool,
    /// Who claims to lead beside the leader, and until when.
    pub pretender: Option<(String, Time)>,
    /// Numbers that are not used again.
    pub skipped: BTreeSet<String>,
    /// Since when nobody leads, as the controller sees it.
    pub unled: Option<Time>,
    /// Who leads, as the controller sees it, and since when.
    pub led: Option<(String, Time)>,
    /// The leader that has no pod although nobody wants one of it, and since when.
    pub lost: Option<(String, Time)>,
    /// Until when calls to a pooler fail.
    pub silent: BTreeMap<String, Time>,
    /// Until when the topology does not answer.
    pub blind_until: Time,
    pub blocked: Option<(Time, Reason)>,
    /// Members that are down by our doing, until they count again, and since when.
    pub ours: BTreeMap<String, Time>,
    pub switchovers: usize,
    pub drained: usize,
    pub acts: usize,
    pub calm: Calm,
    loud: bool,
    uids: u64,
}

impl World {
    pub fn new(seed: u64, calm: Calm) -> Self {
        let mut chance = Chance(seed.wrapping_mul(0x5851_F42D_4C95_7F2D) ^ 0x1405);
        let multi = chance.once_in(3);
        let cells = if multi { 2 + chance.next() % 2 } else { 1 + chance.next() % 3 };
        let least = if cells == 1 { 2 } else { 1 };
        let per_cell = (0..cells)
            .map(|number| (format!("z{number}"), u32::try_from(least + chance.next() % 2).unwrap()))
            .collect();
        let policy = if multi { DurabilityPolicy::MultiCellAtLeast2 } else { DurabilityPolicy::AtLeast2 };
        Self {
            now: 0,
            chance,
            spec: Spec { version: 1, limit: 100, settings: 1, broken: false, mute: false, per_cell },
            rendered: 100,
            floor: None,
            refused: 0,
            pods: BTreeMap::new(),
            seen: BTreeMap::new(),
            plane: Plane::new(policy),
            lost: None,
            volumes: BTreeMap::new(),
            losing: None,
            absent: BTreeMap::new(),
            recorded: BTreeMap::new(),
            told: None,
            harsh: false,
            paused: false,
            pretender: None,
            skipped: BTreeSet::new(),
            unled: None,
            led: None,
            silent: BTreeMap::new(),
            blind_until: 0,
            blocked: None,
            ours: BTreeMap::new(),
            switchovers: 0,
            drained: 0,
            acts: 0,
            calm,
            loud: false,
            uids: 0,
        }
    }

    pub fn aloud(mut self) -> Self {
        self.loud = true;
        self
    }

    pub fn say(&self, what: fmt::Arguments<'_>) {
        if self.loud {
            eprintln!("{:>8.2} {what}", Duration::from_millis(self.now).as_secs_f64());
        }
    }

    pub fn time(at: Time) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + i64::try_from(at).unwrap()).unwrap()
    }

    pub fn switchovers(&self) -> usize {
        self.switchovers
    }

    pub fn drained(&self) -> usize {
        self.drained
    }

    pub fn size(&self) -> usize {
        self.wanted().len()
    }

    /// Members that there should be, with their cells and numbers.
    pub fn wanted(&self) -> BTreeMap<String, (String, u32)> {
        self.spec.wanted(&self.skipped)
    }

    /// Something befalls the volume of a member. One that is lost takes the server with it.
    pub fn befalls(&mut self, name: &str, volume: Volume) {
        self.say(format_args!("the volume of {name}: {volume:?}"));
        self.volumes.insert(name.to_owned(), volume);
        if volume == Volume::Lost {
            self.forget(name);
            if let Some(server) = self.plane.servers.get_mut(name) {
                server.up_at = None;
            }
        }
    }

    fn forget(&mut self, name: &str) {
        self.plane.log.remove(name);
        self.plane.control.remove(name);
    }

    pub fn blocked_by(&self) -> Option<Reason> {
        self.blocked.map(|(_, reason)| reason)
    }

    pub fn roll(&mut self) {
        self.spec.version += 1;
        self.spec.broken = false;
        self.spec.mute = false;
    }

    pub fn roll_to_something_broken(&mut self) {
        self.spec.version += 1;
        self.spec.broken = true;
    }

    /// A world in which more befalls it.
    pub fn harsh(mut self) -> Self {
        self.harsh = true;
        self
    }

    /// A whole life: troubles first, then peace, in which all must become as wanted.
    pub fn live(mut self) {
        self.settle();
        let end = self.now + TROUBLES;
        while self.now < end {
            self.trouble();
            self.tick();
        }
        self.plane.refuses = false;
        (self.paused, self.pretender) = (false, None);
        self.silent.clear();
        self.blind_until = 0;
        if self.spec.broken {
            self.roll();
        }
        self.pods.values_mut().for_each(|pod| pod.node = Node::Fine);
        self.plane.servers.values_mut().for_each(|server| server.lags = false);
        self.settle();
        assert!(self.acts < 4000, "{} acts in one life", self.acts);
    }

    pub fn run_for(&mut self, seconds: u64) {
        let end = self.now + seconds * 1000;
        while self.now < end {
            self.tick();
        }
    }

    /// Runs until everything is as wanted.
    pub fn settle(&mut self) {
        let end = self.now + PATIENCE;
        while self.unsettled().is_some() {
            assert!(
                self.now < end,
                "not settled: {:?}, blocked by {:?}; leader {:?}, cohort {:?}, up {:?}",
                self.unsettled(),
                self.blocked,
                self.plane.leader,
                self.plane.cohort,
                self.pods.keys().filter(|name| self.plane.is_up(name, self.now)).collect::<Vec<_>>()
            );
            self.tick();
        }
    }

    fn unsettled(&self) -> Option<String> {
        let wanted = self.wanted();
        if let Some(missing) = wanted.keys().find(|name| !self.pods.contains_key(*name)) {
            return Some(format!("{missing} is missing"));
        }
        self.pods.iter().find_map(|(name, pod)| {
            if !wanted.contains_key(name) {
                Some(format!("{name} is too many"))
            } else if pod.version != self.spec.version || pod.limit != self.rendered {
                Some(format!("{name} is outdated"))
            } else if pod.settings != self.spec.settings {
                Some(format!("{name} has old settings"))
            } else if self.volumes.contains_key(name) {
                Some(format!("{name} has no volume that lasts"))
            } else if pod.drain.is_some() || pod.leaving.is_some() {
                Some(format!("{name} is on its way"))
            } else if !self.plane.records.contains(name) {
                Some(format!("{name} is in no record"))
            } else if !self.plane.counts(name, self.now) {
                Some(format!("{name} does not count"))
            } else {
                None
            }
        })
    }

    fn tick(&mut self) {
        self.now += TICK;
        self.kubelets();
        let jitter = self.chance.next();
        self.plane.advance(self.now, jitter);
        let (plane, now, wanted) = (&self.plane, self.now, self.wanted());
        self.ours.retain(|name, _| wanted.contains_key(name) && !plane.counts(name, now));
        self.watch();
        self.look_for_strangers();
        // Every event brings a pass, most of them soon.
        if self.calm == Calm::Yes || !self.chance.once_in(3) {
            self.pass();
        }
        let held = self.plane.log.values().copied().max().unwrap_or_default();
        assert!(held >= self.plane.acknowledged, "the last copy of an acknowledged commit is gone");
    }

    fn kubelets(&mut self) {
        let now = self.now;
        let gone: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.leaving.is_some_and(|at| at <= now))
            .map(|(n, _)| n.clone())
            .collect();
        for name in gone {
            self.say(format_args!("{name} is gone"));
            self.pods.remove(&name);
            self.plane.servers.remove(&name);
            if self.volumes.get(&name) == Some(&Volume::Leaving) {
                self.volumes.remove(&name);
                self.forget(&name);
            }
        }
    }

    /// Shows pods as they are, some late; no picture gets older again.
    fn watch(&mut self) {
        let names: Vec<String> = self.pods.keys().chain(self.seen.keys()).cloned().collect();
        for name in names {
            let age = self.seen.get(&name).map_or(Time::MAX, |(at, _)| self.now - at);
            if age > STALE || self.calm == Calm::Yes || self.chance.once_in(3) {
                self.seen.insert(name.clone(), (self.now, self.pods.get(&name).cloned()));
            }
        }
        self.seen.retain(|_, (_, pod)| pod.is_some());
    }

    pub fn create(&mut self, name: &str, cell: &str, index: u32) {
        if self.pods.contains_key(name) {
            return;
        }
        self.uids += 1;
        let pod = Pod {
            uid: self.uids,
            cell: cell.to_owned(),
            index,
            version: self.spec.version,
            limit: self.rendered,
            settings: self.spec.settings,
            created: self.now,
            leaving: None,
            ended: false,
            drain: None,
            failures: Failures::default(),
            node: Node::Fine,
        };
        let starts = 3000 + self.chance.next() % 9000;
        let refused = self.plane.control.get(name).is_some_and(|least| self.rendered < *least);
        self.refused += usize::from(refused);
        let lost = self.volumes.get(name) == Some(&Volume::Lost);
        let runs = !self.spec.broken && !self.spec.mute && !refused && !lost;
        let server = Server {
            up_at: runs.then_some(self.now + starts),
            mute: self.spec.mute,
            registers_at: Some(self.now + starts),
            limit: self.rendered,
            follows_at: self.now + starts + 1000,
            stopping: false,
            lags: false,
        };
        self.say(format_args!("{name} is created with version {}, {} connections", pod.version, pod.limit));
        self.plane.cells.insert(name.to_owned(), cell.to_owned());
        self.plane.log.entry(name.to_owned()).or_default();
        self.plane.servers.insert(name.to_owned(), server);
        self.pods.insert(name.to_owned(), pod);
    }

    /// Lets a pod end after its grace.
    pub fn delete(&mut self, name: &str) {
        let grace = 1000 + self.chance.next() % 6000;
        let now = self.now;
        if let Some(pod) = self.pods.get_mut(name).filter(|pod| pod.leaving.is_none()) {
            pod.leaving = Some(now + grace);
            if let Some(server) = self.plane.servers.get_mut(name) {
                server.stopping = true;
            }
        }
    }

    fn trouble_more(&mut self, names: &[String]) {
        if self.now >= self.blind_until && self.chance.once_in(900) {
            self.say(format_args!("the topology loses all records"));
            self.plane.records.clear();
        }
        if self.chance.once_in(400) {
            self.paused = !self.paused;
            self.say(format_args!("paused: {}", self.paused));
        }
        if self.chance.once_in(400) {
            self.spec.settings += 1;
            self.say(format_args!("the user changes settings"));
        }
        if self.chance.once_in(400)
            && let Some(name) = self.chance.pick(names).cloned()
        {
            let until = self.now + self.chance.next() % 30_000;
            self.say(format_args!("{name} claims to lead for a while"));
            self.pretender = Some((name, until));
        }
    }

    fn trouble(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        if self.harsh {
            self.trouble_more(&names);
        }
        if self.chance.once_in(240) {
            self.say(format_args!("the user rolls"));
            self.roll();
        }
        // Nobody is known to lead while somebody who counts does not answer, so in a topology that forgets everybody can come up.
        if !self.harsh && self.chance.once_in(500) {
            self.spec.limit = *self.chance.pick(&[100, 200, 300]).unwrap();
            self.say(format_args!("the user wants {} connections", self.spec.limit));
        }
        if !self.harsh && self.chance.once_in(1600) {
            self.say(format_args!("the user rolls to something broken"));
            self.roll_to_something_broken();
        }
        if self.chance.once_in(400) {
            let least = if self.spec.per_cell.len() == 1 { 2 } else { 1 };
            let cells: Vec<String> = self.spec.per_cell.keys().cloned().collect();
            if let Some(cell) = self.chance.pick(&cells).cloned() {
                let mut count = u32::try_from(least + self.chance.next() % 3).unwrap();
                // Nobody takes members away from a shard that nobody leads: those that are down may hold the last commits.
                let led = self.plane.leader.as_ref().is_some_and(|leader| self.plane.serves(leader, self.now));
                if !led || self.spec.broken {
                    count = count.max(self.spec.per_cell[&cell]);
                }
                self.say(format_args!("the user wants {count} in {cell}"));
                self.spec.per_cell.insert(cell, count);
            }
        }
        if self.chance.once_in(500)
            && let Some(name) = self.chance.pick(&names).cloned()
        {
            self.say(format_args!("somebody deletes {name}"));
            self.delete(&name);
        }
        if self.chance.once_in(700)
            && let Some(name) = self.chance.pick(&names).cloned()
        {
            self.say(format_args!("{name} ends"));
            if let Some(pod) = self.pods.get_mut(&name).filter(|pod| pod.leaving.is_none()) {
                pod.ended = true;
                self.plane.servers.remove(&name);
            }
        }
        if self.chance.once_in(200)
            && let Some(name) = self.chance.pick(&names).cloned()
        {
            let until = self.now + self.chance.next() % 60_000;
            self.say(format_args!("{name} does not answer for a while"));
            self.silent.insert(name, until);
        }
        if self.chance.once_in(400) {
            self.blind_until = self.now + self.chance.next() % 60_000;
            self.say(format_args!("the topology is away for a while"));
        }
        if self.chance.once_in(300) {
            self.plane.refuses = !self.plane.refuses;
            self.say(format_args!("elections are refused: {}", self.plane.refuses));
        }
        if self.chance.once_in(300)
            && let Some(name) = self.chance.pick(&names).cloned()
            && let Some(server) = self.plane.servers.get_mut(&name)
        {
            server.lags = !server.lags;
        }
        if self.chance.once_in(300)
            && let Some(name) = self.chance.pick(&names).cloned()
        {
            let node = *self.chance.pick(&[Node::Fine, Node::Cordoned, Node::Draining]).unwrap();
            self.say(format_args!("the node of {name} is {node:?}"));
            if let Some(pod) = self.pods.get_mut(&name) {
                pod.node = node;
            }
        }
    }
}
