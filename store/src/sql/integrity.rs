//! What the check of the integrity asks: places where two tables disagree. Each question goes through whole tables.

use mlms_protocol::{LobbyId, UserId};

use super::connection::{Row, Value};
use super::{SqlStore, damaged, within};
use crate::store::StoreError;

const WITHOUT_EVENTS: &str = "SELECT DISTINCT s.lobby FROM lobby_statistics s WHERE s.lobby > ? \
     AND NOT EXISTS (SELECT 1 FROM lobby_events e WHERE e.lobby = s.lobby) ORDER BY s.lobby LIMIT ?";
const COUNTED_AHEAD: &str = "SELECT f.lobby FROM folded_lobbies f WHERE f.lobby > ? \
     AND f.seq > (SELECT COALESCE(MAX(e.seq), 0) FROM lobby_events e WHERE e.lobby = f.lobby) ORDER BY f.lobby LIMIT ?";
const UNEVEN: &str = "SELECT p.user, p.stat FROM player_statistics p LEFT JOIN \
     (SELECT user, stat, SUM(times) AS times, SUM(total) AS total FROM lobby_statistics GROUP BY user, stat) l \
     ON l.user = p.user AND l.stat = p.stat \
     WHERE COALESCE(l.times, 0) <> p.times OR COALESCE(l.total, 0) <> p.total ORDER BY p.user, p.stat LIMIT ?";

/// A question to whole tables.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(600);

impl SqlStore {
    async fn lobbies(
        &self,
        sql: &'static str,
        after: Option<&LobbyId>,
        limit: u32,
    ) -> Result<Vec<LobbyId>, StoreError> {
        let values = [Value::Text(after.map_or("", LobbyId::as_str)), Value::Int(limit.into())];
        let rows = within(TIMEOUT, self.database.rows(sql, values)).await?;
        let read = |row: &Row| LobbyId::new(&row.text(0)?).map_err(|error| damaged(error.to_string()));
        rows.iter().map(read).collect()
    }

    pub(crate) async fn statistics_without_events(
        &self,
        after: Option<&LobbyId>,
        limit: u32,
    ) -> Result<Vec<LobbyId>, StoreError> {
        self.lobbies(WITHOUT_EVENTS, after, limit).await
    }

    pub(crate) async fn counted_ahead(
        &self,
        after: Option<&LobbyId>,
        limit: u32,
    ) -> Result<Vec<LobbyId>, StoreError> {
        self.lobbies(COUNTED_AHEAD, after, limit).await
    }

    pub(crate) async fn uneven_statistics(&self, limit: u32) -> Result<Vec<(UserId, String)>, StoreError> {
        let rows = within(TIMEOUT, self.database.rows(UNEVEN, [Value::Int(limit.into())])).await?;
        let read = |row: &Row| {
            let user = UserId::new(&row.text(0)?).map_err(|error| damaged(error.to_string()))?;
            Ok((user, row.text(1)?))
        };
        rows.iter().map(read).collect()
    }
}
