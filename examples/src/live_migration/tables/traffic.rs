//! The load generator: readers and writers that hit the tables for as long as they are let.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use zdm_core::error::{Certainty, Error, Kind};
use zdm_sql_adapters::table::{ColumnType, DynKey, DynRow};

use super::super::latency::Request;
use super::super::ledger::Ledger;
use super::super::migration::Calls;
use super::super::service::RequestError;
use super::super::traffic::Tally;
use super::super::{Doing, Result};
use super::canonical::{Raw, line};
use super::names::Names;
use super::plan::Table;
use super::pool::{KnownKey, Pool, Proposal};
use super::spread::RowName;
use super::whole::RowKey;

/// Writers side by side, so that writes to one key overlap now and then.
const WRITERS: u32 = 16;
const READS_PER_SECOND_AND_READER: u32 = 100;

/// Everything that readers and writers share.
pub struct Client {
    /// The application's own calls.
    pub calls: Calls<RowKey, DynRow>,
    /// The record of writes.
    pub ledger: Arc<Ledger>,
    /// The numbers of keys in it.
    pub names: Arc<Names>,
    /// What has happened so far.
    pub tally: Arc<Tally>,
    /// What is known of the tables.
    pub pools: Vec<Pool>,
    /// The types of their columns, and the places of their keys.
    pub shapes: Vec<(Vec<ColumnType>, Vec<usize>)>,
}

/// The types of the columns of tables, and the places of their keys.
pub fn shapes(tables: &[Table]) -> Vec<(Vec<ColumnType>, Vec<usize>)> {
    let types = |table: &Table| table.agreement.columns.iter().map(|column| column.ty.clone()).collect();
    tables.iter().map(|table| (types(table), table.key_places())).collect()
}

/// Traffic that goes on in the background until it is stopped.
pub struct Traffic {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<()>>,
}

