//! Connections to either database behind one face: pools, transactions, values and rows.

use std::path::Path;
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlRow};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Executor as _, MySql, Pool, Row as _, Sqlite, Transaction};

use crate::store::StoreError;

/// Reads run beside each other and beside the writer.
const READERS_MAX: u32 = 4;
/// Enough that several shards' archives and histories run side by side.
const MYSQL_CONNECTIONS_MAX: u32 = 10;
/// How long to wait for a free or new connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process waits for its turn to write a file that another one writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks at a file whose kind another process is changing.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// The pools of one database. SQLite takes one writer at a time, so one connection writes and others read.
#[derive(Debug)]
pub(super) enum Database {
    Sqlite { readers: Pool<Sqlite>, writer: Pool<Sqlite> },
    Mysql { pool: Pool<MySql>, packet_bytes_max: usize },
}

/// A parameter of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Int(i64),
    Text(&'a str),
    MaybeText(Option<&'a str>),
    Bytes(&'a [u8]),
    MaybeBytes(Option<&'a [u8]>),
}

macro_rules! query {
    ($sql:expr, $values:expr) => {{
        let mut query = sqlx::query($sql);
        for value in $values {
            query = match value {
                Value::Int(value) => query.bind(value),
                Value::Text(value) => query.bind(value),
                Value::MaybeText(value) => query.bind(value),
                Value::Bytes(value) => query.bind(value),
                Value::MaybeBytes(value) => query.bind(value),
            };
        }
        query
    }};
}

/// A row of an answer; columns count from 0.
#[derive(Debug)]
pub(super) enum Row {
    Sqlite(SqliteRow),
    Mysql(MySqlRow),
}

macro_rules! column {
    ($name:ident, $type:ty) => {
        pub(super) fn $name(&self, column: usize) -> Result<$type, sqlx::Error> {
            // Unchecked: the databases name the types of one column differently.
            match self {
                Row::Sqlite(row) => row.try_get_unchecked(column),
                Row::Mysql(row) => row.try_get_unchecked(column),
            }
        }
    };
}

impl Row {
    column!(int, i64);
    column!(text, String);
    column!(bytes, Vec<u8>);
    column!(maybe_bytes, Option<Vec<u8>>);
}

impl Database {
    pub(super) async fn open(url: &str) -> Result<Self, StoreError> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Self::open_sqlite(url).await,
            Some("mysql" | "mariadb") => Self::open_mysql(url).await,
            _ => Err(StoreError::Url("must begin with sqlite: or mysql:".to_owned())),
        }
    }

    async fn open_sqlite(url: &str) -> Result<Self, StoreError> {
        let options =
            SqliteConnectOptions::from_str(url).map_err(|error| StoreError::Url(error.to_string()))?;
        let file = options.get_filename().to_owned();
        // Each connection to a database in memory would get a database of its own.
        if file.as_os_str().is_empty() || url.contains(":memory:") || url.contains("mode=memory") {
            return Err(StoreError::Url("must name a file".to_owned()));
        }
        if let Some(folder) = file.parent().filter(|folder| *folder != Path::new("")) {
            let made = tokio::fs::create_dir_all(folder).await;
            made.map_err(|error| StoreError::Unavailable(format!("{}: {error}", folder.display())))?;
        }
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let pool = |connections| {
            SqlitePoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT)
        };
        // The writer first: it makes the file, so that no reader finds half of one.
        // That it is written ahead of is decided by whoever comes first, and SQLite lets nobody wait for that.
        let until = Instant::now() + BUSY_TIMEOUT;
        let writer = loop {
            match pool(1).connect_with(options.clone()).await {
                Err(error) if is_locked(&error) && Instant::now() < until => {
                    tokio::time::sleep(BUSY_PAUSE).await
                }
                connected => break connected?,
            }
        };
        Ok(Database::Sqlite { readers: pool(READERS_MAX).connect_lazy_with(options), writer })
    }

    async fn open_mysql(url: &str) -> Result<Self, StoreError> {
        let options =
            MySqlConnectOptions::from_str(url).map_err(|error| StoreError::Url(error.to_string()))?;
        let pool = MySqlPoolOptions::new()
            .max_connections(MYSQL_CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    // Never cut a value to fit, whatever the server's default; and no gap locks between archives.
                    connection
                        .execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')")
                        .await?;
                    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
                    Ok(())
                })
            })
            .connect_with(options.disable_statement_logging())
            .await?;
        let row = sqlx::query("SELECT @@max_allowed_packet").fetch_one(&pool).await?;
        let packet_bytes_max = usize::try_from(row.try_get_unchecked::<i64, _>(0)?).unwrap_or(usize::MAX);
        Ok(Database::Mysql { pool, packet_bytes_max })
    }

    /// Bytes of values in one statement; what surrounds them comes on top.
    pub(super) fn statement_bytes_max(&self) -> usize {
        match self {
            Database::Sqlite { .. } => usize::MAX,
            Database::Mysql { packet_bytes_max, .. } => packet_bytes_max / 4 * 3,
        }
    }

    /// Begins to write. In SQLite this waits for the turn at once: a transaction that begins by reading could not
    /// wait for it later.
    pub(super) async fn begin(&self) -> Result<Writing, sqlx::Error> {
        match self {
            Database::Sqlite { writer, .. } => {
                writer.begin_with("BEGIN IMMEDIATE").await.map(Writing::Sqlite)
            }
            Database::Mysql { pool, .. } => pool.begin().await.map(Writing::Mysql),
        }
    }

    /// Runs a reading statement.
    pub(super) async fn rows<'a>(
        &self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value<'a>>,
    ) -> Result<Vec<Row>, sqlx::Error> {
        match self {
            Database::Sqlite { readers, .. } => {
                Ok(query!(sql, values).fetch_all(readers).await?.into_iter().map(Row::Sqlite).collect())
            }
            Database::Mysql { pool, .. } => {
                Ok(query!(sql, values).fetch_all(pool).await?.into_iter().map(Row::Mysql).collect())
            }
        }
    }
}

/// A transaction; rolled back when it is dropped. A statement that fails leaves what was written before it.
pub(super) enum Writing {
    Sqlite(Transaction<'static, Sqlite>),
    Mysql(Transaction<'static, MySql>),
}

impl Writing {
    /// Runs a statement; gives the number of rows that it met.
    pub(super) async fn execute<'a>(
        &mut self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value<'a>>,
    ) -> Result<u64, sqlx::Error> {
        match self {
            Writing::Sqlite(tx) => Ok(query!(sql, values).execute(&mut **tx).await?.rows_affected()),
            Writing::Mysql(tx) => Ok(query!(sql, values).execute(&mut **tx).await?.rows_affected()),
        }
    }

    /// Runs a reading statement inside the transaction.
    pub(super) async fn rows<'a>(
        &mut self,
        sql: &'static str,
        values: impl IntoIterator<Item = Value<'a>>,
    ) -> Result<Vec<Row>, sqlx::Error> {
        match self {
            Writing::Sqlite(tx) => {
                Ok(query!(sql, values).fetch_all(&mut **tx).await?.into_iter().map(Row::Sqlite).collect())
            }
            Writing::Mysql(tx) => {
                Ok(query!(sql, values).fetch_all(&mut **tx).await?.into_iter().map(Row::Mysql).collect())
            }
        }
    }

    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Writing::Sqlite(tx) => tx.commit().await,
            Writing::Mysql(tx) => tx.commit().await,
        }
    }
}

/// Whether another process holds an SQLite file (`SQLITE_BUSY`).
fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "5")
}
