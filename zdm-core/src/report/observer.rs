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
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use zdm_core::report::{Event, Observer, Observers};
///
/// let opened = Arc::new(AtomicUsize::new(0));
/// let count = Arc::clone(&opened);
/// let counter = move |event: &Event| {
///     if matches!(event, Event::CircuitOpened) {
///         count.fetch_add(1, Ordering::Relaxed);
///     }
/// };
/// let observers = Observers::new([Arc::new(counter) as Arc<dyn Observer>]);
/// observers.emit(&Event::CircuitOpened);
/// observers.emit(&Event::CircuitClosed);
/// assert_eq!(opened.load(Ordering::Relaxed), 1);
/// ```
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn an_observer_that_panics_harms_nobody() {
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        let broken =
            |event: &Event| assert!(!matches!(event, Event::CircuitOpened), "this observer is broken");
        let sound = move |_: &Event| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let observers = Observers::new([Arc::new(broken) as Arc<dyn Observer>, Arc::new(sound)]);
        observers.emit(&Event::CircuitOpened);
        observers.emit(&Event::CircuitClosed);
        assert_eq!(told.load(Ordering::Relaxed), 2);
    }
}
