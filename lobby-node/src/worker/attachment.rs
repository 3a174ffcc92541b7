//! What this node does for its own sessions in one lobby, wherever the lobby is owned: it sends their commands on,
//! passes events on in order, and finds the way back when the owner moves or the link breaks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::command::{Join, Position};
use mlms_protocol::placement::shard_of;
use mlms_protocol::reply::Joined;
use mlms_protocol::{
    Answer, Change, Class, Epoch, ErrorCode, JoinStatus, LobbyCommand, LobbyEvent, LobbyId, NodeName,
    Refusal, Seq, SessionId,
};
use tokio::time::Instant;

use super::owner::{AttachTask, LobbySlot, Task, presence_event};
use super::ownership::Route;
use super::shard::ShardSlot;
use super::{Envelope, Origin, ToOwner, Worker};
use crate::audience::{Audience, Pulled};
use crate::metrics::Metrics;
use crate::session::{COMMAND_TIME, ReplyTo, SessionHandle};
use crate::wire::{AttachOutcome, Attaching, FromOwner, LinkMessage};

/// Commands of one lobby that may wait for their owner's answer.
const UNANSWERED_MAX: usize = 4_096;
/// When an attach that was not answered is sent again.
const ATTACH_AGAIN: Duration = Duration::from_secs(1);
/// Events in one page for a session that pulls what it missed.
const PAGE_EVENTS: usize = 256;

/// This node's side of one lobby.
pub(super) struct Attachment {
    pub(super) audience: Audience,
    /// The last event that was passed on.
    pub(super) position: Position,
    feed: Feed,
    /// Commands without an answer, in their order. The flag: it was sent to the present owner.
    unanswered: BTreeMap<u64, (Envelope, bool)>,
    /// Pages that were asked for: for whom, and behind which event.
    pages: HashMap<u64, (Arc<SessionHandle>, Seq)>,
    /// Sessions that pull, and whose page nobody can be asked for at the moment.
    owed: Vec<Arc<SessionHandle>>,
}

