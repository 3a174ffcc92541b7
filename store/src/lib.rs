//! The event store: every lobby's events and snapshots in MySQL or MariaDB, in SQLite, or in memory, with what
//! players did in games; and the way of events out over AMQP. The archive writes behind the journal; history and cold
//! lobbies are read back. Nothing here decides who owns a lobby.

pub mod amqp;
mod audit;
mod bans;
mod blocks;
mod catalogue;
mod events;
mod forgetting;
mod integrity;
mod memory;
mod message;
mod outlet;
mod players;
mod report;
mod row;
mod snapshots;
mod sql;
mod statistics;
mod store;
#[cfg(test)]
mod tests;

pub use audit::{AuditEntry, Topic};
pub use bans::{BanList, BansMark, ServiceBan};
pub use blocks::BLOCKERS_MAX;
pub use catalogue::{CATALOGUE, EventKind};
pub use events::{EventPlace, PlayerPosition, Range, SaveReport};
pub use forgetting::anonymous;
pub use message::{AWARDED, Message, read_award};
pub use outlet::{LocalBatch, Outlet};
pub use report::{FiledReport, MessageReport};
pub use statistics::{
    Award, GAME_KINDS, GAMES_FINISHED, GameChange, GameEvent, NAME_BYTES_MAX, Statistic, Statistics, Tally,
};
pub use store::{Store, StoreError};
