//! What this node does as a lobby's owner: take a command, decide, gather its events for the journal, and speak
//! only when they stand there.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mlms_cluster::view::LobbySummary;
use mlms_protocol::command::{History, Join, Position};
use mlms_protocol::placement::shard_of;
use mlms_protocol::reply::Joined;
use mlms_protocol::{
    Answer, Change, Class, Epoch, ErrorCode, JoinStatus, LobbyCommand, LobbyEvent, LobbyId, Millis, NodeName,
    Refusal, Seq, SessionId, Shard, UserId,
};
use mlms_store::{Range, StoreError};
use tokio::time::Instant;

use super::shard::{OwnedShard, ShardSlot, is_deposed};
use super::{Done, Envelope, Origin, Worker};
use crate::limiter::Grant;
use crate::lobby::{
    Caller, CommandKey, Decision, Entry, Outcome, Passing, PassingEvent, Recorded, State, Target,
};
use crate::node::Node;
use crate::wire::{Attaching, FromOwner, LinkMessage};

/// Commands that may wait while a lobby is read from the database.
const WAITING_MAX: usize = 1_024;
/// Events decided but not committed, in one lobby; beyond it new commands get `overloaded`.
const PENDING_MAX: usize = 4_096;
/// How long a node may take to say again which of its sessions are here, after a link was reset.
pub(super) const CONFIRM_TIME: Duration = Duration::from_secs(15);

/// Something a lobby has to do, in its order.
pub(super) enum Task {
    Command(Envelope),
    Attach(AttachTask),
}

/// A node attaches its sessions, in one go.
pub(super) struct AttachTask {
    pub lobby: LobbyId,
    /// `None`: this node itself.
    pub from: Option<(NodeName, u64)>,
    pub since: Position,
    pub sessions: Vec<Attaching>,
}

pub(super) enum LobbySlot {
    /// It is read from the database; `tail` are its entries in the journal.
    Loading {
        waiting: Vec<Task>,
        tail: Vec<Entry>,
    },
    Live(Box<Lobby>),
    /// Its code panicked. It answers `internal` until another process owns it.
    Quarantined,
}

/// A lobby in memory.
pub(super) struct Lobby {
    pub(super) state: State,
    pub(super) pending: VecDeque<Pending>,
    /// The newest event that was spoken: committed, and on its way to everyone.
    pub(super) released: Position,
    /// Other nodes with sessions in this lobby.
    pub(super) nodes: HashMap<NodeName, Port>,
    pub(super) presence: HashMap<UserId, Presence>,
    pub(super) saved: Seq,
    pub(super) saved_told: Seq,
    pub(super) listed: Option<LobbySummary>,
    pub(super) snapshot_seq: Seq,
    pub(super) empty_since: Option<Millis>,
    pub(super) unloading: bool,
}

#[derive(Default)]
pub(super) struct Port {
    pub(super) sessions: HashMap<SessionId, UserId>,
    /// The link was reset: by then the node has named the sessions that it still has.
    pub(super) confirm_by: Option<Instant>,
    /// Those that it has not named since.
    pub(super) unconfirmed: Vec<SessionId>,
}

#[derive(Default)]
pub(super) struct Presence {
    /// With the node, unless it is this one.
    pub(super) sessions: Vec<(SessionId, Option<NodeName>)>,
    /// When the last one was lost.
    pub(super) gone_at: Option<Millis>,
    /// The others were told that the member is away.
    told: bool,
}

/// What is decided but may not be said yet.
pub(super) struct Pending {
    /// The batch whose commit makes it true.
    batch: u64,
    sender: Option<UserId>,
    pub(super) envelope: Option<Envelope>,
    outputs: Vec<Output>,
}

pub(super) enum Output {
    Event(Arc<LobbyEvent>),
    Pass(Passing),
    Reply(Result<Answer, Refusal>),
    History(History),
    Attached(AttachTask, Vec<(SessionId, Refusal)>),
}

/// What a lobby says, once it may.
pub(super) enum Emit {
    Event(Arc<LobbyEvent>, Epoch, Vec<NodeName>),
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
    },
    Attached {
        task: AttachTask,
        refused: Vec<(SessionId, Refusal)>,
        events: Option<Vec<Arc<LobbyEvent>>>,
        epoch: Epoch,
    },
}

