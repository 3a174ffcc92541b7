//! The limits of a deployment: one name each, the same in `welcome.limits`, in the configuration file and as
//! `MLMS_LIMIT_<NAME>` in the environment. Rates are per session; 0 turns a rate limit off.

use serde::{Deserialize, Serialize};

/// Every limit a player's client can meet, with the defaults of protocol version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Largest frame accepted from a client, in bytes; above it the close code is 1009.
    pub frame_bytes_max: usize,
    /// Largest chat text, in bytes of UTF-8.
    pub chat_bytes_max: usize,
    /// Lobbies one session may be in at once.
    pub lobbies_per_session_max: usize,
    /// Commands a second and session, sustained.
    pub commands_per_s: u32,
    /// Commands a session may send at once after a pause.
    pub commands_burst: u32,
    /// Chat messages a second and session, sustained.
    pub chats_per_s: u32,
    /// Chat messages a session may send at once after a pause.
    pub chats_burst: u32,
    /// Joins a second and session; `lobbies_per_session_max` of them may come at once.
    pub joins_per_s: u32,
    /// Lobbies one user may create in a minute, per node.
    pub creates_per_minute: u32,
    /// Bytes that may wait for one slow connection before it is closed with 4002.
    pub outbox_bytes_max: usize,
    /// Sessions of one user; a further one closes the oldest with 4506. 0: no limit.
    pub sessions_per_user_max: usize,
    /// Connections from one client address at one broker. 0: no limit.
    pub connections_per_address_max: usize,
    /// Members of one lobby, unless its settings say less.
    pub members_per_lobby_max: usize,
    /// Events of one lobby kept in memory for resuming.
    pub resume_events_max: usize,
    /// Age up to which events are kept in memory for resuming, in seconds.
    pub resume_seconds_max: u64,
    /// Bytes of events of one lobby kept in memory for resuming.
    pub resume_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            frame_bytes_max: 65_536,
            chat_bytes_max: 4_096,
            lobbies_per_session_max: 100,
            commands_per_s: 50,
            commands_burst: 100,
            chats_per_s: 10,
            chats_burst: 20,
            joins_per_s: 10,
            creates_per_minute: 10,
            outbox_bytes_max: 1_048_576,
            sessions_per_user_max: 5,
            connections_per_address_max: 100,
            members_per_lobby_max: 1_000,
            resume_events_max: 1_000,
            resume_seconds_max: 600,
            resume_bytes_max: 1_048_576,
        }
    }
}
