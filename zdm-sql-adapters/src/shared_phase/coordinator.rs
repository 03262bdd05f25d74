use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, Notify};
use zdm_core::clock::Clock;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::phase::{Audit, Coordinator, Member, MoveRecord, Phase, PhaseRecord};
use zdm_core::queue::Epoch;

use super::tables::PhaseTables;

/// How often [`changed`](Coordinator::changed) asks the database.
const POLL: Duration = Duration::from_millis(100);

/// The coordinator of a migration whose instances share a database.
pub struct SharedCoordinator<T: PhaseTables> {
    tables: T,
    migration: String,
    /// One move of this instance at a time. Whoever asks for the phase waits for it, so that a move whose
    /// caller went away is seen or does not happen.
    moving: Arc<Mutex<()>>,
    moved: Notify,
    clock: Arc<dyn Clock>,
}

impl<T: PhaseTables> SharedCoordinator<T> {
    pub(crate) async fn begin(
        tables: T,
        migration: &str,
        phase: Phase,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let first = PhaseRecord { phase, epoch: Epoch(1), since: clock.unix_millis(), handover: None };
        tables.begin(migration, first.epoch, text_of(&first)?).await?;
        let moving = Arc::new(Mutex::new(()));
        Ok(Self { tables, migration: migration.to_owned(), moving, moved: Notify::new(), clock })
    }

    async fn read(&self) -> Result<PhaseRecord> {
        let record = self.tables.record(&self.migration).await?.ok_or_else(|| {
            let message = format!("the phase of the migration {:?} is gone from its table", self.migration);
            Error::new(Kind::Damaged, message)
        })?;
        parse(&record, || format!("the phase of the migration {:?}", self.migration))
    }

    /// Replaces the record by what `change` makes of it.
    async fn replace(
        &self,
        expected: Epoch,
        change: impl FnOnce(&PhaseRecord) -> Result<(PhaseRecord, Option<MoveRecord>)>,
    ) -> Result<PhaseRecord> {
        let mine = Arc::clone(&self.moving).lock_owned().await;
        let now = self.read().await?;
        if now.epoch != expected {
            return Err(changed_meanwhile(&now, expected));
        }
        let (next, made) = change(&now)?;
        let (tables, migration) = (self.tables.clone(), self.migration.clone());
        let row = (next.epoch, text_of(&next)?);
        let made = made.as_ref().map(text_of).transpose()?;
        let moving = tokio::spawn(async move {
            let replaced = tables.replace(&migration, expected, row, made).await;
            drop(mine);
            replaced
        });
        let replaced = moving.await.unwrap_or_else(|error| {
            let message = "the move was cut off: the runtime shuts down";
            Err(Error::new(Kind::Stopped, message).with_source(error).unknown())
        })?;
        if !replaced {
            return Err(changed_meanwhile(&self.current().await?, expected));
        }
        self.moved.notify_waiters();
        Ok(next)
    }
}

impl<T: PhaseTables> fmt::Debug for SharedCoordinator<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCoordinator").field("migration", &self.migration).finish_non_exhaustive()
    }
}

fn text_of(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::new(Kind::Invalid, "a phase cannot be written down").with_source(error))
}

fn parse<V: serde::de::DeserializeOwned>(text: &str, what: impl FnOnce() -> String) -> Result<V> {
    serde_json::from_str(text).map_err(|error| {
        let message =
            format!("{} is not known to this program: {text:?}; was it written by a newer version?", what());
        Error::new(Kind::Damaged, message).with_source(error)
    })
}

fn changed_meanwhile(now: &PhaseRecord, expected: Epoch) -> Error {
    let message = format!(
        "the phase has changed meanwhile: it is {} of epoch {}, expected was epoch {expected}",
        now.phase, now.epoch
    );
    Error::new(Kind::Refused, message)
}

#[async_trait]
impl<T: PhaseTables> Coordinator for SharedCoordinator<T> {
    async fn current(&self) -> Result<PhaseRecord> {
        let _none_moves = self.moving.lock().await;
        self.read().await
    }

    async fn advance(&self, expected: Epoch, to: Phase, audit: Audit) -> Result<PhaseRecord> {
        self.replace(expected, |now| {
            // The clocks of two instances may differ; time does not run backwards in the history.
            let at = self.clock.unix_millis().max(now.since);
            now.advanced(expected, to, audit, at).map(|(next, made)| (next, Some(made)))
        })
        .await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn announce(&self, expected: Epoch, to: Phase) -> Result<PhaseRecord> {
        self.replace(expected, |now| Ok((now.announced(expected, to)?, None))).await
    }

    async fn withdraw(&self, expected: Epoch) -> Result<PhaseRecord> {
        self.replace(expected, |now| Ok((now.withdrawn(expected)?, None))).await
    }

    async fn history(&self) -> Result<Vec<MoveRecord>> {
        let moves = self.tables.moves(&self.migration).await?;
        moves
            .iter()
            .map(|made| parse(made, || format!("a move of the migration {:?}", self.migration)))
            .collect()
    }

    async fn changed(&self, known: Epoch) -> Result<PhaseRecord> {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let record = self.current().await?;
            if record.epoch > known {
                return Ok(record);
            }
            // By this instance, or perhaps by another one.
            drop(tokio::time::timeout(POLL, moved).await);
        }
    }

    async fn report(&self, member: Member, lease: Duration) -> Result<()> {
        self.tables.put_member(&self.migration, &member, lease).await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.tables.members(&self.migration).await
    }

    async fn leave(&self, name: &str) -> Result<()> {
        self.tables.remove_member(&self.migration, name).await
    }
}