impl Lobby {
    fn new(state: State, now: Millis) -> Self {
        // Nobody is attached yet: every member gets a full grace from now.
        let everybody = state.members_after(None).map(|(_, member)| member.user.clone());
        let presence =
            everybody.map(|user| (user, Presence { gone_at: Some(now), ..Presence::default() })).collect();
        let released = Position { epoch: state.epoch, seq: state.seq };
        Lobby {
            state,
            pending: VecDeque::new(),
            released,
            nodes: HashMap::new(),
            presence,
            saved: Seq(0),
            saved_told: Seq(0),
            listed: None,
            snapshot_seq: Seq(0),
            empty_since: None,
            unloading: false,
        }
    }

    pub(super) fn is_away(&self, user: &UserId) -> bool {
        self.presence.get(user).is_none_or(|presence| presence.sessions.is_empty())
    }

    /// Whether no other session of the caller's user is here.
    fn is_alone(&self, caller: &Caller) -> bool {
        let presence = self.presence.get(&caller.user);
        presence
            .is_none_or(|presence| presence.sessions.iter().all(|(session, _)| *session == caller.session))
    }

    fn node_names(&self) -> Vec<NodeName> {
        if self.nodes.is_empty() { Vec::new() } else { self.nodes.keys().cloned().collect() }
    }

    /// Notes a session. `true`: the others think that its user is away.
    fn attach(&mut self, caller: &Caller, node: Option<&NodeName>) -> bool {
        let presence = self.presence.entry(caller.user.clone()).or_default();
        presence.sessions.retain(|(session, _)| *session != caller.session);
        presence.sessions.push((caller.session.clone(), node.cloned()));
        presence.gone_at = None;
        std::mem::take(&mut presence.told)
    }

    /// Forgets a session. `true`: it was the last one of a member.
    pub(super) fn detach(&mut self, session: &SessionId, user: &UserId, now: Millis) -> bool {
        for port in self.nodes.values_mut() {
            port.sessions.remove(session);
        }
        self.nodes.retain(|_, port| !port.sessions.is_empty());
        let Some(presence) = self.presence.get_mut(user) else { return false };
        let before = presence.sessions.len();
        presence.sessions.retain(|(known, _)| known != session);
        if presence.sessions.len() == before || !presence.sessions.is_empty() {
            return false;
        }
        if self.state.member(user).is_none() {
            self.presence.remove(user);
            return false;
        }
        (presence.gone_at, presence.told) = (Some(now), true);
        true
    }

    /// Says an event without a seq: at once, or behind what its own sender has under way.
    pub(super) fn pass(
        &mut self,
        epoch: Epoch,
        passing: Passing,
        envelope: Option<Envelope>,
        out: &mut Vec<Emit>,
    ) {
        let sender = passing.event.from().cloned();
        let under_way =
            self.pending.iter().rev().find(|pending| sender.is_some() && pending.sender == sender);
        let batch = under_way.map(|pending| pending.batch);
        let Some(batch) = batch else {
            if let Some(envelope) = envelope {
                out.push(Emit::Reply { envelope, outcome: Ok(Answer::Done) });
            }
            out.push(Emit::Pass(passing, epoch, self.node_names()));
            return;
        };
        let outputs = match envelope {
            Some(_) => vec![Output::Reply(Ok(Answer::Done)), Output::Pass(passing)],
            None => vec![Output::Pass(passing)],
        };
        let place = self.pending.partition_point(|pending| pending.batch <= batch);
        self.pending.insert(place, Pending { batch, sender, envelope, outputs });
    }

    /// Queues what may be said when the batch that gathers now is committed.
    pub(super) fn speak_behind(
        &mut self,
        owned: &mut OwnedShard,
        sender: Option<UserId>,
        envelope: Option<Envelope>,
        outputs: Vec<Output>,
    ) {
        owned.want_append();
        owned.speaking.insert(self.state.lobby.clone());
        self.pending.push_back(Pending { batch: owned.gathering_batch, sender, envelope, outputs });
    }

