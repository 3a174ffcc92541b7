//! Events into the database and back. Events are saved in few large statements; only what a large statement does
//! not take goes in one by one.

use std::sync::{Arc, LazyLock};

use mlms_protocol::{LobbyEvent, LobbyId, Seq, UserId};

use super::connection::{Row, Value, Writing};
use super::fault::Fault;
use super::{READ_TIMEOUT, SAVE_TIMEOUT, SqlStore, within};
use crate::events::{PlayerPosition, Range, SaveReport};
use crate::row::{self, EventRow, clamped};
use crate::statistics::GameEvent;
use crate::store::StoreError;

/// Rows of one statement: fixed, because prepared statements are kept by their text.
const BATCH_ROWS: [usize; 4] = [1_000, 100, 10, 1];
/// Bytes of a statement of more than one row; far below the packet limit of a server as it comes (16 MiB).
const BATCH_BYTES_MAX: usize = 2 << 20;
/// How often a transaction that met another one runs before the caller hears of it.
const ATTEMPTS: u32 = 3;

const COLUMNS: usize = 10;
static INSERT: LazyLock<[String; BATCH_ROWS.len()]> = LazyLock::new(|| {
    BATCH_ROWS.map(|rows| {
        let row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let mut sql = "INSERT INTO lobby_events \
            (lobby, seq, epoch, at, kind, message_kind, user, nonce, payload, packed) VALUES "
            .to_owned();
        sql.push_str(&vec![row; rows].join(", "));
        sql
    })
});
const REPLACE: &str = "UPDATE lobby_events SET epoch = ?, at = ?, kind = ?, message_kind = ?, user = ?, nonce = ?, \
     payload = ?, packed = ? WHERE lobby = ? AND seq = ? AND epoch < ?";
const REPLACE_BODY: &str = "UPDATE lobby_events SET payload = ?, packed = ? \
     WHERE lobby = ? AND seq = ? AND epoch = ? AND kind = 'message'";
pub(super) const FIND_EPOCH: &str = "SELECT epoch FROM lobby_events WHERE lobby = ? AND seq = ?";
pub(super) const FIRST_BETWEEN: &str = "SELECT kind, payload, packed, seq, lobby FROM lobby_events \
     WHERE lobby = ? AND seq > ? AND seq < ? ORDER BY seq LIMIT ?";
pub(super) const GAMES_BETWEEN: &str = "SELECT kind, payload, packed, seq, lobby FROM lobby_events \
     WHERE lobby = ? AND seq > ? AND seq < ? AND kind IN ('reported', 'game_finished') ORDER BY seq LIMIT ?";
pub(super) const LAST_BETWEEN: &str = "SELECT kind, payload, packed, seq, lobby FROM lobby_events \
     WHERE lobby = ? AND seq > ? AND seq < ? ORDER BY seq DESC LIMIT ?";
/// The first bound on `at` is what the index is entered by; the rest tells events of one millisecond apart.
pub(super) const OF_PLAYER: &str = "SELECT kind, payload, packed, seq, lobby FROM lobby_events \
     WHERE user = ? AND at <= ? AND (at < ? OR (at = ? AND (lobby < ? OR (lobby = ? AND seq < ?)))) \
     ORDER BY at DESC, lobby DESC, seq DESC LIMIT ?";

fn values<'a>(row: &'a EventRow<'_>) -> [Value<'a>; COLUMNS] {
    [
        Value::Text(row.lobby.as_str()),
        Value::Int(row.seq),
        Value::Int(row.epoch),
        Value::Int(row.at),
        Value::Text(row.kind),
        Value::MaybeText(row.message_kind),
        Value::MaybeText(row.user),
        Value::MaybeText(row.nonce),
        Value::Text(&row.payload),
        Value::MaybeBytes(row.packed.as_deref()),
    ]
}

