//! A live database moves while readers and writers keep hitting it: SQLite flights to another schema in
//! another file, or the tables of any database to another one.
//!
//! | file | what it is |
//! | --- | --- |
//! | `flight` | the domain record that both databases hold |
//! | `dataset`, `load` | the real flights, and the way they get into the old database |
//! | `old_schema`, `new_schema` | the tables, and how a flight becomes a row of each |
//! | `service` | the application: what readers and writers call |
//! | `flights`, `migration`, `outage` | everything that touches zdm |
//! | `traffic`, `ledger`, `history`, `latency` | the load generator and its durable record of what was acknowledged |
//! | `checker` | the proof at the end. It uses neither zdm nor the row mappings of this program |
//! | `tables` | the same for the tables of any two databases |
//! | `files` | the directory, its lock, and what a killed run left |
//! | `options`, `display`, `report`, `program` | the command line, the progress bar, the last words, and the order of it all |

pub mod checker;
mod clock_time;
mod dataset;
pub mod display;
pub mod files;
pub mod flight;
pub mod flights;
pub mod history;
pub mod latency;
pub mod ledger;
pub mod load;
pub mod migration;
pub mod new_schema;
pub mod old_schema;
pub mod options;
pub mod outage;
pub mod program;
pub mod report;
pub mod service;
pub mod tables;
pub mod traffic;

/// Where the flights of 2013 come from, line by line.
pub use dataset::{FLIGHTS_IN_2013, lines};

/// The result of everything that can end the program early.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why the program cannot go on: what failed, where, and what the system said.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    what: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// A failure with nothing beneath it.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }
}

/// Adds what was being done to an error of any type.
pub trait Doing<T> {
    /// Turns the error into a [`Failure`] that says what was being done.
    ///
    /// # Errors
    /// The same error, with the words.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure { what: what(), source: Some(error.into()) })
    }
}
