//! A store on the other end of a wire that loses, delays and repeats nothing but answers late or never.
//!
//! What a request does is done by the server, in a task of its own: a caller that gives up does not stop it. Within
//! the settle time after that, it lands or is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::phase::Side;
use zdm_core::store::{Bulk, Capabilities, Change, Fenced, MemoryStore, Page, PageLoad, Scan, Stamp, Store};

use crate::ground::{Ground, Key, Life, Rec, caller};

/// What a server can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Plain,
    Bulk,
    Fenced,
}

pub(crate) struct Server {
    ground: Arc<Ground>,
    side: Side,
    level: Level,
    settle: u64,
    store: MemoryStore<Key, Rec>,
    trouble: Mutex<Trouble>,
}

/// What goes wrong at the moment.
#[derive(Clone, Copy, Default)]
pub(crate) struct Trouble {
    /// Share of requests with a fault.
    pub(crate) rate: f64,
    pub(crate) down: bool,
    /// Records by calls with this rest are rejected.
    pub(crate) rejects: Option<u64>,
}

/// One process's way to a server.
#[derive(Clone)]
pub(crate) struct Wire {
    server: Arc<Server>,
    life: Arc<Life>,
}

#[derive(Clone, Debug)]
enum Mutation {
    Put(Key, Rec),
    Delete(Key),
    Together(Vec<Change<Key, Rec>>),
    IfNewer(Stamp, Vec<Change<Key, Rec>>),
}

enum Fate {
    Answers,
    /// The server says no.
    Refused(Error),
    /// It never gets there.
    RequestLost(Error),
    /// It takes effect, sooner or later than the caller hears of an error.
    AnswerLost(Error),
    /// The caller hears nothing; it takes effect or not.
    Silent(bool),
}

impl Server {
    pub(crate) fn new(ground: Arc<Ground>, side: Side, level: Level, settle: u64, unique: bool) -> Self {
        let mut store = MemoryStore::new().with_settle_time(Duration::from_millis(settle));
        if unique {
            store = store.with_unique("tag", |record: &Rec| record.tag.map(|tag| tag.to_string()));
        }
        store = match level {
            Level::Plain => store.plain(),
            Level::Bulk => store.without_fence(),
            Level::Fenced => store,
        };
        Self { ground, side, level, settle, store, trouble: Mutex::default() }
    }

