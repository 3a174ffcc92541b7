//! Giving a shard away while everybody lives: the new owner reads it first, then intake stops, the last batch is
//! committed, the record changes, and the new owner goes on from there. Until the record has changed the move can be
//! given up at any step; after it, a new owner that does not serve loses the shard again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::directory::Claim;
use mlms_cluster::view::{NodeState, ShardRecord};
use mlms_protocol::placement::shard_of;
use mlms_protocol::{Epoch, ErrorCode, Incarnation, LobbyId, NodeName, Shard};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::forward::OUT_OF_TOUCH;
use super::live::{LobbySlot, Task};
use super::ownership::{Claimed, Route, in_time, load};
use super::shard::{OwnedShard, ShardSlot};
use super::taking::Giver;
use super::unanswered::Former;
use super::{Done, Worker};
use crate::node::Node;
use crate::wire::{FromOwner, LinkMessage, ShardMessage};

/// How long the new owner may take to read the shard. The lobbies go on meanwhile.
const PREPARE_TIME: Duration = Duration::from_secs(3);
/// How long commands may be held back before the move is given up.
const HOLD_TIME: Duration = Duration::from_secs(2);
/// Commands that may be held back.
const HELD_MAX: usize = 8_192;
/// How long the new owner may take to serve before the shard is taken back.
const SERVE_TIME: Duration = Duration::from_secs(5);
/// Pause between attempts to change the record.
const AGAIN: Duration = Duration::from_millis(50);

/// How a move came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// The new owner serves the shard.
    Served,
    /// It stays here, or was taken back.
    Kept,
    /// This node does not own it.
    NotOwned,
}

/// A move of an owned shard, before its record has changed.
pub(super) struct Moving {
    pub(super) to: NodeName,
    incarnation: Incarnation,
    phase: Phase,
    began: Instant,
    /// Commands and attaches that came after intake stopped, in their order.
    pub(super) held: Vec<Task>,
    answer: oneshot::Sender<Moved>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The new owner reads; snapshots are taken, so that it needs no database.
    Preparing { is_prepared: bool },
    /// Nothing is taken in; the last batch is on its way.
    Flushing,
    /// The record is being changed.
    Handing,
}

impl Moving {
    pub(super) fn holds(&self) -> bool {
        matches!(self.phase, Phase::Flushing | Phase::Handing)
    }
}

/// A shard that was given away and is not known to be served yet.
pub(super) struct Given {
    record: ShardRecord,
    until: Instant,
    answer: oneshot::Sender<Moved>,
    /// Since when its lobbies pause.
    paused: Instant,
}

/// What became of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    Changed,
    /// Somebody else's record stands there.
    Lost,
    /// The directory did not answer: the next append tells.
    Unclear,
}

