//! Any tables move between two databases of any kind while readers and writers keep hitting them.
//!
//! All tables are one store to zdm: a key is the number of the table and the key in it. So they share one
//! queue, are copied parents before children, and hand over the primary role in one moment: no row can be
//! written on one side while its parent is still written on the other.
//!
//! | file | what it is |
//! | --- | --- |
//! | `address` | `sqlite:PATH`, `postgres://..`, `mysql://..` |
//! | `side` | what this program asks of a database; `sqlite_side`, `postgres_side`, `mysql_side` do it |
//! | `plan` | which tables move, which columns they have, what is created and what is refused |
//! | `whole` | all tables as one store |
//! | `canonical`, `spread` | rows as text that is the same whatever the database, and files of such rows |
//! | `names` | numbers for keys of any kind, so that they fit the ledger |
//! | `invent`, `pool`, `traffic` | valid rows for any table, and the load generator |
//! | `proof` | the check at the end, with SQL of its own |
//! | `run` | the order of it all |

pub mod address;
pub mod canonical;
pub mod invent;
pub mod mysql_side;
pub mod names;
pub mod plan;
pub mod pool;
pub mod postgres_side;
pub mod proof;
pub mod run;
pub mod side;
pub mod spread;
pub mod sqlite_side;
pub mod traffic;
pub mod whole;
