//! What the users of the service do: calls of every kind, given up on at any moment.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use zdm_core::error::{Certainty, Error, Kind, Outcome};
use zdm_core::key::KeyRange;
use zdm_core::queue::{Intent, Touch};
use zdm_core::store::{Change, Store, StoreExt};
use zdm_core::testkit::drop_after_polls;
use zdm_dualwrite::{DualWrite, Instances};

use crate::ground::{AsUser, Ground, Key, Rec};
use crate::plan::Way;
use crate::server::Wire;
use crate::world::{GENERATED, World};

/// Why a user's call panics.
pub(crate) struct Planned;

/// What a user's call returns when it fails.
#[derive(Clone, Debug)]
pub(crate) struct CallError {
    certainty: Certainty,
    /// Whether it comes from the repository call; else the engine refused to make it.
    from_call: Option<u64>,
    text: String,
}

impl Outcome for CallError {
    fn certainty(&self) -> Certainty {
        self.certainty
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self { certainty: error.certainty(), from_call: None, text: error.to_string() }
    }
}

impl CallError {
    fn of(call: u64, error: &Error) -> Self {
        Self { certainty: error.certainty(), from_call: Some(call), text: error.to_string() }
    }
}

type Done = Result<u64, CallError>;
/// What the repository call returned, if it got so far.
type Told = Arc<Mutex<Option<(bool, Certainty)>>>;

pub(crate) async fn user(world: Arc<World>, number: u64) {
    let ground = Arc::clone(&world.ground);
    let instance = number as usize % world.plan.instances();
    for _ in 0..world.plan.calls {
        ground.pass(ground.dice.below(16)).await;
        let process = world.process(instance).await;
        if ground.dice.chance(0.25) {
            tokio::select! {
                biased;
                () = process.life.over() => {}
                _ = tokio::time::timeout(Duration::from_millis(300), read(&world, &process.db)) => {}
            }
            continue;
        }
        let call = ground.truth().begin_call();
        let told = Told::default();
        let inner = Box::pin(one_call(&world, &process.db, call, &told));
        let future = AssertUnwindSafe(AsUser { call, inner }).catch_unwind();
        let patience = Duration::from_millis(match ground.dice.below(4) {
            0 => ground.dice.below(60),
            _ => 2_000,
        });
        let polls = if ground.dice.chance(0.15) { ground.dice.below(8) as usize } else { 1_000_000 };
        let ended = tokio::select! {
            biased;
            () = process.life.over() => None,
            ended = tokio::time::timeout(patience, drop_after_polls(polls, future)) => ended.ok().flatten(),
        };
        match ended {
            None => ground.trace(|| format!("call {call} is given up on")),
            Some(Err(panic)) if panic.is::<Planned>() => ground.trace(|| format!("call {call} panics")),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            Some(Ok(result)) => {
                ground.trace(|| format!("call {call} returns {result:?}"));
                check_result(&ground, call, &result, &told);
            }
        }
    }
}

/// The caller hears what the primary said, and a call that was refused has done nothing.
fn check_result(ground: &Ground, call: u64, result: &Done, told: &Told) {
    let landed = ground.truth().has_landed(call);
    let told = *told.lock().unwrap();
    let heard = match result {
        Ok(of) => (*of == call).then_some((true, Certainty::Applied)),
        Err(error) => error.from_call.map(|_| (false, error.certainty)),
    };
    if told != heard && !(told.is_none() && result.is_ok() && landed) {
        ground.wrong(format!("call {call} said {told:?}, its caller heard {result:?}"));
    }
    if let Err(error) = result
        && error.certainty == Certainty::NotApplied
        && landed
    {
        ground.wrong(format!("call {call} was refused for certain and has taken effect"));
    }
}

/// Every answer was right at some moment of the read.
async fn read(world: &World, db: &DualWrite<Wire>) {
    let ground = &world.ground;
    let key = any_key(world);
    let (since, changed) = {
        let truth = ground.truth();
        (truth.changes, truth.was_changed(key))
    };
    let Ok(answer) = db.get(&key).await else { return };
    if world.plan.settings.instances == Instances::QueueEach {
        return;
    }
    let initial = world.initial.get(&key).copied();
    let truth = ground.truth();
    let right = truth.held_since(key, since, initial, answer);
    let extra = answer.is_some() && answer == world.extras.get(&key).copied() && !changed;
    drop(truth);
    if !right && !extra {
        ground.wrong(format!("a read of {key} gave {answer:?} in {}", db.phase().phase));
    }
}

