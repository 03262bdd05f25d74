use std::collections::HashSet;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::Result;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{
    Claim, Direction, Entry, EntryId, EntryState, Epoch, Guarantee, MemoryQueue, QueueStats, Taint, TaintId,
    Touch, TouchItem, WatchId, WriteQueue,
};
use zdm_core::store::Stamp;
use zdm_core::testkit::{QueueFactory, queue_suite};

use super::complaint;

/// One thing that a queue does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    ReleasesWhatItOpens,
    KeepsWhatIsCancelled,
    ReleasesTheUnknown,
    DoesNotNarrow,
    ListsNewestFirst,
    ForgetsWhatItParks,
    UnparksEverything,
    AcksByKey,
    AcksNothing,
    RetriesAtOnce,
    CountsNoAttempt,
    ClaimsAnyNumber,
    ClaimsEitherDirection,
    WatchesNewEntriesOnly,
    WatchesEverything,
    CallsTaintedKeysClean,
    StampsStandStill,
    IgnoresOtherStamps,
    IsNeverFull,
    NeverTellsOfRoom,
    IsDrainedAtOnce,
    LeavesWhatWasDropped,
    KeepsDroppedClaims,
    OpensAfterItsEnd,
    DrawsStampsAfterItsEnd,
    BeginsAnewWhenOpened,
}

struct Broken {
    inner: MemoryQueue,
    flaw: Flaw,
    /// What was there when the watch began.
    live: Mutex<HashSet<TouchItem>>,
    closed: AtomicBool,
}

struct MakesBroken(Flaw);

#[async_trait]
impl QueueFactory for MakesBroken {
    type Queue = Broken;

    async fn create(&mut self, limit: usize) -> Broken {
        let limit = if self.0 == Flaw::IsNeverFull { limit + 1 } else { limit };
        let inner = MemoryQueue::with_limit(limit);
        Broken { inner, flaw: self.0, live: Mutex::default(), closed: AtomicBool::new(false) }
    }

    async fn reopen(&mut self) -> Option<Broken> {
        match self.0 {
            Flaw::BeginsAnewWhenOpened => Some(self.create(100).await),
            _ => None,
        }
    }
}

/// The outcome of a future that never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the queue in memory waits"),
    }
}

#[async_trait]
impl WriteQueue for Broken {
    async fn open(&self, touch: Touch, epoch: Epoch, direction: Direction) -> Result<EntryId> {
        if self.flaw == Flaw::OpensAfterItsEnd && self.closed.load(Ordering::Relaxed) {
            return Ok(EntryId(1));
        }
        let id = self.inner.open(touch, epoch, direction).await?;
        match self.flaw {
            Flaw::ReleasesWhatItOpens => self.inner.release(id, None),
            Flaw::LeavesWhatWasDropped => tokio::task::yield_now().await,
            _ => {}
        }
        Ok(id)
    }

    async fn open_parked(
        &self,
        touch: Touch,
        epoch: Epoch,
        direction: Direction,
        error: &str,
    ) -> Result<EntryId> {
        self.inner.open_parked(touch, epoch, direction, error).await
    }

    fn release(&self, id: EntryId, narrowed: Option<Touch>) {
        self.inner.release(id, narrowed.filter(|_| self.flaw != Flaw::DoesNotNarrow));
    }

    fn hold(&self, id: EntryId, settle_time: Duration) {
        match self.flaw {
            Flaw::ReleasesTheUnknown => self.inner.release(id, None),
            _ => self.inner.hold(id, settle_time),
        }
    }

    fn cancel(&self, id: EntryId) {
        match self.flaw {
            Flaw::KeepsWhatIsCancelled => self.inner.release(id, None),
            _ => self.inner.cancel(id),
        }
    }

    async fn claim(&self, direction: Direction, keys: usize) -> Result<Option<Claim>> {
        let keys = if self.flaw == Flaw::ClaimsAnyNumber { 1_000 } else { keys };
        let claim = self.inner.claim(direction, keys).await?;
        match self.flaw {
            Flaw::ClaimsEitherDirection if claim.is_none() => {
                let other = match direction {
                    Direction::OldToNew => Direction::NewToOld,
                    Direction::NewToOld => Direction::OldToNew,
                };
                self.inner.claim(other, keys).await
            }
            Flaw::KeepsDroppedClaims => {
                tokio::task::yield_now().await;
                Ok(claim)
            }
            _ => Ok(claim),
        }
    }

