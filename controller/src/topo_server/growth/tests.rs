//! Every way through the steps, on a model of etcd, of the StatefulSet controller and of an operator that stops anywhere.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};
use rstest::rstest;

use super::*;

fn url(ordinal: u32) -> String {
    format!("http://topo-{ordinal}.topo-headless.prod.svc.cluster.local:2380")
}

fn member(ordinal: u32, learner: bool) -> Member {
    Member { id: u64::from(ordinal) + 1, name: format!("topo-{ordinal}"), peer_urls: vec![url(ordinal)], learner }
}

fn members(voters: u32, learners: u32) -> Vec<Member> {
    (0..voters + learners).map(|ordinal| member(ordinal, ordinal >= voters)).collect()
}

/// A settled ensemble of this size, asked to become another one.
fn view(sight: &Sight, size: u32, wanted: u32) -> View<'_> {
    View {
        name: "topo",
        wanted,
        declared: Some(Declared::settled(size)),
        pods: Some(size),
        complete: true,
        ready: &[0, 1, 2, 3, 4],
        lost: &[],
        held_back: false,
        reads_list: true,
        left_over: 0,
        volumes: size,
        in_the_way: None,
        sight,
    }
}

#[test]
fn a_new_ensemble_is_founded_at_its_size_and_one_with_old_volumes_at_theirs() {
    let none = Sight::NotAsked;
    let fresh = View { declared: None, pods: None, ..view(&none, 0, 3) };
    assert_eq!((step(&fresh).declared, step(&fresh).pods), (Declared::settled(3), 3));
    assert!(!asks(&fresh));
    let retained = View { left_over: 5, ..fresh };
    assert_eq!((step(&retained).declared, step(&retained).pods), (Declared::settled(5), 5));
}

#[test]
fn a_settled_ensemble_asks_nobody() {
    let none = Sight::NotAsked;
    assert!(!asks(&view(&none, 3, 3)));
    assert!(asks(&view(&none, 3, 5)));
    assert!(asks(&View { pods: Some(1), ..view(&none, 3, 3) }));
    assert!(asks(&View { declared: Some(Declared::joining(3)), ..view(&none, 3, 3) }));
    assert_eq!(step(&view(&none, 3, 3)).state, State::Settled);
}

#[test]
fn growth_goes_list_learner_pod_vote_list() {
    let before = Sight::Seen(members(1, 0));
    let listed = step(&view(&before, 1, 3));
    assert_eq!((listed.change, listed.pods, listed.declared), (None, 1, Declared::joining(2)));
    let with_list = View { declared: Some(Declared::joining(2)), ..view(&before, 1, 3) };
    let known = step(&with_list);
    assert_eq!((known.change, known.pods, known.declared), (Some(Change::Join(1)), 1, Declared::joining(2)));

    let learner = Sight::Seen(vec![member(0, false), Member { name: String::new(), ..member(1, true) }]);
    let made = step(&View { sight: &learner, ..with_list });
    assert_eq!((made.change, made.pods, made.declared), (None, 2, Declared::joining(2)));

    let started = Sight::Seen(members(1, 1));
    let voting = step(&View { pods: Some(2), sight: &started, ..with_list });
    assert_eq!((voting.change, voting.pods, voting.voters), (Some(Change::Promote(2)), 2, 1));
    let two = Sight::Seen(members(2, 0));
    let coming = step(&View { pods: Some(2), sight: &two, complete: false, ..with_list });
    assert_eq!((coming.change, coming.pods, coming.declared), (None, 2, Declared::joining(2)));
    let whole = View { pods: Some(2), sight: &two, wanted: 2, ..with_list };
    let rest = step(&whole);
    assert_eq!((rest.change, rest.pods, rest.declared), (None, 2, Declared::closed(2)));
    let next = step(&View { pods: Some(2), sight: &two, ..with_list });
    assert_eq!((next.change, next.declared), (None, Declared::joining(3)));
}

#[test]
fn shrinking_goes_list_member_pod() {
    let five = Sight::Seen(members(5, 0));
    let listed = step(&view(&five, 5, 3));
    assert_eq!((listed.change, listed.pods, listed.declared), (None, 5, Declared::leaving(4)));
    let with_list = View { declared: Some(Declared::leaving(4)), ..view(&five, 5, 3) };
    assert_eq!((step(&with_list).change, step(&with_list).pods), (Some(Change::Remove(5)), 5));
    let four = Sight::Seen(members(4, 0));
    let gone = step(&View { sight: &four, ..with_list });
    assert_eq!((gone.change, gone.pods, gone.declared), (None, 4, Declared::closed(4)));
}

