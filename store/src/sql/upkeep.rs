//! What the archive and the jobs of an operator need beside events: cursors, rows set aside, walks over all lobbies.

use std::sync::Arc;

use mlms_protocol::{Epoch, LobbyEvent, LobbyId, Millis, Seq, Shard};

use super::connection::Value;
use super::fault::Fault;
use super::snapshots::advance;
use super::{READ_TIMEOUT, SAVE_TIMEOUT, SqlStore, damaged, within};
use crate::events::EventPlace;
use crate::row::{clamped, event_json, unsigned};
use crate::store::StoreError;

const SET_PUBLISHED: &str = "UPDATE published_shards SET epoch = ?, n = ? WHERE shard = ?";
const ADD_PUBLISHED: &str = "INSERT INTO published_shards (epoch, n, shard) VALUES (?, ?, ?)";
const FIND_PUBLISHED: &str = "SELECT epoch, n FROM published_shards WHERE shard = ?";
const SET_ASIDE: &str =
    "INSERT INTO refused_events (lobby, seq, epoch, at, why, payload) VALUES (?, ?, ?, ?, ?, ?)";
const COUNT_ASIDE: &str = "SELECT COUNT(*) FROM refused_events";
pub(super) const LOBBIES_AFTER: &str =
    "SELECT lobby FROM lobby_events WHERE lobby > ? GROUP BY lobby ORDER BY lobby LIMIT ?";
const COUNT_LOBBIES: &str = "SELECT COUNT(DISTINCT lobby) FROM lobby_events";
pub(super) const PLACES_AFTER: &str =
    "SELECT seq, epoch, at, kind FROM lobby_events WHERE lobby = ? AND seq > ? ORDER BY seq LIMIT ?";
pub(super) const PURGE: &str = "DELETE FROM lobby_events \
     WHERE lobby = ? AND seq > ? AND seq <= ? AND kind <> 'reported' AND kind <> 'game_finished'";
pub(super) const FIND_PURGED: &str = "SELECT seq FROM purged_lobbies WHERE lobby = ?";
const ADVANCE_PURGED: &str = "UPDATE purged_lobbies SET seq = ? WHERE lobby = ? AND seq < ?";
const ADD_PURGED: &str = "INSERT INTO purged_lobbies (seq, lobby) VALUES (?, ?)";
pub(super) const SNAPSHOTS_AFTER: &str =
    "SELECT lobby, seq FROM lobby_snapshots WHERE lobby > ? ORDER BY lobby LIMIT ?";

/// Longest text about why an event was refused, in characters.
const WHY_CHARS_MAX: usize = 1_000;
/// How often a purge that met another one runs.
const ATTEMPTS: u32 = 5;
/// A count goes through a whole index.
const COUNT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(600);

