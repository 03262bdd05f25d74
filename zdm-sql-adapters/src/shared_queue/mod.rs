//! The secondary-write queue in tables of a database server, shared by several instances of a service.
//!
//! The entry is in its table before the primary is called. Every entry has one **owner**: the instance that
//! opened it, or that took it over. The owner keeps the state of its entries in memory (the state machine
//! is [`QueueIndex`](zdm_core::queue::QueueIndex)) and the tables hold what others need when it dies, so a
//! write costs one inserted row and one deleted row, both in batches, and no row is ever updated on the way.
//!
//! What keeps instances apart, and what each rule is for:
//!
//! - **A key is locked in a table while it is claimed.** Two instances may own entries of one key; only the
//!   one that holds the key's row reconciles it. A retry leaves the row until its delay has passed, because
//!   a write to the secondary that was given up on may land until then. Ranges are locked in a table of
//!   their own, under a lock that keeps new keys out while they are looked at.
//! - **An instance has a lease**, by the server's clock. When it has run out, another instance declares the
//!   owner dead: its locked keys stay locked for the settle time, and its entries are taken over as
//!   AMBIGUOUS for the settle time, because nobody knows where its calls stand. The survivors take entries
//!   with `FOR UPDATE SKIP LOCKED`, so two of them never wait for each other and never take the same one.
//! - **An instance whose lease ran out counts nothing as done.** It measures its lease from before it asked
//!   for it, by its own clock, so it knows before the others do. What it opens then is refused, and what it
//!   acknowledges is reconciled once more. When it finds itself declared dead, it joins under a new number
//!   and records all its entries again: an owner removes its own rows only, so a survivor that works on
//!   the same entries does no harm.
//! - **Rows are removed by name, never below a mark.** Transactions commit out of order, and a row with a
//!   smaller number may appear later.
//! - **Entries without an owner** are those that a write recorded in its own transaction. They are taken over
//!   like those of a dead instance, without the settle time: they are there because the write has committed.
//!
//! What an instance knows of the others is a copy that is refreshed all the time. `is_clean`, the counts, the
//! limit and the taints are as old as the copy: usually less than
//! [`poll`](SharedQueueOptions::poll), and when it could not be refreshed for
//! [`stale_after`](SharedQueueOptions::stale_after), every key counts as dirty. `catch_up` waits for a refresh; so
//! does `wait_drained`. Watches see what came and went between two refreshes as well: while any instance
//! watches, removed entries leave a trace for it.
//!
//! Measured with PostgreSQL on a quiet machine of two cores that holds the server too (`benches/queue.rs`): with 256
//! writers 139,000 to 180,000 entries/s are opened and released, 0.56 to 0.73 of what a raw batched insert of two
//! columns reaches in the same round (median of 15 rounds: 0.65); with two workers that reconcile them at the same
//! time about 53,000/s. A `write_in` is one round trip more: it makes transactions of one row take 18 % longer with
//! one writer and 40 % with 16, which keep both cores busy; 27 and 58 % while a worker takes the entries over on the
//! same cores.

mod claim;
mod held;
mod insert;
mod keeper;
mod queue;
mod settings;
mod settle;
mod state;
mod tables;

pub use queue::SharedQueue;
pub use settings::SharedQueueOptions;
pub use tables::QueueTables;
pub(crate) use tables::{Adopted, Changes, Claimed, NewEntry, Other, Seat, Wanted, lock_of};
