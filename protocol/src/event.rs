//! Frames from the server that answer nothing: events. A session writes them, a client reads them; what a lobby's
//! sequenced events say, which the journal keeps too, is in `event/`.

mod change;
mod lobby;
mod state;

use serde::{Deserialize, Serialize};

pub use self::change::Change;
pub use self::lobby::LobbyEvent;
pub(crate) use self::lobby::read_events;
pub(crate) use self::state::read_state;
pub use self::state::{LobbyState, ReadMark, STATE_MEMBERS_MAX, STATE_MESSAGES_MAX, UNREAD_MAX};
use crate::body::Body;
use crate::code::{ErrorCode, NoticeCode, Reconnect};
use crate::encoding::Encoding;
use crate::fields::{FieldError, Fields};
use crate::ids::{Epoch, Kind, LobbyId, Millis, NodeName, Seq, SessionId, UserId};
use crate::limits::Limits;
use crate::reply::Refusal;
use crate::writer::ObjectWriter;

/// An unsequenced message on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassingMessage {
    pub lobby: LobbyId,
    pub kind: Kind,
    pub from: Option<UserId>,
    pub at: Millis,
    pub body: Body,
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
