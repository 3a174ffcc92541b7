//! A lobby in memory: its state, what is decided but may not be said yet, and who is connected from where. The
//! owner's files around it let it take commands (`intake`) and speak (`speech`).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mlms_cluster::view::LobbySummary;
use mlms_protocol::command::{History, Position};
use mlms_protocol::event::ReadMark;
use mlms_protocol::{
    Answer, Change, Class, Epoch, LobbyEvent, LobbyId, Millis, NodeName, Refusal, Seq, SessionId, UserId,
};
use tokio::time::Instant;

use super::Envelope;
use super::evidence::Guesses;
use super::shard::OwnedShard;
use super::speech::Emit;
use crate::lobby::{Caller, CommandKey, Entry, Passing, PassingEvent, Recorded, State, Target};
use crate::wire::Attaching;

/// How long a node may take to say again which of its sessions are here, after a link was reset.
pub(super) const CONFIRM_TIME: Duration = Duration::from_secs(15);

/// How long the nodes may take to attach their sessions to a new owner before members count as away. A node that heard
/// of the claim by its next regular reading of the view has attached by then.
const RETURN_TIME: Duration = Duration::from_secs(3);

/// Something a lobby has to do, in its order.
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub(super) enum Task {
    Command(Envelope),
    Attach(AttachTask),
    /// A session has ended.
    Detach {
        lobby: LobbyId,
        session: SessionId,
        user: UserId,
    },
}

/// A node attaches its sessions, in one go.
pub(super) struct AttachTask {
    pub lobby: LobbyId,
    /// `None`: this node itself.
    pub from: Option<(NodeName, u64)>,
    pub since: Position,
    pub sessions: Vec<Attaching>,
    /// Sessions of that node whose joins were on their way: it names them as soon as they are answered.
    pub joining: Vec<SessionId>,
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
    /// Since when it is in memory here.
    began: Millis,
    pub(super) saved: Seq,
    pub(super) saved_told: Seq,
    pub(super) listed: Option<LobbySummary>,
    pub(super) snapshot_seq: Seq,
    pub(super) empty_since: Option<Millis>,
    pub(super) unloading: bool,
    /// Nodes that had sessions here under the former owner and have not attached again. What a command says before
    /// that, they would not hear: commands wait, for a bounded time.
    pub(super) awaited: Vec<NodeName>,
    pub(super) early: Vec<Task>,
    /// After that time: so long what has no seq is refused, for they would miss it.
    unheard_until: Option<Instant>,
    pub(super) guesses: Guesses,
    /// Read marks that are not in the journal yet: the lobby's next entry takes them along, or the next snapshot.
    pub(super) reads: BTreeMap<UserId, Seq>,
    /// Marks were set that no snapshot has.
    pub(super) reads_unsaved: bool,
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
    pub(super) batch: u64,
    pub(super) sender: Option<UserId>,
    pub(super) envelope: Option<Envelope>,
    pub(super) outputs: Vec<Output>,
}

pub(super) enum Output {
    Event(Arc<LobbyEvent>),
    Pass(Passing),
    Reply(Result<Answer, Refusal>),
    History(History),
    Attached(AttachTask, Vec<(SessionId, Refusal)>),
}

