use zdm_core::error::Result;
use zdm_core::key::KeyBytes;
use zdm_core::phase::{Reads, Side};
use zdm_core::report::Event;
use zdm_core::store::Store;

use super::{DualWrite, in_cohort};

impl<S: Store + Clone> DualWrite<S> {
    /// Answers a read as the phase says, and lets a sample of reads be compared in the background.
    pub(super) async fn read(&self, key: &S::Key) -> Result<Option<S::Record>> {
        let shared = &self.shared;
        let routing = shared.operations.routing();
        let from = match routing.reads {
            Reads::Primary => routing.primary,
            Reads::NewForCleanKeys(share) => {
                // A key that is clean when the read begins is equal on both sides at that moment, so
                // either side's answer is a right one.
                let chosen = in_cohort(&shared.settings.name, key, share.hundredths())
                    && shared.queue.is_clean(&KeyBytes::of(key));
                if chosen { Side::New } else { Side::Old }
            }
        };
        let answer = shared.side(from).get(key).await;
        let answer = match answer {
            Err(error) if from != routing.primary => {
                // The store under trial must not fail a request that the primary can answer.
                shared.observers.emit(&Event::TrialReadFailed { error });
                shared.side(routing.primary).get(key).await
            }
            answer => answer,
        };
        if routing.shadow_compare
            && let Ok(record) = &answer
        {
            self.compare_in_background(key, record, from, routing.primary);
        }
        answer
    }
}
