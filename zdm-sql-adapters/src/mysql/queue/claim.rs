use std::collections::HashSet;

use sqlx::mysql::MySqlConnection;
use zdm_core::error::Result;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::Stamp;

use super::literal;
use super::rows::{draw, get, query, run};
use crate::shared_queue::{Claimed, Seat, Wanted, lock_of};

/// Locks of others that are not free by now.
const TAKEN: &str = "(free_at IS NULL OR free_at > UTC_TIMESTAMP(6))";

pub(super) async fn claim(
    connection: &mut MySqlConnection,
    seat: Seat,
    wanted: &Wanted,
) -> Result<Option<Claimed>> {
    let Seat { queue, instance } = seat;
    // Whoever declares this instance dead waits until these locks are there to be seen.
    let alive =
        format!("SELECT id FROM zdm_queue_instance WHERE id = {instance} AND NOT dead LOCK IN SHARE MODE");
    if query(connection, alive).await?.is_empty() {
        return Ok(None);
    }
    // Keys are locked beside each other; while a range is looked at, no key is.
    let mode = if wanted.ranges.is_empty() { "LOCK IN SHARE MODE" } else { "FOR UPDATE" };
    query(connection, format!("SELECT id FROM zdm_queue WHERE id = {queue} {mode}")).await?;
    let mut ranges = Vec::new();
    for (range, number) in &wanted.ranges {
        if take_range(connection, seat, range, *number).await? {
            ranges.push(*number);
        }
    }
    let keys = take_keys(connection, seat, wanted).await?;
    let stamp = Stamp(draw(connection, "stamp", 1).await?.cast_unsigned());
    Ok(Some(Claimed { keys, ranges, stamp }))
}

async fn take_keys(connection: &mut MySqlConnection, seat: Seat, wanted: &Wanted) -> Result<Vec<KeyBytes>> {
    let Seat { queue, instance } = seat;
    let number = wanted.number;
    let sql = format!(
        "SELECT above, up_to FROM zdm_queue_range WHERE queue = {queue} AND owner <> {instance} AND {TAKEN}"
    );
    let mut taken = Vec::new();
    for row in query(connection, sql).await? {
        taken.push((get::<Option<Vec<u8>>>(&row, 0)?, get::<Option<Vec<u8>>>(&row, 1)?));
    }
    let inside = |key: &KeyBytes| {
        taken.iter().any(|(above, up_to)| {
            above.as_ref().is_none_or(|above| above.as_slice() <= key.as_slice())
                && up_to.as_ref().is_none_or(|up_to| key.as_slice() <= up_to.as_slice())
        })
    };
    let free: Vec<&KeyBytes> = wanted.keys.iter().filter(|key| !inside(key)).collect();
    if free.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = String::from("INSERT INTO zdm_queue_key (queue, locked, owner, number, free_at) VALUES ");
    literal::list(&mut sql, &free, |sql, key| {
        sql.push('(');
        literal::number(sql, queue);
        sql.push(',');
        literal::bytes(sql, Some(key.as_slice()));
        sql.push(',');
        literal::number(sql, instance);
        sql.push(',');
        literal::number(sql, number);
        sql.push_str(",NULL)");
    });
    // Assigned from left to right: the owner is this instance afterwards, or still another one.
    sql.push_str(&format!(
        " ON DUPLICATE KEY UPDATE \
         owner = IF(owner = {instance} OR free_at <= UTC_TIMESTAMP(6), {instance}, owner), \
         number = IF(owner = {instance}, {number}, number), \
         free_at = IF(owner = {instance}, NULL, free_at)"
    ));
    run(connection, sql).await?;
    let mut sql = format!(
        "SELECT locked FROM zdm_queue_key WHERE queue = {queue} AND owner = {instance} AND number = {number} \
         AND locked IN ("
    );
    literal::list(&mut sql, &free, |sql, key| literal::bytes(sql, Some(key.as_slice())));
    sql.push(')');
    let mut got = HashSet::new();
    for row in query(connection, sql).await? {
        got.insert(KeyBytes::from_slice(&get::<Vec<u8>>(&row, 0)?));
    }
    Ok(free.into_iter().filter(|key| got.contains(*key)).cloned().collect())
}

/// Locks a range, or reserves it when only keys stand in the way. Nobody else locks anything meanwhile.
async fn take_range(
    connection: &mut MySqlConnection,
    seat: Seat,
    range: &KeyRange,
    number: i64,
) -> Result<bool> {
    let Seat { queue, instance } = seat;
    let bound = |key: &Option<KeyBytes>| {
        let mut literal = String::new();
        literal::bytes(&mut literal, key.as_ref().map(lock_of).as_ref().map(KeyBytes::as_slice));
        literal
    };
    let (above, up_to) = (bound(&range.after), bound(&range.up_to));
    // Its own earlier lock or reservation of the same range.
    let sql = format!(
        "DELETE FROM zdm_queue_range WHERE queue = {queue} AND owner = {instance} AND above <=> {above} AND \
         up_to <=> {up_to}"
    );
    run(connection, sql).await?;
    let sql = format!(
        "SELECT 1 FROM zdm_queue_range WHERE queue = {queue} AND owner <> {instance} AND {TAKEN} \
         AND (above IS NULL OR {up_to} IS NULL OR above <= {up_to}) \
         AND (up_to IS NULL OR {above} IS NULL OR {above} <= up_to) LIMIT 1"
    );
    if !query(connection, sql).await?.is_empty() {
        return Ok(false);
    }
    let sql = format!(
        "INSERT INTO zdm_queue_range (queue, owner, number, above, up_to, free_at) \
         VALUES ({queue}, {instance}, {number}, {above}, {up_to}, NULL)"
    );
    run(connection, sql).await?;
    let sql = format!(
        "SELECT 1 FROM zdm_queue_key WHERE queue = {queue} AND owner <> {instance} AND {TAKEN} \
         AND ({above} IS NULL OR {above} <= locked) AND ({up_to} IS NULL OR locked <= {up_to}) LIMIT 1"
    );
    Ok(query(connection, sql).await?.is_empty())
}
