//! Every sentence of the [`Coordinator`] contract, tried on a coordinator.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until, timeout};

use super::drop_at_every_poll;
use super::rule::{Rule, try_rules};
use crate::error::{Certainty, Error, Kind, Result};
use crate::phase::{
    Audit, Coordinator, Gate, GateCheck, Member, MoveRecord, Override, Percent, Phase, PhaseRecord,
};
use crate::queue::Epoch;

/// Makes the coordinators that a suite tries.
#[async_trait]
pub trait CoordinatorFactory: Send {
    /// What is tried.
    type Coordinator: Coordinator;

    /// A coordinator of a new migration that begins in a phase, in a storage of its own.
    async fn create(&mut self, phase: Phase) -> Self::Coordinator;

    /// Opens the storage of the coordinator that was created last once more; the coordinator has been
    /// dropped. `None` if it keeps nothing.
    async fn reopen(&mut self) -> Option<Self::Coordinator>;
}

/// Tries every sentence of the contract of [`Coordinator`]. Runs with tokio's clock paused (quickly) or
/// not (a few seconds).
///
/// ```
/// use zdm_core::phase::{MemoryCoordinator, Phase};
/// use zdm_core::testkit::{coordinator_suite, CoordinatorFactory};
///
/// struct InMemory;
///
/// #[async_trait::async_trait]
/// impl CoordinatorFactory for InMemory {
///     type Coordinator = MemoryCoordinator;
///
///     async fn create(&mut self, phase: Phase) -> MemoryCoordinator {
///         MemoryCoordinator::starting_in(phase)
///     }
///
///     async fn reopen(&mut self) -> Option<MemoryCoordinator> {
///         None
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(
/// coordinator_suite(InMemory)
/// # );
/// ```
///
/// # Panics
/// With the name of the rule that is broken.
pub async fn coordinator_suite<F: CoordinatorFactory>(mut factory: F) {
    let factory = &mut factory;
    try_rules!(factory;
        a_move_is_recorded_with_the_next_epoch,
        every_phase_can_be_recorded,
        a_stale_epoch_is_refused,
        an_illegal_move_is_refused,
        of_two_moves_from_one_epoch_one_wins,
        history_keeps_every_move_as_it_was_made,
        whoever_waits_learns_of_a_move,
        a_dropped_move_is_recorded_whole_or_not_at_all,
        a_handover_is_announced_and_completed,
        an_announcement_that_is_withdrawn_cannot_be_completed,
        only_a_handover_is_announced_and_only_one,
        a_member_is_known_until_its_lease_runs_out,
        a_member_that_leaves_is_gone,
        phase_and_history_survive_being_opened_again,
    );
}

/// Nothing that comes takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Short enough for a clock that runs, long enough to be seen.
const LEASE: Duration = Duration::from_millis(400);
const LONG_LEASE: Duration = Duration::from_secs(3_600);

fn audit(reason: &str) -> Audit {
    let gate = Gate::BackfillComplete;
    let (value, needed) = ("3 rows left".to_owned(), "no row left".to_owned());
    Audit {
        by: "ada \"the first\" Ω".to_owned(),
        reason: reason.to_owned(),
        checks: vec![GateCheck { gate, passed: false, value, needed }],
        overrides: vec![Override { gate, by: "grace".to_owned(), reason: "a test\nof two lines".to_owned() }],
    }
}

async fn current<C: Coordinator>(rule: Rule, phases: &C) -> PhaseRecord {
    rule.ok("current", phases.current().await)
}

async fn history<C: Coordinator>(rule: Rule, phases: &C) -> Vec<MoveRecord> {
    rule.ok("history", phases.history().await)
}

async fn go<C: Coordinator>(rule: Rule, phases: &C, to: Phase) -> PhaseRecord {
    let now = current(rule, phases).await;
    rule.ok("a legal move", phases.advance(now.epoch, to, audit("go")).await)
}

async fn a_move_is_recorded_with_the_next_epoch<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::Shadow).await;
    let before = current(rule, &phases).await;
    rule.same("the phase at the start", before.phase, Phase::Shadow);
    rule.same("the number of moves at the start", history(rule, &phases).await.len(), 0);
    let made = go(rule, &phases, Phase::Live).await;
    rule.same("the phase after the move", made.phase, Phase::Live);
    rule.same("the epoch after the move", made.epoch, before.epoch.next());
    rule.holds(made.since >= before.since, "a move is dated before the phase that it ended");
    rule.same("what current tells after the move", current(rule, &phases).await, made);
}