    /// Makes changes to events, applies them, and gathers their entry for the journal.
    pub(super) fn commit(
        &mut self,
        owned: &mut OwnedShard,
        changes: Vec<Change>,
        key: Option<(UserId, CommandKey)>,
        recorded: Recorded,
        now: Millis,
    ) -> Vec<Arc<LobbyEvent>> {
        let mut seq = self.state.seq;
        let events = changes.into_iter().map(|change| {
            seq = seq.next();
            LobbyEvent { lobby: self.state.lobby.clone(), epoch: owned.epoch, seq, at: now, change }
        });
        let entry = Entry { events: events.collect(), key, recorded };
        let bytes = Bytes::from(entry.encode());
        let events = self.state.apply_entry(entry);
        for event in &events {
            match &event.change {
                Change::Left { user, .. } | Change::Kicked { user, .. } | Change::Banned { user, .. } => {
                    self.presence.remove(user);
                }
                Change::Closed { .. } => self.presence.clear(),
                _ => {}
            }
        }
        owned.gather(bytes, events.clone());
        events
    }

    fn take(&mut self, owned: &mut OwnedShard, node: &Node, envelope: Envelope, out: &mut Vec<Emit>) {
        let now = node.clock.now().max(self.state.at);
        let sender = envelope.caller.user.clone();
        if let Some(key) = &envelope.key
            && let Some(outcome) = self.state.outcome(&sender, key, now)
        {
            let reply = Output::Reply(Ok(repeated(outcome)));
            return self.speak_behind(owned, Some(sender), Some(envelope), vec![reply]);
        }
        if self.pending.len() >= PENDING_MAX {
            let refusal =
                Refusal::new(ErrorCode::Overloaded, "the lobby has too much under way").retry_after(500);
            out.push(Emit::Reply { envelope, outcome: Err(refusal) });
            return;
        }
        let alone = self.is_alone(&envelope.caller);
        let decision = self.state.decide(&envelope.caller, &envelope.command, alone, now, &node.rules);
        match decision {
            Err(refusal) => {
                self.speak_behind(owned, Some(sender), Some(envelope), vec![Output::Reply(Err(refusal))]);
            }
            Ok(Decision::Pass(passing)) => {
                node.metrics.messages.with_label_values(&[passing.class.as_str()]).inc();
                self.pass(owned.epoch, passing, Some(envelope), out);
            }
            Ok(Decision::History(query)) => {
                self.speak_behind(owned, Some(sender), Some(envelope), vec![Output::History(query)]);
            }
            Ok(Decision::Answer(answer)) => {
                let answer = self.complete(answer);
                if let LobbyCommand::Leave = envelope.command {
                    self.detach(&envelope.caller.session, &sender, now);
                }
                self.speak_behind(owned, Some(sender), Some(envelope), vec![Output::Reply(Ok(answer))]);
            }
            Ok(Decision::Change(changes, recorded)) => {
                let key = envelope.key.clone();
                let changes = changes.into_iter().map(|change| with_nonce(change, key.as_ref())).collect();
                if recorded == Recorded::Sent {
                    node.metrics.messages.with_label_values(&[Class::Durable.as_str()]).inc();
                }
                let events = self.commit(owned, changes, key.map(|key| (sender.clone(), key)), recorded, now);
                let last = events.last().expect("a change has at least one event");
                let outcome = Outcome { recorded, epoch: last.epoch, seq: last.seq, at: last.at };
                let mut outputs: Vec<_> = events.into_iter().map(Output::Event).collect();
                outputs.push(Output::Reply(Ok(answer_of(outcome, false))));
                self.speak_behind(owned, Some(sender), Some(envelope), outputs);
            }
            Ok(Decision::Attach(changes)) => self.join(owned, node, envelope, changes, now),
        }
    }

