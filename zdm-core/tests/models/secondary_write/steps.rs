//! The steps of writers, workers and the secondary, and what each does to the state.

use stateright::{Model, Property};

use super::{
    Ack, Claimable, EntryIsDurable, Exclusion, NO_SILENT_DIVERGENCE, OwnPut, Protocol, Queues, UnknownOutcome,
};
use crate::{Claim, Intent, Record, Variant};

const ALL_MIRRORED: &str = "every write can reach the secondary";

const WORKERS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Entry {
    None,
    /// On its way to disk: a crash loses it.
    Pending,
    Open,
    Ambiguous,
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    NotStarted,
    EntryOpened,
    InFlight,
    Applied,
    /// Its client is gone, and the request may still land.
    Abandoned,
    /// Its client is gone, and the request landed or never will.
    Settled,
    Returned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Writer {
    call: Call,
    entry: Entry,
    /// A worker restarted over this entry: an earlier life may have put its record.
    outlived_worker: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Idle,
    Claimed,
    Read,
    Putting,
    Settling,
    Rereading,
    Acking,
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Worker {
    step: Step,
    claim: Claim,
    record: Record,
    stamp: u8,
    has_put: bool,
}

const IDLE: Worker = Worker { step: Step::Idle, claim: Claim(0), record: None, stamp: 0, has_put: false };

/// A request to the secondary that has not landed. An absent record deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Put {
    record: Record,
    stamp: u8,
    worker: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    primary: Record,
    secondary: Record,
    secondary_stamp: u8,
    writers: Vec<Writer>,
    workers: [Worker; WORKERS],
    /// Sorted, so that one set of puts is one state.
    puts: Vec<Put>,
    next_stamp: u8,
    crashes_left: u8,
    timeouts_left: u8,
}

impl State {
    fn is_quiet(&self) -> bool {
        self.writers
            .iter()
            .all(|w| matches!(w.call, Call::NotStarted | Call::Returned) && w.entry == Entry::None)
            && self.workers.iter().all(|k| k.step == Step::Idle)
            && self.puts.is_empty()
    }

    fn has_put_of(&self, worker: usize) -> bool {
        self.puts.iter().any(|put| put.worker == worker)
    }

    /// The put that `worker` waits for has not landed.
    fn current_put_is_out(&self, worker: usize) -> bool {
        self.puts.iter().any(|put| put.worker == worker && put.stamp == self.workers[worker].stamp)
    }

    /// Nobody waits for this put any more.
    fn is_abandoned(&self, put: &Put) -> bool {
        let worker = &self.workers[put.worker];
        worker.step != Step::Putting || worker.stamp != put.stamp
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    OpenEntry { writer: usize },
    CallPrimary { writer: usize },
    AppendEntryAndCallPrimary { writer: usize },
    EntryBecomesDurable { writer: usize },
    PrimaryApplies { writer: usize },
    CallReturnsAndReleases { writer: usize },
    ClientGivesUp { writer: usize },
    WriterCrashes { writer: usize },
    PrimaryAppliesLate { writer: usize },
    LateCallIsLost { writer: usize },
    OutcomeSettles { writer: usize },
    Claim { worker: usize, entries: Claim },
    ReadPrimary { worker: usize, record: Record },
    SendPut { worker: usize, record: Record },
    LeaveAbsentRecord { worker: usize },
    PutReturns { worker: usize },
    PutTimesOut { worker: usize },
    OwnPutsSettle { worker: usize },
    RereadFindsTheSame { worker: usize },
    RereadFindsAnother { worker: usize },
    Ack { worker: usize, entries: Claim },
    WorkerCrashes { worker: usize },
    WorkerRestarts { worker: usize },
    SecondaryApplies(Put),
    SecondaryRefuses(Put),
    AbandonedPutIsLost(Put),
}

impl Protocol {
    fn is_queued_for(&self, writer: usize, worker: usize) -> bool {
        match self.queues {
            Queues::Shared => true,
            Queues::PerInstance => writer % WORKERS == worker,
        }
    }

    fn claimable(&self, state: &State, worker: usize) -> Claim {
        let ready = |&writer: &usize| match state.writers[writer].entry {
            Entry::None | Entry::Pending => false,
            Entry::Open | Entry::Ambiguous => self.claimable == Claimable::ReleasedAndOpen,
            Entry::Released => true,
        };
        (0..self.writes.len()).filter(|&writer| self.is_queued_for(writer, worker)).filter(ready).collect()
    }

    fn may_claim(&self, state: &State, worker: usize) -> bool {
        match self.exclusion {
            Exclusion::None => true,
            Exclusion::SettleOwn => !state.has_put_of(worker),
            Exclusion::SettleAll => {
                state.puts.is_empty()
                    && state.workers.iter().all(|k| matches!(k.step, Step::Idle | Step::Down))
            }
        }
    }

    fn has_settled(&self, state: &State, worker: usize) -> bool {
        match self.exclusion {
            Exclusion::None => true,
            Exclusion::SettleOwn => !state.has_put_of(worker),
            Exclusion::SettleAll => state.puts.is_empty(),
        }
    }

    fn may_delete(&self, state: &State, worker: usize) -> bool {
        let Worker { claim, has_put, .. } = state.workers[worker];
        let recorded = claim.iter().any(|writer| self.writes[writer].allows_delete());
        let outlived = claim.iter().any(|writer| state.writers[writer].outlived_worker);
        match self.own_put {
            OwnPut::Forgotten => recorded,
            OwnPut::Remembered => recorded || has_put,
            OwnPut::RememberedAcrossCrash => recorded || has_put || outlived,
        }
    }

    /// The record that the write of `writer` leaves at the primary.
    fn written(&self, writer: usize) -> Record {
        match self.writes[writer] {
            Intent::Upsert => Some(writer as u8 + 1),
            Intent::Delete | Intent::Unknown => None,
        }
    }

    fn writer_actions(&self, state: &State, writer: usize, actions: &mut Vec<Action>) {
        let Writer { call, entry, .. } = state.writers[writer];
        match (call, self.entry_is_durable) {
            (Call::NotStarted, EntryIsDurable::BeforeCall) => actions.push(Action::OpenEntry { writer }),
            (Call::NotStarted, EntryIsDurable::BesideCall) => {
                actions.push(Action::AppendEntryAndCallPrimary { writer });
            }
            (Call::EntryOpened, _) => actions.push(Action::CallPrimary { writer }),
            (Call::InFlight, _) => {
                actions.push(Action::PrimaryApplies { writer });
                if state.timeouts_left > 0 {
                    actions.push(Action::ClientGivesUp { writer });
                }
            }
            (Call::Applied, _) if entry != Entry::Pending => {
                actions.push(Action::CallReturnsAndReleases { writer })
            }
            (Call::Abandoned, _) => {
                actions.push(Action::PrimaryAppliesLate { writer });
                actions.push(Action::LateCallIsLost { writer });
            }
            (Call::Settled, _) if entry != Entry::Pending => actions.push(Action::OutcomeSettles { writer }),
            (Call::Applied | Call::Settled | Call::Returned, _) => {}
        }
        if entry == Entry::Pending {
            actions.push(Action::EntryBecomesDurable { writer });
        }
        if state.crashes_left > 0 && matches!(call, Call::EntryOpened | Call::InFlight | Call::Applied) {
            actions.push(Action::WriterCrashes { writer });
        }
    }

    fn worker_actions(&self, state: &State, worker: usize, actions: &mut Vec<Action>) {
        let Worker { step, claim, record, .. } = state.workers[worker];
        match step {
            Step::Idle => {
                let entries = self.claimable(state, worker);
                if !entries.is_empty() && self.may_claim(state, worker) {
                    actions.push(Action::Claim { worker, entries });
                }
            }
            Step::Claimed => actions.push(Action::ReadPrimary { worker, record: state.primary }),
            Step::Read if record.is_none() && !self.may_delete(state, worker) => {
                actions.push(Action::LeaveAbsentRecord { worker });
            }
            Step::Read => actions.push(Action::SendPut { worker, record }),
            Step::Putting if !state.current_put_is_out(worker) => actions.push(Action::PutReturns { worker }),
            Step::Putting if state.timeouts_left > 0 => actions.push(Action::PutTimesOut { worker }),
            Step::Putting => {}
            Step::Settling if self.has_settled(state, worker) => {
                actions.push(Action::OwnPutsSettle { worker })
            }
            Step::Settling => {}
            Step::Rereading if state.primary == record => actions.push(Action::RereadFindsTheSame { worker }),
            Step::Rereading => actions.push(Action::RereadFindsAnother { worker }),
            Step::Acking => {
                let entries = match self.ack {
                    Ack::ClaimedEntries => claim,
                    Ack::WholeKey => (0..self.writes.len()).collect(),
                };
                actions.push(Action::Ack { worker, entries });
            }
            Step::Down => actions.push(Action::WorkerRestarts { worker }),
        }
        if state.crashes_left > 0 && !matches!(step, Step::Idle | Step::Down) {
            actions.push(Action::WorkerCrashes { worker });
        }
    }

    fn worker_restarts(&self, state: &mut State, worker: usize) {
        state.workers[worker] = IDLE;
        if self.own_put == OwnPut::RememberedAcrossCrash {
            for (writer, w) in state.writers.iter_mut().enumerate() {
                w.outlived_worker |= self.is_queued_for(writer, worker) && w.entry != Entry::None;
            }
        }
    }

    fn outcome_is_unknown(&self, writer: &mut Writer) {
        if writer.entry == Entry::Open {
            writer.entry = match self.unknown_outcome {
                UnknownOutcome::Held => Entry::Ambiguous,
                UnknownOutcome::ReleasedAtOnce => Entry::Released,
            };
        }
    }
}

impl Variant for Protocol {
    fn only(self, property: &'static str) -> Self {
        Self { focus: Some(property), ..self }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let writer = Writer { call: Call::NotStarted, entry: Entry::None, outlived_worker: false };
        vec![State {
            primary: Some(0),
            secondary: Some(0),
            secondary_stamp: 0,
            writers: vec![writer; self.writes.len()],
            workers: [IDLE; WORKERS],
            puts: Vec::new(),
            next_stamp: 1,
            crashes_left: self.crashes,
            timeouts_left: self.timeouts,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for writer in 0..self.writes.len() {
            self.writer_actions(state, writer, actions);
        }
        for worker in 0..WORKERS {
            self.worker_actions(state, worker, actions);
        }
        for &put in &state.puts {
            if self.fenced && put.stamp < state.secondary_stamp {
                actions.push(Action::SecondaryRefuses(put));
            } else {
                actions.push(Action::SecondaryApplies(put));
                if state.is_abandoned(&put) {
                    actions.push(Action::AbandonedPutIsLost(put));
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::OpenEntry { writer } => {
                next.writers[writer].call = Call::EntryOpened;
                next.writers[writer].entry = Entry::Open;
            }
            Action::CallPrimary { writer } => next.writers[writer].call = Call::InFlight,
            Action::AppendEntryAndCallPrimary { writer } => {
                next.writers[writer].call = Call::InFlight;
                next.writers[writer].entry = Entry::Pending;
            }
            Action::EntryBecomesDurable { writer } => {
                let gone = matches!(state.writers[writer].call, Call::Abandoned | Call::Settled);
                next.writers[writer].entry = if gone { Entry::Ambiguous } else { Entry::Open };
            }
            Action::PrimaryApplies { writer } => {
                next.primary = self.written(writer);
                next.writers[writer].call = Call::Applied;
            }
            Action::CallReturnsAndReleases { writer } | Action::OutcomeSettles { writer } => {
                let w = &mut next.writers[writer];
                w.call = Call::Returned;
                if matches!(w.entry, Entry::Open | Entry::Ambiguous) {
                    w.entry = Entry::Released;
                }
            }
            Action::ClientGivesUp { writer } => {
                next.timeouts_left -= 1;
                next.writers[writer].call = Call::Abandoned;
                self.outcome_is_unknown(&mut next.writers[writer]);
            }
            Action::WriterCrashes { writer } => {
                next.crashes_left -= 1;
                let w = &mut next.writers[writer];
                w.call = if w.call == Call::InFlight { Call::Abandoned } else { Call::Settled };
                if w.entry == Entry::Pending {
                    w.entry = Entry::None;
                }
                self.outcome_is_unknown(w);
            }
            Action::PrimaryAppliesLate { writer } => {
                next.primary = self.written(writer);
                next.writers[writer].call = Call::Settled;
            }
            Action::LateCallIsLost { writer } => next.writers[writer].call = Call::Settled,
            Action::Claim { worker, entries } => {
                next.workers[worker] =
                    Worker { step: Step::Claimed, claim: entries, stamp: next.next_stamp, ..IDLE };
                next.next_stamp += 1;
            }
            Action::ReadPrimary { worker, record } => {
                next.workers[worker].step = Step::Read;
                next.workers[worker].record = record;
            }
            Action::SendPut { worker, record } => {
                let k = &mut next.workers[worker];
                k.step = Step::Putting;
                k.has_put = self.own_put != OwnPut::Forgotten;
                next.puts.push(Put { record, stamp: k.stamp, worker });
                next.puts.sort_unstable();
            }
            Action::LeaveAbsentRecord { worker } | Action::RereadFindsTheSame { worker } => {
                next.workers[worker].step = Step::Acking;
            }
            Action::PutReturns { worker } => {
                next.workers[worker].step = if self.reread { Step::Rereading } else { Step::Acking };
            }
            Action::PutTimesOut { worker } => {
                next.timeouts_left -= 1;
                let k = &mut next.workers[worker];
                k.step = if self.exclusion == Exclusion::None { Step::Claimed } else { Step::Settling };
                k.record = None;
                k.stamp = next.next_stamp;
                next.next_stamp += 1;
            }
            Action::OwnPutsSettle { worker } | Action::RereadFindsAnother { worker } => {
                next.workers[worker].step = Step::Claimed;
                next.workers[worker].record = None;
            }
            Action::Ack { worker, entries } => {
                for writer in entries.iter() {
                    let w = &mut next.writers[writer];
                    w.entry = Entry::None;
                    w.outlived_worker = false;
                }
                next.workers[worker] = IDLE;
            }
            Action::WorkerCrashes { worker } => {
                next.crashes_left -= 1;
                next.workers[worker] = Worker { step: Step::Down, ..IDLE };
            }
            Action::WorkerRestarts { worker } => self.worker_restarts(&mut next, worker),
            Action::SecondaryApplies(put) => {
                next.puts.retain(|other| *other != put);
                next.secondary = put.record;
                if self.fenced {
                    next.secondary_stamp = put.stamp;
                }
            }
            Action::SecondaryRefuses(put) | Action::AbandonedPutIsLost(put) => {
                next.puts.retain(|other| *other != put);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NO_SILENT_DIVERGENCE, |_: &Self, s: &State| {
                !s.is_quiet() || s.primary == s.secondary
            }),
            Property::sometimes(ALL_MIRRORED, |_: &Self, s: &State| {
                s.is_quiet() && s.writers.iter().all(|w| w.call == Call::Returned) && s.secondary == s.primary
            }),
        ];
        properties.retain(|property| self.focus.is_none_or(|focus| focus == property.name));
        properties
    }
}
