use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::phase::Side;

/// What the application does while writes wait, right before a handover is recorded.
pub(crate) struct BeforeHandover(Box<dyn Fn(Side) -> BoxFuture<'static, Result<()>> + Send + Sync>);

impl BeforeHandover {
    pub(crate) fn new<F, D>(step: F) -> Self
    where
        F: Fn(Side) -> D + Send + Sync + 'static,
        D: Future<Output = Result<()>> + Send + 'static,
    {
        Self(Box::new(move |next| step(next).boxed()))
    }

    /// Runs it. A panic is an error like any other: it must not leave a handover announced for ever.
    pub(super) async fn run(&self, next_primary: Side) -> Result<()> {
        let step = AssertUnwindSafe(async { (self.0)(next_primary).await });
        let done = step.catch_unwind().await.unwrap_or_else(|_| {
            Err(Error::new(Kind::Invalid, "it panicked; the panic's own words are on stderr"))
        });
        let what = "the handover was given up: the application's step before the handover has failed";
        // The step may have done what it does; the handover was not made.
        done.map_err(|error| error.context(what).not_applied())
    }
}
