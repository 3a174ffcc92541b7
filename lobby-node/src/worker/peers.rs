//! What this node does as a lobby's owner for the sessions on other nodes.

use std::sync::Arc;

use mlms_protocol::placement::shard_of;
use mlms_protocol::{Epoch, LobbyEvent, LobbyId, NodeName, Refusal, SessionId};
use tokio::time::Instant;

use super::live::{AttachTask, LobbySlot, Task, presence_event};
use super::ownership::Route;
use super::shard::{OwnedShard, ShardSlot};
use super::{Envelope, Origin, Turn, Worker};
use crate::session::COMMAND_TIME;
use crate::wire::{AttachOutcome, FromOwner, LinkMessage, ToOwner};

/// Events in one page for a session that pulls what it missed.
pub(super) const PAGE_EVENTS: usize = 256;

impl Worker {
    pub(super) fn on_from_node(&mut self, from: NodeName, lobby: LobbyId, message: ToOwner) {
        let shard = shard_of(&lobby);
        match message {
            ToOwner::Command { token, caller, key, command, trace, of, epoch, after } => {
                let owned = self.epoch_of(&lobby);
                if let Some(refusal) = of.and_then(|of| self.refused.of(&from, &lobby, of, owned)) {
                    let answer = FromOwner::Answer { token, outcome: Err(refusal) };
                    return self.send(&from, &LinkMessage::FromOwner(lobby, answer));
                }
                if let Some(of) = of
                    && self.refused.is_ahead(&from, &lobby, of, after)
                {
                    // What its sender said before it has been sent on, and is on its way back.
                    let owner = match self.route(shard) {
                        Route::Here | Route::Claim => Some(self.node.name.clone()),
                        Route::Node(owner) => Some(owner),
                        Route::Nowhere => None,
                    };
                    return self.send_moved(&from, token, lobby, owner);
                }
                self.on_command(Envelope {
                    trace: self.node.trace_forwarded(trace, command.op()),
                    caller: Arc::new(caller),
                    origin: Origin::Node { node: from, token, of, epoch },
                    lobby,
                    command,
                    key,
                    found: None,
                    deadline: Instant::now() + COMMAND_TIME,
                    turn: Turn::default(),
                });
            }
            ToOwner::Attach { token, since, sessions, joining } => {
                let from = Some((from, token));
                self.on_task(Task::Attach(AttachTask { lobby, from, since, sessions, joining }));
            }
            ToOwner::Detach { session, user } => self.on_task(Task::Detach { lobby, session, user }),
            ToOwner::Page { token, after } => {
                let events = match self.shards.get(&shard) {
                    Some(ShardSlot::Owned(owned)) => match owned.lobbies.get(&lobby) {
                        Some(LobbySlot::Live(lobby)) => lobby.events_between(after, PAGE_EVENTS),
                        _ => None,
                    },
                    // The node asks the new owner, once it is attached there.
                    _ => return self.refuse_attach(&from, token, lobby),
                };
                let events =
                    events.map(|events| events.iter().map(|event| LobbyEvent::clone(event)).collect());
                self.send(&from, &LinkMessage::FromOwner(lobby, FromOwner::Page { token, events }));
            }
        }
    }

    pub(super) fn attached(
        &mut self,
        task: AttachTask,
        refused: Vec<(SessionId, Refusal)>,
        events: Option<Vec<Arc<LobbyEvent>>>,
        epoch: Epoch,
    ) {
        let outcome = match events {
            Some(events) => AttachOutcome::Continue {
                events: events.iter().map(|event| LobbyEvent::clone(event)).collect(),
                refused,
            },
            None => AttachOutcome::Restart,
        };
        match task.from {
            Some((node, token)) => {
                let attached = FromOwner::Attached { token, epoch, outcome };
                self.send(&node, &LinkMessage::FromOwner(task.lobby, attached));
            }
            None => self.on_attached(&task.lobby, epoch, outcome),
        }
    }

    /// The sessions of a node that is gone are lost.
    pub(super) fn forget_node(&mut self, gone: &NodeName) {
        let now = self.node.clock.now();
        let (mut away, mut heard) = (Vec::new(), Vec::new());
        for slot in self.shards.values_mut() {
            let ShardSlot::Owned(owned) = slot else { continue };
            let OwnedShard { lobbies, epoch, .. } = owned.as_mut();
            let owned_epoch = *epoch;
            for (id, slot) in lobbies {
                let LobbySlot::Live(lobby) = slot else { continue };
                if lobby.awaited.iter().any(|awaited| awaited == gone) {
                    lobby.awaited.retain(|awaited| awaited != gone);
                    if lobby.awaited.is_empty() {
                        heard.push(id.clone());
                    }
                }
                if lobby.nodes.remove(gone).is_some() {
                    // Should it live after all, it has to attach again.
                    let moved = FromOwner::Moved { token: 0, to: None, epoch: owned_epoch };
                    self.node.links.send(gone, LinkMessage::FromOwner(id.clone(), moved).encode());
                }
                let lost: Vec<_> = lobby
                    .presence
                    .iter()
                    .flat_map(|(user, presence)| presence.sessions.iter().map(move |session| (user, session)))
                    .filter(|(_, (_, node))| node.as_ref() == Some(gone))
                    .map(|(user, (session, _))| (user.clone(), session.clone()))
                    .collect();
                for (user, session) in lost {
                    if lobby.detach(&session, &user, now) {
                        away.push((id.clone(), user));
                    }
                }
            }
        }
        for (lobby, user) in away {
            self.pass_in(&lobby, presence_event(&lobby, &user, true));
        }
        for lobby in heard {
            self.stop_awaiting(&lobby);
        }
    }

    /// Sessions that their node did not name again after a link was reset are gone.
    pub(super) fn confirm_ports(&mut self) {
        let (now, wall) = (Instant::now(), self.node.clock.now());
        let mut away = Vec::new();
        for slot in self.shards.values_mut() {
            let ShardSlot::Owned(owned) = slot else { continue };
            let OwnedShard { lobbies, .. } = owned.as_mut();
            for (id, slot) in lobbies {
                let LobbySlot::Live(lobby) = slot else { continue };
                let mut gone = Vec::new();
                for port in
                    lobby.nodes.values_mut().filter(|port| port.confirm_by.is_some_and(|by| by <= now))
                {
                    port.confirm_by = None;
                    for session in std::mem::take(&mut port.unconfirmed) {
                        gone.extend(port.sessions.get(&session).cloned().map(|user| (session, user)));
                    }
                }
                for (session, user) in gone {
                    if lobby.detach(&session, &user, wall) {
                        away.push((id.clone(), user));
                    }
                }
            }
        }
        for (lobby, user) in away {
            self.pass_in(&lobby, presence_event(&lobby, &user, true));
        }
    }
}