impl Traffic {
    /// Starts readers and writers.
    pub fn start(client: Arc<Client>, writes_per_second: u32, readers: u32) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut seeds = fastrand::Rng::with_seed(client.ledger.position());
        let writers = WRITERS.min(writes_per_second);
        for _ in 0..writers {
            let pause = Duration::from_secs(1) * writers / writes_per_second;
            tasks.spawn(Arc::clone(&client).keep_writing(pause, seeds.fork(), stopped.clone()));
        }
        for _ in 0..readers {
            let pause = Duration::from_secs(1) / READS_PER_SECOND_AND_READER;
            tasks.spawn(Arc::clone(&client).keep_reading(pause, seeds.fork(), stopped.clone()));
        }
        Self { stop, tasks }
    }

    /// Stops. Requests under way are answered first.
    ///
    /// # Errors
    /// A reader or writer could not go on: the ledger was full or a task panicked.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.doing(|| "a reader or writer broke off".into())??;
        }
        Ok(())
    }
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
            let table = random.usize(0..self.pools.len());
            match random.u8(0..100) {
                0..60 if self.pools[table].can_update() => self.update(table, &mut random).await?,
                0..82 => self.insert(table, &mut random).await?,
                _ => self.delete(table, &mut random).await?,
            }
        }
        Ok(())
    }

    async fn update(&self, table: usize, random: &mut fastrand::Rng) -> Result<()> {
        let Some(known) = self.pools[table].some_key(random) else { return Ok(()) };
        let Some(row) = self.look(table, &known).await else { return Ok(()) };
        match self.pools[table].updated(known.key, &row, random) {
            Some(proposal) => self.put(table, &proposal, &self.tally.updates).await.map(|_| ()),
            None => Ok(()),
        }
    }

    async fn insert(&self, table: usize, random: &mut fastrand::Rng) -> Result<()> {
        let Some(proposal) = self.pools[table].inserted(&self.pools, random) else { return Ok(()) };
        if self.put(table, &proposal, &self.tally.inserts).await? {
            self.pools[table].took(&proposal, random);
        }
        Ok(())
    }

    async fn delete(&self, table: usize, random: &mut fastrand::Rng) -> Result<()> {
        let Some(known) = self.pools[table].some_deletable(random) else { return Ok(()) };
        let key = row_key(table, known.key);
        let number = self.names.number(&self.name(&key))?;
        let write = self.ledger.intend(number, |_| None)?;
        let call = self.calls.delete(&key);
        self.called(write, "delete", &key, &self.tally.deletes, call).await?;
        Ok(())
    }

    async fn put(&self, table: usize, proposal: &Proposal, count: &AtomicU64) -> Result<bool> {
        let key = row_key(table, proposal.key.clone());
        let number = self.names.number(&self.name(&key))?;
        let write = self.ledger.intend(number, |_| Some(self.line(table, &proposal.row)))?;
        let call = self.calls.put(&key, &proposal.row);
        let done = self.called(write, "put", &key, count, call).await?;
        if !done {
            self.pools[table].refused(&proposal.invented);
        }
        Ok(done)
    }

    async fn called(
        &self,
        write: u64,
        what: &str,
        key: &RowKey,
        count: &AtomicU64,
        call: impl Future<Output = zdm_core::Result<()>>,
    ) -> Result<bool> {
        let (phase, started) = (self.tally.latencies.now(), Instant::now());
        let outcome = call.await;
        self.tally.latencies.record(phase, Request::Write, started.elapsed());
        match outcome {
            Ok(()) => {
                self.ledger.acknowledged(write)?;
                count.fetch_add(1, Ordering::Relaxed);
                return Ok(true);
            }
            Err(error) if is_refusal(&error) => {
                self.ledger.failed(write)?;
                let error = RequestError::from(error);
                self.tally.complain(&self.tally.refused, || format!("refused: {what} of {key:?}: {error}"));
            }
            Err(error) => {
                self.ledger.failed(write)?;
                let error = RequestError::from(error);
                self.tally.complain(&self.tally.errors, || format!("{what} of {key:?}: {error}"));
            }
        }
        Ok(false)
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
            let table = random.usize(0..self.pools.len());
            if let Some(known) = self.pools[table].some_key(&mut random) {
                self.look(table, &known).await;
            }
        }
        Ok(())
    }

    /// Reads a row and judges whether it is one that the order of the writes allows.
    async fn look(&self, table: usize, known: &KnownKey) -> Option<DynRow> {
        let key = row_key(table, known.key.clone());
        let began = self.ledger.position();
        let (phase, started) = (self.tally.latencies.now(), Instant::now());
        let outcome = self.calls.get(&key).await;
        self.tally.latencies.record(phase, Request::Read, started.elapsed());
        match outcome {
            Ok(row) => {
                self.tally.reads.fetch_add(1, Ordering::Relaxed);
                self.judge(table, known, &key, began, row.as_ref());
                row
            }
            Err(error) => {
                let error = RequestError::from(error);
                self.tally.complain(&self.tally.errors, || format!("get of {key:?}: {error}"));
                None
            }
        }
    }

    fn judge(&self, table: usize, known: &KnownKey, key: &RowKey, began: u64, row: Option<&DynRow>) {
        let ended = self.ledger.position();
        let found = row.map(|row| self.line(table, row));
        let fresh = match self.names.known(&self.name(key)) {
            // Nobody ever wrote it.
            None => found.is_some() == known.initial,
            Some(number) => self.ledger.look(|history| {
                let allowed = history.allowed(number, began, ended);
                match &found {
                    None => allowed.absent || (allowed.initial && !known.initial),
                    Some(line) if allowed.values.contains(&line.as_str()) => true,
                    // What was there at first is not kept in memory; a value that nobody wrote can only be that.
                    Some(line) => allowed.initial && known.initial && !history.knows(number, line),
                }
            }),
        };
        if !fresh {
            self.tally.complain(&self.tally.stale_reads, || {
                let answer = found.as_deref().unwrap_or("nothing");
                format!("get of {key:?} between lines {began} and {ended} of the ledger answered {answer}")
            });
        }
    }

    fn name(&self, (table, key): &RowKey) -> RowName {
        let (types, places) = &self.shapes[usize::from(*table)];
        let values: Vec<_> = key.values().iter().map(Raw::from).collect();
        (*table, line(values.iter().zip(places.iter().map(|at| &types[*at]))))
    }

    fn line(&self, table: usize, row: &DynRow) -> String {
        let values: Vec<_> = row.values().iter().map(Raw::from).collect();
        line(values.iter().zip(&self.shapes[table].0))
    }
}

fn row_key(table: usize, key: DynKey) -> RowKey {
    (u16::try_from(table).unwrap_or(u16::MAX), key)
}

/// What an application would be told without a migration too: a constraint refuses the row.
fn is_refusal(error: &Error) -> bool {
    error.certainty() == Certainty::NotApplied
        && matches!(error.kind(), Kind::Conflict | Kind::MissingReference | Kind::Rejected)
}
