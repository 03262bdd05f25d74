//! The loop that claims and reconciles.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::select;
use zdm_core::error::{Advice, Error, Kind};
use zdm_core::queue::{Claim, Direction, EntryId, WriteQueue};
use zdm_core::report::Event;
use zdm_core::store::Store;

use super::apply::Failures;
use super::circuit::{Permit, Turn};
use super::decide::{Verdict, verdict, work_of};
use super::retry::Backoff;
use crate::adapter::Shared;
use crate::reconcile::Safety;

/// What one round found out about the secondary, for the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contact {
    /// Nobody asked it.
    None,
    Answered,
    Unavailable,
}

/// Claimed entries. What is not settled when this is dropped goes back to the queue, and its keys rest
/// for as long as an abandoned secondary write may still land.
pub(super) struct Held<'a> {
    queue: &'a dyn WriteQueue,
    ids: Vec<EntryId>,
    rest: Duration,
}

impl Held<'_> {
    /// Takes entries out of the guard's care.
    pub(super) fn settle(&mut self, settled: &[EntryId]) {
        self.ids.retain(|id| !settled.contains(id));
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            self.queue.retry_later(&self.ids, self.rest, None);
        }
    }
}

pub(crate) fn spawn_workers<S: Store + Clone>(shared: &Arc<Shared<S>>) {
    for worker in 0..shared.settings.reconcile_workers {
        let shared = Arc::clone(shared);
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            let seed = shared.settings.seed.map(|seed| seed.wrapping_add(worker as u64));
            let retry = shared.settings.retry;
            let backoff = Backoff::new(retry.base, retry.cap, seed);
            run(&shared, &backoff).await;
        });
    }
}

async fn run<S: Store + Clone>(shared: &Shared<S>, backoff: &Backoff) {
    loop {
        let permit = select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = shared.poison.set_by_anyone() => return,
            permit = shared.circuit.permit() => permit,
        };
        let record = shared.operations.record();
        let Some(direction) = record.phase.routing().direction else {
            select! {
                biased;
                () = shared.stop.cancelled() => return,
                () = shared.operations.epoch_changed(record.epoch) => continue,
            }
        };
        let keys = match permit {
            Permit::Work => shared.settings.reconcile_batch_keys,
            Permit::Probe => 1,
        };
        match shared.queue.claim(direction, keys).await {
            Ok(Some(claim)) => {
                let contact = round(shared, direction, claim, backoff).await;
                note_contact(shared, contact);
            }
            Ok(None) => select! {
                biased;
                () = shared.stop.cancelled() => return,
                () = shared.operations.epoch_changed(record.epoch) => {}
                () = shared.queue.wait_claimable() => {}
            },
            Err(error) if error.kind() == Kind::Stopped => return,
            Err(error) => {
                shared.observers.emit(&Event::QueueFailed { error });
                // The queue's storage gives no sign when it recovers.
                select! {
                    () = shared.stop.cancelled() => return,
                    () = tokio::time::sleep(shared.settings.circuit.base) => {}
                }
            }
        }
    }
}

fn note_contact<S: Store>(shared: &Shared<S>, contact: Contact) {
    let turn = match contact {
        Contact::None => Turn::None,
        Contact::Answered => shared.circuit.answered(),
        Contact::Unavailable => shared.circuit.failed(),
    };
    match turn {
        Turn::None => {}
        Turn::Opened => shared.observers.emit(&Event::CircuitOpened),
        Turn::Closed => shared.observers.emit(&Event::CircuitClosed),
    }
}

/// Reconciles one claim and settles each of its entries: acknowledged, back in the queue, or parked.
async fn round<S: Store + Clone>(
    shared: &Shared<S>,
    direction: Direction,
    claim: Claim,
    backoff: &Backoff,
) -> Contact {
    let (_, secondary) = shared.sides(direction);
    let safety = shared.safety(direction);
    let rest = match safety {
        Safety::Fenced => Duration::ZERO,
        Safety::Exclusive | Safety::Reread => secondary.settle_time(),
    };
    let mut held = Held { queue: &*shared.queue, ids: claim.ids(), rest };
    if let Some(stray) = claim.entries.iter().find(|entry| entry.direction != direction) {
        poison(
            shared,
            &format!("entry {:?} points {:?}, the phase {direction:?}", stray.id, stray.direction),
        );
        return Contact::None;
    }
    // Where several queues hold one key, another instance may delete a record, mirror that and forget it
    // between our read and our put. Whoever has put the record, or may have in an earlier process, must
    // then delete it.
    let seen =
        |id: EntryId| safety == Safety::Reread && (id <= shared.recovered_up_to || shared.was_attempted(id));
    let work = match work_of(&claim.entries, seen) {
        Ok(work) => work,
        Err(error) => {
            poison(shared, &format!("the queue holds a key that is not one of these stores: {error}"));
            return Contact::None;
        }
    };
    let (failures, contact) = shared.reconcile(direction, claim.stamp, safety, work).await;
    let mut done = Vec::with_capacity(claim.entries.len());
    if safety == Safety::Reread {
        shared.note_attempts(&claim.ids(), &failures);
    }
    for entry in &claim.entries {
        let Some(error) = failures.get(&entry.id) else {
            done.push(entry.id);
            continue;
        };
        match verdict(error, entry.attempts, shared.settings.retry.attempts, rest, backoff) {
            Verdict::Retry { delay, counts } => {
                let text = counts.then(|| error.to_string());
                shared.queue.retry_later(&[entry.id], delay, text.as_deref());
            }
            Verdict::Park => {
                shared.queue.park(&[entry.id], &error.to_string());
                shared
                    .observers
                    .emit(&Event::EntryParked { id: entry.id, error: spent(error, entry.attempts) });
            }
        }
        held.settle(&[entry.id]);
    }
    shared.queue.ack(&done);
    held.settle(&done);
    contact
}

/// A retrier that gives up says so in its advice.
fn spent(error: &Error, attempts: u32) -> Error {
    match error.advice() {
        Advice::Park | Advice::Stop => error.clone(),
        _ => error
            .clone()
            .context(format_args!("given up after {} attempts", attempts + 1))
            .with_advice(Advice::Park),
    }
}

fn poison<S: Store>(shared: &Shared<S>, reason: &str) {
    if shared.poison.set(reason) {
        shared.observers.emit(&Event::Poisoned { reason: reason.to_owned() });
    }
}

impl<S: Store> Shared<S> {
    fn was_attempted(&self, id: EntryId) -> bool {
        self.attempted.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Remembers the entries that stay, forgets those that go.
    fn note_attempts(&self, ids: &[EntryId], failures: &Failures) {
        let mut attempted = self.attempted.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            if failures.contains_key(id) {
                attempted.insert(*id);
            } else {
                attempted.remove(id);
            }
        }
    }
}
