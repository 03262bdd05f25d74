//! Dual writes that lose nothing.
//!
//! [`DualWrite`] puts two stores behind one interface. Every write leaves a durable entry in a queue
//! before the primary is called; workers bring the secondary into step; phases move reads and then the
//! primary role from old to new. What the parts must do is said in [`zdm_core`].
//!
//! What it is not: a replication engine, a multi-master database, an exactly-once broker.

mod adapter;
mod backfill;
mod disk_queue;
pub mod docs;
mod handover;
mod pages;
mod poison;
mod reconcile;
mod repair;
mod shadow;
mod shutdown;
mod verify;

pub use adapter::{
    Builder, CircuitSettings, DualWrite, Instances, Retry, Settings, ShadowSettings, WhenFull,
};
pub use backfill::{Backfill, BackfillReport};
pub use disk_queue::{DiskQueue, DiskQueueBuilder, Durability};
pub use handover::{Advanced, MoveRequest};
pub use pages::{Health, HealthCheck, Job, LatencyProbe, PaceSettings, PageSettings};
pub use reconcile::Safety;
pub use repair::{Deletions, Repair, RepairReport, TaintReport};
pub use shadow::ShadowCounts;
pub use shutdown::ShutdownReport;
pub use verify::{Differing, Sampled, Verify, VerifyReport};
