//! Players' statistics and awards. Whoever counts a lobby's events holds its row in `folded_lobbies`, so that each
//! event counts once, however often it comes and whoever brings it. A player's sums are locked by themselves, since a
//! player's lobbies are counted at once.

use std::collections::BTreeMap;

use mlms_protocol::{LobbyId, Millis, Seq, UserId};

use super::connection::{Row, Value, Writing};
use super::fault::Fault;
use super::{READ_TIMEOUT, SAVE_TIMEOUT, SqlStore, damaged, within};
use crate::row::{clamped, unsigned};
use crate::statistics::{Award, GameEvent, Statistic, Statistics, Tally};
use crate::store::StoreError;

/// How often a transaction that met another one runs before the caller hears of it: two that count lobbies of the same
/// players meet often, and one of them always gets through.
const ATTEMPTS: u32 = 50;
/// Events read at once while a lobby is counted again.
const PAGE: u32 = 1_000;

/// Also takes the row's lock, on a database that has such.
const LOCK: &str = "UPDATE folded_lobbies SET seq = seq WHERE lobby = ?";
const ADD_LOBBY: &str = "INSERT INTO folded_lobbies (seq, lobby) VALUES (?, ?)";
const FIND_LOBBY: &str = "SELECT seq FROM folded_lobbies WHERE lobby = ?";
const ADVANCE: &str = "UPDATE folded_lobbies SET seq = ? WHERE lobby = ?";

pub(super) const RUNNING: &str = "SELECT game, stat, user, total FROM game_totals WHERE lobby = ?";
const SET_RUNNING: &str =
    "UPDATE game_totals SET total = ? WHERE lobby = ? AND game = ? AND stat = ? AND user = ?";
const ADD_RUNNING: &str = "INSERT INTO game_totals (total, lobby, game, stat, user) VALUES (?, ?, ?, ?, ?)";
const FORGET_RUNNING: &str = "DELETE FROM game_totals WHERE lobby = ? AND game < ?";

pub(super) const IN_LOBBY: &str =
    "SELECT times, total, highest FROM lobby_statistics WHERE lobby = ? AND user = ? AND stat = ?";
const SET_IN_LOBBY: &str = "UPDATE lobby_statistics SET times = ?, total = ?, highest = ? \
     WHERE lobby = ? AND user = ? AND stat = ?";
const ADD_IN_LOBBY: &str =
    "INSERT INTO lobby_statistics (times, total, highest, lobby, user, stat) VALUES (?, ?, ?, ?, ?, ?)";
pub(super) const ALL_IN_LOBBY: &str =
    "SELECT times, total, highest, user, stat FROM lobby_statistics WHERE lobby = ?";
const REMOVE_IN_LOBBY: &str = "DELETE FROM lobby_statistics WHERE lobby = ? AND user = ? AND stat = ?";

/// Also takes the row's lock: other lobbies of the player may be counted at the same time.
pub(super) const LOCK_PLAYER: &str = "UPDATE player_statistics SET times = times WHERE user = ? AND stat = ?";
pub(super) const OF_PLAYER_ONE: &str =
    "SELECT times, total, highest FROM player_statistics WHERE user = ? AND stat = ?";
const SET_OF_PLAYER: &str =
    "UPDATE player_statistics SET times = ?, total = ?, highest = ? WHERE user = ? AND stat = ?";
const ADD_OF_PLAYER: &str =
    "INSERT INTO player_statistics (times, total, highest, user, stat) VALUES (?, ?, ?, ?, ?)";
pub(super) const OF_PLAYER: &str =
    "SELECT times, total, highest, stat FROM player_statistics WHERE user = ? ORDER BY stat";
pub(super) const BY_STAT: &str = "SELECT times, total, highest, user FROM player_statistics \
     WHERE stat = ? AND user > ? ORDER BY user LIMIT ?";

const ADD_AWARD: &str =
    "INSERT INTO player_achievements (at, announced, user, achievement) VALUES (?, ?, ?, ?)";
pub(super) const AWARDS: &str =
    "SELECT user, achievement, at FROM player_achievements WHERE user = ? ORDER BY achievement";
pub(super) const UNANNOUNCED: &str = "SELECT user, achievement, at FROM player_achievements \
     WHERE announced = 0 ORDER BY at LIMIT ?";
