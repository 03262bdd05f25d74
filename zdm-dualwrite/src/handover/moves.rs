use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::phase::{Audit, Move, Override, Phase, PhaseRecord};
use zdm_core::queue::{Direction, Span, TouchItem};
use zdm_core::report::Event;
use zdm_core::store::{Record, Store, StoreExt};

use crate::adapter::{DualWrite, Shared};
use crate::handover::TouchedSince;

const RECHECK_BATCH: usize = 500;

/// A move of the phase, with what the audit record should know.
///
/// ```
/// use zdm_core::phase::{Gate, Phase};
/// use zdm_dualwrite::MoveRequest;
///
/// let request = MoveRequest::to(Phase::Live)
///     .by("ada", "cut over as planned")
///     .overriding(Gate::Verified, "compared with the warehouse instead");
/// # let _ = request;
/// ```
#[derive(Clone, Debug)]
pub struct MoveRequest {
    pub(super) to: Phase,
    by: String,
    reason: String,
    pub(super) overrides: Vec<Override>,
}

/// A move that was made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Advanced {
    /// The phase now.
    pub record: PhaseRecord,
    /// How long writes waited, if the primary role moved.
    pub pause: Option<Duration>,
}

impl MoveRequest {
    /// A move to a phase, by `"application"`, without overrides.
    pub fn to(to: Phase) -> Self {
        Self { to, by: "application".to_owned(), reason: String::new(), overrides: Vec::new() }
    }

    /// Who moves, and why.
    #[must_use]
    pub fn by(mut self, who: impl Into<String>, reason: impl Into<String>) -> Self {
        self.by = who.into();
        self.reason = reason.into();
        self
    }

    /// Moves although one gate, which must be named, does not pass. The audit record keeps the reason.
    #[must_use]
    pub fn overriding(mut self, gate: zdm_core::phase::Gate, reason: impl Into<String>) -> Self {
        self.overrides.push(Override { gate, by: self.by.clone(), reason: reason.into() });
        self
    }
}

impl<S: Store + Clone> DualWrite<S> {
    /// Moves to a phase: checks that the move is legal, runs its gates, records it, and follows it. The
    /// moves `Shadow|Ramp -> Live` and back from `Live` and `RampDown` hand over the primary role; writes
    /// wait meanwhile.
    ///
    /// # Errors
    /// `Kind::Refused` when the move is not legal or a gate does not pass; the text says what is missing.
    /// `Kind::Limit` when a handover was given up. In both cases nothing has changed. What the coordinator
    /// says.
    ///
    /// # Cancel safety
    /// Once begun, the move goes on when the future is dropped.
    pub async fn advance(&self, to: Phase) -> Result<Advanced> {
        self.advance_with(MoveRequest::to(to)).await
    }

    /// As [`advance`](Self::advance), with overrides and words for the audit record.
    ///
    /// # Errors
    /// As [`advance`](Self::advance).
    ///
    /// # Cancel safety
    /// As [`advance`](Self::advance).
    pub async fn advance_with(&self, request: MoveRequest) -> Result<Advanced> {
        // In a task of its own: between recording a handover and following it nothing may drop it.
        let this = self.clone();
        let task = self.shared.tasks.spawn(async move { this.shared.make_move(request).await });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(Error::new(Kind::Stopped, "the move was cut off").with_source(error).unknown()),
        }
    }
}

impl<S: Store + Clone> Shared<S> {
    async fn make_move(&self, request: MoveRequest) -> Result<Advanced> {
        let _one_at_a_time = self.moving.lock().await;
        if let Some(reason) = self.poison.reason() {
            return Err(Error::new(
                Kind::Stopped,
                format!("mirroring has stopped, no phase can change: {reason}"),
            ));
        }
        let from = self.coordinator.current().await?;
        if from.epoch != self.operations.record().epoch {
            self.operations.enter(from.clone());
        }
        if let Some(to) = from.handover {
            let message = format!("a handover to {to} is announced by another instance; wait for its end");
            return Err(Error::new(Kind::Refused, message));
        }
        let planned = Move::between(from.phase, request.to)?;
        let report = self.check_gates(&planned);
        let missing = report.missing(&request.overrides);
        if !missing.is_empty() {
            let message = format!("{} -> {} is not possible yet: {missing}", from.phase, request.to);
            return Err(Error::new(Kind::Refused, message));
        }
        let audit = Audit {
            by: request.by,
            reason: request.reason,
            checks: report.checks,
            overrides: request.overrides,
        };
        self.wait_for_members(&from).await?;
        if planned.new_primary().is_some() {
            return self.hand_over(&from, request.to, audit).await;
        }
        let record = self.coordinator.advance(from.epoch, request.to, audit).await?;
        self.follow(&from, record.clone()).await?;
        Ok(Advanced { record, pause: None })
    }

