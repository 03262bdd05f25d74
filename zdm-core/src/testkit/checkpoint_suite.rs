//! Every sentence of the [`CheckpointStore`] contract, tried on a checkpoint store.

use async_trait::async_trait;

use super::drop_after_polls;
use super::rule::{Rule, try_rules};
use crate::checkpoint::{Checkpoint, CheckpointStore};
use crate::error::{Certainty, Kind};

/// Makes the checkpoint stores that a suite tries.
#[async_trait]
pub trait CheckpointFactory: Send {
    /// What is tried.
    type Store: CheckpointStore;

    /// A checkpoint store without checkpoints, in a storage of its own.
    async fn create(&mut self) -> Self::Store;

    /// Opens the storage of the store that was created last once more; the store has been dropped. `None`
    /// if it keeps nothing.
    async fn reopen(&mut self) -> Option<Self::Store>;
}

/// Tries every sentence of the contract of [`CheckpointStore`].
///
/// ```
/// use zdm_core::checkpoint::MemoryCheckpoints;
/// use zdm_core::testkit::{checkpoint_suite, CheckpointFactory};
///
/// struct InMemory;
///
/// #[async_trait::async_trait]
/// impl CheckpointFactory for InMemory {
///     type Store = MemoryCheckpoints;
///
///     async fn create(&mut self) -> MemoryCheckpoints {
///         MemoryCheckpoints::new()
///     }
///
///     async fn reopen(&mut self) -> Option<MemoryCheckpoints> {
///         None
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(
/// checkpoint_suite(InMemory)
/// # );
/// ```
///
/// # Panics
/// With the name of the rule that is broken.
pub async fn checkpoint_suite<F: CheckpointFactory>(mut factory: F) {
    let factory = &mut factory;
    try_rules!(factory;
        a_checkpoint_comes_back_as_it_was_saved,
        a_job_without_a_checkpoint_has_none,
        a_checkpoint_only_moves_forward,
        a_checkpoint_of_another_subject_is_refused,
        a_removed_checkpoint_is_gone,
        jobs_do_not_share_a_checkpoint,
        jobs_are_listed_in_order,
        of_racing_saves_the_greater_sequence_stands,
        a_dropped_save_leaves_the_old_checkpoint_or_the_new_one,
        checkpoints_survive_being_opened_again,
    );
}

const JOB: &str = "backfill";

fn checkpoint(sequence: u64) -> Checkpoint {
    let position = sequence.to_be_bytes().to_vec();
    Checkpoint { sequence, ..Checkpoint::first(3, "public.users", position, 1_700_000_000_000 + sequence) }
}

async fn load<C: CheckpointStore>(rule: Rule, store: &C, job: &str) -> Option<Checkpoint> {
    rule.ok("load", store.load(job).await)
}

async fn save<C: CheckpointStore>(rule: Rule, store: &C, job: &str, checkpoint: &Checkpoint) {
    rule.ok("save", store.save(job, checkpoint).await);
}

async fn a_checkpoint_comes_back_as_it_was_saved<F: CheckpointFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let mut saved = Checkpoint::first(u32::MAX, "naïve \"table\"\n%00", every_byte, 1 << 53 | 1);
    for position in [saved.position.clone(), Vec::new(), vec![0; 10_000]] {
        saved = saved.next(position, saved.updated_at + 1);
        save(rule, &store, JOB, &saved).await;
        rule.same("the loaded checkpoint", load(rule, &store, JOB).await, Some(saved.clone()));
        rule.same("what a second load finds", load(rule, &store, JOB).await, Some(saved.clone()));
    }
}

async fn a_job_without_a_checkpoint_has_none<F: CheckpointFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    rule.same("the checkpoint of a new job", load(rule, &store, JOB).await, None);
    rule.same("the jobs at the start", rule.ok("jobs", store.jobs().await), Vec::new());
    save(rule, &store, JOB, &checkpoint(1)).await;
    rule.same("the checkpoint of another job", load(rule, &store, "verify").await, None);
}

async fn a_checkpoint_only_moves_forward<F: CheckpointFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    save(rule, &store, JOB, &checkpoint(5)).await;
    for sequence in [5, 4, 0] {
        let changed = Checkpoint { position: vec![9], ..checkpoint(sequence) };
        let saved = store.save(JOB, &changed).await;
        let error = rule.fails("a save that does not move forward", Kind::Refused, saved);
        rule.same("the certainty of the refusal", error.certainty(), Certainty::NotApplied);
        rule.same("the checkpoint that stands", load(rule, &store, JOB).await, Some(checkpoint(5)));
    }
    // Sequences may have gaps, and go beyond what a float holds.
    save(rule, &store, JOB, &checkpoint(1 << 53)).await;
    save(rule, &store, JOB, &checkpoint((1 << 53) + 1)).await;
    let saved = store.save(JOB, &checkpoint(1 << 53)).await;
    rule.fails("a save that goes back by one", Kind::Refused, saved);
}