#[test]
fn a_size_that_changes_back_in_the_middle_is_noticed() {
    let none = Sight::NotAsked;
    for declared in [Declared::joining(4), Declared::settled(2), Declared::leaving(3)] {
        assert!(asks(&View { declared: Some(declared), ..view(&none, 3, 3) }), "{declared:?}");
    }
}

#[test]
fn a_member_that_never_came_up_goes_again_when_it_is_no_longer_wanted() {
    let sight = Sight::Seen(vec![member(0, false), Member { name: String::new(), ..member(1, true) }]);
    let back = View { declared: Some(Declared::joining(2)), pods: Some(2), complete: false, ..view(&sight, 1, 1) };
    assert_eq!((step(&back).declared, step(&back).change), (Declared::leaving(1), None), "the list comes first");
    let listed = View { declared: Some(Declared::leaving(1)), ..back };
    assert_eq!((step(&listed).declared, step(&listed).change), (Declared::leaving(1), Some(Change::Remove(2))));
}

#[rstest]
#[case("NotAllReplicasReady", View { complete: false, ..view(&Sight::NotAsked, 3, 5) })]
#[case("NotRolledOut", View { reads_list: false, ..view(&Sight::NotAsked, 3, 5) })]
#[case("VolumeInTheWay", View { in_the_way: Some("data-topo-3"), ..view(&Sight::NotAsked, 3, 5) })]
#[case("NotAllReplicasReady", View { complete: false, ready: &[], ..view(&Sight::NotAsked, 3, 1) })]
fn what_holds_a_step_up_is_named(#[case] reason: &str, #[case] view: View<'_>) {
    let sight = Sight::Seen(members(3, 0));
    let step = step(&View { sight: &sight, ..view });
    let (State::Waiting { reason: named, message } | State::Blocked { reason: named, message }) = &step.state else {
        panic!("{step:?}")
    };
    assert_eq!((*named, step.change), (reason, None), "{message}");
}

#[test]
fn a_broken_member_can_be_taken_out_by_a_smaller_size() {
    let sight = Sight::Seen(members(5, 0));
    let listed = Some(Declared::leaving(4));
    let view = View { declared: listed, complete: false, ready: &[0, 1, 2, 3], ..view(&sight, 5, 3) };
    assert_eq!(step(&view).change, Some(Change::Remove(5)));
}

#[test]
fn without_a_quorum_nothing_changes_and_pods_that_were_scaled_away_come_back() {
    let sight = Sight::Failed { message: "nobody".to_owned() };
    let held = step(&view(&sight, 3, 5));
    assert_eq!((held.change, held.pods, held.declared), (None, 3, Declared::settled(3)));
    assert!(matches!(held.state, State::Waiting { reason: "NoQuorum", .. }));
    assert_eq!(step(&View { pods: Some(1), ..view(&sight, 3, 3) }).pods, 3);
    // A list that somebody rewrote does not scale anything.
    assert_eq!(step(&View { declared: Some(Declared::settled(9)), ..view(&sight, 3, 3) }).pods, 3);
    assert_eq!(step(&View { declared: Some(Declared::settled(1)), ..view(&sight, 3, 3) }).pods, 3);
}

#[test]
fn members_that_somebody_else_changed_are_named_and_left_alone() {
    let foreign = Member { peer_urls: vec!["http://10.0.0.9:2380".to_owned()], ..member(1, false) };
    let cases = [
        (vec![member(0, false), foreign], "ForeignMember"),
        (vec![member(0, false), member(3, false)], "MemberMissing"),
        (vec![member(0, false), member(2, false)], "MemberMissing"),
        (vec![member(0, false), member(0, false)], "ForeignMember"),
    ];
    for (members, expected) in cases {
        let sight = Sight::Seen(members);
        let step = step(&view(&sight, 3, 5));
        assert!(matches!(&step.state, State::Blocked { reason, .. } if *reason == expected), "{step:?}");
        assert_eq!((step.change, step.pods), (None, 3));
    }
}

