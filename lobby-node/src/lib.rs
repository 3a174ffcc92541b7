//! A lobby node: it holds players' sessions and owns lobbies. Both roles in one process; a session's node and a
//! lobby's owner may differ, and then they talk over a link.

mod audience;
mod backlog;
mod banning;
mod blocks;
mod clock;
mod condition;
mod connection;
mod dial;
mod drain;
mod lease;
mod level;
mod limiter;
mod listener;
mod load;
mod lobby;
mod lookout;
mod metrics;
mod node;
mod outbox;
mod progress;
mod seam;
mod search;
mod secret;
mod session;
mod standing;
mod status;
mod wire;
mod worker;

pub mod echo;

pub use clock::Clock;
pub use connection::Socket;
pub use dial::{Dial, Terms};
pub use node::{Announcer, LobbyNode, NodeConfig, NodeHandle, Passenger, Threads};
pub use status::{LinkReport, NodeStatus, Observer, Operator, ShardReport, ShardState};