    fn join(
        &mut self,
        owned: &mut OwnedShard,
        node: &Node,
        envelope: Envelope,
        changes: Vec<Change>,
        now: Millis,
    ) {
        let sender = envelope.caller.user.clone();
        let LobbyCommand::Join(join) = &envelope.command else { return };
        let since = join.since;
        if !self.state.open
            && let Grant::Later(ms) = node.creates.take(&sender)
        {
            let refusal = Refusal::new(ErrorCode::RateLimited, "too many lobbies created").retry_after(ms);
            return self.speak_behind(owned, Some(sender), Some(envelope), vec![Output::Reply(Err(refusal))]);
        }
        let mut outputs = Vec::new();
        let joins = !changes.is_empty();
        if joins {
            let events = self.commit(owned, changes, None, Recorded::Changed, now);
            outputs.extend(events.into_iter().map(Output::Event));
        }
        let from = match &envelope.origin {
            Origin::Session(..) => None,
            Origin::Node { node, .. } => Some(node.clone()),
        };
        let was_away = self.attach(&envelope.caller, from.as_ref());
        if was_away && !joins {
            outputs.push(Output::Pass(presence_event(&self.state.lobby, &sender, false)));
        }
        self.empty_since = None;
        let missed = since.and_then(|since| {
            self.state.missed_since(since, owned.epoch, &node.limits).map(|missed| (since, missed))
        });
        let joined = match missed {
            Some((since, missed)) => Joined {
                lobby: self.state.lobby.clone(),
                epoch: since.epoch,
                seq: since.seq,
                status: JoinStatus::Resumed,
                missed,
                state: None,
            },
            None => Joined {
                lobby: self.state.lobby.clone(),
                epoch: owned.epoch,
                seq: self.state.seq,
                status: if since.is_some() { JoinStatus::Snapshot } else { JoinStatus::Joined },
                missed: 0,
                state: Some(Box::new(self.state.view(&sender, |user| self.is_away(user)))),
            },
        };
        node.metrics.joins.with_label_values(&[joined.status.as_str()]).inc();
        outputs.push(Output::Reply(Ok(Answer::Joined(joined))));
        self.speak_behind(owned, Some(sender), Some(envelope), outputs);
    }

    /// Fills in what only the connections know.
    fn complete(&self, mut answer: Answer) -> Answer {
        if let Answer::Roster { members, .. } = &mut answer {
            for member in members {
                member.away = self.is_away(&member.user);
            }
        }
        answer
    }

    fn take_attach(&mut self, owned: &mut OwnedShard, node: &Node, task: AttachTask, now: Millis) {
        let from = task.from.as_ref().map(|(name, _)| name.clone());
        let listed: Vec<_> = task.sessions.iter().map(|attaching| attaching.caller.session.clone()).collect();
        let mut outputs = Vec::new();
        let mut refused = Vec::new();
        for Attaching { caller, .. } in &task.sessions {
            if self.state.member(&caller.user).is_none() {
                let join = LobbyCommand::Join(Join::default());
                match self.state.decide(caller, &join, true, now, &node.rules) {
                    Ok(Decision::Attach(changes)) => {
                        let events = self.commit(owned, changes, None, Recorded::Changed, now);
                        outputs.extend(events.into_iter().map(Output::Event));
                    }
                    Ok(_) => {}
                    Err(refusal) => {
                        refused.push((caller.session.clone(), refusal));
                        continue;
                    }
                }
            }
            if self.attach(caller, from.as_ref()) {
                outputs.push(Output::Pass(presence_event(&self.state.lobby, &caller.user, false)));
            }
        }
        // Sessions that the node does not name any more are gone.
        let gone: Vec<_> = self
            .presence
            .iter()
            .flat_map(|(user, presence)| presence.sessions.iter().map(move |session| (user, session)))
            .filter(|(_, (session, at))| *at == from && !listed.contains(session))
            .map(|(user, (session, _))| (user.clone(), session.clone()))
            .collect();
        for (user, session) in gone {
            if self.detach(&session, &user, now) {
                outputs.push(Output::Pass(presence_event(&self.state.lobby, &user, true)));
            }
        }
        self.empty_since = None;
        outputs.push(Output::Attached(task, refused));
        self.speak_behind(owned, None, None, outputs);
    }

