use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::report::Progress;

use super::control::Control;
use super::{LatencyProbe, PageWork, Runner};

/// A page run under way: a backfill or a verification.
///
/// Dropping it ends the run where it is, as a crash would: the checkpoint stands, and another run goes on
/// from it. [`stop`](Self::stop) and [`wait`](Self::wait) end it between two pages.
pub struct Job<R> {
    control: Arc<Control>,
    progress: Arc<dyn Fn() -> Progress + Send + Sync>,
    task: JoinHandle<Result<R>>,
}

impl<R: Send + 'static> Job<R> {
    /// Spawns `run`, which drives the runner.
    pub(crate) fn spawn<W: PageWork>(
        runner: &Arc<Runner<W>>,
        run: impl Future<Output = Result<R>> + Send + 'static,
    ) -> Self {
        let (control, runner) = (Arc::clone(&runner.control), Arc::clone(runner));
        Self { control, progress: Arc::new(move || runner.progress()), task: tokio::spawn(run) }
    }

    /// No page begins until [`resume`](Self::resume). Pages under way end.
    pub fn pause(&self) {
        self.control.pause();
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.control.resume();
    }

    /// Ends the run when the pages under way have ended. [`wait`](Self::wait) tells when that is.
    pub fn stop(&self) {
        self.control.stop();
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        (self.progress)()
    }

    /// Takes the latency of live requests, to which the run gives way.
    pub fn latency_probe(&self) -> LatencyProbe {
        self.control.probe()
    }

    /// The rate that its pace allows now, in rows per second. `None` while nothing limits it.
    pub fn rows_per_second_limit(&self) -> Option<f64> {
        self.control.limit()
    }

    /// Why the health check holds the run back, while it does.
    pub fn held_back(&self) -> Option<String> {
        self.control.signal().held
    }

    /// Whether the run has ended; then [`wait`](Self::wait) returns at once.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for the end of the run.
    ///
    /// # Errors
    /// What ended the run before its time. The checkpoint stands.
    ///
    /// # Cancel safety
    /// The run ends when the future is dropped, as it does when the job is.
    pub async fn wait(mut self) -> Result<R> {
        match (&mut self.task).await {
            Ok(result) => result,
            Err(cause) => Err(Error::new(Kind::Stopped, "the page run panicked").with_source(cause)),
        }
    }

    /// Stops the run and waits at most `deadline` for the pages under way; then ends it where it is.
    /// `None` when the deadline came first.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Cancel safety
    /// As [`wait`](Self::wait).
    pub async fn stop_within(self, deadline: Duration) -> Result<Option<R>> {
        self.stop();
        tokio::time::timeout(deadline, self.wait()).await.ok().transpose()
    }
}

impl<R> Drop for Job<R> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<R> fmt::Debug for Job<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("progress", &(self.progress)()).finish_non_exhaustive()
    }
}
