//! Frames from the client: `{"id": 7, "op": "send", …}`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::body::Body;
use crate::code::{Class, ErrorCode, MemberRole};
use crate::encoding::Encoding;
use crate::fields::{FIELDS_MAX, FieldError, Fields};
use crate::ids::{Epoch, Kind, LobbyId, Nonce, Seq, UserId};
use crate::lobby::{PASSWORD_BYTES_MAX, Settings};
use crate::writer::ObjectWriter;

/// Most recipients one message may name.
pub const RECIPIENTS_MAX: usize = 100;
/// Most events one `history` answers.
pub const HISTORY_LIMIT_MAX: u32 = 200;
/// Most members one `roster` answers, and the number without a `limit`.
pub const ROSTER_LIMIT_MAX: u32 = 100;
/// Largest `latest-wins` key of an ephemeral message, in bytes.
pub const KEY_BYTES_MAX: usize = 64;

/// Every operation that a client can ask for. One that does not stand here does not exist.
pub const OPERATIONS: &[&str] = &[
    "auth",
    "ban",
    "block",
    "blocked",
    "close",
    "delete",
    "edit",
    "find",
    "finish",
    "history",
    "invite",
    "join",
    "kick",
    "leave",
    "mute",
    "ping",
    "react",
    "read",
    "ready",
    "report",
    "report_message",
    "resume",
    "role",
    "roster",
    "send",
    "start",
    "transfer",
    "typing",
    "unban",
    "unblock",
    "unmute",
    "update",
];

/// A command with the client's own number.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// With it, exactly one reply follows.
    pub id: Option<u32>,
    /// The client's key of a state-changing command, by which a repeat is recognised.
    pub nonce: Option<Nonce>,
    pub command: Command,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    Resume(Vec<ResumePoint>),
    /// A resume some of whose positions cannot be read: those lobbies are told so, the others resume.
    ResumePartly(Vec<Result<ResumePoint, (LobbyId, String)>>),
    Auth {
        token: String,
    },
    Ping,
    Find(Find),
    /// From now on nothing that this user says reaches the caller, in any lobby.
    Block {
        user: UserId,
    },
    Unblock {
        user: UserId,
    },
    /// Whom the caller blocks.
    Blocked,
    /// A command for one lobby's owner.
    Lobby(LobbyId, LobbyCommand),
}

/// What a lobby's owner is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum LobbyCommand {
    Join(Join),
    Leave,
    Send(Send),
    Typing,
    History(History),
    Roster {
        cursor: Option<String>,
        limit: Option<u32>,
    },
    Update(Update),
    /// Makes an invite. The secret is made where the command comes in, not by the client.
    Invite(Invite),
    /// What the lobby is like, without entering it.
    Look,
    /// Creates a lobby without entering it.
    Create(Create),
    Close,
    Ready {
        ready: bool,
    },
    Start,
    Report {
        stat: String,
        amount: i64,
        user: Option<UserId>,
    },
    Finish {
        results: Option<Body>,
    },
    Moderate(Moderate),
    Edit {
        seq: Seq,
        body: Body,
    },
    Delete {
        seq: Seq,
    },
    React {
        seq: Seq,
        emoji: String,
    },
    /// Everything up to `seq` has been read, on whichever of the user's devices.
    Read {
        seq: Seq,
    },
    /// Brings a message to the notice of those who moderate the service.
    ReportMessage {
        seq: Seq,
        reason: Option<String>,
    },
}

/// A position in a lobby's events: everything up to `seq` is known to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub epoch: Epoch,
    pub seq: Seq,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumePoint {
    pub lobby: LobbyId,
    pub epoch: Epoch,
    pub seq: Seq,
    /// From here on as a join has it, for when the grace is over. Wants `saved` events.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub saved: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<MemberRole>,
}

