//! What a service sees: repositories of its own, full queues, reads on trial, comparisons, outages, shutdown.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use zdm_core::error::{Certainty, Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::phase::{Percent, Phase};
use zdm_core::queue::{Direction, EntryState, Epoch, MemoryQueue, Touch, WriteQueue, WriteQueueExt};
use zdm_core::report::{Event, MismatchCause};
use zdm_core::store::{MemoryStore, Store, StoreExt};
use zdm_core::testkit::{Fault, FaultyStore};
use zdm_dualwrite::{Builder, DualWrite, Safety, Settings, WhenFull};

#[derive(Clone, Debug, PartialEq, Serialize)]
struct User {
    name: String,
    city: String,
}

fn user(name: &str) -> User {
    User { name: name.to_owned(), city: "London".to_owned() }
}

type Memory = MemoryStore<u64, User>;
type Side = Arc<FaultyStore<Memory>>;

fn side(store: Memory) -> Side {
    Arc::new(FaultyStore::new(store))
}

struct World {
    old: Side,
    new: Side,
    users: DualWrite<Side>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl World {
    fn saw(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.lock().unwrap().iter().any(wanted)
    }
}

async fn world(phase: Phase, change: impl FnOnce(Builder<Side>) -> Builder<Side>) -> World {
    world_of(side(Memory::new()), side(Memory::new()), phase, change).await
}

async fn world_of(
    old: Side,
    new: Side,
    phase: Phase,
    change: impl FnOnce(Builder<Side>) -> Builder<Side>,
) -> World {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let builder = DualWrite::builder(Arc::clone(&old), Arc::clone(&new))
        .phase(phase)
        .observer(Arc::new(move |event: &Event| seen.lock().unwrap().push(event.clone())));
    let users = change(builder).start().await.unwrap();
    World { old, new, users, events }
}

/// A repository as an application has it: calls of its own beside those of a store.
#[async_trait]
trait UserRepository: Store<Key = u64, Record = User> {
    async fn rename(&self, id: u64, name: &str) -> Result<()>;
    async fn sign_up(&self, user: User) -> Result<u64>;
}

#[async_trait]
impl UserRepository for Memory {
    async fn rename(&self, id: u64, name: &str) -> Result<()> {
        let known = self.fetch(&id).await?;
        self.put(&id, &User { name: name.to_owned(), ..known }).await
    }

