//! Frames from the server that answer nothing: events. A lobby's sequenced events are also what the journal keeps.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::body::Body;
use crate::code::{ErrorCode, MemberRole, NoticeCode, Reconnect};
use crate::encoding::Encoding;
use crate::fields::{FieldError, Fields};
use crate::ids::{Epoch, Kind, LobbyId, Millis, NodeName, Nonce, Seq, SessionId, UserId};
use crate::limits::Limits;
use crate::lobby::{Member, Settings};
use crate::reply::Refusal;
use crate::writer::ObjectWriter;

/// Members in a `state`; the rest is read by `roster`.
pub const STATE_MEMBERS_MAX: usize = 100;
/// Unread chats are counted up to this.
pub const UNREAD_MAX: usize = 1_000;
/// Messages in a `state`.
pub const STATE_MESSAGES_MAX: usize = 50;

/// One sequenced event of a lobby.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LobbyEvent {
    pub lobby: LobbyId,
    pub epoch: Epoch,
    pub seq: Seq,
    pub at: Millis,
    pub change: Change,
}

/// What a sequenced event says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    Message {
        kind: Kind,
        from: Option<UserId>,
        body: Body,
        nonce: Option<Nonce>,
        /// With it the message is a value that lasts: the newest of its key is shown to whoever comes later.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
    Joined {
        user: UserId,
        name: String,
        role: MemberRole,
    },
    Left {
        user: UserId,
        reason: Option<String>,
    },
    HostChanged {
        user: Option<UserId>,
        by: Option<UserId>,
    },
    Updated {
        by: Option<UserId>,
        settings: Option<Settings>,
        user: Option<UserId>,
        role: Option<MemberRole>,
        attributes: Option<Map<String, Value>>,
    },
    /// The lobby got a password, or lost it. The hash stays in the journal: `locked` is all that is told.
    Locked {
        by: Option<UserId>,
        hash: Option<String>,
    },
    /// `invite` is the invite's public name, from which nobody finds its secret.
    Invited {
        invite: String,
        by: Option<UserId>,
        uses: Option<u32>,
        until: Option<Millis>,
    },
    InviteUsed {
        invite: String,
        user: UserId,
    },
    Ready {
        user: UserId,
        ready: bool,
    },
    GameStarted {
        game: u64,
        by: Option<UserId>,
    },
    Reported {
        game: u64,
        user: UserId,
        stat: String,
        amount: i64,
        by: Option<UserId>,
    },
    GameFinished {
        game: u64,
        by: Option<UserId>,
        /// Who played it to the end: the members at the finish, without spectators.
        #[serde(default)]
        players: Vec<UserId>,
        results: Option<Body>,
    },
    Kicked {
        user: UserId,
        by: Option<UserId>,
        reason: Option<String>,
    },
    Banned {
        user: UserId,
        by: Option<UserId>,
        until: Option<Millis>,
        reason: Option<String>,
    },
    Unbanned {
        user: UserId,
        by: Option<UserId>,
    },
    Muted {
        user: UserId,
        by: Option<UserId>,
        until: Option<Millis>,
        reason: Option<String>,
    },
    Unmuted {
        user: UserId,
        by: Option<UserId>,
    },
    Edited {
        of: Seq,
        by: UserId,
        body: Body,
    },
    Deleted {
        of: Seq,
        by: UserId,
    },
    Reacted {
        of: Seq,
        user: UserId,
        emoji: String,
    },
    Closed {
        by: Option<UserId>,
        reason: Option<String>,
    },
}

impl Change {
    /// The event's name on the wire.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Change::Message { .. } => "message",
            Change::Joined { .. } => "joined",
            Change::Left { .. } => "left",
            Change::HostChanged { .. } => "host_changed",
            Change::Updated { .. } => "updated",
            Change::Locked { .. } => "locked",
            Change::Invited { .. } => "invited",
            Change::InviteUsed { .. } => "invite_used",
            Change::Ready { .. } => "ready",
            Change::GameStarted { .. } => "game_started",
            Change::Reported { .. } => "reported",
            Change::GameFinished { .. } => "game_finished",
            Change::Kicked { .. } => "kicked",
            Change::Banned { .. } => "banned",
            Change::Unbanned { .. } => "unbanned",
            Change::Muted { .. } => "muted",
            Change::Unmuted { .. } => "unmuted",
            Change::Edited { .. } => "edited",
            Change::Deleted { .. } => "deleted",
            Change::Reacted { .. } => "reacted",
            Change::Closed { .. } => "closed",
        }
    }
}

