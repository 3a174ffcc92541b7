//! A lobby speaks: what a committed batch has made true goes to the sessions here and to the nodes that have others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::journal::{AppendError, EntryId};
use mlms_process::trace::Kind;
use mlms_protocol::command::{History, Position};
use mlms_protocol::{
    Answer, Body, Change, Epoch, ErrorCode, Limits, LobbyEvent, LobbyId, NodeName, Refusal, Seq, SessionId,
    Shard, TraceParent,
};
use mlms_store::{MessageReport, Range, StoreError};

use super::live::{AttachTask, Lobby, LobbySlot, Output, Pending, Port};
use super::shard::{ShardSlot, is_deposed};
use super::{Done, Envelope, Origin, Worker, evidence};
use crate::lobby::Passing;
use crate::wire::{FromOwner, LinkMessage};

/// What a lobby says, once it may.
pub(super) enum Emit {
    Event(Arc<LobbyEvent>, Epoch, Vec<NodeName>, Option<TraceParent>),
    Pass(Passing, Epoch, Vec<NodeName>),
    Reply {
        envelope: Envelope,
        outcome: Result<Answer, Refusal>,
    },
    /// `recent` are the events of the answer that are in memory.
    History {
        envelope: Envelope,
        query: History,
        recent: Vec<Arc<LobbyEvent>>,
        recent_floor: Seq,
        floor: Seq,
        /// What became of messages lately; the database may not know it yet.
        altered: Vec<(Seq, Option<Body>)>,
    },
    /// A password is to be tried at a lock before its join can be decided.
    Try {
        envelope: Envelope,
        lock: String,
    },
    /// A message is to be looked for in the database before a command about it can be decided.
    Recall {
        envelope: Envelope,
        of: Seq,
        altered: Vec<(Seq, Option<Body>)>,
    },
    /// A report is to be kept where moderators find it, before its sender is told so.
    File {
        envelope: Envelope,
        report: Box<MessageReport>,
    },
    /// The lobby has forgotten somebody in memory; the journal is next.
    Forget {
        envelope: Envelope,
    },
    Attached {
        task: AttachTask,
        refused: Vec<(SessionId, Refusal)>,
        events: Option<Vec<Arc<LobbyEvent>>>,
        epoch: Epoch,
    },
}

impl Lobby {
    /// Says everything that the committed batch has made true.
    fn release(&mut self, committed: u64, epoch: Epoch, limits: &Limits, out: &mut Vec<Emit>) {
        while self.pending.front().is_some_and(|pending| pending.batch <= committed) {
            let Pending { envelope, outputs, .. } = self.pending.pop_front().expect("it was just looked at");
            let mut envelope = envelope;
            for output in outputs {
                match output {
                    Output::Event(event) => {
                        self.released = Position { epoch: event.epoch, seq: event.seq };
                        let names = self.node_names();
                        match &event.change {
                            Change::Left { user, .. }
                            | Change::Kicked { user, .. }
                            | Change::Banned { user, .. } => {
                                self.close_ports(Some(user));
                            }
                            Change::Closed { .. } => self.close_ports(None),
                            _ => {}
                        }
                        let trace = envelope.as_ref().and_then(Envelope::traced);
                        out.push(Emit::Event(event, epoch, names, trace));
                    }
                    Output::Pass(passing) => out.push(Emit::Pass(passing, epoch, self.node_names())),
                    Output::Reply(outcome) => {
                        let Some(envelope) = envelope.take() else { continue };
                        if let (Ok(Answer::Joined(_)), Origin::Node { node, .. }) =
                            (&outcome, &envelope.origin)
                        {
                            let port = self.nodes.entry(node.clone()).or_default();
                            port.unconfirmed.retain(|session| *session != envelope.caller.session);
                            port.sessions
                                .insert(envelope.caller.session.clone(), envelope.caller.user.clone());
                        }
                        out.push(Emit::Reply { envelope, outcome });
                    }
                    Output::History(query) => {
                        let Some(envelope) = envelope.take() else { continue };
                        out.push(self.history(envelope, query));
                    }
                    Output::Attached(task, refused) => {
                        let events = self
                            .state
                            .missed_since(task.since, epoch, limits)
                            .and_then(|_| self.events_between(task.since.seq, usize::MAX));
                        if let Some((name, _)) = &task.from {
                            self.awaited.retain(|awaited| awaited != name);
                            self.open_port(name, &task, &refused, events.is_some());
                        }
                        out.push(Emit::Attached { task, refused, events, epoch });
                    }
                }
            }
        }
    }

