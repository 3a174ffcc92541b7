//! Who is alive, who owns what, how nodes talk, and the fenced journal. The embedded parts keep all of it in
//! one process; they are also the simulation, because they can be told to fail.

pub mod directory;
pub mod embedded;
pub mod journal;
pub mod link;
pub mod relay;
pub mod view;

pub use directory::Directory;
pub use embedded::Embedded;
pub use journal::Journal;
pub use view::View;

pub(crate) fn placement_shards() -> usize {
    usize::from(mlms_protocol::placement::SHARD_COUNT)
}

/// The part of the cluster that was asked is out of reach; asking again later may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is out of reach")]
pub struct Unavailable(pub &'static str);
