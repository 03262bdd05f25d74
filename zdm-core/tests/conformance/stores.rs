use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::{Bulk, Capabilities, Change, Fenced, MemoryStore, Page, PageLoad, Scan, Stamp, Store};
use zdm_core::testkit::{StoreFactory, store_suite};

use super::complaint;

/// A version and a value that must be unique.
type Row = (u64, String);

/// One thing that a store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    InsertsOnly,
    CutsTexts,
    FailsToDeleteNothing,
    ReplacesTheHolder,
    CallsAConflictRejected,
    NamesTheWrongHolder,
    TakesAWriteApart,
    LeavesOutMissingRecords,
    AppliesOneByOne,
    PagesBackwards,
    PagesFromTheBoundItself,
    PagesLieShort,
    PartsOverlap,
    TakesLateChanges,
    ForgetsDeletes,
    PagesOverwrite,
    LatePagesWin,
    LatePagesOverPartsWin,
    PagesRemove,
    PagesHoldUpChanges,
    OneRecordFailsAPage,
    ForgetsTheNewestStamp,
    ForgetsNoStamp,
}

struct Broken {
    inner: MemoryStore<u64, Row>,
    flaw: Flaw,
    /// The newest page, where pages count for changes.
    newest_page: AtomicU64,
    /// The stamps of pages, where only the same range counts.
    pages: Mutex<HashMap<KeyRange<u64>, Stamp>>,
}

struct MakesBroken(Flaw);

#[async_trait]
impl StoreFactory for MakesBroken {
    type Store = Broken;

    async fn create(&mut self) -> Broken {
        let inner = MemoryStore::new().with_unique("value", |(_, value): &Row| Some(value.clone()));
        Broken { inner, flaw: self.0, newest_page: 0.into(), pages: Mutex::default() }
    }

    fn key(&self, number: u64) -> u64 {
        number
    }

    fn record(&self, number: u64, version: u64) -> Row {
        (version, format!("value of {number}\0with a zero"))
    }

    fn holding(&self, number: u64, value: u64) -> Option<Row> {
        Some((number, format!("shared {value}")))
    }
}

#[async_trait]
impl Store for Broken {
    type Key = u64;
    type Record = Row;

    async fn get(&self, key: &u64) -> Result<Option<Row>> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &u64, record: &Row) -> Result<()> {
        match self.flaw {
            Flaw::InsertsOnly if self.inner.get(key).await?.is_some() => return Ok(()),
            Flaw::CutsTexts => {
                let text = record.1.split('\0').next().unwrap().to_owned();
                return self.inner.put(key, &(record.0, text)).await;
            }
            Flaw::TakesAWriteApart if self.inner.put(key, record).await.is_ok() => {
                self.inner.delete(key).await?;
                tokio::task::yield_now().await;
            }
            _ => {}
        }
        let Err(error) = self.inner.put(key, record).await else { return Ok(()) };
        match self.flaw {
            Flaw::ReplacesTheHolder => {
                self.inner.delete(&error.holder().unwrap().to_key()?).await?;
                self.inner.put(key, record).await
            }
            Flaw::CallsAConflictRejected => Err(Error::new(Kind::Rejected, "a value that is taken")),
            Flaw::NamesTheWrongHolder => Err(error.held_by(KeyBytes::of(key))),
            _ => Err(error),
        }
    }

    async fn delete(&self, key: &u64) -> Result<()> {
        if self.flaw == Flaw::FailsToDeleteNothing && self.inner.get(key).await?.is_none() {
            return Err(Error::new(Kind::Invalid, "there is no such record"));
        }
        self.inner.delete(key).await
    }

    fn settle_time(&self) -> Duration {
        self.inner.settle_time()
    }

    fn capabilities(&self) -> Capabilities<'_, u64, Row> {
        Capabilities { bulk: Some(self), digest: None, scan: Some(self), fenced: Some(self) }
    }
}

#[async_trait]
impl Bulk for Broken {
    async fn get_many(&self, keys: &[u64]) -> Result<Vec<Option<Row>>> {
        let mut records = self.inner.get_many(keys).await?;
        if self.flaw == Flaw::LeavesOutMissingRecords {
            records.retain(Option::is_some);
        }
        Ok(records)
    }

    async fn apply(&self, changes: &[Change<u64, Row>]) -> Result<()> {
        if self.flaw == Flaw::AppliesOneByOne {
            for change in changes {
                self.inner.apply(std::slice::from_ref(change)).await?;
            }
        }
        self.inner.apply(changes).await
    }
}

#[async_trait]
impl Scan for Broken {
    async fn page(&self, range: &KeyRange<u64>, limit: usize) -> Result<Page<u64, Row>> {
        let mut range = range.clone();
        let mut limit = limit;
        match self.flaw {
            Flaw::PagesFromTheBoundItself => range.after = range.after.filter(|after| *after > 29),
            Flaw::PagesLieShort => limit = limit.min(5),
            _ => {}
        }
        let mut page = self.inner.page(&range, limit).await?;
        if self.flaw == Flaw::PagesBackwards {
            page.reverse();
        }
        Ok(page)
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<u64>>> {
        let mut ranges = self.inner.split(parts).await?;
        if self.flaw == Flaw::PartsOverlap && ranges.len() > 1 {
            ranges[1].after = None;
        }
        Ok(ranges)
    }

    async fn estimated_len(&self) -> Result<u64> {
        self.inner.estimated_len().await
    }
}

#[async_trait]
impl Fenced for Broken {
    async fn newest_stamp(&self) -> Result<Stamp> {
        match self.flaw {
            Flaw::ForgetsTheNewestStamp => Ok(Stamp(0)),
            _ => self.inner.newest_stamp().await,
        }
    }

