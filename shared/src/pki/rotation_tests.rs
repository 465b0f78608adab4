//! A search through all that can happen to the plan in a model of its world.
//!
//! Each event may happen at any time; only time itself waits: for configurations to reach all API servers, for the writes of the
//! holder, and for a replica to look at least every other tick. The search covers all of time, because states that differ only in
//! when they happen are one.

use std::collections::{HashSet, VecDeque};

use super::*;

#[path = "rotation_canonical.rs"]
mod canonical;
#[path = "rotation_events.rs"]
mod events;
#[path = "rotation_model.rs"]
mod model;

use events::Event;
use model::{Mode, TICK, World, issued, quick};

/// Searches every state that can be reached, and returns how many there are.
fn search(start: World, modes: bool, most: usize) -> usize {
    let mut seen: HashSet<u64> = [start.canonical()].into();
    let mut queue = VecDeque::from([(start, 0_usize)]);
    let mut trace: Vec<(usize, Event)> = vec![(0, Event::Tick)];
    let mut number = 0;
    while let Some((world, at)) = queue.pop_front() {
        number += 1;
        if number % 97 == 0 {
            let mut later = world.clone();
            later.run_fairly(12, TICK);
            let ready = later.processes.iter().all(|process| process.ready);
            assert!(ready && !later.tampered.contains(&true), "it gets stuck: {world:#?}\n{later:#?}");
        }
        for event in world.events(modes) {
            let mut next = world.clone();
            next.apply(event);
            if !seen.insert(next.canonical()) {
                continue;
            }
            trace.push((at, event));
            let index = trace.len() - 1;
            if let Some(fault) = next.fault() {
                let mut path = vec![];
                let mut step = index;
                while step != 0 {
                    path.push(trace[step].1);
                    step = trace[step].0;
                }
                path.reverse();
                panic!("{fault} after {path:#?}\nbefore: {world:#?}\nafter: {next:#?}");
            }
            assert!(seen.len() < most, "the search does not end: {next:#?}");
            queue.push_back((next, index));
        }
    }
    seen.len()
}

/// A world in which everything is in order.
fn settled(policy: Policy, modes: [Mode; 2], harm: u8) -> World {
    let mut world = World::new(policy, modes, harm);
    if modes.contains(&Mode::Files) {
        world.issuer = Some(issued(0, 0));
    }
    world.run_fairly(3, TICK);
    assert_eq!(world.fault(), None);
    assert!(world.processes.iter().all(|process| process.ready), "{world:#?}");
    world
}

#[test]
fn no_interleaving_of_an_installation_serves_what_is_not_accepted() {
    let states = search(World::new(quick(7), [Mode::Own; 2], 0), false, 1_000_000);
    assert!(states > 10_000, "{states}");
}

#[test]
#[ignore = "takes minutes: `make soak` runs it (hack/stories.sh soak)"]
fn no_interleaving_with_harm_at_any_time_serves_what_is_not_accepted() {
    let states = search(settled(quick(10), [Mode::Own; 2], 1), false, 20_000_000);
    eprintln!("{states} states");
    assert!(states > 100_000, "{states}");
}

#[test]
#[ignore = "takes minutes: `make soak` runs it (hack/stories.sh soak)"]
fn no_interleaving_of_other_issuers_serves_what_is_not_accepted() {
    for modes in [[Mode::Own; 2], [Mode::Files; 2]] {
        let states = search(settled(quick(10), modes, 1), true, 20_000_000);
        eprintln!("{states} states");
        assert!(states > 10_000, "{states}");
    }
}

/// Wanders through the model for longer than an authority lives, with the times that are the default.
#[test]
fn twelve_years_of_chance_serve_nothing_that_is_not_accepted() {
    const DAY: i64 = 24 * 3600;
    for seed in 0..3_u64 {
        let mut world = settled(Policy::default(), [Mode::Own; 2], 0);
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = |sides: usize| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            usize::try_from(dice >> 33).unwrap() % sides
        };
        let (first, mut leaves) = (world.authority.unwrap().number, 0);
        let end = world.now + 12 * 365 * DAY;
        while world.now < end {
            let before = world.numbers.1;
            for _ in 0..40 {
                world.harm = u8::from(roll(20) == 0);
                let events = world.events(false);
                let event = events[roll(events.len())];
                if event == Event::Tick {
                    continue;
                }
                world.apply(event);
                assert_eq!(world.fault(), None, "seed {seed}, after {event:?}: {world:#?}");
            }
            // Ends of grace and overlap are met one by one, quiet times at once.
            world.run_fairly(3, 11);
            assert_eq!(world.fault(), None, "seed {seed}: {world:#?}");
            world.tick([1, DAY, 5 * DAY][roll(3)]);
            leaves += u32::from(world.numbers.1 != before);
        }
        assert!(leaves >= 12 && world.authority.unwrap().number > first, "{leaves} leaves: {world:#?}");
    }
}