    fn ack(&self, ids: &[EntryId]) {
        let claimed = self.inner.entries(EntryState::Claimed, 1_000);
        match self.flaw {
            Flaw::AcksNothing => return self.inner.retry_later(ids, Duration::ZERO, None),
            _ => self.inner.ack(ids),
        }
        if self.flaw == Flaw::AcksByKey {
            let touched: Vec<_> = claimed
                .into_iter()
                .filter(|entry| ids.contains(&entry.id))
                .map(|entry| entry.touch)
                .collect();
            if let Ok(Some(others)) = at_once(self.inner.claim(Direction::OldToNew, 1_000)) {
                let (same, rest): (Vec<_>, Vec<_>) =
                    others.entries.into_iter().partition(|entry| touched.contains(&entry.touch));
                self.inner.ack(&same.iter().map(|entry| entry.id).collect::<Vec<_>>());
                let rest: Vec<_> = rest.iter().map(|entry| entry.id).collect();
                self.inner.retry_later(&rest, Duration::ZERO, None);
            }
        }
    }

    fn retry_later(&self, ids: &[EntryId], delay: Duration, error: Option<&str>) {
        match self.flaw {
            Flaw::RetriesAtOnce => self.inner.retry_later(ids, Duration::ZERO, error),
            Flaw::CountsNoAttempt => self.inner.retry_later(ids, delay, None),
            _ => self.inner.retry_later(ids, delay, error),
        }
    }

    fn park(&self, ids: &[EntryId], error: &str) {
        match self.flaw {
            Flaw::ForgetsWhatItParks => self.inner.ack(ids),
            _ => self.inner.park(ids, error),
        }
    }

    fn unpark(&self, range: &KeyRange<KeyBytes>) -> usize {
        match self.flaw {
            Flaw::UnparksEverything => self.inner.unpark(&KeyRange::all()),
            _ => self.inner.unpark(range),
        }
    }

    fn stats(&self) -> QueueStats {
        self.inner.stats()
    }

    fn entries(&self, state: EntryState, limit: usize) -> Vec<Entry> {
        let mut entries = self.inner.entries(state, limit);
        if self.flaw == Flaw::ListsNewestFirst {
            entries.reverse();
        }
        entries
    }

    fn is_clean(&self, key: &KeyBytes) -> bool {
        let tainted = || self.inner.taints().iter().any(|taint| taint.range.contains(key));
        self.inner.is_clean(key) || self.flaw == Flaw::CallsTaintedKeysClean && tainted()
    }

    fn watch(&self, range: KeyRange<KeyBytes>) -> WatchId {
        let first = self.inner.watch(range.clone());
        *self.live.lock().unwrap() = self.inner.unwatch(first).into_iter().collect();
        match self.flaw {
            Flaw::WatchesEverything => self.inner.watch(KeyRange::all()),
            _ => self.inner.watch(range),
        }
    }

    fn unwatch(&self, id: WatchId) -> Vec<TouchItem> {
        let mut seen = self.inner.unwatch(id);
        if self.flaw == Flaw::WatchesNewEntriesOnly {
            let live = self.live.lock().unwrap();
            seen.retain(|item| !live.contains(item));
        }
        seen
    }

    async fn taint(&self, range: KeyRange<KeyBytes>, reason: &str) -> Result<TaintId> {
        self.inner.taint(range, reason).await
    }

    fn taints(&self) -> Vec<Taint> {
        self.inner.taints()
    }

    async fn clear_taint(&self, id: TaintId) -> Result<()> {
        self.inner.clear_taint(id).await
    }

    async fn draw_stamp(&self) -> Result<Stamp> {
        match self.flaw {
            Flaw::StampsStandStill => Ok(Stamp(1)),
            Flaw::DrawsStampsAfterItsEnd if self.closed.load(Ordering::Relaxed) => Ok(Stamp(1)),
            _ => self.inner.draw_stamp().await,
        }
    }

