//! What befalls the service: outages, crashes, restarts, moves of the phase.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use zdm_core::phase::{Gate, Percent, Phase};
use zdm_dualwrite::MoveRequest;

use crate::world::World;

pub(crate) async fn operate(world: Arc<World>, users_are_done: Arc<AtomicBool>) {
    let plan = &world.plan;
    let dice = &world.ground.dice;
    for server in &world.servers {
        server.change_trouble(|trouble| trouble.rate = plan.faults);
    }
    while !users_are_done.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(2 + dice.below(40))).await;
        let instance = dice.below(plan.instances() as u64) as usize;
        match dice.below(10) {
            0 | 1 if plan.crashes => crash(&world, instance).await,
            2 if plan.crashes => {
                world.shut_down(instance).await;
                world.start(instance).await;
            }
            3 | 4 if plan.outages => change_trouble(&world, instance),
            5..=9 if plan.moves => advance(&world).await,
            _ => {}
        }
        let poisoned = world.process(instance).await.db.poisoned().is_some();
        if poisoned {
            crash(&world, instance).await;
        }
    }
}

async fn crash(world: &World, instance: usize) {
    world.crash(instance);
    tokio::time::sleep(Duration::from_millis(world.ground.dice.below(30))).await;
    world.start(instance).await;
}

fn change_trouble(world: &World, instance: usize) {
    let dice = &world.ground.dice;
    let server = &world.servers[dice.below(2) as usize];
    match dice.below(6) {
        0 | 1 => server.change_trouble(|trouble| trouble.down = !trouble.down),
        2 | 3 => {
            server.change_trouble(|trouble| {
                trouble.rejects = if trouble.rejects.is_some() { None } else { Some(dice.below(4)) };
            });
        }
        4 => {
            let mut disk = world.disks[instance].lock().unwrap();
            disk.failing = !disk.failing;
        }
        _ => {
            let percent = dice.pick(&[0, 0, 30]);
            world.recorder.trouble.store(percent, Ordering::Relaxed);
        }
    }
}

/// Moves somewhere from here. What no process of this world can know is overridden; what the invariant needs is not.
async fn advance(world: &Arc<World>) {
    let dice = &world.ground.dice;
    let process = world.process(0).await;
    let ramp = Phase::Ramp(Percent::new(dice.pick(&[0.0, 30.0, 100.0])).unwrap());
    let to = match process.db.phase().phase {
        Phase::DualWrite => Phase::Shadow,
        Phase::Shadow => dice.pick(&[ramp, Phase::Live, Phase::Live, Phase::DualWrite]),
        Phase::Ramp(_) => dice.pick(&[ramp, Phase::Shadow, Phase::Live, Phase::Live]),
        Phase::Live => dice.pick(&[Phase::Shadow, Phase::Shadow, Phase::RampDown]),
        Phase::RampDown => dice.pick(&[Phase::Live, Phase::Shadow]),
        Phase::Off | Phase::Complete => return,
    };
    let mut request = MoveRequest::to(to);
    let gates = [
        Gate::BackfillComplete,
        Gate::Verified,
        Gate::SurvivesACrash,
        Gate::ShadowClean,
        Gate::SecondaryAnswers,
    ];
    for gate in gates {
        request = request.overriding(gate, "the test knows");
    }
    if dice.chance(0.3) {
        // The handover itself refuses what these would have refused before.
        for gate in [Gate::NoTaint, Gate::NothingParked, Gate::QueueKeepsUp] {
            request = request.overriding(gate, "in a hurry");
        }
    }
    let patience = Duration::from_millis(if dice.chance(0.2) { dice.below(60) } else { 5_000 });
    tokio::select! {
        biased;
        () = process.life.over() => {}
        moved = tokio::time::timeout(patience, process.db.advance_with(request)) => {
            world.ground.trace(|| format!("move to {to}: {moved:?}"));
        }
    }
}