impl Lobby {
    pub(super) fn new(state: State, now: Millis) -> Self {
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
            began: now,
            saved: Seq(0),
            saved_told: Seq(0),
            listed: None,
            snapshot_seq: Seq(0),
            empty_since: None,
            unloading: false,
            awaited: Vec::new(),
            early: Vec::new(),
            unheard_until: None,
            guesses: Guesses::default(),
            reads: BTreeMap::new(),
            reads_unsaved: false,
        }
    }

    /// Members whose connections are all lost, and since when.
    pub(super) fn away(&self) -> impl Iterator<Item = (&UserId, Millis)> {
        self.presence.iter().filter_map(|(user, presence)| presence.gone_at.map(|at| (user, at)))
    }

    /// Takes over from the former owner that a member is away, and that the others know.
    pub(super) fn set_away(&mut self, user: &UserId, since: Millis) {
        if let Some(presence) = self.presence.get_mut(user) {
            (presence.gone_at, presence.told) = (Some(since), true);
        }
    }

    /// Goes on without the nodes that have not attached in time; they may still do.
    pub(super) fn go_on_unheard(&mut self, until: Instant) -> Vec<Task> {
        self.unheard_until = Some(until);
        std::mem::take(&mut self.early)
    }

    /// The nodes that have sessions here, as far as this node was told, and have not attached yet.
    pub(super) fn unheard(&self, now: Instant) -> &[NodeName] {
        if self.unheard_until.is_some_and(|until| until <= now) { &[] } else { &self.awaited }
    }

    /// Whether nodes that have sessions here would miss what is said now.
    pub(super) fn is_unheard(&mut self, now: Instant) -> bool {
        if self.unheard_until.is_none_or(|until| until <= now) {
            self.awaited.clear();
        }
        !self.awaited.is_empty()
    }

    /// Whether the shard was claimed just now, and a member who was here before has not been heard of since.
    pub(super) fn is_unnamed(&self, owned: &OwnedShard) -> bool {
        owned.unnamed_until.is_some_and(|until| Instant::now() < until)
            && self.presence.values().any(|presence| {
                presence.sessions.is_empty() && !presence.told && presence.gone_at == Some(self.began)
            })
    }

    /// Members whom no node has attached since the shard was claimed: the others are told now that they are away.
    pub(super) fn note_missing(&mut self, now: Millis) -> Vec<UserId> {
        let state = &self.state;
        let is_missing = |user: &UserId, presence: &Presence| {
            let has_gone = presence.gone_at.is_some_and(|at| at.after(RETURN_TIME) <= now);
            has_gone && !presence.told && state.member(user).is_some()
        };
        let missing = self.presence.iter_mut().filter(|(user, presence)| is_missing(user, presence));
        missing
            .map(|(user, presence)| {
                presence.told = true;
                user.clone()
            })
            .collect()
    }

    pub(super) fn is_away(&self, user: &UserId) -> bool {
        self.presence.get(user).is_none_or(|presence| presence.sessions.is_empty())
    }

    /// Whether no other session of the caller's user is here.
    pub(super) fn is_alone(&self, caller: &Caller) -> bool {
        let presence = self.presence.get(&caller.user);
        presence
            .is_none_or(|presence| presence.sessions.iter().all(|(session, _)| *session == caller.session))
    }

    pub(super) fn node_names(&self) -> Vec<NodeName> {
        if self.nodes.is_empty() { Vec::new() } else { self.nodes.keys().cloned().collect() }
    }

    /// Notes a session. `true`: the others think that its user is away.
    pub(super) fn attach(&mut self, caller: &Caller, node: Option<&NodeName>) -> bool {
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
        mut passing: Passing,
        envelope: Option<Envelope>,
        out: &mut Vec<Emit>,
    ) {
        passing.trace = envelope.as_ref().and_then(Envelope::traced);
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
        let events = events.collect();
        let entry =
            Entry { events, key, recorded, reads: std::mem::take(&mut self.reads).into_iter().collect() };
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

    pub(super) fn close_ports(&mut self, user: Option<&UserId>) {
        for port in self.nodes.values_mut() {
            port.sessions.retain(|_, of| user.is_some_and(|user| of != user));
        }
        self.nodes.retain(|_, port| !port.sessions.is_empty());
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
            metadata: settings.metadata.clone(),
            locked: settings.locked,
            invite_only: settings.invite_only,
            joinable: self.state.is_joinable(),
        }
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.pending.is_empty() && self.state.members_total() == 0 && self.saved >= self.state.seq
    }
}

/// Tells a user's sessions how far it has read.
pub(super) fn mark_event(lobby: &LobbyId, user: &UserId, mark: ReadMark) -> Passing {
    let event = PassingEvent::Read { lobby: lobby.clone(), user: user.clone(), mark };
    let to = Target::Users(vec![user.clone()]);
    Passing { event, class: Class::Ephemeral, key: Some("read".to_owned()), to, trace: None }
}

pub(super) fn presence_event(lobby: &LobbyId, user: &UserId, away: bool) -> Passing {
    let (lobby, user) = (lobby.clone(), user.clone());
    let event = if away { PassingEvent::Away { lobby, user } } else { PassingEvent::Back { lobby, user } };
    Passing { event, class: Class::Ordered, key: None, to: Target::Everyone, trace: None }
}
