//! What only several instances of one queue show, for every database that has a shared queue.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{
    Claim, Direction, EntryId, EntryState, Epoch, Intent, Span, Touch, TouchItem, WriteQueue, WriteQueueExt,
};
use zdm_core::testkit::Random;
use zdm_sql_adapters::shared_queue::{QueueTables, SharedQueue, SharedQueueOptions};

/// A database of its own for each test.
#[async_trait]
pub(crate) trait Place: Send + Sync + Sized + 'static {
    type Tables: QueueTables;

    /// `None` when there is no server.
    async fn new() -> Option<Self>;

    /// Joins the one queue of the database. Every call has connections of its own.
    async fn join(&self, instance: &str, options: SharedQueueOptions) -> SharedQueue<Self::Tables>;

    /// Runs statements on a connection of its own.
    async fn sql(&self, statements: &str);

    /// An expression that makes bytes of hexadecimal digits.
    fn bytes(hex: &str) -> String;
}

const FORWARD: Direction = Direction::OldToNew;
const SETTLE: Duration = Duration::from_millis(400);
const LEASE: Duration = Duration::from_millis(600);
/// For a machine that is busy: an instance that stands still for longer than its lease is no longer alone.
const LONG_LEASE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> SharedQueueOptions {
    SharedQueueOptions::default().poll(Duration::from_millis(20))
}

fn key(number: u64) -> KeyBytes {
    KeyBytes::of(&number)
}

fn upsert(number: u64) -> Touch {
    Touch::upsert(&number).encode()
}

async fn member<P: Place>(place: &P, name: &str, options: SharedQueueOptions) -> SharedQueue<P::Tables> {
    let queue = place.join(name, options).await;
    queue.recover(SETTLE).await.unwrap();
    queue
}

async fn pair<P: Place>(place: &P) -> (SharedQueue<P::Tables>, SharedQueue<P::Tables>) {
    (member(place, "a", options()).await, member(place, "b", options()).await)
}

async fn mark<Q: WriteQueue>(queue: &Q, touch: Touch) {
    queue.mark(touch, Epoch(1), FORWARD).await.unwrap();
}

async fn claim<Q: WriteQueue>(queue: &Q) -> Option<Claim> {
    queue.claim(FORWARD, 100).await.unwrap()
}