async fn every_phase_can_be_recorded<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::Off).await;
    let share = |percent| Phase::Ramp(rule.ok("a percentage", Percent::new(percent)));
    let way = [
        Phase::DualWrite,
        Phase::Off,
        Phase::DualWrite,
        Phase::Shadow,
        share(0.01),
        share(12.5),
        share(100.0),
        Phase::Live,
        Phase::RampDown,
        Phase::Live,
        Phase::Shadow,
        Phase::Live,
        Phase::RampDown,
        Phase::Complete,
    ];
    for to in way {
        go(rule, &phases, to).await;
        rule.same("the recorded phase", current(rule, &phases).await.phase, to);
    }
}

async fn unchanged<C: Coordinator>(rule: Rule, phases: &C, before: &PhaseRecord) {
    rule.same("the record after a refused move", current(rule, phases).await, before.clone());
    rule.same("the number of moves after a refused one", history(rule, phases).await.len(), 1);
}

async fn a_stale_epoch_is_refused<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::DualWrite).await;
    let made = go(rule, &phases, Phase::Shadow).await;
    for epoch in [Epoch(made.epoch.0 - 1), made.epoch.next(), Epoch(0)] {
        let moved = phases.advance(epoch, Phase::Live, audit("stale")).await;
        let error = rule.fails("a move from another epoch", Kind::Refused, moved);
        rule.same("the certainty of the refusal", error.certainty(), Certainty::NotApplied);
        unchanged(rule, &phases, &made).await;
    }
}

async fn an_illegal_move_is_refused<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::Off).await;
    let made = go(rule, &phases, Phase::DualWrite).await;
    for to in [Phase::DualWrite, Phase::Live, Phase::RampDown, Phase::Complete] {
        let moved = phases.advance(made.epoch, to, audit("illegal")).await;
        let error = rule.fails("a move that is not in the table", Kind::Refused, moved);
        rule.same("the certainty of the refusal", error.certainty(), Certainty::NotApplied);
        unchanged(rule, &phases, &made).await;
    }
}

async fn of_two_moves_from_one_epoch_one_wins<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::Shadow).await;
    let before = current(rule, &phases).await;
    let (live, back) = tokio::join!(
        phases.advance(before.epoch, Phase::Live, audit("one")),
        phases.advance(before.epoch, Phase::DualWrite, audit("other")),
    );
    let winner = match (live, back) {
        (Ok(made), Err(error)) | (Err(error), Ok(made)) => {
            rule.same("the kind of the loser's error", error.kind(), Kind::Refused);
            made
        }
        both => panic!("the rule {} is broken: two moves from one epoch end as {both:?}", rule.0),
    };
    rule.same("the record", current(rule, &phases).await, winner);
    rule.same("the number of moves", history(rule, &phases).await.len(), 1);
}

async fn history_keeps_every_move_as_it_was_made<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::Off).await;
    let mut wanted = Vec::new();
    for to in [Phase::DualWrite, Phase::Shadow, Phase::Live, Phase::Shadow] {
        let before = current(rule, &phases).await;
        let words = audit(&format!("to {to}"));
        let made = rule.ok("a legal move", phases.advance(before.epoch, to, words.clone()).await);
        let (from, epoch, at) = (before.phase, made.epoch, made.since);
        wanted.push(MoveRecord { from, to, epoch, at, audit: words });
    }
    rule.same("the history", history(rule, &phases).await, wanted);
}

