use std::time::Duration;

use serde::Serialize;
use zdm_core::error::Result;
use zdm_core::queue::QueueStats;
use zdm_core::store::Store;

use crate::adapter::DualWrite;

/// What a shutdown left behind.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Whether nothing was pending at the end. Parked entries and taints do not count.
    pub drained: bool,
    /// Writes that were still under way at the deadline; their outcome is unknown to the queue.
    pub writes_in_flight: u64,
    /// What the queue holds. A durable queue hands it to the next process.
    pub left: QueueStats,
}

impl<S: Store + Clone> DualWrite<S> {
    /// Takes no more writes, waits for those under way and for the queue to drain, then stops the workers
    /// and closes the queue. It never takes much longer than `deadline`; what is left is reported, and a
    /// durable queue keeps it.
    ///
    /// # Errors
    /// What the queue says when it is closed.
    ///
    /// # Cancel safety
    /// When the future is dropped, writes stay refused and the workers go on; it may be called again.
    pub async fn shutdown(&self, deadline: Duration) -> Result<ShutdownReport> {
        let shared = &self.shared;
        shared.operations.stop();
        let quiet = async {
            shared.operations.drained().await;
            shared.queue.wait_drained().await;
        };
        // Poisoned or without a secondary nothing drains any more.
        let drained = tokio::select! {
            drained = tokio::time::timeout(deadline, quiet) => drained.is_ok(),
            () = shared.poison.set_by_anyone() => false,
        };
        shared.stop.cancel();
        shared.tasks.close();
        // Each call of a worker is bounded; one that outlives the deadline gives its claim back when the
        // runtime ends.
        let _ = tokio::time::timeout(deadline.max(Duration::from_millis(100)), shared.tasks.wait()).await;
        let left = shared.queue.stats();
        let writes_in_flight = shared.operations.in_flight();
        shared.queue.close().await?;
        Ok(ShutdownReport { drained, writes_in_flight, left })
    }
}
