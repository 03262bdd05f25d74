//! Serving on when no entry can be stored: the window is recorded before the first write goes through.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use zdm_core::error::Result;
use zdm_core::key::KeyRange;
use zdm_core::queue::{TaintId, WriteQueue};

/// The taint that covers writes without an entry at this moment, if any.
#[derive(Default)]
pub(crate) struct TaintWindow {
    current: AsyncMutex<Option<Arc<Window>>>,
}

/// One recorded window. Every write in it holds a reference, so that whoever reconciles the window knows
/// when the last one is over.
pub(crate) struct Window {
    pub(crate) id: TaintId,
    settled_at: Mutex<Option<Instant>>,
}

impl Window {
    /// A write of this window has an unknown outcome and may take effect until `at`.
    pub(crate) fn settles_at(&self, at: Instant) {
        let mut settled = self.settled_at.lock().unwrap_or_else(PoisonError::into_inner);
        *settled = Some(settled.map_or(at, |known| known.max(at)));
    }
}

impl TaintWindow {
    /// The window of now; opens one if there is none. Durable when it returns.
    pub(crate) async fn enter(&self, queue: &dyn WriteQueue, reason: &str) -> Result<(Arc<Window>, bool)> {
        let mut current = self.current.lock().await;
        if let Some(window) = &*current {
            return Ok((Arc::clone(window), false));
        }
        let id = queue.taint(KeyRange::all(), reason).await?;
        let window = Arc::new(Window { id, settled_at: Mutex::new(None) });
        *current = Some(Arc::clone(&window));
        Ok((window, true))
    }

    /// Ends the window of now, so that later writes without an entry open another one, and waits until
    /// every write in it is over and settled. Afterwards its taint can be reconciled.
    pub(crate) async fn seal(&self) {
        let sealed = self.current.lock().await.take();
        let Some(window) = sealed else { return };
        while Arc::strong_count(&window) > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let settled = *window.settled_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = settled {
            tokio::time::sleep_until(at).await;
        }
    }
}