impl LobbyEvent {
    /// The same message with another body; a deleted one keeps its place, with an empty text or null in it.
    /// `None`: it is no message.
    #[must_use]
    pub fn with_body(&self, new: Option<&Body>) -> Option<LobbyEvent> {
        let mut event = self.clone();
        let Change::Message { body, .. } = &mut event.change else { return None };
        *body = match new {
            Some(new) => new.clone(),
            None if body.as_text().is_some() => Body::text(""),
            None => Body::json(&Value::Null),
        };
        Some(event)
    }

    /// Whose words the event carries, unless they are moves of a game.
    #[must_use]
    pub fn speaker(&self) -> Option<&UserId> {
        match &self.change {
            Change::Message { kind, from, .. } if !kind.is_game() => from.as_ref(),
            Change::Edited { by, .. } => Some(by),
            Change::Reacted { user, .. } => Some(user),
            _ => None,
        }
    }

    /// The event without its speaker's words, for somebody whom they are not to reach: it keeps its place.
    #[must_use]
    pub fn without_words(&self) -> LobbyEvent {
        let mut event = self.with_body(None).unwrap_or_else(|| self.clone());
        match &mut event.change {
            Change::Edited { body, .. } => *body = Body::text(""),
            Change::Reacted { emoji, .. } => emoji.clear(),
            _ => {}
        }
        event
    }

    /// Which message this event edits or deletes, and its new body.
    #[must_use]
    pub fn alters(&self) -> Option<(Seq, Option<&Body>)> {
        match &self.change {
            Change::Edited { of, body, .. } => Some((*of, Some(body))),
            Change::Deleted { of, .. } => Some((*of, None)),
            _ => None,
        }
    }

    /// Writes the event's fields into an object, `ev` first.
    pub fn write(&self, w: &mut ObjectWriter) {
        w.field("ev", self.change.name()).field("lobby", &self.lobby);
        w.field("epoch", &self.epoch).field("seq", &self.seq).field("at", &self.at);
        match &self.change {
            Change::Message { kind, from, body, nonce, key } => {
                w.field("kind", kind).field("from", from).body("body", body);
                w.option("nonce", nonce.as_ref()).option("key", key.as_ref());
            }
            Change::Joined { user, name, role } => {
                w.field("user", user).field("name", name).field("role", role);
            }
            Change::Left { user, reason } => {
                w.field("user", user).option("reason", reason.as_ref());
            }
            Change::HostChanged { user, by } => {
                w.field("user", user).option("by", by.as_ref());
            }
            Change::Updated { by, settings, user, role, attributes } => {
                w.option("by", by.as_ref())
                    .option("settings", settings.as_ref())
                    .option("user", user.as_ref());
                w.option("role", role.as_ref()).option("attributes", attributes.as_ref());
            }
            Change::Locked { by, hash } => {
                w.field("locked", &hash.is_some()).option("by", by.as_ref());
            }
            Change::Invited { invite, by, uses, until } => {
                w.field("invite", invite).option("by", by.as_ref());
                w.option("uses", uses.as_ref()).option("until", until.as_ref());
            }
            Change::InviteUsed { invite, user } => {
                w.field("invite", invite).field("user", user);
            }
            Change::Ready { user, ready } => {
                w.field("user", user).field("ready", ready);
            }
            Change::GameStarted { game, by } => {
                w.field("game", game).option("by", by.as_ref());
            }
            Change::Reported { game, user, stat, amount, by } => {
                w.field("game", game).field("user", user).field("stat", stat).field("amount", amount);
                w.option("by", by.as_ref());
            }
            Change::GameFinished { game, by, players, results } => {
                w.field("game", game).option("by", by.as_ref()).field("players", players);
                if let Some(results) = results {
                    w.body("results", results);
                }
            }
            Change::Kicked { user, by, reason } => {
                w.field("user", user).option("by", by.as_ref()).option("reason", reason.as_ref());
            }
            Change::Banned { user, by, until, reason } | Change::Muted { user, by, until, reason } => {
                w.field("user", user).option("by", by.as_ref());
                w.option("until", until.as_ref()).option("reason", reason.as_ref());
            }
            Change::Unbanned { user, by } | Change::Unmuted { user, by } => {
                w.field("user", user).option("by", by.as_ref());
            }
            Change::Edited { of, by, body } => {
                w.field("of", of).field("by", by).body("body", body);
            }
            Change::Deleted { of, by } => {
                w.field("of", of).field("by", by);
            }
            Change::Reacted { of, user, emoji } => {
                w.field("of", of).field("user", user).field("emoji", emoji);
            }
            Change::Closed { by, reason } => {
                w.option("by", by.as_ref()).option("reason", reason.as_ref());
            }
        }
    }

