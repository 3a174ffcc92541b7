//! Frames from the server that answer a command: `{"id":7,"ok":{…}}` or `{"id":7,"err":{…}}`.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use crate::code::{ErrorCode, JoinStatus};
use crate::encoding::Encoding;
use crate::event::{Event, LobbyEvent, LobbyState, ReadMark, read_events, read_state};
use crate::fields::{FieldError, Fields, NotAnObject};
use crate::ids::{Epoch, LobbyId, Millis, Seq, UserId};
use crate::lobby::Member;
use crate::writer::ObjectWriter;

/// Why a command was refused, as its sender sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Nodes of two releases say it to each other while a fleet rolls: one that this release does not know is `internal`.
    #[serde(deserialize_with = "known_code")]
    pub code: ErrorCode,
    pub message: String,
    /// Present exactly where trying the same again later can succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
}

fn known_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ErrorCode, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    Ok(ErrorCode::parse(&text).unwrap_or(ErrorCode::Internal))
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into(), retry_ms: None }
    }

    /// Reads a refusal as a client does. A code that this release does not know counts as `internal`, and stands
    /// in the message.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Refusal, FieldError> {
        let (name, text): (String, String) = (fields.need("code")?, fields.need("message")?);
        let (code, message) = match ErrorCode::parse(&name) {
            Some(code) => (code, text),
            None => (ErrorCode::Internal, format!("{name}: {text}")),
        };
        Ok(Refusal { code, message, retry_ms: fields.get("retry_ms")? })
    }

    #[must_use]
    pub fn retry_after(mut self, ms: u64) -> Self {
        self.retry_ms = Some(ms);
        self
    }
}

/// The outcome of a join, or of one lobby of a resume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    pub lobby: LobbyId,
    pub epoch: Epoch,
    pub seq: Seq,
    pub status: JoinStatus,
    /// Events that follow before `caught_up`.
    pub missed: u64,
    /// Absent when the status is `resumed`.
    pub state: Option<Box<LobbyState>>,
    /// `None`: from a server that keeps no marks.
    #[serde(default)]
    pub mark: Option<ReadMark>,
}

/// What a command that succeeded is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// `{}`
    Done,
    Joined(Joined),
    Resumed(Vec<Result<Joined, (LobbyId, Refusal)>>),
    /// A durable message's place.
    Sent {
        epoch: Epoch,
        seq: Seq,
        at: Millis,
        dup: bool,
    },
    History {
        events: Vec<LobbyEvent>,
        more: bool,
    },
    Roster {
        members: Vec<Member>,
        next: Option<String>,
    },
    /// Where a change stands in the lobby's events.
    Changed {
        seq: Seq,
        game: Option<u64>,
    },
    /// Lobbies as their owners list them.
    Found {
        lobbies: Vec<serde_json::Value>,
        next: Option<String>,
    },
    /// An invite's secret, told once.
    Invited {
        seq: Seq,
        invite: String,
    },
    /// A lobby as it is, for whoever looks at it from outside.
    Look {
        epoch: Epoch,
        seq: Seq,
        state: Box<LobbyState>,
    },
    Read(ReadMark),
    /// Whom the caller blocks.
    Blocks {
        users: Vec<UserId>,
    },
    Auth {
        expires_at: Millis,
    },
    Pong {
        now: Millis,
    },
}

impl Joined {
    fn write(&self, w: &mut ObjectWriter) {
        w.field("lobby", &self.lobby).field("epoch", &self.epoch).field("seq", &self.seq);
        w.field("status", &self.status).field("missed", &self.missed);
        if let Some(state) = &self.state {
            w.object("state", |w| state.write(w));
        }
        if let Some(mark) = self.mark {
            mark.write(w);
        }
    }

    fn read(fields: &Fields<'_>) -> Result<Joined, FieldError> {
        Ok(Joined {
            lobby: fields.need("lobby")?,
            epoch: fields.need("epoch")?,
            seq: fields.need("seq")?,
            status: fields.need("status")?,
            missed: fields.need("missed")?,
            state: read_state(fields)?.map(Box::new),
            mark: ReadMark::read(fields)?,
        })
    }
}

impl Answer {
    fn write(&self, w: &mut ObjectWriter) {
        match self {
            Answer::Done => {}
            Answer::Joined(joined) => joined.write(w),
            Answer::Resumed(lobbies) => {
                w.objects("lobbies", lobbies.iter(), |w, outcome| match outcome {
                    Ok(joined) => joined.write(w),
                    Err((lobby, refusal)) => _ = w.field("lobby", lobby).field("err", refusal),
                });
            }
            Answer::Sent { epoch, seq, at, dup } => {
                w.field("epoch", epoch).field("seq", seq).field("at", at);
                if *dup {
                    w.field("dup", &true);
                }
            }
            Answer::History { events, more } => {
                w.objects("events", events.iter(), |w, event| event.write(w)).field("more", more);
            }
            Answer::Roster { members, next } => {
                w.field("members", members).option("next", next.as_ref());
            }
            Answer::Changed { seq, game } => {
                w.field("seq", seq).option("game", game.as_ref());
            }
            Answer::Found { lobbies, next } => {
                w.field("lobbies", lobbies).option("next", next.as_ref());
            }
            Answer::Invited { seq, invite } => _ = w.field("seq", seq).field("invite", invite),
            Answer::Look { epoch, seq, state } => {
                w.field("epoch", epoch).field("seq", seq).object("state", |w| state.write(w));
            }
            Answer::Read(mark) => mark.write(w),
            Answer::Blocks { users } => _ = w.field("users", users),
            Answer::Auth { expires_at } => _ = w.field("expires_at", expires_at),
            Answer::Pong { now } => _ = w.field("now", now),
        }
    }

