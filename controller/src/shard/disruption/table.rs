//! The table: the first situation that matches decides. At most one member of a shard is on its way at any time.

use std::cmp::Reverse;

use shared::annotation::DrainState;

use super::{
    ABORT_AFTER, PROGRESS_DEADLINE, STUCK_AFTER,
    drain::{advance, still_useless, waiting_for},
    member::{Cause, Member, Misplaced, Presence, Role, Volume},
    verdict::{Act, Blocker, Ending, Reason, Row, Verdict, Wait},
    view::{Safety, View},
};
use crate::{plan::Note, shard::facts::names};

/// What to do about a shard now.
pub fn decide(view: &View) -> Verdict {
    // Pods that ended run nothing: making them anew disturbs nobody, whatever else is the case.
    let ended = |member: &&Member| member.presence == Presence::Ended && member.vitals.is_none_or(|v| !v.serving);
    if let Some(member) = in_order(view).into_iter().find(ended) {
        let message = format!("Pod {} has ended and is created anew on the same volume", member.pod);
        return replace(Row::Ended, member).note(Note::warning("PodReplaced", message));
    }
    if let Some(verdict) = lost(view) {
        return verdict;
    }
    if !pending(view) {
        return Verdict::of(Row::Idle);
    }
    if view.paused {
        return Verdict::of(Row::Paused).blocked(Reason::Paused, "The cluster is annotated to be left as it is");
    }
    if let Some(why) = &view.blind {
        return Verdict::of(Row::Blind).blocked(Reason::TopologyUnavailable, why.clone());
    }
    let primaries: Vec<&Member> = view.members.iter().filter(|member| member.role == Role::Primary).collect();
    if primaries.len() > 1 {
        let message = format!("More than one primary: {}", names(primaries.iter().map(|member| &member.pod)));
        return Verdict::of(Row::Split).blocked(Reason::SeveralPrimaries, message);
    }
    moves(view).or_else(|| running_drain(view)).or_else(|| waiting(view)).unwrap_or_else(|| work(view))
}

/// Sorted by name, so that the order in which members were observed decides nothing.
fn in_order(view: &View) -> Vec<&Member> {
    let mut members: Vec<&Member> = view.members.iter().collect();
    members.sort_by(|one, other| one.pod.cmp(&other.pod));
    members
}

/// Whether anything should be done that may disturb somebody.
fn pending(view: &View) -> bool {
    view.members.iter().filter(|member| member.presence != Presence::Missing).any(|member| {
        member.cause().is_some()
            || member.drain.is_some()
            || (member.is_live() && member.forgotten)
            || member.is_quarantined()
            || member.reload_pending
            || (member.wanted && (member.misplaced.is_some() || member.volume != Volume::Fine))
            // Without another member nobody can take over, and no budget keeps the eviction away.
            || (member.role == Role::Primary && member.must_move() && view.members.len() > 1)
    })
}

fn replace(row: Row, member: &Member) -> Verdict {
    Verdict::of(row).act(Act::Replace { pod: member.pod.clone() })
}

/// A primary whose pod is gone or going will not come back in time: the orchestrators need not wait for it.
fn lost(view: &View) -> Option<Verdict> {
    if view.blind.is_some() || view.serving_primary().is_some() {
        return None;
    }
    let gone = |member: &&Member| member.role == Role::Primary && !member.is_live();
    let member = in_order(view).into_iter().find(gone)?;
    // Who cannot elect for so long lacks more than haste.
    if view.lost_for(ABORT_AFTER) {
        return None;
    }
    let verdict = Verdict::of(Row::Lost).act(Act::Hasten);
    Some(verdict.blocked(Reason::NoPrimary, format!("The pod of the primary {} is gone", member.pod)))
}