    fn read(name: &str, fields: &Fields<'_>) -> Result<Option<LobbyEvent>, FieldError> {
        let change = match name {
            "message" => Change::Message {
                kind: fields.need("kind")?,
                from: fields.get("from")?,
                body: fields.body("body")?.ok_or(FieldError::Missing("body"))?,
                nonce: fields.get("nonce")?,
                key: fields.get("key")?,
            },
            "joined" => Change::Joined {
                user: fields.need("user")?,
                name: fields.need("name")?,
                role: fields.need("role")?,
            },
            "left" => Change::Left { user: fields.need("user")?, reason: fields.get("reason")? },
            "host_changed" => Change::HostChanged { user: fields.get("user")?, by: fields.get("by")? },
            "updated" => Change::Updated {
                by: fields.get("by")?,
                settings: fields.get("settings")?,
                user: fields.get("user")?,
                role: fields.get("role")?,
                attributes: fields.get("attributes")?,
            },
            "locked" => {
                // Whoever reads what was told knows that there is a lock, not which.
                let locked: bool = fields.need("locked")?;
                Change::Locked { by: fields.get("by")?, hash: locked.then(String::new) }
            }
            "invited" => Change::Invited {
                invite: fields.need("invite")?,
                by: fields.get("by")?,
                uses: fields.get("uses")?,
                until: fields.get("until")?,
            },
            "invite_used" => {
                Change::InviteUsed { invite: fields.need("invite")?, user: fields.need("user")? }
            }
            "ready" => Change::Ready { user: fields.need("user")?, ready: fields.need("ready")? },
            "game_started" => Change::GameStarted { game: fields.need("game")?, by: fields.get("by")? },
            "reported" => Change::Reported {
                game: fields.need("game")?,
                user: fields.need("user")?,
                stat: fields.need("stat")?,
                amount: fields.need("amount")?,
                by: fields.get("by")?,
            },
            "game_finished" => Change::GameFinished {
                game: fields.need("game")?,
                by: fields.get("by")?,
                players: fields.get("players")?.unwrap_or_default(),
                results: fields.body("results")?,
            },
            "kicked" => Change::Kicked {
                user: fields.need("user")?,
                by: fields.get("by")?,
                reason: fields.get("reason")?,
            },
            "banned" => Change::Banned {
                user: fields.need("user")?,
                by: fields.get("by")?,
                until: fields.get("until")?,
                reason: fields.get("reason")?,
            },
            "unbanned" => Change::Unbanned { user: fields.need("user")?, by: fields.get("by")? },
            "muted" => Change::Muted {
                user: fields.need("user")?,
                by: fields.get("by")?,
                until: fields.get("until")?,
                reason: fields.get("reason")?,
            },
            "unmuted" => Change::Unmuted { user: fields.need("user")?, by: fields.get("by")? },
            "edited" => Change::Edited {
                of: fields.need("of")?,
                by: fields.need("by")?,
                body: fields.body("body")?.ok_or(FieldError::Missing("body"))?,
            },
            "deleted" => Change::Deleted { of: fields.need("of")?, by: fields.need("by")? },
            "reacted" => Change::Reacted {
                of: fields.need("of")?,
                user: fields.need("user")?,
                emoji: fields.need("emoji")?,
            },
            "closed" => Change::Closed { by: fields.get("by")?, reason: fields.get("reason")? },
            _ => return Ok(None),
        };
        Ok(Some(LobbyEvent {
            lobby: fields.need("lobby")?,
            epoch: fields.need("epoch")?,
            seq: fields.need("seq")?,
            at: fields.need("at")?,
            change,
        }))
    }
}

/// An unsequenced message on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassingMessage {
    pub lobby: LobbyId,
    pub kind: Kind,
    pub from: Option<UserId>,
    pub at: Millis,
    pub body: Body,
}

/// A lobby as a joining member first sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LobbyState {
    pub settings: Settings,
    pub host: Option<UserId>,
    /// The own entry first, then up to [`STATE_MEMBERS_MAX`] others in the order of joining.
    pub members: Vec<Member>,
    pub members_total: u32,
    /// The number of the game under way.
    pub game: Option<u64>,
    /// The last [`STATE_MESSAGES_MAX`] messages, ascending.
    pub messages: Vec<LobbyEvent>,
    /// The newest message of each key that lasts, ascending.
    #[serde(default)]
    pub retained: Vec<LobbyEvent>,
}

/// How far a user has read in a lobby, on all devices together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadMark {
    /// Everything up to here.
    pub read: Seq,
    /// Chats of others behind it; [`UNREAD_MAX`] stands for that many or more.
    pub unread: u32,
}

