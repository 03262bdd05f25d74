//! What is touched while somebody looks.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::QueueIndex;
use crate::key::KeyRange;
use crate::queue::{Intent, Span, Touch, TouchItem, WatchId};

#[derive(Debug)]
pub(super) struct Watch {
    id: WatchId,
    range: KeyRange,
    seen: HashMap<Span, Intent, RandomState>,
    full: bool,
}

impl Watch {
    /// Keys that are kept one by one. A watch that has seen more says "the whole range", so that a long
    /// one takes bounded memory.
    const LIMIT: usize = 100_000;

    pub(super) fn note(&mut self, touch: &Touch) {
        if self.seen.len() > Self::LIMIT {
            self.seen = HashMap::default();
            self.seen.insert(Span::Range(self.range.clone()), Intent::Unknown);
            self.full = true;
        }
        if self.full {
            return;
        }
        for item in touch.items().iter().filter(|item| item.span.meets(&self.range)) {
            let intent = self.seen.entry(item.span.clone()).or_insert(item.intent);
            if *intent != item.intent {
                *intent = Intent::Unknown;
            }
        }
    }
}

impl QueueIndex {
    /// Begins a watch, with the entries that cover a part of the range already.
    pub fn watch(&mut self, range: KeyRange) -> WatchId {
        let id = WatchId(self.next_watch);
        self.next_watch += 1;
        let mut watch = Watch { id, range, seen: HashMap::default(), full: false };
        self.slots.values().for_each(|slot| watch.note(&slot.touch));
        self.watches.push(watch);
        id
    }

    /// Ends a watch; returns what was touched, in no order.
    pub fn unwatch(&mut self, id: WatchId) -> Vec<TouchItem> {
        self.end_watch(id).unwrap_or_default()
    }

    /// As [`unwatch`](Self::unwatch); `None` when there is no such watch.
    pub fn end_watch(&mut self, id: WatchId) -> Option<Vec<TouchItem>> {
        let at = self.watches.iter().position(|watch| watch.id == id)?;
        let watch = self.watches.swap_remove(at);
        Some(watch.seen.into_iter().map(|(span, intent)| TouchItem { span, intent }).collect())
    }
}
