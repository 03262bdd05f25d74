//! The running flags of a process: files come in, snapshots go out.

mod builder;
mod change;
mod error;
mod layer;
mod report;
mod writer;

pub use builder::FlagsBuilder;
pub use change::Change;
pub use error::LoadError;
pub use report::{Health, Report};

pub(crate) use layer::{Laid, Layer, assemble};

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};

use arc_swap::{ArcSwap, Guard};
use zdm_core::clock::Clock;
use zdm_core::phase::Phase;

use self::writer::Writer;
use crate::definition::Variant;
use crate::evaluation::Context;
use crate::handle::{Flag, FlagType};
use crate::snapshot::Snapshot;
use crate::source::Source;

/// The flags of a process. Cheap to clone; all clones are the same.
///
/// ```
/// use zdm_flags::{Context, Flags, flags};
///
/// flags! { pub static NEW_PRICING: bool = "new-pricing" => false; }
///
/// let flags = Flags::from_json(br#"{
///     "metadata": {"zdm.bucketing": "flagd-v2"},
///     "flags": {"new-pricing": {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
///         "targeting": {"if": [{"==": [{"var": "plan"}, "gold"]}, "on",
///             {"fractional": [["on", 25], ["off", 75]]}]}}}
/// }"#)?;
/// let cx = Context::key("tenant-7").with("plan", "gold");
/// assert!(flags.get(&NEW_PRICING, &cx));
///
/// let f = flags.snapshot();   // one per request: the same answers from beginning to end
/// assert_eq!(f.details(&NEW_PRICING, &cx).variant, Some("on"));
/// # Ok::<_, zdm_flags::LoadError>(())
/// ```
#[derive(Clone)]
pub struct Flags {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    current: ArcSwap<Snapshot>,
    writer: Mutex<Writer>,
    sources: Vec<Mutex<Box<dyn Source>>>,
    /// Waking the threads that follow the sources; they end when this is gone.
    wake: Mutex<Vec<mpsc::Sender<()>>>,
}

impl Shared {
    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A subscriber that panicked has left nothing half done here.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flags {
    /// Settings for flags that come from sources.
    pub fn builder() -> FlagsBuilder {
        FlagsBuilder::default()
    }

    /// Flags from one file, already read.
    ///
    /// # Errors
    /// [`LoadError::Parse`] when it is no flag file.
    pub fn from_json(bytes: &[u8]) -> Result<Self, LoadError> {
        let flags = Self::builder().build()?;
        flags.apply(bytes)?;
        Ok(flags)
    }

    /// The flags as they are now. One per request gives the request one state of the flags.
    #[inline]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// As [`snapshot`](Self::snapshot), but borrowed: cheaper, and meant to be dropped soon.
    #[inline]
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.shared.current.load()
    }