const ANNOUNCED: &str = "UPDATE player_achievements SET announced = 1 WHERE user = ? AND achievement = ?";

/// How an attempt failed.
enum Failed {
    /// Another transaction was in the way: the same again can succeed at once.
    Deadlock(String),
    Otherwise(StoreError),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        match Fault::of(&error) {
            Fault::Deadlock => Failed::Deadlock(error.to_string()),
            _ => Failed::Otherwise(error.into()),
        }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Failed::Otherwise(error)
    }
}

fn statistic(row: &Row) -> Result<Statistic, sqlx::Error> {
    Ok(Statistic { times: row.int(0)?, total: row.int(1)?, highest: row.int(2)? })
}

fn numbers(statistic: Statistic) -> [Value<'static>; 3] {
    [statistic.times, statistic.total, statistic.highest].map(Value::Int)
}

fn user(text: &str) -> Result<UserId, StoreError> {
    UserId::new(text).map_err(|error| damaged(error.to_string()))
}

fn award(row: &Row) -> Result<Award, StoreError> {
    let at = Millis(unsigned(row.int(2)?).map_err(damaged)?);
    Ok(Award { user: user(&row.text(0)?)?, achievement: row.text(1)?, at })
}

/// Takes a lobby's lock, and gives the last event that was counted.
async fn lock(tx: &mut Writing, lobby: Value<'_>) -> Result<i64, sqlx::Error> {
    if tx.execute(LOCK, [lobby]).await? == 0 {
        match tx.execute(ADD_LOBBY, [Value::Int(0), lobby]).await {
            // Another process added it in between, and holds it until its transaction ends.
            Err(error) if Fault::of(&error) == Fault::Duplicate => _ = tx.execute(LOCK, [lobby]).await?,
            other => _ = other?,
        }
    }
    let rows = tx.rows(FIND_LOBBY, [lobby]).await?;
    rows.first().map_or(Ok(0), |row| row.int(0))
}

