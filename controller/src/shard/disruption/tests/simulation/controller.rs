//! The controller of the simulation: it sees what the watch shows, asks the poolers, decides, and carries out as the executor does:
//! with a fresh look at what it is about to touch.

use shared::annotation::DrainState;

use super::{
    plane::Time,
    world::{Calm, Pod, World},
};
use crate::{
    shard::disruption::{
        Act, Drain, Ending, Failures, Member, Node, PROGRESS_DEADLINE, Presence, Role, Row, View, Vitals, Volume,
        decide,
    },
    upstream::Lifecycle,
};

impl World {
    pub fn pass(&mut self) {
        self.render();
        for (name, (cell, index)) in self.wanted() {
            if !self.seen.contains_key(&name) {
                self.create(&name, &cell, index);
            }
        }
        self.bring_back();
        let loses = |name: &String| self.volume(name, self.seen.contains_key(name)) != Volume::Fine;
        let losing = self.wanted().keys().any(loses);
        let view = self.view();
        let verdict = decide(&view);
        self.losing = losing.then(|| self.losing.unwrap_or(self.now));
        assert!(!verdict.pending || verdict.act.is_some() || verdict.blocker.is_some(), "a nameless halt: {view:#?}");
        self.blocked = verdict.blocker.as_ref().map(|blocker| match self.blocked {
            Some((since, before)) if before.wait() == blocker.reason.wait() => (since, blocker.reason),
            _ => (self.now, blocker.reason),
        });
        let quiet = matches!(verdict.act, None | Some(Act::Replace { .. } | Act::Hasten));
        assert!(!self.paused || quiet, "paused: {:?}", verdict.act);
        if let Some(act) = verdict.act {
            if act != Act::Hasten {
                self.acts += 1;
            }
            self.carry_out(verdict.row, act);
        }
    }

    /// Settings do not go below what the primary has, as `shard::replication` knows it.
    fn render(&mut self) {
        let leader = self.plane.leader.clone();
        let silent = leader.as_ref().is_some_and(|leader| self.is_silent(leader));
        let made_with = leader.as_ref().and_then(|leader| self.seen.get(leader)?.1.as_ref()).map(|pod| pod.limit);
        let recorded = leader.as_ref().is_some_and(|leader| self.plane.records.contains(leader));
        let serves = leader.is_some_and(|leader| self.plane.serves(&leader, self.now)) && recorded && !silent;
        if serves && self.now >= self.blind_until {
            self.floor = self.floor.max(made_with.or(Some(self.rendered)));
            self.unled = None;
            let (leader, since) = self.led.clone().unwrap_or_default();
            if self.plane.leader.as_ref() != Some(&leader) || since == 0 {
                self.led = self.plane.leader.clone().map(|leader| (leader, self.now));
            }
        } else {
            self.unled.get_or_insert(self.now);
        }
        let claimed = made_with.filter(|_| silent);
        self.rendered = self.spec.limit.max(self.floor.max(claimed).unwrap_or_default());
    }

    /// As `shard::stranger` does: who is ready and in no record is named after a while.
    pub fn look_for_strangers(&mut self) {
        if self.now < self.blind_until {
            return;
        }
        let (plane, now) = (&self.plane, self.now);
        self.recorded.extend(plane.records.iter().map(|name| (name.clone(), now)));
        let unknown = |name: &&String| plane.is_up(name, now) && !plane.records.contains(*name);
        let absent = self.seen.keys().filter(unknown);
        let since = |name: &String| self.absent.get(name).copied().unwrap_or(now);
        let absent = absent.map(|name| (name.clone(), since(name))).collect();
        self.absent = absent;
        let named = self.absent.keys().any(|name| self.is_forgotten(name));
        if named {
            self.told.get_or_insert(now);
        } else if self.absent.is_empty() {
            self.told = None;
        }
    }

    /// Whether somebody answers and has been in no record for a while.
    fn is_forgotten(&self, name: &str) -> bool {
        let long = |since: &Time| self.told.is_some() || self.now - since >= 30_000;
        self.absent.get(name).is_some_and(long) && !self.is_silent(name)
    }