impl ReadMark {
    pub(crate) fn write(self, w: &mut ObjectWriter) {
        w.field("read", &self.read).field("unread", &self.unread);
    }

    /// `None`: a server that keeps no marks.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Option<ReadMark>, FieldError> {
        let (read, unread) = (fields.get("read")?, fields.get("unread")?);
        Ok(read.map(|read| ReadMark { read, unread: unread.unwrap_or(0) }))
    }
}

impl LobbyState {
    /// Writes the state's fields into an object.
    pub fn write(&self, w: &mut ObjectWriter) {
        w.field("settings", &self.settings).field("host", &self.host).field("members", &self.members);
        w.field("members_total", &self.members_total).field("game", &self.game);
        w.objects("messages", self.messages.iter(), |w, message| message.write(w));
        w.objects("retained", self.retained.iter(), |w, message| message.write(w));
    }
}

/// Every event a session can get.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Welcome {
        session: SessionId,
        user: UserId,
        node: NodeName,
        heartbeat_ms: u64,
        limits: Limits,
        now: Millis,
    },
    Lobby(LobbyEvent),
    Message(PassingMessage),
    Away {
        lobby: LobbyId,
        user: UserId,
    },
    Back {
        lobby: LobbyId,
        user: UserId,
    },
    Typing {
        lobby: LobbyId,
        user: UserId,
    },
    Saved {
        lobby: LobbyId,
        seq: Seq,
    },
    CaughtUp {
        lobby: LobbyId,
        seq: Seq,
    },
    Snapshot {
        lobby: LobbyId,
        epoch: Epoch,
        seq: Seq,
        state: Box<LobbyState>,
        mark: Option<ReadMark>,
    },
    /// Another session of the same user has read up to here.
    Read {
        lobby: LobbyId,
        user: UserId,
        mark: ReadMark,
    },
    Lag {
        lobby: LobbyId,
        dropped: u64,
    },
    Achievement {
        user: UserId,
        achievement: String,
        at: Millis,
    },
    Notice {
        code: NoticeCode,
        message: String,
    },
    Error {
        code: ErrorCode,
        message: String,
        op: Option<String>,
        lobby: Option<LobbyId>,
        retry_ms: Option<u64>,
    },
    Bye {
        code: u16,
        reason: String,
        reconnect: Reconnect,
        window_ms: Option<(u64, u64)>,
    },
}

