use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use zdm_core::error::{Error, Kind, Result};

use super::table::{self, Record};
use crate::sqlite::Sqlite;

/// Orders that go into one transaction.
const MOST_AT_ONCE: usize = 1_000;
/// How long after a failure the orders that nobody waits for are tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Records that go into the tables together.
struct Order {
    records: Vec<Record>,
    /// Who waits until they are stored. Orders that nobody waits for are kept until they are.
    waiter: Option<oneshot::Sender<Result<()>>>,
}

/// Puts records into the tables, in their order, many in one transaction.
#[derive(Debug)]
pub(super) struct Commit {
    orders: mpsc::UnboundedSender<Order>,
}

impl Commit {
    /// Starts the task that writes. It ends when this is dropped and all orders are done; `held` is let go
    /// of then.
    pub(super) fn start<H: Send + 'static>(db: Sqlite, held: H) -> (Self, tokio::task::JoinHandle<()>) {
        let (orders, received) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            write_orders(&db, received).await;
            drop(held);
        });
        (Self { orders }, task)
    }

    /// Stores records; they are as durable as the database when it returns.
    pub(super) async fn store(&self, records: Vec<Record>) -> Result<()> {
        let (waiter, stored) = oneshot::channel();
        self.orders.send(Order { records, waiter: Some(waiter) }).map_err(|_| stopped())?;
        stored.await.unwrap_or_else(|_| Err(stopped().unknown()))
    }

    /// Stores records some time later, behind all that came before.
    pub(super) fn store_lazily(&self, records: Vec<Record>) {
        if !records.is_empty() && self.orders.send(Order { records, waiter: None }).is_err() {
            tracing::debug!("a closed queue keeps what it was about to remove; it is reconciled once more");
        }
    }
}

fn stopped() -> Error {
    Error::new(Kind::Stopped, "the secondary-write queue is closed")
}

async fn write_orders(db: &Sqlite, mut received: mpsc::UnboundedReceiver<Order>) {
    // What nobody waits for and could not be stored yet. It comes first in the next transaction.
    let mut owed: Vec<Record> = Vec::new();
    loop {
        let mut orders = Vec::new();
        let next = received.recv_many(&mut orders, MOST_AT_ONCE);
        let count = match owed.is_empty() {
            true => next.await,
            // Not an end of the queue, only of the pause.
            false => tokio::time::timeout(TRY_AGAIN_AFTER, next).await.unwrap_or(usize::MAX),
        };
        let ended = count == 0;
        let (mut records, mut waiters) = (std::mem::take(&mut owed), Vec::new());
        // The places of the records that somebody waits for.
        let mut awaited = Vec::new();
        for order in orders {
            let start = records.len();
            records.extend(order.records);
            if let Some(waiter) = order.waiter {
                waiters.push(waiter);
                awaited.push(start..records.len());
            }
        }
        if !records.is_empty() {
            let records = Arc::new(records);
            let stored = {
                let records = Arc::clone(&records);
                db.write(move |connection| Box::pin(async move { table::apply(connection, &records).await }))
                    .await
            };
            if let Err(error) = &stored {
                tracing::warn!(%error, "the secondary-write queue cannot be stored");
                owed = left_over(records, &awaited);
            }
            for waiter in waiters {
                // A waiter that is gone has cancelled its entry, in an order behind this one.
                let _ = waiter.send(stored.clone());
            }
        }
        if ended {
            return;
        }
    }
}

/// What is still owed after a failure: the lazy records, and the removal of entries whose waiters are told
/// that there are none. The transaction may have been committed after all.
fn left_over(records: Arc<Vec<Record>>, awaited: &[std::ops::Range<usize>]) -> Vec<Record> {
    let Ok(records) = Arc::try_unwrap(records) else { return Vec::new() };
    let mut owed = Vec::with_capacity(records.len());
    for (place, record) in records.into_iter().enumerate() {
        if !awaited.iter().any(|range| range.contains(&place)) {
            owed.push(record);
            continue;
        }
        match record {
            Record::Put(entry) => owed.push(Record::Remove(entry.id)),
            // A taint too many does no harm, stamps are drawn again, a taint that stays is cleared again.
            Record::Remove(_) | Record::PutTaint(_) | Record::RemoveTaint(_) | Record::Stamps(_) => {}
        }
    }
    owed
}
