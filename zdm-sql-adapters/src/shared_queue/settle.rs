use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use zdm_core::error::Result;

use super::state::Shared;
use super::tables::{Changes, QueueTables};

/// Orders that go into one transaction.
const MOST_AT_ONCE: usize = 1_000;
/// How long after a failure it is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// Gives orders to the task that carries out what nobody waits for.
#[derive(Clone, Debug)]
pub(super) struct Settle(pub(super) mpsc::UnboundedSender<Changes>);

impl Settle {
    pub(super) fn order(&self, changes: Changes) {
        if !changes.is_empty() && self.0.send(changes).is_err() {
            tracing::debug!("a closed queue keeps what it was about to remove; it is reconciled once more");
        }
    }
}

/// Carries out changes in the background, in their order, many in one transaction. Ends when nobody can give
/// orders any more, with the error of what could not be carried out.
pub(super) async fn carry_out<T: QueueTables>(
    tables: T,
    shared: Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<Changes>,
) -> Result<()> {
    let mut owed = Changes::default();
    let mut batch = Vec::new();
    loop {
        let next = orders.recv_many(&mut batch, MOST_AT_ONCE);
        let count = match owed.is_empty() {
            true => next.await,
            // Not the end of the orders, only of the pause.
            false => tokio::time::timeout(TRY_AGAIN_AFTER, next).await.unwrap_or(usize::MAX),
        };
        batch.drain(..).for_each(|changes| owed.append(changes));
        if !owed.is_empty() {
            match tables.settle(shared.seat(), &owed).await {
                Ok(()) => owed = Changes::default(),
                Err(error) if count == 0 => return Err(error),
                Err(error) => tracing::warn!(%error, "the secondary-write queue cannot be tidied up yet"),
            }
        }
        if count == 0 {
            return Ok(());
        }
    }
}
