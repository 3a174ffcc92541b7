//! What this node does for its own sessions with what a lobby's owner says: replies, seats, events in their order, and
//! pages of what a session missed.

use std::sync::Arc;

use mlms_process::trace::Kind;
use mlms_protocol::command::{Join, Position};
use mlms_protocol::placement::shard_of;
use mlms_protocol::reply::Joined;
use mlms_protocol::{
    Answer, Epoch, ErrorCode, JoinStatus, LobbyCommand, LobbyEvent, LobbyId, NodeName, Refusal, Seq, Shard,
};
use tokio::time::Instant;

use super::attachment::{Attach, Attachment, Feed};
use super::forward::TURN_IS_OVER;
use super::live::{LobbySlot, Task};
use super::ownership::Route;
use super::peers::PAGE_EVENTS;
use super::shard::ShardSlot;
use super::unanswered::{Former, Sent, Stray, Waiting};
use super::{Envelope, Origin, Turn, Worker, give_back_create};
use crate::audience::Pulled;
use crate::lobby::MEMBERSHIP_ENDED;
use crate::node::Node;
use crate::session::{COMMAND_TIME, ReplyTo, SessionHandle};
use crate::wire::{AttachOutcome, FromOwner, LinkMessage, ToOwner};

/// Joins of one session that may wait for their turn.
const HELD_MAX: usize = 16;

/// A join that was carried out, as it is sent for the snapshot of a later moment.
fn once_more(node: &Node, mut envelope: Envelope, outcome: &Result<Answer, Refusal>) -> Envelope {
    give_back_create(node, &envelope, outcome);
    if let LobbyCommand::Join(join) = &mut envelope.command {
        join.create = None;
        join.again = true;
    }
    envelope
}

