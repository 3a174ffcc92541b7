//! The store: which database is behind it, and what can go wrong with it. What it keeps stands in a file a noun:
//! [`events`](crate::events), [`snapshots`](crate::snapshots), [`players`](crate::players), reports, blocks, bans, audit.

use std::sync::Arc;

use crate::memory::Memory;
use crate::sql::SqlStore;

/// Why the store did not do what it was asked; the variants say what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, busy, full or read-only: the same call can succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The database will never take this event, by its index in the call: set it aside and save the others.
    #[error("the store refuses event {index} of the batch: {why}")]
    Rejected { index: usize, why: String },
    /// The schema or a stored event is of another release, or damaged: an operator must look.
    #[error("the store does not fit this release: {0}")]
    Incompatible(String),
    /// The address is none: the configuration is wrong.
    #[error("the store's url {0}")]
    Url(String),
}

/// A handle to the store; clones share the connections.
///
/// Every call may be dropped while it runs: a transaction under way is then rolled back, or was committed already.
#[derive(Debug, Clone)]
pub struct Store(pub(crate) Backend);

#[derive(Debug, Clone)]
pub(crate) enum Backend {
    Sql(Arc<SqlStore>),
    Memory(Arc<Memory>),
}

impl Store {
    /// A store that ends with the process, bounded in bytes: the oldest events are forgotten first.
    #[must_use]
    pub fn memory() -> Store {
        Store(Backend::Memory(Arc::new(Memory::default())))
    }

    /// Opens `sqlite://path` (made with its folder where it is missing; several processes may share the file) or
    /// `mysql://user:password@host/database`. Does not migrate.
    ///
    /// # Errors
    /// `Url` or `Unavailable`.
    pub async fn open(url: &str) -> Result<Store, StoreError> {
        Ok(Store(Backend::Sql(Arc::new(SqlStore::open(url).await?))))
    }

    /// Brings the schema to this release; does nothing where it is there already. Several processes may try at once.
    ///
    /// # Errors
    /// `Incompatible` where the schema is newer than this release or a migration broke off half-way.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.migrate().await,
            Backend::Memory(_) => Ok(()),
        }
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.ping().await,
            Backend::Memory(_) => Ok(()),
        }
    }

    /// Whether it is a part of this process: SQLite, or memory.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        match &self.0 {
            Backend::Sql(sql) => sql.is_embedded(),
            Backend::Memory(_) => true,
        }
    }

    pub(crate) fn sql(&self) -> Result<&SqlStore, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => Ok(sql),
            Backend::Memory(_) => {
                Err(StoreError::Url("names no database: this store lives in memory only".to_owned()))
            }
        }
    }
}