    /// Whether a new pod in the place of one that is in no record is the cure.
    fn is_overdue(&self, name: &str, pod: &Pod) -> bool {
        let long = |since: Time| self.now - since >= 120_000;
        let Some(since) = self.absent.get(name).filter(|_| self.is_forgotten(name)) else { return false };
        let had_one = self.recorded.get(name).is_some_and(|known| *known > pod.created);
        (had_one && long(*since)) || self.told.is_some_and(|told| long(told) && pod.created < told)
    }

    /// Whether it is known who leads: by the leader's record, or because everybody says so.
    fn is_led(&self) -> bool {
        let Some(leader) = &self.plane.leader else { return false };
        let agrees = |name: &String| {
            let heard = self.plane.records.contains(name) || self.is_forgotten(name);
            heard && !self.is_silent(name) && self.plane.counts(name, self.now)
        };
        self.plane.records.contains(leader)
            || (self.seen.keys().all(agrees) && self.plane.cohort.iter().all(|name| self.seen.contains_key(name)))
    }

    fn is_silent(&self, name: &str) -> bool {
        self.silent.get(name).is_some_and(|until| *until > self.now)
    }

    /// A leader that was lost on its way out comes back if nobody takes over.
    fn bring_back(&mut self) {
        let (now, wanted) = (self.now, self.wanted());
        let leader = self.plane.leader.clone().filter(|leader| !self.plane.serves(leader, now));
        let leader = leader.filter(|leader| !self.seen.contains_key(leader) && !wanted.contains_key(leader));
        let before = self.lost.take();
        let Some(leader) = leader else { return };
        let since = before.filter(|(name, _)| *name == leader).map_or(now, |(_, since)| since);
        self.lost = Some((leader.clone(), since));
        if now - since >= 60_000 && now >= self.blind_until {
            let cell = self.plane.cells[&leader].clone();
            let index = leader.rsplit('-').next().unwrap().parse().unwrap();
            self.create(&leader, &cell, index);
        }
    }

    fn view(&self) -> View {
        let wanted = self.wanted();
        let mut members: Vec<Member> = Vec::new();
        for (name, (cell, index)) in &wanted {
            if !self.seen.contains_key(name) {
                members.push(self.member(name, cell, *index, true, None));
            }
        }
        if let Some((name, _)) = &self.lost {
            members.push(self.member(name, &self.plane.cells[name], 0, false, None));
        }
        for (name, (_, pod)) in &self.seen {
            if let Some(pod) = pod {
                members.push(self.member(name, &pod.cell, pod.index, wanted.contains_key(name), Some(pod)));
            }
        }
        View {
            now: Self::time(self.now),
            policy: self.plane.policy,
            paused: self.paused,
            blind: (self.now < self.blind_until).then(|| "etcd does not answer".to_owned()),
            waiting: self.blocked.map(|(since, reason)| (reason.wait(), Self::time(since))),
            lost_since: self.unled.map(Self::time),
            ever_led: self.led.is_some(),
            led_since: self.led.as_ref().filter(|_| self.unled.is_none()).map(|(_, since)| Self::time(*since)),
            volume_lost_since: self.losing.map(Self::time),
            last_quarantine: None,
            set_aside: 0,
            unrestorable: None,
            members,
        }
    }

