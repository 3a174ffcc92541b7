//! Reads a client's frame into a command: one `match` over the operations, and a function for each that holds more
//! than a field or two. Sessions call it, and a node's seam for what came by REST. It refuses what no lobby could carry
//! out, and knows nothing of who asks.

use serde_json::{Map, Value};

use super::{
    Command, Create, Find, HISTORY_LIMIT_MAX, History, Invite, Join, KEY_BYTES_MAX, LobbyCommand, Lock,
    Moderate, Moderation, OPERATIONS, Position, RECIPIENTS_MAX, Recipients, Request, ResumePoint, Send,
    Update,
};
use crate::body::Body;
use crate::code::{Class, ErrorCode, MemberRole};
use crate::encoding::Encoding;
use crate::fields::{FIELDS_MAX, FieldError, Fields};
use crate::ids::{Epoch, Kind, LobbyId, Seq};
use crate::lobby::{PASSWORD_BYTES_MAX, Settings};

/// Longest text of a refusal, in characters: it may quote the field, and a field may be as long as a frame.
const MESSAGE_CHARS_MAX: usize = 200;

/// Why a frame is no command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// Not one object with a text `op`: the session ends with 4501.
    Protocol,
    /// A command that cannot be carried out; the session goes on.
    Refused { id: Option<u32>, op: String, lobby: Option<LobbyId>, code: ErrorCode, message: String },
}

/// A refusal while the fields of one command are read.
struct Refusal(ErrorCode, String);

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Refusal(ErrorCode::BadRequest, error.to_string())
    }
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal(ErrorCode::BadRequest, message.into())
}

impl Request {
    /// Reads one frame from a client.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(encoding: Encoding, frame: &[u8]) -> Result<Request, DecodeError> {
        Self::decode_with(encoding, frame, read_command)
    }

    /// Like [`Request::decode`], for the service's own processes, which may say more than a client.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode_internal(encoding: Encoding, frame: &[u8]) -> Result<Request, DecodeError> {
        Self::decode_with(encoding, frame, |op, fields| match op {
            "look" => Ok(Command::Lobby(fields.need("lobby")?, LobbyCommand::Look)),
            "create" => {
                let (settings, lock) =
                    read_settings("settings", fields.value("settings")?)?.unwrap_or_default();
                Ok(Command::Lobby(fields.need("lobby")?, LobbyCommand::Create(Create { settings, lock })))
            }
            "forget" => {
                let (user, alias) = (fields.need("user")?, fields.need("alias")?);
                Ok(Command::Lobby(fields.need("lobby")?, LobbyCommand::Forget { user, alias }))
            }
            _ => read_command(op, fields),
        })
    }

    fn decode_with(
        encoding: Encoding,
        frame: &[u8],
        read_command: impl FnOnce(&str, &Fields<'_>) -> Result<Command, Refusal>,
    ) -> Result<Request, DecodeError> {
        let fields = Fields::parse_any(encoding, frame).map_err(|_| DecodeError::Protocol)?;
        let op: String = fields.need("op").map_err(|_| DecodeError::Protocol)?;
        let id = fields.get::<u32>("id");
        let known_id = id.as_ref().ok().copied().flatten();
        let read = || -> Result<Request, Refusal> {
            if fields.has_too_many() {
                return Err(bad(format!("a command has at most {FIELDS_MAX} fields")));
            }
            Ok(Request { id: id?, nonce: fields.get("nonce")?, command: read_command(&op, &fields)? })
        };
        read().map_err(|Refusal(code, message)| DecodeError::Refused {
            id: known_id,
            lobby: fields.get("lobby").ok().flatten(),
            op: op.chars().take(32).collect(),
            code,
            message: message.chars().take(MESSAGE_CHARS_MAX).collect(),
        })
    }
}

