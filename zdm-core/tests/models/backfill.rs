//! One backfill page beside one live write or delete of the same key.
//!
//! The record exists at the primary and not yet at the secondary. The live path keeps all rules of the secondary write;
//! the page reads the primary and puts what it read, which may be old by then. The property: once the page is done,
//! nothing is in flight and no entry is left, the secondary equals the primary.
//!
//! What each way of writing the page leaves out:
//!
//! | way | rule left out |
//! | --- | --- |
//! | `Plain` | a key that was touched while the page ran is released again |
//! | `InsertIfAbsent` | the same; an insert that only fills gaps also fills the gap that a delete left |
//! | `ReleaseTouched` | a durable range token, so that a crashed page's late put is followed by a reconcile |
//! | `ReleaseTouchedAsUpsert` | what is released again may delete: its intent is `Unknown` |
//! | `TokenAndReleaseTouched` | nothing: safe without a fence |
//! | `FencedNoTombstone` | a delete leaves its stamp behind |
//! | `Fenced` | nothing: safe, and needs neither token nor release |

use stateright::{Model, Property};

use crate::{Claim, Intent, Record, Variant, assert_broken, assert_safe};

const NO_SILENT_DIVERGENCE: &str = "never diverges silently";
const PAGE_AND_WRITE_DONE: &str = "page and write can both finish";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    InsertIfAbsent,
    ReleaseTouched,
    ReleaseTouchedAsUpsert,
    TokenAndReleaseTouched,
    FencedNoTombstone,
    Fenced,
}

impl Way {
    fn is_fenced(self) -> bool {
        matches!(self, Self::Fenced | Self::FencedNoTombstone)
    }

    fn releases_touched(self) -> bool {
        matches!(self, Self::ReleaseTouched | Self::ReleaseTouchedAsUpsert | Self::TokenAndReleaseTouched)
    }

    fn keeps_token(self) -> bool {
        matches!(self, Self::TokenAndReleaseTouched | Self::ReleaseTouchedAsUpsert)
    }
}

#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// With at least this many states.
    Safe(usize),
    /// In this many steps.
    Broken(usize),
}

use Verdict::{Broken, Safe};

/// The verdict of each way beside an update and beside a delete, without and with one crash of the page.
const VERDICTS: [(Way, [Verdict; 2], [Verdict; 2]); 7] = [
    (Way::Plain, [Broken(15), Broken(15)], [Broken(15), Broken(15)]),
    (Way::InsertIfAbsent, [Safe(130), Safe(670)], [Broken(15), Broken(15)]),
    (Way::ReleaseTouched, [Safe(200), Broken(20)], [Safe(170), Broken(17)]),
    (Way::ReleaseTouchedAsUpsert, [Safe(200), Safe(1_800)], [Broken(18), Broken(18)]),
    (Way::TokenAndReleaseTouched, [Safe(200), Safe(1_800)], [Safe(170), Safe(1_400)]),
    (Way::FencedNoTombstone, [Safe(130), Safe(660)], [Broken(15), Broken(15)]),
    (Way::Fenced, [Safe(130), Safe(660)], [Safe(90), Safe(370)]),
];

