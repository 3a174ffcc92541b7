//! The store over SQL. Every statement is written once and runs on both databases; what differs lies in
//! [`connection`] and [`fault`].

mod connection;
mod events;
mod fault;
mod integrity;
mod migrations;
#[cfg(test)]
mod plans;
mod reports;
mod service;
mod snapshots;
mod statistics;
mod upkeep;

use std::time::Duration;

use connection::Database;
use fault::Fault;

use crate::store::StoreError;

/// A database that does not answer in this time is away, even if its connections stand (a frozen server).
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// A save moves megabytes and may wait for another process's turn.
const SAVE_TIMEOUT: Duration = Duration::from_secs(60);
/// A probe must not hang.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections to one database.
#[derive(Debug)]
pub(crate) struct SqlStore {
    database: Database,
}

/// Ends work that takes longer than it may.
async fn within<T, E: Into<StoreError>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", limit.as_secs()))),
    }
}

fn damaged(why: String) -> StoreError {
    StoreError::Incompatible(format!("a stored value: {why}"))
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match Fault::of(&error) {
            Fault::Row => StoreError::Rejected { index: 0, why: error.to_string() },
            Fault::Incompatible => StoreError::Incompatible(error.to_string()),
            Fault::Duplicate | Fault::Deadlock | Fault::Unavailable | Fault::Unknown => {
                StoreError::Unavailable(error.to_string())
            }
        }
    }
}

impl SqlStore {
    pub(crate) async fn open(url: &str) -> Result<Self, StoreError> {
        Ok(SqlStore { database: Database::open(url).await? })
    }

    pub(crate) async fn migrate(&self) -> Result<(), StoreError> {
        migrations::run(&self.database).await
    }

    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self.database, Database::Sqlite { .. })
    }

    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        within(PING_TIMEOUT, self.database.rows("SELECT 1", [])).await.map(drop)
    }
}
