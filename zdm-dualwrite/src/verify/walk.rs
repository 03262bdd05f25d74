//! One page of a walk over both sides.

use std::time::Duration;

use zdm_core::error::Result;
use zdm_core::key::KeyRange;
use zdm_core::queue::Touch;
use zdm_core::store::{Page, Store};

use super::compare::suspects;
use super::digest::{Equal, Reach, first_equal};
use super::second_look::SecondLook;
use crate::pages::{PageContext, PageWork, ReadPage};

/// So many records are read at most where sums were compared so far and none was read.
const UNSEEN: usize = 50;

/// Walks both sides in key order and does something about the keys that seem to differ.
pub(crate) struct Walk<S: Store> {
    pub(crate) context: PageContext<S>,
    pub(crate) then: Then<S>,
    reach: Reach,
}

impl<S: Store> Walk<S> {
    pub(crate) fn new(context: PageContext<S>, then: Then<S>) -> Self {
        Self { context, then, reach: Reach::default() }
    }
}

/// What becomes of a key that seems to differ.
pub(crate) enum Then<S: Store> {
    /// It is looked at again and reported if it really does.
    Report(SecondLook<S>),
    /// It is queued, so that the secondary is brought into step.
    Queue,
}

pub(crate) struct BothSides<K, R> {
    ours: Page<K, R>,
    theirs: Page<K, R>,
    /// What is left to be looked at, once the page has been compared.
    suspects: Option<Vec<K>>,
    /// Differences that are confirmed.
    found: u64,
}

type PageOf<S> = ReadPage<<S as Store>::Key, BothSides<<S as Store>::Key, <S as Store>::Record>>;

impl<S: Store> PageWork for Walk<S> {
    type Key = S::Key;
    type Content = BothSides<S::Key, S::Record>;

    fn leaves_token(&self) -> bool {
        false
    }

    fn settle_time(&self) -> Duration {
        Duration::ZERO
    }

    fn parked_rows(&self) -> u64 {
        0
    }

    fn found(&self, content: &Self::Content) -> u64 {
        content.found
    }

    async fn read(&self, rest: KeyRange<S::Key>, mut limit: usize) -> Result<PageOf<S>> {
        let context = &self.context;
        context.check_roles()?;
        let asked = context.clock().now();
        if let Some(sums) = context.digests()
            && self.reach.asks()
        {
            if let Some(Equal { range, last, records }) =
                first_equal(context, sums, &rest, limit, &self.reach).await?
            {
                let took = context.clock().now().saturating_duration_since(asked);
                let content = BothSides { ours: Page::new(), theirs: Page::new(), suspects: None, found: 0 };
                return Ok(ReadPage { range, last, rows: records, content, took });
            }
            limit = self.reach.rows(limit);
            if self.record_bytes(&rest).is_none() {
                limit = limit.min(UNSEEN);
            }
        }
        let (ours, theirs) = (context.scan_primary()?, context.scan_secondary()?);
        let (mut ours, mut theirs) = tokio::try_join!(
            context.in_time("reading a page from the primary", ours.page(&rest, limit)),
            context.in_time("reading a page from the secondary", theirs.page(&rest, limit)),
        )?;
        let took = context.clock().now().saturating_duration_since(asked);
        // Only up to where both sides have been read can a key be called missing.
        let full = [&ours, &theirs].into_iter().filter(|page| page.len() >= limit);
        let end = full.filter_map(|page| page.last()).map(|(key, _)| key).min().cloned();
        if let Some(end) = &end {
            for page in [&mut ours, &mut theirs] {
                page.truncate(page.partition_point(|(key, _)| key <= end));
            }
        }
        let last = end.is_none();
        let range = KeyRange { after: rest.after, up_to: end.or(rest.up_to) };
        let rows = ours.len().max(theirs.len());
        Ok(ReadPage {
            range,
            last,
            rows,
            content: BothSides { ours, theirs, suspects: None, found: 0 },
            took,
        })
    }

    async fn finish(&self, page: &mut PageOf<S>, _limit: usize) -> Result<Duration> {
        let BothSides { ours, theirs, suspects: left, found } = &mut page.content;
        let left = match left {
            Some(left) => left,
            none => {
                let suspects = suspects(ours, theirs);
                // What has been compared is needed no more.
                (*ours, *theirs) = (Page::new(), Page::new());
                none.insert(suspects)
            }
        };
        match &self.then {
            Then::Report(second_look) => second_look.at(&self.context, left, found).await?,
            Then::Queue => {
                while let Some(key) = left.last() {
                    self.context.mark(Touch::unknown(key).encode()).await?;
                    left.pop();
                }
            }
        }
        Ok(Duration::ZERO)
    }

    fn record_bytes(&self, rest: &KeyRange<S::Key>) -> Option<usize> {
        self.context.record_bytes(rest)
    }

    async fn recover(&self, _token: &KeyRange) -> Result<()> {
        Ok(())
    }
}