#[test]
fn a_member_that_was_taken_out_by_hand_comes_back_once_it_has_an_empty_volume() {
    let sight = Sight::Seen(vec![member(0, false), member(2, false)]);
    let out = view(&sight, 3, 3);
    let blocked = step(&out);
    let State::Blocked { message, .. } = &blocked.state else { panic!("{blocked:?}") };
    assert!(message.contains("delete volume claim data-topo-1 and pod topo-1"), "{message}");
    let fresh = View { declared: Some(blocked.declared), lost: &[1], ..out };
    assert_eq!(step(&fresh).change, Some(Change::Join(1)));
}

#[test]
fn a_member_that_lost_its_data_is_replaced_list_first() {
    let three = Sight::Seen(members(3, 0));
    let told = View { complete: false, lost: &[1], ready: &[0, 2], ..view(&three, 3, 3) };
    assert!(asks(&told));
    let replacing = Declared { members: 3, entry: Entry::Replacing(2) };
    assert_eq!((step(&told).declared, step(&told).change), (replacing, None));
    let listed = View { declared: Some(replacing), ..told };
    assert_eq!((step(&listed).declared, step(&listed).change), (replacing, Some(Change::Remove(2))));

    let two = Sight::Seen(vec![member(0, false), member(2, false)]);
    let out = View { sight: &two, ..listed };
    assert_eq!((step(&out).change, step(&out).pods), (Some(Change::Join(1)), 3));
    assert_eq!(step(&View { lost: &[], ..out }).change, None, "its pod is about to tell that it is empty");

    let learner = Member { id: 9, name: String::new(), ..member(1, true) };
    let with = Sight::Seen(vec![member(0, false), learner.clone(), member(2, false)]);
    let coming = View { sight: &with, ..listed };
    assert_eq!((step(&coming).change, step(&coming).restart, step(&coming).declared), (None, None, replacing));
    assert_eq!(step(&View { held_back: true, ..coming }).restart, Some(1), "the kubelet would wait for minutes");
    let learns = Member { name: "topo-1".to_owned(), ..learner };
    let with = Sight::Seen(vec![member(0, false), learns.clone(), member(2, false)]);
    assert_eq!(step(&View { sight: &with, lost: &[], ..listed }).change, Some(Change::Promote(9)));

    let whole = Sight::Seen(vec![member(0, false), Member { learner: false, ..learns }, member(2, false)]);
    let late = View { sight: &whole, ..listed };
    assert_eq!((step(&late).change, step(&late).declared), (None, replacing), "its pod told that before it was let in");
    let rest = step(&View { complete: true, lost: &[], ready: &[0, 1, 2], ..late });
    assert_eq!((rest.change, rest.declared), (None, Declared::closed(3)));
}

#[test]
fn the_last_member_is_replaced_without_its_pod_going() {
    let replacing = Declared { members: 3, entry: Entry::Replacing(3) };
    let two = Sight::Seen(members(2, 0));
    let out = View { declared: Some(replacing), complete: false, lost: &[2], ready: &[0, 1], ..view(&two, 3, 3) };
    assert_eq!((step(&out).change, step(&out).pods, step(&out).declared), (Some(Change::Join(2)), 3, replacing));
    let unwanted = step(&View { wanted: 1, ..out });
    assert_eq!((unwanted.change, unwanted.declared), (None, Declared::closed(2)));
}

#[test]
fn a_member_that_is_not_wanted_any_more_while_it_comes_back_goes_with_its_volume() {
    let learner = Member { id: 9, ..member(2, true) };
    let with = Sight::Seen([members(2, 0), vec![learner]].concat());
    let declared = Some(Declared { members: 3, entry: Entry::Replacing(3) });
    let back = View { declared, wanted: 1, complete: false, ready: &[0, 1], ..view(&with, 3, 3) };
    assert_eq!((step(&back).declared, step(&back).change), (Declared::leaving(2), None));
    let listed = View { declared: Some(Declared::leaving(2)), ..back };
    assert_eq!(step(&listed).change, Some(Change::Remove(9)));
    let two = Sight::Seen(members(2, 0));
    let wanted_again = View { sight: &two, wanted: 3, ..listed };
    let gone = step(&wanted_again);
    assert_eq!((gone.pods, gone.change), (2, None), "its volume holds what etcd has forgotten");
}

#[rstest]
#[case::another_one_is_down("NotAllReplicasReady", &[1], &[0])]
#[case::two_at_once("DataLost", &[0, 1], &[2])]
fn a_member_that_lost_its_data_is_not_replaced_while_anything_else_is_wrong(
    #[case] reason: &str,
    #[case] lost: &[u32],
    #[case] ready: &[u32],
) {
    let three = Sight::Seen(members(3, 0));
    let step = step(&View { complete: false, lost, ready, ..view(&three, 3, 3) });
    let (State::Waiting { reason: said, .. } | State::Blocked { reason: said, .. }) = &step.state else {
        panic!("{step:?}")
    };
    assert_eq!((*said, step.change, step.declared), (reason, None, Declared::settled(3)));
}

