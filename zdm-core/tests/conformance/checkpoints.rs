use async_trait::async_trait;
use zdm_core::checkpoint::{Checkpoint, CheckpointStore, FileCheckpoints, MemoryCheckpoints};
use zdm_core::error::Result;
use zdm_core::testkit::{CheckpointFactory, checkpoint_suite};

use super::{Folders, complaint};

struct InMemory;

#[async_trait]
impl CheckpointFactory for InMemory {
    type Store = MemoryCheckpoints;

    async fn create(&mut self) -> MemoryCheckpoints {
        MemoryCheckpoints::new()
    }

    async fn reopen(&mut self) -> Option<MemoryCheckpoints> {
        None
    }
}

struct InFiles(Folders);

#[async_trait]
impl CheckpointFactory for InFiles {
    type Store = FileCheckpoints;

    async fn create(&mut self) -> FileCheckpoints {
        FileCheckpoints::open(self.0.next()).await.unwrap()
    }

    async fn reopen(&mut self) -> Option<FileCheckpoints> {
        Some(FileCheckpoints::open(self.0.last()).await.unwrap())
    }
}

#[tokio::test]
async fn checkpoints_in_memory_pass() {
    checkpoint_suite(InMemory).await;
}

#[tokio::test]
async fn checkpoints_in_files_pass() {
    checkpoint_suite(InFiles(Folders::new())).await;
}

/// One thing that a checkpoint store does wrong.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    GoesBack,
    TakesAnySubject,
    IgnoresLetterCase,
    ListsInNoOrder,
    ChecksBeforeItWaits,
    RemovesBeforeItWaits,
    CutsThePosition,
    KeepsWhatIsRemoved,
    BeginsAnewWhenOpened,
}

struct Broken {
    inner: MemoryCheckpoints,
    flaw: Flaw,
}

impl Broken {
    fn job(&self, job: &str) -> String {
        match self.flaw {
            Flaw::IgnoresLetterCase => job.to_lowercase(),
            _ => job.to_owned(),
        }
    }
}

struct MakesBroken(Flaw);

#[async_trait]
impl CheckpointFactory for MakesBroken {
    type Store = Broken;

    async fn create(&mut self) -> Broken {
        Broken { inner: MemoryCheckpoints::new(), flaw: self.0 }
    }

    async fn reopen(&mut self) -> Option<Broken> {
        match self.0 {
            Flaw::BeginsAnewWhenOpened => Some(self.create().await),
            _ => None,
        }
    }
}

#[async_trait]
impl CheckpointStore for Broken {
    async fn load(&self, job: &str) -> Result<Option<Checkpoint>> {
        self.inner.load(&self.job(job)).await
    }

    async fn save(&self, job: &str, checkpoint: &Checkpoint) -> Result<()> {
        let job = self.job(job);
        let stored = self.inner.load(&job).await?;
        let subject_differs = stored.as_ref().is_some_and(|stored| stored.subject != checkpoint.subject);
        match self.flaw {
            Flaw::GoesBack if !subject_differs => self.inner.remove(&job).await?,
            Flaw::TakesAnySubject if subject_differs => self.inner.remove(&job).await?,
            Flaw::ChecksBeforeItWaits => {
                checkpoint.expect_after(&job, stored.as_ref())?;
                // The one with the greater sequence gets through first.
                for _ in 0..10 - checkpoint.sequence % 3 {
                    tokio::task::yield_now().await;
                }
                self.inner.remove(&job).await?;
            }
            Flaw::RemovesBeforeItWaits => {
                checkpoint.expect_after(&job, stored.as_ref())?;
                self.inner.remove(&job).await?;
                tokio::task::yield_now().await;
            }
            Flaw::CutsThePosition => {
                let position = checkpoint.position.iter().copied().take(255).collect();
                return self.inner.save(&job, &Checkpoint { position, ..checkpoint.clone() }).await;
            }
            _ => {}
        }
        self.inner.save(&job, checkpoint).await
    }

    async fn remove(&self, job: &str) -> Result<()> {
        match self.flaw {
            Flaw::KeepsWhatIsRemoved => Ok(()),
            _ => self.inner.remove(&self.job(job)).await,
        }
    }

    async fn jobs(&self) -> Result<Vec<String>> {
        let mut jobs = self.inner.jobs().await?;
        if matches!(self.flaw, Flaw::ListsInNoOrder) {
            jobs.reverse();
        }
        Ok(jobs)
    }
}

#[tokio::test]
async fn broken_checkpoint_stores_are_caught_by_name() {
    for (flaw, rule) in [
        (Flaw::GoesBack, "a_checkpoint_only_moves_forward"),
        (Flaw::TakesAnySubject, "a_checkpoint_of_another_subject_is_refused"),
        (Flaw::IgnoresLetterCase, "jobs_do_not_share_a_checkpoint"),
        (Flaw::ListsInNoOrder, "jobs_are_listed_in_order"),
        (Flaw::ChecksBeforeItWaits, "of_racing_saves_the_greater_sequence_stands"),
        (Flaw::RemovesBeforeItWaits, "a_dropped_save_leaves_the_old_checkpoint_or_the_new_one"),
        (Flaw::CutsThePosition, "a_checkpoint_comes_back_as_it_was_saved"),
        (Flaw::KeepsWhatIsRemoved, "a_removed_checkpoint_is_gone"),
        (Flaw::BeginsAnewWhenOpened, "checkpoints_survive_being_opened_again"),
    ] {
        let text = complaint(checkpoint_suite(MakesBroken(flaw))).await;
        assert!(text.starts_with(&format!("the rule {rule} is broken")), "{flaw:?}: {text}");
    }
}