/// The next claim, whenever it comes.
async fn wait_claim<Q: WriteQueue>(queue: &Q) -> Claim {
    let found = async {
        loop {
            if let Some(claim) = claim(queue).await {
                return claim;
            }
            queue.wait_claimable().await;
        }
    };
    timeout(PATIENCE, found).await.expect("nothing can be claimed")
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn a_key_is_claimed_by_one_instance<P: Place>() {
    let Some(place) = P::new().await else { return };
    let (a, b) = pair(&place).await;
    mark(&a, upsert(1)).await;
    mark(&b, upsert(1)).await;
    mark(&b, upsert(2)).await;
    let of_a = wait_claim(&a).await;
    let of_b = wait_claim(&b).await;
    assert_eq!(of_b.entries.len(), 1);
    assert_eq!(of_b.entries[0].touch, upsert(2), "a key that another instance has claimed");
    assert!(of_b.stamp > of_a.stamp);
    sleep(Duration::from_millis(50)).await;
    assert!(claim(&b).await.is_none(), "a key that another instance has claimed");
    a.ack(&of_a.ids());
    let later = wait_claim(&b).await;
    assert_eq!(later.entries[0].touch, upsert(1));
    assert!(later.stamp > of_b.stamp);
}

pub(crate) async fn a_retry_keeps_the_key_from_others<P: Place>() {
    let Some(place) = P::new().await else { return };
    let (a, b) = pair(&place).await;
    mark(&a, upsert(1)).await;
    let claimed = wait_claim(&a).await;
    mark(&b, upsert(1)).await;
    let earliest = Instant::now() + SETTLE;
    a.retry_later(&claimed.ids(), SETTLE, Some("no answer"));
    let later = wait_claim(&b).await;
    assert!(Instant::now() >= earliest, "claimed before an abandoned write had settled");
    b.ack(&later.ids());
    let again = wait_claim(&a).await;
    assert_eq!((again.ids(), again.entries[0].attempts), (claimed.ids(), 1));
}

pub(crate) async fn a_range_and_its_keys_exclude_each_other<P: Place>() {
    let Some(place) = P::new().await else { return };
    let (a, b) = pair(&place).await;
    mark(&a, upsert(5)).await;
    let of_key = wait_claim(&a).await;
    let wide = Touch::range(KeyRange::between(0_u64, 10)).encode();
    mark(&b, wide.clone()).await;
    assert!(claim(&b).await.is_none(), "a range was claimed with a key of another instance in it");
    // The range is reserved: other instances lock no more of its keys, or its turn would never come.
    mark(&a, upsert(6)).await;
    mark(&a, upsert(30)).await;
    let outside = wait_claim(&a).await;
    assert_eq!(outside.entries.len(), 1);
    assert_eq!(outside.entries[0].touch, upsert(30));
    a.ack(&of_key.ids());
    let of_range = wait_claim(&b).await;
    assert_eq!(of_range.entries[0].touch, wide);
    mark(&a, Touch::range(KeyRange::between(9_u64, 20)).encode()).await;
    sleep(Duration::from_millis(50)).await;
    assert!(claim(&a).await.is_none(), "a claimed range of another instance was claimed");
    b.ack(&of_range.ids());
    let mut left = 0;
    while left < 2 {
        let claimed = wait_claim(&a).await;
        left += claimed.entries.len();
        a.ack(&claimed.ids());
    }
}

pub(crate) async fn a_dead_instance_is_survived<P: Place>() {
    let Some(place) = P::new().await else { return };
    let a = member(&place, "a", options()).await;
    let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let place = Arc::new(place);
    let of_b = Arc::clone(&place);
    let b = dying.spawn(async move {
        let b = member(&*of_b, "b", options().lease(LEASE)).await;
        // One entry in each state: open, claimed, parked.
        mark(&b, upsert(1)).await;
        let claimed = wait_claim(&b).await;
        mark(&b, upsert(2)).await;
        let parked = wait_claim(&b).await;
        b.park(&parked.ids(), "does not fit");
        b.open(upsert(3), Epoch(1), FORWARD).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        assert_eq!(claimed.entries.len(), 1);
        b
    });
    let b = b.await.unwrap();
    // Nothing of it runs any more, and its connections are gone.
    let died = Instant::now();
    dying.shutdown_background();
    std::mem::forget(b);

    mark(&a, upsert(1)).await;
    assert!(claim(&a).await.is_none(), "a key that a dead instance has claimed");
    eventually("the entries of a dead instance are not taken over", async || a.stats().ambiguous == 2).await;
    // The instance has renewed its lease at most a third of it before its end.
    assert!(died.elapsed() >= LEASE / 2, "an instance was declared dead during its lease");
    let stats = a.stats();
    assert_eq!((stats.parked, stats.pending()), (1, 3), "{stats:?}");
    assert_eq!(a.entries(EntryState::Parked, 10)[0].last_error.as_deref(), Some("does not fit"));
    let mut seen = HashSet::new();
    while seen.len() < 3 {
        let claimed = wait_claim(&a).await;
        assert!(
            died.elapsed() >= LEASE / 2 + SETTLE,
            "claimed before the calls of a dead instance had settled"
        );
        seen.extend(claimed.ids());
        a.ack(&claimed.ids());
    }
    a.wait_drained().await;
    assert_eq!(a.unpark(&KeyRange::all()), 1);
    assert_eq!(wait_claim(&a).await.entries[0].touch, upsert(2));
}

pub(crate) async fn an_instance_that_was_declared_dead_counts_nothing_as_done<P: Place>() {
    let Some(place) = P::new().await else { return };
    let (a, b) = pair(&place).await;
    mark(&a, upsert(1)).await;
    let claimed = wait_claim(&a).await;
    let open = a.open(upsert(2), Epoch(1), FORWARD).await.unwrap();
    place.sql("UPDATE zdm_queue_instance SET alive_until = '2001-01-01 00:00:00' WHERE id < (SELECT m FROM (SELECT max(id) AS m FROM zdm_queue_instance) x)").await;
    // B takes both over, works on them and is done, while A still has its calls under way.
    let mut done = 0;
    while done < 2 {
        let taken = wait_claim(&b).await;
        done += taken.entries.len();
        b.ack(&taken.ids());
    }
    eventually("the instance does not notice", async || {
        a.catch_up().await.is_ok() && b.catch_up().await.is_ok() && b.stats().pending() == 2
    })
    .await;
    assert!(!b.is_clean(&key(1)) && !b.is_clean(&key(2)), "a call of A may still change them");
    a.ack(&claimed.ids());
    assert_eq!(a.stats().pending(), 2, "a claim from before was counted as done");
    a.release(open, None);
    let mut again = HashSet::new();
    while again.len() < 2 {
        let claimed = wait_claim(&a).await;
        again.extend(claimed.entries.iter().map(|entry| entry.touch.clone()));
        a.ack(&claimed.ids());
    }
    assert_eq!(again, HashSet::from([upsert(1), upsert(2)]));
    timeout(PATIENCE, a.wait_drained()).await.unwrap();
    assert!(a.is_clean(&key(1)) && a.is_clean(&key(2)));
}

pub(crate) async fn others_are_known_after_catching_up<P: Place>() {
    let Some(place) = P::new().await else { return };
    let (a, b) = pair(&place).await;
    // So rarely that only `catch_up` can tell.
    let c = member(
        &place,
        "c",
        SharedQueueOptions::default()
            .lease(Duration::from_secs(100))
            .poll(Duration::from_secs(20))
            .stale_after(Duration::from_secs(60)),
    )
    .await;
    mark(&b, upsert(1)).await;
    let range = KeyRange::between(key(10), key(20));
    let taint = b.taint(range, "disk full").await.unwrap();
    c.catch_up().await.unwrap();
    assert!(!c.is_clean(&key(1)) && !c.is_clean(&key(15)) && c.is_clean(&key(2)));
    assert_eq!((c.stats().pending(), c.stats().taints), (1, 1));
    let still = timeout(Duration::from_millis(100), c.wait_drained()).await;
    assert!(still.is_err(), "the queue is not drained while another instance has entries");
    let claimed = wait_claim(&b).await;
    b.ack(&claimed.ids());
    a.clear_taint(taint).await.unwrap();
    eventually("what is done stays known as pending", async || {
        c.catch_up().await.unwrap();
        c.is_clean(&key(1)) && c.is_clean(&key(15)) && c.stats().dirty() == 0
    })
    .await;
    timeout(PATIENCE, c.wait_drained()).await.unwrap();
}

pub(crate) async fn watches_see_what_comes_and_goes_elsewhere<P: Place>() {
    let Some(place) = P::new().await else { return };
    let (a, b) = pair(&place).await;
    mark(&b, upsert(1)).await;
    let first = wait_claim(&b).await;
    let watch = a.watch(KeyRange::after(key(0)));
    a.catch_up().await.unwrap();
    b.ack(&first.ids());
    mark(&b, Touch::delete(&2_u64).encode()).await;
    let claimed = wait_claim(&b).await;
    b.ack(&claimed.ids());
    mark(&a, upsert(3)).await;
    eventually("nothing goes", async || {
        a.catch_up().await.unwrap();
        a.is_clean(&key(1)) && a.is_clean(&key(2))
    })
    .await;
    let mut seen: BTreeMap<KeyBytes, Intent> = BTreeMap::new();
    for TouchItem { span, intent } in a.unwatch(watch) {
        let Span::Key(key) = span else { panic!("{span:?}") };
        seen.insert(key, intent);
    }
    let wanted = [(key(1), Intent::Upsert), (key(2), Intent::Delete), (key(3), Intent::Upsert)];
    assert_eq!(seen, BTreeMap::from(wanted));
}

pub(crate) async fn the_limit_counts_all_instances<P: Place>() {
    let Some(place) = P::new().await else { return };
    let a = member(&place, "a", options().limit(2)).await;
    let b = member(&place, "b", options().limit(2)).await;
    mark(&a, upsert(1)).await;
    mark(&a, upsert(2)).await;
    b.catch_up().await.unwrap();
    let refused = b.open(upsert(3), Epoch(1), FORWARD).await.unwrap_err();
    assert_eq!(refused.kind(), zdm_core::error::Kind::Limit);
    let claimed = wait_claim(&a).await;
    let room = timeout(PATIENCE, b.wait_room());
    let acked = async { a.ack(&claimed.ids()) };
    let (room, ()) = tokio::join!(room, acked);
    room.expect("room at another instance is not seen");
    b.open(upsert(3), Epoch(1), FORWARD).await.unwrap();
}

pub(crate) async fn parked_entries_can_be_put_back_by_any_instance<P: Place>() {
    let Some(place) = P::new().await else { return };
    let (a, b) = pair(&place).await;
    for number in [1, 2] {
        mark(&a, upsert(number)).await;
        let claimed = wait_claim(&a).await;
        a.park(&claimed.ids(), "does not fit");
    }
    eventually("a parked entry is not seen", async || {
        b.catch_up().await.unwrap();
        b.stats().parked == 2
    })
    .await;
    // A newer entry of the key that goes well may be what the parked one waited for.
    mark(&b, upsert(1)).await;
    let claimed = wait_claim(&b).await;
    b.ack(&claimed.ids());
    // Whoever is first takes it.
    let back = tokio::select! { claimed = wait_claim(&a) => { a.ack(&claimed.ids()); claimed } claimed = wait_claim(&b) => { b.ack(&claimed.ids()); claimed } };
    assert_eq!(back.entries[0].touch, upsert(1));
    eventually("the entry does not go", async || {
        a.catch_up().await.unwrap();
        b.catch_up().await.unwrap();
        a.stats().dirty() == 1 && b.stats().dirty() == 1
    })
    .await;
    assert_eq!(b.unpark(&KeyRange::all()), 1);
    let back = tokio::select! { claimed = wait_claim(&a) => { a.ack(&claimed.ids()); claimed } claimed = wait_claim(&b) => { b.ack(&claimed.ids()); claimed } };
    assert_eq!((&back.entries[0].touch, back.entries[0].attempts), (&upsert(2), 0));
    timeout(PATIENCE, a.wait_drained()).await.unwrap();
    assert_eq!(a.stats().dirty(), 0);
}

/// Rows without an owner, as triggers leave them; one of them becomes visible after one with a greater id.
pub(crate) async fn captured_rows_are_taken_over_once_and_none_is_passed_by<P: Place>() {
    let Some(place) = P::new().await else { return };
    let (a, b) = pair(&place).await;
    let row = |id: u64| {
        let mut bytes = Vec::new();
        upsert(id).write_to(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let touch = P::bytes(&hex);
        format!(
            "INSERT INTO zdm_queue_entry (owner, id, touch, epoch, new_to_old, opened_at, parked, attempts) \
             SELECT id, {id}, {touch}, 1, {no}, 0, {no}, 0 FROM zdm_queue;",
            no = "1 = 0"
        )
    };
    let mut found = Vec::new();
    for id in [70_000_u64, 60_000, 80_000, 50_000] {
        place.sql(&row(id)).await;
        let claimed = tokio::select! {
            claimed = wait_claim(&a) => { a.ack(&claimed.ids()); claimed }
            claimed = wait_claim(&b) => { b.ack(&claimed.ids()); claimed }
        };
        found.extend(claimed.entries.into_iter().map(|entry| entry.touch));
    }
    assert_eq!(found, [70_000, 60_000, 80_000, 50_000].map(upsert));
    timeout(PATIENCE, a.wait_drained()).await.unwrap();
}

/// Writers and workers on two instances; one dies in the middle. In the end both stores are equal, and no
/// two workers ever had a key at the same time.
pub(crate) async fn nothing_is_lost_and_no_key_claimed_twice<P: Place>() {
    let Some(place) = P::new().await else { return };
    let place = Arc::new(place);
    let world = Arc::new(World::default());
    let living = member(&*place, "a", options()).await;
    let living = Arc::new(living);
    for round in 0..2_u64 {
        let dying =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (of_b, in_b) = (Arc::clone(&place), Arc::clone(&world));
        let b = dying.spawn(async move {
            let b = Arc::new(member(&*of_b, &format!("b{round}"), options().lease(LONG_LEASE)).await);
            for seed in 0..3 {
                tokio::spawn(write_for_ever(Arc::clone(&b), Arc::clone(&in_b), 100 * (round + 1) + seed));
                tokio::spawn(work_for_ever(Arc::clone(&b), Arc::clone(&in_b), 1 + round));
            }
            b
        });
        let b = b.await.unwrap();
        let mine: Vec<_> = (0..3)
            .flat_map(|seed| {
                [
                    tokio::spawn(write_for_ever(
                        Arc::clone(&living),
                        Arc::clone(&world),
                        1_000 * (round + 1) + seed,
                    )),
                    tokio::spawn(work_for_ever(Arc::clone(&living), Arc::clone(&world), 0)),
                ]
            })
            .collect();
        sleep(Duration::from_millis(700)).await;
        dying.shutdown_background();
        std::mem::forget(b);
        // A task that was running at that moment runs on to its next pause.
        sleep(Duration::from_millis(300)).await;
        // Its secondary writes are done at once, so nothing of it is under way any more.
        world.forget(1 + round);
        // The writers stop; the workers do not.
        for writer in mine.iter().step_by(2) {
            writer.abort();
        }
        timeout(PATIENCE, living.wait_drained()).await.expect("the queue does not drain");
        for worker in mine {
            worker.abort();
            if let Err(error) = worker.await {
                assert!(error.is_cancelled(), "{error}");
            }
        }
        let (primary, secondary) = (world.primary.lock().unwrap(), world.secondary.lock().unwrap());
        assert!(primary.len() > 5, "{primary:?}");
        assert_eq!(*primary, *secondary);
        let stats = living.stats();
        assert_eq!(stats.dirty(), 0, "{stats:?}");
    }
}

/// Two stores and who works on which key.
#[derive(Default)]
struct World {
    primary: Mutex<BTreeMap<u64, u64>>,
    secondary: Mutex<BTreeMap<u64, u64>>,
    busy: Mutex<BTreeMap<KeyBytes, u64>>,
}

impl World {
    fn forget(&self, instance: u64) {
        self.busy.lock().unwrap().retain(|_, of| *of != instance);
    }
}

/// A write that is given up in the middle has an outcome that nobody knows.
struct UnderWay<'a, Q: WriteQueue>(&'a Q, EntryId);

impl<Q: WriteQueue> Drop for UnderWay<'_, Q> {
    fn drop(&mut self) {
        self.0.hold(self.1, Duration::from_millis(20));
    }
}