    /// Says everything that the committed batch has made true.
    fn release(&mut self, committed: u64, epoch: Epoch, limits: &mlms_protocol::Limits, out: &mut Vec<Emit>) {
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
                        out.push(Emit::Event(event, epoch, names));
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
                            self.nodes.remove(name);
                        }
                        if let (Some((name, _)), Some(_), false) =
                            (&task.from, &events, task.sessions.is_empty())
                        {
                            let sessions = task.sessions.iter().map(|one| &one.caller);
                            let sessions =
                                sessions.filter(|caller| refused.iter().all(|(id, _)| *id != caller.session));
                            let sessions = sessions
                                .map(|caller| (caller.session.clone(), caller.user.clone()))
                                .collect();
                            self.nodes.insert(name.clone(), Port { sessions, ..Port::default() });
                        }
                        out.push(Emit::Attached { task, refused, events, epoch });
                    }
                }
            }
        }
    }

    fn close_ports(&mut self, user: Option<&UserId>) {
        for port in self.nodes.values_mut() {
            port.sessions.retain(|_, of| user.is_some_and(|user| of != user));
        }
        self.nodes.retain(|_, port| !port.sessions.is_empty());
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
        Emit::History { envelope, query, recent, recent_floor, floor: self.state.floor }
    }

    pub(super) fn summary(&self, members_max: usize) -> LobbySummary {
        let limit = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let settings = &self.state.settings;
        LobbySummary {
            lobby: self.state.lobby.clone(),
            name: settings.name.clone().unwrap_or_else(|| self.state.lobby.to_string()),
            members: limit(self.state.members_total()),
            capacity: settings.capacity.unwrap_or_else(|| limit(members_max)),
            visibility: settings.visibility,
        }
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.pending.is_empty() && self.state.members_total() == 0 && self.saved >= self.state.seq
    }
}

fn with_nonce(change: Change, key: Option<&CommandKey>) -> Change {
    match (change, key) {
        (Change::Message { kind, from, body, .. }, Some(CommandKey::Nonce(nonce))) => {
            Change::Message { kind, from, body, nonce: Some(nonce.clone()) }
        }
        (change, _) => change,
    }
}

fn answer_of(outcome: Outcome, dup: bool) -> Answer {
    let Outcome { recorded, epoch, seq, at } = outcome;
    match recorded {
        Recorded::Sent => Answer::Sent { epoch, seq, at, dup },
        Recorded::Changed => Answer::Changed { seq, game: None },
        Recorded::Done => Answer::Done,
    }
}

fn repeated(outcome: Outcome) -> Answer {
    answer_of(outcome, true)
}

pub(super) fn presence_event(lobby: &LobbyId, user: &UserId, away: bool) -> Passing {
    let (lobby, user) = (lobby.clone(), user.clone());
    let event = if away { PassingEvent::Away { lobby, user } } else { PassingEvent::Back { lobby, user } };
    Passing { event, class: Class::Ordered, key: None, to: Target::Everyone }
}

