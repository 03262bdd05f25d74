//! The handover of the primary role: two instances with one write each, and one key.
//!
//! An instance learns the published phase late. Its write opens an entry and goes to the store that was primary for it
//! when it began. A copier moves the current value along every released entry, in either direction, fenced by a stamp
//! drawn before its read. Two properties: once all is quiet both stores agree, and a write that was acknowledged before
//! another began is never the one that survives in its place. Every shortcut keeps the first and breaks the second, so a
//! comparison of the two stores never finds what it lost.
//!
//! What each scheme leaves out:
//!
//! | scheme | rule left out |
//! | --- | --- |
//! | `Direct` | there are never two primaries: writes wait while the role moves |
//! | `PauseWithoutAck` | every instance has acknowledged the pause |
//! | `PauseWithAck` | every write that began before the pause has ended |
//! | `DrainedWritesOnly` | the queue is empty, and nobody works on it |
//! | `LeaseWithoutFence` | the old store refuses a write of a member whose lease ran out |
//! | `PauseAndDrain` | nothing: safe where all members answer |
//! | `LeaseAndFence` | nothing: safe with a silent member |

use stateright::{Model, Property};

use crate::{Claim, Variant, assert_broken, assert_safe};

const STORES_AGREE: &str = "never diverges silently";
const WRITES_SURVIVE: &str = "an acknowledged write is never lost";
const HANDED_OVER: &str = "both writes can be acknowledged and the role moved";

const INSTANCES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Direct,
    PauseWithoutAck,
    PauseWithAck,
    DrainedWritesOnly,
    PauseAndDrain,
    /// Instance 0 never hears of the handover; its lease is over and the controller leaves it out.
    LeaseWithoutFence,
    LeaseAndFence,
}

#[test]
fn pause_ack_and_drain_keep_every_write() {
    assert_safe(&Handover::by(Scheme::PauseAndDrain), 1_000);
}

#[test]
fn a_fence_makes_a_silent_member_harmless() {
    assert_safe(&Handover::by(Scheme::LeaseAndFence), 570);
}

#[test]
fn every_shortcut_loses_an_acknowledged_write_that_no_comparison_finds() {
    for (scheme, steps) in [
        (Scheme::Direct, 14),
        (Scheme::PauseWithoutAck, 15),
        (Scheme::PauseWithAck, 17),
        (Scheme::DrainedWritesOnly, 17),
        (Scheme::LeaseWithoutFence, 16),
    ] {
        assert_broken(&Handover::by(scheme), WRITES_SURVIVE, steps);
        assert_safe(&Handover::by(scheme).only(STORES_AGREE), 500);
    }
}

#[derive(Clone, Debug)]
struct Handover {
    scheme: Scheme,
    focus: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    Old,
    New,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Old => Self::New,
            Self::New => Self::Old,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    OldIsPrimary,
    WritesWait,
    NewIsPrimary,
}

