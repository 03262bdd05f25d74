//! The application, as its readers and writers see it.

use async_trait::async_trait;

use super::flight::Flight;

/// What the application offers. The load generator calls nothing else.
#[async_trait]
pub trait FlightService: Send + Sync {
    /// The flight with this id.
    ///
    /// # Errors
    /// Whatever stood in the way, in words.
    async fn find(&self, id: i64) -> Result<Option<Flight>, RequestError>;

    /// Adds the flight, or replaces the one with its id.
    ///
    /// # Errors
    /// Whatever stood in the way, in words. The flight may or may not have been saved.
    async fn save(&self, flight: &Flight) -> Result<(), RequestError>;

    /// Removes the flight with this id, if there is one.
    ///
    /// # Errors
    /// Whatever stood in the way, in words. The flight may or may not have been removed.
    async fn remove(&self, id: i64) -> Result<(), RequestError>;
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RequestError(pub String);
