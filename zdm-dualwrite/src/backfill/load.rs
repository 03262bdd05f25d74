//! One page of a backfill.
//!
//! The page is read, then written. Between the two the world goes on, so what is written may be old when
//! it arrives. Two ways keep that harmless.
//!
//! **Fenced secondary.** A stamp is drawn before the page is read and goes along with it. The secondary
//! leaves out every key that a later look has written or deleted. Late pages lose.
//!
//! **Any other secondary.** From before the read until after the write the queue notes every key that is
//! touched; then each of them gets an entry, so it is brought into step once more. A token in the
//! checkpoint, durable before the first record is written, stands for the page until its entries are
//! durable. After a crash a surviving token has the whole range reconciled on both sides. The token
//! follows the read, so it names exactly the keys of the page: before the first record is written there is
//! nothing to undo. (The exhaustive model passes with the token at either place.)
//!
//! Writing only what is absent would not do: it brings back records that were deleted after the read.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;
use zdm_core::error::{Advice, Certainty, Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{Intent, Span, Touch, TouchItem, WatchId, WriteQueue};
use zdm_core::report::Event;
use zdm_core::store::{Change, Record, Stamp, Store, StoreExt};

use crate::pages::{PageContext, PageTicket, PageWork, ReadPage};
use crate::reconcile::Safety;

/// Entries that are made durable together.
const MARKS_AT_ONCE: usize = 64;

pub(crate) struct Load<S: Store> {
    pub(crate) context: PageContext<S>,
    pub(crate) counts: Arc<Counts>,
}

/// What became of the rows.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) written: AtomicU64,
    /// Left out by the fence, because a later look was there.
    pub(crate) superseded: AtomicU64,
    /// Given an entry because they were touched while their page was on its way.
    pub(crate) marked: AtomicU64,
    pub(crate) parked: AtomicU64,
    /// Given an entry because they did not fit at once: a unique value or a reference.
    pub(crate) queued: AtomicU64,
}

pub(crate) struct Content<K, R> {
    rows: Rows<K, R>,
    /// How many of them are written.
    written: usize,
    /// Rows that go to the queue instead.
    aside: Vec<(K, Error)>,
    /// From the first write on.
    ticket: Option<PageTicket>,
}

/// The records of a page in the form in which they are written, and what makes a late page harmless.
enum Rows<K, R> {
    Fenced {
        records: Vec<(K, R)>,
        stamp: Stamp,
    },
    Watched {
        records: Vec<Change<K, R>>,
        watch: Watch,
        settles: Option<Instant>,
    },
    /// They are written; these were touched meanwhile and are left to be marked.
    Written {
        touched: Vec<TouchItem>,
    },
}

/// Notes what is touched until it ends or is dropped.
struct Watch {
    queue: Arc<dyn WriteQueue>,
    id: Option<WatchId>,
}

impl Watch {
    fn begin(queue: &Arc<dyn WriteQueue>, range: KeyRange) -> Self {
        Self { queue: Arc::clone(queue), id: Some(queue.watch(range)) }
    }

    fn end(&mut self) -> Vec<TouchItem> {
        self.id.take().map(|id| self.queue.unwatch(id)).unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.end());
    }
}

type PageOf<S> = ReadPage<<S as Store>::Key, Content<<S as Store>::Key, <S as Store>::Record>>;

impl<S: Store> PageWork for Load<S> {
    type Key = S::Key;
    type Content = Content<S::Key, S::Record>;

    fn leaves_token(&self) -> bool {
        self.context.fence().is_none()
    }

    fn settle_time(&self) -> Duration {
        if self.leaves_token() { self.context.secondary().settle_time() } else { Duration::ZERO }
    }

    fn found(&self, _content: &Self::Content) -> u64 {
        0
    }

    fn parked_rows(&self) -> u64 {
        self.counts.parked.load(Ordering::Relaxed)
    }