/// A primary on a node that is about to go leaves it before anything is begun that can wait: it would go without being asked, and whoever
/// is away then is missed. A member that was chosen and not touched yet waits, too.
fn moves(view: &View) -> Option<Verdict> {
    let primary = view.serving_primary().filter(|primary| primary.must_move() && primary.drain.is_none())?;
    let rested = primary.failures.retry_at().is_none_or(|at| at <= view.now);
    // One that took over a moment ago has just been chosen by the data plane, which does not look at nodes: moving it on and on helps nobody.
    if view.led_since.is_some_and(|since| view.past(since, ABORT_AFTER).is_none()) {
        return None;
    }
    let away = view.in_flight(primary).or_else(|| view.returning(primary));
    if !rested || away.is_some() || !view.has_successor(primary, true, false) {
        return None;
    }
    let chosen = || in_order(view).into_iter().filter(|member| member.is_live() && member.drain.is_some());
    let state = |member: &Member| member.drain.as_ref().map(|drain| drain.state);
    if chosen().any(|member| state(member) > Some(DrainState::Requested)) {
        return None;
    }
    let verdict = Verdict::of(Row::NodeDrain);
    Some(match chosen().next() {
        Some(member) => verdict
            .act(Act::Drop { pod: member.pod.clone(), ending: Ending::Cancelled })
            .note(Note::normal("DrainCancelled", format!("{} waits until the primary has left its node", member.pod))),
        None => verdict.act(Act::Request { pod: primary.pod.clone(), cause: Cause::NodeDrain }),
    })
}

/// One drain at a time, the one that has come furthest.
fn running_drain(view: &View) -> Option<Verdict> {
    let mut drains: Vec<_> = in_order(view)
        .into_iter()
        .filter(|member| member.is_live())
        .filter_map(|member| Some((member, member.drain.as_ref()?)))
        .collect();
    drains.sort_by_key(|(_, drain)| Reverse(drain.state));
    let (member, drain) = drains.first()?;
    Some(advance(view, member, drain))
}

/// Nobody else goes before everybody is back.
fn waiting(view: &View) -> Option<Verdict> {
    for member in in_order(view) {
        let Presence::Leaving { due } = member.presence else { continue };
        let verdict = Verdict::of(Row::Waiting);
        return Some(match view.past(due, STUCK_AFTER) {
            Some(_) => verdict.blocked(
                Reason::PodStuck,
                format!("{} does not end; is its node gone? Mark the node as out of service", member.pod),
            ),
            None => verdict.blocked(Reason::WaitingForMember, format!("{} is ending", member.pod)),
        });
    }
    if let Some(verdict) = stranded(view) {
        return Some(verdict);
    }
    // Without a primary nobody gets healthy: what is down for certain and would be built otherwise today may be what is missing.
    if view.serving_primary().is_none()
        && let Some(verdict) = broken(view)
    {
        return Some(verdict);
    }
    if let Some(verdict) = unjoined(view) {
        return Some(verdict);
    }
    if view.serving_primary().is_none()
        && view.ever_led
        && let Some(missing) = forgotten(view)
    {
        let message = format!("{missing}; who leads is not certain");
        return Some(Verdict::of(Row::Waiting).blocked(Reason::RecordMissing, message));
    }
    let returning: Vec<&Member> = in_order(view)
        .into_iter()
        .filter(|member| {
            member.wanted && member.outdated.is_none() && !member.is_given_up() && !view.is_healthy(member)
        })
        .collect();
    let first = returning.first()?;
    let up = returning.iter().all(|member| member.is_live() && member.ready);
    if up && view.serving_primary().is_none() {
        return Some(Verdict::of(Row::Waiting).blocked(Reason::NoPrimary, "No primary serves"));
    }
    let long = view.waited(Wait::Member, PROGRESS_DEADLINE);
    let old = |member: &&&Member| member.created.is_some_and(|at| view.past(at, PROGRESS_DEADLINE).is_some());
    if long && let Some(stalled) = returning.iter().find(old) {
        let why = stalled.trouble.as_deref().unwrap_or("it does not get healthy");
        return Some(
            Verdict::of(Row::Stalled).blocked(Reason::RolloutStalled, format!("{} is up to date: {why}", stalled.pod)),
        );
    }
    let message = format!("{} is not healthy yet", first.pod);
    Some(Verdict::of(Row::Waiting).blocked(Reason::WaitingForMember, message))
}

