//! The load generator: readers and writers that hit the application for as long as they are let.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::flight::Flight;
use super::latency::{Latencies, Request};
use super::ledger::Ledger;
use super::service::{FlightService, RequestError};
use super::{Doing, Result};

/// Writers side by side, so that writes to one key overlap now and then.
const WRITERS: u32 = 16;
const READS_PER_SECOND_AND_READER: u32 = 100;
/// One request in ten goes to one of these many keys.
const HOT_KEYS: i64 = 16;
/// How many complaints are kept word for word.
const COMPLAINTS: usize = 10;

/// How much traffic there shall be.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Flights that the old database was loaded with; their ids are 1 to this number.
    pub rows: u64,
    /// Writes of all writers together.
    pub writes_per_second: u32,
    /// Readers side by side.
    pub readers: u32,
    /// The same seed gives the same keys and values.
    pub seed: u64,
}

/// What has happened so far.
#[derive(Debug)]
pub struct Tally {
    /// Reads that were answered.
    pub reads: AtomicU64,
    /// Updates that were acknowledged.
    pub updates: AtomicU64,
    /// Inserts that were acknowledged.
    pub inserts: AtomicU64,
    /// Deletes that were acknowledged.
    pub deletes: AtomicU64,
    /// Writes that a constraint of the database refused, as it would without a migration.
    pub refused: AtomicU64,
    /// Requests that ended with an error.
    pub errors: AtomicU64,
    /// Reads whose answer had been overwritten before they began, or was never written at all.
    pub stale_reads: AtomicU64,
    /// How long requests took.
    pub latencies: Latencies,
    complaints: Mutex<Vec<String>>,
}

impl Tally {
    /// Nothing has happened yet.
    ///
    /// # Errors
    /// There is no memory for the latencies.
    pub fn new() -> Result<Self> {
        let count = AtomicU64::default;
        Ok(Self {
            reads: count(),
            updates: count(),
            inserts: count(),
            deletes: count(),
            refused: count(),
            errors: count(),
            stale_reads: count(),
            latencies: Latencies::new()?,
            complaints: Mutex::default(),
        })
    }

    /// Writes that were acknowledged.
    pub fn writes(&self) -> u64 {
        [&self.updates, &self.inserts, &self.deletes].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Requests that a user would have complained about: errors and stale reads.
    pub fn failed_requests(&self) -> u64 {
        self.errors.load(Ordering::Relaxed) + self.stale_reads.load(Ordering::Relaxed)
    }

    /// The first few of them, in words.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a failed request and keeps the first few in words.
    pub fn complain(&self, count: &AtomicU64, what: impl FnOnce() -> String) {
        count.fetch_add(1, Ordering::Relaxed);
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < COMPLAINTS {
            complaints.push(what());
        }
    }
}

/// Traffic that goes on in the background until it is stopped.
#[derive(Debug)]
pub struct Traffic {
    tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<()>>,
}

impl Traffic {
    /// Starts readers and writers.
    ///
    /// # Errors
    /// There is no memory for the counts.
    pub fn start(service: Arc<dyn FlightService>, ledger: Arc<Ledger>, load: Load) -> Result<Self> {
        let tally = Arc::new(Tally::new()?);
        let rows = i64::try_from(load.rows).doing(|| "too many rows".into())?;
        let next_id = ledger.look(|history| history.greatest_key()).unwrap_or(0).max(rows) + 1;
        let (stop, stopped) = watch::channel(false);
        let client = Arc::new(Client {
            service,
            ledger,
            tally: Arc::clone(&tally),
            rows,
            next_id: AtomicI64::new(next_id),
        });
        let mut tasks = JoinSet::new();
        let mut seeds = fastrand::Rng::with_seed(load.seed);
        // Few writes need few writers: a writer writes at least once a second.
        let writers = WRITERS.min(load.writes_per_second);
        for _ in 0..writers {
            let pause = Duration::from_secs(1) * writers / load.writes_per_second;
            tasks.spawn(Arc::clone(&client).keep_writing(pause, seeds.fork(), stopped.clone()));
        }
        for _ in 0..load.readers {
            let pause = Duration::from_secs(1) / READS_PER_SECOND_AND_READER;
            tasks.spawn(Arc::clone(&client).keep_reading(pause, seeds.fork(), stopped.clone()));
        }
        Ok(Self { tally, stop, tasks })
    }

    /// What has happened so far.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Stops. Requests under way are answered first.
    ///
    /// # Errors
    /// A reader or writer could not go on: the ledger was full or a task panicked.
    pub async fn stop(mut self) -> Result<Arc<Tally>> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.doing(|| "a reader or writer broke off".into())??;
        }
        Ok(self.tally)
    }
}

