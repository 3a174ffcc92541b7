//! Which shards this worker owns: claiming one, putting its lobbies into service, and finding out about its loss.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::directory::Claim;
use mlms_cluster::journal::Loaded;
use mlms_cluster::view::ShardRecord;
use mlms_protocol::placement::shard_of;
use mlms_protocol::{Epoch, ErrorCode, LobbyId, NodeName, Seq, Shard};
use tokio::time::Instant;

use super::archive::SNAPSHOT_PERIOD;
use super::live::{AttachTask, LobbySlot, Task};
use super::shard::{Logged, OwnedShard, ShardSlot};
use super::{Done, Envelope, Origin, Worker};
use crate::lobby::{Entry, State};
use crate::node::Node;
use crate::wire::{FromOwner, LinkMessage};

/// Commands that may wait for a claim of one shard.
const WAITING_MAX: usize = 8_192;
/// Pause before a claim that failed is tried again.
const CLAIM_PAUSE: Duration = Duration::from_millis(200);

/// How a claim came out.
pub(super) enum Claimed {
    Won {
        epoch: Epoch,
        loaded: Loaded,
    },
    /// Somebody else owns the shard.
    Lost,
    /// The directory or the journal did not answer.
    Failed,
}

/// Where a command for a shard goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Here,
    /// This node is claiming the shard, or is the one to do so.
    Claim,
    Node(NodeName),
    /// Nobody is ready.
    Nowhere,
}