/// The next of those that did not join a shard that never had a primary, once everybody of today's description has: it takes more than one
/// of them to have a primary. The latest goes first, which may not be back from its own turn.
fn unjoined(view: &View) -> Option<Verdict> {
    let mut left: Vec<&Member> = in_order(view)
        .into_iter()
        .filter(|member| member.is_live() && member.wanted && view.never_joined(member) && view.is_useless(member))
        .collect();
    left.sort_by_key(|member| Reverse(member.created));
    let current = |member: &&Member| member.wanted && member.outdated.is_none();
    let all_joined = view.members.iter().filter(current).all(Member::has_joined);
    if !all_joined {
        return None;
    }
    choose(view, Row::OutdatedStandby, &left)?.ok()
}

/// Who runs without a record, for a message; none if nobody does.
fn forgotten(view: &View) -> Option<String> {
    let all: Vec<&String> = in_order(view)
        .into_iter()
        .filter(|member| member.is_live() && member.forgotten)
        .map(|member| &member.pod)
        .collect();
    (!all.is_empty()).then(|| format!("The topology has no record of {}", names(all)))
}

/// Outdated and certainly down: today's description may be the cure. A claim to be primary goes last, and not on a single answer: its
/// PostgreSQL may be recovering from a crash, which nobody has to help with.
fn broken(view: &View) -> Option<Verdict> {
    let lasts = view.lost_for(ABORT_AFTER);
    let mut broken: Vec<&Member> = in_order(view)
        .into_iter()
        .filter(|member| member.is_live() && member.wanted && member.outdated.is_some() && member.is_down())
        .filter(|member| member.volume == Volume::Fine)
        // What it says of its PostgreSQL may be a crash that it recovers from, and that it is not the primary is not known.
        .filter(|member| !(member.forgotten && view.ever_led))
        .filter(|member| member.role != Role::Primary || member.trouble.is_some() || lasts)
        .collect();
    broken.sort_by_key(|member| member.role == Role::Primary);
    let member = broken.first()?;
    let message = format!("Pod {} is down and is created anew as described today", member.pod);
    Some(replace(Row::Broken, member).note(Note::normal("PodReplaced", message)))
}

