use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use zdm_core::error::Result;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{Entry, EntryId, EntryState, Taint, TaintId, Touch};
use zdm_core::store::Stamp;

use super::claim::{self, ALIVE, draw_stamp};
use super::rows::{Columns, ENTRY, as_new, entry, failed, get, insert, micros, signed, storable};
use crate::postgres::Postgres;
use crate::shared_queue::{Adopted, Changes, Claimed, NewEntry, Other, QueueTables, Seat, Wanted};

/// Ids that the sequence gives out together.
const IDS_AT_ONCE: u64 = 10_000;

#[async_trait]
impl QueueTables for Postgres {
    fn place(&self) -> String {
        format!("the database {}", self.name())
    }

    async fn join(&self, migration: &str, instance: &str, lease: Duration) -> Result<Seat> {
        let (migration, instance) = (storable(migration), storable(instance));
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO zdm_queue (id, migration, stamps_above) \
                     VALUES (nextval('zdm_queue_seat'), $1, 0) ON CONFLICT (migration) DO NOTHING",
                )
                .bind(&migration)
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
                let (queue, instance): (i64, i64) = sqlx::query_as(
                    "INSERT INTO zdm_queue_instance (id, queue, name, alive_until, dead, watching) \
                     SELECT nextval('zdm_queue_seat'), id, $2, clock_timestamp() + $3 * interval '1 microsecond', \
                     false, false FROM zdm_queue WHERE migration = $1 RETURNING queue, id",
                )
                .bind(migration)
                .bind(instance)
                .bind(micros(lease))
                .fetch_one(connection)
                .await
                .map_err(failed)?;
                Ok(Seat { queue, instance })
            })
        })
        .await
    }

    async fn renew(&self, seat: Seat, lease: Duration, watching: bool) -> Result<bool> {
        self.write(move |connection| {
            Box::pin(async move {
                let renewed = sqlx::query(
                    "UPDATE zdm_queue_instance SET watching = $3, \
                     alive_until = clock_timestamp() + $2 * interval '1 microsecond' WHERE id = $1 AND NOT dead",
                )
                .bind(seat.instance)
                .bind(micros(lease))
                .bind(watching)
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(renewed.rows_affected() > 0)
            })
        })
        .await
    }

    async fn leave(&self, seat: Seat) -> Result<()> {
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM zdm_queue_trace WHERE watcher = $1")
                    .bind(seat.instance)
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
                end_lease(connection, seat).await
            })
        })
        .await
    }

    async fn draw_ids(&self) -> Result<(u64, u64)> {
        let first: i64 = self
            .write(|connection| {
                Box::pin(async move {
                    sqlx::query_scalar("SELECT nextval('zdm_queue_entry_id')")
                        .fetch_one(connection)
                        .await
                        .map_err(failed)
                })
            })
            .await?;
        Ok((first.cast_unsigned(), IDS_AT_ONCE))
    }

    async fn insert(&self, seat: Seat, entries: &[NewEntry]) -> Result<()> {
        let columns = Arc::new(Columns::of(entries));
        self.statement(move |connection, again| {
            let columns = Arc::clone(&columns);
            Box::pin(async move { columns.insert(connection, seat.instance, again).await })
        })
        .await
    }

    async fn settle(&self, seat: Seat, changes: &Changes) -> Result<()> {
        let changes = changes.clone();
        self.write(move |connection| Box::pin(async move { settle(connection, seat, &changes).await })).await
    }

    async fn claim(&self, seat: Seat, wanted: &Wanted) -> Result<Option<Claimed>> {
        let wanted = wanted.clone();
        self.write(move |connection| Box::pin(async move { claim::claim(connection, seat, &wanted).await }))
            .await
    }

    async fn adopt(
        &self,
        seat: Seat,
        same_name: Option<&str>,
        settle_time: Duration,
        most: usize,
    ) -> Result<Vec<Adopted>> {
        let same_name = same_name.map(storable);
        self.write(move |connection| {
            Box::pin(async move {
                bury(connection, seat, same_name, settle_time).await?;
                adopt(connection, seat, most).await
            })
        })
        .await
    }

    async fn others(&self, seat: Seat) -> Result<Vec<Other>> {
        Postgres::read(self, move |connection| {
            Box::pin(async move {
                let rows: Vec<(i64, i64, bool, bool)> = sqlx::query_as(
                    "SELECT owner, id, parked, true FROM zdm_queue_entry WHERE owner = $1 UNION ALL \
                     SELECT e.owner, e.id, e.parked, i.dead OR i.alive_until < clock_timestamp() \
                     FROM zdm_queue_instance i JOIN zdm_queue_entry e ON e.owner = i.id \
                     WHERE i.queue = $1 AND i.id <> $2",
                )
                .bind(seat.queue)
                .bind(seat.instance)
                .fetch_all(connection)
                .await
                .map_err(failed)?;
                let other = |(owner, id, parked, orphan): (i64, i64, bool, bool)| Other {
                    owner,
                    id: EntryId(id.cast_unsigned()),
                    parked,
                    orphan,
                };
                Ok(rows.into_iter().map(other).collect())
            })
        })
        .await
    }

    async fn read(&self, rows: &[Other]) -> Result<Vec<(i64, Entry)>> {
        let owners: Vec<i64> = rows.iter().map(|row| row.owner).collect();
        let ids = signed(rows.iter().map(|row| row.id));
        Postgres::read(self, move |connection| {
            Box::pin(async move {
                let sql = format!(
                    "SELECT {ENTRY} FROM zdm_queue_entry WHERE (owner, id) IN \
                     (SELECT * FROM unnest($1::bigint[], $2::bigint[]))"
                );
                let query = sqlx::query(AssertSqlSafe(sql)).bind(owners).bind(ids);
                query.fetch_all(connection).await.map_err(failed)?.iter().map(entry).collect()
            })
        })
        .await
    }

    async fn own(&self, seat: Seat, wanted: &[EntryId]) -> Result<Vec<EntryId>> {
        let wanted = signed(wanted.iter().copied());
        Postgres::read(self, move |connection| {
            Box::pin(async move {
                let found: Vec<i64> =
                    sqlx::query_scalar("SELECT id FROM zdm_queue_entry WHERE owner = $1 AND id = ANY($2)")
                        .bind(seat.instance)
                        .bind(wanted)
                        .fetch_all(connection)
                        .await
                        .map_err(failed)?;
                Ok(found.into_iter().map(|id| EntryId(id.cast_unsigned())).collect())
            })
        })
        .await
    }

    async fn take_traces(&self, seat: Seat) -> Result<Vec<Touch>> {
        self.write(move |connection| {
            Box::pin(async move {
                let touches: Vec<Vec<u8>> =
                    sqlx::query_scalar("DELETE FROM zdm_queue_trace WHERE watcher = $1 RETURNING touch")
                        .bind(seat.instance)
                        .fetch_all(connection)
                        .await
                        .map_err(failed)?;
                touches.iter().map(|touch| Touch::read_from(touch)).collect()
            })
        })
        .await
    }

    async fn move_to(&self, old: Seat, new: Seat, entries: &[Entry]) -> Result<()> {
        let entries: Vec<_> = entries.iter().map(as_new).collect();
        self.write(move |connection| {
            Box::pin(async move {
                end_lease(connection, old).await?;
                insert(connection, new.instance, &entries).await
            })
        })
        .await
    }

    async fn taints(&self, queue: i64) -> Result<Vec<Taint>> {
        Postgres::read(self, move |connection| {
            Box::pin(async move {
                let rows = sqlx::query(
                    "SELECT id, above, up_to, since, reason FROM zdm_queue_taint WHERE queue = $1 ORDER BY id",
                )
                .bind(queue)
                .fetch_all(connection)
                .await
                .map_err(failed)?;
                let bound = |bytes: Option<&[u8]>| bytes.map(KeyBytes::from_slice);
                rows.iter()
                    .map(|row| {
                        Ok(Taint {
                            id: TaintId(get::<i64>(row, 0)?.cast_unsigned()),
                            range: KeyRange { after: bound(get(row, 1)?), up_to: bound(get(row, 2)?) },
                            since: get::<i64>(row, 3)?.cast_unsigned(),
                            reason: get(row, 4)?,
                        })
                    })
                    .collect()
            })
        })
        .await
    }

    async fn put_taint(&self, queue: i64, taint: &Taint) -> Result<()> {
        let taint = taint.clone();
        self.write(move |connection| {
            Box::pin(async move {
                let bound = |key: &Option<KeyBytes>| key.as_ref().map(|key| key.as_slice().to_vec());
                sqlx::query(
                    "INSERT INTO zdm_queue_taint (queue, id, above, up_to, since, reason) \
                     VALUES ($1, $2, $3, $4, $5, $6)",
                )
                .bind(queue)
                .bind(taint.id.0.cast_signed())
                .bind(bound(&taint.range.after))
                .bind(bound(&taint.range.up_to))
                .bind(taint.since.cast_signed())
                .bind(storable(&taint.reason))
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(())
            })
        })
        .await
    }

    async fn remove_taint(&self, queue: i64, id: TaintId) -> Result<()> {
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM zdm_queue_taint WHERE queue = $1 AND id = $2")
                    .bind(queue)
                    .bind(id.0.cast_signed())
                    .execute(connection)
                    .await
                    .map_err(failed)?;
                Ok(())
            })
        })
        .await
    }

    async fn draw_stamp(&self, queue: i64) -> Result<Stamp> {
        self.write(move |connection| Box::pin(async move { draw_stamp(connection, queue).await })).await
    }

    async fn raise_stamps_above(&self, queue: i64, seen: Stamp) -> Result<()> {
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE zdm_queue SET stamps_above = greatest(stamps_above, $2) WHERE id = $1")
                    .bind(queue)
                    .bind(seen.0.cast_signed())
                    .execute(connection)
                    .await
                    .map_err(failed)?;
                Ok(())
            })
        })
        .await
    }
}