    /// From now on a node hears what the lobby says, for these of its sessions and those that have just joined.
    fn open_port(
        &mut self,
        name: &NodeName,
        task: &AttachTask,
        refused: &[(SessionId, Refusal)],
        is_continued: bool,
    ) {
        let mut sessions = self.nodes.remove(name).unwrap_or_default().sessions;
        sessions.retain(|session, _| task.joining.contains(session));
        if is_continued {
            let callers = task.sessions.iter().map(|one| &one.caller);
            let taken = callers.filter(|caller| refused.iter().all(|(id, _)| *id != caller.session));
            sessions.extend(taken.map(|caller| (caller.session.clone(), caller.user.clone())));
        }
        if !sessions.is_empty() {
            self.nodes.insert(name.clone(), Port { sessions, ..Port::default() });
        }
    }

    /// Committed events behind a seq that are in memory.
    pub(super) fn events_between(&self, after: Seq, max: usize) -> Option<Vec<Arc<LobbyEvent>>> {
        if after >= self.released.seq {
            return Some(Vec::new());
        }
        let until = self.released.seq;
        let events = self.state.events_after(after)?;
        Some(events.take_while(|event| event.seq <= until).take(max).cloned().collect())
    }

    fn history(&self, envelope: Envelope, query: History) -> Emit {
        let (until, limit) = (self.released.seq, query.limit as usize);
        let recent_floor = self.state.recent_floor().max(self.state.floor);
        let recent: Vec<_> = match (query.after, query.before) {
            (Some(after), _) => {
                let events = self.state.events_after(after.max(recent_floor)).into_iter().flatten();
                events.take_while(|event| event.seq <= until).take(limit + 1).cloned().collect()
            }
            (None, before) => {
                let end = before.map_or(until.0, |before| before.0.saturating_sub(1).min(until.0));
                let start = end.saturating_sub(limit as u64 + 1).max(recent_floor.0);
                let events = self.state.events_after(Seq(start)).into_iter().flatten();
                events.take_while(|event| event.seq.0 <= end).cloned().collect()
            }
        };
        let altered = self.state.alterations();
        Emit::History { envelope, query, recent, recent_floor, floor: self.state.floor, altered }
    }
}