    fn member(&self, name: &str, cell: &str, index: u32, wanted: bool, pod: Option<&Pod>) -> Member {
        let silent = self.is_silent(name);
        let up = self.plane.is_up(name, self.now);
        let leads = self.plane.leader.as_deref() == Some(name);
        let (registered, forgotten) = (self.plane.records.contains(name), self.is_forgotten(name));
        let led = self.is_led();
        let claims = self.pretender.as_ref().is_some_and(|(who, until)| who == name && *until > self.now);
        let pretends = claims && up && !silent && registered;
        let mute = self.plane.servers.get(name).is_some_and(|server| server.mute && !server.stopping);
        Member {
            pod: name.to_owned(),
            cell: cell.to_owned(),
            index,
            wanted,
            presence: match pod {
                None => Presence::Missing,
                Some(pod) if pod.leaving.is_some() => {
                    Presence::Leaving { due: Self::time(pod.leaving.unwrap_or_default()) }
                }
                Some(pod) if pod.ended => Presence::Ended,
                Some(_) => Presence::Live,
            },
            created: pod.map(|pod| Self::time(pod.created)),
            drain: pod.and_then(|pod| pod.drain.clone()),
            failures: pod.map_or(Failures::default(), |pod| pod.failures),
            outdated: pod.filter(|pod| self.is_outdated(pod) || self.is_overdue(name, pod)).map(|_| "image".to_owned()),
            resize_pending: false,
            misplaced: None,
            volume: self.volume(name, pod.is_some()),
            reload_pending: pod.is_some_and(|pod| pod.settings != self.spec.settings && !self.is_outdated(pod)),
            ready: pod.is_some() && (up || mute),
            trouble: pod
                .filter(|_| self.plane.servers.get(name).is_some_and(|server| server.up_at.is_none() && !server.mute))
                .map(|_| "CrashLoopBackOff".to_owned()),
            node: pod.map_or(Node::Fine, |pod| pod.node),
            lifecycle: if up { Lifecycle::Active } else { Lifecycle::Starting },
            lifecycle_since: None,
            role: if pretends || (leads && (registered || (forgotten && self.plane.serves(name, self.now)))) {
                Role::Primary
            } else if registered || forgotten {
                Role::Standby
            } else {
                Role::Unknown
            },
            registered,
            forgotten,
            connected: led && self.plane.streams(name, self.now),
            vitals: (up && !silent && (registered || forgotten)).then(|| Vitals {
                postgres_ready: true,
                serving: led && self.plane.serves(name, self.now),
                streaming: led && self.plane.streams(name, self.now),
                lag: self.plane.lag(name),
                in_cohort: led && self.plane.cohort.contains(name),
            }),
        }
    }

    fn volume(&self, name: &str, used: bool) -> Volume {
        self.volumes.get(name).copied().filter(|volume| used || *volume == Volume::Lost).unwrap_or_default()
    }

    fn is_outdated(&self, pod: &Pod) -> bool {
        pod.version != self.spec.version || pod.limit != self.rendered
    }

    /// The live pod, if it is still the one that was seen.
    fn same(&mut self, name: &str) -> Option<&mut Pod> {
        let uid = self.seen.get(name)?.1.as_ref()?.uid;
        self.pods.get_mut(name).filter(|pod| pod.uid == uid && pod.leaving.is_none())
    }

    fn mark(&mut self, name: &str, state: DrainState) {
        let now = Self::time(self.now);
        if let Some(drain) = self.same(name).and_then(|pod| pod.drain.as_mut()) {
            drain.state = state;
            drain.since = now;
        }
    }