async fn a_checkpoint_of_another_subject_is_refused<F: CheckpointFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    save(rule, &store, JOB, &checkpoint(1)).await;
    let other = Checkpoint { subject: "public.orders".to_owned(), ..checkpoint(2) };
    let error = rule.fails("a save for another subject", Kind::Invalid, store.save(JOB, &other).await);
    let text = error.to_string();
    rule.holds(
        text.contains("public.users") && text.contains("public.orders"),
        format!("the error does not name both subjects: {text}"),
    );
    rule.same("the checkpoint that stands", load(rule, &store, JOB).await, Some(checkpoint(1)));
}

/// Names that a storage may confuse: letter case, blanks, separators, wildcards, escapes.
const NAMES: [&str; 10] = ["Job", "job", "job ", "job/a", "job%2fa", "job.a", "j_b", "j%", "jöb", "../job"];

async fn jobs_do_not_share_a_checkpoint<F: CheckpointFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    for (sequence, job) in (1..).zip(NAMES) {
        save(rule, &store, job, &checkpoint(sequence)).await;
    }
    for (sequence, job) in (1..).zip(NAMES) {
        rule.same(job, load(rule, &store, job).await, Some(checkpoint(sequence)));
    }
    rule.ok("remove", store.remove("job").await);
    for (sequence, job) in (1..).zip(NAMES) {
        let wanted = (job != "job").then(|| checkpoint(sequence));
        rule.same(job, load(rule, &store, job).await, wanted);
    }
}

async fn jobs_are_listed_in_order<F: CheckpointFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    for job in NAMES {
        save(rule, &store, job, &checkpoint(1)).await;
    }
    let mut wanted = NAMES.map(str::to_owned);
    wanted.sort();
    rule.same("the list of jobs", rule.ok("jobs", store.jobs().await), wanted.to_vec());
}

async fn a_removed_checkpoint_is_gone<F: CheckpointFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    rule.ok("remove of a job that has no checkpoint", store.remove(JOB).await);
    save(rule, &store, JOB, &checkpoint(7)).await;
    rule.ok("remove", store.remove(JOB).await);
    rule.same("the removed checkpoint", load(rule, &store, JOB).await, None);
    rule.same("the jobs", rule.ok("jobs", store.jobs().await), Vec::new());
    // A job that begins anew begins with its first checkpoint, about any subject.
    let anew = Checkpoint { subject: "public.orders".to_owned(), ..checkpoint(1) };
    save(rule, &store, JOB, &anew).await;
    rule.same("the new checkpoint", load(rule, &store, JOB).await, Some(anew));
}

async fn of_racing_saves_the_greater_sequence_stands<F: CheckpointFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    for round in 0..20 {
        let (older, newer) = (checkpoint(3 * round + 1), checkpoint(3 * round + 2));
        let (first, second) = if round % 2 == 0 { (&older, &newer) } else { (&newer, &older) };
        let (one, two) = tokio::join!(store.save(JOB, first), store.save(JOB, second));
        let (of_older, of_newer) = if round % 2 == 0 { (one, two) } else { (two, one) };
        rule.ok("the save with the greater sequence", of_newer);
        if let Err(error) = of_older {
            rule.same("the kind of the loser's error", error.kind(), Kind::Refused);
        }
        rule.same("the checkpoint that stands", load(rule, &store, JOB).await, Some(newer));
    }
}

async fn a_dropped_save_leaves_the_old_checkpoint_or_the_new_one<F: CheckpointFactory>(
    rule: Rule,
    factory: &mut F,
) {
    let store = factory.create().await;
    let mut sequence = 1;
    save(rule, &store, JOB, &checkpoint(sequence)).await;
    for polls in 0..10_000 {
        let next = checkpoint(sequence + 1);
        let ended = drop_after_polls(polls, store.save(JOB, &next)).await;
        let found = load(rule, &store, JOB).await;
        let old = Some(checkpoint(sequence));
        rule.holds(found == old || found == Some(next), format!("a dropped save leaves {found:?}"));
        // Nothing half-done keeps the next save out, whichever of the two stands by now.
        sequence += 2;
        save(rule, &store, JOB, &checkpoint(sequence)).await;
        rule.same("the next one", load(rule, &store, JOB).await, Some(checkpoint(sequence)));
        if let Some(saved) = ended {
            rule.ok("save", saved);
            return;
        }
    }
    rule.holds(false, "save does not come to its end");
}

async fn checkpoints_survive_being_opened_again<F: CheckpointFactory>(rule: Rule, factory: &mut F) {
    let store = factory.create().await;
    save(rule, &store, JOB, &checkpoint(1)).await;
    save(rule, &store, JOB, &checkpoint(2)).await;
    save(rule, &store, "verify", &checkpoint(9)).await;
    save(rule, &store, "gone", &checkpoint(1)).await;
    rule.ok("remove", store.remove("gone").await);
    drop(store);
    let Some(store) = factory.reopen().await else { return };
    rule.same("the checkpoint", load(rule, &store, JOB).await, Some(checkpoint(2)));
    rule.same("the other checkpoint", load(rule, &store, "verify").await, Some(checkpoint(9)));
    rule.same("the removed one", load(rule, &store, "gone").await, None);
    rule.fails("a save that goes back", Kind::Refused, store.save(JOB, &checkpoint(2)).await);
    save(rule, &store, JOB, &checkpoint(3)).await;
}