impl SqlStore {
    pub(crate) async fn load_published(&self, shard: Shard) -> Result<Option<(u64, u64)>, StoreError> {
        let shard = [Value::Int(shard.0.into())];
        let rows = within(READ_TIMEOUT, self.database.rows(FIND_PUBLISHED, shard)).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some((unsigned(row.int(0)?).map_err(damaged)?, unsigned(row.int(1)?).map_err(damaged)?)))
    }

    pub(crate) async fn save_published(&self, cursors: &[(Shard, u64, u64)]) -> Result<(), StoreError> {
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            for (shard, epoch, n) in cursors {
                let values = [clamped(*epoch), clamped(*n), shard.0.into()].map(Value::Int);
                if tx.execute(SET_PUBLISHED, values).await? == 0 {
                    match tx.execute(ADD_PUBLISHED, values).await {
                        Err(error) if Fault::of(&error) == Fault::Duplicate => {
                            tx.execute(SET_PUBLISHED, values).await?;
                        }
                        other => _ = other?,
                    }
                }
            }
            tx.commit().await
        })
        .await
    }

    pub(crate) async fn set_aside(&self, event: &Arc<LobbyEvent>, why: &str) -> Result<(), StoreError> {
        let payload = event_json(event);
        let why: String = why.chars().take(WHY_CHARS_MAX).collect();
        let numbers = [event.seq.0, event.epoch.0, event.at.0].map(|number| Value::Int(clamped(number)));
        let content = [Value::Text(&why), Value::Bytes(&payload)];
        let values = [Value::Text(event.lobby.as_str())].into_iter().chain(numbers).chain(content);
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            match tx.execute(SET_ASIDE, values).await {
                // An earlier attempt whose answer got lost.
                Err(error) if Fault::of(&error) == Fault::Duplicate => return Ok(()),
                other => _ = other?,
            }
            tx.commit().await
        })
        .await
    }

    async fn count(&self, sql: &'static str) -> Result<u64, StoreError> {
        let rows = within(COUNT_TIMEOUT, self.database.rows(sql, [])).await?;
        rows.first().map_or(Ok(0), |row| unsigned(row.int(0)?).map_err(damaged))
    }

    pub(crate) async fn count_aside(&self) -> Result<u64, StoreError> {
        self.count(COUNT_ASIDE).await
    }

    pub(crate) async fn count_lobbies(&self) -> Result<u64, StoreError> {
        self.count(COUNT_LOBBIES).await
    }

    pub(crate) async fn lobbies_after(
        &self,
        after: Option<&LobbyId>,
        limit: u32,
    ) -> Result<Vec<LobbyId>, StoreError> {
        let values = [Value::Text(after.map_or("", LobbyId::as_str)), Value::Int(limit.into())];
        let rows = within(COUNT_TIMEOUT, self.database.rows(LOBBIES_AFTER, values)).await?;
        let read = |row: &super::connection::Row| {
            LobbyId::new(&row.text(0)?).map_err(|error| damaged(error.to_string()))
        };
        rows.iter().map(read).collect()
    }

    pub(crate) async fn places(
        &self,
        lobby: &LobbyId,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<EventPlace>, StoreError> {
        let bounds = [Value::Int(clamped(after.0)), Value::Int(limit.into())];
        let values = [Value::Text(lobby.as_str())].into_iter().chain(bounds);
        let rows = within(READ_TIMEOUT, self.database.rows(PLACES_AFTER, values)).await?;
        let read = |row: &super::connection::Row| {
            Ok(EventPlace {
                seq: Seq(unsigned(row.int(0)?).map_err(damaged)?),
                epoch: Epoch(unsigned(row.int(1)?).map_err(damaged)?),
                at: Millis(unsigned(row.int(2)?).map_err(damaged)?),
                kind: row.text(3)?,
            })
        };
        rows.iter().map(read).collect()
    }

    pub(crate) async fn purged_through(&self, lobby: &LobbyId) -> Result<Seq, StoreError> {
        let lobby = [Value::Text(lobby.as_str())];
        let rows = within(READ_TIMEOUT, self.database.rows(FIND_PURGED, lobby)).await?;
        rows.first().map_or(Ok(Seq(0)), |row| Ok(Seq(unsigned(row.int(0)?).map_err(damaged)?)))
    }

    pub(crate) async fn purge(&self, lobby: &LobbyId, after: Seq, through: Seq) -> Result<u64, StoreError> {
        let (lobby, through) = (Value::Text(lobby.as_str()), Value::Int(clamped(through.0)));
        within(SAVE_TIMEOUT, async {
            let mut attempt = 1;
            loop {
                match self.purge_once(lobby, Value::Int(clamped(after.0)), through).await {
                    // Another one purges it, too.
                    Err(error) if Fault::of(&error) == Fault::Deadlock && attempt < ATTEMPTS => attempt += 1,
                    outcome => return outcome,
                }
            }
        })
        .await
    }

    async fn purge_once(
        &self,
        lobby: Value<'_>,
        after: Value<'_>,
        through: Value<'_>,
    ) -> Result<u64, sqlx::Error> {
        let mut tx = self.database.begin().await?;
        // The mark first: events are never gone without it. Of two that purge at once, the further one's stays.
        let forward = (ADVANCE_PURGED, vec![through, lobby, through]);
        advance(&mut tx, forward, (FIND_PURGED, vec![lobby]), (ADD_PURGED, vec![through, lobby])).await?;
        let purged = tx.execute(PURGE, [lobby, after, through]).await?;
        tx.commit().await?;
        Ok(purged)
    }

    pub(crate) async fn snapshots_after(
        &self,
        after: Option<&LobbyId>,
        limit: u32,
    ) -> Result<Vec<(LobbyId, Seq)>, StoreError> {
        let values = [Value::Text(after.map_or("", LobbyId::as_str)), Value::Int(limit.into())];
        let rows = within(READ_TIMEOUT, self.database.rows(SNAPSHOTS_AFTER, values)).await?;
        let read = |row: &super::connection::Row| {
            let lobby = LobbyId::new(&row.text(0)?).map_err(|error| damaged(error.to_string()))?;
            Ok((lobby, Seq(unsigned(row.int(1)?).map_err(damaged)?)))
        };
        rows.iter().map(read).collect()
    }
}
