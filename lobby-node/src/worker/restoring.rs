//! The journal has come back without its end, or without anything, while the owner lives: the owner takes a new epoch
//! and appends what it holds in memory once more. The events keep their epochs and seqs; only the entries' ids change.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mlms_cluster::directory::Claim;
use mlms_cluster::journal::{AppendError, EntryId, Fence};
use mlms_cluster::view::ShardRecord;
use mlms_protocol::{Epoch, Seq, Shard};
use tokio::time::Instant;

use super::live::LobbySlot;
use super::shard::ShardSlot;
use super::{Done, Worker};
use crate::node::Node;

/// Entries in one append.
const BATCH_MAX: usize = 256;
/// Pause after an attempt that went unanswered.
const AGAIN: Duration = Duration::from_millis(200);

/// What the shard is now.
pub(super) struct Restored {
    epoch: Epoch,
    top: EntryId,
    /// The ids of all kept entries.
    ids: Vec<EntryId>,
}

/// Why a step was not taken.
enum Stop {
    Deposed,
    /// Out of reach, or lost once more: all over again.
    Again,
}

/// Restores a shard, however long it takes. `None`: another node owns it by now.
async fn restore(
    node: Arc<Node>,
    shard: Shard,
    epoch: Epoch,
    mut kept: Vec<(EntryId, Bytes)>,
) -> Option<Restored> {
    let mut epoch = epoch;
    loop {
        match try_restore(&node, shard, &mut epoch, &mut kept).await {
            Ok(top) => {
                return Some(Restored { epoch, top, ids: kept.into_iter().map(|(id, _)| id).collect() });
            }
            Err(Stop::Deposed) => return None,
            Err(Stop::Again) => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn try_restore(
    node: &Node,
    shard: Shard,
    epoch: &mut Epoch,
    kept: &mut [(EntryId, Bytes)],
) -> Result<EntryId, Stop> {
    *epoch = claim_anew(node, shard, *epoch).await?;
    let there = node.journal.load_tail(shard, EntryId::default()).await.map_err(|_| Stop::Again)?;
    let mut top = there.top;
    let known = kept.partition_point(|(id, _)| *id <= top);
    tracing::warn!(%shard, %epoch, entries = kept.len() - known, "the journal had lost entries; they are appended again");
    for batch in kept[known..].chunks_mut(BATCH_MAX) {
        let (name, incarnation) = (node.name.clone(), node.incarnation);
        let fence = Fence { node: name, incarnation, epoch: *epoch, top };
        let entries: Vec<Bytes> = batch.iter().map(|(_, entry)| entry.clone()).collect();
        top = append(node, shard, &fence, &entries).await?;
        let mut id = fence.top.following(*epoch);
        for (place, _) in batch {
            *place = id;
            id.n += 1;
        }
    }
    Ok(top)
}

async fn append(node: &Node, shard: Shard, fence: &Fence, entries: &[Bytes]) -> Result<EntryId, Stop> {
    loop {
        match node.journal.append(shard, fence, entries).await {
            Ok(top) => return Ok(top),
            Err(AppendError::Unclear) => tokio::time::sleep(AGAIN).await,
            Err(AppendError::Behind) => return Err(Stop::Again),
            Err(AppendError::Deposed) => return Err(Stop::Deposed),
        }
    }
}

/// Replaces whatever older record stands there.
async fn claim_anew(node: &Node, shard: Shard, epoch: Epoch) -> Result<Epoch, Stop> {
    let new =
        ShardRecord { node: node.name.clone(), incarnation: node.incarnation, epoch: Epoch(epoch.0 + 1) };
    let mut expected: Option<ShardRecord> = None;
    for _ in 0..3 {
        match node.directory.take_back(shard, expected.as_ref(), &new).await {
            Ok(Claim::Won) => return Ok(new.epoch),
            // An attempt whose answer was lost.
            Ok(Claim::Lost(Some(record))) if record == new => return Ok(new.epoch),
            Ok(Claim::Lost(Some(record))) if record.epoch > epoch => return Err(Stop::Deposed),
            Ok(Claim::Lost(record)) => expected = record,
            Err(_) => return Err(Stop::Again),
        }
    }
    Err(Stop::Again)
}

impl Worker {
    /// An append has found the journal behind its writer. Nothing is taken in until it has everything again.
    pub(super) fn begin_restoring(&mut self, shard: Shard) {
        self.keep_shard(shard);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        owned.restoring = true;
        let kept = owned.kept.iter().map(|logged| (logged.id, logged.again())).collect();
        let (node, epoch) = (Arc::clone(&self.node), owned.epoch);
        self.spawn(
            async move { Done::Restored { shard, restored: restore(node, shard, epoch, kept).await } },
        );
    }

    pub(super) fn on_restored(&mut self, shard: Shard, restored: Option<Restored>) {
        let node = Arc::clone(&self.node);
        let Some(Restored { epoch, top, ids }) = restored else { return self.on_deposed(shard) };
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        let archived = owned.archived;
        owned.archived = EntryId::default();
        for (logged, id) in owned.kept.iter_mut().zip(ids) {
            if logged.id <= archived {
                owned.archived = id;
            }
            logged.id = id;
        }
        (owned.epoch, owned.top, owned.restoring) = (epoch, top, false);
        // The snapshots may be gone too: all lobbies are due.
        owned.snapshotted = EntryId::default();
        owned.forget_again();
        owned.next_snapshot = Instant::now();
        for slot in owned.lobbies.values_mut() {
            if let LobbySlot::Live(lobby) = slot {
                (lobby.snapshot_seq, lobby.listed) = (Seq(0), None);
            }
        }
        let again = owned.repeat_append(&node, shard);
        self.under_way.push(Box::pin(again));
        self.take_snapshots(shard);
    }
}
