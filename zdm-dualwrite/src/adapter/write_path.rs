//! One write: entry, call, release. See "secondary writes" in the chapters of this crate.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use zdm_core::error::{Certainty, Error, Kind, Outcome, Result};
use zdm_core::key::Key;
use zdm_core::phase::Side;
use zdm_core::queue::{Direction, EntryId, Epoch, Span, Touch, WriteQueue};
use zdm_core::report::Event;
use zdm_core::store::Store;

use super::operations::Operations;
use super::settings::WhenFull;
use super::taint::Window;
use super::{DualWrite, Shared};

/// What covers a write while its call is under way. Dropping it says that nobody knows the outcome, which
/// is the truth for a dropped future and for a panic.
struct Cover<'a> {
    kind: CoverKind<'a>,
    settle_time: Duration,
}

enum CoverKind<'a> {
    Entry(&'a dyn WriteQueue, EntryId),
    Window(Arc<Window>),
    Over,
}

/// A write in a phase without mirroring. Dropping it says that nobody knows the outcome: mirroring may begin
/// meanwhile, and a copy must not begin before this write has settled.
struct Uncovered<'a> {
    operations: &'a Operations,
    settle_time: Duration,
}

impl Drop for Uncovered<'_> {
    fn drop(&mut self) {
        self.operations.unmirrored_until(tokio::time::Instant::now() + self.settle_time);
    }
}

impl Cover<'_> {
    fn applied(mut self, narrowed: Option<Touch>) {
        if let CoverKind::Entry(queue, id) = std::mem::replace(&mut self.kind, CoverKind::Over) {
            queue.release(id, narrowed);
        }
    }

    fn not_applied(mut self) {
        if let CoverKind::Entry(queue, id) = std::mem::replace(&mut self.kind, CoverKind::Over) {
            queue.cancel(id);
        }
    }
}

impl Drop for Cover<'_> {
    fn drop(&mut self) {
        match &self.kind {
            CoverKind::Entry(queue, id) => queue.hold(*id, self.settle_time),
            CoverKind::Window(window) => {
                window.settles_at(tokio::time::Instant::now() + self.settle_time);
            }
            CoverKind::Over => {}
        }
    }
}

impl<S: Store + Clone> DualWrite<S> {
    /// Runs any call of a repository as one write. `touch` says which keys it may change; `call` gets the
    /// store that is primary now. The entry is durable before `call` is called, and the caller gets back
    /// exactly what `call` returned.
    ///
    /// ```
    /// use zdm_core::{Error, queue::Touch, store::{MemoryStore, Store}};
    /// use zdm_dualwrite::DualWrite;
    /// # use std::sync::Arc;
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// # let (old, new) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
    /// let users = DualWrite::builder(old, new).start().await?;
    /// users.write(Touch::upsert(&7_u64), |repo| async move { repo.put(&7, &"Ada".to_owned()).await }).await?;
    /// # Ok::<_, Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// What `call` returns, untouched. Before `call`, from this library through `E: From<Error>`:
    /// `Kind::Limit` or `Kind::Unavailable` when the entry cannot be stored, `Kind::Invalid` when a touch
    /// names a range that the stores cannot walk, `Kind::Stopped` after a shutdown. None of these has
    /// changed anything.
    ///
    /// # Cancel safety
    /// The future may be dropped at any point. Before the call nothing has happened; from the call on the
    /// outcome is unknown, and the keys are compared after the primary's settle time.
    pub async fn write<T, E, F, Fut>(&self, touch: Touch<S::Key>, call: F) -> Result<T, E>
    where
        E: Outcome + From<Error>,
        F: FnOnce(S) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.write_narrowing(touch, call, |_| None).await
    }

    /// As [`write`](Self::write), for keys that are known only afterwards: `touch` is wide
    /// ([`Touch::after`], [`Touch::range`]), and `narrow` names the keys that the call has really changed.
    /// They must lie within `touch`; others are ignored.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    ///
    /// # Cancel safety
    /// As [`write`](Self::write).
    pub async fn write_narrowing<T, E, F, Fut, N>(
        &self,
        touch: Touch<S::Key>,
        call: F,
        narrow: N,
    ) -> Result<T, E>
    where
        E: Outcome + From<Error>,
        F: FnOnce(S) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        N: FnOnce(&T) -> Option<Touch<S::Key>>,
    {
        let shared = &*self.shared;
        let ticket = shared.operations.begin().await?;
        let primary = shared.side(ticket.routing.primary);
        let Some(direction) = ticket.routing.direction else {
            let uncovered = Uncovered { operations: &shared.operations, settle_time: primary.settle_time() };
            let result = call(primary.clone()).await;
            if !matches!(&result, Err(error) if error.certainty() == Certainty::Unknown) {
                std::mem::forget(uncovered);
            }
            return result;
        };
        let cover = shared.cover(&touch, ticket.epoch, direction, primary.settle_time()).await?;
        let result = call(primary.clone()).await;
        match &result {
            Ok(value) => cover.applied(narrow(value).map(|touch| touch.encode())),
            Err(error) => match error.certainty() {
                Certainty::Applied => cover.applied(None),
                Certainty::NotApplied => cover.not_applied(),
                Certainty::Unknown => drop(cover),
            },
        }
        result
    }
}

