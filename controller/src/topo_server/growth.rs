//! How an etcd ensemble gets from one size to another: one member at a time, in steps that each leave a quorum.
//!
//! A member joins like this: the list that new members start from names it; etcd learns of it as a learner without a vote; its
//! pod is made; once it has caught up it gets its vote; the list says that nobody is joining any more. A member leaves like
//! this: the list no longer names it; etcd forgets it; its pod goes. The list always comes first: as long as it differs from what
//! is wanted, etcd is asked how far things are. What comes next is read off etcd, the list and the pods alone, so it does not
//! matter after which step, or in the middle of which one, the operator was restarted or the wanted size changed.
//!
//! A member that lost its data may not simply start again: the others count on what it once said it has. It is replaced: the list
//! says so and names the member by its id; etcd forgets it; a learner comes in under the same name; its pod starts from the list
//! and gets its vote. That needs proof of two things: that the pod has no data, which etcd says in the message with which it
//! ends, and that all other members serve.

use std::collections::BTreeSet;

use shared::name;

use crate::upstream::{Member, MemberChange};

/// Why members that do not start from the list are not joined by others.
const NOT_ROLLED_OUT: &str = "NotRolledOut";
/// What goes on while a member that lost its data is replaced.
const REPLACING: &str = "Replacing";

/// The list from which members without data start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// How many members it names, counted from ordinal 0.
    pub members: u32,
    /// Who may start from it.
    pub entry: Entry,
}

/// Who may start without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// All of them, to found the ensemble together.
    Founding,
    /// The last one, into the ensemble that runs.
    Joining,
    /// One in the place of the member of this id, into the ensemble that runs; 0 where somebody else took it out.
    Replacing(u64),
    /// Nobody, and the member behind the last one is about to leave.
    Leaving,
    /// Nobody: who has no data lost it.
    Closed,
}

impl Declared {
    /// A list of founders, none of which is about to join or to leave.
    pub fn settled(members: u32) -> Self {
        Self { members, entry: Entry::Founding }
    }

    fn joining(members: u32) -> Self {
        Self { members, entry: Entry::Joining }
    }

    fn leaving(members: u32) -> Self {
        Self { members, entry: Entry::Leaving }
    }

    fn closed(members: u32) -> Self {
        Self { members, entry: Entry::Closed }
    }

    /// Whether nobody is on the way in or out.
    pub fn rests(self) -> bool {
        matches!(self.entry, Entry::Founding | Entry::Closed)
    }

    /// Whether nobody may start from it.
    fn is_closed(self) -> bool {
        matches!(self.entry, Entry::Leaving | Entry::Closed)
    }

    /// How many members there are at least, by what the list says.
    fn known(self) -> u32 {
        match self.entry {
            Entry::Joining => self.members.saturating_sub(1),
            _ => self.members,
        }
    }

    /// How many there may be.
    fn possible(self) -> u32 {
        match self.entry {
            Entry::Leaving => self.members + 1,
            _ => self.members,
        }
    }
}

/// What is known of the members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// Nobody asked, because nothing is to be done.
    #[default]
    NotAsked,
    /// No quorum answered.
    Failed {
        /// What was said.
        message: String,
    },
    /// The members as a quorum knows them.
    Seen(Vec<Member>),
}

/// What a step is decided on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Name of the ensemble, with which the names of its members begin.
    pub name: &'a str,
    /// How many members the spec asks for.
    pub wanted: u32,
    /// The list as it is; none where there is none.
    pub declared: Option<Declared>,
    /// How many pods the StatefulSet asks for; none where there is no StatefulSet.
    pub pods: Option<u32>,
    /// Whether all of these pods are ready and current.
    pub complete: bool,
    /// The ordinals of those that are ready.
    pub ready: &'a [u32],
    /// The ordinals of those that do not start because they have no data.
    pub lost: &'a [u32],
    /// Whether the pod of the first of these is held back for having ended too often.
    pub held_back: bool,
    /// Whether new pods start from the list, which those of other operators do not.
    pub reads_list: bool,
    /// How many volumes of an earlier ensemble are left, counted from ordinal 0.
    pub left_over: u32,
    /// How many volumes there are at all, counted from ordinal 0.
    pub volumes: u32,
    /// The volume that the next member would find, if it exists already.
    pub in_the_way: Option<&'a str>,
    /// The members.
    pub sight: &'a Sight,
}

