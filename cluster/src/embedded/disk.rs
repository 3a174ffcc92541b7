//! The SQLite table behind the embedded journal. One writer task owns the only connection; whatever gathered while
//! it was busy goes into one transaction, and every caller is answered after the commit that holds its operation.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use mlms_protocol::{Epoch, Incarnation, LobbyId, NodeName, Shard};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::{mpsc, oneshot};

use crate::journal::EntryId;
use crate::view::ShardRecord;

/// Operations that wait for the writer; a further caller waits for a place. A shard has one append under way, so
/// this is about two for each.
const QUEUE_MAX: usize = 1_024;
/// Bytes of one transaction: what gathers beyond it waits for the next.
const COMMIT_BYTES_MAX: usize = 8 << 20;
/// Bytes of one operation.
const OP_BYTES_MAX: usize = 256 << 20;
/// The tables' format, in `user_version`.
const FORMAT: i64 = 1;
/// How long to wait where a plain store writes the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const TABLES: &[&str] = &[
    "CREATE TABLE journal_entries (shard INTEGER NOT NULL, epoch INTEGER NOT NULL, n INTEGER NOT NULL, \
     entry BLOB NOT NULL, PRIMARY KEY (shard, epoch, n)) STRICT, WITHOUT ROWID",
    "CREATE TABLE journal_snapshots (shard INTEGER NOT NULL, lobby TEXT NOT NULL, snapshot BLOB NOT NULL, \
     PRIMARY KEY (shard, lobby)) STRICT",
    "CREATE TABLE journal_shards (shard INTEGER NOT NULL PRIMARY KEY, node TEXT NOT NULL, \
     incarnation INTEGER NOT NULL, epoch INTEGER NOT NULL) STRICT",
    "PRAGMA user_version = 1",
];

/// Rows of one statement: fixed, because prepared statements are kept by their text.
const BATCH_ROWS: [usize; 3] = [100, 10, 1];
/// An append that is repeated, because its answer was unclear, finds its own entries.
static APPEND: LazyLock<[String; BATCH_ROWS.len()]> = LazyLock::new(|| {
    BATCH_ROWS.map(|rows| {
        let rows = vec!["(?, ?, ?, ?)"; rows].join(", ");
        format!(
            "INSERT INTO journal_entries (shard, epoch, n, entry) VALUES {rows} \
             ON CONFLICT (shard, epoch, n) DO UPDATE SET entry = excluded.entry"
        )
    })
});
/// Two claims that cross leave the higher epoch, so that no epoch is ever given twice.
const CLAIM: &str = "INSERT INTO journal_shards (shard, node, incarnation, epoch) VALUES (?, ?, ?, ?) \
    ON CONFLICT (shard) DO UPDATE SET node = excluded.node, incarnation = excluded.incarnation, \
    epoch = excluded.epoch WHERE excluded.epoch >= journal_shards.epoch";
const PUT_SNAPSHOT: &str = "INSERT INTO journal_snapshots (shard, lobby, snapshot) VALUES (?, ?, ?) \
    ON CONFLICT (shard, lobby) DO UPDATE SET snapshot = excluded.snapshot";
const REMOVE_SNAPSHOT: &str = "DELETE FROM journal_snapshots WHERE shard = ? AND lobby = ?";
const TRIM: &str = "DELETE FROM journal_entries WHERE shard = ? AND (epoch, n) <= (?, ?)";

/// Why the table did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// Another process journals into this file: two owners would tear each shard's log.
    #[error("another process uses {0} as its journal")]
    InUse(PathBuf),
    /// The file cannot be opened or is not ours.
    #[error("the journal's file: {0}")]
    Unusable(String),
    /// Nothing of the operation was written; the same one can succeed later.
    #[error("the journal's table did not take it: {0}")]
    NotWritten(Arc<str>),
    /// This operation can never be written.
    #[error("the journal's table cannot hold it: {0}")]
    Refused(&'static str),
    /// The writer has ended, with the process. Whether the operation was written is unknown.
    #[error("the journal's writer has ended")]
    Closed,
}

/// Everything that stood in the table when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) epochs: Vec<(Shard, ShardRecord)>,
    /// Ascending in each shard.
    pub(crate) entries: Vec<(Shard, EntryId, Bytes)>,
    pub(crate) snapshots: Vec<(Shard, LobbyId, Bytes)>,
}

