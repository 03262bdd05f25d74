use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use zdm_core::clock::Clock;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::queue::{Direction, EntryId, Touch, WriteQueue, WriteQueueExt};
use zdm_core::report::Observers;
use zdm_core::store::{Digest, Fenced, Scan, Store};

use crate::adapter::DualWrite;
use crate::adapter::operations::Ticket;

/// What a page run works on: two stores with their roles of now, and the queue between them.
pub(crate) struct PageContext<S: Store> {
    pub(crate) dual_write: DualWrite<S>,
    pub(crate) direction: Direction,
    /// How long one call to a store may take.
    pub(crate) call_timeout: Duration,
}

impl<S: Store> Clone for PageContext<S> {
    fn clone(&self) -> Self {
        let Self { dual_write, direction, call_timeout } = self;
        Self { dual_write: dual_write.clone(), direction: *direction, call_timeout: *call_timeout }
    }
}

impl<S: Store> PageContext<S> {
    /// # Errors
    /// `Kind::Refused` in a phase that has no secondary.
    pub(crate) fn of(dual_write: &DualWrite<S>, call_timeout: Duration) -> Result<Self> {
        let record = dual_write.shared.operations.record();
        let Some(direction) = record.phase.routing().direction else {
            let message = format!(
                "in the phase {} nothing is kept in step with the primary; advance to dual_write first",
                record.phase
            );
            return Err(Error::new(Kind::Refused, message));
        };
        Ok(Self { dual_write: dual_write.clone(), direction, call_timeout })
    }

    pub(crate) fn primary(&self) -> &S {
        self.dual_write.shared.sides(self.direction).0
    }

    pub(crate) fn secondary(&self) -> &S {
        self.dual_write.shared.sides(self.direction).1
    }

    pub(crate) fn queue(&self) -> &Arc<dyn WriteQueue> {
        &self.dual_write.shared.queue
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.dual_write.shared.clock
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.dual_write.shared.observers
    }

    pub(crate) fn migration(&self) -> &str {
        &self.dual_write.shared.settings.name
    }

    /// The primary, walked in key order.
    pub(crate) fn scan_primary(&self) -> Result<&dyn Scan<Key = S::Key, Record = S::Record>> {
        walk(self.primary(), "primary")
    }

    /// The secondary, walked in key order.
    pub(crate) fn scan_secondary(&self) -> Result<&dyn Scan<Key = S::Key, Record = S::Record>> {
        walk(self.secondary(), "secondary")
    }

    /// Both sides, the primary first, if their sums can be compared.
    pub(crate) fn digests(&self) -> Option<[&dyn Digest<Key = S::Key, Record = S::Record>; 2]> {
        let (ours, theirs) = (self.primary().capabilities().digest?, self.secondary().capabilities().digest?);
        (ours.digest_of() == theirs.digest_of()).then_some([ours, theirs])
    }

    pub(crate) fn fence(&self) -> Option<&dyn Fenced<Key = S::Key, Record = S::Record>> {
        self.secondary().capabilities().fenced
    }

    /// Fails when the roles of the stores have moved since the run began.
    pub(crate) fn check_roles(&self) -> Result<()> {
        self.roles_are(self.dual_write.shared.operations.routing().direction)
    }

    /// Takes part in the count of writes under way, so that the roles cannot move before this one is over.
    pub(crate) async fn begin_write(&self) -> Result<PageTicket> {
        let ticket = self.dual_write.shared.operations.begin().await?;
        self.roles_are(ticket.routing.direction)?;
        let settle_time = self.secondary().settle_time();
        Ok(PageTicket { ticket: Some(ticket), sending: false, lost: false, settle_time })
    }

    fn roles_are(&self, direction: Option<Direction>) -> Result<()> {
        if direction == Some(self.direction) {
            return Ok(());
        }
        let message = format!(
            "the run began while secondary writes went {:?}; now it is {direction:?}, so what it reads is not \
             the truth any more",
            self.direction
        );
        Err(Error::new(Kind::Refused, message))
    }

    /// About how many bytes a record takes at the beginning of a range, on the side where it takes more.
    pub(crate) fn record_bytes(&self, rest: &KeyRange<S::Key>) -> Option<usize> {
        let scans = [self.scan_primary(), self.scan_secondary()];
        scans.into_iter().flatten().filter_map(|scan| scan.record_bytes(rest)).max()
    }

    /// Gives up on a call that does not answer.
    pub(crate) async fn in_time<T>(&self, what: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.call_timeout;
        match tokio::time::timeout(limit, call).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(Kind::Timeout, format!("{what} took longer than {limit:?}"))),
        }
    }

    /// Records keys that need reconciling, as soon as the queue has room.
    pub(crate) async fn mark(&self, touch: Touch) -> Result<EntryId> {
        let queue = self.queue();
        loop {
            let epoch = self.dual_write.shared.operations.record().epoch;
            match queue.mark(touch.clone(), epoch, self.direction).await {
                // Entries go away as they are reconciled; the page waits, and with it the run.
                Err(error) if error.kind() == Kind::Limit => queue.wait_room().await,
                result => return result,
            }
        }
    }

    pub(crate) async fn park(&self, touch: Touch, error: &Error) -> Result<EntryId> {
        let epoch = self.dual_write.shared.operations.record().epoch;
        self.queue().open_parked(touch, epoch, self.direction, &error.to_string()).await
    }
}

fn walk<'a, S: Store>(store: &'a S, side: &str) -> Result<&'a dyn Scan<Key = S::Key, Record = S::Record>> {
    store.capabilities().scan.ok_or_else(|| {
        let message = format!("the {side} store cannot be walked in key order; implement Scan for it");
        Error::new(Kind::Invalid, message)
    })
}

/// A page that is being written. The primary role does not move while it exists, nor while a write of it
/// that was given up on may still land.
pub(crate) struct PageTicket {
    ticket: Option<Ticket>,
    sending: bool,
    lost: bool,
    settle_time: Duration,
}

impl PageTicket {
    /// Writes are about to be sent; until [`sent`](Self::sent) their outcome is unknown.
    pub(crate) fn sending(&mut self) {
        self.sending = true;
    }

    /// Every write has an outcome, or has settled, but for those that were [`lost`](Self::lost).
    pub(crate) fn sent(&mut self) {
        self.sending = false;
    }

    /// A write was given up on, and nobody waits until it has settled.
    pub(crate) fn lost(&mut self) {
        self.lost = true;
    }
}

impl Drop for PageTicket {
    fn drop(&mut self) {
        if (self.sending || self.lost)
            && let Some(ticket) = self.ticket.take()
            // Without a runtime the process is ending, and nobody moves roles in it any more.
            && let Ok(runtime) = Handle::try_current()
        {
            let settle_time = self.settle_time;
            runtime.spawn(async move {
                tokio::time::sleep(settle_time).await;
                drop(ticket);
            });
        }
    }
}
