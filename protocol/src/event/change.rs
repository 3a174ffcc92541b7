//! What a lobby's sequenced event says: a variant each, with its name on the wire. The lobby's rules make them and
//! apply them; `event/lobby.rs` beside this file writes and reads them. The enum is what the journal keeps, so that a
//! variant or a field is never taken away or renamed.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::body::Body;
use crate::code::MemberRole;
use crate::ids::{Kind, Millis, Nonce, Seq, UserId};
use crate::lobby::Settings;

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
        /// Boxed: no other event is as large, and thousands of small ones are kept.
        settings: Option<Box<Settings>>,
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
