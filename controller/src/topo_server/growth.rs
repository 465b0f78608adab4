//! How an etcd ensemble gets from one size to another: one member at a time, in steps that each leave a quorum.
//!
//! A member joins like this: the list that new members start from names it; etcd learns of it as a learner without a vote; its
//! pod is made; once it has caught up it gets its vote; the list says that nobody is joining any more. A member leaves like
//! this: the list no longer names it; etcd forgets it; its pod goes. The list always comes first: as long as it differs from what
//! is wanted, etcd is asked how far things are. What comes next is read off etcd, the list and the pods alone, so it does not
//! matter after which step, or in the middle of which one, the operator was restarted or the wanted size changed.

use std::collections::BTreeSet;

use crate::upstream::{Member, MemberChange};

/// Why members that do not start from the list are not joined by others.
const NOT_ROLLED_OUT: &str = "NotRolledOut";

/// The list from which members without data start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// How many members it names, counted from ordinal 0.
    pub members: u32,
    /// Whether the last one joins an ensemble that runs, instead of founding one together with the others.
    pub joining: bool,
}

impl Declared {
    /// A list of members none of which is about to join.
    pub fn settled(members: u32) -> Self {
        Self { members, joining: false }
    }

    fn joining(members: u32) -> Self {
        Self { members, joining: true }
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
    /// Whether all of them but the last one are.
    pub others_ready: bool,
    /// Whether new pods start from the list, which those of other operators do not.
    pub reads_list: bool,
    /// How many volumes of an earlier ensemble are left, counted from ordinal 0.
    pub left_over: u32,
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
    view.pods.is_some_and(|pods| pods != view.wanted || view.declared != Some(Declared::settled(view.wanted)))
}

/// The next step. Pure.
pub fn step(view: &View<'_>) -> Step {
    let Some(pods) = view.pods else { return founding(view) };
    match view.sight {
        Sight::Seen(members) => match ordinals(view.name, members) {
            Ok(members) => seen(view, pods, &members),
            Err((reason, message)) => Step { state: State::Blocked { reason, message }, ..hold(view, pods) },
        },
        Sight::Failed { message } => {
            let message = format!("the size stays as it is while no quorum of members answers: {message}");
            Step { state: State::Waiting { reason: "NoQuorum", message }, ..hold(view, pods) }
        }
        Sight::NotAsked => hold(view, pods),
    }
}

/// Volumes that an earlier ensemble left hold its members, which need each other.
fn founding(view: &View<'_>) -> Step {
    let declared = if view.left_over == 0 {
        Declared::settled(view.wanted)
    } else {
        view.declared.unwrap_or(Declared::settled(view.left_over))
    };
    Step { declared, pods: declared.members, voters: declared.members, change: None, state: State::Settled }
}

/// Nothing changes, and pods of members that somebody scaled away come back.
fn hold(view: &View<'_>, pods: u32) -> Step {
    let declared = view.declared.unwrap_or(Declared::settled(pods));
    let known = if declared.joining { declared.members.saturating_sub(1) } else { declared.members };
    Step {
        declared,
        // No more than there is reason for: the list may have been rewritten by hand.
        pods: pods.max(known.min(view.wanted.max(view.left_over))),
        voters: known.max(1),
        change: None,
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
        let state = State::Moving { reason: "Shrinking", message: format!("member {name} does not join after all") };
        return Step { change: Some(Change::Remove(learner.id)), state, ..base.clone() };
    }
    let joins = |message: String| State::Moving { reason: "Growing", message };
    let declared = Declared::joining(count);
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
    Step { declared, pods: count, change, state: joins(message), ..base.clone() }
}

/// All members have a vote.
fn resting(view: &View<'_>, pods: u32, base: &Step, members: &[(u32, &Member)]) -> Step {
    let count = base.voters;
    if pods != count {
        let message = if pods > count {
            format!("pods of members that have left go; {count} stay")
        } else {
            format!("pods of all {count} members come back")
        };
        let declared = Declared::settled(count);
        // A pod that goes takes its volume along: nobody may start from a list that still names it.
        let pods = if pods > count && view.declared != Some(declared) { pods } else { count };
        return Step { declared, pods, state: State::Moving { reason: "Resizing", message }, ..base.clone() };
    }
    let (declared, change, state) = if count < view.wanted {
        grow(view, count)
    } else if let Some((ordinal, last)) = members.last().filter(|_| count > view.wanted) {
        shrink(view, count, &format!("{}-{ordinal}", view.name), last)
    } else if view.declared == Some(Declared::settled(count)) {
        (Declared::settled(count), None, State::Settled)
    } else {
        let message = format!("the ensemble has {count} members");
        (Declared::settled(count), None, State::Moving { reason: "Resizing", message })
    };
    // What others start from has to be known before etcd is.
    let change = change.filter(|_| view.declared == Some(declared));
    Step { declared, pods: count, change, state, ..base.clone() }
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
    (Declared::settled(count), None, obstacle)
}

fn shrink(view: &View<'_>, count: u32, name: &str, last: &Member) -> (Declared, Option<Change>, State) {
    if view.complete || view.others_ready {
        let state = State::Moving { reason: "Shrinking", message: format!("member {name} leaves") };
        return (Declared::settled(count - 1), Some(Change::Remove(last.id)), state);
    }
    let message = format!("member {name} leaves as soon as all that stay are ready");
    (Declared::settled(count), None, State::Waiting { reason: "NotAllReplicasReady", message })
}

/// The members by ordinal, in order and without a gap.
fn ordinals<'m>(name: &str, members: &'m [Member]) -> Result<Vec<(u32, &'m Member)>, (&'static str, String)> {
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
    let expected = 0..u32::try_from(all.len()).unwrap_or(u32::MAX);
    if let Some(gap) = expected.into_iter().find(|ordinal| !have.contains(ordinal)) {
        let message = format!(
            "member {name}-{gap} was taken out of the ensemble while later ones stay, or one of them is there twice; add it \
             again with etcdctl member add and a fresh volume, or remove the surplus one"
        );
        return Err(("MemberMissing", message));
    }
    Ok(all)
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