fn read_command(op: &str, fields: &Fields<'_>) -> Result<Command, Refusal> {
    let unknown = || {
        let shown: String = op.chars().take(32).collect();
        Refusal(ErrorCode::UnknownOp, format!("there is no operation `{shown}`"))
    };
    if !OPERATIONS.contains(&op) {
        return Err(unknown());
    }
    let command = match op {
        "resume" => return read_resume(fields),
        "auth" => return Ok(Command::Auth { token: fields.need("token")? }),
        "ping" => return Ok(Command::Ping),
        "find" => return read_find(fields),
        "block" => return Ok(Command::Block { user: fields.need("user")? }),
        "unblock" => return Ok(Command::Unblock { user: fields.need("user")? }),
        "blocked" => return Ok(Command::Blocked),
        "join" => read_join(fields)?,
        "leave" => LobbyCommand::Leave,
        "send" => LobbyCommand::Send(read_send(fields)?),
        "typing" => LobbyCommand::Typing,
        "history" => read_history(fields)?,
        "roster" => LobbyCommand::Roster { cursor: fields.get("cursor")?, limit: fields.get("limit")? },
        "update" => read_update(fields)?,
        "invite" => LobbyCommand::Invite(Invite {
            secret: String::new(),
            uses: fields.get("uses")?,
            for_s: fields.get("for_s")?,
        }),
        "close" => LobbyCommand::Close,
        "ready" => LobbyCommand::Ready { ready: fields.need("ready")? },
        "start" => LobbyCommand::Start,
        "report" => LobbyCommand::Report {
            stat: fields.need("stat")?,
            amount: fields.need("amount")?,
            user: fields.get("user")?,
        },
        "finish" => LobbyCommand::Finish { results: fields.body("results")? },
        "kick" => read_moderate(Moderation::Kick, fields)?,
        "ban" => read_moderate(Moderation::Ban, fields)?,
        "unban" => read_moderate(Moderation::Unban, fields)?,
        "mute" => read_moderate(Moderation::Mute, fields)?,
        "unmute" => read_moderate(Moderation::Unmute, fields)?,
        "transfer" => read_moderate(Moderation::Transfer, fields)?,
        "role" => read_moderate(Moderation::Role(fields.need("role")?), fields)?,
        "edit" => LobbyCommand::Edit { seq: fields.need("seq")?, body: need_body(fields)? },
        "delete" => LobbyCommand::Delete { seq: fields.need("seq")? },
        "react" => LobbyCommand::React { seq: fields.need("seq")?, emoji: fields.need("emoji")? },
        "read" => LobbyCommand::Read { seq: fields.need("seq")? },
        "report_message" => {
            LobbyCommand::ReportMessage { seq: fields.need("seq")?, reason: fields.get("reason")? }
        }
        _ => return Err(unknown()),
    };
    Ok(Command::Lobby(fields.need("lobby")?, command))
}

fn need_body(fields: &Fields<'_>) -> Result<Body, Refusal> {
    Ok(fields.body("body")?.ok_or(FieldError::Missing("body"))?)
}

/// Each entry for itself, as long as it says which lobby it is about.
fn read_resume(fields: &Fields<'_>) -> Result<Command, Refusal> {
    if !fields.has("lobbies") {
        return Err(FieldError::Missing("lobbies").into());
    }
    let read = |item: &Fields<'_>| -> Result<Result<ResumePoint, (LobbyId, String)>, FieldError> {
        let lobby: LobbyId = item.need("lobby")?;
        let point = || {
            Ok(ResumePoint {
                lobby: lobby.clone(),
                epoch: item.need("epoch")?,
                seq: item.need("seq")?,
                saved: item.get("saved")?.unwrap_or(false),
                password: item.get("password")?,
                invite: item.get("invite")?,
                role: item.get("role")?,
            })
        };
        Ok(match point() {
            Ok(point) if matches!(point.role, Some(MemberRole::Host | MemberRole::Moderator)) => {
                Err((lobby, ROLE_OF_JOIN.to_owned()))
            }
            Ok(point) => Ok(point),
            Err::<_, FieldError>(why) => {
                Err((lobby, why.to_string().chars().take(MESSAGE_CHARS_MAX).collect()))
            }
        })
    };
    let points: Vec<_> = fields.list("lobbies")?.iter().map(read).collect::<Result<_, _>>()?;
    Ok(match points.iter().cloned().collect::<Result<Vec<_>, _>>() {
        Ok(points) => Command::Resume(points),
        Err(_) => Command::ResumePartly(points),
    })
}

fn read_find(fields: &Fields<'_>) -> Result<Command, Refusal> {
    Ok(Command::Find(Find {
        filter: fields.map("filter")?,
        cursor: fields.get("cursor")?,
        limit: fields.get("limit")?,
        quick: fields.value("quick")?,
    }))
}

