use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::Result;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{Direction, Entry, EntryId, Epoch, Taint, TaintId, Touch};
use zdm_core::store::Stamp;

/// Which instance of which queue. Both are numbers that the tables gave out, from one sequence; rows whose
/// owner is the queue have no owner yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub(crate) queue: i64,
    pub(crate) instance: i64,
}

/// Bytes of a key that its lock has. Longer keys that begin alike exclude each other, which only costs time.
const LOCKED_BYTES: usize = 512;

/// The key under which a key is locked.
pub(crate) fn lock_of(key: &KeyBytes) -> KeyBytes {
    let bytes = key.as_slice();
    KeyBytes::from_slice(&bytes[..bytes.len().min(LOCKED_BYTES)])
}

/// A row to be inserted. The touch is in its stored form.
#[derive(Clone, Debug)]
pub struct NewEntry {
    pub(crate) id: EntryId,
    pub(crate) touch: Vec<u8>,
    pub(crate) epoch: Epoch,
    pub(crate) direction: Direction,
    pub(crate) opened_at: u64,
    /// The error of an entry that is parked from the start.
    pub(crate) parked: Option<String>,
}

/// What nobody waits for, in one transaction.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Own entries that are done.
    pub(crate) removed: Vec<EntryId>,
    /// Locks of this instance that are free.
    pub(crate) freed: Vec<(KeyBytes, i64)>,
    pub(crate) freed_ranges: Vec<i64>,
    /// Locks of this instance that are free after a time.
    pub(crate) resting: Vec<(KeyBytes, i64, Duration)>,
    pub(crate) resting_ranges: Vec<(i64, Duration)>,
    /// Own entries that were parked or put back, the newest last.
    pub(crate) rewritten: Vec<Entry>,
    /// Parked entries of others that are to be put back: nobody owns them then.
    pub(crate) unparked: Vec<(i64, EntryId)>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty()
            && self.freed.is_empty()
            && self.freed_ranges.is_empty()
            && self.resting.is_empty()
            && self.resting_ranges.is_empty()
            && self.rewritten.is_empty()
            && self.unparked.is_empty()
    }

    pub(crate) fn append(&mut self, mut later: Self) {
        self.removed.append(&mut later.removed);
        self.freed.append(&mut later.freed);
        self.freed_ranges.append(&mut later.freed_ranges);
        self.resting.append(&mut later.resting);
        self.resting_ranges.append(&mut later.resting_ranges);
        self.rewritten.append(&mut later.rewritten);
        self.unparked.append(&mut later.unparked);
    }
}

/// What a claim wants to lock. Keys are sorted, and so are locked in one order by all.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// As [`lock_of`] has them.
    pub(crate) keys: Vec<KeyBytes>,
    /// The number of the claim, for its keys.
    pub(crate) number: i64,
    /// Each range with a number of its own.
    pub(crate) ranges: Vec<(KeyRange, i64)>,
}

/// What a claim has locked.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub(crate) keys: Vec<KeyBytes>,
    /// The numbers of the ranges.
    pub(crate) ranges: Vec<i64>,
    pub(crate) stamp: Stamp,
}

/// An entry that this instance took over.
#[derive(Clone, Debug)]
pub struct Adopted {
    pub(crate) entry: Entry,
    /// It had no owner: its write has committed.
    pub(crate) captured: bool,
    /// Its id before. It has a new one when this instance owns an entry of that id already.
    pub(crate) was: EntryId,
}

/// An entry of somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    pub(crate) owner: i64,
    pub(crate) id: EntryId,
    pub(crate) parked: bool,
    /// It belongs to nobody, or to an instance whose lease has run out.
    pub(crate) orphan: bool,
}

/// The tables of a shared queue in one kind of database: statements, and no decisions.
///
/// Implemented by the databases of this crate. Every call is made by a task that is not dropped in the
/// middle.
#[async_trait]
pub trait QueueTables: Clone + Send + Sync + 'static {
    /// Names the database for errors.
    fn place(&self) -> String;

    /// A seat in the queue of a migration; makes the queue if there is none.
    async fn join(&self, migration: &str, instance: &str, lease: Duration) -> Result<Seat>;

    /// Renews the lease. `false` when the instance was declared dead.
    async fn renew(&self, seat: Seat, lease: Duration, watching: bool) -> Result<bool>;

    /// Ends the lease now.
    async fn leave(&self, seat: Seat) -> Result<()>;

    /// Ids that nobody else gets: the first, and how many.
    async fn draw_ids(&self) -> Result<(u64, u64)>;

    /// Inserts entries, all or none, durably.
    async fn insert(&self, seat: Seat, entries: &[NewEntry]) -> Result<()>;

    /// Carries out changes, all or none. Removed entries leave their touch to every other instance that
    /// watches.
    async fn settle(&self, seat: Seat, changes: &Changes) -> Result<()>;

    /// Locks what is not locked by others, all or none, and then draws a stamp. `None` when the instance
    /// was declared dead. A range for which only keys of others stand in the way is reserved: others lock
    /// no more of its keys.
    async fn claim(&self, seat: Seat, wanted: &Wanted) -> Result<Option<Claimed>>;

    /// Declares instances dead whose lease has run out, or that bear the name; keeps what they locked locked
    /// for the settle time. Then takes at most `most` entries that belong to dead instances or to nobody.
    async fn adopt(
        &self,
        seat: Seat,
        same_name: Option<&str>,
        settle_time: Duration,
        most: usize,
    ) -> Result<Vec<Adopted>>;

    /// The entries of all others, in one snapshot.
    async fn others(&self, seat: Seat) -> Result<Vec<Other>>;

    /// These entries as far as they are still there.
    async fn read(&self, rows: &[Other]) -> Result<Vec<(i64, Entry)>>;

    /// Which of these own entries are there.
    async fn own(&self, seat: Seat, ids: &[EntryId]) -> Result<Vec<EntryId>>;

    /// Takes the touches of entries that others have removed since the last time.
    async fn take_traces(&self, seat: Seat) -> Result<Vec<Touch>>;

    /// Moves to a new seat: removes the rows of the old one and inserts all entries under the new one.
    async fn move_to(&self, old: Seat, new: Seat, entries: &[Entry]) -> Result<()>;

    /// The taints.
    async fn taints(&self, queue: i64) -> Result<Vec<Taint>>;

    /// Stores a taint.
    async fn put_taint(&self, queue: i64, taint: &Taint) -> Result<()>;

    /// Removes a taint.
    async fn remove_taint(&self, queue: i64, id: TaintId) -> Result<()>;

    /// Draws a stamp.
    async fn draw_stamp(&self, queue: i64) -> Result<Stamp>;

    /// Makes later stamps greater.
    async fn raise_stamps_above(&self, queue: i64, seen: Stamp) -> Result<()>;
}
