use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Event;

/// Somebody who is told what happens.
pub trait Observer: Send + Sync + 'static {
    /// Called from the task in which it happened; must not block.
    fn on_event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync + 'static> Observer for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

/// Several observers. One that panics does not keep the others, or the caller, from going on.
#[derive(Clone, Default)]
pub struct Observers {
    list: Arc<[Arc<dyn Observer>]>,
}

impl Observers {
    /// These observers, told in this order.
    pub fn new(list: impl IntoIterator<Item = Arc<dyn Observer>>) -> Self {
        Self { list: list.into_iter().collect() }
    }

    /// Tells all of them.
    pub fn emit(&self, event: &Event) {
        for observer in &*self.list {
            // Its panic has already been printed by the panic hook; the migration must not suffer.
            drop(catch_unwind(AssertUnwindSafe(|| observer.on_event(event))));
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observers({})", self.list.len())
    }
}