fn read_lock(password: Value) -> Result<Lock, Refusal> {
    match password {
        Value::Null => Ok(Lock::Remove),
        Value::String(text) if (1..=PASSWORD_BYTES_MAX).contains(&text.len()) => Ok(Lock::Password(text)),
        _ => Err(bad(format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes"))),
    }
}

fn read_update(fields: &Fields<'_>) -> Result<LobbyCommand, Refusal> {
    let mut settings = fields.map("settings")?;
    let password = settings.as_mut().and_then(|settings| settings.remove("password"));
    let lock = password.map(read_lock).transpose()?;
    Ok(LobbyCommand::Update(Update { settings, lock, attributes: fields.map("attributes")? }))
}

/// `true`, or an object of settings with a password.
fn read_settings(
    name: &'static str,
    value: Option<Value>,
) -> Result<Option<(Settings, Option<Lock>)>, Refusal> {
    let mut value = match value {
        None | Some(Value::Bool(false)) => return Ok(None),
        Some(Value::Bool(true)) => Value::Object(Map::new()),
        Some(value) => value,
    };
    let password = value.as_object_mut().and_then(|settings| settings.remove("password"));
    let lock = password.map(read_lock).transpose()?.filter(|lock| *lock != Lock::Remove);
    let settings =
        Settings::from_command(value).map_err(|error| bad(format!("`{name}` is not valid: {error}")))?;
    Ok(Some((settings, lock)))
}

const ROLE_OF_JOIN: &str = "`role` must be player or spectator";

fn read_join(fields: &Fields<'_>) -> Result<LobbyCommand, Refusal> {
    let (create, lock) = match read_settings("create", fields.value("create")?)? {
        Some((settings, lock)) => (Some(settings), lock),
        None => (None, None),
    };
    let role = fields.get("role")?;
    if matches!(role, Some(MemberRole::Host | MemberRole::Moderator)) {
        return Err(bad(ROLE_OF_JOIN));
    }
    Ok(LobbyCommand::Join(Join {
        create,
        lock,
        saved: fields.get("saved")?.unwrap_or(false),
        since: read_since(fields),
        password: fields.get("password")?,
        invite: fields.get("invite")?,
        role,
        resumed: false,
        again: false,
        opened: None,
        create_later_ms: None,
    }))
}

/// A position that cannot be read is a position that nobody has: a snapshot, never an error.
fn read_since(fields: &Fields<'_>) -> Option<Position> {
    let read = |since: Fields<'_>| Ok(Position { epoch: since.need("epoch")?, seq: since.need("seq")? });
    let position = fields.nested("since").and_then(|since| since.map(read).transpose());
    position.unwrap_or(Some(Position { epoch: Epoch(u64::MAX), seq: Seq(u64::MAX) }))
}

fn read_history(fields: &Fields<'_>) -> Result<LobbyCommand, Refusal> {
    let history = History {
        before: fields.get("before")?,
        after: fields.get("after")?,
        limit: fields.get("limit")?.unwrap_or(50),
    };
    if history.before.is_some() && history.after.is_some() {
        return Err(bad("`before` and `after` exclude each other"));
    }
    if history.limit == 0 || history.limit > HISTORY_LIMIT_MAX {
        return Err(bad(format!("`limit` must be 1 to {HISTORY_LIMIT_MAX}")));
    }
    Ok(LobbyCommand::History(history))
}

fn read_send(fields: &Fields<'_>) -> Result<Send, Refusal> {
    let kind: Kind = fields.need("kind")?;
    let to = match fields.get::<Value>("to")? {
        None => Recipients::Everyone,
        Some(Value::String(word)) if word == "host" => Recipients::Host,
        Some(Value::String(word)) if word == "others" => Recipients::Others,
        Some(Value::Array(users)) if !users.is_empty() && users.len() <= RECIPIENTS_MAX => Recipients::Users(
            serde_json::from_value(Value::Array(users))
                .map_err(|_| bad("`to` holds something that is no user id"))?,
        ),
        Some(_) => {
            return Err(bad(format!("`to` must be \"host\", \"others\", or 1 to {RECIPIENTS_MAX} user ids")));
        }
    };
    let everyone = to == Recipients::Everyone;
    let retain = fields.get("retain")?.unwrap_or(false);
    if retain && !everyone {
        return Err(bad("a message with `to` cannot be retained"));
    }
    let default = if (kind.is_chat() && everyone) || retain { Class::Durable } else { Class::Ordered };
    let class = fields.get("class")?.unwrap_or(default);
    if class == Class::Durable && !everyone {
        return Err(bad("a message with `to` cannot be durable"));
    }
    let key: Option<String> = fields.get("key")?;
    if retain && (class != Class::Durable || key.is_none()) {
        return Err(bad("what is retained is durable, and has a `key`"));
    }
    match &key {
        Some(_) if class != Class::Ephemeral && !retain => {
            return Err(bad("`key` goes with class ephemeral, or with `retain`"));
        }
        Some(key) if key.is_empty() || key.len() > KEY_BYTES_MAX => {
            return Err(bad(format!("`key` must have 1 to {KEY_BYTES_MAX} bytes")));
        }
        _ => {}
    }
    let body = need_body(fields)?;
    if kind.is_chat() && body.as_text().is_none() {
        return Err(bad("the body of a chat must be a string"));
    }
    Ok(Send { kind, body, class, key, to })
}

fn read_moderate(action: Moderation, fields: &Fields<'_>) -> Result<LobbyCommand, Refusal> {
    Ok(LobbyCommand::Moderate(Moderate {
        action,
        user: fields.need("user")?,
        for_s: fields.get("for_s")?,
        reason: fields.get("reason")?,
    }))
}