/// One change of the table; taken whole or not at all.
#[derive(Debug)]
pub(crate) enum Op {
    Append { shard: Shard, entries: Vec<(EntryId, Bytes)> },
    Claim { shard: Shard, record: ShardRecord },
    Snapshots { shard: Shard, changed: Vec<(LobbyId, Option<Bytes>)> },
    Trim { shard: Shard, through: EntryId },
}

/// What follows a commit. The writer calls it whether or not anybody still waits for the answer.
type Answer = Box<dyn FnOnce(Result<(), DiskError>) + Send>;

/// A handle to the writer. The writer ends, and lets go of the file, when the last handle is gone.
#[derive(Clone)]
pub(crate) struct Disk {
    queue: mpsc::Sender<(Op, Answer)>,
    #[cfg_attr(not(test), expect(dead_code, reason = "tests count how many callers share a commit"))]
    commits: Arc<AtomicU64>,
}

impl Disk {
    /// Opens the file (made with its folder where it is missing) and reads all of it. The caller runs the future and
    /// awaits it at the end. `sync_full` makes a commit outlive a power loss too, at the price of an fsync each;
    /// without it a commit outlives every death of the process.
    ///
    /// # Errors
    /// `InUse` or `Unusable`.
    pub(crate) async fn open(
        url: &str,
        sync_full: bool,
    ) -> Result<(Disk, Loaded, impl Future<Output = ()> + Send + use<>), DiskError> {
        let options = SqliteConnectOptions::from_str(url).map_err(unusable)?;
        let level = if sync_full { SqliteSynchronous::Full } else { SqliteSynchronous::Normal };
        Self::open_with(options.synchronous(level)).await
    }

    async fn open_with(
        options: SqliteConnectOptions,
    ) -> Result<(Disk, Loaded, impl Future<Output = ()> + Send + use<>), DiskError> {
        let file = options.get_filename().to_owned();
        if file.as_os_str().is_empty() || file.to_string_lossy().contains(":memory:") {
            return Err(unusable("a journal on disk needs the name of a file"));
        }
        if let Some(folder) = file.parent().filter(|folder| *folder != Path::new("")) {
            tokio::fs::create_dir_all(folder).await.map_err(unusable)?;
        }
        let lock = lock(&file)?;
        make_private(&file).map_err(unusable)?;
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let mut connection = options.connect().await.map_err(unusable)?;
        prepare(&mut connection).await?;
        let loaded = load(&mut connection).await?;
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let commits = Arc::new(AtomicU64::new(0));
        let disk = Disk { queue, commits: Arc::clone(&commits) };
        Ok((disk, loaded, Writer { options, connection, commits, lock }.run(waiting)))
    }

    /// Writes an operation; returns after the commit that holds it. Dropped while it waits, the operation may be
    /// written or not.
    ///
    /// # Errors
    /// `NotWritten` when the commit failed, as it did for everybody in it; `Refused` or `Closed`.
    pub(crate) async fn write(&self, op: Op) -> Result<(), DiskError> {
        self.write_then(op, |written| written).await.unwrap_or(Err(DiskError::Closed))
    }

    /// Writes an operation and does what follows from it, even when nobody waits any more; gives what that gave, or
    /// nothing when the writer has ended. Dropped before the operation is queued, neither happens.
    ///
    /// # Errors
    /// As [`Disk::write`], handed to `then`.
    pub(crate) async fn write_then<T: Send + 'static>(
        &self,
        op: Op,
        then: impl FnOnce(Result<(), DiskError>) -> T + Send + 'static,
    ) -> Option<T> {
        if let Err(error) = op.check() {
            return Some(then(Err(error)));
        }
        let (answer, answered) = oneshot::channel();
        let answer = Box::new(move |written| {
            // A caller that went away needs no answer.
            _ = answer.send(then(written));
        });
        self.queue.send((op, answer)).await.ok()?;
        answered.await.ok()
    }
}

fn unusable(error: impl ToString) -> DiskError {
    DiskError::Unusable(error.to_string())
}

