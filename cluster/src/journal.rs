//! The fenced journal: one log a shard, to which only the shard's present owner can append. An ok is true
//! because its entry stands here. It is a Redis Stream a shard, or a table of this process.

use std::sync::Arc;

use bytes::Bytes;
use mlms_protocol::{Epoch, Incarnation, LobbyId, NodeName, Shard};
use serde::{Deserialize, Serialize};

use crate::Unavailable;
use crate::embedded::Shared;
use crate::redis::{Lifeline, RedisJournal};

/// An entry's place in its shard's log: the epoch of its writer, and a number from 1 within it. Ids ascend but
/// are not gapless: a new epoch starts over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryId {
    pub epoch: u64,
    pub n: u64,
}

impl EntryId {
    /// The id of the first entry that a writer of this epoch appends after `self`.
    #[must_use]
    pub fn following(self, epoch: Epoch) -> EntryId {
        EntryId { epoch: epoch.0, n: if self.epoch == epoch.0 { self.n + 1 } else { 1 } }
    }
}

/// What must hold for an append to be taken: the writer still owns the shard, and nobody wrote in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub node: NodeName,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    /// The newest entry as the writer knows it.
    pub top: EntryId,
}

/// Why an append was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The writer is not the owner any more. It must say nothing and drop what it has.
    #[error("the shard has another owner")]
    Deposed,
    /// The journal has lost what the writer knows to be there: its claim, or the end of the log. Epochs and ids never
    /// go back otherwise. The writer restores it from memory, under a new epoch.
    #[error("the journal has lost its newest entries")]
    Behind,
    /// No answer. The entries may stand in the journal or not; only the same append again can tell.
    #[error("the journal did not answer")]
    Unclear,
}

/// Everything a new owner needs to go on.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The newest snapshot of each lobby that is warm.
    pub snapshots: Vec<(LobbyId, Bytes)>,
    /// The entries that were kept, ascending. Some may be older than a lobby's snapshot.
    pub entries: Vec<(EntryId, Bytes)>,
    pub top: EntryId,
}

/// A handle to the journal of all shards.
#[derive(Clone)]
pub struct Journal(Kind);

#[derive(Clone)]
enum Kind {
    Embedded(Arc<Shared>),
    Redis(Arc<RedisJournal>, #[expect(dead_code, reason = "acts when it is dropped")] Lifeline),
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Kind::Embedded(_) => "Journal(embedded)",
            Kind::Redis(..) => "Journal(Redis)",
        })
    }
}

impl Journal {
    pub(crate) fn embedded(shared: Arc<Shared>) -> Self {
        Journal(Kind::Embedded(shared))
    }

    pub(crate) fn redis(journal: Arc<RedisJournal>, lifeline: Lifeline) -> Self {
        Journal(Kind::Redis(journal, lifeline))
    }

    /// Appends all entries, or none; an empty append only proves that the writer still owns the shard. Gives the
    /// new top. Repeating an append that was unclear is safe: entries that stand there already count as taken.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append(
        &self,
        shard: Shard,
        fence: &Fence,
        entries: &[Bytes],
    ) -> Result<EntryId, AppendError> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.append(shard, fence, entries).await,
            Kind::Redis(redis, _) => redis.append(shard, fence, entries).await,
        }
    }

    /// Reads everything that is kept of a shard.
    ///
    /// # Errors
    /// The journal is out of reach.
    pub async fn load(&self, shard: Shard) -> Result<Loaded, Unavailable> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.load(shard),
            Kind::Redis(redis, _) => redis.load(shard).await,
        }
    }

    /// Reads the entries behind one that is known already; snapshots are not read. The caller knows that nothing
    /// behind it was trimmed.
    ///
    /// # Errors
    /// The journal is out of reach.
    pub async fn load_tail(&self, shard: Shard, after: EntryId) -> Result<Loaded, Unavailable> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.load_tail(shard, after),
            Kind::Redis(redis, _) => redis.load_tail(shard, after).await,
        }
    }

    /// Replaces (or, with `None`, removes) snapshots of lobbies, if the writer still owns the shard.
    ///
    /// # Errors
    /// `Deposed`, or `Unclear` when the journal did not answer.
    pub async fn save_snapshots(
        &self,
        shard: Shard,
        fence: &Fence,
        changed: Vec<(LobbyId, Option<Bytes>)>,
    ) -> Result<(), AppendError> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.save_snapshots(shard, fence, changed).await,
            Kind::Redis(redis, _) => redis.save_snapshots(shard, fence, changed).await,
        }
    }

    /// Forgets entries up to and including `through`; the newest may stay. The caller has made sure that snapshots
    /// and the event store cover them.
    ///
    /// # Errors
    /// The journal is out of reach; trimming again later is enough.
    pub async fn trim(&self, shard: Shard, through: EntryId) -> Result<(), Unavailable> {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.trim(shard, through).await,
            Kind::Redis(redis, _) => redis.trim(shard, through).await,
        }
    }
}