impl ResumePoint {
    pub fn new(lobby: LobbyId, epoch: Epoch, seq: Seq) -> Self {
        ResumePoint { lobby, epoch, seq, saved: false, password: None, invite: None, role: None }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// Creates the lobby with these settings if it does not exist.
    pub create: Option<Settings>,
    /// The new lobby's password.
    #[serde(default)]
    pub lock: Option<Lock>,
    /// Wants `saved` events.
    pub saved: bool,
    pub since: Option<Position>,
    pub password: Option<String>,
    pub invite: Option<String>,
    /// `player` or `spectator`.
    pub role: Option<MemberRole>,
    /// Not asked for by a `join`: a `resume`, or a node that brings its sessions back. Never on a client's wire.
    #[serde(default)]
    pub resumed: bool,
    /// It was carried out already, and is asked for its snapshot once more: it begins no membership. From the session's
    /// node, never on a client's wire.
    #[serde(default)]
    pub again: bool,
    /// The lobby's lock that `password` was found to open. Set by the owner alone.
    #[serde(default)]
    pub opened: Option<String>,
    /// The user has created too many lobbies lately, and may again in so many milliseconds. From the session's node,
    /// which counts them; never on a client's wire.
    #[serde(default)]
    pub create_later_ms: Option<u64>,
}

/// What becomes of a lobby's lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lock {
    Remove,
    /// As a client gives it; it does not leave the process that the client is connected to.
    Password(String),
    /// As it is kept.
    Hash(String),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// Those that change; null stands for the default.
    pub settings: Option<Map<String, Value>>,
    pub lock: Option<Lock>,
    /// The caller's own; null takes one away.
    pub attributes: Option<Map<String, Value>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Invite {
    pub secret: String,
    /// How often it lets somebody in; left out: as often as it likes.
    pub uses: Option<u32>,
    pub for_s: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Create {
    pub settings: Settings,
    pub lock: Option<Lock>,
}

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recipients {
    Everyone,
    Host,
    /// Everyone but the sender.
    Others,
    Users(Vec<UserId>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Send {
    pub kind: Kind,
    pub body: Body,
    /// As asked for, or the default for kind and recipients.
    pub class: Class,
    /// Latest wins: of an ephemeral message with a key only the newest waits; the newest durable one is retained.
    pub key: Option<String>,
    pub to: Recipients,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    pub before: Option<Seq>,
    pub after: Option<Seq>,
    pub limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moderation {
    Kick,
    Ban,
    Unban,
    Mute,
    Unmute,
    Transfer,
    Role(MemberRole),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moderate {
    pub action: Moderation,
    pub user: UserId,
    pub for_s: Option<u64>,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Find {
    pub filter: Option<Map<String, Value>>,
    pub cursor: Option<String>,
    pub limit: Option<u32>,
    pub quick: Option<Value>,
}

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

    /// Writes the frame as a client does.
    #[must_use]
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        let mut w = ObjectWriter::new(encoding);
        w.option("id", self.id.as_ref());
        w.field("op", self.command.op());
        w.option("nonce", self.nonce.as_ref());
        write_command(&self.command, &mut w);
        w.finish()
    }
}

impl Command {
    /// The operation's name.
    #[must_use]
    pub fn op(&self) -> &'static str {
        match self {
            Command::Resume(_) | Command::ResumePartly(_) => "resume",
            Command::Auth { .. } => "auth",
            Command::Ping => "ping",
            Command::Find(_) => "find",
            Command::Block { .. } => "block",
            Command::Unblock { .. } => "unblock",
            Command::Blocked => "blocked",
            Command::Lobby(_, command) => command.op(),
        }
    }
}

impl LobbyCommand {
    /// The operation's name.
    #[must_use]
    pub fn op(&self) -> &'static str {
        match self {
            LobbyCommand::Join(_) => "join",
            LobbyCommand::Leave => "leave",
            LobbyCommand::Send(_) => "send",
            LobbyCommand::Typing => "typing",
            LobbyCommand::History(_) => "history",
            LobbyCommand::Roster { .. } => "roster",
            LobbyCommand::Update(_) => "update",
            LobbyCommand::Invite(_) => "invite",
            LobbyCommand::Look => "look",
            LobbyCommand::Create(_) => "create",
            LobbyCommand::Close => "close",
            LobbyCommand::Ready { .. } => "ready",
            LobbyCommand::Start => "start",
            LobbyCommand::Report { .. } => "report",
            LobbyCommand::Finish { .. } => "finish",
            LobbyCommand::Moderate(moderate) => match moderate.action {
                Moderation::Kick => "kick",
                Moderation::Ban => "ban",
                Moderation::Unban => "unban",
                Moderation::Mute => "mute",
                Moderation::Unmute => "unmute",
                Moderation::Transfer => "transfer",
                Moderation::Role(_) => "role",
            },
            LobbyCommand::Edit { .. } => "edit",
            LobbyCommand::Delete { .. } => "delete",
            LobbyCommand::React { .. } => "react",
            LobbyCommand::Read { .. } => "read",
            LobbyCommand::ReportMessage { .. } => "report_message",
        }
    }

    /// Whether the command may add events to the lobby.
    #[must_use]
    pub fn changes_state(&self) -> bool {
        match self {
            LobbyCommand::Send(send) => send.class == Class::Durable,
            LobbyCommand::Typing
            | LobbyCommand::History(_)
            | LobbyCommand::Roster { .. }
            | LobbyCommand::Read { .. }
            | LobbyCommand::ReportMessage { .. }
            | LobbyCommand::Look => false,
            _ => true,
        }
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

fn write_command(command: &Command, w: &mut ObjectWriter) {
    let (lobby, command) = match command {
        Command::Resume(points) => {
            w.field("lobbies", points);
            return;
        }
        Command::ResumePartly(points) => {
            w.field("lobbies", &points.iter().flatten().collect::<Vec<_>>());
            return;
        }
        Command::Auth { token } => {
            w.field("token", token);
            return;
        }
        Command::Ping | Command::Blocked => return,
        Command::Block { user } | Command::Unblock { user } => {
            w.field("user", user);
            return;
        }
        Command::Find(find) => {
            w.option("filter", find.filter.as_ref()).option("cursor", find.cursor.as_ref());
            w.option("limit", find.limit.as_ref()).option("quick", find.quick.as_ref());
            return;
        }
        Command::Lobby(lobby, command) => (lobby, command),
    };
    w.field("lobby", lobby);
    match command {
        LobbyCommand::Join(join) => {
            w.option(
                "create",
                join.create.as_ref().map(|create| with_password(create, join.lock.as_ref())).as_ref(),
            );
            if join.saved {
                w.field("saved", &true);
            }
            w.option("since", join.since.as_ref()).option("password", join.password.as_ref());
            w.option("invite", join.invite.as_ref()).option("role", join.role.as_ref());
        }
        LobbyCommand::Send(send) => write_send(send, w),
        LobbyCommand::History(history) => {
            w.option("before", history.before.as_ref()).option("after", history.after.as_ref());
            w.field("limit", &history.limit);
        }
        LobbyCommand::Roster { cursor, limit } => {
            w.option("cursor", cursor.as_ref()).option("limit", limit.as_ref());
        }
        LobbyCommand::Update(update) => {
            let mut settings = update.settings.clone();
            match &update.lock {
                Some(Lock::Password(password)) => {
                    let settings = settings.get_or_insert_default();
                    settings.insert("password".to_owned(), Value::String(password.clone()));
                }
                Some(Lock::Remove) => {
                    settings.get_or_insert_default().insert("password".to_owned(), Value::Null);
                }
                Some(Lock::Hash(_)) | None => {}
            }
            w.option("settings", settings.as_ref()).option("attributes", update.attributes.as_ref());
        }
        LobbyCommand::Invite(invite) => {
            w.option("uses", invite.uses.as_ref()).option("for_s", invite.for_s.as_ref());
        }
        LobbyCommand::Create(create) => {
            w.field("settings", &with_password(&create.settings, create.lock.as_ref()));
        }
        LobbyCommand::Ready { ready } => {
            w.field("ready", ready);
        }
        LobbyCommand::Report { stat, amount, user } => {
            w.field("stat", stat).field("amount", amount).option("user", user.as_ref());
        }
        LobbyCommand::Finish { results } => {
            if let Some(results) = results {
                w.body("results", results);
            }
        }
        LobbyCommand::Moderate(moderate) => {
            w.field("user", &moderate.user).option("for_s", moderate.for_s.as_ref());
            w.option("reason", moderate.reason.as_ref());
            if let Moderation::Role(role) = moderate.action {
                w.field("role", &role);
            }
        }
        LobbyCommand::Edit { seq, body } => {
            w.field("seq", seq).body("body", body);
        }
        LobbyCommand::Delete { seq } => {
            w.field("seq", seq);
        }
        LobbyCommand::React { seq, emoji } => {
            w.field("seq", seq).field("emoji", emoji);
        }
        LobbyCommand::Read { seq } => {
            w.field("seq", seq);
        }
        LobbyCommand::ReportMessage { seq, reason } => {
            w.field("seq", seq).option("reason", reason.as_ref());
        }
        LobbyCommand::Leave
        | LobbyCommand::Typing
        | LobbyCommand::Close
        | LobbyCommand::Start
        | LobbyCommand::Look => {}
    }
}

/// Settings as a client writes them: it does not say that there is a lock, but gives the password.
fn with_password(settings: &Settings, lock: Option<&Lock>) -> Value {
    let mut value = serde_json::to_value(settings).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.remove("locked");
        if let Some(Lock::Password(password)) = lock {
            fields.insert("password".to_owned(), Value::String(password.clone()));
        }
    }
    value
}

fn write_send(send: &Send, w: &mut ObjectWriter) {
    w.field("kind", &send.kind).body("body", &send.body).field("class", &send.class);
    w.option("key", send.key.as_ref());
    if send.key.is_some() && send.class == Class::Durable {
        w.field("retain", &true);
    }
    match &send.to {
        Recipients::Everyone => {}
        Recipients::Host => _ = w.field("to", "host"),
        Recipients::Others => _ = w.field("to", "others"),
        Recipients::Users(users) => _ = w.field("to", users),
    }
}