/// Sets a row, or adds it where there is none.
async fn put(
    tx: &mut Writing,
    set: &'static str,
    add: &'static str,
    values: &[Value<'_>],
) -> Result<(), sqlx::Error> {
    if tx.execute(set, values.iter().copied()).await? == 0 {
        match tx.execute(add, values.iter().copied()).await {
            Err(error) if Fault::of(&error) == Fault::Duplicate => {
                tx.execute(set, values.iter().copied()).await?;
            }
            other => _ = other?,
        }
    }
    Ok(())
}

/// Adds to the sum of a player's lobbies.
async fn add_to_player(
    tx: &mut Writing,
    user: &UserId,
    stat: &str,
    gained: Statistic,
) -> Result<(), sqlx::Error> {
    let key = [Value::Text(user.as_str()), Value::Text(stat)];
    if tx.execute(LOCK_PLAYER, key).await? == 0 {
        let [times, total, highest] = numbers(Statistic::default());
        match tx.execute(ADD_OF_PLAYER, [times, total, highest, key[0], key[1]]).await {
            // Another process added it in between, and holds it until its transaction ends.
            Err(error) if Fault::of(&error) == Fault::Duplicate => _ = tx.execute(LOCK_PLAYER, key).await?,
            other => _ = other?,
        }
    }
    // Nobody else changes it from here to the commit.
    let rows = tx.rows(OF_PLAYER_ONE, key).await?;
    let mut sum = rows.first().map_or(Ok(Statistic::default()), statistic)?;
    sum.add(gained);
    let [times, total, highest] = numbers(sum);
    tx.execute(SET_OF_PLAYER, [times, total, highest, key[0], key[1]]).await.map(drop)
}

async fn load_running(tx: &mut Writing, lobby: Value<'_>) -> Result<Tally, Failed> {
    let mut fold = Tally::default();
    for row in tx.rows(RUNNING, [lobby]).await? {
        let game = unsigned(row.int(0)?).map_err(damaged)?;
        fold.running.insert((game, row.text(1)?, user(&row.text(2)?)?), row.int(3)?);
    }
    Ok(fold)
}

async fn save_running(tx: &mut Writing, lobby: Value<'_>, fold: &Tally) -> Result<(), sqlx::Error> {
    let oldest = fold.running.keys().next().map_or(i64::MAX, |(game, ..)| clamped(*game));
    tx.execute(FORGET_RUNNING, [lobby, Value::Int(oldest)]).await?;
    for key @ (game, stat, user) in &fold.touched {
        let total = fold.running.get(key).copied().unwrap_or_default();
        let game = Value::Int(clamped(*game));
        let values = [Value::Int(total), lobby, game, Value::Text(stat), Value::Text(user.as_str())];
        put(tx, SET_RUNNING, ADD_RUNNING, &values).await?;
    }
    Ok(())
}

/// Counts what is new among a lobby's events.
async fn fold_lobby(
    tx: &mut Writing,
    lobby: &LobbyId,
    events: &BTreeMap<Seq, &GameEvent>,
) -> Result<u64, Failed> {
    let lobby = Value::Text(lobby.as_str());
    let counted = lock(tx, lobby).await?;
    let new = || events.iter().filter(|(seq, _)| clamped(seq.0) > counted);
    let Some((last, _)) = new().next_back() else { return Ok(0) };
    let mut fold = load_running(tx, lobby).await?;
    new().for_each(|(_, event)| fold.take(&event.change));
    for ((user, stat), gained) in &fold.gained {
        let key = [lobby, Value::Text(user.as_str()), Value::Text(stat)];
        let rows = tx.rows(IN_LOBBY, key).await?;
        let mut sum = rows.first().map_or(Ok(Statistic::default()), statistic)?;
        sum.add(*gained);
        let [times, total, highest] = numbers(sum);
        let values = [times, total, highest, key[0], key[1], key[2]];
        put(tx, SET_IN_LOBBY, ADD_IN_LOBBY, &values).await?;
        add_to_player(tx, user, stat, *gained).await?;
    }
    save_running(tx, lobby, &fold).await?;
    tx.execute(ADVANCE, [Value::Int(clamped(last.0)), lobby]).await?;
    Ok(new().count() as u64)
}

impl SqlStore {
    pub(crate) async fn fold(&self, events: &[GameEvent]) -> Result<u64, StoreError> {
        // By lobby, and lobbies in their order: two processes that count the same lock in the same order.
        let mut lobbies: BTreeMap<&LobbyId, BTreeMap<Seq, &GameEvent>> = BTreeMap::new();
        for event in events {
            lobbies.entry(&event.lobby).or_default().insert(event.seq, event);
        }
        within(SAVE_TIMEOUT, async {
            let mut attempt = 1;
            loop {
                if let Some(outcome) = settle(self.fold_once(&lobbies).await, &mut attempt) {
                    return outcome;
                }
            }
        })
        .await
    }

    async fn fold_once(
        &self,
        lobbies: &BTreeMap<&LobbyId, BTreeMap<Seq, &GameEvent>>,
    ) -> Result<u64, Failed> {
        let mut tx = self.database.begin().await?;
        let mut counted = 0;
        for (lobby, events) in lobbies {
            counted += fold_lobby(&mut tx, lobby, events).await?;
        }
        tx.commit().await?;
        Ok(counted)
    }

    /// Counts a lobby again from its stored events.
    pub(crate) async fn recount(&self, lobby: &LobbyId) -> Result<u64, StoreError> {
        within(SAVE_TIMEOUT, async {
            let mut attempt = 1;
            loop {
                if let Some(outcome) = settle(self.recount_once(lobby).await, &mut attempt) {
                    return outcome;
                }
            }
        })
        .await
    }

    async fn recount_once(&self, lobby: &LobbyId) -> Result<u64, Failed> {
        let id = Value::Text(lobby.as_str());
        let mut tx = self.database.begin().await?;
        let counted = lock(&mut tx, id).await?;
        let (mut fold, mut last, mut events) = (Tally::default(), 0, 0);
        loop {
            let page = [id, Value::Int(last), Value::Int(i64::MAX), Value::Int(PAGE.into())];
            let page = super::events::game_events(&tx.rows(super::events::GAMES_BETWEEN, page).await?)?;
            let Some(end) = page.last() else { break };
            last = clamped(end.seq.0);
            events += page.len() as u64;
            page.iter().for_each(|event| fold.take(&event.change));
        }
        let mut known = BTreeMap::new();
        for row in tx.rows(ALL_IN_LOBBY, [id]).await? {
            known.insert((user(&row.text(3)?)?, row.text(4)?), statistic(&row)?);
        }
        for key in known.keys().filter(|key| !fold.gained.contains_key(*key)) {
            let (user, stat) = (Value::Text(key.0.as_str()), Value::Text(&key.1));
            tx.execute(REMOVE_IN_LOBBY, [id, user, stat]).await?;
        }
        let everything: std::collections::BTreeSet<_> =
            known.keys().chain(fold.gained.keys()).cloned().collect();
        for key in &everything {
            let old = known.get(key).copied().unwrap_or_default();
            let new = fold.gained.get(key).copied().unwrap_or_default();
            if old == new {
                continue;
            }
            let (user, stat) = (Value::Text(key.0.as_str()), Value::Text(&key.1));
            if fold.gained.contains_key(key) {
                let [times, total, highest] = numbers(new);
                let values = [times, total, highest, id, user, stat];
                put(&mut tx, SET_IN_LOBBY, ADD_IN_LOBBY, &values).await?;
            }
            let gained = Statistic {
                times: new.times.saturating_sub(old.times),
                total: new.total.saturating_sub(old.total),
                highest: new.highest,
            };
            add_to_player(&mut tx, &key.0, &key.1, gained).await?;
        }
        tx.execute(FORGET_RUNNING, [id, Value::Int(i64::MAX)]).await?;
        save_running(&mut tx, id, &fold).await?;
        tx.execute(ADVANCE, [Value::Int(last.max(counted)), id]).await?;
        tx.commit().await?;
        Ok(events)
    }

    pub(crate) async fn statistics(&self, user: &UserId) -> Result<Statistics, StoreError> {
        let user = [Value::Text(user.as_str())];
        let rows = within(READ_TIMEOUT, self.database.rows(OF_PLAYER, user)).await?;
        rows.iter().map(|row| Ok((row.text(3)?, statistic(row)?))).collect()
    }

    pub(crate) async fn statistics_of(
        &self,
        stat: &str,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<(UserId, Statistic)>, StoreError> {
        let after = Value::Text(after.map_or("", UserId::as_str));
        let values = [Value::Text(stat), after, Value::Int(limit.into())];
        let rows = within(READ_TIMEOUT, self.database.rows(BY_STAT, values)).await?;
        rows.iter().map(|row| Ok((user(&row.text(3)?)?, statistic(row)?))).collect()
    }

    pub(crate) async fn add_award(&self, award: &Award) -> Result<bool, StoreError> {
        let (user, achievement) = (Value::Text(award.user.as_str()), Value::Text(&award.achievement));
        let values = [Value::Int(clamped(award.at.0)), Value::Int(0), user, achievement];
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            match tx.execute(ADD_AWARD, values).await {
                Err(error) if Fault::of(&error) == Fault::Duplicate => return Ok(false),
                other => _ = other?,
            }
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        })
        .await
    }

    pub(crate) async fn awards(&self, user: &UserId) -> Result<Vec<Award>, StoreError> {
        let user = [Value::Text(user.as_str())];
        let rows = within(READ_TIMEOUT, self.database.rows(AWARDS, user)).await?;
        rows.iter().map(award).collect()
    }

    pub(crate) async fn unannounced(&self, limit: u32) -> Result<Vec<Award>, StoreError> {
        let limit = [Value::Int(limit.into())];
        let rows = within(READ_TIMEOUT, self.database.rows(UNANNOUNCED, limit)).await?;
        rows.iter().map(award).collect()
    }

    pub(crate) async fn announced(&self, awards: &[Award]) -> Result<(), StoreError> {
        within(SAVE_TIMEOUT, async {
            let mut tx = self.database.begin().await?;
            for award in awards {
                let values = [Value::Text(award.user.as_str()), Value::Text(&award.achievement)];
                tx.execute(ANNOUNCED, values).await?;
            }
            tx.commit().await
        })
        .await
    }
}

/// What became of an attempt; `None`: it met another transaction and is to run again.
fn settle(outcome: Result<u64, Failed>, attempt: &mut u32) -> Option<Result<u64, StoreError>> {
    match outcome {
        Ok(counted) => Some(Ok(counted)),
        Err(Failed::Deadlock(_)) if *attempt < ATTEMPTS => {
            *attempt += 1;
            None
        }
        Err(Failed::Deadlock(why)) => Some(Err(StoreError::Unavailable(why))),
        Err(Failed::Otherwise(error)) => Some(Err(error)),
    }
}