    async fn read(&self, rest: KeyRange<S::Key>, limit: usize) -> Result<PageOf<S>> {
        let context = &self.context;
        context.check_roles()?;
        // Before the read: the stamp, or the beginning of the watch. Where the page will end is not known
        // yet; what is touched beyond it is dropped later.
        let mut rows = if self.leaves_token() {
            let watch = Watch::begin(context.queue(), rest.encode());
            context.queue().catch_up().await?;
            Rows::Watched { records: Vec::new(), watch, settles: None }
        } else {
            Rows::Fenced { records: Vec::new(), stamp: context.queue().draw_stamp().await? }
        };
        let asked = context.clock().now();
        let call = context.scan_primary()?.page(&rest, limit);
        let found = context.in_time("reading a page from the primary", call).await?;
        let took = context.clock().now().saturating_duration_since(asked);

        let (count, last) = (found.len(), found.len() < limit);
        let up_to = if last { rest.up_to } else { found.last().map(|(key, _)| key.clone()) };
        let range = KeyRange { after: rest.after, up_to };
        let mut aside = Vec::new();
        let mut mapped = Vec::with_capacity(count);
        for (key, record) in found {
            match record {
                Ok(record) => mapped.push((key, record)),
                Err(error) => aside.push((key, error)),
            }
        }
        match &mut rows {
            Rows::Fenced { records, .. } => *records = mapped,
            Rows::Watched { records, .. } => {
                *records = mapped.into_iter().map(|(key, record)| Change::Put(key, record)).collect();
            }
            Rows::Written { .. } => {}
        }
        Ok(ReadPage {
            range,
            last,
            rows: count,
            content: Content { rows, written: 0, aside, ticket: None },
            took,
        })
    }

    async fn finish(&self, page: &mut PageOf<S>, limit: usize) -> Result<Duration> {
        let limit = limit.max(1);
        let Content { rows, written, aside, ticket } = &mut page.content;
        let ticket = match ticket {
            Some(ticket) => ticket,
            none => none.insert(self.context.begin_write().await?),
        };
        let began;
        match rows {
            Rows::Fenced { records, stamp } => {
                began = self.context.clock().now();
                let fence = self.context.fence().ok_or_else(|| {
                    Error::new(
                        Kind::Invalid,
                        "the secondary had a fence when the page was read and has none now",
                    )
                })?;
                while *written < records.len() {
                    let end = records.len().min(*written + limit);
                    let part = part_of(&page.range, records, *written, end);
                    ticket.sending();
                    let call = fence.load_page(*stamp, &part, &records[*written..end]);
                    match self.load_fenced(call).await {
                        Ok(rejected) => aside.extend(rejected),
                        Err(error) => {
                            if error.certainty() == Certainty::Unknown {
                                // Harmless to the page, whenever it lands; not to another primary.
                                ticket.lost();
                            }
                            return Err(error);
                        }
                    }
                    *written = end;
                }
            }
            Rows::Watched { records, settles, .. } => {
                if let Some(at) = *settles {
                    // An abandoned write of this page may still land. It must have landed before the keys
                    // are marked, or nothing would come after it.
                    tokio::time::sleep_until(at).await;
                    *settles = None;
                }
                began = self.context.clock().now();
                while *written < records.len() {
                    let end = records.len().min(*written + limit);
                    ticket.sending();
                    match self.load_plain(&records[*written..end]).await {
                        Ok(refused) => aside.extend(refused),
                        Err(error) => {
                            if error.certainty() == Certainty::Unknown {
                                *settles = Some(self.context.clock().now() + self.settle_time());
                            }
                            return Err(error);
                        }
                    }
                    *written = end;
                }
            }
            Rows::Written { .. } => began = self.context.clock().now(),
        }
        ticket.sent();
        let took = self.context.clock().now().saturating_duration_since(began);
        self.set_aside(aside).await?;
        if let Rows::Watched { records, watch, .. } = rows {
            let changed = if self.context.dual_write.safety(self.context.direction) == Safety::Reread {
                self.second_look(&page.range, records).await?
            } else {
                Vec::new()
            };
            self.context.queue().catch_up().await?;
            let mut touched = within(&page.range.encode(), watch.end());
            touched.extend(changed);
            *rows = Rows::Written { touched };
        }
        if let Rows::Written { touched } = rows {
            self.mark(touched).await?;
        }
        Ok(took)
    }

