//! Which shards this worker owns: claiming one, putting its lobbies into service, and finding out about its loss.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::directory::Claim;
use mlms_cluster::journal::Loaded;
use mlms_cluster::view::{ShardRecord, View};
use mlms_protocol::placement::shard_of;
use mlms_protocol::{Epoch, ErrorCode, LobbyId, NodeName, Seq, Shard};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::archive::SNAPSHOT_PERIOD;
use super::live::{AttachTask, Lobby, LobbySlot, Task};
use super::shard::{Logged, OwnedShard, Promised, ShardSlot};
use super::taking::Giver;
use super::unanswered::Former;
use super::{Done, Envelope, Origin, Worker, epochs};
use crate::lobby::{self, State};
use crate::node::Node;
use crate::wire::{FromOwner, LinkMessage, ShardMessage};

/// Commands that may wait for a claim of one shard.
const WAITING_MAX: usize = 8_192;
/// Pause before a claim that failed is tried again.
const CLAIM_PAUSE: Duration = Duration::from_millis(200);

/// How long a claim may take until the shard is served.
const CLAIM_TIME: Duration = Duration::from_secs(5);

/// How long a lobby that was handed over waits for the nodes that have sessions in it.
/// Shorter than a command's time: what waited is carried out after all.
const ATTACH_TIME: Duration = Duration::from_millis(1_000);

/// How long after a claim a message that has no seq is refused where members are not attached: their nodes were told by
/// the former owner, or see the claim, and attach.
const UNNAMED_TIME: Duration = Duration::from_millis(500);

/// How a claim came out.
pub(super) enum Claimed {
    Won(Box<Won>),
    /// Somebody else owns the shard.
    Lost,
    /// The directory or the journal did not answer.
    Failed,
}