/// Cuts the longest statement off the front: which of the prepared ones, and how many rows.
fn next_batch(rows: &[EventRow<'_>], bytes_max: usize) -> (usize, usize) {
    let fits = |count: usize| {
        rows.len() >= count && rows[..count].iter().map(EventRow::byte_len).sum::<usize>() <= bytes_max
    };
    let largest = BATCH_ROWS.into_iter().enumerate().find(|(_, count)| fits(*count));
    largest.unwrap_or((BATCH_ROWS.len() - 1, 1))
}

/// Saves one event beside whatever is there under its lobby and seq.
async fn save_one(tx: &mut Writing, row: &EventRow<'_>, report: &mut SaveReport) -> Result<(), sqlx::Error> {
    let insert = match tx.execute(&INSERT[BATCH_ROWS.len() - 1], values(row)).await {
        Err(error) if Fault::of(&error) == Fault::Duplicate => error,
        other => {
            report.inserted += 1;
            return other.map(drop);
        }
    };
    let [lobby, seq, epoch, rest @ ..] = values(row);
    if tx.execute(REPLACE, [epoch].into_iter().chain(rest).chain([lobby, seq, epoch])).await? > 0 {
        report.replaced += 1;
        return Ok(());
    }
    match tx.rows(FIND_EPOCH, [lobby, seq]).await?.first().map(|row| row.int(0)).transpose()? {
        Some(stored) if stored == row.epoch => report.repeated += 1,
        Some(_) => report.kept_newer += 1,
        // Refused as a duplicate of a row that is gone again: the caller tries once more.
        None => return Err(insert),
    }
    Ok(())
}

impl SqlStore {
    pub(crate) async fn save_events(&self, events: &[Arc<LobbyEvent>]) -> Result<SaveReport, StoreError> {
        let mut rows = Vec::with_capacity(events.len());
        for (index, event) in events.iter().enumerate() {
            let row = EventRow::of(event).map_err(|why| StoreError::Rejected { index, why })?;
            // A server cuts the connection over it, which looks like a server that is away.
            let (bytes, bytes_max) = (row.byte_len(), self.database.statement_bytes_max());
            if bytes > bytes_max {
                let why = format!("it has {bytes} bytes, and the server takes {bytes_max} in one packet");
                return Err(StoreError::Rejected { index, why });
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Ok(SaveReport::default());
        }
        within(SAVE_TIMEOUT, async {
            let mut attempt = 1;
            loop {
                let error = match self.save_batches(&rows).await {
                    Ok(report) => return Ok(report),
                    Err(error) => error,
                };
                match Fault::of(&error) {
                    Fault::Deadlock if attempt < ATTEMPTS => attempt += 1,
                    Fault::Row | Fault::Unknown => return self.save_singly(&rows).await,
                    _ => return Err(StoreError::from(error)),
                }
            }
        })
        .await
    }

    async fn save_batches(&self, rows: &[EventRow<'_>]) -> Result<SaveReport, sqlx::Error> {
        let mut report = SaveReport::default();
        let mut tx = self.database.begin().await?;
        let mut rest = rows;
        let bytes_max = BATCH_BYTES_MAX.min(self.database.statement_bytes_max());
        while !rest.is_empty() {
            let (statement, count) = next_batch(rest, bytes_max);
            let (batch, after) = rest.split_at(count);
            match tx.execute(&INSERT[statement], batch.iter().flat_map(values)).await {
                Ok(_) => report.inserted += count as u64,
                Err(error) if Fault::of(&error) == Fault::Duplicate => {
                    for row in batch {
                        save_one(&mut tx, row, &mut report).await?;
                    }
                }
                Err(error) => return Err(error),
            }
            rest = after;
        }
        tx.commit().await?;
        Ok(report)
    }

    /// Saves row by row, to tell a row that the database refuses from a database that refuses every row.
    async fn save_singly(&self, rows: &[EventRow<'_>]) -> Result<SaveReport, StoreError> {
        let mut report = SaveReport::default();
        let mut tx = self.database.begin().await?;
        for (index, row) in rows.iter().enumerate() {
            let Err(error) = save_one(&mut tx, row, &mut report).await else { continue };
            // Dropped with an error, the transaction leaves nothing.
            return Err(match Fault::of(&error) {
                Fault::Row => rejected(index, &error),
                Fault::Unknown if takes_a_harmless_row(&mut tx).await => rejected(index, &error),
                _ => error.into(),
            });
        }
        tx.commit().await?;
        Ok(report)
    }

    /// Writes a message anew whose body was edited or blanked.
    pub(crate) async fn replace_body(&self, event: &LobbyEvent) -> Result<(), StoreError> {
        let row = EventRow::of(event).map_err(StoreError::Incompatible)?;
        let [lobby, seq, epoch, .., payload, packed] = values(&row);
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            tx.execute(REPLACE_BODY, [payload, packed, lobby, seq, epoch]).await?;
            tx.commit().await
        })
        .await?;
        Ok(())
    }

    pub(crate) async fn history(
        &self,
        lobby: &LobbyId,
        range: Range,
        floor: Seq,
        limit: u32,
    ) -> Result<Vec<LobbyEvent>, StoreError> {
        let (sql, above, below) = match range {
            Range::After(seq) => (FIRST_BETWEEN, seq.max(floor), Seq(u64::MAX)),
            Range::Before(seq) => (LAST_BETWEEN, floor, seq),
            Range::Latest => (LAST_BETWEEN, floor, Seq(u64::MAX)),
        };
        let bounds = [Value::Int(clamped(above.0)), Value::Int(clamped(below.0)), Value::Int(limit.into())];
        let values = [Value::Text(lobby.as_str())].into_iter().chain(bounds);
        let mut events = read_all(&within(READ_TIMEOUT, self.database.rows(sql, values)).await?)?;
        if sql == LAST_BETWEEN {
            events.reverse();
        }
        Ok(events)
    }

    pub(crate) async fn game_events(
        &self,
        lobby: &LobbyId,
        after: Seq,
        limit: u32,
    ) -> Result<Vec<GameEvent>, StoreError> {
        let bounds = [clamped(after.0), i64::MAX, limit.into()].map(Value::Int);
        let values = [Value::Text(lobby.as_str())].into_iter().chain(bounds);
        game_events(&within(READ_TIMEOUT, self.database.rows(GAMES_BETWEEN, values)).await?)
    }

    pub(crate) async fn player_events(
        &self,
        user: &UserId,
        before: Option<&PlayerPosition>,
        limit: u32,
    ) -> Result<Vec<LobbyEvent>, StoreError> {
        let values = player_values(user, before, limit);
        read_all(&within(READ_TIMEOUT, self.database.rows(OF_PLAYER, values)).await?)
    }
}

/// Whether the database takes a row that nobody could refuse for what it holds: then whatever it has refused before
/// was the row's fault, whichever error it gave, and however many rows it refuses. To be rolled back.
async fn takes_a_harmless_row(tx: &mut Writing) -> bool {
    // Seqs begin with 1: this one meets no event.
    let [lobby, number, kind, payload] =
        [Value::Text("-"), Value::Int(0), Value::Text("message"), Value::Text("{}")];
    let nothing = Value::MaybeText(None);
    let row =
        [lobby, number, number, number, kind, nothing, nothing, nothing, payload, Value::MaybeBytes(None)];
    tx.execute(&INSERT[BATCH_ROWS.len() - 1], row).await.is_ok()
}

fn rejected(index: usize, error: &sqlx::Error) -> StoreError {
    StoreError::Rejected { index, why: error.to_string() }
}

pub(super) fn player_values<'a>(
    user: &'a UserId,
    before: Option<&'a PlayerPosition>,
    limit: u32,
) -> [Value<'a>; 8] {
    let (at, lobby, seq) = match before {
        Some(position) => (clamped(position.at.0), position.lobby.as_str(), clamped(position.seq.0)),
        None => (i64::MAX, "", 0),
    };
    let (at, lobby) = (Value::Int(at), Value::Text(lobby));
    let user = Value::Text(user.as_str());
    [user, at, at, at, lobby, lobby, Value::Int(seq), Value::Int(limit.into())]
}

/// The events that count, among rows of [`GAMES_BETWEEN`].
pub(super) fn game_events(rows: &[Row]) -> Result<Vec<GameEvent>, StoreError> {
    Ok(read_all(rows)?.iter().filter_map(GameEvent::of).collect())
}

pub(super) fn read_all(rows: &[Row]) -> Result<Vec<LobbyEvent>, StoreError> {
    let read = |row: &Row| {
        let packed = row.maybe_bytes(2)?;
        let event = row::read(&row.text(0)?, &row.text(1)?, packed.as_deref());
        match (event, row.int(3)?, row.text(4)?) {
            (Ok(event), _, _) => Ok(event),
            (Err(why), seq, lobby) => Err(StoreError::Incompatible(format!("event {lobby}/{seq}: {why}"))),
        }
    };
    rows.iter().map(read).collect()
}
