use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::error::Kind;
use crate::key::KeyBytes;

/// A call of the store contracts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// `Store::get`.
    Get,
    /// `Store::put`.
    Put,
    /// `Store::delete`.
    Delete,
    /// `Bulk::get_many`.
    GetMany,
    /// `Bulk::apply`.
    Apply,
    /// `Scan::page`.
    Page,
    /// `Scan::split`.
    Split,
    /// `Scan::estimated_len`.
    EstimatedLen,
    /// `Fenced::newest_stamp`.
    NewestStamp,
    /// `Fenced::apply_if_newer`.
    ApplyIfNewer,
    /// `Fenced::load_page`.
    LoadPage,
    /// `Fenced::forget_stamps`.
    ForgetStamps,
}

impl Call {
    /// Whether the call changes records.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Put | Self::Delete | Self::Apply | Self::ApplyIfNewer | Self::LoadPage)
    }
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The caller has made it.
    Made,
    /// The store inside has done it, perhaps long after the caller gave up.
    TookEffect,
    /// The store inside has refused it.
    Failed(Kind),
    /// The caller has an answer: none for success, else the kind of the error.
    Answered(Option<Kind>),
}

/// One line of a [`CallLog`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedCall {
    /// The store, by the name that it was given.
    pub store: &'static str,
    /// Which call.
    pub call: Call,
    /// The keys that it is about; empty for calls about ranges or the whole store.
    pub keys: Vec<KeyBytes>,
    /// How far it had come.
    pub step: Step,
    /// When.
    pub at: Instant,
}

impl fmt::Display for LoggedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} {:?} {:?}", self.store, self.call, self.keys, self.step)
    }
}

/// What was called in which order, over any number of stores that share the log.
///
/// ```
/// use zdm_core::store::{MemoryStore, Store};
/// use zdm_core::testkit::{Call, CallLog, FaultyStore, Step};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let log = CallLog::new();
/// let old = FaultyStore::new(MemoryStore::<u64, String>::new()).logging("old", log.clone());
/// let new = FaultyStore::new(MemoryStore::<u64, String>::new()).logging("new", log.clone());
/// old.put(&1, &"one".to_owned()).await?;
/// new.put(&1, &"one".to_owned()).await?;
///
/// let order: Vec<_> = log.steps(Step::TookEffect).iter().map(|line| (line.store, line.call)).collect();
/// assert_eq!(order, [("old", Call::Put), ("new", Call::Put)]);
/// # Ok::<_, zdm_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
pub struct CallLog {
    lines: Arc<Mutex<Vec<LoggedCall>>>,
}

impl CallLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every line, oldest first.
    pub fn lines(&self) -> Vec<LoggedCall> {
        self.lock().clone()
    }

    /// The lines of one step, oldest first.
    pub fn steps(&self, step: Step) -> Vec<LoggedCall> {
        self.lock().iter().filter(|line| line.step == step).cloned().collect()
    }

    /// How often a call was made.
    pub fn count(&self, call: Call) -> usize {
        self.lock().iter().filter(|line| line.call == call && line.step == Step::Made).count()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Adds a line.
    pub fn note(&self, store: &'static str, call: Call, keys: &[KeyBytes], step: Step) {
        self.lock().push(LoggedCall { store, call, keys: keys.to_vec(), step, at: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<LoggedCall>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