    /// Reads the `ok` of an operation as a client does, who knows what it asked for.
    ///
    /// # Errors
    /// A missing or wrong field.
    pub fn read(op: &str, ok: &Fields<'_>) -> Result<Answer, FieldError> {
        Ok(match op {
            "find" if ok.raw("lobbies").is_some() => {
                Answer::Found { lobbies: ok.need("lobbies")?, next: ok.get("next")? }
            }
            "find" | "join" => Answer::Joined(Joined::read(ok)?),
            "resume" => {
                let mut outcomes = Vec::new();
                for item in ok.list("lobbies")? {
                    outcomes.push(match item.nested("err")? {
                        Some(err) => Err((item.need("lobby")?, Refusal::read(&err)?)),
                        None => Ok(Joined::read(&item)?),
                    });
                }
                Answer::Resumed(outcomes)
            }
            "send" if ok.raw("seq").is_some() => Answer::Sent {
                epoch: ok.need("epoch")?,
                seq: ok.need("seq")?,
                at: ok.need("at")?,
                dup: ok.get("dup")?.unwrap_or(false),
            },
            "history" => Answer::History { events: read_events(ok, "events")?, more: ok.need("more")? },
            "roster" => Answer::Roster { members: ok.need("members")?, next: ok.get("next")? },
            "invite" => Answer::Invited { seq: ok.need("seq")?, invite: ok.need("invite")? },
            "look" => Answer::Look {
                epoch: ok.need("epoch")?,
                seq: ok.need("seq")?,
                state: Box::new(read_state(ok)?.ok_or(FieldError::Missing("state"))?),
            },
            "auth" => Answer::Auth { expires_at: ok.need("expires_at")? },
            "ping" => Answer::Pong { now: ok.need("now")? },
            "read" => Answer::Read(ReadMark::read(ok)?.ok_or(FieldError::Missing("read"))?),
            "block" | "unblock" | "blocked" => Answer::Blocks { users: ok.need("users")? },
            "leave" | "typing" | "send" | "report_message" => Answer::Done,
            _ => Answer::Changed { seq: ok.need("seq")?, game: ok.get("game")? },
        })
    }
}

/// The payload of a reply.
#[must_use]
pub fn encode_reply(id: u32, outcome: &Result<Answer, Refusal>, encoding: Encoding) -> Vec<u8> {
    let mut w = ObjectWriter::new(encoding);
    w.field("id", &id);
    match outcome {
        Ok(answer) => w.object("ok", |w| answer.write(w)),
        Err(refusal) => w.field("err", refusal),
    };
    w.finish()
}

/// A frame from the server, as a client reads it.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerFrame {
    Reply {
        id: u32,
        outcome: Result<Answer, Refusal>,
    },
    Event(Event),
    /// An event that this release does not know; a client ignores it.
    Unknown,
}

/// The server sent something that is no frame of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerFrameError {
    #[error(transparent)]
    NotAnObject(#[from] NotAnObject),
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("a reply to {0}, which was not asked")]
    NotAsked(u32),
}

impl ServerFrame {
    /// Reads a frame; `op_of` says which operation an id belongs to.
    ///
    /// # Errors
    /// The frame is not one of the protocol.
    pub fn decode(
        encoding: Encoding,
        frame: &[u8],
        op_of: impl FnOnce(u32) -> Option<&'static str>,
    ) -> Result<ServerFrame, ServerFrameError> {
        let fields = Fields::parse(encoding, frame)?;
        if let Some(name) = fields.get::<String>("ev")? {
            return Ok(Event::read(&name, &fields)?.map_or(ServerFrame::Unknown, ServerFrame::Event));
        }
        let id = fields.need("id")?;
        if let Some(err) = fields.nested("err")? {
            return Ok(ServerFrame::Reply { id, outcome: Err(Refusal::read(&err)?) });
        }
        let ok = fields.nested("ok")?.ok_or(FieldError::Missing("ok"))?;
        let op = op_of(id).ok_or(ServerFrameError::NotAsked(id))?;
        Ok(ServerFrame::Reply { id, outcome: Ok(Answer::read(op, &ok)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_a_newer_release_is_read_as_internal() {
        let newer = r#"{"code":"eclipse","message":"too dark","retry_ms":5}"#;
        let read: Refusal = serde_json::from_str(newer).unwrap();
        assert_eq!(read, Refusal::new(ErrorCode::Internal, "too dark").retry_after(5));
        assert!(serde_json::from_str::<Refusal>(r#"{"code":7,"message":"m"}"#).is_err());
    }
}
