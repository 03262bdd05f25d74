//! The checkpoint of a run that is under way. Nothing is in it that is not done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Mutex as AsyncMutex;
use zdm_core::checkpoint::{Checkpoint, CheckpointStore};
use zdm_core::clock::Clock;
use zdm_core::error::{Kind, Result};
use zdm_core::key::Key;
use zdm_core::queue::Direction;

use super::plan::{FORMAT, Plan, Slice};

/// Where the checkpoint of a run is kept, and what it is about.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) store: Arc<dyn CheckpointStore>,
    pub(crate) job: String,
    pub(crate) subject: String,
    pub(crate) clock: Arc<dyn Clock>,
}

pub(crate) struct Journal {
    place: Place,
    now: Mutex<Numbered>,
    /// Held while storing, so that versions arrive in order.
    stored: AsyncMutex<Stored>,
}

struct Numbered {
    plan: Plan,
    version: u64,
}

struct Stored {
    version: u64,
    /// Of the last save that was tried. A save whose outcome is unknown may have used its number up.
    sequence: u64,
}

impl Place {
    /// The plan that an earlier run left, and the sequence of its checkpoint.
    ///
    /// # Errors
    /// `Kind::Invalid` or `Kind::Damaged` when there is one that this run cannot go on from.
    pub(crate) async fn load<K: Key>(&self, direction: Direction) -> Result<Option<(Plan, u64)>> {
        let Some(found) = self.store.load(&self.job).await? else { return Ok(None) };
        found.expect(&self.job, &self.subject, FORMAT)?;
        let plan = Plan::decode::<K>(&found.position, direction)
            .map_err(|error| error.context(format_args!("the checkpoint of the job {:?}", self.job)))?;
        Ok(Some((plan, found.sequence)))
    }

    /// Takes the job over with a plan. `None` when somebody else has stored a checkpoint since it was
    /// loaded.
    pub(crate) async fn take(&self, plan: Plan, sequence: u64) -> Result<Option<Journal>> {
        let sequence = sequence + 1;
        match self.save(&plan, sequence).await {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::Refused => return Ok(None),
            Err(error) => return Err(error),
        }
        let now = Mutex::new(Numbered { plan, version: 0 });
        let stored = AsyncMutex::new(Stored { version: 0, sequence });
        Ok(Some(Journal { place: self.clone(), now, stored }))
    }

    async fn save(&self, plan: &Plan, sequence: u64) -> Result<()> {
        let checkpoint = Checkpoint {
            format: FORMAT,
            sequence,
            subject: self.subject.clone(),
            position: plan.encode()?,
            updated_at: self.clock.unix_millis(),
        };
        self.store.save(&self.job, &checkpoint).await
    }
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Numbered> {
        // Every change is whole before the lock is let go, so a panic elsewhere leaves it sound.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Plan) -> T) -> T {
        read(&self.lock().plan)
    }

    /// The pages that may have been written in part are dealt with.
    pub(crate) fn forget_tokens(&self) {
        let mut now = self.lock();
        now.plan.forget_tokens();
        now.version += 1;
    }

    /// Changes one slice, in memory only. What it says must be true already: another worker may store it.
    pub(crate) fn change(&self, index: usize, change: impl FnOnce(&mut Slice)) {
        let mut now = self.lock();
        if let Some(slice) = now.plan.slices.get_mut(index) {
            change(slice);
            now.version += 1;
        }
    }

    /// Makes everything durable that was changed before this call. One worker may store for several.
    pub(crate) async fn store(&self) -> Result<()> {
        let wanted = self.lock().version;
        let mut stored = self.stored.lock().await;
        if stored.version >= wanted {
            return Ok(());
        }
        let (plan, version) = {
            let now = self.lock();
            (now.plan.clone(), now.version)
        };
        stored.sequence += 1;
        self.place.save(&plan, stored.sequence).await?;
        stored.version = version;
        Ok(())
    }
}
