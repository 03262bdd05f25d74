//! Words and contracts of zero-downtime migrations. No I/O.
//!
//! A service that moves its data to another store wraps both stores and keeps serving. This crate says
//! what the parts must do: [`store::Store`] and its capabilities, the secondary-write queue
//! ([`queue::WriteQueue`]), phases with their routing and moves, checkpoints, errors that say what
//! happened and what to do. `zdm-dualwrite` runs them; `zdm-sql-adapters` has stores for databases.
//!
//! What it is not: a replication engine, a multi-master database, an exactly-once broker.
//!
//! The chapters in [`docs`] tell how the parts fit, what is promised, and what a dropped future leaves.
//!
//! ```
//! use zdm_core::store::{MemoryStore, Store, StoreExt};
//! use zdm_core::{queue::Touch, Error};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let users = MemoryStore::<u64, String>::new();
//! users.put(&7, &"Ada".to_owned()).await?;
//! assert_eq!(users.fetch(&7).await?, "Ada");
//!
//! let touch = Touch::upsert(&7_u64);
//! assert!(touch.covers(&7));
//! # Ok::<_, Error>(()) }).unwrap();
//! ```

pub mod checkpoint;
pub mod clock;
pub mod docs;
pub mod error;
pub mod key;
pub mod phase;
pub mod queue;
pub mod report;
pub mod rollout;
mod sealed_file;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use error::{Error, Result};
