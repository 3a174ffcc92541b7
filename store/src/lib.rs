//! The event store: every lobby's events and snapshots in MySQL or MariaDB, in SQLite, or in memory. The archive
//! writes behind the journal; history and cold lobbies are read back. Nothing here decides who owns a lobby.

mod memory;
mod row;
mod sql;
mod store;
#[cfg(test)]
mod tests;

pub use store::{PlayerPosition, Range, SaveReport, Store, StoreError};