struct Client {
    service: Arc<dyn FlightService>,
    ledger: Arc<Ledger>,
    tally: Arc<Tally>,
    rows: i64,
    next_id: AtomicI64,
}

impl Client {
    async fn keep_writing(
        self: Arc<Self>,
        pause: Duration,
        mut random: fastrand::Rng,
        stopped: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while !*stopped.borrow() {
            ticks.tick().await;
            match random.u8(0..100) {
                0..70 => {
                    let key = self.some_key(&mut random);
                    self.save(key, &self.tally.updates, &mut random).await?;
                }
                70..85 => {
                    let key = self.next_id.fetch_add(1, Ordering::Relaxed);
                    self.save(key, &self.tally.inserts, &mut random).await?;
                }
                _ => {
                    let key = self.some_key(&mut random);
                    let name = self.ledger.intend(key, |_| None)?;
                    let call = self.service.remove(key);
                    self.called(name, "remove", key, &self.tally.deletes, call).await?;
                }
            }
        }
        Ok(())
    }

    async fn save(&self, key: i64, count: &AtomicU64, random: &mut fastrand::Rng) -> Result<()> {
        let mut flight = invent(key, random);
        let name = self.ledger.intend(key, |name| {
            // The name of the write stands in the value, so no two writes say the same.
            flight.departure_delay = i64::try_from(name).ok();
            Some(flight.to_line())
        })?;
        self.called(name, "save", key, count, self.service.save(&flight)).await
    }

    async fn called(
        &self,
        name: u64,
        what: &str,
        key: i64,
        count: &AtomicU64,
        call: impl Future<Output = Result<(), RequestError>>,
    ) -> Result<()> {
        let (phase, started) = (self.tally.latencies.now(), Instant::now());
        let outcome = call.await;
        self.tally.latencies.record(phase, Request::Write, started.elapsed());
        match outcome {
            Ok(()) => {
                self.ledger.acknowledged(name)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                self.ledger.failed(name)?;
                self.tally.complain(&self.tally.errors, || format!("{what} of flight {key}: {error}"));
            }
        }
        Ok(())
    }

    async fn keep_reading(
        self: Arc<Self>,
        pause: Duration,
        mut random: fastrand::Rng,
        stopped: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stopped.borrow() {
            ticks.tick().await;
            let key = self.some_key(&mut random);
            let began = self.ledger.position();
            let (phase, started) = (self.tally.latencies.now(), Instant::now());
            let outcome = self.service.find(key).await;
            self.tally.latencies.record(phase, Request::Read, started.elapsed());
            match outcome {
                Ok(found) => {
                    self.tally.reads.fetch_add(1, Ordering::Relaxed);
                    self.judge(key, began, found.as_ref());
                }
                Err(error) => {
                    self.tally.complain(&self.tally.errors, || format!("find of flight {key}: {error}"));
                }
            }
        }
        Ok(())
    }

    /// Whether the answer of a read is one that the order of the writes allows.
    fn judge(&self, key: i64, began: u64, found: Option<&Flight>) {
        let ended = self.ledger.position();
        let line = found.map(Flight::to_line);
        let fresh = self.ledger.look(|history| {
            let allowed = history.allowed(key, began, ended);
            match &line {
                None => allowed.absent || (allowed.initial && key > self.rows),
                Some(line) if allowed.values.contains(&line.as_str()) => true,
                // What was loaded is not kept in memory; a value that nobody wrote can only be that.
                Some(line) => allowed.initial && key <= self.rows && !history.knows(key, line),
            }
        });
        if !fresh {
            self.tally.complain(&self.tally.stale_reads, || {
                let answer = line.as_deref().unwrap_or("nothing");
                format!(
                    "find of flight {key} between lines {began} and {ended} of the ledger answered {answer}"
                )
            });
        }
    }

    fn some_key(&self, random: &mut fastrand::Rng) -> i64 {
        if random.u8(0..10) == 0 {
            1 + random.i64(0..HOT_KEYS.min(self.rows)) * (self.rows / HOT_KEYS).max(1)
        } else {
            random.i64(1..self.next_id.load(Ordering::Relaxed))
        }
    }
}

