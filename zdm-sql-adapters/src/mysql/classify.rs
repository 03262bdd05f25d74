use sqlx::mysql::MySqlDatabaseError;
use zdm_core::error::{Error, Kind};

fn database_error(error: &sqlx::Error) -> Option<&MySqlDatabaseError> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()
}

/// The number of an error that the server itself reported.
pub(super) fn number_of(error: &sqlx::Error) -> Option<u16> {
    database_error(error).map(MySqlDatabaseError::number)
}

/// The unique key that a conflict names: the last quoted words of "Duplicate entry 'x' for key 'name'".
/// MySQL puts the table before the name.
pub(super) fn key_name(error: &sqlx::Error) -> Option<&str> {
    let message = database_error(error)?.message();
    let quoted = message.strip_suffix('\'')?.rsplit_once(" for key '")?.1;
    Some(quoted.rsplit_once('.').map_or(quoted, |(_, name)| name))
}

/// The error of this library for an error of sqlx: its kind from the server's error number, `doing` as the
/// words before it, the cause kept.
///
/// ```
/// use zdm_core::error::Kind;
///
/// let error = zdm_sql_adapters::mysql::classify(sqlx::Error::PoolTimedOut, "renaming a user");
/// assert_eq!(error.kind(), Kind::Timeout);
/// ```
pub fn classify(error: sqlx::Error, doing: &str) -> Error {
    let (kind, advice) = match &error {
        sqlx::Error::Database(_) => {
            let state = database_error(&error).and_then(MySqlDatabaseError::code).unwrap_or_default();
            of_number(number_of(&error).unwrap_or_default(), state)
        }
        sqlx::Error::PoolTimedOut => (Kind::Timeout, "every connection stayed in use"),
        sqlx::Error::PoolClosed => (Kind::Stopped, "the database was closed"),
        sqlx::Error::Configuration(_) | sqlx::Error::Encode(_) => (Kind::Invalid, "the call cannot be made"),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            (Kind::Rejected, "a value cannot be read")
        }
        sqlx::Error::BeginFailed => (Kind::Unavailable, "the server began no transaction"),
        _ => (Kind::Unavailable, "the connection to the server broke, or there is none"),
    };
    let message = match key_name(&error) {
        Some(name) if kind == Kind::Conflict => format!("{doing}: {advice} ({name})"),
        _ => format!("{doing}: {advice}"),
    };
    let taken = matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed);
    let classified = Error::new(kind, message).with_source(error);
    if taken { classified.not_applied() } else { classified }
}