/// A shard whose record names this node, and what stands in the journal.
pub(super) struct Won {
    pub(super) epoch: Epoch,
    pub(super) loaded: Loaded,
    /// It was handed over by its former owner.
    pub(super) giver: Option<Giver>,
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

/// Gives a claim up that does not come to its end; it is tried again.
pub(super) async fn in_time(claim: impl Future<Output = Claimed>) -> Claimed {
    tokio::time::timeout(CLAIM_TIME, claim).await.unwrap_or(Claimed::Failed)
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
    let is_mine = expected.as_ref().is_some_and(|record| record.node == node.name);
    if node.is_draining() && !is_mine && view.heir(shard).is_some_and(|heir| heir.name != node.name) {
        return Claimed::Lost;
    }
    let epoch = match &expected {
        Some(record) => Epoch(record.epoch.0 + 1),
        None => match epochs::first(&node, shard).await {
            Some(epoch) => epoch,
            None => return Claimed::Failed,
        },
    };
    let record = ShardRecord { node: node.name.clone(), incarnation: node.incarnation, epoch };
    let mut outcome = node.directory.claim(shard, expected.as_ref(), &record).await;
    if matches!(outcome, Ok(Claim::Lost(None))) {
        // The directory has lost the record of an owner that is gone: epochs go on from it all the same.
        outcome = node.directory.claim(shard, None, &record).await;
    }
    match outcome {
        Ok(Claim::Won) => {}
        Ok(Claim::Lost(now)) if now.as_ref() == Some(&record) => {}
        Ok(Claim::Lost(_)) => return Claimed::Lost,
        Err(_) => return Claimed::Failed,
    }
    if expected.is_none() {
        epochs::keep(&node, shard, epoch).await;
    }
    load(&node, shard, epoch).await
}

/// Reads a shard that is this node's.
pub(super) async fn load(node: &Node, shard: Shard, epoch: Epoch) -> Claimed {
    for _ in 0..20 {
        match node.journal.load(shard).await {
            Ok(loaded) => return Claimed::Won(Box::new(Won { epoch, loaded, giver: None })),
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
            None if self.has_left => return Route::Nowhere,
            None => {}
        }
        let view = self.node.directory.view();
        if let Some((owner, epoch)) = self.hints.get(&shard)
            && view.record(shard).is_none_or(|record| record.epoch < *epoch)
            && view.nodes.contains_key(owner)
        {
            return Route::Node(owner.clone());
        }
        match view.owner(shard).or_else(|| view.heir(shard)) {
            Some(node) if node.name == self.node.name => Route::Claim,
            Some(node) => Route::Node(node.name.clone()),
            None => Route::Nowhere,
        }
    }

    /// Keeps a task until the claim of its shard is decided, and starts the claim if none is under way.
    pub(super) fn wait_for_claim(&mut self, shard: Shard, task: Option<Task>) {
        let slot = match self.shards.entry(shard) {
            Entry::Occupied(slot) => slot.into_mut(),
            // Nobody knows a session of a lobby that nobody serves.
            Entry::Vacant(_) if matches!(task, Some(Task::Detach { .. })) => return,
            Entry::Vacant(place) => {
                let slot = place.insert(ShardSlot::claiming());
                let node = Arc::clone(&self.node);
                let claim =
                    async move { Done::Claimed { shard, claimed: in_time(claim(node, shard)).await } };
                self.under_way.push(Box::pin(claim));
                slot
            }
        };
        let (ShardSlot::Claiming { waiting, .. }, Some(task)) = (slot, task) else { return };
        if let Task::Attach(attach) = &task {
            // The node has asked again: what it said before is outdated.
            let is_older = |old: &Task| matches!(old, Task::Attach(old) if old.lobby == attach.lobby && names(old) == names(attach));
            waiting.retain(|old| !is_older(old));
        }
        match task {
            task if waiting.len() < WAITING_MAX => waiting.push(task),
            Task::Command(envelope) => {
                let text = "the lobby's node is starting";
                self.refuse(&envelope, ErrorCode::OwnerUnavailable, text, Some(1_000));
            }
            _ => {}
        }
    }

    fn start_claim(&mut self, shard: Shard) {
        let node = Arc::clone(&self.node);
        self.spawn(async move { Done::Claimed { shard, claimed: in_time(claim(node, shard)).await } });
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
        let Some(ShardSlot::Claiming { waiting, retry_at, .. }) = self.shards.get_mut(&shard) else { return };
        match claimed {
            Claimed::Won(won) => {
                let waiting = std::mem::take(waiting);
                let how = if won.giver.is_some() { "taken_over" } else { "won" };
                self.node.metrics.claims.with_label_values(&[how]).inc();
                tracing::debug!(%shard, epoch = %won.epoch, entries = won.loaded.entries.len(), "owns a shard");
                self.serve(shard, *won, waiting);
            }
            Claimed::Lost => {
                self.node.metrics.claims.with_label_values(&["lost"]).inc();
                self.stop_waiting(shard);
            }
            Claimed::Failed => {
                self.node.metrics.claims.with_label_values(&["failed"]).inc();
                *retry_at = Some(Instant::now() + CLAIM_PAUSE);
            }
        }
    }

    /// Rebuilds a shard's lobbies and puts them into service.
    fn serve(&mut self, shard: Shard, won: Won, waiting: Vec<Task>) {
        let Won { epoch, loaded, giver } = won;
        let now = self.node.clock.now();
        let mut owned = Box::new(OwnedShard::new(epoch, loaded.top, Instant::now() + SNAPSHOT_PERIOD));
        if !self.node.outlet.is_open() {
            owned.expect_no_publishing();
        }
        if giver.is_none() && self.live_nodes.iter().any(|(node, _)| *node != self.node.name) {
            owned.unnamed_until = Some(Instant::now() + UNNAMED_TIME);
        }
        let mut states: HashMap<LobbyId, Result<State, String>> = HashMap::new();
        for (lobby, bytes) in loaded.snapshots {
            let state = State::from_snapshot(&bytes).map_err(|error| error.to_string());
            states.insert(lobby, state);
        }
        let mut tails: HashMap<LobbyId, Vec<lobby::Entry>> = HashMap::new();
        for (id, bytes) in loaded.entries {
            let entry = match lobby::Entry::decode(&bytes) {
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
            owned.keep(Logged { id, at, bytes: bytes.len(), events, entry: bytes, trace: None });
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
        if let Some(giver) = &giver {
            owned.on_archived(giver.archived);
            let mut promised: HashMap<LobbyId, Promised> = HashMap::new();
            for (lobby, user, since) in &giver.away {
                promised.entry(lobby.clone()).or_default().away.push((user.clone(), *since));
            }
            for (lobby, nodes) in &giver.nodes {
                promised.entry(lobby.clone()).or_default().nodes.clone_from(nodes);
            }
            for (id, promised) in promised {
                match owned.lobbies.get_mut(&id) {
                    Some(LobbySlot::Live(lobby)) => self.await_nodes(lobby, promised),
                    _ => _ = owned.promised.insert(id, promised),
                }
            }
        }
        note_saved(&mut owned);
        self.node.metrics.shards.inc();
        self.shards.insert(shard, ShardSlot::Owned(owned));
        for lobby in cold {
            self.load_lobby(lobby);
        }
        self.attach_here(shard);
        for task in waiting {
            self.redirect(task);
        }
        if let Some(giver) = giver {
            self.send(&giver.node, &LinkMessage::Shard(shard, ShardMessage::Served { epoch }));
        }
    }

    /// Lets a lobby wait for the nodes that have sessions in it.
    pub(super) fn await_nodes(&mut self, lobby: &mut Lobby, promised: Promised) {
        for (user, since) in promised.away {
            lobby.set_away(&user, since);
        }
        if !promised.nodes.is_empty() {
            lobby.awaited = promised.nodes;
            self.awaiting.insert(lobby.state.lobby.clone(), Instant::now() + ATTACH_TIME);
        }
    }

    /// The audiences that were fed from elsewhere are fed from here now.
    fn attach_here(&mut self, shard: Shard) {
        for lobby in self.lobbies_of(shard) {
            self.attach_lobby(&lobby);
        }
    }

    /// Feeds one audience from here, after what it missed since it was fed last.
    pub(super) fn attach_lobby(&mut self, lobby: &LobbyId) {
        let former = self.former(lobby, &self.node.name);
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        let shard = shard_of(lobby);
        attachment.become_local(former);
        let (since, sessions) = (attachment.position, attachment.attaching());
        if !sessions.is_empty() {
            let task = AttachTask { lobby: lobby.clone(), from: None, since, sessions, joining: Vec::new() };
            self.on_owned(shard, lobby, Task::Attach(task));
        }
        self.send_unsent(lobby);
    }

    /// The journal has refused an append: another node owns the shard. What was not committed is not said; its
    /// commands go to the new owner.
    pub(super) fn on_deposed(&mut self, shard: Shard) {
        let Some(epoch) = self.let_go_of(shard) else { return };
        tracing::info!(%shard, %epoch, "another node owns the shard now");
        self.node.metrics.depositions.inc();
        let directory = self.node.directory.clone();
        self.spawn(async move {
            // The view's watcher tells this worker what it finds; without an answer the next regular reading does.
            let _ = directory.refresh().await;
            Done::Nothing
        });
    }

    /// The node leaves the fleet: what it still owns is anybody's from now on. Nothing more is said here, so that its
    /// last words can reach everybody before somebody else speaks for its lobbies.
    pub(super) fn let_go(&mut self, answer: oneshot::Sender<()>) {
        self.has_left = true;
        let shards: Vec<_> = self.shards.keys().copied().collect();
        for shard in shards {
            self.stop_waiting(shard);
            self.let_go_of(shard);
        }
        // Whoever asked may have stopped waiting.
        _ = answer.send(());
    }

    /// Drops a shard with whatever is not committed, and tells everybody who listened.
    fn let_go_of(&mut self, shard: Shard) -> Option<Epoch> {
        if !matches!(self.shards.get(&shard), Some(ShardSlot::Owned(_))) {
            return None;
        }
        let Some(ShardSlot::Owned(mut owned)) = self.shards.remove(&shard) else { return None };
        self.node.metrics.shards.dec();
        self.moving.remove(&shard);
        for lobby in self.lobbies_of(shard) {
            if let Some(attachment) = self.attachments.get_mut(&lobby) {
                attachment.lose_owner(Former::Gone);
            }
        }
        let mut homeless = Vec::new();
        for (_, slot) in owned.lobbies.drain() {
            match slot {
                LobbySlot::Live(mut lobby) => {
                    // The last word to those who listen: what was said before has reached them, and they turn away.
                    let moved = FromOwner::Moved { token: 0, to: None, epoch: Epoch(0) };
                    let moved = LinkMessage::FromOwner(lobby.state.lobby.clone(), moved).encode();
                    for node in lobby.nodes.keys() {
                        self.node.links.send(node, moved.clone());
                    }
                    let pending = lobby.pending.drain(..).filter_map(|pending| pending.envelope);
                    homeless.extend(pending.map(Task::Command));
                    homeless.extend(lobby.early);
                }
                LobbySlot::Loading { waiting, .. } => homeless.extend(waiting),
                LobbySlot::Quarantined => {}
            }
        }
        homeless.extend(owned.give_up_forgetting());
        homeless.extend(owned.moving.take().into_iter().flat_map(|moving| moving.held));
        for task in homeless {
            match task {
                Task::Command(Envelope { origin: Origin::Node { node, token, of, .. }, lobby, .. }) => {
                    self.send_on(&node, token, of, lobby, None);
                }
                task => self.redirect(task),
            }
        }
        Some(owned.epoch)
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
                self.expect_nothing_of(&node);
                if view.nodes.contains_key(&node) {
                    self.lose_run(&node);
                }
            }
        }
        self.hints.retain(|shard, (_, epoch)| view.record(*shard).is_none_or(|record| record.epoch < *epoch));
        if view.lost != self.lost {
            // The owners find out by an append what is missing.
            self.lost = view.lost;
            self.prove_all();
        }
        self.drop_what_is_lost(&view);
        self.follow_owners();
        self.take_what_is_named(&view);
    }

    /// Shards that have a newer owner. Where somebody talks the journal tells; this is for the quiet ones.
    fn drop_what_is_lost(&mut self, view: &View) {
        let is_lost = |shard: &Shard, slot: &ShardSlot| match slot {
            ShardSlot::Owned(owned) => {
                view.record(*shard).is_some_and(|record| record.epoch > owned.epoch)
                    && !owned.holds()
                    && !owned.restoring
            }
            ShardSlot::Claiming { .. } => false,
        };
        let lost: Vec<_> = self
            .shards
            .iter()
            .filter(|(shard, slot)| is_lost(shard, slot))
            .map(|(shard, _)| *shard)
            .collect();
        for shard in lost {
            self.on_deposed(shard);
        }
    }

    /// The node was out of touch for longer than its lease. Every shard proves by an append whether it is still
    /// owned, every lobby is listed again, and audiences attach again: their owners may have given this node up.
    pub(super) fn rejoin_all(&mut self) {
        self.prove_all();
        let lobbies: Vec<_> = self.attachments.keys().cloned().collect();
        for lobby in lobbies {
            self.name_anew(&lobby);
        }
    }

    /// Every shard proves by an append that it is owned, and every lobby is listed again.
    fn prove_all(&mut self) {
        for (shard, slot) in &mut self.shards {
            let ShardSlot::Owned(owned) = slot else { continue };
            owned.want_append();
            self.gathered.insert(*shard);
            for slot in owned.lobbies.values_mut() {
                if let LobbySlot::Live(lobby) = slot {
                    lobby.listed = None;
                }
            }
        }
    }

    /// Shards whose record names this run of the node, though nobody here knows: the word that they were handed over
    /// was lost, or a claim was won without an answer.
    fn take_what_is_named(&mut self, view: &View) {
        let is_named = |record: &ShardRecord| {
            record.node == self.node.name && record.incarnation == self.node.incarnation
        };
        let named = view.shards.iter().zip(0..).filter(|(record, _)| record.as_ref().is_some_and(is_named));
        let shards: Vec<_> = named
            .map(|(_, number)| Shard(number))
            .filter(|shard| self.is_mine(*shard) && !self.shards.contains_key(shard))
            .collect();
        for shard in shards {
            self.wait_for_claim(shard, None);
        }
    }
}

/// The node that attaches; none is this one.
fn names(attach: &AttachTask) -> Option<&NodeName> {
    attach.from.as_ref().map(|(node, _)| node)
}

/// Notes for each lobby up to where the event store has it: before its first entry that is still to be archived.
fn note_saved(owned: &mut OwnedShard) {
    let mut first: HashMap<LobbyId, Seq> = HashMap::new();
    for event in owned.unarchived().filter_map(|logged| logged.events.first()) {
        first.entry(event.lobby.clone()).or_insert(event.seq);
    }
    for (id, slot) in &mut owned.lobbies {
        if let LobbySlot::Live(lobby) = slot {
            lobby.saved = first.get(id).map_or(lobby.state.seq, |seq| Seq(seq.0 - 1));
        }
    }
}
