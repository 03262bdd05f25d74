//! Feature flags evaluated inside a Rust process: at once, without failing, without a lock, and with the
//! same answer in every process and every release.
//!
//! Flags gate code paths and carry the phases of a migration. They are written in flagd's JSON format, so
//! files move to and from a flagd daemon unchanged; how subjects are put into buckets is pinned in the file
//! ([`bucketing`]), so no upgrade ever moves a cohort; and phase flags are proved to move only forward before a
//! file is taken ([`docs::phase_flags`]).
//!
//! What it is not: a hosted flag service, or a client of one.
//!
//! ```
//! use zdm_core::phase::Phase;
//! use zdm_flags::{Context, Flags, flags};
//!
//! flags! {
//!     pub static ORDERS_STORE: Phase = "orders-store" => Phase::Off;
//!     pub static NEW_PRICING: bool = "new-pricing" => false;
//! }
//!
//! # let path = std::env::temp_dir().join(format!("zdm-flags-doc-{}.json", std::process::id()));
//! # std::fs::write(&path, br#"{"metadata": {"zdm.bucketing": "flagd-v2"}, "flags": {
//! #   "orders-store": {"state": "ENABLED", "variants": {"off": "off", "dualwrite": "dualwrite"},
//! #     "defaultVariant": "dualwrite", "metadata": {"zdm.kind": "phase"}},
//! #   "new-pricing": {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
//! #     "targeting": {"if": [{"in": [{"var": "plan"}, ["gold", "silver"]]}, "on"]}}}}"#).unwrap();
//! use zdm_flags::source::FileSource;
//!
//! let flags = Flags::builder()
//!     .source(FileSource::poll(&path))
//!     .require([&ORDERS_STORE, &NEW_PRICING])
//!     .build()?;
//!
//! let (tenant, plan) = ("tenant-7".to_owned(), "gold".to_owned());
//! let f = flags.snapshot();
//! let cx = Context::key(&tenant).with("plan", &plan).with("items", 3);
//! assert!(f.get(&NEW_PRICING, &cx));
//! assert_eq!(f.get(&ORDERS_STORE, &cx), Phase::DualWrite);
//! assert_eq!(f.details(&NEW_PRICING, &cx).rule, Some("/flags/new-pricing/targeting/if/1"));
//! # std::fs::remove_file(&path).unwrap();
//! # Ok::<_, zdm_flags::LoadError>(())
//! ```

pub mod bucketing;
pub mod churn;
pub mod definition;
pub mod docs;
mod engine;
mod evaluation;
mod exposure;
mod handle;
mod in_code;
mod lint;
#[cfg(feature = "open-feature")]
pub mod open_feature;
mod phase_flag;
mod snapshot;
pub mod source;
pub mod targeting;

pub use engine::{
    Change, Flags, FlagsBuilder, Health, IntoVariant, LoadError, Override, Report, Subscription,
};
pub use evaluation::{
    Attribute, Bucket, Context, Details, ErrorCode, Explanation, Reason, Step, UnknownType, ValueType,
};
pub use exposure::Exposure;
pub use handle::{Declared, Flag, FlagType};
pub use in_code::InCode;
pub use lint::lint;
pub use snapshot::Snapshot;