#[rstest]
#[case::the_only_one(1, &[0], "delete ConfigMap topo-members")]
#[case::too_many(3, &[1, 2], "delete the StatefulSet and the volume claims")]
fn data_that_no_quorum_holds_is_told_with_the_ways_out(#[case] size: u32, #[case] lost: &[u32], #[case] remedy: &str) {
    let none = Sight::Failed { message: "nobody".to_owned() };
    let declared = Some(Declared::closed(size));
    let step = step(&View { declared, complete: false, lost, ready: &[], ..view(&none, size, size) });
    let State::Blocked { reason: "DataLost", message } = &step.state else { panic!("{step:?}") };
    assert!(message.contains(remedy), "{message}");
    assert_eq!((step.change, step.restart, step.pods), (None, None, size));
}

#[test]
fn an_ordinal_is_read_off_the_host_name() {
    let named = |url: &str| ordinal("topo", &Member { peer_urls: vec![url.to_owned()], ..member(0, false) });
    assert_eq!(named("http://topo-12.topo-headless.prod.svc:2380"), Some(12));
    assert_eq!(named("http://topo-1:2380"), Some(1));
    for foreign in ["http://topo:2380", "http://topo-x-1:2380", "http://topology-1.x:2380", "http://10.0.0.1:2380"] {
        assert_eq!(named(foreign), None, "{foreign}");
    }
}

/// What an ensemble runs on.
#[derive(Clone, Debug, PartialEq)]
struct World {
    wanted: u32,
    declared: Option<Declared>,
    pods: Option<u32>,
    members: Vec<Member>,
    next_id: u64,
    /// Which member each volume holds; a volume without one is empty.
    volumes: BTreeMap<u32, Option<u64>>,
    /// Pods that do not run whatever they are told.
    broken: BTreeSet<u32>,
    /// Whether volumes of pods that go stay.
    retain: bool,
    /// Members that have run.
    started: BTreeSet<u64>,
    /// Pods whose last words were that they have no data.
    empty: BTreeSet<u32>,
}

impl World {
    fn new(wanted: u32, retain: bool) -> Self {
        Self {
            wanted,
            declared: None,
            pods: None,
            members: Vec::new(),
            next_id: 1,
            volumes: BTreeMap::new(),
            broken: BTreeSet::new(),
            retain,
            started: BTreeSet::new(),
            empty: BTreeSet::new(),
        }
    }

    fn has_pod(&self, ordinal: u32) -> bool {
        self.pods.is_some_and(|pods| ordinal < pods) && !self.broken.contains(&ordinal)
    }

    /// The member that a pod runs.
    fn runs(&self, ordinal: u32) -> Option<&Member> {
        let id = self.volumes.get(&ordinal).copied().flatten().filter(|_| self.has_pod(ordinal))?;
        self.members.iter().find(|member| member.id == id)
    }

    fn quorum(&self) -> bool {
        let voters = self.members.iter().filter(|member| !member.learner).count();
        let up = (0..self.pods.unwrap_or(0)).filter(|o| self.runs(*o).is_some_and(|member| !member.learner)).count();
        voters > 0 && up > voters / 2
    }

    fn ready(&self, ordinal: u32) -> bool {
        self.quorum() && self.runs(ordinal).is_some_and(|member| !member.learner)
    }