    /// The value of a flag now. For more than one flag take a [`snapshot`](Self::snapshot).
    #[inline]
    pub fn get<T>(&self, flag: &Flag<T>, cx: &Context<'_>) -> T
    where
        T: for<'s> FlagType<Out<'s> = T>,
    {
        self.shared.current.load().get(flag, cx)
    }

    /// Puts a file that the caller fetched over what all sources gave.
    ///
    /// # Errors
    /// [`LoadError`] says why it is refused. Then the last good snapshot stays.
    pub fn apply(&self, bytes: &[u8]) -> Result<Change, LoadError> {
        self.writer_apply(bytes, None)
    }

    /// As [`apply`](Self::apply), with a detached signature: 64 bytes, or 128 hexadecimal digits.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), and [`LoadError::Untrusted`] when the signature does not fit or the
    /// revision goes back.
    #[cfg(feature = "signature")]
    pub fn apply_signed(&self, bytes: &[u8], signature: &[u8]) -> Result<Change, LoadError> {
        self.writer_apply(bytes, Some(signature))
    }

    fn writer_apply(&self, bytes: &[u8], signature: Option<&[u8]>) -> Result<Change, LoadError> {
        let mut writer = self.shared.writer();
        let slot = writer.pushed_slot();
        writer.put(&self.shared.current, slot, bytes, signature)
    }

    /// Asks every source now, in this thread.
    ///
    /// # Errors
    /// The first [`LoadError`]; the sources after it were asked too.
    pub fn reload(&self) -> Result<(), LoadError> {
        let mut outcome = Ok(());
        for slot in 0..self.shared.sources.len() {
            let result = writer::poll(&self.shared, slot).map(drop);
            outcome = outcome.and(result);
        }
        outcome
    }

    /// Holds a phase flag back at once, in this process: no subject is past `ceiling` until
    /// [`lift_ceiling`](Self::lift_ceiling). The file is not touched, and files that come later are held
    /// back too. A ceiling above an earlier one is ignored: a guard only lowers.
    ///
    /// # Errors
    /// [`LoadError::Setting`] when there is no phase flag of that key.
    pub fn lower_ceiling(&self, key: &str, ceiling: Phase) -> Result<Change, LoadError> {
        self.shared.writer().lower_ceiling(&self.shared.current, key, ceiling)
    }

    /// Takes the ceiling of a phase flag away. For people, not for guards.
    pub fn lift_ceiling(&self, key: &str) -> Change {
        self.shared.writer().lift_ceiling(&self.shared.current, key)
    }

    /// Gives a flag a fixed value until the returned guard is dropped. For tests.
    #[must_use = "the override ends when this is dropped"]
    pub fn override_flag<T: IntoVariant>(&self, key: &str, value: T) -> Override {
        let variant = Variant::new("override", value.into_json());
        let before = self.shared.writer().set_override(&self.shared.current, key, Some(variant));
        Override { shared: Arc::downgrade(&self.shared), key: key.to_owned(), before }
    }

    /// Calls `observer` after every change, with what is different, until the returned guard is dropped.
    ///
    /// Observers run one after the other, in the thread that made the change, while other changes wait. They
    /// may evaluate flags; they must not change any.
    #[must_use = "the subscription ends when this is dropped"]
    pub fn subscribe(&self, observer: impl Fn(&Change) + Send + Sync + 'static) -> Subscription {
        let id = self.shared.writer().subscribe(Box::new(observer));
        Subscription { shared: Arc::downgrade(&self.shared), id }
    }

    /// Which flags the code declares and the files lack, and the other way round.
    pub fn report(&self) -> Report {
        self.shared.writer().report(&self.shared.current.load())
    }

    /// How loading is going: the last refusal of each source, and since when it stands.
    pub fn health(&self) -> Health {
        self.shared.writer().health(&self.shared.current.load())
    }

    pub(crate) fn start(builder: FlagsBuilder) -> Result<Self, LoadError> {
        let FlagsBuilder { sources, .. } = &builder;
        let names = sources.iter().map(|source| source.name()).collect();
        let (mut writer, sources) = Writer::new(builder, names)?;
        let current = ArcSwap::from_pointee(writer.empty());
        let sources: Vec<Mutex<Box<dyn Source>>> = sources.into_iter().map(Mutex::new).collect();
        writer.first_load(&current, &sources)?;
        let shared =
            Arc::new(Shared { current, writer: Mutex::new(writer), sources, wake: Mutex::new(Vec::new()) });
        writer::follow(&shared)?;
        Ok(Self { shared })
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flags").field("revision", &self.load().revision()).finish_non_exhaustive()
    }
}

/// A value that a test can give to a flag.
pub trait IntoVariant {
    /// As JSON.
    fn into_json(self) -> serde_json::Value;
}

macro_rules! into_variant {
    ($($type:ty),*) => {$(
        impl IntoVariant for $type {
            fn into_json(self) -> serde_json::Value {
                serde_json::Value::from(self)
            }
        }
    )*};
}

into_variant!(bool, i64, f64, &str, String, serde_json::Value);

impl IntoVariant for Phase {
    fn into_json(self) -> serde_json::Value {
        serde_json::Value::from(self.to_string())
    }
}

/// A value that a test gave to a flag. The flag is as before when this is dropped.
#[derive(Debug)]
pub struct Override {
    shared: Weak<Shared>,
    key: String,
    before: Option<Variant>,
}

impl Drop for Override {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.writer().set_override(&shared.current, &self.key, self.before.take());
        }
    }
}

/// Ends a subscription when it is dropped.
#[derive(Debug)]
pub struct Subscription {
    shared: Weak<Shared>,
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.writer().unsubscribe(self.id);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The clock as seconds since 1970.
pub(crate) fn unix_seconds(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.unix_millis() / 1_000).unwrap_or(i64::MAX)
}
