use sqlx::postgres::{PgDatabaseError, PgSeverity};
use zdm_core::error::{Error, Kind};

pub(super) fn database_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()
}

/// The SQLSTATE of an error that the server itself reported.
pub(super) fn state_of(error: &sqlx::Error) -> Option<&str> {
    database_error(error).map(PgDatabaseError::code)
}

/// Whether the server ended the connection, or it broke, before it could do anything for us.
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        _ => database_error(error).is_some_and(|error| error.severity() != PgSeverity::Error),
    }
}

/// What the server says of a table whose columns are no longer of the types that they were opened with.
pub(super) const ALTERED: &str = "altered since the store was opened";

/// The error of this library for an error of sqlx: its kind from the SQLSTATE, `doing` as the words before
/// it, the cause kept. A constraint that refuses is named.
///
/// ```
/// use zdm_core::error::Kind;
///
/// let error = zdm_sql_adapters::postgres::classify(sqlx::Error::PoolTimedOut, "renaming a user");
/// assert_eq!(error.kind(), Kind::Timeout);
/// ```
pub fn classify(error: sqlx::Error, doing: &str) -> Error {
    let (kind, advice) = match &error {
        // The connection is closed with the error, and another one prepares the statement anew.
        sqlx::Error::Database(_) if is_outdated(&error) => {
            (Kind::Busy, "the table has been altered since the statement was prepared")
        }
        sqlx::Error::Database(refusal) if refusal.message().contains(ALTERED) => (
            Kind::Invalid,
            "the columns of the table have been altered since the store was opened; open it again",
        ),
        sqlx::Error::Database(_) => of_state(state_of(&error).unwrap_or_default()),
        sqlx::Error::PoolTimedOut => (Kind::Timeout, "every connection stayed in use"),
        sqlx::Error::PoolClosed => (Kind::Stopped, "the database was closed"),
        sqlx::Error::Configuration(_) | sqlx::Error::Encode(_) => (Kind::Invalid, "the call cannot be made"),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            (Kind::Rejected, "a value cannot be read")
        }
        sqlx::Error::ColumnNotFound(_) | sqlx::Error::TypeNotFound { .. } | sqlx::Error::RowNotFound => {
            (Kind::Invalid, "the answer is not what was asked for")
        }
        _ => (Kind::Unavailable, "the connection to the server broke, or there is none"),
    };
    let named = database_error(&error).and_then(|error| {
        let column = || error.column().map(|column| format!("column {column}"));
        error.constraint().map(str::to_owned).or_else(column)
    });
    let message = match named {
        Some(name) => format!("{doing}: {advice} ({name})"),
        None => format!("{doing}: {advice}"),
    };
    let taken = matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed);
    let classified = Error::new(kind, message).with_source(error);
    if taken { classified.not_applied() } else { classified }
}

fn is_outdated(error: &sqlx::Error) -> bool {
    database_error(error)
        .is_some_and(|error| error.code() == "0A000" && error.routine() == Some("RevalidateCachedQuery"))
}

