//! One instance among several that follow the same record.
//!
//! Each instance is a member: it says which epoch it follows and which it has drained, and its word holds for a
//! lease. It enters every new record; while a handover is announced it lets no write begin, and says that it has
//! drained once no write is under way and its queue is empty. Whoever hands over completes the announcement only
//! when every member has said so. Three things can go wrong, and none makes two primaries:
//!
//! - A member does not see the announcement: its lease runs out, it stops writing by its own clock before it
//!   counts as gone.
//! - Whoever announced dies: another member withdraws the announcement, which makes a new epoch, so that it
//!   cannot be completed any more by one that only seemed dead.
//! - An instance starts in the middle: it becomes a member before it reads the record, so either it sees the
//!   announcement or whoever announced sees it.

use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::time::Instant;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::phase::{Coordinator, Member, PhaseRecord};
use zdm_core::queue::Epoch;
use zdm_core::report::Event;
use zdm_core::store::Store;

use crate::adapter::Shared;

/// How often the members are looked at while they are waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the member last said.
struct Said {
    acked: Epoch,
    drained: Epoch,
}

/// Becomes a member of a record that several follow, before the record is read: then the handover that this
/// instance does not know of yet waits for it.
pub(crate) async fn join(coordinator: &dyn Coordinator, name: &str, lease: Duration) -> Result<Instant> {
    let asked = Instant::now();
    let member = Member { name: name.to_owned(), acked: Epoch(0), drained: Epoch(0) };
    coordinator.report(member, lease).await?;
    Ok(asked + usable(lease))
}

/// How long an instance goes by a lease: less than others do, because clocks differ.
fn usable(lease: Duration) -> Duration {
    lease - lease / 5
}

pub(crate) fn spawn_membership<S: Store + Clone>(shared: &Arc<Shared<S>>) {
    if !shared.coordinator.is_shared() {
        return;
    }
    let this = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let stop = this.stop.clone();
        let said = Said { acked: Epoch(0), drained: Epoch(0) };
        if stop.run_until_cancelled(this.follow_record(said)).await.is_none() {
            let name = &this.settings.instance_name;
            if let Err(error) = this.coordinator.leave(name).await {
                tracing::warn!(?error, name, "a member could not leave; its lease runs out");
            }
        }
    });
}

impl<S: Store + Clone> Shared<S> {
    async fn follow_record(&self, mut said: Said) {
        let lease = self.settings.lease;
        let heartbeat = lease / 5;
        let mut announced_since = None;
        loop {
            let record = self.operations.record();
            self.withdraw_if_abandoned(&record, &mut announced_since).await;
            // What is over is said at once, because others wait for it.
            if said.acked == record.epoch && said.drained < record.epoch {
                select! {
                    () = self.quiet(&record) => {}
                    () = tokio::time::sleep(heartbeat) => {}
                    () = self.operations.epoch_changed(record.epoch) => {}
                }
            }
            let now = self.operations.record();
            said.acked = now.epoch;
            if self.is_quiet(&now) {
                said.drained = now.epoch;
            }
            let name = self.settings.instance_name.clone();
            let asked = Instant::now();
            let member = Member { name, acked: said.acked, drained: said.drained };
            let told = tokio::time::timeout(heartbeat, self.coordinator.report(member, lease)).await;
            match told {
                Ok(Ok(())) => self.operations.extend_lease(asked + usable(lease)),
                Ok(Err(error)) => tracing::warn!(?error, "the coordinator does not take this member's word"),
                Err(_) => tracing::warn!("the coordinator does not answer"),
            }
            if said.drained < said.acked {
                self.enter_if_new(self.coordinator.current().await);
                continue;
            }
            if let Ok(found) = tokio::time::timeout(heartbeat, self.coordinator.changed(now.epoch)).await {
                let failed = found.is_err();
                self.enter_if_new(found);
                if failed {
                    tokio::time::sleep(heartbeat / 4).await;
                }
            }
        }
    }

    fn enter_if_new(&self, found: Result<PhaseRecord>) {
        match found {
            Ok(record) => self.enter_from_elsewhere(record),
            Err(error) => tracing::warn!(?error, "the phase cannot be read"),
        }
    }

