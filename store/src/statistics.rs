//! What players did in games: the events that count, and how they add up. Pure; the store keeps the sums, and the
//! achievements service decides what they are worth.

use std::collections::{BTreeMap, BTreeSet};

use mlms_protocol::{Change, Epoch, LobbyEvent, LobbyId, Millis, Seq, UserId};
use serde::Deserialize;

use crate::message::check_version;

/// The statistic that counts the games a player has played to the end. No report can add to it.
pub const GAMES_FINISHED: &str = "games_finished";
/// Longest name of a statistic or an achievement, in bytes; a report with a longer one counts for nothing.
pub const NAME_BYTES_MAX: usize = 64;
/// The kinds of events that count, as they are stored.
pub const GAME_KINDS: [&str; 2] = ["reported", "game_finished"];

/// An achievement that a player has been awarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Award {
    pub user: UserId,
    pub achievement: String,
    /// When it was awarded; the time of the event that earned it, where that is known.
    pub at: Millis,
}

/// How one statistic of a player stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistic {
    /// How often it was reported; of [`GAMES_FINISHED`]: how many games.
    pub times: i64,
    /// The sum of all reports.
    pub total: i64,
    /// The largest sum within one game.
    pub highest: i64,
}

/// A player's statistics by their names.
pub type Statistics = BTreeMap<String, Statistic>;

/// An event that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GameEvent {
    pub lobby: LobbyId,
    pub seq: Seq,
    pub at: Millis,
    pub change: GameChange,
}

/// What an event that counts says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GameChange {
    Reported { game: u64, user: UserId, stat: String, amount: i64 },
    Finished { game: u64, players: Vec<UserId> },
}

impl GameEvent {
    /// The event as far as it counts; most do not.
    #[must_use]
    pub fn of(event: &LobbyEvent) -> Option<GameEvent> {
        let change = match &event.change {
            Change::Reported { game, user, stat, amount, .. } => {
                GameChange::Reported { game: *game, user: user.clone(), stat: stat.clone(), amount: *amount }
            }
            Change::GameFinished { game, players, .. } => {
                GameChange::Finished { game: *game, players: players.clone() }
            }
            _ => return None,
        };
        Some(GameEvent { lobby: event.lobby.clone(), seq: event.seq, at: event.at, change })
    }

    /// Reads an event from its message; `None`: one that does not count.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn read(body: &[u8]) -> Result<Option<GameEvent>, String> {
        #[derive(Deserialize)]
        struct Data {
            game: Option<u64>,
            user: Option<UserId>,
            stat: Option<String>,
            amount: Option<i64>,
            players: Option<Vec<UserId>>,
        }
        #[derive(Deserialize)]
        struct Read {
            v: u32,
            kind: String,
            lobby: LobbyId,
            seq: Seq,
            #[expect(dead_code, reason = "an event without one is none of ours")]
            epoch: Epoch,
            at: Millis,
            data: serde_json::Value,
        }
        let Read { v, kind, lobby, seq, at, data, .. } =
            serde_json::from_slice(body).map_err(|error| error.to_string())?;
        check_version(v)?;
        if !GAME_KINDS.contains(&kind.as_str()) {
            return Ok(None);
        }
        let Data { game, user, stat, amount, players } =
            serde_json::from_value(data).map_err(|error| error.to_string())?;
        let missing = |name: &str| format!("`{name}` is missing");
        let game = game.ok_or_else(|| missing("game"))?;
        let change = if kind == GAME_KINDS[0] {
            GameChange::Reported {
                game,
                user: user.ok_or_else(|| missing("user"))?,
                stat: stat.ok_or_else(|| missing("stat"))?,
                amount: amount.ok_or_else(|| missing("amount"))?,
            }
        } else {
            GameChange::Finished { game, players: players.unwrap_or_default() }
        };
        Ok(Some(GameEvent { lobby, seq, at, change }))
    }

    /// Whose statistics it touches.
    pub fn players(&self) -> impl Iterator<Item = &UserId> {
        let (one, several) = match &self.change {
            GameChange::Reported { user, .. } => (Some(user), &[][..]),
            GameChange::Finished { players, .. } => (None, &players[..]),
        };
        one.into_iter().chain(several)
    }
}

/// A report within a game that still runs: game, statistic, player.
pub(crate) type Running = (u64, String, UserId);