    async fn sign_up(&self, user: User) -> Result<u64> {
        let id = self.snapshot().keys().last().map_or(1, |last| last + 1);
        self.put(&id, &user).await.map(|()| id)
    }
}

#[tokio::test(start_paused = true)]
async fn a_repository_of_ones_own_is_a_side() {
    let old: Arc<dyn UserRepository> = Arc::new(Memory::new());
    let new: Arc<dyn UserRepository> = Arc::new(Memory::new());
    let users =
        DualWrite::builder(Arc::clone(&old), Arc::clone(&new)).phase(Phase::DualWrite).start().await.unwrap();
    assert_eq!(
        users.safety(Direction::OldToNew),
        Safety::Fenced,
        "what the store can do is found behind dyn"
    );

    users.put(&7, &user("ada")).await.unwrap();
    users.write(Touch::upsert(&7), |repo| async move { repo.rename(7, "Ada").await }).await.unwrap();
    let id = users
        .write_narrowing(
            Touch::after(&7),
            |repo| async move { repo.sign_up(user("Grace")).await },
            |id| Some(Touch::upsert(id)),
        )
        .await
        .unwrap();
    users.drained().await;
    assert_eq!(new.get(&7).await.unwrap().unwrap().name, "Ada");
    assert_eq!(new.get(&id).await.unwrap(), Some(user("Grace")));

    let missing = users.write(Touch::upsert(&99), |repo| async move { repo.rename(99, "?").await }).await;
    assert_eq!(missing.unwrap_err().kind(), Kind::Refused, "the caller sees what the repository said");
    assert_eq!(users.queue_stats().dirty(), 0, "what was not applied leaves no entry");
}

#[tokio::test(start_paused = true)]
async fn sides_of_different_types_meet_behind_dyn() {
    let old = Memory::new().into_dyn();
    let new = FaultyStore::new(Memory::new().plain()).into_dyn();
    let users = DualWrite::builder(old, new).phase(Phase::DualWrite).start().await.unwrap();
    assert_eq!(users.safety(Direction::OldToNew), Safety::Exclusive);
    users.put(&1, &user("Ada")).await.unwrap();
    users.drained().await;
    assert_eq!(users.new_store().get(&1).await.unwrap(), Some(user("Ada")));
    let error = users
        .write(Touch::range(KeyRange::all()), |repo| async move { repo.delete(&1).await })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the new store cannot be walked"), "{error}");
}

fn full(when_full: WhenFull) -> impl FnOnce(Builder<Side>) -> Builder<Side> {
    move |builder| {
        let mut settings = Settings::default();
        settings.when_full = when_full;
        builder.queue(MemoryQueue::with_limit(1)).settings(settings)
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_makes_writes_wait_and_then_refuses_them() {
    let world = world(Phase::DualWrite, full(WhenFull::Wait { deadline: Duration::from_secs(5) })).await;
    world.new.faults().set_outage(true);
    world.users.put(&1, &user("first")).await.unwrap();
    let began = tokio::time::Instant::now();
    let error = world.users.put(&2, &user("second")).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Limit, Certainty::NotApplied));
    assert!(began.elapsed() >= Duration::from_secs(5) && error.to_string().contains("5s"), "{error}");
    assert_eq!(world.old.get(&2).await.unwrap(), None, "the primary was not called");

    let users = world.users.clone();
    let waiting = tokio::spawn(async move { users.put(&3, &user("third")).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.new.faults().set_outage(false);
    waiting.await.unwrap().unwrap();
    world.users.drained().await;
    assert_eq!(world.old.inner().snapshot(), world.new.inner().snapshot());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_may_refuse_at_once() {
    let world = world(Phase::DualWrite, full(WhenFull::RefuseWrites)).await;
    world.new.faults().set_outage(true);
    world.users.put(&1, &user("first")).await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(world.users.put(&2, &user("second")).await.unwrap_err().kind(), Kind::Limit);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_may_taint_and_go_on() {
    let world = world(Phase::DualWrite, full(WhenFull::Taint)).await;
    world.new.faults().set_outage(true);
    world.users.put(&1, &user("first")).await.unwrap();
    world.users.put(&2, &user("second")).await.unwrap();
    world.users.put(&3, &user("third")).await.unwrap();
    assert_eq!(world.old.inner().len(), 3, "the service goes on");
    assert_eq!(world.users.queue_stats().taints, 1, "one window for both");
    assert!(world.saw(|event| matches!(event, Event::TaintRecorded { .. })));
    let queue = world.users.queue();
    assert!(!queue.is_clean(&zdm_core::key::KeyBytes::of(&9_u64)), "no key is known to be clean any more");
}

#[tokio::test(start_paused = true)]
async fn reads_on_trial_are_answered_by_new_for_clean_keys_only() {
    let all = Phase::Ramp(Percent::ALL);
    let world = world(all, |builder| builder).await;
    world.users.put(&1, &user("Ada")).await.unwrap();
    world.users.drained().await;
    // A difference that should not be there shows which side answers.
    world.new.inner().put(&1, &user("from new")).await.unwrap();
    assert_eq!(world.users.get(&1).await.unwrap(), Some(user("from new")));

    world.new.faults().set_outage(true);
    assert_eq!(
        world.users.get(&1).await.unwrap(),
        Some(user("Ada")),
        "a failure on trial is nobody's failure"
    );
    assert!(world.saw(|event| matches!(event, Event::TrialReadFailed { .. })));
    world.users.put(&1, &user("Grace")).await.unwrap();
    world.new.faults().set_outage(false);
    assert_eq!(
        world.users.get(&1).await.unwrap(),
        Some(user("Grace")),
        "a dirty key is read from the primary"
    );
}

#[tokio::test(start_paused = true)]
async fn raising_the_ramp_only_adds_keys() {
    let mut before: Vec<bool> = vec![false; 500];
    for percent in [0.0, 5.0, 30.0, 80.0, 100.0] {
        let phase = Phase::Ramp(Percent::new(percent).unwrap());
        let world = world(phase, |builder| builder).await;
        let mut now = Vec::new();
        for key in 0..500 {
            world.new.inner().put(&key, &user("new")).await.unwrap();
            now.push(world.users.get(&key).await.unwrap().is_some());
        }
        assert!(before.iter().zip(&now).all(|(before, now)| *now || !before), "{percent} removed a key");
        let share = now.iter().filter(|chosen| **chosen).count() as f64 / 5.0;
        assert!((share - percent).abs() < 6.0, "{share} of {percent} %");
        before = now;
    }
}

fn comparing(sample: f64) -> impl FnOnce(Builder<Side>) -> Builder<Side> {
    move |builder| {
        let mut settings = Settings::default();
        settings.shadow.sample = sample;
        builder.settings(settings)
    }
}

#[tokio::test(start_paused = true)]
async fn a_comparison_names_the_field_that_differs_and_spares_keys_in_flight() {
    let world = world(Phase::Shadow, comparing(1.0)).await;
    world.users.put(&1, &user("Ada")).await.unwrap();
    world.users.drained().await;
    world.users.get(&1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!((world.users.shadow_counts().compared, world.users.shadow_counts().mismatched), (1, 0));

    let elsewhere = User { city: "Paris".to_owned(), ..user("Ada") };
    world.new.inner().put(&1, &elsewhere).await.unwrap();
    world.users.get(&1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(world.saw(|event| matches!(event, Event::MismatchFound { mismatch }
        if mismatch.cause == MismatchCause::Unexplained
            && mismatch.differences.len() == 1
            && mismatch.differences[0].field == "city"
            && mismatch.differences[0].left == "\"London\"")));

    world.new.faults().set_outage(true);
    world.users.put(&2, &user("Grace")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.new.faults().calm();
    world.users.get(&2).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let counts = world.users.shadow_counts();
    assert_eq!((counts.mismatched, counts.in_flight), (1, 1), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_comparison_never_delays_the_read_it_follows() {
    let world = world(Phase::Shadow, comparing(1.0)).await;
    world.new.faults().set_outage(false);
    for _ in 0..100 {
        world.new.faults().next(zdm_core::testkit::Call::Get, Fault::Delay(Duration::from_secs(60)));
    }
    let began = tokio::time::Instant::now();
    for key in 0..100 {
        world.users.get(&key).await.unwrap();
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let counts = world.users.shadow_counts();
    assert_eq!((counts.failed, counts.skipped), (32, 68), "timeouts count, and so does what was left out");
}

#[tokio::test(start_paused = true)]
async fn an_outage_charges_no_entry_and_ends_by_itself() {
    let world = world(Phase::DualWrite, |builder| builder).await;
    world.new.faults().set_outage(true);
    for key in 0..50 {
        world.users.put(&key, &user("Ada")).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let stats = world.users.queue_stats();
    assert_eq!((stats.parked, stats.pending()), (0, 50), "an hour without the secondary parks nothing");
    assert!(world.saw(|event| matches!(event, Event::CircuitOpened)));
    world.new.faults().set_outage(false);
    world.users.drained().await;
    assert!(world.saw(|event| matches!(event, Event::CircuitClosed)));
    assert_eq!(world.old.inner().snapshot(), world.new.inner().snapshot());
}

#[tokio::test(start_paused = true)]
async fn one_record_that_does_not_fit_is_parked_and_holds_up_nobody() {
    let world = world(Phase::DualWrite, |builder| builder).await;
    world.new.faults().reject(|key, _| *key == 17);
    world.new.faults().set_outage(true);
    for key in 0..50 {
        world.users.put(&key, &user("Ada")).await.unwrap();
    }
    world.new.faults().set_outage(false);
    world.users.drained().await;
    let parked = world.users.queue().entries(EntryState::Parked, 10);
    assert_eq!(parked.len(), 1);
    assert!(parked[0].touch.covers(&zdm_core::key::KeyBytes::of(&17_u64)) && parked[0].last_error.is_some());
    assert_eq!(world.new.inner().len(), 49);

    world.new.faults().calm();
    assert_eq!(world.users.queue().unpark(&KeyRange::all()), 1);
    world.users.drained().await;
    assert_eq!(world.old.inner().snapshot(), world.new.inner().snapshot());
}

#[tokio::test(start_paused = true)]
async fn two_records_that_exchange_a_unique_value_converge() {
    for capability in ["fenced", "bulk"] {
        let unique = || {
            let store = Memory::new().with_unique("name", |user: &User| Some(user.name.clone()));
            if capability == "bulk" { store.without_fence() } else { store }
        };
        let (old, new) = (side(Memory::new()), side(unique()));
        // One key at a time, so that only grouping can bring them together.
        let world = world_of(old, new, Phase::DualWrite, |builder| {
            let mut settings = Settings::default();
            settings.reconcile_batch_keys = 1;
            builder.settings(settings)
        })
        .await;
        for (key, name) in [(1, "Ada"), (2, "Grace"), (3, "Joan")] {
            world.users.put(&key, &user(name)).await.unwrap();
        }
        world.users.drained().await;
        for (key, name) in [(1, "Grace"), (2, "Joan"), (3, "Ada")] {
            world.users.put(&key, &user(name)).await.unwrap();
        }
        world.users.drained().await;
        assert_eq!(world.users.queue_stats().dirty(), 0, "{capability}");
        assert_eq!(world.old.inner().snapshot(), world.new.inner().snapshot(), "{capability}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_is_reconciled_on_both_sides() {
    let world = world(Phase::DualWrite, |builder| builder).await;
    for key in 0..600 {
        world.old.inner().put(&key, &user("old")).await.unwrap();
        world.new.inner().put(&(key + 300), &user("new")).await.unwrap();
    }
    let touch = Touch::range(KeyRange::between(99, 799));
    world.users.write(touch, |_| async { Ok::<_, Error>(()) }).await.unwrap();
    world.users.drained().await;
    for key in 0..900_u64 {
        let wanted = match key {
            0..=99 => None,
            100..=599 => Some(user("old")),
            600..=799 => None,
            _ => Some(user("new")),
        };
        assert_eq!(world.new.get(&key).await.unwrap(), wanted, "key {key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_drains_and_says_what_is_left() {
    let world = world(Phase::DualWrite, |builder| builder).await;
    world.users.put(&1, &user("Ada")).await.unwrap();
    let report = world.users.shutdown(Duration::from_secs(5)).await.unwrap();
    assert!(report.drained && report.left.dirty() == 0, "{report:?}");
    assert_eq!(world.new.inner().len(), 1);
    let error = world.users.put(&2, &user("late")).await.unwrap_err();
    assert_eq!((error.kind(), error.certainty()), (Kind::Stopped, Certainty::NotApplied));

    let world = self::world(Phase::DualWrite, |builder| builder).await;
    world.new.faults().set_outage(true);
    world.users.put(&1, &user("Ada")).await.unwrap();
    let began = tokio::time::Instant::now();
    let report = world.users.shutdown(Duration::from_secs(5)).await.unwrap();
    assert!(!report.drained && report.left.pending() == 1, "{report:?}");
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_other_keys_stops_mirroring_and_not_the_primary() {
    let queue = Arc::new(MemoryQueue::new());
    let foreign = Touch::upsert(&"a name, not a number".to_owned()).encode();
    queue.mark(foreign, Epoch(1), Direction::OldToNew).await.unwrap();
    let shared: Arc<dyn WriteQueue> = queue;
    let world = world(Phase::DualWrite, |builder| builder.shared_queue(shared)).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(world.users.poisoned().unwrap().contains("not one of these stores"));
    assert!(world.saw(|event| matches!(event, Event::Poisoned { .. })));
    world.users.put(&1, &user("Ada")).await.unwrap();
    assert_eq!(world.old.inner().len(), 1, "the primary goes on");
    assert_eq!(world.users.queue_stats().pending(), 2, "and every write still leaves its entry");
    let error = world.users.advance(Phase::Shadow).await.unwrap_err();
    assert!(error.to_string().contains("mirroring has stopped"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_young_queue_draws_stamps_above_what_its_secondary_has_seen() {
    let new = side(Memory::new());
    let first = world_of(side(Memory::new()), Arc::clone(&new), Phase::DualWrite, |builder| builder).await;
    for turn in 0..20 {
        first.users.put(&1, &user(&turn.to_string())).await.unwrap();
        first.users.drained().await;
    }
    drop(first);
    let second = world_of(side(Memory::new()), new, Phase::DualWrite, |builder| builder).await;
    second.users.put(&1, &user("after the queue was lost")).await.unwrap();
    second.users.drained().await;
    assert_eq!(second.new.get(&1).await.unwrap(), Some(user("after the queue was lost")));
}