async fn end_lease(connection: &mut PgConnection, seat: Seat) -> Result<()> {
    sqlx::query(
        "UPDATE zdm_queue_instance SET alive_until = clock_timestamp(), watching = false WHERE id = $1",
    )
    .bind(seat.instance)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

async fn settle(connection: &mut PgConnection, seat: Seat, changes: &Changes) -> Result<()> {
    for entry in &changes.rewritten {
        sqlx::query(
            "UPDATE zdm_queue_entry SET parked = $3, attempts = $4, last_error = $5 WHERE owner = $1 AND id = $2",
        )
        .bind(seat.instance)
        .bind(entry.id.0.cast_signed())
        .bind(entry.state == EntryState::Parked)
        .bind(i32::try_from(entry.attempts).unwrap_or(i32::MAX))
        .bind(entry.last_error.as_deref().map(storable))
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    if !changes.unparked.is_empty() {
        sqlx::query(
            "UPDATE zdm_queue_entry SET owner = $1, parked = false, attempts = 0 WHERE parked AND (owner, id) IN \
             (SELECT * FROM unnest($2::bigint[], $3::bigint[]))",
        )
        .bind(seat.queue)
        .bind(changes.unparked.iter().map(|(owner, _)| *owner).collect::<Vec<_>>())
        .bind(signed(changes.unparked.iter().map(|(_, id)| *id)))
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    if !changes.removed.is_empty() {
        sqlx::query(
            "WITH gone AS (DELETE FROM zdm_queue_entry WHERE owner = $2 AND id = ANY($3) RETURNING id, touch) \
             INSERT INTO zdm_queue_trace (watcher, id, touch) SELECT i.id, gone.id, gone.touch \
             FROM zdm_queue_instance i, gone WHERE i.queue = $1 AND i.watching AND NOT i.dead AND i.id <> $2 \
             ON CONFLICT DO NOTHING",
        )
        .bind(seat.queue)
        .bind(seat.instance)
        .bind(signed(changes.removed.iter().copied()))
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    if !changes.freed.is_empty() || !changes.resting.is_empty() {
        // All of them first, in the order in which claims lock them, or the two could wait for each other.
        let freed = changes.freed.iter().map(|(key, _)| key.as_slice());
        let resting = changes.resting.iter().map(|(key, ..)| key.as_slice());
        sqlx::query(
            "SELECT count(*) FROM (SELECT 1 FROM zdm_queue_key \
             WHERE queue = $1 AND owner = $2 AND locked = ANY($3) ORDER BY locked FOR UPDATE) held",
        )
        .bind(seat.queue)
        .bind(seat.instance)
        .bind(freed.chain(resting).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    if !changes.freed.is_empty() {
        sqlx::query(
            "DELETE FROM zdm_queue_key held USING unnest($3::bytea[], $4::bigint[]) AS freed (locked, number) \
             WHERE held.queue = $1 AND held.owner = $2 AND held.locked = freed.locked \
             AND held.number = freed.number",
        )
        .bind(seat.queue)
        .bind(seat.instance)
        .bind(changes.freed.iter().map(|(key, _)| key.as_slice()).collect::<Vec<_>>())
        .bind(changes.freed.iter().map(|(_, number)| *number).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    for (key, number, rest) in &changes.resting {
        sqlx::query(
            "UPDATE zdm_queue_key SET free_at = clock_timestamp() + $5 * interval '1 microsecond' \
             WHERE queue = $1 AND owner = $2 AND locked = $3 AND number = $4",
        )
        .bind(seat.queue)
        .bind(seat.instance)
        .bind(key.as_slice())
        .bind(number)
        .bind(micros(*rest))
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    if !changes.freed_ranges.is_empty() {
        sqlx::query("DELETE FROM zdm_queue_range WHERE queue = $1 AND owner = $2 AND number = ANY($3)")
            .bind(seat.queue)
            .bind(seat.instance)
            .bind(&changes.freed_ranges)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    for (number, rest) in &changes.resting_ranges {
        sqlx::query(
            "UPDATE zdm_queue_range SET free_at = clock_timestamp() + $4 * interval '1 microsecond' \
             WHERE queue = $1 AND owner = $2 AND number = $3",
        )
        .bind(seat.queue)
        .bind(seat.instance)
        .bind(number)
        .bind(micros(*rest))
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    Ok(())
}

/// Declares instances dead, and lets their locks rest for the settle time.
async fn bury(
    connection: &mut PgConnection,
    seat: Seat,
    same_name: Option<String>,
    settle_time: Duration,
) -> Result<()> {
    // One that is locking something at this moment is looked at again the next time.
    let sql = format!(
        "UPDATE zdm_queue_instance SET dead = true, watching = false WHERE id IN \
         (SELECT id FROM (SELECT id FROM zdm_queue_instance WHERE queue = $1 AND id <> $2 AND NOT dead \
         AND (alive_until < clock_timestamp() OR name = $3) FOR UPDATE SKIP LOCKED) over \
         WHERE pg_try_advisory_xact_lock({ALIVE}, hashint8(id))) RETURNING id"
    );
    let dead: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(seat.queue)
        .bind(seat.instance)
        .bind(same_name)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    if !dead.is_empty() {
        // A lock that rests longer already goes on resting.
        for sql in [
            "UPDATE zdm_queue_key SET owner = 0, \
             free_at = greatest(free_at, clock_timestamp() + $2 * interval '1 microsecond') \
             WHERE queue = $1 AND owner = ANY($3)",
            "UPDATE zdm_queue_range SET \
             free_at = greatest(free_at, clock_timestamp() + $2 * interval '1 microsecond') \
             WHERE queue = $1 AND owner = ANY($3)",
        ] {
            sqlx::query(sql)
                .bind(seat.queue)
                .bind(micros(settle_time))
                .bind(&dead)
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
        }
        sqlx::query("DELETE FROM zdm_queue_trace WHERE watcher = ANY($1)")
            .bind(dead)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    // Nobody writes under the number of an instance that has been dead for a day.
    sqlx::query(
        "WITH forgotten AS (DELETE FROM zdm_queue_instance i WHERE queue = $1 AND dead \
         AND alive_until < clock_timestamp() - interval '1 day' \
         AND NOT EXISTS (SELECT 1 FROM zdm_queue_entry e WHERE e.owner = i.id)) \
         DELETE FROM zdm_queue_range WHERE queue = $1 AND free_at < clock_timestamp()",
    )
    .bind(seat.queue)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Takes entries that have no owner, or a dead one.
async fn adopt(connection: &mut PgConnection, seat: Seat, most: usize) -> Result<Vec<Adopted>> {
    let Seat { queue, instance } = seat;
    let columns = ENTRY.replace(", ", ", e.");
    let sql = format!(
        "DELETE FROM zdm_queue_entry e USING (SELECT owner, id FROM zdm_queue_entry WHERE owner = $1 OR owner IN \
         (SELECT i.id FROM zdm_queue_instance i WHERE i.queue = $1 AND i.dead AND i.id <> $2) \
         LIMIT $3 FOR UPDATE SKIP LOCKED) free \
         WHERE e.owner = free.owner AND e.id = free.id RETURNING e.{columns}"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(queue)
        .bind(instance)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut found: Vec<(i64, Entry)> = rows.iter().map(entry).collect::<Result<_>>()?;
    found.sort_by_key(|(_, entry)| entry.id);
    let known: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM zdm_queue_entry WHERE owner = $1 AND id = ANY($2)")
            .bind(instance)
            .bind(signed(found.iter().map(|(_, entry)| entry.id)))
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
    let mut known: HashSet<EntryId> = known.into_iter().map(|id| EntryId(id.cast_unsigned())).collect();
    let mut adopted = Vec::with_capacity(found.len());
    for (owner, mut entry) in found {
        let was = entry.id;
        if !known.insert(was) {
            // This instance has an entry of that id, recorded anew after it was counted as dead.
            let id: i64 = sqlx::query_scalar("SELECT nextval('zdm_queue_entry_id')")
                .fetch_one(&mut *connection)
                .await
                .map_err(failed)?;
            entry.id = EntryId(id.cast_unsigned());
        }
        adopted.push(Adopted { entry, captured: owner == queue, was });
    }
    let rows: Vec<NewEntry> = adopted.iter().map(|adopted| as_new(&adopted.entry)).collect();
    insert(connection, instance, &rows).await?;
    Ok(adopted)
}
