//! Stopping after a broken invariant: mirroring ends, the primary goes on.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

/// Set once, with the reason. Entries are still recorded afterwards, so nothing is lost; nothing is
/// written to the secondary any more, and no handover begins.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    reason: OnceLock<String>,
    token: CancellationToken,
}

impl Poison {
    /// Stops mirroring. Tells whether this call was the first.
    pub(crate) fn set(&self, reason: &str) -> bool {
        let first = self.reason.set(reason.to_owned()).is_ok();
        self.token.cancel();
        first
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    pub(crate) async fn set_by_anyone(&self) {
        self.token.cancelled().await;
    }
}
