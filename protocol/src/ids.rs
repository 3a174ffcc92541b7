//! Identifiers as newtypes. Text ids are shared (`Arc<str>`), so that handing one to a thousand members
//! copies a pointer.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// Why a text is not a valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {why}")]
pub struct InvalidId {
    what: &'static str,
    why: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text and takes it as an id.
            ///
            /// # Errors
            /// Says which rule of the protocol the text breaks.
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(text).map_err(|why| InvalidId { what: $what, why })?;
                Ok($name(Arc::from(text)))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                $name::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                $name::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// A lobby's id: `[A-Za-z0-9_-]{1,64}`.
    LobbyId,
    "lobby id",
    |text| {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        match text.len() {
            1..=64 if text.bytes().all(good) => Ok(()),
            1..=64 => Err("may hold only A-Z a-z 0-9 _ -"),
            _ => Err("must have 1 to 64 characters"),
        }
    }
);

text_id!(
    /// A user's id, the `sub` of the token: 1 to 128 bytes of UTF-8 without control characters.
    UserId,
    "user id",
    |text| match text.len() {
        1..=128 if text.chars().any(char::is_control) => Err("must not hold control characters"),
        1..=128 => Ok(()),
        _ => Err("must have 1 to 128 bytes"),
    }
);

text_id!(
    /// A lobby node's stable name, for example `node-1`: `[a-z0-9.-]{1,63}`, as a host name.
    NodeName,
    "node name",
    |text| {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        match text.len() {
            1..=63 if text.bytes().all(good) => Ok(()),
            1..=63 => Err("may hold only a-z 0-9 - ."),
            _ => Err("must have 1 to 63 characters"),
        }
    }
);

text_id!(
    /// A session's id, unguessable, given by the broker's ticket.
    SessionId,
    "session id",
    |text| {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        match text.len() {
            1..=48 if text.bytes().all(good) => Ok(()),
            _ => Err("must have 1 to 48 of A-Z a-z 0-9 -"),
        }
    }
);

text_id!(
    /// The client's own key of a command, by which a repeat is recognised: at most 36 bytes of UTF-8.
    Nonce,
    "nonce",
    |text| match text.len() {
        1..=36 => Ok(()),
        _ => Err("must have 1 to 36 bytes"),
    }
);

text_id!(
    /// What a message is about: `chat`, `game`, or an app's own `[a-z0-9_.-]{1,32}`.
    Kind,
    "kind",
    |text| {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
        match text.len() {
            1..=32 if text.bytes().all(good) => Ok(()),
            _ => Err("must match [a-z0-9_.-]{1,32}"),
        }
    }
);

impl SessionId {
    /// A new id: time-ordered, with 74 random bits.
    #[must_use]
    pub fn generate() -> Self {
        SessionId(Arc::from(uuid::Uuid::now_v7().simple().to_string().as_str()))
    }
}

impl Kind {
    pub fn is_chat(&self) -> bool {
        self.as_str() == "chat"
    }

    pub fn is_game(&self) -> bool {
        self.as_str() == "game"
    }
}

/// Generation of a shard's (and so a lobby's) owner; a higher one always wins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// A lobby's gapless event number, from 1; 0 stands before the first event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seq(pub u64);

impl Seq {
    /// Saturates: a client may name any number.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0.saturating_add(1))
    }
}

/// One of the fixed number of slices of all lobbies; ownership moves by shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shard(pub u16);

/// One run of a node's process: a restarted node has a new, higher one (Unix microseconds of its start).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// Unix time in milliseconds, as `at` and `now` on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// This many milliseconds later.
    #[must_use]
    pub fn after(self, span: std::time::Duration) -> Millis {
        Millis(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
display_number!(Epoch, Seq, Shard, Incarnation, Millis);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_hold_their_rules() {
        for good in ["a", "lounge", "A_b-9", &"x".repeat(64)] {
            assert!(LobbyId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(LobbyId::new(bad).is_err(), "{bad}");
        }
        for good in ["ann", "Ännchen von Tharau", "🦀", "a b", &"x".repeat(128)] {
            assert!(UserId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a\nb", "a\u{7f}", "a\u{85}b", &"x".repeat(129)] {
            assert!(UserId::new(bad).is_err(), "{bad:?}");
        }
        assert!(Nonce::new(&"é".repeat(18)).is_ok());
        assert!(Nonce::new(&"é".repeat(19)).is_err());
        assert!(Kind::new("game.move-1_a").is_ok());
        assert!(Kind::new("Game").is_err());
        assert!(SessionId::new(SessionId::generate().as_str()).is_ok());
    }
}
