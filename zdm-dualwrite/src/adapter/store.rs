use std::time::Duration;

use async_trait::async_trait;
use zdm_core::error::Result;
use zdm_core::queue::Touch;
use zdm_core::store::{Capabilities, Store};

use super::DualWrite;

/// Plain calls. Each write is one entry; each read is answered by the store that the phase names.
#[async_trait]
impl<S: Store + Clone> Store for DualWrite<S> {
    type Key = S::Key;
    type Record = S::Record;

    async fn get(&self, key: &S::Key) -> Result<Option<S::Record>> {
        self.read(key).await
    }

    async fn put(&self, key: &S::Key, record: &S::Record) -> Result<()> {
        self.write(Touch::upsert(key), |store| async move { store.put(key, record).await }).await
    }

    async fn delete(&self, key: &S::Key) -> Result<()> {
        self.write(Touch::delete(key), |store| async move { store.delete(key).await }).await
    }

    fn settle_time(&self) -> Duration {
        self.shared.old.settle_time().max(self.shared.new.settle_time())
    }

    fn capabilities(&self) -> Capabilities<'_, S::Key, S::Record> {
        // A bulk write of the service is one `write` with a touch of all its keys.
        Capabilities::none()
    }
}