    /// Pods start and fill their volumes, as far as the list that they read allows it.
    fn kubelet(&mut self) {
        for ordinal in 0..self.pods.unwrap_or(0) {
            self.volumes.entry(ordinal).or_default();
        }
        for ordinal in 0..self.pods.unwrap_or(0) {
            if !self.has_pod(ordinal) || self.volumes[&ordinal].is_some() {
                continue;
            }
            self.empty.insert(ordinal);
            let admits = |declared: &Declared| ordinal < declared.members && !declared.is_closed();
            let Some(declared) = self.declared.filter(admits) else { continue };
            let founds = declared.entry == Entry::Founding;
            if founds && self.members.is_empty() {
                for founder in 0..declared.members {
                    self.members.push(Member { id: self.next_id, ..member(founder, false) });
                    self.next_id += 1;
                }
            }
            let of_its_url = self.members.iter().find(|member| member.peer_urls[0] == url(ordinal));
            // Who finds itself a member that has run before, and has no data, is refused.
            let first = of_its_url.filter(|member| !self.started.contains(&member.id)).map(|member| member.id);
            let urls: BTreeSet<String> = self.members.iter().map(|member| member.peer_urls[0].clone()).collect();
            let listed: BTreeSet<String> = (0..declared.members).map(url).collect();
            let allowed = if founds { !self.was_running(ordinal) } else { urls == listed && self.quorum() };
            if let (Some(id), true) = (first, allowed) {
                self.volumes.insert(ordinal, Some(id));
                self.started.insert(id);
                self.empty.remove(&ordinal);
                let joined = self.members.iter_mut().find(|member| member.id == id);
                joined.unwrap().name = format!("topo-{ordinal}");
            }
        }
        let pods = self.pods.unwrap_or(0);
        self.empty.retain(|ordinal| *ordinal < pods);
    }

    /// Whether an ensemble runs in which this one was no founder.
    fn was_running(&self, ordinal: u32) -> bool {
        self.members.iter().any(|member| member.peer_urls[0] == url(ordinal) && member.learner)
    }

    /// A volume is emptied. Only one at a time, and while nobody is on the way in or out: more than that is beyond repair.
    fn lose(&mut self, ordinal: u32) {
        let rests = self.declared.is_some_and(Declared::rests) && !self.members.iter().any(|member| member.learner);
        let held = self.members.iter().all(|member| self.volumes.values().any(|volume| *volume == Some(member.id)));
        let Some(volume) = self.volumes.get_mut(&ordinal).filter(|_| rests && held) else { return };
        let before = volume.take();
        if !self.quorum() {
            self.volumes.insert(ordinal, before);
        }
    }

    fn pass(&self) -> Step {
        let pods = self.pods.unwrap_or(0);
        let claim = self.volumes.contains_key(&pods).then(|| format!("data-topo-{pods}"));
        let left_over = (0..100).take_while(|ordinal| self.volumes.contains_key(ordinal)).count();
        let left_over = u32::try_from(left_over).unwrap();
        let ready: Vec<u32> = (0..pods).filter(|ordinal| self.ready(*ordinal)).collect();
        let lost: Vec<u32> = self.empty.iter().copied().filter(|ordinal| self.has_pod(*ordinal)).collect();
        let mut view = View {
            name: "topo",
            wanted: self.wanted,
            declared: self.declared,
            pods: self.pods,
            complete: ready.len() == pods as usize,
            ready: &ready,
            lost: &lost,
            held_back: false,
            reads_list: true,
            left_over,
            volumes: left_over,
            in_the_way: claim.as_deref(),
            sight: &Sight::NotAsked,
        };
        if !asks(&view) {
            return step(&view);
        }
        let sight = if self.quorum() {
            Sight::Seen(self.members.clone())
        } else {
            Sight::Failed { message: "no quorum".to_owned() }
        };
        view.sight = &sight;
        step(&view)
    }

