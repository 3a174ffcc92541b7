//! What the check of the integrity asks of the store, beside what everybody asks.

use mlms_protocol::{LobbyId, UserId};

use crate::store::{Store, StoreError};

impl Store {
    /// Lobbies in which players have done something, and which have no events, from behind `after`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn statistics_without_events(
        &self,
        after: Option<&LobbyId>,
        limit: u32,
    ) -> Result<Vec<LobbyId>, StoreError> {
        self.sql()?.statistics_without_events(after, limit).await
    }

    /// Lobbies whose games are counted further than their events go, from behind `after`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn counted_ahead(
        &self,
        after: Option<&LobbyId>,
        limit: u32,
    ) -> Result<Vec<LobbyId>, StoreError> {
        self.sql()?.counted_ahead(after, limit).await
    }

    /// Players' statistics that are not the sum over their lobbies, at most `limit`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn uneven_statistics(&self, limit: u32) -> Result<Vec<(UserId, String)>, StoreError> {
        self.sql()?.uneven_statistics(limit).await
    }
}