    pub(crate) fn fill(&self, records: &BTreeMap<Key, Rec>) {
        for (key, record) in records {
            self.store.put(key, record).now_or_never().unwrap().unwrap();
        }
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<Key, Rec> {
        self.store.snapshot()
    }

    pub(crate) fn change_trouble(&self, change: impl FnOnce(&mut Trouble)) {
        change(&mut self.trouble.lock().unwrap());
    }

    fn trouble(&self) -> Trouble {
        *self.trouble.lock().unwrap()
    }

    fn draw(&self) -> Fate {
        let Trouble { rate, down, .. } = self.trouble();
        let dice = &self.ground.dice;
        let unknown = || {
            let kind = dice.pick(&[Kind::Timeout, Kind::Unavailable, Kind::Timeout, Kind::Busy]);
            Error::new(kind, "no answer (a fault of the test)").unknown()
        };
        if down {
            let error = Error::new(Kind::Unavailable, "down (a fault of the test)");
            return if dice.chance(0.5) {
                Fate::Refused(error.not_applied())
            } else {
                Fate::RequestLost(error)
            };
        }
        if !dice.chance(rate) {
            return Fate::Answers;
        }
        match dice.below(8) {
            0 | 1 => {
                let kind = dice.pick(&[Kind::Busy, Kind::Busy, Kind::MissingReference, Kind::Unavailable]);
                Fate::Refused(Error::new(kind, "refused (a fault of the test)").not_applied())
            }
            2 => Fate::RequestLost(unknown()),
            3..=5 => Fate::AnswerLost(unknown()),
            _ => Fate::Silent(dice.chance(0.7)),
        }
    }

    /// The request takes effect, all or nothing.
    fn land(&self, by: Option<u64>, mutation: &Mutation) -> Result<u64> {
        let (keys, puts): (Vec<Key>, Vec<Rec>) = match mutation {
            Mutation::Put(key, record) => (vec![*key], vec![*record]),
            Mutation::Delete(key) => (vec![*key], vec![]),
            Mutation::Together(changes) | Mutation::IfNewer(_, changes) => (
                changes.iter().map(|c| *c.key()).collect(),
                changes.iter().filter_map(|c| c.record()).copied().collect(),
            ),
        };
        if let Some(rest) = self.trouble().rejects
            && puts.iter().any(|record| record.by % 4 == rest)
        {
            return Err(Error::new(Kind::Rejected, "does not fit (a fault of the test)"));
        }
        let before: Vec<Option<Rec>> = keys.iter().map(|key| self.look(*key)).collect();
        let result = match mutation {
            Mutation::Put(key, record) => self.store.put(key, record).now_or_never().unwrap().map(|()| 0),
            Mutation::Delete(key) => self.store.delete(key).now_or_never().unwrap().map(|()| 0),
            Mutation::Together(changes) => self.store.apply(changes).now_or_never().unwrap().map(|()| 0),
            Mutation::IfNewer(stamp, changes) => {
                self.store.apply_if_newer(*stamp, changes).now_or_never().unwrap()
            }
        };
        self.ground.trace(|| {
            let who = by.map_or("engine".to_owned(), |call| format!("call {call}"));
            let how = result.as_ref().err().map(|error| format!(": {error}")).unwrap_or_default();
            format!("{} <- {who} {mutation:?}{how}", self.side)
        });
        if result.is_ok() {
            let mut truth = self.ground.truth();
            let primary = truth.primary;
            for (key, before) in keys.into_iter().zip(before) {
                let after = self.look(key);
                match by {
                    Some(call) if primary == self.side => truth.landed(call, key, after),
                    Some(call) => {
                        self.ground
                            .wrong(format!("call {call} wrote to {} while {primary} is primary", self.side));
                    }
                    None if primary == self.side && before != after => {
                        self.ground.wrong(format!("the engine changed {key} at the primary, {primary}"));
                    }
                    None => {}
                }
            }
        }
        result
    }

    fn look(&self, key: Key) -> Option<Rec> {
        self.store.get(&key).now_or_never().unwrap().unwrap()
    }
}

/// A request whose caller may give up.
struct UnderWay<'a> {
    ground: &'a Ground,
    request: Option<AbortHandle>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take()
            && self.ground.dice.chance(0.3)
        {
            request.abort();
        }
    }
}

impl Wire {
    pub(crate) fn new(server: &Arc<Server>, life: &Arc<Life>) -> Self {
        Self { server: Arc::clone(server), life: Arc::clone(life) }
    }

    async fn change(&self, mutation: Mutation) -> Result<u64> {
        self.life.go_on().await;
        let (by, server, ground) = (caller(), &self.server, &self.server.ground);
        let lands = match server.draw() {
            Fate::Refused(error) | Fate::RequestLost(error) => {
                ground.pass(ground.short()).await;
                return Err(error);
            }
            Fate::Silent(false) => return std::future::pending().await,
            lands => lands,
        };
        if server.settle == 0 {
            // What such a server has not done when its caller gives up, it never does.
            ground.pass(ground.short()).await;
            self.life.go_on().await;
            let result = server.land(by, &mutation);
            ground.pass(ground.short()).await;
            return match lands {
                Fate::AnswerLost(error) => Err(error),
                Fate::Silent(_) => std::future::pending().await,
                _ => result,
            };
        }
        let lands_after = match &lands {
            Fate::Answers => ground.short().min(server.settle - 1),
            // The nastiest is the last moment.
            _ if ground.dice.chance(0.5) => server.settle - 1,
            _ => ground.dice.below(server.settle),
        };
        let (answer, answered) = oneshot::channel();
        let at_server = Arc::clone(server);
        let request = tokio::spawn(async move {
            at_server.ground.pass(lands_after).await;
            drop(answer.send(at_server.land(by, &mutation)));
        });
        let mut under_way = UnderWay { ground, request: Some(request.abort_handle()) };
        match lands {
            Fate::AnswerLost(error) => {
                ground.pass(ground.short()).await;
                under_way.request = None;
                Err(error)
            }
            Fate::Silent(_) => std::future::pending().await,
            _ => {
                let result = answered.await.unwrap();
                under_way.request = None;
                ground.pass(ground.short()).await;
                result
            }
        }
    }