fn any_key(world: &World) -> Key {
    let dice = &world.ground.dice;
    if world.plan.ranges && dice.chance(0.1) {
        return GENERATED + 1 + dice.below(3) as Key;
    }
    1 + dice.below(u64::from(world.plan.keys)) as Key
}

fn any_record(world: &World, call: u64) -> Rec {
    let tag = (world.plan.unique && world.ground.dice.chance(0.7))
        .then(|| 1 + world.ground.dice.below(u64::from(world.plan.keys)) as u8);
    Rec { by: call, tag }
}

/// From now on some call may delete these keys.
fn may_delete(world: &World, gone: impl Fn(Key) -> bool) {
    world.untouched.lock().unwrap().retain(|key, _| !gone(*key));
}

async fn one_call(world: &Arc<World>, db: &DualWrite<Wire>, call: u64, told: &Told) -> Done {
    let ground = &world.ground;
    let (key, other) = (any_key(world), any_key(world));
    let record = any_record(world, call);
    let kind = ground.dice.below(100);
    ground.trace(|| format!("call {call} of kind {kind} on {key} and {other} begins"));
    match kind {
        0..=19 => plain(call, db.put(&key, &record).await),
        20..=34 => {
            may_delete(world, |k| k == key);
            plain(call, db.delete(&key).await)
        }
        35..=49 => {
            let touch = Touch::upsert(&key);
            run(world, db, touch, call, told, vec![Change::Put(key, record)]).await
        }
        50..=56 => {
            may_delete(world, |k| k == key);
            let change = if ground.dice.chance(0.5) { Change::Delete(key) } else { Change::Put(key, record) };
            run(world, db, Touch::unknown(&key), call, told, vec![change]).await
        }
        57..=66 if key != other => {
            may_delete(world, |k| k == other);
            let touch = Touch::upsert(&key).and(Touch::delete(&other));
            run(world, db, touch, call, told, vec![Change::Put(key, record), Change::Delete(other)]).await
        }
        67..=79 if key != other => exchange(world, db, call, told, key, other).await,
        80..=87 if world.plan.ranges => bulk(world, db, call, told).await,
        88..=93 if world.plan.ranges => generated(world, db, call, told).await,
        _ => odd(world, db, call, told, key, record).await,
    }
}

fn plain(call: u64, result: Result<(), Error>) -> Done {
    result.map(|()| call).map_err(CallError::from)
}

/// A repository call that makes some changes, in one transaction where the store has any.
async fn run(
    world: &Arc<World>,
    db: &DualWrite<Wire>,
    touch: Touch<Key>,
    call: u64,
    told: &Told,
    changes: Vec<Change<Key, Rec>>,
) -> Done {
    db.write(touch, |repo| async move {
        world.ground.pass(world.ground.short()).await;
        tell(told, make(&repo, call, &changes).await)
    })
    .await
}

async fn make(repo: &Wire, call: u64, changes: &[Change<Key, Rec>]) -> Done {
    if repo.capabilities().bulk.is_some() {
        return repo.apply_all(changes).await.map(|()| call).map_err(|error| CallError::of(call, &error));
    }
    for (made, change) in changes.iter().enumerate() {
        let result = match change {
            Change::Put(key, record) => repo.put(key, record).await,
            Change::Delete(key) => repo.delete(key).await,
        };
        if let Err(error) = result {
            // What came before it has taken effect.
            let error = if made > 0 { error.unknown() } else { error };
            return Err(CallError::of(call, &error));
        }
    }
    Ok(call)
}

fn tell(told: &Told, done: Done) -> Done {
    let said = match &done {
        Ok(_) => (true, Certainty::Applied),
        Err(error) => (false, error.certainty),
    };
    *told.lock().unwrap() = Some(said);
    done
}

/// Two records exchange their unique values.
async fn exchange(
    world: &Arc<World>,
    db: &DualWrite<Wire>,
    call: u64,
    told: &Told,
    key: Key,
    other: Key,
) -> Done {
    let touch = Touch::keys(&[key, other], Intent::Upsert).unwrap();
    db.write(touch, |repo| async move {
        let look = async { Ok::<_, Error>((repo.get(&key).await?, repo.get(&other).await?)) };
        let (mine, theirs) = match look.await {
            Ok(seen) => seen,
            Err(error) => return tell(told, Err(CallError::of(call, &error.not_applied()))),
        };
        let mut changes = Vec::new();
        changes.extend(mine.map(|_| Change::Put(key, Rec { by: call, tag: theirs.and_then(|r| r.tag) })));
        changes.extend(theirs.map(|_| Change::Put(other, Rec { by: call, tag: mine.and_then(|r| r.tag) })));
        world.ground.pass(world.ground.short()).await;
        tell(told, make(&repo, call, &changes).await)
    })
    .await
}

