use std::time::Duration;

use serde::Serialize;

/// How far a backfill or a verification is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Progress {
    /// What it is doing.
    pub state: RunState,
    /// Rows that are done.
    pub done_rows: u64,
    /// About how many there are; at least `done_rows`.
    pub estimated_rows: u64,
    /// Rows per second, of late.
    pub rows_per_second: f64,
    /// About how much longer it takes.
    pub eta: Option<Duration>,
    /// Rows that were set aside.
    pub parked_rows: u64,
    /// The age of the oldest write that the secondary does not have yet.
    pub lag: Duration,
    /// Why pages wait, while they do: the health check, or a store that does not answer.
    pub held_back_by: Option<String>,
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Not begun.
    #[default]
    Idle,
    /// At work.
    Running,
    /// Paused by its handle.
    Paused,
    /// Held back by its pace or health hook.
    HeldBack,
    /// Stopped by its handle before its end.
    Stopped,
    /// Ended by an error.
    Failed,
    /// At its end.
    Done,
}