    async fn raise_stamps_above(&self, seen: Stamp) -> Result<()> {
        match self.flaw {
            Flaw::IgnoresOtherStamps => Ok(()),
            _ => self.inner.raise_stamps_above(seen).await,
        }
    }

    async fn recover(&self, settle_time: Duration) -> Result<u64> {
        self.inner.recover(settle_time).await
    }

    async fn wait_claimable(&self) {
        self.inner.wait_claimable().await;
    }

    async fn wait_room(&self) {
        match self.flaw {
            Flaw::NeverTellsOfRoom => std::future::pending().await,
            _ => self.inner.wait_room().await,
        }
    }

    async fn wait_drained(&self) {
        if self.flaw != Flaw::IsDrainedAtOnce {
            self.inner.wait_drained().await;
        }
    }

    async fn catch_up(&self) -> Result<()> {
        self.inner.catch_up().await
    }

    fn guarantee(&self) -> Guarantee {
        self.inner.guarantee()
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Relaxed);
        self.inner.close().await
    }
}

#[tokio::test(start_paused = true)]
async fn broken_queues_are_caught_by_name() {
    let mut wrong = Vec::new();
    for (flaw, rule) in [
        (Flaw::ReleasesWhatItOpens, "an_open_entry_cannot_be_claimed"),
        (Flaw::AcksNothing, "an_open_entry_cannot_be_claimed"),
        (Flaw::KeepsWhatIsCancelled, "a_cancelled_entry_is_gone"),
        (Flaw::ReleasesTheUnknown, "an_ambiguous_entry_waits_out_its_settle_time"),
        (Flaw::DoesNotNarrow, "a_release_narrows_to_what_the_touch_covers"),
        (Flaw::ListsNewestFirst, "entries_are_listed_oldest_first"),
        (Flaw::ForgetsWhatItParks, "a_parked_entry_is_dirty_and_not_pending"),
        (Flaw::UnparksEverything, "unparking_puts_back_what_touches_the_range"),
        (Flaw::AcksByKey, "no_other_claim_covers_a_claimed_key"),
        (Flaw::RetriesAtOnce, "a_retry_holds_back_newer_entries_of_the_key"),
        (Flaw::CountsNoAttempt, "a_retry_holds_back_newer_entries_of_the_key"),
        (Flaw::ClaimsAnyNumber, "a_claim_names_at_most_so_many_keys"),
        (Flaw::ClaimsEitherDirection, "a_claim_keeps_to_its_direction"),
        (Flaw::WatchesNewEntriesOnly, "a_watch_sees_live_and_new_entries_of_its_range"),
        (Flaw::WatchesEverything, "a_watch_sees_live_and_new_entries_of_its_range"),
        (Flaw::CallsTaintedKeysClean, "a_taint_makes_its_range_dirty_until_it_is_cleared"),
        (Flaw::StampsStandStill, "stamps_strictly_grow"),
        (Flaw::IgnoresOtherStamps, "stamps_strictly_grow"),
        (Flaw::IsNeverFull, "a_full_queue_refuses_and_tells_when_there_is_room"),
        (Flaw::NeverTellsOfRoom, "a_full_queue_refuses_and_tells_when_there_is_room"),
        (Flaw::IsDrainedAtOnce, "draining_waits_for_everything_but_parked_entries"),
        (Flaw::LeavesWhatWasDropped, "an_open_that_is_dropped_leaves_nothing"),
        (Flaw::KeepsDroppedClaims, "a_claim_that_is_dropped_keeps_nothing"),
        (Flaw::OpensAfterItsEnd, "a_closed_queue_says_so"),
        (Flaw::DrawsStampsAfterItsEnd, "a_closed_queue_says_so"),
        (Flaw::BeginsAnewWhenOpened, "entries_survive_being_opened_again"),
    ] {
        let text = complaint(queue_suite(MakesBroken(flaw))).await;
        if !text.starts_with(&format!("the rule {rule} is broken")) {
            wrong.push(format!("{flaw:?}: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