enum Feed {
    /// The lobby is owned here. Not attached: the owner will say what came between.
    Local {
        attached: bool,
    },
    Remote {
        owner: NodeName,
        attach: Attach,
    },
    /// Nobody is known to own the lobby.
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Attach {
    Attached,
    Asked { token: u64, at: Instant },
}

impl Attachment {
    fn new(lobby: LobbyId, feed: Feed, metrics: Arc<Metrics>) -> Self {
        Attachment {
            audience: Audience::new(lobby, metrics),
            position: Position { epoch: Epoch(0), seq: Seq(0) },
            feed,
            unanswered: BTreeMap::new(),
            pages: HashMap::new(),
            owed: Vec::new(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.audience.is_empty() && self.unanswered.is_empty()
    }

    /// Everyone here, as a new owner wants to know them.
    pub(super) fn attaching(&self) -> Vec<Attaching> {
        let sessions = self.audience.sessions();
        sessions
            .map(|session| Attaching {
                caller: session.caller.as_ref().clone(),
                wants_saved: self.audience.wants_saved(session),
            })
            .collect()
    }

    /// The lobby is owned here from now on. Gives the commands that wait for an answer.
    pub(super) fn become_local(&mut self) -> Vec<Envelope> {
        self.feed = Feed::Local { attached: self.audience.is_empty() };
        self.owe_pages();
        std::mem::take(&mut self.unanswered).into_values().map(|(envelope, _)| envelope).collect()
    }

    /// The owner is gone, or is this node no more.
    pub(super) fn lose_owner(&mut self) {
        self.feed = Feed::Lost;
        self.owe_pages();
        for (envelope, sent) in self.unanswered.values_mut() {
            // What has no seq may have been delivered: it is sent again only when it was refused.
            *sent &= passes(envelope);
        }
    }

    /// Pages that were asked for do not come any more.
    fn owe_pages(&mut self) {
        self.owed.extend(self.pages.drain().map(|(_, (session, _))| session));
    }

    fn is_attached(&self) -> bool {
        match &self.feed {
            Feed::Local { attached } => *attached,
            Feed::Remote { attach, .. } => *attach == Attach::Attached,
            Feed::Lost => false,
        }
    }

    fn is_fed_by(&self, node: &NodeName) -> bool {
        matches!(&self.feed, Feed::Remote { owner, .. } if owner == node)
    }

    /// Passes an event on if it is the next one. `false`: something is missing before it.
    fn pass_on(&mut self, epoch: Epoch, event: Arc<LobbyEvent>) -> bool {
        if event.seq <= self.position.seq || epoch < self.position.epoch {
            return true;
        }
        if event.seq != self.position.seq.next() {
            return false;
        }
        self.position = Position { epoch: event.epoch.max(self.position.epoch), seq: event.seq };
        self.audience.stage_event(Arc::clone(&event));
        match &event.change {
            Change::Left { user, .. } | Change::Kicked { user, .. } | Change::Banned { user, .. } => {
                self.audience.unseat_user(user);
            }
            Change::Closed { .. } => {
                let everybody: Vec<_> = self.audience.sessions().cloned().collect();
                for session in everybody {
                    self.audience.unseat(&session);
                }
            }
            _ => {}
        }
        true
    }
}

/// Whether a command passes through the lobby without being journaled.
fn passes(envelope: &Envelope) -> bool {
    match &envelope.command {
        LobbyCommand::Send(send) => send.class != Class::Durable,
        command => matches!(command, LobbyCommand::Typing),
    }
}

impl Worker {
    pub(super) fn on_command(&mut self, envelope: Envelope) {
        let shard = shard_of(&envelope.lobby);
        match self.route(shard) {
            Route::Here => {
                let lobby = envelope.lobby.clone();
                self.on_owned(shard, &lobby, Task::Command(envelope));
            }
            Route::Claim => self.wait_for_claim(shard, Some(envelope)),
            Route::Node(owner) => self.forward(envelope, Some(owner)),
            Route::Nowhere => self.forward(envelope, None),
        }
    }

    /// Sends a session's command to the owner, or tells another node that it asked the wrong one.
    fn forward(&mut self, envelope: Envelope, owner: Option<NodeName>) {
        if let Origin::Node { node, token } = &envelope.origin {
            let moved = FromOwner::Moved { token: *token, to: owner.filter(|owner| owner != node) };
            return self.send(node, &LinkMessage::FromOwner(envelope.lobby.clone(), moved));
        }
        let lobby = envelope.lobby.clone();
        let metrics = Arc::clone(&self.node.metrics);
        let attachment = self.attachments.entry(lobby.clone()).or_insert_with(|| {
            let feed = match owner {
                Some(owner) => Feed::Remote { owner, attach: Attach::Attached },
                None => Feed::Lost,
            };
            Attachment::new(lobby.clone(), feed, metrics)
        });
        if attachment.unanswered.len() >= UNANSWERED_MAX {
            return self.refuse(
                &envelope,
                ErrorCode::Overloaded,
                "the lobby's node does not keep up",
                Some(500),
            );
        }
        self.next_token += 1;
        attachment.unanswered.insert(self.next_token, (envelope, false));
        self.send_unsent(&lobby);
    }

    /// Sends the commands that the present owner has not got yet, in their order.
    fn send_unsent(&mut self, lobby: &LobbyId) {
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        let Feed::Remote { owner, attach: Attach::Attached } = &attachment.feed else { return };
        for (token, (envelope, sent)) in &mut attachment.unanswered {
            if *sent {
                continue;
            }
            *sent = true;
            let command = ToOwner::Command {
                token: *token,
                caller: envelope.caller.as_ref().clone(),
                key: envelope.key.clone(),
                command: envelope.command.clone(),
            };
            self.node.links.send(owner, LinkMessage::ToOwner(lobby.clone(), command).encode());
        }
    }

    /// Looks again where each lobby's owner is, and attaches to a new one.
    pub(super) fn follow_owners(&mut self) {
        let lobbies: Vec<_> = self.attachments.keys().cloned().collect();
        for lobby in lobbies {
            let shard = shard_of(&lobby);
            let Some(attachment) = self.attachments.get(&lobby) else { continue };
            match (self.route(shard), &attachment.feed) {
                (Route::Here, Feed::Local { .. }) | (Route::Nowhere, _) => {}
                (Route::Here, _) => {}
                (Route::Claim, _) => self.wait_for_claim(shard, None),
                (Route::Node(owner), Feed::Remote { owner: known, .. }) if owner == *known => {}
                (Route::Node(owner), _) => self.turn_to(&lobby, owner),
            }
        }
    }

    /// Takes a node for the owner from now on.
    fn turn_to(&mut self, lobby: &LobbyId, owner: NodeName) {
        let token = self.token();
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        attachment.lose_owner();
        if attachment.audience.is_empty() {
            attachment.feed = Feed::Remote { owner, attach: Attach::Attached };
            return self.send_unsent(lobby);
        }
        attachment.feed =
            Feed::Remote { owner: owner.clone(), attach: Attach::Asked { token, at: Instant::now() } };
        let attach = ToOwner::Attach { token, since: attachment.position, sessions: attachment.attaching() };
        self.send(&owner, &LinkMessage::ToOwner(lobby.clone(), attach));
    }

    /// Attaches anew to the same owner: something between was lost.
    fn turn_again(&mut self, lobby: &LobbyId) {
        let owner = match self.attachments.get(lobby).map(|attachment| &attachment.feed) {
            Some(Feed::Remote { owner, .. }) => owner.clone(),
            _ => return,
        };
        self.turn_to(lobby, owner);
    }

    /// A join was answered too late, and the owner counts a session that nobody seated: it is told who is here.
    fn name_sessions(&mut self, owner: &NodeName, lobby: &LobbyId) {
        if let Some(attachment) = self.attachments.get_mut(lobby) {
            if !attachment.audience.is_empty() {
                return self.turn_again(lobby);
            }
            // Joins that are under way are not here yet: they are sent again behind this.
            for (envelope, sent) in attachment.unanswered.values_mut() {
                *sent &= passes(envelope);
            }
        }
        let since = Position { epoch: Epoch(0), seq: Seq(0) };
        let nobody = ToOwner::Attach { token: self.token(), since, sessions: Vec::new() };
        self.send(owner, &LinkMessage::ToOwner(lobby.clone(), nobody));
        self.send_unsent(lobby);
    }

    /// Sends attaches again that were not answered, and looks for owners of lobbies without one.
    pub(super) fn attach_again(&mut self) {
        let now = Instant::now();
        let late = |attachment: &Attachment| matches!(attachment.feed, Feed::Remote { attach: Attach::Asked { at, .. }, .. } if at + ATTACH_AGAIN <= now);
        let due: Vec<_> =
            self.attachments.iter().filter(|(_, one)| late(one)).map(|(id, _)| id.clone()).collect();
        for lobby in due {
            self.turn_again(&lobby);
        }
        if self.attachments.values().any(|attachment| matches!(attachment.feed, Feed::Lost)) {
            self.follow_owners();
        }
    }

    pub(super) fn expire_commands(&mut self, now: Instant) {
        let mut expired = Vec::new();
        for attachment in self.attachments.values_mut() {
            // Commands are in the order of their deadlines.
            while let Some(entry) = attachment.unanswered.first_entry() {
                if entry.get().0.deadline > now {
                    break;
                }
                expired.push(entry.remove());
            }
        }
        for slot in self.shards.values_mut() {
            if let ShardSlot::Claiming { waiting, .. } = slot {
                let late = waiting.partition_point(|envelope| envelope.deadline <= now);
                expired.extend(waiting.drain(..late).map(|envelope| (envelope, false)));
            }
        }
        for (envelope, sent) in expired {
            if sent {
                // It may have happened: only the owner knows.
                self.refuse(&envelope, ErrorCode::Timeout, "the lobby's node did not answer", Some(500));
            } else {
                self.refuse(
                    &envelope,
                    ErrorCode::OwnerUnavailable,
                    "the lobby's node is out of reach",
                    Some(1_000),
                );
            }
            if let Some(attachment) = self.attachments.get(&envelope.lobby)
                && attachment.is_idle()
                && !attachment.audience.has_staged()
            {
                self.attachments.remove(&envelope.lobby);
            }
        }
    }

    pub(super) fn on_link_reset(&mut self, peer: &NodeName, restarted: bool) {
        let fed = self.attachments.iter().filter(|(_, attachment)| attachment.is_fed_by(peer));
        let lobbies: Vec<_> = fed.map(|(lobby, _)| lobby.clone()).collect();
        for lobby in lobbies {
            self.turn_again(&lobby);
        }
        if restarted {
            self.forget_node(peer);
        } else {
            let by = Instant::now() + super::owner::CONFIRM_TIME;
            for slot in self.shards.values_mut() {
                let ShardSlot::Owned(owned) = slot else { continue };
                for slot in owned.lobbies.values_mut() {
                    if let LobbySlot::Live(lobby) = slot
                        && let Some(port) = lobby.nodes.get_mut(peer)
                    {
                        port.confirm_by = Some(by);
                        port.unconfirmed = port.sessions.keys().cloned().collect();
                    }
                }
            }
        }
    }

    // --- as the owner of a lobby, from other nodes

    pub(super) fn on_from_node(&mut self, from: NodeName, lobby: LobbyId, message: ToOwner) {
        let shard = shard_of(&lobby);
        match message {
            ToOwner::Command { token, caller, key, command } => self.on_command(Envelope {
                caller: Arc::new(caller),
                origin: Origin::Node { node: from, token },
                lobby,
                command,
                key,
                deadline: Instant::now() + COMMAND_TIME,
            }),
            ToOwner::Attach { token, since, sessions } => match self.route(shard) {
                Route::Here => {
                    let task =
                        AttachTask { lobby: lobby.clone(), from: Some((from, token)), since, sessions };
                    self.on_owned(shard, &lobby, Task::Attach(task));
                }
                // The node asks again: by then the claim is decided.
                Route::Claim => self.wait_for_claim(shard, None),
                Route::Node(_) | Route::Nowhere => {
                    let moved = FromOwner::Moved { token, to: None };
                    self.send(&from, &LinkMessage::FromOwner(lobby, moved));
                }
            },
            ToOwner::Detach { session, user } => self.detach(&lobby, &session, &user),
            ToOwner::Page { token, after } => {
                let events = match self.owned(&lobby).and_then(|owned| owned.lobbies.get(&lobby)) {
                    Some(LobbySlot::Live(lobby)) => lobby.events_between(after, PAGE_EVENTS),
                    _ => None,
                };
                let events =
                    events.map(|events| events.iter().map(|event| LobbyEvent::clone(event)).collect());
                self.send(&from, &LinkMessage::FromOwner(lobby, FromOwner::Page { token, events }));
            }
        }
    }

    fn detach(&mut self, lobby_id: &LobbyId, session: &SessionId, user: &mlms_protocol::UserId) {
        let now = self.node.clock.now();
        let Some(owned) = self.owned(lobby_id) else { return };
        let Some(LobbySlot::Live(lobby)) = owned.lobbies.get_mut(lobby_id) else { return };
        if lobby.detach(session, user, now) {
            self.pass_in(lobby_id, presence_event(lobby_id, user, true));
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

    // --- as the node of sessions, from the owner

    pub(super) fn on_from_owner(&mut self, from: &NodeName, lobby: &LobbyId, message: FromOwner) {
        match message {
            FromOwner::Answer { token, outcome } => {
                let Some((envelope, _)) = self
                    .attachments
                    .get_mut(lobby)
                    .and_then(|attachment| attachment.unanswered.remove(&token))
                else {
                    if matches!(outcome, Ok(Answer::Joined(_))) {
                        self.name_sessions(from, lobby);
                    }
                    return;
                };
                let Some(attachment) = self.attachments.get_mut(lobby) else { return };
                if let Ok(Answer::Joined(joined)) = &outcome {
                    let live = joined.seq.0 + joined.missed;
                    if !attachment.audience.is_empty() && attachment.position.seq.0 != live {
                        // Events before the join did not arrive: first those, then the join again.
                        attachment.unanswered.insert(token, (envelope, false));
                        return self.turn_again(lobby);
                    }
                }
                self.answer_session(envelope, outcome);
            }
            FromOwner::Moved { token, to } => {
                let Some(attachment) = self.attachments.get_mut(lobby) else { return };
                if let Some((_, sent)) = attachment.unanswered.get_mut(&token) {
                    *sent = false;
                }
                match to {
                    Some(owner) if owner != self.node.name && owner != *from => self.turn_to(lobby, owner),
                    _ => {
                        attachment.lose_owner();
                        let directory = self.node.directory.clone();
                        self.spawn(async move {
                            // Without an answer the regular reading of the view finds the owner.
                            let _ = directory.refresh().await;
                            super::Done::Nothing
                        });
                    }
                }
            }
            FromOwner::Event { epoch, event } => {
                let fed = self.attachments.get(lobby).is_some_and(|one| one.is_fed_by(from));
                if fed {
                    self.pass_on(lobby, epoch, Arc::new(event));
                }
            }
            FromOwner::Pass { epoch, passing } => {
                let Some(attachment) = self.attachments.get_mut(lobby) else { return };
                if attachment.is_fed_by(from)
                    && attachment.is_attached()
                    && epoch >= attachment.position.epoch
                {
                    attachment.audience.stage_passing(passing);
                    self.staged.insert(lobby.clone());
                }
            }
            FromOwner::Attached { token, epoch, outcome } => {
                let asked = match self.attachments.get(lobby).map(|attachment| &attachment.feed) {
                    Some(Feed::Remote { owner, attach: Attach::Asked { token, .. } }) if owner == from => {
                        Some(*token)
                    }
                    _ => None,
                };
                if asked == Some(token) {
                    self.on_attached(lobby, epoch, outcome);
                }
            }
            FromOwner::Page { token, events } => {
                let Some(attachment) = self.attachments.get_mut(lobby) else { return };
                let Some((session, after)) = attachment.pages.remove(&token) else { return };
                if attachment.audience.pulling_at(&session) != Some(after) {
                    // It was seated anew meanwhile, and has asked for another page.
                    return;
                }
                let events = events.map(|events| events.into_iter().map(Arc::new).collect::<Vec<_>>());
                let pulled = attachment.audience.pull(&session, |at| {
                    events.map(|events| events.into_iter().skip_while(|event| event.seq <= at).collect())
                });
                if pulled == Pulled::OutOfReach {
                    self.restart(lobby, &session);
                }
            }
        }
    }

    pub(super) fn pass_on(&mut self, lobby: &LobbyId, epoch: Epoch, event: Arc<LobbyEvent>) {
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        // Nobody here needs it: who is seated next starts from the position that its join gave.
        if !attachment.is_attached() || attachment.audience.is_empty() {
            return;
        }
        if attachment.pass_on(epoch, event) {
            self.staged.insert(lobby.clone());
        } else {
            self.turn_again(lobby);
        }
    }

    fn on_attached(&mut self, lobby: &LobbyId, epoch: Epoch, outcome: AttachOutcome) {
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        match &mut attachment.feed {
            Feed::Local { attached } => *attached = true,
            Feed::Remote { attach, .. } => *attach = Attach::Attached,
            Feed::Lost => return,
        }
        self.staged.insert(lobby.clone());
        for session in std::mem::take(&mut attachment.owed) {
            session.outbox.pull_later(lobby);
        }
        match outcome {
            AttachOutcome::Continue { events, refused } => {
                for event in events {
                    attachment.pass_on(epoch, Arc::new(event));
                }
                attachment.position.epoch = attachment.position.epoch.max(epoch);
                let sessions: Vec<_> = attachment.audience.sessions().cloned().collect();
                for (id, refusal) in refused {
                    let Some(session) = sessions.iter().find(|session| session.caller.session == id) else {
                        continue;
                    };
                    attachment.audience.unseat(session);
                    let frame = session.reply_frame(&ReplyTo::Nobody, "resume", Some(lobby), Err(refusal));
                    if let Some(frame) = frame {
                        session.outbox.push(&frame);
                    }
                }
            }
            AttachOutcome::Restart => {
                let sessions: Vec<_> = attachment.audience.sessions().cloned().collect();
                for session in sessions {
                    self.restart(lobby, &session);
                }
            }
        }
        self.send_unsent(lobby);
    }

    /// A session cannot be brought up to date event by event: it joins anew, and gets a snapshot.
    fn restart(&mut self, lobby: &LobbyId, session: &Arc<SessionHandle>) {
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        let saved = attachment.audience.wants_saved(session);
        attachment.audience.unseat(session);
        let join = LobbyCommand::Join(Join { saved, ..Join::default() });
        self.on_command(Envelope {
            caller: Arc::clone(&session.caller),
            origin: Origin::Session(Arc::clone(session), ReplyTo::Snapshot),
            lobby: lobby.clone(),
            command: join,
            key: None,
            deadline: Instant::now() + COMMAND_TIME,
        });
    }

    /// Gives a session the outcome of its command, and a seat if it was a join.
    pub(super) fn answer_session(&mut self, envelope: Envelope, outcome: Result<Answer, Refusal>) {
        let Origin::Session(session, reply_to) = &envelope.origin else {
            return self.reply(&envelope, outcome);
        };
        match &outcome {
            Ok(Answer::Joined(joined)) => {
                let joined = joined.clone();
                let saved = matches!(&envelope.command, LobbyCommand::Join(join) if join.saved);
                let (session, reply_to) = (Arc::clone(session), reply_to.clone());
                self.seat(&envelope, &session, &reply_to, &joined, saved, outcome);
            }
            Ok(Answer::Done) if matches!(envelope.command, LobbyCommand::Leave) => {
                let session = Arc::clone(session);
                self.reply(&envelope, outcome);
                if let Some(attachment) = self.attachments.get_mut(&envelope.lobby) {
                    attachment.audience.unseat(&session);
                    self.staged.insert(envelope.lobby.clone());
                }
            }
            _ => self.reply(&envelope, outcome),
        }
    }

    fn seat(
        &mut self,
        envelope: &Envelope,
        session: &Arc<SessionHandle>,
        reply_to: &ReplyTo,
        joined: &Joined,
        saved: bool,
        outcome: Result<Answer, Refusal>,
    ) {
        let lobby = &envelope.lobby;
        let shard = shard_of(lobby);
        let (route, metrics) = (self.route(shard), Arc::clone(&self.node.metrics));
        let attachment = self.attachments.entry(lobby.clone()).or_insert_with(|| {
            let feed = match route {
                Route::Node(owner) => Feed::Remote { owner, attach: Attach::Attached },
                _ => Feed::Local { attached: true },
            };
            Attachment::new(lobby.clone(), feed, metrics)
        });
        let live = Seq(joined.seq.0 + joined.missed);
        if attachment.audience.is_empty() {
            attachment.position = Position { epoch: joined.epoch.max(attachment.position.epoch), seq: live };
            attachment.audience.set_head(live);
            if let Feed::Local { attached } = &mut attachment.feed {
                *attached = true;
            }
        }
        let behind = match (joined.status, reply_to) {
            (JoinStatus::Resumed, _) => Some((joined.seq, true)),
            // The reply to a resume comes when all its lobbies have answered: no event may come before it.
            (_, ReplyTo::Resume(..)) => Some((joined.seq, false)),
            _ => None,
        };
        let seated = attachment.audience.seat(session, saved, behind);
        self.staged.insert(lobby.clone());
        if !seated {
            return self.on_detach(lobby, session);
        }
        self.reply(envelope, outcome);
        if behind.is_some() && !matches!(reply_to, ReplyTo::Resume(..)) {
            self.on_pull(lobby, session);
        }
    }

    /// A session has ended.
    pub(super) fn on_detach(&mut self, lobby: &LobbyId, session: &Arc<SessionHandle>) {
        if let Some(attachment) = self.attachments.get_mut(lobby) {
            attachment.audience.unseat(session);
            attachment.pages.retain(|_, (puller, _)| puller.number != session.number);
            attachment.owed.retain(|puller| puller.number != session.number);
            self.staged.insert(lobby.clone());
        }
        let (id, user) = (session.caller.session.clone(), session.caller.user.clone());
        match self.route(shard_of(lobby)) {
            Route::Node(owner) => {
                let detach = ToOwner::Detach { session: id, user };
                self.send(&owner, &LinkMessage::ToOwner(lobby.clone(), detach));
            }
            _ => self.detach(lobby, &id, &user),
        }
    }

    /// A session takes the next page of what it missed.
    pub(super) fn on_pull(&mut self, lobby: &LobbyId, session: &Arc<SessionHandle>) {
        let token = self.token();
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        let Some(at) = attachment.audience.pulling_at(session) else { return };
        if at < attachment.audience.head() {
            if !attachment.is_attached() {
                return attachment.owed.push(Arc::clone(session));
            }
            if let Feed::Remote { owner, .. } = &attachment.feed {
                attachment.pages.insert(token, (Arc::clone(session), at));
                let page = ToOwner::Page { token, after: at };
                self.node.links.send(owner, LinkMessage::ToOwner(lobby.clone(), page).encode());
                return;
            }
        }
        let owned = match self.shards.get(&shard_of(lobby)) {
            Some(ShardSlot::Owned(owned)) => owned.lobbies.get(lobby),
            _ => None,
        };
        let live = match owned {
            Some(LobbySlot::Live(live)) => Some(live),
            _ => None,
        };
        let pulled = attachment
            .audience
            .pull(session, |at| live.and_then(|lobby| lobby.events_between(at, PAGE_EVENTS)));
        if pulled == Pulled::OutOfReach {
            self.restart(lobby, session);
        }
    }
}