    fn record_bytes(&self, rest: &KeyRange<S::Key>) -> Option<usize> {
        self.context.record_bytes(rest)
    }

    async fn recover(&self, token: &KeyRange) -> Result<()> {
        let item = TouchItem { span: Span::Range(token.clone()), intent: Intent::Unknown };
        if let Some(touch) = Touch::from_items([item]) {
            self.context.mark(touch).await?;
        }
        Ok(())
    }
}

/// The keys that the records from `from` to `end` cover, with those that have no record, so that the calls
/// of a page cover its range without a gap.
fn part_of<K: Clone, R>(range: &KeyRange<K>, records: &[(K, R)], from: usize, end: usize) -> KeyRange<K> {
    let key_before = |at: usize| at.checked_sub(1).and_then(|at| records.get(at)).map(|(key, _)| key.clone());
    KeyRange {
        after: key_before(from).or_else(|| range.after.clone()),
        up_to: if end == records.len() { range.up_to.clone() } else { key_before(end) },
    }
}

impl<S: Store> Load<S> {
    async fn load_fenced(
        &self,
        call: impl Future<Output = Result<zdm_core::store::PageLoad<S::Key>>>,
    ) -> Result<Vec<(S::Key, Error)>> {
        let load = self.context.in_time("writing a page to the secondary", call).await?;
        self.counts.written.fetch_add(load.written, Ordering::Relaxed);
        self.counts.superseded.fetch_add(load.superseded, Ordering::Relaxed);
        Ok(load.rejected)
    }

    /// Writes records in one call where the store can, and returns those that do not fit. A call that
    /// fails for a record is cut in halves until that record stands alone.
    async fn load_plain(&self, changes: &[Change<S::Key, S::Record>]) -> Result<Vec<(S::Key, Error)>> {
        let mut refused = Vec::new();
        let mut parts = vec![changes];
        while let Some(part) = parts.pop() {
            let call = self.context.secondary().apply_all(part);
            let Err(error) = self.context.in_time("writing a page to the secondary", call).await else {
                continue;
            };
            let of_a_record = error.certainty() == Certainty::NotApplied
                && matches!(error.kind(), Kind::Rejected | Kind::Conflict | Kind::MissingReference);
            match part {
                _ if !of_a_record => return Err(error),
                [only] => refused.push((only.key().clone(), error)),
                more => {
                    let (lower, upper) = more.split_at(more.len() / 2);
                    parts.extend([upper, lower]);
                }
            }
        }
        self.counts.written.fetch_add((changes.len() - refused.len()) as u64, Ordering::Relaxed);
        Ok(refused)
    }

    /// Gives the rows that were not written to the queue: parked if they will never fit, else to be tried
    /// again when what they collide with or refer to has come. What is done is taken off the list.
    async fn set_aside(&self, rows: &mut Vec<(S::Key, Error)>) -> Result<()> {
        while let Some((key, error)) = rows.last() {
            let touch = Touch::upsert(key).encode();
            if matches!(error.advice(), Advice::Park | Advice::Stop) {
                self.context.park(touch, error).await?;
                self.counts.parked.fetch_add(1, Ordering::Relaxed);
                let (key, error) = (format!("{key:?}"), error.clone());
                self.context.observers().emit(&Event::RowParked { key, error });
            } else {
                self.context.mark(touch).await?;
                self.counts.queued.fetch_add(1, Ordering::Relaxed);
            }
            rows.pop();
        }
        Ok(())
    }

