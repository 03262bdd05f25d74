use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Call, Random};
use crate::error::{Error, Kind};

/// What goes wrong with one call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The call is not done; the caller gets this error.
    Refuse(Error),
    /// The call is done after a while; not at all if the caller gives up before.
    Delay(Duration),
    /// The call is done after a while, whether the caller still waits or not. The settle time of the
    /// store must cover the wait.
    Slow(Duration),
    /// The caller gets a timeout; the call is done later. The settle time of the store must cover what
    /// lies between the two.
    LandLate {
        /// When the caller gets the timeout, after the call was made.
        answered_after: Duration,
        /// When the call is done, after it was made.
        lands_after: Duration,
    },
    /// The call is done; the caller gets an error that does not say so.
    LoseAcknowledgement,
    /// The call is neither done nor answered.
    Hang,
}

impl Fault {
    /// The usual refusal: the store cannot be reached, so nothing was done.
    pub fn unavailable() -> Self {
        Self::Refuse(unreachable_store())
    }

    /// How long after its caller gave up the call may still be done.
    pub(super) fn lateness(&self) -> Duration {
        match self {
            Self::Refuse(_) | Self::Delay(_) | Self::LoseAcknowledgement | Self::Hang => Duration::ZERO,
            Self::Slow(wait) => *wait,
            Self::LandLate { answered_after, lands_after } => lands_after.saturating_sub(*answered_after),
        }
    }
}

fn unreachable_store() -> Error {
    Error::new(Kind::Unavailable, "the store cannot be reached (a fault of the test)").not_applied()
}

/// How often a random fault happens, in calls of a thousand. What is left of the thousand goes well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRates {
    /// Refused as unavailable.
    pub refuse: u32,
    /// Delayed.
    pub delay: u32,
    /// Slow: done even if the caller gives up. Writes only.
    pub slow: u32,
    /// Answered with a timeout and done later. Writes only.
    pub land_late: u32,
    /// Done, with the acknowledgement lost. Writes only.
    pub lose_acknowledgement: u32,
    /// The longest delay; a late call lands within the settle time of the store.
    pub longest_delay: Duration,
}

impl FaultRates {
    /// About every fifth call goes wrong, each way equally often; delays up to 20 ms.
    pub const fn stormy() -> Self {
        Self {
            refuse: 40,
            delay: 40,
            slow: 40,
            land_late: 40,
            lose_acknowledgement: 40,
            longest_delay: Duration::from_millis(20),
        }
    }
}

/// Decides what goes wrong at a [`FaultyStore`](super::FaultyStore), while it is in use. Cheap to clone;
/// all clones are one.
///
/// An outage comes first, then the script, then chance. Which calls fail depends only on the script, the
/// seed, the order of calls and tokio's clock.
pub struct Faults<K, R> {
    plan: Arc<Mutex<Plan<K, R>>>,
}

struct Plan<K, R> {
    settle_time: Duration,
    outage: bool,
    flapping: Option<Flapping>,
    script: VecDeque<Scripted>,
    chance: Option<(Random, FaultRates)>,
    rejects: Option<Arc<Rejects<K, R>>>,
}

type Rejects<K, R> = dyn Fn(&K, &R) -> bool + Send + Sync;

struct Scripted {
    call: Option<Call>,
    fault: Option<Fault>,
}

#[derive(Clone, Copy)]
struct Flapping {
    since: Instant,
    up: Duration,
    down: Duration,
}

impl<K, R> Faults<K, R> {
    pub(super) fn new(settle_time: Duration) -> Self {
        let plan = Plan {
            settle_time,
            outage: false,
            flapping: None,
            script: VecDeque::new(),
            chance: None,
            rejects: None,
        };
        Self { plan: Arc::new(Mutex::new(plan)) }
    }

    /// The next write fails in this way; said several times, the next ones in turn.
    ///
    /// # Panics
    /// When the fault lets a write land later than the settle time of the store: such a store would break
    /// its word, and the test would show nothing.
    pub fn next_write(&self, fault: Fault) {
        self.push(None, Some(fault));
    }

    /// The next call of this kind fails in this way; said several times, the next ones in turn. `None`
    /// lets one pass.
    ///
    /// # Panics
    /// As [`next_write`](Self::next_write).
    pub fn next(&self, call: Call, fault: impl Into<Option<Fault>>) {
        self.push(Some(call), fault.into());
    }

    /// From now on the store cannot be reached, or can be again.
    pub fn set_outage(&self, outage: bool) {
        self.lock().outage = outage;
    }

