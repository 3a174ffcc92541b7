//! Lobbies' states and shards' epochs: rows that only ever move forward.

use mlms_protocol::{Epoch, LobbyId, Millis, Seq, Shard};

use super::connection::{Value, Writing};
use super::fault::Fault;
use super::{READ_TIMEOUT, SAVE_TIMEOUT, SqlStore, damaged, within};
use crate::row::{clamped, signed, unsigned};
use crate::store::StoreError;

pub(super) const ADVANCE_LOBBY: &str = "UPDATE lobby_snapshots SET seq = ?, epoch = ?, at = ?, closed = ?, state = ? \
     WHERE lobby = ? AND (seq < ? OR (seq = ? AND epoch <= ?))";
const FIND_LOBBY: &str = "SELECT seq FROM lobby_snapshots WHERE lobby = ?";
const ADD_LOBBY: &str =
    "INSERT INTO lobby_snapshots (seq, epoch, at, closed, state, lobby) VALUES (?, ?, ?, ?, ?, ?)";
pub(super) const LOAD_LOBBY: &str = "SELECT seq, state FROM lobby_snapshots WHERE lobby = ?";
pub(super) const IDLE_LOBBIES: &str = "SELECT lobby, at FROM lobby_snapshots \
     WHERE closed = 0 AND at >= ? AND at < ? AND (at > ? OR lobby > ?) ORDER BY at, lobby LIMIT ?";
const ADVANCE_EPOCH: &str = "UPDATE shard_epochs SET epoch = ? WHERE shard = ? AND epoch < ?";
const FIND_EPOCH: &str = "SELECT epoch FROM shard_epochs WHERE shard = ?";
const ADD_EPOCH: &str = "INSERT INTO shard_epochs (epoch, shard) VALUES (?, ?)";
const LOAD_EPOCHS: &str = "SELECT shard, epoch FROM shard_epochs ORDER BY shard";

/// A statement with its values.
type Statement<'a> = (&'static str, Vec<Value<'a>>);

/// Moves a row forward, or adds it where there is none. Portable, and without the traps of `ON DUPLICATE KEY`.
pub(super) async fn advance(
    tx: &mut Writing,
    forward: Statement<'_>,
    find: Statement<'_>,
    add: Statement<'_>,
) -> Result<(), sqlx::Error> {
    let run =
        async |tx: &mut Writing, (sql, values): &Statement<'_>| tx.execute(sql, values.iter().copied()).await;
    if run(tx, &forward).await? > 0 || !tx.rows(find.0, find.1.iter().copied()).await?.is_empty() {
        return Ok(());
    }
    match run(tx, &add).await {
        // Another process added it in between.
        Err(error) if Fault::of(&error) == Fault::Duplicate => run(tx, &forward).await.map(drop),
        other => other.map(drop),
    }
}

fn out_of_range(what: &str) -> StoreError {
    StoreError::Rejected { index: 0, why: format!("its {what} is out of range") }
}

impl SqlStore {
    pub(crate) async fn save_lobby(
        &self,
        lobby: &LobbyId,
        seq: Seq,
        epoch: Epoch,
        at: Millis,
        closed: bool,
        state: &[u8],
    ) -> Result<(), StoreError> {
        let seq = Value::Int(signed(seq.0).ok_or_else(|| out_of_range("seq"))?);
        let epoch = Value::Int(signed(epoch.0).ok_or_else(|| out_of_range("epoch"))?);
        let at = Value::Int(signed(at.0).ok_or_else(|| out_of_range("time"))?);
        let id = Value::Text(lobby.as_str());
        let row = [seq, epoch, at, Value::Int(closed.into()), Value::Bytes(state), id];
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            let forward = (ADVANCE_LOBBY, row.into_iter().chain([seq, seq, epoch]).collect());
            advance(&mut tx, forward, (FIND_LOBBY, vec![id]), (ADD_LOBBY, row.to_vec())).await?;
            tx.commit().await
        })
        .await
    }

    pub(crate) async fn load_lobby(&self, lobby: &LobbyId) -> Result<Option<(Seq, Vec<u8>)>, StoreError> {
        let rows =
            within(READ_TIMEOUT, self.database.rows(LOAD_LOBBY, [Value::Text(lobby.as_str())])).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some((Seq(unsigned(row.int(0)?).map_err(damaged)?), row.bytes(1)?)))
    }

    pub(crate) async fn idle_lobbies(
        &self,
        after: Option<&(LobbyId, Millis)>,
        before: Millis,
        limit: u32,
    ) -> Result<Vec<(LobbyId, Millis)>, StoreError> {
        let (lobby, at) = after.map_or(("", 0), |(lobby, at)| (lobby.as_str(), clamped(at.0)));
        let (from, before) = (Value::Int(at), Value::Int(clamped(before.0)));
        let values = [from, before, from, Value::Text(lobby), Value::Int(limit.into())];
        let rows = within(READ_TIMEOUT, self.database.rows(IDLE_LOBBIES, values)).await?;
        let read = |row: &super::connection::Row| {
            let lobby = LobbyId::new(&row.text(0)?).map_err(|error| damaged(error.to_string()))?;
            Ok((lobby, Millis(unsigned(row.int(1)?).map_err(damaged)?)))
        };
        rows.iter().map(read).collect()
    }

    pub(crate) async fn save_shard_epoch(&self, shard: Shard, epoch: Epoch) -> Result<(), StoreError> {
        let epoch = Value::Int(signed(epoch.0).ok_or_else(|| out_of_range("epoch"))?);
        let shard = Value::Int(shard.0.into());
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            let forward = (ADVANCE_EPOCH, vec![epoch, shard, epoch]);
            advance(&mut tx, forward, (FIND_EPOCH, vec![shard]), (ADD_EPOCH, vec![epoch, shard])).await?;
            tx.commit().await
        })
        .await
    }

    pub(crate) async fn shard_epoch(&self, shard: Shard) -> Result<Option<Epoch>, StoreError> {
        let values = [Value::Int(shard.0.into())];
        let rows = within(READ_TIMEOUT, self.database.rows(FIND_EPOCH, values)).await?;
        let read = |row: &super::connection::Row| Ok(Epoch(unsigned(row.int(0)?).map_err(damaged)?));
        rows.first().map(read).transpose()
    }

    pub(crate) async fn load_shard_epochs(&self) -> Result<Vec<(Shard, Epoch)>, StoreError> {
        let rows = within(READ_TIMEOUT, self.database.rows(LOAD_EPOCHS, [])).await?;
        let read = |row: &super::connection::Row| {
            let shard = row.int(0)?;
            let shard = u16::try_from(shard).map_err(|_| damaged(format!("shard {shard}")))?;
            Ok((Shard(shard), Epoch(unsigned(row.int(1)?).map_err(damaged)?)))
        };
        rows.iter().map(read).collect()
    }
}
