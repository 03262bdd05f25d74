//! The sequences that count the keys of a table, for the handover.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use zdm_core::error::Result;

use super::Postgres;
use super::classify::classify;
use super::shape::{Shape, invalid, quoted};

/// A column that a sequence counts.
struct Counted {
    column: String,
    /// The sequence as SQL text.
    sequence: String,
    upwards: bool,
    greatest: i64,
}

impl Postgres {
    /// Lets the sequences of a table count on above `past` and above every value there is: after a handover,
    /// above the last value that the old side gave out. Call it while no writer draws from them. Returns
    /// each counted column with the next value; none when no sequence counts.
    ///
    /// Counted is an identity, `serial`, and every column whose default draws from a sequence.
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table, or naming a sequence that has no room above or counts
    /// downwards; else whatever the server says. Then none of them has moved.
    ///
    /// # Cancel safety
    /// As [`write`](Self::write): the sequences of the table may have moved, which does no harm.
    pub async fn advance_sequences(&self, table: &str, past: u64) -> Result<Vec<(String, u64)>> {
        let shape = self.shape(table).await?;
        let name = table.to_owned();
        self.write(move |connection| {
            Box::pin(async move {
                let counted = counted(connection, &shape).await?;
                let mut wanted = Vec::with_capacity(counted.len());
                for own in &counted {
                    let last = last(connection, &shape, own).await?.max(past);
                    let next = last.checked_add(1).filter(|next| i64::try_from(*next).is_ok_and(|next| next <= own.greatest));
                    match next {
                        Some(next) if own.upwards => wanted.push(next),
                        Some(_) => {
                            let message = format!(
                                "the sequence {} of column {} of table {name} counts downwards; set it by hand",
                                own.sequence, own.column
                            );
                            return Err(invalid(message));
                        }
                        None => {
                            let message = format!(
                                "the sequence {} of column {} of table {name} ends at {}, which leaves no room above \
                                 {last}; ALTER the column and the sequence to bigint",
                                own.sequence, own.column, own.greatest
                            );
                            return Err(invalid(message));
                        }
                    }
                }
                for (own, next) in counted.iter().zip(&wanted) {
                    sqlx::query("SELECT setval($1::text::regclass, $2, false)")
                        .bind(&own.sequence)
                        .bind(i64::try_from(*next).unwrap_or(i64::MAX))
                        .execute(&mut *connection)
                        .await
                        .map_err(|error| classify(error, &format!("setting the sequence {}", own.sequence)))?;
                }
                Ok(counted.into_iter().map(|own| own.column).zip(wanted).collect())
            })
        })
        .await
    }

    /// The greatest value that the sequences of a table have given out, or that stands in a column that they
    /// count. `None` when no sequence counts.
    ///
    /// # Errors
    /// `Kind::Invalid` when there is no such table; else whatever the server says.
    pub async fn last_sequence_value(&self, table: &str) -> Result<Option<u64>> {
        let shape = self.shape(table).await?;
        let mut reader = self.reader().await?;
        let mut greatest = None;
        for own in counted(&mut reader, &shape).await? {
            greatest = greatest.max(Some(last(&mut reader, &shape, &own).await?));
        }
        reader.release();
        Ok(greatest)
    }
}

async fn counted(connection: &mut PgConnection, shape: &Shape) -> Result<Vec<Counted>> {
    let rows: Vec<(String, String, bool, i64)> = sqlx::query_as(
        "SELECT a.attname::text, quote_ident(n.nspname) || '.' || quote_ident(c.relname), s.seqincrement > 0, s.seqmax \
         FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         JOIN pg_depend own ON own.refclassid = 'pg_class'::regclass AND own.refobjid = a.attrelid \
         AND own.refobjsubid = a.attnum AND own.classid = 'pg_class'::regclass AND own.deptype = 'i' \
         OR own.classid = 'pg_attrdef'::regclass AND own.objid = d.oid AND own.refclassid = 'pg_class'::regclass \
         JOIN pg_class c ON c.relkind = 'S' AND c.oid = \
         CASE WHEN own.classid = 'pg_class'::regclass THEN own.objid ELSE own.refobjid END \
         JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid \
         WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0 ORDER BY a.attnum",
    )
    .bind(shape.oid)
    .fetch_all(connection)
    .await
    .map_err(|error| classify(error, &format!("looking for the sequences of table {}", shape.shown)))?;
    Ok(rows
        .into_iter()
        .map(|(column, sequence, upwards, greatest)| Counted { column, sequence, upwards, greatest })
        .collect())
}

/// The greatest value that was given out or is there.
async fn last(connection: &mut PgConnection, shape: &Shape, own: &Counted) -> Result<u64> {
    let sql = format!(
        "SELECT greatest((SELECT max({0})::bigint FROM {1}), \
         (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {2}), 0)",
        quoted(&own.column),
        shape.quoted(),
        own.sequence
    );
    let last: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await.map_err(|error| {
        classify(error, &format!("looking for the greatest key of table {}", shape.shown))
    })?;
    Ok(u64::try_from(last).unwrap_or_default())
}