/// A flight like those of 2013, one in eight of them cancelled.
fn invent(id: i64, random: &mut fastrand::Rng) -> Flight {
    let mut pick = |from: &[&str]| from[random.usize(0..from.len())].to_owned();
    let (carrier, origin) = (pick(&["UA", "AA", "B6", "DL", "9E"]), pick(&["EWR", "LGA", "JFK"]));
    let destination = pick(&["IAH", "MIA", "BQN", "ATL", "ORD", "HNL"]);
    let scheduled_departure = random.i64(0..1_440);
    let flown = random.u8(0..8) > 0;
    let mut flown_minutes = |most: i64| flown.then(|| random.i64(0..=most));
    Flight {
        id,
        departure: flown_minutes(1_440),
        departure_delay: None,
        arrival: flown_minutes(1_440),
        arrival_delay: flown_minutes(300).map(|minutes| minutes - 60),
        air_time: flown_minutes(700),
        year: 2013,
        month: random.i64(1..=12),
        day: random.i64(1..=28),
        scheduled_departure,
        scheduled_arrival: random.i64(0..=1_440),
        carrier,
        number: random.i64(1..=9_999),
        tail_number: (random.u8(0..8) > 0).then(|| format!("N{}", random.u32(100..99_999))),
        origin,
        destination,
        distance_miles: random.i64(17..=4_983),
        scheduled_hour_unix: 1_357_034_400 + random.i64(0..8_760) * 3_600,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;

    use super::super::ledger::Recorded;
    use super::super::options::TemporaryDirectory;
    use super::*;

    /// An application that keeps flights in memory, and can forget or repeat itself.
    #[derive(Default)]
    struct InMemory {
        flights: Mutex<BTreeMap<i64, Flight>>,
        refuse: bool,
        loses_every: Option<u64>,
        saved: AtomicU64,
    }

    #[async_trait]
    impl FlightService for InMemory {
        async fn find(&self, id: i64) -> Result<Option<Flight>, RequestError> {
            tokio::task::yield_now().await;
            Ok(self.flights.lock().unwrap().get(&id).cloned())
        }

        async fn save(&self, flight: &Flight) -> Result<(), RequestError> {
            if self.refuse {
                return Err(RequestError("the disk is full".into()));
            }
            let saved = self.saved.fetch_add(1, Ordering::Relaxed);
            if self.loses_every.is_none_or(|every| !saved.is_multiple_of(every)) {
                self.flights.lock().unwrap().insert(flight.id, flight.clone());
            }
            Ok(())
        }

        async fn remove(&self, id: i64) -> Result<(), RequestError> {
            self.flights.lock().unwrap().remove(&id);
            Ok(())
        }
    }

    async fn run(service: InMemory) -> (Arc<InMemory>, Arc<Tally>, Recorded) {
        let dir = TemporaryDirectory::create().unwrap();
        let file = dir.path().join("ledger");
        let service = Arc::new(service);
        for (id, line) in (1..).zip(super::super::lines(200).unwrap()) {
            service.flights.lock().unwrap().insert(id, Flight::from_line(id, &line.unwrap()).unwrap());
        }
        let ledger = Arc::new(Ledger::create(&file, 200).unwrap());
        let load = Load { rows: 200, writes_per_second: 400, readers: 4, seed: 7 };
        let traffic = Traffic::start(Arc::clone(&service) as _, ledger, load).unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let tally = traffic.stop().await.unwrap();
        (service, tally, Recorded::read(&file).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn traffic_has_the_asked_for_rate_and_every_write_is_in_the_ledger() {
        let (service, tally, recorded) = run(InMemory::default()).await;
        assert!((3_900..=4_100).contains(&tally.writes()), "{}", tally.writes());
        assert!((3_900..=4_100).contains(&tally.reads.load(Ordering::Relaxed)));
        assert_eq!(tally.failed_requests(), 0, "{:?}", tally.complaints());
        assert_eq!(recorded.history.acknowledged(), tally.writes());
        let flights = service.flights.lock().unwrap();
        for key in recorded.history.keys() {
            let allowed = recorded.history.allowed(key, u64::MAX, u64::MAX);
            let line = flights.get(&key).map(Flight::to_line);
            assert!(line.as_deref().map_or(allowed.absent, |line| allowed.values.contains(&line)), "{key}");
        }
        let hot = recorded.history.allowed(1, u64::MAX, u64::MAX);
        assert!(!hot.initial, "the hot keys are written all the time");
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_loses_writes_is_found_out_by_its_readers() {
        let (_, tally, _) = run(InMemory { loses_every: Some(5), ..InMemory::default() }).await;
        assert!(tally.stale_reads.load(Ordering::Relaxed) > 0);
        assert!(tally.complaints()[0].starts_with("find of flight"), "{:?}", tally.complaints());
    }

    #[tokio::test(start_paused = true)]
    async fn refused_writes_are_failed_requests_and_never_count_as_acknowledged() {
        let (_, tally, recorded) = run(InMemory { refuse: true, ..InMemory::default() }).await;
        assert_eq!((tally.updates.load(Ordering::Relaxed), tally.inserts.load(Ordering::Relaxed)), (0, 0));
        assert!(tally.failed_requests() > 3_000);
        assert!(tally.complaints()[0].contains("the disk is full"), "{:?}", tally.complaints());
        assert_eq!(recorded.history.acknowledged(), tally.deletes.load(Ordering::Relaxed));
    }
}
