use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use zdm_core::phase::Phase;

use crate::definition::Variant;

/// A flag that the code knows: its key, its type, and the value to use when the file says nothing.
///
/// Made by [`flags!`](crate::flags). It remembers where in the latest snapshot its flag is, so that the key is looked up
/// once per snapshot and not once per call.
#[derive(Debug)]
pub struct Flag<T> {
    key: &'static str,
    default: T,
    /// The number of a snapshot, and the place in it.
    place: AtomicU64,
}

/// How many bits of [`Flag::place`] are the place. The others number the snapshots.
pub(crate) const PLACE_BITS: u32 = 24;
const PLACE: u64 = (1 << PLACE_BITS) - 1;

impl<T> Flag<T> {
    /// A flag with the value to use when the file does not have it, or it is switched off or broken.
    pub const fn new(key: &'static str, default: T) -> Self {
        Self { key, default, place: AtomicU64::new(0) }
    }

    /// The key in the file.
    pub const fn key(&self) -> &'static str {
        self.key
    }

    /// The value that the code falls back to.
    pub const fn default_value(&self) -> &T {
        &self.default
    }

    /// The place in the snapshot of that number. Places that are found are kept for the next call.
    #[inline]
    pub(crate) fn place_in(&self, snapshot: u64, find: impl FnOnce(&str) -> Option<u32>) -> usize {
        // Both halves are one number, so a torn pair cannot be read, and nothing else is published by it.
        let known = self.place.load(Ordering::Relaxed);
        if known >> PLACE_BITS == snapshot {
            return usize::try_from(known & PLACE).unwrap_or(usize::MAX);
        }
        let place = find(self.key).map_or(PLACE, u64::from);
        self.place.store(snapshot << PLACE_BITS | place, Ordering::Relaxed);
        usize::try_from(place).unwrap_or(usize::MAX)
    }
}

/// A type that a flag can have.
///
/// For a type of your own, such as an enum of layouts, read the variant's text and give back `None` for
/// what it does not know: callers then get the code default and `TYPE_MISMATCH`.
///
/// ```
/// use zdm_flags::{Context, FlagType, Flags, flags};
/// use zdm_flags::definition::{Variant, VariantType};
///
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// enum Layout { Grid, List }
///
/// impl FlagType for Layout {
///     type Out<'s> = Self;
///     const EXPECTED: VariantType = VariantType::String;
///
///     fn read(variant: &Variant) -> Option<Self> {
///         match variant.as_str()? {
///             "grid" => Some(Self::Grid),
///             "list" => Some(Self::List),
///             _ => None,
///         }
///     }
///     fn fallback(default: &Self) -> Self {
///         *default
///     }
/// }
///
/// flags! { pub static LAYOUT: Layout = "layout" => Layout::Grid; }
///
/// let flags = Flags::from_json(br#"{"flags": {"layout": {"state": "ENABLED",
///     "variants": {"a": "grid", "b": "list"}, "defaultVariant": "b"}}}"#)?;
/// assert_eq!(flags.snapshot().get(&LAYOUT, &Context::anonymous()), Layout::List);
/// # Ok::<_, zdm_flags::LoadError>(())
/// ```
pub trait FlagType: fmt::Debug + Send + Sync + 'static {
    /// What callers get: the type itself, or a borrow from the snapshot.
    type Out<'s>;

    /// The type that the variants must have.
    const EXPECTED: crate::definition::VariantType;

    /// Reads a variant. `None` where it is not of this type, or would lose something.
    fn read(variant: &Variant) -> Option<Self::Out<'_>>;

    /// The code default.
    fn fallback(default: &Self) -> Self::Out<'_>;
}

macro_rules! copied {
    ($($type:ty, $expected:ident, $read:ident;)*) => {$(
        impl FlagType for $type {
            type Out<'s> = $type;
            const EXPECTED: crate::definition::VariantType = crate::definition::VariantType::$expected;

            #[inline]
            fn read(variant: &Variant) -> Option<$type> {
                variant.$read()
            }

            #[inline]
            fn fallback(default: &$type) -> $type {
                *default
            }
        }
    )*};
}

copied! {
    bool, Boolean, as_bool;
    i64, Number, as_i64;
    f64, Number, as_f64;
    Phase, String, as_phase;
}

impl FlagType for &'static str {
    type Out<'s> = &'s str;
    const EXPECTED: crate::definition::VariantType = crate::definition::VariantType::String;

    #[inline]
    fn read(variant: &Variant) -> Option<&str> {
        variant.as_str()
    }

    #[inline]
    fn fallback<'s>(default: &'s &'static str) -> &'s str {
        default
    }
}

impl FlagType for Value {
    type Out<'s> = &'s Value;
    const EXPECTED: crate::definition::VariantType = crate::definition::VariantType::Object;

    #[inline]
    fn read(variant: &Variant) -> Option<&Value> {
        variant.as_object()
    }

    #[inline]
    fn fallback(default: &Value) -> &Value {
        default
    }
}

/// A flag of any type, for lists of them.
pub trait Declared: fmt::Debug + Send + Sync {
    /// The key in the file.
    fn declared_key(&self) -> &'static str;

    /// The type that the variants must have.
    fn expected(&self) -> crate::definition::VariantType;

    /// Whether the code can use this variant.
    fn accepts(&self, variant: &Variant) -> bool;

    /// The phase that the code falls back to, for phase flags.
    fn fallback_phase(&self) -> Option<Phase>;
}

impl<T: FlagType> Declared for Flag<T> {
    fn declared_key(&self) -> &'static str {
        self.key
    }

    fn expected(&self) -> crate::definition::VariantType {
        T::EXPECTED
    }

    fn accepts(&self, variant: &Variant) -> bool {
        T::read(variant).is_some()
    }

    fn fallback_phase(&self) -> Option<Phase> {
        raw_any(&self.default).downcast_ref::<Phase>().copied()
    }
}

/// The default as something whose type can be asked for.
fn raw_any<T: FlagType>(default: &T) -> &dyn std::any::Any {
    default
}

/// Declares flags that the code knows.
///
/// ```
/// use zdm_core::phase::Phase;
/// use zdm_flags::flags;
///
/// flags! {
///     /// Where the orders are kept.
///     pub static ORDERS_STORE: Phase = "orders-store" => Phase::Off;
///     pub static NEW_PRICING: bool = "new-pricing" => false;
///     pub static GREETING: &'static str = "greeting" => "hello";
/// }
/// assert_eq!(NEW_PRICING.key(), "new-pricing");
/// ```
#[macro_export]
macro_rules! flags {
    ($($(#[$attribute:meta])* $visibility:vis static $name:ident : $type:ty = $key:literal => $default:expr;)*) => {$(
        $(#[$attribute])*
        $visibility static $name: $crate::Flag<$type> = $crate::Flag::new($key, $default);
    )*};
}