/// Where an ensemble stands on its way to its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has it.
    Settled,
    /// A step is being made.
    Moving {
        /// CamelCase.
        reason: &'static str,
        /// One sentence.
        message: String,
    },
    /// The next step waits for something that passes by itself.
    Waiting {
        /// CamelCase.
        reason: &'static str,
        /// One sentence.
        message: String,
    },
    /// The next step waits for somebody to help.
    Blocked {
        /// CamelCase.
        reason: &'static str,
        /// One sentence with the remedy.
        message: String,
    },
}

impl State {
    /// Whether the pods have to be made from a template of today before a step can be made.
    pub fn waits_for_rendering(&self) -> bool {
        matches!(self, Self::Waiting { reason: NOT_ROLLED_OUT, .. })
    }
}

/// What a pass does about the size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The list as it should be.
    pub declared: Declared,
    /// How many pods the StatefulSet should ask for.
    pub pods: u32,
    /// How many members have a vote, as far as is known.
    pub voters: u32,
    /// The step in etcd.
    pub change: Option<Change>,
    /// The pod that starts again at once, because what it waits for is there.
    pub restart: Option<u32>,
    /// What is going on.
    pub state: State,
}

/// A step in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The member with this ordinal comes in as a learner.
    Join(u32),
    /// The learner of this id gets its vote.
    Promote(u64),
    /// The member of this id goes.
    Remove(u64),
}

impl Change {
    /// The step, with the URL at which a member that joins will be reached.
    pub fn of_member(self, peer_url: impl Fn(u32) -> String) -> MemberChange {
        match self {
            Self::Join(ordinal) => MemberChange::AddLearner { peer_url: peer_url(ordinal) },
            Self::Promote(id) => MemberChange::Promote { id },
            Self::Remove(id) => MemberChange::Remove { id },
        }
    }
}

/// Whether the members have to be asked for before a step can be decided.
pub fn asks(view: &View<'_>) -> bool {
    let rests = view.declared.is_some_and(|declared| declared.rests() && declared.members == view.wanted);
    view.pods.is_some_and(|pods| pods != view.wanted || !rests || !view.lost.is_empty())
}

/// The next step. Pure.
pub fn step(view: &View<'_>) -> Step {
    let Some(pods) = view.pods else { return founding(view) };
    match view.sight {
        Sight::Seen(members) => match ordinals(view.name, members) {
            Ok(Ranks::Whole(members)) => seen(view, pods, &members),
            Ok(Ranks::Without(gap, members)) => missing(view, pods, gap, &members),
            Err((reason, message)) => Step { state: State::Blocked { reason, message }, ..hold(view, pods) },
        },
        Sight::Failed { message } => {
            let state = data_lost(view, pods).unwrap_or_else(|| {
                let message = format!("the size stays as it is while no quorum of members answers: {message}");
                State::Waiting { reason: "NoQuorum", message }
            });
            Step { state, ..hold(view, pods) }
        }
        Sight::NotAsked => hold(view, pods),
    }
}

/// What follows on giving an ensemble up. Programs of the data plane write their own records when they start, and never look whether they are still there.
const FOUNDED_ANEW: &str =
    "an empty ensemble is then founded; delete the cluster's pods one after the other, so that they register in it";

/// What is said once so many members have no data that the others are no quorum.
fn data_lost(view: &View<'_>, pods: u32) -> Option<State> {
    let lost = u32::try_from(view.lost.len()).unwrap_or(u32::MAX);
    if lost == 0 || pods.saturating_sub(lost) > pods / 2 {
        return None;
    }
    let map = name::topo_members(view.name);
    let named = named(view.name, view.lost);
    let remedy = if lost >= pods {
        format!("or delete ConfigMap {map}: {FOUNDED_ANEW}")
    } else {
        format!(
            "or give up what the others hold: delete the StatefulSet and the volume claims of all its members; {FOUNDED_ANEW}"
        )
    };
    let message =
        format!("{named} lost their data, and too few others are left to go on; bring their volumes back, {remedy}");
    Some(State::Blocked { reason: "DataLost", message })
}

fn named(name: &str, ordinals: &[u32]) -> String {
    let names: Vec<String> = ordinals.iter().map(|ordinal| format!("{name}-{ordinal}")).collect();
    names.join(", ")
}