/// Claims a shard and reads what is kept of it.
async fn claim(node: Arc<Node>, shard: Shard) -> Claimed {
    let Ok(view) = node.directory.refresh().await else { return Claimed::Failed };
    let expected = view.record(shard).cloned();
    if let Some(owner) = view.owner(shard)
        && owner.name != node.name
    {
        return Claimed::Lost;
    }
    let epoch = Epoch(expected.as_ref().map_or(1, |record| record.epoch.0 + 1));
    let record = ShardRecord { node: node.name.clone(), incarnation: node.incarnation, epoch };
    match node.directory.claim(shard, expected.as_ref(), &record).await {
        Ok(Claim::Won) => {}
        Ok(Claim::Lost(now)) if now.as_ref() == Some(&record) => {}
        Ok(Claim::Lost(_)) => return Claimed::Lost,
        Err(_) => return Claimed::Failed,
    }
    for _ in 0..20 {
        match node.journal.load(shard).await {
            Ok(loaded) => return Claimed::Won { epoch, loaded },
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    Claimed::Failed
}

impl Worker {
    pub(super) fn route(&self, shard: Shard) -> Route {
        match self.shards.get(&shard) {
            Some(ShardSlot::Owned(_)) => return Route::Here,
            Some(ShardSlot::Claiming { .. }) => return Route::Claim,
            None => {}
        }
        let view = self.node.directory.view();
        match view.owner(shard).or_else(|| view.heir(shard)) {
            Some(node) if node.name == self.node.name => Route::Claim,
            Some(node) => Route::Node(node.name.clone()),
            None => Route::Nowhere,
        }
    }

    /// Keeps a command until the claim of its shard is decided, and starts the claim if none is under way.
    pub(super) fn wait_for_claim(&mut self, shard: Shard, envelope: Option<Envelope>) {
        let mut start = false;
        let slot = self.shards.entry(shard).or_insert_with(|| {
            start = true;
            ShardSlot::Claiming { waiting: Vec::new(), retry_at: None }
        });
        let ShardSlot::Claiming { waiting, .. } = slot else { return };
        match envelope {
            Some(envelope) if waiting.len() < WAITING_MAX => waiting.push(envelope),
            Some(envelope) => {
                let text = "the lobby's node is starting";
                self.refuse(&envelope, ErrorCode::OwnerUnavailable, text, Some(1_000));
            }
            None => {}
        }
        if start {
            self.start_claim(shard);
        }
    }

    fn start_claim(&mut self, shard: Shard) {
        let node = Arc::clone(&self.node);
        self.spawn(async move { Done::Claimed { shard, claimed: claim(node, shard).await } });
    }

    pub(super) fn retry_claims(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (shard, slot) in &mut self.shards {
            if let ShardSlot::Claiming { retry_at, .. } = slot
                && retry_at.is_some_and(|at| at <= now)
            {
                *retry_at = None;
                due.push(*shard);
            }
        }
        for shard in due {
            self.start_claim(shard);
        }
    }

    pub(super) fn on_claimed(&mut self, shard: Shard, claimed: Claimed) {
        let Some(ShardSlot::Claiming { waiting, retry_at }) = self.shards.get_mut(&shard) else { return };
        match claimed {
            Claimed::Won { epoch, loaded } => {
                let waiting = std::mem::take(waiting);
                self.node.metrics.claims.with_label_values(&["won"]).inc();
                tracing::debug!(%shard, %epoch, entries = loaded.entries.len(), "claimed a shard");
                self.serve(shard, epoch, loaded, waiting);
            }
            Claimed::Lost => {
                let waiting = std::mem::take(waiting);
                self.node.metrics.claims.with_label_values(&["lost"]).inc();
                self.shards.remove(&shard);
                for envelope in waiting {
                    self.on_command(envelope);
                }
            }
            Claimed::Failed => {
                self.node.metrics.claims.with_label_values(&["failed"]).inc();
                *retry_at = Some(Instant::now() + CLAIM_PAUSE);
            }
        }
    }

    /// Rebuilds a shard's lobbies and puts them into service.
    fn serve(&mut self, shard: Shard, epoch: Epoch, loaded: Loaded, waiting: Vec<Envelope>) {
        let now = self.node.clock.now();
        let mut owned = Box::new(OwnedShard::new(epoch, loaded.top, Instant::now() + SNAPSHOT_PERIOD));
        let mut states: HashMap<LobbyId, Result<State, String>> = HashMap::new();
        for (lobby, bytes) in loaded.snapshots {
            let state = State::from_snapshot(&bytes).map_err(|error| error.to_string());
            states.insert(lobby, state);
        }
        let mut tails: HashMap<LobbyId, Vec<Entry>> = HashMap::new();
        for (id, bytes) in loaded.entries {
            let entry = match Entry::decode(&bytes) {
                Ok(entry) => entry,
                Err(error) => {
                    tracing::error!(%shard, ?id, %error, "an entry of the journal cannot be read");
                    self.node.metrics.unreadable.with_label_values(&["entry"]).inc();
                    continue;
                }
            };
            let Some(first) = entry.events.first() else { continue };
            let (lobby, at) = (first.lobby.clone(), first.at);
            let events = entry.events.iter().cloned().map(Arc::new).collect();
            owned.keep(Logged { id, at, bytes: bytes.len(), events });
            if first.seq == Seq(1) {
                states.entry(lobby.clone()).or_insert_with(|| Ok(State::new(lobby.clone())));
            }
            match states.get_mut(&lobby) {
                Some(Ok(state)) if first.seq.0 <= state.seq.0 + 1 => _ = state.apply_entry(entry),
                Some(Ok(state)) => {
                    let why = format!("event {} is missing before {}", state.seq.next(), first.seq);
                    states.insert(lobby, Err(why));
                }
                Some(Err(_)) => {}
                None => tails.entry(lobby).or_default().push(entry),
            }
        }
        for (lobby, state) in states {
            let slot = match state {
                Ok(state) => Worker::rebuilt(state, now),
                Err(why) => {
                    tracing::error!(%lobby, why, "a lobby cannot be rebuilt; it is out of service");
                    self.node.metrics.quarantined.inc();
                    LobbySlot::Quarantined
                }
            };
            owned.lobbies.insert(lobby, slot);
        }
        let cold: Vec<_> = tails.keys().cloned().collect();
        for (lobby, tail) in tails {
            owned.lobbies.insert(lobby, LobbySlot::Loading { waiting: Vec::new(), tail });
        }
        self.node.metrics.shards.inc();
        self.shards.insert(shard, ShardSlot::Owned(owned));
        for lobby in cold {
            self.load_lobby(lobby);
        }
        self.attach_here(shard);
        for envelope in waiting {
            let lobby = envelope.lobby.clone();
            self.on_owned(shard, &lobby, Task::Command(envelope));
        }
    }

    /// The audiences that were fed from elsewhere are fed from here now.
    fn attach_here(&mut self, shard: Shard) {
        let lobbies: Vec<_> =
            self.attachments.keys().filter(|lobby| shard_of(lobby) == shard).cloned().collect();
        for lobby in lobbies {
            self.attach_lobby(&lobby);
        }
    }

    /// Feeds one audience from here, after what it missed since it was fed last.
    pub(super) fn attach_lobby(&mut self, lobby: &LobbyId) {
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        let shard = shard_of(lobby);
        let unanswered = attachment.become_local();
        let (since, sessions) = (attachment.position, attachment.attaching());
        if !sessions.is_empty() {
            let task = AttachTask { lobby: lobby.clone(), from: None, since, sessions };
            self.on_owned(shard, lobby, Task::Attach(task));
        }
        for envelope in unanswered {
            self.on_owned(shard, lobby, Task::Command(envelope));
        }
    }

    /// The journal has refused an append: another node owns the shard. What was not committed is not said; its
    /// commands go to the new owner.
    pub(super) fn on_deposed(&mut self, shard: Shard) {
        let Some(ShardSlot::Owned(mut owned)) = self.shards.remove(&shard) else { return };
        tracing::info!(%shard, epoch = %owned.epoch, "another node owns the shard now");
        self.node.metrics.depositions.inc();
        self.node.metrics.shards.dec();
        let mut homeless = Vec::new();
        for (lobby, slot) in owned.lobbies.drain() {
            if let Some(attachment) = self.attachments.get_mut(&lobby) {
                attachment.lose_owner();
            }
            match slot {
                LobbySlot::Live(mut lobby) => {
                    homeless.extend(lobby.pending.drain(..).filter_map(|pending| pending.envelope));
                }
                LobbySlot::Loading { waiting, .. } => {
                    homeless.extend(waiting.into_iter().filter_map(|task| match task {
                        Task::Command(envelope) => Some(envelope),
                        Task::Attach(_) => None,
                    }))
                }
                LobbySlot::Quarantined => {}
            }
        }
        for envelope in homeless {
            match &envelope.origin {
                Origin::Session(..) => self.on_command(envelope),
                Origin::Node { node, token } => {
                    let moved = FromOwner::Moved { token: *token, to: None };
                    self.send(node, &LinkMessage::FromOwner(envelope.lobby.clone(), moved));
                }
            }
        }
        let directory = self.node.directory.clone();
        self.spawn(async move {
            // The view's watcher tells this worker what it finds; without an answer the next regular reading does.
            let _ = directory.refresh().await;
            Done::Nothing
        });
    }

    /// Nodes may have come, gone, or restarted, and shards moved.
    pub(super) fn on_view_changed(&mut self) {
        let view = self.node.directory.view();
        let live: Vec<_> = view.nodes.values().map(|node| (node.name.clone(), node.incarnation)).collect();
        if live != self.live_nodes {
            let gone: Vec<_> = self.live_nodes.iter().filter(|node| !live.contains(node)).cloned().collect();
            self.live_nodes = live;
            for (node, _) in gone {
                self.forget_node(&node);
            }
        }
        self.follow_owners();
    }
}
