//! The page engine: backfill and verification walk the key space with it.
//!
//! The key space is cut into ranges; workers take them and go through each in pages. What a page does is
//! up to its [`PageWork`]; everything around it is here: the size of pages follows the time they take
//! (`page_size`), their rate gives way to live requests (`pace`), one checkpoint says how far each range
//! is (`plan`, `journal`), and the handle pauses, resumes and stops (`control`, `job`).

mod context;
mod control;
mod health;
mod job;
mod journal;
mod meter;
mod pace;
mod page_size;
mod plan;
mod runner;
mod settings;
mod start;

pub(crate) use context::{PageContext, PageTicket};
pub use health::{Health, HealthCheck, LatencyProbe};
pub use job::Job;
pub(crate) use journal::{Journal, Place};
pub(crate) use plan::Plan;
pub(crate) use runner::{PageWork, ReadPage, Runner};
pub use settings::{PaceSettings, PageSettings};
pub(crate) use start::{RANGES_PER_WORKER, check_cover, open_journal};