/// What a SQLSTATE means; one that is not known here is told by its class.
fn of_state(state: &str) -> (Kind, &'static str) {
    match state {
        "23505" | "23P01" => (Kind::Conflict, "another row holds a unique value"),
        "23503" | "23001" => (
            Kind::MissingReference,
            "a foreign key refers to a row that is not there, or the row is still referred to",
        ),
        "23502" => (Kind::Rejected, "a NOT NULL column got NULL"),
        "23514" => (Kind::Rejected, "a CHECK constraint refuses the row"),
        "22001" => (Kind::Rejected, "a value is too long for its column"),
        "22003" | "22008" => (Kind::Rejected, "a number or a date is out of the column's range"),
        "22021" => (Kind::Rejected, "a text holds a byte that the server does not take; NUL for one"),
        "22P02" | "22P03" | "22P04" | "22007" | "22023" | "22030" | "22032" => {
            (Kind::Rejected, "a value is none that the column's type takes")
        }
        "P0001" | "09000" => (Kind::Rejected, "a trigger refuses the row"),
        "54000" | "54001" | "54011" | "54023" => (Kind::Rejected, "the row is larger than the table takes"),
        "44000" => (Kind::Rejected, "a view with CHECK OPTION refuses the row"),

        "40001" => (Kind::Busy, "another transaction came between"),
        "40P01" => (Kind::Busy, "the server ended a deadlock with another transaction"),
        "40002" | "40003" | "40000" => (Kind::Busy, "the server rolled the transaction back"),
        "55P03" => (Kind::Busy, "a row or a table stayed locked by another transaction"),
        "55006" => (Kind::Busy, "the object is in use"),

        "57014" => (Kind::Timeout, "the statement took longer than the timeout, or was cancelled"),
        "25P03" | "25P04" => (Kind::Timeout, "the transaction took longer than the timeout"),

        "25P02" => (Kind::Invalid, "a statement of the transaction had failed; return its error"),
        "25006" => {
            (Kind::Unavailable, "the server can only be read; it may be a replica, or about to change places")
        }
        "53100" => (Kind::Unavailable, "the disk is full"),
        "53200" => (Kind::Unavailable, "the server ran out of memory"),
        "53300" => (Kind::Unavailable, "the server has no connection left for this user"),
        "57P01" | "57P02" | "57P03" | "57P05" => {
            (Kind::Unavailable, "the server starts or shuts down, or the connection was ended")
        }
        "58000" | "58030" => (Kind::Unavailable, "the server cannot read or write a file"),

        "28000" | "28P01" => (Kind::Refused, "the server does not let this user in"),
        "42501" => (Kind::Refused, "the server does not let this user do it"),
        "3D000" => (Kind::Invalid, "there is no such database"),
        "428C9" => (Kind::Invalid, "a generated column cannot be written"),
        "XX001" | "XX002" | "58P01" => {
            (Kind::Damaged, "the server reports damaged data; check and restore it")
        }

        _ => match state.get(..2).unwrap_or_default() {
            "08" | "53" | "57" | "58" => (Kind::Unavailable, "the server cannot serve the call"),
            "21" => (Kind::Rejected, "a trigger wrote a row that the statement writes too"),
            "22" => (Kind::Rejected, "a value is none that the column's type takes"),
            "23" => (Kind::Rejected, "a constraint refuses the row"),
            "40" => (Kind::Busy, "the server rolled the transaction back"),
            "0A" | "26" | "34" | "3F" | "42" => {
                (Kind::Invalid, "the statement does not fit the database's schema")
            }
            "25" | "2D" | "3B" => (Kind::Invalid, "the statement does not fit the transaction"),
            _ => (Kind::Unavailable, "the server reported a failure that is not known here"),
        },
    }
}

/// Whether a failed COMMIT certainly took no effect: the server answered with an error and lives on.
pub(super) fn refused_at_commit(error: &sqlx::Error) -> bool {
    database_error(error).is_some_and(|error| error.severity() == PgSeverity::Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_kind() {
        for (state, kind) in [
            ("23505", Kind::Conflict),
            ("23503", Kind::MissingReference),
            ("23502", Kind::Rejected),
            ("23514", Kind::Rejected),
            ("22001", Kind::Rejected),
            ("22P05", Kind::Rejected),
            ("40001", Kind::Busy),
            ("40P01", Kind::Busy),
            ("55P03", Kind::Busy),
            ("57014", Kind::Timeout),
            ("25P03", Kind::Timeout),
            ("25006", Kind::Unavailable),
            ("53300", Kind::Unavailable),
            ("57P01", Kind::Unavailable),
            ("08006", Kind::Unavailable),
            ("28P01", Kind::Refused),
            ("42501", Kind::Refused),
            ("42P01", Kind::Invalid),
            ("42601", Kind::Invalid),
            ("XX001", Kind::Damaged),
            ("XX000", Kind::Unavailable),
            ("", Kind::Unavailable),
        ] {
            assert_eq!(of_state(state).0, kind, "{state}");
        }
    }
}