/// Volumes that an earlier ensemble left hold its members, which need each other.
fn founding(view: &View<'_>) -> Step {
    let declared = if view.left_over == 0 {
        Declared::settled(view.wanted)
    } else {
        view.declared.unwrap_or(Declared::settled(view.left_over))
    };
    let pods = declared.members;
    Step { declared, pods, voters: pods, change: None, restart: None, state: State::Settled }
}

/// Nothing changes, and pods of members that somebody scaled away come back.
fn hold(view: &View<'_>, pods: u32) -> Step {
    let declared = view.declared.unwrap_or(Declared::settled(pods));
    let known = declared.known();
    // Who is on the way in or out may have a vote already, or still; it had a pod if it has a volume.
    let back = if declared.rests() { known } else { known.max(declared.possible().min(view.volumes)) };
    Step {
        declared,
        // No more than there is reason for: the list may have been rewritten by hand.
        pods: pods.max(back.min(view.wanted.max(view.volumes))),
        voters: known.max(1),
        change: None,
        restart: None,
        state: State::Settled,
    }
}

fn seen(view: &View<'_>, pods: u32, members: &[(u32, &Member)]) -> Step {
    let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
    let voters = u32::try_from(members.iter().filter(|(_, member)| !member.learner).count()).unwrap_or(u32::MAX);
    let base = Step { voters, ..hold(view, pods) };
    match members.iter().rev().find(|(_, member)| member.learner) {
        Some((ordinal, learner)) => taught(view, pods, &base, (*ordinal, count, learner)),
        None => resting(view, pods, &base, members),
    }
}

/// A member is on its way in.
fn taught(view: &View<'_>, pods: u32, base: &Step, (ordinal, count, learner): (u32, u32, &Member)) -> Step {
    let name = format!("{}-{ordinal}", view.name);
    if ordinal >= view.wanted && ordinal + 1 == count {
        let message = format!("member {name} does not join after all");
        let state = State::Moving { reason: "Shrinking", message };
        // Before etcd is told: a list that still awaits it would have its pod, whose volume is then of no use, kept for another try.
        let declared = Declared::leaving(ordinal);
        let change = (view.declared == Some(declared)).then_some(Change::Remove(learner.id));
        return Step { declared, change, state, ..base.clone() };
    }
    let replaces =
        view.declared.filter(|declared| declared.members == count && matches!(declared.entry, Entry::Replacing(_)));
    let reason = if replaces.is_some() || ordinal + 1 < count { REPLACING } else { "Growing" };
    let joins = |message: String| State::Moving { reason, message };
    let declared = replaces.unwrap_or(Declared::joining(count));
    if view.declared != Some(declared) {
        let pods = pods.clamp(count - 1, count);
        return Step { declared, pods, state: joins(format!("member {name} joins")), ..base.clone() };
    }
    let started = !learner.name.is_empty();
    let message = if started {
        format!("member {name} catches up with the others")
    } else {
        format!("member {name} joins; its pod starts")
    };
    let change = started.then_some(Change::Promote(learner.id));
    let restart = (!started && view.held_back && view.lost.first() == Some(&ordinal)).then_some(ordinal);
    Step { declared, pods: count, change, restart, state: joins(message), ..base.clone() }
}

/// A member is not there while later ones are, or is the last one and about to be replaced.
fn missing(view: &View<'_>, pods: u32, gap: u32, members: &[(u32, &Member)]) -> Step {
    let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
    let base = Step { voters: count, ..hold(view, pods) };
    let name = format!("{}-{gap}", view.name);
    let declared = match view.declared {
        Some(declared) if declared.members == count + 1 && matches!(declared.entry, Entry::Replacing(_)) => declared,
        _ => Declared { members: count + 1, entry: Entry::Replacing(0) },
    };
    // A pod that goes takes its volume along: nobody may start from a list that still names it.
    let pods = if pods > count + 1 && view.declared != Some(declared) { pods } else { count + 1 };
    let base = Step { declared, pods, ..base };
    let is_empty = view.lost.contains(&gap);
    let ours = declared.entry != Entry::Replacing(0);
    if is_empty || ours {
        let message = format!(
            "member {name} comes back without its data; should its pod say that it was removed, delete it and volume claim {}",
            name::topo_pvc(view.name, gap)
        );
        let change = (is_empty && view.declared == Some(declared)).then_some(Change::Join(gap));
        return Step { change, state: State::Moving { reason: REPLACING, message }, ..base };
    }
    let message = format!(
        "member {name} was taken out of the ensemble while later ones stay; delete volume claim {} and pod {name}, and it comes \
         back with an empty volume",
        name::topo_pvc(view.name, gap)
    );
    Step { state: State::Blocked { reason: "MemberMissing", message }, ..base }
}