async fn whoever_waits_learns_of_a_move<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::DualWrite).await;
    let now = current(rule, &phases).await;
    let early = timeout(Duration::from_millis(20), phases.changed(now.epoch)).await;
    rule.holds(early.is_err(), "changed returns although nothing has");
    let at_once = timeout(PATIENCE, phases.changed(Epoch(now.epoch.0 - 1))).await;
    let at_once = rule.some("changed does not tell a record that is newer already", at_once.ok());
    rule.same("what changed tells at once", rule.ok("changed", at_once), now.clone());

    // Two wait, and one that is dropped while it waits disturbs neither.
    let (first, second, made) = tokio::join!(
        timeout(PATIENCE, phases.changed(now.epoch)),
        timeout(PATIENCE, phases.changed(now.epoch)),
        async {
            drop(timeout(Duration::from_millis(1), phases.changed(now.epoch)).await);
            phases.advance(now.epoch, Phase::Shadow, audit("go")).await
        },
    );
    let made = rule.ok("a legal move", made);
    for seen in [first, second] {
        let seen = rule.some("changed does not return after a move", seen.ok());
        rule.same("what changed tells", rule.ok("changed", seen), made.clone());
    }
}

async fn a_dropped_move_is_recorded_whole_or_not_at_all<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::Off).await;
    let mut now = current(rule, &phases).await;
    for polls in 0..10_000 {
        let to = if now.phase == Phase::Off { Phase::DualWrite } else { Phase::Off };
        let moving = phases.advance(now.epoch, to, audit("dropped"));
        let ended = super::drop_after_polls(polls, moving).await;
        let then = current(rule, &phases).await;
        if then.epoch == now.epoch {
            rule.holds(ended.is_none(), "a move that returned is not recorded");
            rule.same("the record without the move", then.clone(), now.clone());
        } else {
            rule.same("the epoch after one move", then.epoch, now.epoch.next());
            rule.same("the phase after one move", then.phase, to);
        }
        let moves = history(rule, &phases).await;
        let last = moves.last().map_or((Phase::Off, now.epoch), |made| (made.to, made.epoch));
        rule.same("the last move of the history", last, (then.phase, then.epoch));
        // Nothing half-done keeps the next move out.
        now = go(rule, &phases, if then.phase == Phase::Off { Phase::DualWrite } else { Phase::Off }).await;
        if let Some(made) = ended {
            rule.ok("a legal move", made);
            break;
        }
    }
    let waiting = |_| timeout(Duration::from_millis(1), phases.changed(now.epoch));
    drop_at_every_poll(waiting, async |_, _| {}).await;
    go(rule, &phases, if now.phase == Phase::Off { Phase::DualWrite } else { Phase::Off }).await;
}

fn member(name: &str, epoch: u64) -> Member {
    Member { name: name.to_owned(), acked: Epoch(epoch + 1), drained: Epoch(epoch) }
}

async fn members<C: Coordinator>(rule: Rule, phases: &C) -> Vec<Member> {
    let mut members = rule.ok("members", phases.members().await);
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members
}

async fn a_member_is_known_until_its_lease_runs_out<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::Shadow).await;
    rule.same("the members at the start", members(rule, &phases).await, Vec::new());
    rule.ok("report", phases.report(member("a", 1), LONG_LEASE).await);
    rule.ok("report", phases.report(member("b", 1), LONG_LEASE).await);
    rule.ok("report", phases.report(member("a", 2), LONG_LEASE).await);
    let wanted = vec![member("a", 2), member("b", 1)];
    rule.same("the members after a repeated report", members(rule, &phases).await, wanted);

    let until = Instant::now() + LEASE;
    rule.ok("report", phases.report(member("b", 2), LEASE).await);
    let found = members(rule, &phases).await;
    if Instant::now() < until {
        rule.same("the members before the lease ends", found, vec![member("a", 2), member("b", 2)]);
    }
    sleep_until(Instant::now() + 2 * LEASE).await;
    rule.same("the members after the lease", members(rule, &phases).await, vec![member("a", 2)]);
}