#[test]
fn every_way_of_writing_a_page_has_its_verdict() {
    for (way, upsert, delete) in VERDICTS {
        for (write, verdicts) in [(Intent::Upsert, upsert), (Intent::Delete, delete)] {
            for (crashes, verdict) in (0..).zip(verdicts) {
                let page = Page { way, write, crashes, focus: None };
                match verdict {
                    Safe(at_least) => assert_safe(&page, at_least),
                    Broken(steps) => assert_broken(&page, NO_SILENT_DIVERGENCE, steps),
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Page {
    way: Way,
    write: Intent,
    crashes: u8,
    focus: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Entry {
    None,
    Open,
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    NotStarted,
    EntryOpened,
    InFlight,
    Applied,
    Returned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum WorkerStep {
    Idle,
    Claimed,
    Read,
    Putting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Worker {
    step: WorkerStep,
    claim: Claim,
    record: Record,
    stamp: u8,
}

const IDLE: Worker = Worker { step: WorkerStep::Idle, claim: Claim(0), record: None, stamp: 0 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PageStep {
    Waiting,
    /// The low mark is noted and, where the way has one, the range token is durable.
    Marked,
    Read,
    Putting,
    Written,
    Recovering,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Backfill {
    step: PageStep,
    record: Record,
    stamp: u8,
    /// An entry of the key was live at the low mark or opened since.
    touched: bool,
}

impl Backfill {
    const fn at(step: PageStep) -> Self {
        Self { step, record: None, stamp: 0, touched: false }
    }

    fn is_running(&self) -> bool {
        !matches!(self.step, PageStep::Waiting | PageStep::Done)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Source {
    Live,
    Page,
}

/// A request to the secondary that has not landed. An absent record deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Put {
    record: Record,
    stamp: u8,
    source: Source,
}

/// The index of the write's own entry.
const OWN: usize = 0;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    primary: Record,
    secondary: Record,
    secondary_stamp: u8,
    call: Call,
    /// First the write's own entry, then what the page released.
    entries: Vec<(Intent, Entry)>,
    worker: Worker,
    page: Backfill,
    /// Sorted, so that one set of puts is one state.
    puts: Vec<Put>,
    next_stamp: u8,
    crashes_left: u8,
}

impl State {
    fn has_put_from(&self, source: Source) -> bool {
        self.puts.iter().any(|put| put.source == source)
    }

    fn page_put_is_out(&self) -> bool {
        self.puts.iter().any(|put| put.source == Source::Page && put.stamp == self.page.stamp)
    }

    /// Put by a page that has crashed since.
    fn is_abandoned(&self, put: &Put) -> bool {
        put.source == Source::Page && (self.page.step != PageStep::Putting || self.page.stamp != put.stamp)
    }

    fn released(&self) -> Claim {
        let released = |&(_, (_, entry)): &(usize, &(Intent, Entry))| *entry == Entry::Released;
        self.entries.iter().enumerate().filter(released).map(|(i, _)| i).collect()
    }

    fn is_quiet(&self) -> bool {
        self.page.step == PageStep::Done
            && matches!(self.call, Call::NotStarted | Call::Returned)
            && self.entries.iter().all(|(_, entry)| *entry == Entry::None)
            && self.worker.step == WorkerStep::Idle
            && self.puts.is_empty()
    }

    fn send(&mut self, put: Put) {
        self.puts.push(put);
        self.puts.sort_unstable();
    }

    fn land(&mut self, put: Put) {
        self.puts.retain(|other| *other != put);
    }

    fn take_stamp(&mut self) -> u8 {
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        stamp
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    OpenEntry,
    CallPrimary,
    PrimaryApplies,
    CallReturnsAndReleases,
    Claim(Claim),
    ReadPrimary(Record),
    SendPut(Record),
    LeaveAbsentRecordAndAck(Claim),
    PutReturnsAndAck(Claim),
    PageNotesLowMark,
    PageReads(Record),
    PageFindsNoRecord,
    PageSendsPut(Record),
    PagePutReturns,
    PageReleasesTouchedAndCheckpoints,
    PageCrashes,
    PageRecoveryReleasesTheRange,
    SecondaryApplies(Put),
    SecondaryRefuses(Put),
    SecondaryIgnores(Put),
    AbandonedPutIsLost(Put),
}

impl Page {
    fn written(&self) -> Record {
        match self.write {
            Intent::Upsert => Some(2),
            Intent::Delete | Intent::Unknown => None,
        }
    }

    /// The intent of what a page releases again: it does not know what happened to the key.
    fn release_again(&self) -> (Intent, Entry) {
        let intent = match self.way {
            Way::ReleaseTouchedAsUpsert => Intent::Upsert,
            _ => Intent::Unknown,
        };
        (intent, Entry::Released)
    }

    fn writer_action(state: &State) -> Option<Action> {
        match state.call {
            Call::NotStarted => Some(Action::OpenEntry),
            Call::EntryOpened => Some(Action::CallPrimary),
            Call::InFlight => Some(Action::PrimaryApplies),
            Call::Applied => Some(Action::CallReturnsAndReleases),
            Call::Returned => None,
        }
    }

    fn worker_action(&self, state: &State) -> Option<Action> {
        let Worker { step, claim, record, .. } = state.worker;
        let put_is_out = state.has_put_from(Source::Live);
        match step {
            WorkerStep::Idle => {
                let claim = state.released();
                let settled = self.way.is_fenced() || !put_is_out;
                (!claim.is_empty() && settled).then_some(Action::Claim(claim))
            }
            WorkerStep::Claimed => Some(Action::ReadPrimary(state.primary)),
            WorkerStep::Read => {
                let may_delete = claim.iter().any(|i| state.entries[i].0.allows_delete());
                Some(if record.is_some() || may_delete {
                    Action::SendPut(record)
                } else {
                    Action::LeaveAbsentRecordAndAck(claim)
                })
            }
            WorkerStep::Putting => (!put_is_out).then_some(Action::PutReturnsAndAck(claim)),
        }
    }

    fn page_action(state: &State) -> Option<Action> {
        match state.page.step {
            PageStep::Waiting => Some(Action::PageNotesLowMark),
            PageStep::Marked if state.primary.is_none() => Some(Action::PageFindsNoRecord),
            PageStep::Marked => Some(Action::PageReads(state.primary)),
            PageStep::Read => Some(Action::PageSendsPut(state.page.record)),
            PageStep::Putting => (!state.page_put_is_out()).then_some(Action::PagePutReturns),
            PageStep::Written => Some(Action::PageReleasesTouchedAndCheckpoints),
            PageStep::Recovering => {
                (!state.has_put_from(Source::Page)).then_some(Action::PageRecoveryReleasesTheRange)
            }
            PageStep::Done => None,
        }
    }

    fn apply(&self, state: &mut State, put: Put) {
        state.land(put);
        state.secondary = put.record;
        if self.way.is_fenced() {
            let forgets = self.way == Way::FencedNoTombstone && put.record.is_none();
            state.secondary_stamp = if forgets { 0 } else { put.stamp };
        }
    }
}

impl Variant for Page {
    fn only(self, property: &'static str) -> Self {
        Self { focus: Some(property), ..self }
    }
}

impl Model for Page {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            primary: Some(1),
            secondary: None,
            secondary_stamp: 0,
            call: Call::NotStarted,
            entries: vec![(self.write, Entry::None)],
            worker: IDLE,
            page: Backfill::at(PageStep::Waiting),
            puts: Vec::new(),
            next_stamp: 1,
            crashes_left: self.crashes,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(Self::writer_action(state));
        actions.extend(self.worker_action(state));
        actions.extend(Self::page_action(state));
        if state.crashes_left > 0 && state.page.is_running() {
            actions.push(Action::PageCrashes);
        }
        for &put in &state.puts {
            if self.way.is_fenced() && put.stamp < state.secondary_stamp {
                actions.push(Action::SecondaryRefuses(put));
            } else if self.way == Way::InsertIfAbsent
                && put.source == Source::Page
                && state.secondary.is_some()
            {
                actions.push(Action::SecondaryIgnores(put));
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
            Action::OpenEntry => {
                next.call = Call::EntryOpened;
                next.entries[OWN].1 = Entry::Open;
                next.page.touched |= next.page.is_running();
            }
            Action::CallPrimary => next.call = Call::InFlight,
            Action::PrimaryApplies => {
                next.primary = self.written();
                next.call = Call::Applied;
            }
            Action::CallReturnsAndReleases => {
                next.call = Call::Returned;
                next.entries[OWN].1 = Entry::Released;
            }
            Action::Claim(claim) => {
                let stamp = next.take_stamp();
                next.worker = Worker { step: WorkerStep::Claimed, claim, record: None, stamp };
            }
            Action::ReadPrimary(record) => {
                next.worker.step = WorkerStep::Read;
                next.worker.record = record;
            }
            Action::SendPut(record) => {
                next.worker.step = WorkerStep::Putting;
                next.send(Put { record, stamp: state.worker.stamp, source: Source::Live });
            }
            Action::LeaveAbsentRecordAndAck(claim) | Action::PutReturnsAndAck(claim) => {
                for entry in claim.iter() {
                    next.entries[entry].1 = Entry::None;
                }
                next.worker = IDLE;
            }
            Action::PageNotesLowMark => {
                let touched = state.entries.iter().any(|(_, entry)| *entry != Entry::None);
                let stamp = next.take_stamp();
                next.page = Backfill { stamp, touched, ..Backfill::at(PageStep::Marked) };
            }
            Action::PageReads(record) => {
                next.page.step = PageStep::Read;
                next.page.record = record;
            }
            Action::PageSendsPut(record) => {
                next.page.step = PageStep::Putting;
                next.send(Put { record, stamp: state.page.stamp, source: Source::Page });
            }
            Action::PageFindsNoRecord | Action::PagePutReturns => next.page.step = PageStep::Written,
            Action::PageReleasesTouchedAndCheckpoints => {
                if self.way.releases_touched() && state.page.touched {
                    next.entries.push(self.release_again());
                }
                next.page = Backfill::at(PageStep::Done);
            }
            Action::PageCrashes => {
                next.crashes_left -= 1;
                let after = if self.way.keeps_token() { PageStep::Recovering } else { PageStep::Waiting };
                next.page = Backfill::at(after);
            }
            Action::PageRecoveryReleasesTheRange => {
                next.entries.push(self.release_again());
                next.page = Backfill::at(PageStep::Waiting);
            }
            Action::SecondaryApplies(put) => self.apply(&mut next, put),
            Action::SecondaryRefuses(put)
            | Action::SecondaryIgnores(put)
            | Action::AbandonedPutIsLost(put) => {
                next.land(put);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NO_SILENT_DIVERGENCE, |_: &Self, s: &State| {
                !s.is_quiet() || s.primary == s.secondary
            }),
            Property::sometimes(PAGE_AND_WRITE_DONE, |_: &Self, s: &State| {
                s.is_quiet() && s.call == Call::Returned && s.primary == s.secondary
            }),
        ];
        properties.retain(|property| self.focus.is_none_or(|focus| focus == property.name));
        properties
    }
}