/// All members have a vote.
fn resting(view: &View<'_>, pods: u32, base: &Step, members: &[(u32, &Member)]) -> Step {
    let count = base.voters;
    let rest = rest(view, count);
    if pods != count {
        if pods == count + 1 && view.wanted >= pods && is_replaced(view, pods, members) {
            return missing(view, pods, count, members);
        }
        let message = if pods > count {
            format!("pods of members that have left go; {count} stay")
        } else {
            format!("pods of all {count} members come back")
        };
        // A pod that goes takes its volume along: nobody may start from a list that still names it.
        let named = view
            .declared
            .is_none_or(|declared| declared.known() != count || !(declared.rests() || declared.is_closed()));
        let pods = if pods > count && named { pods } else { count };
        return Step { declared: rest, pods, state: State::Moving { reason: "Resizing", message }, ..base.clone() };
    }
    if let Some(step) = replace(view, pods, base, members) {
        return step;
    }
    let (declared, change, state) = if count < view.wanted {
        grow(view, count)
    } else if let Some((ordinal, last)) = members.last().filter(|_| count > view.wanted) {
        shrink(view, count, &format!("{}-{ordinal}", view.name), last)
    } else if view.declared == Some(rest) {
        (rest, None, State::Settled)
    } else {
        let message = format!("the ensemble has {count} members");
        (rest, None, State::Moving { reason: "Resizing", message })
    };
    // What others start from has to be known before etcd is.
    let change = change.filter(|_| view.declared == Some(declared));
    Step { declared, pods: count, change, state, ..base.clone() }
}

/// The list while nobody is on the way. Founders know each other without one; whoever came later must not start anew, since it would
/// found an ensemble of its own.
fn rest(view: &View<'_>, count: u32) -> Declared {
    let founders = Declared::settled(count);
    if view.declared.is_none_or(|declared| declared == founders) { founders } else { Declared::closed(count) }
}

/// Whether the list says that one of this many is being replaced, and etcd has forgotten it.
fn is_replaced(view: &View<'_>, size: u32, members: &[(u32, &Member)]) -> bool {
    let declared = view.declared.filter(|declared| declared.members == size);
    match declared.map(|declared| declared.entry) {
        Some(Entry::Replacing(id)) => members.iter().all(|(_, member)| member.id != id),
        _ => false,
    }
}

/// A member that lost its data, or the end of its replacement.
fn replace(view: &View<'_>, pods: u32, base: &Step, members: &[(u32, &Member)]) -> Option<Step> {
    let moving = |declared, change, message: String| {
        let state = State::Moving { reason: REPLACING, message };
        Some(Step { declared, pods, change, state, ..base.clone() })
    };
    // Pods tell late that they run: what they say counts again once all have told.
    let came_in = view.declared.is_some_and(|declared| declared.members == pods && declared.entry == Entry::Joining);
    if (came_in || is_replaced(view, pods, members)) && !view.complete && pods <= view.wanted {
        let declared = view.declared?;
        return moving(declared, None, "all members have a vote, and the last pod gets ready".to_owned());
    }
    let first = *view.lost.first()?;
    let (ordinal, member) = members.iter().find(|(ordinal, _)| *ordinal == first)?;
    let name = format!("{}-{ordinal}", view.name);
    let blocked = |reason, message| Some(Step { state: State::Blocked { reason, message }, ..base.clone() });
    if view.lost.len() > 1 {
        let message = format!(
            "{} lost their data, and one at a time can be replaced; take all but {name} out with etcdctl member remove",
            named(view.name, view.lost)
        );
        return blocked("DataLost", message);
    }
    // The last one goes anyway.
    if pods > view.wanted && ordinal + 1 == pods {
        return None;
    }
    if !view.reads_list {
        let message = format!(
            "member {name} lost its data, and its pod cannot join: it has the list of members in its template; change the spec of \
             the ensemble so that its pods are made anew"
        );
        return blocked("DataLost", message);
    }
    if !(0..pods).all(|other| other == *ordinal || view.ready.contains(&other)) {
        let message = format!("member {name} lost its data; it is replaced as soon as all others are ready");
        return Some(Step { state: State::Waiting { reason: "NotAllReplicasReady", message }, ..base.clone() });
    }
    let declared = Declared { members: pods, entry: Entry::Replacing(member.id) };
    let change = (view.declared == Some(declared)).then_some(Change::Remove(member.id));
    moving(declared, change, format!("member {name} lost its data; another one takes its place"))
}