    /// From now on the store answers for `up`, cannot be reached for `down`, and so on.
    pub fn flap(&self, up: Duration, down: Duration) {
        self.lock().flapping = Some(Flapping { since: Instant::now(), up, down });
    }

    /// From now on calls fail at random, always the same ones for the same seed and order of calls.
    pub fn by_chance(&self, seed: u64, rates: FaultRates) {
        self.lock().chance = Some((Random::new(seed), rates));
    }

    /// From now on the store rejects these records, and only these.
    pub fn reject(&self, rejects: impl Fn(&K, &R) -> bool + Send + Sync + 'static) {
        self.lock().rejects = Some(Arc::new(rejects));
    }

    /// Nothing goes wrong any more. Calls that are to land late still do.
    pub fn calm(&self) {
        let mut plan = self.lock();
        plan.outage = false;
        plan.flapping = None;
        plan.script.clear();
        plan.chance = None;
        plan.rejects = None;
    }

    /// How many scripted faults have not come up yet.
    pub fn scripted(&self) -> usize {
        self.lock().script.len()
    }

    pub(super) fn settle_time(&self) -> Duration {
        self.lock().settle_time
    }

    pub(super) fn set_settle_time(&self, settle_time: Duration) {
        self.lock().settle_time = settle_time;
    }

    pub(super) fn rejected(&self, key: &K, record: &R) -> bool {
        let rejects = self.lock().rejects.clone();
        rejects.is_some_and(|rejects| rejects(key, record))
    }

    /// What goes wrong with this call.
    pub(super) fn draw(&self, call: Call) -> Option<Fault> {
        let mut plan = self.lock();
        if plan.outage || plan.flapping.is_some_and(|flapping| flapping.is_down()) {
            return Some(Fault::unavailable());
        }
        let fits = |line: &Scripted| line.call.map_or(call.writes(), |wanted| wanted == call);
        if let Some(at) = plan.script.iter().position(fits) {
            return plan.script.remove(at).and_then(|line| line.fault);
        }
        let settle_time = plan.settle_time;
        let (random, rates) = plan.chance.as_mut()?;
        random
            .fault(rates, settle_time)
            .filter(|fault| call.writes() || matches!(fault, Fault::Refuse(_) | Fault::Delay(_)))
    }

    fn push(&self, call: Option<Call>, fault: Option<Fault>) {
        let mut plan = self.lock();
        let (late, settle_time) = (fault.as_ref().map_or(Duration::ZERO, Fault::lateness), plan.settle_time);
        assert!(
            late <= settle_time,
            "the write would land {late:?} late, the settle time is {settle_time:?}"
        );
        plan.script.push_back(Scripted { call, fault });
    }

    fn lock(&self) -> MutexGuard<'_, Plan<K, R>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flapping {
    fn is_down(self) -> bool {
        let period = (self.up + self.down).as_nanos().max(1);
        self.since.elapsed().as_nanos() % period >= self.up.as_nanos()
    }
}

impl Random {
    fn fault(&mut self, rates: &FaultRates, settle_time: Duration) -> Option<Fault> {
        // Drawn in any case, so that one call takes as much of the sequence as another.
        let (ticket, delay, lateness) =
            (self.below(1_000), self.up_to(rates.longest_delay), self.up_to(settle_time));
        let mut ticket = u32::try_from(ticket).unwrap_or(u32::MAX);
        let mut hits = |rate: u32| {
            let hit = ticket < rate;
            ticket = ticket.wrapping_sub(rate);
            hit
        };
        // After a hit nothing below is asked, so the wrapped ticket is never read.
        if hits(rates.refuse) {
            Some(Fault::unavailable())
        } else if hits(rates.delay) {
            Some(Fault::Delay(delay))
        } else if hits(rates.slow) {
            Some(Fault::Slow(lateness))
        } else if hits(rates.land_late) {
            Some(Fault::LandLate { answered_after: delay, lands_after: delay + lateness })
        } else if hits(rates.lose_acknowledgement) {
            Some(Fault::LoseAcknowledgement)
        } else {
            None
        }
    }
}

impl<K, R> Clone for Faults<K, R> {
    fn clone(&self) -> Self {
        Self { plan: Arc::clone(&self.plan) }
    }
}

impl<K, R> fmt::Debug for Faults<K, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.lock();
        f.debug_struct("Faults")
            .field("outage", &plan.outage)
            .field("scripted", &plan.script.len())
            .field("by_chance", &plan.chance.is_some())
            .finish_non_exhaustive()
    }
}
