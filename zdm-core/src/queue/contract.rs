use std::time::Duration;

use async_trait::async_trait;

use super::{
    Claim, Direction, Entry, EntryId, EntryState, Epoch, Guarantee, QueueStats, Taint, TaintId, Touch,
    TouchItem, WatchId,
};
use crate::error::Result;
use crate::key::{KeyBytes, KeyRange};
use crate::store::Stamp;

/// A queue of secondary writes. The front page of this module has the states and the invariant.
///
/// The calls that are not `async` never block and never fail: they follow a write whose outcome is
/// already decided, often from a destructor. They need not be durable. An entry that a crash throws back
/// to an earlier state is reconciled once more, which is harmless; only an entry that vanishes is not.
#[async_trait]
pub trait WriteQueue: Send + Sync + 'static {
    /// Records what a write is about to touch. When it returns, the entry is as durable as
    /// [`guarantee`](Self::guarantee) says, and its state is OPEN.
    ///
    /// # Errors
    /// `Kind::Limit` when the queue is full; `Kind::Unavailable` when it cannot store entries. Then there
    /// is no entry.
    ///
    /// # Cancel safety
    /// When the future is dropped, there is no entry, or one that has been cancelled.
    async fn open(&self, touch: Touch, epoch: Epoch, direction: Direction) -> Result<EntryId>;

    /// Records keys that cannot be brought into step and that no write is about: a row that the page
    /// engine could not map or write. The entry is PARKED from the start and as durable as any other. The
    /// limit does not apply.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the queue cannot store entries.
    ///
    /// # Cancel safety
    /// When the future is dropped, there may be an entry or none.
    async fn open_parked(
        &self,
        touch: Touch,
        epoch: Epoch,
        direction: Direction,
        error: &str,
    ) -> Result<EntryId>;

    /// The write has taken effect: OPEN becomes RELEASED. `narrowed` replaces the touch by one that it
    /// covers, when the call has told which keys it really changed; one that it does not cover is
    /// ignored.
    fn release(&self, id: EntryId, narrowed: Option<Touch>);

    /// Nobody knows whether the write has taken effect, and it may still for `settle_time`: OPEN becomes
    /// AMBIGUOUS, and RELEASED after that time.
    fn hold(&self, id: EntryId, settle_time: Duration);

    /// The write certainly took no effect: the entry is removed.
    fn cancel(&self, id: EntryId);

    /// Takes RELEASED entries for reconciling: those of at most `keys` distinct keys or ranges, and for
    /// each key all that are released for it alone, and those parked for it. Entries of the given direction only. `None` when nothing can be
    /// claimed now. The stamp of the claim is drawn after the entries are chosen.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the queue's storage fails.
    ///
    /// # Cancel safety
    /// When the future is dropped nothing stays claimed.
    async fn claim(&self, direction: Direction, keys: usize) -> Result<Option<Claim>>;

    /// The secondary is in step: removes exactly these claimed entries.
    fn ack(&self, ids: &[EntryId]);

    /// Gives claimed entries back. None of their keys is claimed again before `delay` has passed, newer
    /// entries of the same keys included: an abandoned write to the secondary may still land until then.
    /// `error` counts an attempt; `None` does not.
    fn retry_later(&self, ids: &[EntryId], delay: Duration, error: Option<&str>);

    /// Sets claimed entries aside, visibly.
    fn park(&self, ids: &[EntryId], error: &str);

    /// Puts parked entries back, all or those that touch the range, with their attempts forgotten.
    /// Returns how many.
    fn unpark(&self, range: &KeyRange<KeyBytes>) -> usize;

    /// Counts by state.
    fn stats(&self) -> QueueStats;

    /// At most `limit` entries in a state, oldest first, for inspection.
    fn entries(&self, state: EntryState, limit: usize) -> Vec<Entry>;

    /// Whether no entry and no taint covers the key: both stores are known to be equal there. A queue that
    /// several instances share says how old its knowledge of the others may be.
    fn is_clean(&self, key: &KeyBytes) -> bool;

    /// Begins to note what is touched in a range: every entry that covers a part of it now, and every one
    /// opened until [`unwatch`](Self::unwatch). This is the low mark of a page.
    fn watch(&self, range: KeyRange<KeyBytes>) -> WatchId;

    /// Ends a watch and returns what was touched, each key or range once. A watch that has seen more keys
    /// than it can keep returns its whole range.
    fn unwatch(&self, id: WatchId) -> Vec<TouchItem>;

    /// Records that writes to a range may go unrecorded from now on. Durable when it returns, even
    /// when the queue itself has no room.
    ///
    /// # Errors
    /// `Kind::Unavailable` when not even that can be stored; then the caller must refuse the write.
    async fn taint(&self, range: KeyRange<KeyBytes>, reason: &str) -> Result<TaintId>;

    /// The taints that stand.
    fn taints(&self) -> Vec<Taint>;

    /// Removes a taint whose range has been reconciled on both sides.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the queue's storage fails; the taint stands.
    async fn clear_taint(&self, id: TaintId) -> Result<()>;

    /// Draws a stamp: greater than every stamp drawn before, in this process or any earlier one.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the queue's storage fails.
    async fn draw_stamp(&self) -> Result<Stamp>;

    /// Makes all later stamps greater than `seen`, for a queue that is younger than its secondary.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the queue's storage fails.
    async fn raise_stamps_above(&self, seen: Stamp) -> Result<()>;

    /// Called once, before anything else, with the longest time for which calls of an earlier process
    /// can still take effect. Entries that an earlier process left are held as AMBIGUOUS for that time.
    /// Returns how many there are.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the queue's storage fails.
    async fn recover(&self, settle_time: Duration) -> Result<u64>;

    /// Waits until a claim may succeed. May return too early, never too late.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn wait_claimable(&self);

    /// Waits until [`open`](Self::open) may find room. May return too early, never too late.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn wait_room(&self);

    /// Waits until no entry is OPEN, AMBIGUOUS, RELEASED or CLAIMED.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn wait_drained(&self);

    /// Where several instances share the queue: makes what the others had opened when this was called known
    /// here, to [`is_clean`](Self::is_clean), the counts, the taints, and every watch that has begun, those
    /// entries included that came and went since its last call. A watch counts what the others do from the
    /// first call after its beginning on. In a queue of one process there is nothing to do.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the queue's storage fails; then what is known here may be old.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn catch_up(&self) -> Result<()>;

    /// What this queue promises.
    fn guarantee(&self) -> Guarantee;

    /// Stores what is not stored yet and lets go of files and locks. Later calls fail with
    /// `Kind::Stopped`.
    ///
    /// # Errors
    /// `Kind::Unavailable` when the queue's storage fails; what was acknowledged stays durable.
    async fn close(&self) -> Result<()>;
}

/// Comforts for users of a [`WriteQueue`].
#[async_trait]
pub trait WriteQueueExt: WriteQueue {
    /// Records keys that need reconciling although no write is under way: opens and releases at once.
    ///
    /// # Errors
    /// As [`WriteQueue::open`].
    async fn mark(&self, touch: Touch, epoch: Epoch, direction: Direction) -> Result<EntryId> {
        let id = self.open(touch, epoch, direction).await?;
        self.release(id, None);
        Ok(id)
    }
}

impl<Q: WriteQueue + ?Sized> WriteQueueExt for Q {}
