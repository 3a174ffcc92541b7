//! What a lobby's owner is asked to do, and what each such command holds. Sessions and REST make them, nodes hand them
//! on to each other, the lobby's rules carry them out. Some fields are the service's own, and never on a client's wire.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Position;
use crate::body::Body;
use crate::code::{Class, MemberRole};
use crate::ids::{Kind, Seq, UserId};
use crate::lobby::Settings;

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
    /// Whatever the lobby holds of a user is from now on about `alias`, who said nothing. From the service alone.
    Forget {
        user: UserId,
        alias: UserId,
    },
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
            LobbyCommand::Forget { .. } => "forget",
        }
    }

    /// Whether the command may add events to the lobby, and only once: a repeat is recognised. To forget again is to
    /// forget.
    #[must_use]
    pub fn changes_state(&self) -> bool {
        match self {
            LobbyCommand::Send(send) => send.class == Class::Durable,
            LobbyCommand::Typing
            | LobbyCommand::History(_)
            | LobbyCommand::Roster { .. }
            | LobbyCommand::Read { .. }
            | LobbyCommand::ReportMessage { .. }
            | LobbyCommand::Forget { .. }
            | LobbyCommand::Look => false,
            _ => true,
        }
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
