//! Every sentence of the [`Store`] contract and of the capabilities that a store declares.

mod bulk;
mod fenced;
mod records;
mod scan;

use async_trait::async_trait;

use super::rule::{Rule, try_rules};
use crate::store::{Bulk, Fenced, Record, Scan, Store};

/// Makes the stores that a suite tries, and what it puts into them.
#[async_trait]
pub trait StoreFactory: Send {
    /// What is tried.
    type Store: Store;

    /// An empty store, independent of those made before.
    async fn create(&mut self) -> Self::Store;

    /// The sample key of a number: another number, another key.
    fn key(&self, number: u64) -> <Self::Store as Store>::Key;

    /// The sample record of a key: another number or version, another record. No two of different
    /// numbers may be in each other's way.
    fn record(&self, number: u64, version: u64) -> <Self::Store as Store>::Record;

    /// A record for the key of `number` that holds the unique value number `value`. `None` if the store
    /// has no unique constraint, or none that samples could run into.
    fn holding(&self, number: u64, value: u64) -> Option<<Self::Store as Store>::Record>;
}

type KeyOf<F> = <<F as StoreFactory>::Store as Store>::Key;
type RecordOf<F> = <<F as StoreFactory>::Store as Store>::Record;

/// Tries every sentence of the contract of [`Store`], and those of [`Bulk`], [`Scan`] and [`Fenced`] where
/// the store says that it can do them.
///
/// ```
/// use zdm_core::store::MemoryStore;
/// use zdm_core::testkit::{store_suite, StoreFactory};
///
/// struct Users;
///
/// #[async_trait::async_trait]
/// impl StoreFactory for Users {
///     type Store = MemoryStore<u64, (u64, String)>;
///
///     async fn create(&mut self) -> Self::Store {
///         MemoryStore::new().with_unique("email", |(_, email): &(u64, String)| Some(email.clone()))
///     }
///
///     fn key(&self, number: u64) -> u64 {
///         number
///     }
///
///     fn record(&self, number: u64, version: u64) -> (u64, String) {
///         (version, format!("user-{number}@example.org"))
///     }
///
///     fn holding(&self, number: u64, value: u64) -> Option<(u64, String)> {
///         Some((number, format!("shared-{value}@example.org")))
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(
/// store_suite(Users)
/// # );
/// ```
///
/// # Panics
/// With the name of the rule that is broken.
pub async fn store_suite<F: StoreFactory>(mut factory: F) {
    let factory = &mut factory;
    try_rules!(factory;
        records::a_record_that_is_not_there_is_none,
        records::what_was_put_comes_back_as_it_was,
        records::a_put_replaces_and_may_repeat,
        records::a_delete_removes_and_may_repeat,
        records::calls_for_different_keys_may_run_at_the_same_time,
        records::a_unique_value_that_is_held_is_a_conflict,
        records::a_dropped_put_is_done_or_not,
        bulk::many_records_come_in_the_order_of_the_keys,
        bulk::changes_are_applied_together,
        bulk::a_conflict_applies_nothing,
        bulk::unique_values_move_within_one_call,
        bulk::dropped_changes_are_all_or_none,
        scan::pages_walk_every_record_in_key_order,
        scan::a_page_keeps_to_its_range,
        scan::parts_cover_every_key_once,
        fenced::a_late_change_loses,
        fenced::a_delete_leaves_a_tombstone,
        fenced::changes_of_a_call_are_all_or_none,
        fenced::a_page_leaves_out_newer_keys,
        fenced::a_late_page_loses,
        fenced::a_page_removes_nothing,
        fenced::an_earlier_look_than_a_page_is_still_applied,
        fenced::a_record_that_does_not_fit_holds_up_no_page,
        fenced::the_newest_stamp_is_remembered,
        fenced::forgotten_stamps_stop_nobody,
    );
}

/// Calls with more keys than a database takes parameters for, if it takes the usual number.
const MANY: u64 = 1_500;

fn same_record<R: Record>(rule: Rule, what: &str, found: Option<&R>, wanted: Option<&R>) {
    let same = match (found, wanted) {
        (Some(found), Some(wanted)) => found.same_as(wanted),
        (None, None) => true,
        _ => false,
    };
    rule.holds(same, format!("{what} is {found:?}, not {wanted:?}"));
}

async fn put<F: StoreFactory>(rule: Rule, factory: &F, store: &F::Store, number: u64, version: u64) {
    let result = store.put(&factory.key(number), &factory.record(number, version)).await;
    rule.ok("put", result);
}

/// The store holds this version for the number, or no record.
async fn expect<F: StoreFactory>(
    rule: Rule,
    factory: &F,
    store: &F::Store,
    number: u64,
    version: Option<u64>,
) {
    let found = rule.ok("get", store.get(&factory.key(number)).await);
    let wanted = version.map(|version| factory.record(number, version));
    same_record(rule, &format!("the record of sample {number}"), found.as_ref(), wanted.as_ref());
}

fn bulk_of<S: Store>(store: &S) -> Option<&dyn Bulk<Key = S::Key, Record = S::Record>> {
    store.capabilities().bulk
}

fn scan_of<S: Store>(store: &S) -> Option<&dyn Scan<Key = S::Key, Record = S::Record>> {
    store.capabilities().scan
}

fn fence_of<S: Store>(store: &S) -> Option<&dyn Fenced<Key = S::Key, Record = S::Record>> {
    store.capabilities().fenced
}

#[cfg(test)]
mod tests {
    use super::super::FaultyStore;
    use super::*;
    use crate::error::Result;
    use crate::store::{Mapping, MemoryStore, StoreExt};

    type Row = (u64, String);

    fn users() -> MemoryStore<u64, Row> {
        MemoryStore::new().with_unique("email", |(_, email): &Row| Some(email.clone()))
    }

    struct Users<F>(F);

    #[async_trait]
    impl<S: Store<Key = u64, Record = Row>, F: FnMut() -> S + Send> StoreFactory for Users<F> {
        type Store = S;

        async fn create(&mut self) -> S {
            self.0()
        }

        fn key(&self, number: u64) -> u64 {
            number
        }

        fn record(&self, number: u64, version: u64) -> Row {
            (version, format!("{number}@example.org"))
        }

        fn holding(&self, number: u64, value: u64) -> Option<Row> {
            Some((number, format!("shared-{value}@example.org")))
        }
    }

    #[tokio::test]
    async fn the_memory_store_passes_at_every_level() {
        store_suite(Users(users)).await;
        store_suite(Users(|| users().without_fence())).await;
        store_suite(Users(|| users().plain())).await;
    }

    struct Shifted;

    impl Mapping<u64, Row> for Shifted {
        type Key = u64;
        type Record = Row;

        fn key_in(&self, key: &u64) -> Result<u64> {
            Ok(key + 1_000)
        }

        fn key_out(&self, key: &u64) -> Result<u64> {
            Ok(key - 1_000)
        }

        fn record_in(&self, (version, email): &Row) -> Result<Row> {
            Ok((version + 1, email.clone()))
        }

        fn record_out(&self, (version, email): Row) -> Result<Row> {
            Ok((version - 1, email))
        }
    }

    #[tokio::test]
    async fn wrappers_keep_what_the_store_inside_keeps() {
        store_suite(Users(|| users().mapped(Shifted))).await;
        store_suite(Users(|| users().without_fence().mapped(Shifted))).await;
        store_suite(Users(|| FaultyStore::new(users()))).await;
        store_suite(Users(|| users().into_dyn())).await;
    }
}
