//! What the store can do with lobbies' events, whichever database is behind it: save, read back, alter, purge, and set
//! aside. The archive saves, histories read; nothing here knows of a lobby's state.

use std::sync::Arc;

use mlms_protocol::{Body, Epoch, LobbyEvent, LobbyId, Millis, Seq, UserId};

use crate::audit::Topic;
use crate::store::{Backend, Store, StoreError};

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

/// Where a stored event stands, without what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPlace {
    pub seq: Seq,
    pub epoch: Epoch,
    pub at: Millis,
    pub kind: String,
}

impl Store {
    /// Saves events in one transaction. Idempotent by lobby and seq; of two events with the same, the higher epoch wins.
    ///
    /// # Errors
    /// `Unavailable`, or `Rejected` with the event that spoils the call: nothing was saved then, or everything but what
    /// that event alters.
    pub async fn save_events(&self, events: &[Arc<LobbyEvent>]) -> Result<SaveReport, StoreError> {
        let report = match &self.0 {
            Backend::Sql(sql) => sql.save_events(events).await?,
            Backend::Memory(memory) => memory.save_events(events)?,
        };
        for (index, event) in events.iter().enumerate() {
            let Some((of, body)) = event.alters() else { continue };
            self.alter(&event.lobby, of, body).await.map_err(|error| match error {
                // The database refuses the altered message, or it cannot be read: this event is to blame, not the first.
                StoreError::Rejected { why, .. } | StoreError::Incompatible(why) => {
                    StoreError::Rejected { index, why }
                }
                other => other,
            })?;
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

    /// A lobby's events about something, the newest first, with a seq below `before`.
    ///
    /// # Errors
    /// As [`Store::history`].
    pub async fn events_about(
        &self,
        lobby: &LobbyId,
        topic: Topic,
        before: Seq,
        limit: u32,
    ) -> Result<Vec<LobbyEvent>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.events_about(lobby, topic, before, limit).await,
            Backend::Memory(memory) => Ok(memory.events_about(lobby, topic, before, limit)),
        }
    }

    /// Lobbies that have events, by their ids, from behind `after`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn lobbies_after(
        &self,
        after: Option<&LobbyId>,
        limit: u32,
    ) -> Result<Vec<LobbyId>, StoreError> {
        self.sql()?.lobbies_after(after, limit).await
    }

    /// How many lobbies have events; goes through a whole index.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn count_lobbies(&self) -> Result<u64, StoreError> {
        self.sql()?.count_lobbies().await
    }

    /// Where a lobby's events stand, ascending from behind `after`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn places(
        &self,
        lobby: &LobbyId,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<EventPlace>, StoreError> {
        self.sql()?.places(lobby, after, limit).await
    }

    /// Sets an event aside that the database refuses, with the reason, where a human finds it.
    ///
    /// # Errors
    /// `Unavailable`; or `Rejected` where it is refused there, too.
    pub async fn set_aside(&self, event: &Arc<LobbyEvent>, why: &str) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.set_aside(event, why).await,
            Backend::Memory(_) => Ok(()),
        }
    }

    /// How many events were set aside.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn count_aside(&self) -> Result<u64, StoreError> {
        self.sql()?.count_aside().await
    }

    /// Up to which event a lobby's history was purged; 0: never.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn purged_through(&self, lobby: &LobbyId) -> Result<Seq, StoreError> {
        self.sql()?.purged_through(lobby).await
    }

    /// Removes a lobby's events behind `after` up to `through`, all but those that count for players.
    ///
    /// # Errors
    /// `Unavailable`: nothing was removed.
    pub async fn purge(&self, lobby: &LobbyId, after: Seq, through: Seq) -> Result<u64, StoreError> {
        self.sql()?.purge(lobby, after, through).await
    }
}