impl Worker {
    pub(super) fn on_appended(
        &mut self,
        shard: Shard,
        batch: u64,
        result: Result<EntryId, AppendError>,
        took: Duration,
    ) {
        let node = Arc::clone(&self.node);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        if !owned.traces().is_empty() {
            node.trace_append(owned.traces(), shard, took, result.is_err());
        }
        if is_deposed(&result) {
            return self.on_deposed(shard);
        }
        if matches!(result, Err(AppendError::Behind)) {
            return self.begin_restoring(shard);
        }
        let Ok(top) = result else {
            owned.unclear += 1;
            node.metrics.appends_repeated.inc();
            if owned.unclear == 3 {
                tracing::warn!(%shard, "the journal does not answer");
            }
            let again = owned.repeat_append(&node, shard);
            self.under_way.push(Box::pin(again));
            return;
        };
        node.metrics.append_seconds.observe(took.as_secs_f64());
        owned.committed(batch, top);
        let (committed, epoch) = (owned.committed_batch, owned.epoch);
        let ready: Vec<LobbyId> = owned.speaking.drain().collect();
        let mut still = Vec::new();
        for lobby_id in ready {
            let mut out = Vec::new();
            let mut is_heard = false;
            if let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard)
                && let Some(slot @ LobbySlot::Live(_)) = owned.lobbies.get_mut(&lobby_id)
            {
                // As when it takes a command: a panic leaves the lobby out of service, and nothing else.
                let LobbySlot::Live(mut lobby) = std::mem::replace(slot, LobbySlot::Quarantined) else {
                    continue;
                };
                let released = catch_unwind(AssertUnwindSafe(|| {
                    lobby.release(committed, epoch, &node.rules.load().limits, &mut out);
                    lobby
                }));
                match released {
                    Ok(lobby) => {
                        if !lobby.pending.is_empty() {
                            still.push(lobby_id.clone());
                        }
                        is_heard = lobby.awaited.is_empty() && !lobby.early.is_empty();
                        *slot = LobbySlot::Live(lobby);
                    }
                    Err(_) => {
                        tracing::error!(lobby = %lobby_id, "a lobby's code panicked; the lobby is out of service");
                        node.metrics.quarantined.inc();
                        out.clear();
                    }
                }
            }
            self.emit(&lobby_id, out);
            if is_heard {
                self.stop_awaiting(&lobby_id);
            }
        }
        if let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) {
            owned.speaking.extend(still);
        }
        self.gathered.insert(shard);
        self.save_snapshots(shard);
    }

    /// Says what lobbies may say: to the sessions here, and to the nodes that have others.
    pub(super) fn emit(&mut self, lobby_id: &LobbyId, out: Vec<Emit>) {
        for emit in out {
            match emit {
                Emit::Event(event, epoch, nodes, trace) => {
                    if !nodes.is_empty() {
                        let relayed = self.trace_relay(trace, nodes.len());
                        let message = super::event_message(lobby_id, epoch, &event, relayed);
                        for node in &nodes {
                            self.node.links.send(node, message.clone());
                        }
                    }
                    self.trace_delivery(trace, Kind::Internal);
                    self.pass_on(lobby_id, epoch, event);
                }
                Emit::Pass(passing, epoch, nodes) => {
                    self.trace_delivery(passing.trace, Kind::Internal);
                    if !nodes.is_empty() {
                        let trace = self.trace_relay(passing.trace, nodes.len());
                        let pass = FromOwner::Pass { epoch, passing: Passing { trace, ..passing.clone() } };
                        let message = LinkMessage::FromOwner(lobby_id.clone(), pass).encode();
                        for node in &nodes {
                            self.node.links.send(node, message.clone());
                        }
                    }
                    if let Some(attachment) = self.attachments.get_mut(lobby_id) {
                        attachment.pass_own(passing);
                        if attachment.is_crowded() {
                            self.crowded.insert(lobby_id.clone());
                        }
                        self.staged.insert(lobby_id.clone());
                    }
                }
                Emit::Reply { envelope, outcome } => self.answer_session(envelope, outcome),
                Emit::History { envelope, query, recent, recent_floor, floor, altered } => {
                    self.answer_history(envelope, query, recent, (recent_floor, floor), altered);
                }
                Emit::Try { envelope, lock } => self.try_password(envelope, lock),
                Emit::File { envelope, report } => self.file(envelope, report),
                Emit::Forget { envelope } => self.begin_forgetting(envelope),
                Emit::Recall { envelope, of, altered } => self.recall(envelope, of, altered),
                Emit::Attached { task, refused, events, epoch } => {
                    self.attached(task, refused, events, epoch)
                }
            }
        }
    }

    fn answer_history(
        &mut self,
        envelope: Envelope,
        query: History,
        recent: Vec<Arc<LobbyEvent>>,
        (recent_floor, floor): (Seq, Seq),
        altered: Vec<(Seq, Option<Body>)>,
    ) {
        let limit = query.limit as usize;
        let wanted_from = match (query.after, query.before) {
            (Some(after), _) => after.max(floor),
            (None, _) if recent.len() > limit => recent_floor,
            (None, before) if before.is_some_and(|before| before.0 <= floor.0 + 1) => recent_floor,
            (None, _) => floor,
        };
        let shared =
            |events: &[Arc<LobbyEvent>]| events.iter().map(|event| LobbyEvent::clone(event)).collect();
        if wanted_from >= recent_floor {
            let more = recent.len() > limit;
            let events = match query.after {
                Some(_) => &recent[..recent.len().min(limit)],
                None => &recent[recent.len().saturating_sub(limit)..],
            };
            return self.answer_session(envelope, Ok(Answer::History { events: shared(events), more }));
        }
        let store = self.node.store.clone();
        let recent: Vec<LobbyEvent> = shared(&recent);
        self.spawn(async move {
            let lobby = &envelope.lobby;
            let ask = query.limit + 1;
            let result = match query.after {
                Some(after) => {
                    let old = store.history(lobby, Range::After(after), floor, ask).await;
                    old.map(|mut events| {
                        let last = events.last().map_or(after, |event: &LobbyEvent| event.seq);
                        events.extend(recent.into_iter().filter(|event| event.seq > last));
                        let more = events.len() > limit;
                        events.truncate(limit);
                        (events, more)
                    })
                }
                None => {
                    let before = recent.first().map(|event| event.seq).or(query.before);
                    let range = before.map_or(Range::Latest, Range::Before);
                    store.history(lobby, range, floor, ask).await.map(|mut events| {
                        events.extend(recent);
                        let excess = events.len().saturating_sub(limit);
                        (events.split_off(excess), excess > 0)
                    })
                }
            };
            let result = result.map(|(mut events, more)| {
                evidence::alter_all(&mut events, &altered);
                (events, more)
            });
            Done::History { envelope: Box::new(envelope), result }
        });
    }

    pub(super) fn on_history(
        &mut self,
        envelope: Envelope,
        result: Result<(Vec<LobbyEvent>, bool), StoreError>,
    ) {
        match result {
            Ok((events, more)) => self.answer_session(envelope, Ok(Answer::History { events, more })),
            Err(error) => {
                tracing::warn!(lobby = %envelope.lobby, %error, "history cannot be read");
                self.refuse(&envelope, ErrorCode::Degraded, "the lobby's past is out of reach", Some(1_000));
            }
        }
    }
}