    fn carry_out(&mut self, row: Row, act: Act) {
        self.say(format_args!("{row:?}: {act:?}"));
        let at = Self::time(self.now);
        match act {
            Act::Replace { pod } => {
                let alone = row == Row::Alone;
                assert!(alone || !self.plane.serves(&pod, self.now), "{pod} serves and is replaced");
                if self.same(&pod).is_some() {
                    self.delete(&pod);
                }
            }
            Act::Request { pod, cause } => {
                if let Some(live) = self.same(&pod) {
                    live.drain =
                        Some(Drain { state: DrainState::Requested, cause: Some(cause), requested: at, since: at });
                }
            }
            Act::Advance { pod, to } => self.mark(&pod, to),
            Act::Resign { pod } => {
                if self.same(&pod).is_none() || !self.plane.serves(&pod, self.now) {
                    return;
                }
                self.goes(&pod);
                self.switchovers += 1;
                self.plane.resigned = true;
                // Its role changes, and it says so.
                self.plane.records.insert(pod.clone());
                self.plane.hasten(self.now);
                self.mark(&pod, DrainState::Draining);
            }
            Act::LeaveCohort { pod } => {
                if self.plane.lets_go(&pod, self.now) && self.same(&pod).is_some() {
                    self.plane.cohort.remove(&pod);
                    // A controller may be killed between the two.
                    if !self.chance.once_in(8) {
                        self.mark(&pod, DrainState::Acknowledged);
                    }
                }
            }
            Act::Remove { pod } => {
                let Some(live) = self.same(&pod) else { return };
                let Some(drain) = &live.drain else { return };
                assert!(drain.state == DrainState::ReadyForDeletion, "{pod} goes in state {}", drain.state);
                assert!(!self.plane.serves(&pod, self.now), "{pod} serves and is deleted");
                self.goes(&pod);
                self.drained += 1;
                self.delete(&pod);
            }
            Act::Drop { pod, ending } => {
                if let Some(live) = self.same(&pod) {
                    live.drain = None;
                    if ending == Ending::SwitchoverFailed {
                        live.failures = Failures { count: live.failures.count + 1, last: Some(at) };
                    }
                }
                // An old leader that nobody replaced goes on leading.
                if ending == Ending::SwitchoverFailed && self.plane.leader.as_deref() == Some(&pod) {
                    self.plane.resigned = false;
                }
            }
            Act::Hasten => {
                let now: Time = self.now;
                self.plane.hasten(now);
            }
            Act::ReplaceVolume { pod } => {
                assert!(self.volumes.contains_key(&pod), "the volume of {pod} is as it should be");
                self.skipped.insert(pod);
            }
            Act::FreshVolume { pod } => {
                assert!(!self.plane.is_up(&pod, self.now), "{pod} runs and is given up");
                let others = self.pods.keys().filter(|other| **other != pod && self.plane.counts(other, self.now));
                assert!(self.plane.suffices(others), "{pod} is given up without enough others");
                self.skipped.insert(pod.clone());
                if self.same(&pod).is_some() {
                    self.delete(&pod);
                }
            }
            Act::Reload { pods } => {
                for pod in pods {
                    // The kubelet brings files late.
                    let brought = self.calm == Calm::Yes || !self.chance.once_in(3);
                    let answers = self.plane.is_up(&pod, self.now) && !self.is_silent(&pod);
                    let wanted = self.spec.settings;
                    if let Some(live) = self.same(&pod).filter(|_| brought && answers) {
                        live.settings = wanted;
                    }
                }
            }
        }
    }

    /// Checks, against the truth, that a member may be disturbed now.
    fn goes(&mut self, name: &str) {
        let now = self.now;
        let wanted = self.wanted();
        // Who is up to date is waited for however long it takes. Of outdated ones that do not get well the policy alone decides after
        // a while: a newer description may be the cure.
        let waited_for = |other: &String, since: Time| {
            let outdated = self.pods.get(other).is_some_and(|pod| self.is_outdated(pod));
            !outdated || u128::from(now - since) < PROGRESS_DEADLINE.as_millis()
        };
        let ours = self.ours.iter().filter(|(other, since)| *other != name && waited_for(other, **since));
        let ours: Vec<&String> = ours.map(|(other, _)| other).collect();
        assert!(ours.is_empty(), "{name} goes while {ours:?} are down by our doing");
        let others = || self.pods.keys().filter(|other| *other != name);
        let well: Vec<&String> = others().filter(|other| self.plane.counts(other, now)).collect();
        let slack = self.plane.suffices(wanted.keys().filter(|other| *other != name));
        let all_well = wanted.keys().filter(|other| *other != name).all(|other| well.contains(&other));
        let moves_only = self.pods[name].node != Node::Fine;
        let counted = self.plane.is_up(name, now);
        assert!(
            self.plane.suffices(well.iter().copied()) || (!slack && all_well) || moves_only || !counted,
            "{name} goes, and only {well:?} are left"
        );
        if wanted.contains_key(name) && counted {
            self.ours.insert(name.to_owned(), now);
        }
    }
}