fn grow(view: &View<'_>, count: u32) -> (Declared, Option<Change>, State) {
    let next = format!("{}-{count}", view.name);
    let waiting = |reason, message: String| State::Waiting { reason, message };
    let obstacle = if !view.complete {
        waiting("NotAllReplicasReady", format!("member {next} joins as soon as all {count} members are ready"))
    } else if !view.reads_list {
        waiting(NOT_ROLLED_OUT, format!("member {next} joins as soon as the others run with current settings"))
    } else if let Some(claim) = view.in_the_way {
        let message = format!(
            "member {next} cannot join, because volume claim {claim} is there and may hold what a member of that name left; \
             delete the claim, or set replicas back to {count}"
        );
        State::Blocked { reason: "VolumeInTheWay", message }
    } else {
        let state = State::Moving { reason: "Growing", message: format!("member {next} joins") };
        return (Declared::joining(count + 1), Some(Change::Join(count)), state);
    };
    (rest(view, count), None, obstacle)
}

fn shrink(view: &View<'_>, count: u32, name: &str, last: &Member) -> (Declared, Option<Change>, State) {
    if view.complete || (0..count - 1).all(|ordinal| view.ready.contains(&ordinal)) {
        let state = State::Moving { reason: "Shrinking", message: format!("member {name} leaves") };
        return (Declared::leaving(count - 1), Some(Change::Remove(last.id)), state);
    }
    let message = format!("member {name} leaves as soon as all that stay are ready");
    (rest(view, count), None, State::Waiting { reason: "NotAllReplicasReady", message })
}

/// Members by ordinal, in order.
enum Ranks<'m> {
    /// Without a gap.
    Whole(Vec<(u32, &'m Member)>),
    /// Without this one.
    Without(u32, Vec<(u32, &'m Member)>),
}

fn ordinals<'m>(name: &str, members: &'m [Member]) -> Result<Ranks<'m>, (&'static str, String)> {
    let mut all = Vec::with_capacity(members.len());
    for member in members {
        let Some(ordinal) = ordinal(name, member) else {
            let message = format!(
                "a member that is not one of the pods of this ensemble belongs to it ({}); remove it with etcdctl member \
                 remove {:x}",
                member.peer_urls.join(", "),
                member.id
            );
            return Err(("ForeignMember", message));
        };
        all.push((ordinal, member));
    }
    all.sort_by_key(|(ordinal, _)| *ordinal);
    let have: BTreeSet<u32> = all.iter().map(|(ordinal, _)| *ordinal).collect();
    if have.len() < all.len() {
        let message = "a member is there twice; remove the one that no pod runs with etcdctl member remove".to_owned();
        return Err(("ForeignMember", message));
    }
    let end = have.last().map_or(0, |last| last + 1);
    let gaps: Vec<u32> = (0..end).filter(|ordinal| !have.contains(ordinal)).collect();
    match gaps.as_slice() {
        [] => Ok(Ranks::Whole(all)),
        [gap] if all.iter().all(|(_, member)| !member.learner) => Ok(Ranks::Without(*gap, all)),
        [gap, ..] => {
            let message = format!(
                "{} were taken out of the ensemble while later members stay; take those out, too, with etcdctl member remove, so \
                 that only members up to {name}-{} are left: all others come back one after the other",
                named(name, &gaps),
                gap.saturating_sub(1)
            );
            Err(("MemberMissing", message))
        }
    }
}

/// The ordinal of a member: that of the pod that its first URL names.
fn ordinal(name: &str, member: &Member) -> Option<u32> {
    let url = member.peer_urls.first()?;
    let host = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    let pod = host.split(['.', ':', '/']).next()?;
    pod.strip_prefix(name)?.strip_prefix('-')?.parse().ok()
}

#[cfg(test)]
mod tests;
