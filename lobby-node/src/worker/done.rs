//! What came of something that a worker started and did not wait for: appends, claims, reads and writes of the database.

use std::time::Duration;

use mlms_cluster::Unavailable;
use mlms_cluster::journal::{AppendError, EntryId, Loaded};
use mlms_cluster::view::ShardRecord;
use mlms_protocol::{Epoch, LobbyEvent, LobbyId, Seq, Shard};
use mlms_store::{SaveReport, StoreError};

use super::Envelope;
use super::cold::Cold;
use super::evidence::Examined;
use super::moving::Handed;
use super::ownership::Claimed;
use super::publish::Cursors;
use super::restoring::Restored;

/// What a worker started and has to hear of.
pub(super) enum Done {
    Appended {
        shard: Shard,
        batch: u64,
        result: Result<EntryId, AppendError>,
        took: Duration,
    },
    Claimed {
        shard: Shard,
        claimed: Claimed,
    },
    Loaded {
        lobby: LobbyId,
        result: Cold,
    },
    History {
        envelope: Box<Envelope>,
        result: Result<(Vec<LobbyEvent>, bool), StoreError>,
    },
    Archived {
        marks: Vec<(Shard, EntryId)>,
        saved: Vec<(LobbyId, Seq)>,
        report: SaveReport,
        aside: u64,
        result: Result<(), StoreError>,
    },
    Published {
        marks: Vec<(Shard, Epoch, EntryId)>,
        events: usize,
        taken: bool,
    },
    Cursors {
        cursors: Cursors,
    },
    /// The event store has these.
    EpochsKept {
        kept: Vec<(Shard, Epoch)>,
    },
    CursorsKept {
        cursors: Vec<(Shard, u64, u64)>,
        result: Result<(), StoreError>,
    },
    Snapshotted {
        shard: Shard,
        covers: EntryId,
        saved: Vec<(LobbyId, Seq)>,
        result: Result<(), AppendError>,
    },
    Unloaded {
        lobby: LobbyId,
        seq: Seq,
        result: Result<(), StoreError>,
    },
    Preloaded {
        shard: Shard,
        result: Result<Loaded, Unavailable>,
    },
    Handed {
        shard: Shard,
        record: ShardRecord,
        handed: Handed,
    },
    /// A report is kept, or cannot be.
    Filed {
        envelope: Box<Envelope>,
        result: Result<(), StoreError>,
    },
    /// A password was tried, or a message looked for: the command goes on.
    Examined {
        envelope: Box<Envelope>,
        outcome: Examined,
    },
    Restored {
        shard: Shard,
        restored: Option<Restored>,
    },
    Trimmed {
        shard: Shard,
        through: EntryId,
        is_done: bool,
    },
    /// The database has a lobby that does not know somebody any more, or could not take it.
    Forgotten {
        envelope: Box<Envelope>,
        result: Result<(), StoreError>,
    },
    Nothing,
}
