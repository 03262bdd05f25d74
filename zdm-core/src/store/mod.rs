//! What a store must be able to do.
//!
//! [`Store`] is the whole contract for one side of a migration. What a store can do beyond it, it says in
//! [`Store::capabilities`]: read and write many records at once ([`Bulk`]), walk its keys in order
//! ([`Scan`]), sum up a range where the records are ([`Digest`]), refuse late writes ([`Fenced`]). Whatever is built on a store picks the strongest way
//! that its capabilities allow. Comforts for callers are in [`StoreExt`].

mod bulk;
mod contract;
mod convenience;
mod digest;
mod fenced;
mod map;
mod memory;
mod record;
mod scan;

pub use bulk::{Bulk, Change};
pub use contract::{Capabilities, DynStore, Store};
pub use convenience::StoreExt;
pub use digest::{Digest, RangeDigest};
pub use fenced::{Fenced, PageLoad, Stamp};
pub use map::{MapStore, Mapping};
pub use memory::MemoryStore;
pub use record::{Difference, Record};
pub use scan::{Page, Scan};
