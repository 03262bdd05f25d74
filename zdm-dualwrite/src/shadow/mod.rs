//! Comparing reads in the background. A comparison never delays or fails the request that it follows.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::phase::Side;
use zdm_core::queue::{WatchId, WriteQueue};
use zdm_core::report::{Event, Mismatch, MismatchCause};
use zdm_core::store::{Record, Store};

use crate::adapter::{DualWrite, Settings, ShadowSettings, Shared};

/// Which reads are compared, and how many at once.
#[derive(Debug)]
pub(crate) struct Shadow {
    settings: ShadowSettings,
    permits: Arc<Semaphore>,
    random: Mutex<fastrand::Rng>,
    counts: Mutex<ShadowCounts>,
}

/// What background comparison has found since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ShadowCounts {
    /// Comparisons that came to an end.
    pub compared: u64,
    /// Of these, keys that were being written: nothing can be said about them.
    pub in_flight: u64,
    /// Of these, records that differed on both looks although the key was clean.
    pub mismatched: u64,
    /// Comparisons that the store under trial could not answer, or not in time.
    pub failed: u64,
    /// Reads that were not compared because too many comparisons were under way.
    pub skipped: u64,
}

/// The end of one comparison.
enum Compared<R> {
    Same,
    InFlight,
    Failed,
    /// The primary's record and the secondary's.
    Differs(Option<R>, Option<R>),
}

impl Shadow {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.shadow,
            permits: Arc::new(Semaphore::new(settings.shadow.concurrency)),
            random: Mutex::new(settings.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed)),
            counts: Mutex::new(ShadowCounts::default()),
        }
    }

    fn drawn(&self) -> bool {
        let sample = self.settings.sample;
        sample > 0.0 && self.random.lock().unwrap_or_else(PoisonError::into_inner).f64() < sample
    }

    fn count(&self, change: impl FnOnce(&mut ShadowCounts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn counts(&self) -> ShadowCounts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Store + Clone> DualWrite<S> {
    /// What background comparison has found since the start.
    pub fn shadow_counts(&self) -> ShadowCounts {
        self.shared.shadow.counts()
    }

    /// Compares an answer with the other side's, if this read is in the sample and there is room.
    pub(crate) fn compare_in_background(
        &self,
        key: &S::Key,
        answer: &Option<S::Record>,
        from: Side,
        primary: Side,
    ) {
        let shared = &self.shared;
        if !shared.shadow.drawn() {
            return;
        }
        let Ok(permit) = Arc::clone(&shared.shadow.permits).try_acquire_owned() else {
            shared.shadow.count(|counts| counts.skipped += 1);
            return;
        };
        let (shared, key, answer) = (Arc::clone(shared), key.clone(), answer.clone());
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            let limit = shared.shadow.settings.timeout;
            let compared = tokio::select! {
                () = shared.stop.cancelled() => return,
                compared = tokio::time::timeout(limit, shared.compare(&key, answer, from, primary)) => compared,
            };
            shared.report(&key, compared.unwrap_or(Compared::Failed));
            drop(permit);
        });
    }
}

impl<S: Store + Clone> Shared<S> {
    async fn compare(
        &self,
        key: &S::Key,
        answer: Option<S::Record>,
        from: Side,
        primary: Side,
    ) -> Compared<S::Record> {
        let bytes = KeyBytes::of(key);
        let Ok(other) = self.side(from.other()).get(key).await else { return Compared::Failed };
        if same(&answer, &other) {
            return Compared::Same;
        }
        if !self.queue.is_clean(&bytes) {
            return Compared::InFlight;
        }
        // The key may have been written and mirrored between the two reads: only a second look at both
        // sides, with the key clean before it and untouched during it, shows a difference that stays.
        let touched = Watched { queue: &*self.queue, id: self.queue.watch(around(&bytes)) };
        if self.queue.catch_up().await.is_err() {
            return Compared::Failed;
        }
        let (Ok(first), Ok(second)) =
            (self.side(primary).get(key).await, self.side(primary.other()).get(key).await)
        else {
            return Compared::Failed;
        };
        if same(&first, &second) {
            return Compared::Same;
        }
        if self.queue.catch_up().await.is_err() {
            return Compared::Failed;
        }
        if !self.queue.is_clean(&bytes) || touched.has(&bytes) {
            return Compared::InFlight;
        }
        Compared::Differs(first, second)
    }

    fn report(&self, key: &S::Key, compared: Compared<S::Record>) {
        self.shadow.count(|counts| {
            counts.compared += 1;
            match &compared {
                Compared::Same => {}
                Compared::InFlight => counts.in_flight += 1,
                Compared::Failed => counts.failed += 1,
                Compared::Differs(..) => counts.mismatched += 1,
            }
        });
        if let Compared::Differs(ours, theirs) = compared {
            let (cause, differences) = match (&ours, &theirs) {
                (Some(ours), Some(theirs)) => (MismatchCause::Unexplained, ours.differences(theirs)),
                (Some(_), None) => (MismatchCause::Missing, Vec::new()),
                (None, _) => (MismatchCause::Extra, Vec::new()),
            };
            let mismatch = Mismatch { key: format!("{key:?}"), cause, differences };
            self.observers.emit(&Event::MismatchFound { mismatch });
        }
    }
}

/// A watch that ends with the comparison, however that ends.
struct Watched<'a> {
    queue: &'a dyn WriteQueue,
    id: WatchId,
}

impl Watched<'_> {
    fn has(self, key: &KeyBytes) -> bool {
        self.queue.unwatch(self.id).iter().any(|item| item.span.contains(key))
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        drop(self.queue.unwatch(self.id));
    }
}

/// A range that holds the key and as few others as bytes can say.
fn around(key: &KeyBytes) -> KeyRange<KeyBytes> {
    let below = key.as_slice().split_last().map(|(last, head)| {
        let mut below = KeyBytes::from_slice(head);
        if let Some(less) = last.checked_sub(1) {
            below.extend(&[less, 0xFF]);
        }
        below
    });
    KeyRange { after: below, up_to: Some(key.clone()) }
}

fn same<R: Record>(a: &Option<R>, b: &Option<R>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.same_as(b),
        (None, None) => true,
        _ => false,
    }
}
