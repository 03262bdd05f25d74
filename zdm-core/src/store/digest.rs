use async_trait::async_trait;

use super::Store;
use crate::error::Result;
use crate::key::KeyRange;

/// The sum of the records of a range. Equal sums mean equal records, up to the chance of a hash of 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeDigest {
    /// How many records there are.
    pub records: u64,
    /// The hashes of all records, combined by exclusive or.
    pub xor: u64,
    /// The hashes of all records, added up and cut to 64 bits. Two equal records, which vanish in the other
    /// sum, show here.
    pub sum: u64,
}

impl RangeDigest {
    /// Adds a record by its hash.
    pub const fn add(&mut self, hash: u64) {
        self.records += 1;
        self.xor ^= hash;
        self.sum = self.sum.wrapping_add(hash);
    }
}

/// A store that sums up a range where the records are, so that two sides can be compared without sending them.
#[async_trait]
pub trait Digest: Store {
    /// What the sums are made of: the engine, its version, the columns and their types. Two stores that say
    /// the same have equal sums for equal records; those that say something else cannot be compared so.
    fn digest_of(&self) -> String;

    /// The key of the record at the place `records`, counted from 1, in the range; `None` when it holds fewer.
    ///
    /// # Errors
    /// Whatever the store says.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn nth_key(&self, range: &KeyRange<Self::Key>, records: usize) -> Result<Option<Self::Key>>;

    /// The sum of the records of a range. An authoritative read, like [`Store::get`].
    ///
    /// # Errors
    /// Whatever the store says.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn digest(&self, range: &KeyRange<Self::Key>) -> Result<RangeDigest>;
}
