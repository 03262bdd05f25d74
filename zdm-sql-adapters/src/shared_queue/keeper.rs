use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use zdm_core::error::{Certainty, Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::queue::{EntryId, EntryState, Taint, Touch};

use super::state::{Shared, State};
use super::tables::{Adopted, Other, QueueTables};

/// Entries that one transaction takes over.
const MOST_AT_ONCE: usize = 5_000;
/// The pause after a look that found something; it doubles up to the poll.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);

/// What others want from the keeper.
pub(super) enum Request {
    CatchUp(oneshot::Sender<Result<()>>),
    Recover(Duration, oneshot::Sender<Result<u64>>),
}

/// Keeps the lease, looks what the other instances do, and takes over what has no owner. Everything that
/// must not be given up in the middle happens here.
pub(super) struct Keeper<T> {
    pub(super) tables: T,
    pub(super) shared: Arc<Shared>,
    pub(super) migration: String,
    pub(super) instance: String,
    pub(super) renew_at: Instant,
    /// A takeover may have happened or not, so the rows under this seat are not known.
    pub(super) unsure: bool,
}

impl<T: QueueTables> Keeper<T> {
    /// Works until nobody can ask any more.
    pub(super) async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let mut pause = SHORTEST_PAUSE;
        let mut asked = Vec::new();
        loop {
            let shared = Arc::clone(&self.shared);
            let poke = shared.signals.look.notified();
            let next = Instant::now() + pause;
            tokio::select! {
                count = requests.recv_many(&mut asked, 1_000) => {
                    if count == 0 {
                        return;
                    }
                }
                () = poke => {}
                () = tokio::time::sleep_until(next.min(self.renew_at)) => {}
            }
            let began = Instant::now();
            let found = self.round(&mut asked).await;
            let took = began.elapsed();
            let poll = self.shared.options.poll;
            pause = match found {
                Ok(true) => SHORTEST_PAUSE.min(poll),
                Ok(false) => (pause * 2).min(poll),
                Err(error) => {
                    tracing::warn!(%error, "the shared queue cannot be looked at");
                    poll
                }
            };
            // A long list of others is not read all the time.
            pause = pause.max(took * 10);
        }
    }

    async fn round(&mut self, asked: &mut Vec<Request>) -> Result<bool> {
        let asked = std::mem::take(asked);
        let renewed = self.renew_if_due().await;
        let mut found = match &renewed {
            Ok(()) => self.look_and_adopt().await,
            Err(error) => Err(error.clone()),
        };
        for request in asked {
            match request {
                // What was opened before it was asked was there when the look began.
                Request::CatchUp(answer) => drop(answer.send(found.clone().map(drop))),
                Request::Recover(settle_time, answer) => {
                    let recovered = self.recover(settle_time).await;
                    if recovered.is_ok() {
                        found = self.look_and_adopt().await;
                    }
                    drop(answer.send(recovered));
                }
            }
        }
        found
    }

    async fn renew_if_due(&mut self) -> Result<()> {
        let (seat, watching, known) = {
            let state = self.shared.lock();
            (state.seat, state.watches > 0, state.watching)
        };
        let began = self.shared.clock().now();
        if self.unsure {
            return self.join_again().await;
        }
        // A watch counts from now on only if the tables know of it.
        if began < self.renew_at && (known || !watching) {
            return Ok(());
        }
        let lease = self.shared.options.lease;
        if !self.tables.renew(seat, lease, watching).await? {
            return self.join_again().await;
        }
        self.renew_at = began + lease / 3;
        let mut state = self.shared.lock();
        state.leased_until = began + lease;
        state.watching = watching;
        Ok(())
    }

    /// This instance was declared dead, or does not know what it owns: it begins anew under another number
    /// and records all its entries again. What is left under the old number is taken over like that of any
    /// dead instance.
    async fn join_again(&mut self) -> Result<()> {
        tracing::warn!(
            instance = %self.instance,
            "the shared queue counted this instance as dead; it records its entries again"
        );
        self.unsure = true;
        let lease = self.shared.options.lease;
        let began = self.shared.clock().now();
        let new = self.tables.join(&self.migration, &self.instance, lease).await?;
        let (old, entries) = self.shared.change(|state| {
            let old = std::mem::replace(&mut state.seat, new);
            state.seating += 1;
            state.leased_until = began + lease;
            state.watching = false;
            // Nobody left traces for an instance that was dead.
            state.others.note(&Touch::range(KeyRange::all()));
            (old, every_entry(state))
        });
        self.tables.move_to(old, new, &entries).await?;
        self.unsure = false;
        self.renew_at = began + lease / 3;
        Ok(())
    }

    /// Brings what is known of the others up to date, and takes over what has no owner. Tells whether
    /// anything was taken over.
    async fn look_and_adopt(&mut self) -> Result<bool> {
        let orphans = self.look().await?;
        let settle_time = self.shared.lock().settle_time;
        match settle_time {
            Some(settle_time) if orphans => Ok(self.adopt(None, settle_time).await?.1 > 0),
            _ => Ok(false),
        }
    }

    /// Tells whether there is something to take over.
    async fn look(&self) -> Result<bool> {
        let (shared, tables) = (&self.shared, &self.tables);
        let (seat, watching, taint_changes, parked) = {
            let state = shared.lock();
            let parked = state.own.entries(EntryState::Parked, usize::MAX);
            let parked: Vec<EntryId> = parked.into_iter().map(|entry| entry.id).collect();
            (state.seat, state.watching, state.taint_changes, parked)
        };
        let began = shared.clock().now();
        let others = tables.others(seat).await?;
        let orphans = others.iter().any(|other| other.orphan);
        let new: Vec<Other> = {
            let state = shared.lock();
            let known = |other: &Other| {
                state.owners.get(&other.id) == Some(&other.owner)
                    && state.others.is_parked(other.id) == Some(other.parked)
            };
            others.iter().filter(|other| !known(other)).copied().collect()
        };
        let read = if new.is_empty() { Vec::new() } else { tables.read(&new).await? };
        let taints = tables.taints(seat.queue).await?;
        let own = if parked.is_empty() { Vec::new() } else { tables.own(seat, &parked).await? };
        // Last: what has gone since the list was read is in the traces.
        let traces = match watching {
            true => tables.take_traces(seat).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "what other instances touched is not known; everything counts as touched");
                vec![Touch::range(KeyRange::all())]
            }),
            false => Vec::new(),
        };
        shared.change(|state| {
            let there: HashSet<EntryId> = others.iter().map(|other| other.id).collect();
            let gone: Vec<EntryId> = state.owners.keys().copied().filter(|id| !there.contains(id)).collect();
            for id in gone.into_iter().chain(new.iter().map(|other| other.id)) {
                state.owners.remove(&id);
                state.others.forget(id);
            }
            for (owner, entry) in read {
                state.others.note(&entry.touch);
                // The same entry may stand under two owners for a while.
                if state.owners.insert(entry.id, owner).is_none() {
                    state.others.restore(entry);
                }
            }
            traces.iter().for_each(|touch| state.others.note(touch));
            if state.taint_changes == taint_changes {
                set_taints(state, taints);
            }
            for id in parked {
                if !own.contains(&id) {
                    // Another instance has put it back and looks after it.
                    state.own.forget(id);
                }
            }
            state.looked_at = Some(began);
        });
        Ok(orphans)
    }

    /// Takes over what has no owner. Returns how many entries are held for the settle time, and how many
    /// there are in all.
    async fn adopt(&mut self, same_name: Option<&str>, settle_time: Duration) -> Result<(u64, u64)> {
        let (mut held, mut all) = (0, 0);
        loop {
            let seat = self.shared.seat();
            let adopted = self.tables.adopt(seat, same_name, settle_time, MOST_AT_ONCE).await;
            let adopted = adopted.inspect_err(|error| {
                self.unsure |= error.certainty() == Certainty::Unknown;
            })?;
            let count = adopted.len();
            all += count as u64;
            held += self.take_in(adopted, settle_time);
            if count < MOST_AT_ONCE {
                return Ok((held, all));
            }
        }
    }

    fn take_in(&self, adopted: Vec<Adopted>, settle_time: Duration) -> u64 {
        let until = self.shared.clock().now() + settle_time;
        let held = self.shared.change(|state| {
            let mut held = 0;
            for Adopted { entry, captured, was } in adopted {
                state.owners.remove(&was);
                state.others.forget(was);
                if entry.state == EntryState::Parked {
                    state.own.note(&entry.touch);
                    state.own.restore(entry);
                    continue;
                }
                let id = entry.id;
                state.own.open_as(id, entry.touch, entry.epoch, entry.direction, entry.opened_at);
                if captured {
                    state.own.release(id, None);
                } else {
                    state.own.hold(id, until);
                    held += 1;
                }
            }
            held
        });
        // Whoever waits must learn of the new deadlines.
        self.shared.signals.claimable.notify_waiters();
        held
    }

    async fn recover(&mut self, settle_time: Duration) -> Result<u64> {
        if self.unsure {
            self.join_again().await?;
        }
        let name = self.instance.clone();
        let (held, _) = self.adopt(Some(&name), settle_time).await?;
        self.shared.lock().settle_time = Some(settle_time);
        Ok(held)
    }
}

fn every_entry(state: &State) -> Vec<zdm_core::queue::Entry> {
    use EntryState::{Ambiguous, Claimed, Open, Parked, Released};
    [Open, Ambiguous, Released, Claimed, Parked]
        .into_iter()
        .flat_map(|of| state.own.entries(of, usize::MAX))
        .collect()
}

fn set_taints(state: &mut State, taints: Vec<Taint>) {
    for known in state.others.taints().to_vec() {
        if !taints.contains(&known) {
            state.others.clear_taint(known.id);
        }
    }
    for taint in taints {
        if !state.others.taints().contains(&taint) {
            state.others.add_taint(Some(taint.id), taint.range, taint.since, taint.reason);
        }
    }
}

pub(super) fn stopped() -> Error {
    Error::new(Kind::Stopped, "the secondary-write queue is closed")
}