/// A bulk statement: every record of a range is deleted or changed.
async fn bulk(world: &Arc<World>, db: &DualWrite<Wire>, call: u64, told: &Told) -> Done {
    let dice = &world.ground.dice;
    let range = match dice.below(3) {
        0 => KeyRange::after(any_key(world)),
        1 => KeyRange { after: None, up_to: Some(any_key(world)) },
        _ => KeyRange::between(1, world.plan.keys),
    };
    may_delete(world, |key| range.contains(&key));
    let deletes = dice.chance(0.5);
    db.write(Touch::range(range.clone()), |repo| async move {
        let page = match repo.capabilities().scan.unwrap().page(&range, 1_000).await {
            Ok(page) => page,
            Err(error) => return tell(told, Err(CallError::of(call, &error.not_applied()))),
        };
        let change = |(key, record): (Key, Result<Rec, Error>)| match record {
            Ok(record) if !deletes => Change::Put(key, Rec { by: call, ..record }),
            _ => Change::Delete(key),
        };
        let changes: Vec<_> = page.into_iter().map(change).collect();
        tell(told, make(&repo, call, &changes).await)
    })
    .await
}

/// An insert whose key the store makes up.
async fn generated(world: &Arc<World>, db: &DualWrite<Wire>, call: u64, told: &Told) -> Done {
    let narrows = world.ground.dice.below(3);
    let insert = |repo: Wire| async move {
        let above = KeyRange::after(GENERATED);
        let key = match repo.capabilities().scan.unwrap().page(&above, 1_000).await {
            Ok(page) => page.last().map_or(GENERATED, |(key, _)| *key) + 1,
            Err(error) => {
                let done = tell(told, Err(CallError::of(call, &error.not_applied())));
                return done.map(|call| (call, 0));
            }
        };
        let done = make(&repo, call, &[Change::Put(key, Rec { by: call, tag: None })]).await;
        tell(told, done).map(|call| (call, key))
    };
    let narrow = |done: &(u64, Key)| match narrows {
        0 => None,
        // Outside of the touch: to be ignored.
        1 => Some(Touch::upsert(&1)),
        _ => Some(Touch::upsert(&done.1)),
    };
    db.write_narrowing(Touch::after(&GENERATED), insert, narrow).await.map(|(call, _)| call)
}

/// Calls that say something else than what the store said, or nothing at all.
async fn odd(
    world: &Arc<World>,
    db: &DualWrite<Wire>,
    call: u64,
    told: &Told,
    key: Key,
    record: Rec,
) -> Done {
    let dice = &world.ground.dice;
    let scans = world.plan.way != Way::Plain;
    match dice.below(7) {
        // A range that cannot be walked is refused.
        0 if !scans => {
            let error = db
                .write(Touch::range(KeyRange::all()), |_| async move { tell(told, Ok(call)) })
                .await
                .unwrap_err();
            let said_so = error.text.contains("cannot be walked") || error.text.contains("shut down");
            if !said_so || error.certainty != Certainty::NotApplied {
                world.ground.wrong(format!("a range was refused with {error:?}"));
            }
            Err(error)
        }
        // The call finds that there is nothing to do.
        1 => {
            let refused = Error::new(Kind::Refused, "there is no such user");
            db.write(Touch::upsert(&key), |_| async move { tell(told, Err(CallError::of(call, &refused))) })
                .await
        }
        // Or loses its way before it gets to the store.
        2 => {
            let lost = Error::new(Kind::Timeout, "lost");
            db.write(Touch::upsert(&key), |_| async move { tell(told, Err(CallError::of(call, &lost))) })
                .await
        }
        // It takes effect, and something else goes wrong afterwards.
        3 => {
            let after = |repo: Wire| async move {
                let done = make(&repo, call, &[Change::Put(key, record)]).await;
                let after = CallError {
                    certainty: Certainty::Applied,
                    from_call: Some(call),
                    text: "the mail was not sent".to_owned(),
                };
                tell(told, done.and(Err(after)))
            };
            db.write(Touch::upsert(&key), after).await
        }
        4 => {
            let panics: fn(Wire) -> std::future::Ready<Done> = |_| std::panic::panic_any(Planned);
            db.write(Touch::upsert(&key), panics).await
        }
        5 => {
            let call = |repo: Wire| async move {
                let _ = make(&repo, call, &[Change::Put(key, record)]).await;
                std::panic::panic_any(Planned)
            };
            db.write(Touch::upsert(&key), call).await
        }
        _ => {
            may_delete(world, |k| k == key);
            run(world, db, Touch::delete(&key), call, told, vec![Change::Delete(key)]).await
        }
    }
}
