//! Every sentence of the [`WriteQueue`] contract, tried on a queue.

mod durability;
mod limits;
mod locks;
mod marks;
mod states;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout, timeout_at};

use super::rule::{Rule, try_rules};
use crate::key::KeyBytes;
use crate::queue::{Claim, Direction, EntryId, EntryState, Epoch, Touch, WriteQueue, WriteQueueExt};

/// Makes the queues that a suite tries.
#[async_trait]
pub trait QueueFactory: Send {
    /// What is tried.
    type Queue: WriteQueue;

    /// An empty queue with a limit, in a storage of its own.
    async fn create(&mut self, limit: usize) -> Self::Queue;

    /// Opens the storage of the queue that was created last once more; the queue has been dropped,
    /// with or without a call of `close`. `None` if it keeps nothing.
    async fn reopen(&mut self) -> Option<Self::Queue>;
}

/// Tries every sentence of the contract of [`WriteQueue`]. Runs with tokio's clock paused (quickly) or not
/// (a few seconds).
///
/// ```
/// use zdm_core::queue::MemoryQueue;
/// use zdm_core::testkit::{queue_suite, QueueFactory};
///
/// struct InMemory;
///
/// #[async_trait::async_trait]
/// impl QueueFactory for InMemory {
///     type Queue = MemoryQueue;
///
///     async fn create(&mut self, limit: usize) -> MemoryQueue {
///         MemoryQueue::with_limit(limit)
///     }
///
///     async fn reopen(&mut self) -> Option<MemoryQueue> {
///         None
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(
/// queue_suite(InMemory)
/// # );
/// ```
///
/// # Panics
/// With the name of the rule that is broken.
pub async fn queue_suite<F: QueueFactory>(mut factory: F) {
    let factory = &mut factory;
    try_rules!(factory;
        states::an_open_entry_cannot_be_claimed,
        states::a_cancelled_entry_is_gone,
        states::an_ambiguous_entry_waits_out_its_settle_time,
        states::a_call_about_an_entry_in_another_state_changes_nothing,
        states::a_release_narrows_to_what_the_touch_covers,
        states::entries_are_listed_oldest_first,
        states::a_parked_entry_is_dirty_and_not_pending,
        states::unparking_puts_back_what_touches_the_range,
        states::a_row_can_be_parked_from_the_start,
        locks::one_claim_takes_all_released_entries_of_a_key,
        locks::no_other_claim_covers_a_claimed_key,
        locks::a_claim_names_at_most_so_many_keys,
        locks::a_claim_keeps_to_its_direction,
        locks::an_ack_removes_exactly_the_entries_it_names,
        locks::a_retry_holds_back_newer_entries_of_the_key,
        locks::a_claimed_key_blocks_a_range_and_the_other_way,
        locks::an_entry_of_several_keys_locks_them_all,
        locks::a_parked_entry_goes_with_a_newer_one_of_its_key,
        marks::a_watch_sees_live_and_new_entries_of_its_range,
        marks::a_taint_makes_its_range_dirty_until_it_is_cleared,
        marks::stamps_strictly_grow,
        limits::a_full_queue_refuses_and_tells_when_there_is_room,
        limits::waiting_for_a_claim_ends_with_a_release,
        limits::draining_waits_for_everything_but_parked_entries,
        limits::an_open_that_is_dropped_leaves_nothing,
        limits::a_claim_that_is_dropped_keeps_nothing,
        locks::concurrent_claims_share_no_key_and_lose_nothing,
        durability::a_closed_queue_says_so,
        durability::entries_survive_being_opened_again,
        durability::what_was_settled_before_closing_stays_settled,
        durability::stamps_and_ids_grow_across_reopening,
        durability::taints_survive_being_opened_again,
    );
}

const FORWARD: Direction = Direction::OldToNew;
const BACK: Direction = Direction::NewToOld;
const EPOCH: Epoch = Epoch(7);
const ROOMY: usize = 10_000;
/// Short enough for a clock that runs, long enough to be seen.
const WAIT: Duration = Duration::from_millis(300);
/// Nothing that comes takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

fn key(key: u64) -> KeyBytes {
    KeyBytes::of(&key)
}

fn upsert(key: u64) -> Touch {
    Touch::upsert(&key).encode()
}

async fn fresh<F: QueueFactory>(rule: Rule, factory: &mut F) -> F::Queue {
    let queue = factory.create(ROOMY).await;
    rule.same("the number of entries that an empty queue recovers", recover(rule, &queue).await, 0);
    queue
}

async fn recover<Q: WriteQueue>(rule: Rule, queue: &Q) -> u64 {
    rule.ok("recover", queue.recover(WAIT).await)
}

async fn open<Q: WriteQueue>(rule: Rule, queue: &Q, touch: Touch) -> EntryId {
    rule.ok("open", queue.open(touch, EPOCH, FORWARD).await)
}

/// An entry that is released.
async fn mark<Q: WriteQueue>(rule: Rule, queue: &Q, touch: Touch) -> EntryId {
    rule.ok("open", queue.mark(touch, EPOCH, FORWARD).await)
}

async fn claim<Q: WriteQueue>(rule: Rule, queue: &Q, keys: usize) -> Option<Claim> {
    rule.ok("claim", queue.claim(FORWARD, keys).await)
}

/// A claim that is there at once.
async fn claim_now<Q: WriteQueue>(rule: Rule, queue: &Q, keys: usize) -> Claim {
    rule.some("released entries cannot be claimed", claim(rule, queue, keys).await)
}

/// Waits for the next claim, which must not come before `earliest`.
async fn claim_not_before<Q: WriteQueue>(rule: Rule, queue: &Q, earliest: Instant) -> Claim {
    loop {
        let claim = claim(rule, queue, 1_000).await;
        if let Some(claim) = claim {
            rule.holds(Instant::now() >= earliest, "an entry was claimed before its time");
            return claim;
        }
        let waited = timeout_at(earliest.max(Instant::now()) + PATIENCE, queue.wait_claimable()).await;
        rule.holds(waited.is_ok(), "wait_claimable does not return when the time has come");
    }
}

/// How many entries are in each state: open, ambiguous, released, claimed, parked.
fn counts<Q: WriteQueue>(queue: &Q) -> [u64; 5] {
    let stats = queue.stats();
    [stats.open, stats.ambiguous, stats.released, stats.claimed, stats.parked]
}

fn listed<Q: WriteQueue>(queue: &Q, state: EntryState) -> Vec<EntryId> {
    queue.entries(state, ROOMY).iter().map(|entry| entry.id).collect()
}

/// Whether a condition comes true within real time, for work that goes on in the background.
async fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..2_000 {
        if condition() {
            return true;
        }
        // A paused clock stands still while a blocking task runs, so this is real time in any case.
        drop(tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await);
    }
    condition()
}

/// Whether a wait ends soon. What it waits for has happened already.
async fn ends(wait: impl Future) -> bool {
    timeout(PATIENCE, wait).await.is_ok()
}

/// Whether a wait has not ended yet after giving it every chance.
async fn still_waits(wait: impl Future) -> bool {
    timeout(Duration::from_millis(20), wait).await.is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::MemoryQueue;

    struct InMemory;

    #[async_trait]
    impl QueueFactory for InMemory {
        type Queue = MemoryQueue;

        async fn create(&mut self, limit: usize) -> MemoryQueue {
            MemoryQueue::with_limit(limit)
        }

        async fn reopen(&mut self) -> Option<MemoryQueue> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_queue_passes() {
        queue_suite(InMemory).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_memory_queue_passes_with_a_running_clock() {
        queue_suite(InMemory).await;
    }
}