    /// Lets new operations use a recorded phase, and settles what the earlier one leaves behind.
    async fn follow(&self, from: &PhaseRecord, record: PhaseRecord) -> Result<()> {
        self.operations.enter(record.clone());
        self.observers.emit(&Event::PhaseMoved { from: from.phase, to: record.phase, epoch: record.epoch });
        let mirrored = |phase: Phase| phase.routing().direction.is_some();
        if mirrored(from.phase) && !mirrored(record.phase) {
            self.facts.set_backfilled(None);
            self.facts.set_verified(None);
            if record.phase == Phase::Off {
                // Nothing mirrors any more, so from now on every key of the new store may lag.
                self.queue.taint(KeyRange::all(), "mirroring was switched off").await?;
            }
        }
        if record.phase == Phase::Complete {
            self.operations.drained_before(record.epoch).await;
            for store in [&self.old, &self.new] {
                if let Some(fenced) = store.capabilities().fenced {
                    fenced.forget_stamps().await?;
                }
            }
        }
        Ok(())
    }

    async fn hand_over(&self, from: &PhaseRecord, to: Phase, audit: Audit) -> Result<Advanced> {
        let direction = from.phase.routing().direction;
        let started = Instant::now();
        self.observers.emit(&Event::HandoverStarted { from: from.phase, to });
        let pause = self.operations.pause();
        let recorded = match self.announce(from, to).await {
            Ok(announced) => {
                let ready = self.make_ready(&announced, direction, to, started).await;
                let recorded = match ready {
                    Ok(()) => self.record_handover(&announced, to, audit).await,
                    Err(error) => Err(error),
                };
                if recorded.is_err() {
                    self.give_up(&announced).await;
                }
                recorded
            }
            Err(error) => Err(error),
        };
        match recorded {
            Ok(record) => {
                // A new window: from here on the other side is written, and the way back needs to know.
                self.facts.set_verified(None);
                self.follow(from, record.clone()).await?;
                drop(pause);
                let pause = started.elapsed();
                self.observers.emit(&Event::HandoverDone { to, pause });
                Ok(Advanced { record, pause: Some(pause) })
            }
            Err(error) => {
                drop(pause);
                self.observers.emit(&Event::HandoverAborted { reason: error.to_string() });
                Err(error)
            }
        }
    }

    /// Waits until both stores are equal, and lets the application do what has to be done then. Both have
    /// the pause together, and come to an end before anything is recorded.
    async fn make_ready(
        &self,
        announced: &PhaseRecord,
        direction: Option<Direction>,
        to: Phase,
        started: Instant,
    ) -> Result<()> {
        let deadline = started + self.settings.handover_pause;
        let equal = async {
            self.members_drained(announced.epoch).await?;
            self.make_equal(direction).await
        };
        match tokio::time::timeout_at(deadline, equal).await {
            Ok(equal) => equal?,
            Err(_) => return Err(self.too_late(announced).await),
        }
        let Some(step) = &self.before_handover else { return Ok(()) };
        match tokio::time::timeout_at(deadline, step.run(to.routing().primary)).await {
            Ok(done) => done,
            Err(_) => {
                let message = format!(
                    "the handover was given up after {:?}: the application's step before the handover was \
                     not done yet",
                    self.settings.handover_pause
                );
                Err(Error::new(Kind::Limit, message))
            }
        }
    }

    /// What a handover that took too long waited for.
    async fn too_late(&self, announced: &PhaseRecord) -> Error {
        let late = match self.coordinator.is_shared() {
            true => self.late_members(announced.epoch).await.unwrap_or_default(),
            false => Vec::new(),
        };
        let members =
            if late.is_empty() { String::new() } else { format!(", not drained: {}", late.join(", ")) };
        let message = format!(
            "the handover was given up after {:?}: {} writes under way, {} entries pending{members}",
            self.settings.handover_pause,
            self.operations.in_flight(),
            self.queue.stats().pending()
        );
        Error::new(Kind::Limit, message)
    }