impl Worker {
    /// Hands a task to a lobby of a shard that this node owns.
    pub(super) fn on_owned(&mut self, shard: Shard, lobby_id: &LobbyId, task: Task) {
        let node = Arc::clone(&self.node);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        if owned.is_degraded()
            && let Task::Command(envelope) = task
        {
            return self.take_degraded(owned_id(shard, lobby_id), envelope);
        }
        let slot = match owned.lobbies.get_mut(lobby_id) {
            None => {
                let slot = LobbySlot::Loading { waiting: vec![task], tail: Vec::new() };
                owned.lobbies.insert(lobby_id.clone(), slot);
                return self.load_lobby(lobby_id.clone());
            }
            Some(LobbySlot::Loading { waiting, .. }) => {
                if waiting.len() < WAITING_MAX {
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
            match lobby.state.decide(&envelope.caller, &envelope.command, true, now, &node.rules) {
                Ok(Decision::Pass(passing)) => lobby.pass(epoch, passing, Some(envelope), &mut out),
                Ok(_) => {}
                Err(refusal) => out.push(Emit::Reply { envelope, outcome: Err(refusal) }),
            }
        }
        self.emit(&lobby_id, out);
    }

    pub(super) fn load_lobby(&mut self, lobby: LobbyId) {
        let store = self.node.store.clone();
        self.spawn(async move {
            let mut pause = Duration::from_millis(50);
            for _ in 0..4 {
                match store.load_lobby(&lobby).await {
                    Err(StoreError::Unavailable(_)) => tokio::time::sleep(pause).await,
                    result => return Done::Loaded { lobby, result },
                }
                pause *= 2;
            }
            let result = store.load_lobby(&lobby).await;
            Done::Loaded { lobby, result }
        });
    }

    pub(super) fn on_loaded(
        &mut self,
        lobby_id: &LobbyId,
        result: Result<Option<(Seq, Vec<u8>)>, StoreError>,
    ) {
        let shard = shard_of(lobby_id);
        let now = self.node.clock.now();
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        let Some(LobbySlot::Loading { waiting, tail }) = owned.lobbies.remove(lobby_id) else { return };
        let state = match result {
            Ok(None) => Ok(State::new(lobby_id.clone())),
            Ok(Some((_, bytes))) => State::from_snapshot(&bytes).map_err(|error| error.to_string()),
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
        let slot = match whole {
            Ok((state, saved)) => {
                let mut lobby = Box::new(Lobby::new(state, now));
                lobby.saved = saved;
                LobbySlot::Live(lobby)
            }
            Err(why) => {
                tracing::error!(lobby = %lobby_id, why, "a lobby cannot be rebuilt; it is out of service");
                self.node.metrics.quarantined.inc();
                LobbySlot::Quarantined
            }
        };
        owned.lobbies.insert(lobby_id.clone(), slot);
        for task in waiting {
            self.on_owned(shard, lobby_id, task);
        }
    }

    /// Puts a lobby that was rebuilt from the journal into service.
    pub(super) fn rebuilt(state: State, now: Millis) -> LobbySlot {
        LobbySlot::Live(Box::new(Lobby::new(state, now)))
    }

    /// Says what lobbies may say: to the sessions here, and to the nodes that have others.
    pub(super) fn emit(&mut self, lobby_id: &LobbyId, out: Vec<Emit>) {
        for emit in out {
            match emit {
                Emit::Event(event, epoch, nodes) => {
                    if !nodes.is_empty() {
                        let message = super::event_message(lobby_id, epoch, &event);
                        for node in &nodes {
                            self.node.links.send(node, message.clone());
                        }
                    }
                    self.pass_on(lobby_id, epoch, event);
                }
                Emit::Pass(passing, epoch, nodes) => {
                    if !nodes.is_empty() {
                        let pass = FromOwner::Pass { epoch, passing: passing.clone() };
                        let message = LinkMessage::FromOwner(lobby_id.clone(), pass).encode();
                        for node in &nodes {
                            self.node.links.send(node, message.clone());
                        }
                    }
                    if let Some(attachment) = self.attachments.get_mut(lobby_id) {
                        attachment.audience.stage_passing(passing);
                        self.staged.insert(lobby_id.clone());
                    }
                }
                Emit::Reply { envelope, outcome } => self.answer_session(envelope, outcome),
                Emit::History { envelope, query, recent, recent_floor, floor } => {
                    self.answer_history(envelope, query, recent, recent_floor, floor);
                }
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
        recent_floor: Seq,
        floor: Seq,
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

    pub(super) fn on_appended(
        &mut self,
        shard: Shard,
        batch: u64,
        result: Result<mlms_cluster::journal::EntryId, mlms_cluster::journal::AppendError>,
        took: Duration,
    ) {
        let node = Arc::clone(&self.node);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        if is_deposed(&result) {
            return self.on_deposed(shard);
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
            if let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard)
                && let Some(LobbySlot::Live(lobby)) = owned.lobbies.get_mut(&lobby_id)
            {
                lobby.release(committed, epoch, &node.limits, &mut out);
                if !lobby.pending.is_empty() {
                    still.push(lobby_id.clone());
                }
            }
            self.emit(&lobby_id, out);
        }
        if let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) {
            owned.speaking.extend(still);
        }
        self.gathered.insert(shard);
        self.save_snapshots(shard);
    }
}

fn owned_id(shard: Shard, lobby: &LobbyId) -> (Shard, LobbyId) {
    (shard, lobby.clone())
}
