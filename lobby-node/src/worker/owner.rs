//! What this node does as a lobby's owner: hands a task to the lobby, with the lobby's panics kept from everything
//! else, and brings lobbies into memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mlms_protocol::placement::shard_of;
use mlms_protocol::{Class, Epoch, ErrorCode, LobbyCommand, LobbyId, Millis, Seq, Shard};
use tokio::time::Instant;

use super::attachment::Attachment;
use super::cold::{self, Cold};
use super::forward::TURN_IS_OVER;
use super::live::{Lobby, LobbySlot, Task, presence_event};
use super::shard::ShardSlot;
use super::speech::Emit;
use super::unanswered::passes;
use super::{Done, Envelope, Origin, Worker};
use crate::backlog::grows_journal;
use crate::lobby::{Decision, State};

/// Commands that may wait while a lobby is read from the database.
const WAITING_MAX: usize = 1_024;

impl Worker {
    /// Hands a task to a lobby of a shard that this node owns.
    pub(super) fn on_owned(&mut self, shard: Shard, lobby_id: &LobbyId, task: Task) {
        let node = Arc::clone(&self.node);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else {
            // Lost since it was looked up: whoever asked is not left without an answer.
            return self.refuse_late(task);
        };
        if let Task::Command(envelope) = &task
            && let Origin::Node { epoch: Some(known), .. } = &envelope.origin
            && (Epoch(1)..owned.epoch).contains(known)
            && passes(envelope)
        {
            // It was sent to an owner before, perhaps long ago, over a link that was broken: what its sender said later may
            // be out already.
            return self.refuse(envelope, ErrorCode::OwnerUnavailable, TURN_IS_OVER, Some(500));
        }
        if !self.crowded.is_empty()
            && let Task::Command(envelope) = &task
            && passes(envelope)
            && self.crowded.contains(lobby_id)
        {
            if self.attachments.get(lobby_id).is_some_and(Attachment::is_crowded) {
                let text = "too much waits for the lobby's members here";
                return self.refuse(envelope, ErrorCode::Overloaded, text, Some(500));
            }
            self.crowded.remove(lobby_id);
        }
        let task = if owned.holds() {
            match Worker::hold(owned, task) {
                None => return,
                Some(task) => return self.refuse_late(task),
            }
        } else {
            task
        };
        if node.backlog.is_full()
            && let Task::Command(envelope) = &task
            && grows_journal(&envelope.command)
        {
            let text = "the database does not keep up";
            return self.refuse(envelope, ErrorCode::Degraded, text, Some(1_000));
        }
        if owned.is_degraded()
            && let Task::Command(envelope) = task
        {
            return self.take_degraded(owned_id(shard, lobby_id), envelope);
        }
        let slot = match owned.lobbies.get_mut(lobby_id) {
            // Nobody knows a session of a lobby that is not in memory.
            None if matches!(task, Task::Detach { .. }) => return,
            None => {
                let slot = LobbySlot::Loading { waiting: vec![task], tail: Vec::new() };
                owned.lobbies.insert(lobby_id.clone(), slot);
                return self.load_lobby(lobby_id.clone());
            }
            Some(LobbySlot::Loading { waiting, .. }) => {
                // Of attaches there is one, this node's own, that nobody would send again.
                let is_own_attach = matches!(&task, Task::Attach(attach) if attach.from.is_none());
                if waiting.len() < WAITING_MAX || is_own_attach {
                    return waiting.push(task);
                }
                if let Task::Command(envelope) = task {
                    self.refuse(&envelope, ErrorCode::Overloaded, "the lobby is being loaded", Some(500));
                }
                return;
            }
            Some(LobbySlot::Quarantined) => {
                if let Task::Command(envelope) = task {
                    self.refuse(&envelope, ErrorCode::Internal, "the lobby is out of service", None);
                }
                return;
            }
            Some(slot) => slot,
        };
        if let (LobbySlot::Live(lobby), Task::Command(envelope)) = (&mut *slot, &task)
            && !lobby.awaited.is_empty()
        {
            let is_waiting = self.awaiting.contains_key(lobby_id);
            if is_waiting && lobby.early.len() < WAITING_MAX {
                return lobby.early.push(task);
            }
            if is_waiting || (lobby.is_unheard(Instant::now()) && is_ordered(envelope)) {
                return self.refuse_late(task);
            }
        }
        // While the lobby's code runs its slot says quarantined; a panic leaves it so.
        let LobbySlot::Live(mut lobby) = std::mem::replace(slot, LobbySlot::Quarantined) else { return };
        let mut out = Vec::new();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            match task {
                Task::Command(envelope) => lobby.take(owned, &node, envelope, &mut out),
                Task::Attach(attach) => {
                    let now = node.clock.now().max(lobby.state.at);
                    lobby.take_attach(owned, &node, attach, now);
                }
                Task::Detach { session, user, .. } => {
                    if lobby.detach(&session, &user, node.clock.now()) {
                        lobby.pass(owned.epoch, presence_event(lobby_id, &user, true), None, &mut out);
                    }
                }
            }
            lobby
        }));
        self.after_run(shard, lobby_id, ran, out);
    }

    fn after_run(
        &mut self,
        shard: Shard,
        lobby_id: &LobbyId,
        ran: std::thread::Result<Box<Lobby>>,
        out: Vec<Emit>,
    ) {
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        match ran {
            Ok(lobby) => _ = owned.lobbies.insert(lobby_id.clone(), LobbySlot::Live(lobby)),
            Err(_) => {
                tracing::error!(lobby = %lobby_id, "a lobby's code panicked; the lobby is out of service");
                self.node.metrics.quarantined.inc();
            }
        }
        self.gathered.insert(shard);
        self.emit(lobby_id, out);
    }

    /// The journal does not answer: only what needs no journal goes on, among the members here.
    fn take_degraded(&mut self, (shard, lobby_id): (Shard, LobbyId), envelope: Envelope) {
        let sequenced = match &envelope.command {
            LobbyCommand::Send(send) => send.class == Class::Durable,
            LobbyCommand::Typing => false,
            _ => true,
        };
        if sequenced {
            return self.refuse(&envelope, ErrorCode::Degraded, "the journal is out of reach", Some(1_000));
        }
        let node = Arc::clone(&self.node);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        let mut out = Vec::new();
        let epoch = owned.epoch;
        if let Some(LobbySlot::Live(lobby)) = owned.lobbies.get_mut(&lobby_id) {
            let now = node.clock.now().max(lobby.state.at);
            match lobby.state.decide(&envelope.caller, &envelope.command, true, now, &node.rules.load()) {
                Ok(Decision::Pass(passing)) => lobby.pass(epoch, passing, Some(envelope), &mut out),
                Ok(_) => {}
                Err(refusal) => out.push(Emit::Reply { envelope, outcome: Err(refusal) }),
            }
        }
        self.emit(&lobby_id, out);
    }

    pub(super) fn load_lobby(&mut self, lobby: LobbyId) {
        let slot = self.owned(&lobby).and_then(|owned| owned.lobbies.get(&lobby));
        let until = match slot {
            Some(LobbySlot::Loading { tail, .. }) => {
                tail.first().and_then(|entry| entry.events.first()).map(|event| event.seq)
            }
            _ => None,
        };
        let (store, limits) = (self.node.store.clone(), self.node.limits());
        self.spawn(async move {
            let result = cold::read(store, lobby.clone(), until, limits).await;
            Done::Loaded { lobby, result }
        });
    }

    pub(super) fn on_loaded(&mut self, lobby_id: &LobbyId, result: Cold) {
        let shard = shard_of(lobby_id);
        let now = self.node.clock.now();
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        let Some(LobbySlot::Loading { waiting, tail }) = owned.lobbies.remove(lobby_id) else { return };
        let state = match result {
            Ok(state) => state.map(|state| *state),
            Err(error) => {
                tracing::warn!(lobby = %lobby_id, %error, "a lobby cannot be read from the database");
                if !tail.is_empty() {
                    // Its newest events are in the journal: keep them, and try again with the next command.
                    owned.lobbies.insert(lobby_id.clone(), LobbySlot::Loading { waiting: Vec::new(), tail });
                    self.load_lobby(lobby_id.clone());
                }
                for task in waiting {
                    if let Task::Command(envelope) = task {
                        let text = "the lobby's past is out of reach";
                        self.refuse(&envelope, ErrorCode::Degraded, text, Some(1_000));
                    }
                }
                return;
            }
        };
        let whole = state.and_then(|mut state| {
            let saved = state.seq;
            for entry in tail {
                let first = entry.events.first().map_or(Seq(0), |event| event.seq);
                if first.0 > state.seq.0 + 1 {
                    return Err(format!("event {} is missing before {first}", state.seq.next()));
                }
                state.apply_entry(entry);
            }
            Ok((state, saved))
        });
        let promised = owned.promised.remove(lobby_id).unwrap_or_default();
        let slot = match whole {
            Ok((state, saved)) => {
                let mut lobby = Box::new(Lobby::new(state, now));
                lobby.saved = saved;
                self.await_nodes(&mut lobby, promised);
                LobbySlot::Live(lobby)
            }
            Err(why) => {
                tracing::error!(lobby = %lobby_id, why, "a lobby cannot be rebuilt; it is out of service");
                self.node.metrics.quarantined.inc();
                LobbySlot::Quarantined
            }
        };
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        owned.lobbies.insert(lobby_id.clone(), slot);
        for task in waiting {
            self.on_owned(shard, lobby_id, task);
        }
    }

    /// Puts a lobby that was rebuilt from the journal into service.
    pub(super) fn rebuilt(state: State, now: Millis) -> LobbySlot {
        LobbySlot::Live(Box::new(Lobby::new(state, now)))
    }
}

/// Whether it has to reach everybody who is connected, and nobody could ask for it later.
fn is_ordered(envelope: &Envelope) -> bool {
    matches!(&envelope.command, LobbyCommand::Send(send) if send.class == Class::Ordered)
}

fn owned_id(shard: Shard, lobby: &LobbyId) -> (Shard, LobbyId) {
    (shard, lobby.clone())
}
