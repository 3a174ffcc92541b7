//! Who is alive, who owns what, how nodes talk, and the fenced journal. Over Redis it is a real deployment's; the
//! embedded parts keep all of it in one process, and are also the simulation, because they can be told to fail.

pub mod directory;
pub mod embedded;
pub mod journal;
pub mod link;
mod redis;
pub mod relay;
pub mod view;

pub use directory::Directory;
pub use embedded::Embedded;
pub use journal::Journal;
pub use redis::{ConnectError, Redis, Survey};
pub use relay::Relay;
pub use view::View;

pub(crate) fn placement_shards() -> usize {
    usize::from(mlms_protocol::placement::SHARD_COUNT)
}

/// The part of the cluster that was asked is out of reach; asking again later may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is out of reach")]
pub struct Unavailable(pub &'static str);
