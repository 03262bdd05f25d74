//! The loop that claims and reconciles.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::select;
use zdm_core::error::{Advice, Certainty, Error, Kind};
use zdm_core::key::KeyBytes;
use zdm_core::queue::{Claim, Direction, Entry, EntryId, WriteQueue};
use zdm_core::report::Event;
use zdm_core::store::Store;

use super::apply::{Failures, Reconciled};
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
        let claim = match shared.queue.claim(direction, keys).await {
            // A crash may bring back entries from before a handover: what was acknowledged then need not
            // have been durable. They are reconciled in the direction of now.
            Ok(None) => shared.queue.claim(direction.reversed(), keys).await,
            claim => claim,
        };
        match claim {
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
    let settle_time = secondary.settle_time();
    let mut held = Held { queue: &*shared.queue, ids: claim.ids(), rest: settle_time };
    let recovered = |id: EntryId| id <= shared.recovered_up_to;
    if let Some(stray) =
        claim.entries.iter().find(|entry| entry.direction != direction && !recovered(entry.id))
    {
        poison(
            shared,
            &format!("entry {:?} points {:?}, the phase {direction:?}", stray.id, stray.direction),
        );
        return Contact::None;
    }
    // A record that was sent to the secondary may be there, or may yet arrive, although it is gone at the
    // primary now, and the entry that says so may be another one, or another instance's, and done. Whoever has
    // sent the record must then delete it; with a fence that leaves the tombstone which stops a late one. With
    // several queues so must whoever may have sent it in an earlier process.
    let sent = |id: EntryId, key: Option<&S::Key>| {
        safety == Safety::Reread && recovered(id) || key.is_some_and(|key| shared.was_sent(id, key))
    };
    let work = match work_of(&claim.entries, sent) {
        Ok(work) => work,
        Err(error) => {
            poison(shared, &format!("the queue holds a key that is not one of these stores: {error}"));
            return Contact::None;
        }
    };
    let ranged: Vec<EntryId> = work.ranges.iter().map(|range| range.entry).collect();
    // A store that panics over one record must not end the worker: the others are waiting for it.
    let reconcile = AssertUnwindSafe(shared.reconcile(direction, claim.stamp, safety, work)).catch_unwind();
    let (reconciled, contact) =
        reconcile.await.unwrap_or_else(|_| (Reconciled::panicked(&claim.entries), Contact::Answered));
    let failures = shared.note_sent(&claim.ids(), reconciled);
    let mut done = Vec::with_capacity(claim.entries.len());
    let mut unfit = Vec::new();
    for entry in &claim.entries {
        let Some(error) = failures.get(&entry.id) else {
            done.push(entry.id);
            continue;
        };
        // The fence refuses what comes late for a key that was written since, and a range is not.
        let fenced = safety == Safety::Fenced && !ranged.contains(&entry.id);
        let rest = if fenced { Duration::ZERO } else { settle_time };
        match verdict(error, entry.attempts, shared.settings.retry.attempts, rest, backoff) {
            Verdict::Retry { delay, counts } => {
                let text = counts.then(|| error.to_string());
                shared.queue.retry_later(&[entry.id], delay, text.as_deref());
                held.settle(&[entry.id]);
            }
            Verdict::Park => unfit.push((entry, error)),
        }
    }
    shared.queue.ack(&done);
    held.settle(&done);
    park(shared, held, &unfit, settle_time).await;
    contact
}

/// Sets entries aside. A parked entry locks no key, and a later write takes it along, so what was sent for it
/// must have settled before.
async fn park<S: Store>(
    shared: &Shared<S>,
    mut held: Held<'_>,
    unfit: &[(&Entry, &Error)],
    settle_time: Duration,
) {
    if unfit.iter().any(|(_, error)| error.certainty() == Certainty::Unknown) {
        select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(settle_time) => {}
        }
    }
    for (entry, error) in unfit {
        shared.queue.park(&[entry.id], &error.to_string());
        held.settle(&[entry.id]);
        let error = spent(error, entry.attempts);
        shared.observers.emit(&Event::EntryParked { id: entry.id, error });
    }
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
    pub(super) fn was_sent(&self, id: EntryId, key: &S::Key) -> bool {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.get(&id).is_some_and(|keys| keys.contains(&KeyBytes::of(key)))
    }

    /// Remembers what was sent for entries that stay, forgets those that go.
    fn note_sent(&self, ids: &[EntryId], mut reconciled: Reconciled) -> Failures {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            if !reconciled.failures.contains_key(id) {
                sent.remove(id);
            } else if let Some(now) = reconciled.sent.remove(id) {
                sent.entry(*id).or_default().extend(now);
            }
        }
        reconciled.failures
    }
}
