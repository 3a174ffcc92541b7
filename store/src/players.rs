//! What the store knows of players: sums of what they did in games, and awards. Counting is [`Tally`]'s.
//!
//! [`Tally`]: crate::statistics::Tally

use mlms_protocol::{LobbyId, Seq, UserId};

use crate::statistics::{Award, GameEvent, Statistic, Statistics};
use crate::store::{Backend, Store, StoreError};

impl Store {
    /// Counts events into the players' statistics; gives how many were new. Of each lobby, events come in the order of
    /// seq: one with a lower seq than the last that was counted is a repetition.
    ///
    /// # Errors
    /// `Unavailable`: nothing was counted.
    pub async fn fold(&self, events: &[GameEvent]) -> Result<u64, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.fold(events).await,
            Backend::Memory(memory) => Ok(memory.fold(events)),
        }
    }

    /// Counts a lobby again from its stored events, while others may count new ones; gives how many there are.
    ///
    /// # Errors
    /// `Unavailable`: nothing has changed.
    pub async fn recount(&self, lobby: &LobbyId) -> Result<u64, StoreError> {
        self.sql()?.recount(lobby).await
    }

    /// Events of a lobby that count for players, ascending from behind `after`.
    ///
    /// # Errors
    /// As [`Store::history`].
    pub async fn game_events(
        &self,
        lobby: &LobbyId,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<GameEvent>, StoreError> {
        self.sql()?.game_events(lobby, after, limit).await
    }

    /// A player's statistics; empty for somebody who never played.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn statistics(&self, user: &UserId) -> Result<Statistics, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.statistics(user).await,
            Backend::Memory(memory) => Ok(memory.statistics(user)),
        }
    }

    /// At most `limit` players that have this statistic, by their ids, from behind `after`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn statistics_of(
        &self,
        stat: &str,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<(UserId, Statistic)>, StoreError> {
        self.sql()?.statistics_of(stat, after, limit).await
    }

    /// Adds an award; `false`: the player had it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn add_award(&self, award: &Award) -> Result<bool, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.add_award(award).await,
            Backend::Memory(memory) => Ok(memory.add_award(award)),
        }
    }

    /// A player's awards, by their names.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn awards(&self, user: &UserId) -> Result<Vec<Award>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.awards(user).await,
            Backend::Memory(memory) => Ok(memory.awards(user)),
        }
    }

    /// Awards that were not announced yet.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn unannounced(&self, limit: u32) -> Result<Vec<Award>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.unannounced(limit).await,
            Backend::Memory(memory) => Ok(memory.unannounced(limit)),
        }
    }

    /// Notes that awards were announced.
    ///
    /// # Errors
    /// `Unavailable`: they are announced again.
    pub async fn announced(&self, awards: &[Award]) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.announced(awards).await,
            Backend::Memory(memory) => {
                memory.announced(awards);
                Ok(())
            }
        }
    }
}
