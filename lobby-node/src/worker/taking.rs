//! Taking a shard over from an owner that lives: it is read while the old owner still serves it, commands that come
//! early wait, and when the record has changed only what was written since is read.

use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::Unavailable;
use mlms_cluster::journal::{EntryId, Loaded};
use mlms_protocol::placement::shard_of;
use mlms_protocol::{Epoch, LobbyId, Millis, NodeName, Shard, UserId};
use tokio::time::Instant;

use super::live::LobbySlot;
use super::ownership::{Claimed, Won, in_time, load};
use super::shard::ShardSlot;
use super::{Done, Worker};
use crate::node::Node;
use crate::wire::{LinkMessage, ShardMessage};

/// How long this node waits for a shard that it was promised.
const EXPECT_TIME: Duration = Duration::from_secs(6);
/// How long a node that has not attached in time is spared from missing what has no seq. One that lives has attached
/// by then.
const UNHEARD_TIME: Duration = Duration::from_secs(5);

/// A shard that another node is about to give to this one.
pub(super) struct Expecting {
    pub(super) from: NodeName,
    until: Instant,
    /// What stood in the journal when the move began.
    loaded: Option<Loaded>,
}

/// What the former owner knew beyond the journal.
pub(super) struct Giver {
    pub(super) node: NodeName,
    /// Up to here the event store has everything.
    pub(super) archived: EntryId,
    /// Members whose connections are lost, and since when.
    pub(super) away: Vec<(LobbyId, UserId, Millis)>,
    /// Where each lobby's sessions are.
    pub(super) nodes: Vec<(LobbyId, Vec<NodeName>)>,
}

/// Reads what was written since the shard was read first.
async fn finish(node: Arc<Node>, shard: Shard, epoch: Epoch, early: Option<Loaded>) -> Claimed {
    if let Some(mut early) = early
        && let Ok(tail) = node.journal.load_tail(shard, early.top).await
    {
        // Trimmed meanwhile beyond what was read: all is read anew.
        let fits = |id: EntryId| id.n == 1 || (id.epoch == early.top.epoch && id.n == early.top.n + 1);
        if tail.entries.first().is_none_or(|(id, _)| fits(*id)) {
            early.entries.extend(tail.entries);
            early.top = tail.top;
            return Claimed::Won(Box::new(Won { epoch, loaded: early, giver: None }));
        }
    }
    load(&node, shard, epoch).await
}

impl Worker {
    /// Another node wants to give this one a shard.
    pub(super) fn on_prepare(&mut self, from: NodeName, shard: Shard) {
        let until = Instant::now() + EXPECT_TIME;
        match self.shards.get_mut(&shard) {
            _ if self.node.is_draining() => {
                return self.send(&from, &LinkMessage::Shard(shard, ShardMessage::Declined));
            }
            None => {}
            // An earlier attempt of the same node.
            Some(ShardSlot::Claiming { expecting: Some(expecting), .. }) if expecting.from == from => {
                expecting.until = until;
                if expecting.loaded.is_some() {
                    self.send(&from, &LinkMessage::Shard(shard, ShardMessage::Prepared));
                }
                return;
            }
            Some(_) => return self.send(&from, &LinkMessage::Shard(shard, ShardMessage::Declined)),
        }
        let expecting = Some(Expecting { from, until, loaded: None });
        self.shards.insert(shard, ShardSlot::Claiming { waiting: Vec::new(), retry_at: None, expecting });
        let journal = self.node.journal.clone();
        self.spawn(async move { Done::Preloaded { shard, result: journal.load(shard).await } });
    }

    pub(super) fn on_preloaded(&mut self, shard: Shard, result: Result<Loaded, Unavailable>) {
        let Some(ShardSlot::Claiming { expecting: Some(expecting), .. }) = self.shards.get_mut(&shard) else {
            return;
        };
        let from = expecting.from.clone();
        match result {
            Ok(loaded) => {
                expecting.loaded = Some(loaded);
                self.send(&from, &LinkMessage::Shard(shard, ShardMessage::Prepared));
            }
            Err(error) => {
                tracing::debug!(%shard, %error, "a shard that is to come cannot be read");
                self.send(&from, &LinkMessage::Shard(shard, ShardMessage::Declined));
                self.stop_waiting(shard);
            }
        }
    }