    async fn look<T>(&self, look: impl FnOnce(&MemoryStore<Key, Rec>) -> T) -> Result<T> {
        self.life.go_on().await;
        let ground = &self.server.ground;
        match self.server.draw() {
            Fate::Answers => {}
            Fate::Silent(_) => return std::future::pending().await,
            Fate::Refused(error) | Fate::RequestLost(error) | Fate::AnswerLost(error) => {
                ground.pass(ground.short()).await;
                return Err(error);
            }
        }
        ground.pass(ground.short()).await;
        let seen = look(&self.server.store);
        ground.pass(ground.short()).await;
        Ok(seen)
    }
}

#[async_trait]
impl Store for Wire {
    type Key = Key;
    type Record = Rec;

    async fn get(&self, key: &Key) -> Result<Option<Rec>> {
        self.look(|store| store.get(key).now_or_never().unwrap()).await?
    }

    async fn put(&self, key: &Key, record: &Rec) -> Result<()> {
        self.change(Mutation::Put(*key, *record)).await.map(|_| ())
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.change(Mutation::Delete(*key)).await.map(|_| ())
    }

    fn settle_time(&self) -> Duration {
        Duration::from_millis(self.server.settle)
    }

    fn capabilities(&self) -> Capabilities<'_, Key, Rec> {
        Capabilities {
            bulk: (self.server.level >= Level::Bulk).then_some(self),
            digest: None,
            scan: (self.server.level >= Level::Bulk).then_some(self),
            fenced: (self.server.level >= Level::Fenced).then_some(self),
        }
    }
}

#[async_trait]
impl Bulk for Wire {
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Rec>>> {
        self.look(|store| store.get_many(keys).now_or_never().unwrap()).await?
    }

    async fn apply(&self, changes: &[Change<Key, Rec>]) -> Result<()> {
        self.change(Mutation::Together(changes.to_vec())).await.map(|_| ())
    }
}

#[async_trait]
impl Scan for Wire {
    async fn page(&self, range: &KeyRange<Key>, limit: usize) -> Result<Page<Key, Rec>> {
        self.look(|store| store.page(range, limit).now_or_never().unwrap()).await?
    }

    async fn split(&self, parts: usize) -> Result<Vec<KeyRange<Key>>> {
        self.look(|store| store.split(parts).now_or_never().unwrap()).await?
    }

    async fn estimated_len(&self) -> Result<u64> {
        self.look(|store| store.estimated_len().now_or_never().unwrap()).await?
    }
}

#[async_trait]
impl Fenced for Wire {
    async fn newest_stamp(&self) -> Result<Stamp> {
        self.look(|store| store.newest_stamp().now_or_never().unwrap()).await?
    }

    async fn apply_if_newer(&self, stamp: Stamp, changes: &[Change<Key, Rec>]) -> Result<u64> {
        self.change(Mutation::IfNewer(stamp, changes.to_vec())).await
    }

    async fn load_page(&self, _: Stamp, _: &KeyRange<Key>, _: &[(Key, Rec)]) -> Result<PageLoad<Key>> {
        Err(Error::new(Kind::Invalid, "no page is loaded in this world"))
    }

    async fn forget_stamps(&self) -> Result<()> {
        self.look(|store| store.forget_stamps().now_or_never().unwrap()).await?
    }
}
