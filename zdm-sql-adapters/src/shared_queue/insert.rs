use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};
use zdm_core::error::{Error, Result};

use super::settle::Settle;
use super::state::Shared;
use super::tables::{Changes, NewEntry, QueueTables, Seat};

/// Entries that go into one statement.
const MOST_AT_ONCE: usize = 1_000;

/// An entry to be stored, and who waits for it.
pub(super) struct Order {
    pub(super) entry: NewEntry,
    pub(super) stored: oneshot::Sender<Result<Seat>>,
}

/// Tasks that store entries beside each other: while the database makes the rows of one durable, the next
/// one sends its own.
pub(super) const INSERTERS: usize = 2;

/// Stores entries, those that come at the same time in one statement. Ends when nobody can give orders any
/// more.
pub(super) async fn store_entries<T: QueueTables>(
    tables: T,
    shared: Arc<Shared>,
    settle: Settle,
    orders: Arc<Mutex<mpsc::UnboundedReceiver<Order>>>,
) {
    let mut batch = Vec::with_capacity(MOST_AT_ONCE);
    let mut entries = Vec::with_capacity(MOST_AT_ONCE);
    let mut waiters = Vec::with_capacity(MOST_AT_ONCE);
    loop {
        // Held until there is something, so the others wait here and not for the database.
        if orders.lock().await.recv_many(&mut batch, MOST_AT_ONCE).await == 0 {
            return;
        }
        for Order { entry, stored } in batch.drain(..) {
            // Whoever went away before it was stored has taken the entry back.
            if !stored.is_closed() {
                entries.push(entry);
                waiters.push(stored);
            }
        }
        if entries.is_empty() {
            continue;
        }
        let seat = shared.seat();
        let stored = tables.insert(seat, &entries).await;
        if let Err(error) = &stored {
            tracing::warn!(%error, "the secondary-write queue cannot be stored");
        }
        let mut unwanted = Vec::new();
        for (entry, waiter) in entries.drain(..).zip(waiters.drain(..)) {
            let told: Result<Seat, Error> = stored.clone().map(|()| seat);
            // The statement may have been committed although it failed.
            if waiter.send(told).is_err() || stored.is_err() {
                unwanted.push(entry.id);
            }
        }
        if !unwanted.is_empty() {
            settle.order(Changes { removed: unwanted, ..Changes::default() });
        }
    }
}