/// Makes the file, if there is none, so that only its owner reads what players say. SQLite gives its side files the
/// same permissions.
fn make_private(file: &Path) -> std::io::Result<()> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(file).map(drop)
}

/// Keeps other processes from journaling into the file. The lock goes with the process, however it ends.
fn lock(file: &Path) -> Result<File, DiskError> {
    let mut name = file.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&name).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(DiskError::InUse(file.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(unusable(error)),
    }
}

async fn prepare(connection: &mut SqliteConnection) -> Result<(), DiskError> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(unusable)?;
    let row = sqlx::query("PRAGMA user_version").fetch_one(&mut *tx).await.map_err(unusable)?;
    match row.try_get::<i64, _>(0).map_err(unusable)? {
        0 => {
            for statement in TABLES {
                sqlx::query(*statement).execute(&mut *tx).await.map_err(unusable)?;
            }
        }
        FORMAT => {}
        other => return Err(unusable(format!("it has format {other}, this release knows {FORMAT}"))),
    }
    tx.commit().await.map_err(unusable)
}

fn number<T: TryFrom<i64>>(row: &SqliteRow, column: usize) -> Result<T, DiskError> {
    let number: i64 = row.try_get(column).map_err(unusable)?;
    T::try_from(number).map_err(|_| unusable(format!("a stored {number} is out of range")))
}

fn text<T: FromStr<Err: ToString>>(row: &SqliteRow, column: usize) -> Result<T, DiskError> {
    row.try_get::<&str, _>(column).map_err(unusable)?.parse().map_err(unusable)
}

fn blob(row: &SqliteRow, column: usize) -> Result<Bytes, DiskError> {
    Ok(Bytes::copy_from_slice(row.try_get::<&[u8], _>(column).map_err(unusable)?))
}

async fn read<T>(
    connection: &mut SqliteConnection,
    sql: &'static str,
    item: impl Fn(&SqliteRow) -> Result<T, DiskError>,
) -> Result<Vec<T>, DiskError> {
    let mut rows = sqlx::query(sql).fetch(connection);
    let mut items = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(unusable)? {
        items.push(item(&row)?);
    }
    Ok(items)
}

async fn load(connection: &mut SqliteConnection) -> Result<Loaded, DiskError> {
    let shards = "SELECT shard, node, incarnation, epoch FROM journal_shards ORDER BY shard";
    let entries = "SELECT shard, epoch, n, entry FROM journal_entries ORDER BY shard, epoch, n";
    let snapshots = "SELECT shard, lobby, snapshot FROM journal_snapshots ORDER BY shard, lobby";
    Ok(Loaded {
        epochs: read(connection, shards, |row| {
            let (node, incarnation): (NodeName, _) = (text(row, 1)?, Incarnation(number(row, 2)?));
            Ok((Shard(number(row, 0)?), ShardRecord { node, incarnation, epoch: Epoch(number(row, 3)?) }))
        })
        .await?,
        entries: read(connection, entries, |row| {
            let id = EntryId { epoch: number(row, 1)?, n: number(row, 2)? };
            Ok((Shard(number(row, 0)?), id, blob(row, 3)?))
        })
        .await?,
        snapshots: read(connection, snapshots, |row| {
            Ok((Shard(number(row, 0)?), text(row, 1)?, blob(row, 2)?))
        })
        .await?,
    })
}

/// A number that was checked when its operation was taken.
fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("an operation's numbers are checked before it is queued")
}

impl Op {
    /// Refuses what would spoil the commit for everybody in it.
    fn check(&self) -> Result<(), DiskError> {
        let fits = |number: u64| i64::try_from(number).is_ok();
        let id_fits = |id: &EntryId| fits(id.epoch) && fits(id.n);
        let numbers_fit = match self {
            Op::Append { entries, .. } => entries.iter().all(|(id, _)| id_fits(id)),
            Op::Claim { record, .. } => fits(record.incarnation.0) && fits(record.epoch.0),
            Op::Snapshots { .. } => true,
            Op::Trim { through, .. } => id_fits(through),
        };
        match (numbers_fit, self.byte_len()) {
            (false, _) => Err(DiskError::Refused("a number is out of range")),
            (_, OP_BYTES_MAX..) => Err(DiskError::Refused("it is too large")),
            _ => Ok(()),
        }
    }