async fn write_for_ever<Q: WriteQueue>(queue: Arc<Q>, world: Arc<World>, seed: u64) {
    let mut random = Random::new(seed);
    loop {
        let number = random.below(20);
        let Ok(id) = queue.open(upsert(number), Epoch(1), FORWARD).await else { continue };
        let under_way = UnderWay(&*queue, id);
        sleep(Duration::from_micros(random.below(3_000))).await;
        std::mem::forget(under_way);
        match random.below(6) {
            0 => queue.cancel(id),
            choice => {
                *world.primary.lock().unwrap().entry(number).or_default() += 1;
                match choice {
                    1 => queue.hold(id, Duration::from_millis(random.below(20))),
                    _ => queue.release(id, None),
                }
            }
        }
    }
}

async fn work_for_ever<Q: WriteQueue>(queue: Arc<Q>, world: Arc<World>, instance: u64) {
    let mut random = Random::new(instance + 77);
    loop {
        let Ok(Some(claim)) = queue.claim(FORWARD, 5).await else {
            drop(timeout(Duration::from_millis(50), queue.wait_claimable()).await);
            continue;
        };
        let keys: HashSet<KeyBytes> = claim
            .entries
            .iter()
            .flat_map(|entry| entry.touch.items())
            .filter_map(|item| match &item.span {
                Span::Key(key) => Some(key.clone()),
                Span::Range(_) => None,
            })
            .collect();
        for key in &keys {
            let before = world.busy.lock().unwrap().insert(key.clone(), instance);
            assert_eq!(before, None, "the key {key:?} is claimed twice");
        }
        sleep(Duration::from_millis(random.below(4))).await;
        {
            let (primary, mut secondary) = (world.primary.lock().unwrap(), world.secondary.lock().unwrap());
            for key in &keys {
                let number: u64 = key.to_key().unwrap();
                if let Some(value) = primary.get(&number) {
                    secondary.insert(number, *value);
                }
            }
        }
        world.busy.lock().unwrap().retain(|key, _| !keys.contains(key));
        match random.below(5) {
            0 => queue.retry_later(&claim.ids(), Duration::from_millis(3), Some("again")),
            _ => queue.ack(&claim.ids()),
        }
    }
}

/// The tests of a place, by name.
macro_rules! shared_queue_tests {
    ($place:ty) => {
        $crate::shared_queue::shared_queue_tests!($place:
            a_key_is_claimed_by_one_instance,
            a_retry_keeps_the_key_from_others,
            a_range_and_its_keys_exclude_each_other,
            a_dead_instance_is_survived,
            an_instance_that_was_declared_dead_counts_nothing_as_done,
            others_are_known_after_catching_up,
            watches_see_what_comes_and_goes_elsewhere,
            the_limit_counts_all_instances,
            parked_entries_can_be_put_back_by_any_instance,
            captured_rows_are_taken_over_once_and_none_is_passed_by,
            nothing_is_lost_and_no_key_claimed_twice,
        );
    };
    ($place:ty: $($rule:ident,)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            $crate::shared_queue::$rule::<$place>().await;
        }
    )+};
}
pub(crate) use shared_queue_tests;
