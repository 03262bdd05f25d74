//! Fills the old database with the flights of 2013, before the application starts.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use super::flight::Flight;
use super::{Doing, Result, dataset, old_schema};

/// The id and the columns of the data set.
const COLUMNS: usize = 20;

/// As many rows as the 32,766 parameters of one SQLite statement allow.
const ROWS_PER_STATEMENT: usize = 32_766 / COLUMNS;

/// How this program opens its databases. A write-ahead log lets readers and the writer work side by side.
pub fn connect_options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
}

/// Creates the old database with its first `rows` flights, in one transaction. Returns how many there were.
///
/// # Errors
/// The database cannot be written, or the data set cannot be read.
pub async fn load(file: &Path, rows: u64) -> Result<u64> {
    let failed = || format!("the flights cannot be loaded into {}", file.display());
    let mut database = connect_options(file).connect().await.doing(failed)?;
    let mut transaction = database.begin().await.doing(failed)?;
    sqlx::query(old_schema::CREATE).execute(&mut *transaction).await.doing(failed)?;
    let mut loaded: i64 = 0;
    let mut batch = Vec::with_capacity(ROWS_PER_STATEMENT);
    for line in dataset::lines(rows)? {
        loaded += 1;
        batch.push(line?);
        if batch.len() == ROWS_PER_STATEMENT {
            insert(&mut transaction, loaded, &mut batch).await.doing(failed)?;
        }
    }
    if !batch.is_empty() {
        insert(&mut transaction, loaded, &mut batch).await.doing(failed)?;
    }
    transaction.commit().await.doing(failed)?;
    database.close().await.doing(failed)?;
    Ok(loaded.unsigned_abs())
}

async fn insert(database: &mut SqliteConnection, last_id: i64, batch: &mut Vec<String>) -> Result<()> {
    let row = format!("({})", ["?"; COLUMNS].join(","));
    let sql = format!("INSERT INTO flights VALUES {}", vec![row; batch.len()].join(","));
    let mut statement = sqlx::query(AssertSqlSafe(sql));
    let first_id = last_id - i64::try_from(batch.len()).doing(|| "the batch is too large".into())? + 1;
    for (id, line) in (first_id..).zip(batch.drain(..)) {
        // Only lines that are flights get in; what is stored is the line as it was published.
        Flight::from_line(id, &line)?;
        statement = statement.bind(id);
        for column in line.split(',') {
            statement = match column {
                "NA" => statement.bind(None::<i64>),
                column => match column.parse::<i64>() {
                    Ok(number) => statement.bind(number),
                    Err(_) => statement.bind(column.to_owned()),
                },
            };
        }
    }
    statement.execute(database).await.doing(|| format!("rows from {first_id} on cannot be inserted"))?;
    Ok(())
}
