//! Frames from the client: `{"id": 7, "op": "send", …}`. The commands themselves; `command/` has what is for a lobby's
//! owner, and how frames are read and written.

mod decode;
mod encode;
mod lobby;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::decode::DecodeError;
pub use self::lobby::{
    Create, History, Invite, Join, LobbyCommand, Lock, Moderate, Moderation, Recipients, Send, Update,
};
use crate::code::MemberRole;
use crate::ids::{Epoch, LobbyId, Nonce, Seq, UserId};

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

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Find {
    pub filter: Option<Map<String, Value>>,
    pub cursor: Option<String>,
    pub limit: Option<u32>,
    pub quick: Option<Value>,
}