/// What an error number of MySQL or MariaDB means. Where the two differ, the SQLSTATE tells which it is;
/// a number that is not known here is told by the class of its SQLSTATE.
fn of_number(number: u16, state: &str) -> (Kind, &'static str) {
    match number {
        1022 | 1062 | 1169 | 1586 | 1859 => (Kind::Conflict, "another row holds a unique value"),
        1216 | 1217 | 1451 | 1452 | 1834 => (
            Kind::MissingReference,
            "a foreign key refers to a row that is not there, or the row is still referred to",
        ),

        1205 | 3572 => (Kind::Busy, "a row stayed locked by another transaction"),
        1213 => (Kind::Busy, "the server ended a deadlock with another transaction"),
        1020 | 1412 | 1615 | 1689 => (Kind::Busy, "another change came between"),
        1568 => (Kind::Busy, "the connection was inside a transaction of somebody else"),

        1048 | 1364 => (Kind::Rejected, "a NOT NULL column got NULL"),
        1264 | 1690 | 1441 => (Kind::Rejected, "a number or a date is out of the column's range"),
        1406 => (Kind::Rejected, "a value is too long for its column"),
        1265 | 1292 | 1300 | 1366 | 1367 | 1411 | 1416 | 1977 | 3854 | 4078 => {
            (Kind::Rejected, "a value is none that the column's type takes")
        }
        3140..=3144 | 3156..=3158 => (Kind::Rejected, "a value is no JSON"),
        3819 => (Kind::Rejected, "a CHECK constraint refuses the row"),
        4025 if state == "23000" => (Kind::Rejected, "a CHECK constraint refuses the row"),
        1644 => (Kind::Rejected, "a trigger refuses the row"),
        1118 | 1162 => (Kind::Rejected, "the row is larger than the table takes"),
        1153 => (Kind::Rejected, "the row is larger than max_allowed_packet; raise it on the server"),

        1969 | 3024 => (Kind::Timeout, "the statement took longer than the timeout"),
        1317 => (Kind::Timeout, "the statement was killed"),

        1290 | 1836 | 1792 | 1223 => {
            (Kind::Unavailable, "the server can only be read; it may be a replica, or about to change places")
        }
        1040 | 1203 | 1226 => (Kind::Unavailable, "the server has no connection left for this user"),
        1461 => (Kind::Unavailable, "the server's max_prepared_stmt_count is reached; raise it"),
        1021 | 1114 => (Kind::Unavailable, "the disk or a table is full"),
        1037 | 1038 | 1041 => (Kind::Unavailable, "the server ran out of memory"),
        1047 | 1053 | 1077 | 1079 | 1080 | 1152 | 1158..=1161 | 1927 | 2002 | 2003 | 2006 | 2013 | 3169 => {
            (Kind::Unavailable, "the server shuts down, or the connection was ended")
        }

        1044 | 1045 | 1130 | 1142 | 1143 | 1227 | 1251 | 1370 | 1698 | 1820 => {
            (Kind::Refused, "the server does not let this user do it")
        }

        1665 => (
            Kind::Invalid,
            "the server writes its binary log as statements; set binlog_format to ROW or MIXED",
        ),
        1049 => (Kind::Invalid, "there is no such database"),
        1906 | 3105 => (Kind::Invalid, "a generated column cannot be written"),

        1034 | 1194 | 1195 | 1712 | 1932 => (Kind::Damaged, "a table is damaged; check and restore it"),

        _ => match state.get(..2).unwrap_or_default() {
            "08" => (Kind::Unavailable, "the connection to the server broke"),
            "22" => (Kind::Rejected, "a value is none that the column's type takes"),
            "23" => (Kind::Rejected, "a constraint refuses the row"),
            "40" => (Kind::Busy, "the server rolled the transaction back"),
            "42" => (Kind::Invalid, "the statement does not fit the database's schema"),
            "45" => (Kind::Rejected, "a trigger refuses the row"),
            _ => (Kind::Unavailable, "the server reported a failure that is not known here"),
        },
    }
}

/// Whether a failed COMMIT certainly took no effect: what the server refuses before it writes.
pub(super) fn refused_at_commit(number: Option<u16>) -> bool {
    matches!(number, Some(1205 | 1213 | 1290 | 1792 | 1836))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_kind() {
        let kinds = [
            (1062, "23000", Kind::Conflict),
            (1586, "23000", Kind::Conflict),
            (1451, "23000", Kind::MissingReference),
            (1452, "23000", Kind::MissingReference),
            (1205, "HY000", Kind::Busy),
            (1213, "40001", Kind::Busy),
            (1048, "23000", Kind::Rejected),
            (1264, "22003", Kind::Rejected),
            (1406, "22001", Kind::Rejected),
            (1366, "HY000", Kind::Rejected),
            (3819, "HY000", Kind::Rejected),
            (4025, "23000", Kind::Rejected),
            // On MySQL the same number is another error.
            (4025, "HY000", Kind::Unavailable),
            (1644, "45000", Kind::Rejected),
            (1969, "70100", Kind::Timeout),
            (3024, "HY000", Kind::Timeout),
            (1053, "08S01", Kind::Unavailable),
            (1927, "70100", Kind::Unavailable),
            (2013, "HY000", Kind::Unavailable),
            (1290, "HY000", Kind::Unavailable),
            (1836, "HY000", Kind::Unavailable),
            (1040, "08004", Kind::Unavailable),
            (1045, "28000", Kind::Refused),
            (1049, "42000", Kind::Invalid),
            (1146, "42S02", Kind::Invalid),
            (1064, "42000", Kind::Invalid),
            (1194, "HY000", Kind::Damaged),
            (9999, "23000", Kind::Rejected),
            (9999, "HY000", Kind::Unavailable),
        ];
        for (number, state, kind) in kinds {
            assert_eq!(of_number(number, state).0, kind, "error {number} ({state})");
        }
    }

    #[test]
    fn only_what_the_server_refuses_before_it_writes_is_certain_at_the_commit() {
        assert!(refused_at_commit(Some(1213)) && refused_at_commit(Some(1290)));
        assert!(!refused_at_commit(Some(1180)) && !refused_at_commit(Some(2013)) && !refused_at_commit(None));
    }
}
