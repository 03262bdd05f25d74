//! What every part of the simulated world stands on: dice, the trace, what the users' calls have really done, and
//! what was found wrong.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use zdm_core::phase::Side;

pub(crate) type Key = u16;

/// A record names the call that wrote it, so that no two writes look the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Rec {
    pub(crate) by: u64,
    /// No two records may have the same one.
    pub(crate) tag: Option<u8>,
}

pub(crate) struct Ground {
    pub(crate) dice: Dice,
    start: Instant,
    tracing: bool,
    truth: Mutex<Truth>,
    wrong: Mutex<Vec<String>>,
}

/// What the users' calls have done to the primary, in the order in which it happened. Kept by the servers, apart
/// from anything that the engine knows.
pub(crate) struct Truth {
    pub(crate) primary: Side,
    pub(crate) records: BTreeMap<Key, Rec>,
    /// The place of the last change in the order of all changes.
    pub(crate) changes: u64,
    log: BTreeMap<Key, Vec<(u64, Option<Rec>)>>,
    landed: BTreeSet<u64>,
    next_call: u64,
}

impl Ground {
    pub(crate) fn new(seed: u64, tracing: bool, primary: Side, records: BTreeMap<Key, Rec>) -> Arc<Self> {
        let truth = Truth {
            primary,
            records,
            changes: 0,
            log: BTreeMap::new(),
            landed: BTreeSet::new(),
            next_call: 1_000,
        };
        Arc::new(Self {
            dice: Dice(Mutex::new(fastrand::Rng::with_seed(seed))),
            start: Instant::now(),
            tracing,
            truth: Mutex::new(truth),
            wrong: Mutex::default(),
        })
    }

    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.tracing {
            eprintln!("{:>6} ms  {}", self.start.elapsed().as_millis(), what());
        }
    }

    /// Notes that something is wrong; the seed fails at its end.
    pub(crate) fn wrong(&self, what: String) {
        self.trace(|| format!("WRONG: {what}"));
        self.wrong.lock().unwrap().push(what);
    }

    pub(crate) fn found(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    pub(crate) fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap()
    }

    /// Sleeps so many milliseconds; none of them may still let others go first.
    pub(crate) async fn pass(&self, millis: u64) {
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        } else if self.dice.chance(0.3) {
            tokio::task::yield_now().await;
        }
    }

    /// A short while, most often none.
    pub(crate) fn short(&self) -> u64 {
        match self.dice.below(10) {
            0..=5 => 0,
            6..=8 => 1 + self.dice.below(3),
            _ => self.dice.below(25),
        }
    }
}

impl Truth {
    pub(crate) fn begin_call(&mut self) -> u64 {
        self.next_call += 1;
        self.next_call
    }

    pub(crate) fn has_landed(&self, call: u64) -> bool {
        self.landed.contains(&call)
    }

    /// A user's call has taken effect on a key.
    pub(crate) fn landed(&mut self, call: u64, key: Key, record: Option<Rec>) {
        self.changes += 1;
        self.log.entry(key).or_default().push((self.changes, record));
        self.landed.insert(call);
        match record {
            Some(record) => self.records.insert(key, record),
            None => self.records.remove(&key),
        };
    }

    pub(crate) fn was_changed(&self, key: Key) -> bool {
        self.log.contains_key(&key)
    }

    /// Whether the key has held the record at some moment since a place in the order.
    pub(crate) fn held_since(&self, key: Key, since: u64, initial: Option<Rec>, record: Option<Rec>) -> bool {
        let log = self.log.get(&key).map(Vec::as_slice).unwrap_or_default();
        let before = log.iter().rev().find(|(at, _)| *at <= since).map_or(initial, |(_, record)| *record);
        before == record || log.iter().any(|(at, held)| *at > since && *held == record)
    }
}

/// All chance in a world comes from here, so a seed tells the whole story.
pub(crate) struct Dice(Mutex<fastrand::Rng>);

impl Dice {
    pub(crate) fn chance(&self, share: f64) -> bool {
        share > 0.0 && self.0.lock().unwrap().f64() < share
    }

    pub(crate) fn below(&self, end: u64) -> u64 {
        self.0.lock().unwrap().u64(..end.max(1))
    }

    pub(crate) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Whether a process lives. What it holds when it dies does nothing any more, destructors included.
#[derive(Default)]
pub(crate) struct Life {
    dead: AtomicBool,
    died: Notify,
}

impl Life {
    pub(crate) fn is_over(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.died.notify_waiters();
    }

    pub(crate) async fn over(&self) {
        let died = self.died.notified();
        tokio::pin!(died);
        died.as_mut().enable();
        if !self.is_over() {
            died.await;
        }
    }

    /// Returns at once while the process lives, else never.
    pub(crate) async fn go_on(&self) {
        if self.is_over() {
            std::future::pending::<()>().await;
        }
    }
}

thread_local! {
    static CALLER: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The user's call on whose behalf the current task runs; none for the engine's own work.
pub(crate) fn caller() -> Option<u64> {
    CALLER.get()
}

/// A future of a user: while it is polled, store calls are the user's.
pub(crate) struct AsUser<'a, T> {
    pub(crate) call: u64,
    pub(crate) inner: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
}

struct Restore(Option<u64>);

impl Drop for Restore {
    fn drop(&mut self) {
        CALLER.set(self.0);
    }
}

impl<T> Future for AsUser<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let _restore = Restore(CALLER.replace(Some(self.call)));
        self.inner.as_mut().poll(context)
    }
}
