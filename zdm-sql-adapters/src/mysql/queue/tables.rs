use std::time::Duration;

use async_trait::async_trait;
use sqlx::mysql::MySqlConnection;
use zdm_core::error::Result;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::queue::{Entry, EntryId, EntryState, Taint, TaintId, Touch};
use zdm_core::store::Stamp;

use super::claim;
use super::literal::{self, from_now};
use super::rows::{ENTRY, MOST_ROWS, as_new, draw, entry, get, insert, query, run};
use crate::mysql::MySql;
use crate::shared_queue::{Adopted, Changes, Claimed, NewEntry, Other, QueueTables, Seat, Wanted};

/// Ids that are drawn together.
const IDS_AT_ONCE: i64 = 10_000;

fn hex(bytes: &[u8]) -> String {
    let mut literal = String::new();
    literal::bytes(&mut literal, Some(bytes));
    literal
}

fn numbers(items: impl IntoIterator<Item = i64>) -> String {
    let mut list = String::new();
    literal::list(&mut list, items, literal::number);
    list
}

fn ids(items: &[EntryId]) -> String {
    numbers(items.iter().map(|id| id.0.cast_signed()))
}

#[async_trait]
impl QueueTables for MySql {
    fn place(&self) -> String {
        format!("the database {}", self.name())
    }

    async fn join(&self, migration: &str, instance: &str, lease: Duration) -> Result<Seat> {
        let (migration, instance) = (hex(migration.as_bytes()), hex(instance.as_bytes()));
        self.write(move |connection| {
            Box::pin(async move {
                let new = draw(connection, "seat", 2).await?;
                let sql = format!(
                    "INSERT INTO zdm_queue (id, migration) VALUES ({new}, {migration}) \
                     ON DUPLICATE KEY UPDATE migration = migration"
                );
                run(connection, sql).await?;
                let found =
                    query(connection, format!("SELECT id FROM zdm_queue WHERE migration = {migration}"))
                        .await?;
                let queue = found.first().map_or(Ok(new), |row| get(row, 0))?;
                let seat = Seat { queue, instance: new + 1 };
                let sql = format!(
                    "INSERT INTO zdm_queue_instance (id, queue, name, alive_until, dead, watching) \
                     VALUES ({}, {queue}, {instance}, {}, 0, 0)",
                    seat.instance,
                    from_now(lease)
                );
                run(connection, sql).await?;
                Ok(seat)
            })
        })
        .await
    }

    async fn renew(&self, seat: Seat, lease: Duration, watching: bool) -> Result<bool> {
        let id = seat.instance;
        let sql = format!(
            "UPDATE zdm_queue_instance SET alive_until = {}, watching = {} WHERE id = {id} AND NOT dead",
            from_now(lease),
            u8::from(watching)
        );
        // The time has moved on, so a row that matches is a row that changes.
        self.write(move |connection| Box::pin(async move { Ok(run(connection, sql).await? > 0) })).await
    }

    async fn leave(&self, seat: Seat) -> Result<()> {
        let id = seat.instance;
        let sql = format!(
            "UPDATE zdm_queue_instance SET alive_until = UTC_TIMESTAMP(6), watching = 0 WHERE id = {id}; \
             DELETE FROM zdm_queue_trace WHERE watcher = {id}"
        );
        self.write(move |connection| Box::pin(async move { run(connection, sql).await.map(drop) })).await
    }

    async fn draw_ids(&self) -> Result<(u64, u64)> {
        let first = self
            .write(|connection| Box::pin(async move { draw(connection, "entry", IDS_AT_ONCE).await }))
            .await?;
        Ok((first.cast_unsigned(), IDS_AT_ONCE.cast_unsigned()))
    }