    /// Waits, while no write begins, until both stores are known to be equal.
    async fn make_equal(&self, direction: Option<Direction>) -> Result<()> {
        self.operations.drained().await;
        self.queue.wait_drained().await;
        let stats = self.queue.stats();
        if stats.dirty() > 0 {
            let message = format!(
                "the handover was given up: {} parked entries and {} taints stand between the stores",
                stats.parked, stats.taints
            );
            return Err(Error::new(Kind::Refused, message));
        }
        let Some(direction) = direction else { return Ok(()) };
        match self.facts.verified() {
            Some(verified) => self.recheck(direction, &verified.touched).await,
            None => Ok(()),
        }
    }

    /// Compares the keys that were touched since the last verification.
    async fn recheck(&self, direction: Direction, touched: &TouchedSince) -> Result<()> {
        let too_much = || {
            let message = format!(
                "the handover was given up: more than {} keys, or a range that cannot be walked, were touched \
                 since the last verification; verify again and then hand over",
                TouchedSince::MOST_KEYS
            );
            Error::new(Kind::Refused, message)
        };
        let (primary, secondary) = self.sides(direction);
        let mut keys = BTreeSet::new();
        for TouchItem { span, .. } in touched.so_far().ok_or_else(too_much)? {
            match span {
                Span::Key(key) => drop(keys.insert(key.to_key::<S::Key>()?)),
                // An insert under a key that was not known before, or a bulk statement.
                Span::Range(range) => {
                    let range = range.decode()?;
                    for store in [primary, secondary] {
                        collect_keys(store, range.clone(), &mut keys).await?.ok_or_else(too_much)?;
                    }
                }
            }
        }
        let keys: Vec<S::Key> = keys.into_iter().collect();
        for batch in keys.chunks(RECHECK_BATCH) {
            let (ours, theirs) = tokio::try_join!(primary.fetch_many(batch), secondary.fetch_many(batch))?;
            for ((key, ours), theirs) in batch.iter().zip(ours).zip(theirs) {
                let same = match (&ours, &theirs) {
                    (Some(ours), Some(theirs)) => ours.same_as(theirs),
                    (None, None) => true,
                    _ => false,
                };
                if !same {
                    let message = format!(
                        "the handover was given up: the record {key:?} differs although nothing is pending \
                         ({:?}); verify and repair",
                        KeyBytes::of(key)
                    );
                    return Err(Error::new(Kind::Refused, message));
                }
            }
        }
        Ok(())
    }

    /// The point of no return. An answer that got lost is looked up; while nobody can say what is
    /// recorded, no write may begin, because it could go to the wrong primary.
    async fn record_handover(&self, from: &PhaseRecord, to: Phase, audit: Audit) -> Result<PhaseRecord> {
        let error = match self.coordinator.advance(from.epoch, to, audit).await {
            Ok(record) => return Ok(record),
            Err(error) => error,
        };
        match self.coordinator.current().await {
            Ok(record) if record.epoch == from.epoch.next() && record.phase == to => Ok(record),
            Ok(record) if record.epoch == from.epoch => Err(error.not_applied()),
            // Another instance took this one for dead and withdrew what it had announced.
            Ok(record) if from.handover.is_some() && record.phase == from.phase => Err(error.not_applied()),
            Ok(_) | Err(_) => {
                self.operations.stop();
                self.poison.set("the phase record could not be read back during a handover");
                Err(error
                    .context("writes are refused until a restart finds out which phase is recorded")
                    .unknown())
            }
        }
    }
}

/// Adds the keys that a store has in a range. `None` when there are too many, or the store cannot be walked.
async fn collect_keys<S: Store>(
    store: &S,
    mut range: KeyRange<S::Key>,
    keys: &mut BTreeSet<S::Key>,
) -> Result<Option<()>> {
    let Some(scan) = store.capabilities().scan else { return Ok(None) };
    loop {
        let page = scan.page(&range, RECHECK_BATCH).await?;
        let whole = page.len() < RECHECK_BATCH;
        range.after = page.last().map(|(key, _)| key.clone()).or(range.after);
        keys.extend(page.into_iter().map(|(key, _)| key));
        if keys.len() > TouchedSince::MOST_KEYS {
            return Ok(None);
        }
        if whole {
            return Ok(Some(()));
        }
    }
}