impl<S: Store + Clone> Shared<S> {
    /// Covers a write before its call: by an entry, or, if that was chosen and nothing else is possible,
    /// by a taint.
    async fn cover(
        &self,
        touch: &Touch<S::Key>,
        epoch: Epoch,
        direction: Direction,
        settle_time: Duration,
    ) -> Result<Cover<'_>> {
        self.check_ranges(touch)?;
        let queue = &*self.queue;
        let error = match queue.open(touch.encode(), epoch, direction).await {
            Ok(id) => return Ok(Cover { kind: CoverKind::Entry(queue, id), settle_time }),
            Err(error) if matches!(error.kind(), Kind::Limit | Kind::Unavailable) => error,
            Err(error) => return Err(error.not_applied()),
        };
        let error = match self.settings.when_full {
            WhenFull::Wait { deadline } => {
                match tokio::time::timeout(deadline, self.open_when_possible(touch, epoch, direction)).await {
                    Ok(opened) => {
                        let id = opened.map_err(Error::not_applied)?;
                        return Ok(Cover { kind: CoverKind::Entry(queue, id), settle_time });
                    }
                    Err(_) => error.context(format_args!("no room for this write within {deadline:?}")),
                }
            }
            WhenFull::RefuseWrites => error,
            WhenFull::Taint => {
                let (window, new) =
                    self.taint_window.enter(queue, error.message()).await.map_err(|cause| {
                        cause
                            .context("neither the entry nor a taint can be stored; the write is refused")
                            .not_applied()
                    })?;
                if new {
                    self.observers.emit(&Event::TaintRecorded { id: window.id, reason: error.to_string() });
                }
                return Ok(Cover { kind: CoverKind::Window(window), settle_time });
            }
        };
        Err(error.not_applied())
    }

    /// Opens the entry as soon as the queue takes it.
    async fn open_when_possible(
        &self,
        touch: &Touch<S::Key>,
        epoch: Epoch,
        direction: Direction,
    ) -> Result<EntryId> {
        loop {
            match self.queue.open(touch.encode(), epoch, direction).await {
                Err(error) if error.kind() == Kind::Limit => self.queue.wait_room().await,
                // Storage that fails gives no sign when it recovers.
                Err(error) if error.kind() == Kind::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return result,
            }
        }
    }

    /// A range can only be reconciled by walking it on both sides.
    fn check_ranges(&self, touch: &Touch<S::Key>) -> Result<()> {
        let ranged = touch.items().iter().any(|item| matches!(item.span, Span::Range(_)));
        if !ranged {
            return Ok(());
        }
        for (side, store) in [(Side::Old, &self.old), (Side::New, &self.new)] {
            if store.capabilities().scan.is_none() {
                let message = format!(
                    "the touch names a range, but the {side} store cannot be walked in key order; \
                     name the keys one by one or implement Scan for it"
                );
                return Err(Error::new(Kind::Invalid, message));
            }
        }
        Ok(())
    }
}

/// Whether a key lies in a cohort that grows with its share: `hundredths` of a percent of all keys.
pub(crate) fn in_cohort<K: Key>(salt: &str, key: &K, hundredths: u16) -> bool {
    let bytes = zdm_core::key::KeyBytes::of(key);
    zdm_core::rollout::bucket(salt, bytes.as_slice(), 10_000) < u32::from(hundredths)
}