/// Adds up one lobby's events, in the order of seq.
#[derive(Debug, Default)]
pub struct Tally {
    /// The sums of the game that runs.
    pub(crate) running: BTreeMap<Running, i64>,
    /// Those of them that changed.
    pub(crate) touched: BTreeSet<Running>,
    /// What the events add to the players' statistics in this lobby.
    pub(crate) gained: BTreeMap<(UserId, String), Statistic>,
}

impl Statistic {
    /// What another one adds. Sums saturate: no report can break the count.
    pub fn add(&mut self, other: Statistic) {
        self.times = self.times.saturating_add(other.times);
        self.total = self.total.saturating_add(other.total);
        self.highest = self.highest.max(other.highest);
    }
}

impl Tally {
    /// What was added up, by player and statistic.
    #[must_use]
    pub fn into_gained(self) -> BTreeMap<(UserId, String), Statistic> {
        self.gained
    }

    /// Adds the next event.
    pub fn take(&mut self, change: &GameChange) {
        match change {
            GameChange::Reported { game, user, stat, amount } => {
                if stat.is_empty() || stat.len() > NAME_BYTES_MAX || stat == GAMES_FINISHED {
                    return;
                }
                self.forget(|running| running < *game);
                let key = (*game, stat.clone(), user.clone());
                let sum = self.running.entry(key.clone()).or_default();
                *sum = sum.saturating_add(*amount);
                let gained = Statistic { times: 1, total: *amount, highest: *sum };
                self.touched.insert(key);
                self.gained.entry((user.clone(), stat.clone())).or_default().add(gained);
            }
            GameChange::Finished { game, players } => {
                self.forget(|running| running <= *game);
                for user in players.iter().collect::<BTreeSet<_>>() {
                    let gained = Statistic { times: 1, total: 1, highest: 1 };
                    self.gained.entry((user.clone(), GAMES_FINISHED.to_owned())).or_default().add(gained);
                }
            }
        }
    }

    /// One game runs at a time: with the next one, or its end, nobody adds to the former.
    fn forget(&mut self, over: impl Fn(u64) -> bool) {
        self.running.retain(|(game, ..), _| !over(*game));
        self.touched.retain(|(game, ..)| !over(*game));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> UserId {
        UserId::new(id).unwrap()
    }

    fn reported(game: u64, who: &str, stat: &str, amount: i64) -> GameChange {
        GameChange::Reported { game, user: user(who), stat: stat.to_owned(), amount }
    }

    fn finished(game: u64, players: &[&str]) -> GameChange {
        GameChange::Finished { game, players: players.iter().map(|id| user(id)).collect() }
    }

    fn gained(fold: &Tally, who: &str, stat: &str) -> Option<(i64, i64, i64)> {
        let gained = fold.gained.get(&(user(who), stat.to_owned()))?;
        Some((gained.times, gained.total, gained.highest))
    }

    #[test]
    fn reports_add_up_within_a_game_and_over_games() {
        let mut fold = Tally::default();
        for change in [
            reported(1, "ann", "damage", 300),
            reported(1, "ben", "damage", 10),
            reported(1, "ann", "damage", 201),
            finished(1, &["ann", "ben", "ann"]),
            reported(2, "ann", "damage", 400),
            reported(2, "ann", "damage", -100),
        ] {
            fold.take(&change);
        }
        assert_eq!(gained(&fold, "ann", "damage"), Some((4, 801, 501)));
        assert_eq!(gained(&fold, "ben", "damage"), Some((1, 10, 10)));
        assert_eq!(gained(&fold, "ann", GAMES_FINISHED), Some((1, 1, 1)), "named twice, counted once");
        assert_eq!(fold.running.into_values().collect::<Vec<_>>(), [300]);
    }

    #[test]
    fn hostile_reports_count_for_nothing_or_saturate() {
        let mut fold = Tally::default();
        fold.take(&reported(1, "ann", "", 1));
        fold.take(&reported(1, "ann", GAMES_FINISHED, 5_000));
        fold.take(&reported(1, "ann", &"x".repeat(65), 1));
        assert!(fold.gained.is_empty());
        fold.take(&reported(1, "ann", "damage", i64::MAX));
        fold.take(&reported(1, "ann", "damage", i64::MAX));
        assert_eq!(gained(&fold, "ann", "damage"), Some((2, i64::MAX, i64::MAX)));
    }
}
