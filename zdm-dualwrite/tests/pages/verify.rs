//! Verification and repair: what differs is found and named, what is in flight is not reported.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use zdm_core::checkpoint::MemoryCheckpoints;
use zdm_core::error::{Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::phase::{Gate, Phase};
use zdm_core::queue::{Direction, Epoch, MemoryQueue, Touch, WriteQueue};
use zdm_core::report::{Event, MismatchCause};
use zdm_core::store::{Capabilities, Digest, MemoryStore, Page, RangeDigest, Scan, Store};
use zdm_dualwrite::{Deletions, DualWrite, MoveRequest, PageSettings, Repair, Verify, VerifyReport};

use super::world::{Faults, Wire};

#[derive(Clone, Debug, PartialEq, Serialize)]
struct User {
    name: String,
    age: u8,
}

fn user(name: &str, age: u8) -> User {
    User { name: name.to_owned(), age }
}

type Users = Arc<MemoryStore<u64, User>>;

fn small_pages() -> PageSettings {
    PageSettings {
        first_page_rows: 4,
        smallest_page_rows: 2,
        largest_page_rows: 7,
        ..PageSettings::default()
    }
}

/// 100 users on both sides, then: 10 differs, 20 and 21 are missing, 200 to 229 are extra.
async fn apart() -> (Users, Users, DualWrite<Users>) {
    let (old, new): (Users, Users) = (Arc::default(), Arc::default());
    for key in 0..100 {
        old.put(&key, &user("Ada", 30)).await.unwrap();
        if ![20, 21].contains(&key) {
            new.put(&key, &user("Ada", if key == 10 { 31 } else { 30 })).await.unwrap();
        }
    }
    for key in 200..230 {
        new.put(&key, &user("nobody", 0)).await.unwrap();
    }
    let users = DualWrite::builder(Arc::clone(&old), Arc::clone(&new)).phase(Phase::DualWrite);
    (old, new, users.start().await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn every_difference_is_found_with_its_cause_and_fields() {
    let (_, _, users) = apart().await;
    let report = Verify::new(&users).settings(small_pages()).run().await.unwrap();
    assert!(report.complete && report.compared >= 130, "{report:?}");
    assert_eq!((report.mismatches, report.in_flight), (33, 0));
    let causes: BTreeMap<u64, MismatchCause> =
        report.differing.iter().map(|found| (found.key, found.mismatch.cause)).collect();
    assert_eq!(causes.len(), 33);
    assert_eq!(causes[&10], MismatchCause::Unexplained);
    assert_eq!([causes[&20], causes[&21]], [MismatchCause::Missing; 2]);
    assert!((200..230).all(|key| causes[&key] == MismatchCause::Extra));
    let ten = report.differing.iter().find(|found| found.key == 10).unwrap();
    let fields: Vec<_> = ten.mismatch.differences.iter().map(|found| found.field.as_str()).collect();
    assert_eq!(fields, ["age"]);
    assert!(report.by_cause.contains(&(MismatchCause::Extra, 30)));

    let short = Verify::new(&users).keep(5).run().await.unwrap();
    assert_eq!((short.mismatches, short.differing.len()), (33, 5));
    let keys = Verify::new(&users).keys([10, 11, 20, 20, 205]).await.unwrap();
    assert_eq!((keys.compared, keys.mismatches), (4, 3));
}

#[tokio::test(start_paused = true)]
async fn a_sample_compares_its_share_and_opens_no_gate() {
    let (old, new): (Users, Users) = (Arc::default(), Arc::default());
    for key in 0..5_000 {
        old.put(&key, &user("Ada", 30)).await.unwrap();
        new.put(&key, &user("Ada", 30)).await.unwrap();
    }
    let users = DualWrite::builder(old, new).phase(Phase::DualWrite).start().await.unwrap();
    let mut shadow = MoveRequest::to(Phase::Shadow);
    for check in users.gates(Phase::Shadow).unwrap().checks {
        shadow = shadow.overriding(check.gate, "a test");
    }
    users.advance_with(shadow).await.unwrap();
    let verified = || {
        let checks = users.gates(Phase::Live).unwrap().checks.into_iter();
        checks.filter(|check| check.gate == Gate::Verified).all(|check| check.passed)
    };
    let sample = Verify::new(&users).sample(0.1).run().await.unwrap();
    assert!(sample.complete && (300..800).contains(&sample.compared), "{sample:?}");
    assert!(sample.sampled.unwrap().ranges < sample.sampled.unwrap().of / 5);
    assert!(!verified());
    Verify::new(&users).run().await.unwrap();
    assert!(verified());
    let error = Verify::new(&users).sample(0.0).run().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn parked_keys_are_told_apart_and_pending_ones_are_waited_for() {
    let (old, new): (Users, Users) = (Arc::default(), Arc::default());
    for key in [1, 2, 3] {
        old.put(&key, &user("Ada", 30)).await.unwrap();
    }
    let queue = Arc::new(MemoryQueue::new());
    let parked = Touch::upsert(&1_u64).encode();
    queue.open_parked(parked, Epoch(1), Direction::OldToNew, "too long").await.unwrap();
    let pending = |key: u64| queue.open(Touch::upsert(&key).encode(), Epoch(1), Direction::OldToNew);
    let (soon, never) = (pending(2).await.unwrap(), pending(3).await.unwrap());
    let shared: Arc<dyn WriteQueue> = queue.clone();
    let users = DualWrite::builder(old, new).shared_queue(shared).phase(Phase::DualWrite);
    let users = users.start().await.unwrap();
    let job = Verify::new(&users).patience(Duration::from_secs(2)).start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    queue.release(soon, None);
    let report = job.wait().await.unwrap();
    let found: Vec<_> = report.differing.iter().map(|found| (found.key, found.mismatch.cause)).collect();
    assert_eq!(found, [(1, MismatchCause::Parked)]);
    assert_eq!((report.mismatches, report.in_flight), (1, 1));
    queue.release(never, None);
}

#[tokio::test(start_paused = true)]
async fn writes_in_flight_are_never_reported_as_differences() {
    for seed in 0..40 {
        for fenced in [false, true] {
            let (old, new) = (MemoryStore::new(), MemoryStore::new());
            for key in 0..40_u64 {
                old.put(&key, &"first".to_owned()).await.unwrap();
                new.put(&key, &"first".to_owned()).await.unwrap();
            }
            let new = if fenced { new } else { new.without_fence() };
            let (old, new) = (Wire::new(old, seed), Wire::new(new, seed + 1_000));
            let found = Arc::new(Mutex::new(Vec::new()));
            let sink = Arc::clone(&found);
            let observer = move |event: &Event| {
                if let Event::MismatchFound { mismatch } = event {
                    sink.lock().unwrap().push(mismatch.clone());
                }
            };
            let users = DualWrite::builder(old.clone(), new.clone()).phase(Phase::DualWrite);
            let users = users.observer(Arc::new(observer)).start().await.unwrap();
            let faults = Faults { late: 3, busy: 3, unknown: 2 };
            old.set_faults(faults);
            new.set_faults(faults);
            let writers: Vec<_> = (0..3_u64)
                .map(|writer| {
                    let users = users.clone();
                    let mut rng = fastrand::Rng::with_seed(seed * 7 + writer);
                    tokio::spawn(async move {
                        for number in 0..60 {
                            tokio::time::sleep(Duration::from_micros(rng.u64(0..3_000))).await;
                            let key = rng.u64(0..40);
                            let _ = if rng.bool() {
                                users.put(&key, &format!("{writer} {number}")).await
                            } else {
                                users.delete(&key).await
                            };
                        }
                    })
                })
                .collect();
            let verify = Verify::new(&users).settings(small_pages()).patience(Duration::from_secs(60));
            let report = verify.run().await.unwrap();
            for writer in writers {
                writer.await.unwrap();
            }
            assert_eq!(report.mismatches, 0, "seed {seed}: {report:?}");
            assert!(found.lock().unwrap().is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_verification_that_was_stopped_is_gone_on_from_and_counts_on() {
    let (_, _, users) = apart().await;
    let checkpoints = Arc::new(MemoryCheckpoints::new());
    let mut settings = PageSettings { workers: 1, ..small_pages() };
    settings.pace.rows_per_second = Some(50);
    let verify = || Verify::new(&users).settings(settings.clone()).shared_checkpoints(checkpoints.clone());
    let job = verify().start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    job.stop();
    let first = job.wait().await.unwrap();
    assert!(!first.complete && first.mismatches > 0, "{first:?}");
    let second = verify().run().await.unwrap();
    assert!(second.complete && second.resumed);
    assert_eq!(second.mismatches, 33);
    let third = verify().run().await.unwrap();
    assert!(third.complete && !third.resumed, "a completed one begins anew");
}

#[tokio::test(start_paused = true)]
async fn a_repair_removes_only_what_its_policy_covers() {
    let (old, new, users) = apart().await;
    let found = Verify::new(&users).run().await.unwrap();
    let repaired = Repair::new(&users).keys(&found.differing).await.unwrap();
    assert_eq!((repaired.queued, repaired.deletions, repaired.deletions_refused), (3, 0, 30));
    users.drained().await;
    assert_eq!(new.len(), 130);

    let found = Verify::new(&users).run().await.unwrap();
    let repair = Repair::new(&users).deletions(Deletions::AtMost(29));
    assert_eq!(repair.keys(&found.differing).await.unwrap().deletions_refused, 30);
    users.drained().await;
    assert_eq!(new.len(), 130, "over the budget nothing is removed");

    // What the primary has by the time of the repair is not removed.
    old.put(&200, &user("late", 1)).await.unwrap();
    let repair = Repair::new(&users).deletions(Deletions::AtMost(30));
    assert_eq!(repair.keys(&found.differing).await.unwrap().deletions, 30);
    users.drained().await;
    assert_eq!(new.snapshot(), old.snapshot());
    assert_eq!(Verify::new(&users).run().await.unwrap().mismatches, 0);
}

#[tokio::test(start_paused = true)]
async fn a_tainted_range_is_reconciled_on_both_sides_and_then_clean() {
    let (old, new, users) = apart().await;
    let range = KeyRange { after: Some(15_u64), up_to: Some(209) }.encode();
    users.queue().taint(range, "the queue was full").await.unwrap();
    assert!(!users.queue().is_clean(&KeyBytes::of(&50_u64)));
    let report = Verify::new(&users).patience(Duration::from_millis(10)).run().await.unwrap();
    assert_eq!(report.in_flight, 12, "what is tainted is not called a difference");

    let done = Repair::new(&users).taints().await.unwrap().wait().await.unwrap();
    assert_eq!(done.cleared, 1);
    users.drained().await;
    assert_eq!(users.queue_stats().dirty(), 0);
    let left: Vec<u64> = (0..300).filter(|key| old.snapshot().get(key) != new.snapshot().get(key)).collect();
    assert_eq!(left, [vec![10], (210..230).collect()].concat(), "only the tainted range was touched");
}

/// Counts the pages of records that are read from a side which can sum up ranges.
struct Counted {
    inside: MemoryStore<u64, u32>,
    pages: AtomicUsize,
    words: &'static str,
}

#[async_trait]
impl Store for Counted {
    type Key = u64;
    type Record = u32;

    async fn get(&self, key: &u64) -> Result<Option<u32>> {
        self.inside.get(key).await
    }

    async fn put(&self, key: &u64, record: &u32) -> Result<()> {
        self.inside.put(key, record).await
    }

    async fn delete(&self, key: &u64) -> Result<()> {
        self.inside.delete(key).await
    }

    fn settle_time(&self) -> Duration {
        Duration::ZERO
    }

    fn capabilities(&self) -> Capabilities<'_, u64, u32> {
        Capabilities { digest: Some(self), scan: Some(self), ..Capabilities::none() }
    }
}

#[async_trait]
impl Scan for Counted {
    async fn page(&self, range: &KeyRange<u64>, limit: usize) -> Result<Page<u64, u32>> {
        self.pages.fetch_add(1, Ordering::Relaxed);
        self.inside.page(range, limit).await
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<u64>>> {
        self.inside.split(parts).await
    }

    async fn estimated_len(&self) -> Result<u64> {
        self.inside.estimated_len().await
    }
}

#[async_trait]
impl Digest for Counted {
    fn digest_of(&self) -> String {
        self.words.to_owned()
    }

    async fn nth_key(&self, range: &KeyRange<u64>, records: usize) -> Result<Option<u64>> {
        self.inside.nth_key(range, records).await
    }

    async fn digest(&self, range: &KeyRange<u64>) -> Result<RangeDigest> {
        self.inside.digest(range).await
    }
}

/// Two sides of 10,000 records that the change tells apart, and a verification of them: the report, and how
/// many pages of records the primary was asked for.
async fn summed_up(
    words: [&'static str; 2],
    change: impl FnOnce(&mut BTreeMap<u64, u32>),
) -> (VerifyReport<u64>, usize) {
    let all: BTreeMap<u64, u32> = (0..10_000).map(|key| (key * 2, u32::try_from(key).unwrap())).collect();
    let mut other = all.clone();
    change(&mut other);
    let side = async |records: BTreeMap<u64, u32>, words| {
        let inside = MemoryStore::new().with_digest();
        for (key, record) in records {
            inside.put(&key, &record).await.unwrap();
        }
        Arc::new(Counted { inside, pages: AtomicUsize::new(0), words })
    };
    let (old, new) = (side(all, words[0]).await, side(other, words[1]).await);
    let users = DualWrite::builder(Arc::clone(&old), new).phase(Phase::DualWrite).start().await.unwrap();
    let settings =
        PageSettings { first_page_rows: 50, smallest_page_rows: 50, largest_page_rows: 50, ..small_pages() };
    let report = Verify::new(&users).settings(settings).run().await.unwrap();
    (report, old.pages.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn equal_sides_that_sum_up_alike_are_compared_without_reading_a_record() {
    let (report, pages) = summed_up(["a", "a"], |_| {}).await;
    assert_eq!((report.compared, report.mismatches, pages), (10_000, 0, 0));
    assert!(
        report.complete && report.method.contains("summed up") && report.method.contains("not seen"),
        "{report:?}"
    );
    let (report, pages) = summed_up(["a", "b"], |_| {}).await;
    assert_eq!((report.compared, report.mismatches), (10_000, 0));
    assert!(pages >= 200 && !report.method.contains("summed up"), "{pages} {report:?}");
}

#[tokio::test(start_paused = true)]
async fn sums_that_differ_lead_to_every_record_that_does() {
    let spoil = |other: &mut BTreeMap<u64, u32>| {
        for missing in [0, 4_000, 19_998] {
            other.remove(&missing);
        }
        for extra in [1, 9_999, 19_999, 30_000] {
            other.insert(extra, 7);
        }
        // Two records that change places: the count and both keys stay.
        let (left, right) = (other[&5_000], other[&5_002]);
        other.insert(5_000, right);
        other.insert(5_002, left);
    };
    let (report, pages) = summed_up(["a", "a"], spoil).await;
    let found: Vec<u64> = report.differing.iter().map(|differing| differing.key).collect();
    let mut sorted = found.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 4_000, 5_000, 5_002, 9_999, 19_998, 19_999, 30_000]);
    assert!(report.complete && (1..60).contains(&pages), "{pages} pages of 200");

    // Where everything differs, sums are not asked for again and again, and nothing is missed.
    let (report, pages) =
        summed_up(["a", "a"], |other| other.values_mut().for_each(|record| *record += 1)).await;
    assert_eq!((report.mismatches, pages >= 200), (10_000, true));
}