    /// The keys whose record at the primary is not any more what was written. Other processes have queues
    /// of their own, so what they touched is seen only by looking.
    async fn second_look(
        &self,
        range: &KeyRange<S::Key>,
        written: &[Change<S::Key, S::Record>],
    ) -> Result<Vec<TouchItem>> {
        let limit = written.len().max(1_000);
        let mut changed = Vec::new();
        let mut then = written.iter().peekable();
        let mut rest = range.clone();
        let item = |key: &S::Key| TouchItem { span: Span::Key(KeyBytes::of(key)), intent: Intent::Unknown };
        loop {
            let call = self.context.scan_primary()?.page(&rest, limit);
            let now = self.context.in_time("reading a page from the primary again", call).await?;
            let last = now.len() < limit;
            let end = now.last().map(|(key, _)| key.clone());
            for (key, record) in now {
                while let Some(gone) = then.next_if(|then| *then.key() < key) {
                    changed.push(item(gone.key()));
                }
                let before = then.next_if(|then| *then.key() == key).and_then(Change::record);
                let same = match (&record, before) {
                    (Ok(record), Some(before)) => record.same_as(before),
                    _ => false,
                };
                if !same {
                    changed.push(item(&key));
                }
            }
            if last {
                changed.extend(then.map(|gone| item(gone.key())));
                return Ok(changed);
            }
            rest.after = end;
        }
    }

    /// Makes an entry for each item. What is done is taken off the list.
    async fn mark(&self, items: &mut Vec<TouchItem>) -> Result<()> {
        while !items.is_empty() {
            let from = items.len().saturating_sub(MARKS_AT_ONCE);
            let touches = items[from..].iter().cloned().filter_map(|item| Touch::from_items([item]));
            let marks: Vec<_> = touches.map(|touch| self.context.mark(touch)).collect();
            let marked = try_join_all(marks).await?.len() as u64;
            self.counts.marked.fetch_add(marked, Ordering::Relaxed);
            items.truncate(from);
        }
        Ok(())
    }
}

/// The items that share a key with the range, cut down to it.
fn within(range: &KeyRange, items: Vec<TouchItem>) -> Vec<TouchItem> {
    let cut = |item: TouchItem| {
        if !item.span.meets(range) {
            return None;
        }
        let span = match item.span {
            Span::Key(key) => Span::Key(key),
            Span::Range(own) => Span::Range(KeyRange {
                after: own.after.max(range.after.clone()),
                up_to: match (own.up_to, range.up_to.clone()) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                },
            }),
        };
        Some(TouchItem { span, intent: item.intent })
    };
    items.into_iter().filter_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_is_cut_down_to_the_page() {
        let key = |key: u8| KeyBytes::of(&key);
        let range = |after: Option<u8>, up_to: Option<u8>| KeyRange { after, up_to }.encode();
        let item = |span| TouchItem { span, intent: Intent::Upsert };
        let touched = vec![
            item(Span::Key(key(10))),
            item(Span::Key(key(11))),
            item(Span::Key(key(20))),
            item(Span::Key(key(21))),
            item(Span::Range(range(None, None))),
            item(Span::Range(range(Some(15), None))),
            item(Span::Range(range(None, Some(12)))),
            item(Span::Range(range(Some(20), Some(30)))),
        ];
        let page = range(Some(10), Some(20));
        let wanted = vec![
            item(Span::Key(key(11))),
            item(Span::Key(key(20))),
            item(Span::Range(page.clone())),
            item(Span::Range(range(Some(15), Some(20)))),
            item(Span::Range(range(Some(10), Some(12)))),
        ];
        assert_eq!(within(&page, touched), wanted);
    }

    #[test]
    fn the_parts_of_a_page_cover_its_range_without_a_gap() {
        let records: Vec<(u8, ())> = [12, 15, 18].map(|key| (key, ())).into();
        let page = KeyRange::between(10, 20);
        let part = |from, end| part_of(&page, &records, from, end);
        assert_eq!(part(0, 3), page);
        assert_eq!([part(0, 1), part(1, 3)], [KeyRange::between(10, 12), KeyRange::between(12, 20)]);
        assert_eq!(part_of(&KeyRange::<u8>::all(), &records, 0, 3), KeyRange::all());
    }
}
