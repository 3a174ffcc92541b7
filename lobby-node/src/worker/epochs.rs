//! The highest epoch of each shard, kept in the event store too. Should the directory lose every record, with nobody left
//! who knows them, epochs go on above what the store has: a position or an entry of an earlier epoch is never taken for
//! one of a later owner.

use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::directory::LEASE;
use mlms_protocol::{Epoch, Shard};
use tokio::time::timeout;

use super::shard::ShardSlot;
use super::{Done, Worker};
use crate::node::Node;

/// How long the event store may take for one shard before the claim is put off.
const STORE_TIME: Duration = Duration::from_secs(2);
/// How far above the store's epoch a shard begins whose record is lost. The store hears of an epoch about a second after
/// it began, later while it is away; a shard does not change its owner so often meanwhile.
const LEAP: u64 = 1_000;
/// Epochs that are kept in one go.
const KEPT_AT_ONCE: usize = 64;

/// The epoch for a shard of which the directory has no record. `None`: not now, the claim has to be tried again. Without
/// the event store nothing of such a shard could be served anyway: its lobbies are there and nowhere else.
pub(super) async fn first(node: &Node, shard: Shard) -> Option<Epoch> {
    match timeout(STORE_TIME, node.store.shard_epoch(shard)).await {
        Ok(Ok(None)) => Some(Epoch(1)),
        // An owner that lives claims its shard anew before that.
        Ok(Ok(Some(_))) if node.standing.since_began() < LEASE => None,
        Ok(Ok(Some(known))) => {
            let epoch = Epoch(known.0 + LEAP);
            tracing::warn!(%shard, %known, %epoch, "the directory has lost the shard's record; its epochs go on from the event store's");
            Some(epoch)
        }
        Ok(Err(error)) => {
            tracing::warn!(%shard, %error, "a shard without a record is not claimed: the event store does not say its epoch");
            None
        }
        Err(_) => {
            tracing::warn!(%shard, "a shard without a record is not claimed: the event store does not answer");
            None
        }
    }
}

/// Keeps the first epoch of a shard before anything is said in it.
pub(super) async fn keep(node: &Node, shard: Shard, epoch: Epoch) {
    match timeout(STORE_TIME, node.store.save_shard_epoch(shard, epoch)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%shard, %error, "a shard's epoch is kept later"),
        Err(_) => tracing::debug!(%shard, "a shard's epoch is kept later"),
    }
}

impl Worker {
    /// Has the event store keep the epochs that it does not know yet.
    pub(super) fn keep_epochs(&mut self) {
        if self.keeping_epochs {
            return;
        }
        let owned = self.shards.iter().filter_map(|(shard, slot)| match slot {
            ShardSlot::Owned(owned) if owned.epoch_kept != Some(owned.epoch) => Some((*shard, owned.epoch)),
            _ => None,
        });
        let due: Vec<_> = owned.take(KEPT_AT_ONCE).collect();
        if due.is_empty() {
            return;
        }
        self.keeping_epochs = true;
        let node = Arc::clone(&self.node);
        self.spawn(async move {
            let mut kept = Vec::with_capacity(due.len());
            for (shard, epoch) in due {
                match timeout(STORE_TIME, node.store.save_shard_epoch(shard, epoch)).await {
                    Ok(Ok(())) => kept.push((shard, epoch)),
                    // The archive tells when the database is away; the next sweep tries again.
                    Ok(Err(_)) | Err(_) => break,
                }
            }
            Done::EpochsKept { kept }
        });
    }

    pub(super) fn on_epochs_kept(&mut self, kept: Vec<(Shard, Epoch)>) {
        self.keeping_epochs = false;
        for (shard, epoch) in kept {
            if let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) {
                owned.epoch_kept = Some(epoch);
            }
        }
    }
}
