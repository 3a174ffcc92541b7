//! What the store can do, whichever database is behind it.

use std::sync::Arc;

use mlms_protocol::{Body, Epoch, LobbyEvent, LobbyId, Millis, Seq, Shard, UserId};

use crate::audit::{AuditEntry, Topic};
use crate::bans::{BansMark, ServiceBan};
use crate::memory::Memory;
use crate::report::{FiledReport, MessageReport};
use crate::sql::SqlStore;
use crate::statistics::{Award, GameEvent, Statistic, Statistics};

/// Why the store did not do what it was asked; the variants say what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, busy, full or read-only: the same call can succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The database will never take this event, by its index in the call: set it aside and save the others.
    #[error("the store refuses event {index} of the batch: {why}")]
    Rejected { index: usize, why: String },
    /// The schema or a stored event is of another release, or damaged: an operator must look.
    #[error("the store does not fit this release: {0}")]
    Incompatible(String),
    /// The address is none: the configuration is wrong.
    #[error("the store's url {0}")]
    Url(String),
}

/// Users of whom one statement tells whom they block.
pub const BLOCKERS_MAX: usize = 32;

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

/// A handle to the store; clones share the connections.
///
/// Every call may be dropped while it runs: a transaction under way is then rolled back, or was committed already.
#[derive(Debug, Clone)]
pub struct Store(pub(crate) Backend);

#[derive(Debug, Clone)]
pub(crate) enum Backend {
    Sql(Arc<SqlStore>),
    Memory(Arc<Memory>),
}

impl Store {
    /// A store that ends with the process, bounded in bytes: the oldest events are forgotten first.
    #[must_use]
    pub fn memory() -> Store {
        Store(Backend::Memory(Arc::new(Memory::default())))
    }

    /// Opens `sqlite://path` (made with its folder where it is missing; several processes may share the file) or
    /// `mysql://user:password@host/database`. Does not migrate.
    ///
    /// # Errors
    /// `Url` or `Unavailable`.
    pub async fn open(url: &str) -> Result<Store, StoreError> {
        Ok(Store(Backend::Sql(Arc::new(SqlStore::open(url).await?))))
    }

    /// Brings the schema to this release; does nothing where it is there already. Several processes may try at once.
    ///
    /// # Errors
    /// `Incompatible` where the schema is newer than this release or a migration broke off half-way.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.migrate().await,
            Backend::Memory(_) => Ok(()),
        }
    }

    /// Whether it is a part of this process: SQLite, or memory.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        match &self.0 {
            Backend::Sql(sql) => sql.is_embedded(),
            Backend::Memory(_) => true,
        }
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.ping().await,
            Backend::Memory(_) => Ok(()),
        }
    }

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

    /// Keeps a reported message for the moderators; a user's report of one message is kept once.
    ///
    /// # Errors
    /// `Unavailable`, or `Rejected` where it is too large.
    pub async fn file_report(&self, report: &MessageReport) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.file_report(report).await,
            Backend::Memory(memory) => {
                memory.file_report(report);
                Ok(())
            }
        }
    }

    /// Reports, the newest first, from before the one of this time and id.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn reports(
        &self,
        before: Option<(Millis, &str)>,
        limit: u32,
    ) -> Result<Vec<FiledReport>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.reports(before, limit).await,
            Backend::Memory(memory) => Ok(memory.reports(before, limit)),
        }
    }

    /// Remembers that a user blocks another.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn block(&self, user: &UserId, blocked: &UserId, at: Millis) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.block(user, blocked, at).await,
            Backend::Memory(memory) => {
                memory.block(user, blocked, at);
                Ok(())
            }
        }
    }

    /// Forgets that a user blocks another.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn unblock(&self, user: &UserId, blocked: &UserId) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.unblock(user, blocked).await,
            Backend::Memory(memory) => {
                memory.unblock(user, blocked);
                Ok(())
            }
        }
    }

    /// Whom a user blocks, the longest ago first.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn blocked_by(&self, user: &UserId, limit: u32) -> Result<Vec<UserId>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.blocked_by(user, limit).await,
            Backend::Memory(memory) => Ok(memory.blocked_by(user, limit)),
        }
    }

    /// Whom each of these users blocks, as pairs of who blocks and who is blocked. Best asked for [`BLOCKERS_MAX`] of them.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn blocked_by_each(&self, users: &[UserId]) -> Result<Vec<(UserId, UserId)>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.blocked_by_each(users).await,
            Backend::Memory(memory) => Ok(memory.blocked_by_each(users)),
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

    /// How many lobbies have events; goes through a whole index.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn count_lobbies(&self) -> Result<u64, StoreError> {
        self.sql()?.count_lobbies().await
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

    /// How many events were set aside.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn count_aside(&self) -> Result<u64, StoreError> {
        self.sql()?.count_aside().await
    }

    /// Keeps a user out of the service; a ban that is there is replaced.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn set_ban(&self, ban: &ServiceBan) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.set_ban(ban).await,
            Backend::Memory(memory) => {
                memory.set_ban(ban);
                Ok(())
            }
        }
    }

    /// Lets a user in again; `false`: nobody kept it out.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn lift_ban(&self, user: &UserId) -> Result<bool, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.lift_ban(user).await,
            Backend::Memory(memory) => Ok(memory.lift_ban(user)),
        }
    }

    /// A user's ban, also one that has run out.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn ban(&self, user: &UserId) -> Result<Option<ServiceBan>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.ban(user).await,
            Backend::Memory(memory) => Ok(memory.ban(user)),
        }
    }

    /// Bans by their users, from behind `after`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn bans(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<ServiceBan>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.bans(after, limit).await,
            Backend::Memory(memory) => Ok(memory.bans(after, limit)),
        }
    }

    /// What tells whether the bans have changed.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn bans_mark(&self) -> Result<BansMark, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.bans_mark().await,
            Backend::Memory(memory) => Ok(memory.bans_mark()),
        }
    }

    /// Notes what was done to a user.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn add_audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.add_audit(entry).await,
            Backend::Memory(memory) => {
                memory.add_audit(entry);
                Ok(())
            }
        }
    }

    /// What was done (to a user), the newest first, from before an entry's id.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn audit(
        &self,
        user: Option<&UserId>,
        before: Option<&str>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => sql.audit(user, before, limit).await,
            Backend::Memory(memory) => Ok(memory.audit(user, before, limit)),
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

    pub(crate) fn sql(&self) -> Result<&SqlStore, StoreError> {
        match &self.0 {
            Backend::Sql(sql) => Ok(sql),
            Backend::Memory(_) => {
                Err(StoreError::Url("names no database: this store lives in memory only".to_owned()))
            }
        }
    }
}