/// The rows that take somebody down, and the reload that does not.
fn work(view: &View) -> Verdict {
    let mut blocker: Option<(Row, Blocker)> = None;
    for member in in_order(view).into_iter().filter(|member| member.is_live() && member.is_given_up()) {
        let (row, reason, event, what) = if member.is_quarantined() {
            (Row::Quarantined, Reason::QuarantineBlocked, "QuarantineRemediation", "is quarantined")
        } else {
            (Row::Volume, Reason::VolumeLost, "VolumeLost", "has lost its volume")
        };
        match view.volume_guard(member) {
            None => {
                // A claim that somebody has deleted is there only as long as the pod.
                let old = if member.volume == Volume::Leaving { "goes with the pod" } else { "is kept" };
                let message = format!("{} {what}: it gets a fresh volume, the old claim {old}", member.pod);
                // Without a backup nothing is given up, so this may last.
                let proof = format!("{} {what}: a complete backup has to be found first", member.pod);
                return Verdict::of(row)
                    .act(Act::FreshVolume { pod: member.pod.clone() })
                    .blocked(reason, proof)
                    .note(Note::warning(event, message));
            }
            Some(why) => {
                let message = format!("{} {what}: {why}", member.pod);
                block(&mut blocker, row, Blocker::new(reason, message));
            }
        }
    }
    if let Some(verdict) = broken(view) {
        return verdict;
    }
    let live = || in_order(view).into_iter().filter(|member| member.is_live());
    // One that is on its way back costs nothing more. Nobody else goes before it.
    let mut sick: Vec<&Member> = live()
        .filter(|member| member.wanted && member.outdated.is_some() && member.role != Role::Primary)
        .filter(|member| member.volume == Volume::Fine && !view.is_healthy(member))
        .collect();
    // One that says it is no use goes before one that only does not answer; of those the latest, which may not be back from its own turn.
    sick.sort_by_key(|member| (member.vitals.is_none(), Reverse(member.created)));
    // Of several that are not well it is not known which ones still confirm commits. Most get well or prove to be down; after a
    // while the policy alone decides.
    let patient = !view.waited(Wait::Member, PROGRESS_DEADLINE);
    if sick.len() > 1 && patient {
        let message = format!("Not healthy: {}", names(sick.iter().map(|member| &member.pod)));
        return Verdict::of(Row::Waiting).blocked(Reason::WaitingForMember, message);
    }
    match choose(view, Row::OutdatedStandby, &sick) {
        Some(Ok(verdict)) => return verdict,
        Some(Err(found)) => return Verdict { blocker: Some(found), ..Verdict::of(Row::NoQuorum) },
        None => {}
    }
    let mut others_first = false;
    let recovers = view.recovers();
    if recovers {
        let message = forgotten(view).unwrap_or_default();
        block(&mut blocker, Row::Waiting, Blocker::new(Reason::RecordMissing, message));
    } else if view.spec_suffices() {
        let mut extra: Vec<&Member> = live().filter(|member| !member.wanted && member.role != Role::Primary).collect();
        extra.sort_by_key(|member| (view.is_healthy(member), Reverse(member.index)));
        others_first |= !extra.is_empty();
        match choose(view, Row::Extra, &extra) {
            Some(Ok(verdict)) => return verdict,
            Some(Err(found)) => block(&mut blocker, Row::NoQuorum, found),
            None => {}
        }
    } else if let Some(extra) = live().find(|member| !member.wanted) {
        let message = format!("Without {} the shard would not keep its durability policy", extra.pod);
        block(&mut blocker, Row::Extra, Blocker::new(Reason::ScaleDownBlocked, message));
    }
    let home = view.primary().map(|primary| primary.cell.as_str());
    match other_volume(view, home, recovers) {
        Some(Ok(verdict)) => return verdict,
        Some(Err(found)) => block(&mut blocker, Row::Volume, found),
        None => {}
    }
    let mut standbys: Vec<&Member> = live()
        .filter(|member| member.role != Role::Primary)
        .filter(|member| matches!(member.cause(), Some(Cause::RollingUpdate | Cause::FsResize)))
        .collect();
    let lag = |member: &Member| member.vitals.map_or(u64::MAX, |vitals| vitals.lag);
    standbys.sort_by_key(|member| (Some(member.cell.as_str()) == home, Reverse(lag(member))));
    let row = if standbys.first().is_some_and(|member| member.outdated.is_none()) {
        Row::Resize
    } else {
        Row::OutdatedStandby
    };
    others_first |= !standbys.is_empty();
    match choose(view, row, &standbys) {
        Some(Ok(verdict)) => return verdict,
        Some(Err(found)) => block(&mut blocker, Row::NoQuorum, found),
        None => {}
    }
    if !others_first {
        match primary(view) {
            Some(Ok(verdict)) => return verdict,
            Some(Err((row, found))) => block(&mut blocker, row, found),
            None => {}
        }
    }
    if let Some(verdict) = reload(view) {
        return verdict;
    }
    if let Some(message) = forgotten(view) {
        block(&mut blocker, Row::Waiting, Blocker::new(Reason::RecordMissing, message));
    }
    match blocker {
        Some((row, found)) => Verdict { blocker: Some(found), ..Verdict::of(row) },
        None => Verdict::of(Row::Waiting).blocked(Reason::WaitingForMember, "A member does not answer"),
    }
}