    /// Follows a record that another instance made.
    fn enter_from_elsewhere(&self, record: PhaseRecord) {
        let before = self.operations.record();
        if record.epoch <= before.epoch {
            return;
        }
        let moved = before.phase != record.phase;
        let primary = before.phase.routing().primary != record.phase.routing().primary;
        let mirrored = record.phase.routing().direction.is_some();
        self.operations.enter(record.clone());
        if primary || !mirrored {
            self.facts.set_verified(None);
        }
        if !mirrored {
            self.facts.set_backfilled(None);
        }
        if moved {
            let (from, to, epoch) = (before.phase, record.phase, record.epoch);
            self.observers.emit(&Event::PhaseMoved { from, to, epoch });
        }
    }

    /// Waits until nothing of an earlier epoch is under way, and, while a handover is announced, nothing is
    /// pending either.
    async fn quiet(&self, record: &PhaseRecord) {
        self.operations.drained_before(record.epoch).await;
        if record.handover.is_some() {
            self.queue.wait_drained().await;
        }
    }

    fn is_quiet(&self, record: &PhaseRecord) -> bool {
        let over = self.operations.is_drained_before(record.epoch);
        over && (record.handover.is_none() || self.queue.stats().pending() == 0)
    }

    /// Takes an announcement back that stands for longer than whoever made it would let it.
    async fn withdraw_if_abandoned(&self, record: &PhaseRecord, since: &mut Option<(Epoch, Instant)>) {
        if record.handover.is_none() || self.operations.leads(record.epoch) {
            *since = None;
            return;
        }
        let (epoch, seen) = *since.get_or_insert((record.epoch, Instant::now()));
        if epoch != record.epoch {
            *since = Some((record.epoch, Instant::now()));
        } else if seen.elapsed() > self.settings.handover_pause * 2 {
            match self.coordinator.withdraw(record.epoch).await {
                Ok(record) => self.enter_from_elsewhere(record),
                // Somebody else was first, or nobody answers: the next round sees.
                Err(error) => tracing::info!(?error, "an abandoned handover could not be withdrawn"),
            }
        }
    }

    /// Announces a handover, so that every member holds its writes. Nothing where there are no others.
    pub(super) async fn announce(
        &self,
        from: &PhaseRecord,
        to: zdm_core::phase::Phase,
    ) -> Result<PhaseRecord> {
        if !self.coordinator.is_shared() {
            return Ok(from.clone());
        }
        let announced = self.coordinator.announce(from.epoch, to).await?;
        self.operations.lead(announced.epoch);
        self.operations.enter(announced.clone());
        Ok(announced)
    }

    /// Lets writes go on everywhere after a handover that was not completed.
    pub(super) async fn give_up(&self, announced: &PhaseRecord) {
        self.operations.lead(Epoch(0));
        if announced.handover.is_none() {
            return;
        }
        match self.coordinator.withdraw(announced.epoch).await {
            Ok(record) => self.operations.enter(record),
            Err(error) => {
                // The membership goes on trying, as it would for another instance.
                tracing::warn!(?error, "a handover that was given up could not be withdrawn");
                self.enter_if_new(self.coordinator.current().await);
            }
        }
    }

    /// Waits until every other member has drained an epoch.
    pub(super) async fn members_drained(&self, epoch: Epoch) -> Result<()> {
        if !self.coordinator.is_shared() {
            return Ok(());
        }
        while !self.late_members(epoch).await?.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// The other members that have not drained an epoch yet.
    pub(super) async fn late_members(&self, epoch: Epoch) -> Result<Vec<String>> {
        let members = self.coordinator.members().await?;
        let late = members
            .into_iter()
            .filter(|member| member.name != self.settings.instance_name && member.drained < epoch);
        Ok(late.map(|member| member.name).collect())
    }

    /// Refuses a move while a member has not come to the present phase: at most two neighbouring epochs exist.
    pub(super) async fn wait_for_members(&self, from: &PhaseRecord) -> Result<()> {
        let waited = tokio::time::timeout(self.settings.lease, self.members_drained(from.epoch)).await;
        match waited {
            Ok(outcome) => outcome,
            Err(_) => {
                let late = self.late_members(from.epoch).await?;
                let message = format!(
                    "these members have not come to epoch {} within {:?}: {}",
                    from.epoch,
                    self.settings.lease,
                    late.join(", ")
                );
                Err(Error::new(Kind::Refused, message))
            }
        }
    }
}
