use sqlx::sqlite::SqliteError;
use zdm_core::error::{Error, Kind};

/// The extended result code of an error that SQLite itself reported.
pub(super) fn code_of(error: &sqlx::Error) -> Option<i32> {
    let database = error.as_database_error()?;
    let sqlite = database.try_downcast_ref::<SqliteError>()?;
    sqlx::error::DatabaseError::code(sqlite)?.parse().ok()
}

/// The error of this library for an error of sqlx: its kind from SQLite's result code, `doing` as the
/// words before it, the cause kept.
///
/// ```
/// use zdm_core::error::Kind;
///
/// let error = zdm_sql_adapters::sqlite::classify(sqlx::Error::PoolTimedOut, "renaming a user");
/// assert_eq!(error.kind(), Kind::Timeout);
/// ```
pub fn classify(error: sqlx::Error, doing: &str) -> Error {
    let (kind, advice) = match &error {
        sqlx::Error::Database(database) => of_code(code_of(&error).unwrap_or_default(), database.message()),
        sqlx::Error::PoolTimedOut => (Kind::Timeout, "every connection stayed in use"),
        sqlx::Error::PoolClosed => (Kind::Stopped, "the database was closed"),
        sqlx::Error::Configuration(_) | sqlx::Error::Encode(_) => (Kind::Invalid, "the call cannot be made"),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            (Kind::Rejected, "a value cannot be read")
        }
        _ => (Kind::Unavailable, "the database did not answer"),
    };
    let message = format!("{doing}: {advice}");
    let taken = matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed);
    let classified = Error::new(kind, message).with_source(error);
    if taken { classified.not_applied() } else { classified }
}

/// What a result code means. The lower byte is the family, the whole the exact reason.
fn of_code(code: i32, message: &str) -> (Kind, &'static str) {
    const FOREIGN_KEY: (Kind, &str) = (
        Kind::MissingReference,
        "a foreign key refers to a row that is not there, or the row is still referred to",
    );
    match code {
        275 => return (Kind::Rejected, "a CHECK constraint refuses the row"),
        531 => return (Kind::Refused, "a commit hook refuses the transaction"),
        787 => return FOREIGN_KEY,
        // A RESTRICT action reports itself as a trigger.
        1811 if message.contains("FOREIGN KEY") => return FOREIGN_KEY,
        1299 => return (Kind::Rejected, "a NOT NULL column got NULL"),
        1555 | 2067 | 2579 => return (Kind::Conflict, "another row holds a unique value"),
        1811 => return (Kind::Rejected, "a trigger refuses the row"),
        3091 => return (Kind::Rejected, "a value has not the type that the STRICT table asks for"),
        _ => {}
    }
    match code & 0xFF {
        1 => (Kind::Invalid, "the statement does not fit the database's schema"),
        4 | 17 => (Kind::Busy, "the statement was cut off by another change"),
        5 | 6 | 15 => (Kind::Busy, "the database stayed locked by another connection"),
        7 => (Kind::Unavailable, "SQLite ran out of memory"),
        8 => (Kind::Unavailable, "the database can only be read; check the file's permissions"),
        9 => (Kind::Timeout, "the statement took longer than the write timeout"),
        10 => (Kind::Unavailable, "the disk failed"),
        13 => (Kind::Unavailable, "the disk is full, or the database has reached its max_page_count"),
        3 | 14 => {
            (Kind::Unavailable, "the database file cannot be opened; check the path and its permissions")
        }
        2 | 11 => (Kind::Damaged, "the database file is damaged; run PRAGMA integrity_check and restore it"),
        26 => (Kind::Damaged, "the file is not an SQLite database"),
        18 => (Kind::Rejected, "a value is larger than SQLite takes"),
        19 => (Kind::Rejected, "a constraint refuses the row"),
        20 => (Kind::Rejected, "a value has not the type that the column asks for"),
        23 => (Kind::Refused, "an authorizer refuses the statement"),
        12 | 16 | 21 | 22 | 24 | 25 => (Kind::Invalid, "SQLite was called in a way it does not support"),
        _ => (Kind::Unavailable, "SQLite reported a failure that is not known here"),
    }
}

/// Whether a failed COMMIT certainly took no effect: what SQLite refuses before it writes.
pub(super) fn refused_at_commit(code: Option<i32>) -> bool {
    matches!(code.map(|code| code & 0xFF), Some(5 | 6 | 8 | 13 | 14 | 19))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_a_kind() {
        let kinds = [
            (5, Kind::Busy),
            (261, Kind::Busy),
            (517, Kind::Busy),
            (6, Kind::Busy),
            (262, Kind::Busy),
            (2067, Kind::Conflict),
            (1555, Kind::Conflict),
            (2579, Kind::Conflict),
            (787, Kind::MissingReference),
            (275, Kind::Rejected),
            (1299, Kind::Rejected),
            (3091, Kind::Rejected),
            (20, Kind::Rejected),
            (18, Kind::Rejected),
            (13, Kind::Unavailable),
            (10, Kind::Unavailable),
            (778, Kind::Unavailable),
            (14, Kind::Unavailable),
            (8, Kind::Unavailable),
            (11, Kind::Damaged),
            (26, Kind::Damaged),
            (9, Kind::Timeout),
            (1, Kind::Invalid),
        ];
        for (code, kind) in kinds {
            assert_eq!(of_code(code, "").0, kind, "code {code}");
        }
        assert_eq!(of_code(1811, "FOREIGN KEY constraint failed").0, Kind::MissingReference);
        assert_eq!(of_code(1811, "no").0, Kind::Rejected);
    }

    #[test]
    fn a_busy_commit_is_certain_and_a_failing_disk_is_not() {
        assert!(refused_at_commit(Some(5)) && refused_at_commit(Some(517)) && refused_at_commit(Some(787)));
        assert!(!refused_at_commit(Some(10)) && !refused_at_commit(Some(1034)) && !refused_at_commit(None));
    }
}