/// A member on a volume of another class, or on one that is lost or about to go, gives its place to one beside it, which comes first: it is
/// not wanted any more then, and leaves in order. One at a time; those that may lose their data first, and of either kind the primary last.
///
/// Nobody is taken down for it. A loss that was seen wrongly costs a volume more, and no data. Another class can wait while the shard
/// recovers from the loss of records.
fn other_volume(view: &View, home: Option<&str>, recovers: bool) -> Option<Result<Verdict, Blocker>> {
    let live = || in_order(view).into_iter().filter(|member| member.is_live());
    let lost = |member: &Member| member.volume != Volume::Fine;
    let mut moving: Vec<&Member> = live()
        .filter(|member| member.wanted && (lost(member) || (member.misplaced.is_some() && !recovers)))
        .filter(|member| !(lost(member) && member.is_given_up()))
        .collect();
    moving.sort_by_key(|member| (!lost(member), member.role == Role::Primary, Some(member.cell.as_str()) == home));
    let member = moving.first()?;
    if lost(member) {
        if !view.volumes_lost_for(ABORT_AFTER) {
            let message = format!("{} has lost its volume, or is about to", member.pod);
            return Some(Err(Blocker::new(Reason::VolumeLost, message)));
        }
    } else if let Some(found) = missing_class(&moving) {
        let message = format!("There is no StorageClass {:?}; the volumes stay as they are", found.class);
        return Some(Err(Blocker::new(Reason::StorageClassMissing, message)));
    }
    // The one that came would stay, and the one that gave its place could never leave.
    if !view.spec_suffices() {
        return Some(Err(Blocker::new(
            Reason::ScaleDownBlocked,
            format!(
                "{} stays on its volume: so few members cannot keep the durability policy while it leaves",
                member.pod
            ),
        )));
    }
    if live().any(|member| !member.wanted) {
        return Some(Err(Blocker::new(
            Reason::WaitingForMember,
            "A member has to leave before the next volume is replaced",
        )));
    }
    let sick = in_order(view).into_iter().find(|other| other.wanted && !view.is_healthy(other));
    if let Some(sick) = sick {
        return Some(Err(Blocker::new(Reason::WaitingForMember, format!("{} is not healthy yet", sick.pod))));
    }
    Some(Ok(replace_volume(member)))
}

/// The first class that members should move to and that does not exist.
fn missing_class<'a>(moving: &[&'a Member]) -> Option<&'a Misplaced> {
    moving.iter().filter_map(|member| member.misplaced.as_ref()).find(|found| !found.exists)
}

fn replace_volume(member: &Member) -> Verdict {
    let class = member.misplaced.as_ref().map(|found| format!(" of class {:?}", found.class)).unwrap_or_default();
    let message = format!("{} gives its place to a member on another volume{class}", member.pod);
    Verdict::of(Row::Volume)
        .act(Act::ReplaceVolume { pod: member.pod.clone() })
        .note(Note::normal("VolumeReplaced", message))
}

/// A member that is down on a volume of another class, such as one that nobody could ever provide, is not waited for.
fn stranded(view: &View) -> Option<Verdict> {
    view.serving_primary()?;
    let down = |member: &&Member| member.is_live() && member.wanted && member.role != Role::Primary && member.is_down();
    in_order(view).into_iter().filter(down).filter(|member| !member.is_given_up()).find_map(|member| {
        member.misplaced.as_ref().filter(|found| found.exists)?;
        Some(replace_volume(member))
    })
}

/// The first thing in the way is the one that is told.
fn block(blocker: &mut Option<(Row, Blocker)>, row: Row, found: Blocker) {
    blocker.get_or_insert((row, found));
}

/// The first of these that can be spared; the blocker if none can, and nothing if there is none.
fn choose(view: &View, row: Row, candidates: &[&Member]) -> Option<Result<Verdict, Blocker>> {
    let first = candidates.first()?;
    for member in candidates {
        let Some(cause) = member.cause() else { continue };
        let request = || Verdict::of(row).act(Act::Request { pod: member.pod.clone(), cause });
        match view.safety(member) {
            Safety::Safe => return Some(Ok(still_useless(view, member, request()))),
            Safety::NoRedundancy => return Some(Ok(request().note(no_redundancy(member)))),
            Safety::Unsafe(_) => {}
        }
    }
    let missed = match view.safety(first) {
        Safety::Unsafe(missed) => missed,
        Safety::Safe | Safety::NoRedundancy => Vec::new(),
    };
    Some(Err(Blocker::new(Reason::WaitingForQuorum, waiting_for(&missed))))
}

