//! Simulated shards: the planner against an API server whose watch lags and a data plane that elects, fails and refuses.
//!
//! Each seed is one life of a shard: it rolls, grows, shrinks, loses pods and nodes while invariants are checked at every instant.
//! When the troubles end it must reach what was wanted. One seed can be replayed with `MULTIGRES_SIMULATION_SEED`.

mod controller;
mod plane;
mod world;

use self::world::{Calm, World};
use super::super::Volume;

/// Seeds of the everyday run.
const SEEDS: u64 = 200;
/// Seeds of the soak.
const MANY: u64 = 2000;

/// Lives through what a seed decides; if it breaks, the command that repeats it alone is told, by the test that has such worlds.
fn told(seed: u64, test: &str, part: impl FnOnce()) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(part));
    if let Err(cause) = outcome {
        eprintln!(
            "seed {seed} breaks; replay it with:\n  MULTIGRES_SIMULATION_SEED={seed} cargo test -p controller --lib \
             {test} -- --nocapture"
        );
        std::panic::resume_unwind(cause);
    }
}

/// Lives one whole life.
fn live(world: World, seed: u64, test: &str) {
    told(seed, test, || world.live());
}

/// Shards of so many seeds that nothing befalls but what the test does to them.
fn undisturbed(seeds: u64, test: &str, part: impl Fn(World, u64)) {
    match asked() {
        Some(seed) => part(World::new(seed, Calm::Yes).aloud(), seed),
        None => (0..seeds).for_each(|seed| told(seed, test, || part(World::new(seed, Calm::Yes), seed))),
    }
}

/// The one seed that is to be lived aloud, if somebody asks for one.
fn asked() -> Option<u64> {
    std::env::var("MULTIGRES_SIMULATION_SEED").ok()?.parse().ok()
}

#[test]
fn a_shard_survives_two_hundred_lives() {
    match asked() {
        Some(seed) => World::new(seed, Calm::No).aloud().live(),
        None => (0..SEEDS).for_each(|seed| live(World::new(seed, Calm::No), seed, "a_shard_survives")),
    }
}

#[test]
fn sixty_shards_survive_harsher_worlds() {
    match asked() {
        Some(seed) => World::new(seed, Calm::No).harsh().aloud().live(),
        None => (0..60).for_each(|seed| live(World::new(seed, Calm::No).harsh(), seed, "survive_harsher_worlds")),
    }
}

#[test]
#[ignore = "takes long; `make soak` runs it"]
fn a_shard_survives_two_thousand_lives() {
    for seed in SEEDS..SEEDS + MANY {
        live(World::new(seed, Calm::No), seed, "a_shard_survives");
        live(World::new(seed, Calm::No).harsh(), seed, "survive_harsher_worlds");
    }
}

#[test]
fn an_undisturbed_roll_costs_one_switchover() {
    undisturbed(50, "an_undisturbed_roll_costs_one_switchover", |mut world, seed| {
        world.settle();
        world.roll();
        world.settle();
        assert!(world.switchovers() <= 1, "seed {seed}: {} switchovers", world.switchovers());
        assert_eq!(world.drained(), world.size(), "seed {seed}: every member is drained once");
    });
}

#[test]
fn connections_grow_by_a_roll_and_never_fall_below_what_the_primary_has() {
    undisturbed(20, "connections_grow_by_a_roll_and_never_fall_below_what_the_primary_has", |mut world, seed| {
        world.settle();
        world.spec.limit = 300;
        world.run_for(1);
        world.settle();
        assert_eq!((world.rendered, world.drained()), (300, world.size()), "seed {seed}: an increase rolls");
        world.spec.limit = 100;
        world.run_for(600);
        world.settle();
        assert_eq!(
            (world.rendered, world.drained()),
            (300, world.size()),
            "seed {seed}: a decrease has nowhere to begin"
        );
        world.roll();
        world.settle();
        assert_eq!(world.refused, 0, "seed {seed}: a standby refuses to serve with less than its primary");
    });
}

#[test]
fn a_shard_that_never_came_up_is_cured_by_the_next_description() {
    undisturbed(20, "a_shard_that_never_came_up_is_cured_by_the_next_description", |mut world, seed| {
        world.spec.mute = true;
        world.run_for(1800);
        assert_eq!((world.drained(), world.blocked_by()), (0, None), "seed {seed}: nothing else could be tried");
        world.roll();
        world.settle();
    });
}

#[test]
fn a_description_with_which_nobody_registers_stops_at_the_first_member() {
    undisturbed(20, "a_description_with_which_nobody_registers_stops_at_the_first_member", |mut world, seed| {
        world.settle();
        world.roll();
        world.spec.mute = true;
        world.run_for(1800);
        assert_eq!(world.drained(), 1, "seed {seed}");
        assert_eq!(world.blocked_by(), Some(super::super::Reason::RolloutStalled), "seed {seed}");
        world.roll();
        world.settle();
    });
}

#[test]
fn a_topology_that_lost_its_records_gets_them_back_and_no_primary_is_deleted_for_it() {
    undisturbed(20, "a_topology_that_lost_its_records", |mut world, seed| {
        world.settle();
        world.plane.records.clear();
        world.settle();
        assert!(world.switchovers() <= 1, "seed {seed}: {} switchovers", world.switchovers());
        assert_eq!(world.drained(), world.size() - 1, "seed {seed}: standbys go, the primary hands over and stays");
    });
}

#[test]
fn settings_that_are_reloaded_take_nobody_down() {
    undisturbed(20, "settings_that_are_reloaded_take_nobody_down", |mut world, seed| {
        world.settle();
        world.spec.settings += 1;
        world.settle();
        assert_eq!((world.drained(), world.switchovers()), (0, 0), "seed {seed}");
    });
}

#[test]
fn members_whose_volumes_would_go_with_them_move_one_after_the_other() {
    undisturbed(20, "members_whose_volumes_would_go_with_them_move_one_after_the_other", |mut world, seed| {
        world.settle();
        let names: Vec<String> = world.wanted().into_keys().collect();
        for name in &names {
            world.befalls(name, Volume::Leaving);
        }
        world.settle();
        assert!(world.switchovers() <= 1, "seed {seed}: {} switchovers", world.switchovers());
        assert_eq!(world.drained(), names.len(), "seed {seed}: each leaves once, after another one came");
    });
}

#[test]
fn a_member_that_has_lost_its_volume_comes_back_on_a_fresh_one() {
    undisturbed(40, "a_member_that_has_lost_its_volume_comes_back_on_a_fresh_one", |mut world, seed| {
        world.settle();
        let names: Vec<String> = world.wanted().into_keys().collect();
        let victim = &names[usize::try_from(seed).unwrap() % names.len()];
        if !world.plane.suffices(names.iter().filter(|name| *name != victim)) {
            return;
        }
        world.befalls(victim, Volume::Lost);
        world.settle();
        assert!(!world.wanted().contains_key(victim), "seed {seed}: its number is not used again");
    });
}

#[test]
fn a_description_that_does_not_work_stops_at_the_first_member() {
    undisturbed(20, "a_description_that_does_not_work_stops_at_the_first_member", |mut world, seed| {
        world.settle();
        world.roll_to_something_broken();
        world.run_for(1800);
        assert_eq!(world.drained(), 1, "seed {seed}");
        assert_eq!(world.blocked_by(), Some(super::super::Reason::RolloutStalled), "seed {seed}");
        world.roll();
        world.settle();
    });
}