impl Worker {
    pub(super) fn on_from_owner(&mut self, from: &NodeName, lobby: &LobbyId, message: FromOwner) {
        match message {
            FromOwner::Answer { token, outcome } => {
                let answered = match self.attachments.get_mut(lobby) {
                    Some(attachment) => attachment.unanswered.take_answered(token, outcome.is_err()),
                    None => Err(Stray::Unknown),
                };
                let envelope = match answered {
                    Ok(command) => command,
                    Err(Stray::SentAgain) => return,
                    Err(Stray::Unknown) => {
                        if matches!(outcome, Ok(Answer::Joined(_))) {
                            self.name_sessions(from, lobby);
                        }
                        return;
                    }
                };
                let Some(attachment) = self.attachments.get_mut(lobby) else { return };
                if let Ok(Answer::Joined(joined)) = &outcome {
                    let live = joined.seq.0 + joined.missed;
                    if !attachment.audience.is_empty() && attachment.position.seq.0 != live {
                        // Events before the join did not arrive: first those, then the join again.
                        if let Origin::Session(session, _) = &envelope.origin
                            && attachment.unanswered.leaves_after(envelope.turn.token, session.number)
                        {
                            return self.refuse(&envelope, ErrorCode::NotMember, MEMBERSHIP_ENDED, None);
                        }
                        let envelope = once_more(&self.node, envelope, &outcome);
                        attachment.unanswered.insert(envelope);
                        self.turn_again(lobby);
                        return self.send_unsent(lobby);
                    }
                }
                self.answer_session(envelope, outcome);
            }
            FromOwner::Moved { token, to, epoch } => {
                if let Some(owner) = to.as_ref().filter(|owner| **owner != self.node.name) {
                    self.note_owner(shard_of(lobby), owner, epoch);
                }
                self.on_moved(from, lobby, token, to);
            }
            FromOwner::Event { epoch, event, trace } => {
                let fed = self.attachments.get(lobby).is_some_and(|one| one.is_fed_by(from));
                if fed {
                    self.trace_delivery(trace, Kind::Consumer);
                    self.pass_on(lobby, epoch, Arc::new(event));
                }
            }
            FromOwner::Pass { epoch, passing } => {
                self.trace_delivery(passing.trace, Kind::Consumer);
                let Some(attachment) = self.attachments.get_mut(lobby) else { return };
                if attachment.is_fed_by(from) && attachment.hears() && epoch >= attachment.position.epoch {
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
                self.after_pull(lobby, &session, &pulled);
            }
        }
    }

    /// Remembers an owner that this node's view does not show yet.
    pub(super) fn note_owner(&mut self, shard: Shard, owner: &NodeName, epoch: Epoch) {
        let view = self.node.directory.view();
        let shown = view.record(shard).map_or(Epoch(0), |record| record.epoch);
        let hinted = self.hints.get(&shard).map_or(Epoch(0), |(_, epoch)| *epoch);
        if epoch > shown.max(hinted) {
            self.hints.insert(shard, (owner.clone(), epoch));
        }
    }

    /// The receiver of a command or an attach is not the owner, and may know who is.
    fn on_moved(&mut self, from: &NodeName, lobby: &LobbyId, token: u64, to: Option<NodeName>) {
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        let is_fed = attachment.is_fed_by(from);
        let overtaken = match attachment.unanswered.last_sent(token) {
            Some(waiting) if waiting.sent == Sent::Overtaken => Some(waiting.envelope.turn.token),
            Some(waiting) if is_fed || matches!(waiting.sent, Sent::Former { .. }) => {
                waiting.sent = Sent::No;
                None
            }
            _ => None,
        };
        if let Some(Waiting { envelope, .. }) =
            overtaken.and_then(|token| attachment.unanswered.remove(token))
        {
            self.refuse(&envelope, ErrorCode::OwnerUnavailable, TURN_IS_OVER, Some(500));
        }
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        if !is_fed {
            // A word of an earlier owner, late on its way.
            return self.send_unsent(lobby);
        }
        match to {
            // It is the owner, but this command has come before its turn.
            Some(owner) if owner == *from => self.send_unsent(lobby),
            Some(owner) if owner != self.node.name => {
                if attachment.audience.is_empty() {
                    // The new owner may have heard of sessions here that have left meanwhile, and wait for them.
                    self.name_nobody(lobby, &owner);
                }
                self.turn_to(lobby, owner);
            }
            _ => {
                attachment.lose_owner(Former::Lives);
                let directory = self.node.directory.clone();
                self.spawn(async move {
                    // Without an answer the regular reading of the view finds the owner.
                    let _ = directory.refresh().await;
                    super::Done::Nothing
                });
            }
        }
    }

    pub(super) fn pass_on(&mut self, lobby: &LobbyId, epoch: Epoch, event: Arc<LobbyEvent>) {
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        // Nobody here needs it: who is seated next starts from the position that its join gave.
        if !attachment.hears() || attachment.audience.is_empty() {
            return;
        }
        if attachment.pass_on(epoch, event) {
            self.staged.insert(lobby.clone());
        } else {
            self.turn_again(lobby);
        }
    }

    pub(super) fn on_attached(&mut self, lobby: &LobbyId, epoch: Epoch, outcome: AttachOutcome) {
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
                attachment.pass_ahead();
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
                if attachment.has_unnamed() {
                    return match attachment.feed {
                        Feed::Local { .. } => self.attach_lobby(lobby),
                        _ => self.name_anew(lobby),
                    };
                }
            }
            AttachOutcome::Restart => {
                let sessions: Vec<_> = attachment.audience.sessions().cloned().collect();
                for session in sessions {
                    self.restart(lobby, &session);
                }
                if let Some(attachment) = self.attachments.get_mut(lobby) {
                    attachment.pass_ahead();
                }
            }
        }
        self.send_unsent(lobby);
    }

    /// A session cannot be brought up to date event by event: it joins anew, and gets a snapshot.
    fn restart(&mut self, lobby: &LobbyId, session: &Arc<SessionHandle>) {
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        let saved = attachment.audience.wants_saved(session);
        let is_resuming = attachment.is_resuming(session.number);
        attachment.audience.unseat(session);
        if is_resuming {
            attachment.doomed.insert(session.number, (Arc::clone(session), saved));
            return;
        }
        self.rejoin(lobby, session, saved);
    }

    fn rejoin(&mut self, lobby: &LobbyId, session: &Arc<SessionHandle>, saved: bool) {
        let join = LobbyCommand::Join(Join { saved, resumed: true, ..Join::default() });
        self.on_command(Envelope {
            caller: Arc::clone(&session.caller),
            origin: Origin::Session(Arc::clone(session), ReplyTo::Snapshot),
            lobby: lobby.clone(),
            command: join,
            key: None,
            found: None,
            deadline: Instant::now() + COMMAND_TIME,
            trace: None,
            turn: Turn::default(),
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
                self.seat(envelope, &session, &reply_to, &joined, saved, outcome);
            }
            Ok(Answer::Done) if matches!(envelope.command, LobbyCommand::Leave) => {
                let session = Arc::clone(session);
                self.refuse_held(&envelope.lobby, &session);
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
        envelope: Envelope,
        session: &Arc<SessionHandle>,
        reply_to: &ReplyTo,
        joined: &Joined,
        saved: bool,
        outcome: Result<Answer, Refusal>,
    ) {
        let lobby = &envelope.lobby.clone();
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
        let behind = match (joined.status, reply_to) {
            (JoinStatus::Resumed, _) => Some((joined.seq, Some(live))),
            // The reply to a resume comes when all its lobbies have answered: no event may come before it.
            (_, ReplyTo::Resume(..)) => Some((joined.seq, None)),
            _ => None,
        };
        let is_resuming = attachment.is_resuming(session.number);
        if behind.is_none() && (is_resuming || attachment.audience.pulling_at(session).is_some()) {
            // A new seat would take what the session was promised: its join waits until that was given.
            let held = attachment.held.entry(session.number).or_default();
            if held.len() < HELD_MAX {
                return held.push(once_more(&self.node, envelope, &outcome));
            }
            let text = "other joins of this session wait for the missed events";
            return self.refuse(&envelope, ErrorCode::Overloaded, text, Some(500));
        }
        if attachment.audience.is_empty() {
            attachment.position = Position { epoch: joined.epoch.max(attachment.position.epoch), seq: live };
            attachment.audience.set_head(live);
            if let Feed::Local { attached } = &mut attachment.feed {
                *attached = true;
            }
        } else if attachment.audience.head() != live && matches!(attachment.feed, Feed::Local { .. }) {
            // What came before the join did not reach the audience: first that, then the join again.
            tracing::warn!(%lobby, head = %attachment.audience.head(), %live, "an audience is behind its lobby");
            self.attach_lobby(lobby);
            return self.on_command(once_more(&self.node, envelope, &outcome));
        }
        let seated = attachment.audience.seat(session, saved, behind);
        attachment.doomed.remove(&session.number);
        if let ReplyTo::Resume(gather, _) = reply_to {
            attachment.resuming.insert(session.number, Arc::clone(gather));
        }
        self.staged.insert(lobby.clone());
        if !seated {
            return self.on_detach(lobby, session);
        }
        self.reply(&envelope, outcome);
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
            attachment.held.remove(&session.number);
            attachment.resuming.remove(&session.number);
            attachment.doomed.remove(&session.number);
            self.staged.insert(lobby.clone());
        }
        let (id, user) = (session.caller.session.clone(), session.caller.user.clone());
        // Who feeds the lobby knows the session, whoever the directory says the owner is.
        match self.attachments.get(lobby).map(|attachment| &attachment.feed) {
            Some(Feed::Remote { owner, .. }) => {
                let detach = ToOwner::Detach { session: id, user };
                self.node.links.send(owner, LinkMessage::ToOwner(lobby.clone(), detach).encode());
            }
            _ => self.on_task(Task::Detach { lobby: lobby.clone(), session: id, user }),
        }
    }

    /// A session takes the next page of what it missed.
    pub(super) fn on_pull(&mut self, lobby: &LobbyId, session: &Arc<SessionHandle>) {
        let token = self.token();
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        if attachment.is_resuming(session.number) {
            // An older pull's; the reply calls again.
            return;
        }
        if let Some((session, saved)) = attachment.doomed.remove(&session.number) {
            self.rejoin(lobby, &session, saved);
            return self.take_held(lobby, session.number);
        }
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
        self.after_pull(lobby, session, &pulled);
    }

    fn after_pull(&mut self, lobby: &LobbyId, session: &Arc<SessionHandle>, pulled: &Pulled) {
        match pulled {
            Pulled::OutOfReach => self.restart(lobby, session),
            Pulled::Live => self.take_held(lobby, session.number),
            Pulled::Later | Pulled::NotSeated => {}
        }
    }

    /// A join that came while its session was still getting what it missed: now it is its turn.
    fn take_held(&mut self, lobby: &LobbyId, session: u64) {
        let held = self.attachments.get_mut(lobby).and_then(|attachment| attachment.held.remove(&session));
        for mut envelope in held.into_iter().flatten() {
            envelope.deadline = Instant::now() + COMMAND_TIME;
            envelope.turn = Turn::default();
            self.on_command(envelope);
        }
    }

    /// Joins that wait for their turn when their session leaves: it is over for them.
    fn refuse_held(&mut self, lobby: &LobbyId, session: &SessionHandle) {
        let held =
            self.attachments.get_mut(lobby).and_then(|attachment| attachment.held.remove(&session.number));
        for envelope in held.into_iter().flatten() {
            self.refuse(&envelope, ErrorCode::NotMember, MEMBERSHIP_ENDED, None);
        }
    }

    /// Joins whose session stopped to pull otherwise than by coming to the end.
    pub(super) fn take_all_held(&mut self) {
        let mut due = Vec::new();
        for (lobby, attachment) in &self.attachments {
            for (number, held) in &attachment.held {
                if let Some(Origin::Session(session, _)) = held.first().map(|envelope| &envelope.origin)
                    && attachment.audience.pulling_at(session).is_none()
                    && attachment.resuming.get(number).is_none_or(|gather| gather.is_answered())
                {
                    due.push((lobby.clone(), *number));
                }
            }
        }
        for (lobby, session) in due {
            self.take_held(&lobby, session);
        }
    }
}