    /// What a pass writes, each part only if the operator got so far.
    fn carry_out(&mut self, step: &Step, done: [bool; 3]) {
        if done[0] {
            self.declared = Some(step.declared);
        }
        if done[1] {
            if !self.retain {
                self.volumes.retain(|ordinal, _| *ordinal < step.pods);
            }
            self.pods = Some(step.pods);
        }
        match step.change.filter(|_| done[2]) {
            Some(Change::Join(ordinal)) if !self.members.iter().any(|member| member.learner) => {
                let joined = Member { id: self.next_id, name: String::new(), ..member(ordinal, true) };
                self.members.push(joined);
                self.next_id += 1;
            }
            Some(Change::Promote(id)) => {
                let runs = (0..self.pods.unwrap_or(0)).any(|o| self.runs(o).is_some_and(|member| member.id == id));
                if let Some(learner) = self.members.iter_mut().find(|member| member.id == id && runs) {
                    learner.learner = false;
                }
            }
            Some(Change::Remove(id)) => self.members.retain(|member| member.id != id),
            _ => {}
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Pass([bool; 3]),
    Pods,
    Want(u32),
    Break(u32),
    Mend(u32),
    ScaleByHand(u32),
    RewriteList(u32),
    Lose(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let size = prop::sample::select(vec![1_u32, 3, 5]);
    prop_oneof![
        8 => any::<[bool; 3]>().prop_map(Event::Pass),
        6 => Just(Event::Pods),
        2 => size.prop_map(Event::Want),
        1 => (0_u32..5).prop_map(Event::Break),
        2 => (0_u32..5).prop_map(Event::Mend),
        1 => (0_u32..6).prop_map(Event::ScaleByHand),
        1 => (0_u32..5).prop_map(Event::Lose),
        // A list that is rewritten to just what is wanted cannot be told from one that we wrote.
        1 => prop::sample::select(vec![2_u32, 4, 6]).prop_map(Event::RewriteList),
    ]
}

/// Passes and pods take turns until nothing changes any more.
fn settle(world: &mut World) -> Step {
    for _ in 0..100 {
        let before = world.clone();
        let step = world.pass();
        world.carry_out(&step, [true; 3]);
        world.kubelet();
        if *world == before {
            return step;
        }
    }
    panic!("no rest: {world:?}");
}

#[rstest]
#[case(1, 3)]
#[case(3, 1)]
#[case(3, 5)]
#[case(5, 3)]
fn pods_that_are_scaled_to_zero_in_the_middle_of_a_resize_come_back_and_it_goes_on(
    #[case] first: u32,
    #[case] wanted: u32,
) {
    for (passes, written) in (0..16).flat_map(|passes| (0..8_u8).map(move |written| (passes, written))) {
        let mut world = World::new(first, true);
        settle(&mut world);
        world.wanted = wanted;
        for _ in 0..passes {
            world.carry_out(&world.pass(), [true; 3]);
            world.kubelet();
        }
        // The operator stops in the middle of a pass, and somebody scales the StatefulSet down just then.
        world.carry_out(&world.pass(), [0, 1, 2].map(|write| written >> write & 1 == 1));
        world.pods = Some(0);
        let end = settle(&mut world);
        assert_eq!(end.state, State::Settled, "after {passes} passes and {written:03b}: {world:?}");
        assert_eq!(world.members.len(), wanted as usize, "after {passes} passes and {written:03b}: {world:?}");
        assert!(world.quorum());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_step_loses_the_quorum_and_every_way_ends_at_the_size_or_names_what_is_in_the_way(
        first in prop::sample::select(vec![1_u32, 3, 5]),
        retain in any::<bool>(),
        lists in any::<bool>(),
        events in vec(event(), 0..60),
    ) {
        let mut world = World::new(first, retain);
        settle(&mut world);
        prop_assert!(world.quorum());
        for event in events {
            match event {
                Event::Pass(done) => {
                    let step = world.pass();
                    let had = world.quorum();
                    world.carry_out(&step, done);
                    prop_assert!(!had || world.quorum(), "{step:?} leaves {world:?}");
                }
                Event::Pods => {
                    let had = world.quorum();
                    world.kubelet();
                    prop_assert!(!had || world.quorum());
                }
                Event::Want(size) => world.wanted = size,
                Event::Break(ordinal) => drop(world.broken.insert(ordinal)),
                Event::Mend(ordinal) => drop(world.broken.remove(&ordinal)),
                // One way of meddling at a time: whoever rewrites the list and scales to nothing, too, is not helped.
                Event::ScaleByHand(_) | Event::Lose(_) if lists => {}
                Event::RewriteList(_) if !lists => {}
                // Nobody scales down under the policy that deletes volumes: that loses data whatever we do.
                Event::ScaleByHand(pods) if world.retain || world.pods.is_some_and(|now| pods >= now) => {
                    world.pods = Some(pods);
                }
                Event::ScaleByHand(_) => {}
                Event::RewriteList(members) => world.declared = Some(Declared::settled(members)),
                Event::Lose(ordinal) => world.lose(ordinal),
            }
        }
        world.broken.clear();
        world.kubelet();
        let end = settle(&mut world);
        match end.state {
            State::Settled => {
                prop_assert_eq!(world.members.len(), world.wanted as usize);
                prop_assert!(world.members.iter().all(|member| !member.learner));
                prop_assert_eq!(world.pods, Some(world.wanted));
                let declared = world.declared.unwrap();
                prop_assert!(declared.rests() && declared.members == world.wanted, "{:?}", declared);
                prop_assert!(world.quorum());
            }
            State::Blocked { reason, .. } => {
                prop_assert_eq!(reason, "VolumeInTheWay");
                prop_assert!(retain && world.quorum());
            }
            state => prop_assert!(false, "{state:?} in {world:?}"),
        }
    }
}
