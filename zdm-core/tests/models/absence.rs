//! Absence is not deletion: a record leaves the secondary only after a recorded delete.
//!
//! A job that bypasses the library has put a record into the new store directly. An update through the library touches
//! the same key and finds nothing to change at the primary, but its entry is there, and a worker reconciles the key. The
//! missing record at the primary says nothing about the one at the secondary, which may be the only copy.
//!
//! | variant | rule left out |
//! | --- | --- |
//! | `OnAbsence::Delete` | a missing record is deleted only where a claimed entry is `Delete` or `Unknown` |
//! | `OnAbsence::Leave` | a recorded delete does reach the secondary |

use stateright::{Model, Property};

use crate::{Claim, Intent, Record, Variant, assert_broken, assert_safe};

const NO_SILENT_LOSS: &str = "a record leaves the secondary only after a recorded delete";
const NO_SILENT_DIVERGENCE: &str = "never diverges silently";
const ALL_DONE: &str = "update and delete can both finish";

/// What a reconcile does when the primary has no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnAbsence {
    DeleteIfRecorded,
    Delete,
    Leave,
}

#[derive(Clone, Debug)]
struct Reconcile {
    on_absence: OnAbsence,
    /// The record that both sides hold at the start.
    mirrored: Record,
    focus: Option<&'static str>,
}

#[test]
fn a_recorded_delete_and_nothing_else_deletes() {
    assert_safe(&Reconcile { on_absence: OnAbsence::DeleteIfRecorded, mirrored: None, focus: None }, 100);
    assert_safe(&Reconcile { on_absence: OnAbsence::DeleteIfRecorded, mirrored: Some(1), focus: None }, 60);
}

#[test]
fn absence_taken_for_deletion_destroys_the_only_copy() {
    let variant = Reconcile { on_absence: OnAbsence::Delete, mirrored: None, focus: None };
    assert_broken(&variant, NO_SILENT_LOSS, 7);
}

#[test]
fn absence_ignored_keeps_a_deleted_record() {
    let variant = Reconcile { on_absence: OnAbsence::Leave, mirrored: Some(1), focus: None };
    assert_broken(&variant, NO_SILENT_DIVERGENCE, 6);
}

const UPDATE: usize = 0;
const DELETE: usize = 1;
const INTENTS: [Intent; 2] = [Intent::Upsert, Intent::Delete];

/// A write through the library, by where its entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Write {
    NotStarted,
    Open,
    Applied,
    Released,
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Worker {
    Idle,
    Claimed(Claim),
    Read(Claim, Record),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    primary: Record,
    secondary: Record,
    /// The update and the delete.
    writes: [Write; 2],
    worker: Worker,
    bypassed: bool,
}

impl State {
    fn is_quiet(&self) -> bool {
        self.worker == Worker::Idle
            && self.writes.iter().all(|w| matches!(w, Write::NotStarted | Write::Removed))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    BypassPutsAtSecondary,
    OpenEntry(Intent),
    UpdateAtPrimaryIfPresent,
    DeleteAtPrimary,
    Release(Intent),
    Claim(Claim),
    ReadPrimary(Record),
    PutAndAck(Record),
    DeleteAndAck,
    LeaveAndAck,
}

impl Variant for Reconcile {
    fn only(self, property: &'static str) -> Self {
        Self { focus: Some(property), ..self }
    }
}

impl Model for Reconcile {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            primary: self.mirrored,
            secondary: self.mirrored,
            writes: [Write::NotStarted; 2],
            worker: Worker::Idle,
            bypassed: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.bypassed && state.secondary.is_none() {
            actions.push(Action::BypassPutsAtSecondary);
        }
        for (write, intent) in state.writes.iter().zip(INTENTS) {
            match write {
                Write::NotStarted => actions.push(Action::OpenEntry(intent)),
                Write::Open if intent == Intent::Upsert => actions.push(Action::UpdateAtPrimaryIfPresent),
                Write::Open => actions.push(Action::DeleteAtPrimary),
                Write::Applied => actions.push(Action::Release(intent)),
                Write::Released | Write::Removed => {}
            }
        }
        match state.worker {
            Worker::Idle => {
                let claim: Claim = (0..2).filter(|&i| state.writes[i] == Write::Released).collect();
                if !claim.is_empty() {
                    actions.push(Action::Claim(claim));
                }
            }
            Worker::Claimed(_) => actions.push(Action::ReadPrimary(state.primary)),
            Worker::Read(_, record @ Some(_)) => actions.push(Action::PutAndAck(record)),
            Worker::Read(claim, None) => {
                let recorded = claim.iter().any(|i| INTENTS[i].allows_delete());
                let deletes = match self.on_absence {
                    OnAbsence::DeleteIfRecorded => recorded,
                    OnAbsence::Delete => true,
                    OnAbsence::Leave => false,
                };
                actions.push(if deletes { Action::DeleteAndAck } else { Action::LeaveAndAck });
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let index = |intent| if intent == Intent::Upsert { UPDATE } else { DELETE };
        match action {
            Action::BypassPutsAtSecondary => {
                next.bypassed = true;
                next.secondary = Some(9);
            }
            Action::OpenEntry(intent) => next.writes[index(intent)] = Write::Open,
            Action::UpdateAtPrimaryIfPresent => {
                next.primary = state.primary.map(|_| 2);
                next.writes[UPDATE] = Write::Applied;
            }
            Action::DeleteAtPrimary => {
                next.primary = None;
                next.writes[DELETE] = Write::Applied;
            }
            Action::Release(intent) => next.writes[index(intent)] = Write::Released,
            Action::Claim(claim) => next.worker = Worker::Claimed(claim),
            Action::ReadPrimary(record) => {
                let Worker::Claimed(claim) = state.worker else { return None };
                next.worker = Worker::Read(claim, record);
            }
            Action::PutAndAck(record) => {
                next.secondary = record;
                ack(&mut next);
            }
            Action::DeleteAndAck => {
                next.secondary = None;
                ack(&mut next);
            }
            Action::LeaveAndAck => ack(&mut next),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NO_SILENT_LOSS, |model: &Self, s: &State| {
                let had_record = model.mirrored.is_some() || s.bypassed;
                !had_record || s.secondary.is_some() || s.writes[DELETE] != Write::NotStarted
            }),
            Property::always(NO_SILENT_DIVERGENCE, |_: &Self, s: &State| {
                // What bypasses the library is outside the promise that both sides are equal.
                s.bypassed || !s.is_quiet() || s.primary == s.secondary
            }),
            Property::sometimes(ALL_DONE, |_: &Self, s: &State| {
                s.writes == [Write::Removed; 2] && s.is_quiet()
            }),
        ];
        properties.retain(|property| self.focus.is_none_or(|focus| focus == property.name));
        properties
    }
}

fn ack(state: &mut State) {
    if let Worker::Read(claim, _) = state.worker {
        for write in claim.iter() {
            state.writes[write] = Write::Removed;
        }
    }
    state.worker = Worker::Idle;
}