fn no_redundancy(member: &Member) -> Note {
    let message = format!("Without {} no commit can be confirmed: writes wait until it is back", member.pod);
    Note::warning("NoRedundancy", message)
}

/// The primary comes last, and only to hand over.
fn primary(view: &View) -> Option<Result<Verdict, (Row, Blocker)>> {
    let member = view.primary().filter(|member| member.is_live())?;
    let pod = &member.pod;
    let cause = match member.cause() {
        Some(Cause::ScaleDown) if !view.spec_suffices() => return None,
        Some(cause) => cause,
        None if member.must_move() => Cause::NodeDrain,
        None => return None,
    };
    let moves = cause == Cause::NodeDrain;
    if view.members.len() == 1 {
        if moves {
            return None;
        }
        if member.forgotten {
            let message = format!("{pod} is the only member and in no record; it registers when it is restarted");
            return Some(Err((Row::Alone, Blocker::new(Reason::RecordMissing, message))));
        }
        let message = format!("{pod} is the only member: the shard is down until it is back");
        return Some(Ok(replace(Row::Alone, member).note(Note::warning("DowntimeExpected", message))));
    }
    let row = if moves { Row::NodeDrain } else { Row::Switchover };
    let blocked = |reason, message: String| Some(Err((row, Blocker::new(reason, message))));
    if view.serving_primary().is_none() {
        return blocked(Reason::NoPrimary, format!("{pod} does not serve as primary now"));
    }
    if let Some(at) = member.failures.retry_at().filter(|at| *at > view.now) {
        let message = format!("Nobody took over from {pod}; the next try is at {}", at.strftime("%H:%M:%S"));
        return blocked(Reason::SwitchoverFailed, message);
    }
    if let Some(other) = view.unregistered(member).filter(|_| member.forgotten) {
        return blocked(Reason::RecordMissing, format!("{} has to register before {pod} hands over", other.pod));
    }
    // Where all nodes are about to be emptied, a while passes before one of them has to do, so that nobody is moved to and fro.
    let any_node = view.waited(Wait::Successor, ABORT_AFTER);
    if !view.has_successor(member, moves, any_node) {
        return blocked(Reason::NoStandby, format!("No healthy standby can take over from {pod}"));
    }
    let request = Verdict::of(row).act(Act::Request { pod: pod.clone(), cause });
    match view.safety(member) {
        _ if moves => Some(Ok(request)),
        Safety::Safe => Some(Ok(request)),
        Safety::NoRedundancy => Some(Ok(request.note(no_redundancy(member)))),
        Safety::Unsafe(missed) => blocked(Reason::WaitingForQuorum, waiting_for(&missed)),
    }
}

/// Standbys read their settings anew before the primary does.
fn reload(view: &View) -> Option<Verdict> {
    let stale: Vec<&Member> =
        in_order(view).into_iter().filter(|member| member.is_live() && member.reload_pending).collect();
    let answers = |member: &&&Member| member.vitals.is_some_and(|vitals| vitals.postgres_ready);
    let standbys: Vec<&&Member> = stale.iter().filter(|member| member.role != Role::Primary).collect();
    // A standby on which somebody overrides a setting by hand does not keep the primary from its own.
    let long = view.waited(Wait::Reload, ABORT_AFTER);
    let turn: Vec<&&Member> = if standbys.is_empty() || long { stale.iter().collect() } else { standbys };
    let pods: Vec<String> = turn.into_iter().filter(|m| answers(m)).map(|member| member.pod.clone()).collect();
    let message = format!("Settings are not in force yet: {}", names(&pods));
    let verdict = Verdict::of(Row::Reload).act(Act::Reload { pods: pods.clone() });
    (!pods.is_empty()).then(|| verdict.blocked(Reason::WaitingForReload, message))
}