impl Event {
    /// The event's payload in an encoding.
    #[must_use]
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        let mut w = ObjectWriter::new(encoding);
        match self {
            Event::Lobby(event) => event.write(&mut w),
            Event::Message(message) => {
                w.field("ev", "message").field("lobby", &message.lobby).field("kind", &message.kind);
                w.field("from", &message.from).field("at", &message.at).body("body", &message.body);
            }
            Event::Welcome { session, user, node, heartbeat_ms, limits, now } => {
                w.field("ev", "welcome").field("session", session).field("user", user).field("node", node);
                w.field("heartbeat_ms", heartbeat_ms).field("limits", limits).field("now", now);
            }
            Event::Away { lobby, user } => {
                _ = w.field("ev", "away").field("lobby", lobby).field("user", user)
            }
            Event::Back { lobby, user } => {
                _ = w.field("ev", "back").field("lobby", lobby).field("user", user)
            }
            Event::Typing { lobby, user } => {
                _ = w.field("ev", "typing").field("lobby", lobby).field("user", user)
            }
            Event::Saved { lobby, seq } => _ = w.field("ev", "saved").field("lobby", lobby).field("seq", seq),
            Event::CaughtUp { lobby, seq } => {
                _ = w.field("ev", "caught_up").field("lobby", lobby).field("seq", seq)
            }
            Event::Snapshot { lobby, epoch, seq, state, mark } => {
                w.field("ev", "snapshot").field("lobby", lobby).field("epoch", epoch).field("seq", seq);
                w.object("state", |w| state.write(w));
                if let Some(mark) = mark {
                    mark.write(&mut w);
                }
            }
            Event::Read { lobby, user, mark } => {
                w.field("ev", "read").field("lobby", lobby).field("user", user);
                mark.write(&mut w);
            }
            Event::Lag { lobby, dropped } => {
                _ = w.field("ev", "lag").field("lobby", lobby).field("dropped", dropped)
            }
            Event::Achievement { user, achievement, at } => {
                w.field("ev", "achievement")
                    .field("user", user)
                    .field("achievement", achievement)
                    .field("at", at);
            }
            Event::Notice { code, message } => {
                _ = w.field("ev", "notice").field("code", code).field("message", message)
            }
            Event::Error { code, message, op, lobby, retry_ms } => {
                w.field("ev", "error").field("code", code).field("message", message).field("op", op);
                w.option("lobby", lobby.as_ref()).option("retry_ms", retry_ms.as_ref());
            }
            Event::Bye { code, reason, reconnect, window_ms } => {
                w.field("ev", "bye")
                    .field("code", code)
                    .field("reason", reason)
                    .field("reconnect", reconnect);
                w.option("window_ms", window_ms.as_ref());
            }
        }
        w.finish()
    }

    /// Reads an event as a client does. `None`: an event that this release does not know.
    ///
    /// # Errors
    /// A known event with a missing or wrong field.
    pub fn read(name: &str, fields: &Fields<'_>) -> Result<Option<Event>, FieldError> {
        if fields.raw("seq").is_some() && !matches!(name, "saved" | "caught_up" | "snapshot") {
            return Ok(LobbyEvent::read(name, fields)?.map(Event::Lobby));
        }
        let event = match name {
            "welcome" => Event::Welcome {
                session: fields.need("session")?,
                user: fields.need("user")?,
                node: fields.need("node")?,
                heartbeat_ms: fields.need("heartbeat_ms")?,
                limits: fields.need("limits")?,
                now: fields.need("now")?,
            },
            "message" => Event::Message(PassingMessage {
                lobby: fields.need("lobby")?,
                kind: fields.need("kind")?,
                from: fields.get("from")?,
                at: fields.need("at")?,
                body: fields.body("body")?.ok_or(FieldError::Missing("body"))?,
            }),
            "away" => Event::Away { lobby: fields.need("lobby")?, user: fields.need("user")? },
            "back" => Event::Back { lobby: fields.need("lobby")?, user: fields.need("user")? },
            "typing" => Event::Typing { lobby: fields.need("lobby")?, user: fields.need("user")? },
            "saved" => Event::Saved { lobby: fields.need("lobby")?, seq: fields.need("seq")? },
            "caught_up" => Event::CaughtUp { lobby: fields.need("lobby")?, seq: fields.need("seq")? },
            "snapshot" => Event::Snapshot {
                lobby: fields.need("lobby")?,
                epoch: fields.need("epoch")?,
                seq: fields.need("seq")?,
                state: Box::new(read_state(fields)?.ok_or(FieldError::Missing("state"))?),
                mark: ReadMark::read(fields)?,
            },
            "read" => Event::Read {
                lobby: fields.need("lobby")?,
                user: fields.need("user")?,
                mark: ReadMark::read(fields)?.ok_or(FieldError::Missing("read"))?,
            },
            "lag" => Event::Lag { lobby: fields.need("lobby")?, dropped: fields.need("dropped")? },
            "achievement" => Event::Achievement {
                user: fields.need("user")?,
                achievement: fields.need("achievement")?,
                at: fields.need("at")?,
            },
            "notice" => {
                let code: String = fields.need("code")?;
                let Some(code) = NoticeCode::parse(&code) else { return Ok(None) };
                Event::Notice { code, message: fields.need("message")? }
            }
            "error" => {
                let Refusal { code, message, retry_ms } = Refusal::read(fields)?;
                Event::Error { code, message, op: fields.get("op")?, lobby: fields.get("lobby")?, retry_ms }
            }
            "bye" => Event::Bye {
                code: fields.need("code")?,
                reason: fields.need("reason")?,
                reconnect: fields.need("reconnect")?,
                window_ms: fields.get("window_ms")?,
            },
            _ => return Ok(None),
        };
        Ok(Some(event))
    }
}

/// The field `state` of an object, with its messages.
pub(crate) fn read_state(fields: &Fields<'_>) -> Result<Option<LobbyState>, FieldError> {
    let Some(inner) = fields.nested("state")? else { return Ok(None) };
    Ok(Some(LobbyState {
        settings: inner.need("settings")?,
        host: inner.get("host")?,
        members: inner.need("members")?,
        members_total: inner.need("members_total")?,
        game: inner.get("game")?,
        messages: read_events(&inner, "messages")?,
        retained: read_events(&inner, "retained")?,
    }))
}

/// A field that is a list of sequenced events; ones that this release does not know are left out.
pub(crate) fn read_events(fields: &Fields<'_>, name: &'static str) -> Result<Vec<LobbyEvent>, FieldError> {
    let mut events = Vec::new();
    for item in fields.list(name)? {
        let ev: String = item.need("ev")?;
        events.extend(LobbyEvent::read(&ev, &item)?);
    }
    Ok(events)
}
