//! Error codes, close codes and notices of protocol version 1.

use std::borrow::Cow;
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The text on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The code of this text, if there is one.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some($name::$variant),)* _ => None }
            }
        }

        // By hand: derived code would also take a variant's index, or a map with the variant as its key.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                $name::parse(&text).ok_or_else(|| D::Error::unknown_variant(&text, &[$($text,)*]))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

codes! {
    /// Why a command was refused (`err.code`).
    ErrorCode {
        BadRequest = "bad_request",
        UnknownOp = "unknown_op",
        TooLarge = "too_large",
        Unauthorized = "unauthorized",
        TokenExpired = "token_expired",
        Forbidden = "forbidden",
        NotFound = "not_found",
        NotMember = "not_member",
        LobbyFull = "lobby_full",
        LobbyClosed = "lobby_closed",
        WrongPassword = "wrong_password",
        Banned = "banned",
        Muted = "muted",
        SlowMode = "slow_mode",
        /// The word filter refused the text.
        Rejected = "rejected",
        Conflict = "conflict",
        RateLimited = "rate_limited",
        OwnerUnavailable = "owner_unavailable",
        Overloaded = "overloaded",
        /// The journal is out of reach.
        Degraded = "degraded",
        /// No lobby is created for a while.
        Maintenance = "maintenance",
        Timeout = "timeout",
        Internal = "internal",
    }
}

codes! {
    /// What the service tells everybody about itself.
    NoticeCode {
        Degraded = "degraded",
        Recovered = "recovered",
        Maintenance = "maintenance",
    }
}

codes! {
    /// When a client should come back after a `bye`.
    Reconnect {
        Now = "now",
        /// At a random point inside `window_ms`.
        Window = "window",
        Never = "never",
    }
}

codes! {
    /// How a message is treated on its way.
    Class {
        /// Journaled before its ok; has a seq; in the history; replayed.
        Durable = "durable",
        /// In the owner's order to everyone connected; no seq.
        Ordered = "ordered",
        /// May be dropped under back-pressure.
        Ephemeral = "ephemeral",
    }
}

codes! {
    /// How a join or resume came out.
    JoinStatus {
        Joined = "joined",
        Resumed = "resumed",
        Snapshot = "snapshot",
    }
}

codes! {
    /// What a member may do in a lobby.
    MemberRole {
        Host = "host",
        Moderator = "moderator",
        Player = "player",
        Spectator = "spectator",
    }
}

codes! {
    /// What a token's bearer may do everywhere.
    Role {
        Admin = "admin",
        Moderator = "moderator",
        Server = "server",
    }
}

/// Why the service closes a session. 4000–4499: reconnect and resume; 4500–4999: do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    Draining = 4000,
    Rebalance = 4001,
    SlowConsumer = 4002,
    NoPong = 4003,
    Internal = 4004,
    TokenExpired = 4005,
    Overloaded = 4006,
    Flood = 4008,
    BadToken = 4500,
    ProtocolError = 4501,
    UnsupportedSubprotocol = 4502,
    Kicked = 4504,
    Banned = 4505,
    Replaced = 4506,
    TooManyConnections = 4507,
    /// RFC 6455 section 7.4.1: a message too big to take.
    MessageTooBig = 1009,
}

impl CloseCode {
    #[must_use]
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The name used in `bye.code`, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            CloseCode::Draining => "draining",
            CloseCode::Rebalance => "rebalance",
            CloseCode::SlowConsumer => "slow_consumer",
            CloseCode::NoPong => "no_pong",
            CloseCode::Internal => "internal",
            CloseCode::TokenExpired => "token_expired",
            CloseCode::Overloaded => "overloaded",
            CloseCode::Flood => "flood",
            CloseCode::BadToken => "bad_token",
            CloseCode::ProtocolError => "protocol_error",
            CloseCode::UnsupportedSubprotocol => "unsupported_subprotocol",
            CloseCode::Kicked => "kicked",
            CloseCode::Banned => "banned",
            CloseCode::Replaced => "replaced",
            CloseCode::TooManyConnections => "too_many_connections",
            CloseCode::MessageTooBig => "message_too_big",
        }
    }

    /// Whether a client may come back by itself after this close.
    #[must_use]
    pub fn invites_reconnect(self) -> bool {
        (4000..4500).contains(&self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
            assert_eq!(serde_json::to_string(code).expect("serializes"), format!("\"{code}\""));
        }
        assert_eq!(ErrorCode::ALL.len(), 23);
        assert_eq!(ErrorCode::parse("nonsense"), None);
    }

    #[test]
    fn close_codes_say_whether_to_come_back() {
        assert!(CloseCode::Draining.invites_reconnect());
        assert!(!CloseCode::ProtocolError.invites_reconnect());
        assert!(!CloseCode::MessageTooBig.invites_reconnect());
    }
}
