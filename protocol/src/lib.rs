//! What two processes must agree on: ids, frames, codes, events, placement, tickets. Pure: no I/O, no clock.

pub mod body;
pub mod code;
pub mod command;
pub mod encoding;
pub mod event;
pub mod fields;
pub mod ids;
pub mod limits;
pub mod lobby;
mod msgpack;
pub mod placement;
pub mod reply;
pub mod ticket;
pub mod trace;
pub mod writer;

pub use body::Body;
pub use code::{Class, CloseCode, ErrorCode, JoinStatus, MemberRole, NoticeCode, Reconnect, Role};
pub use command::{Command, LobbyCommand, Request};
pub use encoding::Encoding;
pub use event::{Change, Event, LobbyEvent};
pub use ids::{Epoch, Incarnation, Kind, LobbyId, Millis, NodeName, Nonce, Seq, SessionId, Shard, UserId};
pub use limits::Limits;
pub use reply::{Answer, Refusal, ServerFrame};
pub use trace::TraceParent;

/// The AsyncAPI document of the socket and the domain events; a test holds it against the golden frames.
pub const ASYNCAPI: &str = include_str!("../asyncapi.json");
