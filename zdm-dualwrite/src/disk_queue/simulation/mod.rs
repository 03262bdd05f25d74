//! The queue on a simulated disk that loses power, fills up and fails, one story for each seed.
//!
//! ```text
//! ZDM_SIMULATION_SEEDS=200000 cargo test -p zdm-dualwrite disk_queue::simulation    more seeds
//! ZDM_SIMULATION_SEED=4711    cargo test -p zdm-dualwrite disk_queue::simulation    this one alone
//! ```

mod disk;
mod exhaustive;
mod faults;
mod media;
mod model;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use self::world::World;

const SEEDS: u64 = 20_000;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Runs a story for each seed and names the seed that fails.
fn for_each_seed(story: impl Fn(u64)) {
    let seeds = match from_env("ZDM_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("ZDM_SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| story(seed))) {
            eprintln!("seed {seed} fails: run it alone with ZDM_SIMULATION_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    for_each_seed(|seed| World::new(seed).live());
}

#[test]
fn damage_to_what_is_synced_is_an_error_and_never_a_loss() {
    for_each_seed(|seed| World::new(seed ^ 0xD15C).live_and_rot());
}