    fn byte_len(&self) -> usize {
        match self {
            Op::Append { entries, .. } => entries.iter().map(|(_, entry)| entry.len() + 64).sum(),
            Op::Snapshots { changed, .. } => {
                changed.iter().map(|(_, snapshot)| snapshot.as_ref().map_or(0, Bytes::len) + 128).sum()
            }
            Op::Claim { .. } | Op::Trim { .. } => 128,
        }
    }
}

/// The task that owns the connection.
struct Writer {
    options: SqliteConnectOptions,
    connection: SqliteConnection,
    commits: Arc<AtomicU64>,
    lock: File,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<(Op, Answer)>) {
        while let Some((op, answer)) = waiting.recv().await {
            let mut bytes = op.byte_len();
            let (mut ops, mut answers) = (vec![op], vec![answer]);
            while bytes < COMMIT_BYTES_MAX && ops.len() < QUEUE_MAX {
                let Ok((op, answer)) = waiting.try_recv() else { break };
                bytes += op.byte_len();
                ops.push(op);
                answers.push(answer);
            }
            let written = self.commit(&ops).await;
            for answer in answers {
                answer(written.clone());
            }
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the journal's file was not closed cleanly; it is whole all the same");
        }
        drop(self.lock);
    }

    async fn commit(&mut self, ops: &[Op]) -> Result<(), DiskError> {
        let error = match write_all(&mut self.connection, ops).await {
            Ok(()) => {
                self.commits.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Err(error) => error,
        };
        tracing::error!(%error, operations = ops.len(), "a commit of the journal failed");
        // SQLite's own errors leave the connection whole; without its thread there is none.
        if !matches!(error, sqlx::Error::Database(_)) {
            match self.options.connect().await {
                Ok(connection) => self.connection = connection,
                Err(error) => tracing::error!(%error, "the journal's file cannot be opened again"),
            }
        }
        Err(DiskError::NotWritten(Arc::from(error.to_string())))
    }
}

/// Writes operations of many callers in one transaction. Appends come first, and together: a trim never forgets
/// an entry that was appended after it, because ids ascend.
async fn write_all(connection: &mut SqliteConnection, ops: &[Op]) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let appended = ops.iter().filter_map(|op| match op {
        Op::Append { shard, entries } => Some(entries.iter().map(move |(id, entry)| (*shard, *id, entry))),
        _ => None,
    });
    let appended: Vec<_> = appended.flatten().collect();
    let mut rest = &appended[..];
    for (rows, sql) in BATCH_ROWS.into_iter().zip(APPEND.iter()) {
        while let Some((batch, after)) = rest.split_at_checked(rows) {
            let mut query = sqlx::query(sql.as_str());
            for (shard, id, entry) in batch {
                let query_with_id = query.bind(i64::from(shard.0)).bind(signed(id.epoch)).bind(signed(id.n));
                query = query_with_id.bind(&entry[..]);
            }
            query.execute(&mut *tx).await?;
            rest = after;
        }
    }
    for op in ops {
        match op {
            Op::Append { .. } => {}
            Op::Claim { shard, record } => {
                let query = sqlx::query(CLAIM).bind(i64::from(shard.0)).bind(record.node.as_str());
                let query = query.bind(signed(record.incarnation.0)).bind(signed(record.epoch.0));
                query.execute(&mut *tx).await?;
            }
            Op::Snapshots { shard, changed } => {
                for (lobby, snapshot) in changed {
                    let query = match snapshot {
                        Some(_) => sqlx::query(PUT_SNAPSHOT),
                        None => sqlx::query(REMOVE_SNAPSHOT),
                    };
                    let mut query = query.bind(i64::from(shard.0)).bind(lobby.as_str());
                    if let Some(snapshot) = snapshot {
                        query = query.bind(&snapshot[..]);
                    }
                    query.execute(&mut *tx).await?;
                }
            }
            Op::Trim { shard, through } => {
                let query = sqlx::query(TRIM).bind(i64::from(shard.0));
                query.bind(signed(through.epoch)).bind(signed(through.n)).execute(&mut *tx).await?;
            }
        }
    }
    tx.commit().await
}

#[cfg(test)]
mod tests;