    async fn insert(&self, seat: Seat, entries: &[NewEntry]) -> Result<()> {
        let entries = entries.to_vec();
        self.write(move |connection| {
            Box::pin(async move { insert(connection, seat.instance, &entries).await })
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
        let same_name = same_name.map(|name| hex(name.as_bytes()));
        self.write(move |connection| {
            Box::pin(async move {
                bury(connection, seat, same_name, settle_time).await?;
                adopt(connection, seat, most).await
            })
        })
        .await
    }

    async fn others(&self, seat: Seat) -> Result<Vec<Other>> {
        let Seat { queue, instance } = seat;
        let sql = format!(
            "SELECT e.owner, e.id, e.parked, 1 FROM zdm_queue_entry e WHERE e.owner = {queue} UNION ALL \
             SELECT e.owner, e.id, e.parked, i.dead OR i.alive_until < UTC_TIMESTAMP(6) \
             FROM zdm_queue_instance i JOIN zdm_queue_entry e ON e.owner = i.id \
             WHERE i.queue = {queue} AND i.id <> {instance}"
        );
        self.read(move |connection| {
            Box::pin(async move {
                let rows = query(connection, sql).await?;
                rows.iter()
                    .map(|row| {
                        Ok(Other {
                            owner: get(row, 0)?,
                            id: EntryId(get::<i64>(row, 1)?.cast_unsigned()),
                            parked: get(row, 2)?,
                            orphan: get::<i64>(row, 3)? != 0,
                        })
                    })
                    .collect()
            })
        })
        .await
    }

    async fn read(&self, rows: &[Other]) -> Result<Vec<(i64, Entry)>> {
        let mut found = Vec::with_capacity(rows.len());
        for chunk in rows.chunks(MOST_ROWS) {
            let sql = format!("SELECT {ENTRY} FROM zdm_queue_entry WHERE {}", named(chunk));
            let part: Vec<_> = MySql::read(self, move |connection| {
                Box::pin(async move {
                    query(connection, sql).await?.iter().map(entry).collect::<Result<Vec<_>>>()
                })
            })
            .await?;
            found.extend(part);
        }
        Ok(found)
    }

    async fn own(&self, seat: Seat, wanted: &[EntryId]) -> Result<Vec<EntryId>> {
        let sql = format!(
            "SELECT id FROM zdm_queue_entry WHERE owner = {} AND id IN ({})",
            seat.instance,
            ids(wanted)
        );
        MySql::read(self, move |connection| {
            Box::pin(async move {
                let rows = query(connection, sql).await?;
                rows.iter().map(|row| Ok(EntryId(get::<i64>(row, 0)?.cast_unsigned()))).collect()
            })
        })
        .await
    }

    async fn take_traces(&self, seat: Seat) -> Result<Vec<Touch>> {
        let watcher = seat.instance;
        self.write(move |connection| {
            Box::pin(async move {
                let sql =
                    format!("SELECT id, touch FROM zdm_queue_trace WHERE watcher = {watcher} FOR UPDATE");
                let rows = query(connection, sql).await?;
                if rows.is_empty() {
                    return Ok(Vec::new());
                }
                let (mut seen, mut touches) = (Vec::new(), Vec::new());
                for row in &rows {
                    seen.push(get::<i64>(row, 0)?);
                    touches.push(Touch::read_from(&get::<Vec<u8>>(row, 1)?)?);
                }
                let seen = numbers(seen);
                let sql = format!("DELETE FROM zdm_queue_trace WHERE watcher = {watcher} AND id IN ({seen})");
                run(connection, sql).await?;
                Ok(touches)
            })
        })
        .await
    }

    async fn move_to(&self, old: Seat, new: Seat, entries: &[Entry]) -> Result<()> {
        let entries: Vec<_> = entries.iter().map(as_new).collect();
        self.write(move |connection| {
            Box::pin(async move {
                let sql = format!(
                    "UPDATE zdm_queue_instance SET alive_until = UTC_TIMESTAMP(6), watching = 0 WHERE id = {}",
                    old.instance
                );
                run(connection, sql).await?;
                insert(connection, new.instance, &entries).await
            })
        })
        .await
    }

    async fn taints(&self, queue: i64) -> Result<Vec<Taint>> {
        let sql = format!(
            "SELECT id, above, up_to, since, CAST(reason AS BINARY) FROM zdm_queue_taint WHERE queue = {queue} \
             ORDER BY id"
        );
        MySql::read(self, move |connection| {
            Box::pin(async move {
                let bound = |bytes: Option<Vec<u8>>| bytes.as_deref().map(KeyBytes::from_slice);
                let rows = query(connection, sql).await?;
                rows.iter()
                    .map(|row| {
                        Ok(Taint {
                            id: TaintId(get::<i64>(row, 0)?.cast_unsigned()),
                            range: KeyRange { after: bound(get(row, 1)?), up_to: bound(get(row, 2)?) },
                            since: get::<i64>(row, 3)?.cast_unsigned(),
                            reason: String::from_utf8_lossy(&get::<Vec<u8>>(row, 4)?).into_owned(),
                        })
                    })
                    .collect()
            })
        })
        .await
    }

    async fn put_taint(&self, queue: i64, taint: &Taint) -> Result<()> {
        let mut sql = format!(
            "INSERT INTO zdm_queue_taint (queue, id, since, above, up_to, reason) VALUES ({queue}, {}, {}, ",
            taint.id.0, taint.since
        );
        for bound in [&taint.range.after, &taint.range.up_to] {
            literal::bytes(&mut sql, bound.as_ref().map(KeyBytes::as_slice));
            sql.push(',');
        }
        literal::text(&mut sql, Some(&taint.reason));
        sql.push(')');
        self.write(move |connection| Box::pin(async move { run(connection, sql).await.map(drop) })).await
    }

    async fn remove_taint(&self, queue: i64, id: TaintId) -> Result<()> {
        let sql = format!("DELETE FROM zdm_queue_taint WHERE queue = {queue} AND id = {}", id.0);
        self.write(move |connection| Box::pin(async move { run(connection, sql).await.map(drop) })).await
    }

    async fn draw_stamp(&self, _queue: i64) -> Result<Stamp> {
        let stamp =
            self.write(|connection| Box::pin(async move { draw(connection, "stamp", 1).await })).await?;
        Ok(Stamp(stamp.cast_unsigned()))
    }

    async fn raise_stamps_above(&self, _queue: i64, seen: Stamp) -> Result<()> {
        let sql = format!("UPDATE zdm_counter SET value = GREATEST(value, {}) WHERE name = 'stamp'", seen.0);
        self.write(move |connection| Box::pin(async move { run(connection, sql).await.map(drop) })).await
    }
}

/// The rows that are named, as a condition.
fn named(rows: &[Other]) -> String {
    let mut sql = String::from("(owner, id) IN (");
    literal::list(&mut sql, rows, |sql, row| {
        sql.push('(');
        literal::number(sql, row.owner);
        sql.push(',');
        literal::number(sql, row.id.0);
        sql.push(')');
    });
    sql.push(')');
    sql
}

async fn settle(connection: &mut MySqlConnection, seat: Seat, changes: &Changes) -> Result<()> {
    let Seat { queue, instance } = seat;
    for entry in &changes.rewritten {
        let mut sql = format!(
            "UPDATE zdm_queue_entry SET parked = {}, attempts = {}, last_error = ",
            u8::from(entry.state == EntryState::Parked),
            entry.attempts
        );
        literal::text(&mut sql, entry.last_error.as_deref());
        sql.push_str(&format!(" WHERE owner = {instance} AND id = {}", entry.id.0));
        run(connection, sql).await?;
    }
    for (owner, id) in &changes.unparked {
        let sql = format!(
            "UPDATE zdm_queue_entry SET owner = {queue}, parked = 0, attempts = 0 WHERE owner = {owner} \
             AND id = {} AND parked",
            id.0
        );
        run(connection, sql).await?;
    }
    for chunk in changes.removed.chunks(MOST_ROWS) {
        let which = format!("owner = {instance} AND id IN ({})", ids(chunk));
        let sql = format!(
            "INSERT INTO zdm_queue_trace (watcher, id, touch) SELECT i.id, e.id, e.touch \
             FROM zdm_queue_instance i JOIN zdm_queue_entry e WHERE i.queue = {queue} AND i.watching \
             AND NOT i.dead AND i.id <> {instance} AND e.{which} ON DUPLICATE KEY UPDATE watcher = watcher",
            which = which.replacen(" id ", " e.id ", 1)
        );
        run(connection, sql).await?;
        run(connection, format!("DELETE FROM zdm_queue_entry WHERE {which}")).await?;
    }
    // All of them first, in the order in which claims lock them, or the two could wait for each other.
    let mut freed: Vec<_> = changes.freed.iter().map(|(key, number)| (key, *number, None)).collect();
    freed.extend(changes.resting.iter().map(|(key, number, rest)| (key, *number, Some(*rest))));
    freed.sort_unstable_by(|a, b| a.0.cmp(b.0));
    for chunk in freed.chunks(MOST_ROWS) {
        let mut sql = format!(
            "SELECT locked FROM zdm_queue_key WHERE queue = {queue} AND owner = {instance} AND locked IN ("
        );
        literal::list(&mut sql, chunk, |sql, (key, ..)| literal::bytes(sql, Some(key.as_slice())));
        sql.push_str(") ORDER BY locked FOR UPDATE");
        query(connection, sql).await?;
    }
    let (done, resting): (Vec<_>, Vec<_>) = freed.into_iter().partition(|(_, _, rest)| rest.is_none());
    for chunk in done.chunks(MOST_ROWS) {
        let mut sql = format!(
            "DELETE FROM zdm_queue_key WHERE queue = {queue} AND owner = {instance} AND (locked, number) IN ("
        );
        literal::list(&mut sql, chunk, |sql, (key, number, _)| {
            sql.push('(');
            literal::bytes(sql, Some(key.as_slice()));
            sql.push(',');
            literal::number(sql, number);
            sql.push(')');
        });
        sql.push(')');
        run(connection, sql).await?;
    }
    for (key, number, rest) in resting {
        let sql = format!(
            "UPDATE zdm_queue_key SET free_at = {} WHERE queue = {queue} AND locked = {} AND owner = {instance} \
             AND number = {number}",
            from_now(rest.unwrap_or_default()),
            hex(key.as_slice())
        );
        run(connection, sql).await?;
    }
    let ranges = changes.freed_ranges.iter().map(|number| (*number, Duration::ZERO));
    for (number, rest) in ranges.chain(changes.resting_ranges.iter().copied()) {
        let which = format!("queue = {queue} AND owner = {instance} AND number = {number}");
        let sql = if rest.is_zero() {
            format!("DELETE FROM zdm_queue_range WHERE {which}")
        } else {
            format!("UPDATE zdm_queue_range SET free_at = {} WHERE {which}", from_now(rest))
        };
        run(connection, sql).await?;
    }
    Ok(())
}

/// Declares instances dead, and lets their locks rest for the settle time.
async fn bury(
    connection: &mut MySqlConnection,
    seat: Seat,
    same_name: Option<String>,
    settle_time: Duration,
) -> Result<()> {
    let Seat { queue, instance } = seat;
    let mut over = String::from("alive_until < UTC_TIMESTAMP(6)");
    if let Some(name) = same_name {
        over.push_str(&format!(" OR name = {name}"));
    }
    let sql = format!(
        "SELECT id FROM zdm_queue_instance WHERE queue = {queue} AND id <> {instance} AND NOT dead AND ({over}) \
         FOR UPDATE SKIP LOCKED"
    );
    let rows = query(connection, sql).await?;
    if !rows.is_empty() {
        let dead = numbers(rows.iter().map(|row| get(row, 0)).collect::<Result<Vec<i64>>>()?);
        let free_at = from_now(settle_time);
        for sql in [
            format!("UPDATE zdm_queue_instance SET dead = 1, watching = 0 WHERE id IN ({dead})"),
            // A lock that rests longer already goes on resting.
            format!(
                "UPDATE zdm_queue_key SET owner = 0, free_at = GREATEST(COALESCE(free_at, {free_at}), {free_at}) \
                 WHERE queue = {queue} AND owner IN ({dead})"
            ),
            format!(
                "UPDATE zdm_queue_range SET free_at = GREATEST(COALESCE(free_at, {free_at}), {free_at}) \
                 WHERE queue = {queue} AND owner IN ({dead})"
            ),
            format!("DELETE FROM zdm_queue_trace WHERE watcher IN ({dead})"),
        ] {
            run(connection, sql).await?;
        }
    }
    // Nobody writes under the number of an instance that has been dead for a day.
    let sql = format!(
        "DELETE FROM zdm_queue_instance WHERE queue = {queue} AND dead AND \
         alive_until < UTC_TIMESTAMP(6) - INTERVAL 1 DAY AND NOT EXISTS \
         (SELECT 1 FROM zdm_queue_entry e WHERE e.owner = zdm_queue_instance.id); \
         DELETE FROM zdm_queue_range WHERE queue = {queue} AND free_at < UTC_TIMESTAMP(6)"
    );
    run(connection, sql).await?;
    Ok(())
}

/// Takes entries that have no owner, or a dead one.
async fn adopt(connection: &mut MySqlConnection, seat: Seat, most: usize) -> Result<Vec<Adopted>> {
    let Seat { queue, instance } = seat;
    let rows = query(
        connection,
        format!("SELECT id FROM zdm_queue_instance WHERE queue = {queue} AND dead AND id <> {instance}"),
    )
    .await?;
    let mut owners = vec![queue];
    for row in &rows {
        owners.push(get(row, 0)?);
    }
    let sql = format!(
        "SELECT {ENTRY} FROM zdm_queue_entry WHERE owner IN ({}) ORDER BY owner, id LIMIT {most} \
         FOR UPDATE SKIP LOCKED",
        numbers(owners)
    );
    let rows = query(connection, sql).await?;
    let found: Vec<(i64, Entry)> = rows.iter().map(entry).collect::<Result<_>>()?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut known = std::collections::HashSet::new();
    let sql = format!(
        "SELECT id FROM zdm_queue_entry WHERE owner = {instance} AND id IN ({})",
        numbers(found.iter().map(|(_, entry)| entry.id.0.cast_signed()))
    );
    for row in query(connection, sql).await? {
        known.insert(EntryId(get::<i64>(&row, 0)?.cast_unsigned()));
    }
    // Ids of captured rows are made up by the server, and follow no order.
    let renumbered = |owner: i64, entry: &Entry, known: &mut std::collections::HashSet<EntryId>| {
        owner == queue || !known.insert(entry.id)
    };
    let mut adopted = Vec::with_capacity(found.len());
    let mut new = Vec::new();
    for (owner, entry) in &found {
        new.push(renumbered(*owner, entry, &mut known));
    }
    let count = i64::try_from(new.iter().filter(|new| **new).count()).unwrap_or(i64::MAX);
    let mut next = if count > 0 { draw(connection, "entry", count).await? } else { 0 };
    let gone: Vec<Other> = found
        .iter()
        .map(|(owner, entry)| Other { owner: *owner, id: entry.id, parked: false, orphan: true })
        .collect();
    for ((owner, mut entry), new) in found.into_iter().zip(new) {
        let was = entry.id;
        if new {
            entry.id = EntryId(next.cast_unsigned());
            next += 1;
        }
        adopted.push(Adopted { entry, captured: owner == queue, was });
    }
    let rows: Vec<NewEntry> = adopted.iter().map(|adopted| as_new(&adopted.entry)).collect();
    for chunk in gone.chunks(MOST_ROWS) {
        run(connection, format!("DELETE FROM zdm_queue_entry WHERE {}", named(chunk))).await?;
    }
    insert(connection, instance, &rows).await?;
    Ok(adopted)
}
