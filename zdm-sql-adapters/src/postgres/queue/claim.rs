use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use zdm_core::error::Result;
use zdm_core::key::{KeyBytes, KeyRange};
use zdm_core::store::Stamp;

use super::rows::failed;
use crate::shared_queue::{Claimed, Seat, Wanted, lock_of};

/// The classes of advisory locks: of a queue, held shared to lock keys and alone to lock ranges; and of an
/// instance, held shared while it locks and alone by whoever declares it dead.
const GATE: i32 = 7_201_953;
pub(super) const ALIVE: i32 = 7_201_954;

pub(super) async fn claim(
    connection: &mut PgConnection,
    seat: Seat,
    wanted: &Wanted,
) -> Result<Option<Claimed>> {
    // Keys are locked beside each other; while a range is looked at, no key is. And whoever declares this
    // instance dead waits until these locks are there to be seen. In a statement of its own, so that the
    // next one sees what others did before.
    let gate =
        if wanted.ranges.is_empty() { "pg_advisory_xact_lock_shared" } else { "pg_advisory_xact_lock" };
    let sql = format!(
        "SELECT {gate}({GATE}, hashint8($1)) IS NULL, pg_advisory_xact_lock_shared({ALIVE}, hashint8($2)) IS NULL"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(seat.queue)
        .bind(seat.instance)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let dead: Option<bool> = sqlx::query_scalar("SELECT dead FROM zdm_queue_instance WHERE id = $1")
        .bind(seat.instance)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    if dead != Some(false) {
        return Ok(None);
    }
    let mut ranges = Vec::new();
    for (range, number) in &wanted.ranges {
        if take_range(connection, seat, range, *number).await? {
            ranges.push(*number);
        }
    }
    let keys = take_keys(connection, seat, wanted).await?;
    let stamp = draw_stamp(connection, seat.queue).await?;
    Ok(Some(Claimed { keys, ranges, stamp }))
}

/// The greatest stamp so far. The sequence takes part in no transaction, so it never goes back.
pub(super) async fn draw_stamp(connection: &mut PgConnection, queue: i64) -> Result<Stamp> {
    let stamp: i64 =
        sqlx::query_scalar("SELECT stamps_above + nextval('zdm_queue_stamp') FROM zdm_queue WHERE id = $1")
            .bind(queue)
            .fetch_one(connection)
            .await
            .map_err(failed)?;
    Ok(Stamp(stamp.cast_unsigned()))
}

async fn take_keys(connection: &mut PgConnection, seat: Seat, wanted: &Wanted) -> Result<Vec<KeyBytes>> {
    if wanted.keys.is_empty() {
        return Ok(Vec::new());
    }
    // All lock keys in their order, and so never wait for each other in a circle.
    let got: Vec<Vec<u8>> = sqlx::query_scalar(
        "INSERT INTO zdm_queue_key AS held (queue, locked, owner, number) \
         SELECT $1, key, $2, $3 FROM unnest($4::bytea[]) AS wanted (key) WHERE NOT EXISTS \
         (SELECT 1 FROM zdm_queue_range r WHERE r.queue = $1 AND r.owner <> $2 \
         AND (r.free_at IS NULL OR r.free_at > clock_timestamp()) \
         AND (r.above IS NULL OR r.above <= key) AND (r.up_to IS NULL OR key <= r.up_to)) ORDER BY key \
         ON CONFLICT (queue, locked) DO UPDATE \
         SET owner = excluded.owner, number = excluded.number, free_at = NULL \
         WHERE held.owner = excluded.owner OR held.free_at <= clock_timestamp() RETURNING locked",
    )
    .bind(seat.queue)
    .bind(seat.instance)
    .bind(wanted.number)
    .bind(wanted.keys.iter().map(KeyBytes::as_slice).collect::<Vec<_>>())
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    Ok(got.iter().map(|key| KeyBytes::from_slice(key)).collect())
}

/// Locks a range, or reserves it when only keys stand in the way. Nobody else locks anything meanwhile.
async fn take_range(
    connection: &mut PgConnection,
    seat: Seat,
    range: &KeyRange,
    number: i64,
) -> Result<bool> {
    let bound = |key: &Option<KeyBytes>| key.as_ref().map(|key| lock_of(key).as_slice().to_vec());
    let (above, up_to) = (bound(&range.after), bound(&range.up_to));
    // Its own earlier lock or reservation of the same range.
    sqlx::query(
        "DELETE FROM zdm_queue_range WHERE queue = $1 AND owner = $2 AND above IS NOT DISTINCT FROM $3 \
         AND up_to IS NOT DISTINCT FROM $4",
    )
    .bind(seat.queue)
    .bind(seat.instance)
    .bind(&above)
    .bind(&up_to)
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    let reserved = sqlx::query(
        "INSERT INTO zdm_queue_range (queue, owner, number, above, up_to) \
         SELECT $1, $2, $5, $3, $4 WHERE NOT EXISTS \
         (SELECT 1 FROM zdm_queue_range r WHERE r.queue = $1 AND r.owner <> $2 \
         AND (r.free_at IS NULL OR r.free_at > clock_timestamp()) \
         AND (r.above IS NULL OR $4::bytea IS NULL OR r.above <= $4) \
         AND (r.up_to IS NULL OR $3::bytea IS NULL OR $3 <= r.up_to))",
    )
    .bind(seat.queue)
    .bind(seat.instance)
    .bind(&above)
    .bind(&up_to)
    .bind(number)
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    if reserved.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query_scalar(
        "SELECT NOT EXISTS (SELECT 1 FROM zdm_queue_key WHERE queue = $1 AND owner <> $2 \
         AND (free_at IS NULL OR free_at > clock_timestamp()) \
         AND ($3::bytea IS NULL OR $3 <= locked) AND ($4::bytea IS NULL OR locked <= $4))",
    )
    .bind(seat.queue)
    .bind(seat.instance)
    .bind(above)
    .bind(up_to)
    .fetch_one(connection)
    .await
    .map_err(failed)
}
