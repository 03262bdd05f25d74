//! The loop that every page run shares.
//!
//! Several workers take ranges from one plan. A worker writes one page while it reads the next. Before a
//! page is written, one save moves the checkpoint past the page before it and, where the work asks for
//! it, leaves a token for this one. So a checkpoint is never ahead of its data, and a page that a crash
//! cut off is known.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use zdm_core::clock::Clock;
use zdm_core::error::{Advice, Error, Kind, Result};
use zdm_core::key::{Key, KeyBytes, KeyRange};
use zdm_core::queue::WriteQueue;
use zdm_core::report::{Event, Observers, Progress, RunState};
use zdm_core::store::Store;

use super::control::{Control, Stopping};
use super::meter::Meter;
use super::page_size::PageSize;
use super::{Health, HealthCheck, Journal, PageContext, PageSettings, Plan};

/// A page that waits longer than this for its permit is read again: what it holds has aged, and what was
/// touched meanwhile takes memory.
const STALE_AFTER: Duration = Duration::from_secs(1);
const TELL_EVERY: Duration = Duration::from_secs(1);
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What is done with each page.
pub(crate) trait PageWork: Send + Sync + 'static {
    type Key: Key;
    /// What was read.
    type Content: Send + 'static;

    /// Whether a page that was begun and not finished must be known after a crash.
    fn leaves_token(&self) -> bool;

    /// Reads the first page of a range, at most `limit` records of it.
    fn read(
        &self,
        rest: KeyRange<Self::Key>,
        limit: usize,
    ) -> impl Future<Output = Result<ReadPage<Self::Key, Self::Content>>> + Send;

    /// Does the work, at most `limit` records in one call to a store. Returns how long the stores took.
    /// After an error it is called again with the same page and goes on where it was.
    fn finish(
        &self,
        page: &mut ReadPage<Self::Key, Self::Content>,
        limit: usize,
    ) -> impl Future<Output = Result<Duration>> + Send;

    /// About how many bytes a record takes at the beginning of a range, where a store knows it.
    fn record_bytes(&self, rest: &KeyRange<Self::Key>) -> Option<usize>;

    /// Deals with a page that an earlier run may have written in part. Its calls have settled.
    fn recover(&self, token: &KeyRange) -> impl Future<Output = Result<()>> + Send;

    /// How long calls of an earlier run can still take effect.
    fn settle_time(&self) -> Duration;

    /// Differences that were confirmed in a page that is finished.
    fn found(&self, content: &Self::Content) -> u64;

    /// Rows that were set aside so far.
    fn parked_rows(&self) -> u64;
}

pub(crate) struct ReadPage<K, C> {
    /// The keys that the page covers: all of them, also those that have no record.
    pub(crate) range: KeyRange<K>,
    /// Whether the page ends where its slice ends.
    pub(crate) last: bool,
    pub(crate) rows: usize,
    pub(crate) content: C,
    /// How long reading took.
    pub(crate) took: Duration,
}

pub(crate) struct Runner<W> {
    pub(crate) work: W,
    pub(crate) journal: Journal,
    pub(crate) control: Arc<Control>,
    settings: PageSettings,
    /// `"backfill"` or `"verify"`.
    name: &'static str,
    estimated_rows: u64,
    queue: Arc<dyn WriteQueue>,
    observers: Observers,
    clock: Arc<dyn Clock>,
    size: Mutex<PageSize>,
    meter: Mutex<Meter>,
    trouble: Mutex<Trouble>,
}

#[derive(Default)]
struct Trouble {
    /// Why pages are tried again, while they are.
    waiting: Option<String>,
    /// Why the run ends.
    failure: Option<Error>,
    /// No worker is at work any more.
    ended: bool,
}

/// Why a worker ends before its range does.
enum Halt {
    Stopping,
    Failed,
}