    async fn apply_if_newer(&self, stamp: Stamp, changes: &[Change<u64, Row>]) -> Result<u64> {
        match self.flaw {
            Flaw::TakesLateChanges => {
                self.inner.apply(changes).await?;
                return Ok(0);
            }
            Flaw::ForgetsDeletes => {
                // A delete leaves no stamp: it does not go through the fence.
                let (deletes, puts): (Vec<_>, Vec<_>) =
                    changes.iter().cloned().partition(|change| change.record().is_none());
                if puts.is_empty() && stamp > self.inner.newest_stamp().await? {
                    self.inner.apply(&deletes).await?;
                    return Ok(0);
                }
            }
            Flaw::PagesHoldUpChanges if self.newest_page.load(Ordering::Relaxed) > stamp.0 => {
                return Ok(changes.len() as u64);
            }
            _ => {}
        }
        self.inner.apply_if_newer(stamp, changes).await
    }

    async fn load_page(
        &self,
        stamp: Stamp,
        range: &KeyRange<u64>,
        records: &[(u64, Row)],
    ) -> Result<PageLoad<u64>> {
        match self.flaw {
            Flaw::PagesOverwrite => {
                let all = KeyRange::between(u64::MAX - 1, u64::MAX);
                return self.inner.load_page(Stamp(1_000), &all, records).await;
            }
            Flaw::LatePagesWin => {
                // Pages leave no stamp: each seems to be of a range of its own.
                let own = KeyRange::between(u64::MAX - 2 - stamp.0, u64::MAX - 1 - stamp.0);
                return self.inner.load_page(stamp, &own, records).await;
            }
            Flaw::LatePagesOverPartsWin => {
                // Only a page of the very same range counts.
                let newest = self.pages.lock().unwrap().get(range).copied().unwrap_or_default();
                if newest > stamp {
                    return Ok(PageLoad { superseded: records.len() as u64, ..PageLoad::default() });
                }
                self.pages.lock().unwrap().insert(range.clone(), stamp);
                let own = KeyRange::between(u64::MAX - 2 - stamp.0, u64::MAX - 1 - stamp.0);
                return self.inner.load_page(stamp, &own, records).await;
            }
            Flaw::PagesRemove => {
                for (key, _) in self.inner.page(range, 10_000).await? {
                    if !records.iter().any(|(own, _)| *own == key) && stamp < Stamp(7) {
                        self.inner.delete(&key).await?;
                    }
                }
            }
            Flaw::PagesHoldUpChanges => {
                self.newest_page.fetch_max(stamp.0, Ordering::Relaxed);
            }
            Flaw::OneRecordFailsAPage => {
                let puts: Vec<_> = records.iter().map(|(key, row)| Change::Put(*key, row.clone())).collect();
                let mut load = self.inner.load_page(stamp, range, records).await?;
                if let Some((_, error)) = load.rejected.pop() {
                    let undo: Vec<_> = puts.iter().map(|put| Change::Delete(*put.key())).collect();
                    self.inner.apply(&undo).await?;
                    return Err(error);
                }
                return Ok(load);
            }
            _ => {}
        }
        self.inner.load_page(stamp, range, records).await
    }

    async fn forget_stamps(&self) -> Result<()> {
        match self.flaw {
            Flaw::ForgetsNoStamp => Ok(()),
            _ => self.inner.forget_stamps().await,
        }
    }
}

#[tokio::test]
async fn broken_stores_are_caught_by_name() {
    let mut wrong = Vec::new();
    for (flaw, rule) in [
        (Flaw::CutsTexts, "what_was_put_comes_back_as_it_was"),
        (Flaw::InsertsOnly, "a_put_replaces_and_may_repeat"),
        (Flaw::FailsToDeleteNothing, "a_delete_removes_and_may_repeat"),
        (Flaw::ReplacesTheHolder, "a_unique_value_that_is_held_is_a_conflict"),
        (Flaw::CallsAConflictRejected, "a_unique_value_that_is_held_is_a_conflict"),
        (Flaw::NamesTheWrongHolder, "a_unique_value_that_is_held_is_a_conflict"),
        (Flaw::TakesAWriteApart, "a_dropped_put_is_done_or_not"),
        (Flaw::LeavesOutMissingRecords, "many_records_come_in_the_order_of_the_keys"),
        (Flaw::AppliesOneByOne, "a_conflict_applies_nothing"),
        (Flaw::PagesBackwards, "pages_walk_every_record_in_key_order"),
        (Flaw::PagesLieShort, "pages_walk_every_record_in_key_order"),
        (Flaw::PagesFromTheBoundItself, "pages_walk_every_record_in_key_order"),
        (Flaw::PartsOverlap, "parts_cover_every_key_once"),
        (Flaw::TakesLateChanges, "a_late_change_loses"),
        (Flaw::ForgetsDeletes, "a_delete_leaves_a_tombstone"),
        (Flaw::PagesOverwrite, "a_page_leaves_out_newer_keys"),
        (Flaw::LatePagesWin, "a_late_page_loses"),
        (Flaw::LatePagesOverPartsWin, "a_late_page_loses"),
        (Flaw::PagesRemove, "a_page_removes_nothing"),
        (Flaw::PagesHoldUpChanges, "an_earlier_look_than_a_page_is_still_applied"),
        (Flaw::OneRecordFailsAPage, "a_record_that_does_not_fit_holds_up_no_page"),
        (Flaw::ForgetsTheNewestStamp, "the_newest_stamp_is_remembered"),
        (Flaw::ForgetsNoStamp, "forgotten_stamps_stop_nobody"),
    ] {
        let text = complaint(store_suite(MakesBroken(flaw))).await;
        if !text.starts_with(&format!("the rule {rule} is broken")) {
            wrong.push(format!("{flaw:?}: {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
