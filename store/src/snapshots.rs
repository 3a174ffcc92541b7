//! What only ever moves forward: lobbies' saved states, shards' epochs, and how far their events have gone out.

use mlms_protocol::{Epoch, LobbyId, Millis, Seq, Shard};

use crate::store::{Backend, Store, StoreError};

impl Store {
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

    /// At most `limit` open lobbies without activity since `before`, the longest idle first, from behind one of them.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn idle_lobbies(
        &self,
        after: Option<&(LobbyId, Millis)>,
        before: Millis,
        limit: u32,
    ) -> Result<Vec<(LobbyId, Millis)>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.idle_lobbies(after, before, limit).await,
            Backend::Memory(memory) => Ok(memory.idle_lobbies(after, before, limit)),
        }
    }

    /// Lobbies that have a saved state, with its seq, by their ids, from behind `after`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn snapshots_after(
        &self,
        after: Option<&LobbyId>,
        limit: u32,
    ) -> Result<Vec<(LobbyId, Seq)>, StoreError> {
        self.sql()?.snapshots_after(after, limit).await
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

    /// The highest epoch that a shard ever had; `None`: nobody has owned it yet.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn shard_epoch(&self, shard: Shard) -> Result<Option<Epoch>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.shard_epoch(shard).await,
            Backend::Memory(memory) => Ok(memory.shard_epoch(shard)),
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

    /// Up to which entry (epoch and number) a shard's events have gone out.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn load_published(&self, shard: Shard) -> Result<Option<(u64, u64)>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.load_published(shard).await,
            Backend::Memory(memory) => Ok(memory.load_published(shard)),
        }
    }

    /// Remembers up to which entries shards' events have gone out.
    ///
    /// # Errors
    /// `Unavailable`: after a crash they go out again.
    pub async fn save_published(&self, cursors: &[(Shard, u64, u64)]) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.save_published(cursors).await,
            Backend::Memory(memory) => {
                memory.save_published(cursors);
                Ok(())
            }
        }
    }
}