async fn a_handover_is_announced_and_completed<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::Shadow).await;
    let before = current(rule, &phases).await;
    let waiting = timeout(PATIENCE, phases.changed(before.epoch));
    let (announced, seen) = tokio::join!(phases.announce(before.epoch, Phase::Live), waiting);
    let announced = rule.ok("announce", announced);
    let expected = PhaseRecord { epoch: before.epoch.next(), handover: Some(Phase::Live), ..before };
    rule.same("the record after an announcement", announced.clone(), expected);
    rule.same("what whoever waits learns", rule.ok("changed", seen.unwrap_or_else(late)), announced.clone());
    rule.same("what current tells after an announcement", current(rule, &phases).await, announced.clone());
    rule.same("the number of moves after an announcement", history(rule, &phases).await.len(), 0);
    let refused = phases.advance(before.epoch, Phase::Live, audit("stale")).await;
    rule.holds(refused.is_err(), "an announcement is completed from the epoch before it");
    let refused = phases.advance(announced.epoch, Phase::DualWrite, audit("another")).await;
    rule.holds(refused.is_err(), "another move is made while a handover is announced");
    let made = rule.ok("advance", phases.advance(announced.epoch, Phase::Live, audit("go")).await);
    rule.same("the record after the handover", (made.phase, made.handover), (Phase::Live, None));
    rule.same("the number of moves after the handover", history(rule, &phases).await.len(), 1);
}

async fn an_announcement_that_is_withdrawn_cannot_be_completed<F: CoordinatorFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let phases = factory.create(Phase::Shadow).await;
    let before = current(rule, &phases).await;
    rule.holds(phases.withdraw(before.epoch).await.is_err(), "what was not announced is withdrawn");
    let announced = rule.ok("announce", phases.announce(before.epoch, Phase::Live).await);
    let withdrawn = rule.ok("withdraw", phases.withdraw(announced.epoch).await);
    let expected = PhaseRecord { epoch: announced.epoch.next(), ..before };
    rule.same("the record after a withdrawal", withdrawn.clone(), expected);
    let refused = phases.advance(announced.epoch, Phase::Live, audit("late")).await;
    rule.holds(refused.is_err(), "an announcement is completed after its withdrawal");
    rule.same("the record after that", current(rule, &phases).await, withdrawn);
}

fn late<T>(_: tokio::time::error::Elapsed) -> Result<T> {
    Err(Error::new(Kind::Timeout, "nobody was woken"))
}

async fn only_a_handover_is_announced_and_only_one<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::Shadow).await;
    let before = current(rule, &phases).await;
    for to in [Phase::DualWrite, Phase::Complete, Phase::Shadow] {
        let refused = phases.announce(before.epoch, to).await;
        rule.holds(refused.is_err(), "a move that is no handover is announced");
    }
    let announced = rule.ok("announce", phases.announce(before.epoch, Phase::Live).await);
    rule.holds(phases.announce(announced.epoch, Phase::Live).await.is_err(), "two handovers are announced");
    rule.holds(phases.announce(before.epoch, Phase::Live).await.is_err(), "a stale announcement is taken");
    rule.same("the record after refused announcements", current(rule, &phases).await, announced);
}

async fn a_member_that_leaves_is_gone<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::Shadow).await;
    rule.ok("report", phases.report(member("a", 1), LONG_LEASE).await);
    rule.ok("report", phases.report(member("b", 1), LONG_LEASE).await);
    rule.ok("leave", phases.leave("a").await);
    rule.same("the members after one has left", members(rule, &phases).await, vec![member("b", 1)]);
    rule.ok("report", phases.report(member("a", 5), LONG_LEASE).await);
    let wanted = vec![member("a", 5), member("b", 1)];
    rule.same("the members after it has come back", members(rule, &phases).await, wanted);
}

async fn phase_and_history_survive_being_opened_again<F: CoordinatorFactory>(rule: Rule, factory: &mut F) {
    let phases = factory.create(Phase::Off).await;
    go(rule, &phases, Phase::DualWrite).await;
    let made = go(rule, &phases, Phase::Shadow).await;
    let moves = history(rule, &phases).await;
    drop(phases);
    let Some(phases) = factory.reopen().await else { return };
    rule.same("the record", current(rule, &phases).await, made.clone());
    rule.same("the history", history(rule, &phases).await, moves);
    let next = go(rule, &phases, Phase::Live).await;
    rule.same("the epoch after the next move", next.epoch, made.epoch.next());
}
