//! The engine in a world of chance, one world for each seed: writes of every kind that are given up on, stores that
//! refuse, lose and land late, processes that die, phases that move. When all is quiet, the secondary must equal the
//! primary, and the primary must hold what the calls did.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `ZDM_SEED=17` | run this seed alone and print what happens |
//! | `ZDM_SEEDS=100000` | run so many seeds of each way |
//!
//! Time is tokio's paused clock and all chance comes from the seed, so a failing seed fails again.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that fails panics and says why")]

mod application;
mod coordinator;
mod ground;
mod operator;
mod plan;
mod queue;
mod server;
mod world;

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use plan::{Plan, Way};
use world::World;

/// Seeds of each way unless `ZDM_SEEDS` says otherwise.
const SEEDS: u64 = 2_500;

#[test]
fn drained_means_equal_with_a_fence() {
    run(Way::Fenced);
}

#[test]
fn drained_means_equal_with_exclusive_claims() {
    run(Way::Exclusive);
}

#[test]
fn drained_means_equal_over_plain_stores() {
    run(Way::Plain);
}

#[test]
fn drained_means_equal_with_a_queue_for_each_instance() {
    run(Way::Reread);
}

fn run(way: Way) {
    be_silent_about_planned_panics();
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("ZDM_SEED") {
        return one(way, seed, true);
    }
    let at = Arc::new(AtomicU64::new(0));
    watch_real_time(way, Arc::clone(&at));
    for seed in 0..number("ZDM_SEEDS").unwrap_or(SEEDS) {
        at.store(seed, Ordering::Relaxed);
        one(way, seed, false);
    }
    at.store(u64::MAX, Ordering::Relaxed);
}

fn one(way: Way, seed: u64, tracing: bool) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let found = runtime.block_on(async {
        let world = World::new(Plan::of(way, seed), tracing);
        live(&world).await;
        world.ground.found()
    });
    assert!(
        found.is_empty(),
        "{way:?}, seed {seed} (ZDM_SEED={seed} shows what happened):\n{}",
        found.join("\n")
    );
}

async fn live(world: &Arc<World>) {
    for instance in 0..world.plan.instances() {
        world.start(instance).await;
    }
    let users_are_done = Arc::new(AtomicBool::new(false));
    let operator = tokio::spawn(operator::operate(Arc::clone(world), Arc::clone(&users_are_done)));
    let users: Vec<_> = (0..world.plan.writers)
        .map(|number| tokio::spawn(application::user(Arc::clone(world), number)))
        .collect();
    for user in users {
        user.await.unwrap();
    }
    users_are_done.store(true, Ordering::Relaxed);
    operator.await.unwrap();
    world.settle().await;
    world.check();
}

fn be_silent_about_planned_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.payload().is::<application::Planned>() {
                usual(panic);
            }
        }));
    });
}

/// A world that spins never comes to the end of its paused time; real time tells.
fn watch_real_time(way: Way, at: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut last = u64::MAX;
        loop {
            std::thread::sleep(Duration::from_secs(5));
            match at.load(Ordering::Relaxed) {
                u64::MAX => return,
                seed if seed == last => {
                    // Not `eprintln`: what a test prints is kept back until it ends, and this one does not.
                    drop(writeln!(std::io::stderr(), "{way:?}, seed {seed} does not end: something spins"));
                    std::process::exit(1);
                }
                seed => last = seed,
            }
        }
    });
}
