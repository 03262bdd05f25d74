//! Sums of ranges by the server's own hash of a row, so that two tables are compared without sending their rows.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use zdm_core::error::{Error, Kind, Result};
use zdm_core::key::KeyRange;
use zdm_core::store::{Digest, RangeDigest};

use super::TableStore;
use super::classify::classify;
use super::native::Native;
use super::scan::texts;
use super::statements::Field;
use super::wire::parse_row;
use crate::table::RowMapping;

/// The first version that has the hash with a seed.
const OLDEST: u32 = 140_000;

pub(super) fn capability<M: RowMapping>(
    store: &TableStore<M>,
) -> Option<&dyn Digest<Key = M::Key, Record = M::Record>> {
    (store.inner.db.server_version() >= OLDEST).then_some(store)
}

/// What is hashed of a column: the value itself where equal hashes mean equal records, else its text.
fn hashed(field: &Field) -> String {
    let column = format!("zdm_old.{}", field.quoted);
    match field.codec.native {
        Native::Boolean
        | Native::Integer { .. }
        | Native::Oid
        | Native::Numeric(_)
        | Native::Real { .. }
        | Native::Bytes
        | Native::Date
        | Native::Time { .. }
        | Native::Timestamp { .. }
        | Native::Jsonb
        | Native::Uuid => column,
        // By bytes: a collation may take texts as equal that are not.
        Native::Text { .. } | Native::Name => format!("{column} COLLATE \"C\""),
        // A day equals 24 hours to the server; labels have numbers of their own in each database; the others
        // have no hash.
        Native::Padded { .. }
        | Native::Interval { .. }
        | Native::Json
        | Native::Bits { .. }
        | Native::Enum { .. }
        | Native::Loose { .. }
        | Native::Other { .. } => format!("{column}::text COLLATE \"C\""),
    }
}

#[async_trait]
impl<M: RowMapping> Digest for TableStore<M> {
    fn digest_of(&self) -> String {
        let columns: Vec<_> = self
            .table()
            .fields
            .iter()
            .map(|field| format!("{} {:?}", field.column.name, field.codec.native))
            .collect();
        let major = self.inner.db.server_version() / 10_000;
        format!("PostgreSQL {major}, hash_record_extended of {}", columns.join(", "))
    }

    async fn nth_key(&self, range: &KeyRange<M::Key>, records: usize) -> Result<Option<M::Key>> {
        if range.is_empty() {
            return Ok(None);
        }
        let table = self.table();
        let sql = table.nth(texts(&self.bounds(range)?), records.saturating_sub(1));
        let (mut found, mut scratch) = (None, Vec::new());
        let mut reader = self.inner.db.reader().await?;
        self.copied(&mut reader, &sql, |row| {
            let damaged =
                |reason| Error::new(Kind::Damaged, format!("a row of table {}: {reason}", table.name()));
            if let Some(mut fields) = parse_row(row).map_err(damaged)? {
                found = Some(self.key_of(&mut fields, &mut scratch)?);
            }
            Ok(())
        })
        .await?;
        reader.release();
        Ok(found)
    }

    async fn digest(&self, range: &KeyRange<M::Key>) -> Result<RangeDigest> {
        if range.is_empty() {
            return Ok(RangeDigest::default());
        }
        let table = self.table();
        let hashed: Vec<_> = table.fields.iter().map(hashed).collect();
        let sql = table.digest(texts(&self.bounds(range)?), &hashed.join(", "));
        let mut reader = self.inner.db.reader().await?;
        let (records, xor, sum): (i64, i64, i64) = sqlx::query_as(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_one(&mut *reader)
            .await
            .map_err(|error| classify(error, &format!("summing up rows of table {}", table.name())))?;
        reader.release();
        Ok(RangeDigest {
            records: u64::try_from(records).unwrap_or_default(),
            xor: xor.cast_unsigned(),
            sum: sum.cast_unsigned(),
        })
    }
}