impl From<Stopping> for Halt {
    fn from(_: Stopping) -> Self {
        Self::Stopping
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is changed in single steps, so a panic elsewhere leaves it sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<W: PageWork> Runner<W> {
    pub(crate) fn new<S: Store>(
        name: &'static str,
        context: &PageContext<S>,
        settings: PageSettings,
        work: W,
        journal: Journal,
        estimated_rows: u64,
    ) -> Self {
        let clock = Arc::clone(context.clock());
        let rows = journal.read(Plan::rows);
        Self {
            work,
            journal,
            control: Arc::new(Control::new(settings.pace.clone(), Arc::clone(&clock))),
            name,
            estimated_rows,
            queue: Arc::clone(context.queue()),
            observers: context.observers().clone(),
            size: Mutex::new(PageSize::new(&settings)),
            meter: Mutex::new(Meter::new(clock.now(), rows)),
            trouble: Mutex::default(),
            settings,
            clock,
        }
    }

    /// Runs to the end, or until it is stopped. Tells whether everything is done.
    ///
    /// Dropping the future ends the workers where they are; the checkpoint and its tokens stand.
    pub(crate) async fn run(self: Arc<Self>, health: Option<Arc<dyn HealthCheck>>) -> Result<bool> {
        if self.recover_tokens().await.is_ok() {
            self.run_workers(health).await;
        }
        let failure = {
            let mut trouble = lock(&self.trouble);
            trouble.ended = true;
            trouble.failure.clone()
        };
        self.tell_progress();
        match failure {
            Some(error) => Err(error),
            None => Ok(self.journal.read(Plan::is_done)),
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        let now = self.clock.now();
        let (done_rows, rows_per_second, eta) = {
            let mut meter = lock(&self.meter);
            (meter.rows(), meter.rate(now), meter.remaining(now, self.estimated_rows))
        };
        let signal = self.control.signal();
        let trouble = lock(&self.trouble);
        let state = if trouble.failure.is_some() {
            RunState::Failed
        } else if self.journal.read(Plan::is_done) {
            RunState::Done
        } else if trouble.ended {
            RunState::Stopped
        } else if signal.paused {
            RunState::Paused
        } else if signal.held.is_some() || trouble.waiting.is_some() {
            RunState::HeldBack
        } else {
            RunState::Running
        };
        Progress {
            state,
            done_rows,
            estimated_rows: self.estimated_rows.max(done_rows),
            rows_per_second,
            eta: if state == RunState::Done { Some(Duration::ZERO) } else { eta },
            parked_rows: self.work.parked_rows(),
            lag: self.queue.stats().oldest_age,
            held_back_by: signal.held.or_else(|| trouble.waiting.clone()),
        }
    }

    fn tell_progress(&self) {
        self.observers.emit(&Event::Progressed { run: self.name, progress: self.progress() });
    }

    async fn run_workers(self: &Arc<Self>, health: Option<Arc<dyn HealthCheck>>) {
        let unfinished: VecDeque<usize> = self.journal.read(|plan| {
            let slices = plan.slices.iter().enumerate();
            slices.filter(|(_, slice)| !slice.done).map(|(index, _)| index).collect()
        });
        let count = self.settings.workers.min(unfinished.len());
        let unfinished = Arc::new(Mutex::new(unfinished));
        let mut workers = JoinSet::new();
        for _ in 0..count {
            let (runner, unfinished) = (Arc::clone(self), Arc::clone(&unfinished));
            workers.spawn(async move {
                loop {
                    let Some(index) = lock(&unfinished).pop_front() else { return };
                    if runner.slice(index).await.is_err() {
                        return;
                    }
                }
            });
        }
        let watching = self.watch_health(health);
        tokio::pin!(watching);
        let mut telling = tokio::time::interval(TELL_EVERY);
        telling.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut watching => return,
                _ = telling.tick() => self.tell_progress(),
                joined = workers.join_next() => match joined {
                    None => return,
                    Some(Ok(())) => {}
                    Some(Err(cause)) => {
                        self.fail(Error::new(Kind::Stopped, "a page worker panicked").with_source(cause));
                    }
                },
            }
        }
    }

    /// Asks the health check for as long as the run lasts. Never returns.
    async fn watch_health(&self, health: Option<Arc<dyn HealthCheck>>) {
        let Some(health) = health else { return std::future::pending().await };
        loop {
            let limit = self.settings.call_timeout;
            let answer = tokio::time::timeout(limit, health.check()).await.unwrap_or_else(|_| {
                Health::Hold(format!("the health check has not answered within {limit:?}"))
            });
            self.control.health(answer);
            tokio::time::sleep(self.settings.health_interval).await;
        }
    }

    /// Pages that an earlier run may have written in part come first: until they are dealt with, the
    /// secondary may be wrong where no entry says so.
    async fn recover_tokens(&self) -> Result<(), Halt> {
        let tokens = self.journal.read(Plan::tokens);
        if tokens.is_empty() {
            return Ok(());
        }
        self.control.wait(self.work.settle_time()).await?;
        for token in tokens {
            let mut patience = Patience::new();
            while let Err(error) = self.work.recover(&token).await {
                self.after(error, &mut patience).await?;
            }
        }
        self.journal.forget_tokens();
        self.store().await
    }

    /// Works through one range.
    async fn slice(&self, index: usize) -> Result<(), Halt> {
        let rest = self.journal.read(|plan| plan.slices.get(index).map(|slice| slice.rest::<W::Key>()));
        let rest = match rest {
            Some(Ok(rest)) => rest,
            Some(Err(error)) => return Err(self.fail(error)),
            None => return Ok(()),
        };
        let end = rest.up_to.clone();
        let mut page = self.read(rest).await?;
        loop {
            page = self.admit(index, page, &end).await?;
            let rest = (!page.last).then(|| KeyRange { after: page.range.up_to.clone(), up_to: end.clone() });
            let read_next = async {
                match rest {
                    Some(rest) => Some(self.read(rest).await),
                    None => None,
                }
            };
            let (finished, next) = join(self.finish(&mut page), read_next).await;
            finished?;
            self.journal.change(index, |slice| {
                if let Some(key) = &page.range.up_to {
                    slice.position = Some(KeyBytes::of(key));
                }
                slice.token = None;
                slice.rows += page.rows as u64;
                slice.found += self.work.found(&page.content);
                slice.done = page.last;
            });
            match next {
                Some(Ok(next)) => page = next,
                Some(Err(halt)) => {
                    self.store().await?;
                    return Err(halt);
                }
                None => return self.store().await,
            }
        }
    }

    /// Waits for the permit of a page and stores how far the slice is, with the page's token.
    async fn admit(
        &self,
        index: usize,
        mut page: ReadPage<W::Key, W::Content>,
        end: &Option<W::Key>,
    ) -> Result<ReadPage<W::Key, W::Content>, Halt> {
        if self.control.try_permit(page.rows) != Ok(true) {
            // It may take long, and what is done so far is done.
            self.store().await?;
            let asked = self.clock.now();
            self.control.permit(page.rows).await?;
            if self.clock.now().saturating_duration_since(asked) > STALE_AFTER {
                let rest = KeyRange { after: page.range.after.clone(), up_to: end.clone() };
                drop(page);
                page = self.read(rest).await?;
            }
        }
        if self.work.leaves_token() && page.rows > 0 {
            self.journal.change(index, |slice| slice.token = Some(page.range.encode()));
        }
        self.store().await?;
        Ok(page)
    }

    fn page_rows(&self, rest: &KeyRange<W::Key>) -> usize {
        lock(&self.size).rows(self.work.record_bytes(rest))
    }

    async fn read(&self, rest: KeyRange<W::Key>) -> Result<ReadPage<W::Key, W::Content>, Halt> {
        let mut patience = Patience::new();
        loop {
            let limit = self.page_rows(&rest);
            match self.work.read(rest.clone(), limit).await {
                Ok(page) => {
                    patience.over(self);
                    return Ok(page);
                }
                Err(error) => self.page_failed(error, &mut patience).await?,
            }
        }
    }

    async fn finish(&self, page: &mut ReadPage<W::Key, W::Content>) -> Result<(), Halt> {
        let mut patience = Patience::new();
        loop {
            let limit = self.page_rows(&page.range);
            match self.work.finish(page, limit).await {
                Ok(took) => {
                    let took = took.max(page.took);
                    if patience.since.is_none() {
                        lock(&self.size).observe(page.rows, took);
                    }
                    self.control.page_done(page.rows as u64, took);
                    lock(&self.meter).add(self.clock.now(), page.rows as u64);
                    patience.over(self);
                    return Ok(());
                }
                Err(error) => self.page_failed(error, &mut patience).await?,
            }
        }
    }

    async fn store(&self) -> Result<(), Halt> {
        let mut patience = Patience::new();
        while let Err(error) = self.journal.store().await {
            self.after(error.context("the checkpoint cannot be stored"), &mut patience).await?;
        }
        patience.over(self);
        Ok(())
    }

    async fn page_failed(&self, error: Error, patience: &mut Patience) -> Result<(), Halt> {
        if error.kind() == Kind::Timeout {
            lock(&self.size).shrink();
        }
        self.control.page_failed();
        self.after(error, patience).await
    }

    /// Waits before another try if one may help, else ends the run.
    async fn after(&self, error: Error, patience: &mut Patience) -> Result<(), Halt> {
        match error.advice() {
            Advice::RetryNow | Advice::RetryLater | Advice::RetryWhenStoreIsBack => {}
            _ => return Err(self.fail(error)),
        }
        let now = self.clock.now();
        let since = *patience.since.get_or_insert(now);
        let tried = now.saturating_duration_since(since);
        if tried >= self.settings.give_up_after {
            return Err(self.fail(error.context(format_args!("given up after {tried:?}"))));
        }
        lock(&self.trouble).waiting = Some(error.to_string());
        let wait = patience.wait;
        patience.wait = (wait * 2).min(LONGEST_WAIT);
        self.control.wait(wait).await?;
        Ok(())
    }

    /// Ends the run with an error; the first one counts.
    fn fail(&self, error: Error) -> Halt {
        lock(&self.trouble).failure.get_or_insert(error);
        self.control.stop();
        Halt::Failed
    }
}

/// How long one thing has been tried, and how long the next wait is.
struct Patience {
    since: Option<Instant>,
    wait: Duration,
}

impl Patience {
    const fn new() -> Self {
        Self { since: None, wait: FIRST_WAIT }
    }

    /// It went well. If it had not before, it is trouble no more.
    fn over<W>(&self, runner: &Runner<W>) {
        if self.since.is_some() {
            lock(&runner.trouble).waiting = None;
        }
    }
}
