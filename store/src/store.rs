//! What the store can do, whichever database is behind it.

use std::sync::Arc;

use mlms_protocol::{Body, Epoch, LobbyEvent, LobbyId, Millis, Seq, Shard, UserId};

use crate::memory::Memory;
use crate::sql::SqlStore;

/// Why the store did not do what it was asked; the variants say what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, busy, full or read-only: the same call can succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The database will never take this event, by its index in the call. Nothing of the call was saved: set the
    /// event aside and save the others.
    #[error("the store refuses event {index} of the batch: {why}")]
    Rejected { index: usize, why: String },
    /// The schema or a stored event is of another release, or damaged: an operator must look.
    #[error("the store does not fit this release: {0}")]
    Incompatible(String),
    /// The address is none: the configuration is wrong.
    #[error("the store's url {0}")]
    Url(String),
}

/// What became of the events of one save; the sum is their number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SaveReport {
    /// Were not there before.
    pub inserted: u64,
    /// Were there already: an earlier save whose answer got lost.
    pub repeated: u64,
    /// Took the place of an event with a lower epoch.
    pub replaced: u64,
    /// Gave way to an event with a higher epoch.
    pub kept_newer: u64,
}

/// Which part of a history to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// The first events behind this one.
    After(Seq),
    /// The last events before this one.
    Before(Seq),
    /// The last events of all.
    Latest,
}

/// Where a page of a player's events ended: the next one goes on before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlayerPosition {
    pub at: Millis,
    pub lobby: LobbyId,
    pub seq: Seq,
}

impl PlayerPosition {
    /// The position of an event.
    #[must_use]
    pub fn of(event: &LobbyEvent) -> Self {
        PlayerPosition { at: event.at, lobby: event.lobby.clone(), seq: event.seq }
    }
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

    /// Saves events in one transaction. Idempotent by lobby and seq; of two events with the same, the higher epoch wins.
    ///
    /// # Errors
    /// `Unavailable`, or `Rejected` with the event that spoils the call; nothing was saved then.
    pub async fn save_events(&self, events: &[Arc<LobbyEvent>]) -> Result<SaveReport, StoreError> {
        let report = match &self.0 {
            Backend::Sql(sql) => sql.save_events(events).await?,
            Backend::Memory(memory) => memory.save_events(events)?,
        };
        for event in events {
            if let Some((of, body)) = event.alters() {
                self.alter(&event.lobby, of, body).await?;
            }
        }
        Ok(report)
    }

    /// Gives a stored message another body: history tells what it says now, not what it said.
    async fn alter(&self, lobby: &LobbyId, of: Seq, body: Option<&Body>) -> Result<(), StoreError> {
        let found = self.history(lobby, Range::After(Seq(of.0.saturating_sub(1))), Seq(0), 1).await?;
        let Some(message) = found.into_iter().find(|event| event.seq == of) else { return Ok(()) };
        let Some(altered) = message.with_body(body) else { return Ok(()) };
        match &self.0 {
            Backend::Sql(sql) => sql.replace_body(&altered).await,
            Backend::Memory(memory) => {
                memory.replace_body(altered);
                Ok(())
            }
        }
    }

    /// At most `limit` events of a lobby with a seq above `floor`, ascending.
    ///
    /// # Errors
    /// `Unavailable`, or `Incompatible` where a stored event cannot be read.
    pub async fn history(
        &self,
        lobby: &LobbyId,
        range: Range,
        floor: Seq,
        limit: u32,
    ) -> Result<Vec<LobbyEvent>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.history(lobby, range, floor, limit).await,
            Backend::Memory(memory) => Ok(memory.history(lobby, range, floor, limit)),
        }
    }

    /// At most `limit` events about a player, the newest first.
    ///
    /// # Errors
    /// As [`Store::history`].
    pub async fn player_events(
        &self,
        user: &UserId,
        before: Option<&PlayerPosition>,
        limit: u32,
    ) -> Result<Vec<LobbyEvent>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.player_events(user, before, limit).await,
            Backend::Memory(memory) => Ok(memory.player_events(user, before, limit)),
        }
    }

    /// Saves a lobby's state after `seq`; a lower seq never takes the place of a higher one. `at` is the lobby's
    /// last activity.
    ///
    /// # Errors
    /// `Unavailable`, or `Rejected` (index 0) where the state is too large for the database.
    pub async fn save_lobby(
        &self,
        lobby: &LobbyId,
        seq: Seq,
        epoch: Epoch,
        at: Millis,
        closed: bool,
        state: &[u8],
    ) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.save_lobby(lobby, seq, epoch, at, closed, state).await,
            Backend::Memory(memory) => memory.save_lobby(lobby, seq, epoch, at, closed, state),
        }
    }

    /// The last saved state of a lobby, and the seq it covers.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn load_lobby(&self, lobby: &LobbyId) -> Result<Option<(Seq, Vec<u8>)>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.load_lobby(lobby).await,
            Backend::Memory(memory) => Ok(memory.load_lobby(lobby)),
        }
    }

    /// At most `limit` open lobbies without activity since `before`, the longest idle first.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn idle_lobbies(
        &self,
        before: Millis,
        limit: u32,
    ) -> Result<Vec<(LobbyId, Millis)>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.idle_lobbies(before, limit).await,
            Backend::Memory(memory) => Ok(memory.idle_lobbies(before, limit)),
        }
    }

    /// Remembers a shard's epoch; a lower one never takes the place of a higher one.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn save_shard_epoch(&self, shard: Shard, epoch: Epoch) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.save_shard_epoch(shard, epoch).await,
            Backend::Memory(memory) => {
                memory.save_shard_epoch(shard, epoch);
                Ok(())
            }
        }
    }

    /// The highest epoch of each shard that ever had one, by shard.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn load_shard_epochs(&self) -> Result<Vec<(Shard, Epoch)>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.load_shard_epochs().await,
            Backend::Memory(memory) => Ok(memory.load_shard_epochs()),
        }
    }
}
