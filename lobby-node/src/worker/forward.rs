//! The road of this node's commands to a lobby's owner, wherever that is now: they go out in their order, again after
//! a change of owner or a broken link, and are refused when their time is over.

use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::command::Position;
use mlms_protocol::placement::shard_of;
use mlms_protocol::{Epoch, ErrorCode, LobbyId, NodeName, Seq, Shard};
use tokio::time::Instant;

use super::attachment::{Attach, Attachment, Feed};
use super::live::{CONFIRM_TIME, LobbySlot, Task};
use super::ownership::Route;
use super::shard::ShardSlot;
use super::unanswered::{Former, Sent, Waiting};
use super::{Envelope, Origin, Worker};
use crate::session::ReplyTo;
use crate::wire::{LinkMessage, ToOwner};

/// Commands of one lobby that may wait for their owner's answer.
const UNANSWERED_MAX: usize = 4_096;
/// How long an owner that lives, and that the view contradicts, may take to send this node on itself. Until then all that
/// it said before is on its way: a link that lost a batch needs its heartbeat to notice. It gives its word whenever it
/// loses a shard, so that this time passes only when the word itself is lost with its link.
const WORD_TIME: Duration = Duration::from_secs(3);
/// What is said where a node cannot know whether anybody hears it.
pub(super) const OUT_OF_TOUCH: &str = "this node has lost touch with the others";
/// What the sender of a message without a seq is told whose later messages have gone to another owner.
pub(super) const TURN_IS_OVER: &str = "the lobby has moved, and this message's turn is over";
/// When an attach that was not answered is sent again.
const ATTACH_AGAIN: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) fn on_command(&mut self, mut envelope: Envelope) {
        if !matches!(envelope.origin, Origin::Node { .. }) {
            if envelope.turn.token == 0 {
                envelope.turn.token = self.token();
            }
            let shard = shard_of(&envelope.lobby);
            if let Some(owner) = self.promised_by(shard) {
                return self.forward(envelope, Some(owner));
            }
            let is_queued =
                self.attachments.get(&envelope.lobby).is_some_and(|one| !one.unanswered.is_empty());
            if is_queued && self.route(shard) == Route::Here {
                // In its turn among those that are not decided yet.
                return self.forward(envelope, None);
            }
        }
        self.on_task(Task::Command(envelope));
    }

    /// The present owner of a shard that is promised to this node: it still serves.
    fn promised_by(&self, shard: Shard) -> Option<NodeName> {
        match self.shards.get(&shard) {
            Some(ShardSlot::Claiming { expecting: Some(expecting), .. }) => Some(expecting.from.clone()),
            _ => None,
        }
    }

    /// Takes something for a lobby to wherever the lobby is.
    pub(super) fn on_task(&mut self, task: Task) {
        let lobby = task.lobby().clone();
        let shard = shard_of(&lobby);
        match (self.route(shard), task) {
            (Route::Here, task) => self.on_owned(shard, &lobby, task),
            (Route::Claim, Task::Command(envelope)) if self.is_in_vain(&envelope) => {
                self.refuse(&envelope, ErrorCode::Degraded, OUT_OF_TOUCH, Some(1_000));
            }
            (Route::Claim, Task::Command(envelope)) if !matches!(envelope.origin, Origin::Node { .. }) => {
                self.wait_for_claim(shard, None);
                self.forward(envelope, None);
            }
            (Route::Claim, task) => self.wait_for_claim(shard, Some(task)),
            (Route::Node(owner), Task::Command(envelope)) => self.forward(envelope, Some(owner)),
            (Route::Nowhere, Task::Command(envelope)) => self.forward(envelope, None),
            (Route::Node(owner), Task::Detach { session, user, .. }) => {
                self.send(&owner, &LinkMessage::ToOwner(lobby, ToOwner::Detach { session, user }));
            }
            (Route::Node(_) | Route::Nowhere, Task::Attach(attach)) => {
                // From a node that has left nothing is heard: whoever asks finds the next owner in the view.
                if !self.has_left
                    && let Some((node, token)) = attach.from
                {
                    self.refuse_attach(&node, token, lobby);
                }
            }
            (Route::Nowhere, Task::Detach { .. }) => {}
        }
    }

    /// Whether somebody waits for what this node cannot have before it is in touch with the others again. A player is
    /// told; a session that is brought up to date by the node itself waits.
    fn is_in_vain(&self, envelope: &Envelope) -> bool {
        self.node.standing.is_degraded() && !matches!(envelope.origin, Origin::Session(_, ReplyTo::Snapshot))
    }

    /// Sends a session's command to the owner, or tells another node that it asked the wrong one.
    fn forward(&mut self, envelope: Envelope, owner: Option<NodeName>) {
        if let Origin::Node { node, token, of, .. } = &envelope.origin {
            return self.send_on(node, *token, *of, envelope.lobby.clone(), owner);
        }
        if owner.is_some() && self.is_in_vain(&envelope) {
            return self.refuse(&envelope, ErrorCode::Degraded, OUT_OF_TOUCH, Some(1_000));
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
        attachment.unanswered.insert(envelope);
        self.send_unsent(&lobby);
    }

    /// Sends the commands that the present owner has not got yet, in their order. Where it is this node, that is done
    /// when whatever is under way now has come to its end: what came before may be in the midst of being taken in.
    pub(super) fn send_unsent(&mut self, lobby: &LobbyId) {
        let now = Instant::now();
        let shard = shard_of(lobby);
        if let Some(ShardSlot::Claiming { expecting: None, .. }) = self.shards.get(&shard) {
            // The former owner is one no more.
            return;
        }
        while let Some(attachment) = self.attachments.get_mut(lobby) {
            let owner = match &attachment.feed {
                Feed::Remote { owner, attach: Attach::Attached } => owner.clone(),
                Feed::Local { .. } if attachment.unanswered.is_empty() => return,
                Feed::Local { .. } => {
                    self.due.insert(lobby.clone());
                    return;
                }
                _ => return,
            };
            let token = match attachment.unanswered.next_unsent(now) {
                Ok(Some(token)) => token,
                Ok(None) => return,
                Err(()) => {
                    self.blocked.insert(lobby.clone());
                    return;
                }
            };
            let epoch = attachment.position.epoch;
            let Some((number, after, envelope)) = attachment.unanswered.send(token) else { return };
            let command = ToOwner::Command {
                token: number,
                caller: envelope.caller.as_ref().clone(),
                key: envelope.key.clone(),
                command: envelope.command.clone(),
                trace: envelope.traced(),
                of: Some(token),
                epoch: Some(self.known_epoch(shard, epoch)),
                after,
            };
            self.node.links.send(&owner, LinkMessage::ToOwner(lobby.clone(), command).encode());
        }
    }

    /// Hands the commands that waited to the lobbies that are owned here by now, in their order.
    pub(super) fn take_due(&mut self) {
        for lobby in std::mem::take(&mut self.due) {
            self.take_unsent(&lobby);
        }
    }

    fn take_unsent(&mut self, lobby: &LobbyId) {
        let now = Instant::now();
        while let Some(attachment) = self.attachments.get_mut(lobby)
            && matches!(attachment.feed, Feed::Local { .. })
            && matches!(self.shards.get(&shard_of(lobby)), Some(ShardSlot::Owned(_)))
        {
            match attachment.unanswered.next_unsent(now) {
                Ok(Some(token)) => {
                    let Some(Waiting { envelope, .. }) = attachment.unanswered.remove(token) else {
                        return;
                    };
                    self.on_owned(shard_of(lobby), lobby, Task::Command(envelope));
                }
                Ok(None) => return,
                Err(()) => {
                    self.blocked.insert(lobby.clone());
                    return;
                }
            }
        }
    }

    /// The newest epoch of a shard that this node knows of.
    fn known_epoch(&self, shard: Shard, heard: Epoch) -> Epoch {
        let shown = self.node.directory.view().record(shard).map(|record| record.epoch);
        let hinted = self.hints.get(&shard).map(|(_, epoch)| *epoch);
        shown.max(hinted).unwrap_or_default().max(heard)
    }

    /// Whether a former owner that lives may still say what became of its commands.
    pub(super) fn former(&self, lobby: &LobbyId, new: &NodeName) -> Former {
        match self.attachments.get(lobby).map(|attachment| &attachment.feed) {
            Some(Feed::Remote { owner, .. })
                if owner != new && self.node.directory.view().nodes.contains_key(owner) =>
            {
                Former::Lives
            }
            _ => Former::Gone,
        }
    }

    /// Looks again where each lobby's owner is, and attaches to a new one.
    pub(super) fn follow_owners(&mut self) {
        let lobbies: Vec<_> = self.attachments.keys().cloned().collect();
        for lobby in lobbies {
            self.follow_owner(lobby);
        }
    }

    /// Looks again where a lobby's owner is, and attaches to a new one.
    pub(super) fn follow_owner(&mut self, lobby: LobbyId) {
        let shard = shard_of(&lobby);
        let Some(attachment) = self.attachments.get(&lobby) else { return };
        match (self.route(shard), &attachment.feed) {
            (Route::Here, Feed::Local { .. }) | (Route::Nowhere, _) => {}
            (Route::Here, _) => self.attach_lobby(&lobby),
            (Route::Claim, feed) => match (self.promised_by(shard), feed) {
                (Some(owner), Feed::Lost) => self.turn_to(&lobby, owner),
                _ => self.wait_for_claim(shard, None),
            },
            (Route::Node(owner), Feed::Remote { owner: known, .. }) if owner == *known => {}
            (Route::Node(_), Feed::Remote { owner: known, attach: Attach::Attached })
                if self.node.directory.view().nodes.contains_key(known) =>
            {
                // It lives and may have more to say before it sends this node on.
                self.turning.entry(lobby).or_insert_with(|| Instant::now() + WORD_TIME);
            }
            (Route::Node(owner), _) => self.turn_to(&lobby, owner),
        }
    }

    /// A node has begun anew under its name: what its former run said has come, or is lost.
    pub(super) fn lose_run(&mut self, node: &NodeName) {
        for attachment in self.attachments.values_mut().filter(|attachment| attachment.is_fed_by(node)) {
            attachment.lose_owner(Former::Gone);
        }
    }

    /// Commands that waited for a former owner's word.
    pub(super) fn send_blocked(&mut self) {
        if self.blocked.is_empty() {
            return;
        }
        for lobby in std::mem::take(&mut self.blocked) {
            self.send_unsent(&lobby);
        }
    }

    /// Turns away from owners that had their time to say goodbye.
    pub(super) fn turn_due(&mut self, now: Instant) {
        if self.turning.is_empty() {
            return;
        }
        let due: Vec<_> = self.turning.extract_if(|_, at| *at <= now).map(|(lobby, _)| lobby).collect();
        for lobby in due {
            let Some(attachment) = self.attachments.get(&lobby) else { continue };
            match (self.route(shard_of(&lobby)), &attachment.feed) {
                (Route::Node(owner), Feed::Remote { owner: known, .. }) if owner == *known => {}
                (Route::Node(owner), Feed::Remote { .. }) => self.turn_to(&lobby, owner),
                _ => {}
            }
        }
    }

    /// Takes a node for the owner from now on.
    pub(super) fn turn_to(&mut self, lobby: &LobbyId, owner: NodeName) {
        self.ask(lobby, owner, false);
    }

    /// Tells an owner who is here, and asks for what came since the last event that was passed on.
    fn ask(&mut self, lobby: &LobbyId, owner: NodeName, whole: bool) {
        let token = match self.attachments.get(lobby).map(|attachment| &attachment.feed) {
            // It was asked already: whichever answer comes first, what follows it follows on.
            Some(Feed::Remote { owner: asked, attach: Attach::Asked { token, whole: false, .. } })
                if *asked == owner =>
            {
                *token
            }
            _ => self.token(),
        };
        self.turning.remove(lobby);
        let former = self.former(lobby, &owner);
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        attachment.lose_owner(former);
        if attachment.audience.is_empty() {
            attachment.feed = Feed::Remote { owner, attach: Attach::Attached };
            return self.send_unsent(lobby);
        }
        attachment.feed =
            Feed::Remote { owner: owner.clone(), attach: Attach::Asked { token, at: Instant::now(), whole } };
        self.send_attach(lobby, token, &owner);
    }

    fn send_attach(&mut self, lobby: &LobbyId, token: u64, owner: &NodeName) {
        let Some(attachment) = self.attachments.get_mut(lobby) else { return };
        let (since, sessions, joining) =
            (attachment.position, attachment.attaching(), attachment.unanswered.joining());
        let attach = ToOwner::Attach { token, since, sessions, joining };
        self.send(owner, &LinkMessage::ToOwner(lobby.clone(), attach));
    }

    /// Tells the same owner anew who is here; what it says meanwhile is passed on as before.
    pub(super) fn name_anew(&mut self, lobby: &LobbyId) {
        let Some(attachment) = self.attachments.get(lobby) else { return };
        let Feed::Remote { owner, .. } = &attachment.feed else { return };
        let (owner, whole) = (owner.clone(), attachment.hears());
        self.ask(lobby, owner, whole);
    }

    /// Attaches anew to the same owner: something between was lost, and what it says meanwhile does not follow on.
    pub(super) fn turn_again(&mut self, lobby: &LobbyId) {
        let owner = match self.attachments.get(lobby).map(|attachment| &attachment.feed) {
            Some(Feed::Remote { owner, .. }) => owner.clone(),
            _ => return,
        };
        self.turn_to(lobby, owner);
    }

    /// A join was answered too late, and the owner counts a session that nobody seated: it is told who is here.
    pub(super) fn name_sessions(&mut self, owner: &NodeName, lobby: &LobbyId) {
        if let Some(attachment) = self.attachments.get_mut(lobby) {
            if !attachment.audience.is_empty() {
                return self.name_anew(lobby);
            }
            // Joins that are under way are not here yet: they are sent again behind this.
            attachment.unanswered.unsend();
        }
        self.name_nobody(lobby, owner);
        self.send_unsent(lobby);
    }

    /// Tells an owner that no session is here, but for those whose joins are on their way.
    pub(super) fn name_nobody(&mut self, lobby: &LobbyId, owner: &NodeName) {
        let (token, since) = (self.token(), Position { epoch: Epoch(0), seq: Seq(0) });
        let joining = self.attachments.get(lobby).map(|one| one.unanswered.joining()).unwrap_or_default();
        let nobody = ToOwner::Attach { token, since, sessions: Vec::new(), joining };
        self.send(owner, &LinkMessage::ToOwner(lobby.clone(), nobody));
    }

    /// Sends attaches again that were not answered, and looks for owners of lobbies without one.
    pub(super) fn attach_again(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (lobby, attachment) in &mut self.attachments {
            if let Feed::Remote { owner, attach: Attach::Asked { token, at, .. } } = &mut attachment.feed
                && *at + ATTACH_AGAIN <= now
            {
                *at = now;
                due.push((lobby.clone(), *token, owner.clone()));
            }
        }
        for (lobby, token, owner) in due {
            // Under its old number: the first answer counts, and what the owner says from then on is heard.
            self.send_attach(&lobby, token, &owner);
        }
        if self.attachments.values().any(|attachment| matches!(attachment.feed, Feed::Lost)) {
            self.follow_owners();
        }
        self.take_all_held();
    }

    pub(super) fn expire_commands(&mut self, now: Instant) {
        let mut expired = Vec::new();
        for attachment in self.attachments.values_mut() {
            expired.extend(std::iter::from_fn(|| attachment.unanswered.pop_late(now)));
        }
        let mut late = Vec::new();
        for slot in self.shards.values_mut() {
            let waiting = match slot {
                ShardSlot::Claiming { waiting, .. } => waiting,
                ShardSlot::Owned(owned) => match &mut owned.moving {
                    Some(moving) => &mut moving.held,
                    None => continue,
                },
            };
            late.extend(waiting.extract_if(.., |task| task.is_late(now)));
        }
        for task in late {
            self.refuse_late(task);
        }
        for Waiting { envelope, sent } in expired {
            if sent != Sent::No {
                // It may have happened: only the owner knows.
                self.refuse(&envelope, ErrorCode::Timeout, "the lobby's node did not answer", Some(500));
            } else if self.node.standing.is_degraded() {
                self.refuse(&envelope, ErrorCode::Degraded, OUT_OF_TOUCH, Some(1_000));
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
            // Its numbers begin anew. Those of a node that was only out of reach go on.
            self.refused.forget(peer);
            self.forget_node(peer);
        } else {
            let by = Instant::now() + CONFIRM_TIME;
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
}