impl Phase {
    fn primary(self) -> Option<Side> {
        match self {
            Self::OldIsPrimary => Some(Side::Old),
            Self::WritesWait => None,
            Self::NewIsPrimary => Some(Side::New),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    NotStarted,
    EntryOpened,
    InFlight,
    Acknowledged,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Entry {
    None,
    Open,
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Instance {
    phase: Phase,
    call: Call,
    /// The primary of the write, sampled when it began.
    primary: Side,
    entry: Entry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Copier {
    Idle,
    Claimed { from: Side, claim: Claim, stamp: u8 },
    Read { from: Side, claim: Claim, stamp: u8, value: u8 },
}

/// A store's value: 0 at the start, then the number of the write, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Store {
    value: u8,
    stamp: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Event {
    Began(usize),
    Acknowledged(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    old: Store,
    new: Store,
    published: Phase,
    instances: [Instance; INSTANCES],
    copier: Copier,
    next_stamp: u8,
    history: Vec<Event>,
}

impl State {
    fn store(&mut self, side: Side) -> &mut Store {
        match side {
            Side::Old => &mut self.old,
            Side::New => &mut self.new,
        }
    }

    fn value(&self, side: Side) -> u8 {
        match side {
            Side::Old => self.old.value,
            Side::New => self.new.value,
        }
    }

    fn take_stamp(&mut self) -> u8 {
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        stamp
    }

    fn is_quiet(&self) -> bool {
        self.copier == Copier::Idle
            && self.instances.iter().all(|i| {
                i.entry == Entry::None
                    && matches!(i.call, Call::NotStarted | Call::Acknowledged | Call::Refused)
            })
    }

    fn stores_agree(&self) -> bool {
        !self.is_quiet() || self.old.value == self.new.value
    }

    /// No acknowledged write stands behind one that was acknowledged before it began.
    fn writes_survive(&self) -> bool {
        if !self.is_quiet() || self.old.value != self.new.value {
            return true;
        }
        (0..INSTANCES).filter(|&i| self.at(Event::Acknowledged(i)).is_some()).all(|lost| {
            let Some(survivor) = usize::from(self.new.value).checked_sub(1) else { return false };
            survivor == lost || self.at(Event::Acknowledged(survivor)) >= self.at(Event::Began(lost))
        })
    }

    fn at(&self, event: Event) -> Option<usize> {
        self.history.iter().position(|other| *other == event)
    }

    fn released(&self, from: Side) -> Claim {
        let mine =
            |&i: &usize| self.instances[i].entry == Entry::Released && self.instances[i].primary == from;
        (0..INSTANCES).filter(mine).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Publish(Phase),
    Learn { instance: usize, phase: Phase },
    Begin { instance: usize, primary: Side },
    Send { instance: usize },
    ApplyAndAcknowledge { instance: usize, at: Side },
    FenceRefuses { instance: usize },
    Claim { from: Side, entries: Claim },
    ReadValue { from: Side, value: u8 },
    PutValue { to: Side, value: u8 },
}

impl Handover {
    fn by(scheme: Scheme) -> Self {
        Self { scheme, focus: None }
    }

    /// Whether the controller waits for this instance, and the instance hears of a new phase.
    fn answers(&self, instance: usize) -> bool {
        instance != 0 || !matches!(self.scheme, Scheme::LeaseWithoutFence | Scheme::LeaseAndFence)
    }

    fn may_hand_over(&self, state: &State) -> bool {
        let answering = || (0..INSTANCES).filter(|&i| self.answers(i)).map(|i| state.instances[i]);
        let acked = || answering().all(|i| i.phase == Phase::WritesWait);
        let drained =
            || acked() && answering().all(|i| !matches!(i.call, Call::EntryOpened | Call::InFlight));
        let idle = || state.copier == Copier::Idle;
        match self.scheme {
            Scheme::Direct | Scheme::PauseWithoutAck => true,
            Scheme::PauseWithAck => acked(),
            Scheme::DrainedWritesOnly => drained(),
            Scheme::PauseAndDrain => {
                drained() && idle() && state.instances.iter().all(|i| i.entry == Entry::None)
            }
            // The entry of a silent member stays open until its outcome is known; nothing can wait for that.
            Scheme::LeaseWithoutFence | Scheme::LeaseAndFence => {
                drained() && idle() && state.instances.iter().all(|i| i.entry != Entry::Released)
            }
        }
    }

    fn controller_action(&self, state: &State) -> Option<Action> {
        match state.published {
            Phase::OldIsPrimary if self.scheme == Scheme::Direct => {
                Some(Action::Publish(Phase::NewIsPrimary))
            }
            Phase::OldIsPrimary => Some(Action::Publish(Phase::WritesWait)),
            Phase::WritesWait => self.may_hand_over(state).then_some(Action::Publish(Phase::NewIsPrimary)),
            Phase::NewIsPrimary => None,
        }
    }

    fn call_action(&self, state: &State, instance: usize) -> Option<Action> {
        let Instance { phase, call, primary, .. } = state.instances[instance];
        match call {
            Call::NotStarted => phase.primary().map(|primary| Action::Begin { instance, primary }),
            Call::EntryOpened => Some(Action::Send { instance }),
            Call::InFlight => {
                let fenced = self.scheme == Scheme::LeaseAndFence
                    && primary == Side::Old
                    && state.published == Phase::NewIsPrimary;
                Some(if fenced {
                    Action::FenceRefuses { instance }
                } else {
                    Action::ApplyAndAcknowledge { instance, at: primary }
                })
            }
            Call::Acknowledged | Call::Refused => None,
        }
    }
}

impl Variant for Handover {
    fn only(self, property: &'static str) -> Self {
        Self { focus: Some(property), ..self }
    }
}

impl Model for Handover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let store = Store { value: 0, stamp: 0 };
        let instance = Instance {
            phase: Phase::OldIsPrimary,
            call: Call::NotStarted,
            primary: Side::Old,
            entry: Entry::None,
        };
        vec![State {
            old: store,
            new: store,
            published: Phase::OldIsPrimary,
            instances: [instance; INSTANCES],
            copier: Copier::Idle,
            next_stamp: 1,
            history: Vec::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.controller_action(state));
        for instance in 0..INSTANCES {
            if self.answers(instance) && state.instances[instance].phase != state.published {
                actions.push(Action::Learn { instance, phase: state.published });
            }
            actions.extend(self.call_action(state, instance));
        }
        match state.copier {
            Copier::Idle => {
                for from in [Side::Old, Side::New] {
                    let entries = state.released(from);
                    if !entries.is_empty() {
                        actions.push(Action::Claim { from, entries });
                    }
                }
            }
            Copier::Claimed { from, .. } => {
                actions.push(Action::ReadValue { from, value: state.value(from) })
            }
            Copier::Read { from, value, .. } => actions.push(Action::PutValue { to: from.other(), value }),
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Publish(phase) => next.published = phase,
            Action::Learn { instance, phase } => next.instances[instance].phase = phase,
            Action::Begin { instance, primary } => {
                let i = &mut next.instances[instance];
                (i.call, i.primary, i.entry) = (Call::EntryOpened, primary, Entry::Open);
                next.history.push(Event::Began(instance));
            }
            Action::Send { instance } => next.instances[instance].call = Call::InFlight,
            Action::ApplyAndAcknowledge { instance, at } => {
                let stamp = next.take_stamp();
                *next.store(at) = Store { value: instance as u8 + 1, stamp };
                let i = &mut next.instances[instance];
                (i.call, i.entry) = (Call::Acknowledged, Entry::Released);
                next.history.push(Event::Acknowledged(instance));
            }
            Action::FenceRefuses { instance } => {
                let i = &mut next.instances[instance];
                (i.call, i.entry) = (Call::Refused, Entry::None);
            }
            Action::Claim { from, entries } => {
                let stamp = next.take_stamp();
                next.copier = Copier::Claimed { from, claim: entries, stamp };
            }
            Action::ReadValue { value, .. } => {
                let Copier::Claimed { from, claim, stamp } = state.copier else { return None };
                next.copier = Copier::Read { from, claim, stamp, value };
            }
            Action::PutValue { to, value } => {
                let Copier::Read { claim, stamp, .. } = state.copier else { return None };
                let store = next.store(to);
                if stamp >= store.stamp {
                    *store = Store { value, stamp };
                }
                for instance in claim.iter() {
                    next.instances[instance].entry = Entry::None;
                }
                next.copier = Copier::Idle;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(STORES_AGREE, |_: &Self, s: &State| s.stores_agree()),
            Property::always(WRITES_SURVIVE, |_: &Self, s: &State| s.writes_survive()),
            Property::sometimes(HANDED_OVER, |_: &Self, s: &State| {
                s.is_quiet()
                    && s.published == Phase::NewIsPrimary
                    && s.instances.iter().all(|i| i.call == Call::Acknowledged)
            }),
        ];
        properties.retain(|property| self.focus.is_none_or(|focus| focus == property.name));
        properties
    }
}