async fn change_record(node: Arc<Node>, shard: Shard, expected: ShardRecord, new: ShardRecord) -> Handed {
    let until = Instant::now() + HOLD_TIME;
    while Instant::now() < until {
        match node.directory.claim(shard, Some(&expected), &new).await {
            Ok(Claim::Won) => return Handed::Changed,
            Ok(Claim::Lost(Some(now))) if now == new => return Handed::Changed,
            Ok(Claim::Lost(_)) => return Handed::Lost,
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
    Handed::Unclear
}

fn tell(answer: oneshot::Sender<Moved>, moved: Moved) {
    // Whoever asked may have gone.
    _ = answer.send(moved);
}

/// Takes a shard back from an owner that does not serve it.
async fn take_back(node: Arc<Node>, shard: Shard, expected: ShardRecord) -> Claimed {
    let epoch = Epoch(expected.epoch.0 + 1);
    let mine = ShardRecord { node: node.name.clone(), incarnation: node.incarnation, epoch };
    match node.directory.take_back(shard, Some(&expected), &mine).await {
        Ok(Claim::Won) => load(&node, shard, epoch).await,
        Ok(Claim::Lost(Some(now))) if now == mine => load(&node, shard, epoch).await,
        Ok(Claim::Lost(_)) => Claimed::Lost,
        Err(_) => Claimed::Failed,
    }
}

impl Worker {
    /// Begins to move a shard. The answer comes when the new owner serves, or when nothing came of it.
    pub(super) fn on_move(&mut self, shard: Shard, to: NodeName, answer: oneshot::Sender<Moved>) {
        // Whoever asked may have gone.
        let view = self.node.directory.view();
        let target = view.nodes.get(&to).filter(|target| target.state == NodeState::Ready);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else {
            return tell(answer, Moved::NotOwned);
        };
        let Some(target) = target.filter(|target| target.name != self.node.name) else {
            return tell(answer, Moved::Kept);
        };
        if owned.moving.is_some() || owned.is_degraded() {
            return tell(answer, Moved::Kept);
        }
        owned.moving = Some(Box::new(Moving {
            to: to.clone(),
            incarnation: target.incarnation,
            phase: Phase::Preparing { is_prepared: false },
            began: Instant::now(),
            held: Vec::new(),
            answer,
        }));
        self.moving.insert(shard);
        self.take_snapshots(shard);
        self.send(&to, &LinkMessage::Shard(shard, ShardMessage::Prepare));
    }

    /// Another node's word about a move.
    pub(super) fn on_shard_message(
        &mut self,
        from: NodeName,
        incarnation: Incarnation,
        shard: Shard,
        message: ShardMessage,
    ) {
        match message {
            ShardMessage::Prepare => self.on_prepare(from, shard),
            ShardMessage::Prepared => self.on_prepared(&from, incarnation, shard),
            ShardMessage::Declined => self.on_declined(&from, shard),
            ShardMessage::HandOver { epoch, archived, away, nodes } => {
                let giver = Giver { node: from, archived, away, nodes };
                self.on_hand_over(shard, epoch, giver);
            }
            ShardMessage::Served { epoch } => self.on_served(&from, shard, epoch),
        }
    }

    fn moving(&mut self, shard: Shard) -> Option<&mut Moving> {
        match self.shards.get_mut(&shard) {
            Some(ShardSlot::Owned(owned)) => owned.moving.as_deref_mut(),
            _ => None,
        }
    }

    fn on_prepared(&mut self, from: &NodeName, incarnation: Incarnation, shard: Shard) {
        if let Some(moving) = self.moving(shard)
            && moving.to == *from
            && moving.incarnation == incarnation
            && let Phase::Preparing { is_prepared } = &mut moving.phase
        {
            *is_prepared = true;
        }
    }

    fn on_declined(&mut self, from: &NodeName, shard: Shard) {
        if self.moving(shard).is_some_and(|moving| moving.to == *from && moving.phase != Phase::Handing) {
            self.keep_shard(shard);
        }
    }

    /// Takes every move its next step.
    pub(super) fn advance_moves(&mut self) {
        if self.moving.is_empty() {
            return;
        }
        let shards: Vec<_> = self.moving.iter().copied().collect();
        for shard in shards {
            self.advance_move(shard);
        }
    }

    fn advance_move(&mut self, shard: Shard) {
        let node = Arc::clone(&self.node);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else {
            self.moving.remove(&shard);
            return;
        };
        let is_saving = owned.snapshots.is_some() || owned.snapshotting;
        let is_flushed = !owned.is_appending();
        let epoch = owned.epoch;
        let Some(moving) = owned.moving.as_deref_mut() else {
            self.moving.remove(&shard);
            return;
        };
        let now = Instant::now();
        if moving.phase == (Phase::Preparing { is_prepared: true }) && !is_saving {
            (moving.phase, moving.began) = (Phase::Flushing, now);
        }
        let time = if moving.holds() { HOLD_TIME } else { PREPARE_TIME };
        match moving.phase {
            Phase::Flushing if is_flushed => {
                moving.phase = Phase::Handing;
                let record = |node: &NodeName, incarnation, epoch| ShardRecord {
                    node: node.clone(),
                    incarnation,
                    epoch,
                };
                let expected = record(&node.name, node.incarnation, epoch);
                let new = record(&moving.to, moving.incarnation, Epoch(epoch.0 + 1));
                self.spawn(async move {
                    let handed = change_record(node, shard, expected, new.clone()).await;
                    Done::Handed { shard, record: new, handed }
                });
            }
            Phase::Preparing { .. } | Phase::Flushing if moving.began + time <= now => {
                tracing::info!(%shard, to = %moving.to, "a move is given up");
                self.keep_shard(shard);
            }
            _ => {}
        }
    }

    /// Gives a move up: what was held is taken in here.
    pub(super) fn keep_shard(&mut self, shard: Shard) {
        self.moving.remove(&shard);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        let Some(moving) = owned.moving.take() else { return };
        self.node.metrics.moves.with_label_values(&["kept"]).inc();
        let Moving { held, answer, .. } = *moving;
        tell(answer, Moved::Kept);
        for task in held {
            let lobby = task.lobby().clone();
            self.on_owned(shard, &lobby, task);
        }
    }

    /// Keeps something back until it is clear who owns the shard. Gives it back when there is no room.
    pub(super) fn hold(owned: &mut OwnedShard, task: Task) -> Option<Task> {
        match owned.moving.as_deref_mut() {
            Some(moving) if moving.held.len() < HELD_MAX => {
                moving.held.push(task);
                None
            }
            _ => Some(task),
        }
    }

    pub(super) fn on_handed(&mut self, shard: Shard, record: ShardRecord, handed: Handed) {
        match handed {
            Handed::Changed => self.give_away(shard, record),
            Handed::Lost => self.on_deposed(shard),
            Handed::Unclear => self.keep_shard(shard),
        }
    }

    /// The record names the new owner: it is told first, then everybody who thinks that this node is it.
    fn give_away(&mut self, shard: Shard, record: ShardRecord) {
        self.moving.remove(&shard);
        if self.moving(shard).is_none() {
            // Given up meanwhile, though the record changed.
            return self.on_deposed(shard);
        }
        let Some(ShardSlot::Owned(mut owned)) = self.shards.remove(&shard) else { return };
        let Some(moving) = owned.moving.take() else { return };
        self.node.metrics.shards.dec();
        self.note_owner(shard, &record.node, record.epoch);
        tracing::debug!(%shard, to = %record.node, epoch = %record.epoch, "gave a shard away");
        let mut away = Vec::new();
        for (id, slot) in &owned.lobbies {
            if let LobbySlot::Live(lobby) = slot {
                away.extend(lobby.away().map(|(user, at)| (id.clone(), user.clone(), at)));
            }
        }
        for (id, promised) in &owned.promised {
            away.extend(promised.away.iter().map(|(user, at)| (id.clone(), user.clone(), *at)));
        }
        let nodes = self.attached_nodes(&owned, &record.node);
        let over = ShardMessage::HandOver { epoch: record.epoch, archived: owned.archived, away, nodes };
        self.send(&record.node, &LinkMessage::Shard(shard, over));
        let Moving { held, answer, began, .. } = *moving;
        // What a lobby had not taken in when intake stopped came before what was held back since.
        let mut homeless: Vec<_> = owned.give_up_forgetting().collect();
        for (id, slot) in owned.lobbies.drain() {
            match slot {
                LobbySlot::Live(lobby) => {
                    homeless.extend(lobby.early);
                    let (to, epoch) = (Some(record.node.clone()), record.epoch);
                    let moved = FromOwner::Moved { token: 0, to, epoch };
                    let moved = LinkMessage::FromOwner(id, moved).encode();
                    for node in lobby.nodes.keys().filter(|node| **node != record.node) {
                        self.node.links.send(node, moved.clone());
                    }
                }
                LobbySlot::Loading { waiting, .. } => homeless.extend(waiting),
                LobbySlot::Quarantined => {}
            }
        }
        homeless.extend(held);
        // What was given back takes its turn before anything goes to the new owner.
        let lobbies = self.lobbies_of(shard);
        for lobby in &lobbies {
            if let Some(attachment) = self.attachments.get_mut(lobby) {
                attachment.lose_owner(Former::Gone);
            }
        }
        for task in homeless {
            self.redirect(task);
        }
        for lobby in lobbies {
            self.turn_to(&lobby, record.node.clone());
        }
        let until = Instant::now() + SERVE_TIME;
        self.given.insert(shard, Given { record, until, answer, paused: began });
    }

    /// The nodes that have sessions in a shard's lobbies, without the new owner: those that are attached, and those
    /// that this node was itself still waiting for.
    fn attached_nodes(&self, owned: &OwnedShard, new: &NodeName) -> Vec<(LobbyId, Vec<NodeName>)> {
        let now = Instant::now();
        let nodes = owned.lobbies.iter().map(|(id, slot)| {
            let mut nodes: BTreeSet<NodeName> = match slot {
                LobbySlot::Live(lobby) => lobby.nodes.keys().chain(lobby.unheard(now)).cloned().collect(),
                LobbySlot::Loading { .. } => {
                    owned.promised.get(id).into_iter().flat_map(|promised| promised.nodes.clone()).collect()
                }
                LobbySlot::Quarantined => BTreeSet::new(),
            };
            if self.attachments.get(id).is_some_and(|attachment| !attachment.audience.is_empty()) {
                nodes.insert(self.node.name.clone());
            }
            nodes.remove(new);
            (id.clone(), nodes.into_iter().collect::<Vec<_>>())
        });
        nodes.filter(|(_, nodes)| !nodes.is_empty()).collect()
    }

    /// The lobbies of a shard that have sessions or commands here.
    pub(super) fn lobbies_of(&self, shard: Shard) -> Vec<LobbyId> {
        self.attachments.keys().filter(|lobby| shard_of(lobby) == shard).cloned().collect()
    }

    /// Sends something on that came to a node which does not own the lobby, or not any more.
    pub(super) fn redirect(&mut self, task: Task) {
        match task {
            Task::Command(envelope) => self.on_command(envelope),
            task => self.on_task(task),
        }
    }

    fn on_served(&mut self, from: &NodeName, shard: Shard, epoch: Epoch) {
        if self
            .given
            .get(&shard)
            .is_some_and(|given| given.record.node == *from && given.record.epoch <= epoch)
            && let Some(given) = self.given.remove(&shard)
        {
            self.node.metrics.moves.with_label_values(&["served"]).inc();
            self.node.metrics.move_pause_seconds.observe(given.paused.elapsed().as_secs_f64());
            tell(given.answer, Moved::Served);
        }
    }

    /// Takes back what was given to a node that does not serve it.
    pub(super) fn take_back_unserved(&mut self, now: Instant) {
        if self.given.is_empty() {
            return;
        }
        let late: Vec<_> =
            self.given.iter().filter(|(_, given)| given.until <= now).map(|(shard, _)| *shard).collect();
        let view = self.node.directory.view();
        for shard in late {
            let Some(given) = self.given.remove(&shard) else { continue };
            tell(given.answer, Moved::Kept);
            let is_unchanged = view.record(shard).is_none_or(|record| *record == given.record);
            if !is_unchanged || self.shards.contains_key(&shard) {
                continue;
            }
            tracing::warn!(%shard, from = %given.record.node, "a shard is taken back: its new owner does not serve it");
            self.node.metrics.moves.with_label_values(&["taken_back"]).inc();
            self.shards.insert(shard, ShardSlot::claiming());
            let node = Arc::clone(&self.node);
            self.spawn(async move {
                Done::Claimed { shard, claimed: in_time(take_back(node, shard, given.record)).await }
            });
        }
    }

    /// Commands that were held back for too long.
    pub(super) fn refuse_late(&mut self, task: Task) {
        if let Task::Command(envelope) = task {
            if self.node.standing.is_degraded() {
                return self.refuse(&envelope, ErrorCode::Degraded, OUT_OF_TOUCH, Some(1_000));
            }
            let text = "the lobby is moving to another node";
            self.refuse(&envelope, ErrorCode::OwnerUnavailable, text, Some(500));
        }
    }

    /// Tells another node that its attach came to the wrong place.
    pub(super) fn refuse_attach(&mut self, node: &NodeName, token: u64, lobby: LobbyId) {
        let owner = match self.route(shard_of(&lobby)) {
            Route::Node(owner) => Some(owner),
            _ => None,
        };
        self.send_moved(node, token, lobby, owner);
    }

    /// Tells another node that a command came to the wrong place: what its session says next has to follow it.
    pub(super) fn send_on(
        &mut self,
        node: &NodeName,
        token: u64,
        of: Option<u64>,
        lobby: LobbyId,
        owner: Option<NodeName>,
    ) {
        if let Some(of) = of {
            self.refused.note_sent_on(node, &lobby, of);
        }
        self.send_moved(node, token, lobby, owner);
    }

    /// Tells another node who owns a lobby, as far as this node knows.
    pub(super) fn send_moved(&self, node: &NodeName, token: u64, lobby: LobbyId, owner: Option<NodeName>) {
        let shard = shard_of(&lobby);
        let hint = self.hints.get(&shard).map(|(_, epoch)| *epoch);
        let known = self.node.directory.view().record(shard).map(|record| record.epoch);
        let epoch = known.max(hint).max(self.epoch_of(&lobby)).unwrap_or_default();
        let to = owner.filter(|owner| owner != node);
        self.send(node, &LinkMessage::FromOwner(lobby, FromOwner::Moved { token, to, epoch }));
    }
}

impl Task {
    pub(super) fn lobby(&self) -> &LobbyId {
        match self {
            Task::Command(envelope) => &envelope.lobby,
            Task::Attach(attach) => &attach.lobby,
            Task::Detach { lobby, .. } => lobby,
        }
    }

    /// Whether it is a command whose time is over.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        matches!(self, Task::Command(envelope) if envelope.deadline <= now)
    }
}