    /// This node is the owner now.
    pub(super) fn on_hand_over(&mut self, shard: Shard, epoch: Epoch, giver: Giver) {
        // It may have taken so long that nobody waits any more; the record is this node's all the same.
        let slot = self.shards.entry(shard).or_insert_with(|| {
            let expecting = Some(Expecting { from: giver.node.clone(), until: Instant::now(), loaded: None });
            ShardSlot::Claiming { waiting: Vec::new(), retry_at: None, expecting }
        });
        let ShardSlot::Claiming { expecting, .. } = slot else { return };
        let Some(Expecting { loaded, .. }) = expecting.take_if(|expecting| expecting.from == giver.node)
        else {
            return;
        };
        let node = Arc::clone(&self.node);
        self.spawn(async move {
            let mut claimed = in_time(finish(node, shard, epoch, loaded)).await;
            if let Claimed::Won(won) = &mut claimed {
                won.giver = Some(giver);
            }
            Done::Claimed { shard, claimed }
        });
    }

    /// Commands of lobbies whose nodes have all attached again, or had their time.
    pub(super) fn take_early(&mut self, now: Instant) {
        let ready: Vec<LobbyId> = self
            .awaiting
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(lobby, _)| lobby.clone())
            .collect();
        for lobby_id in ready {
            self.awaiting.remove(&lobby_id);
            let Some(owned) = self.owned(&lobby_id) else { continue };
            let Some(LobbySlot::Live(lobby)) = owned.lobbies.get_mut(&lobby_id) else { continue };
            for task in lobby.go_on_unheard(now + UNHEARD_TIME) {
                self.on_owned(shard_of(&lobby_id), &lobby_id, task);
            }
        }
    }

    /// Takes in what waited until everybody could hear it.
    pub(super) fn stop_awaiting(&mut self, lobby_id: &LobbyId) {
        self.awaiting.remove(lobby_id);
        let Some(owned) = self.owned(lobby_id) else { return };
        let Some(LobbySlot::Live(lobby)) = owned.lobbies.get_mut(lobby_id) else { return };
        lobby.awaited.clear();
        for task in std::mem::take(&mut lobby.early) {
            self.on_owned(shard_of(lobby_id), lobby_id, task);
        }
    }

    /// Shards that were promised and did not come.
    pub(super) fn expire_expected(&mut self, now: Instant) {
        let late = |slot: &ShardSlot| matches!(slot, ShardSlot::Claiming { expecting: Some(expecting), .. } if expecting.until <= now);
        let late: Vec<_> =
            self.shards.iter().filter(|(_, slot)| late(slot)).map(|(shard, _)| *shard).collect();
        for shard in late {
            self.stop_waiting(shard);
        }
    }

    /// Shards that a node had promised which is gone: it gives nothing any more, and somebody has to claim them.
    pub(super) fn expect_nothing_of(&mut self, gone: &NodeName) {
        let is_promised = |slot: &ShardSlot| matches!(slot, ShardSlot::Claiming { expecting: Some(expecting), .. } if expecting.from == *gone);
        let promised: Vec<_> =
            self.shards.iter().filter(|(_, slot)| is_promised(slot)).map(|(shard, _)| *shard).collect();
        for shard in promised {
            self.stop_waiting(shard);
        }
    }

    /// Waits no longer for a shard: what waited goes where it belongs.
    pub(super) fn stop_waiting(&mut self, shard: Shard) {
        let Some(ShardSlot::Claiming { waiting, .. }) = self.shards.get_mut(&shard) else { return };
        let waiting = std::mem::take(waiting);
        self.shards.remove(&shard);
        for task in waiting {
            self.redirect(task);
        }
        for lobby in self.lobbies_of(shard) {
            self.follow_owner(lobby.clone());
            self.send_unsent(&lobby);
        }
    }
}
